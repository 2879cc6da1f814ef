//! The part of `ice_spec` that is about devices: how many workers, which device each has, what it sees.

use std::ffi::c_char;

use super::spec::{ice_spec, set_flag, set_number, set_seconds, set_text, set_word};
use super::status::{guard_value, ice_status};
use super::{handle, option};
use crate::plan::assign::{Backend, backend};

/// How many workers, in torchrun's words (`--nproc-per-node`): a number as for
/// `ice_spec_set_local_world_size()`, or
///
/// - `"gpu"`: one for each CUDA device that the host may use; none is ICE_ERROR_CONFIG from
///   `ice_agent_new()`;
/// - `"cpu"`: one for each CPU that the host may use: those of its affinity mask, and no more than the
///   control groups around it grant (cpu.max);
/// - `"auto"`: as gpu where there is a device, else as cpu.
///
/// One worker for each device means that: as with `ice_spec_set_devices()` of `"cuda:*"` each sees its own,
/// unless `ice_spec_set_device_visibility()` says otherwise (a script that was written for torchrun, and
/// takes device LOCAL_RANK, wants ICE_VISIBLE_INHERIT, or `ice_spec_set_virtual_local_rank()`). A number, and
/// a count of CPUs, change nothing for the workers. Of this function and `ice_spec_set_local_world_size()`
/// the last call counts.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_nproc_per_node(spec: *mut ice_spec, text: *const c_char) -> ice_status {
    set_text(spec, option!("nproc_per_node"), text, "nproc_per_node")
}

/// The devices that the workers run on, one worker for each, in this order, as ice-learn writes them:
///
/// - `"cuda"`, `"cpu"`: one worker, on the first GPU, or on no GPU;
/// - `"cuda:0-2,7"`: numbers and ranges, both ends included; `"cuda:*"`: all there are. A device may be named
///   again, `"cuda:0,0"`, for several workers on it;
/// - `"GPU-8932f937,MIG-..."` or `"cuda:GPU-..."`: UUIDs, of which a beginning is enough that no other
///   device has;
/// - `"cpu:0-3"`: four workers without a GPU; the numbers mean nothing else. `"cpu:*"`: as many as
///   `ice_spec_set_nproc_per_node()` counts for cpu;
/// - `"auto"`, `"auto:*"`, `"auto:0-3"`: cuda where the host sees a device, else cpu.
///
/// Numbers are those of the devices that the *host* sees, in its order: where its CUDA_VISIBLE_DEVICES is
/// `2,5`, `"cuda:1"` is the device that the variable calls 5. That variable is taken from the host's
/// environment when the agent is made, or from `ice_spec_set_env()`; HIP_VISIBLE_DEVICES, where it is
/// set, wins, and is believed without a look at the devices. CUDA itself is asked in a helper process,
/// never in the host: a host that has initialised CUDA could not fork workers that use it.
///
/// By default each worker then sees its own device alone, see `ice_device_visibility`. Its environment has,
/// beside RANK and so on,
///
/// - ICE_DEVICES, its devices by the numbers that they have *for it*, in this same form: `cuda:0`;
/// - ICE_DIST_BACKEND, see `ice_spec_dist_backend()`.
///
/// The number of workers follows the list; a number that was set as well has to be the same. ICE_ERROR_CONFIG
/// for a text of another form, and from `ice_agent_new()`, with both numbers, where the host sees fewer
/// devices than are named, or the sizes differ. Default: nothing is said of devices.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_devices(spec: *mut ice_spec, devices: *const c_char) -> ice_status {
    set_text(spec, option!("devices"), devices, "devices")
}

/// Which devices a worker sees.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ice_device_visibility {
    /// What the host sees: CUDA_VISIBLE_DEVICES is not touched. The default where nothing was said of
    /// devices, but a number of workers; so a script that was written for torchrun, and takes device
    /// LOCAL_RANK, finds it.
    ICE_VISIBLE_INHERIT = 0,
    /// Its own alone, so that it is `cuda:0` for it, whatever its rank: CUDA_VISIBLE_DEVICES is its entry
    /// of the host's list, or of `0,1,2..` where the host has none. The default where devices are named or
    /// counted: a worker that cannot see the GPU of another cannot take it by mistake, as a program does
    /// that forgets to choose one, nor leave a context in its memory. LOCAL_RANK stays the real one, unless
    /// `ice_spec_set_virtual_local_rank()` says otherwise: a program that takes device LOCAL_RANK needs
    /// that, or ICE_VISIBLE_ALL.
    ICE_VISIBLE_OWN = 1,
    /// The devices of all workers of this agent, in their order, each once; LOCAL_RANK picks (or
    /// ICE_DEVICES, which also knows of several workers on one device, and of several devices for one).
    ICE_VISIBLE_ALL = 2,
}

