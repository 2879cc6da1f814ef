//! Area CLI: what a user of torchrun brings along: its `${local_rank}`, its ways to write values, its options.

use std::process::Command;

use libtest_mimic::Trial;

use crate::harness::*;
use crate::sp::environment;
use crate::tests;
use crate::tool::*;

/// The arguments after `--` as the worker had them.
fn arguments(t: &Case, tool: Tool, args: &[&str]) -> Vec<String> {
    tool.probe(&["dump", &t.path("dump"), "--"]).words(args).run().exited(0);
    let argv = t.json("dump")["argv"].as_array().expect("argv").clone();
    argv.iter().skip(4).map(|word| word.as_str().expect("text").to_string()).collect()
}

/// As with torchrun: what shells, Hydra and OmegaConf mean by `${..}` is theirs.
fn cli_macros_of_torchrun_alone() {
    let t = Case::new();
    let theirs =
        ["${rank}", "${oc.env:HOME}", "lr=${optim.lr}", "${world_size}", "$${rank}", "$$", "$local_rank"];
    assert_eq!(arguments(&t, tool(&t, &[]), &theirs), theirs);
    let ended = tool(&t, &["--no-python", "sh", "-c", "rank=mine; echo ${rank}"]).run();
    assert_eq!(ended.exited(0).out(), "mine\n");
    let ours = ["${local_rank}", "--gpu=${local_rank}", "$${local_rank}"];
    assert_eq!(arguments(&t, tool(&t, &[]), &ours), ["0", "--gpu=0", "${local_rank}"]);
    // Prefixes are templates, with all of them, and with the same way out.
    let ended = tool(&t, &["--tee", "1", "--log-line-prefix-template", "${rank}|$${rank}:"])
        .probe(&["print", "x"])
        .run();
    assert_eq!(ended.exited(0).out(), "0|${rank}:x\n");
    // An empty variable is none, as for torch.
    let ended = tool(&t, &["--tee", "1"])
        .env("TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE", "")
        .probe(&["print", "x"])
        .run();
    assert_eq!(ended.exited(0).out(), "[default0]:x\n");
}

fn cli_macros_by_an_option() {
    let t = Case::new();
    let args = ["${local_rank}", "${rank}/${world_size}", "$${rank}", "${other}"];
    let all = ["0", "0/1", "${rank}", "${other}"];
    assert_eq!(arguments(&t, tool(&t, &["--macros", "all"]), &args), all);
    assert_eq!(arguments(&t, tool(&t, &[]).env("PET_MACROS", "all"), &args), all);
    assert_eq!(arguments(&t, tool(&t, &["--macros", "none"]), &args), args);
    assert_eq!(
        arguments(&t, tool(&t, &["--macros", "local_rank"]), &args)[..2],
        ["0", "${rank}/${world_size}"]
    );
    tool(&t, &["--macros", "rank"]).probe(&[]).run().refused(&["--macros rank", "local_rank", "all", "none"]);
}

/// Numbers as Python's int() and float() read them.
fn cli_numbers_of_python() {
    let t = Case::new();
    let told = |option: &str, value: &str| {
        let ended = tool(&t, &[&format!("--{option}={value}")]).probe(&["dump", &t.path("dump")]).run();
        ended.exited(0);
        environment(&t.json("dump"))
    };
    for (value, wanted) in [("1_000", "1000"), (" 3 ", "3"), ("+3", "3"), ("007", "7"), ("-0", "0")] {
        assert_eq!(told("max-restarts", value)["TORCHELASTIC_MAX_RESTARTS"], wanted, "{value}");
    }
    let port = free_port().to_string();
    let written = format!(" +{}_{}", &port[..1], &port[1..]);
    assert_eq!(told("master-port", &written)["MASTER_PORT"], port);
    for value in [" 2", "+2", "0_2"] {
        assert_eq!(told("nproc-per-node", value)["WORLD_SIZE"], "2", "{value}");
    }
    assert_eq!(told("nnodes", " 1 : +1 ")["GROUP_WORLD_SIZE"], "1");
    for value in ["0", "0.0", " 1_0.5 ", "1e-9"] {
        told("monitor-interval", value);
    }
    for (option, value) in [
        ("max-restarts", "1__0"),
        ("max-restarts", "_1"),
        ("max-restarts", "1_"),
        ("max-restarts", "1 0"),
        ("max-restarts", "+ 1"),
        ("max-restarts", "0x10"),
        ("max-restarts", ""),
        ("monitor-interval", "0x1"),
        ("monitor-interval", "-1"),
        ("monitor-interval", "nan"),
    ] {
        tool(&t, &[&format!("--{option}={value}")]).probe(&[]).run().refused(&[option]);
    }
}

