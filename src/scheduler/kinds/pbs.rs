//! PBS and Torque: `pbsdsh -u icerun ...`, one agent a host. Variables: qsub(1); the hosts stand in a file, a line for each
//! slot.

use crate::error::Error;
use crate::scheduler::hosts::distinct;
use crate::scheduler::{Sourced, Surroundings, Task};

const FILE: &str = "PBS_NODEFILE";

pub fn hosts(from: &Surroundings) -> Option<Sourced<Vec<String>>> {
    let file = from.first(&[FILE])?;
    let text = (from.read)(&file.value)?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Some(Sourced::new(distinct(lines), file.source))
}

pub fn read(from: &Surroundings) -> Result<Task, Error> {
    let Some(hosts) = hosts(from) else {
        let path = from.text(FILE).unwrap_or_default();
        return Err(Error::config("scheduler", format!("{FILE}={path}"), "must be a file that can be read"));
    };
    let job = from.first(&["PBS_JOBID"]).map(|job| job.map(|job| format!("pbs-{}", super::plain(&job))));
    let cpus = from.number(&["NCPUS"])?;
    Ok(super::one_a_host(from, Task { job, cpus, ..Task::of("pbs") }, hosts))
}
