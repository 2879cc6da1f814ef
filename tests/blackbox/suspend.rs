//! Area SIG: ^Z at a terminal.

use std::time::Duration;

use libtest_mimic::Trial;

use crate::harness::*;
use crate::terminal::{Terminal, terminal};
use crate::tests;
use crate::tool::*;

const CTRL_Z: &str = "\x1a";

pub fn tests() -> Vec<Trial> {
    tests![
        needs(setsid, bash): sig_suspend_all_stand_still_and_go_on,
        needs(setsid, bash): sig_suspend_by_a_shell_with_job_control,
        needs(setsid, bash): sig_suspend_counts_for_no_timer,
        needs(setsid, bash): sig_suspend_leaves_the_bar_out,
        needs(setsid, bash): sig_suspend_and_a_stop,
        needs(setsid, bash): sig_suspend_and_a_kill,
        needs(setsid, bash): sig_suspend_not_at_a_debugger,
        needs(setsid): sig_suspend_not_where_nobody_could_go_on,
        sig_suspend_only_where_it_is_asked_for,
    ]
}

/// An interactive shell with icerun in its foreground; it says with which status that ended or was stopped.
fn in_shell(t: &Case, terminal: &mut Terminal, options: &[&str], verbs: &[&str]) -> Started {
    let tool = tool(t, options).words(&["--no-python", program("controlled").to_str().unwrap()]).words(verbs);
    let shell = ["setsid", "--ctty", "bash", "--norc", "--noprofile", "-i", "-s"];
    let env = [("LC_ALL", "C"), ("TERM", "dumb"), ("HISTFILE", "/dev/null"), ("PS1", "$ ")];
    let tool = env.into_iter().fold(tool, |tool, (key, value)| tool.env(key, value));
    let shell = tool.under(&shell).streams(terminal).spawn();
    terminal.await_text("$ ");
    types(terminal, "\"$@\"");
    shell
}

/// A command for the shell, whose status it says.
fn types(terminal: &mut Terminal, command: &str) {
    terminal.types(&format!("{command}; echo status $?\n"));
}

fn exit(terminal: &mut Terminal, shell: Started) {
    terminal.types("exit 0\n");
    shell.finish().exited(0);
}

/// The icerun and its workers of a case, by their names.
fn named(t: &Case, name: &str) -> Vec<i32> {
    let comm = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    t.processes().into_iter().filter(|pid| comm(pid).trim() == name).collect()
}

/// The workers, once so many have come, then their icerun.
fn workers_and_icerun(t: &Case, workers: usize) -> Vec<i32> {
    [pids_in(t, "pids", workers), named(t, "icerun")].concat()
}

fn are_stopped(pids: &[i32]) -> bool {
    pids.iter().all(|&pid| state(pid) == Some('T'))
}

fn stand_still(pids: &[i32]) {
    wait_for("all to stand still", || are_stopped(pids));
}

fn go_on(pids: &[i32]) {
    wait_for("all to go on", || !pids.iter().any(|pid| state(*pid) == Some('T')));
}

fn sig_suspend_all_stand_still_and_go_on() {
    let t = Case::new();
    let mut terminal = terminal();
    let go = t.path("go");
    // With what a worker has started.
    let verbs = ["child", "append", &t.path("pids"), "%p", "pause", ";", "append", &t.path("pids"), "%p"];
    let verbs = [&verbs[..], &["await", &go, "exit", "0"]].concat();
    let shell = in_shell(&t, &mut terminal, &["--nproc-per-node", "2"], &verbs);
    let all = workers_and_icerun(&t, 4);
    assert_eq!(all.len(), 5);
    for _ in 0..3 {
        terminal.types(CTRL_Z);
        stand_still(&all);
        terminal.await_text(&format!("status {}", 128 + libc::SIGTSTP));
        types(&mut terminal, "fg");
        go_on(&all);
    }
    t.touch("go");
    terminal.await_text("status 0");
    exit(&mut terminal, shell);
    t.nothing_left();
}

fn sig_suspend_by_a_shell_with_job_control() {
    // In the background, then by SIGCONT of anybody.
    let t = Case::new();
    let mut terminal = terminal();
    let verbs = ["append", &t.path("pids"), "%p", "await", &t.path("go"), "exit", "7"];
    let shell = in_shell(&t, &mut terminal, &[], &verbs);
    let all = workers_and_icerun(&t, 1);
    terminal.types(CTRL_Z);
    stand_still(&all);
    terminal.await_text("status 148");
    types(&mut terminal, "bg");
    go_on(&all);
    terminal.await_text("status 0");
    send(all[1], libc::SIGTSTP);
    stand_still(&all);
    send(all[1], libc::SIGCONT);
    go_on(&all);
    t.touch("go");
    types(&mut terminal, "wait %1");
    terminal.await_text("status 7");
    exit(&mut terminal, shell);
}

