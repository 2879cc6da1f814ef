//! Which birth of a group comes next: a few at once where a fork server forks, and none before requests are taken.

use crate::process::start::forkserver::BIRTHS_AT_ONCE;

pub struct Births {
    begun: usize,
    of: usize,
    /// Requests were taken before the next birth.
    heard: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Take the requests: a stop may be among them.
    Requests,
    /// Wait until no more than `left` births are under way.
    Await { left: usize },
    /// Begin the birth of this worker.
    Begin(usize),
    /// All are born.
    Done,
}

impl Births {
    pub fn of(workers: usize) -> Births {
        Births { begun: 0, of: workers, heard: false }
    }

    /// `under_way`: births that were begun and of which nobody knows yet. `requests`: whether there are any.
    pub fn next(&mut self, under_way: usize, requests: bool) -> Next {
        if under_way >= BIRTHS_AT_ONCE {
            return Next::Await { left: BIRTHS_AT_ONCE - 1 };
        }
        if self.begun == self.of {
            return if under_way > 0 { Next::Await { left: 0 } } else { Next::Done };
        }
        if requests && !self.heard {
            // What is under way is there first: a stop is for all that were born.
            if under_way > 0 {
                return Next::Await { left: 0 };
            }
            self.heard = true;
            return Next::Requests;
        }
        self.heard = false;
        self.begun += 1;
        Next::Begin(self.begun - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_after_the_other_where_nobody_else_forks() {
        let mut births = Births::of(2);
        let steps = [(); 3].map(|()| births.next(0, false));
        assert_eq!(steps, [Next::Begin(0), Next::Begin(1), Next::Done]);
    }

    #[test]
    fn no_more_at_once_than_the_socket_takes() {
        let mut births = Births::of(BIRTHS_AT_ONCE + 1);
        for begun in 0..BIRTHS_AT_ONCE {
            assert_eq!(births.next(begun, false), Next::Begin(begun));
        }
        let left = BIRTHS_AT_ONCE - 1;
        assert_eq!(births.next(BIRTHS_AT_ONCE, false), Next::Await { left });
        assert_eq!(births.next(left, false), Next::Begin(BIRTHS_AT_ONCE));
        assert_eq!(births.next(BIRTHS_AT_ONCE, false), Next::Await { left });
        assert_eq!(births.next(left, false), Next::Await { left: 0 });
        assert_eq!(births.next(0, true), Next::Done, "who comes now is heard by the loop");
    }

    #[test]
    fn sig_a_stop_is_for_all_that_were_born() {
        let mut births = Births::of(2);
        assert_eq!(births.next(0, false), Next::Begin(0));
        assert_eq!(births.next(1, true), Next::Await { left: 0 });
        assert_eq!(births.next(0, true), Next::Requests);
        assert_eq!(births.next(0, true), Next::Begin(1), "they were taken, and were no stop");
    }
}
