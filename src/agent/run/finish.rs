//! The end of a run: from what became of its workers, or of its machinery, to the report.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use super::{Run, origin, since, stop_text};
use crate::agent::reporter::{Reporter, path_bytes};
use crate::error::{Error, c_string_lossy};
use crate::logs::events::Places;
use crate::logs::leftovers;
use crate::logs::output::Output;
use crate::process::attempt::Attempt;
use crate::ranks::{self, Rank};
use crate::report::event::flakiness;
use crate::report::exit_status::{self, Exit};
use crate::report::{End, GroupState, Outcome, RunReport, WorkerReport, error_file, root_cause, summary};
use crate::shown::shown;
use crate::spec::{Level, Spec};
use crate::supervise::NoRestart;
use crate::sys::file;

/// How long the event that says that nothing works may take to be written.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Run<'_> {
    pub(super) fn finish(mut self, end: End) -> RunReport {
        self.asking = None;
        self.server = None;
        if end != End::Succeeded || self.spec.kill_group_on_success {
            self.end_line_of_server();
        }
        if self.finder.adopts {
            self.finder.reap(&HashSet::new());
        }
        if self.workers.is_empty() {
            self.workers = never_started(&self.ranks);
        }
        let root_cause = root_cause(&self.workers);
        let message = self.message(end, root_cause);
        let failed = match self.failed_elsewhere() {
            _ if end != End::WorkerFailure => Exit::default(),
            Some((_, exit)) => exit,
            None => root_cause.map_or_else(Exit::default, |root| Exit::from(&self.workers[root])),
        };
        self.leave_others(end, &message);
        if let (End::WorkerFailure, Some(root), Some(to)) = (end, root_cause, &self.host.error_file) {
            self.hand_on(&self.workers[root], to);
        }
        let kept = self.run_dir.as_ref().filter(|run_dir| run_dir.tidy());
        if let (None, Some(run_dir)) = (&self.spec.log_dir, &self.run_dir) {
            run_dir.path().parent().into_iter().for_each(leftovers::clear);
        }
        (self.watcher, self.keeper) = (None, None);
        let run_dir =
            kept.map_or_else(Default::default, |run_dir| c_string_lossy(path_bytes(run_dir.path())));
        let lost = self.workers.iter().any(|worker| worker.outcome == Outcome::Lost);
        let state = match GroupState::from(end) {
            GroupState::Unknown if !lost => GroupState::Failed,
            state => state,
        };
        self.publish(state);
        let signal = if end == End::Interrupted { self.inbox.stop_requested().unwrap_or(0) } else { 0 };
        let report = finished(RunReport {
            end,
            state,
            restarts: self.supervisor.restarts(),
            job_restarts: self.supervisor.job_restarts(),
            round: self.supervisor.attempt(),
            exit_code: failed.code,
            exit_status: exit_status::of(end, failed, self.error.as_ref(), signal),
            flakiness: flakiness(end, self.spec.max_restarts, self.supervisor.restarts()),
            signal,
            errno: self.error.as_ref().map_or(0, errno_of),
            message: c_string_lossy(shown(&message).as_bytes()),
            summary: Default::default(),
            run_dir,
            workers: std::mem::take(&mut self.workers),
            root_cause,
            failures: std::mem::take(&mut self.failures),
            left: std::mem::take(&mut self.left),
        });
        let duration = since(self.times.run);
        self.event(|origin| Some(origin.agent_ended(&report, duration.as_millis() as u64)));
        self.output.finish(self.settled.checked.shutdown_timeout);
        self.host.handlers = None;
        self.host.subreaper = None;
        report
    }

    /// Why the run ended, on one line.
    fn message(&self, end: End, root_cause: Option<usize>) -> String {
        let root = root_cause.map(|root| summary::line(&self.workers[root]));
        match end {
            End::Succeeded | End::NotNeeded => String::new(),
            End::Interrupted => stop_text(self.inbox.stop_requested().unwrap_or(0)),
            End::WorkerFailure if self.failed_elsewhere().is_some() => {
                self.failed_elsewhere().map(|(reason, _)| reason).unwrap_or_default()
            }
            End::WorkerFailure => {
                let other = || self.server_end.clone().or_else(|| self.restart_wish.clone());
                let failed = || other().unwrap_or_else(|| "a worker failed".into());
                let mut text = root.unwrap_or_else(failed);
                match self.supervisor.no_restart() {
                    Some(NoRestart::CrashLoop) => {
                        text += &format!(
                            "; crash loop: it failed within the minimum up-time of {:?}, no further restart",
                            self.spec.min_uptime
                        );
                    }
                    Some(NoRestart::ExitCode(code)) => {
                        text += &format!("; exit code {code} is not restarted")
                    }
                    Some(NoRestart::NoProgress(attempts)) => {
                        text += &format!("; {attempts} attempts came no further, no further restart")
                    }
                    Some(NoRestart::Uninterruptible) => {
                        text += "; no restart beside a worker that the kernel does not let go of"
                    }
                    Some(NoRestart::Stuck) => text += "; a worker could not be killed, no restart beside it",
                    None => {}
                }
                text
            }
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

    /// Gives the root cause to this process's own parent agent.
    fn hand_on(&self, root: &WorkerReport, to: &Path) {
        let Some(raw) = &root.error_data else { return };
        if let Ok(old) = file::read(to, 0, error_file::LARGEST) {
            let old = String::from_utf8_lossy(&old);
            self.log(Level::Warning, || format!("{} is replaced; it held: {old}", to.display()));
        }
        let contents = error_file::Contents {
            message: root.message.to_string_lossy().into_owned(),
            raw: raw.clone(),
            ..Default::default()
        };
        if let Err(unusable) = error_file::hand_on(&contents, root.exit_code(), to) {
            self.log(Level::Warning, || {
                format!("{} {unusable}: the root cause is not written there", to.display())
            });
        }
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
        exit_status: exit_status::of(end, Exit::default(), Some(&error), 0),
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

fn never_started(ranks: &[Rank]) -> Vec<WorkerReport> {
    Attempt::new(0, ranks).workers.iter().map(|worker| Reporter::bare(worker, 0)).collect()
}

fn finished(mut report: RunReport) -> RunReport {
    report.summary = c_string_lossy(summary::text(&report).as_bytes());
    report
}

fn errno_of(error: &Error) -> i32 {
    if let Error::Program { errno, .. } | Error::System { errno, .. } = error { *errno } else { 0 }
}
