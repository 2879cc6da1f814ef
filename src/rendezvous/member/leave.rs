//! How an agent leaves a rendezvous: what it tells the others, and who leads then.

use std::time::{Duration, Instant};

use super::{Part, Stage, done_key};
use crate::error::Error;
use crate::rendezvous::backend::beat_key;
use crate::rendezvous::state::Message;
use crate::spec::Level;

impl Part {
    /// The last words, and the end.
    pub(super) fn go(&mut self, reason: String, signal: Option<i32>, linger: Duration) {
        if !self.has_ended() && self.chain.is_some() {
            // The job does not outlive the place, nor one of a given set of nodes.
            let ends_all = (self.backend.serves() || self.settings.rules.fixed) && !self.is_done;
            let id = self.node.id.clone();
            self.outbox.push_back(match (ends_all, signal) {
                (true, Some(signal)) => Message::Stopped { host: self.node.name.clone(), signal },
                (true, None) => Message::Close { reason: format!("{}: {reason}", self.node.name) },
                (false, _) => Message::Leave { id, reason },
            });
            let said = self.say_last_words().and_then(|()| self.name_missing());
            if let Err(error) = said {
                self.log(Level::Warning, format!("the others were not told of the leave: {error}"));
            }
        }
        if !self.has_ended() && self.chain.is_some() {
            let _ = self.backend.delete(&beat_key(&self.node.id));
        }
        self.backend.leave(Instant::now() + linger);
    }

    fn say_last_words(&mut self) -> Result<(), Error> {
        self.say()?;
        self.lead()?;
        if let (false, Some(leader)) = (self.has_ended(), &mut self.leader) {
            leader.hand_over();
            self.publish()?;
        }
        Ok(())
    }

    /// Who leaves the exit barrier early says who has not come.
    fn name_missing(&mut self) -> Result<(), Error> {
        let (Stage::In { round }, true, Some(chain)) = (self.stage, self.is_done, &self.chain) else {
            return Ok(());
        };
        let mut missing = Vec::new();
        for (rank, node) in chain.state.nodes.clone().into_iter().enumerate() {
            if self.backend.get(&done_key(round, &node.id))?.is_none() {
                missing.push(format!("group rank {rank}: {}", node.name));
            }
        }
        if !missing.is_empty() && !self.has_ended() {
            let text = format!("the exit barrier was left before these had come: {}", missing.join("; "));
            self.log(Level::Warning, text);
        }
        Ok(())
    }
}
