//! Area FN: how functions get their processes. What is wrong with the program or the shared object, what a new
//! process finds, arguments, preparing. See func.rs for what functions do, server.rs for the fork server.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::func::pattern_hash;
use crate::harness::*;
use crate::tool::{Dice, four_at_a_time};
use crate::{tests, tests_by_way};

pub fn tests() -> Vec<Trial> {
    let new = tests_by_way![
        Way::NEW;
        fn_18_a_function_that_is_not_there,
        fn_18_a_shared_object_that_is_not_there,
        fn_18_a_program_that_does_not_say_it_can_be_a_worker,
        fn_20_the_file_of_the_program_is_gone_or_another,
        fn_20_started_by_the_loader needs(loader),
        fn_25_index_rank_pid_and_logs_match,
    ];
    let all = tests_by_way![
        Way::ALL;
        fn_20_another_directory_and_a_relative_name,
        fn_21_an_argument_of_any_size,
        fn_21_the_argument_is_in_no_list,
        fn_functions_after_cuda,
        fn_prepared_and_run,
        fn_prepared_and_freed,
        fn_prepared_then_the_host_changes,
        fn_what_ps_shows,
    ];
    let registered = tests_by_way![
        [Way::Spawn, Way::Forkserver];
        fn_18_without_the_call_in_main,
        fn_18_without_the_call_in_the_new_process,
        fn_18_an_agent_before_the_call_in_the_new_process,
        fn_18_the_new_process_ends_before_the_call,
        fn_18_nothing_registered_in_the_new_process,
        fn_a_child_from_before_the_call_is_no_worker,
    ];
    let library = tests_by_way![
        [Way::SpawnOfLibrary, Way::ForkserverOfLibrary];
        fn_20_the_librarys_file_is_not_executable needs(loader),
        fn_20_the_librarys_file_is_gone,
        fn_18_where_a_shared_object_is_looked_for,
        fn_a_runner_for_a_shared_object,
    ];
    let once = tests![
        fn_a_registered_function_by_fork,
        fn_16_1000_workers_at_once_by_spawn,
        fn_stops_at_random_moments_of_a_start,
        fn_cuda_initialised_between_two_attempts,
    ];
    [new, all, registered, library, once].into_iter().flatten().collect()
}

/// The end of a run whose workers could not start, in its first attempt: nothing was restarted.
#[track_caller]
fn start_error(run: &Run, parts: &[&str]) {
    run.failed_as(END_START_ERROR);
    start_error_in(run, parts);
}

#[track_caller]
fn start_error_in(run: &Run, parts: &[&str]) {
    let result = run.result();
    assert_eq!(result["end"], END_START_ERROR, "{run}");
    assert_eq!(result["restarts"], 0);
    let message = result["message"].as_str().unwrap();
    for part in parts {
        assert!(message.contains(part), "'{part}' is not in: {message}");
    }
    assert!(!message.contains('\n'), "one line: {message}");
    assert!(result["summary"].as_str().unwrap().contains(parts[0]), "{result}");
    for worker in result["workers"].as_array().unwrap() {
        assert_ne!(worker["cause"], CAUSE_SUCCESS, "{run}");
        assert_ne!(worker["cause"], CAUSE_OWN_FAILURE, "{run}");
    }
}

fn fn_18_a_function_that_is_not_there(way: Way) {
    let known = if way.is_of_library() { "undefined symbol" } else { "\"hash_argument\"" };
    for field in ["function", "warm_up"] {
        if field == "warm_up" && !way.has_server() {
            continue;
        }
        let t = Case::new();
        let host = t.host().set("max_restarts", 3).set("local_world_size", 2);
        let run = host.function(way, &["append", &t.path("ran"), "x"]).set(field, "no_such_function").run();
        start_error(&run, &["no_such_function", known]);
        assert_eq!(run.err(), "", "nothing is written to the host's streams");
        assert!(t.lines("ran").is_empty());
    }
}

