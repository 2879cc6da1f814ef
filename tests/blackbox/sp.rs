//! Area SP: starting programs (and functions in every way, where the same is promised for all).

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::harness::{
    CAUSE_NEVER_STARTED, Case, END_START_ERROR, END_SUCCEEDED, Kind, OUTCOME_NEVER_STARTED, Run, gone, probe,
    program, wait_for,
};
use crate::tests;

pub fn tests() -> Vec<Trial> {
    tests![
        sp_01_entrypoint_and_args_arrive,
        sp_02_a_name_without_slash_is_found_in_the_workers_path,
        sp_02_the_search_goes_on_after_what_cannot_run,
        sp_02_without_path_the_default_is_searched,
        sp_02_a_name_that_is_nowhere,
        sp_04_what_cannot_run_is_a_start_error,
        sp_05_a_failed_exec_repeats_nothing_of_the_host,
        sp_06_arguments_of_any_bytes,
        sp_08_many_arguments_and_a_long_one,
        sp_09_too_long_for_the_kernel,
        sp_10_a_nul_within_is_refused,
        sp_12_the_order_of_environments,
        sp_12_names_come_once,
        sp_13_unset_and_clean_environment,
        sp_14_no_descriptor_but_0_1_2,
        sp_16_signal_state_of_workers,
        sp_16_what_the_hosts_parent_ignored_stays_ignored,
        sp_17_each_worker_leads_its_own_group,
        sp_18_ctrl_c_reaches_every_worker_once,
        sp_20_working_directory,
        sp_20_a_working_directory_that_is_missing,
        sp_20_umask_nice_and_limits_are_inherited,
        sp_21_out_of_descriptors,
        needs(root): sp_22_out_of_processes,
        sp_24_a_daemon_does_not_hold_the_run_up,
        sp_25_a_host_without_stdio,
        sp_28_a_text_file_busy_for_a_moment,
        sp_stdin_is_null_or_rank_0s_or_alls,
        sp_workers_live_with_their_parent_death_signal,
    ]
}

#[track_caller]
fn start_error(run: &Run, errno: i32, parts: &[&str]) {
    run.failed_as(END_START_ERROR);
    assert_eq!(run.result()["errno"], errno, "{run}");
    assert_eq!(run.result()["restarts"], 0);
    let message = run.result()["message"].as_str().unwrap();
    for part in parts {
        assert!(message.contains(part), "'{part}' is not in: {message}");
    }
    for worker in run.result()["workers"].as_array().unwrap() {
        assert_ne!(worker["exit_code"], 126);
        assert_ne!(worker["exit_code"], 127);
    }
}

/// NAME=VALUE items as a map; the names must be unique.
pub fn environment(dump: &Value) -> BTreeMap<String, String> {
    let mut map = BTreeMap::new();
    for item in dump["env"].as_array().expect("env") {
        let item = item.as_str().expect("UTF-8 in the tests' environment");
        let (name, value) = item.split_once('=').expect("a '='");
        let old = map.insert(name.to_string(), value.to_string());
        assert!(old.is_none(), "{name} comes twice");
    }
    map
}

fn sp_01_entrypoint_and_args_arrive() {
    let t = Case::new();
    let dump = t.path("%r.json");
    let host = t.host().set("local_world_size", 4).probe(&["dump", &dump, "--", "x", "yy", "zzz"]);
    host.run().succeeded();
    for rank in 0..4 {
        let argv = t.json(&format!("{rank}.json"))["argv"].clone();
        let path = probe();
        let wanted = [path.to_str().unwrap(), "dump", &dump, "--", "x", "yy", "zzz"];
        assert_eq!(argv, Value::from(wanted.to_vec()));
    }
}

fn script(t: &Case, name: &str, text: &str) -> String {
    t.write(name, format!("#!/bin/sh\necho {text} \"$0\" >> {}\n", t.path("ran")).as_bytes(), 0o755)
}