fn sig_suspend_counts_for_no_timer() {
    let t = Case::new();
    let mut terminal = terminal();
    let verbs = [
        "heartbeat",
        "expires",
        "a",
        "2",
        "append",
        &t.path("pids"),
        "%p",
        "await",
        &t.path("go"),
        "exit",
        "0",
    ];
    let shell = in_shell(&t, &mut terminal, &["--heartbeat-timeout", "2"], &verbs);
    let all = workers_and_icerun(&t, 1);
    terminal.types(CTRL_Z);
    stand_still(&all);
    std::thread::sleep(Duration::from_millis(3000)); // longer than a worker may take
    t.touch("go");
    types(&mut terminal, "fg");
    terminal.await_text("status 0");
    exit(&mut terminal, shell);
}

fn sig_suspend_leaves_the_bar_out() {
    let t = Case::new();
    let mut terminal = terminal();
    let verbs = ["progress", "3", "9", "append", &t.path("pids"), "%p", "await", &t.path("go"), "exit", "0"];
    let options = ["--progress-bar", "--log-dir", &t.path("logs")];
    let shell = in_shell(&t, &mut terminal, &options, &verbs);
    let all = workers_and_icerun(&t, 1);
    terminal.await_text("3/9");
    terminal.types(CTRL_Z);
    stand_still(&all);
    terminal.await_text("status 148");
    types(&mut terminal, "fg");
    // It is drawn again, not left below what the shell has said.
    terminal.await_text("3/9");
    t.touch("go");
    terminal.await_text("status 0");
    exit(&mut terminal, shell);
}

fn sig_suspend_and_a_stop() {
    let t = Case::new();
    let mut terminal = terminal();
    let verbs = ["exit_on", "TERM", "0", "0", "append", &t.path("pids"), "%p", "pause"];
    let shell = in_shell(&t, &mut terminal, &[], &verbs);
    let all = workers_and_icerun(&t, 1);
    terminal.types(CTRL_Z);
    stand_still(&all);
    send(all[1], libc::SIGTERM);
    assert!(are_stopped(&all), "it waits");
    send(all[1], libc::SIGCONT);
    types(&mut terminal, "wait %1");
    terminal.await_text(&format!("status {}", 128 + libc::SIGTERM));
    exit(&mut terminal, shell);
    t.nothing_left();
}

fn sig_suspend_and_a_kill() {
    let t = Case::new();
    let mut terminal = terminal();
    let verbs =
        ["child", "append", &t.path("pids"), "%p", "pause", ";", "append", &t.path("pids"), "%p", "pause"];
    let shell = in_shell(&t, &mut terminal, &["--log-dir", &t.path("logs")], &verbs);
    let all = workers_and_icerun(&t, 2);
    terminal.types(CTRL_Z);
    stand_still(&all);
    send(all[2], libc::SIGKILL);
    wait_for("the end of all", || all.iter().all(|&pid| gone(pid)));
    exit(&mut terminal, shell);
}

fn sig_suspend_not_at_a_debugger() {
    let t = Case::new();
    let mut terminal = terminal();
    let verbs = ["append", &t.path("pids"), "%p", "stdin", &t.path("read"), "exit", "0"];
    let shell = in_shell(&t, &mut terminal, &["--debug-rank", "0"], &verbs);
    let all = workers_and_icerun(&t, 1);
    terminal.types(CTRL_Z);
    std::thread::sleep(Duration::from_millis(100)); // nobody tells that nothing has happened
    assert!(all.iter().all(|&pid| alive(pid) && state(pid) != Some('T')));
    terminal.types("abc\n\x04");
    terminal.await_text("status 0");
    exit(&mut terminal, shell);
}

/// A process group without a shell over it, as in a container.
fn sig_suspend_not_where_nobody_could_go_on() {
    let t = Case::new();
    let mut terminal = terminal();
    let running = tool(&t, &["--log-level", "info"])
        .probe(&["append", &t.path("pids"), "%p", "await", &t.path("go"), "exit", "0"])
        .on(&terminal)
        .spawn();
    let worker = pids_in(&t, "pids", 1)[0];
    terminal.types(CTRL_Z);
    terminal.await_text("continued, with all workers");
    wait_for("all to go on", || state(worker) != Some('T'));
    t.touch("go");
    running.finish().exited(0);
}

fn sig_suspend_only_where_it_is_asked_for() {
    let t = Case::new();
    let running = t.host().probe(&["append", &t.path("ready"), "x", "await", &t.path("go")]).spawn();
    t.wait_lines("ready", 1);
    assert!(!has_signal(signal_mask(running.pid(), "SigCgt:"), libc::SIGTSTP));
    t.touch("go");
    running.finish().succeeded();
}
