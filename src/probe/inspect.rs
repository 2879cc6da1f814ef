//! The life of the probe's process: it asks the CUDA driver for everything and says what it was told.
//! Nowhere else is the driver ever initialised.

use std::cell::Cell;
use std::path::Path;

use super::report::Report;
use crate::device::Device;
use crate::process::channel::WorkerEnd;
use crate::process::function::NOT_STARTED;
use crate::sys::cuda::{self, Driver, Failure};
use crate::sys::process;

/// Returns the exit code.
pub fn serve(end: &WorkerEnd) -> i32 {
    process::set_title(c"ice-probe");
    process::dump_no_core();
    end.enter();
    let report = report(Path::new("/sys"), end);
    end.doing("the report");
    match end.return_copy(report.to_strings().bytes()) {
        Ok(()) => 0,
        Err(error) => {
            end.refuse(&error.to_string());
            NOT_STARTED
        }
    }
}

fn report(sysfs: &Path, end: &WorkerEnd) -> Report {
    end.doing("the load of the driver");
    let device = Cell::new(None);
    let doing = |call: &str| match device.get() {
        None => end.doing(call),
        Some(index) => end.doing(&format!("{call} for GPU {index}")),
    };
    let driver = match Driver::load(&doing) {
        Ok(driver) => driver,
        Err(why) => return none(0, format!("there is no CUDA driver here: {why}")),
    };
    match devices(&driver, &device, sysfs) {
        Ok((driver_version, devices)) if devices.is_empty() => {
            none(driver_version, "the CUDA driver finds no GPU".into())
        }
        Ok((driver_version, devices)) => Report::Devices { driver_version, devices, message: String::new() },
        Err(Failure::Code { call, code: cuda::NO_DEVICE, text }) => none(
            driver.version().unwrap_or(0),
            format!("the CUDA driver finds no GPU: {call} returned {}: {text}", cuda::NO_DEVICE),
        ),
        Err(Failure::Code { call, code, text }) => {
            let call = device.get().map_or(call.into(), |index| format!("{call} for GPU {index}"));
            Report::Failed { call, code, text }
        }
        Err(Failure::Missing { symbol }) => Report::Missing { symbol: symbol.into() },
    }
}

/// No GPU is an answer.
fn none(driver_version: i32, why: String) -> Report {
    let message = match std::env::var_os("CUDA_VISIBLE_DEVICES") {
        Some(visible) if driver_version != 0 => format!("{why}; CUDA_VISIBLE_DEVICES is {visible:?}"),
        _ => why,
    };
    Report::Devices { driver_version, devices: Vec::new(), message }
}

fn devices(
    driver: &Driver,
    device: &Cell<Option<usize>>,
    sysfs: &Path,
) -> Result<(i32, Vec<Device>), Failure> {
    let version = driver.version()?;
    driver.init()?;
    let describe = |index: usize| {
        device.set(Some(index));
        let handle = driver.device(index)?;
        let uuid = driver.uuid(handle)?;
        // What is a part of a GPU has a UUID of its own, beside that of the GPU.
        let is_mig = uuid.is_some() && uuid != driver.uuid_of_whole(handle)?;
        let pci_bus_id = driver.pci_bus_id(handle)?.to_ascii_lowercase();
        Ok(Device {
            index,
            uuid: uuid.map_or(String::new(), |uuid| text_of(&uuid, is_mig)),
            name: driver.name(handle)?,
            memory_bytes: driver.memory(handle)?,
            compute: driver.compute(handle)?,
            numa_node: numa_node(sysfs, &pci_bus_id),
            pci_bus_id,
            is_mig,
        })
    };
    Ok((version, (0..driver.count()?).map(describe).collect::<Result<_, _>>()?))
}

/// As CUDA_VISIBLE_DEVICES and nvidia-smi write it.
fn text_of(uuid: &[u8; 16], is_mig: bool) -> String {
    let mut text = String::from(if is_mig { "MIG" } else { "GPU" });
    for (index, byte) in uuid.iter().enumerate() {
        if matches!(index, 0 | 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text += &format!("{byte:02x}");
    }
    text
}

/// 0 where the kernel does not know: then there is but one, or all are as good.
fn numa_node(sysfs: &Path, pci_bus_id: &str) -> usize {
    let path = sysfs.join("bus/pci/devices").join(pci_bus_id).join("numa_node");
    std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_as_nvidia_smi_writes_it() {
        let uuid: [u8; 16] = std::array::from_fn(|index| (index * 17) as u8);
        assert_eq!(text_of(&uuid, false), "GPU-00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(text_of(&uuid, true), "MIG-00112233-4455-6677-8899-aabbccddeeff");
    }

    #[test]
    fn dev_10_an_unknown_numa_node_is_node_0() {
        let root = std::env::temp_dir().join(format!("ice-sysfs-{}", std::process::id()));
        for (id, text) in [("0000:01:00.0", "-1\n"), ("0000:02:00.0", "3\n"), ("0000:03:00.0", "what\n")] {
            let directory = root.join("bus/pci/devices").join(id);
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join("numa_node"), text).unwrap();
        }
        let ids = ["0000:01:00.0", "0000:02:00.0", "0000:03:00.0", "0000:04:00.0", ""];
        assert_eq!(ids.map(|id| numa_node(&root, id)), [0, 3, 0, 0, 0]);
        std::fs::remove_dir_all(root).unwrap();
    }
}
