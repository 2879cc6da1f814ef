//! Back ends that the host brings: functions of its own under a name.

use std::ffi::{CStr, CString};
use std::fmt;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, poll};

use super::{Asked, BackendKind, Configured, Opening};
use crate::error::{Error, c_string_lossy};
use crate::rendezvous::backend::{Backend, Stored, Swap, Token};
use crate::spec::HostPointer;
use crate::sys::process::poll_timeout;

/// How long one wait of the host's may take: the agent may want something meanwhile.
const SLICE: Duration = Duration::from_millis(500);
/// How often a key is looked for where the host has no function that waits.
const LOOK: Duration = Duration::from_millis(100);
/// The name of the key that is empty elsewhere.
const ANCHOR: &str = "anchor";

/// What a call of the host's came to.
pub struct Reply {
    pub verdict: Verdict,
    /// What is at the key, if anything.
    pub found: Option<Stored>,
    /// What went wrong.
    pub message: Option<String>,
}

#[derive(Clone, Copy, PartialEq)]
pub enum Verdict {
    Done,
    /// It may do better another time.
    Unreachable,
    Failed,
}

/// The host's functions.
pub trait Functions: Send + Sync {
    fn open(&self, endpoint: &CStr, run_id: &CStr) -> (HostPointer, Reply);
    fn get(&self, connection: HostPointer, key: &CStr) -> Reply;
    /// Whether it was stored, and what is there if not.
    fn compare_and_set(
        &self,
        connection: HostPointer,
        key: &CStr,
        expected: Option<&Token>,
        value: &[u8],
    ) -> (bool, Reply);
    /// None where the host has no such function.
    fn wait(&self, connection: HostPointer, key: &CStr, time: Duration) -> Option<Reply>;
    fn close(&self, connection: HostPointer);
}

/// One of them under its name.
#[derive(Clone)]
struct Foreign {
    name: String,
    functions: Arc<dyn Functions>,
}

pub fn register(name: &str, functions: Arc<dyn Functions>) -> Result<(), Error> {
    super::register(Box::new(Foreign { name: name.into(), functions }))
}

impl BackendKind for Foreign {
    fn name(&self) -> &str {
        &self.name
    }

    fn configure(&self, asked: &Asked) -> Result<Box<dyn Configured>, Error> {
        Ok(Box::new(Named { kind: self.clone(), endpoint: asked.endpoint.into() }))
    }
}

struct Named {
    kind: Foreign,
    endpoint: String,
}

impl fmt::Display for Named {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.kind.name, self.endpoint)
    }
}

impl Configured for Named {
    fn open(&self, opening: &Opening) -> Result<Box<dyn Backend>, Error> {
        let [endpoint, run_id] =
            [self.endpoint.as_str(), opening.run_id].map(|text| c_string_lossy(text.as_bytes()));
        Ok(Box::new(Way { kind: self.kind.clone(), endpoint, run_id, connection: None }))
    }
}

/// One agent's way to it.
struct Way {
    kind: Foreign,
    endpoint: CString,
    run_id: CString,
    connection: Option<HostPointer>,
}

impl Way {
    fn connection(&self) -> Result<HostPointer, Error> {
        self.connection.ok_or_else(|| Error::Store { what: "not connected".into() })
    }

    /// What was found, if the call went well.
    fn found(&self, function: &str, reply: Reply) -> Result<Option<Stored>, Error> {
        let said = reply.message.unwrap_or_else(|| "it does not say why".into());
        let what = format!("{function} of the rendezvous {} failed: {said}", self.kind.name);
        match reply.verdict {
            Verdict::Done => Ok(reply.found),
            Verdict::Unreachable => Err(Error::Store { what }),
            Verdict::Failed => Err(Error::Rendezvous { what }),
        }
    }
}

fn key(key: &str) -> CString {
    let name = if key.is_empty() { ANCHOR } else { key };
    c_string_lossy(name.as_bytes())
}

impl Backend for Way {
    fn connect(&mut self) -> Result<(), Error> {
        self.disconnect();
        let (connection, reply) = self.kind.functions.open(&self.endpoint, &self.run_id);
        self.found("open", reply)?;
        self.connection = Some(connection);
        Ok(())
    }

    fn get(&mut self, name: &str) -> Result<Option<Stored>, Error> {
        self.found("get", self.kind.functions.get(self.connection()?, &key(name)))
    }

    fn compare_and_set(&mut self, name: &str, expected: Option<&Token>, value: &[u8]) -> Result<Swap, Error> {
        let connection = self.connection()?;
        let (stored, reply) = self.kind.functions.compare_and_set(connection, &key(name), expected, value);
        let found = self.found("compare_and_set", reply)?;
        Ok(if stored { Swap::Done } else { Swap::Refused(found) })
    }

    fn wait(&mut self, name: &str, until: Instant, bell: BorrowedFd) -> Result<bool, Error> {
        let mut pause = Duration::ZERO;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let rung = poll(&mut [PollFd::new(bell, PollFlags::POLLIN)], poll_timeout(left.min(pause)));
            if left.is_zero() || matches!(rung, Ok(1..)) {
                return Ok(false);
            }
            match self.kind.functions.wait(self.connection()?, &key(name), left.min(SLICE)) {
                Some(reply) => drop(self.found("wait", reply)?),
                None => pause = LOOK,
            }
            if self.get(name)?.is_some() {
                return Ok(true);
            }
        }
    }

    fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.kind.functions.close(connection);
        }
    }
}

impl Drop for Way {
    fn drop(&mut self) {
        self.disconnect();
    }
}
