//! Memory shared with children: plain mappings, and memfds that keep growing values.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;

use nix::errno::Errno;

/// One mapping, unmapped when dropped. Length 0 maps nothing.
pub struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: a mapping is plain memory; who may write it when is the business of its owner.
unsafe impl Send for Mapping {}
// SAFETY: shared references only read.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Zeroed memory that children made by fork share.
    pub fn anonymous_shared(length: usize) -> Result<Mapping, Errno> {
        Mapping::new(
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    }

    /// A stack for a child that shares our memory while it execs.
    pub fn stack(length: usize) -> Result<Mapping, Errno> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK;
        Mapping::new(length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
    }

    /// A file whose size and contents are sealed. Private, as a kernel before 6.7 lets nobody share it.
    fn of_sealed(fd: RawFd, length: usize) -> Result<Mapping, Errno> {
        Mapping::new(length, libc::PROT_READ, libc::MAP_PRIVATE, fd, 0)
    }

    pub fn of_file(fd: RawFd, offset: usize, length: usize, writable: bool) -> Result<Mapping, Errno> {
        let protection = if writable { libc::PROT_READ | libc::PROT_WRITE } else { libc::PROT_READ };
        Mapping::new(length, protection, libc::MAP_SHARED, fd, offset)
    }

    fn new(length: usize, protection: i32, flags: i32, fd: RawFd, offset: usize) -> Result<Mapping, Errno> {
        if length == 0 {
            return Ok(Mapping { start: NonNull::dangling(), length });
        }
        // SAFETY: a new mapping at an address of the kernel's choice harms nobody.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, fd, offset as i64) };
        if start == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        NonNull::new(start.cast()).map(|start| Mapping { start, length }).ok_or(Errno::ENOMEM)
    }

    pub fn as_ptr(&self) -> *mut u8 {
        self.start.as_ptr()
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the mapping is `length` readable bytes. Whoever hands bytes out has made sure that no
        // process writes to or cuts them any more (a sealed memfd of a dead worker).
        unsafe { std::slice::from_raw_parts(self.as_ptr(), self.length) }
    }

    /// The bytes of a writable mapping that outlives the process that asks.
    pub fn leak(self) -> &'static mut [u8] {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: writable by the constructor's caller, never unmapped as the drop is skipped.
        unsafe { std::slice::from_raw_parts_mut(this.as_ptr(), this.length) }
    }

    /// The bytes of a mapping that nobody writes to any more, for the life of the process.
    pub fn leak_readable(self) -> &'static [u8] {
        let this = std::mem::ManuallyDrop::new(self);
        // SAFETY: `length` readable bytes, never unmapped as the drop is skipped.
        unsafe { std::slice::from_raw_parts(this.as_ptr(), this.length) }
    }

    /// Writes bytes that the other side reads once it is told that they are there.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.length, "the bytes are within the mapping");
        // SAFETY: within the mapping. Through a pointer: no reference to memory that others change is made.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.as_ptr().add(offset), bytes.len()) };
    }

    /// What the other side wrote before it told, and does not change any more. The mapping is never to be
    /// unmapped.
    pub fn told(&self, offset: usize, length: usize) -> &'static [u8] {
        assert!(offset + length <= self.length, "the bytes are within the mapping");
        // SAFETY: within the mapping, which the caller keeps for the life of the process.
        unsafe { std::slice::from_raw_parts(self.as_ptr().add(offset), length) }
    }

    /// A copy of what the other side wrote.
    pub fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        assert!(offset + length <= self.length, "the bytes are within the mapping");
        let mut bytes = Vec::with_capacity(length);
        // SAFETY: within the mapping, and as many as there is room for; no reference is made.
        unsafe {
            std::ptr::copy_nonoverlapping(self.as_ptr().add(offset), bytes.as_mut_ptr(), length);
            bytes.set_len(length);
        }
        bytes
    }

    /// A word of the mapping that processes exchange.
    pub fn word(&self, index: usize) -> &std::sync::atomic::AtomicI32 {
        assert!((index + 1) * 4 <= self.length, "the word is within the mapping");
        // SAFETY: aligned, within the mapping, and only ever used as an atomic.
        unsafe { &*self.as_ptr().cast::<std::sync::atomic::AtomicI32>().add(index) }
    }

    /// A double word, likewise.
    pub fn long(&self, index: usize) -> &std::sync::atomic::AtomicU64 {
        assert!((index + 1) * 8 <= self.length, "the word is within the mapping");
        // SAFETY: aligned, within the mapping, and only ever used as an atomic.
        unsafe { &*self.as_ptr().cast::<std::sync::atomic::AtomicU64>().add(index) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: this is our mapping and the last use of it.
            unsafe { libc::munmap(self.as_ptr().cast(), self.length) };
        }
    }
}

