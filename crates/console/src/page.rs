//! The page at `/journeys`: files that are part of the program, served as they are.
//!
//! What they are made of and how they are checked is in `web/README.md`.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;

use crate::error::ConsoleError;
use crate::web::{FILES, PAGE_FILE, WebFile};

/// What the page says of the server, and how it links to other places.
#[derive(Clone, Debug, Serialize)]
pub struct AboutServer {
    /// The server's version.
    pub version: String,
    /// The name under which the model is served.
    pub model: String,
    /// Which engine serves it.
    pub engine: String,
    /// Most sequences running at once.
    pub max_num_seqs: u32,
    /// Most tokens per step.
    pub max_num_batched_tokens: u32,
    /// Tokens per KV block.
    pub block_size: u32,
    /// KV blocks in the pool.
    pub num_kv_blocks: u32,
    /// Whether requests in flight are shown.
    pub live_view: bool,
    /// Where a trace is shown elsewhere: a URL with `{trace_id}` in it.
    pub trace_url_template: Option<String>,
}

/// Nothing but the page's own files and the server's own answers; no script and no style within the HTML; in no
/// frame.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `GET /journeys` and its files below `/journeys/assets/`. They show nothing of any request, and are for those
/// without a key as well: the page must be there before it can ask for one.
pub fn page_routes() -> Router {
    Router::new()
        .route("/journeys", get(page))
        // Relative, so that it holds behind a proxy that adds a prefix.
        .route("/journeys/", get(|| async { Redirect::permanent("../journeys") }))
        .route("/journeys/assets/{*name}", get(asset))
}

/// `GET /journeys/about`.
pub fn about_routes(about: AboutServer) -> Router {
    Router::new().route("/journeys/about", get(about_server)).with_state(Arc::new(about))
}

async fn page(headers: HeaderMap) -> Response {
    answer(&PAGE_FILE, &headers)
}

async fn asset(Path(name): Path<String>, headers: HeaderMap) -> Response {
    match FILES.iter().find(|file| file.name == name) {
        Some(file) => answer(file, &headers),
        None => ConsoleError::NoRoute(format!("/journeys/assets/{name:.200}")).into_response(),
    }
}

async fn about_server(State(about): State<Arc<AboutServer>>) -> Response {
    axum::Json(&*about).into_response()
}

/// The file, or that it has not changed.
fn answer(file: &WebFile, asked: &HeaderMap) -> Response {
    let tag = file.entity_tag();
    let is_known = asked.get_all(header::IF_NONE_MATCH).iter().any(|value| {
        let tags = value.to_str().unwrap_or_default().split(',');
        tags.map(|one| one.trim().trim_start_matches("W/")).any(|one| one == tag || one == "*")
    });
    let mut response = if is_known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        Response::new(Body::from(file.body))
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, file.content_type()),
        // Kept, but asked for each time whether it is still the same: the next version has the same names.
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    response
}
