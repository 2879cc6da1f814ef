//! A config file: TOML whose keys are names of options.

use std::collections::BTreeSet;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::Spec;
use super::options::{OptionKind, Row, find};
use crate::error::Error;

/// Sets all that a file says; `path` is for errors. Nothing is set where something is wrong.
pub fn apply(spec: &mut Spec, path: &str, text: &str) -> Result<(), Error> {
    let file = File { path, text };
    let table = DeTable::parse(text).map_err(|error| file.no_toml(&error))?;
    let mut changed = spec.clone();
    let mut said = BTreeSet::new();
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in entries {
        let here = |error| file.at(key.span(), error);
        let row = find(key.get_ref()).map_err(here)?;
        if !said.insert(row.name) {
            let want = format!("{} is said before, by another of its names", row.name);
            return Err(here(Error::config("option", key.get_ref(), want)));
        }
        let wrong = |error| file.at(value.span(), error);
        for text in texts(row, value.get_ref()).map_err(wrong)? {
            row.set(&mut changed, text.as_bytes()).map_err(wrong)?;
        }
    }
    *spec = changed;
    Ok(())
}

/// What the option is to be set to, one after the other.
fn texts(row: &Row, value: &DeValue<'_>) -> Result<Vec<String>, Error> {
    match row.kind {
        OptionKind::List { joints, .. } => Ok(vec![flat(row, joints, value)?.join(",")]),
        OptionKind::Each { joints, .. } => flat(row, joints, value),
        _ => scalar(row, value).map(|text| vec![text]),
    }
}

/// Items of arrays and tables; a joint is for each level of tables what stands between a key and its value.
fn flat(row: &Row, joints: &str, value: &DeValue<'_>) -> Result<Vec<String>, Error> {
    let mut items = Vec::new();
    match value {
        DeValue::Array(array) => {
            for item in array.iter() {
                items.extend(flat(row, joints, item.get_ref())?);
            }
        }
        DeValue::Table(table) => {
            let Some(joint) = joints.chars().next() else { return Err(other_type(row, value)) };
            for (key, item) in table {
                let inner = flat(row, &joints[joint.len_utf8()..], item.get_ref())?;
                items.extend(inner.into_iter().map(|text| format!("{}{joint}{text}", key.get_ref())));
            }
        }
        _ => items.push(scalar(row, value)?),
    }
    Ok(items)
}

fn scalar(row: &Row, value: &DeValue<'_>) -> Result<String, Error> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Boolean(on) => Ok(on.to_string()),
        DeValue::Float(number) => Ok(number.as_str().into()),
        DeValue::Integer(number) => {
            let decimal =
                i128::from_str_radix(number.as_str(), number.radix()).map(|number| number.to_string());
            Ok(decimal.unwrap_or_else(|_| number.as_str().into()))
        }
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => Err(other_type(row, value)),
    }
}

fn other_type(row: &Row, value: &DeValue<'_>) -> Error {
    let name = match value {
        DeValue::Table(_) => "a table",
        DeValue::Array(_) => "an array",
        _ => "a date",
    };
    Error::config(row.name, name, "must be a single value, like a number or a text")
}

struct File<'t> {
    path: &'t str,
    text: &'t str,
}

