//! The protobuf of OTLP, as far as spans need it; other fields are skipped. `TracesData` of files and
//! `ExportTraceServiceRequest` of the network are alike.
//!
//! Source: opentelemetry-proto 1.x, `trace.proto`, `common.proto`, `resource.proto`. Written out here because the
//! published crate brings a gRPC stack.

use std::sync::Arc;

use prost::Message as _;
use wayfare_journey::{SpanId, TraceId};

use crate::span::{AttributeValue, Attributes, SpanEvent, TraceSpan};

#[derive(Clone, PartialEq, prost::Message)]
struct TracesData {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, repeated, tag = "11")]
    events: Vec<Event>,
    #[prost(uint32, tag = "12")]
    dropped_events_count: u32,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Event {
    #[prost(fixed64, tag = "1")]
    time_unix_nano: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "3")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnyValue {
    #[prost(oneof = "any_value::Value", tags = "1, 2, 3, 4, 5")]
    value: Option<any_value::Value>,
}

mod any_value {
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum Value {
        #[prost(string, tag = "1")]
        Text(String),
        #[prost(bool, tag = "2")]
        Bool(bool),
        #[prost(int64, tag = "3")]
        Int(i64),
        #[prost(double, tag = "4")]
        Double(f64),
        #[prost(message, tag = "5")]
        List(super::ArrayValue),
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct ArrayValue {
    #[prost(message, repeated, tag = "1")]
    values: Vec<AnyValue>,
}

/// The spans of a message, or what is wrong with it.
pub(crate) fn spans_of(message: &[u8], spans: &mut Vec<TraceSpan>) -> Result<(), String> {
    let data = TracesData::decode(message).map_err(|error| format!("it is not OTLP protobuf: {error}"))?;
    for resource_spans in data.resource_spans {
        let attributes = resource_spans.resource.map(|resource| resource.attributes).unwrap_or_default();
        let resource = Arc::new(attributes_of(attributes));
        for scope_spans in resource_spans.scope_spans {
            let scope: Arc<str> = scope_spans.scope.map(|scope| scope.name).unwrap_or_default().into();
            for span in scope_spans.spans {
                spans.push(span_of(span, &scope, &resource)?);
            }
        }
    }
    Ok(())
}

fn span_of(span: Span, scope: &Arc<str>, resource: &Arc<Attributes>) -> Result<TraceSpan, String> {
    let trace_id = <[u8; 16]>::try_from(span.trace_id.as_slice()).ok().and_then(TraceId::from_bytes);
    let span_id = <[u8; 8]>::try_from(span.span_id.as_slice()).ok().and_then(SpanId::from_bytes);
    let parent = <[u8; 8]>::try_from(span.parent_span_id.as_slice()).ok();
    let name = &span.name;
    Ok(TraceSpan {
        trace_id: trace_id.ok_or_else(|| format!("the trace id of span {name:?} is not 16 bytes"))?,
        span_id: span_id.ok_or_else(|| format!("the id of span {name:?} is not 8 bytes"))?,
        parent: parent.and_then(SpanId::from_bytes),
        name: span.name.into(),
        scope: Arc::clone(scope),
        resource: Arc::clone(resource),
        start_unix_ns: span.start_time_unix_nano,
        end_unix_ns: span.end_time_unix_nano,
        attributes: attributes_of(span.attributes),
        events: span.events.into_iter().map(event_of).collect(),
        dropped_events: span.dropped_events_count.into(),
        status_message: span.status.map(|status| status.message).unwrap_or_default().into(),
    })
}

fn event_of(event: Event) -> SpanEvent {
    SpanEvent {
        name: event.name.into(),
        unix_ns: event.time_unix_nano,
        attributes: attributes_of(event.attributes),
    }
}

fn attributes_of(pairs: Vec<KeyValue>) -> Attributes {
    Attributes(pairs.into_iter().map(|pair| (pair.key.into(), value_of(pair.value))).collect())
}

/// Lists within lists end where the decoder's limit of nesting does.
fn value_of(value: Option<AnyValue>) -> AttributeValue {
    match value.and_then(|value| value.value) {
        Some(any_value::Value::Text(text)) => AttributeValue::Text(text.into()),
        Some(any_value::Value::Bool(value)) => AttributeValue::Bool(value),
        Some(any_value::Value::Int(value)) => AttributeValue::Int(value),
        Some(any_value::Value::Double(value)) => AttributeValue::Double(value),
        Some(any_value::Value::List(list)) => {
            AttributeValue::List(list.values.into_iter().map(|one| value_of(Some(one))).collect())
        }
        None => AttributeValue::Other,
    }
}
