//! The memory that an agent and one worker share: who the worker is, what it runs, how its start went,
//! and the value it returns. Seen from both sides.
//!
//! One memfd per worker: a first page of words and of what the worker is told, then the value. What does
//! not fit into the page stands where the value goes later. The agent maps what the worker wrote; nothing
//! passes through a pipe.

use std::borrow::Cow;
use std::ffi::CStr;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;

use crate::error::Error;
use crate::ranks::Rank;
use crate::report::Value;
use crate::sys::child::Report;
use crate::sys::memory::{self, Mapping};
use crate::sys::{fd, inherited};

const PAGE: usize = 4096;

/// The words of the first page, eight bytes each. The first three are those of `sys::inherited`.
const MAGIC: usize = 0;
const KIND: usize = 1;
const PROCESS: usize = 2;
const ENTERED: usize = 3;
const RETURNED: usize = 4;
const HAS_VALUE: usize = 5;
const LENGTH: usize = 6;
const STEP: usize = 7;
const ERRNO: usize = 8;
const RESTARTS: usize = 9;
const RANKS: usize = 10; // and seven more
const ORDER: usize = 18;
const REFUSAL: usize = 19;
const DOING: usize = 20;
/// Where the text of a refusal stands, or of what is being done, up to what the worker is told.
const TEXT: usize = 512;
/// Where what the worker is told stands, if it fits.
const TOLD: usize = 2048;

/// What the process at the other end is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ChannelKind {
    Worker = 1,
    Server = 2,
    Probe = 3,
}

/// The agent's side.
pub struct Channel {
    fd: OwnedFd,
    page: Mapping,
}

impl Channel {
    pub fn new(kind: ChannelKind) -> Result<Channel, Errno> {
        let fd = fd::above_protocol(memory::memfd(c"ice-value")?)?;
        memory::resize(fd.as_raw_fd(), PAGE)?;
        // The process at the other end may do anything with its descriptor: cut the file, and a look at the page, or
        // at the value, would end this one with SIGBUS.
        memory::forbid_shrinking(&fd)?;
        let page = Mapping::of_file(fd.as_raw_fd(), 0, PAGE, true)?;
        page.long(KIND).store(kind as u64, Ordering::Relaxed);
        page.long(MAGIC).store(inherited::MAGIC, Ordering::Release);
        Ok(Channel { fd, page })
    }

    /// For a worker, which takes its order from it.
    pub fn for_worker(rank: &Rank, restarts: u32) -> Result<Channel, Errno> {
        let channel = Channel::new(ChannelKind::Worker)?;
        channel.page.long(RESTARTS).store(u64::from(restarts), Ordering::Relaxed);
        for (index, number) in numbers(rank).into_iter().enumerate() {
            channel.page.long(RANKS + index).store(number as u64, Ordering::Relaxed);
        }
        Ok(channel)
    }

