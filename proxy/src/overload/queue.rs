//! Who waits, in an order in which nobody waits for another's crowd.
//!
//! Each client has a line of its own, and the lines take turns. Within a line those that are late in their
//! chain come first; a client that calls all its requests late gains nothing over others. The whole is
//! bounded: when it is full, the longest line gives up its last place to a shorter one.

use std::collections::{BTreeSet, HashMap, VecDeque};

/// A place in the queue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ticket {
    line: u64,
    number: u64,
}

/// Who waits.
#[derive(Debug)]
pub struct FairQueue<T> {
    lines: HashMap<u64, Line<T>>,
    /// Lines in which somebody waits, the next one first, each with its turn. Lines that have ended meanwhile are
    /// passed over.
    turns: VecDeque<(u64, u64)>,
    /// By length: a queue that is full is looked at once for each that comes, and then most of all.
    lengths: BTreeSet<(usize, u64)>,
    length: usize,
    last: u64,
}

#[derive(Debug)]
struct Line<T> {
    late: VecDeque<(u64, T)>,
    rest: VecDeque<(u64, T)>,
    /// Tells this line from an earlier one of the same client.
    turn: u64,
}

/// Turns of lines that have ended which may be left where they are.
const STALE_MAX: usize = 64;

/// What became of who wanted to wait.
#[derive(Debug, Eq, PartialEq)]
pub enum Pushed<T> {
    /// There was room.
    Waits(Ticket),
    /// There is now: somebody of the longest line went for it.
    InPlaceOf(Ticket, T),
    /// There is none.
    Full(T),
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self { lines: HashMap::new(), turns: VecDeque::new(), lengths: BTreeSet::new(), length: 0, last: 0 }
    }
}

// === impl Line ===

impl<T> Line<T> {
    fn len(&self) -> usize {
        self.late.len() + self.rest.len()
    }

    fn pop(&mut self) -> Option<T> {
        self.late.pop_front().or_else(|| self.rest.pop_front()).map(|(_, item)| item)
    }

    /// The one that has waited least, of those that are not late first.
    fn pop_last(&mut self) -> Option<T> {
        self.rest.pop_back().or_else(|| self.late.pop_back()).map(|(_, item)| item)
    }
}

// === impl FairQueue ===

impl<T> FairQueue<T> {
    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Lets somebody wait in a client's line, among at most `max`.
    pub fn push(&mut self, line: u64, late: bool, max: usize, item: T) -> Pushed<T> {
        let mut gone = None;
        if self.length >= max {
            let own = self.lines.get(&line).map_or(0, Line::len);
            match self.lengths.last() {
                Some((length, longest)) if *length > own + 1 => gone = self.pop_last(*longest),
                _ => return Pushed::Full(item),
            }
        }
        self.last += 1;
        let number = self.last;
        let held = self.lines.entry(line).or_insert_with(|| {
            self.turns.push_back((line, number));
            Line { late: VecDeque::new(), rest: VecDeque::new(), turn: number }
        });
        if late { &mut held.late } else { &mut held.rest }.push_back((number, item));
        let length = held.len();
        self.grown(line, length);
        let ticket = Ticket { line, number };
        match gone {
            None => Pushed::Waits(ticket),
            Some(gone) => Pushed::InPlaceOf(ticket, gone),
        }
    }

    /// Whose turn it is.
    pub fn pop(&mut self) -> Option<T> {
        loop {
            let (line, turn) = self.turns.pop_front()?;
            let Some(held) = self.lines.get_mut(&line).filter(|held| held.turn == turn) else { continue };
            let item = held.pop();
            if held.len() > 0 {
                self.turns.push_back((line, turn));
            }
            self.shrunk(line);
            return item;
        }
    }

    /// Takes somebody out who does not wait any longer.
    pub fn remove(&mut self, ticket: Ticket) -> Option<T> {
        let held = self.lines.get_mut(&ticket.line)?;
        let take = |line: &mut VecDeque<(u64, T)>| {
            // Numbers rise along a line.
            let index = line.binary_search_by_key(&ticket.number, |(number, _)| *number).ok()?;
            line.remove(index).map(|(_, item)| item)
        };
        let item = take(&mut held.late).or_else(|| take(&mut held.rest))?;
        self.shrunk(ticket.line);
        Some(item)
    }

    fn pop_last(&mut self, line: u64) -> Option<T> {
        let item = self.lines.get_mut(&line)?.pop_last()?;
        self.shrunk(line);
        Some(item)
    }

    /// A line has become one longer.
    fn grown(&mut self, line: u64, length: usize) {
        self.length += 1;
        self.lengths.remove(&(length - 1, line));
        self.lengths.insert((length, line));
    }

