//! HOT PATH. A grammar for the answer of a model that reasons first: the reasoning is free, what follows is not.

use std::fmt;
use std::sync::Arc;

use llguidance::toktrie::{TokEnv, TokTrie};
use wayfare_engine::{ConstraintError, TokenConstraint, TokenId, TokenSet};

use super::matcher::GrammarMatcher;
use crate::reasoning::{ReasoningFormat, ReasoningParser};

/// Where an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// At the start, which may be reasoning or the answer itself; so many bytes of the start tag have come, which may
    /// be the beginning of the answer as well.
    Start {
        matched: usize,
        may_be_answer: bool,
    },
    /// In reasoning; so many bytes of the end tag have come.
    Reasoning {
        matched: usize,
    },
    Answer,
}

/// Lets reasoning pass and follows the grammar behind it. The tag that ends reasoning is the end of a token, so that
/// the grammar sees all of the answer; the text cannot end before.
pub(super) struct BehindReasoning {
    answer: GrammarMatcher,
    /// For the answer behind reasoning whose tag could have been the beginning of the answer.
    fresh_answer: Option<GrammarMatcher>,
    environment: TokEnv,
    end_of_text: Arc<[TokenId]>,
    format: ReasoningFormat,
    place: Place,
    /// What reasoning may be made of.
    reasoning: Vec<u32>,
    /// What the grammar allows at the start.
    start: TokenSet,
}

impl BehindReasoning {
    /// Of the answer's grammar, at its start, `matchers` are two.
    pub(super) fn new(
        matchers: [GrammarMatcher; 2],
        environment: TokEnv,
        end_of_text: Arc<[TokenId]>,
        parser: &ReasoningParser,
    ) -> Self {
        let [answer, fresh_answer] = matchers;
        let format = parser.format();
        let place = match (parser.may_be_reasoning(), parser.is_reasoning()) {
            (false, _) => Place::Answer,
            (_, true) => Place::Reasoning { matched: 0 },
            (_, false) => Place::Start { matched: 0, may_be_answer: true },
        };
        let trie = environment.tok_trie();
        let vocab_size = u32::try_from(trie.vocab_size()).unwrap_or(u32::MAX);
        let mut reasoning = TokenSet::empty(vocab_size);
        let end_tag = format.end_tag().as_bytes();
        for token in (0..vocab_size).filter(|token| !end_of_text.contains(token)) {
            let bytes = bytes(trie, token);
            let mut ends = bytes.windows(end_tag.len()).enumerate().filter(|(_, part)| *part == end_tag);
            let leaves_rest = ends.next().is_some_and(|(place, _)| place + end_tag.len() < bytes.len());
            if !bytes.is_empty() && !leaves_rest {
                reasoning.insert(token);
            }
        }
        let reasoning = reasoning.words_mut().to_vec();
        Self {
            answer,
            fresh_answer: Some(fresh_answer),
            environment,
            end_of_text,
            format,
            place,
            reasoning,
            start: TokenSet::empty(vocab_size),
        }
    }

    fn allow_reasoning(&self, matched: usize, allowed: &mut TokenSet) {
        allowed.clear();
        for (word, bits) in allowed.words_mut().iter_mut().zip(&self.reasoning) {
            *word = *bits;
        }
        if matched == 0 {
            return;
        }
        let rest = &self.format.end_tag().as_bytes()[matched..];
        let trie = self.environment.tok_trie();
        for token in 0..self.start.vocab_size() {
            let bytes = bytes(trie, token);
            if bytes.len() > rest.len() && bytes.starts_with(rest) {
                allowed.words_mut()[(token / u32::BITS) as usize] &= !(1 << (token % u32::BITS));
            }
        }
    }

