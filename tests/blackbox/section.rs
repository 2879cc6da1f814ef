//! Areas TIME, RST and OBS: what a worker's own timers, sections and steps lead to.

use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::harness::*;
use crate::tool::tool;
use crate::{tests, tests_by_way};

pub fn tests() -> Vec<Trial> {
    let by_kind = tests_by_way![
        Kind::ALL;
        time_01_the_signal_of_own_timers,
        time_18_a_section_that_takes_too_long,
        time_18_what_sections_take_is_learnt,
        time_stragglers_are_ended,
        rst_12_a_worker_asks_for_a_restart,
        rst_14_attempts_that_come_no_further,
        obs_lag_section_and_time_at_a_step,
    ];
    let once = tests![
        time_01_a_signal_that_ends_nothing,
        time_09_timers_that_are_only_told,
        time_09_several_expired_timers_and_one_signal,
        time_18_the_time_outside_of_sections,
        time_18_sections_in_time_and_in_a_pause,
        time_18_firsts_are_learnt_from_other_attempts,
        time_18_values,
        time_18_sections_of_an_idle_agent,
        time_18_by_icerun,
        time_stragglers_by_icerun,
        rst_12_asked_and_ended_well,
        rst_14_unknown_is_not_none,
        rst_14_by_icerun,
    ];
    [by_kind, once].into_iter().flatten().collect()
}

fn message(run: &Run, rank: usize) -> String {
    run.worker(rank)["message"].as_str().unwrap().into()
}

fn warnings(t: &Case, part: &str) -> Vec<String> {
    t.lines("log").into_iter().filter(|line| line.starts_with("2 ") && line.contains(part)).collect()
}

/// The events of state STUCK, as `RANK SIGNAL ERROR`.
fn stuck_events(t: &Case) -> Vec<String> {
    let events = t.lines("events").into_iter().map(|line| serde_json::from_str::<Value>(&line).unwrap());
    let stuck = events.filter(|event| event["name"] == "torchelastic.worker.status.STUCK");
    let text = |event: Value| {
        let fields = &event["metadata"];
        format!("{} {} {}", fields["global_rank"], fields["signal"], fields["error"].as_str().unwrap())
    };
    stuck.map(text).collect()
}

fn time_01_the_signal_of_own_timers(kind: Kind) {
    let t = Case::new();
    let host = t.host().set("timer_signal", libc::SIGUSR1).set("event_file", t.path("events"));
    let run = host.controlled(kind, &["expires", "step", "0.2", "pause"]).run();
    run.failed_as(END_WORKER_FAILURE);
    let worker = run.worker(0);
    assert_eq!((&worker["signal"], &worker["cause"]), (&libc::SIGUSR1.into(), &CAUSE_TIMED_OUT.into()));
    assert!(message(&run, 0).contains("timer \"step\" of 0.200 s"), "{run}");
    let told = stuck_events(&t);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("0 10 its timer \"step\""), "{told:?}");
}

fn time_01_a_signal_that_ends_nothing() {
    let t = Case::new();
    let host = t.host().set("timer_signal", libc::SIGTERM).set("shutdown_timeout", 0.5);
    let run = host.controlled(Kind::Program, &["ignore", "TERM", "expires", "s", "0.1", "pause"]).run();
    run.failed_as(END_WORKER_FAILURE);
    let worker = run.worker(0);
    assert_eq!((&worker["signal"], &worker["cause"]), (&libc::SIGKILL.into(), &CAUSE_TIMED_OUT.into()));
    run.within(Duration::from_secs(15));
}

fn time_09_timers_that_are_only_told() {
    let t = Case::new();
    let host = t.host().set("timer_signal", 0).set("log_callback", t.path("log"));
    let host = host.set("event_file", t.path("events")).set("heartbeat_timeout", 0.3);
    let verbs = [
        "step", "1", "expires", "b", "0.2", "expires", "a", "0.1", "section", "s", "sleep", "1.5", "disarm",
        "a",
    ];
    host.set("section_limit", "s:0.25").controlled(Kind::Program, &verbs).run().succeeded();
    let told = stuck_events(&t);
    // When the step and the section were said is the worker's own affair: the limits are so near to each other that
    // either may be over first.
    for part in ["\"a\"", "\"b\"", "section \"s\"", "no heartbeat"] {
        assert_eq!(told.iter().filter(|line| line.contains(part)).count(), 1, "{part}: {told:?}");
    }
    assert!(told.iter().all(|line| line.starts_with("0 0 ")), "{told:?}");
    assert!(told[0].contains("\"a\""), "the first that expires is told first: {told:?}");
    assert_eq!(told.len(), 4, "each once: {told:?}");
    assert_eq!(warnings(&t, "only reported").len(), 4);
}

