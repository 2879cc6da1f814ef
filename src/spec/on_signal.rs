//! What signals of the host are to a run.

use std::collections::BTreeMap;
use std::time::Duration;

use super::names::Signal;
use super::values::catchable;
use super::{Spec, signal};
use crate::error::Error;
use crate::sys::signals::Meaning;

/// How long workers may take to save where nobody said so.
const SAVE_TIME: Duration = Duration::from_secs(300);

/// What the host wants of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnSignal {
    /// Workers get it too.
    Pass,
    /// Workers save, and go on.
    Checkpoint,
    /// Workers save, then the run is stopped.
    CheckpointAndStop,
    Stop,
}

/// A signal that may be named for one of these.
pub fn nameable(number: i32) -> Result<i32, Error> {
    const FIELD: &str = "on_signal";
    let number = signal(FIELD, i64::from(number))?;
    catchable(FIELD, Signal(number))?;
    let no = match number {
        libc::SIGABRT | libc::SIGTRAP | libc::SIGSYS => {
            "this signal tells of a defect of the host itself and is left to it"
        }
        _ if (32..libc::SIGRTMIN()).contains(&number) => "the C library keeps this signal to itself",
        _ => return Ok(number),
    };
    Err(Error::config(FIELD, Signal(number), no))
}

impl Spec {
    /// What signals have a handler for, and what each of them is. What is said of one alone counts before the lists,
    /// and a stop before what is handed on.
    pub fn meanings(&self) -> BTreeMap<i32, Meaning> {
        let mut meanings = BTreeMap::new();
        if self.suspend && self.debug_rank.is_none() {
            meanings.insert(libc::SIGTSTP, Meaning::Suspend);
        }
        meanings.extend(self.pass_signals.iter().map(|&signal| (signal, Meaning::Pass)));
        meanings.extend(self.handled_signals.iter().map(|&signal| (signal, Meaning::Stop)));
        if self.ask_on_interrupt {
            meanings.insert(libc::SIGINT, Meaning::Ask);
        }
        meanings.extend(self.on_signal.iter().map(|(&signal, on_signal)| {
            let meaning = match on_signal {
                OnSignal::Pass => Meaning::Pass,
                OnSignal::Checkpoint => Meaning::Save,
                OnSignal::CheckpointAndStop | OnSignal::Stop => Meaning::Stop,
            };
            (signal, meaning)
        }));
        meanings
    }

    fn meant_as(&self, wanted: impl Fn(Meaning) -> bool) -> impl Iterator<Item = i32> {
        let meanings = self.meanings().into_iter();
        meanings.filter(move |(_, meaning)| wanted(*meaning)).map(|(signal, _)| signal)
    }

    /// Signals that stop the run.
    pub fn stops_on(&self) -> impl Iterator<Item = i32> {
        self.meant_as(|meaning| matches!(meaning, Meaning::Stop | Meaning::Ask))
    }

    /// Those that may be how workers and agent are stopped at once. Of several hosts one may be stopped by others.
    pub fn stops_for_all(&self) -> Vec<i32> {
        let of_job = [self.stop_signals.stop, libc::SIGTERM, libc::SIGINT];
        let of_job = of_job.into_iter().filter(|_| self.nodes.place.is_some());
        self.stops_on().chain(of_job).collect()
    }

    /// Signals of which somebody who is not the agent need not die: they are for the agent. Not SIGINT: Python
    /// takes one that is ignored when it starts for one that it is to ignore.
    pub fn signals_of_agent(&self) -> impl Iterator<Item = i32> {
        let meant = self.meant_as(|meaning| meaning != Meaning::Suspend);
        meant.chain(self.stops_of_workers()).filter(|&signal| is_shieldable(signal))
    }

    /// Signals by which an agent, this one or one like it, stops workers.
    fn stops_of_workers(&self) -> impl Iterator<Item = i32> {
        let early = self.stop_signals.pre_stop.map(|(signal, _)| signal);
        [libc::SIGTERM, self.stop_signals.stop].into_iter().chain(early)
    }

    /// Signals that are nothing to workers until their agent stops them: warnings that ask for a checkpoint; and
    /// where one is saved before a stop all that stop, so that one which is for all leaves somebody to save.
    pub fn shield(&self) -> impl Iterator<Item = i32> {
        let saves = self.saves_before_stop();
        let stops = self.stops_on().chain(self.stops_of_workers()).filter(move |_| saves);
        let warnings = self.on_signal.iter().filter(|(_, on_signal)| on_signal.saves());
        stops.chain(warnings.map(|(&signal, _)| signal)).filter(|&signal| is_shieldable(signal))
    }

