//! Filters of system calls and emulators: what they refuse is replaced, or there is a clear error before any worker
//! runs. Never a hang.

use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::harness::{
    Case, END_AGENT_ERROR, END_INTERRUPTED, END_START_ERROR, END_SUCCEEDED, END_WORKER_FAILURE, Kind, Run,
    Way, icerun, probe, program, send, wait_for,
};
use crate::tool::no_process_left;
use crate::{tests, tests_by_way};

pub fn tests() -> Vec<Trial> {
    let mut trials: Vec<Trial> = Kind::ALL
        .into_iter()
        .map(|kind| {
            let name = format!("sandbox_each_call_is_refused_in_turn_by_{}", kind.name());
            Trial::test(name, move || {
                each_call_is_refused_in_turn(kind);
                Ok(())
            })
        })
        .collect();
    trials.extend(tests![
        sandbox_what_can_be_replaced_is_replaced_at_once,
        sandbox_without_pidfds_the_error_names_the_call,
        sandbox_without_threads_the_error_names_the_call,
        sandbox_a_program_that_cannot_start_is_an_error_there_too,
        sandbox_descendants_go_with_a_killed_host_there_too,
        needs(root, unshare_pid): sandbox_the_watcher_runs_though_memory_is_not_executable,
        needs(qemu_x86_64): sandbox_qemu_icerun_starts_restarts_and_stops,
        needs(qemu_x86_64): sandbox_qemu_host_of_programs,
    ]);
    trials.extend(tests_by_way![Way::ALL; sandbox_no_descriptor_is_handed_on]);
    trials.extend(tests_by_way![Way::NEW; sandbox_qemu_functions needs(qemu_x86_64)]);
    trials
}

const CALLS: [&str; 8] = [
    "close_range",
    "pidfd_open",
    "clone3",
    "memfd_create",
    "execveat",
    "waitid_pidfd",
    "pidfd_send_signal",
    "clone_pidfd",
];

const SOON: Duration = Duration::from_secs(60);

fn sandbox(rules: &str) -> [String; 2] {
    [program("sandbox").to_str().expect("a path").to_string(), rules.to_string()]
}

/// Two workers, one of which fails in the first attempt.
fn eventful(t: &Case, rules: &str, kind: Kind) -> Run {
    let [sandbox, rules] = sandbox(rules);
    t.host()
        .under(&[&sandbox, &rules])
        .set("local_world_size", 2)
        .set("max_restarts", 1)
        .worker(kind, &["attempt", "0", "rank", "1", "code", "3", ";", "pause", ";"])
        .limit(SOON)
        .run()
}

/// The message of a run that did not begin.
fn refusal(run: &Run) -> Option<String> {
    for step in ["new", "start", "run"] {
        if let Some(line) = run.events(step).pop()
            && line["status"] == "ICE_ERROR_SYSTEM"
        {
            return line["message"].as_str().map(str::to_string);
        }
    }
    let result = run.result();
    let end = result["end"].as_i64().unwrap_or(-1) as i32;
    let failed = [END_START_ERROR, END_AGENT_ERROR].contains(&end);
    failed.then(|| result["message"].as_str().unwrap_or_default().to_string())
}

fn each_call_is_refused_in_turn(kind: Kind) {
    for call in CALLS {
        for errno in ["EPERM", "ENOSYS", "EACCES"] {
            // The C library makes no thread then, not even the host's.
            if call == "clone3" && errno != "ENOSYS" {
                continue;
            }
            let t = Case::new();
            let rules = format!("{call}={errno}");
            let run = eventful(&t, &rules, kind);
            // What there is nothing else for.
            let hopeless = match call {
                "memfd_create" => kind != Kind::Program,
                "pidfd_open" => kind == Kind::Function(Way::Fork),
                _ => false,
            };
            match refusal(&run) {
                None => {
                    assert!(!hopeless, "{rules}: {run}");
                    assert_eq!(run.result()["restarts"], 1, "{rules}: {run}");
                    run.succeeded();
                }
                Some(message) => {
                    assert!(hopeless && message.contains(call), "{rules}: {message}");
                    assert!(message.contains(errno), "{rules}: {message}");
                    run.clean();
                }
            }
        }
    }
}

const REPLACED: &str = "close_range=EPERM,clone_pidfd=EINVAL,execveat=ENOSYS,waitid_pidfd=EINVAL,\
                        pidfd_send_signal=EPERM,clone3=ENOSYS";