fn sp_02_a_name_without_slash_is_found_in_the_workers_path() {
    let t = Case::new();
    for dir in ["host", "all", "one"] {
        script(&t, &format!("{dir}/tool"), dir);
    }
    let path = |dir: &str| format!("{}:/usr/bin:/bin", t.path(dir));
    let host = || t.host().set("program", "tool").env("PATH", &path("host"));
    host().run().succeeded();
    assert!(t.read("ran").starts_with("host "));
    fs::remove_file(t.dir.join("ran")).unwrap();
    let with_all = format!("env=PATH={}", path("all"));
    let with_one = format!("rank_env=1:PATH={}", path("one"));
    host().set("local_world_size", 2).step(&with_all).step(&with_one).run().succeeded();
    let mut ran: Vec<String> =
        t.lines("ran").iter().map(|line| line.split(' ').next().unwrap().to_string()).collect();
    ran.sort();
    assert_eq!(ran, ["all", "one"]);
    // An empty item is the working directory, the worker's own.
    fs::remove_file(t.dir.join("ran")).unwrap();
    host().step("env=PATH=:/bin").set("working_dir", t.path("one")).run().succeeded();
    assert!(t.read("ran").starts_with("one "));
}

fn sp_02_the_search_goes_on_after_what_cannot_run() {
    let t = Case::new();
    t.write("a/tool", b"no execute bit", 0o644);
    fs::create_dir_all(t.dir.join("b/tool")).unwrap();
    t.write("c", b"a file, not a directory", 0o644);
    script(&t, "d/tool", "found");
    let path = format!("{}:{}:{}:{}", t.path("a"), t.path("b"), t.path("c"), t.path("d"));
    t.host().set("program", "tool").step(format!("env=PATH={path}:/bin:/usr/bin")).run().succeeded();
    assert!(t.read("ran").starts_with("found"));
    // Where nothing can run the reason is that of what was found, as execvp has it.
    let path = format!("env=PATH={}:{}", t.path("a"), t.path("nowhere"));
    start_error(&t.host().set("program", "tool").step(path).run(), libc::EACCES, &["tool"]);
}

fn sp_02_without_path_the_default_is_searched() {
    let t = Case::new();
    t.host().set("program", "true").step("unset_env=PATH").run().succeeded();
    t.host().set("program", "true").step("clean_env=1").run().succeeded();
    let run = t.host().set("program", "true").step("clean_env=1").step("env=PATH=/nowhere").run();
    start_error(&run, libc::ENOENT, &["true"]);
}

fn sp_02_a_name_that_is_nowhere() {
    let t = Case::new();
    start_error(
        &t.host().set("program", "no-such-program-at-all").run(),
        libc::ENOENT,
        &["no-such-program-at-all"],
    );
}

fn sp_04_what_cannot_run_is_a_start_error() {
    let t = Case::new();
    let plain = t.write("plain", b"#!/bin/sh\nexit 0\n", 0o644);
    let garbage = t.write("garbage", b"\x01\x02\x03 this is no program\n", 0o755);
    let script = t.write("script", b"#!/no/such/interpreter -x\nexit 0\n", 0o755);
    let text = t.write("text", b"exit 0\n", 0o755); // no shell takes it over
    let empty = t.write("empty", b"", 0o755);
    let missing = t.path("missing");
    let below = format!("{plain}/below");
    for workers in [1, 3] {
        let run = |program: &str| {
            t.host().set("max_restarts", 2).set("local_world_size", workers).set("program", program).run()
        };
        start_error(&run(&plain), libc::EACCES, &[&plain]);
        start_error(&run(&t.path("tmp")), libc::EACCES, &[&t.path("tmp")]);
        start_error(&run(&garbage), libc::ENOEXEC, &[&garbage]);
        start_error(&run(&text), libc::ENOEXEC, &[&text]);
        start_error(&run(&empty), libc::ENOEXEC, &[&empty]);
        start_error(&run(&script), libc::ENOENT, &[&script, "interpreter"]);
        start_error(&run(&missing), libc::ENOENT, &[&missing]);
        start_error(&run(&below), libc::ENOTDIR, &[&below]);
    }
    let run = t.host().set("program", &missing).run();
    assert!(!run.result()["message"].as_str().unwrap().contains("interpreter"), "{run}");
    assert_eq!(run.worker(0)["outcome"], OUTCOME_NEVER_STARTED);
    assert_eq!(run.worker(0)["cause"], CAUSE_NEVER_STARTED);
    assert_eq!(run.worker(0)["pid"], 0);
}

fn sp_05_a_failed_exec_repeats_nothing_of_the_host() {
    let t = Case::new();
    let host = t.host().set("print", "held back").set("atexit", t.path("atexit"));
    let run = host.set("local_world_size", 4).set("program", "/no/such/program").run();
    start_error(&run, libc::ENOENT, &[]);
    assert_eq!(run.out(), "held back");
    assert_eq!(t.lines("atexit").len(), 1);
}

