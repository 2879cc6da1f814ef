//! `<log dir>/<run id>_<unique>/attempt_<n>/<local rank>/{stdout.log,stderr.log,error.json,stack.txt}`.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::spec::names::path_component;
use crate::spec::streams::Streams;
use crate::spec::{Checked, Modes, Spec};
use crate::sys::random;
use crate::sys::{fd, file};

const MEMORY: &str = "/dev/shm";
/// The highest number of a user whom systemd counts as the system's.
const SYSTEM_UID_MAX: u32 = 999;

/// The directory of one run. None where the log dir is /dev/null.
///
/// Somebody may remove it while the run is on (a cleaner of temporary files, a logout): it is made again then, for
/// the workers that start after that.
pub struct RunDir {
    path: PathBuf,
    /// Nobody asked for logs: error files lie in it side by side, without a directory for each worker,
    /// which would cost more than the rest of a start.
    flat: bool,
    modes: Modes,
    /// What is above it is made, too.
    makes_base: bool,
    /// Device and inode.
    identity: Option<(u64, u64)>,
    /// systemd-tmpfiles leaves a directory alone, and what is in it, that somebody has locked.
    lock: Option<OwnedFd>,
    was_remade: bool,
}

/// The files of one worker in one attempt.
#[derive(Clone, Default)]
pub struct WorkerFiles {
    pub stdout: Option<PathBuf>,
    pub stderr: Option<PathBuf>,
    pub error: Option<PathBuf>,
    /// Where it was when the agent found it stuck.
    pub stack: Option<PathBuf>,
}

impl WorkerFiles {
    /// Removes the logs of a worker that never wrote to them.
    pub fn remove_empty(&self) {
        for path in [&self.stdout, &self.stderr].into_iter().flatten() {
            if path.metadata().is_ok_and(|data| data.len() == 0) {
                let _ = std::fs::remove_file(path);
            }
        }
    }
}

impl RunDir {
    /// `working_dir` and `tmpdir` (TMPDIR) are the host's when the run started.
    pub fn create(
        spec: &Spec,
        checked: &Checked,
        run_id: &[u8],
        working_dir: &Path,
        tmpdir: Option<&Path>,
    ) -> Result<Option<RunDir>, Error> {
        let Some((base, name)) = place(spec, checked, run_id, working_dir, tmpdir) else { return Ok(None) };
        if spec.log_dir.is_some() {
            make_all(&base, spec.modes())?;
        }
        let path = make_unique(&base, &name, spec.modes())?;
        let mut run_dir = RunDir::at(spec, path);
        run_dir.hold();
        Ok(Some(run_dir))
    }

    fn at(spec: &Spec, path: PathBuf) -> RunDir {
        RunDir {
            path,
            flat: is_flat(spec),
            modes: spec.modes(),
            makes_base: spec.log_dir.is_some(),
            identity: None,
            lock: None,
            was_remade: false,
        }
    }

    /// Where `create` would make it; nothing is made.
    pub fn planned(
        spec: &Spec,
        checked: &Checked,
        run_id: &[u8],
        working_dir: &Path,
        tmpdir: Option<&Path>,
    ) -> Option<RunDir> {
        let (base, name) = place(spec, checked, run_id, working_dir, tmpdir)?;
        Some(RunDir::at(spec, base.join(format!("{name}_XXXXXXXX"))))
    }

    /// Makes sure that it is not cleaned away, as far as that is possible.
    fn hold(&mut self) {
        let Ok(opened) = fd::directory(&self.path) else { return };
        self.identity = fd::identity(&opened).ok();
        self.lock = fd::lock(opened).ok();
    }

