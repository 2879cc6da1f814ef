//! `ice_spec`: what to run, written down by builder functions.

use std::ffi::{c_char, c_void};
use std::path::PathBuf;
use std::sync::Arc;

use super::log::{ice_event_fn, ice_log_fn};
use super::status::{guard, ice_status};
use super::worker::{callback, ice_worker_fn};
use super::{bytes, output, text, utf8};
use crate::control::section::Name;
use crate::device::numa::Binding;
use crate::device::strings::Nproc;
use crate::error::Error;
use crate::ranks::MAX_LOCAL_WORLD_SIZE;
use crate::spec::streams::{LocalRanks, StreamMap};
use crate::spec::{
    self, EnvEdit, EventCallback, EventHandler, EventSource, Function, HostPointer, Level, LogCallback,
    MacroSet, OutputCallback, Spec, StartMethod, Stdin,
};
use crate::sys::memory::Blob;

/// What to run and how, written down with the functions `ice_spec_*`. Every value is copied before
/// the function returns. A function that refuses its value returns ICE_ERROR_CONFIG, leaves the field
/// as it was, and the spec remembers the first refusal: `ice_agent_new()` repeats it, so it is enough
/// to check there.
///
/// One spec may make any number of agents; each takes its own copy. A spec is not locked: one thread
/// at a time. Unless a function says otherwise it gives ICE_ERROR_ARGUMENT for a NULL pointer and
/// ICE_ERROR_CONFIG for a value it does not take.
pub struct ice_spec {
    spec: Spec,
}

impl ice_spec {
    pub(super) fn get(&self) -> &Spec {
        &self.spec
    }
}

pub(super) fn edit(spec: *mut ice_spec, change: impl FnOnce(&mut Spec) -> Result<(), Error>) -> ice_status {
    guard(|| output(spec, "spec")?.spec.edit(change))
}

/// Makes a spec with all fields at their defaults and writes it to `*out`. The caller owns it and
/// frees it with `ice_spec_free()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_new(out: *mut *mut ice_spec) -> ice_status {
    guard(|| {
        let out = output(out, "out")?;
        *out = Box::into_raw(Box::new(ice_spec { spec: Spec::default() }));
        Ok(())
    })
}

/// Frees a spec. NULL is fine. Agents made from it are not touched.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_free(spec: *mut ice_spec) {
    if !spec.is_null() {
        // SAFETY: the header says that a spec comes from `ice_spec_new` and is freed once.
        drop(unsafe { Box::from_raw(spec) });
    }
}

/// The role of the workers: ROLE_NAME in their environment, byte for byte. Not empty; any bytes but
/// NUL. Default `"default"` (torchrun `--role`).
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_role(spec: *mut ice_spec, role: *const c_char) -> ice_status {
    edit(spec, |spec| {
        spec.role = spec::not_empty("role", text(role, "role")?)?.to_vec();
        Ok(())
    })
}

/// How many workers this agent starts: 1 to 16384, default 1 (torchrun `--nproc-per-node`; for its words see
/// `ice_spec_set_nproc_per_node()`). Where `ice_spec_set_devices()` names devices their number is the default,
/// and another one set here is ICE_ERROR_CONFIG from `ice_agent_new()`, with both. Each worker costs the host one
/// descriptor while it runs, two if it is a function, and one more for each of its streams that is followed to the
/// console, to `ice_spec_set_output_callback()` or through filters; the run itself some twenty. See getrlimit(2),
/// RLIMIT_NOFILE, and `ice_spec_set_raise_descriptor_limit()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_local_world_size(spec: *mut ice_spec, size: i64) -> ice_status {
    edit(spec, |spec| {
        let size = spec::number("local_world_size", size, 1, MAX_LOCAL_WORLD_SIZE)?;
        spec.local_world_size = size as usize;
        spec.nproc = Some(Nproc::Number(spec.local_world_size));
        Ok(())
    })
}

/// The program each worker runs: a path, or a name without a slash that is looked for in the PATH of
/// *the worker's* environment (so a PATH set for one rank decides there), as execvp(3) does, but
/// without its fall-back to a shell. Macros as in `ice_spec_add_arg()` are not replaced here. A spec
/// has a program, a callback or a function.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_program(spec: *mut ice_spec, path: *const c_char) -> ice_status {
    edit(spec, |spec| set_program(spec, text(path, "path")?))
}

/// `ice_spec_set_program()` for a path of `length` bytes that is not NUL-terminated. A NUL within is
/// ICE_ERROR_CONFIG.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_program_bytes(
    spec: *mut ice_spec,
    path: *const c_char,
    length: usize,
) -> ice_status {
    edit(spec, |spec| set_program(spec, bytes(path, length, "path")?))
}

fn set_program(spec: &mut Spec, path: &[u8]) -> Result<(), Error> {
    spec.program = Some(spec::c_bytes("program", spec::not_empty("program", path)?)?);
    Ok(())
}

/// Adds one argument after the program's name. It reaches the worker byte for byte, no shell reads
/// it, but for these macros, which each attempt fills in: `${local_rank}`, `${rank}`, `${role_rank}`,
/// `${group_rank}`, `${local_world_size}`, `${world_size}`, `${role_name}`, `${run_id}`,
/// `${restart_count}`, `${hostname}`; `ice_spec_set_macros()` chooses fewer. One more `$` keeps such a
/// text: `$${rank}` arrives as `${rank}`. Anything else, `$$`, `$rank` and `${other}` too, stays as it is.
/// The kernel's limits hold at start: 128 KiB for one argument, a quarter of the stack limit for all
/// (execve(2), E2BIG).
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_add_arg(spec: *mut ice_spec, arg: *const c_char) -> ice_status {
    edit(spec, |spec| add_arg(spec, text(arg, "arg")?))
}

/// Which macros of `ice_spec_add_arg()` are filled in.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ice_macros {
    /// None: arguments arrive byte for byte, `$${rank}` too.
    ICE_MACROS_NONE = 0,
    /// `${local_rank}` alone, as torchrun does: for programs whose arguments have a `${..}` of their own.
    ICE_MACROS_LOCAL_RANK = 1,
    /// All of them: the default.
    ICE_MACROS_ALL = 2,
}

/// Chooses which macros are filled in in arguments, an `ice_macros`, whether they were added before or are
/// added later. Prefixes and commands (`ice_spec_set_log_prefix_template()`, `ice_spec_set_stack_command()`)
/// always have all. Default ICE_MACROS_ALL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_macros(spec: *mut ice_spec, choice: i32) -> ice_status {
    const NONE: i32 = ice_macros::ICE_MACROS_NONE as i32;
    const LOCAL_RANK: i32 = ice_macros::ICE_MACROS_LOCAL_RANK as i32;
    const ALL: i32 = ice_macros::ICE_MACROS_ALL as i32;
    edit(spec, |spec| {
        spec.macros = match choice {
            NONE => MacroSet::Nothing,
            LOCAL_RANK => MacroSet::LocalRank,
            ALL => MacroSet::All,
            other => return Err(Error::config("macros", other, "must be an ice_macros: 0, 1 or 2")),
        };
        Ok(())
    })
}

/// `ice_spec_add_arg()` for `length` bytes that are not NUL-terminated. A NUL within is
/// ICE_ERROR_CONFIG.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_add_arg_bytes(
    spec: *mut ice_spec,
    arg: *const c_char,
    length: usize,
) -> ice_status {
    edit(spec, |spec| add_arg(spec, bytes(arg, length, "arg")?))
}

/// Adds `count` arguments, as `ice_spec_add_arg()` does one. All or none are added.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_add_args(
    spec: *mut ice_spec,
    args: *const *const c_char,
    count: usize,
) -> ice_status {
    edit(spec, |spec| {
        let before = spec.args.len();
        for index in 0..count {
            if args.is_null() {
                return Err(super::null("args"));
            }
            // SAFETY: the header says that `args` points to `count` strings.
            let arg = unsafe { *args.add(index) };
            let added = text(arg, "args").and_then(|arg| add_arg(spec, arg));
            if let Err(error) = added {
                spec.args.truncate(before);
                return Err(error);
            }
        }
        Ok(())
    })
}

fn add_arg(spec: &mut Spec, arg: &[u8]) -> Result<(), Error> {
    spec.args.push(spec::c_bytes("arg", arg)?);
    Ok(())
}

/// Makes each worker a forked copy of this process that calls `function(worker, user_data)` and ends
/// with what it returns. See `ice_worker_fn` for what the function may do. A spec has a program, a
/// callback or a function; a callback takes no arguments. It runs on a stack as large as a main thread's
/// (getrlimit(2), RLIMIT_STACK; 64 MiB where that is unlimited), the only thread there.
///
/// Fork is safe here in a host with many threads: the child is made by the C library's fork(3), so
/// malloc and stdio work in it; what other threads of the host held locked stays locked for ever in
/// the child, and its pthread_atfork(3) handlers run. The price of fork grows with the memory the host
/// has touched (some 25 ms per GiB); programs and `ice_spec_set_function()` do not have that price.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_callback(
    spec: *mut ice_spec,
    function: ice_worker_fn,
    user_data: *mut c_void,
) -> ice_status {
    edit(spec, |spec| {
        spec.callback = Some(callback(function, user_data)?);
        Ok(())
    })
}

