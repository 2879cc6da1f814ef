//! LSF: `blaunch` or `jsrun`, one agent a host. Variables: "Environment variables", IBM Spectrum LSF reference.

use crate::error::Error;
use crate::scheduler::hosts::distinct;
use crate::scheduler::{Sourced, Surroundings, Task};

const HOSTS: &str = "LSB_MCPU_HOSTS";

/// The hosts of the job: `HOST SLOTS HOST SLOTS ...`.
pub fn hosts(from: &Surroundings) -> Option<Sourced<Vec<String>>> {
    let said = from.first(&[HOSTS])?;
    Some(said.map(|list| distinct(list.split_whitespace().step_by(2))))
}

pub fn read(from: &Surroundings) -> Result<Task, Error> {
    let hosts = hosts(from).unwrap_or(Sourced::new(Vec::new(), HOSTS));
    let of_index = from.number(&["LSB_JOBINDEX"])?.filter(|index| index.value > 0);
    let job = from.first(&["LSB_JOBID"]).map(|job| match &of_index {
        Some(index) => Sourced::new(format!("lsf-{}-{}", job.value, index.value), "LSB_JOBID, LSB_JOBINDEX"),
        None => job.map(|job| format!("lsf-{job}")),
    });
    let task = Task { job, ..Task::of("lsf") };
    match from.number(&["JSM_NAMESPACE_SIZE"])? {
        Some(size) => of_jsrun(from, task, hosts, size),
        // By blaunch, one agent a host.
        None => Ok(super::one_a_host(from, task, hosts)),
    }
}

/// Each resource set is an agent.
fn of_jsrun(
    from: &Surroundings,
    task: Task,
    hosts: Sourced<Vec<String>>,
    size: Sourced<usize>,
) -> Result<Task, Error> {
    let rank = from.needed(&["JSM_NAMESPACE_RANK"])?;
    let local_size = from.number(&["JSM_NAMESPACE_LOCAL_SIZE"])?.map_or(1, |size| size.value.max(1));
    let nodes = size.value.div_ceil(local_size);
    // Where the first host of a job only launches, jsrun leaves it out.
    let first = hosts.value.get(usize::from(hosts.value.len() == nodes + 1));
    Ok(Task {
        rank: Some(rank),
        first_host: first.map(|first| Sourced::new(first.clone(), hosts.source)),
        // Each resource set sees its own GPUs alone.
        is_guess: true,
        nodes: Ok(Some(size)),
        ..task
    })
}
