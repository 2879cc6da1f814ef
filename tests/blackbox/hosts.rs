//! Area HOST: hosts in other languages. `tests/hosts/go` and `tests/hosts/python` take the same options and print
//! the same line of JSON, so that each test is one for all of them.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::harness::*;
use crate::tests;
use crate::tool::no_process_left;

type Host = fn(&Case) -> Command;

fn succeed(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// The functions that hosts run, in a shared object that is not linked with libice.
fn functions() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = built().dir.join("functions.so");
        let source = root().join("tests/hosts/functions.c");
        succeed(cc().args(["-shared", "-fPIC"]).arg(source).arg("-o").arg(&path));
        path
    })
    .clone()
}

fn go(t: &Case) -> Command {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let path = PATH.get_or_init(|| {
        let dir = &built().dir;
        let path = dir.join("go-host");
        let mut build = Command::new("go");
        build.args(["build", "-buildvcs=false", "-o"]).arg(&path).arg(".");
        build.current_dir(root().join("tests/hosts/go"));
        build.env("CGO_ENABLED", "1");
        build.env("CGO_CFLAGS", format!("-I{}", root().join("include").display()));
        build.env("CGO_LDFLAGS", format!("-L{0} -Wl,-rpath,{0}", dir.display()));
        build.env("GOFLAGS", "-mod=mod").env("GOPROXY", "off");
        build.env("GOCACHE", dir.join("go-cache")).env("GOPATH", dir.join("go-path"));
        succeed(&mut build);
        path
    });
    t.command(path)
}

fn python(t: &Case) -> Command {
    let mut command = t.command("python3");
    command.arg(root().join("tests/hosts/python/host.py"));
    command.env("LIBICE", library()).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// The host with these options, its functions those of the shared object.
fn with_functions(t: &Case, host: Host, options: &[&str]) -> Command {
    let mut command = host(t);
    command.arg("--library").arg(functions()).args(options);
    command.arg("--log-dir").arg(t.path("logs"));
    command
}

/// Runs a host to its end and returns what it says.
#[track_caller]
fn report(t: &Case, command: &mut Command) -> Value {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?} {:?}\n{out}{err}", output.status);
    assert_eq!(err, "");
    t.nothing_left();
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
}

#[track_caller]
fn assert_values(report: &Value, has: &str, attempt: i32) {
    assert_eq!(report["end"], END_SUCCEEDED, "{report}");
    assert_eq!(report["restarts"], attempt);
    assert_eq!(report["workers"].as_array().map(Vec::len), Some(2));
    for rank in 0..2 {
        let worker = &report["workers"][rank];
        assert_eq!(worker["rank"], rank);
        assert_eq!(worker["value"], format!("rank {rank} of 2 has {has}, attempt {attempt}"));
    }
}

/// Rank 1 said why, rank 0 was stopped.
#[track_caller]
fn assert_failure(report: &Value, code: i32, message: &str) {
    assert_eq!(report["end"], END_WORKER_FAILURE, "{report}");
    assert!(report["message"].as_str().unwrap().contains(message), "{report}");
    let [first, second] = [0, 1].map(|rank| &report["workers"][rank]);
    assert_eq!((&first["signal"], &first["value"]), (&libc::SIGTERM.into(), &Value::Null), "{report}");
    assert_eq!((&second["exit_code"], &second["value"]), (&code.into(), &Value::Null));
    assert!(second["message"].as_str().unwrap().contains(message), "{report}");
}

fn values_failures_restarts(host: Host) {
    let t = Case::new();
    for method in ["spawn", "forkserver"] {
        let run =
            |options: &[&str]| report(&t, with_functions(&t, host, &["--method", method]).args(options));
        let values = run(&["--function", "describe", "--argument", "some words"]);
        assert_values(&values, "some words and nothing", 0);
        assert_failure(&run(&["--function", "fail"]), 7, "rank 1 has no input");
        assert_values(&run(&["--function", "fail_once", "--max-restarts", "1"]), " and nothing", 1);
    }
    let options = ["--method", "forkserver", "--warm-up", "warm_up", "--function", "describe"];
    assert_values(&report(&t, &mut with_functions(&t, host, &options)), " and data", 0);
}

fn programs_and_refusals(host: Host) {
    let t = Case::new();
    let failed = report(&t, host(&t).args(["--", "sh", "-c", "exit $RANK"]));
    assert_eq!(failed["end"], END_WORKER_FAILURE);
    assert_eq!(failed["workers"][1]["exit_code"], 1);
    let missing = report(&t, &mut with_functions(&t, host, &["--function", "no_such_function"]));
    assert_eq!(missing["end"], END_START_ERROR);
    assert!(missing["message"].as_str().unwrap().contains("no_such_function"), "{missing}");
    // Refused before anything starts: neither a program nor a function.
    let output = host(&t).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("config error"), "{output:?}");
    t.nothing_left();
}

