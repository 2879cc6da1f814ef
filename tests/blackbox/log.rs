//! Area LOG: files, the console, and what may go wrong with both.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use libtest_mimic::Trial;

use crate::harness::*;
use crate::tests;
use crate::tool::*;

/// The two ends of a pipe: reader, writer.
fn pipe() -> (fs::File, OwnedFd) {
    let mut fds = [0; 2];
    // SAFETY: two descriptors are written, and owned from here on.
    unsafe {
        assert_eq!(libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC), 0);
        (fs::File::from(OwnedFd::from_raw_fd(fds[0])), OwnedFd::from_raw_fd(fds[1]))
    }
}

fn log_01_files_hold_the_workers_bytes() {
    for callback in [false, true] {
        let t = Case::new();
        let run = t
            .host()
            .set("local_world_size", 2)
            .set("redirects", 3)
            .set("log_dir", t.path("logs"))
            .set("run_id", "job")
            .worker(
                callback,
                &[
                    "write",
                    "1",
                    "out %r\\n\\xff\\xfe\\0end",
                    "write",
                    "2",
                    "err %r\\n",
                    "out",
                    "1",
                    "100000",
                    "777",
                ],
            )
            .run();
        run.succeeded();
        assert_eq!((run.out(), run.err()), (String::new(), String::new()), "nothing goes to the console");
        let dir = only_run_dir(&t.dir.join("logs"));
        assert!(dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with("job_")), "{dir:?}");
        assert_eq!(run.result()["run_dir"], dir.to_str().expect("a path"));
        for rank in 0..2 {
            let file = |name: &str| dir.join("attempt_0").join(rank.to_string()).join(name);
            let out = fs::read(file("stdout.log")).expect("stdout.log");
            let start = [format!("out {rank}\n").as_bytes(), b"\xff\xfe\0end"].concat();
            assert!(out.starts_with(&start));
            assert_eq!(out.len(), start.len() + 100_000);
            assert_eq!(fs::read(file("stderr.log")).expect("stderr.log"), format!("err {rank}\n").as_bytes());
            assert_eq!(run.worker(rank)["stdout_log"], file("stdout.log").to_str().expect("a path"));
            assert_eq!(run.worker(rank)["stderr_log"], file("stderr.log").to_str().expect("a path"));
        }
    }
}

fn log_02_only_the_named_ranks_have_files() {
    let t = Case::new();
    let run = t
        .host()
        .set("local_world_size", 2)
        .set("redirects", "0:3")
        .set("log_dir", t.path("logs"))
        .probe(&["print", "rank %r"])
        .run();
    run.succeeded();
    assert_eq!(run.out(), "rank 1\n");
    let first = text(&run.worker(0)["stdout_log"]);
    assert_eq!(fs::read_to_string(first).expect("rank 0's file"), "rank 0\n");
    assert_eq!(run.worker(1)["stdout_log"], "");
    assert_eq!(run.worker(1)["stderr_log"], "");
    let files = fs::read_dir(Path::new(&text(&run.result()["run_dir"])).join("attempt_0/1"));
    assert_eq!(files.into_iter().flatten().count(), 0);
}

fn log_04_each_attempt_has_its_own_files() {
    let t = Case::new();
    let run = t
        .host()
        .set("max_restarts", 2)
        .set("redirects", 3)
        .set("log_dir", t.path("logs"))
        .probe(&["print", "attempt %a", "until_attempt", "2", "exit", "1", ";"])
        .run();
    run.succeeded();
    let dir = only_run_dir(&t.dir.join("logs"));
    for attempt in 0..3 {
        let file = dir.join(format!("attempt_{attempt}/0/stdout.log"));
        assert_eq!(fs::read_to_string(file).expect("a log"), format!("attempt {attempt}\n"));
    }
}

fn log_06_two_runs_have_two_directories() {
    let t = Case::new();
    let runs: Vec<Running> = (0..4)
        .map(|_| {
            t.host()
                .set("redirects", 1)
                .set("log_dir", t.path("logs"))
                .set("run_id", "same")
                .probe(&[
                    "append",
                    &t.path("ready"),
                    "x",
                    "await_lines",
                    &t.path("ready"),
                    "4",
                    "print",
                    "%p",
                ])
                .spawn()
        })
        .collect();
    let mut dirs: Vec<String> = Vec::new();
    for running in runs {
        let run = running.finish();
        assert_eq!(run.result()["end"], END_SUCCEEDED);
        let log = fs::read_to_string(text(&run.worker(0)["stdout_log"])).expect("the log");
        assert_eq!(log.trim(), run.worker(0)["pid"].to_string());
        dirs.push(text(&run.result()["run_dir"]));
    }
    dirs.sort();
    dirs.dedup();
    assert_eq!(dirs.len(), 4);
}

/// A small file system of its own, for processes that run under it.
pub fn on_a_small_disk(t: &Case, size: &str) -> String {
    fs::create_dir(t.dir.join("disk")).expect("a mount point");
    t.write(
        "small",
        format!("#!/bin/sh\nmount -t tmpfs -o size={size} none {} || exit 99\nexec \"$@\"\n", t.path("disk"))
            .as_bytes(),
        0o755,
    )
}

