//! The JSON of Jaeger's pages and of its API.
//!
//! Source: `model/json/model.go` of jaegertracing/jaeger. Times are microseconds; how spans of OpenTelemetry are
//! expressed in it: <https://opentelemetry.io/docs/specs/otel/trace/sdk_exporters/jaeger/>.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;

use crate::ids;
use crate::span::{AttributeValue, Attributes, SpanEvent, TraceSpan};
use crate::wire::Integer;

/// Tags that carry what is a field in OTLP, and no attribute.
const SCOPE_TAGS: [&str; 2] = ["otel.scope.name", "otel.library.name"];
const STATUS_TAG: &str = "otel.status_description";
const EVENT_FIELDS: [&str; 2] = ["event", "name"];

pub(crate) type Processes<'a> = Option<HashMap<Cow<'a, str>, Process<'a>>>;

#[derive(Deserialize)]
pub(crate) struct Trace<'a> {
    #[serde(borrow, default)]
    pub(crate) spans: Option<Vec<Span<'a>>>,
    #[serde(borrow, default)]
    pub(crate) processes: Processes<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Process<'a> {
    #[serde(borrow, default)]
    service_name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    tags: Option<Vec<Tag<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Span<'a> {
    #[serde(borrow, default, rename = "traceID", alias = "traceId")]
    trace_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "spanID", alias = "spanId")]
    span_id: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "parentSpanID", alias = "parentSpanId")]
    parent_span_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    operation_name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    references: Option<Vec<Reference<'a>>>,
    #[serde(default)]
    start_time: Option<Integer>,
    #[serde(default)]
    duration: Option<Integer>,
    #[serde(borrow, default)]
    tags: Option<Vec<Tag<'a>>>,
    #[serde(borrow, default)]
    logs: Option<Vec<Log<'a>>>,
    #[serde(borrow, default, rename = "processID", alias = "processId")]
    process_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    process: Option<Process<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reference<'a> {
    #[serde(borrow, default)]
    ref_type: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "spanID", alias = "spanId")]
    span_id: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Log<'a> {
    #[serde(default)]
    timestamp: Option<Integer>,
    #[serde(borrow, default)]
    fields: Option<Vec<Tag<'a>>>,
}

#[derive(Deserialize)]
struct Tag<'a> {
    #[serde(borrow, default)]
    key: Option<Cow<'a, str>>,
    #[serde(borrow, default, rename = "type")]
    kind: Option<Cow<'a, str>>,
    #[serde(default)]
    value: Value,
}

impl Trace<'_> {
    /// Adds the spans, or says what is wrong with one.
    pub(crate) fn into_spans(self, spans: &mut Vec<TraceSpan>) -> Result<(), String> {
        let processes = self.processes.unwrap_or_default();
        let resources: HashMap<_, _> =
            processes.into_iter().map(|(id, process)| (id, Arc::new(process.into_resource()))).collect();
        for mut span in self.spans.unwrap_or_default() {
            let own = span.process.take().map(|process| Arc::new(process.into_resource()));
            let id = span.process_id.take().unwrap_or_default();
            let resource = own.or_else(|| resources.get(&id).cloned()).unwrap_or_default();
            spans.push(span.into_span(resource)?);
        }
        Ok(())
    }
}

impl Process<'_> {
    fn into_resource(self) -> Attributes {
        let mut attributes = attributes(self.tags);
        if let Some(name) = self.service_name {
            attributes.0.push(("service.name".into(), AttributeValue::Text(name.into())));
        }
        attributes
    }
}

