//! What comes from outside, as the fuzzers of `fuzz/` try it: any bytes are an answer or an error, and no panic.

use crate::control::file_timer::Lines;
use crate::control::page::{Page, TIMERS_MOST};
use crate::control::section::SECTIONS_MOST;
use crate::device::strings::{Devices, Nproc};
use crate::rendezvous::state::{self, State};
use crate::report::error_file;
use crate::shown::shown;
use crate::spec::endpoint::Endpoint;
use crate::spec::names::Signal;
use crate::spec::rendezvous_options::Options;
use crate::spec::streams::{LocalRanks, StreamMap};
use crate::spec::{Spec, config_file, options};
use crate::store::secret::{Door, Lock, Secret};
use crate::store::table::{Answers, Table};
use crate::store::wire::{Decoder, Limits, MAGIC, Request};

/// One connection after the other, cut at any places, at a server with a small memory.
pub fn store_server(data: &[u8]) {
    const MEMORY: usize = 1 << 16;
    let limits = Limits { key_bytes: 64, value_bytes: 1024, keys_in_a_list: 16 };
    let (mut table, mut answers) = (Table::new(MEMORY), Answers::new(MEMORY));
    for (client, bytes) in data.split(|&byte| byte == 0xff).enumerate() {
        let mut input = Vec::new();
        Request::Validate { magic: MAGIC }.put(&mut input);
        input.extend_from_slice(bytes);
        let (mut decoder, mut rest) = (Decoder::new(limits), &input[..]);
        while let Ok(Some((request, length))) = decoder.next(rest) {
            if table.apply(client as u64, &request, &mut answers).is_err() {
                break;
            }
            answers.replies.clear();
            rest = &rest[length..];
        }
        if client % 2 == 1 {
            table.forget(client as u64, &mut answers);
        }
        answers.woken.clear();
    }
}

/// However a connection is cut, it has the same requests.
pub fn wire(data: &[u8]) {
    let Some((&part, bytes)) = data.split_first() else { return };
    let requests = |part: usize| {
        let (mut decoder, mut found) = (Decoder::new(Limits::default()), Vec::new());
        let (mut start, mut end) = (0, 0);
        while end < bytes.len() {
            end = (end + part).min(bytes.len());
            loop {
                match decoder.next(&bytes[start..end]) {
                    Err(_) => return (found, true),
                    Ok(None) => break,
                    Ok(Some((request, length))) => {
                        found.push((request.opcode() as usize, length));
                        start += length;
                    }
                }
            }
        }
        (found, false)
    };
    assert_eq!(requests(usize::from(part).max(1)).0, requests(bytes.len().max(1)).0);
}

pub fn door(data: &[u8]) {
    let Ok(secret) = Secret::new(b"sixteen bytes or more") else { return };
    for lock in [None, Some(Lock { secret, nonce: [7; 32] })] {
        let is_locked = lock.is_some();
        let (mut door, mut rest, mut replies) = (Door::new(lock), data, Vec::new());
        while let Ok(Some(used)) = door.pass(rest, &mut replies) {
            rest = &rest[used..];
            if door.is_open() {
                // Nobody guesses 32 bytes.
                assert!(!is_locked);
                break;
            }
        }
    }
}

pub fn rendezvous_state(data: &[u8]) {
    let _ = state::decode::<State>(data, "state/1");
}

pub fn control_page(data: &[u8]) {
    let Ok(page) = Page::new(2) else { return };
    page.scribble(data);
    for rank in 0..page.ranks() {
        let _ = (page.said(rank), page.answered(rank));
        assert!((0..TIMERS_MOST).filter_map(|index| page.timer(rank, index)).count() <= TIMERS_MOST);
        assert!((0..SECTIONS_MOST).filter_map(|index| page.course(rank, index)).count() <= SECTIONS_MOST);
    }
}

pub fn file_timers(data: &[u8]) {
    let whole: Vec<_> = Lines::default().feed(data);
    let mut lines = Lines::default();
    let parts: usize = data.chunks(7).map(|part| lines.feed(part).len()).sum();
    assert_eq!(whole.len(), parts);
}

pub fn error_file(data: &[u8]) {
    let contents = error_file::parse(data.to_vec());
    assert!(!shown(&contents.message).contains('\x1b'));
}

#[cfg(feature = "etcd")]
pub fn etcd_http(data: &[u8]) {
    let Some((&part, bytes)) = data.split_first() else { return };
    let _ = crate::rendezvous::backends::etcd::read_in_parts(bytes, usize::from(part).max(1));
}

pub fn device_strings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = (Devices::parse(text), Nproc::parse(text));
}

/// Everything else that is text from the command line.
pub fn options(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = (StreamMap::parse("tee", text), LocalRanks::parse("local_ranks_filter", text));
    let _ = (Endpoint::parse(text, None), Endpoint::parse(text, Some(29400)), Signal::parse(text));
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    let _ = Options::default().set(key, value);
    let _ = options::find(key).map(|row| row.set(&mut Spec::default(), value.as_bytes()));
    let _ = config_file::apply(&mut Spec::default(), "fuzz.toml", text);
}
