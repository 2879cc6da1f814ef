//! The leader's part of a rendezvous as a machine: messages, signs of life and time in, the next state out. No
//! store and no clock.
//!
//! ```text
//!                 max nodes; or all that were expected are back;
//!                 or min nodes, and the last call is over
//!   Gathering ------------------------------------------------> Complete ---> Ended(Succeeded)
//!       ^                                                          |   all nodes are done
//!       +----------------------------------------------------------+
//!          round + 1: a worker failed, a node left, vanished or came     no restart left, Close: Ended(Closed)
//! ```
//!
//! Requests to the workers of all nodes come one after the other: see `request`.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::request::JobRequest;
use super::state::{Ending, Message, Node, Phase, State, Why};
use crate::control::request::{Reason, RequestKind};
use crate::moment::Moment;
use crate::report::exit_status::Exit;

mod flaps;
mod requests;
#[cfg(test)]
mod tests;

/// In a round of up to so many nodes all are told of each that is done: if the place is lost they know whether the job
/// has succeeded. More would cost too much.
const TOLD_OF_EACH: usize = 32;
/// More than any job has: what a node says of rounds before is believed up to here.
const MOST_ROUNDS: u64 = 1 << 30;
/// How many refusals are remembered.
const REFUSED: usize = 16;

/// What the leader goes by. All agents of a job are given the same.
#[derive(Clone, Debug, PartialEq)]
pub struct Rules {
    pub min_nodes: usize,
    pub max_nodes: usize,
    /// The set of nodes is fixed: each has a node rank of its own, and none joins or is replaced once the job runs.
    pub fixed: bool,
    /// How long a round waits for further nodes once it has `min_nodes`.
    pub last_call: Duration,
    /// A node without a heartbeat for so long counts as vanished.
    pub dead_after: Duration,
    /// The same for one whose way to the place has ended.
    pub reconnect: Duration,
    /// How often the job may be restarted.
    pub max_restarts: u32,
    /// How often workers of one node may fail before it is left out; 0 for any number.
    pub max_host_failures: u32,
    /// How long workers have to save before nodes that come or go change the group; zero if they are not asked to.
    pub save_before_change: Duration,
}

/// By what it is known that a node is there no longer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Missed {
    /// No heartbeat for too long.
    Silent,
    /// Its way to the place has ended.
    Lost,
}

/// The last sign of life of a node.
#[derive(Clone, Copy)]
struct Pulse {
    counter: Option<u64>,
    /// When it was another one.
    since: Moment,
    /// How long it may be the same.
    limit: Duration,
    /// When its way to the place has ended, if it has not come back since.
    lost: Option<Moment>,
}

impl Pulse {
    /// When it is missed if nothing is seen of it, and why then. `reconnect`: how long its way to the place may be away.
    fn due(&self, reconnect: Duration) -> (Moment, Missed) {
        let silent = (self.since.saturating_add(self.limit), Missed::Silent);
        let lost = self.lost.map(|lost| (lost.saturating_add(reconnect), Missed::Lost));
        lost.filter(|lost| lost.0 < silent.0).unwrap_or(silent)
    }
}

#[derive(Clone)]
pub struct Leader {
    rules: Rules,
    me: String,
    state: State,
    /// When the last call is over.
    deadline: Option<Moment>,
    /// When the request that is under way is given up.
    request_deadline: Option<Moment>,
    /// How the last request has ended is not published.
    is_end_untold: bool,
    /// When those that wait were heard.
    asked: Vec<Moment>,
    pulses: HashMap<String, Pulse>,
    /// Since when those are there who have come to a job that was there, by id.
    since: HashMap<String, Moment>,
    /// Until when nodes wait for a place whose hosts have come and gone again and again.
    waiting: HashMap<String, Moment>,
    changed: bool,
}

impl Leader {
    /// `state`: the last one, whoever led then.
    pub fn new(rules: Rules, me: &str, state: State, now: Moment) -> Leader {
        let changed = state.leader.as_deref() != Some(me);
        let state = State { leader: Some(me.into()), ..state };
        let mut leader = Leader {
            rules,
            me: me.into(),
            state,
            deadline: None,
            request_deadline: None,
            is_end_untold: false,
            asked: Vec::new(),
            pulses: HashMap::new(),
            since: HashMap::new(),
            waiting: HashMap::new(),
            changed,
        };
        leader.state.spares.clone().iter().for_each(|spare| leader.greet(spare, now));
        leader.listen(now);
        leader.give_time(now);
        leader.settle(now);
        leader
    }

