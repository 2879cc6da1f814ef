//! Area ENV: the workers' environment and the macros in their arguments.

use std::net::{TcpListener, TcpStream};

use libtest_mimic::Trial;

use crate::harness::{Case, END_START_ERROR, END_WORKER_FAILURE, Kind, wait_for};
use crate::sp::environment;
use crate::tests;

pub fn tests() -> Vec<Trial> {
    tests![
        env_01_all_variables_are_there,
        env_02_ranks_and_sizes_of_a_single_agent,
        env_04_async_error_handling,
        env_05_restart_count,
        env_06_no_store_is_served,
        env_08_local_rank_anywhere_in_an_argument,
        env_09_what_is_no_macro_stays,
        env_09_arguments_of_any_pieces,
        env_09_one_more_dollar_keeps_a_macro,
        env_10_fewer_macros,
        env_10_all_macros,
        env_10_values_are_not_filled_in_again,
        env_10_the_program_has_no_macros,
        env_master_port_is_free_and_new_for_each_attempt,
        env_master_port_is_kept_for_the_worker,
        env_master_port_in_use_is_a_start_error,
        env_master_addr_and_run_id,
        env_of_the_host_is_taken_at_the_start,
        env_of_the_host_is_not_touched,
    ]
}

/// What the agent sets itself: the whole environment of a worker that starts with a clean one.
pub const VARIABLES: &[&str] = &[
    "RANK",
    "LOCAL_RANK",
    "GROUP_RANK",
    "ROLE_RANK",
    "ROLE_NAME",
    "LOCAL_WORLD_SIZE",
    "WORLD_SIZE",
    "ICE_DESCENT",
    "GROUP_WORLD_SIZE",
    "ROLE_WORLD_SIZE",
    "MASTER_ADDR",
    "MASTER_PORT",
    "TORCHELASTIC_RESTART_COUNT",
    "TORCHELASTIC_MAX_RESTARTS",
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_USE_AGENT_STORE",
    "TORCHELASTIC_ERROR_FILE",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING",
];

fn env_01_all_variables_are_there() {
    for kind in Kind::ALL {
        let t = Case::new();
        let host = t.bare_host().set("role", "trainer").set("max_restarts", 12).set("run_id", "job 7");
        let host = host.set("local_world_size", 11).set("log_dir", t.path("logs"));
        host.worker(kind, &["dump", &t.path("%r")]).run().succeeded();
        for rank in 0..11 {
            let env = environment(&t.json(&rank.to_string()));
            for name in VARIABLES {
                assert!(env.contains_key(*name), "{name}");
            }
            let rank = rank.to_string();
            for (name, value) in [
                ("RANK", rank.as_str()),
                ("LOCAL_RANK", &rank),
                ("ROLE_RANK", &rank),
                ("GROUP_RANK", "0"),
                ("ROLE_NAME", "trainer"),
                ("LOCAL_WORLD_SIZE", "11"),
                ("WORLD_SIZE", "11"),
                ("ROLE_WORLD_SIZE", "11"),
                ("GROUP_WORLD_SIZE", "1"),
                ("MASTER_ADDR", "127.0.0.1"),
                ("TORCHELASTIC_RESTART_COUNT", "0"),
                ("TORCHELASTIC_MAX_RESTARTS", "12"),
                ("TORCHELASTIC_RUN_ID", "job 7"),
                ("TORCHELASTIC_USE_AGENT_STORE", "False"),
                ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1"),
            ] {
                assert_eq!(env[name], value, "{name}");
            }
            let port: u16 = env["MASTER_PORT"].parse().unwrap();
            assert!(port > 0 && env["MASTER_PORT"] == port.to_string());
            let file = &env["TORCHELASTIC_ERROR_FILE"];
            assert!(file.starts_with(&t.path("logs/")), "{file}");
            assert!(file.ends_with(&format!("/attempt_0/{rank}/error.json")), "{file}");
        }
    }
}

