//! Area CLI: the command line tool.

use std::fs;
use std::process::Stdio;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::harness::*;
use crate::tests;
use crate::tool::*;

/// A script that writes its arguments and what it is run by.
fn script(t: &Case) -> String {
    t.write(
        "show.py",
        b"import json, os, sys\n\
          with open(sys.argv[1] + '.' + os.environ['RANK'], 'w') as out:\n\
          \x20   json.dump({'argv': sys.argv[1:], 'exe': sys.executable, 'unbuffered': sys.stdout.write_through or os.environ.get('X'),\n\
          \x20              'env': dict(os.environ), 'main': __name__}, out)\n",
        0o644,
    )
}

/// A stand-in for Python that notes its arguments.
fn fake_python(t: &Case, name: &str) -> String {
    let text = format!("#!/bin/sh\nprintf '%s\\n' \"$@\" > {}.$RANK\n", t.path("fake"));
    t.write(name, text.as_bytes(), 0o755)
}

fn cli_01_the_interpreter_runs_the_script() {
    let t = Case::new();
    let script = script(&t);
    let out = t.path("out");
    tool(&t, &["--nnodes", "1", "--nproc-per-node", "4", &script, &out, "--epochs", "3"]).run().exited(0);
    for rank in 0..4 {
        let shown = t.json(&format!("out.{rank}"));
        assert_eq!(shown["argv"], serde_json::json!([out, "--epochs", "3"]));
        assert_eq!(shown["unbuffered"], true, "it runs with -u");
        assert_eq!(shown["env"]["RANK"], rank.to_string());
        assert_eq!(shown["env"]["WORLD_SIZE"], "4");
    }
    t.nothing_left();
}

fn cli_01_python_exec_and_no_python() {
    let t = Case::new();
    let fake = fake_python(&t, "fake-python");
    tool(&t, &["script.py", "a"]).env("PYTHON_EXEC", &fake).run().exited(0);
    assert_eq!(t.lines("fake.0"), ["-u", "script.py", "a"]);
    tool(&t, &["-m", "package.module", "a"]).env("PYTHON_EXEC", &fake).run().exited(0);
    assert_eq!(t.lines("fake.0"), ["-u", "-m", "package.module", "a"]);
    tool(&t, &["--no-python", &fake, "script.py", "b c"]).env("PYTHON_EXEC", "/nowhere").run().exited(0);
    assert_eq!(t.lines("fake.0"), ["script.py", "b c"]);
}

fn cli_01_run_path() {
    let t = Case::new();
    let script = script(&t);
    tool(&t, &["--run-path", &script, &t.path("out"), "x"]).run().exited(0);
    let shown = t.json("out.0");
    assert_eq!(shown["argv"], serde_json::json!([t.path("out"), "x"]));
    assert_eq!(shown["main"], "__main__");
    tool(&t, &["--run-path", "relative.py"]).run().refused(&["--run-path", "absolute"]);
}

fn cli_02_module_with_no_python() {
    let t = Case::new();
    tool(&t, &["--module", "--no-python", "x"]).run().refused(&["--module", "--no-python"]);
    t.nothing_left();
}

fn cli_04_everything_after_the_script_is_its_own() {
    let t = Case::new();
    let dump = t.path("state");
    let rest =
        ["--", "--nproc-per-node", "9", "--help", "-r", "3", "--version", "--", "-q", "--tee=3", "a b", ""];
    tool(&t, &[]).probe(&["dump", &dump]).words(&rest).run().exited(0);
    let argv = t.json("state")["argv"].clone();
    let argv: Vec<&str> = argv.as_array().expect("argv").iter().filter_map(Value::as_str).collect();
    assert_eq!(argv[3..], rest);
    // `--` before the script ends the options of icerun and is not handed on.
    let fake = fake_python(&t, "fake-python");
    tool(&t, &["--nproc-per-node=1", "--", "script.py", "--", "-x"])
        .env("PYTHON_EXEC", &fake)
        .run()
        .exited(0);
    assert_eq!(t.lines("fake.0"), ["-u", "script.py", "--", "-x"]);
}

