//! Requests of a job as a simulation: leader, agents and ranks in lockstep, without threads, stores or clocks. All orders
//! of what can happen for small jobs, random ones for larger ones.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::{JobRequests, Todo, Waiter};
use crate::control::request::{Answer, Reason, RequestKind};
use crate::moment::Moment;
use crate::rendezvous::leader::{Leader, Missed, Rules};
use crate::rendezvous::request::{View, Word};
use crate::rendezvous::state::{Message, Node, Phase, State};

const NOW: Moment = Duration::ZERO;
const TIME: Duration = Duration::from_secs(10);
const LATER: Moment = Duration::from_secs(20);

/// What a rank does together with all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Collective {
    Gradient(u64),
    Checkpoint(u64),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Rank {
    /// At which it has looked.
    step: u64,
    /// What it has begun, one after the other. All but the last is done, and the last once all have begun it.
    begun: Vec<Collective>,
    /// Whether it has looked at a later step, and waits there.
    waits: bool,
}

/// What is asked of the rank of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Asked {
    at_step: u64,
    held: bool,
    answered: bool,
    number: u64,
}

#[derive(Clone)]
struct Agent {
    id: String,
    requests: JobRequests,
    /// How many states it has read.
    read: usize,
    told: String,
    outbox: VecDeque<Message>,
    asked: Option<Asked>,
    rank: Rank,
    is_there: bool,
    /// It was away, and may have missed the answers that it waits for: those waits end at their deadline.
    was_away: bool,
}

#[derive(Clone)]
struct World {
    rules: Rules,
    agents: Vec<Agent>,
    leader: Leader,
    leads: usize,
    states: Vec<State>,
    inbox: Vec<Message>,
    asks: usize,
}

/// Something that can happen.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Move {
    /// A rank goes on.
    Work(usize),
    /// An agent says the next thing that it has to say.
    Say(usize),
    /// It reads the next state.
    Read(usize),
    /// It was away, and reads the last state.
    Jump(usize),
    /// Somebody there asks for a checkpoint.
    Ask(usize),
    /// The leader takes the next message, or all there are.
    Lead,
    LeadAll,
    /// The time of the request is over.
    Tick,
    /// The leader is gone, with its workers; another leads.
    Lose,
}

impl World {
    fn new(count: usize) -> World {
        let rules = Rules {
            min_nodes: 1,
            max_nodes: count,
            fixed: false,
            last_call: TIME,
            // Nobody is missed for that the time of a request is over.
            dead_after: 100 * TIME,
            reconnect: TIME,
            max_restarts: 0,
            max_host_failures: 0,
            save_before_change: Duration::ZERO,
        };
        let ids: Vec<String> = (0..count).map(|number| format!("n{number}")).collect();
        let mut leader = Leader::new(rules.clone(), &ids[0], State::new(&ids[0]), NOW);
        let inbox: Vec<Message> = ids.iter().map(|id| Message::Join(Node::named(id))).collect();
        inbox.iter().for_each(|join| leader.receive(join.clone(), NOW));
        let state = leader.publish().expect("a complete round");
        let agent = |id: &String| Agent {
            id: id.clone(),
            requests: JobRequests::default(),
            read: 1,
            told: String::new(),
            outbox: VecDeque::new(),
            asked: None,
            rank: Rank { step: 0, begun: vec![Collective::Gradient(0)], waits: false },
            is_there: true,
            was_away: false,
        };
        let agents = ids.iter().map(agent).collect();
        World { rules, agents, leader, leads: 0, states: vec![state], inbox, asks: 0 }
    }

    fn is_over(&self) -> bool {
        self.states.last().is_some_and(|state| state.round > 0 || state.phase != Phase::Complete)
    }

    /// Whether it does anything.
    fn can(&self, what: Move, asks: usize, losses: usize) -> bool {
        match what {
            Move::Work(number) => self.agents[number].is_there && self.goes_on(number),
            Move::Say(number) => self.agents[number].is_there && !self.agents[number].outbox.is_empty(),
            Move::Read(number) => {
                self.agents[number].is_there && self.agents[number].read < self.states.len()
            }
            Move::Jump(number) => {
                self.agents[number].is_there && self.agents[number].read + 1 < self.states.len()
            }
            Move::Ask(number) => self.agents[number].is_there && self.asks < asks && !self.is_over(),
            Move::Lead => (self.leader.taken() as usize) < self.inbox.len(),
            Move::LeadAll => (self.leader.taken() as usize) + 1 < self.inbox.len(),
            Move::Tick => self.leader.state().request.as_ref().is_some_and(|request| !request.is_over()),
            Move::Lose => self.agents.iter().filter(|agent| !agent.is_there).count() < losses,
        }
    }