fn env_02_ranks_and_sizes_of_a_single_agent() {
    let t = Case::new();
    let run = t
        .host()
        .set("local_world_size", 4)
        .probe(&["dump", &t.path("%r"), "append", &t.path("ranks"), "%r"])
        .run();
    run.succeeded();
    let mut ranks = t.lines("ranks");
    ranks.sort();
    assert_eq!(ranks, ["0", "1", "2", "3"]);
    for rank in 0..4 {
        let env = environment(&t.json(&rank.to_string()));
        assert_eq!([&env["RANK"], &env["LOCAL_RANK"], &env["ROLE_RANK"]], [&rank.to_string(); 3]);
        let worker = run.worker(rank);
        assert!(["global_rank", "local_rank", "role_rank"].iter().all(|name| worker[name] == rank));
        assert_eq!(run.result()["by_rank"][rank], rank);
    }
}

fn env_04_async_error_handling() {
    let t = Case::new();
    let seen = |host: crate::harness::Host<'_>| {
        host.probe(&["dump", &t.path("dump")]).run().succeeded();
        environment(&t.json("dump"))["TORCH_NCCL_ASYNC_ERROR_HANDLING"].clone()
    };
    assert_eq!(seen(t.host()), "1");
    assert_eq!(seen(t.host().env("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")), "0");
    assert_eq!(seen(t.host().env("TORCH_NCCL_ASYNC_ERROR_HANDLING", "")), "");
    assert_eq!(seen(t.host().step("env=TORCH_NCCL_ASYNC_ERROR_HANDLING=2")), "2");
    // In a clean environment the host's value is not there.
    assert_eq!(seen(t.host().step("clean_env=1").env("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")), "1");
}

fn env_05_restart_count() {
    for kind in Kind::ALL {
        let t = Case::new();
        let host = t.host().set("max_restarts", 2).set("local_world_size", 2).set("log_dir", t.path("logs"));
        let verbs =
            ["dump", &t.path("%r.%a"), "await", &t.path("0.%a"), "await", &t.path("1.%a"), "exit", "1"];
        host.worker(kind, &verbs).run().failed_as(END_WORKER_FAILURE);
        for attempt in 0..3 {
            for rank in 0..2 {
                let env = environment(&t.json(&format!("{rank}.{attempt}")));
                assert_eq!(env["TORCHELASTIC_RESTART_COUNT"], attempt.to_string());
                assert_eq!(env["TORCHELASTIC_MAX_RESTARTS"], "2");
                assert!(
                    env["TORCHELASTIC_ERROR_FILE"]
                        .ends_with(&format!("/attempt_{attempt}/{rank}/error.json"))
                );
            }
        }
    }
}

fn env_06_no_store_is_served() {
    let t = Case::new();
    // `False`, and nothing listens at MASTER_PORT before rank 0 does.
    let verbs = ["dump", &t.path("dump"), "await", &t.path("go")];
    let running = t.host().probe(&verbs).spawn();
    t.wait_file("dump");
    let env = environment(&t.json("dump"));
    assert_eq!(env["TORCHELASTIC_USE_AGENT_STORE"], "False");
    let port: u16 = env["MASTER_PORT"].parse().unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
    std::fs::write(t.dir.join("go"), "").unwrap();
    running.finish().succeeded();
}

/// The arguments after `--` as the worker of each rank had them.
fn arguments(t: &Case, args: &[&str], workers: usize, host: crate::harness::Host<'_>) -> Vec<Vec<String>> {
    let mut verbs = vec!["dump".to_string(), t.path("%r"), "--".to_string()];
    verbs.extend(args.iter().map(|arg| arg.to_string()));
    let verbs: Vec<&str> = verbs.iter().map(String::as_str).collect();
    host.set("local_world_size", workers).probe(&verbs).run().succeeded();
    let texts = |rank: usize| -> Vec<String> {
        let argv = t.json(&rank.to_string())["argv"].as_array().unwrap().clone();
        argv[4..].iter().map(|arg| arg.as_str().unwrap().to_string()).collect()
    };
    (0..workers).map(texts).collect()
}

