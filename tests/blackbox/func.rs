//! Area FN: functions as workers, whatever way they start, and what they return.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::harness::{
    CAUSE_OWN_FAILURE, CAUSE_STOPPED_BY_AGENT, CAUSE_SUCCESS, Case, END_SUCCEEDED, END_WORKER_FAILURE,
    OUTCOME_EXITED, OUTCOME_SIGNALED, PATIENCE, Run, Way, alive, gone, probe, program, send, soon, wait_for,
};
use crate::{tests, tests_by_way};

pub fn tests() -> Vec<Trial> {
    let by_way = tests_by_way![
        Way::ALL;
        fn_01_values_by_rank_and_lines_in_their_logs,
        fn_02_no_value_and_an_empty_value,
        fn_04_values_of_any_bytes,
        fn_04_values_of_many_sizes,
        fn_05_two_agents_of_one_process,
        fn_06_a_failed_run_shows_no_values,
        fn_08_the_number_returned_is_the_exit_code,
        fn_08_the_others_are_stopped,
        fn_09_exit_in_a_function,
        fn_10_exit_0_without_a_return,
        fn_12_killed_in_the_middle_of_a_value,
        fn_13_an_atexit_function_is_waited_for,
        fn_14_an_atexit_function_that_exits,
        fn_16_started_by_a_busy_host,
        fn_26_an_agent_within_a_worker,
        fn_28_an_exception_leaves_the_function needs(cxx),
        fn_29_threads_that_still_run,
        fn_values_are_in_memory_that_outlives_the_agent,
        fn_a_later_value_replaces_the_first,
        fn_who_am_i,
        fn_record_error,
        fn_deep_recursion,
        fn_signals_and_crashes,
        fn_output_of_stdio_is_flushed,
        fn_children_of_a_function,
        fn_a_restart_calls_it_again,
    ];
    let large = tests_by_way![
        [Way::Fork, Way::ForkserverOfLibrary];
        fn_values_of_two_gibibytes needs(memory_8g),
    ];
    let once = tests![
        fn_17_what_the_host_holds_back_is_written_once,
        fn_26_an_agent_within_a_program,
        fn_record_error_outside_a_worker,
        fn_the_hosts_memory_is_a_copy,
    ];
    [by_way, large, once].into_iter().flatten().collect()
}

fn value(run: &Run, rank: usize) -> &Value {
    &run.worker(rank)["value"]
}

fn fn_01_values_by_rank_and_lines_in_their_logs(way: Way) {
    for redirects in 0..4 {
        let t = Case::new();
        let host =
            t.host().set("local_world_size", 2).set("redirects", redirects).set("log_dir", t.path("logs"));
        let run = host
            .function(way, &["write", "1", "out%r\\n", "write", "2", "err%r\\n", "return", "hello_%r"])
            .run();
        run.succeeded();
        for rank in 0..2 {
            assert_eq!(value(&run, rank)["bytes"], format!("hello_{rank}"));
            assert_eq!(run.worker(rank)["has_value"], 1);
            assert_eq!(run.worker(rank)["global_rank"], rank);
            for (bit, field, text) in [(1, "stdout_log", "out"), (2, "stderr_log", "err")] {
                let log = run.worker(rank)[field].as_str().unwrap();
                if redirects & bit != 0 {
                    assert_eq!(std::fs::read_to_string(log).unwrap(), format!("{text}{rank}\n"));
                } else {
                    assert_eq!(log, "");
                    let console = if bit == 1 { run.out() } else { run.err() };
                    assert!(console.contains(&format!("{text}{rank}\n")), "{console}");
                }
            }
        }
    }
}

fn fn_02_no_value_and_an_empty_value(way: Way) {
    let t = Case::new();
    let run = t.host().set("local_world_size", 2).function(way, &["rank", "1", "return_empty", ";"]).run();
    run.succeeded();
    assert_eq!(run.worker(0)["has_value"], 0);
    assert_eq!(run.worker(1)["has_value"], 1);
    for rank in 0..2 {
        assert_eq!(run.worker(rank)["value_size"], 0);
        assert_eq!(value(&run, rank), &Value::Null);
        assert_eq!(run.worker(rank)["cause"], CAUSE_SUCCESS);
    }
    let run = t.host().function(way, &["return_buffer", "0"]).run();
    run.succeeded();
    assert_eq!(run.worker(0)["has_value"], 1);
    assert_eq!(run.worker(0)["value_size"], 0);
    // A program has no value.
    let run = t.host().probe(&[]).run();
    assert_eq!(run.worker(0)["has_value"], 0);
}