fn cli_05_variables_are_defaults() {
    let t = Case::new();
    let count = |tool: Tool| {
        let _ = fs::remove_file(t.dir.join("ranks"));
        tool.probe(&["append", &t.path("ranks"), "%r"]).run().exited(0);
        t.lines("ranks").len()
    };
    assert_eq!(count(tool(&t, &[]).env("PET_NPROC_PER_NODE", "3")), 3);
    assert_eq!(count(tool(&t, &["--nproc-per-node", "2"]).env("PET_NPROC_PER_NODE", "3")), 2);
    assert_eq!(count(tool(&t, &["--nproc-per-node", "2"]).env("PET_NPROC_PER_NODE", "nonsense")), 2);
    tool(&t, &[]).env("PET_NPROC_PER_NODE", "x").probe(&[]).run().refused(&["PET_NPROC_PER_NODE", "x"]);
    // Flags are 0 or 1 there; one that is given cannot be unset.
    let fake = fake_python(&t, "fake-python");
    for (value, options, module) in [("1", vec![], true), ("0", vec![], false), ("0", vec!["--module"], true)]
    {
        let tool = tool(&t, &options).words(&["mod"]).env("PYTHON_EXEC", &fake).env("PET_MODULE", value);
        tool.run().exited(0);
        assert_eq!(t.lines("fake.0").contains(&"-m".to_string()), module, "PET_MODULE={value} {options:?}");
    }
    tool(&t, &[]).env("PET_MODULE", "maybe").words(&["mod"]).run().refused(&["PET_MODULE"]);
    // Others, by what they do.
    let ended = tool(&t, &[]).env("PET_TEE", "3").env("PET_ROLE", "r").probe(&["print", "x"]).run();
    assert_eq!(ended.exited(0).out(), "[r0]:x\n");
    let ended = tool(&t, &[])
        .env("PET_MAX_RESTARTS", "2")
        .probe(&["append", &t.path("attempts"), "%a", "exit", "1"])
        .run();
    ended.exited(1);
    assert_eq!(t.lines("attempts"), ["0", "1", "2"]);
}

fn cli_06_both_spellings() {
    let t = Case::new();
    for option in
        ["--nproc-per-node", "--nproc_per_node", "--nproc-per-node=2", "--nproc_per_node=2", "--nproc"]
    {
        let _ = fs::remove_file(t.dir.join("ranks"));
        let words: Vec<&str> = if option.contains('=') { vec![option] } else { vec![option, "2"] };
        tool(&t, &words).probe(&["append", &t.path("ranks"), "%r"]).run().exited(0);
        assert_eq!(t.lines("ranks").len(), 2, "{option}");
    }
    // Every option of the help is known in both spellings: a value of nonsense, or its absence, is what is wrong.
    let help = tool(&t, &["--help"]).run().out();
    let names: Vec<&str> = help
        .lines()
        .filter_map(|line| line.split_whitespace().find_map(|word| word.strip_prefix("--")))
        .filter(|name| name.contains('-') && name.chars().all(|c| c.is_ascii_lowercase() || c == '-'))
        .collect();
    assert!(names.len() > 20, "{names:?}");
    for name in names {
        let message = |spelled: String| tool(&t, &[&spelled]).run().err().replace('_', "-");
        let (dashes, lines) =
            (message(format!("--{name}")), message(format!("--{}", name.replace('-', "_"))));
        assert_eq!(dashes, lines, "{name}");
        assert!(!dashes.contains("unknown"), "{name}: {dashes}");
    }
}

fn cli_08_old_style_master_options() {
    let t = Case::new();
    let port = free_port().to_string();
    let options = ["--master-addr", "127.0.0.1", "--master-port", &port, "--node-rank", "0", "--nnodes", "1"];
    tool(&t, &options)
        .words(&["--no-agent-store"])
        .probe(&["dump", &t.path("state"), "listen", &t.path("listen")])
        .run()
        .exited(0);
    let env = t.json("state")["env"].to_string();
    assert!(
        env.contains(&format!("\"MASTER_PORT={port}\"")) && env.contains("\"MASTER_ADDR=127.0.0.1\""),
        "{env}"
    );
    assert_eq!(t.lines("listen"), ["ok"]);
}

