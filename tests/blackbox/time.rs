//! Area TIME: torch's file timers, workers that the kernel does not let go of, and where stuck workers were.

use std::path::Path;
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::harness::{
    CAUSE_OWN_FAILURE, CAUSE_STOPPED_BY_AGENT, CAUSE_TIMED_OUT, Case, END_INTERRUPTED, END_WORKER_FAILURE,
    Host, Kind, OUTCOME_SIGNALED, OUTCOME_STUCK, Run, Way, alive, gone, icerun, program, torch_python,
    wait_for,
};
use crate::tests;
use crate::tool::Freezer;

pub fn tests() -> Vec<Trial> {
    let mut all = tests![
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
        needs(torch): time_01_time_08_torchs_own_client,
        time_13_a_worker_in_uninterruptible_sleep_fails_the_run,
        needs(freezer): time_13_one_that_cannot_be_killed,
        time_14_below_the_limit_nothing_happens,
        time_14_a_limit_that_is_none_is_off,
        time_20_where_a_program_was,
        time_20_where_a_vforks_parent_was,
        time_20_a_stack_that_cannot_be_followed,
        time_20_threads_that_cannot_answer,
        time_20_many_threads,
        time_20_a_command_looks,
        time_20_a_command_that_fails_or_hangs,
        time_20_others_are_seen_meanwhile,
        time_20_all_are_looked_at_before_one_is_ended,
        time_20_it_can_be_left_out,
        time_20_by_icerun,
    ];
    all.extend(crate::tests_by_way![Way::ALL; time_20_where_a_function_was]);
    all
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
        assert!((0.95..2.5).contains(&life), "{life}");
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
    let run = timed(&t, 1).set("shutdown_timeout", 0.5).probe(&verbs).run();
    expired(&run, 0, "s", libc::SIGKILL);
    assert!((0.55..3.0).contains(&life(run.worker(0))), "{run}");
}

