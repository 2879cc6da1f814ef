//! Area SEC: workers that lie. A host outlives what they do to the memory it shares with them.

use libtest_mimic::Trial;

use crate::func::pattern_hash;
use crate::harness::{
    CAUSE_OWN_FAILURE, CAUSE_STOPPED_BY_AGENT, Case, END_START_ERROR, END_SUCCEEDED, END_WORKER_FAILURE,
    OUTCOME_EXITED, Run, Way,
};
use crate::tests_by_way;

pub fn tests() -> Vec<Trial> {
    tests_by_way![
        Way::ALL;
        sec_01_shared_memory_is_tampered_with_during_the_run,
        sec_01_a_value_is_tampered_with,
        sec_01_a_length_that_lies,
    ]
}

/// What a worker does to all memory that it shares with the agent and that must change nothing.
const WITHOUT_EFFECT: [&str; 3] = ["shrink", "grow", "seal"];
/// What wipes out what the worker has said itself: that it came to its work, say.
const WIPING: [&str; 2] = ["punch", "scribble"];

/// The host lives, the run ends in a class of its own, nothing is left.
fn survives(run: &Run) {
    let end = run.result()["end"].as_i64().unwrap();
    assert!([END_SUCCEEDED, END_WORKER_FAILURE, END_START_ERROR].map(i64::from).contains(&end), "{run}");
    run.clean();
}

fn sec_01_shared_memory_is_tampered_with_during_the_run(way: Way) {
    for how in WIPING.into_iter().chain(WITHOUT_EFFECT) {
        let t = Case::new();
        let verbs = ["rank", "0", "tamper", how, "code", "3", ";", "pause"];
        let run = t.host().set("local_world_size", 2).set("control", 1).function(way, &verbs).run();
        survives(&run);
        assert_eq!(run.worker(1)["cause"], CAUSE_STOPPED_BY_AGENT, "{how}: {run}");
    }
    // Neither the others nor the next attempt suffer for it.
    for how in WITHOUT_EFFECT {
        let t = Case::new();
        let verbs = ["attempt", "0", "tamper", how, "code", "3", ";", "return", "later"];
        let run = t.host().set("control", 1).set("max_restarts", 1).function(way, &verbs).run();
        run.succeeded();
        assert_eq!(run.worker(0)["value"]["bytes"], "later", "{how}");
    }
}

fn sec_01_a_value_is_tampered_with(way: Way) {
    const SIZE: u64 = 100_000;
    for how in WIPING {
        let t = Case::new();
        let run = t.host().function(way, &["return_bytes", &SIZE.to_string(), "tamper", how]).run();
        survives(&run); // host.c has looked at all bytes of a value that there is
    }
    for how in WITHOUT_EFFECT {
        let t = Case::new();
        let run = t.host().function(way, &["return_bytes", &SIZE.to_string(), "tamper", how]).run();
        run.succeeded();
        assert_eq!(run.worker(0)["value"]["hash"], pattern_hash(SIZE), "{how}: {run}");
    }
}

fn sec_01_a_length_that_lies(way: Way) {
    for length in ["4097", "1099511627776", "9223372036854771712", "18446744073709551615"] {
        for grow in ["grow", "nothing"] {
            let t = Case::new();
            let run = t.host().function(way, &["return", "x", "tamper", grow, "claim_value", length]).run();
            if length == "4097" && grow == "grow" {
                // It is there, if not what the worker wrote.
                run.succeeded();
                continue;
            }
            run.failed_as(END_WORKER_FAILURE);
            let worker = run.worker(0);
            assert_eq!(worker["outcome"], OUTCOME_EXITED);
            assert_eq!(worker["cause"], CAUSE_OWN_FAILURE, "{length} {grow}: {run}");
            assert_eq!(worker["has_value"], 0);
            let message = worker["message"].as_str().unwrap();
            assert!(message.contains("value") && message.contains(length), "{message}");
        }
    }
}
