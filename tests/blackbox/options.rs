//! Area CFG: options by name, as text: set by a host, read from a config file, and as flags of icerun.

use libtest_mimic::Trial;

use crate::harness::*;
use crate::sp::environment;
use crate::tests;
use crate::tool::*;

pub fn tests() -> Vec<Trial> {
    tests![
        cfg_options_by_name_are_those_of_the_setters,
        cfg_options_that_there_are_not,
        cfg_file_by_a_host,
        cfg_file_that_is_none,
        cli_config_file,
        cli_config_file_says_who_meets_and_what_runs,
        cli_options_of_the_library_are_flags,
        cli_keep_env,
    ]
}

fn cfg_options_by_name_are_those_of_the_setters() {
    let t = Case::new();
    let host = t.host().set("local_world_size", 2).set("set", "max-restarts=1").set("set", "tee=1");
    let host =
        host.set("set", "env=A=b=c").set("set", "rank_env=1:B=d").set("set", "log_line_prefix_template=<%>");
    let host = host.set("set", "run_id=by name").set("log_dir", t.path("logs"));
    // Both have written before one fails and the other is stopped.
    let (dump, said) = (t.path("%r"), t.path("said"));
    let failing = ["attempt", "0", "append", &said, "x", "await_lines", &said, "2", "exit", "3", ";"];
    let run = host.probe(&[&["dump", &dump, "lines", "1", "1", "x"], &failing[..]].concat()).run();
    run.succeeded();
    assert_eq!(run.result()["restarts"], 1);
    for line in ["<%>x r0 0\n", "<%>x r1 0\n"] {
        assert_eq!(run.out().matches(line).count(), 2, "{run}");
    }
    let envs: Vec<_> = (0..2).map(|rank| environment(&t.json(&rank.to_string()))).collect();
    assert_eq!((envs[0]["A"].as_str(), envs[1]["A"].as_str()), ("b=c", "b=c"));
    assert_eq!((envs[0].get("B"), envs[1].get("B").map(String::as_str)), (None, Some("d")));
    assert_eq!(envs[0]["TORCHELASTIC_RUN_ID"], "by name");
}

fn cfg_options_that_there_are_not() {
    let t = Case::new();
    for (step, parts) in [
        ("set=max_restart=1", ["option is max_restart", "(max_restarts?)"]),
        ("set=colour=red", ["option is colour", "there is no such option"]),
        ("set=max_restarts=many", ["max_restarts is many", "must be a whole number from 0 to 2147483647"]),
        ("set=stdin=some", ["stdin is some", "must be none, rank0 or all"]),
        ("set=control=maybe", ["control is maybe", "must be 1 or 0"]),
        ("set=timer_signal=SIGNOPE", ["timer_signal is SIGNOPE", "must be a signal"]),
        ("set=probe_timeout=0", ["probe_timeout is 0", "more than 0 seconds"]),
    ] {
        t.host().probe(&["exit", "0"]).step(step).step("new").run().refused(&parts);
    }
}

fn cfg_file_by_a_host() {
    let t = Case::new();
    let text = format!(
        "# A job.\nnproc_per_node = 2\nmax-restarts = 1\nlog_dir = {:?}\ntee = {{ 1 = 1 }}\n\
         [env]\nA = \"from the file\"\nN = 4\n[rank_env.1]\nB = true\n",
        t.path("logs")
    );
    let file = t.write("job.toml", text.as_bytes(), 0o644);
    let host = t.host().set("load", &file).probe(&["dump", &t.path("%r"), "print", "x"]);
    let run = host.run();
    run.succeeded();
    assert_eq!(run.out().matches("[default1]:x\n").count(), 1, "{run}");
    let envs: Vec<_> = (0..2).map(|rank| environment(&t.json(&rank.to_string()))).collect();
    assert_eq!((envs[0]["A"].as_str(), envs[1]["N"].as_str()), ("from the file", "4"));
    assert_eq!((envs[0].get("B"), envs[1]["B"].as_str()), (None, "true"));
}

