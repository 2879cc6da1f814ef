//! `ice_agent`: one run of a spec.

use std::ffi::{c_int, c_void};

use super::plan::ice_plan;
use super::result::ice_result;
use super::snapshot::ice_snapshot;
use super::spec::ice_spec;
use super::status::{guard, ice_status};
use super::{handle, limit, output};
use crate::agent::Agent;
use crate::error::Error;

/// One run of a spec: it starts the workers, watches them, restarts the group and stops it. An agent
/// runs once. Any number of agents may run in one process at the same time.
///
/// Threads: every function but `ice_agent_free()` may be called from any thread at any time, also at
/// once. While it runs, an agent has one thread of its own, which starts the workers and waits for
/// events with all signals blocked (but SIGCHLD, while that is at its default), a second one from the
/// first tee'd or filtered line, message, event or output that it hands out, one that hears workers where the
/// spec says `ice_spec_set_control()`, one for a health port, one for a question at the terminal, one for
/// each stuck worker while it is looked at, one that meets the agents of other hosts
/// (`ice_spec_set_rendezvous()`), and one for each store that it serves them or their workers. It does not matter if
/// the thread that called start ends.
///
/// The host: nothing process-wide is changed unless the spec asks for it (`ice_spec_set_signals()`).
/// Children of the host are never waited for; SIGCHLD may be handled as the host likes. If SIGCHLD is
/// ignored the kernel throws exit statuses away: before Linux 6.15 a start is then refused with
/// ICE_ERROR_STATE. Needs Linux 5.11.
///
/// If the host dies, by SIGKILL too, or replaces itself with execve(2), every worker is killed with it
/// (PR_SET_PDEATHSIG), and a small watcher process, `ice-watcher`, kills what else lives in their
/// process groups, and whatever has the mark of the run in ICE_DESCENT; then it removes the run's FIFO for file timers,
/// its health socket, and its directory if that is empty. A second one, `ice-keeper`, does the same where the watcher is
/// killed with the host; it is started once the workers run. What neither could remove, because both were killed, the
/// end of a later run removes once it is older than a minute, in the same directory for temporary files.
pub struct ice_agent {
    agent: Agent,
}

pub(super) fn agent<'a>(agent: *const ice_agent) -> Result<&'a Agent, Error> {
    let agent = &handle(agent, "agent")?.agent;
    agent.check_process()?;
    Ok(agent)
}

/// Makes an agent for a copy of `spec` and writes it to `*out`. Checks the whole spec and starts
/// nothing: no worker, no thread, no directory. ICE_ERROR_CONFIG names the field that is wrong. Which
/// devices each worker gets is decided here, once for all attempts, by the environment of the host and the
/// devices that it sees now (`ice_spec_set_devices()`). Where devices matter the CUDA driver is asked first, in a
/// process of its own that ends within this call: it takes some milliseconds, or what a driver takes that has
/// to wake its GPUs up; ICE_ERROR_TIMEOUT and ICE_ERROR_DEVICE say what was wrong with it, see
/// `ice_spec_set_probe_timeout()` and `ice_device_list_new()`.
/// The caller owns the agent and frees it with `ice_agent_free()`; the spec may be freed before it.
#[unsafe(no_mangle)]
pub extern "C" fn ice_agent_new(spec: *const ice_spec, out: *mut *mut ice_agent) -> ice_status {
    guard(|| {
        let spec = handle(spec, "spec")?.get();
        let out = output(out, "out")?;
        *out = Box::into_raw(Box::new(ice_agent { agent: Agent::new(spec)? }));
        Ok(())
    })
}

/// Writes what a run would start to `*out`, as things are now, and starts nothing: the arguments, the
/// environment, the devices, the CPUs and the files of each worker. The caller frees it with
/// `ice_plan_free()`. May be called at any time; the agent can be run after it.
#[unsafe(no_mangle)]
pub extern "C" fn ice_agent_plan(agent: *const ice_agent, out: *mut *mut ice_plan) -> ice_status {
    guard(|| {
        let agent = self::agent(agent)?;
        let out = output(out, "out")?;
        *out = ice_plan::into_raw(agent.preview()?);
        Ok(())
    })
}

/// Runs the spec to its end and writes how it ended to `*out`, which the caller frees with
/// `ice_result_free()`: `ice_agent_start()` and `ice_agent_wait()` in one. ICE_OK means that there is a
/// result, not that the workers succeeded. Errors as those two.
#[unsafe(no_mangle)]
pub extern "C" fn ice_agent_run(agent: *mut ice_agent, out: *mut *mut ice_result) -> ice_status {
    guard(|| {
        let agent = self::agent(agent)?;
        let out = output(out, "out")?;
        agent.start()?;
        *out = ice_result::into_raw(agent.wait(None)?);
        Ok(())
    })
}

/// Makes beforehand what does not depend on the moment of the start, and waits for it: the agent's thread,
/// the watcher, the run directory, a MASTER_PORT, and the fork server with its warm-up
/// (ICE_START_FORKSERVER). The start then has only the workers left to make. Never needed. What these
/// take of the host (TMPDIR, the directory of a relative log_dir, the server's environment) is taken by
/// this call, what the workers get is taken at the start. An agent that is prepared may be started or freed.
/// ICE_ERROR_STATE if it was prepared or started before, ICE_ERROR_START with what the server had to say if
/// it cannot start; start may then be called all the same, and tries again. `ice_agent_stop()` from another
/// thread ends a long warm-up.
#[unsafe(no_mangle)]
pub extern "C" fn ice_agent_prepare(agent: *mut ice_agent) -> ice_status {
    guard(|| self::agent(agent)?.prepare())
}

