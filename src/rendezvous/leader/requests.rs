//! Requests to the workers of all nodes, one after the other: see `rendezvous::request`.

use std::time::Duration;

use super::Leader;
use crate::control::request::RequestKind;
use crate::moment::Moment;
use crate::rendezvous::request::{JobRequest, Progress, Word};
use crate::rendezvous::state::{Phase, State, Why};
use crate::spec::names::stopped_by;

/// How many requests of one node may wait.
const ASKS_OF_ONE: usize = 8;
/// Of how many requests it is remembered at which step all were to act.
const ACTED: usize = 16;
/// How long after the deadline of a request the answers of a node may take to come.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

impl Leader {
    pub(super) fn is_asking(&self) -> bool {
        self.state.request.as_ref().is_some_and(|request| !request.is_over())
    }

    pub(super) fn give_time(&mut self, now: Moment) {
        let request = self.state.request.as_ref().filter(|request| !request.is_over());
        self.request_deadline = request.map(|request| match request.progress {
            Progress::Acting { .. } => now.saturating_add(request.within()).saturating_add(ANSWERS_WITHIN),
            _ => now.saturating_add(request.within()),
        });
    }

    pub(super) fn hear(&mut self, id: &str, round: u64, word: Word, now: Moment) {
        let node = self.state.nodes.iter().find(|node| node.id == id);
        let (Phase::Complete, Some(node)) = (&self.state.phase, node) else { return };
        if round != self.state.round {
            return;
        }
        match (word, &mut self.state.request) {
            (Word::Ask(ask), Some(request)) if request.may_join(id, &ask) => {
                request.join(id, ask);
                self.changed = true;
            }
            (Word::Ask(ask), _) => {
                let asks = self.state.asks.iter().filter(|(node, _)| node == id).count();
                if asks < ASKS_OF_ONE {
                    self.asked.push(now);
                    self.state.asks.push((id.into(), ask));
                }
                self.next_request(now);
            }
            (Word::Resume, _) => {
                self.state.asks.retain(|(_, ask)| ask.kind != RequestKind::Pause);
                self.asked.truncate(self.state.asks.len());
                self.state.resumes = true;
                self.resume();
            }
            (Word::Holds { number, step }, Some(request)) => request.hold(number, id, step),
            (Word::Answers { number, ranks }, Some(request)) if ranks.len() <= node.local_world_size => {
                request.answer(number, id, ranks);
            }
            _ => {}
        }
        self.further_request(now);
    }

    /// Begins the next request that is not too late, once all can know how the one before has ended.
    pub fn next_request(&mut self, now: Moment) {
        if self.is_asking() || self.is_end_untold {
            return;
        }
        // Who has come meanwhile.
        self.admit(now);
        if self.is_asking() {
            return;
        }
        let (id, ask) = loop {
            if self.state.asks.is_empty() {
                return;
            }
            let (id, ask) = self.state.asks.remove(0);
            // Of those that another leader has heard it is not known.
            let since = if self.asked.is_empty() { now } else { self.asked.remove(0) };
            if now.saturating_sub(since) < Duration::from_millis(ask.within_ms) {
                break (id, ask);
            }
            self.changed = true;
        };
        self.state.requests += 1;
        self.state.request = Some(JobRequest::of_ask(self.state.requests, &id, ask));
        self.give_time(now);
        self.changed = true;
    }

    /// What is under way goes on if it can.
    pub(super) fn further_request(&mut self, now: Moment) {
        let State { request, nodes, done, phase, acted, paused_by, .. } = &mut self.state;
        let (Phase::Complete, Some(request)) = (phase, request) else { return };
        let awaited = nodes.iter().map(|node| node.id.as_str());
        if request.is_over() || !request.go_on(awaited.filter(|id| !done.iter().any(|done| done == id))) {
            return;
        }
        self.changed = true;
        if let Progress::Acting { at_step } = request.progress {
            acted.insert(request.number, at_step);
            if acted.len() > ACTED {
                acted.pop_first();
            }
            if request.kind == RequestKind::Pause {
                *paused_by = request.number;
            }
        }
        self.give_time(now);
        if !self.is_asking() {
            self.request_over(now);
        }
    }

    /// It is over: what was to follow follows.
    pub(super) fn request_over(&mut self, now: Moment) {
        (self.request_deadline, self.changed, self.is_end_untold) = (None, true, true);
        self.resume();
        let Some(request) = &mut self.state.request else { return };
        let leaving = std::mem::take(&mut request.leaving);
        let then = request.then.take();
        let nodes = &self.state.nodes;
        let name = |id: &str| nodes.iter().find(|node| node.id == *id).map(|node| node.name.clone());
        let left = leaving.iter().find_map(|(id, signal)| Some((name(id)?, *signal)));
        match left {
            Some((name, signal)) if self.rules.fixed => return self.stopped(name, signal),
            Some((name, signal)) => {
                let text = format!("{name} has left the job: {}", stopped_by(signal));
                request.without.extend(leaving.into_iter().map(|(id, _)| id));
                self.over(Why::Membership(text));
            }
            None => {
                if let Some(why) = then {
                    self.over(why);
                }
            }
        }
        self.settle(now);
    }

    /// Ends a pause, unless something is asked for: that is to find all ranks paused, or none.
    pub(super) fn resume(&mut self) {
        if !self.is_asking() && std::mem::take(&mut self.state.resumes) {
            self.changed |= std::mem::take(&mut self.state.paused_by) != 0;
        }
    }

    /// What was asked for is over with the round.
    pub(super) fn end_requests(&mut self) {
        self.state.request.iter_mut().for_each(JobRequest::give_up);
        self.state.asks.clear();
        self.asked.clear();
        self.state.resumes = false;
        self.state.acted.clear();
        (self.state.paused_by, self.request_deadline) = (0, None);
    }
}
