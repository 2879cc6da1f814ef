//! Each scheduler, and its variables.

pub mod environment;
pub mod flux;
pub mod kubernetes;
pub mod lsf;
pub mod mpich;
pub mod openmpi;
pub mod pbs;
pub mod slurm;

use crate::error::Error;
use crate::scheduler::hosts::{expand, position};
use crate::scheduler::{Sourced, Surroundings, Task, TaskShare};

/// The first host of the allocation that a launcher of MPI runs in.
fn batch_host(from: &Surroundings) -> Option<Sourced<String>> {
    let slurm = || {
        let list = from.first(slurm::HOSTS.get(1..)?)?;
        Some(Sourced::new(expand(&list.value)?, list.source))
    };
    let hosts = slurm().or_else(|| lsf::hosts(from)).or_else(|| pbs::hosts(from))?;
    let first = hosts.value.into_iter().next()?;
    Some(Sourced::new(first, hosts.source))
}

/// The job of that allocation.
fn batch_job(from: &Surroundings) -> Option<Sourced<String>> {
    let job = from.first(&["SLURM_JOB_ID", "LSB_JOBID", "PBS_JOBID"])?;
    Some(job.map(|job| format!("mpich-{}", plain(&job))))
}

/// The variables of a launcher of MPI.
struct Mpi {
    size: &'static str,
    rank: &'static str,
    local_size: &'static str,
    local_rank: &'static str,
}

/// A task of such a launcher, each rank of which is an agent, and whether all of them are on this host.
fn of_mpi(from: &Surroundings, scheduler: &'static str, names: &Mpi) -> Result<(Task, bool), Error> {
    let size = from.needed(&[names.size])?;
    let rank = from.needed(&[names.rank])?;
    let local_size = from.number(&[names.local_size])?.map_or(1, |size| size.value.max(1));
    let local_rank = from.number(&[names.local_rank])?.map_or(0, |rank| rank.value);
    let is_one_host = local_size == size.value;
    let here = || Sourced::new("localhost".into(), names.local_size);
    let task = Task {
        rank: Some(rank),
        first_host: if is_one_host { Some(here()) } else { batch_host(from) },
        is_guess: true,
        share: TaskShare::of(local_rank, local_size),
        nodes: Ok(Some(size)),
        ..Task::of(scheduler)
    };
    Ok((task, is_one_host))
}

/// Several tasks a node are no agents, unless somebody says that they are. `line`: what starts one a node.
fn one_task_a_node<T>(scheduler: &str, tasks: usize, nodes: usize, line: &str) -> Result<T, Error> {
    let want = format!(
        "libice starts the workers of a node itself, so it wants one task a node: {line}; or say that each task is an \
         agent of its own: --nnodes {tasks}"
    );
    Err(Error::config("nodes", format!("{tasks} tasks of {scheduler} on {nodes} nodes"), want))
}

/// A job whose hosts have an agent each, which knows its place by the name of its host.
fn one_a_host(from: &Surroundings, task: Task, hosts: Sourced<Vec<String>>) -> Task {
    let Sourced { value: names, source } = hosts;
    let source = || source.clone();
    let rank = position(&names, &from.hostname()).map(|at| Sourced::new(at, source()));
    let first_host = names.first().map(|first| Sourced::new(first.clone(), source()));
    Task { rank, first_host, nodes: Ok(Some(Sourced::new(names.len().max(1), source()))), ..task }
}

/// A job's name with nothing in it that is special in a path or a shell.
fn plain(text: &str) -> String {
    let fine = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    text.chars().map(fine).collect()
}
