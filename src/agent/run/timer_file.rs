//! The FIFO that clients of torch's file timers write to.

use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::stat::Mode;

use crate::error::Error;
use crate::logs::run_dir::RunDir;
use crate::spec::Checked;
use crate::sys::fd;
use crate::sys::random;

/// What is read at a time, so that no client keeps the agent from its other work.
const AT_ONCE: usize = 64 << 10;

/// There until it is dropped. Only processes of the host's own user may write to it.
pub struct TimerFile {
    path: PathBuf,
    file: std::fs::File,
    /// Device and inode: which file it is.
    identity: Option<(u64, u64)>,
}

impl TimerFile {
    /// Where the one of an attempt is: where the host says, else in the run directory, else beside other
    /// temporary files. None where no timers are served.
    pub fn place(
        checked: &Checked,
        run_dir: Option<&RunDir>,
        attempt: u32,
        working_dir: &Path,
        tmpdir: Option<&Path>,
    ) -> Option<PathBuf> {
        if !checked.file_timers {
            return None;
        }
        let place = match (&checked.timer_file, run_dir) {
            (Some(path), _) => path.clone(),
            (None, Some(run_dir)) => run_dir.timer_file(attempt),
            (None, None) => {
                let dir = tmpdir.unwrap_or(Path::new("/tmp"));
                dir.join(format!("ice_timers_{}_{:x}", std::process::id(), random::number()))
            }
        };
        Some(working_dir.join(place))
    }

    /// Makes it, in place of one that another agent has left there, but not of one that an agent still serves. `again`:
    /// there was one in an earlier attempt; a client that wrote to it after its end may have made a file in its place.
    pub fn make(path: PathBuf, again: bool) -> Result<TimerFile, Error> {
        let failed = |errno: Errno| {
            Error::system(
                format!("cannot make the FIFO of the file timers, {}", path.display()),
                errno as i32,
            )
        };
        let there = path.symlink_metadata();
        if there.as_ref().is_ok_and(|data| data.file_type().is_fifo()) {
            if fd::fifo_of_reader(&path).is_ok() {
                return Err(failed(Errno::EADDRINUSE));
            }
            let _ = std::fs::remove_file(&path);
        } else if again && there.is_ok_and(|data| data.is_file()) {
            let _ = std::fs::remove_file(&path);
        }
        nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(failed)?;
        // With a writer of its own it has no end: epoll would report that for ever.
        let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW;
        match fd::open(&path, flags, 0) {
            Ok(file) => {
                let file = std::fs::File::from(file);
                let identity = file.metadata().ok().map(|data| (data.dev(), data.ino()));
                Ok(TimerFile { path, file, identity })
            }
            Err(errno) => {
                let _ = std::fs::remove_file(&path);
                Err(failed(errno))
            }
        }
    }

    /// Some of what has been written; nothing if that is all.
    pub fn read(&mut self) -> Vec<u8> {
        let mut bytes = vec![0; AT_ONCE];
        let length = self.file.read(&mut bytes).unwrap_or(0);
        bytes.truncate(length);
        bytes
    }
}

impl AsFd for TimerFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for TimerFile {
    fn drop(&mut self) {
        // Not one that somebody has put there since.
        if self.path.symlink_metadata().is_ok_and(|data| Some((data.dev(), data.ino())) == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_what_a_late_client_has_made_is_in_nobodys_way() {
        let path = std::env::temp_dir().join(format!("ice-timers-{}", std::process::id()));
        std::fs::write(&path, "a request").unwrap();
        assert!(TimerFile::make(path.clone(), false).is_err(), "it may be the user's");
        let made = TimerFile::make(path.clone(), true).unwrap();
        assert!(path.symlink_metadata().unwrap().file_type().is_fifo());
        drop(made);
        assert!(!path.exists());
    }
}
