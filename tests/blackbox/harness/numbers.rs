//! Numbers of the header.

pub const END_SUCCEEDED: i32 = 0;
pub const END_WORKER_FAILURE: i32 = 1;
pub const END_START_ERROR: i32 = 2;
pub const END_AGENT_ERROR: i32 = 3;
pub const END_INTERRUPTED: i32 = 4;

pub const STATE_UNKNOWN: i32 = 0;
pub const STATE_INIT: i32 = 1;
pub const STATE_HEALTHY: i32 = 2;
pub const STATE_STOPPED: i32 = 8;
pub const STATE_SUCCEEDED: i32 = 16;
pub const STATE_FAILED: i32 = 32;

pub const OUTCOME_NEVER_STARTED: i32 = 0;
pub const OUTCOME_RUNNING: i32 = 1;
pub const OUTCOME_EXITED: i32 = 2;
pub const OUTCOME_SIGNALED: i32 = 3;
pub const OUTCOME_STUCK: i32 = 4;
pub const OUTCOME_LOST: i32 = 5;

pub const CAUSE_SUCCESS: i32 = 0;
pub const CAUSE_OWN_FAILURE: i32 = 1;
pub const CAUSE_STOPPED_BY_AGENT: i32 = 2;
pub const CAUSE_STUCK: i32 = 3;
pub const CAUSE_NEVER_STARTED: i32 = 4;
pub const CAUSE_LOST: i32 = 5;
pub const CAUSE_TIMED_OUT: i32 = 6;
