//! Request bodies: every field is understood, accepted because its value changes nothing, or refused by name.

mod chat;
mod completion;
mod fields;
mod neutral;
mod sampling;
mod tokenize;

pub(crate) use self::chat::ChatParams;
pub(crate) use self::completion::{CompletionParams, Prompt};
#[cfg(test)]
pub(crate) use self::fields::ASKED_FOR;
pub(crate) use self::fields::Fields;
pub(crate) use self::neutral::{KNOWN as NEUTRAL_FIELDS, Neutral};
pub(crate) use self::sampling::CommonParams;
pub(crate) use self::tokenize::{
    DetokenizeParams, NEUTRAL as TOKENIZE_NEUTRAL, TokenizeParams, TokenizePrompt,
};