fn fn_18_a_shared_object_that_is_not_there(way: Way) {
    let t = Case::new();
    t.write("not_a_library.so", b"text", 0o755);
    for name in ["/nowhere/libgone.so".to_string(), "libgone.so".into(), t.path("not_a_library.so")] {
        let host = t.host().set("max_restarts", 3).set("library", &name);
        let run = host.set("function", "verbs").set("start_method", way.method()).run();
        start_error(&run, &[Path::new(&name).file_name().unwrap().to_str().unwrap()]);
    }
}

/// For a shared object nobody needs a main that knows of it.
fn fn_18_a_program_that_does_not_say_it_can_be_a_worker(way: Way) {
    let t = Case::new();
    let run = t.host().env("HOST_BEFORE_HOOK", "skip").function(way, &["return", "value"]).run();
    if way.is_of_library() {
        run.succeeded();
        assert_eq!(run.worker(0)["value"]["bytes"], "value");
    } else {
        let name = if way.has_server() { "forkserver" } else { "spawn" };
        run.refused(&["start_method", name, "ice_worker_main()"]);
    }
}

fn fn_18_without_the_call_in_main(way: Way) {
    let t = Case::new();
    // A callback needs no such main.
    t.host().env("HOST_BEFORE_HOOK", "skip").callback(&[]).run().succeeded();
    let host = t.host().env("HOST_BEFORE_HOOK", "skip").env("HOST_STARTS", &t.path("starts"));
    host.function(way, &[]).run().refused(&["start_method", "ice_worker_main()"]);
    assert_eq!(t.lines("starts").len(), 1, "nothing was started");
}

/// How many processes of the host's program a run may make: itself, and its workers or a server.
fn most_processes(way: Way, workers: usize) -> usize {
    1 + if way.has_server() { 1 } else { workers }
}

fn fn_18_without_the_call_in_the_new_process(way: Way) {
    let t = Case::new();
    // The new process does what its command line says: it makes an agent to start what it was started by.
    let host =
        t.host().env("HOST_STARTS", &t.path("starts")).set("local_world_size", 3).set("max_restarts", 3);
    let host = host.step("env=HOST_BEFORE_HOOK=skip").set("env", format!("HOST_OUTPUT={}", t.path("again")));
    let run = host.function(way, &["append", &t.path("ran"), "x"]).run();
    start_error(&run, &["before it called ice_worker_main()"]);
    assert!(t.lines("ran").is_empty());
    let starts = t.lines("starts").len();
    assert!((2..=most_processes(way, 3)).contains(&starts), "{starts} processes");
}

fn fn_18_an_agent_before_the_call_in_the_new_process(way: Way) {
    let t = Case::new();
    let host = t.host().env("HOST_STARTS", &t.path("starts")).set("max_restarts", 3);
    let run = host.step("env=HOST_BEFORE_HOOK=agent").function(way, &["append", &t.path("ran"), "x"]).run();
    start_error(&run, &["before it called ice_worker_main()"]);
    assert!(t.lines("ran").is_empty());
    assert_eq!(t.lines("starts").len(), 2, "the host, and one new process that made no agent");
}

fn fn_18_the_new_process_ends_before_the_call(way: Way) {
    for code in [0, 3] {
        for exit in ["exit", "_exit"] {
            let t = Case::new();
            let host = t.host().env("HOST_STARTS", &t.path("starts")).set("max_restarts", 3);
            let host = host.set("local_world_size", 3).set("env", format!("HOST_BEFORE_HOOK={exit}:{code}"));
            let run = host.function(way, &["append", &t.path("ran"), "x"]).run();
            start_error(&run, &[&format!("exited with code {code}"), "ice_worker_main()"]);
            let starts = t.lines("starts").len();
            assert!((2..=most_processes(way, 3)).contains(&starts), "{starts} processes");
        }
    }
    for (name, signal) in [("KILL", libc::SIGKILL), ("SEGV", libc::SIGSEGV)] {
        let t = Case::new();
        let host = t.host().set("env", format!("HOST_BEFORE_HOOK=kill:{name}"));
        let run = host.function(way, &[]).run();
        assert_ne!(run.result()["end"], END_SUCCEEDED);
        assert!(run.result()["message"].as_str().unwrap().contains(&format!("SIG{name}")), "{run}");
        if !way.has_server() {
            run.failed_as(END_WORKER_FAILURE);
            assert_eq!(run.worker(0)["signal"], signal);
        }
        run.clean();
    }
}

