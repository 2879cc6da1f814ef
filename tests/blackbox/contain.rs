//! What workers have started is ended with them, in whatever group or session it is: KILL-09 and its kind.

use std::fs;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::harness::*;
use crate::tests;
use crate::tool::*;

/// How descendants leave the group of their worker.
const SHAPES: [&str; 3] = ["group", "session", "daemon"];

/// Verbs of a descendant that has left the group: it notes its pid, and what signals it gets.
fn runaway<'a>(shape: &'a str, pids: &'a str, signals: &'a str) -> Vec<&'a str> {
    vec![shape, "close_stdio", "count", "TERM", signals, "append", pids, "%p", "pause", ";"]
}

fn all_gone(pids: &[i32], what: &str) {
    for pid in pids {
        assert!(gone(*pid), "{what}: {pid} outlived the run");
    }
}

fn contain_a_stop_reaches_whoever_left_the_group() {
    for kind in Kind::ALL {
        let t = Case::new();
        let (pids, signals) = (t.path("pids"), t.path("signals"));
        let mut verbs: Vec<&str> = SHAPES.iter().flat_map(|shape| runaway(shape, &pids, &signals)).collect();
        let ready = t.path("ready");
        // It takes its time, so that those below it can say what they got.
        verbs.extend([
            "exit_on",
            "TERM",
            "0",
            "0.3",
            "await_lines",
            &pids,
            "3",
            "append",
            &ready,
            "x",
            "pause",
        ]);
        let run = t
            .host()
            .worker(kind, &verbs)
            .steps(&["start", &format!("await={ready}"), "stop=TERM", "wait=60"])
            .run();
        let pids = pids_in(&t, "pids", 3);
        all_gone(&pids, kind.name());
        // The two that were below the worker; the daemon had lost its parents before.
        let told = t.lines("signals");
        assert!(told.len() >= 2, "{}: {told:?}", kind.name());
        run.failed_as(END_INTERRUPTED);
    }
}

fn contain_a_failure_and_a_success_leave_nobody() {
    for kind in Kind::ALL {
        for code in ["0", "3"] {
            let t = Case::new();
            let (pids, signals) = (t.path("pids"), t.path("signals"));
            let mut verbs: Vec<&str> =
                SHAPES.iter().flat_map(|shape| runaway(shape, &pids, &signals)).collect();
            verbs.extend(["await_lines", &pids, "3", "exit", code]);
            let run = t.host().worker(kind, &verbs).run();
            all_gone(&pids_in(&t, "pids", 3), kind.name());
            match code {
                "0" if kind == Kind::Program => drop(run.succeeded()),
                // A function that calls exit has not come back.
                _ => drop(run.failed_as(END_WORKER_FAILURE)),
            }
        }
    }
}

/// Who counts how many of a rank run at once finds no second one.
fn contain_no_rank_runs_twice() {
    let probe = program("probe").display().to_string();
    let shells = [
        ("timeout", format!("timeout 600 {probe} \"$@\"; exit $?")),
        ("job control", format!("set -m; {probe} \"$@\" & wait $!")),
        ("setsid", format!("setsid --wait {probe} \"$@\"; exit $?")),
    ];
    for (what, script) in &shells {
        let t = Case::new();
        let (pids, twice, go) = (t.path("pids"), t.path("twice"), t.path("go"));
        let (alive, second) = (t.path("alive.%a"), t.path("second"));
        // Rank 0 works below a shell; rank 1 fails when that is about it.
        let verbs = [
            "rank",
            "1",
            "attempt",
            "0",
            "await_lines",
            &pids,
            "1",
            "exit",
            "3",
            ";",
            "await",
            &second,
            "exit",
            "0",
            ";",
            "attempt",
            "0",
            "ignore",
            "TERM",
            "append",
            &pids,
            "%p",
            "await",
            &go,
            ";",
            "still_there",
            &pids,
            &twice,
            "touch",
            &second,
            "touch",
            &alive,
        ];
        let shell = if *what == "job control" { "bash" } else { "sh" };
        let mut host = t.host().set("local_world_size", 2).set("max_restarts", 1).set("program", shell);
        for word in ["-c", script, shell].iter().chain(&verbs) {
            host = host.set("arg", word);
        }
        let run = host.set("shutdown_timeout", 0.3).run();
        let twice = t.lines("twice");
        assert!(twice.is_empty(), "{what}: {twice:?} ran in the second attempt too\n{run}");
        run.succeeded();
        assert_eq!(run.result()["restarts"], 1, "{what}");
        // The same with the shell killed alone: what is below it has no parent then.
        let t = Case::new();
        let (pids, twice) = (t.path("pids"), t.path("twice"));
        let script = format!("echo $$ >> {}; {script}", t.path("shells"));
        let verbs = ["attempt", "0", "append", &pids, "%p", "pause", ";", "still_there", &pids, &twice];
        let host = t.host().set("max_restarts", 1).set("program", shell);
        let host = ["-c", &script, shell].iter().chain(&verbs).fold(host, |host, word| host.set("arg", word));
        let running = host.step("run").spawn();
        pids_in(&t, "pids", 1);
        send(pids_in(&t, "shells", 1)[0], libc::SIGKILL);
        let run = running.finish();
        let twice = t.lines("twice");
        assert!(twice.is_empty(), "{what}: {twice:?} ran in the second attempt too\n{run}");
        run.succeeded();
    }
}

