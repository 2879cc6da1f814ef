//! Agents that do nothing but take part, at a place in memory; what they are is used by other tests, too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Condvar;

use super::*;
use crate::rendezvous::backend::{Stored, Swap, TellOfLoss, Token, beat_key};
use crate::rendezvous::state::Why;

/// A place in memory that counts what is done there.
#[derive(Default)]
struct Place {
    keys: Mutex<BTreeMap<String, Vec<u8>>>,
    changed: Condvar,
    operations: AtomicU64,
    /// What was ever waited for.
    awaited: Mutex<BTreeSet<String>>,
    unreachable: AtomicBool,
    /// Whom it tells that a way to it has ended, in the order in which they have come.
    tells: Mutex<Vec<TellOfLoss>>,
}

struct Way(Arc<Place>);

impl Way {
    fn count(&self) -> Result<(), Error> {
        self.0.operations.fetch_add(1, Ordering::Relaxed);
        match self.0.unreachable.load(Ordering::Relaxed) {
            true => Err(Error::Store { what: "unreachable".into() }),
            false => Ok(()),
        }
    }
}

impl Backend for Way {
    fn tell_of_losses(&mut self, tell: TellOfLoss) {
        self.0.tells.lock().push(tell);
    }

    fn connect(&mut self) -> Result<(), Error> {
        self.count()
    }

    fn get(&mut self, key: &str) -> Result<Option<Stored>, Error> {
        self.count()?;
        Ok(self.0.keys.lock().get(key).map(|value| Stored { value: value.clone(), token: value.clone() }))
    }

    fn compare_and_set(&mut self, key: &str, expected: Option<&Token>, value: &[u8]) -> Result<Swap, Error> {
        self.count()?;
        let mut keys = self.0.keys.lock();
        let there = keys.get(key).cloned();
        if there.as_ref() != expected {
            return Ok(Swap::Refused(there.map(|value| Stored { token: value.clone(), value })));
        }
        keys.insert(key.into(), value.into());
        self.0.changed.notify_all();
        Ok(Swap::Done)
    }

    fn delete(&mut self, key: &str) -> Result<(), Error> {
        self.count()?;
        self.0.keys.lock().remove(key);
        Ok(())
    }

    fn wait(&mut self, key: &str, until: Instant, bell: std::os::fd::BorrowedFd) -> Result<bool, Error> {
        self.count()?;
        self.0.awaited.lock().insert(key.into());
        let mut keys = self.0.keys.lock();
        while !keys.contains_key(key) && !crate::sys::fd::is_readable(bell) {
            let look = Instant::now() + Duration::from_millis(2);
            self.0.changed.wait_until(&mut keys, look.min(until));
            if Instant::now() >= until {
                break;
            }
        }
        Ok(keys.contains_key(key))
    }
}

pub fn settings(min_nodes: usize, max_nodes: usize) -> Settings {
    let mut options = Options::default();
    for (key, value) in [
        ("keep_alive_interval", "0.1"),
        // A machine with much else to do may stand still for a while.
        ("keep_alive_max_attempt", "10"),
        ("join_timeout", "20"),
        ("last_call_timeout", "0.2"),
        ("lost_timeout", "3"),
    ] {
        options.set(key, value).unwrap();
    }
    let rules = Rules {
        min_nodes,
        max_nodes,
        fixed: false,
        last_call: options.last_call_timeout,
        dead_after: options.dead_after(),
        reconnect: options.reconnect_timeout,
        max_restarts: 3,
        max_host_failures: 0,
        save_before_change: Duration::ZERO,
    };
    Settings { rules, options, run_id: "job".into(), local_addr: None }
}

/// An agent that does nothing but take part.
pub struct Agent {
    member: Option<Member>,
    heard: std::sync::mpsc::Receiver<()>,
}

impl Agent {
    fn start(place: &Arc<Place>, name: &str, settings: Settings) -> Agent {
        Agent::over(Box::new(Way(place.clone())), name, settings)
    }

    pub fn over(backend: Box<dyn Backend>, name: &str, settings: Settings) -> Agent {
        let (ring, heard) = std::sync::mpsc::channel();
        let ring = move || ring.send(()).unwrap_or_default();
        let member = Member::start(backend, settings, Node::named(name), ring).unwrap();
        member.wish(MemberWish::Join { port: 1 });
        Agent { member: Some(member), heard }
    }

    pub fn wish(&self, wish: MemberWish) {
        self.member.as_ref().unwrap().wish(wish);
    }

