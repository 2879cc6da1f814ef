//! When a rank has been silent for too long: its timers, its heartbeats, and the section that it is in.
//!
//! The kernel tells nobody of a store. So the agent looks once at the earliest moment at which something could
//! have expired, and finds then when it has to look next. A worker that arms a timer before that moment calls
//! the agent; one that arms it for later, as each step of a loop does, has nothing to do but to store it.

use std::time::Duration;

use super::section::{Limit, Name, Whereabouts};
use crate::moment::Moment;
use crate::standstill::Standstill;

/// What a worker says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Said {
    /// It knows of the page.
    pub opened: bool,
    /// Since when, if it says so.
    pub began: Option<Moment>,
    pub step: Option<u64>,
    pub progress: (u64, u64),
    pub heartbeat: Option<Moment>,
    pub paused: bool,
    /// None if it says nothing of sections.
    pub place: Option<Whereabouts>,
}

impl Said {
    /// Whether it gives signs of life that are missed when they stay away.
    fn beats(&self) -> bool {
        self.step.is_some() || self.heartbeat.is_some()
    }
}

/// How long a rank may be silent.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Silence {
    /// Before its first step, heartbeat or section.
    pub first: Option<Duration>,
    /// After a step or a heartbeat.
    pub further: Option<Duration>,
}

/// A timer that is armed.
#[derive(Clone, Debug, PartialEq)]
pub struct Timer {
    pub scope: Vec<u8>,
    pub expires: Moment,
    pub lasts: Duration,
}

impl Timer {
    /// The same if it begins anew at that moment, unless it was armed later.
    pub fn anew(self, from: Moment) -> Timer {
        let armed_before = self.expires.saturating_sub(self.lasts) < from;
        let expires =
            if armed_before { self.expires.max(from.saturating_add(self.lasts)) } else { self.expires };
        Timer { expires, ..self }
    }

    /// The same with the time back in which all stood still.
    fn given_back(self, still: &Standstill) -> Timer {
        let armed = self.expires.saturating_sub(self.lasts);
        Timer { expires: still.shift(armed).saturating_add(self.expires.saturating_sub(armed)), ..self }
    }
}

/// A section that a worker is in, or the time outside of all, if there is a limit to that.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Stay {
    pub name: Name,
    pub since: Moment,
    pub limit: Limit,
}

