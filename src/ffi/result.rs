//! `ice_result`: how a run ended and what became of each worker.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use super::status::guard_value;
use super::{handle, item};
use crate::error::Error;
use crate::report::{Cause, End, GroupState, Outcome, RunReport, WorkerReport};

/// The state of the worker group, torch's WorkerState with its numbers.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ice_state {
    /// The agent lost track of a worker: somebody else took its exit status.
    ICE_STATE_UNKNOWN = 0,
    /// Not all workers are started yet.
    ICE_STATE_INIT = 1,
    /// All workers were started, none has failed.
    ICE_STATE_HEALTHY = 2,
    /// Reserved: a group that runs but is not well.
    #[allow(dead_code)] // torch's number
    ICE_STATE_UNHEALTHY = 4,
    /// The agent is stopping the workers, or stopped them on request.
    ICE_STATE_STOPPED = 8,
    /// All workers exited with 0.
    ICE_STATE_SUCCEEDED = 16,
    /// The run failed and no restart is left.
    ICE_STATE_FAILED = 32,
}

/// The class of a run's end. Bad ends are never mixed: a wrong spec is a status of `ice_agent_new()`
/// (ICE_ERROR_CONFIG), the rest is here.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ice_end {
    /// Every worker exited with 0.
    ICE_END_SUCCEEDED = 0,
    /// A worker failed and no restart was left or made sense. `ice_result_root_cause()` says which; of one on
    /// another host `ice_result_message()` does, and there is no root cause here.
    ICE_END_WORKER_FAILURE = 1,
    /// A worker could not be started in the first attempt: no such program, no permission, no
    /// descriptor or process left, port in use. `ice_result_errno()` has the errno. Nothing is restarted.
    ICE_END_START_ERROR = 2,
    /// The agent itself could not go on: a start error in a later attempt that cannot pass, or with no
    /// restart left (`ice_spec_set_max_restarts()`), a GPU that is gone when the group is to restart, an exit status
    /// that somebody else took, a failed system call, a defect; or a rendezvous that could not be joined, or is lost.
    ICE_END_AGENT_ERROR = 3,
    /// Stopped by a signal of `ice_spec_set_signals()`, by `ice_agent_stop()` or `ice_agent_free()`.
    ICE_END_INTERRUPTED = 4,
    /// This agent was a spare of a job of several hosts, which succeeded without it.
    ICE_END_NOT_NEEDED = 5,
}

/// How a worker's process ended.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ice_outcome {
    /// It was never started, or its start failed.
    ICE_OUTCOME_NEVER_STARTED = 0,
    /// It runs (snapshots only).
    ICE_OUTCOME_RUNNING = 1,
    /// It exited; `exit_code` has the code.
    ICE_OUTCOME_EXITED = 2,
    /// A signal killed it; `signal` has the number.
    ICE_OUTCOME_SIGNALED = 3,
    /// It was still there after SIGKILL and a further wait (uninterruptible sleep), or could not be
    /// signalled, as it runs as another user: the agent gave it up.
    ICE_OUTCOME_STUCK = 4,
    /// It is gone, but somebody else took its exit status.
    ICE_OUTCOME_LOST = 5,
}

/// Why a worker ended as it did.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ice_cause {
    /// It ended by itself with exit code 0.
    ICE_CAUSE_SUCCESS = 0,
    /// It failed by itself: an exit code other than 0, a signal that the agent did not send, a callback
    /// that did not return.
    ICE_CAUSE_OWN_FAILURE = 1,
    /// It ended after the agent had told it to stop, with whatever code.
    ICE_CAUSE_STOPPED_BY_AGENT = 2,
    /// The agent could not kill it.
    ICE_CAUSE_STUCK = 3,
    /// It was never started: the start of this or another worker failed, or a stop came first.
    ICE_CAUSE_NEVER_STARTED = 4,
    /// Its status is unknown, see ICE_OUTCOME_LOST.
    ICE_CAUSE_LOST = 5,
    /// The agent found it stuck and ended it: a timer of its own expired (`ice_worker_expires()`,
    /// `ice_spec_set_file_timers()`), its heartbeat or first word stayed away (`ice_spec_set_heartbeat_timeout()`,
    /// `ice_spec_set_initial_heartbeat_timeout()`), a section
    /// took too long (`ice_spec_set_section_limit()`), it ran on when others had ended
    /// (`ice_spec_set_straggler_timeout()`), or it was in uninterruptible sleep for too long
    /// (`ice_spec_set_uninterruptible_timeout()`). `message` begins with which of them, and how long; `stack` says
    /// where it was; `outcome` how it ended, which may be ICE_OUTCOME_STUCK.
    ICE_CAUSE_TIMED_OUT = 6,
}

