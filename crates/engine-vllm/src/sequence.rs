//! One request in an engine core: what its outputs and events tell of its life.
//!
//! HOT PATH: a decode step changes numbers that are there and records nothing.

use std::sync::Arc;

use smallvec::SmallVec;
use wayfare_engine::{
    EngineRequest, Finish, FinishReason, FirstOutput, OutputDetails, RequestId, SequenceOutput,
    SequenceTimes, Terminator, TokenId,
};
use wayfare_journey::{
    ClockSource, CoreEvent, CoreEventKind, CoreSpan, FinishStatus, LedgerMeter, MonoNs, Phase, Progress,
    ScheduleKind, SequenceState, StepTimes, StepWork, WaitReason, WaitTimes,
};

use crate::standing::Stand;
use crate::steps::{Step, StepHistory};
use crate::wire::{EngineEventKind, RequestOutput, StopReason, WireFinish};

/// A request in flight.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) id: RequestId,
    pub(crate) rank: u16,
    end_of_text: Arc<[TokenId]>,
    prompt_tokens: u32,
    wants_logprobs: bool,
    wants_prompt_logprobs: bool,
    span: Option<CoreSpan>,
    /// When it was sent to the engine core.
    sent: MonoNs,
    /// `None` until the engine core has said that it is in its queue, or anything else.
    meter: Option<LedgerMeter>,
    times: SequenceTimes,
    phase: Phase,
    progress: Progress,
    cached_tokens: u32,
    num_preemptions: u32,
    /// Tokens it had when it was preempted last, until they are computed again.
    lost_tokens: u32,
    /// The last thing that is known to have happened.
    last: MonoNs,
    last_step: u64,
    /// What is shown of it while it lives.
    pub(crate) stand: Stand,
    /// The last step that brought tokens.
    pub(crate) heard_step: u64,
}

/// An event of the engine core with the time it has here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MappedEvent {
    pub(crate) kind: EngineEventKind,
    pub(crate) at: MonoNs,
}

impl MappedEvent {
    pub(crate) fn is_preemption(&self) -> bool {
        self.kind == EngineEventKind::Preempted
    }
}

impl Sequence {
    /// A request that is about to be sent.
    pub(crate) fn new(mut request: EngineRequest, rank: u16, clock: ClockSource, now: MonoNs) -> Self {
        if let Some(span) = &mut request.core_span {
            span.of_engine(rank.into(), clock);
            // Whether it waits or runs will be said with its first token.
            span.infer_state(SequenceState::Submitted, now);
        }
        Self {
            id: request.id,
            rank,
            end_of_text: request.sampling.end_of_text,
            // Checked against the limits before.
            prompt_tokens: request.prompt.len() as u32,
            wants_logprobs: request.sampling.logprobs.is_some(),
            wants_prompt_logprobs: request.sampling.prompt_logprobs.is_some(),
            span: request.core_span,
            sent: now,
            meter: None,
            times: SequenceTimes { queued: now, ..SequenceTimes::default() },
            phase: Phase::Waiting,
            progress: Progress::default(),
            cached_tokens: 0,
            num_preemptions: 0,
            lost_tokens: 0,
            last: now,
            last_step: 0,
            stand: Stand::Sent,
            heard_step: 0,
        }
    }

    /// What the engine core said of all of its requests tells this of it.
    pub(crate) fn concluded(&mut self, stand: Stand, state: SequenceState, at: MonoNs) {
        self.stand = stand;
        if let Some(span) = &self.span {
            span.infer_state(state, at.max(self.last));
        }
    }

    /// Whether it has had a token.
    pub(crate) fn has_begun(&self) -> bool {
        self.times.first_token.is_some()
    }

    pub(crate) fn prompt_tokens(&self) -> u64 {
        self.prompt_tokens.into()
    }

    /// Prompt tokens that were computed with its first token.
    pub(crate) fn prefilled_by(&self, output: &RequestOutput) -> u32 {
        let cached = output.prefill.map_or(0, |prefill| prefill.cached_tokens);
        if self.has_begun() { 0 } else { self.prompt_tokens.saturating_sub(cached) }
    }

