//! Area BAR: agents whose workers have succeeded wait for the others.

use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::harness::*;
use crate::health::get;
use crate::nodes::*;
use crate::tests;
use crate::tool::*;

pub fn tests() -> Vec<Trial> {
    tests![
        bar_01_the_earlier_one_waits,
        bar_02_bar_06_the_wait_has_an_end,
        bar_04_a_failed_job_has_no_barrier,
        bar_05_a_signal_ends_the_wait,
        bar_05_a_signal_ends_the_last_wait,
        bar_08_who_waits_takes_part_in_a_restart,
        bar_08_who_has_gone_is_not_waited_for,
        bar_09_one_agent_waits_for_nobody,
        bar_10_it_is_alive_meanwhile,
    ]
}

/// What an agent says when it begins to wait.
const WAITS: &str = "waiting for the other hosts";

fn bar_01_the_earlier_one_waits() {
    let t = Case::new();
    let job = Job::c10d(&t, "2");
    let mut early = job.agent(&[]).shell(&t, "exit 0").spawn();
    let late = job.agent(&[]).until_go(&t).spawn();
    early.says(WAITS);
    thread::sleep(Duration::from_millis(200));
    assert!(early.is_running());
    go(&t);
    all_exited([early, late], 0);
    t.nothing_left();
}

/// Whichever of them serves the store.
fn bar_02_bar_06_the_wait_has_an_end() {
    for (limit, early_serves) in [("0", false), ("0", true), ("0.5", false), ("0.5", true)] {
        let t = Case::new();
        let job = Job::c10d(&t, "2").with(&["--exit-barrier-timeout", limit]).conf(QUICK);
        let worker = |early: bool| {
            let t = &t;
            move |agent: Tool<'_>| if early { agent.shell(t, "exit 0") } else { agent.until_go(t) }.spawn()
        };
        let place = |early: bool| if early { "0" } else { "1" };
        let first = worker(early_serves)(job.agent(&["--node-rank", place(early_serves)]));
        wait_for("the store", || listens(job.port));
        let second = worker(!early_serves)(job.agent(&["--node-rank", place(!early_serves)]));
        let (early, mut late) = if early_serves { (first, second) } else { (second, first) };
        let ended = early.finish();
        ended.exited(0);
        assert!(ended.err().contains("group rank 1: "), "{}", ended.err());
        assert!(late.is_running());
        go(&t);
        late.finish().exited(0);
        t.nothing_left();
    }
}

fn bar_04_a_failed_job_has_no_barrier() {
    let t = Case::new();
    let job = Job::c10d(&t, "2");
    let early = job.agent(&[]).shell(&t, "exit 0").spawn();
    let late = job.agent(&[]).shell(&t, &format!("$PROBE await {}; exit 7", t.path("go"))).spawn();
    early.says(WAITS);
    go(&t);
    all_exited([early, late], 7);
    t.nothing_left();
}

fn bar_05_a_signal_ends_the_wait() {
    for serves in [false, true] {
        let t = Case::new();
        let job = Job::c10d(&t, "2").conf(QUICK);
        let early = |agent: Tool<'_>| agent.shell(&t, "exit 0").spawn();
        let late = |agent: Tool<'_>| agent.until_go(&t).spawn();
        let first = if serves { early(job.agent(&[])) } else { late(job.agent(&[])) };
        wait_for("the store", || listens(job.port));
        let second = if serves { late(job.agent(&[])) } else { early(job.agent(&[])) };
        let (early, mut late) = if serves { (first, second) } else { (second, first) };
        early.says(WAITS);
        early.signal(libc::SIGTERM);
        ended_by_term(early);
        assert!(late.is_running());
        go(&t);
        late.finish().exited(0);
        t.nothing_left();
    }
}

/// All have succeeded, but one does not go, so the store stays. That one never hears of it.
fn bar_05_a_signal_ends_the_last_wait() {
    let t = Case::new();
    let job = Job::c10d(&t, "2").conf(QUICK);
    let late = job.first_agent(&[], |agent| agent.until_go(&t));
    let early = job.agent(&[]).shell(&t, "exit 0").spawn();
    // Who stands still before the others have heard that it is done would be missed.
    early.says("waiting for the workers of other hosts for 5 s");
    early.signal(libc::SIGSTOP);
    go(&t);
    late.says("all hosts have succeeded");
    late.signal(libc::SIGTERM);
    let ended = late.finish();
    ended.exited(0).within(Duration::from_secs(15));
    early.signal(libc::SIGCONT);
    let ended = early.finish();
    let said = "it is not known whether the job has succeeded";
    assert!(ended.exited(125).err().contains(said), "{}", ended.err());
    t.nothing_left();
}

fn bar_08_who_waits_takes_part_in_a_restart() {
    let t = Case::new();
    let job = Job::c10d(&t, "2").with(&["--max-restarts", "1"]);
    let early = job.agent(&[]).shell(&t, "exit 0").spawn();
    let failing = format!("$PROBE await {}; exit $((1 - ICE_ROUND))", t.path("go"));
    let late = job.agent(&[]).shell(&t, &failing).spawn();
    early.says(WAITS);
    go(&t);
    all_exited([early, late], 0);
    round(&t, 1, 2);
    t.nothing_left();
}

fn bar_08_who_has_gone_is_not_waited_for() {
    let t = Case::new();
    let job = Job::c10d(&t, "2").with(&["--max-restarts", "1"]);
    let failing = format!("$PROBE await {}; exit $((1 - ICE_ROUND))", t.path("go"));
    let late = job.first_agent(&[], |agent| agent.shell(&t, &failing));
    job.agent(&["--exit-barrier-timeout", "0"]).shell(&t, "exit 0").run().exited(0);
    go(&t);
    late.says("round 0 is over");
    let other = job.agent(&[]).shell(&t, "exit 0").spawn();
    // By far less than what it takes to find that somebody has vanished.
    let ended = other.finish();
    ended.exited(0).within(Duration::from_secs(10));
    late.finish().exited(0);
    round(&t, 1, 2);
    t.nothing_left();
}

fn bar_09_one_agent_waits_for_nobody() {
    let t = Case::new();
    let job = Job::c10d(&t, "1");
    let ended = job.agent(&["--nproc-per-node", "2"]).shell(&t, "exit 0").run();
    ended.exited(0).within(Duration::from_secs(5));
    round(&t, 0, 2);
    t.nothing_left();
}

fn bar_10_it_is_alive_meanwhile() {
    let t = Case::new();
    let job = Job::c10d(&t, "2");
    let port = free_port();
    let early = job.agent(&[]).env("TORCHELASTIC_HEALTH_CHECK_PORT", &port.to_string());
    let early = early.shell(&t, "exit 0").spawn();
    let late = job.agent(&[]).until_go(&t).spawn();
    early.says(WAITS);
    for _ in 0..3 {
        assert_eq!(get(port).0, "HTTP/1.1 200 OK");
    }
    go(&t);
    all_exited([early, late], 0);
}
