//! What a state of the chain means to the agent of this node.

use super::{Chain, Notice, Part, Round, Stage, done_key};
use crate::error::Error;
use crate::rendezvous::leader::Rules;
use crate::rendezvous::request::{JobRequest, View};
use crate::rendezvous::state::{Ending, Node, Phase};
use crate::spec::Level;
use crate::spec::names::stopped_by;
use crate::sys::process::monotonic;

impl Part {
    /// What the state means to the agent.
    pub(super) fn judge(&mut self) {
        *self.shared.state.lock() = self.leader.as_ref().map(|leader| leader.state().clone());
        if let Some(view) = self.requested() {
            self.tell(Notice::Requested(view));
        }
        let Some(Chain { state, .. }) = &self.chain else { return };
        if self.stage == Stage::Out {
            return;
        }
        // Its agent waits for no word of this any more, but people read why it was.
        if let Some(round) = self.left.filter(|round| state.round != *round) {
            let text = format!("round {round} is over: {}", state.why.text());
            self.left = None;
            self.log(Level::Info, text);
            return self.judge();
        }
        let id = &self.node.id;
        let place = |nodes: &[Node]| nodes.iter().position(|node| node.id == *id);
        if let Some((_, reason)) = state.refused.iter().find(|(refused, _)| refused == id) {
            let error = Error::config("node_rank", self.node.order.unwrap_or(0), reason.clone());
            return self.give_up(error);
        }
        if let Some(why) = state.left_out.get(id) {
            let what = format!("this host is {why}");
            return self.give_up(Error::Rendezvous { what });
        }
        if let Phase::Ended(ending) = &state.phase {
            let takes_part = place(&state.nodes).or(place(&state.joined)).is_some();
            let is_spare = place(&state.spares).is_some();
            // It has been in a round, and is not expected back as it is stopped.
            let has_left = self.stage == Stage::Idle && self.from_round > 0;
            let was_heard =
                matches!(self.stage, Stage::Joining { posted: Some(posted), .. } if posted < state.taken);
            let notice = match ending {
                Ending::Succeeded if takes_part => Notice::Ended(ending.clone()),
                Ending::Succeeded if is_spare => Notice::NotNeeded,
                Ending::Closed { .. } | Ending::Stopped { .. }
                    if takes_part || is_spare || was_heard || has_left =>
                {
                    Notice::Ended(ending.clone())
                }
                Ending::Succeeded => self.closed("its job has succeeded"),
                Ending::Closed { reason, .. } => self.closed(reason),
                Ending::Stopped { host, signal } => {
                    self.closed(&format!("{} at {host}", stopped_by(*signal)))
                }
            };
            self.stage = Stage::Out;
            return self.tell(notice);
        }
        // What ends the last round may not have been heard yet.
        let is_complete = state.phase == Phase::Complete && state.round >= self.from_round;
        let (group_rank, is_spare) = (place(&state.nodes), place(&state.spares).is_some());
        match (self.stage, group_rank.filter(|_| is_complete)) {
            (Stage::Joining { .. }, Some(group_rank)) => {
                let round = Round {
                    number: state.round,
                    restarts: state.restarts,
                    nodes: state.nodes.clone(),
                    group_rank,
                    shared_port: self.backend.shared_port(),
                };
                (self.nodes, self.done) = (state.nodes.clone(), Vec::new());
                self.node.restarts = state.restarts;
                self.stage = Stage::In { round: state.round };
                let is_first = std::mem::replace(&mut self.from_round, state.round + 1) == 0;
                if is_first {
                    self.note_stranger();
                }
                self.tell(Notice::Joined(Box::new(round)));
                // What its workers are asked for already.
                self.judge();
            }
            (Stage::Joining { until, posted }, None) if is_complete && is_spare => {
                self.stage = Stage::Joining { until: None, posted };
                let count = state.nodes.len();
                if until.is_some() {
                    let flaps = state.flaps.get(self.node.host()).copied().unwrap_or(0);
                    let why = match flaps {
                        0 => String::new(),
                        _ => format!(", for longer than others as this host has come and gone {flaps} times"),
                    };
                    let text = format!("a spare: the job has its {count} nodes, waiting for a place{why}");
                    // Where nobody has asked for spares there is one host too many.
                    let Rules { min_nodes, max_nodes, .. } = self.settings.rules;
                    self.log(if min_nodes == max_nodes { Level::Warning } else { Level::Info }, text);
                }
            }
            (Stage::Joining { until: Some(until), .. }, None) if until <= monotonic() => {
                let Rules { min_nodes, .. } = self.settings.rules;
                let why = format!("fewer than {min_nodes} nodes have joined, or not all that were expected");
                self.give_up(self.joins_no_more(&why));
            }
            // Spares are waited for without a limit, but in a round that gathers all have one.
            (Stage::Joining { until: None, posted }, None) => {
                let until = Some(monotonic() + self.settings.options.join_timeout);
                self.stage = Stage::Joining { until, posted };
            }
            (Stage::In { round }, _) if state.round != round => {
                let why = state.why.text().to_string();
                if self.is_done {
                    self.trash.push_back(done_key(round, id));
                }
                self.stage = Stage::Idle;
                self.tell(Notice::Over { round, why });
            }
            _ => {}
        }
    }

    /// A store at this host that no agent of the job serves is another job's, most likely: both may not know.
    fn note_stranger(&mut self) {
        let has_own = self.nodes.iter().any(|node| node.has_place);
        if let (Some(place), false) = (self.backend.served_by_another(), has_own) {
            let text = format!(
                "the store at {place} is served by a process that is not of this job, another job's agent, say: it ends this \
                 job when it ends; another port makes this one independent of it"
            );
            self.log(Level::Warning, text);
        }
    }

    /// What workers of the round are asked for, if the agent has not heard of it.
    fn requested(&mut self) -> Option<View> {
        let (Some(Chain { state, .. }), Stage::In { round }) = (&self.chain, self.stage) else { return None };
        let request = state.request.as_ref();
        if state.round == round {
            self.done.clone_from(&state.done);
        }
        let is_ours = state.round == round || request.is_some_and(JobRequest::is_over);
        let told = (
            request.map_or(0, |request| request.number),
            request.map(|request| request.progress),
            state.paused_by != 0,
        );
        if !is_ours || told == self.told {
            return None;
        }
        self.told = told;
        Some(View::of(&self.node.id, state, &self.nodes))
    }

    fn closed(&self, why: &str) -> Notice {
        let run_id = &self.settings.run_id;
        Notice::Failed(Error::Rendezvous {
            what: format!("the rendezvous of run id {run_id} is closed: {why}"),
        })
    }
}
