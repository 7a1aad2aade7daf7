//! Taking the server out of service.

use std::convert::Infallible;

use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::StreamBody;
use serde_json::json;
use wayfare_engine::{AbortCause, FinishReason};

use crate::rig::{CHAT, COMPLETIONS, PATIENCE, Setup, chat, completion, ending, post, tokens};

#[tokio::test(flavor = "multi_thread")]
async fn draining_refuses_new_requests_and_finishes_old_ones() {
    let rig = Setup::by_hand().start();
    let answer = rig.spawn(post(CHAT, &chat(json!({"stream": true}))));
    let id = rig.submitted(1).id;
    wayfare_testkit::wait_until(PATIENCE, || rig.shutdown.sequences_in_flight() == 1);
    rig.shutdown.drain();

    let health = rig.get("/health").await;
    assert_eq!((health.status, health.error().1.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "shutdown"));
    let refused = rig.post(CHAT, &chat(json!({}))).await;
    assert_eq!((refused.status, refused.error().1.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "shutdown"));
    assert_eq!(ending(&rig.journey()), "shutdown: shutdown");
    assert_eq!(rig.get("/metrics").await.status, StatusCode::OK);

    rig.engine.emit_last(id, &tokens("done"), FinishReason::Stop, None);
    let chunks = answer.await.unwrap().chunks();
    assert_eq!(chunks.last().unwrap()["choices"][0]["finish_reason"], "stop");
    assert_eq!(ending(&rig.journey()), "departed");
    rig.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_ends_what_is_still_there() {
    let rig = Setup::by_hand().start();
    let whole = rig.spawn(post(COMPLETIONS, &completion(json!({}))));
    let whole_id = rig.submitted(1).id;
    let stream = rig.spawn(post(CHAT, &chat(json!({"stream": true}))));
    let stream_id = rig.submitted(2).id;
    rig.engine.emit(stream_id, &tokens("Hel"));
    // A request whose body never comes.
    type Frame = Result<http_body::Frame<bytes::Bytes>, Infallible>;
    let stalled = Body::new(StreamBody::new(futures_util::stream::pending::<Frame>()));
    let uploading = rig.spawn(Request::post(CHAT).body(stalled).unwrap());
    let tracer = rig.tracer.clone().unwrap();
    wayfare_testkit::wait_until(PATIENCE, || tracer.counters().recorded() == 3);
    // A client that does not read.
    let unread = rig.send(post(CHAT, &chat(json!({"stream": true})))).await;
    let unread_id = rig.submitted(3).id;
    rig.shutdown.close();

    for refused in [whole.await.unwrap(), uploading.await.unwrap()] {
        assert_eq!(
            (refused.status, refused.error().1.as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "shutdown")
        );
    }
    let chunks = stream.await.unwrap().chunks();
    assert_eq!(chunks.last().unwrap()["error"]["code"], "shutdown");
    // What the binary does to connections that are still there.
    drop(unread);
    for journey in rig.journeys.wait_for(4, PATIENCE) {
        assert_eq!(ending(&journey), "shutdown: shutdown");
    }
    let mut aborts = rig.engine.aborts();
    aborts.sort_unstable_by_key(|(id, _)| *id);
    assert_eq!(aborts[..2], [(whole_id, AbortCause::Shutdown), (stream_id, AbortCause::Shutdown)]);
    assert_eq!(aborts[2].0, unread_id);
    rig.assert_nothing_left();
}
