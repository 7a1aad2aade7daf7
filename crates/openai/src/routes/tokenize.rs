//! What a prompt is in tokens, and back: vLLM's routes.

use axum::extract::{Request, State};
use axum::{Extension, Json};
use bytes::Bytes;

use crate::body::read_json;
use crate::deadline::{Deadline, within};
use crate::error::ApiError;
use crate::journey_layer::RequestContext;
use crate::prepare::{Detokenized, Tokenized};
use crate::server::{AppState, SharedState};

pub(crate) async fn tokenize(
    State(state): State<SharedState>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Json<Tokenized>, ApiError> {
    let (body, deadline) = read(&state, &context, request).await?;
    let work = state.workshop.run(body, |preparer, body| preparer.tokenize(body));
    within(deadline, work).await.map(Json)
}

pub(crate) async fn detokenize(
    State(state): State<SharedState>,
    Extension(context): Extension<RequestContext>,
    request: Request,
) -> Result<Json<Detokenized>, ApiError> {
    let (body, deadline) = read(&state, &context, request).await?;
    let work = state.workshop.run(body, |preparer, body| preparer.detokenize(body));
    within(deadline, work).await.map(Json)
}

async fn read(
    state: &AppState,
    context: &RequestContext,
    request: Request,
) -> Result<(Bytes, Option<Deadline>), ApiError> {
    state.check_serving()?;
    let (head, body) = request.into_parts();
    let deadline = Deadline::of(state, context);
    let body = read_json(state, &head.headers, body, deadline).await?;
    context.journey.body_complete(state.clock.now());
    Ok((body, deadline))
}
