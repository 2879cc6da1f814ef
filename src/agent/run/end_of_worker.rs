//! What the end of a worker means.

use super::context::Context;
use crate::error::Error;
use crate::process::attempt::Worker;
use crate::process::launch::Launcher;
use crate::ranks::Rank;
use crate::report::{Cause, Outcome, message_of};
use crate::spec::Level;
use crate::supervise::Event;

pub struct EndOfWorker {
    rank: Rank,
    pub pid: i32,
    pub outcome: Outcome,
    pub cause: Cause,
    /// Why it never came to its work, if it did not.
    pub start_error: Option<Error>,
}

impl EndOfWorker {
    pub fn of(context: &Context, launcher: &Launcher, worker: &mut Worker) -> EndOfWorker {
        // A function's worker tells only now that it could not start.
        let reported =
            worker.channel.as_ref().and_then(|channel| launcher.start_error(context.spec, channel));
        let start_error = reported.or_else(|| worker.start_error().map(|what| Error::Start { what }));
        if let Some(error) = &start_error {
            worker.never_started(error.to_string());
        }
        let (rank, pid, outcome, cause) = (worker.rank, worker.pid, worker.outcome(), worker.cause());
        EndOfWorker { rank, pid, outcome, cause, start_error }
    }

    /// What it is to the supervisor. `by_stop`: a stop that is meant for all would explain it.
    pub fn event(&self, by_stop: bool) -> Event {
        event(self.outcome, self.cause, by_stop)
    }

    pub fn log(&self, context: &Context) {
        let EndOfWorker { rank: Rank { global, .. }, pid, outcome, cause, .. } = *self;
        match cause {
            Cause::OwnFailure | Cause::Lost | Cause::TimedOut => context.log(Level::Info, || {
                format!("rank {global} failed: {}", message_of(outcome, cause, pid, false))
            }),
            _ => context.log(Level::Debug, || format!("rank {global} (PID {pid}) ended")),
        }
    }
}

fn event(outcome: Outcome, cause: Cause, by_stop: bool) -> Event {
    match outcome {
        Outcome::Lost => Event::Lost,
        Outcome::Exited { code } => {
            Event::Exited { success: cause == Cause::Success, code: Some(code), by_stop }
        }
        _ => Event::Exited { success: false, code: None, by_stop },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mon_what_an_end_is_to_the_supervisor() {
        let exited = |code| Outcome::Exited { code };
        let is = |success, code| Event::Exited { success, code, by_stop: false };
        assert_eq!(event(exited(0), Cause::Success, false), is(true, Some(0)));
        assert_eq!(event(exited(0), Cause::OwnFailure, false), is(false, Some(0)), "it has not returned");
        assert_eq!(event(exited(3), Cause::OwnFailure, false), is(false, Some(3)));
        let killed = Outcome::Signaled { signal: libc::SIGTERM, core: false };
        assert_eq!(event(killed, Cause::StoppedByAgent, false), is(false, None));
        let by_stop = Event::Exited { success: false, code: None, by_stop: true };
        assert_eq!(event(killed, Cause::OwnFailure, true), by_stop);
        assert_eq!(event(Outcome::NeverStarted, Cause::NeverStarted, false), is(false, None));
        assert_eq!(event(Outcome::Lost, Cause::Lost, false), Event::Lost);
    }
}