    /// Tells the process at the other end what it needs to know.
    pub fn tell<'a>(&self, strings: impl Iterator<Item = &'a CStr>) -> Result<(), Errno> {
        let order = Strings::of(strings).0;
        self.page.long(ORDER).store(order.len() as u64, Ordering::Release);
        if order.len() <= PAGE - TOLD {
            self.page.write(TOLD, &order);
            return Ok(());
        }
        memory::beyond_file_limit(|| memory::write_at(self.fd.as_raw_fd(), &order, PAGE))
    }

    pub fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// Where the new process notes its pid before it is executed.
    pub fn process(&self) -> &AtomicI32 {
        self.page.word(2 * PROCESS)
    }

    /// Whether the function was called.
    pub fn entered(&self) -> bool {
        self.page.long(ENTERED).load(Ordering::Acquire) != 0
    }

    /// Whether the function came back, whatever its process did then.
    pub fn returned(&self) -> bool {
        self.page.long(RETURNED).load(Ordering::Acquire) != 0
    }

    /// Why a forked worker could not start.
    pub fn report(&self) -> Report<'_> {
        report(&self.page)
    }

    /// What the process had to say instead of starting its work.
    pub fn refusal(&self) -> Option<String> {
        self.text(REFUSAL)
    }

    /// What the process said that it was about to do.
    pub fn doing(&self) -> Option<String> {
        self.text(DOING)
    }

    fn text(&self, length: usize) -> Option<String> {
        match self.page.long(length).load(Ordering::Acquire) as usize {
            0 => None,
            length => {
                let text = self.page.read(TEXT, length.min(TOLD - TEXT));
                Some(String::from_utf8_lossy(&text).into_owned())
            }
        }
    }

    /// The length that the process gives its value, if it has one: what it says may not be so.
    fn claimed_length(&self) -> Option<usize> {
        let has_value = self.page.long(HAS_VALUE).load(Ordering::Acquire) != 0;
        has_value.then(|| self.page.long(LENGTH).load(Ordering::Acquire) as usize)
    }

    /// Why the value of a dead worker cannot be one.
    pub fn value_fault(&self) -> Option<String> {
        let length = self.claimed_length()?;
        let there = match fd::size(self.fd.as_raw_fd()) {
            Ok(size) => size.saturating_sub(PAGE),
            Err(errno) => return Some(format!("the value is out of reach: {}", errno.desc())),
        };
        // A file with holes has any size; who reads them all, in the host, needs memory for them.
        let most = there.min(memory::installed());
        let fault = format!("the value is said to have {length} bytes, and cannot have more than {most}");
        (length > most).then_some(fault)
    }

    /// The value of a dead worker that succeeded, once it has been seen to be without fault: its memory does not
    /// shrink any more.
    pub fn value(&self) -> Result<Option<Value>, Errno> {
        match self.claimed_length() {
            None => Ok(None),
            Some(_) if self.value_fault().is_some() => Err(Errno::ENODATA),
            Some(length) => Value::map(&self.fd, PAGE, length).map(Some),
        }
    }

    /// The value of a process that says it in strings. It may have lost its mind: nothing of it is mapped.
    pub fn strings(&self) -> Result<Option<Strings>, Errno> {
        match self.claimed_length() {
            None => Ok(None),
            Some(_) if self.value_fault().is_some() => Err(Errno::ENODATA),
            Some(length) => {
                memory::read_at(self.fd.as_raw_fd(), length, PAGE).map(|bytes| Some(Strings(bytes.into())))
            }
        }
    }
}

fn report(page: &Mapping) -> Report<'_> {
    Report { step: page.word(2 * STEP), errno: page.word(2 * ERRNO) }
}

fn numbers(rank: &Rank) -> [usize; 8] {
    [
        rank.global,
        rank.local,
        rank.role,
        rank.group,
        rank.world_size,
        rank.local_world_size,
        rank.role_world_size,
        rank.group_world_size,
    ]
}