fn fn_18_nothing_registered_in_the_new_process(way: Way) {
    let t = Case::new();
    let run = t.host().step("env=HOST_BEFORE_HOOK=no functions").function(way, &[]).run();
    start_error(&run, &["\"verbs\"", "none is"]);
}

/// What main starts before it says that the process can be a worker is not taken for the worker.
fn fn_a_child_from_before_the_call_is_no_worker(way: Way) {
    let t = Case::new();
    let host =
        t.host().step("env=HOST_BEFORE_HOOK=child").set("env", format!("HOST_CHILD={}", t.path("child")));
    let run = host.function(way, &["await_lines", &t.path("child"), "1", "return", "value"]).run();
    run.succeeded();
    assert_eq!(run.worker(0)["value"]["bytes"], "value");
    let child: i32 = t.lines("child")[0].parse().expect("it is no worker, and goes on");
    assert!(gone(child));
}

fn fn_18_where_a_shared_object_is_looked_for(way: Way) {
    let t = Case::new();
    fs::create_dir_all(t.dir.join("lib")).unwrap();
    fs::create_dir_all(t.dir.join("work")).unwrap();
    fs::copy(program("libverbs.so"), t.dir.join("lib/own.so")).unwrap();
    let host = |name: &str| {
        let host = t.host().set("library", name).set("function", "verbs").set("start_method", way.method());
        host.set("verb", "return").set("verb", "value").set("working_dir", t.path("work"))
    };
    let found = |run: Run| {
        run.succeeded();
        assert_eq!(run.worker(0)["value"]["bytes"], "value");
    };
    // From the host's directory when the run starts, whatever the workers'.
    found(host("lib/own.so").run());
    found(host("./own.so").set("chdir", t.path("lib")).run());
    found(host("./own.so").step("new").set("chdir", t.path("lib")).step("run").run());
    start_error(&host("./own.so").run(), &["own.so"]);
    // Without a slash where the loader looks.
    found(host("own.so").env("LD_LIBRARY_PATH", &t.path("lib")).run());
    start_error(&host("own.so").run(), &["own.so"]);
}

fn fn_a_runner_for_a_shared_object(way: Way) {
    let t = Case::new();
    let dump = t.path("dump");
    let run = |runner: String| {
        t.host().function(way, &["dump", &dump, "return", "value"]).set("runner", runner).run()
    };
    let good = run(program("host").display().to_string());
    good.succeeded();
    assert_eq!(good.worker(0)["value"]["bytes"], "value");
    start_error(&run("/nowhere/runner".into()), &["/nowhere/runner"]);
    start_error(&run(t.write("not_executable", b"", 0o644)), &["not_executable"]);
    // A program that does not know what it is meant to be.
    start_error(&run("/bin/true".into()), &["exited with code 0", "ice_worker_main()"]);
}

fn fn_a_registered_function_by_fork() {
    let t = Case::new();
    let host = || t.host().set("function", "verbs").set("start_method", 0);
    let run = host().set("verb", "return").set("verb", "value").run();
    run.succeeded();
    assert_eq!(run.worker(0)["value"]["bytes"], "value");
    // It is a copy of this process: what main did not say does not matter, what is not registered does.
    host().set("function", "nobody").run().refused(&["function", "nobody", "\"hash_argument\""]);
}

// ---- where the program is