/// What became of one worker. Borrowed from the result it came from: all pointers are valid until that
/// result is freed, none is NULL unless said so. Strings are NUL-terminated bytes (paths and messages of
/// workers need not be UTF-8). Later versions may add fields at the end.
#[repr(C)]
pub struct ice_worker_result {
    /// RANK: the key of results across agents. In a job of several hosts that of the last round that this one took
    /// part in; before the first, the local rank.
    pub global_rank: i32,
    /// LOCAL_RANK.
    pub local_rank: i32,
    /// ROLE_RANK.
    pub role_rank: i32,
    /// Its process; 0 if it was never started.
    pub pid: i32,
    /// How it ended.
    pub outcome: ice_outcome,
    /// Why.
    pub cause: ice_cause,
    /// The exit code, 0 to 255; minus the signal's number where a signal killed it (as torchrun);
    /// -1 where there is neither.
    pub exit_code: i32,
    /// The signal that killed it, or 0.
    pub signal: i32,
    /// 1 if it dumped core.
    pub core_dumped: i32,
    /// 1 if it was killed by SIGKILL, not by the agent, while its memory cgroup counted an OOM kill.
    pub likely_oom: i32,
    /// Its place in the order in which the workers of its attempt ended, from 0; -1 if it did not end.
    /// The order is the kernel's, not that of rank, but for workers that ended while the group was still
    /// being started: these are taken by local rank.
    pub order: i32,
    /// Its attempt, from 0: TORCHELASTIC_RESTART_COUNT.
    pub attempt: i32,
    /// CLOCK_MONOTONIC in nanoseconds when it had been started, 0 if never.
    pub start_ns: i64,
    /// CLOCK_MONOTONIC in nanoseconds when its end was seen, 0 if not.
    pub end_ns: i64,
    /// The same moment as nanoseconds since 1970 (CLOCK_REALTIME), 0 if not.
    pub end_unix_ns: i64,
    /// Peak resident memory in bytes, of it and descendants it waited for, as wait4(2) has it. Linux
    /// counts the memory of the host at the start of a program in: never below the host's own then.
    pub max_rss_bytes: u64,
    /// User CPU time in nanoseconds, of it and descendants it waited for.
    pub user_cpu_ns: u64,
    /// System CPU time in nanoseconds, likewise.
    pub system_cpu_ns: u64,
    /// 1 if it returned a value (of 0 bytes, perhaps) and the run succeeded; else 0.
    pub has_value: i32,
    /// The value's memory, page-aligned, read-only; NULL if there is none or it has 0 bytes.
    pub value: *const c_void,
    /// The value's size in bytes.
    pub value_size: usize,
    /// Why it failed, for people: the message of its error file; else `Signal 9 (SIGKILL) received by
    /// PID 4711` or a text with the exit code. Empty for a success.
    pub message: *const c_char,
    /// The call stack in its error file, or empty.
    pub call_stack: *const c_char,
    /// The time in its error file, seconds since 1970, or 0.
    pub error_timestamp: i64,
    /// The raw bytes of its error file, JSON or not (a worker may die while it writes); NULL if there is
    /// none.
    pub error_data: *const c_void,
    /// The size of `error_data` in bytes.
    pub error_size: usize,
    /// The path of its error file, or empty if it wrote none.
    pub error_file: *const c_char,
    /// The last whole lines of its stderr file, see `ice_spec_set_stderr_tail()`; empty for a success or
    /// where there is no file. Not text: it may hold NUL bytes, but it is NUL-terminated.
    pub stderr_tail: *const c_char,
    /// The size of `stderr_tail` in bytes, without the final NUL.
    pub stderr_tail_size: usize,
    /// The path of its stdout file, or empty if stdout was not redirected.
    pub stdout_log: *const c_char,
    /// The path of its stderr file, or empty.
    pub stderr_log: *const c_char,
    /// Where it was when the agent found it stuck, several lines for people, see
    /// `ice_spec_set_stack_timeout()`; else empty. A few KiB as a rule, never above 3 MiB.
    pub stack: *const c_char,
    /// The name of the host that it ran on, as gethostname(2) has it.
    pub hostname: *const c_char,
}

/// How a run ended. It never changes; any thread may read it. It does not need the agent, which may be
/// freed first.
pub struct ice_result {
    report: Arc<RunReport>,
    workers: Vec<ice_worker_result>,
    failures: Vec<ice_worker_result>,
}

