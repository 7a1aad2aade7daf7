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

use crate::body::read_json;
use crate::deadline::{Deadline, within};
use crate::endpoint::Endpoint;
use crate::error::ApiError;
use crate::generation::{ChoiceDelta, Generation};
use crate::journey_layer::RequestContext;
use crate::prepare::Prepared;
use crate::request_metrics::MetricsWanted;
use crate::responses::{AnswerShape, ChatChoice, CompletionChoice, Envelope, Message, PromptDetails, Usage};
use crate::server::{AppState, SharedState};
use crate::sse::{ChunkWriter, stream_response};

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

    let prepared = within(deadline, state.workshop.prepare(endpoint, body, state.own_seed())).await?;
    context.journey.described(|| prepared.attributes(endpoint));
    // It may have changed while the body came.
    state.check_serving()?;
    let generation = Generation::start(state, context, endpoint, &id, &prepared, body_complete, deadline)?;

    let created = state.unix_seconds(context.arrived);
    let shape = AnswerShape::new(state.tokenizer().clone(), &prepared);
    if prepared.form.stream {
        let num_choices = generation.num_choices();
        let writer = ChunkWriter::new(endpoint, &id, created, &prepared.model, shape, num_choices);
        return Ok(stream_response(generation, writer, Arc::clone(&state.clock)));
    }
    whole(state, endpoint, generation, &id, created, &prepared, &shape).await
}

/// Waits for the end of the generation and answers in one piece.
async fn whole(
    state: &AppState,
    endpoint: Endpoint,
    mut generation: Generation,
    id: &RequestLabel,
    created: u64,
    prepared: &Prepared,
    shape: &AnswerShape,
) -> Result<Response, ApiError> {
    while !generation.is_over() {
        poll_fn(|cx| generation.poll_progress(cx)).await?;
    }
    let usage = Some(Some(Usage::from(generation.usage())));
    let choices: Vec<(usize, ChoiceDelta)> = generation.take_deltas().collect();
    let all_metrics = generation.metrics(state.clock.now());
    let metrics = all_metrics.as_ref().filter(|_| prepared.metrics == MetricsWanted::InBody);
    let (id, model) = (id.as_str(), prepared.model.as_str());
    let prompt = match (endpoint, choices.first()) {
        (Endpoint::Chat, Some((index, delta))) => PromptDetails {
            prompt_logprobs: shape.prompt_logprobs(delta),
            prompt_token_ids: shape.prompt_token_ids(*index),
        },
        _ => PromptDetails::default(),
    };
    let envelope = Envelope::<()> {
        id,
        object: "text_completion",
        created,
        model,
        choices: &[],
        usage,
        metrics,
        prompt,
    };
    let mut response = match endpoint {
        Endpoint::Chat => {
            let choices: Vec<_> =
                choices.iter().map(|(index, delta)| chat_choice(shape, *index, delta)).collect();
            json(&envelope.with("chat.completion", &choices))
        }
        Endpoint::Completion => {
            let choices: Vec<_> =
                choices.iter().map(|(index, delta)| completion_choice(shape, *index, delta)).collect();
            json(&envelope.with("text_completion", &choices))
        }
    }?;
    // Digits and names: a header can hold them.
    let timing = all_metrics.and_then(|metrics| HeaderValue::try_from(metrics.server_timing()).ok());
    if let Some(timing) = timing {
        response.headers_mut().insert("server-timing", timing);
    }
    Ok(response)
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
