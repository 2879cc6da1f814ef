//! Where a stuck worker is: what /proc says of its threads, what a handler within it says, what a command of the
//! host's says.
//!
//! A thread of its own looks for it: even a look at /proc may wait for a lock that the stuck worker holds.

use std::fs;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, poll};
use parking_lot::Mutex;

use super::command::Command;
use crate::error::Error;
use crate::logs::run_dir::set_file_mode;
use crate::moment::Moment;
use crate::spec::Modes;
use crate::sys::crash::{STACK_SIGNAL, STACK_SUFFIX};
use crate::sys::fd::{self, Bell};
use crate::sys::file::{self, Unusable};
use crate::sys::process::{self, monotonic, poll_timeout};

/// How many threads of a worker are looked at.
const THREADS: usize = 64;
/// What is read of one file: for each thread its handler writes 32 KiB at most.
const MOST: usize = THREADS * (32 << 10);
/// What a search has beyond its limit, to end by itself.
const SLACK: Duration = Duration::from_millis(500);
/// How long one that was called off is waited for.
const CALLED_OFF_WITHIN: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Whom to look at, and how.
pub struct Subject {
    pub pid: i32,
    /// The error file of a worker that may have a handler.
    pub error_file: Option<PathBuf>,
    /// The command, and how it is called.
    pub command: Option<(Command, String)>,
    pub limit: Duration,
    /// Where it is written to, with these permission bits.
    pub file: Option<(PathBuf, Modes)>,
}

/// A search under way. Called off when it is dropped.
pub struct Search {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    deadline: Moment,
}

struct Shared {
    found: Mutex<String>,
    is_over: AtomicBool,
    over: Bell,
    call_off: Bell,
}

impl Search {
    pub fn start(subject: Subject) -> Result<Search, Error> {
        let failed = |errno: nix::errno::Errno| Error::system("cannot make an eventfd", errno as i32);
        let shared = Arc::new(Shared {
            found: Mutex::default(),
            is_over: AtomicBool::new(false),
            over: Bell::new().map_err(failed)?,
            call_off: Bell::new().map_err(failed)?,
        });
        let deadline = monotonic().saturating_add(subject.limit).saturating_add(SLACK);
        let theirs = shared.clone();
        let thread = std::thread::Builder::new()
            .name("ice-stack".into())
            .stack_size(256 << 10)
            .spawn(move || {
                search(&subject, &theirs);
                theirs.is_over.store(true, Ordering::Release);
                theirs.over.ring();
            })
            .map_err(|error| Error::no_thread(&error))?;
        Ok(Search { shared, thread: Some(thread), deadline })
    }

    /// When nobody is to wait for it any longer.
    pub fn deadline(&self) -> Moment {
        if self.is_over() { Duration::ZERO } else { self.deadline }
    }

    /// Tells it to end, without waiting for that.
    pub fn call_off(&self) {
        self.shared.call_off.ring();
    }

    fn is_over(&self) -> bool {
        self.shared.is_over.load(Ordering::Acquire)
    }

    /// What was found up to now.
    pub fn found(&self) -> String {
        self.shared.found.lock().clone()
    }
}

impl AsFd for Search {
    /// Readable when it is over.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.shared.over.as_fd()
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        self.call_off();
        // One that the kernel holds is left alone.
        if monotonic() < self.deadline {
            wait(self.shared.over.as_fd(), CALLED_OFF_WITHIN);
        }
        if let (true, Some(thread)) = (self.is_over(), self.thread.take()) {
            let _ = thread.join();
        }
    }
}

/// Waits for a bell; whether it has rung.
fn wait(bell: BorrowedFd, limit: Duration) -> bool {
    let _ = poll(&mut [PollFd::new(bell, PollFlags::POLLIN)], poll_timeout(limit));
    fd::is_readable(bell)
}

fn search(subject: &Subject, shared: &Shared) {
    let start = monotonic();
    let deadline = start.saturating_add(subject.limit);
    let say = |text: &str| shared.found.lock().push_str(text);
    let mut threads = threads(subject.pid);
    let others = threads.split_off(threads.len().min(THREADS)).len();
    threads.iter().for_each(|&thread| say(&in_kernel(subject.pid, thread)));
    if others > 0 {
        say(&format!("({others} more)\n"));
    }
    if let Some(error_file) = &subject.error_file {
        // Half of the time is for the command.
        let until = if subject.command.is_some() { start + subject.limit / 2 } else { deadline };
        let stacks = own_stacks(subject.pid, &threads, error_file, until, shared.call_off.as_fd());
        if !stacks.is_empty() {
            say(&format!("\nby its own handler:\n{}\n", stacks.trim_end()));
        }
    }
    if let Some((command, name)) = &subject.command
        && !fd::is_readable(shared.call_off.as_fd())
    {
        let output = command.output(deadline, shared.call_off.as_fd());
        say(&format!("\nby {name}:\n{}", String::from_utf8_lossy(&output)));
    }
    if let Some((path, modes)) = &subject.file
        && !fd::is_readable(shared.call_off.as_fd())
    {
        // The lock is not held any more when `say` takes it.
        let text = shared.found.lock().clone();
        if let Err(unusable) = write(path, *modes, &text) {
            say(&format!("\n({} {unusable}: it is not written)\n", path.display()));
        }
    }
}

