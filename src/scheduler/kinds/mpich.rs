//! MPICH, and what comes from it, by its launcher Hydra: `mpiexec icerun ...`, where each rank is an agent. It says neither
//! where rank 0 is nor which job it is; the first is known in an allocation, the second by the launcher's process.

use super::batch_host;
use crate::error::Error;
use crate::scheduler::{Sourced, Surroundings, Task, TaskShare};

const LOCAL_SIZE: &str = "MPI_LOCALNRANKS";
const PROXY: &str = "hydra_pmi_proxy";
/// How far up the launcher is looked for.
const DEPTH: usize = 64;

pub fn read(from: &Surroundings) -> Result<Task, Error> {
    let size = from.needed(&["PMI_SIZE"])?;
    let rank = from.needed(&["PMI_RANK"])?;
    let local_size = from.needed(&[LOCAL_SIZE])?.value.max(1);
    let local = from.number(&["MPI_LOCALRANKID"])?.map_or(0, |rank| rank.value);
    let is_one_host = local_size == size.value;
    let first_host = match is_one_host {
        true => Some(Sourced::new("localhost".into(), LOCAL_SIZE)),
        false => batch_host(from),
    };
    let of_proxy =
        || proxy(from).map(|pid| Sourced::new(format!("mpich-{pid}"), format!("the pid of {PROXY}")));
    Ok(Task {
        rank: Some(rank.map(|rank| rank as u64)),
        first_host,
        is_guess: true,
        // Of an allocation there may be several at once.
        job: is_one_host.then(of_proxy).flatten().or_else(|| super::batch_job(from)),
        share: TaskShare::of(local, local_size),
        nodes: Ok(Some(size)),
        ..Task::of("mpich")
    })
}

/// The process of Hydra that has started the ranks of this host.
fn proxy(from: &Surroundings) -> Option<u32> {
    let mut of = "self".to_string();
    for _ in 0..DEPTH {
        let stat = (from.read)(&format!("/proc/{of}/stat"))?;
        // `PID (NAME) STATE PARENT ...`: a name may have blanks and brackets of its own.
        let (start, rest) = stat.rsplit_once(')')?;
        let (pid, name) = start.split_once(" (")?;
        if name == PROXY {
            return pid.parse().ok();
        }
        of = rest.split_whitespace().nth(1)?.to_string();
    }
    None
}
