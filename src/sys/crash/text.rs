//! Text in memory of a fixed size: what does not fit is an error, and nothing allocates.

use std::fmt::{self, Write};

pub struct Text<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Text<N> {
    pub const fn new() -> Text<N> {
        Text { bytes: [0; N], length: 0 }
    }

    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    pub fn len(&self) -> usize {
        self.length
    }

    pub fn room(&self) -> usize {
        N - self.length
    }

    /// Back to an earlier length.
    pub fn cut(&mut self, length: usize) {
        self.length = self.length.min(length);
    }

    /// All of it, or nothing.
    pub fn push(&mut self, bytes: &[u8]) -> fmt::Result {
        let end = self.length + bytes.len();
        self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(bytes);
        self.length = end;
        Ok(())
    }
}

impl<const N: usize> Write for Text<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.push(text.as_bytes())
    }
}

/// Bytes that should be UTF-8.
pub struct Lossy<'a>(pub &'a [u8]);

impl fmt::Display for Lossy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            f.write_str(chunk.valid())?;
            if !chunk.invalid().is_empty() {
                f.write_char(char::REPLACEMENT_CHARACTER)?;
            }
        }
        Ok(())
    }
}

/// Writes what goes between the quotes of a JSON string.
pub struct Quoted<'a, W>(pub &'a mut W);

impl<W: Write> Write for Quoted<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some(at) = rest.find(|c| c < ' ' || c == '"' || c == '\\') {
            let (plain, special) = rest.split_at(at);
            self.0.write_str(plain)?;
            match special.chars().next() {
                Some('\n') => self.0.write_str("\\n")?,
                Some(c @ ('"' | '\\')) => write!(self.0, "\\{c}")?,
                Some(c) => write!(self.0, "\\u{:04x}", c as u32)?,
                None => {}
            }
            rest = special.get(1..).unwrap_or_default();
        }
        self.0.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn quoted(bytes: &[u8]) -> String {
        let mut text = Text::<4096>::new();
        write!(Quoted(&mut text), "{}", Lossy(bytes)).unwrap();
        String::from_utf8(text.bytes().to_vec()).unwrap()
    }

    #[test]
    fn what_json_needs_is_escaped() {
        assert_eq!(quoted("a\"b\\c\nd\te\u{1}é".as_bytes()), "a\\\"b\\\\c\\nd\\u0009e\\u0001é");
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let mut text = Text::<4>::new();
        assert!(text.push(b"abc").is_ok());
        assert!(text.push(b"de").is_err());
        assert!(text.push(b"d").is_ok());
        assert_eq!((text.bytes(), text.room()), (&b"abcd"[..], 0));
        text.cut(2);
        assert_eq!(text.bytes(), b"ab");
    }

    proptest! {
        #[test]
        fn any_bytes_make_a_json_string(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let json = format!("\"{}\"", quoted(&bytes));
            let text: String = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }
}