    /// Whether a rank is not in the midst of something, nor waits where it is held.
    fn goes_on(&self, number: usize) -> bool {
        let Agent { rank, asked, .. } = &self.agents[number];
        let is_done = self.agents.iter().all(|other| other.rank.begun.len() >= rank.begun.len());
        // A rank whose peers are gone comes no further.
        let all_there = self.agents.iter().all(|agent| agent.is_there);
        let is_held = rank.waits && asked.is_some_and(|asked| asked.held && rank.step + 1 >= asked.at_step);
        is_done && all_there && !is_held && !(rank.waits && asked.is_none() && self.is_over())
    }

    fn go(&mut self, what: Move) {
        match what {
            Move::Work(number) => self.work(number),
            Move::Say(number) => {
                let message = self.agents[number].outbox.pop_front();
                self.inbox.extend(message);
            }
            Move::Read(number) => {
                self.agents[number].read += 1;
                self.judge(number);
            }
            Move::Jump(number) => {
                self.agents[number].read = self.states.len();
                self.agents[number].was_away = true;
                self.judge(number);
            }
            Move::Ask(number) => {
                // A pause is met as a checkpoint is.
                let kind = if self.asks % 3 == 2 { RequestKind::Pause } else { RequestKind::Save };
                self.asks += 1;
                let waiter = Waiter { kind, begin: NOW, until: TIME, ticket: None, before_stop: false };
                self.agents[number].requests.ask(waiter, Reason::Host, None, NOW);
                self.flush(number);
            }
            Move::Lead => {
                let message = self.inbox[self.leader.taken() as usize].clone();
                self.leader.receive(message, NOW);
                self.publish();
            }
            Move::LeadAll => {
                while let Some(message) = self.inbox.get(self.leader.taken() as usize) {
                    self.leader.receive(message.clone(), NOW);
                }
                self.publish();
            }
            Move::Tick => {
                self.leader.tick(LATER.min(self.leader.deadline().unwrap_or(LATER)));
                self.publish();
            }
            Move::Lose => {
                self.agents[self.leads].is_there = false;
                let Some(next) = self.agents.iter().position(|agent| agent.is_there) else { return };
                let lost = self.agents[self.leads].id.clone();
                self.leads = next;
                let state = self.states.last().expect("a state").clone();
                self.leader = Leader::new(self.rules.clone(), &self.agents[next].id, state, NOW);
                while let Some(message) = self.inbox.get(self.leader.taken() as usize) {
                    self.leader.receive(message.clone(), NOW);
                }
                self.leader.miss(&lost, Missed::Silent, NOW);
                self.publish();
            }
        }
    }

    /// See `rendezvous::member`.
    fn publish(&mut self) {
        self.states.extend(self.leader.publish());
        self.leader.next_request(NOW);
        self.states.extend(self.leader.publish());
    }

