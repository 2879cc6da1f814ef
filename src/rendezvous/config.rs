//! How the agents of a job meet, worked out of the spec and the environment.

use std::fmt;
use std::time::Duration;

use super::foreign;
use super::leader::Rules;
use super::secret::Source;
use crate::error::Error;
use crate::spec::endpoint::Endpoint;
use crate::spec::nodes::{NodeRank, Nodes, is_not_shared};
use crate::spec::rendezvous_options::Options;
use crate::spec::{Spec, seconds_in};

/// torch's, where an endpoint has none.
const C10D_PORT: u16 = 29400;
/// Variables by which a scheduler says which of its tasks a process is, in the order in which they are looked at.
const SCHEDULERS: [&str; 2] = ["SLURM_PROCID", "JOB_COMPLETION_INDEX"];

/// Refuses a backend that there is not.
pub fn check_backend(kind: &str) -> Result<(), Error> {
    let want = match kind {
        "static" | "c10d" => return Ok(()),
        "etcd" if cfg!(feature = "etcd") => return Ok(()),
        "etcd" => "this library was built without it: cargo build --features etcd",
        "etcd-v2" => "current etcd servers have no v2 API any more: etcd is their v3 API",
        _ if foreign::find(kind).is_some() => return Ok(()),
        _ => "must be static, c10d or etcd, or a name of ice_rendezvous_register()",
    };
    Err(Error::config("rendezvous", kind, want))
}

/// Where agents meet.
#[derive(Clone, Debug, PartialEq)]
pub enum Place {
    /// Of a given set of nodes; the first serves it.
    Static(Endpoint),
    C10d(Endpoint),
    /// The servers of an etcd.
    Etcd(String),
    /// One that the host brought, by its name, and what that calls a place.
    Foreign(String, String),
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Static(endpoint) | Place::C10d(endpoint) => write!(out, "{endpoint}"),
            Place::Etcd(servers) => write!(out, "etcd {servers}"),
            Place::Foreign(name, place) => write!(out, "{name} {place}"),
        }
    }
}

/// As an agent goes by it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendezvous {
    pub place: Place,
    pub secret: Source,
    pub rules: Rules,
    pub options: Options,
    pub rank: Option<u64>,
    pub local_addr: Option<String>,
    pub exit_barrier_timeout: Duration,
    /// Whether agents serve the workers' store.
    pub serves: bool,
}

impl Rendezvous {
    /// None for a job of one host that meets nobody.
    pub fn of(spec: &Spec, var: impl Fn(&str) -> Option<Vec<u8>>) -> Result<Option<Rendezvous>, Error> {
        let nodes = &spec.nodes;
        let Nodes { min, max, options, .. } = nodes;
        let Some((kind, endpoint)) = &nodes.place else {
            if (*min, *max) != (1, 1) {
                let want = "several nodes need a rendezvous: ice_spec_set_rendezvous(), or icerun --rdzv-backend \
                            and --rdzv-endpoint";
                return Err(Error::config("nodes", format!("{min}:{max}"), want));
            }
            return Ok(None);
        };
        let rank = node_rank(nodes, &var)?;
        let fixed = kind == "static";
        let place = match kind.as_str() {
            "static" => fixed_place(nodes, endpoint, rank)?,
            "c10d" => Place::C10d(Endpoint::parse(endpoint, Some(C10D_PORT))?),
            "etcd" => etcd(endpoint, options)?,
            _ => {
                check_backend(kind)?;
                Place::Foreign(kind.clone(), endpoint.clone())
            }
        };
        let serves = spec.agent_store != Some(false) && !is_not_shared(&var);
        let secret = match &place {
            Place::Static(Endpoint { host, .. }) => Source::of(options, &var, host, serves)?,
            Place::C10d(Endpoint { host, .. }) => Source::of(options, &var, host, false)?,
            Place::Etcd(_) | Place::Foreign(..) => Source::Nothing,
        };
        // What is wrong with it is better known now than later.
        if !secret.is_by_default() {
            secret.secret()?;
        }
        Ok(Some(Rendezvous {
            place,
            secret,
            rules: Rules {
                min_nodes: *min,
                max_nodes: *max,
                fixed,
                last_call: options.last_call_timeout,
                dead_after: options.dead_after(),
                max_restarts: spec.max_restarts,
            },
            options: options.clone(),
            rank,
            local_addr: nodes.local_addr.clone(),
            exit_barrier_timeout: exit_barrier_timeout(nodes, &var)?,
            serves,
        }))
    }
}

