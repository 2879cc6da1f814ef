//! Area REAP: zombies, the death of the agent, and what must not be left behind.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::harness::*;
use crate::tests;
use crate::tool::*;

fn reap_01_no_zombie_after_any_end() {
    let t = Case::new();
    // `clean` counts children, zombies too.
    let host = || t.host().set("local_world_size", 4).set("log_dir", t.path("logs"));
    for kind in Kind::ALL {
        host().worker(kind, &["code", "0"]).run().succeeded();
        host().worker(kind, &["rank", "2", "code", "3", ";"]).run().failed_as(END_WORKER_FAILURE);
        host().set("max_restarts", 3).worker(kind, &["kill", "SEGV"]).run().failed_as(END_WORKER_FAILURE);
        host()
            .worker(kind, &["pause"])
            .steps(&["start", "stop=TERM", "wait=30"])
            .run()
            .failed_as(END_INTERRUPTED);
        host().worker(kind, &["pause"]).steps(&["start", "free_agent"]).run().clean();
    }
    host().set("program", "/nowhere").run().failed_as(END_START_ERROR);
}

const STUBBORN: [&str; 14] = [
    "ignore", "TERM", "ignore", "INT", "ignore", "HUP", "child", "append", "PIDS", "%p", "pause", ";",
    "append", "PIDS",
];

fn stubborn(t: &Case) -> Vec<String> {
    let words = STUBBORN.iter().map(|word| if *word == "PIDS" { t.path("pids") } else { word.to_string() });
    words.chain(["%p".to_string(), "pause".to_string()]).collect()
}

fn reap_02_workers_die_with_a_killed_agent() {
    for kind in Kind::ALL.map(Some).into_iter().chain([None]) {
        let t = Case::new();
        let words = stubborn(&t);
        let verbs: Vec<&str> = words.iter().map(String::as_str).collect();
        let pids = |t: &Case| pids_in(t, "pids", 6);
        let pids = if let Some(kind) = kind {
            let running = t.host().set("local_world_size", 3).worker(kind, &verbs).spawn();
            let pids = pids(&t);
            running.kill();
            pids
        } else {
            let running = tool(&t, &["--nproc-per-node", "3"]).probe(&verbs).spawn();
            let pids = pids(&t);
            running.kill();
            pids
        };
        // Workers by the parent-death signal, their children by the watcher; and the watcher itself ends.
        wait_for("the end of workers and their children", || pids.iter().all(|pid| gone(*pid)));
        no_process_left(&t);
    }
}

fn reap_02_900_kills_at_random_moments_leave_nothing() {
    four_at_a_time(900, |i| {
        let mut dice = Dice::new();
        let wait = Duration::from_micros(dice.below(if i % 30 == 0 { 500_000 } else { 40_000 }));
        let t = Case::new();
        let words = stubborn(&t);
        let verbs: Vec<&str> = words.iter().map(String::as_str).collect();
        if i % 7 == 6 {
            let running = tool(&t, &["--nproc-per-node", "3"]).probe(&verbs).spawn();
            thread::sleep(wait);
            running.kill();
        } else {
            let running = t.host().set("local_world_size", 3).worker(Kind::ALL[i % 7], &verbs).spawn();
            thread::sleep(wait);
            running.kill();
        }
        no_process_left(&t);
    });
}

fn reap_02_workers_die_when_the_host_becomes_another_program() {
    let t = Case::new();
    let words = stubborn(&t);
    let verbs: Vec<&str> = words.iter().map(String::as_str).collect();
    let running = t
        .host()
        .set("local_world_size", 2)
        .probe(&verbs)
        .steps(&["start", &format!("await_lines={}:4", t.path("pids")), "exec_sleep=20"])
        .spawn();
    let pids = pids_in(&t, "pids", 4);
    wait_for("the end of all workers", || pids.iter().all(|pid| gone(*pid)));
    running.kill();
    no_process_left(&t);
}

