//! The workers of one attempt. Each is owned from its birth on: however the attempt ends, it is
//! signalled, reaped and closed here.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;

use crate::control::file_timer::Holder;
use crate::logs::run_dir::WorkerFiles;
use crate::process::channel::Channel;
use crate::process::descent::{self, Descendant, Finder, Process, Since};
use crate::process::start::forkserver::Forkserver;
use crate::process::watcher::Table;
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

/// Who keeps the dead worker a zombie, and with it its number and that of its group.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keeper {
    /// This process, whose child it is.
    Agent,
    /// The fork server, whose child it is; it tells how the worker ended.
    Server,
    /// Nobody: no signal may go to these numbers.
    Nobody,
}

pub struct Worker {
    pub rank: Rank,
    pub files: WorkerFiles,
    pub pid: i32,
    pub start_ns: i64,
    pub told_to_stop: bool,
    pub ended: Option<Ended>,
    pub channel: Option<Channel>,
    /// It went with its fork server.
    pub orphaned: bool,
    /// Why the agent had to end it, found stuck.
    pub verdict: Option<String>,
    /// Where it was then.
    pub stack: String,
    /// Why the value that it returned is none.
    pub value_fault: Option<String>,
    /// Why it could not be started, or not come to its work.
    pub start_failure: Option<String>,
    /// Why it may not be signalled.
    pub unsignallable: Option<Errno>,
    child: Option<Child>,
    keeper: Keeper,
}

impl Worker {
    /// Whether its process ran to the end it was meant to: a program always, a callback if it returned, with a
    /// value that is one.
    pub fn completed(&self) -> bool {
        self.value_fault.is_none() && self.channel.as_ref().is_none_or(Channel::returned)
    }

    /// Why a dead worker never came to its work: it said so, or never said that it would begin. One that
    /// a signal ended, ours or not, is another matter.
    pub fn start_error(&self) -> Option<String> {
        let channel = self.channel.as_ref().filter(|channel| !channel.entered())?;
        let Outcome::Exited { code } = self.outcome() else { return None };
        match channel.refusal() {
            None if self.told_to_stop => None,
            None => Some(format!(
                "PID {} exited with code {code} before it came to ice_worker_main(): \
                 the program's main has to call that first",
                self.pid
            )),
            refusal => refusal,
        }
    }

    pub fn outcome(&self) -> Outcome {
        match (&self.ended, self.pid) {
            (Some(ended), _) => ended.outcome,
            (None, 0) => Outcome::NeverStarted,
            (None, _) => Outcome::Running,
        }
    }

    pub fn cause(&self) -> Cause {
        Cause::of(self.outcome(), self.verdict.is_some(), self.told_to_stop, self.completed())
    }

    /// It could not be started, or ended before it came to its work.
    pub fn never_started(&mut self, why: String) {
        self.start_failure = Some(why);
        if let Some(ended) = &mut self.ended {
            ended.outcome = Outcome::NeverStarted;
        }
    }

    /// Its process group; 0 where there is none, or where the number may be somebody else's by now.
    pub fn group(&self) -> i32 {
        if self.keeper == Keeper::Nobody { 0 } else { self.pid }
    }

    pub fn is_alive(&self) -> bool {
        self.pid != 0 && self.ended.is_none()
    }

    /// Whether it still runs, whatever was seen of it.
    fn runs(&self) -> bool {
        self.child.as_ref().is_some_and(|child| match self.keeper {
            Keeper::Agent => process::wait(&child.pidfd, false) == Waited::Running,
            Keeper::Server | Keeper::Nobody => !process::has_ended(&child.pidfd),
        })
    }
}

pub struct Attempt {
    pub number: u32,
    pub workers: Vec<Worker>,
    ends: usize,
    over: bool,
    begun: Duration,
    ticks: u64,
    /// Descendants of workers beside their groups, found when the workers were stopped.
    strays: Vec<Descendant>,
    /// Descendants, in a group or beside, with an agent of their own, which is to stop its workers.
    guests: Vec<Process>,
}

