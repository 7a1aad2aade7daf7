//! Streamed answers.

use expect_test::expect;
use http_body_util::BodyExt as _;
use serde_json::json;
use wayfare_engine::FinishReason;

use crate::rig::{
    Answer, CHAT, COMPLETIONS, PATIENCE, Setup, abort_reason, chat, completion, ending, post, request_for,
    tokens,
};

#[tokio::test(flavor = "multi_thread")]
async fn chat_stream() {
    let rig = Setup::by_hand().start();
    let answer = rig.spawn(post(CHAT, &chat(json!({"stream": true}))));
    let id = rig.submitted(1).id;
    rig.engine.emit_last(id, &tokens("Hi"), FinishReason::Length, None);
    expect![[r#"
        data: {"id":"chatcmpl-req","object":"chat.completion.chunk","created":1700000000,"model":"tiny","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}

        data: {"id":"chatcmpl-req","object":"chat.completion.chunk","created":1700000000,"model":"tiny","choices":[{"index":0,"delta":{"content":"Hi"},"logprobs":null,"finish_reason":"length"}]}

        data: [DONE]

    "#]]
    .assert_eq(&answer.await.unwrap().text);
}

#[tokio::test(flavor = "multi_thread")]
async fn completion_stream_with_usage() {
    let rig = Setup::by_hand().start();
    let request = completion(json!({"stream": true, "stream_options": {"include_usage": true}, "stop": "!"}));
    let answer = rig.spawn(post(COMPLETIONS, &request));
    let id = rig.submitted(1).id;
    rig.engine.emit(id, &tokens("Hi!"));
    let answer = answer.await.unwrap();
    assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
    expect![[r#"
        data: {"id":"cmpl-req","object":"text_completion","created":1700000000,"model":"tiny","choices":[{"index":0,"text":"Hi","logprobs":null,"finish_reason":"stop","stop_reason":"!"}],"usage":null}

        data: {"id":"cmpl-req","object":"text_completion","created":1700000000,"model":"tiny","choices":[],"usage":{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5,"prompt_tokens_details":{"cached_tokens":0}}}

        data: [DONE]

    "#]].assert_eq(&answer.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn streamed_and_whole_answers_agree() {
    // Characters of several bytes, and thus of several tokens; a stop string that the text contains.
    let rig = Setup::answering("Grüße, 世界! And then").start();
    for path in [CHAT, COMPLETIONS] {
        for stop in [json!(null), json!(["界!", "nothing"])] {
            let whole =
                rig.post(path, &request_for(path, json!({"stop": stop, "max_tokens": 40}))).await.json();
            let fields = json!({
                "stop": stop, "max_tokens": 40, "stream": true, "stream_options": {"include_usage": true}
            });
            let mut chunks = rig.post(path, &request_for(path, fields)).await.chunks();
            assert_eq!(chunks.pop().unwrap()["usage"], whole["usage"]);
            let choices: Vec<_> = chunks.iter().map(|chunk| &chunk["choices"][0]).collect();
            let content = |choice: &&serde_json::Value| {
                let text = choice["delta"]["content"].as_str().or_else(|| choice["text"].as_str());
                text.unwrap_or_default().to_owned()
            };
            let streamed: String = choices.iter().map(content).collect();
            let choice = &whole["choices"][0];
            let expected = choice["message"]["content"].as_str().or_else(|| choice["text"].as_str());
            assert_eq!(Some(streamed.as_str()), expected);
            let last = choices.last().unwrap();
            assert_eq!(last["finish_reason"], choice["finish_reason"]);
            assert_eq!(last.get("stop_reason").cloned().unwrap_or_default(), choice["stop_reason"]);
            for chunk in &chunks[..chunks.len() - 1] {
                assert!(
                    chunk["choices"][0]["finish_reason"].is_null() && chunk["usage"].is_null(),
                    "{chunk}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_slow_client_has_not_taken_comes_in_one_chunk() {
    let rig = Setup::by_hand().start();
    let response = rig.send(post(COMPLETIONS, &completion(json!({"stream": true})))).await;
    let id = rig.submitted(1).id;
    for _ in 0..10 {
        rig.engine.emit(id, &tokens("ab"));
    }
    rig.engine.end(id, FinishReason::Length);
    // Everything has been routed before the client reads anything.
    wayfare_testkit::wait_until(PATIENCE, || rig.shutdown.sequences_in_flight() == 0);
    let chunks = Answer::of(response).await.chunks();
    assert_eq!(chunks.len(), 1, "{chunks:?}");
    assert_eq!(chunks[0]["choices"][0]["text"], "ab".repeat(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_is_given_out_as_it_comes() {
    let rig = Setup::by_hand().start();
    let response = rig.send(post(COMPLETIONS, &completion(json!({"stream": true})))).await;
    let mut body = response.into_body();
    let id = rig.submitted(1).id;
    for text in ["one", "two"] {
        rig.engine.emit(id, &tokens(text));
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(String::from_utf8_lossy(&frame).contains(&format!(r#""text":"{text}""#)), "{frame:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_fails_midway_says_so_and_ends() {
    let rig = Setup::by_hand().start();
    for path in [CHAT, COMPLETIONS] {
        let answer = rig.spawn(post(path, &request_for(path, json!({"stream": true}))));
        let id = rig.submitted(if path == CHAT { 1 } else { 2 }).id;
        rig.engine.emit(id, &tokens("Hel"));
        rig.engine.end(id, FinishReason::Error);
        let chunks = answer.await.unwrap().chunks();
        let (error, before) = chunks.split_last().unwrap();
        assert_eq!(error["error"]["code"], "generation_error");
        assert!(
            !before.is_empty() && before.iter().all(|chunk| chunk["choices"][0]["finish_reason"].is_null())
        );
        let journey = rig.journey();
        assert_eq!(ending(&journey), "generation_error: generation_error");
        assert_eq!(journey.api().status, Some(200));
        assert_eq!(journey.cell().usage().unwrap().completion_tokens, 3);
    }
    rig.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_request_has_departed_before_done_is_given_out() {
    let rig = Setup::by_hand().start();
    let response = rig.send(post(CHAT, &chat(json!({"stream": true})))).await;
    let mut body = response.into_body();
    let id = rig.submitted(1).id;
    rig.engine.emit_last(id, &tokens("Hi"), FinishReason::Stop, None);
    let mut text = String::new();
    while !text.contains(r#""finish_reason":"stop""#) {
        text.push_str(&String::from_utf8_lossy(&body.frame().await.unwrap().unwrap().into_data().unwrap()));
    }
    assert!(!text.contains("[DONE]"));
    // The client leaves now.
    drop(body);
    let journey = rig.journey();
    assert_eq!((ending(&journey).as_str(), abort_reason(&journey)), ("departed", None));
    rig.assert_nothing_left();
    assert!(rig.engine.aborts().is_empty());
}
