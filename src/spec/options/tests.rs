use std::collections::BTreeSet;

use super::*;

/// All that options change, as text.
fn shown(spec: &Spec) -> String {
    format!("{spec:?}")
}

fn set(row: &Row, text: &str) -> Result<Spec, String> {
    let mut spec = Spec::default();
    row.set(&mut spec, text.as_bytes()).map(|()| spec).map_err(|error| error.to_string())
}

/// Texts that are no value of an option of this kind, whichever it is.
fn wrong(row: &Row) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    let garbage = ["", " ", "garbage!", "1 2", "0x10", "--1", "1,2", "\u{e9}", "true false"];
    match row.kind {
        OptionKind::Flag(_) => {
            texts.extend(garbage.map(String::from).into_iter().chain(["2".into(), "-1".into()]))
        }
        OptionKind::Number { low, high, .. } => {
            texts.extend(garbage.map(String::from));
            texts.extend([(low - 1).to_string(), (high + 1).to_string(), format!("{low}.5")]);
            texts
                .extend(["99999999999999999999", "1__0", "_1", "1_", "nan", "inf", "true"].map(String::from));
        }
        OptionKind::Signal { low, .. } => {
            texts.extend(garbage.map(String::from));
            texts.extend([
                (low - 1).to_string(),
                "65".into(),
                "SIGNOPE".into(),
                "RTMIN+99".into(),
                "1.5".into(),
            ]);
        }
        OptionKind::Seconds { least, .. } => {
            texts.extend(garbage.map(String::from));
            texts.extend(["-1", "-0.1", "nan", "inf", "-inf", "1e300", "1000000001", "1s"].map(String::from));
            if least > 0.0 {
                texts.extend(["0".to_string(), (least / 2.0).to_string()]);
            }
        }
        OptionKind::Word { words, .. } => {
            texts.extend(garbage.map(String::from));
            texts.extend([format!("{}s", words[0]), "0".into(), words[..2].join(",")]);
        }
        OptionKind::Text(_) | OptionKind::List { .. } | OptionKind::Each { .. } => texts.extend(
            WRONG_TEXTS
                .iter()
                .filter(|(name, _)| *name == row.name)
                .flat_map(|(_, texts)| *texts)
                .map(|&t| t.into()),
        ),
    }
    texts
}

/// Of options that have a form of their own; those that take any text have none.
const WRONG_TEXTS: &[(&str, &[&str])] = &[
    ("program", &[""]),
    ("arg", &[]),
    ("function", &["", ":f", "lib:", ":"]),
    ("warm_up", &[""]),
    ("runner", &[""]),
    ("nproc_per_node", &["", " ", "0", "-1", "16385", "1.5", "tpu", "1__0"]),
    ("role", &[""]),
    ("env", &["", "A", "=b", "RANK=1", "ICE_DEVICES=x"]),
    ("unset_env", &["", "A=b", "RANK"]),
    ("keep_env", &["A=b", "A,RANK", "=,A"]),
    ("rank_env", &["", "A=b", "0", "0:A", "-1:A=b", "16384:A=b", "x:A=b", "0:RANK=1"]),
    ("unset_rank_env", &["", "A", "0:", "-1:A", "0:RANK"]),
    ("working_dir", &[""]),
    ("devices", &["", " ", "tpu:0", "cuda:", "cuda:2-1", "cuda:a", "cpu:16384"]),
    ("restart_backoff", &["", " ", "x", "1:", ":1", "1:x", "2:1", "-1", "nan", "1:inf", "1:2:3"]),
    ("no_restart_exit_codes", &["", "0", "256", "2,", "2,x", "-1"]),
    ("section_limits", &["", "step", "step:", "step:x", "step:-1", "a:1,", "a:1,b", "a:nan"]),
    ("section_learning", &["", "x", "0.5", "1001", "5:", "5:x", "5:-1", "nan", "inf"]),
    ("stack_command", &[]),
    ("signals", &["SIGKILL", "TERM,STOP", "SEGV", "CHLD"]),
    ("pass_signals", &["SIGKILL", "TERM,STOP", "SEGV", "CHLD"]),
    ("on_signal", &["USR1", "USR1=save", "NOPE=pass", "=pass", "0=pass", "65=pass", "KILL=pass", "33=stop"]),
    ("pre_stop_signal", &["", "USR1", "USR1:", ":1", "NOPE:1", "0:1", "65:1", "USR1:-1", "USR1:nan"]),
    ("log_dir", &[""]),
    ("redirects", &["", "4", "-1", "0:4", "0:", ":1", "0:1,", "0:1,0:2", "x"]),
    ("tee", &["", "4", "-1", "0:4", "0:", ":1", "0:1,", "0:1,0:2", "x"]),
    ("local_ranks_filter", &["", "a", "-1", "0,", "0,,1"]),
    ("log_prefix_template", &[]),
    ("duplicate_stdout_filters", &[]),
    ("duplicate_stderr_filters", &[]),
    ("log_modes", &["", "755", "0755,", ",0644", "0755,0844", "010000,0", "0,010000", "-1,0"]),
    ("console", &["", "1", "1,", "-1,2", "1,-2", "1,x", "1,9999999999"]),
    ("event_file", &[]),
    ("event_handler", &["host=console", "worker="]),
    ("health_address", &["", "here", "1.2.3", "localhost"]),
    ("health_socket", &[]),
    ("nodes", &["", "0", "-1", "2:1", "1:", ":1", "1:2:3", "a", "1:1048577"]),
    ("rendezvous_backend", &[]),
    ("rendezvous_endpoint", &[]),
    ("scheduler", &["", " slurm", "Slurm", "pmi"]),
    ("run_id", &[""]),
    ("rendezvous_option", &["", "join_timeout", "join_timout=5", "join_timeout=0", "=5"]),
    ("master_addr", &[""]),
    ("local_addr", &[""]),
];

