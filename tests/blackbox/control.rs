//! Areas TIME and OBS: what agent and workers say to each other while a run goes on.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::harness::*;
use crate::tool::tool;
use crate::{tests, tests_by_way};

const ANSWER_NONE: i32 = 0;
const ANSWER_SUCCEEDED: i32 = 1;
const ANSWER_FAILED: i32 = 2;
const ANSWER_GONE: i32 = 3;

pub fn tests() -> Vec<Trial> {
    let by_kind = tests_by_way![
        Kind::ALL;
        time_requests_are_met_at_one_step,
        time_a_pause_a_checkpoint_in_it_and_on,
        time_a_checkpoint_before_the_stop,
        time_a_stuck_rank_costs_its_answer_only,
        time_01_an_expired_timer_ends_the_worker,
        time_02_timers_that_are_met,
        time_10_a_restart_begins_anew,
        time_silence_ends_the_worker,
        time_descriptors_may_be_closed,
        obs_the_state_of_each_rank,
    ];
    let once = tests![
        time_04_a_worker_that_ends_with_a_timer,
        time_icerun_options,
        time_a_page_of_its_own_for_each_rank,
        time_a_wrapper_script_hands_the_page_on,
        time_nothing_is_there_unless_asked_for,
        time_outside_an_agent_all_succeeds,
        time_ranks_that_count_by_tens_or_not_at_all,
        time_a_rank_that_refuses_or_is_gone,
        time_a_rank_that_waits_in_a_checkpoint_is_not_left_there,
        time_the_answers_to_a_gentle_stop,
        time_a_stop_does_not_wait_for_ever,
        time_requests_of_several_threads,
        time_a_request_waits_for_the_restart,
        time_timers_stand_still_in_a_pause,
        time_an_idle_agent_does_not_wake_up,
        time_a_worker_that_scribbles_on_the_page,
        time_processes_of_one_worker_one_after_the_other,
        time_other_children_of_the_host_know_nothing_of_it,
    ];
    [by_kind, once].into_iter().flatten().collect()
}

/// The lines of `work` of each rank: kind, reason, the step asked for, the step it was done at.
pub fn done(t: &Case, ranks: usize) -> Vec<Vec<Vec<String>>> {
    let words = |line: String| line.split(' ').map(str::to_string).collect();
    (0..ranks).map(|rank| t.lines(&format!("work.{rank}")).into_iter().map(words).collect()).collect()
}

/// All ranks did the same at the same steps, and at those that were asked for.
#[track_caller]
pub fn at_one_step(done: &[Vec<Vec<String>>], kinds: &[&str]) {
    for rank in done {
        let of: Vec<&str> = rank.iter().map(|line| line[0].as_str()).collect();
        assert_eq!(of, kinds);
        for (line, first) in rank.iter().zip(&done[0]) {
            assert_eq!(line[3], first[3], "{line:?} {first:?}");
        }
    }
}

fn time_requests_are_met_at_one_step(kind: Kind) {
    const TIMES: usize = 100;
    let t = Case::new();
    // In lockstep, as ranks that compute together are: one that was slow to start would be behind for ever.
    let work = ["lockstep", &t.path("shared"), "work", &t.path("work.%r"), "0.0002", "0"];
    let run = t
        .host()
        .set("local_world_size", 3)
        .controlled(kind, &[&["append", &t.path("ready"), "x"], &work[..]].concat())
        .steps(&["start", &format!("await_lines={}:3", t.path("ready"))])
        .step(format!("checkpoints={TIMES}"))
        .steps(&["request_stop=20", "wait=60"])
        .run();
    run.failed_as(END_INTERRUPTED);
    assert_eq!(run.event("checkpoints")["complete"], TIMES, "{run}");
    assert_eq!(run.event("request_stop")["complete"], 1, "{run}");
    assert_eq!(run.result()["all_exited_cleanly"], 1, "{run}");
    let mut kinds = vec!["save"; TIMES];
    kinds.push("stop");
    at_one_step(&done(&t, 3), &kinds);
    for line in done(&t, 3).into_iter().flatten() {
        assert_eq!((line[1].as_str(), &line[2]), ("1", &line[3]), "at the step that was asked for");
    }
}

fn workers(event: &Value, field: &str) -> Vec<i64> {
    event["workers"]
        .as_array()
        .expect("workers")
        .iter()
        .map(|worker| worker[field].as_i64().unwrap())
        .collect()
}

