//! A secret that server and clients share: each shows the other that it knows it, and it never goes over the wire.
//! No I/O.
//!
//! It comes before all that PyTorch's protocol has, and begins with a byte that is none of its opcodes:
//!
//! | from | bytes |
//! | --- | --- |
//! | client | `ice 1`, its nonce of 32 bytes |
//! | server | 1, its nonce of 32 bytes; or 0, for it has no secret, and closes |
//! | client | HMAC-SHA-256 of `client`, its nonce and the server's |
//! | server | 1, HMAC-SHA-256 of `server`, the same two; or 0, for that was wrong, and closes |
//!
//! The client goes first: who only listens, or only asks, gets nothing by which guesses could be tried. To a
//! client that begins in another way a server with a secret says `ice?`, four bytes where the answer to PING would
//! be, and closes. After it nothing is encrypted or signed.

use std::fmt;
use std::fs::Metadata;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use nix::unistd::geteuid;
use sha2::Sha256;

use crate::error::Error;
use crate::sys::file::{self, Unusable};

/// What a client begins with.
const HELLO: &[u8; 5] = b"ice 1";
/// What a server with a secret says to a client that begins in another way.
pub const WANTED: [u8; 4] = *b"ice?";
const YES: u8 = 1;
const NO: u8 = 0;

const NONCE: usize = 32;
pub type Nonce = [u8; NONCE];
pub type Proof = [u8; 32];

/// How long a secret may be. Fewer bytes could be guessed by who has seen a connection begin.
const LENGTHS: std::ops::RangeInclusive<usize> = 16..=4096;

/// Bytes that only the processes of a job know.
#[derive(Clone, PartialEq)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    pub fn new(bytes: &[u8]) -> Result<Secret, Error> {
        if !LENGTHS.contains(&bytes.len()) {
            let want = format!("must be {} to {} bytes long", LENGTHS.start(), LENGTHS.end());
            return Err(Error::config("secret", shown(bytes.len()), want));
        }
        Ok(Secret(bytes.into()))
    }

    /// What a file has, without a newline at its end: one that is closed to others, and not of their making.
    pub fn of_file(path: &Path) -> Result<Secret, Error> {
        let failed = |unusable: Unusable| {
            unusable.into_error(format_args!("cannot read the store's secret, {}", path.display()))
        };
        let file = file::open(path, libc::O_RDONLY, 0).map_err(failed)?;
        let about = file.metadata().map_err(|error| failed(error.into()))?;
        check_owner(path, &about, geteuid().as_raw())?;
        let mut bytes = Vec::new();
        // Longer than any secret, so that what is too long is known to be.
        let most = *LENGTHS.end() as u64 + 2;
        file.take(most).read_to_end(&mut bytes).map_err(|error| failed(error.into()))?;
        Secret::new(bytes.strip_suffix(b"\n").unwrap_or(&bytes))
    }

    fn mac(&self, who: &[u8], nonces: [&Nonce; 2]) -> Hmac<Sha256> {
        // A key of any length will do: there is no error.
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).unwrap_or_else(|_| unreachable!());
        [who, nonces[0], nonces[1]].iter().for_each(|part| mac.update(part));
        mac
    }

    /// What a client answers.
    pub fn proof_of_client(&self, client: &Nonce, server: &Nonce) -> Proof {
        self.mac(b"client", [client, server]).finalize().into_bytes().into()
    }

    /// Whether a server knows it; in the same time whatever it said.
    pub fn is_servers_proof(&self, proof: &Proof, client: &Nonce, server: &Nonce) -> bool {
        self.mac(b"server", [client, server]).verify_slice(proof).is_ok()
    }

    /// Why a connection came to nothing, for messages.
    pub fn refused(this: Option<&Secret>, why: impl Into<String>) -> Error {
        Error::config("secret", this.map_or("unset".into(), |secret| shown(secret.0.len())), why)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Secret({})", shown(self.0.len()))
    }
}

/// Refuses a file whose content others may know, or choose. A group may read it: some mount secrets so.
fn check_owner(path: &Path, about: &Metadata, user: u32) -> Result<(), Error> {
    let refuse = |is: String, want: &str| {
        Err(Error::config("secret_file", format!("{} ({is})", path.display()), want))
    };
    let mode = about.mode() & 0o777;
    if mode & 0o027 != 0 {
        return refuse(
            format!("mode {mode:04o}"),
            "must be closed to others, and to its group for writing: chmod g-w,o-rwx",
        );
    }
    if ![0, about.uid()].contains(&user) && about.uid() != 0 {
        return refuse(format!("of user {}", about.uid()), "must be a file of this user, or of root");
    }
    Ok(())
}

/// In place of the bytes.
fn shown(length: usize) -> String {
    format!("{length} bytes long")
}

/// What a client with a secret begins with.
pub fn hello(nonce: &Nonce, out: &mut Vec<u8>) {
    out.extend_from_slice(HELLO);
    out.extend_from_slice(nonce);
}

/// A server's answer that begins with this byte goes on.
pub fn is_yes(answer: u8) -> bool {
    answer == YES
}

/// The client is not let in. What is to be said to it has been said.
#[derive(Debug, PartialEq)]
pub struct Refused;

/// The beginning of one connection, as a server has it.
pub enum Door {
    /// A server without a secret refuses clients that begin to show one, and lets in all others.
    Unlocked,
    Locked(Lock),
    /// The client has said hello, and is to show what it knows of the two nonces.
    Challenged(Lock, Nonce),
    Open,
}

pub struct Lock {
    pub secret: Secret,
    pub nonce: Nonce,
}

