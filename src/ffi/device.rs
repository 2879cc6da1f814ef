//! `ice_device_list`: the GPUs of this machine.

use std::ffi::{CString, c_char};
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use super::status::{guard, guard_value, ice_status};
use super::{handle, output, text};
use crate::device::{Device, Found};
use crate::error::{Error, c_string_lossy};
use crate::probe::{self, Request};
use crate::{plan, spec};

/// The GPUs that a process with the environment of this one can use, in CUDA's order: with
/// CUDA_VISIBLE_DEVICES in the environment those that it lets through, renumbered from 0, in the order of
/// CUDA_DEVICE_ORDER. It never changes; any thread may read it.
pub struct ice_device_list {
    driver_version: i32,
    message: CString,
    devices: Vec<ice_device>,
    /// What the devices point to.
    _texts: Vec<CString>,
}

// SAFETY: the pointers are to texts that the list owns and nobody changes.
unsafe impl Send for ice_device_list {}
// SAFETY: as above.
unsafe impl Sync for ice_device_list {}

/// One GPU, or a part of one (MIG). Later versions may add fields at the end: take it by pointer. Texts
/// are UTF-8, never NULL, valid until the list is freed.
#[repr(C)]
pub struct ice_device {
    /// Its number for CUDA, from 0, in a process that has this one's environment.
    pub index: i32,
    /// 1 if it is a MIG device: part of a GPU.
    pub is_mig: i32,
    /// `GPU-xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`, or `MIG-` and the same, as CUDA_VISIBLE_DEVICES takes
    /// it. Empty where the driver is older than CUDA 9.2; one older than 11.4 gives a MIG device the UUID
    /// of its GPU, and is_mig is then 0.
    pub uuid: *const c_char,
    /// For instance `NVIDIA H100 80GB HBM3`.
    pub name: *const c_char,
    /// All of its memory, in bytes.
    pub memory_bytes: u64,
    /// The compute capability, 9 of 9.0.
    pub compute_major: i32,
    /// And the 0 of 9.0.
    pub compute_minor: i32,
    /// `domain:bus:device.function` in lower case, `0000:3b:00.0`, as in /sys/bus/pci/devices.
    pub pci_bus_id: *const c_char,
    /// The NUMA node it is attached to; 0 where the kernel does not say.
    pub numa_node: i32,
}

impl ice_device_list {
    fn new(found: Found) -> ice_device_list {
        let mut texts = Vec::new();
        let mut keep = |text: &str| {
            let text = c_string_lossy(text.as_bytes());
            let pointer = text.as_ptr();
            texts.push(text);
            pointer
        };
        let convert = |device: &Device| ice_device {
            index: device.index as i32,
            is_mig: i32::from(device.is_mig),
            uuid: keep(&device.uuid),
            name: keep(&device.name),
            memory_bytes: device.memory_bytes,
            compute_major: device.compute.0,
            compute_minor: device.compute.1,
            pci_bus_id: keep(&device.pci_bus_id),
            numa_node: device.numa_node as i32,
        };
        let devices = found.list.iter().map(convert).collect();
        ice_device_list {
            driver_version: found.driver_version,
            message: c_string_lossy(found.message.as_bytes()),
            devices,
            _texts: texts,
        }
    }
}

/// Asks the CUDA driver which GPUs there are and writes a list to `*out`, which the caller frees with
/// `ice_device_list_free()`. No GPU, and no driver, is an empty list, not an error:
/// `ice_device_list_message()` says why it is empty.
///
/// The driver is never loaded or initialised in this process. A process of its own, `ice-probe`, that ends
/// before this call returns, asks it: with the environment of this one, its output to /dev/null, in a
/// process group of its own, killed with the calling thread. The program of that process is the shared
/// library's own file. Where libice is linked statically it is `runner`, any program that calls
/// `ice_worker_main()` first in main and is not itself static; NULL is this program itself if it has done
/// that. A path without a slash is not looked for in PATH.
///
/// `seconds` is how long this may take, more than 0; 0 is the default of 30: a driver that is not kept
/// loaded (persistence mode) may take some seconds for each GPU. Then the process is killed. The calling
/// thread is blocked meanwhile; signals are handled as ever. Any thread, also at once. Children of the host
/// are never waited for; SIGCHLD may be handled as the host likes, and comes once for each call.
///
/// ICE_ERROR_TIMEOUT if it took longer, with the call that did not return; if SIGKILL does not end the
/// process within a second, as it is stuck in the kernel, the message says so and nobody waits for it.
/// ICE_ERROR_DEVICE if the driver crashed, if it lacks a function, or if one of its calls failed, with the
/// call and the driver's number and text. ICE_ERROR_CONFIG where a runner is needed; ICE_ERROR_START or
/// ICE_ERROR_SYSTEM if the process could not start. ICE_ERROR_ARGUMENT for other `seconds`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_device_list_new(
    seconds: f64,
    runner: *const c_char,
    out: *mut *mut ice_device_list,
) -> ice_status {
    guard(|| {
        let out = output(out, "out")?;
        let limit = match seconds {
            0.0 => spec::PROBE_TIMEOUT,
            0.0.. => Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX),
            _ => return Err(Error::Argument { what: format!("seconds is {seconds}: must be 0 or more") }),
        };
        let runner = match runner.is_null() {
            true => None,
            false => Some(spec::c_bytes("runner", spec::not_empty("runner", text(runner, "runner")?)?)?),
        };
        let vars = std::env::vars_os().map(|(key, value)| (key.into_vec(), value.into_vec()));
        let request =
            Request { env: &plan::host_env(vars), runner: runner.as_ref(), how: "as the runner", limit };
        let found = probe::probe(&request, |_| {})?;
        *out = Box::into_raw(Box::new(ice_device_list::new(found)));
        Ok(())
    })
}

/// How many GPUs the list has. 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_device_list_count(list: *const ice_device_list) -> usize {
    guard_value(0, || Ok(handle(list, "list")?.devices.len()))
}

/// One GPU, by its place in the list. Borrowed from the list. NULL if `index` is out of range.
#[unsafe(no_mangle)]
pub extern "C" fn ice_device_list_device(list: *const ice_device_list, index: usize) -> *const ice_device {
    guard_value(std::ptr::null(), || {
        let devices = &handle(list, "list")?.devices;
        devices.get(index).map(std::ptr::from_ref).ok_or_else(|| Error::Argument {
            what: format!("there is no device {index}, only {}", devices.len()),
        })
    })
}

/// The newest version of CUDA that the driver supports, as CUDA counts: 13040 for 13.4. 0 where there is no
/// driver, and for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_device_list_driver_version(list: *const ice_device_list) -> i32 {
    guard_value(0, || Ok(handle(list, "list")?.driver_version))
}

/// Why the list is empty, one line; empty if it is not. Borrowed from the list; never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_device_list_message(list: *const ice_device_list) -> *const c_char {
    guard_value(c"".as_ptr(), || Ok(handle(list, "list")?.message.as_ptr()))
}

/// Frees a list and with it everything borrowed from it. NULL is fine.
#[unsafe(no_mangle)]
pub extern "C" fn ice_device_list_free(list: *mut ice_device_list) {
    if !list.is_null() {
        // SAFETY: the header says that a list comes from `ice_device_list_new` and is freed once.
        drop(unsafe { Box::from_raw(list) });
    }
}
