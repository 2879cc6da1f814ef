//! How long the keys of a job are there.

use std::time::{Duration, Instant};

use serde_json::json;

use super::api::{self, number};
use super::link::Link;
use crate::error::Error;
use crate::rendezvous::backend::Swap;

/// How often it is kept alive in its time.
const PULSES: u32 = 3;
/// How often others may be quicker.
const TRIES: u32 = 5;

/// All keys of a job go with one lease that all its agents keep alive, and that a key of its own tells them. So they
/// are there as long as there is one agent, whoever wrote them: with a lease for each agent, one that dies would take
/// away states and messages that the others go on from. When the last one is gone nobody has to tidy up.
pub struct Lease {
    pub id: i64,
    time: Duration,
    /// When it is to be kept alive again.
    pub due: Instant,
}

impl Lease {
    /// The one of the job. If there is none yet it gets one of `time`.
    pub fn find(link: &mut Link, key: &str, time: Duration, by: Instant) -> Result<Lease, Error> {
        for _ in 0..TRIES {
            if let Some(found) = api::found(&link.ask("kv/range", api::range(key), by)?) {
                return Lease::join(link, key, &found.value, by);
            }
            let granted = link.ask("lease/grant", json!({ "TTL": time.as_secs().to_string() }), by)?;
            let lease = Lease::new(number(&granted["ID"]), number(&granted["TTL"]), number(&granted["TTL"]));
            let own = lease.id.to_string();
            let answer = link.ask("kv/txn", api::swap(key, 0, own.as_bytes(), lease.id), by)?;
            if api::swapped(&answer) == Swap::Done {
                return Ok(lease);
            }
            // Another agent was quicker.
            link.ask("lease/revoke", json!({ "ID": own }), by)?;
        }
        Err(link.passing(&format!("has {key} and has it not")))
    }

    fn join(link: &mut Link, key: &str, value: &[u8], by: Instant) -> Result<Lease, Error> {
        let id = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        let id: i64 = id.ok_or_else(|| Error::Rendezvous {
            what: format!("etcd's {key} was not written by libice; it is left as it is"),
        })?;
        let told = link.ask("lease/timetolive", json!({ "ID": id.to_string() }), by)?;
        match number(&told["TTL"]) {
            left @ 1.. => Ok(Lease::new(id, number(&told["grantedTTL"]), left)),
            _ => Err(link.passing("is about to remove the keys of a job that is over")),
        }
    }

    /// An agent that finds the job closed is gone before it would make its keys live longer: what is left of the
    /// lease counts, not its whole time.
    fn new(id: i64, time: i64, left: i64) -> Lease {
        let seconds = |number: i64| Duration::from_secs(number.max(0) as u64);
        Lease { id, time: seconds(time), due: Instant::now() + seconds(left) / PULSES }
    }

    /// Keeps it alive, if that is due.
    pub fn keep_alive(&mut self, link: &mut Link, by: Instant) -> Result<(), Error> {
        let now = Instant::now();
        if now < self.due {
            return Ok(());
        }
        let told = link.ask("lease/keepalive", json!({ "ID": self.id.to_string() }), by)?;
        if number(&told["result"]["TTL"]) <= 0 {
            let why = format!("has removed the keys of the job: no agent was there for {:?}", self.time);
            return Err(link.passing(&why));
        }
        self.due = now + self.time / PULSES;
        Ok(())
    }
}