fn env_08_local_rank_anywhere_in_an_argument() {
    let t = Case::new();
    let args =
        ["${local_rank}", "a${local_rank}b", "${local_rank}${local_rank}", "--device=cuda:${local_rank}"];
    for (rank, seen) in arguments(&t, &args, 11, t.host()).iter().enumerate() {
        let wanted = [
            format!("{rank}"),
            format!("a{rank}b"),
            format!("{rank}{rank}"),
            format!("--device=cuda:{rank}"),
        ];
        assert_eq!(*seen, wanted);
    }
}

fn env_09_what_is_no_macro_stays() {
    let t = Case::new();
    let args = [
        "$$x",
        "$",
        "${other}",
        "100%",
        "$HOME",
        "${local_rank",
        "$local_rank",
        "${}",
        "${LOCAL_RANK}",
        "${ local_rank}",
        "${local_rank }",
        "$${",
        "}",
        "${HOME}",
        "\\${other}",
        "${local_rank:-1}",
        "{local_rank}",
        "${other${",
        "$(x)",
    ];
    assert_eq!(arguments(&t, &args, 1, t.host())[0], args);
    // Around a macro everything stays as well.
    let seen =
        arguments(&t, &["$ ${local_rank}$", "${${local_rank}}", "${local_rank${local_rank}"], 1, t.host());
    assert_eq!(seen[0], ["$ 0$", "${0}", "${local_rank0"]);
}

fn env_09_one_more_dollar_keeps_a_macro() {
    let t = Case::new();
    let args = ["$${local_rank}$", "$${rank}|${rank}", "$$${rank}", "$${other}"];
    assert_eq!(
        arguments(&t, &args, 1, t.host())[0],
        ["${local_rank}$", "${rank}|0", "$${rank}", "$${other}"]
    );
    // In prefixes as well.
    let run =
        t.host().set("tee", 3).set("log_prefix_template", "$${rank}=${rank} ").probe(&["print", "x"]).run();
    assert_eq!(run.out(), "${rank}=0 x\n");
}

fn env_10_fewer_macros() {
    let t = Case::new();
    let args = ["${local_rank}", "${rank}", "$${local_rank}"];
    for (macros, wanted) in
        [(0, args), (1, ["0", "${rank}", "${local_rank}"]), (2, ["0", "0", "${local_rank}"])]
    {
        assert_eq!(arguments(&t, &args, 1, t.host().set("macros", macros))[0], wanted, "{macros}");
        // A prefix is a template whatever is chosen.
        let host = t
            .host()
            .set("macros", macros)
            .set("log_dir", t.path("logs"))
            .set("tee", 1)
            .set("log_prefix_template", "${rank}:");
        assert_eq!(host.probe(&["print", "x"]).run().out(), "0:x\n");
    }
}

/// What the header says of macros, in other words than the library's: the first name of a known macro at each `${`,
/// and the text itself after one more `$`.
fn filled_in(arg: &[u8], values: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    'next: while at < arg.len() {
        for (name, value) in values {
            let text = format!("${{{name}}}");
            if arg[at..].starts_with(b"$") && arg[at + 1..].starts_with(text.as_bytes()) {
                out.extend_from_slice(text.as_bytes());
                at += 1 + text.len();
                continue 'next;
            }
            if arg[at..].starts_with(text.as_bytes()) {
                out.extend_from_slice(value.as_bytes());
                at += text.len();
                continue 'next;
            }
        }
        out.push(arg[at]);
        at += 1;
    }
    out
}

/// An item of a dump as bytes: text, or what is not UTF-8 in hexadecimal.
fn dumped(item: &serde_json::Value) -> Vec<u8> {
    match item.as_str() {
        Some(text) => text.as_bytes().to_vec(),
        None => {
            let hex = item["hex"].as_str().expect("text or hex");
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
        }
    }
}

