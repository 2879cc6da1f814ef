//! Area ERR: what a worker, or somebody else, has put where the agent looks for a file. Nobody is waited for, and
//! what is no file is not read.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use libtest_mimic::Trial;

use crate::harness::*;
use crate::tests;
use crate::tool::*;

pub fn tests() -> Vec<Trial> {
    tests![
        err_an_error_file_that_is_none,
        needs(root): err_an_error_file_that_is_a_device,
        err_an_error_file_without_an_end,
        err_the_agents_own_error_file_is_none,
        err_a_link_to_the_agents_own_error_file_stays,
        err_a_log_that_is_a_fifo_meanwhile,
        err_a_log_that_was_there_before,
        err_a_stack_file_that_is_a_fifo,
        err_a_secret_that_is_a_fifo,
    ]
}

/// A shell as the worker; `$F` is its error file, `$D` the directory of that.
fn shell<'a>(host: Host<'a>, script: &str) -> Host<'a> {
    let script = format!("F=$TORCHELASTIC_ERROR_FILE; D=$(dirname $F); {script}");
    host.set("program", "/bin/sh").set("arg", "-c").set("arg", script)
}

#[track_caller]
fn not_read(t: &Case, make: &str, is: &str) {
    let run = shell(t.host().set("log_dir", t.path("logs")), &format!("rm -f $F; {make}; exit 9")).run();
    run.failed_as(END_WORKER_FAILURE);
    let root = &run.result()["root_cause"];
    let message = text(&root["message"]);
    let wanted = format!("PID {} exited with code 9 (its error file is {is}: not read)", root["pid"]);
    assert_eq!(message, wanted, "{make}");
    assert_eq!((&root["exit_code"], &root["error_file"]), (&9.into(), &"".into()));
    assert_eq!(root["error_data"], serde_json::Value::Null);
}

fn err_an_error_file_that_is_none() {
    for (make, is) in [
        ("mkfifo $F", "a FIFO"),
        // With somebody who has it open, and never writes.
        ("mkfifo $F; sleep 60 <> $F & :", "a FIFO"),
        ("mkdir $F", "a directory"),
        ("ln -s /etc/passwd $F", "a symbolic link"),
        ("mkfifo $F.fifo; ln -s $F.fifo $F", "a symbolic link"),
    ] {
        not_read(&Case::new(), make, is);
    }
}

fn err_an_error_file_that_is_a_device() {
    not_read(&Case::new(), "mknod $F c 1 5", "a device");
}

fn err_an_error_file_without_an_end() {
    let t = Case::new();
    let script = "truncate -s 8G $F; exit 9";
    let run = shell(t.host().set("log_dir", t.path("logs")), script).run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(run.result()["root_cause"]["error_size"], 1 << 20);
    // One that grows for ever.
    let t = Case::new();
    let script = "(while :; do echo more; done) > $F & sleep 0.1; exit 9";
    let run = shell(t.host().set("log_dir", t.path("logs")), script).run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(run.result()["root_cause"]["exit_code"], 9);
}

#[track_caller]
fn told(t: &Case, part: &str) {
    let log = t.lines("log");
    assert!(log.iter().any(|line| line.starts_with("2 ") && line.contains(part)), "{part}: {log:?}");
}

fn err_the_agents_own_error_file_is_none() {
    type Make = fn(&Case) -> String;
    let fifo: Make = |t| {
        let path = t.path("own");
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        path
    };
    let directory: Make = |t| {
        fs::create_dir(t.dir.join("own")).unwrap();
        t.path("own")
    };
    let null: Make = |_| "/dev/null".to_string();
    for (make, is) in [(fifo, "is a FIFO"), (directory, "is a directory"), (null, "is a device")] {
        let t = Case::new();
        let own = make(&t);
        let kind = fs::metadata(&own).unwrap().file_type();
        let host = t.host().env("TORCHELASTIC_ERROR_FILE", &own).set("log_dir", t.path("logs"));
        let run = shell(host.set("log_callback", t.path("log")), "echo '{}' > $F; exit 9").run();
        run.failed_as(END_WORKER_FAILURE);
        assert_eq!(run.result()["root_cause"]["exit_code"], 9);
        told(&t, &format!("{own} {is}: the root cause is not written there"));
        assert_eq!(fs::metadata(&own).unwrap().file_type(), kind, "it is what it was");
    }
}

