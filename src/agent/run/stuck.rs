//! Workers that are stuck: a file timer of theirs has expired, or the kernel does not let go of them. How the
//! agent learns of it, and what it does about them.

use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;

use super::context::Context;
use super::expiry::Overdue;
use super::files::Files;
use super::group::Group;
use super::reporter::path_bytes;
use super::timer_file::TimerFile;
use super::wake::{Poll, Wake};
use super::watchers::Watchers;
use crate::control::d_state::Stays;
use crate::control::file_timer::{Clocks, Expired, Holder, Line, Lines, MOST, Timers};
use crate::error::{Error, c_string_lossy};
use crate::moment::Moment;
use crate::plan::{self, Job, Macros};
use crate::process::attempt::{Attempt, Worker};
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
pub struct Stuck {
    served: Option<Served>,
    stays: Stays,
    /// When the states of the workers are looked at next.
    next_look: Option<Moment>,
    /// Who still runs then is a straggler.
    stragglers_at: Option<Moment>,
    decisions: Vec<Decision>,
    /// What the command that looks where a worker is may want to know.
    job: Option<Job>,
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
enum Remedy {
    /// This process, the worker or one that it has started, gets this signal. If the worker is still there after
    /// the shutdown time-out it is killed.
    Signal { holder: Holder, signal: i32 },
    /// The group is stopped, and none is started in its place.
    NoRestart,
}

/// That a worker is to be ended.
struct Decision {
    worker: usize,
    /// Why, in words.
    reason: String,
    remedy: Remedy,
    stage: Stage,
}

enum Stage {
    /// Where it is is still looked for.
    LookedFor(Search),
    Decided,
    /// It has got its signal.
    Signalled {
        until: Moment,
    },
}

/// What is done next about a worker that is to be ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Wait,
    CarryOut,
    /// It had the time to end by itself.
    Kill,
}

impl Stage {
    /// `searches`: somebody is still looked for. The end of one may change what the others do.
    fn next(&self, searches: bool, now: Moment) -> Next {
        match *self {
            Stage::LookedFor(_) => Next::Wait,
            Stage::Decided if searches => Next::Wait,
            Stage::Decided => Next::CarryOut,
            Stage::Signalled { until } if until > now => Next::Wait,
            Stage::Signalled { .. } => Next::Kill,
        }
    }
}

impl Stuck {
    /// An attempt begins; the path of its FIFO, if it has one. `again`: there was an attempt before.
    pub fn begin(
        &mut self,
        context: &Context,
        files: &Files,
        watchers: &Watchers,
        (number, again): (u32, bool),
    ) -> Result<Option<PathBuf>, Error> {
        *self = Stuck::default();
        let checked = &context.settled.checked;
        if checked.uninterruptible_timeout.is_some() {
            if process::proc_is_ours() {
                self.next_look = Some(Duration::ZERO);
            } else {
                let text = "/proc is of another pid namespace: nobody looks for uninterruptible sleep";
                context.log(Level::Warning, || text.into());
            }
        }
        let (working_dir, tmpdir) = (context.working_dir(), context.host.tmpdir.as_deref());
        let Some(path) = TimerFile::place(checked, files.usable(), number, working_dir, tmpdir) else {
            return Ok(None);
        };
        let file = TimerFile::make(path.clone(), again)?;
        context
            .poll
            .add(&file, Wake::Timers)
            .map_err(|errno| Error::system("cannot watch the FIFO of the file timers", errno as i32))?;
        watchers.name(context, Name::TimerFile, Some(&path));
        let (lines, timers) = (Lines::default(), Timers::default());
        self.served = Some(Served { file, lines, timers, garbage_told: false, refusals: 0 });
        Ok(Some(path))
    }

    /// What the attempt's workers are told: the command that looks where one is may be told too.
    pub fn know(&mut self, context: &Context, job: &Job) {
        self.job = (!context.spec.stack_command.is_empty()).then(|| job.clone());
    }

    /// An attempt is over: its timers are void.
    pub fn end(&mut self, context: &Context, group: &mut Group) {
        self.call_off_searches(context, group);
        let stuck = std::mem::take(self);
        if let Some(served) = &stuck.served {
            context.poll.delete(&served.file);
        }
    }

    /// When somebody has to be looked at. Nobody is once the group is being stopped, or time stands still.
    pub fn deadline(&self) -> Option<Moment> {
        let timers = self.served.as_ref().and_then(|served| served.timers.deadline());
        let searches = self.is_searching();
        let decisions = self.decisions.iter().filter_map(|decision| match &decision.stage {
            Stage::LookedFor(search) => Some(search.deadline()),
            Stage::Decided if searches => None,
            Stage::Decided => Some(Duration::ZERO),
            Stage::Signalled { until } => Some(*until),
        });
        decisions.chain(timers).chain(self.next_look).chain(self.stragglers_at).min()
    }

