//! The table of options: a row for each.

mod output;
mod rendezvous;
mod watch;
mod workers;

use std::time::Duration;

use super::{Group, OptionKind, Row, Store};
use crate::spec::Spec;
use output::{EVENTS, OUTPUT};
use rendezvous::RENDEZVOUS;
use watch::{CONTROL, SIGNALS, STUCK};
use workers::{DEVICES, RESTARTS, WORKERS};

const fn flag(name: &'static str, help: &'static str, store: fn(&mut Spec, bool)) -> Row {
    Row::new(name, OptionKind::Flag(store), "", help)
}

const fn number(
    name: &'static str,
    (low, high): (i64, i64),
    argument: &'static str,
    help: &'static str,
    store: fn(&mut Spec, i64),
) -> Row {
    Row::new(name, OptionKind::Number { low, high, store, word: None }, argument, help)
}

const fn signal(name: &'static str, low: i64, help: &'static str, store: fn(&mut Spec, i32)) -> Row {
    Row::new(name, OptionKind::Signal { low, store }, "SIGNAL", help)
}

const fn seconds(name: &'static str, help: &'static str, store: fn(&mut Spec, Duration)) -> Row {
    at_least(name, 0.0, help, store)
}

const fn at_least(name: &'static str, least: f64, help: &'static str, store: fn(&mut Spec, Duration)) -> Row {
    Row::new(name, OptionKind::Seconds { least, store }, "SECONDS", help)
}

/// Words numbered as in a C enum: its name, and its first number.
const fn word(
    name: &'static str,
    (of, first): (&'static str, i32),
    words: &'static [&'static str],
    argument: &'static str,
    help: &'static str,
    store: fn(&mut Spec, usize),
) -> Row {
    Row::new(name, OptionKind::Word { words, first, of, store }, argument, help)
}

const fn text(name: &'static str, argument: &'static str, help: &'static str, store: Store) -> Row {
    Row::new(name, OptionKind::Text(store), argument, help)
}

const fn list(name: &'static str, argument: &'static str, help: &'static str, store: Store) -> Row {
    pairs(name, "", argument, help, store)
}

const fn pairs(
    name: &'static str,
    joints: &'static str,
    argument: &'static str,
    help: &'static str,
    store: Store,
) -> Row {
    Row::new(name, OptionKind::List { joints, store }, argument, help)
}

/// An option that adds to what is there.
const fn each(
    name: &'static str,
    joints: &'static str,
    argument: &'static str,
    help: &'static str,
    store: Store,
) -> Row {
    Row::new(name, OptionKind::Each { joints, store }, argument, help)
}

pub const GROUPS: &[Group] = &[
    Group { heading: "Workers", rows: WORKERS },
    Group { heading: "Devices", rows: DEVICES },
    Group { heading: "Restarts", rows: RESTARTS },
    Group { heading: "Workers that use libice", rows: CONTROL },
    Group { heading: "Stuck workers", rows: STUCK },
    Group { heading: "Signals and the end", rows: SIGNALS },
    Group { heading: "Output of the workers", rows: OUTPUT },
    Group { heading: "Events and health", rows: EVENTS },
    Group { heading: "Rendezvous: one host, or several", rows: RENDEZVOUS },
];
