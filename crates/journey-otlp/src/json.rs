//! OTLP/JSON: the protobuf JSON mapping with OTLP's exceptions, in the shape a collector writes: ids as
//! lower-case hexadecimal, 64-bit integers as strings, enums as numbers, fields with default values left out.
//!
//! Source: <https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>. The serde support of
//! `opentelemetry-proto` reads these lines, but it writes every empty field too, which collectors do not.

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span};
use serde::Deserialize;
use serde::ser::{Error as _, Serialize, SerializeMap, Serializer};

/// Appends the request to `out` as one line of JSON.
pub(crate) fn write_line(
    request: &ExportTraceServiceRequest,
    out: &mut Vec<u8>,
) -> Result<(), serde_json::Error> {
    serde_json::to_writer(&mut *out, &Json(request))?;
    out.push(b'\n');
    Ok(())
}

/// The request as the body of an HTTP request.
pub(crate) fn body(request: &ExportTraceServiceRequest) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Json(request))
}

/// Reads the answer to such a request. Its serde support in `opentelemetry-proto` knows only one of the two forms
/// of a 64-bit number.
pub(crate) fn read_answer(body: &[u8]) -> Option<ExportTraceServiceResponse> {
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let partial_success = answer.partial_success.map(|partial| ExportTracePartialSuccess {
        rejected_spans: match partial.rejected_spans {
            Some(Number::Plain(number)) => number,
            Some(Number::Quoted(text)) => text.trim().parse().unwrap_or(0),
            None => 0,
        },
        error_message: partial.error_message.unwrap_or_default(),
    });
    Some(ExportTraceServiceResponse { partial_success })
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "partialSuccess")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Deserialize)]
struct PartialSuccess {
    #[serde(rename = "rejectedSpans")]
    rejected_spans: Option<Number>,
    #[serde(rename = "errorMessage")]
    error_message: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Number {
    Plain(i64),
    Quoted(String),
}

/// A message that is written in OTLP/JSON.
struct Json<'a, T>(&'a T);

/// A list of messages.
struct JsonList<'a, T>(&'a [T]);

impl<'a, T> Serialize for JsonList<'a, T>
where
    Json<'a, T>: Serialize,
{
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(Json))
    }
}

/// An object whose default-valued fields are left out.
struct Object<M>(M);

impl<M: SerializeMap> Object<M> {
    fn begin<S: Serializer<SerializeMap = M>>(serializer: S) -> Result<Self, S::Error> {
        serializer.serialize_map(None).map(Self)
    }

    fn always(
        &mut self,
        key: &'static str,
        value: &(impl Serialize + ?Sized),
    ) -> Result<&mut Self, M::Error> {
        self.0.serialize_entry(key, value)?;
        Ok(self)
    }

    fn text(&mut self, key: &'static str, text: &str) -> Result<&mut Self, M::Error> {
        if text.is_empty() { Ok(self) } else { self.always(key, text) }
    }

    fn id(&mut self, key: &'static str, bytes: &[u8]) -> Result<&mut Self, M::Error> {
        self.text(key, &hex(bytes))
    }

    fn number<N: Serialize + Default + PartialEq>(
        &mut self,
        key: &'static str,
        number: &N,
    ) -> Result<&mut Self, M::Error> {
        if *number == N::default() { Ok(self) } else { self.always(key, number) }
    }

    fn list<'a, T>(&mut self, key: &'static str, list: &'a [T]) -> Result<&mut Self, M::Error>
    where
        Json<'a, T>: Serialize,
    {
        if list.is_empty() { Ok(self) } else { self.always(key, &JsonList(list)) }
    }

    fn message<'a, T>(&mut self, key: &'static str, message: &'a Option<T>) -> Result<&mut Self, M::Error>
    where
        Json<'a, T>: Serialize,
    {
        match message {
            Some(message) => self.always(key, &Json(message)),
            None => Ok(self),
        }
    }

    fn end(self) -> Result<M::Ok, M::Error> {
        self.0.end()
    }
}

impl Serialize for Json<'_, ExportTraceServiceRequest> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = Object::begin(serializer)?;
        object.always("resourceSpans", &JsonList(&self.0.resource_spans))?;
        object.end()
    }
}

impl Serialize for Json<'_, ResourceSpans> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = Object::begin(serializer)?;
        object
            .message("resource", &self.0.resource)?
            .list("scopeSpans", &self.0.scope_spans)?
            .text("schemaUrl", &self.0.schema_url)?;
        object.end()
    }
}

impl Serialize for Json<'_, Resource> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = Object::begin(serializer)?;
        object
            .list("attributes", &self.0.attributes)?
            .number("droppedAttributesCount", &self.0.dropped_attributes_count)?;
        object.end()
    }
}

impl Serialize for Json<'_, ScopeSpans> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = Object::begin(serializer)?;
        object
            .message("scope", &self.0.scope)?
            .list("spans", &self.0.spans)?
            .text("schemaUrl", &self.0.schema_url)?;
        object.end()
    }
}

