//! Area TIME: torch's file timers, workers that the kernel does not let go of, and where stuck workers were.

use std::path::Path;
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::harness::{
    CAUSE_OWN_FAILURE, CAUSE_STOPPED_BY_AGENT, CAUSE_TIMED_OUT, Case, END_INTERRUPTED, END_WORKER_FAILURE,
    Host, Kind, OUTCOME_SIGNALED, OUTCOME_STUCK, Run, alive, icerun, program, torch_python,
};
use crate::tests;

pub fn tests() -> Vec<Trial> {
    tests![
        time_01_an_expired_timer_ends_its_worker,
        time_01_the_signal_is_the_one_that_was_asked_for,
        time_01_a_signal_that_ends_nothing_is_followed_by_sigkill,
        time_01_a_descendant_may_hold_a_timer,
        time_01_timers_are_off_unless_asked_for,
        time_01_by_icerun_and_the_environment,
        time_02_released_replaced_and_unknown_scopes,
        time_04_a_timer_ends_with_its_process,
        time_05_only_own_workers_are_signalled,
        time_06_garbage_costs_nobody_else_anything,
        time_06_nobody_comes_and_the_stop_is_prompt,
        time_06_a_place_that_cannot_be,
        time_09_one_kill_by_the_earliest_with_a_signal,
        time_10_a_restart_voids_timers_and_has_a_fifo,
        time_12_a_step_of_the_wall_clock,
        needs(torch): time_01_torchs_own_client,
        time_13_a_worker_in_uninterruptible_sleep_fails_the_run,
        time_14_below_the_limit_nothing_happens,
        time_14_a_limit_that_is_none_is_off,
    ]
}

/// A host that serves file timers, with its log in a file.
fn timed<'a>(t: &'a Case, workers: usize) -> Host<'a> {
    t.host().set("file_timers", 1).set("local_world_size", workers).set("log_callback", t.path("log"))
}

#[track_caller]
fn warnings(t: &Case, part: &str) -> usize {
    t.lines("log").iter().filter(|line| line.starts_with("2 ") && line.contains(part)).count()
}

fn life(worker: &Value) -> f64 {
    (worker["end_ns"].as_i64().unwrap() - worker["start_ns"].as_i64().unwrap()) as f64 / 1e9
}

/// Rank `rank` timed out by its timer for `scope`, and by `signal`.
#[track_caller]
fn expired(run: &Run, rank: usize, scope: &str, signal: i32) {
    run.failed_as(END_WORKER_FAILURE);
    let worker = run.worker(rank);
    assert_eq!(worker["cause"], CAUSE_TIMED_OUT, "{run}");
    assert_eq!(worker["outcome"], OUTCOME_SIGNALED, "{run}");
    assert_eq!(worker["signal"], signal, "{run}");
    let message = worker["message"].as_str().unwrap();
    let start = format!("PID {} held its timer {scope:?} of ", worker["pid"]);
    assert!(message.starts_with(&start), "{message}");
    let root = &run.result()["root_cause"];
    assert_eq!((&root["local_rank"], &root["message"]), (&worker["local_rank"], &worker["message"]));
    let text = run.result()["message"].as_str().unwrap();
    assert!(text.contains(&format!("rank {rank} ")) && text.contains(&start), "{text}");
}

fn time_01_an_expired_timer_ends_its_worker() {
    for kind in Kind::ALL {
        let t = Case::new();
        let verbs = ["rank", "1", "timer", "%p", "a step", "1", "KILL", "sleep", "3", ";", "pause"];
        let run = timed(&t, 2).worker(kind, &verbs).run();
        expired(&run, 1, "a step", libc::SIGKILL);
        assert_eq!(run.worker(0)["cause"], CAUSE_STOPPED_BY_AGENT);
        let life = life(run.worker(1));
        assert!((1.0..2.5).contains(&life), "{life}");
        let message = run.worker(1)["message"].as_str().unwrap();
        assert!(message.contains(" of 1.000 s for 1.0") || message.contains(" of 0.99"), "{message}");
    }
}

