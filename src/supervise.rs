//! The life of a worker group as a machine: state x event -> state + actions. No system call, no clock:
//! the agent's loop tells what happened and when, and does what it is told.
//!
//! ```text
//!            Started            all exited 0
//!  Starting ---------> Running -------------------------------------> Over(Succeeded)
//!     |                   | a worker failed, Stop, Lost
//!     | StartFailed, Stop v            all gone, or given up
//!     +--------------> Stopping -------------------------------------> Over(..)
//!                Ask -> PreStop -> Term -> Kill      |
//!     ^                                              | restarts left
//!     +------------------ Waiting <------------------+
//!         back-off over
//! ```
//!
//! A job of several hosts has a `Joining` before each `Starting`, which ends when the round is complete; a round that
//! is over for another host's sake leads back there without a restart being counted. After all exited 0 it is in the
//! `Barrier` until the others are as far.
//!
//! A worker that dies of a signal which would stop this run may be the first to feel a stop that is meant for all. So
//! what follows is held back for a moment: a stop of one's own that comes meanwhile explains it, and there is no
//! failure. See `Doubt`.
//!
//! Of several hosts, one whose workers have ended as they were asked to is `Leaving` until those of the others have, too.
//!
//! Stopping is a state, not an exception: nothing leaves it before all are reaped or given up. A further
//! failure or signal in it can change what follows and bring the kill forward, never skip it.

mod doubt;
mod progress;

use std::collections::BTreeSet;
use std::time::Duration;

use crate::control::request::{Reason, RequestKind};
use crate::moment::Moment;
use crate::report::End;
use crate::spec::StopSignals;
use doubt::Doubt;
use progress::Progress;

/// The waits after restarts at which workers could not be started, where the spec has none: the first, and the
/// longest.
const START_BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long a stop that is meant for all may take from a worker to its agent.
const MOMENT: Duration = Duration::from_millis(200);

/// What the spec says about failures and stops.
#[derive(Clone, Debug)]
pub struct Policy {
    pub max_restarts: u32,
    pub restart_backoff: Option<(Duration, Duration)>,
    pub min_uptime: Duration,
    pub no_restart_exit_codes: BTreeSet<i32>,
    /// How many attempts may end without having come further than those before; 0 for any number.
    pub attempts_without_progress: u32,
    pub stop: StopSignals,
    pub shutdown_timeout: Duration,
    /// How long workers have to save before a stop that was asked for; none if they are not asked to.
    pub save_before_stop: Option<Duration>,
    /// How long after SIGKILL a worker that is still there is given up.
    pub give_up_after: Duration,
    /// In a job of several hosts: how long those that succeeded wait for the others.
    pub rendezvous: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Worker `local_rank` was born.
    Born,
    /// The last worker of the attempt was.
    Started,
    /// A worker could not be started. `may_pass`: it may be later.
    StartFailed { may_pass: bool },
    /// A worker ended by itself or not; `code` for one that exited. `by_stop`: of a signal that would stop this run,
    /// which this agent had not sent.
    Exited { success: bool, code: Option<i32>, by_stop: bool },
    /// A worker's status was taken by somebody else.
    Lost,
    /// The fork server is gone, and its workers are going with it.
    ServerGone,
    /// A worker was found to be stuck, and is ended or beyond help. `restart`: a new one in its place may do
    /// better.
    Stuck { restart: bool },
    /// A worker asked for a restart of the group.
    RestartWanted,
    /// The agent cannot go on.
    AgentFailed,
    /// A stop was asked for, with a signal of its own or 0.
    Stop { signal: i32 },
    /// A stop was asked for before which workers that run are to save, by then.
    SaveAndStop { until: Moment },
    /// A stop was asked for at which workers end by themselves, if they do so by then.
    StopGently { until: Moment },
    /// Every worker that still runs has answered the request of the stop.
    Answered,
    /// Somebody is waiting for the stop.
    Hurry,
    /// The deadline passed.
    Deadline,
    /// The round is complete. `restarts`: of the job, for failed workers.
    Joined { round: u32, restarts: u32 },
    /// The round goes no further: other hosts are stopping their workers, too.
    RoundOver,
    /// All hosts have succeeded.
    JobSucceeded,
    /// The job ends for what happened on another host.
    JobFailed,
    /// The same, where it is not known that a worker failed there: that host may be stopped, and this one too.
    JobClosed,
    /// The job ends as one of its hosts was stopped, by this signal or 0.
    JobStopped { signal: i32 },
    /// The job succeeded without this host.
    NotNeeded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Say that no worker is left, and wait for the next round.
    Join,
    /// Tell the other hosts that a worker failed; `last`: the run is over here.
    Announce { last: bool },
    /// Tell them that all workers have succeeded.
    Arrive,
    /// Start all workers of this attempt.
    Start { attempt: u32 },
    /// Ask the workers to save, or to save and end, by then.
    Ask { to: RequestKind, reason: Reason, until: Moment },
    /// Send this to every group of the attempt, dead leader or not.
    Signal(i32),
    /// SIGKILL to every group of the attempt.
    Kill,
    /// The workers that are left cannot be killed: stop waiting for them.
    GiveUp,
    /// All are gone: kill what is left in their groups, reap, note how they ended.
    EndAttempt { succeeded: bool },
    /// The run is over.
    Finish(End),
}

