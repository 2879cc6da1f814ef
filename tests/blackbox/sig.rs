//! Area SIG: signals to the agent.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;

use crate::harness::*;
use crate::tests;
use crate::tool::*;

const STOPPERS: [(i32, &str); 4] =
    [(libc::SIGTERM, "TERM"), (libc::SIGINT, "INT"), (libc::SIGHUP, "HUP"), (libc::SIGQUIT, "QUIT")];
const LIST: &str = "SIGTERM,SIGINT,SIGHUP,SIGQUIT";

/// Verbs of a worker that notes all signals of the list and exits with 0 after the first.
fn noting<'a>(seen: &'a str, ready: &'a str) -> Vec<&'a str> {
    let mut verbs = Vec::new();
    for (_, name) in STOPPERS {
        verbs.extend(["count", name, seen]);
    }
    verbs.extend(["append", ready, "x", "await_lines", seen, "1", "sleep", "0.05", "code", "0"]);
    verbs
}

fn sig_01_workers_get_the_agents_signal() {
    for (number, name) in STOPPERS {
        for kind in Kind::ALL {
            let t = Case::new();
            let running = t
                .host()
                .set("local_world_size", 2)
                .set("signals", LIST)
                .worker(kind, &noting(&t.path("seen.%r"), &t.path("ready")))
                .spawn();
            t.wait_lines("ready", 2);
            running.signal(number);
            let run = running.finish();
            run.failed_as(END_INTERRUPTED);
            assert_eq!(run.result()["signal"], number);
            for rank in 0..2 {
                let lines = t.lines(&format!("seen.{rank}"));
                assert_eq!(lines.len(), 1, "{lines:?}");
                assert!(lines[0].starts_with(&format!("{name} ")), "{lines:?}");
                assert_eq!(run.worker(rank)["exit_code"], 0);
            }
        }
    }
}

fn sig_01_nohup_is_respected() {
    for kind in Kind::ALL {
        let t = Case::new();
        let running = t
            .host()
            .under(&["nohup"])
            .set("signals", LIST)
            .worker(
                kind,
                &[
                    "dump",
                    &t.path("state"),
                    "append",
                    &t.path("ready"),
                    "x",
                    "await",
                    &t.path("go"),
                    "code",
                    "0",
                ],
            )
            .spawn();
        t.wait_lines("ready", 1);
        running.signal(libc::SIGHUP);
        // If SIGHUP did anything it would be told to the workers before SIGTERM's turn.
        thread::sleep(Duration::from_millis(50));
        t.write("go", b"", 0o644);
        let run = running.finish();
        run.succeeded();
        let ignored =
            t.json("state")["ignored"].as_str().map(|mask| u64::from_str_radix(mask, 16).expect("a mask"));
        assert!(has_signal(ignored.unwrap_or(0), libc::SIGHUP), "workers ignore it too");
    }
}

fn sig_01_nohup_icerun_outlives_its_terminal() {
    let t = Case::new();
    let ready = t.path("ready");
    let mut running = tool(&t, &["--nproc-per-node", "2", "--tee", "3", "--log-dir", &t.path("logs")])
        .probe(&[
            "append",
            &ready,
            "x",
            "await",
            &t.path("go"),
            "print",
            "x",
            "append",
            &t.path("done"),
            "x",
            "exit",
            "0",
        ])
        .under(&[program("terminal").to_str().expect("a path"), "nohup"])
        .stdin(Stdio::piped())
        .spawn();
    t.wait_lines("ready", 2);
    drop(running.take_stdin());
    // The terminal is gone, and with it icerun's stdout.
    std::thread::sleep(Duration::from_millis(100));
    t.write("go", b"", 0o644);
    running.finish().exited(0);
    assert_eq!(t.lines("done").len(), 2);
    t.nothing_left();
}

fn sig_02_icerun_ends_by_the_signal() {
    for (number, name) in STOPPERS {
        let t = Case::new();
        let running = tool(&t, &["--nproc-per-node", "2", "--shutdown-timeout", "5"])
            .probe(&noting(&t.path("seen.%r"), &t.path("ready")))
            .spawn();
        t.wait_lines("ready", 2);
        running.signal(number);
        let ended = running.finish();
        use std::os::unix::process::ExitStatusExt;
        let (signal, code) = (ended.status.signal(), ended.status.code());
        assert!(signal == Some(number) || code == Some(128 + number), "{ended:?}");
        for rank in 0..2 {
            let lines = t.lines(&format!("seen.{rank}"));
            assert!(lines.len() == 1 && lines[0].starts_with(&format!("{name} ")), "{lines:?}");
        }
        t.nothing_left();
    }
}