    /// What a state means to an agent: see `rendezvous::member`.
    fn judge(&mut self, number: usize) {
        let agent = &mut self.agents[number];
        let state = &self.states[agent.read - 1];
        let request = state.request.as_ref();
        let told = format!("{:?}", request.map(|request| (request.number, request.progress)));
        let is_ours = state.round == 0 || request.is_some_and(|request| request.is_over());
        if is_ours && told != agent.told {
            agent.told = told;
            let view = View::of(&agent.id, state, &self.states[0].nodes);
            for todo in agent.requests.hear(view, NOW) {
                match (todo, &mut agent.asked) {
                    (Todo::Act { at_step }, Some(asked)) => {
                        (asked.at_step, asked.held) = (at_step, false);
                    }
                    (Todo::LetGo, asked) => *asked = None,
                    (Todo::Tell { .. } | Todo::Resume, _) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
        self.hold(number);
        if self.states[self.agents[number].read - 1].round > 0 {
            let (_, todo) = self.agents[number].requests.forget();
            if todo.is_some() {
                self.agents[number].asked = None;
            }
        }
        self.flush(number);
    }

    /// Has the rank held, if that is due and nothing else is asked of it.
    fn hold(&mut self, number: usize) {
        let agent = &mut self.agents[number];
        let is_free = agent.asked.is_none_or(|asked| asked.answered);
        if let (Some((seen, _)), true) = (agent.requests.due(), is_free) {
            let at_step = agent.rank.step + 1;
            agent.asked = Some(Asked { at_step, held: true, answered: false, number: seen.number });
            agent.requests.held(at_step);
        }
    }

    fn flush(&mut self, number: usize) {
        let Agent { id, requests, outbox, .. } = &mut self.agents[number];
        let words = requests.take_words().into_iter();
        outbox.extend(words.map(|word: Word| Message::Request { id: id.clone(), round: 0, word }));
    }

    /// The last thing that this rank has begun is done: it goes to its next step, looks there, and begins the next.
    fn work(&mut self, number: usize) {
        let agent = &mut self.agents[number];
        let Rank { step, begun, waits } = &mut agent.rank;
        if let (Some(Collective::Checkpoint(of)), Some(asked)) = (begun.last(), &mut agent.asked)
            && asked.number == *of
            && !asked.answered
        {
            asked.answered = true;
            agent.requests.answered(*of, vec![(Answer::Succeeded, Some(*step + 1))]);
        }
        *waits = false;
        match agent.asked {
            Some(asked) if asked.held && *step + 1 >= asked.at_step => *waits = true,
            Some(asked) if !asked.held && !asked.answered && *step + 1 >= asked.at_step => {
                begun.push(Collective::Checkpoint(asked.number));
            }
            _ => {
                *step += 1;
                begun.push(Collective::Gradient(*step));
            }
        }
        self.hold(number);
        self.flush(number);
        self.check();
    }

    /// No rank is in another collective than the others.
    fn check(&self) {
        for agent in &self.agents {
            for (one, other) in agent.rank.begun.iter().zip(&self.agents[0].rank.begun) {
                assert_eq!(
                    one,
                    other,
                    "{:?}",
                    self.agents.iter().map(|agent| &agent.rank).collect::<Vec<_>>()
                );
            }
        }
    }

    fn moves(&self) -> Vec<Move> {
        let of_each = [Move::Work, Move::Say, Move::Read, Move::Ask, Move::Jump];
        let each = of_each.into_iter().flat_map(|what| (0..self.agents.len()).map(what));
        each.chain([Move::Lead, Move::LeadAll, Move::Tick, Move::Lose]).collect()
    }

    /// Everything is said and read: nobody waits.
    fn settle(&mut self) {
        for _ in 0..200 {
            let calm = |what: &Move| !matches!(what, Move::Ask(_) | Move::Tick | Move::Lose | Move::Work(_));
            while let Some(what) = self.moves().into_iter().find(|what| calm(what) && self.can(*what, 0, 0)) {
                self.go(what);
            }
            // All ranks do a step, if they can.
            let works: Vec<_> =
                (0..self.agents.len()).filter(|number| self.can(Move::Work(*number), 0, 0)).collect();
            if works.is_empty() {
                break;
            }
            works.into_iter().for_each(|number| self.go(Move::Work(number)));
            if !self.can(Move::Tick, 0, 0) && !self.can(Move::Lead, 0, 0) {
                break;
            }
        }
        let asks = |agent: &Agent| agent.is_there && !agent.was_away && agent.requests.is_asking();
        assert!(!self.agents.iter().any(asks), "somebody waits for answers");
        let held = |agent: &Agent| agent.is_there && agent.asked.is_some_and(|asked| asked.held);
        assert!(!self.agents.iter().any(held), "somebody is held for ever");
    }

    /// For telling worlds apart.
    fn signature(&self) -> String {
        let agents = self.agents.iter().map(|agent| {
            let Agent { requests, read, outbox, asked, rank, is_there, .. } = agent;
            format!("{requests:?} {read} {outbox:?} {asked:?} {rank:?} {is_there}")
        });
        let agents: Vec<String> = agents.collect();
        format!("{agents:?} {:?} {:?} {} {}", self.states.last(), self.inbox, self.leader.taken(), self.leads)
    }
}

/// All worlds that can be reached, each one brought to its rest.
fn explore(count: usize, asks: usize, losses: usize, steps: u64) -> usize {
    let mut seen = HashSet::new();
    let mut todo = vec![World::new(count)];
    while let Some(world) = todo.pop() {
        if !seen.insert(world.signature()) {
            continue;
        }
        world.clone().settle();
        for what in world.moves() {
            let goes_too_far = matches!(what, Move::Work(number) if world.agents[number].rank.step >= steps);
            if goes_too_far || !world.can(what, asks, losses) {
                continue;
            }
            let mut next = world.clone();
            next.go(what);
            todo.push(next);
        }
    }
    seen.len()
}

#[test]
fn job_01_all_orders_of_a_request_among_two_hosts() {
    assert!(explore(2, 1, 0, 3) > 500);
}

#[test]
fn job_01_all_orders_of_a_request_whose_leader_is_lost() {
    assert!(explore(2, 1, 1, 2) > 500);
}

#[test]
#[ignore = "minutes"]
fn job_04_all_orders_of_two_requests_among_two_hosts_and_of_one_among_three() {
    println!("{} worlds, {} worlds", explore(2, 2, 1, 3), explore(3, 1, 1, 2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn job_01_any_order_of_requests_among_many_hosts(
        count in 2usize..8,
        choices in proptest::collection::vec(any::<u16>(), 0..400),
        losses in 0usize..2,
    ) {
        let mut world = World::new(count);
        for choice in choices {
            // Losses and time-outs are rare.
            let rare = |what: &Move| matches!(what, Move::Lose | Move::Tick) && choice % 64 != 0;
            let moves = world.moves().into_iter().filter(|what| !rare(what) && world.can(*what, 8, losses));
            let moves: Vec<_> = moves.collect();
            if moves.is_empty() {
                break;
            }
            world.go(moves[choice as usize % moves.len()]);
        }
        world.settle();
    }
}