/// Chooses what workers see, an `ice_device_visibility`. The host's list is sliced, never renumbered: entries
/// are handed on as they are, numbers, `GPU-` and `MIG-` UUIDs. It is read as CUDA reads it: the first
/// entry that names no device ends it, a device that is named twice hides all, and so does an empty
/// variable. Where fewer remain than the workers need, and for a list with -1 in it, `ice_agent_new()` gives
/// ICE_ERROR_CONFIG. If HIP_VISIBLE_DEVICES is set in the host it is the list, and both variables are set
/// for the workers. The host's own environment is never written to. With OWN or ALL a
/// `ice_spec_set_rank_env()` of these variables is ICE_ERROR_CONFIG.
///
/// OWN or ALL without `ice_spec_set_devices()` share out the first devices of the list to as many workers as
/// there are. Workers on the CPU are left alone by all three.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_device_visibility(spec: *mut ice_spec, visibility: i32) -> ice_status {
    set_word(spec, option!("device_visibility"), visibility)
}

/// Non-zero: LOCAL_RANK is 0 for every worker, which sees its own device alone (ICE_VISIBLE_OWN), so that
/// `cuda:LOCAL_RANK` is always `cuda:0` (torchrun `--virtual-local-rank`). The real local rank is in
/// ICE_LOCAL_RANK, in `${local_rank}` and in `ice_worker_local_rank()`. Default 0. ICE_ERROR_CONFIG from
/// `ice_agent_new()` with another visibility.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_virtual_local_rank(spec: *mut ice_spec, on: i32) -> ice_status {
    set_flag(spec, option!("virtual_local_rank"), on)
}

/// How many devices each worker has: the list is split in contiguous parts, and there are as many workers
/// as parts. 1 to 16384, default 1. A list that cannot be split evenly is ICE_ERROR_CONFIG from
/// `ice_agent_new()`, as is a part with one device twice.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_devices_per_rank(spec: *mut ice_spec, count: i64) -> ice_status {
    set_number(spec, option!("devices_per_rank"), count)
}

/// How many workers share each device: the list is taken as if it named each device so often, `"cuda:0,1"`
/// as `"cuda:0,0,1,1"`. 1 to 16384, default 1: workers share a device only where that was asked for, here or
/// in the list. Not together with `ice_spec_set_devices_per_rank()`: then ICE_ERROR_CONFIG from
/// `ice_agent_new()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_ranks_per_device(spec: *mut ice_spec, count: i64) -> ice_status {
    set_number(spec, option!("ranks_per_device"), count)
}

/// Non-zero: workers are given UUIDs in CUDA_VISIBLE_DEVICES in place of the host's entries: these mean the
/// same device whatever CUDA_DEVICE_ORDER says, and after a reboot. Default 0. ICE_ERROR_CONFIG from
/// `ice_agent_new()` where the UUID of a device is not known.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_device_uuids(spec: *mut ice_spec, on: i32) -> ice_status {
    set_flag(spec, option!("device_uuids"), on)
}

/// The library for collectives that fits the devices of this spec, as torch.distributed names it: `"nccl"`
/// for CUDA; `"gloo"` for the CPU, and where workers share a device, which NCCL does not take (the rule is
/// ice-learn's). A hint: workers find it in ICE_DIST_BACKEND, this library uses neither. `""` where no
/// devices are set, or where it depends on what there is (`"auto"`, UUIDs): `ice_plan_dist_backend()`
/// knows it then. Static text, never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_dist_backend(spec: *const ice_spec) -> *const c_char {
    guard_value(c"".as_ptr(), || Ok(backend_name(backend(handle(spec, "spec")?.get()))))
}

pub(super) fn backend_name(backend: Option<Backend>) -> *const c_char {
    match backend {
        None => c"".as_ptr(),
        Some(Backend::Nccl) => c"nccl".as_ptr(),
        Some(Backend::Gloo) => c"gloo".as_ptr(),
    }
}

/// Seconds that the process may take that asks the CUDA driver what there is, see `ice_device_list_new()`:
/// more than 0, to 1e9. Default 30. It is asked by `ice_agent_new()` where the devices decide anything (a
/// number of workers in words, named devices, UUIDs), and again before each restart of workers that have
/// devices. When the agent is made, what went wrong is its error, ICE_ERROR_TIMEOUT or ICE_ERROR_DEVICE.
/// Before a restart, a device that is gone, or has another number than before, ends the run
/// (ICE_END_AGENT_ERROR) with a message that names it and its rank, rather than to hand workers the wrong
/// ones; a driver that does not answer is a warning in the log, as the workers will see for themselves.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_probe_timeout(spec: *mut ice_spec, seconds: f64) -> ice_status {
    set_seconds(spec, option!("probe_timeout"), seconds)
}