fn sandbox_what_can_be_replaced_is_replaced_at_once() {
    for kind in Kind::ALL {
        let t = Case::new();
        let run = eventful(&t, REPLACED, kind);
        assert_eq!(run.result()["restarts"], 1, "{kind:?}: {run}");
        run.succeeded();
    }
    let t = Case::new();
    eventful(&t, &format!("{REPLACED},memfd_create=EPERM"), Kind::Program).succeeded();
    for kind in [Kind::Program, Kind::Function(Way::Spawn)] {
        let t = Case::new();
        let [sandbox, rules] = sandbox(REPLACED);
        let run = t
            .host()
            .under(&[&sandbox, &rules])
            .set("local_world_size", 2)
            .set("shutdown_timeout", 1)
            .worker(kind, &["ignore", "TERM", "pause"])
            .steps(&["start", "stop=TERM", "wait=30"])
            .limit(SOON)
            .run();
        run.failed_as(END_INTERRUPTED);
    }
}

fn sandbox_without_pidfds_the_error_names_the_call() {
    for errno in ["EPERM", "ENOSYS"] {
        for kind in [Kind::Program, Kind::Function(Way::SpawnOfLibrary), Kind::Function(Way::Forkserver)] {
            let t = Case::new();
            let run = eventful(&t, &format!("clone_pidfd=EINVAL,pidfd_open={errno}"), kind);
            let message = refusal(&run).unwrap_or_else(|| panic!("{kind:?}: {run}"));
            assert!(message.contains("pidfd_open") && message.contains(errno), "{message}");
            run.clean();
        }
    }
}

fn sandbox_without_threads_the_error_names_the_call() {
    let t = Case::new();
    let [sandbox, rules] = sandbox("clone3=EPERM");
    let mut command = t.command(sandbox);
    let output =
        command.arg(rules).arg(icerun()).args(["--no-python", "/bin/true"]).output().expect("its end");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("clone3") && text.contains("EPERM"), "{text}");
    assert_eq!(output.status.code(), Some(125));
    t.nothing_left();
}

fn sandbox_a_program_that_cannot_start_is_an_error_there_too() {
    let t = Case::new();
    let [sandbox, rules] = sandbox(REPLACED);
    for (field, value, errno) in
        [("program", "/nowhere", libc::ENOENT), ("working_dir", "/nowhere", libc::ENOENT)]
    {
        let host = t.host().under(&[&sandbox, &rules]).set("local_world_size", 3);
        let host = if field == "program" { host } else { host.set("program", "/bin/true") };
        let run = host.set(field, value).limit(SOON).run();
        run.failed_as(END_START_ERROR);
        assert_eq!(run.result()["errno"], errno);
    }
}

fn sandbox_no_descriptor_is_handed_on(way: Way) {
    let t = Case::new();
    let kinds = [Kind::Function(way), Kind::Program];
    for (number, kind) in kinds.into_iter().enumerate().take(if way == Way::Fork { 2 } else { 1 }) {
        // Descriptors of the host that are not close-on-exec are none of the workers'.
        let file = |name: &str| t.path(&format!("{name}.{number}"));
        for (rules, name) in [("close_range=EPERM", "filtered"), ("clone3=ENOSYS", "free")] {
            let [sandbox, rules] = sandbox(rules);
            let sh = format!("exec 7</dev/null 43</dev/null; exec {sandbox} {rules} \"$@\"");
            let run = t
                .host()
                .under(&["bash", "-c", &sh, "bash"])
                .worker(kind, &["dump", &file(name), "code", "0"])
                .limit(SOON)
                .run();
            run.succeeded();
        }
        let fds = |name: &str| t.json(&format!("{name}.{number}"))["fds"].clone();
        assert_eq!(
            fds("filtered").as_object().map(|fds| fds.len()),
            fds("free").as_object().map(|fds| fds.len())
        );
        assert!(fds("filtered").get("43").is_none(), "{}", fds("filtered"));
    }
}

const STUBBORN: [&str; 9] = ["ignore", "TERM", "child", "append", "PIDS", "%p", "pause", ";", "pause"];

fn probes_live(t: &Case) -> usize {
    let name = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    t.processes().iter().filter(|pid| name(pid) == "probe\n").count()
}

fn sandbox_descendants_go_with_a_killed_host_there_too() {
    for rules in [
        "close_range=EPERM",
        "memfd_create=EPERM",
        "execveat=EPERM",
        "memfd_create=ENOSYS,execveat=ENOSYS",
        "clone_pidfd=EINVAL",
        REPLACED,
    ] {
        let t = Case::new();
        let pids = t.path("pids");
        let verbs = STUBBORN.map(|word| if word == "PIDS" { pids.as_str() } else { word });
        let [sandbox, rules] = sandbox(rules);
        let host = t.host().under(&[&sandbox, &rules]).set("local_world_size", 2).probe(&verbs);
        let running = host.set("log_callback", t.path("log")).spawn();
        t.wait_lines("pids", 2);
        running.kill();
        wait_for(&format!("the end of all descendants with {rules}"), || probes_live(&t) == 0);
        no_process_left(&t);
        assert!(!t.lines("log").iter().any(|line| line.contains("watcher")), "{rules}: {:?}", t.lines("log"));
    }
}

