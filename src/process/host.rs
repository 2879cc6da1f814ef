//! This process as one that has agents: whether it may, and how it is started again.

use std::ffi::CString;

use once_cell::sync::OnceCell;

use super::channel::WorkerEnd;
use super::function::NOT_STARTED;
use crate::sys::inherited;

/// The arguments of this program as it was started, noted when it said that it can be started again.
static ARGUMENTS: OnceCell<Vec<CString>> = OnceCell::new();

/// The program says that it can be started again.
pub fn note_arguments() {
    ARGUMENTS.get_or_init(|| {
        let text = std::fs::read("/proc/self/cmdline").unwrap_or_default();
        let text = text.strip_suffix(b"\0").unwrap_or(&text);
        text.split(|&byte| byte == 0).filter_map(|argument| CString::new(argument).ok()).collect()
    });
}

/// The arguments to start this program with again; none if its main does not call `worker_main`.
pub fn arguments() -> Option<&'static [CString]> {
    ARGUMENTS.get().map(Vec::as_slice)
}

/// An agent in a process that is meant to be a worker, and does not know: the program is about to start
/// what it was started by.
pub fn refuse_to_be_a_host() {
    if inherited::is_waiting()
        && let Ok(end) = WorkerEnd::open(inherited::FIRST)
    {
        end.refuse(
            "this program made an agent, or asked for GPUs, before it called ice_worker_main(): call that first in \
             main",
        );
        std::process::exit(NOT_STARTED);
    }
}
