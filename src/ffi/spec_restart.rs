//! The part of `ice_spec` that is about restarts and stops.

use std::ffi::c_char;

use super::option;
use super::spec::{edit, ice_spec, set_flag, set_number, set_seconds, set_text};
use super::status::ice_status;
use crate::spec;
use crate::spec::options::parse;

/// How often the whole group may be started again after a worker failed: 0 to 2147483647, default 3
/// as torch's WorkerSpec (torchrun's own default is 0). 0 means exactly one attempt.
///
/// A start error in the first attempt ends the run, whatever restarts are left. In a later attempt, what could not be
/// started may be a while later, if nothing but room was missing (processes, memory, descriptors, space on a disk, a
/// free port) or a file that is being replaced (ENOENT, ETXTBSY): that uses a restart up, after a wait, see
/// `ice_spec_set_restart_backoff()`, and is one of the result's failures. Anything else (ENOEXEC, EACCES), or such an
/// error when no restart is left, is an agent error. Hosts of a job are told of it as of a failed worker.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_max_restarts(spec: *mut ice_spec, count: i64) -> ice_status {
    set_number(spec, option!("max_restarts"), count)
}

/// Waits before a restart: `initial` seconds before the first, twice as long before each further one,
/// never more than `maximum` seconds. Counted from the moment the last worker is gone. Both 0 to 1e9,
/// `initial` not above `maximum`. Default: no wait; after an attempt whose workers could not be started, 0.5 seconds,
/// and twice as long after each further one in a row, never more than 30. A stop ends the wait at once.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_restart_backoff(
    spec: *mut ice_spec,
    initial: f64,
    maximum: f64,
) -> ice_status {
    edit(spec, |spec| parse::set_backoff(spec, initial, maximum))
}

/// An attempt whose first failure comes sooner than `seconds` after its start is a crash loop: the run
/// ends with it, whatever restarts are left. 0 to 1e9; default 0, which is off.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_min_uptime(spec: *mut ice_spec, seconds: f64) -> ice_status {
    set_seconds(spec, option!("min_uptime"), seconds)
}

/// Adds an exit code, 1 to 255, after which a restart makes no sense (a bad configuration, say): a
/// worker whose own failure has this code ends the run, whatever restarts are left. May be called
/// again for further codes.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_add_no_restart_exit_code(spec: *mut ice_spec, code: i32) -> ice_status {
    edit(spec, |spec| {
        let code = spec::number("no_restart_exit_code", i64::from(code), 1, 255)?;
        spec.no_restart_exit_codes.insert(code as i32);
        Ok(())
    })
}

/// How many attempts may fail without having come further than those before: the run ends with the last of
/// them, whatever restarts are left. 0 to 2147483647; 0, the default, is any number. How far an attempt came is the
/// greatest step that a rank has said (`ice_worker_step()`), or where none says steps the most that a rank has
/// done (`ice_worker_progress()`). An attempt in which nobody has said anything is unknown: it is not counted,
/// and does not end the count; for those that fail at once there is `ice_spec_set_min_uptime()`. Any number but
/// 0 implies `ice_spec_set_control()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_max_attempts_without_progress(spec: *mut ice_spec, count: i64) -> ice_status {
    set_number(spec, option!("max_attempts_without_progress"), count)
}

/// The longest time, in seconds, between two looks at what the kernel announces by no event: whether
/// descendants of a stopped worker are gone, and with `ice_spec_set_uninterruptible_timeout()` whether a worker
/// is asleep in the kernel. Exits of workers, stops and output are events and never wait for it, and without
/// that an agent whose workers are well does not wake up at all. 0.001 to 1e9, default
/// 0.1 (torchrun `--monitor-interval`).
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_monitor_interval(spec: *mut ice_spec, seconds: f64) -> ice_status {
    set_seconds(spec, option!("monitor_interval"), seconds)
}

/// Seconds that workers have between the stop signal and SIGKILL, one value for every path: a failed
/// peer, a restart, a signal, `ice_agent_stop()`, `ice_agent_free()`. All workers share one deadline.
/// 0 to 1e9; 0 means SIGKILL follows at once. Default: the environment variable
/// TORCH_ELASTIC_SHUTDOWN_TIMEOUT of the host when the agent is made, else 30 (torchrun
/// `--shutdown-timeout`). A variable that is not such a number is ICE_ERROR_CONFIG from
/// `ice_agent_new()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_shutdown_timeout(spec: *mut ice_spec, seconds: f64) -> ice_status {
    set_seconds(spec, option!("shutdown_timeout"), seconds)
}

