//! torch's file timers: what its clients write to a FIFO, one JSON object a line, and the timers that follow.
//!
//! `{"version": 1, "pid": 4711, "scope_id": "step", "expiration_time": 1785600000.5, "signal": 9}` sets a timer,
//! or replaces the one that this process has for that scope; a negative time releases it. The time is that of
//! the wall clock. What is left until then is worked out when the line arrives; from there on the monotonic
//! clock counts, which nobody sets.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use crate::moment::Moment;

/// What a client may write at once to a FIFO (PIPE_BUF): torch's refuses longer requests itself.
const LONGEST: usize = 4096;
/// How many timers a worker may have, its descendants' included.
pub const MOST: usize = 256;

#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub pid: i32,
    pub scope: String,
    /// Seconds since 1970; a release if it is negative.
    pub expiration: f64,
    pub signal: i64,
}

/// One line that has arrived.
#[derive(Debug, PartialEq)]
pub struct Line {
    pub request: Option<Request>,
    /// Some of it was no request.
    pub broken: bool,
}

/// Makes lines of bytes.
#[derive(Default)]
pub struct Lines {
    rest: Vec<u8>,
    /// The line is so long that only its end is kept.
    cut: bool,
}

impl Lines {
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, ends) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            self.rest.extend_from_slice(text);
            let excess = self.rest.len().saturating_sub(LONGEST);
            self.cut |= excess > 0;
            self.rest.drain(..excess);
            if ends {
                lines.push(parse(&self.rest, std::mem::take(&mut self.cut)));
                self.rest.clear();
            }
        }
        lines
    }
}

fn parse(line: &[u8], cut: bool) -> Line {
    if let (false, Some(request)) = (cut, request(line)) {
        return Line { request: Some(request), broken: false };
    }
    // Behind what somebody did not write to its end stands the request of the next. Within a request there is
    // no `{"`, as JSON escapes the quotes of strings.
    let last = line.windows(2).rposition(|pair| pair == b"{\"");
    Line { request: last.and_then(|start| request(&line[start..])), broken: true }
}

fn request(text: &[u8]) -> Option<Request> {
    let json: Value = serde_json::from_slice(text).ok()?;
    Some(Request {
        pid: json.get("pid")?.as_i64().and_then(|pid| i32::try_from(pid).ok()).filter(|&pid| pid > 0)?,
        scope: json.get("scope_id")?.as_str()?.into(),
        expiration: json.get("expiration_time")?.as_f64()?,
        signal: json.get("signal")?.as_i64()?,
    })
}

/// Whose timer it is: a worker's, or that of a process which a worker has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    pub worker: usize,
    pub pid: i32,
    /// When it was started, in the kernel's ticks: another process with this number has another time.
    pub started: u64,
}

/// The same moment on both clocks.
#[derive(Clone, Copy)]
pub struct Clocks {
    pub monotonic: Moment,
    pub wall: Duration,
}

struct Timer {
    holder: Holder,
    set: Moment,
    length: Duration,
    signal: i64,
}

impl Timer {
    fn deadline(&self) -> Moment {
        self.set.saturating_add(self.length)
    }

    /// What is to be sent: nothing where the client wants it only reported, and SIGKILL in place of what is no
    /// signal.
    fn signal(&self) -> Option<i32> {
        match self.signal {
            ..=0 => None,
            signal => {
                Some(i32::try_from(signal).ok().filter(|&n| n <= libc::SIGRTMAX()).unwrap_or(libc::SIGKILL))
            }
        }
    }
}

/// A timer that was not released in time.
#[derive(Debug, PartialEq)]
pub struct Expired {
    pub holder: Holder,
    pub scope: String,
    /// How long it was set for, and how long it has been held.
    pub length: Duration,
    pub held: Duration,
    /// None where it is only reported.
    pub signal: Option<i32>,
}

#[derive(Debug, PartialEq)]
pub struct TooMany;

