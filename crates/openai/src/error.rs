//! The one table of everything that can go wrong with a request: what the client is told, and what the
//! journey says about it.
//!
//! Handlers return [`ApiError`]; the journey layer finds the [`Report`] on the response and records it, so
//! that status code and ABORTED event always agree.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use wayfare_engine::SubmitError;
use wayfare_journey::AbortReason;

use crate::limits::HeadLimit;

/// Why a request gets an error instead of an answer. The text of a variant is what the client reads.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error("the request body is not valid JSON: {detail}")]
    InvalidJson { detail: String },
    #[error("the request body must be a JSON object")]
    BodyNotAnObject,
    #[error("content type '{content_type}' is not supported; send the body as 'application/json'")]
    UnsupportedMediaType { content_type: String },
    #[error("content encoding '{encoding}' is not supported; send the body as it is")]
    UnsupportedEncoding { encoding: String },
    #[error("the request's head is larger than the limit of {limit}")]
    HeadTooLarge { limit: HeadLimit },
    #[error("the request body is larger than the limit of {limit} bytes")]
    BodyTooLarge { limit: usize },
    #[error("the request body did not arrive within {} seconds", limit.as_secs_f64())]
    BodyTimeout { limit: Duration },
    #[error("the request body ended early")]
    BodyIncomplete,
    #[error("parameter '{param}' is missing")]
    MissingParameter { param: &'static str },
    #[error("parameter '{param}' is not valid: {problem}")]
    InvalidParameter { param: String, problem: String },
    #[error("parameter '{param}' is not supported: {problem}")]
    UnsupportedParameter { param: String, problem: String },
    #[error("parameter '{param}' is not known here; remove it")]
    UnknownParameter { param: String },
    #[error("the model '{model}' does not exist; this server has: {served}")]
    ModelNotFound { model: String, served: String },
    #[error(
        "this model's maximum context length is {context} tokens, but the request needs {total} tokens \
         ({prompt} in the {where_prompt}, {completion} in the completion); shorten the {where_prompt} or the completion",
        total = u64::from(*prompt) + u64::from(*completion)
    )]
    ContextLengthExceeded { context: u32, prompt: u32, completion: u32, where_prompt: &'static str },
    #[error(
        "this model's maximum context length is {context} tokens, which cannot hold {bytes} bytes of text; \
         shorten the {where_prompt}"
    )]
    PromptTooLarge { context: u32, bytes: usize, where_prompt: &'static str },
    #[error("{problem}")]
    Refused { param: &'static str, problem: String },
    #[error("the model has no chat template; use /v1/completions")]
    NoChatTemplate,
    #[error("the chat template does not accept these messages: {detail}")]
    TemplateFailed { detail: String },
    #[error("no API key was given; send it as 'Authorization: Bearer KEY'")]
    MissingApiKey,
    #[error("the API key is not valid")]
    InvalidApiKey,
    #[error("there is nothing at {method} {path}")]
    RouteNotFound { method: String, path: String },
    #[error("this model does not do {task}: it generates text, at /v1/chat/completions and /v1/completions")]
    NotForThisModel { task: &'static str },
    #[error("the method {method} is not allowed at {path}")]
    MethodNotAllowed { method: String, path: String },
    #[error("the request was not done within the server's limit of {} seconds", limit.as_secs_f64())]
    TimedOut { limit: Duration },
    #[error("{problem}")]
    Overloaded { problem: String },
    #[error("the server is shutting down")]
    ShuttingDown,
    #[error("the engine is not running")]
    EngineDead,
    #[error("the generation failed")]
    GenerationFailed,
    #[error("the server failed while it handled the request")]
    Internal { detail: &'static str },
}

/// What the journey records of an error. Holds nothing that came from the client.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) reason: AbortReason,
    pub(crate) error_type: &'static str,
    pub(crate) message: &'static str,
}

/// One line of the table.
struct Row {
    status: StatusCode,
    /// OpenAI's `error.type`.
    kind: &'static str,
    /// OpenAI's `error.code`.
    code: &'static str,
    reason: AbortReason,
    /// The `error` attribute of ABORTED; must hold nothing that came from the client.
    message: &'static str,
}

const INVALID_REQUEST: &str = "invalid_request_error";
const AUTHENTICATION: &str = "authentication_error";
const RATE_LIMIT: &str = "rate_limit_error";
const TIMEOUT: &str = "timeout_error";
const UNAVAILABLE: &str = "service_unavailable_error";
const SERVER_ERROR: &str = "server_error";

/// When a client that was refused for load may try again: a queue moves with every step, and a step takes less.
const RETRY_AFTER_SECONDS: &str = "1";

impl ApiError {
    /// The parameter `param` has a value that cannot be.
    pub(crate) fn invalid(param: impl Into<String>, problem: impl Into<String>) -> Self {
        ApiError::InvalidParameter { param: param.into(), problem: problem.into() }
    }

    /// The parameter `param` asks for something that this server does not do.
    pub(crate) fn unsupported(param: impl Into<String>, problem: impl Into<String>) -> Self {
        ApiError::UnsupportedParameter { param: param.into(), problem: problem.into() }
    }

    fn row(&self) -> Row {
        use AbortReason::{
            ClientDisconnect, EngineDead, Exception, GenerationError, Overloaded, Shutdown, Timeout,
            ValidationError,
        };
        let row = |status, kind, code, reason, message| Row { status, kind, code, reason, message };
        let refused =
            |code, message| row(StatusCode::BAD_REQUEST, INVALID_REQUEST, code, ValidationError, message);
        match self {
            ApiError::InvalidJson { .. } | ApiError::BodyNotAnObject => {
                refused("invalid_json", "the body is not a JSON object")
            }
            ApiError::UnsupportedMediaType { .. } | ApiError::UnsupportedEncoding { .. } => row(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                INVALID_REQUEST,
                "unsupported_media_type",
                ValidationError,
                "the body is not sent as JSON",
            ),
            ApiError::HeadTooLarge { .. } => row(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                INVALID_REQUEST,
                "headers_too_large",
                ValidationError,
                "the head is larger than the limit",
            ),
            ApiError::BodyTooLarge { .. } => row(
                StatusCode::PAYLOAD_TOO_LARGE,
                INVALID_REQUEST,
                "request_too_large",
                ValidationError,
                "the body is larger than the limit",
            ),
            ApiError::BodyTimeout { .. } => row(
                StatusCode::REQUEST_TIMEOUT,
                INVALID_REQUEST,
                "request_timeout",
                Timeout,
                "the body did not arrive in time",
            ),
            ApiError::BodyIncomplete => row(
                StatusCode::BAD_REQUEST,
                INVALID_REQUEST,
                "incomplete_body",
                ClientDisconnect,
                "the body ended early",
            ),
            ApiError::MissingParameter { .. } => {
                refused("missing_parameter", "a required parameter is missing")
            }
            ApiError::InvalidParameter { .. } => refused("invalid_value", "a parameter has an invalid value"),
            ApiError::UnsupportedParameter { .. } => {
                refused("unsupported_parameter", "a parameter asks for something that is not supported")
            }
            ApiError::UnknownParameter { .. } => refused("unknown_parameter", "a parameter is not known"),
            ApiError::ModelNotFound { .. } => row(
                StatusCode::NOT_FOUND,
                INVALID_REQUEST,
                "model_not_found",
                ValidationError,
                "the model is not served here",
            ),
            ApiError::ContextLengthExceeded { .. } | ApiError::PromptTooLarge { .. } => {
                refused("context_length_exceeded", "prompt and completion exceed the context length")
            }
            ApiError::Refused { .. } => refused("invalid_prompt", "the engine refused the prompt"),
            ApiError::NoChatTemplate => refused("no_chat_template", "the model has no chat template"),
            ApiError::TemplateFailed { .. } => {
                refused("chat_template_failed", "the chat template does not accept the messages")
            }
            ApiError::MissingApiKey | ApiError::InvalidApiKey => row(
                StatusCode::UNAUTHORIZED,
                AUTHENTICATION,
                "invalid_api_key",
                ValidationError,
                "no valid API key",
            ),
            ApiError::RouteNotFound { .. } => row(
                StatusCode::NOT_FOUND,
                INVALID_REQUEST,
                "not_found",
                ValidationError,
                "there is no such route",
            ),
            ApiError::NotForThisModel { .. } => row(
                StatusCode::NOT_FOUND,
                INVALID_REQUEST,
                "unsupported_endpoint",
                ValidationError,
                "the model does not do that",
            ),
            ApiError::MethodNotAllowed { .. } => row(
                StatusCode::METHOD_NOT_ALLOWED,
                INVALID_REQUEST,
                "method_not_allowed",
                ValidationError,
                "the route does not have this method",
            ),
            ApiError::TimedOut { .. } => row(
                StatusCode::GATEWAY_TIMEOUT,
                TIMEOUT,
                "timeout",
                Timeout,
                "the request was not done within the time limit",
            ),
            ApiError::Overloaded { .. } => {
                row(StatusCode::TOO_MANY_REQUESTS, RATE_LIMIT, "overloaded", Overloaded, "the queue is full")
            }
            ApiError::ShuttingDown => row(
                StatusCode::SERVICE_UNAVAILABLE,
                UNAVAILABLE,
                "shutdown",
                Shutdown,
                "the server is shutting down",
            ),
            ApiError::EngineDead => row(
                StatusCode::SERVICE_UNAVAILABLE,
                UNAVAILABLE,
                "engine_dead",
                EngineDead,
                "the engine is not running",
            ),
            ApiError::GenerationFailed => row(
                StatusCode::INTERNAL_SERVER_ERROR,
                SERVER_ERROR,
                "generation_error",
                GenerationError,
                "the engine failed this request",
            ),
            ApiError::Internal { detail } => {
                row(StatusCode::INTERNAL_SERVER_ERROR, SERVER_ERROR, "internal_error", Exception, detail)
            }
        }
    }

    fn param(&self) -> Option<&str> {
        match self {
            ApiError::InvalidParameter { param, .. }
            | ApiError::UnsupportedParameter { param, .. }
            | ApiError::UnknownParameter { param } => Some(param),
            ApiError::MissingParameter { param } | ApiError::Refused { param, .. } => Some(param),
            ApiError::ModelNotFound { .. } => Some("model"),
            ApiError::ContextLengthExceeded { where_prompt, .. }
            | ApiError::PromptTooLarge { where_prompt, .. } => Some(where_prompt),
            ApiError::TemplateFailed { .. } => Some("messages"),
            _ => None,
        }
    }

    /// What the journey is to say about this error.
    pub(crate) fn report(&self) -> Report {
        let row = self.row();
        Report { reason: row.reason, error_type: row.code, message: row.message }
    }

    /// The error as OpenAI's clients expect it, in a response body or in a frame of a stream.
    pub(crate) fn body(&self) -> String {
        let row = self.row();
        let message = self.to_string();
        let body = ErrorBody {
            error: ErrorDetail { message: &message, kind: row.kind, param: self.param(), code: row.code },
        };
        serde_json::to_string(&body).unwrap_or_else(|_| r#"{"error":{}}"#.to_owned())
    }

    /// The error for what the engine said when it did not take a request. `param` is the field that holds
    /// the prompt.
    pub(crate) fn not_submitted(error: &SubmitError, param: &'static str, max_tokens: u32) -> Self {
        match error {
            SubmitError::PromptTooLong { tokens, limit } => ApiError::ContextLengthExceeded {
                context: *limit,
                prompt: *tokens,
                completion: max_tokens,
                where_prompt: param,
            },
            SubmitError::NeverFits { .. } | SubmitError::InvalidPrompt(_) | SubmitError::NotTaken(_) => {
                ApiError::Refused { param, problem: error.to_string() }
            }
            SubmitError::NoPriorities => ApiError::unsupported("priority", error.to_string()),
            SubmitError::Overloaded { .. } | SubmitError::TokensOverloaded { .. } => {
                ApiError::Overloaded { problem: error.to_string() }
            }
            SubmitError::ShuttingDown => ApiError::ShuttingDown,
            SubmitError::EngineDead(_) => ApiError::EngineDead,
        }
    }
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    error: ErrorDetail<'a>,
}

#[derive(Serialize)]
struct ErrorDetail<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'a str>,
    code: &'static str,
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.row().status;
        let mut response =
            (status, [(header::CONTENT_TYPE, "application/json")], self.body()).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if status == StatusCode::TOO_MANY_REQUESTS {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
        }
        response.extensions_mut().insert(self.report());
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_client_sent_is_in_the_answer_but_not_in_the_report() {
        let secret = "my secret prompt";
        let errors = [
            ApiError::InvalidJson { detail: secret.into() },
            ApiError::invalid(secret, secret),
            ApiError::unsupported(secret, secret),
            ApiError::UnknownParameter { param: secret.into() },
            ApiError::ModelNotFound { model: secret.into(), served: String::new() },
            ApiError::TemplateFailed { detail: secret.into() },
            ApiError::Refused { param: "prompt", problem: secret.into() },
            ApiError::RouteNotFound { method: "GET".into(), path: secret.into() },
        ];
        for error in errors {
            assert!(error.body().contains(secret), "{error:?}");
            assert!(!error.report().message.contains(secret), "{error:?}");
        }
    }

    #[test]
    fn context_error_says_the_numbers() {
        let error = ApiError::ContextLengthExceeded {
            context: 64,
            prompt: 60,
            completion: 16,
            where_prompt: "messages",
        };
        expect_test::expect![[r#"{"error":{"message":"this model's maximum context length is 64 tokens, but the request needs 76 tokens (60 in the messages, 16 in the completion); shorten the messages or the completion","type":"invalid_request_error","param":"messages","code":"context_length_exceeded"}}"#]]
            .assert_eq(&error.body());
    }
}
