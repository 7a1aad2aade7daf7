//! The automaton of a set of stop strings.

use std::collections::VecDeque;

/// A state: the longest end of the text that begins a stop string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State(usize);

impl State {
    /// No end of the text begins a stop string.
    pub(super) const ROOT: State = State(0);
}

#[derive(Debug, Default)]
struct Node {
    /// Where each next byte leads, ordered by byte.
    next: Vec<(u8, State)>,
    /// The state of the longest proper end of this one that also begins a stop string.
    shorter: Option<State>,
    /// The nearest state along `shorter` that is a whole stop string.
    shorter_match: Option<State>,
    /// Bytes from the root to here.
    depth: usize,
    /// The first of the stop strings that are exactly this one.
    index: Option<usize>,
    /// The first of the stop strings that go on beyond this state.
    least_index_beyond: Option<usize>,
}

impl Node {
    fn child(&self, byte: u8) -> Option<State> {
        let place = self.next.binary_search_by_key(&byte, |&(byte, _)| byte).ok()?;
        self.next.get(place).map(|&(_, state)| state)
    }
}

#[derive(Debug)]
pub(super) struct Automaton {
    nodes: Vec<Node>,
}

impl Automaton {
    /// The automaton of these strings, or `None` if all are empty. Memory is linear in their length.
    pub(super) fn new(strings: &[String]) -> Option<Self> {
        let mut automaton = Self { nodes: vec![Node::default()] };
        for (index, string) in strings.iter().enumerate().filter(|(_, string)| !string.is_empty()) {
            automaton.insert(string, index);
        }
        automaton.link();
        (automaton.nodes.len() > 1).then_some(automaton)
    }

    /// The state after one more byte. Takes constant time on average over a text.
    pub(super) fn next(&self, mut state: State, byte: u8) -> State {
        loop {
            let node = &self.nodes[state.0];
            if let Some(child) = node.child(byte) {
                return child;
            }
            match node.shorter {
                Some(shorter) => state = shorter,
                None => return State::ROOT,
            }
        }
    }

    /// Length and place in the list of every stop string that ends the text here, longest first.
    pub(super) fn ending_at(&self, state: State) -> impl Iterator<Item = (usize, usize)> + '_ {
        let node = &self.nodes[state.0];
        let first = if node.index.is_some() { Some(state) } else { node.shorter_match };
        std::iter::successors(first, |state| self.nodes[state.0].shorter_match).filter_map(|state| {
            let node = &self.nodes[state.0];
            node.index.map(|index| (node.depth, index))
        })
    }

    /// Length of the end of the text that begins a stop string.
    pub(super) fn depth(&self, state: State) -> usize {
        self.nodes[state.0].depth
    }

    /// The first stop string of the list that this state begins without being all of it; `usize::MAX` if none.
    pub(super) fn least_index_beyond(&self, state: State) -> usize {
        self.nodes[state.0].least_index_beyond.unwrap_or(usize::MAX)
    }

    fn insert(&mut self, string: &str, index: usize) {
        let mut state = State::ROOT;
        for &byte in string.as_bytes() {
            let fresh = State(self.nodes.len());
            let node = &mut self.nodes[state.0];
            // Strings come in the order of the list, so the first to pass is the first of the list.
            node.least_index_beyond.get_or_insert(index);
            let depth = node.depth + 1;
            match node.next.binary_search_by_key(&byte, |&(byte, _)| byte) {
                Ok(place) => state = node.next[place].1,
                Err(place) => {
                    node.next.insert(place, (byte, fresh));
                    self.nodes.push(Node { depth, ..Node::default() });
                    state = fresh;
                }
            }
        }
        self.nodes[state.0].index.get_or_insert(index);
    }

    /// Sets the links to shorter states, breadth first: a state's link is its parent's, one byte further.
    fn link(&mut self) {
        let mut queue = VecDeque::from([State::ROOT]);
        while let Some(parent) = queue.pop_front() {
            for (byte, child) in self.nodes[parent.0].next.clone() {
                let shorter = match self.nodes[parent.0].shorter {
                    Some(shorter) => self.next(shorter, byte),
                    None => State::ROOT,
                };
                let target = &self.nodes[shorter.0];
                let shorter_match = if target.index.is_some() { Some(shorter) } else { target.shorter_match };
                let node = &mut self.nodes[child.0];
                node.shorter = Some(shorter);
                node.shorter_match = shorter_match;
                queue.push_back(child);
            }
        }
    }
}
