//! How ranks keep up with each other, from nothing but the steps that they say.
//!
//! A step is one store without a time. So how long a rank has been at one is counted from the first look that
//! found it there, whoever looked: it is at least so long.

use std::time::Duration;

use crate::moment::Moment;

/// Of one rank.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    /// How many steps it is behind the one that is furthest; none if it says no steps.
    pub lag: Option<u64>,
    /// How long it has been seen at its step.
    pub at_step: Option<Duration>,
}

/// What the last look found.
#[derive(Default)]
pub struct Paces {
    attempt: u32,
    ranks: Vec<(Option<u64>, Moment)>,
}

impl Paces {
    pub fn look(&mut self, attempt: u32, steps: &[Option<u64>], now: Moment) -> Vec<Pace> {
        if self.attempt != attempt || self.ranks.len() != steps.len() {
            (self.attempt, self.ranks) = (attempt, vec![(None, now); steps.len()]);
        }
        let furthest = steps.iter().flatten().max().copied().unwrap_or(0);
        let pace = |(&step, last): (&Option<u64>, &mut (Option<u64>, Moment))| {
            if last.0 != step {
                *last = (step, now);
            }
            let at_step = step.map(|_| now.saturating_sub(last.1));
            Pace { lag: step.map(|step| furthest - step), at_step }
        };
        steps.iter().zip(&mut self.ranks).map(pace).collect()
    }
}

/// The rank that is furthest behind, the first of several; none while nobody is.
pub fn slowest(paces: impl Iterator<Item = Pace>) -> Option<usize> {
    let behind = paces.enumerate().filter_map(|(rank, pace)| Some((rank, pace.lag.filter(|&lag| lag > 0)?)));
    behind.max_by_key(|&(rank, lag)| (lag, std::cmp::Reverse(rank))).map(|(rank, _)| rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn obs_lag_and_time_at_a_step() {
        let mut paces = Paces::default();
        let mut look = |attempt, steps: &[Option<u64>], now: u32| {
            let paces = paces.look(attempt, steps, now * SECOND);
            let values = paces.iter().map(|pace| (pace.lag, pace.at_step.map(|time| time.as_secs())));
            (values.collect::<Vec<_>>(), slowest(paces.iter().copied()))
        };
        let none = (None, None);
        assert_eq!(look(0, &[None, None], 1), (vec![none, none], None));
        assert_eq!(look(0, &[Some(7), None], 2), (vec![(Some(0), Some(0)), none], None));
        let (behind, ahead) = ((Some(3), Some(0)), (Some(0), Some(4)));
        assert_eq!(look(0, &[Some(7), Some(4)], 6), (vec![ahead, behind], Some(1)));
        assert_eq!(look(0, &[Some(8), Some(8)], 9).1, None, "nobody is behind");
        let anew = (Some(0), Some(0));
        assert_eq!(look(1, &[Some(8), Some(8)], 12).0, [anew, anew], "another attempt");
        assert_eq!(look(1, &[Some(5), Some(5)], 13).0, [anew, anew]);
        assert_eq!(look(1, &[Some(9), Some(2)], 14).1, Some(1));
    }
}
