//! The generating routes.

use std::future::poll_fn;
use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use serde::Serialize;
use wayfare_journey::RequestLabel;

use crate::bodies::{AnswerShape, ChatChoice, CompletionChoice, Envelope, Message, PromptDetails, Usage};
use crate::body::read_json;
use crate::deadline::{Deadline, within};
use crate::endpoint::Endpoint;
use crate::error::ApiError;
use crate::generation::{ChoiceDelta, Generation, TokenUsage};
use crate::journey_layer::RequestContext;
use crate::request_metrics::{MetricsWanted, RequestMetrics};
use crate::responses_api::{OutputItems, ResponseEvents, ResponseHead, ResponseStatus, ResponseView};
use crate::server::{AppState, SharedState};
use crate::sse::{ChunkWriter, StreamWriter, stream_response};

pub(crate) async fn chat(
    State(state): State<SharedState>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    generate(&state, Endpoint::Chat, &context, request).await
}

pub(crate) async fn completion(
    State(state): State<SharedState>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    generate(&state, Endpoint::Completion, &context, request).await
}

pub(crate) async fn response(
    State(state): State<SharedState>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Response, ApiError> {
    generate(&state, Endpoint::Responses, &context, request).await
}

async fn generate(
    state: &AppState,
    endpoint: Endpoint,
    context: &RequestContext,
    request: Request,
) -> Result<Response, ApiError> {
    let id = RequestLabel::new(&format!("{}{}", endpoint.id_prefix(), context.request_id));
    context.journey.identified(&id);
    state.check_serving()?;
    let (head, body) = request.into_parts();
    let deadline = Deadline::of(state, context);
    let body = read_json(state, &head.headers, body, deadline).await?;
    let body_complete = state.clock.now();
    context.journey.body_complete(body_complete);

    let mut prepared = within(deadline, state.workshop.prepare(endpoint, body, state.own_seed())).await?;
    context.journey.described(|| prepared.attributes(endpoint));
    // It may have changed while the body came.
    state.check_serving()?;
    let mut generation =
        Generation::start(state, context, endpoint, &id, &prepared, body_complete, deadline)?;

    let created = state.unix_seconds(context.arrived);
    let shape = AnswerShape::new(state.tokenizer().clone(), &prepared);
    let head = prepared.responses.take().map(|echo| ResponseHead {
        id: id.as_str().to_owned(),
        created,
        model: prepared.model.clone(),
        temperature: prepared.sampling.temperature,
        top_p: prepared.sampling.top_p,
        echo: *echo,
    });
    if prepared.form.stream {
        let writer: Box<dyn StreamWriter> = match head {
            Some(head) => Box::new(ResponseEvents::new(head, shape)),
            None => {
                let num_choices = generation.num_choices();
                Box::new(ChunkWriter::new(endpoint, &id, created, &prepared.model, shape, num_choices))
            }
        };
        return Ok(stream_response(generation, writer, Arc::clone(&state.clock)));
    }
    while !generation.is_over() {
        poll_fn(|cx| generation.poll_progress(cx)).await?;
    }
    let choices: Vec<(usize, ChoiceDelta)> = generation.take_deltas().collect();
    let all_metrics = generation.metrics(state.clock.now());
    let metrics = all_metrics.as_ref().filter(|_| prepared.metrics == MetricsWanted::InBody);
    let mut response = match &head {
        Some(head) => whole_response(head, &shape, &choices, generation.usage(), metrics),
        None => {
            let model = prepared.model.as_str();
            let usage = Some(Some(Usage::from(generation.usage())));
            let prompt = PromptDetails::default();
            let (id, object) = (id.as_str(), "");
            let envelope = Envelope { id, object, created, model, choices: &[], usage, metrics, prompt };
            whole_answer(endpoint, envelope, &shape, &choices)
        }
    }?;
    // Digits and names: a header can hold them.
    let timing = all_metrics.and_then(|metrics| HeaderValue::try_from(metrics.server_timing()).ok());
    if let Some(timing) = timing {
        response.headers_mut().insert("server-timing", timing);
    }
    Ok(response)
}

/// An answer with its choices. `envelope` has what both routes have in common.
fn whole_answer<'a>(
    endpoint: Endpoint,
    mut envelope: Envelope<'a, ()>,
    shape: &'a AnswerShape,
    choices: &'a [(usize, ChoiceDelta)],
) -> Result<Response, ApiError> {
    if endpoint == Endpoint::Completion {
        let choices: Vec<_> =
            choices.iter().map(|(index, delta)| completion_choice(shape, *index, delta)).collect();
        return json(&envelope.with("text_completion", &choices));
    }
    // A chat has one prompt.
    if let Some((index, delta)) = choices.first() {
        envelope.prompt = PromptDetails {
            prompt_logprobs: shape.prompt_logprobs(delta),
            prompt_token_ids: shape.prompt_token_ids(*index),
        };
    }
    let choices: Vec<_> = choices.iter().map(|(index, delta)| chat_choice(shape, *index, delta)).collect();
    json(&envelope.with("chat.completion", &choices))
}

/// A response with its items.
fn whole_response(
    head: &ResponseHead,
    shape: &AnswerShape,
    choices: &[(usize, ChoiceDelta)],
    usage: TokenUsage,
    metrics: Option<&RequestMetrics>,
) -> Result<Response, ApiError> {
    let mut items = OutputItems::default();
    let mut status = ResponseStatus::Completed;
    for (_, delta) in choices {
        items.take(delta, |_, _| {});
        status = ResponseStatus::of(delta.end.as_ref().map(|end| end.finish_reason));
    }
    items.end(|_, _| {});
    json(&ResponseView { head, shape, status, items: &items, usage: Some(usage), error: None, metrics })
}

fn chat_choice<'a>(shape: &'a AnswerShape, index: usize, delta: &'a ChoiceDelta) -> ChatChoice<'a> {
    let end = delta.end.as_ref();
    ChatChoice {
        index,
        message: Message::of(delta),
        logprobs: shape.chat_logprobs(delta),
        finish_reason: end.map(|end| end.finish_reason),
        stop_reason: end.and_then(|end| end.stop_reason.as_ref()),
        token_ids: shape.token_ids(delta),
    }
}

fn completion_choice<'a>(
    shape: &'a AnswerShape,
    index: usize,
    delta: &'a ChoiceDelta,
) -> CompletionChoice<'a> {
    let end = delta.end.as_ref();
    CompletionChoice {
        index,
        text: &delta.text,
        logprobs: shape.completion_logprobs(index, delta, 0),
        finish_reason: end.map(|end| end.finish_reason),
        stop_reason: end.and_then(|end| end.stop_reason.as_ref()),
        token_ids: shape.token_ids(delta),
        prompt: PromptDetails {
            prompt_logprobs: shape.prompt_logprobs(delta),
            prompt_token_ids: shape.prompt_token_ids(index),
        },
    }
}

fn json(body: &impl Serialize) -> Result<Response, ApiError> {
    let body = serde_json::to_vec(body)
        .map_err(|_| ApiError::Internal { detail: "the answer could not be written as JSON" })?;
    Ok(([(header::CONTENT_TYPE, "application/json")], Body::from(body)).into_response())
}
