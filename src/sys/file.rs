//! Files at places where others may have put something else: a FIFO or a device that would be waited for, a link to
//! what is not theirs, gigabytes. They are opened without waiting, and used only if they are regular.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::fd;
use crate::error::{Error, errno_text};

/// Why a file cannot be used.
#[derive(Debug, PartialEq)]
pub struct Unusable {
    /// What there is instead of a regular file.
    pub is: Option<&'static str>,
    pub errno: Errno,
}

impl Unusable {
    pub fn is_missing(&self) -> bool {
        matches!(self.errno, Errno::ENOENT | Errno::ENOTDIR) && self.is.is_none()
    }

    pub fn into_error(self, what: impl fmt::Display) -> Error {
        match self.is {
            None => Error::system(what.to_string(), self.errno as i32),
            Some(is) => Error::system(format!("{what}, which is {is}"), self.errno as i32),
        }
    }
}

/// What a sentence goes on with that begins with its name.
impl fmt::Display for Unusable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is {
            Some(is) => write!(out, "is {is}"),
            None => write!(out, "cannot be used ({})", errno_text(self.errno as i32)),
        }
    }
}

impl From<Errno> for Unusable {
    fn from(errno: Errno) -> Unusable {
        Unusable { is: None, errno }
    }
}

impl From<std::io::Error> for Unusable {
    fn from(error: std::io::Error) -> Unusable {
        Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)).into()
    }
}

/// Opens a regular file, close-on-exec and above 2, without waiting for anybody. O_NOFOLLOW where a link is nothing
/// that its user has asked for.
pub fn open(path: &Path, flags: libc::c_int, mode: u32) -> Result<File, Unusable> {
    let opened = match fd::open(path, flags | libc::O_NONBLOCK | libc::O_NOCTTY, mode) {
        Ok(opened) => opened,
        Err(errno) => return Err(Unusable { is: what_is_at(path, flags), errno }),
    };
    match fd::kind(opened.as_raw_fd())? {
        libc::S_IFREG => {}
        kind => return Err(Unusable { is: Some(name(kind)), errno: Errno::ENXIO }),
    }
    if flags & libc::O_ACCMODE != libc::O_RDONLY {
        // Whoever is given it to write to is to find it as if it had been opened as usual.
        let flags = OFlag::from_bits_retain(flags & (libc::O_ACCMODE | libc::O_APPEND));
        fcntl(&opened, FcntlArg::F_SETFL(flags))?;
    }
    Ok(opened.into())
}

/// The first `most` bytes of a regular file.
pub fn read(path: &Path, flags: libc::c_int, most: usize) -> Result<Vec<u8>, Unusable> {
    let mut bytes = Vec::new();
    open(path, flags | libc::O_RDONLY, 0)?.take(most as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether a file can be made here, or be put in the place of a regular one. Nothing is opened: that alone does
/// something to some devices.
pub fn refuse_others(path: &Path) -> Result<(), Unusable> {
    match what_is_at(path, 0) {
        None => Ok(()),
        is => Err(Unusable { is, errno: Errno::ENXIO }),
    }
}

/// What there is, if it is no regular file.
fn what_is_at(path: &Path, flags: libc::c_int) -> Option<&'static str> {
    let data = if flags & libc::O_NOFOLLOW == 0 { path.metadata() } else { path.symlink_metadata() };
    let kind = data.ok()?.file_type();
    let (fifo, socket) = (kind.is_fifo(), kind.is_socket());
    let device = kind.is_char_device() || kind.is_block_device();
    match () {
        () if kind.is_symlink() => Some(name(libc::S_IFLNK)),
        () if kind.is_dir() => Some(name(libc::S_IFDIR)),
        () if fifo => Some(name(libc::S_IFIFO)),
        () if socket => Some(name(libc::S_IFSOCK)),
        () if device => Some(name(libc::S_IFCHR)),
        () => None,
    }
}

fn name(kind: u32) -> &'static str {
    match kind {
        libc::S_IFIFO => "a FIFO",
        libc::S_IFSOCK => "a socket",
        libc::S_IFDIR => "a directory",
        libc::S_IFLNK => "a symbolic link",
        libc::S_IFCHR | libc::S_IFBLK => "a device",
        _ => "no regular file",
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn err_only_regular_files_are_opened_and_nobody_is_waited_for() {
        let dir = std::env::temp_dir().join(format!("ice-file-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("directory")).unwrap();
        let at = |name: &str| dir.join(name);
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let _socket = UnixListener::bind(at("socket")).unwrap();
        std::fs::write(at("file"), "0123456789").unwrap();
        symlink(at("file"), at("link")).unwrap();
        symlink(at("fifo"), at("link_to_fifo")).unwrap();
        symlink("/dev/zero", at("zero")).unwrap();
        let own = libc::O_NOFOLLOW;
        for (name, flags, is) in [
            ("fifo", 0, "is a FIFO"),
            ("fifo", libc::O_WRONLY, "is a FIFO"),
            ("link_to_fifo", 0, "is a FIFO"),
            ("socket", 0, "is a socket"),
            ("directory", 0, "is a directory"),
            ("directory", libc::O_WRONLY, "is a directory"),
            ("zero", 0, "is a device"),
            ("link", own, "is a symbolic link"),
            ("zero", own, "is a symbolic link"),
        ] {
            assert_eq!(open(&at(name), flags, 0).unwrap_err().to_string(), is, "{name} {flags}");
        }
        assert_eq!(read(&at("link"), 0, 4).unwrap(), b"0123");
        assert_eq!(read(&at("file"), own, 99).unwrap(), b"0123456789");
        assert!(read(&at("nothing"), own, 99).unwrap_err().is_missing());
        let log = open(&at("log"), libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND, 0o600).unwrap();
        let flags = OFlag::from_bits_retain(fcntl(&log, FcntlArg::F_GETFL).unwrap());
        assert!(flags.contains(OFlag::O_APPEND) && !flags.contains(OFlag::O_NONBLOCK), "{flags:?}");
        std::fs::remove_dir_all(dir).unwrap();
    }
}