/// Makes each worker a call of the function `name` in a process of its own that is not a copy of this one.
///
/// With `library` NULL it is a function of this program that `ice_worker_register()` knows under that name:
/// the program is executed again, and its main calls `ice_worker_main()`. A name that the new process
/// does not know is a start error that lists those that it knows.
///
/// With `library` it is the symbol `name` of that shared object, an `ice_worker_fn` that gets NULL as
/// `user_data`. The process has nothing in it but libice and the object (and what the object is linked
/// with), which dlopen(3) loads with RTLD_NOW | RTLD_GLOBAL: no main function of the host's is needed, so
/// this is the way for hosts in Go, Julia or Python. A path with a slash is relative to the host's
/// directory when the run starts, one without is searched for as dlopen(3) does.
///
/// Both strings are copied, and must not be empty. A spec has a program, a callback or a function. The
/// start method is ICE_START_SPAWN unless `ice_spec_set_start_method()` says otherwise. A function takes no
/// arguments but what `ice_spec_set_argument()` gives.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_function(
    spec: *mut ice_spec,
    library: *const c_char,
    name: *const c_char,
) -> ice_status {
    edit(spec, |spec| {
        let string = |pointer, field| spec::c_bytes(field, spec::not_empty(field, text(pointer, field)?)?);
        let library = if library.is_null() { None } else { Some(string(library, "library")?) };
        spec.function = Some(Function { library, name: string(name, "function")? });
        Ok(())
    })
}

/// How a worker that is a function gets its process (torch's start_method).
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ice_start_method {
    /// A forked copy of this process: for `ice_spec_set_callback()`, and for functions that are registered
    /// here. Everything that the host has in memory is there. Refused with ICE_ERROR_STATE when CUDA is
    /// initialised in this process (the driver is asked if it is loaded; nothing is loaded for that), as
    /// a forked copy could not use it.
    ICE_START_FORK = 0,
    /// A new process: the program executed again from the very file it runs from (/proc/self/exe, also when
    /// that was removed or replaced), with the same arguments, in the host's directory when the run starts; or
    /// for a function of a shared object the library's own file, or the program of
    /// `ice_spec_set_runner()`. Safe in any host, whatever threads, memory or devices it has, at a price
    /// that does not depend on them.
    ICE_START_SPAWN = 1,
    /// A copy of a server process, which is made as for ICE_START_SPAWN once per run (or by
    /// `ice_agent_prepare()`), does the warm-up, and forks a worker in a fraction of a millisecond. All
    /// workers share what the warm-up loaded, copy-on-write. The server has one thread, unless the warm-up
    /// makes more, and dies with the agent. If somebody kills it its workers go too: the group has
    /// failed, and the next attempt has a new server. Signals that are meant for the agent, SIGTERM among them, are
    /// nothing to the server.
    ICE_START_FORKSERVER = 2,
}

/// Chooses how functions start, an `ice_start_method`. Default: ICE_START_FORK for a callback,
/// ICE_START_SPAWN for `ice_spec_set_function()`. `ice_agent_new()` gives ICE_ERROR_CONFIG for a callback
/// with another method than fork (its pointer means nothing in a new process), and for a function of a
/// shared object with fork. Programs are always executed, whatever is chosen here.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_start_method(spec: *mut ice_spec, method: i32) -> ice_status {
    const FORK: i32 = ice_start_method::ICE_START_FORK as i32;
    const SPAWN: i32 = ice_start_method::ICE_START_SPAWN as i32;
    const FORKSERVER: i32 = ice_start_method::ICE_START_FORKSERVER as i32;
    edit(spec, |spec| {
        spec.start_method = Some(match method {
            FORK => StartMethod::Fork,
            SPAWN => StartMethod::Spawn,
            FORKSERVER => StartMethod::Forkserver,
            other => {
                return Err(Error::config("start_method", other, "must be an ice_start_method: 0, 1 or 2"));
            }
        });
        Ok(())
    })
}

/// The argument of a function: a copy of `length` bytes at `data` in shared memory, which every worker
/// finds with `ice_worker_argument()`. Any size, 0 too; it travels in no argument and no variable. It
/// costs the spec, and each agent made from it, no further copy, and the host one descriptor.
/// ICE_ERROR_SYSTEM where the memory cannot be had.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_argument(
    spec: *mut ice_spec,
    data: *const c_void,
    length: usize,
) -> ice_status {
    edit(spec, |spec| {
        let blob = Blob::copy(bytes(data.cast(), length, "data")?).map_err(|errno| {
            Error::system(format!("an argument of {length} bytes (memfd_create)"), errno as i32)
        })?;
        spec.argument = Some(Arc::new(blob));
        Ok(())
    })
}

/// A function that the fork server calls once before it forks workers: to load data or libraries that all
/// workers then share. `name` is registered, or a symbol of the same shared object, as the worker's
/// function is. Its `ice_worker` has no rank (the numbers are -1) but the argument; what it returns must be
/// 0, anything else is a start error. Signal handlers that it leaves are not the workers', and SIGCHLD goes
/// back to its default; threads that it leaves are not in the workers, with all that this means for locks
/// (fork(2)), and must not wait for children that are not theirs. Its output goes to the host's stdout and
/// stderr. Without the start method forkserver ICE_ERROR_CONFIG from `ice_agent_new()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_warm_up(spec: *mut ice_spec, name: *const c_char) -> ice_status {
    edit(spec, |spec| {
        spec.warm_up = Some(spec::c_bytes("warm_up", spec::not_empty("warm_up", text(name, "name")?)?)?);
        Ok(())
    })
}

/// The program that functions of shared objects run in, and that asks the CUDA driver where devices matter:
/// any that calls `ice_worker_main()` first in main.
/// Needed only where libice is linked statically into a program that does not do so itself: the shared
/// library is such a program of its own (it has an entry; where its file is not executable the host's
/// dynamic loader runs it). A runner that is itself linked statically with libice has to export its symbols
/// (`-rdynamic`) for objects that call `ice_worker_*` without being linked with libice themselves.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_runner(spec: *mut ice_spec, path: *const c_char) -> ice_status {
    edit(spec, |spec| {
        spec.runner = Some(spec::c_bytes("runner", spec::not_empty("runner", text(path, "path")?)?)?);
        Ok(())
    })
}

/// Non-zero, the default: a function that SIGSEGV, SIGBUS, SIGFPE, SIGILL or SIGABRT ends leaves signal,
/// address and a backtrace with symbols in its error file (`ice_worker_result`: message, call_stack),
/// unless it wrote that file itself. The handlers work on a stack of their own; they are installed before
/// the function is called, and only for signals that are at their default, so that handlers of the
/// program's own are left alone; the process then dies by the signal, and dumps core, as without them.
/// One more handler, for signal 62 (SIGRTMAX-2) and under the same terms, says where the threads of a stuck
/// worker are when the agent asks, see `ice_spec_set_stack_timeout()`. 0: no handler.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_crash_records(spec: *mut ice_spec, on: i32) -> ice_status {
    edit(spec, |spec| {
        spec.crash_records = on != 0;
        Ok(())
    })
}

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
/// many threads as there are CPUs. `ice_spec_unset_env()` keeps them out.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_env(
    spec: *mut ice_spec,
    key: *const c_char,
    value: *const c_char,
) -> ice_status {
    edit(spec, |spec| {
        let change = set(text(key, "key")?, text(value, "value")?)?;
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
        let change = set(bytes(key, key_length, "key")?, bytes(value, value_length, "value")?)?;
        spec.env.push(change);
        Ok(())
    })
}

/// Takes a variable of the host out of the environment of every worker. Fine if it is not there.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_unset_env(spec: *mut ice_spec, key: *const c_char) -> ice_status {
    edit(spec, |spec| {
        let key = spec::env_key(text(key, "key")?)?;
        spec.env.push(EnvEdit::Unset(key));
        Ok(())
    })
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
        let change = set(text(key, "key")?, text(value, "value")?)?;
        rank_env(spec, local_rank, change)
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
        let key = spec::env_key(text(key, "key")?)?;
        rank_env(spec, local_rank, EnvEdit::Unset(key))
    })
}

fn set(key: &[u8], value: &[u8]) -> Result<EnvEdit, Error> {
    spec::c_bytes("env", value)?;
    Ok(EnvEdit::Set(spec::env_key(key)?, value.to_vec()))
}

fn rank_env(spec: &mut Spec, local_rank: i32, change: EnvEdit) -> Result<(), Error> {
    let rank = spec::number("rank_env", i64::from(local_rank), 0, MAX_LOCAL_WORLD_SIZE - 1)?;
    spec.rank_env.entry(rank as usize).or_default().push(change);
    Ok(())
}

