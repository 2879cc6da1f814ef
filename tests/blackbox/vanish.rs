//! Area RST: what a run stands on is taken away meanwhile, for a moment or for good: its directory, the program of
//! its workers, their port, room for a process.

use std::fs;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use libtest_mimic::Trial;

use crate::harness::*;
use crate::tool::*;
use crate::{tests, tests_by_way};

pub fn tests() -> Vec<Trial> {
    let mut all = tests![
        log_a_run_directory_that_vanishes_is_made_again,
        log_a_directory_that_is_gone_is_not_named,
        log_workers_run_without_files_where_none_can_be_made,
        needs(root): log_a_strangers_directory_is_not_used,
        needs(root, unshare_mount): log_a_disk_that_is_full_for_a_moment,
        log_a_directory_that_vanishes_while_workers_are_born,
        log_the_run_directory_is_locked,
        rst_06_a_program_that_is_missing_for_a_moment,
        rst_06_a_port_that_is_taken_for_a_moment,
        rst_06_what_runs_out_once_is_no_end,
        rst_06_a_stop_ends_the_wait_for_a_program,
    ];
    all.extend(tests_by_way![[Way::SpawnOfLibrary, Way::ForkserverOfLibrary]; rst_06_a_library_that_is_missing_for_a_moment]);
    all
}

/// A shell as the worker; `$F` is its error file, `$D` the run directory, `$N` the number of the restart.
fn shell<'a>(host: Host<'a>, flat: bool, script: &str) -> Host<'a> {
    let up = if flat { "" } else { "/../.." };
    let script = format!(
        "F=$TORCHELASTIC_ERROR_FILE; D=$(realpath -m $(dirname $F){up}); N=$TORCHELASTIC_RESTART_COUNT; {script}"
    );
    host.set("program", "/bin/sh").set("arg", "-c").set("arg", script)
}

#[track_caller]
fn told(t: &Case, part: &str) {
    let log = t.lines("log");
    assert!(log.iter().any(|line| line.starts_with("2 ") && line.contains(part)), "{part}: {log:?}");
}

fn log_a_run_directory_that_vanishes_is_made_again() {
    // With what it is in, too, where the host has named that.
    for (flat, gone) in [(true, "$D"), (false, "$D"), (false, "$D/..")] {
        let t = Case::new();
        let host = t.host().set("max_restarts", 1).set("log_callback", t.path("log"));
        let host = if flat { host } else { host.set("log_dir", t.path("logs")).set("redirects", 3) };
        let script = format!(
            "case $N in 0) rm -r $(realpath {gone}); exit 1;; esac; echo out; echo {{}} > $F && echo $D > {}; exit 7",
            t.path("dir")
        );
        let run = shell(host, flat, &script).run();
        assert_eq!(run.result()["end"], END_WORKER_FAILURE, "{run}");
        assert_eq!(run.result()["root_cause"]["exit_code"], 7);
        assert_ne!(run.result()["root_cause"]["error_file"], "", "it was read: {run}");
        assert_eq!(t.lines("dir"), [text(&run.result()["run_dir"])]);
        told(&t, "was removed by somebody: made again");
        if !flat {
            let log = text(&run.worker(0)["stdout_log"]);
            assert_eq!(fs::read_to_string(log).unwrap(), "out\n");
        }
    }
}

fn log_a_directory_that_is_gone_is_not_named() {
    for flat in [true, false] {
        let t = Case::new();
        let host = if flat { t.host() } else { t.host().set("log_dir", t.path("logs")).set("redirects", 3) };
        let run = shell(host, flat, "rm -r $D; exit 3").run();
        run.failed_as(END_WORKER_FAILURE);
        assert_eq!(run.result()["run_dir"], "");
        assert!(!text(&run.result()["summary"]).contains("files:"), "{run}");
    }
}

fn log_workers_run_without_files_where_none_can_be_made() {
    let t = Case::new();
    let host = t.host().set("max_restarts", 1).set("local_world_size", 2).set("log_callback", t.path("log"));
    let host = host.set("log_dir", t.path("logs")).set("redirects", 3);
    let script = format!(
        // Nothing may be made there any more when it goes.
        "case $N.$LOCAL_RANK in
           0.0) until [ -e {2} ]; do sleep 0.02; done; rm -r {0}; touch {0}; exit 1;;
           0.*) touch {2}; sleep 60;;
         esac; echo lost; echo .$F >> {1}",
        t.path("logs"),
        t.path("error_file"),
        t.path("all_run"),
    );
    let run = shell(host, false, &script).run();
    run.succeeded();
    assert_eq!(run.result()["restarts"], 1);
    assert_eq!(t.lines("error_file"), [".", "."]);
    assert_eq!((run.result()["run_dir"].as_str(), run.out().as_str()), (Some(""), ""));
    told(&t, "workers of this attempt have no error files");
}