fn fn_04_values_of_any_bytes(way: Way) {
    let t = Case::new();
    let run = t.host().function(way, &["return_escaped", "\\0\\xff\\0\\0\\xff\\xfe\\n\\0"]).run();
    run.succeeded();
    assert_eq!(value(&run, 0)["size"], 8);
    assert_eq!(value(&run, 0)["bytes"]["hex"], "00ff0000fffe0a00");
}

/// The hash that host.c writes of the pattern that functions.h fills in; each is worked out once.
pub fn pattern_hash(size: u64) -> String {
    static KNOWN: Mutex<BTreeMap<u64, u64>> = Mutex::new(BTreeMap::new());
    let work_out = || {
        let byte = |i: u64| i.wrapping_mul(31).wrapping_add(i / 256) as u8;
        (0..size)
            .fold(1469598103934665603, |hash: u64, i| (hash ^ u64::from(byte(i))).wrapping_mul(1099511628211))
    };
    let hash = *KNOWN.lock().expect("no panic in here").entry(size).or_insert_with(work_out);
    format!("{hash:016x}")
}

fn fn_04_values_of_many_sizes(way: Way) {
    for verb in ["return_bytes", "return_buffer"] {
        for size in [1, 4095, 4096, 4097, 65536, 10_000_000] {
            let t = Case::new();
            let run = t.host().set("local_world_size", 2).function(way, &[verb, &size.to_string()]).run();
            run.succeeded();
            for rank in 0..2 {
                let value = value(&run, rank);
                assert_eq!(value["size"], size);
                assert_eq!(value["hash"], pattern_hash(size), "{verb} {size}");
                assert_eq!(value["page_offset"], 0, "page-aligned");
            }
        }
    }
}

