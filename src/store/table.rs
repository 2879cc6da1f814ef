//! What a store holds, and what each request does to it: values in, replies out, no I/O.
//!
//! As PyTorch's server (the libuv one) has it, but for what is wrong there: a COMPARE_SET that stores nothing
//! wakes nobody, a wait for a queue sees the items that are there, a wake-up by a push that its client does not
//! use goes to the next one, and MULTI_SET is atomic.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use super::wire::{ALL_PRESENT, CANCELLED, NOT_ALL_PRESENT, Reply, Request, Strings, WAITED};

/// A connection. Numbers are not used again.
pub type Client = u64;

/// What an entry of a map costs beside its bytes, about.
const ENTRY: usize = 128;

/// Why a request cannot be answered: its connection is to be closed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Refusal {
    /// ADD or BARRIER of a value that does not begin with a number of 64 bits.
    NotANumber,
    /// More than the store may hold, or its replies take.
    Memory,
}

/// What requests lead to.
pub struct Answers {
    /// To the client that asked.
    pub replies: Vec<u8>,
    /// How long the replies may get.
    pub room: usize,
    /// Those whose wait is over: each is to be told `WAITED`. May have the client that asked.
    pub woken: Vec<Client>,
}

impl Answers {
    pub fn new(room: usize) -> Answers {
        Answers { replies: Vec::new(), room, woken: Vec::new() }
    }

    fn put(&mut self, reply: Reply<'_>) -> Result<(), Refusal> {
        if let Reply::String(string) = reply
            && self.replies.len() + string.len() > self.room
        {
            return Err(Refusal::Memory);
        }
        reply.put(&mut self.replies);
        Ok(())
    }
}

pub struct Table {
    values: HashMap<Box<[u8]>, Vec<u8>>,
    /// None of them is empty.
    queues: HashMap<Box<[u8]>, VecDeque<Box<[u8]>>>,
    /// Who waits for a key, by the order of the waits.
    waiting: HashMap<Arc<[u8]>, BTreeMap<Ticket, Client>>,
    /// A client has one wait at most.
    waits: HashMap<Client, Wait>,
    next_ticket: Ticket,
    /// Whom the push to a queue has woken, until it pops.
    invited: HashMap<Client, Box<[u8]>>,
    /// What all this takes, about, and may take.
    bytes: usize,
    limit: usize,
}

type Ticket = u64;

struct Wait {
    ticket: Ticket,
    keys: Vec<Arc<[u8]>>,
    /// How many of the keys were not there yet since the wait began. It is over at 0, though a key may have been
    /// deleted meanwhile: "each was there at some time".
    missing: usize,
    bytes: usize,
}

impl Table {
    /// `limit` is how many bytes it may take, about.
    pub fn new(limit: usize) -> Table {
        Table {
            values: HashMap::new(),
            queues: HashMap::new(),
            waiting: HashMap::new(),
            waits: HashMap::new(),
            next_ticket: 0,
            invited: HashMap::new(),
            bytes: 0,
            limit,
        }
    }

