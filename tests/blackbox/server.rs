//! Area FN: the fork server, its warm-up, and what comes of it when somebody interferes.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::harness::*;
use crate::tests_by_way;
use crate::tool::{Dice, four_at_a_time, no_process_left, pids_in};

pub fn tests() -> Vec<Trial> {
    tests_by_way![
        Way::SERVER;
        fn_22_an_exit_code_through_the_server,
        fn_22_a_restart_keeps_the_server,
        fn_24_the_server_is_killed_in_mid_run,
        fn_24_the_server_is_killed_and_no_restart_is_left,
        fn_24_the_server_is_killed_while_a_child_of_its_warm_up_lives,
        fn_24_the_server_is_killed_during_its_warm_up,
        fn_24_the_server_is_killed_during_births,
        fn_24_the_server_is_killed_before_a_prepared_run,
        fn_a_stop_during_births_is_not_lost,
        fn_server_stopped_in_mid_start,
        fn_warm_up_is_shared,
        fn_warm_up_that_fails,
        fn_warm_up_that_fails_once_and_is_prepared_again,
        fn_warm_up_that_takes_long,
        fn_warm_up_output_comes_once,
        fn_warm_up_leaves_no_signal_state,
        fn_warm_up_takes_the_statuses_of_children,
        fn_warm_up_starts_children,
        fn_server_is_none_of_the_groups,
    ]
    .into_iter()
    .collect()
}

/// The number of the server that a warm-up noted.
fn server_pid(t: &Case, nth: usize) -> i32 {
    t.wait_lines("warm", nth + 1)[nth].parse().expect("a pid")
}

/// A host whose server notes its number and then does these verbs to warm up.
fn warmed<'a>(t: &'a Case, way: Way, verbs: &[&str], warm_up: &[&str]) -> Host<'a> {
    let warm = t.path("warm");
    let all = [verbs, &["--", "append", &warm, "%p"], warm_up].concat();
    t.host().function(way, &all).set("warm_up", "warm_up")
}

/// Verbs of a worker that notes itself, its parent, and a child of its own that ignores what it can.
fn with_child(t: &Case) -> Vec<String> {
    let words = ["child", "ignore", "TERM", "append", "PIDS", "%p", "pause", ";", "append", "PIDS", "%p"];
    words.iter().map(|word| if *word == "PIDS" { t.path("pids") } else { word.to_string() }).collect()
}

fn children(pid: i32) -> Vec<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn fn_22_an_exit_code_through_the_server(way: Way) {
    let t = Case::new();
    let verbs = [
        "append",
        &t.path("parents"),
        "%q",
        "await_lines",
        &t.path("parents"),
        "8",
        "rank",
        "3",
        "code",
        "5",
        ";",
        "pause",
    ];
    let running = warmed(&t, way, &verbs, &[]).set("local_world_size", 8).spawn();
    let host = running.pid();
    let run = running.finish();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(run.worker(3)["exit_code"], 5);
    assert_eq!(run.result()["root_cause"]["global_rank"], 3);
    for rank in [0, 1, 2, 4, 5, 6, 7] {
        assert_eq!(run.worker(rank)["cause"], CAUSE_STOPPED_BY_AGENT);
        assert_eq!(run.worker(rank)["signal"], libc::SIGTERM);
    }
    let parents: BTreeSet<String> = t.lines("parents").into_iter().collect();
    assert_eq!(parents, BTreeSet::from([server_pid(&t, 0).to_string()]));
    assert_ne!(server_pid(&t, 0), host);
}

