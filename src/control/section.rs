//! Sections of a worker's work (its set-up, a step, a checkpoint): how long each may take, and how that is learnt
//! from those that came to their end.
//!
//! The first time that a process is in a section is apart from all others: that step compiles what the others
//! run, and set-up comes no second time. So the first is measured by the firsts of other ranks and attempts.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::moment::Moment;

/// How many sections a worker may name, and how long the name of each may be, in bytes.
pub const SECTIONS_MOST: usize = 8;
pub const NAME_MOST: usize = 40;
pub const NAME_WORDS: usize = NAME_MOST / 8;
/// How many of a kind have to be seen before a limit is made of them.
pub const ENOUGH: u64 = 5;
/// No limit that is learnt is longer: a worker may say whatever it likes.
const LONGEST: Duration = Duration::from_secs(1_000_000_000);

/// The name of a section, as much as there is room for. The empty one is what is outside of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name([u8; NAME_MOST]);

impl Default for Name {
    fn default() -> Name {
        Name([0; NAME_MOST])
    }
}

impl Name {
    pub fn new(bytes: &[u8]) -> Name {
        let mut name = Name::default();
        let length = bytes.len().min(NAME_MOST);
        name.0[..length].copy_from_slice(&bytes[..length]);
        name
    }

    pub fn of_words(words: [u64; NAME_WORDS]) -> Name {
        let mut name = Name::default();
        for (bytes, word) in name.0.chunks_exact_mut(8).zip(words) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        name
    }

    pub fn word(&self, index: usize) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[8 * index..8 * index + 8]);
        u64::from_le_bytes(bytes)
    }

    pub fn bytes(&self) -> &[u8] {
        let end = self.0.iter().position(|&byte| byte == 0).unwrap_or(NAME_MOST);
        &self.0[..end]
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.bytes() {
            b"" => write!(out, "outside of any section"),
            bytes => write!(out, "in section {:?}", String::from_utf8_lossy(bytes)),
        }
    }
}

/// Where a worker is, and since when: one word, so that one store says both.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Whereabouts {
    /// Which of its sections; none outside of all.
    pub section: Option<usize>,
    pub since: Moment,
}

impl Whereabouts {
    /// Never 0: that is a worker that has said nothing of sections. Microseconds, as they last 2,000 years.
    pub fn word(self) -> u64 {
        let section = self.section.map_or(0, |section| section as u64 + 1);
        ((self.since.as_micros() as u64).max(1) << 8) | section
    }

    pub fn of_word(word: u64) -> Option<Whereabouts> {
        let section = (word & 0xff).checked_sub(1).map(|section| section as usize);
        (word != 0).then(|| Whereabouts { section, since: Duration::from_micros(word >> 8) })
    }
}

/// What was seen of sections that came to their end.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    pub longest: Duration,
    pub count: u64,
}

impl Seen {
    fn add(&mut self, other: Seen) {
        self.longest = self.longest.max(other.longest);
        self.count = self.count.saturating_add(other.count);
    }
}

/// What a process has seen of one of its sections.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Course {
    pub name: Name,
    pub first: Seen,
    pub further: Seen,
}

/// What the processes of all ranks have seen, in all attempts up to now.
#[derive(Clone, Debug, Default)]
pub struct LearntLimits(BTreeMap<Name, Course>);

impl LearntLimits {
    pub fn add(&mut self, course: &Course) {
        let all = self.0.entry(course.name).or_default();
        all.first.add(course.first);
        all.further.add(course.further);
    }
}

/// How long a section may last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    pub lasts: Duration,
    /// From this many.
    pub learnt_from: Option<u64>,
}

/// What the spec says about sections.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// By name, and by the empty one outside of all; zero is no limit, whatever was learnt.
    pub given: BTreeMap<Name, Duration>,
    /// What is learnt: so many times the longest, and never less than so long.
    pub learning: Option<(f64, Duration)>,
}

impl Limits {
    pub fn are_wanted(&self) -> bool {
        !self.given.is_empty() || self.learning.is_some()
    }

    /// How long the section that a worker is in may last, for the first time in its process or once more.
    pub fn of(&self, name: Name, first: bool, learnt_limits: &LearntLimits) -> Option<Limit> {
        if let Some(&lasts) = self.given.get(&name) {
            return (!lasts.is_zero()).then_some(Limit { lasts, learnt_from: None });
        }
        let (factor, least) = self.learning?;
        let course = learnt_limits.0.get(&name).filter(|_| name != Name::default())?;
        let seen = if first { course.first } else { course.further };
        let lasts = seen.longest.min(LONGEST).mul_f64(factor).clamp(least, LONGEST);
        (seen.count >= ENOUGH).then_some(Limit { lasts, learnt_from: Some(seen.count) })
    }

