//! Area RST: restarts of the group.

use std::collections::BTreeSet;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::harness::{
    Case, END_AGENT_ERROR, END_INTERRUPTED, END_START_ERROR, END_WORKER_FAILURE, HOST_LIMIT, Kind,
    STATE_FAILED, probe, soon, wait_for,
};
use crate::tests;

pub fn tests() -> Vec<Trial> {
    tests![
        rst_01_exactly_as_many_attempts_as_allowed,
        rst_01_the_last_32_failures_are_kept,
        rst_02_all_are_stopped_then_all_are_started,
        rst_05_start_errors_use_no_restart,
        rst_06_a_start_error_in_a_later_attempt,
        rst_06_what_cannot_pass_is_no_restart,
        rst_10_backoff_between_attempts,
        rst_10_a_stop_ends_the_backoff,
        rst_10_min_uptime_ends_a_crash_loop,
        rst_12_exit_codes_that_end_the_run,
        rst_13_restarts_leave_nothing,
        rst_a_stop_during_the_stop_of_a_restart,
        rst_failures_of_attempts_in_order,
    ]
}

fn rst_01_exactly_as_many_attempts_as_allowed() {
    for kind in Kind::ALL {
        let t = Case::new();
        let verbs = ["append", &t.path("attempts"), "%a", "exit", "7"];
        let run = t.host().set("max_restarts", 3).worker(kind, &verbs).run();
        run.failed_as(END_WORKER_FAILURE);
        assert_eq!(t.lines("attempts"), ["0", "1", "2", "3"]);
        assert_eq!(run.result()["restarts"], 3);
        assert_eq!(run.result()["state"], STATE_FAILED);
        assert_eq!(run.worker(0)["attempt"], 3);
        assert_eq!(run.result()["root_cause"]["attempt"], 3);
    }
}

fn rst_01_the_last_32_failures_are_kept() {
    let t = Case::new();
    let run = t.host().set("max_restarts", 39).probe(&["exit", "7"]).run();
    run.failed_as(END_WORKER_FAILURE);
    let attempts: Vec<i64> = run.result()["failures"]
        .as_array()
        .unwrap()
        .iter()
        .map(|failure| failure["attempt"].as_i64().unwrap())
        .collect();
    assert_eq!(attempts, (8..40).collect::<Vec<i64>>());
}

fn rst_02_all_are_stopped_then_all_are_started() {
    for kind in Kind::ALL {
        let t = Case::new();
        let host = t.host().set("max_restarts", 3).set("local_world_size", 4).set("shutdown_timeout", 0.3);
        // Who starts looks whether any process of the attempt before is still there. Rank 3 needs SIGKILL each time,
        // and so does a child in its group.
        let (pids, found) = (t.path("pids.%a"), t.path("found"));
        let mut verbs = Vec::new();
        for attempt in 1..4 {
            verbs.extend([
                "attempt".into(),
                attempt.to_string(),
                "still_there".into(),
                t.path(&format!("pids.{}", attempt - 1)),
                found.clone(),
                ";".into(),
            ]);
        }
        for verb in [
            "append",
            &pids,
            "%p",
            "rank",
            "3",
            "ignore",
            "TERM",
            "child",
            "append",
            &pids,
            "%p",
            "pause",
            ";",
            ";",
            "await_lines",
            &pids,
            "5",
            "until_attempt",
            "3",
            "rank",
            "1",
            "exit",
            "1",
            ";",
            "pause",
            ";",
        ] {
            verbs.push(verb.to_string());
        }
        let verbs: Vec<&str> = verbs.iter().map(String::as_str).collect();
        let run = host.worker(kind, &verbs).run();
        run.succeeded();
        assert_eq!(t.lines("found"), Vec::<String>::new(), "of the attempt before");
        let mut all = BTreeSet::new();
        for attempt in 0..4 {
            let pids = t.lines(&format!("pids.{attempt}"));
            assert_eq!(pids.len(), 5);
            all.extend(pids);
        }
        assert_eq!(all.len(), 20, "new processes each time");
        assert_eq!(run.result()["restarts"], 3);
    }
}

fn rst_05_start_errors_use_no_restart() {
    let t = Case::new();
    let run = t
        .host()
        .set("max_restarts", 3)
        .set("restart_backoff", "60,60")
        .set("program", "/no/such/program")
        .run();
    run.failed_as(END_START_ERROR);
    assert_eq!(run.result()["restarts"], 0);
    assert_eq!(run.result()["failures"].as_array().unwrap().len(), 0);
    assert_eq!(run.result()["root_cause"], serde_json::Value::Null);
}

