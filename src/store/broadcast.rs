//! One process hands bytes to all, anew in every round, and those of an older round are told that it is over.
//!
//! What was broadcast is a chain: the key `after/G` has the generation that came next after G, and `blob/G` the
//! bytes of G, which are there before a link leads to it. A link is made by COMPARE_SET, so each has one successor;
//! who waits for a generation follows the links, and so learns of a later one in place of its own. `latest` is a
//! hint where to begin.

use std::time::{Duration, Instant};

use super::client::Client;
use super::connection::deadline;
use crate::error::Error;

/// Before the bytes of a blob. One without it has been left behind.
const PRESENT: u8 = b'=';

/// A place of the chain; none is its beginning.
type Generation = Option<u64>;

impl Client {
    /// Hands `blob` to all that receive this generation of `name`, and ends the ones before it.
    pub fn publish(&self, name: &[u8], generation: u64, blob: &[u8]) -> Result<(), Error> {
        let chain = Chain { store: self.with_prefix(name), name };
        let blob = [&[PRESENT], blob].concat();
        let text = generation.to_string().into_bytes();
        let mut last = chain.latest()?;
        loop {
            while let Some(next) = chain.store.find(&after(last))? {
                last = chain.parse(&next)?;
            }
            chain.check(generation, last)?;
            let key = blob_key(generation);
            if chain.store.compare_set(&key, b"", &blob)? != blob {
                return Err(Error::config(
                    "generation",
                    generation,
                    "was broadcast before, with other bytes",
                ));
            }
            if last == Some(generation) {
                return Ok(());
            }
            let next = chain.store.compare_set(&after(last), b"", &text)?;
            if next == text {
                // PyTorch's older server wakes nobody for a COMPARE_SET.
                chain.store.set(&after(last), &text)?;
                chain.store.set(b"latest", &text)?;
                return match last {
                    Some(last) => chain.store.set(&blob_key(last), b""),
                    None => Ok(()),
                };
            }
            // Somebody else was quicker.
            last = chain.parse(&next)?;
        }
    }

    /// What is, or will be, published as this generation of `name`.
    pub fn receive(&self, name: &[u8], generation: u64, limit: Option<Duration>) -> Result<Vec<u8>, Error> {
        let chain = Chain { store: self.with_prefix(name), name };
        let deadline = deadline(limit);
        let get = |key: &[u8]| {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            chain.store.get(key, left)
        };
        let mut at = chain.latest()?;
        while at != Some(generation) {
            chain.check(generation, at)?;
            at = chain.parse(&get(&after(at))?)?;
        }
        match get(&blob_key(generation))?.split_first() {
            Some((&PRESENT, blob)) => Ok(blob.to_vec()),
            _ => Err(chain.stale(generation, chain.latest()?)),
        }
    }
}

struct Chain<'a> {
    store: Client,
    name: &'a [u8],
}

impl Chain<'_> {
    fn latest(&self) -> Result<Generation, Error> {
        self.store.find(b"latest")?.map_or(Ok(None), |text| self.parse(&text))
    }

    fn parse(&self, text: &[u8]) -> Result<Generation, Error> {
        let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        number.map(Some).ok_or_else(|| {
            let name = String::from_utf8_lossy(self.name);
            Error::config("name", name, "is used for something else: its keys are not those of a broadcast")
        })
    }

    /// Refuses a generation that the chain has passed.
    fn check(&self, generation: u64, at: Generation) -> Result<(), Error> {
        if at.is_some_and(|at| at > generation) { Err(self.stale(generation, at)) } else { Ok(()) }
    }

    fn stale(&self, generation: u64, latest: Generation) -> Error {
        let name = String::from_utf8_lossy(self.name);
        let latest = latest.map_or(String::new(), |latest| format!(": generation {latest} was broadcast"));
        Error::Stale { what: format!("generation {generation} of {} is over{latest}", name.escape_debug()) }
    }
}

fn after(generation: Generation) -> Vec<u8> {
    generation.map_or("after".into(), |generation| format!("after/{generation}")).into_bytes()
}

fn blob_key(generation: u64) -> Vec<u8> {
    format!("blob/{generation}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::super::server::{Config, Server};
    use super::*;

    #[test]
    fn whoever_comes_when_gets_its_own_generation_or_none() {
        let server =
            Server::start(&Config { address: Some("127.0.0.1".into()), ..Config::default() }).unwrap();
        let store = || Client::connect("127.0.0.1", server.port(), Some(Duration::from_secs(20))).unwrap();
        let (roots, ranks): (Vec<Client>, Vec<Client>) = (0..3).map(|_| (store(), store())).unzip();
        for round in 0..200u64 {
            // Three generations at once, each with its rank 0 and one that receives, in any order.
            let blob = |generation: u64| format!("blob of {generation}").into_bytes();
            std::thread::scope(|scope| {
                for (number, (root, rank)) in roots.iter().zip(&ranks).enumerate() {
                    let generation = 3 * round + number as u64;
                    scope.spawn(move || match root.publish(b"id", generation, &blob(generation)) {
                        Ok(()) => {}
                        Err(Error::Stale { .. }) => assert!(number < 2),
                        Err(error) => panic!("{error}"),
                    });
                    scope.spawn(move || {
                        match rank.receive(b"id", generation, Some(Duration::from_secs(20))) {
                            Ok(got) => assert_eq!(got, blob(generation)),
                            Err(Error::Stale { .. }) => assert!(number < 2),
                            Err(error) => panic!("{error}"),
                        }
                    });
                }
            });
            // Only the last one is left.
            for number in 0..2 {
                let old = ranks[0].receive(b"id", 3 * round + number, Some(Duration::from_secs(20)));
                assert!(matches!(old, Err(Error::Stale { .. })), "{old:?}");
            }
            assert!(ranks[0].receive(b"id", 3 * round + 2, None).is_ok());
        }
    }
}
