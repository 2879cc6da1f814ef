//! The part of `ice_spec` that is about what workers find: environment, directory, input, CPUs, and where they meet.

use std::ffi::c_char;

use super::spec::{edit, ice_spec, set_flag, set_number, set_text, set_word};
use super::status::ice_status;
use super::{bytes, option, text};
use crate::spec::options::parse;

/// Sets a variable in the environment of every worker. Order: the host's environment as it is when
/// the run starts, these changes in the order of their calls, those of `ice_spec_set_rank_env()`, and
/// last what the agent sets itself: RANK, LOCAL_RANK, GROUP_RANK, ROLE_RANK, ROLE_NAME,
/// LOCAL_WORLD_SIZE, WORLD_SIZE, GROUP_WORLD_SIZE, ROLE_WORLD_SIZE, MASTER_ADDR, MASTER_PORT,
/// TORCHELASTIC_RESTART_COUNT, TORCHELASTIC_MAX_RESTARTS, TORCHELASTIC_RUN_ID,
/// TORCHELASTIC_USE_AGENT_STORE, TORCHELASTIC_ERROR_FILE, ICE_DESCENT; ICE_CONTROL_FD where the spec says
/// `ice_spec_set_control()`; and where devices are assigned ICE_DEVICES, ICE_DIST_BACKEND, ICE_LOCAL_RANK and
/// the variables of `ice_spec_set_device_visibility()`. To set or unset one of these here is
/// ICE_ERROR_CONFIG, as is a name that is empty or has a `=` (but
/// CUDA_VISIBLE_DEVICES and HIP_VISIBLE_DEVICES, which are then shared out in place of the host's). With
/// `ice_spec_set_file_timers()` TORCHELASTIC_TIMER_FILE is the agent's, whatever is set here.
///
/// ICE_DESCENT says whose worker a process is, and what descends from it: see `ice_spec_set_kill_group_on_success()`.
/// It is a list separated by `:`, as a worker may be the host of an agent itself. Of what the agent around such a host
/// sets nothing else reaches its workers: it leaves out all of the above, and the TORCHELASTIC_TIMER_FILE,
/// TORCHELASTIC_SIGNALS_TO_HANDLE and TORCHELASTIC_HEALTH_CHECK_PORT of a host that has TORCHELASTIC_RUN_ID. But
/// the devices and CPUs that the host has are what it can share out, and OMP_NUM_THREADS is theirs.
///
/// Where neither the host nor the spec says anything of them, TORCH_NCCL_ASYNC_ERROR_HANDLING becomes `1`,
/// and with more than one worker OMP_NUM_THREADS too, as under torchrun: each worker would else start as
/// many threads as there are CPUs; with `ice_spec_set_from_scheduler()` it is its part of the CPUs, where these are known.
/// `ice_spec_unset_env()` keeps them out.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_env(
    spec: *mut ice_spec,
    key: *const c_char,
    value: *const c_char,
) -> ice_status {
    edit(spec, |spec| {
        let change = parse::set_variable(text(key, "key")?, text(value, "value")?)?;
        spec.env.push(change);
        Ok(())
    })
}

/// `ice_spec_set_env()` for bytes that are not NUL-terminated. A NUL within is ICE_ERROR_CONFIG.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_env_bytes(
    spec: *mut ice_spec,
    key: *const c_char,
    key_length: usize,
    value: *const c_char,
    value_length: usize,
) -> ice_status {
    edit(spec, |spec| {
        let key = bytes(key, key_length, "key")?;
        let change = parse::set_variable(key, bytes(value, value_length, "value")?)?;
        spec.env.push(change);
        Ok(())
    })
}

/// Takes a variable of the host out of the environment of every worker. Fine if it is not there.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_unset_env(spec: *mut ice_spec, key: *const c_char) -> ice_status {
    set_text(spec, option!("unset_env"), key, "key")
}

/// `ice_spec_set_env()` for the worker of one local rank. A rank that is not below local_world_size
/// is ICE_ERROR_CONFIG from `ice_agent_new()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_rank_env(
    spec: *mut ice_spec,
    local_rank: i32,
    key: *const c_char,
    value: *const c_char,
) -> ice_status {
    edit(spec, |spec| {
        let change = parse::set_variable(text(key, "key")?, text(value, "value")?)?;
        parse::set_of_rank(spec, i64::from(local_rank), change)
    })
}

