//! The exit status of a program that runs a spec and does nothing else: one number for each cause, as shells,
//! timeout(1) and schedulers read them.

use serde::{Deserialize, Serialize};

use super::{Cause, End, Outcome, WorkerReport};
use crate::error::Error;

/// A worker failed without an exit code that could be handed on.
const FAILED: i32 = 1;
const START_ERROR: i32 = 123;
/// As timeout(1).
const TIMED_OUT: i32 = 124;
const AGENT_ERROR: i32 = 125;
/// As a shell, as the next one.
const CANNOT_EXECUTE: i32 = 126;
const NOT_FOUND: i32 = 127;
const BY_SIGNAL: i32 = 128;

/// What is told to other hosts of a worker that failed, of its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Minus the signal where one killed it; none where there is neither.
    #[serde(rename = "exit_code")]
    pub code: Option<i32>,
    /// The agent ended it, found stuck: the signal is the agent's.
    #[serde(default)]
    pub timed_out: bool,
}

impl From<&WorkerReport> for Exit {
    fn from(worker: &WorkerReport) -> Self {
        let code = match worker.outcome {
            Outcome::Exited { .. } | Outcome::Signaled { .. } => Some(worker.exit_code()),
            _ => None,
        };
        Exit { code, timed_out: worker.cause == Cause::TimedOut }
    }
}

/// `failed`: the worker whose failure ended the job; `signal`: that of an interruption, 0 for none; `saved`: what was chosen
/// for one after all have saved, if they have.
pub fn of(end: End, failed: Exit, error: Option<&Error>, signal: i32, saved: Option<i32>) -> i32 {
    if let (End::Interrupted, Some(status)) = (end, saved) {
        return status;
    }
    match (end, error) {
        (End::Succeeded | End::NotNeeded, _) => 0,
        (End::WorkerFailure, _) => of_worker(failed),
        (End::Interrupted, _) => BY_SIGNAL + if signal == 0 { libc::SIGTERM } else { signal },
        (End::StartError | End::AgentError, Some(Error::Program { errno: libc::ENOENT, .. })) => NOT_FOUND,
        (End::StartError | End::AgentError, Some(Error::Program { .. })) => CANNOT_EXECUTE,
        (End::StartError, _) => START_ERROR,
        (End::AgentError, _) => AGENT_ERROR,
    }
}

fn of_worker(failed: Exit) -> i32 {
    match failed {
        Exit { timed_out: true, .. } => TIMED_OUT,
        // A function that did not return.
        Exit { code: None | Some(0), .. } => FAILED,
        Exit { code: Some(code), .. } if code < 0 => BY_SIGNAL - code,
        Exit { code: Some(code), .. } => code,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn err_14_each_cause_has_its_number() {
        let code = |code| Exit { code: Some(code), timed_out: false };
        let program = |errno| Error::Program { what: "cannot start x".into(), errno };
        let system = |errno| Error::system("cannot make the directory x", errno);
        let stuck = |code| Exit { code, timed_out: true };
        let none = Exit::default();
        let table = [
            (End::Succeeded, none, None, 0, 0),
            (End::NotNeeded, none, None, 0, 0),
            (End::WorkerFailure, code(7), None, 0, 7),
            (End::WorkerFailure, code(255), None, 0, 255),
            (End::WorkerFailure, code(-9), None, 0, 137),
            (End::WorkerFailure, code(-1), None, 0, 129),
            (End::WorkerFailure, code(0), None, 0, 1),
            (End::WorkerFailure, none, None, 0, 1),
            (End::WorkerFailure, stuck(Some(-15)), None, 0, 124),
            (End::WorkerFailure, stuck(Some(0)), None, 0, 124),
            (End::WorkerFailure, stuck(None), None, 0, 124),
            (End::StartError, none, Some(system(libc::ENOENT)), 0, 123),
            (End::StartError, none, Some(Error::Start { what: "too early".into() }), 0, 123),
            (End::StartError, none, Some(program(libc::ENOENT)), 0, 127),
            (End::StartError, none, Some(program(libc::EACCES)), 0, 126),
            (End::AgentError, none, Some(program(libc::ENOENT)), 0, 127),
            (End::AgentError, none, Some(system(libc::ENOENT)), 0, 125),
            (End::AgentError, none, None, 0, 125),
            (End::Interrupted, code(3), None, libc::SIGINT, 130),
            (End::Interrupted, none, None, 0, 143),
        ];
        for (end, failed, error, signal, status) in table {
            assert_eq!(
                of(end, failed, error.as_ref(), signal, None),
                status,
                "{end:?} {failed:?} {error:?} {signal}"
            );
        }
    }

    #[test]
    fn sched_08_a_stop_after_a_checkpoint_may_have_a_number_of_its_own() {
        let saved = |end| of(end, Exit::default(), None, libc::SIGTERM, Some(75));
        assert_eq!((saved(End::Interrupted), saved(End::Succeeded), saved(End::AgentError)), (75, 0, 125));
    }

    #[test]
    fn err_14_what_other_hosts_are_told() {
        let told = |exit: Exit| serde_json::to_string(&exit).unwrap();
        assert_eq!(told(Exit { code: Some(-15), timed_out: true }), r#"{"exit_code":-15,"timed_out":true}"#);
        let heard: Exit = serde_json::from_str(r#"{"exit_code":3}"#).unwrap();
        assert_eq!(heard, Exit { code: Some(3), timed_out: false });
    }
}