fn time_a_pause_a_checkpoint_in_it_and_on(kind: Kind) {
    let t = Case::new();
    let run = t
        .host()
        .set("local_world_size", 2)
        .controlled(kind, &["append", &t.path("ready"), "x", "work", &t.path("work.%r"), "0.001", "0"])
        .steps(&["start", &format!("await_lines={}:2", t.path("ready")), "sleep=0.02"])
        .steps(&["pause_workers=20", "snapshot", "sleep=0.05", "snapshot", "checkpoint=20", "snapshot"])
        .steps(&["resume", "sleep=0.05", "snapshot", "request_stop=20", "wait=60"])
        .run();
    run.failed_as(END_INTERRUPTED);
    let snapshots = run.events("snapshot");
    let steps: Vec<_> = snapshots.iter().map(|snapshot| workers(snapshot, "step")).collect();
    assert!(steps[0] == steps[1] && steps[1] == steps[2], "{steps:?}");
    assert_eq!(steps[0][0], steps[0][1]);
    assert!(steps[3].iter().all(|step| *step > steps[0][0]), "{steps:?}");
    for snapshot in &snapshots[..3] {
        assert_eq!(workers(snapshot, "paused"), [1, 1]);
    }
    assert_eq!(workers(snapshots[3], "paused"), [0, 0]);
    for step in ["pause_workers", "checkpoint", "request_stop"] {
        assert_eq!(
            run.event(step)["answers"],
            serde_json::json!([ANSWER_SUCCEEDED, ANSWER_SUCCEEDED]),
            "{run}"
        );
    }
    at_one_step(&done(&t, 2), &["pause", "save", "stop"]);
}

fn time_a_checkpoint_before_the_stop(kind: Kind) {
    let t = Case::new();
    let running = t
        .host()
        .set("local_world_size", 2)
        .set("signals", "SIGTERM")
        .set("checkpoint_before_stop", 30)
        .controlled(
            kind,
            &["append", &t.path("ready"), "x", "slow", "0.05", "work", &t.path("work.%r"), "0.001", "0"],
        )
        .spawn();
    t.wait_lines("ready", 2);
    std::thread::sleep(Duration::from_millis(20));
    running.signal(libc::SIGTERM);
    let run = running.finish();
    run.failed_as(END_INTERRUPTED);
    assert_eq!(run.result()["signal"], libc::SIGTERM);
    run.within(Duration::from_secs(20));
    let done = done(&t, 2);
    at_one_step(&done, &["save"]);
    for line in done.into_iter().flatten() {
        assert_eq!(line[1], "2", "preemption");
        let left: i32 = line[4].parse().unwrap();
        assert!((20_000..=30_000).contains(&left), "{left} ms");
    }
    for rank in 0..2 {
        assert_eq!(run.worker(rank)["signal"], libc::SIGTERM, "after the checkpoint: {run}");
        assert_eq!(run.worker(rank)["cause"], CAUSE_STOPPED_BY_AGENT);
    }
}

fn time_icerun_options() {
    let t = Case::new();
    let controlled = program("controlled").display().to_string();
    let started = tool(&t, &["--nproc-per-node", "2", "--checkpoint-before-stop", "30"])
        .words(&[
            "--no-python",
            &controlled,
            "work",
            &t.path("work.%r"),
            "0.001",
            "20",
            "append",
            &t.path("ready"),
            "x",
        ])
        .words(&["from", "20", "work", &t.path("work.%r"), "0.001", "0"])
        .spawn();
    t.wait_lines("ready", 2);
    started.signal(libc::SIGTERM);
    assert_eq!(started.finish().status.signal(), Some(libc::SIGTERM));
    at_one_step(&done(&t, 2), &["save"]);
    let t = Case::new();
    let beats = ["--heartbeat-timeout", "0.3", "--max-restarts", "0"];
    let ended = tool(&t, &beats).words(&["--no-python", &controlled, "heartbeat", "pause"]).run();
    assert_ne!(ended.status.code(), Some(0));
    assert!(ended.err().contains("heartbeat"), "{}", ended.err());
    // The descriptor is there with the option, and not without.
    for (options, has) in [(&["--control"][..], "1"), (&[], "0")] {
        let t = Case::new();
        tool(&t, options)
            .words(&["--no-python", &controlled, "control", &t.path("has"), "exit", "0"])
            .run()
            .exited(0);
        assert!(t.read("has").starts_with(has), "{options:?} {}", t.read("has"));
    }
}

