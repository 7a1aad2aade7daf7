//! Tool calls and reasoning. The simulated engine in its echo mode says what a model would say.

use serde_json::{Value, json};

use crate::client::{Response, post};
use crate::rig::CHAT;
use crate::server::ServerProcess;

fn echo(more: &[&str]) -> ServerProcess {
    let sizes = ["--num-kv-blocks", "201", "--max-model-len", "2000", "--sim-profile", "instant"];
    ServerProcess::simulated(&[&sizes[..], &["--sim-output", "echo"], more].concat(), &[])
}

fn ask(server: &ServerProcess, body: &Value) -> Response {
    let response = post(&server.address, CHAT, &[], &body.to_string());
    assert_eq!(response.status, 200, "{}", response.body);
    response
}

fn said(words: &str, more: Value) -> Value {
    let mut body = json!({"messages": [{"role": "user", "content": words}], "max_tokens": 1000});
    let Value::Object(more) = more else { panic!("not an object: {more}") };
    body.as_object_mut().unwrap().extend(more);
    body
}

fn weather() -> Value {
    json!([{
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather at a place",
            "parameters": {
                "type": "object",
                "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"type": "integer", "maximum": 9, "minimum": 0}},
                "required": ["city", "days"],
                "additionalProperties": false,
            },
        },
    }])
}

/// The message and the finish reason of an answer, streamed or not; ids of calls are left out.
fn message(response: &Response) -> (Value, String) {
    if !response.body.starts_with("data:") {
        let choice = &response.json()["choices"][0];
        let message = &choice["message"];
        let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
        let calls: Vec<Value> = calls
            .iter()
            .map(|call| {
                assert!(call["id"].as_str().is_some_and(|id| !id.is_empty()) && call["type"] == "function");
                call["function"].clone()
            })
            .collect();
        let all = json!({
            "content": message["content"].as_str().unwrap_or(""),
            "reasoning": message["reasoning"].as_str().unwrap_or(""),
            "calls": calls,
        });
        return (all, choice["finish_reason"].as_str().unwrap().to_owned());
    }
    let (mut content, mut reasoning, mut finish) = (String::new(), String::new(), String::new());
    let mut calls: Vec<(String, String)> = Vec::new();
    for data in response.events().into_iter().filter(|data| *data != "[DONE]") {
        let chunk: Value = serde_json::from_str(data).unwrap();
        let choice = &chunk["choices"][0];
        finish.push_str(choice["finish_reason"].as_str().unwrap_or(""));
        let delta = &choice["delta"];
        content.push_str(delta["content"].as_str().unwrap_or(""));
        reasoning.push_str(delta["reasoning"].as_str().unwrap_or(""));
        for call in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().unwrap() as usize;
            if index == calls.len() {
                assert!(call["id"].as_str().is_some_and(|id| !id.is_empty()) && call["type"] == "function");
                calls.push((call["function"]["name"].as_str().unwrap().to_owned(), String::new()));
            }
            calls[index].1.push_str(call["function"]["arguments"].as_str().unwrap_or(""));
        }
    }
    let calls: Vec<Value> =
        calls.into_iter().map(|(name, arguments)| json!({"name": name, "arguments": arguments})).collect();
    (json!({"content": content, "reasoning": reasoning, "calls": calls}), finish)
}

