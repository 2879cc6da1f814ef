//! Which streams of which ranks: `3`, or `0:1,12:2` as torchrun's `--redirects` and `--tee`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::BitOr;

use crate::error::Error;

/// A set of stdout and stderr; the bits are torch's `Std`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Streams(u8);

impl Streams {
    pub const NONE: Streams = Streams(0);
    pub const STDOUT: Streams = Streams(1);
    pub const STDERR: Streams = Streams(2);
    pub const BOTH: Streams = Streams(3);

    pub fn has(self, other: Streams) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn without(self, other: Streams) -> Streams {
        Streams(self.0 & !other.0)
    }

    fn parse(text: &str) -> Option<Streams> {
        match text {
            "0" => Some(Streams::NONE),
            "1" => Some(Streams::STDOUT),
            "2" => Some(Streams::STDERR),
            "3" => Some(Streams::BOTH),
            _ => None,
        }
    }
}

impl BitOr for Streams {
    type Output = Streams;
    fn bitor(self, other: Streams) -> Streams {
        Streams(self.0 | other.0)
    }
}

/// Streams by local rank; ranks that are not named have none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamMap {
    All(Streams),
    PerRank(BTreeMap<usize, Streams>),
}

impl Default for StreamMap {
    fn default() -> Self {
        StreamMap::All(Streams::NONE)
    }
}

impl StreamMap {
    pub fn parse(field: &'static str, text: &str) -> Result<StreamMap, Error> {
        const WANT: &str = "must be 0 (none), 1 (stdout), 2 (stderr) or 3 (both) for all ranks, \
                            or a list like 0:1,12:2 of local ranks and these numbers";
        let bad = || Error::config(field, text, WANT);
        let text = text.trim();
        if let Some(streams) = Streams::parse(text) {
            return Ok(StreamMap::All(streams));
        }
        let mut map = BTreeMap::new();
        for item in text.split(',') {
            let (rank, streams) = item.split_once(':').ok_or_else(bad)?;
            let rank = decimal(rank.trim()).ok_or_else(bad)?;
            let streams = Streams::parse(streams.trim()).ok_or_else(bad)?;
            if map.insert(rank, streams).is_some() {
                return Err(Error::config(field, text, format!("local rank {rank} is named twice")));
            }
        }
        Ok(StreamMap::PerRank(map))
    }

    pub fn of(&self, local_rank: usize) -> Streams {
        match self {
            StreamMap::All(streams) => *streams,
            StreamMap::PerRank(map) => map.get(&local_rank).copied().unwrap_or_default(),
        }
    }

    /// The highest rank that it names.
    pub fn highest(&self) -> Option<usize> {
        match self {
            StreamMap::PerRank(map) => map.keys().next_back().copied(),
            StreamMap::All(_) => None,
        }
    }
}

/// A list of local ranks: `0,2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalRanks(BTreeSet<usize>);

impl LocalRanks {
    pub fn parse(field: &'static str, text: &str) -> Result<LocalRanks, Error> {
        let rank = |item: &str| {
            decimal(item.trim())
                .ok_or_else(|| Error::config(field, text, "must be a list of local ranks like 0,2"))
        };
        text.split(',').map(rank).collect::<Result<_, _>>().map(LocalRanks)
    }

    pub fn has(&self, local_rank: usize) -> bool {
        self.0.contains(&local_rank)
    }

    pub fn highest(&self) -> Option<usize> {
        self.0.iter().next_back().copied()
    }
}

pub fn in_range(field: &'static str, highest: Option<usize>, local_world_size: usize) -> Result<(), Error> {
    match highest {
        Some(rank) if rank >= local_world_size => Err(super::below(field, rank, local_world_size)),
        _ => Ok(()),
    }
}

/// Digits only: `+1`, ` 1` and `0x1` are not ranks.
fn decimal(text: &str) -> Option<usize> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cfg_16_missing_ranks_have_none_and_high_ranks_are_refused() {
        let map = StreamMap::parse("tee", "0:1,12:2").unwrap();
        assert_eq!((map.of(0), map.of(1), map.of(12)), (Streams::STDOUT, Streams::NONE, Streams::STDERR));
        assert!(in_range("tee", map.highest(), 13).is_ok());
        let error = in_range("tee", map.highest(), 12).unwrap_err().to_string();
        assert!(error.contains("tee is 12") && error.contains("12"), "{error}");
    }

    #[test]
    fn bad_maps_name_the_field_and_the_value() {
        for bad in ["", "4", "-1", "0:4", "0", "a:1", "0:1,", "0:1,0:2", ":", "1:", "+1:1", "0x1:1", "3,3"] {
            match StreamMap::parse("redirects", bad) {
                Ok(map) => assert_eq!((bad, map), ("0", StreamMap::All(Streams::NONE))),
                Err(error) => assert!(error.to_string().contains("redirects is"), "{error}"),
            }
        }
    }

    proptest! {
        #[test]
        fn a_written_map_reads_back(map in prop::collection::btree_map(0usize..2000, 0u8..4, 1..20)) {
            let text = map.iter().map(|(r, s)| format!("{r}:{s}")).collect::<Vec<_>>().join(",");
            let read = StreamMap::parse("tee", &text).unwrap();
            for rank in 0..2000 {
                prop_assert_eq!(read.of(rank), Streams(map.get(&rank).copied().unwrap_or(0)));
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".*") {
            let _ = StreamMap::parse("tee", &text);
            let _ = LocalRanks::parse("local_ranks_filter", &text);
        }
    }
}
