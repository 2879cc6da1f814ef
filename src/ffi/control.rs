//! What a worker says to its agent while it works, and hears from it.

use std::ffi::c_char;
use std::time::Duration;

use super::status::{guard, guard_value, ice_status};
use super::worker::{ice_worker, side};
use super::{output, text};
use crate::control::request::{Reason, RequestKind};
use crate::control::section::Name;
use crate::control::worker::Control;
use crate::error::Error;
use crate::process::function::WorkerSide;
use crate::ranks::Rank;
use crate::spec;
use crate::spec::variables::CONTROL_PAGE;

/// What the agent asks a worker to do.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ice_request_kind {
    /// Nothing is due.
    ICE_REQUEST_NONE = 0,
    /// Stop working, answer with `ice_worker_acknowledge()`, and look again: `ice_worker_poll()` comes back
    /// when the pause is over, or when something else is to be done at this step.
    ICE_REQUEST_PAUSE = 1,
    /// Save a checkpoint, answer whether that went well, and go on.
    ICE_REQUEST_SAVE = 2,
    /// Save what is to be saved, answer, and end the process with success.
    ICE_REQUEST_STOP = 3,
}

/// Why it asks.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ice_request_reason {
    /// The host wants it: `ice_agent_request_checkpoint()` and its like.
    ICE_REASON_HOST = 1,
    /// The run is about to be stopped, by a signal for instance; the stop signal follows after the answers
    /// of all workers, or at the deadline: `ice_spec_set_checkpoint_before_stop()`.
    ICE_REASON_PREEMPTION = 2,
    /// The workers are about to be started again, as hosts have come to the job or gone from it; the stop signal
    /// follows as above.
    ICE_REASON_MEMBERSHIP = 3,
}

/// What is due, and until when.
#[repr(C)]
pub struct ice_request {
    /// An `ice_request_kind`.
    pub kind: i32,
    /// An `ice_request_reason`.
    pub reason: i32,
    /// The step at which all ranks do it. A rank that has said no step does it at its next look.
    pub step: u64,
    /// When the agent stops waiting for the answer: CLOCK_MONOTONIC, in nanoseconds.
    pub deadline_ns: i64,
    /// How many seconds that is from now, 0 if it has passed.
    pub seconds_left: f64,
}

/// Makes a handle for a program that is a worker, and writes it to `*out`: its ranks are those of the variables
/// RANK, LOCAL_RANK, WORLD_SIZE and so on, its agent is found by ICE_CONTROL_FD. The caller frees it with
/// `ice_worker_close()`. A worker that is a function has its handle, and needs no other.
///
/// Outside an agent, or where the spec does not say `ice_spec_set_control()`, it succeeds all the same: without
/// variables the world is 1 and the rank 0, and all that a worker says with this handle succeeds and does
/// nothing. A worker whose descriptor was closed, or replaced by a shell that has used the same number, finds
/// itself without control likewise. To be called in the process that says steps, once: a later handle of the same
/// worker, in whatever process, begins anew, without steps, timers or a pause, and is to be the only one in use.
///
/// Not while another thread changes the environment. What a worker says and hears, from `ice_worker_step()` to
/// `ice_worker_release()`, may be done by any threads at once; one of them answers what it was asked.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_open(out: *mut *mut ice_worker) -> ice_status {
    guard(|| {
        let out = output(out, "out")?;
        let control =
            std::env::var(CONTROL_PAGE).map(|value| Control::from_variable(&value)).unwrap_or_default();
        let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<usize>().ok());
        let world_size = number("WORLD_SIZE").unwrap_or(1);
        let rank = number("RANK").unwrap_or(0);
        let rank = Rank {
            global: rank,
            local: number("ICE_LOCAL_RANK").or_else(|| number("LOCAL_RANK")).unwrap_or(0),
            role: number("ROLE_RANK").unwrap_or(rank),
            group: number("GROUP_RANK").unwrap_or(0),
            world_size,
            local_world_size: number("LOCAL_WORLD_SIZE").unwrap_or(1),
            role_world_size: number("ROLE_WORLD_SIZE").unwrap_or(world_size),
            group_world_size: number("GROUP_WORLD_SIZE").unwrap_or(1),
        };
        let restarts = number("TORCHELASTIC_RESTART_COUNT").unwrap_or(0) as u32;
        let side = WorkerSide { rank: Some(rank), restarts, argument: None, end: None, control };
        *out = Box::into_raw(Box::new(side)).cast();
        Ok(())
    })
}

/// Frees a handle of `ice_worker_open()`. NULL is fine, and so is the handle that a function was given, which
/// stays. Timers that are armed stay so.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_close(worker: *mut ice_worker) {
    guard(|| {
        if !worker.is_null() && side(worker)?.end.is_none() {
            // SAFETY: not a function's, so it comes from `ice_worker_open`, and is freed once.
            drop(unsafe { Box::from_raw(worker.cast::<WorkerSide>()) });
        }
        Ok(())
    });
}