#[test]
fn calls_of_the_model_s_own_accord_are_read_in_its_form() {
    for (parser, words) in [
        (
            "hermes",
            "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome\", \"days\": 2}}\n</tool_call>",
        ),
        (
            "mistral",
            "[TOOL_CALLS][{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome\", \"days\": 2}}]",
        ),
    ] {
        let server = echo(&["--tool-call-parser", parser, "--enable-auto-tool-choice"]);
        let words = format!("Let me look. {words}");
        for stream in [false, true] {
            let body = said(&words, json!({"tools": weather(), "stream": stream}));
            let (message, finish) = message(&ask(&server, &body));
            assert_eq!(finish, "tool_calls");
            let call = &message["calls"][0];
            assert_eq!(call["name"], "get_weather", "{message}");
            let arguments: Value = serde_json::from_str(call["arguments"].as_str().unwrap()).unwrap();
            assert_eq!(arguments, json!({"city": "Rome", "days": 2}));
            assert!(message["content"].as_str().unwrap().contains("Let me look."), "{message}");
        }
        // A client that gives no tools, or wants none, gets the text as it is.
        for more in [json!({}), json!({"tools": weather(), "tool_choice": "none"})] {
            let (message, finish) = message(&ask(&server, &said(&words, more)));
            assert!(message["content"].as_str().unwrap().contains(&words), "{message}");
            assert_eq!((&message["calls"], &*finish), (&json!([]), "stop"));
        }
    }
}

#[test]
fn demanded_calls_come_from_any_model() {
    let sizes = ["--max-model-len", "512", "--num-kv-blocks", "80", "--max-num-seqs", "4"];
    let model = ServerProcess::start(&sizes);
    let simulated = echo(&[]);
    for server in [&model, &simulated] {
        for choice in [json!("required"), json!({"type": "function", "function": {"name": "get_weather"}})] {
            for stream in [false, true] {
                let more = json!({"tools": weather(), "tool_choice": choice, "stream": stream,
                    "parallel_tool_calls": false, "max_tokens": 120});
                let (message, finish) = message(&ask(server, &said("Paris?", more)));
                let calls = message["calls"].as_array().unwrap();
                assert_eq!((calls.len(), &*finish), (1, "tool_calls"), "{message}");
                let arguments: Value = serde_json::from_str(calls[0]["arguments"].as_str().unwrap()).unwrap();
                assert!(["Paris", "Rome"].contains(&arguments["city"].as_str().unwrap()));
                assert!(arguments["days"].is_u64());
                assert_eq!(message["content"], "");
            }
        }
    }
    // A model whose form of calls is not known cannot be left to call as it likes.
    let auto = post(&model.address, CHAT, &[], &said("Hi", json!({"tools": weather()})).to_string());
    assert_eq!((auto.status, &auto.json()["error"]["param"]), (400, &json!("tools")));
}

#[test]
fn results_of_calls_go_back_to_the_model() {
    let server = echo(&["--tool-call-parser", "hermes"]);
    let call = json!({"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\": \"Rome\"}"}});
    let body = json!({
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Weather"}, {"type": "text", "text": "in Rome?"}]},
            {"role": "assistant", "content": null, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        ],
        "tools": weather(),
        "max_tokens": 600,
    });
    let (message, _) = message(&ask(&server, &body));
    let text = message["content"].as_str().unwrap();
    assert!(text.contains("sunny") && text.contains("in Rome?"), "{text:?}");
}

#[test]
fn reasoning_is_told_apart_and_left_out_when_it_is_not_wanted() {
    let server = echo(&["--reasoning-parser", "deepseek_r1", "--tool-call-parser", "hermes"]);
    let words = "I think.</think>It is.<tool_call>{\"name\": \"get_weather\", \"arguments\": {}}</tool_call>";
    for stream in [false, true] {
        let (all, finish) =
            message(&ask(&server, &said(words, json!({"stream": stream, "tools": weather()}))));
        assert!(all["reasoning"].as_str().unwrap().ends_with("I think."), "{all}");
        assert!(all["content"].as_str().unwrap().starts_with("It is."), "{all}");
        assert_eq!((all["calls"].as_array().unwrap().len(), &*finish), (1, "tool_calls"));
        let more = json!({"stream": stream, "include_reasoning": false});
        let (without, _) = message(&ask(&server, &said(words, more)));
        assert_eq!(without["reasoning"], "");
        assert!(without["content"].as_str().unwrap().starts_with("It is."), "{without}");
    }
}
