//! torch's options of a rendezvous (`--rdzv-conf`), with torch's names and defaults: here those that all back ends have,
//! below those of single ones. Each is taken whatever the back end.

mod c10d;
mod etcd;

use std::path::PathBuf;
use std::time::Duration;

use super::values::{digits, nearest};
use crate::error::Error;

pub use self::c10d::C10dOptions;
pub use self::etcd::EtcdOptions;

/// What a rendezvous goes by beside its endpoint and its nodes.
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
    /// How long a node may take to come back whose connection to a store that an agent serves has ended.
    pub reconnect_timeout: Duration,
    /// How long an answer of the store may take.
    pub read_timeout: Duration,
    /// How long healthy workers go on while the store cannot be reached.
    pub lost_timeout: Duration,
    pub secret_file: SecretFile,
    pub c10d: C10dOptions,
    pub etcd: EtcdOptions,
}

/// Which file has what all agents of the job know, and nobody else who can reach the store.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum SecretFile {
    #[default]
    Unsaid,
    None,
    Named(PathBuf),
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
            reconnect_timeout: Duration::from_millis(750),
            read_timeout: seconds(60),
            lost_timeout: seconds(300),
            secret_file: SecretFile::Unsaid,
            c10d: C10dOptions::default(),
            etcd: EtcdOptions::default(),
        }
    }
}

/// A busy place has so long to answer, however soon nodes are missed.
const LEAST_PATIENCE: Duration = Duration::from_secs(1);

const KEYS: &[&str] = &[
    "timeout",
    "join_timeout",
    "last_call_timeout",
    "close_timeout",
    "heartbeat_timeout",
    "keep_alive_interval",
    "keep_alive_max_attempt",
    "reconnect_timeout",
    "read_timeout",
    "lost_timeout",
    "secret_file",
    "cas_backoff_max_seconds",
];

/// For the error that names them.
fn all_keys() -> Vec<&'static str> {
    [KEYS, c10d::KEYS, etcd::KEYS].concat()
}

impl Options {
    /// A node without a heartbeat for so long counts as vanished.
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
        if self.set_common(key, value)? || self.c10d.set(key, value)? || self.etcd.set(key, value)? {
            return Ok(());
        }
        let keys = all_keys();
        let meant = nearest(key, keys.iter().copied()).map_or(String::new(), |near| format!(" ({near}?)"));
        let want = format!("there is no such option{meant}; there are {}", keys.join(", "));
        Err(Error::config("rendezvous_option", key, want))
    }

    fn set_common(&mut self, key: &str, value: &str) -> Result<bool, Error> {
        match key {
            "timeout" | "join_timeout" => self.join_timeout = seconds(key, value)?,
            "last_call_timeout" => self.last_call_timeout = seconds_or_none(key, value)?,
            "close_timeout" => self.close_timeout = seconds(key, value)?,
            "keep_alive_interval" => self.keep_alive_interval = seconds(key, value)?,
            "keep_alive_max_attempt" => {
                let count = digits(value).parse().ok().filter(|count| (1..=1_000_000).contains(count));
                self.keep_alive_max_attempt =
                    count.ok_or_else(|| refuse(key, value, "must be a whole number above 0"))?;
            }
            "reconnect_timeout" => self.reconnect_timeout = seconds(key, value)?,
            "read_timeout" => self.read_timeout = seconds(key, value)?,
            "lost_timeout" => self.lost_timeout = seconds_or_none(key, value)?,
            "secret_file" if value.eq_ignore_ascii_case("none") => self.secret_file = SecretFile::None,
            "secret_file" => self.secret_file = SecretFile::Named(path(key, value)?),
            // Of torch's handlers and stores; nothing here waits for them.
            "heartbeat_timeout" => drop(seconds(key, value)?),
            "cas_backoff_max_seconds" => drop(seconds_or_none(key, value)?),
            _ => return Ok(false),
        }
        Ok(true)
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
    let number: Option<f64> = digits(value).parse().ok();
    let number = number.and_then(|number| super::seconds("rendezvous_option", number).ok());
    number.ok_or_else(|| refuse(key, value, "must be seconds from 0 to 1e9"))
}

fn path(key: &str, value: &str) -> Result<PathBuf, Error> {
    if value.is_empty() { Err(refuse(key, value, "must be the path of a file")) } else { Ok(value.into()) }
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
    fn cfg_14_the_nearest_name_is_offered() {
        for (key, wanted) in [
            ("join_timout", Some("join_timeout")),
            ("Timeout", Some("timeout")),
            ("is-host", Some("is_host")),
            ("keepalive_interval", Some("keep_alive_interval")),
            ("colour", None),
            ("x", None),
        ] {
            assert_eq!(nearest(key, all_keys()), wanted, "{key}");
        }
    }

    #[test]
    fn cfg_13_numbers_are_pythons() {
        let mut options = Options::default();
        options.set("join_timeout", "1_000").unwrap();
        options.set("keep_alive_max_attempt", "+1_0").unwrap();
        assert_eq!((options.join_timeout.as_secs(), options.keep_alive_max_attempt), (1000, 10));
        for bad in ["_1", "1_", "1__0", "1_.5"] {
            assert!(options.set("join_timeout", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_key_is_named() {
        for key in all_keys() {
            let known = Options::default().set(key, "no such value");
            let unknown = known.is_err_and(|error| error.to_string().contains("no such option"));
            assert!(!unknown, "{key}");
        }
    }

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
            ("protocol", "ftp", "must be http or https"),
            ("ssl_cert", " ", "must be the path of a file"),
            ("user", "", "must be a name"),
            ("ttl", "4", "must be whole seconds from 5"),
            ("ttl", "7.5", "must be whole seconds from 5"),
        ] {
            let text = message(key, value);
            assert!(text.contains(part) && text.contains("rendezvous_option is "), "{text}");
        }
        let mut options = Options::default();
        for (key, value) in [("store_type", "TCP"), ("is_host", "No"), ("last_call_timeout", "0.5")] {
            options.set(key, value).unwrap();
        }
        assert_eq!(
            (options.c10d.is_host, options.last_call_timeout),
            (Some(false), Duration::from_millis(500))
        );
        assert_eq!(options.dead_after(), Duration::from_secs(15));
    }
}
