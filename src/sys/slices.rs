//! The time slices of the agent's thread (Linux 6.12; before, nothing of this has an effect).
//!
//! A thread that only ever works for a moment asks for short slices: it is then let in at once, beside
//! workers that compute, for a failure, a restart or the next spawn. Its share of the CPU stays the same.
//! A child keeps them up to its exec, which the agent waits for, and then has what the host had.

/// `struct sched_attr` of linux/sched/types.h, its first version.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// What the host's thread had before.
#[derive(Clone, Copy)]
pub struct Slices(SchedAttr);

impl Slices {
    /// Asks for short slices for this thread. None where its policy has none.
    pub fn shorten() -> Option<Slices> {
        const SHORTEST_NS: u64 = 100_000;
        let size = size_of::<SchedAttr>() as u32;
        let mut before = SchedAttr { size, ..SchedAttr::default() };
        // SAFETY: the buffer has the size that is given; 0 is this thread.
        let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut before, size, 0) };
        if got != 0 || before.policy != libc::SCHED_OTHER as u32 {
            return None;
        }
        set(&SchedAttr { runtime: SHORTEST_NS, ..before }).then_some(Slices(before))
    }

    /// In a child, before it becomes what it is to be. Async-signal-safe.
    pub fn restore(&self) {
        set(&self.0);
    }
}

fn set(attr: &SchedAttr) -> bool {
    // SAFETY: the struct says its own size; 0 is this thread.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(attr), 0) == 0 }
}
