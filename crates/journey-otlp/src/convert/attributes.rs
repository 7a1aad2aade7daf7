//! Lists of attributes whose values have the types that the schema says.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, ArrayValue, KeyValue};
use wayfare_journey::AttributeVisitor;
use wayfare_journey::schema::{Attribute, ValueType};

/// A list of attributes in the making.
#[derive(Debug)]
pub(crate) struct Attributes(Vec<KeyValue>);

impl Attributes {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self(Vec::with_capacity(capacity))
    }

    pub(crate) fn text(&mut self, attribute: Attribute, text: &str) -> &mut Self {
        self.push(attribute, ValueType::Text, Value::StringValue(text.into()));
        self
    }

    pub(crate) fn int(&mut self, attribute: Attribute, value: impl Into<i64>) -> &mut Self {
        self.push(attribute, ValueType::Int, Value::IntValue(value.into()));
        self
    }

    fn push(&mut self, attribute: Attribute, value_type: ValueType, value: Value) {
        debug_assert_eq!(attribute.value, value_type, "{} has the schema's type", attribute.key);
        self.0.push(pair(attribute.key, value));
    }

    pub(crate) fn into_list(self) -> Vec<KeyValue> {
        self.0
    }
}

impl AttributeVisitor for Attributes {
    fn text(&mut self, attribute: Attribute, text: &str) {
        self.push(attribute, ValueType::Text, Value::StringValue(text.into()));
    }

    fn int(&mut self, attribute: Attribute, value: i64) {
        self.push(attribute, ValueType::Int, Value::IntValue(value));
    }

    fn double(&mut self, attribute: Attribute, value: f64) {
        self.push(attribute, ValueType::Double, Value::DoubleValue(value));
    }

    fn bool(&mut self, attribute: Attribute, value: bool) {
        self.push(attribute, ValueType::Bool, Value::BoolValue(value));
    }

    fn text_list(&mut self, attribute: Attribute, texts: &[&str]) {
        let values =
            texts.iter().map(|text| AnyValue { value: Some(Value::StringValue((*text).into())) }).collect();
        self.push(attribute, ValueType::TextList, Value::ArrayValue(ArrayValue { values }));
    }
}

/// An attribute that is not of the schema.
pub(crate) fn text_pair(key: &str, text: &str) -> KeyValue {
    pair(key, Value::StringValue(text.into()))
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