/// Strings as they are told, one after the other.
#[derive(Default)]
pub struct Strings(Cow<'static, [u8]>);

impl Strings {
    pub fn of<'a>(strings: impl Iterator<Item = &'a CStr>) -> Strings {
        let mut bytes = Vec::with_capacity(PAGE);
        for string in strings {
            bytes.extend_from_slice(string.to_bytes_with_nul());
        }
        Strings(bytes.into())
    }

    pub fn read(fd: RawFd, length: usize) -> Result<Strings, Errno> {
        memory::read_at(fd, length, 0).map(|bytes| Strings(bytes.into()))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn iter(&self) -> impl Iterator<Item = &CStr> + Clone {
        self.0.split_inclusive(|&byte| byte == 0).filter_map(|string| CStr::from_bytes_with_nul(string).ok())
    }
}

/// The other end of the channel.
pub struct WorkerEnd {
    fd: RawFd,
    /// For the life of the process: strings in it are handed out.
    page: ManuallyDrop<Mapping>,
}

impl WorkerEnd {
    /// `fd` stays open as long as the process lives, or this end is used.
    pub fn open(fd: RawFd) -> Result<WorkerEnd, Errno> {
        Ok(WorkerEnd { fd, page: ManuallyDrop::new(Mapping::of_file(fd, 0, PAGE, true)?) })
    }

    pub fn kind(&self) -> Option<ChannelKind> {
        match self.page.long(KIND).load(Ordering::Acquire) {
            1 => Some(ChannelKind::Worker),
            2 => Some(ChannelKind::Server),
            3 => Some(ChannelKind::Probe),
            _ => None,
        }
    }

    pub fn rank(&self) -> Rank {
        let number = |index| self.page.long(RANKS + index).load(Ordering::Relaxed) as usize;
        Rank {
            global: number(0),
            local: number(1),
            role: number(2),
            group: number(3),
            world_size: number(4),
            local_world_size: number(5),
            role_world_size: number(6),
            group_world_size: number(7),
        }
    }

    pub fn restarts(&self) -> u32 {
        self.page.long(RESTARTS).load(Ordering::Relaxed) as u32
    }

    /// What the agent told; where a value may come in its place, a copy.
    pub fn order(&self) -> Result<Strings, Errno> {
        let length = self.page.long(ORDER).load(Ordering::Acquire) as usize;
        if length <= PAGE - TOLD {
            return Ok(Strings(self.page.told(TOLD, length).into()));
        }
        memory::read_at(self.fd, length, PAGE).map(|bytes| Strings(bytes.into()))
    }

    pub fn report(&self) -> Report<'_> {
        report(&self.page)
    }

    /// Says why this process does not do its work.
    pub fn refuse(&self, why: &str) {
        self.say(REFUSAL, why);
    }

    /// Says what comes next, in case that it is the last thing this process does.
    pub fn doing(&self, what: &str) {
        self.say(DOING, what);
    }

    fn say(&self, length: usize, text: &str) {
        let text = &text.as_bytes()[..text.len().min(TOLD - TEXT)];
        self.page.write(TEXT, text);
        self.page.long(length).store(text.len() as u64, Ordering::Release);
    }

    pub fn enter(&self) {
        self.page.long(ENTERED).store(1, Ordering::Release);
    }

    pub fn leave(&self) {
        self.page.long(RETURNED).store(1, Ordering::Release);
    }

    pub fn return_copy(&self, data: &[u8]) -> Result<(), Error> {
        self.announce(None);
        self.resize(data.len())?;
        memory::beyond_file_limit(|| memory::write_at(self.fd, data, PAGE))
            .map_err(|errno| no_room(data.len(), errno))?;
        self.announce(Some(data.len()));
        Ok(())
    }

    pub fn return_buffer(&self, length: usize) -> Result<*mut u8, Error> {
        self.announce(None);
        self.resize(length)?;
        let buffer = Mapping::of_file(self.fd, PAGE, length, true).map_err(|errno| no_room(length, errno))?;
        self.announce(Some(length));
        Ok(buffer.leak().as_mut_ptr())
    }

    /// What an earlier value, or the order, left must not show through: it is punched out, as the file cannot shrink.
    fn resize(&self, length: usize) -> Result<(), Error> {
        // The worker's own code may have closed the descriptor and opened something else.
        if memory::first_word(self.fd) != Ok(inherited::MAGIC) {
            let what = format!("descriptor {}, which carries the value, was closed", self.fd);
            return Err(Error::system(what, Errno::EBADF as i32));
        }
        let size = PAGE.checked_add(length).filter(|&size| i64::try_from(size).is_ok());
        let size = size.ok_or_else(|| no_room(length, Errno::EFBIG))?;
        let before = fd::size(self.fd).map_err(|errno| no_room(length, errno))?;
        memory::beyond_file_limit(|| {
            memory::empty(self.fd, PAGE, before)?;
            if size > before { memory::resize(self.fd, size) } else { Ok(()) }
        })
        .map_err(|errno| no_room(length, errno))
    }

    fn announce(&self, length: Option<usize>) {
        self.page.long(LENGTH).store(length.unwrap_or(0) as u64, Ordering::Release);
        self.page.long(HAS_VALUE).store(length.is_some() as u64, Ordering::Release);
    }
}

fn no_room(length: usize, errno: Errno) -> Error {
    Error::system(format!("a value of {length} bytes"), errno as i32)
}