/// Starts the run and returns at once. The environment and working directory of the host are taken
/// during this call; a restart uses the same. What goes wrong later, a program that is not there for
/// instance, is in the result. ICE_ERROR_STATE if this agent was started before, ICE_ERROR_SYSTEM if no
/// thread can be made.
#[unsafe(no_mangle)]
pub extern "C" fn ice_agent_start(agent: *mut ice_agent) -> ice_status {
    guard(|| self::agent(agent)?.start())
}

/// Waits up to `seconds` for the end of the run and writes its result to `*out`. 0 only looks; a
/// negative number waits without a limit. May be called again after the end: each call hands out one
/// result, all of the same content, each to be freed. ICE_ERROR_TIMEOUT while the run goes on,
/// ICE_ERROR_STATE before start.
#[unsafe(no_mangle)]
pub extern "C" fn ice_agent_wait(
    agent: *mut ice_agent,
    seconds: f64,
    out: *mut *mut ice_result,
) -> ice_status {
    guard(|| {
        let agent = self::agent(agent)?;
        let out = output(out, "out")?;
        *out = ice_result::into_raw(agent.wait(limit(seconds)?)?);
        Ok(())
    })
}

/// Writes a descriptor to `*out` that becomes readable (poll(2): POLLIN) when the run is over and stays
/// so: for event loops, and for hosts that cannot take callbacks from foreign threads. It belongs to
/// the agent, is close-on-exec and valid until `ice_agent_free()`; do not read or close it.
#[unsafe(no_mangle)]
pub extern "C" fn ice_agent_poll_fd(agent: *const ice_agent, out: *mut c_int) -> ice_status {
    guard(|| {
        let agent = self::agent(agent)?;
        *output(out, "out")? = agent.poll_fd();
        Ok(())
    })
}

/// Asks the run to stop and returns at once: every worker gets `signal`, or the spec's stop signal for
/// 0, has the shutdown time-out, then SIGKILL; the run ends with ICE_END_INTERRUPTED. Before that workers are
/// asked to save, if the spec says so (`ice_spec_set_checkpoint_before_stop()`). May be called any
/// number of times, before start (the run then ends before a worker starts) and after the end (nothing
/// happens). A second stop with SIGINT or SIGQUIT brings SIGKILL at once.
///
/// Async-signal-safe: may be called from a signal handler, and from a callback of this library. Writes
/// no error message; returns ICE_ERROR_ARGUMENT for NULL or a signal that is none, ICE_ERROR_FORKED in
/// a forked copy.
#[unsafe(no_mangle)]
pub extern "C" fn ice_agent_stop(agent: *mut ice_agent, signal: i32) -> ice_status {
    // No guard: it allocates when it has something to say. Nothing below can panic.
    // SAFETY: the header says that handles come from this library and are not used after their free.
    let Some(agent) = (unsafe { agent.as_ref() }) else { return ice_status::ICE_ERROR_ARGUMENT };
    if !(0..=libc::SIGRTMAX()).contains(&signal) {
        return ice_status::ICE_ERROR_ARGUMENT;
    }
    if agent.agent.stop(signal) { ice_status::ICE_OK } else { ice_status::ICE_ERROR_FORKED }
}

/// Sends `signal` to the process group of every worker that runs, once, as a signal of
/// `ice_spec_set_pass_signals()` would; the run goes on. Async-signal-safe, as `ice_agent_stop()`, and
/// with the same errors. Before start and after the end nothing happens. Two requests for one signal
/// that the agent has not yet seen are one.
#[unsafe(no_mangle)]
pub extern "C" fn ice_agent_signal(agent: *mut ice_agent, signal: i32) -> ice_status {
    // SAFETY: as in ice_agent_stop.
    let Some(agent) = (unsafe { agent.as_ref() }) else { return ice_status::ICE_ERROR_ARGUMENT };
    if !(1..=libc::SIGRTMAX()).contains(&signal) {
        return ice_status::ICE_ERROR_ARGUMENT;
    }
    if agent.agent.pass_signal(signal) { ice_status::ICE_OK } else { ice_status::ICE_ERROR_FORKED }
}

/// Writes what the worker group is doing now to `*out`: a copy, consistent in itself, that the caller
/// frees with `ice_snapshot_free()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_agent_snapshot(agent: *const ice_agent, out: *mut *mut ice_snapshot) -> ice_status {
    guard(|| {
        let agent = self::agent(agent)?;
        let out = output(out, "out")?;
        *out = ice_snapshot::into_raw(agent.snapshot());
        Ok(())
    })
}

/// Frees an agent. One that still runs is stopped first, as by `ice_agent_stop(agent, 0)`, and waited
/// for. NULL is fine. Results and snapshots stay valid. In a forked copy of the host only memory is
/// freed. Not from a callback of the same agent, and not while another thread uses it.
#[unsafe(no_mangle)]
pub extern "C" fn ice_agent_free(agent: *mut ice_agent) {
    if !agent.is_null() {
        guard(|| {
            // SAFETY: the header says that an agent comes from `ice_agent_new` and is freed once.
            drop(unsafe { Box::from_raw(agent) });
            Ok(())
        });
    }
}

const _: () = assert!(size_of::<*mut c_void>() == 8, "libice is for 64-bit Linux");