fn fn_22_a_restart_keeps_the_server(way: Way) {
    let t = Case::new();
    let verbs = [
        "append",
        &t.path("parents"),
        "%q",
        "attempt",
        "2",
        "append",
        &t.path("last"),
        "%p",
        "await",
        &t.path("go"),
        ";",
        "until_attempt",
        "2",
        "rank",
        "1",
        "code",
        "1",
        ";",
        "pause",
        ";",
    ];
    let running = warmed(&t, way, &verbs, &[]).set("local_world_size", 4).set("max_restarts", 3).spawn();
    let mut last = pids_in(&t, "last", 4);
    let server = server_pid(&t, 0);
    // Nothing of the earlier attempts is left in the server.
    let mut now = children(server);
    last.sort();
    now.sort();
    assert_eq!(now, last);
    t.write("go", b"", 0o644);
    let run = running.finish();
    run.succeeded();
    assert_eq!(run.result()["restarts"], 2);
    assert_eq!(t.lines("warm").len(), 1, "one warm-up for all attempts");
    assert!(t.lines("parents").iter().all(|parent| *parent == server.to_string()));
}

fn fn_24_the_server_is_killed_in_mid_run(way: Way) {
    for signal in [libc::SIGKILL, libc::SIGABRT] {
        let t = Case::new();
        let words = with_child(&t);
        let mut verbs: Vec<&str> = words.iter().map(String::as_str).collect();
        verbs.extend(["attempt", "0", "pause", ";", "return", "attempt %a"]);
        let running = warmed(&t, way, &verbs, &[]).set("local_world_size", 4).set("max_restarts", 1).spawn();
        let pids = pids_in(&t, "pids", 8);
        send(server_pid(&t, 0), signal);
        let run = running.finish();
        run.succeeded();
        run.within(AT_ONCE); // at once, not after a time-out
        assert_eq!(run.result()["restarts"], 1);
        assert_eq!(run.worker(3)["value"]["bytes"], "attempt 1");
        assert!(pids.iter().all(|pid| gone(*pid)));
        let servers = t.lines("warm");
        assert_eq!(servers.len(), 2, "the next attempt has a warm server of its own");
        assert_ne!(servers[0], servers[1]);
    }
}

fn fn_24_the_server_is_killed_and_no_restart_is_left(way: Way) {
    let t = Case::new();
    let words = with_child(&t);
    let mut verbs: Vec<&str> = words.iter().map(String::as_str).collect();
    verbs.extend(["ignore", "TERM", "pause"]);
    let running = warmed(&t, way, &verbs, &[]).set("local_world_size", 3).spawn();
    let pids = pids_in(&t, "pids", 6);
    let server = server_pid(&t, 0);
    send(server, libc::SIGKILL);
    let run = running.finish();
    run.failed_as(END_WORKER_FAILURE);
    let summary = run.result()["summary"].as_str().unwrap();
    for part in ["fork server", &server.to_string(), "SIGKILL"] {
        assert!(summary.contains(part), "'{part}' is not in: {summary}");
    }
    for rank in 0..3 {
        assert_eq!(run.worker(rank)["outcome"], OUTCOME_SIGNALED);
        assert_eq!(run.worker(rank)["signal"], libc::SIGKILL);
    }
    assert!(pids.iter().all(|pid| gone(*pid)));
}

/// A child of the warm-up has a copy of all that the server has open: it must not look as if that still lived.
fn fn_24_the_server_is_killed_while_a_child_of_its_warm_up_lives(way: Way) {
    let t = Case::new();
    let up = t.path("up");
    let warm_up = ["session", "append", &t.path("daemon"), "%p", "pause", ";", "await", &t.path("daemon")];
    let running =
        warmed(&t, way, &["append", &up, "%p", "pause"], &warm_up).set("local_world_size", 2).spawn();
    let workers = pids_in(&t, "up", 2);
    send(server_pid(&t, 0), libc::SIGKILL);
    wait_for("the workers to be gone", || workers.iter().all(|pid| gone(*pid)));
    let daemon = pids_in(&t, "daemon", 1)[0];
    soon(PATIENCE, || gone(running.pid()));
    let told = gone(running.pid()) || running.events().iter().any(|event| event["do"] == "run");
    send(daemon, libc::SIGKILL);
    assert!(told, "the agent did not notice");
    running.finish().failed_as(END_WORKER_FAILURE);
}

