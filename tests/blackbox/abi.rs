//! Area ABI: the header, the shared library, and living in somebody else's process.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::harness::{
    CAUSE_STOPPED_BY_AGENT, Case, END_INTERRUPTED, END_SUCCEEDED, END_WORKER_FAILURE, PATIENCE, Run, Way,
    built, gone, library, link, program, root, soon,
};
use crate::tests;

pub fn tests() -> Vec<Trial> {
    tests![
        abi_01_agents_at_once_do_not_mix,
        abi_01_stopping_one_agent_leaves_the_others,
        abi_02_agents_one_after_the_other,
        abi_06_error_messages_are_per_thread,
        abi_08_stop_from_another_thread,
        abi_08_stop_from_a_log_callback,
        abi_08_stop_from_a_signal_handler,
        abi_09_a_second_run,
        abi_09_two_runs_at_once,
        abi_09_states_of_a_handle,
        abi_10_free_while_workers_run,
        abi_12_handles_in_a_forked_copy,
        abi_12_a_store_in_a_forked_copy_and_in_threads,
        abi_13_loaded_and_unloaded_50_times,
        abi_14_the_header_is_fresh,
        abi_14_the_header_compiles_alone_in_c,
        needs(cxx): abi_14_the_header_compiles_alone_in_cxx,
        abi_14_every_item_of_the_header_has_a_comment,
        abi_14_every_name_that_the_header_mentions_is_declared,
        abi_14_exported_symbols_are_the_headers_functions,
        abi_14_soname_and_needed_libraries,
        needs(cxx): abi_14_hello_from_cxx,
        needs(python3): abi_14_hello_from_ctypes,
        abi_16_messages_go_to_the_log_callback_only,
        abi_16_a_slow_log_callback_holds_nothing_up,
        abi_17_a_small_stack,
        abi_18_the_host_changes_meanwhile,
        abi_20_threads_of_50_agents,
        abi_null_pointers,
        abi_getters,
        abi_functions_and_start_methods,
        abi_names_of_statuses_and_version,
        abi_sigchld_ignored_in_the_host,
        abi_sigchld_with_nocldwait,
        abi_sigchld_ignored_and_many_exits,
        abi_children_of_the_host_are_its_own,
        abi_start_from_a_thread_that_ends,
        abi_frees_in_any_order,
        abi_a_thousand_runs_leave_nothing,
        needs(valgrind): abi_valgrind_finds_nothing,
        needs(valgrind): abi_valgrind_finds_nothing_in_the_contract,
    ]
}

#[track_caller]
fn passes(mut command: Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {:?}\n{out}\n{err}", output.status);
    out
}

fn farm(count: &str, kind: &str) {
    let t = Case::new();
    let mut command = t.command(program("farm"));
    command.args([count, kind]).arg(t.path("logs"));
    passes(command);
    t.nothing_left();
}

fn abi_01_agents_at_once_do_not_mix() {
    for kind in Way::ALL.map(Way::name).iter().chain(&["program"]) {
        farm("2", kind);
        farm("12", kind);
    }
}

fn abi_01_stopping_one_agent_leaves_the_others() {
    farm("6", "stop");
}

fn abi_20_threads_of_50_agents() {
    farm("50", "program");
    farm("50", "fork");
}

fn abi_02_agents_one_after_the_other() {
    for callback in [false, true] {
        let t = Case::new();
        let host = t.host().set("run_id", "same").set("log_dir", t.path("logs")).set("redirects", 3);
        // The second run finds the file of the first and does well.
        let verbs = ["append", &t.path("runs"), "x", "await_lines", &t.path("runs"), "1", "print", "line"];
        let script = format!("test -e {} || {{ touch {}; exit 3; }}", t.path("second"), t.path("second"));
        let host = if callback {
            host.callback(&[&verbs[..], &["exec", "sh", "-c", &script]].concat())
        } else {
            host.probe(&[&verbs[..], &["exec", "sh", "-c", &script]].concat())
        };
        let run = host.steps(&["new", "run", "new", "run"]).run();
        let runs = run.events("run");
        assert_eq!(runs[0]["result"]["end"], END_WORKER_FAILURE);
        assert_eq!(runs[0]["result"]["workers"][0]["exit_code"], 3);
        if callback {
            continue; // an exec that ends with 0 has not returned either: the first part is what counts
        }
        assert_eq!(runs[1]["result"]["end"], END_SUCCEEDED);
        assert_eq!(runs[1]["result"]["failures"].as_array().unwrap().len(), 0);
        assert_eq!(runs[1]["result"]["workers"][0]["message"], "");
        assert_eq!(runs[1]["result"]["restarts"], 0);
        run.succeeded();
    }
}