    /// So much of the time up to now counts for nobody.
    pub fn give_back(&mut self, lost: Duration) {
        self.stays.give_back(lost);
        if let Some(served) = &mut self.served {
            served.timers.give_back(lost);
        }
        self.stragglers_at = self.stragglers_at.map(|at| at.saturating_add(lost));
        for decision in &mut self.decisions {
            if let Stage::Signalled { until } = &mut decision.stage {
                *until = until.saturating_add(lost);
            }
        }
    }

    /// Time that has passed up to now counts for no timer.
    pub fn begin_anew(&mut self, context: &Context, now: Moment) {
        self.stays = Stays::default();
        if let Some(served) = &mut self.served {
            served.timers.begin_anew(now);
        }
        if self.stragglers_at.is_some_and(|at| at < Moment::MAX) {
            self.stragglers_at = Some(now.saturating_add(context.spec.straggler_timeout));
        }
    }

    fn is_searching(&self) -> bool {
        self.decisions.iter().any(|decision| matches!(decision.stage, Stage::LookedFor(_)))
    }

    /// A worker has ended.
    pub fn forget(&mut self, poll: &Poll, worker: usize) {
        if let Some(served) = &mut self.served {
            served.timers.forget(worker);
        }
        self.decisions.retain(|decision| {
            let stays = decision.worker != worker;
            if let (false, Stage::LookedFor(search)) = (stays, &decision.stage) {
                poll.delete(search);
            }
            stays
        });
    }

    /// Clients of file timers have written something.
    pub fn hear_timers(&mut self, context: &Context, group: &Group) {
        let (Some(served), Some(attempt)) = (&mut self.served, group.attempt()) else { return };
        let bytes = served.file.read();
        let now = Clocks { monotonic: monotonic(), wall: since_1970() };
        for Line { request, broken } in served.lines.feed(&bytes) {
            if broken && !std::mem::replace(&mut served.garbage_told, true) {
                let text = "something that is no request came for the file timers: left out";
                context.log(Level::Warning, || text.into());
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
                context.log(Level::Warning, || {
                    format!("a file timer {scope:?} for PID {pid} is refused: {refusal}")
                });
            }
        }
    }

    /// Does what is due, while the group runs and time does not stand still; what came of it.
    pub fn look(&mut self, context: &Context, group: &mut Group, now: Moment) -> Vec<Event> {
        self.look_at_timers(context, group, now);
        self.look_at_states(context, group, now);
        self.look_at_stragglers(context, group, now);
        self.look_at_searches(context, group, now);
        self.carry_out(context, group, now)
    }

    /// The group is being stopped: nobody has to be ended any more. What was found is kept.
    pub fn call_off_searches(&mut self, context: &Context, group: &mut Group) {
        for decision in &self.decisions {
            if let Stage::LookedFor(search) = &decision.stage {
                search.call_off();
            }
        }
        self.look_at_searches(context, group, Duration::MAX);
        self.decisions.clear();
    }

    fn look_at_timers(&mut self, context: &Context, group: &Group, now: Moment) {
        let (Some(served), Some(attempt)) = (&mut self.served, group.attempt()) else { return };
        for Expired { holder, scope, length, held, signal } in served.timers.expired(now) {
            // Nobody tells when a process ends that is none of the workers.
            if attempt.holder(holder.pid) != Some(holder) {
                continue;
            }
            let pid = attempt.workers[holder.worker].pid;
            let whose = if holder.pid == pid { String::new() } else { format!(", of worker PID {pid},") };
            let reason = format!(
                "PID {}{whose} held its timer {scope:?} of {:.3} s for {:.3} s",
                holder.pid,
                length.as_secs_f64(),
                held.as_secs_f64()
            );
            match signal {
                Some(signal) => {
                    self.decide(context, group, holder.worker, reason, Remedy::Signal { holder, signal });
                }
                None => {
                    let text = format!("{reason}: only reported, as it wants no signal");
                    tell(context, group, holder.worker, &text, 0);
                }
            }
        }
    }

    fn look_at_states(&mut self, context: &Context, group: &Group, now: Moment) {
        let (Some(limit), true) =
            (context.settled.checked.uninterruptible_timeout, self.next_look.is_some_and(|next| next <= now))
        else {
            return;
        };
        self.next_look = Some(now + context.spec.monitor_interval);
        for (worker, pid) in group.living() {
            let stay = self.stays.look(worker, process::uninterruptible(pid), now);
            if stay >= limit {
                let reason = format!(
                    "PID {pid} was in uninterruptible sleep (state D) for {:.3} s, where {} s are the limit",
                    stay.as_secs_f64(),
                    limit.as_secs_f64()
                );
                self.decide(context, group, worker, reason, Remedy::NoRestart);
            }
        }
    }

