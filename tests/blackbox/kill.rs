//! Area KILL: how workers are stopped.

use std::fs;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::harness::*;
use crate::tests;
use crate::tool::*;

/// Seconds from the host's step `stop` to the end of its step `wait`.
fn stop_took(run: &Run) -> f64 {
    let time = |step: &str| run.event(step)["t"].as_i64().expect("a time");
    (time("wait") - time("stop")) as f64 / 1e9
}

fn kill_01_stop_is_one_sigterm_and_parallel() {
    for kind in Kind::ALL {
        let t = Case::new();
        let verbs = [
            "count",
            "TERM",
            &t.path("term.%r"),
            "append",
            &t.path("ready"),
            "x",
            "await_lines",
            &t.path("term.%r"),
            "1",
            "sleep",
            "0.2",
            "exit",
            "0",
        ];
        let host = t.host().set("local_world_size", 20).worker(kind, &verbs);
        let ready = format!("await_lines={}:20", t.path("ready"));
        let run = host.steps(&["start", &ready, "stop=TERM", "wait=60"]).run();
        run.failed_as(END_INTERRUPTED);
        for rank in 0..20 {
            assert_eq!(t.lines(&format!("term.{rank}")).len(), 1, "rank {rank} got SIGTERM once");
            assert_eq!(run.worker(rank)["outcome"], OUTCOME_EXITED, "and no SIGKILL: {run}");
            assert_eq!(run.worker(rank)["cause"], CAUSE_STOPPED_BY_AGENT);
        }
        // One after the other would take four seconds.
        let took = stop_took(&run);
        assert!((0.2..2.5).contains(&took), "the stop took {took} s");
    }
}

fn kill_01_a_stopped_worker_can_act_on_the_signal() {
    let t = Case::new();
    let running = t
        .host()
        .set("shutdown_timeout", 60)
        .probe(&["exit_on", "TERM", "0", "0", "append", &t.path("pids"), "%p", "stop", "pause"])
        .steps(&["new", &format!("stop_thread=TERM:{}", t.path("go")), "run"])
        .spawn();
    let pid = pids_in(&t, "pids", 1)[0];
    wait_for("the worker to stop itself", || state(pid) == Some('T'));
    t.write("go", b"", 0o644);
    let run = running.finish();
    run.failed_as(END_INTERRUPTED);
    assert_eq!(run.worker(0)["outcome"], OUTCOME_EXITED, "{run}");
}

fn kill_02_sigkill_at_one_shared_deadline() {
    let t = Case::new();
    let run = t
        .host()
        .set("local_world_size", 16)
        .set("shutdown_timeout", 0.4)
        .probe(&["ignore", "TERM", "append", &t.path("ready"), "x", "pause"])
        .steps(&["start", &format!("await_lines={}:16", t.path("ready")), "stop=0", "wait=60"])
        .run();
    run.failed_as(END_INTERRUPTED);
    for rank in 0..16 {
        assert_eq!(run.worker(rank)["signal"], libc::SIGKILL);
        assert_eq!(run.worker(rank)["cause"], CAUSE_STOPPED_BY_AGENT);
    }
    let took = stop_took(&run);
    assert!((0.4..4.0).contains(&took), "the stop took {took} s");
}

fn kill_02_who_obeyed_is_not_blamed_after_the_sigkill() {
    let t = Case::new();
    let run = t
        .host()
        .set("local_world_size", 3)
        .set("shutdown_timeout", 0.3)
        .probe(&[
            "rank",
            "0",
            "ignore",
            "TERM",
            "append",
            &t.path("ready"),
            "x",
            "pause",
            ";",
            "rank",
            "1",
            "append",
            &t.path("ready"),
            "x",
            "pause",
            ";",
            "await_lines",
            &t.path("ready"),
            "2",
            "exit",
            "42",
        ])
        .run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(
        (&run.worker(1)["signal"], &run.worker(1)["cause"]),
        (&15.into(), &CAUSE_STOPPED_BY_AGENT.into())
    );
    assert_eq!(
        (&run.worker(0)["signal"], &run.worker(0)["cause"]),
        (&9.into(), &CAUSE_STOPPED_BY_AGENT.into())
    );
    assert_eq!(run.result()["root_cause"]["global_rank"], 2, "{run}");
}