fn contract(mode: &str) -> String {
    let t = Case::new();
    let mut command = t.command(program("contract"));
    command.arg(mode);
    let out = passes(command);
    t.nothing_left();
    out
}

fn abi_06_error_messages_are_per_thread() {
    contract("errors");
}

fn abi_09_states_of_a_handle() {
    contract("states");
}

fn abi_null_pointers() {
    contract("null");
}

fn abi_getters() {
    contract("getters");
}

fn abi_functions_and_start_methods() {
    contract("functions");
}

fn abi_12_a_store_in_a_forked_copy_and_in_threads() {
    contract("store");
}

fn abi_names_of_statuses_and_version() {
    assert_eq!(contract("strings").trim(), env!("CARGO_PKG_VERSION"));
}

#[track_caller]
fn interrupted(run: &Run, signal: i32) {
    run.failed_as(END_INTERRUPTED);
    assert_eq!(run.result()["signal"], signal);
    let stop_signal = if signal == 0 { libc::SIGTERM } else { signal };
    for worker in run.result()["workers"].as_array().unwrap() {
        assert_eq!(worker["cause"], CAUSE_STOPPED_BY_AGENT);
        assert_eq!(worker["signal"], stop_signal);
    }
    run.within(Duration::from_secs(20));
}

fn abi_08_stop_from_another_thread() {
    for callback in [false, true] {
        for (name, number) in [("0", 0), ("INT", libc::SIGINT), ("USR2", libc::SIGUSR2)] {
            let t = Case::new();
            let host = t.host().set("local_world_size", 2);
            let host = host.worker(
                callback,
                &[
                    "append",
                    &t.path("up.%r"),
                    "x",
                    "rank",
                    "0",
                    "await",
                    &t.path("up.1"),
                    "touch",
                    &t.path("up"),
                    ";",
                    "pause",
                ],
            );
            let run = host.step(format!("stop_thread={name}:{}", t.path("up"))).step("run").run();
            interrupted(&run, number);
        }
    }
}

fn abi_08_stop_from_a_log_callback() {
    let t = Case::new();
    let host =
        t.host().set("local_world_size", 2).set("log_callback", t.path("log")).set("log_callback_do", "stop");
    let run = host.set("max_restarts", 5).probe(&["rank", "1", "exit", "3", ";", "pause"]).run();
    // The first message is of the start or of the failure: either way the run ends with the stop.
    run.failed_as(END_INTERRUPTED);
    run.within(Duration::from_secs(20));
}

fn abi_08_stop_from_a_signal_handler() {
    for callback in [false, true] {
        let t = Case::new();
        let host =
            t.host().set("local_world_size", 2).worker(callback, &["append", &t.path("up"), "x", "pause"]);
        let ready = format!("await_lines={}:2", t.path("up"));
        let run = host.steps(&["new", "stop_on=TERM", "start", &ready, "raise=TERM", "wait=60"]).run();
        assert_eq!(run.result()["end"], END_INTERRUPTED, "{run}");
        assert_eq!(run.result()["signal"], libc::SIGTERM);
        t.nothing_left();
    }
    // Hundreds of signals at any moment of the run, also while it ends.
    let t = Case::new();
    let running = t
        .host()
        .probe(&["ignore", "TERM", "append", &t.path("up"), "x", "pause"])
        .set("shutdown_timeout", 0.5);
    let running = running
        .steps(&["new", "stop_on=TERM", "start", "mark=started", "wait=60", "ignore=TERM", "free_agent"])
        .spawn();
    running.wait_event("started");
    t.wait_file("up");
    let mut sent = 0;
    soon(PATIENCE, || {
        for _ in 0..5 {
            running.signal(libc::SIGTERM);
            sent += 1;
            std::thread::sleep(Duration::from_millis(1));
        }
        running.events().iter().any(|line| line["do"] == "wait")
    });
    let run = running.finish();
    assert_eq!(run.result()["end"], END_INTERRUPTED, "{run}");
    assert!(sent > 10);
    t.nothing_left();
}

