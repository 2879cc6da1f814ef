//! `ice_snapshot`: the worker group at one moment.

use std::ffi::{CString, c_char};

use super::handle;
use super::result::{ice_outcome, ice_state};
use super::status::guard_value;
use crate::control::pace::slowest;
use crate::error::{Error, c_string_lossy};
use crate::report::{Snapshot, SnapshotWorker};
use crate::sys::process::monotonic;

/// The worker group at one moment, made by `ice_agent_snapshot()`. It never changes; any thread may
/// read it.
pub struct ice_snapshot {
    snapshot: Snapshot,
    workers: Vec<ice_worker_info>,
    /// What the pointers to sections point to.
    _sections: Vec<CString>,
}

/// One worker of a snapshot.
#[repr(C)]
pub struct ice_worker_info {
    /// RANK.
    pub global_rank: i32,
    /// LOCAL_RANK.
    pub local_rank: i32,
    /// ROLE_RANK.
    pub role_rank: i32,
    /// Its process, 0 before it was started. Once the outcome is not ICE_OUTCOME_RUNNING the number may
    /// belong to another process.
    pub pid: i32,
    /// ICE_OUTCOME_RUNNING, or how it ended.
    pub outcome: ice_outcome,
    /// 1 if it hears the agent: `ice_spec_set_control()`. What follows is what it has said, in the last attempt.
    pub has_control: i32,
    /// 1 while it keeps a pause.
    pub paused: i32,
    /// Its last `ice_worker_step()`, -1 for none.
    pub step: i64,
    /// Its last `ice_worker_progress()`.
    pub progress_done: u64,
    /// And of how much that is; 0 if it does not say.
    pub progress_total: u64,
    /// Its last `ice_worker_heartbeat()`: CLOCK_MONOTONIC, in nanoseconds; 0 for none.
    pub heartbeat_ns: i64,
    /// How many steps it is behind the rank that is furthest; -1 if it has said no step.
    pub lag: i64,
    /// How long it has been at its step, at least, in nanoseconds: since the first look that found it there, be
    /// it a snapshot or GET /metrics (`ice_spec_set_health_check()`); so 0 in a first snapshot. -1 if it has said
    /// no step.
    pub at_step_ns: i64,
    /// The section that it is in, see `ice_worker_section()`; empty if it is in none. Borrowed from the snapshot;
    /// never NULL.
    pub section: *const c_char,
    /// How long it has been in that, or in none, in nanoseconds; -1 if it has said nothing of sections.
    pub in_section_ns: i64,
}

impl ice_snapshot {
    pub(super) fn into_raw(snapshot: Snapshot) -> *mut ice_snapshot {
        let now = monotonic();
        let nanoseconds = |time: std::time::Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
        let section = |worker: &SnapshotWorker| worker.section.map(|name| c_string_lossy(name.bytes()));
        let sections: Vec<CString> =
            snapshot.workers.iter().map(|worker| section(worker).unwrap_or_default()).collect();
        let workers = snapshot
            .workers
            .iter()
            .zip(&sections)
            .map(|(worker, section)| ice_worker_info {
                global_rank: worker.rank.global as i32,
                local_rank: worker.rank.local as i32,
                role_rank: worker.rank.role as i32,
                pid: worker.pid,
                outcome: worker.outcome.into(),
                has_control: i32::from(worker.said.opened),
                paused: i32::from(worker.said.paused),
                step: worker.said.step.map_or(-1, |step| step as i64),
                progress_done: worker.said.progress.0,
                progress_total: worker.said.progress.1,
                heartbeat_ns: worker.said.heartbeat.map_or(0, nanoseconds),
                lag: worker.pace.lag.map_or(-1, |lag| lag as i64),
                at_step_ns: worker.pace.at_step.map_or(-1, nanoseconds),
                section: section.as_ptr(),
                in_section_ns: worker
                    .said
                    .place
                    .map_or(-1, |place| nanoseconds(now.saturating_sub(place.since))),
            })
            .collect();
        Box::into_raw(Box::new(ice_snapshot { snapshot, workers, _sections: sections }))
    }
}

/// The state of the group. Along a run it only moves INIT -> HEALTHY -> STOPPED -> INIT (a restart) and
/// to one of SUCCEEDED, FAILED, STOPPED, UNKNOWN, where it stays. ICE_STATE_UNKNOWN for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_snapshot_state(snapshot: *const ice_snapshot) -> ice_state {
    guard_value(ice_state::ICE_STATE_UNKNOWN, || Ok(handle(snapshot, "snapshot")?.snapshot.state.into()))
}

/// The attempt the group is in: 0 for the first, as TORCHELASTIC_RESTART_COUNT. -1 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_snapshot_attempt(snapshot: *const ice_snapshot) -> i32 {
    guard_value(-1, || Ok(handle(snapshot, "snapshot")?.snapshot.attempt as i32))
}

/// How many workers the snapshot lists: the local world size. 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_snapshot_worker_count(snapshot: *const ice_snapshot) -> usize {
    guard_value(0, || Ok(handle(snapshot, "snapshot")?.workers.len()))
}

/// One worker, by local rank. Borrowed: valid until the snapshot is freed. NULL if `local_rank` is out
/// of range.
#[unsafe(no_mangle)]
pub extern "C" fn ice_snapshot_worker(
    snapshot: *const ice_snapshot,
    local_rank: usize,
) -> *const ice_worker_info {
    guard_value(std::ptr::null(), || {
        handle(snapshot, "snapshot")?
            .workers
            .get(local_rank)
            .map(std::ptr::from_ref)
            .ok_or_else(|| Error::Argument { what: format!("there is no local rank {local_rank}") })
    })
}

/// The local rank that is furthest behind in its steps, the first of several; -1 while all that say steps are at
/// the same one, and for NULL. A moment's difference is none to worry about: look at its `lag` and `at_step_ns`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_snapshot_slowest(snapshot: *const ice_snapshot) -> i32 {
    guard_value(-1, || {
        let workers = &handle(snapshot, "snapshot")?.snapshot.workers;
        Ok(slowest(workers.iter().map(|worker| worker.pace)).map_or(-1, |rank| rank as i32))
    })
}

/// Frees a snapshot. NULL is fine.
#[unsafe(no_mangle)]
pub extern "C" fn ice_snapshot_free(snapshot: *mut ice_snapshot) {
    if !snapshot.is_null() {
        // SAFETY: the header says that a snapshot comes from `ice_agent_snapshot` and is freed once.
        drop(unsafe { Box::from_raw(snapshot) });
    }
}