fn time_a_stuck_rank_costs_its_answer_only(kind: Kind) {
    let t = Case::new();
    let verbs = [
        "append",
        &t.path("ready"),
        "x",
        "rank",
        "1",
        "step",
        "3",
        "await",
        &t.path("go"),
        "from",
        "4",
        ";",
        "work",
        &t.path("work.%r"),
        "0.001",
        "0",
    ];
    let run = t
        .host()
        .set("local_world_size", 2)
        .controlled(kind, &verbs)
        .steps(&["start", &format!("await_lines={}:2", t.path("ready")), "checkpoint=0.3"])
        .steps(&[
            &format!("dump_self={}", t.path("go")),
            "sleep=0.1",
            "checkpoint=20",
            "request_stop=20",
            "wait=60",
        ])
        .run();
    run.failed_as(END_INTERRUPTED);
    let first = run.events("checkpoint")[0];
    assert_eq!(first["answers"], serde_json::json!([ANSWER_SUCCEEDED, ANSWER_NONE]), "{run}");
    let took = first["call_ns"].as_i64().unwrap();
    assert!((290_000_000..3_000_000_000).contains(&took), "{took}");
    assert_eq!(run.event("checkpoint")["complete"], 1);
    let done = done(&t, 2);
    assert_eq!(done[1].len(), 2, "not what was too late: {done:?}");
    assert_eq!(
        done[0][1..].iter().map(|line| &line[3]).collect::<Vec<_>>(),
        [&done[1][0][3], &done[1][1][3]]
    );
}

fn time_01_an_expired_timer_ends_the_worker(kind: Kind) {
    let t = Case::new();
    let verbs = ["rank", "1", "expires", "long", "60", "expires", "all-reduce", "0.3", "pause", ";", "pause"];
    let run = t.host().set("local_world_size", 2).set("max_restarts", 1).controlled(kind, &verbs).run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(run.result()["restarts"], 1, "the usual policy");
    run.within(Duration::from_secs(15));
    let worker = run.worker(1);
    assert_eq!((&worker["signal"], &worker["cause"]), (&libc::SIGKILL.into(), &CAUSE_TIMED_OUT.into()));
    let message = worker["message"].as_str().unwrap();
    for part in ["all-reduce", "0.300 s", "SIGKILL"] {
        assert!(message.contains(part), "{message}");
    }
    assert!(worker["stack"].as_str().unwrap().contains(&worker["pid"].to_string()), "TIME-20: {worker}");
    assert!(run.result()["message"].as_str().unwrap().starts_with("rank 1 "), "{run}");
    let lived = worker["end_ns"].as_i64().unwrap() - worker["start_ns"].as_i64().unwrap();
    assert!((300_000_000..5_000_000_000).contains(&lived), "{lived}");
}

fn time_02_timers_that_are_met(kind: Kind) {
    let t = Case::new();
    let verbs = [
        "disarm", "unknown", "expires", "a", "0.1", "expires", "a", "30", "expires", "b", "0.2", "disarm",
        "b", "disarm", "b", "sleep", "0.4", "disarm", "a",
    ];
    t.host().set("local_world_size", 2).controlled(kind, &verbs).run().succeeded();
}

fn time_10_a_restart_begins_anew(kind: Kind) {
    let t = Case::new();
    let verbs = [
        "attempt",
        "0",
        "step",
        "9",
        "expires",
        "old",
        "0.3",
        "exit",
        "3",
        ";",
        "sleep",
        "0.5",
        "append",
        &t.path("ready"),
        "x",
        "work",
        &t.path("work.%r"),
        "0.001",
        "0",
    ];
    let run = t
        .host()
        .set("max_restarts", 1)
        .controlled(kind, &verbs)
        .steps(&["start", &format!("await_lines={}:1", t.path("ready")), "snapshot", "checkpoint=20"])
        .steps(&["request_stop=20", "wait=60"])
        .run();
    run.failed_as(END_INTERRUPTED);
    assert_eq!(run.result()["restarts"], 1);
    assert_eq!(run.event("checkpoint")["complete"], 1);
    at_one_step(&done(&t, 1), &["save", "stop"]);
}

