//! Area SIG: a signal that reaches the agent and its workers at once, as systemd, Slurm and others send it.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::control::{at_one_step, done};
use crate::harness::*;
use crate::nodes::*;
use crate::tests;
use crate::tool::*;

pub fn tests() -> Vec<Trial> {
    let mut trials = tests![
        sig_all_200_stops_for_all_are_stops,
        sig_all_200_stops_for_all_leave_a_checkpoint,
        sig_all_stops_for_all_agents_of_a_job,
        sig_all_a_signal_to_a_worker_is_its_failure,
        sig_all_the_watcher_is_not_ended,
        sig_all_a_checkpoint_that_is_missed_is_said,
        sig_all_a_second_stop_while_workers_save,
        sig_all_the_shield_is_lowered_for_the_agent,
        sig_all_the_shield_is_not_inherited,
    ];
    for kind in Kind::ALL {
        let name = format!("sig_all_every_kind_of_worker_saves_by_{}", kind.name());
        trials.push(Trial::test(name, move || {
            every_kind_of_worker_saves(kind);
            Ok(())
        }));
    }
    trials
}

/// All processes of the case: hosts, workers, fork servers, and the watchers, which have nothing of the case's.
fn everyone(t: &Case) -> Vec<i32> {
    let mut found = t.processes();
    let parent = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rfind(')').and_then(|end| stat[end + 2..].split(' ').nth(1)?.parse::<i32>().ok());
        parent.unwrap_or(0)
    };
    let watchers: Vec<i32> = pids().into_iter().filter(|pid| found.contains(&parent(pid))).collect();
    found.extend(watchers);
    found.sort_unstable();
    found.dedup();
    found
}

/// Sends a signal to all processes of the case: those that are no `agents` first, or in any order.
fn send_to_everyone(t: &Case, agents: &[i32], signal: i32, any_order: bool) {
    let mut all = everyone(t);
    assert!(agents.iter().all(|agent| all.contains(agent)));
    all.sort_by_key(|pid| agents.contains(pid));
    if any_order {
        let mut dice = Dice::new();
        (1..all.len()).for_each(|i| all.swap(i, dice.below(i as u64 + 1) as usize));
    }
    for pid in all {
        send(pid, signal);
    }
}

fn sig_all_200_stops_for_all_are_stops() {
    const SIGNALS: [i32; 3] = [libc::SIGTERM, libc::SIGHUP, libc::SIGINT];
    four_at_a_time(200, |i| {
        let t = Case::new();
        let options = ["--nproc-per-node", "3", "--max-restarts", "3", "--shutdown-timeout", "5"];
        // A shell says with its exit code what has ended its command.
        let shell =
            format!("trap 'exit 143' TERM; echo x >> {}; while :; do sleep 0.01; done", t.path("ready"));
        let ready = t.path("ready");
        let tool = tool(&t, &options);
        let running = match i % 4 {
            3 => tool.words(&["--no-python", "/bin/sh", "-c", &shell]),
            _ => tool.probe(&["append", &ready, "x", "pause"]),
        };
        let running = running.spawn();
        t.wait_lines("ready", 3);
        let signal = SIGNALS[i % 3];
        send_to_everyone(&t, &[running.pid()], signal, i % 2 == 0);
        let ended = running.finish();
        assert_eq!(ended.status.signal(), Some(signal), "{}", ended.err());
        assert!(
            ended.err().contains("stopped by SIG") && !ended.err().contains("killed by"),
            "{}",
            ended.err()
        );
        assert_eq!(t.lines("ready").len(), 3, "no further attempt");
        t.nothing_left();
    });
}

fn sig_all_200_stops_for_all_leave_a_checkpoint() {
    four_at_a_time(200, |i| {
        let t = Case::new();
        let options = ["--nproc-per-node", "2", "--checkpoint-before-stop", "60", "--max-restarts", "3"];
        let controlled = program("controlled");
        let running = tool(&t, &options)
            .words(&["--no-python", controlled.to_str().unwrap()])
            .words(&["append", &t.path("ready"), "x", "work", &t.path("work.%r"), "0.001", "0"])
            .spawn();
        t.wait_lines("ready", 2);
        send_to_everyone(&t, &[running.pid()], [libc::SIGTERM, libc::SIGHUP][i % 2], i % 4 > 1);
        let ended = running.finish();
        assert_eq!(ended.status.signal(), Some([libc::SIGTERM, libc::SIGHUP][i % 2]), "{}", ended.err());
        assert_eq!(t.lines("ready").len(), 2, "no further attempt");
        at_one_step(&done(&t, 2), &["save"]);
        t.nothing_left();
    });
}