fn env_09_arguments_of_any_pieces() {
    use proptest::prelude::*;
    use std::os::unix::ffi::OsStrExt;
    let values = [
        ("local_rank", "0"),
        ("rank", "0"),
        ("role_rank", "0"),
        ("group_rank", "0"),
        ("local_world_size", "1"),
        ("world_size", "1"),
        ("role_name", "r$l${rank}"),
        ("run_id", "none"),
        ("restart_count", "0"),
    ];
    let pieces = values.map(|(name, _)| format!("${{{name}}}").into_bytes()).to_vec();
    let piece = prop_oneof![
        prop::sample::select(pieces),
        prop::sample::select(vec![
            "$", "${", "}", "$$", "${rank", "rank}", "${Rank}", "${}", "{", "local_", "${world_"
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        prop::collection::vec(1_u8..=255, 0..6),
    ];
    let arg = prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 150,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let result = runner.run(&prop::collection::vec(arg, 0..6), |args| {
        let t = Case::new();
        let mut host = t.host().set("role", "r$l${rank}").probe(&["dump", &t.path("dump"), "--"]);
        for arg in &args {
            host = host.step(std::ffi::OsStr::from_bytes(&[b"arg=", &arg[..]].concat()));
        }
        host.run().succeeded();
        let dump = t.json("dump");
        let seen: Vec<Vec<u8>> = dump["argv"].as_array().unwrap()[4..].iter().map(dumped).collect();
        let wanted: Vec<Vec<u8>> = args.iter().map(|arg| filled_in(arg, &values)).collect();
        prop_assert_eq!(seen, wanted);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}

fn env_10_all_macros() {
    let t = Case::new();
    let names = [
        "local_rank",
        "rank",
        "role_rank",
        "group_rank",
        "local_world_size",
        "world_size",
        "role_name",
        "run_id",
        "restart_count",
        "hostname",
    ];
    let arg = names.map(|name| format!("{name}=${{{name}}}")).join(",");
    let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let host = t.host().set("role", "actor").set("run_id", "id-5").set("max_restarts", 1);
    let verbs = [
        "dump",
        &t.path("%r.%a"),
        "await",
        &t.path("0.%a"),
        "await",
        &t.path("1.%a"),
        "attempt",
        "0",
        "exit",
        "1",
        ";",
    ];
    let host = host.set("local_world_size", 2).probe(&verbs).set("arg", "--").set("arg", &arg);
    host.run().succeeded();
    for rank in 0..2 {
        for attempt in 0..2 {
            let dump = t.json(&format!("{rank}.{attempt}"));
            let seen = dump["argv"].as_array().unwrap().last().unwrap().as_str().unwrap().to_string();
            let wanted = format!(
                "local_rank={rank},rank={rank},role_rank={rank},group_rank=0,local_world_size=2,world_size=2,\
                 role_name=actor,run_id=id-5,restart_count={attempt},hostname={}",
                hostname.trim()
            );
            assert_eq!(seen, wanted);
        }
    }
}

fn env_10_values_are_not_filled_in_again() {
    let t = Case::new();
    let host = t.host().set("role", "${rank}").set("run_id", "$${role_name}");
    assert_eq!(arguments(&t, &["${role_name}|${run_id}"], 1, host)[0], ["${rank}|$${role_name}"]);
}

fn env_10_the_program_has_no_macros() {
    let t = Case::new();
    let path = t.write("tool${local_rank}", b"#!/bin/sh\nexit 0\n", 0o755);
    t.host().set("program", path).run().succeeded();
}

fn env_master_port_is_free_and_new_for_each_attempt() {
    let t = Case::new();
    // Rank 0 listens there, as a store does; all ranks know the same port.
    let verbs = [
        "dump",
        &t.path("%r.%a"),
        "rank",
        "0",
        "listen",
        &t.path("listen"),
        ";",
        "await",
        &t.path("0.%a"),
        "await",
        &t.path("1.%a"),
        "await_lines",
        &t.path("listen"),
        "1",
        "attempt",
        "0",
        "exit",
        "1",
        ";",
        "await_lines",
        &t.path("listen"),
        "2",
    ];
    t.host().set("max_restarts", 1).set("local_world_size", 2).probe(&verbs).run().succeeded();
    let port = |name: &str| environment(&t.json(name))["MASTER_PORT"].clone();
    assert_eq!(port("0.0"), port("1.0"));
    assert_eq!(port("0.1"), port("1.1"));
    assert_ne!(port("0.0"), port("0.1"));
    assert_eq!(t.lines("listen"), ["ok", "ok"]);
}

fn env_master_port_is_kept_for_the_worker() {
    let t = Case::new();
    let verbs = ["dump", &t.path("dump"), "await", &t.path("go"), "listen", &t.path("listen")];
    let running = t.host().probe(&verbs).spawn();
    t.wait_file("dump");
    let port: u16 = environment(&t.json("dump"))["MASTER_PORT"].parse().unwrap();
    // A thousand others who ask for any free port are not given this one.
    let others: Vec<_> = (0..1000).map(|_| TcpListener::bind(("127.0.0.1", 0)).unwrap()).collect();
    assert!(others.iter().all(|other| other.local_addr().unwrap().port() != port));
    drop(others);
    std::fs::write(t.dir.join("go"), "").unwrap();
    running.finish().succeeded();
    assert_eq!(t.lines("listen"), ["ok"]);
    // After the run it is free again, for anyone.
    wait_for("the port", || TcpListener::bind(("127.0.0.1", port)).is_ok());
}

fn env_master_port_in_use_is_a_start_error() {
    let t = Case::new();
    let taken = TcpListener::bind(("0.0.0.0", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let run =
        t.host().set("max_restarts", 3).set("master_port", port).probe(&["touch", &t.path("ran")]).run();
    run.failed_as(END_START_ERROR);
    assert_eq!(run.result()["errno"], libc::EADDRINUSE);
    assert!(run.result()["message"].as_str().unwrap().contains(&port.to_string()));
    assert!(!t.dir.join("ran").exists());
    drop(taken);
    let verbs = ["dump", &t.path("dump"), "listen", &t.path("listen"), "attempt", "0", "exit", "1", ";"];
    // A port that is asked for stays the same in each attempt.
    let run = t.host().set("max_restarts", 1).set("master_port", port).probe(&verbs).run();
    run.succeeded();
    assert_eq!(environment(&t.json("dump"))["MASTER_PORT"], port.to_string());
    assert_eq!(t.lines("listen"), ["ok", "ok"]);
}

fn env_master_addr_and_run_id() {
    let t = Case::new();
    let host = t.host().set("master_addr", "node-7.example").set("run_id", "a/b\n..");
    host.probe(&["dump", &t.path("dump")]).run().succeeded();
    let env = environment(&t.json("dump"));
    assert_eq!(env["MASTER_ADDR"], "node-7.example");
    assert_eq!(env["TORCHELASTIC_RUN_ID"], "a/b\n..");
    t.host().probe(&["dump", &t.path("dump")]).run().succeeded();
    assert_eq!(environment(&t.json("dump"))["TORCHELASTIC_RUN_ID"], "none");
}

fn env_of_the_host_is_taken_at_the_start() {
    // Not when the spec or the agent is made, and not again for a restart.
    let t = Case::new();
    let host = t.host().set("max_restarts", 1).env("A", "0");
    let verbs = ["dump", &t.path("%a"), "await", &t.path("go"), "attempt", "0", "exit", "1", ";"];
    let (go, zero) = (t.path("go"), t.path("0"));
    let host =
        host.probe(&verbs).steps(&["new", "setenv=A=1", "start", &format!("await={zero}"), "setenv=A=2"]);
    let running = host.steps(&["chdir=/", "mark=changed", "wait=60"]).spawn();
    running.wait_event("changed");
    std::fs::write(go, "").unwrap();
    running.finish().succeeded();
    for attempt in ["0", "1"] {
        assert_eq!(environment(&t.json(attempt))["A"], "1");
        assert_ne!(t.json(attempt)["cwd"], "/");
    }
}

fn env_of_the_host_is_not_touched() {
    let t = Case::new();
    let host = t.host().step("env=NEW=1").callback(&["setenv", "CHANGED", "1"]);
    let run = host.steps(&["run", "free_agent", &format!("dump_self={}", t.path("host"))]).run();
    run.succeeded();
    let env = environment(&t.json("host"));
    for name in VARIABLES.iter().chain(&["NEW", "CHANGED"]) {
        assert!(!env.contains_key(*name), "{name} is in the host");
    }
}