fn kill_04_timeout_0_kills_at_once() {
    let t = Case::new();
    let run = t
        .host()
        .set("local_world_size", 2)
        .set("shutdown_timeout", 0)
        .probe(&["exit_on", "TERM", "0", "100", "append", &t.path("ready"), "x", "pause"])
        .steps(&["start", &format!("await_lines={}:2", t.path("ready")), "stop=TERM", "wait=60"])
        .run();
    run.failed_as(END_INTERRUPTED);
    for rank in 0..2 {
        let signal = run.worker(rank)["signal"].as_i64();
        assert!(signal == Some(9) || signal == Some(15), "{run}");
    }
    assert!(stop_took(&run) < 5.0);
}

fn kill_05_descendants_get_the_stop_signal_and_the_kill() {
    for kind in Kind::ALL {
        let t = Case::new();
        let verbs = [
            "child",
            "count",
            "TERM",
            &t.path("child"),
            "append",
            &t.path("pids"),
            "%p",
            "pause",
            ";",
            "ignore",
            "TERM",
            "append",
            &t.path("pids"),
            "%p",
            "pause",
        ];
        let host = t.host().set("shutdown_timeout", 0.4).worker(kind, &verbs);
        let ready = format!("await_lines={}:2", t.path("pids"));
        let run = host.steps(&["start", &ready, "stop=TERM", "wait=60"]).run();
        let lines = t.lines("child");
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].starts_with("TERM "));
        for pid in pids_in(&t, "pids", 2) {
            assert!(gone(pid), "{pid} outlived the run");
        }
        run.failed_as(END_INTERRUPTED);
        assert_eq!(run.worker(0)["signal"], libc::SIGKILL);
    }
}

fn kill_06_children_of_a_dead_leader_are_killed() {
    for kind in Kind::ALL {
        let t = Case::new();
        // All ways of a leader's end: a failure, the stop of a peer, a success; children ignore what they can.
        let verbs = [
            "child",
            "ignore",
            "TERM",
            "append",
            &t.path("pids"),
            "%p",
            "pause",
            ";",
            "await_lines",
            &t.path("pids"),
            "2",
            "rank",
            "1",
            "exit",
            "3",
            ";",
            "pause",
        ];
        let run = t
            .host()
            .set("local_world_size", 2)
            .set("shutdown_timeout", 0.3)
            .worker(kind, &verbs)
            .step("run")
            .run();
        for pid in pids_in(&t, "pids", 2) {
            assert!(gone(pid), "the child {pid} of a dead leader outlived the run");
        }
        run.failed_as(END_WORKER_FAILURE);
        assert_eq!(run.result()["root_cause"]["exit_code"], 3);
    }
}

fn kill_06_children_of_a_successful_worker_are_killed_or_left_as_asked() {
    for kill in [true, false] {
        let t = Case::new();
        let run = t
            .host()
            .set("kill_group_on_success", kill as i32)
            .probe(&[
                "child",
                "close_stdio",
                "append",
                &t.path("pids"),
                "%p",
                "pause",
                ";",
                "await_lines",
                &t.path("pids"),
                "1",
                "exit",
                "0",
            ])
            .run();
        assert_eq!(run.result()["end"], END_SUCCEEDED, "{run}");
        let pid = pids_in(&t, "pids", 1)[0];
        assert_eq!(gone(pid), kill);
        if !kill {
            assert!(send(pid, libc::SIGKILL));
            wait_for("the child's end", || gone(pid));
        }
        run.succeeded();
    }
}

