//! The guard of a request's `llm_request` span.

use smallvec::SmallVec;

use crate::cell::{Failure, JourneyHandle, OpenJourney};
use crate::event::AbortReason;
use crate::{MonoNs, SpanId, TraceContext};

/// What the client asked for, as far as it may leave through telemetry. Never prompt or answer text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestAttributes {
    /// `gen_ai.operation.name`: `chat` or `text_completion`.
    pub operation: &'static str,
    /// The model name in the request.
    pub request_model: Box<str>,
    /// The model name in the response.
    pub response_model: Box<str>,
    /// Sampling temperature.
    pub temperature: f32,
    /// Nucleus sampling share.
    pub top_p: f32,
    /// Top-k limit; `None` when off.
    pub top_k: Option<u32>,
    /// The limit on output tokens that is in force.
    pub max_tokens: u32,
    /// Choices asked for.
    pub n: u32,
    /// The seed, when the client gave one.
    pub seed: Option<u64>,
    /// Whether the answer is streamed.
    pub stream: bool,
}

/// What was used and how it ended, known when the last token is out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens.
    pub prompt_tokens: u32,
    /// Generated tokens, all choices together.
    pub completion_tokens: u32,
    /// Prompt tokens found in the prefix cache.
    pub cached_tokens: u32,
    /// OpenAI finish reason of each choice.
    pub finish_reasons: SmallVec<[&'static str; 1]>,
}

/// How `llm_request` ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiEnding {
    /// The last generated chunk, or the whole body, was handed to the HTTP stack.
    Departed {
        /// When.
        at: MonoNs,
    },
    /// Failure or abandonment.
    Aborted {
        /// When.
        at: MonoNs,
        /// Whose fault it was, roughly.
        reason: AbortReason,
        /// Low-cardinality class of the error, for `error.type`.
        error_type: &'static str,
        /// What happened, in words; holds nothing of the prompt.
        message: Box<str>,
    },
}

/// The end of the API part of a journey.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiRecord {
    /// When the span ended.
    pub ended: MonoNs,
    /// HTTP status of the response; `None` when there was none.
    pub status: Option<u16>,
    /// The terminal event.
    pub ending: ApiEnding,
}

/// The right and duty to end one `llm_request` span. Owned by the HTTP layer, first by the request, then by
/// the response body; ends when it is dropped.
#[derive(Debug)]
pub struct ApiSpan {
    journey: OpenJourney,
    status: Option<u16>,
    ended: bool,
}

impl ApiSpan {
    pub(crate) fn open(journey: OpenJourney) -> Self {
        Self { journey, status: None, ended: false }
    }

    /// A handle by which the request's handler reports what happens; it cannot end the span.
    #[must_use]
    pub fn handle(&self) -> JourneyHandle {
        JourneyHandle::on(self.journey.clone())
    }

    /// The request's trace context.
    #[must_use]
    pub fn context(&self) -> &TraceContext {
        self.journey.cell().context()
    }

    /// The id of the `llm_request` span.
    #[must_use]
    pub fn span_id(&self) -> SpanId {
        self.journey.cell().span_id()
    }

    /// The response head is known.
    pub fn respond(&mut self, status: u16) {
        self.status = Some(status);
    }

    /// The response body was handed over whole at `at`: DEPARTED, unless a failure was reported or the
    /// status is one.
    pub fn complete(mut self, at: MonoNs) {
        let unexplained = self.status.filter(|status| *status >= 400).map(|status| Failure {
            reason: match status {
                429 | 503 => AbortReason::Overloaded,
                408 | 504 => AbortReason::Timeout,
                400..500 => AbortReason::ValidationError,
                _ => AbortReason::Exception,
            },
            error_type: "http_error",
            message: format!("the response status was {status}").into(),
        });
        self.end(at, unexplained);
    }

    fn end(&mut self, at: MonoNs, otherwise: Option<Failure>) {
        self.ended = true;
        let cell = self.journey.cell();
        let departed = cell.departed().map(|departed| departed.max(cell.arrived()));
        // Whatever clock the caller read: a span does not end before it began, nor before its last event.
        let at = at.max(cell.arrived()).max(departed.unwrap_or_default());
        let ending = match (departed, cell.failure().cloned().or(otherwise)) {
            (Some(departed), _) => ApiEnding::Departed { at: departed },
            (None, None) => ApiEnding::Departed { at },
            (None, Some(failure)) => ApiEnding::Aborted {
                at,
                reason: failure.reason,
                error_type: failure.error_type,
                message: failure.message,
            },
        };
        self.journey.deposit_api(ApiRecord { ended: at, status: self.status, ending });
    }
}

impl Drop for ApiSpan {
    /// The other end: nobody waited for the whole response.
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let gone = Failure {
            reason: AbortReason::ClientDisconnect,
            error_type: "client_disconnect",
            message: "the client closed the connection".into(),
        };
        self.end(self.journey.now(), Some(gone));
    }
}