fn log_08_a_full_disk_is_the_workers_matter() {
    let t = Case::new();
    let small = on_a_small_disk(&t, "256k");
    let run = t
        .host()
        .under(&["unshare", "--mount", &small])
        .set("local_world_size", 2)
        .set("log_callback", t.path("log"))
        .set("redirects", 3)
        .set("tee", "0:3")
        .set("log_dir", t.path("disk/logs"))
        // Rank 0 fills the disk, and its own write fails; it says with its exit code what it thinks of that.
        .probe(&["rank", "0", "out", "1", "1000000", "4096", ";", "exit", "0"])
        .run();
    assert!(run.status.success(), "the host survives: {run}");
    assert_eq!(run.result()["end"], END_SUCCEEDED, "the exit codes decide: {run}");
    // What is in the file reaches the console.
    assert!(run.stdout.len() > 100_000, "{} bytes on the console", run.stdout.len());
    t.nothing_left();
}

fn log_08_no_directory_on_a_full_disk_is_a_start_error() {
    let t = Case::new();
    let run = t.host().set("redirects", 3).set("log_dir", "/proc/nowhere").probe(&["exit", "0"]).run();
    run.failed_as(END_START_ERROR);
    assert!(text(&run.result()["message"]).contains("/proc/nowhere"), "{run}");
    assert_ne!(run.result()["errno"], 0);
}

fn log_08_stdout_is_dev_full() {
    for tee in [0, 3] {
        let t = Case::new();
        let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let run = t
            .host()
            .stdout(full.into())
            .set("local_world_size", 2)
            .set("tee", tee)
            .set("log_dir", t.path("logs"))
            .set("log_callback", t.path("log"))
            .probe(&[
                "lines",
                "1",
                "1000",
                "text",
                "write",
                "2",
                "to stderr\\n",
                "append",
                &t.path("done"),
                "x",
                "await_lines",
                &t.path("done"),
                "2",
                "rank",
                "1",
                "exit",
                "4",
                ";",
            ])
            .run();
        run.failed_as(END_WORKER_FAILURE);
        assert_eq!(run.result()["root_cause"]["exit_code"], 4);
        if tee == 3 {
            for rank in 0..2 {
                let log = fs::read_to_string(text(&run.worker(rank)["stdout_log"])).expect("a log");
                assert_eq!(log.lines().count(), 1000);
            }
            let warnings = t
                .lines("log")
                .iter()
                .filter(|line| line.starts_with("2 ") && line.contains("stdout"))
                .count();
            assert!(warnings <= 1, "{:?}", t.lines("log"));
            assert!(run.err().contains("to stderr"), "the other stream goes on");
        }
    }
}

fn log_09_a_full_disk_does_not_hold_workers_up() {
    let t = Case::new();
    let small = on_a_small_disk(&t, "1m");
    // The filtered file is on the full disk; the worker's own file too. Another worker has to finish all the same.
    let run = t
        .host()
        .under(&["unshare", "--mount", &small])
        .set("local_world_size", 2)
        .set("log_callback", t.path("log"))
        .set("redirects", 3)
        .set("duplicate_stdout_filters", "0,1,2,3")
        .set("log_dir", t.path("disk/logs"))
        .probe(&[
            "rank",
            "0",
            "out",
            "1",
            "3000000",
            "4096",
            ";",
            "append",
            &t.path("done"),
            "%r",
            "exit",
            "0",
        ])
        .run();
    assert!(run.status.success(), "{run}");
    assert_eq!(run.result()["end"], END_SUCCEEDED, "{run}");
    assert_eq!(t.lines("done").len(), 2);
    let warnings: Vec<_> = t.lines("log").into_iter().filter(|line| line.starts_with("2 ")).collect();
    assert!(warnings.len() <= 2, "{warnings:?}");
    t.nothing_left();
}

fn log_10_every_line_is_whole_and_once() {
    let t = Case::new();
    let run = t
        .host()
        .set("local_world_size", 32)
        .set("tee", 3)
        .set("log_dir", t.path("logs"))
        .probe(&["lines", "1", "1000", "o", "lines", "2", "100", "e"])
        .run();
    run.succeeded();
    for (bytes, word, count) in [(run.out(), 'o', 1000), (run.err(), 'e', 100)] {
        let mut next: HashMap<String, usize> = HashMap::new();
        for line in bytes.lines() {
            let (prefix, rest) = line.split_once(']').unwrap_or_else(|| panic!("no prefix: {line}"));
            let rank = prefix.strip_prefix("[default").unwrap_or_else(|| panic!("no prefix: {line}"));
            let number = next.entry(rank.to_string()).or_default();
            assert_eq!(rest, format!(":{word} r{rank} {number}"), "{line}");
            *number += 1;
        }
        assert_eq!(next.len(), 32);
        assert!(next.values().all(|seen| *seen == count), "{next:?}");
    }
}

fn log_12_a_line_in_two_parts_is_one_line() {
    let t = Case::new();
    let running = t
        .host()
        .set("tee", 3)
        .probe(&[
            "write",
            "1",
            "part",
            "touch",
            &t.path("half"),
            "await",
            &t.path("go"),
            "write",
            "1",
            "ial\\n",
        ])
        .spawn();
    t.wait_file("half");
    std::thread::sleep(Duration::from_millis(500));
    t.write("go", b"", 0o644);
    let run = running.finish();
    assert_eq!(run.result()["end"], END_SUCCEEDED);
    assert_eq!(run.out(), "[default0]:partial\n");
}

