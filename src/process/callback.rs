//! Callbacks as workers: the memory through which a value comes back, seen from both sides.
//!
//! One memfd per worker: a first page of words, then the value. The agent maps what the worker wrote;
//! nothing passes through a pipe.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;

use nix::errno::Errno;

use crate::error::Error;
use crate::ranks::Rank;
use crate::report::Value;
use crate::spec::Callback;
use crate::sys::memory::{self, Mapping};

const PAGE: usize = 4096;
/// The words of the first page, eight bytes each.
const RETURNED: usize = 0;
const HAS_VALUE: usize = 1;
const LENGTH: usize = 2;

/// The descriptor of the channel in the worker.
const CHANNEL_FD: RawFd = 3;

/// The agent's side.
pub struct Channel {
    fd: OwnedFd,
    words: Mapping,
}

impl Channel {
    pub fn new() -> Result<Channel, Errno> {
        let fd = memory::memfd(c"ice-value")?;
        memory::resize(fd.as_raw_fd(), PAGE)?;
        let words = Mapping::of_file(fd.as_raw_fd(), 0, PAGE, true)?;
        Ok(Channel { fd, words })
    }

    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Whether the callback came back, whatever its process did then.
    pub fn returned(&self) -> bool {
        self.words.long(RETURNED).load(Ordering::Acquire) != 0
    }

    /// The value of a dead worker that succeeded.
    pub fn value(&self) -> Result<Option<Value>, Errno> {
        if self.words.long(HAS_VALUE).load(Ordering::Acquire) == 0 {
            return Ok(None);
        }
        let length = self.words.long(LENGTH).load(Ordering::Acquire) as usize;
        Value::map(&self.fd, PAGE, length).map(Some)
    }
}

/// The worker's side: what an `ice_worker` handle points to.
pub struct WorkerSide {
    pub rank: Rank,
    pub attempt: u32,
    words: Mapping,
}

impl WorkerSide {
    pub fn return_copy(&self, data: &[u8]) -> Result<(), Error> {
        self.announce(None);
        self.resize(data.len())?;
        memory::beyond_file_limit(|| memory::write_at(CHANNEL_FD, data, PAGE))
            .map_err(|errno| no_room(data.len(), errno))?;
        self.announce(Some(data.len()));
        Ok(())
    }

    pub fn return_buffer(&self, length: usize) -> Result<*mut u8, Error> {
        self.announce(None);
        self.resize(length)?;
        let buffer =
            Mapping::of_file(CHANNEL_FD, PAGE, length, true).map_err(|errno| no_room(length, errno))?;
        self.announce(Some(length));
        Ok(buffer.leak().as_mut_ptr())
    }

    /// To nothing first: what an earlier value left must not show through.
    fn resize(&self, length: usize) -> Result<(), Error> {
        let size = PAGE.checked_add(length).filter(|&size| i64::try_from(size).is_ok());
        let size = size.ok_or_else(|| no_room(length, Errno::EFBIG))?;
        memory::beyond_file_limit(|| {
            memory::resize(CHANNEL_FD, PAGE).and_then(|()| memory::resize(CHANNEL_FD, size))
        })
        .map_err(|errno| no_room(length, errno))
    }

    fn announce(&self, length: Option<usize>) {
        self.words.long(LENGTH).store(length.unwrap_or(0) as u64, Ordering::Release);
        self.words.long(HAS_VALUE).store(length.is_some() as u64, Ordering::Release);
    }
}

fn no_room(length: usize, errno: Errno) -> Error {
    Error::system(format!("a value of {length} bytes"), errno as i32)
}

/// Runs the callback in its worker; the result is the exit code.
pub fn run(callback: Callback, rank: Rank, attempt: u32) -> i32 {
    const OUT_OF_RANGE: i32 = 255;
    let Ok(words) = Mapping::of_file(CHANNEL_FD, 0, PAGE, true) else { return OUT_OF_RANGE };
    let side = WorkerSide { rank, attempt, words };
    let worker = std::ptr::from_ref(&side).cast_mut().cast();
    let code = (callback.function)(worker, callback.user_data.0 as *mut std::ffi::c_void);
    side.words.long(RETURNED).store(1, Ordering::Release);
    if (0..=255).contains(&code) { code } else { OUT_OF_RANGE }
}
