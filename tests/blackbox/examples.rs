//! Area EX: the examples, built as a user builds them, do what they say.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use libtest_mimic::Trial;

use crate::harness::*;
use crate::terminal::{CTRL_C, terminal};
use crate::tests;
use crate::tool::{no_process_left, tool_of};

/// The directory with all examples, made by their own Makefile with the library under test.
fn examples() -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = built().dir.join("examples");
        let mut make = Command::new("make");
        make.arg("-C").arg(root().join("c_examples"));
        make.arg(format!("BUILD={}", dir.display()));
        make.arg(format!("LIBRARY={}", library().with_extension("").display()));
        make.args(["CARGO=true", "CFLAGS=-O2 -Werror"]);
        // This may be within another make.
        make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
        let output = make.output().expect("make");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{make:?}\n{out}{err}");
        assert_eq!(err, "", "a warning: {make:?}");
        dir
    })
    .clone()
}

/// Runs an example; arguments that begin with `@` are files beside it. Returns what it prints.
#[track_caller]
fn run(t: &Case, name: &str, arguments: &[&str]) -> String {
    let dir = examples();
    let mut command = t.command(dir.join(name));
    for argument in arguments {
        match argument.strip_prefix('@') {
            Some(file) => command.arg(dir.join(file)),
            None => command.arg(argument),
        };
    }
    let output = command.output().expect("an example");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} {:?}\n{out}{err}", output.status);
    no_process_left(t);
    out.into_owned()
}

const PI: &str = "pi is 3.141592653590\n";

fn ex_each_example_does_what_it_says() {
    let t = Case::new();
    let out = run(&t, "launch", &["3", "sh", "-c", "exit 0"]);
    assert!((0..3).all(|rank| out.contains(&format!("rank {rank}: succeeded"))), "{out}");
    assert_eq!(run(&t, "spawn", &[]), PI);
    assert_eq!(run(&t, "shared", &["@libpi.so"]), PI);
    let out = run(&t, "forkserver", &[]);
    assert!(out.ends_with("twin primes below 10000000: 58980\n"), "{out}");
    let mut tables: Vec<_> = out.lines().filter_map(|line| line.split_once(" process ")).collect();
    assert_eq!(tables.len(), 8, "{out}");
    tables.dedup_by_key(|(_, pid)| *pid);
    assert_eq!(tables.len(), 1, "one process made the table: {out}");
    t.nothing_left();
    // It fails on purpose, and its error file stays.
    let out = run(&t, "callback", &[]);
    assert!(out.contains(PI) && out.contains("exit code 7: the input of rank 1 is not there"), "{out}");
}