/// The timers of one attempt, by process and scope.
#[derive(Default)]
pub struct Timers(BTreeMap<(i32, String), Timer>);

impl Timers {
    pub fn acquire(&mut self, holder: Holder, request: Request, now: Clocks) -> Result<(), TooMany> {
        let left = request.expiration - now.wall.as_secs_f64();
        let length = Duration::try_from_secs_f64(left.max(0.0)).unwrap_or(Duration::MAX);
        let timer = Timer { holder, set: now.monotonic, length, signal: request.signal };
        let key = (holder.pid, request.scope);
        let others = self.0.values().filter(|timer| timer.holder.worker == holder.worker).count();
        if others >= MOST && !self.0.contains_key(&key) {
            return Err(TooMany);
        }
        self.0.insert(key, timer);
        Ok(())
    }

    pub fn release(&mut self, request: Request) {
        self.0.remove(&(request.pid, request.scope));
    }

    /// A worker has ended.
    pub fn forget(&mut self, worker: usize) {
        self.0.retain(|_, timer| timer.holder.worker != worker);
    }

    /// All begin anew.
    pub fn begin_anew(&mut self, now: Moment) {
        self.0.values_mut().for_each(|timer| timer.set = now);
    }

    /// So much of the time up to now counts for nobody.
    pub fn give_back(&mut self, lost: Duration) {
        self.0.values_mut().for_each(|timer| timer.set = timer.set.saturating_add(lost));
    }

    /// When the next one expires.
    pub fn deadline(&self) -> Option<Moment> {
        self.0.values().map(Timer::deadline).min()
    }

