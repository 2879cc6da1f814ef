//! Each scheduler, and its variables.

pub mod environment;
pub mod flux;
pub mod kubernetes;
pub mod lsf;
pub mod mpich;
pub mod openmpi;
pub mod pbs;
pub mod slurm;

use crate::scheduler::hosts::{expand, position};
use crate::scheduler::{Sourced, Surroundings, Task};

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

/// A job whose hosts have an agent each, which knows its place by the name of its host.
fn one_a_host(from: &Surroundings, task: Task, hosts: Sourced<Vec<String>>) -> Task {
    let names: Vec<&str> = hosts.value.iter().map(String::as_str).collect();
    let source = || hosts.source.clone();
    let rank = position(&names, &from.hostname()).map(|at| Sourced::new(at as u64, source()));
    let first_host = names.first().map(|first| Sourced::new(first.to_string(), source()));
    Task { rank, first_host, nodes: Ok(Some(Sourced::new(names.len().max(1), source()))), ..task }
}

/// A job's name with nothing in it that is special in a path or a shell.
fn plain(text: &str) -> String {
    let fine = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    text.chars().map(fine).collect()
}
