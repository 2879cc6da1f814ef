//! Area MON: how the end of workers is seen, and what becomes of the group.

use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::harness::{
    CAUSE_LOST, CAUSE_OWN_FAILURE, CAUSE_STOPPED_BY_AGENT, CAUSE_SUCCESS, Case, END_AGENT_ERROR,
    END_INTERRUPTED, END_WORKER_FAILURE, Kind, OUTCOME_EXITED, OUTCOME_LOST, OUTCOME_RUNNING,
    OUTCOME_SIGNALED, STATE_FAILED, STATE_HEALTHY, STATE_INIT, STATE_STOPPED, STATE_SUCCEEDED, STATE_UNKNOWN,
    gone, send, state, wait_for,
};
use crate::tests;

pub fn tests() -> Vec<Trial> {
    tests![
        mon_01_success_is_when_the_last_worker_is_done,
        mon_02_one_failure_stops_the_others,
        mon_04_workers_killed_by_signals,
        mon_04_real_time_signals,
        mon_05_core_dumps,
        mon_06_two_failures_the_first_is_named,
        mon_06_the_order_is_the_kernels,
        mon_08_failed_results_and_values,
        mon_09_a_stopped_worker_is_not_gone,
        mon_10_failures_are_events,
        mon_12_wait_with_time_outs,
        mon_12_the_descriptor_is_readable_at_the_end,
        mon_13_snapshots_of_a_run,
        mon_13_states_move_along_the_graph,
        mon_14_an_exit_status_taken_by_somebody_else,
        mon_16_a_worker_that_becomes_another_program,
        mon_what_holds_for_any_group,
        mon_times_and_usage,
        mon_large_groups,
    ]
}

fn mon_01_success_is_when_the_last_worker_is_done() {
    let t = Case::new();
    let terms = t.path("terms");
    let verbs = [
        "count",
        "TERM",
        &terms,
        "rank",
        "1",
        "sleep",
        "0.2",
        ";",
        "rank",
        "2",
        "sleep",
        "0.4",
        ";",
        "rank",
        "3",
        "sleep",
        "0.6",
        ";",
        "append",
        &t.path("done"),
        "%t",
    ];
    let run = t.host().set("local_world_size", 4).probe(&verbs).run();
    run.succeeded();
    let last_done = t.lines("done").iter().map(|line| line.parse::<i64>().unwrap()).max().unwrap();
    assert!(run.event("run")["t"].as_i64().unwrap() >= last_done);
    assert_eq!(t.lines("done").len(), 4);
    assert!(t.lines("terms").is_empty(), "{:?}", t.lines("terms"));
    for rank in 0..4 {
        assert_eq!(run.worker(rank)["cause"], CAUSE_SUCCESS);
        assert_eq!(run.worker(rank)["order"], rank);
    }
    assert_eq!(run.result()["state"], STATE_SUCCEEDED);
    assert_eq!(run.result()["all_exited_cleanly"], 1);
}

fn mon_02_one_failure_stops_the_others() {
    for kind in Kind::ALL {
        let t = Case::new();
        let verbs = [
            "append",
            &t.path("pids"),
            "%p",
            "rank",
            "1",
            "await_lines",
            &t.path("pids"),
            "4",
            "exit",
            "3",
            ";",
            "sleep",
            "60",
        ];
        let run = t.host().set("local_world_size", 4).worker(kind, &verbs).run();
        run.failed_as(END_WORKER_FAILURE);
        run.within(Duration::from_secs(15));
        assert_eq!(run.result()["state"], STATE_FAILED);
        assert_eq!(run.worker(1)["exit_code"], 3);
        assert_eq!(run.worker(1)["cause"], CAUSE_OWN_FAILURE);
        assert_eq!(run.worker(1)["order"], 0);
        for rank in [0, 2, 3] {
            assert_eq!(run.worker(rank)["cause"], CAUSE_STOPPED_BY_AGENT);
            assert_eq!(run.worker(rank)["signal"], libc::SIGTERM);
        }
        assert_eq!(run.result()["root_cause"]["local_rank"], 1);
        assert!(t.lines("pids").iter().all(|pid| gone(pid.parse().unwrap())));
        // For people: the culprit by rank and code.
        for text in [run.result()["message"].as_str().unwrap(), run.result()["summary"].as_str().unwrap()] {
            assert!(text.contains('1') && text.contains('3'), "{text}");
        }
    }
}