fn contain_nobody_outlives_a_host_that_was_killed() {
    for kind in Kind::ALL {
        let t = Case::new();
        let (pids, signals) = (t.path("pids"), t.path("signals"));
        let mut verbs: Vec<&str> = SHAPES.iter().flat_map(|shape| runaway(shape, &pids, &signals)).collect();
        verbs.extend(["pause"]);
        let running = t.host().set("local_world_size", 2).worker(kind, &verbs).step("run").spawn();
        let pids = pids_in(&t, "pids", 6);
        running.kill();
        for pid in pids {
            wait_for(&format!("the end of {pid} by {}", kind.name()), || gone(pid));
        }
    }
}

fn contain_nobody_outlives_an_icerun_that_was_killed() {
    let t = Case::new();
    let probe = program("probe").display().to_string();
    let script = format!(
        "timeout 600 {probe} append {pids} %p pause & set -m; {probe} append {pids} %p pause & \
         setsid {probe} append {pids} %p pause & wait",
        pids = t.path("pids")
    );
    let running = tool(&t, &["--nproc-per-node", "2", "--no-python", "bash", "-c", &script]).spawn();
    let pids = pids_in(&t, "pids", 6);
    running.kill();
    for pid in pids {
        wait_for(&format!("the end of {pid}"), || gone(pid));
    }
    for file in fs::read_dir(t.tmp()).unwrap().flatten() {
        let _ = fs::remove_dir_all(file.path());
    }
}

/// A script that leaves a daemon with nothing of the environment, twice forked, when that has said its pid.
fn forgetful(t: &Case) -> String {
    let (probe, pids) = (probe(), t.path("pids"));
    format!(
        "(env -i setsid {} append {pids} %p pause >/dev/null 2>&1 </dev/null &); \
         until [ -s {pids} ]; do sleep 0.01; done",
        probe.display()
    )
}

fn contain_a_subreaper_loses_nobody() {
    // As icerun is one.
    for end in ["exit 0", "exit 3", "sleep 300"] {
        let t = Case::new();
        let script = format!("{}; {end}", forgetful(&t));
        let mut running = tool(&t, &["--no-python", "sh", "-c", &script]).spawn();
        let daemon = pids_in(&t, "pids", 1)[0];
        if end.starts_with("sleep") {
            assert!(running.is_running() && alive(daemon));
            running.signal(libc::SIGTERM);
        }
        running.finish();
        assert!(gone(daemon), "{end}: {daemon} outlived the run");
    }
    // And a host that asks for it, in which nothing else changes.
    let t = Case::new();
    let script = format!("{}; exit 0", forgetful(&t));
    let host = t.host().set("subreaper", 1).set("program", "sh").set("arg", "-c").set("arg", &script);
    let run = host.step("run").run();
    run.succeeded();
    all_gone(&pids_in(&t, "pids", 1), "subreaper");
    // Others are no subreapers, and lose such a one: it is documented.
    let t = Case::new();
    let script = format!("{}; exit 0", forgetful(&t));
    let run = t.host().set("program", "sh").set("arg", "-c").set("arg", &script).run();
    run.succeeded();
    let daemon = pids_in(&t, "pids", 1)[0];
    assert!(alive(daemon));
    send(daemon, libc::SIGKILL);
}