/// Non-zero: workers start with nothing of the host's environment, only with what the spec sets and
/// what the agent sets itself. A program without a slash is then looked for in a PATH that the spec
/// sets, else in `/bin:/usr/bin`. Default 0.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_clean_env(spec: *mut ice_spec, on: i32) -> ice_status {
    edit(spec, |spec| {
        spec.clean_env = on != 0;
        Ok(())
    })
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
    edit(spec, |spec| {
        spec.scrub_launcher = on != 0;
        Ok(())
    })
}

/// The directory workers start in. A relative path is taken from the host's working directory.
/// Default: the host's. A directory that is missing is a start error with its errno.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_working_dir(spec: *mut ice_spec, path: *const c_char) -> ice_status {
    edit(spec, |spec| {
        let path = text(path, "path")?;
        spec.working_dir = Some(spec::c_bytes("working_dir", spec::not_empty("working_dir", path)?)?);
        Ok(())
    })
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
    const NULL: i32 = ice_stdin::ICE_STDIN_NULL as i32;
    const RANK0: i32 = ice_stdin::ICE_STDIN_RANK0 as i32;
    const ALL: i32 = ice_stdin::ICE_STDIN_ALL as i32;
    edit(spec, |spec| {
        spec.stdin = match choice {
            NULL => Stdin::Null,
            RANK0 => Stdin::Rank0,
            ALL => Stdin::All,
            other => return Err(Error::config("stdin", other, "must be an ice_stdin: 0, 1 or 2")),
        };
        Ok(())
    })
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
    const OFF: i32 = ice_cpu_binding::ICE_CPU_BINDING_OFF as i32;
    const NODE: i32 = ice_cpu_binding::ICE_CPU_BINDING_NODE as i32;
    const SOCKET: i32 = ice_cpu_binding::ICE_CPU_BINDING_SOCKET as i32;
    const EXCLUSIVE: i32 = ice_cpu_binding::ICE_CPU_BINDING_EXCLUSIVE as i32;
    const CORE_COMPLEX: i32 = ice_cpu_binding::ICE_CPU_BINDING_CORE_COMPLEX as i32;
    const COMPACT: i32 = ice_cpu_binding::ICE_CPU_BINDING_COMPACT as i32;
    edit(spec, |spec| {
        spec.cpu_binding = match binding {
            OFF => None,
            NODE => Some(Binding::Node),
            SOCKET => Some(Binding::Socket),
            EXCLUSIVE => Some(Binding::Exclusive),
            CORE_COMPLEX => Some(Binding::CoreComplex),
            COMPACT => Some(Binding::Compact),
            other => {
                return Err(Error::config("cpu_binding", other, "must be an ice_cpu_binding: 0 to 5"));
            }
        };
        Ok(())
    })
}

/// How often the whole group may be started again after a worker failed: 0 to 2147483647, default 3
/// as torch's WorkerSpec (torchrun's own default is 0). 0 means exactly one attempt.
///
/// A start error in the first attempt ends the run, whatever restarts are left. In a later attempt, what could not be
/// started may be a while later, if nothing but room was missing (processes, memory, descriptors, space on a disk, a
/// free port) or a file that is being replaced (ENOENT, ETXTBSY): that uses a restart up, after a wait, see
/// `ice_spec_set_restart_backoff()`, and is one of the result's failures. Anything else (ENOEXEC, EACCES), or such an
/// error when no restart is left, is an agent error. Hosts of a job are told of it as of a failed worker.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_max_restarts(spec: *mut ice_spec, count: i64) -> ice_status {
    edit(spec, |spec| {
        spec.max_restarts = spec::number("max_restarts", count, 0, spec::MAX_RESTARTS)? as u32;
        Ok(())
    })
}

/// Waits before a restart: `initial` seconds before the first, twice as long before each further one,
/// never more than `maximum` seconds. Counted from the moment the last worker is gone. Both 0 to 1e9,
/// `initial` not above `maximum`. Default: no wait; after an attempt whose workers could not be started, 0.5 seconds,
/// and twice as long after each further one in a row, never more than 30. A stop ends the wait at once.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_restart_backoff(
    spec: *mut ice_spec,
    initial: f64,
    maximum: f64,
) -> ice_status {
    edit(spec, |spec| {
        let first = spec::seconds("restart_backoff", initial)?;
        let most = spec::seconds("restart_backoff", maximum)?;
        if first > most {
            let want = format!("the initial wait must not be above the maximum, which is {maximum}");
            return Err(Error::config("restart_backoff", initial, want));
        }
        spec.restart_backoff = (!most.is_zero()).then_some((first, most));
        Ok(())
    })
}

/// An attempt whose first failure comes sooner than `seconds` after its start is a crash loop: the run
/// ends with it, whatever restarts are left. 0 to 1e9; default 0, which is off.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_min_uptime(spec: *mut ice_spec, seconds: f64) -> ice_status {
    edit(spec, |spec| {
        spec.min_uptime = spec::seconds("min_uptime", seconds)?;
        Ok(())
    })
}

/// Adds an exit code, 1 to 255, after which a restart makes no sense (a bad configuration, say): a
/// worker whose own failure has this code ends the run, whatever restarts are left. May be called
/// again for further codes.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_add_no_restart_exit_code(spec: *mut ice_spec, code: i32) -> ice_status {
    edit(spec, |spec| {
        let code = spec::number("no_restart_exit_code", i64::from(code), 1, 255)?;
        spec.no_restart_exit_codes.insert(code as i32);
        Ok(())
    })
}

/// How many attempts may fail without having come further than those before: the run ends with the last of
/// them, whatever restarts are left. 0 to 2147483647; 0, the default, is any number. How far an attempt came is the
/// greatest step that a rank has said (`ice_worker_step()`), or where none says steps the most that a rank has
/// done (`ice_worker_progress()`). An attempt in which nobody has said anything is unknown: it is not counted,
/// and does not end the count; for those that fail at once there is `ice_spec_set_min_uptime()`. Any number but
/// 0 implies `ice_spec_set_control()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_max_attempts_without_progress(spec: *mut ice_spec, count: i64) -> ice_status {
    edit(spec, |spec| {
        let count = spec::number("max_attempts_without_progress", count, 0, spec::MAX_RESTARTS)?;
        spec.attempts_without_progress = count as u32;
        Ok(())
    })
}

/// The longest time, in seconds, between two looks at what the kernel announces by no event: whether
/// descendants of a stopped worker are gone, and with `ice_spec_set_uninterruptible_timeout()` whether a worker
/// is asleep in the kernel. Exits of workers, stops and output are events and never wait for it, and without
/// that an agent whose workers are well does not wake up at all. 0.001 to 1e9, default
/// 0.1 (torchrun `--monitor-interval`).
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_monitor_interval(spec: *mut ice_spec, seconds: f64) -> ice_status {
    edit(spec, |spec| {
        let interval =
            spec::seconds("monitor_interval", seconds).ok().filter(|time| time.as_micros() >= 1000);
        let want = "must be seconds from 0.001 to 1000000000";
        spec.monitor_interval = interval.ok_or_else(|| Error::config("monitor_interval", seconds, want))?;
        Ok(())
    })
}

/// Seconds that workers have between the stop signal and SIGKILL, one value for every path: a failed
/// peer, a restart, a signal, `ice_agent_stop()`, `ice_agent_free()`. All workers share one deadline.
/// 0 to 1e9; 0 means SIGKILL follows at once. Default: the environment variable
/// TORCH_ELASTIC_SHUTDOWN_TIMEOUT of the host when the agent is made, else 30 (torchrun
/// `--shutdown-timeout`). A variable that is not such a number is ICE_ERROR_CONFIG from
/// `ice_agent_new()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_shutdown_timeout(spec: *mut ice_spec, seconds: f64) -> ice_status {
    edit(spec, |spec| {
        spec.shutdown_timeout = Some(spec::seconds("shutdown_timeout", seconds)?);
        Ok(())
    })
}

/// The signal that asks workers to stop; default SIGTERM. It goes to the process group of every
/// worker, so that its descendants get it too, once, followed by SIGCONT, so that a stopped worker can
/// act on it. A run that is stopped by a signal of `ice_spec_set_signals()` or by
/// `ice_agent_stop(agent, signal)` passes that signal on instead.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_stop_signal(spec: *mut ice_spec, signal: i32) -> ice_status {
    edit(spec, |spec| {
        spec.stop_signals.stop = spec::signal("stop_signal", i64::from(signal))?;
        Ok(())
    })
}

/// Sends `signal` first and waits up to `seconds` for the workers to end by themselves before the stop
/// signal follows: time for a checkpoint. `seconds` 0 to 1e9, not counted in the shutdown time-out.
/// Default: none.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_pre_stop_signal(spec: *mut ice_spec, signal: i32, seconds: f64) -> ice_status {
    edit(spec, |spec| {
        let signal = spec::signal("pre_stop_signal", i64::from(signal))?;
        spec.stop_signals.pre_stop = Some((signal, spec::seconds("pre_stop_signal", seconds)?));
        Ok(())
    })
}