fn abi_09_a_second_run() {
    let t = Case::new();
    let run =
        t.host().probe(&["append", &t.path("ran"), "x"]).steps(&["run", "run", "start", "wait=1"]).run();
    let runs = run.events("run");
    assert_eq!(runs[0]["status"], "ICE_OK");
    assert_eq!(runs[1]["status"], "ICE_ERROR_STATE");
    assert_ne!(runs[1]["message"], "");
    assert_eq!(run.event("start")["status"], "ICE_ERROR_STATE");
    assert_eq!(run.event("wait")["status"], "ICE_OK");
    assert_eq!(t.lines("ran").len(), 1);
    run.succeeded();
}

fn abi_09_two_runs_at_once() {
    for _ in 0..20 {
        let t = Case::new();
        let run =
            t.host().probe(&["append", &t.path("ran"), "x", "sleep", "0.05"]).step("run_twice_at_once").run();
        let mut statuses: Vec<_> =
            run.events("run").iter().map(|line| line["status"].as_str().unwrap()).collect();
        statuses.sort();
        assert_eq!(statuses, ["ICE_ERROR_STATE", "ICE_OK"]);
        assert_eq!(t.lines("ran").len(), 1);
        run.succeeded();
    }
}

fn abi_10_free_while_workers_run() {
    for callback in [false, true] {
        let t = Case::new();
        let host = t.host().set("local_world_size", 3).set("log_dir", t.path("logs")).set("tee", 3);
        let host = host.worker(callback, &["append", &t.path("pids"), "%p", "child", "pause", ";", "pause"]);
        let ready = format!("await_lines={}:3", t.path("pids"));
        let run = host.steps(&["start", &ready, "free_agent", "mark=freed"]).run();
        run.clean();
        assert!(t.lines("pids").iter().all(|pid| gone(pid.parse().unwrap())));
        run.within(Duration::from_secs(20));
    }
    // At any moment after the start.
    for delay in 0..30 {
        let t = Case::new();
        let host = t.host().set("local_world_size", 3).worker(delay % 2 == 0, &["pause"]);
        host.steps(&["start", &format!("sleep={}", f64::from(delay) / 5000.0), "free_agent"]).run().clean();
    }
}

fn abi_12_handles_in_a_forked_copy() {
    let t = Case::new();
    let host = t.host().set("local_world_size", 2).set("log_dir", t.path("logs")).set("redirects", 1);
    let host = host.probe(&[
        "append",
        &t.path("up"),
        "%p",
        "print",
        "before",
        "await",
        &t.path("go"),
        "write",
        "1",
        "after\\n",
    ]);
    let ready = format!("await_lines={}:2", t.path("up"));
    let running = host
        .steps(&["start", &ready, "await_healthy", "fork", "snapshot", "mark=forked_once", "wait=60"])
        .spawn();
    running.wait_event("forked_once");
    std::fs::write(t.dir.join("go"), "").unwrap();
    let run = running.finish();
    run.succeeded();
    let forked = run.event("forked");
    for call in ["stop", "start", "run", "wait", "snapshot", "poll_fd"] {
        assert_eq!(forked[call], "ICE_ERROR_FORKED", "{call}");
    }
    assert_ne!(forked["message"], "");
    assert_eq!(run.events("forked_freed").len(), 1, "the copy could free its handles and exit");
    assert!(run.event("snapshot")["workers"].as_array().unwrap().iter().all(|worker| worker["outcome"] == 1));
    let log = std::fs::read_to_string(run.worker(0)["stdout_log"].as_str().unwrap()).unwrap();
    assert_eq!(log, "after\nbefore\n", "the probe's stdio is flushed at its exit");
    // In a callback, too, the host's handles are of another process.
    let t = Case::new();
    t.host().callback(&["agent", &t.path("answers")]).run().succeeded();
    assert_eq!(t.lines("answers"), ["{\"stop\":\"ICE_ERROR_FORKED\",\"wait\":\"ICE_ERROR_FORKED\"}"]);
}

