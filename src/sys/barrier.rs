//! A memory barrier for one side only: membarrier(2). Those who are many times as often there as the others pay
//! nothing; who needs to know that all have passed one has the kernel see to it.

const QUERY: i32 = 0;
const GLOBAL_EXPEDITED: i32 = 1 << 1;
const REGISTER_GLOBAL_EXPEDITED: i32 = 1 << 2;

fn membarrier(command: i32) -> libc::c_long {
    // SAFETY: plain numbers.
    unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) }
}

/// Whether `for_all` can be used: Linux 4.16, and no filter of system calls that forbids it.
pub fn is_available() -> bool {
    membarrier(QUERY) & libc::c_long::from(GLOBAL_EXPEDITED) > 0
}

/// From now on a `for_all` of another process is one for this process too; false where that cannot be. To be
/// called again after a fork.
pub fn take_part() -> bool {
    membarrier(REGISTER_GLOBAL_EXPEDITED) == 0
}

/// Every thread of every process that takes part has passed a full barrier between the begin of this call and
/// its end, as this thread has; false where that could not be done.
pub fn for_all() -> bool {
    membarrier(GLOBAL_EXPEDITED) == 0
}
