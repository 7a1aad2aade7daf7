//! The scheduler's state and the ways in and out of it.

use std::collections::HashMap;

use slab::Slab;
use smallvec::SmallVec;
use wayfare_engine::{
    BlockLife, EngineRequest, EngineStats, FinishReason, RequestId, SequenceOutput, Terminator,
};
use wayfare_journey::{CoreEventKind, EngineBoard, MonoNs, RequestLabel, WaitReason};

use crate::block_pool::BlockPool;
use crate::control::Pause;
use crate::prefix::PrefixHasher;
use crate::queue::WaitingQueue;
use crate::schedule::StepPlan;
use crate::sequence::{Place, Sequence};
use crate::waits::QueueClock;
use crate::{BlockId, SchedulerConfig, SchedulerConfigError};

/// A dense number of a live sequence.
pub(crate) type Slot = usize;

/// A request came with an id that is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("request {0} is already in the scheduler")]
pub struct DuplicateRequest(pub RequestId);

/// A sequence in the waiting queue, and why it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitingSequence<'a> {
    /// The sequence.
    pub id: RequestId,
    /// What stood in its way in the last step.
    pub reason: WaitReason,
    /// The request to blame, where it is one alone.
    pub blocker: Option<&'a RequestLabel>,
}

/// Decides, step by step, which sequences compute how many tokens in which KV blocks.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) config: SchedulerConfig,
    pub(crate) hasher: Option<PrefixHasher>,
    pub(crate) sequences: Slab<Sequence>,
    slots: HashMap<RequestId, Slot>,
    pub(crate) waiting: WaitingQueue,
    /// Prompt tokens of the sequences in the waiting queue.
    pub(crate) waiting_tokens: u64,
    /// Those in the waiting queue that no step has seen yet. May name some that have ended.
    pub(crate) newcomers: Vec<(Slot, RequestId)>,
    /// In order of admission. First come, first served preempts the last one first.
    pub(crate) running: Vec<Slot>,
    pub(crate) pool: BlockPool,
    pub(crate) plan: StepPlan,
    /// The cached blocks of the sequence whose turn it is.
    pub(crate) hits: Vec<BlockId>,
    /// Steps started so far.
    pub(crate) step: u64,
    /// The latest time that was given; no later one counts as earlier.
    now: MonoNs,
    /// When the last step ended.
    pub(crate) previous_end: MonoNs,
    pub(crate) queue_clock: QueueClock,
    pub(crate) pause: Option<Pause>,
    pub(crate) totals: EngineStats,
    /// Where it shows what it does, when anybody may look.
    pub(crate) board: Option<EngineBoard>,
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
            hasher: config.prefix_caching.map(PrefixHasher::new),
            sequences: Slab::new(),
            slots: HashMap::new(),
            waiting: WaitingQueue::new(config.policy),
            waiting_tokens: 0,
            newcomers: Vec::new(),
            running: Vec::with_capacity(config.max_num_seqs as usize),
            pool: BlockPool::new(config.num_kv_blocks, config.prefix_caching.is_some(), config.follow_blocks),
            plan: StepPlan::default(),
            hits: Vec::new(),
            step: 0,
            now: MonoNs::default(),
            previous_end: MonoNs::default(),
            queue_clock: QueueClock::new(),
            pause: None,
            totals: EngineStats::default(),
            board: None,
        })
    }

    /// Shows on a board, from now on, which step is computed and why those in the queue wait.
    pub fn show_on(&mut self, board: EngineBoard) {
        self.board = Some(board);
    }

    /// Puts a sequence at its place in the waiting queue.
    ///
    /// The caller has checked the request against the engine's limits: one that exceeds the whole pool
    /// would never finish.
    ///
    /// # Errors
    /// When the id is in use; the request's core span has been withdrawn.
    pub fn add(&mut self, request: EngineRequest, now: MonoNs) -> Result<(), DuplicateRequest> {
        let now = self.observe(now);
        let id = request.id;
        if self.slots.contains_key(&id) {
            request.refuse();
            return Err(DuplicateRequest(id));
        }
        let mut sequence =
            Sequence::new(request, self.config.block_size, self.hasher.as_ref(), self.step, now);
        sequence.record(CoreEventKind::Queued, self.step, now);
        let rank = sequence.rank;
        self.waiting_tokens += u64::from(sequence.prompt_len);
        let slot = self.sequences.insert(sequence);
        self.slots.insert(id, slot);
        self.waiting.push(rank, slot);
        self.newcomers.push((slot, id));
        if self.pause.is_some() {
            // No step will see it for some time, and it is known why.
            self.settle_waits(now);
            self.meet_obstacle(WaitReason::Paused);
        }
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
        let now = self.observe(now);
        let Some(&slot) = self.slots.get(&id) else { return };
        let sequence = &mut self.sequences[slot];
        match sequence.place {
            Place::Waiting { resumes } => {
                if resumes {
                    sequence.meter.resumed(now);
                } else {
                    let since_queued = now.since(sequence.times.queued);
                    let waits = self.queue_clock.waits(slot, &sequence.wait, now, since_queued);
                    sequence.meter.waited(&waits, now);
                }
                self.waiting_tokens -= u64::from(sequence.prompt_len);
                self.waiting.remove(sequence.rank, slot);
            }
            Place::Running => {
                if let Some(paused) = self.pause.as_ref().filter(|pause| pause.holds_running) {
                    sequence.meter.held(now.since(paused.since));
                }
                let decodes = sequence.decodes();
                sequence.meter.idled(now, decodes);
                self.running.retain(|running| *running != slot);
            }
        }
        let output = SequenceOutput { id, tokens: SmallVec::new(), first: None, details: None, finish: None };
        outputs.push(self.end(slot, reason, None, now, output));
    }

    /// Ends every sequence. Returns how many there were.
    pub fn finish_all(
        &mut self,
        reason: FinishReason,
        now: MonoNs,
        outputs: &mut Vec<SequenceOutput>,
    ) -> u64 {
        let mut ids: Vec<RequestId> = self.slots.keys().copied().collect();
        ids.sort_unstable();
        for id in &ids {
            self.finish(*id, reason, now, outputs);
        }
        self.plan.clear();
        ids.len() as u64
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

    /// Prompt tokens of the sequences in the waiting queue, preempted ones included.
    #[must_use]
    pub fn waiting_tokens(&self) -> u64 {
        self.waiting_tokens
    }

    /// The waiting queue in order of service, with what each of them waits for.
    pub fn waiting(&self) -> impl Iterator<Item = WaitingSequence<'_>> {
        self.waiting.iter().map(|slot| {
            let sequence = &self.sequences[slot];
            let reason = self.queue_clock.reason(slot, &sequence.wait);
            let blocker = self.queue_clock.blamed_in(reason, self.step);
            WaitingSequence { id: sequence.id, reason, blocker }
        })
    }

    /// Steps started so far. Grows by one per step, also by an empty one, and is never reset.
    #[must_use]
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The lives of the followed KV blocks' contents that have been evicted since the last call.
    pub fn take_block_lives(&mut self) -> Vec<BlockLife> {
        self.pool.take_block_lives()
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
            paused: u64::from(self.pause.is_some()),
            ..self.totals
        }
    }

    /// The time that counts: a clock that goes back stands still.
    pub(crate) fn observe(&mut self, now: MonoNs) -> MonoNs {
        self.now = self.now.max(now);
        self.now
    }

    /// Takes a sequence out that is in neither list any more and whose time is accounted for, and completes its
    /// last output.
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
