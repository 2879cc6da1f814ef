//! Lists of hosts, as schedulers write them.

/// The most that a list may stand for: more is a mistake.
const MOST: usize = 1 << 20;

/// The hosts of a list of Slurm's: `a,node[001-003,7]-eth,b[1-2][a,b]`. None if it is no such list.
pub fn expand(list: &str) -> Option<Vec<String>> {
    let mut hosts = Vec::new();
    for item in split(list)? {
        hosts.extend(expand_item(item)?);
        if hosts.len() > MOST {
            return None;
        }
    }
    Some(hosts)
}

/// How many brackets one name may have.
const MOST_RANGES: usize = 8;

/// At the commas that stand in no brackets.
fn split(list: &str) -> Option<Vec<&str>> {
    let (mut items, mut start, mut inside) = (Vec::new(), 0, false);
    for (at, letter) in list.char_indices() {
        match letter {
            '[' if inside => return None,
            '[' => inside = true,
            ']' if !inside => return None,
            ']' => inside = false,
            ',' if !inside => {
                items.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items.push(&list[start..]);
    let fine = !inside && items.iter().all(|item| !item.is_empty());
    fine.then_some(items)
}

fn expand_item(item: &str) -> Option<Vec<String>> {
    if item.matches('[').count() > MOST_RANGES {
        return None;
    }
    let Some((before, rest)) = item.split_once('[') else { return Some(vec![item.into()]) };
    let (ranges, after) = rest.split_once(']')?;
    let tails = expand_item(after)?;
    let mut hosts = Vec::new();
    for range in ranges.split(',') {
        for middle in numbers(range)? {
            hosts.extend(tails.iter().map(|tail| format!("{before}{middle}{tail}")));
            if hosts.len() > MOST {
                return None;
            }
        }
    }
    Some(hosts)
}

/// `001-003`: with as many digits as the first has. Or a text alone.
fn numbers(range: &str) -> Option<Vec<String>> {
    let Some((first, last)) = range.split_once('-') else {
        return (!range.is_empty()).then(|| vec![range.into()]);
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<usize>().ok()).flatten()
    };
    let (low, high) = (number(first)?, number(last)?);
    if low > high || high - low >= MOST {
        return None;
    }
    Some((low..=high).map(|number| format!("{number:0width$}", width = first.len())).collect())
}

/// How many tasks each node has, of `4(x2),3`. None if it is no such list.
pub fn counts(list: &str) -> Option<Vec<usize>> {
    let mut counts = Vec::new();
    for item in list.split(',') {
        let (count, times) = match item.split_once("(x") {
            Some((count, times)) => (count, times.strip_suffix(')')?.parse().ok()?),
            None => (item, 1),
        };
        if counts.len().saturating_add(times) > MOST {
            return None;
        }
        counts.extend(std::iter::repeat_n(count.parse::<usize>().ok()?, times));
    }
    Some(counts)
}

/// Each host once, in order of first appearance.
pub fn distinct<'a>(hosts: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    hosts.filter(|host| seen.insert(*host)).map(str::to_string).collect()
}

/// Where a host stands in a list. One of the two names may be without its domain.
pub fn position(hosts: &[String], host: &str) -> Option<usize> {
    let short = |name: &str| name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let exact = hosts.iter().position(|other| other.eq_ignore_ascii_case(host));
    exact.or_else(|| hosts.iter().position(|other| short(other) == short(host)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sched_01_lists_of_slurm() {
        for (list, hosts) in [
            ("node1", &["node1"][..]),
            ("node[1-2]", &["node1", "node2"]),
            ("a,node[001-003,7]-eth", &["a", "node001-eth", "node002-eth", "node003-eth", "node7-eth"]),
            ("r[1-2]n[9-10]", &["r1n9", "r1n10", "r2n9", "r2n10"]),
            ("gpu-a[3],gpu-b", &["gpu-a3", "gpu-b"]),
            ("n[09-11]", &["n09", "n10", "n11"]),
        ] {
            assert_eq!(
                expand(list).as_deref(),
                Some(&hosts.iter().map(|h| h.to_string()).collect::<Vec<_>>()[..]),
                "{list}"
            );
        }
        for wrong in [
            "",
            "a,",
            "a[1",
            "a]",
            "a[[1]]",
            "a[2-1]",
            "a[]",
            "a[1-x]",
            "a[0-99999999999]",
            "a[1-1048576]b[1-9]",
        ] {
            assert_eq!(expand(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sched_04_tasks_of_each_node() {
        assert_eq!(counts("4(x2),3"), Some(vec![4, 4, 3]));
        assert_eq!(counts("1"), Some(vec![1]));
        for wrong in ["", "x", "4(x", "4(x2", "4(x99999999999)", "(x2)"] {
            assert_eq!(counts(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_host_is_found_with_and_without_its_domain() {
        let hosts = ["a.site", "b.site", "B"].map(String::from);
        assert_eq!(position(&hosts, "b"), Some(2));
        assert_eq!(position(&hosts, "b.site"), Some(1));
        assert_eq!(position(&hosts, "A.other"), Some(0));
        assert_eq!(position(&hosts, "c"), None);
    }

    proptest! {
        #[test]
        fn no_text_is_too_much(list in "[a-c0-9,\\[\\]()x-]{0,24}") {
            prop_assert!(expand(&list).is_none_or(|hosts| hosts.len() <= MOST));
            prop_assert!(counts(&list).is_none_or(|counts| counts.len() <= MOST));
        }

        #[test]
        fn a_range_has_all_its_numbers(low in 0usize..2000, more in 0usize..50) {
            let hosts = expand(&format!("n[{low}-{}]", low + more)).expect("a list");
            prop_assert_eq!(hosts.len(), more + 1);
            prop_assert_eq!(&hosts[more], &format!("n{}", low + more));
        }
    }
}