    /// A worker has ended well: the others are to follow.
    pub fn expect_stragglers(&mut self, limit: Duration) {
        if !limit.is_zero() {
            self.stragglers_at.get_or_insert_with(|| monotonic().saturating_add(limit));
        }
    }

    fn look_at_stragglers(&mut self, context: &Context, group: &Group, now: Moment) {
        if self.stragglers_at.is_none_or(|at| at > now) {
            return;
        }
        // Told once: whoever is let live is not looked at again.
        self.stragglers_at = Some(Moment::MAX);
        let seconds = context.spec.straggler_timeout.as_secs_f64();
        for (worker, pid) in group.living() {
            let reason = format!("PID {pid} still ran {seconds:.3} s after another worker had ended well");
            self.overdue(context, group, (worker, reason));
        }
    }

    /// A worker let its time pass: it is ended, and has failed, unless that is only to be told.
    pub fn overdue(&mut self, context: &Context, group: &Group, (worker, reason): Overdue) {
        let signal = context.spec.timer_signal;
        let holder = group.attempt().and_then(|attempt| attempt.holder(attempt.workers[worker].pid));
        match holder {
            Some(_) if signal == 0 => tell(context, group, worker, &format!("{reason}: only reported"), 0),
            Some(holder) => {
                self.decide(context, group, worker, reason, Remedy::Signal { holder, signal });
            }
            None => {}
        }
    }

    /// The workers that are to be ended.
    pub fn decided(&self) -> Vec<usize> {
        self.decisions.iter().map(|decision| decision.worker).collect()
    }

    /// A worker of a group that runs is stuck: where it is is looked for, then the remedy is carried out. Once
    /// only: what else is found meanwhile changes nothing.
    fn decide(&mut self, context: &Context, group: &Group, worker: usize, reason: String, remedy: Remedy) {
        if self.decisions.iter().any(|decision| decision.worker == worker) {
            return;
        }
        let signal = if let Remedy::Signal { signal, .. } = remedy { signal } else { 0 };
        tell(context, group, worker, &reason, signal);
        let stage = match self.look_for(context, group, worker, remedy) {
            Ok(Some(search)) => Stage::LookedFor(search),
            Ok(None) => Stage::Decided,
            Err(error) => {
                context
                    .log(Level::Warning, || format!("it cannot be found out where the worker is: {error}"));
                Stage::Decided
            }
        };
        self.decisions.push(Decision { worker, reason, remedy, stage });
    }

    /// Has somebody look where a worker is, or the process of it that holds the timer.
    fn look_for(
        &self,
        context: &Context,
        group: &Group,
        worker: usize,
        remedy: Remedy,
    ) -> Result<Option<Search>, Error> {
        let spec = context.spec;
        let searches = self.decisions.iter().filter(|decision| matches!(decision.stage, Stage::LookedFor(_)));
        let (Some(attempt), false, true) =
            (group.attempt(), spec.stack_timeout.is_zero(), searches.count() < SEARCHES_AT_ONCE)
        else {
            return Ok(None);
        };
        let Worker { files, rank, .. } = &attempt.workers[worker];
        let pid = match remedy {
            Remedy::Signal { holder, .. } => holder.pid,
            Remedy::NoRestart => attempt.workers[worker].pid,
        };
        let is_worker = pid == attempt.workers[worker].pid;
        let has_handler = is_worker && spec.method().is_some() && spec.crash_records;
        let command = spec.stack_command.first().zip(self.job.as_ref()).map(|(program, job)| {
            let macros = Macros::new(spec, job, rank).with_pid(pid);
            let argv = &spec.stack_command;
            let directory = context.host.working_dir.as_deref();
            let command = Command {
                argv: argv.iter().map(|word| c_string_lossy(&macros.expand(word.to_bytes()))).collect(),
                paths: plan::search(program, &context.host.env),
                env: context.host.env.clone(),
                working_dir: directory.map(|directory| c_string_lossy(path_bytes(directory))),
            };
            (command, program.to_string_lossy().into_owned())
        });
        let search = Search::start(Subject {
            pid,
            error_file: files.error.clone().filter(|_| has_handler),
            command,
            limit: spec.stack_timeout,
            file: files.stack.clone().map(|path| (path, spec.modes())),
        })?;
        context
            .poll
            .add(&search, Wake::Search)
            .map_err(|errno| Error::system("cannot watch a search", errno as i32))?;
        Ok(Some(search))
    }

