//! What a launcher of MPI (mpirun, mpiexec, srun, flux) leaves in the environment of each process that it starts.

/// Each rank has at least one of them. Without one of them the rest are the user's own settings.
const RANKS: [&str; 6] = [
    "PMI_RANK",
    "PMIX_RANK",
    "OMPI_COMM_WORLD_RANK",
    "MPI_LOCALRANKID",
    "MV2_COMM_WORLD_RANK",
    "PALS_RANKID",
];

/// What the names of its variables begin with: those of PMI and PMIx, of Open MPI and its runtime, of MPICH and what
/// comes from it, of MVAPICH, of Cray's launcher, and those of srun for its PMI.
const FAMILIES: [&str; 14] = [
    "PMI_",
    "PMI2_",
    "PMIX_",
    "OMPI_",
    "ORTE_",
    "PRTE_",
    "HYDI_",
    "MPI_LOCAL",
    "MPISPAWN_",
    "MV2_COMM_WORLD_",
    "MVP_COMM_WORLD_",
    "PALS_",
    "SLURM_PMI",
    "FLUX_PMI_",
];

/// Whether it is one of a process that such a launcher has started.
pub fn is_of_launcher(name: &[u8]) -> bool {
    FAMILIES.iter().any(|family| name.starts_with(family.as_bytes()))
}

/// The variable by which a process with these knows that it is a rank of such a launcher.
pub fn rank_of<'a>(names: impl Iterator<Item = &'a [u8]>) -> Option<&'static str> {
    let mut names = names.filter_map(|name| RANKS.into_iter().find(|rank| rank.as_bytes() == name));
    names.next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_22_families_of_launchers() {
        let of_launchers = [
            "PMI_FD",
            "PMI_RANK",
            "PMIX_SERVER_URI41",
            "OMPI_COMM_WORLD_SIZE",
            "OMPI_MCA_ess",
            "MPI_LOCALNRANKS",
            "SLURM_PMIX_MAPPING_SERV",
            "PALS_NODEID",
            "HYDI_CONTROL_FD",
        ];
        assert!(of_launchers.iter().all(|name| is_of_launcher(name.as_bytes())));
        let others = [
            "PATH",
            "SLURM_PROCID",
            "MPICH_GPU_SUPPORT_ENABLED",
            "UCX_TLS",
            "I_MPI_FABRICS",
            "HYDRA_FULL_ERROR",
            "PMI",
        ];
        assert!(!others.iter().any(|name| is_of_launcher(name.as_bytes())));
    }

    #[test]
    fn env_22_settings_alone_are_no_launcher() {
        let rank = |names: &[&'static str]| rank_of(names.iter().map(|name| name.as_bytes()));
        assert_eq!(rank(&["OMPI_MCA_pml", "PMIX_MCA_gds", "RANK"]), None);
        assert_eq!(rank(&["OMPI_MCA_pml", "PMIX_RANK", "PMI_RANK"]), Some("PMIX_RANK"));
        assert!(RANKS.iter().all(|name| is_of_launcher(name.as_bytes())));
    }
}