fn fn_20_the_file_of_the_program_is_gone_or_another(way: Way) {
    for change in ["unlink", "replace"] {
        let t = Case::new();
        let copy = t.path("copy");
        fs::copy(program("host"), &copy).unwrap();
        let step = if change == "unlink" {
            format!("unlink={copy}")
        } else {
            format!("replace={copy},{}", probe().display())
        };
        let host = t.host().at(&copy).set("local_world_size", 2).set("max_restarts", 1);
        let host = host.function(way, &["return", "attempt %a", "attempt", "0", "code", "1", ";"]);
        let run = host.steps(&["new", &step, "run"]).run();
        run.succeeded();
        assert_eq!(run.worker(1)["value"]["bytes"], "attempt 1", "{change}");
    }
}

fn fn_20_another_directory_and_a_relative_name(way: Way) {
    let t = Case::new();
    fs::create_dir_all(t.dir.join("bin/deeper")).unwrap();
    fs::copy(program("host"), t.dir.join("bin/copy")).unwrap();
    for name in ["bin/copy", "./bin/copy", "bin/deeper/../copy"] {
        let dump = t.path("dump");
        let host = t.host().at(name).under(&["env"]).set("chdir", "/");
        host.function(way, &["dump", &dump]).run().succeeded();
        assert_eq!(t.json("dump")["cwd"], "/");
        if matches!(way, Way::Spawn | Way::Forkserver) {
            assert_eq!(t.json("dump")["cmdline"][0], name, "the arguments stay what they were");
        }
    }
    // By its name, found in PATH.
    let path = format!("{}:{}", t.path("bin"), std::env::var("PATH").unwrap());
    t.host()
        .at("copy")
        .under(&["env"])
        .env("PATH", &path)
        .set("chdir", "/")
        .function(way, &[])
        .run()
        .succeeded();
}

fn fn_20_started_by_the_loader(way: Way) {
    let t = Case::new();
    let loader = loader().unwrap();
    let run = t.host().under(&[&loader]).function(way, &["return", "value"]).run();
    run.succeeded();
    assert_eq!(run.worker(0)["value"]["bytes"], "value");
}

/// A host with a copy of the library that it was started with.
fn with_own_library<'a>(t: &'a Case, mode: u32) -> Host<'a> {
    t.write("own/libice.so.0.1", &fs::read(library()).unwrap(), mode);
    t.host().env("LD_LIBRARY_PATH", &t.path("own"))
}

fn fn_20_the_librarys_file_is_not_executable(way: Way) {
    for mode in [0o755, 0o644] {
        let t = Case::new();
        let host = with_own_library(&t, mode).set("local_world_size", 2);
        let run = host.function(way, &["dump", &t.path("dump%r"), "return", "value"]).run();
        run.succeeded();
        assert_eq!(run.worker(1)["value"]["bytes"], "value");
        let shown = format!("{}:verbs", program("libverbs.so").display());
        assert_eq!(t.json("dump1")["cmdline"][0], shown);
        assert_eq!(t.json("dump1")["comm"], "verbs");
    }
}

fn fn_20_the_librarys_file_is_gone(way: Way) {
    for change in ["unlink", "replace"] {
        let t = Case::new();
        let file = t.path("own/libice.so.0.1");
        let step = if change == "unlink" {
            format!("unlink={file}")
        } else {
            format!("replace={file},{}", probe().display())
        };
        let host = || with_own_library(&t, 0o755).function(way, &[]);
        host().step(&step).step("run").run().refused(&["libice.so.0.1", "removed or replaced"]);
        // The same once the agent is there.
        start_error(&host().steps(&["new", &step, "run"]).run(), &["libice.so.0.1", "removed or replaced"]);
        // And a callback does not mind.
        with_own_library(&t, 0o755).callback(&[]).steps(&["new", &step, "run"]).run().succeeded();
    }
}

// ---- arguments

/// A registered function for the way of callbacks, too.
fn hash_argument<'a>(t: &'a Case, way: Way) -> Host<'a> {
    let host = if way.is_of_library() {
        t.host().set("library", program("libverbs.so").display())
    } else {
        t.host()
    };
    host.set("function", "hash_argument").set("start_method", way.method())
}

