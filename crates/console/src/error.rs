//! Errors as clients of the console read them, in the form that the OpenAI routes use.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::json;
use wayfare_journey::BadKeepRules;

/// Why there is no answer. The text of a variant is what the client reads.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsoleError {
    #[error("query parameter '{name}' is not known; the parameters are: {known}")]
    UnknownParameter { name: String, known: &'static str },
    #[error("query parameter '{0}' is given twice")]
    RepeatedParameter(String),
    #[error("parameter '{param}' is not valid: {problem}")]
    BadParameter { param: &'static str, problem: String },
    #[error(
        "no finished journey of '{0}' is kept: it may be in flight, sampled out, older than the ones kept, or never have been"
    )]
    NoSuchJourney(String),
    #[error("journey tracing is off; start the server with --enable-journey-tracing")]
    TracingIsOff,
    #[error("the body is larger than the limit of {0} bytes")]
    BodyTooLarge(usize),
    #[error("the body could not be read")]
    BodyIncomplete,
    #[error(
        "the body is not what it should be, such as {{\"sample_rate\":0.1,\"keep\":\"slow>2s,error\"}}: {0}"
    )]
    BadBody(String),
    #[error("there is nothing to change; give 'sample_rate' or 'keep' or both")]
    NothingToChange,
    #[error("'sample_rate': {0} is not between 0 and 1")]
    BadRate(f64),
    #[error("'keep': {0}")]
    BadRules(BadKeepRules),
    #[error("there is nothing at {0}")]
    NoRoute(String),
    #[error("use GET or PUT")]
    BadMethod,
    #[error("too many readers follow the events already")]
    TooManyReaders,
    #[error("the server failed while it made the answer")]
    Internal,
}

impl ConsoleError {
    fn status(&self) -> StatusCode {
        match self {
            ConsoleError::NoSuchJourney(_) | ConsoleError::TracingIsOff | ConsoleError::NoRoute(_) => {
                StatusCode::NOT_FOUND
            }
            ConsoleError::BadMethod => StatusCode::METHOD_NOT_ALLOWED,
            ConsoleError::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            ConsoleError::TooManyReaders => StatusCode::SERVICE_UNAVAILABLE,
            ConsoleError::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    fn param(&self) -> Option<&str> {
        match self {
            ConsoleError::UnknownParameter { name: param, .. } | ConsoleError::RepeatedParameter(param) => {
                Some(param)
            }
            ConsoleError::BadParameter { param, .. } => Some(param),
            ConsoleError::BadRate(_) => Some("sample_rate"),
            ConsoleError::BadRules(_) => Some("keep"),
            _ => None,
        }
    }

    fn code(&self) -> &'static str {
        match self.status() {
            StatusCode::NOT_FOUND => "not_found",
            StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
            StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
            StatusCode::SERVICE_UNAVAILABLE => "overloaded",
            StatusCode::INTERNAL_SERVER_ERROR => "internal_error",
            _ => "invalid_value",
        }
    }
}

impl IntoResponse for ConsoleError {
    fn into_response(self) -> Response {
        let status = self.status();
        let kind = if status.is_server_error() { "server_error" } else { "invalid_request_error" };
        let mut error = json!({
            "message": self.to_string(), "type": kind, "param": self.param(), "code": self.code(),
        });
        if let ConsoleError::BadRules(bad) = &self {
            error["position"] = bad.position.into();
        }
        (status, Json(json!({ "error": error }))).into_response()
    }
}
