//! Open MPI: `mpirun icerun ...`, where each rank is an agent. Variables: mpirun(1), "Exported environment variables".

use super::Mpi;
use crate::error::Error;
use crate::scheduler::{Sourced, Surroundings, Task};

const NAMES: Mpi = Mpi {
    size: "OMPI_COMM_WORLD_SIZE",
    rank: "OMPI_COMM_WORLD_RANK",
    local_size: "OMPI_COMM_WORLD_LOCAL_SIZE",
    local_rank: "OMPI_COMM_WORLD_LOCAL_RANK",
};
/// Addresses of the mpirun that all ranks talk to: Open MPI 4, then PRRTE, the runtime of Open MPI 5.
const CONTACT: &[&str] = &["OMPI_MCA_orte_hnp_uri", "PRTE_MCA_prte_hnp_uri", "PMIX_MCA_prte_hnp_uri"];

pub fn read(from: &Surroundings) -> Result<Task, Error> {
    let (task, _) = super::of_mpi(from, "openmpi", &NAMES)?;
    let job = from.first(&["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "PMIX_ID"]);
    Ok(Task {
        first_host: task.first_host.or_else(|| of_mpirun(from)),
        job: job.map(|job| job.map(|job| format!("openmpi-{}", super::plain(&job)))),
        ..task
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