fn fn_24_the_server_is_killed_during_its_warm_up(way: Way) {
    let t = Case::new();
    let running = warmed(&t, way, &[], &["pause"]).set("max_restarts", 3).spawn();
    let server = server_pid(&t, 0);
    send(server, libc::SIGKILL);
    let run = running.finish();
    run.failed_as(END_START_ERROR);
    let message = run.result()["message"].as_str().unwrap();
    for part in ["fork server", &server.to_string(), "SIGKILL"] {
        assert!(message.contains(part), "'{part}' is not in: {message}");
    }
    assert_eq!(run.result()["restarts"], 0);
    assert_eq!(t.lines("warm").len(), 1);
    // The second server's, with no restart left for a third.
    let t = Case::new();
    let second = ["once", &t.path("first"), "code", "0", ";", "pause"];
    let running =
        warmed(&t, way, &["append", &t.path("up"), "x", "pause"], &second).set("max_restarts", 1).spawn();
    t.wait_lines("up", 1);
    send(server_pid(&t, 0), libc::SIGKILL);
    send(server_pid(&t, 1), libc::SIGKILL);
    let run = running.finish();
    run.failed_as(END_AGENT_ERROR);
    assert!(run.result()["message"].as_str().unwrap().contains("fork server"), "{run}");
}

fn fn_24_the_server_is_killed_during_births(way: Way) {
    four_at_a_time(60, |i| {
        let t = Case::new();
        let words = with_child(&t);
        let mut verbs: Vec<&str> = words.iter().map(String::as_str).collect();
        verbs.push("pause");
        let host = warmed(&t, way, &verbs, &[])
            .set("local_world_size", 40)
            .set("max_restarts", if i % 2 == 0 { 0 } else { 1 });
        let running = host.spawn();
        let mut dice = Dice::new();
        for nth in 0..=i % 2 {
            // A server that was killed before it was warm is the end.
            wait_for("a server", || t.lines("warm").len() > nth || gone(running.pid()));
            let Some(server) = t.lines("warm").get(nth).map(|pid| pid.parse().unwrap()) else { break };
            thread::sleep(Duration::from_micros(dice.below(20_000)));
            send(server, [libc::SIGKILL, libc::SIGSEGV, libc::SIGABRT][i % 3]);
        }
        let run = running.finish();
        let end = run.result()["end"].as_i64().unwrap() as i32;
        assert!([END_WORKER_FAILURE, END_START_ERROR, END_AGENT_ERROR].contains(&end), "{run}");
        assert!(run.result()["summary"].as_str().unwrap().contains("fork server"), "{run}");
        run.clean();
    });
}

fn fn_24_the_server_is_killed_before_a_prepared_run(way: Way) {
    let t = Case::new();
    let steps = ["prepare", "mark=prepared", &format!("await={}", t.path("go")), "run"];
    let running = warmed(&t, way, &["return", "value"], &[]).set("max_restarts", 1).steps(&steps).spawn();
    running.wait_event("prepared");
    send(server_pid(&t, 0), libc::SIGKILL);
    wait_for("the server to be gone", || gone(server_pid(&t, 0)));
    t.write("go", b"", 0o644);
    let run = running.finish();
    run.succeeded();
    assert_eq!(run.worker(0)["value"]["bytes"], "value");
    assert_eq!(t.lines("warm").len(), 2);
}

/// A server that does not answer does not hold a stop up.
/// What is sent to a worker that is not yet more than a copy of the server, which ignores it.
fn fn_a_stop_during_births_is_not_lost(way: Way) {
    const RUNS: usize = 40;
    let t = Case::new();
    let host = t.host().function(way, &["rank", "0", "code", "7", ";", "pause"]).set("local_world_size", 4);
    let run = host.step(format!("repeat={RUNS}:new,start,wait=60,free_agent")).run();
    run.clean();
    let ends = run.events("wait");
    assert_eq!(ends.len(), RUNS);
    for end in ends {
        let workers = end["result"]["workers"].as_array().expect("workers");
        assert_eq!(workers[0]["exit_code"], 7, "{end}");
        assert!(workers.iter().all(|worker| worker["signal"] != libc::SIGKILL), "{end}");
    }
}