fn mon_04_workers_killed_by_signals() {
    for kind in Kind::ALL {
        for (name, number) in [
            ("KILL", libc::SIGKILL),
            ("SEGV", libc::SIGSEGV),
            ("ABRT", libc::SIGABRT),
            ("TERM", libc::SIGTERM),
            ("USR1", libc::SIGUSR1),
        ] {
            let t = Case::new();
            let run = t.host().set("log_dir", t.path("logs")).worker(kind, &["kill", name]).run();
            run.failed_as(END_WORKER_FAILURE);
            let worker = run.worker(0);
            assert_eq!(worker["outcome"], OUTCOME_SIGNALED);
            assert_eq!(worker["cause"], CAUSE_OWN_FAILURE);
            assert_eq!(worker["exit_code"], -number);
            assert_eq!(worker["signal"], number);
            let wanted = format!("Signal {number} (SIG{name}) received by PID {}", worker["pid"]);
            let message = worker["message"].as_str().unwrap();
            // A crash of a function is told by itself, with its place.
            let place = message.strip_prefix(&wanted).unwrap_or_else(|| panic!("{message}"));
            let has_place = kind != Kind::Program && ["SEGV", "ABRT"].contains(&name);
            assert!(if has_place { place.starts_with(": in ") } else { place.is_empty() }, "{message}");
            assert!(run.result()["message"].as_str().unwrap().contains(&format!("SIG{name}")), "{run}");
        }
    }
}

fn mon_04_real_time_signals() {
    let t = Case::new();
    let run = t.host().probe(&["kill", "RTMIN+3"]).run();
    run.failed_as(END_WORKER_FAILURE);
    let number = libc::SIGRTMIN() + 3;
    assert_eq!(run.worker(0)["exit_code"], -number);
    let message = run.worker(0)["message"].as_str().unwrap();
    assert!(message.starts_with(&format!("Signal {number}")), "{message}");
    assert!(message.ends_with(&format!("received by PID {}", run.worker(0)["pid"])), "{message}");
}

fn mon_05_core_dumps() {
    let t = Case::new();
    let run = t.host().set("working_dir", t.path("tmp")).probe(&["core", "kill", "SEGV"]).run();
    assert_eq!(run.result()["end"], END_WORKER_FAILURE, "{run}");
    assert_eq!(run.worker(0)["signal"], libc::SIGSEGV);
    for core in std::fs::read_dir(t.tmp()).unwrap().flatten() {
        std::fs::remove_file(core.path()).unwrap(); // where the system writes it here
    }
    // What the system says with the same limits is what must be told.
    let verbs =
        format!("cd {}; ulimit -c unlimited; {} kill SEGV", t.path("tmp"), crate::harness::probe().display());
    let status = t.command("sh").args(["-c", &format!("{verbs}; exit $?")]).status().unwrap();
    assert_eq!(status.code(), Some(128 + libc::SIGSEGV));
    let mut direct = t.command(crate::harness::probe());
    let status = direct.args(["core", "kill", "SEGV"]).current_dir(t.tmp()).status().unwrap();
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(run.worker(0)["core_dumped"], i32::from(status.core_dumped()));
    for core in std::fs::read_dir(t.tmp()).unwrap().flatten() {
        std::fs::remove_file(core.path()).unwrap();
    }
    // Without a limit for cores there is none.
    let run = t.host().step("limit=core:0").probe(&["kill", "TERM"]).run();
    assert_eq!(run.worker(0)["core_dumped"], 0);
}

