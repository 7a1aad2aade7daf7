//! What the engine thread asks of whatever computes tokens.

use wayfare_engine::{RequestId, TokenId};

use crate::RuleBook;

/// The work of one engine step, flat, in buffers that are reused from step to step.
#[derive(Clone, Debug, Default)]
pub struct StepInput {
    /// The step's number.
    pub step: u64,
    /// The tokens to compute, sequence after sequence.
    pub token_ids: Vec<TokenId>,
    /// The KV blocks of every sequence, sequence after sequence. A sequence's i-th block holds its positions
    /// `i * block_size .. (i + 1) * block_size`. Block 0 is never used.
    pub block_tables: Vec<u32>,
    /// The sequences of the step.
    pub sequences: Vec<StepSequence>,
}

/// One sequence's part in a step: a prefill chunk, a decode, or both in one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSequence {
    /// The sequence's name, by which the [`RuleBook`] knows it.
    pub id: RequestId,
    /// A small number that is the sequence's own while it lives in the scheduler and is reused afterwards.
    pub slot: u32,
    /// Where its tokens start in [`StepInput::token_ids`].
    pub token_start: u32,
    /// How many tokens it computes, at least 1.
    pub num_tokens: u32,
    /// Position of the first of these tokens: the number of tokens whose KV is already in the blocks.
    pub first_position: u32,
    /// Where its block table starts in [`StepInput::block_tables`].
    pub block_start: u32,
    /// How many blocks it has; enough for all its tokens, these included.
    pub num_blocks: u32,
    /// How to choose the token after its last one; `None` while the prompt is not complete.
    pub sample: Option<SampleSpec>,
    /// After how many of its last tokens the logits are wanted: 1 when only a token is to be chosen, more when the
    /// prompt's log-probabilities are wanted, at most `num_tokens`.
    pub num_logits: u32,
    /// Whether the [`RuleBook`] says more about it.
    pub has_rules: bool,
}

/// How to choose one next token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleSpec {
    /// 0 chooses the most likely token.
    pub temperature: f32,
    /// Share of probability mass to choose from.
    pub top_p: f32,
    /// Number of tokens to choose from; 0 means all.
    pub top_k: u32,
    /// Least probability relative to the most likely token.
    pub min_p: f32,
    /// The sequence's seed.
    pub seed: u64,
    /// Which output token of the sequence this is, from 0.
    pub output_index: u32,
}

impl StepInput {
    /// Empties the buffers and keeps their memory.
    pub fn clear(&mut self) {
        self.token_ids.clear();
        self.block_tables.clear();
        self.sequences.clear();
    }

    /// The tokens that `sequence` computes.
    ///
    /// # Panics
    /// When `sequence` is not of this step.
    #[must_use]
    pub fn tokens_of(&self, sequence: &StepSequence) -> &[TokenId] {
        let start = sequence.token_start as usize;
        &self.token_ids[start..start + sequence.num_tokens as usize]
    }

    /// The block table of `sequence`.
    ///
    /// # Panics
    /// When `sequence` is not of this step.
    #[must_use]
    pub fn blocks_of(&self, sequence: &StepSequence) -> &[u32] {
        let start = sequence.block_start as usize;
        &self.block_tables[start..start + sequence.num_blocks as usize]
    }
}

/// Computes the tokens of a step.
pub trait Executor: Send {
    /// Runs one step and appends one token to `tokens` for each sequence with a [`SampleSpec`], in order. Sequences
    /// with rules follow theirs, and leave what is known about their tokens there.
    ///
    /// # Errors
    /// When the step cannot be computed; the engine fails the sequences of this step and goes on.
    fn execute(
        &mut self,
        input: &StepInput,
        rules: &mut RuleBook,
        tokens: &mut Vec<TokenId>,
    ) -> Result<(), ExecutorError>;
}

/// Computes logits; tokens are sampled from them outside.
pub trait Model: Send {
    /// Number of logits per row; token ids are below it.
    fn vocab_size(&self) -> usize;

    /// Computes the step's tokens, writes their keys and values to the KV blocks, and shows `take_row` the logits
    /// that are wanted: sequence after sequence, one row of [`Model::vocab_size`] values after each of its last
    /// [`num_logits`](StepSequence::num_logits) tokens. The row may be changed.
    ///
    /// # Errors
    /// When the step cannot be computed; no row has been shown then.
    fn forward_rows(
        &mut self,
        input: &StepInput,
        take_row: &mut dyn FnMut(&mut [f32]),
    ) -> Result<(), ExecutorError>;

    /// The same with all rows at once, which replace `logits`.
    ///
    /// # Errors
    /// When the step cannot be computed; `logits` is empty then.
    fn forward(&mut self, input: &StepInput, logits: &mut Vec<f32>) -> Result<(), ExecutorError> {
        logits.clear();
        self.forward_rows(input, &mut |row| logits.extend_from_slice(row))
    }
}

/// Why a step could not be computed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ExecutorError(pub String);
