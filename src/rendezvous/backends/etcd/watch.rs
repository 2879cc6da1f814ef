//! A watch: etcd tells of keys as they are put, on a connection of its own, since one of HTTP/1.1 that waits for an
//! answer can do nothing else.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use super::api::{self, Told};
use super::http::{Answer, Connection, Head, Waited};
use super::link::{Link, check};
use crate::error::Error;

pub struct Watch {
    connection: Connection,
    head: Head,
    /// What was told and not yet read: lines of JSON.
    text: Vec<u8>,
    prefix: String,
}

impl Watch {
    /// Of all keys that begin with `prefix`, from a revision on.
    pub fn begin(
        mut connection: Connection,
        link: &Link,
        prefix: &str,
        revision: i64,
        by: Instant,
    ) -> Result<Watch, Error> {
        let request = api::watch(prefix, revision).to_string();
        connection.send("/v3/watch", link.token.as_deref(), &request, by)?;
        let mut head = connection.head(by)?;
        if head.status != 200 {
            let body = connection.rest(&mut head, by)?;
            check(&connection, &Answer { status: head.status, body })?;
        }
        Ok(Watch { connection, head, text: Vec::new(), prefix: prefix.into() })
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Returns when the key was put (then true), when it is `until`, or when `bell` is readable.
    pub fn wait(&mut self, key: &[u8], until: Instant, bell: BorrowedFd) -> Result<bool, Error> {
        loop {
            while let Some(end) = memchr::memchr(b'\n', &self.text) {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                match api::told(&serde_json::from_slice(&line).unwrap_or_default()) {
                    Told::Put(keys) if keys.iter().any(|put| put == key) => return Ok(true),
                    Told::Put(_) => {}
                    Told::Over(why) => {
                        return Err(self.connection.passing(&format!("has ended a watch: {why}")));
                    }
                }
            }
            match self.connection.wait(until, bell)? {
                Waited::Ready => {}
                Waited::Late | Waited::Rung => return Ok(false),
            }
            if self.connection.take(&mut self.head, &mut self.text)? {
                return Err(self.connection.passing("has ended a watch"));
            }
        }
    }
}
