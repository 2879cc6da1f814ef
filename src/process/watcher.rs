//! The watcher beside the workers: see `sys/watcher.rs`, the program it runs.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;

use super::descent::Mark;
use crate::sys::child::Helper;
use crate::sys::memory::{self, Mapping};
use crate::sys::process::{self, Status, Waited};
use crate::sys::{fd, nameless};

const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/ice-watcher"));
/// Words before the slots: the host's pid, the number of slots, whether workers are forked, one that is not used,
/// and the mark of what workers have started.
const HEADER: usize = 4 + MARK / 4;
const MARK: usize = 16;
/// The words of a name: the inode, the device, the path.
const NAME: usize = 4 + 1024;

/// What a run makes by name, for as long as it lasts. What is in a directory comes before it.
#[derive(Clone, Copy, Debug)]
pub enum Name {
    TimerFile,
    HealthSocket,
    RunDir,
}

impl Name {
    const COUNT: usize = 3;
}

/// The groups that go with the host, in memory that the watcher shares, and a fork server.
pub struct Table {
    file: OwnedFd,
    words: Mapping,
    /// As they were at first: what is in the table a worker may change.
    slots: usize,
}

impl Table {
    /// For up to `slots` process groups. It lies in one of these directories if it cannot be in memory.
    pub fn new(slots: usize, mark: Option<&Mark>, directories: &[PathBuf]) -> Result<Table, Errno> {
        let file = fd::above_protocol(nameless::shared(c"ice-groups", directories)?)?;
        let length = (names(slots) + Name::COUNT * NAME) * 4;
        memory::resize(file.as_raw_fd(), length)?;
        match memory::fix_size(&file) {
            Ok(()) | Err(Errno::EINVAL) => {} // a file on disk has no seals
            Err(errno) => return Err(errno),
        }
        let words = Mapping::of_file(file.as_raw_fd(), 0, length, true)?;
        words.word(0).store(std::process::id() as i32, Ordering::Relaxed);
        if let Some(mark) = mark.filter(|mark| mark.token().len() == MARK) {
            words.word(2).store(mark.page().is_some().into(), Ordering::Relaxed);
            words.write(16, mark.token().as_bytes());
        }
        words.word(1).store(slots as i32, Ordering::Release);
        Ok(Table { file, words, slots })
    }

    /// The table of the agent that started this process.
    pub fn open(file: OwnedFd) -> Result<Table, Errno> {
        let header = Mapping::of_file(file.as_raw_fd(), 0, HEADER * 4, false)?;
        let slots = header.word(1).load(Ordering::Acquire) as usize;
        let words = Mapping::of_file(file.as_raw_fd(), 0, (HEADER + slots) * 4, true)?;
        Ok(Table { file, words, slots })
    }

    /// The word for one worker's group, which goes with the host while it is not 0. The worker writes it
    /// itself: the host may be killed between a worker's birth and anything that it does next.
    pub fn slot(&self, slot: usize) -> &AtomicI32 {
        self.words.word(HEADER + slot)
    }

    pub fn note(&self, slot: usize, group: i32) {
        self.slot(slot).store(group, Ordering::Release);
    }

    /// What has this name now is removed when the host is killed; none is nothing. A relative path, or one that is too
    /// long, is nothing too.
    pub fn name(&self, name: Name, path: Option<&Path>) {
        let at = (names(self.slots) + name as usize * NAME) * 4;
        self.words.write(at, &0u64.to_ne_bytes());
        let Some((path, about)) = path.and_then(|path| Some((path, path.symlink_metadata().ok()?))) else {
            return;
        };
        let bytes = path.as_os_str().as_bytes();
        if path.is_absolute() && bytes.len() < (NAME - 4) * 4 {
            self.words.write(at + 16, &[bytes, b"\0"].concat());
            self.words.write(at + 8, &about.dev().to_ne_bytes());
            // Last: with it the name is there.
            std::sync::atomic::fence(Ordering::SeqCst);
            self.words.write(at, &about.ino().to_ne_bytes());
        }
    }

    pub fn fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// Where names begin in a table, in words.
fn names(slots: usize) -> usize {
    (HEADER + slots).next_multiple_of(2)
}

pub struct Watcher {
    helper: Helper,
}

/// Two of them: somebody may kill one with the agent, by its name or because it is near.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum WatcherRole {
    /// There before any worker is.
    First,
    Second,
}

impl WatcherRole {
    fn name(self) -> &'static CStr {
        match self {
            WatcherRole::First => c"ice-watcher",
            WatcherRole::Second => c"ice-keeper",
        }
    }
}

impl Watcher {
    /// Its program lies in one of these directories if it cannot be run from memory.
    pub fn start(role: WatcherRole, table: &Table, directories: &[PathBuf]) -> Result<Watcher, Errno> {
        let program = fd::above_protocol(nameless::program(c"ice-watcher", PROGRAM, directories)?)?;
        let table = fd::above_protocol(fd::duplicate(table.fd())?)?;
        let helper = Helper::spawn(role.name(), program, table)?;
        Ok(Watcher { helper })
    }

    /// Whether it ended because it could not start: another would fare no better.
    pub fn could_not_start(&self) -> bool {
        matches!(
            process::wait(&self.helper.child.pidfd, false),
            Waited::Ended { status: Status::Exited(_), .. }
        )
    }

    pub fn pid(&self) -> i32 {
        self.helper.child.pid
    }

    pub fn pidfd(&self) -> std::os::fd::BorrowedFd<'_> {
        use std::os::fd::AsFd;
        self.helper.child.pidfd.as_fd()
    }
}
