//! Files without a name: in memory or, where there is no memfd_create(2), in a directory for temporary files.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;

use super::{fd, memory};

/// Where such a file may lie, the first choice first.
pub fn directories(temporary: PathBuf) -> Vec<PathBuf> {
    let mut all = vec![temporary];
    all.extend(["/tmp", "/dev/shm", "/var/tmp"].map(PathBuf::from));
    all
}

/// A program that can be executed by its descriptor.
pub fn program(name: &CStr, bytes: &[u8], directories: &[PathBuf]) -> Result<OwnedFd, Errno> {
    let in_memory = memory::executable_memfd(name).and_then(|file| {
        memory::write_at(file.as_raw_fd(), bytes, 0)?;
        Ok(file)
    });
    in_memory.or_else(|errno| {
        let written = |directory: &PathBuf| on_disk(directory, name, bytes).ok();
        directories.iter().find_map(written).ok_or(errno)
    })
}

/// An empty file that processes share.
pub fn shared(name: &CStr, directories: &[PathBuf]) -> Result<OwnedFd, Errno> {
    memory::memfd(name).or_else(|errno| {
        let make = |directory: &PathBuf| create(directory, name, 0o600).map(|(file, _)| file).ok();
        directories.iter().find_map(make).ok_or(errno)
    })
}

/// A program that nobody can write to any more, or the kernel would not execute it.
fn on_disk(directory: &std::path::Path, name: &CStr, bytes: &[u8]) -> Result<OwnedFd, Errno> {
    let (file, readable) = create(directory, name, 0o700)?;
    if fd::forbids_execution(file.as_raw_fd()) {
        return Err(Errno::EACCES);
    }
    memory::write_at(file.as_raw_fd(), bytes, 0)?;
    Ok(readable)
}

/// A new file, and the same for reading only; its name is gone.
fn create(directory: &std::path::Path, name: &CStr, mode: u32) -> Result<(OwnedFd, OwnedFd), Errno> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    const TRIES: usize = 16;
    for _ in 0..TRIES {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("{}.{}.{number}", name.to_string_lossy(), std::process::id()));
        let flags = libc::O_RDWR | libc::O_CREAT | libc::O_EXCL | libc::O_NOFOLLOW;
        match fd::open(&path, flags, mode) {
            // What an earlier process of this number has left, or a stranger.
            Err(Errno::EEXIST) => {}
            Err(errno) => return Err(errno),
            Ok(file) => {
                let readable = fd::open(&path, libc::O_RDONLY | libc::O_NOFOLLOW, 0);
                let _ = std::fs::remove_file(&path);
                return readable.map(|readable| (file, readable));
            }
        }
    }
    Err(Errno::EEXIST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reap_a_file_on_disk_has_no_name_and_can_be_executed() {
        let directory = std::env::temp_dir().join(format!("ice-nameless-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let file = on_disk(&directory, c"program", &std::fs::read("/bin/true").unwrap()).unwrap();
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        assert!(std::process::Command::new(path).status().unwrap().success());
        let (file, readable) = create(&directory, c"shared", 0o600).unwrap();
        memory::write_at(file.as_raw_fd(), b"word", 0).unwrap();
        assert_eq!(memory::read_at(readable.as_raw_fd(), 4, 0).unwrap(), b"word");
        std::fs::remove_dir(&directory).unwrap();
    }
}
