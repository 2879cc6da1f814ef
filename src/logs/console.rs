//! One of the host's streams as a console: it may be a file, a pipe, a terminal or a socket; it may be
//! stuck, full or gone, and never holds the output thread up.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::PathBuf;

use nix::errno::Errno;

use super::loss::Loss;
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
    /// What is to stand below all lines, of a terminal: it is wiped for each line and drawn again.
    footer: Vec<u8>,
    /// The footer is the last thing in the buffer, or on the terminal.
    drawn: bool,
    /// Somebody is asked something: where in the buffer the question ends. What follows waits for the answer.
    held: Option<usize>,
    gone: bool,
    /// What it was given and did not take.
    lost: Loss,
    /// The last that it took is the beginning of a line whose end was lost.
    torn: bool,
}

/// The column is kept while the row below is made, if need be, and written to: cursor down and up again, so that
/// there is one; its place saved, and gone back to.
const ROOM_BELOW: &[u8] = b"\x1bD\x1b[A";
const BELOW: &[u8] = b"\x1b7\r\n";
const BACK: &[u8] = b"\x1b8";
/// From the cursor to the end of the row.
const WIPE: &[u8] = b"\x1b[K";

#[derive(Debug, PartialEq)]
pub enum Flushed {
    All,
    /// It takes no more now.
    Stuck,
    /// Nobody reads it any more. Said once.
    Gone(Errno),
    /// It lost what it was given (a full disk); whether for the first time.
    Failed(Errno, bool),
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
        Ok(Console {
            fd,
            way,
            buffer: Vec::new(),
            sent: 0,
            open_line: None,
            footer: Vec::new(),
            drawn: false,
            held: None,
            gone: false,
            lost: Loss::default(),
            torn: false,
        })
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

    pub fn lost(&self) -> &Loss {
        &self.lost
    }

    /// How much it could take now.
    pub fn waiting(&self) -> usize {
        self.held.unwrap_or(self.buffer.len()) - self.sent
    }

    pub fn is_asking(&self) -> bool {
        self.held.is_some()
    }

    pub fn is_full(&self) -> bool {
        self.held.is_some() || self.waiting() >= HIGH
    }

    /// Adds a piece of the stream `of`. A line of another stream never starts within an unfinished one.
    pub fn add(&mut self, of: usize, prefix: &[u8], piece: &super::lines::Piece) {
        if self.gone {
            return;
        }
        self.wipe_footer();
        self.mend();
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
        if !self.gone {
            self.end_line();
            self.mend();
            self.buffer.extend_from_slice(line);
        }
    }

    /// What follows a loss is a line of its own.
    fn mend(&mut self) {
        if self.torn && self.buffer.is_empty() && self.open_line.is_none() {
            self.buffer.push(b'\n');
        }
    }

    /// Whatever comes next begins a row of its own.
    pub fn end_line(&mut self) {
        self.wipe_footer();
        if self.open_line.take().is_some() {
            self.buffer.push(b'\n');
        }
    }

    /// What is to stand below all lines from now on: one row that is not full, or nothing.
    pub fn set_footer(&mut self, footer: &[u8]) {
        if self.footer != footer && !self.gone {
            self.wipe_footer();
            self.footer = footer.to_vec();
        }
    }

    /// The footer becomes a line like others.
    pub fn leave_footer(&mut self) {
        let mut footer = std::mem::take(&mut self.footer);
        if !footer.is_empty() {
            footer.push(b'\n');
            self.add_line(&footer);
        }
    }

    fn wipe_footer(&mut self) {
        if std::mem::take(&mut self.drawn) {
            match self.open_line {
                None => self.buffer.extend_from_slice(b"\r"),
                Some(_) => self.buffer.extend_from_slice(BELOW),
            }
            self.buffer.extend_from_slice(WIPE);
            if self.open_line.is_some() {
                self.buffer.extend_from_slice(BACK);
            }
        }
    }

    /// True if there is something to send now that was not there before.
    fn draw_footer(&mut self) -> bool {
        if self.drawn || self.footer.is_empty() || self.held.is_some() {
            return false;
        }
        if self.open_line.is_some() {
            self.buffer.extend_from_slice(&[ROOM_BELOW, BELOW].concat());
        }
        self.buffer.extend_from_slice(&self.footer);
        if self.open_line.is_some() {
            self.buffer.extend_from_slice(BACK);
        }
        self.drawn = true;
        true
    }