fn kill_06_children_are_gone_before_the_restart() {
    let t = Case::new();
    let run = t
        .host()
        .set("max_restarts", 1)
        .set("shutdown_timeout", 0.3)
        .probe(&[
            "attempt",
            "0",
            "child",
            "ignore",
            "TERM",
            "append",
            &t.path("pids"),
            "%p",
            "pause",
            ";",
            "await_lines",
            &t.path("pids"),
            "1",
            "exit",
            "1",
            ";",
            // In the second attempt the child of the first has to be gone, but for a zombie that init has yet to take.
            "exec",
            "sh",
            "-c",
            &format!("! grep -q '^State:[^Z]*$' /proc/$(cat {})/status", t.path("pids")),
        ])
        .run();
    run.succeeded();
    assert_eq!(run.result()["restarts"], 1);
}

fn kill_08_a_descendant_with_stdout_does_not_hold_the_run_up() {
    let t = Case::new();
    let run = t
        .host()
        .set("tee", 3)
        .set("kill_group_on_success", 0)
        .probe(&[
            "session",
            "append",
            &t.path("pids"),
            "%p",
            "pause",
            ";",
            "await_lines",
            &t.path("pids"),
            "1",
            "print",
            "last words",
            "exit",
            "0",
        ])
        .limit(Duration::from_secs(30))
        .run();
    let daemon = pids_in(&t, "pids", 1)[0];
    assert!(alive(daemon), "it is left alone, as the spec says");
    assert!(send(daemon, libc::SIGKILL));
    assert_eq!(run.result()["end"], END_SUCCEEDED, "{run}");
    assert_eq!(run.out(), "[default0]:last words\n");
    // The shutdown time-out of 5 s is for consoles that are stuck, not for this.
    run.within(Duration::from_secs(4));
}

fn kill_09_an_own_session_is_no_escape() {
    let t = Case::new();
    let run = t
        .host()
        .probe(&[
            "daemon",
            "close_stdio",
            "append",
            &t.path("pids"),
            "%p",
            "pause",
            ";",
            "group",
            "close_stdio",
            "append",
            &t.path("pids"),
            "%p",
            "pause",
            ";",
            "await_lines",
            &t.path("pids"),
            "2",
            "append",
            &t.path("ready"),
            "x",
            "pause",
        ])
        .steps(&["start", &format!("await={}", t.path("ready")), "stop=TERM", "wait=60"])
        .run();
    let pids = pids_in(&t, "pids", 2);
    for pid in pids {
        assert!(gone(pid), "it made a session or group of its own, and outlived the run");
    }
    run.failed_as(END_INTERRUPTED);
}

fn kill_10_stop_races_with_the_end_of_workers() {
    let t = Case::new();
    let mut host = t.host().set("local_world_size", 3).probe(&["exit", "0"]);
    let before = 7;
    for i in 0..before {
        let wait = f64::from(i) * 0.0007;
        host = host.step(format!("repeat=150:new,start,sleep={wait},stop=TERM,wait=30,free_agent"));
    }
    let run = host.run();
    run.clean();
    let mut ends = [0; 5];
    for wait in run.events("wait") {
        let result = &wait["result"];
        assert_eq!(wait["status"], "ICE_OK", "{wait}");
        // Silent runs tell of all that did not succeed: they are to be interruptions and nothing else.
        assert_eq!(result["end"], END_INTERRUPTED, "{wait}");
        assert!(result["root_cause"].is_null(), "{wait}");
        for worker in result["workers"].as_array().expect("workers") {
            let seen = (worker["outcome"].as_i64(), worker["exit_code"].as_i64());
            match seen {
                (Some(0), _) | (Some(2), Some(0)) | (Some(3), Some(-15)) => {}
                _ => panic!("{worker}"),
            }
            ends[worker["outcome"].as_i64().unwrap_or(0) as usize] += 1;
        }
    }
    assert!(run.events("stop").is_empty() && run.events("new").is_empty(), "{run}");
}

