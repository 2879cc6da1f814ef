//! Signals that are more than a stop: a checkpoint that one asks for, a stop that reaches workers before their agent,
//! and the shield of the workers against both.

use std::time::Duration;

use super::run::Run;
use crate::control::request::{Kind, Reason};
use crate::moment::Moment;
use crate::report::{Cause, Outcome};
use crate::spec::Level;
use crate::spec::names::Signal;
use crate::spec::on_signal::OnSignal;
use crate::supervise::Event;
use crate::sys::process::{self, monotonic};
use crate::sys::{dispositions, signal_set};

/// How long a signal that is there may take to come to a thread of the host: it may have stood still.
const TAKEN_WITHIN: Duration = Duration::from_secs(1);

/// A checkpoint that a signal asked for and that is not begun yet.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    signal: i32,
    pub(super) until: Moment,
}

impl Run<'_> {
    /// Signals have asked for a checkpoint; more than one at once ask for the same.
    pub(super) fn hear_saves(&mut self) {
        let Some(signal) = self.inbox.take_saves().last() else { return };
        if self.supervisor.is_running() && self.is_saving() {
            return self
                .log(Level::Info, || format!("{}: a checkpoint is being saved already", Signal(signal)));
        }
        self.log(Level::Info, || format!("{}: the workers are to save a checkpoint", Signal(signal)));
        let until = monotonic().saturating_add(self.spec.save_time());
        self.wanted_save = Some(Wanted { signal, until });
    }

    /// Asks for it when workers run and nothing else is asked of them.
    pub(super) fn save_if_wanted(&mut self) {
        let Some(Wanted { signal, until }) = self.wanted_save else { return };
        if until <= monotonic() {
            self.wanted_save = None;
            self.log(Level::Warning, || format!("{}: there was nobody to save a checkpoint", Signal(signal)));
        } else if self.supervisor.is_running() && self.conversation.is_some() {
            self.wanted_save = None;
            self.ask(Kind::Save, Reason::Host, until, None, false);
        }
    }

    /// What a stop by this signal is to the supervisor.
    pub(super) fn stop_by(&self, signal: i32) -> Event {
        match self.spec.on_signal.get(&signal) {
            Some(OnSignal::CheckpointAndStop) => {
                Event::SaveAndStop { until: monotonic().saturating_add(self.spec.save_time()) }
            }
            _ => Event::Stop { signal },
        }
    }

    /// A stop explains what happened to workers a moment ago.
    pub(super) fn excuse_ends(&mut self) {
        let stops = &self.stops;
        if let (true, Some(attempt)) = (self.supervisor.is_in_doubt(), &mut self.attempt) {
            attempt.excuse_ends(|worker| by_stop(worker.cause(), worker.outcome(), stops));
        }
    }

    /// A moment has passed since a worker died of what would stop the run: a stop that has come by now, to whatever
    /// thread, is the first to count.
    pub(super) fn look_for_own_stop(&mut self) {
        let stops = dispositions::set_of(self.stops.iter().copied());
        let end = monotonic() + TAKEN_WITHIN;
        while dispositions::are_pending(stops) && monotonic() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.inbox.has_requests() {
            self.take_requests();
        }
    }

    /// Before the agent sends a signal that it means.
    pub(super) fn lower_shield(&self) {
        if let Some(conversation) = &self.conversation {
            conversation.page.shield().store(0, std::sync::atomic::Ordering::Release);
        }
    }

    /// Workers that never took part in control still ignore it, since they were started: it ends them all the same.
    pub(super) fn end_shielded(&mut self, signal: i32) {
        let (Some(conversation), Some(attempt)) = (&self.conversation, &mut self.attempt) else { return };
        let is_shield = signal_set::has(dispositions::set_of(self.spec.shield()), signal);
        if !is_shield || signal == libc::SIGKILL || !process::proc_is_ours() {
            return;
        }
        for rank in 0..attempt.workers.len() {
            let worker = &attempt.workers[rank];
            let never_opened = worker.is_alive() && !conversation.page.said(rank).opened;
            if never_opened && process::ignores(worker.pid, signal) {
                attempt.kill_leader(rank);
            }
        }
    }
}

/// Whether a worker died of a signal that stops this run, and that its agent had not sent. Who handles one may exit
/// with the code that a shell would give.
pub(super) fn by_stop(cause: Cause, outcome: Outcome, stops: &[i32]) -> bool {
    let signal = match outcome {
        Outcome::Signaled { signal, .. } => signal,
        Outcome::Exited { code } => code - 128,
        _ => return false,
    };
    cause == Cause::OwnFailure && stops.contains(&signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sig_all_who_died_of_what_would_stop_the_run() {
        let stops = [libc::SIGTERM];
        let killed = |signal| Outcome::Signaled { signal, core: false };
        assert!(by_stop(Cause::OwnFailure, killed(libc::SIGTERM), &stops));
        assert!(by_stop(Cause::OwnFailure, Outcome::Exited { code: 143 }, &stops));
        assert!(!by_stop(Cause::StoppedByAgent, killed(libc::SIGTERM), &stops));
        assert!(!by_stop(Cause::OwnFailure, killed(libc::SIGKILL), &stops));
        assert!(!by_stop(Cause::OwnFailure, Outcome::Exited { code: 1 }, &stops));
        assert!(!by_stop(Cause::OwnFailure, killed(libc::SIGTERM), &[]));
    }
}