fn log_13_bytes_are_not_changed() {
    let t = Case::new();
    let run = t
        .host()
        .set("tee", 3)
        .set("log_dir", t.path("logs"))
        .probe(&["write", "1", "\\xff\\xfe \\0 a\\r\\nlone\\rcr\\n\\nlast"])
        .run();
    run.succeeded();
    let bytes = b"\xff\xfe \0 a\r\nlone\rcr\n\nlast";
    assert_eq!(fs::read(text(&run.worker(0)["stdout_log"])).expect("the log"), bytes);
    assert_eq!(
        run.stdout,
        b"[default0]:\xff\xfe \0 a\r\n[default0]:lone\rcr\n[default0]:\n[default0]:last\n",
        "{:?}",
        run.out()
    );
}

fn log_13_a_very_long_line_is_whole() {
    let t = Case::new();
    let size = 3_000_000;
    let run = t
        .host()
        .set("tee", 1)
        .set("log_dir", t.path("logs"))
        .probe(&["exec", "sh", "-c", &format!("head -c {size} /dev/zero | tr '\\0' x; echo; echo short")])
        .run();
    run.succeeded();
    let out = run.out();
    let lines: Vec<_> = out.lines().collect();
    assert_eq!(lines.len(), 2, "lengths {:?}", lines.iter().map(|line| line.len()).collect::<Vec<_>>());
    assert_eq!(lines[0].len(), "[default0]:".len() + size);
    assert_eq!(lines[1], "[default0]:short");
}

fn log_14_a_progress_bar_is_seen_while_it_moves() {
    let t = Case::new();
    let (mut console, writer) = pipe();
    let running = t
        .host()
        .stdout(writer.into())
        .set("tee", 1)
        .probe(&[
            "write",
            "1",
            "\\r10%%",
            "await",
            &t.path("a"),
            "write",
            "1",
            "\\r20%%",
            "await",
            &t.path("b"),
            "write",
            "1",
            "\\n",
        ])
        .spawn();
    let mut seen = Vec::new();
    let mut read_until = |end: &[u8]| {
        let mut byte = [0];
        while !seen.ends_with(end) {
            assert_eq!(console.read(&mut byte).expect("read"), 1, "the console ended: {seen:?}");
            seen.push(byte[0]);
        }
    };
    // Each piece has to come before the next is written, and without a newline.
    read_until(b"\r10%");
    t.write("a", b"", 0o644);
    read_until(b"\r20%");
    t.write("b", b"", 0o644);
    read_until(b"\n");
    let run = running.finish();
    assert_eq!(run.result()["end"], END_SUCCEEDED);
    assert_eq!(String::from_utf8_lossy(&seen), "[default0]:\r10%\r20%\n");
}

fn log_16_the_last_line_is_never_lost() {
    for callback in [false, true] {
        let t = Case::new();
        let run = t
            .host()
            .set("tee", 3)
            .set("local_world_size", 2)
            .worker(
                callback,
                &["write", "2", "e", "write", "1", "last line\\n", "write", "1", "and rest", "code", "0"],
            )
            .set("log_dir", t.path("logs"))
            .step("repeat=250:new,run,free_agent")
            .run();
        run.clean();
        let out = run.out();
        for rank in 0..2 {
            let lines = format!("[default{rank}]:last line");
            let rests = format!("[default{rank}]:and rest");
            assert_eq!(out.lines().filter(|line| *line == lines).count(), 250);
            assert_eq!(out.lines().filter(|line| *line == rests).count(), 250);
        }
        assert_eq!(run.err().lines().count(), 500);
    }
}

fn log_16_nor_with_icerun() {
    four_at_a_time(100, |_| {
        let t = Case::new();
        let ended = tool(&t, &["--nproc-per-node", "2", "--tee", "3"]).probe(&[
            "write",
            "1",
            "last line\\n",
            "kill",
            "KILL",
        ]);
        let ended = ended.run();
        ended.exited(137);
        // Where the first failure was seen before the other had printed, that one is stopped early.
        let lines = ended.out().lines().filter(|line| line.ends_with("]:last line")).count();
        assert!((1..=2).contains(&lines), "{ended:?}");
    });
}

fn log_17_the_console_is_closed() {
    for redirects in [0, 3] {
        let t = Case::new();
        let run = t
            .host()
            .set("local_world_size", 2)
            .set("tee", 3 - redirects)
            .set("redirects", redirects)
            .set("log_dir", t.path("logs"))
            .set("log_callback", t.path("log"))
            .steps(&["close=1", "close=2", "close=0"])
            .probe(&[
                "lines",
                "1",
                "2000",
                "text",
                "append",
                &t.path("done"),
                "x",
                "await_lines",
                &t.path("done"),
                "2",
                "rank",
                "1",
                "exit",
                "5",
                ";",
            ])
            .run();
        run.failed_as(END_WORKER_FAILURE);
        assert_eq!(run.result()["root_cause"]["exit_code"], 5);
        for rank in 0..2 {
            let log = fs::read_to_string(text(&run.worker(rank)["stdout_log"])).expect("a log");
            assert_eq!(log.lines().count(), 2000);
        }
    }
}