/// Signals of the host process that stop the run: a comma-separated list of names with or without
/// `SIG`, or numbers, for instance `"SIGTERM,SIGINT,SIGHUP,SIGQUIT"` (torchrun's default for
/// `--signals-to-handle`). Default `""`: the library installs no handler at all.
///
/// With a list, handlers are installed for the time of the run only, and what stood there before is
/// put back when the last run that asked for that signal is over. A signal that the host ignores when
/// the run starts stays ignored (nohup). On a signal every worker gets that same signal, has the
/// shutdown time-out, then SIGKILL; the run ends with ICE_END_INTERRUPTED. A further signal never skips
/// the kill: a second SIGINT or SIGQUIT brings SIGKILL at once, others change nothing.
///
/// A worker that dies of one of these signals, or exits with 128 and its number, may have got a stop that is meant
/// for all before the host got it. So for up to 0.2 seconds it is not taken for a failure: a stop that comes
/// meanwhile ends the run as one, without a further attempt. The same holds in a job of several hosts for SIGTERM,
/// SIGINT and the stop signal, whoever handles them, and for a job that another host closed without a failed worker.
///
/// A name that this system does not know is a warning in the log and otherwise left out. SIGKILL,
/// SIGSTOP, SIGCHLD and the signals of a crash are ICE_ERROR_CONFIG.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_signals(spec: *mut ice_spec, list: *const c_char) -> ice_status {
    edit(spec, |spec| {
        let (known, unknown) = spec::signal_list("signals", text(list, "list")?)?;
        spec.handled_signals = known;
        spec.unknown_signals.extend(unknown);
        Ok(())
    })
}

/// Signals of the host process that every worker gets once each time they arrive, while the run goes
/// on, for instance `"SIGUSR1,SIGUSR2,SIGWINCH"`. The list, the handlers and the errors are as for
/// `ice_spec_set_signals()`; a signal in both lists stops the run. Default `""`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_pass_signals(spec: *mut ice_spec, list: *const c_char) -> ice_status {
    edit(spec, |spec| {
        let (known, unknown) = spec::signal_list("pass_signals", text(list, "list")?)?;
        spec.pass_signals = known;
        spec.unknown_signals.extend(unknown);
        Ok(())
    })
}

/// Non-zero (the default): when a group has succeeded, what its workers left running is killed, as it always is after a
/// failure or a stop, and before a restart. 0: it is left alone after a success, and nobody looks for it.
///
/// That is the members of their process groups, and whatever else descends from a worker, in whatever group or
/// session (`timeout`, a shell with job control, setsid(1), a daemon). A stop signal reaches those too that are below a
/// living worker then, but not what is below another agent there (a nested run): that agent stops its workers, and has
/// until the shutdown time-out. What has lost its parents is found by the mark of the run in ICE_DESCENT, which
/// everything inherits that does not clear its environment, or, with `ice_spec_set_subreaper()`, whatever
/// it does. What is found and cannot be killed is named, with its command, in a warning and in
/// `ice_result_summary()`.
///
/// Not found is, without a subreaper, what has lost its parents and then cleared its environment, or may not be
/// looked at: a program of another user (sudo) for a host that is not root; and nobody is where /proc shows another
/// pid namespace, or none (hidepid shows one's own, which is enough). A program that is meant to outlive its worker is
/// to be started from elsewhere, by a service manager for instance.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_kill_group_on_success(spec: *mut ice_spec, on: i32) -> ice_status {
    edit(spec, |spec| {
        spec.kill_group_on_success = on != 0;
        Ok(())
    })
}

/// Non-zero: from the start of the run to its end the process is a child subreaper (PR_SET_CHILD_SUBREAPER of prctl(2)):
/// what descends from it and loses its parent becomes its child. So nothing that a worker has started is lost,
/// even if it has a session of its own and an empty environment; it is killed with its attempt, see
/// `ice_spec_set_kill_group_on_success()`, and reaped. A handler for SIGCHLD stands meanwhile, unless the host ignores
/// it; what ends earlier is reaped within a second. 0 (the default): nothing of the host is changed.
///
/// For a process that starts no other children during the run, and has no other agent: such a child, but one of before
/// the run, counts as a descendant of the workers. icerun is one.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_subreaper(spec: *mut ice_spec, on: i32) -> ice_status {
    edit(spec, |spec| {
        spec.subreaper = on != 0;
        Ok(())
    })
}

/// Serves workers as torch's file timers do (`torch.distributed.elastic.timer`, as of 2.15): each attempt has a
/// FIFO of its own, in TORCHELASTIC_TIMER_FILE of its workers, and a worker that does not release a timer in
/// time gets the signal that its client has named. 1 on, 0 off. Default: on if the host's environment has
/// TORCHELASTIC_ENABLE_FILE_TIMER=1 when the agent is made, as for torch.
///
/// The FIFO is where the host's own TORCHELASTIC_TIMER_FILE says, unless the host is a worker itself (it has
/// TORCHELASTIC_RUN_ID), else in the run directory, else below TMPDIR or `/tmp`; only processes of the host's user
/// may write to it; a FIFO that is there already, and that nobody reads from, is replaced, anything else is a
/// start error. A request is one line of JSON, at most 4096 bytes, with `pid`,
/// `scope_id`, `expiration_time` in seconds since 1970 and `signal`. A negative time releases the timer of that
/// process and scope; another one sets or replaces it. The time is read when the line arrives: what happens
/// to the wall clock later changes nothing. What is no request is left out, and told to the log once.
///
/// Timers are of workers and of processes that these have started, found by process group or descent; a
/// request for anybody else is refused with a warning, and nobody but these is ever signalled. A worker
/// has at most 256. They end with their process and with their attempt.
///
/// When one expires, its stack is taken (`ice_spec_set_stack_timeout()`) and that process gets the signal, once,
/// whatever else of it has expired by then; 0 or less only warns in the log; a number that is no signal stands
/// for SIGKILL. A worker that is still there after the shutdown time-out is killed. It has failed then,
/// as ICE_CAUSE_TIMED_OUT, with all that follows: the group is stopped, and started again if restarts are left.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_file_timers(spec: *mut ice_spec, on: i32) -> ice_status {
    edit(spec, |spec| {
        spec.file_timers = Some(on != 0);
        Ok(())
    })
}

/// How many seconds a worker may be in uninterruptible sleep (state D of ps(1)) without a pause: 0 to 1e9, 0
/// for any time. One that has been for longer waits for a GPU, a network card or a disk that does not answer,
/// and what it holds a new one would miss: its stack is taken, the group is stopped, and the run has failed, as
/// ICE_END_WORKER_FAILURE, whatever restarts are left. The worker is ICE_CAUSE_TIMED_OUT; if SIGKILL cannot
/// end it, it is given up as ICE_OUTCOME_STUCK. Only its first thread counts, as for torch.
///
/// While this is on, the agent looks at each worker once per `ice_spec_set_monitor_interval()`: one small file
/// of /proc for each. Default: TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT of the host's environment when the
/// agent is made, where anything but such a number means none, as for torch; else off, at no cost.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_uninterruptible_timeout(spec: *mut ice_spec, seconds: f64) -> ice_status {
    edit(spec, |spec| {
        spec.uninterruptible_timeout = Some(spec::seconds("uninterruptible_timeout", seconds)?);
        Ok(())
    })
}

/// How many seconds workers may go on when the first of them has ended with success: 0 to 1e9; 0, the default, is
/// as long as they like. Those that still run then have failed, as ICE_CAUSE_TIMED_OUT, and are ended by the signal
/// of `ice_spec_set_timer_signal()`: peers of one that has left are often in a collective that nobody will end.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_straggler_timeout(spec: *mut ice_spec, seconds: f64) -> ice_status {
    edit(spec, |spec| {
        spec.straggler_timeout = spec::seconds("straggler_timeout", seconds)?;
        Ok(())
    })
}

/// How many seconds the agent may take to find out where a stuck worker is before it ends it: 0 to 1e9, default
/// 5; 0 means that it does not look. A worker is stuck when a timer of its own has expired
/// (`ice_worker_expires()`, `ice_spec_set_file_timers()`), when it has not been heard of
/// (`ice_spec_set_heartbeat_timeout()`), when it is too long in a section (`ice_spec_set_section_limit()`) or behind
/// the others (`ice_spec_set_straggler_timeout()`), or when it has been in uninterruptible sleep for too long
/// (`ice_spec_set_uninterruptible_timeout()`). Where several are found stuck at the same time, none is ended before
/// all were looked at or their time is over. Meanwhile the agent goes on: the end of any worker and a stop
/// are seen as ever, and end the search.
///
/// Of a worker whose descendant holds the timer that expired, that descendant is looked at. What is found is
/// `stack` in `ice_worker_result`, and the file `stack.txt` in the worker's log directory, if it
/// has one:
/// - for each thread, of 64 at most, its name, state and wait channel, and where the host may see them (it is
///   root, say) the system call and the stack within the kernel, from /proc;
/// - for a function with crash records (`ice_spec_set_crash_records()`) the stack of each thread, with symbols: a
///   handler for signal 62 (SIGRTMAX-2), which is there unless the program handles that signal, writes it
///   down and goes on. A thread that blocks the signal, or that the kernel holds, has none;
/// - what the command of `ice_spec_set_stack_command()` says.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_stack_timeout(spec: *mut ice_spec, seconds: f64) -> ice_status {
    edit(spec, |spec| {
        spec.stack_timeout = spec::seconds("stack_timeout", seconds)?;
        Ok(())
    })
}

