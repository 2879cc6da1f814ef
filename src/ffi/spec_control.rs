//! The part of `ice_spec` that is about workers that say how they are, and about those that are stuck.

use std::ffi::c_char;

use super::spec::{edit, ice_spec, set_flag, set_number, set_seconds};
use super::status::ice_status;
use super::{option, text};
use crate::error::Error;
use crate::spec;
use crate::spec::options::parse;

/// Non-zero: the agent and its workers share a page of memory, through which workers say what step they are at,
/// and are asked to pause, save or stop: `ice_worker_step()`, `ice_agent_request_checkpoint()` and those around
/// them. Default 0.
///
/// A program gets one more descriptor, 3, which its descendants inherit, and the variable ICE_CONTROL_FD, which
/// says so, and is the agent's alone; a function gets nothing that it sees. The host has one descriptor and one
/// thread more while an attempt runs. Nobody wakes up for it unless a worker answers or a timer is due.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_control(spec: *mut ice_spec, on: i32) -> ice_status {
    set_flag(spec, option!("control"), on)
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
    set_flag(spec, option!("ask_on_interrupt"), on)
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
    set_number(spec, option!("debug_rank"), local_rank)
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
    set_flag(spec, option!("progress_bar"), on)
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
    set_seconds(spec, option!("heartbeat_timeout"), seconds)
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
    set_seconds(spec, option!("initial_heartbeat_timeout"), seconds)
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
    set_number(spec, option!("timer_signal"), i64::from(signal))
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
        let name = if name.is_null() { None } else { Some(text(name, "name")?) };
        let (name, limit) = parse::section_limit(name, seconds)?;
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
    edit(spec, |spec| parse::set_section_learning(spec, factor, least))
}

/// Before a run is stopped, by `ice_agent_stop()`, `ice_agent_free()` or a signal of `ice_spec_set_signals()`,
/// its workers are asked to save a checkpoint at the same step (ICE_REQUEST_SAVE, ICE_REASON_PREEMPTION). The
/// stop begins when all have answered or ended, or after `seconds`: what is left until the machine is taken
/// away, say. Another SIGINT or SIGQUIT, whatever the first signal was, kills at once. What not all have saved is said,
/// with counts, as a warning. 0 to 1e9; 0, the default, is off. Any other implies `ice_spec_set_control()`.
///
/// In a job of several hosts the workers of all hosts save, at one step, before the host that is asked to stop leaves
/// the job; and so they do, with ICE_REASON_MEMBERSHIP and as long as the agent that leads says, before another host
/// joins, or once one has vanished.
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
    set_seconds(spec, option!("checkpoint_before_stop"), seconds)
}

/// What `ice_result_exit_status()` says of a run that ended as ICE_END_INTERRUPTED after all ranks of the job had saved a
/// checkpoint (`ice_result_has_saved()`): 0 to 255, or -1 for what it says of any stop. Default -1. A scheduler, or a script,
/// that starts the program again for one status and not for others goes by it. ICE_ERROR_CONFIG for another number.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_saved_exit_status(spec: *mut ice_spec, status: i64) -> ice_status {
    set_number(spec, option!("saved_exit_status"), status)
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
    set_flag(spec, option!("file_timers"), on)
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
    set_seconds(spec, option!("uninterruptible_timeout"), seconds)
}

/// How many seconds workers may go on when the first of them has ended with success: 0 to 1e9; 0, the default, is
/// as long as they like. Those that still run then have failed, as ICE_CAUSE_TIMED_OUT, and are ended by the signal
/// of `ice_spec_set_timer_signal()`: peers of one that has left are often in a collective that nobody will end.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_straggler_timeout(spec: *mut ice_spec, seconds: f64) -> ice_status {
    set_seconds(spec, option!("straggler_timeout"), seconds)
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
    set_seconds(spec, option!("stack_timeout"), seconds)
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
