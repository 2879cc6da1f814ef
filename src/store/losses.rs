//! Whose end is told of: that of connections by which a key was set that begins in some way.

use std::fmt;
use std::sync::Arc;

type Tell = dyn Fn(&[u8], i64) + Send + Sync;

#[derive(Clone)]
pub struct Losses {
    /// As the table has it.
    below: Vec<u8>,
    tell: Arc<Tell>,
}

impl Losses {
    /// `below`: what the keys begin with, as clients see them. `tell` gets the rest of the last such key, and its number, in the
    /// server's thread; not where that key is gone, or was set by another connection since.
    pub fn new(below: &str, tell: impl Fn(&[u8], i64) + Send + Sync + 'static) -> Losses {
        Losses { below: format!("/{below}").into_bytes(), tell: Arc::new(tell) }
    }

    pub fn concern(&self, key: &[u8]) -> bool {
        key.starts_with(&self.below)
    }

    /// Tells of the end of the connection by which this key was set last.
    pub fn tell(&self, key: &[u8], number: i64) {
        (self.tell)(&key[self.below.len()..], number);
    }
}

impl fmt::Debug for Losses {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Losses below {}", String::from_utf8_lossy(&self.below))
    }
}