fn time_silence_ends_the_worker(kind: Kind) {
    let t = Case::new();
    let verbs = [
        "rank",
        "0",
        "heartbeat",
        "heartbeats",
        "30",
        "0.1",
        ";",
        "rank",
        "1",
        "heartbeats",
        "3",
        "0.1",
        ";",
        "pause",
    ];
    let run =
        t.host().set("local_world_size", 3).set("heartbeat_timeout", 0.5).controlled(kind, &verbs).run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(run.result()["root_cause"]["global_rank"], 1, "{run}");
    let message = run.worker(1)["message"].as_str().unwrap();
    assert!(message.contains("no heartbeat") && message.contains("0.500 s"), "{message}");
    assert_eq!(run.worker(2)["cause"], CAUSE_STOPPED_BY_AGENT, "it never said anything");
    // Steps alone are signs of life.
    let run =
        t.host().set("heartbeat_timeout", 0.3).controlled(kind, &["work", &t.path("w"), "0.05", "20"]).run();
    run.succeeded();
    let verbs = ["work", &t.path("w"), "0.05", "4", "pause"];
    let run = t.host().set("heartbeat_timeout", 0.3).controlled(kind, &verbs).run();
    run.failed_as(END_WORKER_FAILURE);
    run.within(Duration::from_secs(10));
}

fn time_descriptors_may_be_closed(kind: Kind) {
    let t = Case::new();
    // After the handle was made: the page is still there.
    let run = t.host().controlled(kind, &["disarm", "x", "close_fds", "expires", "a", "0.2", "pause"]).run();
    run.failed_as(END_WORKER_FAILURE);
    assert!(run.worker(0)["message"].as_str().unwrap().contains("timer \"a\""), "{run}");
    t.host().controlled(kind, &["close_fds", "work", &t.path("w"), "0.001", "20"]).run().succeeded();
    // Before: a shell that uses the number takes the page away, and nothing else.
    for script in ["exec 3>&-; exec \"$@\"", "exec 3< /dev/null; exec \"$@\"", "exec 3> out; exec \"$@\""] {
        if kind != Kind::Program {
            break;
        }
        let _ = std::fs::remove_file(t.path("none"));
        let host = t.host().set("control", 1).set("program", "/bin/sh").set("working_dir", t.path("tmp"));
        let host = host.set("arg", "-c").set("arg", script).set("arg", "sh");
        let run = host
            .set("arg", program("controlled").display())
            .set("arg", "control")
            .set("arg", t.path("none"))
            .run();
        let _ = std::fs::remove_file(t.path("tmp/out"));
        run.succeeded();
        assert!(t.lines("none")[0].starts_with("0 0 0 1"), "{script}");
    }
}

fn obs_the_state_of_each_rank(kind: Kind) {
    let t = Case::new();
    let verbs = [
        "rank",
        "0",
        "step",
        "0",
        "progress",
        "3",
        "10",
        "heartbeat",
        ";",
        "rank",
        "1",
        "step",
        "41",
        ";",
        "append",
        &t.path("ready"),
        "x",
        "await",
        &t.path("go"),
    ];
    let run = t
        .host()
        .set("local_world_size", 2)
        .controlled(kind, &verbs)
        .steps(&["start", &format!("await_lines={}:2", t.path("ready")), "snapshot"])
        .steps(&[&format!("dump_self={}", t.path("go")), "wait=60", "snapshot"])
        .run();
    run.succeeded();
    for snapshot in run.events("snapshot") {
        assert_eq!(workers(snapshot, "has_control"), [1, 1]);
        assert_eq!(workers(snapshot, "step"), [0, 41]);
        assert_eq!(workers(snapshot, "progress_done"), [3, 0]);
        assert_eq!(workers(snapshot, "progress_total"), [10, 0]);
        assert_eq!(workers(snapshot, "paused"), [0, 0]);
        let beats = workers(snapshot, "heartbeat_ns");
        let now = snapshot["t"].as_i64().unwrap();
        assert!(beats[0] > 0 && beats[0] < now && beats[1] == 0, "{beats:?}");
    }
}

