//! What the simulated engine says.
//!
//! HOT PATH: runs per sampled token. Each token is a function of the seeds, its index and what the executor has
//! seen of the sequence, so that batching and preemption do not change an answer.

use std::sync::Arc;

use wayfare_engine::TokenId;

use crate::random::mix;
use crate::{SampleSpec, StepInput, StepSequence};

/// Where the tokens of answers come from.
#[derive(Clone, Debug)]
pub enum AnswerText {
    /// Every answer recites this, over and over; an empty passage stands for token 0.
    Passage(Arc<[TokenId]>),
    /// Every answer is a series of these words, drawn by the sequence's seed; no words stand for token 0.
    Words(Arc<[Box<[TokenId]>]>),
    /// Every answer is its prompt, without the end-of-text tokens that are in it.
    Echo {
        /// Tokens per KV block.
        block_size: u32,
        /// KV blocks in the pool.
        num_kv_blocks: u32,
    },
}

/// How many tokens answers have before their end-of-text token: each from `min` to `max`, evenly spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerLength {
    /// Fewest tokens.
    pub min: u32,
    /// Most tokens, at least as many.
    pub max: u32,
}

/// Everything that decides about answers.
#[derive(Clone, Debug)]
pub struct Answers {
    /// What they say.
    pub text: AnswerText,
    /// When they end. Without a length, a passage and words never do, and an echo ends with its prompt.
    pub length: Option<AnswerLength>,
    /// The token that ends an answer.
    pub end_of_text: TokenId,
    /// Tokens that bring an answer with a grammar nearer to its end, as closing brackets do; the first of them that
    /// the grammar allows comes next.
    pub closers: Arc<[TokenId]>,
    /// Seed of the lengths and words, beside that of the sequence.
    pub seed: u64,
}

/// The answers being given.
#[derive(Debug)]
pub(crate) struct Speaker {
    answers: Answers,
    /// What the KV blocks hold, for an echo.
    kv_tokens: Vec<TokenId>,
    /// Where each slot's answer is.
    cursors: Vec<Cursor>,
}

/// A place in an answer.
#[derive(Clone, Copy, Debug, Default)]
struct Cursor {
    seed: u64,
    /// The output token that comes next.
    output_index: u32,
    /// The word it belongs to, or the position in the prompt.
    place: u64,
    /// How much of the word has been said.
    offset: usize,
}

impl Speaker {
    pub(crate) fn new(answers: Answers) -> Self {
        let kv_tokens = match &answers.text {
            AnswerText::Echo { block_size, num_kv_blocks } => {
                vec![0; *block_size as usize * *num_kv_blocks as usize]
            }
            AnswerText::Passage(_) | AnswerText::Words(_) => Vec::new(),
        };
        Self { answers, kv_tokens, cursors: Vec::new() }
    }

    /// Takes note of the tokens that a step computes. Before [`Speaker::next_token`] of the same step.
    pub(crate) fn listen(&mut self, input: &StepInput) {
        let AnswerText::Echo { block_size, .. } = self.answers.text else { return };
        for sequence in &input.sequences {
            let blocks = input.blocks_of(sequence);
            for (position, token) in (sequence.first_position..).zip(input.tokens_of(sequence)) {
                if let Some(place) = place_of(blocks, position, block_size)
                    && let Some(kept) = self.kv_tokens.get_mut(place)
                {
                    *kept = *token;
                }
            }
        }
    }

