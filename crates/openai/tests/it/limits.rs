//! What every request may bring at most, and what this model does not do.

use axum::body::Body;
use http::Request;
use serde_json::json;

use crate::rig::{CHAT, Setup, chat, ending, post};

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_is_too_large_is_refused_and_traced() {
    let limited = || {
        Setup::answering("x").with(|setup| {
            setup.limits.max_header_count = 4;
            setup.limits.max_header_bytes = 1_000;
        })
    };
    let request = |headers: usize, length: usize| {
        let mut request = post(CHAT, &chat(json!({})));
        for index in 0..headers {
            let name = http::HeaderName::try_from(format!("x-{index}")).unwrap();
            request.headers_mut().insert(name, "a".repeat(length).parse().unwrap());
        }
        request
    };
    for (headers, length, limit) in [(3, 1, "4 headers"), (1, 1_000, "1000 bytes"), (2, 470, "1000 bytes")] {
        let rig = limited().start();
        let answer = rig.ask(request(headers, length)).await;
        assert_eq!((answer.status.as_u16(), answer.error().1.as_str()), (431, "headers_too_large"));
        assert!(answer.text.contains(limit), "{}", answer.text);
        let journey = rig.journey();
        assert_eq!(ending(&journey), "validation_error: headers_too_large");
        assert_eq!(journey.api().status, Some(431));
    }
    let rig = limited().start();
    assert_eq!(rig.ask(request(2, 100)).await.status, 200);
    // Those without a journey are limited, too.
    let long = format!("/health?{}", "a".repeat(1_000));
    assert_eq!(rig.ask(Request::get(long).body(Body::empty()).unwrap()).await.status, 431);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_has_at_most_so_many_messages() {
    let rig = Setup::answering("x").with(|setup| setup.limits.max_messages = 3).start();
    let messages = |count| chat(json!({"messages": vec![json!({"role": "user", "content": "x"}); count]}));
    assert_eq!(rig.post(CHAT, &messages(3)).await.status, 200);
    for path in [CHAT, "/tokenize"] {
        let answer = rig.post(path, &messages(4)).await;
        assert_eq!((answer.status.as_u16(), answer.error().0.as_deref()), (400, Some("messages")));
        assert!(answer.text.contains("at most 3"), "{}", answer.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_other_models_do_is_said_not_to_be_done_and_traced() {
    for (path, task) in [
        ("/v1/embeddings", "embeddings"),
        ("/pooling", "pooling"),
        ("/score", "scoring"),
        ("/v1/rerank", "reranking"),
        ("/classify", "classification"),
        ("/v1/audio/transcriptions", "transcription"),
        ("/v1/audio/speech", "speech"),
        ("/v1/images/generations", "images"),
    ] {
        let rig = Setup::answering("x").start();
        let answer = rig.post(path, &json!({"model": "tiny", "input": "x"})).await;
        assert_eq!((answer.status.as_u16(), answer.error().1.as_str()), (404, "unsupported_endpoint"));
        assert!(answer.text.contains(&format!("does not do {task}")), "{}", answer.text);
        let journey = rig.journey();
        assert_eq!(journey.cell().route(), path);
        assert_eq!(ending(&journey), "validation_error: unsupported_endpoint");
    }
}
