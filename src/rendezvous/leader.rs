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

use std::collections::HashMap;
use std::time::Duration;

use super::request::{JobRequest, Progress, Word};
use super::state::{Ending, Message, Node, Phase, State, Why};
use crate::control::request::{Kind, Reason};
use crate::moment::Moment;
use crate::report::exit_status::Exit;

/// How many refusals are remembered.
const REFUSED: usize = 16;
/// Of how many requests it is remembered at which step all were to act.
const ACTED: usize = 16;
/// How long after the deadline of a request the answers of a node may take to come.
const ON_THE_WAY: Duration = Duration::from_secs(2);

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
    /// How often the job may be restarted.
    pub max_restarts: u32,
    /// How long workers have to save before nodes that come or go change the group; zero if they are not asked to.
    pub save_before_change: Duration,
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
    /// The last sign of life of each node, and when it was another one.
    pulses: HashMap<String, (Option<u64>, Moment)>,
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
            pulses: HashMap::new(),
            changed,
        };
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
        std::mem::take(&mut self.changed).then(|| self.state.clone())
    }

    /// Whose signs of life count.
    pub fn watched(&self) -> impl Iterator<Item = &str> {
        self.pulses.keys().map(String::as_str)
    }

    /// When `tick` is due.
    pub fn deadline(&self) -> Option<Moment> {
        let dead = self.pulses.values().map(|(_, since)| *since + self.rules.dead_after).min();
        self.deadline.into_iter().chain(self.request_deadline).chain(dead).min()
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
            Message::Close { reason } => self.close(reason, Exit::default()),
            Message::Void => {}
        }
    }

    /// What a node's counter says now.
    pub fn saw(&mut self, id: &str, counter: u64, now: Moment) {
        if let Some((last, since)) = self.pulses.get_mut(id)
            && *last != Some(counter)
        {
            (*last, *since) = (Some(counter), now);
        }
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Moment) {
        let limit = self.rules.dead_after;
        let is_dead = |since: Moment| now.saturating_sub(since) >= limit;
        let dead = self.pulses.iter().filter(|(_, (_, since))| is_dead(*since));
        for id in dead.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.miss(&id, now);
        }
        if self.request_deadline.is_some_and(|deadline| deadline <= now)
            && let Some(request) = &mut self.state.request
        {
            request.give_up();
            self.request_over(now);
        }
        self.settle(now);
    }

    /// A node gave no sign of life for too long.
    pub fn miss(&mut self, id: &str, now: Moment) {
        let limit = self.rules.dead_after;
        self.remove(id, |name| format!("{name} has vanished: no sign of it for {limit:?}"), now);
    }

    /// Nobody could be heard up to now, and for so long nobody could join.
    pub fn give_back(&mut self, lost: Duration, now: Moment) {
        self.pulses.values_mut().for_each(|(_, since)| *since = now);
        for deadline in [&mut self.deadline, &mut self.request_deadline].into_iter().flatten() {
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
        let known = self.state.nodes.iter().chain(&self.state.spares).find(|known| known.id == node.id);
        node.seniority = known.map_or(seniority, |known| known.seniority);
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
                self.state.joined.push(node);
            }
            // Said twice.
            Phase::Complete if self.state.nodes.iter().any(|known| known.id == node.id) => {}
            Phase::Complete if self.rules.fixed => {
                self.refuse(&node.id, "the job has all its nodes already".into());
            }
            Phase::Complete => {
                let name = node.name.clone();
                self.state.spares.retain(|spare| spare.id != node.id);
                self.state.spares.push(node);
                self.changed = true;
                if self.state.nodes.len() < self.rules.max_nodes {
                    self.change(Why::Membership(format!("{name} has come")), None, now);
                }
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
                if last || self.state.restarts >= self.rules.max_restarts {
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
        }
        if self.state.done.len() == self.state.nodes.len() {
            self.end(Ending::Succeeded);
        }
        self.further_request(now);
    }

    /// A node is there no longer.
    fn remove(&mut self, id: &str, reason: impl FnOnce(&str) -> String, now: Moment) {
        self.pulses.remove(id);
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
        if time.is_zero() {
            self.state.nodes.retain(|node| without != Some(&node.id));
            self.over(why);
            return self.settle(now);
        }
        if !self.is_asking() {
            self.state.requests += 1;
            let number = self.state.requests;
            self.state.request = Some(JobRequest::new(number, Kind::Save, Reason::Membership, time));
            self.give_time(now);
        }
        if let Some(request) = &mut self.state.request {
            request.then.get_or_insert(why);
            request.without.extend(without.map(String::from));
        }
        self.changed = true;
        self.further_request(now);
    }

    // ---- requests to the workers of all nodes

    fn is_asking(&self) -> bool {
        self.state.request.as_ref().is_some_and(|request| !request.is_over())
    }

    fn give_time(&mut self, now: Moment) {
        let request = self.state.request.as_ref().filter(|request| !request.is_over());
        self.request_deadline = request.map(|request| match request.progress {
            Progress::Acting { .. } => now.saturating_add(request.within()).saturating_add(ON_THE_WAY),
            _ => now.saturating_add(request.within()),
        });
    }

    fn hear(&mut self, id: &str, round: u64, word: Word, now: Moment) {
        let node = self.state.nodes.iter().find(|node| node.id == id);
        let (Phase::Complete, Some(node)) = (&self.state.phase, node) else { return };
        if round != self.state.round {
            return;
        }
        match (word, &mut self.state.request) {
            (Word::Ask(ask), Some(request)) if !request.is_over() && request.kind == ask.kind => {
                request.join(id, ask);
                self.changed = true;
            }
            (Word::Ask(ask), _) => {
                self.state.asks.push((id.into(), ask));
                self.next_request(now);
            }
            (Word::Resume, _) => self.changed |= std::mem::take(&mut self.state.paused_by) != 0,
            (Word::Holds { number, step }, Some(request)) => request.hold(number, id, step),
            (Word::Answers { number, ranks }, Some(request)) if ranks.len() <= node.local_world_size => {
                request.answer(number, id, ranks);
            }
            _ => {}
        }
        self.further_request(now);
    }

    fn next_request(&mut self, now: Moment) {
        if self.is_asking() || self.state.asks.is_empty() {
            return;
        }
        let (id, ask) = self.state.asks.remove(0);
        self.state.requests += 1;
        self.state.request = Some(JobRequest::of_ask(self.state.requests, &id, ask));
        self.give_time(now);
        self.changed = true;
    }

    /// What is under way goes on if it can.
    fn further_request(&mut self, now: Moment) {
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
            if request.kind == Kind::Pause {
                *paused_by = request.number;
            }
        }
        self.give_time(now);
        if !self.is_asking() {
            self.request_over(now);
        }
    }

    /// It is over: what was to follow follows.
    fn request_over(&mut self, now: Moment) {
        (self.request_deadline, self.changed) = (None, true);
        let Some(request) = &mut self.state.request else { return };
        let leaving = std::mem::take(&mut request.leaving);
        let without = std::mem::take(&mut request.without);
        let then = request.then.take();
        let nodes = &self.state.nodes;
        let name = |id: &str| nodes.iter().find(|node| node.id == *id).map(|node| node.name.clone());
        let left = leaving.iter().find_map(|(id, reason)| Some((name(id)?, reason)));
        match left {
            Some((name, reason)) if self.rules.fixed => {
                return self.close(format!("{name}: {reason}"), Exit::default());
            }
            Some((name, reason)) => {
                let text = format!("{name} has left the job: {reason}");
                self.end_round_without(
                    Why::Membership(text),
                    leaving.into_iter().map(|(id, _)| id).chain(without),
                )
            }
            None => match then {
                Some(why) => self.end_round_without(why, without.into_iter()),
                None => self.next_request(now),
            },
        }
        self.settle(now);
    }

    fn end_round_without(&mut self, why: Why, gone: impl Iterator<Item = String>) {
        for id in gone {
            self.pulses.remove(&id);
            self.state.nodes.retain(|node| node.id != id);
        }
        self.over(why);
    }

    /// What was asked for is over with the round.
    fn end_requests(&mut self) {
        self.state.request.iter_mut().for_each(JobRequest::give_up);
        self.state.asks.clear();
        self.state.acted.clear();
        (self.state.paused_by, self.request_deadline) = (0, None);
    }

    /// The next round begins.
    fn over(&mut self, why: Why) {
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
        let count = (joined.len() + spares.len()).min(max_nodes);
        // All that were there before: who else comes has come in time, but is not waited for.
        let enough_as_before = !nodes.is_empty() && nodes.len() + spares.len() >= min_nodes;
        if missing || count < min_nodes {
            self.deadline = None;
            return;
        }
        if count == max_nodes || enough_as_before {
            return self.complete();
        }
        if *self.deadline.get_or_insert(now + last_call) <= now {
            self.complete();
        }
    }

    fn complete(&mut self) {
        let state = &mut self.state;
        let mut nodes = std::mem::take(&mut state.joined);
        // Who was there before comes first, if there are too many.
        nodes.sort_by_key(|node| node.seniority);
        let room = self.rules.max_nodes.saturating_sub(nodes.len());
        let spares = std::mem::take(&mut state.spares);
        let (promoted, waiting) = spares.split_at(room.min(spares.len()));
        nodes.extend_from_slice(promoted);
        let surplus = nodes.split_off(self.rules.max_nodes.min(nodes.len()));
        nodes.sort_by_key(|node| (node.order.is_none(), node.order, node.seniority));
        state.nodes = nodes;
        state.spares = surplus.into_iter().chain(waiting.iter().cloned()).collect();
        state.phase = Phase::Complete;
        self.deadline = None;
        self.changed = true;
    }

    /// Begins to count the time of those that are new.
    fn listen(&mut self, now: Moment) {
        let State { nodes, joined, spares, done, .. } = &self.state;
        let all = nodes.iter().chain(joined).chain(spares);
        for node in all.filter(|node| node.id != self.me && !done.contains(&node.id)) {
            if !self.pulses.contains_key(&node.id) {
                self.pulses.insert(node.id.clone(), (None, now));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn rules(min_nodes: usize, max_nodes: usize) -> Rules {
        Rules {
            min_nodes,
            max_nodes,
            fixed: false,
            last_call: 2 * SECOND,
            dead_after: 15 * SECOND,
            max_restarts: 3,
            save_before_change: Duration::ZERO,
        }
    }

    fn node(id: &str) -> Node {
        Node {
            id: id.into(),
            name: format!("node {id}"),
            addr: "127.0.0.1".into(),
            port: 1,
            serves: true,
            role: "default".into(),
            local_world_size: 1,
            order: None,
            seniority: 0,
        }
    }

    fn join(id: &str) -> Message {
        Message::Join(node(id))
    }

    fn leave(id: &str) -> Message {
        Message::Leave { id: id.into(), reason: "asked to".into() }
    }

    const THREE: Exit = Exit { code: Some(3), timed_out: false };

    fn failed(id: &str, round: u64) -> Message {
        Message::Failed { id: id.into(), round, reason: format!("{id} failed"), exit: THREE, last: false }
    }

    fn done(id: &str, round: u64) -> Message {
        Message::Done { id: id.into(), round }
    }

    fn leader(rules: Rules) -> Leader {
        Leader::new(rules, "a", State::new("a"), Duration::ZERO)
    }

    fn tell(leader: &mut Leader, messages: &[Message], now: Moment) {
        messages.iter().for_each(|message| leader.receive(message.clone(), now));
    }

    fn ids(nodes: &[Node]) -> String {
        nodes.iter().map(|node| node.id.as_str()).collect()
    }

    #[test]
    fn dyn_01_it_completes_when_the_last_has_come() {
        let mut leader = leader(rules(2, 2));
        tell(&mut leader, &[join("a")], SECOND);
        assert_eq!(leader.publish(), None);
        tell(&mut leader, &[join("b")], SECOND);
        let state = leader.publish().unwrap();
        assert_eq!((state.phase, ids(&state.nodes).as_str(), state.round), (Phase::Complete, "ab", 0));
        assert_eq!(state.taken, 2);
    }

    #[test]
    fn dyn_02_the_last_call_ends_by_time_or_by_the_last_place() {
        for third in [false, true] {
            let mut leader = leader(rules(2, 3));
            tell(&mut leader, &[join("a"), join("b")], SECOND);
            assert_eq!(leader.deadline(), Some(3 * SECOND));
            if third {
                tell(&mut leader, &[join("c")], 2 * SECOND);
            } else {
                leader.tick(2 * SECOND);
                assert_eq!(leader.publish(), None);
                leader.tick(3 * SECOND);
            }
            let wanted = if third { "abc" } else { "ab" };
            assert_eq!(ids(&leader.publish().unwrap().nodes), wanted);
        }
    }

    #[test]
    fn dyn_04_a_newcomer_opens_the_next_round_which_ends_with_the_last_one_back() {
        let mut leader = leader(rules(1, 3));
        tell(&mut leader, &[join("a")], SECOND);
        leader.tick(3 * SECOND);
        assert_eq!(ids(&leader.publish().unwrap().nodes), "a");
        tell(&mut leader, &[join("b")], 9 * SECOND);
        let state = leader.publish().unwrap();
        assert_eq!((&state.phase, state.round, state.restarts), (&Phase::Gathering, 1, 0));
        assert_eq!(state.why.text(), "node b has come");
        tell(&mut leader, &[join("a")], 10 * SECOND);
        let state = leader.publish().unwrap();
        assert_eq!((state.phase, ids(&state.nodes).as_str()), (Phase::Complete, "ab"));
    }

    #[test]
    fn dyn_08_a_spare_is_promoted_and_dyn_10_one_without_a_sign_is_dropped() {
        let mut leader = leader(rules(2, 2));
        tell(&mut leader, &[join("a"), join("b"), join("c")], SECOND);
        let state = leader.publish().unwrap();
        assert_eq!((ids(&state.nodes).as_str(), ids(&state.spares).as_str()), ("ab", "c"));
        for second in 2..=20u32 {
            leader.saw("c", second.into(), second * SECOND);
            leader.saw("b", 1, second * SECOND);
            leader.tick(second * SECOND);
        }
        let state = leader.publish().unwrap();
        assert_eq!((state.round, ids(&state.nodes).as_str()), (1, "a"));
        assert_eq!(state.why.text(), "node b has vanished: no sign of it for 15s");
        tell(&mut leader, &[join("a")], 21 * SECOND);
        assert_eq!(ids(&leader.publish().unwrap().nodes), "ac");
    }

    #[test]
    fn dyn_13_when_all_are_gone_the_next_round_is_open_to_all() {
        let mut leader = leader(rules(2, 2));
        tell(&mut leader, &[join("a"), join("b"), leave("b"), leave("a")], SECOND);
        leader.hand_over();
        let state = leader.publish().unwrap();
        assert_eq!((state.leader.clone(), &state.phase, state.round), (None, &Phase::Gathering, 1));
        let mut next = Leader::new(rules(2, 2), "c", state, SECOND);
        tell(&mut next, &[join("c"), join("d")], SECOND);
        assert_eq!(ids(&next.publish().unwrap().nodes), "cd");
    }

    #[test]
    fn dyn_22_too_few_nodes_end_the_last_call() {
        let mut leader = leader(rules(2, 3));
        tell(&mut leader, &[join("a"), join("b"), leave("b")], SECOND);
        leader.tick(4 * SECOND);
        assert_eq!(leader.publish(), None);
        tell(&mut leader, &[join("c")], 9 * SECOND);
        leader.tick(10 * SECOND);
        assert_eq!(leader.publish(), None);
        leader.tick(11 * SECOND);
        assert_eq!(ids(&leader.publish().unwrap().nodes), "ac");
    }

    #[test]
    fn dyn_30_who_is_expected_back_is_waited_for() {
        let mut leader = leader(rules(1, 2));
        tell(&mut leader, &[join("a"), join("b"), failed("a", 0), join("a")], SECOND);
        for second in 2..=60u32 {
            leader.saw("b", second.into(), second * SECOND);
            leader.tick(second * SECOND);
        }
        assert_eq!(leader.publish().unwrap().phase, Phase::Gathering);
        tell(&mut leader, &[join("b")], 61 * SECOND);
        let state = leader.publish().unwrap();
        assert_eq!((state.phase, ids(&state.nodes).as_str(), state.restarts), (Phase::Complete, "ab", 1));
    }

    #[test]
    fn rst_09_restarts_are_the_jobs_and_one_failure_counts_once() {
        let mut leader = leader(Rules { max_restarts: 1, ..rules(2, 2) });
        tell(&mut leader, &[join("a"), join("b"), failed("b", 0), failed("a", 0)], SECOND);
        let state = leader.publish().unwrap();
        assert_eq!((state.round, state.restarts, state.why.text()), (1, 1, "b failed"));
        tell(&mut leader, &[join("b"), join("a"), failed("a", 0), failed("a", 1)], SECOND);
        let ending = Ending::Closed { reason: "a failed".into(), exit: THREE };
        assert_eq!(leader.publish().unwrap().phase, Phase::Ended(ending));
    }

    #[test]
    fn rst_04_membership_changes_use_up_no_restarts() {
        let mut leader = leader(Rules { max_restarts: 0, ..rules(1, 2) });
        tell(&mut leader, &[join("a"), join("b")], SECOND);
        for change in 0..10 {
            tell(&mut leader, &[leave("b"), join("a"), join("b"), join("a")], SECOND);
            let state = leader.publish().unwrap();
            assert_eq!(
                (state.restarts, state.round, ids(&state.nodes).as_str()),
                (0, 2 * (change + 1), "ab")
            );
        }
    }

    #[test]
    fn bar_08_a_node_that_is_done_takes_part_in_the_next_round() {
        let mut leader = leader(rules(2, 2));
        tell(&mut leader, &[join("a"), join("b"), done("a", 0), failed("b", 0)], SECOND);
        let state = leader.publish().unwrap();
        assert_eq!(
            (&state.phase, ids(&state.nodes).as_str(), state.done.len()),
            (&Phase::Gathering, "ab", 0)
        );
        tell(&mut leader, &[join("b"), join("a"), done("a", 0), done("a", 1), done("b", 1)], SECOND);
        assert_eq!(leader.publish().unwrap().phase, Phase::Ended(Ending::Succeeded));
    }

    #[test]
    fn bar_02_who_is_done_may_go() {
        let mut leader = leader(rules(2, 2));
        tell(&mut leader, &[join("a"), join("b"), done("b", 0), leave("b")], SECOND);
        assert_eq!(leader.publish().unwrap().phase, Phase::Complete);
        tell(&mut leader, &[done("a", 0)], SECOND);
        assert_eq!(leader.publish().unwrap().phase, Phase::Ended(Ending::Succeeded));
    }

    #[test]
    fn bar_08_who_has_gone_is_not_expected_back() {
        for fixed in [false, true] {
            let mut leader = leader(Rules { fixed, ..rules(2, 2) });
            tell(&mut leader, &[join("a"), join("b"), done("b", 0), leave("b"), failed("a", 0)], SECOND);
            let state = leader.publish().unwrap();
            if let Phase::Ended(Ending::Closed { reason, exit: THREE }) = &state.phase {
                assert_eq!(reason, "a failed; node b has succeeded and left, so there is no restart");
                assert!(fixed);
                continue;
            }
            assert_eq!((&state.phase, ids(&state.nodes).as_str()), (&Phase::Gathering, "a"));
            tell(&mut leader, &[join("a"), join("c")], SECOND);
            assert_eq!(ids(&leader.publish().unwrap().nodes), "ac");
        }
    }

    #[test]
    fn dyn_10_one_that_is_heard_anew_has_its_full_time() {
        let mut leader = leader(rules(2, 2));
        tell(&mut leader, &[join("a"), join("b")], SECOND);
        leader.give_back(Duration::ZERO, 60 * SECOND);
        leader.tick(74 * SECOND);
        assert_eq!(leader.publish().unwrap().phase, Phase::Complete);
        leader.tick(75 * SECOND);
        assert_eq!(leader.publish().unwrap().phase, Phase::Gathering);
    }

    #[test]
    fn stat_06_a_node_rank_for_two_ends_the_job_before_it_begins() {
        let ranked = |id: &str, order| Message::Join(Node { order: Some(order), ..node(id) });
        let fixed = || leader(Rules { fixed: true, ..rules(2, 2) });
        let mut twice = fixed();
        tell(&mut twice, &[ranked("a", 1), ranked("b", 1)], SECOND);
        let Phase::Ended(Ending::Closed { reason, .. }) = twice.publish().unwrap().phase else { panic!() };
        assert_eq!(reason, "node rank 1 was given to node a and to node b");
        let mut ordered = fixed();
        tell(&mut ordered, &[ranked("a", 1), ranked("b", 0), ranked("c", 1)], SECOND);
        let state = ordered.publish().unwrap();
        assert_eq!((ids(&state.nodes).as_str(), state.refused[0].0.as_str()), ("ba", "c"));
    }

    #[test]
    fn rank_01_nodes_stand_by_their_wish_then_by_age() {
        let mut leader = leader(rules(3, 3));
        let wish = Message::Join(Node { order: Some(7), ..node("c") });
        tell(&mut leader, &[join("a"), join("b"), wish.clone()], SECOND);
        assert_eq!(ids(&leader.publish().unwrap().nodes), "cab");
        // Whoever is back first.
        tell(&mut leader, &[failed("a", 0), join("b"), wish, join("a")], SECOND);
        assert_eq!(ids(&leader.publish().unwrap().nodes), "cab");
    }

    proptest! {
        /// Whatever is said, in whatever order: rounds have min to max nodes, each once, and a new leader that reads
        /// the same messages comes to the same state.
        #[test]
        fn dyn_16_any_order_of_messages(steps in proptest::collection::vec((0..5usize, 0..5usize, 0..4u64), 0..60)) {
            let names = ["a", "b", "c", "d", "e"];
            let rules = rules(2, 3);
            let mut leader = Leader::new(rules.clone(), "a", State::new("a"), Duration::ZERO);
            let mut last = State::new("a");
            let mut since = Vec::new();
            for (what, who, round) in steps {
                let id = names[who];
                let message = match what {
                    0 | 1 => join(id),
                    2 => leave(id),
                    3 => failed(id, round),
                    _ => done(id, round),
                };
                leader.receive(message.clone(), SECOND);
                since.push(message);
                if let Some(state) = leader.publish() {
                    let mut again = Leader::new(rules.clone(), "a", last.clone(), SECOND);
                    since.drain(..).for_each(|message| again.receive(message, SECOND));
                    prop_assert_eq!(&again.state, &state);
                    if state.phase == Phase::Complete {
                        prop_assert!((2..=3).contains(&state.nodes.len()));
                    }
                    let mut all: Vec<_> = state.nodes.iter().chain(&state.spares).map(|node| &node.id).collect();
                    all.sort();
                    all.dedup();
                    prop_assert_eq!(all.len(), state.nodes.len() + state.spares.len());
                    last = state;
                }
            }
        }
    }
}