#[test]
fn cfg_options_every_option_refuses_every_kind_of_wrong_value() {
    for row in all() {
        let own_form =
            matches!(row.kind, OptionKind::Text(_) | OptionKind::List { .. } | OptionKind::Each { .. });
        let is_listed = WRONG_TEXTS.iter().any(|(name, _)| *name == row.name);
        assert_eq!(own_form, is_listed, "{}: name its wrong texts in WRONG_TEXTS", row.name);
        let before = shown(&Spec::default());
        for text in wrong(row) {
            let mut spec = Spec::default();
            let done = row.set(&mut spec, text.as_bytes());
            let error = done.err().unwrap_or_else(|| panic!("{} takes {text:?}", row.name));
            let Error::Config { want, .. } = &error else { panic!("{} {text:?}: {error}", row.name) };
            assert!(!want.is_empty(), "{} {text:?}: {error}", row.name);
            assert_eq!(shown(&spec), before, "{} {text:?} was stored", row.name);
        }
        // What no C string and no variable can hold.
        let error = set(row, "a\0b").unwrap_err();
        assert!(error.contains(row.name) && error.contains("NUL byte at offset 1"), "{error}");
        let numeric =
            matches!(row.kind, OptionKind::Flag(_) | OptionKind::Number { .. } | OptionKind::Seconds { .. });
        if numeric {
            let mut spec = Spec::default();
            let error = row.set(&mut spec, b"\xff\xfe").unwrap_err().to_string();
            assert!(error.contains(row.name) && error.contains("plain text"), "{error}");
        }
    }
}

