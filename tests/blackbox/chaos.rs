//! Jobs of several nodes on one machine that much happens to: agents and workers are killed at random, the way to
//! the store is slow, silent or cut.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;

use crate::harness::*;
use crate::proxy::Proxy;
use crate::store::Serving;
use crate::tests;
use crate::tool::*;

/// The nodes of one job: each is an icerun with these options, and what it has for itself.
pub struct Nodes<'a> {
    case: &'a Case,
    options: Vec<String>,
}

impl<'a> Nodes<'a> {
    /// Of a dynamic rendezvous; `endpoint` is HOST:PORT.
    pub fn c10d(case: &'a Case, count: &str, endpoint: &str, conf: &str) -> Nodes<'a> {
        let place = ["--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, "--rdzv-conf", conf];
        let options = ["--nnodes", count, "--rdzv-id", "nodes", "--log-level", "info"];
        let options = options.into_iter().chain(place).map(str::to_string).collect();
        Nodes { case, options }
    }

    pub fn with(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(|option| option.to_string()));
        self
    }

    pub fn node(&self, options: &[&str]) -> Tool<'a> {
        let words: Vec<&str> =
            self.options.iter().map(String::as_str).chain(options.iter().copied()).collect();
        tool(self.case, &words)
    }
}

/// The trainer of elastic.c as the worker of a node.
pub fn trainer<'a>(t: &Case, node: Tool<'a>) -> Tool<'a> {
    let program = program("elastic");
    let program = program.to_str().expect("a plain path");
    node.words(&["--no-python", program, &t.path(""), &STEPS.to_string()])
}

// --- what trainers say ---

/// How far trainers train.
const STEPS: u64 = 1000;

/// One process of a trainer.
#[derive(Clone, Debug)]
pub struct Entry {
    pub round: u64,
    pub rank: usize,
    pub world: usize,
    pub master: String,
    pub pid: i32,
}

/// All that have begun up to now, in order.
pub fn journal(t: &Case) -> Vec<Entry> {
    let entry = |line: &String| {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse().expect("a number");
        Entry {
            round: number(0),
            rank: number(1) as usize,
            world: number(2) as usize,
            master: words[3].into(),
            pid: number(4) as i32,
        }
    };
    t.lines("journal").iter().map(entry).collect()
}

/// Those of the last round.
pub fn last_round(t: &Case) -> Vec<Entry> {
    let entries = journal(t);
    let last = entries.last().map_or(0, |entry| entry.round);
    entries.into_iter().filter(|entry| entry.round == last).collect()
}

/// Waits until a round that is at least this one has all its processes, which are so many.
#[track_caller]
pub fn wait_for_round(t: &Case, round: u64, world: usize) -> Vec<Entry> {
    wait_for(&format!("round {round} with {world} workers"), || {
        let last = last_round(t);
        last.len() == world && last[0].world == world && last[0].round >= round
    });
    last_round(t)
}

/// Every round had its own number, one master, and no rank twice; and the training came out right.
#[track_caller]
pub fn check_training(t: &Case) {
    let entries = journal(t);
    assert!(entries.is_sorted_by_key(|entry| entry.round), "{entries:?}");
    let mut rounds: BTreeMap<u64, Vec<Entry>> = BTreeMap::new();
    entries.into_iter().for_each(|entry| rounds.entry(entry.round).or_default().push(entry));
    for (round, entries) in &rounds {
        let first = &entries[0];
        let same = |entry: &Entry| entry.world == first.world && entry.master == first.master;
        assert!(entries.iter().all(same), "round {round}: {entries:?}");
        let mut ranks: Vec<usize> = entries.iter().map(|entry| entry.rank).collect();
        ranks.sort();
        ranks.dedup();
        assert_eq!(ranks.len(), entries.len(), "round {round}: {entries:?}");
        assert!(ranks.last() < Some(&first.world), "round {round}: {entries:?}");
    }
    let last = rounds.values().last().expect("a round");
    assert_eq!(last.len(), last[0].world, "the last round was whole");
    let expected = STEPS * (STEPS + 1) / 2;
    assert_eq!(t.read("checkpoint"), format!("{STEPS} {expected}\n"));
}

#[track_caller]
pub fn all_succeed(agents: Vec<Started>) {
    for agent in agents {
        agent.finish().exited(0);
    }
}

// --- chaos ---

fn e2e_02_a_job_survives_the_loss_of_agents_and_workers() {
    let soak = std::env::var("LIBICE_TEST_SOAK").ok();
    let time = soak.map_or(10, |seconds| seconds.parse().expect("LIBICE_TEST_SOAK is a number of seconds"));
    let t = Case::new();
    let mut dice = Dice::new();
    let store = Serving::start(&t, &["127.0.0.1"]);
    let conf = "is_host=0,keep_alive_interval=0.2,keep_alive_max_attempt=8,last_call_timeout=1";
    let nodes = Nodes::c10d(&t, "2:3", &format!("127.0.0.1:{}", store.port), conf).with(&[
        "--max-restarts",
        "100000",
        "--shutdown-timeout",
        "2",
    ]);
    let mut agents: Vec<Started> = (0..3).map(|_| trainer(&t, nodes.node(&[])).spawn()).collect();
    let mut round = 0;
    let end = Instant::now() + Duration::from_secs(time);
    while Instant::now() < end {
        // In the middle of whatever goes on then.
        thread::sleep(Duration::from_millis(500 + dice.below(1000)));
        if dice.below(2) == 0 {
            agents.remove(dice.below(3) as usize).kill();
            agents.push(trainer(&t, nodes.node(&[])).spawn());
        } else if let entries @ [_, ..] = &last_round(&t)[..] {
            let victim = &entries[dice.below(entries.len() as u64) as usize];
            round = victim.round;
            send(victim.pid, libc::SIGKILL);
        }
    }
    wait_for_round(&t, round + 1, 3);
    t.write("finish", b"", 0o644);
    // Some may have lived for longer than a test's agents usually do.
    for agent in &mut agents {
        wait_for("the end of all agents", || agent.child.try_wait().expect("an agent").is_some());
    }
    all_succeed(agents);
    store.end();
    no_process_left(&t);
    check_training(&t);
}

