//! What became of the workers and of the run: plain values, and the words for them.

pub mod error_file;
pub mod event;
pub mod exit_status;
pub mod metrics;
pub mod oom;
pub mod summary;

use std::ffi::CString;
use std::fmt;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;

use crate::control::pace::Pace;
use crate::control::request::Saved;
use crate::control::section::Name;
use crate::control::watch::Said;
use crate::error::errno_text;
use crate::ranks::Rank;
use crate::spec::names::Signal;
use crate::sys::memory::Mapping;
use crate::sys::process::{Status, Usage};

/// The class of a run's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Succeeded,
    WorkerFailure,
    StartError,
    AgentError,
    Interrupted,
    NotNeeded,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupState {
    Unknown,
    Init,
    Healthy,
    Stopped,
    Succeeded,
    Failed,
}

impl GroupState {
    pub const ALL: [GroupState; 6] = [
        GroupState::Unknown,
        GroupState::Init,
        GroupState::Healthy,
        GroupState::Stopped,
        GroupState::Succeeded,
        GroupState::Failed,
    ];

    /// As torch's WorkerState has it.
    pub fn name(self) -> &'static str {
        match self {
            GroupState::Unknown => "UNKNOWN",
            GroupState::Init => "INIT",
            GroupState::Healthy => "HEALTHY",
            GroupState::Stopped => "STOPPED",
            GroupState::Succeeded => "SUCCEEDED",
            GroupState::Failed => "FAILED",
        }
    }
}

impl End {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            End::Succeeded => "succeeded",
            End::WorkerFailure => "worker failure",
            End::StartError => "start error",
            End::AgentError => "agent error",
            End::Interrupted => "interrupted",
            End::NotNeeded => "not needed",
        }
    }
}

impl End {
    /// Whether there is nothing to complain about.
    pub fn is_good(self) -> bool {
        matches!(self, End::Succeeded | End::NotNeeded)
    }
}

impl From<End> for GroupState {
    fn from(end: End) -> Self {
        match end {
            End::Succeeded | End::NotNeeded => GroupState::Succeeded,
            End::WorkerFailure | End::StartError => GroupState::Failed,
            End::AgentError => GroupState::Unknown,
            End::Interrupted => GroupState::Stopped,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    NeverStarted,
    Running,
    Exited { code: i32 },
    Signaled { signal: i32, core: bool },
    Stuck,
    Lost,
}

impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Status::Exited(code) => write!(out, "exited with code {code}"),
            Status::Signaled { signal, .. } => {
                write!(out, "was killed by signal {signal} ({})", Signal(signal))
            }
        }
    }
}

impl From<Status> for Outcome {
    fn from(status: Status) -> Self {
        match status {
            Status::Exited(code) => Outcome::Exited { code },
            Status::Signaled { signal, core } => Outcome::Signaled { signal, core },
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Success,
    OwnFailure,
    StoppedByAgent,
    Stuck,
    NeverStarted,
    Lost,
    TimedOut,
}

impl Cause {
    /// `timed_out`: the agent had found it stuck. `told_to_stop`: the agent had sent it a stop while it was
    /// alive. `completed`: a program, or a callback that returned.
    pub fn of(outcome: Outcome, timed_out: bool, told_to_stop: bool, completed: bool) -> Cause {
        match outcome {
            Outcome::NeverStarted => Cause::NeverStarted,
            Outcome::Lost => Cause::Lost,
            _ if timed_out => Cause::TimedOut,
            Outcome::Stuck | Outcome::Running => Cause::Stuck,
            Outcome::Exited { .. } | Outcome::Signaled { .. } if told_to_stop => Cause::StoppedByAgent,
            Outcome::Exited { code: 0 } if completed => Cause::Success,
            Outcome::Exited { .. } | Outcome::Signaled { .. } => Cause::OwnFailure,
        }
    }
}

/// The value a callback returned: memory that the worker wrote and nobody changes any more.
pub struct Value(Mapping);

impl Value {
    /// Maps `length` bytes at `offset` of a dead worker's memfd, which are there and cannot be cut off.
    pub fn map(fd: &OwnedFd, offset: usize, length: usize) -> Result<Value, Errno> {
        Mapping::of_file(fd.as_raw_fd(), offset, length, false).map(Value)
    }

    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }
}

pub struct WorkerReport {
    pub rank: Rank,
    pub pid: i32,
    pub outcome: Outcome,
    pub cause: Cause,
    /// Its own start failed, not that of another one.
    pub start_failed: bool,
    pub likely_oom: bool,
    pub order: Option<usize>,
    pub attempt: u32,
    pub start_ns: i64,
    pub end_ns: i64,
    pub end_unix_ns: i64,
    pub usage: Usage,
    pub value: Option<Value>,
    pub message: CString,
    pub call_stack: CString,
    pub error_timestamp: i64,
    pub error_data: Option<Vec<u8>>,
    pub error_file: CString,
    /// With a final NUL.
    pub stderr_tail: Vec<u8>,
    pub stdout_log: CString,
    pub stderr_log: CString,
    /// Where it was when the agent found it stuck.
    pub stack: CString,
    /// Of the host that it ran on.
    pub hostname: CString,
}

impl WorkerReport {
    /// torch's number: minus the signal where one killed it.
    pub fn exit_code(&self) -> i32 {
        match self.outcome {
            Outcome::Exited { code } => code,
            Outcome::Signaled { signal, .. } => -signal,
            _ => -1,
        }
    }