/// By the typed setters, which have no text.
#[test]
fn cfg_options_every_bound_holds_for_typed_values_too() {
    for row in all() {
        let refused = |done: Result<(), Error>| {
            let error = done.expect_err(row.name).to_string();
            assert!(error.starts_with(&format!("config error: {} is ", row.name)), "{error}");
        };
        let mut spec = Spec::default();
        match row.kind {
            OptionKind::Number { low, high, .. } => {
                [low, high].iter().for_each(|&bound| row.set_number(&mut spec, bound).expect(row.name));
                [low - 1, high + 1, i64::MIN, i64::MAX]
                    .iter()
                    .for_each(|&beyond| refused(row.set_number(&mut spec, beyond)));
            }
            OptionKind::Signal { low, .. } => {
                let high = i64::from(libc::SIGRTMAX());
                [low, high].iter().for_each(|&bound| row.set_number(&mut spec, bound).expect(row.name));
                [low - 1, high + 1].iter().for_each(|&beyond| refused(row.set_number(&mut spec, beyond)));
            }
            OptionKind::Seconds { least, .. } => {
                [least, MAX_SECONDS]
                    .iter()
                    .for_each(|&bound| row.set_seconds(&mut spec, bound).expect(row.name));
                [-1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300, 1.1e9, least / 2.0 - 1e-12]
                    .iter()
                    .for_each(|&beyond| refused(row.set_seconds(&mut spec, beyond)));
            }
            OptionKind::Word { words, first, .. } => {
                let last = first + words.len() as i32 - 1;
                (first..=last).for_each(|word| row.set_word(&mut spec, word).expect(row.name));
                [first - 1, last + 1, i32::MIN, i32::MAX]
                    .iter()
                    .for_each(|&beyond| refused(row.set_word(&mut spec, beyond)));
            }
            _ => assert!(matches!(row.set_number(&mut spec, 1), Err(Error::Internal { .. })), "{}", row.name),
        }
    }
}

#[test]
fn cfg_options_every_default_says_what_nothing_says() {
    for row in all() {
        let Some(default) = row.default else { continue };
        let spec = set(row, default).unwrap_or_else(|error| panic!("{}: {error}", row.name));
        assert_eq!(shown(&spec), shown(&Spec::default()), "{} {default:?}", row.name);
    }
}

#[test]
fn cfg_options_every_word_and_number_is_stored() {
    for row in all() {
        let mut stored = BTreeSet::new();
        let texts: Vec<String> = match row.kind {
            OptionKind::Flag(_) => ["0", "1"].map(String::from).into(),
            OptionKind::Word { words, .. } => words.iter().map(|word| word.to_string()).collect(),
            OptionKind::Number { low, high, .. } => vec![low.to_string(), high.to_string()],
            OptionKind::Signal { .. } => ["SIGUSR1", "usr2"].map(String::from).into(),
            OptionKind::Seconds { .. } => ["1", " 2.5 ", "1_0e0"].map(String::from).into(),
            _ => continue,
        };
        for text in &texts {
            let spec = set(row, text).unwrap_or_else(|error| panic!("{}: {error}", row.name));
            stored.insert(shown(&spec));
        }
        assert_eq!(stored.len(), texts.len(), "{}: two values are stored alike", row.name);
    }
}

#[test]
fn cfg_options_names_are_names() {
    let mut names = BTreeSet::new();
    for row in all() {
        for name in [row.name].into_iter().chain(row.also) {
            let plain = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            assert!(plain && names.insert(name), "{name}");
            assert_eq!(find(&name.replace('_', "-")).unwrap().name, row.name);
        }
        assert!(row.help.ends_with('.') || row.help.ends_with('\''), "{}: {}", row.name, row.help);
        assert_eq!(row.argument.is_empty(), matches!(row.kind, OptionKind::Flag(_)), "{}", row.name);
    }
    for (name, near) in [("max_restart", "(max_restarts?)"), ("nproc-per-nod", "(nproc_per_node?)")] {
        let error = find(name).err().unwrap().to_string();
        assert!(error.contains(name) && error.contains(near), "{error}");
    }
    assert!(find("colour").err().unwrap().to_string().ends_with("there is no such option"));
}

#[test]
fn cfg_options_have_a_fresh_reference() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/options.md");
    let page = super::reference::page();
    if std::env::var_os("LIBICE_WRITE_OPTIONS").is_some() {
        std::fs::write(path, &page).unwrap();
    }
    let there = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        there == page,
        "docs/options.md is stale; write it anew: LIBICE_WRITE_OPTIONS=1 cargo test --locked --lib reference"
    );
}

#[test]
fn cfg_options_the_file_in_the_reference_is_one() {
    let page = super::reference::page();
    let file: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("    ").or((line.is_empty()).then_some("")))
        .collect();
    let mut spec = Spec::default();
    crate::spec::config_file::apply(&mut spec, "job.toml", &file.join("\n")).unwrap();
    assert_eq!((spec.local_world_size, spec.nodes.options.join_timeout.as_secs()), (8, 900));
}
