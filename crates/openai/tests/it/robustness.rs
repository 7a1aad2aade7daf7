//! Whatever a client sends gets an answer in OpenAI's form, and the server goes on.

use axum::body::Body;
use http::Request;
use proptest::prelude::*;
use serde_json::{Map, Value};
use tokio::runtime::Runtime;

use crate::rig::{CHAT, COMPLETIONS, Rig, Setup};

const FIELDS: &[&str] = &[
    "model",
    "messages",
    "prompt",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "ignore_eos",
    "n",
    "stream",
    "stream_options",
    "stop_token_ids",
    "tools",
    "response_format",
    "logprobs",
    "add_special_tokens",
    "role",
    "content",
    "type",
    "text",
    "include_usage",
    "user",
];

const TEXTS: &[&str] = &["tiny", "user", "assistant", "text", "Hi", "", "<eos>", "\u{0}", "é世"];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-3_i64..300).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(TEXTS).prop_map(Value::from),
        ".{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        let key = prop_oneof![prop::sample::select(FIELDS).prop_map(str::to_owned), ".{0,8}"];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// A valid request in which some fields are replaced by anything.
fn nearly_valid() -> impl Strategy<Value = Value> {
    let replaced = prop::collection::vec((prop::sample::select(FIELDS), any_json()), 0..3);
    (any::<bool>(), replaced).prop_map(|(is_chat, replaced)| {
        let path = if is_chat { CHAT } else { COMPLETIONS };
        let mut body = crate::rig::request_for(path, serde_json::json!({}));
        if let Some(fields) = body.as_object_mut() {
            fields.extend(replaced.into_iter().map(|(name, value)| (name.to_owned(), value)));
        }
        body
    })
}

fn check(runtime: &Runtime, rig: &Rig, body: &[u8]) {
    runtime.block_on(async {
        for path in [CHAT, COMPLETIONS] {
            let request = Request::post(path).body(Body::from(body.to_vec())).unwrap();
            let answer = rig.ask(request).await;
            if answer.status == 200 {
                assert!(!answer.text.contains(r#""error""#), "{}", answer.text);
            } else {
                assert!(answer.status.is_client_error(), "{}: {}", answer.status, answer.text);
                answer.error();
            }
        }
    });
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

#[test]
fn any_body_gets_an_answer() {
    let runtime = runtime();
    let rig = runtime.block_on(async { Setup::answering("Hello").start() });
    let body = prop_oneof![
        any_json().prop_map(|json| json.to_string().into_bytes()),
        nearly_valid().prop_map(|json| json.to_string().into_bytes()),
        prop::collection::vec(any::<u8>(), 0..200),
    ];
    proptest!(ProptestConfig::with_cases(512), |(body in body)| check(&runtime, &rig, &body));
    rig.assert_nothing_left();
}

#[test]
fn any_header_gets_an_answer() {
    let runtime = runtime();
    let rig = runtime.block_on(async { Setup::answering("Hello").start() });
    let value = prop::collection::vec(prop_oneof![0x20_u8..0x7f, 0x80_u8..=0xff], 0..300);
    let name = prop::sample::select(vec![
        "x-request-id",
        "traceparent",
        "tracestate",
        "content-type",
        "content-encoding",
        "authorization",
        "accept",
    ]);
    let headers = prop::collection::vec((name, value), 0..6);
    proptest!(ProptestConfig::with_cases(256), |(headers in headers)| {
        let mut request = Request::post(CHAT);
        for (name, value) in headers {
            request = request.header(name, http::HeaderValue::from_bytes(&value).unwrap());
        }
        let body = crate::rig::chat(serde_json::json!({}));
        let answer = runtime.block_on(rig.ask(request.body(Body::from(body.to_string())).unwrap()));
        prop_assert!(answer.status == 200 || answer.status == 415, "{}", answer.status);
        prop_assert!(answer.header("x-request-id").is_some_and(|id| !id.is_empty()));
        prop_assert!(answer.header("traceresponse").is_some());
    });
    rig.assert_nothing_left();
}