fn fn_21_an_argument_of_any_size(way: Way) {
    for size in [0, 1, 4096, 4097, 100_000_000] {
        let t = Case::new();
        let run = hash_argument(&t, way).set("local_world_size", 2).set("argument_size", size).run();
        run.succeeded();
        for rank in 0..2 {
            let seen = run.worker(rank)["value"]["bytes"].as_str().unwrap();
            let wanted = format!("{size} {}", pattern_hash(size));
            assert!(seen.starts_with(&wanted), "{seen} is not {wanted}");
            assert!(size == 0 || seen.ends_with(" 0"), "page-aligned: {seen}");
        }
    }
    let t = Case::new();
    let run = hash_argument(&t, way).step("no_argument=").run();
    run.succeeded();
    assert_eq!(run.worker(0)["value"]["bytes"], "none 0");
}

fn fn_21_the_argument_is_in_no_list(way: Way) {
    let t = Case::new();
    let run = t.host().set("local_world_size", 2).function(way, &["dump", &t.path("dump%r")]).run();
    run.succeeded();
    let dump = t.json("dump1");
    assert!(!dump["env"].to_string().contains("dump%r"), "{}", dump["env"]);
    if way.is_of_library() {
        assert_eq!(dump["cmdline"].as_array().unwrap().len(), 1, "{}", dump["cmdline"]);
    }
}

/// What a new process shows of itself.
fn fn_what_ps_shows(way: Way) {
    let t = Case::new();
    let run = t
        .host()
        .function(way, &["dump", &t.path("dump")])
        .step(format!("dump_self={}", t.path("host")))
        .run();
    run.succeeded();
    let (worker, host) = (t.json("dump"), t.json("host"));
    if way.is_of_library() {
        assert_eq!(
            worker["cmdline"],
            Value::from(vec![format!("{}:verbs", program("libverbs.so").display())])
        );
        assert_eq!(worker["comm"], "verbs");
    } else {
        assert_eq!(worker["cmdline"], host["cmdline"]);
        if way != Way::Fork {
            assert_eq!(worker["comm"], "host");
        }
    }
}

// ---- many

fn fn_25_index_rank_pid_and_logs_match(way: Way) {
    let t = Case::new();
    let host = t.host().set("local_world_size", 64).set("redirects", 3).set("log_dir", t.path("logs"));
    let verbs =
        ["ranks", &t.path("ranks.%p"), "write", "1", "%r %p", "write", "2", "%p %r", "return", "%r %p"];
    let run = host.function(way, &verbs).run();
    run.succeeded();
    let mut pids = BTreeSet::new();
    for rank in 0..64 {
        let worker = run.worker(rank);
        let pid = worker["pid"].as_i64().unwrap();
        pids.insert(pid);
        assert_eq!((&worker["local_rank"], &worker["global_rank"]), (&Value::from(rank), &Value::from(rank)));
        assert_eq!(t.lines(&format!("ranks.{pid}")), [format!("{rank} {rank} {rank} 64 64 0")]);
        assert_eq!(worker["value"]["bytes"], format!("{rank} {pid}"));
        let log = |field: &str| fs::read_to_string(worker[field].as_str().unwrap()).unwrap();
        assert_eq!(log("stdout_log"), format!("{rank} {pid}"));
        assert_eq!(log("stderr_log"), format!("{pid} {rank}"));
    }
    assert_eq!(pids.len(), 64);
}

fn fn_16_1000_workers_at_once_by_spawn() {
    let t = Case::new();
    let host = t.host().set("local_world_size", 1000).function(Way::Spawn, &["return", "%r"]);
    let run = host.run();
    run.succeeded();
    for rank in 0..1000 {
        assert_eq!(run.worker(rank)["value"]["bytes"], rank.to_string());
    }
}