/// A program that looks at a stuck worker, a debugger say, within the time of `ice_spec_set_stack_timeout()`:
/// `count` strings at `words`, the program (a path, or a name that is looked for in the host's PATH) and its
/// arguments, with the macros of `ice_spec_add_arg()` and `${pid}`. For example `py-spy dump --pid ${pid}`, or
/// `gdb -p ${pid} -batch -ex bt`. It runs in the host's directory and with the host's environment, in a process
/// group of its own, without an input; of what it writes to stdout and stderr the first 64 KiB are taken. When
/// the time is over its group is killed. That it cannot start, or fails, is said in place of its output.
/// `count` 0 takes the command back. Default: none.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_stack_command(
    spec: *mut ice_spec,
    words: *const *const c_char,
    count: usize,
) -> ice_status {
    edit(spec, |spec| {
        if words.is_null() && count > 0 {
            return Err(super::null("words"));
        }
        let word = |index| {
            // SAFETY: not NULL, and the header says that `words` points to `count` strings.
            let word = text(unsafe { *words.add(index) }, "words")?;
            let word = if index == 0 { spec::not_empty("stack_command", word)? } else { word };
            spec::c_bytes("stack_command", word)
        };
        spec.stack_command = (0..count).map(word).collect::<Result<_, Error>>()?;
        Ok(())
    })
}

/// Non-zero: the agent and its workers share a page of memory, through which workers say what step they are at,
/// and are asked to pause, save or stop: `ice_worker_step()`, `ice_agent_request_checkpoint()` and those around
/// them. Default 0.
///
/// A program gets one more descriptor, 3, which its descendants inherit, and the variable ICE_CONTROL_FD, which
/// says so, and is the agent's alone; a function gets nothing that it sees. The host has one descriptor and one
/// thread more while an attempt runs. Nobody wakes up for it unless a worker answers or a timer is due.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_control(spec: *mut ice_spec, on: i32) -> ice_status {
    edit(spec, |spec| {
        spec.control = on != 0;
        Ok(())
    })
}

/// Non-zero: SIGINT is a question, once the group runs, where the workers could answer it
/// (`ice_spec_set_control()` or what implies it) and somebody could be asked: the host's descriptor 0 and the
/// console for stderr are a terminal (isatty(3)), in whose foreground the host is. All ranks pause at one
/// step, for up to 10 seconds, then the terminal shows `Should I save the checkpoint? [Y/n] `. Enter, y and
/// yes have them save one, n and no do not, anything else asks again; the end of the input counts as yes.
/// Saving may take the time of `ice_spec_set_checkpoint_before_stop()`, else 300 seconds; the terminal shows
/// what came of it. Then the run is stopped, as by `ice_agent_stop()` with SIGINT, and workers are not asked
/// to save once more. Another SIGINT, at any time, skips the question and stops the run at once; one more
/// kills the workers.
///
/// Where one of that is missing SIGINT is whatever it is without this option. The question stands alone: lines of
/// workers, log messages and events wait for the answer. A thread of the library reads it, one line from the host's
/// stdin, which the host is not to read meanwhile. SIGINT has a handler from start to the end of the run, as
/// with `ice_spec_set_signals()`, which may name it too. Default 0: SIGINT is not touched. `icerun` always asks.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_ask_on_interrupt(spec: *mut ice_spec, on: i32) -> ice_status {
    edit(spec, |spec| {
        spec.ask_on_interrupt = on != 0;
        Ok(())
    })
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
    edit(spec, |spec| {
        spec.raise_descriptor_limit = on != 0;
        Ok(())
    })
}

/// The local rank that is run for a debugger, pdb or gdb for instance: its stdin, stdout and stderr are the
/// controlling terminal of the host, whatever `ice_spec_set_stdin()`, `ice_spec_set_redirects()` and
/// `ice_spec_set_tee()` say, and its process group is in the foreground of it from its birth to its end, so that ^C
/// is for the worker, as under a debugger, and not for the host. `breakpoint()` in a Python script just works. -1,
/// the default, is none.
///
/// While that rank lives no timer runs: heartbeats, timers of `ice_worker_expires()`, torch's file timers and the
/// limit for uninterruptible sleep; each begins anew at its end. The other ranks run on: at their next collective
/// they wait by themselves. A worker that uses libice can have them wait, and have the terminal for no longer than
/// it needs it, with `ice_worker_debug_begin()`, for which this option is not needed.
///
/// At the rank's end, before a question (`ice_spec_set_ask_on_interrupt()`) and at the end of the run the
/// host's group is put back into the foreground, and the terminal into the modes that it had (tcsetpgrp(3),
/// tcsetattr(3)). A host in the background keeps its hands off: the rank then starts with /dev/null for stdin
/// and the console for the rest, with a warning in the log. SIGTSTP, ^Z, is ignored by the rank at its start
/// (but in copies of a fork server): it would stop nobody else. A progress bar is not shown meanwhile.
/// ICE_ERROR_CONFIG for a number below -1, and from `ice_agent_new()` for one that is not below
/// local_world_size, and if the host has no controlling terminal.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_debug_rank(spec: *mut ice_spec, local_rank: i64) -> ice_status {
    edit(spec, |spec| {
        let rank = spec::number("debug_rank", local_rank, -1, MAX_LOCAL_WORLD_SIZE - 1)?;
        spec.debug_rank = usize::try_from(rank).ok();
        Ok(())
    })
}

/// Non-zero: a progress bar on one row below all lines of the console for stderr, where that is a terminal
/// (isatty(3)); elsewhere, and with the log directory /dev/null, there is none. Implies `ice_spec_set_control()`, and
/// shows what workers say there: the slowest rank's `ice_worker_progress()`, or its step where it says no total;
/// the rate, the time that is left, which rank is the slowest and how many steps it is behind the first (if it
/// is), and the number of restarts. Ranks that have ended do not count. Default 0.
///
/// Streams that workers would write to that terminal themselves go through files, as with
/// `ice_spec_set_tee()`, and so does what they show beside the bar: a line clears it, is shown, and the bar
/// is drawn again. A line that rewrites itself with CR stays above it. The bar steps aside while a log or
/// event callback of the host's is called, which may write there. What others write to the terminal meanwhile
/// may be mixed with it.
///
/// The output thread draws it, up to 4 times a second and only when something has changed, as wide as the
/// terminal is then; a terminal that is stopped or gone holds nothing up. The last row stays, as a line.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_progress_bar(spec: *mut ice_spec, on: i32) -> ice_status {
    edit(spec, |spec| {
        spec.progress_bar = on != 0;
        Ok(())
    })
}

/// A worker that has said a step or a heartbeat (`ice_worker_step()`, `ice_worker_heartbeat()`) and then
/// neither for `seconds` is looked at (`ice_spec_set_stack_timeout()`) and killed (SIGKILL, or what
/// `ice_spec_set_timer_signal()` says). It has failed then, as ICE_CAUSE_TIMED_OUT, with all that follows;
/// its message says why. One that never said anything is left alone here, see
/// `ice_spec_set_initial_heartbeat_timeout()`. Heartbeats are seen to the millisecond;
/// a step is taken to be as young as it can be since the agent looked last, once in `seconds`, so that a
/// worker which says steps alone is killed `seconds` to twice `seconds` after its last. 0 to 1e9; 0, the
/// default, is off. Any other implies `ice_spec_set_control()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_heartbeat_timeout(spec: *mut ice_spec, seconds: f64) -> ice_status {
    edit(spec, |spec| {
        spec.heartbeat_timeout = spec::seconds("heartbeat_timeout", seconds)?;
        Ok(())
    })
}

/// How long a worker may take until its first word: a step, a heartbeat or a section (`ice_worker_step()`,
/// `ice_worker_heartbeat()`, `ice_worker_section()`). One that says none of them for `seconds` from its birth on is
/// dealt with as one whose heartbeat stays away, whether or not it has come as far as `ice_worker_open()`: so a
/// worker that hangs in its imports is found, and one that never uses libice is ended, too. A worker that is several
/// processes in turn, as a shell script, has the whole time again each time that one of them opens its handle. Apart
/// from `ice_spec_set_heartbeat_timeout()`, which may be off: a first step takes longer than others, with imports,
/// data and compilation before it. 0 to 1e9; 0, the default, is off: a first word that never comes is not missed.
/// Any other implies `ice_spec_set_control()`. What `initial_rank_heartbeat_timeout` is to NVIDIA's ft_launcher.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_initial_heartbeat_timeout(spec: *mut ice_spec, seconds: f64) -> ice_status {
    edit(spec, |spec| {
        spec.initial_heartbeat_timeout = spec::seconds("initial_heartbeat_timeout", seconds)?;
        Ok(())
    })
}

