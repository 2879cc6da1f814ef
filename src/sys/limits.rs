//! How many descriptors this process may have (RLIMIT_NOFILE), and its children.

use std::os::fd::{AsRawFd, RawFd};

use parking_lot::Mutex;

use nix::errno::Errno;

use super::{fd, raw};

/// A soft and a hard limit.
#[derive(Clone, Copy)]
pub struct Descriptors(libc::rlimit);

impl Descriptors {
    fn now() -> Result<Descriptors, Errno> {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: the buffer has the size of an rlimit.
        Errno::result(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
        Ok(Descriptors(limit))
    }

    fn set(self) -> Result<(), Errno> {
        // SAFETY: the buffer has the size of an rlimit.
        Errno::result(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const self.0) }).map(drop)
    }

    /// In a child, for itself alone: only the kernel is called.
    pub fn apply(&self) {
        let new = &raw const self.0 as usize;
        raw::syscall(libc::SYS_prlimit64 as usize, [0, libc::RLIMIT_NOFILE as usize, new, 0, 0, 0]);
    }
}

/// Who has raised the soft limit, how often, and what it was.
static RAISED: Mutex<Option<(usize, Descriptors)>> = Mutex::new(None);

/// As long as one of these lives the soft limit is the hard one.
pub struct Raised(());

impl Raised {
    pub fn to_hard() -> Result<Raised, Errno> {
        let mut raised = RAISED.lock();
        match &mut *raised {
            Some((times, _)) => *times += 1,
            None => {
                let before = Descriptors::now()?;
                Descriptors(libc::rlimit { rlim_cur: before.0.rlim_max, ..before.0 }).set()?;
                *raised = Some((1, before));
            }
        }
        Ok(Raised(()))
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        let mut raised = RAISED.lock();
        let Some((times, before)) = &mut *raised else { return };
        *times -= 1;
        if *times == 0 {
            // Unless somebody else has set another one since.
            if let Ok(now) = Descriptors::now()
                && now.0.rlim_cur == now.0.rlim_max
            {
                let _ =
                    Descriptors(libc::rlimit { rlim_cur: before.0.rlim_cur.min(now.0.rlim_max), ..now.0 })
                        .set();
            }
            *raised = None;
        }
    }
}

/// What children are to have, where that is not what this process has.
pub fn of_children() -> Option<Descriptors> {
    RAISED.lock().as_ref().map(|(_, before)| *before)
}

/// How many descriptors may be open.
pub fn allowed() -> u64 {
    Descriptors::now().map_or(u64::MAX, |limit| limit.0.rlim_cur)
}

/// The greatest part of what may be open that is kept back: one of so many.
const KEPT_BACK: u64 = 4;

/// Whether one more descriptor leaves so many for what is more important, as far as these are not too many
/// themselves. `open` is any that is open.
pub fn has_room_beside(reserve: usize, open: RawFd) -> bool {
    let allowed = allowed();
    // The next one gets the lowest number that is free, and none from the limit on.
    let next = fd::duplicate(open).map_or(u64::MAX, |copy| copy.as_raw_fd() as u64);
    next.saturating_add((reserve as u64).min(allowed / KEPT_BACK)) < allowed
}

/// How many descriptors are open, and may be; none where /proc does not tell.
pub fn open_and_allowed() -> Option<(usize, u64)> {
    // One of them is for the look itself.
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    Some((open, Descriptors::now().ok()?.0.rlim_cur))
}