fn time_09_several_expired_timers_and_one_signal() {
    let t = Case::new();
    let dead = t.path("got");
    let verbs = [
        "count", "USR1", &dead, "expires", "late", "4", "expires", "early", "1", "expires", "other", "2.5",
        "sleep", "60",
    ];
    let host = t.host().set("timer_signal", libc::SIGUSR1).set("shutdown_timeout", 1);
    let run = host.set("event_file", t.path("events")).controlled(Kind::Program, &verbs).run();
    run.failed_as(END_WORKER_FAILURE);
    assert!(message(&run, 0).contains("\"early\""), "{run}");
    assert_eq!(t.lines("got").len(), 1, "one signal");
    assert_eq!(stuck_events(&t).len(), 1);
}

fn time_18_a_section_that_takes_too_long(kind: Kind) {
    let t = Case::new();
    let host = t.host().set("local_world_size", 2).set("max_restarts", 1);
    let host = host.set("section_limit", "setup:60").set("section_limit", "step:0.3");
    let verbs = ["section", "setup", "sleep", "0.5", "rank", "1", "section", "step", "pause", ";", "pause"];
    let run = host.controlled(kind, &verbs).run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(run.result()["restarts"], 1, "the usual policy");
    let worker = run.worker(1);
    assert_eq!((&worker["signal"], &worker["cause"]), (&libc::SIGKILL.into(), &CAUSE_TIMED_OUT.into()));
    let message = message(&run, 1);
    assert!(message.contains("in section \"step\" for 0.3"), "{message}");
    assert!(message.contains("where 0.300 s are the limit") && !message.contains("learnt"), "{message}");
    assert!(run.result()["message"].as_str().unwrap().starts_with("rank 1 "), "{run}");
    assert!(!worker["stack"].as_str().unwrap().is_empty(), "TIME-20: {run}");
}

fn time_18_the_time_outside_of_sections() {
    let t = Case::new();
    let host = t.host().set("section_limit", ":0.3").set("local_world_size", 2);
    // Rank 0 never says a word of sections.
    let verbs = ["rank", "1", "section", "step", "sleep", "0.6", "section", "-", "pause", ";", "pause"];
    let run = host.controlled(Kind::Program, &verbs).run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(run.result()["root_cause"]["local_rank"], 1, "{run}");
    assert!(message(&run, 1).contains("outside of any section for 0.3"), "{run}");
    assert_eq!(run.worker(0)["cause"], CAUSE_STOPPED_BY_AGENT);
}

fn time_18_what_sections_take_is_learnt(kind: Kind) {
    let t = Case::new();
    // The first step takes long, and does not count for the others.
    let verbs = [
        "section", "setup", "sleep", "0.05", "section", "step", "sleep", "1", "sections", "step", "9",
        "0.02", "rank", "1", "section", "step", "pause", ";", "pause",
    ];
    let host = t.host().set("local_world_size", 2).set("section_learning", "5,0.4");
    let run = host.controlled(kind, &verbs).run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(run.result()["root_cause"]["local_rank"], 1, "{run}");
    let message = message(&run, 1);
    let (_, limit) = message.split_once("where ").unwrap();
    let limit: f64 = limit.split(' ').next().unwrap().parse().unwrap();
    assert!((0.4..4.5).contains(&limit), "{message}");
    assert!(message.contains("are the limit, learnt from "), "{message}");
    assert_eq!(run.worker(0)["cause"], CAUSE_STOPPED_BY_AGENT, "{run}");
}

