//! etcd's v3 API as its gateway has it: JSON, with bytes in base64 and long numbers as text. Pure values.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use super::super::backend::{Found, Swap};

pub fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

pub fn range(key: &str) -> Value {
    json!({ "key": base64(key.as_bytes()) })
}

pub fn put(key: &str, value: &[u8], lease: i64) -> Value {
    json!({ "key": base64(key.as_bytes()), "value": base64(value), "lease": lease.to_string() })
}

/// Puts if the key was last changed in `revision`, or, if that is 0, does not exist; else says what is there.
pub fn swap(key: &str, revision: i64, value: &[u8], lease: i64) -> Value {
    let expected = json!({
        "key": base64(key.as_bytes()), "target": "MOD", "result": "EQUAL", "mod_revision": revision.to_string()
    });
    json!({
        "compare": [expected],
        "success": [{ "request_put": put(key, value, lease) }],
        "failure": [{ "request_range": range(key) }],
    })
}

/// Tells of all keys below `prefix` that are put from `revision` on.
pub fn watch(prefix: &str, revision: i64) -> Value {
    // The first key behind all that begin with the prefix: it ends with a slash, which is not the last of bytes.
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    json!({ "create_request": {
        "key": base64(prefix.as_bytes()), "range_end": base64(&end),
        "start_revision": revision.to_string(), "filters": ["NODELETE"],
    }})
}

/// A number: as text, or left out where it is 0.
pub fn number(value: &Value) -> i64 {
    value.as_i64().or_else(|| value.as_str()?.parse().ok()).unwrap_or(0)
}

fn bytes(value: &Value) -> Vec<u8> {
    value.as_str().and_then(|text| BASE64_STANDARD.decode(text).ok()).unwrap_or_default()
}

/// The revision of the whole store that an answer is of.
pub fn revision(answer: &Value) -> i64 {
    number(&answer["header"]["revision"])
}

/// What a `range` has found. Its token is the revision in which the key was last changed.
pub fn found(answer: &Value) -> Option<Found> {
    let pair = answer["kvs"].get(0)?;
    let token = number(&pair["mod_revision"]).to_string().into_bytes();
    Some(Found { value: bytes(&pair["value"]), token })
}

pub fn swapped(answer: &Value) -> Swap {
    match answer["succeeded"] == true {
        true => Swap::Done,
        false => Swap::Refused(found(&answer["responses"][0]["response_range"])),
    }
}

/// What a line of a watch tells.
#[derive(Debug, PartialEq)]
pub enum Told {
    /// These keys were put.
    Put(Vec<Vec<u8>>),
    /// It ends, for this reason.
    Over(String),
}

pub fn told(line: &Value) -> Told {
    let (error, result) = (&line["error"], &line["result"]);
    if !error.is_null() {
        return Told::Over(error["message"].as_str().map_or(error.to_string(), str::to_string));
    }
    if result["canceled"] == true {
        return Told::Over(result["cancel_reason"].as_str().unwrap_or("it was canceled").into());
    }
    let events = result["events"].as_array().map_or(&[][..], Vec::as_slice);
    Told::Put(events.iter().map(|event| bytes(&event["kv"]["key"])).collect())
}

/// Why etcd has not done something.
#[derive(Debug, PartialEq)]
pub struct Refused {
    /// Of gRPC.
    code: i64,
    pub message: String,
}

impl Refused {
    pub fn parse(body: &[u8]) -> Option<Refused> {
        let body: Value = serde_json::from_slice(body).ok()?;
        let message = body["message"].as_str().or(body["error"].as_str())?.to_string();
        let code = number(&body["code"]);
        (0..=16).contains(&code).then_some(Refused { code, message })
    }

    /// Nobody has to say who he is.
    pub fn is_open_to_all(&self) -> bool {
        self.message.contains("authentication is not enabled")
    }

    /// Whether the same request will be refused again: it cannot be done (3, 12), or not by this user (7).
    pub fn is_lasting(&self) -> bool {
        // Users were changed in the meantime.
        let is_old = self.message.contains("revision of auth store is old");
        matches!(self.code, 3 | 7 | 12) && !is_old
    }
}
