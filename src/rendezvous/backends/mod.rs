//! The rendezvous back ends: where agents meet, and by which protocol. Each is a file or a folder behind
//! [`BackendKind`], and a line in `OWN`.

pub mod c10d;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod fixed;
pub mod foreign;
pub mod store;

use std::fmt::Display;

use parking_lot::Mutex;

use super::backend::Backend;
use crate::error::Error;
use crate::spec::endpoint::Endpoint;
use crate::spec::nodes::Nodes;
use crate::spec::rendezvous_options::Options;

/// The library's own.
const OWN: &[&dyn BackendKind] = &[
    &fixed::Static,
    &c10d::C10d,
    #[cfg(feature = "etcd")]
    &etcd::EtcdKind,
];

/// Those that the host has registered, for good.
static OF_HOST: Mutex<Vec<&'static dyn BackendKind>> = Mutex::new(Vec::new());

/// A kind of back end, by whose name a spec asks for it.
pub trait BackendKind: Send + Sync {
    fn name(&self) -> &str;

    /// Checks all that a spec says of it. Nothing is connected yet.
    fn configure(&self, asked: &Asked) -> Result<Box<dyn Configured>, Error>;
}

/// What a spec, and the environment of the agent, say of a back end.
pub struct Asked<'a> {
    pub nodes: &'a Nodes,
    pub endpoint: &'a str,
    /// The rank that this node wants.
    pub rank: Option<u64>,
    /// Whether agents serve the workers' store.
    pub serves: bool,
    pub var: &'a dyn Fn(&str) -> Option<Vec<u8>>,
}

/// A back end with its endpoint and its options, which are right as far as that is known without a connection. It is
/// shown as people know it.
pub trait Configured: Display + Send + Sync {
    /// Whether the nodes are a given set, none of which can be replaced.
    fn is_fixed(&self) -> bool {
        false
    }

    /// The endpoint at which workers meet, where they can do so at the back end's own store.
    fn endpoint_of_workers(&self) -> Option<&Endpoint> {
        None
    }

    /// One agent's way to it.
    fn open(&self, opening: &Opening) -> Result<Box<dyn Backend>, Error>;
}

/// What an agent knows when it goes to meet the others.
pub struct Opening<'a> {
    pub run_id: &'a str,
    pub options: &'a Options,
    /// How many descriptors the workers of this agent need.
    pub descriptors: usize,
    /// Takes what is for people to know.
    pub note: &'a dyn Fn(String),
}

/// The back end of this name; or why there is none.
pub fn find(name: &str) -> Result<&'static dyn BackendKind, Error> {
    let of_host = OF_HOST.lock();
    let found = OWN.iter().chain(of_host.iter()).find(|kind| kind.name() == name);
    found.copied().ok_or_else(|| Error::config("rendezvous", name, what_else(name)))
}

fn what_else(name: &str) -> String {
    match name {
        "etcd" => "this library was built without it: cargo build --features etcd".into(),
        "etcd-v2" => "current etcd servers have no v2 API any more: etcd is their v3 API".into(),
        _ => {
            let names = OWN.iter().map(|kind| kind.name()).collect::<Vec<_>>().join(", ");
            let (others, last) = names.rsplit_once(", ").unwrap_or_default();
            format!("must be {others} or {last}, or a name of ice_rendezvous_register()")
        }
    }
}

/// Adds one of the host's. A name means one back end.
pub fn register(kind: Box<dyn BackendKind>) -> Result<(), Error> {
    let refuse = |want: &str| Err(Error::config("name", kind.name(), want));
    // Names that begin so are kept for what may come.
    if OWN.iter().any(|own| own.name() == kind.name()) || kind.name().starts_with("etcd") {
        return refuse("is a name of the library's own");
    }
    let mut of_host = OF_HOST.lock();
    if of_host.iter().any(|known| known.name() == kind.name()) {
        return refuse("another rendezvous is registered under this name");
    }
    of_host.push(Box::leak(kind));
    Ok(())
}
