//! MPICH, and what comes from it, by its launcher Hydra: `mpiexec icerun ...`, where each rank is an agent. It says neither
//! where rank 0 is nor which job it is; the first is known in an allocation, the second by the launcher's process.

use super::Mpi;
use crate::error::Error;
use crate::scheduler::{Sourced, Surroundings, Task};

const NAMES: Mpi =
    Mpi { size: "PMI_SIZE", rank: "PMI_RANK", local_size: "MPI_LOCALNRANKS", local_rank: "MPI_LOCALRANKID" };
const PROXY: &str = "hydra_pmi_proxy";
/// How far up the launcher is looked for.
const DEPTH: usize = 64;

pub fn read(from: &Surroundings) -> Result<Task, Error> {
    let (task, is_one_host) = super::of_mpi(from, "mpich", &NAMES)?;
    let of_proxy =
        || proxy(from).map(|pid| Sourced::new(format!("mpich-{pid}"), format!("the pid of {PROXY}")));
    // Of an allocation there may be several at once.
    let job = is_one_host.then(of_proxy).flatten().or_else(|| super::batch_job(from));
    Ok(Task { job, ..task })
}

/// The process of Hydra that has started the ranks of this host.
fn proxy(from: &Surroundings) -> Option<i32> {
    let mut pid = from.pid;
    for _ in 0..DEPTH {
        let stat = (from.stat)(pid)?;
        if stat.name == PROXY.as_bytes() {
            return Some(pid);
        }
        pid = stat.parent;
    }
    None
}