    fn allow_start(
        &mut self,
        matched: usize,
        may_be_answer: bool,
        allowed: &mut TokenSet,
    ) -> Result<(), ConstraintError> {
        self.start.clear();
        if may_be_answer {
            self.answer.allow(&mut self.start)?;
        }
        allowed.clear();
        for (word, bits) in allowed.words_mut().iter_mut().zip(self.start.words_mut()) {
            *word = *bits;
        }
        let rest = &self.format.start_tag().as_bytes()[matched..];
        let trie = self.environment.tok_trie();
        (0..self.start.vocab_size())
            .filter(|token| goes_on(bytes(trie, *token), rest))
            .for_each(|token| allowed.insert(token));
        Ok(())
    }

    fn accept_start(
        &mut self,
        token: TokenId,
        matched: usize,
        may_be_answer: bool,
    ) -> Result<(), ConstraintError> {
        let environment = self.environment.clone();
        let bytes = bytes(environment.tok_trie(), token);
        let rest = &self.format.start_tag().as_bytes()[matched..];
        let is_answer = may_be_answer && self.start.contains(token);
        if is_answer {
            self.answer.accept(token)?;
        }
        if !goes_on(bytes, rest) {
            self.place = Place::Answer;
            let refusal = "neither reasoning nor the answer begins like this";
            return if is_answer { Ok(()) } else { Err(ConstraintError(refusal.to_owned())) };
        }
        if bytes.len() < rest.len() {
            self.place = Place::Start { matched: matched + bytes.len(), may_be_answer: is_answer };
            return Ok(());
        }
        if let Some(fresh) = self.fresh_answer.take() {
            self.answer = fresh;
        }
        self.place = Place::Reasoning { matched: 0 };
        self.accept_reasoning(&bytes[rest.len()..], 0)
    }

    fn accept_reasoning(&mut self, bytes: &[u8], mut matched: usize) -> Result<(), ConstraintError> {
        let tag = self.format.end_tag().as_bytes();
        for (place, byte) in bytes.iter().enumerate() {
            // No tag's first byte comes again in it, so a tag that breaks off can only begin anew.
            matched = if tag[matched] == *byte { matched + 1 } else { usize::from(tag[0] == *byte) };
            if matched == tag.len() {
                self.place = Place::Answer;
                let whole = place + 1 == bytes.len();
                let refusal = "the token that ends the reasoning goes on behind it";
                return if whole { Ok(()) } else { Err(ConstraintError(refusal.to_owned())) };
            }
        }
        self.place = Place::Reasoning { matched };
        Ok(())
    }
}

impl TokenConstraint for BehindReasoning {
    fn allow(&mut self, allowed: &mut TokenSet) -> Result<(), ConstraintError> {
        match self.place {
            Place::Answer => return self.answer.allow(allowed),
            Place::Reasoning { matched } => self.allow_reasoning(matched, allowed),
            Place::Start { matched, may_be_answer } => self.allow_start(matched, may_be_answer, allowed)?,
        }
        Ok(())
    }

    fn accept(&mut self, token: TokenId) -> Result<(), ConstraintError> {
        match self.place {
            Place::Answer => self.answer.accept(token),
            Place::Start { matched, may_be_answer } => self.accept_start(token, matched, may_be_answer),
            Place::Reasoning { .. } if self.end_of_text.contains(&token) => {
                Err(ConstraintError("the text ends before its reasoning does".to_owned()))
            }
            Place::Reasoning { matched } => {
                let environment = self.environment.clone();
                self.accept_reasoning(bytes(environment.tok_trie(), token), matched)
            }
        }
    }
}

impl fmt::Debug for BehindReasoning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BehindReasoning")
            .field("place", &self.place)
            .field("answer", &self.answer)
            .finish_non_exhaustive()
    }
}

/// The bytes of a token as the answer is decoded with special tokens.
fn bytes(trie: &TokTrie, token: TokenId) -> &[u8] {
    let word = trie.token(token);
    word.strip_prefix(&[TokTrie::SPECIAL_TOKEN_MARKER]).unwrap_or(word)
}

/// Whether a token goes on with a tag of which `rest` is missing.
fn goes_on(bytes: &[u8], rest: &[u8]) -> bool {
    !bytes.is_empty() && (rest.starts_with(bytes) || bytes.starts_with(rest))
}