fn log_17_the_reader_goes_away() {
    let t = Case::new();
    let (mut console, writer) = pipe();
    let running = t
        .host()
        .stdout(writer.into())
        .set("local_world_size", 2)
        .set("tee", 3)
        .set("log_dir", t.path("logs"))
        .set("log_callback", t.path("log"))
        .probe(&[
            "write",
            "1",
            "first\\n",
            "await",
            &t.path("go"),
            "lines",
            "1",
            "5000",
            "text",
            "rank",
            "1",
            "exit",
            "5",
            ";",
        ])
        .spawn();
    let mut byte = [0; 5];
    console.read_exact(&mut byte).expect("the first line");
    drop(console);
    t.write("go", b"", 0o644);
    let run = running.finish();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(run.result()["root_cause"]["exit_code"], 5, "{run}");
    for rank in 0..2 {
        let log = fs::read_to_string(text(&run.worker(rank)["stdout_log"])).expect("a log");
        // Rank 0 may have been stopped because of rank 1.
        assert!(rank == 0 || log.lines().count() == 5001, "{}", log.lines().count());
    }
    let warnings =
        t.lines("log").into_iter().filter(|line| line.starts_with("2 ") && line.contains("stdout")).count();
    assert_eq!(warnings, 1, "{:?}", t.lines("log"));
}

fn log_17_icerun_into_head() {
    let t = Case::new();
    let script = format!(
        "{} --nproc-per-node 2 --tee 3 --log-dir {} --no-python {} lines 1 5000 text | head -1; echo ${{PIPESTATUS[0]}} >&2",
        icerun().display(),
        t.path("logs"),
        probe().display()
    );
    let output = t.command("bash").args(["-c", &script]).output().expect("bash");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 1);
    assert_eq!(stderr.lines().last(), Some("0"), "{stderr}");
    assert!(stderr.lines().count() <= 3, "at most one warning and one note: {stderr}");
    let dir = only_run_dir(&t.dir.join("logs")).join("attempt_0");
    for rank in 0..2 {
        let log = fs::read_to_string(dir.join(rank.to_string()).join("stdout.log")).expect("a log");
        assert_eq!(log.lines().count(), 5000);
    }
    t.nothing_left();
}

fn log_18_a_stuck_console_holds_nobody_up() {
    let t = Case::new();
    let (console, writer) = pipe();
    let running = t
        .host()
        .stdout(writer.into())
        .set("local_world_size", 2)
        .set("tee", 3)
        .set("shutdown_timeout", 0.5)
        .set("log_dir", t.path("logs"))
        .probe(&["lines", "1", "20000", "text", "append", &t.path("done"), "%r"])
        .limit(Duration::from_secs(30))
        .spawn();
    // A pipe holds 64 KiB; the workers write far more and must not notice.
    t.wait_lines("done", 2);
    let run = running.finish();
    drop(console);
    run.succeeded();
    run.within(Duration::from_secs(15));
    for rank in 0..2 {
        let log = fs::read_to_string(text(&run.worker(rank)["stdout_log"])).expect("a log");
        assert_eq!(log.lines().count(), 20_000);
    }
}

fn log_18_a_failure_is_seen_though_the_console_is_stuck() {
    let t = Case::new();
    let (console, writer) = pipe();
    let running = t
        .host()
        .stdout(writer.into())
        .set("local_world_size", 2)
        .set("max_restarts", 2)
        .set("tee", 3)
        .set("shutdown_timeout", 0.5)
        .set("log_dir", t.path("logs"))
        .probe(&[
            "lines",
            "1",
            "5000",
            "text",
            "rank",
            "1",
            "append",
            &t.path("attempts"),
            "%a",
            "exit",
            "1",
            ";",
            "pause",
        ])
        .limit(Duration::from_secs(30))
        .spawn();
    // Restarts go on while nobody reads.
    t.wait_lines("attempts", 3);
    let run = running.finish();
    drop(console);
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(run.result()["restarts"], 2);
}

fn log_18_a_console_that_goes_on_shows_all() {
    let t = Case::new();
    let (mut console, writer) = pipe();
    let running = t
        .host()
        .stdout(writer.into())
        .set("tee", 1)
        .set("shutdown_timeout", 60)
        .set("log_dir", t.path("logs"))
        .probe(&["lines", "1", "20000", "text", "append", &t.path("done"), "%r"])
        .spawn();
    t.wait_lines("done", 1);
    let mut all = String::new();
    console.read_to_string(&mut all).expect("the console");
    let run = running.finish();
    run.succeeded();
    assert_eq!(all.lines().count(), 20_000);
    assert_eq!(all.lines().last(), Some("[default0]:text r0 19999"));
}

fn log_18_a_nonblocking_console_loses_nothing() {
    let t = Case::new();
    let (mut console, writer) = pipe();
    // Event loops like to do this to the descriptor they share with others.
    // SAFETY: a plain system call.
    assert_eq!(unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) }, 0);
    let running = t
        .host()
        .stdout(writer.into())
        .set("tee", 1)
        .set("shutdown_timeout", 60)
        .set("log_dir", t.path("logs"))
        .probe(&["lines", "1", "20000", "text", "append", &t.path("done"), "%r"])
        .spawn();
    t.wait_lines("done", 1);
    let mut all = String::new();
    console.read_to_string(&mut all).expect("the console");
    running.finish().succeeded();
    assert_eq!(all.lines().count(), 20_000);
    for (i, line) in all.lines().enumerate() {
        assert_eq!(line, format!("[default0]:text r0 {i}"));
    }
}