fn abi_13_loaded_and_unloaded_50_times() {
    let t = Case::new();
    let mut command = t.command(program("dlopen"));
    command.arg(library()).arg("50");
    passes(command);
    t.nothing_left();
}

fn header() -> String {
    std::fs::read_to_string(root().join("include/ice.h")).expect("include/ice.h")
}

/// The header that the build of the library under test has made.
fn generated_header() -> String {
    let path = Path::new(env!("OUT_DIR")).join("ice.h");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn abi_14_the_header_is_fresh() {
    let (ours, made) = (header(), generated_header());
    if ours != made {
        let line = ours.lines().zip(made.lines()).position(|(a, b)| a != b).unwrap_or(0);
        panic!(
            "include/ice.h is stale; copy {}/ice.h over it. The first difference is in line {}:\n  {}\n  {}",
            env!("OUT_DIR"),
            line + 1,
            ours.lines().nth(line).unwrap_or_default(),
            made.lines().nth(line).unwrap_or_default()
        );
    }
}

fn compiles(compiler: &str, options: &[&str], source: &str, text: &str) {
    let t = Case::new();
    let file = t.write(source, text.as_bytes(), 0o644);
    let mut command = Command::new(compiler);
    command.args(options).args(["-Wall", "-Wextra", "-Werror", "-c", "-o", "/dev/null", "-I"]);
    command.arg(root().join("include")).arg(file);
    passes(command);
}

/// Nothing before the header: it brings what it needs.
const ALONE: &str = "#include <ice.h>\n#include <ice.h>\nint main(void) { return ice_version() == 0; }\n";

fn abi_14_the_header_compiles_alone_in_c() {
    // C89 has neither stdint.h nor //-comments; GNU's dialect has the first.
    compiles("cc", &["-std=gnu89"], "alone.c", ALONE);
    compiles("cc", &["-std=c89"], "alone.c", ALONE);
    for standard in ["c99", "c11", "c17", "gnu11"] {
        compiles("cc", &[&format!("-std={standard}"), "-Wpedantic"], "alone.c", ALONE);
    }
    // And with warnings that strict users have on.
    compiles(
        "cc",
        &["-std=c99", "-Wpedantic", "-Wstrict-prototypes", "-Wundef", "-Wshadow", "-Wconversion"],
        "alone.c",
        ALONE,
    );
}

fn abi_14_the_header_compiles_alone_in_cxx() {
    for standard in ["c++11", "c++14", "c++17", "c++20"] {
        compiles("g++", &[&format!("-std={standard}"), "-Wpedantic", "-Wold-style-cast"], "alone.cc", ALONE);
    }
}

/// The lines of the header that end a comment, as a set of line numbers.
fn comment_ends(lines: &[&str]) -> BTreeSet<usize> {
    lines
        .iter()
        .enumerate()
        .filter(|(_, line)| line.trim_end().ends_with("*/") && !line.starts_with('#'))
        .map(|(at, _)| at)
        .collect()
}

fn abi_14_every_item_of_the_header_has_a_comment() {
    let text = header();
    let lines: Vec<&str> = text.lines().collect();
    let ends = comment_ends(&lines);
    let documented = |at: usize| at > 0 && ends.contains(&(at - 1));
    let mut bare = Vec::new();
    let mut inside = false;
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim();
        let item = if line.starts_with("enum ") || line.starts_with("typedef struct") {
            inside |= line.starts_with("enum ") || code.ends_with('{');
            true
        } else if line.starts_with("typedef ") {
            !code.contains("typedef enum") && !code.contains("typedef int32_t ice_") || code.contains('(')
        } else if line.starts_with('}') {
            inside = false;
            false
        } else if inside {
            line.starts_with("  ")
                && (code.ends_with(',') || code.ends_with(';'))
                && !code.starts_with('*')
                && !code.starts_with("/*")
        } else {
            // A function begins at the left edge with its type and name; its further lines are indented.
            !line.starts_with(' ')
                && code.contains("ice_")
                && code.contains('(')
                && !code.starts_with(['/', '*', '#'])
        };
        if item && !documented(at) {
            bare.push(format!("{}: {line}", at + 1));
        }
    }
    assert!(bare.is_empty(), "no comment:\n{}", bare.join("\n"));
}

