//! Options of what workers write, and of what the agent tells.

use super::super::{Row, parse};
use super::{flag, list, number, pairs, seconds, text, word};
use crate::error::Error;
use crate::spec::streams::{LocalRanks, StreamMap};
use crate::spec::values::{path, plain};
use crate::spec::{EventHandler, HEALTH_TIMEOUT, Level, MAX_STDERR_TAIL};

pub const OUTPUT: &[Row] = &[
    text(
        "log_dir",
        "DIR",
        "Where runs make their directories for log and error files; /dev/null for no files. Without it a new directory \
         below TMPDIR, else below /tmp, or below /dev/shm for error files alone; it goes if it stays empty.",
        |spec, field, text| {
            spec.log_dir = Some(path(field, text)?);
            Ok(())
        },
    ),
    pairs(
        "redirects",
        ":",
        "MAP",
        "Streams that go to files: 0 none, 1 stdout, 2 stderr, 3 both; or by local rank: 0:3,12:1.",
        |spec, field, text| {
            spec.redirects = StreamMap::parse(field, plain(field, text)?)?;
            Ok(())
        },
    )
    .letter('r')
    .default("0"),
    pairs(
        "tee",
        ":",
        "MAP",
        "Streams that go to files and, each line with a prefix, to the console.",
        |spec, field, text| {
            spec.tee = StreamMap::parse(field, plain(field, text)?)?;
            Ok(())
        },
    )
    .letter('t')
    .default("0"),
    flag("merge_stderr", "A worker's stderr goes where its stdout goes.", |spec, on| spec.merge_stderr = on)
        .default("0"),
    flag(
        "log_through_agent",
        "Output that goes to files goes through the agent, which writes them: a full disk then fails no worker, and \
         tee'd lines all reach the console. Somewhat slower.",
        |spec, on| spec.log_through_agent = on,
    )
    .default("0"),
    list(
        "local_ranks_filter",
        "RANKS",
        "Only these local ranks reach the console: 0,2. Others go to files.",
        |spec, field, text| {
            spec.local_ranks_filter = Some(LocalRanks::parse(field, plain(field, text)?)?);
            Ok(())
        },
    ),
    flag(
        "allow_absent_ranks",
        "Maps and lists may name local ranks that there are not: those are left out, with a warning.",
        |spec, on| spec.allow_absent_ranks = on,
    )
    .default("0")
    .not_of_tool(),
    text(
        "log_prefix_template",
        "TEXT",
        "The prefix of tee'd lines, with ${role_name}, ${local_rank}, ${rank}, ${hostname} and more. Without it \
         TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE, else [${role_name}${local_rank}]:.",
        |spec, _, text| {
            spec.log_prefix_template = Some(text.to_vec());
            Ok(())
        },
    )
    .also("log_line_prefix_template"),
    flag("log_timestamps", "Tee'd lines start with the time, UTC.", |spec, on| spec.log_timestamps = on)
        .also("timestamps")
        .default("0"),
    list(
        "duplicate_stdout_filters",
        "TEXTS",
        "Lines of redirected or tee'd stdout that contain one of these texts go to filtered_stdout.log too: \
         apple,orange. Two commas are one within a text.",
        |spec, _, text| {
            spec.stdout_filters = parse::filters(text);
            Ok(())
        },
    )
    .default(""),
    list(
        "duplicate_stderr_filters",
        "TEXTS",
        "The same for stderr and filtered_stderr.log.",
        |spec, _, text| {
            spec.stderr_filters = parse::filters(text);
            Ok(())
        },
    )
    .default(""),
    number(
        "stderr_tail",
        (0, MAX_STDERR_TAIL as i64),
        "BYTES",
        "How many bytes of the end of a failed worker's stderr file are in its report.",
        |spec, bytes| spec.stderr_tail = bytes as usize,
    )
    .default("4096"),
    text(
        "log_modes",
        "DIRECTORY,FILE",
        "Permission bits of directories and files that the run makes, in octal: 0755,0644. The umask decides, if nothing \
         is said.",
        parse::log_modes,
    ),
    text(
        "console",
        "OUT,ERR",
        "The descriptors that stand for the console: for stdout and for stderr.",
        parse::console,
    )
    .default("1,2")
    .not_of_tool(),
];

pub const EVENTS: &[Row] = &[
    text(
        "event_file",
        "FILE",
        "A line of JSON is appended to it for each worker that starts or ends, and for the end of the run.",
        |spec, field, text| {
            match text.is_empty() {
                true => spec.event_handlers.remove(&None),
                false => spec.event_handlers.insert(None, EventHandler::File(path(field, text)?)),
            };
            Ok(())
        },
    )
    .default(""),
    pairs(
        "event_handler",
        "=",
        "[SOURCE=]HANDLER,...",
        "Where these lines go: to a file by its path, to console for stderr, to null for nowhere; or by their source: \
         worker=null,agent=console.",
        parse::event_handler,
    )
    .also("event_log_handler")
    .default("")
    .not_of_tool(),
    number(
        "health_port",
        (-1, u16::MAX as i64),
        "PORT",
        "GET answers there whether the agent is well, and /metrics for Prometheus; 0 for a free port. Without it \
         TORCHELASTIC_HEALTH_CHECK_PORT, else none.",
        |spec, port| spec.health_port = u16::try_from(port).ok(),
    ),
    text(
        "health_address",
        "ADDRESS",
        "The address of that port; 0.0.0.0 or :: for all, as a probe from elsewhere needs it.",
        |spec, field, text| {
            let address = plain(field, text)?;
            let want = "must be an IP address, like 127.0.0.1, 0.0.0.0 or ::";
            spec.health_address = address.parse().map_err(|_| Error::config(field, address, want))?;
            Ok(())
        },
    )
    .default("127.0.0.1"),
    text(
        "health_socket",
        "PATH",
        "The same at a unix socket, with or without a port.",
        |spec, field, text| {
            spec.health_socket = if text.is_empty() { None } else { Some(path(field, text)?) };
            Ok(())
        },
    )
    .default(""),
    seconds(
        "health_timeout",
        "How long the agent's loop may stand still before it counts as ill; 0 for 60.",
        |spec, time| spec.health_timeout = parse::or_default(time, HEALTH_TIMEOUT),
    )
    .default("60"),
    word(
        "log_level",
        ("ice_log_level", 1),
        &["error", "warning", "info", "debug"],
        "LEVEL",
        "The least important messages that the log callback is given.",
        |spec, at| spec.log_level = [Level::Error, Level::Warning, Level::Info, Level::Debug][at],
    )
    .default("debug")
    .not_of_tool(),
];