fn reap_02_a_host_that_exits_in_mid_run_leaves_nothing() {
    for how in ["exit=3", "_exit=3"] {
        let t = Case::new();
        let words = stubborn(&t);
        let verbs: Vec<&str> = words.iter().map(String::as_str).collect();
        let run = t
            .host()
            .set("local_world_size", 2)
            .probe(&verbs)
            .steps(&["start", &format!("await_lines={}:4", t.path("pids")), how])
            .run();
        assert_eq!(run.exit_code(), Some(3));
        no_process_left(&t);
    }
}

fn reap_05_the_thread_that_started_the_run_may_end() {
    for kind in Kind::ALL {
        let t = Case::new();
        let run = t
            .host()
            .set("local_world_size", 2)
            .set("max_restarts", 1)
            .worker(
                kind,
                &[
                    "append",
                    &t.path("ready.%a"),
                    "x",
                    "await",
                    &t.path("go"),
                    "attempt",
                    "0",
                    "code",
                    "1",
                    ";",
                    "code",
                    "0",
                ],
            )
            .steps(&["start_in_thread", "mark=thread_gone", "wait=60"])
            .spawn();
        run.wait_event("thread_gone");
        t.wait_lines("ready.0", 2);
        // The restart, too, comes from a thread that lives on.
        t.write("go", b"", 0o644);
        let run = run.finish();
        run.succeeded();
        assert_eq!(run.result()["restarts"], 1);
    }
}

fn no_growth(run: &Run) {
    run.clean();
    let (early, late) = (run.event("early"), run.event("late"));
    // The C library keeps the stacks and arenas of threads that have ended, more where a thread began before the
    // last one had quite gone.
    for (what, more) in [("fds", 2), ("threads", 2), ("children", 2), ("mappings", 20)] {
        let number = |event: &serde_json::Value| event[what].as_i64().expect("a number");
        assert!(number(late) <= number(early) + more, "{what} grow: {early} and {late}");
    }
    let kib = |event: &serde_json::Value| event["rss_kib"].as_i64().expect("a number");
    assert!(kib(late) < kib(early) + 4096, "memory grows from {} KiB to {} KiB", kib(early), kib(late));
}

fn reap_08_1000_runs_leave_nothing() {
    for kind in Kind::ALL {
        let t = Case::new();
        let host = t.host().worker(kind, &["code", "0"]).set("redirects", 3).set("log_dir", t.path("logs"));
        let run = host.step("repeat=500:new,run,free_agent").run();
        no_growth(&run);
        assert_eq!(run.event("repeated")["failed"], 0, "{run}");
    }
}

fn reap_08_1000_failing_starts_leave_nothing() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("its address").port();
    for (field, value, errno) in [
        ("program", "/nowhere/at/all".to_string(), libc::ENOENT),
        ("program", "/etc/passwd".to_string(), libc::EACCES),
        ("master_port", port.to_string(), libc::EADDRINUSE),
    ] {
        let t = Case::new();
        let host = t.host().set("local_world_size", 2).probe(&["exit", "0"]).set(field, value);
        let run = host.step("repeat=340:new,run,free_agent").limit(Duration::from_secs(100)).run();
        no_growth(&run);
        let ends = run.events("run");
        assert_eq!(ends.len(), 340);
        for end in ends {
            assert_eq!(end["result"]["end"], END_START_ERROR, "{end}");
            assert_eq!(end["result"]["errno"], errno, "{end}");
        }
    }
}

fn reap_09_statuses_of_the_hosts_children_stay_readable() {
    let t = Case::new();
    // Twenty runs while the host's own child ends: nobody may take its status.
    let run = t
        .host()
        .set("local_world_size", 3)
        .probe(&["exit", "0"])
        .steps(&["child=9", "repeat=60:new,run,free_agent", "sleep=0.2", "reap_child"])
        .run();
    assert_eq!(run.event("repeated")["failed"], 0, "{run}");
    assert_eq!(run.event("reap_child")["same"], 1);
    assert_eq!(run.event("reap_child")["code"], 9);
}

