//! A stream of bytes as lines, without changing a byte. Pure.

/// How long a line may grow before its start is shown without its end.
const LONGEST: usize = 1 << 20;

/// The unfinished end of a stream.
#[derive(Default)]
pub struct Lines {
    partial: Vec<u8>,
    /// The start of this line was shown already.
    begun: bool,
}

/// A piece to show: `head` then `tail`, in two parts so that whole lines need no copy.
#[derive(Debug, PartialEq)]
pub struct Piece<'a> {
    pub head: &'a [u8],
    pub tail: &'a [u8],
    /// It is the start of a line.
    pub starts: bool,
    /// It has the line's newline.
    pub ends: bool,
}

impl Lines {
    /// Takes what was read and gives every line that is whole now.
    pub fn feed(&mut self, mut chunk: &[u8], mut show: impl FnMut(Piece)) {
        if self.begun || !self.partial.is_empty() {
            let Some(end) = memchr::memchr(b'\n', chunk) else { return self.keep(chunk, show) };
            let (tail, rest) = chunk.split_at(end + 1);
            show(Piece { head: &self.partial, tail, starts: !self.begun, ends: true });
            self.partial.clear();
            self.begun = false;
            chunk = rest;
        }
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', chunk) {
            show(Piece { head: b"", tail: &chunk[start..=end], starts: true, ends: true });
            start = end + 1;
        }
        self.keep(&chunk[start..], show);
    }

    fn keep(&mut self, rest: &[u8], show: impl FnMut(Piece)) {
        self.partial.extend_from_slice(rest);
        if self.partial.len() > LONGEST {
            self.flush(show);
        }
    }

    /// Whether the unfinished line rewrites itself: a progress bar, to be shown soon.
    pub fn is_rewriting(&self) -> bool {
        memchr::memchr(b'\r', &self.partial).is_some()
    }

    pub fn is_unfinished(&self) -> bool {
        self.begun || !self.partial.is_empty()
    }

    /// Shows the unfinished line as far as it is.
    pub fn flush(&mut self, mut show: impl FnMut(Piece)) {
        if !self.partial.is_empty() {
            show(Piece { head: &self.partial, tail: b"", starts: !self.begun, ends: false });
            self.partial.clear();
            self.begun = true;
        }
    }

    /// The stream is over: its last line gets the newline it lacks.
    pub fn finish(&mut self, mut show: impl FnMut(Piece)) {
        if self.is_unfinished() {
            show(Piece { head: &self.partial, tail: b"\n", starts: !self.begun, ends: true });
            *self = Lines::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown(feed: impl FnOnce(&mut Lines, &mut dyn FnMut(Piece))) -> String {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        feed(&mut lines, &mut |piece| {
            if piece.starts {
                out.extend_from_slice(b">");
            }
            out.extend_from_slice(piece.head);
            out.extend_from_slice(piece.tail);
        });
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn log_12_a_line_in_two_parts_is_one_line() {
        let text = shown(|lines, show| {
            lines.feed(b"part", &mut *show);
            lines.feed(b"ial\nnext", &mut *show);
            lines.finish(&mut *show);
        });
        assert_eq!(text, ">partial\n>next\n");
    }

    #[test]
    fn log_14_a_rewritten_line_has_one_prefix() {
        let text = shown(|lines, show| {
            lines.feed(b"\r10%", &mut *show);
            assert!(lines.is_rewriting());
            lines.flush(&mut *show);
            lines.feed(b"\r20%", &mut *show);
            lines.flush(&mut *show);
            lines.feed(b"\n", &mut *show);
        });
        assert_eq!(text, ">\r10%\r20%\n");
    }

    proptest! {
        #[test]
        fn log_13_no_byte_is_changed_however_it_is_cut(
            bytes in prop::collection::vec(prop_oneof![Just(b'\n'), Just(b'\r'), any::<u8>()], 0..200),
            cuts in prop::collection::vec(0usize..200, 0..10),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.sort_unstable();
            cuts.push(bytes.len());
            let (mut lines, mut out, mut prefixes, mut from) = (Lines::default(), Vec::new(), 0, 0);
            {
                let mut show = |piece: Piece| {
                    prefixes += piece.starts as usize;
                    out.extend_from_slice(piece.head);
                    out.extend_from_slice(piece.tail);
                };
                for cut in cuts {
                    lines.feed(&bytes[from..cut], &mut show);
                    from = cut;
                }
                lines.finish(&mut show);
            }
            let mut expected = bytes.clone();
            if expected.last().is_some_and(|&last| last != b'\n') {
                expected.push(b'\n');
            }
            prop_assert_eq!(&out, &expected);
            prop_assert_eq!(prefixes, expected.iter().filter(|&&byte| byte == b'\n').count());
        }
    }
}
