//! The functions that a program registered under names, so that a new process of the same program can
//! find them.

use std::ffi::{CStr, CString};

use parking_lot::Mutex;

use crate::error::Error;
use crate::spec::Callback;

static FUNCTIONS: Mutex<Vec<(CString, Callback)>> = Mutex::new(Vec::new());

/// A name means one function: a second one under the same name is an error, the same one again is not.
pub fn add(name: &CStr, callback: Callback) -> Result<(), Error> {
    let mut functions = FUNCTIONS.lock();
    match functions.iter().find(|(known, _)| known.as_c_str() == name) {
        Some((_, known)) if *known == callback => Ok(()),
        Some(_) => Err(Error::config(
            "name",
            name.to_string_lossy(),
            "another function is registered under this name",
        )),
        None => {
            functions.push((name.to_owned(), callback));
            Ok(())
        }
    }
}

/// A registered function, or what there is instead.
pub fn find(name: &CStr) -> Result<Callback, String> {
    let functions = FUNCTIONS.lock();
    if let Some((_, callback)) = functions.iter().find(|(known, _)| known.as_c_str() == name) {
        return Ok(*callback);
    }
    let known: Vec<String> = functions.iter().map(|(name, _)| format!("{name:?}")).collect();
    let known =
        if known.is_empty() { "none is".into() } else { format!("registered are {}", known.join(", ")) };
    Err(format!("no function is registered as {name:?} when ice_worker_main() is called: {known}"))
}
