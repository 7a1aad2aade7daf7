//! Bounds on what every request may bring, whatever its route.

use std::fmt;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::ApiError;
use crate::server::SharedState;

/// What a request's head has too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadLimit {
    Bytes(usize),
    Headers(usize),
}

impl fmt::Display for HeadLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(limit) => write!(f, "{limit} bytes"),
            Self::Headers(limit) => write!(f, "{limit} headers"),
        }
    }
}

/// Lets a request pass whose head is within the limits. The connection has a limit of its own above this one, and
/// no words for it.
pub(crate) async fn require_small_head(
    State(state): State<SharedState>,
    request: Request,
    next: Next,
) -> Response {
    let limits = &state.limits;
    if request.headers().len() > limits.max_header_count {
        let limit = HeadLimit::Headers(limits.max_header_count);
        return ApiError::HeadTooLarge { limit }.into_response();
    }
    if head_bytes(&request) > limits.max_header_bytes {
        let limit = HeadLimit::Bytes(limits.max_header_bytes);
        return ApiError::HeadTooLarge { limit }.into_response();
    }
    next.run(request).await
}

/// The size of the head as HTTP/1.1 writes it.
fn head_bytes(request: &Request) -> usize {
    const AROUND_LINE: usize = "  HTTP/1.1\r\n\r\n".len();
    const AROUND_HEADER: usize = ": \r\n".len();
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    let headers = request.headers().iter();
    let headers = headers.map(|(name, value)| name.as_str().len() + value.len() + AROUND_HEADER);
    request.method().as_str().len() + target + AROUND_LINE + headers.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn the_size_is_that_on_the_wire() {
        let head = "GET /a?b=c HTTP/1.1\r\nhost: x\r\nx-y: z\r\n\r\n";
        let request = Request::get("/a?b=c").header("host", "x").header("x-y", "z").body(Body::empty());
        assert_eq!(head_bytes(&request.unwrap()), head.len());
    }
}
