//! What this machine has, what of it the workers of an agent get, and what each worker is told of it.

pub mod cpus;
pub mod numa;
pub mod strings;
pub mod topology;
pub mod visibility;

use crate::sys::affinity::Mask;

/// A GPU, or a part of one (MIG), that a process with the probe's environment can use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// CUDA's ordinal in such a process: which of the visible devices.
    pub index: usize,
    /// `GPU-xxxxxxxx-xxxx-..`, or `MIG-..`; empty from a driver too old to know.
    pub uuid: String,
    pub name: String,
    pub memory_bytes: u64,
    /// The compute capability, major and minor.
    pub compute: (i32, i32),
    /// As in sysfs: `0000:3b:00.0`.
    pub pci_bus_id: String,
    /// Node 0 where the kernel does not know.
    pub numa_node: usize,
    pub is_mig: bool,
}

impl Device {
    /// Whether it is that piece of hardware, whatever its number.
    pub fn is_same(&self, other: &Device) -> bool {
        (&self.uuid, &self.pci_bus_id) == (&other.uuid, &other.pci_bus_id)
    }
}

#[derive(Debug, PartialEq)]
pub struct Found {
    /// As CUDA counts, 13040 for 13.4; 0 without a driver.
    pub driver_version: i32,
    pub list: Vec<Device>,
    /// Why there is none.
    pub message: String,
}

/// How many CPUs this process may use: its affinity mask, and what the control groups around it grant.
pub fn usable_cpus() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// The same where control groups grant fewer than the mask has.
pub fn cpu_quota() -> Option<usize> {
    let mask = Mask::of_this_thread().ok()?.cpus().count();
    Some(usable_cpus()).filter(|&cpus| cpus < mask)
}
