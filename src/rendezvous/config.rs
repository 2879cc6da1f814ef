//! How the agents of a job meet, worked out of the spec and the environment.

use std::time::Duration;

use super::backends::{self, Asked, Configured};
use super::leader::Rules;
use crate::error::Error;
use crate::spec::nodes::{NodeRank, Nodes, is_not_shared};
use crate::spec::rendezvous_options::Options;
use crate::spec::{Spec, seconds_in};

/// Variables by which a scheduler says which of its tasks a process is, in the order in which they are looked at.
const SCHEDULERS: [&str; 2] = ["SLURM_PROCID", "JOB_COMPLETION_INDEX"];

/// As an agent goes by it.
pub struct Rendezvous {
    pub backend: Box<dyn Configured>,
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
        let options = &nodes.options;
        let (min, max) = nodes.range();
        let Some((kind, endpoint)) = &nodes.place else {
            if (min, max) != (1, 1) {
                let want = "several nodes need a rendezvous: ice_spec_set_rendezvous(), or icerun --rdzv-backend \
                            and --rdzv-endpoint";
                return Err(Error::config("nodes", format!("{min}:{max}"), want));
            }
            return Ok(None);
        };
        let rank = node_rank(nodes, &var)?;
        let serves = spec.agent_store != Some(false) && !is_not_shared(&var);
        let backend = backends::find(kind)?.configure(&Asked { nodes, endpoint, rank, serves, var: &var })?;
        Ok(Some(Rendezvous {
            rules: Rules {
                min_nodes: min,
                max_nodes: max,
                fixed: backend.is_fixed(),
                last_call: options.last_call_timeout,
                dead_after: options.dead_after(),
                reconnect: options.reconnect_timeout,
                max_restarts: spec.max_restarts,
                max_host_failures: nodes.max_host_failures,
                save_before_change: spec.checkpoint_before_stop,
            },
            backend,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::nodes::NOT_SHARED;

    fn check(change: impl FnOnce(&mut Nodes), env: &[(&str, &str)]) -> Result<Option<Rendezvous>, String> {
        let mut nodes = Nodes { count: Some((2, 2)), ..Nodes::default() };
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
            let error = check(|nodes| (nodes.place, nodes.rank) = (place, rank), &[]).err().unwrap();
            assert!(error.contains(part), "{error}");
        }
        let range = check(
            |nodes| {
                (nodes.count, nodes.place, nodes.rank) = (Some((2, 3)), fixed("h:1"), Some(NodeRank::Is(0)))
            },
            &[],
        );
        assert!(range.err().unwrap().contains("fixed number"));
    }

    #[test]
    fn dyn_25_dyn_28_defaults_of_torch() {
        let c10d = |env: &[(&str, &str)]| {
            check(|nodes| nodes.place = Some(("c10d".into(), "h".into())), env).unwrap().unwrap()
        };
        let rendezvous = c10d(&[]);
        assert_eq!(rendezvous.backend.to_string(), "h:29400");
        assert!(rendezvous.serves && !rendezvous.rules.fixed);
        assert!(!c10d(&[(NOT_SHARED, "1")]).serves && c10d(&[(NOT_SHARED, "0")]).serves);
        let nodes = Nodes { place: Some(("c10d".into(), "h".into())), ..Nodes::default() };
        for (said, serves) in [(Some(false), false), (Some(true), true)] {
            let spec = Spec { agent_store: said, nodes: nodes.clone(), ..Spec::default() };
            assert_eq!(Rendezvous::of(&spec, |_| None).unwrap().unwrap().serves, serves);
        }
        assert!(matches!(check(|nodes| nodes.count = Some((1, 1)), &[]), Ok(None)));
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
        let backend = |name: &str| {
            check(|nodes| nodes.place = Some((name.into(), "h:1".into())), &[])
                .map(|made| made.unwrap().backend.to_string())
        };
        match backend("etcd") {
            Ok(found) => assert!(cfg!(feature = "etcd") && found == "etcd h:1"),
            Err(error) => assert!(!cfg!(feature = "etcd") && error.contains("--features etcd"), "{error}"),
        }
        let error = backend("etcd-v2").unwrap_err();
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