fn time_04_a_worker_that_ends_with_a_timer() {
    let t = Case::new();
    let verbs = ["rank", "0", "expires", "a", "0.2", "exit", "0", ";", "sleep", "0.6"];
    t.host().set("local_world_size", 2).controlled(Kind::Program, &verbs).run().succeeded();
}

fn time_a_page_of_its_own_for_each_rank() {
    for virtual_rank in [0, 1] {
        let t = Case::new();
        let run = t
            .host()
            .set("local_world_size", 2)
            .set("virtual_local_rank", virtual_rank)
            .controlled(Kind::Program, &["control", &t.path("control.%g"), "dump", &t.path("%g.json")])
            .run();
        run.succeeded();
        for rank in 0..2 {
            assert_eq!(t.lines(&format!("control.{rank}")), [format!("1 {rank} {rank} 2 fd3")]);
            let dump = t.json(&format!("{rank}.json"));
            let env = dump["env"].as_array().unwrap();
            assert!(env.contains(&format!("ICE_CONTROL_FD=3:{rank}").into()), "{env:?}");
        }
    }
    // Functions see nothing of it.
    for way in Way::ALL {
        let t = Case::new();
        let run = t.host().controlled(way, &["control", &t.path("control"), "dump", &t.path("json")]).run();
        run.succeeded();
        assert!(t.read("control").starts_with("1 0 0 1"));
        let text = t.read("json");
        assert!(!text.contains("ICE_CONTROL") && !text.contains("ice-control"), "{text}");
    }
}

fn time_a_wrapper_script_hands_the_page_on() {
    let t = Case::new();
    let script =
        t.write("wrapper", b"#!/bin/sh\ncat /proc/self/status > /dev/null\n\"$@\"\nexit $?\n", 0o755);
    let run = t
        .host()
        .set("control", 1)
        .set("program", script)
        .set("arg", program("controlled").display())
        .set("arg", "control")
        .set("arg", t.path("control"))
        .set("arg", "work")
        .set("arg", t.path("work.%r"))
        .set("arg", "0.001")
        .set("arg", "0")
        .steps(&[
            "start",
            &format!("await_lines={}:1", t.path("control")),
            "checkpoint=20",
            "request_stop=20",
            "wait=60",
        ])
        .run();
    run.failed_as(END_INTERRUPTED);
    assert_eq!(t.lines("control"), ["1 0 0 1 fd3"]);
    at_one_step(&done(&t, 1), &["save", "stop"]);
}

fn time_nothing_is_there_unless_asked_for() {
    let t = Case::new();
    let run = t
        .host()
        .env("ICE_CONTROL_FD", "3:0")
        .set("program", program("controlled").display())
        .steps(&[
            "arg=control",
            &format!("arg={}", t.path("control")),
            "arg=dump",
            &format!("arg={}", t.path("json")),
        ])
        .steps(&["arg=sleep", "arg=0.3"])
        .steps(&[
            "new",
            "checkpoint=1",
            "start",
            "checkpoint=1",
            "pause_workers=1",
            "resume",
            "wait=60",
            "request_stop=1",
        ])
        .run();
    run.succeeded();
    assert_eq!(t.lines("control"), ["0 0 0 1"]);
    assert!(!t.read("json").contains("ICE_CONTROL_FD"), "nor what an outer agent said");
    for step in ["checkpoint", "pause_workers", "resume", "request_stop"] {
        for event in run.events(step) {
            assert_eq!(event["status"], "ICE_ERROR_STATE", "{run}");
            assert!(event["message"].as_str().unwrap().contains("ice_spec_set_control"), "{run}");
        }
    }
    // With it, but too early and too late.
    let run = t
        .host()
        .controlled(Kind::Program, &[])
        .steps(&["new", "checkpoint=1", "start", "wait=60", "checkpoint=1", "resume", "checkpoint=-1"])
        .run();
    let states: Vec<_> = run.events("checkpoint").iter().map(|event| event["status"].clone()).collect();
    assert_eq!(states, ["ICE_ERROR_STATE", "ICE_ERROR_STATE", "ICE_ERROR_CONFIG"], "{run}");
    assert_eq!(run.event("resume")["status"], "ICE_ERROR_STATE");
}

