//! The watcher beside the workers: see `sys/watcher.rs`, the program it runs.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;

use crate::sys::child::Helper;
use crate::sys::fd;
use crate::sys::memory::{self, Mapping};
use crate::sys::process::{self, Status, Waited};

const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ice-watcher"));
/// Words before the slots: the host's pid and the number of slots.
const HEADER: usize = 2;

pub struct Watcher {
    table: Mapping,
    helper: Helper,
}

impl Watcher {
    /// Starts it for up to `slots` process groups.
    pub fn start(slots: usize) -> Result<Watcher, Errno> {
        let file = memory::memfd(c"ice-groups")?;
        let length = (HEADER + slots) * 4;
        memory::resize(file.as_raw_fd(), length)?;
        let table = Mapping::of_file(file.as_raw_fd(), 0, length, true)?;
        table.word(0).store(std::process::id() as i32, Ordering::Relaxed);
        table.word(1).store(slots as i32, Ordering::Release);

        let mut program = memory::memfd(c"ice-watcher")?;
        if program.as_raw_fd() == 3 {
            // There the table goes.
            program = fd::duplicate(3)?;
        }
        memory::write_at(program.as_raw_fd(), PROGRAM, 0)?;
        let helper = Helper::spawn(c"ice-watcher", program, file)?;
        Ok(Watcher { table, helper })
    }

    /// Whether it ended because it could not start: another would fare no better.
    pub fn could_not_start(&self) -> bool {
        matches!(
            process::wait(&self.helper.child.pidfd, false),
            Waited::Ended { status: Status::Exited(_), .. }
        )
    }

    /// The word for one worker's group, which goes with the host while it is not 0. The worker writes it
    /// itself: the host may be killed between a worker's birth and anything that it does next.
    pub fn slot(&self, slot: usize) -> &AtomicI32 {
        self.table.word(HEADER + slot)
    }

    pub fn note(&self, slot: usize, group: i32) {
        self.slot(slot).store(group, Ordering::Release);
    }

    pub fn pidfd(&self) -> std::os::fd::BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.helper.child.pidfd.as_fd()
    }
}