/// Words of the header that start so.
fn words(text: &str, prefix: &str) -> BTreeSet<String> {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !part(c))
        .filter(|word| word.starts_with(prefix) && word.len() > prefix.len())
        .map(str::to_string)
        .collect()
}

/// The header without its comments.
fn code_of(text: &str) -> String {
    let mut code = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("/*") {
        code += before;
        rest = after.split_once("*/").map_or("", |(_, after)| after);
    }
    code + rest
}

fn abi_14_every_name_that_the_header_mentions_is_declared() {
    // Variables of workers have no declaration.
    const VARIABLES: &[&str] = &[
        "ICE_CONTROL_FD",
        "ICE_DESCENT",
        "ICE_DEVICES",
        "ICE_DIST_BACKEND",
        "ICE_JOB_RESTART_COUNT",
        "ICE_LOCAL_RANK",
        "ICE_RENDEZVOUS_SECRET",
        "ICE_ROUND",
        "ICE_STORE_SECRET_FILE",
    ];
    let text = header();
    let code = code_of(&text);
    for prefix in ["ICE_", "ice_"] {
        let declared = words(&code, prefix);
        let mentioned = words(&text, prefix);
        // `ice_spec_*` and the like stand for families of names.
        let unknown: Vec<_> = mentioned
            .difference(&declared)
            .filter(|word| !VARIABLES.contains(&word.as_str()))
            .filter(|word| !(word.ends_with('_') && declared.iter().any(|name| name.starts_with(*word))))
            .collect();
        assert!(unknown.is_empty(), "mentioned in comments but not declared: {unknown:?}");
    }
}

/// Names of functions that the header declares.
fn functions() -> BTreeSet<String> {
    let code = code_of(&header());
    let names = words(&code, "ice_");
    names.into_iter().filter(|name| code.contains(&format!("{name}("))).collect()
}

fn abi_14_exported_symbols_are_the_headers_functions() {
    let mut nm = Command::new("nm");
    nm.args(["-D", "--defined-only"]).arg(library());
    let exported: BTreeSet<String> =
        passes(nm).lines().filter_map(|line| line.split_whitespace().last()).map(str::to_string).collect();
    let declared = functions();
    assert!(declared.len() > 80);
    let extra: Vec<_> = exported.difference(&declared).collect();
    let missing: Vec<_> = declared.difference(&exported).collect();
    assert!(
        extra.is_empty() && missing.is_empty(),
        "exported but not declared: {extra:?}; not exported: {missing:?}"
    );
}

