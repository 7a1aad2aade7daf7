//! API keys.

use std::fmt;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, header};
use subtle::{Choice, ConstantTimeEq as _};

use crate::error::ApiError;
use crate::server::SharedState;

/// What needs no key, so that load balancers and scrapers work. Everything else does, a new route too, unless the
/// router that it is in is merged as an open one.
const OPEN: &[&str] = &["/health", "/ping", "/version", "/metrics", "/openapi.json"];

/// Lets a request pass that presents a key, or does not need one.
pub(crate) async fn require_api_key(
    State(state): State<SharedState>,
    request: Request,
    next: Next,
) -> Response {
    if !state.api_keys.is_empty() && !OPEN.contains(&request.uri().path()) {
        let presented = match bearer(request.headers()) {
            None => Err(ApiError::MissingApiKey),
            Some(key) if state.api_keys.contain(key) => Ok(()),
            Some(_) => Err(ApiError::InvalidApiKey),
        };
        if let Err(error) = presented {
            return error.into_response();
        }
    }
    next.run(request).await
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, key) = value.split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| key.trim_ascii())
}

/// The keys of which one must be presented.
pub(crate) struct ApiKeys(Vec<String>);

impl ApiKeys {
    pub(crate) fn new(keys: Vec<String>) -> Self {
        Self(keys)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compares with every key in a time that does not depend on how much of one is right.
    fn contain(&self, presented: &[u8]) -> bool {
        let any = self.0.iter().fold(Choice::from(0), |any, key| any | key.as_bytes().ct_eq(presented));
        any.into()
    }
}

impl fmt::Debug for ApiKeys {
    /// Says how many there are; keys are secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeys({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn keys_are_compared_whole() {
        let keys = ApiKeys::new(vec!["one".to_owned(), "two".to_owned()]);
        assert!(keys.contain(b"one") && keys.contain(b"two"));
        assert!(!keys.contain(b"on") && !keys.contain(b"onex") && !keys.contain(b""));
    }

    #[test]
    fn the_scheme_may_have_any_case() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            bearer(&headers).map(<[u8]>::to_vec)
        };
        assert_eq!(with("bearer abc").as_deref(), Some(&b"abc"[..]));
        assert_eq!(with("Basic abc"), None);
        assert_eq!(with("Bearer"), None);
    }
}
