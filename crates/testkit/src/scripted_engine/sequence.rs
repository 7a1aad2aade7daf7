//! One request in the scripted engine, with the events of its core span.

use std::collections::VecDeque;

use smallvec::SmallVec;
use wayfare_engine::{
    Finish, FinishReason, FirstOutput, RequestId, SequenceOutput, SequenceTimes, Terminator, TokenId,
};
use wayfare_journey::{
    CoreEvent, CoreEventKind, CoreLedger, CoreSpan, FinishStatus, MonoNs, Phase, Progress, RequestLabel,
    ScheduleKind,
};

use super::{Reply, SubmittedRequest};

/// When something happens.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepTime {
    pub(super) step: u64,
    pub(super) at: MonoNs,
}

#[derive(Debug)]
struct AutomaticReply {
    tokens: VecDeque<TokenId>,
    finish: FinishReason,
    terminator: Option<Terminator>,
}

#[derive(Debug)]
pub(super) struct Sequence {
    id: RequestId,
    prompt_tokens: u32,
    reply: Option<AutomaticReply>,
    span: Option<CoreSpan>,
    phase: Phase,
    progress: Progress,
    times: SequenceTimes,
    num_preemptions: u32,
    recomputed_tokens: u32,
}

impl Sequence {
    pub(super) fn queue(
        request: &SubmittedRequest,
        span: Option<CoreSpan>,
        reply: Reply,
        time: StepTime,
    ) -> Self {
        let max_tokens = request.sampling.max_tokens as usize;
        let reply = match reply {
            Reply::ByHand => None,
            Reply::Tokens { mut tokens, finish, terminator } => {
                let is_cut = tokens.len() > max_tokens;
                tokens.truncate(max_tokens);
                let (finish, terminator) =
                    if is_cut { (FinishReason::Length, None) } else { (finish, terminator) };
                Some(AutomaticReply { tokens: tokens.into(), finish, terminator })
            }
        };
        let mut sequence = Self {
            id: request.id,
            prompt_tokens: u32::try_from(request.prompt.len()).unwrap_or(u32::MAX),
            reply,
            span,
            phase: Phase::Waiting,
            progress: Progress::default(),
            times: SequenceTimes { queued: time.at, ..SequenceTimes::default() },
            num_preemptions: 0,
            recomputed_tokens: 0,
        };
        sequence.record(CoreEventKind::Queued, time);
        sequence
    }

    pub(super) fn is_automatic(&self) -> bool {
        self.reply.is_some()
    }

    pub(super) fn is_running(&self) -> bool {
        self.phase != Phase::Waiting
    }

    /// Makes the sequence running; nothing happens when it is.
    pub(super) fn schedule(&mut self, time: StepTime) {
        if self.is_running() {
            return;
        }
        let is_first = self.times.first_scheduled.is_none();
        self.times.first_scheduled.get_or_insert(time.at);
        self.phase = Phase::Prefill;
        let kind = if is_first { ScheduleKind::First } else { ScheduleKind::Resume };
        let scheduled_tokens = self.prompt_tokens + self.progress.decode_done;
        self.record(CoreEventKind::Scheduled { kind, cached_tokens: 0, scheduled_tokens, wait: None }, time);
    }

    pub(super) fn emit(&mut self, tokens: &[TokenId], time: StepTime) -> SequenceOutput {
        let is_first = self.times.first_token.is_none() && !tokens.is_empty();
        if !tokens.is_empty() {
            self.schedule(time);
            self.phase = Phase::Decode;
            self.progress.prefill_done = self.prompt_tokens;
            self.progress.decode_done += u32::try_from(tokens.len()).unwrap_or(u32::MAX);
            self.times.first_token.get_or_insert(time.at);
            self.times.last_token = Some(time.at);
        }
        if is_first {
            self.record(CoreEventKind::FirstToken, time);
        }
        SequenceOutput {
            id: self.id,
            tokens: SmallVec::from_slice(tokens),
            first: is_first.then_some(FirstOutput { cached_tokens: 0 }),
            details: None,
            finish: None,
        }
    }

    /// Takes the blocks away, unless the sequence has none.
    pub(super) fn preempt(&mut self, by: Option<RequestLabel>, time: StepTime) -> bool {
        if !self.is_running() {
            return false;
        }
        let tokens_lost = self.progress.prefill_done + self.progress.decode_done;
        self.phase = Phase::Waiting;
        self.num_preemptions += 1;
        self.recomputed_tokens += tokens_lost;
        self.record(CoreEventKind::Preempted { by, tokens_lost, blocks_freed: 1 }, time);
        true
    }

    /// The next output of a sequence that the engine answers by itself, and whether more will follow.
    pub(super) fn automatic_output(&mut self, time: StepTime) -> (SequenceOutput, bool) {
        let (token, end) = match &mut self.reply {
            Some(reply) => {
                let token = reply.tokens.pop_front();
                (token, reply.tokens.is_empty().then_some((reply.finish, reply.terminator)))
            }
            None => (None, None),
        };
        let mut output = self.emit(token.as_slice(), time);
        if let Some((reason, terminator)) = end {
            output.finish = Some(Box::new(self.finish(reason, terminator, time)));
        }
        let goes_on = output.finish.is_none();
        (output, goes_on)
    }

    pub(super) fn finish_alone(mut self, reason: FinishReason, time: StepTime) -> SequenceOutput {
        let finish = self.finish(reason, None, time);
        SequenceOutput {
            id: self.id,
            tokens: SmallVec::new(),
            first: None,
            details: None,
            finish: Some(Box::new(finish)),
        }
    }

    /// Ends the span and gives the account. The caller lets go of the sequence.
    pub(super) fn finish(
        &mut self,
        reason: FinishReason,
        terminator: Option<Terminator>,
        time: StepTime,
    ) -> Finish {
        let status = match reason {
            FinishReason::Stop => FinishStatus::Stopped,
            FinishReason::Length => FinishStatus::Length,
            FinishReason::Abort => FinishStatus::Aborted,
            FinishReason::Error => FinishStatus::Error,
        };
        self.end_span(status, time);
        let mut ledger = CoreLedger::default();
        ledger.recomputed_tokens = self.recomputed_tokens;
        Finish { reason, terminator, times: self.times, num_preemptions: self.num_preemptions, ledger }
    }

    pub(super) fn end_span(&mut self, status: FinishStatus, time: StepTime) {
        let event = self.event(CoreEventKind::Finished { status }, time);
        if let Some(span) = self.span.take() {
            span.finish(event);
        }
    }

    fn record(&mut self, kind: CoreEventKind, time: StepTime) {
        let event = self.event(kind, time);
        if let Some(span) = &mut self.span {
            span.record(event);
        }
    }

    fn event(&self, kind: CoreEventKind, time: StepTime) -> CoreEvent {
        CoreEvent {
            kind,
            at: time.at,
            step: time.step,
            phase: self.phase,
            progress: self.progress,
            num_preemptions: self.num_preemptions,
        }
    }
}