fn time_outside_an_agent_all_succeeds() {
    let t = Case::new();
    let verbs = [
        "control",
        "c",
        "expires",
        "a",
        "0.01",
        "progress",
        "1",
        "2",
        "heartbeat",
        "work",
        "w",
        "0.001",
        "50",
    ];
    let output = t.command(program("controlled")).args(verbs).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(t.lines("c")[0].starts_with("0 0 0 1"));
    assert!(t.lines("w").is_empty());
}

fn time_ranks_that_count_by_tens_or_not_at_all() {
    let t = Case::new();
    let verbs = [
        "rank",
        "2",
        "append",
        &t.path("ready"),
        "x",
        "look",
        &t.path("look"),
        "0.002",
        "0",
        "exit",
        "0",
        ";",
        "stride",
        "10",
        "append",
        &t.path("ready"),
        "x",
        "work",
        &t.path("work.%r"),
        "0.001",
        "0",
    ];
    let run = t
        .host()
        .set("local_world_size", 3)
        .controlled(Kind::Program, &verbs)
        .steps(&["start", &format!("await_lines={}:3", t.path("ready")), "sleep=0.03", "checkpoint=20"])
        .steps(&["snapshot", "request_stop=20", "wait=60"])
        .run();
    run.failed_as(END_INTERRUPTED);
    assert_eq!(run.event("checkpoint")["complete"], 1, "{run}");
    let done = done(&t, 2);
    at_one_step(&done, &["save", "stop"]);
    assert_eq!(done[0][0][3].parse::<u64>().unwrap() % 10, 0);
    assert_eq!(run.event("checkpoint")["steps"][2], -1);
    assert_eq!(t.lines("look").len(), 2);
}

fn time_a_rank_that_refuses_or_is_gone() {
    let t = Case::new();
    let verbs = [
        "rank",
        "0",
        "refuse",
        ";",
        "rank",
        "1",
        "step",
        "1",
        "append",
        &t.path("ready"),
        "x",
        "exit",
        "0",
        ";",
        "append",
        &t.path("ready"),
        "x",
        "work",
        &t.path("work.%r"),
        "0.001",
        "0",
    ];
    let run = t
        .host()
        .set("local_world_size", 3)
        .controlled(Kind::Program, &verbs)
        .steps(&["start", &format!("await_lines={}:3", t.path("ready")), "sleep=0.05", "checkpoint=20"])
        .steps(&["request_stop=20", "wait=60"])
        .run();
    let answers = [ANSWER_FAILED, ANSWER_GONE, ANSWER_SUCCEEDED];
    assert_eq!(run.event("checkpoint")["answers"], serde_json::json!(answers), "{run}");
    assert_eq!(run.event("checkpoint")["complete"], 0);
    // One that refuses to stop is stopped.
    assert_eq!(run.event("request_stop")["answers"], serde_json::json!(answers), "{run}");
    run.failed_as(END_INTERRUPTED);
    assert_eq!(run.worker(0)["signal"], libc::SIGTERM);
    assert_eq!(
        (&run.worker(2)["exit_code"], &run.worker(2)["cause"]),
        (&0.into(), &CAUSE_STOPPED_BY_AGENT.into())
    );
}

/// At the deadline one rank is in the midst of the checkpoint, and waits there for the other, which comes later.
fn time_a_rank_that_waits_in_a_checkpoint_is_not_left_there() {
    let t = Case::new();
    let (shared, work) = (t.path("shared"), t.path("work.%r"));
    let begin = ["append", &t.path("ready"), "x", "lockstep", &shared];
    let verbs =
        [&begin[..], &["rank", "1", "work", &work, "1", "0", "exit", "0", ";", "work", &work, "0.001", "0"]]
            .concat();
    let run = t
        .host()
        .set("local_world_size", 2)
        .controlled(Kind::Program, &verbs)
        .steps(&["start", &format!("await_lines={}:2", t.path("ready")), "sleep=0.5", "checkpoint=1"])
        .steps(&["checkpoint=20", "request_stop=20", "wait=60"])
        .run();
    run.failed_as(END_INTERRUPTED);
    assert_eq!(run.event("checkpoint")["complete"], 1, "{run}");
    let done = done(&t, 2);
    let kinds: Vec<&str> = done[0].iter().map(|line| line[0].as_str()).collect();
    at_one_step(&done, &kinds);
}