fn err_a_link_to_the_agents_own_error_file_stays() {
    let t = Case::new();
    t.write("there", b"", 0o644);
    std::os::unix::fs::symlink(t.path("there"), t.path("own")).unwrap();
    let host = t.host().env("TORCHELASTIC_ERROR_FILE", &t.path("own")).set("log_dir", t.path("logs"));
    shell(host, r#"echo '{"message": "x"}' > $F; exit 9"#).run().failed_as(END_WORKER_FAILURE);
    assert!(fs::symlink_metadata(t.path("own")).unwrap().is_symlink());
    assert_eq!(t.json("there")["message"]["errorCode"], 9);
}

/// The tail of stderr is not read, and a log that is followed is let go of.
fn err_a_log_that_is_a_fifo_meanwhile() {
    for tee in [0, 3] {
        for _ in 0..5 {
            let t = Case::new();
            let host = t.host().set("log_dir", t.path("logs")).set("redirects", 3).set("tee", tee);
            let script = "rm $D/std*.log; mkfifo $D/stdout.log $D/stderr.log; exit 3";
            let run = shell(host, script).run();
            run.failed_as(END_WORKER_FAILURE);
            assert_eq!(run.worker(0)["stderr_tail"], "");
        }
    }
}

/// By a worker of the attempt before.
fn err_a_log_that_was_there_before() {
    let t = Case::new();
    t.write("secret", b"", 0o600);
    let host = t.host().set("log_dir", t.path("logs")).set("redirects", 3).set("max_restarts", 1);
    let script = format!(
        "cd $D/../..; case $TORCHELASTIC_RESTART_COUNT in 0) mkdir -p attempt_1/0; mkfifo attempt_1/0/stdout.log;
         ln -s {} attempt_1/0/stderr.log; exit 1;; esac; echo out; echo err >&2",
        t.path("secret")
    );
    shell(host, &script).run().succeeded();
    let logs = only_run_dir(&t.dir.join("logs")).join("attempt_1/0");
    for (name, line) in [("stdout.log", "out\n"), ("stderr.log", "err\n")] {
        assert!(fs::symlink_metadata(logs.join(name)).unwrap().is_file(), "{name}");
        assert_eq!(fs::read_to_string(logs.join(name)).unwrap(), line);
    }
    assert_eq!(t.read("secret"), "", "nothing was written to where the link led");
}

/// A timer expires, and the agent would write down where its holder was.
fn err_a_stack_file_that_is_a_fifo() {
    let t = Case::new();
    let host = t.host().set("file_timers", 1).set("log_dir", t.path("logs"));
    let script = format!("mkfifo $D/stack.txt; exec {} timer %p s 0.1 KILL pause", probe().display());
    let run = shell(host, &script).run();
    run.failed_as(END_WORKER_FAILURE);
    assert_eq!(run.worker(0)["cause"], CAUSE_TIMED_OUT, "{run}");
    let stack = text(&run.worker(0)["stack"]);
    assert!(stack.contains("stack.txt is a FIFO: it is not written"), "{stack}");
    let file = Path::new(&text(&run.result()["run_dir"])).join("attempt_0/0/stack.txt");
    assert!(fs::symlink_metadata(file).unwrap().file_type().is_fifo());
}

fn err_a_secret_that_is_a_fifo() {
    let t = Case::new();
    let secret = t.path("secret");
    assert!(std::process::Command::new("mkfifo").arg(&secret).status().unwrap().success());
    let endpoint = format!("localhost:{}", free_port());
    let conf = format!("secret_file={secret}");
    let options =
        ["--nnodes", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint", &endpoint, "--rdzv-conf", &conf];
    let ended = tool(&t, &options).probe(&["exit", "0"]).run();
    assert!(!ended.status.success());
    assert!(ended.err().contains(&secret) && ended.err().contains("a FIFO"), "{}", ended.err());
    t.nothing_left();
}
