//! The workers of this host: their ranks, and the attempt that they are in.

use crate::process::attempt::Attempt;
use crate::ranks::Rank;

pub struct Group {
    ranks: Vec<Rank>,
    attempt: Option<Attempt>,
}

impl Group {
    pub fn new(ranks: Vec<Rank>) -> Group {
        Group { ranks, attempt: None }
    }

    /// By local rank.
    pub fn ranks(&self) -> &[Rank] {
        &self.ranks
    }

    /// The others of the job are known: who is who from now on.
    pub fn rank_anew(&mut self, ranks: Vec<Rank>) {
        self.ranks = ranks;
    }

    pub fn begin(&mut self, number: u32) {
        self.attempt = Some(Attempt::new(number, &self.ranks));
    }

    /// The attempt is over.
    pub fn end(&mut self) -> Option<Attempt> {
        self.attempt.take()
    }

    pub fn attempt(&self) -> Option<&Attempt> {
        self.attempt.as_ref()
    }

    pub fn attempt_mut(&mut self) -> Option<&mut Attempt> {
        self.attempt.as_mut()
    }

    pub fn lives(&self, index: usize) -> bool {
        self.attempt.as_ref().is_some_and(|attempt| attempt.workers[index].is_alive())
    }

    /// The workers that run, and their processes.
    pub fn living(&self) -> impl Iterator<Item = (usize, i32)> {
        let workers = self.attempt.iter().flat_map(|attempt| &attempt.workers).enumerate();
        workers.filter(|(_, worker)| worker.is_alive()).map(|(index, worker)| (index, worker.pid))
    }
}
