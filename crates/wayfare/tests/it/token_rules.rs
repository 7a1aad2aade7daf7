//! The parameters that change which tokens come, on the default model.

use serde_json::{Value, json};

use crate::client::post;
use crate::rig::{COMPLETIONS, request};
use crate::server::ServerProcess;

struct Answer {
    text: String,
    tokens: Vec<u64>,
    finish_reason: String,
    stop_reason: Value,
}

fn answer(server: &ServerProcess, more: Value) -> Answer {
    let mut body = request(COMPLETIONS, json!({"temperature": 0, "return_token_ids": true}));
    let Value::Object(more) = more else { panic!("not an object: {more}") };
    body.as_object_mut().unwrap().extend(more);
    let response = post(&server.address, COMPLETIONS, &[], &body.to_string());
    assert_eq!(response.status, 200, "{}", response.body);
    let choice = &response.json()["choices"][0];
    Answer {
        text: choice["text"].as_str().unwrap().to_owned(),
        tokens: choice["token_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect(),
        finish_reason: choice["finish_reason"].as_str().unwrap().to_owned(),
        stop_reason: choice["stop_reason"].clone(),
    }
}

#[test]
fn rules_change_what_the_model_says() {
    let server = ServerProcess::start(&["--max-model-len", "256", "--num-kv-blocks", "40"]);
    let ask = |more: Value| answer(&server, more);
    let prompt = "The capital of France is";
    let free = ask(json!({"prompt": prompt, "max_tokens": 24}));
    assert!(free.text.starts_with(" Paris"), "{:?}", free.text);
    let paris = free.tokens[0];

    let banned = ask(json!({"prompt": prompt, "logit_bias": {paris.to_string(): -100}}));
    assert!(!banned.tokens.contains(&paris));
    let word = ask(json!({"prompt": prompt, "bad_words": ["Paris"], "max_tokens": 24}));
    assert!(!word.text.contains("Paris"), "{:?}", word.text);
    let wanted = ask(json!({"prompt": prompt, "logit_bias": {"30": 100}, "max_tokens": 3}));
    assert_eq!(wanted.tokens, [30, 30, 30]);
    let allowed = ask(json!({"prompt": prompt, "allowed_token_ids": [40, 30, paris], "max_tokens": 6}));
    assert!(allowed.tokens.iter().all(|token| [30, 40, paris].contains(token)) && allowed.tokens[0] == paris);

    let repeated = |answer: &Answer| {
        let mut tokens = answer.tokens.clone();
        tokens.sort_unstable();
        tokens.dedup();
        answer.tokens.len() - tokens.len()
    };
    let list = "apple apple apple apple apple";
    let plain = ask(json!({"prompt": list, "max_tokens": 40}));
    assert!(repeated(&plain) > 10, "{:?}", plain.text);
    for penalty in
        [json!({"frequency_penalty": 2}), json!({"presence_penalty": 2}), json!({"repetition_penalty": 2})]
    {
        let mut more = json!({"prompt": list, "max_tokens": 40});
        more.as_object_mut().unwrap().extend(penalty.as_object().unwrap().clone());
        let penalised = ask(more);
        assert!(repeated(&penalised) < repeated(&plain), "{penalty}: {:?}", penalised.text);
    }
}

#[test]
fn stops_wait_for_the_least_number_of_tokens_and_may_stay_in_the_text() {
    let server = ServerProcess::start(&["--max-model-len", "256", "--num-kv-blocks", "40"]);
    let ask = |more: Value| answer(&server, more);
    let prompt = "The capital of France is";
    let free = ask(json!({"prompt": prompt, "max_tokens": 24}));
    let stopped = ask(json!({"prompt": prompt, "stop": "Paris", "max_tokens": 24}));
    assert_eq!((&*stopped.text, &*stopped.finish_reason), (" ", "stop"));
    assert_eq!(stopped.stop_reason, "Paris");
    let included =
        ask(json!({"prompt": prompt, "stop": "Paris", "include_stop_str_in_output": true, "max_tokens": 24}));
    assert_eq!((&*included.text, &*included.finish_reason), (" Paris", "stop"));
    let later = ask(json!({"prompt": prompt, "stop": "Paris", "min_tokens": 10, "max_tokens": 24}));
    assert!(later.text.starts_with(" Paris") && later.tokens.len() > 10);

    // A stop token cannot come before, so the text takes another way there.
    let third = free.tokens[2];
    let at_third = ask(json!({"prompt": prompt, "stop_token_ids": [third], "max_tokens": 24}));
    assert_eq!(at_third.tokens, free.tokens[..3]);
    assert_eq!(at_third.stop_reason, json!(third));
    let not_yet =
        ask(json!({"prompt": prompt, "stop_token_ids": [third], "min_tokens": 8, "max_tokens": 24}));
    assert!(!not_yet.tokens[..8].contains(&third), "{:?}", not_yet.tokens);
}