fn cfg_file_that_is_none() {
    let t = Case::new();
    for (text, parts) in [
        ("max_restarts = 1\nmin_uptme = 2\n", &["min_uptme", "(min_uptime?)", "job.toml, line 2"][..]),
        ("\nmax_restarts = -1\n", &["max_restarts is -1", "job.toml, line 2"]),
        ("max_restarts 1\n", &["config_file is", "job.toml", "line 1"]),
        ("[[env]]\nRANK = 1\n", &["RANK", "the agent sets this variable"]),
    ] {
        let file = t.write("job.toml", text.as_bytes(), 0o644);
        t.host().probe(&["exit", "0"]).set("load", &file).step("new").run().refused(parts);
    }
    let host = t.host().probe(&["exit", "0"]).set("load", t.path("nowhere.toml"));
    host.step("new").run().refused(&["config_file is", "nowhere.toml", "ENOENT"]);
    t.host()
        .probe(&["exit", "0"])
        .set("load", "/dev/zero")
        .step("new")
        .run()
        .refused(&["/dev/zero", "1048576"]);
    t.host().probe(&["exit", "0"]).set("load", "").step("new").run().refused(&["config_file", "empty"]);
}

/// The command line counts before the environment, and that before the file; icerun's own defaults come last.
fn cli_config_file() {
    let t = Case::new();
    let file = t.write(
        "job.toml",
        b"nproc_per_node = 3\nmax_restarts = 2\nrdzv_id = \"of the file\"\nmacros = \"all\"\n",
        0o644,
    );
    let told = |options: &[&str], env: &[(&str, &str)]| {
        let _ = std::fs::remove_file(t.dir.join("ranks"));
        let tool = tool(&t, options).probe(&[
            "append",
            &t.path("ranks"),
            "%r",
            "dump",
            &t.path("dump"),
            "--",
            "${rank}",
        ]);
        env.iter()
            .fold(tool, |tool, (key, value)| tool.env(key, value))
            .env("OMP_NUM_THREADS", "1")
            .run()
            .exited(0);
        let env = environment(&t.json("dump"));
        let number = |name: &str| env[name].parse::<usize>().expect("a number");
        assert_eq!(t.lines("ranks").len(), number("WORLD_SIZE"));
        (number("WORLD_SIZE"), number("TORCHELASTIC_MAX_RESTARTS"), env["TORCHELASTIC_RUN_ID"].clone())
    };
    let of = |size, restarts| (size, restarts, "of the file".to_string());
    assert_eq!(told(&["--config", &file], &[]), of(3, 2));
    assert!(!t.read("dump").contains("${rank}"), "macros = all");
    assert_eq!(told(&[], &[("PET_CONFIG", &file)]), of(3, 2));
    assert_eq!(told(&["--config", &file], &[("PET_MAX_RESTARTS", "1")]), of(3, 1));
    let both = ["--config", &file, "--max-restarts", "0", "--nproc-per-node", "2"];
    assert_eq!(told(&both, &[("PET_MAX_RESTARTS", "1")]), of(2, 0));
    assert_eq!(told(&["--config", &file, "--rdzv-id", "mine"], &[]).2, "mine");
    assert_eq!(told(&["--config", &file, "--standalone"], &[]), of(3, 2));
    let on = t.write("on.toml", b"clean_env = true\nlog_timestamps = true\n", 0o644);
    let stamped = |env: &str| {
        let tool =
            tool(&t, &["--config", &on, "--tee", "1"]).env("PET_TIMESTAMPS", env).probe(&["print", "x"]);
        tool.run().exited(0).out().contains("Z [default0]:x")
    };
    assert_eq!(["", "0", "1"].map(stamped), [true, false, true]);
    let empty = t.write("empty.toml", b"", 0o644);
    assert_eq!(told(&["--config", &empty], &[]), (1, 0, "none".to_string()));
    for (text, parts) in [
        (&b"max_restarts = -1\n"[..], &["--config", "max_restarts is -1", "line 1"][..]),
        (b"\nmax_restart = 1\n", &["--config", "(max_restarts?)", "line 2"]),
    ] {
        let file = t.write("wrong.toml", text, 0o644);
        tool(&t, &["--config", &file]).probe(&[]).run().refused(parts);
    }
    tool(&t, &["--config", &t.path("nowhere")]).probe(&[]).run().refused(&["--config", "nowhere", "ENOENT"]);
}

