//! `POST /v1/responses`. The simulated engine in its echo mode says what a model would say.

use serde_json::{Value, json};

use crate::client::{Response, post};
use crate::server::ServerProcess;

const RESPONSES: &str = "/v1/responses";

fn echo(more: &[&str]) -> ServerProcess {
    let sizes = ["--num-kv-blocks", "201", "--max-model-len", "2000", "--sim-profile", "instant"];
    ServerProcess::simulated(&[&sizes[..], &["--sim-output", "echo"], more].concat(), &[])
}

fn ask(server: &ServerProcess, body: &Value) -> Response {
    let response = post(&server.address, RESPONSES, &[], &body.to_string());
    assert_eq!(response.status, 200, "{}", response.body);
    response
}

/// The names of a stream's events, and their data. Each says its own name, and they are numbered.
fn events(response: &Response) -> Vec<(String, Value)> {
    let mut events = Vec::new();
    for event in response.body.split("\n\n").filter(|event| !event.is_empty()) {
        let (name, data) = event.split_once('\n').unwrap();
        let name = name.strip_prefix("event: ").unwrap();
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!((&data["type"], &data["sequence_number"]), (&json!(name), &json!(events.len())));
        events.push((name.to_owned(), data));
    }
    events
}

/// What of two responses is the same when the same was asked: all but ids, times and what was found in the cache.
fn comparable(mut response: Value) -> Value {
    response["usage"]["input_tokens_details"] = Value::Null;
    for field in ["id", "created_at"] {
        response[field] = Value::Null;
    }
    for item in response["output"].as_array_mut().unwrap() {
        item["id"] = Value::Null;
        if item["type"] == "function_call" {
            item["call_id"] = Value::Null;
        }
    }
    response
}

#[test]
fn a_text_is_answered_by_a_message() {
    let server = echo(&[]);
    let asked = json!({
        "input": "Hello there",
        "instructions": "Be kind.",
        "max_output_tokens": 1000,
        "temperature": 0.5,
        "metadata": {"a": "b"},
        "store": false,
    });
    let response = ask(&server, &asked).json();
    assert_eq!((&response["object"], &response["status"]), (&json!("response"), &json!("completed")));
    assert!(response["id"].as_str().unwrap().starts_with("resp_"));
    assert_eq!(
        (&response["instructions"], &response["metadata"]),
        (&asked["instructions"], &asked["metadata"])
    );
    assert_eq!((&response["temperature"], &response["max_output_tokens"]), (&json!(0.5), &json!(1000)));
    let [message] = &response["output"].as_array().unwrap()[..] else { panic!("{response}") };
    assert_eq!((&message["type"], &message["role"]), (&json!("message"), &json!("assistant")));
    let part = &message["content"][0];
    assert_eq!(part["type"], "output_text");
    let text = part["text"].as_str().unwrap();
    assert!(text.contains("Be kind.") && text.contains("Hello there"), "{text:?}");
    let usage = &response["usage"];
    let sum = usage["input_tokens"].as_u64().unwrap() + usage["output_tokens"].as_u64().unwrap();
    assert_eq!(usage["total_tokens"], sum);

    let cut = ask(&server, &json!({"input": "Hello there", "max_output_tokens": 3})).json();
    assert_eq!((&cut["status"], &cut["output"][0]["status"]), (&json!("incomplete"), &json!("incomplete")));
    assert_eq!(cut["incomplete_details"]["reason"], "max_output_tokens");
}