fn exit_barrier_timeout(nodes: &Nodes, var: impl Fn(&str) -> Option<Vec<u8>>) -> Result<Duration, Error> {
    if let Some(explicit) = nodes.exit_barrier_timeout {
        return Ok(explicit);
    }
    let named = seconds_in("TORCH_ELASTIC_EXIT_BARRIER_TIMEOUT", var)?;
    Ok(named.unwrap_or(Duration::from_secs(300)))
}

fn node_rank(nodes: &Nodes, var: impl Fn(&str) -> Option<Vec<u8>>) -> Result<Option<u64>, Error> {
    match nodes.rank {
        None => Ok(None),
        Some(NodeRank::Is(rank)) => Ok(Some(rank)),
        Some(NodeRank::OfScheduler) => {
            let Some((name, text)) = SCHEDULERS.iter().find_map(|name| Some((name, var(name)?))) else {
                let want = "neither SLURM_PROCID nor JOB_COMPLETION_INDEX is in the environment";
                return Err(Error::config("node_rank", "the scheduler's", want));
            };
            let text = String::from_utf8_lossy(&text).into_owned();
            let rank = text.trim().parse().map(Some);
            rank.map_err(|_| Error::config("node_rank", text, format!("{name} must be a whole number")))
        }
    }
}

fn fixed_place(nodes: &Nodes, endpoint: &str, rank: Option<u64>) -> Result<Place, Error> {
    let Nodes { min, max, .. } = nodes;
    if min != max {
        let want = "a static rendezvous has a fixed number of nodes; c10d has a range";
        return Err(Error::config("nodes", format!("{min}:{max}"), want));
    }
    let Some(rank) = rank else {
        let want = "a static rendezvous needs it: ice_spec_set_node_rank(), icerun --node-rank";
        return Err(Error::config("node_rank", "unset", want));
    };
    if rank >= *max as u64 {
        let want = format!("must be below the number of nodes, which is {max}");
        return Err(Error::config("node_rank", rank, want));
    }
    if endpoint.trim().is_empty() {
        let want = "a static rendezvous needs HOST:PORT of the node with rank 0";
        return Err(Error::config("rendezvous_endpoint", "", want));
    }
    let endpoint = Endpoint::parse(endpoint, None)?;
    if endpoint.port == 0 {
        return Err(Error::config("rendezvous_endpoint", &endpoint, "needs a port that all nodes know"));
    }
    Ok(Place::Static(endpoint))
}

#[cfg(feature = "etcd")]
fn etcd(endpoints: &str, options: &Options) -> Result<Place, Error> {
    // What is wrong with it is better known now than later.
    super::etcd::Etcd::new(endpoints, "", options)?;
    Ok(Place::Etcd(endpoints.into()))
}

