//! The dispatcher of one run: it waits, feeds the supervisor with what happens, and has the parts do what that says.
//!
//! Each part has one subject and fields of its own. It is called with what it needs, and says what came of it, often as
//! events for the supervisor; none calls the dispatcher. The wait is for descriptors and deadlines, without a time-out
//! while all is well. Nothing that may be slow is done between a worker's exit and the signals that follow it.

mod ask;
mod births;
mod context;
mod control;
mod control_channel;
mod debug;
mod descendants;
mod end_of_worker;
mod expiry;
mod files;
mod finish;
mod fork_server;
mod group;
mod guests;
mod health;
mod job;
mod job_requests;
mod master_port;
mod port;
mod rendezvous;
mod reporter;
mod results;
mod start;
mod stop;
mod stuck;
mod suspend;
mod timeline;
pub(super) mod timer_file;
mod waits;
mod wake;
mod watchers;

pub(super) use job::{job, run_id};

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use self::ask::Question;
use self::context::Context;
use self::control::Control;
use self::debug::{Debuggers, Time};
use self::descendants::Descendants;
use self::end_of_worker::EndOfWorker;
use self::files::Files;
use self::finish::broken_off;
use self::fork_server::ForkServer;
use self::group::Group;
use self::guests::Guests;
use self::master_port::MasterPort;
use self::rendezvous::{Heard, Membership};
use self::results::Results;
use self::stop::Stop;
use self::stuck::Stuck;
use self::timeline::Timeline;
use self::waits::Waits;
use self::wake::Wake;
use self::watchers::Watchers;
use super::health::Health;
use super::{Host, Settled, Shared, binding};
use crate::control::request::{Reason, RequestKind};
use crate::control::watch::earlier;
use crate::error::{Error, panic_text};
use crate::logs::run_dir::RunDir;
use crate::moment::Moment;
use crate::plan;
use crate::process::attempt::Attempt;
use crate::process::launch::Launcher;
use crate::process::start::forkserver;
use crate::process::start::{self as start_method, forkserver::ServerAnswer};
use crate::process::watcher::Name;
use crate::ranks;
use crate::report::exit_status::Exit;
use crate::report::{Cause, End, GroupState, Outcome, RunReport, metrics, stuck_text};
use crate::scheduler::Choice;
use crate::spec::names::Signal;
use crate::spec::placement::FromScheduler;
use crate::spec::{Level, Spec};
use crate::standstill::{self, Standstill};
use crate::supervise::{Action, Event, Policy, Supervisor};
use crate::sys::limits;
use crate::sys::process::{Usage, monotonic};
use crate::sys::signals::Inbox;

/// How long after SIGKILL a worker that is still there is given up (it sleeps in the kernel).
const GIVE_UP_AFTER: Duration = Duration::from_secs(5);

/// Runs a spec to its end, whatever happens: a panic becomes an agent error.
///
/// A run that is prepared first says what came of that to `begin`, which waits until the run may begin,
/// and gives what it then takes of the host. None if it never began.
pub fn to_its_end(
    spec: &Spec,
    settled: &Settled,
    inbox: &Arc<Inbox>,
    shared: &Arc<Shared>,
    host: Host,
    begin: Option<&dyn Fn(Result<(), Error>) -> Option<Host>>,
) -> Option<RunReport> {
    let run = || -> Result<Option<RunReport>, Error> {
        let raised = spec.raise_descriptor_limit.then(limits::Raised::to_hard).transpose();
        let _raised = raised.map_err(|errno| Error::system("cannot raise RLIMIT_NOFILE", errno as i32))?;
        let mut run = match Run::new(spec, settled, inbox, shared, host) {
            Ok(run) => run,
            Err(error) => match begin {
                None => return Err(error),
                Some(begin) => {
                    begin(Err(error));
                    return Ok(None);
                }
            },
        };
        if let Some(begin) = begin {
            let Some(host) = begin(run.prepare()) else {
                run.files.run_dir().map(RunDir::tidy);
                return Ok(None);
            };
            run.take_over(host);
        }
        run.run().map(Some)
    };
    let report = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(report)) => report,
        Ok(Err(error)) => Some(broken_off(spec, error)),
        Err(panic) => Some(broken_off(spec, Error::Internal { what: panic_text(&*panic) })),
    };
    report.inspect(|report| metrics::count(report.end, report.restarts))
}

