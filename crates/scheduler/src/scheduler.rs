//! The scheduler's state and the ways in and out of it.

use std::collections::{HashMap, VecDeque};

use slab::Slab;
use smallvec::SmallVec;
use wayfare_engine::{EngineRequest, EngineStats, FinishReason, RequestId, SequenceOutput, Terminator};
use wayfare_journey::{CoreEventKind, MonoNs};

use crate::block_pool::BlockPool;
use crate::schedule::StepPlan;
use crate::sequence::{Place, Sequence};
use crate::{SchedulerConfig, SchedulerConfigError};

/// A dense number of a live sequence.
pub(crate) type Slot = usize;

/// A request came with an id that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("request {0} is already in the scheduler")]
pub struct DuplicateRequest(pub RequestId);

/// Decides, step by step, which sequences compute how many tokens in which KV blocks.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) config: SchedulerConfig,
    pub(crate) sequences: Slab<Sequence>,
    slots: HashMap<RequestId, Slot>,
    /// In order of service; preempted sequences come back to the front.
    pub(crate) waiting: VecDeque<Slot>,
    /// In order of admission; the last one is the first to be preempted.
    pub(crate) running: Vec<Slot>,
    pub(crate) pool: BlockPool,
    pub(crate) plan: StepPlan,
    /// Steps started so far.
    pub(crate) step: u64,
    pub(crate) totals: EngineStats,
}

impl Scheduler {
    /// An empty scheduler.
    ///
    /// # Errors
    /// When the sizes do not fit together.
    pub fn new(config: SchedulerConfig) -> Result<Self, SchedulerConfigError> {
        config.validate()?;
        Ok(Self {
            config,
            sequences: Slab::new(),
            slots: HashMap::new(),
            waiting: VecDeque::new(),
            running: Vec::with_capacity(config.max_num_seqs as usize),
            pool: BlockPool::new(config.num_kv_blocks),
            plan: StepPlan::default(),
            step: 0,
            totals: EngineStats::default(),
        })
    }

    /// Puts a sequence at the end of the waiting queue.
    ///
    /// The caller has checked the request against the engine's limits: one that exceeds the whole pool
    /// would never finish.
    ///
    /// # Errors
    /// When the id is in use; the request's core span has been withdrawn.
    pub fn add(&mut self, request: EngineRequest, now: MonoNs) -> Result<(), DuplicateRequest> {
        let id = request.id;
        if self.slots.contains_key(&id) {
            request.refuse();
            return Err(DuplicateRequest(id));
        }
        let mut sequence = Sequence::new(request, self.config.block_size, now);
        sequence.record(CoreEventKind::Queued, self.step, now);
        let slot = self.sequences.insert(sequence);
        self.slots.insert(id, slot);
        self.waiting.push_back(slot);
        Ok(())
    }

    /// Ends a sequence, wherever it is, and appends its final output. Unknown and ended ids are ignored, so
    /// ending one twice is harmless.
    pub fn finish(
        &mut self,
        id: RequestId,
        reason: FinishReason,
        now: MonoNs,
        outputs: &mut Vec<SequenceOutput>,
    ) {
        let Some(&slot) = self.slots.get(&id) else { return };
        match self.sequences[slot].place {
            Place::Waiting { .. } => self.waiting.retain(|waiting| *waiting != slot),
            Place::Running => self.running.retain(|running| *running != slot),
        }
        let output = SequenceOutput { id, tokens: SmallVec::new(), first: None, finish: None };
        outputs.push(self.end(slot, reason, None, now, output));
    }

    /// Ends every sequence of the step that was planned last, because it could not be computed.
    pub fn fail_step(&mut self, now: MonoNs, outputs: &mut Vec<SequenceOutput>) {
        let failed: Vec<RequestId> = self.plan.sequences.iter().map(|planned| planned.id).collect();
        for id in failed {
            self.finish(id, FinishReason::Error, now, outputs);
        }
        self.plan.clear();
    }

    /// Ends every sequence.
    pub fn finish_all(&mut self, reason: FinishReason, now: MonoNs, outputs: &mut Vec<SequenceOutput>) {
        let mut ids: Vec<RequestId> = self.slots.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.finish(id, reason, now, outputs);
        }
        self.plan.clear();
    }

    /// Whether any sequence is running or waiting.
    #[must_use]
    pub fn has_unfinished(&self) -> bool {
        !self.sequences.is_empty()
    }

    /// Sequences in the waiting queue, preempted ones included.
    #[must_use]
    pub fn num_waiting(&self) -> u64 {
        self.waiting.len() as u64
    }

    /// Steps started so far. Grows by one per step, also by an empty one, and is never reset.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// State and totals.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        let usable = self.pool.num_usable();
        EngineStats {
            running: self.running.len() as u64,
            waiting: self.waiting.len() as u64,
            kv_blocks_used: u64::from(usable - self.pool.num_free()),
            kv_blocks_total: u64::from(usable),
            steps: self.step,
            ..self.totals
        }
    }

    /// Takes a sequence out that is in neither list any more, and completes its last output.
    pub(crate) fn end(
        &mut self,
        slot: Slot,
        reason: FinishReason,
        terminator: Option<Terminator>,
        now: MonoNs,
        mut output: SequenceOutput,
    ) -> SequenceOutput {
        let mut sequence = self.sequences.remove(slot);
        self.slots.remove(&sequence.id);
        self.pool.release(&mut sequence.blocks);
        output.finish = Some(Box::new(sequence.finish(reason, terminator, self.step, now)));
        output
    }
}
