//! Area ERR: error files and the report of a failure.

use std::fs;

use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::harness::*;
use crate::tests;
use crate::tool::*;

fn err_01_torchs_error_file_is_read() {
    for callback in [false, true] {
        let t = Case::new();
        let run = t
            .host()
            .set("local_world_size", 2)
            .set("log_dir", t.path("logs"))
            .worker(
                callback,
                &[
                    "rank",
                    "1",
                    "error_long",
                    "CUDA error: \"x\"\nsecond line",
                    "Traceback:\n  File ü",
                    "1700000000",
                    "code",
                    "1",
                    ";",
                    "pause",
                ],
            )
            .run();
        run.failed_as(END_WORKER_FAILURE);
        let root = &run.result()["root_cause"];
        assert_eq!(root["global_rank"], 1);
        assert_eq!(root["exit_code"], 1);
        assert_eq!(root["message"], "CUDA error: \"x\"\nsecond line");
        assert_eq!(root["call_stack"], "Traceback:\n  File ü");
        assert_eq!(root["error_timestamp"], 1_700_000_000);
        let path = text(&root["error_file"]);
        assert!(path.ends_with("attempt_0/1/error.json"), "{path}");
        let raw = fs::read(&path).expect("the file stays");
        assert_eq!(root["error_size"], raw.len());
        assert_eq!(run.worker(0)["error_file"], "");
        assert!(text(&run.result()["summary"]).contains("CUDA error"), "{run}");
    }
}

fn err_02_no_error_file() {
    for (verbs, parts) in [
        (vec!["kill", "SEGV"], vec!["Signal 11", "SIGSEGV", "PID"]),
        (vec!["kill", "KILL"], vec!["Signal 9", "SIGKILL", "PID"]),
        (vec!["kill", "RTMIN+5"], vec!["Signal 39", "PID"]),
        (vec!["exit", "73"], vec!["73"]),
    ] {
        let t = Case::new();
        let run = t.host().probe(&verbs).run();
        run.failed_as(END_WORKER_FAILURE);
        let root = &run.result()["root_cause"];
        let message = text(&root["message"]);
        for part in parts {
            assert!(message.contains(part), "'{part}' is not in: {message}");
        }
        assert!(message.contains(&root["pid"].to_string()), "{message}");
        assert_eq!(root["error_file"], "");
        assert_eq!(root["error_data"], Value::Null);
        assert!(text(&run.result()["summary"]).contains("<N/A>"), "{run}");
    }
}

fn err_02_signal_text_is_torchs() {
    let t = Case::new();
    let run = t.host().probe(&["kill", "ABRT"]).run();
    let root = &run.result()["root_cause"];
    assert_eq!(text(&root["message"]), format!("Signal 6 (SIGABRT) received by PID {}", root["pid"]));
    assert_eq!((&root["exit_code"], &root["signal"]), (&json!(-6), &json!(6)));
}