/// `ice_spec_unset_env()` for the worker of one local rank.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_unset_rank_env(
    spec: *mut ice_spec,
    local_rank: i32,
    key: *const c_char,
) -> ice_status {
    edit(spec, |spec| {
        let change = parse::unset(text(key, "key")?)?;
        parse::set_of_rank(spec, i64::from(local_rank), change)
    })
}

/// Non-zero: workers start with nothing of the host's environment, only with what the spec sets and
/// what the agent sets itself. A program without a slash is then looked for in a PATH that the spec
/// sets, else in `/bin:/usr/bin`. Default 0.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_clean_env(spec: *mut ice_spec, on: i32) -> ice_status {
    set_flag(spec, option!("clean_env"), on)
}

/// Non-zero: workers of a host that a launcher of MPI has started get nothing of that launcher's variables. With them
/// MPI_Init() of a worker takes it for the rank that its host is, and fails or hangs. A host is taken for a rank if it
/// has PMI_RANK, PMIX_RANK, OMPI_COMM_WORLD_RANK, MPI_LOCALRANKID, MV2_COMM_WORLD_RANK or PALS_RANKID; left out is then
/// whatever begins with PMI_, PMI2_, PMIX_, OMPI_, ORTE_, PRTE_, HYDI_, MPI_LOCAL, MPISPAWN_, MV2_COMM_WORLD_,
/// MVP_COMM_WORLD_, PALS_, SLURM_PMI or FLUX_PMI_. Settings of Open MPI (OMPI_MCA_pml, say) are among them, as they look
/// like what the launcher itself has set: what `ice_spec_set_env()` sets is kept. The host's own environment stays as
/// it is. A message says it at level info. Default 0; `icerun` has it on, unless `--keep-launcher-variables` is given.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_scrub_launcher(spec: *mut ice_spec, on: i32) -> ice_status {
    set_flag(spec, option!("scrub_launcher"), on)
}

/// The directory workers start in. A relative path is taken from the host's working directory.
/// Default: the host's. A directory that is missing is a start error with its errno.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_working_dir(spec: *mut ice_spec, path: *const c_char) -> ice_status {
    set_text(spec, option!("working_dir"), path, "path")
}

/// What a worker's standard input is.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ice_stdin {
    /// `/dev/null` for all ranks: the default, as workers that share one input steal from each other.
    ICE_STDIN_NULL = 0,
    /// The host's for local rank 0, `/dev/null` for the others (as mpirun does). Not for a terminal: a
    /// worker is in a process group of its own, so that a read would stop it (SIGTTIN).
    ICE_STDIN_RANK0 = 1,
    /// The host's for all ranks (as torchrun does); likewise not for a terminal.
    ICE_STDIN_ALL = 2,
}

/// Chooses the standard input of workers, an `ice_stdin`. Default ICE_STDIN_NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_stdin(spec: *mut ice_spec, choice: i32) -> ice_status {
    set_word(spec, option!("stdin"), choice)
}

/// The CPUs that a worker may run on, it and every thread and process that it starts.
///
/// Four choices are torch's (torchrun `--numa-binding`), with the same sets: they go by the NUMA node that
/// the device of each worker is attached to, and node 0 where the kernel does not say. COMPACT is for
/// workers without devices. Whatever is chosen, a worker gets none but the CPUs that are left to the thread
/// that calls `ice_agent_run()` or `ice_agent_start()`, or `ice_agent_prepare()` where that comes first
/// (sched_getaffinity(2), which knows the cpuset of a container too).
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ice_cpu_binding {
    /// Workers run where the host does.
    ICE_CPU_BINDING_OFF = 0,
    /// All CPUs of the node of the worker's device (`node`). If in doubt, this one.
    ICE_CPU_BINDING_NODE = 1,
    /// All CPUs of all nodes of the socket that the node of the device is in (`socket`).
    ICE_CPU_BINDING_SOCKET = 2,
    /// A part of the physical cores of the node of the device (`exclusive`): they are divided among all
    /// devices of that node, in the order of the devices, so that no two workers share a core. Parts differ by
    /// one core at most, the first ones are the larger. With fewer cores than devices a start error.
    ICE_CPU_BINDING_EXCLUSIVE = 3,
    /// One core complex on the node of the device (`core-complex`): the cores that share a last-level cache.
    /// The devices of a node take its complexes in turn, those with the most CPUs first, so that each has one
    /// of its own where there are enough.
    ICE_CPU_BINDING_CORE_COMPLEX = 4,
    /// A part of all physical cores, whatever devices there are (`compact`; torch has none like it): they are
    /// divided among the workers as for EXCLUSIVE, in the order of sockets, nodes and core complexes, so
    /// that the cores of a worker lie together. With fewer cores than workers a start error.
    ICE_CPU_BINDING_COMPACT = 5,
}