fn reap_09_a_host_that_takes_every_status() {
    let t = Case::new();
    let run = t
        .host()
        .set("local_world_size", 2)
        .probe(&["rank", "1", "exit", "3", ";", "exit", "0"])
        .steps(&["reap_any", "repeat=30:new,run,free_agent"])
        .run();
    // Some statuses are lost, and then it is said; none is made up.
    let ends = run.events("run");
    assert_eq!(ends.len(), 30, "a failed worker is never a success: {run}");
    for end in ends {
        let (result, worker) = (&end["result"], &end["result"]["workers"][1]);
        match result["end"].as_i64() {
            Some(1) => {
                assert!(worker["exit_code"] == 3 || worker["cause"] == CAUSE_STOPPED_BY_AGENT, "{end}")
            }
            Some(3) => assert!(
                result["workers"].as_array().expect("workers").iter().any(|w| w["outcome"] == OUTCOME_LOST),
                "{end}"
            ),
            _ => panic!("{end}"),
        }
    }
    t.nothing_left();
}

fn reap_10_a_host_that_ignores_sigchld() {
    for (step, code) in [("ignore=CHLD", 3), ("nowait", 3), ("ignore=CHLD", 0), ("nowait", 0)] {
        let t = Case::new();
        let run = t
            .host()
            .step(step)
            .set("local_world_size", 2)
            .probe(&["rank", "1", "exit", &code.to_string(), ";", "sleep", "0.05", "exit", "0"])
            .run();
        let event = run.event("run");
        if event["status"] == "ICE_ERROR_STATE" {
            assert!(event["message"].as_str().is_some_and(|text| text.contains("SIGCHLD")), "{event}");
            run.clean();
        } else if code == 0 {
            run.succeeded();
        } else {
            run.failed_as(END_WORKER_FAILURE);
            assert_eq!(run.result()["root_cause"]["exit_code"], code);
        }
    }
}

/// icerun as pid 1 of a namespace, and its pid out here.
fn as_pid_1(t: &Case, options: &[&str], verbs: &[&str]) -> (Started, i32) {
    let running =
        tool(t, options).probe(verbs).under(&["unshare", "--pid", "--fork", "--mount-proc"]).spawn();
    let mut inner = 0;
    wait_for("the first process of the namespace", || {
        inner = children(running.pid()).first().copied().unwrap_or(0);
        inner != 0
    });
    (running, inner)
}

fn reap_12_pid_1_reaps_orphans_and_passes_the_exit_code() {
    let t = Case::new();
    let (running, first) = as_pid_1(
        &t,
        &["--nproc-per-node", "2"],
        &[
            "daemon",
            "close_stdio",
            "sleep",
            "0.05",
            "touch",
            &t.path("orphan.%r"),
            ";",
            "append",
            &t.path("ready"),
            "x",
            "await",
            &t.path("go"),
            "rank",
            "1",
            "exit",
            "7",
            ";",
            "exit",
            "0",
        ],
    );
    t.wait_lines("ready", 2);
    t.wait_file("orphan.0");
    t.wait_file("orphan.1");
    wait_for("the orphans to be reaped", || children(first).iter().all(|pid| state(*pid) != Some('Z')));
    t.write("go", b"", 0o644);
    running.finish().exited(7);
    t.nothing_left();
}

fn reap_12_pid_1_hears_sigterm() {
    let t = Case::new();
    let (running, first) = as_pid_1(
        &t,
        &["--nproc-per-node", "2", "--shutdown-timeout", "5"],
        &[
            "count",
            "TERM",
            &t.path("seen.%r"),
            "append",
            &t.path("ready"),
            "x",
            "await_lines",
            &t.path("seen.%r"),
            "1",
            "exit",
            "0",
        ],
    );
    t.wait_lines("ready", 2);
    assert!(send(first, libc::SIGTERM));
    running.finish().exited(128 + libc::SIGTERM);
    for rank in 0..2 {
        assert_eq!(t.lines(&format!("seen.{rank}")).len(), 1);
    }
    t.nothing_left();
}