/// Somebody who could not be ended.
pub struct Survivor {
    /// Its number and its command, for people.
    pub name: String,
    pub errno: Option<Errno>,
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
            orphaned: false,
            verdict: None,
            stack: String::new(),
            value_fault: None,
            start_failure: None,
            unsignallable: None,
            child: None,
            keeper: Keeper::Agent,
        };
        Attempt {
            number,
            workers: ranks.iter().map(worker).collect(),
            ends: 0,
            over: false,
            begun: monotonic(),
            ticks: process::ticks(),
            strays: Vec::new(),
            guests: Vec::new(),
        }
    }

    /// A worker was born: a child of this process, or of the fork server.
    pub fn born(&mut self, index: usize, child: Child, by_server: bool) {
        let worker = &mut self.workers[index];
        worker.pid = child.pid;
        worker.start_ns = nanoseconds(monotonic());
        worker.child = Some(child);
        worker.keeper = if by_server { Keeper::Server } else { Keeper::Agent };
    }

    pub fn pidfd(&self, index: usize) -> Option<BorrowedFd<'_>> {
        self.workers[index].child.as_ref().map(|child| child.pidfd.as_fd())
    }

    /// Looks whether a worker has ended; true the first time that it has.
    pub fn look(&mut self, index: usize) -> bool {
        let worker = &mut self.workers[index];
        let (true, Some(child)) = (worker.is_alive(), &worker.child) else { return false };
        if worker.keeper == Keeper::Server {
            return false; // the server tells
        }
        if worker.orphaned {
            // By its parent-death signal. Who could say so is gone, and whoever reaps it may take his time.
            let killed = process::has_ended(&child.pidfd);
            if killed {
                let outcome = Outcome::Signaled { signal: libc::SIGKILL, core: false };
                self.ended(index, outcome, Usage::default());
            }
            return killed;
        }
        let (outcome, usage) = match process::wait(&child.pidfd, false) {
            Waited::Running => return false,
            Waited::Ended { status, usage, kept } => {
                if !kept {
                    worker.keeper = Keeper::Nobody;
                }
                (status.into(), usage)
            }
            Waited::Lost => {
                worker.keeper = Keeper::Nobody;
                (Outcome::Lost, Usage::default())
            }
        };
        self.ended(index, outcome, usage);
        true
    }

    /// The fork server told how a worker ended; true the first time.
    pub fn told(&mut self, index: usize, outcome: Outcome, usage: Usage) -> bool {
        let first = self.workers.get(index).is_some_and(Worker::is_alive);
        if first {
            if outcome == Outcome::Lost {
                self.workers[index].keeper = Keeper::Nobody;
            }
            self.ended(index, outcome, usage);
        }
        first
    }

    fn ended(&mut self, index: usize, outcome: Outcome, usage: Usage) {
        let worker = &mut self.workers[index];
        worker.value_fault = worker.channel.as_ref().and_then(Channel::value_fault);
        worker.ended = Some(Ended {
            outcome,
            usage,
            order: Some(self.ends),
            end_ns: nanoseconds(monotonic()),
            end_unix_ns: nanoseconds(since_1970()),
        });
        self.ends += 1;
    }

    /// The fork server is gone, and its workers go with it by their parent-death signal: kills what they
    /// started, at once, while the numbers of their groups can hardly have been given to others. Returns
    /// the workers whose end is still to be seen.
    pub fn orphan(&mut self, groups: Option<&Table>) -> Vec<usize> {
        let mut alive = Vec::new();
        for (index, worker) in self.workers.iter_mut().enumerate() {
            // Born, and gone, without a word of the server's: it noted its group itself.
            if let (0, Some(groups)) = (worker.pid, groups) {
                match groups.slot(index).swap(0, Ordering::AcqRel) {
                    0 => {}
                    group => drop(process::signal_group(group, libc::SIGKILL)),
                }
            }
            if worker.keeper == Keeper::Server && worker.pid != 0 {
                let _ = process::signal_group(worker.pid, libc::SIGKILL);
                worker.keeper = Keeper::Nobody;
                if worker.is_alive() {
                    worker.orphaned = true;
                    alive.push(index);
                }
            }
        }
        alive
    }

    /// Sends a stop signal to the group of every worker, whether its leader lives or not, and SIGCONT, so
    /// that a stopped one can act on it; then to descendants beside the groups. Those of another agent hear it from
    /// that one. Reports who may not be signalled.
    pub fn stop(&mut self, signal: i32, finder: &Finder) -> Vec<(i32, Errno)> {
        let (since, known) = (self.since(), self.numbers());
        let may_find = finder.may_find(&since, &known);
        let mut refused = self.tell(signal, may_find);
        if may_find {
            for orphan in finder.adopted(&since, &known) {
                self.note_orphan(orphan);
            }
        }
        let mut signals = vec![signal];
        if signal != libc::SIGKILL {
            signals.push(libc::SIGCONT);
            self.signal_groups(libc::SIGCONT);
        }
        for stray in self.strays.iter().filter(|stray| signal == libc::SIGKILL || !stray.is_guarded) {
            let sent = signals.iter().map(|&signal| stray.process.signal(signal));
            if let Some(errno) = sent.filter_map(Result::err).find(|&errno| errno != Errno::ESRCH) {
                refused.push((stray.process.pid, errno));
            }
        }
        refused
    }

    fn since(&self) -> Since {
        let born = self.workers.iter().map(|worker| worker.pid).filter(|&pid| pid != 0);
        Since { begun: self.begun, ticks: self.ticks, first: born.min().unwrap_or(0) }
    }

    pub fn numbers(&self) -> HashSet<i32> {
        self.workers.iter().map(|worker| worker.pid).filter(|&pid| pid != 0).collect()
    }

    /// Looks who is below a worker, while it lives.
    fn note_descendants(&mut self, index: usize) {
        let worker = &self.workers[index];
        let (found, is_host) = descent::below(worker.pid);
        let group = worker.group();
        for found in found {
            self.note(found, group, is_host);
        }
    }

    fn note_orphan(&mut self, orphan: Process) {
        let (found, is_host) = descent::below(orphan.pid);
        self.note(Descendant { process: orphan, group: 0, is_host, is_guarded: false }, -1, false);
        for found in found {
            self.note(found, -1, is_host);
        }
    }

    fn note(&mut self, found: Descendant, group: i32, below_host: bool) {
        let is_guest = found.is_host && !found.is_guarded && !below_host;
        if is_guest && !self.guests.contains(&found.process) {
            self.guests.push(found.process);
        }
        if found.group != group && self.strays.iter().all(|stray| stray.process != found.process) {
            self.strays.push(Descendant { is_guarded: found.is_guarded || below_host, ..found });
        }
    }

    /// Whether an agent that a worker has started, and that was told to stop, is still about it.
    pub fn has_guests(&mut self) -> bool {
        descent::keep_living(&mut self.guests);
        !self.guests.is_empty()
    }

    fn tell(&mut self, signal: i32, look: bool) -> Vec<(i32, Errno)> {
        let mut refused = Vec::new();
        // A process that is killed closes its sockets before it counts as dead, so that a peer which exits
        // with an error at once may be seen first.
        let failed_by_code = |worker: &Worker| {
            worker.cause() == Cause::OwnFailure && matches!(worker.outcome(), Outcome::Exited { .. })
        };
        let look_closer = self.workers.iter().any(failed_by_code) && process::proc_is_ours();
        for index in 0..self.workers.len() {
            if look && self.workers[index].is_alive() {
                // Before the signal: a worker that has ended has no descendants any more.
                self.note_descendants(index);
            }
            let worker = &mut self.workers[index];
            if worker.group() == 0 {
                continue;
            }
            // One that has ended by now, though nobody looked yet, did so by itself.
            let alive = worker.ended.is_none() && worker.runs();
            worker.told_to_stop |= alive && !(look_closer && process::is_dying(worker.pid));
            let refusal = process::signal_group(worker.pid, signal).err();
            worker.unsignallable = refusal.filter(|errno| *errno != Errno::ESRCH);
            refused.extend(worker.unsignallable.map(|errno| (worker.pid, errno)));
        }
        refused
    }

    /// Those that end from now on do so because they were asked to.
    pub fn expect_ends(&mut self) {
        for worker in self.workers.iter_mut().filter(|worker| worker.is_alive()) {
            worker.told_to_stop = true;
        }
    }

    /// A stop explains the ends of workers that died of such a signal before this agent heard of it, and what came of
    /// them: `by_stop` tells which do.
    pub fn excuse_ends(&mut self, by_stop: impl Fn(&Worker) -> bool) {
        let order = |worker: &Worker| worker.ended.and_then(|ended| ended.order);
        let first = self.workers.iter().filter(|worker| by_stop(worker)).filter_map(order).min();
        for worker in &mut self.workers {
            worker.told_to_stop |=
                first.is_some_and(|first| order(worker).is_some_and(|order| order >= first));
        }
    }

    /// Stops all that the workers have running, or has it go on.
    pub fn suspend(&self, suspend: bool) {
        self.signal_groups(if suspend { libc::SIGSTOP } else { libc::SIGCONT });
    }

    fn signal_groups(&self, signal: i32) {
        for worker in self.workers.iter().filter(|worker| worker.group() != 0) {
            let _ = process::signal_group(worker.pid, signal);
        }
    }

    /// Hands a signal on to every worker that runs.
    pub fn pass(&self, signal: i32) {
        for worker in self.workers.iter().filter(|worker| worker.is_alive()) {
            let _ = process::signal_group(worker.pid, signal);
        }
    }

    /// Whose worker's process this is, its own or one that it has started: a member of its group, or a
    /// descendant that is none. None for a stranger, and for what has ended.
    pub fn holder(&self, pid: i32) -> Option<Holder> {
        const GENERATIONS: usize = 64;
        let worker = |pid: i32| self.workers.iter().position(|worker| worker.is_alive() && worker.pid == pid);
        if let Some(worker) = worker(pid) {
            return Some(Holder { worker, pid, started: 0 });
        }
        let first = process::kinship(pid).filter(|_| process::proc_is_ours())?;
        let started = first.started;
        let line = std::iter::successors(Some(first), |last| process::kinship(last.parent));
        let found = line.take(GENERATIONS).find_map(|one| worker(one.group).or_else(|| worker(one.parent)));
        found.map(|worker| Holder { worker, pid, started })
    }

    /// Sends a signal to one process of a worker's, if it is still the one that it was.
    pub fn signal(&self, holder: Holder, signal: i32) -> Result<(), Errno> {
        let opened = process::pidfd_open(holder.pid)?;
        // Asked while the descriptor is held: from here on it means the process that was asked about.
        if self.holder(holder.pid) == Some(holder) && !process::has_ended(&opened) {
            process::signal(opened.as_fd(), signal)
        } else {
            Err(Errno::ESRCH)
        }
    }

    /// Kills one worker's own process, for whom a signal of ours is nothing.
    pub fn kill_leader(&mut self, index: usize) {
        if let (true, Some(child)) = (self.workers[index].is_alive(), &self.workers[index].child) {
            process::kill(child.pid, &child.pidfd);
        }
    }

    /// The workers that SIGKILL did not end, or did not reach.
    pub fn give_up(&mut self) -> Vec<(i32, Option<Errno>)> {
        let mut stuck = Vec::new();
        for worker in self.workers.iter_mut().filter(|worker| worker.is_alive()) {
            if let (None, Some(child)) = (worker.unsignallable, &worker.child) {
                // Others of its group could be.
                worker.unsignallable = process::signal(child.pidfd.as_fd(), 0).err();
            }
            stuck.push((worker.pid, worker.unsignallable));
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

    /// Ends the attempt: kills what is left of the workers while the numbers of their groups are still kept for us,
    /// then has the leaders reaped, then waits (`patience`) until nobody is left. Returns who is.
    pub fn end(
        &mut self,
        kill: bool,
        server: Option<&mut Forkserver>,
        finder: &Finder,
        patience: Duration,
        interval: Duration,
    ) -> Vec<Survivor> {
        let mut strays = Vec::new();
        if kill {
            for worker in self.workers.iter().filter(|worker| worker.group() != 0) {
                let _ = process::signal_group(worker.pid, libc::SIGKILL);
            }
            let (since, known) = (self.since(), self.numbers());
            let mark = finder.mark.as_ref().map(descent::Mark::of_worker).unwrap_or_default();
            let noted: Vec<Process> = self.strays.iter().map(|stray| stray.process).collect();
            strays = if noted.is_empty() && !finder.may_find(&since, &known) {
                Vec::new()
            } else {
                finder.kill(&noted, &mark, &since, &known)
            };
        }
        let server_reaps = server.is_some_and(Forkserver::reap);
        let mut groups = Vec::new();
        for worker in &mut self.workers {
            if let Some(child) = worker.child.take() {
                let reaped = match worker.keeper {
                    Keeper::Agent => {
                        process::wait(&child.pidfd, true);
                        true
                    }
                    Keeper::Server => server_reaps,
                    Keeper::Nobody => {
                        // A host that is a subreaper has inherited it.
                        process::wait(&child.pidfd, true);
                        false
                    }
                };
                if reaped && worker.outcome() != Outcome::Stuck {
                    groups.push(worker.pid);
                }
                worker.keeper = Keeper::Nobody;
            }
        }
        self.over = true;
        if kill { await_ends(groups, strays, patience, interval) } else { Vec::new() }
    }
}

/// Waits until the groups have no member and the strays have ended. There is no event for the end of a process that
/// is not ours.
pub fn await_ends(
    mut groups: Vec<i32>,
    mut strays: Vec<Process>,
    patience: Duration,
    interval: Duration,
) -> Vec<Survivor> {
    let end = monotonic() + patience;
    let mut pause = Duration::from_micros(200);
    loop {
        let mut left = Vec::new();
        groups.retain(|&group| process::signal_group(group, 0) != Err(Errno::ESRCH));
        if !groups.is_empty() {
            // Zombies answer too, for ever where nobody reaps orphans (many a container's pid 1).
            match process::living_members(&groups) {
                Some(members) => {
                    groups.retain(|&group| members.iter().any(|(_, stat)| stat.group == group));
                    left.extend(members.iter().map(|(pid, _)| *pid));
                }
                None => left.extend(&groups),
            }
        }
        descent::keep_living(&mut strays);
        left.extend(strays.iter().map(|stray| stray.pid));
        if left.is_empty() {
            return Vec::new();
        }
        if monotonic() >= end {
            left.sort_unstable();
            left.dedup();
            let refused = |pid| strays.iter().find(|stray| stray.pid == pid)?.signal(libc::SIGKILL).err();
            let survivor = |pid| Survivor { name: descent::describe(pid), errno: refused(pid) };
            return left.into_iter().map(survivor).collect();
        }
        std::thread::sleep(pause.min(interval));
        pause *= 2;
    }
}

impl Drop for Attempt {
    /// Only a panic leaves an attempt without `end`.
    fn drop(&mut self) {
        if !self.over {
            let finder = Finder::default();
            self.stop(libc::SIGKILL, &finder);
            for worker in &self.workers {
                if let (true, Some(child)) = (worker.is_alive(), &worker.child) {
                    process::wait_for_end(&child.pidfd);
                }
            }
            self.end(true, None, &finder, Duration::ZERO, Duration::ZERO);
        }
    }
}

fn nanoseconds(time: Duration) -> i64 {
    time.as_nanos() as i64
}