/// What follows when all are gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Restart,
    /// The next round, of a job of several hosts, without a failure here.
    Regroup,
    End(End),
}

/// What a run waits for that is no work of its workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The next round, of a job of several hosts.
    Round,
    /// The exit barrier.
    Others { until: Moment },
    /// Workers were asked to save, or to save and end.
    Answers { until: Moment },
    /// Workers were sent a signal.
    Ends { until: Moment },
    /// The back-off before a restart.
    BackOff { until: Moment },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Ask,
    PreStop,
    Term,
    Kill,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Joining,
    Starting,
    Running { since: Moment },
    Stopping { stage: Stage, deadline: Moment, signal: i32, then: Then },
    Waiting { until: Moment },
    Barrier { until: Moment },
    Leaving { until: Moment },
    Over,
}

/// Why a failed attempt was the last though restarts were left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRestart {
    CrashLoop,
    ExitCode(i32),
    /// So many attempts came no further than those before.
    NoProgress(u32),
    /// One that SIGKILL did not end.
    Stuck,
    /// A worker in uninterruptible sleep still has its devices: none is started beside it.
    Uninterruptible,
}

#[derive(Debug)]
pub struct Supervisor {
    policy: Policy,
    state: State,
    /// The number of the attempt: of several hosts, that of the round.
    attempt: u32,
    /// How many attempts there were.
    starts: u32,
    /// For workers that failed here.
    restarts: u32,
    /// For workers that failed on any host.
    job_restarts: u32,
    /// How many attempts in a row failed at their start.
    start_failures: u32,
    alive: usize,
    no_restart: Option<NoRestart>,
    progress: Progress,
    doubt: Option<Doubt>,
    /// The workers of all hosts were asked to end by themselves, by then; none once they have answered.
    gentle_stop: Option<Moment>,
}

impl Supervisor {
    pub fn new(policy: Policy) -> (Supervisor, Vec<Action>) {
        let mut supervisor = Supervisor {
            policy,
            state: State::Over,
            attempt: 0,
            starts: 0,
            restarts: 0,
            job_restarts: 0,
            start_failures: 0,
            alive: 0,
            no_restart: None,
            progress: Progress::default(),
            doubt: None,
            gentle_stop: None,
        };
        let actions = supervisor.join_or_start(0);
        (supervisor, actions)
    }

    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The number that the round after the last one is known to have at least.
    pub fn next_round(&self) -> u64 {
        u64::from(self.attempt) + u64::from(self.starts > 0)
    }

    /// How often workers were started again because one of them failed.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// The same, of all hosts of the job.
    pub fn job_restarts(&self) -> u32 {
        if self.policy.rendezvous.is_some() { self.job_restarts } else { self.restarts }
    }

    /// Whether no workers were started before the present attempt.
    pub fn is_first_attempt(&self) -> bool {
        self.starts <= 1
    }

    /// Whether a failure now is not the last one.
    pub fn has_restarts(&self) -> bool {
        self.job_restarts() < self.policy.max_restarts
    }

