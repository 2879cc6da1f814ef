//! Area SIG: what single signals are to a run, a scheduler's warning above all.

use std::os::unix::process::ExitStatusExt;
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::control::{at_one_step, done};
use crate::harness::*;
use crate::nodes::*;
use crate::tests;
use crate::tool::*;

const CHECKPOINT: i32 = 2;
const CHECKPOINT_AND_STOP: i32 = 3;
const PASS: i32 = 1;
const STOP: i32 = 4;

pub fn tests() -> Vec<Trial> {
    tests![
        sig_warning_icerun_passes_on_what_would_end_it,
        sig_warning_a_checkpoint_and_go_on,
        sig_warning_a_checkpoint_and_stop,
        sig_warning_a_stop_and_what_is_passed_on,
        sig_warning_the_lists_and_single_signals,
        sig_warning_many_at_once_are_one,
        sig_warning_while_no_worker_runs,
        sig_warning_in_the_barrier,
        sig_warning_to_all_processes_of_the_job,
        sig_warning_wrong_values_are_refused,
        sig_warning_handlers_are_put_back,
    ]
}

fn controlled<'a>(t: &'a Case, options: &[&str], verbs: &[&str]) -> Tool<'a> {
    tool(t, options).words(&["--no-python", program("controlled").to_str().unwrap()]).words(verbs)
}

fn saves(t: &Case) -> usize {
    t.lines("work.0").len()
}

fn sig_warning_icerun_passes_on_what_would_end_it() {
    // Without an option, and whatever else is passed on.
    for options in [&[][..], &["--pass-signals", "SIGALRM"]] {
        let t = Case::new();
        let (seen, go) = (t.path("seen"), t.path("go"));
        let counts = ["count", "USR1", &seen, "count", "USR2", &seen, "append", &t.path("ready"), "x"];
        let verbs = [&counts[..], &["sleep", "0.3", "await", &go, "exit", "0"]].concat();
        let running = tool(&t, options).probe(&verbs).spawn();
        t.wait_lines("ready", 1);
        for signal in [libc::SIGWINCH, libc::SIGUSR1, libc::SIGUSR2] {
            running.signal(signal);
        }
        t.wait_lines("seen", 2);
        t.touch("go");
        running.finish().exited(0);
    }
    // One that has no handler says what has ended it.
    let t = Case::new();
    let running = tool(&t, &[]).probe(&["append", &t.path("ready"), "x", "pause"]).spawn();
    t.wait_lines("ready", 1);
    running.signal(libc::SIGUSR1);
    let ended = running.finish();
    ended.exited(128 + libc::SIGUSR1);
    assert!(ended.err().contains("SIGUSR1"), "{}", ended.err());
    // What stops the run does so.
    let t = Case::new();
    let running = tool(&t, &["--signals-to-handle", "SIGUSR1"]);
    let running =
        running.probe(&["exit_on", "USR1", "0", "0", "append", &t.path("ready"), "x", "pause"]).spawn();
    t.wait_lines("ready", 1);
    running.signal(libc::SIGUSR1);
    assert_eq!(running.finish().status.signal(), Some(libc::SIGUSR1));
}

fn sig_warning_a_checkpoint_and_go_on() {
    for kind in Kind::ALL {
        let t = Case::new();
        let running = t
            .host()
            .set("local_world_size", 2)
            .set("on_signal", format!("{},{CHECKPOINT}", libc::SIGUSR1))
            .controlled(kind, &["append", &t.path("ready"), "x", "work", &t.path("work.%r"), "0.001", "0"])
            .steps(&["start", &format!("await_lines={}:1", t.path("go")), "request_stop=20", "wait=60"])
            .spawn();
        t.wait_lines("ready", 2);
        for count in 1..=2 {
            running.signal(libc::SIGUSR1);
            t.wait_lines("work.0", count);
            t.wait_lines("work.1", count);
            // Until it has all answers it stands for another one, too.
            thread::sleep(Duration::from_millis(100));
        }
        t.write("go", b"x\n", 0o644);
        running.finish().failed_as(END_INTERRUPTED);
        let done = done(&t, 2);
        at_one_step(&done, &["save", "save", "stop"]);
        assert_eq!(done[0][0][1], "1", "the host wants it");
        let left: i32 = done[0][0][4].parse().unwrap();
        assert!((200_000..=300_000).contains(&left), "{left} ms");
    }
}

fn sig_warning_a_checkpoint_and_stop() {
    for (options, most) in [(&[][..], 300_000), (&["--checkpoint-before-stop", "60"], 60_000)] {
        let t = Case::new();
        let all = [&["--nproc-per-node", "2", "--on-signal", "USR1=checkpoint-and-stop"], options].concat();
        let (ready, work, seen) = (t.path("ready"), t.path("work.%r"), t.path("seen"));
        // The stop is another signal than the warning.
        let verbs = ["count", "USR1", &seen, "append", &ready, "x", "work", &work, "0.001", "0"];
        let running = controlled(&t, &all, &verbs).spawn();
        t.wait_lines("ready", 2);
        running.signal(libc::SIGUSR1);
        let ended = running.finish();
        assert_eq!(ended.status.signal(), Some(libc::SIGUSR1), "{}", ended.err());
        assert!(ended.err().contains("stopped by SIGUSR1"), "{}", ended.err());
        let done = done(&t, 2);
        at_one_step(&done, &["save"]);
        assert_eq!(done[0][0][1], "2", "preemption");
        let left: i32 = done[0][0][4].parse().unwrap();
        assert!((most / 2..=most).contains(&left), "{left} ms");
        assert_eq!(t.lines("seen").len(), 0);
        t.nothing_left();
    }
}

