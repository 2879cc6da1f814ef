//! The part of `ice_spec` that is about what the agent says: messages, events, health.

use std::ffi::{c_char, c_void};

use super::log::{ice_event_fn, ice_log_fn};
use super::option;
use super::spec::{edit, ice_spec, set_text, set_word};
use super::status::ice_status;
use super::{text, utf8};
use crate::spec::{EventCallback, EventHandler, EventSource, HostPointer, LogCallback};

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
    set_word(spec, option!("log_level"), level)
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
    set_text(spec, option!("event_file"), path, "path")
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
        // Both or none are set.
        let mut changed = spec.clone();
        option!("health_port").set_number(&mut changed, port)?;
        option!("health_timeout").set_seconds(&mut changed, seconds)?;
        *spec = changed;
        Ok(())
    })
}

/// The address that the health port is at, of IPv4 or IPv6: `0.0.0.0` or `::` for all of this machine, as a probe or
/// a Prometheus elsewhere needs it. There is no password: whoever can connect is answered. Default `127.0.0.1`.
/// What is no address is ICE_ERROR_CONFIG; one that is not this machine's is a warning in the log of the run.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_health_address(spec: *mut ice_spec, address: *const c_char) -> ice_status {
    set_text(spec, option!("health_address"), address, "address")
}

/// The path of a unix socket that answers as the port of `ice_spec_set_health_check()` does, with or without that:
/// who may connect is a matter of the umask and of the directory. "" is none, the default. A relative path is meant
/// from the host's directory when the run starts. The file is made then, in place of a socket that nobody listens
/// at, and removed at the end; what cannot be made is a warning in the log. A path has 107 bytes at most.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_health_socket(spec: *mut ice_spec, path: *const c_char) -> ice_status {
    set_text(spec, option!("health_socket"), path, "path")
}