/// The signal that asks workers to stop; default SIGTERM. It goes to the process group of every
/// worker, so that its descendants get it too, once, followed by SIGCONT, so that a stopped worker can
/// act on it. A run that is stopped by a signal of `ice_spec_set_signals()` or by
/// `ice_agent_stop(agent, signal)` passes that signal on instead.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_stop_signal(spec: *mut ice_spec, signal: i32) -> ice_status {
    set_number(spec, option!("stop_signal"), i64::from(signal))
}

/// Sends `signal` first and waits up to `seconds` for the workers to end by themselves before the stop
/// signal follows: time for a checkpoint. `seconds` 0 to 1e9, not counted in the shutdown time-out.
/// Default: none.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_pre_stop_signal(spec: *mut ice_spec, signal: i32, seconds: f64) -> ice_status {
    edit(spec, |spec| parse::set_pre_stop_signal(spec, i64::from(signal), seconds))
}

/// Signals of the host process that stop the run: a comma-separated list of names with or without
/// `SIG`, or numbers, for instance `"SIGTERM,SIGINT,SIGHUP,SIGQUIT"` (torchrun's default for
/// `--signals-to-handle`). Default `""`: the library installs no handler at all.
///
/// With a list, handlers are installed for the time of the run only, and what stood there before is
/// put back when the last run that asked for that signal is over. A signal that the host ignores when
/// the run starts stays ignored (nohup). On a signal every worker gets that same signal, has the
/// shutdown time-out, then SIGKILL; the run ends with ICE_END_INTERRUPTED. A further signal never skips
/// the kill: a second SIGINT or SIGQUIT brings SIGKILL at once, others change nothing.
///
/// A worker that dies of one of these signals, or exits with 128 and its number, may have got a stop that is meant
/// for all before the host got it. So for up to 0.2 seconds it is not taken for a failure: a stop that comes
/// meanwhile ends the run as one, without a further attempt. The same holds in a job of several hosts for SIGTERM,
/// SIGINT and the stop signal, whoever handles them, and for a job that another host closed without a failed worker.
///
/// A name that this system does not know is a warning in the log and otherwise left out. SIGKILL,
/// SIGSTOP, SIGCHLD and the signals of a crash are ICE_ERROR_CONFIG.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_signals(spec: *mut ice_spec, list: *const c_char) -> ice_status {
    set_text(spec, option!("signals"), list, "list")
}

/// Signals of the host process that every worker gets once each time they arrive, while the run goes
/// on, for instance `"SIGUSR1,SIGUSR2,SIGWINCH"`. The list, the handlers and the errors are as for
/// `ice_spec_set_signals()`; a signal in both lists stops the run. Default `""`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_pass_signals(spec: *mut ice_spec, list: *const c_char) -> ice_status {
    set_text(spec, option!("pass_signals"), list, "list")
}

/// Non-zero (the default): when a group has succeeded, what its workers left running is killed, as it always is after a
/// failure or a stop, and before a restart. 0: it is left alone after a success, and nobody looks for it.
///
/// That is the members of their process groups, and whatever else descends from a worker, in whatever group or
/// session (`timeout`, a shell with job control, setsid(1), a daemon). A stop signal reaches those too that are below a
/// living worker then, but not what is below another agent there (a nested run): that agent stops its workers, and has
/// until the shutdown time-out. What has lost its parents is found by the mark of the run in ICE_DESCENT, which
/// everything inherits that does not clear its environment, or, with `ice_spec_set_subreaper()`, whatever
/// it does. What is found and cannot be killed is named, with its command, in a warning and in
/// `ice_result_summary()`.
///
/// Not found is, without a subreaper, what has lost its parents and then cleared its environment, or may not be
/// looked at: a program of another user (sudo) for a host that is not root; and nobody is where /proc shows another
/// pid namespace, or none (hidepid shows one's own, which is enough). A program that is meant to outlive its worker is
/// to be started from elsewhere, by a service manager for instance.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_kill_group_on_success(spec: *mut ice_spec, on: i32) -> ice_status {
    set_flag(spec, option!("kill_group_on_success"), on)
}

/// Non-zero: from the start of the run to its end the process is a child subreaper (PR_SET_CHILD_SUBREAPER of prctl(2)):
/// what descends from it and loses its parent becomes its child. So nothing that a worker has started is lost,
/// even if it has a session of its own and an empty environment; it is killed with its attempt, see
/// `ice_spec_set_kill_group_on_success()`, and reaped. A handler for SIGCHLD stands meanwhile, unless the host ignores
/// it; what ends earlier is reaped within a second. 0 (the default): nothing of the host is changed.
///
/// For a process that starts no other children during the run, and has no other agent: such a child, but one of before
/// the run, counts as a descendant of the workers. icerun is one.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_subreaper(spec: *mut ice_spec, on: i32) -> ice_status {
    set_flag(spec, option!("subreaper"), on)
}
