//! When a rank has been silent for too long: its timers and its heartbeats.
//!
//! The kernel tells nobody of a store. So the agent looks once at the earliest moment at which something could
//! have expired, and finds then when it has to look next. A worker that arms a timer before that moment calls
//! the agent; one that arms it for later, as each step of a loop does, has nothing to do but to store it.

use std::time::Duration;

use super::Now;

/// What a worker says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Said {
    /// It knows of the page.
    pub opened: bool,
    pub step: Option<u64>,
    pub progress: (u64, u64),
    pub heartbeat: Option<Now>,
    pub paused: bool,
}

/// A timer that is armed.
#[derive(Clone, Debug, PartialEq)]
pub struct Timer {
    pub scope: Vec<u8>,
    pub expires: Now,
    pub lasts: Duration,
}

impl Timer {
    /// The same if it begins anew at that moment, unless it was armed later.
    pub fn anew(self, from: Now) -> Timer {
        let armed_before = self.expires.saturating_sub(self.lasts) < from;
        let expires =
            if armed_before { self.expires.max(from.saturating_add(self.lasts)) } else { self.expires };
        Timer { expires, ..self }
    }
}

/// What ran out.
#[derive(Clone, Debug, PartialEq)]
pub enum Expired {
    /// A timer, and how long ago it was armed.
    Timer { scope: String, lasts: Duration, after: Duration },
    /// No heartbeat and no step for so long.
    Heartbeat { limit: Duration, after: Duration },
}

impl std::fmt::Display for Expired {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Expired::Timer { scope, lasts, after } => {
                let (lasts, after) = (lasts.as_secs_f64(), after.as_secs_f64());
                write!(out, "its timer {scope:?} of {lasts:.3} s expired, {after:.3} s after it was set")
            }
            Expired::Heartbeat { limit, after } => {
                let (limit, after) = (limit.as_secs_f64(), after.as_secs_f64());
                write!(out, "no heartbeat and no step for {after:.3} s, {limit:.3} s are allowed")
            }
        }
    }
}

/// What the agent remembers of a rank from one look to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Beat {
    step: Option<u64>,
    /// When it was first seen to be at this step, or had an excuse.
    since: Now,
}

impl Beat {
    /// Silence before this moment is none.
    pub fn excuse(&mut self, now: Now) {
        self.since = self.since.max(now);
    }
}

/// The earliest of two moments, if any.
pub fn earlier(one: Option<Now>, other: Option<Now>) -> Option<Now> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// What of this rank has expired, else when to look again. While it keeps a pause, time stands still for it.
pub fn look(
    said: &Said,
    timers: impl Iterator<Item = Timer>,
    beat: &mut Beat,
    heartbeat: Option<Duration>,
    now: Now,
) -> Result<Option<Now>, Expired> {
    if said.paused {
        beat.since = now;
        return Ok(heartbeat.map(|limit| now + limit));
    }
    let first = timers.min_by_key(|timer| timer.expires);
    if let Some(Timer { scope, expires, lasts }) = &first
        && *expires <= now
    {
        return Err(Expired::Timer {
            scope: String::from_utf8_lossy(scope).into_owned(),
            lasts: *lasts,
            after: now.saturating_sub(expires.saturating_sub(*lasts)),
        });
    }
    let next = first.map(|timer| timer.expires);
    let Some(limit) = heartbeat else { return Ok(next) };
    if said.step != beat.step {
        *beat = Beat { step: said.step, since: now };
    }
    // One that never said anything does not know how, or is still at its preparations.
    if said.step.is_none() && said.heartbeat.is_none() {
        return Ok(earlier(next, Some(now + limit)));
    }
    let last = said.heartbeat.unwrap_or_default().min(now).max(beat.since);
    match now.saturating_sub(last) {
        after if after >= limit => Err(Expired::Heartbeat { limit, after }),
        _ => Ok(earlier(next, Some(last + limit))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn timer(scope: &str, expires: u32, lasts: u32) -> Timer {
        Timer { scope: scope.into(), expires: expires * SECOND, lasts: lasts * SECOND }
    }

    fn timers(timers: &[Timer], now: u32) -> Result<Option<Now>, Expired> {
        look(&Said::default(), timers.iter().cloned(), &mut Beat::default(), None, now * SECOND)
    }

    #[test]
    fn time_01_the_earliest_timer_counts() {
        assert_eq!(timers(&[], 5), Ok(None));
        assert_eq!(timers(&[timer("b", 9, 1), timer("a", 7, 2)], 5), Ok(Some(7 * SECOND)));
        let expired = timers(&[timer("b", 9, 1), timer("a", 7, 2)], 9).unwrap_err();
        assert_eq!(expired, Expired::Timer { scope: "a".into(), lasts: 2 * SECOND, after: 4 * SECOND });
        assert_eq!(expired.to_string(), "its timer \"a\" of 2.000 s expired, 4.000 s after it was set");
    }

    #[test]
    fn time_heartbeats_and_steps_are_signs_of_life() {
        let mut beat = Beat::default();
        let mut at = |step, heartbeat: Option<u32>, now: u32| {
            let said = Said { step, heartbeat: heartbeat.map(|at| at * SECOND), ..Said::default() };
            look(&said, std::iter::empty(), &mut beat, Some(3 * SECOND), now * SECOND)
        };
        assert_eq!(at(None, None, 10), Ok(Some(13 * SECOND)), "it has not begun");
        assert_eq!(at(None, Some(12), 13), Ok(Some(15 * SECOND)));
        assert_eq!(at(Some(0), Some(12), 15), Ok(Some(18 * SECOND)), "a step instead");
        assert_eq!(at(Some(1), Some(12), 18), Ok(Some(21 * SECOND)));
        assert_eq!(at(Some(1), Some(99), 20), Ok(Some(23 * SECOND)), "a moment that is to come is now");
        let expired = Expired::Heartbeat { limit: 3 * SECOND, after: 3 * SECOND };
        assert_eq!(at(Some(1), Some(12), 21), Err(expired));
    }

    #[test]
    fn time_begins_anew_after_a_debugger() {
        assert_eq!(timer("a", 5, 2).anew(Duration::ZERO), timer("a", 5, 2));
        assert_eq!(timer("a", 5, 2).anew(100 * SECOND), timer("a", 102, 2));
        assert_eq!(timer("a", 120, 2).anew(100 * SECOND), timer("a", 120, 2), "armed after it");
        let mut beat = Beat::default();
        let said = Said { step: Some(1), ..Said::default() };
        let mut at = |now: u32, excuse: u32| {
            beat.excuse(excuse * SECOND);
            look(&said, std::iter::empty(), &mut beat, Some(3 * SECOND), now * SECOND)
        };
        assert_eq!(at(1, 0), Ok(Some(4 * SECOND)));
        assert_eq!(at(100, 100), Ok(Some(103 * SECOND)));
        assert!(at(103, 0).is_err());
    }

    #[test]
    fn time_stands_still_in_a_pause() {
        let said = Said { step: Some(1), paused: true, ..Said::default() };
        let mut beat = Beat::default();
        let late = [timer("a", 1, 1)];
        let mut at = |said: &Said, timers: &[Timer], now: u32| {
            look(said, timers.iter().cloned(), &mut beat, Some(3 * SECOND), now * SECOND)
        };
        assert_eq!(at(&said, &late, 100), Ok(Some(103 * SECOND)));
        assert_eq!(at(&Said { paused: false, ..said }, &[], 102), Ok(Some(105 * SECOND)));
    }
}
