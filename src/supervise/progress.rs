//! Whether attempts come further than those before them.

/// How far attempts came, as far as that is known.
#[derive(Debug, Default)]
pub struct Progress {
    /// In this attempt.
    pub reached: Option<u64>,
    furthest: Option<u64>,
    /// How many attempts have come no further since.
    pub in_vain: u32,
}

impl Progress {
    /// An attempt is over. One of which nothing is known changes nothing.
    pub fn end_attempt(&mut self) {
        let Some(reached) = self.reached.take() else { return };
        if self.furthest.is_none_or(|furthest| reached > furthest) {
            (self.furthest, self.in_vain) = (Some(reached), 0);
        } else {
            self.in_vain += 1;
        }
    }
}
