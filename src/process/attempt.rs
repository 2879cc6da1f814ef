//! The workers of one attempt. Each is owned from its birth on: however the attempt ends, it is
//! signalled, reaped and closed here.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;

use crate::logs::run_dir::WorkerFiles;
use crate::process::callback::Channel;
use crate::process::launch::Born;
use crate::ranks::Rank;
use crate::report::{Cause, Outcome};
use crate::sys::child::Child;
use crate::sys::process::{self, Usage, Waited, monotonic, since_1970};

/// How a worker ended, and when.
#[derive(Clone, Copy)]
pub struct Ended {
    pub outcome: Outcome,
    pub usage: Usage,
    pub order: Option<usize>,
    pub end_ns: i64,
    pub end_unix_ns: i64,
}

pub struct Worker {
    pub rank: Rank,
    pub files: WorkerFiles,
    pub pid: i32,
    pub start_ns: i64,
    pub told_to_stop: bool,
    pub ended: Option<Ended>,
    pub channel: Option<Channel>,
    child: Option<Child>,
    /// The kernel no longer keeps its number, and that of its group, for us: no signal may go there.
    reaped: bool,
}

impl Worker {
    /// Whether its process ran to the end it was meant to: a program always, a callback if it returned.
    pub fn completed(&self) -> bool {
        self.channel.as_ref().is_none_or(Channel::returned)
    }

    pub fn outcome(&self) -> Outcome {
        match (&self.ended, self.pid) {
            (Some(ended), _) => ended.outcome,
            (None, 0) => Outcome::NeverStarted,
            (None, _) => Outcome::Running,
        }
    }

    pub fn cause(&self) -> Cause {
        Cause::of(self.outcome(), self.told_to_stop, self.completed())
    }

    /// It ended before it came to its work.
    pub fn never_started(&mut self) {
        if let Some(ended) = &mut self.ended {
            ended.outcome = Outcome::NeverStarted;
        }
    }

    /// Its process group; 0 where there is none, or where the number may be somebody else's by now.
    pub fn group(&self) -> i32 {
        if self.reaped { 0 } else { self.pid }
    }

    fn is_alive(&self) -> bool {
        self.pid != 0 && self.ended.is_none()
    }
}

pub struct Attempt {
    pub number: u32,
    pub workers: Vec<Worker>,
    ends: usize,
    over: bool,
}

impl Attempt {
    pub fn new(number: u32, ranks: &[Rank]) -> Attempt {
        let worker = |rank: &Rank| Worker {
            rank: *rank,
            files: WorkerFiles::default(),
            pid: 0,
            start_ns: 0,
            told_to_stop: false,
            ended: None,
            channel: None,
            child: None,
            reaped: false,
        };
        Attempt { number, workers: ranks.iter().map(worker).collect(), ends: 0, over: false }
    }

    pub fn born(&mut self, index: usize, born: Born) {
        let worker = &mut self.workers[index];
        worker.pid = born.child.pid;
        worker.start_ns = nanoseconds(monotonic());
        worker.channel = born.channel;
        worker.child = Some(born.child);
    }