/// icerun has libice in it, and needs no other file: it is its own program to ask the driver.
fn ex_icerun_finds_the_gpus() {
    let t = Case::new();
    let alone = t.write("alone/icerun", &std::fs::read(examples().join("icerun")).unwrap(), 0o755);
    for icerun in [examples().join("icerun"), PathBuf::from(alone)] {
        let mut command = t.command(&icerun);
        command.env("LD_LIBRARY_PATH", &built().dir).env("STUB_CUDA_COUNT", "2");
        command.args(["--nproc-per-node", "gpu", "--no-python", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES"]);
        let output = command.output().expect("icerun");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let mut lines: Vec<&str> = out.lines().collect();
        lines.sort();
        assert_eq!(lines, ["0", "1"], "{err}");
        no_process_left(&t);
    }
}

fn ex_a_static_host_names_a_runner() {
    let t = Case::new();
    assert_eq!(run(&t, "shared-static", &["@libpi.so", "@runner"]), PI);
    // The shared library is such a program too; an object that is linked with it does no harm to the runner.
    assert_eq!(run(&t, "shared-static", &["@libpi.so", "@libice.so.0.1"]), PI);
    let output =
        t.command(examples().join("shared-static")).arg(examples().join("libpi.so")).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(err.contains("ice_spec_set_runner()"), "{err}");
    // Started by hand it says what it is.
    let output = t.command(examples().join("runner")).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    t.nothing_left();
}

fn ex_the_weights_are_the_same_by_every_start_method() {
    let t = Case::new();
    let data = root().join("c_examples/data/digits.csv");
    let methods = ["fork", "spawn", "spawn-shared", "forkserver", "forkserver-shared", "program"];
    let checkpoints: Vec<_> = methods
        .iter()
        .flat_map(|method| {
            let options = [
                "--start-method",
                method,
                "--epochs",
                "10",
                "--data",
                data.to_str().unwrap(),
                "--dir",
                method,
            ];
            let out = run(&t, "train", &options);
            assert!(out.ends_with("the same, byte for byte\n"), "{out}");
            assert!(out.contains("died: rank 2, PID") && out.contains("resumed:  after 5 epochs"), "{out}");
            assert_eq!(out.contains("loaded once"), method.starts_with("forkserver"), "{method}: {out}");
            ["undisturbed", "disturbed"]
                .map(|run| (*method, t.dir.join(format!("{method}/{run}.checkpoint"))))
        })
        .map(|(method, path)| (method, std::fs::read(path).expect("a checkpoint")))
        .collect();
    for (method, checkpoint) in &checkpoints {
        assert!(checkpoint == &checkpoints[0].1, "{method} comes to other weights");
    }
    t.nothing_left();
}

/// SIGTERM, or ^C and Enter at a terminal: all ranks hear of it at one epoch, which is the checkpoint's.
fn ex_the_trainer_saves_before_it_is_stopped() {
    for (method, by_terminal) in [("fork", true), ("program", true), ("spawn", false), ("program", false)] {
        let t = Case::new();
        let data = root().join("c_examples/data/digits.csv");
        let mut terminal = terminal();
        let options =
            ["--epochs", "1000000", "--undisturbed", "--dir", "run", "--start-method", method, "--data"];
        let started = tool_of(&t, &examples().join("train"), &options)
            .words(&[data.to_str().unwrap()])
            .on(&terminal)
            .spawn();
        t.wait_file("run/undisturbed.checkpoint");
        if by_terminal {
            terminal.types(CTRL_C);
            terminal.await_text("Should I save the checkpoint? [Y/n] ");
            terminal.types("\n");
        } else {
            started.signal(libc::SIGTERM);
        }
        started.finish().exited(1);
        let out = terminal.rest();
        let signal = if by_terminal { "SIGINT" } else { "SIGTERM" };
        assert!(
            out.contains(&format!("the undisturbed run was stopped:\r\ninterrupted: stopped by {signal}")),
            "{out}"
        );
        let logs = std::fs::read_dir(t.path("run/logs")).unwrap().next().unwrap().unwrap().path();
        let epochs: Vec<String> = (0..4)
            .map(|rank| {
                let text =
                    std::fs::read_to_string(logs.join(format!("attempt_0/{rank}/stdout.log"))).unwrap();
                let asked: Vec<&str> =
                    text.lines().filter_map(|line| line.strip_prefix("asked to save after ")).collect();
                assert_eq!(asked.len(), 1, "rank {rank}: {asked:?}");
                asked[0].to_string()
            })
            .collect();
        assert!(epochs.iter().all(|epoch| *epoch == epochs[0]), "{epochs:?}");
        let checkpoint = std::fs::read(t.path("run/undisturbed.checkpoint")).unwrap();
        let saved = i64::from_ne_bytes(checkpoint[16..24].try_into().unwrap());
        assert_eq!(format!("{saved} epochs"), epochs[0]);
        no_process_left(&t);
    }
}

pub fn tests() -> Vec<Trial> {
    tests![
        needs(make, setsid): ex_the_trainer_saves_before_it_is_stopped,
        needs(make): ex_each_example_does_what_it_says,
        needs(make): ex_a_static_host_names_a_runner,
        needs(make): ex_icerun_finds_the_gpus,
        needs(make): ex_the_weights_are_the_same_by_every_start_method,
    ]
}
