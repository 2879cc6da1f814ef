//! The dispatcher's way through the end of an attempt, and of the run: from what became of its workers, or of its
//! machinery, to the report.

use std::path::Path;
use std::time::Duration;

use super::Run;
use super::ask::Question;
use super::context::{Context, origin};
use super::descendants::GONE_WITHIN;
use super::reporter::path_bytes;
use super::results::never_started;
use super::watchers::Watchers;
use crate::error::{Error, c_string_lossy};
use crate::logs::events::Places;
use crate::logs::output::Output;
use crate::ranks;
use crate::report::event::flakiness;
use crate::report::exit_status::{self, Exit};
use crate::report::{End, GroupState, Outcome, RunReport, WorkerReport, error_file, summary};
use crate::shown::shown;
use crate::spec::names::stopped_by;
use crate::spec::{Level, Spec};
use crate::supervise::NoRestart;
use crate::sys::file;
use crate::sys::process::monotonic;

/// How long the event that says that nothing works may take to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Run<'_> {
    /// Whether agents that workers have started still stop theirs, and have the time for it.
    pub(super) fn waits_for_guests(&mut self) -> bool {
        let Some(attempt) = self.group.attempt_mut() else { return false };
        let limits = (self.context.settled.checked.shutdown_timeout, self.context.inbox.in_a_hurry());
        self.guests.wait(self.timeline.stopping(), limits, || attempt.has_guests(), monotonic())
    }

    pub(super) fn end_attempt(&mut self, succeeded: bool) {
        let Some(number) = self.group.attempt().map(|attempt| attempt.number) else { return };
        self.timeline.end_monitoring(&self.context, number);
        self.stuck.end(&self.context, &mut self.group);
        let event = self.control.close(&self.context, &self.group);
        self.membership.say(self.control.take_words());
        event.into_iter().for_each(|event| self.tell(event));
        let time = self.debuggers.forget(&self.context, &self.group);
        self.keep_time(time);
        let Some(mut attempt) = self.group.end() else { return };
        let spec = self.context.spec;
        let kill = !succeeded || spec.kill_group_on_success;
        let (server, finder) = (self.server.get(), self.descendants.finder());
        let left = attempt.end(kill, server, finder, GONE_WITHIN, spec.monitor_interval);
        self.descendants.note_left(&self.context, left);
        self.descendants.forget_ended(&self.context);
        for slot in 0..attempt.workers.len() {
            self.watchers.note(slot, 0);
        }
        self.port.leave(&self.context);
        // Before the reports, which look into the files.
        self.context.output.drain(number);
        self.context.output.close(number);
        self.results.end_attempt(&self.context, &attempt, succeeded, self.server.end());
        self.timeline.end_attempt(&self.context, number);
        // If another attempt follows, the error is one of the failures on the way, and not that of the run.
        let start_error = if self.supervisor.goes_on() { self.error.take() } else { None };
        if !succeeded && let Some(failure) = self.results.note_failure(start_error.as_ref()) {
            // Of the last attempt the result tells all.
            let level = if self.supervisor.is_over() { Level::Info } else { Level::Warning };
            self.context.log(level, || format!("attempt {number} failed: {}", summary::line(failure)));
        }
        self.files.tidy_attempt(number, attempt.workers.len());
    }

    pub(super) fn finish(mut self, end: End) -> RunReport {
        let spec = self.context.spec;
        self.question = Question::default();
        let kill = end != End::Succeeded || spec.kill_group_on_success;
        self.server.close(&self.context, &mut self.descendants, kill);
        self.descendants.reap_all();
        self.results.close(self.group.ranks());
        let message = self.message(end);
        let failed = match self.membership.failed_elsewhere() {
            _ if end != End::WorkerFailure => Exit::default(),
            Some((_, exit)) => exit,
            None => self.results.root_cause().map_or_else(Exit::default, Exit::from),
        };
        let elsewhere = self.stopped_elsewhere().map(|(_, signal)| signal);
        let stop_signal = elsewhere.or(self.context.inbox.stop_requested()).unwrap_or(0);
        let signal = if end == End::Interrupted { stop_signal } else { 0 };
        self.membership.leave(&self.context, end, &message);
        let (root, to) = (self.results.root_cause(), &self.context.host.error_file);
        if let (End::WorkerFailure, Some(root), Some(to)) = (end, root, to) {
            hand_on(&self.context, root, to);
        }
        let kept = self.files.tidy(spec);
        self.watchers = Watchers::default();
        let run_dir =
            kept.map_or_else(Default::default, |run_dir| c_string_lossy(path_bytes(run_dir.path())));
        let lost = self.results.workers().iter().any(|worker| worker.outcome == Outcome::Lost);
        let state = match GroupState::from(end) {
            GroupState::Unknown if !lost => GroupState::Failed,
            state => state,
        };
        self.timeline.publish(&self.context, state, self.supervisor.attempt());
        let (workers, root_cause, failures) = self.results.take();
        let saved = self.control.saved();
        let chosen = spec.saved_exit_status.filter(|_| saved.is_some());
        let report = finished(RunReport {
            end,
            state,
            restarts: self.supervisor.restarts(),
            job_restarts: self.supervisor.job_restarts(),
            round: self.supervisor.attempt(),
            exit_code: failed.code,
            exit_status: exit_status::of(end, failed, self.error.as_ref(), signal, chosen),
            saved,
            flakiness: flakiness(end, spec.max_restarts, self.supervisor.restarts()),
            signal,
            errno: self.error.as_ref().map_or(0, errno_of),
            message: c_string_lossy(shown(&message).as_bytes()),
            summary: Default::default(),
            run_dir,
            workers,
            root_cause,
            failures,
            left: self.descendants.take_left(),
        });
        let duration = self.timeline.duration();
        self.context.event(|origin| Some(origin.agent_ended(&report, duration.as_millis() as u64)));
        self.context.output.finish(self.context.settled.checked.shutdown_timeout);
        self.context.host.handlers = None;
        self.context.host.subreaper = None;
        report
    }

    /// The host whose stop ended the job, if nobody has stopped this one.
    fn stopped_elsewhere(&self) -> Option<(&str, i32)> {
        self.membership.stopped_elsewhere().filter(|_| self.context.inbox.stop_requested().is_none())
    }

    /// Why the run ended, on one line.
    fn message(&self, end: End) -> String {
        let root = self.results.root_cause().map(summary::line);
        match end {
            End::Succeeded | End::NotNeeded => String::new(),
            End::Interrupted => match self.stopped_elsewhere() {
                Some((host, signal)) => format!("{} at {host}", stopped_by(signal)),
                None => stopped_by(self.context.inbox.stop_requested().unwrap_or(0)),
            },
            End::WorkerFailure => match self.membership.failed_elsewhere() {
                Some((reason, _)) => reason.into(),
                None => {
                    let other = self.server.end().or(self.control.restart_wish());
                    let why = root.unwrap_or_else(|| other.unwrap_or("a worker failed").into());
                    let no_restart = self.supervisor.no_restart();
                    why + &no_restart.map(|why| no_restart_text(self.context.spec, why)).unwrap_or_default()
                }
            },
            End::StartError | End::AgentError => {
                let why =
                    self.error.as_ref().map(Error::to_string).or(root).unwrap_or_else(|| "unknown".into());
                match self.supervisor.attempt() {
                    0 => why,
                    attempt => format!("in attempt {attempt}: {why}"),
                }
            }
        }
    }
}