/// An anonymous file in memory, close-on-exec.
pub fn memfd(name: &CStr) -> Result<OwnedFd, Errno> {
    memfd_with(name, libc::MFD_ALLOW_SEALING)
}

/// One for a program. Since Linux 6.3 that has to be said where the administrator wants it (vm.memfd_noexec=1); before,
/// the flag is not known.
pub fn executable_memfd(name: &CStr) -> Result<OwnedFd, Errno> {
    const MFD_EXEC: u32 = 0x10;
    match memfd_with(name, MFD_EXEC) {
        Err(Errno::EINVAL) => memfd_with(name, 0),
        made => made,
    }
}

fn memfd_with(name: &CStr, flags: u32) -> Result<OwnedFd, Errno> {
    // SAFETY: a NUL-terminated name in, a descriptor out.
    let fd = Errno::result(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC | flags) })?;
    // SAFETY: the kernel just made this descriptor for us.
    super::fd::above_stdio(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Why there are no memfds here, if a sandbox refuses them.
pub fn memfd_refusal() -> Option<Errno> {
    memfd(c"ice-probe").err().filter(|&errno| super::confined::is_refusal(errno))
}

pub fn resize(fd: RawFd, length: usize) -> Result<(), Errno> {
    // SAFETY: plain numbers.
    Errno::result(unsafe { libc::ftruncate(fd, length as i64) }).map(drop)
}

/// Makes what a file has between these two offsets zeros, and gives its memory back.
pub fn empty(fd: RawFd, from: usize, to: usize) -> Result<(), Errno> {
    if to <= from {
        return Ok(());
    }
    let how = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: plain numbers.
    Errno::result(unsafe { libc::fallocate(fd, how, from as i64, (to - from) as i64) }).map(drop)
}

/// How much memory this machine has, swap space included, in bytes.
pub fn installed() -> usize {
    let mut info = std::mem::MaybeUninit::<libc::sysinfo>::uninit();
    // SAFETY: the buffer has the size of the structure.
    if unsafe { libc::sysinfo(info.as_mut_ptr()) } != 0 {
        return usize::MAX;
    }
    // SAFETY: sysinfo succeeded and filled it.
    let info = unsafe { info.assume_init() };
    let pages = info.totalram.saturating_add(info.totalswap) as usize;
    pages.saturating_mul(info.mem_unit as usize)
}

/// Writes all of `bytes` at `offset`: into fresh pages, without a fault for each.
pub fn write_at(fd: RawFd, bytes: &[u8], offset: usize) -> Result<(), Errno> {
    let mut done = 0;
    while done < bytes.len() {
        let rest = &bytes[done..];
        // SAFETY: the slice is readable for its length.
        let written = unsafe { libc::pwrite(fd, rest.as_ptr().cast(), rest.len(), (offset + done) as i64) };
        match Errno::result(written) {
            Ok(0) => return Err(Errno::ENOSPC),
            Ok(written) => done += written as usize,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// `length` bytes from `offset` on.
pub fn read_at(fd: RawFd, length: usize, offset: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let (done, room) = (bytes.len(), bytes.spare_capacity_mut());
        // SAFETY: the spare capacity is writable, and at least as long as what is asked for.
        let read =
            unsafe { libc::pread(fd, room.as_mut_ptr().cast(), length - done, (offset + done) as i64) };
        match Errno::result(read) {
            Ok(0) => return Err(Errno::ENODATA),
            // SAFETY: pread wrote that many.
            Ok(read) => unsafe { bytes.set_len(done + read as usize) },
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(bytes)
}

/// The eight bytes that a file begins with.
pub fn first_word(fd: RawFd) -> Result<u64, Errno> {
    let mut word = 0u64;
    // SAFETY: eight writable bytes.
    let read = unsafe { libc::pread(fd, (&raw mut word).cast(), 8, 0) };
    if Errno::result(read)? == 8 { Ok(word) } else { Err(Errno::ENODATA) }
}

/// Does something with a memfd for which the limit of file sizes (RLIMIT_FSIZE, which counts memfds in)
/// is not meant: the soft limit is lifted meanwhile, and beyond the hard one there is EFBIG, not SIGXFSZ.
pub fn beyond_file_limit(act: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the buffers have the sizes that the calls want; the sets are initialised before their use.
    unsafe {
        libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut limit);
        if limit.rlim_cur == libc::RLIM_INFINITY {
            return act();
        }
        let lifted = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
        let mut only = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        let mut before = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
        libc::sigemptyset(only.as_mut_ptr());
        libc::sigaddset(only.as_mut_ptr(), libc::SIGXFSZ);
        libc::pthread_sigmask(libc::SIG_BLOCK, only.as_ptr(), before.as_mut_ptr());
        libc::setrlimit(libc::RLIMIT_FSIZE, &raw const lifted);
        let done = act();
        libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit);
        let at_once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        libc::sigtimedwait(only.as_ptr(), std::ptr::null_mut(), &raw const at_once);
        libc::pthread_sigmask(libc::SIG_SETMASK, before.as_ptr(), std::ptr::null_mut());
        done
    }
}

/// From now on nobody can cut the file under a mapping of it, nor forbid anything else.
pub fn forbid_shrinking(fd: &OwnedFd) -> Result<(), Errno> {
    seal(fd, libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL)
}

/// The same, and nobody can make it longer.
pub fn fix_size(fd: &OwnedFd) -> Result<(), Errno> {
    seal(fd, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL)
}

fn seal(fd: &OwnedFd, seals: i32) -> Result<(), Errno> {
    // SAFETY: plain numbers.
    Errno::result(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_ADD_SEALS, seals) }).map(drop)
}

/// Whether a descriptor stands for a memfd that nobody can cut under a mapping of it.
pub fn size_is_sealed(fd: RawFd) -> bool {
    // SAFETY: plain numbers; anything but a memfd gives EINVAL.
    let seals = unsafe { libc::fcntl(fd, libc::F_GET_SEALS) };
    seals >= 0 && seals & libc::F_SEAL_SHRINK != 0
}

/// Bytes in memory that processes read and nobody changes: made once, passed on as a descriptor.
#[derive(Debug)]
pub struct Blob(OwnedFd);

impl Blob {
    pub fn copy(bytes: &[u8]) -> Result<Blob, Errno> {
        let fd = super::fd::above_protocol(memfd(c"ice-argument")?)?;
        beyond_file_limit(|| write_at(fd.as_raw_fd(), bytes, 0))?;
        seal(&fd, libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE | libc::F_SEAL_SEAL)?;
        Ok(Blob(fd))
    }

    /// Maps the blob that a descriptor stands for.
    pub fn map(fd: RawFd) -> Result<Mapping, Errno> {
        Mapping::of_sealed(fd, super::fd::size(fd)?)
    }
}

impl AsRawFd for Blob {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}
