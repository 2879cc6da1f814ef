//! Workers that are stuck: a file timer of theirs has expired, or the kernel does not let go of them. How the
//! agent learns of it, and what it does about them.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};

use super::{Run, SEARCHES, TIMERS};
use crate::agent::reporter::path_bytes;
use crate::agent::timer_file::TimerFile;
use crate::control::d_state::Stays;
use crate::control::file_timer::{Clocks, Expired, Holder, Line, Lines, MOST, Timers};
use crate::error::{Error, c_string_lossy};
use crate::moment::Moment;
use crate::plan::{self, Macros};
use crate::process::attempt::Worker;
use crate::process::command::Command;
use crate::process::stack::{Search, Subject};
use crate::process::watcher::Name;
use crate::spec::Level;
use crate::spec::names::Signal;
use crate::supervise::Event;
use crate::sys::process::{self, monotonic, since_1970};

/// How many requests of strangers are told of: whoever sends many is not to fill the log.
const REFUSALS_TOLD: usize = 16;
/// How many workers are looked at together: each has a thread for it.
const SEARCHES_AT_ONCE: usize = 64;

/// What is watched in one attempt. It costs nothing where nothing of it is asked for.
#[derive(Default)]
pub(super) struct Watch {
    served: Option<Served>,
    stays: Stays,
    /// When the states of the workers are looked at next.
    next_look: Option<Moment>,
    /// Who still runs then is a straggler.
    stragglers_at: Option<Moment>,
    condemned: Vec<Condemned>,
}

/// torch's file timers.
struct Served {
    file: TimerFile,
    lines: Lines,
    timers: Timers,
    garbage_told: bool,
    refusals: usize,
}

/// What is to become of a stuck worker.
#[derive(Clone, Copy)]
pub(in crate::agent) enum Sentence {
    /// This process, the worker or one that it has started, gets this signal. If the worker is still there after
    /// the shutdown time-out it is killed.
    Signal { holder: Holder, signal: i32 },
    /// The group is stopped, and none is started in its place.
    NoRestart,
}

/// A worker that is to be ended.
struct Condemned {
    worker: usize,
    /// Why, in words.
    verdict: String,
    sentence: Sentence,
    stage: Stage,
}

enum Stage {
    /// Where it is is still looked for.
    LookedFor(Search),
    Sentenced,
    /// It has got its signal.
    Signalled {
        until: Moment,
    },
}

impl Watch {
    fn deadline(&self) -> Option<Moment> {
        let timers = self.served.as_ref().and_then(|served| served.timers.deadline());
        let searches = self.is_searching();
        let condemned = self.condemned.iter().filter_map(|condemned| match &condemned.stage {
            Stage::LookedFor(search) => Some(search.deadline()),
            Stage::Sentenced if searches => None,
            Stage::Sentenced => Some(Duration::ZERO),
            Stage::Signalled { until } => Some(*until),
        });
        condemned.chain(timers).chain(self.next_look).chain(self.stragglers_at).min()
    }

    /// So much of the time up to now counts for nobody.
    pub(super) fn give_back(&mut self, lost: Duration) {
        self.stays.give_back(lost);
        if let Some(served) = &mut self.served {
            served.timers.give_back(lost);
        }
        self.stragglers_at = self.stragglers_at.map(|at| at.saturating_add(lost));
        for condemned in &mut self.condemned {
            if let Stage::Signalled { until } = &mut condemned.stage {
                *until = until.saturating_add(lost);
            }
        }
    }

    fn is_searching(&self) -> bool {
        self.condemned.iter().any(|condemned| matches!(condemned.stage, Stage::LookedFor(_)))
    }

    /// A worker has ended.
    pub(super) fn forget(&mut self, epoll: &Epoll, worker: usize) {
        if let Some(served) = &mut self.served {
            served.timers.forget(worker);
        }
        self.condemned.retain(|condemned| {
            let stays = condemned.worker != worker;
            if let (false, Stage::LookedFor(search)) = (stays, &condemned.stage) {
                let _ = epoll.delete(search);
            }
            stays
        });
    }
}

