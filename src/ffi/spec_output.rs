//! The part of `ice_spec` that is about what workers write.

use std::ffi::{c_char, c_void};

use super::option;
use super::spec::{edit, ice_spec, set_flag, set_number, set_text};
use super::status::ice_status;
use crate::spec::options::parse;
use crate::spec::{HostPointer, OutputCallback};

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
    set_text(spec, option!("log_dir"), path, "path")
}

/// Which streams of workers go to files instead of the host's stdout and stderr: `"0"` none (the
/// default), `"1"` stdout, `"2"` stderr, `"3"` both, for all ranks; or by local rank, `"0:1,12:2"`,
/// where ranks that are not named have none (torchrun `--redirects`). A worker writes to its file
/// itself: it costs nothing, and the file is whole when the host is killed. A rank that is not below
/// local_world_size is ICE_ERROR_CONFIG from `ice_agent_new()`, but see `ice_spec_set_allow_absent_ranks()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_redirects(spec: *mut ice_spec, map: *const c_char) -> ice_status {
    set_text(spec, option!("redirects"), map, "map")
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
    set_text(spec, option!("tee"), map, "map")
}

/// Non-zero: a worker's stderr goes where its stdout goes, the order of its writes kept; there is then
/// no stderr.log, and the last lines of "stderr" are those of stdout. Default 0.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_merge_stderr(spec: *mut ice_spec, on: i32) -> ice_status {
    set_flag(spec, option!("merge_stderr"), on)
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
    set_flag(spec, option!("log_through_agent"), on)
}

/// What stands before each line of a tee'd stream; macros as in `ice_spec_add_arg()`. Default: the
/// environment variable TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE of the host when the agent is made, else
/// `[${role_name}${local_rank}]:` (torchrun `--log-line-prefix-template`).
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_log_prefix_template(
    spec: *mut ice_spec,
    template: *const c_char,
) -> ice_status {
    set_text(spec, option!("log_prefix_template"), template, "template")
}

/// Non-zero: each prefix starts with the time the line was read, UTC, as
/// `2026-01-31T23:59:59.123Z `. Default 0.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_log_timestamps(spec: *mut ice_spec, on: i32) -> ice_status {
    set_flag(spec, option!("log_timestamps"), on)
}

/// The only local ranks that may reach the console, for instance `"0"` or `"0,2"` (torchrun
/// `--local-ranks-filter`). Output of the others goes to their files, also where no redirect was
/// asked for. Default: all.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_local_ranks_filter(spec: *mut ice_spec, list: *const c_char) -> ice_status {
    set_text(spec, option!("local_ranks_filter"), list, "list")
}

/// Non-zero: the maps of `ice_spec_set_redirects()` and `ice_spec_set_tee()` and the list of
/// `ice_spec_set_local_ranks_filter()` may name local ranks that are not below local_world_size, for one set of
/// options on hosts of different size (as torchrun takes it): those are left out, with a warning when the run
/// starts. Default 0: such a rank is ICE_ERROR_CONFIG from `ice_agent_new()`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_allow_absent_ranks(spec: *mut ice_spec, on: i32) -> ice_status {
    set_flag(spec, option!("allow_absent_ranks"), on)
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
    set_text(spec, option!("duplicate_stdout_filters"), list, "list")
}

/// `ice_spec_set_duplicate_stdout_filters()` for stderr and `attempt_<n>/filtered_stderr.log`.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_duplicate_stderr_filters(
    spec: *mut ice_spec,
    list: *const c_char,
) -> ice_status {
    set_text(spec, option!("duplicate_stderr_filters"), list, "list")
}

/// How many bytes of the end of a failed worker's stderr file go into its result, cut to whole lines:
/// 0 to 16777216, default 4096. Only a stream that is in a file has a tail.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_stderr_tail(spec: *mut ice_spec, bytes: i64) -> ice_status {
    set_number(spec, option!("stderr_tail"), bytes)
}

/// Permission bits of directories and files that the run makes, 0 to 07777 (octal), set whatever the
/// umask is. Default: in a directory that `ice_spec_set_log_dir()` names 0775 and 0664 less the umask of the host, so that
/// others never may write there; else 0700 and 0600, as mkdtemp(3), as everybody shares what is above.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_log_modes(spec: *mut ice_spec, directory: i32, file: i32) -> ice_status {
    edit(spec, |spec| parse::set_log_modes(spec, directory, file))
}

/// The descriptors that stand for the console: tee'd lines of stdout go to `out`, those of stderr to
/// `err`, and workers whose streams are not redirected inherit them. The host keeps both open until
/// the run is over. Default 1 and 2. A number below 0 is ICE_ERROR_CONFIG; a descriptor that is not
/// open when the run starts stands for /dev/null. On a terminal workers are in the background: one that stops
/// who writes from there (`stty tostop`) does not stop workers, which then start with SIGTTOU ignored.
#[unsafe(no_mangle)]
pub extern "C" fn ice_spec_set_console(spec: *mut ice_spec, out: i32, err: i32) -> ice_status {
    edit(spec, |spec| parse::set_console(spec, out, err))
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
