//! `ice_spec`: what to run, written down by builder functions. These are in the files `spec_*.rs`, by subject.

use std::ffi::c_char;

use super::status::{guard, ice_status};
use super::{output, text};
use crate::error::Error;
use crate::spec::Spec;
use crate::spec::options::Row;

/// What to run and how, written down with the functions `ice_spec_*`. Every value is copied before
/// the function returns. A function that refuses its value returns ICE_ERROR_CONFIG, leaves the field
/// as it was, and the spec remembers the first refusal: `ice_agent_new()` repeats it, so it is enough
/// to check there.
///
/// One spec may make any number of agents; each takes its own copy. A spec is not locked: one thread
/// at a time. Unless a function says otherwise it gives ICE_ERROR_ARGUMENT for a NULL pointer and
/// ICE_ERROR_CONFIG for a value it does not take.
pub struct ice_spec {
    spec: Spec,
}

impl ice_spec {
    pub(super) fn get(&self) -> &Spec {
        &self.spec
    }
}

pub(super) fn edit(spec: *mut ice_spec, change: impl FnOnce(&mut Spec) -> Result<(), Error>) -> ice_status {
    guard(|| output(spec, "spec")?.spec.edit(change))
}

/// The typed setters: each stores a value by the row of its option.
pub(super) fn set_flag(spec: *mut ice_spec, row: &Row, on: i32) -> ice_status {
    edit(spec, |spec| row.set_flag(spec, on != 0))
}

pub(super) fn set_number(spec: *mut ice_spec, row: &Row, value: i64) -> ice_status {
    edit(spec, |spec| row.set_number(spec, value))
}

pub(super) fn set_seconds(spec: *mut ice_spec, row: &Row, value: f64) -> ice_status {
    edit(spec, |spec| row.set_seconds(spec, value))
}

/// By its number in the C enum.
pub(super) fn set_word(spec: *mut ice_spec, row: &Row, value: i32) -> ice_status {
    edit(spec, |spec| row.set_word(spec, value))
}

/// `name` is that of the parameter.
pub(super) fn set_text(spec: *mut ice_spec, row: &Row, value: *const c_char, name: &str) -> ice_status {
    edit(spec, |spec| row.set(spec, text(value, name)?))
}

/// Makes a spec with all fields at their defaults and writes it to `*out`. The caller owns it and
/// frees it with `ice_spec_free()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_new(out: *mut *mut ice_spec) -> ice_status {
    guard(|| {
        let out = output(out, "out")?;
        *out = Box::into_raw(Box::new(ice_spec { spec: Spec::default() }));
        Ok(())
    })
}

/// Frees a spec. NULL is fine. Agents made from it are not touched.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_free(spec: *mut ice_spec) {
    if !spec.is_null() {
        // SAFETY: the header says that a spec comes from `ice_spec_new` and is freed once.
        drop(unsafe { Box::from_raw(spec) });
    }
}