fn rst_06_a_start_error_in_a_later_attempt() {
    let t = Case::new();
    let copy = t.path("copy");
    std::fs::copy(probe(), &copy).unwrap();
    let host = t.host().set("max_restarts", 4).set("local_world_size", 2).set("program", &copy);
    let rm = format!("rm {copy}; exit 1");
    let host = [
        "append",
        &t.path("attempts"),
        "%a",
        "attempt",
        "1",
        "rank",
        "0",
        "exec",
        "sh",
        "-c",
        &rm,
        ";",
        "pause",
        ";",
        "exit",
        "1",
    ]
    .iter()
    .fold(host, |host, verb| host.set("arg", verb));
    let run = host.run();
    run.failed_as(END_AGENT_ERROR);
    assert_eq!(run.result()["errno"], libc::ENOENT);
    let message = run.result()["message"].as_str().unwrap();
    // It may come back, so the restarts are used up first.
    assert!(message.contains("attempt 4") && message.contains(&copy), "{message}");
    assert_eq!(run.result()["restarts"], 4);
    assert_eq!(run.result()["failures"].as_array().unwrap().len(), 4);
}

fn rst_06_what_cannot_pass_is_no_restart() {
    let t = Case::new();
    let copy = t.path("copy");
    for (spoil, errno) in [("chmod 600", libc::EACCES), ("truncate -s 0", libc::ENOEXEC)] {
        std::fs::copy(probe(), t.path("new")).unwrap();
        std::fs::rename(t.path("new"), &copy).unwrap();
        let host = t.host().set("max_restarts", 5).set("program", &copy);
        let script = format!("until {spoil} {copy}; do sleep 0.1; done; exit 1");
        let run = ["exec", "sh", "-c", &script].iter().fold(host, |host, verb| host.set("arg", verb)).run();
        run.failed_as(END_AGENT_ERROR);
        assert_eq!(
            (&run.result()["errno"], &run.result()["restarts"]),
            (&errno.into(), &1.into()),
            "{spoil}"
        );
    }
}

/// CLOCK_MONOTONIC at the start of each attempt.
fn starts(t: &Case) -> Vec<i64> {
    t.lines("starts").iter().map(|line| line.parse().unwrap()).collect()
}

fn rst_10_backoff_between_attempts() {
    let t = Case::new();
    let host = t.host().set("max_restarts", 4).set("restart_backoff", "0.1,0.3");
    let run = host.probe(&["append", &t.path("starts"), "%t", "exit", "1"]).run();
    run.failed_as(END_WORKER_FAILURE);
    let starts = starts(&t);
    assert_eq!(starts.len(), 5);
    // 0.1, 0.2, then the maximum; never less, and not seconds more.
    for (pair, wait) in starts.windows(2).zip([0.1, 0.2, 0.3, 0.3]) {
        let seconds = (pair[1] - pair[0]) as f64 / 1e9;
        assert!((wait..wait + 3.0).contains(&seconds), "{seconds} for {wait}");
    }
}

fn rst_10_a_stop_ends_the_backoff() {
    let t = Case::new();
    let host = t.host().set("max_restarts", 4).set("restart_backoff", "100,100");
    let host = host.probe(&["append", &t.path("starts"), "%t", "exit", "1"]);
    let host =
        host.steps(&["start", &format!("await={}", t.path("starts")), "sleep=0.3", "stop=0", "wait=60"]);
    let run = host.run();
    run.failed_as(END_INTERRUPTED);
    run.within(Duration::from_secs(20));
    assert_eq!(starts(&t).len(), 1);
}

fn rst_10_min_uptime_ends_a_crash_loop() {
    let t = Case::new();
    let host = t.host().set("max_restarts", 100).set("min_uptime", 20);
    let run = host.probe(&["append", &t.path("starts"), "%t", "exit", "1"]).run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(starts(&t).len(), 1);
    assert!(run.result()["message"].as_str().unwrap().contains("crash loop"), "{run}");
    // An attempt that was up long enough is no crash loop.
    let t = Case::new();
    let host = t.host().set("max_restarts", 2).set("min_uptime", 0.1);
    let run = host.probe(&["append", &t.path("starts"), "%t", "sleep", "0.2", "exit", "1"]).run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(starts(&t).len(), 3);
    assert!(!run.result()["message"].as_str().unwrap().contains("crash loop"), "{run}");
}

