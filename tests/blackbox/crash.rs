//! Area FN: what a callback that crashes leaves in its error file, and that it dies as it would have anyhow.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::harness::{
    CAUSE_OWN_FAILURE, CAUSE_STOPPED_BY_AGENT, Case, END_WORKER_FAILURE, OUTCOME_SIGNALED, Run, probe,
    program, send,
};
use crate::tests;

pub fn tests() -> Vec<Trial> {
    tests![
        fn_crash_leaves_a_record,
        fn_crash_by_endless_recursion,
        fn_crash_with_the_lock_of_malloc,
        fn_crash_by_a_jump_to_nowhere,
        fn_crash_with_a_smashed_stack,
        needs(cxx): fn_crash_by_an_exception,
        fn_crash_in_another_thread,
        fn_crash_in_many_threads_at_once,
        fn_crash_with_an_own_handler,
        fn_crash_with_a_handler_that_hands_on,
        fn_crash_after_an_own_record,
        fn_crash_of_a_child_is_not_the_workers,
        fn_crash_signal_from_outside,
        fn_crash_peers_that_are_stopped_leave_none,
        fn_crash_dumps_the_same_core,
        fn_crash_is_over_soon_if_nobody_takes_the_record,
        fn_crash_at_the_limits,
        fn_crash_of_a_deleted_program,
    ]
}

/// The functions of verbs.h and host.c that a crash has above it, inner ones first.
const CALLERS: [&str; 5] = ["crash_leaf", "crash_middle", "crash_outer", "run_verbs", "callback"];

/// One callback that does these verbs, with its files in `logs` and without cores.
fn crashed(t: &Case, verbs: &[&str]) -> Run {
    let run = t.host().step("limit=core:0").set("log_dir", t.path("logs")).callback(verbs).run();
    run.failed_as(END_WORKER_FAILURE);
    run
}

#[track_caller]
fn died_of(run: &Run, signal: i32) {
    let worker = run.worker(0);
    assert_eq!(worker["outcome"], OUTCOME_SIGNALED, "{run}");
    assert_eq!(worker["signal"], signal, "{run}");
    assert_eq!(worker["exit_code"], -signal);
    assert_eq!(worker["cause"], CAUSE_OWN_FAILURE);
}

/// What the message says behind the signal and the PID, which are checked here.
#[track_caller]
fn reason(worker: &Value, signal: i32, name: &str) -> String {
    let message = worker["message"].as_str().unwrap();
    let start = format!("Signal {signal} ({name}) received by PID {}: ", worker["pid"]);
    message.strip_prefix(&start).unwrap_or_else(|| panic!("'{start}' does not begin: {message}")).to_string()
}

/// The lines of the call stack: number and address checked, the rest returned.
#[track_caller]
fn frames(worker: &Value) -> Vec<String> {
    let stack = worker["call_stack"].as_str().unwrap();
    let lines = stack.lines().enumerate().filter(|(_, line)| !line.starts_with('('));
    let frames: Vec<String> = lines
        .map(|(number, line)| {
            let rest = line.strip_prefix(&format!("#{number} 0x")).unwrap_or_else(|| panic!("{stack}"));
            let (address, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            u64::from_str_radix(address, 16).unwrap_or_else(|_| panic!("{stack}"));
            rest.to_string()
        })
        .collect();
    assert!(!frames.is_empty(), "no frames: {stack}");
    frames
}

/// The frames begin, behind `skipped` ones, with these functions, all of the host program.
#[track_caller]
fn begin_with(frames: &[String], skipped: usize, functions: &[&str]) {
    let host = program("host");
    for (frame, function) in frames[skipped..].iter().zip(functions) {
        let wanted = format!("{function}+0x");
        assert!(frame.starts_with(&wanted), "{frame} is not {function}: {frames:#?}");
        assert!(frame.contains(&format!(" at {}+0x", host.display())), "{frame}");
    }
    assert!(frames.len() >= skipped + functions.len(), "{frames:#?}");
}

/// Files by the name that a record has while it is written, or when it is there.
fn records(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    entries
        .flat_map(|path| {
            let is_record = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("error"));
            if path.is_dir() { records(&path) } else { Vec::from_iter(is_record.then_some(path)) }
        })
        .collect()
}

