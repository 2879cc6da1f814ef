//! The macros in arguments and prefixes: exactly `${name}` of a known name, and `$${name}` for that text itself.
//! Nothing else is touched (torchrun's template engine also eats `$$` and `$local_rank`).

/// Replaces each `${name}` that `value` knows, and takes one `$` from each `$${name}`; what it does not know stays
/// as it is.
pub fn expand<'v>(template: &[u8], value: impl Fn(&[u8]) -> Option<&'v [u8]>) -> Vec<u8> {
    let mut out = Vec::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.windows(2).position(|pair| pair == b"${") {
        let (before, from) = rest.split_at(start);
        let known =
            from.iter().position(|&byte| byte == b'}').and_then(|end| Some((value(&from[2..end])?, end)));
        match (known, before.strip_suffix(b"$")) {
            (Some((_, end)), Some(before)) => {
                out.extend_from_slice(before);
                out.extend_from_slice(&from[..=end]);
                rest = &from[end + 1..];
            }
            (Some((text, end)), None) => {
                out.extend_from_slice(before);
                out.extend_from_slice(text);
                rest = &from[end + 1..];
            }
            (None, _) => {
                out.extend_from_slice(before);
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

    #[test]
    fn env_09_one_more_dollar_keeps_a_macro_as_it_is() {
        for (text, wanted) in [
            (&b"$${local_rank}"[..], &b"${local_rank}"[..]),
            (b"a$${local_rank}b${local_rank}", b"a${local_rank}b7"),
            (b"$$${local_rank}", b"$${local_rank}"),
            (b"${local_rank}$${local_rank}", b"7${local_rank}"),
            (b"$${other}", b"$${other}"),
            (b"$${${local_rank}}", b"$${7}"),
        ] {
            assert_eq!(with_rank(text), wanted, "{}", String::from_utf8_lossy(text));
        }
    }

    proptest! {
        #[test]
        fn text_without_a_macro_is_unchanged(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(expand(&bytes, |_| None), bytes);
        }
    }
}
