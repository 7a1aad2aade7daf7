//! Answers in one piece, and the routes that say how the server is.

use expect_test::expect;
use http::StatusCode;
use serde_json::{Value, json};
use wayfare_engine::FinishReason;
use wayfare_testkit::Reply;

use crate::rig::{CHAT, COMPLETIONS, END_OF_TEXT, Setup, chat, completion, request_for, tokens};

#[tokio::test(flavor = "multi_thread")]
async fn chat_answer() {
    let rig = Setup::answering("Hello.").start();
    let answer = rig.post(CHAT, &chat(json!({}))).await;
    assert_eq!(answer.status, StatusCode::OK);
    expect![[r#"{"id":"chatcmpl-req","object":"chat.completion","created":1700000000,"model":"tiny","choices":[{"index":0,"message":{"role":"assistant","content":"Hello.","refusal":null},"logprobs":null,"finish_reason":"stop","stop_reason":null}],"usage":{"prompt_tokens":19,"completion_tokens":7,"total_tokens":26,"prompt_tokens_details":{"cached_tokens":0}}}"#]].assert_eq(&answer.text);
    // The rendered template, byte by byte.
    assert_eq!(*rig.submitted(1).prompt, *tokens("[user]Hi[assistant]"));
}

#[tokio::test(flavor = "multi_thread")]
async fn completion_answer() {
    let rig = Setup::answering("Hello.").start();
    let answer = rig.post(COMPLETIONS, &completion(json!({}))).await;
    assert_eq!(answer.status, StatusCode::OK);
    expect![[r#"{"id":"cmpl-req","object":"text_completion","created":1700000000,"model":"tiny","choices":[{"index":0,"text":"Hello.","logprobs":null,"finish_reason":"stop","stop_reason":null}],"usage":{"prompt_tokens":2,"completion_tokens":7,"total_tokens":9,"prompt_tokens_details":{"cached_tokens":0}}}"#]].assert_eq(&answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_reach_the_engine() {
    let rig = Setup::answering("x").start();
    let given = json!({
        "temperature": 0.5, "top_p": 0.25, "top_k": 40, "min_p": 0.125, "seed": -1, "max_tokens": 7,
        "stop_token_ids": [10], "ignore_eos": true, "user": "somebody"
    });
    for path in [CHAT, COMPLETIONS] {
        assert_eq!(rig.post(path, &request_for(path, given.clone())).await.status, StatusCode::OK);
    }
    for request in rig.engine.submitted() {
        let sampling = request.sampling;
        assert_eq!((sampling.temperature, sampling.top_p, sampling.min_p), (0.5, 0.25, 0.125));
        assert_eq!((sampling.top_k, sampling.seed, sampling.max_tokens), (40, u64::MAX, 7));
        assert_eq!((&*sampling.stop_token_ids, &*sampling.end_of_text), (&[10][..], &[][..]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn defaults_are_those_of_openai() {
    let rig = Setup::answering("x").start();
    rig.post(CHAT, &chat(json!({"top_k": -1}))).await;
    let of_chat = rig.submitted(1).sampling;
    rig.post(COMPLETIONS, &completion(json!({"top_k": 0}))).await;
    let of_completion = rig.submitted(2).sampling;
    for sampling in [&of_chat, &of_completion] {
        assert_eq!((sampling.temperature, sampling.top_p, sampling.min_p), (1.0, 1.0, 0.0));
        assert_eq!((sampling.top_k, &*sampling.end_of_text), (0, &[END_OF_TEXT][..]));
    }
    assert_eq!(of_chat.max_tokens, 4096 - 19);
    assert_eq!(of_completion.max_tokens, 16);
    assert_ne!(of_chat.seed, of_completion.seed);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newer_name_of_max_tokens_wins() {
    let rig = Setup::answering("x").start();
    rig.post(CHAT, &chat(json!({"max_tokens": 3, "max_completion_tokens": 5}))).await;
    assert_eq!(rig.submitted(1).sampling.max_tokens, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn content_in_parts_and_prompts_in_lists() {
    let rig = Setup::answering("x").start();
    let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
    let messages = json!([
        {"role": "system", "content": "be kind"},
        {"role": "assistant", "content": "so", "tool_calls": null, "refusal": null},
        {"role": "user", "content": parts, "name": "me"}
    ]);
    assert_eq!(rig.post(CHAT, &chat(json!({"messages": messages}))).await.status, StatusCode::OK);
    let expected = "[system]be kind[assistant]so[user]a\nb[assistant]";
    assert_eq!(*rig.submitted(1).prompt, *tokens(expected));

    for (count, prompt) in (2..).zip([json!("ab"), json!(["ab"]), json!([97, 98]), json!([[97, 98]])]) {
        let answer = rig.post(COMPLETIONS, &completion(json!({"prompt": prompt}))).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        assert_eq!(*rig.submitted(count).prompt, [97, 98], "{prompt}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_length_limit_is_said() {
    let rig = Setup::answering("Hello.").start();
    let answer = rig.post(COMPLETIONS, &completion(json!({"max_tokens": 3}))).await.json();
    assert_eq!(answer["choices"][0]["text"], "Hel");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_token_counts_but_is_not_shown() {
    let rig = Setup::by_hand().start();
    let request = crate::rig::post(COMPLETIONS, &completion(json!({"stop_token_ids": [33]})));
    let answer = rig.spawn(request);
    let id = rig.submitted(1).id;
    rig.engine.emit(id, &tokens("He"));
    let stop = wayfare_engine::Terminator::StopToken(33);
    rig.engine.emit_last(id, &tokens("y!"), FinishReason::Stop, Some(stop));
    let answer = answer.await.unwrap().json();
    assert_eq!(answer["choices"][0]["text"], "Hey");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["choices"][0]["stop_reason"], 33);
    assert_eq!(answer["usage"]["completion_tokens"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_string_ends_the_answer_and_the_sequence() {
    // The engine would go on; the stop string lies across two outputs, and text follows it in the second.
    let rig = Setup::by_hand().start();
    let request = crate::rig::post(CHAT, &chat(json!({"stop": ["never", " END"]})));
    let answer = rig.spawn(request);
    let id = rig.submitted(1).id;
    rig.engine.emit(id, &tokens("One E"));
    rig.engine.emit(id, &tokens("ND and more"));
    let answer = answer.await.unwrap().json();
    assert_eq!(answer["choices"][0]["message"]["content"], "One");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["choices"][0]["stop_reason"], " END");
    // Counted up to the token that completed the stop string.
    assert_eq!(answer["usage"]["completion_tokens"], 7);
    assert_eq!(rig.engine.finishes(), [id]);
    assert!(rig.engine.aborts().is_empty());
    let journey = rig.journey();
    assert_eq!(crate::rig::ending(&journey), "departed");
    assert_eq!(crate::rig::core_events(&journey), ["Queued", "Scheduled", "FirstToken", "Finished"]);
    rig.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_a_token_is_an_answer() {
    let rig = Setup::new(|_| Reply::until_end_of_text([], END_OF_TEXT)).start();
    for path in [CHAT, COMPLETIONS] {
        let whole = rig.post(path, &request_for(path, json!({}))).await.json();
        assert_eq!(whole["choices"][0]["finish_reason"], "stop");
        assert_eq!(whole["usage"]["completion_tokens"], 1);
        let streamed = rig.post(path, &request_for(path, json!({"stream": true}))).await.chunks();
        assert_eq!(streamed.last().unwrap()["choices"][0]["finish_reason"], "stop");
    }
    for journey in rig.journeys.wait_for(4, crate::rig::PATIENCE) {
        assert_eq!(crate::rig::ending(&journey), "departed");
        assert!(journey.cell().first_response().is_some(), "the end of the text is a generated token");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_prompt_is_prepared_elsewhere_and_answered_the_same() {
    let rig = Setup::answering("ok").with(|setup| setup.engine_limits.max_model_len = 65_000).start();
    let prompt = "words and ".repeat(2_000);
    let answer = rig.post(COMPLETIONS, &completion(json!({"prompt": prompt}))).await;
    assert_eq!(answer.json()["usage"]["prompt_tokens"], 20_000);
    assert_eq!(rig.submitted(1).prompt.len(), 20_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn models_and_version() {
    let rig = Setup::answering("x").start();
    expect![[r#"{"object":"list","data":[{"id":"tiny","object":"model","created":1700000000,"owned_by":"wayfare","root":"tiny","parent":null,"max_model_len":4096},{"id":"org/alias","object":"model","created":1700000000,"owned_by":"wayfare","root":"tiny","parent":null,"max_model_len":4096}]}"#]].assert_eq(&rig.get("/v1/models").await.text);
    assert_eq!(rig.get("/v1/models/org/alias").await.json()["id"], "org/alias");
    let missing = rig.get("/v1/models/other").await;
    assert_eq!((missing.status, missing.error().1.as_str()), (StatusCode::NOT_FOUND, "model_not_found"));
    assert_eq!(rig.get("/v1/models/%ff").await.error().1, "model_not_found");
    assert_eq!(rig.get("/version").await.text, r#"{"version":"1.2.3"}"#);
    for path in ["/health", "/ping"] {
        let health = rig.get(path).await;
        assert_eq!((health.status, health.text.as_str()), (StatusCode::OK, ""));
    }
    // The default model, and a model under its other name.
    let mut unnamed = chat(json!({}));
    unnamed.as_object_mut().unwrap().remove("model");
    assert_eq!(rig.post(CHAT, &unnamed).await.json()["model"], "tiny");
    assert_eq!(rig.post(CHAT, &chat(json!({"model": "org/alias"}))).await.json()["model"], "org/alias");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_benchmark_clients_send_is_accepted() {
    let rig = Setup::answering("x").start();
    let of_vllm_bench = json!({
        "temperature": 0.0, "repetition_penalty": 1.0, "max_tokens": 4, "logprobs": null, "stream": true,
        "stream_options": {"include_usage": true}, "ignore_eos": true, "stop": null
    });
    let of_openai_client = json!({
        "n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logit_bias": {}, "tools": [],
        "response_format": {"type": "text"}, "store": false, "metadata": {"a": "b"}, "service_tier": "auto",
        "parallel_tool_calls": true, "user": "u"
    });
    for path in [CHAT, COMPLETIONS] {
        for fields in [&of_vllm_bench, &of_openai_client] {
            let answer = rig.post(path, &request_for(path, Value::clone(fields))).await;
            assert_eq!(answer.status, StatusCode::OK, "{}", answer.text);
        }
    }
}