impl Door {
    pub fn new(lock: Option<Lock>) -> Door {
        lock.map_or(Door::Unlocked, Door::Locked)
    }

    pub fn is_open(&self) -> bool {
        matches!(self, Door::Open)
    }

    /// Looks at what has come. How many bytes it has used of it, which may be none when it opens; None if more have
    /// to come.
    pub fn pass(&mut self, bytes: &[u8], replies: &mut Vec<u8>) -> Result<Option<usize>, Refused> {
        let mut refuse = |said: &[u8]| {
            replies.extend_from_slice(said);
            Err(Refused)
        };
        match std::mem::replace(self, Door::Open) {
            Door::Open => Ok(Some(0)),
            Door::Unlocked => match bytes.first() {
                None => Ok(self.stay(Door::Unlocked)),
                Some(first) if *first == HELLO[0] => refuse(&[NO]),
                Some(_) => Ok(Some(0)),
            },
            Door::Locked(lock) => {
                let (begun, rest) = bytes.split_at(bytes.len().min(HELLO.len()));
                if !HELLO.starts_with(begun) {
                    return refuse(&WANTED);
                }
                let Some(nonce) = rest.first_chunk::<NONCE>() else {
                    return Ok(self.stay(Door::Locked(lock)));
                };
                replies.push(YES);
                replies.extend_from_slice(&lock.nonce);
                *self = Door::Challenged(lock, *nonce);
                Ok(Some(HELLO.len() + NONCE))
            }
            Door::Challenged(lock, client) => {
                let nonces = [&client, &lock.nonce];
                let Some(proof) = bytes.first_chunk::<{ size_of::<Proof>() }>() else {
                    return Ok(self.stay(Door::Challenged(lock, client)));
                };
                if lock.secret.mac(b"client", nonces).verify_slice(proof).is_err() {
                    return refuse(&[NO]);
                }
                replies.push(YES);
                replies.extend_from_slice(&lock.secret.mac(b"server", nonces).finalize().into_bytes());
                Ok(Some(proof.len()))
            }
        }
    }

    fn stay(&mut self, at: Door) -> Option<usize> {
        *self = at;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: Nonce = [1; NONCE];
    const SERVER: Nonce = [2; NONCE];

    fn secret(text: &[u8]) -> Secret {
        Secret::new(text).unwrap()
    }

    fn locked() -> Door {
        Door::new(Some(Lock { secret: secret(b"the secret of all"), nonce: SERVER }))
    }

    fn said(door: &mut Door, bytes: &[u8]) -> (Result<Option<usize>, Refused>, Vec<u8>) {
        let mut replies = Vec::new();
        (door.pass(bytes, &mut replies), replies)
    }

    /// All that a client with this secret says until it is let in.
    fn client_says(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        hello(&CLIENT, &mut out);
        out.extend(secret(text).proof_of_client(&CLIENT, &SERVER));
        out
    }

    #[test]
    fn who_knows_it_is_let_in_and_sees_that_the_server_knows_it() {
        let all = client_says(b"the secret of all");
        // However it is cut.
        for cut in 0..all.len() {
            let (mut door, mut start, mut replies) = (locked(), 0, Vec::new());
            for end in [cut, all.len()] {
                while !door.is_open() {
                    match door.pass(&all[start..end], &mut replies).unwrap() {
                        Some(used) => start += used,
                        None => break,
                    }
                }
            }
            assert!(door.is_open() && start == all.len());
            assert_eq!(replies[..33], [&[YES][..], &SERVER].concat());
            let proof: Proof = replies[34..].try_into().unwrap();
            let ours = secret(b"the secret of all");
            assert!(is_yes(replies[33]) && ours.is_servers_proof(&proof, &CLIENT, &SERVER));
            // Another secret, another connection, or the client's own proof sent back.
            assert!(!secret(b"the secret of none").is_servers_proof(&proof, &CLIENT, &SERVER));
            assert!(!ours.is_servers_proof(&proof, &SERVER, &CLIENT));
            assert!(!ours.is_servers_proof(all[37..].try_into().unwrap(), &CLIENT, &SERVER));
        }
    }

    #[test]
    fn who_does_not_is_told_and_refused() {
        let mut door = locked();
        let other = client_says(b"some other secret");
        assert_eq!(said(&mut door, &other).0, Ok(Some(37)));
        assert_eq!(said(&mut door, &other[37..]), (Err(Refused), vec![NO]));
        // PyTorch's client, another version, and anything else, at the first byte that is not right.
        for bytes in [&[0, 0xce, 0xf7, 0x85, 0x3c][..], b"ice 2", b"G", &[13]] {
            assert_eq!(said(&mut locked(), bytes), (Err(Refused), WANTED.to_vec()));
        }
        assert_eq!(said(&mut locked(), b"ic"), (Ok(None), vec![]));
    }

    #[test]
    fn a_server_without_one_says_so() {
        let mut door = Door::new(None);
        assert_eq!(said(&mut door, b""), (Ok(None), vec![]));
        assert_eq!(said(&mut door, b"ice"), (Err(Refused), vec![NO]));
        let mut door = Door::new(None);
        assert_eq!(said(&mut door, &[0]), (Ok(Some(0)), vec![]));
        assert!(door.is_open());
    }

    #[test]
    fn it_is_not_shown_and_not_short() {
        assert_eq!(format!("{:?}", secret(b"the secret of all")), "Secret(17 bytes long)");
        let short = Secret::new(b"hunter2").unwrap_err().to_string();
        assert_eq!(short, "config error: secret is \"7 bytes long\": must be 16 to 4096 bytes long");
        assert!(Secret::new(&[7; 4097]).is_err());
    }
}
