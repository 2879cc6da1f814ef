//! Whether this process stood still: stopped by a signal or a debugger, frozen in its cgroup, on a machine that was
//! paused, or without a CPU. Its workers most likely stood still with it, so that time counts against nobody's limit.
//!
//! Nothing tells of it, and no clock runs only while a process may run. But who sleeps until a deadline and wakes up long
//! after it has been kept from running. What is over before the deadline cannot be seen that way, so a long sleep is
//! made in pieces: a standstill that takes more of a limit than one of them is found.

use std::collections::VecDeque;
use std::time::Duration;

use crate::moment::Moment;

/// Who wakes up later than this after its deadline was kept from running.
const SLACK: Duration = Duration::from_millis(500);
/// A sleep takes this part of what is left.
const PART: u32 = 8;
/// How many are remembered; whoever has slept through more is on an old limit.
const MOST: usize = 64;

/// How long to sleep at once when a deadline is so far away.
pub fn piece(left: Duration) -> Duration {
    left.min((left / PART).max(SLACK))
}

/// How long somebody stood still at most, who was awake at `before`, meant to be awake again by `due`, and is so `now`:
/// zero, or all of that time, as nobody knows at which moment of it it began.
pub fn lost(before: Moment, due: Moment, now: Moment) -> Duration {
    if now.saturating_sub(due) > SLACK { now.saturating_sub(before) } else { Duration::ZERO }
}

/// What a loop knows of its own past.
#[derive(Debug, Default)]
pub struct Standstill {
    awake: Moment,
    /// From when to when, one after the other.
    past: VecDeque<(Moment, Moment)>,
}

impl Standstill {
    /// What came before concerns nobody.
    pub fn begin(&mut self, now: Moment) {
        self.awake = now;
    }

    /// The loop is awake, by `due` at the latest if it ran; how long it stood still at most since it was so before.
    pub fn wake(&mut self, due: Option<Moment>, now: Moment) -> Duration {
        let before = std::mem::replace(&mut self.awake, now);
        let lost = due.map_or(Duration::ZERO, |due| lost(before, due.max(before), now));
        if !lost.is_zero() {
            if self.past.len() == MOST {
                self.past.pop_front();
            }
            self.past.push_back((before, now));
        }
        lost
    }

    /// The loop works, and nothing that it does takes long: the same.
    pub fn work(&mut self, now: Moment) -> Duration {
        self.wake(Some(self.awake), now)
    }

    /// From when on the time of what began at `since` would have run without a break.
    pub fn shift(&self, since: Moment) -> Moment {
        let lost = |&(from, to): &(Moment, Moment)| to.saturating_sub(from.max(since));
        since.saturating_add(self.past.iter().map(lost).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn time_21_who_wakes_up_late_stood_still() {
        let mut still = Standstill::default();
        still.begin(10 * SECOND);
        assert_eq!(still.wake(Some(12 * SECOND), 11 * SECOND), Duration::ZERO, "an event");
        assert_eq!(still.wake(Some(12 * SECOND), 12 * SECOND + SLACK), Duration::ZERO, "a busy machine");
        assert_eq!(still.shift(SECOND), SECOND);
        let begin = 12 * SECOND + SLACK;
        assert_eq!(still.wake(Some(14 * SECOND), 20 * SECOND), 20 * SECOND - begin);
        assert_eq!(still.wake(None, 90 * SECOND), Duration::ZERO, "it waited for nothing in particular");
        assert_eq!(still.work(90 * SECOND + SLACK), Duration::ZERO);
        assert_eq!(still.work(99 * SECOND), 9 * SECOND - SLACK);
        assert_eq!(still.wake(Some(SECOND), 99 * SECOND), Duration::ZERO, "it was due before it was awake");
    }

    #[test]
    fn time_21_each_gets_back_what_it_lost() {
        let mut still = Standstill::default();
        still.begin(10 * SECOND);
        still.wake(Some(11 * SECOND), 16 * SECOND);
        still.wake(Some(20 * SECOND), 20 * SECOND);
        still.wake(Some(21 * SECOND), 23 * SECOND);
        let shift = |since: u32| (still.shift(since * SECOND) - since * SECOND).as_secs();
        assert_eq!([5, 10, 12, 16, 20, 22, 23, 30].map(shift), [9, 9, 7, 3, 3, 1, 0, 0]);
        assert_eq!(still.shift(Duration::MAX), Duration::MAX);
        for second in 0..1000 {
            still.wake(Some((100 + 2 * second) * SECOND), (101 + 2 * second) * SECOND);
        }
        assert_eq!(still.past.len(), MOST);
    }

    #[test]
    fn time_21_a_long_sleep_is_made_in_few_pieces() {
        for (left, most) in [(0, 0), (1, 2), (7, 14), (60, 40), (600, 60), (86_400, 100)] {
            let (mut left, mut pieces) = (left * SECOND, 0);
            while !left.is_zero() {
                let piece = piece(left);
                assert!(!piece.is_zero() && piece <= left);
                left -= piece;
                pieces += 1;
            }
            assert!(pieces <= most, "{pieces} pieces");
        }
        assert_eq!(piece(Duration::MAX), Duration::MAX / PART);
    }

    proptest! {
        /// Whatever a loop sleeps through: of a limit that was armed at any time no less is left than the time in
        /// which the process ran leaves, but for what one piece and the slack may hide at each standstill.
        #[test]
        fn time_21_nobody_loses_much_and_nobody_gains_for_ever(
            armed in 0u64..20_000, limit in 1_000u64..20_000,
            naps in prop::collection::vec((0u64..4_000, 0u64..10_000), 0..6),
        ) {
            let ms = Duration::from_millis;
            let (armed, limit) = (ms(armed), ms(limit));
            let mut still = Standstill::default();
            let (mut now, mut stood, mut hidden) = (armed, Duration::ZERO, Duration::ZERO);
            still.begin(now);
            let mut naps = naps.into_iter();
            let mut next = naps.next();
            let mut after = now;
            loop {
                let end = still.shift(armed) + limit;
                if end <= now { break; }
                let left = piece(end - now);
                let due = now + left;
                let wakes = match next {
                    Some((wait, nap)) if after + ms(wait) < due => {
                        let begins = (after + ms(wait)).max(now);
                        let ends = begins + ms(nap);
                        stood += ms(nap);
                        hidden += left + SLACK;
                        next = naps.next();
                        after = ends;
                        due.max(ends)
                    }
                    _ => due,
                };
                now = wakes;
                still.wake(Some(due), now);
            }
            let ran = now - armed - stood;
            prop_assert!(ran + hidden >= limit, "{ran:?} of {limit:?}, {hidden:?} may be hidden");
            prop_assert!(ran <= limit + hidden, "{ran:?} of {limit:?}, {hidden:?} may be given for nothing");
        }
    }
}
