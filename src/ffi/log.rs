//! Levels of log messages and the types of the host's callbacks for messages and events.

use std::ffi::{c_char, c_void};

use crate::spec::Level;

/// How much a log message matters.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ice_log_level {
    /// The run cannot go on as asked.
    ICE_LOG_ERROR = 1,
    /// Something was done in another way than asked, or will be missed later.
    ICE_LOG_WARNING = 2,
    /// Steps of a run: attempts, failures, stops.
    ICE_LOG_INFO = 3,
    /// Details of each worker.
    ICE_LOG_DEBUG = 4,
}

/// Takes one message of the library: `level` is an `ice_log_level`, `text` one line of UTF-8 without
/// a newline, valid only during the call. Called from the agent's output thread, one call at a time
/// for one agent, never after the run's result was handed out, and with no lock held. It may block or
/// be slow: workers and restarts do not wait for it. It must return: `ice_agent_free()` waits for it.
/// It must not call `ice_agent_free()` of its own agent.
///
/// `ice_agent_new()`, which may have to ask the CUDA driver for its GPUs, calls it in the calling thread, before it
/// returns, if that takes more than five seconds.
///
/// Whatever a run waits for longer than that is an ICE_LOG_WARNING: what it is, since when and until when. It comes
/// after 5, 10, 20, 40, ... seconds, and once more when it is over: a rendezvous that is not reached, at first or
/// later; hosts that are missing in a round or have not come to the exit barrier; workers that were asked to save
/// or to end; the back-off before a restart; GPUs; a fork server.
pub type ice_log_fn = Option<extern "C" fn(user_data: *mut c_void, level: i32, text: *const c_char)>;

/// Takes one event of a run, see `ice_spec_set_event_callback()`: `json` is one line of JSON in UTF-8
/// without a newline, valid only during the call. Called as an `ice_log_fn` is, from the same thread: in the
/// order of the events, one at a time, never after the run's result was handed out. It may be slow: the run
/// does not wait for it, only its end.
pub type ice_event_fn = Option<extern "C" fn(user_data: *mut c_void, json: *const c_char)>;

const _: () = assert!(
    ice_log_level::ICE_LOG_ERROR as i32 == Level::Error as i32
        && ice_log_level::ICE_LOG_WARNING as i32 == Level::Warning as i32
        && ice_log_level::ICE_LOG_INFO as i32 == Level::Info as i32
        && ice_log_level::ICE_LOG_DEBUG as i32 == Level::Debug as i32
);
