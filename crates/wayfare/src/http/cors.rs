//! What pages of other origins may do, through a browser.

use std::time::Duration;

use anyhow::{Context as _, Result};
use http::{HeaderName, HeaderValue, Method};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};

use crate::cli::CorsOptions;

/// Stands for everything.
const ANY: &str = "*";
/// How long a browser may remember what was allowed, as in vLLM's server.
const MAX_AGE: Duration = Duration::from_secs(600);
/// Our own headers that a page may read.
const EXPOSED: [HeaderName; 4] = [
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("traceresponse"),
    HeaderName::from_static("server-timing"),
    HeaderName::from_static("retry-after"),
];

/// Answers a browser's questions beforehand, and marks the answers that pages may read; `None` when no origin is
/// allowed.
///
/// # Errors
/// When something that was given is no origin, method or header.
pub(crate) fn cors_layer(options: &CorsOptions) -> Result<Option<CorsLayer>> {
    let CorsOptions { allowed_origins, allowed_methods, allowed_headers, allow_credentials } = options;
    if allowed_origins.0.is_empty() {
        return Ok(None);
    }
    let is_any = |list: &[String]| list.iter().any(|item| item == ANY);
    // What a wildcard means to browsers is less: it does not cover `Authorization`, and nothing with credentials.
    let origins = match (is_any(&allowed_origins.0), allow_credentials) {
        (true, false) => AllowOrigin::any(),
        (true, true) => AllowOrigin::mirror_request(),
        (false, _) => AllowOrigin::list(
            allowed_origins
                .0
                .iter()
                .map(|origin| HeaderValue::from_str(origin))
                .collect::<Result<Vec<_>, _>>()
                .context("--allowed-origins holds what cannot be an origin")?,
        ),
    };
    let methods = match is_any(&allowed_methods.0) {
        true => AllowMethods::mirror_request(),
        false => AllowMethods::list(
            allowed_methods
                .0
                .iter()
                .map(|method| Method::from_bytes(method.as_bytes()))
                .collect::<Result<Vec<_>, _>>()
                .context("--allowed-methods holds what cannot be a method")?,
        ),
    };
    let headers = match is_any(&allowed_headers.0) {
        true => AllowHeaders::mirror_request(),
        false => AllowHeaders::list(
            allowed_headers
                .0
                .iter()
                .map(|name| name.parse::<HeaderName>())
                .collect::<Result<Vec<_>, _>>()
                .context("--allowed-headers holds what cannot be a header's name")?,
        ),
    };
    let layer = CorsLayer::new()
        .allow_origin(origins)
        .allow_methods(methods)
        .allow_headers(headers)
        .allow_credentials(*allow_credentials)
        .expose_headers(EXPOSED)
        .max_age(MAX_AGE);
    Ok(Some(layer))
}