fn contain_what_is_below_a_living_worker_needs_no_mark() {
    let t = Case::new();
    let (pids, signals) = (t.path("pids"), t.path("signals"));
    let script = format!(
        "trap 'sleep 0.3' TERM; env -i setsid --wait {} count TERM {signals} append {pids} %p pause; true",
        probe().display()
    );
    let run = t
        .host()
        .set("program", "sh")
        .set("arg", "-c")
        .set("arg", &script)
        .steps(&["start", &format!("await_lines={pids}:1"), "stop=TERM", "wait=60"])
        .run();
    all_gone(&pids_in(&t, "pids", 1), "no environment");
    assert_eq!(t.lines("signals").len(), 1, "it was told to stop first");
    run.failed_as(END_INTERRUPTED);
}

fn contain_what_a_subreaper_adopts_is_reaped_while_the_run_goes_on() {
    let t = Case::new();
    // They end when they are orphans; `ready` is there when they have.
    let script = format!(
        "for i in 1 2 3 4 5 6 7 8; do (sleep 0.2 & ); done; sleep 0.5; touch {}; sleep 300",
        t.path("ready")
    );
    let running = tool(&t, &["--no-python", "sh", "-c", &script]).spawn();
    let pid = running.pid();
    let zombies = || {
        let is_one = |other: i32| {
            let stat = fs::read_to_string(format!("/proc/{other}/stat")).ok()?;
            let rest = stat[stat.rfind(')')? + 2..].to_string();
            rest.starts_with(&format!("Z {pid} ")).then_some(())
        };
        pids().into_iter().filter_map(is_one).count()
    };
    t.wait_file("ready");
    wait_for("the orphans to be reaped", || zombies() == 0);
    running.signal(libc::SIGTERM);
    running.finish();
}

fn contain_a_daemon_is_left_where_the_spec_says_so() {
    for kind in Kind::ALL {
        let t = Case::new();
        let (pids, signals) = (t.path("pids"), t.path("signals"));
        let mut verbs = runaway("daemon", &pids, &signals);
        verbs.extend(["await_lines", &pids, "1"]);
        let run = t.host().set("kill_group_on_success", 0).worker(kind, &verbs).step("run").run();
        let daemon = pids_in(&t, "pids", 1)[0];
        assert!(alive(daemon), "{}", kind.name());
        send(daemon, libc::SIGKILL);
        run.succeeded();
    }
}

fn contain_what_cannot_be_killed_is_named() {
    for end in [END_SUCCEEDED, END_WORKER_FAILURE] {
        let t = Case::new();
        let (pids, signals, go) = (t.path("pids"), t.path("signals"), t.path("go"));
        let mut verbs = runaway("session", &pids, &signals);
        let code = end.to_string();
        verbs.extend(["await", &go, "exit", &code]);
        let running = t.host().set("log_callback", t.path("log")).probe(&verbs).step("run").spawn();
        let pid = pids_in(&t, "pids", 1)[0];
        let freezer = Freezer::new();
        freezer.freeze(pid);
        t.touch("go");
        let event = running.wait_event("run");
        let stayed = alive(pid);
        freezer.thaw();
        assert!(stayed, "the test needs a process that stays");
        assert_eq!(event["result"]["end"], end);
        let summary = text(&event["result"]["summary"]);
        let named = format!("left behind: PID {pid} ({}", probe().display());
        assert!(summary.contains(&named), "{summary}");
        let log = t.lines("log");
        assert!(
            log.iter().any(|line| line.starts_with("2 ") && line.contains(&format!("PID {pid} ("))),
            "{log:?}"
        );
        wait_for("its end", || gone(pid));
        running.finish();
    }
}