fn abi_14_soname_and_needed_libraries() {
    let mut readelf = Command::new("readelf");
    readelf.arg("-d").arg(library());
    let text = passes(readelf);
    assert!(text.contains("Library soname: [libice.so.0.1]"), "{text}");
    let mut needed: Vec<&str> = text
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| line.split_once('[')?.1.split(']').next())
        .filter(|name| !name.starts_with("ld-linux"))
        .collect();
    needed.sort();
    // The C library and the compiler's own alone: nothing else needs to be found where a program starts.
    let allowed = ["libgcc_s.so.1", "libc.so.6", "libdl.so.2", "libm.so.6", "libpthread.so.0", "librt.so.1"];
    assert!(needed.iter().all(|name| allowed.contains(name)), "{needed:?}");
    let mut readelf = Command::new("readelf");
    readelf.args(["-lW"]).arg(library());
    let text = passes(readelf);
    let stack = text.lines().find(|line| line.contains("GNU_STACK")).expect("a GNU_STACK header");
    assert!(!stack.contains("RWE"), "an executable stack: {stack}");
}

/// A program made from `tests/c/NAME.cc`.
pub fn cxx_program(t: &Case, name: &str) -> PathBuf {
    cxx(t, name, name, &[])
}

/// The same file as a shared object.
pub fn cxx_library(t: &Case, name: &str) -> PathBuf {
    cxx(t, name, &format!("lib{name}.so"), &["-shared", "-fPIC"])
}

fn cxx(t: &Case, name: &str, out: &str, more: &[&str]) -> PathBuf {
    let out = t.dir.join(out);
    let mut cxx = Command::new("g++");
    cxx.args(more);
    cxx.args(["-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-I"]).arg(root().join("include"));
    cxx.arg(root().join(format!("tests/c/{name}.cc"))).arg("-o").arg(&out);
    link(&mut cxx, &built().dir);
    passes(cxx);
    out
}

fn abi_14_hello_from_cxx() {
    let t = Case::new();
    let command = t.command(cxx_program(&t, "hello"));
    assert_eq!(passes(command), "hello_0\nhello_1\n");
    t.nothing_left();
}

fn abi_14_hello_from_ctypes() {
    let t = Case::new();
    let mut command = t.command("python3");
    command.arg(root().join("tests/c/hello.py")).arg(library());
    let out = passes(command);
    assert!(out.starts_with("end 0 "), "{out}");
    t.nothing_left();
}

fn abi_16_messages_go_to_the_log_callback_only() {
    for with_log in [false, true] {
        let t = Case::new();
        let host =
            t.host().set("max_restarts", 1).set("local_world_size", 2).set("signals", "TERM,SIGNONSENSE");
        let host = if with_log { host.set("log_callback", t.path("log")) } else { host };
        let run = host.probe(&["rank", "0", "exit", "3", ";", "pause"]).run();
        run.failed_as(END_WORKER_FAILURE);
        assert_eq!(run.out(), "");
        assert_eq!(run.err(), "");
        let lines = t.lines("log");
        assert_eq!(!lines.is_empty(), with_log);
        for line in &lines {
            let (level, text) = line.split_once(' ').unwrap();
            assert!((1..=4).contains(&level.parse::<i32>().unwrap()), "{line}");
            assert!(!text.is_empty());
        }
        assert!(
            !with_log || lines.iter().any(|line| line.starts_with("2 ") && line.contains("SIGNONSENSE")),
            "{lines:?}"
        );
    }
}

fn abi_16_a_slow_log_callback_holds_nothing_up() {
    let t = Case::new();
    // The first message takes a second; the workers of all attempts have long ended by then.
    let host =
        t.host().set("max_restarts", 3).set("log_callback", t.path("log")).set("log_callback_do", "sleep:1");
    let run = host.probe(&["append", &t.path("times"), "%t", "exit", "1"]).run();
    run.failed_as(END_WORKER_FAILURE);
    let times: Vec<i64> = t.lines("times").iter().map(|line| line.parse().unwrap()).collect();
    assert_eq!(times.len(), 4);
    assert!(times[3] - times[0] < 900_000_000, "{times:?}");
    // No message after the result: the file is complete when the host goes on, and none is lost.
    assert!(t.lines("log").len() >= 4, "{:?}", t.lines("log"));
}

