//! The progress bar: where the ranks are by what they said on the control page, on one row.

use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{FormattedDuration, ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};
use parking_lot::Mutex;

use crate::control::page::Page;
use crate::control::watch::Said;

/// Between two looks at the page.
const LOOK: Duration = Duration::from_millis(250);
/// The longest row, in characters; a wider terminal shows no more.
const WIDEST: usize = 120;

/// Where a group is: its slowest rank counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing {
    pub done: u64,
    /// Of how much; none where the slowest rank does not say.
    pub total: Option<u64>,
    /// The slowest rank, and how many steps it is behind the first; none where all are at the same.
    pub slowest: Option<(usize, u64)>,
}

/// None as long as nobody has said anything.
pub fn standing(ranks: impl Iterator<Item = Said>) -> Option<Standing> {
    let progress = |said: &Said| Some(said.progress).filter(|&(_, total)| total > 0);
    // A rank without steps is as far as it says.
    let place = |said: &Said| said.step.or(progress(said).map(|(done, _)| done));
    let places: Vec<(u64, usize, Said)> =
        ranks.enumerate().filter_map(|(rank, said)| Some((place(&said)?, rank, said))).collect();
    let &(last, rank, said) = places.iter().min_by_key(|(place, rank, _)| (*place, *rank))?;
    let first = places.iter().map(|(place, ..)| *place).max()?;
    let (done, total) = progress(&said).map_or((last, None), |(done, total)| (done, Some(total)));
    Some(Standing { done, total, slowest: (first > last).then_some((rank, first - last)) })
}

/// What the agent tells of an attempt.
pub struct Group {
    pub page: Arc<Page>,
    /// The global rank of each slot.
    pub ranks: Vec<usize>,
    pub restarts: u32,
}

/// The bar of a run.
pub struct Bar {
    group: Option<Group>,
    /// Which slots have ended: what they said last holds the others up no more.
    ended: Vec<bool>,
    row: Row,
    shown: Option<(Standing, u32, usize)>,
    /// Somebody else has the terminal.
    hidden: bool,
    next_look: Instant,
}

impl Bar {
    pub fn new() -> Bar {
        let (row, next_look) = (Row::new(), Instant::now());
        Bar { group: None, ended: Vec::new(), row, shown: None, hidden: false, next_look }
    }

    pub fn begin(&mut self, group: Group) {
        self.ended = vec![false; group.ranks.len()];
        self.group = Some(group);
    }

    pub fn ended(&mut self, slot: usize) {
        if let Some(ended) = self.ended.get_mut(slot) {
            *ended = true;
        }
    }

    pub fn hide(&mut self, hidden: bool) {
        (self.hidden, self.shown) = (hidden, None);
    }

    /// When `look` is due; never between two attempts.
    pub fn deadline(&self) -> Option<Instant> {
        self.group.as_ref().filter(|_| !self.hidden).map(|_| self.next_look)
    }

    /// The row as it is to be now; none if it is to stay as it is.
    pub fn look(&mut self, now: Instant, columns: usize) -> Option<String> {
        self.next_look = now + LOOK;
        let group = self.group.as_ref()?;
        if self.hidden {
            return Some(String::new());
        }
        let all = self.ended.iter().all(|&ended| ended);
        let said = |slot: usize| {
            let counts = all || !self.ended[slot];
            if counts { group.page.said(slot) } else { Said::default() }
        };
        let mut standing = standing((0..group.ranks.len()).map(said))?;
        standing.slowest = standing.slowest.map(|(slot, behind)| (group.ranks[slot], behind));
        let shown = Some((standing, group.restarts, columns));
        if self.shown == shown {
            return None;
        }
        // An attempt may begin at a checkpoint, far from where the last one was.
        if self.shown.is_none_or(|(_, restarts, _)| restarts != group.restarts) {
            self.row.begin(standing.done);
        }
        self.shown = shown;
        Some(self.row.text(&standing, group.restarts, columns))
    }

    /// The attempt is over: the last look at its page.
    pub fn end(&mut self, now: Instant, columns: usize) -> Option<String> {
        let row = self.look(now, columns);
        self.group = None;
        row
    }
}

/// What indicatif makes of it: the rate, the time that is left, the bar.
struct Row {
    bar: ProgressBar,
    drawn: Paper,
}

impl Row {
    fn new() -> Row {
        let drawn = Paper::default();
        let target = ProgressDrawTarget::term_like(Box::new(drawn.clone()));
        Row { bar: ProgressBar::with_draw_target(None, target), drawn }
    }

    /// The rate is that from here on.
    fn begin(&mut self, done: u64) {
        self.bar.set_position(done);
        self.bar.tick();
        self.bar.reset_eta();
    }