fn rst_12_exit_codes_that_end_the_run() {
    for kind in Kind::ALL {
        let t = Case::new();
        let host =
            t.host().set("max_restarts", 5).set("no_restart_exit_code", 77).set("no_restart_exit_code", 78);
        let verbs = ["append", &t.path("starts"), "%t", "attempt", "2", "exit", "78", ";", "exit", "1"];
        let run = host.worker(kind, &verbs).run();
        run.failed_as(END_WORKER_FAILURE);
        assert_eq!(starts(&t).len(), 3);
        assert_eq!(run.worker(0)["exit_code"], 78);
        assert_eq!(run.result()["restarts"], 2);
    }
}

/// Descriptors, threads and resident KiB of a process.
fn vitals(pid: i32) -> (usize, usize, usize) {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    (count("fd"), count("task"), line.split_whitespace().nth(1).unwrap().parse().unwrap())
}

fn rst_13_restarts_leave_nothing() {
    for kind in Kind::ALL {
        let t = Case::new();
        let host =
            t.host().set("max_restarts", 200).set("local_world_size", 2).set("log_dir", t.path("logs"));
        let host = host.set("tee", "3").set("log_callback", t.path("log"));
        let verbs = [
            "print",
            "a line",
            "attempt",
            "10",
            "append",
            &t.path("early"),
            "x",
            "await",
            &t.path("go_on"),
            ";",
            "attempt",
            "200",
            "append",
            &t.path("late"),
            "x",
            "await",
            &t.path("end"),
            ";",
            "until_attempt",
            "200",
            "rank",
            "1",
            "exit",
            "1",
            ";",
            "pause",
            ";",
        ];
        let running = host.worker(kind, &verbs).spawn();
        // Both workers are up, and for some looks nothing has changed.
        let settled = |name: &str| {
            t.wait_lines(name, 2);
            let (mut last, mut same) = (vitals(running.pid()), 0);
            wait_for("the host to settle", || {
                let now = vitals(running.pid());
                same = if (now.0, now.1) == (last.0, last.1) { same + 1 } else { 0 };
                last = now;
                same == 40
            });
            last
        };
        let early = settled("early");
        std::fs::write(t.dir.join("go_on"), "").unwrap();
        soon(HOST_LIMIT, || t.lines("late").len() == 2);
        let late = settled("late");
        std::fs::write(t.dir.join("end"), "").unwrap();
        running.finish().succeeded();
        assert_eq!((early.0, early.1), (late.0, late.1), "descriptors and threads");
        assert!(late.2 < early.2 + 2048, "{} KiB, then {} KiB", early.2, late.2);
    }
}

fn rst_a_stop_during_the_stop_of_a_restart() {
    let t = Case::new();
    // Rank 1 fails, rank 0 needs a second to stop: the run is stopped within that second.
    let host = t.host().set("max_restarts", 5).set("local_world_size", 2);
    let verbs = [
        "count",
        "TERM",
        &t.path("terms"),
        "append",
        &t.path("starts"),
        "%t",
        "rank",
        "1",
        "await_lines",
        &t.path("starts"),
        "2",
        "exit",
        "1",
        ";",
        "await",
        &t.path("terms"),
        "sleep",
        "1",
    ];
    let host =
        host.probe(&verbs).steps(&["start", &format!("await={}", t.path("terms")), "stop=0", "wait=60"]);
    let run = host.run();
    run.failed_as(END_INTERRUPTED);
    assert_eq!(starts(&t).len(), 2, "nothing was started again");
}

fn rst_failures_of_attempts_in_order() {
    let t = Case::new();
    let host = t.host().set("max_restarts", 5).set("local_world_size", 2).set("log_dir", t.path("logs"));
    let verbs = [
        "attempt",
        "0",
        "rank",
        "1",
        "error_long",
        "first trouble",
        "stack",
        "1700000000",
        "exit",
        "3",
        ";",
        "pause",
        ";",
        "attempt",
        "1",
        "rank",
        "0",
        "kill",
        "KILL",
        ";",
        "pause",
        ";",
    ];
    let run = host.probe(&verbs).run();
    run.succeeded();
    let failures = run.result()["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 2);
    assert_eq!(failures[0]["attempt"], 0);
    assert_eq!(failures[0]["local_rank"], 1);
    assert_eq!(failures[0]["message"], "first trouble");
    assert_eq!(failures[0]["error_timestamp"], 1_700_000_000);
    assert_eq!(failures[1]["attempt"], 1);
    assert_eq!(failures[1]["local_rank"], 0);
    assert_eq!(failures[1]["signal"], libc::SIGKILL);
    assert_eq!(failures[1]["error_file"], "");
    assert_eq!(run.result()["root_cause"], serde_json::Value::Null, "the last attempt succeeded");
}