fn mon_06_two_failures_the_first_is_named() {
    for _ in 0..10 {
        let t = Case::new();
        // The others fail right after rank 1 is gone, while a stop may already be on its way.
        let (ready, pid) = (t.path("ready"), t.path("pid"));
        let verbs = [
            &["ignore", "TERM", "append", &ready, "x"][..],
            &["rank", "1", "await_lines", &ready, "4", "append", &pid, "%p", "exit", "11", ";"],
            &["await", &pid, "await_exit", &pid, "exit", "10"],
        ];
        let run = t.host().set("local_world_size", 4).probe(&verbs.concat()).run();
        run.failed_as(END_WORKER_FAILURE);
        assert_eq!(run.result()["root_cause"]["local_rank"], 1, "{run}");
        assert_eq!(run.result()["root_cause"]["exit_code"], 11);
        assert_eq!(run.worker(1)["order"], 0);
        for rank in [0, 2, 3] {
            assert_eq!(run.worker(rank)["exit_code"], 10);
        }
    }
}

fn mon_06_the_order_is_the_kernels() {
    // The host is stopped while the workers fail one after another; when it goes on it sees them all at once.
    for round in 0..10_usize {
        let t = Case::new();
        let verbs = ["append", &t.path("pids"), "%r %p", "await", &t.path("go%r"), "exit", "1"];
        let host = t.host().set("local_world_size", 5).probe(&verbs);
        let running = host.steps(&["start", "await_healthy", "mark=healthy", "wait=60"]).spawn();
        let lines = t.wait_lines("pids", 5);
        running.wait_event("healthy"); // the agent watches all of them
        let mut pids = [0; 5];
        for line in lines {
            let (rank, pid) = line.split_once(' ').unwrap();
            pids[rank.parse::<usize>().unwrap()] = pid.parse().unwrap();
        }
        running.signal(libc::SIGSTOP);
        wait_for("the host to stop", || state(running.pid()) == Some('T'));
        let order: Vec<usize> = (0..5).map(|k| (k * [1, 2, 3, 4][round % 4] + round) % 5).collect();
        for rank in &order {
            std::fs::write(t.dir.join(format!("go{rank}")), "").unwrap();
            wait_for("the worker's end", || gone(pids[*rank]));
        }
        running.signal(libc::SIGCONT);
        let run = running.finish();
        run.failed_as(END_WORKER_FAILURE);
        for (place, rank) in order.iter().enumerate() {
            assert_eq!(run.worker(*rank)["order"], place, "{order:?}");
            assert_eq!(run.worker(*rank)["cause"], CAUSE_OWN_FAILURE);
        }
        assert_eq!(run.result()["root_cause"]["local_rank"], order[0]);
    }
}

fn mon_08_failed_results_and_values() {
    let t = Case::new();
    let run = t.host().set("local_world_size", 3).probe(&["exit", "0"]).run();
    run.succeeded();
    assert_eq!(run.result()["workers"].as_array().unwrap().len(), 3);
    for rank in 0..3 {
        assert_eq!(run.worker(rank)["has_value"], 0);
        assert_eq!(run.worker(rank)["value"], Value::Null);
        assert_eq!(run.worker(rank)["outcome"], OUTCOME_EXITED);
        assert_eq!(run.worker(rank)["message"], "");
    }
    assert_eq!(run.result()["failures"].as_array().unwrap().len(), 0);
    assert_eq!(run.result()["root_cause"], Value::Null);
    // With a failure nobody has both: fn_06 has the callbacks.
    let run =
        t.host().set("local_world_size", 3).callback(&["return", "x", "rank", "2", "code", "1", ";"]).run();
    run.failed_as(END_WORKER_FAILURE);
    assert!((0..3).all(|rank| run.worker(rank)["has_value"] == 0));
}

fn mon_09_a_stopped_worker_is_not_gone() {
    for kind in Kind::ALL {
        let t = Case::new();
        let host =
            t.host().set("local_world_size", 2).worker(kind, &["append", &t.path("pids"), "%p", "pause"]);
        let ready = format!("await_lines={}:2", t.path("pids"));
        let stopped = format!("await={}", t.path("stopped"));
        let running = host
            .steps(&["start", &ready, "mark=ready", &stopped, "wait=0.5", "snapshot", "stop=0", "wait=60"])
            .spawn();
        running.wait_event("ready");
        let pid: i32 = t.lines("pids")[0].parse().unwrap();
        send(pid, libc::SIGSTOP);
        wait_for("the worker to stop", || state(pid) == Some('T'));
        std::fs::write(t.dir.join("stopped"), "").unwrap();
        let run = running.finish();
        assert_eq!(run.events("wait")[0]["status"], "ICE_ERROR_TIMEOUT");
        let snapshot = run.event("snapshot");
        assert_eq!(snapshot["state"], STATE_HEALTHY);
        assert!(
            snapshot["workers"].as_array().unwrap().iter().all(|worker| worker["outcome"] == OUTCOME_RUNNING)
        );
        run.failed_as(END_INTERRUPTED);
        // SIGCONT followed the stop signal: nobody had to wait for SIGKILL.
        for rank in 0..2 {
            assert_eq!(run.worker(rank)["signal"], libc::SIGTERM);
        }
    }
}