fn write(path: &Path, modes: Modes, text: &str) -> Result<(), Unusable> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_NOFOLLOW;
    let mut file = file::open(path, flags, modes.file)?;
    file.write_all(text.as_bytes())?;
    Ok(set_file_mode(&file, modes)?)
}

/// The threads of a process, the first one first.
fn threads(pid: i32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut threads: Vec<i32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    threads.sort_unstable_by_key(|&thread| (thread != pid, thread));
    threads
}

/// A file, of /proc or written by a worker, as far as it can be read.
fn text(path: impl AsRef<Path>) -> Option<String> {
    let bytes = file::read(path.as_ref(), libc::O_NOFOLLOW, MOST).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim_end().to_string())
}

/// What /proc says of a thread. Nothing in here needs the memory of the process.
fn in_kernel(pid: i32, thread: i32) -> String {
    let of = |name: &str| text(format!("/proc/{pid}/task/{thread}/{name}"));
    let Some(status) = of("status") else { return String::new() };
    let mut out = format!("thread {thread} ({})", field(&status, "Name:").unwrap_or_default());
    if let Some(state) = field(&status, "State:") {
        out += &format!(": {state}");
    }
    if let Some(channel) = of("wchan").filter(|channel| !channel.is_empty() && channel != "0") {
        out += &format!(", waits in {channel}");
    }
    out.push('\n');
    if let Some(call) = of("syscall").filter(|call| !call.is_empty()) {
        out += &format!("  system call: {call}\n");
    }
    for line in of("stack").unwrap_or_default().lines() {
        out += &format!("  {line}\n");
    }
    out
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Whether a signal to this thread is handled, and soon.
fn answers(status: &str) -> bool {
    let has = |name| {
        let bits = field(status, name).and_then(|bits| u64::from_str_radix(bits, 16).ok());
        bits.is_some_and(|bits| bits & 1 << (STACK_SIGNAL - 1) != 0)
    };
    let runs = field(status, "State:").is_some_and(|state| state.starts_with(['R', 'S']));
    runs && has("SigCgt:") && !has("SigBlk:")
}

/// Asks the threads that have a handler, and waits for what they write: a paragraph each.
fn own_stacks(pid: i32, threads: &[i32], error_file: &Path, until: Moment, call_off: BorrowedFd) -> String {
    let mut name = error_file.as_os_str().to_owned();
    name.push(STACK_SUFFIX);
    let path = PathBuf::from(name);
    let ask = |&&thread: &&i32| {
        let status = text(format!("/proc/{pid}/task/{thread}/status")).unwrap_or_default();
        let called_off = fd::is_readable(call_off);
        !called_off && answers(&status) && process::signal_thread(pid, thread, STACK_SIGNAL).is_ok()
    };
    let asked = threads.iter().filter(ask).count();
    if asked == 0 {
        return String::new();
    }
    let stacks = loop {
        let stacks = text(&path).unwrap_or_default();
        // The empty line behind the last one was trimmed.
        let is_whole = !stacks.is_empty() && stacks.matches("\n\n").count() + 1 >= asked;
        if is_whole || monotonic() >= until || wait(call_off, LOOK_AGAIN) {
            break stacks;
        }
    };
    let _ = fs::remove_file(&path);
    stacks
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\ta b\nState:\tS (sleeping)\nSigBlk:\t0000000000000000\nSigIgn:\t0\n\
                          SigCgt:\t20000000000004c8\n";

    #[test]
    fn time_20_who_has_no_handler_is_not_asked() {
        assert_eq!(field(STATUS, "Name:"), Some("a b"));
        assert!(answers(STATUS));
        assert!(!answers(&STATUS.replace("SigCgt:\t2", "SigCgt:\t0")));
        assert!(!answers(&STATUS.replace("SigBlk:\t0", "SigBlk:\t2")));
        assert!(!answers(&STATUS.replace("S (sleeping)", "D (disk sleep)")));
        assert!(!answers(""));
    }

    #[test]
    fn time_20_the_threads_of_a_process_are_found() {
        let own = std::process::id() as i32;
        let threads = threads(own);
        assert_eq!(threads[0], own);
        let text = in_kernel(own, own);
        assert!(text.starts_with(&format!("thread {own} (")) && text.contains("): "), "{text}");
        assert_eq!(in_kernel(own, -1), "");
    }
}