/// A stop at any moment of a start: of what is executed, of a warm-up, of births.
fn fn_stops_at_random_moments_of_a_start() {
    four_at_a_time(100, |i| {
        let way = Way::NEW[i % 4];
        let mut dice = Dice::new();
        let t = Case::new();
        // Ten runs in each host: 1,000 stops in all.
        let workers = [1, 3, 20][dice.below(3) as usize];
        let stop = ["TERM", "INT", "KILL"][dice.below(3) as usize];
        let host = t.host().set("local_world_size", workers).function(way, &["pause"]);
        let most = if i % 5 == 0 { 0.1 } else { 0.02 };
        let steps = format!("repeat=10:new,start,doze={most},stop={stop},wait=60,free_agent");
        let run = host.step(steps).run();
        run.clean();
        let ends = run.events("wait");
        assert_eq!(ends.len(), 10, "{run}");
        for end in ends {
            assert_eq!(end["result"]["end"], END_INTERRUPTED, "{way:?}: {end}");
            for worker in end["result"]["workers"].as_array().unwrap() {
                let cause = worker["cause"].as_i64().unwrap() as i32;
                assert!([CAUSE_STOPPED_BY_AGENT, CAUSE_NEVER_STARTED].contains(&cause), "{way:?}: {end}");
            }
        }
    });
}

// ---- CUDA

/// A copy of a process that has initialised CUDA could not use it; a new process can.
fn fn_functions_after_cuda(way: Way) {
    let t = Case::new();
    let driver = format!("dlopen={}", program("libcuda.so.1").display());
    let host = || t.host().function(way, &["return", "value"]);
    // Nothing is loaded to find out.
    let run = host().steps(&["run", "mapped=libcuda"]).run();
    run.succeeded();
    assert_eq!(run.event("mapped")["found"], 0);
    // Loaded is not initialised.
    host().steps(&[&driver, "run"]).run().succeeded();
    let run = host().steps(&[&driver, "new", "call=cuInit", "start"]).run();
    if way == Way::Fork {
        assert_eq!(run.event("start")["status"], "ICE_ERROR_STATE", "{run}");
        let message = run.event("start")["message"].as_str().unwrap();
        for part in ["CUDA", "spawn", "forkserver"] {
            assert!(message.contains(part), "{message}");
        }
        run.clean();
        let run = host().steps(&[&driver, "call=cuInit", "prepare"]).run();
        assert_eq!(run.event("prepare")["status"], "ICE_ERROR_STATE", "{run}");
    } else {
        assert_eq!(run.event("start")["status"], "ICE_OK", "{run}");
        let run = host().steps(&[&driver, "call=cuInit", "run"]).run();
        run.succeeded();
        assert_eq!(run.worker(0)["value"]["bytes"], "value");
    }
    // Programs do not mind.
    t.host().probe(&[]).steps(&[&driver, "call=cuInit", "run"]).run().succeeded();
}

fn fn_cuda_initialised_between_two_attempts() {
    let t = Case::new();
    let driver = format!("dlopen={}", program("libcuda.so.1").display());
    let host = t.host().set("max_restarts", 3);
    let host = host.callback(&["append", &t.path("ran"), "%a", "await", &t.path("go"), "code", "1"]);
    let steps = [
        &driver,
        "start",
        &format!("await_lines={}:1", t.path("ran")),
        "call=cuInit",
        "mark=initialised",
        "wait=60",
    ];
    let running = host.steps(&steps).spawn();
    running.wait_event("initialised");
    t.write("go", b"", 0o644);
    let run = running.finish();
    run.failed_as(END_AGENT_ERROR);
    assert!(run.result()["message"].as_str().unwrap().contains("CUDA"), "{run}");
    assert_eq!(t.lines("ran"), ["0"]);
}

// ---- prepared agents

