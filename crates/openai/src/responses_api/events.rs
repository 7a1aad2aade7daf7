//! A response as server-sent events.

use bytes::{BufMut as _, Bytes, BytesMut};
use serde::Serialize;
use serde_json::{Value, json};
use wayfare_journey::MonoNs;

use crate::bodies::AnswerShape;
use crate::error::ApiError;
use crate::generation::{ChoiceDelta, Generation, TokenUsage};
use crate::sse::{StreamWriter, write_json};

use super::items::{Change, IN_PROGRESS, ItemKind, ItemView, OutputItems, PartView};
use super::object::{ResponseHead, ResponseStatus, ResponseView};

/// Writes the events of one response.
#[derive(Debug)]
pub(crate) struct ResponseEvents {
    items: OutputItems,
    status: ResponseStatus,
    out: EventBuffer,
}

#[derive(Debug)]
struct EventBuffer {
    head: ResponseHead,
    shape: AnswerShape,
    next_number: u64,
    bytes: BytesMut,
}

impl ResponseEvents {
    pub(crate) fn new(head: ResponseHead, shape: AnswerShape) -> Self {
        let out = EventBuffer { head, shape, next_number: 0, bytes: BytesMut::new() };
        let mut events = Self { items: OutputItems::default(), status: ResponseStatus::InProgress, out };
        for name in ["response.created", "response.in_progress"] {
            events.out.response(name, ResponseStatus::InProgress, &events.items, None, None);
        }
        events
    }
}

impl StreamWriter for ResponseEvents {
    fn take(&mut self) -> Option<Bytes> {
        let bytes = &mut self.out.bytes;
        (!bytes.is_empty()).then(|| bytes.split().freeze())
    }

    fn delta(&mut self, _: usize, delta: &ChoiceDelta, _: TokenUsage) {
        let Self { items, status, out } = self;
        items.take(delta, |items, change| out.change(items, &change, "completed"));
        if let Some(end) = &delta.end {
            *status = ResponseStatus::of(Some(end.finish_reason));
            let cut = if *status == ResponseStatus::Incomplete { "incomplete" } else { "completed" };
            items.end(|items, change| out.change(items, &change, cut));
        }
    }

    fn last(&mut self, generation: &Generation, now: MonoNs) {
        let name = match self.status {
            ResponseStatus::Incomplete => "response.incomplete",
            _ => "response.completed",
        };
        let metrics = generation.metrics(now);
        let view = ResponseView {
            head: &self.out.head,
            shape: &self.out.shape,
            status: self.status,
            items: &self.items,
            usage: Some(generation.usage()),
            error: None,
            metrics: metrics.as_ref(),
        };
        let response = serde_json::to_value(&view).unwrap_or_default();
        self.out.event(name, &json!({"response": response}));
    }

    fn error(&mut self, error: &ApiError) {
        let report = error.report();
        let error = json!({"code": report.error_type, "message": error.to_string()});
        self.out.response("response.failed", ResponseStatus::Failed, &self.items, None, Some(error));
    }

    /// The last event says that nothing follows.
    fn done(&mut self) {}
}

impl EventBuffer {
    fn response(
        &mut self,
        name: &str,
        status: ResponseStatus,
        items: &OutputItems,
        usage: Option<TokenUsage>,
        error: Option<Value>,
    ) {
        let view =
            ResponseView { head: &self.head, shape: &self.shape, status, items, usage, error, metrics: None };
        let response = serde_json::to_value(&view).unwrap_or_default();
        self.event(name, &json!({"response": response}));
    }

    /// Says what has happened to the items; `done` is the status of one that has ended.
    fn change(&mut self, items: &OutputItems, change: &Change<'_>, done: &'static str) {
        let index = match change {
            Change::Added(index) | Change::Done(index) => *index,
            Change::Text { .. } => items.items.len().saturating_sub(1),
        };
        let Some(item) = items.items.get(index) else { return };
        let shape = &self.shape;
        let part = json_of(&PartView { item, shape });
        let at = |mut fields: Value| {
            fields["item_id"] = json!(item.id);
            fields["output_index"] = json!(index);
            if !matches!(item.kind, ItemKind::Call { .. }) {
                fields["content_index"] = json!(0);
            }
            fields
        };
        let whole =
            |status| json!({"output_index": index, "item": json_of(&ItemView { item, shape, status })});
        let (delta, text_done) = match &item.kind {
            ItemKind::Message { .. } => ("response.output_text.delta", "response.output_text.done"),
            ItemKind::Reasoning => ("response.reasoning_text.delta", "response.reasoning_text.done"),
            ItemKind::Call { .. } => {
                ("response.function_call_arguments.delta", "response.function_call_arguments.done")
            }
        };
        match (change, &item.kind) {
            (Change::Added(_), kind) => {
                let (added, part) = (whole(IN_PROGRESS), at(json!({"part": part})));
                self.event("response.output_item.added", &added);
                if !matches!(kind, ItemKind::Call { .. }) {
                    self.event("response.content_part.added", &part);
                }
            }
            (Change::Text { text, logprobs }, ItemKind::Message { .. }) => {
                let logprobs = json_of(&shape.text_logprobs(logprobs));
                let fields = at(json!({"delta": text, "logprobs": logprobs}));
                self.event(delta, &fields);
            }
            (Change::Text { text, .. }, _) => {
                let fields = at(json!({"delta": text}));
                self.event(delta, &fields);
            }
            (Change::Done(_), kind) => {
                let ended = match kind {
                    ItemKind::Message { .. } => {
                        at(json!({"text": item.text, "logprobs": part["logprobs"].clone()}))
                    }
                    ItemKind::Reasoning => at(json!({"text": item.text})),
                    ItemKind::Call { name, .. } => at(json!({"arguments": item.text, "name": name})),
                };
                let (whole, part_done) = (whole(done), at(json!({"part": part})));
                self.event(text_done, &ended);
                if !matches!(kind, ItemKind::Call { .. }) {
                    self.event("response.content_part.done", &part_done);
                }
                self.event("response.output_item.done", &whole);
            }
        }
    }

    fn event(&mut self, name: &str, fields: &Value) {
        let number = self.next_number;
        self.next_number += 1;
        let mut all = json!({"type": name, "sequence_number": number});
        if let (Value::Object(all), Value::Object(fields)) = (&mut all, fields) {
            all.extend(fields.clone());
        }
        self.bytes.put_slice(b"event: ");
        self.bytes.put_slice(name.as_bytes());
        self.bytes.put_slice(b"\ndata: ");
        write_json((&mut self.bytes).writer(), &all);
        self.bytes.put_slice(b"\n\n");
    }
}

fn json_of(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}
