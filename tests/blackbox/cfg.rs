//! Area CFG: what a spec takes and refuses.

use std::time::Duration;

use libtest_mimic::Trial;

use crate::harness::{Case, END_INTERRUPTED, END_WORKER_FAILURE, probe};
use crate::tests;

pub fn tests() -> Vec<Trial> {
    tests![
        cfg_01_local_world_size_0_is_refused_and_nothing_made,
        cfg_02_local_world_size_out_of_range_never_wraps,
        cfg_04_a_program_or_a_callback_not_both_not_none,
        cfg_04_a_callback_takes_no_arguments,
        cfg_06_max_restarts_out_of_range,
        cfg_06_max_restarts_0_is_one_attempt,
        cfg_06_max_restarts_default_is_3,
        cfg_08_shutdown_timeout_explicit_beats_the_variable,
        cfg_08_shutdown_timeout_from_the_variable,
        cfg_08_shutdown_timeout_0_kills_at_once,
        cfg_08_shutdown_timeout_default_is_not_short,
        cfg_08_shutdown_timeout_refuses,
        cfg_16_ranks_that_a_stream_map_misses_have_none,
        cfg_16_ranks_beyond_the_group_are_refused,
        cfg_16_stream_maps_take_ranks_of_several_digits,
        cfg_16_stream_maps_that_are_none,
        cfg_20_the_agent_has_its_own_copy,
        cfg_21_role_names_of_any_bytes,
        cfg_22_one_spec_makes_two_agents,
        cfg_every_refusal_names_field_and_value,
        cfg_a_refused_value_leaves_the_field_as_it_was,
        cfg_the_first_refusal_is_repeated,
        cfg_values_at_their_bounds_are_taken,
    ]
}

fn cfg_01_local_world_size_0_is_refused_and_nothing_made() {
    let t = Case::new();
    let host = t.host().set("log_dir", t.path("logs")).set("redirects", 3);
    let run = host.set("local_world_size", 0).probe(&["touch", &t.path("ran")]).run();
    run.refused(&["local_world_size", "0"]);
    assert_eq!(run.event("local_world_size")["status"], "ICE_ERROR_CONFIG");
    assert!(!t.dir.join("logs").exists(), "a log directory was made");
    assert!(!t.dir.join("ran").exists(), "a worker ran");
}

fn cfg_02_local_world_size_out_of_range_never_wraps() {
    for size in ["-1", "16385", "65537", "4294967297", "9223372036854775807", "-9223372036854775808"] {
        let t = Case::new();
        let run = t.host().set("local_world_size", size).probe(&["exit", "0"]).run();
        run.refused(&["local_world_size", size, "16384"]);
    }
}

fn cfg_04_a_program_or_a_callback_not_both_not_none() {
    let t = Case::new();
    t.host().run().refused(&["program", "callback"]);
    t.host().probe(&[]).callback(&[]).run().refused(&["program", "callback", probe().to_str().unwrap()]);
}

fn cfg_04_a_callback_takes_no_arguments() {
    let t = Case::new();
    t.host().callback(&[]).set("arg", "x").run().refused(&["arg"]);
}

fn cfg_06_max_restarts_out_of_range() {
    for count in ["-1", "2147483648", "4294967296"] {
        let t = Case::new();
        t.host().set("max_restarts", count).probe(&[]).run().refused(&["max_restarts", count]);
    }
}

fn cfg_06_max_restarts_0_is_one_attempt() {
    let t = Case::new();
    let run = t.host().probe(&["append", &t.path("attempts"), "%a", "exit", "1"]).run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(t.lines("attempts"), ["0"]);
    assert_eq!(run.result()["restarts"], 0);
}

fn cfg_06_max_restarts_default_is_3() {
    let t = Case::new();
    let run = t.bare_host().probe(&["append", &t.path("attempts"), "%a", "exit", "1"]).run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(t.lines("attempts"), ["0", "1", "2", "3"]);
    assert_eq!(run.result()["restarts"], 3);
}