/// What ran out.
#[derive(Clone, Debug, PartialEq)]
pub enum Expired {
    /// A timer, and how long ago it was armed.
    Timer { scope: String, lasts: Duration, after: Duration },
    /// No heartbeat and no step for so long.
    Heartbeat { limit: Duration, after: Duration },
    /// It never said anything.
    First { limit: Duration, after: Duration },
    /// It is still in the same section, or in none.
    Section { name: Name, limit: Limit, after: Duration },
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
            Expired::First { limit, after } => {
                let (limit, after) = (limit.as_secs_f64(), after.as_secs_f64());
                let what = "since it began, and no heartbeat, step or section yet";
                write!(out, "{after:.3} s {what}, {limit:.3} s are allowed")
            }
            Expired::Section { name, limit, after } => {
                let (lasts, after) = (limit.lasts.as_secs_f64(), after.as_secs_f64());
                write!(out, "it has been {name} for {after:.3} s, where {lasts:.3} s are the limit")?;
                match limit.learnt_from {
                    Some(count) => write!(out, ", learnt from {count}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// What the agent remembers of a rank from one look to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Beat {
    step: Option<u64>,
    /// When it was first seen to be at this step, or had an excuse.
    since: Moment,
    /// What expired and was told, which is told once: timers up to this time, the silence and the stay that
    /// began then.
    told_timer: Option<Moment>,
    told_silence: Option<Moment>,
    told_stay: Option<Moment>,
}

impl Beat {
    /// Silence before this moment is none.
    pub fn excuse(&mut self, now: Moment) {
        self.since = self.since.max(now);
    }
}

/// The earliest of two moments, if any.
pub fn earlier(one: Option<Moment>, other: Option<Moment>) -> Option<Moment> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Looks at the limits of one rank. `Ok` is when to look again, if at all; `Err` is the limit that has expired first, each
/// of which is told once. The time of a pause does not count, nor does that of a standstill.
pub fn look(
    said: &Said,
    timers: impl Iterator<Item = Timer>,
    stay: Option<Stay>,
    beat: &mut Beat,
    limits: Silence,
    still: &Standstill,
    now: Moment,
) -> Result<Option<Moment>, Expired> {
    if said.paused {
        beat.since = now;
        return Ok(earlier(limits.first, limits.further).map(|limit| now.saturating_add(limit)));
    }
    let timer = timers
        .map(|timer| timer.given_back(still))
        .filter(|timer| beat.told_timer.is_none_or(|told| timer.expires > told))
        .min_by_key(|timer| timer.expires);
    let stay = stay.filter(|stay| beat.told_stay != Some(stay.since));
    if said.step != beat.step {
        (beat.step, beat.since) = (said.step, now);
    }
    let last = said.heartbeat.or(said.began).unwrap_or_default().min(now).max(beat.since);
    // One that never said anything does not know how, or is still at its preparations.
    let is_first = !said.beats() && said.place.is_none();
    let limit = if is_first { limits.first } else { limits.further.filter(|_| said.beats()) };
    let silence = limit.filter(|_| beat.told_silence != Some(last));
    let ran_since = |since: Moment| now.saturating_sub(still.shift(since));
    let timer_ends = timer.as_ref().map(|timer| timer.expires);
    let stay_ends = stay.map(|stay| still.shift(stay.since).saturating_add(stay.limit.lasts));
    let silence_ends = silence.map(|limit| still.shift(last).saturating_add(limit));
    let first = earlier(earlier(timer_ends, stay_ends), silence_ends);
    if first.is_none_or(|first| first > now) {
        let looks_for_words = limits.further.filter(|_| silence.is_none() || is_first);
        return Ok(earlier(first, looks_for_words.map(|limit| now.saturating_add(limit))));
    }
    Err(match (timer, stay, silence) {
        (Some(Timer { scope, expires, lasts }), _, _) if first == Some(expires) => {
            beat.told_timer = first;
            Expired::Timer {
                scope: String::from_utf8_lossy(&scope).into_owned(),
                lasts,
                after: now.saturating_sub(expires.saturating_sub(lasts)),
            }
        }
        (_, Some(Stay { name, since, limit }), _) if first == stay_ends => {
            beat.told_stay = Some(since);
            Expired::Section { name, limit, after: ran_since(since) }
        }
        (_, _, limit) => {
            beat.told_silence = Some(last);
            let (limit, after) = (limit.unwrap_or_default(), ran_since(last));
            if is_first { Expired::First { limit, after } } else { Expired::Heartbeat { limit, after } }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn timer(scope: &str, expires: u32, lasts: u32) -> Timer {
        Timer { scope: scope.into(), expires: expires * SECOND, lasts: lasts * SECOND }
    }

    fn beats(limit: u32) -> Silence {
        Silence { first: None, further: Some(limit * SECOND) }
    }

    fn timers(timers: &[Timer], now: u32) -> Result<Option<Moment>, Expired> {
        let (limits, still) = (Silence::default(), Standstill::default());
        look(
            &Said::default(),
            timers.iter().cloned(),
            None,
            &mut Beat::default(),
            limits,
            &still,
            now * SECOND,
        )
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
            look(&said, std::iter::empty(), None, &mut beat, beats(3), &Standstill::default(), now * SECOND)
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
            look(&said, std::iter::empty(), None, &mut beat, beats(3), &Standstill::default(), now * SECOND)
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
            look(
                said,
                timers.iter().cloned(),
                None,
                &mut beat,
                beats(3),
                &Standstill::default(),
                now * SECOND,
            )
        };
        assert_eq!(at(&said, &late, 100), Ok(Some(103 * SECOND)));
        assert_eq!(at(&Said { paused: false, ..said }, &[], 102), Ok(Some(105 * SECOND)));
    }

    #[test]
    fn time_09_what_is_only_told_is_told_once_the_earliest_first() {
        let mut beat = Beat::default();
        let mut at = |timers: &[Timer], stay: Option<Stay>, step, now: u32| {
            let said = Said { step, ..Said::default() };
            look(
                &said,
                timers.iter().cloned(),
                stay,
                &mut beat,
                beats(9),
                &Standstill::default(),
                now * SECOND,
            )
            .map(|next| next.map(|next| next.as_secs()))
            .map_err(|expired| expired.to_string())
        };
        let armed = [timer("b", 5, 1), timer("a", 4, 1), timer("c", 30, 1)];
        let limit = Limit { lasts: 4 * SECOND, learnt_from: Some(7) };
        let stay = Stay { name: Name::new(b"step"), since: 2 * SECOND, limit };
        let first = at(&armed, Some(stay), Some(1), 8).unwrap_err();
        assert!(first.contains("\"a\""), "{first}");
        assert!(at(&armed, Some(stay), Some(1), 8).unwrap_err().contains("\"b\""));
        let third = at(&armed, Some(stay), Some(1), 8).unwrap_err();
        assert_eq!(
            third,
            "it has been in section \"step\" for 6.000 s, where 4.000 s are the limit, learnt from 7"
        );
        assert_eq!(at(&armed, Some(stay), Some(1), 8), Ok(Some(17)));
        assert!(at(&armed, Some(stay), Some(1), 17).unwrap_err().contains("no heartbeat"));
        assert_eq!(at(&armed, Some(stay), Some(1), 20), Ok(Some(29)), "silent still, but that was told");
        assert_eq!(at(&armed, Some(stay), Some(2), 21), Ok(Some(30)), "it speaks again");
        let later = Stay { since: 20 * SECOND, ..stay };
        assert!(at(&[], Some(later), Some(2), 25).unwrap_err().contains("5.000 s"), "another stay");
    }
    #[test]
    fn time_22_a_first_word_may_be_waited_for() {
        let both = Silence { first: Some(9 * SECOND), further: Some(3 * SECOND) };
        let first = |after| Err(Expired::First { limit: 9 * SECOND, after: after * SECOND });
        let mut beat = Beat::default();
        beat.excuse(10 * SECOND);
        let mut at = |said: &Said, limits, now: u32| {
            look(said, std::iter::empty(), None, &mut beat, limits, &Standstill::default(), now * SECOND)
        };
        let mute = Said::default();
        let only = Silence { further: None, ..both };
        assert_eq!(at(&mute, only, 11), Ok(Some(19 * SECOND)), "from its birth on");
        assert_eq!(at(&mute, both, 11), Ok(Some(14 * SECOND)), "it may say a word meanwhile");
        assert_eq!(at(&mute, both, 19), first(9));
        assert_eq!(at(&mute, both, 20), Ok(Some(23 * SECOND)), "that was told");
        let opened = Said { opened: true, began: Some(15 * SECOND), ..mute };
        assert_eq!(at(&opened, only, 20), Ok(Some(24 * SECOND)), "another process of the worker's");
        let text = at(&opened, only, 24).unwrap_err().to_string();
        assert!(text.starts_with("9.000 s since it began, and no heartbeat"), "{text}");
        let in_section = Said { place: Some(Whereabouts { section: None, since: SECOND }), ..opened };
        assert_eq!(at(&in_section, only, 60), Ok(None), "a word of sections is one");
        assert_eq!(at(&Said { heartbeat: Some(40 * SECOND), ..opened }, only, 60), Ok(None));
        let steps = Said { step: Some(1), ..opened };
        assert_eq!(at(&steps, both, 60), Ok(Some(63 * SECOND)));
        let mut far = Beat::default();
        far.excuse(SECOND);
        let ahead = Said { began: Some(900 * SECOND), ..opened };
        let at = look(&ahead, std::iter::empty(), None, &mut far, only, &Standstill::default(), 2 * SECOND);
        assert_eq!(at, Ok(Some(11 * SECOND)), "a moment that is to come is now");
    }

    #[test]
    fn time_21_what_all_stood_still_does_not_count() {
        let mut still = Standstill::default();
        still.begin(10 * SECOND);
        still.wake(Some(11 * SECOND), 70 * SECOND);
        let mut beat = Beat::default();
        beat.excuse(5 * SECOND);
        let mut at = |said: &Said, timers: &[Timer], stay, now: u32| {
            let limits = Silence { first: Some(12 * SECOND), further: Some(3 * SECOND) };
            look(said, timers.iter().cloned(), stay, &mut beat, limits, &still, now * SECOND)
        };
        let only_first = |at: Result<Option<Moment>, Expired>| at.unwrap().unwrap().as_secs();
        assert_eq!(
            only_first(at(&Said::default(), &[], None, 70)),
            73,
            "7 s are left, it may speak meanwhile"
        );
        assert_eq!(at(&Said::default(), &[], None, 77).unwrap_err().to_string()[..8], *"12.000 s");
        let said = Said { heartbeat: Some(9 * SECOND), ..Said::default() };
        assert_eq!(at(&said, &[], None, 71), Ok(Some(72 * SECOND)));
        assert_eq!(at(&said, &[timer("a", 12, 4)], None, 71), Ok(Some(72 * SECOND)));
        assert_eq!(
            at(&said, &[timer("a", 12, 3)], None, 71),
            Ok(Some(72 * SECOND)),
            "armed at 9, and 2 s are left at 70"
        );
        assert!(at(&said, &[timer("a", 11, 2)], None, 71).unwrap_err().to_string().contains("2.000 s after"));
        let limit = Limit { lasts: 5 * SECOND, learnt_from: None };
        let stay = Stay { name: Name::new(b"step"), since: 6 * SECOND, limit };
        let expired = at(&said, &[], Some(stay), 71).unwrap_err().to_string();
        assert!(expired.contains("for 5.000 s"), "{expired}");
    }
}