    /// The next notice that is no log line.
    pub fn notice(&self) -> Notice {
        loop {
            self.heard.recv_timeout(Duration::from_secs(60)).unwrap();
            match self.member.as_ref().unwrap().notice() {
                Some(Notice::Log(..) | Notice::Reached | Notice::Unreached { .. }) | None => {}
                Some(notice) => return notice,
            }
        }
    }

    pub fn joined(&self) -> Round {
        match self.notice() {
            Notice::Joined(round) => *round,
            other => panic!("{other:?}"),
        }
    }

    pub fn leave(mut self) {
        let within = Duration::from_secs(20);
        self.member.take().unwrap().leave(("enough".into(), None), within, Duration::ZERO, || false);
    }

    /// Without a word, as by SIGKILL. The thread waits for ever.
    pub fn die(mut self) {
        let member = self.member.take().unwrap();
        std::mem::forget(member.shared.wishes.lock());
        member.shared.bell.ring();
        std::mem::forget(member);
    }
}

pub fn ids(round: &Round) -> String {
    round.nodes.iter().map(|node| node.id.as_str()).collect()
}

#[test]
fn dyn_why_a_round_is_over_is_said_to_who_joins_again_before_it_is() {
    let place = Arc::new(Place::default());
    let agents = ["a", "b"].map(|name| Agent::start(&place, name, settings(2, 2)));
    agents.iter().for_each(|agent| drop(agent.joined()));
    {
        let member = agents[0].member.as_ref().unwrap();
        let exit = Exit { code: Some(7), timed_out: false };
        let mut wishes = member.shared.wishes.lock();
        wishes.push_back(MemberWish::Failed { reason: "rank 0".into(), exit, last: false });
        wishes.push_back(MemberWish::Join { port: 2 });
        member.shared.bell.ring();
    }
    assert_eq!(agents[1].notice(), Notice::Over { round: 0, why: "node a: rank 0".into() });
    agents[1].wish(MemberWish::Join { port: 2 });
    let said = || loop {
        agents[0].heard.recv_timeout(Duration::from_secs(60)).unwrap();
        match agents[0].member.as_ref().unwrap().notice() {
            Some(Notice::Log(Level::Info, text)) if text.starts_with("round") => return text,
            Some(Notice::Joined(round)) => panic!("{round:?}"),
            _ => {}
        }
    };
    assert_eq!(said(), "round 0 is over: node a: rank 0");
    assert_eq!(agents[0].joined().number, 1);
}

#[test]
fn dyn_01_two_agents_meet_restart_and_end() {
    let place = Arc::new(Place::default());
    let agents = ["a", "b"].map(|name| Agent::start(&place, name, settings(2, 2)));
    let rounds = agents.each_ref().map(Agent::joined);
    assert_eq!(rounds[0].nodes, rounds[1].nodes);
    assert_ne!(rounds[0].group_rank, rounds[1].group_rank);
    agents[1].wish(MemberWish::Failed {
        reason: "rank 1".into(),
        exit: Exit { code: Some(7), timed_out: false },
        last: false,
    });
    for agent in &agents {
        assert_eq!(agent.notice(), Notice::Over { round: 0, why: "node b: rank 1".into() });
        agent.wish(MemberWish::Join { port: 2 });
    }
    for agent in &agents {
        let round = agent.joined();
        assert_eq!((round.number, round.restarts, round.nodes[0].port), (1, 1, 2));
    }
    agents.iter().for_each(|agent| agent.wish(MemberWish::Done));
    for agent in agents {
        assert_eq!(agent.notice(), Notice::Ended(Ending::Succeeded));
        agent.leave();
    }
    let late = Agent::start(&place, "late", settings(2, 2));
    let Notice::Failed(Error::Rendezvous { what }) = late.notice() else { panic!() };
    assert_eq!(what, "the rendezvous of run id job is closed: its job has succeeded");
    late.leave();
}

#[test]
fn dyn_10_the_others_go_on_without_one_that_died_leader_or_not() {
    for dies in [0, 1] {
        let place = Arc::new(Place::default());
        let mut agents = vec![Agent::start(&place, "a", settings(2, 3))];
        while place.keys.lock().get("state/0").is_none() {
            std::thread::yield_now();
        }
        agents.extend(["b", "c"].map(|name| Agent::start(&place, name, settings(2, 3))));
        agents.iter().for_each(|agent| assert_eq!(agent.joined().nodes.len(), 3));
        agents.remove(dies).die();
        for agent in &agents {
            let Notice::Over { why, .. } = agent.notice() else { panic!() };
            assert!(why.contains("has vanished"), "{why}");
            agent.wish(MemberWish::Join { port: 1 });
        }
        // Both before one leaves, which ends the round.
        for agent in &agents {
            let round = agent.joined();
            assert_eq!((round.nodes.len(), round.restarts), (2, 0), "{}", ids(&round));
        }
        agents.into_iter().for_each(Agent::leave);
    }
}

