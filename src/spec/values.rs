//! Single values of a spec: what each may be, and how it is read.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use super::names::Signal;
use super::variables::is_reserved;
use crate::error::Error;

/// A bound for every time in a spec: about 31 years, far from where a deadline could overflow.
pub const MAX_SECONDS: f64 = 1e9;

pub fn below(field: &'static str, rank: impl std::fmt::Display, size: usize) -> Error {
    Error::config(field, rank, format!("a local rank must be below local_world_size, which is {size}"))
}

/// A whole number within bounds.
pub fn number(field: &'static str, value: i64, low: i64, high: i64) -> Result<i64, Error> {
    if (low..=high).contains(&value) {
        Ok(value)
    } else {
        Err(Error::config(field, value, format!("must be a whole number from {low} to {high}")))
    }
}

/// A time in seconds: finite, not negative, not absurd.
pub fn seconds(field: &'static str, value: f64) -> Result<Duration, Error> {
    if value.is_finite() && (0.0..=MAX_SECONDS).contains(&value) {
        Ok(Duration::from_secs_f64(value))
    } else {
        Err(Error::config(field, value, format!("must be seconds from 0 to {MAX_SECONDS:.0}")))
    }
}

/// The same in a variable of the environment, if it is there.
pub fn seconds_in(
    name: &'static str,
    var: impl Fn(&str) -> Option<Vec<u8>>,
) -> Result<Option<Duration>, Error> {
    let Some(text) = var(name) else { return Ok(None) };
    let text = String::from_utf8_lossy(&text).into_owned();
    let want = "this environment variable must be a number of seconds, 0 or more";
    let number = text.trim().parse().map_err(|_| Error::config(name, &text, want))?;
    seconds(name, number).map(Some)
}

/// Bytes for argv, envp or a path: no NUL within.
pub fn c_bytes(field: &'static str, bytes: &[u8]) -> Result<CString, Error> {
    CString::new(bytes).map_err(|error| {
        Error::config(
            field,
            String::from_utf8_lossy(bytes),
            format!(
                "has a NUL byte at offset {}, which no argument, variable or path can hold",
                error.nul_position()
            ),
        )
    })
}

pub fn not_empty<'a>(field: &'static str, bytes: &'a [u8]) -> Result<&'a [u8], Error> {
    if bytes.is_empty() { Err(Error::config(field, "", "must not be empty")) } else { Ok(bytes) }
}

pub fn path(field: &'static str, bytes: &[u8]) -> Result<PathBuf, Error> {
    c_bytes(field, not_empty(field, bytes)?)?;
    Ok(PathBuf::from(OsStr::from_bytes(bytes)))
}

/// A variable's name that a host may set: an own one, without `=`.
pub fn env_key(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let shown = String::from_utf8_lossy(bytes);
    c_bytes("env", not_empty("env", bytes)?)?;
    if bytes.contains(&b'=') {
        return Err(Error::config("env", shown, "the name of a variable must not have a '='"));
    }
    if is_reserved(bytes) {
        return Err(Error::config(
            "env",
            shown,
            "the agent sets this variable for each worker, no one else may",
        ));
    }
    Ok(bytes.to_vec())
}

/// A comma-separated list of signals: the known ones, and the names nobody knows.
pub fn signal_list(field: &'static str, list: &[u8]) -> Result<(Vec<i32>, Vec<String>), Error> {
    let (mut known, mut unknown) = (Vec::new(), Vec::new());
    for name in String::from_utf8_lossy(list).split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match Signal::parse(name) {
            None => unknown.push(name.to_string()),
            Some(signal) => {
                catchable(field, signal)?;
                if !known.contains(&signal.0) {
                    known.push(signal.0);
                }
            }
        }
    }
    Ok((known, unknown))
}

pub fn catchable(field: &'static str, signal: Signal) -> Result<(), Error> {
    let no = match signal.0 {
        libc::SIGKILL | libc::SIGSTOP => "this signal cannot be caught by anyone",
        libc::SIGCHLD => "the host needs this signal for its own children",
        libc::SIGSEGV | libc::SIGBUS | libc::SIGFPE | libc::SIGILL => {
            "this signal tells of a defect of the host itself and is left to it"
        }
        _ => return Ok(()),
    };
    Err(Error::config(field, signal, no))
}

/// A signal number to send.
pub fn signal(field: &'static str, number: i64) -> Result<i32, Error> {
    let highest = i64::from(libc::SIGRTMAX());
    self::number(field, number, 1, highest).map(|number| number as i32)
}

/// Text where only UTF-8 makes sense: lists and numbers.
pub fn plain<'a>(field: &'static str, bytes: &'a [u8]) -> Result<&'a str, Error> {
    std::str::from_utf8(bytes)
        .map_err(|_| Error::config(field, String::from_utf8_lossy(bytes), "must be plain text"))
}

/// A number as Python reads it: without the blanks around it, and without each underscore between two digits.
pub fn digits(text: &str) -> String {
    let text = text.trim();
    let bytes = text.as_bytes();
    let is_digit = |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_digit);
    let parts = |at: usize| is_digit(at.checked_sub(1)) && is_digit(Some(at + 1));
    text.char_indices().filter(|&(at, c)| c != '_' || !parts(at)).map(|(_, c)| c).collect()
}

/// The name that was meant, if one is near enough.
pub fn nearest<'k>(text: &str, names: impl IntoIterator<Item = &'k str>) -> Option<&'k str> {
    let near = names.into_iter().map(|name| (distance(text, name), name)).min()?;
    (near.0 <= 1 + text.len() / 4).then_some(near.1)
}

/// How many letters have to be put in, left out or changed to come from one to the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in other.iter().enumerate() {
            let least = (corner + usize::from(a != *b)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = std::mem::replace(&mut row[j + 1], least);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sp_12_reserved_names_are_refused() {
        assert!(env_key(b"RANK").unwrap_err().to_string().contains("RANK"));
        assert!(env_key(b"A=B").is_err());
        assert!(env_key(b"").is_err());
        assert!(env_key(b"A\0").is_err());
        assert!(env_key(b"OMP_NUM_THREADS").is_ok());
    }

    #[test]
    fn sig_08_signal_lists() {
        let (known, unknown) = signal_list("signals", b"SIGTERM, SIGUSR1,SIGTERM,BOGUS").unwrap();
        assert_eq!(known, [libc::SIGTERM, libc::SIGUSR1]);
        assert_eq!(unknown, ["BOGUS"]);
        assert!(signal_list("signals", b"SIGKILL").unwrap_err().to_string().contains("SIGKILL"));
        assert!(signal_list("signals", b"SIGTERM,STOP").is_err());
    }
}