/// A first set-up is measured by those of other ranks, and of attempts before.
fn time_18_firsts_are_learnt_from_other_attempts() {
    let t = Case::new();
    let verbs = [
        "section",
        "setup",
        "attempt",
        "2",
        "rank",
        "0",
        "pause",
        ";",
        ";",
        "section",
        "-",
        "append",
        &t.path("up.%a"),
        "x",
        "attempt",
        "2",
        "pause",
        ";",
        "await_lines",
        &t.path("up.%a"),
        "2",
        "exit",
        "1",
    ];
    let host = t.host().set("local_world_size", 2).set("max_restarts", 2).set("section_learning", "2,0.5");
    let run = host.controlled(Kind::Program, &verbs).run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(run.result()["root_cause"]["local_rank"], 0, "{run}");
    assert!(message(&run, 0).contains("in section \"setup\""), "{run}");
    assert!(message(&run, 0).contains("learnt from 5"), "{run}");
}

fn time_18_sections_in_time_and_in_a_pause() {
    let t = Case::new();
    let host = t.host().set("section_limit", "step:1").set("section_limit", ":30");
    host.controlled(Kind::Program, &["sections", "step", "30", "0.05"]).run().succeeded();
    let verbs = ["section", "step", "append", &t.path("ready"), "x", "work", &t.path("work"), "0.001", "0"];
    let run = t
        .host()
        .set("section_limit", "step:1")
        .controlled(Kind::Program, &verbs)
        .steps(&["start", &format!("await_lines={}:1", t.path("ready")), "pause_workers=20", "sleep=1.5"])
        .steps(&["snapshot", "resume", "wait=60"])
        .run();
    assert_eq!(run.event("snapshot")["workers"][0]["outcome"], OUTCOME_RUNNING, "{run}");
    run.failed_as(END_WORKER_FAILURE);
    assert!(message(&run, 0).contains("section \"step\""), "it goes on after the pause: {run}");
}

fn time_18_values() {
    let t = Case::new();
    for (field, value, parts) in [
        ("section_limit", "step:-1", ["section_limit is -1", "seconds"]),
        ("section_learning", "0.5,1", ["section_learning is 0.5", "1 to 1000"]),
        ("section_learning", "nan,1", ["section_learning is NaN", "1 to 1000"]),
        ("section_learning", "5,-1", ["section_learning is -1", "seconds"]),
        ("timer_signal", "65", ["timer_signal is 65", "0 to 64"]),
        ("timer_signal", "-1", ["timer_signal is -1", "0 to 64"]),
        ("max_attempts_without_progress", "-1", ["without_progress is -1", "0 to"]),
    ] {
        t.host().set(field, value).probe(&[]).step("new").run().refused(&parts);
    }
    // More names than there is room for are told to who gives them, and harm nobody.
    let names: Vec<String> = (0..8).map(|index| format!("section {index}")).collect();
    let mut verbs = vec![];
    for name in &names {
        verbs.extend(["section", name]);
    }
    t.host().set("section_limit", "a:9").controlled(Kind::Program, &verbs).run().succeeded();
    verbs.extend(["section", "one more"]);
    let run = t.host().set("section_limit", "a:9").controlled(Kind::Program, &verbs).run();
    run.failed_as(END_WORKER_FAILURE);
    assert!(run.err().contains("8 sections") && run.err().contains("one more"), "{run}");
}

/// Steps in sections with a limit that is far away: the agent sleeps.
fn time_18_sections_of_an_idle_agent() {
    let t = Case::new();
    let ready = t.path("ready");
    let verbs = ["section", "step", "append", &ready, "x", "sections", "step", "100000", "0.001"];
    let host = t.host().set("section_limit", "step:100").set("local_world_size", 2);
    let running = host.controlled(Kind::Program, &verbs).steps(&["start", "wait=60"]).spawn();
    t.wait_lines("ready", 2);
    std::thread::sleep(Duration::from_millis(300));
    let before = switches(running.pid());
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(switches(running.pid()), before);
    running.kill();
}

/// How often threads of a process have been switched to and from.
fn switches(pid: i32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let status = tasks.map(|task| std::fs::read_to_string(task.path().join("status")).unwrap_or_default());
    let count = |status: String| -> u64 {
        let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
        lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
    };
    status.map(count).sum()
}