fn kill_10_free_races_with_the_end_of_workers() {
    let t = Case::new();
    let mut host = t.host().set("local_world_size", 2).probe(&["exit", "0"]);
    for i in 0..5 {
        let wait = f64::from(i) * 0.0008;
        host = host.step(format!("repeat=100:new,start,sleep={wait},free_agent"));
    }
    host.run().clean();
}

fn kill_12_a_worker_that_cannot_be_killed_is_given_up() {
    let t = Case::new();
    let running = t
        .host()
        .set("local_world_size", 2)
        .set("max_restarts", 3)
        .set("shutdown_timeout", 0.2)
        .set("log_callback", t.path("log"))
        .probe(&[
            "rank",
            "0",
            "append",
            &t.path("pids"),
            "%p",
            "pause",
            ";",
            "await",
            &t.path("go"),
            "exit",
            "3",
        ])
        .step("run")
        .spawn();
    let pid = pids_in(&t, "pids", 1)[0];
    let freezer = Freezer::new();
    freezer.freeze(pid);
    t.write("go", b"", 0o644);
    let event = running.wait_event("run");
    let alive_at_the_end = alive(pid);
    freezer.thaw();
    let result = &event["result"];
    assert_eq!(result["end"], END_WORKER_FAILURE, "{result}");
    assert_eq!(result["is_failed"], 1);
    assert!(alive_at_the_end, "the test needs a worker that stays");
    assert_eq!(result["restarts"], 0, "nothing is started beside a worker that cannot be killed");
    assert_eq!(result["workers"][0]["outcome"], OUTCOME_STUCK);
    assert_eq!(result["workers"][0]["cause"], CAUSE_STUCK);
    assert_eq!(result["root_cause"]["global_rank"], 1);
    let log = t.lines("log");
    let word = pid.to_string();
    assert!(log.iter().any(|line| line.starts_with("1 ") && line.contains(&word)), "{log:?}");
    wait_for("the worker's end", || gone(pid));
    let run = running.finish();
    assert!(run.status.success(), "{run}");
    t.nothing_left();
}

fn kill_13_stop_is_idempotent_at_any_time() {
    let t = Case::new();
    // Before start: the run ends before a worker starts.
    let run = t
        .host()
        .probe(&["touch", &t.path("started")])
        .steps(&[
            "new",
            "stop=TERM",
            "stop=0",
            "start",
            "wait=30",
            "stop=TERM",
            "stop=INT",
            "stop=INT",
            "wait=0",
        ])
        .run();
    run.failed_as(END_INTERRUPTED);
    assert!(!t.dir.join("started").exists());
    assert_eq!(run.worker(0)["outcome"], OUTCOME_NEVER_STARTED);
    assert_eq!(run.worker(0)["cause"], CAUSE_NEVER_STARTED);
    assert!(run.events("stop").iter().all(|event| event["status"] == "ICE_OK"), "{run}");

    // Twice and from two threads while it runs, and after the end.
    let t = Case::new();
    let run = t
        .host()
        .set("local_world_size", 2)
        .probe(&[
            "count",
            "TERM",
            &t.path("term.%r"),
            "append",
            &t.path("ready"),
            "x",
            "await_lines",
            &t.path("term.%r"),
            "1",
            "sleep",
            "0.2",
            "exit",
            "0",
        ])
        .steps(&[
            "start",
            &format!("stop_thread=TERM:{}", t.path("go")),
            &format!("stop_thread=TERM:{}", t.path("go")),
        ])
        .steps(&[&format!("await_lines={}:2", t.path("ready")), "stop=TERM"])
        .steps(&["stop=TERM"])
        .spawn();
    t.wait_lines("ready", 2);
    t.write("go", b"", 0o644);
    let run = run.finish();
    run.clean();
    assert!(
        run.events("stop").len() >= 4 && run.events("stop").iter().all(|event| event["status"] == "ICE_OK"),
        "{run}"
    );
    for rank in 0..2 {
        assert_eq!(t.lines(&format!("term.{rank}")).len(), 1, "the signal came once");
    }
}

