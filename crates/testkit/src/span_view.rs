//! Spans as tests want to look at them: flat, with typed values and readable ids.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::{Span, span};

/// The value of an attribute, with its type.
#[derive(Clone, Debug, PartialEq)]
pub enum AttributeValue {
    /// UTF-8 text.
    Text(String),
    /// 64-bit signed integer.
    Int(i64),
    /// 64-bit floating point number.
    Double(f64),
    /// True or false.
    Bool(bool),
    /// A list.
    List(Vec<AttributeValue>),
    /// A value of a type that we never send, or none.
    Other(String),
}

impl From<&str> for AttributeValue {
    fn from(text: &str) -> Self {
        AttributeValue::Text(text.into())
    }
}

impl From<i64> for AttributeValue {
    fn from(value: i64) -> Self {
        AttributeValue::Int(value)
    }
}

impl From<f64> for AttributeValue {
    fn from(value: f64) -> Self {
        AttributeValue::Double(value)
    }
}

impl From<bool> for AttributeValue {
    fn from(value: bool) -> Self {
        AttributeValue::Bool(value)
    }
}

/// An event of a span.
#[derive(Clone, Debug, PartialEq)]
pub struct EventView {
    /// Its name.
    pub name: String,
    /// Its time, in nanoseconds since the Unix epoch.
    pub unix_ns: u64,
    /// Its attributes.
    pub attributes: BTreeMap<String, AttributeValue>,
}

impl EventView {
    /// The text under `key`, if there is one of that type.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        text(&self.attributes, key)
    }

    /// The integer under `key`, if there is one of that type.
    #[must_use]
    pub fn int(&self, key: &str) -> Option<i64> {
        int(&self.attributes, key)
    }
}

/// A span as it arrived, with the resource and the scope it came under.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanView {
    /// The span's name.
    pub name: String,
    /// Name of the instrumentation scope.
    pub scope: String,
    /// Attributes of the resource.
    pub resource: BTreeMap<String, AttributeValue>,
    /// In lower-case hexadecimal.
    pub trace_id: String,
    /// In lower-case hexadecimal.
    pub span_id: String,
    /// In lower-case hexadecimal; `None` for a root.
    pub parent_span_id: Option<String>,
    /// The W3C vendor list; empty when there is none.
    pub trace_state: String,
    /// OTLP span kind as a number: 1 internal, 2 server.
    pub kind: i32,
    /// OTLP span flags.
    pub flags: u32,
    /// In nanoseconds since the Unix epoch.
    pub start_unix_ns: u64,
    /// In nanoseconds since the Unix epoch.
    pub end_unix_ns: u64,
    /// The span's attributes.
    pub attributes: BTreeMap<String, AttributeValue>,
    /// Keys that occur more than once in one list of attributes, which OTLP forbids; of the span, its events
    /// and its resource.
    pub duplicate_keys: Vec<String>,
    /// The span's events, in the order of arrival.
    pub events: Vec<EventView>,
    /// OTLP status code as a number: 0 unset, 1 ok, 2 error.
    pub status_code: i32,
    /// What the status says.
    pub status_message: String,
    /// Events that the sender says it has left out.
    pub dropped_events_count: u32,
}

impl SpanView {
    /// The text under `key`, if there is one of that type.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        text(&self.attributes, key)
    }

    /// The integer under `key`, if there is one of that type.
    #[must_use]
    pub fn int(&self, key: &str) -> Option<i64> {
        int(&self.attributes, key)
    }

    /// The floating point number under `key`, if there is one of that type.
    #[must_use]
    pub fn double(&self, key: &str) -> Option<f64> {
        match self.attributes.get(key) {
            Some(AttributeValue::Double(value)) => Some(*value),
            _ => None,
        }
    }

    /// Names of the events, in order.
    #[must_use]
    pub fn event_names(&self) -> Vec<&str> {
        self.events.iter().map(|event| event.name.as_str()).collect()
    }

    /// The first event of that name.
    #[must_use]
    pub fn event(&self, name: &str) -> Option<&EventView> {
        self.events.iter().find(|event| event.name == name)
    }

    /// Whether `self` is a child of `parent`, in the same trace.
    #[must_use]
    pub fn is_child_of(&self, parent: &SpanView) -> bool {
        self.trace_id == parent.trace_id && self.parent_span_id.as_ref() == Some(&parent.span_id)
    }
}