fn log_18_messages_nobody_reads_hold_no_stop_up() {
    let t = Case::new();
    let (reader, writer) = pipe();
    // The pipe is full from the start: the first message of the agent never ends.
    fill(&writer);
    let running = tool(&t, &["--nproc-per-node", "2", "--log-level", "debug", "--shutdown-timeout", "0.3"])
        .probe(&["ignore", "TERM", "append", &t.path("pids"), "%p", "pause"])
        .stderr(writer.into())
        .env("OMP_NUM_THREADS", "1")
        .spawn();
    let pids = pids_in(&t, "pids", 2);
    running.signal(libc::SIGTERM);
    wait_for("the end of the workers", || pids.iter().all(|pid| gone(*pid)));
    // Once somebody reads, icerun itself ends.
    drop(reader);
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(running.finish().status.signal(), Some(libc::SIGTERM));
    t.nothing_left();
}

/// Writes to a pipe until it takes no more.
fn fill(pipe: &OwnedFd) {
    // SAFETY: plain system calls on a descriptor that is open, and a buffer of that size.
    unsafe {
        libc::fcntl(pipe.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK);
        for size in [4096, 1] {
            while libc::write(pipe.as_raw_fd(), [0u8; 4096].as_ptr().cast(), size) > 0 {}
        }
        libc::fcntl(pipe.as_raw_fd(), libc::F_SETFL, 0);
    }
}

fn log_20_a_truncated_file_goes_on_from_its_new_start() {
    let t = Case::new();
    let running = t
        .host()
        .set("tee", 1)
        .set("log_dir", t.path("logs"))
        .probe(&[
            "lines",
            "1",
            "100",
            "before",
            "await",
            &t.path("go"),
            "truncate_out",
            "1",
            "write",
            "1",
            "after\\n",
            "await",
            &t.path("end"),
        ])
        .spawn();
    wait_for("the first lines", || running.out_so_far().lines().count() == 100);
    t.write("go", b"", 0o644);
    wait_for("the line after", || running.out_so_far().lines().count() == 101);
    t.write("end", b"", 0o644);
    let run = running.finish();
    run.succeeded();
    assert_eq!(run.out().lines().last(), Some("[default0]:after"));
    assert_eq!(run.out().lines().count(), 101);
    assert_eq!(fs::read_to_string(text(&run.worker(0)["stdout_log"])).expect("the log"), "after\n");
}

fn log_21_prefixes() {
    let t = Case::new();
    let out = |host: Host| host.set("tee", 3).probe(&["print", "x"]).run().out();
    assert_eq!(out(t.host()), "[default0]:x\n");
    assert_eq!(out(t.host().set("role", "trainer")), "[trainer0]:x\n");
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname").expect("a name");
    let template = "${hostname}:${rank}|${role_name}|${local_rank}|${x}|$$";
    let expected = format!("{}:0|default|0|${{x}}|$$x\n", hostname.trim());
    assert_eq!(out(t.host().set("log_prefix_template", template)), expected);
    const VARIABLE: &str = "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE";
    assert_eq!(out(t.host().env(VARIABLE, "<${rank}>")), "<0>x\n");
    assert_eq!(out(t.host().env(VARIABLE, "<${rank}>").set("log_prefix_template", "o ")), "o x\n");
    let ended = tool(&t, &["--tee", "3", "--log-line-prefix-template", "cli "])
        .env(VARIABLE, "env ")
        .probe(&["print", "x"])
        .run();
    assert_eq!(ended.exited(0).out(), "cli x\n");
    let ended = tool(&t, &["--tee", "3"]).env(VARIABLE, "env ").probe(&["print", "x"]).run();
    assert_eq!(ended.exited(0).out(), "env x\n");
}

fn log_21_timestamps() {
    let t = Case::new();
    let run = t
        .host()
        .set("tee", 3)
        .set("log_timestamps", 1)
        .set("log_dir", t.path("logs"))
        .probe(&["print", "x"])
        .run();
    let out = run.out();
    let (stamp, rest) = out.split_once(' ').unwrap_or_else(|| panic!("no time: {out}"));
    assert_eq!(rest, "[default0]:x\n");
    let pattern: String = stamp.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(pattern, "0000-00-00T00:00:00.000Z");
}

fn log_22_the_rank_filter() {
    for tee in [false, true] {
        let t = Case::new();
        let host = t
            .host()
            .set("local_world_size", 3)
            .set("local_ranks_filter", "0,2")
            .set("log_dir", t.path("logs"));
        let host = if tee { host.set("tee", 3) } else { host };
        let run = host.probe(&["print", "rank %r"]).run();
        run.succeeded();
        let out = run.out();
        let mut lines: Vec<_> = out.lines().collect();
        lines.sort();
        let expected = if tee { ["[default0]:rank 0", "[default2]:rank 2"] } else { ["rank 0", "rank 2"] };
        assert_eq!(lines, expected);
        // What does not reach the console is in a file, also where none was asked for.
        let file = text(&run.worker(1)["stdout_log"]);
        assert_eq!(fs::read_to_string(file).expect("rank 1's file"), "rank 1\n");
    }
}

fn log_24_filters_need_a_file() {
    let t = Case::new();
    for (field, streams) in [
        ("duplicate_stdout_filters", "0"),
        ("duplicate_stdout_filters", "2"),
        ("duplicate_stderr_filters", "1"),
    ] {
        let host = t.host().set("redirects", streams).set(field, "apple").probe(&["exit", "0"]);
        host.steps(&["new"]).run().refused(&[field]);
    }
}

