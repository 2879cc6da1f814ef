//! `c10d`: a store with PyTorch's protocol that nodes come to and leave.

use std::fmt;

use super::store::NamedStore;
use super::{Asked, BackendKind, Configured, Opening};
use crate::error::Error;
use crate::rendezvous::backend::Backend;
use crate::rendezvous::hosting::Hosting;
use crate::spec::endpoint::Endpoint;

/// torch's, where an endpoint has none.
const DEFAULT_PORT: u16 = 29400;

pub struct C10d;

impl BackendKind for C10d {
    fn name(&self) -> &str {
        "c10d"
    }

    fn configure(&self, asked: &Asked) -> Result<Box<dyn Configured>, Error> {
        let endpoint = Endpoint::parse(asked.endpoint, Some(DEFAULT_PORT))?;
        let hosting = match asked.nodes.options.c10d.is_host {
            Some(true) => Hosting::Always,
            Some(false) => Hosting::Never,
            None => Hosting::IfHere,
        };
        let store = NamedStore::new(endpoint, asked, false)?.at_one_of(asked.nodes.options.c10d.ports);
        Ok(Box::new(Dynamic { store, hosting }))
    }
}

struct Dynamic {
    store: NamedStore,
    hosting: Hosting,
}

impl fmt::Display for Dynamic {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.store.endpoint)
    }
}

impl Configured for Dynamic {
    fn open(&self, opening: &Opening) -> Result<Box<dyn Backend>, Error> {
        self.store.open(opening, self.hosting, false)
    }
}
