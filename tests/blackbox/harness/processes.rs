//! Processes, as /proc shows them.

use std::fs;
use std::path::Path;

use super::*;

pub(super) fn processes_of(tag: &str) -> Vec<i32> {
    let wanted = format!("{TAG}={tag}").into_bytes();
    pids()
        .into_iter()
        .filter(|pid| {
            let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environ.split(|byte| *byte == 0).any(|item| item == wanted)
        })
        .collect()
}

/// A process in words: its number, its command line, and for each thread its state and where in the kernel it is.
pub(super) fn describe(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let mut text = words.join(" ");
    text.truncate(text.char_indices().nth(120).map_or(text.len(), |(at, _)| at));
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let threads: Vec<String> = threads.map(|thread| describe_thread(&thread.path())).collect();
    format!("{pid} ({}: {})", text.trim(), threads.join(", "))
}

/// The stack is for root alone to see.
fn describe_thread(path: &Path) -> String {
    let read = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
    let stat = read("stat");
    let state = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()).unwrap_or("gone");
    let stack = read("stack");
    let functions = stack.lines().filter_map(|line| line.split_whitespace().nth(1)?.split('+').next());
    format!("{} {state} in {}", read("comm").trim(), functions.take(4).collect::<Vec<_>>().join(" < "))
}

pub fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

pub(super) fn kill_all(pids: &[i32]) {
    for pid in pids {
        send(*pid, 9);
    }
}

/// kill(2); false if there is no such process.
pub fn send(pid: i32, signal: i32) -> bool {
    // SAFETY: a plain system call.
    unsafe { libc::kill(pid, signal) == 0 }
}

/// There is such a process and it is no zombie.
pub fn alive(pid: i32) -> bool {
    state(pid).is_some_and(|state| !"ZX".contains(state))
}

/// There is no such process, or only its zombie.
pub fn gone(pid: i32) -> bool {
    !alive(pid)
}

/// The letter of a process's state in /proc, none if it is gone.
pub fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat[stat.rfind(')')? + 2..].chars().next()
}
