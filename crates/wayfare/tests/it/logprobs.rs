//! Log-probabilities, of the default model.

use serde_json::{Value, json};

use crate::client::{Response, post};
use crate::rig::{CHAT, COMPLETIONS, request};
use crate::server::ServerProcess;

fn start(more: &[&str]) -> ServerProcess {
    let sizes = ["--max-model-len", "512", "--num-kv-blocks", "80", "--max-num-seqs", "4"];
    ServerProcess::start(&[&sizes, more].concat())
}

fn ask(server: &ServerProcess, path: &str, body: &Value) -> Response {
    let response = post(&server.address, path, &[], &body.to_string());
    assert_eq!(response.status, 200, "{}", response.body);
    response
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
}

/// The `logprobs` of the first choice of a chat, all chunks put together.
fn chat_content(response: &Response) -> Vec<Value> {
    let of = |body: &Value| body["choices"][0]["logprobs"]["content"].as_array().cloned().unwrap_or_default();
    if !response.body.starts_with("data:") {
        return of(&response.json());
    }
    let chunks = response.events().into_iter().filter(|data| *data != "[DONE]");
    chunks.flat_map(|data| of(&serde_json::from_str(data).unwrap())).collect()
}

#[test]
fn a_chat_shows_each_token_and_the_likely_ones_beside_it() {
    let server = start(&[]);
    let more = json!({"max_tokens": 12, "temperature": 0, "logprobs": true, "top_logprobs": 3});
    let whole = ask(&server, CHAT, &request(CHAT, more.clone()));
    let content = chat_content(&whole);
    let text: String = content.iter().map(|entry| entry["token"].as_str().unwrap()).collect();
    let tokens = whole.json()["usage"]["completion_tokens"].as_u64().unwrap();
    assert_eq!(content.len() as u64, tokens);
    assert!(text.starts_with(&whole.text()), "{text:?} {:?}", whole.text());
    for entry in &content {
        let bytes: Vec<u8> = numbers(&entry["bytes"]).into_iter().map(|byte| byte as u8).collect();
        assert_eq!(String::from_utf8_lossy(&bytes), entry["token"].as_str().unwrap());
        let top = entry["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        // What is most likely is what comes at temperature 0.
        assert_eq!(top[0]["token"], entry["token"]);
        assert_eq!(top[0]["logprob"], entry["logprob"]);
        let logprobs: Vec<f64> = top.iter().map(|entry| entry["logprob"].as_f64().unwrap()).collect();
        assert!(logprobs.is_sorted_by(|a, b| a >= b), "{logprobs:?}");
        let total: f64 = logprobs.iter().map(|logprob| logprob.exp()).sum();
        assert!(total > 0.05 && total < 1.0001, "{total}");
    }
    let mut streamed = request(CHAT, more);
    streamed["stream"] = json!(true);
    assert_eq!(chat_content(&ask(&server, CHAT, &streamed)), content);
    streamed["return_tokens_as_token_ids"] = json!(true);
    let first = &chat_content(&ask(&server, CHAT, &streamed))[0];
    assert!(first["token"].as_str().unwrap().starts_with("token_id:"));
}

/// The same tokens have the same log-probabilities whether they were generated one by one or read as a prompt, in one
/// piece or in chunks.
#[test]
fn a_prompt_that_is_read_has_the_log_probabilities_of_one_that_was_written() {
    let of = |server: &ServerProcess, more: Value| {
        let body = ask(server, COMPLETIONS, &request(COMPLETIONS, more)).json();
        body["choices"][0].clone()
    };
    let server = start(&[]);
    let prompt = "The capital of France is";
    let more = json!({"prompt": prompt, "max_tokens": 24, "temperature": 0, "logprobs": 0});
    let written = of(&server, more.clone());
    let text = format!("{prompt}{}", written["text"].as_str().unwrap());
    let echo = json!({"prompt": text, "max_tokens": 0, "echo": true, "logprobs": 2, "prompt_logprobs": 1});
    let read = of(&server, echo.clone());
    assert_eq!(read["text"], json!(text));
    let logprobs = &read["logprobs"];
    let tokens: Vec<&str> =
        logprobs["tokens"].as_array().unwrap().iter().map(|token| token.as_str().unwrap()).collect();
    assert_eq!(tokens.concat(), text);
    let offsets = numbers(&logprobs["text_offset"]);
    for (token, offset) in tokens.iter().zip(offsets) {
        assert!(text[offset as usize..].starts_with(token));
    }
    assert_eq!(logprobs["token_logprobs"][0], Value::Null);
    assert_eq!(logprobs["top_logprobs"][0], Value::Null);
    let all: Vec<f64> =
        logprobs["token_logprobs"].as_array().unwrap()[1..].iter().map(|v| v.as_f64().unwrap()).collect();
    let of_written = numbers(&written["logprobs"]["token_logprobs"]);
    let of_read = &all[all.len() - of_written.len()..];
    // The model's products are quantised, and rows are rounded with others beside them.
    for (read, written) in of_read.iter().zip(&of_written) {
        assert!((read - written).abs() < 0.05, "{of_read:?} {of_written:?}");
    }
    let prompt_logprobs = read["prompt_logprobs"].as_array().unwrap();
    assert_eq!(prompt_logprobs[0], Value::Null);
    assert_eq!(prompt_logprobs.len(), tokens.len());
    for (entry, logprob) in prompt_logprobs[1..].iter().zip(&all) {
        let entries: Vec<&Value> = entry.as_object().unwrap().values().collect();
        assert!(entries.iter().any(|entry| entry["logprob"].as_f64() == Some(*logprob)));
        assert!(entries.iter().any(|entry| entry["rank"] == 1));
    }

    let chunked = start(&["--max-num-batched-tokens", "7"]);
    let in_chunks = of(&chunked, echo);
    let in_chunks: Vec<f64> = in_chunks["logprobs"]["token_logprobs"].as_array().unwrap()[1..]
        .iter()
        .map(|v| v.as_f64().unwrap())
        .collect();
    assert_eq!(in_chunks.len(), all.len());
    for (chunk, whole) in in_chunks.iter().zip(&all) {
        assert!((chunk - whole).abs() < 0.05, "{chunk} {whole}");
    }
}
