//! The page that the agent and the workers of one attempt share: who writes what where.
//!
//! ```text
//! header   magic and number of ranks | the request, written by the agent | the bell, rung by workers
//! rank 0   step, progress, heartbeat, place, begin | answers, written by the worker alone | its timers | its sections
//! rank 1   ...
//! ```
//!
//! What one side writes often has two cache lines for itself. All words are plain atomics; each side takes
//! what the other wrote for numbers that may be anything. The file's size is sealed, so that nobody can cut
//! it under the mapping of another.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering, fence};
use std::time::Duration;

use nix::errno::Errno;

use super::request::{Answered, Debugged, Reason, Request, RequestKind, View};
use super::section::{Course, NAME_WORDS, Name, SECTIONS_MOST, Seen, Whereabouts};
use super::watch::{Said, Timer};
use crate::moment::Moment;
use crate::sys::memory::{self, Mapping};
use crate::sys::{barrier, fd, futex};

/// "icectl" and the version of this layout, which both sides must have in common.
const MAGIC: u64 = u64::from_le_bytes(*b"icectl\0\x03");

/// Words of eight bytes of the header. Two cache lines each: MAGIC.., SEQUENCE.., BELL...
const MAGIC_AT: usize = 0;
const RANKS: usize = 1;
/// Not 0: workers have to make barriers of their own.
const FENCED: usize = 2;
/// The shortest limit of any section, in nanoseconds; 0 where sections have no limits.
const SHORTEST: usize = 3;
/// The signals that workers ignore until the agent stops them, bit n - 1 for signal n.
const SHIELD: usize = 4;
/// The request, from here to `HELD`. The sequence number is odd while the agent changes one of these words, and while
/// it chooses the step.
const SEQUENCE: usize = 16;
/// The number of the request: it grows with each.
const ID: usize = 17;
/// A `RequestKind` and a `Reason`, as numbers.
const KIND: usize = 18;
const REASON: usize = 19;
/// The step at which all ranks carry the request out.
const AT_STEP: usize = 20;
/// The moment until which they answer, in nanoseconds.
const DEADLINE: usize = 21;
/// The number of the request by which workers were paused, 0 while they are not.
const PAUSED_BY: usize = 22;
/// The rank whose debugger runs, plus one, 0 for none; and the number of its call for it.
const DEBUGGED: usize = 23;
const SESSION: usize = 24;
/// Not 0: who comes to the step of the request waits there.
const HELD: usize = 25;
/// A futex: workers that call the agent count it up and wake it.
const BELL: usize = 32;
/// The moment at which the agent looks at the timers next, in nanoseconds.
const NEXT_LOOK: usize = 33;
/// Not 0 while a worker asks the agent to look at once.
const LOOK: usize = 34;
/// The last rank that asked for a restart of the group, plus one, 0 for none.
const RESTART: usize = 35;
/// The number of the request whose answers the agent waits for, and, in the lowest bits, how many answers are missing.
/// The agent sets it, workers count it down, and the last one wakes the agent.
const OWED: usize = 36;
const OWED_BITS: u32 = 16;
/// In these bits: answers are not counted, each one wakes the agent.
const EACH: u64 = (1 << OWED_BITS) - 1;
const HEADER: usize = 64;

/// Words of a rank. Its step plus one, 0 before it has said any.
const STEP: usize = 0;
/// Its progress: how much is done, of how much.
const DONE: usize = 1;
const TOTAL: usize = 2;
/// The moment of its last heartbeat, in nanoseconds, 0 for none.
const HEARTBEAT: usize = 3;
/// The section that it is in, and since when: a `Whereabouts` as a word.
const PLACE: usize = 4;
/// When its process began, 0 for none.
const BEGAN: usize = 5;
/// The number of the last request that it has answered, the answer, and at which step it was.
const ANSWERED: usize = 16;
const ANSWER: usize = 17;
const ANSWER_STEP: usize = 18;
/// The number of the request by which it is paused, 0 while it is not.
const PAUSED: usize = 19;
/// Not 0 once it has opened the page.
const OPENED: usize = 20;
/// The call for a debugger that has not ended, 0 for none.
const DEBUG: usize = 21;
/// The number of the last request that it has begun to carry out.
const BEGUN: usize = 22;
const TIMERS: usize = 32;
const SECTIONS: usize = 128;
const SLOT: usize = 192;

