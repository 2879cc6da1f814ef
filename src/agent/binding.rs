//! The CPUs of each worker, out of those that the agent may use.

use std::path::Path;

use crate::device::cpus::Cpus;
use crate::device::numa::{self, Share};
use crate::device::topology::Topology;
use crate::error::Error;
use crate::plan::assign::Assignment;
use crate::spec::Spec;
use crate::sys::affinity::{Mask, online};

/// What is to be said of an agent that may use one CPU alone, on a machine with more: its workers share it, as they
/// inherit that. `mpirun` binds each rank to a core unless it is told not to.
pub fn one_cpu(spec: &Spec) -> Option<String> {
    let mask = Mask::of_this_thread().ok()?;
    let mut allowed = mask.cpus();
    let cpu = allowed.next()?;
    // Asked only then: it costs a look into sysfs.
    let online = if allowed.next().is_none() { online() } else { 1 };
    (online > 1).then(|| {
        let size = spec.local_world_size;
        let who = if size == 1 { "the worker has it too".into() } else { format!("all {size} workers share it") };
        format!(
            "bound to CPU {cpu} alone, of {online}: {who} (a launcher's doing? mpirun --bind-to none, srun --cpu-bind=none)"
        )
    })
}

/// A share for each local rank, as it is for this thread now; none where workers are not bound.
pub fn shares(spec: &Spec, devices: &Assignment) -> Result<Vec<Share>, Error> {
    let Some(binding) = spec.cpu_binding else { return Ok(Vec::new()) };
    let allowed: Cpus = Mask::of_this_thread()
        .map_err(|errno| Error::system("cannot read which CPUs may be used", errno as i32))?
        .cpus()
        .collect();
    let topology = Topology::read(Path::new("/sys"), &allowed);
    numa::shares(binding, &topology, &devices.nodes(), spec.local_world_size)
}