    fn saves_before_stop(&self) -> bool {
        let asks = self.on_signal.values().any(|&on_signal| on_signal == OnSignal::CheckpointAndStop);
        asks || !self.checkpoint_before_stop.is_zero()
    }

    /// How long workers may take to save.
    pub fn save_time(&self) -> Duration {
        Some(self.checkpoint_before_stop).filter(|time| !time.is_zero()).unwrap_or(SAVE_TIME)
    }
}

impl OnSignal {
    /// Whether workers are asked for a checkpoint.
    pub fn saves(self) -> bool {
        matches!(self, OnSignal::Checkpoint | OnSignal::CheckpointAndStop)
    }
}

fn is_shieldable(signal: i32) -> bool {
    !matches!(signal, libc::SIGINT | libc::SIGKILL | libc::SIGSTOP | libc::SIGCONT | libc::SIGCHLD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use libc::{SIGHUP, SIGINT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2};

    #[test]
    fn sig_warning_what_is_said_of_one_signal_counts_before_the_lists() {
        let mut spec = Spec {
            handled_signals: vec![SIGTERM, SIGINT, SIGUSR2],
            pass_signals: vec![SIGUSR1, SIGUSR2, SIGTSTP],
            suspend: true,
            ..Spec::default()
        };
        let all = |spec: &Spec| spec.meanings().into_iter().collect::<Vec<_>>();
        let (pass, stop) = (Meaning::Pass, Meaning::Stop);
        let lists = [(SIGINT, stop), (SIGUSR1, pass), (SIGUSR2, stop), (SIGTERM, stop), (SIGTSTP, pass)];
        assert_eq!(all(&spec), lists);
        spec.ask_on_interrupt = true;
        spec.on_signal = [(SIGUSR1, OnSignal::Checkpoint), (SIGUSR2, OnSignal::Pass)].into();
        spec.pass_signals.clear();
        let said = [
            (SIGINT, Meaning::Ask),
            (SIGUSR1, Meaning::Save),
            (SIGUSR2, pass),
            (SIGTERM, stop),
            (SIGTSTP, Meaning::Suspend),
        ];
        assert_eq!(all(&spec), said);
        spec.debug_rank = Some(0);
        assert!(!spec.meanings().contains_key(&SIGTSTP), "there it is the debugger's");
    }

    #[test]
    fn sig_all_the_shield_is_for_what_workers_are_to_save_at() {
        let shield = |spec: &Spec| {
            let mut shield: Vec<i32> = spec.shield().collect();
            shield.sort_unstable();
            shield.dedup();
            shield
        };
        let spec = Spec { handled_signals: vec![SIGTERM, SIGINT, SIGHUP], ..Spec::default() };
        assert_eq!(shield(&spec), [0; 0]);
        let warned = Spec { on_signal: [(SIGUSR1, OnSignal::Checkpoint)].into(), ..spec.clone() };
        assert_eq!(shield(&warned), [SIGUSR1]);
        let stopped = Spec { on_signal: [(SIGUSR1, OnSignal::CheckpointAndStop)].into(), ..spec.clone() };
        assert_eq!(shield(&stopped), [SIGHUP, SIGUSR1, SIGTERM]);
        let mut saving = Spec { checkpoint_before_stop: Duration::from_secs(9), ..spec };
        saving.stop_signals.pre_stop = Some((SIGUSR2, Duration::from_secs(1)));
        assert_eq!(shield(&saving), [SIGHUP, SIGUSR2, SIGTERM]);
        assert_eq!((saving.save_time().as_secs(), warned.save_time().as_secs()), (9, 300));
    }

    #[test]
    fn sig_warning_not_every_signal_can_be_named() {
        for signal in [SIGUSR1, SIGUSR2, SIGINT, libc::SIGWINCH, libc::SIGRTMIN() + 1] {
            assert_eq!(nameable(signal), Ok(signal));
        }
        for signal in
            [0, -1, 65, 32, libc::SIGKILL, libc::SIGSTOP, libc::SIGSEGV, libc::SIGABRT, libc::SIGCHLD]
        {
            assert!(nameable(signal).is_err(), "{signal}");
        }
    }
}