fn log_a_strangers_directory_is_not_used() {
    for make in ["mkdir $D; chown 1 $D", "mkdir $D.2; ln -s $D.2 $D"] {
        let t = Case::new();
        let host = t.host().set("max_restarts", 1).set("log_callback", t.path("log"));
        let host = host.set("log_dir", t.path("logs")).set("redirects", 3);
        let script =
            format!("case $N in 0) rm -r $D; {make}; exit 1;; esac; echo .$F > {}", t.path("error_file"));
        shell(host, false, &script).run().succeeded();
        assert_eq!(t.lines("error_file"), ["."], "{make}");
        told(&t, "workers of this attempt have no error files");
    }
}

fn log_a_disk_that_is_full_for_a_moment() {
    let t = Case::new();
    fs::create_dir(t.dir.join("disk")).unwrap();
    let mount = format!("mount -t tmpfs -o nr_inodes=20 none {} || exit 99; exec \"$@\"", t.path("disk"));
    let small = t.write("small", format!("#!/bin/sh\n{mount}\n").as_bytes(), 0o755);
    let host = t.host().under(&["unshare", "--mount", &small]).set("max_restarts", 5);
    let host =
        host.set("log_dir", t.path("disk/logs")).set("redirects", 3).set("log_callback", t.path("log"));
    let script = format!(
        "case $N in 0) i=0; while touch $D/../$i 2>/dev/null; do i=$((i + 1)); done; exit 1;; esac;
         echo out; cp $D/attempt_$N/0/stdout.log {}",
        t.path("copy")
    );
    let running = shell(host, false, &script).spawn();
    wait_for("a full disk", || t.lines("log").iter().any(|line| line.contains("ENOSPC")));
    // Somebody makes room, in the mount namespace of the run.
    let logs = format!("/proc/{}/root{}", running.pid(), t.path("disk/logs"));
    for entry in fs::read_dir(logs).unwrap().flatten() {
        let _ = fs::remove_file(entry.path());
    }
    let run = running.finish();
    run.succeeded();
    assert_eq!(t.read("copy"), "out\n");
    let failures = run.result()["failures"].as_array().unwrap();
    assert_eq!(failures.len() as i64, run.result()["restarts"].as_i64().unwrap());
    assert!(text(&failures[1]["message"]).contains("ENOSPC"), "{run}");
    assert_eq!(run.result()["errno"], 0);
}

fn log_a_directory_that_vanishes_while_workers_are_born() {
    for round in 0..20 {
        let flat = round % 2 == 0;
        let t = Case::new();
        let host = t.host().set("local_world_size", 6);
        let host = if flat { host } else { host.set("log_dir", t.path("logs")).set("redirects", 3) };
        let script = format!("[ $LOCAL_RANK = 0 ] && mv $D {}; :", t.path("away"));
        let run = shell(host, flat, &script).run();
        assert_eq!(run.result()["end"], END_SUCCEEDED, "{run}");
    }
}

/// systemd-tmpfiles tries the same.
fn can_be_locked(dir: &Path) -> bool {
    let file = fs::File::open(dir).unwrap();
    // SAFETY: plain numbers.
    unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) == 0 }
}

fn log_the_run_directory_is_locked() {
    for kind in Kind::ALL {
        let t = Case::new();
        let host = t.host().set("log_dir", t.path("logs")).set("max_restarts", 1);
        let verbs =
            ["append", &t.path("ready"), "%p", "await", &t.path("go.%a"), "attempt", "0", "exit", "1", ";"];
        let running = host.worker(kind, &verbs).spawn();
        for attempt in 0..2 {
            let pids = t.wait_lines("ready", attempt + 1);
            let dir = only_run_dir(&t.dir.join("logs"));
            assert!(!can_be_locked(&dir), "{kind:?}");
            let pid: i32 = pids[attempt].parse().unwrap();
            let held = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
            let held: Vec<PathBuf> = held.filter_map(|fd| fs::read_link(fd.path()).ok()).collect();
            assert!(!held.contains(&dir), "{kind:?}: {held:?}");
            t.touch(&format!("go.{attempt}"));
        }
        running.finish().succeeded();
    }
}

/// The worker is a copy of the probe that is away when the restart wants it.
fn rst_06_a_program_that_is_missing_for_a_moment() {
    let t = Case::new();
    let copy = t.path("copy");
    fs::copy(probe(), &copy).unwrap();
    let host = t.host().set("max_restarts", 9).set("program", &copy).set("log_callback", t.path("log"));
    let verbs = ["touch", &t.path("ready"), "await", &t.path("go"), "attempt", "0", "exit", "1", ";"];
    let running = verbs.iter().fold(host, |host, verb| host.set("arg", verb)).spawn();
    t.wait_file("ready");
    fs::rename(&copy, t.path("away")).unwrap();
    t.touch("go");
    wait_for("a warning", || t.lines("log").iter().any(|line| line.contains("cannot start")));
    fs::rename(t.path("away"), &copy).unwrap();
    let run = running.finish();
    run.succeeded();
    let failures = run.result()["failures"].as_array().unwrap();
    assert_eq!(failures.len() as i64, run.result()["restarts"].as_i64().unwrap());
    let message = text(&failures[1]["message"]);
    assert!(message.contains(&copy) && message.contains("ENOENT"), "{message}");
    assert_eq!((&failures[1]["pid"], &failures[1]["attempt"]), (&0.into(), &1.into()));
    assert_eq!(run.result()["errno"], 0);
    told(&t, "attempt 1 failed: rank 0 (local rank 0): cannot start");
}