/// With its fork server and its watcher.
fn every_kind_of_worker_saves(kind: Kind) {
    for i in 0..10 {
        let t = Case::new();
        let running = t
            .host()
            .set("local_world_size", 2)
            .set("max_restarts", 3)
            .set("signals", "SIGTERM")
            .set("checkpoint_before_stop", 60)
            .controlled(
                kind,
                &["append", &t.path("ready"), "x", "slow", "0.02", "work", &t.path("work.%r"), "0.001", "0"],
            )
            .spawn();
        t.wait_lines("ready", 2);
        send_to_everyone(&t, &[running.pid()], libc::SIGTERM, i % 2 == 0);
        let run = running.finish();
        run.failed_as(END_INTERRUPTED);
        assert_eq!(t.lines("ready").len(), 2, "no further attempt");
        at_one_step(&done(&t, 2), &["save"]);
        for rank in 0..2 {
            // The agent's signal, after the checkpoint, has its default action.
            assert_eq!(run.worker(rank)["signal"], libc::SIGTERM, "{run}");
            assert_eq!(run.worker(rank)["cause"], CAUSE_STOPPED_BY_AGENT);
        }
    }
}

fn sig_all_stops_for_all_agents_of_a_job() {
    for i in 0..12 {
        let t = Case::new();
        let (saves, fixed) = (i % 2 == 0, i % 3 == 0);
        let job = if fixed { Job::fixed(&t, "2") } else { Job::c10d(&t, "3:3") };
        let mut options = vec!["--nproc-per-node", "2", "--max-restarts", "5"];
        if saves {
            options.extend(["--checkpoint-before-stop", "60"]);
        }
        let job = job.with(&options);
        let (ready, work) = (t.path("ready"), t.path("work.%g"));
        let verbs: &[&str] = match saves {
            true => &["append", &ready, "x", "work", &work, "0.001", "0"],
            false => &["append", &ready, "x", "pause"],
        };
        let worker = program("controlled").to_str().unwrap().to_string();
        let agent = |rank: &str| {
            let own: &[&str] = if fixed { &["--node-rank", rank] } else { &[] };
            job.agent(own).words(&["--no-python", &worker]).words(verbs).spawn()
        };
        let agents: Vec<Started> =
            ["0", "1", "2"][..if fixed { 2 } else { 3 }].iter().map(|rank| agent(rank)).collect();
        let workers = 2 * agents.len();
        t.wait_lines("ready", workers);
        let pids: Vec<i32> = agents.iter().map(Started::pid).collect();
        send_to_everyone(&t, &pids, libc::SIGTERM, i % 4 > 1);
        for agent in agents {
            let ended = agent.finish();
            assert_eq!(ended.status.signal(), Some(libc::SIGTERM), "run {i}: {}", ended.err());
            assert!(!ended.err().contains("worker failed"), "run {i}: {}", ended.err());
        }
        assert_eq!(t.lines("ready").len(), workers, "no further attempt");
        if saves {
            // The ranks of each host.
            done(&t, workers).chunks(2).for_each(|ranks| at_one_step(ranks, &["save"]));
        }
        t.nothing_left();
    }
}

fn sig_all_a_signal_to_a_worker_is_its_failure() {
    for restarts in ["0", "1"] {
        let t = Case::new();
        let options = ["--nproc-per-node", "2", "--max-restarts", restarts];
        let running = tool(&t, &options)
            .probe(&["append", &t.path("pids"), "%p", "attempt", "1", "exit", "0", ";", "pause"])
            .spawn();
        let pid = pids_in(&t, "pids", 2)[0];
        send(pid, libc::SIGTERM);
        let ended = running.finish();
        assert!(ended.wall < Duration::from_secs(15), "{ended:?}");
        if restarts == "0" {
            ended.exited(128 + libc::SIGTERM);
            assert!(ended.err().contains("SIGTERM"), "{}", ended.err());
        } else {
            ended.exited(0);
            assert_eq!(t.lines("pids").len(), 4, "another attempt");
        }
    }
}

fn sig_all_the_watcher_is_not_ended() {
    let t = Case::new();
    let running = t.host().set("log_callback", t.path("log")).probe(&[
        "append",
        &t.path("pids"),
        "%p",
        "await",
        &t.path("go"),
    ]);
    let running = running.spawn();
    let worker = pids_in(&t, "pids", 1)[0];
    let watchers = || -> Vec<i32> {
        let own = t.processes();
        everyone(&t).into_iter().filter(|pid| !own.contains(pid)).collect()
    };
    wait_for("both watchers", || watchers().len() == 2);
    let watchers = watchers();
    assert!(!watchers.contains(&worker), "{watchers:?}");
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGTSTP] {
        watchers.iter().for_each(|watcher| assert!(send(*watcher, signal)));
    }
    thread::sleep(Duration::from_millis(50)); // nobody tells that nothing has happened
    assert!(watchers.iter().all(|watcher| alive(*watcher)));
    t.touch("go");
    running.finish().succeeded();
    assert!(!t.lines("log").iter().any(|line| line.contains("watcher")), "{:?}", t.lines("log"));
}

