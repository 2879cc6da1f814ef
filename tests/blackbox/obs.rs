//! Area OBS: events, for machines.

use std::fs;
use std::os::fd::OwnedFd;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::harness::*;
use crate::tests;
use crate::tool::*;

pub fn tests() -> Vec<Trial> {
    tests![
        obs_01_counters_and_flakiness_of_a_run,
        obs_04_handlers_by_source,
        obs_04_a_handler_that_fails_harms_no_other,
        obs_05_states_of_workers_and_agent,
        obs_05_by_every_kind_of_worker,
        obs_05_stages_have_durations,
        obs_05_a_failed_start_is_told,
        obs_06_events_are_lines_of_json,
        obs_08_exactly_one_end_whatever_happens,
        obs_09_an_event_file_that_takes_nothing,
        obs_09_an_event_file_that_cannot_be_opened,
        obs_10_the_callback_is_called_in_order,
        obs_icerun_options,
    ]
}

fn parse(lines: &[String]) -> Vec<Value> {
    lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

/// The events of a host whose spec has an event file of this name, but for those of stages.
fn events(t: &Case, name: &str) -> Vec<Value> {
    let mut events = parse(&t.lines(name));
    events.retain(|event| !is_stage(event));
    events
}

fn is_stage(event: &Value) -> bool {
    event["name"].as_str().unwrap().contains(".stage.")
}

/// `SOURCE STATE RANK ATTEMPT` of each.
fn told(events: &[Value]) -> Vec<String> {
    let tell = |event: &Value| {
        let metadata = &event["metadata"];
        format!(
            "{} {} {} {}",
            event["source"].as_str().unwrap(),
            metadata["state"].as_str().unwrap(),
            metadata.get("global_rank").unwrap_or(&Value::Null),
            metadata["agent_restarts"]
        )
    };
    events.iter().filter(|event| !is_stage(event)).map(tell).collect()
}

fn obs_01_counters_and_flakiness_of_a_run() {
    for (failing, most, counter, flakiness) in [
        (0, 0, "run_success_without_retry", 0),
        (0, 1, "run_success_without_retry", 0),
        (1, 1, "run_success_with_retry", 50),
        (7, 10, "run_success_with_retry", 63),
        (9, 0, "run_failed_without_retry", 100),
        (9, 2, "run_failed_with_retry", 100),
    ] {
        let t = Case::new();
        let host = t.host().set("event_file", t.path("events")).set("max_restarts", most);
        let run = host.probe(&["until_attempt", &failing.to_string(), "exit", "1", ";"]).run();
        run.clean();
        assert_eq!(run.result()["flakiness"], flakiness);
        let last = events(&t, "events").pop().unwrap();
        let metadata = last["metadata"].as_object().unwrap();
        assert_eq!((&metadata["run_total"], &metadata["flakiness"]), (&1.into(), &flakiness.into()));
        for name in [
            "run_success_with_retry",
            "run_success_without_retry",
            "run_failed_with_retry",
            "run_failed_without_retry",
        ] {
            assert_eq!(metadata[name], i32::from(name == counter), "{name} {failing} {most}");
        }
    }
}

fn obs_04_handlers_by_source() {
    let sources = |lines: &[String]| -> Vec<String> {
        parse(lines).iter().map(|event| event["source"].as_str().unwrap().to_string()).collect()
    };
    let t = Case::new();
    let host = t.host().set("event_file", t.path("all")).set("event_callback", t.path("called"));
    let host = host.set("event_handler", format!("worker:{}", t.path("workers")));
    host.probe(&["exit", "0"]).run().succeeded();
    assert_eq!(sources(&t.lines("workers")), ["WORKER", "WORKER"]);
    assert_eq!(sources(&t.lines("all")), ["AGENT"; 5]);
    assert_eq!(t.lines("called").len(), 7, "the callback gets all");
    // By name; and one place for two sources.
    let t = Case::new();
    let host = t.host().set("event_handler", ":console").set("event_handler", "agent:null");
    let run = host.probe(&["exit", "0"]).run();
    run.succeeded();
    let lines: Vec<String> = run.err().lines().map(str::to_string).collect();
    assert_eq!(sources(&lines), ["WORKER", "WORKER"]);
    let t = Case::new();
    let (one, other) = (format!("worker:{}", t.path("f")), format!("agent:{}", t.path("f")));
    let host = t.host().set("event_handler", one).set("event_handler", other);
    host.probe(&["exit", "0"]).run().succeeded();
    assert_eq!(
        told(&parse(&t.lines("f"))),
        ["WORKER STARTED 0 0", "WORKER SUCCEEDED 0 0", "AGENT SUCCEEDED null 0"]
    );
    let t = Case::new();
    let host = t.host().set("event_handler", "worker:console").set("event_handler", "worker:");
    assert_eq!(host.probe(&["exit", "0"]).run().err(), "", "taken back");
    t.host()
        .set("event_handler", "nobody:null")
        .probe(&[])
        .step("new")
        .run()
        .refused(&["nobody", "worker, agent"]);
}

fn obs_04_a_handler_that_fails_harms_no_other() {
    let t = Case::new();
    let host = t.host().set("event_file", t.path("all")).set("event_handler", "worker:/dev/full");
    let host = host.set("log_callback", t.path("log")).set("local_world_size", 4);
    host.probe(&["exit", "0"]).run().succeeded();
    assert_eq!(told(&events(&t, "all")), ["AGENT SUCCEEDED null 0"]);
    assert_eq!(t.lines("log").iter().filter(|line| line.contains("event file takes no more")).count(), 1);
    // One that cannot be opened: the others learn of the start error.
    let t = Case::new();
    let host = t.host().set("event_file", t.path("all")).set("event_handler", "worker:/nowhere/events");
    host.probe(&[]).run().failed_as(END_START_ERROR);
    assert_eq!(told(&events(&t, "all")), ["AGENT FAILED null 0"]);
}

fn obs_05_states_of_workers_and_agent() {
    let t = Case::new();
    let host = t.host().set("event_file", "events").set("local_world_size", 2).set("max_restarts", 1);
    let host = host.set("role", "trainer").set("run_id", "job 7");
    let verbs =
        ["append", &t.path("up.%a"), "x", "await_lines", &t.path("up.%a"), "2", "attempt", "0", "rank", "1"];
    let verbs = [&verbs[..], &["exit", "9", ";", "pause", ";"]].concat();
    let run = host.step(format!("chdir={}", t.dir.display())).probe(&verbs).run();
    run.succeeded();
    let events = events(&t, "events");
    let mut said = told(&events);
    said[..2].sort();
    said[2..4].sort();
    said[4..6].sort();
    said[6..8].sort();
    assert_eq!(
        said,
        [
            "WORKER STARTED 0 0",
            "WORKER STARTED 1 0",
            "WORKER FAILED 1 0",
            "WORKER TERMINATED 0 0",
            "WORKER STARTED 0 1",
            "WORKER STARTED 1 1",
            "WORKER SUCCEEDED 0 1",
            "WORKER SUCCEEDED 1 1",
            "AGENT SUCCEEDED null 1",
        ]
    );
    let failed = events.iter().find(|event| event["metadata"]["state"] == "FAILED").unwrap();
    assert_eq!(failed["name"], "torchelastic.worker.status.FAILED");
    let metadata = &failed["metadata"];
    let root = &run.result()["failures"][0];
    assert_eq!(metadata["worker_id"], root["pid"]);
    assert_eq!((&metadata["exit_code"], &metadata["error"]), (&9.into(), &root["message"]));
    assert_eq!((&metadata["role"], &metadata["run_id"]), (&"trainer".into(), &"job 7".into()));
    assert_eq!((&metadata["local_rank"], &metadata["world_size"]), (&1.into(), &2.into()));
    let terminated = events.iter().find(|event| event["metadata"]["state"] == "TERMINATED").unwrap();
    assert_eq!(
        (&terminated["metadata"]["signal"], &terminated["metadata"]["exit_code"]),
        (&15.into(), &(-15).into())
    );
    assert!(terminated["metadata"].get("error").is_none());
}

fn obs_05_by_every_kind_of_worker() {
    for kind in Kind::ALL {
        let t = Case::new();
        let host = t.host().set("event_file", t.path("events")).set("local_world_size", 3);
        host.worker(kind, &["exit", "0"]).run();
        let said = told(&events(&t, "events"));
        assert_eq!(
            said.iter().filter(|line| line.starts_with("WORKER STARTED")).count(),
            3,
            "{kind:?} {said:?}"
        );
        assert_eq!(said.iter().filter(|line| line.starts_with("AGENT")).count(), 1, "{said:?}");
        assert_eq!(said.len(), 7);
    }
}

fn obs_05_stages_have_durations() {
    let t = Case::new();
    let host = t.host().set("event_file", t.path("events")).set("local_world_size", 2).set("max_restarts", 1);
    let up = t.path("up.%a");
    let verbs = ["exit_on", "TERM", "5", "0.2", "append", &up, "x", "await_lines", &up, "2"];
    let host =
        host.probe(&[&verbs[..], &["attempt", "0", "rank", "1", "exit", "9", ";", "pause", ";"]].concat());
    host.run().succeeded();
    let mut stages = parse(&t.lines("events"));
    stages.retain(is_stage);
    let told = stages.iter().map(|event| {
        let name = event["name"].as_str().unwrap().strip_prefix("torchelastic.agent.stage.").unwrap();
        (name.to_string(), event["metadata"]["agent_restarts"].as_i64().unwrap())
    });
    let told: Vec<_> = told.collect();
    let wanted = [
        ("ASSIGN_WORKER_RANKS", 0),
        ("START", 0),
        ("MONITOR", 0),
        ("STOP", 0),
        ("ATTEMPT", 0),
        ("ASSIGN_WORKER_RANKS", 1),
        ("START", 1),
        ("RESTART", 1),
        ("MONITOR", 1),
        ("ATTEMPT", 1),
    ];
    assert_eq!(told, wanted.map(|(name, attempt)| (name.to_string(), attempt)));
    let took: Vec<f64> =
        stages.iter().map(|event| event["metadata"]["duration_ms"].as_f64().unwrap()).collect();
    let [assign, start, monitor, stop, attempt, _, again, restart, ..] = took[..] else { panic!("{took:?}") };
    assert!(assign > 0.0 && start > assign && monitor > 0.0 && stop >= 200.0, "{took:?}");
    assert!(attempt > stop + monitor && restart > stop + again, "{took:?}");
    assert!(attempt < 20_000.0, "{took:?}");
    assert!(stages.iter().all(|event| event["metadata"].get("error").is_none()), "{stages:?}");
}

/// A start that fails is a START with an error, and FAILED for the worker that could not be started.
fn obs_05_a_failed_start_is_told() {
    let stage = |t: &Case, name: &str| -> Vec<Value> {
        let mut events = parse(&t.lines("events"));
        events.retain(|event| event["name"] == format!("torchelastic.agent.stage.{name}"));
        events
    };
    // The third worker cannot be started: it alone has a PATH without the program.
    let t = Case::new();
    let host = t.host().set("event_file", t.path("events")).set("local_world_size", 4);
    let host = host.set("rank_env", "2:PATH=/nowhere");
    let run = host.set("program", "sleep").set("arg", "600").run();
    run.failed_as(END_START_ERROR);
    assert_eq!(run.worker(2)["cause"], CAUSE_NEVER_STARTED);
    let why = run.worker(2)["message"].as_str().unwrap();
    assert!(why.contains("cannot start sleep") && why.contains("ENOENT"), "{why}");
    assert_eq!(run.worker(3)["message"], "never started");
    let mut said = told(&events(&t, "events"));
    said[..2].sort();
    assert_eq!(
        said,
        [
            "WORKER STARTED 0 0",
            "WORKER STARTED 1 0",
            "WORKER TERMINATED 0 0",
            "WORKER TERMINATED 1 0",
            "WORKER FAILED 2 0",
            "AGENT FAILED null 0"
        ]
    );
    let failed =
        events(&t, "events").into_iter().find(|event| event["metadata"]["global_rank"] == 2).unwrap();
    assert_eq!(failed["metadata"]["error"], why);
    assert_eq!(failed["metadata"]["worker_id"], 0);
    let starts = stage(&t, "START");
    assert_eq!(starts.len(), 1);
    assert_eq!(starts[0]["metadata"]["error"], why);
    assert!(starts[0]["metadata"]["duration_ms"].as_f64().unwrap() > 0.0);
    // No worker is to blame.
    let t = Case::new();
    let host = t.host().set("event_file", t.path("events")).set("log_dir", "/proc/none");
    host.probe(&["exit", "0"]).run().failed_as(END_START_ERROR);
    assert_eq!(told(&events(&t, "events")), ["AGENT FAILED null 0"]);
    assert!(stage(&t, "START")[0]["metadata"]["error"].as_str().unwrap().contains("/proc/none"));
    // A function's process that never comes to its work had a STARTED: it has an end, too.
    let t = Case::new();
    let host = t.host().set("event_file", t.path("events")).env("HOST_BEFORE_HOOK", "");
    let host = host.set("rank_env", "0:HOST_BEFORE_HOOK=exit:7").function(Way::Spawn, &["code", "0"]);
    host.run().failed_as(END_START_ERROR);
    let said = told(&events(&t, "events"));
    assert_eq!(said, ["WORKER STARTED 0 0", "WORKER FAILED 0 0", "AGENT FAILED null 0"]);
    // A restart that fails.
    let t = Case::new();
    let once = t.write("once", b"#!/bin/sh\nrm \"$0\"\nexit 4\n", 0o755);
    let host = t.host().set("event_file", t.path("events")).set("max_restarts", 1);
    host.set("program", once).run().failed_as(END_AGENT_ERROR);
    let restarts = stage(&t, "RESTART");
    assert_eq!(restarts.len(), 1);
    assert_eq!(restarts[0]["metadata"]["agent_restarts"], 1);
    assert!(restarts[0]["metadata"]["error"].as_str().unwrap().contains("once"), "{restarts:?}");
}

fn obs_06_events_are_lines_of_json() {
    let t = Case::new();
    let host = t.host().set("event_file", t.path("events")).set("run_id", "a\"b\\c").set("role", "r\u{e4}");
    host.probe(&["exit", "0"]).run().succeeded();
    // Appended to, not written over.
    t.host().set("event_file", t.path("events")).probe(&["exit", "0"]).run().succeeded();
    let events = events(&t, "events");
    assert_eq!(events.len(), 6);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    for event in &events {
        let age = now - event["timestamp"].as_u64().expect("a time");
        assert!(age < 600_000, "{event}");
        assert!(event["name"].as_str().unwrap().starts_with("torchelastic."), "{event}");
    }
    assert_eq!(events[0]["metadata"]["run_id"], "a\"b\\c");
    assert_eq!(events[0]["metadata"]["role"], "r\u{e4}");
}

fn obs_08_exactly_one_end_whatever_happens() {
    let end = |t: &Case| -> Value {
        let events = events(t, "events");
        let ends: Vec<_> = events.iter().filter(|event| event["source"] == "AGENT").collect();
        assert_eq!(ends.len(), 1, "{events:?}");
        assert_eq!(ends[0], events.last().unwrap());
        ends[0].clone()
    };
    // A start that fails.
    let t = Case::new();
    t.host().set("event_file", t.path("events")).set("program", "/nowhere/program").run();
    let event = end(&t);
    assert_eq!(
        (&event["metadata"]["state"], &event["metadata"]["end"]),
        (&"FAILED".into(), &"start error".into())
    );
    assert!(event["metadata"]["error"].as_str().unwrap().contains("/nowhere/program"));
    // The agent's process is signalled.
    let t = Case::new();
    let host = t.host().set("event_file", t.path("events")).set("signals", "SIGTERM");
    let running = host.probe(&["touch", &t.path("up"), "pause"]).spawn();
    t.wait_file("up");
    running.signal(libc::SIGTERM);
    running.finish().clean();
    let event = end(&t);
    assert_eq!(
        (&event["metadata"]["state"], &event["metadata"]["end"]),
        (&"FAILED".into(), &"interrupted".into())
    );
    assert!(event["metadata"]["error"].as_str().unwrap().contains("SIGTERM"));
    // The machinery fails.
    let t = Case::new();
    let host = t.host().set("event_file", t.path("events")).set("library", "/nowhere/libgone.so");
    host.set("function", "f").set("start_method", 1).run();
    assert_eq!(end(&t)["metadata"]["state"], "FAILED");
}

fn obs_09_an_event_file_that_takes_nothing() {
    // A full disk, and a pipe that nobody empties.
    let t = Case::new();
    let run = t
        .host()
        .set("event_file", "/dev/full")
        .set("log_callback", t.path("log"))
        .probe(&["exit", "0"])
        .run();
    run.succeeded();
    let warnings: Vec<_> = t.lines("log").into_iter().filter(|line| line.contains("event file")).collect();
    assert_eq!(warnings.len(), 1, "once: {warnings:?}");
    assert!(warnings[0].contains("No space left"), "{warnings:?}");
    let t = Case::new();
    let pipe = t.dir.join("pipe");
    nix_mkfifo(&pipe);
    let reader = fs::OpenOptions::new().read(true).write(true).open(&pipe).expect("a pipe");
    fill(&reader.into());
    let host = t.host().set("event_file", pipe.display()).set("log_callback", t.path("log"));
    let run = host.set("shutdown_timeout", 0.2).set("local_world_size", 4).probe(&["exit", "0"]).run();
    run.succeeded();
    run.within(AT_ONCE);
}

/// Fills a pipe; it stays open as long as the test.
fn fill(pipe: &OwnedFd) {
    use std::os::fd::AsRawFd;
    let bytes = [b'x'; 4096];
    // SAFETY: a descriptor of ours, a buffer of the length that is given; its copy stays open on purpose.
    unsafe {
        let copy = libc::dup(pipe.as_raw_fd());
        libc::fcntl(copy, libc::F_SETFL, libc::O_NONBLOCK);
        libc::fcntl(copy, libc::F_SETFD, libc::FD_CLOEXEC);
        while libc::write(copy, bytes.as_ptr().cast(), bytes.len()) > 0 {}
    }
}

fn nix_mkfifo(path: &std::path::Path) {
    let text = std::ffi::CString::new(path.to_str().unwrap()).unwrap();
    // SAFETY: a NUL-terminated path.
    assert_eq!(unsafe { libc::mkfifo(text.as_ptr(), 0o600) }, 0);
}

fn obs_09_an_event_file_that_cannot_be_opened() {
    let t = Case::new();
    for path in ["/nowhere/events".to_string(), t.dir.display().to_string()] {
        let run = t.host().set("event_file", &path).probe(&["touch", &t.path("started")]).run();
        run.failed_as(END_START_ERROR);
        let message = run.result()["message"].as_str().unwrap();
        assert!(message.contains("event file") && message.contains(&path), "{message}");
    }
    // A pipe without a reader would hold the agent up.
    let pipe = t.dir.join("pipe");
    nix_mkfifo(&pipe);
    t.host().set("event_file", pipe.display()).probe(&[]).run().failed_as(END_START_ERROR);
    assert!(!t.dir.join("started").exists());
}

fn obs_10_the_callback_is_called_in_order() {
    let t = Case::new();
    let host = t.host().set("event_callback", t.path("called")).set("event_file", t.path("events"));
    // A slow one: the run's end waits for it, its workers do not.
    let host = host.set("event_seconds", 0.05).set("local_world_size", 4).set("max_restarts", 1);
    let run = host.probe(&["until_attempt", "1", "exit", "1", ";"]).run();
    run.succeeded();
    let called = t.lines("called");
    assert_eq!(called, t.lines("events"));
    let called = told(&parse(&called));
    assert_eq!((called.len(), called[16].as_str()), (17, "AGENT SUCCEEDED null 1"));
}

fn obs_icerun_options() {
    let t = Case::new();
    tool(&t, &["--event-file", &t.path("events")]).probe(&["exit", "0"]).run().exited(0);
    assert_eq!(
        told(&events(&t, "events")),
        ["WORKER STARTED 0 0", "WORKER SUCCEEDED 0 0", "AGENT SUCCEEDED null 0"]
    );
    let ended = tool(&t, &["--event-log-handler", "console"]).probe(&["exit", "0"]).run();
    let lines: Vec<String> = ended.exited(0).err().lines().map(str::to_string).collect();
    assert_eq!(told(&parse(&lines)).len(), 3);
    let ended = tool(&t, &["--event-log-handler", "null"]).probe(&["exit", "0"]).run();
    assert_eq!(ended.exited(0).err(), "");
    let ended = tool(&t, &["--event-log-handler", "agent=console,worker=null"]).probe(&["exit", "0"]).run();
    let lines: Vec<String> = ended.exited(0).err().lines().map(str::to_string).collect();
    assert_eq!(told(&parse(&lines)), ["AGENT SUCCEEDED null 0"]);
    tool(&t, &["--event-log-handler", "host=console"]).probe(&[]).run().refused(&["host", "worker, agent"]);
    tool(&t, &["--event-log-handler", "kafka"]).probe(&[]).run().refused(&["kafka", "null or console"]);
    let both = ["--event-log-handler", "console", "--event-file", "f"];
    tool(&t, &both).probe(&[]).run().refused(&["console", "--event-file"]);
}