    /// As far as the leader knows, which is more than it has published.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The number of the message that is due.
    pub fn taken(&self) -> u64 {
        self.state.taken
    }

    /// The next link of the chain, if there is something to tell. It is told.
    pub fn publish(&mut self) -> Option<State> {
        let state = std::mem::take(&mut self.changed).then(|| self.state.clone());
        self.is_end_untold &= state.is_none();
        state
    }

    /// Whose signs of life count.
    pub fn watched(&self) -> impl Iterator<Item = &str> {
        self.pulses.keys().map(String::as_str)
    }

    /// When `tick` is due.
    pub fn deadline(&self) -> Option<Moment> {
        let missed = self.pulses.values().map(|pulse| pulse.due(self.rules.reconnect).0);
        let waits = self.waiting.values().copied();
        self.deadline.into_iter().chain(self.request_deadline).chain(missed).chain(waits).min()
    }

    /// The message that is due. It says who it is from; nothing else is believed of it.
    pub fn receive(&mut self, message: Message, now: Moment) {
        let number = self.state.taken;
        self.state.taken += 1;
        match message {
            Message::Join(node) => self.join(node, number + 1, now),
            Message::Failed { id, round, reason, exit, last } => {
                self.failed(&id, round, reason, exit, last, now)
            }
            Message::Done { id, round } => self.done(id, round, now),
            Message::Request { id, round, word } => self.hear(&id, round, word, now),
            Message::Leave { id, reason } => {
                self.remove(&id, |name| format!("{name} has left the job: {reason}"), now)
            }
            Message::Unfit { id, reason } => self.unfit(&id, reason, now),
            Message::Close { reason } => self.close(reason, Exit::default()),
            Message::Stopped { host, signal } => self.stopped(host, signal),
            Message::Lost { id, beat } => self.lost(&id, beat, now),
            Message::Void => {}
        }
    }

    /// A node's way to the place has ended; its heartbeat was this one then.
    pub fn lost(&mut self, id: &str, beat: u64, now: Moment) {
        if let Some(pulse) = self.pulses.get_mut(id)
            && pulse.counter.is_none_or(|counter| counter <= beat)
        {
            (pulse.counter, pulse.lost) = (Some(beat), Some(now));
        }
    }

    /// Those who are missed now, unless their heartbeats say that they have come back.
    pub fn doubted(&self, now: Moment) -> impl Iterator<Item = &str> {
        self.missed(now).filter(|(_, missed)| *missed == Missed::Lost).map(|(id, _)| id)
    }

    /// Those of whom nothing was seen for too long.
    fn missed(&self, now: Moment) -> impl Iterator<Item = (&str, Missed)> {
        let missed = move |(id, pulse): (_, &Pulse)| {
            let (due, missed) = pulse.due(self.rules.reconnect);
            (due <= now).then_some((id, missed))
        };
        self.pulses.iter().map(|(id, pulse)| (id.as_str(), pulse)).filter_map(missed)
    }

