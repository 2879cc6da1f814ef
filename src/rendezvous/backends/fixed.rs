//! `static`: a given set of nodes, each of which says its rank. The agent of the first serves the store.

use std::fmt;

use super::store::NamedStore;
use super::{Asked, BackendKind, Configured, Opening};
use crate::error::Error;
use crate::rendezvous::backend::Backend;
use crate::rendezvous::hosting::Hosting;
use crate::spec::endpoint::Endpoint;

pub struct Static;

impl BackendKind for Static {
    fn name(&self) -> &str {
        "static"
    }

    fn configure(&self, asked: &Asked) -> Result<Box<dyn Configured>, Error> {
        let (endpoint, rank) = check(asked)?;
        let hosting = if rank == 0 { Hosting::Always } else { Hosting::Never };
        let store = NamedStore::new(endpoint, asked, asked.serves)?;
        Ok(Box::new(Fixed { store, hosting, is_for_workers: asked.serves }))
    }
}

fn check(asked: &Asked) -> Result<(Endpoint, u64), Error> {
    let (min, max) = asked.nodes.range();
    if min != max {
        let want = "a static rendezvous has a fixed number of nodes; c10d has a range";
        return Err(Error::config("nodes", format!("{min}:{max}"), want));
    }
    let Some(rank) = asked.rank else {
        let want = "a static rendezvous needs it: ice_spec_set_node_rank(), icerun --node-rank";
        return Err(Error::config("node_rank", "unset", want));
    };
    if rank >= max as u64 {
        let want = format!("must be below the number of nodes, which is {max}");
        return Err(Error::config("node_rank", rank, want));
    }
    if asked.endpoint.trim().is_empty() {
        let want = "a static rendezvous needs HOST:PORT of the node with rank 0";
        return Err(Error::config("rendezvous_endpoint", "", want));
    }
    let endpoint = Endpoint::parse(asked.endpoint, None)?;
    if endpoint.port == 0 {
        return Err(Error::config("rendezvous_endpoint", &endpoint, "needs a port that all nodes know"));
    }
    Ok((endpoint, rank))
}

struct Fixed {
    store: NamedStore,
    hosting: Hosting,
    /// Workers are to meet at the same store, if they may come in.
    is_for_workers: bool,
}

impl fmt::Display for Fixed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.store.endpoint)
    }
}

impl Configured for Fixed {
    fn is_fixed(&self) -> bool {
        true
    }

    fn endpoint_of_workers(&self) -> Option<&Endpoint> {
        Some(&self.store.endpoint)
    }

    fn open(&self, opening: &Opening) -> Result<Box<dyn Backend>, Error> {
        self.store.open(opening, self.hosting, self.is_for_workers)
    }
}