impl ice_result {
    pub(super) fn report(&self) -> &RunReport {
        &self.report
    }

    pub(super) fn into_raw(report: Arc<RunReport>) -> *mut ice_result {
        let workers = report.workers.iter().map(view).collect();
        let failures = report.failures.iter().map(view).collect();
        Box::into_raw(Box::new(ice_result { report, workers, failures }))
    }
}

/// The C view of a report: pointers into the `Arc` that the result holds.
fn view(worker: &WorkerReport) -> ice_worker_result {
    let pointer = |bytes: &[u8]| if bytes.is_empty() { std::ptr::null() } else { bytes.as_ptr().cast() };
    ice_worker_result {
        global_rank: worker.rank.global as i32,
        local_rank: worker.rank.local as i32,
        role_rank: worker.rank.role as i32,
        pid: worker.pid,
        outcome: worker.outcome.into(),
        cause: worker.cause.into(),
        exit_code: worker.exit_code(),
        signal: worker.signal(),
        core_dumped: matches!(worker.outcome, Outcome::Signaled { core: true, .. }) as i32,
        likely_oom: worker.likely_oom as i32,
        order: worker.order.map_or(-1, |order| order as i32),
        attempt: worker.attempt as i32,
        start_ns: worker.start_ns,
        end_ns: worker.end_ns,
        end_unix_ns: worker.end_unix_ns,
        max_rss_bytes: worker.usage.max_rss_bytes,
        user_cpu_ns: worker.usage.user_cpu_ns,
        system_cpu_ns: worker.usage.system_cpu_ns,
        has_value: worker.value.is_some() as i32,
        value: worker.value.as_ref().map_or(std::ptr::null(), |value| pointer(value.bytes())),
        value_size: worker.value.as_ref().map_or(0, |value| value.bytes().len()),
        message: worker.message.as_ptr(),
        call_stack: worker.call_stack.as_ptr(),
        error_timestamp: worker.error_timestamp,
        error_data: worker.error_data.as_ref().map_or(std::ptr::null(), |data| data.as_ptr().cast()),
        error_size: worker.error_data.as_deref().map_or(0, <[u8]>::len),
        error_file: worker.error_file.as_ptr(),
        stderr_tail: worker.stderr_tail.as_ptr().cast(),
        stderr_tail_size: worker.stderr_tail.len().saturating_sub(1),
        stdout_log: worker.stdout_log.as_ptr(),
        stderr_log: worker.stderr_log.as_ptr(),
        stack: worker.stack.as_ptr(),
        hostname: worker.hostname.as_ptr(),
    }
}

impl From<GroupState> for ice_state {
    fn from(state: GroupState) -> Self {
        match state {
            GroupState::Unknown => ice_state::ICE_STATE_UNKNOWN,
            GroupState::Init => ice_state::ICE_STATE_INIT,
            GroupState::Healthy => ice_state::ICE_STATE_HEALTHY,
            GroupState::Stopped => ice_state::ICE_STATE_STOPPED,
            GroupState::Succeeded => ice_state::ICE_STATE_SUCCEEDED,
            GroupState::Failed => ice_state::ICE_STATE_FAILED,
        }
    }
}

impl From<Outcome> for ice_outcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::NeverStarted => ice_outcome::ICE_OUTCOME_NEVER_STARTED,
            Outcome::Running => ice_outcome::ICE_OUTCOME_RUNNING,
            Outcome::Exited { .. } => ice_outcome::ICE_OUTCOME_EXITED,
            Outcome::Signaled { .. } => ice_outcome::ICE_OUTCOME_SIGNALED,
            Outcome::Stuck => ice_outcome::ICE_OUTCOME_STUCK,
            Outcome::Lost => ice_outcome::ICE_OUTCOME_LOST,
        }
    }
}

impl From<Cause> for ice_cause {
    fn from(cause: Cause) -> Self {
        match cause {
            Cause::Success => ice_cause::ICE_CAUSE_SUCCESS,
            Cause::OwnFailure => ice_cause::ICE_CAUSE_OWN_FAILURE,
            Cause::StoppedByAgent => ice_cause::ICE_CAUSE_STOPPED_BY_AGENT,
            Cause::Stuck => ice_cause::ICE_CAUSE_STUCK,
            Cause::NeverStarted => ice_cause::ICE_CAUSE_NEVER_STARTED,
            Cause::Lost => ice_cause::ICE_CAUSE_LOST,
            Cause::TimedOut => ice_cause::ICE_CAUSE_TIMED_OUT,
        }
    }
}

