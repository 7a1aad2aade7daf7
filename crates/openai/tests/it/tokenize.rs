//! What a prompt is in tokens, and back.

use expect_test::expect;
use serde_json::json;

use crate::rig::{CHAT, Setup, chat, ending, tokens};

const TOKENIZE: &str = "/tokenize";
const DETOKENIZE: &str = "/detokenize";

#[tokio::test(flavor = "multi_thread")]
async fn a_text_has_its_tokens_and_their_spellings() {
    let rig = Setup::answering("x").start();
    let answer = rig.post(TOKENIZE, &json!({"prompt": "a é"})).await;
    expect![[r#"{"count":4,"max_model_len":4096,"tokens":[97,32,195,169],"token_strs":null}"#]]
        .assert_eq(&answer.text);
    let answer =
        rig.post(TOKENIZE, &json!({"model": "tiny", "prompt": "a é", "return_token_strs": true})).await;
    expect![[r#"{"count":4,"max_model_len":4096,"tokens":[97,32,195,169],"token_strs":["a","Ġ","Ã","©"]}"#]]
        .assert_eq(&answer.text);
    assert_eq!(rig.post(TOKENIZE, &json!({"prompt": ""})).await.json()["count"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_have_the_tokens_that_a_chat_request_would_have() {
    let rig = Setup::answering("x").start();
    rig.post(CHAT, &chat(json!({}))).await;
    let prompt = rig.submitted(1).prompt;
    let answer = rig.post(TOKENIZE, &chat(json!({}))).await.json();
    assert_eq!(answer["tokens"], json!(*prompt));
    let without = rig.post(TOKENIZE, &chat(json!({"add_generation_prompt": false}))).await.json();
    assert_eq!(without["tokens"], json!(tokens("[user]Hi")));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_have_their_text() {
    let rig = Setup::answering("x").start();
    for (tokens, text) in
        [(json!([97, 32, 195, 169, 256]), "a é<eos>"), (json!([]), ""), (json!([195]), "\u{fffd}")]
    {
        let answer = rig.post(DETOKENIZE, &json!({"tokens": tokens})).await;
        assert_eq!(answer.json(), json!({"prompt": text}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_tokenized_is_refused_by_name() {
    let rig = Setup::answering("x").start();
    for (path, body, param, code) in [
        (TOKENIZE, json!({}), "prompt", "missing_parameter"),
        (TOKENIZE, json!({"prompt": 1}), "prompt", "invalid_value"),
        (TOKENIZE, json!({"prompt": "x", "messages": []}), "messages", "invalid_value"),
        (TOKENIZE, json!({"messages": []}), "messages", "invalid_value"),
        (
            TOKENIZE,
            json!({"prompt": "x", "add_generation_prompt": true}),
            "add_generation_prompt",
            "invalid_value",
        ),
        (TOKENIZE, json!({"prompt": "x", "temperature": 1}), "temperature", "unknown_parameter"),
        (TOKENIZE, json!({"prompt": "x", "tools": [{}]}), "tools[0].type", "unsupported_parameter"),
        (TOKENIZE, json!({"prompt": "x".repeat(600_000)}), "prompt", "context_length_exceeded"),
        (DETOKENIZE, json!({}), "tokens", "missing_parameter"),
        (DETOKENIZE, json!({"tokens": ["a"]}), "tokens", "invalid_value"),
        (DETOKENIZE, json!({"tokens": [257]}), "tokens", "invalid_value"),
        (DETOKENIZE, json!({"tokens": [-1]}), "tokens", "invalid_value"),
        (DETOKENIZE, json!({"tokens": vec![97; 4097]}), "tokens", "invalid_value"),
        (DETOKENIZE, json!({"tokens": [1], "n": 1}), "n", "unknown_parameter"),
    ] {
        let answer = rig.post(path, &body).await;
        assert_eq!(answer.status, 400, "{body} {}", answer.text);
        assert_eq!(answer.error(), (Some(param.to_owned()), code.to_owned()), "{body}");
        assert_eq!(ending(&rig.journey()), format!("validation_error: {code}"));
    }
    let answer = rig.post(TOKENIZE, &json!({"prompt": "x", "model": "other"})).await;
    assert_eq!((answer.status.as_u16(), answer.error().1.as_str()), (404, "model_not_found"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokenizing_is_a_request_like_any_other() {
    let rig = Setup::answering("x").with(|setup| setup.api_keys = vec!["key".to_owned()]).start();
    let answer = rig.post(TOKENIZE, &json!({"prompt": "x"})).await;
    assert_eq!(answer.status, 401);
    assert_eq!(ending(&rig.journey()), "validation_error: invalid_api_key");
    let rig = Setup::answering("x").start();
    for (path, body) in [(TOKENIZE, json!({"prompt": "x"})), (DETOKENIZE, json!({"tokens": [97]}))] {
        assert_eq!(rig.post(path, &body).await.status, 200);
        let journey = rig.journey();
        assert_eq!((ending(&journey).as_str(), journey.api().status), ("departed", Some(200)));
        assert_eq!(journey.cell().route(), path);
    }
    rig.shutdown.drain();
    assert_eq!(rig.post(TOKENIZE, &json!({"prompt": "x"})).await.status, 503);
}