    pub(crate) fn next_token(
        &mut self,
        input: &StepInput,
        sequence: &StepSequence,
        sample: &SampleSpec,
    ) -> TokenId {
        let Answers { length, end_of_text, seed, .. } = self.answers;
        if length.is_some_and(|length| sample.output_index >= length.of(mix(seed, sample.seed))) {
            return end_of_text;
        }
        match &self.answers.text {
            AnswerText::Passage(passage) => {
                let position = sample.output_index as usize % passage.len().max(1);
                passage.get(position).copied().unwrap_or(0)
            }
            AnswerText::Words(words) => {
                let words = Arc::clone(words);
                if words.iter().all(|word| word.is_empty()) {
                    return 0;
                }
                self.advance(sequence, sample, |cursor| cursor.next_of_words(&words))
            }
            AnswerText::Echo { block_size, .. } => {
                let known_tokens = sequence.first_position + sequence.num_tokens;
                let blocks = input.blocks_of(sequence);
                let kv_tokens = std::mem::take(&mut self.kv_tokens);
                let prompt = Prompt {
                    tokens: known_tokens.saturating_sub(sample.output_index),
                    blocks,
                    block_size: *block_size,
                    kv_tokens: &kv_tokens,
                    end_of_text,
                    repeats: length.is_some(),
                };
                let token = self.advance(sequence, sample, |cursor| cursor.next_of_prompt(&prompt));
                self.kv_tokens = kv_tokens;
                token
            }
        }
    }

    /// Moves the sequence's cursor on to the token that `sample` asks for.
    fn advance(
        &mut self,
        sequence: &StepSequence,
        sample: &SampleSpec,
        mut next: impl FnMut(&mut Cursor) -> TokenId,
    ) -> TokenId {
        let seed = mix(self.answers.seed, sample.seed);
        let slot = sequence.slot as usize;
        if self.cursors.len() <= slot {
            self.cursors.resize(slot + 1, Cursor::default());
        }
        let cursor = &mut self.cursors[slot];
        if (cursor.seed, cursor.output_index) != (seed, sample.output_index) {
            // Another sequence has the slot now.
            *cursor = Cursor { seed, ..Cursor::default() };
            while cursor.output_index < sample.output_index {
                next(cursor);
                cursor.output_index += 1;
            }
        }
        cursor.output_index += 1;
        next(cursor)
    }
}

/// What an echo reads.
struct Prompt<'a> {
    tokens: u32,
    blocks: &'a [u32],
    block_size: u32,
    kv_tokens: &'a [TokenId],
    end_of_text: TokenId,
    /// From its start again when it is over.
    repeats: bool,
}

impl Prompt<'_> {
    fn token(&self, position: u64) -> TokenId {
        let place = place_of(self.blocks, position as u32, self.block_size);
        place.and_then(|place| self.kv_tokens.get(place)).copied().unwrap_or(self.end_of_text)
    }
}

impl AnswerLength {
    fn of(self, random: u64) -> u32 {
        let span = u64::from(self.max.saturating_sub(self.min)) + 1;
        // The remainder is below `span`, which is at most 2^32; the sum stays at or below `max`.
        self.min + (random % span) as u32
    }
}

impl Cursor {
    /// The next token; at least one word has one.
    fn next_of_words(&mut self, words: &[Box<[TokenId]>]) -> TokenId {
        loop {
            let word = &words[(mix(self.seed, self.place) % words.len() as u64) as usize];
            if let Some(token) = word.get(self.offset) {
                self.offset += 1;
                return *token;
            }
            self.place += 1;
            self.offset = 0;
        }
    }

    fn next_of_prompt(&mut self, prompt: &Prompt<'_>) -> TokenId {
        // Twice through a prompt without anything to say is enough.
        for _ in 0..2 * u64::from(prompt.tokens) {
            if self.place >= u64::from(prompt.tokens) {
                if !prompt.repeats {
                    break;
                }
                self.place = 0;
            }
            let token = prompt.token(self.place);
            self.place += 1;
            if token != prompt.end_of_text {
                return token;
            }
        }
        prompt.end_of_text
    }
}

fn place_of(blocks: &[u32], position: u32, block_size: u32) -> Option<usize> {
    let block = blocks.get((position / block_size) as usize)?;
    Some(*block as usize * block_size as usize + (position % block_size) as usize)
}
