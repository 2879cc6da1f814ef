//! The wire format: requests and replies as bytes.
//!
//! Integers are little-endian, a string is its length (u64) and its bytes. A request is an opcode and its
//! fields, without a frame around it; a reply has neither opcode nor number. Nothing is copied here: a decoded
//! request borrows from the buffer that it was found in.

use std::fmt;

/// The field of VALIDATE, which every connection begins with.
pub const MAGIC: u32 = 0x3C85_F7CE;

/// The answer to WAIT and BARRIER, and the one to CANCEL_WAIT.
pub const WAITED: u8 = 0;
pub const CANCELLED: u8 = 1;
/// The answers to CHECK.
pub const ALL_PRESENT: u8 = 0;
pub const NOT_ALL_PRESENT: u8 = 1;

/// What a request asks for: its first byte.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(u8)]
pub enum Opcode {
    Validate = 0,
    Set = 1,
    CompareSet = 2,
    Get = 3,
    Add = 4,
    Check = 5,
    Wait = 6,
    CountKeys = 7,
    Delete = 8,
    Append = 9,
    MultiGet = 10,
    MultiSet = 11,
    CancelWait = 12,
    Ping = 13,
    QueuePush = 14,
    QueuePop = 15,
    QueueLength = 16,
    ListKeys = 17,
    Barrier = 18,
}

impl Opcode {
    /// By their numbers.
    pub const ALL: [Opcode; 19] = [
        Opcode::Validate,
        Opcode::Set,
        Opcode::CompareSet,
        Opcode::Get,
        Opcode::Add,
        Opcode::Check,
        Opcode::Wait,
        Opcode::CountKeys,
        Opcode::Delete,
        Opcode::Append,
        Opcode::MultiGet,
        Opcode::MultiSet,
        Opcode::CancelWait,
        Opcode::Ping,
        Opcode::QueuePush,
        Opcode::QueuePop,
        Opcode::QueueLength,
        Opcode::ListKeys,
        Opcode::Barrier,
    ];

    fn of(byte: u8) -> Result<Opcode, Malformed> {
        Opcode::ALL.get(usize::from(byte)).copied().ok_or(Malformed::UnknownOpcode(byte))
    }
}

/// How long the parts of a request may be. The defaults are those of PyTorch's server.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    pub key_bytes: usize,
    pub value_bytes: usize,
    pub keys_in_a_list: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { key_bytes: 8192, value_bytes: 8 << 20, keys_in_a_list: 131_072 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Request<'a> {
    Validate {
        magic: u32,
    },
    Set {
        key: &'a [u8],
        value: &'a [u8],
    },
    CompareSet {
        key: &'a [u8],
        expected: &'a [u8],
        desired: &'a [u8],
    },
    Get {
        key: &'a [u8],
    },
    Add {
        key: &'a [u8],
        delta: i64,
    },
    Check {
        keys: Strings<'a>,
    },
    Wait {
        keys: Strings<'a>,
    },
    CountKeys,
    Delete {
        key: &'a [u8],
    },
    Append {
        key: &'a [u8],
        value: &'a [u8],
    },
    MultiGet {
        keys: Strings<'a>,
    },
    /// Key, value, key, value.
    MultiSet {
        pairs: Strings<'a>,
    },
    CancelWait,
    Ping {
        nonce: u32,
    },
    QueuePush {
        key: &'a [u8],
        value: &'a [u8],
    },
    QueuePop {
        key: &'a [u8],
    },
    QueueLength {
        key: &'a [u8],
    },
    ListKeys,
    Barrier {
        key: &'a [u8],
        world_size: i64,
    },
}

/// Strings as they are on the wire, one after the other.
#[derive(Clone, Copy, PartialEq)]
pub struct Strings<'a> {
    bytes: &'a [u8],
}

impl<'a> Strings<'a> {
    /// Of bytes that `put_string` has made.
    pub fn new(bytes: &'a [u8]) -> Strings<'a> {
        Strings { bytes }
    }
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.bytes.split_at_checked(8)?;
        let (string, rest) = rest.split_at_checked(number(length) as usize)?;
        self.bytes = rest;
        Some(string)
    }
}

impl fmt::Debug for Strings<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_list().entries(*self).finish()
    }
}