const STRANGE: &[&str] = &[
    "a b", "", "'", "\"", "\\", "\t", "\n", "*", "--", "-x", "b=c", " Ss", "$HOME", "$(ls)", "`ls`", "~",
    "#", "&", ";", "\u{7f}", "é", "%s", "!", "{a,b}", "a\r\nb",
];

fn sp_06_arguments_of_any_bytes() {
    let t = Case::new();
    let dump = t.path("dump");
    let mut host = t.host().probe(&["dump", &dump, "--"]);
    for arg in STRANGE {
        host = host.set("arg", arg);
    }
    host.set("arg_bytes", "\\xff\\xfe\\x01").run().succeeded();
    let argv = t.json("dump")["argv"].as_array().unwrap().clone();
    assert_eq!(argv.len(), 4 + STRANGE.len() + 1);
    for (index, arg) in STRANGE.iter().enumerate() {
        assert_eq!(argv[4 + index], *arg);
    }
    assert_eq!(argv.last().unwrap()["hex"], "fffe01");
}

fn sp_08_many_arguments_and_a_long_one() {
    let t = Case::new();
    let host = t
        .host()
        .probe(&["dump", &t.path("dump"), "--"])
        .set("many_args", 1000)
        .set("long_arg", 128 * 1024 - 1);
    host.run().succeeded();
    let argv = t.json("dump")["argv"].as_array().unwrap().clone();
    assert_eq!(argv.len(), 4 + 1000 + 1);
    assert_eq!(argv[4], "a0");
    assert_eq!(argv[1003], "a999");
    assert_eq!(argv[1004].as_str().unwrap().len(), 128 * 1024 - 1);
    assert!(argv[1004].as_str().unwrap().bytes().all(|byte| byte == b'x'));
}

fn sp_09_too_long_for_the_kernel() {
    let t = Case::new();
    let host = t.host().set("local_world_size", 2).probe(&["exit", "0"]);
    start_error(&host.set("long_arg", 128 * 1024).run(), libc::E2BIG, &[]);
    let mut host = t.host().probe(&["exit", "0"]);
    for _ in 0..60 {
        host = host.set("long_arg", 128 * 1024 - 1); // more than a quarter of any usual stack limit
    }
    start_error(&host.run(), libc::E2BIG, &[]);
    // The environment counts too.
    let value = "v".repeat(120 * 1024);
    let mut host = t.host().probe(&["exit", "0"]);
    for index in 0..15 {
        host = host.step(format!("env=BIG{index}={value}"));
    }
    for _ in 0..40 {
        host = host.set("long_arg", 128 * 1024 - 1);
    }
    start_error(&host.run(), libc::E2BIG, &[]);
}

fn sp_10_a_nul_within_is_refused() {
    let t = Case::new();
    for (step, field) in [
        ("program_bytes=/bin/true\\0x", "program"),
        ("arg_bytes=a\\0b", "arg"),
        ("env_bytes=A\\0B=c", "env"),
        ("env_bytes=A=c\\0d", "env"),
    ] {
        let run = t.host().probe(&["exit", "0"]).step(step).run();
        run.refused(&[field, "NUL"]);
    }
}

fn sp_12_the_order_of_environments() {
    let t = Case::new();
    let host = t
        .host()
        .set("local_world_size", 2)
        .env("A", "host")
        .env("B", "host")
        .env("C", "host")
        .env("D", "host");
    let host = host.steps(&["env=B=spec", "env=C=spec", "rank_env=1:C=rank", "rank_env=1:E=rank"]);
    // The later call wins; unset and set are one order.
    let host = host.steps(&[
        "env=F=1",
        "env=F=2",
        "unset_env=D",
        "env=G=1",
        "unset_env=G",
        "unset_env=H",
        "env=H=1",
    ]);
    host.env("H", "host").probe(&["dump", &t.path("%r.json")]).run().succeeded();
    for (rank, c, e) in [(0, "spec", None), (1, "rank", Some("rank"))] {
        let env = environment(&t.json(&format!("{rank}.json")));
        let get = |name: &str| env.get(name).map(String::as_str);
        assert_eq!(get("A"), Some("host"));
        assert_eq!(get("B"), Some("spec"));
        assert_eq!(get("C"), Some(c));
        assert_eq!(get("D"), None);
        assert_eq!(get("E"), e);
        assert_eq!(get("F"), Some("2"));
        assert_eq!(get("G"), None);
        assert_eq!(get("H"), Some("1"));
    }
}

