//! What can be said of the planned step, for whoever records steps.

use wayfare_journey::{Phase, RequestLabel};

use crate::scheduler::Scheduler;

/// Numbers of the step that was planned last, before it is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepFacts {
    /// Sequences that are running.
    pub running: u32,
    /// Sequences that wait.
    pub waiting: u32,
    /// Sequences with prompt tokens in the step, or with tokens that are computed again.
    pub prefill_sequences: u32,
    /// Sequences with nothing but their last output token in it.
    pub decode_sequences: u32,
    /// Tokens of those with prefill.
    pub prefill_tokens: u32,
    /// Tokens of the others.
    pub decode_tokens: u32,
    /// Sequences that were preempted for it.
    pub preempted: u32,
}

/// A running sequence and its part in the step that was planned last.
#[derive(Clone, Copy, Debug)]
pub struct RunningSequence<'a> {
    /// The request's name.
    pub label: &'a RequestLabel,
    /// What it is doing.
    pub phase: Phase,
    /// Its prompt tokens.
    pub prompt_tokens: u32,
    /// Its tokens that are computed.
    pub computed_tokens: u32,
    /// Its output tokens.
    pub output_tokens: u32,
    /// Its preemptions.
    pub num_preemptions: u32,
    /// What the step computes for it; 0 when it is left out.
    pub scheduled_tokens: u32,
    /// Its KV blocks.
    pub kv_blocks: u32,
    /// Those of them whose content others may find.
    pub kv_blocks_cached: u32,
    /// Prompt tokens that it found in the prefix cache when it was first scheduled.
    pub cached_tokens: u32,
}

impl Scheduler {
    /// Numbers of the planned step. Linear in its sequences, without allocation.
    #[must_use]
    pub fn step_facts(&self) -> StepFacts {
        let plan = &self.plan;
        let prefill = plan.sequences.iter().filter(|planned| planned.prefill_tokens > 0).count();
        // All of these are counts of sequences, of which there are fewer than 2³².
        StepFacts {
            running: self.running.len() as u32,
            waiting: self.waiting.len() as u32,
            prefill_sequences: prefill as u32,
            decode_sequences: (plan.sequences.len() - prefill) as u32,
            prefill_tokens: plan.prefill_tokens,
            decode_tokens: plan.total_tokens - plan.prefill_tokens,
            preempted: plan.num_preempted,
        }
    }

    /// The running sequences in order of admission, with what the planned step computes for them.
    pub fn running(&self) -> impl ExactSizeIterator<Item = RunningSequence<'_>> {
        // The plan has the running sequences in the same order, with some left out.
        let mut planned = self.plan.sequences.iter().peekable();
        self.running.iter().map(move |slot| {
            let sequence = &self.sequences[*slot];
            RunningSequence {
                label: &sequence.label,
                phase: sequence.phase(),
                prompt_tokens: sequence.prompt_len,
                computed_tokens: sequence.computed,
                output_tokens: sequence.num_output(),
                num_preemptions: sequence.num_preemptions,
                scheduled_tokens: planned.next_if(|one| one.slot == *slot).map_or(0, |one| one.num_tokens),
                kv_blocks: sequence.blocks.len() as u32,
                kv_blocks_cached: self.pool.count_cached(&sequence.blocks),
                cached_tokens: sequence.cached,
            }
        })
    }
}
