//! The part of `ice_spec` that is about the workers: how many, and what each of them runs.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use super::spec::{edit, ice_spec, set_flag, set_number, set_text, set_word};
use super::status::ice_status;
use super::worker::{callback, ice_worker_fn};
use super::{bytes, option, text};
use crate::error::Error;
use crate::spec::options::parse;
use crate::sys::memory::Blob;

/// The role of the workers: ROLE_NAME in their environment, byte for byte. Not empty; any bytes but
/// NUL. Default `"default"` (torchrun `--role`).
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_role(spec: *mut ice_spec, role: *const c_char) -> ice_status {
    set_text(spec, option!("role"), role, "role")
}

/// How many workers this agent starts: 1 to 16384, default 1 (torchrun `--nproc-per-node`; for its words see
/// `ice_spec_set_nproc_per_node()`). Where `ice_spec_set_devices()` names devices their number is the default,
/// and another one set here is ICE_ERROR_CONFIG from `ice_agent_new()`, with both. Each worker costs the host one
/// descriptor while it runs, two if it is a function, and one more for each of its streams that is followed to the
/// console, to `ice_spec_set_output_callback()` or through filters; the run itself some twenty. See getrlimit(2),
/// RLIMIT_NOFILE, and `ice_spec_set_raise_descriptor_limit()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_local_world_size(spec: *mut ice_spec, size: i64) -> ice_status {
    set_number(spec, option!("local_world_size"), size)
}

/// The program each worker runs: a path, or a name without a slash that is looked for in the PATH of
/// *the worker's* environment (so a PATH set for one rank decides there), as execvp(3) does, but
/// without its fall-back to a shell. Macros as in `ice_spec_add_arg()` are not replaced here. A spec
/// has a program, a callback or a function.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_program(spec: *mut ice_spec, path: *const c_char) -> ice_status {
    set_text(spec, option!("program"), path, "path")
}

/// `ice_spec_set_program()` for a path of `length` bytes that is not NUL-terminated. A NUL within is
/// ICE_ERROR_CONFIG.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_program_bytes(
    spec: *mut ice_spec,
    path: *const c_char,
    length: usize,
) -> ice_status {
    edit(spec, |spec| option!("program").set(spec, bytes(path, length, "path")?))
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
    set_text(spec, option!("arg"), arg, "arg")
}

/// `ice_spec_add_arg()` for `length` bytes that are not NUL-terminated. A NUL within is
/// ICE_ERROR_CONFIG.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_add_arg_bytes(
    spec: *mut ice_spec,
    arg: *const c_char,
    length: usize,
) -> ice_status {
    edit(spec, |spec| option!("arg").set(spec, bytes(arg, length, "arg")?))
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
            let added = text(arg, "args").and_then(|arg| option!("arg").set(spec, arg));
            if let Err(error) = added {
                spec.args.truncate(before);
                return Err(error);
            }
        }
        Ok(())
    })
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
    set_word(spec, option!("macros"), choice)
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
        let library = if library.is_null() { None } else { Some(text(library, "library")?) };
        parse::set_function(spec, "function", library, text(name, "function")?)
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
    set_word(spec, option!("start_method"), method)
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
    set_text(spec, option!("warm_up"), name, "name")
}

/// The program that functions of shared objects run in, and that asks the CUDA driver where devices matter:
/// any that calls `ice_worker_main()` first in main.
/// Needed only where libice is linked statically into a program that does not do so itself: the shared
/// library is such a program of its own (it has an entry; where its file is not executable the host's
/// dynamic loader runs it). A runner that is itself linked statically with libice has to export its symbols
/// (`-rdynamic`) for objects that call `ice_worker_*` without being linked with libice themselves.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_runner(spec: *mut ice_spec, path: *const c_char) -> ice_status {
    set_text(spec, option!("runner"), path, "path")
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
    set_flag(spec, option!("crash_records"), on)
}