fn fn_server_stopped_in_mid_start(way: Way) {
    // In its warm-up.
    let t = Case::new();
    let running = warmed(&t, way, &[], &["stop"])
        .steps(&["start", &format!("await={}", t.path("go")), "stop=TERM", "wait=60"])
        .spawn();
    let server = server_pid(&t, 0);
    wait_for("the server to stop", || state(server) == Some('T'));
    t.write("go", b"", 0o644);
    let run = running.finish();
    run.failed_as(END_INTERRUPTED);
    run.within(AT_ONCE);
    // Somewhere in its births.
    four_at_a_time(20, |_| {
        let t = Case::new();
        let steps = ["start", &format!("await={}", t.path("go")), "stop=TERM", "wait=60"];
        let running = warmed(&t, way, &["pause"], &[])
            .set("local_world_size", 64)
            .set("shutdown_timeout", 1)
            .steps(&steps)
            .spawn();
        let server = server_pid(&t, 0);
        thread::sleep(Duration::from_micros(Dice::new().below(10_000)));
        send(server, libc::SIGSTOP);
        t.write("go", b"", 0o644);
        let run = running.finish();
        assert_eq!(run.event("wait")["status"], "ICE_OK", "{run}");
        run.within(AT_ONCE);
        run.clean();
    });
}

fn fn_warm_up_is_shared(way: Way) {
    let t = Case::new();
    let host = warmed(
        &t,
        way,
        &["loaded", &t.path("loaded"), "argument", &t.path("argument"), "rank", "0", "load", "mine", ";"],
        &[
            "ranks",
            &t.path("ranks"),
            "argument",
            &t.path("argument"),
            "load",
            "the data",
            "memory",
            "64",
            "threads",
            "3",
        ],
    );
    let run = host.set("local_world_size", 3).set("max_restarts", 1).run();
    run.succeeded();
    assert_eq!(t.lines("loaded"), ["the data"; 3]);
    assert_eq!(t.lines("ranks"), ["-1 -1 -1 -1 -1 -1"], "a warm-up has no rank");
    let arguments: BTreeSet<String> = t.lines("argument").into_iter().collect();
    assert_eq!((arguments.len(), t.lines("argument").len()), (1, 4), "all see the same");
}

fn fn_warm_up_that_fails(way: Way) {
    for (verbs, parts) in [
        (&["code", "7"][..], &["\"warm_up\"", "7"][..]),
        (&["code", "-1"], &["\"warm_up\"", "-1"]),
        (&["exit", "0"], &["fork server", "exited with code 0"]),
        (&["_exit", "3"], &["fork server", "exited with code 3"]),
        (&["segv"], &["fork server", "SIGSEGV"]),
        (&["kill", "KILL"], &["fork server", "SIGKILL"]),
    ] {
        let t = Case::new();
        let run = warmed(&t, way, &["append", &t.path("ran"), "x"], verbs)
            .set("max_restarts", 3)
            .set("local_world_size", 2)
            .run();
        run.failed_as(END_START_ERROR);
        let message = run.result()["message"].as_str().unwrap();
        for part in parts {
            assert!(message.contains(part), "'{part}' is not in: {message}");
        }
        assert!(!message.contains("ice_worker_main()"), "it was called: {message}");
        assert_eq!(run.result()["restarts"], 0);
        assert_eq!((t.lines("warm").len(), t.lines("ran").len()), (1, 0));
        // The same where it is prepared; and a start tries again.
        let t = Case::new();
        let run = warmed(&t, way, &["append", &t.path("ran"), "x"], verbs).steps(&["prepare", "run"]).run();
        assert_eq!(run.event("prepare")["status"], "ICE_ERROR_START", "{run}");
        let message = run.event("prepare")["message"].as_str().unwrap();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        run.failed_as(END_START_ERROR);
        assert_eq!((t.lines("warm").len(), t.lines("ran").len()), (2, 0));
    }
}

