//! Agents that workers have started: they stop theirs by themselves, and have the shutdown time-out for that.

use std::time::Duration;

use crate::moment::Moment;

/// How often it is looked whether they have.
const LOOK: Duration = Duration::from_millis(10);

/// The wait for them, before the end of an attempt.
#[derive(Default)]
pub struct Guests {
    /// When it is looked again.
    look: Option<Moment>,
    until: Option<Moment>,
}

impl Guests {
    /// Whether an attempt that is stopped since `begin` does not end yet. `are_there`: whether there are any, asked only
    /// where it matters.
    pub fn wait(
        &mut self,
        begin: Option<Moment>,
        (timeout, hurry): (Duration, bool),
        are_there: impl FnOnce() -> bool,
        now: Moment,
    ) -> bool {
        self.look = None;
        let Some(begin) = begin else { return false };
        let until = *self.until.get_or_insert(begin.saturating_add(timeout));
        if now >= until || hurry || !are_there() {
            self.until = None;
            return false;
        }
        // The end of what is no child is no event.
        self.look = Some(now + LOOK);
        true
    }

    /// When to ask again.
    pub fn deadline(&self) -> Option<Moment> {
        self.look
    }

    /// So much time counts for nobody.
    pub fn give_back(&mut self, lost: Duration) {
        self.until = self.until.map(|until| until + lost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn kill_an_attempt_waits_for_guests_no_longer_than_the_time_out() {
        let mut guests = Guests::default();
        let limits = (5 * SECOND, false);
        assert!(!guests.wait(None, limits, || true, SECOND), "nobody was told to stop");
        assert!(guests.wait(Some(SECOND), limits, || true, 2 * SECOND));
        assert_eq!(guests.deadline(), Some(2 * SECOND + LOOK));
        guests.give_back(SECOND);
        assert!(guests.wait(Some(SECOND), limits, || true, 6 * SECOND), "nobody ran for a second");
        assert!(!guests.wait(Some(SECOND), limits, || true, 7 * SECOND));
        assert_eq!(guests.deadline(), None);
        assert!(
            !guests.wait(Some(SECOND), (5 * SECOND, true), || true, 2 * SECOND),
            "somebody is in a hurry"
        );
        assert!(!guests.wait(Some(SECOND), limits, || false, 2 * SECOND), "they are gone");
    }
}