fn kill_13_a_success_is_not_changed_by_a_late_stop() {
    let t = Case::new();
    let run = t.host().probe(&["exit", "0"]).steps(&["run", "stop=TERM", "stop=INT", "wait=0"]).run();
    run.succeeded();
    assert_eq!(run.event("wait")["result"]["end"], END_SUCCEEDED);
}

fn kill_14_stop_signal_and_pre_stop_signal() {
    let t = Case::new();
    let run = t
        .host()
        .set("shutdown_timeout", 0.3)
        .set("stop_signal", libc::SIGUSR1)
        .set("pre_stop_signal", format!("{},3", libc::SIGUSR2))
        .probe(&[
            "count",
            "USR2",
            &t.path("order"),
            "count",
            "USR1",
            &t.path("order"),
            "count",
            "TERM",
            &t.path("order"),
            "append",
            &t.path("ready"),
            "x",
            "pause",
        ])
        .steps(&["start", &format!("await={}", t.path("ready")), "stop=0", "wait=60"])
        .run();
    run.failed_as(END_INTERRUPTED);
    let lines = t.lines("order");
    let words: Vec<Vec<&str>> = lines.iter().map(|line| line.split(' ').collect()).collect();
    assert_eq!(words.iter().map(|line| line[0]).collect::<Vec<_>>(), ["USR2", "USR1"], "{lines:?}");
    let time = |i: usize| words[i][2].parse::<i64>().expect("a time");
    // The worker may have been late to hear the first.
    assert!(time(1) - time(0) >= 1_000_000_000, "the pre-stop time was not given: {lines:?}");
    assert_eq!(run.worker(0)["signal"], libc::SIGKILL);
}

fn kill_14_who_ends_in_the_pre_stop_time_gets_no_stop_signal() {
    let t = Case::new();
    let run = t
        .host()
        .set("local_world_size", 2)
        .set("stop_signal", libc::SIGINT)
        .set("pre_stop_signal", format!("{},60", libc::SIGUSR2))
        .probe(&[
            "count",
            "INT",
            &t.path("int"),
            "count",
            "USR2",
            &t.path("usr2.%r"),
            "append",
            &t.path("ready"),
            "x",
            "await_lines",
            &t.path("usr2.%r"),
            "1",
            "exit",
            "0",
        ])
        .steps(&["start", &format!("await_lines={}:2", t.path("ready")), "stop=0", "wait=60"])
        .run();
    run.failed_as(END_INTERRUPTED);
    assert_eq!(run.result()["all_exited_cleanly"], 1);
    assert!(t.lines("int").is_empty());
    run.within(Duration::from_secs(30));
}

fn kill_14_a_failed_peer_gets_the_same_stop_signals() {
    let t = Case::new();
    let run = t
        .host()
        .set("local_world_size", 2)
        .set("stop_signal", libc::SIGINT)
        .probe(&[
            "rank",
            "0",
            "count",
            "INT",
            &t.path("int"),
            "append",
            &t.path("ready"),
            "x",
            "await_lines",
            &t.path("int"),
            "1",
            "exit",
            "0",
            ";",
            "await",
            &t.path("ready"),
            "exit",
            "4",
        ])
        .run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(t.lines("int").len(), 1);
    assert_eq!(run.worker(0)["exit_code"], 0);
    assert_eq!(run.worker(0)["cause"], CAUSE_STOPPED_BY_AGENT);
}

fn kill_16_256_workers_stop_together() {
    let t = Case::new();
    let run = t
        .host()
        .set("local_world_size", 256)
        .set("shutdown_timeout", 60)
        .probe(&["exit_on", "TERM", "0", "0.5", "append", &t.path("ready"), "x", "pause"])
        .steps(&["start", &format!("await_lines={}:256", t.path("ready")), "stop=TERM", "wait=100"])
        .run();
    run.failed_as(END_INTERRUPTED);
    assert_eq!(run.result()["all_exited_cleanly"], 1, "{run}");
    let took = stop_took(&run);
    assert!(took < 20.0, "the stop took {took} s, one after the other would be 128 s");
}