fn time_the_answers_to_a_gentle_stop() {
    // All end at once: a success for themselves, but the run was interrupted.
    for way in Kind::ALL {
        let t = Case::new();
        let run = t
            .host()
            .set("local_world_size", 2)
            .controlled(way, &["append", &t.path("ready"), "x", "work", &t.path("work.%r"), "0.0002", "0"])
            .steps(&["start", &format!("await_lines={}:2", t.path("ready")), "request_stop=20", "wait=60"])
            .run();
        run.failed_as(END_INTERRUPTED);
        assert_eq!(run.event("request_stop")["complete"], 1, "{run}");
        assert_eq!(run.result()["message"], "stopped by request");
        assert_eq!(run.result()["all_exited_cleanly"], 1);
    }
}

fn time_a_stop_does_not_wait_for_ever() {
    // Nobody answers: the deadline counts, or a second interrupt.
    for (second, limit) in [(false, 0.5), (true, 60.0)] {
        let t = Case::new();
        let running = t
            .host()
            .set("local_world_size", 2)
            .set("signals", "SIGINT")
            .set("checkpoint_before_stop", limit)
            .controlled(
                Kind::Program,
                &["append", &t.path("ready"), "x", "silent", "work", &t.path("work.%r"), "0.01", "0"],
            )
            .spawn();
        t.wait_lines("ready", 2);
        running.signal(libc::SIGINT);
        t.wait_lines("work.1", 1);
        if second {
            running.signal(libc::SIGINT);
        }
        let run = running.finish();
        run.failed_as(END_INTERRUPTED);
        run.within(Duration::from_secs(15));
        let signal = if second { libc::SIGKILL } else { libc::SIGINT };
        assert_eq!(run.worker(0)["signal"], signal, "{run}");
    }
}

fn time_requests_of_several_threads() {
    let t = Case::new();
    let run = t
        .host()
        .set("local_world_size", 2)
        .controlled(
            Kind::Program,
            &["append", &t.path("ready"), "x", "work", &t.path("work.%r"), "0.001", "0"],
        )
        .steps(&["start", &format!("await_lines={}:2", t.path("ready")), "checkpoints_of_threads=4:10"])
        .steps(&["request_stop=20", "wait=60"])
        .run();
    run.failed_as(END_INTERRUPTED);
    let complete: i64 =
        run.events("checkpoints").iter().map(|event| event["complete"].as_i64().unwrap()).sum();
    assert_eq!(complete, 40, "{run}");
    let mut kinds = vec!["save"; 40];
    kinds.push("stop");
    at_one_step(&done(&t, 2), &kinds);
}

fn time_a_request_waits_for_the_restart() {
    let t = Case::new();
    let verbs = [
        "attempt",
        "0",
        "append",
        &t.path("ready"),
        "x",
        "exit",
        "3",
        ";",
        "work",
        &t.path("work.%r"),
        "0.001",
        "0",
    ];
    let run = t
        .host()
        .set("max_restarts", 1)
        .set("restart_backoff", "0.3,1")
        .controlled(Kind::Program, &verbs)
        .steps(&[
            "start",
            &format!("await_lines={}:1", t.path("ready")),
            "sleep=0.1",
            "checkpoint=0.05",
            "checkpoint=20",
        ])
        .steps(&["request_stop=20", "wait=60"])
        .run();
    run.failed_as(END_INTERRUPTED);
    let checkpoints = run.events("checkpoint");
    assert_eq!(checkpoints[0]["answers"], serde_json::json!([ANSWER_NONE]), "nobody is there: {run}");
    assert_eq!(checkpoints[1]["complete"], 1, "{run}");
    at_one_step(&done(&t, 1), &["save", "stop"]);
}

fn time_timers_stand_still_in_a_pause() {
    let t = Case::new();
    let verbs =
        ["expires", "step", "0.5", "append", &t.path("ready"), "x", "work", &t.path("work.%r"), "0.001", "0"];
    let run = t
        .host()
        .set("heartbeat_timeout", 0.5)
        .controlled(Kind::Program, &verbs)
        .steps(&[
            "start",
            &format!("await_lines={}:1", t.path("ready")),
            "pause_workers=20",
            "sleep=1.2",
            "snapshot",
        ])
        .steps(&["resume", "wait=60"])
        .run();
    assert_eq!(run.event("snapshot")["workers"][0]["outcome"], OUTCOME_RUNNING, "{run}");
    // And go on then.
    run.failed_as(END_WORKER_FAILURE);
    assert!(run.worker(0)["message"].as_str().unwrap().contains("timer"), "{run}");
}