fn err_04_the_short_form() {
    for (file, timestamp) in [
        (r#"{"message": "short text", "timestamp": 1600000000}"#, 1_600_000_000),
        (r#"{"message": "short text", "timestamp": "1600000001"}"#, 1_600_000_001),
        (r#"{"message": "short text", "timestamp": 1600000002.75}"#, 1_600_000_002),
        (r#"{"message": "short text"}"#, 0),
    ] {
        let t = Case::new();
        let run = t.host().set("log_dir", t.path("logs")).probe(&["error_file", file, "exit", "1"]).run();
        run.failed_as(END_WORKER_FAILURE);
        assert_eq!(run.worker(0)["message"], "short text");
        assert_eq!(run.worker(0)["error_timestamp"], timestamp, "{file}");
    }
}

fn err_04_any_bytes_are_data() {
    // Cut off, no JSON, other JSON, no UTF-8, nothing: the run ends as it would, and the bytes are there.
    for file in [
        r#"{"message": {"message": "cut"#,
        "plain text",
        "\\xff\\xfe\\0\\x01",
        "[1, 2]",
        "null",
        "42",
        r#"{"message": null}"#,
        r#"{"message": 7, "timestamp": "never"}"#,
        r#"{"message": {"extraInfo": []}}"#,
        "",
    ] {
        let t = Case::new();
        let run = t.host().set("log_dir", t.path("logs")).probe(&["error_file", file, "exit", "3"]).run();
        run.failed_as(END_WORKER_FAILURE);
        let root = &run.result()["root_cause"];
        assert_eq!(root["exit_code"], 3, "{file}");
        assert_ne!(root["message"], "", "{file}");
        let raw = fs::read(text(&root["error_file"])).expect("the file stays");
        assert_eq!(root["error_size"], raw.len());
    }
}

fn err_05_the_first_failure_is_the_first() {
    // Rank 2 first, and then, only when that has ended, the others in the order 1, 3, 0: no polling hides it.
    for round in 0..20 {
        let t = Case::new();
        let run = t
            .host()
            .set("local_world_size", 4)
            .probe(&[
                "ignore",
                "TERM",
                "append",
                &t.path("ready"),
                "x",
                "await_lines",
                &t.path("ready"),
                "4",
                "rank",
                "2",
                "append",
                &t.path("pids"),
                "%p",
                "exit",
                "12",
                ";",
                "exec",
                "sh",
                "-c",
                // The next one goes once the one before is a zombie or gone.
                &format!(
                    "case $LOCAL_RANK in 1) n=1;; 3) n=2;; 0) n=3;; esac\n\
                     while [ \"$(wc -l < {pids} 2>/dev/null || echo 0)\" -lt $n ]; do :; done\n\
                     p=$(tail -n +$n {pids} | head -1)\n\
                     while grep -q '^State:[^Z]*$' /proc/$p/status 2>/dev/null; do :; done\n\
                     echo $$ >> {pids}\n\
                     exit $((LOCAL_RANK + 10))",
                    pids = t.path("pids")
                ),
            ])
            .run();
        run.failed_as(END_WORKER_FAILURE);
        assert_eq!(run.result()["root_cause"]["global_rank"], 2, "round {round}: {run}");
        let order: Vec<i64> =
            (0..4).map(|rank| run.worker(rank)["order"].as_i64().expect("an order")).collect();
        assert_eq!(order, [3, 1, 0, 2], "round {round}");
        let ends = |rank: usize| run.worker(rank)["end_ns"].as_i64().expect("a time");
        assert!(ends(2) <= ends(1) && ends(1) <= ends(3) && ends(3) <= ends(0));
    }
}

fn err_06_the_agents_own_error_file() {
    for old in [false, true] {
        let t = Case::new();
        let own = t.path("agent-error.json");
        if old {
            t.write("agent-error.json", b"{\"message\": \"an old one\"}", 0o644);
        }
        let run = t
            .host()
            .env("TORCHELASTIC_ERROR_FILE", &own)
            .set("log_dir", t.path("logs"))
            .set("log_callback", t.path("log"))
            .set("local_world_size", 2)
            .probe(&[
                "rank",
                "1",
                "error_long",
                "the reason",
                "stack",
                "1700000000",
                "exit",
                "9",
                ";",
                "pause",
            ])
            .run();
        run.failed_as(END_WORKER_FAILURE);
        let written = t.json("agent-error.json");
        assert_eq!(written["message"]["message"], "the reason");
        assert_eq!(written["message"]["extraInfo"]["py_callstack"], "stack");
        assert_eq!(written["message"]["errorCode"], 9);
        let told = t.lines("log").iter().any(|line| line.starts_with("2 ") && line.contains("an old one"));
        assert_eq!(told, old, "{:?}", t.lines("log"));
    }
    // The short form, too.
    let t = Case::new();
    let ended = tool(&t, &["--log-dir", &t.path("logs")])
        .env("TORCHELASTIC_ERROR_FILE", &t.path("own.json"))
        .probe(&["error_file", r#"{"message": "short", "timestamp": 5}"#, "exit", "4"])
        .run();
    ended.exited(4);
    assert_eq!(t.json("own.json")["message"]["errorCode"], 4);
    assert!(t.read("own.json").contains("short"));
}

fn err_06_a_success_leaves_the_agents_own_error_file_alone() {
    let t = Case::new();
    t.host().env("TORCHELASTIC_ERROR_FILE", &t.path("own.json")).probe(&["exit", "0"]).run().succeeded();
    assert!(!t.dir.join("own.json").exists());
}

fn err_08_no_error_file_after_a_success() {
    let t = Case::new();
    let run = t.host().set("log_dir", t.path("logs")).set("redirects", 3).probe(&["print", "x"]).run();
    run.succeeded();
    let dir = only_run_dir(&t.dir.join("logs"));
    assert!(!dir.join("attempt_0/0/error.json").exists());
    assert_eq!(run.worker(0)["error_file"], "");
    assert_eq!(run.worker(0)["message"], "");
}

fn err_09_an_earlier_attempts_error_is_not_shown() {
    for callback in [false, true] {
        let t = Case::new();
        let run = t
            .host()
            .set("max_restarts", 1)
            .set("log_dir", t.path("logs"))
            .worker(
                callback,
                &[
                    "attempt",
                    "0",
                    "error_long",
                    "of attempt 0",
                    "stack 0",
                    "1700000000",
                    "code",
                    "1",
                    ";",
                    "kill",
                    "KILL",
                ],
            )
            .run();
        run.failed_as(END_WORKER_FAILURE);
        let root = &run.result()["root_cause"];
        assert!(text(&root["message"]).starts_with("Signal 9 (SIGKILL)"), "{root}");
        assert_eq!((&root["call_stack"], &root["error_file"]), (&json!(""), &json!("")));
        assert_eq!((&root["error_data"], &root["error_timestamp"]), (&Value::Null, &json!(0)));
        // The first failure keeps its own.
        let failures = run.result()["failures"].as_array().expect("failures");
        assert_eq!(failures.len(), 2);
        assert_eq!(failures[0]["message"], "of attempt 0");
        assert_eq!(failures[0]["attempt"], 0);
        assert_eq!(failures[1]["attempt"], 1);
    }
}

fn err_10_reports_of_one_process_do_not_mix() {
    let t = Case::new();
    // Two agents one after the other in one host, told apart by a file.
    let run = t
        .host()
        .set("log_dir", t.path("logs"))
        .probe(&[
            "exec",
            "sh",
            "-c",
            &format!(
                "if [ -e {first} ]; then kill -9 $$; fi; touch {first}; \
                 printf '{{\"message\": \"first\", \"timestamp\": 7}}' > $TORCHELASTIC_ERROR_FILE; exit 5",
                first = t.path("first")
            ),
        ])
        .steps(&["new", "run", "new", "run"])
        .run();
    run.failed_as(END_WORKER_FAILURE);
    let ends = run.events("run");
    assert_eq!(ends[0]["result"]["root_cause"]["message"], "first");
    assert_eq!(ends[0]["result"]["root_cause"]["exit_code"], 5);
    let second = &ends[1]["result"]["root_cause"];
    assert!(text(&second["message"]).starts_with("Signal 9 (SIGKILL)"), "{second}");
    assert_eq!((&second["exit_code"], &second["error_timestamp"]), (&json!(-9), &json!(0)));
}

fn err_12_the_result_outlives_agent_and_spec() {
    let t = Case::new();
    let run = t
        .host()
        .set("log_dir", t.path("logs"))
        .set("redirects", 3)
        .probe(&["write", "2", "on stderr\\n", "error_long", "why", "where", "1700000000", "exit", "6"])
        .steps(&["run", "free_agent", "free_spec", "result"])
        .run();
    assert_eq!(run.event("result")["result"], run.event("run")["result"]);
    run.failed_as(END_WORKER_FAILURE);
}

fn err_13_the_last_lines_of_stderr() {
    let t = Case::new();
    let host = || t.host().set("log_dir", t.path("logs")).set("redirects", 2);
    let verbs = ["lines", "2", "1000", "line", "write", "2", "last \\0 words\\xff", "exit", "1"];
    let run = host().probe(&verbs).run();
    run.failed_as(END_WORKER_FAILURE);
    let all: String = (0..1000).map(|i| format!("line r0 {i}\n")).collect();
    let size = run.worker(0)["stderr_tail_size"].as_i64().expect("a size") as usize;
    assert!((3000..=4096).contains(&size), "{size}");
    assert_eq!(run.worker(0)["stderr_tail_terminated"], 1);
    let log = fs::read(text(&run.worker(0)["stderr_log"])).expect("the log");
    assert!(log.starts_with(all.as_bytes()));
    // Whole lines only: what stands before the tail is the end of a line.
    assert_eq!(log[log.len() - size - 1], b'\n');
    let run = host().set("stderr_tail", 0).probe(&verbs).run();
    assert_eq!(run.worker(0)["stderr_tail_size"], 0);
    let run = host()
        .set("stderr_tail", 20)
        .probe(&["write", "2", "one\\ntwo\\nthree\\nfour\\nfive\\n", "exit", "1"])
        .run();
    assert_eq!(run.worker(0)["stderr_tail"], "three\nfour\nfive\n");
    assert!(text(&run.result()["summary"]).contains("three"), "the summary shows it: {run}");
    // Only failures have one.
    let run = host().probe(&["write", "2", "x\\n"]).run();
    assert_eq!(run.worker(0)["stderr_tail"], "");
}

fn err_14_icerun_ends_as_the_first_failure() {
    for (verbs, code) in [
        (vec!["exit", "7"], 7),
        (vec!["exit", "255"], 255),
        (vec!["kill", "SEGV"], 139),
        (vec!["kill", "KILL"], 137),
        (vec!["exit", "0"], 0),
    ] {
        let t = Case::new();
        tool(&t, &["--nproc-per-node", "2"]).probe(&verbs).run().exited(code);
        let compatible = (code != 0) as i32;
        tool(&t, &["--compat-exit-code"]).probe(&verbs).run().exited(compatible);
        t.nothing_left();
    }
    // The first, not that of the lowest rank.
    let t = Case::new();
    let verbs = ["rank", "1", "exit", "5", ";", "exit_on", "TERM", "9", "0", "pause"];
    tool(&t, &["--nproc-per-node", "2"]).probe(&verbs).run().exited(5);
}

/// A row of the table of ice_result_exit_status() each; the tool ends with the number of the library.
fn err_14_the_exit_status_of_each_cause() {
    let of = |run: &Run| run.result()["exit_status"].as_i64().expect("a status");
    let case = |change: &dyn Fn(&Case, Host<'_>) -> Run| -> i64 {
        let t = Case::new();
        of(&change(&t, t.host()))
    };
    assert_eq!(case(&|_, host| host.probe(&["exit", "0"]).run()), 0);
    assert_eq!(case(&|_, host| host.probe(&["exit", "42"]).run()), 42);
    assert_eq!(case(&|_, host| host.probe(&["kill", "HUP"]).run()), 129);
    // A function that does not return.
    assert_eq!(case(&|_, host| host.callback(&["exit", "0"]).run()), 1);
    // Interrupted, by a signal and without one.
    let stopped = |signal: &'static str| {
        case(&|t, host| {
            let up = format!("await={}", t.path("up"));
            let host = host.probe(&["touch", &t.path("up"), "pause"]);
            host.steps(&["start", &up, &format!("stop={signal}"), "wait=60"]).run()
        })
    };
    assert_eq!((stopped("INT"), stopped("0")), (130, 143));
    // Of what is missing the program alone is 127.
    let missing: [&dyn Fn(Host<'_>) -> Host<'_>; 4] = [
        &|host| host.set("log_dir", "/proc/none/logs"),
        &|host| host.set("working_dir", "/nowhere"),
        &|host| host.set("redirects", 3).env("TMPDIR", "/nowhere"),
        &|host| host.set("event_file", "/nowhere/events"),
    ];
    for change in missing {
        assert_eq!(case(&|_, host| change(host).probe(&["exit", "0"]).run()), 123);
    }
    assert_eq!(case(&|_, host| host.set("program", "/nowhere/program").run()), 127);
    assert_eq!(case(&|_, host| host.set("program", "/etc/passwd").run()), 126);
    // Gone before its second attempt.
    let gone = case(&|t, host| {
        let once = t.write("once", b"#!/bin/sh\nrm \"$0\"\nexit 4\n", 0o755);
        host.set("max_restarts", 1).set("program", once).run()
    });
    assert_eq!(gone, 127);
    // Another thing is gone then: the agent cannot go on.
    let gone = case(&|t, host| {
        fs::create_dir(t.dir.join("wd")).unwrap();
        let host = host.set("max_restarts", 1).set("working_dir", t.path("wd"));
        host.set("program", "/bin/sh").set("arg", "-c").set("arg", "rmdir \"$PWD\"; exit 4").run()
    });
    assert_eq!(gone, 125);
}

/// Whatever found it stuck, and by whatever signal it ended: not as if the tool had been signalled.
fn err_14_a_stuck_worker_is_no_signal() {
    for (limit, verbs) in [
        (("file_timers", "1"), &["timer", "%p", "s", "0.2", "TERM", "pause"][..]),
        (("straggler_timeout", "0.2"), &["rank", "1", "pause", ";", "exit", "0"]),
    ] {
        let t = Case::new();
        let host = t.host().set("local_world_size", 2).set(limit.0, limit.1).set("shutdown_timeout", 0.5);
        let run = host.probe(verbs).run();
        run.failed_as(END_WORKER_FAILURE);
        assert_eq!(run.result()["root_cause"]["cause"], CAUSE_TIMED_OUT, "{run}");
        assert_eq!(run.result()["exit_status"], 124, "{run}");
    }
    let t = Case::new();
    let ended = tool(&t, &["--file-timers"]).probe(&["timer", "%p", "s", "0.2", "TERM", "pause"]).run();
    ended.exited(124);
    let compatible = tool(&t, &["--file-timers", "--compat-exit-code"]);
    compatible.probe(&["timer", "%p", "s", "0.2", "TERM", "pause"]).run().exited(1);
}

fn err_14_other_ends_have_other_codes() {
    let t = Case::new();
    tool(&t, &["--no-python", "/nowhere/at/all"]).run().exited(127);
    tool(&t, &["--no-python", "no-such-program-anywhere"]).run().exited(127);
    tool(&t, &["--no-python", "/etc/passwd"]).run().exited(126);
    let text = t.write("garbage", b"\x01\x02\x03", 0o755);
    tool(&t, &["--no-python", &text]).run().exited(126);
    tool(&t, &["--nproc-per-node", "0"]).probe(&["exit", "0"]).run().exited(2);
    tool(&t, &["--log-dir", "/proc/none/logs"]).probe(&["exit", "0"]).run().exited(123);
    t.nothing_left();
}

/// What torch's own summary lists is there for the root cause, and the others have a line each.
fn err_14_who_when_and_where() {
    let t = Case::new();
    let host = t.host().set("local_world_size", 3).set("log_dir", t.path("logs")).set("redirects", 3);
    let up = t.path("up");
    let ready = ["ignore", "TERM", "append", &up, "x", "await_lines", &up, "3"];
    let verbs = [
        &ready[..],
        &["rank", "1", "error_long", "the reason", "File x, line 3", "1700000000", "kill", "SEGV", ";"],
        &["error_long", "lost my peer", "stack", "1700000000", "await", &t.path("never")],
    ];
    let run = host.set("shutdown_timeout", 0.1).probe(&verbs.concat()).run();
    run.failed_as(END_WORKER_FAILURE);
    let summary = text(&run.result()["summary"]);
    let root = &run.result()["root_cause"];
    let host_name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(root["hostname"], host_name.trim());
    let pid = &root["pid"];
    let first = format!("rank 1 (local rank 1, pid {pid}): Signal 11 (SIGSEGV)");
    assert!(text(&run.result()["message"]).starts_with(&first), "{summary}");
    assert!(text(&run.result()["message"]).contains(": the reason, after"), "{summary}");
    for line in [
        "    File x, line 3".to_string(),
        format!("    host: {}", host_name.trim()),
        "    exit code: -11 (SIGSEGV)".to_string(),
        format!("    error file: {}", text(&root["error_file"])),
        format!("    stdout: {}", text(&root["stdout_log"])),
        format!("    stderr: {}", text(&root["stderr_log"])),
    ] {
        assert!(summary.lines().any(|said| said == line), "'{line}' is not in: {summary}");
    }
    // ISO 8601 in UTC: the moment that its end was seen.
    let time = summary.lines().find_map(|line| line.strip_prefix("    time: ")).expect("a time");
    let seen = std::time::UNIX_EPOCH
        + std::time::Duration::from_millis(root["end_unix_ns"].as_u64().unwrap() / 1_000_000);
    assert_eq!(humantime::parse_rfc3339(time).expect("a time"), seen);
    for rank in [0, 2] {
        let line = summary.lines().find(|line| line.starts_with(&format!("  rank {rank} "))).expect("a line");
        assert!(line.contains("stopped by the agent, SIGKILL"), "{summary}");
    }
    // Where nothing goes to files, nothing is said of them.
    let t = Case::new();
    let run = t.host().probe(&["error_file", r#"{"message": "short"}"#, "exit", "5"]).run();
    let summary = text(&run.result()["summary"]);
    assert!(summary.contains(": exit code 5: short, after"), "{summary}");
    assert!(summary.contains("    exit code: 5\n") && !summary.contains("    stdout"), "{summary}");
}

/// A second failure beside the root cause says how it ended, too.
fn err_14_each_failure_says_how_it_ended() {
    let t = Case::new();
    let up = t.path("up");
    let verbs = [
        &["append", &up, "x", "await_lines", &up, "2", "error_long", "why %r", "s", "1700000000"][..],
        &["stop", "kill", "KILL"],
    ];
    // Both are stopped, so that the agent finds both dead: none of them is the agent's.
    let host = t.host().set("local_world_size", 2).set("log_dir", t.path("logs"));
    let running = host.set("shutdown_timeout", 0.1).probe(&verbs.concat()).spawn();
    t.wait_lines("up", 2);
    let stopped = || -> Vec<i32> {
        children(running.pid()).into_iter().filter(|pid| state(*pid) == Some('T')).collect()
    };
    wait_for("both to stand still", || stopped().len() == 2);
    let workers = stopped();
    running.signal(libc::SIGSTOP);
    wait_for("all threads of the agent to stand still", || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", running.pid())).unwrap().flatten();
        tasks.map(|task| task.file_name().to_string_lossy().parse().unwrap()).all(|id| state(id) == Some('T'))
    });
    for pid in &workers {
        send(*pid, libc::SIGKILL);
    }
    wait_for("their ends", || workers.iter().all(|pid| gone(*pid)));
    running.signal(libc::SIGCONT);
    let run = running.finish();
    run.failed_as(END_WORKER_FAILURE);
    let summary = text(&run.result()["summary"]);
    assert_eq!(
        summary.matches("): Signal 9 (SIGKILL): why ").count(),
        3,
        "the head, the cause, the other: {summary}"
    );
}

fn err_14_the_report_is_for_people() {
    let t = Case::new();
    let ended = tool(&t, &["--nproc-per-node", "3", "--log-dir", &t.path("logs"), "--redirects", "3"])
        .probe(&[
            "rank",
            "1",
            "error_long",
            "the reason",
            "stack",
            "1700000000",
            "write",
            "2",
            "last words\\n",
            "exit",
            "5",
            ";",
            "pause",
        ])
        .run();
    let report = ended.exited(5).err();
    let first = report.find("rank 1").expect("the root cause");
    assert!(report.contains("the reason") && report.contains("last words"), "{report}");
    // Those that the agent stopped come last.
    assert!(report.find("rank 0").is_none_or(|at| at > first), "{report}");
    assert_eq!(ended.out(), "");
    // A success says nothing, but for a note on OMP_NUM_THREADS.
    let ended = tool(&t, &["--nproc-per-node", "2"]).env("OMP_NUM_THREADS", "1").probe(&["exit", "0"]).run();
    assert_eq!(ended.exited(0).err(), "");
}

pub fn tests() -> Vec<Trial> {
    tests![
        err_01_torchs_error_file_is_read,
        err_02_no_error_file,
        err_02_signal_text_is_torchs,
        err_04_the_short_form,
        err_04_any_bytes_are_data,
        err_05_the_first_failure_is_the_first,
        err_06_the_agents_own_error_file,
        err_06_a_success_leaves_the_agents_own_error_file_alone,
        err_08_no_error_file_after_a_success,
        err_09_an_earlier_attempts_error_is_not_shown,
        err_10_reports_of_one_process_do_not_mix,
        err_12_the_result_outlives_agent_and_spec,
        err_13_the_last_lines_of_stderr,
        err_14_icerun_ends_as_the_first_failure,
        err_14_the_exit_status_of_each_cause,
        err_14_a_stuck_worker_is_no_signal,
        err_14_other_ends_have_other_codes,
        err_14_who_when_and_where,
        err_14_each_failure_says_how_it_ended,
        err_14_the_report_is_for_people,
    ]
}
