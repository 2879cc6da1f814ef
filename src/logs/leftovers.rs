//! What runs have left in a directory for temporary files whose agent was killed, and what watched over it too.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::errno::Errno;

use crate::sys::fd;

/// What all names of runs begin with.
const PREFIX: &[u8] = b"ice_";
/// A run that has just made something has not locked it yet.
const OLD: Duration = Duration::from_secs(60);
/// How many entries are looked at: the directory is everybody's.
const MOST: usize = 1000;

/// Removes empty directories that no run holds, and FIFOs that nobody reads from, of this user.
pub fn clear(base: &Path) {
    use std::os::unix::ffi::OsStrExt;
    let own = nix::unistd::geteuid().as_raw();
    for entry in std::fs::read_dir(base).into_iter().flatten().take(MOST).flatten() {
        if !entry.file_name().as_bytes().starts_with(PREFIX) {
            continue;
        }
        let path = entry.path();
        let Ok(about) = path.symlink_metadata() else { continue };
        let age = about.modified().ok().and_then(|then| SystemTime::now().duration_since(then).ok());
        if about.uid() != own || age.is_none_or(|age| age < OLD) {
            continue;
        }
        if about.is_dir() {
            if fd::directory(&path).and_then(fd::lock).is_ok() {
                // Not one in which there is something: somebody may want to read it.
                let _ = std::fs::remove_dir(&path);
            }
        } else if about.file_type().is_fifo() && matches!(fd::fifo_of_reader(&path), Err(Errno::ENXIO)) {
            let _ = std::fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sec_06_only_what_is_old_empty_and_nobodys_goes() {
        let base = std::env::temp_dir().join(format!("leftovers-{}", std::process::id()));
        let old = SystemTime::now() - 2 * OLD;
        let make = |name: &str, time: SystemTime| {
            let path = base.join(name);
            std::fs::create_dir_all(&path).unwrap();
            std::fs::File::open(&path).unwrap().set_modified(time).unwrap();
            path
        };
        let held = make("ice_held_abcdefgh", old);
        let lock = fd::lock(std::fs::File::open(&held).unwrap().into()).unwrap();
        let stays = [held, make("ice_new_abcdefgh", SystemTime::now()), make("other", old)];
        let full = make("ice_full_abcdefgh", old);
        std::fs::write(full.join("error.json"), "{}").unwrap();
        std::fs::File::open(&full).unwrap().set_modified(old).unwrap();
        let goes = make("ice_empty_abcdefgh", old);
        clear(&base);
        assert!(stays.iter().chain([&full]).all(|path| path.is_dir()) && !goes.exists());
        drop(lock);
        std::fs::remove_dir_all(&base).unwrap();
    }
}
