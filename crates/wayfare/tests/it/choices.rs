//! Several answers to a request: choices, prompts, and what each begins with.

use serde_json::{Value, json};

use crate::client::{Response, post};
use crate::rig::{CHAT, COMPLETIONS, Rig, Setup, request};
use crate::server::ServerProcess;

fn start(output: &str) -> ServerProcess {
    let sizes = ["--num-kv-blocks", "101", "--max-model-len", "300", "--sim-profile", "instant"];
    ServerProcess::simulated(&[&sizes[..], &["--sim-output", output]].concat(), &[])
}

fn ask(server: &ServerProcess, path: &str, body: &Value) -> Response {
    let response = post(&server.address, path, &[], &body.to_string());
    assert_eq!(response.status, 200, "{}", response.body);
    response
}

/// The texts of all choices by index, streamed or not, of either route.
pub(crate) fn texts(response: &Response) -> Vec<String> {
    let of = |choice: &Value| {
        let content = choice.get("text").or_else(|| choice["delta"].get("content"));
        content.or_else(|| choice["message"].get("content")).and_then(Value::as_str).unwrap_or("").to_owned()
    };
    let mut texts: Vec<String> = Vec::new();
    let mut take = |body: &Value| {
        for choice in body["choices"].as_array().unwrap() {
            let index = choice["index"].as_u64().unwrap() as usize;
            texts.resize(texts.len().max(index + 1), String::new());
            texts[index].push_str(&of(choice));
        }
    };
    if response.body.starts_with("data:") {
        let chunks = response.events().into_iter().filter(|data| *data != "[DONE]");
        chunks.for_each(|data| take(&serde_json::from_str(data).unwrap()));
    } else {
        take(&response.json());
    }
    texts
}

/// The tokens of a text.
fn tokens(server: &ServerProcess, text: &str) -> Value {
    let more = json!({"prompt": text, "max_tokens": 1, "return_token_ids": true});
    ask(server, COMPLETIONS, &request(COMPLETIONS, more)).json()["choices"][0]["prompt_token_ids"].clone()
}

#[test]
fn each_choice_is_the_answer_that_its_seed_gives_alone() {
    let server = start("random");
    for path in [CHAT, COMPLETIONS] {
        let of = |n: u64, seed: u64, stream: bool| {
            let more = json!({"n": n, "seed": seed, "max_tokens": 30, "stream": stream});
            texts(&ask(&server, path, &request(path, more)))
        };
        let three = of(3, 7, false);
        let alone = [of(1, 7, false), of(1, 8, false), of(1, 9, false)].concat();
        assert_eq!(three, alone);
        assert!(three[0] != three[1] && three[1] != three[2]);
        assert_eq!(of(3, 7, true), three);
    }
}

#[test]
fn usage_counts_a_prompt_once_and_every_answer() {
    let server = start("random");
    let usage = |body: &Value| {
        let of = |field: &str| body["usage"][field].as_u64().unwrap();
        (of("prompt_tokens"), of("completion_tokens"), of("total_tokens"))
    };
    let more = json!({"prompt": ["abc", [65, 66]], "n": 3, "max_tokens": 5});
    let whole = ask(&server, COMPLETIONS, &request(COMPLETIONS, more.clone())).json();
    assert_eq!(usage(&whole), (5, 30, 35));
    let mut streamed = request(COMPLETIONS, more);
    streamed["stream"] = json!(true);
    streamed["stream_options"] = json!({"include_usage": true, "continuous_usage_stats": true});
    let response = ask(&server, COMPLETIONS, &streamed);
    let events = response.events();
    let chunks: Vec<Value> =
        events[..events.len() - 1].iter().map(|data| serde_json::from_str(data).unwrap()).collect();
    let (last, others) = chunks.split_last().unwrap();
    assert_eq!(usage(last), (5, 30, 35));
    assert_eq!(last["choices"], json!([]));
    // Every chunk says how far it is, and none goes back.
    let counts: Vec<u64> = others.iter().map(|chunk| usage(chunk).1).collect();
    assert!(counts.is_sorted() && counts[0] >= 1, "{counts:?}");
}

#[test]
fn several_prompts_are_answered_in_their_order_and_may_be_echoed() {
    let server = start("echo");
    let prompts = json!(["one", tokens(&server, "two"), "three"]);
    for stream in [false, true] {
        let more = json!({"prompt": prompts, "n": 2, "max_tokens": 50, "stream": stream});
        let said = texts(&ask(&server, COMPLETIONS, &request(COMPLETIONS, more)));
        assert_eq!(said, ["one", "one", "two", "two", "three", "three"]);
        let more = json!({"prompt": prompts, "max_tokens": 2, "echo": true, "stream": stream});
        let said = texts(&ask(&server, COMPLETIONS, &request(COMPLETIONS, more)));
        assert_eq!(said, ["oneon", "twotw", "threeth"]);
        // Nothing but the prompt.
        let more = json!({"prompt": "one", "max_tokens": 0, "echo": true, "stream": stream});
        let response = ask(&server, COMPLETIONS, &request(COMPLETIONS, more));
        assert_eq!(texts(&response), ["one"]);
    }
    let more = json!({"prompt": "one", "max_tokens": 0, "echo": true});
    let body = ask(&server, COMPLETIONS, &request(COMPLETIONS, more)).json();
    assert_eq!(body["usage"]["completion_tokens"], 0);
    assert_eq!(body["choices"][0]["finish_reason"], "length");
}

