//! etcd's v3 API as its gateway has it: JSON, with bytes in base64 and long numbers as text. Pure values.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::rendezvous::backend::{Stored, Swap};

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
pub fn found(answer: &Value) -> Option<Stored> {
    let pair = answer["kvs"].get(0)?;
    let token = number(&pair["mod_revision"]).to_string().into_bytes();
    Some(Stored { value: bytes(&pair["value"]), token })
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

    /// It is a matter of who asks.
    pub fn is_about_users(&self) -> bool {
        self.code == 7 || self.message.contains("user")
    }

    /// It is not etcd that says so, but its gateway, which is a client of it (14: the connection fails).
    pub fn is_of_the_gateway(&self) -> bool {
        self.code == 14 && !self.message.starts_with("etcdserver: ")
    }

    /// Whether the same request will be refused again: it cannot be done (3, 12), or not by this user (7).
    pub fn is_lasting(&self) -> bool {
        // Users were changed in the meantime.
        let is_old = self.message.contains("revision of auth store is old");
        matches!(self.code, 3 | 7 | 12) && !is_old
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_as_text_and_zero_not_at_all() {
        for (value, wanted) in [(json!("12"), 12), (json!(-1), -1), (Value::Null, 0), (json!({}), 0)] {
            assert_eq!(number(&value), wanted);
        }
        assert_eq!(revision(&json!({ "header": { "revision": "7" } })), 7);
    }

    #[test]
    fn etcd_02_what_is_there_comes_with_its_revision() {
        let pair = json!({ "key": "aw==", "value": "dg==", "mod_revision": "8" });
        let known = Some(Stored { value: b"v".to_vec(), token: b"8".to_vec() });
        assert_eq!(found(&json!({ "kvs": [pair] })), known);
        assert_eq!(found(&json!({ "header": {} })), None);
        assert_eq!(swapped(&json!({ "succeeded": true })), Swap::Done);
        let refused = json!({ "responses": [{ "response_range": { "kvs": [pair] } }] });
        assert_eq!(swapped(&refused), Swap::Refused(known));
        assert_eq!(swapped(&json!({ "responses": [{ "response_range": {} }] })), Swap::Refused(None));
    }

    #[test]
    fn a_watch_is_of_what_begins_with_its_prefix() {
        let request = &watch("state/", 3)["create_request"];
        assert_eq!(request["range_end"], base64(b"state0"));
        let put = json!({ "result": { "events": [{ "kv": { "key": base64(b"state/1") } }] } });
        assert_eq!(told(&put), Told::Put(vec![b"state/1".to_vec()]));
        assert_eq!(told(&json!({ "result": { "created": true } })), Told::Put(Vec::new()));
        let over = json!({ "result": { "canceled": true, "cancel_reason": "compacted" } });
        assert_eq!(told(&over), Told::Over("compacted".into()));
        assert_eq!(told(&json!({ "error": { "message": "x" } })), Told::Over("x".into()));
    }

    #[test]
    fn what_cannot_be_is_told_from_what_may_pass() {
        let refused = |code: i64, message: &str| {
            Refused::parse(json!({ "error": message, "code": code }).to_string().as_bytes()).unwrap()
        };
        assert!(refused(3, "etcdserver: authentication failed, invalid user ID or password").is_lasting());
        assert!(refused(7, "etcdserver: permission denied").is_lasting());
        assert!(refused(3, "etcdserver: user name is empty").is_about_users());
        assert!(!refused(3, "etcdserver: request is too large").is_about_users());
        assert!(!refused(3, "etcdserver: revision of auth store is old").is_lasting());
        for (code, message) in [(14, "etcdserver: no leader"), (5, "etcdserver: requested lease not found")] {
            let refused = refused(code, message);
            assert!(!refused.is_lasting() && !refused.is_of_the_gateway(), "{message}");
        }
        for body in ["", "<html>", "{}", "{\"error\":\"no such page\",\"code\":404}"] {
            assert_eq!(Refused::parse(body.as_bytes()), None, "{body}");
        }
    }
}