fn sig_02_ctrl_c_at_a_terminal() {
    let t = Case::new();
    let mut running = tool(&t, &["--nproc-per-node", "2", "--shutdown-timeout", "5"])
        .probe(&noting(&t.path("seen.%r"), &t.path("ready")))
        .under(&[program("terminal").to_str().expect("a path")])
        .stdin(Stdio::piped())
        .spawn();
    t.wait_lines("ready", 2);
    use std::io::Write;
    let mut typed = running.take_stdin();
    typed.write_all(b"\x03").expect("type ^C");
    let ended = running.finish();
    drop(typed);
    ended.exited(128 + libc::SIGINT);
    for rank in 0..2 {
        let lines = t.lines(&format!("seen.{rank}"));
        assert!(lines.len() == 1 && lines[0].starts_with("INT "), "each worker gets one SIGINT: {lines:?}");
    }
    t.nothing_left();
}

fn sig_02_the_terminal_goes_away() {
    let t = Case::new();
    let mut running = tool(&t, &["--nproc-per-node", "2", "--shutdown-timeout", "5"])
        .probe(&noting(&t.path("seen.%r"), &t.path("ready")))
        .under(&[program("terminal").to_str().expect("a path")])
        .stdin(Stdio::piped())
        .spawn();
    t.wait_lines("ready", 2);
    drop(running.take_stdin());
    running.finish().exited(128 + libc::SIGHUP);
    for rank in 0..2 {
        let lines = t.lines(&format!("seen.{rank}"));
        assert!(lines.len() == 1 && lines[0].starts_with("HUP "), "{lines:?}");
    }
    t.nothing_left();
}

fn sig_04_signal_between_two_spawns() {
    let mut dice = Dice::new();
    for _ in 0..25 {
        let t = Case::new();
        let running = t
            .host()
            .set("local_world_size", 60)
            .set("signals", LIST)
            .probe(&["append", &t.path("ready"), "x", "pause"])
            .spawn();
        t.wait_lines("ready", 1 + dice.below(20) as usize);
        running.signal(libc::SIGTERM);
        let run = running.finish();
        run.failed_as(END_INTERRUPTED);
        assert_eq!(run.result()["signal"], libc::SIGTERM);
    }
}

fn sig_04_signal_during_a_restarts_stop() {
    let t = Case::new();
    let running = t
        .host()
        .set("local_world_size", 2)
        .set("max_restarts", 5)
        .set("signals", LIST)
        .probe(&[
            "append",
            &t.path("attempts"),
            "%a",
            "rank",
            "1",
            "await",
            &t.path("ready"),
            "exit",
            "1",
            ";",
            "count",
            "TERM",
            &t.path("seen"),
            "touch",
            &t.path("ready"),
            "await",
            &t.path("go"),
            "exit",
            "0",
        ])
        .spawn();
    // Rank 0 has been told to stop because of rank 1; now the agent is told too.
    t.wait_lines("seen", 1);
    running.signal(libc::SIGTERM);
    thread::sleep(Duration::from_millis(50));
    t.write("go", b"", 0o644);
    let run = running.finish();
    run.failed_as(END_INTERRUPTED);
    assert_eq!(t.lines("attempts"), ["0", "0"], "no further attempt");
    assert_eq!(run.result()["restarts"], 0);
}

fn sig_04_signal_during_the_wait_before_a_restart() {
    let t = Case::new();
    let running = t
        .host()
        .set("max_restarts", 5)
        .set("restart_backoff", "100,100")
        .set("signals", LIST)
        .set("log_callback", t.path("log"))
        .probe(&["append", &t.path("pids"), "%p", "exit", "1"])
        .spawn();
    let pid = pids_in(&t, "pids", 1)[0];
    wait_for("the end of the worker", || gone(pid));
    wait_for("the report", || t.lines("log").iter().any(|line| line.contains("attempt 0 failed")));
    running.signal(libc::SIGTERM);
    let run = running.finish();
    run.failed_as(END_INTERRUPTED);
    run.within(Duration::from_secs(30));
}

