//! One client's connection, as the server has it: bytes come in, requests are answered, replies go out. It
//! never waits.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{MsgFlags, recv};

use super::counts::Counts;
use super::losses::Losses;
use super::secret::Door;
use super::table::{Answers, Client, Table};
use super::wire::{Decoder, Limits, Request, WAITED};
use crate::sys::fd::send_now;

/// From here on replies are sent before the next request is looked at, which then waits until they are out.
const MANY_REPLIES: usize = 256 << 10;
/// How often one connection is read before it is the turn of the others.
const READS: usize = 16;
/// A buffer that is empty may stay as large as this.
const KEPT: usize = 4 << 10;

/// The connection cannot go on: it has ended, or was lost, or asked for what cannot be. Replies that are due to it
/// have been sent.
pub struct Close;

/// What connections share.
pub struct Shared {
    pub table: Table,
    pub answers: Answers,
    /// What is read goes here first: a connection without a half request needs no memory of its own.
    pub scratch: Box<[u8]>,
    /// By which keys connections are known, if that is of interest.
    pub losses: Option<Losses>,
    pub counts: Arc<Counts>,
}

pub struct Session {
    client: Client,
    socket: OwnedFd,
    door: Door,
    decoder: Decoder,
    /// What came and is not yet answered: a half request, or some behind replies that are not out yet.
    input: Vec<u8>,
    /// Up to here it is answered.
    answered: usize,
    output: Vec<u8>,
    sent: usize,
    /// The client will send nothing more.
    ended: bool,
    /// The last key that it has set of those by which connections are known.
    signature: Option<Vec<u8>>,
}

impl Session {
    pub fn new(client: Client, socket: OwnedFd, door: Door, limits: Limits) -> Session {
        Session {
            client,
            socket,
            door,
            decoder: Decoder::new(limits),
            input: Vec::new(),
            answered: 0,
            output: Vec::new(),
            sent: 0,
            ended: false,
            signature: None,
        }
    }

    pub fn signature(&self) -> Option<&[u8]> {
        self.signature.as_deref()
    }

    pub fn is_validated(&self) -> bool {
        self.decoder.is_validated()
    }

    /// How much memory it holds.
    pub fn bytes(&self) -> usize {
        self.input.capacity() + self.output.capacity()
    }

    /// What it waits for: one that does not take its replies is not read from.
    pub fn interest(&self) -> EpollFlags {
        match (self.output.is_empty(), self.ended) {
            (false, _) => EpollFlags::EPOLLOUT,
            (true, false) => EpollFlags::EPOLLIN,
            (true, true) => EpollFlags::empty(),
        }
    }

    /// Something has happened at the socket. `shared.answers.woken` then has the other clients to be told.
    pub fn serve(&mut self, shared: &mut Shared) -> Result<(), Close> {
        self.flush()?;
        // Replies are out that requests had to wait for.
        if !self.input.is_empty() {
            self.answer_input(shared)?;
        }
        for _ in 0..READS {
            if !self.output.is_empty() || self.ended {
                break;
            }
            match recv(self.socket.as_raw_fd(), &mut shared.scratch, MsgFlags::MSG_DONTWAIT) {
                Ok(0) => self.ended = true,
                Ok(length) => {
                    self.take(length, shared)?;
                    if length < shared.scratch.len() {
                        break;
                    }
                }
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(_) => return Err(Close),
            }
        }
        if self.ended && self.output.is_empty() { Err(Close) } else { Ok(()) }
    }

    /// Its wait is over.
    pub fn wake(&mut self) -> Result<(), Close> {
        self.output.push(WAITED);
        self.flush()
    }

    /// The first `length` bytes of the scratch have come.
    fn take(&mut self, length: usize, shared: &mut Shared) -> Result<(), Close> {
        if !self.input.is_empty() {
            self.input.extend_from_slice(&shared.scratch[..length]);
            return self.answer_input(shared);
        }
        let scratch = std::mem::take(&mut shared.scratch);
        let answered = self.answer(&scratch[..length], shared);
        if let Ok(answered) = answered {
            self.input.extend_from_slice(&scratch[answered..length]);
        }
        shared.scratch = scratch;
        answered.map(drop)
    }

