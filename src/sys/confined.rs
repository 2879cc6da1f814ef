//! What stands in for system calls that a sandbox's filter or an emulator refuses.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::raw;

/// Whether a call failed because it, or one of its flags, is not to be had here. Filters answer with EPERM, EACCES or
/// ENOSYS, emulators with EINVAL.
pub fn is_refusal(errno: Errno) -> bool {
    matches!(errno, Errno::EPERM | Errno::EACCES | Errno::ENOSYS | Errno::EINVAL)
}

fn call(number: libc::c_long, args: [usize; 4]) -> isize {
    let [a, b, c, d] = args;
    raw::syscall(number as usize, [a, b, c, d, 0, 0])
}

/// Whether there is close_range(2). Asked before a child is born.
pub fn has_close_range() -> bool {
    static KNOWN: once_cell::sync::Lazy<bool> = once_cell::sync::Lazy::new(|| {
        const NOBODYS: usize = u32::MAX as usize;
        call(libc::SYS_close_range, [NOBODYS, NOBODYS, 0, 0]) == 0
    });
    *KNOWN
}

/// Goes through the open descriptors from `first` to `last` of a child that has its own table: only the kernel is called.
pub fn each_descriptor(first: u32, last: u32, act: impl Fn(u32)) {
    const HERE: usize = libc::AT_FDCWD as isize as usize;
    let flags = (libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC) as usize;
    let directory = call(libc::SYS_openat, [HERE, c"/proc/self/fd".as_ptr() as usize, flags, 0]);
    if directory < 0 {
        // Those that there can be, were the limit never lowered; no more than is done in some milliseconds.
        const MOST: u64 = 1 << 16;
        let mut limit = libc::rlimit { rlim_cur: MOST, rlim_max: MOST };
        call(libc::SYS_prlimit64, [0, libc::RLIMIT_NOFILE as usize, 0, &raw mut limit as usize]);
        (first..=last.min(limit.rlim_cur.min(MOST) as u32)).for_each(act);
        return;
    }
    let mut entries = [0u64; 256];
    loop {
        let length = call(
            libc::SYS_getdents64,
            [directory as usize, entries.as_mut_ptr() as usize, size_of_val(&entries), 0],
        );
        if length <= 0 {
            break;
        }
        // SAFETY: the kernel filled that many bytes of the buffer.
        let mut rest = unsafe { std::slice::from_raw_parts(entries.as_ptr().cast::<u8>(), length as usize) };
        while let Some((entry, next)) = split_entry(rest) {
            rest = next;
            if let Some(fd) = number(entry)
                && fd != directory as u32
                && (first..=last).contains(&fd)
            {
                act(fd);
            }
        }
    }
    call(libc::SYS_close, [directory as usize, 0, 0, 0]);
}

/// The name that a list of `struct linux_dirent64` begins with, and what follows it.
fn split_entry(list: &[u8]) -> Option<(&[u8], &[u8])> {
    const LENGTH_AT: usize = 16;
    const NAME_AT: usize = 19;
    let length = u16::from_ne_bytes(list.get(LENGTH_AT..LENGTH_AT + 2)?.try_into().ok()?) as usize;
    let name = list.get(NAME_AT..length)?;
    let name = &name[..name.iter().position(|&byte| byte == 0)?];
    Some((name, list.get(length..)?))
}

fn number(digits: &[u8]) -> Option<u32> {
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u32::from(byte - b'0'));
    let add = |number: u32, byte: &u8| number.checked_mul(10)?.checked_add(digit(byte)?);
    if digits.is_empty() { None } else { digits.iter().try_fold(0, add) }
}

/// A pipe that a copy of this process holds until it is another program.
pub fn exec_pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    Ok((super::fd::above_stdio(reader)?, super::fd::above_protocol(writer)?))
}

/// Returns when the child that holds the other end is another program, or has ended.
pub fn wait_for_exec(pipe: &OwnedFd, pid: i32, pidfd: &OwnedFd) {
    // A copy of the host that another of its threads made meanwhile holds the pipe, too.
    const LOOK_CLOSER_AFTER: u8 = 100;
    loop {
        let mut items =
            [PollFd::new(pipe.as_fd(), PollFlags::POLLIN), PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut items, PollTimeout::from(LOOK_CLOSER_AFTER)) {
            Ok(1..) => return,
            Ok(_) if super::process::has_executed(pid) => return,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::sync::Mutex;

    #[test]
    fn reap_the_list_of_descriptors_has_those_that_are_open() {
        let (one, two) = exec_pipe().unwrap();
        let found = Mutex::new(Vec::new());
        each_descriptor(3, u32::MAX, |fd| found.lock().unwrap().push(fd as i32));
        let found = found.into_inner().unwrap();
        for fd in [&one, &two] {
            assert_eq!(found.iter().filter(|&&found| found == fd.as_raw_fd()).count(), 1);
        }
        let beyond = Mutex::new(0);
        each_descriptor(two.as_raw_fd() as u32, two.as_raw_fd() as u32, |_| *beyond.lock().unwrap() += 1);
        assert_eq!(beyond.into_inner().unwrap(), 1);
    }

    #[test]
    fn reap_names_of_descriptors() {
        assert_eq!(number(b"17"), Some(17));
        for name in [&b""[..], b".", b"..", b"1a", b"99999999999"] {
            assert_eq!(number(name), None);
        }
        assert_eq!(split_entry(&[0; 24]), None);
        assert_eq!(split_entry(&[]), None);
    }
}
