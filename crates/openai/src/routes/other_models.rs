//! Routes of OpenAI's and vLLM's servers for models of other kinds, and for what is no model's affair. Each says so,
//! so that a client with the wrong address book learns what is wrong.

use axum::Router;
use axum::extract::{Request, State};
use axum::routing::any;
use http_body_util::{BodyExt as _, Limited};

use crate::error::ApiError;
use crate::server::{AppState, SharedState};

/// Paths, and what is done there elsewhere. Sources: OpenAI's API reference, vLLM 0.33 (`entrypoints`).
const ELSEWHERE: &[(&str, &str)] = &[
    ("/v1/embeddings", "embeddings"),
    ("/v2/embed", "embeddings"),
    ("/pooling", "pooling"),
    ("/classify", "classification"),
    ("/score", "scoring"),
    ("/v1/score", "scoring"),
    ("/rerank", "reranking"),
    ("/v1/rerank", "reranking"),
    ("/v2/rerank", "reranking"),
    ("/v1/moderations", "moderation"),
    ("/v1/audio/transcriptions", "transcription"),
    ("/v1/audio/translations", "translation of speech"),
    ("/v1/audio/speech", "speech"),
    ("/v1/images/generations", "images"),
    ("/v1/images/edits", "images"),
    ("/v1/images/variations", "images"),
    ("/v1/videos", "videos"),
    ("/v1/realtime", "realtime sessions"),
    ("/v1/files", "files"),
    ("/v1/uploads", "uploads"),
    ("/v1/batches", "batches"),
    ("/v1/fine_tuning/jobs", "fine-tuning"),
    ("/v1/assistants", "assistants"),
    ("/v1/threads", "threads"),
    ("/v1/vector_stores", "vector stores"),
];

/// All of them.
pub(super) fn router() -> Router<SharedState> {
    ELSEWHERE.iter().fold(Router::new(), |router, (path, task)| {
        let answer = any(async move |State(state): State<SharedState>, request: Request| {
            discard(&state, request).await;
            ApiError::NotForThisModel { task }
        });
        router.route(path, answer)
    })
}

/// Reads what the client sends, within the limits: one that is still sending when it is answered may not see the
/// answer for the connection that breaks.
async fn discard(state: &AppState, request: Request) {
    let limits = &state.limits;
    let mut body = Limited::new(request.into_body(), limits.max_body_bytes);
    let read = async { while let Some(Ok(_)) = body.frame().await {} };
    tokio::select! {
        _ = tokio::time::timeout(limits.body_timeout, read) => {}
        () = state.shutdown.closed() => {}
    }
}
