//! One request's generation: tokens in from the engine, text out, until every choice has ended.
//!
//! HOT PATH: [`Generation::poll_progress`] runs for each token.

mod choice;

use std::sync::Arc;
use std::task::{Context, Poll};

use smallvec::SmallVec;
use wayfare_engine::{EngineRequest, Finish, FinishReason, SamplingParams};
use wayfare_journey::{Clock, CoreSpan, JourneyHandle, MonoNs, RequestLabel, Usage as JourneyUsage};

use crate::deadline::Deadline;
use crate::endpoint::Endpoint;
use crate::error::ApiError;
use crate::hub::{OutputStream, StreamEvent};
use crate::journey_layer::RequestContext;
use crate::metrics::{RequestMeter, Siblings};
use crate::prepare::{Prepared, PreparedPrompt};
use crate::request_metrics::{MetricsWanted, RequestAccount, RequestMetrics};
use crate::server::AppState;
use crate::shutdown::ShutdownHandle;

use self::choice::Choice;
pub(crate) use self::choice::{ChoiceDelta, ChoiceEnd, StopReason};

/// Tokens so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenUsage {
    pub(crate) prompt: u32,
    pub(crate) completion: u32,
    pub(crate) cached: u32,
    /// Of those of the completion, what was reasoning.
    pub(crate) reasoning: u32,
}

/// A request in the engine. Dropping it early aborts it there.
#[derive(Debug)]
pub(crate) struct Generation {
    outputs: OutputStream,
    choices: SmallVec<[Choice; 1]>,
    unfinished: usize,
    choices_per_prompt: usize,
    stop: Arc<[String]>,
    prompt_tokens: u32,
    cached_tokens: u32,
    /// An error that came after text that is still to be given out.
    failure: Option<ApiError>,
    has_received: bool,
    has_reported_usage: bool,
    /// When the client was last given something, if it has not asked again since.
    given: Option<MonoNs>,
    /// What its metrics are made of, when they are wanted.
    account: Option<Box<RequestAccount>>,
    /// Choices that are over for the client and whose account the engine has still to give.
    unaccounted: usize,
    journey: JourneyHandle,
    clock: Arc<dyn Clock>,
    shutdown: ShutdownHandle,
    deadline: Option<Deadline>,
}

impl Generation {
    /// Hands a request to the engine.
    pub(crate) fn start(
        state: &AppState,
        context: &RequestContext,
        endpoint: Endpoint,
        label: &RequestLabel,
        prepared: &Prepared,
        body_complete: MonoNs,
        deadline: Option<Deadline>,
    ) -> Result<Self, ApiError> {
        let (journey, clock) = (context.journey.clone(), Arc::clone(&state.clock));
        let mut outputs = OutputStream::new(Arc::clone(&state.engine), state.hub.clone());
        let submitted = clock.now();
        let prompts = &prepared.prompts;
        let choices_of = |prompt: &PreparedPrompt| {
            let size = (u32::try_from(prompt.tokens.len()).unwrap_or(u32::MAX), prompt.max_tokens);
            std::iter::repeat_n(size, prepared.n as usize)
        };
        let sizes: SmallVec<[(u32, u32); 1]> = prompts.iter().flat_map(choices_of).collect();
        let mut core_spans = journey.open_cores(&sizes, submitted).into_iter();
        let siblings = Siblings::of(sizes.len());
        let mut choices = SmallVec::with_capacity(sizes.len());
        for (prompt, index) in prompts.iter().flat_map(|prompt| (0..prepared.n).map(move |i| (prompt, i))) {
            let request = EngineRequest {
                id: state.next_request_id(),
                label: label.clone(),
                prompt: Arc::clone(&prompt.tokens),
                sampling: SamplingParams {
                    // As vLLM, so that the first choice is the one that would have come alone.
                    seed: prepared.sampling.seed.wrapping_add(u64::from(index)),
                    max_tokens: prompt.max_tokens,
                    ..prepared.sampling.clone()
                },
                constraint: prepared.constraint(),
                priority: prepared.priority,
                cache_salt: prepared.cache_salt.clone(),
                arrived: context.arrived,
                core_span: core_spans.next(),
            };
            let prompt_tokens = u32::try_from(prompt.tokens.len()).unwrap_or(u32::MAX);
            let meter = RequestMeter::new(context.arrived, prompt_tokens, prompt.max_tokens, prepared.n)
                .with_trace(journey.sampled_trace_id())
                .with_siblings(siblings.clone());
            if let Err(error) = outputs.submit(request, meter) {
                // The spans of those that will not be submitted either.
                core_spans.for_each(CoreSpan::withdraw);
                return Err(ApiError::not_submitted(&error, endpoint.prompt_param(), prompt.max_tokens));
            }
            let tokenizer = state.tokenizer().clone();
            choices.push(Choice::new(tokenizer, prepared, prompt.echo.as_ref()));
        }
        outputs.seal(deadline.map(Deadline::at));
        journey.handed_to_core(clock.now());
        let has_account = match prepared.metrics {
            MetricsWanted::No => false,
            // Where the answer is streamed, its head has been sent before it is known.
            MetricsWanted::InHeader => !prepared.form.stream,
            MetricsWanted::InBody => true,
        };
        let account =
            has_account.then(|| Box::new(RequestAccount::new(context.arrived, body_complete, submitted)));
        Ok(Self {
            outputs,
            unfinished: choices.len(),
            choices,
            choices_per_prompt: prepared.n as usize,
            stop: Arc::clone(&prepared.text.stop),
            prompt_tokens: prepared.prompt_tokens(),
            cached_tokens: 0,
            failure: None,
            has_received: false,
            has_reported_usage: false,
            given: None,
            account,
            unaccounted: 0,
            journey,
            clock,
            shutdown: state.shutdown.clone(),
            deadline,
        })
    }

