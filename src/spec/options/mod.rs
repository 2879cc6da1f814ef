//! The options of a run by name, as text. The table says of each what it is called, what it may be, and where it is
//! stored; setters of the C API, `ice_spec_set()`, config files, icerun's flags and variables, its help and
//! `docs/options.md` are made from it.

pub mod parse;
#[cfg(test)]
mod reference;
mod rows;

use std::time::Duration;

use super::names::Signal;
use super::values::{MAX_SECONDS, c_bytes, digits, nearest, number, plain};
use super::{Spec, seconds};
use crate::error::Error;

pub use rows::GROUPS;

/// Takes the text of an option; the first text is the option's name, for errors.
type Store = fn(&mut Spec, &'static str, &[u8]) -> Result<(), Error>;

/// Stores what a word says.
type StoreWord = fn(&mut Spec);

/// What a value is, what it may be, and how it is stored.
#[derive(Clone, Copy)]
pub enum OptionKind {
    Flag(fn(&mut Spec, bool)),
    Number {
        low: i64,
        high: i64,
        store: fn(&mut Spec, i64),
        /// A word that may stand in place of the number.
        word: Option<(&'static str, StoreWord)>,
    },
    /// A signal by its name or number; 0 too, where none is one of them.
    Signal {
        low: i64,
        store: fn(&mut Spec, i32),
    },
    /// Seconds, this many at least.
    Seconds {
        least: f64,
        store: fn(&mut Spec, Duration),
    },
    /// One of these, numbered from `first` on in the C enum of that name.
    Word {
        words: &'static [&'static str],
        first: i32,
        of: &'static str,
        store: fn(&mut Spec, usize),
    },
    Text(Store),
    /// Items with commas between. Of pairs the first character stands between the two parts of an item.
    List {
        joints: &'static str,
        store: Store,
    },
    /// One item; said again, it adds another one.
    Each {
        joints: &'static str,
        store: Store,
    },
}

/// One option.
#[derive(Clone, Copy)]
pub struct Row {
    pub name: &'static str,
    /// Another name: torchrun's, or that of icerun's flag.
    pub also: Option<&'static str>,
    /// Of icerun's short form.
    pub letter: Option<char>,
    pub kind: OptionKind,
    /// What a help calls the value; empty for a flag.
    pub argument: &'static str,
    /// Words that the value may be, among others.
    pub offers: &'static [&'static str],
    /// A text that says the same as nothing said; none where there is no such text.
    pub default: Option<&'static str>,
    pub help: &'static str,
    /// Whether icerun has a flag of it.
    pub is_tool: bool,
}

/// Options of one subject, in the order in which they are shown.
pub struct Group {
    pub heading: &'static str,
    pub rows: &'static [Row],
}

impl Row {
    const fn new(name: &'static str, kind: OptionKind, argument: &'static str, help: &'static str) -> Row {
        let (also, letter, default) = (None, None, None);
        Row { name, also, letter, kind, argument, offers: &[], default, help, is_tool: true }
    }

    const fn also(self, name: &'static str) -> Row {
        Row { also: Some(name), ..self }
    }

    const fn letter(self, letter: char) -> Row {
        Row { letter: Some(letter), ..self }
    }

    const fn default(self, text: &'static str) -> Row {
        Row { default: Some(text), ..self }
    }

