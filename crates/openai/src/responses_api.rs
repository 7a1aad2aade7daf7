//! Answers in the form of `POST /v1/responses`: a list of items instead of choices.
//!
//! Source: OpenAI API reference, "Responses" and "Streaming events".

mod events;
mod items;
mod object;

pub(crate) use self::events::ResponseEvents;
pub(crate) use self::items::OutputItems;
pub(crate) use self::object::{ResponseHead, ResponseStatus, ResponseView};
