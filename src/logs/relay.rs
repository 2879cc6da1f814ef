//! Output that goes through the agent: workers write to pipes, and what the disk does not take of it is lost to the
//! file, and nothing else. A worker that writes its file itself is told that the disk is full, and fails.
//!
//! One thread reads the pipes, another one writes the files, so that a disk which stands still holds the first up for
//! some seconds only: what is in between has a limit, and so has what waits for the console. Whoever is slow slows the
//! workers down; whoever takes nothing at all for `PATIENCE` loses what comes until he takes some again.
//!
//! The console follows the file, as ever. What the file did not take is given to it in its place, see `Spills`.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use parking_lot::{Condvar, Mutex};

use super::loss::Loss;
use super::run_dir::RunDir;
use crate::error::Error;
use crate::spec::streams::Streams;
use crate::sys::dispositions;
use crate::sys::fd::{Bell, above_stdio};

/// What is read of a pipe at a time, so that streams take turns.
const CHUNK: usize = 64 << 10;
/// What a pipe is to hold, so that a worker that writes much at once need not wait. All pipes of a user have a limit.
const PIPE: i32 = 256 << 10;
/// What may be on its way to the disk, and to the console past the disk.
const LIMIT: usize = 8 << 20;
/// How long something that takes nothing is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// What is read of a pipe, at most, when its worker is gone: somebody who outlived it may write for ever.
const REST: usize = 4 << 20;

/// Room for bytes that are on their way, each until its `Held` is dropped.
pub struct Budget {
    limit: usize,
    patience: Duration,
    state: Mutex<Used>,
    freed: Condvar,
}

#[derive(Default)]
struct Used {
    bytes: usize,
    /// Nothing has left for too long: nobody waits until something does.
    is_stuck: bool,
}

impl Budget {
    fn new(limit: usize, patience: Duration) -> Arc<Budget> {
        Arc::new(Budget { limit, patience, state: Mutex::default(), freed: Condvar::new() })
    }

    /// Waits for room, as long as some is made from time to time. None if there is none.
    fn take(self: &Arc<Budget>, size: usize) -> Option<Held> {
        let mut used = self.state.lock();
        while used.bytes > 0 && used.bytes + size > self.limit {
            if used.is_stuck {
                return None;
            }
            used.is_stuck = self.freed.wait_for(&mut used, self.patience).timed_out();
        }
        used.bytes += size;
        Some(Held { budget: self.clone(), size })
    }
}

/// Some of a budget.
pub struct Held {
    budget: Arc<Budget>,
    size: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut used = self.budget.state.lock();
        used.bytes -= self.size;
        used.is_stuck = false;
        drop(used);
        self.budget.freed.notify_all();
    }
}

/// What a file did not take, for the one who follows it. Locked while he reads the file, so that he sees nothing of
/// what is written to it after a loss before what was lost.
#[derive(Default)]
pub struct Spills(pub Mutex<VecDeque<Spill>>);

pub struct Spill {
    /// How long the file was.
    pub at: u64,
    pub bytes: Vec<u8>,
    _held: Held,
}

/// One stream of a worker that is about to be born.
pub struct Tap {
    pub which: Streams,
    pub spills: Arc<Spills>,
    reader: OwnedFd,
    file: Result<File, Error>,
    path: PathBuf,
}

impl Tap {
    /// With the end for the worker. That the file cannot be made is no reason not to start it.
    pub fn new(which: Streams, path: &Path, run_dir: &RunDir) -> Result<(Tap, OwnedFd), Error> {
        let failed = |errno: Errno| Error::system("cannot make a pipe for a worker's output", errno as i32);
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
        let (reader, writer) = (above_stdio(reader).map_err(failed)?, above_stdio(writer).map_err(failed)?);
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(failed)?;
        let _ = fcntl(&reader, FcntlArg::F_SETPIPE_SZ(PIPE));
        let file = run_dir.open_log(path).map(File::from);
        Ok((Tap { which, spills: Arc::default(), reader, file, path: path.into() }, writer))
    }
}

/// What the relay has to say.
pub trait Hear: Send + Sync {
    fn warn(&self, text: String);
    /// These have got something.
    fn spilled(&self, spills: Arc<Spills>);
}

enum Order {
    Add {
        attempt: u32,
        tap: Tap,
    },
    /// The workers of the attempt are gone: what they wrote is to be in the files, then `done` is dropped.
    Close {
        attempt: u32,
        done: Sender<()>,
    },
    End {
        done: Sender<()>,
    },
}

/// The agent's end of the two threads.
pub struct Relay {
    shared: Arc<Shared>,
    threads: [JoinHandle<()>; 2],
}

