//! The routes.

mod generate;
mod housekeeping;
mod models;

use axum::Router;
use axum::extract::Request;
use axum::routing::{get, post};

use crate::error::ApiError;
use crate::server::SharedState;

/// All routes, with answers in OpenAI's form where there is none.
pub(crate) fn router() -> Router<SharedState> {
    Router::new()
        .route("/v1/chat/completions", post(generate::chat))
        .route("/v1/completions", post(generate::completion))
        .route("/v1/responses", post(generate::response))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/health", get(housekeeping::health))
        .route("/ping", get(housekeeping::health).post(housekeeping::health))
        .route("/version", get(housekeeping::version))
        .route("/metrics", get(housekeeping::metrics))
}

/// The answer where no route matches.
pub(crate) async fn not_found(request: Request) -> ApiError {
    ApiError::RouteNotFound { method: request.method().to_string(), path: path(&request) }
}

/// The answer where a route matches but not its method.
pub(crate) async fn method_not_allowed(request: Request) -> ApiError {
    ApiError::MethodNotAllowed { method: request.method().to_string(), path: path(&request) }
}

fn path(request: &Request) -> String {
    request.uri().path().chars().take(256).collect()
}