    fn text(&mut self, standing: &Standing, restarts: u32, columns: usize) -> String {
        self.drawn.0.lock().columns = (columns.saturating_sub(1)).clamp(1, WIDEST);
        match standing.total {
            Some(total) => self.bar.set_length(total.max(standing.done)),
            None => self.bar.unset_length(),
        }
        let template = if standing.total.is_some() { "[{wide_bar}] {msg}" } else { "{msg}" };
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style.progress_chars("#>-"));
        }
        self.bar.set_position(standing.done);
        // A bar keeps to itself for a millisecond after it was told something.
        self.bar.tick();
        self.bar.set_message(words(standing, restarts, self.bar.per_sec(), self.bar.eta()));
        self.drawn.0.lock().text.clear();
        self.bar.force_draw();
        let paper = self.drawn.0.lock();
        paper.text.trim_end().chars().take(paper.columns).collect()
    }
}

fn words(standing: &Standing, restarts: u32, rate: f64, left: Duration) -> String {
    let mut text = match standing.total {
        Some(total) => format!("{}/{total}", standing.done),
        None => format!("step {}", standing.done),
    };
    if rate.is_finite() && rate > 0.0 {
        text += &if rate < 10.0 { format!(" {rate:.2}/s") } else { format!(" {rate:.0}/s") };
        if standing.total.is_some() {
            text += &format!(" {} left", FormattedDuration(left));
        }
    }
    if let Some((rank, behind)) = standing.slowest {
        text += &format!(", rank {rank} is {behind} behind");
    }
    match restarts {
        0 => {}
        1 => text += ", 1 restart",
        restarts => text += &format!(", {restarts} restarts"),
    }
    text
}

/// A terminal of one row, in memory.
#[derive(Clone, Debug, Default)]
struct Paper(Arc<Mutex<Sheet>>);

#[derive(Debug, Default)]
struct Sheet {
    columns: usize,
    text: String,
}

impl TermLike for Paper {
    fn width(&self) -> u16 {
        self.0.lock().columns as u16
    }

    fn write_str(&self, text: &str) -> std::io::Result<()> {
        self.0.lock().text += text;
        Ok(())
    }

    fn write_line(&self, text: &str) -> std::io::Result<()> {
        self.write_str(text)
    }

    fn clear_line(&self) -> std::io::Result<()> {
        self.0.lock().text.clear();
        Ok(())
    }

    fn move_cursor_up(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn move_cursor_down(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn move_cursor_right(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn move_cursor_left(&self, _: usize) -> std::io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(step: Option<u64>, progress: (u64, u64)) -> Said {
        Said { step, progress, ..Said::default() }
    }

    #[test]
    fn the_slowest_rank_counts() {
        let of = |ranks: &[Said]| standing(ranks.iter().copied());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[said(None, (0, 0))]), None);
        let silent = said(None, (0, 0));
        let steps = [said(Some(7), (0, 0)), silent, said(Some(4), (0, 0))];
        assert_eq!(of(&steps), Some(Standing { done: 4, total: None, slowest: Some((2, 3)) }));
        let both = [said(Some(7), (8, 10)), said(Some(7), (8, 10))];
        assert_eq!(of(&both), Some(Standing { done: 8, total: Some(10), slowest: None }));
        let alone = [said(None, (512, 4096)), said(None, (256, 4096))];
        assert_eq!(of(&alone), Some(Standing { done: 256, total: Some(4096), slowest: Some((1, 256)) }));
    }

    #[test]
    fn a_row_is_never_as_wide_as_the_terminal() {
        let mut row = Row::new();
        let standing = Standing { done: 50, total: Some(100), slowest: Some((3, 2)) };
        for columns in [1, 2, 10, 40, 80, 500] {
            let text = row.text(&standing, 2, columns);
            assert!(text.chars().count() < columns.max(2), "{columns}: {text:?}");
        }
        let text = row.text(&standing, 1, 80);
        for part in ["[####", ">---", "] 50/100", "rank 3 is 2 behind", "1 restart"] {
            assert!(text.contains(part), "{text:?} lacks {part:?}");
        }
        row.begin(1 << 40);
        let text = row.text(&Standing { done: 1 << 40, total: None, slowest: None }, 0, 80);
        assert_eq!(text, format!("step {}", 1u64 << 40), "it has just begun there");
    }

    #[test]
    fn what_a_row_says() {
        let text =
            words(&Standing { done: 1, total: Some(9), slowest: None }, 2, 2.5, Duration::from_secs(3));
        assert_eq!(text, "1/9 2.50/s 00:00:03 left, 2 restarts");
        let text = words(&Standing { done: 1, total: None, slowest: None }, 0, 0.0, Duration::ZERO);
        assert_eq!(text, "step 1");
    }
}