fn time_01_the_signal_is_the_one_that_was_asked_for() {
    for (name, number) in [("TERM", libc::SIGTERM), ("USR1", libc::SIGUSR1), ("64", 64)] {
        let t = Case::new();
        let run = timed(&t, 1).probe(&["timer", "%p", "s", "0.1", name, "pause"]).run();
        expired(&run, 0, "s", number);
    }
    // What is none.
    let t = Case::new();
    let run = timed(&t, 1).probe(&["timer", "%p", "s", "0.1", "4711", "pause"]).run();
    expired(&run, 0, "s", libc::SIGKILL);
    // One that the worker ends by itself at, as it likes.
    let t = Case::new();
    let run = timed(&t, 1)
        .probe(&["exit_on", "USR1", "0", "0.3", "timer", "%p", "s", "0.1", "USR1", "pause"])
        .run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!((&run.worker(0)["exit_code"], &run.worker(0)["cause"]), (&0.into(), &CAUSE_TIMED_OUT.into()));
}

fn time_01_a_signal_that_ends_nothing_is_followed_by_sigkill() {
    let t = Case::new();
    let verbs = ["ignore", "TERM", "timer", "%p", "s", "0.1", "TERM", "pause"];
    let run = timed(&t, 2).set("shutdown_timeout", 0.5).probe(&verbs).run();
    expired(&run, 0, "s", libc::SIGKILL);
    assert!((0.6..3.0).contains(&life(run.worker(0))), "{run}");
}

fn time_01_a_descendant_may_hold_a_timer() {
    for block in ["child", "session"] {
        let t = Case::new();
        let pid = t.path("child");
        let verbs =
            [block, "append", &pid, "%p", "timer", "%p", "inner", "0.2", "KILL", "pause", ";", "pause"];
        let run = timed(&t, 1).probe(&verbs).run();
        run.failed_as(END_WORKER_FAILURE);
        let worker = run.worker(0);
        assert_eq!(worker["cause"], CAUSE_TIMED_OUT, "{run}");
        let message = worker["message"].as_str().unwrap();
        let start = format!(
            "PID {}, of worker PID {}, held its timer \"inner\" of 0.",
            t.lines("child")[0],
            worker["pid"]
        );
        assert!(message.starts_with(&start), "{message}");
        // The stop of the group is what tells the worker.
        assert_eq!(worker["signal"], libc::SIGTERM, "{run}");
    }
}

fn time_01_timers_are_off_unless_asked_for() {
    let t = Case::new();
    let run = t.host().probe(&["dump", &t.path("dump")]).run();
    run.succeeded();
    assert!(!t.read("dump").contains("TORCHELASTIC_TIMER_FILE"));
    for (value, on) in [("1", true), ("0", false), ("true", false)] {
        let t = Case::new();
        let host = t.host().env("TORCHELASTIC_ENABLE_FILE_TIMER", value).set("run_id", "job");
        host.probe(&["dump", &t.path("dump")]).run().succeeded();
        assert_eq!(t.read("dump").contains("TORCHELASTIC_TIMER_FILE="), on, "{value}");
    }
    let t = Case::new();
    let host = t.host().env("TORCHELASTIC_ENABLE_FILE_TIMER", "1").set("file_timers", 0);
    host.probe(&["dump", &t.path("dump")]).run().succeeded();
    assert!(!t.read("dump").contains("TORCHELASTIC_TIMER_FILE"));
}

fn time_01_by_icerun_and_the_environment() {
    for by_option in [true, false] {
        let t = Case::new();
        let mut command = t.command(icerun());
        if by_option {
            command.arg("--file-timers");
        } else {
            command.env("TORCHELASTIC_ENABLE_FILE_TIMER", "1");
            command.env("TORCHELASTIC_TIMER_FILE", t.path("own"));
        }
        command.args(["--no-python", "--shutdown-timeout", "1"]).arg(program("probe"));
        let seen = t.path("seen");
        command.args(["setenv", "SEEN", "%p", "exec", "sh", "-c"]);
        command.arg(format!(
            "echo $TORCHELASTIC_TIMER_FILE > {seen}; exec {} timer %p step 0.2 USR1 pause",
            program("probe").display()
        ));
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(128 + libc::SIGUSR1), "{output:?}");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(text.contains("held its timer \"step\""), "{text}");
        assert_eq!(t.lines("seen")[0] == t.path("own"), !by_option);
        assert!(!Path::new(&t.lines("seen")[0]).exists());
        t.nothing_left();
    }
}