fn sp_12_names_come_once() {
    let t = Case::new();
    // Reserved names in the host's environment are the agent's to set; a name that is twice there comes once.
    for kind in Kind::ALL {
        let host = t.host().env("RANK", "7").env("WORLD_SIZE", "99").env("MASTER_ADDR", "elsewhere");
        let host = host.step("environ_twice=TWICE=x").step("environ_twice=LOCAL_RANK=5");
        let host =
            host.step("env=TORCH_NCCL_ASYNC_ERROR_HANDLING=3").worker(kind, &["dump", &t.path("0.json")]);
        host.run().succeeded();
        let env = environment(&t.json("0.json"));
        assert_eq!(env["RANK"], "0");
        assert_eq!(env["WORLD_SIZE"], "1");
        assert_eq!(env["LOCAL_RANK"], "0");
        assert_eq!(env["MASTER_ADDR"], "127.0.0.1");
        assert_eq!(env["TWICE"], "x");
        assert_eq!(env["TORCH_NCCL_ASYNC_ERROR_HANDLING"], "3");
    }
}

fn sp_13_unset_and_clean_environment() {
    let t = Case::new();
    for kind in Kind::ALL {
        let verbs = ["dump", &t.path("%r.json")];
        let host = t.host().set("local_world_size", 2).env("A", "1").env("B", "1");
        let host = host.steps(&["unset_env=A", "unset_rank_env=1:B", "unset_env=NOT_THERE"]);
        host.worker(kind, &verbs).run().succeeded();
        let (zero, one) = (environment(&t.json("0.json")), environment(&t.json("1.json")));
        assert!(!zero.contains_key("A") && !one.contains_key("A"));
        assert!(zero.contains_key("B") && !one.contains_key("B"));

        let host = t.host().env("A", "1").steps(&["clean_env=1", "env=MINE=1"]);
        host.worker(kind, &verbs).run().succeeded();
        let env = environment(&t.json("0.json"));
        let mut names: Vec<&str> = env.keys().map(String::as_str).collect();
        let mut wanted = crate::env::VARIABLES.to_vec();
        wanted.push("MINE");
        names.sort();
        wanted.sort();
        assert_eq!(names, wanted);
    }
}

fn fd_numbers(dump: &Value) -> Vec<i64> {
    let mut numbers: Vec<i64> =
        dump["fds"].as_array().unwrap().iter().map(|fd| fd["fd"].as_i64().unwrap()).collect();
    numbers.sort();
    numbers
}

fn sp_14_no_descriptor_but_0_1_2() {
    for kind in Kind::ALL {
        for logs in [false, true] {
            let t = Case::new();
            let host = t.host().set("local_world_size", 3).set("max_restarts", 1);
            let host = host.step(format!("open=7:{}", t.path("a"))).step(format!("open=200:{}", t.path("b")));
            let host = host.step("open=9:/dev/null").set("log_dir", t.path("logs"));
            let host = if logs { host.set("tee", 3).set("log_callback", t.path("log")) } else { host };
            let verbs =
                ["dump", &t.path("%r.%a.json"), "attempt", "0", "rank", "1", "exit", "1", ";", "pause", ";"];
            host.worker(kind, &verbs).run().succeeded();
            for rank in 0..3 {
                for attempt in 0..2 {
                    let name = format!("{rank}.{attempt}.json");
                    if attempt == 0 && rank != 1 && !t.dir.join(&name).exists() {
                        continue; // stopped before it came so far
                    }
                    let dump = t.json(&name);
                    assert_eq!(dump["fds"][0]["link"], "/dev/null");
                    // A function has one more for the value it may return, which no program of its gets.
                    let is_value = |fd: &&Value| fd["link"].as_str().unwrap().starts_with("/memfd:ice-value");
                    let fds = dump["fds"].as_array().unwrap();
                    let value = fds.iter().filter(is_value).count();
                    assert!(value <= usize::from(kind != Kind::Program), "{fds:?}");
                    assert!(fds.iter().filter(is_value).all(|fd| fd["cloexec"] == 1));
                    assert_eq!(fd_numbers(&dump)[..3], [0, 1, 2], "{fds:?}");
                    assert_eq!(fds.len(), 3 + value, "{fds:?}");
                }
            }
        }
    }
}