/// The signal for a worker that has let a timer of `ice_worker_expires()`, its heartbeat or the limit of a
/// section expire, or is a straggler (`ice_spec_set_straggler_timeout()`): 1 to 64, default SIGKILL (9).
/// Where several have expired, one signal is sent, for the earliest. A worker that lives on is killed after
/// the shutdown time-out. 0: nobody is ended; the log (ICE_LOG_WARNING) and the events (`STUCK`) tell of each
/// that expires, once. Torch's file timers name a signal each themselves.
///
/// No limit of a worker counts time in which the agent could not run either: both were stopped by SIGSTOP or a
/// debugger, frozen in their cgroup, or the machine was paused, suspended, or overloaded. This holds for heartbeats,
/// timers, file timers, sections, stragglers and uninterruptible sleep, for the shutdown time-out, and for the time to
/// save a checkpoint before a stop. To see it, the agent sleeps for no more than an eighth of what is left of the
/// next limit, and at least for half a second; without a limit it sleeps until something happens. What it missed
/// between two looks is given back as a whole, if it is more than half a second: so a worker that hangs is found
/// that much later. A worker that is stopped alone has its limits as ever.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_timer_signal(spec: *mut ice_spec, signal: i32) -> ice_status {
    edit(spec, |spec| {
        let most = i64::from(libc::SIGRTMAX());
        spec.timer_signal = spec::number("timer_signal", i64::from(signal), 0, most)? as i32;
        Ok(())
    })
}

/// How long a worker may be in the section `name` (`ice_worker_section()`), or with NULL in none, once it has said
/// a word of sections (up to its first word `ice_spec_set_initial_heartbeat_timeout()` counts): more than `seconds`,
/// and it is looked at and ended, as one whose timer has expired; its message names the section, how long it was there,
/// and the limit. 0 to 1e9; 0: no limit, whatever is learnt (`ice_spec_set_section_learning()`). The first 40 bytes of
/// the name count; not empty. To be called for each section; a later call replaces the limit. Default: none. Implies
/// `ice_spec_set_control()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_section_limit(
    spec: *mut ice_spec,
    name: *const c_char,
    seconds: f64,
) -> ice_status {
    edit(spec, |spec| {
        let name = match name.is_null() {
            true => Name::default(),
            false => Name::new(spec::not_empty("section", text(name, "name")?)?),
        };
        let limit = spec::seconds("section_limit", seconds)?;
        spec.sections.given.insert(name, limit);
        Ok(())
    })
}

/// Learns how long a section may last that has no limit of `ice_spec_set_section_limit()`: `factor` times as long
/// as the longest that came to its end, and at least `least` seconds, once five have. All ranks and all attempts of
/// the run are taken together. The first time that a process is in a section is apart from all others, learnt
/// from the firsts of other ranks and attempts: the first step compiles what the others run, and set-up comes
/// only once. The time outside of sections is not learnt. `factor` is 1 to 1000 (5 is a good start), or 0, the
/// default: nothing is learnt; `least` 0 to 1e9. Any other implies `ice_spec_set_control()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_section_learning(spec: *mut ice_spec, factor: f64, least: f64) -> ice_status {
    edit(spec, |spec| {
        let least = spec::seconds("section_learning", least)?;
        if factor != 0.0 && !(1.0..=1000.0).contains(&factor) {
            return Err(Error::config("section_learning", factor, "must be a factor from 1 to 1000, or 0"));
        }
        spec.sections.learning = (factor != 0.0).then_some((factor, least));
        Ok(())
    })
}

/// Before a run is stopped, by `ice_agent_stop()`, `ice_agent_free()` or a signal of `ice_spec_set_signals()`,
/// its workers are asked to save a checkpoint at the same step (ICE_REQUEST_SAVE, ICE_REASON_PREEMPTION). The
/// stop begins when all have answered or ended, or after `seconds`: what is left until the machine is taken
/// away, say. Another SIGINT or SIGQUIT, whatever the first signal was, kills at once. What not all have saved is said,
/// with counts, as a warning. 0 to 1e9; 0, the default, is off. Any other implies `ice_spec_set_control()`.
///
/// Many send a stop to all processes at once (systemd's KillMode=control-group, Slurm, a container's runtime), and
/// workers without a handler would be gone before they are asked. So they start with a shield: the signals that
/// stop the run, SIGTERM, the stop signal and the pre-stop signal, and those of the checkpoints of
/// `ice_spec_set_on_signal()`, are nothing to them until their agent stops them. They are ignored when a worker
/// begins, which a program that it executes inherits; from `ice_worker_open()` on, or at once in a function, they
/// have a handler in place that does nothing (SA_RESTART; a system call may end with EINTR), which neither executed
/// programs nor, in effect, forked copies inherit. A handler of the worker's own, set at any time, takes its place
/// and is called whoever sends the signal. Before the agent sends a signal of its own the shield is lowered, so that
/// this one has its default action. A worker that never opened its handle, and ignores the signal still, is killed
/// (SIGKILL) when its group gets the signal. A shell that was started so cannot set a trap for these signals. SIGINT
/// is no part of it: Python would take one that it finds ignored for one that it is to ignore.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_checkpoint_before_stop(spec: *mut ice_spec, seconds: f64) -> ice_status {
    edit(spec, |spec| {
        spec.checkpoint_before_stop = spec::seconds("checkpoint_before_stop", seconds)?;
        Ok(())
    })
}

/// MASTER_ADDR for the workers. Default `127.0.0.1` (torchrun `--master-addr`). With a rendezvous
/// (`ice_spec_set_rendezvous()`) it is of the round, and this and the port have no effect.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_master_addr(spec: *mut ice_spec, address: *const c_char) -> ice_status {
    edit(spec, |spec| {
        spec.master_addr = Some(spec::not_empty("master_addr", text(address, "address")?)?.to_vec());
        Ok(())
    })
}

/// MASTER_PORT for the workers: 0 to 65535; 0, the default, means a free port, another one for each
/// attempt. Rank 0 is to listen there, unless the agent does (`ice_spec_set_agent_store()`). While an attempt runs the
/// agent keeps the port from being given to others with a bound socket that does not listen: a worker that listens
/// there needs SO_REUSEADDR, which every usual server sets (torch's store does). A given port that is in use is a start
/// error with EADDRINUSE.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_master_port(spec: *mut ice_spec, port: i32) -> ice_status {
    edit(spec, |spec| {
        spec.master_port = spec::number("master_port", i64::from(port), 0, 65535)? as u16;
        Ok(())
    })
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
    edit(spec, |spec| {
        spec.agent_store = Some(on != 0);
        Ok(())
    })
}

/// The name of this job: TORCHELASTIC_RUN_ID, and part of the run directory's name (where `/` and
/// control characters become `_` and only the first 100 bytes count). Not empty. Default: `none`
/// (torchrun `--rdzv-id`).
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_run_id(spec: *mut ice_spec, run_id: *const c_char) -> ice_status {
    edit(spec, |spec| {
        spec.run_id = Some(spec::not_empty("run_id", text(run_id, "run_id")?)?.to_vec());
        Ok(())
    })
}

/// The directory under which a run makes its own,
/// `<log dir>/<run id>_<unique>/attempt_<n>/<local rank>/{stdout.log,stderr.log,error.json,stack.txt}`
/// (torchrun `--log-dir`). Missing directories are made. Two runs never share a run directory, and none
/// is removed, unless it is empty at the end.
///
/// While the run is on, the directory is locked (flock(2)), which keeps systemd-tmpfiles from cleaning it away. If it
/// vanishes all the same it is made again, at the same path, for the workers that start after that. Where that cannot
/// be done at a restart, they start without error files, and what they would redirect goes nowhere: a warning.
///
/// Default: `ice_<run id>_<unique>` below TMPDIR, if that is set, else below `/tmp`. If only error files
/// may go there they lie in it side by side as `attempt_<n>_<local rank>_error.json`; for users up to number 999 it
/// is below `/dev/shm` then, if TMPDIR is not set (of other users systemd-logind may remove what is there when they
/// log out). Removed if nothing was written to it.
///
/// `/dev/null` means no files at all: streams that would go to a file go nowhere,
/// TORCHELASTIC_ERROR_FILE is empty, and filters are ICE_ERROR_CONFIG.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_log_dir(spec: *mut ice_spec, path: *const c_char) -> ice_status {
    edit(spec, |spec| {
        spec.log_dir = Some(spec::path("log_dir", text(path, "path")?)?);
        Ok(())
    })
}

/// Which streams of workers go to files instead of the host's stdout and stderr: `"0"` none (the
/// default), `"1"` stdout, `"2"` stderr, `"3"` both, for all ranks; or by local rank, `"0:1,12:2"`,
/// where ranks that are not named have none (torchrun `--redirects`). A worker writes to its file
/// itself: it costs nothing, and the file is whole when the host is killed. A rank that is not below
/// local_world_size is ICE_ERROR_CONFIG from `ice_agent_new()`, but see `ice_spec_set_allow_absent_ranks()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_redirects(spec: *mut ice_spec, map: *const c_char) -> ice_status {
    edit(spec, |spec| {
        spec.redirects = StreamMap::parse("redirects", utf8(map, "redirects")?)?;
        Ok(())
    })
}

