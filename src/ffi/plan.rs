//! `ice_plan`: what a run would start, without a start.

use std::ffi::{CString, c_char};

use super::assignment::backend_name;
use super::handle;
use super::scheduler::ice_plan_source;
use super::status::guard_value;
use crate::agent::preview::{Preview, WorkerPreview};
use crate::error::Error;

/// What an agent would start, made by `ice_agent_plan()`. It never changes; any thread may read it.
pub struct ice_plan {
    preview: Preview,
    workers: Vec<ice_worker_plan>,
    pub(super) sources: Vec<ice_plan_source>,
    /// What the pointers of `workers` point to.
    _lists: Vec<[Vec<*const c_char>; 2]>,
}

/// One worker of a plan, in its first attempt. Everything is borrowed from the plan; no pointer is NULL.
#[repr(C)]
pub struct ice_worker_plan {
    /// RANK.
    pub global_rank: i32,
    /// The real local rank, also where LOCAL_RANK is 0 (`ice_spec_set_virtual_local_rank()`).
    pub local_rank: i32,
    /// ROLE_RANK.
    pub role_rank: i32,
    /// How many strings are in `argv`; 0 for a function.
    pub argc: i32,
    /// The program and its arguments, macros filled in; ends in NULL.
    pub argv: *const *const c_char,
    /// The whole environment, `NAME=VALUE` each; ends in NULL. MASTER_PORT is 0 where a free one will be
    /// chosen.
    pub env: *const *const c_char,
    /// Its devices as the host sees them, `cuda:1`; empty where none are assigned.
    pub devices: *const c_char,
    /// What it gets as CUDA_VISIBLE_DEVICES; empty where that is the host's.
    pub visible_devices: *const c_char,
    /// The CPUs that it is bound to, `0-3,8`; empty where it is not, see `ice_cpu_binding`.
    pub cpus: *const c_char,
    /// The file its stdout goes to; empty if it is the console's. What makes the run directory unique is
    /// XXXXXXXX here.
    pub stdout_log: *const c_char,
    /// The same for stderr.
    pub stderr_log: *const c_char,
    /// Its error file; empty where there are none.
    pub error_file: *const c_char,
}

impl ice_plan {
    pub(super) fn into_raw(preview: Preview) -> *mut ice_plan {
        // The strings live on the heap, where they stay when their owner moves.
        let list = |strings: &[CString]| -> Vec<*const c_char> {
            strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let lists: Vec<_> =
            preview.workers.iter().map(|worker| [list(&worker.argv), list(&worker.env)]).collect();
        let worker = |(worker, [argv, env]): (&WorkerPreview, &[Vec<*const c_char>; 2])| ice_worker_plan {
            global_rank: worker.rank.global as i32,
            local_rank: worker.rank.local as i32,
            role_rank: worker.rank.role as i32,
            argc: worker.argv.len() as i32,
            argv: argv.as_ptr(),
            env: env.as_ptr(),
            devices: worker.devices.as_ptr(),
            visible_devices: worker.visible_devices.as_ptr(),
            cpus: worker.cpus.as_ptr(),
            stdout_log: worker.stdout_log.as_ptr(),
            stderr_log: worker.stderr_log.as_ptr(),
            error_file: worker.error_file.as_ptr(),
        };
        let workers = preview.workers.iter().zip(&lists).map(worker).collect();
        let source = |[option, value, source]: &[CString; 3]| ice_plan_source {
            option: option.as_ptr(),
            value: value.as_ptr(),
            source: source.as_ptr(),
        };
        let sources = preview.sources.iter().map(source).collect();
        Box::into_raw(Box::new(ice_plan { preview, workers, sources, _lists: lists }))
    }
}

/// How many workers there are: the local world size. 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_plan_worker_count(plan: *const ice_plan) -> usize {
    guard_value(0, || Ok(handle(plan, "plan")?.workers.len()))
}

/// One worker, by local rank. Borrowed: valid until the plan is freed. NULL if `local_rank` is out of
/// range.
#[unsafe(no_mangle)]
pub extern "C" fn ice_plan_worker(plan: *const ice_plan, local_rank: usize) -> *const ice_worker_plan {
    guard_value(std::ptr::null(), || {
        handle(plan, "plan")?
            .workers
            .get(local_rank)
            .map(std::ptr::from_ref)
            .ok_or_else(|| Error::Argument { what: format!("there is no local rank {local_rank}") })
    })
}

/// `ice_spec_dist_backend()` for the devices that were found: `"nccl"`, `"gloo"`, or `""` where no devices
/// are set. Static text, never NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_plan_dist_backend(plan: *const ice_plan) -> *const c_char {
    guard_value(c"".as_ptr(), || Ok(backend_name(handle(plan, "plan")?.preview.backend)))
}

/// Frees a plan. NULL is fine.
#[unsafe(no_mangle)]
pub extern "C" fn ice_plan_free(plan: *mut ice_plan) {
    if !plan.is_null() {
        // SAFETY: the header says that a plan comes from `ice_agent_plan` and is freed once.
        drop(unsafe { Box::from_raw(plan) });
    }
}