/// Binds each worker to CPUs, an `ice_cpu_binding`. Default ICE_CPU_BINDING_OFF (torchrun `--numa-binding`).
///
/// The binding is part of the worker's birth: it holds before the first instruction of a program or function,
/// whatever the start method, and needs no other program; arguments are not changed. A fork server and its
/// warm-up are not bound, the workers that it forks are. Each attempt works the sets out anew.
///
/// Where neither the host nor the spec sets or unsets OMP_NUM_THREADS, a bound worker has in it the number
/// of physical cores that it got. (An OpenMP library that a forked worker has from its host, or from its fork
/// server, has read its environment there.)
///
/// NODE, SOCKET, EXCLUSIVE and CORE_COMPLEX are a start error where a worker has no device, or where none of
/// the CPUs near it may be used; so is whatever the kernel refuses, with its errno. Devices are looked for
/// when the agent is made (`ice_spec_set_probe_timeout()`). A worker's device is the first that it was given;
/// where none are named, that of its local rank.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_cpu_binding(spec: *mut ice_spec, binding: i32) -> ice_status {
    set_word(spec, option!("cpu_binding"), binding)
}

/// Non-zero: while the run lasts the host's soft limit of descriptors (getrlimit(2), RLIMIT_NOFILE) is its hard limit,
/// and afterwards what it was, unless somebody has set another one meanwhile. Workers, and all that is started beside
/// them, get the soft limit that there was before. Several runs at once share it. The limit is one of the whole
/// process: select(2) in the host does not know a descriptor above 1023.
///
/// Whether it is raised or not: an attempt whose workers need more descriptors (see `ice_spec_set_local_world_size()`)
/// than the limit leaves ends with ICE_END_START_ERROR and EMFILE before any of them is started. Default 0: no limit is
/// touched. `icerun` always raises it.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_raise_descriptor_limit(spec: *mut ice_spec, on: i32) -> ice_status {
    set_flag(spec, option!("raise_descriptor_limit"), on)
}

/// MASTER_ADDR for the workers. Default `127.0.0.1` (torchrun `--master-addr`). With a rendezvous
/// (`ice_spec_set_rendezvous()`) it is of the round, and this and the port have no effect, but for
/// `ice_spec_set_from_scheduler()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_master_addr(spec: *mut ice_spec, address: *const c_char) -> ice_status {
    set_text(spec, option!("master_addr"), address, "address")
}

/// MASTER_PORT for the workers: 0 to 65535; 0, the default, means a free port, another one for each
/// attempt. Rank 0 is to listen there, unless the agent does (`ice_spec_set_agent_store()`). While an attempt runs the
/// agent keeps the port from being given to others with a bound socket that does not listen: a worker that listens
/// there needs SO_REUSEADDR, which every usual server sets (torch's store does). A given port that is in use is a start
/// error with EADDRINUSE.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_master_port(spec: *mut ice_spec, port: i32) -> ice_status {
    set_number(spec, option!("master_port"), i64::from(port))
}

/// Whether the agent serves the store that workers meet at, at MASTER_ADDR and MASTER_PORT, in the protocol of
/// PyTorch's TCPStore (as torchrun does); TORCHELASTIC_USE_AGENT_STORE then is `True`, and rank 0 a client like
/// the others (`env://` and `ice_worker_store()` know that). Each attempt has a new, empty one, served by a
/// thread of the library. If MASTER_ADDR is a loopback address only this host gets to it, else anybody who
/// reaches the port: PyTorch's clients have no secret. Non-zero: it does; 0: the worker of rank 0 is to.
///
/// Default: with a rendezvous the agent of group rank 0 serves it; on one host no agent does, and no port is open.
/// Whatever is said here, rank 0 is to serve it where the host's environment has
/// TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, or on one host where workers find ICE_STORE_SECRET_FILE.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_agent_store(spec: *mut ice_spec, on: i32) -> ice_status {
    set_flag(spec, option!("agent_store"), on)
}

/// The name of this job: TORCHELASTIC_RUN_ID, and part of the run directory's name (where `/` and
/// control characters become `_` and only the first 100 bytes count). Not empty. Default: `none`
/// (torchrun `--rdzv-id`).
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_run_id(spec: *mut ice_spec, run_id: *const c_char) -> ice_status {
    set_text(spec, option!("run_id"), run_id, "run_id")
}