    /// Does what a client asks for. After a refusal nothing has changed, but there may be replies.
    pub fn apply(
        &mut self,
        client: Client,
        request: &Request<'_>,
        answers: &mut Answers,
    ) -> Result<(), Refusal> {
        match *request {
            Request::Validate { .. } => Ok(()),
            Request::Ping { nonce } => answers.put(Reply::Nonce(nonce)),
            Request::Set { key, value } => {
                self.make_room(ENTRY + key.len() + value.len())?;
                self.set(key, value.to_vec(), answers);
                Ok(())
            }
            Request::MultiSet { pairs } => {
                let strings = pairs.map(|string| ENTRY + string.len());
                self.make_room(strings.sum())?;
                let mut strings = pairs;
                while let (Some(key), Some(value)) = (strings.next(), strings.next()) {
                    self.set(key, value.to_vec(), answers);
                }
                Ok(())
            }
            Request::CompareSet { key, expected, desired } => {
                let stored = self.values.get(key);
                if stored.map_or(expected.is_empty(), |stored| stored == expected) {
                    self.make_room(ENTRY + key.len() + desired.len())?;
                    self.set(key, desired.to_vec(), answers);
                    answers.put(Reply::String(desired))
                } else {
                    answers.put(Reply::String(stored.map_or(expected, |stored| stored)))
                }
            }
            Request::Get { key } => {
                answers.put(Reply::String(self.values.get(key).map_or(&[], |value| value)))
            }
            Request::MultiGet { mut keys } => {
                keys.try_for_each(|key| answers.put(Reply::String(self.values.get(key).map_or(&[], |v| v))))
            }
            Request::Add { key, delta } => {
                let sum = self.add(key, delta)?;
                self.wake_all(key, answers);
                answers.put(Reply::Number(sum))
            }
            Request::Append { key, value } => {
                self.make_room(ENTRY + key.len() + value.len())?;
                match self.values.get_mut(key) {
                    Some(stored) => {
                        stored.extend_from_slice(value);
                        self.bytes += value.len();
                        self.wake_all(key, answers);
                    }
                    None => self.set(key, value.to_vec(), answers),
                }
                Ok(())
            }
            Request::Delete { key } => {
                let deleted = self.values.remove_entry(key);
                self.bytes -= deleted.as_ref().map_or(0, |(key, value)| ENTRY + key.len() + value.len());
                answers.put(Reply::Number(i64::from(deleted.is_some())))
            }
            Request::CountKeys => answers.put(Reply::Number(self.values.len() as i64)),
            Request::ListKeys => {
                answers.put(Reply::Number(self.values.len() as i64))?;
                self.values.keys().try_for_each(|key| answers.put(Reply::String(key)))
            }
            Request::Check { mut keys } => {
                let all = keys.all(|key| self.has(key));
                answers.put(Reply::Flag(if all { ALL_PRESENT } else { NOT_ALL_PRESENT }))
            }
            Request::Wait { keys } => self.wait(client, keys, answers),
            Request::CancelWait => {
                self.end_wait(client);
                self.pass_on(client, answers);
                answers.put(Reply::Flag(CANCELLED))
            }
            Request::Barrier { key, world_size } => {
                let count = self.add(key, 1)?;
                if count >= world_size {
                    self.wake_all(key, answers);
                    answers.put(Reply::Flag(WAITED))
                } else {
                    self.wait_for(client, std::iter::once(key))
                }
            }
            Request::QueuePush { key, value } => {
                self.make_room(2 * ENTRY + key.len() + value.len())?;
                self.push(key, value, answers);
                Ok(())
            }
            Request::QueuePop { key } => {
                if self.invited.get(&client).is_some_and(|queue| **queue == *key) {
                    self.invited.remove(&client);
                }
                self.pop(key, answers)
            }
            Request::QueueLength { key } => {
                answers.put(Reply::Number(self.queues.get(key).map_or(0, VecDeque::len) as i64))
            }
        }
    }

    /// The number at a key, as ADD would find it; 0 if there is none.
    pub fn number(&self, key: &[u8]) -> i64 {
        self.values.get(key).and_then(|value| leading_number(value)).unwrap_or(0)
    }

    /// The client is gone.
    pub fn forget(&mut self, client: Client, answers: &mut Answers) {
        self.end_wait(client);
        self.pass_on(client, answers);
    }

    /// Forgets all values and queues whose keys do not begin so. Who waits goes on waiting.
    pub fn keep_only(&mut self, prefix: &[u8]) {
        let Table { values, queues, bytes, .. } = self;
        values.retain(|key, value| {
            let stays = key.starts_with(prefix);
            *bytes -= if stays { 0 } else { ENTRY + key.len() + value.len() };
            stays
        });
        queues.retain(|key, queue| {
            let stays = key.starts_with(prefix);
            let items: usize = queue.iter().map(|item| ENTRY + item.len()).sum();
            *bytes -= if stays { 0 } else { ENTRY + key.len() + items };
            stays
        });
    }