fn fn_crash_leaves_a_record() {
    let (segv, bus, fpe) = (libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE);
    let on_intel = cfg!(target_arch = "x86_64");
    for (how, signal, name, words) in [
        ("segv", segv, "SIGSEGV", "address not mapped, 0x10, in "),
        ("readonly", segv, "SIGSEGV", "no permission, 0x"),
        ("noncanonical", segv, "SIGSEGV", if on_intel { "no valid address" } else { "" }),
        ("bus", bus, "SIGBUS", "no memory at the address, such as past the end of a mapped file, 0x"),
        ("fpe", fpe, "SIGFPE", if on_intel { "integer division by zero, 0x" } else { "" }),
        ("ill", libc::SIGILL, "SIGILL", "illegal op"),
        ("abort", libc::SIGABRT, "SIGABRT", "in "),
        ("assert", libc::SIGABRT, "SIGABRT", "in "),
    ] {
        let t = Case::new();
        let run = crashed(&t, &["crash", how]);
        died_of(&run, signal);
        let worker = run.worker(0);
        let reason = reason(worker, signal, name);
        assert!(reason.starts_with(words), "{how}: {reason}");
        assert!(reason.contains("in crash_leaf+0x") && reason.ends_with(" (host)"), "{how}: {reason}");
        let frames = frames(worker);
        let skipped = frames.iter().position(|frame| frame.starts_with("crash_leaf+")).unwrap_or(0);
        assert_eq!(skipped > 0, ["abort", "assert"].contains(&how), "{how}: {frames:#?}");
        begin_with(&frames, skipped, &CALLERS);
        // One frame of the library, then it is done: what is above is not the function's.
        assert_eq!(frames.len(), skipped + CALLERS.len() + 1, "{frames:#?}");
        assert!(frames.last().unwrap().contains("libice"), "{frames:#?}");
        // The file is as the library's own.
        let file = worker["error_file"].as_str().unwrap();
        assert_eq!(records(&t.dir), [Path::new(file)]);
        let json: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        assert_eq!(json["message"]["message"], worker["message"]);
        assert_eq!(json["message"]["extraInfo"]["py_callstack"], worker["call_stack"]);
        let time: i64 = json["message"]["extraInfo"]["timestamp"].as_str().unwrap().parse().unwrap();
        assert_eq!(worker["error_timestamp"], time);
        assert!((-1..60).contains(&(worker["end_unix_ns"].as_i64().unwrap() / 1_000_000_000 - time)));
        // It is what the run says.
        assert!(run.result()["summary"].as_str().unwrap().contains("crash_middle"), "{run}");
    }
}

fn fn_crash_by_endless_recursion() {
    let t = Case::new();
    let run = crashed(&t, &["crash", "recursion"]);
    died_of(&run, libc::SIGSEGV);
    let reason = reason(run.worker(0), libc::SIGSEGV, "SIGSEGV");
    assert!(reason.starts_with("stack overflow, 0x"), "{reason}");
    let frames = frames(run.worker(0));
    begin_with(&frames, 0, &["crash_recursion"; 64]);
    assert_eq!(frames.len(), 64);
    assert!(run.worker(0)["call_stack"].as_str().unwrap().ends_with("\n(and more)"));
    run.within(Duration::from_secs(10));
}

fn fn_crash_with_the_lock_of_malloc() {
    let t = Case::new();
    let run = crashed(&t, &["crash", "heap"]);
    died_of(&run, libc::SIGABRT);
    let reason = reason(run.worker(0), libc::SIGABRT, "SIGABRT");
    assert!(reason.starts_with("in crash_") && reason.ends_with(" (host)"), "{reason}");
    let frames = frames(run.worker(0));
    let skipped = frames.iter().position(|frame| frame.starts_with("crash_")).unwrap();
    assert!(frames[skipped..].iter().any(|frame| frame.starts_with("crash_outer+")), "{frames:#?}");
    // Nothing waited for the lock, which would have been for three seconds.
    let life = run.worker(0)["end_ns"].as_i64().unwrap() - run.worker(0)["start_ns"].as_i64().unwrap();
    assert!(life < 3_000_000_000, "{life}");
}

fn fn_crash_by_a_jump_to_nowhere() {
    let t = Case::new();
    let run = crashed(&t, &["crash", "jump"]);
    died_of(&run, libc::SIGSEGV);
    let reason = reason(run.worker(0), libc::SIGSEGV, "SIGSEGV");
    assert!(reason.starts_with("address not mapped, 0x10, called from crash_leaf+0x"), "{reason}");
    let frames = frames(run.worker(0));
    assert_eq!(frames[0], "", "it is in no file");
    begin_with(&frames, 1, &CALLERS);
}

