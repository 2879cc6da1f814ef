//! What a spec leaves open and a scheduler says: how many hosts, which of them this is, where they meet, the job's name,
//! how many workers and threads. What the spec says itself counts.

use std::fmt::Display;

use super::nodes::{MAX_NODES, NodeRank};
use super::variables::is_worker;
use super::{Spec, number};
use crate::device::strings::Nproc;
use crate::error::Error;
use crate::scheduler::{self, Choice, Sourced, Surroundings, Task};
use crate::spec::endpoint::Endpoint;

/// Ports that are made of a job's name: below those that Linux gives to connections, 32768 to 60999.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 10_000;
/// How many of them, one after the other, may be taken by others.
const TRIES: u16 = 8;
/// torch's, for a first host that is said without a port.
const STATIC_PORT: u16 = 29_500;

/// One value of a spec that a scheduler has said.
#[derive(Clone, Debug, PartialEq)]
pub struct FromScheduler {
    /// The option's name.
    pub option: &'static str,
    pub value: String,
    /// The variables, most of all.
    pub source: String,
}

/// The scheduler that `auto` means here, if there is one. A worker's is its agent's.
pub fn scheduler(surroundings: &Surroundings) -> Option<&'static str> {
    if is_worker(surroundings.var) { None } else { scheduler::name(surroundings) }
}

/// Fills in what is open. `quota`: how many CPUs the kernel lets this process use, where that is fewer than it sees; it is
/// looked for where nobody else says a number.
pub fn complete(
    spec: &mut Spec,
    surroundings: &Surroundings,
    quota: impl Fn() -> Option<usize>,
) -> Result<(), Error> {
    if spec.scheduler == Choice::Nobody || spec.scheduler == Choice::Auto && is_worker(surroundings.var) {
        return Ok(());
    }
    // Of a run of one host nothing more than the CPUs is of interest.
    let is_alone = spec.scheduler == Choice::Auto && spec.nodes.count == Some((1, 1));
    let task = scheduler::ask(spec.scheduler, surroundings)
        .or_else(|error| if is_alone { Ok(None) } else { Err(error) })?;
    let quota = || quota().map(|value| Sourced { value, source: "the CPU quota of the cgroup".into() });
    let Some(task) = task else {
        set_cpus(spec, scheduler::cpus(surroundings)?.or_else(quota));
        return Ok(());
    };
    let cpus = task.cpus.clone();
    let mut filled = Filled { spec, task, is_here: surroundings.is_here };
    filled.set_nodes()?;
    filled.set_place()?;
    filled.set_run_id();
    filled.set_workers();
    set_cpus(spec, cpus.or_else(quota));
    Ok(())
}

/// A spec, and what is there to fill it.
struct Filled<'a> {
    spec: &'a mut Spec,
    task: Task,
    is_here: &'a dyn Fn(&str) -> bool,
}

