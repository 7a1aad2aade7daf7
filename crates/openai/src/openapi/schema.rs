//! The forms of values, and what they look like in JSON Schema.

use serde_json::{Map, Value, json};
use wayfare_engine::{EngineLimits, SchedulingPolicy};

use crate::params::Neutral;

/// What only the running server knows.
#[derive(Debug)]
pub(crate) struct Facts<'a> {
    pub(crate) version: &'a str,
    pub(crate) models: &'a [String],
    pub(crate) limits: &'a EngineLimits,
    pub(crate) max_messages: usize,
    pub(crate) per_request_metrics: bool,
    pub(crate) needs_api_key: bool,
}

/// A field of an object.
#[derive(Debug)]
pub(super) struct FieldDoc {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) shape: Shape,
    /// Whether it must be there; if not, `null` is as good as absent.
    pub(super) is_required: bool,
}

/// A field that must be there.
pub(super) const fn required(name: &'static str, shape: Shape, about: &'static str) -> FieldDoc {
    FieldDoc { name, about, shape, is_required: true }
}

/// A field that may be left out.
pub(super) const fn optional(name: &'static str, shape: Shape, about: &'static str) -> FieldDoc {
    FieldDoc { name, about, shape, is_required: false }
}

/// The form of a value.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    Null,
    Boolean,
    /// This boolean and no other.
    Only(bool),
    /// A text of so many characters.
    Text {
        min: usize,
        max: Option<usize>,
    },
    /// One of these texts.
    Words(&'static [&'static str]),
    Integer {
        min: i128,
        max: i128,
    },
    Number {
        min: f64,
        max: f64,
    },
    /// A number above 0 and up to this one.
    Positive(f64),
    /// A list of so many items.
    List {
        of: &'static Shape,
        min: usize,
        max: Option<usize>,
    },
    /// An object with these fields and no others.
    Object(&'static [FieldDoc]),
    /// An object with these fields, and perhaps others.
    OpenObject(&'static [FieldDoc]),
    Either(&'static [Shape]),
    /// An object with names of any kind, and values of this one.
    Map(&'static Shape),
    /// The same, and more is asked of it than can be said here: the server may refuse it, and says why.
    Checked(&'static Shape),
    /// The name of a model that is served.
    Model,
    TokenId,
    /// A number of tokens that the model can hold.
    TokenCount,
    /// As many of these messages as the server allows.
    Messages(&'static Shape),
    /// What `--scheduling-policy priority` allows.
    Priority,
    /// What `--enable-per-request-metrics` allows.
    MetricsSwitch,
}

/// Any text.
pub(super) const TEXT: Shape = Shape::Text { min: 0, max: None };
/// Any count.
pub(super) const COUNT: Shape = Shape::Integer { min: 0, max: u64::MAX as i128 };

impl Shape {
    pub(super) fn schema(self, facts: &Facts<'_>) -> Value {
        match self {
            Self::Null => json!({"type": "null"}),
            Self::Boolean => json!({"type": "boolean"}),
            Self::Only(value) => json!({"const": value}),
            Self::Text { min, max } => {
                let mut schema = json!({"type": "string"});
                if min > 0 {
                    schema["minLength"] = min.into();
                }
                if let Some(max) = max {
                    schema["maxLength"] = max.into();
                }
                schema
            }
            Self::Words(words) => json!({"type": "string", "enum": words}),
            Self::Integer { min, max } => integers(min, max),
            Self::Number { min, max } => json!({"type": "number", "minimum": min, "maximum": max}),
            Self::Positive(max) => json!({"type": "number", "exclusiveMinimum": 0, "maximum": max}),
            Self::List { of, min, max } => list(&of.schema(facts), min, max),
            Self::Object(fields) => object(fields, facts),
            Self::OpenObject(fields) => {
                let mut schema = object(fields, facts);
                schema["additionalProperties"] = true.into();
                schema
            }
            Self::Either(shapes) => {
                json!({"anyOf": shapes.iter().map(|shape| shape.schema(facts)).collect::<Vec<_>>()})
            }
            Self::Map(of) => json!({"type": "object", "additionalProperties": of.schema(facts)}),
            Self::Checked(of) => {
                let mut schema = of.schema(facts);
                schema["x-checked-further"] = true.into();
                schema
            }
            Self::Model => json!({"type": "string", "enum": facts.models}),
            Self::TokenId => integers(0, i128::from(facts.limits.vocab_size) - 1),
            Self::TokenCount => integers(1, i128::from(facts.limits.context_tokens())),
            Self::Messages(message) => list(&message.schema(facts), 1, Some(facts.max_messages)),
            Self::Priority => match facts.limits.policy {
                SchedulingPolicy::Fcfs => integers(0, 0),
                SchedulingPolicy::Priority => integers(i128::from(i32::MIN), i128::from(i32::MAX)),
            },
            Self::MetricsSwitch if facts.per_request_metrics => json!({"type": "boolean"}),
            Self::MetricsSwitch => json!({"const": false}),
        }
    }
}

fn integers(min: i128, max: i128) -> Value {
    // JSON numbers of our own tables: each fits either type.
    let number =
        |value: i128| i64::try_from(value).map_or_else(|_| json!(value as u64), |value| json!(value));
    json!({"type": "integer", "minimum": number(min), "maximum": number(max)})
}

fn list(items: &Value, min: usize, max: Option<usize>) -> Value {
    let mut schema = json!({"type": "array", "items": items});
    if min > 0 {
        schema["minItems"] = min.into();
    }
    if let Some(max) = max {
        schema["maxItems"] = max.into();
    }
    schema
}

/// An object with these fields.
pub(super) fn object(fields: &[FieldDoc], facts: &Facts<'_>) -> Value {
    let properties: Map<String, Value> =
        fields.iter().map(|field| (field.name.to_owned(), property(field, facts))).collect();
    let needed: Vec<_> = fields.iter().filter(|field| field.is_required).map(|field| field.name).collect();
    let mut schema = json!({"type": "object", "properties": properties, "additionalProperties": false});
    if !needed.is_empty() {
        schema["required"] = needed.into();
    }
    schema
}

fn property(field: &FieldDoc, facts: &Facts<'_>) -> Value {
    let mut schema = field.shape.schema(facts);
    if !field.is_required {
        schema = or_null(&schema);
    }
    if !field.about.is_empty() {
        schema["description"] = field.about.into();
    }
    schema
}

/// The values at which a field that is not supported is accepted.
pub(super) fn neutral(values: &[Neutral]) -> Value {
    let schema = |value: &Neutral| match *value {
        Neutral::Bool(value) => json!({"const": value}),
        Neutral::Number(value) => integers(value, value),
        Neutral::Text(value) => json!({"const": value}),
        Neutral::EmptyList => json!({"type": "array", "maxItems": 0}),
        Neutral::EmptyObject => json!({"type": "object", "maxProperties": 0}),
        Neutral::TextOnly => json!({"type": "array", "items": {"const": "text"}}),
        Neutral::AnyBool => json!({"type": "boolean"}),
        Neutral::AnyText => json!({"type": "string"}),
        Neutral::AnyObject => json!({"type": "object"}),
    };
    let has_effect =
        !values.iter().any(|value| matches!(value, Neutral::AnyBool | Neutral::AnyText | Neutral::AnyObject));
    let mut schemas: Vec<Value> = values.iter().map(schema).collect();
    schemas.push(json!({"type": "null"}));
    let about = if has_effect {
        "Not supported: accepted only where it changes nothing."
    } else {
        "Accepted for the client's own book-keeping; without effect."
    };
    json!({"anyOf": schemas, "description": about})
}

fn or_null(schema: &Value) -> Value {
    json!({"anyOf": [schema, {"type": "null"}]})
}