    fn make_room(&self, more: usize) -> Result<(), Refusal> {
        if self.bytes.saturating_add(more) > self.limit { Err(Refusal::Memory) } else { Ok(()) }
    }

    /// Whether CHECK and WAIT see a key.
    pub fn has(&self, key: &[u8]) -> bool {
        self.values.contains_key(key) || self.queues.contains_key(key)
    }

    fn set(&mut self, key: &[u8], value: Vec<u8>, answers: &mut Answers) {
        self.store(key, value);
        self.wake_all(key, answers);
    }

    fn store(&mut self, key: &[u8], value: Vec<u8>) {
        self.bytes += value.len();
        match self.values.get_mut(key) {
            Some(stored) => self.bytes -= std::mem::replace(stored, value).len(),
            None => {
                self.bytes += ENTRY + key.len();
                self.values.insert(key.into(), value);
            }
        }
    }

    /// Adds to the number that the value is as text; a key that is not there is 0.
    fn add(&mut self, key: &[u8], delta: i64) -> Result<i64, Refusal> {
        let stored = match self.values.get(key) {
            Some(value) => leading_number(value).ok_or(Refusal::NotANumber)?,
            None => 0,
        };
        let sum = stored.wrapping_add(delta);
        let text = sum.to_string().into_bytes();
        self.make_room(ENTRY + key.len() + text.len())?;
        self.store(key, text);
        Ok(sum)
    }

    fn wait(&mut self, client: Client, keys: Strings<'_>, answers: &mut Answers) -> Result<(), Refusal> {
        let missing: Vec<&[u8]> = keys.filter(|key| !self.has(key)).collect();
        if missing.is_empty() {
            self.end_wait(client);
            return answers.put(Reply::Flag(WAITED));
        }
        self.wait_for(client, missing.into_iter())
    }

    /// The client's wait, in place of the one it had.
    fn wait_for<'k>(
        &mut self,
        client: Client,
        keys: impl Iterator<Item = &'k [u8]> + Clone,
    ) -> Result<(), Refusal> {
        self.end_wait(client);
        let bytes = keys.clone().map(|key| ENTRY + key.len()).sum();
        self.make_room(bytes)?;
        self.bytes += bytes;
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let mut wait = Wait { ticket, keys: Vec::new(), missing: 0, bytes };
        for key in keys {
            let key: Arc<[u8]> = key.into();
            // A key that is named twice is one.
            if self.waiting.entry(key.clone()).or_default().insert(ticket, client).is_none() {
                wait.keys.push(key);
                wait.missing += 1;
            }
        }
        self.waits.insert(client, wait);
        Ok(())
    }

    fn end_wait(&mut self, client: Client) {
        let Some(wait) = self.waits.remove(&client) else { return };
        self.bytes -= wait.bytes;
        for key in wait.keys {
            if let Some(waiters) = self.waiting.get_mut(&key) {
                waiters.remove(&wait.ticket);
                if waiters.is_empty() {
                    self.waiting.remove(&key);
                }
            }
        }
    }

    fn wake_all(&mut self, key: &[u8], answers: &mut Answers) {
        // Most of the time nobody waits for anything.
        if self.waiting.is_empty() {
            return;
        }
        for client in self.waiting.remove(key).unwrap_or_default().into_values() {
            self.one_less(client, answers);
        }
    }

    /// A key that the client waits for is there. True if it was the last one.
    fn one_less(&mut self, client: Client, answers: &mut Answers) -> bool {
        let Some(wait) = self.waits.get_mut(&client) else { return false };
        wait.missing -= 1;
        if wait.missing > 0 {
            return false;
        }
        self.bytes -= wait.bytes;
        self.waits.remove(&client);
        answers.woken.push(client);
        true
    }

    fn push(&mut self, key: &[u8], value: &[u8], answers: &mut Answers) {
        self.bytes += ENTRY + value.len();
        match self.queues.get_mut(key) {
            Some(queue) => queue.push_back(value.into()),
            None => {
                self.bytes += ENTRY + key.len();
                self.queues.insert(key.into(), VecDeque::from([value.into()]));
            }
        }
        self.invite(key, answers);
    }

    fn pop(&mut self, key: &[u8], answers: &mut Answers) -> Result<(), Refusal> {
        let Some(queue) = self.queues.get_mut(key) else { return answers.put(Reply::Number(0)) };
        answers.put(Reply::Number(queue.len() as i64))?;
        let Some(item) = queue.front() else { return Ok(()) };
        answers.put(Reply::String(item))?;
        self.bytes -= ENTRY + item.len();
        queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(key);
            self.bytes -= ENTRY + key.len();
        }
        Ok(())
    }

    /// Wakes the one that has waited longest for this queue, and for nothing else any more.
    fn invite(&mut self, key: &[u8], answers: &mut Answers) {
        while let Some(waiters) = self.waiting.get_mut(key) {
            let first = waiters.pop_first();
            if waiters.is_empty() {
                self.waiting.remove(key);
            }
            let Some((_, client)) = first else { return };
            if self.one_less(client, answers) {
                self.invited.insert(client, key.into());
                return;
            }
        }
    }

    /// A client that was woken by a push gave up, or is gone: the next one may have the item.
    fn pass_on(&mut self, client: Client, answers: &mut Answers) {
        if let Some(key) = self.invited.remove(&client)
            && self.queues.contains_key(&key)
        {
            self.invite(&key, answers);
        }
    }
}