fn sig_warning_a_stop_and_what_is_passed_on() {
    for (action, signalled, end) in
        [(STOP, libc::SIGUSR2, END_INTERRUPTED), (PASS, libc::SIGUSR1, END_SUCCEEDED)]
    {
        let t = Case::new();
        let running = t
            .host()
            .set("on_signal", format!("{signalled},{action}"))
            .probe(&[
                "exit_on",
                "USR1",
                "0",
                "0",
                "exit_on",
                "USR2",
                "0",
                "0",
                "append",
                &t.path("ready"),
                "x",
                "pause",
            ])
            .spawn();
        t.wait_lines("ready", 1);
        running.signal(signalled);
        let run = running.finish();
        assert_eq!(run.result()["end"], end, "{run}");
        assert_eq!(run.worker(0)["exit_code"], 0, "it got the signal: {run}");
        run.clean();
    }
}

fn sig_warning_the_lists_and_single_signals() {
    // From the environment, in one list or in several, and each counts before the lists.
    let pet = ("PET_ON_SIGNAL", "SIGTERM=pass,USR2=stop");
    for (env, options) in [
        (pet, &[][..]),
        (("PET_ON_SIGNAL", "USR2=checkpoint"), &["--on-signal", "TERM=pass,usr2=stop"][..]),
        (
            ("PET_QUIET", "1"),
            &["--on-signal", "15=pass", "--on-signal", "USR2=pass", "--on_signal=USR2=stop"][..],
        ),
    ] {
        let t = Case::new();
        let verbs = ["count", "TERM", &t.path("seen"), "append", &t.path("ready"), "x", "pause"];
        let running = tool(&t, options).probe(&verbs).env(env.0, env.1).spawn();
        t.wait_lines("ready", 1);
        running.signal(libc::SIGTERM);
        t.wait_lines("seen", 1);
        running.signal(libc::SIGUSR2);
        assert_eq!(running.finish().status.signal(), Some(libc::SIGUSR2));
    }
}

fn sig_warning_many_at_once_are_one() {
    let t = Case::new();
    let (ready, work) = (t.path("ready"), t.path("work.%r"));
    let verbs = ["append", &ready, "x", "slow", "0.5", "work", &work, "0.001", "0"];
    let options = ["--on-signal", "USR1=checkpoint,USR2=checkpoint", "--log-level", "info"];
    let running = controlled(&t, &options, &verbs).spawn();
    t.wait_lines("ready", 1);
    running.signal(libc::SIGUSR1);
    t.wait_lines("work.0", 1);
    for _ in 0..10 {
        running.signal(libc::SIGUSR1);
        running.signal(libc::SIGUSR2);
    }
    running.says("a checkpoint is being saved already");
    running.says("the request to save");
    // When it is saved another one may be asked for; a stop does not wait for it.
    running.signal(libc::SIGUSR1);
    wait_for("another checkpoint", || saves(&t) == 2);
    running.signal(libc::SIGTERM);
    assert_eq!(running.finish().status.signal(), Some(libc::SIGTERM));
    assert_eq!(saves(&t), 2);
}

fn sig_warning_while_no_worker_runs() {
    // In the back-off: the next workers save. A stop ends the run at once.
    for (action, end) in [("checkpoint", 0), ("checkpoint-and-stop", libc::SIGUSR1)] {
        let t = Case::new();
        let on_signal = format!("USR1={action}");
        let options = [
            "--max-restarts",
            "1",
            "--restart-backoff",
            "2",
            "--log-level",
            "info",
            "--on-signal",
            &on_signal,
        ];
        let verbs =
            ["attempt", "0", "exit", "3", ";", "work", &t.path("work.0"), "0.001", "200", "exit", "0"];
        let running = controlled(&t, &options, &verbs).spawn();
        running.says("attempt 0 failed");
        running.signal(libc::SIGUSR1);
        let ended = running.finish();
        if end == 0 {
            ended.exited(0);
            assert_eq!(saves(&t), 1, "{}", ended.err());
        } else {
            assert_eq!(ended.status.signal(), Some(end), "{}", ended.err());
            assert!(!t.dir.join("work.0").exists());
        }
    }
    // Before they are born, and where nobody comes to run in the time for it.
    let t = Case::new();
    let job = Job::c10d(&t, "2").with(&["--on-signal", "USR1=checkpoint", "--checkpoint-before-stop", "0.2"]);
    let running = job.agent(&[]).until_go(&t).spawn();
    running.says("joining the rendezvous");
    running.signal(libc::SIGUSR1);
    running.says("there was nobody to save a checkpoint");
    running.signal(libc::SIGTERM);
    ended_by_term(running);
    // From the first moment on, whatever it finds.
    four_at_a_time(40, |i| {
        let t = Case::new();
        let (ready, go) = (t.path("ready"), t.path("go"));
        let verbs =
            ["append", &ready, "x", "work", &t.path("work.0"), "0.001", "20", "await", &go, "exit", "0"];
        let running = controlled(&t, &["--on-signal", "USR1=checkpoint"], &verbs).spawn();
        let caught = || has_signal(signal_mask(running.pid(), "SigCgt:"), libc::SIGUSR1);
        wait_for("the handler", caught);
        thread::sleep(Duration::from_micros(200 * i as u64));
        running.signal(libc::SIGUSR1);
        t.wait_lines("ready", 1);
        t.touch("go");
        running.finish().exited(0);
    });
}

