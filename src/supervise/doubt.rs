//! Whether what happened was meant for all: a failure that a stop, which comes a moment later, may explain.

use super::Event;
use crate::moment::Moment;

/// A worker died of a signal that would stop this run, or the job was closed elsewhere: until then what happened since
/// waits for a stop that explains it. Then it is as if it had happened only now.
#[derive(Debug)]
pub struct Doubt {
    pub until: Moment,
    pub held: Vec<Event>,
}

impl Doubt {
    /// Whether an event changes nothing before the doubt is over; what is held back is kept.
    pub fn holds(&mut self, event: Event) -> bool {
        match event {
            Event::Born => true,
            // The first tells enough, as who is alive is counted.
            Event::Exited { .. } => {
                if !self.held.iter().any(|held| matches!(held, Event::Exited { .. })) {
                    self.held.push(event);
                }
                true
            }
            // Of the job, which others may have stopped; or of no consequence without a stop.
            Event::RoundOver
            | Event::JobFailed
            | Event::JobClosed
            | Event::JobSucceeded
            | Event::AgentFailed
            | Event::Answered
            | Event::Hurry => {
                self.held.push(event);
                true
            }
            _ => false,
        }
    }
}