/// The number that a text begins with, as C's strtoll reads it: blanks, a sign, digits, and whatever follows.
fn leading_number(text: &[u8]) -> Option<i64> {
    let blanks = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t'..=b'\r')).count();
    let text = &text[blanks..];
    let signed = usize::from(matches!(text.first(), Some(b'+' | b'-')));
    let digits = text[signed..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&text[..signed + digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::super::wire::{Decoder, Limits, put_string};
    use super::*;
    use proptest::prelude::*;

    const NOBODY: Vec<Client> = Vec::new();
    const NOTHING: Vec<u8> = Vec::new();

    struct Store(Table, Answers);

    impl Store {
        fn new() -> Store {
            Store(Table::new(16 << 20), Answers::new(1 << 20))
        }

        /// The replies, and whose waits are over.
        fn ask(&mut self, client: Client, request: Request<'_>) -> (Vec<u8>, Vec<Client>) {
            self.0.apply(client, &request, &mut self.1).expect("an answer");
            (std::mem::take(&mut self.1.replies), std::mem::take(&mut self.1.woken))
        }

        fn wait(&mut self, client: Client, keys: &[&str]) -> Vec<u8> {
            let keys = list(keys);
            let (replies, woken) = self.ask(client, Request::Wait { keys: Strings::new(&keys) });
            assert_eq!(woken, NOBODY);
            replies
        }

        fn set(&mut self, key: &str, value: &str) -> Vec<Client> {
            self.ask(99, Request::Set { key: key.as_bytes(), value: value.as_bytes() }).1
        }

        fn get(&mut self, key: &str) -> String {
            text(&self.ask(99, Request::Get { key: key.as_bytes() }).0)
        }

        fn add(&mut self, key: &str, delta: i64) -> Result<i64, Refusal> {
            self.0.apply(99, &Request::Add { key: key.as_bytes(), delta }, &mut self.1)?;
            Ok(super::super::wire::number(&std::mem::take(&mut self.1.replies)) as i64)
        }

        fn gone(&mut self, client: Client) -> Vec<Client> {
            self.0.forget(client, &mut self.1);
            std::mem::take(&mut self.1.woken)
        }
    }

    fn list(strings: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        strings.iter().for_each(|string| put_string(string.as_bytes(), &mut out));
        out
    }

    fn text(reply: &[u8]) -> String {
        String::from_utf8(Strings::new(reply).next().expect("a string").to_vec()).unwrap()
    }

    #[test]
    fn store_04_a_number_is_text() {
        let mut store = Store::new();
        assert_eq!([store.add("n", 1), store.add("n", 2), store.add("n", 3)], [Ok(1), Ok(3), Ok(6)]);
        assert_eq!(store.get("n"), "6");
        for (value, number) in [
            ("12abc", Some(12)),
            ("0x10", Some(0)),
            ("1.5", Some(1)),
            (" \x0b\n-7", Some(-7)),
            ("+3", Some(3)),
        ]
        .into_iter()
        .chain([
            ("", None),
            ("abc", None),
            ("-", None),
            ("9223372036854775808", None),
            ("- 1", None),
        ]) {
            store.set("m", value);
            assert_eq!(store.add("m", 0), number.ok_or(Refusal::NotANumber), "{value}");
            if number.is_none() {
                assert_eq!(store.get("m"), value);
            }
        }
        store.set("m", &i64::MAX.to_string());
        assert_eq!(store.add("m", 1), Ok(i64::MIN));
    }

    #[test]
    fn store_05_compare_set() {
        let mut store = Store::new();
        store.wait(1, &["k"]);
        let mut compare_set = |expected: &str, desired: &str| {
            let (expected, desired) = (expected.as_bytes(), desired.as_bytes());
            let (reply, woken) = store.ask(99, Request::CompareSet { key: b"k", expected, desired });
            (text(&reply), woken)
        };
        assert_eq!(compare_set("wrong", "new"), ("wrong".into(), vec![]));
        assert_eq!(compare_set("", "first"), ("first".into(), vec![1]));
        assert_eq!(compare_set("wrong", "new"), ("first".into(), vec![]));
        assert_eq!(compare_set("", "new"), ("first".into(), vec![]));
        assert_eq!(compare_set("first", ""), ("".into(), vec![]));
        assert_eq!(compare_set("", "again"), ("again".into(), vec![]));
    }

    #[test]
    fn a_wait_is_over_when_each_key_was_there() {
        let mut store = Store::new();
        store.set("a", "");
        assert_eq!(store.wait(1, &["a"]), [WAITED]);
        assert_eq!(store.wait(1, &[]), [WAITED]);
        assert_eq!(store.wait(1, &["a", "x", "y", "x"]), NOTHING);
        assert_eq!(store.set("x", "1"), NOBODY);
        assert_eq!(store.ask(2, Request::Delete { key: b"x" }).0[0], 1);
        assert_eq!(store.set("x", "1"), NOBODY);
        assert_eq!(store.set("y", "1"), [1]);
        assert_eq!(store.set("y", "1"), NOBODY);
        // A later wait takes the place of the one before; a cancelled one is never answered.
        assert_eq!(store.wait(1, &["p"]), NOTHING);
        assert_eq!(store.wait(1, &["q"]), NOTHING);
        assert_eq!(store.set("p", ""), NOBODY);
        assert_eq!(store.ask(1, Request::CancelWait).0, [CANCELLED]);
        assert_eq!(store.set("q", ""), NOBODY);
        assert_eq!(store.ask(1, Request::CancelWait).0, [CANCELLED]);
    }

    #[test]
    fn everything_that_stores_wakes() {
        let pairs = list(&["x", "1"]);
        let requests = [
            Request::Set { key: b"x", value: b"" },
            Request::Add { key: b"x", delta: 0 },
            Request::Append { key: b"x", value: b"" },
            Request::CompareSet { key: b"x", expected: b"", desired: b"" },
            Request::MultiSet { pairs: Strings::new(&pairs) },
            Request::Barrier { key: b"x", world_size: 1 },
            Request::QueuePush { key: b"x", value: b"" },
        ];
        for request in requests {
            let mut store = Store::new();
            store.wait(1, &["x"]);
            assert_eq!(store.ask(2, request).1, [1], "{request:?}");
            assert!(store.0.waits.is_empty() && store.0.waiting.is_empty());
        }
    }

    #[test]
    fn a_barrier_lets_all_go_when_the_last_one_comes() {
        let mut store = Store::new();
        let mut come = |client| store.ask(client, Request::Barrier { key: b"b", world_size: 3 });
        assert_eq!(come(1), (vec![], vec![]));
        assert_eq!(come(2), (vec![], vec![]));
        assert_eq!(come(3), (vec![WAITED], vec![1, 2]));
        assert_eq!(come(4), (vec![WAITED], vec![]));
        assert_eq!(store.get("b"), "4");
    }

    #[test]
    fn queues_are_first_in_first_out_and_apart_from_values() {
        let mut store = Store::new();
        for value in ["1", "", "three"] {
            store.ask(1, Request::QueuePush { key: b"q", value: value.as_bytes() });
        }
        assert_eq!(store.ask(1, Request::QueueLength { key: b"q" }).0[0], 3);
        assert_eq!(store.ask(1, Request::CountKeys).0[0], 0);
        assert_eq!(store.wait(2, &["q"]), [WAITED]);
        for (left, value) in [(3, "1"), (2, ""), (1, "three")] {
            let reply = store.ask(1, Request::QueuePop { key: b"q" }).0;
            assert_eq!((reply[0], text(&reply[8..])), (left, value.into()));
        }
        assert_eq!(store.ask(1, Request::QueuePop { key: b"q" }).0, [0; 8]);
        assert_eq!(store.wait(2, &["q"]), NOTHING);
        assert_eq!(store.gone(2), NOBODY);
        assert_eq!(store.0.bytes, 0);
    }

    #[test]
    fn a_push_wakes_one_that_will_pop() {
        let mut store = Store::new();
        store.wait(1, &["q", "never"]);
        for client in 2..6 {
            store.wait(client, &["q"]);
        }
        // The first in line waits for something else too.
        assert_eq!(store.ask(9, Request::QueuePush { key: b"q", value: b"a" }).1, [2]);
        // Killed, or given up, before it pops: the item is for the next one.
        assert_eq!(store.gone(2), [3]);
        assert_eq!(store.ask(3, Request::CancelWait), (vec![CANCELLED], vec![4]));
        assert_eq!(store.ask(4, Request::QueuePop { key: b"q" }).0[0], 1);
        assert_eq!(store.gone(4), NOBODY);
        // One that has popped waits for something else: no further push concerns it.
        store.wait(4, &["x"]);
        assert_eq!(store.ask(9, Request::QueuePush { key: b"q", value: b"b" }).1, [5]);
        assert_eq!(store.ask(9, Request::QueuePush { key: b"q", value: b"c" }).1, NOBODY);
    }

    #[test]
    fn store_08_nothing_is_left_of_clients_that_are_gone() {
        let mut store = Store::new();
        store.set("there", "");
        let before = store.0.bytes;
        for client in 0..10_000 {
            store.wait(client, &["there", "a", "b"]);
        }
        for client in (0..10_000).rev() {
            assert_eq!(store.gone(client), NOBODY);
        }
        assert_eq!(store.0.bytes, before);
        assert!(store.0.waits.is_empty() && store.0.waiting.is_empty());
    }

    #[test]
    fn memory_has_a_limit() {
        let mut store = Store(Table::new(1000), Answers::new(100));
        let big = [0; 1000];
        let refused = |store: &mut Store, request| store.0.apply(1, &request, &mut store.1);
        let pairs = list(&["a", "1", "b", std::str::from_utf8(&big).unwrap()]);
        let keys = list(&["x", "y", "z", "1", "2", "3", "4", "5"]);
        for request in [
            Request::Set { key: b"a", value: &big },
            Request::Append { key: b"a", value: &big },
            Request::CompareSet { key: b"a", expected: b"", desired: &big },
            Request::QueuePush { key: b"a", value: &big },
            Request::MultiSet { pairs: Strings::new(&pairs) },
            Request::Wait { keys: Strings::new(&keys) },
        ] {
            assert_eq!(refused(&mut store, request), Err(Refusal::Memory), "{request:?}");
        }
        assert_eq!(store.0.bytes, 0);
        // What is there may be more than one reply may have.
        store.ask(1, Request::Set { key: b"a", value: &big[..60] });
        let keys = list(&["a", "a"]);
        assert_eq!(
            refused(&mut store, Request::MultiGet { keys: Strings::new(&keys) }),
            Err(Refusal::Memory)
        );
        store.1.replies.clear();
        store.ask(1, Request::Delete { key: b"a" });
        assert_eq!(store.0.bytes, 0);
    }

    prop_compose! {
        /// Any request, of few clients and keys, so that they meet.
        fn any_request()(
            client in 0..4u64,
            opcode in 1..19u8,
            keys in prop::collection::vec(0..3u8, 1..4),
            value in prop::sample::select(vec!["", "7", "-3", "text"]),
            number in 0..4i64,
        ) -> (Client, Vec<u8>) {
            let keys: Vec<String> = keys.iter().map(|key| format!("key {key}")).collect();
            let key = keys[0].as_bytes();
            let (mut list, mut pairs, mut out) = (Vec::new(), Vec::new(), Vec::new());
            for key in &keys {
                put_string(key.as_bytes(), &mut list);
                [key.as_bytes(), value.as_bytes()].iter().for_each(|string| put_string(string, &mut pairs));
            }
            let (keys, value) = (Strings::new(&list), value.as_bytes());
            match opcode {
                1 => Request::Set { key, value },
                2 => Request::CompareSet { key, expected: value, desired: b"new" },
                3 => Request::Get { key },
                4 => Request::Add { key, delta: number },
                5 => Request::Check { keys },
                6 | 7 => Request::Wait { keys },
                8 => Request::Delete { key },
                9 => Request::Append { key, value },
                10 => Request::MultiGet { keys },
                11 => Request::MultiSet { pairs: Strings::new(&pairs) },
                12 => Request::CancelWait,
                13 | 14 => Request::QueuePush { key, value },
                15 | 16 => Request::QueuePop { key },
                17 => Request::ListKeys,
                _ => Request::Barrier { key, world_size: number },
            }
            .put(&mut out);
            (client, out)
        }
    }

    proptest! {
        #[test]
        fn what_it_holds_is_what_it_counts(requests in prop::collection::vec(any_request(), 1..60)) {
            let mut store = Store::new();
            let mut decoder = Decoder::new(Limits::default());
            decoder.next(&[0, 0xce, 0xf7, 0x85, 0x3c]).unwrap();
            for (client, bytes) in &requests {
                let (request, _) = decoder.next(bytes).unwrap().expect("a whole request");
                let waited = store.0.waits.contains_key(client);
                let _ = store.0.apply(*client, &request, &mut store.1);
                // Nobody is told twice, or without a wait.
                let mut woken = std::mem::take(&mut store.1.woken);
                woken.sort();
                prop_assert!(woken.windows(2).all(|two| two[0] != two[1]), "{:?}", woken);
                prop_assert!(woken.iter().all(|told| !store.0.waits.contains_key(told)));
                prop_assert!(!woken.contains(client) || waited);
                // Who waits is in the line of each key that is missing, and in no other.
                let Table { values, queues, waiting, waits, bytes, .. } = &store.0;
                let in_line: usize = waiting.values().map(BTreeMap::len).sum();
                prop_assert_eq!(in_line, waits.values().map(|wait| wait.missing).sum::<usize>());
                let held = values.iter().map(|(key, value)| ENTRY + key.len() + value.len()).sum::<usize>()
                    + queues.iter().map(|(key, items)| {
                        ENTRY + key.len() + items.iter().map(|item| ENTRY + item.len()).sum::<usize>()
                    }).sum::<usize>()
                    + waits.values().map(|wait| wait.bytes).sum::<usize>();
                prop_assert_eq!(*bytes, held);
            }
            (0..4).for_each(|client| store.0.forget(client, &mut store.1));
            prop_assert!(store.0.waits.is_empty() && store.0.waiting.is_empty() && store.0.invited.is_empty());
        }
    }
}