fn sig_warning_in_the_barrier() {
    let t = Case::new();
    let job = Job::c10d(&t, "2").with(&["--on-signal", "USR1=checkpoint,USR2=checkpoint-and-stop"]);
    let first = job.first_agent(&[], |agent| agent.until_go(&t));
    let second = job.agent(&[]).shell(&t, "exit 0").spawn();
    second.says("waiting for the other hosts");
    second.signal(libc::SIGUSR1);
    second.says("SIGUSR1: the workers are to save");
    go(&t);
    all_exited([first, second], 0);
}

fn sig_warning_to_all_processes_of_the_job() {
    for action in ["checkpoint", "checkpoint-and-stop"] {
        let t = Case::new();
        let on_signal = format!("USR1={action}");
        let options = ["--nproc-per-node", "2", "--on-signal", &on_signal];
        let (ready, work) = (t.path("ready"), t.path("work.%r"));
        let verbs = ["append", &ready, "x", "work", &work, "0.001", "0"];
        let running = controlled(&t, &options, &verbs).spawn();
        t.wait_lines("ready", 2);
        let mut all = t.processes();
        all.sort_by_key(|pid| *pid == running.pid());
        for &pid in &all {
            send(pid, libc::SIGUSR1);
        }
        t.wait_lines("work.0", 1);
        t.wait_lines("work.1", 1);
        let signal = if action == "checkpoint" { libc::SIGTERM } else { libc::SIGUSR1 };
        if action == "checkpoint" {
            running.signal(signal);
        }
        assert_eq!(running.finish().status.signal(), Some(signal));
        at_one_step(&done(&t, 2), &["save"]);
    }
}

fn sig_warning_wrong_values_are_refused() {
    for (value, part) in [
        ("USR1", "must be =pass, =checkpoint"),
        ("USR1=save", "must be =pass, =checkpoint"),
        ("NOPE=pass", "must begin with a signal"),
        ("=pass", "must begin with a signal"),
        ("0=pass", "must begin with a signal"),
        ("65=pass", "must begin with a signal"),
        ("RTMIN+99=pass", "must begin with a signal"),
        ("KILL=pass", "SIGKILL"),
        ("USR1=pass,STOP=stop", "SIGSTOP"),
        ("SEGV=checkpoint", "SIGSEGV"),
    ] {
        let t = Case::new();
        tool(&t, &["--on-signal", value]).probe(&["exit", "0"]).run().refused(&["--on-signal", part]);
        let ended = tool(&t, &[]).probe(&["exit", "0"]).env("PET_ON_SIGNAL", value).run();
        ended.refused(&["PET_ON_SIGNAL", part]);
    }
    let t = Case::new();
    let fine = "SIGUSR1=pass,,usr2=checkpoint,RTMIN+1=stop,10=checkpoint-and-stop,INT=stop";
    tool(&t, &["--on-signal", fine]).probe(&["exit", "0"]).run().exited(0);
}

fn sig_warning_handlers_are_put_back() {
    let t = Case::new();
    let host = t.host().step("handler=USR1").set("suspend", 1).set("control", 1);
    let host = host.set("on_signal", format!("{},{CHECKPOINT_AND_STOP}", libc::SIGUSR1));
    let host = host.set("on_signal", format!("{},{CHECKPOINT}", libc::SIGUSR2));
    // What is taken back has no handler.
    let host = host.set("on_signal", format!("{},{PASS}", libc::SIGALRM));
    let host = host.set("on_signal", format!("{},0", libc::SIGALRM));
    let running = host.probe(&["append", &t.path("ready"), "x", "await", &t.path("go")]).spawn();
    t.wait_lines("ready", 1);
    let caught = signal_mask(running.pid(), "SigCgt:");
    for signal in [libc::SIGUSR1, libc::SIGUSR2, libc::SIGTSTP] {
        assert!(has_signal(caught, signal), "{signal}");
    }
    assert!(!has_signal(caught, libc::SIGALRM));
    t.touch("go");
    running.finish().succeeded();
}
