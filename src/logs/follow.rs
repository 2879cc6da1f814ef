//! One log file that is followed while its worker writes to it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::inotify::WatchDescriptor;

use super::lines::{Lines, Piece};
use crate::spec::streams::Streams;
use crate::sys::file::{self, Unusable};

/// How soon a line that rewrites itself is shown.
pub const REWRITE: Duration = Duration::from_millis(200);
/// How much is read at a time, so that streams take turns.
pub const CHUNK: usize = 256 << 10;

/// What to follow, and how to show it.
pub struct Stream {
    pub local_rank: usize,
    pub attempt: u32,
    pub which: Streams,
    pub path: PathBuf,
    pub prefix: Vec<u8>,
    pub to_console: bool,
    /// The file for lines that a filter lets through, if there is one.
    pub filtered: Option<PathBuf>,
}

pub struct Follower {
    pub stream: Stream,
    file: File,
    offset: u64,
    lines: Lines,
    /// The worker is gone: what is in the file is all there will be.
    pub closing: bool,
    pub next: Next,
    /// Set while an inotify event will tell that the file has grown.
    pub watch: Option<WatchDescriptor>,
    /// When the unfinished line is to be shown.
    pub show_at: Option<Instant>,
}

/// When to read next.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Next {
    Now,
    At(Instant),
    OnEvent,
}

pub enum Read {
    Some(usize),
    End,
    Failed(std::io::Error),
}

impl Follower {
    pub fn open(stream: Stream) -> Result<Follower, Unusable> {
        let file = file::open(&stream.path, libc::O_RDONLY | libc::O_NOFOLLOW, 0)?;
        Ok(Follower {
            stream,
            file,
            offset: 0,
            lines: Lines::default(),
            closing: false,
            next: Next::Now,
            watch: None,
            show_at: None,
        })
    }

    /// The file itself, whatever name it has by now.
    pub fn proc_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// Reads the next bytes that the worker wrote.
    pub fn read(&mut self, buffer: &mut [u8]) -> Read {
        loop {
            match self.file.read_at(buffer, self.offset) {
                Ok(0) => {
                    // logrotate's copytruncate: go on from the new start.
                    let length = self.file.metadata().map_or(self.offset, |data| data.len());
                    if length >= self.offset {
                        return Read::End;
                    }
                    self.offset = 0;
                }
                Ok(count) => {
                    self.offset += count as u64;
                    return Read::Some(count);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Read::Failed(error),
            }
        }
    }

    pub fn feed(&mut self, bytes: &[u8], show: impl FnMut(Piece)) {
        self.lines.feed(bytes, show);
        self.show_at = match self.show_at {
            at @ Some(_) if self.lines.is_rewriting() => at,
            _ => self.lines.is_rewriting().then(|| Instant::now() + REWRITE),
        };
    }

    pub fn flush(&mut self, show: impl FnMut(Piece)) {
        self.show_at = None;
        self.lines.flush(show);
    }

    pub fn finish(&mut self, show: impl FnMut(Piece)) {
        self.lines.finish(show);
    }
}
