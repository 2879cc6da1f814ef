//! A command that is run to its end, or until its time is over, for what it has to say.

use std::ffi::CString;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, poll};

use super::program::{Failure, Single};
use crate::error::errno_text;
use crate::moment::Moment;
use crate::sys::child::{Child, Setup};
use crate::sys::fd;
use crate::sys::process::{self, monotonic, poll_timeout};

/// What is taken of its output.
const MOST: usize = 64 << 10;
/// How long it may take to be gone after SIGKILL.
const GONE_WITHIN: Duration = Duration::from_secs(1);

pub struct Command {
    pub argv: Vec<CString>,
    /// The files to try, in this order.
    pub paths: Vec<CString>,
    pub env: Vec<CString>,
    pub working_dir: Option<CString>,
}

impl Command {
    /// What it writes to stdout and stderr until it ends, the deadline passes, or the bell rings; then nobody of
    /// its group is left. In a thread in which all signals are blocked, and which it dies with.
    pub fn output(&self, deadline: Moment, bell: BorrowedFd) -> Vec<u8> {
        let started = self.start();
        let (child, pipe) = match started {
            Ok(started) => started,
            Err(errno) => return format!("(it cannot start: {})\n", errno_text(errno as i32)).into_bytes(),
        };
        let mut output = Vec::new();
        let mut pipe = std::fs::File::from(pipe);
        let ended = loop {
            let left = deadline.saturating_sub(monotonic());
            // Its end counts, not that of its output: a descendant may hold that for ever.
            let ended = process::has_ended(&child.pidfd);
            let open = take(&mut pipe, &mut output);
            if ended || left.is_zero() || fd::is_readable(bell) {
                break ended;
            }
            let mut items = vec![
                PollFd::new(child.pidfd.as_fd(), PollFlags::POLLIN),
                PollFd::new(bell, PollFlags::POLLIN),
            ];
            if open {
                items.push(PollFd::new(pipe.as_fd(), PollFlags::POLLIN));
            }
            let _ = poll(&mut items, poll_timeout(left));
        };
        let _ = process::signal_group(child.pid, libc::SIGKILL);
        process::ends_within(&child.pidfd, GONE_WITHIN, None);
        let end = process::wait(&child.pidfd, true);
        output.truncate(MOST);
        let note = match end {
            _ if !ended => "(its time was over)\n".to_string(),
            process::Waited::Ended { status: process::Status::Exited(0), .. } => String::new(),
            process::Waited::Ended { status: process::Status::Exited(code), .. } => {
                format!("(it exited with code {code})\n")
            }
            process::Waited::Ended { status: process::Status::Signaled { signal, .. }, .. } => {
                format!("(signal {signal} ended it)\n")
            }
            process::Waited::Running | process::Waited::Lost => String::new(),
        };
        if !output.is_empty() && !output.ends_with(b"\n") {
            output.push(b'\n');
        }
        output.extend_from_slice(note.as_bytes());
        output
    }

    fn start(&self) -> Result<(Child, OwnedFd), Errno> {
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let (reader, writer) = (fd::above_stdio(reader)?, fd::above_stdio(writer)?);
        nix::fcntl::fcntl(&reader, nix::fcntl::FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let null = fd::null()?;
        let stdio = [null.as_raw_fd(), writer.as_raw_fd(), writer.as_raw_fd()];
        let setup = Setup { working_dir: self.working_dir.as_deref(), ..Setup::plain(stdio, &[]) };
        match Single::new()?.spawn(setup, &self.paths, &self.argv, &self.env) {
            Ok(child) => Ok((child, reader)),
            Err(Failure::Clone(errno) | Failure::Child(_, errno)) => Err(errno),
        }
    }
}

/// Reads what is there; what is too much is lost. False at the end.
fn take(pipe: &mut std::fs::File, output: &mut Vec<u8>) -> bool {
    const AT_ONCE: usize = 64;
    let mut bytes = [0; 4096];
    for _ in 0..AT_ONCE {
        match pipe.read(&mut bytes) {
            Ok(0) => return false,
            Ok(length) => {
                output.extend_from_slice(&bytes[..length.min(MOST.saturating_sub(output.len()))]);
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return true,
        }
    }
    true
}