fn fn_warm_up_that_fails_once_and_is_prepared_again(way: Way) {
    for steps in [&["prepare", "run"][..], &["prepare", "prepare", "run"], &["prepare", "free_agent", "run"]]
    {
        let t = Case::new();
        let run = warmed(&t, way, &["return", "value"], &["once", &t.path("once"), "code", "1", ";"])
            .steps(steps)
            .run();
        run.succeeded();
        let first = run.events("prepare")[0];
        assert_eq!(first["status"], "ICE_ERROR_START", "{run}");
        assert_eq!(t.lines("warm").len(), 2);
        if steps.len() == 3 && steps[1] == "prepare" {
            assert_eq!(run.event("prepare")["status"], "ICE_OK");
        }
    }
    // Prepared in vain, then freed.
    let t = Case::new();
    warmed(&t, way, &[], &["code", "1"]).steps(&["prepare", "free_agent"]).run().clean();
}

fn fn_warm_up_that_takes_long(way: Way) {
    // A stop does not wait for it, be it in a start or while it is prepared.
    for steps in [&["stop_thread=TERM:GO", "run"][..], &["stop_thread=TERM:GO", "prepare", "run"]] {
        let t = Case::new();
        let steps: Vec<String> = steps.iter().map(|step| step.replace("GO", &t.path("go"))).collect();
        let host = warmed(
            &t,
            way,
            &["append", &t.path("ran"), "x"],
            &["ignore", "TERM", "child", "pause", ";", "pause"],
        );
        let running = steps.iter().fold(host, |host, step| host.step(step)).spawn();
        let server = server_pid(&t, 0);
        t.write("go", b"", 0o644);
        let run = running.finish();
        run.failed_as(END_INTERRUPTED);
        assert_eq!(run.result()["signal"], libc::SIGTERM);
        run.within(AT_ONCE);
        assert!(gone(server));
        assert!(t.lines("ran").is_empty());
    }
    // Freed, or killed, in the middle of it.
    let t = Case::new();
    warmed(&t, way, &[], &["pause"])
        .steps(&["start", &format!("await={}", t.path("warm")), "free_agent"])
        .run()
        .clean();
    let t = Case::new();
    let words = with_child(&t);
    let mut warm_up: Vec<&str> = words.iter().map(String::as_str).collect();
    warm_up.push("pause");
    let running = warmed(&t, way, &[], &warm_up).spawn();
    let pids = pids_in(&t, "pids", 2);
    running.kill();
    wait_for("the server and its child to be gone", || pids.iter().all(|pid| gone(*pid)));
    no_process_left(&t);
}

fn fn_warm_up_output_comes_once(way: Way) {
    let t = Case::new();
    // What a server holds back in stdio is its own to write: once, before its workers' lines or after.
    let host =
        warmed(&t, way, &["print", "worker %r"], &["print", "warming up", "write", "2", "a warning\\n"]);
    let run = host.set("local_world_size", 4).run();
    run.succeeded();
    assert_eq!(run.out().matches("warming up").count(), 1, "{}", run.out());
    assert_eq!(run.err().matches("a warning").count(), 1, "{}", run.err());
    for rank in 0..4 {
        assert_eq!(run.out().matches(&format!("worker {rank}\n")).count(), 1, "{}", run.out());
    }
    // Not into the workers' files.
    let t = Case::new();
    let host = warmed(&t, way, &["print", "worker %r"], &["print", "warming up"]);
    let run = host.set("redirects", 3).set("log_dir", t.path("logs")).run();
    run.succeeded();
    assert_eq!(run.out(), "warming up\n");
    let log = std::fs::read_to_string(run.worker(0)["stdout_log"].as_str().unwrap()).unwrap();
    assert_eq!(log, "worker 0\n");
}