fn log_24_filtered_lines() {
    for tee in [false, true] {
        let t = Case::new();
        let host = t.host().set("local_world_size", 2).set(if tee { "tee" } else { "redirects" }, 3);
        let run = host
            .set("log_dir", t.path("logs"))
            .set("duplicate_stdout_filters", "apple,orange")
            .set("duplicate_stderr_filters", "pear")
            .probe(&[
                "print",
                "an apple a day %r",
                "print",
                "nothing",
                "print",
                "orange %r",
                "write",
                "2",
                "pear %r",
            ])
            .run();
        run.succeeded();
        let dir = only_run_dir(&t.dir.join("logs")).join("attempt_0");
        let lines = |name: &str| {
            let text = fs::read_to_string(dir.join(name)).expect(name);
            let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
            lines.sort();
            lines
        };
        assert_eq!(
            lines("filtered_stdout.log"),
            [
                "[default0]:an apple a day 0",
                "[default0]:orange 0",
                "[default1]:an apple a day 1",
                "[default1]:orange 1"
            ]
        );
        assert_eq!(lines("filtered_stderr.log"), ["[default0]:pear 0", "[default1]:pear 1"]);
    }
}

fn log_25_no_files_at_all() {
    let t = Case::new();
    let run = t
        .host()
        .set("log_dir", "/dev/null")
        .set("redirects", 3)
        .probe(&["dump", &t.path("state"), "print", "x", "exit", "3"])
        .run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(run.out(), "");
    assert_eq!(run.result()["run_dir"], "");
    assert_eq!(run.worker(0)["stdout_log"], "");
    let env = t.json("state")["env"].to_string();
    assert!(env.contains("\"TORCHELASTIC_ERROR_FILE=\""), "{env}");
    let host = t.host().set("log_dir", "/dev/null").set("redirects", 3).set("duplicate_stdout_filters", "x");
    host.probe(&["exit", "0"]).steps(&["new"]).run().refused(&["duplicate_stdout_filters"]);
}

fn log_26_strange_run_ids() {
    let long = "x".repeat(300);
    for id in ["a/b", "..", ".", "line\nbreak", "../../etc", long.as_str(), "ünïcödé"] {
        let t = Case::new();
        let run = t
            .host()
            .set("log_dir", t.path("logs"))
            .set("redirects", 3)
            .set("run_id", id)
            .probe(&["dump", &t.path("state"), "print", "x"])
            .run();
        run.succeeded();
        let dir = only_run_dir(&t.dir.join("logs"));
        assert!(dir.join("attempt_0/0/stdout.log").exists(), "{dir:?}");
        assert!(!dir.to_string_lossy().contains('\n'));
        let env = &t.json("state")["env"];
        let wanted = format!("TORCHELASTIC_RUN_ID={id}");
        assert!(env.as_array().expect("env").iter().any(|item| item == &wanted), "{id}");
    }
}

fn log_28_modes() {
    let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o7777;
    for (umask, set, directory, file) in [
        ("022", None, 0o755, 0o644),
        ("077", None, 0o700, 0o600),
        // Others never may write there.
        ("0", None, 0o775, 0o664),
        ("077", Some("2775,664"), 0o2775, 0o664),
    ] {
        let t = Case::new();
        let host = t.host().set("umask", umask).set("log_dir", t.path("logs")).set("tee", 3);
        let host = match set {
            Some(modes) => host.set("log_modes", modes),
            None => host,
        };
        host.set("duplicate_stdout_filters", "x").probe(&["print", "x"]).run().succeeded();
        let dir = only_run_dir(&t.dir.join("logs"));
        for path in [t.dir.join("logs"), dir.clone(), dir.join("attempt_0"), dir.join("attempt_0/0")] {
            assert_eq!(mode(&path), directory, "{path:?} is {:o}", mode(&path));
        }
        for name in ["0/stdout.log", "0/stderr.log", "filtered_stdout.log"] {
            let path = dir.join("attempt_0").join(name);
            assert_eq!(mode(&path), file, "{path:?} is {:o}", mode(&path));
        }
    }
}

/// Where everybody may make directories, nobody else may look into that of a run.
fn sec_05_a_temporary_run_directory_is_the_users_alone() {
    let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o7777;
    let t = Case::new();
    let host = t.host().set("umask", "0").set("tee", 3).set("duplicate_stdout_filters", "x");
    let run = host.probe(&["print", "x", "code", "3"]).run();
    let dir = PathBuf::from(run.result()["run_dir"].as_str().expect("a directory"));
    for path in [dir.clone(), dir.join("attempt_0"), dir.join("attempt_0/0")] {
        assert_eq!(mode(&path), 0o700, "{path:?} is {:o}", mode(&path));
    }
    for name in ["0/stdout.log", "0/stderr.log", "filtered_stdout.log"] {
        let path = dir.join("attempt_0").join(name);
        assert_eq!(mode(&path), 0o600, "{path:?} is {:o}", mode(&path));
    }
    // With error files alone, where that is.
    let t = Case::new();
    let run = t.host().set("umask", "0").probe(&["error_file", "{}", "code", "3"]).run();
    let dir = PathBuf::from(run.result()["run_dir"].as_str().expect("a directory"));
    assert_eq!(mode(&dir), 0o700, "{dir:?} is {:o}", mode(&dir));
}