/// What a request cannot be. The connection it came from is out of step for good.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Malformed {
    UnknownOpcode(u8),
    /// The first request is not VALIDATE, with the right magic, or a further one is.
    Validate,
    KeyTooLong(u64),
    ValueTooLong(u64),
    TooManyKeys(u64),
}

/// What a string is, by which its length is limited.
#[derive(Clone, Copy)]
enum Kind {
    Key,
    Value,
}

/// The fields of a request: strings, or a list of such groups with a count before it, and a number.
struct Layout {
    list: bool,
    strings: &'static [Kind],
    number_bytes: usize,
}

fn layout(opcode: Opcode) -> Layout {
    use Kind::{Key, Value};
    use Opcode::*;
    let (list, strings, number_bytes): (bool, &[Kind], usize) = match opcode {
        Validate | Ping => (false, &[], 4),
        Set | Append | QueuePush => (false, &[Key, Value], 0),
        CompareSet => (false, &[Key, Value, Value], 0),
        Get | Delete | QueuePop | QueueLength => (false, &[Key], 0),
        Add | Barrier => (false, &[Key], 8),
        Check | Wait | MultiGet => (true, &[Key], 0),
        MultiSet => (true, &[Key, Value], 0),
        CountKeys | CancelWait | ListKeys => (false, &[], 0),
    };
    Layout { list, strings, number_bytes }
}

/// Finds the requests of one connection in its bytes. It remembers how far the unfinished request was looked
/// through: no byte is looked at again because more have come.
#[derive(Debug)]
pub struct Decoder {
    limits: Limits,
    validated: bool,
    /// Up to here the unfinished request has been looked through; 0 before its opcode.
    at: usize,
    strings_done: usize,
    /// None until the count of a list is known.
    strings_wanted: Option<usize>,
}

impl Decoder {
    pub fn new(limits: Limits) -> Decoder {
        Decoder { limits, validated: false, at: 0, strings_done: 0, strings_wanted: None }
    }

    /// Whether the connection has begun as it must.
    pub fn is_validated(&self) -> bool {
        self.validated
    }

    /// The request that `bytes` begin with, and its length; none while its end is not there. They are then to be
    /// given again with more behind them.
    pub fn next<'a>(&mut self, bytes: &'a [u8]) -> Result<Option<(Request<'a>, usize)>, Malformed> {
        let Some(&first) = bytes.first() else { return Ok(None) };
        let opcode = Opcode::of(first)?;
        let layout = layout(opcode);
        if (opcode == Opcode::Validate) == self.validated {
            return Err(Malformed::Validate);
        }
        let Some(length) = self.find_end(&layout, bytes)? else { return Ok(None) };
        let request = read(opcode, &layout, &bytes[..length]);
        if let Request::Validate { magic } = request {
            if magic != MAGIC {
                return Err(Malformed::Validate);
            }
            self.validated = true;
        }
        (self.at, self.strings_done, self.strings_wanted) = (0, 0, None);
        Ok(Some((request, length)))
    }

    fn find_end(&mut self, layout: &Layout, bytes: &[u8]) -> Result<Option<usize>, Malformed> {
        if self.at == 0 {
            self.at = 1;
            self.strings_wanted = (!layout.list).then_some(layout.strings.len());
        }
        let wanted = match self.strings_wanted {
            Some(wanted) => wanted,
            None => {
                let Some(count) = bytes.get(self.at..self.at + 8).map(number) else { return Ok(None) };
                if count > self.limits.keys_in_a_list as u64 {
                    return Err(Malformed::TooManyKeys(count));
                }
                self.at += 8;
                *self.strings_wanted.insert(count as usize * layout.strings.len())
            }
        };
        while self.strings_done < wanted {
            let Some(length) = bytes.get(self.at..self.at + 8).map(number) else { return Ok(None) };
            // Before the data: what is too long is not waited for.
            match layout.strings[self.strings_done % layout.strings.len()] {
                Kind::Key if length > self.limits.key_bytes as u64 => {
                    return Err(Malformed::KeyTooLong(length));
                }
                Kind::Value if length > self.limits.value_bytes as u64 => {
                    return Err(Malformed::ValueTooLong(length));
                }
                Kind::Key | Kind::Value => {}
            }
            let end = self.at + 8 + length as usize;
            if end > bytes.len() {
                return Ok(None);
            }
            (self.at, self.strings_done) = (end, self.strings_done + 1);
        }
        let end = self.at + layout.number_bytes;
        Ok((end <= bytes.len()).then_some(end))
    }
}

