//! A span as it is in a file.

use std::sync::Arc;

use wayfare_journey::schema::Attribute;
use wayfare_journey::{SpanId, TraceId};

use crate::{ids, wire};

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum AttributeValue {
    /// UTF-8 text.
    Text(Box<str>),
    /// 64-bit signed integer.
    Int(i64),
    /// 64-bit floating point number.
    Double(f64),
    /// True or false.
    Bool(bool),
    /// A list.
    List(Vec<AttributeValue>),
    /// Bytes, a map, or nothing: what no span of ours has.
    Other,
}

/// A list of attributes. When a key occurs twice, which OTLP forbids, the first one counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attributes(pub(crate) Vec<(Box<str>, AttributeValue)>);

impl Attributes {
    /// The attributes in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &AttributeValue)> {
        self.0.iter().map(|(key, value)| (&**key, value))
    }

    /// The value under a key.
    #[must_use]
    pub fn get(&self, attribute: Attribute) -> Option<&AttributeValue> {
        self.0.iter().find(|(key, _)| **key == *attribute.key).map(|(_, value)| value)
    }

    /// The text under a key; `None` also when it is of another type.
    #[must_use]
    pub fn text(&self, attribute: Attribute) -> Option<&str> {
        match self.get(attribute)? {
            AttributeValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The integer under a key; `None` also when it is of another type.
    #[must_use]
    pub fn int(&self, attribute: Attribute) -> Option<i64> {
        match self.get(attribute)? {
            AttributeValue::Int(value) => Some(*value),
            _ => None,
        }
    }

    /// The integer under a key, when it is a count; `None` also when it is negative or of another type.
    #[must_use]
    pub fn count(&self, attribute: Attribute) -> Option<u64> {
        u64::try_from(self.int(attribute)?).ok()
    }

    /// The number under a key, integer or not; `None` also when it is of another type.
    #[must_use]
    pub fn number(&self, attribute: Attribute) -> Option<f64> {
        match self.get(attribute)? {
            AttributeValue::Double(value) => Some(*value),
            AttributeValue::Int(value) => Some(*value as f64),
            _ => None,
        }
    }
}

/// An event of a span.
#[derive(Clone, Debug, PartialEq)]
pub struct SpanEvent {
    /// Its name.
    pub name: Box<str>,
    /// Its time, in nanoseconds since the Unix epoch.
    pub unix_ns: u64,
    /// Its attributes.
    pub attributes: Attributes,
}

/// A span of any scope.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceSpan {
    /// The trace it belongs to.
    pub trace_id: TraceId,
    /// Its own id.
    pub span_id: SpanId,
    /// Its parent, which need not be in the file.
    pub parent: Option<SpanId>,
    /// Its name.
    pub name: Box<str>,
    /// The instrumentation scope it came under; empty when there was none.
    pub scope: Arc<str>,
    /// The attributes of the resource it came under, shared by the spans of a line.
    pub resource: Arc<Attributes>,
    /// Its start, in nanoseconds since the Unix epoch.
    pub start_unix_ns: u64,
    /// Its end, in nanoseconds since the Unix epoch.
    pub end_unix_ns: u64,
    /// Its attributes.
    pub attributes: Attributes,
    /// Its events, in the order of the file.
    pub events: Vec<SpanEvent>,
    /// Events that the sender says it has left out.
    pub dropped_events: u64,
    /// What its status says; empty when there is nothing to say.
    pub status_message: Box<str>,
}

impl Attributes {
    pub(crate) fn from_wire(list: Option<Vec<wire::KeyValue<'_>>>) -> Self {
        let pairs = list.unwrap_or_default().into_iter().map(|pair| {
            let value = pair.value.map_or(AttributeValue::Other, AttributeValue::from_wire);
            (pair.key.unwrap_or_default().into(), value)
        });
        Self(pairs.collect())
    }
}

impl AttributeValue {
    fn from_wire(value: wire::AnyValue<'_>) -> Self {
        if let Some(text) = value.string_value {
            AttributeValue::Text(text.into())
        } else if let Some(value) = value.int_value {
            AttributeValue::Int(value.signed())
        } else if let Some(value) = value.double_value {
            AttributeValue::Double(value.0)
        } else if let Some(value) = value.bool_value {
            AttributeValue::Bool(value)
        } else if let Some(list) = value.array_value {
            let values = list.values.unwrap_or_default();
            AttributeValue::List(values.into_iter().map(AttributeValue::from_wire).collect())
        } else {
            AttributeValue::Other
        }
    }
}

impl SpanEvent {
    fn from_wire(event: wire::Event<'_>) -> Self {
        Self {
            name: event.name.unwrap_or_default().into(),
            unix_ns: event.time_unix_nano.map_or(0, wire::Integer::unsigned),
            attributes: Attributes::from_wire(event.attributes),
        }
    }
}

impl TraceSpan {
    /// The span, or what is wrong with it.
    pub(crate) fn from_wire(
        span: wire::Span<'_>,
        scope: &Arc<str>,
        resource: &Arc<Attributes>,
    ) -> Result<Self, String> {
        let name: Box<str> = span.name.unwrap_or_default().into();
        let trace_text = span.trace_id.unwrap_or_default();
        let span_text = span.span_id.unwrap_or_default();
        let parent_text = span.parent_span_id.unwrap_or_default();
        let trace_id = ids::trace_id(&trace_text).ok_or_else(|| {
            format!("trace id {trace_text:?} of span {name:?} is not 32 hexadecimal digits")
        })?;
        let span_id = ids::span_id(&span_text)
            .ok_or_else(|| format!("id {span_text:?} of span {name:?} is not 16 hexadecimal digits"))?;
        Ok(Self {
            trace_id,
            span_id,
            // Some writers fill an absent parent with zeros.
            parent: ids::span_id(&parent_text),
            name,
            scope: Arc::clone(scope),
            resource: Arc::clone(resource),
            start_unix_ns: span.start_time_unix_nano.map_or(0, wire::Integer::unsigned),
            end_unix_ns: span.end_time_unix_nano.map_or(0, wire::Integer::unsigned),
            attributes: Attributes::from_wire(span.attributes),
            events: span.events.unwrap_or_default().into_iter().map(SpanEvent::from_wire).collect(),
            dropped_events: span.dropped_events_count.map_or(0, wire::Integer::unsigned),
            status_message: span.status.and_then(|status| status.message).unwrap_or_default().into(),
        })
    }
}