fn mon_10_failures_are_events() {
    let t = Case::new();
    let host = t.host().set("monitor_interval", 5).set("local_world_size", 2);
    let run = host.probe(&["rank", "1", "exit", "3", ";", "pause"]).run();
    run.failed_as(END_WORKER_FAILURE);
    // Start, failure and stop of the other one, without one interval in between.
    let took = run.event("run")["t"].as_i64().unwrap() - run.event("before")["t"].as_i64().unwrap();
    assert!(took < 2_000_000_000, "{took} ns");
}

fn mon_12_wait_with_time_outs() {
    let t = Case::new();
    let go = t.path("go");
    let host = t.host().probe(&["await", &go, "exit", "5"]);
    let steps =
        ["start", "wait=0", "mark=a", "wait=0.1", "mark=b", "mark=waiting", "wait=-1", "wait=0", "wait=5"];
    let running = host.steps(&steps).spawn();
    running.wait_event("waiting");
    std::fs::write(&go, "").unwrap();
    let run = running.finish();
    run.failed_as(END_WORKER_FAILURE);
    let waits = run.events("wait");
    assert_eq!(waits[0]["status"], "ICE_ERROR_TIMEOUT");
    assert_eq!(waits[1]["status"], "ICE_ERROR_TIMEOUT");
    let waited = run.event("b")["t"].as_i64().unwrap() - run.event("a")["t"].as_i64().unwrap();
    assert!(waited >= 100_000_000, "{waited} ns");
    for wait in &waits[2..] {
        assert_eq!(wait["status"], "ICE_OK");
        assert_eq!(wait["result"], waits[2]["result"]);
    }
    assert_eq!(waits[2]["result"]["workers"][0]["exit_code"], 5);
}

fn mon_12_the_descriptor_is_readable_at_the_end() {
    let t = Case::new();
    let go = t.path("go");
    let host = t.host().probe(&["await", &go]);
    let running = host
        .steps(&[
            "new",
            "poll=0",
            "start",
            "poll=0.1",
            "mark=polling",
            "poll=60",
            "poll=0",
            "wait=0",
            "poll=0",
        ])
        .spawn();
    running.wait_event("polling");
    std::fs::write(&go, "").unwrap();
    let run = running.finish();
    run.succeeded();
    let ready: Vec<_> = run.events("poll").iter().map(|line| line["ready"].as_i64().unwrap()).collect();
    assert_eq!(ready, [0, 0, 1, 1, 1]);
    assert!(run.events("poll").iter().all(|line| line["cloexec"] == 1));
    assert_eq!(run.event("wait")["status"], "ICE_OK", "readable means that there is a result");
}

