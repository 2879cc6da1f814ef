//! Which CPUs a thread may run on. For any number of them, where `cpu_set_t` ends at 1024.

use nix::errno::Errno;

/// A mask as the kernel takes it, prepared before the child that is to have it.
pub struct Mask(Vec<u64>);

impl Mask {
    pub fn of(cpus: impl Iterator<Item = u32>) -> Mask {
        let mut words = Vec::new();
        for cpu in cpus {
            let (word, bit) = (cpu as usize / 64, cpu % 64);
            if words.len() <= word {
                words.resize(word + 1, 0);
            }
            words[word] |= 1 << bit;
        }
        Mask(words)
    }

    /// That of this thread, without CPUs that are offline.
    pub fn of_this_thread() -> Result<Mask, Errno> {
        const MOST_WORDS: usize = 1 << 14;
        let mut words = vec![0; 16];
        loop {
            // SAFETY: the kernel fills no more than the size that is given; 0 is this thread.
            let got =
                unsafe { libc::sched_getaffinity(0, size_of_val(&words[..]), words.as_mut_ptr().cast()) };
            match Errno::result(got) {
                // There are more CPUs than that.
                Err(Errno::EINVAL) if words.len() < MOST_WORDS => words.resize(words.len() * 2, 0),
                got => return got.map(|_| Mask(words)),
            }
        }
    }

    pub fn cpus(&self) -> impl Iterator<Item = u32> {
        (0..).zip(&self.0).flat_map(|(index, &word)| {
            (0..64u32).filter(move |bit| word & (1 << bit) != 0).map(move |bit| index * 64 + bit)
        })
    }

    /// In a child: for this thread and all that it will start. Async-signal-safe.
    pub fn apply(&self) -> Result<(), Errno> {
        // SAFETY: the mask has the size that is given; 0 is this thread.
        let set = unsafe { libc::sched_setaffinity(0, size_of_val(&self.0[..]), self.0.as_ptr().cast()) };
        Errno::result(set).map(drop)
    }
}

/// How many CPUs this machine runs on, whoever may use them.
pub fn online() -> usize {
    // SAFETY: sysconf takes a plain number and touches nothing.
    let number = unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) };
    usize::try_from(number).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dev_12_a_mask_is_its_cpus() {
        for cpus in [vec![], vec![0], vec![3, 63, 64, 1023, 1024, 5000]] {
            assert_eq!(Mask::of(cpus.iter().copied()).cpus().collect::<Vec<_>>(), cpus);
        }
    }

    #[test]
    fn dev_12_a_thread_has_the_mask_that_it_was_given() {
        let before = Mask::of_this_thread().unwrap();
        let last: Vec<u32> = before.cpus().last().into_iter().collect();
        assert!(!last.is_empty());
        std::thread::spawn(move || {
            Mask::of(last.iter().copied()).apply().unwrap();
            assert_eq!(Mask::of_this_thread().unwrap().cpus().collect::<Vec<_>>(), last);
            assert_eq!(Mask::of([].into_iter()).apply(), Err(Errno::EINVAL));
        })
        .join()
        .unwrap();
        assert!(before.cpus().eq(Mask::of_this_thread().unwrap().cpus()));
    }
}