    /// Takes what a step did for it. `events` are those of the output.
    pub(crate) fn take(
        &mut self,
        output: &mut RequestOutput,
        events: &[MappedEvent],
        step: &Step,
        history: &StepHistory,
    ) -> SequenceOutput {
        // Where clocks are estimated, it may seem to have been sent after the step.
        let step = &Step { end: step.end.max(self.last), ..*step };
        if let Some(prefill) = output.prefill {
            self.cached_tokens = prefill.cached_tokens.min(self.prompt_tokens);
        }
        events.iter().for_each(|event| self.happened(*event, step.end, history));
        let is_first = !output.tokens.is_empty() && !self.has_begun();
        if !output.tokens.is_empty() {
            self.computed(output.tokens.len(), step);
        }
        let details = (self.wants_logprobs || self.wants_prompt_logprobs).then(|| {
            let prompt = self.wants_prompt_logprobs && is_first;
            Box::new(OutputDetails {
                logprobs: std::mem::take(&mut output.logprobs),
                prompt_logprobs: prompt.then(|| std::mem::take(&mut output.prompt_logprobs)),
            })
        });
        let finish = output.finish.map(|finish| {
            let (reason, terminator) = self.ending(finish, output);
            Box::new(self.end(reason, terminator, step.end, step.number))
        });
        SequenceOutput {
            id: self.id,
            tokens: std::mem::take(&mut output.tokens),
            first: is_first.then_some(FirstOutput { cached_tokens: self.cached_tokens }),
            details,
            finish,
        }
    }

    /// The engine core will say nothing more of it, because it was told so or because it is gone.
    pub(crate) fn give_up(
        &mut self,
        reason: FinishReason,
        now: MonoNs,
        history: &StepHistory,
    ) -> SequenceOutput {
        if let Some(span) = &mut self.span {
            span.infer_finished();
        }
        let finish = self.end(reason, None, now, history.count());
        SequenceOutput {
            id: self.id,
            tokens: SmallVec::new(),
            first: None,
            details: None,
            finish: Some(Box::new(finish)),
        }
    }

    fn happened(&mut self, event: MappedEvent, step_end: MonoNs, history: &StepHistory) {
        // Estimated clocks may seem to put things out of their order.
        let at = event.at.clamp(self.last.min(step_end), step_end);
        let ended = history.ended_at(at);
        match event.kind {
            EngineEventKind::Queued if self.meter.is_none() => self.queued(at, ended),
            EngineEventKind::Scheduled => self.scheduled(at, ended + 1),
            EngineEventKind::Preempted if self.phase != Phase::Waiting => self.preempted(at, ended),
            // A second QUEUED, or a preemption of what does not run: nothing that is known to mean anything.
            EngineEventKind::Queued | EngineEventKind::Preempted => {}
        }
    }

    fn queued(&mut self, at: MonoNs, step: u64) {
        self.times.queued = at;
        self.meter = Some(LedgerMeter::start(at));
        self.record(CoreEventKind::Queued, at, step);
    }

    /// In the queue since it was sent, for all that is known.
    fn assume_queued(&mut self) {
        if self.meter.is_none() {
            if let Some(span) = &mut self.span {
                span.infer_queued();
            }
            self.queued(self.sent, self.last_step);
        }
    }

    fn scheduled(&mut self, at: MonoNs, step: u64) {
        if self.phase != Phase::Waiting {
            return;
        }
        self.assume_queued();
        // One with a token was scheduled before, whether that was told or not.
        let is_first = self.times.first_scheduled.is_none() && !self.has_begun();
        let kind = if is_first { ScheduleKind::First } else { ScheduleKind::Resume };
        if let Some(meter) = &mut self.meter {
            match kind {
                ScheduleKind::First => {
                    let mut waits = WaitTimes::default();
                    waits.add(WaitReason::Unknown, at.since(self.times.queued));
                    meter.scheduled_first(&waits, self.cached_tokens, at);
                }
                ScheduleKind::Resume => meter.resumed(at),
            }
        }
        if is_first {
            self.times.first_scheduled = Some(at);
        }
        self.phase = Phase::Prefill;
        self.progress.prefill_done = self.progress.prefill_done.max(self.cached_tokens);
        let cached_tokens = if kind == ScheduleKind::First { self.cached_tokens } else { 0 };
        // How large the first chunk was is not said.
        self.record(
            CoreEventKind::Scheduled { kind, cached_tokens, scheduled_tokens: 0, wait: None },
            at,
            step,
        );
    }

    fn preempted(&mut self, at: MonoNs, step: u64) {
        if let Some(meter) = &mut self.meter {
            meter.idled(at, self.phase == Phase::Decode);
        }
        self.lost_tokens = self.progress.prefill_done + self.progress.decode_done;
        self.phase = Phase::Waiting;
        self.num_preemptions = self.num_preemptions.saturating_add(1);
        // How much of it had been computed, and who needed the blocks, is not said.
        self.record(CoreEventKind::Preempted { by: None, tokens_lost: 0, blocks_freed: 0 }, at, step);
    }

