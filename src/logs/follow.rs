//! One log file that is followed while its worker writes to it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::inotify::WatchDescriptor;

use super::lines::{Lines, Piece};
use super::relay::{Spill, Spills};
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
    /// What the file does not take, where the agent writes it.
    pub spills: Option<Arc<Spills>>,
}

pub struct Follower {
    pub stream: Stream,
    /// None where the agent could not make it.
    file: Option<File>,
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
        let file = match file::open(&stream.path, libc::O_RDONLY | libc::O_NOFOLLOW, 0) {
            Err(_) if stream.spills.is_some() => None,
            opened => Some(opened?),
        };
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

    /// The file itself, whatever name it has by now, if there is one.
    pub fn proc_path(&self) -> Option<PathBuf> {
        self.file.as_ref().map(|file| PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())))
    }

    /// Reads the next bytes that the worker wrote.
    pub fn read(&mut self, buffer: &mut [u8]) -> Read {
        let Some(spills) = self.stream.spills.clone() else { return self.read_file(buffer) };
        let mut spills = spills.0.lock();
        let room = spills.front().map_or(buffer.len() as u64, |first| first.at.saturating_sub(self.offset));
        let size = (buffer.len() as u64).min(room) as usize;
        match if size > 0 { self.read_file(&mut buffer[..size]) } else { Read::End } {
            Read::End => {}
            read => return read,
        }
        let Some(Spill { bytes, .. }) = spills.front_mut() else { return Read::End };
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        bytes.drain(..count);
        if bytes.is_empty() {
            spills.pop_front();
        }
        Read::Some(count)
    }

    /// Whether there is something that the file did not take.
    pub fn has_spills(&self) -> bool {
        self.stream.spills.as_ref().is_some_and(|spills| !spills.0.lock().is_empty())
    }

    fn read_file(&mut self, buffer: &mut [u8]) -> Read {
        let Some(file) = &self.file else { return Read::End };
        loop {
            match file.read_at(buffer, self.offset) {
                Ok(0) => {
                    // logrotate's copytruncate: go on from the new start.
                    let length = file.metadata().map_or(self.offset, |data| data.len());
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
