//! Text for people, who may read it on a terminal: what comes from workers, other hosts or the command line must not
//! move its cursor, colour it, or turn what follows around.

use std::borrow::Cow;

/// With control characters as escapes, but for newlines and tabs, which lay text out. In a line of JSON the escapes are
/// those of JSON: it has none of the first 32 itself.
pub fn shown(text: &str) -> Cow<'_, str> {
    if !text.chars().any(commands) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c as u32 {
            code if !commands(c) => out.extend(char::from_u32(code)),
            code @ ..0x20 => out.push_str(&format!("\\x{code:02x}")),
            code => out.push_str(&format!("\\u{code:04x}")),
        }
    }
    Cow::Owned(out)
}

/// The same on one line.
pub fn on_one_line(text: &str) -> String {
    shown(text).replace('\n', "\\n").replace('\t', "\\t")
}

/// Whether a terminal does something else than show it: control characters, and those that change the direction.
fn commands(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t'))
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sec_08_control_characters_are_shown() {
        for (text, wanted) in [
            ("plain – ünïcode\tand\nlines", "plain – ünïcode\tand\nlines"),
            ("\x1b[2Jgone\r", "\\x1b[2Jgone\\x0d"),
            ("\x07\x7f\u{9b}31m", "\\x07\\u007f\\u009b31m"),
            ("a\u{202e}b", "a\\u202eb"),
        ] {
            assert_eq!(shown(text), wanted);
        }
        assert_eq!(on_one_line("a\nb\t\x1b"), "a\\nb\\t\\x1b");
        assert!(matches!(shown("plain"), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn sec_08_none_is_left(text in any::<String>()) {
            let out = shown(&text);
            prop_assert!(!out.chars().any(commands));
            prop_assert!(text.chars().any(commands) || out == text);
            prop_assert!(!on_one_line(&text).chars().any(char::is_control));
        }

        #[test]
        fn sec_08_json_stays_what_it_is(text in any::<String>()) {
            let line = serde_json::to_string(&text).unwrap();
            prop_assert_eq!(serde_json::from_str::<String>(&shown(&line)).unwrap(), text);
        }
    }
}
