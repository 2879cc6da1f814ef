//! How options are read whose text is more than a number or a word.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::control::section::Name;
use crate::error::Error;
use crate::ranks::MAX_LOCAL_WORLD_SIZE;
use crate::spec::names::Signal;
use crate::spec::nodes::MAX_NODES;
use crate::spec::on_signal::{OnSignal, nameable};
use crate::spec::values::{c_bytes, digits, env_key, not_empty, number, plain, seconds, signal};
use crate::spec::{EnvEdit, EventHandler, EventSource, Function, Spec};

type Done = Result<(), Error>;

/// The wait before a restart, and the most that it becomes, where nobody says it.
const MOST_BACKOFF: f64 = 60.0;
/// The least limit that is made of what was learnt, where nobody says it.
const LEAST_LEARNT: f64 = 10.0;
const SHELL: [&std::ffi::CStr; 2] = [c"/bin/sh", c"-c"];

/// `first:second`, as two texts; the second is not there without a colon.
fn parts<'t>(field: &'static str, text: &'t [u8]) -> Result<(&'t str, Option<&'t str>), Error> {
    let text = plain(field, text)?;
    Ok(text.split_once(':').map_or((text, None), |(first, second)| (first, Some(second))))
}

fn real(text: &str) -> Option<f64> {
    digits(text).parse().ok()
}

fn whole(text: &str) -> Option<i64> {
    digits(text).parse().ok()
}

