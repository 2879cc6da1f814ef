//! What wakes the agent's loop: descriptors in one epoll, each with what it stands for.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::sys::fd::above_stdio;
use crate::sys::process::milliseconds;

/// How many events are taken at once.
const EVENTS: usize = 64;

/// What a descriptor that became readable stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Requests of the host, of signals, of other threads.
    Inbox,
    Watcher,
    /// The second watcher.
    Keeper,
    ForkServer,
    /// Clients of file timers.
    Timers,
    /// A search for where a stuck worker is.
    Search,
    /// The first client of the workers' store.
    Store,
    /// The worker of this local rank may have ended.
    Worker(usize),
}

impl Wake {
    /// Those that are no workers. Their tokens are counted down from the greatest number.
    const OTHERS: [Wake; 7] =
        [Wake::Inbox, Wake::Watcher, Wake::ForkServer, Wake::Timers, Wake::Search, Wake::Store, Wake::Keeper];

    fn token(self) -> u64 {
        match self {
            Wake::Inbox => u64::MAX,
            Wake::Watcher => u64::MAX - 1,
            Wake::ForkServer => u64::MAX - 2,
            Wake::Timers => u64::MAX - 3,
            Wake::Search => u64::MAX - 4,
            Wake::Store => u64::MAX - 5,
            Wake::Keeper => u64::MAX - 6,
            Wake::Worker(index) => index as u64,
        }
    }

    fn of(token: u64) -> Wake {
        let other = usize::try_from(u64::MAX - token).ok().and_then(|index| Wake::OTHERS.get(index));
        other.copied().unwrap_or(Wake::Worker(token as usize))
    }
}

/// The epoll of a run.
pub struct Poll(Epoll);

impl Poll {
    pub fn new() -> Result<Poll, Errno> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Poll(Epoll(above_stdio(epoll.0)?)))
    }

    pub fn add(&self, fd: impl AsFd, wake: Wake) -> Result<(), Errno> {
        self.0.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, wake.token()))
    }

    /// Before it is closed: a sibling inside exec may hold a copy, and epoll would report it for ever.
    pub fn delete(&self, fd: impl AsFd) {
        let _ = self.0.delete(fd);
    }

    /// Waits for events, no longer than the limit if there is one.
    pub fn wait(&self, limit: Option<Duration>) -> impl Iterator<Item = Wake> + use<> {
        let timeout = limit.map_or(EpollTimeout::NONE, |limit| {
            EpollTimeout::try_from(milliseconds(limit)).unwrap_or(EpollTimeout::ZERO)
        });
        let mut events = [EpollEvent::empty(); EVENTS];
        // Signals are blocked in this thread, so the only error is one that a retry ends.
        let count = self.0.wait(&mut events, timeout).unwrap_or(0);
        events.into_iter().take(count).map(|event| Wake::of(event.data()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_stands_for_one_thing() {
        for wake in Wake::OTHERS.into_iter().chain([0, 1, 4095].map(Wake::Worker)) {
            assert_eq!(Wake::of(wake.token()), wake);
        }
    }
}