/// Threads, goroutines, the collector and the host's own signals go on while the host waits for its workers.
fn the_host_goes_on(host: Host) {
    for (options, end_with) in [
        (&[][..], None),
        // The host's own handler stops the run, then the library's.
        (&[], Some("stopped by request")),
        (&["--signals", "SIGTERM"], Some("stopped by SIGTERM")),
    ] {
        let t = Case::new();
        let directory = t.path("");
        let mut command = with_functions(&t, host, &["--function", "wait_for_go", "--argument", &directory]);
        command.args(options);
        let file = |name| std::fs::File::create(t.dir.join(name)).unwrap();
        let mut child = command.stdout(file("out")).stderr(file("ticks")).spawn().unwrap();
        (0..2).for_each(|rank| t.wait_file(&format!("here.{rank}")));
        let pid = child.id() as i32;
        let ticks = |asked: usize| -> u64 {
            assert!(send(pid, libc::SIGUSR1));
            t.wait_lines("ticks", asked)[asked - 1].parse().expect("a number")
        };
        let (first, mut asked) = (ticks(1), 1);
        wait_for("the host to go on", || {
            asked += 1;
            ticks(asked) > first + 20
        });
        match end_with {
            None => drop(t.write("go", b"", 0o644)),
            Some(_) => assert!(send(pid, libc::SIGTERM)),
        }
        assert!(child.wait().unwrap().success());
        let report = t.json("out");
        assert_eq!(report["end"], end_with.map_or(END_SUCCEEDED, |_| END_INTERRUPTED), "{report}");
        assert_eq!(report["message"], end_with.unwrap_or(""));
        t.nothing_left();
    }
}

/// A host that is killed takes its workers, and its fork server, with it.
fn the_host_is_killed(host: Host) {
    for method in ["spawn", "forkserver"] {
        let t = Case::new();
        let directory = t.path("");
        let options = ["--method", method, "--function", "wait_for_go", "--argument", &directory];
        let mut child = with_functions(&t, host, &options).spawn().unwrap();
        (0..2).for_each(|rank| t.wait_file(&format!("here.{rank}")));
        child.kill().unwrap();
        child.wait().unwrap();
        no_process_left(&t);
    }
}

fn host_go_values_failures_restarts() {
    values_failures_restarts(go);
}

fn host_go_programs_and_refusals() {
    programs_and_refusals(go);
}

fn host_go_goes_on() {
    the_host_goes_on(go);
}

fn host_go_is_killed() {
    the_host_is_killed(go);
}

fn host_python_values_failures_restarts() {
    values_failures_restarts(python);
}

fn host_python_programs_and_refusals() {
    programs_and_refusals(python);
}

fn host_python_goes_on() {
    the_host_goes_on(python);
}

fn host_python_is_killed() {
    the_host_is_killed(python);
}

/// `python3 host.py` is started again, registers its functions again, and becomes the worker.
fn host_python_functions_of_the_script() {
    let t = Case::new();
    for method in ["spawn", "forkserver"] {
        let logs = t.path("logs");
        let run = |options: &[&str]| {
            report(&t, python(&t).args(["--method", method, "--log-dir", &logs]).args(options))
        };
        let values = run(&["--function", "py_describe", "--argument", "some words"]);
        assert_values(&values, "some words and nothing", 0);
        assert_failure(&run(&["--function", "py_fail_once"]), 1, "ValueError('rank 1 has no input')");
        assert_values(&run(&["--function", "py_fail_once", "--max-restarts", "1"]), " and nothing", 1);
        let missing = run(&["--function", "missing"]);
        assert_eq!(missing["end"], END_START_ERROR);
        assert!(missing["message"].as_str().unwrap().contains("\"py_describe\""), "{missing}");
    }
    let options = ["--method", "forkserver", "--warm-up", "py_warm_up", "--function", "py_describe"];
    assert_values(&report(&t, python(&t).args(options)), " and data", 0);
}

pub fn tests() -> Vec<Trial> {
    tests![
        needs(go): host_go_values_failures_restarts,
        needs(go): host_go_programs_and_refusals,
        needs(go): host_go_goes_on,
        needs(go): host_go_is_killed,
        needs(python3): host_python_values_failures_restarts,
        needs(python3): host_python_programs_and_refusals,
        needs(python3): host_python_goes_on,
        needs(python3): host_python_is_killed,
        needs(python3): host_python_functions_of_the_script,
    ]
}
