//! Sets of signals as the kernel writes them: bit n - 1 for signal n. Async-signal-safe.

pub fn bit(signal: i32) -> u64 {
    1 << ((signal - 1) & 63)
}

pub fn has(set: u64, signal: i32) -> bool {
    set & bit(signal) != 0
}

pub fn signals(mut set: u64) -> impl Iterator<Item = i32> {
    std::iter::from_fn(move || {
        let signal = (set != 0).then(|| set.trailing_zeros() as i32 + 1)?;
        set &= set - 1;
        Some(signal)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sig_a_set_is_its_signals() {
        for list in [vec![], vec![1], vec![2, 15, 32], vec![1, 31, 63, 64]] {
            let set = list.iter().fold(0, |set, &signal| set | bit(signal));
            assert_eq!(signals(set).collect::<Vec<_>>(), list);
            assert!((1..=64).all(|signal| has(set, signal) == list.contains(&signal)));
        }
    }
}