fn fn_crash_with_a_smashed_stack() {
    // The unwinder itself crashes: what was known before is in the record.
    let t = Case::new();
    let run = crashed(&t, &["crash", "smash"]);
    died_of(&run, libc::SIGSEGV);
    let reason = reason(run.worker(0), libc::SIGSEGV, "SIGSEGV");
    assert!(reason.starts_with("address not mapped, 0x10, in crash_smashed+0x"), "{reason}");
    begin_with(&frames(run.worker(0)), 0, &["crash_smashed"]);
}

fn fn_crash_by_an_exception() {
    // It is not caught by anybody above the function: the C++ library ends the worker where it was thrown.
    let t = Case::new();
    let output = t.command(crate::abi::cxx_program(&t, "throw")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("terminate called after throwing"), "{text}");
    assert!(text.contains(" throws+0x"), "{text}");
}

fn fn_crash_in_another_thread() {
    for how in ["segv", "abort"] {
        let t = Case::new();
        let run = crashed(&t, &["crash_in_thread", how]);
        let signal = run.worker(0)["signal"].as_i64().unwrap() as i32;
        died_of(&run, if how == "segv" { libc::SIGSEGV } else { libc::SIGABRT });
        let reason = reason(run.worker(0), signal, if how == "segv" { "SIGSEGV" } else { "SIGABRT" });
        assert!(reason.contains("in crash_leaf+0x"), "{reason}");
        let frames = frames(run.worker(0));
        let skipped = frames.iter().position(|frame| frame.starts_with("crash_leaf+")).unwrap();
        begin_with(&frames, skipped, &["crash_leaf", "crash_middle", "crash_outer", "crash_thread"]);
    }
}

fn fn_crash_in_many_threads_at_once() {
    let names = [
        (libc::SIGSEGV, "SIGSEGV"),
        (libc::SIGABRT, "SIGABRT"),
        (libc::SIGBUS, "SIGBUS"),
        (libc::SIGILL, "SIGILL"),
    ];
    for (threads, how) in [("2", "segv"), ("2", "abort"), ("8", "mixed"), ("2", "mixed")] {
        for _ in 0..30 {
            let t = Case::new();
            let run = crashed(&t, &["crash_threads", threads, how]);
            // It dies of the signal that the record is of: one whole record of one thread.
            let worker = run.worker(0);
            let (signal, name) = *names
                .iter()
                .find(|(signal, _)| worker["signal"] == *signal)
                .unwrap_or_else(|| panic!("{run}"));
            died_of(&run, signal);
            assert!(reason(worker, signal, name).contains("in crash_leaf+0x"), "{run}");
            let frames = frames(worker);
            assert_eq!(
                frames.iter().filter(|frame| frame.starts_with("crash_leaf+")).count(),
                1,
                "{frames:#?}"
            );
            assert!(frames.iter().any(|frame| frame.starts_with("crash_thread+")), "{frames:#?}");
            assert_eq!(records(&t.dir).len(), 1);
        }
    }
}

fn fn_crash_with_an_own_handler() {
    let t = Case::new();
    let run = crashed(&t, &["exit_on", "SEGV", "7", "0", "crash", "segv"]);
    assert_eq!(run.worker(0)["exit_code"], 7);
    assert_eq!(run.worker(0)["error_file"], "");
    assert_eq!(records(&t.dir), [] as [PathBuf; 0]);
    // One that survives.
    let t = Case::new();
    let verbs = ["count", "ABRT", &t.path("aborts"), "kill", "ABRT", "ignore", "SEGV", "kill", "SEGV"];
    let host = t.host().set("log_dir", t.path("logs"));
    host.callback(&[&verbs[..], &["return", "ok"]].concat()).run().succeeded();
    assert_eq!(t.lines("aborts").len(), 1);
    assert_eq!(records(&t.dir), [] as [PathBuf; 0]);
}

fn fn_crash_with_a_handler_that_hands_on() {
    for (how, name, signal) in [("segv", "SEGV", libc::SIGSEGV), ("abort", "ABRT", libc::SIGABRT)] {
        let t = Case::new();
        let run = crashed(&t, &["hand_on", name, &t.path("own"), "crash", how]);
        died_of(&run, signal);
        assert_eq!(t.lines("own"), [name]);
        assert!(reason(run.worker(0), signal, &format!("SIG{name}")).contains("in crash_leaf+0x"));
        assert!(frames(run.worker(0)).iter().any(|frame| frame.starts_with("crash_outer+")));
    }
}

