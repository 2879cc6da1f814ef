//! The CPUs of each worker, out of those that the agent may use.

use std::path::Path;

use crate::device::assign::Assignment;
use crate::device::cpus::Cpus;
use crate::device::numa::{self, Share};
use crate::device::topology::Topology;
use crate::error::Error;
use crate::spec::Spec;
use crate::sys::affinity::Mask;

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