/// Which streams of workers go to files and also, line by line with a prefix, to the host's stdout
/// and stderr; the map is as for `ice_spec_set_redirects()` (torchrun `--tee`).
///
/// The bytes of a line are not changed: not CR, not NUL, not what is no UTF-8. A line is shown when
/// its newline comes; a piece without newline that holds a CR (a progress bar) within 0.2 seconds, one
/// prefix for all rewrites of that line; the rest at the end of the stream, with a newline added. A
/// console that is stuck never holds a worker up: lines stay in the file and are shown when it goes on,
/// at the end of the run for up to the shutdown time-out. A console that is gone is one warning.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_tee(spec: *mut ice_spec, map: *const c_char) -> ice_status {
    edit(spec, |spec| {
        spec.tee = StreamMap::parse("tee", utf8(map, "tee")?)?;
        Ok(())
    })
}

/// Non-zero: a worker's stderr goes where its stdout goes, the order of its writes kept; there is then
/// no stderr.log, and the last lines of "stderr" are those of stdout. Default 0.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_merge_stderr(spec: *mut ice_spec, on: i32) -> ice_status {
    edit(spec, |spec| {
        spec.merge_stderr = on != 0;
        Ok(())
    })
}

/// Non-zero: streams that go to files go through the agent, which writes the files and, of tee'd streams, the
/// console; workers write to pipes. Default 0: workers write their log files themselves, and the console follows
/// the files.
///
/// A disk that is full then fails no worker. What it does not take (ENOSPC, EDQUOT, EIO, EFBIG by RLIMIT_FSIZE, a
/// file system that has become read-only, directories that cannot be made for an attempt) is missing in the files,
/// and nowhere else: tee'd lines are all on the console. The first loss of an attempt is one warning, and its total
/// is another one at the end of the attempt. With the default a worker's own write fails, as that of any program
/// whose stdout is a file, and lines that did not get into the file do not reach the console.
///
/// What it costs: output is copied twice more, and a worker that writes faster than the disk takes it waits. A disk
/// that takes nothing at all for five seconds, or, where the disk is full, a console that does not, holds nobody up any
/// longer: what comes then is lost, and counted, until it takes some again. For each stream the agent has three
/// descriptors more while the worker lives, if it is tee'd.
///
/// When the agent's process dies, so do its workers, as ever; what they wrote last, at most 256 KiB of each stream
/// and 8 MiB of all, is in no file then. A process that outlives its worker, or the agent, and goes on writing has nobody
/// who reads: it gets SIGPIPE, or EPIPE.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_log_through_agent(spec: *mut ice_spec, on: i32) -> ice_status {
    edit(spec, |spec| {
        spec.log_through_agent = on != 0;
        Ok(())
    })
}

/// What stands before each line of a tee'd stream; macros as in `ice_spec_add_arg()`. Default: the
/// environment variable TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE of the host when the agent is made, else
/// `[${role_name}${local_rank}]:` (torchrun `--log-line-prefix-template`).
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_log_prefix_template(
    spec: *mut ice_spec,
    template: *const c_char,
) -> ice_status {
    edit(spec, |spec| {
        spec.log_prefix_template = Some(text(template, "template")?.to_vec());
        Ok(())
    })
}

/// Non-zero: each prefix starts with the time the line was read, UTC, as
/// `2026-01-31T23:59:59.123Z `. Default 0.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_log_timestamps(spec: *mut ice_spec, on: i32) -> ice_status {
    edit(spec, |spec| {
        spec.log_timestamps = on != 0;
        Ok(())
    })
}

/// The only local ranks that may reach the console, for instance `"0"` or `"0,2"` (torchrun
/// `--local-ranks-filter`). Output of the others goes to their files, also where no redirect was
/// asked for. Default: all.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_local_ranks_filter(spec: *mut ice_spec, list: *const c_char) -> ice_status {
    edit(spec, |spec| {
        spec.local_ranks_filter =
            Some(LocalRanks::parse("local_ranks_filter", utf8(list, "local_ranks_filter")?)?);
        Ok(())
    })
}

/// Non-zero: the maps of `ice_spec_set_redirects()` and `ice_spec_set_tee()` and the list of
/// `ice_spec_set_local_ranks_filter()` may name local ranks that are not below local_world_size, for one set of
/// options on hosts of different size (as torchrun takes it): those are left out, with a warning when the run
/// starts. Default 0: such a rank is ICE_ERROR_CONFIG from `ice_agent_new()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_allow_absent_ranks(spec: *mut ice_spec, on: i32) -> ice_status {
    edit(spec, |spec| {
        spec.allow_absent_ranks = on != 0;
        Ok(())
    })
}

/// Copies the stdout lines of all ranks that contain one of these texts, prefixed, to
/// `attempt_<n>/filtered_stdout.log`. A comma-separated list, `,,` for a comma within a text (torchrun
/// `--duplicate-stdout-filters`).
/// The stream must be redirected or tee'd for at least one rank, else `ice_agent_new()` gives
/// ICE_ERROR_CONFIG; ranks whose stdout is in no file are not searched. Default `""`: no such file.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_duplicate_stdout_filters(
    spec: *mut ice_spec,
    list: *const c_char,
) -> ice_status {
    edit(spec, |spec| {
        spec.stdout_filters = filters(text(list, "list")?);
        Ok(())
    })
}

/// `ice_spec_set_duplicate_stdout_filters()` for stderr and `attempt_<n>/filtered_stderr.log`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_duplicate_stderr_filters(
    spec: *mut ice_spec,
    list: *const c_char,
) -> ice_status {
    edit(spec, |spec| {
        spec.stderr_filters = filters(text(list, "list")?);
        Ok(())
    })
}

/// A list with commas between, and two commas for one within a text, as torchrun reads it.
fn filters(list: &[u8]) -> Vec<Vec<u8>> {
    let mut items = vec![Vec::new()];
    let mut bytes = list.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        if byte == b',' && bytes.next_if_eq(&b',').is_none() {
            items.push(Vec::new());
        } else if let Some(item) = items.last_mut() {
            item.push(byte);
        }
    }
    items.retain(|item| !item.is_empty());
    items
}

/// How many bytes of the end of a failed worker's stderr file go into its result, cut to whole lines:
/// 0 to 16777216, default 4096. Only a stream that is in a file has a tail.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_stderr_tail(spec: *mut ice_spec, bytes: i64) -> ice_status {
    edit(spec, |spec| {
        spec.stderr_tail = spec::number("stderr_tail", bytes, 0, spec::MAX_STDERR_TAIL as i64)? as usize;
        Ok(())
    })
}

/// Permission bits of directories and files that the run makes, 0 to 07777 (octal), set whatever the
/// umask is. Default: in a directory that `ice_spec_set_log_dir()` names 0775 and 0664 less the umask of the host, so that
/// others never may write there; else 0700 and 0600, as mkdtemp(3), as everybody shares what is above.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_log_modes(spec: *mut ice_spec, directory: i32, file: i32) -> ice_status {
    edit(spec, |spec| {
        let mode = |field, value: i32| {
            if (0..=0o7777).contains(&value) {
                Ok(value as u32)
            } else {
                Err(Error::config(field, format!("0{value:o}"), "must be permission bits, 0 to 07777"))
            }
        };
        spec.log_modes = Some((mode("log_modes", directory)?, mode("log_modes", file)?));
        Ok(())
    })
}

/// The descriptors that stand for the console: tee'd lines of stdout go to `out`, those of stderr to
/// `err`, and workers whose streams are not redirected inherit them. The host keeps both open until
/// the run is over. Default 1 and 2. A number below 0 is ICE_ERROR_CONFIG; a descriptor that is not
/// open when the run starts stands for /dev/null. On a terminal workers are in the background: one that stops
/// who writes from there (`stty tostop`) does not stop workers, which then start with SIGTTOU ignored.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_console(spec: *mut ice_spec, out: i32, err: i32) -> ice_status {
    edit(spec, |spec| {
        let fd = |field, fd: i32| spec::number(field, i64::from(fd), 0, i64::from(i32::MAX));
        spec.console = (fd("console_out", out)? as i32, fd("console_err", err)? as i32);
        Ok(())
    })
}

/// Takes output of one worker: `local_rank`, `stream` (1 stdout, 2 stderr) and `length` bytes at
/// `data`, valid only during the call. Pieces of one stream come in order, cut anywhere. Called from
/// the agent's output thread under the same rules as `ice_log_fn`; while it is slow the bytes wait in
/// the worker's file. At the end of a run it is given all that is there, for up to the shutdown
/// time-out.
pub type ice_output_fn = Option<
    extern "C" fn(user_data: *mut c_void, local_rank: i32, stream: i32, data: *const u8, length: usize),
>;