impl From<End> for ice_end {
    fn from(end: End) -> Self {
        match end {
            End::Succeeded => ice_end::ICE_END_SUCCEEDED,
            End::WorkerFailure => ice_end::ICE_END_WORKER_FAILURE,
            End::StartError => ice_end::ICE_END_START_ERROR,
            End::AgentError => ice_end::ICE_END_AGENT_ERROR,
            End::Interrupted => ice_end::ICE_END_INTERRUPTED,
            End::NotNeeded => ice_end::ICE_END_NOT_NEEDED,
        }
    }
}

/// The class of the end. ICE_END_AGENT_ERROR for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_result_end(result: *const ice_result) -> ice_end {
    guard_value(ice_end::ICE_END_AGENT_ERROR, || Ok(handle(result, "result")?.report.end.into()))
}

/// 1 unless the end is ICE_END_SUCCEEDED or ICE_END_NOT_NEEDED (torch's `is_failed()`; whatever else did not succeed
/// has failed).
#[unsafe(no_mangle)]
pub extern "C" fn ice_result_is_failed(result: *const ice_result) -> i32 {
    guard_value(1, || Ok(!handle(result, "result")?.report.end.is_good() as i32))
}

/// The last state of the worker group. ICE_STATE_UNKNOWN for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_result_state(result: *const ice_result) -> ice_state {
    guard_value(ice_state::ICE_STATE_UNKNOWN, || Ok(handle(result, "result")?.report.state.into()))
}

/// How often the group was started again: 0 if the first attempt was the only one.
#[unsafe(no_mangle)]
pub extern "C" fn ice_result_restarts(result: *const ice_result) -> i32 {
    guard_value(0, || Ok(handle(result, "result")?.report.restarts as i32))
}

/// Torch's measure of how smoothly a run went, 0 to 100: 0 if no restart was used, nearly 100 if all of them
/// were, 100 if it failed (torch's `flakiness` metric). 100 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_result_flakiness(result: *const ice_result) -> i32 {
    guard_value(100, || Ok(handle(result, "result")?.report.flakiness as i32))
}

/// The signal that interrupted the run, 0 if none did or `ice_agent_stop(agent, 0)` did.
#[unsafe(no_mangle)]
pub extern "C" fn ice_result_signal(result: *const ice_result) -> i32 {
    guard_value(0, || Ok(handle(result, "result")?.report.signal))
}

/// 1 if every worker of the last attempt exited with 0: also after an interruption, when all used their
/// time well (a checkpoint before preemption).
#[unsafe(no_mangle)]
pub extern "C" fn ice_result_all_exited_cleanly(result: *const ice_result) -> i32 {
    guard_value(0, || Ok(handle(result, "result")?.report.all_exited_cleanly() as i32))
}

/// 1 if all ranks of the job, on whatever hosts, have saved at least one checkpoint in this run that they were asked for at
/// one step (`ice_agent_request_checkpoint()`, a stop, a signal). What a worker saved unasked is not known. 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_result_has_saved(result: *const ice_result) -> i32 {
    guard_value(0, || Ok(handle(result, "result")?.report.saved.is_some() as i32))
}

/// The step of the last such checkpoint, as the workers say it (`ice_worker_step()`); -1 if there is none, if they do not
/// say it, and for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_result_saved_step(result: *const ice_result) -> i64 {
    guard_value(-1, || {
        let step = handle(result, "result")?.report.saved.and_then(|saved| saved.step);
        Ok(step.and_then(|step| i64::try_from(step).ok()).unwrap_or(-1))
    })
}

/// The exit status for a program that runs a spec and does nothing else, 0 to 255, as icerun has it:
///
/// - 0: ICE_END_SUCCEEDED or ICE_END_NOT_NEEDED;
/// - n: a worker failed, on whatever host, with exit code n; 1 where there is none that could be handed on;
/// - 128 + n: signal n, which was not the agent's, killed the worker that failed;
/// - 124: the agent found a worker stuck and ended it (ICE_CAUSE_TIMED_OUT), by whatever signal; as timeout(1);
/// - 126: the program of the workers cannot be executed, in whatever attempt; as shells have it, and the next one;
/// - 127: the program of the workers, or its interpreter, is not there;
/// - 123: any other ICE_END_START_ERROR: a directory, a file, a port, memory or processes that cannot be had;
/// - 125: any other ICE_END_AGENT_ERROR;
/// - 128 + n: ICE_END_INTERRUPTED by signal n; 143 without a signal; `ice_spec_set_saved_exit_status()` chooses another one
///   for a run whose workers had all saved.
///
/// A spec that is refused has no result: icerun ends with 2 then, and with 125 where a call fails for another
/// reason. 125 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_result_exit_status(result: *const ice_result) -> i32 {
    guard_value(125, || Ok(handle(result, "result")?.report.exit_status))
}