    /// What a node's counter says now.
    pub fn saw(&mut self, id: &str, counter: u64, now: Moment) {
        if let Some(pulse) = self.pulses.get_mut(id)
            && pulse.counter != Some(counter)
        {
            *pulse = Pulse { counter: Some(counter), since: now, lost: None, ..*pulse };
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Moment) {
        let missed = self.missed(now).map(|(id, missed)| (id.to_string(), missed));
        for (id, missed) in missed.collect::<Vec<_>>() {
            self.miss(&id, missed, now);
        }
        if self.request_deadline.is_some_and(|deadline| deadline <= now)
            && let Some(request) = &mut self.state.request
        {
            request.give_up();
            self.request_over(now);
        }
        self.end_waits(now);
        self.settle(now);
    }

    /// A node is there no longer.
    pub fn miss(&mut self, id: &str, missed: Missed, now: Moment) {
        let why = match missed {
            Missed::Silent => {
                let limit = self.pulses.get(id).map_or(self.rules.dead_after, |pulse| pulse.limit);
                format!("no sign of it for {limit:?}")
            }
            Missed::Lost => {
                let limit = self.rules.reconnect;
                format!("its connection has ended, and it has not come back within {limit:?}")
            }
        };
        self.note_gone(id, now);
        self.remove(id, |name| format!("{name} has vanished: {why}"), now);
    }

    /// This agent stood still for so long: nodes are given the time to beat again, and to join.
    pub fn give_back(&mut self, lost: Duration, now: Moment) {
        for pulse in self.pulses.values_mut() {
            (pulse.since, pulse.lost) = (now, pulse.lost.map(|_| now));
        }
        let deadlines = [&mut self.deadline, &mut self.request_deadline].into_iter().flatten();
        for deadline in deadlines.chain(self.waiting.values_mut()) {
            *deadline = deadline.saturating_add(lost);
        }
    }

    /// Leads no longer: somebody who is there does, or else who comes next.
    pub fn hand_over(&mut self) {
        let others = self.state.nodes.iter().chain(&self.state.joined).chain(&self.state.spares);
        let next =
            others.filter(|node| self.pulses.contains_key(&node.id)).map(|node| node.id.clone()).next();
        self.state.leader = next;
        self.changed = true;
    }

    fn join(&mut self, mut node: Node, seniority: u64, now: Moment) {
        if self.state.left_out.contains_key(&node.id) {
            return;
        }
        let known = self.state.nodes.iter().chain(&self.state.spares).find(|known| known.id == node.id);
        node.seniority = known.map_or(seniority, |known| known.seniority);
        self.greet(&node, now);
        if let (Phase::Gathering, Why::First) = (&self.state.phase, &self.state.why) {
            self.state.round = self.state.round.max(node.from_round.min(MOST_ROUNDS));
            self.state.restarts = self.state.restarts.max(node.restarts.min(self.rules.max_restarts));
        }
        match self.state.phase {
            Phase::Gathering => {
                if let Some(reason) = self.conflict(&node) {
                    return match self.state.why {
                        Why::First => self.close(reason, Exit::default()),
                        _ => self.refuse(&node.id, reason),
                    };
                }
                self.state.spares.retain(|spare| spare.id != node.id);
                self.state.joined.retain(|other| other.id != node.id);
                let list =
                    if self.is_welcome(&node) { &mut self.state.joined } else { &mut self.state.spares };
                list.push(node);
            }
            // Said twice.
            Phase::Complete if self.state.nodes.iter().any(|known| known.id == node.id) => {}
            Phase::Complete if self.rules.fixed => {
                self.refuse(&node.id, "the job has all its nodes already".into());
            }
            Phase::Complete => {
                self.state.spares.retain(|spare| spare.id != node.id);
                self.state.spares.push(node);
                self.changed = true;
                self.admit(now);
            }
            Phase::Ended(_) => {}
        }
        self.listen(now);
        self.settle(now);
    }

    /// Why this node cannot stand where it wants to.
    fn conflict(&self, node: &Node) -> Option<String> {
        let order = node.order.filter(|_| self.rules.fixed)?;
        if order >= self.rules.max_nodes as u64 {
            let most = self.rules.max_nodes;
            return Some(format!("{} has node rank {order}, but there are only {most} nodes", node.name));
        }
        let other =
            self.state.joined.iter().find(|other| other.order == Some(order) && other.id != node.id)?;
        Some(format!("node rank {order} was given to {} and to {}", other.name, node.name))
    }

    fn refuse(&mut self, id: &str, reason: String) {
        if self.state.refused.len() == REFUSED {
            self.state.refused.remove(0);
        }
        self.state.refused.push((id.into(), reason));
        self.changed = true;
    }

    fn failed(&mut self, id: &str, round: u64, reason: String, exit: Exit, last: bool, now: Moment) {
        let takes_part = self.state.nodes.iter().any(|node| node.id == id);
        match self.state.phase {
            Phase::Complete if takes_part && round == self.state.round => {
                let left = self.state.nodes.iter().find(|node| self.state.gone.contains(&node.id));
                let failures = self.state.failures.entry(id.into()).or_default();
                *failures += 1;
                let failures = *failures;
                if (1..=failures).contains(&self.rules.max_host_failures) && self.has_others(id) {
                    self.leave_out(id, &reason, failures, now);
                } else if last || self.state.restarts >= self.rules.max_restarts {
                    self.close(reason, exit);
                } else if let (true, Some(node)) = (self.rules.fixed, left) {
                    let why = format!("{} has succeeded and left, so there is no restart", node.name);
                    self.close(format!("{reason}; {why}"), exit);
                } else {
                    self.state.restarts += 1;
                    self.over(Why::Failure(reason));
                    self.settle(now);
                }
            }
            // Another one failed at the same time, and was heard first.
            Phase::Gathering if last && takes_part && round + 1 == self.state.round => {
                self.close(reason, exit);
            }
            _ => {}
        }
    }

    fn done(&mut self, id: String, round: u64, now: Moment) {
        let takes_part = self.state.nodes.iter().any(|node| node.id == id);
        if self.state.phase != Phase::Complete || round != self.state.round || !takes_part {
            return;
        }
        if !self.state.done.contains(&id) {
            self.state.done.push(id);
            self.changed |= self.state.nodes.len() <= TOLD_OF_EACH;
        }
        if self.state.done.len() == self.state.nodes.len() {
            self.end(Ending::Succeeded);
        }
        self.further_request(now);
    }

    /// A node is there no longer.
    fn remove(&mut self, id: &str, reason: impl FnOnce(&str) -> String, now: Moment) {
        self.pulses.remove(id);
        self.waiting.remove(id);
        self.since.remove(id);
        let State { spares, joined, nodes, done, .. } = &mut self.state;
        spares.retain(|node| node.id != id);
        joined.retain(|node| node.id != id);
        // One that is done is missed by nobody.
        let is_done = done.iter().any(|done| done == id);
        let Some(at) = nodes.iter().position(|node| node.id == id) else { return self.settle(now) };
        let reason = reason(&nodes[at].name);
        match self.state.phase {
            Phase::Complete if is_done => self.state.gone.push(id.into()),
            Phase::Complete | Phase::Gathering if self.rules.fixed => self.close(reason, Exit::default()),
            Phase::Complete => self.change(Why::Membership(reason), Some(id), now),
            Phase::Gathering => {
                self.state.nodes.remove(at);
                self.settle(now);
            }
            Phase::Ended(_) => {}
        }
    }

    /// The group changes, once its workers have saved if they are to. `without`: a node that is there no longer.
    fn change(&mut self, why: Why, without: Option<&str>, now: Moment) {
        let time = self.rules.save_before_change;
        if self.is_end_untold && without.is_none() {
            // `next_request` looks for it.
            return;
        }
        if time.is_zero() || self.is_end_untold {
            self.state.nodes.retain(|node| without != Some(&node.id));
            self.over(why);
            return self.settle(now);
        }
        if !self.is_asking() {
            self.state.requests += 1;
            let number = self.state.requests;
            self.state.request = Some(JobRequest::new(number, RequestKind::Save, Reason::Membership, time));
            self.give_time(now);
        }
        if let Some(request) = &mut self.state.request {
            request.then.get_or_insert(why);
            request.without.extend(without.map(String::from));
        }
        self.changed = true;
        self.further_request(now);
    }

    /// It takes part in no further round.
    fn drop_node(&mut self, id: &str) {
        self.pulses.remove(id);
        self.state.nodes.retain(|node| node.id != id);
    }

    /// The next round begins.
    fn over(&mut self, why: Why) {
        // They were gone before, or go with it.
        let without = self.state.request.iter_mut().flat_map(|request| std::mem::take(&mut request.without));
        for id in without.collect::<Vec<_>>() {
            self.drop_node(&id);
        }
        self.end_requests();
        let gone = std::mem::take(&mut self.state.gone);
        self.state.nodes.retain(|node| !gone.contains(&node.id));
        self.state.phase = Phase::Gathering;
        self.state.round += 1;
        self.state.why = why;
        self.state.done.clear();
        self.deadline = None;
        self.changed = true;
    }

    fn close(&mut self, reason: String, exit: Exit) {
        self.end(Ending::Closed { reason, exit });
    }

    /// A node that cannot start its workers, say, is left out if there are enough others.
    fn unfit(&mut self, id: &str, reason: String, now: Moment) {
        if !self.has_others(id) {
            return self.close(reason, Exit::default());
        }
        self.note_gone(id, now);
        self.remove(id, |_| reason, now);
    }

    /// Whether there are enough nodes without this one.
    fn has_others(&self, id: &str) -> bool {
        let State { nodes, joined, spares, .. } = &self.state;
        let all = nodes.iter().chain(joined).chain(spares).map(|node| &*node.id);
        let others: BTreeSet<&str> = all.filter(|other| *other != id).collect();
        !self.rules.fixed && others.len() >= self.rules.min_nodes
    }

    /// The workers of a node have failed too often. That was no fault of the others: no restart is counted.
    fn leave_out(&mut self, id: &str, reason: &str, failures: u32, now: Moment) {
        let why = format!("left out, as its workers have failed {failures} times: {reason}");
        self.state.left_out.insert(id.into(), why.clone());
        self.drop_node(id);
        self.over(Why::Membership(format!("a host is {why}")));
        self.settle(now);
    }

    fn stopped(&mut self, host: String, signal: i32) {
        let signal = if is_signal(signal) { signal } else { 0 };
        self.end(Ending::Stopped { host, signal });
    }

    fn end(&mut self, ending: Ending) {
        if !matches!(self.state.phase, Phase::Ended(_)) {
            self.end_requests();
            self.state.phase = Phase::Ended(ending);
            self.deadline = None;
            self.changed = true;
        }
    }

    /// Completes the round when it can be, and begins the last call when there are enough.
    fn settle(&mut self, now: Moment) {
        if self.state.phase != Phase::Gathering {
            return;
        }
        let Rules { min_nodes, max_nodes, last_call, .. } = self.rules;
        let State { nodes, joined, spares, .. } = &self.state;
        let has_joined = |node: &Node| joined.iter().any(|other| other.id == node.id);
        // Nobody joins twice: of many nodes the last one alone is worth a closer look.
        let missing = joined.len() < nodes.len() || nodes.iter().any(|node| !has_joined(node));
        // Those that have to wait are taken where there are too few without them.
        let welcome = joined.len() + spares.iter().filter(|spare| self.is_welcome(spare)).count();
        let count = welcome.max((joined.len() + spares.len()).min(min_nodes)).min(max_nodes);
        // All that were there before: who else comes has come in time, but is not waited for.
        let enough_as_before = !nodes.is_empty() && nodes.len() + spares.len() >= min_nodes;
        if missing || count < min_nodes {
            self.deadline = None;
            return;
        }
        if count == max_nodes || enough_as_before {
            return self.complete(now);
        }
        if *self.deadline.get_or_insert(now + last_call) <= now {
            self.complete(now);
        }
    }

    fn complete(&mut self, now: Moment) {
        let Rules { min_nodes, max_nodes, .. } = self.rules;
        let before: Vec<String> = self.state.nodes.iter().map(|node| node.id.clone()).collect();
        let mut nodes = std::mem::take(&mut self.state.joined);
        // Who was there before comes first, if there are too many.
        nodes.sort_by_key(|node| node.seniority);
        let spares = std::mem::take(&mut self.state.spares);
        let (spares, unwelcome): (Vec<_>, Vec<_>) =
            spares.into_iter().partition(|node| self.is_welcome(node));
        let mut surplus = Vec::new();
        for (more, most) in [(spares, max_nodes), (unwelcome, min_nodes)] {
            let room = most.saturating_sub(nodes.len()).min(more.len());
            nodes.extend_from_slice(&more[..room]);
            surplus.extend_from_slice(&more[room..]);
        }
        surplus.splice(0..0, nodes.split_off(max_nodes.min(nodes.len())));
        self.waiting.retain(|id, _| nodes.iter().all(|node| node.id != *id));
        nodes.sort_by_key(|node| (node.order.is_none(), node.order, node.seniority));
        (self.state.nodes, self.state.spares) = (nodes, surplus);
        self.state.phase = Phase::Complete;
        self.note_newcomers(&before, now);
        self.deadline = None;
        self.changed = true;
    }

    /// Begins to count the time of those that are new.
    fn listen(&mut self, now: Moment) {
        let State { nodes, joined, spares, done, .. } = &self.state;
        let all = nodes.iter().chain(joined).chain(spares);
        for node in all.filter(|node| node.id != self.me && !done.contains(&node.id)) {
            if !self.pulses.contains_key(&node.id) {
                // Those of an agent that beats more rarely than this one are not missed the sooner for it.
                let limit = Duration::from_millis(node.dead_after_ms).max(self.rules.dead_after);
                self.pulses.insert(node.id.clone(), Pulse { counter: None, since: now, limit, lost: None });
            }
        }
    }
}

/// Whether a number from the network may be that of a signal, or 0 for none.
pub fn is_signal(number: i32) -> bool {
    (0..=64).contains(&number)
}
