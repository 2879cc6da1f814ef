//! Those who have connected and not yet begun as they must: how long they may take, and how many there may be. A
//! newcomer costs a descriptor and has shown nothing for it. No I/O.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Instant;

use super::table::Client;

/// How many of the descriptors that a process may have newcomers get: one of so many.
const SHARE: u64 = 4;
/// Never few: those of a job come at the same moment, and one that has to go has to come again.
const NUMBERS: std::ops::RangeInclusive<u64> = 32..=2048;
/// How many of all these places one address gets: one of so many.
const SHARE_OF_ADDRESS: usize = 2;

/// Whom an address stands for; none where there is none any more.
pub type Origin = Option<IpAddr>;

/// Hosts have a /64 of IPv6 for themselves.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

fn most(descriptors: u64) -> usize {
    (descriptors / SHARE).clamp(*NUMBERS.start(), *NUMBERS.end()) as usize
}

struct Newcomer {
    client: Client,
    deadline: Instant,
    origin: Origin,
}

/// In the order they came.
#[derive(Default)]
pub struct Newcomers(VecDeque<Newcomer>);

impl Newcomers {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn push(&mut self, client: Client, origin: Origin, deadline: Instant) {
        self.0.push_back(Newcomer { client, deadline, origin });
    }

    /// Forgets connections that are no newcomers any more.
    pub fn retain(&mut self, mut is_one: impl FnMut(Client) -> bool) {
        self.0.retain(|newcomer| is_one(newcomer.client));
    }

    /// When the first has to have begun.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.0.front().map(|first| first.deadline)
    }

    /// The first that is one still, if its time is over. Only the first ones are looked at: it is asked all the time.
    pub fn pop_late(&mut self, now: Instant, is_one: impl Fn(Client) -> bool) -> Option<Client> {
        while let Some(first) = self.0.front() {
            let (client, is_one) = (first.client, is_one(first.client));
            if is_one && first.deadline > now {
                return None;
            }
            self.0.pop_front();
            if is_one {
                return Some(client);
            }
        }
        None
    }

    /// Whether there can be too many, before it is counted who is one still.
    pub fn may_be_too_many(&self, descriptors: u64) -> bool {
        self.0.len() > most(descriptors) / SHARE_OF_ADDRESS
    }

    /// Who has to go where this process may have so many descriptors, if there are too many: the oldest of the
    /// address that has most, so that no other pays for it. Who knows what to say says it at once.
    pub fn too_many(&self, descriptors: u64) -> Option<Client> {
        let most = most(descriptors);
        let (origin, count) = self.crowd()?;
        if self.0.len() > most || count > most / SHARE_OF_ADDRESS { self.oldest_of(origin) } else { None }
    }

    /// Who has to go where there is no descriptor to spare.
    pub fn one_of_the_crowd(&self) -> Option<Client> {
        let (origin, _) = self.crowd()?;
        self.oldest_of(origin)
    }

    fn crowd(&self) -> Option<(Origin, usize)> {
        let mut counts: HashMap<Origin, usize> = HashMap::new();
        self.0.iter().for_each(|newcomer| *counts.entry(newcomer.origin).or_default() += 1);
        counts.into_iter().max_by_key(|(_, count)| *count)
    }

    fn oldest_of(&self, origin: Origin) -> Option<Client> {
        self.0.iter().find(|newcomer| newcomer.origin == origin).map(|newcomer| newcomer.client)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(text: &str) -> Origin {
        Some(network(text.parse().unwrap()))
    }

    #[test]
    fn sec_20_the_oldest_of_the_crowd_goes() {
        let mut newcomers = Newcomers::default();
        let soon = Instant::now() + Duration::from_secs(60);
        assert_eq!((newcomers.too_many(0), newcomers.one_of_the_crowd()), (None, None));
        newcomers.push(0, at("10.0.0.1"), soon);
        // Of 1,024 descriptors 256 are for newcomers, 128 for those of one address.
        for client in 1..=128 {
            newcomers.push(client, at("10.0.0.2"), soon);
            assert_eq!(newcomers.too_many(1024), None, "{client}");
        }
        newcomers.push(129, at("::ffff:10.0.0.2"), soon);
        assert_eq!(newcomers.too_many(1024), Some(1));
        assert_eq!(newcomers.one_of_the_crowd(), Some(1));
        assert_eq!(newcomers.too_many(4096), None);
        // From many addresses.
        newcomers.retain(|client| client == 0);
        for client in 1..256 {
            newcomers.push(client, at(&format!("10.0.{}.{}", 1 + client % 4, client / 4)), soon);
        }
        assert_eq!(newcomers.too_many(1024), None);
        newcomers.push(256, at("10.0.2.0"), soon);
        assert_eq!(newcomers.too_many(1024), Some(1));
    }

    #[test]
    fn sec_20_an_address_of_ipv6_is_that_of_a_network() {
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:10.0.0.2"), at("10.0.0.2"));
    }

    #[test]
    fn the_first_is_late_first() {
        let (mut newcomers, now) = (Newcomers::default(), Instant::now());
        newcomers.push(1, None, now);
        newcomers.push(2, None, now + Duration::from_secs(1));
        assert_eq!(newcomers.next_deadline(), Some(now));
        assert_eq!((newcomers.pop_late(now, |_| true), newcomers.pop_late(now, |_| true)), (Some(1), None));
        newcomers.push(3, None, now);
        assert_eq!(newcomers.pop_late(now, |client| client == 3), Some(3), "the second is none any more");
        assert!(newcomers.is_empty() && newcomers.next_deadline().is_none());
    }
}
