//! Time as the agent counts it.

use std::time::Duration;

/// A moment on the monotonic clock, which is the same in all processes of a machine.
pub type Moment = Duration;
