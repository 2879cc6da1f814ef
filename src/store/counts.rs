//! What a server has done so far, counted by its thread and read by any.

use std::sync::atomic::{AtomicU64, Ordering};

use super::wire::Opcode;

/// Numbers only grow. Each is right by itself; they are not those of one moment.
#[derive(Default)]
pub struct Counts {
    requests: [AtomicU64; Opcode::ALL.len()],
    connections: AtomicU64,
    refusals: AtomicU64,
}

impl Counts {
    /// Requests of one kind that were whole, also those that could not be answered.
    pub fn requests(&self, opcode: Opcode) -> u64 {
        self.requests[opcode as usize].load(Ordering::Relaxed)
    }

    /// Requests of all kinds.
    pub fn all_requests(&self) -> u64 {
        Opcode::ALL.into_iter().map(|opcode| self.requests(opcode)).sum()
    }

    /// Connections that were accepted.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// Connections that were closed for what they asked, or did not say: no secret, no request, too much.
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }

    pub fn count_request(&self, opcode: Opcode) {
        increment(&self.requests[opcode as usize]);
    }

    pub fn count_connection(&self) {
        increment(&self.connections);
    }

    pub fn count_refusal(&self) {
        increment(&self.refusals);
    }
}

/// There is one writer: no need for a locked instruction.
fn increment(number: &AtomicU64) {
    number.store(number.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}