/// Why there was no further restart though some were left.
fn no_restart_text(spec: &Spec, why: NoRestart) -> String {
    match why {
        NoRestart::CrashLoop => {
            let min_uptime = spec.min_uptime;
            format!(
                "; crash loop: it failed within the minimum up-time of {min_uptime:?}, no further restart"
            )
        }
        NoRestart::ExitCode(code) => format!("; exit code {code} is not restarted"),
        NoRestart::NoProgress(attempts) => {
            format!("; {attempts} attempts came no further, no further restart")
        }
        NoRestart::Uninterruptible => {
            "; no restart beside a worker that the kernel does not let go of".into()
        }
        NoRestart::Stuck => "; a worker could not be killed, no restart beside it".into(),
    }
}

/// Gives the root cause to this process's own parent agent.
fn hand_on(context: &Context, root: &WorkerReport, to: &Path) {
    let Some(raw) = &root.error_data else { return };
    if let Ok(old) = file::read(to, 0, error_file::LARGEST) {
        let old = String::from_utf8_lossy(&old);
        context.log(Level::Warning, || format!("{} is replaced; it held: {old}", to.display()));
    }
    let contents = error_file::Contents {
        message: root.message.to_string_lossy().into_owned(),
        raw: raw.clone(),
        ..Default::default()
    };
    if let Err(unusable) = error_file::hand_on(&contents, root.exit_code(), to) {
        context.log(Level::Warning, || {
            format!("{} {unusable}: the root cause is not written there", to.display())
        });
    }
}

/// The end of a run whose machinery failed, told as any other.
pub(super) fn broken_off(spec: &Spec, error: Error) -> RunReport {
    let report = without_attempt(spec, error);
    let mut output = Output::new(spec, Places::open(spec, None).0);
    if let Some(origin) = origin(spec, &output) {
        output.event(origin.agent_ended(&report, 0));
    }
    output.finish(LAST_WORDS);
    report
}

/// The report of a run that ended before, or because, its machinery failed.
fn without_attempt(spec: &Spec, error: Error) -> RunReport {
    let end = if matches!(error, Error::Internal { .. }) { End::AgentError } else { End::StartError };
    let workers = never_started(&ranks::single(spec.local_world_size));
    finished(RunReport {
        end,
        state: GroupState::Failed,
        restarts: 0,
        job_restarts: 0,
        round: 0,
        exit_code: None,
        exit_status: exit_status::of(end, Exit::default(), Some(&error), 0, None),
        saved: None,
        flakiness: flakiness(end, spec.max_restarts, 0),
        signal: 0,
        errno: errno_of(&error),
        message: c_string_lossy(error.to_string().as_bytes()),
        summary: Default::default(),
        run_dir: Default::default(),
        workers,
        root_cause: None,
        failures: Vec::new(),
        left: Vec::new(),
    })
}

fn finished(mut report: RunReport) -> RunReport {
    report.summary = c_string_lossy(summary::text(&report).as_bytes());
    report
}

fn errno_of(error: &Error) -> i32 {
    if let Error::Program { errno, .. } | Error::System { errno, .. } = error { *errno } else { 0 }
}