    pub fn signal(&self) -> i32 {
        match self.outcome {
            Outcome::Signaled { signal, .. } => signal,
            _ => 0,
        }
    }

    /// The same without what is large: the value.
    pub fn certificate(&self) -> WorkerReport {
        WorkerReport {
            value: None,
            message: self.message.clone(),
            call_stack: self.call_stack.clone(),
            error_data: self.error_data.clone(),
            error_file: self.error_file.clone(),
            stderr_tail: self.stderr_tail.clone(),
            stdout_log: self.stdout_log.clone(),
            stderr_log: self.stderr_log.clone(),
            stack: self.stack.clone(),
            hostname: self.hostname.clone(),
            ..*self
        }
    }
}

pub struct RunReport {
    pub end: End,
    pub state: GroupState,
    pub restarts: u32,
    /// Of a job of several hosts: for workers that failed on any of them. Else as `restarts`.
    pub job_restarts: u32,
    /// The last one that this host took part in.
    pub round: u32,
    /// Of the worker that ended the job, on whatever host, if it was one.
    pub exit_code: Option<i32>,
    /// See `exit_status`.
    pub exit_status: i32,
    /// The last checkpoint that all ranks of the job have saved.
    pub saved: Option<Saved>,
    /// See `event::flakiness`.
    pub flakiness: u32,
    pub signal: i32,
    pub errno: i32,
    pub message: CString,
    pub summary: CString,
    pub run_dir: CString,
    pub workers: Vec<WorkerReport>,
    /// An index into `workers`.
    pub root_cause: Option<usize>,
    /// The root cause of each failed attempt.
    pub failures: Vec<WorkerReport>,
    /// What workers had started and nobody could end, in words.
    pub left: Vec<String>,
}

impl RunReport {
    pub fn all_exited_cleanly(&self) -> bool {
        self.workers.iter().all(|worker| worker.outcome == Outcome::Exited { code: 0 })
    }
}

/// The first worker, in the order of their ends, that was found stuck or else failed by itself; else one that
/// could not be killed. Nobody had failed yet when one was found stuck.
///
/// Several that failed before the stop reached them did so within a moment. One of them that a signal
/// killed comes first: its peers saw its closed sockets and exited, perhaps before it counted as dead.
pub fn root_cause(workers: &[WorkerReport]) -> Option<usize> {
    let first = |cause: Cause| {
        let failed = workers.iter().enumerate().filter(|(_, worker)| worker.cause == cause);
        let place = |worker: &WorkerReport| (worker.signal() == 0, worker.order.unwrap_or(usize::MAX));
        failed.min_by_key(|(_, worker)| place(worker)).map(|(index, _)| index)
    };
    first(Cause::TimedOut)
        .or_else(|| first(Cause::OwnFailure))
        .or_else(|| first(Cause::Lost))
        .or_else(|| first(Cause::Stuck))
}

fn core_text(core: bool) -> &'static str {
    if core { ", core dumped" } else { "" }
}

/// How it ended, in a few words; empty where there is nothing to say.
pub fn how(outcome: Outcome) -> String {
    match outcome {
        Outcome::Exited { code } => format!("exit code {code}"),
        Outcome::Signaled { signal, core } => {
            format!("Signal {signal} ({}){}", Signal(signal), core_text(core))
        }
        _ => String::new(),
    }
}

/// The words for a worker that SIGKILL did not end, or that may not be signalled (it runs as another user).
pub fn stuck_text(pid: i32, unsignallable: Option<Errno>) -> String {
    match unsignallable {
        None => format!("PID {pid} is still there after SIGKILL: stuck in the kernel, given up"),
        Some(errno) => {
            format!(
                "PID {pid} is still there and may not be signalled ({}), given up",
                errno_text(errno as i32)
            )
        }
    }
}

/// The words for a failure that left no error file.
pub fn message_of(outcome: Outcome, cause: Cause, pid: i32, likely_oom: bool) -> String {
    match (outcome, cause) {
        (_, Cause::Success) => String::new(),
        (Outcome::Signaled { signal, core }, _) => format!(
            "Signal {signal} ({}) received by PID {pid}{}{}",
            Signal(signal),
            core_text(core),
            if likely_oom { ", likely OOM: its memory cgroup counted an OOM kill" } else { "" },
        ),
        (Outcome::Exited { code: 0 }, Cause::OwnFailure) => {
            format!("PID {pid} exited without returning from the callback")
        }
        (Outcome::Exited { code }, _) => format!("PID {pid} exited with code {code}"),
        (Outcome::Stuck, _) => stuck_text(pid, None),
        (Outcome::Lost, _) => format!(
            "the exit status of PID {pid} was taken by somebody else: does the host wait for any child, or ignore SIGCHLD?"
        ),
        (Outcome::NeverStarted, _) => "never started".into(),
        (Outcome::Running, _) => "running".into(),
    }
}

/// The worker group at one moment.
#[derive(Clone)]
pub struct Snapshot {
    pub state: GroupState,
    pub attempt: u32,
    pub workers: Vec<SnapshotWorker>,
    pub times: metrics::Times,
}

#[derive(Clone, Copy)]
pub struct SnapshotWorker {
    pub rank: Rank,
    pub pid: i32,
    pub outcome: Outcome,
    pub said: Said,
    pub pace: Pace,
    /// The section that it is in.
    pub section: Option<Name>,
}