/// Nobody is missed by heartbeats here. The second serves the place, the first leads.
#[test]
fn job_07_who_serves_the_place_tells_of_a_lost_node_and_follows_a_lost_leader() {
    let patient = || {
        let mut settings = settings(2, 3);
        settings.options.set("keep_alive_interval", "100").unwrap();
        settings.rules.dead_after = settings.options.dead_after();
        settings.rules.reconnect = Duration::from_millis(50);
        settings
    };
    for (name, dies) in [("a", 0), ("c", 2)] {
        let place = Arc::new(Place::default());
        let mut agents = vec![Agent::start(&place, "a", patient())];
        while place.keys.lock().get("state/0").is_none() {
            std::thread::yield_now();
        }
        agents.extend(["b", "c"].map(|name| Agent::start(&place, name, patient())));
        agents.iter().for_each(|agent| assert_eq!(agent.joined().nodes.len(), 3));
        agents.remove(dies).die();
        let beat = String::from_utf8(place.keys.lock()[&beat_key(name)].clone()).unwrap();
        let tell = place.tells.lock()[1].clone();
        tell(name, beat.parse().unwrap());
        for agent in &agents {
            let Notice::Over { why, .. } = agent.notice() else { panic!() };
            assert!(why.contains("its connection has ended"), "{why}");
            agent.wish(MemberWish::Join { port: 1 });
        }
        agents.iter().for_each(|agent| assert_eq!(agent.joined().nodes.len(), 2));
        agents.into_iter().for_each(Agent::leave);
    }
}

#[test]
fn dyn_10_what_a_leader_has_heard_and_not_told_is_not_lost_with_it() {
    let place = Arc::new(Place::default());
    let start = |name| Agent::start(&place, name, settings(3, 3));
    let wait_for = |key: &str| {
        while !place.awaited.lock().contains(key) {
            std::thread::yield_now();
        }
    };
    let leader = start("a");
    wait_for("inbox/1");
    let mut others = vec![start("b")];
    wait_for("inbox/2");
    leader.die();
    others.extend(["c", "d"].map(start));
    // The dead one may be in a round before it is missed.
    let meet = |agent: Agent| {
        loop {
            match agent.notice() {
                Notice::Joined(round) if round.nodes.iter().all(|node| node.id != "a") => return agent,
                Notice::Joined(_) => {}
                Notice::Over { .. } => agent.wish(MemberWish::Join { port: 1 }),
                other => panic!("{other:?}"),
            }
        }
    };
    std::thread::scope(|scope| {
        let met: Vec<_> = others.into_iter().map(|agent| scope.spawn(|| meet(agent))).collect();
        met.into_iter().for_each(|agent| agent.join().unwrap().leave());
    });
}

#[test]
fn dyn_09_dyn_08_a_spare_takes_a_place_or_is_not_needed() {
    let place = Arc::new(Place::default());
    let agents = ["a", "b"].map(|name| Agent::start(&place, name, settings(2, 2)));
    let _ = agents.each_ref().map(Agent::joined);
    let spares = ["c", "d"].map(|name| Agent::start(&place, name, settings(2, 2)));
    let has_both = |place: &Place| {
        let keys = place.keys.lock();
        let states = keys.iter().filter(|(key, _)| key.starts_with("state/"));
        let last = states.max_by_key(|(key, _)| key[6..].parse::<u64>().unwrap()).unwrap().1;
        decode::<State>(last, "").unwrap().spares.len() == 2
    };
    while !has_both(&place) {
        std::thread::yield_now();
    }
    let [first, second] = agents;
    first.leave();
    let Notice::Over { why, .. } = second.notice() else { panic!() };
    assert_eq!(why, "node a has left the job: enough");
    second.wish(MemberWish::Join { port: 1 });
    let round = second.joined();
    assert_eq!(round.nodes.len(), 2);
    let [third, fourth] = spares;
    let is_third = ids(&round).contains('c');
    let (promoted, waiting) = if is_third { (third, fourth) } else { (fourth, third) };
    assert_eq!(promoted.joined().nodes, round.nodes);
    let in_it = [second, promoted];
    in_it.iter().for_each(|agent| agent.wish(MemberWish::Done));
    in_it.iter().for_each(|agent| assert_eq!(agent.notice(), Notice::Ended(Ending::Succeeded)));
    assert_eq!(waiting.notice(), Notice::NotNeeded);
    in_it.into_iter().for_each(Agent::leave);
    waiting.leave();
}

