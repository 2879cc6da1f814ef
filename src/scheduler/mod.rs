//! What a batch scheduler, or a launcher of MPI, says to each process that it starts: how many agents a job has, which of
//! them this is, where they may meet. It stands in variables of the environment, which are read here, and in files that
//! these name. One file per scheduler; `KINDS` is the list.

mod hosts;
mod kinds;

use crate::error::Error;
use crate::sys::process::Stat;

/// One scheduler.
struct Kind {
    name: &'static str,
    /// The variables that each of its processes has.
    needs: &'static [&'static str],
    /// One that says that this is no process of its own, but what such a one has started.
    unless: Option<&'static str>,
    read: fn(&Surroundings) -> Result<Task, Error>,
}

/// In the order in which they are looked for. A launcher that runs inside an allocation leaves the variables of what is
/// around it, so those within stand first.
const KINDS: &[Kind] = &[
    Kind {
        name: "openmpi",
        needs: &["OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"],
        unless: None,
        read: kinds::openmpi::read,
    },
    Kind {
        name: "mpich",
        needs: &["PMI_SIZE", "PMI_RANK", "MPI_LOCALNRANKS"],
        unless: None,
        read: kinds::mpich::read,
    },
    Kind { name: "flux", needs: &["FLUX_JOB_ID", "FLUX_TASK_RANK"], unless: None, read: kinds::flux::read },
    Kind { name: "slurm", needs: &["SLURM_JOB_ID", "SLURM_PROCID"], unless: None, read: kinds::slurm::read },
    Kind { name: "lsf", needs: &["LSB_JOBID", "LSB_MCPU_HOSTS"], unless: None, read: kinds::lsf::read },
    Kind { name: "pbs", needs: &["PBS_JOBID", "PBS_NODEFILE"], unless: None, read: kinds::pbs::read },
    Kind {
        name: "environment",
        needs: &["WORLD_SIZE", "RANK"],
        unless: Some("LOCAL_RANK"),
        read: kinds::environment::read,
    },
    Kind {
        name: "kubernetes",
        needs: &["JOB_COMPLETION_INDEX"],
        unless: None,
        read: kinds::kubernetes::read,
    },
];

/// Which scheduler is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Nobody,
    /// The one that has started this process, if one has.
    Auto,
    Named(&'static str),
}

impl Choice {
    /// The words for it.
    pub const WORDS: &[&str] =
        &["none", "auto", "slurm", "openmpi", "mpich", "flux", "lsf", "pbs", "kubernetes", "environment"];

    pub fn parse(text: &str) -> Option<Choice> {
        match text {
            "none" => Some(Choice::Nobody),
            "auto" => Some(Choice::Auto),
            name => KINDS.iter().find(|kind| kind.name == name).map(|kind| Choice::Named(kind.name)),
        }
    }
}

/// A value, and where it is from: the names of variables, most of all.
#[derive(Clone, Debug, PartialEq)]
pub struct Sourced<T> {
    pub value: T,
    pub source: String,
}

impl<T> Sourced<T> {
    fn new(value: T, source: impl Into<String>) -> Sourced<T> {
        Sourced { value, source: source.into() }
    }

    fn map<U>(self, change: impl FnOnce(T) -> U) -> Sourced<U> {
        Sourced { value: change(self.value), source: self.source }
    }
}

/// Which of the agents of one host this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskShare {
    pub index: usize,
    pub of: usize,
}

impl TaskShare {
    pub const ALL: TaskShare = TaskShare { index: 0, of: 1 };

    /// All of them where the numbers do not fit together.
    fn of(index: usize, of: usize) -> TaskShare {
        if index < of { TaskShare { index, of } } else { TaskShare::ALL }
    }
}

