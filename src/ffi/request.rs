//! What a host asks its workers to do at one step, and what they answered.

use std::time::Duration;

use super::agent::{agent, ice_agent};
use super::status::{guard, guard_value, ice_status};
use super::{handle, output};
use crate::control::request::{Answer, Answers, RequestKind};
use crate::error::Error;
use crate::spec;

/// What became of a request at one rank.
#[repr(i32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ice_answer_kind {
    /// No answer by the deadline: it is busy, stuck, or does not look.
    ICE_ANSWER_NONE = 0,
    /// It did as it was asked.
    ICE_ANSWER_SUCCEEDED = 1,
    /// It says that it could not.
    ICE_ANSWER_FAILED = 2,
    /// It ended without an answer.
    ICE_ANSWER_GONE = 3,
}

impl From<Answer> for ice_answer_kind {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::None => ice_answer_kind::ICE_ANSWER_NONE,
            Answer::Succeeded => ice_answer_kind::ICE_ANSWER_SUCCEEDED,
            Answer::Failed => ice_answer_kind::ICE_ANSWER_FAILED,
            Answer::Gone => ice_answer_kind::ICE_ANSWER_GONE,
        }
    }
}

/// The answers of all ranks to one request. It never changes; any thread may read it.
pub struct ice_answers {
    answers: Answers,
}

/// Asks every worker to do `kind`, and waits.
fn request(agent: *mut ice_agent, seconds: f64, kind: RequestKind, out: *mut *mut ice_answers) -> ice_status {
    guard(|| {
        let agent = self::agent(agent)?;
        let out = output(out, "out")?;
        let limit: Duration = spec::seconds("seconds", seconds)?;
        *out = Box::into_raw(Box::new(ice_answers { answers: agent.request(kind, limit)? }));
        Ok(())
    })
}

/// Asks all workers to save a checkpoint at the same step, and waits until each has answered or ended, for up
/// to `seconds` (0 to 1e9), which is also the deadline that the workers see. Writes what they said to `*out`,
/// which the caller frees with `ice_answers_free()`. ICE_OK means that there are answers, not that all are
/// good: see `ice_answers_complete()`. The run goes on; a worker that comes to it after the deadline does not
/// save any more, unless another one is in the midst of it and may wait. A group that is not running, because it
/// restarts for instance, is asked when it runs. Several requests of one agent come one after the other, each with its
/// own deadline.
///
/// In a job of several hosts all workers of the job are asked, whichever agent asks: all act at one step, or none
/// does. The agents agree on the step through the rendezvous; a worker that comes to it before they have waits there,
/// as in a pause. Agents that ask for the same at the same time get one step, and all answers. Workers see a deadline
/// that is earlier by a tenth, 0.25 s at most, so that the answers are here by the caller's. If an agent cannot be heard
/// by then, or has workers without control, at a debugger or in an earlier checkpoint whose time is over, no worker acts,
/// and there are no answers (ICE_ANSWER_NONE for all ranks).
///
/// Needs `ice_spec_set_control()` and workers that call `ice_worker_poll()`. Any thread, but not a callback of
/// this library. ICE_ERROR_STATE if there is no control, before start, and when the run is over or ends
/// meanwhile before the request could be made; ICE_ERROR_CONFIG for bad seconds.
#[unsafe(no_mangle)]
pub extern "C" fn ice_agent_request_checkpoint(
    agent: *mut ice_agent,
    seconds: f64,
    out: *mut *mut ice_answers,
) -> ice_status {
    request(agent, seconds, RequestKind::Save, out)
}

/// Asks all workers to pause at the same step, and waits, as `ice_agent_request_checkpoint()`. They stay so
/// until `ice_agent_resume()`; meanwhile they can be asked for a checkpoint, which they save where they stand.
/// A worker that comes to it after the deadline still pauses, unless another request was made since. A pause of
/// workers that are paused already has them go on to the next step, so that all stand at one. Timers and
/// heartbeats of a paused worker stand still. A restart ends the pause.
#[unsafe(no_mangle)]
pub extern "C" fn ice_agent_pause(
    agent: *mut ice_agent,
    seconds: f64,
    out: *mut *mut ice_answers,
) -> ice_status {
    request(agent, seconds, RequestKind::Pause, out)
}

/// Ends a pause, after the requests that were made before, and returns at once. Without a pause nothing
/// happens. Errors as `ice_agent_pause()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_agent_resume(agent: *mut ice_agent) -> ice_status {
    guard(|| self::agent(agent)?.resume())
}

/// Asks all workers to end by themselves at the same step, and waits, as `ice_agent_request_checkpoint()`,
/// until each has answered or ended. Those that answered with success have until the deadline to end; then, or
/// when only others are left, what is still there is stopped as by `ice_agent_stop(agent, 0)`. The run ends
/// with ICE_END_INTERRUPTED in any case, that of all hosts. `ice_agent_stop()` meanwhile waits for nobody.
#[unsafe(no_mangle)]
pub extern "C" fn ice_agent_request_stop(
    agent: *mut ice_agent,
    seconds: f64,
    out: *mut *mut ice_answers,
) -> ice_status {
    request(agent, seconds, RequestKind::Stop, out)
}

/// 1 if every rank did as it was asked, else 0; 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_answers_complete(answers: *const ice_answers) -> i32 {
    guard_value(0, || Ok(i32::from(handle(answers, "answers")?.answers.complete())))
}

/// How many ranks were asked: the world size of the job. 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_answers_count(answers: *const ice_answers) -> usize {
    guard_value(0, || Ok(handle(answers, "answers")?.answers.ranks.len()))
}

/// What the rank with this global rank answered, on whichever host it is. ICE_ANSWER_NONE for NULL or a rank that is none.
#[unsafe(no_mangle)]
pub extern "C" fn ice_answers_of_rank(answers: *const ice_answers, rank: usize) -> ice_answer_kind {
    guard_value(ice_answer_kind::ICE_ANSWER_NONE, || Ok(of_rank(answers, rank)?.0.into()))
}

/// The step at which it answered; -1 if it did not, or says no steps.
#[unsafe(no_mangle)]
pub extern "C" fn ice_answers_step(answers: *const ice_answers, rank: usize) -> i64 {
    guard_value(-1, || Ok(of_rank(answers, rank)?.1.map_or(-1, |step| step as i64)))
}

fn of_rank(answers: *const ice_answers, rank: usize) -> Result<(Answer, Option<u64>), Error> {
    let ranks = &handle(answers, "answers")?.answers.ranks;
    let answer = ranks.get(rank).copied();
    answer.ok_or_else(|| Error::Argument { what: format!("there is no rank {rank}") })
}

/// How many nanoseconds passed from the request to the last answer, or to the deadline. 0 for NULL.
#[unsafe(no_mangle)]
pub extern "C" fn ice_answers_took_ns(answers: *const ice_answers) -> i64 {
    guard_value(0, || Ok(handle(answers, "answers")?.answers.took.as_nanos() as i64))
}

/// Frees answers. NULL is fine.
#[unsafe(no_mangle)]
pub extern "C" fn ice_answers_free(answers: *mut ice_answers) {
    if !answers.is_null() {
        // SAFETY: the header says that answers come from this library and are freed once.
        drop(unsafe { Box::from_raw(answers) });
    }
}