/// One run that is told to stop at a moment that nobody chose.
fn stop_once(wait: Duration, with_tool: bool, with_child: bool) {
    let t = Case::new();
    let mut verbs = vec!["exec", "sleep", "100"];
    if with_child {
        verbs.splice(0..0, ["child", "ignore", "TERM", "pause", ";"]);
    }
    if with_tool {
        let options = ["--nproc-per-node", "2", "--shutdown-timeout", "0.2"];
        let running = tool(&t, &options).probe(&verbs).spawn();
        thread::sleep(wait);
        running.signal(libc::SIGTERM);
        let ended = running.finish();
        use std::os::unix::process::ExitStatusExt;
        // By the signal from the first moment to the last.
        assert_eq!(ended.status.signal(), Some(libc::SIGTERM), "{ended:?}");
    } else {
        let host = t.host().set("local_world_size", 2).set("shutdown_timeout", 0.2).set("signals", LIST);
        let running = host.probe(&verbs).spawn();
        thread::sleep(wait);
        running.signal(libc::SIGTERM);
        let run = running.finish();
        if run.exit_signal() == Some(libc::SIGTERM) {
            // The handlers were not there yet, or no more.
            let ends: Vec<_> = run.lines.iter().filter(|line| line["do"] == "run").collect();
            assert!(ends.iter().all(|line| line["result"]["end"] == END_INTERRUPTED), "{run}");
        } else {
            run.failed_as(END_INTERRUPTED);
        }
    }
    t.nothing_left();
}

fn sig_05_500_stops_at_random_moments_leave_nothing() {
    four_at_a_time(500, |i| {
        let mut dice = Dice::new();
        let most = if i % 50 == 0 { 2000 } else { 60 };
        let wait = Duration::from_micros(dice.below(most * 1000));
        stop_once(wait, i % 2 == 0, i % 20 == 1 || i % 20 == 4);
    });
}

fn sig_06_three_signals_never_skip_the_kill() {
    let t = Case::new();
    let running = t
        .host()
        .set("local_world_size", 2)
        .set("shutdown_timeout", 0.5)
        .set("signals", LIST)
        .probe(&["count", "TERM", &t.path("seen.%r"), "append", &t.path("ready"), "x", "pause"])
        .spawn();
    t.wait_lines("ready", 2);
    for _ in 0..3 {
        running.signal(libc::SIGTERM);
        thread::sleep(Duration::from_millis(30));
    }
    let run = running.finish();
    run.failed_as(END_INTERRUPTED);
    for rank in 0..2 {
        assert_eq!(run.worker(rank)["signal"], libc::SIGKILL, "{run}");
        assert_eq!(t.lines(&format!("seen.{rank}")).len(), 1);
    }
}

fn sig_06_icerun_is_gone_after_its_workers() {
    let t = Case::new();
    let running = tool(&t, &["--nproc-per-node", "2", "--shutdown-timeout", "0.5"])
        .probe(&["ignore", "TERM", "append", &t.path("ready"), "x", "pause"])
        .spawn();
    t.wait_lines("ready", 2);
    for _ in 0..3 {
        running.signal(libc::SIGTERM);
        thread::sleep(Duration::from_millis(30));
    }
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(running.finish().status.signal(), Some(libc::SIGTERM));
    assert_eq!(t.processes(), Vec::<i32>::new());
    t.nothing_left();
}

fn sig_06_a_second_interrupt_kills_at_once() {
    for (number, name) in [(libc::SIGINT, "INT"), (libc::SIGQUIT, "QUIT")] {
        let t = Case::new();
        let running = t
            .host()
            .set("shutdown_timeout", 100)
            .set("signals", LIST)
            .probe(&["count", name, &t.path("seen"), "append", &t.path("ready"), "x", "pause"])
            .limit(Duration::from_secs(50))
            .spawn();
        t.wait_lines("ready", 1);
        running.signal(number);
        t.wait_lines("seen", 1);
        running.signal(number);
        let run = running.finish();
        run.failed_as(END_INTERRUPTED);
        assert_eq!(run.worker(0)["signal"], libc::SIGKILL);
        assert_eq!(run.worker(0)["cause"], CAUSE_STOPPED_BY_AGENT);
    }
}