fn fn_crash_after_an_own_record() {
    for (how, signal) in [("abort", libc::SIGABRT), ("segv", libc::SIGSEGV)] {
        let t = Case::new();
        let run = crashed(&t, &["record", "out of cheese", "the shop", "crash", how]);
        died_of(&run, signal);
        assert_eq!(run.worker(0)["message"], "out of cheese");
        assert_eq!(run.worker(0)["call_stack"], "the shop");
        assert_eq!(records(&t.dir).len(), 1);
    }
}

fn fn_crash_of_a_child_is_not_the_workers() {
    let t = Case::new();
    let host = t.host().step("limit=core:0").set("log_dir", t.path("logs"));
    let verbs =
        ["child", "crash", "segv", ";", "child", "crash", "abort", ";", "wait_children", "return", "ok"];
    host.callback(&verbs).run().succeeded();
    assert_eq!(records(&t.dir), [] as [PathBuf; 0]);
}

fn fn_crash_signal_from_outside() {
    for (signal, name) in [(libc::SIGSEGV, "SIGSEGV"), (libc::SIGABRT, "SIGABRT"), (libc::SIGFPE, "SIGFPE")] {
        let t = Case::new();
        let host = t.host().step("limit=core:0").set("log_dir", t.path("logs"));
        let running = host.callback(&["append", &t.path("pid"), "%p", "pause"]).spawn();
        send(t.wait_lines("pid", 1)[0].parse().unwrap(), signal);
        let run = running.finish();
        run.failed_as(END_WORKER_FAILURE);
        died_of(&run, signal);
        let reason = reason(run.worker(0), signal, name);
        assert!(reason.starts_with(&format!("sent by PID {}, in ", std::process::id())), "{reason}");
        assert!(frames(run.worker(0)).iter().any(|frame| frame.starts_with("run_verbs+")));
    }
}

fn fn_crash_peers_that_are_stopped_leave_none() {
    let t = Case::new();
    let host = t.host().step("limit=core:0").set("log_dir", t.path("logs")).set("local_world_size", 3);
    let ready = t.path("ready");
    let verbs =
        ["append", &ready, "%r", "rank", "1", "await_lines", &ready, "3", "crash", "segv", ";", "pause"];
    let run = host.callback(&verbs).run();
    run.failed_as(END_WORKER_FAILURE);
    for rank in [0, 2] {
        let worker = run.worker(rank);
        assert_eq!(worker["cause"], CAUSE_STOPPED_BY_AGENT);
        assert_eq!(worker["signal"], libc::SIGTERM);
        assert_eq!(worker["error_file"], "");
    }
    assert!(reason(run.worker(1), libc::SIGSEGV, "SIGSEGV").contains("in crash_leaf+0x"));
    assert_eq!(run.result()["root_cause"]["global_rank"], 1);
    assert_eq!(records(&t.dir).len(), 1);
    // Nor does any other signal, or an exit.
    for verbs in [&["kill", "USR1"][..], &["kill", "QUIT"], &["kill", "KILL"], &["exit", "3"]] {
        let t = Case::new();
        crashed(&t, verbs);
        assert_eq!(records(&t.dir), [] as [PathBuf; 0], "{verbs:?}");
    }
}

/// The core that was dumped in a directory, if the system writes cores there.
fn core_in(dir: &Path) -> Option<Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap().flatten();
    let mut cores = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("core"));
    cores.next().map(|core| std::fs::read(core.path()).unwrap())
}

/// The pc of the thread that a core of x86-64 is about: it has the first note of the kind NT_PRSTATUS.
fn pc_of(core: &[u8]) -> u64 {
    let number = |at: usize, size: usize| {
        core[at..at + size].iter().rev().fold(0u64, |number, &byte| number << 8 | u64::from(byte))
    };
    let headers = (number(32, 8) as usize..).step_by(56).take(number(56, 2) as usize);
    let mut at = headers.filter(|&header| number(header, 4) == 4).map(|note| number(note + 8, 8) as usize);
    let mut at = at.next().expect("notes");
    loop {
        let (name, size, kind) = (number(at, 4) as usize, number(at + 4, 4) as usize, number(at + 8, 4));
        let description = at + 12 + name.next_multiple_of(4);
        if kind == 1 {
            return number(description + 112 + 16 * 8, 8);
        }
        at = description + size.next_multiple_of(4);
    }
}