struct Run<'a> {
    /// First, as these are dropped in order: a panic drops the workers while they are still watched.
    group: Group,
    launcher: Launcher,
    server: ForkServer,
    watchers: Watchers,
    descendants: Descendants,
    supervisor: Supervisor,
    /// What the supervisor wants done.
    actions: VecDeque<Action>,
    control: Control,
    stuck: Stuck,
    debuggers: Debuggers,
    question: Question,
    stop: Stop,
    guests: Guests,
    files: Files,
    results: Results,
    membership: Membership,
    port: MasterPort,
    waits: Waits,
    timeline: Timeline,
    health: Option<Health>,
    /// When this loop did not run though it was to.
    standstill: Standstill,
    /// Why the run cannot go on, for a start error or agent error.
    error: Option<Error>,
    end: Option<End>,
    context: Context<'a>,
}

impl<'a> Run<'a> {
    fn new(
        spec: &'a Spec,
        settled: &'a Settled,
        inbox: &'a Arc<Inbox>,
        shared: &'a Arc<Shared>,
        host: Host,
    ) -> Result<Run<'a>, Error> {
        let launcher = Launcher::new(spec, host.working_dir.clone())?;
        let context = Context::new(spec, settled, inbox, shared, host)?;
        let (supervisor, actions) = Supervisor::new(Policy {
            max_restarts: spec.max_restarts,
            restart_backoff: spec.restart_backoff,
            min_uptime: spec.min_uptime,
            no_restart_exit_codes: spec.no_restart_exit_codes.clone(),
            attempts_without_progress: spec.attempts_without_progress,
            stop: spec.stop_signals,
            shutdown_timeout: settled.checked.shutdown_timeout,
            save_before_stop: Some(spec.checkpoint_before_stop).filter(|time| !time.is_zero()),
            give_up_after: GIVE_UP_AFTER,
            rendezvous: settled.rendezvous.as_ref().map(|rendezvous| rendezvous.exit_barrier_timeout),
        });
        Ok(Run {
            group: Group::new(ranks::single(spec.local_world_size)),
            launcher,
            server: ForkServer::none(),
            watchers: Watchers::default(),
            descendants: Descendants::new(spec),
            supervisor,
            actions: actions.into(),
            control: Control::default(),
            stuck: Stuck::default(),
            debuggers: Debuggers::default(),
            question: Question::default(),
            stop: Stop::new(spec),
            guests: Guests::default(),
            files: Files::default(),
            results: Results::default(),
            membership: Membership::default(),
            port: MasterPort::default(),
            waits: Waits::default(),
            timeline: Timeline::default(),
            health: None,
            standstill: Standstill::default(),
            error: None,
            end: None,
            context,
        })
    }

    /// What can be done before the run begins.
    fn prepare(&mut self) -> Result<(), Error> {
        self.watchers.start(&self.context, &mut self.descendants);
        self.files.make(&self.context)?;
        self.name_run_dir();
        if self.context.settled.rendezvous.is_none() {
            self.port.reserve(&self.context)?;
        }
        if start_method::of(self.context.spec).has_server() { self.start_server() } else { Ok(()) }
    }

    fn name_run_dir(&self) {
        let path = self.files.run_dir().map(RunDir::path);
        self.watchers.name(&self.context, Name::RunDir, path);
    }

    /// The run begins: what it takes of the host is taken now.
    fn take_over(&mut self, host: Host) {
        self.launcher.set_working_dir(self.context.spec, host.working_dir.clone());
        self.context.host = host;
    }

    fn run(mut self) -> Result<RunReport, Error> {
        self.say_what_is_odd();
        if !self.watchers.are_there() {
            self.watchers.start(&self.context, &mut self.descendants);
        }
        self.timeline.begin_run();
        self.standstill.begin(monotonic());
        self.health = health::start(&self.context, &self.watchers);
        loop {
            self.act();
            self.look_at_waits();
            if let Some(end) = self.end {
                return Ok(self.finish(end));
            }
            self.wait_for_events();
        }
    }

    fn say_what_is_odd(&self) {
        let (spec, context) = (self.context.spec, &self.context);
        for name in &spec.unknown_signals {
            context.log(Level::Warning, || format!("no signal is called {name}: it is left out of the list"));
        }
        let size = spec.local_world_size;
        for (field, rank) in spec.absent_ranks() {
            context.log(Level::Warning, || {
                format!("{field} names local rank {rank}, but there are {size} workers: it is left out")
            });
        }
        if let Some(name) = plan::scrubbed(spec, &context.host.env) {
            context.log(Level::Info, || {
                format!("a rank of MPI ({name}): workers get nothing of its launcher's variables")
            });
        }
        if let Some(text) = binding::one_cpu(spec) {
            context.log(Level::Warning, || text);
        }
        for FromScheduler { option, value, source } in &spec.sources {
            context.log(Level::Info, || format!("{option} is {value}: {source}"));
        }
        // As torchrun says it, to those who would have a scheduler say a better number.
        if spec.scheduler != Choice::Nobody && plan::has_one_thread(spec, &context.host.env) {
            context.log(Level::Warning, || {
                "OMP_NUM_THREADS is not set, workers get 1: set it to what suits the program".into()
            });
        }
    }

    // ---- the supervisor, and what it wants done

    /// Tells the supervisor, and queues what it says.
    fn tell(&mut self, event: Event) {
        if event != Event::Born && self.supervisor.wants_progress() {
            let reached = self.control.reached();
            self.supervisor.note_progress(reached);
        }
        let actions = self.supervisor.step(event, monotonic());
        self.actions.extend(actions);
    }

    fn act(&mut self) {
        while let Some(action) = self.actions.pop_front() {
            match action {
                Action::Join => self.join(),
                Action::Announce { last } => self.announce(last),
                Action::Arrive => self.membership.arrive(&self.context),
                Action::Start { attempt } => self.start(attempt),
                Action::Ask { to, reason, until } => self.ask_before_stop(to, reason, until),
                Action::Signal(signal) => self.stop_workers(signal),
                Action::Kill => self.stop_workers(libc::SIGKILL),
                Action::GiveUp => self.give_up(),
                Action::EndAttempt { .. } if self.waits_for_guests() => {
                    self.actions.push_front(action);
                    return;
                }
                Action::EndAttempt { succeeded } => self.end_attempt(succeeded),
                Action::Finish(end) => self.end = Some(end),
            }
        }
    }

    /// Something could not be started, in this attempt or for the next one.
    fn start_failed(&mut self, error: Error) {
        let may_pass = error.may_pass();
        self.error.get_or_insert(error);
        self.tell(Event::StartFailed { may_pass });
    }

    fn agent_failed(&mut self, error: Error) {
        self.context.log(Level::Error, || error.to_string());
        self.error.get_or_insert(error);
        self.tell(Event::AgentFailed);
    }

    fn stop_workers(&mut self, signal: i32) {
        let Some(number) = self.group.attempt().map(|attempt| attempt.number) else { return };
        self.timeline.begin_stop();
        self.control.refuse(&self.group);
        self.membership.say(self.control.take_words());
        let refused = stop::send(&self.context, &mut self.group, &self.descendants, &self.control, signal);
        self.timeline.publish(&self.context, GroupState::Stopped, self.supervisor.attempt());
        self.timeline.end_monitoring(&self.context, number);
        self.context.log(Level::Info, || format!("sent {} to the workers", Signal(signal)));
        for (pid, errno) in refused {
            self.context.log(Level::Warning, || format!("PID {pid} cannot be signalled: {}", errno.desc()));
        }
    }

    fn give_up(&mut self) {
        for (pid, unsignallable) in self.group.attempt_mut().map(Attempt::give_up).unwrap_or_default() {
            self.context.log(Level::Error, || stuck_text(pid, unsignallable));
        }
    }

    // ---- events

    fn wait_for_events(&mut self) {
        let now = self.now();
        let deadlines = [
            self.supervisor.deadline(),
            self.stuck_deadline(),
            self.control_deadline(),
            self.waits.deadline(&self.membership),
            self.descendants.deadline(),
            self.guests.deadline(),
        ];
        let limit = limit(deadlines, now);
        let kept = self.server.take_kept();
        if !kept.is_empty() {
            kept.into_iter().for_each(|answer| self.told(answer));
            return;
        }
        let woken = self.context.poll.wait(limit);
        self.context.shared.pulse.beat();
        let lost = self.standstill.wake(limit.map(|limit| now.saturating_add(limit)), monotonic());
        self.give_back(lost);
        for wake in woken {
            match wake {
                Wake::Inbox => self.take_requests(),
                Wake::Watcher => self.watchers.replace_first(&self.context, &mut self.descendants),
                Wake::Keeper => self.watchers.replace_second(&self.context, &mut self.descendants),
                Wake::ForkServer => self.hear_server(),
                Wake::Store => self.port.serve(&self.context),
                Wake::Timers => self.stuck.hear_timers(&self.context, &self.group),
                Wake::Search => {} // looked at below
                Wake::Worker(index) => self.look(index),
            }
            self.act();
            if self.end.is_some() {
                return;
            }
        }
        self.do_what_is_due();
    }

    fn do_what_is_due(&mut self) {
        if self.control_deadline().is_some_and(|deadline| deadline <= monotonic()) {
            self.converse();
        }
        let is_due = |run: &mut Run| {
            let now = run.now();
            run.supervisor.deadline().is_some_and(|deadline| deadline <= now)
        };
        if is_due(self) && self.supervisor.is_in_doubt() {
            // A moment has passed since a worker died of what would stop the run: a stop that has come by now, to
            // whatever thread, is the first to count.
            self.stop.await_pending();
            if self.context.inbox.has_requests() {
                self.take_requests();
            }
            self.act();
        }
        if is_due(self) {
            self.tell(Event::Deadline);
        }
        self.descendants.reap(&self.context, self.group.attempt());
        self.look_after_stuck();
    }

    /// The time by which something may be found to be late: that in which nobody ran has been given back.
    fn now(&mut self) -> Moment {
        let now = monotonic();
        let lost = self.standstill.work(now);
        self.give_back(lost);
        now
    }

    /// For so long nobody ran, at most: no limit counts it.
    fn give_back(&mut self, lost: Duration) {
        if lost.is_zero() {
            return;
        }
        if self.group.attempt().is_some() {
            let seconds = lost.as_secs_f64();
            self.context.log(Level::Info, || {
                format!("this agent did not run for up to {seconds:.3} s: no time limit counts them")
            });
        }
        self.supervisor.give_back(lost);
        self.stuck.give_back(lost);
        self.guests.give_back(lost);
        self.control.give_back(lost);
    }

    /// Time that has passed up to now counts for no timer.
    fn begin_timers_anew(&mut self) {
        let now = monotonic();
        self.stuck.begin_anew(&self.context, now);
        self.control.begin_anew(now);
    }

    fn keep_time(&mut self, time: Time) {
        match time {
            Time::AsBefore => {}
            Time::BeginsAnew => self.begin_timers_anew(),
        }
    }

    // ---- the end of a worker

    fn look(&mut self, index: usize) {
        let Some(attempt) = self.group.attempt_mut() else { return };
        if !attempt.look(index) {
            return;
        }
        if let Some(pidfd) = attempt.pidfd(index) {
            self.context.poll.delete(pidfd);
        }
        self.ended(index);
    }

    fn hear_server(&mut self) {
        loop {
            match self.server.hear() {
                None | Some(forkserver::Heard::Nothing) => return,
                Some(forkserver::Heard::Answer(answer, _)) => self.told(answer),
                Some(forkserver::Heard::Gone) => return self.server_gone(),
            }
        }
    }

    /// The fork server told of the end of a worker.
    fn told(&mut self, answer: ServerAnswer) {
        let (slot, outcome, usage) = match answer {
            ServerAnswer::Ended { slot, status, usage } => (slot, Outcome::from(status), usage),
            ServerAnswer::Lost { slot } => (slot, Outcome::Lost, Usage::default()),
            _ => return,
        };
        if self.group.attempt_mut().is_some_and(|attempt| attempt.told(slot, outcome, usage)) {
            self.ended(slot);
        }
    }

    /// The fork server is gone, or of no more use: the group goes with it.
    fn server_gone(&mut self) {
        if !self.server.gone(&self.context, &self.watchers, &mut self.descendants) {
            return;
        }
        if let Some(attempt) = self.group.attempt_mut() {
            for index in attempt.orphan(self.watchers.table()) {
                if let Some(pidfd) = attempt.pidfd(index) {
                    let _ = self.context.poll.add(pidfd, Wake::Worker(index));
                }
            }
        }
        self.tell(Event::ServerGone);
    }

    fn ended(&mut self, index: usize) {
        // It may have asked and then ended.
        self.hear_restart();
        let Some(attempt) = self.group.attempt_mut() else { return };
        let worker = &mut attempt.workers[index];
        self.watchers.note(index, worker.group());
        self.stuck.forget(&self.context.poll, index);
        let mut end = EndOfWorker::of(&self.context, &self.launcher, worker);
        let by_stop = self.stop.explains(end.cause, end.outcome);
        if let Some(error) = end.start_error.take() {
            self.start_failed(error);
        }
        self.tell(end.event(by_stop));
        if end.cause == Cause::Success {
            self.stuck.expect_stragglers(self.context.spec.straggler_timeout);
        }
        end.log(&self.context);
        self.context.show_worker(index, end.pid, end.outcome);
        self.context.output.worker_ended(index);
        if self.control.miss_answer() {
            self.attend();
        }
        if self.debuggers.is_terminal_lent() {
            self.attend_debuggers();
        }
    }

    // ---- requests

    fn take_requests(&mut self) {
        let inbox = self.context.inbox;
        self.context.shared.pulse.beat();
        let passed: Vec<i32> = inbox.take_passed().collect();
        if inbox.take_suspend() {
            self.suspend();
        }
        let is_running = self.supervisor.is_running();
        self.question.hear_interrupts(&self.context, &mut self.debuggers, is_running);
        self.stop.hear_saves(&self.context, is_running && self.control.is_saving());
        if let Some(signal) = self.stop.hear(&self.context) {
            self.question.call_off();
            if self.supervisor.is_in_doubt() {
                self.stop.excuse_ends(&mut self.group);
            }
            self.tell(stop::event(self.context.spec, signal, monotonic()));
        }
        if self.stop.hear_hurry(&self.context) {
            self.tell(Event::Hurry);
        }
        if let Some(attempt) = self.group.attempt() {
            passed.into_iter().for_each(|signal| attempt.pass(signal));
        }
        if inbox.child_ended() {
            self.descendants.child_ended();
        }
        self.hear_others();
        self.converse();
    }

    /// ^Z: stands still, and all workers with it, until somebody continues this process.
    fn suspend(&mut self) {
        if self.is_debugging() {
            return self.context.log(Level::Info, || "not suspended: a rank is at its debugger".into());
        }
        suspend::stand_still(&self.context, &self.group);
        self.begin_timers_anew();
        suspend::go_on(&self.context, &self.group);
    }

    // ---- the other hosts of the job

    /// No worker is left here: the next round may begin.
    fn join(&mut self) {
        match self.membership.join(&self.context, &mut self.port) {
            Ok(()) => {}
            Err(error) if !self.membership.is_there() => self.agent_failed(error),
            Err(error) => {
                let text = error.to_string();
                self.start_failed(error);
                if self.supervisor.goes_on() {
                    self.error = None;
                    self.context.log(Level::Warning, || format!("{text}: joining later"));
                }
            }
        }
    }

    /// A worker failed here: the workers of all hosts are to be stopped.
    fn announce(&mut self, last: bool) {
        let Some(attempt) = self.group.attempt() else { return };
        let (reason, exit) =
            results::so_far(&self.context, attempt, self.server.end()).unwrap_or_else(|| {
                let reason = self.error.as_ref().map_or_else(|| "a worker failed".into(), Error::to_string);
                (reason, Exit::default())
            });
        self.membership.announce(reason, exit, last);
    }

    fn hear_others(&mut self) {
        loop {
            let next_round = self.supervisor.next_round();
            match self.membership.hear(&self.context, &mut self.port, next_round) {
                None => return self.membership.say(self.control.take_words()),
                Some(Heard::Reached) => self.waits.rendezvous_is_reached(),
                Some(Heard::Joined(ranks, event)) => {
                    self.group.rank_anew(ranks);
                    self.control.enter_round();
                    self.tell(event);
                }
                Some(Heard::Requested(view)) => {
                    let events = self.control.hear_job(&self.context, &self.group, view);
                    events.into_iter().for_each(|event| self.tell(event));
                }
                Some(Heard::Told(event)) => {
                    self.leave_round();
                    if matches!(event, Event::JobStopped { .. }) && self.supervisor.is_in_doubt() {
                        self.stop.excuse_ends(&mut self.group);
                    }
                    self.tell(event);
                }
                Some(Heard::Failed(error)) => {
                    self.leave_round();
                    self.agent_failed(error);
                }
            }
        }
    }

    fn leave_round(&mut self) {
        let events = self.control.leave_round(&self.context, &self.group);
        events.into_iter().for_each(|event| self.tell(event));
    }

    fn look_at_waits(&mut self) {
        let (wait, about) = (self.supervisor.wait(), (&self.group, &self.control));
        self.waits.look(&self.context, wait, &mut self.membership, about);
    }

    // ---- control of the workers

    /// When `converse` is due, whatever else happens.
    fn control_deadline(&self) -> Option<Moment> {
        if !self.context.spec.has_control() {
            return None;
        }
        let control = self.control.deadline(&self.context, self.supervisor.is_running());
        earlier(control, self.stop.deadline())
    }

    /// Does what can be done now: takes answers, makes the next request, looks what expired.
    fn converse(&mut self) {
        if !self.context.spec.has_control() {
            return;
        }
        self.attend();
        if self.supervisor.is_running() {
            self.attend_debuggers();
        }
        self.hear_restart();
        if self.control.takes_look() && self.supervisor.is_running() {
            self.look_for_expired();
        }
    }

    fn attend(&mut self) {
        let is_running = self.supervisor.is_running();
        let is_undisturbed = self.supervisor.is_undisturbed();
        let events = self.control.attend(&self.context, &self.group, is_running, is_undisturbed);
        events.into_iter().for_each(|event| self.tell(event));
        let is_free = !self.control.is_asking() && self.control.is_open();
        let can_ask = is_free && self.supervisor.is_running();
        if let Some(until) = self.stop.take_save(&self.context, can_ask) {
            self.control.ask_to_save(&self.context, &self.group, until);
        }
        self.membership.say(self.control.take_words());
    }

    fn ask_before_stop(&mut self, kind: RequestKind, reason: Reason, until: Moment) {
        // Whoever was asked at the terminal, and answered or did not want to, is not asked again.
        let is_answered = kind == RequestKind::Save && self.question.is_answered(&self.context);
        let ask = (kind, reason, until);
        match self.control.ask_before_stop(&self.context, &mut self.group, ask, is_answered) {
            Some(event) => self.tell(event),
            None => self.converse(),
        }
    }

    fn hear_restart(&mut self) {
        let is_running = self.supervisor.is_running();
        let event = self.control.hear_restart(&self.context, &self.group, is_running);
        event.into_iter().for_each(|event| self.tell(event));
    }

    fn is_debugging(&self) -> bool {
        self.debuggers.are_there(&self.context, &self.group)
    }

    fn attend_debuggers(&mut self) {
        let is_running = self.supervisor.is_running();
        let time = self.debuggers.attend(&self.context, &self.group, &mut self.control, is_running);
        self.keep_time(time);
    }

    fn look_for_expired(&mut self) {
        if self.is_debugging() {
            return self.control.stand_still();
        }
        let (now, decided) = (self.now(), self.stuck.decided());
        let overdue =
            self.control.look_for_expired(&self.context, &self.group, &self.standstill, decided, now);
        for overdue in overdue {
            self.stuck.overdue(&self.context, &self.group, overdue);
        }
    }

    /// When somebody who may be stuck has to be looked at; never once the group is being stopped.
    fn stuck_deadline(&self) -> Option<Moment> {
        if self.supervisor.is_running() && !self.is_debugging() { self.stuck.deadline() } else { None }
    }

    fn look_after_stuck(&mut self) {
        if !self.supervisor.is_running() {
            return self.stuck.call_off_searches(&self.context, &mut self.group);
        }
        let now = self.now();
        if self.stuck_deadline().is_some_and(|deadline| deadline <= now) {
            let events = self.stuck.look(&self.context, &mut self.group, now);
            events.into_iter().for_each(|event| self.tell(event));
        }
    }
}

/// How long to wait for events at once; without a limit while all is well.
fn limit<const N: usize>(deadlines: [Option<Moment>; N], now: Moment) -> Option<Duration> {
    let first = deadlines.into_iter().flatten().min()?;
    Some(standstill::piece(first.saturating_sub(now)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loop_wakes_for_the_first_deadline_and_for_nothing_where_there_is_none() {
        let at = |milliseconds| Some(Duration::from_millis(milliseconds));
        assert_eq!(limit([None, None], Duration::ZERO), None);
        assert_eq!(limit([at(1400), None, at(1300)], Duration::from_secs(1)), at(300));
        assert_eq!(limit([at(900)], Duration::from_secs(1)), Some(Duration::ZERO), "it is late");
    }
}
