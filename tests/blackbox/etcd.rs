//! Area ETCD: agents that meet at etcd. What is asked of it there is no C API for, so these are unit tests of the
//! library, in src/rendezvous/backends/etcd/tests; they need a server, and can count as ignored for the want of one only here.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use libtest_mimic::Trial;
use serde_json::Value;

use crate::harness::*;
use crate::tests;

const ROOM: &str = "rendezvous::backends::etcd::tests::";

/// The library's unit tests, as a program.
fn unit_tests() -> Command {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let path = PATH.get_or_init(|| {
        let mut build = cargo("test").expect("these tests are run by cargo");
        build.args(["--quiet", "--lib", "--no-run", "--message-format", "json"]);
        let output = build.output().unwrap_or_else(|error| panic!("{build:?}: {error}"));
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{build:?}:\n{stderr}");
        let stdout = String::from_utf8_lossy(&output.stdout);
        let messages = stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let mut programs = messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from));
        programs.next().expect("a program")
    });
    Command::new(path)
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{command:?}:\n{stdout}{}", String::from_utf8_lossy(&output.stderr));
    stdout.into_owned()
}

/// Makes a test of each unit test, with what it needs beside a server.
macro_rules! unit_tests {
    ($($name:ident $(($need:ident))?)*) => {
        const NAMES: &[&str] = &[$(stringify!($name)),*];

        $(fn $name() {
            let said = output(unit_tests().args(["--ignored", "--exact", &format!("{ROOM}{}", stringify!($name))]));
            assert!(said.contains("1 passed"), "{said}");
        })*

        pub fn tests() -> Vec<Trial> {
            tests![etcd_all_unit_tests_are_here, $(needs(etcd, setpriv $(, $need)?): $name),*]
        }
    };
}

unit_tests! {
    etcd_01_a_wait_is_ended_by_its_key_by_the_bell_and_by_the_time
    etcd_01_agents_outlive_a_restart_of_the_server
    etcd_01_agents_outlive_the_loss_of_one_server_of_three
    etcd_01_nothing_is_asked_while_it_waits
    etcd_01_of_five_agents_one_dies
    etcd_01_two_agents_meet_restart_and_end
    etcd_02_a_counter_gives_each_number_once
    etcd_02_a_value_is_set_by_its_token
    etcd_04_a_gateway_that_does_not_reach_its_etcd_is_told(openssl)
    etcd_04_a_user_is_who_he_says_or_is_told
    etcd_04_both_sides_show_certificates(openssl)
    etcd_05_an_agent_that_was_away_too_long_is_told
    etcd_05_keys_stay_as_long_as_one_agent_does_and_then_vanish
    etcd_06_jobs_do_not_see_each_other
    etcd_09_the_tests_servers_end_with_their_test
    etcd_10_certificates_that_were_replaced_are_read_anew(openssl)
}

fn etcd_all_unit_tests_are_here() {
    let listed = output(unit_tests().args(["--list", "--ignored", "--format", "terse"]));
    let listed = listed.lines().filter_map(|line| line.strip_prefix(ROOM)?.strip_suffix(": test"));
    let known = NAMES.iter().copied().filter(|_| cfg!(feature = "etcd"));
    assert_eq!(listed.collect::<BTreeSet<_>>(), known.collect());
}
