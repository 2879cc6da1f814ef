//! torch's error files: `{"message": {"message": .., "extraInfo": {"py_callstack": .., "timestamp": ".."}}}`,
//! or the short form `{"message": "..", "timestamp": ..}`. Whatever else is in one is data, not an error.

use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::Error;
use crate::sys::file::{self, Unusable};
use crate::sys::process::since_1970;

/// What is kept of a file that somebody made huge.
pub const LARGEST: usize = 1 << 20;

/// What an error file says.
#[derive(Debug, Default, PartialEq)]
pub struct Contents {
    pub message: String,
    pub call_stack: String,
    pub timestamp: i64,
    pub raw: Vec<u8>,
}

/// Reads a worker's error file; none if it wrote none. A link that it has left there may lead to what is not its own.
pub fn read(path: &Path) -> Result<Option<Contents>, Unusable> {
    match file::read(path, libc::O_NOFOLLOW, LARGEST) {
        Ok(raw) => Ok(Some(parse(raw))),
        Err(unusable) if unusable.is_missing() => Ok(None),
        Err(unusable) => Err(unusable),
    }
}

pub fn parse(raw: Vec<u8>) -> Contents {
    let Ok(json) = serde_json::from_slice::<Value>(&raw) else {
        return Contents { message: not_json(&raw), raw, ..Contents::default() };
    };
    let text = |value: Option<&Value>| match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    let number = |value: Option<&Value>| match value {
        Some(Value::Number(number)) => {
            number.as_i64().or_else(|| number.as_f64().map(|n| n as i64)).unwrap_or(0)
        }
        Some(Value::String(text)) => text.trim().parse::<f64>().map_or(0, |n| n as i64),
        _ => 0,
    };
    let (message, call_stack, timestamp) = match json.get("message") {
        Some(long @ Value::Object(_)) => {
            let extra = long.get("extraInfo");
            let field = |name| extra.and_then(|extra| extra.get(name));
            (text(long.get("message")), text(field("py_callstack")), number(field("timestamp")))
        }
        short @ Some(_) => (text(short), String::new(), number(json.get("timestamp"))),
        None => (text(Some(&json)), String::new(), 0),
    };
    Contents { message, call_stack, timestamp, raw }
}

fn not_json(raw: &[u8]) -> String {
    const SHOWN: usize = 200;
    let start = String::from_utf8_lossy(&raw[..raw.len().min(SHOWN)]).into_owned();
    format!("the error file is not JSON (cut off?): {start}")
}

/// Writes the calling worker's error file: whole, or not at all.
pub fn record(message: &[u8], call_stack: &[u8]) -> Result<(), Error> {
    let path = std::env::var_os("TORCHELASTIC_ERROR_FILE").filter(|path| !path.is_empty()).map(PathBuf::from).ok_or(
        Error::State { what: "TORCHELASTIC_ERROR_FILE is not set: this process is no worker, or its agent keeps no files" },
    )?;
    let contents = json!({ "message": {
        "message": String::from_utf8_lossy(message),
        "extraInfo": {
            "py_callstack": String::from_utf8_lossy(call_stack),
            "timestamp": since_1970().as_secs().to_string(),
        },
    }});
    write_whole(&path, contents.to_string().as_bytes())
        .map_err(|unusable| unusable.into_error(path.to_string_lossy()))
}

/// Hands the root cause on to the agent's own parent, as torchrun does: its contents with the exit code.
pub fn hand_on(contents: &Contents, exit_code: i32, to: &Path) -> Result<(), Unusable> {
    let with_code = match serde_json::from_slice::<Value>(&contents.raw) {
        Ok(Value::Object(mut json)) => {
            if !matches!(json.get("message"), Some(Value::Object(_))) {
                let message = json.remove("message").unwrap_or(Value::Null);
                let timestamp = json.remove("timestamp").unwrap_or(Value::Null);
                json.insert(
                    "message".into(),
                    json!({ "message": message, "extraInfo": { "timestamp": timestamp } }),
                );
            }
            json["message"]["errorCode"] = exit_code.into();
            Value::Object(json).to_string()
        }
        _ => json!({ "message": { "message": contents.message, "errorCode": exit_code } }).to_string(),
    };
    write_whole(to, with_code.as_bytes())
}

/// Under another name first, so that no reader sees half a file. Only in the place of a regular file, or of none:
/// what a link leads to is replaced and not the link, which may be /dev/stderr.
fn write_whole(path: &Path, contents: &[u8]) -> Result<(), Unusable> {
    let path = &path.canonicalize().unwrap_or_else(|_| path.into());
    file::refuse_others(path)?;
    let mut name = path.file_name().unwrap_or_default().as_bytes().to_vec();
    name.extend(format!(".{}", std::process::id()).bytes());
    let partial = path.with_file_name(std::ffi::OsStr::from_bytes(&name));
    // What is in its place is of a process that had this number, and died in between.
    let _ = std::fs::remove_file(&partial);
    let written = std::fs::File::create_new(&partial)
        .and_then(|mut file| file.write_all(contents))
        .and_then(|()| std::fs::rename(&partial, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    Ok(written?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> (String, String, i64) {
        let contents = parse(text.as_bytes().to_vec());
        (contents.message, contents.call_stack, contents.timestamp)
    }

    #[test]
    fn err_04_both_forms_are_read() {
        let long = r#"{"message":{"message":"ValueError: boom","extraInfo":{"py_callstack":"Trace","timestamp":"1795330459"}}}"#;
        assert_eq!(parsed(long), ("ValueError: boom".into(), "Trace".into(), 1795330459));
        assert_eq!(parsed(r#"{"message":"short","timestamp":12}"#), ("short".into(), "".into(), 12));
        assert_eq!(parsed(r#"{"message":"short","timestamp":"12.9"}"#), ("short".into(), "".into(), 12));
    }

    #[test]
    fn err_04_whatever_it_holds_is_data() {
        assert!(parsed(r#"{"message": {"mess"#).0.contains("not JSON"));
        assert!(parsed("").0.contains("not JSON"));
        assert_eq!(parsed("[1]").0, "[1]");
        assert_eq!(parsed(r#"{"message":7}"#).0, "7");
        assert_eq!(parsed(r#"{"message":{"message":null,"extraInfo":3}}"#), ("".into(), "".into(), 0));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let contents = parse(bytes.clone());
            prop_assert_eq!(contents.raw, bytes);
        }
    }
}