impl Span<'_> {
    fn into_span(self, resource: Arc<Attributes>) -> Result<TraceSpan, String> {
        let name: Box<str> = self.operation_name.unwrap_or_default().into();
        let trace_text = self.trace_id.unwrap_or_default();
        let span_text = self.span_id.unwrap_or_default();
        let trace_id = ids::trace_id(&trace_text)
            .ok_or_else(|| format!("trace id {trace_text:?} of span {name:?} is not hexadecimal"))?;
        let span_id = ids::span_id(&span_text)
            .ok_or_else(|| format!("id {span_text:?} of span {name:?} is not hexadecimal"))?;
        let references = self.references.unwrap_or_default();
        let is_parent = |one: &&Reference<'_>| one.ref_type.as_deref() == Some("CHILD_OF");
        let by_reference =
            references.iter().find(is_parent).or(references.first()).and_then(|one| one.span_id.as_deref());
        let mut attributes = attributes(self.tags);
        let scope = SCOPE_TAGS.iter().find_map(|tag| attributes.take_text(tag)).unwrap_or_default();
        let status_message = attributes.take_text(STATUS_TAG).unwrap_or_default();
        let start_unix_ns = nanoseconds(self.start_time);
        Ok(TraceSpan {
            trace_id,
            span_id,
            parent: self.parent_span_id.as_deref().or(by_reference).and_then(ids::span_id),
            name,
            scope: scope.into(),
            resource,
            start_unix_ns,
            end_unix_ns: start_unix_ns.saturating_add(nanoseconds(self.duration)),
            attributes,
            events: self.logs.unwrap_or_default().into_iter().map(Log::into_event).collect(),
            dropped_events: 0,
            status_message,
        })
    }
}

impl Log<'_> {
    fn into_event(self) -> SpanEvent {
        let mut attributes = attributes(self.fields);
        let name = EVENT_FIELDS.iter().find_map(|field| attributes.take_text(field)).unwrap_or_default();
        SpanEvent { name, unix_ns: nanoseconds(self.timestamp), attributes }
    }
}

impl Attributes {
    fn take_text(&mut self, key: &str) -> Option<Box<str>> {
        let is_it = |(name, value): &(Box<str>, AttributeValue)| {
            **name == *key && matches!(value, AttributeValue::Text(_))
        };
        let at = self.0.iter().position(is_it)?;
        match self.0.remove(at).1 {
            AttributeValue::Text(text) => Some(text),
            _ => None,
        }
    }
}

fn attributes(tags: Option<Vec<Tag<'_>>>) -> Attributes {
    let pairs = tags.unwrap_or_default().into_iter().map(|tag| {
        let value = attribute_value(&tag.value, tag.kind.as_deref());
        (tag.key.unwrap_or_default().into(), value)
    });
    Attributes(pairs.collect())
}

/// Large integers are texts in the answers of some versions; the type says what they are. Lists are JSON in a text.
fn attribute_value(value: &Value, kind: Option<&str>) -> AttributeValue {
    match (value, kind) {
        (Value::Bool(value), _) => AttributeValue::Bool(*value),
        (Value::Number(number), Some("float64")) => AttributeValue::Double(number.as_f64().unwrap_or(0.0)),
        (Value::Number(number), _) => match number.as_i64() {
            Some(value) => AttributeValue::Int(value),
            None => AttributeValue::Double(number.as_f64().unwrap_or(0.0)),
        },
        (Value::String(text), Some("int64")) => {
            text.parse().map_or(AttributeValue::Other, AttributeValue::Int)
        }
        (Value::String(text), Some("float64")) => {
            text.parse().map_or(AttributeValue::Other, AttributeValue::Double)
        }
        (Value::String(text), Some("bool")) => {
            text.parse().map_or(AttributeValue::Other, AttributeValue::Bool)
        }
        (Value::String(text), _) => match text.starts_with('[').then(|| serde_json::from_str(text)) {
            Some(Ok(Value::Array(list))) => {
                AttributeValue::List(list.iter().map(|one| attribute_value(one, None)).collect())
            }
            _ => AttributeValue::Text(text.as_str().into()),
        },
        _ => AttributeValue::Other,
    }
}

fn nanoseconds(microseconds: Option<Integer>) -> u64 {
    microseconds.map_or(0, |value| value.unsigned().saturating_mul(1000))
}