/// Items with commas between; none in an empty text.
fn items(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn shown(text: &[u8]) -> String {
    String::from_utf8_lossy(text).into_owned()
}

pub fn restart_backoff(spec: &mut Spec, field: &'static str, text: &[u8]) -> Done {
    let wrong = || Error::config(field, shown(text), "must be SECONDS or SECONDS:MAX");
    let (first, most) = parts(field, text)?;
    let first = real(first).ok_or_else(wrong)?;
    let most = most.map_or(Some(first.max(MOST_BACKOFF)), real).ok_or_else(wrong)?;
    set_backoff(spec, first, most)
}

pub fn set_backoff(spec: &mut Spec, initial: f64, maximum: f64) -> Done {
    const FIELD: &str = "restart_backoff";
    let (first, most) = (seconds(FIELD, initial)?, seconds(FIELD, maximum)?);
    if first > most {
        let want = format!("the initial wait must not be above the maximum, which is {maximum}");
        return Err(Error::config(FIELD, initial, want));
    }
    spec.restart_backoff = (!most.is_zero()).then_some((first, most));
    Ok(())
}

pub fn pre_stop_signal(spec: &mut Spec, field: &'static str, text: &[u8]) -> Done {
    let wrong = || Error::config(field, shown(text), "must be SIGNAL:SECONDS, like USR1:30");
    let (name, time) = parts(field, text)?;
    let signal = whole(name).or_else(|| Some(Signal::parse(name.trim())?.0.into())).ok_or_else(wrong)?;
    set_pre_stop_signal(spec, signal, time.and_then(real).ok_or_else(wrong)?)
}

pub fn set_pre_stop_signal(spec: &mut Spec, number: i64, time: f64) -> Done {
    const FIELD: &str = "pre_stop_signal";
    spec.stop_signals.pre_stop = Some((signal(FIELD, number)?, seconds(FIELD, time)?));
    Ok(())
}

pub fn section_limits(spec: &mut Spec, field: &'static str, text: &[u8]) -> Done {
    const WANT: &str = "must be NAME:SECONDS,... as step:120, without a NAME for no section";
    let wrong = || Error::config(field, shown(text), WANT);
    let text = plain(field, text)?;
    let limit = |item: &str| {
        let (name, limit) = item.split_once(':').ok_or_else(wrong)?;
        let name = Some(name.trim().as_bytes()).filter(|name| !name.is_empty());
        section_limit(name, real(limit).ok_or_else(wrong)?)
    };
    let given = text.split(',').map(limit).collect::<Result<Vec<_>, _>>()?;
    spec.sections.given.extend(given);
    Ok(())
}

/// Without a name that of no section.
pub fn section_limit(name: Option<&[u8]>, limit: f64) -> Result<(Name, Duration), Error> {
    let name = match name {
        None => Name::default(),
        Some(name) => Name::new(not_empty("section", name)?),
    };
    Ok((name, seconds("section_limit", limit)?))
}

pub fn section_learning(spec: &mut Spec, field: &'static str, text: &[u8]) -> Done {
    let wrong = || Error::config(field, shown(text), "must be FACTOR or FACTOR:LEAST");
    let (factor, least) = parts(field, text)?;
    let factor = real(factor).ok_or_else(wrong)?;
    set_section_learning(spec, factor, least.map_or(Some(LEAST_LEARNT), real).ok_or_else(wrong)?)
}

pub fn set_section_learning(spec: &mut Spec, factor: f64, least: f64) -> Done {
    const FIELD: &str = "section_learning";
    let least = seconds(FIELD, least)?;
    if factor != 0.0 && !(1.0..=1000.0).contains(&factor) {
        return Err(Error::config(FIELD, factor, "must be a factor from 1 to 1000, or 0"));
    }
    spec.sections.learning = (factor != 0.0).then_some((factor, least));
    Ok(())
}

pub fn no_restart_exit_codes(spec: &mut Spec, field: &'static str, text: &[u8]) -> Done {
    let wrong = || Error::config(field, shown(text), "must be exit codes from 1 to 255, like 2,3");
    let text = plain(field, text)?;
    let codes = text.split(',').map(|item| whole(item).filter(|code| (1..=255).contains(code)));
    let codes: Vec<i64> = codes.collect::<Option<_>>().ok_or_else(wrong)?;
    spec.no_restart_exit_codes.extend(codes.into_iter().map(|code| code as i32));
    Ok(())
}

pub fn stack_command(spec: &mut Spec, field: &'static str, text: &[u8]) -> Done {
    let command = c_bytes(field, text)?;
    let words = SHELL.iter().map(|&word| word.to_owned()).chain([command]);
    spec.stack_command = if text.is_empty() { Vec::new() } else { words.collect() };
    Ok(())
}

pub fn on_signal(spec: &mut Spec, field: &'static str, text: &[u8]) -> Done {
    let wrong = |want| Error::config(field, shown(text), want);
    let mut said = Vec::new();
    for item in items(plain(field, text)?) {
        let (name, action) = item.split_once('=').unwrap_or((item, ""));
        let signal = Signal::parse(name.trim())
            .ok_or_else(|| wrong("each must begin with a signal, like USR1=checkpoint"))?;
        let action = match action.trim() {
            "pass" => OnSignal::Pass,
            "checkpoint" => OnSignal::Checkpoint,
            "checkpoint-and-stop" => OnSignal::CheckpointAndStop,
            "stop" => OnSignal::Stop,
            _ => {
                let want = "what follows a signal must be =pass, =checkpoint, =checkpoint-and-stop or =stop";
                return Err(wrong(want));
            }
        };
        said.push((nameable(signal.0)?, action));
    }
    spec.on_signal.extend(said);
    Ok(())
}

pub fn event_handler(spec: &mut Spec, field: &'static str, text: &[u8]) -> Done {
    if text.is_empty() {
        spec.event_handlers.clear();
        return Ok(());
    }
    let mut handlers = Vec::new();
    for item in items(plain(field, text)?) {
        handlers.push(match item.split_once('=') {
            Some((source, handler)) => {
                (Some(EventSource::parse(source)?), EventHandler::parse(handler.as_bytes())?)
            }
            None => (None, EventHandler::parse(item.as_bytes())?),
        });
    }
    spec.event_handlers.extend(handlers);
    Ok(())
}

/// Permission bits of directories and files, in octal.
pub fn log_modes(spec: &mut Spec, field: &'static str, text: &[u8]) -> Done {
    let wrong = || Error::config(field, shown(text), "must be two modes in octal, like 0755,0644");
    let (directory, file) = plain(field, text)?.split_once(',').ok_or_else(wrong)?;
    let mode = |text: &str| i32::from_str_radix(text.trim(), 8).map_err(|_| wrong());
    set_log_modes(spec, mode(directory)?, mode(file)?)
}

pub fn set_log_modes(spec: &mut Spec, directory: i32, file: i32) -> Done {
    let mode = |value: i32| {
        let bits = u32::try_from(value).ok().filter(|bits| *bits <= 0o7777);
        bits.ok_or_else(|| {
            Error::config("log_modes", format!("0{value:o}"), "must be permission bits, 0 to 07777")
        })
    };
    spec.log_modes = Some((mode(directory)?, mode(file)?));
    Ok(())
}

pub fn console(spec: &mut Spec, field: &'static str, text: &[u8]) -> Done {
    let wrong = || Error::config(field, shown(text), "must be two descriptors, like 1,2");
    let (out, err) = plain(field, text)?.split_once(',').ok_or_else(wrong)?;
    let fd = |text: &str| whole(text).and_then(|fd| i32::try_from(fd).ok()).ok_or_else(wrong);
    set_console(spec, fd(out)?, fd(err)?)
}

pub fn set_console(spec: &mut Spec, out: i32, err: i32) -> Done {
    let fd = |field, fd: i32| number(field, i64::from(fd), 0, i64::from(i32::MAX));
    spec.console = (fd("console_out", out)? as i32, fd("console_err", err)? as i32);
    Ok(())
}

/// A list with commas between, and two commas for one within a text, as torchrun reads it.
pub fn filters(list: &[u8]) -> Vec<Vec<u8>> {
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

/// `NAME=VALUE`.
pub fn variable(field: &'static str, text: &[u8]) -> Result<EnvEdit, Error> {
    let Some(at) = text.iter().position(|&byte| byte == b'=') else {
        return Err(Error::config(field, shown(text), "must be NAME=VALUE"));
    };
    set_variable(&text[..at], &text[at + 1..])
}

pub fn set_variable(key: &[u8], value: &[u8]) -> Result<EnvEdit, Error> {
    c_bytes("env", value)?;
    Ok(EnvEdit::Set(env_key(key)?, value.to_vec()))
}

/// Names of variables.
pub fn names(field: &'static str, text: &[u8]) -> Result<BTreeSet<Vec<u8>>, Error> {
    items(plain(field, text)?).map(|name| env_key(name.as_bytes())).collect()
}

pub fn unset(key: &[u8]) -> Result<EnvEdit, Error> {
    env_key(key).map(EnvEdit::Unset)
}

/// `RANK:` and what is said of the environment of that local rank.
pub fn of_rank(
    spec: &mut Spec,
    field: &'static str,
    text: &[u8],
    change: impl Fn(&[u8]) -> Result<EnvEdit, Error>,
) -> Done {
    let colon = text.iter().position(|&byte| byte == b':');
    let rank = colon.and_then(|at| whole(std::str::from_utf8(&text[..at]).ok()?));
    let (Some(at), Some(rank)) = (colon, rank) else {
        return Err(Error::config(
            field,
            shown(text),
            "must begin with a local rank and a colon, like 0:NAME",
        ));
    };
    set_of_rank(spec, rank, change(&text[at + 1..])?)
}

pub fn set_of_rank(spec: &mut Spec, rank: i64, change: EnvEdit) -> Done {
    let rank = number("rank_env", rank, 0, MAX_LOCAL_WORLD_SIZE - 1)?;
    spec.rank_env.entry(rank as usize).or_default().push(change);
    Ok(())
}

/// `N`, or `MIN:MAX`.
pub fn nodes(spec: &mut Spec, field: &'static str, text: &[u8]) -> Done {
    let wrong = || Error::config(field, shown(text), "must be N or MIN:MAX with 1 <= MIN <= MAX");
    let (min, max) = parts(field, text)?;
    let min = whole(min).ok_or_else(wrong)?;
    set_nodes(spec, min, max.map_or(Some(min), whole).ok_or_else(wrong)?)
}

pub fn set_nodes(spec: &mut Spec, min: i64, max: i64) -> Done {
    let min = number("min_nodes", min, 1, MAX_NODES)?;
    let max = number("max_nodes", max, min, MAX_NODES)?;
    spec.nodes.count = Some((min as usize, max as usize));
    Ok(())
}

/// `NAME` of a function that the program registered, or `LIBRARY:NAME`.
pub fn function(spec: &mut Spec, field: &'static str, text: &[u8]) -> Done {
    let colon = text.iter().rposition(|&byte| byte == b':');
    let (library, name) = colon.map_or((None, text), |at| (Some(&text[..at]), &text[at + 1..]));
    set_function(spec, field, library, name)
}

pub fn set_function(spec: &mut Spec, field: &'static str, library: Option<&[u8]>, name: &[u8]) -> Done {
    let library = library.map(|library| c_bytes("library", not_empty("library", library)?)).transpose()?;
    spec.function = Some(Function { library, name: c_bytes(field, not_empty(field, name)?)? });
    Ok(())
}

/// `KEY=VALUE` of a rendezvous.
pub fn rendezvous_option(spec: &mut Spec, field: &'static str, text: &[u8]) -> Done {
    let text = plain(field, text)?;
    let (key, value) = text.split_once('=').ok_or_else(|| Error::config(field, text, "must be KEY=VALUE"))?;
    spec.nodes.options.set(key.trim(), value)
}

/// What a rendezvous time is where zero stands for the default.
pub fn or_default(time: Duration, default: Duration) -> Duration {
    if time.is_zero() { default } else { time }
}
