//! Request bodies: every field is understood, accepted because its value changes nothing, or refused by name.

mod chat;
mod completion;
mod fields;
mod grammar;
mod messages;
mod neutral;
mod responses;
mod sampling;
mod stream_options;
mod token_rules;
mod tools;

pub(crate) use self::chat::{ChatParams, PromptParams};
pub(crate) use self::completion::{CompletionParams, Prompt};
pub(crate) use self::fields::Fields;
pub(crate) use self::responses::{ResponsesEcho, ResponsesParams};
pub(crate) use self::sampling::{CommonParams, Truncation};
pub(crate) use self::stream_options::StreamOptions;
pub(crate) use self::token_rules::RuleParams;
pub(crate) use self::tools::{ToolChoice, ToolParams};
