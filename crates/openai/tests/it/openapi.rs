//! The document says what the server does: each field that it names is sent with good and with bad values.

use axum::body::Body;
use http::{Method, Request};
use serde_json::{Map, Value, json};
use wayfare_engine::SchedulingPolicy;

use crate::rig::{Rig, Setup, post};

/// Values of every type, some of them at the limits of nothing.
fn candidates() -> Vec<Value> {
    let deep = json!([{"role": "user", "content": "x"}]);
    let mut all = vec![
        json!(null),
        json!(true),
        json!(false),
        json!(0),
        json!(1),
        json!(-1),
        json!(0.5),
        json!(-0.5),
        json!(2.5),
        json!(1e300),
        json!(""),
        json!("x"),
        json!("text"),
        json!("x".repeat(5_000)),
        json!([]),
        json!([1]),
        json!([300]),
        json!(["x"]),
        json!([""]),
        json!(["text"]),
        json!([[1]]),
        json!(["x", "y"]),
        json!(vec!["x"; 17]),
        json!(vec![1; 257]),
        json!({}),
        json!({"x": 1}),
        json!({"type": "text"}),
        json!({"type": "other"}),
        json!({"include_usage": true}),
        json!({"include_usage": 1}),
        json!({"continuous_usage_stats": true}),
        json!({"continuous_usage_stats": false}),
        deep,
    ];
    for (field, value) in [
        ("role", json!("king")),
        ("role", json!("system")),
        ("role", json!("tool")),
        ("role", json!(null)),
        ("content", json!(["x"])),
        ("content", json!([{"type": "text", "text": "x"}])),
        ("content", json!([{"type": "image_url"}])),
        ("content", json!([{"text": "x"}])),
        ("content", json!([])),
        ("content", json!(1)),
        ("content", json!(null)),
        ("name", json!("me")),
        ("name", json!(1)),
        ("refusal", json!(null)),
        ("refusal", json!("no")),
        ("tool_calls", json!([])),
        ("tool_calls", json!([{}])),
        ("audio", json!({})),
        ("color", json!("red")),
    ] {
        let mut message = json!({"role": "user", "content": "x"});
        message[field] = value;
        all.push(json!([message]));
    }
    all
}

/// Those, and what a schema names: its limits and words, and what lies just beyond.
fn candidates_for(schema: &Value) -> Vec<Value> {
    let mut all = candidates();
    named_by(schema, &mut all);
    all
}

fn named_by(schema: &Value, all: &mut Vec<Value>) {
    let one_of = schema["anyOf"].as_array().into_iter().flatten();
    one_of.for_each(|schema| named_by(schema, all));
    let words = schema["enum"].as_array().into_iter().flatten();
    all.extend(words.chain(schema.get("const")).cloned());
    for limit in ["minimum", "maximum", "exclusiveMinimum"] {
        let Some(number) = schema.get(limit) else { continue };
        all.push(number.clone());
        if let Some(float) = number.as_f64().filter(|_| schema["type"] == "number") {
            all.extend([json!(float - 0.01), json!(float + 0.01)]);
        }
        if let Some(integer) = number.as_i64() {
            all.extend(
                [integer.checked_sub(1), integer.checked_add(1)].into_iter().flatten().map(Value::from),
            );
        }
    }
}

/// Whether a value is of the form that a schema of ours describes.
fn admits(schema: &Value, value: &Value) -> bool {
    judge(schema, value, false)
}

/// Whether nothing more is asked of a value than what the schema says.
fn admits_for_certain(schema: &Value, value: &Value) -> bool {
    judge(schema, value, true)
}

fn judge(schema: &Value, value: &Value, for_certain: bool) -> bool {
    let admits = |schema: &Value, value: &Value| judge(schema, value, for_certain);
    if for_certain && schema["x-checked-further"] == true {
        return false;
    }
    if let Some(schemas) = schema["anyOf"].as_array() {
        return schemas.iter().any(|schema| admits(schema, value));
    }
    if let Some(constant) = schema.get("const") {
        return constant == value;
    }
    if let Some(words) = schema["enum"].as_array() {
        return words.contains(value);
    }
    let within = |at_least: &str, at_most: &str, size: usize| {
        schema[at_least].as_u64().is_none_or(|limit| size as u64 >= limit)
            && schema[at_most].as_u64().is_none_or(|limit| size as u64 <= limit)
    };
    match (schema["type"].as_str().unwrap(), value) {
        ("null", Value::Null) | ("boolean", Value::Bool(_)) => true,
        ("string", Value::String(text)) => within("minLength", "maxLength", text.chars().count()),
        ("integer", Value::Number(number)) if number.as_f64().unwrap().fract() != 0.0 => false,
        ("integer" | "number", Value::Number(number)) => {
            let number = number.as_f64().unwrap();
            schema["minimum"].as_f64().is_none_or(|limit| number >= limit)
                && schema["maximum"].as_f64().is_none_or(|limit| number <= limit)
                && schema["exclusiveMinimum"].as_f64().is_none_or(|limit| number > limit)
        }
        ("array", Value::Array(items)) => {
            within("minItems", "maxItems", items.len())
                && schema.get("items").is_none_or(|schema| items.iter().all(|item| admits(schema, item)))
        }
        ("object", Value::Object(fields)) => {
            let none = Map::new();
            let properties = schema["properties"].as_object().unwrap_or(&none);
            let is_closed = schema["additionalProperties"] == json!(false);
            let required = schema["required"].as_array();
            required.into_iter().flatten().all(|name| fields.contains_key(name.as_str().unwrap()))
                && within("minProperties", "maxProperties", fields.len())
                && fields.iter().all(|(name, value)| match properties.get(name) {
                    Some(schema) => admits(schema, value),
                    None if schema["additionalProperties"].is_object() => {
                        admits(&schema["additionalProperties"], value)
                    }
                    None => !is_closed,
                })
        }
        _ => false,
    }
}

