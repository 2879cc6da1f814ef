//! What single signals of the host are to a run.

use super::option;
use super::spec::{edit, ice_spec, set_flag};
use super::status::ice_status;
use crate::error::Error;
use crate::spec::on_signal::{OnSignal, nameable};

/// What a signal of the host process is to a run: see `ice_spec_set_on_signal()`.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ice_on_signal {
    /// Nothing is said of it: it is what the lists make of it.
    ICE_ON_SIGNAL_DEFAULT = 0,
    /// Every worker gets it too, while the run goes on: as in the list of `ice_spec_set_pass_signals()`.
    ICE_ON_SIGNAL_PASS = 1,
    /// All workers are asked to save a checkpoint at the same step (ICE_REQUEST_SAVE, ICE_REASON_HOST), and go on.
    /// Nobody waits for the answers; the log tells what came of it.
    ICE_ON_SIGNAL_CHECKPOINT = 2,
    /// They are asked to save one (ICE_REQUEST_SAVE, ICE_REASON_PREEMPTION); when all have answered, or their time
    /// is over, the run is stopped, with the signal of `ice_spec_set_stop_signal()`.
    ICE_ON_SIGNAL_CHECKPOINT_AND_STOP = 3,
    /// The run is stopped with it: as in the list of `ice_spec_set_signals()`.
    ICE_ON_SIGNAL_STOP = 4,
}

/// Says what one signal of the host process is to the run, an `ice_on_signal`: a scheduler's warning, say, that the
/// machine will be taken away. What is said here counts before the lists of `ice_spec_set_signals()` and
/// `ice_spec_set_pass_signals()`, and for SIGINT before `ice_spec_set_ask_on_interrupt()`; a later call replaces
/// an earlier one for the same signal. Handlers stand as for these lists. By default nothing is said of any signal.
///
/// Workers have as long to save as `ice_spec_set_checkpoint_before_stop()` gives them, else 300 seconds. Both
/// checkpoints imply `ice_spec_set_control()`. A signal that asks for a checkpoint while one is being saved asks for
/// the same, and so do several at once. One that comes while no workers run (they are being started, or wait for
/// other hosts or a back-off) has the next ones save, if they come to run in that time. A checkpoint that is asked
/// for before a stop asks nobody then: the run is stopped at once, and so it is by any other signal that stops it.
/// A run that was stopped by CHECKPOINT_AND_STOP or STOP ends as ICE_END_INTERRUPTED, with this signal in
/// `ice_result_signal()`.
///
/// Schedulers may send a warning to all processes of a job (Slurm `--signal=USR1@60`, without `B:`). So workers
/// start with a shield against signals of both checkpoints: see `ice_spec_set_checkpoint_before_stop()`.
///
/// `signal` is 1 to SIGRTMAX, but for SIGKILL, SIGSTOP, SIGCHLD, those that tell of a defect (SIGSEGV, SIGBUS,
/// SIGFPE, SIGILL, SIGABRT, SIGTRAP, SIGSYS), and 32 and 33, which the C library keeps to itself.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_on_signal(spec: *mut ice_spec, signal: i32, action: i32) -> ice_status {
    const DEFAULT: i32 = ice_on_signal::ICE_ON_SIGNAL_DEFAULT as i32;
    const PASS: i32 = ice_on_signal::ICE_ON_SIGNAL_PASS as i32;
    const CHECKPOINT: i32 = ice_on_signal::ICE_ON_SIGNAL_CHECKPOINT as i32;
    const CHECKPOINT_AND_STOP: i32 = ice_on_signal::ICE_ON_SIGNAL_CHECKPOINT_AND_STOP as i32;
    const STOP: i32 = ice_on_signal::ICE_ON_SIGNAL_STOP as i32;
    edit(spec, |spec| {
        let signal = nameable(signal)?;
        let on_signal = match action {
            DEFAULT => None,
            PASS => Some(OnSignal::Pass),
            CHECKPOINT => Some(OnSignal::Checkpoint),
            CHECKPOINT_AND_STOP => Some(OnSignal::CheckpointAndStop),
            STOP => Some(OnSignal::Stop),
            other => return Err(Error::config("on_signal", other, "must be an ice_on_signal: 0 to 4")),
        };
        spec.on_signal.remove(&signal);
        spec.on_signal.extend(on_signal.map(|on_signal| (signal, on_signal)));
        Ok(())
    })
}

/// Non-zero: ^Z at a terminal, or any SIGTSTP to the host, stops all workers with all that is in their process
/// groups (SIGSTOP), then the host process itself, every thread of it, as if it had no handler. Whoever continues it
/// (`fg` or `bg` in a shell, SIGCONT) continues the workers too. The time in between counts for no timer of a worker.
/// Where no shell could continue it the kernel stops nobody (an orphaned process group, see setpgid(2)), and the
/// workers go on at once. Without this a host that has no handler is stopped, and its workers run on, as their
/// groups are not the terminal's.
///
/// SIGTSTP has a handler from start to the end of the run, as with `ice_spec_set_signals()`; a signal that is named
/// there, in `ice_spec_set_pass_signals()` or with `ice_spec_set_on_signal()` is what they make of it. Where a rank
/// has the terminal for its debugger ^Z does nothing. Default 0: SIGTSTP is not touched. `icerun` asks for it.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_suspend(spec: *mut ice_spec, on: i32) -> ice_status {
    set_flag(spec, option!("suspend"), on)
}