fn time_18_by_icerun() {
    let controlled = program("controlled").display().to_string();
    let t = Case::new();
    let options =
        ["--section-limits", "setup:60,step:0.3,:60", "--timer-signal", "10", "--shutdown-timeout", "1"];
    let worker = ["--no-python", &controlled, "section", "setup", "section", "step", "pause"];
    let ended = tool(&t, &options).words(&worker).run();
    assert_eq!(ended.status.code(), Some(124), "{}", ended.err());
    assert!(ended.err().contains("in section \"step\""), "{}", ended.err());
    let t = Case::new();
    let worker = ["--no-python", &controlled, "sections", "step", "9", "0.01", "section", "step", "pause"];
    let ended = tool(&t, &["--section-learning", "3:0.2"]).words(&worker).run();
    assert!(ended.err().contains("learnt from"), "{}", ended.err());
    for (option, value, want) in [
        ("--section-limits", "step", "NAME:SECONDS"),
        ("--section-limits", "step:fast", "NAME:SECONDS"),
        ("--section-learning", "x", "FACTOR"),
        ("--section-learning", "0.2", "1 to 1000"),
        ("--timer-signal", "99", "0 to 64"),
    ] {
        let t = Case::new();
        tool(&t, &[option, value]).probe(&[]).run().refused(&[option, want]);
    }
}

/// One is done, others are not.
fn time_stragglers_are_ended(kind: Kind) {
    let t = Case::new();
    let host = t.host().set("local_world_size", 3).set("straggler_timeout", 0.3);
    let run = host.worker(kind, &["rank", "0", "pause", ";", "rank", "2", "sleep", "0.1", ";"]).run();
    run.failed_as(END_WORKER_FAILURE);
    let worker = run.worker(0);
    assert_eq!((&worker["signal"], &worker["cause"]), (&libc::SIGKILL.into(), &CAUSE_TIMED_OUT.into()));
    assert!(message(&run, 0).contains("still ran 0.300 s after another worker had ended well"), "{run}");
    for rank in [1, 2] {
        assert_eq!(run.worker(rank)["cause"], CAUSE_SUCCESS, "{run}");
    }
    // In time; and only told of.
    let t = Case::new();
    let verbs = ["rank", "0", "sleep", "0.4", ";"];
    let host = || t.host().set("local_world_size", 2).set("log_callback", t.path("log"));
    host().set("straggler_timeout", 60).worker(kind, &verbs).run().succeeded();
    assert_eq!(warnings(&t, "still ran").len(), 0);
    host().set("straggler_timeout", 0.05).set("timer_signal", 0).worker(kind, &verbs).run().succeeded();
    assert_eq!(warnings(&t, "still ran").len(), 1);
}

fn time_stragglers_by_icerun() {
    let t = Case::new();
    let options = ["--nproc-per-node", "2", "--straggler-timeout", "0.2"];
    let ended = tool(&t, &options).probe(&["rank", "0", "pause", ";"]).run();
    assert_eq!(ended.status.code(), Some(124), "{}", ended.err());
    assert!(ended.err().contains("after another worker had ended well"), "{}", ended.err());
}

fn rst_12_a_worker_asks_for_a_restart(kind: Kind) {
    let t = Case::new();
    let host = t.host().set("local_world_size", 2).set("max_restarts", 1).set("log_callback", t.path("log"));
    let (started, up) = (t.path("started"), t.path("up.%a"));
    let verbs = ["append", &started, "%a", "append", &up, "x", "await_lines", &up, "2"];
    let verbs = [&verbs[..], &["attempt", "0", "rank", "1", "restart", ";", "pause", ";"]].concat();
    host.controlled(kind, &verbs).run().succeeded();
    let mut started = t.lines("started");
    started.sort();
    assert_eq!(started, ["0", "0", "1", "1"]);
    assert_eq!(warnings(&t, "rank 1 asked for a restart of the group").len(), 1);
    // None is left.
    let t = Case::new();
    let verbs = ["rank", "1", "restart", ";", "pause"];
    let host = t.host().set("local_world_size", 2).set("max_restarts", 1);
    let run = host.controlled(kind, &verbs).run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(run.result()["restarts"], 1, "it counts");
    assert_eq!(run.result()["message"], "rank 1 asked for a restart of the group");
    assert!(run.result()["root_cause"].is_null(), "{run}");
    for rank in 0..2 {
        assert_eq!(run.worker(rank)["cause"], CAUSE_STOPPED_BY_AGENT);
    }
}