fn sandbox_the_watcher_runs_though_memory_is_not_executable() {
    // The setting is that of a pid namespace; 2 refuses what is to be executable, too.
    for setting in ["1", "2"] {
        let t = Case::new();
        let pids = t.path("pids");
        let verbs = STUBBORN.map(|word| if word == "PIDS" { pids.as_str() } else { word });
        let script = format!(
            "echo {setting} > /proc/sys/vm/memfd_noexec || exit 77; \"$@\"; echo $? > {}; \
             while ! [ -e {} ]; do sleep 0.05; done",
            t.path("status"),
            t.path("go")
        );
        let running = t
            .host()
            .under(&["unshare", "--pid", "--fork", "--mount-proc", "sh", "-c", &script, "sh"])
            .set("local_world_size", 2)
            .probe(&verbs)
            .set("log_callback", t.path("log"))
            .steps(&["start", &format!("await_lines={}:2", t.path("pids")), "_exit=3"])
            .spawn();
        wait_for("the end of the host", || t.lines("status") == ["3"]);
        wait_for("the end of all descendants", || probes_live(&t) == 0);
        t.touch("go");
        running.finish();
        no_process_left(&t);
        assert!(!t.lines("log").iter().any(|line| line.contains("watcher")), "{:?}", t.lines("log"));
    }
}

// --- an emulator: it refuses clone's flags, makes a fork of a vfork, and lacks one call or another ---

fn sandbox_qemu_icerun_starts_restarts_and_stops() {
    let t = Case::new();
    let start = |args: &[&str], verbs: &[&str]| {
        let mut command = t.command("qemu-x86_64");
        command
            .arg(icerun())
            .args(["--no-python", "--nproc-per-node", "4"])
            .args(args)
            .arg(probe())
            .args(verbs);
        command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("qemu")
    };
    let finish = |child: std::process::Child| {
        let output = child.wait_with_output().expect("its end");
        no_process_left(&t);
        (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (status, text) = finish(start(&["--tee", "3"], &["append", &t.path("ran"), "%r"]));
    assert!(status.success(), "{text}");
    assert!(!text.contains("watcher"), "{text}");
    assert_eq!(t.lines("ran").len(), 4);
    let fails =
        ["attempt", "0", "rank", "2", "exit", "3", ";", "pause", ";", "append", &t.path("again"), "%r"];
    let (status, text) = finish(start(&["--max-restarts", "1"], &fails));
    assert!(status.success(), "{text}");
    assert_eq!(t.lines("again").len(), 4);
    let (status, text) = finish(start(&[], &["rank", "2", "exit", "3", ";", "pause"]));
    assert_eq!(status.code(), Some(3), "{text}");
    let child = start(&[], &["append", &t.path("stop"), "%p", "pause"]);
    t.wait_lines("stop", 4);
    assert!(send(child.id() as i32, libc::SIGTERM));
    let (status, text) = finish(child);
    assert_eq!(status.signal().or(status.code()), Some(libc::SIGTERM), "{text}");
    let mut child = start(&[], &["child", "append", &t.path("killed"), "%p", "pause", ";", "pause"]);
    t.wait_lines("killed", 4);
    child.kill().expect("it lives");
    wait_for("the end of all descendants", || probes_live(&t) == 0);
    child.wait().expect("its end");
    no_process_left(&t);
}

fn sandbox_qemu_host_of_programs() {
    let t = Case::new();
    let host = || t.host().under(&["qemu-x86_64"]).set("local_world_size", 4).limit(SOON);
    let result = |run: Run| {
        assert!(run.status.success(), "{run}");
        t.nothing_left();
        run.result()["end"].as_i64().expect("an end") as i32
    };
    assert_eq!(result(host().probe(&["exit", "0"]).run()), END_SUCCEEDED);
    assert_eq!(result(host().probe(&["rank", "1", "exit", "3", ";", "pause"]).run()), END_WORKER_FAILURE);
    assert_eq!(result(host().set("program", "/nowhere").run()), END_START_ERROR);
    let fails = ["attempt", "0", "rank", "2", "exit", "3", ";", "pause", ";"];
    assert_eq!(result(host().set("max_restarts", 1).probe(&fails).run()), END_SUCCEEDED);
    let stopped = host().probe(&["pause"]).steps(&["start", "stop=TERM", "wait=30"]).run();
    assert_eq!(result(stopped), END_INTERRUPTED);
}

fn sandbox_qemu_functions(way: Way) {
    let t = Case::new();
    let fails = ["attempt", "0", "rank", "1", "code", "3", ";", "pause", ";"];
    let host = t.host().under(&["qemu-x86_64"]).set("local_world_size", 4).set("max_restarts", 1);
    let run = host.function(way, &fails).limit(SOON).run();
    assert_eq!(run.result()["end"], END_SUCCEEDED, "{run}");
    t.nothing_left();
}
