//! Area LOG: output that goes through the agent, and what a disk that takes no more costs then: output, and no work.

use std::collections::HashSet;
use std::fs;

use libtest_mimic::Trial;

use crate::harness::*;
use crate::log::on_a_small_disk;
use crate::tests_by_way;
use crate::{tests, tool::*};

pub fn tests() -> Vec<Trial> {
    let mut all = tests![
        needs(root, unshare_mount): relay_01_a_full_disk_fails_no_worker,
        needs(root, unshare_mount): relay_01_a_full_disk_by_icerun,
        needs(root, unshare_mount): relay_01_no_more_files_can_be_made,
        relay_02_a_file_that_may_not_grow,
        relay_03_what_is_in_the_files_is_what_was_written,
        relay_04_a_console_that_stands_still,
        relay_05_who_outlives_a_worker_holds_nobody_up,
    ];
    all.extend(tests_by_way![Way::ALL; relay_06_a_function_on_a_full_disk]);
    all
}

/// Warnings with these words.
fn warnings(t: &Case, text: &str) -> usize {
    t.lines("log").iter().filter(|line| line.starts_with("2 ") && line.contains(text)).count()
}

fn through_agent<'a>(t: &'a Case) -> Host<'a> {
    t.host()
        .set("log_through_agent", 1)
        .set("log_callback", t.path("log"))
        .set("log_dir", t.path("disk/logs"))
}

fn relay_01_a_full_disk_fails_no_worker() {
    for merge in [0, 1] {
        let t = Case::new();
        let small = on_a_small_disk(&t, "256k");
        let run = through_agent(&t)
            .under(&["unshare", "--mount", &small])
            .set("local_world_size", 4)
            .set("max_restarts", 1)
            .set("merge_stderr", merge)
            .set("tee", 3)
            .probe(&[
                "lines",
                "1",
                "5000",
                "of some length",
                "lines",
                "2",
                "500",
                "an error",
                "until_attempt",
                "1",
                "rank",
                "0",
                "exit",
                "3",
                ";",
                ";",
                "exit",
                "0",
            ])
            .run();
        run.succeeded();
        // Each line of the second attempt is there; of the first one those that were written before it was stopped.
        let text = run.out() + &run.err();
        let lines: HashSet<&str> =
            text.lines().filter_map(|line| line.split_once("]:")).map(|(_, line)| line).collect();
        for rank in 0..4 {
            let is_there = |number: &i32| lines.contains(format!("of some length r{rank} {number}").as_str());
            assert_eq!((0..5000).filter(is_there).count(), 5000, "rank {rank}, stderr merged: {merge}");
        }
        assert!(warnings(&t, "takes no more output (No space left on device") >= 1, "{:?}", t.lines("log"));
        assert!(warnings(&t, "takes no more output") <= 2, "once an attempt: {:?}", t.lines("log"));
        assert!(warnings(&t, "of output are in no log file") >= 1, "{:?}", t.lines("log"));
        t.nothing_left();
    }
}

fn relay_01_no_more_files_can_be_made() {
    let t = Case::new();
    let small = on_a_small_disk(&t, "256k,nr_inodes=7");
    let run = through_agent(&t)
        .under(&["unshare", "--mount", &small])
        .set("local_world_size", 4)
        .set("max_restarts", 1)
        .set("tee", 1)
        .probe(&[
            "lines",
            "1",
            "10",
            "text",
            "until_attempt",
            "1",
            "rank",
            "0",
            "exit",
            "3",
            ";",
            ";",
            "exit",
            "0",
        ])
        .run();
    run.succeeded();
    for rank in 0..4 {
        let line = format!("text r{rank} 9\n");
        assert!(run.out().matches(&line).count() >= 1, "{run}");
    }
    assert!(warnings(&t, "No space left on device") >= 1, "{:?}", t.lines("log"));
    t.nothing_left();
}

fn relay_01_a_full_disk_by_icerun() {
    let t = Case::new();
    let small = on_a_small_disk(&t, "128k");
    let script = "import sys\nfor i in range(20000): print('line', i, flush=True)\n";
    let script = t.write("script.py", script.as_bytes(), 0o644);
    let log_dir = t.path("disk/logs");
    let ended = tool(&t, &["--tee", "3", "--log-through-agent", "--log-dir", &log_dir, &script])
        .under(&["unshare", "--mount", &small])
        .run();
    ended.exited(0);
    assert_eq!(ended.out().lines().count(), 20_000);
    assert!(ended.out().contains("[default0]:line 19999\n"));
    assert!(ended.err().contains("workers go on, what they write is lost to their files"), "{}", ended.err());
}

