//! The macros in arguments and prefixes: exactly `${name}` of a known name, nothing else is touched
//! (torchrun's template engine also eats `$$` and `$local_rank`).

/// Replaces each `${name}` that `value` knows; what it does not know stays as it is.
pub fn expand<'v>(template: &[u8], value: impl Fn(&[u8]) -> Option<&'v [u8]>) -> Vec<u8> {
    let mut out = Vec::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.windows(2).position(|pair| pair == b"${") {
        let (before, from) = rest.split_at(start);
        out.extend_from_slice(before);
        let replaced =
            from.iter().position(|&byte| byte == b'}').and_then(|end| Some((value(&from[2..end])?, end)));
        match replaced {
            Some((text, end)) => {
                out.extend_from_slice(text);
                rest = &from[end + 1..];
            }
            None => {
                out.extend_from_slice(b"${");
                rest = &from[2..];
            }
        }
    }
    out.extend_from_slice(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with_rank(template: &[u8]) -> Vec<u8> {
        expand(template, |name| (name == b"local_rank").then_some(&b"7"[..]))
    }

    #[test]
    fn env_08_a_macro_may_stand_anywhere_and_twice() {
        assert_eq!(with_rank(b"a${local_rank}b${local_rank}"), b"a7b7");
        assert_eq!(with_rank(b"${x${local_rank}"), b"${x7");
    }

    #[test]
    fn env_09_everything_else_stays() {
        for text in [
            &b"$$x"[..],
            b"$",
            b"${other}",
            b"100%",
            b"$HOME",
            b"${local_rank",
            b"$local_rank",
            b"${}",
            b"${",
        ] {
            assert_eq!(with_rank(text), text);
        }
    }

    proptest! {
        #[test]
        fn text_without_a_macro_is_unchanged(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(expand(&bytes, |_| None), bytes);
        }
    }
}