fn mon_13_snapshots_of_a_run() {
    for callback in [false, true] {
        let t = Case::new();
        let go = t.path("go");
        let verbs = ["append", &t.path("up"), "%p", "rank", "0", "code", "0", ";", "await", &go];
        let host = t.host().set("local_world_size", 2).callback(&verbs);
        let host = if callback { host } else { t.host().set("local_world_size", 2).probe(&verbs) };
        let ready = format!("await_lines={}:2", t.path("up"));
        let running =
            host.steps(&["new", "snapshot", "start", &ready, "mark=up"]).set("await", t.path("look"));
        let running = running.steps(&["snapshot", "mark=looked", "wait=60", "snapshot"]).spawn();
        running.wait_event("up");
        // Rank 0 ends by itself.
        let pids: Vec<i32> = t.wait_lines("up", 2).iter().map(|pid| pid.parse().unwrap()).collect();
        wait_for("one of the workers to end", || pids.iter().any(|pid| gone(*pid)));
        std::thread::sleep(Duration::from_millis(500)); // for the agent to see it as well
        std::fs::write(t.dir.join("look"), "").unwrap();
        running.wait_event("looked");
        std::fs::write(&go, "").unwrap();
        let run = running.finish();
        run.succeeded();
        let snapshots = run.events("snapshot");
        assert_eq!(snapshots[0]["state"], STATE_INIT);
        assert_eq!(snapshots[0]["workers"][1]["pid"], 0);
        assert_eq!(snapshots[1]["state"], STATE_HEALTHY);
        assert_eq!(snapshots[1]["attempt"], 0);
        assert_eq!(snapshots[1]["workers"][0]["outcome"], OUTCOME_EXITED);
        assert_eq!(snapshots[1]["workers"][1]["outcome"], OUTCOME_RUNNING);
        assert_eq!(snapshots[1]["workers"][1]["pid"], run.worker(1)["pid"]);
        assert_eq!(snapshots[2]["state"], STATE_SUCCEEDED);
        for (rank, worker) in snapshots[1]["workers"].as_array().unwrap().iter().enumerate() {
            assert!(["global_rank", "local_rank", "role_rank"].iter().all(|name| worker[name] == rank));
        }
    }
}

/// The states that were seen, in order, as (state, attempt).
fn states(run: &crate::harness::Run) -> Vec<(i32, i64)> {
    let line = |line: &&Value| (line["state"].as_i64().unwrap() as i32, line["attempt"].as_i64().unwrap());
    run.events("state").iter().map(line).collect()
}

fn mon_13_states_move_along_the_graph() {
    let allowed = |from: i32, to: i32| match from {
        STATE_INIT => {
            [STATE_HEALTHY, STATE_STOPPED, STATE_SUCCEEDED, STATE_FAILED, STATE_UNKNOWN].contains(&to)
        }
        STATE_HEALTHY => [STATE_STOPPED, STATE_SUCCEEDED, STATE_FAILED, STATE_UNKNOWN].contains(&to),
        STATE_STOPPED => [STATE_INIT, STATE_SUCCEEDED, STATE_FAILED, STATE_UNKNOWN].contains(&to),
        _ => false,
    };
    for kind in Kind::ALL {
        let t = Case::new();
        let host = t.host().set("local_world_size", 4).set("max_restarts", 20).set("shutdown_timeout", 0.1);
        let verbs = [
            "rank",
            "1",
            "ignore",
            "TERM",
            ";",
            "rank",
            "2",
            "sleep",
            "0.02",
            "until_attempt",
            "20",
            "exit",
            "1",
            ";",
            ";",
            "sleep",
            "0.05",
        ];
        let run = host.worker(kind, &verbs).steps(&["watch_snapshots", "run"]).run();
        run.succeeded();
        assert_eq!(run.event("snapshots_done")["wrong"], 0);
        let seen = states(&run);
        for pair in seen.windows(2) {
            // A watcher may miss a short state, so each step is judged only within one attempt.
            if pair[0].1 == pair[1].1 {
                assert!(allowed(pair[0].0, pair[1].0), "{seen:?}");
            } else {
                assert!(pair[1].1 > pair[0].1, "{seen:?}");
                assert!(![STATE_SUCCEEDED, STATE_FAILED, STATE_UNKNOWN].contains(&pair[0].0), "{seen:?}");
            }
        }
        assert_eq!(seen.last(), Some(&(STATE_SUCCEEDED, 20)));
        assert!(seen.len() > 40, "{seen:?}");
    }
}