/// Sends the output of all ranks (but those the rank filter leaves out) to `function` instead of the
/// console. All streams then go through files, as if redirected. NULL takes it back.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_output_callback(
    spec: *mut ice_spec,
    function: ice_output_fn,
    user_data: *mut c_void,
) -> ice_status {
    edit(spec, |spec| {
        spec.output_callback =
            function.map(|function| OutputCallback { function, user_data: HostPointer(user_data as usize) });
        Ok(())
    })
}

/// Where messages of the library go, see `ice_log_fn`. NULL, the default: nowhere. The library itself
/// never writes to stdout or stderr, but for tee'd lines, and where `ice_spec_set_progress_bar()` or
/// `ice_spec_set_ask_on_interrupt()` asks for it.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_log_callback(
    spec: *mut ice_spec,
    function: ice_log_fn,
    user_data: *mut c_void,
) -> ice_status {
    edit(spec, |spec| {
        spec.log_callback =
            function.map(|function| LogCallback { function, user_data: HostPointer(user_data as usize) });
        Ok(())
    })
}

/// The least important level, an `ice_log_level`, that the log callback is given. Default
/// ICE_LOG_DEBUG: everything. The thread that calls it is started with the first such message.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_log_level(spec: *mut ice_spec, level: i32) -> ice_status {
    edit(spec, |spec| {
        spec.log_level = match level {
            1 => Level::Error,
            2 => Level::Warning,
            3 => Level::Info,
            4 => Level::Debug,
            other => return Err(Error::config("log_level", other, "must be an ice_log_level: 1 to 4")),
        };
        Ok(())
    })
}

/// Where the events of the run go, for machines: NULL, the default, is nowhere. An event is one object of
/// JSON in the form that torch's agent gives its events:
///
/// - `name`: `torchelastic.worker.status.STATE` or `torchelastic.agent.status.STATE`;
/// - `source`: `WORKER`, `AGENT` or `RENDEZVOUS`; `timestamp`: milliseconds since 1970;
/// - `metadata`: `state`, `run_id`, `role`, `hostname`, `agent_pid`, `rdzv_backend`, `agent_restarts` (which
///   attempt), and of a worker `worker_id` (its PID), `global_rank`, `local_rank`, `role_rank`, `group_rank`,
///   `world_size`, at its end `exit_code` (minus the signal if one killed it), `signal`, `duration_ms`, and
///   `error`, the message of a failure;
/// - and for what took time, `torchelastic.agent.stage.STAGE` with `duration_ms` (and its fraction) and
///   `agent_restarts`, where STAGE is START (of a group whose workers all run), STOP (from the first signal until all
///   are gone) or ATTEMPT (from the begin of its start until all are gone), of source `AGENT`.
///
/// In each attempt there is one STARTED for each worker that was started, and one final SUCCEEDED, FAILED or
/// TERMINATED (by the agent). Before that there is a STUCK for each timer, heartbeat or limit that it let expire,
/// and for uninterruptible sleep, with `error` and the `signal` that follows, 0 for none. The last event of every
/// run, whatever happens to it, is one SUCCEEDED or FAILED of the agent, with `duration_ms`, `error`, `end` (in the
/// words of `ice_result_summary()`),
/// `root_cause` (a global rank), and torch's metrics: `run_total` is 1, one of `run_success_with_retry`,
/// `run_success_without_retry`, `run_failed_with_retry` and `run_failed_without_retry` is 1, and `flakiness` is
/// 0 to 100, see `ice_result_flakiness()`. Later versions may add fields, and states.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_event_callback(
    spec: *mut ice_spec,
    function: ice_event_fn,
    user_data: *mut c_void,
) -> ice_status {
    edit(spec, |spec| {
        spec.event_callback =
            function.map(|function| EventCallback { function, user_data: HostPointer(user_data as usize) });
        Ok(())
    })
}

/// A file that the events of the run are appended to, a line each, see `ice_spec_set_event_callback()`; "" is
/// none, the default. A relative path is meant from the host's directory when the run starts, which makes the
/// file if it is not there. A terminal will do, and a pipe that somebody reads. A run whose event file cannot
/// be opened is a start error; one that is full, gone or slow later does not hold the run up: at most a
/// mebibyte of events waits for it, what it does not take is left out, and the log has a warning.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_event_file(spec: *mut ice_spec, path: *const c_char) -> ice_status {
    edit(spec, |spec| {
        match optional_path("event_file", path)? {
            Some(path) => spec.event_handlers.insert(None, EventHandler::File(path)),
            None => spec.event_handlers.remove(&None),
        };
        Ok(())
    })
}

/// Where the events of one source go, `worker`, `agent` or `rendezvous` (`source` of the event in lower case), or
/// with NULL those of all sources that have no handler of their own: to `null` for nowhere, to `console` for the
/// second descriptor of `ice_spec_set_console()`, or to a file, by its path, as with `ice_spec_set_event_file()`,
/// which is the same as NULL and that path. "" takes the handler back. A handler that is full, gone or slow harms
/// nobody else; events of several sources for one place come there in their order. A callback
/// (`ice_spec_set_event_callback()`) gets all of them, whatever is said here. Default: none (torchrun
/// `--event-log-handler`).
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_event_handler(
    spec: *mut ice_spec,
    source: *const c_char,
    handler: *const c_char,
) -> ice_status {
    edit(spec, |spec| {
        let source = match source.is_null() {
            true => None,
            false => Some(EventSource::parse(utf8(source, "source")?)?),
        };
        match text(handler, "handler")? {
            b"" => spec.event_handlers.remove(&source),
            handler => spec.event_handlers.insert(source, EventHandler::parse(handler)?),
        };
        Ok(())
    })
}

/// A TCP port of this machine, where HTTP clients are answered while a run goes on. GET of `/metrics` has what
/// Prometheus reads (text format 0.0.4): `libice_group_state`, `libice_restarts`, `libice_workers` by state, the
/// seconds of run, attempt and last start; for each rank `libice_worker_step`, `libice_worker_lag_steps`,
/// `libice_worker_at_step_seconds` (see `ice_worker_info`) and `libice_worker_resident_bytes`; and torch's counters
/// (`libice_run_total`, `libice_run_success_with_retry` and so on) of the runs of this process that have ended. Later
/// versions may add some.
///
/// GET of any other path answers whether the agent is well: 200 and a line of JSON with `last_progress` (seconds
/// since 1970), `seconds_since`, `state` (torch's WorkerState) and `agent_restarts`; 503 and the same when the
/// agent's loop has not turned for `seconds` although it was asked to. Workers do not count: a group that hangs has
/// a healthy agent.
///
/// `port` is 0 (a free one, which the log has at ICE_LOG_INFO) to 65535; -1 is the default: the port that
/// TORCHELASTIC_HEALTH_CHECK_PORT names in the host's environment when the run starts, none without it.
/// `seconds` is more than 0, to 1e9, or 0 for the default of 60, torch's. Only processes of this machine reach it
/// unless `ice_spec_set_health_address()` says otherwise. A port that is in use, or a variable that is no port, is
/// a warning in the log, and the run goes on. It is answered by a thread of its own, 32 clients at a time, each for
/// some seconds: none of them can hold the agent up.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_health_check(spec: *mut ice_spec, port: i64, seconds: f64) -> ice_status {
    edit(spec, |spec| {
        let number = spec::number("health_port", port, -1, i64::from(u16::MAX))?;
        let timeout = spec::seconds("health_timeout", seconds)?;
        spec.health_port = u16::try_from(number).ok();
        spec.health_timeout = if timeout.is_zero() { spec::HEALTH_TIMEOUT } else { timeout };
        Ok(())
    })
}

/// The address that the health port is at, of IPv4 or IPv6: `0.0.0.0` or `::` for all of this machine, as a probe or
/// a Prometheus elsewhere needs it. There is no password: whoever can connect is answered. Default `127.0.0.1`.
/// What is no address is ICE_ERROR_CONFIG; one that is not this machine's is a warning in the log of the run.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_health_address(spec: *mut ice_spec, address: *const c_char) -> ice_status {
    edit(spec, |spec| {
        let address = utf8(address, "address")?;
        let want = "must be an IP address, like 127.0.0.1, 0.0.0.0 or ::";
        spec.health_address = address.parse().map_err(|_| Error::config("health_address", address, want))?;
        Ok(())
    })
}

/// The path of a unix socket that answers as the port of `ice_spec_set_health_check()` does, with or without that:
/// who may connect is a matter of the umask and of the directory. "" is none, the default. A relative path is meant
/// from the host's directory when the run starts. The file is made then, in place of a socket that nobody listens
/// at, and removed at the end; what cannot be made is a warning in the log. A path has 107 bytes at most.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_health_socket(spec: *mut ice_spec, path: *const c_char) -> ice_status {
    edit(spec, |spec| {
        spec.health_socket = optional_path("health_socket", path)?;
        Ok(())
    })
}

/// A path, or none for an empty one.
fn optional_path(field: &'static str, path: *const c_char) -> Result<Option<PathBuf>, Error> {
    let path = text(path, "path")?;
    if path.is_empty() { Ok(None) } else { spec::path(field, path).map(Some) }
}
