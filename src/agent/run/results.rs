//! What became of the workers, attempt by attempt. Here, and nowhere else, it is decided which worker's failure is the
//! root cause: when an attempt is over; and for the other hosts of a job, who cannot wait for that, of those workers
//! that have ended.

use super::context::Context;
use super::reporter::Reporter;
use crate::error::{Error, c_string_lossy};
use crate::process::attempt::Attempt;
use crate::ranks::Rank;
use crate::report::exit_status::Exit;
use crate::report::oom::OomKills;
use crate::report::{Cause, WorkerReport, root_cause, summary};

/// How many failed attempts are remembered by their root cause.
const FAILURES: usize = 32;

#[derive(Default)]
pub struct Results {
    /// Of the last attempt that is over.
    workers: Vec<WorkerReport>,
    /// Whose failure made it fail: an index into `workers`.
    root_cause: Option<usize>,
    /// The root causes of failed attempts, the last ones.
    failures: Vec<WorkerReport>,
}

/// Why an attempt that goes on has failed, for other hosts, as far as is known; none if no worker is to blame.
pub fn so_far(context: &Context, attempt: &Attempt, server_end: Option<&str>) -> Option<(String, Exit)> {
    let reporter = Reporter { spec: context.spec, oom: None, server_end };
    let over = attempt.workers.iter().filter(|worker| worker.ended.is_some() || worker.verdict.is_some());
    let reports: Vec<_> = over.map(|worker| reporter.report(worker, attempt.number, false)).collect();
    let root = &reports[root_cause(&reports)?];
    Some((summary::line(root), Exit::from(root)))
}

impl Results {
    /// All workers are gone, and what they wrote is in their files.
    pub fn end_attempt(
        &mut self,
        context: &Context,
        attempt: &Attempt,
        succeeded: bool,
        server_end: Option<&str>,
    ) {
        let oom = context.shared.oom_kills.get();
        let reporter = Reporter { spec: context.spec, oom, server_end };
        let report = |worker| reporter.report(worker, attempt.number, succeeded);
        self.workers = attempt.workers.iter().map(report).collect();
        for report in &self.workers {
            context.event(|origin| origin.worker_ended(report));
        }
        if self.workers.iter().any(|report| report.likely_oom) {
            oom.into_iter().for_each(OomKills::look);
        }
        self.root_cause = root_cause(&self.workers);
    }

    /// The last attempt has failed: remembers why. `start_error`: of an attempt that is not the last one. Its root cause,
    /// or who could not be started.
    pub fn note_failure(&mut self, start_error: Option<&Error>) -> Option<&WorkerReport> {
        let root = self.root_cause.map(|root| self.workers[root].certificate());
        let failure = root.or_else(|| not_started(&self.workers, start_error?))?;
        if self.failures.len() == FAILURES {
            self.failures.remove(0);
        }
        self.failures.push(failure);
        self.failures.last()
    }

    /// The run is over. Where there was no attempt its workers were never started.
    pub fn close(&mut self, ranks: &[Rank]) {
        if self.workers.is_empty() {
            self.workers = never_started(ranks);
        }
    }

    pub fn workers(&self) -> &[WorkerReport] {
        &self.workers
    }

    /// The worker whose failure made the last attempt fail.
    pub fn root_cause(&self) -> Option<&WorkerReport> {
        self.root_cause.map(|root| &self.workers[root])
    }

    /// The reports of the workers, which of them is the root cause, and the failures of all attempts.
    pub fn take(&mut self) -> (Vec<WorkerReport>, Option<usize>, Vec<WorkerReport>) {
        (std::mem::take(&mut self.workers), self.root_cause.take(), std::mem::take(&mut self.failures))
    }
}

pub fn never_started(ranks: &[Rank]) -> Vec<WorkerReport> {
    Attempt::new(0, ranks).workers.iter().map(|worker| Reporter::bare(worker, 0)).collect()
}

/// Of an attempt that failed at its start: the first worker that never was, with the reason.
fn not_started(reports: &[WorkerReport], error: &Error) -> Option<WorkerReport> {
    let first = reports.iter().find(|report| report.cause == Cause::NeverStarted)?;
    let message = c_string_lossy(error.to_string().as_bytes());
    Some(WorkerReport { message, ..first.certificate() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ranks;
    use crate::report::Outcome;

    /// The results of an attempt whose workers exited with these codes, in this order.
    fn results(codes: &[i32]) -> Results {
        let mut workers = never_started(&ranks::single(codes.len()));
        for (order, (worker, &code)) in workers.iter_mut().zip(codes).enumerate() {
            (worker.outcome, worker.order) = (Outcome::Exited { code }, Some(order));
            worker.cause = if code == 0 { Cause::Success } else { Cause::OwnFailure };
        }
        let root_cause = root_cause(&workers);
        Results { workers, root_cause, failures: Vec::new() }
    }

    #[test]
    fn rst_the_last_failures_are_remembered_by_their_root_cause() {
        let mut results = results(&[0, 3, 4]);
        for _ in 0..2 * FAILURES {
            let failure = results.note_failure(None).map(|failure| failure.rank.local);
            assert_eq!(failure, Some(1));
        }
        assert_eq!(results.take().2.len(), FAILURES);
    }

    #[test]
    fn rst_06_who_could_not_be_started_is_told_of_where_nobody_failed() {
        let error = Error::Start { what: "no such program".into() };
        let mut results = Results::default();
        results.close(&ranks::single(2));
        assert!(results.note_failure(None).is_none(), "the result tells of the last attempt");
        let failure = results.note_failure(Some(&error)).map(|failure| failure.message.clone());
        assert_eq!(failure, Some(c_string_lossy(error.to_string().as_bytes())));
    }
}