/// A set of signals as /proc has it, without 32 and 33: those are glibc's own, which its posix_spawn (that of the
/// tests) ignores in the child.
fn signal_bits(dump: &Value, name: &str) -> u64 {
    u64::from_str_radix(dump[name].as_str().unwrap(), 16).unwrap() & !(3 << 31)
}

fn sp_16_signal_state_of_workers() {
    for kind in Kind::ALL {
        let t = Case::new();
        let host =
            t.host().steps(&["ignore=PIPE", "block=TERM", "block=USR1", "handler=USR2", "handler=CHLD"]);
        let host = host.set("signals", "INT,HUP").set("pass_signals", "WINCH");
        host.worker(kind, &["dump", &t.path("dump")]).run().succeeded();
        let dump = t.json("dump");
        let bits = |name: &str| signal_bits(&dump, name);
        assert_eq!(bits("blocked"), 0);
        assert_eq!(bits("ignored"), 0, "{}", dump["ignored"]);
        // A function's crashes are recorded, and it says where it is when the agent asks (62).
        let handled = [libc::SIGILL, libc::SIGABRT, libc::SIGBUS, libc::SIGFPE, libc::SIGSEGV, 62];
        let caught =
            handled.iter().filter(|_| kind != Kind::Program).fold(0, |bits, signal| bits | 1 << (signal - 1));
        assert_eq!(bits("caught"), caught, "{}", dump["caught"]);
    }
}

fn sp_16_what_the_hosts_parent_ignored_stays_ignored() {
    for kind in Kind::ALL {
        let t = Case::new();
        let host = t.host().under(&["sh", "-c", "trap '' HUP USR1; exec \"$@\"", "sh"]);
        // Asking for a signal that is ignored (nohup) does not change that.
        let host = host.set("signals", "HUP,TERM").worker(kind, &["dump", &t.path("dump")]);
        host.run().succeeded();
        let ignored = signal_bits(&t.json("dump"), "ignored");
        assert_eq!(ignored, 1 << (libc::SIGHUP - 1) | 1 << (libc::SIGUSR1 - 1));
    }
}

fn sp_17_each_worker_leads_its_own_group() {
    for kind in Kind::ALL {
        let t = Case::new();
        let host = t.host().set("local_world_size", 2);
        let verbs = ["child", "dump", &t.path("child%r"), ";", "wait_children", "dump", &t.path("%r")];
        let run = host.worker(kind, &verbs).run();
        run.succeeded();
        let mut groups = Vec::new();
        for rank in 0..2 {
            let dump = t.json(&rank.to_string());
            assert_eq!(dump["pid"], run.worker(rank)["pid"]);
            assert_eq!(dump["pgid"], dump["pid"]);
            assert_eq!(t.json(&format!("child{rank}"))["pgid"], dump["pid"]);
            groups.push(dump["pgid"].as_i64().unwrap());
        }
        assert_ne!(groups[0], groups[1]);
    }
}

fn sp_18_ctrl_c_reaches_every_worker_once() {
    for kind in Kind::ALL {
        let t = Case::new();
        let ready = t.path("ready");
        // pty.c makes a terminal, runs the host in its foreground and types ^C once three workers are ready.
        let pty = program("pty");
        let host = t.host().under(&[pty.to_str().unwrap(), &ready, "3"]).set("signals", "SIGINT,SIGTERM");
        let verbs = [
            "count",
            "INT",
            &t.path("int"),
            "append",
            &ready,
            "%r",
            "await_lines",
            &t.path("int"),
            "3",
            "sleep",
            "0.2",
        ];
        let run = host.set("local_world_size", 3).worker(kind, &verbs).run();
        assert_eq!(run.result()["end"], crate::harness::END_INTERRUPTED, "{run}");
        assert_eq!(run.result()["signal"], libc::SIGINT);
        let lines = t.lines("int");
        assert_eq!(lines.len(), 3, "{lines:?}");
        let mut pids: Vec<&str> = lines.iter().map(|line| line.split(' ').nth(1).unwrap()).collect();
        pids.sort();
        pids.dedup();
        assert_eq!(pids.len(), 3, "one each: {lines:?}");
        t.nothing_left();
    }
}