fn sig_08_only_the_named_signals_are_handled() {
    let t = Case::new();
    let running = t
        .host()
        .set("signals", "SIGTERM,USR1,SIGFOO")
        .set("log_callback", t.path("log"))
        .probe(&["exit_on", "USR1", "0", "0", "append", &t.path("ready"), "x", "pause"])
        .spawn();
    t.wait_lines("ready", 1);
    let caught = signal_mask(running.pid(), "SigCgt:");
    assert!(has_signal(caught, libc::SIGTERM) && has_signal(caught, libc::SIGUSR1));
    assert!(!has_signal(caught, libc::SIGHUP) && !has_signal(caught, libc::SIGINT));
    running.signal(libc::SIGUSR1);
    let run = running.finish();
    run.failed_as(END_INTERRUPTED);
    assert_eq!(run.result()["signal"], libc::SIGUSR1);
    let log = t.lines("log");
    assert_eq!(
        log.iter().filter(|line| line.starts_with("2 ") && line.contains("SIGFOO")).count(),
        1,
        "{log:?}"
    );
}

fn sig_08_what_no_handler_can_have_is_refused() {
    for name in ["SIGKILL", "SIGSTOP", "SIGTERM,KILL", "SIGCHLD", "SIGSEGV"] {
        let t = Case::new();
        let word = name.rsplit(',').next().expect("a name").trim_start_matches("SIG");
        t.host().set("signals", name).probe(&["exit", "0"]).steps(&["new"]).run().refused(&[word]);
        tool(&t, &["--signals-to-handle", name]).probe(&["exit", "0"]).run().refused(&[word]);
        t.nothing_left();
    }
}

fn sig_09_passed_signals_do_not_stop_the_run() {
    for kind in Kind::ALL {
        let t = Case::new();
        let file = t.path("seen.%r");
        let running = t
            .host()
            .set("local_world_size", 3)
            .set("signals", LIST)
            .set("pass_signals", "SIGUSR1,SIGUSR2,SIGWINCH")
            .worker(
                kind,
                &[
                    "count",
                    "USR1",
                    &file,
                    "count",
                    "USR2",
                    &file,
                    "count",
                    "WINCH",
                    &file,
                    "append",
                    &t.path("ready"),
                    "x",
                    "await",
                    &t.path("go"),
                    "code",
                    "0",
                ],
            )
            .spawn();
        t.wait_lines("ready", 3);
        for (i, signal) in [libc::SIGUSR1, libc::SIGUSR2, libc::SIGWINCH].into_iter().enumerate() {
            running.signal(signal);
            for rank in 0..3 {
                t.wait_lines(&format!("seen.{rank}"), i + 1);
            }
        }
        t.write("go", b"", 0o644);
        running.finish().succeeded();
        for rank in 0..3 {
            let lines = t.lines(&format!("seen.{rank}"));
            let names: Vec<_> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
            assert_eq!(names, ["USR1", "USR2", "WINCH"], "rank {rank}");
        }
    }
}

fn sig_10_no_handler_unless_asked() {
    let t = Case::new();
    let running = t
        .host()
        .probe(&["append", &t.path("ready"), "x", "pause"])
        .steps(&["new", &format!("stop_thread=TERM:{}", t.path("go")), "run_in_thread=0"])
        .spawn();
    t.wait_lines("ready", 1);
    let during = signal_mask(running.pid(), "SigCgt:");
    let ignored = signal_mask(running.pid(), "SigIgn:");
    t.write("go", b"", 0o644);
    let run = running.finish();
    run.failed_as(END_INTERRUPTED);
    let before = run.event("before")["signals"].as_str().expect("masks").to_string();
    for (name, mask) in [("SigCgt:", during), ("SigIgn:", ignored)] {
        assert!(
            before.contains(&format!("{name}\t{mask:016x}")),
            "{name} {mask:016x} while it ran: {before}"
        );
    }
}

fn sig_12_stop_from_the_hosts_own_handler() {
    for (number, name) in STOPPERS {
        let t = Case::new();
        let running = t
            .host()
            .set("local_world_size", 2)
            .probe(&noting(&t.path("seen.%r"), &t.path("ready")))
            .steps(&["new", &format!("stop_on={name}"), "run"])
            .spawn();
        t.wait_lines("ready", 2);
        running.signal(number);
        let run = running.finish();
        assert_eq!(run.result()["end"], END_INTERRUPTED, "{run}");
        assert_eq!(run.result()["signal"], number);
        for rank in 0..2 {
            let lines = t.lines(&format!("seen.{rank}"));
            assert!(lines.len() == 1 && lines[0].starts_with(&format!("{name} ")), "{lines:?}");
        }
        t.nothing_left();
    }
}

