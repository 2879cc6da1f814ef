//! Where threads of the host ask for something and wait, and the agent's loop takes it and gives the answers.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::request::{Answers, RequestKind};
use crate::error::Error;
use crate::moment::Moment;
use crate::sys::process::monotonic;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HostWish {
    Request(RequestKind),
    Resume,
}

/// How long after the deadline the loop may be busy with something else, the start of workers, say, or the answers of
/// other hosts may be on their way.
const GRACE: Duration = Duration::from_millis(500);

/// What somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ticket {
    pub number: u64,
    pub wish: HostWish,
    pub begin: Moment,
    pub deadline: Moment,
}

#[derive(Default)]
pub struct PendingRequests {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    /// The run is over, or there is no page: nobody takes anything.
    closed: Option<&'static str>,
    numbers: u64,
    waiting: VecDeque<Ticket>,
    done: BTreeMap<u64, Answers>,
}

impl Inner {
    fn open(&self) -> Result<(), Error> {
        self.closed.map_or(Ok(()), |what| Err(Error::State { what }))
    }

    fn push(&mut self, wish: HostWish, begin: Moment, deadline: Moment) -> Result<u64, Error> {
        self.open()?;
        self.numbers += 1;
        self.waiting.push_back(Ticket { number: self.numbers, wish, begin, deadline });
        Ok(self.numbers)
    }
}

impl PendingRequests {
    /// Waits for the answers; none if the loop, which is woken by `ring`, has not given them by the deadline.
    pub fn ask(
        &self,
        wish: HostWish,
        limit: Duration,
        ring: impl FnOnce(),
    ) -> Result<Option<Answers>, Error> {
        let (begin, patience) = (monotonic(), Instant::now().checked_add(limit + GRACE));
        let mut inner = self.inner.lock();
        let number = inner.push(wish, begin, begin.saturating_add(limit))?;
        ring();
        loop {
            if let Some(answers) = inner.done.remove(&number) {
                return Ok(Some(answers));
            }
            inner.open()?;
            let late = match patience {
                None => {
                    self.changed.wait(&mut inner);
                    false
                }
                Some(patience) => self.changed.wait_until(&mut inner, patience).timed_out(),
            };
            if late && !inner.done.contains_key(&number) {
                inner.waiting.retain(|waiting| waiting.number != number);
                return Ok(None);
            }
        }
    }

    /// The same for what has no answers.
    pub fn tell(&self, wish: HostWish, ring: impl FnOnce()) -> Result<(), Error> {
        let now = monotonic();
        self.inner.lock().push(wish, now, now)?;
        ring();
        Ok(())
    }

    /// The one whose turn it is.
    pub fn first(&self) -> Option<Ticket> {
        self.inner.lock().waiting.front().copied()
    }

    /// It has its answers.
    pub fn settle(&self, ticket: Ticket, answers: Answers) {
        let mut inner = self.inner.lock();
        let before = inner.waiting.len();
        inner.waiting.retain(|waiting| waiting.number != ticket.number);
        // Else who asked has lost his patience.
        if inner.waiting.len() < before && ticket.wish != HostWish::Resume {
            inner.done.insert(ticket.number, answers);
            self.changed.notify_all();
        }
    }

    /// Nobody is to ask any more; who waits is told why.
    pub fn close(&self, why: &'static str) {
        let mut inner = self.inner.lock();
        inner.closed.get_or_insert(why);
        inner.waiting.clear();
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(pending: &PendingRequests) -> Ticket {
        loop {
            if let Some(ticket) = pending.first() {
                return ticket;
            }
            std::thread::yield_now();
        }
    }

    #[test]
    fn who_asks_gets_the_answers_or_learns_that_there_are_none() {
        let pending = PendingRequests::default();
        let ask =
            |seconds| pending.ask(HostWish::Request(RequestKind::Save), Duration::from_secs(seconds), || ());
        std::thread::scope(|scope| {
            let asks = scope.spawn(|| ask(1 << 40));
            pending.settle(next(&pending), Answers::none(2));
            assert_eq!(asks.join().unwrap(), Ok(Some(Answers::none(2))));
        });
        assert_eq!(ask(0), Ok(None), "nobody is there to answer");
        assert_eq!(pending.first(), None);
        pending.tell(HostWish::Resume, || ()).unwrap();
        pending.settle(next(&pending), Answers::none(2));
        assert!(pending.inner.lock().done.is_empty());
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| ask(60));
            next(&pending);
            pending.close("over");
            assert_eq!(waits.join().unwrap(), Err(Error::State { what: "over" }));
        });
        assert_eq!(ask(1), Err(Error::State { what: "over" }));
    }
}