    pub fn pidfd(&self, index: usize) -> Option<BorrowedFd<'_>> {
        self.workers[index].child.as_ref().map(|child| child.pidfd.as_fd())
    }

    /// Looks whether a worker has ended; true the first time that it has.
    pub fn look(&mut self, index: usize) -> bool {
        let worker = &mut self.workers[index];
        let (true, Some(child)) = (worker.is_alive(), &worker.child) else { return false };
        let (outcome, usage) = match process::wait(&child.pidfd, false) {
            Waited::Running => return false,
            Waited::Ended { status, usage, kept } => {
                worker.reaped = !kept;
                (status.into(), usage)
            }
            Waited::Lost => {
                worker.reaped = true;
                (Outcome::Lost, Usage::default())
            }
        };
        worker.ended = Some(Ended {
            outcome,
            usage,
            order: Some(self.ends),
            end_ns: nanoseconds(monotonic()),
            end_unix_ns: nanoseconds(since_1970()),
        });
        self.ends += 1;
        true
    }

    /// Sends a stop signal to the group of every worker, whether its leader lives or not, and SIGCONT, so
    /// that a stopped one can act on it. Reports the workers that may not be signalled.
    pub fn stop(&mut self, signal: i32) -> Vec<(i32, Errno)> {
        let refused = self.tell(signal);
        if signal != libc::SIGKILL {
            for worker in self.workers.iter().filter(|worker| worker.group() != 0) {
                let _ = process::signal_group(worker.pid, libc::SIGCONT);
            }
        }
        refused
    }

    fn tell(&mut self, signal: i32) -> Vec<(i32, Errno)> {
        let mut refused = Vec::new();
        // A process that is killed closes its sockets before it counts as dead, so that a peer which exits
        // with an error at once may be seen first.
        let failed_by_code = |worker: &Worker| {
            worker.cause() == Cause::OwnFailure && matches!(worker.outcome(), Outcome::Exited { .. })
        };
        let look_closer = self.workers.iter().any(failed_by_code) && process::proc_is_ours();
        for worker in self.workers.iter_mut().filter(|worker| worker.group() != 0) {
            // One that has ended by now, though nobody looked yet, did so by itself.
            let alive = worker.ended.is_none()
                && worker
                    .child
                    .as_ref()
                    .is_some_and(|child| process::wait(&child.pidfd, false) == Waited::Running);
            worker.told_to_stop |= alive && !(look_closer && process::is_dying(worker.pid));
            if let Err(errno) = process::signal_group(worker.pid, signal)
                && errno != Errno::ESRCH
            {
                refused.push((worker.pid, errno));
            }
        }
        refused
    }

    /// Hands a signal on to every worker that runs.
    pub fn pass(&self, signal: i32) {
        for worker in self.workers.iter().filter(|worker| worker.is_alive()) {
            let _ = process::signal_group(worker.pid, signal);
        }
    }

    /// The workers that SIGKILL did not end.
    pub fn give_up(&mut self) -> Vec<i32> {
        let mut stuck = Vec::new();
        for worker in self.workers.iter_mut().filter(|worker| worker.is_alive()) {
            stuck.push(worker.pid);
            worker.ended = Some(Ended {
                outcome: Outcome::Stuck,
                usage: Usage::default(),
                order: None,
                end_ns: 0,
                end_unix_ns: 0,
            });
        }
        stuck
    }

    /// Ends the attempt: kills what is left in the groups while their numbers are still kept for us, then
    /// reaps the leaders, then waits (`patience`) until nobody is left. Returns the groups where somebody is.
    pub fn end(&mut self, kill: bool, patience: Duration, interval: Duration) -> Vec<i32> {
        if kill {
            for worker in self.workers.iter().filter(|worker| worker.group() != 0) {
                let _ = process::signal_group(worker.pid, libc::SIGKILL);
            }
        }
        let mut groups = Vec::new();
        for worker in &mut self.workers {
            if let Some(child) = worker.child.take() {
                process::wait(&child.pidfd, true);
                if !worker.reaped && worker.outcome() != Outcome::Stuck {
                    groups.push(worker.pid);
                }
                worker.reaped = true;
            }
        }
        self.over = true;
        if kill { wait_until_empty(groups, patience, interval) } else { Vec::new() }
    }
}

/// Waits until the groups have no member. There is no event for the end of a process that is not ours.
fn wait_until_empty(mut groups: Vec<i32>, patience: Duration, interval: Duration) -> Vec<i32> {
    let end = monotonic() + patience;
    let mut pause = Duration::from_micros(200);
    loop {
        groups.retain(|&group| process::signal_group(group, 0) != Err(Errno::ESRCH));
        if !groups.is_empty() {
            // Zombies answer too, for ever where nobody reaps orphans (many a container's pid 1).
            process::keep_living_groups(&mut groups);
        }
        if groups.is_empty() || monotonic() >= end {
            return groups;
        }
        std::thread::sleep(pause.min(interval));
        pause *= 2;
    }
}

impl Drop for Attempt {
    /// Only a panic leaves an attempt without `end`.
    fn drop(&mut self) {
        if !self.over {
            self.stop(libc::SIGKILL);
            for worker in &self.workers {
                if let (true, Some(child)) = (worker.is_alive(), &worker.child) {
                    process::wait_for_end(&child.pidfd);
                }
            }
            self.end(true, Duration::ZERO, Duration::ZERO);
        }
    }
}

fn nanoseconds(time: Duration) -> i64 {
    time.as_nanos() as i64
}