fn rst_12_asked_and_ended_well() {
    let t = Case::new();
    let verbs = ["append", &t.path("started"), "%a", "attempt", "0", "restart", "exit", "0", ";"];
    let run = t.host().set("max_restarts", 3).controlled(Kind::Program, &verbs).run();
    run.succeeded();
    assert_eq!(
        (run.result()["restarts"].clone(), t.lines("started")),
        (1.into(), vec!["0".into(), "1".into()])
    );
}

fn rst_14_attempts_that_come_no_further(kind: Kind) {
    let t = Case::new();
    let host = t.host().set("max_restarts", 50).set("max_attempts_without_progress", 2);
    let verbs = [
        "append",
        &t.path("attempts"),
        "%a",
        "attempt",
        "0",
        "step",
        "5",
        ";",
        "attempt",
        "1",
        "step",
        "9",
        ";",
        "attempt",
        "2",
        "step",
        "9",
        ";",
        "attempt",
        "3",
        "step",
        "7",
        ";",
        "exit",
        "1",
    ];
    let run = host.controlled(kind, &verbs).run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(t.lines("attempts"), ["0", "1", "2", "3"], "{run}");
    let message = run.result()["message"].as_str().unwrap();
    assert!(message.contains("2 attempts came no further"), "{message}");
}

fn rst_14_unknown_is_not_none() {
    let t = Case::new();
    // Nobody says anything; and then it is what was done that counts.
    let host = t.host().set("max_restarts", 4).set("max_attempts_without_progress", 1);
    let run = host.controlled(Kind::Program, &["exit", "1"]).run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(run.result()["restarts"], 4, "{run}");
    let host = t.host().set("max_restarts", 4).set("max_attempts_without_progress", 1);
    let run = host.controlled(Kind::Program, &["progress", "5", "10", "exit", "1"]).run();
    assert_eq!(run.result()["restarts"], 1, "{run}");
}

fn rst_14_by_icerun() {
    let t = Case::new();
    let controlled = program("controlled").display().to_string();
    let options = ["--max-restarts", "9", "--max-attempts-without-progress", "1"];
    let ended = tool(&t, &options).words(&["--no-python", &controlled, "step", "3", "exit", "7"]).run();
    assert_eq!(ended.status.code(), Some(7), "{}", ended.err());
    assert!(ended.err().contains("1 attempts came no further"), "{}", ended.err());
}

fn obs_lag_section_and_time_at_a_step(kind: Kind) {
    let t = Case::new();
    let verbs = [
        "section",
        "step",
        "rank",
        "0",
        "step",
        "40",
        ";",
        "rank",
        "2",
        "step",
        "37",
        "section",
        "-",
        ";",
        "append",
        &t.path("ready"),
        "x",
        "await",
        &t.path("go"),
    ];
    let run = t
        .host()
        .set("local_world_size", 3)
        .controlled(kind, &verbs)
        .steps(&["start", &format!("await_lines={}:3", t.path("ready")), "snapshot", "sleep=0.1", "snapshot"])
        .steps(&[&format!("dump_self={}", t.path("go")), "wait=60"])
        .run();
    run.succeeded();
    let field = |snapshot: &Value, name: &str| -> Vec<Value> {
        snapshot["workers"].as_array().unwrap().iter().map(|worker| worker[name].clone()).collect()
    };
    let last = run.event("snapshot");
    assert_eq!(field(last, "lag"), [0, -1, 3].map(Value::from));
    assert_eq!(field(last, "section"), ["step", "step", ""].map(Value::from));
    assert_eq!(last["slowest"], 2);
    let first = run.events("snapshot")[0];
    assert_eq!(field(first, "at_step_ns"), [0, -1, 0].map(Value::from));
    for (rank, said) in [(0, true), (1, false), (2, true)] {
        let at_step = field(last, "at_step_ns")[rank].as_i64().unwrap();
        assert!(if said { at_step >= 100_000_000 } else { at_step == -1 }, "{at_step}");
        assert!(field(last, "in_section_ns")[rank].as_i64().unwrap() >= 100_000_000, "{last}");
    }
}