    /// A line has become one shorter.
    fn shrunk(&mut self, line: u64) {
        let Some(length) = self.lines.get(&line).map(Line::len) else { return };
        self.length -= 1;
        self.lengths.remove(&(length + 1, line));
        if length > 0 {
            self.lengths.insert((length, line));
            return;
        }
        self.lines.remove(&line);
        if self.turns.len() > 2 * self.lines.len() + STALE_MAX {
            let lines = &self.lines;
            self.turns.retain(|(line, turn)| lines.get(line).is_some_and(|held| held.turn == *turn));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits<T: std::fmt::Debug>(pushed: Pushed<T>) -> Ticket {
        match pushed {
            Pushed::Waits(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lines_take_turns_however_long_they_are() {
        let mut queue = FairQueue::default();
        for number in 0..20 {
            waits(queue.push(1, false, 100, format!("noisy {number}")));
        }
        for number in 0..2 {
            waits(queue.push(2, false, 100, format!("quiet {number}")));
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order.len(), 22);
        assert_eq!(order[..5], ["noisy 0", "quiet 0", "noisy 1", "quiet 1", "noisy 2"]);
        assert!(queue.is_empty() && queue.lines.is_empty() && queue.turns.is_empty());
        assert!(queue.lengths.is_empty());
    }

    #[test]
    fn who_is_late_comes_first_in_its_own_line_alone() {
        let mut queue = FairQueue::default();
        waits(queue.push(1, false, 100, "one"));
        waits(queue.push(1, true, 100, "one, late"));
        waits(queue.push(2, false, 100, "two"));
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, ["one, late", "two", "one"]);
    }

    #[test]
    fn a_full_queue_takes_from_the_longest_line_and_never_grows() {
        let mut queue = FairQueue::default();
        for number in 0..10 {
            waits(queue.push(1, false, 10, number));
        }
        assert_eq!(queue.push(1, false, 10, 10), Pushed::Full(10), "nobody pushes out its own");
        for expected in (6..10).rev() {
            let Pushed::InPlaceOf(_, gone) = queue.push(2, false, 10, 100) else { panic!("there was room") };
            assert_eq!(gone, expected, "who came last goes first");
        }
        // Five of each would only change places.
        let Pushed::InPlaceOf(_, 5) = queue.push(2, false, 10, 100) else { panic!("six and four") };
        assert_eq!(queue.push(2, false, 10, 100), Pushed::Full(100));
        // One of each client has a place as long as there are places.
        for line in 3..=8 {
            assert!(matches!(queue.push(line, false, 10, 0), Pushed::InPlaceOf(..)), "{line}");
            assert_eq!(queue.length, 10);
        }
    }

    #[test]
    fn who_leaves_and_comes_again_has_one_turn_and_leaves_nothing_behind() {
        let mut queue = FairQueue::default();
        for _ in 0..10_000 {
            let ticket = waits(queue.push(1, false, 10, "one"));
            assert_eq!(queue.remove(ticket), Some("one"));
        }
        assert!(queue.turns.len() <= STALE_MAX + 2, "{}", queue.turns.len());
        assert!(queue.lengths.is_empty() && queue.lines.is_empty());
        for _ in 0..3 {
            waits(queue.push(1, false, 10, "one"));
        }
        waits(queue.push(2, false, 10, "two"));
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, ["one", "two", "one", "one"]);
    }

    /// Against the plain way of doing it, over random pushes, pops and departures.
    #[test]
    fn the_longest_line_is_always_known() {
        let mut queue = FairQueue::default();
        let mut tickets = Vec::new();
        let mut state = 7_u64;
        for step in 0..20_000_u64 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let (line, what) = ((state >> 33) % 9, (state >> 45) % 8);
            match what {
                0 => {
                    let _ = queue.pop();
                }
                1 if !tickets.is_empty() => {
                    let _ = queue.remove(tickets.swap_remove((step as usize) % tickets.len()));
                }
                _ => match queue.push(line, what == 2, 40, step) {
                    Pushed::Waits(ticket) | Pushed::InPlaceOf(ticket, _) => tickets.push(ticket),
                    Pushed::Full(_) => {}
                },
            }
            let longest = queue.lines.values().map(Line::len).max();
            assert_eq!(queue.lengths.last().map(|(length, _)| *length), longest);
            assert_eq!(queue.lengths.len(), queue.lines.len());
            assert_eq!(queue.lines.values().map(Line::len).sum::<usize>(), queue.length);
            assert!(queue.length <= 40);
        }
    }

    #[test]
    fn who_leaves_is_gone_from_its_line_and_its_turn() {
        let mut queue = FairQueue::default();
        let first = waits(queue.push(1, false, 10, "first"));
        let late = waits(queue.push(1, true, 10, "late"));
        let other = waits(queue.push(2, false, 10, "other"));
        assert_eq!(queue.remove(first), Some("first"));
        assert_eq!(queue.remove(first), None);
        assert_eq!(queue.remove(late), Some("late"));
        assert_eq!(queue.pop(), Some("other"));
        assert_eq!(queue.remove(other), None);
        assert!(queue.is_empty() && queue.pop().is_none() && queue.turns.is_empty());
    }
}