#[test]
fn a_stream_tells_the_same_step_by_step() {
    let server = echo(&["--reasoning-parser", "deepseek_r1", "--tool-call-parser", "hermes"]);
    let tool = json!({"type": "function", "name": "look", "parameters": {"type": "object"}});
    let words = "Hm.</think>It is.<tool_call>{\"name\": \"look\", \"arguments\": {\"at\": 1}}</tool_call>";
    let mut asked = json!({"input": words, "max_output_tokens": 1500, "tools": [tool]});
    let whole = ask(&server, &asked).json();
    let kinds: Vec<&str> =
        whole["output"].as_array().unwrap().iter().map(|item| item["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[..3], ["reasoning", "message", "function_call"]);
    assert_eq!(whole["output"][2]["name"], "look");
    assert_eq!(whole["output"][2]["arguments"], "{\"at\": 1}");
    assert!(whole["usage"]["output_tokens_details"]["reasoning_tokens"].as_u64().unwrap() > 0);

    asked["stream"] = json!(true);
    let events = events(&ask(&server, &asked));
    let names: Vec<&str> = events.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names[..2], ["response.created", "response.in_progress"]);
    assert_eq!(names.last(), Some(&"response.completed"));
    let last = &events.last().unwrap().1["response"];
    assert_eq!(comparable(last.clone()), comparable(whole.clone()));

    // The deltas of each item are its text, between its beginning and its end.
    let mut texts = vec![String::new(); kinds.len()];
    let mut open = None;
    for (name, data) in &events[2..events.len() - 1] {
        let index = data["output_index"].as_u64().unwrap() as usize;
        match &**name {
            "response.output_item.added" => {
                assert_eq!((open.replace(index), &data["item"]["status"]), (None, &json!("in_progress")));
            }
            "response.output_item.done" => assert_eq!(open.take(), Some(index)),
            _ => assert_eq!(open, Some(index), "{name}"),
        }
        if name.ends_with(".delta") {
            texts[index].push_str(data["delta"].as_str().unwrap());
        }
        for (done, field) in [("text.done", "text"), ("arguments.done", "arguments")] {
            if name.ends_with(done) {
                assert_eq!(data[field], json!(texts[index]));
            }
        }
    }
    for (item, text) in whole["output"].as_array().unwrap().iter().zip(&texts) {
        let whole_text = item.get("arguments").unwrap_or(&item["content"][0]["text"]);
        assert_eq!(whole_text, &json!(text));
    }
}

#[test]
fn items_of_a_conversation_become_messages() {
    let server = echo(&["--tool-call-parser", "hermes"]);
    let body = json!({
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "Weather in Rome?"}]},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]},
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
            {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
             "content": [{"type": "output_text", "text": "It is sunny.", "annotations": []}]},
            {"role": "user", "content": "Thanks"},
        ],
        "max_output_tokens": 1500,
    });
    let text = ask(&server, &body).json()["output"][0]["content"][0]["text"].as_str().unwrap().to_owned();
    for part in ["Weather in Rome?", "sunny", "It is sunny.", "Thanks"] {
        assert!(text.contains(part), "{part}: {text:?}");
    }
}

#[test]
fn a_response_has_the_form_and_the_log_probabilities_that_were_asked_for() {
    let server = ServerProcess::start(&["--max-model-len", "512", "--num-kv-blocks", "80"]);
    let schema = json!({"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"],
        "additionalProperties": false});
    let body = json!({
        "input": "Is it?",
        "temperature": 0,
        "max_output_tokens": 200,
        "text": {"format": {"type": "json_schema", "name": "answer", "schema": schema}},
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
    });
    let response = ask(&server, &body).json();
    let part = &response["output"][0]["content"][0];
    let value: Value = serde_json::from_str(part["text"].as_str().unwrap()).unwrap();
    assert!(value["ok"].is_boolean());
    let logprobs = part["logprobs"].as_array().unwrap();
    let text: String = logprobs.iter().map(|entry| entry["token"].as_str().unwrap()).collect();
    assert!(text.starts_with(part["text"].as_str().unwrap()));
    assert!(logprobs.iter().all(|entry| entry["top_logprobs"].as_array().unwrap().len() == 2));
    assert_eq!(response["text"], body["text"]);
}

#[test]
fn what_needs_a_memory_or_is_not_known_is_named() {
    let server = echo(&[]);
    for (more, param, code) in [
        (json!({"previous_response_id": "resp_1"}), "previous_response_id", "unsupported_parameter"),
        (json!({"store": true}), "store", "unsupported_parameter"),
        (json!({"background": true}), "background", "unsupported_parameter"),
        (json!({"truncation": "auto"}), "truncation", "unsupported_parameter"),
        (json!({"max_output_tokens": 0}), "max_output_tokens", "invalid_value"),
        (json!({"max_output_tokens": 99_999}), "input", "context_length_exceeded"),
        (json!({"temperature": 3}), "temperature", "invalid_value"),
        (json!({"messages": []}), "messages", "unknown_parameter"),
        (json!({"n": 2}), "n", "unknown_parameter"),
        (json!({"foo": 2}), "foo", "unknown_parameter"),
        (json!({"input": null}), "input", "missing_parameter"),
        (json!({"input": []}), "input", "invalid_value"),
        (json!({"input": 7}), "input", "invalid_value"),
        (json!({"input": [{"type": "image"}]}), "input[0].type", "unsupported_parameter"),
        (json!({"input": [{"role": "king", "content": "x"}]}), "input", "invalid_value"),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}),
            "input[0].content[0].type",
            "unsupported_parameter",
        ),
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type", "unsupported_parameter"),
        (json!({"reasoning": {"effort": "vast"}}), "reasoning.effort", "invalid_value"),
        (json!({"text": {"format": {"type": "yaml"}}}), "text.format.type", "unsupported_parameter"),
        (json!({"include": ["file_search_call.results"]}), "include", "unsupported_parameter"),
    ] {
        let mut body = json!({"input": "Hi"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let response = post(&server.address, RESPONSES, &[], &body.to_string());
        let error = response.json()["error"].clone();
        assert_eq!(
            (response.status, &error["param"], &error["code"]),
            (400, &json!(param), &json!(code)),
            "{more}"
        );
    }
}
