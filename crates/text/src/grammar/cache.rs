//! The grammars that were used last.

use std::collections::VecDeque;

use wayfare_engine::OutputGrammar;

use super::CompiledGrammar;
use super::source::text_bytes;

/// Most grammars that are kept; a compiled one takes from tens of kilobytes to a few megabytes.
const MAX_GRAMMARS: usize = 64;
/// Most text of theirs; what a compiled grammar takes grows with it.
const MAX_TEXT_BYTES: usize = 1 << 20;

/// Least recently used grammars go first. Looking one up compares texts, whose lengths mostly differ.
#[derive(Debug, Default)]
pub(super) struct Cache {
    /// The last used is at the back.
    grammars: VecDeque<CompiledGrammar>,
    text_bytes: usize,
}

impl Cache {
    pub(super) fn get(&mut self, grammar: &OutputGrammar) -> Option<CompiledGrammar> {
        let place = self.grammars.iter().rposition(|compiled| compiled.grammar() == grammar)?;
        let compiled = self.grammars.remove(place)?;
        self.grammars.push_back(compiled.clone());
        Some(compiled)
    }

    pub(super) fn insert(&mut self, compiled: CompiledGrammar) {
        // Somebody else may have compiled it in the meantime.
        if self.get(compiled.grammar()).is_some() {
            return;
        }
        self.text_bytes += text_bytes(compiled.grammar());
        self.grammars.push_back(compiled);
        while self.grammars.len() > MAX_GRAMMARS || self.text_bytes > MAX_TEXT_BYTES {
            let Some(oldest) = self.grammars.pop_front() else { break };
            self.text_bytes -= text_bytes(oldest.grammar());
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.grammars.len()
    }
}