fn time_01_a_descendant_may_hold_a_timer() {
    for (block, kind) in [("child", Kind::Program), ("session", Kind::Program), ("child", Way::Fork.into())] {
        let t = Case::new();
        let pid = t.path("child");
        let verbs =
            [block, "append", &pid, "%p", "timer", "%p", "inner", "0.2", "KILL", "pause", ";", "pause"];
        let run = timed(&t, 1).worker(kind, &verbs).run();
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
        assert!(stack(worker).starts_with(&format!("thread {} (", t.lines("child")[0])), "{run}");
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
        assert_eq!(output.status.code(), Some(124), "{output:?}");
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
    run.within(Duration::from_secs(5));
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
            assert!((0.95..1.9).contains(&life(run.worker(0))), "{run}");
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
    with timer.expires(after=4):
        raise ValueError("through")
except ValueError:
    open(sys.argv[1], "a").write("released\n")
time.sleep(4.5)
if os.environ["RANK"] == "1" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    with timer.expires(after=1, scope="the step"):
        time.sleep(60)
"#;

fn time_01_time_08_torchs_own_client() {
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
    // An exception passes through, and the timer is released.
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
    assert!(message.contains("in uninterruptible sleep (state D) for "), "{message}");
    assert!(message.contains("where 0.5 s are the limit"), "{message}");
    assert_eq!(run.worker(0)["cause"], CAUSE_STOPPED_BY_AGENT);
    assert_eq!(run.result()["root_cause"]["local_rank"], 1);
    assert!(run.result()["message"].as_str().unwrap().contains("no restart"), "{run}");
    // icerun, by torch's variable.
    let t = Case::new();
    let mut command = t.command(icerun());
    command.env("TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT", "0.4");
    command.args(["--max-restarts", "2", "--shutdown-timeout", "0.5", "--no-python"]);
    let output = command.arg(program("probe")).args(["stuck", "10"]).output().unwrap();
    assert_eq!(output.status.code(), Some(124), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("uninterruptible sleep"), "{text}");
}

fn time_13_one_that_cannot_be_killed() {
    // A frozen process is asleep like that, and SIGKILL does not reach it.
    let t = Case::new();
    let host = t.host().set("local_world_size", 2).set("max_restarts", 3).set("shutdown_timeout", 0.2);
    let host = host.set("uninterruptible_timeout", 0.5).set("log_callback", t.path("log"));
    let running =
        host.probe(&["rank", "1", "append", &t.path("pid"), "%p", ";", "pause"]).step("run").spawn();
    let pid = t.wait_lines("pid", 1)[0].parse().unwrap();
    let freezer = Freezer::new();
    freezer.freeze(pid);
    let event = running.wait_event("run");
    let alive_at_the_end = alive(pid);
    freezer.thaw();
    let result = &event["result"];
    assert!(alive_at_the_end, "the test needs a worker that stays");
    assert_eq!((&result["end"], &result["restarts"]), (&END_WORKER_FAILURE.into(), &0.into()), "{result}");
    let worker = &result["workers"][1];
    assert_eq!(worker["outcome"], OUTCOME_STUCK, "{result}");
    assert_eq!(worker["cause"], CAUSE_TIMED_OUT, "{result}");
    let message = worker["message"].as_str().unwrap();
    assert!(
        message.contains("in uninterruptible sleep") && message.contains("still there after SIGKILL"),
        "{message}"
    );
    assert!(stack(worker).contains("(probe): D"), "{result}");
    assert_eq!(result["root_cause"]["local_rank"], 1);
    wait_for("the worker's end", || gone(pid));
    running.finish();
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

fn stack(worker: &Value) -> String {
    worker["stack"].as_str().unwrap().to_string()
}

/// The frames of the thread that is the worker itself, in its own words.
fn own_frames(worker: &Value) -> Vec<String> {
    let stack = stack(worker);
    let own = stack.split("by its own handler:\n").nth(1).unwrap_or_else(|| panic!("{stack}"));
    let start = format!("thread {} (", worker["pid"]);
    let mine = own.split("\n\n").find(|part| part.starts_with(&start)).unwrap_or_else(|| panic!("{stack}"));
    let frame = |line: &str| line.splitn(3, ' ').nth(2).unwrap_or_default().to_string();
    mine.lines().skip(1).map(frame).collect()
}

fn time_20_where_a_function_was(way: Way) {
    for how in ["spin", "deadlock"] {
        let t = Case::new();
        let verbs = ["threads", "2", "timer", "%p", "s", "0.3", "KILL", how];
        let run = timed(&t, 2).set("log_dir", t.path("logs")).function(way, &verbs).run();
        run.failed_as(END_WORKER_FAILURE);
        for rank in 0..2 {
            let worker = run.worker(rank);
            let stack = stack(worker);
            let frames = own_frames(worker);
            let leaf = frames.iter().position(|frame| frame.starts_with("hang_leaf+0x")).unwrap_or(99);
            assert!(
                frames.get(leaf + 1).is_some_and(|next| next.starts_with("hang_outer+0x")),
                "{frames:#?}"
            );
            assert!(frames.get(leaf + 2).is_some_and(|next| next.starts_with("run_verbs+0x")), "{frames:#?}");
            assert_eq!(stack.matches("sleep_forever+0x").count(), 2, "{stack}");
            let state = if how == "spin" { "): R (running)" } else { "): S (sleeping)" };
            assert!(stack.contains(state), "{stack}");
            // The same is in the worker's directory, and nothing else.
            let dir = Path::new(run.result()["run_dir"].as_str().unwrap()).join(format!("attempt_0/{rank}"));
            assert_eq!(std::fs::read_to_string(dir.join("stack.txt")).unwrap(), stack);
            assert_eq!(std::fs::read_dir(dir).unwrap().count(), 1);
            assert!(life(worker) < 3.0, "{run}");
        }
        assert!(run.result()["summary"].as_str().unwrap().contains("| #"), "{run}");
    }
}

fn time_20_where_a_program_was() {
    let t = Case::new();
    let run = timed(&t, 1).set("redirects", 1).probe(&["timer", "%p", "s", "0.2", "KILL", "pause"]).run();
    assert_eq!(run.result()["end"], END_WORKER_FAILURE);
    let (worker, stack) = (run.worker(0), stack(run.worker(0)));
    assert!(stack.starts_with(&format!("thread {} (probe): S (sleeping)", worker["pid"])), "{stack}");
    assert!(!stack.contains("by its own handler"), "{stack}");
    // SAFETY: no arguments, and it cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        assert!(stack.contains("nanosleep"), "{stack}");
    }
    let file = Path::new(run.result()["run_dir"].as_str().unwrap()).join("attempt_0/0/stack.txt");
    assert_eq!(std::fs::read_to_string(file).unwrap(), stack);
    // Where nobody asked for logs nothing is left behind.
    let t = Case::new();
    let run = timed(&t, 1).probe(&["timer", "%p", "s", "0.2", "KILL", "pause"]).run();
    expired(&run, 0, "s", libc::SIGKILL);
    assert!(run.worker(0)["stack"].as_str().unwrap().contains("(probe): S"), "{run}");
    // Nowhere.
    let t = Case::new();
    let run =
        timed(&t, 1).set("log_dir", "/dev/null").callback(&["timer", "%p", "s", "0.2", "KILL", "spin"]).run();
    expired(&run, 0, "s", libc::SIGKILL);
    assert!(run.worker(0)["stack"].as_str().unwrap().contains("R (running)"), "{run}");
}

fn time_20_where_a_vforks_parent_was() {
    let t = Case::new();
    let host = t.host().set("uninterruptible_timeout", 0.3).set("shutdown_timeout", 1);
    let run = host.set("log_dir", t.path("logs")).callback(&["stuck", "10"]).spawn().finish();
    let stack = stack(run.worker(0));
    assert!(stack.contains("D (disk sleep)"), "{stack}");
    assert!(!stack.contains("by its own handler"), "it cannot be asked: {stack}");
    // SAFETY: no arguments, and it cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        assert!(stack.contains("clone") || stack.contains("vfork"), "{stack}");
    }
    assert!(life(run.worker(0)) < 2.5, "{run}");
}

fn time_20_a_stack_that_cannot_be_followed() {
    let t = Case::new();
    let host = timed(&t, 1).set("log_dir", t.path("logs"));
    let run = host.callback(&["timer", "%p", "s", "0.2", "KILL", "spin_smashed"]).run();
    expired(&run, 0, "s", libc::SIGKILL);
    let frames = own_frames(run.worker(0));
    assert!(frames[0].starts_with("spin_smashed+0x"), "{frames:#?}");
    assert_eq!(run.worker(0)["error_file"], "", "it did not crash: {run}");
}

fn time_20_threads_that_cannot_answer() {
    for verbs in [&["block", "62"][..], &["ignore", "62"], &["stop"]] {
        let t = Case::new();
        let stops = verbs == ["stop"];
        let timer = ["timer", "%p", "s", "0.2", "KILL"];
        let verbs = [&timer[..], verbs, &["pause"]].concat();
        let run = timed(&t, 1).set("log_dir", t.path("logs")).callback(&verbs).run();
        expired(&run, 0, "s", libc::SIGKILL);
        let stack = stack(run.worker(0));
        assert!(!stack.contains("by its own handler"), "{stack}");
        assert_eq!(stack.contains("T (stopped)"), stops, "{stack}");
        assert!(life(run.worker(0)) < 2.0, "nobody is waited for that cannot answer: {run}");
    }
    // Without crash records there is no handler, and no signal.
    let t = Case::new();
    let host = timed(&t, 1).set("crash_records", 0).set("log_dir", t.path("logs"));
    let run = host.callback(&["timer", "%p", "s", "0.2", "KILL", "spin"]).run();
    expired(&run, 0, "s", libc::SIGKILL);
    assert!(!stack(run.worker(0)).contains("by its own handler"), "{run}");
}

fn time_20_many_threads() {
    let t = Case::new();
    let host = timed(&t, 1).set("log_dir", t.path("logs"));
    let run = host.callback(&["threads", "99", "timer", "%p", "s", "0.3", "KILL", "deadlock"]).run();
    expired(&run, 0, "s", libc::SIGKILL);
    let stack = stack(run.worker(0));
    assert!(stack.contains("\n(36 more)\n"), "{stack}");
    let own = stack.split("by its own handler:").nth(1).unwrap_or_else(|| panic!("{stack}"));
    assert_eq!(own.matches("\nthread ").count(), 64, "{stack}");
    assert_eq!(own.matches("sleep_forever+0x").count(), 63, "{stack}");
    assert!(own.contains("hang_leaf+0x"), "{stack}");
    assert!(life(run.worker(0)) < 4.0, "{run}");
}

fn script(t: &Case, text: &str) -> String {
    t.write("look", format!("#!/bin/sh\n{text}\n").as_bytes(), 0o755)
}

/// One program that is stuck, looked at by this script.
fn looked_at(t: &Case, text: &str, seconds: f64) -> Run {
    let command = format!("{} ${{pid}} r${{rank}}", script(t, text));
    let host = timed(t, 1).set("stack_command", command).set("stack_timeout", seconds);
    host.probe(&["timer", "%p", "s", "0.2", "KILL", "pause"]).run()
}

fn time_20_a_command_looks() {
    let t = Case::new();
    let run = looked_at(&t, "echo \"args $1 $2\"; echo problem >&2; head -c 1 | wc -c; printf end", 5.0);
    expired(&run, 0, "s", libc::SIGKILL);
    let stack = stack(run.worker(0));
    let wanted = format!("by {}:\nargs {} r0\nproblem\n0\nend\n", t.path("look"), run.worker(0)["pid"]);
    assert!(stack.ends_with(&wanted), "{stack}");
    assert!(run.result()["summary"].as_str().unwrap().contains("| problem"));
    // Its output is bounded, and does not hold it up.
    let t = Case::new();
    let run = looked_at(&t, "head -c 3000000 /dev/zero | tr '\\0' x; echo done >&2", 5.0);
    expired(&run, 0, "s", libc::SIGKILL);
    let length = run.worker(0)["stack"].as_str().unwrap().len();
    assert!((65_536..80_000).contains(&length), "{length}");
    assert!(life(run.worker(0)) < 3.0);
}

fn time_20_a_command_that_fails_or_hangs() {
    for (text, note) in [("exit 3", "(it exited with code 3)"), ("kill -9 $$", "(signal 9 ended it)")] {
        let t = Case::new();
        let run = looked_at(&t, text, 5.0);
        expired(&run, 0, "s", libc::SIGKILL);
        assert!(stack(run.worker(0)).ends_with(&format!("{note}\n")), "{run}");
    }
    let t = Case::new();
    let host = timed(&t, 1).set("stack_command", "no_such_program ${pid}");
    let run = host.probe(&["timer", "%p", "s", "0.2", "KILL", "pause"]).run();
    expired(&run, 0, "s", libc::SIGKILL);
    assert!(stack(run.worker(0)).contains("(it cannot start: ENOENT"), "{run}");
    // It hangs, it and what it has started, which would like to stay.
    for text in ["echo begun; sleep 60 & sleep 60", "echo begun; trap '' TERM; sleep 60", "yes"] {
        let t = Case::new();
        let run = looked_at(&t, text, 0.7);
        expired(&run, 0, "s", libc::SIGKILL);
        let stack = stack(run.worker(0));
        assert!(text == "yes" || stack.contains("begun\n"), "{stack}");
        assert!(stack.ends_with("(its time was over)\n"), "{stack}");
        assert!((0.8..3.0).contains(&life(run.worker(0))), "{run}");
    }
    // It is gone, and what it has started holds its output.
    let t = Case::new();
    let run = looked_at(&t, "echo begun; sleep 60 &", 20.0);
    expired(&run, 0, "s", libc::SIGKILL);
    assert!(stack(run.worker(0)).ends_with(":\nbegun\n"), "{run}");
    assert!(life(run.worker(0)) < 3.0, "{run}");
}

fn time_20_others_are_seen_meanwhile() {
    // Another one fails: that is the cause, and the search is over.
    let t = Case::new();
    let command = script(&t, "echo begun; sleep 60");
    let host = timed(&t, 2).set("stack_command", &command).set("stack_timeout", 60);
    let timer = ["rank", "0", "timer", "%p", "s", "0.2", "KILL", "pause", ";"];
    let run = host.probe(&[&timer[..], &["sleep", "1", "exit", "3"]].concat()).run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(run.result()["root_cause"]["exit_code"], 3, "{run}");
    assert_eq!(run.worker(0)["cause"], CAUSE_STOPPED_BY_AGENT, "{run}");
    assert!(stack(run.worker(0)).contains("(probe): S"), "what was found is kept: {run}");
    run.within(Duration::from_secs(5));
    // The worker itself ends.
    let t = Case::new();
    let command = script(&t, "echo begun; sleep 60");
    let host = timed(&t, 1).set("stack_command", &command).set("stack_timeout", 60);
    let run = host.probe(&["timer", "%p", "s", "0.2", "KILL", "sleep", "0.8"]).run();
    run.succeeded();
    run.within(Duration::from_secs(5));
    // A stop.
    let t = Case::new();
    let command = script(&t, &format!("touch {}; sleep 60", t.path("begun")));
    let host = timed(&t, 1).set("stack_command", &command).set("stack_timeout", 60);
    let host = host.probe(&["timer", "%p", "s", "0.2", "KILL", "pause"]);
    let run = host.steps(&["start", &format!("await={}", t.path("begun")), "stop=TERM", "wait=60"]).run();
    run.failed_as(END_INTERRUPTED);
    run.within(Duration::from_secs(5));
}

fn time_20_all_are_looked_at_before_one_is_ended() {
    let t = Case::new();
    let command = script(&t, "sleep 0.5; echo seen");
    let host = timed(&t, 5).set("stack_command", &command);
    let ready = t.path("ready");
    let verbs =
        ["append", &ready, "x", "await_lines", &ready, "5", "timer", "%p", "s", "0.5", "KILL", "pause"];
    let run = host.probe(&verbs).run();
    run.failed_as(END_WORKER_FAILURE);
    for rank in 0..5 {
        assert_eq!(run.worker(rank)["cause"], CAUSE_TIMED_OUT, "{run}");
        assert!(stack(run.worker(rank)).ends_with("seen\n"), "{run}");
    }
}

fn time_20_it_can_be_left_out() {
    let t = Case::new();
    let host = timed(&t, 1).set("stack_timeout", 0).set("stack_command", script(&t, "echo seen"));
    let run =
        host.set("log_dir", t.path("logs")).callback(&["timer", "%p", "s", "0.2", "KILL", "spin"]).run();
    expired(&run, 0, "s", libc::SIGKILL);
    assert_eq!(stack(run.worker(0)), "");
    let t = Case::new();
    let host = t.host().set("stack_timeout", -1).probe(&["exit", "0"]);
    host.run().refused(&["stack_timeout", "-1"]);
}

fn time_20_by_icerun() {
    let t = Case::new();
    let mut command = t.command(icerun());
    command.args([
        "--file-timers",
        "--stack-timeout",
        "3",
        "--stack-command",
        "echo looked at ${pid}=$((1+1))",
    ]);
    command.args(["--log-dir", &t.path("logs"), "--no-python"]).arg(program("probe"));
    let output = command.args(["timer", "%p", "s", "0.2", "KILL", "pause"]).output().unwrap();
    assert_eq!(output.status.code(), Some(124), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("| looked at ") && text.contains("=2\n"), "{text}");
    t.nothing_left();
}
