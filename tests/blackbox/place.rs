//! A place to meet that the program brings.

use libtest_mimic::Trial;

use crate::harness::*;
use crate::tests;

pub fn tests() -> Vec<Trial> {
    tests![
        dyn_32_agents_meet_at_a_place_of_the_programs_own,
        dyn_32_what_is_wrong_with_it_ends_the_run_in_its_own_words,
    ]
}

fn meet(t: &Case, mode: &str) -> Vec<String> {
    let output = t.command(program("place")).arg(mode).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut lines: Vec<String> =
        String::from_utf8(output.stdout).unwrap().lines().map(String::from).collect();
    lines.sort();
    lines
}

fn dyn_32_agents_meet_at_a_place_of_the_programs_own() {
    for mode in ["wait", "look", "unreachable"] {
        let t = Case::new();
        let lines = meet(&t, mode);
        // In the first round the first to fail may end the others before they have said a word.
        for line in (0..3).map(|rank| format!("{rank} of 3 in round 1")) {
            assert_eq!(
                lines.iter().filter(|other| **other == line).count(),
                1,
                "{mode}: {line} of {lines:?}"
            );
        }
        let ends = lines.iter().filter(|line| *line == "end 0 round 1 restarts 1: ").count();
        assert_eq!(ends, 2, "{mode}: {lines:?}");
        assert!(!lines.iter().any(|line| line.contains("connections")), "{lines:?}");
        t.nothing_left();
    }
}

fn dyn_32_what_is_wrong_with_it_ends_the_run_in_its_own_words() {
    let t = Case::new();
    let lines = meet(&t, "broken");
    let ends: Vec<&String> = lines.iter().filter(|line| line.starts_with("end 3")).collect();
    let told = "of the rendezvous table failed: the table is upside down";
    assert!(ends.iter().any(|line| line.contains(told)), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("connections")), "{lines:?}");
    t.nothing_left();
}