    /// Choices of all prompts.
    pub(crate) fn num_choices(&self) -> usize {
        self.choices.len()
    }

    /// Whether every choice has ended, and is accounted for if that is wanted.
    pub(crate) fn is_over(&self) -> bool {
        self.unfinished == 0 && self.unaccounted == 0
    }

    /// The metrics of the request, when they are wanted, for an answer that ends at `ended`. Once it is over.
    pub(crate) fn metrics(&self, ended: MonoNs) -> Option<RequestMetrics> {
        self.account.as_ref().map(|account| account.metrics(self.usage(), ended))
    }

    /// Takes what the engine has produced since the last call; ready when there is something new to give
    /// out. What comes while nobody polls is put together, so a slow client gets fewer and larger deltas.
    pub(crate) fn poll_progress(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ApiError>> {
        if let Some(error) = self.failure.take() {
            return Poll::Ready(Err(error));
        }
        let given = self.given.take();
        let progress = self.poll_outputs(cx, given);
        if progress.is_ready() && self.journey.is_on() {
            self.given = Some(self.clock.now());
        }
        progress
    }

    fn poll_outputs(&mut self, cx: &mut Context<'_>, given: Option<MonoNs>) -> Poll<Result<(), ApiError>> {
        let mut has_news = false;
        while !self.is_over() {
            let Poll::Ready(event) = self.outputs.poll_next(cx) else {
                return if has_news { Poll::Ready(Ok(())) } else { Poll::Pending };
            };
            if let (Some(given), false, StreamEvent::Output { at, .. }) = (given, has_news, &event) {
                // It lay ready while the client was busy with what it had been given before.
                self.journey.blocked(self.clock.now().since(given.max(*at)));
            }
            match self.take(event) {
                Ok(is_news) => has_news |= is_news,
                Err(error) if has_news => {
                    self.failure = Some(error);
                    return Poll::Ready(Ok(()));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        self.report_usage();
        Poll::Ready(Ok(()))
    }

    /// What has become of each choice since the last call, by index.
    pub(crate) fn take_deltas(&mut self) -> impl Iterator<Item = (usize, ChoiceDelta)> {
        self.choices.iter_mut().map(|choice| std::mem::take(&mut choice.delta)).enumerate()
    }

    /// The same, shown and then cleared, so that the next text finds its room allocated.
    pub(crate) fn visit_deltas(&mut self, mut visit: impl FnMut(usize, &ChoiceDelta)) {
        for (index, choice) in self.choices.iter_mut().enumerate() {
            visit(index, &choice.delta);
            choice.delta.clear();
        }
    }

    /// Tokens so far.
    pub(crate) fn usage(&self) -> TokenUsage {
        let completion = self.choices.iter().map(|choice| choice.generated_tokens).sum();
        let reasoning = self.choices.iter().map(|choice| choice.reasoning_tokens).sum();
        TokenUsage { prompt: self.prompt_tokens, completion, cached: self.cached_tokens, reasoning }
    }

    /// Where the request is reported.
    pub(crate) fn journey(&self) -> &JourneyHandle {
        &self.journey
    }

    /// Whether the event changes anything for the client.
    fn take(&mut self, event: StreamEvent) -> Result<bool, ApiError> {
        let (index, output) = match event {
            StreamEvent::Output { choice, output, .. } => (choice, output),
            // The answer is whole; what is missing of its account is left out.
            _ if self.unfinished == 0 => {
                self.unaccounted = 0;
                return Ok(false);
            }
            StreamEvent::EngineDied => return Err(ApiError::EngineDead),
            StreamEvent::ShutDown => return Err(ApiError::ShuttingDown),
            StreamEvent::TimedOut => return Err(self.timed_out()),
        };
        if !self.has_received && (output.first.is_some() || !output.tokens.is_empty()) {
            self.has_received = true;
            self.journey.received_from_core(self.clock.now());
        }
        // A prompt counts once, however many answers it has.
        if let Some(first) = output.first.as_ref().filter(|_| index.is_multiple_of(self.choices_per_prompt)) {
            self.cached_tokens = self.cached_tokens.saturating_add(first.cached_tokens);
        }
        let Some(choice) = self.choices.get_mut(index) else { return Ok(false) };
        if choice.finish_reason.is_some() {
            if let (Some(finish), Some(account)) = (&output.finish, &mut self.account) {
                account.finished(finish, choice.generated_tokens);
                self.unaccounted = self.unaccounted.saturating_sub(1);
            }
            return Ok(false);
        }
        let end = match choice.advance(&output) {
            Ok(found) => stop_string(found, &self.stop),
            Err(error) => {
                tracing::error!(%error, "a token of the engine cannot be decoded");
                self.outputs.fail();
                return Err(ApiError::GenerationFailed);
            }
        };
        let end = match (end, &output.finish) {
            (Some(end), _) => Some(end),
            (None, None) => None,
            (None, Some(finish)) => Some(self.engine_end(index, finish)?),
        };
        let Some(choice) = self.choices.get_mut(index) else { return Ok(false) };
        if let Some(mut end) = end {
            end.finish_reason = choice.finish_reason(end.finish_reason);
            match (&mut self.account, &output.finish) {
                // No effect when it was the engine that ended the sequence.
                (None, _) => self.outputs.finish(index),
                (Some(account), Some(finish)) => account.finished(finish, choice.generated_tokens),
                (Some(_), None) => {
                    self.outputs.finish_and_listen(index);
                    self.unaccounted += 1;
                }
            }
            choice.finish_reason = Some(end.finish_reason);
            choice.delta.end = Some(end);
            self.unfinished -= 1;
        }
        Ok(!choice.delta.is_empty())
    }

    /// The engine has ended a choice.
    fn engine_end(&mut self, index: usize, finish: &Finish) -> Result<ChoiceEnd, ApiError> {
        let finish_reason = match finish.reason {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            // The engine gives up what it runs when it is told to end; nobody else aborts a request that is
            // still listened to.
            FinishReason::Abort if self.shutdown.is_draining() => return Err(ApiError::ShuttingDown),
            // An engine that fails ends its sequences before it says that it is gone.
            FinishReason::Abort | FinishReason::Error if self.outputs.engine_has_failed() => {
                return Err(ApiError::EngineDead);
            }
            FinishReason::Abort | FinishReason::Error => return Err(ApiError::GenerationFailed),
        };
        let Some(choice) = self.choices.get_mut(index) else { return Err(ApiError::GenerationFailed) };
        let found = choice.end_text().map_err(|error| {
            tracing::error!(%error, "the end of a text cannot be decoded");
            ApiError::GenerationFailed
        })?;
        if let Some(end) = stop_string(found, &self.stop) {
            return Ok(end);
        }
        let stop_reason = Choice::stop_token(finish);
        Ok(ChoiceEnd { finish_reason, stop_reason })
    }

    fn timed_out(&self) -> ApiError {
        self.deadline.map_or(ApiError::GenerationFailed, Deadline::error)
    }

    /// Tells the journey what was used, once.
    fn report_usage(&mut self) {
        if std::mem::replace(&mut self.has_reported_usage, true) {
            return;
        }
        let usage = self.usage();
        self.journey.used(|| JourneyUsage {
            prompt_tokens: usage.prompt,
            completion_tokens: usage.completion,
            cached_tokens: usage.cached,
            finish_reasons: self.choices.iter().filter_map(|choice| choice.finish_reason).collect(),
        });
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        // A client that read nothing until its time was up was not told; its journey says it.
        if !self.is_over() && self.outputs.has_timed_out() {
            let report = self.timed_out().report();
            self.journey.failed(report.reason, report.error_type, report.message);
        }
        self.report_usage();
    }
}

fn stop_string(found: Option<usize>, stop: &[String]) -> Option<ChoiceEnd> {
    let text = stop.get(found?)?.clone();
    Some(ChoiceEnd { finish_reason: "stop", stop_reason: Some(StopReason::Text(text)) })
}
