//! What is the same for all workers of one attempt.

use std::path::PathBuf;

use crate::plan::{Job, Meeting};
use crate::spec::names::hostname;
use crate::spec::{Checked, Spec};

/// TORCHELASTIC_RUN_ID.
pub fn run_id(spec: &Spec) -> Vec<u8> {
    spec.run_id.clone().unwrap_or_else(|| b"none".to_vec())
}

/// MASTER_ADDR of a job of one host.
pub fn master_addr(spec: &Spec) -> Vec<u8> {
    spec.master_addr.clone().unwrap_or_else(|| b"127.0.0.1".to_vec())
}

pub fn job(
    (spec, checked): (&Spec, &Checked),
    run_id: Vec<u8>,
    master_port: u16,
    restarts: u32,
    meeting: Option<Meeting>,
    timer_file: Option<PathBuf>,
) -> Job {
    let (master_addr, master_port) = match &meeting {
        Some(meeting) => (meeting.master_addr.clone(), meeting.master_port),
        None => (master_addr(spec), master_port),
    };
    let (agent_store, descent) = (checked.agent_store, Vec::new());
    let hostname = hostname();
    Job { run_id, hostname, master_addr, master_port, agent_store, restarts, meeting, timer_file, descent }
}
