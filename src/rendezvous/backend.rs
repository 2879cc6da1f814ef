//! What a rendezvous needs of the place where agents meet: keys with values that can be read, compared and set,
//! and waited for.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::error::Error;
use crate::store::interrupt::Interrupter;
use crate::sys::random;

/// Before another try to get a number: at most so much after the first, and so many times as much later.
const PAUSE: Duration = Duration::from_millis(1);
const LONGEST: u32 = 32;

/// Takes the id of a node, and its heartbeat.
pub type TellOfLoss = Arc<dyn Fn(&str, u64) + Send + Sync>;

/// What a value is known by: another one has another token.
pub type Token = Vec<u8>;

/// A value, and its token.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub value: Vec<u8>,
    pub token: Token,
}

/// What became of a compare-and-set.
#[derive(Clone, Debug, PartialEq)]
pub enum Swap {
    Done,
    /// Not stored: what is there, if anything.
    Refused(Option<Stored>),
}

/// One agent's way to the place. It is used by one thread.
///
/// An `Error::Store`, `Error::Timeout` or `Error::System` of any function means that the place could not be reached:
/// `connect` is called again, and what was asked may have been done or not. Any other error ends the rendezvous.
pub trait Backend: Send {
    /// Makes sure of a connection, in one try. Called before anything else, and after an error.
    fn connect(&mut self) -> Result<(), Error>;

    /// The value of a key, if there is one.
    fn get(&mut self, key: &str) -> Result<Option<Stored>, Error>;

    /// Stores a value if the one that is there has the token `expected`, or if none is there and none is expected.
    fn compare_and_set(&mut self, key: &str, expected: Option<&Token>, value: &[u8]) -> Result<Swap, Error>;

    /// Returns when the key may have a value (then true), when it is `until`, or when `bell` is readable; earlier, if
    /// it has to.
    fn wait(&mut self, key: &str, until: Instant, bell: BorrowedFd) -> Result<bool, Error>;

    /// Stores a value, whatever is there.
    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), Error> {
        let mut there = self.get(key)?;
        loop {
            match self.compare_and_set(key, there.as_ref().map(|found| &found.token), value)? {
                Swap::Done => return Ok(()),
                Swap::Refused(other) => there = other,
            }
        }
    }

    /// The next number of a counter, from 0 on: nobody else gets the same.
    fn next(&mut self, key: &str) -> Result<u64, Error> {
        let mut there = self.get(key)?;
        let mut tries = 0;
        loop {
            let number = match &there {
                None => 0,
                Some(found) => parse_number(key, &found.value)?,
            };
            let next = (number + 1).to_string();
            match self.compare_and_set(key, there.as_ref().map(|found| &found.token), next.as_bytes())? {
                Swap::Done => return Ok(number),
                Swap::Refused(other) => there = other,
            }
            // Many that want a number at once are not to be in each other's way for ever.
            tries += 1;
            std::thread::sleep(
                PAUSE.mul_f64(random::number() as f64 / u64::MAX as f64 * f64::from(tries.min(LONGEST))),
            );
        }
    }

    /// Removes a key that nobody needs any more; where that cannot be done it stays.
    fn delete(&mut self, _key: &str) -> Result<(), Error> {
        Ok(())
    }

    /// Has `tell` called, in any thread, for each node whose way to the place has ended: its id, and what its heartbeat was
    /// then. Only one that serves the place knows.
    fn tell_of_losses(&mut self, _tell: TellOfLoss) {}

    /// What ends, from another thread, whatever is asked at the moment or later.
    fn interrupter(&self) -> Interrupter {
        Interrupter::default()
    }

    /// The address of this host as the others reach it, as far as the way to the place tells.
    fn address(&self) -> Option<String> {
        None
    }

    /// The port of a store that workers are to meet at as well.
    fn shared_port(&self) -> Option<u16> {
        None
    }

    /// All workers of the round before are gone, nobody has started one of the next.
    fn between_rounds(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Whether this agent can do what a leader has to: `between_rounds` may need the one that serves.
    fn may_lead(&self) -> bool {
        true
    }

    /// Whether the place is gone when this agent is.
    fn serves(&self) -> bool {
        false
    }

    /// Where the place is, if this agent was to serve it and somebody else does.
    fn served_by_another(&self) -> Option<String> {
        None
    }

    /// Whether nobody serves the place any more, though its host answers: no use in waiting for it for long.
    fn is_deserted(&self) -> bool {
        false
    }

    /// What went on all the same, but is for people to know; each thing once.
    fn warning(&mut self) -> Option<String> {
        None
    }

    /// Nothing more is asked.
    fn disconnect(&mut self) {}

    /// The job is over, the agent goes: what others may still need is there until they have gone, or until then, or an
    /// interruption.
    fn leave(&mut self, _until: Instant) {
        self.disconnect();
    }
}

/// Where a node counts up its heartbeat.
pub fn beat_key(id: &str) -> String {
    format!("beat/{id}")
}

/// The number that a counter has.
pub fn parse_number(key: &str, value: &[u8]) -> Result<u64, Error> {
    let text = String::from_utf8_lossy(value);
    text.parse().map_err(|_| Error::Store { what: format!("the rendezvous' {key} is no number: {text:?}") })
}

/// Stores a value if the key has none. None if it is there now; else what was there before.
pub fn create(backend: &mut dyn Backend, key: &str, value: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    Ok(match backend.compare_and_set(key, None, value)? {
        Swap::Done => None,
        // It is ours, if the answer to the same request was lost.
        Swap::Refused(Some(found)) if found.value == value => None,
        Swap::Refused(Some(found)) => Some(found.value),
        // It was there, and is gone.
        Swap::Refused(None) => Some(Vec::new()),
    })
}