fn contain_a_nested_run_stops_its_own_workers() {
    // Its worker ends by itself a while after the signal, as a checkpoint would take; in its own group or not.
    for before in ["", "timeout 600 "] {
        let t = Case::new();
        let script = format!(
            "{before}{} --no-python {} count TERM {} append {} %p await_lines {} 1 sleep 0.4 append {} done; true",
            icerun().display(),
            probe().display(),
            t.path("term"),
            t.path("pids"),
            t.path("term"),
            t.path("done"),
        );
        let run = t
            .host()
            .set("shutdown_timeout", 30)
            .set("program", "sh")
            .set("arg", "-c")
            .set("arg", &script)
            .steps(&["start", &format!("await_lines={}:1", t.path("pids")), "stop=TERM", "wait=60"])
            .run();
        assert_eq!(t.lines("term").len(), 1, "{before}: one signal, by its own agent: {run}");
        assert_eq!(t.lines("done").len(), 1, "{before}: it had the time it needs: {run}");
        run.failed_as(END_INTERRUPTED);
    }
}

fn contain_a_nested_run_that_does_not_stop_is_killed() {
    let t = Case::new();
    let script = format!(
        "timeout 600 {} --shutdown-timeout 60 --no-python {} ignore TERM append {} %p pause; true",
        icerun().display(),
        probe().display(),
        t.path("pids"),
    );
    let run = t
        .host()
        .set("shutdown_timeout", 0.5)
        .set("program", "sh")
        .set("arg", "-c")
        .set("arg", &script)
        .steps(&["start", &format!("await_lines={}:1", t.path("pids")), "stop=TERM", "wait=60"])
        .run();
    all_gone(&pids_in(&t, "pids", 1), "nested");
    // What a killed icerun had made stays.
    for file in fs::read_dir(t.tmp()).unwrap().flatten() {
        let _ = fs::remove_dir_all(file.path());
    }
    assert!(run.wall < Duration::from_secs(20));
    run.failed_as(END_INTERRUPTED);
}

fn contain_children_of_the_host_are_left_alone() {
    // By fork, where workers are copies of the host as its children are.
    for kind in [Kind::Program, Way::Fork.into()] {
        let t = Case::new();
        let verbs = ["code", "3"];
        let verbs = if kind == Kind::Program { ["exit", "3"] } else { verbs };
        let run = t
            .host()
            .set("max_restarts", 2)
            .worker(kind, &verbs)
            .steps(&["child=7", "start", "wait=60", "reap_child"])
            .run();
        assert_eq!(run.result()["restarts"], 2, "{run}");
        assert_eq!(run.event("reap_child")["code"], 7, "{run}");
    }
}

fn contain_what_a_warm_up_started_ends_with_the_run() {
    for way in Way::SERVER {
        let t = Case::new();
        let (pids, signals) = (t.path("pids"), t.path("signals"));
        let daemon = runaway("daemon", &pids, &signals);
        let up = t.path("up");
        // It lives through the restart.
        let mut verbs =
            vec!["append", &up, "x", "still_there", &pids, &up, "attempt", "0", "code", "1", ";", "--"];
        verbs.extend(&daemon);
        verbs.extend(["await_lines", &pids, "1"]);
        let run = t.host().set("max_restarts", 1).function(way, &verbs).set("warm_up", "warm_up").run();
        assert_eq!(t.lines("up").len(), 4, "{run}");
        all_gone(&pids_in(&t, "pids", 1), way.name());
        run.succeeded();
    }
}

pub fn tests() -> Vec<Trial> {
    tests![
        contain_a_stop_reaches_whoever_left_the_group,
        contain_a_failure_and_a_success_leave_nobody,
        needs(bash): contain_no_rank_runs_twice,
        contain_nobody_outlives_a_host_that_was_killed,
        needs(bash): contain_nobody_outlives_an_icerun_that_was_killed,
        contain_a_subreaper_loses_nobody,
        contain_what_is_below_a_living_worker_needs_no_mark,
        contain_what_a_subreaper_adopts_is_reaped_while_the_run_goes_on,
        contain_a_daemon_is_left_where_the_spec_says_so,
        needs(freezer): contain_what_cannot_be_killed_is_named,
        contain_a_nested_run_stops_its_own_workers,
        contain_a_nested_run_that_does_not_stop_is_killed,
        contain_children_of_the_host_are_left_alone,
        contain_what_a_warm_up_started_ends_with_the_run,
    ]
}
