//! How long each worker has been in uninterruptible sleep (state D). A kernel that does not answer a worker, be
//! it for a GPU, a network card or a disk, cannot be told to let go of it.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::moment::Moment;

/// One uninterrupted stay, told from the next by how often the worker had gone to sleep before.
#[derive(Clone, Copy, PartialEq)]
struct Stay {
    sleeps: u64,
    since: Moment,
}

/// The stays that were seen so far.
#[derive(Default)]
pub struct Stays(BTreeMap<usize, Stay>);

impl Stays {
    /// A look at one worker: `sleeps` if it is in that state now. How long it has been, as far as was seen.
    pub fn look(&mut self, worker: usize, sleeps: Option<u64>, now: Moment) -> Duration {
        let Some(sleeps) = sleeps else {
            self.0.remove(&worker);
            return Duration::ZERO;
        };
        let stay = self.0.entry(worker).or_insert(Stay { sleeps, since: now });
        if stay.sleeps != sleeps {
            *stay = Stay { sleeps, since: now };
        }
        now.saturating_sub(stay.since)
    }

    /// So much of the time up to now counts for nobody.
    pub fn give_back(&mut self, lost: Duration) {
        self.0.values_mut().for_each(|stay| stay.since = stay.since.saturating_add(lost));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn time_13_a_stay_is_counted_from_the_first_look() {
        let mut stays = Stays::default();
        assert_eq!(stays.look(3, Some(7), 10 * SECOND), Duration::ZERO);
        assert_eq!(stays.look(0, Some(7), 11 * SECOND), Duration::ZERO);
        assert_eq!(stays.look(3, Some(7), 14 * SECOND), 4 * SECOND);
    }

    #[test]
    fn time_21_what_all_stood_still_does_not_count() {
        let mut stays = Stays::default();
        stays.look(0, Some(7), 10 * SECOND);
        stays.give_back(5 * SECOND);
        assert_eq!(stays.look(0, Some(7), 16 * SECOND), SECOND);
    }

    #[test]
    fn time_14_a_worker_that_was_awake_in_between_begins_anew() {
        let mut stays = Stays::default();
        stays.look(0, Some(7), 10 * SECOND);
        assert_eq!(stays.look(0, None, 11 * SECOND), Duration::ZERO);
        assert_eq!(stays.look(0, Some(8), 12 * SECOND), Duration::ZERO);
        // Awake between two looks that both found it asleep.
        assert_eq!(stays.look(0, Some(9), 13 * SECOND), Duration::ZERO);
        assert_eq!(stays.look(0, Some(9), 14 * SECOND), SECOND);
    }
}