fn log_29_output_goes_to_a_callback() {
    let t = Case::new();
    let run = t
        .host()
        .set("local_world_size", 4)
        .set("log_dir", t.path("logs"))
        .set("output_callback", t.path("output"))
        .probe(&["lines", "1", "500", "o", "lines", "2", "50", "e", "write", "1", "no newline"])
        .run();
    run.succeeded();
    assert_eq!((run.out(), run.err()), (String::new(), String::new()));
    for rank in 0..4 {
        let (mut out, mut err) = (String::new(), String::new());
        (0..500).for_each(|i| out += &format!("o r{rank} {i}\n"));
        (0..50).for_each(|i| err += &format!("e r{rank} {i}\n"));
        assert_eq!(t.read(&format!("output.{rank}.1")), out + "no newline");
        assert_eq!(t.read(&format!("output.{rank}.2")), err);
    }
}

fn log_29_a_slow_callback_holds_no_worker_up() {
    let t = Case::new();
    let running = t
        .host()
        .set("local_world_size", 2)
        .set("max_restarts", 1)
        .set("shutdown_timeout", 0.5)
        .set("output_seconds", 0.3)
        .set("output_callback", t.path("output"))
        .probe(&[
            "out",
            "1",
            "3000000",
            "4096",
            "rank",
            "1",
            "append",
            &t.path("attempts"),
            "%a",
            "exit",
            "1",
            ";",
            "pause",
        ])
        .limit(Duration::from_secs(60))
        .spawn();
    t.wait_lines("attempts", 2);
    let run = running.finish();
    assert_eq!(run.result()["restarts"], 1, "{run}");
    assert_eq!(run.result()["root_cause"]["exit_code"], 1);
    no_process_left(&t);
}

fn log_30_merged_streams_keep_their_order() {
    let t = Case::new();
    let mut verbs = Vec::new();
    let mut expected = String::new();
    let texts: Vec<String> = (0..200).map(|i| format!("{i}\\n")).collect();
    for (i, text) in texts.iter().enumerate() {
        verbs.extend(["write", if i % 3 == 0 { "2" } else { "1" }, text]);
        expected += &format!("{i}\n");
    }
    let run =
        t.host().set("merge_stderr", 1).set("tee", 3).set("log_dir", t.path("logs")).probe(&verbs).run();
    run.succeeded();
    assert_eq!(fs::read_to_string(text(&run.worker(0)["stdout_log"])).expect("the log"), expected);
    assert_eq!(run.worker(0)["stderr_log"], "");
    let console: String = expected.lines().map(|line| format!("[default0]:{line}\n")).collect();
    assert_eq!(run.out(), console);
    assert_eq!(run.err(), "");
}

fn log_30_the_tail_of_merged_streams() {
    let t = Case::new();
    let run = t
        .host()
        .set("merge_stderr", 1)
        .set("redirects", 3)
        .set("log_dir", t.path("logs"))
        .probe(&["write", "1", "one\\n", "write", "2", "two\\n", "exit", "1"])
        .run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(run.worker(0)["stderr_tail"], "one\ntwo\n");
}

fn log_33_what_is_followed_turns_out_to_be_no_file() {
    let t = Case::new();
    // The workers replace their own logs by a directory; what they write after is theirs to lose.
    let run = t
        .host()
        .set("local_world_size", 2)
        .set("tee", 3)
        .set("log_dir", t.path("logs"))
        .set("log_callback", t.path("log"))
        .probe(&[
            "exec", "sh", "-c",
            "cd \"$(dirname \"$TORCHELASTIC_ERROR_FILE\")\" && rm stdout.log && mkdir stdout.log && echo lost && exit 0",
        ])
        .run();
    run.succeeded();
    // A filtered file that cannot be made: one message, and the run goes on.
    let t = Case::new();
    let run = t
        .host()
        .set("tee", 3)
        .set("max_restarts", 1)
        .set("log_dir", t.path("logs"))
        .set("log_callback", t.path("log"))
        .set("duplicate_stdout_filters", "x")
        .probe(&[
            "exec", "sh", "-c",
            "cd \"$(dirname \"$TORCHELASTIC_ERROR_FILE\")/..\" && rm -f filtered_stdout.log && mkdir filtered_stdout.log; echo x; echo y; exit 0",
        ])
        .run();
    run.succeeded();
    assert_eq!(run.out(), "[default0]:x\n[default0]:y\n");
    let log = t.lines("log");
    let told = |line: &&String| {
        line.contains("filtered_stdout.log") && (line.starts_with("1 ") || line.starts_with("2 "))
    };
    assert_eq!(log.iter().filter(told).count(), 1, "it is said once: {log:?}");
}

fn log_01_the_directory_is_gone_if_nothing_was_written() {
    // The default directory is below TMPDIR; `clean` looks that nothing is left there.
    let t = Case::new();
    t.host().probe(&["print", "x"]).run().succeeded();
    t.host().callback(&["code", "3"]).run().failed_as(END_WORKER_FAILURE);
    tool(&t, &["--nproc-per-node", "2"]).probe(&["exit", "3"]).run().exited(3);
    t.nothing_left();
    // With a file that has something in it it stays, and its path is told.
    let run = t.host().set("redirects", 1).probe(&["print", "x"]).run();
    let dir = PathBuf::from(text(&run.result()["run_dir"]));
    assert!(dir.starts_with(t.tmp()), "{dir:?}");
    assert!(dir.join("attempt_0/0/stdout.log").exists());
}