#[cfg(not(feature = "etcd"))]
fn etcd(endpoints: &str, _options: &Options) -> Result<Place, Error> {
    check_backend("etcd").map(|()| Place::Etcd(endpoints.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::nodes::NOT_SHARED;

    fn check(change: impl FnOnce(&mut Nodes), env: &[(&str, &str)]) -> Result<Option<Rendezvous>, String> {
        let mut nodes = Nodes { min: 2, max: 2, ..Nodes::default() };
        change(&mut nodes);
        let find =
            |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_bytes().to_vec());
        Rendezvous::of(&Spec { nodes, ..Spec::default() }, find).map_err(|error| error.to_string())
    }

    fn fixed(endpoint: &str) -> Option<(String, String)> {
        Some(("static".into(), endpoint.into()))
    }

    #[test]
    fn stat_02_what_a_static_rendezvous_lacks_is_named() {
        for (place, rank, part) in [
            (fixed("h"), Some(0), "needs a port: HOST:PORT"),
            (fixed(""), Some(0), "rendezvous_endpoint is \"\""),
            (fixed("h:0"), Some(0), "all nodes know"),
            (fixed("h:1"), None, "icerun --node-rank"),
            (fixed("h:1"), Some(2), "below the number of nodes, which is 2"),
            (None, Some(0), "icerun --rdzv-backend"),
            (Some(("mpi".into(), "h:1".into())), None, "must be static, c10d or etcd"),
        ] {
            let rank = rank.map(NodeRank::Is);
            let error = check(|nodes| (nodes.place, nodes.rank) = (place, rank), &[]).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
        let range = check(
            |nodes| (nodes.max, nodes.place, nodes.rank) = (3, fixed("h:1"), Some(NodeRank::Is(0))),
            &[],
        );
        assert!(range.unwrap_err().contains("fixed number"));
    }

    #[test]
    fn dyn_25_dyn_28_defaults_of_torch() {
        let c10d = |env: &[(&str, &str)]| {
            check(|nodes| nodes.place = Some(("c10d".into(), "h".into())), env).unwrap().unwrap()
        };
        let rendezvous = c10d(&[]);
        assert_eq!(rendezvous.place, Place::C10d(Endpoint { host: "h".into(), port: 29400 }));
        assert!(rendezvous.serves && !rendezvous.rules.fixed);
        assert!(!c10d(&[(NOT_SHARED, "1")]).serves && c10d(&[(NOT_SHARED, "0")]).serves);
        let nodes = Nodes { place: Some(("c10d".into(), "h".into())), ..Nodes::default() };
        for (said, serves) in [(Some(false), false), (Some(true), true)] {
            let spec = Spec { agent_store: said, nodes: nodes.clone(), ..Spec::default() };
            assert_eq!(Rendezvous::of(&spec, |_| None).unwrap().unwrap().serves, serves);
        }
        assert_eq!(check(|nodes| (nodes.min, nodes.max) = (1, 1), &[]), Ok(None));
    }

    #[test]
    fn cfg_09_exit_barrier_timeout_from_field_environment_and_default() {
        const NAME: &str = "TORCH_ELASTIC_EXIT_BARRIER_TIMEOUT";
        let timeout = |explicit: Option<u64>, env: &[(&str, &str)]| {
            let place = Some(("c10d".into(), "h".into()));
            let explicit = explicit.map(Duration::from_secs);
            let found = check(|nodes| (nodes.place, nodes.exit_barrier_timeout) = (place, explicit), env);
            found.map(|rendezvous| rendezvous.unwrap().exit_barrier_timeout.as_secs())
        };
        assert_eq!(timeout(None, &[]), Ok(300));
        assert_eq!(timeout(Some(120), &[(NAME, "600")]), Ok(120));
        assert_eq!(timeout(None, &[(NAME, "600")]), Ok(600));
        assert_eq!(timeout(None, &[(NAME, "0")]), Ok(0));
        for bad in ["-5", "soon", ""] {
            let error = timeout(None, &[(NAME, bad)]).unwrap_err();
            assert!(error.contains(NAME), "{error}");
        }
    }

    #[test]
    fn etcd_08_names_of_etcd() {
        let place = |name: &str| {
            check(|nodes| nodes.place = Some((name.into(), "h:1".into())), &[])
                .map(|made| made.unwrap().place)
        };
        match place("etcd") {
            Ok(found) => assert!(cfg!(feature = "etcd") && found == Place::Etcd("h:1".into())),
            Err(error) => assert!(!cfg!(feature = "etcd") && error.contains("--features etcd"), "{error}"),
        }
        let error = place("etcd-v2").unwrap_err();
        assert!(error.contains("no v2 API") && error.contains("v3"), "{error}");
    }

    #[test]
    fn the_scheduler_may_say_the_rank() {
        let ask = |env: &[(&str, &str)]| {
            let scheduler = Some(NodeRank::OfScheduler);
            let made = check(|nodes| (nodes.place, nodes.rank) = (fixed("h:1"), scheduler), env)?;
            Ok::<_, String>(made.unwrap().rank)
        };
        assert_eq!(ask(&[("JOB_COMPLETION_INDEX", "1")]), Ok(Some(1)));
        assert_eq!(ask(&[("JOB_COMPLETION_INDEX", "1"), ("SLURM_PROCID", "0")]), Ok(Some(0)));
        assert!(ask(&[("SLURM_PROCID", "x")]).unwrap_err().contains("SLURM_PROCID must be"));
        assert!(ask(&[]).unwrap_err().contains("neither"));
    }
}