    /// Makes it again if it is not there any more. A directory of another user in its place is not used.
    fn restore(&mut self) -> Result<(), Error> {
        let failed = |error: io::Error| directory_not_made(&self.path, error);
        match self.path.symlink_metadata() {
            Ok(found) if self.identity == Some((found.dev(), found.ino())) => return Ok(()),
            Ok(found) if found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw() => {}
            Ok(_) => return Err(failed(io::Error::from_raw_os_error(libc::EEXIST))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let (true, Some(base)) = (self.makes_base, self.path.parent()) {
                    make_all(base, self.modes)?;
                }
                make(&self.path, self.modes).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        self.was_remade = true;
        self.hold();
        Ok(())
    }

    /// Whether it had to be made again since this was asked last.
    pub fn was_remade(&mut self) -> bool {
        std::mem::take(&mut self.was_remade)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn attempt_dir(&self, attempt: u32) -> PathBuf {
        self.path.join(format!("attempt_{attempt}"))
    }

    pub fn make_attempt(&mut self, attempt: u32) -> Result<(), Error> {
        self.restore()?;
        if self.flat {
            return Ok(());
        }
        let dir = self.attempt_dir(attempt);
        make_below(&dir, self.modes).map_err(|error| directory_not_made(&dir, error))
    }

    /// Makes the directory of one worker and names its files.
    pub fn make_worker(
        &mut self,
        attempt: u32,
        local_rank: usize,
        streams: Streams,
        merge: bool,
    ) -> Result<WorkerFiles, Error> {
        let dir = self.worker_dir(attempt, local_rank);
        match self.flat {
            true => self.restore()?,
            false => match make_below(&dir, self.modes) {
                // Removed since the worker before this one was born.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    self.make_attempt(attempt)?;
                    make_below(&dir, self.modes).map_err(|error| directory_not_made(&dir, error))?;
                }
                made => made.map_err(|error| directory_not_made(&dir, error))?,
            },
        }
        Ok(self.worker_files(attempt, local_rank, streams, merge))
    }

    /// The files of one worker by name.
    pub fn worker_files(
        &self,
        attempt: u32,
        local_rank: usize,
        streams: Streams,
        merge: bool,
    ) -> WorkerFiles {
        if self.flat {
            let error = self.path.join(format!("attempt_{attempt}_{local_rank}_error.json"));
            return WorkerFiles { error: Some(error), ..WorkerFiles::default() };
        }
        let dir = self.worker_dir(attempt, local_rank);
        let file = |wanted: bool, name: &str| wanted.then(|| dir.join(name));
        WorkerFiles {
            stdout: file(streams.has(Streams::STDOUT), "stdout.log"),
            stderr: file(streams.has(Streams::STDERR) && !merge, "stderr.log"),
            error: file(true, "error.json"),
            stack: file(true, "stack.txt"),
        }
    }

    /// Where the FIFO for the file timers of an attempt is.
    pub fn timer_file(&self, attempt: u32) -> PathBuf {
        self.path.join(format!("attempt_{attempt}_timers"))
    }

    fn worker_dir(&self, attempt: u32, local_rank: usize) -> PathBuf {
        self.attempt_dir(attempt).join(local_rank.to_string())
    }

    /// Opens a log for a worker to write to.
    pub fn open_log(&self, path: &Path) -> Result<OwnedFd, Error> {
        open_log(path, self.modes).or_else(|error| match path.parent() {
            // Removed since it was made, a moment ago.
            Some(dir)
                if matches!(error, Error::System { errno: libc::ENOENT, .. })
                    && make_all(dir, self.modes).is_ok() =>
            {
                open_log(path, self.modes)
            }
            _ => Err(error),
        })
    }

    /// Removes what an attempt left empty.
    pub fn tidy_attempt(&self, attempt: u32, local_world_size: usize) {
        if self.flat {
            return;
        }
        let dir = self.attempt_dir(attempt);
        for rank in 0..local_world_size {
            let _ = std::fs::remove_dir(dir.join(rank.to_string()));
        }
        let _ = std::fs::remove_dir(dir);
    }

    /// Removes the run directory if nothing is in it; says whether it is still there.
    pub fn tidy(&self) -> bool {
        let removed = std::fs::remove_dir(&self.path);
        removed.is_err() && self.path.symlink_metadata().is_ok_and(|data| data.is_dir())
    }
}

/// The directory in which a run makes its own, and what the name of that begins with. None for /dev/null.
fn place(
    spec: &Spec,
    checked: &Checked,
    run_id: &[u8],
    working_dir: &Path,
    tmpdir: Option<&Path>,
) -> Option<(PathBuf, String)> {
    if checked.null_log_dir {
        return None;
    }
    let name = path_component(run_id);
    Some(match &spec.log_dir {
        Some(dir) => (working_dir.join(dir), name),
        None => (working_dir.join(temporary_base(spec, tmpdir)), format!("ice_{name}")),
    })
}

/// Whether all of a run's files are in one directory.
fn is_flat(spec: &Spec) -> bool {
    spec.log_dir.is_none() && !has_logs(spec)
}

/// Where a run without a log dir puts its own: with nothing but error files to hold, in memory, where
/// making and removing it costs a tenth of what it costs on a disk. Not where systemd-logind may clean up there when
/// the user logs out (RemoveIPC), though the run goes on: it spares the system's users only.
fn temporary_base(spec: &Spec, tmpdir: Option<&Path>) -> PathBuf {
    let writable = || nix::unistd::access(MEMORY, nix::unistd::AccessFlags::W_OK).is_ok();
    match tmpdir {
        Some(dir) => dir.into(),
        None if !has_logs(spec) && stays_in_memory(nix::unistd::geteuid().as_raw()) && writable() => {
            MEMORY.into()
        }
        None => "/tmp".into(),
    }
}

/// Whether this user's files stay in memory when he logs out.
fn stays_in_memory(uid: u32) -> bool {
    uid <= SYSTEM_UID_MAX
}

/// Whether any stream of a worker goes to a file.
pub fn has_logs(spec: &Spec) -> bool {
    (0..spec.local_world_size).any(|rank| spec.file_streams(rank) != Streams::NONE)
}

/// Opens a log of the run directory to write to. O_APPEND, so that a truncated file starts anew.
pub fn open_log(path: &Path, modes: Modes) -> Result<OwnedFd, Error> {
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_NOFOLLOW;
    let opened = file::open(path, flags, modes.file).or_else(|unusable| {
        // Something else can only be there to be in the way: a worker of an earlier attempt has put it there.
        let in_the_way = unusable.is.is_some() && std::fs::remove_file(path).is_ok();
        if in_the_way { file::open(path, flags, modes.file) } else { Err(unusable) }
    });
    let opened =
        opened.map_err(|unusable| unusable.into_error(format_args!("cannot open {}", path.display())))?;
    set_file_mode(&opened, modes).map_err(|error| {
        let what = format!("cannot set the mode of {}", path.display());
        Error::system(what, error.raw_os_error().unwrap_or(0))
    })?;
    Ok(opened.into())
}

/// For a file that was opened with these, and may have fewer bits for the umask.
pub fn set_file_mode(file: &File, modes: Modes) -> io::Result<()> {
    if modes.exact { file.set_permissions(std::fs::Permissions::from_mode(modes.file)) } else { Ok(()) }
}

fn directory_not_made(path: &Path, error: io::Error) -> Error {
    let what = format!("cannot make the directory {}", path.display());
    Error::system(what, error.raw_os_error().unwrap_or(0))
}

fn make(path: &Path, modes: Modes) -> io::Result<()> {
    std::fs::DirBuilder::new().mode(modes.directory).create(path)?;
    if modes.exact { set_mode(path, modes.directory) } else { Ok(()) }
}

/// A directory that may be there already: the attempt, or the run, has begun to make it, or a worker has.
fn make_below(path: &Path, modes: Modes) -> io::Result<()> {
    match make(path, modes) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if path.symlink_metadata()?.is_dir() {
                Ok(())
            } else {
                Err(error)
            }
        }
        made => made,
    }
}

