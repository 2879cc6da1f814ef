//! One of the host's streams as a console: it may be a file, a pipe, a terminal or a socket; it may be
//! stuck, full or gone, and never holds the output thread up.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;

use nix::errno::Errno;

use crate::sys::fd;

/// How much may wait for a console before its streams are read no further.
const HIGH: usize = 1 << 20;

/// How to write without waiting. The flags of the host's descriptor are shared with whoever else has it,
/// so they are left alone.
enum Way {
    /// A file: it does not make anyone wait for a reader.
    File,
    /// A pipe or terminal, opened a second time with O_NONBLOCK.
    Reopened(OwnedFd),
    Socket,
    /// A pipe that cannot be opened again: asked first, then given no more than it must take at once.
    Careful,
}

pub struct Console {
    fd: OwnedFd,
    way: Way,
    buffer: Vec<u8>,
    sent: usize,
    /// The stream whose unfinished line stands at the end of the console.
    open_line: Option<usize>,
    gone: bool,
}

#[derive(Debug, PartialEq)]
pub enum Flushed {
    All,
    /// It takes no more now.
    Stuck,
    /// Nobody reads it any more. Said once.
    Gone(Errno),
    /// It lost what it was given (a full disk).
    Failed(Errno),
}

impl Console {
    pub fn new(host: RawFd) -> Result<Console, Errno> {
        let fd = match fd::duplicate(host) {
            Err(Errno::EBADF) => fd::null()?,
            copied => copied?,
        };
        let way = match fd::kind(fd.as_raw_fd())? {
            libc::S_IFREG | libc::S_IFBLK => Way::File,
            libc::S_IFSOCK => Way::Socket,
            _ => {
                let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
                match fd::open(&path, libc::O_WRONLY | libc::O_NONBLOCK | libc::O_NOCTTY, 0) {
                    Ok(second) => Way::Reopened(second),
                    Err(_) => Way::Careful,
                }
            }
        };
        Ok(Console { fd, way, buffer: Vec::new(), sent: 0, open_line: None, gone: false })
    }

    /// The descriptor to wait for when it is stuck.
    pub fn poll_fd(&self) -> BorrowedFd<'_> {
        match &self.way {
            Way::Reopened(second) => second.as_fd(),
            _ => self.fd.as_fd(),
        }
    }

    pub fn is_gone(&self) -> bool {
        self.gone
    }

    pub fn waiting(&self) -> usize {
        self.buffer.len() - self.sent
    }

    pub fn is_full(&self) -> bool {
        self.waiting() >= HIGH
    }

    /// Adds a piece of the stream `of`. A line of another stream never starts within an unfinished one.
    pub fn add(&mut self, of: usize, prefix: &[u8], piece: &super::lines::Piece) {
        if self.gone {
            return;
        }
        let fresh = match self.open_line {
            Some(open) if open != of => {
                self.buffer.push(b'\n');
                true
            }
            Some(_) => piece.starts,
            None => true,
        };
        if fresh {
            self.buffer.extend_from_slice(prefix);
        }
        self.buffer.extend_from_slice(piece.head);
        self.buffer.extend_from_slice(piece.tail);
        self.open_line = (!piece.ends).then_some(of);
    }

    /// Adds what is a whole line.
    pub fn add_line(&mut self, line: &[u8]) {
        self.buffer.extend_from_slice(line);
    }

    pub fn flush(&mut self) -> Flushed {
        while self.sent < self.buffer.len() {
            match self.write() {
                Ok(count) => self.sent += count,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    // Keep the buffer from growing at its front for ever.
                    self.buffer.drain(..self.sent);
                    self.sent = 0;
                    return Flushed::Stuck;
                }
                Err(errno @ (Errno::EPIPE | Errno::EBADF | Errno::ECONNRESET | Errno::ENOTCONN)) => {
                    self.clear();
                    self.gone = true;
                    return Flushed::Gone(errno);
                }
                Err(errno) => {
                    self.clear();
                    return Flushed::Failed(errno);
                }
            }
        }
        self.clear();
        Flushed::All
    }

    fn clear(&mut self) {
        self.buffer.clear();
        self.buffer.shrink_to(4 * HIGH);
        self.sent = 0;
    }

    fn write(&self) -> Result<usize, Errno> {
        let bytes = &self.buffer[self.sent..];
        match &self.way {
            Way::File => fd::write(self.fd.as_raw_fd(), bytes),
            Way::Reopened(second) => fd::write(second.as_raw_fd(), bytes),
            Way::Socket => fd::send_now(self.fd.as_raw_fd(), bytes),
            Way::Careful => {
                // POLLOUT of a pipe means that PIPE_BUF bytes fit.
                let mut poll = [nix::poll::PollFd::new(self.fd.as_fd(), nix::poll::PollFlags::POLLOUT)];
                match nix::poll::poll(&mut poll, nix::poll::PollTimeout::ZERO) {
                    Ok(1..) => fd::write(self.fd.as_raw_fd(), &bytes[..bytes.len().min(libc::PIPE_BUF)]),
                    _ => Err(Errno::EAGAIN),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::lines::Piece;
    use super::*;

    fn piece(text: &[u8]) -> Piece<'_> {
        Piece { head: b"", tail: text, starts: true, ends: text.ends_with(b"\n") }
    }

    #[test]
    fn log_10_lines_of_two_streams_never_mix() {
        let mut console = Console::new(-1).unwrap();
        console.add(0, b"[0]", &piece(b"10%\r"));
        console.add(1, b"[1]", &piece(b"whole\n"));
        console.add(0, b"[0]", &Piece { starts: false, ..piece(b"20%\n") });
        assert_eq!(console.buffer, b"[0]10%\r\n[1]whole\n[0]20%\n");
    }

    #[test]
    fn log_18_a_stuck_pipe_is_told_and_loses_nothing() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let mut console = Console::new(writer.as_raw_fd()).unwrap();
        let line = [b"x".repeat(99), b"\n".to_vec()].concat();
        for _ in 0..5000 {
            console.add(0, b"", &piece(&line));
        }
        assert_eq!(console.flush(), Flushed::Stuck);
        let mut read = 0;
        let mut buffer = [0; 65536];
        while read < 500_000 {
            read += nix::unistd::read(&reader, &mut buffer).unwrap();
            console.flush();
        }
        assert_eq!((read, console.waiting()), (500_000, 0));
        drop(reader);
        console.add(0, b"", &piece(&line));
        assert_eq!(console.flush(), Flushed::Gone(Errno::EPIPE));
        assert!(console.is_gone());
    }
}
