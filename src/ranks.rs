//! Who is who: local, global, role and group ranks, and the sizes of all of these.

/// How many workers an agent may have.
pub const MAX_LOCAL_WORLD_SIZE: i64 = 16_384;

/// The place of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rank {
    pub global: usize,
    pub local: usize,
    pub role: usize,
    pub group: usize,
    pub world_size: usize,
    pub local_world_size: usize,
    pub role_world_size: usize,
    pub group_world_size: usize,
}

/// The ranks of one agent's workers, in a job whose agents have these roles and sizes, by group rank. Global ranks
/// run on from agent to agent; ranks within a role do so over the agents of that role.
pub fn of_nodes(nodes: &[(&str, usize)], group: usize) -> Vec<Rank> {
    let Some(&(role, local_world_size)) = nodes.get(group) else { return Vec::new() };
    let size = |nodes: &[(&str, usize)]| nodes.iter().map(|(_, size)| size).sum::<usize>();
    let of_role = |nodes: &[(&str, usize)]| -> usize {
        nodes.iter().filter(|(other, _)| *other == role).map(|(_, size)| size).sum()
    };
    let before = &nodes[..group];
    let (global, world_size) = (size(before), size(nodes));
    let (in_role, role_world_size) = (of_role(before), of_role(nodes));
    let rank = |local| Rank {
        global: global + local,
        local,
        role: in_role + local,
        group,
        world_size,
        local_world_size,
        role_world_size,
        group_world_size: nodes.len(),
    };
    (0..local_world_size).map(rank).collect()
}

/// The ranks of a job that has one agent.
pub fn single(local_world_size: usize) -> Vec<Rank> {
    of_nodes(&[("", local_world_size)], 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_02_one_agent_covers_all_ranks_once() {
        for (index, rank) in single(4).into_iter().enumerate() {
            assert_eq!((rank.global, rank.local, rank.role, rank.group), (index, index, index, 0));
            assert_eq!((rank.world_size, rank.group_world_size), (4, 1));
        }
    }

    #[test]
    fn rank_02_sizes_may_differ() {
        let nodes = [("w", 1), ("w", 2), ("w", 3)];
        let all: Vec<Rank> = (0..3).flat_map(|group| of_nodes(&nodes, group)).collect();
        for (index, rank) in all.iter().enumerate() {
            assert_eq!((rank.global, rank.role, rank.world_size, rank.role_world_size), (index, index, 6, 6));
            assert_eq!(rank.local_world_size, rank.group + 1);
        }
        assert_eq!(all.len(), 6);
    }

    #[test]
    fn rank_04_roles_are_counted_apart() {
        let nodes = [("ps", 4), ("trainer", 1), ("trainer", 2), ("trainer", 3), ("ps", 5)];
        let bases: Vec<(usize, usize)> =
            (0..5).map(|group| of_nodes(&nodes, group)[0]).map(|rank| (rank.global, rank.role)).collect();
        assert_eq!(bases, [(0, 0), (4, 0), (5, 1), (7, 3), (10, 4)]);
        assert_eq!(of_nodes(&nodes, 4)[4].role_world_size, 9);
    }
}
