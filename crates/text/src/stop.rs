//! HOT PATH. Finds stop strings in text that comes in pieces.
//!
//! An Aho-Corasick automaton over the bytes of the stop strings (Aho and Corasick, "Efficient string matching",
//! 1975). Its state is the longest end of the text so far that begins a stop string, so its depth says how much
//! has to be held back; each byte is looked at once.

mod automaton;
#[cfg(test)]
mod tests;

use automaton::{Automaton, State};

/// A stop string in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Match {
    /// Where it starts, in bytes of the held text.
    start: usize,
    /// In bytes.
    length: usize,
    /// Its place in the list.
    index: usize,
}

/// The search over one sequence's text, and the text that it holds back.
#[derive(Debug)]
pub(crate) struct StopSearch {
    automaton: Automaton,
    state: State,
    /// Text that has not been given out.
    held: String,
    /// How much of the held text the automaton has seen.
    seen: usize,
    /// The best stop string so far. An earlier one may still be completed.
    best: Option<Match>,
    /// Whether the stop string is part of the text that it ends.
    is_included: bool,
}

impl StopSearch {
    /// A search for these strings; `None` if none of them can be found.
    pub(crate) fn new(stop: &[String], is_included: bool) -> Option<Self> {
        let automaton = Automaton::new(stop)?;
        Some(Self { automaton, state: State::ROOT, held: String::new(), seen: 0, best: None, is_included })
    }

    /// Where new text goes, at the end; [`advance`](Self::advance) then looks at it.
    pub(crate) fn text(&mut self) -> &mut String {
        &mut self.held
    }

    /// Looks at new text, and moves what is certain to be before every stop string to `out`. Returns the stop
    /// string that ends the text, if it is certain. Where `may_end` is false, a stop string that the new text
    /// completes does not count.
    pub(crate) fn advance(&mut self, may_end: bool, out: &mut String) -> Option<usize> {
        for position in self.seen..self.held.len() {
            let byte = self.held.as_bytes()[position];
            self.state = self.automaton.next(self.state, byte);
            let end = position + 1;
            for (length, index) in self.automaton.ending_at(self.state).filter(|_| may_end) {
                let found = Match { start: end - length, length, index };
                if self.best.is_none_or(|best| (found.start, found.index) < (best.start, best.index)) {
                    self.best = Some(found);
                }
            }
            if let Some(best) = self.best {
                let candidate = end - self.automaton.depth(self.state);
                let may_be_earlier = candidate < best.start
                    || (candidate == best.start
                        && self.automaton.least_index_beyond(self.state) < best.index);
                if !may_be_earlier {
                    return Some(self.end_with(best, out));
                }
            }
        }
        let first_candidate = self.held.len() - self.automaton.depth(self.state);
        let certain = self.best.map_or(first_candidate, |best| best.start.min(first_candidate));
        out.push_str(&self.held[..certain]);
        self.held.drain(..certain);
        self.seen = self.held.len();
        if let Some(best) = &mut self.best {
            best.start -= certain;
        }
        None
    }

    /// Looks at the last text. Nothing can be completed any more: the best stop string ends the text, or all
    /// of it is moved to `out`.
    pub(crate) fn finish(&mut self, out: &mut String) -> Option<usize> {
        let certain = self.advance(true, out);
        if certain.is_some() {
            return certain;
        }
        match self.best {
            Some(best) => Some(self.end_with(best, out)),
            None => {
                out.push_str(&self.held);
                self.held.clear();
                None
            }
        }
    }

    fn end_with(&self, found: Match, out: &mut String) -> usize {
        let end = found.start + if self.is_included { found.length } else { 0 };
        out.push_str(&self.held[..end]);
        found.index
    }
}
