//! torch's options of a rendezvous (`--rdzv-conf`), with torch's names and defaults.

use std::time::Duration;

use crate::error::Error;

/// What a rendezvous goes by beside its place and its nodes.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// How long a node waits for a round to be complete.
    pub join_timeout: Duration,
    /// How long more nodes are waited for once there are enough.
    pub last_call_timeout: Duration,
    /// How long what ends may take to be told to the others.
    pub close_timeout: Duration,
    /// How often a node gives a sign of life, and how many may be missing.
    pub keep_alive_interval: Duration,
    pub keep_alive_max_attempt: u32,
    /// How long an answer of the store may take.
    pub read_timeout: Duration,
    /// How long healthy workers go on while the store cannot be reached.
    pub lost_timeout: Duration,
    pub is_host: Option<bool>,
}

impl Default for Options {
    fn default() -> Options {
        let seconds = Duration::from_secs;
        Options {
            join_timeout: seconds(600),
            last_call_timeout: seconds(30),
            close_timeout: seconds(30),
            keep_alive_interval: seconds(5),
            keep_alive_max_attempt: 3,
            read_timeout: seconds(60),
            lost_timeout: seconds(300),
            is_host: None,
        }
    }
}

/// A busy place has so long to answer, however soon nodes are missed.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);

/// For the error that names them.
const KEYS: &str = "timeout, join_timeout, last_call_timeout, close_timeout, heartbeat_timeout, \
                    keep_alive_interval, keep_alive_max_attempt, read_timeout, lost_timeout, is_host, store_type, \
                    cas_backoff_max_seconds";

impl Options {
    /// Who gives no sign for so long has vanished.
    pub fn dead_after(&self) -> Duration {
        self.keep_alive_interval.saturating_mul(self.keep_alive_max_attempt)
    }

    /// How long an answer is waited for before the connection is made anew: by then this node counts as gone, or the
    /// place as lost, and a new connection finds a way that is there again sooner than an old one.
    pub fn answer_within(&self) -> Duration {
        let noticed = self.dead_after().min(self.lost_timeout);
        self.read_timeout.min(noticed.max(LEAST_PATIENCE))
    }

    /// Takes one of them, as text.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), Error> {
        let value = value.trim();
        match key {
            "timeout" | "join_timeout" => self.join_timeout = seconds(key, value)?,
            "last_call_timeout" => self.last_call_timeout = seconds_or_none(key, value)?,
            "close_timeout" => self.close_timeout = seconds(key, value)?,
            "keep_alive_interval" => self.keep_alive_interval = seconds(key, value)?,
            "keep_alive_max_attempt" => {
                let count = value.parse().ok().filter(|count| (1..=1_000_000).contains(count));
                self.keep_alive_max_attempt =
                    count.ok_or_else(|| refuse(key, value, "must be a whole number above 0"))?;
            }
            "read_timeout" => self.read_timeout = seconds(key, value)?,
            "lost_timeout" => self.lost_timeout = seconds_or_none(key, value)?,
            "is_host" => self.is_host = Some(yes_or_no(key, value)?),
            "store_type" if value.eq_ignore_ascii_case("tcp") => {}
            "store_type" => return Err(refuse(key, value, "must be tcp")),
            // Of torch's handler; nothing here waits for them.
            "heartbeat_timeout" => drop(seconds(key, value)?),
            "cas_backoff_max_seconds" => drop(seconds_or_none(key, value)?),
            _ => {
                let want = format!("there is no such option; there are {KEYS}");
                return Err(Error::config("rendezvous_option", key, want));
            }
        }
        Ok(())
    }
}

fn refuse(key: &str, value: &str, want: &str) -> Error {
    Error::config("rendezvous_option", format!("{key}={value}"), want)
}

/// A time that something may take.
fn seconds(key: &str, value: &str) -> Result<Duration, Error> {
    let found = seconds_or_none(key, value).ok().filter(|time| !time.is_zero());
    found.ok_or_else(|| refuse(key, value, "must be seconds above 0 and up to 1e9"))
}

fn seconds_or_none(key: &str, value: &str) -> Result<Duration, Error> {
    let number: Option<f64> = value.parse().ok();
    let number = number.and_then(|number| crate::spec::seconds("rendezvous_option", number).ok());
    number.ok_or_else(|| refuse(key, value, "must be seconds from 0 to 1e9"))
}

fn yes_or_no(key: &str, value: &str) -> Result<bool, Error> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "t" | "yes" | "y" => Ok(true),
        "0" | "false" | "f" | "no" | "n" => Ok(false),
        _ => Err(refuse(key, value, "must be true or false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dyn_20_an_answer_is_not_waited_for_after_the_node_is_missed() {
        for (set, within) in [
            (vec![], 15_000),
            (vec![("read_timeout", "2")], 2_000),
            (vec![("lost_timeout", "4")], 4_000),
            (vec![("keep_alive_interval", "0.1")], 1_000),
            (vec![("keep_alive_interval", "0.1"), ("read_timeout", "0.5")], 500),
        ] {
            let mut options = Options::default();
            set.iter().for_each(|(key, value)| options.set(key, value).unwrap());
            assert_eq!(options.answer_within(), Duration::from_millis(within), "{set:?}");
        }
    }

    #[test]
    fn dyn_26_what_cannot_be_is_refused_by_name() {
        let message = |key, value| Options::default().set(key, value).unwrap_err().to_string();
        for (key, value, part) in [
            ("read_timeout", "0", "above 0"),
            ("read_timeout", "-10", "above 0"),
            ("join_timeout", "soon", "above 0"),
            ("keep_alive_max_attempt", "0", "whole number"),
            ("store_type", "dummy", "must be tcp"),
            ("is_host", "maybe", "true or false"),
            ("join_timout", "5", "there is no such option"),
        ] {
            let text = message(key, value);
            assert!(text.contains(part) && text.contains("rendezvous_option is "), "{text}");
        }
        let mut options = Options::default();
        for (key, value) in [("store_type", "TCP"), ("is_host", "No"), ("last_call_timeout", "0.5")] {
            options.set(key, value).unwrap();
        }
        assert_eq!((options.is_host, options.last_call_timeout), (Some(false), Duration::from_millis(500)));
        assert_eq!(options.dead_after(), Duration::from_secs(15));
    }
}
