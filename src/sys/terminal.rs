//! Terminals: how wide one is, whose group is in its foreground, and a worker's streams on it.

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;

use super::dispositions;
use super::fd;

/// Where a program finds its controlling terminal.
const CONTROLLING: &str = "/dev/tty";
/// Where nobody knows better.
const COLUMNS: usize = 80;

pub fn is_terminal(fd: RawFd) -> bool {
    modes(fd).is_ok()
}

/// Whether both are one and the same terminal.
pub fn is_same(one: RawFd, other: RawFd) -> bool {
    is_terminal(one)
        && is_terminal(other)
        && fd::device(one).is_ok_and(|device| fd::device(other) == Ok(device))
}

/// Whether this process is in the foreground of that terminal.
pub fn in_foreground(fd: RawFd) -> bool {
    // SAFETY: numbers alone; -1 for what is no terminal of this session, which is nobody's group.
    unsafe { libc::tcgetpgrp(fd) == libc::getpgrp() }
}

/// Whether it stops who writes to it from the background: `stty tostop`.
pub fn stops_writers(fd: RawFd) -> bool {
    modes(fd).is_ok_and(|modes| modes.c_lflag & libc::TOSTOP != 0)
}

fn modes(fd: RawFd) -> Result<libc::termios, Errno> {
    let mut modes = MaybeUninit::<libc::termios>::uninit();
    // SAFETY: the buffer has the size of a termios; what is no terminal gives an error.
    Errno::result(unsafe { libc::tcgetattr(fd, modes.as_mut_ptr()) })?;
    // SAFETY: tcgetattr succeeded and filled it.
    Ok(unsafe { modes.assume_init() })
}

/// How many characters fit into a line.
pub fn columns(fd: RawFd) -> usize {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel writes one winsize; what is no terminal gives an error.
    let asked = unsafe { libc::ioctl(fd, libc::TIOCGWINSZ, &raw mut size) };
    if asked == 0 && size.ws_col > 0 { usize::from(size.ws_col) } else { COLUMNS }
}

/// The controlling terminal of this process.
pub struct Terminal {
    fd: OwnedFd,
    /// What it is to get back: the modes from before it was lent, if it is.
    lent: Option<Option<libc::termios>>,
}

impl Terminal {
    pub fn open() -> Result<Terminal, Errno> {
        Ok(Terminal { fd: open()?, lent: None })
    }

    /// Whether it can be lent: this process is in its foreground, or has lent it before.
    pub fn is_ours(&self) -> bool {
        self.lent.is_some() || in_foreground(self.as_raw_fd())
    }

    /// It is about to be lent, by whoever does it.
    pub fn remember(&mut self) {
        if self.lent.is_none() {
            self.lent = Some(modes(self.as_raw_fd()).ok());
        }
    }

    /// Puts a group into the foreground. With SIGTTOU blocked in this thread.
    pub fn lend(&mut self, group: i32) -> Result<(), Errno> {
        self.remember();
        self.put_in_foreground(group)
    }

    /// Puts this process back there, and the terminal into the modes that it had. With SIGTTOU blocked.
    pub fn take_back(&mut self) {
        if let Some(modes) = self.lent.take() {
            // SAFETY: it cannot fail.
            let _ = self.put_in_foreground(unsafe { libc::getpgrp() });
            if let Some(modes) = modes {
                // SAFETY: the modes are those that tcgetattr gave.
                unsafe { libc::tcsetattr(self.as_raw_fd(), libc::TCSANOW, &raw const modes) };
            }
        }
    }

    fn put_in_foreground(&self, group: i32) -> Result<(), Errno> {
        // SAFETY: numbers alone.
        Errno::result(unsafe { libc::tcsetpgrp(self.as_raw_fd(), group) }).map(drop)
    }
}

impl AsRawFd for Terminal {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.take_back();
    }
}

fn open() -> Result<OwnedFd, Errno> {
    fd::open(Path::new(CONTROLLING), libc::O_RDWR | libc::O_NOCTTY, 0)
}

/// The streams that this process had before they became the terminal's. Meanwhile ^Z does nothing: whoever started
/// the run would not know of it.
pub struct Streams {
    old: [Option<OwnedFd>; 3],
    _ignored: dispositions::Ignored,
}

impl Streams {
    /// Has 0, 1 and 2 be the controlling terminal. None if there is none, or this process is not in its
    /// foreground, where it could not read.
    pub fn on_terminal() -> Option<Streams> {
        let terminal = open().ok().filter(|terminal| in_foreground(terminal.as_raw_fd()))?;
        let old = [0, 1, 2].map(|stream| fd::duplicate(stream).ok());
        (0..3).for_each(|stream| put(terminal.as_raw_fd(), stream));
        Some(Streams { old, _ignored: dispositions::ignore_meanwhile(libc::SIGTSTP) })
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        // Where it is not in the foreground any more, writing and closing are no reason to be stopped.
        let _mask = dispositions::block_all_meanwhile();
        for (stream, old) in self.old.iter().enumerate() {
            match old {
                Some(old) => put(old.as_raw_fd(), stream as RawFd),
                // SAFETY: it was not open before `on_terminal`, which opened it.
                None => drop(unsafe { libc::close(stream as RawFd) }),
            }
        }
    }
}

fn put(fd: RawFd, stream: RawFd) {
    // SAFETY: numbers alone; the stream is this process's own, which asked for it.
    unsafe { libc::dup2(fd, stream) };
}