/// 1 if an agent hears what this worker says, 0 if it says it to nobody.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_has_control(worker: *const ice_worker) -> i32 {
    guard_value(0, || Ok(i32::from(side(worker)?.control.is_open())))
}

/// For calls that cost nanoseconds: NULL does nothing, and there is no message.
fn control<'a>(worker: *const ice_worker) -> Option<&'a Control> {
    // SAFETY: the header says that handles come from this library and are not used after their end.
    unsafe { worker.cast::<WorkerSide>().as_ref() }.map(|side| &side.control)
}

/// Says that this rank is at `step`, any number below 2^64 - 1 that grows: one plain store, no system call. To
/// be called at the begin of each step, before `ice_worker_poll()`.
///
/// All ranks that say steps are asked to act at one and the same of them: one that none has looked at yet. That
/// holds without any collective among them, if all count the same steps and look at each of them, or at the
/// same ones. A step is also a sign of life: `ice_spec_set_heartbeat_timeout()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_step(worker: *mut ice_worker, step: u64) {
    if let Some(control) = control(worker) {
        control.step(step);
    }
}

/// Says what is due at this step, an `ice_request_kind`, and writes it to `*out`, which may be NULL. Usually
/// that is ICE_REQUEST_NONE, by one load from memory; `*out` is then untouched. A request that is due is due
/// at each look until it is answered or taken back.
///
/// Waits, without using a CPU, in a rank that has answered a pause, until that is over or something else is to
/// be done where it stands; and for some microseconds while the agent chooses a step. So one loop does all:
///
///     while ((kind = ice_worker_poll(worker, &request)) != ICE_REQUEST_NONE) {
///       if (kind == ICE_REQUEST_PAUSE) ice_worker_acknowledge(worker, 1);
///       if (kind == ICE_REQUEST_SAVE) ice_worker_acknowledge(worker, save() == 0);
///       if (kind == ICE_REQUEST_STOP) { save(); ice_worker_acknowledge(worker, 1); exit(0); }
///     }
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_poll(worker: *mut ice_worker, out: *mut ice_request) -> ice_request_kind {
    let Some(request) = control(worker).and_then(Control::poll) else {
        return ice_request_kind::ICE_REQUEST_NONE;
    };
    let kind = match request.kind {
        RequestKind::Pause => ice_request_kind::ICE_REQUEST_PAUSE,
        RequestKind::Save => ice_request_kind::ICE_REQUEST_SAVE,
        RequestKind::Stop => ice_request_kind::ICE_REQUEST_STOP,
    };
    let reason = match request.reason {
        Reason::Host => ice_request_reason::ICE_REASON_HOST,
        Reason::Preemption => ice_request_reason::ICE_REASON_PREEMPTION,
        Reason::Membership => ice_request_reason::ICE_REASON_MEMBERSHIP,
    };
    // SAFETY: the header says that outputs point to writable memory of their type, or are NULL here.
    if let Some(out) = unsafe { out.as_mut() } {
        let left = request.deadline.saturating_sub(crate::sys::process::monotonic());
        *out = ice_request {
            kind: kind as i32,
            reason: reason as i32,
            step: request.at_step,
            deadline_ns: i64::try_from(request.deadline.as_nanos()).unwrap_or(i64::MAX),
            seconds_left: left.as_secs_f64(),
        };
    }
    kind
}

/// Answers the request that the last `ice_worker_poll()` said is due: `success` non-zero if it was done. The
/// answer to a pause means that this worker does no more work; its next look waits. ICE_ERROR_STATE if nothing
/// is due, or if it was answered.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_acknowledge(worker: *mut ice_worker, success: i32) -> ice_status {
    guard(|| side(worker)?.control.acknowledge(success != 0))
}

/// Says how far this worker is, `done` of `total` in whatever unit: two plain stores. 0 of 0, the beginning,
/// means that it does not say. The host finds it in `ice_worker_info`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_progress(worker: *mut ice_worker, done: u64, total: u64) {
    if let Some(control) = control(worker) {
        control.progress(done, total);
    }
}

/// Says that this worker is well: a look at the clock and a plain store, tens of nanoseconds. See
/// `ice_spec_set_heartbeat_timeout()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_heartbeat(worker: *mut ice_worker) {
    if let Some(control) = control(worker) {
        control.heartbeat();
    }
}

