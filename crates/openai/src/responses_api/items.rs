//! The items of a response, as they come.

use serde::ser::SerializeStruct as _;
use serde::{Serialize, Serializer};
use wayfare_engine::TokenLogprobs;
use wayfare_text::AnswerEvent;

use crate::bodies::AnswerShape;
use crate::generation::ChoiceDelta;
use crate::logprobs::TextLogprobs;

/// What an item is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum ItemKind {
    Reasoning,
    Message { logprobs: Vec<TokenLogprobs> },
    Call { call_id: String, name: String },
}

/// One item of a response.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item {
    pub(crate) id: String,
    pub(crate) kind: ItemKind,
    /// Its text, or the arguments of its call.
    pub(crate) text: String,
    pub(crate) is_complete: bool,
}

/// What happens to the items, for those who tell it a client.
#[derive(Debug)]
pub(crate) enum Change<'a> {
    /// An item has begun.
    Added(usize),
    /// The last item has got more text.
    Text { text: &'a str, logprobs: &'a [TokenLogprobs] },
    /// An item has ended.
    Done(usize),
}

/// All items of a response.
#[derive(Debug, Default)]
pub(crate) struct OutputItems {
    pub(crate) items: Vec<Item>,
}

impl OutputItems {
    /// Takes what the answer has gained, and shows each change when it has been made.
    pub(crate) fn take(&mut self, delta: &ChoiceDelta, mut show: impl FnMut(&Self, Change<'_>)) {
        if !delta.text.is_empty() || delta.events.is_empty() && !delta.logprobs.is_empty() {
            self.message(&delta.text, &delta.logprobs, &mut show);
        }
        // Log-probabilities are those of the tokens of all parts; they go with the text of the answer.
        let mut logprobs = &delta.logprobs[..];
        for event in &delta.events {
            match event {
                AnswerEvent::Content(text) => {
                    self.message(text, std::mem::take(&mut logprobs), &mut show);
                }
                AnswerEvent::Reasoning(text) => {
                    self.open(|kind| *kind == ItemKind::Reasoning, || ItemKind::Reasoning, &mut show);
                    self.text(text, &[], &mut show);
                }
                AnswerEvent::CallStart { name, id, .. } => {
                    let call_id = id.clone().unwrap_or_default();
                    let kind = ItemKind::Call { call_id, name: name.clone() };
                    self.open(|_| false, || kind, &mut show);
                }
                AnswerEvent::Arguments { text, .. } => self.text(text, &[], &mut show),
            }
        }
    }

    /// The answer is over. An answer without anything is an empty message.
    pub(crate) fn end(&mut self, mut show: impl FnMut(&Self, Change<'_>)) {
        if self.items.is_empty() {
            self.message("", &[], &mut show);
        }
        self.close(&mut show);
    }

    fn message(&mut self, text: &str, logprobs: &[TokenLogprobs], show: &mut impl FnMut(&Self, Change<'_>)) {
        let is_message = |kind: &ItemKind| matches!(kind, ItemKind::Message { .. });
        self.open(is_message, || ItemKind::Message { logprobs: Vec::new() }, show);
        self.text(text, logprobs, show);
    }

    /// Begins an item, unless the last one is open and of the wanted kind.
    fn open(
        &mut self,
        is_wanted: impl Fn(&ItemKind) -> bool,
        kind: impl FnOnce() -> ItemKind,
        show: &mut impl FnMut(&Self, Change<'_>),
    ) {
        if self.items.last().is_some_and(|item| !item.is_complete && is_wanted(&item.kind)) {
            return;
        }
        self.close(show);
        let kind = kind();
        let prefix = match &kind {
            ItemKind::Reasoning => "rs",
            ItemKind::Message { .. } => "msg",
            ItemKind::Call { .. } => "fc",
        };
        let id = format!("{prefix}_{:032x}", rand::random::<u128>());
        self.items.push(Item { id, kind, text: String::new(), is_complete: false });
        show(self, Change::Added(self.items.len() - 1));
    }

    fn text(&mut self, text: &str, new: &[TokenLogprobs], show: &mut impl FnMut(&Self, Change<'_>)) {
        let Some(item) = self.items.last_mut() else { return };
        item.text.push_str(text);
        if let ItemKind::Message { logprobs } = &mut item.kind {
            logprobs.extend_from_slice(new);
        }
        if !text.is_empty() {
            show(self, Change::Text { text, logprobs: new });
        }
    }

    fn close(&mut self, show: &mut impl FnMut(&Self, Change<'_>)) {
        if let Some(item) = self.items.last_mut().filter(|item| !item.is_complete) {
            item.is_complete = true;
            show(self, Change::Done(self.items.len() - 1));
        }
    }
}

/// An item as clients see it.
pub(super) struct ItemView<'a> {
    pub(super) item: &'a Item,
    pub(super) shape: &'a AnswerShape,
    /// Of what is open or was cut: `in_progress`, `incomplete`.
    pub(super) status: &'static str,
}

impl Serialize for ItemView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Item { id, kind, text, .. } = self.item;
        let mut map = serializer.serialize_struct("Item", 6)?;
        map.serialize_field("id", id)?;
        match kind {
            ItemKind::Message { .. } => {
                map.serialize_field("type", "message")?;
                map.serialize_field("role", "assistant")?;
                // An item that has just begun has no part yet.
                let part = PartView { item: self.item, shape: self.shape };
                let parts = if self.status == IN_PROGRESS { None } else { Some(part) };
                map.serialize_field("content", &parts.as_slice())?;
            }
            ItemKind::Reasoning => {
                map.serialize_field("type", "reasoning")?;
                map.serialize_field::<[(); 0]>("summary", &[])?;
                let part = PartView { item: self.item, shape: self.shape };
                let parts = if self.status == IN_PROGRESS { None } else { Some(part) };
                map.serialize_field("content", &parts.as_slice())?;
            }
            ItemKind::Call { call_id, name } => {
                map.serialize_field("type", "function_call")?;
                map.serialize_field("call_id", call_id)?;
                map.serialize_field("name", name)?;
                map.serialize_field("arguments", text)?;
            }
        }
        map.serialize_field("status", self.status)?;
        map.end()
    }
}

pub(super) const IN_PROGRESS: &str = "in_progress";

/// The one part of an item's content.
pub(super) struct PartView<'a> {
    pub(super) item: &'a Item,
    pub(super) shape: &'a AnswerShape,
}

impl Serialize for PartView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_struct("Part", 4)?;
        match &self.item.kind {
            ItemKind::Message { logprobs } => {
                map.serialize_field("type", "output_text")?;
                map.serialize_field("text", &self.item.text)?;
                map.serialize_field::<[(); 0]>("annotations", &[])?;
                map.serialize_field("logprobs", &self.text_logprobs(logprobs))?;
            }
            ItemKind::Reasoning | ItemKind::Call { .. } => {
                map.serialize_field("type", "reasoning_text")?;
                map.serialize_field("text", &self.item.text)?;
            }
        }
        map.end()
    }
}

impl PartView<'_> {
    fn text_logprobs<'a>(&'a self, logprobs: &'a [TokenLogprobs]) -> TextLogprobs<'a> {
        self.shape.text_logprobs(logprobs)
    }
}