fn sp_20_working_directory() {
    for kind in Kind::ALL {
        let t = Case::new();
        fs::create_dir_all(t.dir.join("x/y")).unwrap();
        let verbs = ["dump", &t.path("dump")];
        t.host().set("working_dir", t.path("x/y")).worker(kind, &verbs).run().succeeded();
        let here = fs::canonicalize(t.dir.join("x/y")).unwrap();
        assert_eq!(t.json("dump")["cwd"], here.to_str().unwrap());
        // A relative one is taken from where the host is.
        t.host().set("chdir", t.path("x")).set("working_dir", "y").worker(kind, &verbs).run().succeeded();
        assert_eq!(t.json("dump")["cwd"], here.to_str().unwrap());
        // The default is the host's.
        t.host().set("chdir", t.path("x")).worker(kind, &verbs).run().succeeded();
        assert_eq!(t.json("dump")["cwd"], here.parent().unwrap().to_str().unwrap());
    }
}

fn sp_20_a_working_directory_that_is_missing() {
    for kind in Kind::ALL {
        let t = Case::new();
        let missing = t.path("not/there");
        let host = || t.host().set("local_world_size", 2).worker(kind, &["exit", "0"]);
        start_error(&host().set("working_dir", &missing).run(), libc::ENOENT, &[&missing]);
        let file = t.write("file", b"", 0o644);
        start_error(&host().set("working_dir", &file).run(), libc::ENOTDIR, &[&file]);
    }
}

fn sp_20_umask_nice_and_limits_are_inherited() {
    for kind in Kind::ALL {
        let t = Case::new();
        let host =
            t.host().steps(&["umask=027", "nice=7", "limit=nofile:333", "limit=cpu:4444", "limit=core:0"]);
        host.worker(kind, &["dump", &t.path("dump")]).run().succeeded();
        let dump = t.json("dump");
        assert_eq!(dump["umask"], 0o027);
        assert_eq!(dump["nice"], 7);
        assert_eq!(dump["limit_nofile"], 333);
        assert_eq!(dump["limit_cpu"], 4444);
        assert_eq!(dump["limit_core"], 0);
    }
}

fn sp_21_out_of_descriptors() {
    for kind in Kind::ALL {
        let t = Case::new();
        let host = t.host().set("local_world_size", 40).set("log_dir", t.path("logs")).set("redirects", 3);
        // Enough for some workers, not for all.
        let host = host.step("limit=nofile:48").worker(kind, &["append", &t.path("pids"), "%p", "pause"]);
        let started = Instant::now();
        let run = host.run();
        start_error(&run, libc::EMFILE, &[]);
        assert!(started.elapsed().as_secs() < 20, "the started workers were not stopped at once");
        assert_eq!(run.result()["workers"][39]["outcome"], OUTCOME_NEVER_STARTED);
        for pid in t.lines("pids") {
            assert!(gone(pid.parse().unwrap()));
        }
    }
}

fn sp_22_out_of_processes() {
    use std::os::unix::fs::PermissionsExt;
    for kind in Kind::ALL {
        let t = Case::new();
        for dir in [t.dir.clone(), t.tmp()] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
        }
        fs::copy(probe(), t.dir.join("probe")).unwrap();
        // The limit counts all processes and threads of a user: one that has no others.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let uid = 200_000 + std::process::id() % 100_000 + NEXT.fetch_add(1, Ordering::Relaxed);
        let host = t.host().set("local_world_size", 20).step("chdir=/");
        let host = host.worker(kind, &["append", &t.path("pids"), "%p", "pause"]);
        let host = if kind == Kind::Program { host.set("program", t.path("probe")) } else { host };
        let run = host.step("limit=nproc:6").step(format!("uid={uid}")).run();
        start_error(&run, libc::EAGAIN, &[]);
        assert_eq!(run.result()["workers"][19]["outcome"], OUTCOME_NEVER_STARTED);
        for pid in t.lines("pids") {
            assert!(gone(pid.parse().unwrap()));
        }
    }
}