fn fn_warm_up_leaves_no_signal_state(way: Way) {
    let t = Case::new();
    let count = t.path("count");
    let warm_up = [
        "ignore", "USR1", "ignore", "PIPE", "count", "USR2", &count, "count", "TERM", &count, "block", "HUP",
        "block", "INT",
    ];
    let host = warmed(&t, way, &["dump", &t.path("dump")], &warm_up).set("crash_records", 0);
    host.under(&["sh", "-c", "trap '' WINCH; exec \"$@\"", "sh"]).run().succeeded();
    let dump = t.json("dump");
    // 32 and 33 are glibc's own.
    let bits = |name: &str| u64::from_str_radix(dump[name].as_str().unwrap(), 16).unwrap() & !(3 << 31);
    assert_eq!(bits("blocked"), 0);
    assert_eq!(bits("caught"), 0);
    assert_eq!(bits("ignored"), 1 << (libc::SIGWINCH - 1), "what the host's parent ignored stays so");
    // A stop reaches workers all the same.
    let t = Case::new();
    let host =
        warmed(&t, way, &["append", &t.path("up"), "x", "pause"], &["ignore", "TERM", "block", "TERM"]);
    let run =
        host.steps(&["start", &format!("await_lines={}:1", t.path("up")), "stop=TERM", "wait=60"]).run();
    run.failed_as(END_INTERRUPTED);
    assert_eq!(run.worker(0)["signal"], libc::SIGTERM);
}

/// A warm-up that takes, or throws away, the exit statuses of any child: those of workers are the server's.
fn fn_warm_up_takes_the_statuses_of_children(way: Way) {
    for warm_up in [&["ignore", "CHLD"][..], &["count", "CHLD", "/dev/null"]] {
        let t = Case::new();
        let run = warmed(&t, way, &["rank", "1", "code", "5", ";", "pause"], warm_up)
            .set("local_world_size", 3)
            .run();
        run.failed_as(END_WORKER_FAILURE);
        assert_eq!(run.worker(1)["exit_code"], 5, "{warm_up:?}");
    }
    // Whatever a thread of it does, the run ends.
    let t = Case::new();
    let run = warmed(&t, way, &["rank", "1", "code", "5", ";", "pause"], &["reap_any"])
        .set("local_world_size", 3)
        .run();
    assert_ne!(run.result()["end"], END_SUCCEEDED);
    run.clean();
}

fn fn_warm_up_starts_children(way: Way) {
    // In the server's group: they go with it, and are nobody's workers meanwhile.
    let t = Case::new();
    let warm_up = [
        "child",
        "append",
        &t.path("child"),
        "%p",
        "pause",
        ";",
        "child",
        "exit",
        "3",
        ";",
        "await",
        &t.path("child"),
    ];
    let run = warmed(&t, way, &["return", "value"], &warm_up)
        .set("local_world_size", 2)
        .set("max_restarts", 1)
        .run();
    run.succeeded();
    assert!(gone(pids_in(&t, "child", 1)[0]));
}

fn fn_server_is_none_of_the_groups(way: Way) {
    let t = Case::new();
    let run = warmed(&t, way, &["dump", &t.path("worker%r")], &["dump", &t.path("server")])
        .set("local_world_size", 2)
        .run();
    run.succeeded();
    let server = t.json("server");
    assert_eq!(server["pid"], server["pgid"], "the host's terminal does not signal it");
    assert_eq!(server["parent_death_signal"], libc::SIGKILL);
    for rank in 0..2 {
        let worker = t.json(&format!("worker{rank}"));
        assert_eq!(worker["pgid"], worker["pid"]);
        assert_eq!(worker["ppid"], server["pid"]);
        assert_eq!(worker["parent_death_signal"], libc::SIGKILL);
        assert_eq!(worker["threads"], "1");
    }
}
