//! The generating routes, and the names in which they differ.

/// A generating route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// `POST /v1/chat/completions`
    Chat,
    /// `POST /v1/completions`
    Completion,
    /// `POST /v1/responses`
    Responses,
}

impl Endpoint {
    /// What comes before the request id in the response's id.
    pub(crate) fn id_prefix(self) -> &'static str {
        match self {
            Endpoint::Chat => "chatcmpl-",
            Endpoint::Completion => "cmpl-",
            Endpoint::Responses => "resp_",
        }
    }

    /// The value of `gen_ai.operation.name`.
    pub(crate) fn operation(self) -> &'static str {
        match self {
            Endpoint::Chat | Endpoint::Responses => "chat",
            Endpoint::Completion => "text_completion",
        }
    }

    /// Whether an echo shows the prompt's tokens, and not just the text that an answer continues.
    pub(crate) fn echoes_tokens(self) -> bool {
        self == Endpoint::Completion
    }

    /// The field of the request that holds the prompt.
    pub(crate) fn prompt_param(self) -> &'static str {
        match self {
            Endpoint::Chat => "messages",
            Endpoint::Completion => "prompt",
            Endpoint::Responses => "input",
        }
    }
}