fn sig_all_a_second_stop_while_workers_save() {
    let t = Case::new();
    let controlled = program("controlled");
    let running = tool(&t, &["--nproc-per-node", "2", "--checkpoint-before-stop", "60"])
        .words(&["--no-python", controlled.to_str().unwrap(), "append", &t.path("ready"), "x", "slow", "0.3"])
        .words(&["work", &t.path("work.%r"), "0.001", "0"])
        .spawn();
    t.wait_lines("ready", 2);
    for _ in 0..20 {
        send_to_everyone(&t, &[running.pid()], libc::SIGTERM, false);
        if !t.lines("work.0").is_empty() && !t.lines("work.1").is_empty() {
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    send_to_everyone(&t, &[running.pid()], libc::SIGTERM, false);
    assert_eq!(running.finish().status.signal(), Some(libc::SIGTERM));
    at_one_step(&done(&t, 2), &["save"]);
}

/// Whoever takes no part in control ends as without a shield.
fn sig_all_the_shield_is_lowered_for_the_agent() {
    let host = |t: &Case, kind: Kind, verbs: &[&str]| {
        let host = t
            .host()
            .set("signals", "SIGTERM")
            .set("shutdown_timeout", 100)
            .set("checkpoint_before_stop", 0.3);
        let running = host.controlled(kind, verbs).spawn();
        t.wait_lines("ready", 1);
        running.signal(libc::SIGTERM);
        let run = running.finish();
        run.failed_as(END_INTERRUPTED);
        assert!(run.wall < Duration::from_secs(30), "{run}");
        assert_eq!(run.worker(0)["cause"], CAUSE_STOPPED_BY_AGENT, "{run}");
        run
    };
    // It opened its handle, and never looks what is due.
    for kind in Kind::ALL {
        let t = Case::new();
        let run = host(&t, kind, &["step", "1", "append", &t.path("ready"), "x", "pause"]);
        assert_eq!(run.worker(0)["signal"], libc::SIGTERM, "{run}");
    }
    // It opened none.
    let bare = |t: &Case, verbs: &[&str]| {
        let host = t
            .host()
            .set("signals", "SIGTERM")
            .set("shutdown_timeout", 100)
            .set("checkpoint_before_stop", 0.3);
        let running = host.probe(verbs).spawn();
        t.wait_lines("ready", 1);
        running.signal(libc::SIGTERM);
        let run = running.finish();
        run.failed_as(END_INTERRUPTED);
        assert!(run.wall < Duration::from_secs(30), "{run}");
        run
    };
    let t = Case::new();
    let run = bare(&t, &["append", &t.path("ready"), "x", "pause"]);
    assert_eq!(run.worker(0)["signal"], libc::SIGKILL, "{run}");
    assert_eq!(run.worker(0)["cause"], CAUSE_STOPPED_BY_AGENT);
    // Its own handler is called.
    let t = Case::new();
    let run = bare(&t, &["exit_on", "TERM", "7", "0.1", "append", &t.path("ready"), "x", "pause"]);
    assert_eq!(run.worker(0)["exit_code"], 7, "{run}");
}

fn sig_all_the_shield_is_not_inherited() {
    for kind in [Kind::Program, Kind::Function(Way::Fork), Kind::Function(Way::Forkserver)] {
        let t = Case::new();
        let pids = t.path("pids");
        let verbs = ["step", "1", "child", "append", &pids, "%p", "pause", ";"];
        let executed = ["child", "append", &pids, "%p", "exec", "sleep", "100", ";", "await", &t.path("go")];
        let verbs = [&verbs[..], &executed, &["code", "0"]].concat();
        let host = t.host().set("signals", "SIGTERM").set("checkpoint_before_stop", 60);
        let running = host.controlled(kind, &verbs).spawn();
        let children = pids_in(&t, "pids", 2);
        for child in children {
            assert!(!has_signal(signal_mask(child, "SigIgn:"), libc::SIGTERM), "{kind:?}");
            send(child, libc::SIGTERM);
            wait_for("the end of what a worker has started", || gone(child));
        }
        t.touch("go");
        running.finish().succeeded();
    }
    // Without a checkpoint before the stop there is none.
    let t = Case::new();
    t.host().set("signals", "SIGTERM").set("control", 1).probe(&["dump", &t.path("state")]).run().succeeded();
    let ignored =
        t.json("state")["ignored"].as_str().map(|mask| u64::from_str_radix(mask, 16).expect("a mask"));
    assert!(!has_signal(ignored.unwrap_or(0), libc::SIGTERM));
}

/// A stop without the checkpoint that was asked for does not look like one with it.
fn sig_all_a_checkpoint_that_is_missed_is_said() {
    let t = Case::new();
    let ready = t.path("ready");
    let options = ["--nproc-per-node", "2", "--checkpoint-before-stop", "0.3"];
    let running = tool(&t, &options).probe(&["append", &ready, "x", "pause"]).spawn();
    t.wait_lines("ready", 2);
    running.signal(libc::SIGTERM);
    let ended = running.finish();
    let text = "0 did, 0 could not, 0 ended, 2 did not answer";
    assert!(ended.err().contains(text), "{}", ended.err());
}
