//! Which models there are.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde::Serialize;

use crate::error::ApiError;
use crate::server::{AppState, SharedState};

/// A model as OpenAI's API describes it, with vLLM's additions.
#[derive(Debug, Serialize)]
pub(crate) struct ModelCard {
    id: String,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    root: String,
    parent: Option<String>,
    /// Most tokens of prompt and answer together.
    max_model_len: u32,
}

#[derive(Debug, Serialize)]
pub(crate) struct ModelList {
    object: &'static str,
    data: Vec<ModelCard>,
}

pub(crate) async fn list(State(state): State<SharedState>) -> Json<ModelList> {
    let data = state.model_names().iter().map(|name| card(&state, name)).collect();
    Json(ModelList { object: "list", data })
}

/// Names may contain slashes.
pub(crate) async fn one(
    State(state): State<SharedState>,
    id: Result<Path<String>, PathRejection>,
) -> Result<Json<ModelCard>, ApiError> {
    // A path that is not UTF-8 names no model.
    let id = id.map_or_else(|_| String::new(), |Path(id)| id);
    match state.model_names().iter().find(|name| **name == id) {
        Some(name) => Ok(Json(card(&state, name))),
        None => Err(ApiError::ModelNotFound {
            model: id.chars().take(256).collect(),
            served: state.model_names().join(", "),
        }),
    }
}

fn card(state: &AppState, name: &str) -> ModelCard {
    ModelCard {
        id: name.to_owned(),
        object: "model",
        created: state.started_unix_seconds,
        owned_by: "wayfare",
        root: state.model_names().first().cloned().unwrap_or_default(),
        parent: None,
        max_model_len: state.engine.limits().context_tokens(),
    }
}