fn cli_config_file_says_who_meets_and_what_runs() {
    let t = Case::new();
    let (dump, port) = (t.path("dump"), free_port());
    let text = format!(
        "program = {:?}\nargs = [\"dump\", {dump:?}]\nnnodes = \"1:1\"\nrdzv_backend = \"static\"\n\
         rdzv_endpoint = \"127.0.0.1:{port}\"\nrun_id = \"met\"\n[rendezvous_options]\njoin_timeout = 20\n",
        probe().display().to_string()
    );
    let file = t.write("job.toml", text.as_bytes(), 0o644);
    tool(&t, &["--config", &file, "--node-rank", "0"]).run().exited(0);
    let env = environment(&t.json("dump"));
    assert_eq!(
        (env["MASTER_PORT"].as_str(), env["TORCHELASTIC_RUN_ID"].as_str()),
        (&*port.to_string(), "met")
    );
    // Here nobody is met.
    tool(&t, &["--config", &file, "--standalone"]).run().exited(0);
    assert_ne!(environment(&t.json("dump"))["MASTER_PORT"], port.to_string());
    tool(&t, &["--config", &file, "--nnodes", "2:1"]).run().refused(&["--nnodes 2:1"]);
    // Where it says nothing of a program there has to be a script.
    let nothing = t.write("nothing.toml", b"", 0o644);
    tool(&t, &["--config", &nothing]).run().refused(&["program is unset"]);
}

/// What is a row of the library's table is a flag, with a variable, a help and completion.
fn cli_options_of_the_library_are_flags() {
    let t = Case::new();
    let help = tool(&t, &["--help"]).run().out();
    for name in [
        "stop-signal",
        "pre-stop-signal",
        "stderr-tail",
        "log-modes",
        "clean-env",
        "unset-env",
        "health-timeout",
    ] {
        let line = help
            .lines()
            .find(|line| line.contains(&format!("--{name}")))
            .unwrap_or_else(|| panic!("no --{name}"));
        assert!(line.contains(&format!("PET_{}", name.replace('-', "_").to_uppercase())), "{line}");
    }
    // By either name.
    for option in ["--log-timestamps", "--timestamps", "--log_timestamps"] {
        let ended = tool(&t, &["--tee", "1", option]).probe(&["print", "x"]).run();
        assert!(ended.exited(0).out().contains("Z [default0]:x\n"), "{option}: {}", ended.out());
    }
    // Those that repeat, from the command line and from the environment.
    let told = |tool: Tool| {
        tool.env("A", "1").env("B", "2").probe(&["dump", &t.path("dump")]).run().exited(0);
        let env = environment(&t.json("dump"));
        (env.contains_key("A"), env.contains_key("B"))
    };
    assert_eq!(told(tool(&t, &["--unset-env", "A", "--unset-env=B"])), (false, false));
    assert_eq!(told(tool(&t, &[]).env("PET_UNSET_ENV", "A\nB")), (false, false));
    assert_eq!(told(tool(&t, &["--unset-env", "B"]).env("PET_UNSET_ENV", "A")), (true, false));
    tool(&t, &["--unset-env", "A=B"]).probe(&[]).run().refused(&["--unset-env A=B"]);
    tool(&t, &["--stop-signal", "NOPE"])
        .probe(&[])
        .run()
        .refused(&["--stop-signal NOPE", "must be a signal"]);
    tool(&t, &["--stderr-tail=-1"]).probe(&[]).run().refused(&["--stderr-tail -1", "from 0 to"]);
}

/// An option that is no more than a row, its use, and this.
fn cli_keep_env() {
    let t = Case::new();
    let told = |options: &[&str]| {
        let tool = tool(&t, options).env("A", "1").env("B", "2").probe(&["dump", &t.path("dump")]);
        tool.run().exited(0);
        let env = environment(&t.json("dump"));
        (env.contains_key("A"), env.contains_key("B"), env.contains_key("RANK"))
    };
    assert_eq!(told(&["--keep-env", "A"]), (true, true, true), "it says nothing without --clean-env");
    assert_eq!(told(&["--clean-env"]), (false, false, true));
    assert_eq!(told(&["--clean-env", "--keep-env", "A,NOT_THERE"]), (true, false, true));
    let file = t.write("job.toml", b"clean_env = true\nkeep_env = [\"B\"]\n", 0o644);
    assert_eq!(told(&["--config", &file]), (false, true, true));
    tool(&t, &["--keep-env", "A,RANK"]).probe(&[]).run().refused(&["--keep-env A,RANK", "the agent sets"]);
}