impl Serialize for Json<'_, InstrumentationScope> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = Object::begin(serializer)?;
        object
            .text("name", &self.0.name)?
            .text("version", &self.0.version)?
            .list("attributes", &self.0.attributes)?
            .number("droppedAttributesCount", &self.0.dropped_attributes_count)?;
        object.end()
    }
}

impl Serialize for Json<'_, Span> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let span = self.0;
        let mut object = Object::begin(serializer)?;
        object
            .id("traceId", &span.trace_id)?
            .id("spanId", &span.span_id)?
            .text("traceState", &span.trace_state)?
            .id("parentSpanId", &span.parent_span_id)?
            .text("name", &span.name)?
            .number("kind", &span.kind)?
            .always("startTimeUnixNano", &span.start_time_unix_nano.to_string())?
            .always("endTimeUnixNano", &span.end_time_unix_nano.to_string())?
            .list("attributes", &span.attributes)?
            .number("droppedAttributesCount", &span.dropped_attributes_count)?
            .list("events", &span.events)?
            .number("droppedEventsCount", &span.dropped_events_count)?
            .list("links", &span.links)?
            .number("droppedLinksCount", &span.dropped_links_count)?
            .message("status", &span.status)?
            .number("flags", &span.flags)?;
        object.end()
    }
}

impl Serialize for Json<'_, span::Event> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = Object::begin(serializer)?;
        object
            .always("timeUnixNano", &self.0.time_unix_nano.to_string())?
            .text("name", &self.0.name)?
            .list("attributes", &self.0.attributes)?
            .number("droppedAttributesCount", &self.0.dropped_attributes_count)?;
        object.end()
    }
}

impl Serialize for Json<'_, span::Link> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = Object::begin(serializer)?;
        object
            .id("traceId", &self.0.trace_id)?
            .id("spanId", &self.0.span_id)?
            .text("traceState", &self.0.trace_state)?
            .list("attributes", &self.0.attributes)?
            .number("droppedAttributesCount", &self.0.dropped_attributes_count)?
            .number("flags", &self.0.flags)?;
        object.end()
    }
}

impl Serialize for Json<'_, Status> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = Object::begin(serializer)?;
        object.text("message", &self.0.message)?.number("code", &self.0.code)?;
        object.end()
    }
}

impl Serialize for Json<'_, KeyValue> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = Object::begin(serializer)?;
        object.always("key", &self.0.key)?.message("value", &self.0.value)?;
        object.end()
    }
}

impl Serialize for Json<'_, AnyValue> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = Object::begin(serializer)?;
        match &self.0.value {
            None => {}
            Some(Value::StringValue(text)) => {
                object.always("stringValue", text)?;
            }
            Some(Value::BoolValue(value)) => {
                object.always("boolValue", value)?;
            }
            Some(Value::IntValue(value)) => {
                object.always("intValue", &value.to_string())?;
            }
            Some(Value::DoubleValue(value)) if value.is_finite() => {
                object.always("doubleValue", value)?;
            }
            // JSON has no such numbers; the protobuf mapping names them.
            Some(Value::DoubleValue(value)) => {
                let name = match (value.is_nan(), value.is_sign_positive()) {
                    (true, _) => "NaN",
                    (false, true) => "Infinity",
                    (false, false) => "-Infinity",
                };
                object.always("doubleValue", name)?;
            }
            Some(Value::ArrayValue(list)) => {
                object.always("arrayValue", &Json(list))?;
            }
            Some(Value::KvlistValue(_) | Value::BytesValue(_) | Value::StringValueStrindex(_)) => {
                return Err(S::Error::custom("no attribute of ours has a value of this type"));
            }
        }
        object.end()
    }
}

impl Serialize for Json<'_, ArrayValue> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = Object::begin(serializer)?;
        object.list("values", &self.0.values)?;
        object.end()
    }
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |value: u8| char::from(DIGITS[usize::from(value & 0x0f)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_in_either_form_and_garbage_is_none() {
        let rejected =
            |body: &str| read_answer(body.as_bytes())?.partial_success.map(|one| one.rejected_spans);
        assert_eq!(rejected(r#"{"partialSuccess":{"rejectedSpans":"3","errorMessage":"old"}}"#), Some(3));
        assert_eq!(rejected(r#"{"partialSuccess":{"rejectedSpans":3,"more":[]}}"#), Some(3));
        assert_eq!(rejected(r#"{"partialSuccess":{"errorMessage":"a warning"}}"#), Some(0));
        assert_eq!(read_answer(b"{}"), Some(ExportTraceServiceResponse::default()));
        assert_eq!(read_answer(br#"{"partialSuccess":null}"#), Some(ExportTraceServiceResponse::default()));
        for garbage in ["", "ok", "[1]", r#"{"partialSuccess":7}"#] {
            assert_eq!(read_answer(garbage.as_bytes()), None, "{garbage}");
        }
    }
}