/// Flags in the environment are whole numbers, as for torch; empty is unset.
fn cli_flags_in_the_environment() {
    let t = Case::new();
    let merged = |value: &str| {
        let tool =
            tool(&t, &["--redirects", "3", "--log-dir", &t.path("logs")]).env("PET_MERGE_STDERR", value);
        tool.words(&["--dry-run", "--no-python", "true"]).run()
    };
    for (value, on) in
        [("1", true), ("2", true), ("-1", true), (" 01 ", true), ("0", false), ("00", false), ("", false)]
    {
        let shown = merged(value);
        assert_eq!(!shown.exited(0).out().contains("stderr.log"), on, "{value:?}: {}", shown.out());
    }
    for value in ["true", "yes", "1.0", " "] {
        merged(value).refused(&["PET_MERGE_STDERR"]);
    }
    // torchrun has no variable for this one.
    tool(&t, &[]).env("PET_LOGS_SPECS", "plug-in").probe(&[]).run().exited(0);
    tool(&t, &["--logs-specs", "plug-in"]).probe(&[]).run().refused(&["logs-specs", "Python"]);
}

/// Keys that torch knows and nothing here needs are taken, with a word; those that nobody knows are not.
fn cli_rdzv_conf_of_torch() {
    let t = Case::new();
    let run = |conf: &str| tool(&t, &["--rdzv-conf", conf]).probe(&[]).run();
    for conf in [
        "timeout=900",
        "join_timeout=1_000, close_timeout= 5 ",
        "\"timeout=900,read_timeout=60\"",
        "timeout='900',is_host=\"0\"",
        "'timeout=900','is_host=0'",
        "store_type=tcp",
        "  ",
        "''",
    ] {
        let ended = run(conf);
        ended.exited(0);
        assert_eq!(ended.err(), "", "{conf}");
    }
    for key in ["heartbeat_timeout=5", "cas_backoff_max_seconds=0", "use_libuv=1", "etcd_prefix=/here"] {
        let ended = run(key);
        let name = key.split('=').next().expect("a name");
        assert!(ended.exited(0).err().contains(&format!("{name} has no effect here")), "{}", ended.err());
    }
    run("join_timout=5").refused(&["join_timout", "(join_timeout?)"]);
    run("is-host=1").refused(&["is-host", "(is_host?)"]);
    run("use_libuv=maybe").refused(&["use_libuv=maybe", "true or false"]);
    for bad in ["timeout=", "=5", "timeout=5,", ",", "timeout", "''=5", "timeout=''"] {
        run(bad).refused(&["rdzv-conf"]);
    }
}

/// What torchrun takes without use for it is taken, with a word.
fn cli_what_has_no_effect_is_said() {
    let t = Case::new();
    let says = |options: &[&str], part: &str| {
        let ended = tool(&t, options).probe(&["dump", &t.path("dump")]).run();
        assert!(ended.exited(0).err().contains(part), "{options:?}: {}", ended.err());
        let quiet = tool(&t, &["--quiet"]).words(options).probe(&[]).run();
        assert_eq!(quiet.exited(0).err(), "", "{options:?}");
    };
    says(&["--node-rank", "3"], "--node-rank 3 has no effect");
    assert_eq!(environment(&t.json("dump"))["GROUP_RANK"], "0");
    says(&["--use-env"], "--use-env has no effect");
    says(&["--use_env"], "LOCAL_RANK is always in the environment");
    says(&["--rdzv-backend", "c10d", "--master-addr", "10.0.0.1"], "--master-addr has no effect");
    says(&["--rdzv-backend", "c10d", "--master-port", "4321"], "--master-port has no effect");
    tool(&t, &["--node-rank", "scheduler"]).probe(&[]).run().exited(0);
    // Where the hosts are named, one has been forgotten.
    tool(&t, &["--node-rank", "1", "--master-port", "4321"])
        .probe(&[])
        .run()
        .refused(&["node-rank", "nnodes"]);
    tool(&t, &["--node-rank", "1.5"]).probe(&[]).run().refused(&["node-rank", "1.5"]);
}

/// One set of options for hosts of different size, as torchrun takes it.
fn cli_ranks_that_there_are_not() {
    let t = Case::new();
    let run = |options: &[&str]| {
        let tool = tool(&t, &["--nproc-per-node", "2", "--log-dir", &t.path("logs")]).words(options);
        tool.env("OMP_NUM_THREADS", "1").probe(&["rank", "0", "print", "x", ";", "exit", "0"]).run()
    };
    let ended = run(&["--tee", "0:3,9:3"]);
    assert_eq!(ended.exited(0).out(), "[default0]:x\n");
    assert!(ended.err().contains("tee names local rank 9, but there are 2 workers"), "{}", ended.err());
    let ended = run(&["--local-ranks-filter", "0,5", "--redirects", "7:1"]);
    assert_eq!(ended.exited(0).out(), "x\n");
    for part in ["redirects names local rank 7", "local_ranks_filter names local rank 5"] {
        assert!(ended.err().contains(part), "{}", ended.err());
    }
    assert_eq!(run(&["--tee", "0:3,1:3"]).exited(0).err(), "");
}