fn sig_13_all_workers_used_their_time_well() {
    for code in [0, 5] {
        let t = Case::new();
        let running = t
            .host()
            .set("local_world_size", 2)
            .set("signals", LIST)
            .probe(&[
                "rank",
                "1",
                "exit_on",
                "TERM",
                &code.to_string(),
                "0.05",
                ";",
                "rank",
                "0",
                "exit_on",
                "TERM",
                "0",
                "0",
                ";",
                "append",
                &t.path("ready"),
                "x",
                "pause",
            ])
            .spawn();
        t.wait_lines("ready", 2);
        running.signal(libc::SIGTERM);
        let run = running.finish();
        run.failed_as(END_INTERRUPTED);
        assert_eq!(run.result()["all_exited_cleanly"], (code == 0) as i32);
        assert!(
            run.result()["root_cause"].is_null(),
            "what ends after a stop is no failure of its own: {run}"
        );
        assert_eq!(run.worker(1)["exit_code"], code);
    }
}

fn sig_14_suspend_and_continue_where_asked() {
    let t = Case::new();
    let running = t
        .host()
        .set("pass_signals", "SIGTSTP,SIGCONT")
        .probe(&["append", &t.path("pids"), "%p", "await", &t.path("go"), "exit", "0"])
        .spawn();
    let pid = pids_in(&t, "pids", 1)[0];
    running.signal(libc::SIGTSTP);
    wait_for("the worker to stop", || state(pid) == Some('T'));
    running.signal(libc::SIGCONT);
    wait_for("the worker to go on", || state(pid) != Some('T'));
    t.write("go", b"", 0o644);
    running.finish().succeeded();
}

fn sig_16_the_hosts_own_children_stay_its_own() {
    for kind in Kind::ALL {
        let t = Case::new();
        // The child ends after 0.2 s, while the workers run.
        let run = t
            .host()
            .set("signals", LIST)
            .set("local_world_size", 2)
            .worker(kind, &["sleep", "0.4", "code", "0"])
            .steps(&["handler=CHLD", "child=7", "run", "reap_child"])
            .run();
        assert_eq!(run.event("reap_child")["same"], 1);
        assert_eq!(run.event("reap_child")["code"], 7);
        assert_eq!(run.result()["end"], END_SUCCEEDED, "{run}");
    }
}

fn sig_01_handlers_are_put_back() {
    let t = Case::new();
    // SIGUSR1 has a handler of the host, SIGHUP is ignored, SIGTERM is as it was: the masks of `before` and
    // `after` are compared by `clean`.
    let run = t
        .host()
        .steps(&["handler=USR1", "ignore=HUP"])
        .set("signals", "SIGTERM,SIGHUP,SIGUSR1")
        .set("pass_signals", "SIGUSR2")
        .probe(&["exec", "sh", "-c", &format!("cat /proc/$PPID/status > {}", t.path("status"))])
        .run();
    run.succeeded();
    let status = t.read("status");
    let mask = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).expect("a mask");
        u64::from_str_radix(line.split_whitespace().nth(1).expect("a mask"), 16).expect("a mask")
    };
    for signal in [libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2] {
        assert!(has_signal(mask("SigCgt:"), signal), "signal {signal} is handled during the run");
    }
    assert!(has_signal(mask("SigIgn:"), libc::SIGHUP) && !has_signal(mask("SigCgt:"), libc::SIGHUP));
    let _ = fs::remove_file(t.path("status"));
}

pub fn tests() -> Vec<Trial> {
    tests![
        sig_01_workers_get_the_agents_signal,
        sig_01_nohup_is_respected,
        sig_01_nohup_icerun_outlives_its_terminal,
        sig_01_handlers_are_put_back,
        sig_02_icerun_ends_by_the_signal,
        sig_02_ctrl_c_at_a_terminal,
        sig_02_the_terminal_goes_away,
        sig_04_signal_between_two_spawns,
        sig_04_signal_during_a_restarts_stop,
        sig_04_signal_during_the_wait_before_a_restart,
        sig_05_500_stops_at_random_moments_leave_nothing,
        sig_06_three_signals_never_skip_the_kill,
        sig_06_icerun_is_gone_after_its_workers,
        sig_06_a_second_interrupt_kills_at_once,
        sig_08_only_the_named_signals_are_handled,
        sig_08_what_no_handler_can_have_is_refused,
        sig_09_passed_signals_do_not_stop_the_run,
        sig_10_no_handler_unless_asked,
        sig_12_stop_from_the_hosts_own_handler,
        sig_13_all_workers_used_their_time_well,
        sig_14_suspend_and_continue_where_asked,
        sig_16_the_hosts_own_children_stay_its_own,
    ]
}