    const fn offers(self, words: &'static [&'static str]) -> Row {
        Row { offers: words, ..self }
    }

    /// icerun has no flag of it: it decides it itself, or has another flag.
    const fn not_of_tool(self) -> Row {
        Row { is_tool: false, ..self }
    }

    /// Takes a value as text. What may be written around a number is what Python takes.
    pub fn set(&self, spec: &mut Spec, text: &[u8]) -> Result<(), Error> {
        c_bytes(self.name, text)?;
        match self.kind {
            OptionKind::Text(store) | OptionKind::List { store, .. } | OptionKind::Each { store, .. } => {
                store(spec, self.name, text)
            }
            _ => self.set_plain(spec, plain(self.name, text)?),
        }
    }

    fn set_plain(&self, spec: &mut Spec, text: &str) -> Result<(), Error> {
        let wrong = || Error::config(self.name, text, self.want());
        let is = |word: &str| text.trim().eq_ignore_ascii_case(word);
        match self.kind {
            OptionKind::Flag(store) => match text.trim().to_ascii_lowercase().as_str() {
                "1" | "true" | "yes" | "on" => store(spec, true),
                "0" | "false" | "no" | "off" => store(spec, false),
                _ => return Err(wrong()),
            },
            OptionKind::Number { word: Some((word, store)), .. } if is(word) => store(spec),
            OptionKind::Number { .. } => {
                return self.set_number(spec, digits(text).parse().map_err(|_| wrong())?);
            }
            OptionKind::Signal { .. } => {
                let named = || Signal::parse(text.trim()).map(|signal| i64::from(signal.0));
                let signal = digits(text).parse().ok().or_else(named);
                return self.set_number(spec, signal.ok_or_else(wrong)?);
            }
            OptionKind::Seconds { .. } => {
                return self.set_seconds(spec, digits(text).parse().map_err(|_| wrong())?);
            }
            OptionKind::Word { words, store, .. } => {
                store(spec, words.iter().position(|word| is(word)).ok_or_else(wrong)?);
            }
            OptionKind::Text(_) | OptionKind::List { .. } | OptionKind::Each { .. } => {
                return Err(self.is_other());
            }
        }
        Ok(())
    }

    pub fn set_flag(&self, spec: &mut Spec, on: bool) -> Result<(), Error> {
        let OptionKind::Flag(store) = self.kind else { return Err(self.is_other()) };
        store(spec, on);
        Ok(())
    }

    pub fn set_number(&self, spec: &mut Spec, value: i64) -> Result<(), Error> {
        match self.kind {
            OptionKind::Number { low, high, store, .. } => store(spec, number(self.name, value, low, high)?),
            OptionKind::Signal { low, store } => {
                store(spec, number(self.name, value, low, i64::from(libc::SIGRTMAX()))? as i32);
            }
            _ => return Err(self.is_other()),
        }
        Ok(())
    }

    pub fn set_seconds(&self, spec: &mut Spec, value: f64) -> Result<(), Error> {
        let OptionKind::Seconds { least, store } = self.kind else { return Err(self.is_other()) };
        let time = seconds(self.name, value).ok().filter(|_| value >= least);
        store(spec, time.ok_or_else(|| Error::config(self.name, value, self.want()))?);
        Ok(())
    }

    /// By its number in the C enum.
    pub fn set_word(&self, spec: &mut Spec, value: i32) -> Result<(), Error> {
        let OptionKind::Word { words, first, of, store } = self.kind else { return Err(self.is_other()) };
        let index = value.checked_sub(first).and_then(|index| usize::try_from(index).ok());
        let Some(index) = index.filter(|&index| index < words.len()) else {
            let last = first + words.len() as i32 - 1;
            let numbers = match words.len() {
                3 => format!("{first}, {} or {last}", first + 1),
                _ => format!("{first} to {last}"),
            };
            return Err(Error::config(self.name, value, format!("must be an {of}: {numbers}")));
        };
        store(spec, index);
        Ok(())
    }

    fn is_other(&self) -> Error {
        Error::Internal { what: format!("{} is no option of this kind", self.name) }
    }

    /// What would be right, for an error; empty where only the reader of the text knows it.
    pub fn want(&self) -> String {
        match self.kind {
            OptionKind::Flag(_) => "must be 1 or 0, or true, yes, on, false, no or off".into(),
            OptionKind::Number { low, high, word, .. } => {
                let other = word.map_or(String::new(), |(word, _)| format!(", or {word}"));
                format!("must be a whole number from {low} to {high}{other}")
            }
            OptionKind::Signal { low, .. } => {
                let none = if low == 0 { ", or 0 for none" } else { "" };
                format!("must be a signal, like SIGTERM or 15{none}")
            }
            OptionKind::Seconds { least, .. } => match least {
                TINY => format!("must be more than 0 seconds, up to {MAX_SECONDS:.0}"),
                least => format!("must be seconds from {least} to {MAX_SECONDS:.0}"),
            },
            OptionKind::Word { words, .. } => format!("must be {}", alternatives(words)),
            OptionKind::Text(_) | OptionKind::List { .. } | OptionKind::Each { .. } => String::new(),
        }
    }

    /// Whether that is the number of that word in the C enum.
    pub const fn is_word(&self, number: i32, word: &str) -> bool {
        let OptionKind::Word { words, first, .. } = self.kind else { return false };
        let index = number - first;
        index >= 0
            && (index as usize) < words.len()
            && is_same(words[index as usize].as_bytes(), word.as_bytes())
    }

    /// Words for a shell to offer.
    pub fn words(&self) -> &'static [&'static str] {
        match self.kind {
            OptionKind::Word { words, .. } => words,
            _ => self.offers,
        }
    }
}

/// The least time that is more than none.
const TINY: f64 = 1e-9;

/// `a, b or c`.
fn alternatives(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [one] => (*one).into(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

pub fn all() -> impl Iterator<Item = &'static Row> {
    GROUPS.iter().flat_map(|group| group.rows)
}

/// The option of that name, which may have `-` for `_`.
pub fn find(name: &str) -> Result<&'static Row, Error> {
    let plain = name.replace('-', "_");
    let is = |row: &&Row| row.name == plain || row.also == Some(plain.as_str());
    all().find(is).ok_or_else(|| {
        let names = all().flat_map(|row| [row.name].into_iter().chain(row.also));
        let meant = nearest(&plain, names).map_or(String::new(), |near| format!(" ({near}?)"));
        Error::config("option", name, format!("there is no such option{meant}"))
    })
}

/// The row of that name, found when this is compiled: a name that is in no row does not compile.
pub const fn row(name: &str) -> &'static Row {
    let mut group = 0;
    while group < GROUPS.len() {
        let rows = GROUPS[group].rows;
        let mut index = 0;
        while index < rows.len() {
            if is_same(rows[index].name.as_bytes(), name.as_bytes()) {
                return &rows[index];
            }
            index += 1;
        }
        group += 1;
    }
    panic!("there is no option of that name")
}

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

#[cfg(test)]
mod tests;
