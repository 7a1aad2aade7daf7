//! The journeys of a replay: what the API side of a server reports of a request, at virtual times.

use wayfare_journey::{
    AbortReason, ApiSpan, CoreSpan, IncomingHeaders, JourneyHandle, MonoNs, RequestAttributes, RequestLabel,
    Tracer, Usage,
};

use super::{Arrival, Refusal};

/// The route that replayed requests seem to have come in by.
const ROUTE: &str = "/v1/completions";

/// The journey of a request in flight.
#[derive(Debug)]
pub(super) struct RequestJourney {
    span: ApiSpan,
    handle: JourneyHandle,
}

impl RequestJourney {
    /// `None` when the request is not recorded.
    pub(super) fn open(
        tracer: &Tracer,
        model_name: &str,
        label: &RequestLabel,
        arrival: &Arrival,
        at: MonoNs,
    ) -> Option<Self> {
        let span = tracer.admit(IncomingHeaders::default(), ROUTE, at).span?;
        let handle = span.handle();
        handle.identified(label);
        handle.body_complete(at);
        handle.described(|| RequestAttributes {
            operation: "text_completion",
            request_model: model_name.into(),
            response_model: model_name.into(),
            temperature: 0.0,
            top_p: 1.0,
            top_k: None,
            max_tokens: arrival.output_tokens,
            n: 1,
            seed: None,
            stream: true,
        });
        Some(Self { span, handle })
    }

    pub(super) fn open_core(&self, arrival: &Arrival, at: MonoNs) -> Option<CoreSpan> {
        let core_span = self.handle.open_cores(&[(arrival.prompt_tokens, arrival.output_tokens)], at).pop();
        self.handle.handed_to_core(at);
        core_span
    }

    pub(super) fn first_token(&self, at: MonoNs) {
        self.handle.received_from_core(at);
    }

    pub(super) fn refuse(mut self, refusal: Refusal, at: MonoNs) {
        let (status, reason, error_type) = match refusal {
            Refusal::TooLong { .. } => (400, AbortReason::ValidationError, "context_length_exceeded"),
            Refusal::QueueFull { .. } => (429, AbortReason::Overloaded, "overloaded"),
        };
        self.handle.failed(reason, error_type, &refusal.to_string());
        self.span.respond(status);
        self.span.complete(at);
    }

    pub(super) fn end(mut self, usage: Usage, at: MonoNs) {
        self.handle.used(|| usage);
        self.handle.departed(at);
        self.span.respond(200);
        self.span.complete(at);
    }
}
