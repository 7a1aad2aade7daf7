//! One call of `schedule`: who computes how many tokens in the coming step.
//!
//! HOT PATH. The order of decisions is that of vLLM v1 (`vllm/v1/core/sched/scheduler.py`): running sequences
//! first, in order of admission; if one cannot get its KV blocks the most recently admitted one is
//! preempted; waiting sequences only in a step without preemption.

use wayfare_engine::{RequestId, SamplingParams, TokenId};
use wayfare_journey::{CoreEventKind, MonoNs, ScheduleKind};

use crate::BlockId;
use crate::scheduler::{Scheduler, Slot};
use crate::sequence::{Place, Sequence};

/// What one step computes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepPlan {
    /// The step's number.
    pub step: u64,
    /// Tokens of all sequences together.
    pub total_tokens: u32,
    pub(crate) sequences: Vec<Planned>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) slot: Slot,
    /// Guards against a sequence that ended between plan and commit.
    pub(crate) id: RequestId,
    pub(crate) num_tokens: u32,
    /// Whether the step completes the known tokens, so that a next one is sampled.
    pub(crate) samples: bool,
}

impl StepPlan {
    /// Whether the step computes nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.total_tokens = 0;
        self.sequences.clear();
    }

    fn push(&mut self, slot: Slot, sequence: &Sequence, num_tokens: u32) {
        let samples = num_tokens == sequence.pending();
        self.total_tokens += num_tokens;
        self.sequences.push(Planned { slot, id: sequence.id, num_tokens, samples });
    }
}

/// One sequence's part of the planned step.
#[derive(Clone, Copy, Debug)]
pub struct PlannedSequence<'a> {
    /// The sequence.
    pub id: RequestId,
    /// A dense number that is the sequence's own while it lives.
    pub slot: usize,
    /// The tokens to compute, at least one.
    pub tokens: &'a [TokenId],
    /// Position of the first of them.
    pub first_position: u32,
    /// The sequence's KV blocks.
    pub blocks: &'a [BlockId],
    /// How to choose the next token, and its index among the output tokens; `None` while known tokens remain
    /// to be computed after this step.
    pub sample: Option<(&'a SamplingParams, u32)>,
}

impl Scheduler {
    /// Plans the next step. An empty plan means that nothing can run; it is a step all the same.
    pub fn schedule(&mut self, now: MonoNs) -> &StepPlan {
        self.step += 1;
        self.plan.clear();
        self.plan.step = self.step;
        let has_preempted = self.schedule_running(now);
        if !has_preempted {
            self.schedule_waiting(now);
        }
        debug_assert!(self.plan.total_tokens <= self.config.max_num_batched_tokens);
        debug_assert!(self.running.len() <= self.config.max_num_seqs as usize);
        &self.plan
    }

    /// The sequences of the plan, in order.
    pub fn planned(&self) -> impl Iterator<Item = PlannedSequence<'_>> {
        self.plan.sequences.iter().map(|planned| {
            let sequence = &self.sequences[planned.slot];
            let (start, end) = (sequence.computed, sequence.computed + planned.num_tokens);
            PlannedSequence {
                id: sequence.id,
                slot: planned.slot,
                tokens: &sequence.tokens[start as usize..end as usize],
                first_position: start,
                blocks: &sequence.blocks,
                sample: planned.samples.then_some((&sequence.sampling, sequence.num_output())),
            }
        })
    }

    fn budget(&self) -> u32 {
        self.config.max_num_batched_tokens - self.plan.total_tokens
    }

    /// Returns whether anybody was preempted.
    fn schedule_running(&mut self, now: MonoNs) -> bool {
        let mut has_preempted = false;
        let mut position = 0;
        while position < self.running.len() && self.budget() > 0 {
            let slot = self.running[position];
            let num_tokens = self.sequences[slot].pending().min(self.budget());
            while !self.allocate(slot, num_tokens) {
                has_preempted = true;
                // The list is not empty: it holds `slot` at `position`.
                let victim = self.running.pop().unwrap_or(slot);
                self.preempt(victim, slot, now);
                if victim == slot {
                    return true;
                }
            }
            self.plan.push(slot, &self.sequences[slot], num_tokens);
            position += 1;
        }
        has_preempted
    }

    fn schedule_waiting(&mut self, now: MonoNs) {
        while let Some(&slot) = self.waiting.front() {
            if self.budget() == 0 || self.running.len() >= self.config.max_num_seqs as usize {
                break;
            }
            let num_tokens = self.sequences[slot].pending().min(self.budget());
            if !self.allocate(slot, num_tokens) {
                break;
            }
            self.waiting.pop_front();
            self.running.push(slot);
            let step = self.step;
            let sequence = &mut self.sequences[slot];
            let resumes = sequence.place == Place::Waiting { resumes: true };
            sequence.place = Place::Running;
            sequence.times.first_scheduled.get_or_insert(now);
            let kind = CoreEventKind::Scheduled {
                kind: if resumes { ScheduleKind::Resume } else { ScheduleKind::First },
                cached_tokens: 0,
                scheduled_tokens: num_tokens,
            };
            sequence.record(kind, step, now);
            self.plan.push(slot, sequence, num_tokens);
        }
    }

    /// Gives the sequence the KV blocks for `num_tokens` more tokens; nothing changes when they are not free.
    fn allocate(&mut self, slot: Slot, num_tokens: u32) -> bool {
        let sequence = &mut self.sequences[slot];
        let missing = sequence.missing_blocks(num_tokens, self.config.block_size);
        self.pool.allocate(missing, &mut sequence.blocks)
    }

    /// Takes the KV blocks of `victim`, which is in neither list, and puts it at the head of the queue.
    fn preempt(&mut self, victim: Slot, needed_by: Slot, now: MonoNs) {
        let by = (victim != needed_by).then(|| self.sequences[needed_by].label.clone());
        let step = self.step;
        let sequence = &mut self.sequences[victim];
        let tokens_lost = sequence.computed;
        let blocks_freed = self.pool.release(&mut sequence.blocks);
        sequence.num_preemptions += 1;
        sequence.record(CoreEventKind::Preempted { by, tokens_lost, blocks_freed }, step, now);
        sequence.computed = 0;
        sequence.place = Place::Waiting { resumes: true };
        self.waiting.push_front(victim);
        self.totals.preemptions += 1;
    }
}