/// Reads a request that is whole.
fn read<'a>(opcode: Opcode, layout: &Layout, bytes: &'a [u8]) -> Request<'a> {
    let (fields, last) = bytes[1..].split_at(bytes.len() - 1 - layout.number_bytes);
    let list = Strings::new(fields.get(8..).unwrap_or_default());
    let mut strings = Strings::new(fields);
    let mut string = || strings.next().unwrap_or_default();
    match opcode {
        Opcode::Validate => Request::Validate { magic: number(last) as u32 },
        Opcode::Set => Request::Set { key: string(), value: string() },
        Opcode::CompareSet => Request::CompareSet { key: string(), expected: string(), desired: string() },
        Opcode::Get => Request::Get { key: string() },
        Opcode::Add => Request::Add { key: string(), delta: number(last) as i64 },
        Opcode::Check => Request::Check { keys: list },
        Opcode::Wait => Request::Wait { keys: list },
        Opcode::CountKeys => Request::CountKeys,
        Opcode::Delete => Request::Delete { key: string() },
        Opcode::Append => Request::Append { key: string(), value: string() },
        Opcode::MultiGet => Request::MultiGet { keys: list },
        Opcode::MultiSet => Request::MultiSet { pairs: list },
        Opcode::CancelWait => Request::CancelWait,
        Opcode::Ping => Request::Ping { nonce: number(last) as u32 },
        Opcode::QueuePush => Request::QueuePush { key: string(), value: string() },
        Opcode::QueuePop => Request::QueuePop { key: string() },
        Opcode::QueueLength => Request::QueueLength { key: string() },
        Opcode::ListKeys => Request::ListKeys,
        Opcode::Barrier => Request::Barrier { key: string(), world_size: number(last) as i64 },
    }
}

impl Request<'_> {
    pub fn opcode(&self) -> Opcode {
        match self {
            Request::Validate { .. } => Opcode::Validate,
            Request::Set { .. } => Opcode::Set,
            Request::CompareSet { .. } => Opcode::CompareSet,
            Request::Get { .. } => Opcode::Get,
            Request::Add { .. } => Opcode::Add,
            Request::Check { .. } => Opcode::Check,
            Request::Wait { .. } => Opcode::Wait,
            Request::CountKeys => Opcode::CountKeys,
            Request::Delete { .. } => Opcode::Delete,
            Request::Append { .. } => Opcode::Append,
            Request::MultiGet { .. } => Opcode::MultiGet,
            Request::MultiSet { .. } => Opcode::MultiSet,
            Request::CancelWait => Opcode::CancelWait,
            Request::Ping { .. } => Opcode::Ping,
            Request::QueuePush { .. } => Opcode::QueuePush,
            Request::QueuePop { .. } => Opcode::QueuePop,
            Request::QueueLength { .. } => Opcode::QueueLength,
            Request::ListKeys => Opcode::ListKeys,
            Request::Barrier { .. } => Opcode::Barrier,
        }
    }

    pub fn put(&self, out: &mut Vec<u8>) {
        fn strings(strings: &[&[u8]], out: &mut Vec<u8>) {
            strings.iter().for_each(|string| put_string(string, out));
        }
        fn list(strings: Strings<'_>, group: usize, out: &mut Vec<u8>) {
            put_u64((strings.count() / group) as u64, out);
            out.extend_from_slice(strings.bytes);
        }
        out.push(self.opcode() as u8);
        match *self {
            Request::Validate { magic: number } | Request::Ping { nonce: number } => put_u32(number, out),
            Request::Set { key, value }
            | Request::Append { key, value }
            | Request::QueuePush { key, value } => strings(&[key, value], out),
            Request::CompareSet { key, expected, desired } => strings(&[key, expected, desired], out),
            Request::Get { key }
            | Request::Delete { key }
            | Request::QueuePop { key }
            | Request::QueueLength { key } => strings(&[key], out),
            Request::Add { key, delta: number } | Request::Barrier { key, world_size: number } => {
                strings(&[key], out);
                put_u64(number as u64, out);
            }
            Request::Check { keys } | Request::Wait { keys } | Request::MultiGet { keys } => {
                list(keys, 1, out)
            }
            Request::MultiSet { pairs } => list(pairs, 2, out),
            Request::CountKeys | Request::CancelWait | Request::ListKeys => {}
        }
    }
}