fn kill_17_a_worker_that_may_not_be_signalled() {
    let t = Case::new();
    // The worker of rank 1 becomes root, which the host, another user, may not signal.
    fs::copy(probe(), t.path("probe")).expect("copy");
    let mode = |path: &str, mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(t.dir.join(path), fs::Permissions::from_mode(mode)).expect("chmod");
    };
    mode("probe", 0o4755);
    mode("tmp", 0o777);
    mode(".", 0o777);
    let mut host = t.host();
    for word in [
        "rank",
        "1",
        "uid",
        "0",
        "append",
        &t.path("ready"),
        "x",
        "await",
        &t.path("done"),
        "exit",
        "0",
        ";",
        "append",
        &t.path("ready"),
        "x",
        "pause",
    ] {
        host = host.set("arg", word);
    }
    let running = host
        .set("uid", 12345)
        .set("program", t.path("probe"))
        .set("local_world_size", 2)
        .set("shutdown_timeout", 0.2)
        .set("log_callback", t.path("log"))
        .steps(&["start", &format!("await_lines={}:2", t.path("ready")), "stop=TERM", "wait=60"])
        .spawn();
    let event = running.wait_event("wait");
    t.write("done", b"", 0o644);
    let result = &event["result"];
    assert_eq!(result["end"], END_INTERRUPTED, "{result}");
    assert_eq!(result["workers"][0]["signal"], libc::SIGTERM, "the other worker is stopped: {result}");
    assert_eq!(result["workers"][1]["outcome"], OUTCOME_STUCK, "{result}");
    let pid = result["workers"][1]["pid"].to_string();
    let log = t.lines("log");
    let told = |line: &String| line.contains(&pid) && line.to_lowercase().contains("not permitted");
    assert!(log.iter().any(told), "{log:?}");
    let why = "is still there and may not be signalled (EPERM: Operation not permitted), given up";
    assert_eq!(result["workers"][1]["message"], format!("PID {pid} {why}"));
    assert!(text(&result["summary"]).contains(why), "{result}");
    assert!(log.iter().any(|line| line.contains(why)), "{log:?}");
    assert!(!log.iter().any(|line| line.contains("in the kernel")), "{log:?}");
    running.finish();
    no_process_left(&t);
}

pub fn tests() -> Vec<Trial> {
    tests![
        kill_01_stop_is_one_sigterm_and_parallel,
        kill_01_a_stopped_worker_can_act_on_the_signal,
        kill_02_sigkill_at_one_shared_deadline,
        kill_02_who_obeyed_is_not_blamed_after_the_sigkill,
        kill_04_timeout_0_kills_at_once,
        kill_05_descendants_get_the_stop_signal_and_the_kill,
        kill_06_children_of_a_dead_leader_are_killed,
        kill_06_children_of_a_successful_worker_are_killed_or_left_as_asked,
        kill_06_children_are_gone_before_the_restart,
        kill_08_a_descendant_with_stdout_does_not_hold_the_run_up,
        kill_09_an_own_session_is_no_escape,
        kill_10_stop_races_with_the_end_of_workers,
        kill_10_free_races_with_the_end_of_workers,
        needs(freezer): kill_12_a_worker_that_cannot_be_killed_is_given_up,
        kill_13_stop_is_idempotent_at_any_time,
        kill_13_a_success_is_not_changed_by_a_late_stop,
        kill_14_stop_signal_and_pre_stop_signal,
        kill_14_who_ends_in_the_pre_stop_time_gets_no_stop_signal,
        kill_14_a_failed_peer_gets_the_same_stop_signals,
        kill_16_256_workers_stop_together,
        needs(root): kill_17_a_worker_that_may_not_be_signalled,
    ]
}
