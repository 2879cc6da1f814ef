//! The C ABI: check, convert, call, guard. One file per noun of the header; `include/ice.h` is made
//! from these files.

#![allow(non_camel_case_types)] // the names are C's

mod agent;
mod assignment;
mod control;
mod device;
mod log;
mod on_signal;
mod options;
mod plan;
mod rendezvous;
mod rendezvous_place;
mod request;
mod result;
mod scheduler;
mod snapshot;
mod spec;
mod spec_control;
mod spec_events;
mod spec_output;
mod spec_restart;
mod spec_surroundings;
mod spec_work;
#[cfg(all(target_env = "gnu", target_pointer_width = "64"))]
mod start;
mod status;
mod store;
mod store_server;
mod worker;

use std::ffi::{CStr, c_char};
use std::time::Duration;

use crate::error::Error;

/// The row of an option, by its name, which the compiler looks up.
macro_rules! option {
    ($name:literal) => {
        const { crate::spec::options::row($name) }
    };
}
use option;

/// A handle of the host, checked for NULL.
fn handle<'a, T>(pointer: *const T, name: &str) -> Result<&'a T, Error> {
    // SAFETY: the header says that handles come from this library and are not used after their free.
    unsafe { pointer.as_ref() }.ok_or_else(|| null(name))
}

/// One of a list that a handle owns.
fn item<T>(list: &[T], index: usize, what: &str) -> Result<*const T, Error> {
    list.get(index)
        .map(std::ptr::from_ref)
        .ok_or_else(|| Error::Argument { what: format!("there is no {what} {index}, only {}", list.len()) })
}

/// A place to write an output to, checked for NULL.
fn output<'a, T>(pointer: *mut T, name: &str) -> Result<&'a mut T, Error> {
    // SAFETY: the header says that outputs point to writable memory of their type.
    unsafe { pointer.as_mut() }.ok_or_else(|| null(name))
}

/// The bytes of a NUL-terminated string.
fn text<'a>(pointer: *const c_char, name: &str) -> Result<&'a [u8], Error> {
    if pointer.is_null() {
        return Err(null(name));
    }
    // SAFETY: not NULL, and the header says that strings are NUL-terminated.
    Ok(unsafe { CStr::from_ptr(pointer) }.to_bytes())
}

/// The same where only UTF-8 makes sense: lists and numbers.
fn utf8<'a>(pointer: *const c_char, name: &'static str) -> Result<&'a str, Error> {
    crate::spec::plain(name, text(pointer, name)?)
}

/// Bytes by pointer and length; NULL is fine for length 0.
fn bytes<'a>(pointer: *const c_char, length: usize, name: &str) -> Result<&'a [u8], Error> {
    if length == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() {
        return Err(null(name));
    }
    if length > isize::MAX as usize {
        return Err(Error::Argument { what: format!("the length of {name} is larger than memory") });
    }
    // SAFETY: not NULL, and the header says that `length` bytes are readable there.
    Ok(unsafe { std::slice::from_raw_parts(pointer.cast(), length) })
}

/// How long a function may wait; none is without a limit.
fn limit(seconds: f64) -> Result<Option<Duration>, Error> {
    if seconds.is_nan() {
        return Err(Error::Argument { what: "seconds is not a number".into() });
    }
    Ok((seconds >= 0.0).then(|| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)))
}

fn null(name: &str) -> Error {
    Error::Argument { what: format!("{name} is NULL") }
}
