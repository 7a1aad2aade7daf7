//! How the server is.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use serde::Serialize;

use crate::error::ApiError;
use crate::server::SharedState;

/// 200 when a request would be served now.
pub(crate) async fn health(State(state): State<SharedState>) -> Result<StatusCode, ApiError> {
    state.check_serving().map(|()| StatusCode::OK)
}

#[derive(Debug, Serialize)]
pub(crate) struct Version {
    version: String,
}

pub(crate) async fn version(State(state): State<SharedState>) -> Json<Version> {
    Json(Version { version: state.version.clone() })
}

pub(crate) async fn metrics(State(state): State<SharedState>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match state.metrics.encode(accept) {
        Ok((body, content_type)) => ([(header::CONTENT_TYPE, content_type)], body).into_response(),
        Err(_) => ApiError::Internal { detail: "the metrics could not be written" }.into_response(),
    }
}