fn fn_prepared_and_run(way: Way) {
    let t = Case::new();
    for steps in [&["prepare", "run"][..], &["prepare", "start", "wait=60"], &["prepare", "sleep=0.1", "run"]]
    {
        let host = t.host().set("local_world_size", 3).set("max_restarts", 1).set("log_dir", t.path("logs"));
        let verbs = ["return", "%r in %a", "attempt", "0", "rank", "1", "code", "1", ";", ";"];
        let run = host.function(way, &verbs).steps(steps).run();
        run.succeeded();
        assert_eq!(run.event("prepare")["status"], "ICE_OK");
        assert_eq!(run.worker(2)["value"]["bytes"], "2 in 1");
    }
    // Once only, and not after a start.
    let host =
        t.host().function(way, &[]).steps(&["prepare", "prepare", "wait=0", "start", "prepare", "wait=60"]);
    let run = host.run();
    run.succeeded();
    let of =
        |step: &str| -> Vec<Value> { run.events(step).iter().map(|event| event["status"].clone()).collect() };
    assert_eq!(of("prepare"), ["ICE_OK", "ICE_ERROR_STATE", "ICE_ERROR_STATE"]);
    assert_eq!(of("wait"), ["ICE_ERROR_STATE", "ICE_OK"]);
    // In a thread that is gone when the run starts, and again and again.
    let run = t.host().function(way, &[]).step("repeat=50:new,prepare,run,free_agent,free_result").run();
    assert_eq!(run.event("repeated")["failed"], 0, "{run}");
    run.clean();
}

fn fn_prepared_and_freed(way: Way) {
    let t = Case::new();
    let host = || t.host().function(way, &["append", &t.path("ran"), "x"]);
    let run = host().steps(&["prepare", "free_agent"]).run();
    assert_eq!(run.event("prepare")["status"], "ICE_OK");
    run.clean();
    // Stopped before it starts.
    let run = host().steps(&["prepare", "stop=TERM", "run"]).run();
    run.failed_as(END_INTERRUPTED);
    assert_eq!(run.result()["signal"], libc::SIGTERM);
    let run = host().steps(&["new", "stop=TERM", "prepare", "free_agent"]).run();
    run.clean();
    let run = host().step("repeat=50:new,prepare,free_agent").run();
    assert_eq!(run.event("repeated")["failed"], 0, "{run}");
    run.clean();
    assert!(t.lines("ran").is_empty());
    // A copy of the host has no part in what was prepared (ABI-12).
    let run = host().steps(&["prepare", "fork", "run"]).run();
    run.succeeded();
    for call in ["stop", "start", "run", "wait", "snapshot", "poll_fd"] {
        assert_eq!(run.event("forked")[call], "ICE_ERROR_FORKED", "{call}");
    }
    assert_eq!(t.lines("ran").len(), 1);
    // Killed, with an agent that waits for its start.
    let host = host().set("log_dir", t.path("logs"));
    let running = host.steps(&["prepare", "mark=prepared", "sleep=60"]).spawn();
    running.wait_event("prepared");
    running.kill();
    t.nothing_left();
}

fn fn_prepared_then_the_host_changes(way: Way) {
    let t = Case::new();
    fs::create_dir_all(t.dir.join("before")).unwrap();
    fs::create_dir_all(t.dir.join("after")).unwrap();
    let verbs = ["dump", &t.path("worker"), "--", "dump", &t.path("server")];
    let host = t.host().set("chdir", t.path("before")).step("setenv=WHEN=before").function(way, &verbs);
    let host = if way.has_server() { host.set("warm_up", "warm_up") } else { host };
    let run = host.step("prepare").set("chdir", t.path("after")).step("setenv=WHEN=after").step("run").run();
    run.succeeded();
    let check = |name: &str| {
        let when = if name == "server" { "before" } else { "after" };
        let dump = t.json(name);
        assert_eq!(crate::sp::environment(&dump)["WHEN"], when, "{name}");
        assert_eq!(dump["cwd"], t.path(when), "{name}");
    };
    check("worker");
    if way.has_server() {
        check("server");
        let env = crate::sp::environment(&t.json("server"));
        assert!(!env.contains_key("RANK") && !env.contains_key("MASTER_PORT"), "{env:?}");
    }
}