fn time_02_released_replaced_and_unknown_scopes() {
    let t = Case::new();
    let verbs = [
        "release", "%p", "unknown", // before anything was set
        "timer", "%p", "a", "0.3", "KILL", "release", "%p", "a", // in time
        "timer", "%p", "b", "0.3", "KILL", "timer", "%p", "b", "30", "KILL", // replaced
        "timer", "%p", "c", "30", "KILL", "timer", "%p", "c", "30", "KILL", "release", "%p",
        "c", // nested
        "release", "%p", "c", "sleep", "0.8", "release", "%p", "b", "exit", "0",
    ];
    timed(&t, 3).probe(&verbs).run().succeeded();
    assert_eq!(warnings(&t, ""), 0, "{:?}", t.lines("log"));
}

fn time_04_a_timer_ends_with_its_process() {
    let t = Case::new();
    let verbs = [
        "rank",
        "0",
        "timer",
        "%p",
        "s",
        "0.5",
        "KILL",
        "exit",
        "0",
        ";",
        "child",
        "timer",
        "%p",
        "c",
        "0.5",
        "KILL",
        "exit",
        "0",
        ";",
        "wait_children",
        "sleep",
        "1",
    ];
    timed(&t, 2).probe(&verbs).run().succeeded();
    assert_eq!(warnings(&t, ""), 0, "{:?}", t.lines("log"));
}

fn time_05_only_own_workers_are_signalled() {
    let t = Case::new();
    let mut stranger = std::process::Command::new("sleep").arg("60").spawn().unwrap();
    let number = stranger.id().to_string();
    let verbs = [
        "timer",
        "1",
        "s",
        "0",
        "KILL",
        "timer",
        "%q",
        "s",
        "0",
        "KILL",
        "timer",
        &number,
        "s",
        "0",
        "KILL",
        "timer",
        "0",
        "s",
        "0",
        "KILL",
        "timer",
        "-1",
        "s",
        "0",
        "KILL",
        "timer",
        "999999999",
        "s",
        "0",
        "KILL",
        "sleep",
        "0.5",
    ];
    timed(&t, 1).probe(&verbs).run().succeeded();
    assert!(alive(stranger.id() as i32));
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    for pid in ["1", &number] {
        assert_eq!(warnings(&t, &format!("for PID {pid} is refused")), 1, "{pid}: {:?}", t.lines("log"));
    }
    assert_eq!(warnings(&t, "is refused"), 3, "the agent is none of its workers");
    assert_eq!(warnings(&t, "no request"), 1, "0 and -1 are no processes");
    // A flood of them fills no log.
    let t = Case::new();
    let verbs = ["timer", "1", "s", "0", "KILL"].repeat(200);
    timed(&t, 1).probe(&[&verbs[..], &["sleep", "0.3"]].concat()).run().succeeded();
    assert_eq!(warnings(&t, "is refused"), 16);
}

fn time_06_garbage_costs_nobody_else_anything() {
    let t = Case::new();
    let long = "x".repeat(50_000);
    let verbs = [
        "timer_raw",
        "\\n\\nnonsense\\n{}\\n[1]\\n\\x00\\xff\\n",
        "timer_raw",
        "{\"version\": 1, \"pid\": 7",
        "timer",
        "%p",
        "kept",
        "30",
        "KILL",
        "timer_raw",
        &long,
        "release",
        "%p",
        "kept",
        "timer",
        "%p",
        "s",
        "0.5",
        "KILL",
        "timer_raw",
        "{\"pid\": ",
        "pause",
    ];
    let run = timed(&t, 1).probe(&verbs).run();
    expired(&run, 0, "s", libc::SIGKILL);
    assert_eq!(warnings(&t, "no request"), 1, "{:?}", t.lines("log"));
}

fn time_06_nobody_comes_and_the_stop_is_prompt() {
    let t = Case::new();
    let host = timed(&t, 2).probe(&["append", &t.path("up"), "x", "pause"]);
    let run =
        host.steps(&["start", &format!("await_lines={}:2", t.path("up")), "stop=TERM", "wait=60"]).run();
    run.failed_as(END_INTERRUPTED);
    assert!(run.wall < Duration::from_secs(5), "{:?}", run.wall);
}