    /// Asks somebody something: nothing is shown behind the question until it is answered.
    pub fn ask(&mut self, question: &[u8]) {
        self.answered(false);
        self.end_line();
        self.buffer.extend_from_slice(question);
        self.held = Some(self.buffer.len());
    }

    /// `end_line`: the answer did not do that.
    pub fn answered(&mut self, end_line: bool) {
        if let Some(end) = self.held.take()
            && end_line
        {
            self.buffer.insert(end, b'\n');
        }
    }

    pub fn flush(&mut self) -> Flushed {
        match self.send() {
            // None piles up where the terminal takes no more.
            Flushed::All if self.draw_footer() => self.send(),
            flushed => flushed,
        }
    }

    /// The host may be about to write here itself.
    pub fn step_aside(&mut self) {
        if self.drawn {
            self.end_line();
            self.send();
        }
    }

    /// `flush` without a footer.
    fn send(&mut self) -> Flushed {
        while self.waiting() > 0 {
            match self.write() {
                Ok(count) => {
                    self.sent += count;
                    self.torn = false;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    // Keep the buffer from growing at its front for ever.
                    self.drop_sent();
                    return Flushed::Stuck;
                }
                Err(errno @ (Errno::EPIPE | Errno::EBADF | Errno::ECONNRESET | Errno::ENOTCONN)) => {
                    self.clear();
                    self.gone = true;
                    return Flushed::Gone(errno);
                }
                Err(errno) => {
                    self.torn |= self.sent > 0 && self.buffer[self.sent - 1] != b'\n';
                    let is_first = self.lost.add(&self.buffer[self.sent..]);
                    self.clear();
                    return Flushed::Failed(errno, is_first);
                }
            }
        }
        self.drop_sent();
        Flushed::All
    }

    fn drop_sent(&mut self) {
        self.buffer.drain(..self.sent);
        self.buffer.shrink_to(4 * HIGH);
        self.held = self.held.map(|end| end - self.sent);
        self.sent = 0;
    }

    fn clear(&mut self) {
        self.held = None;
        self.sent = self.buffer.len();
        self.drop_sent();
    }

    fn write(&self) -> Result<usize, Errno> {
        let bytes = &self.buffer[self.sent..self.sent + self.waiting()];
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

    fn taken(console: &mut Console) -> String {
        console.draw_footer();
        let text = String::from_utf8_lossy(&console.buffer).replace('\x1b', "^");
        console.sent = console.waiting();
        console.drop_sent();
        text
    }

    #[test]
    fn a_footer_stands_below_all_lines() {
        let mut console = Console::new(-1).unwrap();
        console.set_footer(b"bar 1");
        assert_eq!(taken(&mut console), "bar 1");
        console.set_footer(b"bar 1");
        assert_eq!(taken(&mut console), "");
        console.add(0, b"", &piece(b"line\n"));
        console.add(0, b"", &piece(b"another\n"));
        assert_eq!(taken(&mut console), "\r^[Kline\nanother\nbar 1");
        console.set_footer(b"bar 2");
        assert_eq!(taken(&mut console), "\r^[Kbar 2");
        console.leave_footer();
        assert_eq!(taken(&mut console), "\r^[Kbar 2\n");
    }

    #[test]
    fn log_14_a_footer_stands_below_a_line_that_is_rewritten() {
        let mut console = Console::new(-1).unwrap();
        console.set_footer(b"bar");
        console.add(0, b"[0]", &piece(b"\r10%"));
        assert_eq!(taken(&mut console), "[0]\r10%^D^[A^7\r\nbar^8");
        console.add(0, b"[0]", &Piece { starts: false, ..piece(b"\r20%") });
        assert_eq!(taken(&mut console), "^7\r\n^[K^8\r20%^D^[A^7\r\nbar^8");
        console.add(1, b"[1]", &piece(b"whole\n"));
        assert_eq!(taken(&mut console), "^7\r\n^[K^8\n[1]whole\nbar");
    }

    #[test]
    fn nothing_is_shown_behind_a_question() {
        let mut console = Console::new(-1).unwrap();
        console.set_footer(b"bar");
        console.add(0, b"", &piece(b"\r10%"));
        console.ask(b"sure? ");
        console.add(1, b"", &piece(b"line\n"));
        assert!(console.is_full());
        assert_eq!(console.waiting(), "\r10%\nsure? ".len());
        console.answered(true);
        assert_eq!(taken(&mut console), "\r10%\nsure? \nline\nbar");
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