fn sp_24_a_daemon_does_not_hold_the_run_up() {
    for kind in Kind::ALL {
        let t = Case::new();
        let pid_file = t.path("daemon");
        let verbs = ["daemon", "append", &pid_file, "%p", "pause", ";", "await_lines", &pid_file, "1"];
        let run = t.host().worker(kind, &verbs).run();
        assert_eq!(run.result()["end"], END_SUCCEEDED, "{run}");
        assert!(run.wall.as_secs() < 20);
        let pid: i32 = t.lines("daemon")[0].parse().unwrap();
        assert!(gone(pid), "it ends with the run, see KILL-09");
        run.succeeded();
    }
}

fn sp_25_a_host_without_stdio() {
    for kind in Kind::ALL {
        let t = Case::new();
        let host = t.host().steps(&["close=0", "close=1", "close=2"]).set("local_world_size", 2);
        let host = host.set("log_dir", t.path("logs")).set("redirects", "0:3").set("tee", "0:3,1:1");
        let verbs = [
            "dump",
            &t.path("%r"),
            "write",
            "1",
            "out%r\\n",
            "write",
            "2",
            "err%r\\n",
            "await",
            &t.path("go"),
        ];
        let running = host.worker(kind, &verbs).spawn();
        t.wait_file("0");
        t.wait_file("1");
        for fd in 0..3 {
            // A shell's notion of 0, 1 and 2 must not be an internal descriptor of the library: but for the
            // moment in which the kernel gives one out and it is moved away.
            let path = format!("/proc/{}/fd/{fd}", running.pid());
            wait_for("0, 1 and 2 to be free", || {
                fs::read_link(&path).map_or(true, |link| link.to_str() == Some("/dev/null"))
            });
        }
        fs::write(t.dir.join("go"), "").unwrap();
        let run = running.finish();
        run.succeeded();
        let links = |rank: &str| -> Vec<String> {
            let dump = t.json(rank);
            assert_eq!(fd_numbers(&dump)[..3], [0, 1, 2]);
            (0..3).map(|fd| dump["fds"][fd]["link"].as_str().unwrap().to_string()).collect()
        };
        assert_eq!(links("0")[0], "/dev/null");
        assert!(links("0")[1].ends_with("/0/stdout.log"), "{:?}", links("0"));
        assert!(links("1")[1].ends_with("/1/stdout.log"));
        assert_eq!(links("1")[2], "/dev/null");
        let log =
            |rank: usize, name: &str| fs::read_to_string(run.worker(rank)[name].as_str().unwrap()).unwrap();
        assert_eq!(log(0, "stdout_log"), "out0\n");
        assert_eq!(log(0, "stderr_log"), "err0\n");
        assert_eq!(log(1, "stdout_log"), "out1\n");
    }
}

fn sp_28_a_text_file_busy_for_a_moment() {
    let t = Case::new();
    let path = t.path("program");
    fs::copy(probe(), &path).unwrap();
    for _ in 0..20 {
        // Somebody still has the file open for writing when the run starts, and closes it a little later.
        let writer = fs::OpenOptions::new().write(true).open(&path).unwrap();
        let running =
            t.host().set("program", &path).steps(&["arg=exit", "arg=0", "new", "mark=go", "run"]).spawn();
        running.wait_event("go");
        std::thread::sleep(std::time::Duration::from_millis(3));
        drop(writer);
        running.finish().succeeded();
    }
}

fn sp_stdin_is_null_or_rank_0s_or_alls() {
    for kind in Kind::ALL {
        for (choice, expected) in [(0, ["0", "0"]), (1, ["6", "0"])] {
            let t = Case::new();
            let host = t.host().set("local_world_size", 2).set("stdin", choice).stdin(b"input\n");
            host.worker(kind, &["stdin", &t.path("%r")]).run().succeeded();
            assert_eq!([t.read("0").trim(), t.read("1").trim()], expected, "stdin={choice}");
        }
        let t = Case::new();
        let host = t.host().set("local_world_size", 2).set("stdin", 2).stdin(b"input\n");
        host.worker(kind, &["dump", &t.path("%r")]).run().succeeded();
        for rank in ["0", "1"] {
            assert!(t.json(rank)["fds"][0]["link"].as_str().unwrap().ends_with(".in"));
        }
    }
}

fn sp_workers_live_with_their_parent_death_signal() {
    for kind in Kind::ALL {
        let t = Case::new();
        t.host().worker(kind, &["dump", &t.path("dump")]).run().succeeded();
        assert_eq!(t.json("dump")["parent_death_signal"], libc::SIGKILL);
    }
}