/// The spans of a request, in order, each with its resource and scope.
#[must_use]
pub fn flatten_spans(request: &ExportTraceServiceRequest) -> Vec<SpanView> {
    let mut spans = Vec::new();
    for resource_spans in &request.resource_spans {
        let resource = resource_spans.resource.as_ref().map_or(&[][..], |resource| &resource.attributes);
        for scope_spans in &resource_spans.scope_spans {
            let scope = scope_spans.scope.as_ref().map_or("", |scope| &scope.name);
            spans.extend(scope_spans.spans.iter().map(|span| span_view(span, scope, resource)));
        }
    }
    spans
}

fn span_view(span: &Span, scope: &str, resource: &[KeyValue]) -> SpanView {
    let mut duplicate_keys = Vec::new();
    SpanView {
        name: span.name.clone(),
        scope: scope.into(),
        resource: attribute_map(resource, &mut duplicate_keys),
        trace_id: hex(&span.trace_id),
        span_id: hex(&span.span_id),
        parent_span_id: (!span.parent_span_id.is_empty()).then(|| hex(&span.parent_span_id)),
        trace_state: span.trace_state.clone(),
        kind: span.kind,
        flags: span.flags,
        start_unix_ns: span.start_time_unix_nano,
        end_unix_ns: span.end_time_unix_nano,
        attributes: attribute_map(&span.attributes, &mut duplicate_keys),
        events: span.events.iter().map(|event| event_view(event, &mut duplicate_keys)).collect(),
        duplicate_keys,
        status_code: span.status.as_ref().map_or(0, |status| status.code),
        status_message: span.status.as_ref().map_or_else(String::new, |status| status.message.clone()),
        dropped_events_count: span.dropped_events_count,
    }
}

fn event_view(event: &span::Event, duplicate_keys: &mut Vec<String>) -> EventView {
    EventView {
        name: event.name.clone(),
        unix_ns: event.time_unix_nano,
        attributes: attribute_map(&event.attributes, duplicate_keys),
    }
}

fn attribute_map(
    attributes: &[KeyValue],
    duplicate_keys: &mut Vec<String>,
) -> BTreeMap<String, AttributeValue> {
    let mut map = BTreeMap::new();
    for attribute in attributes {
        if map.insert(attribute.key.clone(), attribute_value(attribute.value.as_ref())).is_some() {
            duplicate_keys.push(attribute.key.clone());
        }
    }
    map
}

fn attribute_value(value: Option<&AnyValue>) -> AttributeValue {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => AttributeValue::Text(text.clone()),
        Some(Value::IntValue(value)) => AttributeValue::Int(*value),
        Some(Value::DoubleValue(value)) => AttributeValue::Double(*value),
        Some(Value::BoolValue(value)) => AttributeValue::Bool(*value),
        Some(Value::ArrayValue(list)) => {
            AttributeValue::List(list.values.iter().map(|item| attribute_value(Some(item))).collect())
        }
        other => AttributeValue::Other(format!("{other:?}")),
    }
}

fn text<'a>(attributes: &'a BTreeMap<String, AttributeValue>, key: &str) -> Option<&'a str> {
    match attributes.get(key) {
        Some(AttributeValue::Text(text)) => Some(text),
        _ => None,
    }
}

fn int(attributes: &BTreeMap<String, AttributeValue>, key: &str) -> Option<i64> {
    match attributes.get(key) {
        Some(AttributeValue::Int(value)) => Some(*value),
        _ => None,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
