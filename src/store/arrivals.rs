//! How many workers have come to a store, for a thread of its server's process that waits for them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Where clients count themselves: PyTorch's that know their world size do so as they connect. It is the one key
/// that does not begin with a slash.
pub const KEY: &[u8] = b"init/";

/// The server looks at once, unless it is gone.
const FIRST_LOOK: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct Arrivals {
    awaited: AtomicBool,
    /// None until the server has looked.
    count: Mutex<Option<i64>>,
    changed: Condvar,
}

impl Arrivals {
    /// Whether anybody wants to know.
    pub fn are_awaited(&self) -> bool {
        self.awaited.load(Ordering::Acquire)
    }

    /// How many there are now.
    pub fn tell(&self, now: i64) {
        let mut count = self.count.lock();
        if count.replace(now) != Some(now) {
            self.changed.notify_all();
        }
    }

    /// Waits until there are so many, or the time is over; how many there are then. `ask` has the server look.
    pub fn wait(&self, wanted: i64, limit: Option<Duration>, ask: impl FnOnce()) -> i64 {
        self.awaited.store(true, Ordering::Release);
        ask();
        let mut count = self.count.lock();
        self.changed.wait_while_for(&mut count, |count| count.is_none(), FIRST_LOOK);
        let too_few = |count: &mut Option<i64>| count.is_none_or(|count| count < wanted);
        match limit {
            Some(limit) => drop(self.changed.wait_while_for(&mut count, too_few, limit)),
            None => self.changed.wait_while(&mut count, too_few),
        }
        count.unwrap_or(0)
    }
}