/// The errno of a start error or agent error, 0 if there is none.
#[unsafe(no_mangle)]
pub extern "C" fn ice_result_errno(result: *const ice_result) -> i32 {
    guard_value(0, || Ok(handle(result, "result")?.report.errno))
}

/// Why the run ended as it did, one line; empty for a success. Control characters are escapes in it (`\x1b`), as in the
/// summary, in `ice_last_error_message()` and in messages of the log: all are for people, and may be shown on a
/// terminal. What a worker has said is in its own record, as it said it. Borrowed from the result; never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_result_message(result: *const ice_result) -> *const c_char {
    guard_value(c"".as_ptr(), || Ok(handle(result, "result")?.report.message.as_ptr()))
}

/// The whole result for people: several lines of UTF-8, the root cause first, workers that the agent
/// stopped last. Borrowed from the result; never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_result_summary(result: *const ice_result) -> *const c_char {
    guard_value(c"".as_ptr(), || Ok(handle(result, "result")?.report.summary.as_ptr()))
}

/// The run directory, see `ice_spec_set_log_dir()`; empty if there is none (any more). Borrowed from the
/// result; never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_result_run_dir(result: *const ice_result) -> *const c_char {
    guard_value(c"".as_ptr(), || Ok(handle(result, "result")?.report.run_dir.as_ptr()))
}

/// How many workers the result lists: the local world size. 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_result_worker_count(result: *const ice_result) -> usize {
    guard_value(0, || Ok(handle(result, "result")?.workers.len()))
}

/// One worker of the last attempt, by local rank. Borrowed from the result. NULL if `local_rank` is out
/// of range.
#[unsafe(no_mangle)]
pub extern "C" fn ice_result_worker(
    result: *const ice_result,
    local_rank: usize,
) -> *const ice_worker_result {
    guard_value(std::ptr::null(), || item(&handle(result, "result")?.workers, local_rank, "local rank"))
}

/// One worker of the last attempt, by global rank. Borrowed from the result. NULL if this agent has no
/// such worker.
#[unsafe(no_mangle)]
pub extern "C" fn ice_result_worker_of_rank(
    result: *const ice_result,
    rank: i32,
) -> *const ice_worker_result {
    guard_value(std::ptr::null(), || {
        let workers = &handle(result, "result")?.workers;
        workers
            .iter()
            .find(|worker| worker.global_rank == rank)
            .map(std::ptr::from_ref)
            .ok_or_else(|| Error::Argument { what: format!("this agent has no worker of rank {rank}") })
    })
}

/// The worker that made the last attempt fail: the first, in the kernel's order, that the agent found stuck
/// (ICE_CAUSE_TIMED_OUT) while no other had failed; else the first that failed by itself. Of
/// several that failed before the agent could stop them, one that a signal killed counts as the first:
/// peers see its closed sockets, and may exit, before it counts as dead.
/// Borrowed from the result. NULL if none did.
#[unsafe(no_mangle)]
pub extern "C" fn ice_result_root_cause(result: *const ice_result) -> *const ice_worker_result {
    guard_value(std::ptr::null(), || {
        let result = handle(result, "result")?;
        Ok(result
            .report
            .root_cause
            .and_then(|index| result.workers.get(index))
            .map_or(std::ptr::null(), std::ptr::from_ref))
    })
}

/// How many failed attempts `ice_result_failure()` knows.
#[unsafe(no_mangle)]
pub extern "C" fn ice_result_failure_count(result: *const ice_result) -> usize {
    guard_value(0, || Ok(handle(result, "result")?.failures.len()))
}

/// The root cause of each failed attempt, the oldest first, the last attempt's own (if it failed) at the
/// end: the death certificates of a run that went on. Of a run with many restarts the last 32 are kept.
/// Borrowed from the result. NULL if `index` is out of range.
#[unsafe(no_mangle)]
pub extern "C" fn ice_result_failure(result: *const ice_result, index: usize) -> *const ice_worker_result {
    guard_value(std::ptr::null(), || item(&handle(result, "result")?.failures, index, "failure"))
}

/// Frees a result and with it everything borrowed from it, the values of workers too. NULL is fine.
#[unsafe(no_mangle)]
pub extern "C" fn ice_result_free(result: *mut ice_result) {
    if !result.is_null() {
        // SAFETY: the header says that a result comes from this library and is freed once.
        drop(unsafe { Box::from_raw(result) });
    }
}