async fn document(rig: &Rig) -> Value {
    let answer = rig.get("/openapi.json").await;
    assert_eq!(answer.status, 200);
    answer.json()
}

/// The schemas of the requests of a path.
fn requests<'a>(document: &'a Value, path: &str) -> Vec<&'a Value> {
    let schema = &document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"];
    match schema["anyOf"].as_array() {
        Some(schemas) => schemas.iter().collect(),
        None => vec![schema],
    }
}

/// Sends every documented field of every route with every candidate.
async fn check_every_field(rig: &Rig) -> [usize; 2] {
    let document = document(rig).await;
    let answer_of = |path: &str| {
        document["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"].clone()
    };
    let (mut accepted, mut refused) = (0, 0);
    for (path, bases) in [
        ("/v1/chat/completions", vec![json!({"messages": [{"role": "user", "content": "x"}]})]),
        ("/v1/completions", vec![json!({"prompt": "x"})]),
        ("/v1/responses", vec![json!({"input": "x"})]),
        ("/tokenize", vec![json!({"prompt": "x"}), json!({"messages": [{"role": "user", "content": "x"}]})]),
        ("/detokenize", vec![json!({"tokens": [97]})]),
    ] {
        for (schema, base) in requests(&document, path).into_iter().zip(bases) {
            assert!(admits(schema, &base), "{path}");
            for (field, field_schema) in schema["properties"].as_object().unwrap() {
                for value in candidates_for(field_schema) {
                    let mut body = base.clone();
                    if field == "stream_options" {
                        body["stream"] = true.into();
                    }
                    body[field] = value;
                    let is_documented = admits(schema, &body);
                    let answer = rig.post(path, &body).await;
                    let text = body.to_string();
                    let request = text.get(..200).unwrap_or(&text);
                    if !is_documented {
                        refused += 1;
                        assert!([400, 404].contains(&answer.status.as_u16()), "{path} {request}: accepted");
                        let (param, code) = answer.error();
                        // More tokens than the model holds are too many together with the prompt; and where there
                        // is neither text nor messages, it is the text that is said to be missing.
                        let is_named = param.is_some_and(|param| param.starts_with(field))
                            || ["context_length_exceeded", "missing_parameter"].contains(&code.as_str());
                        assert!(is_named, "{path} {request}: {}", answer.text);
                        continue;
                    }
                    // What else is asked of the value, the error says of this field.
                    if answer.status == 400 && !admits_for_certain(schema, &body) {
                        let (param, code) = answer.error();
                        let is_named = param.is_some_and(|param| param.starts_with(field))
                            || code == "chat_template_failed";
                        assert!(is_named, "{path} {request}: {}", answer.text);
                        continue;
                    }
                    // That prompt and answer fit together is no property of either.
                    if answer.status == 400 && answer.error().1 == "context_length_exceeded" {
                        continue;
                    }
                    accepted += 1;
                    assert_eq!(answer.status, 200, "{path} {request}: {}", answer.text);
                    if !answer.text.starts_with("data: ") && !answer.text.starts_with("event: ") {
                        assert!(admits(&answer_of(path), &answer.json()), "{path}: {}", answer.text);
                    }
                }
            }
            let mut body = base.clone();
            body["no_such_field"] = 1.into();
            assert!(!admits(schema, &body));
            assert_eq!(rig.post(path, &body).await.error().1, "unknown_parameter");
        }
    }
    [accepted, refused]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_field_is_accepted_or_refused_as_it_says() {
    for policy in [SchedulingPolicy::Fcfs, SchedulingPolicy::Priority] {
        let rig = Setup::answering("x").with(|setup| setup.engine_limits.policy = policy).start();
        let [accepted, refused] = check_every_field(&rig).await;
        assert!(accepted > 500 && refused > 4_000, "{accepted} accepted, {refused} refused");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_answer_has_the_documented_form() {
    let rig = Setup::answering("x").start();
    let document = document(&rig).await;
    let paths = document["paths"].as_object().unwrap();
    for (path, operations) in paths {
        let Some(get) = operations.get("get") else { continue };
        let answer = rig.get(&path.replace("{model}", "org/alias")).await;
        assert_eq!(answer.status, 200, "{path}");
        let Some(content) = get["responses"]["200"].get("content") else {
            assert_eq!(answer.text, "");
            continue;
        };
        let media_type = answer.header("content-type").unwrap().split(';').next().unwrap();
        let schema = &content[media_type]["schema"];
        assert!(schema.is_object(), "{path} answers with {media_type}");
        if media_type == "application/json" {
            assert!(admits(schema, &answer.json()), "{path}: {}", answer.text);
        }
    }
    let error = rig.get("/v1/models/none").await.json();
    assert!(admits(&document["components"]["schemas"]["Error"], &error), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_says_where_a_key_is_needed() {
    let rig = Setup::answering("x").with(|setup| setup.api_keys = vec!["key".to_owned()]).start();
    let document = document(&rig).await;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let request = match method {
                Method::POST => post(path, &json!({})),
                _ => Request::builder().method(method).uri(path).body(Body::empty()).unwrap(),
            };
            let is_refused = rig.ask(request).await.status == 401;
            assert_eq!(operation.get("security").is_some(), is_refused, "{path}");
        }
    }
}
