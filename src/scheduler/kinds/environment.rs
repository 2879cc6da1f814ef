//! MASTER_ADDR, MASTER_PORT, WORLD_SIZE and RANK, which Kubeflow's training operator and others set for each host, as
//! torch's `env://` has them for each worker.

use crate::error::Error;
use crate::scheduler::{Sourced, Surroundings, Task};

pub fn read(from: &Surroundings) -> Result<Task, Error> {
    let nodes = from.needed(&["WORLD_SIZE"])?;
    let rank = from.needed(&["RANK"])?;
    let first_host = from.first(&["MASTER_ADDR"]);
    let port = from.number(&["MASTER_PORT"])?;
    let too_high = |port: Sourced<usize>| match u16::try_from(port.value) {
        Ok(value) => Ok(port.map(|_| value)),
        Err(_) => Err(Error::config(
            "scheduler",
            format!("MASTER_PORT={}", port.value),
            "must be a port, up to 65535",
        )),
    };
    let port = port.map(too_high).transpose()?;
    Ok(Task { nodes: Ok(Some(nodes)), rank: Some(rank), first_host, port, ..Task::of("environment") })
}