    /// Takes what was found where the search is over, or its time is.
    fn look_at_searches(&mut self, context: &Context, group: &mut Group, now: Moment) {
        for decision in &mut self.decisions {
            let Stage::LookedFor(search) = &decision.stage else { continue };
            if search.deadline() > now {
                continue;
            }
            context.poll.delete(search);
            if let Some(attempt) = group.attempt_mut() {
                attempt.workers[decision.worker].stack = search.found();
            }
            decision.stage = Stage::Decided;
        }
    }

    /// Ends those whose time has come.
    fn carry_out(&mut self, context: &Context, group: &mut Group, now: Moment) -> Vec<Event> {
        let searches = self.is_searching();
        let mut events = Vec::new();
        for mut decision in std::mem::take(&mut self.decisions) {
            let goes_on = match (decision.stage.next(searches, now), group.attempt_mut()) {
                (Next::Wait, _) | (_, None) => true,
                (Next::CarryOut, Some(attempt)) => {
                    match execute(context, attempt, &decision, now, &mut events) {
                        Some(until) => {
                            decision.stage = Stage::Signalled { until };
                            true
                        }
                        None => false,
                    }
                }
                (Next::Kill, Some(attempt)) => {
                    if let Remedy::Signal { holder, .. } = decision.remedy
                        && holder.pid == attempt.workers[decision.worker].pid
                    {
                        let _ = attempt.signal(holder, libc::SIGKILL);
                    }
                    events.push(Event::Stuck { restart: true });
                    false
                }
            };
            if goes_on {
                self.decisions.push(decision);
            }
        }
        events
    }
}

/// Until when it may end by itself now; none where there is nothing to wait for.
fn execute(
    context: &Context,
    attempt: &mut Attempt,
    decision: &Decision,
    now: Moment,
    events: &mut Vec<Event>,
) -> Option<Moment> {
    let (signalled, until) = match decision.remedy {
        Remedy::NoRestart => (Ok(()), None),
        Remedy::Signal { holder, signal } => {
            // Nothing but the stop of the group tells a worker that a process of its own is gone.
            let alone = holder.pid == attempt.workers[decision.worker].pid && signal != libc::SIGKILL;
            let patience = if alone { context.settled.checked.shutdown_timeout } else { Duration::ZERO };
            let sent = attempt.signal(holder, signal);
            (sent, Some(if sent.is_ok() { now + patience } else { now }))
        }
    };
    if signalled == Err(Errno::ESRCH) {
        return None; // it has ended since
    }
    let worker = &mut attempt.workers[decision.worker];
    worker.verdict = Some(decision.reason.clone());
    let rank = worker.rank.global;
    match (decision.remedy, signalled) {
        (Remedy::NoRestart, _) => events.push(Event::Stuck { restart: false }),
        (Remedy::Signal { holder, signal }, Ok(())) => {
            let (pid, signal) = (holder.pid, Signal(signal));
            context.log(Level::Info, || format!("rank {rank}: sent {signal} to PID {pid}"));
        }
        (Remedy::Signal { holder, .. }, Err(errno)) => context.log(Level::Warning, || {
            format!("rank {rank}: PID {} cannot be signalled: {}", holder.pid, errno.desc())
        }),
    }
    until
}

/// Tells of a worker that is stuck, and of the signal that follows, if one does.
fn tell(context: &Context, group: &Group, worker: usize, text: &str, signal: i32) {
    let rank = group.ranks()[worker];
    context.log(Level::Warning, || format!("rank {}: {text}", rank.global));
    context.event(|origin| {
        let attempt = group.attempt()?;
        Some(origin.worker_stuck(&rank, attempt.workers[worker].pid, attempt.number, text, signal))
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn nobody_is_ended_while_another_is_looked_for() {
        assert_eq!(Stage::Decided.next(true, SECOND), Next::Wait);
        assert_eq!(Stage::Decided.next(false, SECOND), Next::CarryOut);
        let signalled = Stage::Signalled { until: 9 * SECOND };
        assert_eq!(signalled.next(true, SECOND), Next::Wait);
        assert_eq!(signalled.next(true, 9 * SECOND), Next::Kill);
    }

    #[test]
    fn time_a_look_is_due_when_a_decision_is() {
        let mut stuck = Stuck::default();
        assert_eq!(stuck.deadline(), None);
        stuck.stragglers_at = Some(9 * SECOND);
        let decision =
            |stage| Decision { worker: 0, reason: String::new(), remedy: Remedy::NoRestart, stage };
        stuck.decisions.push(decision(Stage::Signalled { until: 7 * SECOND }));
        assert_eq!(stuck.deadline(), Some(7 * SECOND));
        stuck.give_back(4 * SECOND);
        assert_eq!(stuck.deadline(), Some(11 * SECOND), "nobody ran in that time");
        stuck.decisions.push(decision(Stage::Decided));
        assert_eq!(stuck.deadline(), Some(Duration::ZERO));
    }
}
