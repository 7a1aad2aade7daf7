//! One request's generation: tokens in from the engine, text out, until every choice has ended.
//!
//! HOT PATH: [`Generation::poll_progress`] runs for each token.

use std::sync::Arc;
use std::task::{Context, Poll};

use smallvec::SmallVec;
use wayfare_engine::{EngineRequest, Finish, FinishReason, SequenceOutput, Terminator};
use wayfare_journey::{Clock, JourneyHandle, MonoNs, RequestLabel, Usage as JourneyUsage};
use wayfare_text::TextStream;

use crate::deadline::Deadline;
use crate::endpoint::Endpoint;
use crate::error::ApiError;
use crate::hub::{OutputStream, StreamEvent};
use crate::journey_layer::RequestContext;
use crate::metrics::RequestMeter;
use crate::prepare::Prepared;
use crate::request_metrics::{MetricsWanted, RequestAccount, RequestMetrics};
use crate::server::AppState;
use crate::shutdown::ShutdownHandle;

/// How a choice ended, in OpenAI's and vLLM's terms.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ChoiceEnd {
    /// `stop` or `length`.
    pub(crate) finish_reason: &'static str,
    pub(crate) stop_reason: Option<StopReason>,
}

/// What exactly stopped a choice; nothing when it was the end of the text.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub(crate) enum StopReason {
    Text(String),
    Token(u32),
}

/// Tokens so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenUsage {
    pub(crate) prompt: u32,
    pub(crate) completion: u32,
    pub(crate) cached: u32,
}

/// What has become of a choice since somebody looked.
#[derive(Debug, Default)]
pub(crate) struct ChoiceDelta {
    pub(crate) text: String,
    pub(crate) end: Option<ChoiceEnd>,
}

#[derive(Debug)]
struct Choice {
    text: TextStream,
    delta: ChoiceDelta,
    generated_tokens: u32,
    finish_reason: Option<&'static str>,
}

/// A request in the engine. Dropping it early aborts it there.
#[derive(Debug)]
pub(crate) struct Generation {
    outputs: OutputStream,
    choices: SmallVec<[Choice; 1]>,
    unfinished: usize,
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
        label: RequestLabel,
        prepared: &Prepared,
        body_complete: MonoNs,
        deadline: Option<Deadline>,
    ) -> Result<Self, ApiError> {
        let (journey, clock) = (context.journey.clone(), Arc::clone(&state.clock));
        let prompt_tokens = prepared.prompt_tokens();
        let max_tokens = prepared.sampling.max_tokens;
        let mut outputs = OutputStream::new(Arc::clone(&state.engine), state.hub.clone());
        let submitted = clock.now();
        let core_span = journey.open_cores(&[(prompt_tokens, max_tokens)], submitted).pop();
        let request = EngineRequest {
            id: state.next_request_id(),
            label,
            prompt: Arc::clone(&prepared.prompt),
            sampling: prepared.sampling.clone(),
            priority: prepared.priority,
            cache_salt: prepared.cache_salt.clone(),
            arrived: context.arrived,
            core_span,
        };
        let meter = RequestMeter::new(context.arrived, prompt_tokens, max_tokens, 1)
            .with_trace(journey.sampled_trace_id());
        outputs
            .submit(request, meter)
            .map_err(|error| ApiError::not_submitted(&error, endpoint.prompt_param(), max_tokens))?;
        outputs.seal(deadline.map(Deadline::at));
        journey.handed_to_core(clock.now());
        let has_account = match prepared.metrics {
            MetricsWanted::No => false,
            // Where the answer is streamed, its head has been sent before it is known.
            MetricsWanted::InHeader => !prepared.stream,
            MetricsWanted::InBody => true,
        };
        let account =
            has_account.then(|| Box::new(RequestAccount::new(context.arrived, body_complete, submitted)));
        let choice = Choice {
            text: TextStream::new(state.tokenizer().clone(), Arc::clone(&prepared.stop), true),
            delta: ChoiceDelta::default(),
            generated_tokens: 0,
            finish_reason: None,
        };
        Ok(Self {
            outputs,
            choices: SmallVec::from_iter([choice]),
            unfinished: 1,
            stop: Arc::clone(&prepared.stop),
            prompt_tokens,
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
            choice.delta.text.clear();
            choice.delta.end = None;
        }
    }

    /// Tokens so far.
    pub(crate) fn usage(&self) -> TokenUsage {
        let completion = self.choices.iter().map(|choice| choice.generated_tokens).sum();
        TokenUsage { prompt: self.prompt_tokens, completion, cached: self.cached_tokens }
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
        if let Some(first) = &output.first {
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
        let end = match choice.advance(&output, &self.stop) {
            Ok(end) => end,
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
        if let Some(end) = end {
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
        Ok(choice.delta.end.is_some() || !choice.delta.text.is_empty())
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
        let last = choice.text.finish().map_err(|error| {
            tracing::error!(%error, "the end of a text cannot be decoded");
            ApiError::GenerationFailed
        })?;
        choice.delta.text.push_str(&last.text);
        if let Some(end) = stop_string(last.stop, &self.stop) {
            return Ok(end);
        }
        let stop_reason = match finish.terminator {
            Some(Terminator::StopToken(token)) => Some(StopReason::Token(token)),
            Some(Terminator::EndOfText) | None => None,
        };
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

impl Choice {
    /// Takes the tokens of an output; gives the end if they complete a stop string.
    fn advance(
        &mut self,
        output: &SequenceOutput,
        stop: &[String],
    ) -> Result<Option<ChoiceEnd>, wayfare_text::DecodeError> {
        let mut tokens = output.tokens.as_slice();
        // The token that ended the sequence counts as generated but is not part of the text.
        let is_terminated = output.finish.as_ref().is_some_and(|finish| finish.terminator.is_some());
        if let Some((_, text_tokens)) = tokens.split_last().filter(|_| is_terminated) {
            tokens = text_tokens;
        }
        if stop.is_empty() {
            self.count(tokens.len());
            self.text.push_to(tokens, &mut self.delta.text)?;
        } else {
            // One by one, so that tokens after the stop string are not counted, however many came together.
            for token in tokens {
                self.count(1);
                let found = self.text.push_to(std::slice::from_ref(token), &mut self.delta.text)?;
                if let Some(end) = stop_string(found, stop) {
                    return Ok(Some(end));
                }
            }
        }
        self.count(output.tokens.len() - tokens.len());
        Ok(None)
    }

    fn count(&mut self, tokens: usize) {
        let tokens = u32::try_from(tokens).unwrap_or(u32::MAX);
        self.generated_tokens = self.generated_tokens.saturating_add(tokens);
    }
}

fn stop_string(found: Option<usize>, stop: &[String]) -> Option<ChoiceEnd> {
    let text = stop.get(found?)?.clone();
    Some(ChoiceEnd { finish_reason: "stop", stop_reason: Some(StopReason::Text(text)) })
}