fn reap_13_orphans_of_a_subreaper_are_no_workers() {
    let t = Case::new();
    let mut verbs = Vec::new();
    for _ in 0..100 {
        verbs.extend(["daemon", "close_stdio", "_exit", "9", ";"]);
    }
    verbs.extend(["sleep", "0.1", "exit", "0"]);
    let run = t.host().step("subreaper").probe(&verbs).run();
    assert!(run.status.success(), "{run}");
    assert_eq!(run.result()["end"], END_SUCCEEDED, "{run}");
    t.nothing_left();
}

fn reap_13_zombie_orphans_do_not_delay_the_end() {
    let t = Case::new();
    // The host adopts what its workers leave and does not reap it, as many a pid 1 of a container: their zombies
    // stay in the workers' groups, where nothing is left to wait for.
    let run = t
        .host()
        .step("subreaper")
        .set("max_restarts", 2)
        .set("log_callback", t.path("log"))
        .probe(&[
            "child",
            "append",
            &t.path("ready.%a"),
            "x",
            "pause",
            ";",
            "await_lines",
            &t.path("ready.%a"),
            "1",
            "exit",
            "3",
        ])
        .run();
    assert!(run.status.success(), "{run}");
    assert_eq!(run.result()["root_cause"]["exit_code"], 3);
    assert_eq!(run.result()["restarts"], 2);
    let log = t.lines("log");
    assert!(!log.iter().any(|line| line.contains("still there")), "zombies are nobody to warn of: {log:?}");
    let (before, end) = (run.event("before")["t"].as_i64(), run.event("run")["t"].as_i64());
    let took = (end.expect("a time") - before.expect("a time")) as f64 / 1e9;
    assert!(took < 1.0, "three short attempts took {took} s");
    t.nothing_left();
}

fn watcher_of(pid: i32) -> Option<i32> {
    let name = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    children(pid).into_iter().find(|pid| name(pid).trim() == "ice-watcher")
}

fn reap_06_a_killed_watcher_is_replaced() {
    let t = Case::new();
    let words = stubborn(&t);
    let verbs: Vec<&str> = words.iter().map(String::as_str).collect();
    let running = t.host().set("local_world_size", 2).probe(&verbs).spawn();
    let pids = pids_in(&t, "pids", 4);
    // It starts beside the workers, and they may be there first.
    wait_for("a watcher", || watcher_of(running.pid()).is_some());
    let first = watcher_of(running.pid()).expect("a watcher");
    // SIGTERM of somebody is nothing to it, SIGKILL brings another one.
    assert!(send(first, libc::SIGTERM));
    assert!(send(first, libc::SIGKILL));
    wait_for("another watcher", || watcher_of(running.pid()).is_some_and(|pid| pid != first && alive(pid)));
    assert!(pids.iter().all(|pid| alive(*pid)));
    running.kill();
    wait_for("the end of workers and their children", || pids.iter().all(|pid| gone(*pid)));
    no_process_left(&t);
}

fn reap_14_reused_pids_are_nobodys_worker() {
    let t = Case::new();
    // A namespace of few pids, where strangers come and go all the time: what hits one of them by mistake is told
    // in `hit`. Exit codes of workers must be their own.
    t.write(
        "strangers",
        format!(
            "#!/bin/sh\n\
             echo 400 > /proc/sys/kernel/pid_max || exit 99\n\
             strangers() {{ while [ ! -e {done} ]; do /bin/sleep 0.002 || echo \"hit $?\" >> {hit}; done; }}\n\
             for i in 1 2 3 4; do strangers & done\n\
             \"$@\"\n\
             code=$?\n\
             touch {done}\n\
             wait\n\
             exit $code\n",
            done = t.path("done"),
            hit = t.path("hit"),
        )
        .as_bytes(),
        0o755,
    );
    let run = t
        .host()
        .under(&["unshare", "--pid", "--fork", "--mount-proc", &t.path("strangers")])
        .set("local_world_size", 4)
        .set("shutdown_timeout", 0.2)
        .probe(&[
            "child", "pause", ";", "rank", "2", "exit", "42", ";", "rank", "1", "exit", "0", ";", "rank",
            "0", "ignore", "TERM", "pause", ";", "pause",
        ])
        .step("repeat=40:new,run,free_agent")
        .run();
    assert!(run.status.success(), "{run}");
    assert_eq!(t.read("done"), "");
    assert_eq!(t.lines("hit"), Vec::<String>::new(), "a signal reached a stranger");
    let ends = run.events("run");
    assert_eq!(ends.len(), 40);
    let mut highest = 0;
    for end in ends {
        assert_eq!(end["result"]["root_cause"]["exit_code"], 42, "{end}");
        assert_eq!(end["result"]["root_cause"]["global_rank"], 2, "{end}");
        highest = highest.max(end["result"]["root_cause"]["pid"].as_i64().unwrap_or(0));
    }
    assert!(highest < 400, "the test needs few pids");
    t.nothing_left();
}

