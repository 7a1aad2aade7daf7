//! Lists of attributes whose values have the types that the schema says.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue};
use wayfare_journey::schema::{Attribute, ValueType};

/// A list of attributes in the making.
#[derive(Debug)]
pub(crate) struct Attributes(Vec<KeyValue>);

impl Attributes {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    pub(crate) fn text(&mut self, attribute: Attribute, text: &str) -> &mut Self {
        self.push(attribute, ValueType::Text, Value::StringValue(text.into()))
    }

    /// Nothing is written for an empty text.
    pub(crate) fn text_if_any(&mut self, attribute: Attribute, text: &str) -> &mut Self {
        if text.is_empty() { self } else { self.text(attribute, text) }
    }

    pub(crate) fn int(&mut self, attribute: Attribute, value: impl Into<i64>) -> &mut Self {
        self.push(attribute, ValueType::Int, Value::IntValue(value.into()))
    }

    /// A count too large for OTLP's signed integers is written as their largest.
    pub(crate) fn count(&mut self, attribute: Attribute, value: u64) -> &mut Self {
        self.int(attribute, i64::try_from(value).unwrap_or(i64::MAX))
    }

    pub(crate) fn double(&mut self, attribute: Attribute, value: f64) -> &mut Self {
        self.push(attribute, ValueType::Double, Value::DoubleValue(value))
    }

    pub(crate) fn double_if_any(&mut self, attribute: Attribute, value: Option<f64>) -> &mut Self {
        match value {
            Some(value) => self.double(attribute, value),
            None => self,
        }
    }

    pub(crate) fn bool(&mut self, attribute: Attribute, value: bool) -> &mut Self {
        self.push(attribute, ValueType::Bool, Value::BoolValue(value))
    }

    /// Nothing is written for an empty list.
    pub(crate) fn text_list(&mut self, attribute: Attribute, texts: &[&str]) -> &mut Self {
        if texts.is_empty() {
            return self;
        }
        let values =
            texts.iter().map(|text| AnyValue { value: Some(Value::StringValue((*text).into())) }).collect();
        self.push(attribute, ValueType::TextList, Value::ArrayValue(ArrayValue { values }))
    }

    fn push(&mut self, attribute: Attribute, value_type: ValueType, value: Value) -> &mut Self {
        debug_assert_eq!(attribute.value, value_type, "{} has the schema's type", attribute.key);
        self.0.push(pair(attribute.key, value));
        self
    }

    pub(crate) fn into_list(self) -> Vec<KeyValue> {
        self.0
    }
}

/// An attribute that is not of the schema.
pub(crate) fn text_pair(key: &str, text: &str) -> KeyValue {
    pair(key, Value::StringValue(text.into()))
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
