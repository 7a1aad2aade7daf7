//! The one place where `llm_request` spans are opened: a layer around all routes.
//!
//! The span's guard is owned by the layer's future and then by the response body, so it ends however the
//! request ends. Handlers find a [`RequestContext`] in the request's extensions; through it they report, but
//! they cannot end a span or forget to.

mod body;
mod context;

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::{HeaderName, HeaderValue, Method};
use tower::{Layer, Service, ServiceExt as _};
use wayfare_journey::{Clock, JourneyHandle, MonoNs, Tracer};

use crate::error::{ApiError, Report};
use crate::shutdown::ShutdownHandle;

use self::body::{SpanGuard, TracedBody};
pub(crate) use self::context::RequestContext;
use self::context::{incoming_trace, request_id};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACERESPONSE: HeaderName = HeaderName::from_static("traceresponse");

/// Paths that say how the server is; they get no span.
const HOUSEKEEPING: &[&str] =
    &["/health", "/ping", "/version", "/metrics", "/v1/models", "/openapi.json", "/journeys"];

/// Longest path that is recorded where no route matched, in bytes.
const MAX_PATH_BYTES: usize = 256;

/// Whether a path is one of those that get no span.
pub(crate) fn is_housekeeping(path: &str) -> bool {
    HOUSEKEEPING.contains(&path) || path.starts_with("/v1/models/") || path.starts_with("/journeys/")
}

/// Opens and ends the span of every request, gives every request its id, and turns a handler's panic into an
/// error response.
#[derive(Clone, Debug)]
pub(crate) struct JourneyLayer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    tracer: Option<Tracer>,
    clock: Arc<dyn Clock>,
    shutdown: ShutdownHandle,
}

impl JourneyLayer {
    pub(crate) fn new(tracer: Option<Tracer>, clock: Arc<dyn Clock>, shutdown: ShutdownHandle) -> Self {
        Self { shared: Arc::new(Shared { tracer, clock, shutdown }) }
    }
}

impl<S> Layer<S> for JourneyLayer {
    type Service = JourneyService<S>;

    fn layer(&self, inner: S) -> Self::Service {
        JourneyService { inner, shared: Arc::clone(&self.shared) }
    }
}

/// A service whose requests have journeys.
#[derive(Clone, Debug)]
pub(crate) struct JourneyService<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Service<Request> for JourneyService<S>
where
    S: Service<Request, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // The clone that takes the call is awaited in the call's future.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let arrived = self.shared.clock.now();
        let (opened, request) = self.shared.open(request, arrived);
        let (inner, shared) = (self.inner.clone(), Arc::clone(&self.shared));
        async move {
            let is_head = request.method() == Method::HEAD;
            let handled = AssertUnwindSafe(inner.oneshot(request)).catch_unwind().await;
            let response = match handled {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(_) => {
                    // The panic hook has already said where and why.
                    tracing::error!(request_id = %opened.request_id, "a request's handler panicked");
                    ApiError::Internal { detail: "the handler panicked" }.into_response()
                }
            };
            Ok(shared.respond(opened, response, is_head))
        }
        .boxed()
    }
}

/// What the layer keeps while the request is handled.
struct Opened {
    request_id: Arc<str>,
    traceresponse: Option<HeaderValue>,
    guard: Option<SpanGuard>,
}

impl Shared {
    fn open(&self, mut request: Request, arrived: MonoNs) -> (Opened, Request) {
        let request_id = request_id(request.headers());
        let mut opened = Opened { request_id: Arc::clone(&request_id), traceresponse: None, guard: None };
        let mut journey = JourneyHandle::off();
        if let Some(tracer) = self.tracer.as_ref().filter(|_| !is_housekeeping(request.uri().path())) {
            let matched = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
            let route = matched.unwrap_or_else(|| shortened(request.uri().path()));
            let admission =
                incoming_trace(request.headers(), |incoming| tracer.admit(incoming, route, arrived));
            opened.traceresponse = HeaderValue::from_str(&admission.traceresponse).ok();
            if let Some(span) = admission.span {
                journey = span.handle();
                opened.guard = Some(SpanGuard::new(span, self.shutdown.clone()));
            }
        }
        request.extensions_mut().insert(RequestContext { request_id, arrived, journey });
        (opened, request)
    }

    fn respond(&self, opened: Opened, mut response: Response, is_head: bool) -> Response {
        if let Ok(request_id) = HeaderValue::from_str(&opened.request_id) {
            response.headers_mut().insert(X_REQUEST_ID, request_id);
        }
        if let Some(traceresponse) = opened.traceresponse {
            response.headers_mut().insert(TRACERESPONSE, traceresponse);
        }
        let report = response.extensions_mut().remove::<Report>();
        let Some(mut guard) = opened.guard else { return response };
        guard.respond(response.status().as_u16());
        if let Some(report) = report {
            guard.failed(&report);
        }
        if is_head {
            // The body of an answer to HEAD is never asked for.
            guard.complete(self.clock.now());
            return response;
        }
        response.map(|inner| Body::new(TracedBody::new(inner, guard, Arc::clone(&self.clock))))
    }
}

fn shortened(path: &str) -> &str {
    let end =
        path.char_indices().map(|(at, _)| at).take_while(|at| *at <= MAX_PATH_BYTES).last().unwrap_or(0);
    if path.len() <= MAX_PATH_BYTES { path } else { &path[..end] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_paths_are_cut_between_characters() {
        let path = format!("/{}", "é".repeat(MAX_PATH_BYTES));
        let cut = shortened(&path);
        assert!(cut.len() <= MAX_PATH_BYTES && cut.len() > MAX_PATH_BYTES - 2, "{}", cut.len());
        assert_eq!(shortened("/short"), "/short");
    }

    #[test]
    fn model_pages_are_housekeeping_and_generating_routes_are_not() {
        assert!(is_housekeeping("/v1/models/some/name"));
        assert!(is_housekeeping("/journeys/recent"));
        assert!(!is_housekeeping("/v1/chat/completions"));
        assert!(!is_housekeeping("/v1/modelsx"));
    }
}