/// An error is of the one that could not be made.
fn make_all(path: &Path, modes: Modes) -> Result<(), Error> {
    let exists = |error: &io::Error| error.kind() == io::ErrorKind::AlreadyExists;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let made = match (make(path, modes), parent) {
        (Err(error), _) if exists(&error) && path.is_dir() => return Ok(()),
        (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => {
            make_all(parent, modes)?;
            make(path, modes).or_else(|error| if exists(&error) { Ok(()) } else { Err(error) })
        }
        (made, _) => made,
    };
    made.map_err(|error| directory_not_made(path, error))
}

fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// A new directory `<parent>/<stem>_<unique>`.
fn make_unique(parent: &Path, stem: &str, modes: Modes) -> Result<PathBuf, Error> {
    loop {
        let path = parent.join(format!("{stem}_{}", unique()));
        match make(&path, modes) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Ok(()) => return Ok(path),
            Err(error) => return Err(directory_not_made(&path, error)),
        }
    }
}

/// Eight characters that no other run has; the directory's creation has the last word.
fn unique() -> String {
    const LETTERS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let mut random = random::number();
    (0..8)
        .map(|_| {
            let letter = LETTERS[(random % 32) as usize];
            random /= 32;
            letter as char
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_the_default_place_survives_a_logout() {
        assert!(stays_in_memory(0) && stays_in_memory(999));
        assert!(!stays_in_memory(1000) && !stays_in_memory(u32::MAX));
    }
}