impl File<'_> {
    fn line(&self, span: Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        1 + before.iter().filter(|&&byte| byte == b'\n').count()
    }

    /// The same error, with its place.
    fn at(&self, span: Range<usize>, error: Error) -> Error {
        let line = self.line(span);
        match error {
            Error::Config { field, value, want } => {
                Error::Config { field, value, want: format!("{want} ({}, line {line})", self.path) }
            }
            other => other,
        }
    }

    fn no_toml(&self, error: &toml::de::Error) -> Error {
        let place = error.span().map_or(String::new(), |span| format!("line {}: ", self.line(span)));
        Error::config("config_file", self.path, format!("{place}{}", error.message()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::EnvEdit;

    fn loaded(text: &str) -> Result<Spec, String> {
        let mut spec = Spec::default();
        apply(&mut spec, "job.toml", text).map(|()| spec).map_err(|error| error.to_string())
    }

    #[test]
    fn cfg_file_values_are_of_tomls_types() {
        let spec = loaded(
            "program = \"python3\"\n\
             args = [\"-u\", \"train.py\"]\n\
             nproc-per-node = 4\n\
             max_restarts = 0x10\n\
             min_uptime = 1_0.5\n\
             heartbeat_timeout = 7\n\
             control = true\n\
             tee = { 0 = 3, 1 = 1 }\n\
             no_restart_codes = [2, 3]\n\
             signals = [\"TERM\", \"INT\"]\n\
             stdin = \"rank0\"\n\
             nnodes = \"1:4\"\n\
             on_signal = { USR1 = \"checkpoint\" }\n\
             [env]\n\
             A = \"b c\"\n\
             THREADS = 4\n\
             [rank_env.1]\n\
             B = \"=\"\n\
             [section_limits]\n\
             step = 1.5\n\
             [rendezvous_options]\n\
             join_timeout = 900\n",
        )
        .unwrap();
        assert_eq!(spec.program.as_deref(), Some(c"python3"));
        assert_eq!(spec.args, [c"-u".to_owned(), c"train.py".to_owned()]);
        assert_eq!((spec.local_world_size, spec.max_restarts), (4, 16));
        assert_eq!((spec.min_uptime.as_millis(), spec.heartbeat_timeout.as_secs()), (10_500, 7));
        assert!(spec.control);
        assert_eq!(spec.tee.highest(), Some(1));
        assert_eq!(spec.no_restart_exit_codes, [2, 3].into());
        assert_eq!(spec.handled_signals, [libc::SIGTERM, libc::SIGINT]);
        assert_eq!(spec.stdin, crate::spec::Stdin::Rank0);
        assert_eq!(spec.nodes.range(), (1, 4));
        assert_eq!(spec.nodes.options.join_timeout.as_secs(), 900);
        assert!(spec.on_signal.contains_key(&libc::SIGUSR1));
        assert_eq!(spec.sections.given.len(), 1);
        let set = |key: &str, value: &str| EnvEdit::Set(key.into(), value.into());
        assert_eq!(spec.env, [set("A", "b c"), set("THREADS", "4")]);
        assert_eq!(spec.rank_env[&1], [set("B", "=")]);
    }

    #[test]
    fn cfg_file_what_is_wrong_has_its_line() {
        for (text, parts) in [
            ("role = \"r\"\nmax_restart = 3\n", &["max_restart", "(max_restarts?)", "job.toml, line 2"][..]),
            ("\n\nmax_restarts = -1\n", &["max_restarts is -1", "from 0 to", "line 3"]),
            ("max_restarts = \"many\"\n", &["max_restarts is many", "line 1"]),
            ("min_uptime = nan", &["min_uptime is NaN", "line 1"]),
            ("min_uptime = 99999999999999999999", &["min_uptime is 100000000000000000000", "line 1"]),
            ("control = 2", &["control is 2", "must be 1 or 0"]),
            ("control = [true]", &["control is \"an array\"", "single value"]),
            ("signals = { a = 1 }", &["signals is \"a table\"", "single value"]),
            ("role = 2026-01-31", &["role is \"a date\"", "single value"]),
            ("role = \"\"", &["role is \"\"", "must not be empty"]),
            ("role = \"a\\u0000b\"", &["role", "NUL byte at offset 1"]),
            ("[env]\nA = \"b\"\nRANK = 3", &["RANK", "the agent sets this variable"]),
            ("[env.A]\nB = 1", &["env is \"a table\""]),
            (
                "max_restarts = 1\nmax-restarts = 2",
                &["option is max-restarts", "another of its names", "line 2"],
            ),
            ("[restarts]\nmax_restarts = 1", &["option is restarts", "line 1"]),
            ("role = \n", &["config_file is job.toml", "line 1"]),
            ("role = \"a\"\nrole = \"b\"", &["config_file is job.toml", "line 2"]),
            ("\u{0}", &["config_file is job.toml"]),
        ] {
            let error = loaded(text).map(drop).unwrap_err();
            parts.iter().for_each(|part| assert!(error.contains(part), "{text:?}: {error}"));
        }
    }

    #[test]
    fn cfg_file_nothing_is_set_where_something_is_wrong() {
        let mut spec = Spec::default();
        assert!(apply(&mut spec, "job.toml", "max_restarts = 9\nmin_uptime = -1\n").is_err());
        assert_eq!(spec.max_restarts, 3);
    }
}