struct Shared {
    orders: Mutex<VecDeque<Order>>,
    bell: Bell,
}

impl Relay {
    pub fn start(hear: Arc<dyn Hear>) -> Result<Relay, Errno> {
        let shared = Arc::new(Shared { orders: Mutex::default(), bell: Bell::new()? });
        let (jobs, to_do) = mpsc::channel();
        let reader = Reader {
            shared: shared.clone(),
            sources: Vec::new(),
            budget: Budget::new(LIMIT, PATIENCE),
            jobs,
            buffer: vec![0; CHUNK],
        };
        let writer = Writer {
            budget: Budget::new(LIMIT, PATIENCE),
            hear,
            files: Loss::default(),
            console: Loss::default(),
        };
        let writing = thread("ice-log-files", move || writer.run(&to_do))?;
        let reading = thread("ice-log-pipes", move || reader.run())?;
        Ok(Relay { shared, threads: [reading, writing] })
    }

    fn order(&self, order: Order) {
        self.shared.orders.lock().push_back(order);
        self.shared.bell.ring();
    }

    pub fn add(&self, attempt: u32, tap: Tap) {
        self.order(Order::Add { attempt, tap });
    }

    /// Returns when what the workers of the attempt wrote is where it can be; false if it is not by then.
    pub fn close(&self, attempt: u32, within: Duration) -> bool {
        let (done, is_done) = mpsc::channel();
        self.order(Order::Close { attempt, done });
        is_done.recv_timeout(within) == Err(mpsc::RecvTimeoutError::Disconnected)
    }

    /// The same for all of them, and says what was lost. A disk that does not answer keeps nobody.
    pub fn end(self, within: Duration) {
        let (done, is_done) = mpsc::channel();
        self.order(Order::End { done });
        if is_done.recv_timeout(within) == Err(mpsc::RecvTimeoutError::Disconnected) {
            self.threads.into_iter().for_each(|thread| drop(thread.join()));
        }
    }
}

fn thread(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Errno> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(move || {
        // SIGXFSZ, too: a file that may not grow is as good as a full disk.
        dispositions::block_all();
        run();
    });
    thread.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN)))
}

/// A stream as the writer knows it.
struct Target {
    file: Result<File, Error>,
    path: PathBuf,
    followed: Weak<Spills>,
}

enum Job {
    Write {
        target: Arc<Target>,
        bytes: Vec<u8>,
        _held: Held,
    },
    /// There was no room for it.
    Lost {
        target: Arc<Target>,
        bytes: Vec<u8>,
    },
    /// Says that all before is done, by being dropped.
    Done(Sender<()>),
}

/// A pipe.
struct Source {
    attempt: u32,
    reader: OwnedFd,
    target: Arc<Target>,
}

struct Reader {
    shared: Arc<Shared>,
    sources: Vec<Source>,
    budget: Arc<Budget>,
    jobs: Sender<Job>,
    buffer: Vec<u8>,
}

impl Reader {
    fn run(mut self) {
        loop {
            self.shared.bell.quiet();
            while let Some(order) = { self.shared.orders.lock().pop_front() } {
                match order {
                    Order::Add { attempt, tap } => self.add(attempt, tap),
                    Order::Close { attempt, done } => {
                        self.close(|source| source.attempt == attempt);
                        let _ = self.jobs.send(Job::Done(done));
                    }
                    Order::End { done } => {
                        self.close(|_| true);
                        let _ = self.jobs.send(Job::Done(done));
                        return;
                    }
                }
            }
            for index in self.ready().into_iter().rev() {
                if !self.pass_on(index).1 {
                    self.sources.swap_remove(index);
                }
            }
        }
    }

    fn add(&mut self, attempt: u32, tap: Tap) {
        let Tap { spills, reader, file, path, .. } = tap;
        let target = Arc::new(Target { file, path, followed: Arc::downgrade(&spills) });
        self.sources.push(Source { attempt, reader, target });
    }

    /// Waits for output, or an order; the pipes that have some.
    fn ready(&self) -> Vec<usize> {
        let bell = PollFd::new(self.shared.bell.as_fd(), PollFlags::POLLIN);
        let pipes = self.sources.iter().map(|source| PollFd::new(source.reader.as_fd(), PollFlags::POLLIN));
        let mut items: Vec<PollFd> = std::iter::once(bell).chain(pipes).collect();
        let _ = poll(&mut items, PollTimeout::NONE);
        let ready = items[1..].iter().enumerate().filter(|(_, item)| item.any().unwrap_or(true));
        ready.map(|(index, _)| index).collect()
    }