#[test]
fn a_prompt_is_cut_where_that_is_asked_for() {
    let server = start("echo");
    let of = |more: Value| {
        let body = ask(&server, COMPLETIONS, &request(COMPLETIONS, more)).json();
        (body["choices"][0]["text"].as_str().unwrap().to_owned(), body["usage"]["prompt_tokens"].clone())
    };
    let cut = json!({"prompt": "abcdef", "truncate_prompt_tokens": 2, "max_tokens": 9});
    assert_eq!(of(cut), ("ef".to_owned(), json!(2)));
    let fits = json!({"prompt": "x".repeat(400), "truncate_prompt_tokens": -1, "max_tokens": 100});
    assert_eq!(of(fits), ("x".repeat(100), json!(200)));
}

#[test]
fn the_ids_of_tokens_are_shown_when_they_are_asked_for() {
    let server = start("echo");
    let more = json!({"prompt": ["ab", "c"], "max_tokens": 9, "return_token_ids": true});
    let whole = ask(&server, COMPLETIONS, &request(COMPLETIONS, more.clone())).json();
    let prompt = |index: usize| whole["choices"][index]["prompt_token_ids"].as_array().unwrap();
    assert_eq!((prompt(0).len(), prompt(1).len()), (2, 1));
    let ids = whole["choices"][0]["token_ids"].as_array().unwrap();
    assert_eq!(ids[..2], prompt(0)[..]);
    assert_eq!(ids.len(), 3, "the end of text is a token, too");

    let mut streamed = request(COMPLETIONS, more);
    streamed["stream"] = json!(true);
    let response = ask(&server, COMPLETIONS, &streamed);
    let mut of_first = Vec::new();
    let mut prompts = Vec::new();
    for data in response.events().into_iter().filter(|data| *data != "[DONE]") {
        let chunk: Value = serde_json::from_str(data).unwrap();
        let choice = &chunk["choices"][0];
        prompts.extend(choice.get("prompt_token_ids").cloned());
        if choice["index"] == 0 {
            of_first.extend(choice["token_ids"].as_array().unwrap().clone());
        }
    }
    assert_eq!(&of_first, ids);
    assert_eq!(prompts.len(), 2);

    let chat = ask(&server, CHAT, &request(CHAT, json!({"max_tokens": 3, "return_token_ids": true}))).json();
    assert!(chat["prompt_token_ids"].as_array().unwrap().len() > 3);
    assert_eq!(chat["choices"][0]["token_ids"].as_array().unwrap().len(), 3);
}

#[test]
fn a_message_is_continued_and_echoed() {
    let server = start("echo");
    let mut body = json!({
        "messages": [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Well, "},
        ],
        "continue_final_message": true,
        "add_generation_prompt": false,
        "echo": true,
        "max_tokens": 4,
    });
    let continued = texts(&ask(&server, CHAT, &body));
    assert!(continued[0].starts_with("Well, ") && continued[0] != "Well, ", "{continued:?}");
    body["add_generation_prompt"] = json!(true);
    let refused = post(&server.address, CHAT, &[], &body.to_string());
    assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!("continue_final_message")));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sequence_has_a_core_span_that_says_which_it_is() {
    let rig: Rig = Setup::default().start();
    let more = json!({"prompt": ["one", "two", "three"], "n": 2, "max_tokens": 4});
    let answer = rig.post(COMPLETIONS, &request(COMPLETIONS, more)).await;
    assert_eq!(answer.status, 200);
    let journey = tokio::task::block_in_place(|| rig.journey());
    let mut indices: Vec<_> =
        journey.cores.iter().map(|core| core.int("wayfare.sequence_index").unwrap()).collect();
    indices.sort_unstable();
    assert_eq!(indices, [0, 1, 2, 3, 4, 5]);
    assert_eq!(journey.request.int("gen_ai.request.n"), Some(2));
    let tokens: i64 = journey.cores.iter().filter_map(|core| core.int("gen_ai.usage.output_tokens")).sum();
    assert_eq!(journey.request.int("gen_ai.usage.output_tokens"), Some(24));
    assert!(tokens == 0 || tokens == 24);
}