/// A reply, or a part of one: a list is its replies one after the other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Reply<'a> {
    /// Of CHECK, WAIT, BARRIER and CANCEL_WAIT.
    Flag(u8),
    /// Of PING.
    Nonce(u32),
    /// Of ADD, GETNUMKEYS, DELETE_KEY, QUEUE_LEN; what QUEUE_POP and LIST_KEYS begin with.
    Number(i64),
    /// Of GET, COMPARE_SET; one of MULTI_GET, QUEUE_POP, LIST_KEYS.
    String(&'a [u8]),
}

impl Reply<'_> {
    pub fn put(&self, out: &mut Vec<u8>) {
        match *self {
            Reply::Flag(flag) => out.push(flag),
            Reply::Nonce(nonce) => put_u32(nonce, out),
            Reply::Number(number) => put_u64(number as u64, out),
            Reply::String(string) => put_string(string, out),
        }
    }
}

pub fn put_string(string: &[u8], out: &mut Vec<u8>) {
    put_u64(string.len() as u64, out);
    out.extend_from_slice(string);
}

fn put_u64(number: u64, out: &mut Vec<u8>) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put_u32(number: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(&number.to_le_bytes());
}

/// A little-endian number of up to eight bytes.
pub fn number(bytes: &[u8]) -> u64 {
    let mut all = [0; 8];
    all[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: [u8; 5] = [0, 0xce, 0xf7, 0x85, 0x3c];

    /// A decoder that has seen VALIDATE.
    fn decoder() -> Decoder {
        let mut decoder = Decoder::new(Limits::default());
        assert_eq!(decoder.next(&START), Ok(Some((Request::Validate { magic: MAGIC }, 5))));
        decoder
    }

    fn bytes(request: Request<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        request.put(&mut out);
        out
    }

    fn list(strings: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        strings.iter().for_each(|string| put_string(string, &mut out));
        out
    }

    #[test]
    fn requests_are_the_bytes_that_torch_sends() {
        let hex = |request: Request<'_>| {
            bytes(request).iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        assert_eq!(hex(Request::Validate { magic: MAGIC }), "00cef7853c");
        assert_eq!(hex(Request::Ping { nonce: 25147 }), "0d3b620000");
        assert_eq!(
            hex(Request::Set { key: b"/k", value: b"v1" }),
            "0102000000000000002f6b02000000000000007631"
        );
        assert_eq!(
            hex(Request::Add { key: b"/ctr", delta: -7 }),
            "0404000000000000002f637472f9ffffffffffffff"
        );
        let keys = list(&[b"/k"]);
        assert_eq!(
            hex(Request::Check { keys: Strings::new(&keys) }),
            "05010000000000000002000000000000002f6b"
        );
        let pairs = list(&[b"/m1", b"x", b"/m2", b"yz"]);
        assert_eq!(
            hex(Request::MultiSet { pairs: Strings::new(&pairs) }),
            "0b020000000000000003000000000000002f6d310100000000000000780300000000000000\
             2f6d320200000000000000797a"
        );
        assert_eq!(
            hex(Request::Barrier { key: b"/b1", world_size: 1 }),
            "1203000000000000002f62310100000000000000"
        );
    }

    #[test]
    fn opcodes_are_their_numbers() {
        for (number, opcode) in Opcode::ALL.into_iter().enumerate() {
            assert_eq!((opcode as usize, Opcode::of(number as u8)), (number, Ok(opcode)));
        }
        assert_eq!(Opcode::of(19), Err(Malformed::UnknownOpcode(19)));
    }

    #[test]
    fn what_is_too_long_is_refused_before_its_data() {
        let refused = |bytes: &[u8]| decoder().next(bytes).unwrap_err();
        let length = |opcode: u8, length: u64| [&[opcode][..], &length.to_le_bytes()].concat();
        for opcode in [1, 2, 3, 4, 8, 9, 14, 15, 16, 18] {
            assert_eq!(refused(&length(opcode, 8193)), Malformed::KeyTooLong(8193));
            assert_eq!(refused(&length(opcode, 1 << 63)), Malformed::KeyTooLong(1 << 63));
            assert_eq!(refused(&length(opcode, u64::MAX)), Malformed::KeyTooLong(u64::MAX));
            assert_eq!(decoder().next(&length(opcode, 8192)), Ok(None));
        }
        for opcode in [5, 6, 10, 11] {
            assert_eq!(refused(&length(opcode, 131_073)), Malformed::TooManyKeys(131_073));
            assert_eq!(refused(&length(opcode, u64::MAX)), Malformed::TooManyKeys(u64::MAX));
        }
        let mut value = length(1, 1);
        value.push(b'k');
        value.extend(((8u64 << 20) + 1).to_le_bytes());
        assert_eq!(refused(&value), Malformed::ValueTooLong((8 << 20) + 1));
    }

    #[test]
    fn a_connection_begins_with_validate_and_only_that_once() {
        let first = |bytes: &[u8]| Decoder::new(Limits::default()).next(bytes).map(|found| found.is_some());
        assert_eq!(first(&[13]), Err(Malformed::Validate));
        assert_eq!(first(b"G"), Err(Malformed::UnknownOpcode(b'G')));
        assert_eq!(first(&START[..4]), Ok(false));
        assert_eq!(first(&[0, 0, 0, 0, 0]), Err(Malformed::Validate));
        assert_eq!(decoder().next(&START).unwrap_err(), Malformed::Validate);
        assert_eq!(decoder().next(&[19]), Err(Malformed::UnknownOpcode(19)));
    }

    /// A request by its opcode and what may be its fields.
    fn build(opcode: u8, strings: &[Vec<u8>], number: u64) -> Vec<u8> {
        let layout = layout(Opcode::of(opcode).expect("an opcode"));
        let mut out = vec![opcode];
        let strings: Vec<&[u8]> = strings.iter().map(|string| &string[..]).collect();
        let used = if layout.list {
            put_u64((strings.len() / layout.strings.len()) as u64, &mut out);
            strings.len() / layout.strings.len() * layout.strings.len()
        } else {
            layout.strings.len()
        };
        strings.iter().cycle().take(used).for_each(|string| put_string(string, &mut out));
        out.extend_from_slice(&number.to_le_bytes()[..layout.number_bytes]);
        out
    }

    prop_compose! {
        fn request()(
            opcode in 1..19u8,
            strings in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 1..6),
            number in any::<u64>(),
        ) -> Vec<u8> {
            build(opcode, &strings, number)
        }
    }

    proptest! {
        #[test]
        fn requests_are_found_however_they_are_cut(
            requests in prop::collection::vec(request(), 1..6),
            cuts in prop::collection::vec(1..50usize, 1..40),
        ) {
            let all = requests.concat();
            let (mut decoder, mut found, mut start, mut end) = (decoder(), Vec::new(), 0, 0);
            let mut cuts = cuts.iter().cycle();
            while end < all.len() {
                end = all.len().min(end + cuts.next().unwrap());
                while let Some((request, length)) = decoder.next(&all[start..end]).unwrap() {
                    prop_assert_eq!(&bytes(request)[..], &all[start..start + length]);
                    found.push(length);
                    start += length;
                }
            }
            prop_assert_eq!(found, requests.iter().map(Vec::len).collect::<Vec<_>>());
        }

        #[test]
        fn garbage_is_a_request_or_an_error(garbage in prop::collection::vec(any::<u8>(), 0..200)) {
            let (mut decoder, mut start) = (decoder(), 0);
            for end in 0..garbage.len() {
                while let Ok(Some((_, length))) = decoder.next(&garbage[start..end]) {
                    prop_assert!(length > 0 && length <= end - start);
                    start += length;
                }
            }
        }

        #[test]
        fn what_follows_does_not_matter(request in request(), more in prop::collection::vec(any::<u8>(), 0..20)) {
            let both = [&request[..], &more].concat();
            let (found, length) = decoder().next(&both).unwrap().expect("a whole request");
            prop_assert_eq!(length, request.len());
            prop_assert_eq!(bytes(found), request);
        }
    }
}