impl Filled<'_> {
    fn note<T: Display>(&mut self, option: &'static str, said: &Sourced<T>) {
        note(self.spec, option, said);
    }

    fn set_nodes(&mut self) -> Result<(), Error> {
        let said = self.spec.nodes.count;
        if said.is_none()
            && let Some(nodes) = self.task.nodes.clone()?
        {
            let count = number("nodes", nodes.value as i64, 1, MAX_NODES)? as usize;
            self.spec.nodes.count = Some((count, count));
            self.note("nodes", &nodes);
        }
        if self.has_others()
            && matches!(self.spec.nodes.rank, None | Some(NodeRank::OfScheduler))
            && let Some(rank) = self.task.rank.clone()
        {
            let count = self.spec.nodes.range().1;
            if said.is_none() && rank.value >= count {
                let want = format!("must be below the number of nodes, which is {count} ({})", rank.source);
                return Err(Error::config("node_rank", rank.value, want));
            }
            self.spec.nodes.rank = Some(NodeRank::Is(rank.value as u64));
            self.note("node_rank", &rank);
        }
        Ok(())
    }

    fn has_others(&self) -> bool {
        self.spec.nodes.range().1 > 1
    }

    /// Where the agents meet: at a store that the first of them serves.
    fn set_place(&mut self) -> Result<(), Error> {
        let (backend, endpoint) = self.spec.nodes.place.clone().unwrap_or_default();
        if !["", "c10d", "static"].contains(&&*backend) {
            return Ok(());
        }
        if !self.has_others() {
            return self.set_place_of_one(&backend, &endpoint);
        }
        if !endpoint.trim().is_empty() {
            // A static one has no port that is known to all unless somebody says it.
            if backend == "static" && Endpoint::parse(&endpoint, None).is_err() {
                let port = self.port_of_job().value;
                let endpoint = Endpoint::parse(&endpoint, Some(port))?.to_string();
                self.spec.nodes.place = Some((backend, endpoint));
            }
            return Ok(());
        }
        let backend = |default: &str| if backend.is_empty() { default.to_string() } else { backend };
        // Who says MASTER_ADDR means the first host.
        if let Some(address) = &self.spec.master_addr {
            let host = String::from_utf8_lossy(address).into_owned();
            let port = if self.spec.master_port == 0 { STATIC_PORT } else { self.spec.master_port };
            self.spec.nodes.place = Some((backend("static"), Endpoint { host, port }.to_string()));
            return Ok(());
        }
        let host = self.first_host()?;
        let chosen = Some(self.spec.master_port).filter(|port| *port != 0);
        let chosen =
            chosen.map(|value| Sourced { value, source: "master_port".into() }).or(self.task.port.clone());
        let port = chosen.clone().unwrap_or_else(|| self.port_of_job());
        let endpoint = Endpoint { host: host.value, port: port.value };
        let backend = backend("c10d");
        if backend == "c10d" {
            let options = &mut self.spec.nodes.options.c10d;
            if let (None, Some(NodeRank::Is(rank))) = (options.is_host, self.spec.nodes.rank) {
                options.is_host = Some(rank == 0);
            }
            options.ports = if chosen.is_none() { TRIES } else { 1 };
        }
        let source = format!("{}, port: {}", host.source, port.source);
        self.note("rendezvous_endpoint", &Sourced { value: &endpoint, source });
        self.spec.nodes.place = Some((backend, endpoint.to_string()));
        Ok(())
    }

    /// One host meets nobody: an endpoint says where its workers meet.
    fn set_place_of_one(&mut self, backend: &str, endpoint: &str) -> Result<(), Error> {
        if backend == "static" && self.spec.nodes.rank.is_none() && !endpoint.trim().is_empty() {
            let Endpoint { host, port } = Endpoint::parse(endpoint, Some(0))?;
            (self.spec.master_addr, self.spec.master_port) = (Some(host.into_bytes()), port);
            self.spec.nodes.place = None;
        } else if endpoint.trim().is_empty() {
            self.spec.nodes.place = None;
        }
        Ok(())
    }

    /// That of the agent with rank 0.
    fn first_host(&self) -> Result<Sourced<String>, Error> {
        let refuse = |value: &str, why: String| {
            let want = format!(
                "{why}: say where the agents meet, --rdzv-endpoint HOST, or ice_spec_set_rendezvous(); \
                                for this host alone --nnodes 1"
            );
            Err(Error::config("rendezvous_endpoint", value, want))
        };
        let scheduler = self.task.scheduler;
        let Some(host) = self.task.first_host.clone() else {
            let why = match scheduler {
                "environment" => "MASTER_ADDR is not in the environment beside RANK and WORLD_SIZE".into(),
                _ => format!("{scheduler} does not say on which host the agent with rank 0 is"),
            };
            return refuse("", why);
        };
        let is_first = matches!(self.spec.nodes.rank, Some(NodeRank::Is(0)));
        if self.task.is_guess && is_first && !(self.is_here)(&host.value) {
            return refuse(&host.value, format!("rank 0 does not run on the host of {}", host.source));
        }
        Ok(host)
    }

    /// The same on all hosts of a job, and most likely another one for another job.
    fn port_of_job(&self) -> Sourced<u16> {
        let own = self.spec.run_id.clone().map(|id| String::from_utf8_lossy(&id).into_owned());
        let job = own.or_else(|| self.task.job.clone().map(|job| job.value)).unwrap_or_default();
        Sourced {
            value: FIRST_PORT + (hash(job.as_bytes()) % u64::from(PORTS)) as u16,
            source: "of the run id".into(),
        }
    }

    fn set_run_id(&mut self) {
        if let (None, Some(job)) = (&self.spec.run_id, self.task.job.clone()) {
            self.spec.run_id = Some(job.value.clone().into_bytes());
            self.note("run_id", &job);
        }
    }

    /// A worker for each GPU of this task.
    fn set_workers(&mut self) {
        if self.spec.nproc.is_some() || self.spec.devices.is_some() {
            return;
        }
        let others = self.task.workers.clone();
        let share = self.task.share;
        self.spec.nproc =
            Some(Nproc::OfTask { share, others: others.as_ref().map_or(1, |count| count.value) });
        let value = match (share.of, &others) {
            (1, None) => "gpu".to_string(),
            (1, Some(count)) => format!("gpu, else {}", count.value),
            (of, _) => format!("gpu, share {} of {of}", share.index + 1),
        };
        let source =
            others.map_or_else(|| "GPUs of this task".into(), |count| format!("GPUs, {}", count.source));
        self.note("nproc_per_node", &Sourced { value, source });
    }
}