fn fn_crash_dumps_the_same_core() {
    // Where cores go, and whether they do, is the system's business: as without the library.
    let direct = Case::new();
    let status = direct.command(probe()).args(["core", "crash", "segv"]).status().unwrap();
    let (dumps, files) = (status.core_dumped(), core_in(&direct.dir).is_some());
    for (verbs, signal) in [
        (&["crash", "segv"][..], libc::SIGSEGV),
        (&["crash", "jump"], libc::SIGSEGV),
        (&["crash", "bus"], libc::SIGBUS),
        (&["crash", "abort"], libc::SIGABRT),
        (&["kill", "ILL"], libc::SIGILL),
        (&["crash", "smash"], libc::SIGSEGV),
        (&["crash_in_thread", "segv"], libc::SIGSEGV),
        (&["crash_threads", "3", "mixed"], 0),
        (&["block_record", "crash", "segv"], libc::SIGSEGV),
    ] {
        let t = Case::new();
        let run = t.host().set("log_dir", t.path("logs")).callback(&[&["core"], verbs].concat()).run();
        run.failed_as(END_WORKER_FAILURE);
        let worker = run.worker(0);
        assert!(signal == 0 || worker["signal"] == signal, "{verbs:?}: {run}");
        assert_eq!(worker["core_dumped"], i32::from(dumps), "{verbs:?}: {run}");
        let Some(core) = core_in(&t.dir).filter(|_| files && cfg!(target_arch = "x86_64")) else { continue };
        // The core is of the moment of the crash, not of one within the handler.
        let stack = worker["call_stack"].as_str().unwrap();
        let recorded = stack.split_whitespace().nth(1).map(|pc| u64::from_str_radix(&pc[2..], 16).unwrap());
        match recorded {
            Some(pc) => assert_eq!(pc_of(&core), pc, "{verbs:?}: {stack}"),
            None => assert_eq!(verbs[0], "block_record"),
        }
    }
}

fn fn_crash_is_over_soon_if_nobody_takes_the_record() {
    let t = Case::new();
    let run = crashed(&t, &["block_record", "crash", "segv"]);
    died_of(&run, libc::SIGSEGV);
    assert_eq!(run.worker(0)["error_file"], "");
    assert!(run.worker(0)["message"].as_str().unwrap().starts_with("Signal 11 (SIGSEGV) received by PID"));
    assert!(run.wall < Duration::from_secs(15), "{:?}", run.wall);
}

fn fn_crash_at_the_limits() {
    // No room for a record: no SIGXFSZ instead of the signal, and no half of a file.
    let t = Case::new();
    let run = crashed(&t, &["limit", "fsize", "100", "crash", "segv"]);
    died_of(&run, libc::SIGSEGV);
    assert_eq!(run.worker(0)["error_file"], "");
    assert_eq!(records(&t.dir), [] as [PathBuf; 0]);
    // No descriptor left.
    let t = Case::new();
    let run = crashed(&t, &["limit", "nofile", "4", "crash", "abort"]);
    died_of(&run, libc::SIGABRT);
    assert!(reason(run.worker(0), libc::SIGABRT, "SIGABRT").contains("in crash_leaf+0x"));
}

fn fn_crash_of_a_deleted_program() {
    let t = Case::new();
    let copy = t.path("copied host");
    std::fs::copy(program("host"), &copy).unwrap();
    let mut command = t.command(&copy);
    command.arg(t.path("lines")).args(["limit=core:0", "max_restarts=0", "callback="]);
    command.arg(format!("log_dir={}", t.path("logs")));
    for verb in ["touch", &t.path("ready"), "await", &t.path("go"), "crash", "segv"] {
        command.arg(format!("verb={verb}"));
    }
    let mut host = command.spawn().unwrap();
    t.wait_file("ready");
    std::fs::remove_file(&copy).unwrap();
    t.write("go", b"", 0o600);
    assert!(host.wait().unwrap().success());
    let file = records(&t.dir).pop().expect("a record");
    let json: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let stack = json["message"]["extraInfo"]["py_callstack"].as_str().unwrap();
    assert!(stack.contains(&format!("crash_middle+0x9 at {copy} (deleted)+0x")), "{stack}");
    t.nothing_left();
}
