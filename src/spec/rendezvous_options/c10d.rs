//! The options of c10d alone.

use super::{refuse, yes_or_no};
use crate::error::Error;

pub const KEYS: &[&str] = &["is_host", "store_type", "use_libuv"];

#[derive(Clone, Debug, PartialEq)]
pub struct C10dOptions {
    /// Whether this agent serves the store; as the endpoint says, if this does not.
    pub is_host: Option<bool>,
    /// How many ports may be the store's, from the endpoint's on: more than one where nobody has chosen it.
    pub ports: u16,
}

impl Default for C10dOptions {
    fn default() -> C10dOptions {
        C10dOptions { is_host: None, ports: 1 }
    }
}

impl C10dOptions {
    /// Takes one of them; false if it is none.
    pub fn set(&mut self, key: &str, value: &str) -> Result<bool, Error> {
        match key {
            "is_host" => self.is_host = Some(yes_or_no(key, value)?),
            "store_type" if value.eq_ignore_ascii_case("tcp") => {}
            "store_type" => return Err(refuse(key, value, "must be tcp")),
            // Of torch's stores; there is one kind here.
            "use_libuv" => drop(yes_or_no(key, value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}
