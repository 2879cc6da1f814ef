//! Open MPI: `mpirun icerun ...`, where each rank is an agent. Variables: mpirun(1), "Exported environment variables".

use super::batch_host;
use crate::error::Error;
use crate::scheduler::{Sourced, Surroundings, Task, TaskShare};

const SIZE: &str = "OMPI_COMM_WORLD_SIZE";
const LOCAL_SIZE: &str = "OMPI_COMM_WORLD_LOCAL_SIZE";
/// Addresses of the mpirun that all ranks talk to: Open MPI 4, then PRRTE, the runtime of Open MPI 5.
const CONTACT: &[&str] = &["OMPI_MCA_orte_hnp_uri", "PRTE_MCA_prte_hnp_uri", "PMIX_MCA_prte_hnp_uri"];

pub fn read(from: &Surroundings) -> Result<Task, Error> {
    let size = from.needed(&[SIZE])?;
    let rank = from.needed(&["OMPI_COMM_WORLD_RANK"])?;
    let local_size = from.number(&[LOCAL_SIZE])?.map_or(1, |size| size.value.max(1));
    let local = from.number(&["OMPI_COMM_WORLD_LOCAL_RANK"])?.map_or(0, |rank| rank.value);
    let job = from.first(&["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "PMIX_ID"]);
    let first_host = match local_size == size.value {
        true => Some(Sourced::new("localhost".into(), LOCAL_SIZE)),
        false => batch_host(from).or_else(|| of_mpirun(from)),
    };
    Ok(Task {
        rank: Some(rank.map(|rank| rank as u64)),
        first_host,
        is_guess: true,
        job: job.map(|job| job.map(|job| format!("openmpi-{}", super::plain(&job)))),
        share: TaskShare::of(local, local_size),
        nodes: Ok(Some(size)),
        ..Task::of("openmpi")
    })
}

/// The host of mpirun, which is that of rank 0 in an allocation and where it runs ranks itself: `JOB.0;tcp://A,B:PORT`.
fn of_mpirun(from: &Surroundings) -> Option<Sourced<String>> {
    let contact = from.first(CONTACT)?;
    let (_, addresses) = contact.value.split_once("tcp://")?;
    let end = addresses.find([',', ':', ';', '/'])?;
    let address = &addresses[..end];
    (!address.is_empty()).then(|| Sourced::new(address.to_string(), contact.source.clone()))
}
