//! The way into a process that was executed as a worker, a server that forks workers, or a probe: from
//! `ice_worker_main()` in a program, or from the library's own entry.

use std::ffi::CString;
use std::os::fd::{AsRawFd, IntoRawFd};
use std::sync::Arc;

use once_cell::sync::OnceCell;

use super::channel::{Kind, WorkerEnd};
use super::function::{self, NOT_STARTED, Order, Surroundings};
use super::server;
use crate::control::page::Page;
use crate::device;
use crate::sys::memory::Blob;
use crate::sys::packets::Packets;
use crate::sys::{inherited, process};

/// The arguments of this program as it was started, noted when it said that it can be started again.
static ARGUMENTS: OnceCell<Vec<CString>> = OnceCell::new();

/// Called early in the program's main: in a worker it does not return.
pub fn worker_main() {
    // In a worker too: its function may be a host itself.
    ARGUMENTS.get_or_init(|| {
        let text = std::fs::read("/proc/self/cmdline").unwrap_or_default();
        let text = text.strip_suffix(b"\0").unwrap_or(&text);
        text.split(|&byte| byte == 0).filter_map(|argument| CString::new(argument).ok()).collect()
    });
    if let Some(descriptors) = inherited::take() {
        become_worker(descriptors);
    }
}

/// The arguments to start this program with again; none if its main does not call `worker_main`.
pub fn arguments() -> Option<&'static [CString]> {
    ARGUMENTS.get().map(Vec::as_slice)
}

/// The shared library executed as a program: by an agent, or by somebody who wonders what it is.
#[cfg(target_env = "gnu")]
pub fn library_main() -> i32 {
    worker_main();
    println!(
        "libice {}: a library that starts, watches and restarts worker processes.",
        env!("CARGO_PKG_VERSION")
    );
    0
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

fn become_worker(descriptors: [std::os::fd::OwnedFd; inherited::MOST]) -> ! {
    let [channel, argument, socket, groups] = descriptors;
    // Open for the life of the process: values go there.
    let channel = channel.into_raw_fd();
    let Ok(end) = WorkerEnd::open(channel) else { std::process::exit(NOT_STARTED) };
    let refuse = |why: &str| -> ! {
        end.refuse(why);
        std::process::exit(NOT_STARTED)
    };
    if end.kind() == Some(Kind::Probe) {
        // Without exit functions: the driver's may hang as its other functions may.
        process::exit_at_once(device::serve(&end));
    }
    let order = end.order().ok().and_then(|strings| Order::from_strings(&strings));
    let Some(order) = order else { refuse("the agent is of another version of the library") };
    process::set_title(&order.title);
    let blob = match order.has_argument {
        false => None,
        true => match Blob::map(argument.as_raw_fd()) {
            Ok(mapping) => Some(mapping.leak_readable()),
            Err(errno) => refuse(&format!("the argument cannot be mapped: {}", errno.desc())),
        },
    };
    drop(argument);
    let functions = match order.resolve() {
        Ok(functions) => functions,
        Err(why) => refuse(&why),
    };
    let code = match end.kind() {
        Some(Kind::Worker) => {
            // In the place of a server's socket: the page, or /dev/null.
            let page = Page::open(socket.as_raw_fd()).map(Arc::new);
            drop((socket, groups));
            let crash_records = order.crash_records;
            function::prepare_crash_records(crash_records);
            function::run(functions.0, end, Surroundings { argument: blob, crash_records, page })
        }
        Some(Kind::Server) => server::serve(functions, end, blob, &order, Packets::from(socket), groups),
        Some(Kind::Probe) | None => refuse("the agent is of another version of the library"),
    };
    std::process::exit(code)
}