fn cli_09_a_count_that_is_none() {
    let t = Case::new();
    tool(&t, &["--nproc-per-node", "unknown"]).probe(&[]).run().refused(&[
        "nproc-per-node",
        "unknown",
        "auto",
        "cpu",
        "gpu",
    ]);
    for count in ["0", "-1", "1.5", "99999999999999999999", ""] {
        tool(&t, &[&format!("--nproc-per-node={count}")]).probe(&["exit", "0"]).run().refused(&["nproc"]);
    }
    t.nothing_left();
}

fn cli_12_config_errors_are_one_line() {
    let t = Case::new();
    let started = t.path("started");
    for (options, parts) in [
        (vec!["--no-such-option"], vec!["no-such-option"]),
        (vec!["--max-restarts", "-1"], vec!["max-restarts", "-1"]),
        (vec!["--max-restarts", "x"], vec!["max-restarts", "x"]),
        (vec!["--shutdown-timeout", "-5"], vec!["shutdown-timeout", "-5"]),
        (vec!["--shutdown-timeout", "nan"], vec!["shutdown-timeout"]),
        (vec!["--nnodes", "3:2"], vec!["nnodes", "3:2"]),
        (vec!["--nnodes", "0"], vec!["nnodes"]),
        (vec!["--nnodes", "a"], vec!["nnodes"]),
        (vec!["--nnodes", "2:20:30"], vec!["nnodes"]),
        (vec!["--redirects", "7"], vec!["redirects", "7"]),
        (vec!["--tee", "5:4"], vec!["tee", "5:4"]),
        (vec!["--local-ranks-filter", "-4"], vec!["filter", "-4"]),
        (vec!["--duplicate-stdout-filters", "x"], vec!["filter"]),
        (vec!["--rdzv-conf", "join_timout=5"], vec!["join_timout", "join_timeout"]),
        (vec!["--rdzv-conf", "=5"], vec!["rdzv-conf"]),
        (vec!["--rdzv-backend", "zookeeper"], vec!["rdzv-backend", "zookeeper"]),
        (vec!["--rdzv-endpoint", "host:99999"], vec!["rdzv-endpoint"]),
        (vec!["--master-port", "65536"], vec!["master-port", "65536"]),
        (vec!["--log-level", "loud"], vec!["log-level", "loud"]),
        (vec!["--start-method", "thread"], vec!["start-method", "thread"]),
        (vec!["--env", "NOEQUALS"], vec!["env"]),
        (vec!["--env", "RANK=3"], vec!["RANK"]),
        (vec!["--stdin", "some"], vec!["stdin", "some"]),
        (vec!["--no-restart-codes", "0"], vec!["no-restart-codes"]),
        (vec!["--restart-backoff", "5:1"], vec!["restart-backoff"]),
    ] {
        let ended = tool(&t, &options).probe(&["touch", &started]).run();
        ended.refused(&parts);
    }
    // Options that lack their value, and no script at all.
    tool(&t, &["--nproc-per-node"]).run().refused(&["nproc-per-node"]);
    tool(&t, &[]).run().refused(&["script"]);
    let odd = tool(&t, &["--role=a\nb", "--max-restarts=line\nbreak"]).probe(&[]).run();
    odd.refused(&["max-restarts"]);
    let environment = tool(&t, &[]).env("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "soon").probe(&[]).run();
    environment.refused(&["TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "soon"]);
    assert!(!t.dir.join("started").exists());
    t.nothing_left();
}

fn cli_13_help_and_version() {
    let t = Case::new();
    let help = tool(&t, &["--help"]).run();
    help.exited(0);
    assert_eq!(help.err(), "");
    let text = help.out();
    for name in
        ["nproc-per-node", "max-restarts", "rdzv-id", "log-dir", "signals-to-handle", "shutdown-timeout"]
    {
        let variable = format!("PET_{}", name.replace('-', "_").to_uppercase());
        let line = text
            .lines()
            .find(|line| line.contains(&format!("--{name}")))
            .unwrap_or_else(|| panic!("no --{name}"));
        assert!(line.contains(&variable) && line.contains("default"), "{line}");
    }
    assert_eq!(tool(&t, &["-h"]).run().exited(0).out(), text);
    let version = tool(&t, &["--version"]).run();
    assert!(version.exited(0).out().contains(env!("CARGO_PKG_VERSION")), "{version:?}");
    // A help that cannot be written is no success.
    if let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") {
        assert_ne!(tool(&t, &["--help"]).stdout(full.into()).run().status.code(), Some(0));
    }
}

fn cli_14_closed_streams() {
    for (redirect, code) in [(">&-", 0), (">&- 2>&-", 3), ("<&- >&- 2>&-", 3), ("<&-", 0)] {
        for tee in ["0", "3"] {
            let t = Case::new();
            let line = format!(
                "exec {} --nproc-per-node 2 --log-dir {} --tee {tee} --no-python {} append {} %r lines 1 100 x exit {code} {redirect}",
                icerun().display(),
                t.path("logs"),
                probe().display(),
                t.path("ranks")
            );
            let mut command = t.command("sh");
            let status =
                command.args(["-c", &line]).stdout(Stdio::null()).stderr(Stdio::null()).status().expect("sh");
            assert_eq!(status.code(), Some(code), "{line}");
            t.wait_lines("ranks", if code == 0 { 2 } else { 1 });
            t.nothing_left();
        }
    }
}

fn cli_16_an_empty_environment() {
    let t = Case::new();
    let ended =
        tool(&t, &["--nproc-per-node", "2"]).clear_env().probe(&["dump", &t.path("%r"), "exit", "0"]).run();
    ended.exited(0);
    for rank in ["0", "1"] {
        let env = t.json(rank)["env"].to_string();
        assert!(env.contains(&format!("\"RANK={rank}\"")), "{env}");
        assert!(!env.contains("\"HOME="), "{env}");
    }
    // SIG and REAP hold there too.
    let running = tool(&t, &[])
        .clear_env()
        .probe(&["child", "append", &t.path("pids"), "%p", "pause", ";", "pause"])
        .spawn();
    let child = pids_in(&t, "pids", 1)[0];
    running.kill();
    wait_for("the end of the worker's child", || gone(child));
    no_process_left(&t);
}

fn dyn_25_standalone() {
    let t = Case::new();
    for _ in 0..2 {
        tool(&t, &["--standalone", "--nproc-per-node", "2"])
            .probe(&["dump", &t.path("%r.%p")])
            .run()
            .exited(0);
    }
    let mut ids = Vec::new();
    for entry in fs::read_dir(&t.dir).expect("the case").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("0.") {
            let env = t.json(&name)["env"].clone();
            let items: Vec<String> = env
                .as_array()
                .expect("env")
                .iter()
                .filter_map(|item| item.as_str().map(str::to_string))
                .collect();
            let value = |key: &str| {
                let found = items.iter().find_map(|item| item.strip_prefix(&format!("{key}=")));
                found.unwrap_or_else(|| panic!("no {key}")).to_string()
            };
            assert!(value("MASTER_PORT").parse::<u16>().is_ok_and(|port| port > 0));
            ids.push(value("TORCHELASTIC_RUN_ID"));
        }
    }
    assert_eq!(ids.len(), 2);
    assert_ne!(ids[0], ids[1], "each run has an id of its own");
}

fn cli_stdin_of_workers() {
    for (who, sizes) in [("none", ["0", "0"]), ("rank0", ["12", "0"])] {
        let t = Case::new();
        let input = t.write("input", b"twelve bytes", 0o644);
        let stdin = fs::File::open(input).expect("the input");
        let tool = tool(&t, &["--nproc-per-node", "2", "--stdin", who]).stdin(stdin.into());
        tool.probe(&["stdin", &t.path("size.%r")]).run().exited(0);
        assert_eq!([t.lines("size.0")[0].as_str(), t.lines("size.1")[0].as_str()], sizes, "{who}");
    }
}

pub fn tests() -> Vec<Trial> {
    tests![
        needs(python3): cli_01_the_interpreter_runs_the_script,
        cli_01_python_exec_and_no_python,
        needs(python3): cli_01_run_path,
        cli_02_module_with_no_python,
        cli_04_everything_after_the_script_is_its_own,
        cli_05_variables_are_defaults,
        cli_06_both_spellings,
        cli_08_old_style_master_options,
        cli_09_a_count_that_is_none,
        cli_12_config_errors_are_one_line,
        cli_13_help_and_version,
        cli_14_closed_streams,
        cli_16_an_empty_environment,
        dyn_25_standalone,
        cli_stdin_of_workers,
    ]
}