    /// Whether another attempt follows, as far as is known.
    pub fn goes_on(&self) -> bool {
        let is_last = matches!(self.state, State::Stopping { then: Then::End(_), .. });
        !is_last && !matches!(self.state, State::Over | State::Leaving { .. })
    }

    pub fn no_restart(&self) -> Option<NoRestart> {
        self.no_restart
    }

    /// Whether the agent may go on to start workers: false once a stop or failure came in between.
    pub fn is_starting(&self) -> bool {
        self.state == State::Starting && self.doubt.is_none()
    }

    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. }) && self.doubt.is_none()
    }

    /// Whether workers run that nobody has signalled.
    pub fn is_undisturbed(&self) -> bool {
        self.is_running() || matches!(self.state, State::Stopping { stage: Stage::Ask, .. })
    }

    /// Whether a stop would explain what has happened to the workers.
    pub fn is_in_doubt(&self) -> bool {
        self.doubt.is_some()
    }

    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Whether it matters how far an attempt came, if it fails now.
    pub fn wants_progress(&self) -> bool {
        self.policy.attempts_without_progress > 0 && (self.is_starting() || self.is_running())
    }

    /// How far this attempt has come, none if nobody knows: to be said before what may be its failure.
    pub fn note_progress(&mut self, reached: Option<u64>) {
        self.progress.reached = reached;
    }

    /// When the next `Deadline` is due; none while all is well.
    pub fn deadline(&self) -> Option<Moment> {
        let doubt = self.doubt.as_ref().map(|doubt| doubt.until);
        let state = match self.state {
            State::Stopping { deadline, .. } => Some(deadline),
            State::Waiting { until } | State::Barrier { until } | State::Leaving { until } => Some(until),
            State::Joining | State::Starting | State::Running { .. } | State::Over => None,
        };
        doubt.into_iter().chain(state).min()
    }

    /// So much time counts for nobody: they all stood still.
    pub fn give_back(&mut self, lost: Duration) {
        if let State::Stopping { deadline: until, .. } | State::Barrier { until } | State::Leaving { until } =
            &mut self.state
        {
            *until = until.saturating_add(lost);
        }
    }

    /// What goes on, if it is nothing that workers do.
    pub fn wait(&self) -> Option<Wait> {
        match self.state {
            State::Joining => Some(Wait::Round),
            State::Barrier { until } => Some(Wait::Others { until }),
            State::Waiting { until } => Some(Wait::BackOff { until }),
            State::Stopping { stage: Stage::Ask, deadline: until, .. } | State::Leaving { until } => {
                Some(Wait::Answers { until })
            }
            State::Stopping { stage: Stage::PreStop | Stage::Term, deadline, .. } => {
                Some(Wait::Ends { until: deadline })
            }
            // Who is still there soon after SIGKILL is given up.
            State::Stopping { stage: Stage::Kill, .. }
            | State::Starting
            | State::Running { .. }
            | State::Over => None,
        }
    }

    pub fn step(&mut self, event: Event, now: Moment) -> Vec<Action> {
        match event {
            Event::Born => self.alive += 1,
            Event::Exited { .. } | Event::Lost => self.alive -= 1,
            _ => {}
        }
        let event = match (self.state, event) {
            (State::Running { .. }, Event::SaveAndStop { .. }) => event,
            (_, Event::SaveAndStop { .. }) => Event::Stop { signal: 0 },
            _ => event,
        };
        let is_doubtful = match event {
            Event::Exited { by_stop, .. } => by_stop && self.may_be_mistaken(),
            Event::JobClosed => !self.is_over() && !self.is_stopped(),
            _ => false,
        };
        let Some(doubt) = &mut self.doubt else {
            if !is_doubtful {
                return self.react(event, now);
            }
            self.doubt = Some(Doubt { until: now + MOMENT, held: vec![event] });
            return vec![];
        };
        if doubt.holds(event) {
            return vec![];
        }
        // A stop of one's own, or what is worse than a failure, comes before what was held back.
        let held = self.doubt.take().map(|doubt| doubt.held).unwrap_or_default();
        let first = Some(event).filter(|&event| event != Event::Deadline);
        let mut actions = vec![];
        for event in first.into_iter().chain(held) {
            let of_attempt = matches!(event, Event::Exited { .. } | Event::Answered | Event::Hurry);
            let ended = actions.iter().any(|action| matches!(action, Action::EndAttempt { .. }));
            if !(of_attempt && ended) {
                actions.extend(self.react(event, now));
            }
        }
        if self.alive == 0 {
            // Among what was held back was the end of the last one.
            actions.retain(|action| !matches!(action, Action::Ask { .. } | Action::Signal(_) | Action::Kill));
        }
        actions
    }

    /// Whether the end of a worker would count as a failure that a stop could explain.
    fn may_be_mistaken(&self) -> bool {
        match self.state {
            State::Starting | State::Running { .. } => true,
            State::Stopping { .. } => !self.is_stopped(),
            State::Joining
            | State::Waiting { .. }
            | State::Barrier { .. }
            | State::Leaving { .. }
            | State::Over => false,
        }
    }

    /// Whether what ends the run is settled, whatever comes, or what may still come is worse than a stop.
    fn is_stopped(&self) -> bool {
        match self.state {
            State::Stopping { then: Then::End(end), .. } => end != End::WorkerFailure,
            state => matches!(state, State::Leaving { .. }),
        }
    }

    fn react(&mut self, event: Event, now: Moment) -> Vec<Action> {
        let event = if event == Event::JobClosed { Event::JobFailed } else { event };
        match (self.state, event) {
            (State::Over, _) | (_, Event::Born) => vec![],

            (State::Starting, Event::Started) => {
                self.state = State::Running { since: now };
                match self.gentle_stop.take() {
                    Some(until) if self.alive > 0 => self.react(Event::StopGently { until }, now),
                    _ => self.all_gone(now),
                }
            }
            // Another host asks for it, and the workers here are not all there.
            (State::Starting, Event::StopGently { until }) => {
                self.gentle_stop = Some(until);
                vec![]
            }
            (State::Joining | State::Waiting { .. } | State::Barrier { .. }, Event::StopGently { .. }) => {
                self.finish(End::Interrupted)
            }
            // It started once: as for a failed worker, the next attempt may do better.
            (State::Starting | State::Running { .. }, Event::StartFailed { may_pass: true })
                if !self.is_first_attempt() && self.has_restarts() =>
            {
                self.start_failures += 1;
                self.fail(Then::Restart, now)
            }
            (State::Starting | State::Running { .. }, Event::StartFailed { .. }) => {
                let end = if self.is_first_attempt() { End::StartError } else { End::AgentError };
                self.stop(self.policy.stop.stop, Then::End(end), now)
            }
            // The next round cannot be joined now. Nobody counts how often: that is for those in a round.
            (State::Joining, Event::StartFailed { may_pass: true })
                if self.starts > 0 && self.start_failures < self.policy.max_restarts =>
            {
                self.start_failures += 1;
                self.state = State::Waiting { until: now + self.start_backoff() };
                vec![]
            }
            (State::Joining, Event::StartFailed { .. }) => self.finish(End::AgentError),
            (State::Starting, Event::Exited { success: true, .. }) => vec![],
            (State::Running { .. }, Event::Exited { success: true, .. }) => self.all_gone(now),
            (State::Starting | State::Running { .. }, Event::Exited { code, .. }) => {
                let then = self.after_failure(code, now);
                self.fail(then, now)
            }
            (
                State::Starting | State::Running { .. },
                Event::ServerGone | Event::RestartWanted | Event::Stuck { restart: true },
            ) => {
                let then = self.after_failure(None, now);
                self.fail(then, now)
            }
            (State::Starting | State::Running { .. }, Event::Stuck { restart: false }) => {
                self.no_restart = Some(NoRestart::Uninterruptible);
                self.fail(Then::End(End::WorkerFailure), now)
            }
            // The workers of all hosts have saved before, if they were to.
            (State::Starting | State::Running { .. }, Event::RoundOver) => {
                self.stop(self.policy.stop.stop, Then::Regroup, now)
            }
            (State::Starting | State::Running { .. }, Event::JobFailed) => {
                self.stop(self.policy.stop.stop, Then::End(End::WorkerFailure), now)
            }
            (State::Starting | State::Running { .. }, Event::Lost | Event::AgentFailed) => {
                self.stop(self.policy.stop.stop, Then::End(End::AgentError), now)
            }
            (State::Running { .. }, Event::Stop { signal }) => match self.policy.save_before_stop {
                Some(time) => {
                    let then = Then::End(End::Interrupted);
                    self.ask(RequestKind::Save, self.stop_signal(signal), then, now + time, now)
                }
                None => self.stop(self.stop_signal(signal), Then::End(End::Interrupted), now),
            },
            (State::Starting | State::Running { .. }, Event::JobStopped { signal }) => {
                self.stop(self.stop_signal(signal), Then::End(End::Interrupted), now)
            }
            (State::Starting, Event::Stop { signal }) => {
                self.stop(self.stop_signal(signal), Then::End(End::Interrupted), now)
            }
            (State::Running { .. }, Event::SaveAndStop { until }) => {
                self.ask(RequestKind::Save, self.policy.stop.stop, Then::End(End::Interrupted), until, now)
            }
            (State::Running { .. }, Event::StopGently { until }) => {
                self.ask(RequestKind::Stop, self.policy.stop.stop, Then::End(End::Interrupted), until, now)
            }

            (State::Stopping { then, .. }, Event::Lost | Event::AgentFailed) => {
                if then != Then::End(End::StartError) {
                    self.then(Then::End(End::AgentError));
                }
                self.all_gone(now)
            }
            // A worker that could not even start does not hide why the group is stopped.
            (State::Stopping { .. }, Event::Exited { .. } | Event::StartFailed { .. }) => self.all_gone(now),
            (State::Stopping { stage: Stage::Ask, signal, then, .. }, Event::Answered | Event::Deadline) => {
                self.stop(signal, then, now)
            }
            // An earlier stop waits for answers: another one ends that wait.
            (State::Stopping { stage: Stage::Ask, .. }, Event::Stop { signal }) => {
                self.stop(self.stop_signal(signal), Then::End(End::Interrupted), now)
            }
            (State::Stopping { then, .. }, Event::Stop { .. }) => {
                if !matches!(then, Then::End(End::AgentError | End::StartError)) {
                    self.then(Then::End(End::Interrupted));
                }
                vec![]
            }
            (State::Stopping { then: Then::Restart | Then::Regroup, .. }, Event::JobStopped { .. }) => {
                self.then(Then::End(End::Interrupted));
                vec![]
            }
            (State::Stopping { then: Then::Restart | Then::Regroup, .. }, Event::JobFailed) => {
                self.then(Then::End(End::WorkerFailure));
                vec![]
            }
            (State::Stopping { stage: Stage::Ask | Stage::PreStop | Stage::Term, .. }, Event::Hurry) => {
                self.gentle_stop = None;
                self.kill(now)
            }
            (State::Stopping { stage: Stage::PreStop, signal, .. }, Event::Deadline) => {
                self.terminate(signal, now)
            }
            (State::Stopping { stage: Stage::Term, .. }, Event::Deadline) => self.kill(now),
            (State::Stopping { stage: Stage::Kill, then, .. }, Event::Deadline) => {
                let end = match then {
                    Then::Restart | Then::Regroup => End::WorkerFailure,
                    Then::End(end) => end,
                };
                self.no_restart.get_or_insert(NoRestart::Stuck);
                self.state = State::Over;
                vec![Action::GiveUp, Action::EndAttempt { succeeded: false }, Action::Finish(end)]
            }

            (State::Waiting { .. }, Event::Deadline) => self.join_or_start(self.attempt + 1),

            (State::Joining, Event::Joined { round, restarts }) => {
                self.job_restarts = restarts;
                self.start(round)
            }
            (State::Joining, Event::NotNeeded) => self.finish(End::NotNeeded),

            (State::Barrier { .. }, Event::RoundOver) => self.join_or_start(self.attempt + 1),
            (State::Barrier { .. }, Event::JobSucceeded | Event::Deadline) => self.finish(End::Succeeded),

            (
                State::Leaving { .. },
                Event::Answered
                | Event::Deadline
                | Event::Stop { .. }
                | Event::Hurry
                | Event::RoundOver
                | Event::JobSucceeded
                | Event::JobFailed
                | Event::JobClosed
                | Event::JobStopped { .. }
                | Event::AgentFailed,
            ) => self.finish(End::Interrupted),
            (
                State::Waiting { .. } | State::Joining | State::Barrier { .. },
                Event::Stop { .. } | Event::JobStopped { .. },
            ) => self.finish(End::Interrupted),
            (State::Waiting { .. } | State::Joining | State::Barrier { .. }, Event::JobFailed) => {
                self.finish(End::WorkerFailure)
            }
            // In the barrier: whether the others have succeeded is not known, and never will be.
            (State::Waiting { .. } | State::Joining | State::Barrier { .. }, Event::AgentFailed) => {
                self.finish(End::AgentError)
            }

            // What is left cannot happen or changes nothing: a deadline that was overtaken, a hurry in the last stage
            // or without a stop, workers that end or are stuck while none is there, a round that is over because
            // of what is being dealt with already.
            (
                State::Starting | State::Running { .. },
                Event::Deadline
                | Event::Hurry
                | Event::Started
                | Event::Answered
                | Event::Joined { .. }
                | Event::JobSucceeded
                | Event::JobClosed
                | Event::NotNeeded,
            )
            | (State::Starting | State::Stopping { .. }, Event::SaveAndStop { .. })
            | (
                State::Stopping { .. },
                Event::Started
                | Event::Hurry
                | Event::ServerGone
                | Event::RestartWanted
                | Event::Stuck { .. }
                | Event::Answered
                | Event::StopGently { .. }
                | Event::Joined { .. }
                | Event::RoundOver
                | Event::JobSucceeded
                | Event::JobFailed
                | Event::JobClosed
                | Event::JobStopped { .. }
                | Event::NotNeeded,
            )
            | (State::Joining | State::Barrier { .. } | State::Waiting { .. } | State::Leaving { .. }, _) => {
                vec![]
            }
        }
    }

    fn after_failure(&mut self, code: Option<i32>, now: Moment) -> Then {
        let uptime = match self.state {
            State::Running { since } => now.saturating_sub(since),
            _ => Duration::ZERO,
        };
        self.start_failures = 0;
        self.progress.end_attempt();
        let (in_vain, most) = (self.progress.in_vain, self.policy.attempts_without_progress);
        self.no_restart = match code {
            Some(code) if self.policy.no_restart_exit_codes.contains(&code) => {
                Some(NoRestart::ExitCode(code))
            }
            _ if uptime < self.policy.min_uptime => Some(NoRestart::CrashLoop),
            _ if most > 0 && in_vain >= most => Some(NoRestart::NoProgress(in_vain)),
            _ => None,
        };
        if self.no_restart.is_none() && self.has_restarts() {
            Then::Restart
        } else {
            Then::End(End::WorkerFailure)
        }
    }

    fn stop_signal(&self, asked_for: i32) -> i32 {
        if asked_for == 0 { self.policy.stop.stop } else { asked_for }
    }

    /// Before a stop: `signal` follows when they have done so, or when it is `until`.
    fn ask(&mut self, to: RequestKind, signal: i32, then: Then, until: Moment, now: Moment) -> Vec<Action> {
        if self.alive == 0 {
            return self.stop(signal, then, now);
        }
        self.state = State::Stopping { stage: Stage::Ask, deadline: until, signal, then };
        self.gentle_stop =
            Some(until).filter(|_| to == RequestKind::Stop && self.policy.rendezvous.is_some());
        let reason = if to == RequestKind::Save { Reason::Preemption } else { Reason::Host };
        vec![Action::Ask { to, reason, until }]
    }

    /// A worker failed, so the group is stopped, on all hosts.
    fn fail(&mut self, then: Then, now: Moment) -> Vec<Action> {
        let mut actions = self.stop(self.policy.stop.stop, then, now);
        if self.policy.rendezvous.is_some() {
            // After the signals, but before what follows when nobody was there to be signalled.
            let at = actions.iter().position(|action| !matches!(action, Action::Signal(_) | Action::Kill));
            let last = then != Then::Restart;
            actions.insert(at.unwrap_or(actions.len()), Action::Announce { last });
        }
        actions
    }

    fn finish(&mut self, end: End) -> Vec<Action> {
        self.state = State::Over;
        vec![Action::Finish(end)]
    }

    fn then(&mut self, next: Then) {
        if let State::Stopping { then, .. } = &mut self.state {
            *then = next;
        }
    }

    fn stop(&mut self, signal: i32, then: Then, now: Moment) -> Vec<Action> {
        self.gentle_stop = None;
        match self.policy.stop.pre_stop {
            Some((early, time)) if !time.is_zero() && self.alive > 0 => {
                self.state = State::Stopping { stage: Stage::PreStop, deadline: now + time, signal, then };
                vec![Action::Signal(early)]
            }
            _ => {
                self.state = State::Stopping { stage: Stage::Term, deadline: now, signal, then };
                if self.alive == 0 { self.all_gone(now) } else { self.terminate(signal, now) }
            }
        }
    }

    fn terminate(&mut self, signal: i32, now: Moment) -> Vec<Action> {
        let timeout = self.policy.shutdown_timeout;
        if let State::Stopping { stage, deadline, .. } = &mut self.state {
            (*stage, *deadline) = (Stage::Term, now + timeout);
        }
        let mut actions = vec![Action::Signal(signal)];
        if timeout.is_zero() {
            actions.extend(self.kill(now));
        }
        actions
    }

    fn kill(&mut self, now: Moment) -> Vec<Action> {
        if let State::Stopping { stage, deadline, .. } = &mut self.state {
            (*stage, *deadline) = (Stage::Kill, now + self.policy.give_up_after);
        }
        vec![Action::Kill]
    }

    /// Goes on if no worker is left.
    fn all_gone(&mut self, now: Moment) -> Vec<Action> {
        if self.alive > 0 {
            return vec![];
        }
        let then = match self.state {
            State::Stopping { then, .. } => then,
            _ => Then::End(End::Succeeded),
        };
        let mut actions = vec![Action::EndAttempt { succeeded: then == Then::End(End::Succeeded) }];
        match (then, self.policy.rendezvous) {
            (Then::End(End::Succeeded), Some(patience)) => {
                actions.push(Action::Arrive);
                self.state = State::Barrier { until: now + patience };
                if patience.is_zero() {
                    actions.extend(self.finish(End::Succeeded));
                }
            }
            (Then::End(end), _) => match self.gentle_stop.take() {
                Some(until) if end == End::Interrupted => self.state = State::Leaving { until },
                _ => actions.extend(self.finish(end)),
            },
            (Then::Regroup, _) => actions.extend(self.join_or_start(self.attempt + 1)),
            (Then::Restart, _) => {
                let wait = if self.start_failures > 0 { Some(self.start_backoff()) } else { self.backoff() };
                self.restarts += 1;
                match wait {
                    Some(wait) => self.state = State::Waiting { until: now + wait },
                    None => actions.extend(self.join_or_start(self.attempt + 1)),
                }
            }
        }
        actions
    }

    /// The next attempt, which of several hosts is a round that all of them join first.
    fn join_or_start(&mut self, attempt: u32) -> Vec<Action> {
        match self.policy.rendezvous {
            None => self.start(attempt),
            Some(_) => {
                self.state = State::Joining;
                vec![Action::Join]
            }
        }
    }

    fn start(&mut self, attempt: u32) -> Vec<Action> {
        (self.attempt, self.starts) = (attempt, self.starts + 1);
        self.state = State::Starting;
        vec![Action::Start { attempt }]
    }

    /// The wait before the next attempt: doubled each time, up to the maximum.
    fn backoff(&self) -> Option<Duration> {
        self.policy.restart_backoff.map(|backoff| doubled(backoff, self.restarts))
    }

    /// The same where nothing could be started: never none at all, unless the spec says so.
    fn start_backoff(&self) -> Duration {
        self.backoff().unwrap_or_else(|| doubled(START_BACKOFF, self.start_failures.saturating_sub(1)))
    }
}

fn doubled((first, most): (Duration, Duration), times: u32) -> Duration {
    let factor = 1u32.checked_shl(times).unwrap_or(u32::MAX);
    first.checked_mul(factor).unwrap_or(most).min(most)
}

#[cfg(test)]
mod tests;
