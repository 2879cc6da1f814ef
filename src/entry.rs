//! The way into a process that was executed as a worker, a server that forks workers, or a probe: from
//! `ice_worker_main()` in a program, or from the library's own entry.

use std::os::fd::{AsRawFd, IntoRawFd};
use std::sync::Arc;

use crate::control::page::Page;
use crate::probe;
use crate::process::channel::{ChannelKind, WorkerEnd};
use crate::process::function::{self, NOT_STARTED, Order, Surroundings};
use crate::process::host;
use crate::process::start::forkserver::server;
use crate::sys::memory::Blob;
use crate::sys::packets::Packets;
use crate::sys::{inherited, process};

/// Called early in the program's main: in a worker it does not return.
pub fn worker_main() {
    // In a worker too: its function may be a host itself.
    host::note_arguments();
    if let Some(descriptors) = inherited::take() {
        become_worker(descriptors);
    }
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

fn become_worker(descriptors: [std::os::fd::OwnedFd; inherited::MOST]) -> ! {
    let [channel, argument, socket, groups] = descriptors;
    // Open for the life of the process: values go there.
    let channel = channel.into_raw_fd();
    let Ok(end) = WorkerEnd::open(channel) else { std::process::exit(NOT_STARTED) };
    let refuse = |why: &str| -> ! {
        end.refuse(why);
        std::process::exit(NOT_STARTED)
    };
    if end.kind() == Some(ChannelKind::Probe) {
        // Without exit functions: the driver's may hang as its other functions may.
        process::exit_at_once(probe::serve(&end));
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
        Some(ChannelKind::Worker) => {
            // In the place of a server's socket: the page, or /dev/null.
            let page = Page::open(socket.as_raw_fd()).map(Arc::new);
            drop((socket, groups));
            let crash_records = order.crash_records;
            function::prepare_crash_records(crash_records);
            function::run(functions.0, end, Surroundings { argument: blob, crash_records, page })
        }
        Some(ChannelKind::Server) => {
            server::serve(functions, end, blob, &order, Packets::from(socket), groups)
        }
        Some(ChannelKind::Probe) | None => refuse("the agent is of another version of the library"),
    };
    std::process::exit(code)
}