fn mon_14_an_exit_status_taken_by_somebody_else() {
    // A thread of the host waits for any child. Where the kernel still tells (since 6.15) the run goes on as ever;
    // else the status is lost, and that is what must be said. Never a hang, never a wrong success.
    for (verbs, code) in [(vec!["sleep", "0.1", "exit", "0"], 0), (vec!["sleep", "0.1", "exit", "7"], 7)] {
        for _ in 0..10 {
            let t = Case::new();
            let host =
                t.host().set("max_restarts", 2).set("local_world_size", 3).step("reap_any").probe(&verbs);
            let run = host.run();
            assert!(run.status.success(), "{run}");
            let result = run.result();
            let workers = result["workers"].as_array().unwrap();
            for worker in workers {
                if worker["outcome"] == OUTCOME_LOST {
                    assert_eq!(worker["cause"], CAUSE_LOST);
                    assert_eq!(worker["exit_code"], -1);
                } else if worker["cause"] != CAUSE_STOPPED_BY_AGENT {
                    assert_eq!(worker["exit_code"], code, "{run}");
                }
            }
            if workers.iter().any(|worker| worker["outcome"] == OUTCOME_LOST) {
                assert_eq!(result["end"], END_AGENT_ERROR);
                assert_eq!(result["state"], STATE_UNKNOWN);
                assert_ne!(result["message"], "");
            } else {
                assert_eq!(result["end"], if code == 0 { 0 } else { END_WORKER_FAILURE });
            }
            t.nothing_left();
        }
    }
}

fn mon_16_a_worker_that_becomes_another_program() {
    let t = Case::new();
    let running = t.host().probe(&[
        "append",
        &t.path("pid"),
        "%p",
        "exec",
        "sh",
        "-c",
        &format!("echo $$ >> {}; exit 9", t.path("pid")),
    ]);
    let run = running.run();
    run.failed_as(END_WORKER_FAILURE);
    let pids = t.lines("pid");
    assert_eq!(pids.len(), 2);
    assert_eq!(pids[0], pids[1]);
    assert_eq!(run.worker(0)["pid"].to_string(), pids[0]);
    assert_eq!(run.worker(0)["exit_code"], 9);
    // A callback may exec as well; its exit 0 is then without a return.
    let run = t.host().callback(&["exec", "sh", "-c", "exit 6"]).run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(run.worker(0)["exit_code"], 6);
}

/// What a worker does in one attempt.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Succeed,
    Exit(i32),
    Kill(&'static str, i32),
    /// Until it is stopped; with true it ignores the stop signal.
    Stay(bool),
}

