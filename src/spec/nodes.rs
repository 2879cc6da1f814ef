//! The hosts of a job: how many, which one this is, and where their agents meet.

use std::time::Duration;

use super::rendezvous_options::Options;

/// More than any job has.
pub const MAX_NODES: i64 = 1 << 20;
/// Set to 1, it has torch's agents leave the workers' store to the worker of rank 0.
pub const NOT_SHARED: &str = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE";

/// Where this node wants to stand among the others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NodeRank {
    Is(u64),
    OfScheduler,
}

/// Whether the environment leaves the workers' store to the worker of rank 0.
pub fn is_not_shared(var: impl Fn(&str) -> Option<Vec<u8>>) -> bool {
    var(NOT_SHARED).as_deref() == Some(b"1")
}

/// As the setters left it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Nodes {
    /// At least, at most; one host, if it is not said.
    pub count: Option<(usize, usize)>,
    pub rank: Option<NodeRank>,
    /// What kind of place, and which.
    pub place: Option<(String, String)>,
    pub options: Options,
    pub local_addr: Option<String>,
    /// Of the environment, or torch's, if it is not said.
    pub exit_barrier_timeout: Option<Duration>,
    /// How often workers of one host may fail before it is left out; 0 for any number.
    pub max_host_failures: u32,
}

impl Nodes {
    /// How many hosts the job has, at least and at most.
    pub fn range(&self) -> (usize, usize) {
        self.count.unwrap_or((1, 1))
    }
}
