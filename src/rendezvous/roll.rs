//! Who is there and who is missing, in words. Pure.

use super::leader::Rules;
use super::state::{Node, Phase, State};

/// How many are named.
const SHOWN: usize = 8;

/// What a node that wants to be in the next round waits for.
pub fn of_round(state: &State, rules: &Rules) -> String {
    if state.phase != Phase::Gathering {
        return format!("the job goes on with {} hosts: no place yet", state.nodes.len());
    }
    let there = |node: &&Node| state.joined.iter().any(|joined| joined.id == node.id);
    let least = match rules.min_nodes == rules.max_nodes {
        true => rules.min_nodes.to_string(),
        false => format!("at least {}", rules.min_nodes),
    };
    let here = names(state.joined.iter().map(|node| node.name.clone()));
    let text = format!("{} of {least} hosts are there ({here})", state.joined.len());
    // Of a given set it is known who is missing; in a later round, who was there before.
    let ranks = (0..rules.min_nodes as u64).filter(|_| rules.fixed);
    let has_come = |rank: &u64| state.joined.iter().any(|node| node.order == Some(*rank));
    let ranks: Vec<String> =
        ranks.filter(|rank| !has_come(rank)).map(|rank| format!("node rank {rank}")).collect();
    let before = state.nodes.iter().filter(|node| !there(node)).map(|node| node.name.clone());
    let missing = if ranks.is_empty() { names(before) } else { names(ranks.into_iter()) };
    if missing == NOBODY { text } else { format!("{text}, missing: {missing}") }
}

/// What a node whose workers have succeeded waits for.
pub fn of_barrier(state: &State) -> String {
    let missing = state.nodes.iter().filter(|node| !state.done.contains(&node.id));
    format!("not done yet: {}", names(missing.map(|node| node.name.clone())))
}

const NOBODY: &str = "nobody";

/// Some of these names, in words.
pub fn names(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.take(SHOWN + 1).collect();
    if names.len() > SHOWN {
        names[SHOWN] = "...".into();
    }
    if names.is_empty() { NOBODY.into() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn node(id: &str, order: Option<u64>) -> Node {
        Node { name: format!("host {id}"), order, ..Node::named(id) }
    }

    fn rules(min_nodes: usize, max_nodes: usize, fixed: bool) -> Rules {
        let time = Duration::from_secs(1);
        Rules {
            min_nodes,
            max_nodes,
            fixed,
            last_call: time,
            dead_after: time,
            reconnect: time,
            max_restarts: 0,
            max_host_failures: 0,
            save_before_change: Duration::ZERO,
        }
    }

    #[test]
    fn who_is_missing_in_a_round() {
        let mut state = State { joined: vec![node("a", Some(1))], ..State::new("a") };
        assert_eq!(of_round(&state, &rules(2, 4, false)), "1 of at least 2 hosts are there (host a)");
        assert_eq!(
            of_round(&state, &rules(3, 3, true)),
            "1 of 3 hosts are there (host a), missing: node rank 0, node rank 2"
        );
        state.nodes = vec![node("a", None), node("b", None)];
        assert_eq!(of_round(&state, &rules(2, 2, false)), "1 of 2 hosts are there (host a), missing: host b");
        state.phase = Phase::Complete;
        assert_eq!(of_round(&state, &rules(2, 2, false)), "the job goes on with 2 hosts: no place yet");
    }

    #[test]
    fn who_is_missing_in_the_exit_barrier() {
        let nodes = (0..20).map(|id| node(&id.to_string(), None)).collect();
        let state = State { nodes, done: vec!["0".into()], ..State::new("a") };
        let text = of_barrier(&state);
        assert!(
            text.starts_with("not done yet: host 1, host 2, ") && text.ends_with("host 8, ..."),
            "{text}"
        );
    }
}