/// A memory cgroup of version 1 with a limit, removed at the end.
struct MemoryGroup(PathBuf);

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

fn reap_16_an_oom_kill_is_told() {
    let t = Case::new();
    let group =
        MemoryGroup(PathBuf::from(format!("/sys/fs/cgroup/memory/libice-test-{}", std::process::id())));
    fs::create_dir(&group.0).expect("a memory group");
    fs::write(group.0.join("memory.limit_in_bytes"), "100M").expect("a limit");
    // Where swap is accounted it must not help.
    let _ = fs::write(group.0.join("memory.memsw.limit_in_bytes"), "100M");
    let _ = fs::write(group.0.join("memory.swappiness"), "0");
    t.write(
        "enter",
        format!("#!/bin/sh\necho $$ > {}/cgroup.procs\nexec \"$@\"\n", group.0.display()).as_bytes(),
        0o755,
    );
    let host = || t.host().under(&[&t.path("enter")]).set("local_world_size", 2);
    let run = host().probe(&["rank", "1", "sleep", "0.2", "memory", "300", ";", "pause"]).run();
    run.failed_as(END_WORKER_FAILURE);
    let root = &run.result()["root_cause"];
    assert_eq!(root["global_rank"], 1);
    assert_eq!(root["signal"], libc::SIGKILL);
    assert_eq!(root["likely_oom"], 1, "{run}");
    assert!(
        root["message"]
            .as_str()
            .is_some_and(|text| text.to_lowercase().contains("out of memory") || text.contains("OOM")),
        "{root}"
    );
    // At once, too, while the agent may still be starting others.
    let run = host().set("local_world_size", 40).probe(&["rank", "0", "memory", "300", ";", "pause"]).run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(run.result()["root_cause"]["likely_oom"], 1, "{run}");
    // A kill by somebody else is not one.
    let run = host().probe(&["rank", "1", "kill", "KILL", ";", "pause"]).run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(run.result()["root_cause"]["likely_oom"], 0, "{run}");
}

pub fn tests() -> Vec<Trial> {
    tests![
        reap_01_no_zombie_after_any_end,
        reap_02_workers_die_with_a_killed_agent,
        reap_02_900_kills_at_random_moments_leave_nothing,
        reap_02_workers_die_when_the_host_becomes_another_program,
        reap_02_a_host_that_exits_in_mid_run_leaves_nothing,
        reap_05_the_thread_that_started_the_run_may_end,
        reap_08_1000_runs_leave_nothing,
        reap_08_1000_failing_starts_leave_nothing,
        reap_09_statuses_of_the_hosts_children_stay_readable,
        reap_09_a_host_that_takes_every_status,
        reap_10_a_host_that_ignores_sigchld,
        needs(root, unshare_pid): reap_12_pid_1_reaps_orphans_and_passes_the_exit_code,
        needs(root, unshare_pid): reap_12_pid_1_hears_sigterm,
        reap_13_orphans_of_a_subreaper_are_no_workers,
        reap_13_zombie_orphans_do_not_delay_the_end,
        reap_06_a_killed_watcher_is_replaced,
        needs(root, unshare_pid, own_pid_max): reap_14_reused_pids_are_nobodys_worker,
        needs(root, memory_group): reap_16_an_oom_kill_is_told,
    ]
}
