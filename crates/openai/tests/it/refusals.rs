//! Requests that are refused: the status, the body, and one span that says why.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::StreamBody;
use serde_json::{Value, json};
use wayfare_engine::{EngineFault, SubmitError};

use crate::rig::{
    Answer, CHAT, COMPLETIONS, Rig, Setup, chat, completion, core_events, ending, post, request_for,
};

/// The request is refused like this, and its journey says so.
#[track_caller]
fn check(rig: &Rig, answer: &Answer, status: u16, param: Option<&str>, code: &str, span_ending: &str) {
    assert_eq!(answer.status.as_u16(), status, "{}", answer.text);
    assert_eq!(answer.error(), (param.map(str::to_owned), code.to_owned()), "{}", answer.text);
    assert!(answer.header("x-request-id").is_some() && answer.header("traceresponse").is_some());
    let journey = rig.journey();
    assert_eq!(ending(&journey), span_ending);
    assert_eq!(journey.api().status, Some(status));
    assert_eq!(core_events(&journey), [""; 0]);
    assert!(journey.cell().handoff().is_none());
    rig.assert_nothing_left();
}

/// The body is refused with a 400 that names the parameter.
async fn check_body(rig: &Rig, path: &str, body: &Value, param: &str, code: &str) {
    let answer = rig.post(path, body).await;
    check(rig, &answer, 400, Some(param), code, &format!("validation_error: {code}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_values_name_their_parameter() {
    let rig = Setup::answering("x").start();
    for path in [CHAT, COMPLETIONS] {
        for (param, value) in [
            ("temperature", json!(2.1)),
            ("temperature", json!(-0.1)),
            ("temperature", json!("hot")),
            ("top_p", json!(0)),
            ("top_p", json!(1.5)),
            ("top_k", json!(-2)),
            ("top_k", json!(1.5)),
            ("min_p", json!(1.01)),
            ("seed", json!(1e30)),
            ("seed", json!(true)),
            ("max_tokens", json!(0)),
            ("max_tokens", json!(-1)),
            ("max_completion_tokens", json!(-1)),
            ("n", json!(0)),
            ("n", json!(129)),
            ("presence_penalty", json!(2.1)),
            ("frequency_penalty", json!(-2.1)),
            ("repetition_penalty", json!(0)),
            ("repetition_penalty", json!(5e-324)),
            ("logit_bias", json!([])),
            ("logit_bias", json!({"x": 1})),
            ("logit_bias", json!({"257": 1})),
            ("logit_bias.1", json!(101)),
            ("bad_words", json!([""])),
            ("bad_words", json!("no")),
            ("allowed_token_ids", json!([])),
            ("allowed_token_ids", json!([257])),
            ("min_tokens", json!(100)),
            ("prompt_logprobs", json!(21)),
            ("truncate_prompt_tokens", json!(0)),
            ("truncate_prompt_tokens", json!(100_000)),
            ("response_format.type", json!({"type": null})),
            ("response_format.json_schema", json!({"type": "json_schema"})),
            (
                "response_format.json_schema.schema",
                json!({"type": "json_schema", "json_schema": {"schema": 7}}),
            ),
            ("structured_outputs", json!({"regex": "a", "json_object": true})),
            ("structured_outputs.choice", json!({"choice": []})),
            ("guided_regex", json!("(")),
            ("guided_regex", json!(7)),
            ("guided_json", json!("{")),
            ("guided_json", json!({"type": "nonsense"})),
            ("guided_choice", json!([""])),
            ("guided_grammar", json!("nonsense")),
            ("stop", json!([""])),
            ("stop", json!([1])),
            ("stop", json!(["a"; 17].to_vec())),
            ("stop", json!({})),
            ("stop_token_ids", json!([257])),
            ("stop_token_ids", json!([-1])),
            ("stream", json!("yes")),
            ("ignore_eos", json!(1)),
            ("include_metrics", json!("yes")),
            ("model", json!(1)),
            ("priority", json!(0.5)),
            ("cache_salt", json!("")),
            ("cache_salt", json!(7)),
            ("stream_options", json!({"include_usage": true})),
        ] {
            let (field, _) = param.split_once('.').unwrap_or((param, ""));
            let value = if param == "logit_bias.1" { json!({"1": value}) } else { value };
            let mut fields = json!({"max_tokens": 20});
            fields[field] = value;
            let body = request_for(path, fields);
            check_body(&rig, path, &body, param, "invalid_value").await;
        }
        let two = request_for(path, json!({"guided_regex": "a", "response_format": {"type": "json_object"}}));
        check_body(&rig, path, &two, "guided_regex", "invalid_value").await;
        // Otherwise an answer could fail for want of a token, with a 500 that is the client's fault.
        let disjoint = request_for(path, json!({"guided_choice": ["a"], "allowed_token_ids": [98]}));
        check_body(&rig, path, &disjoint, "allowed_token_ids", "invalid_value").await;
    }
    for (path, fields, param) in [
        (CHAT, json!({"logprobs": 1}), "logprobs"),
        (CHAT, json!({"top_logprobs": 1}), "top_logprobs"),
        (CHAT, json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs"),
        (COMPLETIONS, json!({"logprobs": true}), "logprobs"),
        (COMPLETIONS, json!({"logprobs": 21}), "logprobs"),
        (COMPLETIONS, json!({"n": 128, "prompt": vec!["a"; 9]}), "n"),
        (COMPLETIONS, json!({"prompt": vec!["a"; 1025]}), "prompt"),
    ] {
        check_body(&rig, path, &request_for(path, fields), param, "invalid_value").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_supported_is_named() {
    let rig = Setup::answering("x").start();
    for path in [CHAT, COMPLETIONS] {
        for (param, value) in [("best_of", json!(2)), ("suffix", json!("x")), ("priority", json!(1))] {
            let body = request_for(path, json!({param: value}));
            check_body(&rig, path, &body, param, "unsupported_parameter").await;
        }
        let body = request_for(path, json!({"temprature": 1}));
        check_body(&rig, path, &body, "temprature", "unknown_parameter").await;
        for (name, value) in [("include_obfuscation", json!(true)), ("prompt_logprobs", json!(1))] {
            let mut body = request_for(path, json!({"stream": true}));
            let param = match name {
                "prompt_logprobs" => {
                    body[name] = value;
                    name.to_owned()
                }
                _ => {
                    body["stream_options"] = json!({name: value});
                    format!("stream_options.{name}")
                }
            };
            check_body(&rig, path, &body, &param, "unsupported_parameter").await;
        }
        let body = request_for(path, json!({"stream": true, "stream_options": {"x": null, "y": 1}}));
        check_body(&rig, path, &body, "stream_options.y", "unknown_parameter").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_and_prompts_are_checked() {
    let rig = Setup::answering("x").start();
    let user = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    for (messages, param, code) in [
        (json!({"messages": null}), "messages", "missing_parameter"),
        (json!({"messages": []}), "messages", "invalid_value"),
        (json!({"messages": "hi"}), "messages", "invalid_value"),
        (json!({"messages": ["hi"]}), "messages[0]", "invalid_value"),
        (json!({"messages": [{"content": "x"}]}), "messages[0].role", "invalid_value"),
        (json!({"messages": [{"role": "king", "content": "x"}]}), "messages[0].role", "invalid_value"),
        (
            json!({"messages": [{"role": "function", "content": "x"}]}),
            "messages[0].role",
            "unsupported_parameter",
        ),
        (json!({"messages": [{"role": "tool", "content": null}]}), "messages[0].content", "invalid_value"),
        (
            json!({"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}]}),
            "messages[0].tool_calls",
            "invalid_value",
        ),
        (
            json!({"continue_final_message": true, "add_generation_prompt": true}),
            "continue_final_message",
            "invalid_value",
        ),
        (json!({"chat_template": "x"}), "chat_template", "unsupported_parameter"),
        (json!({"chat_template_kwargs": {"messages": []}}), "chat_template_kwargs", "invalid_value"),
        (json!({"reasoning_effort": "vast"}), "reasoning_effort", "invalid_value"),
        (json!({"tools": [{"type": "function"}]}), "tools[0].function", "invalid_value"),
        (json!({"tools": [{"type": "web"}]}), "tools[0].type", "unsupported_parameter"),
        (
            json!({"tools": [{"type": "function", "function": {"name": "a b"}}]}),
            "tools[0].function.name",
            "invalid_value",
        ),
        (
            json!({"tools": [{"type": "function", "function": {"name": "f"}}]}),
            "tools",
            "unsupported_parameter",
        ),
        (json!({"tool_choice": "required"}), "tool_choice", "invalid_value"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content", "invalid_value"),
        (user(json!(3)), "messages[0].content", "invalid_value"),
        (user(json!([{"type": "image_url"}])), "messages[0].content[0].type", "unsupported_parameter"),
        (user(json!([{"type": "text"}])), "messages[0].content[0].text", "invalid_value"),
        (
            json!({"messages": [{"role": "assistant", "content": "x", "tool_calls": [{}]}]}),
            "messages[0].tool_calls[0].function",
            "invalid_value",
        ),
        (
            json!({"messages": [{"role": "user", "content": "x", "foo": 1}]}),
            "messages[0].foo",
            "unknown_parameter",
        ),
    ] {
        check_body(&rig, CHAT, &chat(messages), param, code).await;
    }
    for (prompt, param, code) in [
        (json!(null), "prompt", "missing_parameter"),
        (json!([]), "prompt", "invalid_value"),
        (json!([[]]), "prompt[0]", "invalid_value"),
        (json!(""), "prompt", "invalid_value"),
        (json!({}), "prompt", "invalid_value"),
        (json!([true]), "prompt[0]", "invalid_value"),
        (json!([1, "a"]), "prompt", "invalid_value"),
        (json!([257]), "prompt", "invalid_value"),
        (json!([-1]), "prompt", "invalid_value"),
        (json!(["a", [1, "b"]]), "prompt[1]", "invalid_value"),
        (json!(["a", 7]), "prompt[1]", "invalid_value"),
    ] {
        check_body(&rig, COMPLETIONS, &completion(json!({"prompt": prompt})), param, code).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prompt_and_answer_must_fit_the_context() {
    let rig = Setup::answering("x").with(|setup| setup.engine_limits.max_model_len = 32).start();
    let code = "context_length_exceeded";
    check_body(&rig, COMPLETIONS, &completion(json!({"max_tokens": 31})), "prompt", code).await;
    check_body(&rig, COMPLETIONS, &completion(json!({"prompt": "x".repeat(32)})), "prompt", code).await;
    check_body(&rig, COMPLETIONS, &completion(json!({"prompt": "x".repeat(33 * 128)})), "prompt", code).await;
    check_body(&rig, CHAT, &chat(json!({"max_tokens": 14})), "messages", code).await;
    check_body(&rig, CHAT, &chat(json!({"max_tokens": u64::MAX >> 1})), "messages", code).await;
    let message = rig.post(COMPLETIONS, &completion(json!({"max_tokens": 31}))).await.json();
    let message = message["error"]["message"].as_str().unwrap().to_owned();
    for number in ["32 tokens", "33 tokens", "2 in the prompt", "31 in the completion"] {
        assert!(message.contains(number), "{message}");
    }
    let _ = rig.journey();
    // The longest that fits.
    assert_eq!(rig.post(COMPLETIONS, &completion(json!({"max_tokens": 30}))).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_smaller_than_the_model_bounds_the_context() {
    let rig = Setup::answering("x")
        .with(|setup| (setup.engine_limits.num_kv_blocks, setup.engine_limits.block_size) = (64, 16))
        .start();
    let body = completion(json!({"prompt": "x".repeat(1_100)}));
    check_body(&rig, COMPLETIONS, &body, "prompt", "context_length_exceeded").await;
    assert_eq!(rig.post(COMPLETIONS, &completion(json!({}))).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_model_is_not_found() {
    let rig = Setup::answering("x").start();
    for path in [CHAT, COMPLETIONS] {
        let answer = rig.post(path, &request_for(path, json!({"model": "gpt-9"}))).await;
        check(&rig, &answer, 404, Some("model"), "model_not_found", "validation_error: model_not_found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_no_json_object() {
    let rig = Setup::answering("x").start();
    for body in ["", "{", "nonsense", "[1]", "\"text\"", "{\"prompt\": \"\u{0}", &"[".repeat(500)] {
        let request = Request::post(CHAT).header("content-type", "application/json");
        let answer = rig.ask(request.body(Body::from(body.to_owned())).unwrap()).await;
        check(&rig, &answer, 400, None, "invalid_json", "validation_error: invalid_json");
    }
    let not_utf8 = Request::post(CHAT).body(Body::from(&b"{\"model\": \"\xff\"}"[..])).unwrap();
    check(&rig, &rig.ask(not_utf8).await, 400, None, "invalid_json", "validation_error: invalid_json");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_the_wrong_kind() {
    let rig = Setup::answering("x").start();
    let code = "unsupported_media_type";
    for (name, value) in [
        ("content-type", "application/x-www-form-urlencoded"),
        ("content-type", "text/plain; charset=utf-8"),
        ("content-encoding", "gzip"),
    ] {
        let mut request = post(CHAT, &chat(json!({})));
        request.headers_mut().insert(name, value.parse().unwrap());
        let answer = rig.ask(request).await;
        check(&rig, &answer, 415, None, code, "validation_error: unsupported_media_type");
    }
    for content_type in ["application/json; charset=utf-8", "Application/JSON", "application/problem+json"] {
        let mut request = post(CHAT, &chat(json!({})));
        request.headers_mut().insert("content-type", content_type.parse().unwrap());
        assert_eq!(rig.ask(request).await.status, StatusCode::OK, "{content_type}");
    }
    let mut unnamed = post(CHAT, &chat(json!({})));
    unnamed.headers_mut().remove("content-type");
    assert_eq!(rig.ask(unnamed).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_too_large_or_too_slow() {
    let rig = Setup::answering("x")
        .with(|setup| {
            setup.limits.max_body_bytes = 1_000;
            setup.limits.body_timeout = Duration::from_millis(50);
        })
        .start();
    let (code, span_ending) = ("request_too_large", "validation_error: request_too_large");
    let large = completion(json!({"prompt": "x".repeat(1_000)}));
    check(&rig, &rig.post(COMPLETIONS, &large).await, 413, None, code, span_ending);

    // One that does not say how large it is.
    type Frame = Result<http_body::Frame<bytes::Bytes>, std::convert::Infallible>;
    let frame = || -> Frame { Ok(http_body::Frame::data(bytes::Bytes::from(vec![b' '; 600]))) };
    let unsized_body = Body::new(StreamBody::new(futures_util::stream::iter([frame(), frame()])));
    let request = Request::post(COMPLETIONS).body(unsized_body).unwrap();
    check(&rig, &rig.ask(request).await, 413, None, code, span_ending);

    let stalled = Body::new(StreamBody::new(futures_util::stream::pending::<Frame>()));
    let request = Request::post(COMPLETIONS).body(stalled).unwrap();
    check(&rig, &rig.ask(request).await, 408, None, "request_timeout", "timeout: request_timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_that_do_not_exist() {
    let rig = Setup::answering("x").start();
    let answer = rig.get("/v1/nothing").await;
    check(&rig, &answer, 404, None, "not_found", "validation_error: not_found");
    let answer = rig.get(CHAT).await;
    check(&rig, &answer, 405, None, "method_not_allowed", "validation_error: method_not_allowed");
    assert_eq!(answer.header("allow"), Some("POST"));

    // The body of an answer to HEAD is never asked for; the span ends all the same.
    let head = Request::head("/v1/nothing").body(Body::empty()).unwrap();
    assert_eq!(rig.send(head).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(ending(&rig.journey()), "validation_error: not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_a_template_does_not_chat() {
    let rig = Setup::answering("x").with(|setup| setup.has_template = false).start();
    let answer = rig.post(CHAT, &chat(json!({}))).await;
    check(&rig, &answer, 400, None, "no_chat_template", "validation_error: no_chat_template");
    assert_eq!(rig.post(COMPLETIONS, &completion(json!({}))).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_engine_refuses() {
    let rig = Setup::answering("x").start();
    let fault = || Arc::new(EngineFault { message: "gone".to_owned() });
    for (refusal, status, param, code, span_ending) in [
        (
            SubmitError::PromptTooLong { tokens: 9, limit: 8 },
            400,
            Some("prompt"),
            "context_length_exceeded",
            "validation_error: context_length_exceeded",
        ),
        (
            SubmitError::NeverFits { tokens: 9, capacity: 8 },
            400,
            Some("prompt"),
            "invalid_prompt",
            "validation_error: invalid_prompt",
        ),
        (
            SubmitError::InvalidPrompt("because".into()),
            400,
            Some("prompt"),
            "invalid_prompt",
            "validation_error: invalid_prompt",
        ),
        (SubmitError::Overloaded { waiting: 7 }, 429, None, "overloaded", "overloaded: overloaded"),
        (SubmitError::ShuttingDown, 503, None, "shutdown", "shutdown: shutdown"),
        (SubmitError::EngineDead(fault()), 503, None, "engine_dead", "engine_dead: engine_dead"),
    ] {
        rig.engine.refuse_next(refusal);
        let answer = rig.post(COMPLETIONS, &completion(json!({"stream": true}))).await;
        assert_eq!(answer.header("retry-after"), (status == 429).then_some("1"));
        check(&rig, &answer, status, param, code, span_ending);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_asked_for_when_there_are_some() {
    let rig = Setup::answering("x").with(|setup| setup.api_keys = vec!["one".into(), "two".into()]).start();
    for key in [None, Some("Bearer three"), Some("Bearer on"), Some("one"), Some("Bearer ")] {
        for path in [CHAT, "/v1/models", "/v1/nothing", "/nothing"] {
            let mut request = post(path, &chat(json!({})));
            if let Some(key) = key {
                request.headers_mut().insert("authorization", key.parse().unwrap());
            }
            let answer = rig.ask(request).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path} {key:?}");
            assert_eq!(answer.error().1, "invalid_api_key");
            assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
            if path != "/v1/models" {
                assert_eq!(ending(&rig.journey()), "validation_error: invalid_api_key");
            }
        }
    }
    for key in ["Bearer one", "bearer two"] {
        let mut request = post(CHAT, &chat(json!({})));
        request.headers_mut().insert("authorization", key.parse().unwrap());
        assert_eq!(rig.ask(request).await.status, StatusCode::OK);
    }
    for path in ["/health", "/ping", "/version", "/metrics"] {
        assert_eq!(rig.get(path).await.status, StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_text_of_the_client_reaches_the_journey() {
    let rig = Setup::answering("x").start();
    let secret = "my-secret-words";
    let bodies = [
        format!("{{\"prompt\": {secret}}}"),
        completion(json!({"prompt": {"a": secret}})).to_string(),
        completion(json!({"stop": [[secret]]})).to_string(),
        completion(json!({secret: secret})).to_string(),
        completion(json!({"model": secret})).to_string(),
        completion(json!({"prompt": secret, "max_tokens": 100_000})).to_string(),
        completion(json!({"prompt": secret})).to_string(),
    ];
    for body in bodies {
        rig.ask(Request::post(COMPLETIONS).body(Body::from(body)).unwrap()).await;
        let journey = rig.journey();
        let recorded = format!("{journey:?}");
        assert!(!recorded.contains(secret), "{recorded}");
    }
}