fn abi_17_a_small_stack() {
    for callback in [false, true] {
        let t = Case::new();
        let host = t.host().set("local_world_size", 4).set("max_restarts", 2).set("log_dir", t.path("logs"));
        let host = host.set("tee", 3).set("log_callback", t.path("log"));
        let verbs = [
            "print",
            "line",
            "attempt",
            "0",
            "rank",
            "1",
            "error_long",
            "message",
            "stack",
            "1",
            "exit",
            "1",
            ";",
            "pause",
            ";",
        ];
        let run = host.worker(callback, &verbs).step("run_in_thread=131072").run();
        run.succeeded();
        assert_eq!(run.result()["restarts"], 1);
    }
}

fn abi_18_the_host_changes_meanwhile() {
    // Threads of the host change environ (within what C allows: setenv), cwd and umask while workers start.
    let t = Case::new();
    let mut command = t.command(program("restless"));
    command.arg(t.path("dump"));
    passes(command);
    t.nothing_left();
}

fn abi_sigchld_ignored_in_the_host() {
    sigchld("ignore=CHLD");
}

fn abi_sigchld_with_nocldwait() {
    sigchld("nowait");
}

/// The kernel throws exit statuses away: the start is refused, or (Linux 6.15 and later) the run is as ever.
fn sigchld(step: &str) {
    for (code, end) in [("0", END_SUCCEEDED), ("7", END_WORKER_FAILURE)] {
        for callback in [false, true] {
            let t = Case::new();
            let host = t
                .host()
                .set("local_world_size", 3)
                .step(step)
                .worker(callback, &["sleep", "0.05", "code", code]);
            let run = host.run();
            let line = run.event("run");
            if line["status"] == "ICE_ERROR_STATE" {
                assert!(line["message"].as_str().unwrap().contains("SIGCHLD"), "{run}");
            } else {
                assert_eq!(line["result"]["end"], end, "{run}");
                assert!(
                    (0..3).all(|rank| [7, 0, -15].map(Into::into).contains(&run.worker(rank)["exit_code"])),
                    "{run}"
                );
            }
            run.clean();
        }
    }
}

fn abi_sigchld_ignored_and_many_exits() {
    // Where the run is not refused no status may be lost, however the looks at a dying worker fall.
    for step in ["ignore=CHLD", "nowait"] {
        let t = Case::new();
        let host = t.host().set("local_world_size", 32).step(step).set("program", "/bin/true");
        let run = host.steps(&["repeat=100:new,run,free_agent,free_result", "run"]).run();
        if run.event("run")["status"] != "ICE_ERROR_STATE" {
            assert_eq!(run.event("repeated")["failed"], 0, "of 100 runs");
        }
        run.clean();
    }
}

fn abi_children_of_the_host_are_its_own() {
    for callback in [false, true] {
        let t = Case::new();
        // A child of the host's own ends during the run; its status is there afterwards.
        let host = t
            .host()
            .set("local_world_size", 2)
            .step("child=42")
            .worker(callback, &["sleep", "0.6", "code", "0"]);
        let run = host.steps(&["run", "reap_child"]).run();
        assert_eq!(run.result()["end"], END_SUCCEEDED, "{run}");
        assert_eq!(run.event("reap_child")["same"], 1);
        assert_eq!(run.event("reap_child")["code"], 42);
        t.nothing_left();
    }
}

fn abi_start_from_a_thread_that_ends() {
    for callback in [false, true] {
        let t = Case::new();
        let host = t.host().set("local_world_size", 2).set("max_restarts", 1);
        let verbs = [
            "append",
            &t.path("up"),
            "%p",
            "attempt",
            "0",
            "await_lines",
            &t.path("up"),
            "2",
            "sleep",
            "0.3",
            "rank",
            "0",
            "exit",
            "1",
            ";",
            "pause",
            ";",
            "sleep",
            "0.3",
        ];
        let run = host.worker(callback, &verbs).steps(&["start_in_thread", "wait=60"]).run();
        run.succeeded();
        assert_eq!(run.result()["restarts"], 1, "the failure is the worker's own, not the end of the thread");
        assert_eq!(run.result()["failures"][0]["exit_code"], 1);
    }
}

