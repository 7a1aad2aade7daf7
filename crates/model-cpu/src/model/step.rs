//! Checks a step's input before any of it is used.

use crate::kv_cache::KvLayout;
use wayfare_engine_local::{ExecutorError, StepInput, StepSequence};

/// One token of a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct TokenPlace {
    pub(super) token_id: u32,
    /// In its sequence.
    pub(super) position: usize,
    /// Cache block that takes its key and value.
    pub(super) block: usize,
    /// Its place in that block.
    pub(super) offset: usize,
}

/// Turns step inputs into places, and refuses inputs that would read or write where they must not.
pub(super) struct StepChecker {
    vocab_size: usize,
    layout: KvLayout,
    max_model_len: usize,
    /// For each cache position the last step that wrote it.
    written: Vec<u32>,
    step: u32,
}

impl StepChecker {
    pub(super) fn new(vocab_size: usize, layout: KvLayout, max_model_len: usize) -> Self {
        let written = vec![0; layout.num_blocks * layout.block_size];
        Self { vocab_size, layout, max_model_len, written, step: 0 }
    }

    /// Replaces `places` by the tokens in the order of their rows, and `wanted` by the rows after which logits are
    /// wanted.
    pub(super) fn check(
        &mut self,
        input: &StepInput,
        places: &mut Vec<TokenPlace>,
        wanted: &mut Vec<usize>,
    ) -> Result<(), ExecutorError> {
        places.clear();
        wanted.clear();
        self.step = self.step.wrapping_add(1);
        if self.step == 0 {
            self.written.fill(0);
            self.step = 1;
        }
        for (index, sequence) in input.sequences.iter().enumerate() {
            self.check_sequence(input, sequence, places)
                .map_err(|what| ExecutorError(format!("sequence {index} of the step: {what}")))?;
            let end = places.len();
            wanted.extend(end - sequence.num_logits as usize..end);
        }
        Ok(())
    }

    fn check_sequence(
        &mut self,
        input: &StepInput,
        sequence: &StepSequence,
        places: &mut Vec<TokenPlace>,
    ) -> Result<(), String> {
        let block_size = self.layout.block_size;
        let part = |start: u32, count: u32| start as usize..start as usize + count as usize;
        // The rows of the buffers are those of the token list.
        if sequence.token_start as usize != places.len() {
            return Err(format!("its tokens start at {}, not at {}", sequence.token_start, places.len()));
        }
        let tokens = input
            .token_ids
            .get(part(sequence.token_start, sequence.num_tokens))
            .filter(|tokens| !tokens.is_empty())
            .ok_or_else(|| format!("{} tokens of {}", sequence.num_tokens, input.token_ids.len()))?;
        if sequence.num_logits > sequence.num_tokens {
            return Err(format!("{} logits for {} tokens", sequence.num_logits, sequence.num_tokens));
        }
        let table = input
            .block_tables
            .get(part(sequence.block_start, sequence.num_blocks))
            .ok_or_else(|| "its block table is not in the step".to_owned())?;
        let first = sequence.first_position as usize;
        let end = first + tokens.len();
        if end > self.max_model_len {
            return Err(format!("{end} positions, the model has {}", self.max_model_len));
        }
        let Some(table) = table.get(..end.div_ceil(block_size)) else {
            return Err(format!("{} blocks of {block_size} for {end} positions", table.len()));
        };
        if let Some(block) =
            table.iter().find(|&&block| block == 0 || block as usize >= self.layout.num_blocks)
        {
            return Err(format!("block {block} of {}", self.layout.num_blocks));
        }
        for (index, &token_id) in tokens.iter().enumerate() {
            if token_id as usize >= self.vocab_size {
                return Err(format!("token {token_id}, the vocabulary has {}", self.vocab_size));
            }
            let position = first + index;
            let block = table[position / block_size] as usize;
            let offset = position % block_size;
            let written = &mut self.written[block * block_size + offset];
            if *written == self.step {
                return Err(format!("position {position} is in a cache place that another token writes too"));
            }
            *written = self.step;
            places.push(TokenPlace { token_id, position, block, offset });
        }
        Ok(())
    }
}