#[test]
fn dyn_16_fifty_join_at_once() {
    let place = Arc::new(Place::default());
    let agents: Vec<Agent> =
        (0..50).map(|number| Agent::start(&place, &format!("n{number};"), settings(50, 50))).collect();
    let rounds: Vec<Round> = agents.iter().map(Agent::joined).collect();
    assert!(rounds.iter().all(|round| round.number == 0 && round.nodes == rounds[0].nodes));
    let mut ranks: Vec<usize> = rounds.iter().map(|round| round.group_rank).collect();
    ranks.sort();
    assert_eq!(ranks, (0..50).collect::<Vec<_>>());
    agents.into_iter().for_each(Agent::leave);
}

#[test]
fn dyn_17_what_is_not_ours_is_refused_and_left_as_it_was() {
    let state = encode(&State { why: Why::First, ..State::new("x") });
    let newer = String::from_utf8(state).unwrap().replace("rendezvous 2", "rendezvous 3");
    for (key, value) in [
        ("", "Y2FuaW1hZGFt"),
        ("", "libice rendezvous 3 {"),
        ("state/0", "\u{1}garbage"),
        ("state/0", &newer),
    ] {
        let place = Arc::new(Place::default());
        place.keys.lock().insert(key.into(), value.into());
        let agent = Agent::start(&place, "a", settings(1, 1));
        let Notice::Failed(Error::Rendezvous { what }) = agent.notice() else { panic!("{value}") };
        assert!(what.contains("it is left as it is"), "{what}");
        agent.leave();
        assert_eq!(place.keys.lock()[key], value.as_bytes());
    }
}

#[test]
fn dyn_20_an_outage_is_outlived_and_a_long_one_is_told() {
    let place = Arc::new(Place::default());
    let agents = ["a", "b"].map(|name| Agent::start(&place, name, settings(2, 2)));
    let _ = agents.each_ref().map(Agent::joined);
    place.unreachable.store(true, Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(300));
    place.unreachable.store(false, Ordering::Relaxed);
    agents[0].wish(MemberWish::Failed { reason: "x".into(), exit: Exit::default(), last: false });
    for agent in &agents {
        assert!(matches!(agent.notice(), Notice::Over { .. }));
        agent.wish(MemberWish::Join { port: 1 });
    }
    let _ = agents.each_ref().map(Agent::joined);
    place.unreachable.store(true, Ordering::Relaxed);
    for agent in agents {
        let Notice::Failed(Error::Rendezvous { what }) = agent.notice() else { panic!() };
        assert!(what.starts_with("lost rendezvous"), "{what}");
        agent.leave();
    }
}

#[test]
fn stat_04_a_place_that_is_never_there_is_waited_for_as_long_as_said() {
    let place = Arc::new(Place::default());
    place.unreachable.store(true, Ordering::Relaxed);
    let mut settings = settings(2, 2);
    settings.options.set("join_timeout", "0.5").unwrap();
    let begin = Instant::now();
    let agent = Agent::start(&place, "a", settings);
    let Notice::Failed(Error::Timeout { what }) = agent.notice() else { panic!() };
    assert!(what.contains("within 500ms; it was not reached: ") && what.contains("job"), "{what}");
    assert!(begin.elapsed() >= Duration::from_millis(500));
    agent.leave();
}

#[test]
fn dyn_02_who_is_not_heard_waits_no_longer_than_others() {
    let place = Arc::new(Place::default());
    // The leader is not there, and not missed yet.
    let complete = State { phase: Phase::Complete, ..State::new("x") };
    place.keys.lock().insert("state/0".into(), encode(&complete));
    place.keys.lock().insert("".into(), encode(&Anchor { state: 0 }));
    let mut impatient = settings(1, 2);
    for (key, value) in [("join_timeout", "0.3"), ("keep_alive_interval", "30")] {
        impatient.options.set(key, value).unwrap();
    }
    impatient.rules.dead_after = impatient.options.dead_after();
    let late = Agent::start(&place, "late", impatient);
    let Notice::Failed(Error::Timeout { what }) = late.notice() else { panic!() };
    assert!(what.contains("run id job within 300ms"), "{what}");
    late.leave();
    let looks = place.operations.load(Ordering::Relaxed);
    assert!(looks < 100, "{looks} operations");
}

#[test]
fn stat_04_who_waits_in_vain_is_told_so() {
    let place = Arc::new(Place::default());
    let mut settings = settings(2, 2);
    settings.options.set("join_timeout", "0.3").unwrap();
    let agent = Agent::start(&place, "a", settings);
    let Notice::Failed(Error::Timeout { what }) = agent.notice() else { panic!() };
    assert!(what.contains("fewer than 2 nodes") && what.contains("job"), "{what}");
    agent.leave();
}