/// Arms the timer `scope` of this worker, in place of one of that name: unless it is released or armed anew
/// within `seconds`, the agent looks where the worker is (`ice_spec_set_stack_timeout()`) and kills it
/// (SIGKILL, or what `ice_spec_set_timer_signal()` says), whatever it hangs in. The worker has failed then,
/// as ICE_CAUSE_TIMED_OUT, with all that follows; its message names the scope and the time. 0 to 1e9 seconds,
/// on the monotonic clock; the agent looks within a few milliseconds of the earliest time. Time stands still
/// while the worker is paused, and the timers of a worker end with its process.
///
/// It costs some stores, and a system call only if no other timer of the agent's workers is due before: a
/// timer of one length for each step costs one system call in that length. The first 48 bytes of the name
/// count; at most 12 timers at once, else ICE_ERROR_ARGUMENT. ICE_ERROR_CONFIG for bad seconds.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_expires(
    worker: *mut ice_worker,
    scope: *const c_char,
    seconds: f64,
) -> ice_status {
    guard(|| {
        let (control, scope) = (&side(worker)?.control, text(scope, "scope")?);
        let lasts: Duration = spec::seconds("seconds", seconds)?;
        control.expires(scope, lasts)
    })
}

/// Lets the timer `scope` go. One that is not armed is no error.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_release(worker: *mut ice_worker, scope: *const c_char) -> ice_status {
    guard(|| {
        let (control, scope) = (&side(worker)?.control, text(scope, "scope")?);
        control.release(scope);
        Ok(())
    })
}

/// Says that this worker is about to be at a debugger, and waits until it is the only one: another that has called
/// first comes first. From then on, until `ice_worker_debug_end()` or its end, no timer of any worker runs (those of
/// `ice_spec_set_debug_rank()`), and the other ranks pause, as by `ice_agent_pause()`, at a step that none has looked
/// at yet; one that waits for this rank in a collective waits there. A request of the host's meanwhile waits
/// for this rank's answer like for any other; of a pause it is not told before its end.
///
/// If the host has a controlling terminal and is in its foreground, this process's group is put there, so
/// that ^C is for the worker, and its descriptors 0, 1 and 2 are the terminal's; what stdio has buffered is
/// to be flushed before. Without one, for a debugger that needs none (gdb --pid, debugpy), all else is the
/// same. In Python: call it from `sys.breakpointhook` before pdb, and the end after it.
///
/// Without an agent, or without control, it succeeds and does nothing. ICE_ERROR_STATE if this worker is
/// at its debugger already. Any thread, one at a time.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_debug_begin(worker: *mut ice_worker) -> ice_status {
    guard(|| side(worker)?.control.debug_begin())
}

/// Ends what `ice_worker_debug_begin()` began: the streams are what they were, the terminal is the host's, timers and
/// heartbeats begin anew, and the other ranks go on. ICE_ERROR_STATE if nothing was begun; without an agent it
/// succeeds and does nothing.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_debug_end(worker: *mut ice_worker) -> ice_status {
    guard(|| side(worker)?.control.debug_end())
}

/// Says that this worker is in the section `name` of its work from now on ("setup", "step", "checkpoint"), or with
/// NULL in none; the section that it was in, the same too, has come to its end. So one call at the begin of each
/// does, and one with NULL where the last ends. `ice_spec_set_section_limit()` and
/// `ice_spec_set_section_learning()` say how long a section may last; without them nobody looks. The host finds
/// it in `ice_worker_info`.
///
/// It costs a look at the clock and a few plain stores, and a system call only if the agent has to look earlier
/// than it meant to. Time stands still while the worker is paused. The first 40 bytes of the name count; 8 names
/// at most in one worker, else ICE_ERROR_ARGUMENT, as for an empty name; what the worker was in then goes on.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_section(worker: *mut ice_worker, name: *const c_char) -> ice_status {
    guard(|| {
        let control = &side(worker)?.control;
        if name.is_null() {
            return control.section(Name::default());
        }
        match text(name, "name")? {
            b"" => Err(Error::Argument { what: "name is empty: NULL means no section".into() }),
            name => control.section(Name::new(name)),
        }
    })
}

/// Asks the agent to stop the group and to start it anew, as if this worker had failed: it uses one of the
/// restarts, and where none is left the run ends as ICE_END_WORKER_FAILURE, with a message that says who asked.
/// There is then no root cause, and every worker counts as stopped by the agent. Returns at once; the stop signal
/// comes soon. A worker that exits after this call, with success too, has asked all the same. Before all workers
/// run it waits until they do, and once the group is being stopped it changes nothing. A program without libice
/// asks for a restart by any exit code that is not 0.
#[unsafe(no_mangle)]
pub extern "C" fn ice_worker_request_restart(worker: *mut ice_worker) -> ice_status {
    guard(|| {
        side(worker)?.control.want_restart();
        Ok(())
    })
}

/// A program's handle has no value.
pub(super) fn no_value() -> Error {
    Error::State { what: "only a worker that is a function returns a value" }
}
