//! The catalogue of behaviours, `docs/behaviours.md`, and the names of all tests say the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use libtest_mimic::Trial;

use crate::harness::*;
use crate::tests;

pub fn tests() -> Vec<Trial> {
    tests![catalogue_and_tests_agree, catalogue_faults_are_found]
}

fn catalogue_and_tests_agree() {
    let catalogue = fs::read_to_string(root().join("docs/behaviours.md")).expect("the catalogue");
    let names = names();
    assert!(names.len() > 1000 && entries(&catalogue).len() > 300, "all of it was read");
    let wrong = faults(&catalogue, &names);
    assert!(wrong.is_empty(), "docs/behaviours.md and the names of tests differ:\n{}", wrong.join("\n"));
}

const LINES: &str = "\
- **agent**: what runs a spec. **Every kind** means all.
- **E2E-01** Given a job; then it
  ends.

No part of it.
- **RST-02** Given more; then so.
  Shown by `e2e_01_a_job`, `plain`.
- **LOG-03** Given logs. Not
  tested: there are none.
";

fn catalogue_faults_are_found() {
    let find = |lines: &str, names: &[&str]| {
        faults(lines, &names.iter().map(|name| name.to_string()).collect::<BTreeSet<_>>())
    };
    let none: [&str; 0] = [];
    assert_eq!(find(LINES, &["e2e_01_a_job", "plain", "abi_a_1", "rst_200_rounds"]), none);
    assert_eq!(
        find(LINES, &["plain"]),
        ["E2E-01 has no test", "RST-02 names e2e_01_a_job, which is no test"]
    );
    assert_eq!(
        find(LINES, &["e2e_01_a_job", "plain", "e2e_01_sig_07_x", "log_03_y"]),
        [
            "SIG-07 of the test e2e_01_sig_07_x is not there",
            "LOG-03 is said not to be tested, but log_03_y does"
        ]
    );
    assert_eq!(
        find("- **CFG-01** Given.\n- **CFG-01** Given. Not tested:\n", &["cfg_01"]),
        ["CFG-01 is there twice", "CFG-01 gives no reason why it is not tested"]
    );
}

/// What is wrong, a line for each.
fn faults(catalogue: &str, names: &BTreeSet<String>) -> Vec<String> {
    let entries = entries(catalogue);
    let mut tests: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for name in names {
        ids(name).into_iter().for_each(|id| tests.entry(id).or_default().push(name));
    }
    let mut wrong = Vec::new();
    for (id, names) in &tests {
        if !entries.iter().any(|(known, _)| known == id) {
            wrong.push(format!("{id} of the test {} is not there", names.join(", ")));
        }
    }
    let mut seen = BTreeSet::new();
    for (id, text) in &entries {
        if !seen.insert(id) {
            wrong.push(format!("{id} is there twice"));
        }
        let shown = text.split_once("Shown by ").map_or("", |(_, list)| list);
        let shown: Vec<&str> = shown.split('`').skip(1).step_by(2).collect();
        for name in shown.iter().filter(|name| !names.contains(**name)) {
            wrong.push(format!("{id} names {name}, which is no test"));
        }
        let reason = text.split_once("Not tested:").map(|(_, reason)| reason.trim());
        match (tests.get(id), reason) {
            (_, Some("")) => wrong.push(format!("{id} gives no reason why it is not tested")),
            (Some(names), Some(_)) => {
                wrong.push(format!("{id} is said not to be tested, but {} does", names.join(", ")));
            }
            (None, None) if shown.is_empty() => wrong.push(format!("{id} has no test")),
            _ => {}
        }
    }
    wrong
}

/// The ids of a catalogue, each with what is said of it: `- **KILL-06** Given ...`, and lines below that are indented.
fn entries(catalogue: &str) -> Vec<(String, String)> {
    let is_id = |id: &str| id.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '-');
    let mut entries: Vec<(String, String)> = Vec::new();
    let mut inside = false;
    for line in catalogue.lines() {
        let begin = line.strip_prefix("- **").and_then(|line| line.split_once("** "));
        if let Some((id, text)) = begin.filter(|(id, _)| is_id(id)) {
            entries.push((id.to_string(), text.to_string()));
            inside = true;
        } else if let Some(text) = line.strip_prefix("  ").filter(|_| inside) {
            let (_, entry) = entries.last_mut().expect("it is inside of one");
            *entry += &format!(" {text}");
        } else {
            inside = false;
        }
    }
    entries
}

/// The ids at the begin of a test's name: BAR-02 and BAR-06 of `bar_02_bar_06_the_wait_has_an_end`.
fn ids(name: &str) -> Vec<String> {
    let words: Vec<&str> = name.split('_').collect();
    let id = |pair: &[&str]| {
        let &[area, number] = pair else { return None };
        let is_area = area.starts_with(|c: char| c.is_ascii_lowercase());
        let is_number = number.len() == 2 && number.chars().all(|c| c.is_ascii_digit());
        (is_area && is_number).then(|| format!("{}-{number}", area.to_uppercase()))
    };
    words.chunks(2).map_while(id).collect()
}

/// The names of all functions of these tests, whose helpers have none that looks like an id, and of all unit tests.
fn names() -> BTreeSet<String> {
    let read = |path: &PathBuf| fs::read_to_string(path).expect("a source file");
    let mut names = BTreeSet::new();
    for path in sources(&root().join("tests/blackbox")) {
        names.extend(read(&path).lines().filter_map(function).map(str::to_string));
    }
    for path in sources(&root().join("src")) {
        let mut is_test = false;
        for line in read(&path).lines() {
            is_test |= line.trim() == "#[test]";
            if let Some(name) = function(line) {
                names.extend(is_test.then(|| name.to_string()));
                is_test = false;
            }
        }
    }
    names
}

/// The name of the function that begins in this line.
fn function(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let name = line.strip_prefix("pub ").unwrap_or(line).strip_prefix("fn ")?;
    name.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().filter(|name| !name.is_empty())
}

/// All files of Rust below a directory.
fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}
