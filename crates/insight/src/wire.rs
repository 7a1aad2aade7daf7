//! The JSON of OTLP, as far as spans need it, and what Tempo and Jaeger wrap around it. Texts are borrowed from the
//! line where JSON allows.
//!
//! Source: <https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>. As in all protobuf JSON, a
//! missing field and `null` are the default, unknown fields are ignored, and 64-bit integers are texts or
//! numbers.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use crate::jaeger;
use crate::span::{Attributes, TraceSpan};

type List<T> = Option<Vec<T>>;

/// What a line or a document may be: an OTLP request, or the answer of a trace store.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Document<'a> {
    /// OTLP; `batches` is Tempo's name for it at `/api/traces/{id}`.
    #[serde(borrow, default, alias = "batches")]
    pub(crate) resource_spans: List<ResourceSpans<'a>>,
    /// Tempo's `/api/v2/traces/{id}`.
    #[serde(borrow, default)]
    pub(crate) trace: Option<Traces<'a>>,
    /// Jaeger's `/api/v3/traces/{id}`.
    #[serde(borrow, default)]
    pub(crate) result: Option<Traces<'a>>,
    /// Jaeger's `/api/traces` and the download of its pages.
    #[serde(borrow, default)]
    pub(crate) data: List<jaeger::Trace<'a>>,
    /// One trace of Jaeger by itself.
    #[serde(borrow, default)]
    pub(crate) spans: List<jaeger::Span<'a>>,
    /// The processes of `spans`.
    #[serde(borrow, default)]
    pub(crate) processes: jaeger::Processes<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Traces<'a> {
    #[serde(borrow, default, alias = "batches")]
    pub(crate) resource_spans: List<ResourceSpans<'a>>,
}

impl Document<'_> {
    /// Adds the spans, or says what is wrong with one.
    pub(crate) fn into_spans(self, spans: &mut Vec<TraceSpan>) -> Result<(), String> {
        let wrapped =
            [self.trace, self.result].into_iter().flatten().filter_map(|traces| traces.resource_spans);
        for resource_spans in wrapped.chain(self.resource_spans).flatten() {
            let attributes = resource_spans.resource.and_then(|resource| resource.attributes);
            let resource = Arc::new(Attributes::from_wire(attributes));
            for scope_spans in resource_spans.scope_spans.unwrap_or_default() {
                let name = scope_spans.scope.and_then(|scope| scope.name).unwrap_or_default();
                let scope: Arc<str> = Arc::from(&*name);
                for span in scope_spans.spans.unwrap_or_default() {
                    spans.push(TraceSpan::from_wire(span, &scope, &resource)?);
                }
            }
        }
        let single = jaeger::Trace { spans: self.spans, processes: self.processes };
        for trace in self.data.into_iter().flatten().chain([single]) {
            trace.into_spans(spans)?;
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ResourceSpans<'a> {
    #[serde(borrow, default)]
    pub(crate) resource: Option<Resource<'a>>,
    /// Under its name of before OTLP 0.19, too.
    #[serde(borrow, default, alias = "instrumentationLibrarySpans")]
    pub(crate) scope_spans: List<ScopeSpans<'a>>,
}

#[derive(Deserialize)]
pub(crate) struct Resource<'a> {
    #[serde(borrow, default)]
    pub(crate) attributes: List<KeyValue<'a>>,
}

#[derive(Deserialize)]
pub(crate) struct ScopeSpans<'a> {
    #[serde(borrow, default, alias = "instrumentationLibrary")]
    pub(crate) scope: Option<Scope<'a>>,
    #[serde(borrow, default)]
    pub(crate) spans: List<Span<'a>>,
}

#[derive(Deserialize)]
pub(crate) struct Scope<'a> {
    #[serde(borrow, default)]
    pub(crate) name: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Span<'a> {
    #[serde(borrow, default)]
    pub(crate) trace_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) span_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) parent_span_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) name: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(crate) start_time_unix_nano: Option<Integer>,
    #[serde(default)]
    pub(crate) end_time_unix_nano: Option<Integer>,
    #[serde(borrow, default)]
    pub(crate) attributes: List<KeyValue<'a>>,
    #[serde(borrow, default)]
    pub(crate) events: List<Event<'a>>,
    #[serde(default)]
    pub(crate) dropped_events_count: Option<Integer>,
    #[serde(borrow, default)]
    pub(crate) status: Option<Status<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Event<'a> {
    #[serde(default)]
    pub(crate) time_unix_nano: Option<Integer>,
    #[serde(borrow, default)]
    pub(crate) name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) attributes: List<KeyValue<'a>>,
}

#[derive(Deserialize)]
pub(crate) struct Status<'a> {
    #[serde(borrow, default)]
    pub(crate) message: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
pub(crate) struct KeyValue<'a> {
    #[serde(borrow, default)]
    pub(crate) key: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) value: Option<AnyValue<'a>>,
}

/// At most one field is there.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AnyValue<'a> {
    #[serde(borrow, default)]
    pub(crate) string_value: Option<Cow<'a, str>>,
    #[serde(default)]
    pub(crate) bool_value: Option<bool>,
    #[serde(default)]
    pub(crate) int_value: Option<Integer>,
    #[serde(default)]
    pub(crate) double_value: Option<Double>,
    #[serde(borrow, default)]
    pub(crate) array_value: Option<ArrayValue<'a>>,
}

#[derive(Deserialize)]
pub(crate) struct ArrayValue<'a> {
    #[serde(borrow, default)]
    pub(crate) values: List<AnyValue<'a>>,
}

/// A 64-bit integer of either sign, as a number or as text.
#[derive(Clone, Copy)]
pub(crate) struct Integer(i128);

impl Integer {
    /// The value; none below zero.
    pub(crate) fn unsigned(self) -> u64 {
        u64::try_from(self.0.max(0)).unwrap_or(u64::MAX)
    }

    /// The value, or the nearest there is.
    pub(crate) fn signed(self) -> i64 {
        i64::try_from(self.0).unwrap_or(if self.0 < 0 { i64::MIN } else { i64::MAX })
    }
}

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct IntegerVisitor;

        impl Visitor<'_> for IntegerVisitor {
            type Value = Integer;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a 64-bit integer, as a number or as text")
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Integer, E> {
                Ok(Integer(value.into()))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Integer, E> {
                Ok(Integer(value.into()))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Integer, E> {
                let unsigned = || text.parse::<u64>().ok().map(i128::from);
                let value = text.parse::<i64>().ok().map(i128::from).or_else(unsigned);
                value.map(Integer).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(IntegerVisitor)
    }
}

/// A floating point number; those that JSON does not have are texts.
#[derive(Clone, Copy)]
pub(crate) struct Double(pub(crate) f64);

impl<'de> Deserialize<'de> for Double {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DoubleVisitor;

        impl Visitor<'_> for DoubleVisitor {
            type Value = Double;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, as such or as text")
            }

            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Double, E> {
                Ok(Double(value))
            }

            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Double, E> {
                Ok(Double(value as f64))
            }

            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Double, E> {
                Ok(Double(value as f64))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Double, E> {
                let value = text.parse().ok();
                value.map(Double).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }

        deserializer.deserialize_any(DoubleVisitor)
    }
}
