//! What a batch scheduler says of a job, in place of options.

use std::ffi::{CString, c_char};
use std::sync::OnceLock;

use super::plan::ice_plan;
use super::spec::{edit, ice_spec};
use super::status::{guard_value, ice_status};
use super::{handle, item, option, utf8};
use crate::agent::surroundings;
use crate::spec::placement;

/// Takes from a scheduler what the spec leaves open. `scheduler`: `slurm`, `openmpi`, `mpich`, `flux`, `lsf`, `pbs`,
/// `kubernetes` (an Indexed Job), `environment` (MASTER_ADDR, WORLD_SIZE and RANK, of hosts), `auto` for the one that has
/// started this process, if one has, or `none`. Default `none`: no variable of a scheduler is read. `icerun` has `auto`.
///
/// It is read when an agent is made, from the environment of that time. Every setter that was called counts before it,
/// whatever the order. What it says:
///
/// - how many nodes there are (`ice_spec_set_nodes()`): the tasks, of which there has to be one a node, but for MPI's
///   launchers, where each rank is an agent; with Kubernetes only the spec says it;
/// - the rank of this one, in the scheduler's order (`ice_spec_set_node_rank()`);
/// - where they meet (`ice_spec_set_rendezvous()`, `c10d`): on the first host, whose agent serves the store, at one of 10,000
///   ports from 20000 on that is made of the run id, or at one of the next 7 where others have it. Where
///   `ice_spec_set_master_addr()` names a host they meet there, by `static`; `ice_spec_set_master_port()` chooses the port;
/// - the run id (`ice_spec_set_run_id()`): the job's, with its step and how often it was queued again;
/// - how many workers (`ice_spec_set_nproc_per_node()`): one for each GPU that this task sees, or for each in its share
///   where several agents are on one host; without GPUs the number of tasks that one host without a step has, else 1;
/// - OMP_NUM_THREADS, where nobody sets it: the CPUs of this task by the number of its workers. With `auto` SLURM_CPUS_PER_TASK
///   and the CPU quota of a cgroup count for that, too, without a scheduler; where nobody knows a number it is 1 for several
///   workers, as ever, and a warning says so.
///
/// `auto` reads nothing where this process is itself a worker. `ice_plan_source_at()` tells what was taken from where, and
/// `docs/schedulers.md` has all variables. ICE_ERROR_CONFIG for another name; and from `ice_agent_new()` for a scheduler that
/// is named and is not there, for numbers that do not fit together (4 tasks on 2 nodes) unless the spec says how many
/// nodes there are, and for a job of several nodes whose first is not known.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_from_scheduler(spec: *mut ice_spec, scheduler: *const c_char) -> ice_status {
    edit(spec, |spec| option!("scheduler").set(spec, utf8(scheduler, "scheduler")?.as_bytes()))
}

/// The scheduler that `auto` would ask in this process: its name, for `ice_spec_set_from_scheduler()`; `""` for none. Static
/// text, never NULL. It is looked for at the first call, and remembered. Any thread.
#[unsafe(no_mangle)]
pub extern "C" fn ice_scheduler_name() -> *const c_char {
    static NAME: OnceLock<CString> = OnceLock::new();
    let find = || surroundings::with(placement::scheduler).unwrap_or_default();
    guard_value(c"".as_ptr(), || Ok(NAME.get_or_init(|| CString::new(find()).unwrap_or_default()).as_ptr()))
}

/// A value that a scheduler has said. Everything is borrowed from the plan; no pointer is NULL.
#[repr(C)]
pub struct ice_plan_source {
    /// The option's name, as for `ice_spec_set()`, or OMP_NUM_THREADS.
    pub option: *const c_char,
    /// The value, for people.
    pub value: *const c_char,
    /// Where it is from: the variables' names, most of all.
    pub source: *const c_char,
}

/// How many values of a plan are a scheduler's, see `ice_spec_set_from_scheduler()`. 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_plan_source_count(plan: *const ice_plan) -> usize {
    guard_value(0, || Ok(handle(plan, "plan")?.sources.len()))
}

/// One of them. Borrowed: valid until the plan is freed. NULL if `index` is out of range.
#[unsafe(no_mangle)]
pub extern "C" fn ice_plan_source_at(plan: *const ice_plan, index: usize) -> *const ice_plan_source {
    guard_value(std::ptr::null(), || item(&handle(plan, "plan")?.sources, index, "source"))
}