impl Run<'_> {
    /// An attempt begins; the path of its FIFO, if it has one.
    pub(super) fn watch_attempt(&mut self, number: u32) -> Result<Option<std::path::PathBuf>, Error> {
        self.watch = Watch::default();
        if self.settled.checked.uninterruptible_timeout.is_some() {
            if process::proc_is_ours() {
                self.watch.next_look = Some(Duration::ZERO);
            } else {
                let text = "/proc is of another pid namespace: nobody looks for uninterruptible sleep";
                self.log(Level::Warning, || text.into());
            }
        }
        let working_dir = self.host.working_dir.clone().unwrap_or_default();
        let run_dir = self.run_dir.as_ref().filter(|_| !self.without_files);
        let tmpdir = self.host.tmpdir.as_deref();
        let Some(path) = TimerFile::place(&self.settled.checked, run_dir, number, &working_dir, tmpdir)
        else {
            return Ok(None);
        };
        let file = TimerFile::make(path.clone(), !self.supervisor.is_first_attempt())?;
        self.epoll
            .add(&file, EpollEvent::new(EpollFlags::EPOLLIN, TIMERS))
            .map_err(|errno| Error::system("cannot watch the FIFO of the file timers", errno as i32))?;
        self.note_name(Name::TimerFile, Some(&path));
        let (lines, timers) = (Lines::default(), Timers::default());
        self.watch.served = Some(Served { file, lines, timers, garbage_told: false, refusals: 0 });
        Ok(Some(path))
    }

    /// An attempt is over: its timers are void.
    pub(super) fn unwatch_attempt(&mut self) {
        self.call_off_searches();
        let watch = std::mem::take(&mut self.watch);
        if let Some(served) = &watch.served {
            let _ = self.epoll.delete(served.file.as_fd());
        }
    }

    /// When somebody has to be looked at; never once the group is being stopped.
    pub(super) fn watch_deadline(&self) -> Option<Moment> {
        if self.supervisor.is_running() && !self.is_debugging() { self.watch.deadline() } else { None }
    }

    /// Time that has passed up to now counts for no timer.
    pub(in crate::agent) fn begin_timers_anew(&mut self) {
        let now = monotonic();
        self.watch.stays = Stays::default();
        if let Some(served) = &mut self.watch.served {
            served.timers.begin_anew(now);
        }
        if self.watch.stragglers_at.is_some_and(|at| at < Moment::MAX) {
            self.watch.stragglers_at = Some(now.saturating_add(self.spec.straggler_timeout));
        }
        if let Some(conversation) = &mut self.conversation {
            conversation.begin_anew(now);
        }
    }

    /// Clients of file timers have written something.
    pub(super) fn hear_timers(&mut self) {
        let (Some(served), Some(attempt)) = (&mut self.watch.served, &self.attempt) else { return };
        let bytes = served.file.read();
        let now = Clocks { monotonic: monotonic(), wall: since_1970() };
        let mut warnings = Vec::new();
        for Line { request, broken } in served.lines.feed(&bytes) {
            if broken && !std::mem::replace(&mut served.garbage_told, true) {
                warnings.push("something that is no request came for the file timers: left out".to_string());
            }
            let Some(request) = request else { continue };
            if request.expiration < 0.0 {
                served.timers.release(request);
                continue;
            }
            let (pid, scope) = (request.pid, request.scope.clone());
            let refusal = match attempt.holder(pid) {
                // It has ended since.
                None if process::kinship(pid).is_none() => continue,
                None => "it is no process of a worker".to_string(),
                Some(holder) => match served.timers.acquire(holder, request, now) {
                    Ok(()) => continue,
                    Err(_) => format!("its worker has {MOST} already"),
                },
            };
            served.refusals += 1;
            if served.refusals <= REFUSALS_TOLD {
                warnings.push(format!("a file timer {scope:?} for PID {pid} is refused: {refusal}"));
            }
        }
        for warning in warnings {
            self.log(Level::Warning, || warning);
        }
    }

    /// Does what is due.
    pub(super) fn look_after_stuck(&mut self) {
        if !self.supervisor.is_running() {
            return self.call_off_searches();
        }
        let now = self.now();
        if self.is_debugging() || self.watch.deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        self.look_at_timers(now);
        self.look_at_states(now);
        self.look_at_stragglers(now);
        self.look_at_searches(now);
        self.carry_out(now);
    }

    /// The group is being stopped: nobody has to be ended any more. What was found is kept.
    fn call_off_searches(&mut self) {
        for condemned in &self.watch.condemned {
            if let Stage::LookedFor(search) = &condemned.stage {
                search.call_off();
            }
        }
        self.look_at_searches(Duration::MAX);
        self.watch.condemned.clear();
    }

    fn look_at_timers(&mut self, now: Moment) {
        let Some(served) = &mut self.watch.served else { return };
        for Expired { holder, scope, length, held, signal } in served.timers.expired(now) {
            let Some(attempt) = &self.attempt else { return };
            // Nobody tells when a process ends that is none of the workers.
            if attempt.holder(holder.pid) != Some(holder) {
                continue;
            }
            let pid = attempt.workers[holder.worker].pid;
            let whose = if holder.pid == pid { String::new() } else { format!(", of worker PID {pid},") };
            let verdict = format!(
                "PID {}{whose} held its timer {scope:?} of {:.3} s for {:.3} s",
                holder.pid,
                length.as_secs_f64(),
                held.as_secs_f64()
            );
            match signal {
                Some(signal) => self.condemn(holder.worker, verdict, Sentence::Signal { holder, signal }),
                None => {
                    let text = format!("{verdict}: only reported, as it wants no signal");
                    self.tell_of_stuck(holder.worker, &text, 0);
                }
            }
        }
    }

    fn look_at_states(&mut self, now: Moment) {
        let (Some(limit), true) = (
            self.settled.checked.uninterruptible_timeout,
            self.watch.next_look.is_some_and(|next| next <= now),
        ) else {
            return;
        };
        self.watch.next_look = Some(now + self.spec.monitor_interval);
        for (worker, pid) in self.living() {
            let stay = self.watch.stays.look(worker, process::uninterruptible(pid), now);
            if stay >= limit {
                let verdict = format!(
                    "PID {pid} was in uninterruptible sleep (state D) for {:.3} s, where {} s are the limit",
                    stay.as_secs_f64(),
                    limit.as_secs_f64()
                );
                self.condemn(worker, verdict, Sentence::NoRestart);
            }
        }
    }

    /// A worker has ended well: the others are to follow.
    pub(super) fn expect_stragglers(&mut self) {
        let limit = self.spec.straggler_timeout;
        if !limit.is_zero() {
            self.watch.stragglers_at.get_or_insert_with(|| monotonic().saturating_add(limit));
        }
    }

    fn look_at_stragglers(&mut self, now: Moment) {
        if self.watch.stragglers_at.is_none_or(|at| at > now) {
            return;
        }
        // Told once: whoever is let live is not looked at again.
        self.watch.stragglers_at = Some(Moment::MAX);
        let seconds = self.spec.straggler_timeout.as_secs_f64();
        for (worker, pid) in self.living() {
            let verdict = format!("PID {pid} still ran {seconds:.3} s after another worker had ended well");
            self.overdue(worker, verdict);
        }
    }

    /// The workers that run, and their processes.
    fn living(&self) -> Vec<(usize, i32)> {
        let workers = self.attempt.iter().flat_map(|attempt| &attempt.workers).enumerate();
        workers.filter(|(_, worker)| worker.is_alive()).map(|(index, worker)| (index, worker.pid)).collect()
    }

    /// A worker let its time pass: it is ended, and has failed, unless that is only to be told.
    pub(in crate::agent) fn overdue(&mut self, worker: usize, verdict: String) {
        let signal = self.spec.timer_signal;
        let holder = self.attempt.as_ref().and_then(|attempt| attempt.holder(attempt.workers[worker].pid));
        match holder {
            Some(_) if signal == 0 => self.tell_of_stuck(worker, &format!("{verdict}: only reported"), 0),
            Some(holder) => self.condemn(worker, verdict, Sentence::Signal { holder, signal }),
            None => {}
        }
    }

    /// The workers that are to be ended.
    pub(in crate::agent) fn condemned(&self) -> impl Iterator<Item = usize> {
        self.watch.condemned.iter().map(|condemned| condemned.worker)
    }

    /// A worker of a group that runs is stuck: where it is is looked for, then the sentence is carried out. Once
    /// only: what else is found meanwhile changes nothing.
    pub(in crate::agent) fn condemn(&mut self, worker: usize, verdict: String, sentence: Sentence) {
        if self.watch.condemned.iter().any(|condemned| condemned.worker == worker) {
            return;
        }
        let signal = if let Sentence::Signal { signal, .. } = sentence { signal } else { 0 };
        self.tell_of_stuck(worker, &verdict, signal);
        let stage = match self.look_for(worker, sentence) {
            Ok(Some(search)) => Stage::LookedFor(search),
            Ok(None) => Stage::Sentenced,
            Err(error) => {
                self.log(Level::Warning, || format!("nobody looks where it is: {error}"));
                Stage::Sentenced
            }
        };
        self.watch.condemned.push(Condemned { worker, verdict, sentence, stage });
    }

    /// Tells of a worker that is stuck, and of the signal that follows, if one does.
    pub(in crate::agent) fn tell_of_stuck(&self, worker: usize, text: &str, signal: i32) {
        let rank = self.ranks[worker];
        self.log(Level::Warning, || format!("rank {}: {text}", rank.global));
        let attempt = self.attempt.as_ref().filter(|_| self.origin.is_some());
        if let Some((pid, number)) = attempt.map(|attempt| (attempt.workers[worker].pid, attempt.number)) {
            self.event(|origin| Some(origin.worker_stuck(&rank, pid, number, text, signal)));
        }
    }

    /// Has somebody look where a worker is, or the process of it that holds the timer.
    fn look_for(&self, worker: usize, sentence: Sentence) -> Result<Option<Search>, Error> {
        let searches =
            self.watch.condemned.iter().filter(|condemned| matches!(condemned.stage, Stage::LookedFor(_)));
        let (Some(attempt), false, true) =
            (&self.attempt, self.spec.stack_timeout.is_zero(), searches.count() < SEARCHES_AT_ONCE)
        else {
            return Ok(None);
        };
        let Worker { files, rank, .. } = &attempt.workers[worker];
        let pid = match sentence {
            Sentence::Signal { holder, .. } => holder.pid,
            Sentence::NoRestart => attempt.workers[worker].pid,
        };
        let is_worker = pid == attempt.workers[worker].pid;
        let has_handler = is_worker && self.spec.method().is_some() && self.spec.crash_records;
        let command = self.spec.stack_command.first().map(|program| {
            let restarts = self.supervisor.restarts();
            let job = super::job(
                (self.spec, &self.settled.checked),
                self.run_id.clone(),
                0,
                restarts,
                self.meeting(),
                None,
            );
            let macros = Macros::new(self.spec, &job, rank).with_pid(pid);
            let argv = &self.spec.stack_command;
            let command = Command {
                argv: argv.iter().map(|word| c_string_lossy(&macros.expand(word.to_bytes()))).collect(),
                paths: plan::search(program, &self.host.env),
                env: self.host.env.clone(),
                working_dir: self.host.working_dir.as_deref().map(|dir| c_string_lossy(path_bytes(dir))),
            };
            (command, program.to_string_lossy().into_owned())
        });
        let search = Search::start(Subject {
            pid,
            error_file: files.error.clone().filter(|_| has_handler),
            command,
            limit: self.spec.stack_timeout,
            file: files.stack.clone().map(|path| (path, self.spec.modes())),
        })?;
        self.epoll
            .add(&search, EpollEvent::new(EpollFlags::EPOLLIN, SEARCHES))
            .map_err(|errno| Error::system("cannot watch a search", errno as i32))?;
        Ok(Some(search))
    }

    /// Takes what was found where the search is over, or its time is.
    fn look_at_searches(&mut self, now: Moment) {
        for condemned in &mut self.watch.condemned {
            let Stage::LookedFor(search) = &condemned.stage else { continue };
            if search.deadline() > now {
                continue;
            }
            let _ = self.epoll.delete(search);
            if let Some(attempt) = &mut self.attempt {
                attempt.workers[condemned.worker].stack = search.found();
            }
            condemned.stage = Stage::Sentenced;
        }
    }

    /// Ends those whose time has come; none as long as somebody else is still looked at: the end of one may
    /// change what the others do.
    fn carry_out(&mut self, now: Moment) {
        let searches = self.watch.is_searching();
        for mut condemned in std::mem::take(&mut self.watch.condemned) {
            let goes_on = match condemned.stage {
                Stage::LookedFor(_) => true,
                Stage::Sentenced if searches => true,
                Stage::Signalled { until } if until > now => true,
                Stage::Signalled { .. } => {
                    if let (Sentence::Signal { holder, .. }, Some(attempt)) =
                        (condemned.sentence, &self.attempt)
                        && holder.pid == attempt.workers[condemned.worker].pid
                    {
                        let _ = attempt.signal(holder, libc::SIGKILL);
                    }
                    self.tell(Event::Stuck { restart: true });
                    false
                }
                Stage::Sentenced => match self.execute(&condemned, now) {
                    Some(until) => {
                        condemned.stage = Stage::Signalled { until };
                        true
                    }
                    None => false,
                },
            };
            if goes_on {
                self.watch.condemned.push(condemned);
            }
        }
    }

    /// Until when it may end by itself now; none where there is nothing to wait for.
    fn execute(&mut self, condemned: &Condemned, now: Moment) -> Option<Moment> {
        let attempt = self.attempt.as_mut()?;
        let (signalled, until) = match condemned.sentence {
            Sentence::NoRestart => (Ok(()), None),
            Sentence::Signal { holder, signal } => {
                // Nothing but the stop of the group tells a worker that a process of its own is gone.
                let alone = holder.pid == attempt.workers[condemned.worker].pid && signal != libc::SIGKILL;
                let patience = if alone { self.settled.checked.shutdown_timeout } else { Duration::ZERO };
                let sent = attempt.signal(holder, signal);
                (sent, Some(if sent.is_ok() { now + patience } else { now }))
            }
        };
        if signalled == Err(nix::errno::Errno::ESRCH) {
            return None; // it has ended since
        }
        attempt.workers[condemned.worker].verdict = Some(condemned.verdict.clone());
        let rank = self.ranks[condemned.worker].global;
        match (condemned.sentence, signalled) {
            (Sentence::NoRestart, _) => self.tell(Event::Stuck { restart: false }),
            (Sentence::Signal { holder, signal }, Ok(())) => {
                let (pid, signal) = (holder.pid, Signal(signal));
                self.log(Level::Info, || format!("rank {rank}: sent {signal} to PID {pid}"));
            }
            (Sentence::Signal { holder, .. }, Err(errno)) => self.log(Level::Warning, || {
                format!("rank {rank}: PID {} cannot be signalled: {}", holder.pid, errno.desc())
            }),
        }
        until
    }
}
