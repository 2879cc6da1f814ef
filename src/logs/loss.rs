//! What could not be kept, counted. Pure.

#[derive(Clone, Copy, Default, Debug, PartialEq)]
pub struct Loss {
    bytes: u64,
    lines: u64,
}

impl Loss {
    /// True for the first of all: that is the moment to say so.
    pub fn add(&mut self, lost: &[u8]) -> bool {
        let is_first = self.bytes == 0 && !lost.is_empty();
        self.bytes += lost.len() as u64;
        self.lines += memchr::memchr_iter(b'\n', lost).count() as u64;
        is_first
    }

    /// In words, if there is anything.
    pub fn total(&self) -> Option<String> {
        (self.bytes > 0).then(|| format!("{} bytes ({} lines)", self.bytes, self.lines))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_loss_is_told_and_all_are_counted() {
        let mut loss = Loss::default();
        assert!(!loss.add(b""));
        assert_eq!(loss.total(), None);
        assert!(loss.add(b"two\nlines\n"));
        assert!(!loss.add(b"and a part"));
        assert_eq!(loss.total().as_deref(), Some("20 bytes (2 lines)"));
    }
}