/// How many timers a rank may have at once, and how long the name of each may be, in bytes.
pub const TIMERS_MOST: usize = 12;
pub const SCOPE_MOST: usize = 48;
/// Words of a timer: when it expires (0 for none), its length, its name.
const TIMER: usize = 8;
const EXPIRES: usize = 0;
const LASTS: usize = 1;
const SCOPE: usize = 2;
/// Words of a section: how long the first lasted (0 for none), the longest of the others and how many there
/// were, its name.
const SECTION: usize = 8;
const FIRST: usize = 0;
const LONGEST: usize = 1;
const COUNT: usize = 2;
const NAME: usize = 3;

const SUCCEEDED: u64 = 1;
const FAILED: u64 = 2;

pub struct Page {
    /// None at the worker's end, which needs it no more.
    file: Option<OwnedFd>,
    words: Mapping,
    ranks: usize,
}

fn size(ranks: usize) -> usize {
    (HEADER + ranks * SLOT) * size_of::<u64>()
}

fn words_of(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl Page {
    /// The agent's, for so many ranks.
    pub fn new(ranks: usize) -> Result<Page, Errno> {
        let file = fd::above_protocol(memory::memfd(c"ice-control")?)?;
        memory::resize(file.as_raw_fd(), size(ranks))?;
        memory::fix_size(&file)?;
        let words = Mapping::of_file(file.as_raw_fd(), 0, size(ranks), true)?;
        let page = Page { file: Some(file), words, ranks };
        page.long(RANKS).store(ranks as u64, Ordering::Relaxed);
        page.long(FENCED).store(u64::from(!barrier::is_available()), Ordering::Relaxed);
        page.long(NEXT_LOOK).store(u64::MAX, Ordering::Relaxed);
        page.long(MAGIC_AT).store(MAGIC, Ordering::Release);
        Ok(page)
    }

    /// A worker's. None if the descriptor is not that of a page, of this version, that nobody can cut.
    pub fn open(fd: RawFd) -> Option<Page> {
        let length = fd::size(fd).ok()?;
        if length < size(1) || !memory::size_is_sealed(fd) {
            return None;
        }
        let words = Mapping::of_file(fd, 0, length, true).ok()?;
        let page = Page { file: None, words, ranks: (length / size_of::<u64>() - HEADER) / SLOT };
        let ours = page.long(MAGIC_AT).load(Ordering::Acquire) == MAGIC
            && page.long(RANKS).load(Ordering::Relaxed) == page.ranks as u64;
        ours.then_some(page)
    }

    /// As a worker may that has lost its way.
    #[cfg(fuzzing)]
    pub fn scribble(&self, bytes: &[u8]) {
        self.words.write(0, &bytes[..bytes.len().min(size(self.ranks))]);
    }

    pub fn fd(&self) -> Option<RawFd> {
        self.file.as_ref().map(AsRawFd::as_raw_fd)
    }

    pub fn ranks(&self) -> usize {
        self.ranks
    }

    fn long(&self, word: usize) -> &AtomicU64 {
        self.words.long(word)
    }

    fn of(&self, rank: usize, word: usize) -> &AtomicU64 {
        self.words.long(HEADER + rank * SLOT + word)
    }

    fn sequence_word(&self) -> &AtomicI32 {
        self.words.word(2 * SEQUENCE)
    }

    fn bell(&self) -> &AtomicI32 {
        self.words.word(2 * BELL)
    }

    // ---- the shield

    /// Signals that are nothing to workers as long as they stand there.
    pub fn shield(&self) -> &AtomicU64 {
        self.long(SHIELD)
    }

    // ---- the request, by the agent

    /// Has every worker that looks from now on wait for `publish`, and sees to it that none looked before
    /// without its step being seen after: see `request`. `sequence` is the one before, which is even.
    pub fn announce(&self, sequence: i32) {
        self.sequence_word().store(sequence.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::SeqCst);
        // Where it cannot be done workers have been told to make barriers of their own.
        barrier::for_all();
    }

    /// Ends what `announce` began; returns the sequence that now stands.
    pub fn publish(&self, sequence: i32, view: &View) -> i32 {
        let request = view.request.as_ref();
        let words = [
            (ID, request.map_or(0, |request| request.id)),
            (KIND, request.map_or(0, |request| request.kind as u64)),
            (REASON, request.map_or(0, |request| request.reason as u64)),
            (AT_STEP, request.map_or(0, |request| request.at_step)),
            (DEADLINE, request.map_or(0, |request| words_of(request.deadline))),
            (PAUSED_BY, view.paused_by),
            (DEBUGGED, view.debugged.map_or(0, |debugged| debugged.rank as u64 + 1)),
            (SESSION, view.debugged.map_or(0, |debugged| debugged.session)),
            (HELD, request.map_or(0, |request| request.held.into())),
        ];
        // A worker that still reads the old words has to find that the sequence has changed.
        fence(Ordering::Release);
        for (word, value) in words {
            self.long(word).store(value, Ordering::Relaxed);
        }
        let sequence = sequence.wrapping_add(2);
        self.sequence_word().store(sequence, Ordering::Release);
        futex::wake(self.sequence_word());
        sequence
    }

    // ---- the request, by a worker

    pub fn sequence(&self) -> i32 {
        self.sequence_word().load(Ordering::Acquire)
    }

    /// Waits until the agent says something else.
    pub fn wait(&self, sequence: i32) {
        futex::wait(self.sequence_word(), sequence, None);
    }

    /// Whether this side has to make barriers between a step and a look.
    pub fn is_fenced(&self) -> bool {
        self.long(FENCED).load(Ordering::Relaxed) != 0 || !barrier::take_part()
    }

    /// What stood there at this sequence; none if it has changed since, or is about to.
    pub fn view(&self, sequence: i32) -> Option<View> {
        if sequence & 1 != 0 {
            return None;
        }
        let word = |word| self.long(word).load(Ordering::Relaxed);
        let request = RequestKind::from_number(word(KIND)).map(|kind| Request {
            id: word(ID),
            kind,
            reason: Reason::from_number(word(REASON)),
            at_step: word(AT_STEP),
            held: word(HELD) != 0,
            deadline: Duration::from_nanos(word(DEADLINE)),
        });
        let debugged = (word(DEBUGGED) as usize).checked_sub(1);
        let debugged = debugged.map(|rank| Debugged { rank, session: word(SESSION) });
        let view = View { request, paused_by: word(PAUSED_BY), debugged };
        fence(Ordering::Acquire);
        (self.sequence_word().load(Ordering::Relaxed) == sequence).then_some(view)
    }

    // ---- what a worker says

    /// One plain store.
    pub fn set_step(&self, rank: usize, step: u64) {
        self.of(rank, STEP).store(step.wrapping_add(1), Ordering::Relaxed);
    }

    pub fn step(&self, rank: usize) -> Option<u64> {
        self.of(rank, STEP).load(Ordering::Relaxed).checked_sub(1)
    }

    pub fn set_progress(&self, rank: usize, done: u64, total: u64) {
        self.of(rank, TOTAL).store(total, Ordering::Relaxed);
        self.of(rank, DONE).store(done, Ordering::Relaxed);
    }

    pub fn set_heartbeat(&self, rank: usize, now: Moment) {
        self.of(rank, HEARTBEAT).store(words_of(now), Ordering::Relaxed);
    }

    /// A process begins as this rank: what one before it said, the first of a script say, is void. What that
    /// one answered is not.
    pub fn begin(&self, rank: usize, now: Moment) {
        (0..TIMERS_MOST).for_each(|index| self.set_timer(rank, index, None));
        let sections = SECTIONS..SECTIONS + SECTIONS_MOST * SECTION;
        for word in [STEP, DONE, TOTAL, HEARTBEAT, PLACE, PAUSED, DEBUG].into_iter().chain(sections) {
            self.of(rank, word).store(0, Ordering::Relaxed);
        }
        self.of(rank, BEGAN).store(words_of(now), Ordering::Relaxed);
        self.of(rank, OPENED).store(1, Ordering::Release);
    }

    /// The call for a debugger that this rank has made, 0 once it has ended.
    pub fn set_debug(&self, rank: usize, session: u64) {
        self.of(rank, DEBUG).store(session, Ordering::Release);
        self.ring();
    }

    pub fn debug(&self, rank: usize) -> u64 {
        self.of(rank, DEBUG).load(Ordering::Acquire)
    }

    /// The pause that this rank keeps, 0 for none.
    pub fn set_paused(&self, rank: usize, by: u64) {
        self.of(rank, PAUSED).store(by, Ordering::Release);
    }

    pub fn said(&self, rank: usize) -> Said {
        let word = |word| self.of(rank, word).load(Ordering::Acquire);
        let time = |word| (word != 0).then(|| Duration::from_nanos(word));
        Said {
            opened: word(OPENED) != 0,
            step: self.step(rank),
            progress: (word(DONE), word(TOTAL)),
            heartbeat: time(word(HEARTBEAT)),
            began: time(word(BEGAN)),
            paused: word(PAUSED) != 0,
            place: self.place(rank),
        }
    }

    /// The agent waits for so many answers; to be said before the request.
    pub fn expect_answers(&self, id: u64, count: usize) {
        self.long(OWED).store(id << OWED_BITS | (count as u64).min(EACH), Ordering::Release);
    }

    /// It is to be called for each of them from now on, as it cannot tell whether one that is gone was counted;
    /// those that were given before are to be seen after this.
    pub fn expect_each_answer(&self, id: u64) {
        self.long(OWED).swap(id << OWED_BITS | EACH, Ordering::AcqRel);
    }

    /// And calls the agent if it waits for this one.
    pub fn answer(&self, rank: usize, answer: Answered) {
        let success = if answer.success { SUCCEEDED } else { FAILED };
        self.of(rank, ANSWER).store(success, Ordering::Relaxed);
        let step = answer.step.map_or(0, |step| step.wrapping_add(1));
        self.of(rank, ANSWER_STEP).store(step, Ordering::Relaxed);
        self.of(rank, ANSWERED).store(answer.id, Ordering::Release);
        let count_down = |owed: u64| {
            let left = owed & EACH;
            (owed >> OWED_BITS == answer.id && left > 0 && left < EACH).then(|| owed - 1)
        };
        let owed = self.long(OWED).fetch_update(Ordering::AcqRel, Ordering::Acquire, count_down);
        let last = answer.id << OWED_BITS | 1;
        if owed.is_ok_and(|owed| owed == last) || owed == Err(answer.id << OWED_BITS | EACH) {
            self.ring();
        }
    }

    /// It carries out this request from now on, unless the sequence has changed by now.
    pub fn set_begun(&self, rank: usize, id: u64) {
        self.of(rank, BEGUN).store(id, Ordering::Relaxed);
    }

    /// Whether a rank is in the midst of this request.
    pub fn is_at(&self, rank: usize, id: u64) -> bool {
        self.of(rank, BEGUN).load(Ordering::Acquire) == id && self.answered(rank).id != id
    }

    /// The last answer of a rank.
    pub fn answered(&self, rank: usize) -> Answered {
        Answered {
            id: self.of(rank, ANSWERED).load(Ordering::Acquire),
            success: self.of(rank, ANSWER).load(Ordering::Relaxed) == SUCCEEDED,
            step: self.of(rank, ANSWER_STEP).load(Ordering::Relaxed).checked_sub(1),
        }
    }

    // ---- the bell

    /// A worker calls the agent: a system call.
    pub fn ring(&self) {
        self.bell().fetch_add(1, Ordering::SeqCst);
        futex::wake(self.bell());
    }

    /// How often it was rung.
    pub fn rung(&self) -> i32 {
        self.bell().load(Ordering::SeqCst)
    }

    /// Waits until it has been rung more often than `rung`.
    pub fn wait_for_ring(&self, rung: i32) {
        futex::wait(self.bell(), rung, None);
    }

    // ---- timers

    fn timer_word(&self, rank: usize, timer: usize, word: usize) -> &AtomicU64 {
        self.of(rank, TIMERS + timer * TIMER + word)
    }

    /// Arms a timer, or with None lets it go.
    pub fn set_timer(&self, rank: usize, index: usize, timer: Option<&Timer>) {
        let expires = self.timer_word(rank, index, EXPIRES);
        // The agent must not take the new name for that of the old time.
        expires.store(0, Ordering::Release);
        let Some(timer) = timer else { return };
        self.timer_word(rank, index, LASTS).store(words_of(timer.lasts), Ordering::Release);
        let mut name = timer.scope.chunks(8);
        for word in 0..SCOPE_MOST / 8 {
            let mut bytes = [0; 8];
            let chunk = name.next().unwrap_or_default();
            bytes[..chunk.len()].copy_from_slice(chunk);
            self.timer_word(rank, index, SCOPE + word).store(u64::from_le_bytes(bytes), Ordering::Release);
        }
        expires.store(words_of(timer.expires).max(1), Ordering::Release);
    }

    /// Has a timer that is armed expire at another moment.
    pub fn move_timer(&self, rank: usize, index: usize, expires: Moment) {
        self.timer_word(rank, index, EXPIRES).store(words_of(expires).max(1), Ordering::Release);
    }

    pub fn timer(&self, rank: usize, index: usize) -> Option<Timer> {
        let expires = self.timer_word(rank, index, EXPIRES).load(Ordering::Acquire);
        if expires == 0 {
            return None;
        }
        let word = |word| self.timer_word(rank, index, word).load(Ordering::Acquire);
        let mut scope: Vec<u8> =
            (0..SCOPE_MOST / 8).flat_map(|index| word(SCOPE + index).to_le_bytes()).collect();
        scope.truncate(scope.iter().position(|&byte| byte == 0).unwrap_or(SCOPE_MOST));
        let timer =
            Timer { scope, expires: Duration::from_nanos(expires), lasts: Duration::from_nanos(word(LASTS)) };
        // It was let go, or armed anew, meanwhile.
        (word(EXPIRES) == expires).then_some(timer)
    }

    /// After an earlier timer than the agent looks for: it is called.
    pub fn expect_look(&self, by: Moment) {
        fence(Ordering::SeqCst);
        if words_of(by) < self.long(NEXT_LOOK).load(Ordering::Relaxed) {
            self.want_look();
        }
    }

    /// Has the agent look what has expired, and what there is to learn.
    pub fn want_look(&self) {
        self.long(LOOK).store(1, Ordering::Release);
        self.ring();
    }

    /// Whether somebody wants it to look since it did so last.
    pub fn take_look(&self) -> bool {
        self.long(LOOK).swap(0, Ordering::AcqRel) != 0
    }

    /// The agent looks again then; timers that were armed before this are to be seen after it.
    pub fn set_next_look(&self, at: Option<Moment>) {
        self.long(NEXT_LOOK).store(at.map_or(u64::MAX, words_of), Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    // ---- sections

    /// Sections are watched, and no limit of one is shorter; none if there is no limit so far.
    pub fn watch_sections(&self, shortest: Option<Duration>) {
        self.long(SHORTEST).store(shortest.map_or(u64::MAX, words_of).max(1), Ordering::Relaxed);
    }

    /// The same for a worker; none if nobody watches them.
    pub fn shortest_section(&self) -> Option<Duration> {
        let shortest = self.long(SHORTEST).load(Ordering::Relaxed);
        (shortest != 0).then(|| Duration::from_nanos(shortest))
    }

    /// One plain store.
    pub fn set_place(&self, rank: usize, place: Whereabouts) {
        self.of(rank, PLACE).store(place.word(), Ordering::Release);
    }

    pub fn place(&self, rank: usize) -> Option<Whereabouts> {
        Whereabouts::of_word(self.of(rank, PLACE).load(Ordering::Acquire))
    }

    fn section_word(&self, rank: usize, section: usize, word: usize) -> &AtomicU64 {
        self.of(rank, SECTIONS + section * SECTION + word)
    }

    fn section_name(&self, rank: usize, section: usize) -> Name {
        let word = |word| self.section_word(rank, section, NAME + word).load(Ordering::Acquire);
        Name::of_words(std::array::from_fn::<_, NAME_WORDS, _>(word))
    }

    /// The section of this name, which has a place from now on; none if there is no room for it.
    pub fn section(&self, rank: usize, name: Name) -> Option<usize> {
        for section in 0..SECTIONS_MOST {
            let known = self.section_name(rank, section);
            if known == Name::default() {
                let word = |word| self.section_word(rank, section, NAME + word);
                (0..NAME_WORDS).for_each(|index| word(index).store(name.word(index), Ordering::Release));
            }
            if known == name || known == Name::default() {
                return Some(section);
            }
        }
        None
    }

    /// A section came to its end, by the worker that was in it; how many times it has by now.
    pub fn end_section(&self, rank: usize, section: usize, lasted: Duration) -> u64 {
        let word = |word| self.section_word(rank, section, word);
        let lasted = words_of(lasted).max(1);
        if word(FIRST).load(Ordering::Relaxed) == 0 {
            word(FIRST).store(lasted, Ordering::Release);
            return 1;
        }
        if lasted > word(LONGEST).load(Ordering::Relaxed) {
            word(LONGEST).store(lasted, Ordering::Release);
        }
        let count = word(COUNT).load(Ordering::Relaxed).wrapping_add(1);
        word(COUNT).store(count, Ordering::Release);
        count.saturating_add(1)
    }

    /// What this rank's process has seen of one of its sections; none of what is no section.
    pub fn course(&self, rank: usize, section: usize) -> Option<Course> {
        let name = Some(section).filter(|&section| section < SECTIONS_MOST)?;
        let name = Some(self.section_name(rank, name)).filter(|&name| name != Name::default())?;
        let word = |word| self.section_word(rank, section, word).load(Ordering::Acquire);
        let first = word(FIRST);
        Some(Course {
            name,
            first: Seen { longest: Duration::from_nanos(first), count: u64::from(first != 0) },
            further: Seen { longest: Duration::from_nanos(word(LONGEST)), count: word(COUNT) },
        })
    }

    // ---- a restart

    /// This rank asks for a restart of the group.
    pub fn want_restart(&self, rank: usize) {
        self.long(RESTART).store(rank as u64 + 1, Ordering::Release);
        self.ring();
    }

    /// The rank that asked for one.
    pub fn restart_wanted(&self) -> Option<usize> {
        let rank = self.long(RESTART).load(Ordering::Acquire).checked_sub(1)? as usize;
        (rank < self.ranks).then_some(rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_read_what_the_other_wrote() {
        let page = Page::new(3).unwrap();
        let worker = Page::open(page.fd().unwrap()).unwrap();
        assert_eq!((worker.ranks(), worker.sequence(), worker.rung()), (3, 0, 0));
        assert_eq!(page.said(2), Said::default());
        worker.set_step(2, 0);
        worker.set_progress(2, 5, 10);
        worker.set_heartbeat(2, Duration::from_secs(7));
        worker.set_paused(2, 9);
        let said = page.said(2);
        assert_eq!((said.step, said.progress, said.paused), (Some(0), (5, 10), true));
        assert_eq!(said.heartbeat, Some(Duration::from_secs(7)));
        assert_eq!(page.said(1), Said::default());
        let answer = Answered { id: 4, success: true, step: Some(0) };
        worker.answer(2, answer);
        assert_eq!(page.answered(2), answer);

        let request = Request {
            id: 1,
            kind: RequestKind::Save,
            reason: Reason::Preemption,
            at_step: 12,
            held: true,
            deadline: Duration::from_secs(3),
        };
        let debugged = Some(Debugged { rank: 1, session: 3 });
        let view = View { request: Some(request), paused_by: 0, debugged };
        page.announce(0);
        assert_eq!(worker.view(worker.sequence()), None, "it is being made");
        assert_eq!(page.publish(0, &view), 2);
        assert_eq!(worker.view(2), Some(view));
        assert_eq!(worker.view(0), None, "it is another by now");
    }

    #[test]
    fn time_timers_are_armed_and_let_go() {
        let page = Page::new(1).unwrap();
        let long = "x".repeat(SCOPE_MOST);
        for scope in ["s", "", &long] {
            let timer =
                Timer { scope: scope.into(), expires: Duration::from_secs(2), lasts: Duration::from_secs(1) };
            page.set_timer(0, TIMERS_MOST - 1, Some(&timer));
            assert_eq!(page.timer(0, TIMERS_MOST - 1), Some(timer));
        }
        page.set_timer(0, TIMERS_MOST - 1, None);
        assert_eq!(page.timer(0, TIMERS_MOST - 1), None);
    }

    #[test]
    fn time_the_agent_is_called_for_the_last_answer() {
        let page = Page::new(4).unwrap();
        let answer = |rank, id| {
            page.answer(rank, Answered { id, success: true, step: None });
            page.rung()
        };
        page.expect_answers(1, 3);
        assert_eq!([0, 1, 2].map(|rank| answer(rank, 1)), [0, 0, 1]);
        assert_eq!(answer(3, 1), 1, "one too many");
        // A late one counts for nothing.
        page.expect_answers(2, 2);
        assert_eq!([answer(0, 1), answer(1, 2), answer(0, 2)], [1, 1, 2]);
        page.expect_answers(3, 4);
        assert_eq!(answer(0, 3), 2);
        page.expect_each_answer(3);
        assert_eq!([answer(1, 3), answer(2, 2), answer(3, 3)], [3, 3, 4]);
    }

    #[test]
    fn time_the_agent_is_called_for_an_earlier_timer_only() {
        let page = Page::new(1).unwrap();
        page.expect_look(Duration::from_secs(5));
        assert_eq!(page.rung(), 1);
        page.set_next_look(Some(Duration::from_secs(5)));
        page.expect_look(Duration::from_secs(5));
        page.expect_look(Duration::from_secs(9));
        assert_eq!(page.rung(), 1);
        page.expect_look(Duration::from_secs(4));
        assert_eq!(page.rung(), 2);
    }

    #[test]
    fn time_18_sections_have_places_and_courses() {
        let page = Page::new(2).unwrap();
        assert_eq!((page.shortest_section(), page.place(1), page.course(1, 0)), (None, None, None));
        page.watch_sections(None);
        assert_eq!(page.shortest_section(), Some(Duration::from_nanos(u64::MAX)));
        let name = |index: usize| Name::new(format!("section {index}").as_bytes());
        for index in (0..SECTIONS_MOST).chain(0..SECTIONS_MOST) {
            assert_eq!(page.section(1, name(index)), Some(index));
        }
        assert_eq!(page.section(1, name(SECTIONS_MOST)), None);
        let lasted = [9, 2, 5, 3].map(Duration::from_secs);
        assert_eq!(lasted.map(|lasted| page.end_section(1, 3, lasted)), [1, 2, 3, 4]);
        let seen = |seconds, count| Seen { longest: Duration::from_secs(seconds), count };
        let course = Course { name: name(3), first: seen(9, 1), further: seen(5, 3) };
        assert_eq!(page.course(1, 3), Some(course));
        assert_eq!((page.course(1, SECTIONS_MOST), page.course(0, 3)), (None, None));
        page.begin(1, Duration::from_secs(7));
        assert_eq!(page.said(1).began, Some(Duration::from_secs(7)));
        assert_eq!(page.course(1, 3), None);
    }

    #[test]
    fn rst_12_a_restart_is_asked_for_by_a_rank() {
        let page = Page::new(2).unwrap();
        assert_eq!(page.restart_wanted(), None);
        page.want_restart(1);
        assert_eq!((page.restart_wanted(), page.rung()), (Some(1), 1));
        page.want_restart(7);
        assert_eq!(page.restart_wanted(), None, "no rank of this page");
    }

    #[test]
    fn what_is_no_page_is_not_opened() {
        let null = fd::null().unwrap();
        assert!(Page::open(null.as_raw_fd()).is_none());
        assert!(Page::open(9999).is_none());
        // Not sealed, and too small for what it says.
        let file = memory::memfd(c"test").unwrap();
        memory::resize(file.as_raw_fd(), size(2)).unwrap();
        memory::write_at(file.as_raw_fd(), &MAGIC.to_le_bytes(), 0).unwrap();
        memory::write_at(file.as_raw_fd(), &9u64.to_le_bytes(), 8).unwrap();
        assert!(Page::open(file.as_raw_fd()).is_none());
        memory::fix_size(&file).unwrap();
        assert!(Page::open(file.as_raw_fd()).is_none());
        memory::write_at(file.as_raw_fd(), &2u64.to_le_bytes(), 8).unwrap();
        assert!(Page::open(file.as_raw_fd()).is_some());
    }
}
