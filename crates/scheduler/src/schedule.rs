//! One call of `schedule`: who computes how many tokens in the coming step.
//!
//! HOT PATH. The order of decisions is that of vLLM v1 (`vllm/v1/core/sched/scheduler.py`): running sequences
//! first, in order of admission; if one cannot get its KV blocks, the most recently admitted one (or, under the
//! priority policy, the least important one) is preempted; waiting sequences only in a step without preemption.
//!
//! One rule is ours: a preempted sequence comes back only when the blocks for all its tokens are free, not just
//! those of its first chunk. Otherwise it would soon be preempted again by those whom it had made room for, and
//! compute the same tokens over and over.

use wayfare_engine::{RequestId, SamplingParams, SchedulingPolicy, TokenId};
use wayfare_journey::{CoreEventKind, MonoNs, QueueWaits, ScheduleKind, WaitNow, WaitReason};

use crate::BlockId;
use crate::scheduler::{Scheduler, Slot};
use crate::sequence::{Place, Sequence};
use crate::waits::{Obstacle, WaitMeter};

/// What one step computes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StepPlan {
    /// The step's number.
    pub step: u64,
    /// Tokens of all sequences together.
    pub total_tokens: u32,
    /// Those of them that belong to prompts or are computed again after a preemption.
    pub prefill_tokens: u32,
    /// Sequences that were preempted for this step.
    pub num_preempted: u32,
    pub(crate) started: MonoNs,
    pub(crate) sequences: Vec<Planned>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) slot: Slot,
    /// Guards against a sequence that ended between plan and commit.
    pub(crate) id: RequestId,
    pub(crate) num_tokens: u32,
    /// Those of them that are prefill.
    pub(crate) prefill_tokens: u32,
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
        self.prefill_tokens = 0;
        self.num_preempted = 0;
        self.sequences.clear();
    }

    fn push(&mut self, slot: Slot, sequence: &Sequence, num_tokens: u32) {
        let samples = num_tokens == sequence.pending();
        let prefill_tokens = if sequence.decodes() { 0 } else { num_tokens };
        self.total_tokens += num_tokens;
        self.prefill_tokens += prefill_tokens;
        self.sequences.push(Planned { slot, id: sequence.id, num_tokens, prefill_tokens, samples });
    }

    /// Takes a sequence out again. Returns whether it was in.
    fn withdraw(&mut self, slot: Slot) -> bool {
        let Some(position) = self.sequences.iter().position(|planned| planned.slot == slot) else {
            return false;
        };
        let planned = self.sequences.remove(position);
        self.total_tokens -= planned.num_tokens;
        self.prefill_tokens -= planned.prefill_tokens;
        true
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
        let now = self.observe(now);
        self.step += 1;
        self.plan.clear();
        self.plan.step = self.step;
        self.plan.started = now;
        if let Some(board) = &self.board {
            board.begin_step(self.step, now);
        }
        self.pool.begin_step(now);
        self.settle_waits(now);
        let pauses_all = self.pause.as_ref().is_some_and(|pause| pause.holds_running);
        if !pauses_all {
            self.schedule_running(now);
        }
        let obstacle = if self.pause.is_some() {
            WaitReason::Paused
        } else if self.plan.num_preempted > 0 {
            WaitReason::KvBlocks
        } else {
            self.schedule_waiting(now)
        };
        self.meet_obstacle(obstacle);
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

    /// As many of a sequence's pending tokens as one step may compute.
    fn chunk(&self, pending: u32) -> u32 {
        let threshold = self.config.long_prefill_token_threshold;
        if threshold > 0 { pending.min(threshold) } else { pending }
    }

    fn schedule_running(&mut self, now: MonoNs) {
        let mut position = 0;
        while position < self.running.len() && self.budget() > 0 {
            let slot = self.running[position];
            let num_tokens = self.chunk(self.sequences[slot].pending()).min(self.budget());
            while !self.allocate(slot, num_tokens) {
                let victim = self.victim();
                if victim < position {
                    // It had its tokens in this step already; they are free again.
                    position -= 1;
                }
                let victim = self.running.remove(victim);
                self.plan.withdraw(victim);
                self.preempt(victim, Some(slot), now);
                if victim == slot {
                    return;
                }
            }
            self.plan.push(slot, &self.sequences[slot], num_tokens);
            self.register_blocks(slot, num_tokens);
            position += 1;
        }
    }

    /// Who is preempted first: the position in the running list, which is not empty.
    fn victim(&self) -> usize {
        let last = self.running.len() - 1;
        match self.config.policy {
            SchedulingPolicy::Fcfs => last,
            SchedulingPolicy::Priority => {
                let rank = |position: &usize| self.sequences[self.running[*position]].rank;
                (0..=last).max_by_key(rank).unwrap_or(last)
            }
        }
    }

    /// Returns why no more could be admitted.
    fn schedule_waiting(&mut self, now: MonoNs) -> WaitReason {
        while let Some(slot) = self.waiting.first() {
            if self.running.len() >= self.config.max_num_seqs as usize {
                return WaitReason::MaxNumSeqs;
            }
            if self.budget() == 0 {
                return WaitReason::TokenBudget;
            }
            self.find_cached_prefix(slot);
            let cached = self.hits.len() as u32 * self.config.block_size;
            let pending = self.chunk(self.sequences[slot].len() - cached);
            if !self.config.chunked_prefill && pending > self.budget() {
                return WaitReason::TokenBudget;
            }
            let num_tokens = pending.min(self.budget());
            if !self.allocate_admitted(slot, cached, num_tokens) {
                return WaitReason::KvBlocks;
            }
            self.admit(slot, cached, num_tokens, now);
        }
        WaitReason::NextStep
    }

    /// Moves the first in the queue, which has its blocks, to the running list.
    fn admit(&mut self, slot: Slot, cached: u32, num_tokens: u32, now: MonoNs) {
        self.waiting.remove_first();
        self.running.push(slot);
        let sequence = &mut self.sequences[slot];
        self.waiting_tokens -= u64::from(sequence.prompt_len);
        let since_queued = now.since(sequence.times.queued);
        let waits = self.queue_clock.waits(slot, &sequence.wait, now, since_queued);
        let wait = sequence.is_traced().then(|| self.queue_clock.wait(sequence.id, &sequence.wait, &waits));
        let resumes = sequence.place == Place::Waiting { resumes: true };
        sequence.place = Place::Running;
        let found = cached.min(sequence.prompt_len).saturating_sub(sequence.ever_computed);
        self.totals.prompt_tokens += u64::from(found);
        sequence.computed = cached;
        sequence.ever_computed = sequence.ever_computed.max(cached);
        if resumes {
            sequence.meter.resumed(now);
        } else {
            sequence.times.first_scheduled = Some(now);
            sequence.cached = cached;
            sequence.meter.scheduled_first(&waits, cached, now);
            if self.hasher.is_some() {
                self.totals.prefix_cache_queries += u64::from(sequence.prompt_len);
                self.totals.prefix_cache_hits += u64::from(cached);
            }
        }
        let kind = if resumes { ScheduleKind::Resume } else { ScheduleKind::First };
        let (cached_tokens, scheduled_tokens) = (cached, num_tokens);
        sequence.record(
            CoreEventKind::Scheduled { kind, cached_tokens, scheduled_tokens, wait: wait.flatten() },
            self.step,
            now,
        );
        self.plan.push(slot, &self.sequences[slot], num_tokens);
        self.register_blocks(slot, num_tokens);
    }

    /// Finds the cached blocks of the longest known prefix, at least one token left out, so that there is
    /// something to compute.
    fn find_cached_prefix(&mut self, slot: Slot) {
        self.hits.clear();
        let Some(hasher) = &self.hasher else { return };
        let sequence = &mut self.sequences[slot];
        let most = (sequence.len() - 1) / self.config.block_size;
        let hashes = sequence.hashes(most, hasher, self.config.block_size);
        self.hits.extend(hashes.iter().map_while(|hash| self.pool.find(*hash)));
    }

    /// Gives a running sequence the KV blocks for `num_tokens` more tokens; nothing changes when they are not
    /// free.
    fn allocate(&mut self, slot: Slot, num_tokens: u32) -> bool {
        let sequence = &mut self.sequences[slot];
        let missing = sequence.missing_blocks(num_tokens, self.config.block_size);
        self.pool.allocate(missing, &mut sequence.blocks)
    }

    /// Gives a waiting sequence its cached blocks and those for `num_tokens` tokens behind them; nothing changes
    /// when they are not free.
    fn allocate_admitted(&mut self, slot: Slot, cached: u32, num_tokens: u32) -> bool {
        let block_size = self.config.block_size;
        let sequence = &mut self.sequences[slot];
        let num_hits = self.hits.len() as u32;
        let missing = (cached + num_tokens).div_ceil(block_size) - num_hits;
        let resumes = sequence.place == Place::Waiting { resumes: true };
        let needed = if resumes { sequence.len().div_ceil(block_size) - num_hits } else { missing };
        if needed + self.pool.count_free(&self.hits) > self.pool.num_free() {
            return false;
        }
        self.pool.share(&self.hits, &mut sequence.blocks);
        sequence.prefix.registered = num_hits;
        self.pool.allocate(missing, &mut sequence.blocks)
    }

    /// Tells the pool what the blocks that the step fills will hold, so that others may use them, in the same
    /// step even: keys and values are written before anybody reads them.
    fn register_blocks(&mut self, slot: Slot, num_tokens: u32) {
        let Some(hasher) = &self.hasher else { return };
        let sequence = &mut self.sequences[slot];
        let first = sequence.prefix.registered;
        let full = (sequence.computed + num_tokens) / self.config.block_size;
        if full <= first {
            return;
        }
        let known = sequence.hashes(full, hasher, self.config.block_size).len() as u32;
        for index in first..known {
            let (block, hash) = sequence.registrable(index);
            self.pool.register(block, hash);
        }
        sequence.prefix.registered = first.max(known);
    }

    /// Forgets what blocks of the sequence were to hold after a step that does not take place.
    pub(crate) fn unregister_uncomputed(&mut self, slot: Slot) {
        let sequence = &mut self.sequences[slot];
        let computed = sequence.computed / self.config.block_size;
        for index in computed..sequence.prefix.registered {
            self.pool.forget(sequence.blocks[index as usize]);
        }
        sequence.prefix.registered = sequence.prefix.registered.min(computed);
    }

    /// Takes the KV blocks of `victim`, which is in neither list, and puts it back in the queue.
    pub(crate) fn preempt(&mut self, victim: Slot, needed_by: Option<Slot>, now: MonoNs) {
        let by = needed_by
            .filter(|needed_by| *needed_by != victim && self.sequences[victim].is_traced())
            .map(|needed_by| self.sequences[needed_by].label.clone());
        self.unregister_uncomputed(victim);
        let step = self.step;
        let sequence = &mut self.sequences[victim];
        let decodes = sequence.decodes();
        sequence.meter.idled(now, decodes);
        let tokens_lost = sequence.computed;
        let blocks_freed = self.pool.release(&mut sequence.blocks);
        sequence.prefix.registered = 0;
        sequence.num_preemptions += 1;
        sequence.record(CoreEventKind::Preempted { by, tokens_lost, blocks_freed }, step, now);
        sequence.computed = 0;
        sequence.place = Place::Waiting { resumes: true };
        sequence.wait = WaitMeter::new(step - 1);
        self.queue_clock.join(&mut sequence.wait, 0);
        self.waiting_tokens += u64::from(sequence.prompt_len);
        self.waiting.push_preempted(sequence.rank, victim);
        self.totals.preemptions += 1;
        self.plan.num_preempted += 1;
    }

    /// Accounts for what those in the queue have waited up to now.
    pub(crate) fn settle_waits(&mut self, now: MonoNs) {
        let head = self.queue_clock.head;
        let head = head.and_then(|(slot, id)| {
            let sequence = self.sequences.get_mut(slot).filter(|sequence| sequence.id == id)?;
            (sequence.place != Place::Running).then_some(&mut sequence.wait)
        });
        self.queue_clock.advance(now, head);
        for (slot, id) in self.newcomers.drain(..) {
            if let Some(sequence) = self.sequences.get_mut(slot).filter(|sequence| sequence.id == id) {
                let since_queued = now.since(sequence.times.queued);
                self.queue_clock.join(&mut sequence.wait, since_queued);
            }
        }
    }

    /// Remembers why those still in the queue wait, and whom to blame.
    pub(crate) fn meet_obstacle(&mut self, head_reason: WaitReason) {
        let Some(head) = self.waiting.first() else {
            let nothing = WaitReason::NextStep;
            self.queue_clock.set_obstacle(Obstacle { head: nothing, rest: nothing }, None);
            self.show_waits(nothing, nothing, None, None);
            return;
        };
        let rest = match head_reason {
            WaitReason::KvBlocks => WaitReason::HeadOfLine,
            // Without chunked prefill the first one may be too long for what is left of the budget.
            WaitReason::TokenBudget if self.budget() > 0 => WaitReason::HeadOfLine,
            other => other,
        };
        let head_id = self.sequences[head].id;
        self.queue_clock.set_obstacle(Obstacle { head: head_reason, rest }, Some((head, head_id)));
        let blocker = self.blocker(head_reason, head);
        if let Some(blocker) = blocker {
            let blamed = &self.sequences[blocker];
            self.queue_clock.blame(head_reason, blamed.id, &blamed.label, self.step);
        }
        if rest == WaitReason::HeadOfLine {
            let blamed = &self.sequences[head];
            self.queue_clock.blame(rest, blamed.id, &blamed.label, self.step);
        }
        self.show_waits(head_reason, rest, Some(head), blocker);
    }

    /// Shows on the board why those in the queue wait; `blocker` stands in the way of the first of them.
    fn show_waits(
        &self,
        head_reason: WaitReason,
        rest: WaitReason,
        head: Option<Slot>,
        blocker: Option<Slot>,
    ) {
        let Some(board) = &self.board else { return };
        let key = |slot: Slot| self.sequences[slot].live_key();
        let request = |slot: Option<Slot>| slot.and_then(key).map(|key| key.request);
        let rest_blocker = if rest == WaitReason::HeadOfLine { head } else { blocker };
        board.show_waits(&QueueWaits {
            step: self.step,
            head: head.and_then(key),
            head_wait: WaitNow { reason: head_reason, blocker: request(blocker) },
            rest_wait: WaitNow { reason: rest, blocker: request(rest_blocker) },
        });
    }

    /// The running sequence that stands in the way of the first in the queue, where it is one alone.
    fn blocker(&self, reason: WaitReason, head: Slot) -> Option<Slot> {
        match reason {
            // Decodes get one token each; a prompt gets what is left.
            WaitReason::TokenBudget => {
                let largest = self.plan.sequences.iter().max_by_key(|planned| planned.num_tokens)?;
                (largest.num_tokens > 1).then_some(largest.slot)
            }
            WaitReason::MaxNumSeqs => match self.running[..] {
                [only] => Some(only),
                _ => None,
            },
            // Whose blocks alone would be enough.
            WaitReason::KvBlocks => {
                let held = |slot: &Slot| self.sequences[*slot].blocks.len();
                let largest = self.running.iter().copied().max_by_key(held)?;
                let needed = self.sequences[head].len().div_ceil(self.config.block_size) as usize;
                (held(&largest) + self.pool.num_free() as usize >= needed).then_some(largest)
            }
            _ => None,
        }
    }
}
