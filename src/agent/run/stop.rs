//! Stops, as the host and its signals ask for them, and how they reach the workers: a checkpoint that a signal asks for,
//! a stop that reaches workers before their agent, and the shield of the workers against both.

use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;

use super::context::Context;
use super::control::Control;
use super::descendants::Descendants;
use super::group::Group;
use crate::moment::Moment;
use crate::report::{Cause, Outcome};
use crate::spec::names::{Signal, stopped_by};
use crate::spec::on_signal::OnSignal;
use crate::spec::{Level, Spec};
use crate::supervise::Event;
use crate::sys::process::{self, monotonic};
use crate::sys::{dispositions, signal_set};

/// How long a signal that is there may take to come to a thread of the host: it may have stood still.
const TAKEN_WITHIN: Duration = Duration::from_secs(1);

/// What was asked for up to now.
pub struct Stop {
    told: bool,
    hurry_told: bool,
    /// The signals that stop the run, and may be meant for workers and agent at once.
    signals: Vec<i32>,
    /// A checkpoint that a signal asked for and that is not begun yet.
    save: Option<Wanted>,
}

#[derive(Clone, Copy)]
struct Wanted {
    signal: i32,
    until: Moment,
}

/// What is done about a checkpoint that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Save {
    Ask,
    /// Workers do not run, or something else is asked of them.
    Wait,
    GiveUp,
}

impl Stop {
    pub fn new(spec: &Spec) -> Stop {
        Stop { told: false, hurry_told: false, signals: spec.stops_for_all(), save: None }
    }

    /// A stop that was asked for, the first time: its signal, or 0.
    pub fn hear(&mut self, context: &Context) -> Option<i32> {
        let signal = context.inbox.stop_requested()?;
        if std::mem::replace(&mut self.told, true) {
            return None;
        }
        context.log(Level::Info, || format!("{}: stopping the workers", stopped_by(signal)));
        Some(signal)
    }

    /// Whether somebody waits for the stop, the first time.
    pub fn hear_hurry(&mut self, context: &Context) -> bool {
        let hurry = context.inbox.in_a_hurry() && !std::mem::replace(&mut self.hurry_told, true);
        if hurry {
            context.log(Level::Info, || "a second interrupt: killing the workers".into());
        }
        hurry
    }

    /// Signals have asked for a checkpoint; more than one at once ask for the same. `is_saving`: one is under way.
    pub fn hear_saves(&mut self, context: &Context, is_saving: bool) {
        let Some(signal) = context.inbox.take_saves().last() else { return };
        let name = Signal(signal);
        if is_saving {
            return context.log(Level::Info, || format!("{name}: a checkpoint is being saved already"));
        }
        context.log(Level::Info, || format!("{name}: the workers are to save a checkpoint"));
        let until = monotonic().saturating_add(context.spec.save_time());
        self.save = Some(Wanted { signal, until });
    }

    /// By when a checkpoint is to be saved that is to be asked for now. `can_ask`: workers run, with control.
    pub fn take_save(&mut self, context: &Context, can_ask: bool) -> Option<Moment> {
        let Wanted { signal, until } = self.save?;
        match look(until, can_ask, monotonic()) {
            Save::Wait => None,
            Save::Ask => {
                self.save = None;
                Some(until)
            }
            Save::GiveUp => {
                self.save = None;
                context.log(Level::Warning, || {
                    format!("{}: there was nobody to save a checkpoint", Signal(signal))
                });
                None
            }
        }
    }

    /// When a checkpoint that is wanted is given up.
    pub fn deadline(&self) -> Option<Moment> {
        self.save.map(|wanted| wanted.until)
    }

    /// Whether a stop that is meant for all would explain this end of a worker.
    pub fn explains(&self, cause: Cause, outcome: Outcome) -> bool {
        by_stop(cause, outcome, &self.signals)
    }

    /// A stop explains what happened to workers a moment ago.
    pub fn excuse_ends(&self, group: &mut Group) {
        if let Some(attempt) = group.attempt_mut() {
            attempt.excuse_ends(|worker| self.explains(worker.cause(), worker.outcome()));
        }
    }

    /// Gives a signal that has come to the process, to whatever thread, the time to be handled.
    pub fn await_pending(&self) {
        let stops = dispositions::set_of(self.signals.iter().copied());
        let end = monotonic() + TAKEN_WITHIN;
        while dispositions::are_pending(stops) && monotonic() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn look(until: Moment, can_ask: bool, now: Moment) -> Save {
    match can_ask {
        _ if until <= now => Save::GiveUp,
        true => Save::Ask,
        false => Save::Wait,
    }
}

/// What a stop by this signal is to the supervisor.
pub fn event(spec: &Spec, signal: i32, now: Moment) -> Event {
    match spec.on_signal.get(&signal) {
        Some(OnSignal::CheckpointAndStop) => {
            Event::SaveAndStop { until: now.saturating_add(spec.save_time()) }
        }
        _ => Event::Stop { signal },
    }
}

/// Sends a signal to all workers; who may not be signalled.
pub fn send(
    context: &Context,
    group: &mut Group,
    descendants: &Descendants,
    control: &Control,
    signal: i32,
) -> Vec<(i32, Errno)> {
    // This stop is meant for the workers: they are to ignore these signals no longer.
    if let Some(page) = control.page() {
        page.shield().store(0, Ordering::Release);
    }
    let Some(attempt) = group.attempt_mut() else { return Vec::new() };
    let refused = attempt.stop(signal, descendants.finder());
    end_shielded(context, group, control, signal);
    refused
}

/// Workers that never took part in control still ignore it, since they were started: it ends them all the same.
fn end_shielded(context: &Context, group: &mut Group, control: &Control, signal: i32) {
    let (Some(page), Some(attempt)) = (control.page(), group.attempt_mut()) else { return };
    let is_shield = signal_set::has(dispositions::set_of(context.spec.shield()), signal);
    if !is_shield || signal == libc::SIGKILL || !process::proc_is_ours() {
        return;
    }
    for rank in 0..attempt.workers.len() {
        let worker = &attempt.workers[rank];
        let never_opened = worker.is_alive() && !page.said(rank).opened;
        if never_opened && process::ignores(worker.pid, signal) {
            attempt.kill_leader(rank);
        }
    }
}

/// Whether a worker died of a signal that stops this run, and that its agent had not sent. Who handles one may exit
/// with the code that a shell would give.
fn by_stop(cause: Cause, outcome: Outcome, stops: &[i32]) -> bool {
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

    const SECOND: Duration = Duration::from_secs(1);

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

    #[test]
    fn sig_a_checkpoint_waits_for_workers_until_its_time_is_over() {
        let until = 9 * SECOND;
        assert_eq!(look(until, true, SECOND), Save::Ask);
        assert_eq!(look(until, false, SECOND), Save::Wait);
        assert_eq!(look(until, true, until), Save::GiveUp);
    }

    #[test]
    fn sig_warning_a_signal_stops_at_once_or_after_a_checkpoint() {
        let mut spec = Spec::default();
        spec.on_signal.insert(libc::SIGUSR1, OnSignal::CheckpointAndStop);
        let until = 9 * SECOND + spec.save_time();
        assert_eq!(event(&spec, libc::SIGUSR1, 9 * SECOND), Event::SaveAndStop { until });
        let signal = libc::SIGTERM;
        assert_eq!(event(&spec, signal, 9 * SECOND), Event::Stop { signal });
    }
}