fn time_06_a_place_that_cannot_be() {
    let t = Case::new();
    t.write("taken", b"precious", 0o644);
    let host = timed(&t, 1).env("TORCHELASTIC_TIMER_FILE", &t.path("taken"));
    let run = host.probe(&["exit", "0"]).run();
    run.failed_as(crate::harness::END_START_ERROR);
    assert_eq!(run.result()["errno"], libc::EEXIST, "{run}");
    assert!(run.result()["message"].as_str().unwrap().contains(&t.path("taken")));
    assert_eq!(t.read("taken"), "precious");
}

fn time_09_one_kill_by_the_earliest_with_a_signal() {
    let t = Case::new();
    let file = t.path("signals");
    let verbs = [
        "count", "USR1", &file, "count", "USR2", &file, "timer", "%p", "none", "0.2", "0", "timer", "%p",
        "late", "0.4", "USR1", "timer", "%p", "early", "0.3", "USR2", "sleep", "1.5", "exit", "0",
    ];
    let run = timed(&t, 1).probe(&verbs).run();
    run.failed_as(END_WORKER_FAILURE);
    let signals = t.lines("signals");
    assert_eq!(signals.len(), 1, "{signals:?}");
    assert!(signals[0].starts_with("USR2 "), "{signals:?}");
    assert_eq!(warnings(&t, "only reported"), 1);
    assert!(run.worker(0)["message"].as_str().unwrap().contains("\"early\""));
    // Reports alone end nobody.
    let t = Case::new();
    timed(&t, 1).probe(&["timer", "%p", "s", "0.1", "0", "sleep", "0.5"]).run().succeeded();
    assert_eq!(warnings(&t, "only reported"), 1);
}

fn time_10_a_restart_voids_timers_and_has_a_fifo() {
    let t = Case::new();
    let verbs = [
        "exec",
        "sh",
        "-c",
        &format!(
            "echo $TORCHELASTIC_TIMER_FILE >> {}; exec {} \"$@\"",
            t.path("fifos"),
            program("probe").display()
        ),
        "sh",
        "attempt",
        "0",
        "timer",
        "%p",
        "old",
        "0.8",
        "KILL",
        "rank",
        "1",
        "sleep",
        "0.1",
        "exit",
        "3",
        ";",
        "pause",
        ";",
        "attempt",
        "1",
        "timer",
        "%p",
        "new",
        "1.5",
        "KILL",
        "pause",
        ";",
        "exit",
        "0",
    ];
    let run = timed(&t, 2).set("max_restarts", 2).probe(&verbs).run();
    run.succeeded();
    assert_eq!(run.result()["restarts"], 2);
    let failures = run.result()["failures"].as_array().unwrap();
    assert_eq!((&failures[0]["exit_code"], &failures[0]["cause"]), (&3.into(), &CAUSE_OWN_FAILURE.into()));
    assert_eq!(failures[1]["cause"], CAUSE_TIMED_OUT, "{run}");
    assert!(failures[1]["message"].as_str().unwrap().contains("\"new\""), "{run}");
    let life = life(&failures[1]);
    assert!(life >= 1.4, "the old attempt's timer is void: {life}");
    let mut fifos = t.lines("fifos");
    fifos.sort();
    fifos.dedup();
    assert_eq!(fifos.len(), 3, "{fifos:?}");
}

fn time_12_a_step_of_the_wall_clock() {
    for (step, scope, seconds) in [("-3600", "back", "1"), ("3600", "forth", "30")] {
        let t = Case::new();
        let clock = t.path("clock");
        let verbs = [
            "timer", "%p", scope, seconds, "KILL", "sleep", "0.3", "append", &clock, step, "sleep", "1.7",
            "release", "%p", scope, "exit", "0",
        ];
        let host = timed(&t, 1).env("CLOCK_STEP", &clock);
        let host = host.env("LD_PRELOAD", &program("libclock.so").display().to_string());
        let run = host.probe(&verbs).run();
        if step == "3600" {
            run.succeeded();
        } else {
            expired(&run, 0, scope, libc::SIGKILL);
            assert!((1.0..1.9).contains(&life(run.worker(0))), "{run}");
        }
    }
}

/// What torch's users write: a context that expires, and the client that sends it.
const TORCH_SCRIPT: &str = r#"
import os, sys, time
import torch.distributed.elastic.timer as timer
timer.configure(timer.FileTimerClient(os.environ["TORCHELASTIC_TIMER_FILE"]))
with timer.expires(after=30):
    time.sleep(0.2)
