//! What the server understands, for programs.

use axum::Json;
use axum::extract::State;
use serde_json::Value;

use crate::openapi::{Facts, document as document_of};
use crate::server::SharedState;

/// The OpenAPI document of this server with this model.
pub(crate) async fn document(State(state): State<SharedState>) -> Json<Value> {
    let preparer = state.workshop.preparer();
    Json(document_of(&Facts {
        version: &state.version,
        models: &preparer.served_model_names,
        limits: &preparer.limits,
        max_messages: preparer.max_messages,
        per_request_metrics: preparer.per_request_metrics,
        needs_api_key: !state.api_keys.is_empty(),
    }))
}
