//! Who is who: local, global, role and group ranks, and the sizes of all of these.

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

/// The ranks of a job that has one agent.
pub fn single(local_world_size: usize) -> Vec<Rank> {
    let rank = |local| Rank {
        global: local,
        local,
        role: local,
        group: 0,
        world_size: local_world_size,
        local_world_size,
        role_world_size: local_world_size,
        group_world_size: 1,
    };
    (0..local_world_size).map(rank).collect()
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
}
