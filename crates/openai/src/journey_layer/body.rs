//! The response body that ends its request's span.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use wayfare_journey::{AbortReason, ApiSpan, Clock, JourneyHandle, MonoNs};

use crate::error::{ApiError, Report};
use crate::shutdown::ShutdownHandle;

/// An `llm_request` span, with what is known about an end that nobody reports.
#[derive(Debug)]
pub(super) struct SpanGuard {
    span: Option<ApiSpan>,
    journey: JourneyHandle,
    shutdown: ShutdownHandle,
}

impl SpanGuard {
    pub(super) fn new(span: ApiSpan, shutdown: ShutdownHandle) -> Self {
        Self { journey: span.handle(), span: Some(span), shutdown }
    }

    pub(super) fn respond(&mut self, status: u16) {
        if let Some(span) = &mut self.span {
            span.respond(status);
        }
    }

    pub(super) fn failed(&self, report: &Report) {
        self.journey.failed(report.reason, report.error_type, report.message);
    }

    pub(super) fn complete(mut self, at: MonoNs) {
        self.end(at);
    }

    fn end(&mut self, at: MonoNs) {
        if let Some(span) = self.span.take() {
            span.complete(at);
        }
    }
}

impl Drop for SpanGuard {
    /// A span that still is here was left by hyper: the client is gone, unless we know better.
    fn drop(&mut self) {
        if self.span.is_none() {
            return;
        }
        if std::thread::panicking() {
            self.failed(&ApiError::Internal { detail: "writing the response panicked" }.report());
        } else if self.shutdown.is_closing() {
            self.failed(&ApiError::ShuttingDown.report());
        }
    }
}

/// A body that completes the span with its last frame, and drops it when it is dropped earlier.
#[derive(Debug)]
pub(super) struct TracedBody {
    // First, so that what a dropped body reports comes before its span ends.
    inner: Body,
    guard: SpanGuard,
    clock: Arc<dyn Clock>,
}

impl TracedBody {
    pub(super) fn new(inner: Body, guard: SpanGuard, clock: Arc<dyn Clock>) -> Self {
        let mut body = Self { inner, guard, clock };
        // hyper does not ask for a frame of a body that says it has none.
        body.end_if_over();
        body
    }

    fn end_if_over(&mut self) {
        if self.inner.is_end_stream() {
            self.guard.end(self.clock.now());
        }
    }
}

impl HttpBody for TracedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        match &frame {
            None => {
                let now = self.clock.now();
                self.guard.end(now);
            }
            Some(Ok(_)) => self.end_if_over(),
            Some(Err(_)) => {
                let failed = AbortReason::Exception;
                self.guard.journey.failed(failed, "internal_error", "the response body failed");
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
