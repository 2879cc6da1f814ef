//! What workers let expire that have control: timers, heartbeats, the time of a section.

use std::time::Duration;

use crate::control::page::{Page, TIMERS_MOST};
use crate::control::section::{Course, LearntLimits, SECTIONS_MOST};
use crate::control::watch::{self, Beat, Silence, Stay, earlier};
use crate::moment::Moment;
use crate::spec::Spec;
use crate::standstill::Standstill;

pub struct Expiry {
    beats: Vec<Beat>,
    /// When something expires, if nothing else happens. At once, to begin with.
    next_look: Option<Moment>,
    /// Timers that were armed before this begin anew at it.
    anew: Moment,
}

/// What is looked at.
pub struct Scene<'s> {
    pub spec: &'s Spec,
    /// Whether a worker does.
    pub lives: &'s dyn Fn(usize) -> bool,
    pub page: &'s Page,
    /// What sections of attempts before this one tell.
    pub learnt_limits: &'s LearntLimits,
    pub standstill: &'s Standstill,
    pub now: Moment,
}

/// A worker, and what has expired, in words.
pub type Overdue = (usize, String);

impl Expiry {
    pub fn new(ranks: usize) -> Expiry {
        Expiry { beats: vec![Beat::default(); ranks], next_look: Some(Moment::ZERO), anew: Moment::ZERO }
    }

    /// Time that has passed up to now does not count.
    pub fn begin_anew(&mut self, now: Moment) {
        self.anew = now;
        self.beats.iter_mut().for_each(|beat| beat.excuse(now));
        self.next_look = Some(now);
    }

    /// The time of this rank begins.
    pub fn worker_born(&mut self, rank: usize, now: Moment) {
        self.beats[rank].excuse(now);
    }

    /// When to look, whatever else happens.
    pub fn deadline(&self) -> Option<Moment> {
        self.next_look
    }

    /// Time stands still: nobody is to call for a timer.
    pub fn stand_still(&mut self, page: &Page) {
        self.next_look = None;
        page.set_next_look(Some(Moment::ZERO));
    }

    /// What has expired of workers but these, `excepted`, who are to be ended anyway.
    pub fn look(&mut self, scene: &Scene, mut excepted: Vec<usize>) -> Vec<Overdue> {
        let mut overdue = Vec::new();
        let mut next = self.look_once(scene, &mut excepted, &mut overdue);
        loop {
            self.next_look = next;
            scene.page.set_next_look(next);
            // A timer that was armed meanwhile called nobody.
            let again = self.look_once(scene, &mut excepted, &mut overdue);
            if earlier(next, again) == next {
                return overdue;
            }
            next = again;
        }
    }

    /// When something expires next.
    fn look_once(
        &mut self,
        scene: &Scene,
        excepted: &mut Vec<usize>,
        overdue: &mut Vec<Overdue>,
    ) -> Option<Moment> {
        let &Scene { spec, lives, page, learnt_limits, standstill, now } = scene;
        let limit = |limit: Duration| (!limit.is_zero()).then_some(limit);
        let (first, further) = (spec.initial_heartbeat_timeout, spec.heartbeat_timeout);
        let limits = Silence { first: limit(first), further: limit(further) };
        let sections = &spec.sections;
        let mut learnt = None;
        let learnt_limits = match sections.learning {
            None => learnt_limits,
            Some(_) => {
                let learnt = learnt.insert(learnt_limits.clone());
                learn(learnt, page);
                page.watch_sections(sections.shortest(learnt));
                learnt
            }
        };
        let mut next = None;
        for (rank, beat) in self.beats.iter_mut().enumerate() {
            if !lives(rank) || excepted.contains(&rank) {
                continue;
            }
            // What is only told is looked behind for what else has expired: at most so many things.
            for _ in 0..TIMERS_MOST + 2 {
                let said = page.said(rank);
                let timers = (0..TIMERS_MOST).filter_map(|index| page.timer(rank, index));
                let timers = timers.map(|timer| timer.anew(self.anew));
                let stay = said.place.filter(|_| sections.are_wanted()).and_then(|place| {
                    let course = place.section.map(|section| page.course(rank, section));
                    let course = course.unwrap_or_else(|| Some(Course::default()))?;
                    let limit = sections.of(course.name, course.first.count == 0, learnt_limits)?;
                    Some(Stay { name: course.name, since: place.since.max(self.anew), limit })
                });
                match watch::look(&said, timers, stay, beat, limits, standstill, now) {
                    Ok(look) => {
                        next = earlier(next, look);
                        break;
                    }
                    Err(what) => overdue.push((rank, what.to_string())),
                }
                if spec.timer_signal != 0 {
                    excepted.push(rank);
                    break;
                }
            }
        }
        next
    }
}

/// What the ranks have seen of their sections in this attempt.
pub fn learn(learnt_limits: &mut LearntLimits, page: &Page) {
    let ranks = 0..page.ranks();
    let courses = ranks.flat_map(|rank| (0..SECTIONS_MOST).filter_map(move |index| page.course(rank, index)));
    courses.for_each(|course| learnt_limits.add(&course));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::watch::Timer;

    const SECOND: Duration = Duration::from_secs(1);

    /// What has expired by now of two ranks, but for this one, and when to look next.
    fn look(
        expiry: &mut Expiry,
        (spec, page): (&Spec, &Page),
        now: u32,
        excepted: Vec<usize>,
    ) -> (Vec<usize>, Option<Moment>) {
        let (learnt_limits, standstill) = (&LearntLimits::default(), &Standstill::default());
        let scene = Scene { spec, lives: &|_| true, page, learnt_limits, standstill, now: now * SECOND };
        let overdue = expiry.look(&scene, excepted);
        (overdue.into_iter().map(|(rank, _)| rank).collect(), expiry.deadline())
    }

    #[test]
    fn time_what_has_expired_is_told_once_and_the_rest_is_looked_for() {
        let page = Page::new(2).unwrap();
        let timer =
            |expires: u32| Timer { scope: b"step".to_vec(), expires: expires * SECOND, lasts: SECOND };
        page.set_timer(0, 0, Some(&timer(5)));
        page.set_timer(1, 0, Some(&timer(9)));
        let mut expiry = Expiry::new(2);
        let kills = (&Spec::default(), &page);
        assert_eq!(look(&mut expiry, kills, 1, vec![]), (vec![], Some(5 * SECOND)));
        assert_eq!(look(&mut expiry, kills, 6, vec![]), (vec![0], Some(9 * SECOND)));
        assert_eq!(look(&mut expiry, kills, 9, vec![0, 1]), (vec![], None), "both are to be ended anyway");
        // Where it is only told, the worker goes on, and so does the look at it.
        let only_tells = Spec { timer_signal: 0, ..Spec::default() };
        let mut expiry = Expiry::new(2);
        assert_eq!(look(&mut expiry, (&only_tells, &page), 6, vec![]), (vec![0], Some(9 * SECOND)));
        assert_eq!(look(&mut expiry, (&only_tells, &page), 7, vec![]), (vec![], Some(9 * SECOND)));
    }

    #[test]
    fn time_a_timer_that_stood_still_begins_anew() {
        let page = Page::new(1).unwrap();
        let timer = Timer { scope: Vec::new(), expires: 5 * SECOND, lasts: 3 * SECOND };
        page.set_timer(0, 0, Some(&timer));
        let mut expiry = Expiry::new(1);
        expiry.begin_anew(6 * SECOND);
        let spec = Spec::default();
        assert_eq!(look(&mut expiry, (&spec, &page), 6, vec![]), (vec![], Some(9 * SECOND)));
    }
}