fn mon_what_holds_for_any_group() {
    use proptest::prelude::*;
    let act = prop_oneof![
        3 => Just(Act::Succeed),
        2 => (1..=255).prop_map(Act::Exit),
        1 => prop::sample::select(vec![
            Act::Kill("KILL", libc::SIGKILL),
            Act::Kill("TERM", libc::SIGTERM),
            Act::Kill("ABRT", libc::SIGABRT),
        ]),
        1 => any::<bool>().prop_map(Act::Stay),
    ];
    // For each attempt and worker: after how many milliseconds it does what.
    let attempt = |workers| prop::collection::vec((0_u32..40, act.clone()), workers..=workers);
    let group = (1_usize..6, 1_usize..4).prop_flat_map(move |(workers, attempts)| {
        (prop::collection::vec(attempt(workers), attempts..=attempts), any::<bool>())
    });
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 60,
        max_shrink_iters: 20,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let result = runner.run(&group, |(attempts, callback)| {
        // A group in which somebody stays for ever needs somebody who fails.
        let ends = |group: &Vec<(u32, Act)>| {
            let fails = group.iter().any(|(_, act)| matches!(act, Act::Exit(_) | Act::Kill(..)));
            fails || !group.iter().any(|(_, act)| matches!(act, Act::Stay(_)))
        };
        prop_assume!(attempts.iter().all(ends));
        check_group(&attempts, callback);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

fn check_group(attempts: &[Vec<(u32, Act)>], callback: bool) {
    let t = Case::new();
    let workers = attempts[0].len();
    let mut verbs: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| verbs.extend(words.iter().map(|word| word.to_string()));
    for (number, group) in attempts.iter().enumerate() {
        add(&["attempt", &number.to_string()]);
        for (rank, (milliseconds, act)) in group.iter().enumerate() {
            add(&["rank", &rank.to_string()]);
            if *act == Act::Stay(true) {
                add(&["ignore", "TERM"]);
            }
            add(&["sleep", &format!("{}", f64::from(*milliseconds) / 1000.0)]);
            match act {
                Act::Succeed => add(&["code", "0"]),
                Act::Exit(code) => add(&["code", &code.to_string()]),
                Act::Kill(name, _) => add(&["kill", name]),
                Act::Stay(_) => add(&["pause"]),
            }
            add(&[";"]);
        }
        add(&[";"]);
    }
    let verbs: Vec<&str> = verbs.iter().map(String::as_str).collect();
    let host = t.host().set("local_world_size", workers).set("max_restarts", attempts.len() - 1);
    let host = host.set("shutdown_timeout", 0.1).set("log_dir", t.path("logs"));
    let run = host.worker(callback, &verbs).run();
    let failing = |group: &Vec<(u32, Act)>| group.iter().any(|(_, act)| *act != Act::Succeed);
    let last = attempts.iter().position(|group| !failing(group)).unwrap_or(attempts.len() - 1);
    let failed = failing(&attempts[last]);
    if failed {
        run.failed_as(END_WORKER_FAILURE);
    } else {
        run.succeeded();
    }
    let result = run.result();
    assert_eq!(result["restarts"], last, "{run}");
    assert_eq!(result["failures"].as_array().unwrap().len(), last + usize::from(failed), "{run}");
    let mut orders: Vec<i64> = Vec::new();
    for (rank, (_, act)) in attempts[last].iter().enumerate() {
        let worker = run.worker(rank);
        orders.push(worker["order"].as_i64().unwrap());
        assert_eq!(worker["attempt"], last);
        // A worker does what it is to do, or was told to stop before it could.
        let own = match act {
            Act::Succeed => worker["exit_code"] == 0 && worker["cause"] == CAUSE_SUCCESS,
            Act::Exit(code) => worker["exit_code"] == *code && worker["cause"] == CAUSE_OWN_FAILURE,
            Act::Kill(_, number) => worker["signal"] == *number && worker["cause"] == CAUSE_OWN_FAILURE,
            Act::Stay(_) => false,
        };
        assert!(own || worker["cause"] == CAUSE_STOPPED_BY_AGENT, "{act:?}: {run}");
    }
    orders.sort();
    assert_eq!(orders, (0..workers as i64).collect::<Vec<_>>(), "{run}");
    if failed {
        let root = &result["root_cause"];
        assert_eq!(root["cause"], CAUSE_OWN_FAILURE, "{run}");
        // The first of those that a signal killed, else the first of all: so the header.
        let own =
            (0..workers).map(|rank| run.worker(rank)).filter(|worker| worker["cause"] == CAUSE_OWN_FAILURE);
        let first =
            own.min_by_key(|worker| (worker["signal"] == 0, worker["order"].as_i64().unwrap())).unwrap();
        assert_eq!(root["local_rank"], first["local_rank"], "{run}");
    }
}

fn mon_times_and_usage() {
    let t = Case::new();
    let run = t.host().set("local_world_size", 2).probe(&["memory", "200", "sleep", "0.2"]).run();
    run.succeeded();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
    for rank in 0..2 {
        let number = |name: &str| run.worker(rank)[name].as_i64().unwrap();
        assert!(number("end_ns") - number("start_ns") >= 200_000_000);
        assert!(number("start_ns") >= run.event("before")["t"].as_i64().unwrap());
        assert!(number("end_ns") <= run.event("run")["t"].as_i64().unwrap());
        assert!((0..120_000_000_000).contains(&(now - number("end_unix_ns"))));
        assert!(number("max_rss_bytes") >= 200 << 20, "{}", number("max_rss_bytes"));
        assert!(number("max_rss_bytes") < 400 << 20);
        assert!(number("user_cpu_ns") + number("system_cpu_ns") > 0);
    }
}

fn mon_large_groups() {
    let t = Case::new();
    let run = t.host().set("local_world_size", 256).probe(&["exit", "0"]).run();
    run.within(Duration::from_secs(60)).succeeded();
    let mut orders: Vec<i64> = (0..256).map(|rank| run.worker(rank)["order"].as_i64().unwrap()).collect();
    orders.sort();
    assert_eq!(orders, (0..256).collect::<Vec<i64>>());
}