/// A worker that ignores the stop signal is stopped; how long the stop took.
fn time_of_a_stop(t: &Case, host: crate::harness::Host<'_>) -> Duration {
    let file = t.path("ready");
    let host = host.probe(&["ignore", "TERM", "touch", &file, "pause"]);
    let run = host.steps(&["start", &format!("await={file}"), "mark=now", "stop=0", "wait=100"]).run();
    run.failed_as(END_INTERRUPTED);
    assert_eq!(run.worker(0)["signal"], libc::SIGKILL);
    let nanoseconds = |step| run.event(step)["t"].as_u64().unwrap();
    Duration::from_nanos(nanoseconds("wait") - nanoseconds("now"))
}

fn cfg_08_shutdown_timeout_explicit_beats_the_variable() {
    for variable in ["600", "not a number"] {
        let t = Case::new();
        let host = t.bare_host().set("shutdown_timeout", 0.3).env("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", variable);
        let took = time_of_a_stop(&t, host);
        assert!((0.3..10.0).contains(&took.as_secs_f64()), "{took:?}");
    }
}

fn cfg_08_shutdown_timeout_from_the_variable() {
    let t = Case::new();
    let took = time_of_a_stop(&t, t.bare_host().env("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "1"));
    assert!((1.0..15.0).contains(&took.as_secs_f64()), "{took:?}");
}

fn cfg_08_shutdown_timeout_0_kills_at_once() {
    let t = Case::new();
    let took = time_of_a_stop(&t, t.bare_host().set("shutdown_timeout", 0));
    assert!(took.as_secs_f64() < 5.0, "{took:?}");
    let t = Case::new();
    let took = time_of_a_stop(&t, t.bare_host().env("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "0"));
    assert!(took.as_secs_f64() < 5.0, "{took:?}");
}

fn cfg_08_shutdown_timeout_default_is_not_short() {
    // Half a minute is long for a test: after two seconds the worker is still given time.
    let t = Case::new();
    let file = t.path("ready");
    let host = t.bare_host().probe(&["ignore", "TERM", "ignore", "INT", "touch", &file, "pause"]);
    let await_file = format!("await={file}");
    let run = host.steps(&[
        "start",
        &await_file,
        "stop=TERM",
        "wait=2",
        "snapshot",
        "stop=INT",
        "stop=INT",
        "wait=60",
    ]);
    let run = run.run();
    run.failed_as(END_INTERRUPTED);
    assert_eq!(run.events("wait")[0]["status"], "ICE_ERROR_TIMEOUT");
    assert_eq!(run.event("snapshot")["workers"][0]["outcome"], crate::harness::OUTCOME_RUNNING);
}

fn cfg_08_shutdown_timeout_refuses() {
    let t = Case::new();
    t.host().set("shutdown_timeout", -5).probe(&[]).run().refused(&["shutdown_timeout", "-5"]);
    for value in ["soon", "-5", "", "nan", "inf", "1e300"] {
        let host = t.bare_host().env("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", value).probe(&[]);
        host.run().refused(&["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]);
    }
}

fn cfg_16_ranks_that_a_stream_map_misses_have_none() {
    let t = Case::new();
    let host = t.host().set("local_world_size", 3).set("redirects", "1:3").set("log_dir", t.path("logs"));
    let run = host.probe(&["write", "1", "out%r\\n", "write", "2", "err%r\\n"]).run();
    run.succeeded();
    for rank in [0, 2] {
        assert_eq!(run.worker(rank)["stdout_log"], "");
        assert_eq!(run.worker(rank)["stderr_log"], "");
        assert!(run.out().contains(&format!("out{rank}\n")));
        assert!(run.err().contains(&format!("err{rank}\n")));
    }
    let read = |name: &str| std::fs::read_to_string(run.worker(1)[name].as_str().unwrap()).unwrap();
    assert_eq!(read("stdout_log"), "out1\n");
    assert_eq!(read("stderr_log"), "err1\n");
    assert!(!run.out().contains("out1"));
}

fn cfg_16_ranks_beyond_the_group_are_refused() {
    let t = Case::new();
    for (field, value) in [("redirects", "0:1,2:3"), ("tee", "2:1"), ("local_ranks_filter", "0,2")] {
        let host = t.host().set("local_world_size", 2).set(field, value).probe(&["exit", "0"]);
        host.run().refused(&[field, "2"]);
    }
    for step in ["rank_env=2:A=b", "unset_rank_env=2:A"] {
        let run = t.host().set("local_world_size", 2).step(step).probe(&["exit", "0"]).run();
        run.refused(&["rank_env", "2"]);
    }
    // The order of the calls does not matter: only the whole spec is judged.
    let host = t.host().set("redirects", "1:3").set("rank_env", "1:A=b").set("local_world_size", 2);
    host.set("log_dir", t.path("logs")).probe(&["exit", "0"]).run().succeeded();
}

fn cfg_16_stream_maps_take_ranks_of_several_digits() {
    let t = Case::new();
    let host = t.host().set("local_world_size", 13).set("redirects", "12:1").set("log_dir", t.path("logs"));
    let run = host.probe(&["write", "1", "rank %r\\n"]).run();
    run.succeeded();
    let log = run.worker(12)["stdout_log"].as_str().unwrap();
    assert_eq!(std::fs::read_to_string(log).unwrap(), "rank 12\n");
    assert_eq!(run.worker(1)["stdout_log"], "");
}

fn cfg_16_stream_maps_that_are_none() {
    let t = Case::new();
    for field in ["redirects", "tee"] {
        for value in ["4", "-1", "x", "0:4", "0:", ":1", "0:1,", "0:1,0:2,", "0;1", "0:1:2", "-1:1"] {
            let run = t.host().set(field, value).probe(&["exit", "0"]).run();
            run.refused(&[field, value]);
        }
    }
}

fn cfg_20_the_agent_has_its_own_copy() {
    let t = Case::new();
    // The host passes both arguments from one buffer, and changes and frees the spec before the run.
    let host =
        t.host().probe(&["dump", &t.path("dump"), "--"]).set("arg_bytes", "first").set("arg_bytes", "second");
    let run = host.steps(&["new", "program=/nonexistent", "env=LATE=1", "free_spec", "run"]).run();
    run.succeeded();
    let dump = t.json("dump");
    assert_eq!(dump["argv"][4], "first");
    assert_eq!(dump["argv"][5], "second");
    assert!(!dump["env"].as_array().unwrap().iter().any(|item| item == "LATE=1"));
}

fn cfg_21_role_names_of_any_bytes() {
    let long = "r".repeat(300);
    for role in [&long, "a/b", "../../up", "two\nlines", "$HOME ${rank}", "Zürich-東京", "\u{1}\t"] {
        let t = Case::new();
        let logs = t.path("logs");
        let host = t.host().set("role", role).set("local_world_size", 2).set("log_dir", &logs).set("tee", 3);
        let run = host.probe(&["dump", &t.path("%r.json"), "write", "1", "x\\n"]).run();
        run.succeeded();
        for rank in 0..2 {
            let env = t.json(&format!("{rank}.json"))["env"].clone();
            let wanted = format!("ROLE_NAME={role}");
            assert!(env.as_array().unwrap().iter().any(|item| *item == wanted), "{role:?}: {env}");
            assert!(run.worker(rank)["stdout_log"].as_str().unwrap().starts_with(&logs));
        }
    }
    // Bytes that are no text: é in Latin-1.
    let t = Case::new();
    use std::os::unix::ffi::OsStrExt;
    let step = std::ffi::OsStr::from_bytes(b"role=\xe9");
    t.host().step(step).probe(&["dump", &t.path("0.json")]).run().succeeded();
    let hex = "524f4c455f4e414d453de9"; // ROLE_NAME=\xe9
    assert!(t.json("0.json")["env"].as_array().unwrap().iter().any(|item| item["hex"] == hex));
}

fn cfg_22_one_spec_makes_two_agents() {
    let t = Case::new();
    let host = t.host().set("log_dir", t.path("logs")).set("redirects", 1).set("max_restarts", 1);
    let host = host.probe(&["dump", &t.path("%p.dump"), "attempt", "0", "exit", "3", ";"]);
    let run = host.steps(&["new", "run", "new", "run"]).run();
    run.succeeded();
    let runs = run.events("run");
    assert_eq!(runs.len(), 2);
    let dirs: Vec<_> = runs.iter().map(|run| run["result"]["run_dir"].as_str().unwrap()).collect();
    assert_ne!(dirs[0], dirs[1]);
    for run in &runs {
        assert_eq!(run["result"]["restarts"], 1);
        assert_eq!(run["result"]["failures"].as_array().unwrap().len(), 1);
    }
}

/// A value that each setter refuses: the step, the field's name as the message gives it, and the value.
const REFUSALS: &[(&str, &str, &str)] = &[
    ("role=", "role", ""),
    ("local_world_size=0", "local_world_size", "0"),
    ("program=", "program", ""),
    ("program_bytes=a\\0b", "program", "offset 1"),
    ("arg_bytes=ab\\0", "arg", "offset 2"),
    ("env_bytes=K\\0=v", "env", "offset 1"),
    ("env_bytes=K=v\\0w", "env", "offset 1"),
    ("env==v", "env", ""),
    ("env_key=A=B", "env", "A=B"),
    ("env=RANK=1", "env", "RANK"),
    ("unset_env=WORLD_SIZE", "env", "WORLD_SIZE"),
    ("unset_env=", "env", ""),
    ("rank_env=0:LOCAL_RANK=1", "env", "LOCAL_RANK"),
    ("rank_env=-1:A=1", "rank_env", "-1"),
    ("unset_rank_env=0:MASTER_PORT", "env", "MASTER_PORT"),
    ("unset_rank_env=-7:A", "rank_env", "-7"),
    ("working_dir=", "working_dir", ""),
    ("stdin=3", "stdin", "3"),
    ("stdin=-1", "stdin", "-1"),
    ("max_restarts=-1", "max_restarts", "-1"),
    ("restart_backoff=-1,5", "restart_backoff", "-1"),
    ("restart_backoff=6,5", "restart_backoff", "6"),
    ("restart_backoff=1,nan", "restart_backoff", "NaN"),
    ("min_uptime=-2", "min_uptime", "-2"),
    ("min_uptime=2e9", "min_uptime", "2000000000"),
    ("no_restart_exit_code=0", "no_restart_exit_code", "0"),
    ("no_restart_exit_code=256", "no_restart_exit_code", "256"),
    ("monitor_interval=0", "monitor_interval", "0"),
    ("monitor_interval=-1", "monitor_interval", "-1"),
    ("monitor_interval=inf", "monitor_interval", "inf"),
    ("shutdown_timeout=-5", "shutdown_timeout", "-5"),
    ("shutdown_timeout=nan", "shutdown_timeout", "NaN"),
    ("stop_signal=0", "stop_signal", "0"),
    ("stop_signal=65", "stop_signal", "65"),
    ("stop_signal=-9", "stop_signal", "-9"),
    ("pre_stop_signal=0,1", "pre_stop_signal", "0"),
    ("pre_stop_signal=10,-1", "pre_stop_signal", "-1"),
    ("signals=SIGKILL", "signals", "SIGKILL"),
    ("signals=TERM,STOP", "signals", "STOP"),
    ("signals=SIGSEGV", "signals", "SIGSEGV"),
    ("signals=CHLD", "signals", "CHLD"),
    ("pass_signals=SIGKILL", "pass_signals", "SIGKILL"),
    ("on_signal=0,1", "on_signal", "0"),
    ("on_signal=65,1", "on_signal", "65"),
    ("on_signal=33,1", "on_signal", "33"),
    ("on_signal=9,2", "on_signal", "SIGKILL"),
    ("on_signal=19,1", "on_signal", "SIGSTOP"),
    ("on_signal=11,3", "on_signal", "SIGSEGV"),
    ("on_signal=6,4", "on_signal", "SIGABRT"),
    ("on_signal=17,1", "on_signal", "SIGCHLD"),
    ("on_signal=10,5", "on_signal", "5"),
    ("on_signal=10,-1", "on_signal", "-1"),
    ("master_port=-1", "master_port", "-1"),
    ("master_port=65536", "master_port", "65536"),
    ("run_id=", "run_id", ""),
    ("redirects=4", "redirects", "4"),
    ("tee=0:9", "tee", "0:9"),
    ("local_ranks_filter=a", "local_ranks_filter", "a"),
    ("stderr_tail=-1", "stderr_tail", "-1"),
    ("stderr_tail=16777217", "stderr_tail", "16777217"),
    ("log_modes=10000,644", "log_modes", ""),
    ("console=-1,2", "console", "-1"),
    ("console=1,-2", "console", "-2"),
];

fn cfg_every_refusal_names_field_and_value() {
    for (step, field, value) in REFUSALS {
        let t = Case::new();
        let run = t.bare_host().probe(&["touch", &t.path("ran")]).step(step).step("new").run();
        let key = step.split('=').next().unwrap();
        let line = run.events(key).first().map(|line| (*line).clone());
        let line = line.unwrap_or_else(|| panic!("{step} was taken: {run}"));
        assert_eq!(line["status"], "ICE_ERROR_CONFIG", "{step}");
        let message = line["message"].as_str().unwrap();
        assert!(message.contains(field) && message.contains(value), "{step}: '{message}'");
        run.refused(&[field, value]);
        assert!(!t.dir.join("ran").exists());
    }
}

fn cfg_a_refused_value_leaves_the_field_as_it_was() {
    // Seen through the spec's memory of the first refusal: a new one without it shows the old values.
    let t = Case::new();
    let host = t.host().probe(&["exit", "0"]).set("local_world_size", 2).set("local_world_size", 0);
    let run = host.steps(&["rank_env=1:A=b", "new"]).run();
    // Size 2 stands: rank 1 is no second error, and the message is that of the refusal.
    run.refused(&["local_world_size", "0"]);
}

fn cfg_the_first_refusal_is_repeated() {
    let t = Case::new();
    let host = t.host().probe(&["exit", "0"]).set("master_port", 70000).set("stdin", 9);
    // A good value afterwards does not make the refusal undone.
    let run = host.set("master_port", 0).step("new").run();
    run.refused(&["master_port", "70000"]);
    assert_eq!(run.event("stdin")["status"], "ICE_ERROR_CONFIG");
}

fn cfg_values_at_their_bounds_are_taken() {
    let steps = [
        "max_restarts=2147483647",
        "restart_backoff=0,0",
        "restart_backoff=1000000000,1000000000",
        "min_uptime=0",
        "no_restart_exit_code=1",
        "no_restart_exit_code=255",
        "monitor_interval=0.001",
        "monitor_interval=1000000000",
        "shutdown_timeout=1000000000",
        "stop_signal=1",
        "stop_signal=64",
        "pre_stop_signal=10,0",
        "signals=",
        "signals=TERM, SIGINT,1",
        "signals=",
        "pass_signals=",
        "on_signal=64,4",
        "on_signal=2,2",
        "on_signal=10,3",
        "on_signal=10,0",
        "suspend=1",
        "master_port=0",
        "redirects=0",
        "redirects=3",
        "tee=0",
        "local_ranks_filter=0",
        "duplicate_stdout_filters=",
        "stderr_tail=0",
        "stderr_tail=16777216",
        "log_modes=07777,07777",
        "log_modes=0755,0644",
        "console=1,2",
        "kill_group_on_success=5",
        "merge_stderr=0",
        "local_world_size=16384",
        "local_world_size=1",
    ];
    let t = Case::new();
    let run = t.bare_host().set("log_dir", t.path("logs")).probe(&["exit", "0"]).steps(&steps).run();
    let refused: Vec<_> = run.lines.iter().filter(|line| line["status"] == "ICE_ERROR_CONFIG").collect();
    assert!(refused.is_empty(), "{refused:?}");
    run.succeeded();
}