    /// No limit is shorter, as far as anybody knows.
    pub fn shortest(&self, learnt_limits: &LearntLimits) -> Option<Duration> {
        let given = self.given.values().copied().filter(|lasts| !lasts.is_zero());
        let learnt = learnt_limits.0.keys().filter(|name| !self.given.contains_key(name)).flat_map(|&name| {
            let limits = [true, false].map(|first| self.of(name, first, learnt_limits));
            limits.into_iter().flatten().map(|limit| limit.lasts)
        });
        given.chain(learnt).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn seen(longest: u32, count: u64) -> Seen {
        Seen { longest: longest * SECOND, count }
    }

    fn learnt_limits(courses: &[(&str, Seen, Seen)]) -> LearntLimits {
        let mut learnt_limits = LearntLimits::default();
        for &(name, first, further) in courses {
            learnt_limits.add(&Course { name: Name::new(name.as_bytes()), first, further });
        }
        learnt_limits
    }

    #[test]
    fn a_place_is_one_word() {
        let since = Duration::from_micros(123_456_789);
        for section in [None, Some(0), Some(SECTIONS_MOST - 1)] {
            let place = Whereabouts { section, since };
            assert_eq!(Whereabouts::of_word(place.word()), Some(place));
        }
        assert_eq!(Whereabouts::of_word(0), None);
        assert_ne!(Whereabouts { section: None, since: Duration::ZERO }.word(), 0);
    }

    #[test]
    fn names_go_there_and_back() {
        for text in ["", "step", "a name of forty bytes, all of which count"] {
            let name = Name::new(text.as_bytes());
            assert_eq!(Name::of_words(std::array::from_fn(|index| name.word(index))), name);
            assert_eq!(name.bytes(), &text.as_bytes()[..text.len().min(NAME_MOST)]);
        }
        assert_eq!(Name::new(b"step").to_string(), "in section \"step\"");
    }

    #[test]
    fn time_18_limits_are_given_by_name_and_for_outside() {
        let given = [("step", 10), ("", 60), ("free", 0)];
        let given = given.map(|(name, seconds)| (Name::new(name.as_bytes()), seconds * SECOND));
        let limits = Limits { given: given.into(), learning: Some((2.0, SECOND)) };
        let learnt_limits =
            learnt_limits(&[("step", seen(1, 9), seen(1, 9)), ("free", seen(1, 9), seen(1, 9))]);
        let of = |name: &str, first| limits.of(Name::new(name.as_bytes()), first, &learnt_limits);
        assert_eq!(of("step", false), Some(Limit { lasts: 10 * SECOND, learnt_from: None }));
        assert_eq!(of("", false), Some(Limit { lasts: 60 * SECOND, learnt_from: None }));
        assert_eq!((of("free", false), of("other", true)), (None, None));
        assert_eq!(limits.shortest(&learnt_limits), Some(10 * SECOND));
    }

    #[test]
    fn time_18_limits_are_learnt_from_enough_and_the_first_is_apart() {
        let limits = Limits { given: BTreeMap::new(), learning: Some((5.0, 3 * SECOND)) };
        let step = Name::new(b"step");
        let one = learnt_limits(&[("step", seen(30, 1), seen(2, 4))]);
        assert_eq!(limits.of(step, false, &one), None, "four are not enough");
        // Ranks and attempts add up.
        let mut all = one.clone();
        for rank in 0..4 {
            all.add(&Course { name: step, first: seen(20 + rank, 1), further: seen(1, 3) });
        }
        assert_eq!(limits.of(step, false, &all), Some(Limit { lasts: 10 * SECOND, learnt_from: Some(16) }));
        assert_eq!(limits.of(step, true, &all), Some(Limit { lasts: 150 * SECOND, learnt_from: Some(5) }));
        assert_eq!(limits.shortest(&all), Some(10 * SECOND));
        // Never less than the floor, and garbage is no reason to panic.
        let short = learnt_limits(&[("step", seen(0, 9), seen(0, 9))]);
        assert_eq!(limits.of(step, false, &short).map(|limit| limit.lasts), Some(3 * SECOND));
        let garbage = Seen { longest: Duration::MAX, count: u64::MAX };
        let garbage = learnt_limits(&[("step", garbage, garbage), ("step", garbage, garbage)]);
        assert_eq!(limits.of(step, false, &garbage).map(|limit| limit.lasts), Some(LONGEST));
        // What is outside of all has no course.
        assert_eq!(limits.of(Name::default(), false, &garbage), None);
    }
}