// --- the way to the store ---

/// Two nodes, the second one behind a proxy.
fn behind_a_proxy<'a>(
    t: &'a Case,
    count: &str,
    conf: &str,
    worker: impl Fn(Tool<'a>) -> Tool<'a>,
) -> (Proxy, Started, Started) {
    let port = free_port();
    let proxy = Proxy::before(port);
    let options = ["--max-restarts", "1", "--shutdown-timeout", "2"];
    let endpoint = format!("127.0.0.1:{port}");
    let start = |endpoint: &str, conf: &str| {
        worker(Nodes::c10d(t, count, endpoint, conf).with(&options).node(&[])).spawn()
    };
    let first = start(&endpoint, &format!("{conf},is_host=1"));
    let second = start(&proxy.endpoint(), &format!("{conf},is_host=0"));
    (proxy, first, second)
}

#[track_caller]
fn finish(t: &Case, agents: Vec<Started>) {
    t.write("finish", b"", 0o644);
    all_succeed(agents);
    t.nothing_left();
    check_training(t);
}

fn kill_a_worker(t: &Case) {
    assert!(send(last_round(t)[0].pid, libc::SIGKILL));
}

fn e2e_04_a_slow_way_takes_time_and_nothing_else() {
    let t = Case::new();
    let (proxy, first, second) = behind_a_proxy(&t, "2", "keep_alive_interval=1", |node| trainer(&t, node));
    wait_for_round(&t, 0, 2);
    proxy.delay(100);
    kill_a_worker(&t);
    wait_for_round(&t, 1, 2);
    finish(&t, vec![first, second]);
}

fn e2e_04_a_way_that_breaks_again_and_again_is_made_anew() {
    let t = Case::new();
    let (proxy, first, second) = behind_a_proxy(&t, "2", "keep_alive_interval=1", |node| trainer(&t, node));
    wait_for_round(&t, 0, 2);
    for number in 0..20 {
        thread::sleep(Duration::from_millis(30));
        proxy.reset();
        if number == 10 {
            kill_a_worker(&t);
        }
    }
    wait_for_round(&t, 1, 2);
    finish(&t, vec![first, second]);
}

fn dyn_20_workers_go_on_while_the_store_is_out_of_reach() {
    let t = Case::new();
    let (proxy, first, second) =
        behind_a_proxy(&t, "2", "keep_alive_interval=1,keep_alive_max_attempt=20", |node| trainer(&t, node));
    wait_for_round(&t, 0, 2);
    proxy.silence(true);
    thread::sleep(Duration::from_secs(3));
    proxy.silence(false);
    finish(&t, vec![first, second]);
    assert_eq!(journal(&t).len(), 2, "nothing was started again");
}

/// The store does not say that it is gone: it says nothing. The workers do not need each other.
fn dyn_20_a_silent_store_is_lost_after_the_limit_and_holds_up_no_stop() {
    for stop in [false, true] {
        let t = Case::new();
        let lost = if stop { 300 } else { 3 };
        let conf = format!("keep_alive_interval=0.3,keep_alive_max_attempt=5,lost_timeout={lost}");
        let (proxy, first, second) = behind_a_proxy(&t, "1:2", &conf, |node| {
            node.probe(&["append", &t.path("pids"), "%p", "await", &t.path("finish")])
        });
        let pids = pids_in(&t, "pids", 2);
        let worker = *children(second.pid()).iter().find(|pid| pids.contains(pid)).expect("a worker");
        let begin = Instant::now();
        proxy.silence(true);
        // The other one goes on alone meanwhile.
        wait_for("the next round", || first.err_so_far().contains("round 1: group rank 0 of 1 nodes"));
        t.wait_lines("pids", 3);
        assert!(alive(worker), "a worker goes on where the store is not reached");
        if stop {
            second.signal(libc::SIGTERM);
        }
        let ended = second.finish();
        let took = begin.elapsed();
        if stop {
            assert_eq!(ended.status.signal(), Some(libc::SIGTERM), "{}", ended.err());
        } else {
            assert!(ended.exited(125).err().contains("lost rendezvous: not reached for "), "{}", ended.err());
            assert!(took.as_secs() >= 3, "{took:?}");
        }
        assert!(took.as_secs() < 30, "{took:?}");
        t.write("finish", b"", 0o644);
        let begin = Instant::now();
        all_succeed(vec![first]);
        assert!(begin.elapsed().as_secs() < 20, "a connection that nobody uses holds nobody up");
        t.nothing_left();
    }
}

pub fn tests() -> Vec<Trial> {
    tests![
        e2e_02_a_job_survives_the_loss_of_agents_and_workers,
        e2e_04_a_slow_way_takes_time_and_nothing_else,
        e2e_04_a_way_that_breaks_again_and_again_is_made_anew,
        dyn_20_workers_go_on_while_the_store_is_out_of_reach,
        dyn_20_a_silent_store_is_lost_after_the_limit_and_holds_up_no_stop,
    ]
}