/// What a scheduler says to this process.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    pub scheduler: &'static str,
    /// How many agents the job has, if that is said; or why its tasks cannot be agents, one each.
    pub nodes: Result<Option<Sourced<usize>>, Error>,
    pub rank: Option<Sourced<usize>>,
    /// The host of the agent with rank 0.
    pub first_host: Option<Sourced<String>>,
    /// That agent may be elsewhere.
    pub is_guess: bool,
    /// Where they meet there, if somebody else has chosen it.
    pub port: Option<Sourced<u16>>,
    /// Which job it is, told from all others, and from itself when it was queued again.
    pub job: Option<Sourced<String>>,
    /// How many workers an agent without GPUs has.
    pub workers: Option<Sourced<usize>>,
    pub share: TaskShare,
    /// What the workers of this agent have between them.
    pub cpus: Option<Sourced<usize>>,
}

impl Task {
    /// One of which nothing is said.
    fn of(scheduler: &'static str) -> Task {
        Task {
            scheduler,
            nodes: Ok(None),
            rank: None,
            first_host: None,
            is_guess: false,
            port: None,
            job: None,
            workers: None,
            share: TaskShare::ALL,
            cpus: None,
        }
    }
}

/// What there is to be read.
pub struct Surroundings<'a> {
    pub var: &'a dyn Fn(&str) -> Option<Vec<u8>>,
    /// The text of a file.
    pub read: &'a dyn Fn(&str) -> Option<String>,
    /// This process, and what the kernel says of one.
    pub pid: i32,
    pub stat: &'a dyn Fn(i32) -> Option<Stat>,
    /// Whether a name or an address is one of this host.
    pub is_here: &'a dyn Fn(&str) -> bool,
}

impl Surroundings<'_> {
    /// A variable that says something.
    fn text(&self, name: &str) -> Option<String> {
        let text = String::from_utf8((self.var)(name)?).ok()?;
        Some(text.trim().to_string()).filter(|text| !text.is_empty())
    }

    /// The first of these variables that says something, with its name.
    fn first(&self, names: &[&str]) -> Option<Sourced<String>> {
        names.iter().find_map(|name| Some(Sourced::new(self.text(name)?, *name)))
    }

    /// The same as a whole number.
    fn number(&self, names: &[&str]) -> Result<Option<Sourced<usize>>, Error> {
        let Some(said) = self.first(names) else { return Ok(None) };
        let number = said.value.parse().map_err(|_| {
            Error::config("scheduler", format!("{}={}", said.source, said.value), "must be a whole number")
        })?;
        Ok(Some(said.map(|_| number)))
    }

    /// The same where it has to be there.
    fn needed(&self, names: &[&str]) -> Result<Sourced<usize>, Error> {
        let missing = || Error::config("scheduler", names.join(" or "), "is not in the environment");
        self.number(names)?.ok_or_else(missing)
    }

    fn hostname(&self) -> String {
        (self.read)("/proc/sys/kernel/hostname").map(|name| name.trim().to_string()).unwrap_or_default()
    }
}

/// How many CPUs a process has by what is said of tasks alone, without the rest of a scheduler.
pub fn cpus(surroundings: &Surroundings) -> Result<Option<Sourced<usize>>, Error> {
    surroundings.number(&["SLURM_CPUS_PER_TASK"])
}

/// The scheduler that has started this process, by its name.
pub fn name(surroundings: &Surroundings) -> Option<&'static str> {
    let kind = KINDS.iter().find(|kind| kind.is_there(surroundings))?;
    Some(kind.name)
}

/// What the chosen one says; nothing where there is none to be asked.
pub fn ask(choice: Choice, surroundings: &Surroundings) -> Result<Option<Task>, Error> {
    let mut chosen = KINDS.iter().filter(|kind| match choice {
        Choice::Nobody => false,
        Choice::Auto => kind.is_there(surroundings),
        Choice::Named(name) => kind.name == name,
    });
    let Some(kind) = chosen.next() else { return Ok(None) };
    if !kind.is_there(surroundings) {
        let want = format!("{} must be in the environment", kind.needs.join(" and "));
        return Err(Error::config("scheduler", kind.name, want));
    }
    (kind.read)(surroundings).map(Some)
}

impl Kind {
    fn is_there(&self, surroundings: &Surroundings) -> bool {
        self.needs.iter().all(|name| surroundings.text(name).is_some())
            && self.unless.is_none_or(|name| surroundings.text(name).is_none())
    }
}

#[cfg(test)]
mod tests;