fn time_an_idle_agent_does_not_wake_up() {
    let t = Case::new();
    let running = t
        .host()
        .set("local_world_size", 2)
        .controlled(
            Kind::Program,
            &[
                "expires",
                "long",
                "100",
                "append",
                &t.path("ready"),
                "x",
                "work",
                &t.path("work.%r"),
                "0.001",
                "0",
            ],
        )
        .steps(&["start", "wait=60"])
        .spawn();
    t.wait_lines("ready", 2);
    std::thread::sleep(Duration::from_millis(300));
    let switches = || -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", running.pid())).unwrap().flatten();
        let status =
            tasks.map(|task| std::fs::read_to_string(task.path().join("status")).unwrap_or_default());
        let count = |status: String| -> u64 {
            let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
            lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
        };
        status.map(count).sum()
    };
    let before = switches();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(switches(), before, "workers take steps, and nobody is told");
    running.signal(libc::SIGKILL);
    running.kill();
}

/// It may spoil what its peers hear, never the agent.
fn time_a_worker_that_scribbles_on_the_page() {
    for byte in ["0", "1", "255"] {
        let t = Case::new();
        let verbs = [
            "rank",
            "1",
            "disarm",
            "x",
            "scribble",
            byte,
            "append",
            &t.path("ready"),
            "x",
            "sleep",
            "30",
            ";",
            "append",
            &t.path("ready"),
            "x",
            "work",
            &t.path("work.%r"),
            "0.001",
            "0",
        ];
        let run = t
            .host()
            .set("local_world_size", 2)
            .set("heartbeat_timeout", 60)
            .controlled(Kind::Program, &verbs)
            .steps(&["start", &format!("await_lines={}:2", t.path("ready"))])
            .steps(&[
                "checkpoint=0.2",
                "snapshot",
                "pause_workers=0.2",
                "resume",
                "request_stop=0.2",
                "wait=20",
            ])
            .run();
        run.failed_as(END_INTERRUPTED);
        for step in ["checkpoint", "pause_workers", "request_stop"] {
            assert_eq!(run.event(step)["status"], "ICE_OK", "{run}");
            assert_eq!(run.event(step)["answers"][1], ANSWER_NONE, "{run}");
        }
        run.within(Duration::from_secs(15));
    }
}

fn time_processes_of_one_worker_one_after_the_other() {
    let t = Case::new();
    let script = "\"$0\" step 1000 expires a 0.3 exit 0; \"$0\" disarm x append \"$1\" x work \"$2\" 0.001 0";
    let run = t
        .host()
        .set("control", 1)
        .set("program", "/bin/sh")
        .steps(&["arg=-c", &format!("arg={script}"), &format!("arg={}", program("controlled").display())])
        .steps(&[&format!("arg={}", t.path("ready")), &format!("arg={}", t.path("work.0"))])
        .steps(&["start", &format!("await_lines={}:1", t.path("ready")), "sleep=0.4", "checkpoint=20"])
        .steps(&["request_stop=20", "wait=20"])
        .run();
    run.failed_as(END_INTERRUPTED);
    assert_eq!(run.event("checkpoint")["complete"], 1, "{run}");
    at_one_step(&done(&t, 1), &["save", "stop"]);
}

fn time_other_children_of_the_host_know_nothing_of_it() {
    let t = Case::new();
    let run = t
        .host()
        .set("local_world_size", 2)
        .controlled(Kind::Program, &["append", &t.path("ready"), "x", "await", &t.path("go")])
        .steps(&[
            "start",
            &format!("await_lines={}:2", t.path("ready")),
            &format!("dump_self={}", t.path("host")),
        ])
        .steps(&[&format!("dump_self={}", t.path("go")), "wait=20"])
        .run();
    run.succeeded();
    let dump = t.json("host");
    let of_page = |fd: &&Value| fd["link"].as_str().unwrap_or_default().contains("ice-control");
    let pages: Vec<_> = dump["fds"].as_array().unwrap().iter().filter(of_page).collect();
    assert_eq!(pages.len(), 1, "{dump}");
    assert_eq!(pages[0]["cloexec"], 1);
    assert!(!dump["env"].to_string().contains("ICE_CONTROL_FD"));
}
