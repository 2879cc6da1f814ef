//! What an agent and its fork server say to each other: a request or an answer is eight numbers.

use crate::sys::packets::{WORDS, Words};
use crate::sys::process::{Status, Usage};

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ServerRequest {
    /// What the next workers have in common: with it comes a memfd of that many bytes, with the working
    /// directory, or nothing, and the environment, and then the control page, if there is one.
    Common { length: usize },
    /// The three streams of the next workers come with it.
    Streams,
    /// Fork a worker. With it comes its channel.
    Birth { slot: usize },
    /// Reap the workers that have ended.
    Reap,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum ServerAnswer {
    /// The warm-up is over.
    Ready,
    /// With it comes a pidfd.
    Born {
        slot: usize,
        pid: i32,
    },
    NotBorn {
        slot: usize,
        errno: i32,
    },
    Ended {
        slot: usize,
        status: Status,
        usage: Usage,
    },
    /// It ended, and something that the warm-up left took its status.
    Lost {
        slot: usize,
    },
    Reaped,
}

impl ServerRequest {
    pub fn words(self) -> Words {
        match self {
            ServerRequest::Birth { slot } => words(&[1, slot as i64]),
            ServerRequest::Reap => words(&[2]),
            ServerRequest::Common { length } => words(&[3, length as i64]),
            ServerRequest::Streams => words(&[4]),
        }
    }

    pub fn read(words: Words) -> Option<ServerRequest> {
        match words[0] {
            1 => Some(ServerRequest::Birth { slot: words[1] as usize }),
            2 => Some(ServerRequest::Reap),
            3 => Some(ServerRequest::Common { length: words[1] as usize }),
            4 => Some(ServerRequest::Streams),
            _ => None,
        }
    }
}

impl ServerAnswer {
    pub fn words(self) -> Words {
        match self {
            ServerAnswer::Ready => words(&[1]),
            ServerAnswer::Born { slot, pid } => words(&[2, slot as i64, i64::from(pid)]),
            ServerAnswer::NotBorn { slot, errno } => words(&[3, slot as i64, i64::from(errno)]),
            ServerAnswer::Ended { slot, status, usage } => {
                let (kind, number) = match status {
                    Status::Exited(code) => (0, code),
                    Status::Signaled { signal, core: false } => (1, signal),
                    Status::Signaled { signal, core: true } => (2, signal),
                };
                let Usage { max_rss_bytes, user_cpu_ns, system_cpu_ns } = usage;
                let usage = [max_rss_bytes as i64, user_cpu_ns as i64, system_cpu_ns as i64];
                words(&[4, slot as i64, kind, i64::from(number), usage[0], usage[1], usage[2]])
            }
            ServerAnswer::Reaped => words(&[5]),
            ServerAnswer::Lost { slot } => words(&[6, slot as i64]),
        }
    }

    pub fn read(words: Words) -> Option<ServerAnswer> {
        let [kind, slot, ..] = words;
        let slot = slot as usize;
        Some(match kind {
            1 => ServerAnswer::Ready,
            2 => ServerAnswer::Born { slot, pid: words[2] as i32 },
            3 => ServerAnswer::NotBorn { slot, errno: words[2] as i32 },
            4 => {
                let number = words[3] as i32;
                let status = match words[2] {
                    0 => Status::Exited(number),
                    kind => Status::Signaled { signal: number, core: kind == 2 },
                };
                let usage = Usage {
                    max_rss_bytes: words[4] as u64,
                    user_cpu_ns: words[5] as u64,
                    system_cpu_ns: words[6] as u64,
                };
                ServerAnswer::Ended { slot, status, usage }
            }
            5 => ServerAnswer::Reaped,
            6 => ServerAnswer::Lost { slot },
            _ => return None,
        })
    }
}

fn words(first: &[i64]) -> Words {
    let mut words = [0; WORDS];
    words[..first.len()].copy_from_slice(first);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        let usage = Usage { max_rss_bytes: 1 << 40, user_cpu_ns: 2, system_cpu_ns: 3 };
        for status in [
            Status::Exited(255),
            Status::Signaled { signal: 9, core: false },
            Status::Signaled { signal: 11, core: true },
        ] {
            let ended = ServerAnswer::Ended { slot: 7, status, usage };
            assert_eq!(ServerAnswer::read(ended.words()), Some(ended));
        }
        for answer in [
            ServerAnswer::Ready,
            ServerAnswer::Reaped,
            ServerAnswer::Born { slot: 16_383, pid: 1 << 22 },
            ServerAnswer::NotBorn { slot: 0, errno: 11 },
            ServerAnswer::Lost { slot: 1 },
        ] {
            assert_eq!(ServerAnswer::read(answer.words()), Some(answer));
        }
        for request in [
            ServerRequest::Birth { slot: 9 },
            ServerRequest::Reap,
            ServerRequest::Common { length: 1 << 20 },
            ServerRequest::Streams,
        ] {
            assert_eq!(ServerRequest::read(request.words()), Some(request));
        }
        assert_eq!((ServerAnswer::read([9; WORDS]), ServerRequest::read([9; WORDS])), (None, None));
    }
}