    /// Passes a piece of what is in a pipe on: how much, and whether there may be more some time.
    fn pass_on(&mut self, index: usize) -> (usize, bool) {
        let Source { reader, target, .. } = &self.sources[index];
        match nix::unistd::read(reader, &mut self.buffer) {
            Ok(0) => (0, false),
            Ok(count) => {
                let (target, bytes) = (target.clone(), self.buffer[..count].to_vec());
                let _ = self.jobs.send(match self.budget.take(count) {
                    Some(held) => Job::Write { target, bytes, _held: held },
                    None => Job::Lost { target, bytes },
                });
                (count, true)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => (0, true),
            Err(_) => (0, false),
        }
    }

    /// Takes what is left in these pipes, and closes them.
    fn close(&mut self, which: impl Fn(&Source) -> bool) {
        for index in (0..self.sources.len()).rev() {
            if !which(&self.sources[index]) {
                continue;
            }
            let mut left = REST;
            while let (count @ 1.., true) = self.pass_on(index) {
                left = left.saturating_sub(count);
                if left == 0 {
                    break;
                }
            }
            self.sources.swap_remove(index);
        }
    }
}

struct Writer {
    /// For what the console gets past the disk.
    budget: Arc<Budget>,
    hear: Arc<dyn Hear>,
    /// What is in no file, and what of it is not on the console.
    files: Loss,
    console: Loss,
}

impl Writer {
    fn run(mut self, to_do: &Receiver<Job>) {
        // Until the reader has gone.
        while let Ok(job) = to_do.recv() {
            match job {
                Job::Write { target, bytes, _held } => self.write(&target, bytes),
                Job::Lost { target, bytes } => {
                    self.lose(&target, &bytes, "it does not answer");
                    self.lose_on_console(&target, &bytes);
                }
                Job::Done(done) => {
                    self.say_totals();
                    drop(done);
                }
            }
        }
    }

    fn write(&mut self, target: &Target, bytes: Vec<u8>) {
        let (written, why) = match &target.file {
            Ok(file) => match write(file, &bytes) {
                Ok(()) => return,
                Err((written, error)) => (written, error.to_string()),
            },
            Err(error) => (0, error.to_string()),
        };
        let lost = &bytes[written..];
        self.lose(target, lost, &why);
        let Some(spills) = target.followed.upgrade() else { return };
        match self.budget.take(lost.len()) {
            None => self.lose_on_console(target, lost),
            Some(held) => {
                let length = target.file.as_ref().ok().and_then(|file| file.metadata().ok());
                let at = length.map_or(0, |data| data.len());
                spills.0.lock().push_back(Spill { at, bytes: lost.to_vec(), _held: held });
                self.hear.spilled(spills);
            }
        }
    }

    fn lose(&mut self, target: &Target, bytes: &[u8], why: &str) {
        if self.files.add(bytes) {
            self.hear.warn(format!(
                "{} takes no more output ({why}): workers go on, what they write is lost to their files",
                target.path.display()
            ));
        }
    }

    fn lose_on_console(&mut self, target: &Target, bytes: &[u8]) {
        if target.followed.strong_count() > 0 && self.console.add(bytes) {
            self.hear
                .warn("the console takes no output either: what workers write is lost there, too".into());
        }
    }

    /// At the end of an attempt, with what was lost in it.
    fn say_totals(&mut self) {
        if let Some(total) = std::mem::take(&mut self.files).total() {
            self.hear.warn(format!("{total} of output are in no log file, as the disk did not take them"));
        }
        if let Some(total) = std::mem::take(&mut self.console).total() {
            self.hear.warn(format!("{total} of output did not reach the console either"));
        }
    }
}

/// How much was written, and what was wrong with the rest.
pub fn write(mut file: &File, bytes: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut written = 0;
    while written < bytes.len() {
        match file.write(&bytes[written..]) {
            Ok(0) => return Err((written, io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((written, error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_budget_waits_for_who_goes_on_and_not_for_who_stands_still() {
        let budget = Budget::new(10, Duration::from_millis(50));
        // One alone always fits.
        drop(budget.take(100).unwrap());
        let held = budget.take(8).unwrap();
        assert!(budget.take(8).is_none());
        // Once it stands still nobody waits any more.
        let begin = Instant::now();
        (0..1000).for_each(|_| assert!(budget.take(8).is_none()));
        assert!(begin.elapsed() < Duration::from_secs(5));
        drop(held);
        let held = budget.take(8).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| drop(held));
            // Whoever has room in the meantime gets it.
            let deadline = Instant::now() + Duration::from_secs(20);
            while budget.take(8).is_none() {
                assert!(Instant::now() < deadline);
            }
        });
    }
}