/// EFBIG, with SIGXFSZ to whoever writes: that must not be the end of the host.
fn relay_02_a_file_that_may_not_grow() {
    let t = Case::new();
    fs::create_dir(t.dir.join("disk")).unwrap();
    let run = through_agent(&t)
        .under(&["prlimit", "--fsize=65536"])
        .set("tee", 1)
        .probe(&["lines", "1", "20000", "text", "exit", "0"])
        .run();
    // Of the host's own stdout, which is a file too, there are 64 KiB; the worker is done all the same.
    run.succeeded();
    let log = fs::metadata(run.worker(0)["stdout_log"].as_str().unwrap()).unwrap();
    assert_eq!(log.len(), 65536);
    assert_eq!(warnings(&t, "takes no more output (File too large"), 1, "{:?}", t.lines("log"));
    assert_eq!(warnings(&t, "of output are in no log file"), 1, "{:?}", t.lines("log"));
}

fn relay_03_what_is_in_the_files_is_what_was_written() {
    let t = Case::new();
    let run = through_agent(&t)
        .set("local_world_size", 16)
        .set("max_restarts", 2)
        .set("redirects", 3)
        .set("tee", "0:3")
        .set("duplicate_stdout_filters", "line r")
        .probe(&[
            "lines",
            "1",
            "3000",
            "line",
            "write",
            "2",
            "the last words\\n",
            "until_attempt",
            "2",
            "rank",
            "1",
            "exit",
            "9",
            ";",
            ";",
            "exit",
            "0",
        ])
        .run();
    run.succeeded();
    for rank in 0..16 {
        let log = fs::read_to_string(run.worker(rank)["stdout_log"].as_str().unwrap()).unwrap();
        let wanted: String = (0..3000).map(|number| format!("line r{rank} {number}\n")).collect();
        assert_eq!(log, wanted, "rank {rank}");
        let errors = fs::read_to_string(run.worker(rank)["stderr_log"].as_str().unwrap()).unwrap();
        assert_eq!(errors, "the last words\n");
    }
    assert_eq!(run.out().matches("line r0 2999\n").count(), 3);
    let filtered =
        t.dir.join(run.result()["run_dir"].as_str().unwrap()).join("attempt_2/filtered_stdout.log");
    assert_eq!(fs::read_to_string(filtered).unwrap().lines().count(), 16 * 3000);
    assert_eq!(warnings(&t, "output"), 0, "{:?}", t.lines("log"));
    // What a worker wrote last is in the report of its failure.
    let t = Case::new();
    let run =
        through_agent(&t).set("redirects", 3).probe(&["write", "2", "the reason\\n", "exit", "3"]).run();
    run.failed_as(END_WORKER_FAILURE);
    assert!(run.result()["root_cause"]["stderr_tail"].as_str().unwrap().contains("the reason"), "{run}");
}

/// The file has all of it meanwhile.
fn relay_04_a_console_that_stands_still() {
    let t = Case::new();
    let (reader, writer) = std::io::pipe().unwrap();
    let running = through_agent(&t)
        .stdout(writer.into())
        .set("tee", 1)
        .set("shutdown_timeout", 1)
        .probe(&["out", "1", "30000000", "4096", "append", &t.path("done"), "x", "exit", "0"])
        .spawn();
    t.wait_lines("done", 1);
    drop(reader);
    let run = running.finish();
    assert!(run.status.success(), "{run}");
    t.nothing_left();
}

fn relay_05_who_outlives_a_worker_holds_nobody_up() {
    let t = Case::new();
    let run = through_agent(&t)
        .set("redirects", 3)
        .set("kill_group_on_success", 0)
        .probe(&[
            "daemon",
            "append",
            &t.path("up"),
            "%p",
            "sleep",
            "60",
            ";",
            "await",
            &t.path("up"),
            "exit",
            "0",
        ])
        .run();
    assert_eq!(run.result()["end"], END_SUCCEEDED, "{run}");
    let daemon = t.lines("up")[0].parse().unwrap();
    assert!(alive(daemon));
    send(daemon, libc::SIGKILL);
}

fn relay_06_a_function_on_a_full_disk(way: Way) {
    let t = Case::new();
    fs::create_dir(t.dir.join("disk")).unwrap();
    let run = through_agent(&t)
        .under(&["prlimit", "--fsize=65536"])
        .set("local_world_size", 2)
        .set("redirects", 3)
        .function(way, &["lines", "1", "20000", "text", "code", "0"])
        .run();
    run.succeeded();
    assert_eq!(warnings(&t, "takes no more output (File too large"), 1, "{:?}", t.lines("log"));
}