try:
    with timer.expires(after=1):
        raise ValueError("through")
except ValueError:
    open(sys.argv[1], "a").write("released\n")
time.sleep(1.5)
if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    with timer.expires(after=1, scope="the step"):
        time.sleep(60)
"#;

fn time_01_torchs_own_client() {
    let t = Case::new();
    let script = t.write("script.py", TORCH_SCRIPT.as_bytes(), 0o644);
    let python = torch_python().expect("a Python with torch");
    let host = timed(&t, 2).set("program", python.display()).set("max_restarts", 1);
    let run = host.set("arg", &script).set("arg", t.path("through")).run();
    run.succeeded();
    assert_eq!(run.result()["restarts"], 1);
    let failure = &run.result()["failures"][0];
    assert_eq!((&failure["cause"], &failure["signal"]), (&CAUSE_TIMED_OUT.into(), &libc::SIGKILL.into()));
    assert_eq!(failure["global_rank"], 1);
    let message = failure["message"].as_str().unwrap();
    assert!(message.contains("held its timer \"the step\" of "), "{message}");
    // TIME-08: an exception passes through, and the timer is released.
    assert_eq!(t.lines("through").len(), 4);
    assert_eq!(warnings(&t, "rank 1: PID"), 1, "{:?}", t.lines("log"));
}

fn time_13_a_worker_in_uninterruptible_sleep_fails_the_run() {
    // The kernel lets go of a vfork's parent when it is killed: it is not lost, but long enough in this state.
    let t = Case::new();
    let host = t.host().set("local_world_size", 2).set("max_restarts", 3).set("shutdown_timeout", 1);
    let host = host.set("uninterruptible_timeout", 0.5).set("monitor_interval", 0.05);
    let run = host.probe(&["rank", "1", "stuck", "20", ";", "pause"]).spawn().finish();
    assert_eq!(run.result()["end"], END_WORKER_FAILURE, "{run}");
    assert_eq!((&run.result()["is_failed"], &run.result()["restarts"]), (&1.into(), &0.into()), "{run}");
    let worker = run.worker(1);
    assert_eq!(worker["cause"], CAUSE_TIMED_OUT, "{run}");
    assert!(worker["outcome"] == OUTCOME_SIGNALED || worker["outcome"] == OUTCOME_STUCK, "{run}");
    let message = worker["message"].as_str().unwrap();
    assert!(message.contains("in uninterruptible sleep (state D) for 0."), "{message}");
    assert!(message.contains("where 0.5 s are the limit"), "{message}");
    assert_eq!(run.worker(0)["cause"], CAUSE_STOPPED_BY_AGENT);
    assert_eq!(run.result()["root_cause"]["local_rank"], 1);
    assert!(run.result()["message"].as_str().unwrap().contains("no restart"), "{run}");
    // icerun, by torch's variable: W12.
    let t = Case::new();
    let mut command = t.command(icerun());
    command.env("TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT", "0.4");
    command.args(["--max-restarts", "2", "--shutdown-timeout", "0.5", "--no-python"]);
    let output = command.arg(program("probe")).args(["stuck", "10"]).output().unwrap();
    assert_eq!(output.status.code(), Some(128 + libc::SIGTERM), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("uninterruptible sleep"), "{text}");
}

fn time_14_below_the_limit_nothing_happens() {
    let t = Case::new();
    let host = t.host().set("uninterruptible_timeout", 0.8).set("monitor_interval", 0.02);
    let verbs = ["stuck", "0.3"].repeat(6);
    host.probe(&verbs).run().succeeded();
}

fn time_14_a_limit_that_is_none_is_off() {
    for value in ["0", "", "garbage", "-1"] {
        let t = Case::new();
        let host = t.host().env("TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT", value);
        host.probe(&["stuck", "0.5"]).run().succeeded();
    }
    let t = Case::new();
    let host =
        t.host().env("TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT", "0.1").set("uninterruptible_timeout", 0);
    host.probe(&["stuck", "0.5"]).run().succeeded();
    let t = Case::new();
    let host = t.host().set("uninterruptible_timeout", -1).probe(&["exit", "0"]);
    host.run().refused(&["uninterruptible_timeout", "-1"]);
}
