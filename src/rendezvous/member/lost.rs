//! A place that is out of reach: for how long that may be so, and what is known of the job when it was too long.

use std::time::Duration;

use super::{Notice, Part, Settings, Stage};
use crate::error::Error;
use crate::rendezvous::roll;
use crate::rendezvous::state::{Ending, Node, Phase, State, Why};
use crate::sys::process::monotonic;

/// How long a place that nobody serves any more is waited for.
const DESERTED_AFTER: Duration = Duration::from_secs(5);

impl Part {
    /// What to say if the place is out of reach for longer than it may be, since its last answer.
    pub(super) fn is_too_long(&self, why: &Error) -> Option<Error> {
        let now = monotonic();
        let waited = now.saturating_sub(self.answered);
        if let Some(host) = self.nodes.iter().find(|node| node.has_place)
            && waited >= DESERTED_AFTER.min(self.settings.options.lost_timeout)
            && self.backend.is_deserted()
        {
            let what = format!("lost rendezvous: {}, which served it, is gone: {why}", host.name);
            return Some(Error::Rendezvous { what: self.in_doubt(what) });
        }
        if let Stage::Joining { until: Some(until), .. } = self.stage {
            return (until <= now).then(|| self.joins_no_more(&format!("it was not reached: {why}")));
        }
        let limit = match self.stage {
            // All is well here: whoever served the others is as good as gone.
            Stage::In { .. } if self.is_done => self.settings.rules.dead_after,
            _ => self.settings.options.lost_timeout,
        };
        let what = format!("lost rendezvous: not reached for {waited:.1?}: {why}");
        (waited >= limit).then(|| Error::Rendezvous { what: self.in_doubt(what) })
    }

    /// Of a host whose workers have succeeded, that this is not known of the others.
    fn in_doubt(&self, what: String) -> String {
        if !self.is_done {
            return what;
        }
        let is_open = |node: &&Node| node.id != self.node.id && !self.done.contains(&node.id);
        let others = self.nodes.iter().filter(is_open);
        let others = roll::names(others.map(|node| node.name.clone()));
        format!("it is not known whether the job has succeeded, as nothing is known of {others}: {what}")
    }

    /// There is another chain of states. Where the place was lost with a node that served it, and that node is there again, as
    /// another process, it is this job's: it goes on with the next round.
    pub(super) fn begin_anew(&mut self, state: &State) -> Result<(), Error> {
        let host = self.nodes.iter().find(|node| node.has_place).map(|node| node.name.clone());
        // One that has begun again, or in which others of the round are already.
        let is_new = matches!((&state.phase, &state.why), (Phase::Gathering, Why::First));
        let goes_on = !matches!(state.phase, Phase::Ended(_)) && state.round >= self.from_round;
        // Any job may be called so.
        let is_named = self.settings.run_id != "none";
        let Some(host) = host.filter(|_| is_named && (is_new || goes_on)) else {
            return Err(Error::Store { what: "there is another job under the same run id now".into() });
        };
        self.job = Some(state.job.clone());
        (self.outbox, self.left, self.told) = Default::default();
        self.trash.clear();
        match self.stage {
            Stage::In { round } => {
                self.stage = Stage::Idle;
                let why = format!("{host}, which served the store, was lost, and its store is there again");
                self.tell(Notice::Over { round, why });
            }
            Stage::Joining { until, .. } => self.stage = Stage::Joining { until, posted: None },
            Stage::Idle | Stage::Out => {}
        }
        Ok(())
    }

    /// It has waited for a round for as long as it may.
    pub(super) fn joins_no_more(&self, why: &str) -> Error {
        let Settings { options, run_id, .. } = &self.settings;
        let limit = options.join_timeout;
        let what = format!(
            "the time-out passed: no place in the rendezvous of run id {run_id} within {limit:?}; {why}"
        );
        Error::Timeout { what }
    }

    pub(super) fn give_up(&mut self, error: Error) {
        if self.stage != Stage::Out {
            self.stage = Stage::Out;
            self.tell(match self.all_others_are_done() {
                true => Notice::Ended(Ending::Succeeded),
                false => Notice::Failed(error),
            });
        }
    }

    /// The job has succeeded, though nobody may have said so.
    fn all_others_are_done(&self) -> bool {
        let mut others = self.nodes.iter().filter(|node| node.id != self.node.id);
        self.is_done && others.all(|node| self.done.contains(&node.id))
    }
}