/// The shell takes the script, and knows options and their values by it.
fn completion(shell: &str, read: &str, offers: &[(&str, &[&str], &[&str])]) {
    let t = Case::new();
    let shown = tool(&t, &["--print-completion", shell]).run();
    shown.exited(0);
    assert_eq!(shown.err(), "");
    let script = t.write("completion", &shown.stdout, 0o644);
    // All options that may be given, and no others.
    let help = tool(&t, &["--help"]).run().out();
    let names = help.lines().filter(|line| line.starts_with("  -"));
    let names = names.filter_map(|line| line.split_whitespace().find_map(|word| word.strip_prefix("--")));
    for name in names.filter(|name| name.len() > 3) {
        let there = shown.out().contains(name);
        assert_eq!(there, name != "logs-specs", "{name}");
    }
    for (line, with, without) in offers {
        let mut command: Command = t.command(shell);
        if shell == "fish" {
            command.arg("--no-config");
        }
        if shell == "zsh" {
            command.arg("-f");
        }
        let output =
            command.args(["-c", read, &script, line]).env("SCRIPT", &script).env("LINE", line).output();
        let output = output.expect("a shell");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && said.is_empty(), "{shell} {line}: {said}");
        let offered: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
        with.iter().for_each(|word| assert!(offered.contains(word), "{shell} {line}: {text}"));
        without.iter().for_each(|word| assert!(!offered.contains(word), "{shell} {line}: {text}"));
    }
}

const OFFERS: &[(&str, &[&str], &[&str])] = &[
    ("icerun --max-re", &["--max-restarts"], &["--max-attempts-without-progress"]),
    ("icerun --start-method ", &["spawn", "fork", "forkserver"], &["--help"]),
    ("icerun --tee 3 -q --sta", &["--standalone", "--start-method", "--stack-timeout"], &["--tee"]),
    // From the script on it is the script's.
    ("icerun --tee 3 train.py --max-re", &[], &["--max-restarts"]),
    ("icerun -- --max-re", &[], &["--max-restarts"]),
];

fn cli_completion_of_bash() {
    let read = "source \"$SCRIPT\"; COMP_WORDS=($LINE); case $LINE in *' ') COMP_WORDS+=('');; esac; \
                COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _icerun; printf '%s\\n' \"${COMPREPLY[@]}\"";
    completion("bash", read, OFFERS);
    // bash parts the words at =.
    completion("bash", read, &[("icerun --start-method = fork", &["fork", "forkserver"], &["spawn"])]);
    completion("bash", read, &[("icerun --start-method =", &["fork", "spawn"], &[])]);
}

/// At a terminal of its own, where a tab is pressed; what icerun would have been given then.
fn cli_completion_of_zsh() {
    let read = "zmodload zsh/zpty; zpty z 'TERM=dumb zsh -f -i'; \
        zpty -w z \"PS1=; unsetopt beep; autoload -U compinit; compinit -u -D; source $SCRIPT; \
        icerun() { print GO''T:\\$*:END }; print RE''ADY\"; zpty -r z text '*READY*'; zpty -w z \"$LINE\"; \
        zpty -r z text '*GOT:*:END*'; text=${text##*GOT:}; print -l -- ${=text%%:END*}; zpty -d z";
    completion(
        "zsh",
        read,
        &[
            ("icerun --max-re\t1 x", &["--max-restarts=1"], &[]),
            ("icerun --tee 3 -q --standal\t x", &["--standalone", "x"], &[]),
            ("icerun --start-method=forks\t x", &["--start-method=forkserver"], &[]),
            ("icerun --tee 3 train.py --max-re\t", &["--max-re"], &[]),
            ("icerun -- --max-re\t", &["--max-re"], &[]),
        ],
    );
}

fn cli_completion_of_fish() {
    completion("fish", "source \"$SCRIPT\"; complete -C \"$LINE\"", OFFERS);
}

fn cli_completion_of_no_shell() {
    let t = Case::new();
    tool(&t, &["--print-completion", "tcsh"]).run().refused(&["tcsh", "bash", "zsh", "fish"]);
    tool(&t, &["--print-completion"]).run().refused(&["print-completion", "needs a value"]);
    tool(&t, &[]).env("PET_PRINT_COMPLETION", "bash").probe(&[]).run().exited(0);
}

pub fn tests() -> Vec<Trial> {
    tests![
        cli_macros_of_torchrun_alone,
        cli_macros_by_an_option,
        cli_numbers_of_python,
        cli_flags_in_the_environment,
        cli_rdzv_conf_of_torch,
        cli_what_has_no_effect_is_said,
        cli_ranks_that_there_are_not,
        needs(bash): cli_completion_of_bash,
        needs(zsh): cli_completion_of_zsh,
        needs(fish): cli_completion_of_fish,
        cli_completion_of_no_shell,
    ]
}