fn fn_05_two_agents_of_one_process(way: Way) {
    // farm.c runs agents at the same time; each returns "agent A rank R" and finds only its own.
    let t = Case::new();
    let output = t.command(program("farm")).args(["2", way.name()]).arg(t.path("logs")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    t.nothing_left();
}

fn fn_06_a_failed_run_shows_no_values(way: Way) {
    let t = Case::new();
    let verbs = [
        "rank",
        "0",
        "return",
        "early",
        "append",
        &t.path("pid"),
        "%p",
        "code",
        "0",
        ";",
        "await_lines",
        &t.path("pid"),
        "1",
        "await_exit",
        &t.path("pid"),
        "return",
        "late",
        "code",
        "4",
    ];
    let run = t.host().set("local_world_size", 2).function(way, &verbs).run();
    run.failed_as(END_WORKER_FAILURE);
    for rank in 0..2 {
        assert_eq!(run.worker(rank)["has_value"], 0);
        assert_eq!(run.worker(rank)["value_size"], 0);
        assert_eq!(value(&run, rank), &Value::Null);
    }
    assert_eq!(run.worker(0)["cause"], CAUSE_SUCCESS);
    assert_eq!(run.worker(0)["exit_code"], 0);
    assert_eq!(run.result()["root_cause"]["global_rank"], 1);
    let failures = run.result()["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 1);
    assert_eq!(failures[0]["global_rank"], 1);
    assert_eq!(failures[0]["exit_code"], 4);
}

fn fn_08_the_number_returned_is_the_exit_code(way: Way) {
    for (number, code) in
        [("7", 7), ("1", 1), ("255", 255), ("256", 255), ("-1", 255), ("65536", 255), ("-2147483648", 255)]
    {
        let t = Case::new();
        let run = t.host().function(way, &["code", number]).run();
        run.failed_as(END_WORKER_FAILURE);
        assert_eq!(run.worker(0)["exit_code"], code, "{number}");
        assert_eq!(run.worker(0)["outcome"], OUTCOME_EXITED);
        assert_eq!(run.worker(0)["cause"], CAUSE_OWN_FAILURE);
        assert!(run.worker(0)["message"].as_str().unwrap().contains(&code.to_string()), "{number}: {run}");
    }
}

fn fn_08_the_others_are_stopped(way: Way) {
    let t = Case::new();
    let verbs = [
        "append",
        &t.path("ready"),
        "%p",
        "rank",
        "1",
        "await_lines",
        &t.path("ready"),
        "3",
        "code",
        "7",
        ";",
        "pause",
    ];
    let run = t.host().set("local_world_size", 3).function(way, &verbs).run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(run.worker(1)["exit_code"], 7);
    for rank in [0, 2] {
        assert_eq!(run.worker(rank)["cause"], CAUSE_STOPPED_BY_AGENT);
        assert_eq!(run.worker(rank)["signal"], libc::SIGTERM);
    }
    assert_eq!(run.result()["root_cause"]["global_rank"], 1);
}

fn fn_09_exit_in_a_function(way: Way) {
    for verb in ["exit", "_exit"] {
        let t = Case::new();
        let run = t.host().set("log_dir", t.path("logs")).function(way, &["return", "x", verb, "138"]).run();
        run.failed_as(END_WORKER_FAILURE);
        let worker = run.worker(0);
        assert_eq!(worker["exit_code"], 138);
        assert_eq!(worker["error_file"], "");
        assert_eq!(worker["error_data"], Value::Null);
        assert_eq!(worker["has_value"], 0);
        assert!(worker["message"].as_str().unwrap().contains("138"), "{run}");
    }
}

fn fn_10_exit_0_without_a_return(way: Way) {
    for verb in ["exit", "_exit"] {
        let t = Case::new();
        let verbs = ["rank", "0", verb, "0", ";", "pause"];
        let run = t.host().set("local_world_size", 2).function(way, &verbs).run();
        run.failed_as(END_WORKER_FAILURE);
        let worker = run.worker(0);
        assert_eq!(worker["exit_code"], 0);
        assert_eq!(worker["cause"], CAUSE_OWN_FAILURE);
        assert_eq!(worker["has_value"], 0);
        assert!(worker["message"].as_str().unwrap().contains("exited without returning"), "{run}");
        assert_eq!(run.result()["root_cause"]["global_rank"], 0);
        assert_eq!(run.worker(1)["cause"], CAUSE_STOPPED_BY_AGENT);
    }
    // A value that was set does not make up for it.
    let t = Case::new();
    let run = t.host().function(way, &["return", "value", "_exit", "0"]).run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(run.worker(0)["has_value"], 0);
}

fn fn_12_killed_in_the_middle_of_a_value(way: Way) {
    let t = Case::new();
    let pid = t.path("pid");
    let running = t
        .host()
        .function(way, &["return_half", "1500000000", "append", &pid, "%p", "stop", "code", "0"])
        .spawn();
    // 750 MB take their time on a busy machine.
    soon(3 * PATIENCE, || !t.lines("pid").is_empty() || gone(running.pid()));
    let pid: i32 = t.wait_lines("pid", 1)[0].parse().unwrap();
    wait_for("the worker to stop", || crate::harness::state(pid) == Some('T'));
    send(pid, libc::SIGKILL);
    let run = running.finish();
    run.failed_as(END_WORKER_FAILURE);
    let worker = run.worker(0);
    assert_eq!(worker["outcome"], OUTCOME_SIGNALED);
    assert_eq!(worker["signal"], libc::SIGKILL);
    assert_eq!(worker["exit_code"], -libc::SIGKILL);
    assert_eq!(worker["has_value"], 0);
    assert_eq!(worker["value"], Value::Null);
}

fn fn_13_an_atexit_function_is_waited_for(way: Way) {
    let t = Case::new();
    let verbs = [
        "count",
        "TERM",
        &t.path("terms"),
        "atexit_sleep",
        "1",
        "return",
        "v",
        "append",
        &t.path("returned"),
        "%t",
    ];
    let run = t.host().function(way, &verbs).run();
    run.succeeded();
    let returned: i64 = t.lines("returned")[0].parse().unwrap();
    assert!(run.worker(0)["end_ns"].as_i64().unwrap() - returned >= 1_000_000_000);
    assert_eq!(t.lines("terms").len(), 0, "it was signalled");
    assert_eq!(value(&run, 0)["bytes"], "v");
    assert!(gone(run.worker(0)["pid"].as_i64().unwrap() as i32));
}

fn fn_14_an_atexit_function_that_exits(way: Way) {
    let t = Case::new();
    let run = t.host().function(way, &["atexit_exit", "9", "return", "v"]).run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(run.worker(0)["exit_code"], 9);
    assert_eq!(run.worker(0)["has_value"], 0);
}

fn fn_16_started_by_a_busy_host(way: Way) {
    let t = Case::new();
    // 16 threads at malloc, stdio and the library's own locks; 1,000 workers that use malloc and stdio as well.
    let host = t.host().step("hammer=16").set("local_world_size", 4);
    let run = host
        .function(way, &["malloc_and_stdio", "return", "ok"])
        .steps(&["repeat=250:new,run,free_agent,free_result", "unhammer", "run"])
        .limit(Duration::from_secs(300))
        .run();
    assert!(run.status.success(), "{run}");
    assert_eq!(run.event("repeated")["failed"], 0, "{run}");
    assert_eq!(run.result()["end"], END_SUCCEEDED);
    t.nothing_left();
}

fn fn_17_what_the_host_holds_back_is_written_once() {
    let t = Case::new();
    let host =
        t.host().set("print", "held back").set("atexit", t.path("host_atexit")).set("local_world_size", 4);
    let verbs = [
        "rank",
        "3",
        "atexit_append",
        &t.path("worker_atexit"),
        ";",
        "rank",
        "2",
        "exit",
        "0",
        ";",
        "print",
        "worker %r",
        "rank",
        "1",
        "exit",
        "3",
        ";",
    ];
    let run = host.callback(&verbs).run();
    assert_eq!(run.out().matches("held back").count(), 1, "{}", run.out());
    let lines = t.lines("host_atexit");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(run.status.success());
    t.nothing_left();
    // The callback's own function runs in its worker.
    let t = Case::new();
    let host = t.host().set("print", "held back\n").set("atexit", t.path("host_atexit"));
    let run = host.callback(&["atexit_append", &t.path("worker_atexit"), "print", "from the worker"]).run();
    run.succeeded();
    assert_eq!(t.lines("worker_atexit"), ["atexit"]);
    assert_eq!(t.lines("host_atexit").len(), 1);
    assert_eq!(run.out().matches("held back").count(), 1);
    assert_eq!(run.out().matches("from the worker").count(), 1);
}

fn fn_26_an_agent_within_a_program() {
    let t = Case::new();
    let inner = t.path("inner");
    // The outer worker is a host itself, whose two workers would sleep for minutes.
    let host = t
        .host()
        .set("program", program("host").display())
        .set("log_dir", t.path("logs"))
        .set("local_world_size", 2);
    let mut host = host.set("arg", t.path("inner.${local_rank}.lines"));
    for arg in ["max_restarts=0", "shutdown_timeout=5", "local_world_size=2"] {
        host = host.set("arg", arg);
    }
    host = host
        .set("arg", format!("log_dir={}", t.path("inner_logs")))
        .set("arg", format!("program={}", probe().display()));
    for arg in ["dump", &t.path("dump.%p"), "append", &inner, "%p", "pause"] {
        host = host.set("arg", format!("arg={arg}"));
    }
    let running = host.spawn();
    let pids: Vec<i32> = t.wait_lines("inner", 4).iter().map(|pid| pid.parse().unwrap()).collect();
    let mut errors = BTreeSet::new();
    let mut ranks: Vec<String> = Vec::new();
    let mut parents = BTreeSet::new();
    for pid in &pids {
        let dump = t.json(&format!("dump.{pid}"));
        let env = crate::sp::environment(&dump);
        assert_eq!(env["WORLD_SIZE"], "2");
        assert!(env["TORCHELASTIC_ERROR_FILE"].starts_with(&t.path("inner_logs")));
        errors.insert(env["TORCHELASTIC_ERROR_FILE"].clone());
        ranks.push(env["RANK"].clone());
        parents.insert(dump["ppid"].as_i64().unwrap() as i32);
    }
    ranks.sort();
    assert_eq!(ranks, ["0", "0", "1", "1"]);
    assert_eq!(errors.len(), 4, "each has its own error file");
    assert_eq!(parents.len(), 2);
    // The middle process is told to end and dies of it: its workers go too.
    let middle = *parents.first().unwrap();
    assert!(alive(middle));
    send(middle, libc::SIGTERM);
    let run = running.finish();
    run.failed_as(END_WORKER_FAILURE);
    wait_for("the inner workers to be gone", || pids.iter().all(|pid| gone(*pid)));
}

/// An agent within a worker that is a function: each starts two workers, as programs and in its own way.
fn fn_26_an_agent_within_a_worker(way: Way) {
    let method = way.method().to_string();
    let library = program("libverbs.so").display().to_string();
    let probe = probe().display().to_string();
    let own_file = if way.is_of_library() { library.as_str() } else { "" };
    for (inner, file) in [("program", probe.as_str()), (&method, own_file), ("1", &library), ("2", &library)]
    {
        let t = Case::new();
        let host = t.host().set("local_world_size", 2).env("NEST_LOG_DIR", &t.path("inner_logs"));
        let dump = t.path("dump.%p");
        let verbs = [
            "rank",
            "1",
            "await",
            &t.path("go"),
            ";",
            "append",
            &t.path("middle"),
            "%p",
            "nest",
            inner,
            file,
            "dump",
            &dump,
            "child",
            "append",
            &t.path("inner"),
            "%p",
            "pause",
            ";",
            "append",
            &t.path("inner"),
            "%p",
            "pause",
            ";",
        ];
        let running = host.function(way, &verbs).spawn();
        // One after the other: each is the first of its two.
        let pids = |count| -> Vec<i32> {
            t.wait_lines("inner", count).iter().map(|pid| pid.parse().unwrap()).collect()
        };
        let outer: i32 = t.wait_lines("middle", 1)[0].parse().unwrap();
        let first = pids(4);
        t.write("go", b"", 0o644);
        let all = pids(8);
        let mut ranks = Vec::new();
        let mut errors = BTreeSet::new();
        for pid in &all {
            if !t.dir.join(format!("dump.{pid}")).exists() {
                continue; // a child
            }
            let env = crate::sp::environment(&t.json(&format!("dump.{pid}")));
            assert_eq!(env["WORLD_SIZE"], "2");
            assert_eq!(env["RANK"], env["LOCAL_RANK"]);
            ranks.push(env["RANK"].clone());
            errors.insert(env["TORCHELASTIC_ERROR_FILE"].clone());
        }
        ranks.sort();
        assert_eq!(ranks, ["0", "0", "1", "1"], "{inner}");
        assert_eq!(errors.len(), 4, "each has its own error file");
        // The middle process dies, and its workers with it; then all the others are stopped.
        send(outer, libc::SIGKILL);
        wait_for("the inner workers to be gone", || first.iter().all(|pid| gone(*pid)));
        let run = running.finish();
        run.failed_as(END_WORKER_FAILURE);
        assert_eq!(run.result()["root_cause"]["signal"], libc::SIGKILL);
        wait_for("all inner workers to be gone", || all.iter().all(|pid| gone(*pid)));
    }
}

fn fn_28_an_exception_leaves_the_function(way: Way) {
    let t = Case::new();
    let throw = crate::abi::cxx_program(&t, "throw");
    let library = crate::abi::cxx_library(&t, "throw");
    let mut command = t.command(throw);
    command.arg(way.method().to_string());
    if way.is_of_library() {
        command.arg(library);
    }
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    // The program prints the end, the outcome and the signal of its one worker.
    let wanted = format!("end {END_WORKER_FAILURE} outcome {OUTCOME_SIGNALED} signal {}\n", libc::SIGABRT);
    assert_eq!(out, wanted);
    // What C++ says of it is not lost.
    assert!(err.contains("terminate called after throwing an instance of 'std::runtime_error'"), "{err}");
    assert!(err.contains("left the function"), "{err}");
    t.nothing_left();
}

fn fn_29_threads_that_still_run(way: Way) {
    let t = Case::new();
    let run = t.host().function(way, &["threads", "3", "return", "done"]).run();
    run.succeeded();
    assert_eq!(value(&run, 0)["bytes"], "done");
    run.within(Duration::from_secs(20));
}

fn fn_values_are_in_memory_that_outlives_the_agent(way: Way) {
    let t = Case::new();
    let host = t.host().set("local_world_size", 2).function(way, &["return_bytes", "100000"]);
    let run = host.steps(&["run", "free_agent", "free_spec", "result"]).run();
    run.succeeded();
    let last = &run.event("result")["result"]["workers"];
    for rank in 0..2 {
        assert_eq!(last[rank]["value"]["hash"], pattern_hash(100_000));
    }
    // wait() hands out more than one result; each stands alone.
    let host = t.host().function(way, &["return_bytes", "100000"]);
    let run = host.steps(&["start", "wait=60", "free_result", "wait=60", "free_agent", "result"]).run();
    run.succeeded();
    assert_eq!(run.event("result")["result"]["workers"][0]["value"]["hash"], pattern_hash(100_000));
}

fn fn_values_of_two_gibibytes(way: Way) {
    let t = Case::new();
    let size: u64 = (2 << 30) + 5;
    let run =
        t.host().function(way, &["return_buffer", &size.to_string()]).limit(Duration::from_secs(300)).run();
    run.succeeded();
    let byte = |i: u64| ((i.wrapping_mul(31).wrapping_add(i / 256)) & 0xff) as u8;
    let value = value(&run, 0);
    assert_eq!(value["size"], size);
    assert_eq!(value["first"], byte(0));
    assert_eq!(value["middle"], byte(size / 2));
    assert_eq!(value["last"], byte(size - 1));
}

fn fn_a_later_value_replaces_the_first(way: Way) {
    let t = Case::new();
    for (verbs, wanted) in [
        (["return_bytes", "100000", "return", "short"], "short"),
        (["return_buffer", "8", "return", "longer than eight"], "longer than eight"),
    ] {
        let run = t.host().function(way, &verbs).run();
        run.succeeded();
        assert_eq!(value(&run, 0)["bytes"], wanted);
    }
    let run = t.host().function(way, &["return", "a", "return_buffer", "4096"]).run();
    run.succeeded();
    assert_eq!(value(&run, 0)["hash"], pattern_hash(4096));
    let run = t.host().function(way, &["return", "a", "return_empty"]).run();
    run.succeeded();
    assert_eq!(run.worker(0)["value_size"], 0);
    assert_eq!(run.worker(0)["has_value"], 1);
}

fn fn_who_am_i(way: Way) {
    let t = Case::new();
    let host = t.host().set("local_world_size", 3).set("max_restarts", 1);
    let verbs = [
        "ranks",
        &t.path("%r.%a"),
        "await_lines",
        &t.path("0.%a"),
        "1",
        "await_lines",
        &t.path("1.%a"),
        "1",
        "await_lines",
        &t.path("2.%a"),
        "1",
        "attempt",
        "0",
        "code",
        "1",
        ";",
    ];
    host.function(way, &verbs).run().succeeded();
    for rank in 0..3 {
        for attempt in 0..2 {
            let seen = t.lines(&format!("{rank}.{attempt}"))[0].clone();
            assert_eq!(seen, format!("{rank} {rank} {rank} 3 3 {attempt}"));
        }
    }
}

fn fn_record_error(way: Way) {
    let t = Case::new();
    let host = t.host().set("log_dir", t.path("logs")).set("local_world_size", 2);
    let verbs = [
        "rank",
        "1",
        "record",
        "out of \"cheese\"\nat line 7 \\ é",
        "frame 1\nframe 2",
        "code",
        "3",
        ";",
        "pause",
    ];
    let run = host.function(way, &verbs).run();
    run.failed_as(END_WORKER_FAILURE);
    let worker = run.worker(1);
    assert_eq!(worker["message"], "out of \"cheese\"\nat line 7 \\ é");
    assert_eq!(worker["call_stack"], "frame 1\nframe 2");
    assert_eq!(worker["exit_code"], 3);
    let age =
        worker["end_unix_ns"].as_i64().unwrap() / 1_000_000_000 - worker["error_timestamp"].as_i64().unwrap();
    assert!((-1..60).contains(&age), "{age}");
    let file = worker["error_file"].as_str().unwrap();
    let raw = std::fs::read_to_string(file).unwrap();
    assert_eq!(worker["error_data"]["bytes"], raw);
    let json: Value = serde_json::from_str(&raw).unwrap();
    assert_eq!(json["message"]["message"], "out of \"cheese\"\nat line 7 \\ é");
    assert_eq!(json["message"]["extraInfo"]["py_callstack"], "frame 1\nframe 2");
    assert_eq!(run.worker(0)["error_file"], "");
    // Only whole files under the right name: nothing else lies there.
    let dir = std::path::Path::new(file).parent().unwrap();
    let names: Vec<_> = std::fs::read_dir(dir).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["error.json"]);
}

fn fn_record_error_outside_a_worker() {
    // contract.c says what the function answers without the variable, and with one that leads nowhere.
    let t = Case::new();
    let output = t.command(program("contract")).arg("record").arg(t.path("file")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn fn_deep_recursion(way: Way) {
    // As deep as a main thread may go, whatever the stack of the thread that ran the agent.
    let t = Case::new();
    let run = t.host().function(way, &["deep", "7000000", "return", "ok"]).run();
    run.succeeded();
    assert_eq!(value(&run, 0)["bytes"], "ok");
    let run =
        t.host().function(way, &["deep", "7000000", "return", "ok"]).steps(&["run_in_thread=131072"]).run();
    run.succeeded();
    let run = t.host().step("limit=stack:33554432").function(way, &["deep", "30000000"]).run();
    run.succeeded();
    // And no further: an endless recursion is a crash of the worker, not of the host.
    let run = t.host().set("log_dir", t.path("logs")).function(way, &["deep", "1000000000000"]).run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(run.worker(0)["signal"], libc::SIGSEGV);
}

fn fn_signals_and_crashes(way: Way) {
    for (verbs, signal) in
        [(vec!["segv"], libc::SIGSEGV), (vec!["abort"], libc::SIGABRT), (vec!["kill", "USR1"], libc::SIGUSR1)]
    {
        let t = Case::new();
        let host = t.host().step("handler=USR1").step("handler=SEGV").set("log_dir", t.path("logs"));
        let run = host.function(way, &verbs).run();
        run.failed_as(END_WORKER_FAILURE);
        assert_eq!(run.worker(0)["outcome"], OUTCOME_SIGNALED);
        assert_eq!(run.worker(0)["signal"], signal);
    }
}

fn fn_output_of_stdio_is_flushed(way: Way) {
    let t = Case::new();
    let host = t.host().set("log_dir", t.path("logs")).set("redirects", 3).set("print", "the host's");
    let run = host.function(way, &["print", "one", "print", "two"]).run();
    run.succeeded();
    let log = run.worker(0)["stdout_log"].as_str().unwrap();
    assert_eq!(std::fs::read_to_string(log).unwrap(), "one\ntwo\n");
    assert_eq!(run.out(), "the host's");
}

fn fn_children_of_a_function(way: Way) {
    // A child in the worker's group does not outlive the group; the worker may wait for its own children.
    let t = Case::new();
    let verbs = [
        "child",
        "append",
        &t.path("child"),
        "%p",
        ";",
        "wait_children",
        "child",
        "append",
        &t.path("left"),
        "%p",
        "pause",
        ";",
        "await_lines",
        &t.path("left"),
        "1",
        "return",
        "ok",
    ];
    let run = t.host().function(way, &verbs).run();
    run.succeeded();
    assert_eq!(t.lines("child").len(), 1);
    assert_eq!(value(&run, 0)["bytes"], "ok");
    let left: i32 = t.lines("left")[0].parse().unwrap();
    assert!(gone(left));
}

fn fn_the_hosts_memory_is_a_copy() {
    let t = Case::new();
    let host =
        t.host().callback(&["setenv", "MINE", "1", "chdir", "/", "umask", "0", "dump", &t.path("worker")]);
    let run = host.steps(&["run", &format!("dump_self={}", t.path("host"))]).run();
    run.succeeded();
    assert_eq!(t.json("worker")["cwd"], "/");
    assert_ne!(t.json("host")["cwd"], "/");
    assert_ne!(t.json("host")["umask"], 0);
    assert!(!crate::sp::environment(&t.json("host")).contains_key("MINE"));
}

fn fn_a_restart_calls_it_again(way: Way) {
    let t = Case::new();
    let host = t.host().set("max_restarts", 3).set("local_world_size", 2);
    let run = host.function(way, &["return", "attempt %a", "until_attempt", "2", "code", "5", ";"]).run();
    run.succeeded();
    assert_eq!(run.result()["restarts"], 2);
    for rank in 0..2 {
        assert_eq!(value(&run, rank)["bytes"], "attempt 2");
        assert_eq!(run.worker(rank)["attempt"], 2);
    }
}