    /// A step has brought tokens.
    fn computed(&mut self, tokens: usize, step: &Step) {
        self.assume_queued();
        let is_first = !self.has_begun();
        self.account(is_first, step);
        self.phase = Phase::Decode;
        self.progress.prefill_done = self.prompt_tokens;
        self.progress.decode_done = self.progress.decode_done.saturating_add(tokens as u32);
        self.lost_tokens = 0;
        self.times.last_token = Some(step.end);
        if is_first {
            self.times.first_token = Some(step.end);
            self.record(CoreEventKind::FirstToken, step.end, step.number);
        }
        if let Some(span) = &self.span {
            span.advance(self.progress, true, step.end);
        }
        self.last = self.last.max(step.end);
        self.stand = Stand::Decode;
        self.heard_step = step.number;
    }

    fn account(&mut self, is_first: bool, step: &Step) {
        let Some(meter) = &mut self.meter else { return };
        if is_first && self.times.first_scheduled.is_none() {
            // Without events, nothing tells the queue from the prompt's computation.
            let mut waits = WaitTimes::default();
            waits.add(WaitReason::Unknown, step.end.since(self.times.queued));
            meter.scheduled_first(&waits, self.cached_tokens, step.end);
            return;
        }
        let computed_prompt = self.prompt_tokens.saturating_sub(self.cached_tokens).max(1);
        let work = if is_first {
            StepWork { tokens: computed_prompt, prompt_tokens: computed_prompt, recomputed_tokens: 0 }
        } else if self.lost_tokens > 0 {
            StepWork { tokens: self.lost_tokens, prompt_tokens: 0, recomputed_tokens: self.lost_tokens }
        } else {
            StepWork { tokens: 1, prompt_tokens: 0, recomputed_tokens: 0 }
        };
        let is_decode = !is_first && self.lost_tokens == 0;
        // The chunks of a prompt are not seen, so all the time from SCHEDULED on counts as its computation.
        let times = if is_decode {
            StepTimes::new(
                step.previous_end,
                step.previous_end,
                step.end,
                step.prefill_tokens,
                step.total_tokens,
            )
        } else {
            StepTimes::new(MonoNs(0), MonoNs(0), step.end, 0, step.total_tokens)
        };
        meter.stepped(&times, work);
    }

    fn ending(&self, finish: WireFinish, output: &RequestOutput) -> (FinishReason, Option<Terminator>) {
        match finish {
            WireFinish::Stop => {
                let last = output.tokens.last().copied();
                let token = match &output.stop {
                    Some(StopReason::Token(token)) => Some(*token),
                    Some(StopReason::Named(_)) => None,
                    None => last,
                };
                let terminator = token.filter(|token| Some(*token) == last).map(|token| {
                    if self.end_of_text.contains(&token) {
                        Terminator::EndOfText
                    } else {
                        Terminator::StopToken(token)
                    }
                });
                (FinishReason::Stop, terminator)
            }
            WireFinish::Repetition => (FinishReason::Stop, None),
            WireFinish::Length => (FinishReason::Length, None),
            WireFinish::Abort => (FinishReason::Abort, None),
            WireFinish::Error => (FinishReason::Error, None),
        }
    }

    /// Ends it: the last event, and the account.
    fn end(&mut self, reason: FinishReason, terminator: Option<Terminator>, at: MonoNs, step: u64) -> Finish {
        self.assume_queued();
        let at = at.max(self.last);
        let is_waiting = self.phase == Phase::Waiting;
        let ledger = self.meter.take().map(|mut meter| {
            if is_waiting && self.times.first_scheduled.is_none() && !self.has_begun() {
                let mut waits = WaitTimes::default();
                waits.add(WaitReason::Unknown, at.since(self.times.queued));
                meter.waited(&waits, at);
            } else if is_waiting {
                meter.resumed(at);
            } else {
                meter.idled(at, self.phase == Phase::Decode);
            }
            *meter.ledger()
        });
        let ledger = ledger.unwrap_or_default();
        let status = match reason {
            FinishReason::Stop => FinishStatus::Stopped,
            FinishReason::Length => FinishStatus::Length,
            FinishReason::Abort => FinishStatus::Aborted,
            FinishReason::Error => FinishStatus::Error,
        };
        let event = self.event(CoreEventKind::Finished { status }, at, step);
        if let Some(span) = self.span.take() {
            span.finish_with_account(event, ledger);
        }
        Finish { reason, terminator, times: self.times, num_preemptions: self.num_preemptions, ledger }
    }

    fn record(&mut self, kind: CoreEventKind, at: MonoNs, step: u64) {
        let event = self.event(kind, at, step);
        if let Some(span) = &mut self.span {
            span.record(event);
        }
    }

    fn event(&mut self, kind: CoreEventKind, at: MonoNs, step: u64) -> CoreEvent {
        self.last = self.last.max(at);
        self.last_step = self.last_step.max(step);
        CoreEvent {
            kind,
            at,
            step: self.last_step,
            phase: self.phase,
            progress: self.progress,
            num_preemptions: self.num_preemptions,
        }
    }
}
