//! Sets of CPUs, and lists of them as the kernel writes them: `0-3,8`.

use std::collections::BTreeSet;
use std::fmt;

/// More CPUs than any kernel is built for: a list that goes further is none.
const MOST: u32 = 1 << 16;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cpus(BTreeSet<u32>);

impl Cpus {
    /// None for what is no list. An empty one is: a node may have memory alone.
    pub fn parse(text: &str) -> Option<Cpus> {
        let mut cpus = BTreeSet::new();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let (first, last) = item.split_once('-').unwrap_or((item, item));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return None;
            }
            cpus.extend(first..=last);
        }
        Some(Cpus(cpus))
    }

    pub fn iter(&self) -> impl Iterator<Item = u32> {
        self.0.iter().copied()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn first(&self) -> Option<u32> {
        self.0.first().copied()
    }

    pub fn insert(&mut self, cpu: u32) {
        self.0.insert(cpu);
    }

    pub fn has(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }
}

/// Digits alone: `parse` would take a plus sign.
fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|&number| digits && number < MOST)
}

impl FromIterator<u32> for Cpus {
    fn from_iter<T: IntoIterator<Item = u32>>(cpus: T) -> Cpus {
        Cpus(cpus.into_iter().collect())
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for cpu in self.iter() {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == cpu => *last = cpu,
                _ => ranges.push((cpu, cpu)),
            }
        }
        for (index, (first, last)) in ranges.into_iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            match first == last {
                true => write!(out, "{comma}{first}")?,
                false => write!(out, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dev_08_lists_as_the_kernel_writes_them() {
        let cpus: Cpus = [7, 0, 1, 6, 2, 4].into_iter().collect();
        assert_eq!(cpus.to_string(), "0-2,4,6-7");
        assert_eq!(Cpus::parse("0-2,4,6-7\n"), Some(cpus));
        for empty in ["", "\n", " , "] {
            assert_eq!(Cpus::parse(empty), Some(Cpus::default()), "{empty:?}");
        }
        for bad in ["x", "3-1", "1-", "-1", "+1", "0-4294967295", "65536", "1-2-3", "0-3:2", "1 2"] {
            assert_eq!(Cpus::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn dev_08_what_is_written_is_read_again(cpus in prop::collection::btree_set(0u32..300, 0..200)) {
            let cpus = Cpus(cpus);
            let text = cpus.to_string();
            prop_assert!(!text.contains(",,") && !text.starts_with(',') && !text.ends_with(','));
            prop_assert_eq!(Cpus::parse(&text), Some(cpus));
        }

        #[test]
        fn dev_08_no_text_is_too_much(text in "[-0-9, x+\n]{0,20}") {
            if let Some(cpus) = Cpus::parse(&text) {
                prop_assert!(cpus.iter().all(|cpu| cpu < MOST));
            }
        }
    }
}
