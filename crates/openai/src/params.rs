//! Request bodies: every field is understood, accepted because its value changes nothing, or refused by name.

mod chat;
mod completion;
mod fields;
mod neutral;
mod sampling;

pub(crate) use self::chat::ChatParams;
pub(crate) use self::completion::{CompletionParams, Prompt};
pub(crate) use self::fields::Fields;
pub(crate) use self::sampling::CommonParams;