fn rst_06_a_library_that_is_missing_for_a_moment(way: Way) {
    let t = Case::new();
    let copy = t.path("libcopy.so");
    fs::copy(program("libverbs.so"), &copy).unwrap();
    let host = t.host().set("max_restarts", 9).set("log_callback", t.path("log")).set("library", &copy);
    let host = host.set("function", "verbs").set("start_method", way.method());
    // Its parent is the fork server, if there is one: the next attempt needs another.
    let verbs = ["touch", &t.path("ready"), "await", &t.path("go"), "attempt", "0"];
    let end: &[&str] =
        if way.has_server() { &["exec", "sh", "-c", "kill -9 $PPID", ";"] } else { &["exit", "1", ";"] };
    let running = verbs.iter().chain(end).fold(host, |host, verb| host.set("verb", verb)).spawn();
    t.wait_file("ready");
    fs::rename(&copy, t.path("away")).unwrap();
    t.touch("go");
    wait_for("a warning", || t.lines("log").iter().any(|line| line.contains("attempt 1 failed")));
    fs::rename(t.path("away"), &copy).unwrap();
    let run = running.finish();
    run.succeeded();
    let failures = run.result()["failures"].as_array().unwrap();
    assert_eq!(
        failures.len() as i64,
        run.result()["restarts"].as_i64().unwrap(),
        "{run} {:?}",
        t.lines("log")
    );
    assert!(text(&failures[1]["message"]).contains("libcopy.so"), "{run}");
}

fn rst_06_a_port_that_is_taken_for_a_moment() {
    let t = Case::new();
    let port = free_port();
    let host = t.host().set("max_restarts", 9).set("master_port", port).set("log_callback", t.path("log"));
    let verbs = ["touch", &t.path("ready"), "await", &t.path("go"), "attempt", "0", "exit", "1", ";"];
    let running = host.probe(&verbs).spawn();
    t.wait_file("ready");
    // As rank 0 would: the agent's own socket there does not listen.
    let taken = TcpListener::bind(("0.0.0.0", port)).unwrap();
    t.touch("go");
    wait_for("a warning", || t.lines("log").iter().any(|line| line.contains("EADDRINUSE")));
    drop(taken);
    let run = running.finish();
    run.succeeded();
    assert!(text(&run.result()["failures"][1]["message"]).contains(&port.to_string()), "{run}");
}

/// Each of these calls fails once, in the first attempt or at the restart.
fn rst_06_what_runs_out_once_is_no_end() {
    let faults = [("clone", libc::EAGAIN), ("mmap", libc::ENOMEM), ("bind", libc::EADDRINUSE)];
    let mut restarted = 0;
    for (call, errno) in faults {
        for number in 1..=8 {
            let t = Case::new();
            let armed = format!("setenv=FAULT={call}:{number}:{errno}");
            let host = t.host().set("max_restarts", 3).set("restart_backoff", "0.01,0.01").set("control", 1);
            let host = host.env("LD_PRELOAD", program("faults").to_str().unwrap());
            let host = host.probe(&["attempt", "0", "exit", "1", ";"]);
            let run = host.steps(&[&armed, "new", "start", "wait=30", "free_agent", "unsetenv=FAULT"]).run();
            if run.events("start").iter().chain(&run.events("new")).any(|line| line["status"] != "ICE_OK") {
                continue;
            }
            let result = &run.event("wait")["result"];
            match result["end"].as_i64().unwrap() as i32 {
                END_START_ERROR => assert_eq!(result["restarts"], 0),
                end => {
                    assert_eq!(end, END_SUCCEEDED, "{call} {number}: {run}");
                    restarted += i32::from(result["restarts"] == 2);
                }
            }
        }
    }
    assert!(restarted > 1, "{restarted} of these runs were restarted for it");
}

fn rst_06_a_stop_ends_the_wait_for_a_program() {
    let t = Case::new();
    let copy = t.write("once", b"#!/bin/sh\nrm \"$0\"\nexit 4\n", 0o755);
    let agent = tool(&t, &["--max-restarts", "9", "--no-python", &copy]).spawn();
    // The next one comes two seconds later, the one after that four.
    agent.says_times("cannot start", 6);
    let begin = std::time::Instant::now();
    agent.signal(libc::SIGTERM);
    let ended = agent.finish();
    assert!(!ended.status.success());
    assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    t.nothing_left();
}