fn abi_frees_in_any_order() {
    let orders = [
        ["free_spec", "free_agent", "free_result"],
        ["free_spec", "free_result", "free_agent"],
        ["free_agent", "free_spec", "free_result"],
        ["free_agent", "free_result", "free_spec"],
        ["free_result", "free_spec", "free_agent"],
        ["free_result", "free_agent", "free_spec"],
    ];
    for order in orders {
        let t = Case::new();
        t.host().callback(&["return", "value"]).step("run").steps(&order).run().succeeded();
    }
}

fn abi_a_thousand_runs_leave_nothing() {
    for callback in [false, true] {
        let t = Case::new();
        let host = t.host().set("tee", 1).set("log_dir", t.path("logs")).set("log_callback", t.path("log"));
        let host = if callback {
            host.callback(&["return_bytes", "100000"])
        } else {
            host.set("program", "/bin/true")
        };
        let count = if callback { 300 } else { 700 };
        let run = host
            .set("repeat", format!("{count}:new,run,free_agent,free_result"))
            .limit(Duration::from_secs(300))
            .run();
        run.clean();
        assert_eq!(run.event("repeated")["failed"], 0);
        let (early, late) = (run.event("early"), run.event("late"));
        for what in ["fds", "threads", "children"] {
            assert_eq!(early[what], late[what], "{what}");
        }
        let number = |line: &serde_json::Value, what: &str| line[what].as_i64().unwrap();
        assert!(number(late, "mappings") <= number(early, "mappings") + 4, "{early} {late}");
        assert!(number(late, "rss_kib") <= number(early, "rss_kib") + 2048, "{early} {late}");
    }
}

const VALGRIND: &[&str] = &[
    "valgrind",
    "-q",
    "--leak-check=full",
    "--show-leak-kinds=definite,possible",
    "--errors-for-leak-kinds=definite,possible",
    "--error-exitcode=99",
    "--child-silent-after-fork=yes",
];

fn abi_valgrind_finds_nothing() {
    let value: &[&str] = &["return_bytes", "5000", "write", "2", "x\\n"];
    let failure: &[&str] = &["rank", "1", "record", "message", "stack", "code", "3", ";", "pause"];
    for (callback, verbs, steps) in [
        (false, &["exit", "0"][..], &["run", "free_agent", "result"][..]),
        (
            false,
            &["rank", "1", "error_long", "m", "s", "1", "exit", "3", ";", "pause"],
            &["start", "wait=-1", "snapshot"],
        ),
        (false, &["pause"], &["start", "sleep=0.3", "stop=INT", "wait=100", "wait=0"]),
        (true, value, &["run", "free_agent", "result"]),
        (true, failure, &["run"]),
    ] {
        let t = Case::new();
        let host = t
            .host()
            .under(VALGRIND)
            .set("local_world_size", 2)
            .set("max_restarts", 1)
            .set("log_dir", t.path("logs"));
        let host =
            host.set("tee", 3).set("log_callback", t.path("log")).set("signals", "TERM,HUP").step("env=A=b");
        let run = host.worker(callback, verbs).steps(steps).run();
        assert!(run.status.success(), "{run}");
        assert!(!run.err().contains("=="), "{run}");
        t.nothing_left();
    }
    // What is refused, and what cannot start, leaves nothing either.
    let t = Case::new();
    let host = t.host().under(VALGRIND).set("redirects", "x").set("local_world_size", 0).set("role", "");
    assert_eq!(host.steps(&["new", "new_spec", "program=/no/such", "run"]).run().exit_code(), Some(0));
}

fn abi_valgrind_finds_nothing_in_the_contract() {
    for mode in ["null", "getters", "states", "errors", "store"] {
        let t = Case::new();
        let mut command = t.command(VALGRIND[0]);
        command.args(&VALGRIND[1..]).arg(program("contract")).arg(mode);
        passes(command);
    }
}