    /// Takes those that have expired, in their order. Once one of a process has a signal to send, its others
    /// are of no interest.
    pub fn expired(&mut self, now: Moment) -> Vec<Expired> {
        let (mut due, left): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.0).into_iter().partition(|(_, timer)| timer.deadline() <= now);
        self.0 = left.into_iter().collect();
        due.sort_by_key(|(_, timer)| timer.deadline());
        let mut ended: Vec<i32> = Vec::new();
        let mut expired = Vec::new();
        for ((pid, scope), timer) in due {
            if ended.contains(&pid) {
                continue;
            }
            let Timer { holder, set, length, .. } = timer;
            let signal = timer.signal();
            if signal.is_some() {
                ended.push(pid);
            }
            expired.push(Expired { holder, scope, length, held: now.saturating_sub(set), signal });
        }
        self.0.retain(|(pid, _), _| !ended.contains(pid));
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);
    /// The wall clock when the monotonic one is 0.
    const EPOCH: Duration = Duration::from_secs(1_785_600_000);

    fn at(seconds: u64) -> Clocks {
        let time = Duration::from_secs(seconds);
        Clocks { monotonic: time, wall: EPOCH + time }
    }

    fn holder(worker: usize) -> Holder {
        Holder { worker, pid: 100 + worker as i32, started: 5 }
    }

    fn until(pid: i32, scope: &str, seconds: f64, signal: i64) -> Request {
        Request { pid, scope: scope.into(), expiration: EPOCH.as_secs_f64() + seconds, signal }
    }

    fn line(pid: i32, scope: &str) -> String {
        format!(
            r#"{{"version": 1, "pid": {pid}, "scope_id": "{scope}", "expiration_time": 1785600001.5, "signal": 9}}"#
        )
    }

    fn requests(lines: &[Line]) -> Vec<i32> {
        lines.iter().filter_map(|line| line.request.as_ref()).map(|request| request.pid).collect()
    }

    #[test]
    fn time_01_a_line_of_torchs_client_is_read() {
        let lines = Lines::default().feed(format!("{}\n", line(7, "a b")).as_bytes());
        let wanted = Request { pid: 7, scope: "a b".into(), expiration: 1_785_600_001.5, signal: 9 };
        assert_eq!(lines, [Line { request: Some(wanted), broken: false }]);
    }

    #[test]
    fn time_begins_anew_after_a_debugger() {
        let mut timers = Timers::default();
        timers.acquire(holder(0), until(100, "a", 5.0, 9), at(1)).unwrap();
        timers.begin_anew(100 * SECOND);
        assert_eq!(timers.deadline(), Some(104 * SECOND));
    }

    #[test]
    fn time_21_what_all_stood_still_does_not_count() {
        let mut timers = Timers::default();
        timers.acquire(holder(0), until(100, "a", 5.0, 9), at(1)).unwrap();
        timers.give_back(60 * SECOND);
        assert_eq!(timers.deadline(), Some(65 * SECOND));
    }

    #[test]
    fn time_06_what_is_no_request_costs_no_other() {
        let mut lines = Lines::default();
        for garbage in [
            "",
            "x",
            "[]",
            "{}",
            "{\"",
            "nul",
            "{\"pid\": 1}",
            "{\"pid\": -4, \"scope_id\": \"a\"}",
            "\0\u{1}",
        ] {
            let text = format!("{garbage}\n{}\n", line(7, "s"));
            let got = lines.feed(text.as_bytes());
            assert!(got[0].broken && got[0].request.is_none(), "{garbage}");
            assert_eq!(requests(&got), [7], "{garbage}");
        }
        // Cut off: the next one's line begins in the middle.
        let whole = line(7, "s");
        for end in 0..whole.len() {
            let got = lines.feed(format!("{}{}\n", &whole[..end], line(8, "t")).as_bytes());
            assert_eq!(requests(&got), [8], "cut after {end}");
        }
        // Oversized, with and without an end.
        let long = "x".repeat(100_000);
        assert_eq!(requests(&lines.feed(format!("{long}\n{whole}\n").as_bytes())), [7]);
        assert_eq!(requests(&lines.feed(format!("{long}{whole}\n").as_bytes())), [7]);
        assert!(lines.rest.is_empty());
    }

    #[test]
    fn time_02_a_scope_is_replaced_released_or_unknown() {
        let mut timers = Timers::default();
        timers.acquire(holder(0), until(100, "a", 1.0, 9), at(0)).unwrap();
        timers.acquire(holder(0), until(100, "a", 5.0, 9), at(0)).unwrap();
        assert_eq!(timers.deadline(), Some(5 * SECOND));
        timers.release(until(100, "unknown", 0.0, 0));
        timers.release(until(101, "a", 0.0, 0));
        assert_eq!(timers.deadline(), Some(5 * SECOND));
        timers.release(until(100, "a", 0.0, 0));
        assert_eq!(timers.deadline(), None);
        assert_eq!(timers.expired(9 * SECOND), []);
    }

    #[test]
    fn time_09_one_kill_by_the_earliest_with_a_signal() {
        let mut timers = Timers::default();
        for (scope, seconds, signal) in [
            ("late", 3.0, 9),
            ("report", 1.0, 0),
            ("kill", 2.0, 15),
            ("negative", 1.5, -2),
            ("future", 60.0, 9),
        ] {
            timers.acquire(holder(0), until(100, scope, seconds, signal), at(0)).unwrap();
        }
        timers.acquire(holder(1), until(101, "other", 60.0, 9), at(0)).unwrap();
        let expired = timers.expired(4 * SECOND);
        let told: Vec<_> = expired.iter().map(|timer| (timer.scope.as_str(), timer.signal)).collect();
        assert_eq!(told, [("report", None), ("negative", None), ("kill", Some(15))]);
        assert_eq!((expired[2].length, expired[2].held), (2 * SECOND, 4 * SECOND));
        // What the process had beside is gone, the other's is there.
        assert_eq!(timers.deadline(), Some(60 * SECOND));
        assert_eq!(timers.expired(61 * SECOND).len(), 1);
    }

    #[test]
    fn time_01_no_signal_is_sigkill() {
        let signal = |signal| Timer { holder: holder(0), set: SECOND, length: SECOND, signal }.signal();
        assert_eq!([signal(0), signal(-1), signal(i64::MIN)], [None; 3]);
        assert_eq!([signal(1), signal(10), signal(64)], [Some(1), Some(10), Some(64)]);
        assert_eq!([signal(65), signal(1 << 40)], [Some(libc::SIGKILL); 2]);
    }

    #[test]
    fn time_12_a_step_of_the_wall_clock_moves_no_timer() {
        const HOUR: Duration = Duration::from_secs(3600);
        let mut timers = Timers::default();
        timers.acquire(holder(0), until(100, "before", 10.0, 9), at(0)).unwrap();
        // The clock is set back, and the client goes by it.
        let stepped = Clocks { monotonic: SECOND, wall: EPOCH + SECOND - HOUR };
        timers.acquire(holder(1), until(101, "after", 1.0 - 3600.0 + 5.0, 9), stepped).unwrap();
        assert_eq!(timers.deadline(), Some(6 * SECOND));
        assert_eq!(timers.expired(6 * SECOND).len(), 1);
        assert_eq!(timers.deadline(), Some(10 * SECOND));
    }

    #[test]
    fn time_06_times_beyond_all_bounds() {
        let mut timers = Timers::default();
        timers.acquire(holder(0), until(100, "never", 1e300, 9), at(0)).unwrap();
        assert_eq!(timers.expired(Duration::from_secs(1 << 60)), []);
        timers.acquire(holder(0), until(100, "past", -1e6, 9), at(5)).unwrap();
        assert_eq!(timers.expired(5 * SECOND)[0].length, Duration::ZERO);
    }

    #[test]
    fn time_04_a_worker_that_has_ended_has_no_timer() {
        let mut timers = Timers::default();
        timers.acquire(holder(0), until(100, "a", 1.0, 9), at(0)).unwrap();
        timers.acquire(Holder { pid: 555, ..holder(0) }, until(555, "b", 1.0, 9), at(0)).unwrap();
        timers.forget(0);
        assert_eq!(timers.expired(9 * SECOND), []);
    }

    #[test]
    fn time_06_one_worker_cannot_take_all_the_room() {
        let mut timers = Timers::default();
        let mut set = |worker: usize, scope: usize| {
            timers.acquire(holder(worker), until(100, &scope.to_string(), 1.0, 9), at(0))
        };
        assert!((0..MOST).all(|scope| set(0, scope).is_ok()));
        assert_eq!(set(0, MOST), Err(TooMany));
        assert_eq!((set(0, 3), set(1, MOST)), (Ok(()), Ok(())));
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_pieces_leave_the_next_line_whole(
            bytes in prop::collection::vec(any::<u8>(), 0..6000), cut in 0usize..6000,
        ) {
            let mut lines = Lines::default();
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            lines.feed(first);
            lines.feed(second);
            let got = lines.feed(format!("{}\n", line(7, "s")).as_bytes());
            prop_assert_eq!(requests(&got), [7]);
            prop_assert!(lines.rest.is_empty());
        }

        /// Whatever is set, replaced and released: what expires was due, and nothing that is due stays.
        #[test]
        fn nothing_expires_early_or_never(
            steps in prop::collection::vec((0usize..3, 0u8..4, 0u64..20, -1i64..70, any::<bool>()), 1..40),
        ) {
            let mut timers = Timers::default();
            for (second, (worker, scope, seconds, signal, release)) in steps.into_iter().enumerate() {
                let now = at(second as u64);
                let left = (second as u64 + seconds) as f64;
                let request = until(holder(worker).pid, &scope.to_string(), left, signal);
                if release {
                    timers.release(request);
                } else {
                    prop_assert_eq!(timers.acquire(holder(worker), request, now), Ok(()));
                }
                for timer in timers.expired(now.monotonic) {
                    prop_assert!(timer.held >= timer.length);
                }
                prop_assert!(timers.deadline().is_none_or(|deadline| deadline > now.monotonic));
            }
        }
    }
}