fn log_17_a_console_of_its_own() {
    let t = Case::new();
    let run = t
        .host()
        .set("tee", 3)
        .set("console", "20,21")
        .steps(&[
            &format!("open=20:{}", t.path("console.out")),
            &format!("open=21:{}", t.path("console.err")),
        ])
        .set("log_dir", t.path("logs"))
        .probe(&["write", "1", "o\\n", "write", "2", "e\\n"])
        .run();
    run.succeeded();
    assert_eq!((run.out(), run.err()), (String::new(), String::new()));
    assert_eq!(t.read("console.out"), "[default0]:o\n");
    assert_eq!(t.read("console.err"), "[default0]:e\n");
}

fn log_18_a_stuck_terminal_can_be_left() {
    // A pipe that nobody reads is the console of icerun; SIGTERM ends all in time.
    let t = Case::new();
    let (console, writer) = pipe();
    let running = tool(
        &t,
        &["--nproc-per-node", "2", "--tee", "3", "--shutdown-timeout", "0.5", "--log-dir", &t.path("logs")],
    )
    .probe(&["lines", "1", "20000", "text", "append", &t.path("ready"), "x", "pause"])
    .stdout(writer.into())
    .spawn();
    t.wait_lines("ready", 2);
    running.signal(libc::SIGTERM);
    let ended = running.finish();
    assert!(console.as_raw_fd() >= 0);
    ended.within(Duration::from_secs(20));
    t.nothing_left();
}

/// The path in the message is that of what could not be made, not of a directory that is there, and the errno its.
fn log_01_the_directory_that_cannot_be_made_is_named() {
    let message =
        |run: &Run| run.failed_as(END_START_ERROR).result()["message"].as_str().unwrap().to_string();
    let t = Case::new();
    t.write("file", b"", 0o644);
    for (log_dir, named) in [
        ("/proc/none/of/these".to_string(), "/proc/none: ENOENT".to_string()),
        (t.path("file/logs"), format!("{}: ENOTDIR", t.path("file/logs"))),
        (t.path("file"), format!("{}: EEXIST", t.path("file"))),
    ] {
        let said = message(&t.host().set("log_dir", &log_dir).probe(&["exit", "0"]).run());
        assert!(said.starts_with(&format!("cannot make the directory {named}")), "{said}");
    }
    // The base is there: what is not is the run's own.
    fs::create_dir(t.dir.join("logs")).unwrap();
    let host = t.host().set("log_dir", t.path("logs")).probe(&["exit", "0"]);
    let run = host.step("uid=12345").run();
    assert_eq!(run.result()["end"], END_START_ERROR, "{run}");
    let said = run.result()["message"].as_str().unwrap();
    let begin = format!("cannot make the directory {}/none_", t.path("logs"));
    assert!(said.starts_with(&begin) && said.contains(": EACCES"), "{said}");
    let host = t.host().set("redirects", 3).env("TMPDIR", "/nowhere");
    let said = message(&host.probe(&["exit", "0"]).run());
    assert!(said.starts_with("cannot make the directory /nowhere/ice_none_"), "{said}");
}

pub fn tests() -> Vec<Trial> {
    tests![
        log_01_files_hold_the_workers_bytes,
        log_01_the_directory_is_gone_if_nothing_was_written,
        log_02_only_the_named_ranks_have_files,
        needs(root): log_01_the_directory_that_cannot_be_made_is_named,
        log_04_each_attempt_has_its_own_files,
        log_06_two_runs_have_two_directories,
        needs(root, unshare_mount): log_08_a_full_disk_is_the_workers_matter,
        log_08_no_directory_on_a_full_disk_is_a_start_error,
        needs(dev_full): log_08_stdout_is_dev_full,
        needs(root, unshare_mount): log_09_a_full_disk_does_not_hold_workers_up,
        log_10_every_line_is_whole_and_once,
        log_12_a_line_in_two_parts_is_one_line,
        log_13_bytes_are_not_changed,
        log_13_a_very_long_line_is_whole,
        log_14_a_progress_bar_is_seen_while_it_moves,
        log_16_the_last_line_is_never_lost,
        log_16_nor_with_icerun,
        log_17_the_console_is_closed,
        log_17_the_reader_goes_away,
        needs(bash): log_17_icerun_into_head,
        log_17_a_console_of_its_own,
        log_18_a_stuck_console_holds_nobody_up,
        log_18_a_failure_is_seen_though_the_console_is_stuck,
        log_18_a_console_that_goes_on_shows_all,
        log_18_a_nonblocking_console_loses_nothing,
        log_18_messages_nobody_reads_hold_no_stop_up,
        log_18_a_stuck_terminal_can_be_left,
        log_20_a_truncated_file_goes_on_from_its_new_start,
        log_21_prefixes,
        log_21_timestamps,
        log_22_the_rank_filter,
        log_24_filters_need_a_file,
        log_24_filtered_lines,
        log_25_no_files_at_all,
        log_26_strange_run_ids,
        log_28_modes,
        sec_05_a_temporary_run_directory_is_the_users_alone,
        log_29_output_goes_to_a_callback,
        log_29_a_slow_callback_holds_no_worker_up,
        log_30_merged_streams_keep_their_order,
        log_30_the_tail_of_merged_streams,
        log_33_what_is_followed_turns_out_to_be_no_file,
    ]
}
