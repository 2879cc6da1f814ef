//! Area SEC: what a terminal is shown. No text of a worker, a file or the command line commands it.

use libtest_mimic::Trial;

use crate::harness::*;
use crate::terminal::terminal;
use crate::tests;
use crate::tool::tool;

pub fn tests() -> Vec<Trial> {
    tests![
        sec_08_what_a_worker_says_of_its_failure,
        sec_08_names_and_prefixes,
        sec_08_messages_of_the_library,
    ]
}

const ESCAPES: &str = "\x1b]0;title\x07\x1b[2J\r\u{9b}31m\x7f";

/// Whether nothing is in it by which a terminal does something else than show it. It ends its own lines.
#[track_caller]
fn is_tame(shown: &str) {
    let shown = shown.replace("\r\n", "\n");
    let wild: Vec<char> = shown.chars().filter(|c| c.is_control() && !matches!(c, '\n' | '\t')).collect();
    assert!(wild.is_empty(), "{wild:?} in {shown:?}");
}

fn sec_08_what_a_worker_says_of_its_failure() {
    let t = Case::new();
    let said = format!("here {ESCAPES}\nnext {ESCAPES}");
    let error = serde_json::json!({"message": {"message": said, "extraInfo": {
        "py_callstack": said, "timestamp": "1", "error_code": 1}}});
    let error = t.write("error.json", error.to_string().as_bytes(), 0o600);
    let script = format!("cp {error} $TORCHELASTIC_ERROR_FILE; exit 3");
    let terminal = terminal();
    let options = ["--max-restarts", "1", "--log-level", "debug", "--event-log-handler", "console"];
    tool(&t, &options).on(&terminal).words(&["--no-python", "sh", "-c", &script]).run().exited(3);
    let shown = terminal.rest();
    assert!(shown.contains("here \\x1b]0;title\\x07\\x1b[2J\\x0d\\u009b31m\\u007f"), "{shown:?}");
    assert!(shown.contains("next \\x1b]0"), "{shown:?}");
    is_tame(&shown);
    // A program is given it as it was said.
    let run = t.host().probe(&["exec", "sh", "-c", &script]).run();
    assert!(run.worker(0)["message"].as_str().unwrap().contains(ESCAPES), "{run}");
}

fn sec_08_names_and_prefixes() {
    let t = Case::new();
    let name = format!("no{ESCAPES}program");
    let show = |options: &[&str], words: &[&str]| {
        let terminal = terminal();
        let ended = tool(&t, options).on(&terminal).words(&["--no-python"]).words(words).run();
        let shown = terminal.rest();
        is_tame(&shown);
        (ended, shown)
    };
    let (ended, shown) = show(&[], &[&name]);
    ended.exited(127);
    assert!(shown.contains("no\\x1b]0;title"), "{shown}");
    let (_, shown) = show(&["--role", &name, "--tee", "3", "--log-dir", &t.path("logs")], &["echo", "said"]);
    assert!(shown.contains("\\x1b[2J\\x0d") && shown.contains("]:said"), "{shown}");
    let (_, shown) = show(&["--log-dir", &t.path(&name), "--redirects", "3"], &["false"]);
    assert!(shown.contains("no\\x1b]0;title"), "{shown}");
    let (_, shown) = show(&["--dry-run"], &["echo", &name, "it's"]);
    assert!(shown.contains("$'no\\x1b]0;title\\x07"), "{shown}");
    show(&["--rdzv-id", &name, "--run-path"], &["true"]);
    show(&[&format!("--{name}")], &["true"]);
    show(&["--nproc-per-node", &name], &["true"]);
}

fn sec_08_messages_of_the_library() {
    let t = Case::new();
    let file = t.write("bad\x1b[31m", b"", 0o600);
    let run = t.host().set("log_dir", format!("{file}/x")).set("redirects", 3).probe(&["exit", "0"]).run();
    for text in ["message", "summary"] {
        let said = run.result()[text].as_str().expect("a text");
        assert!(said.contains("bad\\x1b[31m"), "{said:?}");
        is_tame(said);
    }
}
