//! Options of how workers are watched, and ended.

use super::super::{OptionKind, Row, parse};
use super::{flag, list, number, pairs, seconds, signal, text};
use crate::ranks::MAX_LOCAL_WORLD_SIZE;
use crate::spec::values::signal_list;

pub const CONTROL: &[Row] = &[
    flag(
        "control",
        "Workers get a descriptor, 3, through which they may say steps, heartbeats and timers (ice_worker_open). \
         Implied by those that follow. At a terminal ^C may then pause them and ask whether they should save a \
         checkpoint; another ^C stops the run at once.",
        |spec, on| spec.control = on,
    )
    .default("0"),
    seconds(
        "heartbeat_timeout",
        "A worker that has said a step or a heartbeat, and then none for so long, has failed; 0 for no limit.",
        |spec, time| spec.heartbeat_timeout = time,
    )
    .default("0"),
    seconds(
        "initial_heartbeat_timeout",
        "A worker that has said no step, heartbeat or section for so long from its start on has failed; 0 for no limit.",
        |spec, time| spec.initial_heartbeat_timeout = time,
    )
    .default("0"),
    seconds(
        "checkpoint_before_stop",
        "Before a signal stops the run, workers are asked to save a checkpoint, all at the same step, and have so much \
         time for it. Another SIGINT or SIGQUIT then kills at once. A worker that does not use libice is not stopped by \
         SIGTERM then, unless it handles it, but killed when the time is over.",
        |spec, time| spec.checkpoint_before_stop = time,
    )
    .default("0"),
    number(
        "saved_exit_status",
        (-1, 255),
        "STATUS",
        "The exit status of a run that was stopped after all ranks of the job had saved a checkpoint, for whoever queues it \
         again. Without it, or -1, that of any stop.",
        |spec, status| spec.saved_exit_status = (status >= 0).then_some(status as i32),
    )
    .default("-1"),
    flag(
        "progress_bar",
        "Below the lines on stderr, if that is a terminal, a bar of what workers say: steps and progress, rate, time \
         left, slowest rank, restarts. Output goes through files then, as with tee.",
        |spec, on| spec.progress_bar = on,
    )
    .default("0"),
    number(
        "debug_rank",
        (-1, MAX_LOCAL_WORLD_SIZE - 1),
        "N",
        "This local rank has the terminal, ^C too: breakpoint() in its script works. No timer of any worker runs while \
         it lives. None if nothing is said, or -1.",
        |spec, rank| spec.debug_rank = usize::try_from(rank).ok(),
    ),
    pairs(
        "section_limits",
        ":",
        "NAME:SECONDS,...",
        "How many seconds workers may be in sections of their work that they name: setup:900,step:120,:180, the last \
         outside of all.",
        parse::section_limits,
    ),
    text(
        "section_learning",
        "FACTOR[:LEAST]",
        "Sections without a limit may take so many times as long as the longest seen, and at least LEAST seconds (10 if \
         not given); 0 for no limit.",
        parse::section_learning,
    )
    .default("0"),
    signal(
        "timer_signal",
        0,
        "The signal for a worker whose timer, heartbeat or section is overdue; 0 only says so.",
        |spec, signal| spec.timer_signal = signal,
    )
    .default("SIGKILL"),
    flag(
        "ask_on_interrupt",
        "^C at a terminal pauses the workers and asks whether they should save a checkpoint.",
        |spec, on| spec.ask_on_interrupt = on,
    )
    .default("0")
    .not_of_tool(),
];

pub const STUCK: &[Row] = &[
    flag(
        "file_timers",
        "Serves torch's file timers: a worker that does not release one in time has failed. Also on with \
         TORCHELASTIC_ENABLE_FILE_TIMER=1, if nothing is said.",
        |spec, on| spec.file_timers = Some(on),
    ),
    seconds(
        "uninterruptible_timeout",
        "A worker in uninterruptible sleep (state D) for longer ends the run, without a restart; 0 for no limit. \
         Without it TORCHELASTIC_UNINTERRUPTIBLE_STATE_TIMEOUT, else none.",
        |spec, time| spec.uninterruptible_timeout = Some(time),
    ),
    seconds(
        "straggler_timeout",
        "Workers that still run so long after the first has ended with success have failed; 0 for no limit.",
        |spec, time| spec.straggler_timeout = time,
    )
    .default("0"),
    seconds(
        "stack_timeout",
        "How long it may take to find out where a stuck worker is before it is ended; 0 for not at all. It is in the \
         report, and in stack.txt beside its logs.",
        |spec, time| spec.stack_timeout = time,
    )
    .default("5"),
    text(
        "stack_command",
        "COMMAND",
        "A shell command that looks at a stuck worker, with ${pid}, ${rank} and the like: 'py-spy dump --pid ${pid}'.",
        parse::stack_command,
    )
    .default(""),
];

pub const SIGNALS: &[Row] = &[
    list(
        "signals",
        "LIST",
        "Signals that stop the run: workers get the same one, and SIGKILL after the shutdown time-out. A second SIGINT \
         or SIGQUIT kills at once.",
        |spec, field, text| {
            let (known, unknown) = signal_list(field, text)?;
            spec.handled_signals = known;
            spec.unknown_signals.extend(unknown);
            Ok(())
        },
    )
    .also("signals_to_handle")
    .default(""),
    list(
        "pass_signals",
        "LIST",
        "Signals that workers get too, while the run goes on: SIGCONT,SIGALRM.",
        |spec, field, text| {
            let (known, unknown) = signal_list(field, text)?;
            spec.pass_signals = known;
            spec.unknown_signals.extend(unknown);
            Ok(())
        },
    )
    .default(""),
    Row::new(
        "on_signal",
        OptionKind::Each { joints: "=", store: parse::on_signal },
        "NAME=ACTION",
        "What a signal is to the run: pass (workers get it too), checkpoint (they are asked to save one, and go on), \
         checkpoint-and-stop, or stop: USR1=checkpoint,USR2=stop. May be repeated. A checkpoint implies control.",
    ),
    flag(
        "suspend",
        "^Z at a terminal, or any SIGTSTP, stops the workers too; fg continues all.",
        |spec, on| spec.suspend = on,
    )
    .default("0")
    .not_of_tool(),
    seconds(
        "shutdown_timeout",
        "Time between the stop signal and SIGKILL, whatever the reason of the stop. Without it \
         TORCH_ELASTIC_SHUTDOWN_TIMEOUT, else 30.",
        |spec, time| spec.shutdown_timeout = Some(time),
    ),
    signal(
        "stop_signal",
        1,
        "The signal that asks workers to stop, where the run is not stopped by one that is passed on.",
        |spec, signal| spec.stop_signals.stop = signal,
    )
    .default("SIGTERM"),
    text(
        "pre_stop_signal",
        "SIGNAL:SECONDS",
        "A signal that workers get first, and how long they have then to end by themselves before the stop signal \
         follows.",
        parse::pre_stop_signal,
    ),
    flag(
        "kill_group_on_success",
        "What workers left running is killed after a success too.",
        |spec, on| spec.kill_group_on_success = on,
    )
    .default("1")
    .not_of_tool(),
    flag(
        "subreaper",
        "This process adopts what loses its parent among what its workers have started, so that nothing is lost. For a \
         process that starts no other children.",
        |spec, on| spec.subreaper = on,
    )
    .default("0")
    .not_of_tool(),
];
