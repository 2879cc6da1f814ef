//! `docs/options.md`, made from the table.

use std::fmt::Write;

use super::{GROUPS, OptionKind, Row, TINY};

pub fn page() -> String {
    let mut page = String::from(HEAD);
    for group in GROUPS {
        let _ = write!(
            page,
            "\n## {}\n\n| option | value | default | |\n| --- | --- | --- | --- |\n",
            group.heading
        );
        for row in group.rows {
            let also = row.also.map_or(String::new(), |also| format!(", `{also}`"));
            let tool = match (row.is_tool, row.letter) {
                (false, _) => String::new(),
                (true, None) => format!("<br>`--{}`", row.flag()),
                (true, Some(letter)) => format!("<br>`-{letter}`, `--{}`", row.flag()),
            };
            let default = match (row.default, row.kind) {
                (Some(""), _) | (None, _) => String::new(),
                (Some("1"), OptionKind::Flag(_)) => "on".into(),
                (Some(_), OptionKind::Flag(_)) => "off".into(),
                (Some(text), _) => format!("`{text}`"),
            };
            let cell = |text: String| text.replace('|', "\\|");
            let _ = writeln!(
                page,
                "| `{}`{also}{tool} | {} | {} | {} |",
                row.name,
                cell(row.value()),
                cell(default),
                cell(row.help.into())
            );
        }
    }
    page
}

const HEAD: &str = "# Options

This page is made from the table of options, `src/spec/options/rows`. The same table has the setters of the C API
(`ice_spec_set()` takes any option by name, as text), config files (`ice_spec_load()`, `icerun --config FILE`), the flags
of `icerun`, their `PET_` variables, `icerun --help` and the completion of shells.

A name may have `-` for `_`. Where two names are given either will do; the second one is torchrun's, or that of the flag.
A flag of `icerun` is shown below the name; `icerun` has some more of its own, and some other defaults: `icerun --help`.
Without a default nothing is said, which the text explains where it matters.

A config file is TOML. Its keys are names of options; values are of TOML's own types: a number, a text, true or false, an
array where there is a list, a table where there are pairs:

    program = \"python3\"
    args = [\"-u\", \"train.py\", \"--epochs\", \"3\"]
    nproc_per_node = 8
    max_restarts = 3
    shutdown_timeout = 60
    on_signal = { USR1 = \"checkpoint\" }

    [env]
    OMP_NUM_THREADS = 4

    [rendezvous_options]
    join_timeout = 900
";

impl Row {
    /// The name of icerun's flag.
    fn flag(&self) -> String {
        self.also.unwrap_or(self.name).replace('_', "-")
    }

    /// What the value may be, in a few words.
    fn value(&self) -> String {
        match self.kind {
            OptionKind::Flag(_) => "on or off".into(),
            OptionKind::Number { low, high, word, .. } => {
                let other = word.map_or(String::new(), |(word, _)| format!(", or `{word}`"));
                format!("{low} to {high}{other}")
            }
            OptionKind::Signal { low, .. } => if low == 0 { "a signal, or 0" } else { "a signal" }.into(),
            OptionKind::Seconds { least, .. } => match least {
                0.0 => "seconds".into(),
                TINY => "seconds, more than 0".into(),
                least => format!("seconds, {least} or more"),
            },
            OptionKind::Word { words, .. } => {
                words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
            }
            OptionKind::Text(_) => format!("`{}`", self.argument),
            OptionKind::List { .. } => format!("a list: `{}`", self.argument),
            OptionKind::Each { .. } => format!("`{}`, more than once", self.argument),
        }
    }
}
