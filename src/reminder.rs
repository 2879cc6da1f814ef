//! When to say, once more, that something is still waited for: after some seconds, then ever more rarely. Pure.

use std::time::Duration;

use crate::moment::Moment;

/// What comes sooner is worth no word.
pub const FIRST: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Reminder {
    since: Moment,
    /// After how much time something is to be said next: twice as much each time.
    next: Duration,
}

impl Reminder {
    pub fn since(since: Moment) -> Reminder {
        Reminder { since, next: FIRST }
    }

    /// When to `look`.
    pub fn due(&self) -> Moment {
        self.since.saturating_add(self.next)
    }

    /// How long it takes by now, if that is to be said.
    pub fn look(&mut self, now: Moment) -> Option<Duration> {
        let waited = now.saturating_sub(self.since);
        if waited < self.next {
            return None;
        }
        // What was missed while all stood still is not made up for.
        while self.next <= waited {
            self.next = self.next.saturating_mul(2);
        }
        Some(waited)
    }

    /// It is over: how long it took, if anybody was told that it takes its time.
    pub fn over(&self, now: Moment) -> Option<Duration> {
        (self.next > FIRST).then(|| now.saturating_sub(self.since))
    }
}

/// As people say it: whole seconds, of which there is at least one.
pub fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64().round().max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Moment {
        Duration::from_secs(100 + seconds)
    }

    #[test]
    fn a_reminder_comes_ever_more_rarely() {
        let mut reminder = Reminder::since(at(0));
        let said: Vec<u64> = (0..200).filter(|&second| reminder.look(at(second)).is_some()).collect();
        assert_eq!(said, [5, 10, 20, 40, 80, 160]);
        assert_eq!(reminder.due(), at(320));
    }

    #[test]
    fn what_was_missed_is_said_once() {
        let mut reminder = Reminder::since(at(0));
        assert_eq!(reminder.look(at(61)), Some(Duration::from_secs(61)));
        assert_eq!(reminder.look(at(62)), None);
        assert_eq!(reminder.due(), at(80));
    }

    #[test]
    fn only_who_was_told_of_a_wait_is_told_of_its_end() {
        let mut reminder = Reminder::since(at(0));
        assert_eq!(reminder.look(at(4)), None);
        assert_eq!(reminder.over(at(4)), None);
        assert!(reminder.look(at(5)).is_some());
        assert_eq!(reminder.over(at(7)), Some(Duration::from_secs(7)));
    }

    #[test]
    fn nothing_overflows() {
        let mut reminder = Reminder::since(Moment::ZERO);
        assert!(reminder.look(Duration::MAX / 2).is_some());
        assert_eq!(seconds(Duration::from_millis(200)), "1 s");
        assert_eq!(seconds(Duration::from_millis(12_400)), "12 s");
    }
}
