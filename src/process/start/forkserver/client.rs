//! The fork server as its agent sees it: a child that forks the workers, which are therefore not children
//! of this process. See `server`.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::wire::{ServerAnswer, ServerRequest};
use crate::process::channel::{Channel, Strings};
use crate::sys::child::Child;
use crate::sys::memory;
use crate::sys::packets::Packets;
use crate::sys::process::{self, Status, Waited, monotonic, poll_timeout};

/// How many births may be under way: enough to keep the server busy, too few to fill the socket, in which
/// case both sides would wait for each other.
pub const BIRTHS_AT_ONCE: usize = 16;
/// Before the strings of a worker whose environment is told in whole: no addition to what is common.
pub const WHOLE_ENVIRONMENT: &CStr = c"whole";
/// How long a server may take to reap the dead.
const REAPED_WITHIN: Duration = Duration::from_secs(1);
/// How long one that has closed its socket may take to end by itself: on a busy machine it may not run for a while.
const ENDS_WITHIN: Duration = Duration::from_secs(2);

pub struct Forkserver {
    pub child: Child,
    channel: Channel,
    socket: Packets,
    /// How workers ended that was told while something else was waited for.
    early: Vec<ServerAnswer>,
    births: usize,
    /// The streams that it has for the next workers.
    streams: Option<[RawFd; 3]>,
}

/// What the server said next.
pub enum Heard {
    Answer(ServerAnswer, Option<OwnedFd>),
    /// Nothing within the time.
    Nothing,
    /// It is gone, or says what nobody can understand.
    Gone,
}

impl Forkserver {
    pub fn new(child: Child, channel: Channel, socket: Packets) -> Forkserver {
        Forkserver { child, channel, socket, early: Vec::new(), births: 0, streams: None }
    }

    /// Births asked for and not answered.
    pub fn births(&self) -> usize {
        self.births
    }

    /// Tells what the workers of an attempt have in common: a directory, or nothing, and an environment; and
    /// a page, and a file that they map for their mark.
    pub fn prepare<'a>(
        &mut self,
        strings: impl Iterator<Item = &'a CStr>,
        page: Option<RawFd>,
        mark: Option<RawFd>,
    ) -> Result<(), Errno> {
        let strings = Strings::of(strings);
        let file = memory::memfd(c"ice-common")?;
        memory::beyond_file_limit(|| memory::write_at(file.as_raw_fd(), strings.bytes(), 0))?;
        self.streams = None;
        // In the place of a mark that is not there any file does.
        let mark = mark.unwrap_or(file.as_raw_fd());
        let descriptors: Vec<RawFd> = [file.as_raw_fd(), mark].into_iter().chain(page).collect();
        self.send(ServerRequest::Common { length: strings.bytes().len() }, &descriptors)
    }

    /// One that is gone is no error here: that is heard instead of an answer.
    fn send(&self, request: ServerRequest, descriptors: &[RawFd]) -> Result<(), Errno> {
        match self.socket.send(request.words(), descriptors) {
            Err(Errno::EPIPE | Errno::ECONNRESET) => Ok(()),
            sent => sent,
        }
    }

    /// Asks for a worker. `own_streams`: descriptors that are this worker's alone, and closed afterwards.
    pub fn ask(
        &mut self,
        slot: usize,
        streams: [RawFd; 3],
        own_streams: bool,
        channel: &Channel,
    ) -> Result<(), Errno> {
        // Descriptors cost more than the rest of a message.
        if self.streams != Some(streams) {
            self.send(ServerRequest::Streams, &streams)?;
        }
        self.streams = (!own_streams).then_some(streams);
        self.send(ServerRequest::Birth { slot }, &[channel.fd()])?;
        self.births += 1;
        Ok(())
    }

    /// What it said, without waiting.
    pub fn hear(&mut self) -> Heard {
        // Asked first, so that what it said before its end is heard. A child of its warm-up may hold its end of
        // the socket open for longer.
        let ended = process::has_ended(&self.child.pidfd);
        match self.socket.receive() {
            Ok(None) if ended => Heard::Gone,
            Ok(None) => Heard::Nothing,
            Ok(Some((words, [descriptor, ..]))) => match ServerAnswer::read(words) {
                None => Heard::Gone,
                Some(answer) => {
                    if matches!(answer, ServerAnswer::Born { .. } | ServerAnswer::NotBorn { .. }) {
                        self.births = self.births.saturating_sub(1);
                    }
                    Heard::Answer(answer, descriptor)
                }
            },
            Err(_) => Heard::Gone,
        }
    }

    /// Waits for something to hear, for the bell, or for the time to be over.
    pub fn wait(&self, bell: Option<BorrowedFd>, limit: Option<Duration>) {
        let mut items: Vec<_> = self.fds().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).into();
        items.extend(bell.map(|bell| PollFd::new(bell, PollFlags::POLLIN)));
        // Interrupted or not: the caller looks again.
        let _ = poll(&mut items, limit.map_or(PollTimeout::NONE, poll_timeout));
    }

    /// Keeps an answer that came while another was waited for.
    pub fn keep(&mut self, answer: ServerAnswer) {
        self.early.push(answer);
    }

    pub fn take_kept(&mut self) -> Vec<ServerAnswer> {
        std::mem::take(&mut self.early)
    }

    /// Has it reap its dead workers; false if it does not.
    pub fn reap(&mut self) -> bool {
        if self.socket.send(ServerRequest::Reap.words(), &[]).is_err() {
            return false;
        }
        let deadline = monotonic() + REAPED_WITHIN;
        loop {
            match self.hear() {
                Heard::Answer(ServerAnswer::Reaped, _) => return true,
                Heard::Answer(answer, _) => self.keep(answer),
                Heard::Nothing => {
                    let left = deadline.saturating_sub(monotonic());
                    if left.is_zero() {
                        return false;
                    }
                    self.wait(None, Some(left));
                }
                Heard::Gone => return false,
            }
        }
    }

    /// Makes sure that it is gone, and says how it ended.
    pub fn end(self) -> String {
        // It may have closed its end of the socket a moment before it counts as ended.
        process::ends_within(&self.child.pidfd, ENDS_WITHIN, None);
        let pid = self.child.pid;
        match (self.channel.refusal(), process::wait(&self.child.pidfd, false)) {
            (Some(why), _) => why,
            (None, Waited::Ended { status: Status::Exited(code), .. }) if !self.channel.entered() => format!(
                "the fork server, PID {pid}, exited with code {code} before it came to ice_worker_main(): \
                 the program's main has to call that first"
            ),
            (None, Waited::Ended { status, .. }) => format!("the fork server, PID {pid}, {status}"),
            (None, _) => format!("the fork server, PID {pid}, is gone or does not answer"),
        }
    }

    /// What becomes readable when there is something to hear.
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.socket.as_fd(), self.child.pidfd.as_fd()]
    }

    pub fn pid(&self) -> i32 {
        self.child.pid
    }
}

impl Drop for Forkserver {
    fn drop(&mut self) {
        // Its group too: what a warm-up started is not to outlive it. It was not reaped, so the number is its.
        if !matches!(
            process::wait(&self.child.pidfd, false),
            Waited::Ended { kept: false, .. } | Waited::Lost
        ) {
            let _ = process::signal_group(self.child.pid, libc::SIGKILL);
        }
        process::kill(self.child.pid, &self.child.pidfd);
        process::wait_for_end(&self.child.pidfd);
    }
}