fn note<T: Display>(spec: &mut Spec, option: &'static str, said: &Sourced<T>) {
    spec.sources.push(FromScheduler { option, value: said.value.to_string(), source: said.source.clone() });
}

fn set_cpus(spec: &mut Spec, cpus: Option<Sourced<usize>>) {
    let Some(cpus) = cpus.filter(|cpus| cpus.value > 0) else { return };
    spec.cpus = Some(cpus.value);
    let plural = if cpus.value == 1 { "" } else { "s" };
    let value = format!("{} CPU{plural}, by the number of workers", cpus.value);
    note(spec, "OMP_NUM_THREADS", &Sourced { value, source: cpus.source });
}

/// FNV-1a: each agent has to come to the same number, whatever version it is.
fn hash(bytes: &[u8]) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    bytes.iter().fold(OFFSET, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::TaskShare;

    const STEP: &[(&str, &str)] = &[
        ("SLURM_JOB_ID", "123"),
        ("SLURM_PROCID", "1"),
        ("SLURM_NODEID", "1"),
        ("SLURM_NNODES", "2"),
        ("SLURM_NTASKS", "2"),
        ("SLURM_STEP_ID", "0"),
        ("SLURM_NODELIST", "node[3-4]"),
    ];

    fn filled(variables: &[(&str, &str)], spec: Spec, quota: Option<usize>) -> Result<Spec, String> {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name);
        let surroundings = Surroundings {
            var: &|name| find(name).map(|(_, value)| value.as_bytes().to_vec()),
            read: &|_| None,
            pid: 1,
            stat: &|_| None,
            is_here: &|_| true,
        };
        let mut spec = Spec { scheduler: Choice::Auto, ..spec };
        complete(&mut spec, &surroundings, || quota).map_err(|error| error.to_string())?;
        Ok(spec)
    }

    #[test]
    fn sched_01_what_is_open_is_filled_in() {
        let spec = filled(STEP, Spec::default(), None).unwrap();
        let nodes = &spec.nodes;
        assert_eq!((nodes.count, nodes.rank), (Some((2, 2)), Some(NodeRank::Is(1))));
        let (backend, endpoint) = nodes.place.clone().unwrap();
        let port: u16 = endpoint.strip_prefix("node3:").unwrap().parse().unwrap();
        assert!(backend == "c10d" && (FIRST_PORT..FIRST_PORT + PORTS).contains(&port), "{endpoint}");
        assert_eq!((nodes.options.c10d.is_host, nodes.options.c10d.ports), (Some(false), TRIES));
        assert_eq!(spec.run_id.as_deref(), Some(&b"slurm-123.0"[..]));
        assert_eq!(spec.nproc, Some(Nproc::OfTask { share: TaskShare::ALL, others: 1 }));
        let options: Vec<_> = spec.sources.iter().map(|source| source.option).collect();
        assert_eq!(options, ["nodes", "node_rank", "rendezvous_endpoint", "run_id", "nproc_per_node"]);
    }

    #[test]
    fn sched_what_is_said_counts() {
        let nodes = super::super::nodes::Nodes {
            count: Some((1, 4)),
            rank: Some(NodeRank::Is(7)),
            place: Some(("etcd".into(), "e:2379".into())),
            ..Default::default()
        };
        let said =
            Spec { nodes, run_id: Some(b"mine".to_vec()), nproc: Some(Nproc::Number(3)), ..Spec::default() };
        let spec = filled(STEP, said.clone(), None).unwrap();
        assert_eq!((spec.nodes, spec.run_id, spec.nproc), (said.nodes, said.run_id, said.nproc));
        let alone = Spec::default();
        let alone =
            Spec { nodes: super::super::nodes::Nodes { count: Some((1, 1)), ..alone.nodes }, ..alone };
        assert_eq!(filled(STEP, alone, None).unwrap().nodes.place, None);
        let master = Spec { master_addr: Some(b"head".to_vec()), master_port: 77, ..Spec::default() };
        assert_eq!(
            filled(STEP, master, None).unwrap().nodes.place,
            Some(("static".into(), "head:77".into()))
        );
    }

    #[test]
    fn sched_the_port_is_of_the_job_and_the_same_on_each_host() {
        let endpoint = |job, rank| {
            let changed: Vec<_> = STEP
                .iter()
                .filter(|(key, _)| !["SLURM_JOB_ID", "SLURM_NODEID"].contains(key))
                .copied()
                .collect();
            let changed: Vec<_> =
                changed.into_iter().chain([("SLURM_JOB_ID", job), ("SLURM_NODEID", rank)]).collect();
            filled(&changed, Spec::default(), None).unwrap().nodes.place.unwrap().1
        };
        assert_eq!(endpoint("7", "0"), endpoint("7", "1"));
        assert_ne!(endpoint("7", "0"), endpoint("8", "0"));
    }

    #[test]
    fn sched_09_cpus_of_the_task_or_of_the_group() {
        let cpus = |variables, quota| filled(variables, Spec::default(), quota).unwrap().cpus;
        assert_eq!(cpus(&[("SLURM_CPUS_PER_TASK", "6")], None), Some(6));
        assert_eq!(cpus(&[("SLURM_CPUS_PER_TASK", "6")], Some(2)), Some(6));
        assert_eq!((cpus(&[], Some(2)), cpus(&[], None)), (Some(2), None));
        // A worker's own agent has what its agent gave it.
        assert_eq!(cpus(&[("TORCHELASTIC_RUN_ID", "x")], Some(2)), None);
    }

    #[test]
    fn sched_one_host_meets_nobody() {
        let one: Vec<_> =
            STEP.iter().copied().filter(|(key, _)| !["SLURM_NNODES", "SLURM_NTASKS"].contains(key)).collect();
        let one = [&one[..], &[("SLURM_NNODES", "1"), ("SLURM_NTASKS", "1")]].concat();
        let of = |backend: &str, endpoint: &str| {
            let place = Some((backend.to_string(), endpoint.to_string()));
            let nodes = super::super::nodes::Nodes { place, ..Default::default() };
            filled(&one, Spec { nodes, ..Spec::default() }, None).unwrap()
        };
        let spec = of("static", "localhost:29500");
        assert_eq!(
            (spec.nodes.place, spec.master_addr.as_deref(), spec.master_port),
            (None, Some(&b"localhost"[..]), 29500)
        );
        assert_eq!(of("c10d", "").nodes.place, None);
        assert_eq!(of("c10d", "h:1").nodes.place, Some(("c10d".into(), "h:1".into())));
    }

    #[test]
    fn sched_an_endpoint_is_enough_where_the_first_host_is_not_known() {
        let of = |variables: &[(&str, &str)], endpoint: &str| {
            let place = (!endpoint.is_empty()).then(|| ("static".to_string(), endpoint.to_string()));
            let nodes = super::super::nodes::Nodes { place, ..Default::default() };
            filled(variables, Spec { nodes, ..Spec::default() }, None).map(|spec| spec.nodes.place)
        };
        let environment = [("RANK", "1"), ("WORLD_SIZE", "2")];
        let error = of(&environment, "").unwrap_err();
        assert!(error.contains("MASTER_ADDR") && error.contains("--rdzv-endpoint"), "{error}");
        assert_eq!(of(&environment, "h:1"), Ok(Some(("static".into(), "h:1".into()))));
        // A port that all know.
        let flux =
            [("FLUX_JOB_ID", "f"), ("FLUX_JOB_NNODES", "2"), ("FLUX_JOB_SIZE", "2"), ("FLUX_TASK_RANK", "1")];
        let (_, endpoint) = of(&flux, "h").unwrap().unwrap();
        assert!(
            endpoint
                .strip_prefix("h:")
                .is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port >= FIRST_PORT)),
            "{endpoint}"
        );
    }

    #[test]
    fn sched_numbers_that_cannot_be() {
        for (rank, size, part) in [
            ("0", "0", "nodes is 0"),
            ("5", "2", "must be below the number of nodes"),
            ("0", "99999999", "nodes is"),
        ] {
            let said = [("RANK", rank), ("WORLD_SIZE", size), ("MASTER_ADDR", "h")];
            let error = filled(&said, Spec::default(), None).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn sched_the_first_host_has_to_be_known() {
        let mpich = [("PMI_SIZE", "4"), ("PMI_RANK", "0"), ("MPI_LOCALNRANKS", "2")];
        let error = filled(&mpich, Spec::default(), None).unwrap_err();
        assert!(error.contains("mpich does not say") && error.contains("--rdzv-endpoint HOST"), "{error}");
    }
}