    fn answer_input(&mut self, shared: &mut Shared) -> Result<(), Close> {
        let input = std::mem::take(&mut self.input);
        let answered = self.answer(&input[self.answered..], shared);
        self.input = input;
        self.answered += answered?;
        if self.answered == self.input.len() {
            empty(&mut self.input);
            self.answered = 0;
        } else if self.answered > self.input.len() / 2 {
            self.input.drain(..self.answered);
            self.answered = 0;
        }
        Ok(())
    }

    /// Answers the requests in `bytes`, in order, while their replies can be sent. Returns how many bytes these
    /// were.
    fn answer(&mut self, bytes: &[u8], shared: &mut Shared) -> Result<usize, Close> {
        debug_assert!(shared.answers.replies.is_empty());
        let mut start = 0;
        while self.output.is_empty() {
            let answered = self.answer_one(&bytes[start..], shared);
            if let Ok(Some(length)) = answered {
                start += length;
                if shared.answers.replies.len() < MANY_REPLIES {
                    continue;
                }
            }
            if answered.is_err() {
                shared.counts.count_refusal();
            }
            self.send(&mut shared.answers.replies)?;
            if answered?.is_none() {
                break;
            }
        }
        Ok(start)
    }

    /// Answers the request that `bytes` begin with, if it is whole, and returns its length.
    fn answer_one(&mut self, bytes: &[u8], shared: &mut Shared) -> Result<Option<usize>, Close> {
        if !self.door.is_open() {
            return self.door.pass(bytes, &mut shared.answers.replies).map_err(|_| Close);
        }
        let Ok(found) = self.decoder.next(bytes) else { return Err(Close) };
        let Some((request, length)) = found else { return Ok(None) };
        shared.counts.count_request(request.opcode());
        if let (Request::Set { key, .. }, Some(losses)) = (&request, &shared.losses)
            && losses.concern(key)
            && self.signature() != Some(key)
        {
            self.signature = Some(key.to_vec());
        }
        let answers = &mut shared.answers;
        let applied = shared.table.apply(self.client, &request, answers);
        // Its own wait may be over by its own request.
        if let Some(at) = answers.woken.iter().position(|woken| *woken == self.client) {
            answers.woken.remove(at);
            answers.replies.push(WAITED);
        }
        applied.map(|()| Some(length)).map_err(|_| Close)
    }

    /// Sends what can be sent now of `replies` and keeps the rest; nothing else waits to be sent. They are empty
    /// after it, also if the client is gone: the next ones are somebody else's.
    fn send(&mut self, replies: &mut Vec<u8>) -> Result<(), Close> {
        let sent = send_all(&self.socket, replies);
        match sent {
            Ok(sent) if sent < replies.len() => (self.output, self.sent) = (std::mem::take(replies), sent),
            Ok(_) | Err(Close) => {
                replies.clear();
                replies.shrink_to(MANY_REPLIES);
            }
        }
        sent.map(drop)
    }

    fn flush(&mut self) -> Result<(), Close> {
        self.sent += send_all(&self.socket, &self.output[self.sent..])?;
        if self.sent == self.output.len() {
            empty(&mut self.output);
            self.sent = 0;
        }
        Ok(())
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Sends until nothing more fits.
fn send_all(socket: &OwnedFd, bytes: &[u8]) -> Result<usize, Close> {
    let mut sent = 0;
    while sent < bytes.len() {
        match send_now(socket.as_raw_fd(), &bytes[sent..]) {
            Ok(length) => sent += length,
            Err(Errno::EAGAIN) => break,
            Err(Errno::EINTR) => {}
            Err(_) => return Err(Close),
        }
    }
    Ok(sent)
}

fn empty(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.shrink_to(KEPT);
}
