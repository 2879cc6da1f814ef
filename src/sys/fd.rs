//! Descriptors: close-on-exec from their creation, and never 0, 1 or 2, which belong to the host even
//! while it has them closed.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::inherited;

/// Moves a new descriptor out of the way of 0, 1 and 2.
pub fn above_stdio(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    if fd.as_raw_fd() > 2 { Ok(fd) } else { duplicate(fd.as_raw_fd()) }
}

/// Moves a descriptor that a worker is to have as 3, or one of the next, out of the way of all of these.
pub fn above_protocol(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    const FREE: RawFd = inherited::FIRST + inherited::MOST as RawFd;
    if fd.as_raw_fd() >= FREE { Ok(fd) } else { duplicate_from(fd.as_raw_fd(), FREE) }
}

/// A second descriptor for what `fd` refers to, close-on-exec and above 2.
pub fn duplicate(fd: RawFd) -> Result<OwnedFd, Errno> {
    duplicate_from(fd, 3)
}

fn duplicate_from(fd: RawFd, lowest: RawFd) -> Result<OwnedFd, Errno> {
    // SAFETY: F_DUPFD_CLOEXEC takes any number and touches no memory.
    let copy = Errno::result(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, lowest) })?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Opens a file, close-on-exec and above 2. `path` is taken relative to the working directory.
pub fn open(path: &std::path::Path, flags: libc::c_int, mode: u32) -> Result<OwnedFd, Errno> {
    let flags = nix::fcntl::OFlag::from_bits_retain(flags | libc::O_CLOEXEC);
    above_stdio(nix::fcntl::open(path, flags, nix::sys::stat::Mode::from_bits_truncate(mode))?)
}

/// An inotify instance that is read without waiting.
pub fn inotify() -> Result<nix::sys::inotify::Inotify, Errno> {
    use std::os::fd::IntoRawFd;
    // SAFETY: plain numbers in, a descriptor out.
    let fd = Errno::result(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) })?;
    // SAFETY: the kernel just made this descriptor for us.
    let fd = above_stdio(unsafe { OwnedFd::from_raw_fd(fd) })?;
    // SAFETY: it is an inotify descriptor, and ownership goes with it.
    Ok(unsafe { nix::sys::inotify::Inotify::from_raw_fd(fd.into_raw_fd()) })
}

pub fn null() -> Result<OwnedFd, Errno> {
    open(std::path::Path::new("/dev/null"), libc::O_RDWR, 0)
}

/// An eventfd that wakes another thread; `ring` is async-signal-safe.
pub struct Bell(OwnedFd);

impl Bell {
    pub fn new() -> Result<Bell, Errno> {
        // SAFETY: plain numbers in, a descriptor out.
        let fd = Errno::result(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: the kernel just made this descriptor for us.
        above_stdio(unsafe { OwnedFd::from_raw_fd(fd) }).map(Bell)
    }

    /// Makes the descriptor readable. Keeps errno, as a signal handler must.
    pub fn ring(&self) {
        let one: u64 = 1;
        let errno = Errno::last_raw();
        // SAFETY: eight readable bytes. A full counter (EAGAIN) is readable all the same.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
        Errno::set_raw(errno);
    }

    /// Makes it unreadable until the next ring.
    pub fn quiet(&self) {
        let mut count: u64 = 0;
        // SAFETY: eight writable bytes.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) };
    }
}

impl AsRawFd for Bell {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl std::os::fd::AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Between two tries to accept when there was no descriptor, or no memory, left for it.
pub const TIME_TO_ACCEPT: std::time::Duration = std::time::Duration::from_millis(100);

/// Whether a call failed for want of what may be there again in a moment.
pub fn is_shortage(errno: Errno) -> bool {
    matches!(errno, Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM)
}

/// Takes the next connection of a socket that listens: close-on-exec, above 2, and never waiting.
pub fn accept(listener: RawFd) -> Result<OwnedFd, Errno> {
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: NULL for an address that is not wanted.
    let socket =
        Errno::result(unsafe { libc::accept4(listener, std::ptr::null_mut(), std::ptr::null_mut(), flags) })?;
    // SAFETY: the kernel just made this descriptor for us.
    above_stdio(unsafe { OwnedFd::from_raw_fd(socket) })
}

/// Whether there is something to read now.
pub fn is_readable(fd: BorrowedFd) -> bool {
    let mut items = [PollFd::new(fd, PollFlags::POLLIN)];
    matches!(poll(&mut items, PollTimeout::ZERO), Ok(1..))
}

/// Writes without ever waiting to a socket.
pub fn send_now(fd: RawFd, bytes: &[u8]) -> Result<usize, Errno> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the slice is readable for its length.
    let sent = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), flags) };
    Errno::result(sent).map(|sent| sent as usize)
}

/// Opens a directory itself, not what a link leads to.
pub fn directory(path: &std::path::Path) -> Result<OwnedFd, Errno> {
    open(path, libc::O_RDONLY | libc::O_DIRECTORY | libc::O_NOFOLLOW, 0)
}

/// Opens a FIFO for writing alone, which is possible only where somebody reads from it: ENXIO if nobody does.
pub fn fifo_of_reader(path: &std::path::Path) -> Result<OwnedFd, Errno> {
    open(path, libc::O_WRONLY | libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW, 0)
}

/// Locks a file for as long as it is open here, if nobody else has it locked. (nix's `Flock` unlocks it when it is
/// dropped, and panics where that fails, as it may over a network; to close it is enough.)
pub fn lock(file: OwnedFd) -> Result<OwnedFd, Errno> {
    // SAFETY: a descriptor and a number.
    Errno::result(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) })?;
    Ok(file)
}

/// Writes to a descriptor that the host owns.
pub fn write(fd: RawFd, bytes: &[u8]) -> Result<usize, Errno> {
    // SAFETY: the slice is readable for its length; a closed descriptor gives EBADF.
    let written = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
    Errno::result(written).map(|written| written as usize)
}

/// What kind of file a descriptor refers to: the S_IFMT bits of its mode.
pub fn kind(fd: RawFd) -> Result<u32, Errno> {
    stat(fd).map(|stat| stat.st_mode & libc::S_IFMT)
}

/// Its device and inode.
pub fn identity(fd: &OwnedFd) -> Result<(u64, u64), Errno> {
    stat(fd.as_raw_fd()).map(|stat| (stat.st_dev, stat.st_ino))
}

/// Whether what lies on the file system of a file cannot be executed (a mount with noexec).
pub fn forbids_execution(fd: RawFd) -> bool {
    let mut about = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the buffer has the size of a statvfs, and is read only where the call has filled it.
    unsafe {
        libc::fstatvfs(fd, about.as_mut_ptr()) == 0 && about.assume_init().f_flag & libc::ST_NOEXEC != 0
    }
}

/// How many bytes it has.
pub fn size(fd: RawFd) -> Result<usize, Errno> {
    stat(fd).map(|stat| stat.st_size as usize)
}

/// Which device it is, where it is one.
pub fn device(fd: RawFd) -> Result<u64, Errno> {
    stat(fd).map(|stat| stat.st_rdev)
}

fn stat(fd: RawFd) -> Result<libc::stat, Errno> {
    let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
    // SAFETY: the buffer has the size of a stat.
    Errno::result(unsafe { libc::fstat(fd, stat.as_mut_ptr()) })?;
    // SAFETY: fstat succeeded and filled it.
    Ok(unsafe { stat.assume_init() })
}
