//! Whether the kernel killed for lack of memory: the counters of this process's memory cgroup.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter of OOM kills that may have met a worker.
pub struct OomKills {
    file: Option<PathBuf>,
    before: AtomicU64,
}

impl OomKills {
    /// Notes the count as it is now.
    pub fn watch() -> OomKills {
        let file = counter_file(&std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default());
        let kills = OomKills { file, before: AtomicU64::new(0) };
        kills.look();
        kills
    }

    /// Whether there were any since the last look.
    pub fn any(&self) -> bool {
        self.count() > self.before.load(Ordering::Acquire)
    }

    /// Counts from here on.
    pub fn look(&self) {
        self.before.store(self.count(), Ordering::Release);
    }

    fn count(&self) -> u64 {
        let text = self.file.as_ref().and_then(|file| std::fs::read_to_string(file).ok());
        text.map_or(0, |text| oom_kills(&text))
    }
}

/// cgroup 2 counts in memory.events, cgroup 1 in memory.oom_control of its memory hierarchy.
fn counter_file(cgroups: &str) -> Option<PathBuf> {
    let candidates = cgroups.lines().filter_map(|line| {
        let (controllers, path) = line
            .splitn(3, ':')
            .skip(1)
            .collect::<Vec<_>>()
            .try_into()
            .map(|[c, p]: [&str; 2]| (c, p))
            .ok()?;
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            Some(PathBuf::from("/sys/fs/cgroup").join(path).join("memory.events"))
        } else if controllers.split(',').any(|controller| controller == "memory") {
            Some(PathBuf::from("/sys/fs/cgroup/memory").join(path).join("memory.oom_control"))
        } else {
            None
        }
    });
    candidates.into_iter().find(|file| file.exists())
}

fn oom_kills(text: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix("oom_kill "))
        .and_then(|count| count.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reap_16_both_formats_are_counted() {
        assert_eq!(oom_kills("low 0\nhigh 0\nmax 3\noom 2\noom_kill 2\noom_group_kill 0\n"), 2);
        assert_eq!(oom_kills("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), 7);
        assert_eq!(oom_kills(""), 0);
    }
}
