//! Requests that end badly on our side, and many endings at once.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use serde_json::json;
use tower::ServiceExt as _;
use wayfare_engine::{
    AbortCause, Engine, EngineFault, EngineLimits, EngineRequest, EngineStats, FinishReason, RequestId,
    SubmitError,
};
use wayfare_journey::{AbortReason, SystemClock};
use wayfare_openai::{HubSink, Server};
use wayfare_testkit::JourneyStore;

use crate::rig::{
    Answer, CHAT, COMPLETIONS, PATIENCE, Setup, abort_reason, chat, completion, core_events, ending, post,
    request_for, tokens,
};

async fn panicking_handler() -> &'static str {
    panic!("a bug")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_in_a_handler_is_an_error_and_nothing_more() {
    let more = Router::new().route("/bug/{id}", get(panicking_handler)).route("/fine", get(async || "fine"));
    let rig = Setup::answering("x").with(|setup| setup.more = more).start();
    let answer = rig.get("/bug/1").await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(answer.error().1, "internal_error");
    let journey = rig.journey();
    assert_eq!(ending(&journey), "exception: internal_error");
    assert_eq!((journey.cell().route(), journey.api().status), ("/bug/{id}", Some(500)));

    // The server lives, and a route that does nothing for tracing is traced.
    assert_eq!(rig.get("/fine").await.text, "fine");
    let journey = rig.journey();
    assert_eq!((ending(&journey).as_str(), journey.cell().route()), ("departed", "/fine"));
    assert_eq!(rig.post(CHAT, &chat(json!({}))).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_fails_or_panics_ends_its_span() {
    let failing = async || {
        let frames = [Ok(Bytes::from("begun")), Err(std::io::Error::other("broken"))];
        Body::from_stream(futures_util::stream::iter(frames))
    };
    let panicking = async || {
        let frames = futures_util::stream::poll_fn(|_| -> Poll<Option<Result<Bytes, Infallible>>> {
            panic!("a bug in a body")
        });
        Body::from_stream(frames)
    };
    let more = Router::new().route("/failing", get(failing)).route("/panicking", get(panicking));
    let rig = Setup::answering("x").with(|setup| setup.more = more).start();
    for path in ["/failing", "/panicking"] {
        let response = rig.send(Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::OK);
        let read = tokio::spawn(async move { response.into_body().collect().await.map(|_| ()) });
        assert!(!matches!(read.await, Ok(Ok(()))), "{path}");
        assert_eq!(ending(&rig.journey()), "exception: internal_error", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_dies_with_requests_in_flight() {
    let rig = Setup::by_hand().start();
    let whole = rig.spawn(post(CHAT, &chat(json!({}))));
    rig.submitted(1);
    let begun = rig.spawn(post(CHAT, &chat(json!({"stream": true}))));
    rig.engine.emit(rig.submitted(2).id, &tokens("Hel"));
    let waiting = rig.spawn(post(COMPLETIONS, &completion(json!({"stream": true}))));
    rig.submitted(3);
    rig.engine.die("out of memory");

    let whole = whole.await.unwrap();
    assert_eq!((whole.status, whole.error().1.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "engine_dead"));
    for stream in [begun, waiting] {
        let chunks = stream.await.unwrap().chunks();
        assert_eq!(chunks.last().unwrap()["error"]["code"], "engine_dead");
    }
    let later = rig.post(CHAT, &chat(json!({}))).await;
    assert_eq!((later.status, later.error().1.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "engine_dead"));
    let health = rig.get("/health").await;
    assert_eq!((health.status, health.error().1.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "engine_dead"));

    let journeys = rig.journeys.wait_for(4, PATIENCE);
    for journey in &journeys {
        assert_eq!(ending(journey), "engine_dead: engine_dead");
    }
    let with_core =
        journeys.iter().filter(|journey| core_events(journey).last().is_some_and(|last| last == "Finished"));
    assert_eq!(with_core.count(), 3);
    rig.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engine_is_told_once_that_the_time_is_up() {
    let rig = Setup::by_hand()
        .with(|setup| setup.limits.request_timeout = Some(Duration::from_millis(50)))
        .clock(SystemClock)
        .start();
    let whole = rig.spawn(post(CHAT, &chat(json!({}))));
    let whole_id = rig.submitted(1).id;
    let answer = whole.await.unwrap();
    assert_eq!((answer.status, answer.error().1.as_str()), (StatusCode::GATEWAY_TIMEOUT, "timeout"));
    assert_eq!(ending(&rig.journey()), "timeout: timeout");
    // Nobody polls this one's body.
    let unread = rig.send(post(CHAT, &chat(json!({"stream": true})))).await;
    let unread_id = rig.submitted(2).id;
    wayfare_testkit::wait_until(PATIENCE, || rig.engine.live().is_empty());
    drop(unread);
    assert_eq!(ending(&rig.journey()), "timeout: timeout");
    assert_eq!(rig.engine.aborts(), [(whole_id, AbortCause::Timeout), (unread_id, AbortCause::Timeout)]);
    rig.assert_nothing_left();
}

/// An engine that accepts requests and can vanish, as one whose thread panicked.
#[derive(Debug)]
struct FragileEngine {
    sink: Mutex<Option<HubSink>>,
    accepted: Mutex<Vec<EngineRequest>>,
}

impl Engine for FragileEngine {
    fn submit(&self, request: EngineRequest) -> Result<(), SubmitError> {
        self.accepted.lock().push(request);
        Ok(())
    }

    fn abort(&self, _: RequestId, _: AbortCause) {}

    fn finish(&self, _: RequestId) {}

    fn limits(&self) -> EngineLimits {
        wayfare_testkit::scripted_limits()
    }

    fn stats(&self) -> EngineStats {
        EngineStats::default()
    }

    fn stats_by_engine(&self) -> Vec<(u32, EngineStats)> {
        vec![(0, self.stats())]
    }

    fn fault(&self) -> Option<Arc<EngineFault>> {
        None
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_goes_without_a_word_leaves_nobody_waiting() {
    let (sink, hub) = wayfare_openai::output_channel();
    let engine = FragileEngine { sink: Mutex::new(Some(sink)), accepted: Mutex::default() };
    let engine = Arc::new(engine);
    let journeys = JourneyStore::default();
    let tracer = Some(journeys.tracer(SystemClock));
    let config = crate::rig::config(Arc::clone(&engine) as Arc<dyn Engine>, tracer, Arc::new(SystemClock));
    let router = Server::start(config, hub).unwrap().router();
    let ask = |request| {
        let answer = router.clone().oneshot(request);
        tokio::spawn(async move { Answer::of(answer.await.unwrap()).await })
    };
    let answer = ask(post(CHAT, &chat(json!({}))));
    wayfare_testkit::wait_until(PATIENCE, || !engine.accepted.lock().is_empty());
    *engine.sink.lock() = None;
    engine.accepted.lock().clear();

    let answer = answer.await.unwrap();
    assert_eq!((answer.status, answer.error().1.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "engine_dead"));
    // It is known before anybody asks the engine.
    for request in [post(CHAT, &chat(json!({}))), Request::get("/health").body(Body::empty()).unwrap()] {
        let later = ask(request).await.unwrap();
        assert_eq!(
            (later.status, later.error().1.as_str()),
            (StatusCode::SERVICE_UNAVAILABLE, "engine_dead")
        );
    }
    assert!(engine.accepted.lock().is_empty());
    for journey in journeys.wait_for(2, PATIENCE) {
        assert_eq!(ending(&journey), "engine_dead: engine_dead");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_mixed_endings_leave_nothing_behind() {
    const ROUNDS: usize = 20;
    let rig = Setup::by_hand().start();
    let mut count = 0;
    for round in 0..ROUNDS {
        let path = if round % 2 == 0 { CHAT } else { COMPLETIONS };
        // Refused.
        assert_eq!(rig.post(path, &request_for(path, json!({"n": 0}))).await.status, 400);
        // Answered.
        let answer = rig.spawn(post(path, &request_for(path, json!({"stream": round % 3 == 0}))));
        count += 1;
        let id = rig.submitted(count).id;
        rig.engine.emit_last(id, &tokens("ok"), FinishReason::Stop, None);
        assert_eq!(answer.await.unwrap().status, 200);
        // Failed.
        let answer = rig.spawn(post(path, &request_for(path, json!({"stream": false}))));
        count += 1;
        rig.engine.end(rig.submitted(count).id, FinishReason::Error);
        assert_eq!(answer.await.unwrap().status, 500);
        // Abandoned before the answer, before or after the first token.
        let waiting = rig.spawn(post(path, &request_for(path, json!({}))));
        count += 1;
        let id = rig.submitted(count).id;
        if round % 2 == 0 {
            rig.engine.emit(id, &tokens("a"));
        }
        waiting.abort();
        assert!(waiting.await.is_err());
        // Abandoned midway through the stream.
        let response = rig.send(post(path, &request_for(path, json!({"stream": true})))).await;
        count += 1;
        rig.engine.emit(rig.submitted(count).id, &tokens("a"));
        drop(response);
    }
    let journeys = rig.journeys.wait_for(5 * ROUNDS, PATIENCE);
    let of = |reason: Option<AbortReason>| journeys.iter().filter(|j| abort_reason(j) == reason).count();
    assert_eq!(journeys.len(), 5 * ROUNDS);
    assert_eq!(of(None), ROUNDS);
    assert_eq!(of(Some(AbortReason::ValidationError)), ROUNDS);
    assert_eq!(of(Some(AbortReason::GenerationError)), ROUNDS);
    assert_eq!(of(Some(AbortReason::ClientDisconnect)), 2 * ROUNDS);
    rig.assert_nothing_left();
    assert_eq!(rig.engine.aborts().len(), 2 * ROUNDS);
    assert!(rig.engine.aborts().iter().all(|(_, cause)| *cause == AbortCause::ClientGone));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_that_leave_at_any_moment_leave_nothing_behind() {
    const REQUESTS: u64 = 600;
    let rig = Setup::answering(&"word ".repeat(40)).start();
    let requests: Vec<_> = (0..REQUESTS)
        .map(|number| {
            let path = if number % 2 == 0 { CHAT } else { COMPLETIONS };
            let fields = json!({"stream": number % 3 == 0, "max_tokens": 100, "stop": ["d wo", "never"]});
            let request = rig.spawn(post(path, &request_for(path, fields)));
            tokio::spawn(async move {
                // A different number of turns for each, so that they leave everywhere in their lives.
                for _ in 0..(number * 7) % 300 {
                    tokio::task::yield_now().await;
                }
                if number % 4 != 0 {
                    request.abort();
                }
                request.await
            })
        })
        .collect();
    let mut answered = 0;
    for request in requests {
        if let Ok(answer) = request.await.unwrap() {
            assert_eq!(answer.status, StatusCode::OK);
            answered += 1;
        }
    }
    assert!(answered >= REQUESTS / 4, "{answered}");
    rig.assert_nothing_left();
    let recorded = rig.tracer.as_ref().unwrap().counters().recorded();
    let journeys = rig.journeys.take();
    assert_eq!(journeys.len() as u64, recorded);
    let departed = journeys.iter().filter(|journey| abort_reason(journey).is_none()).count() as u64;
    assert!(departed >= answered);
    for journey in &journeys {
        assert!(
            matches!(abort_reason(journey), None | Some(AbortReason::ClientDisconnect)),
            "{}",
            ending(journey)
        );
        if journey.cell().handoff().is_some() {
            assert_eq!(core_events(journey).last().map(String::as_str), Some("Finished"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_cannot_be_decoded_fails_its_request_only() {
    let rig = Setup::by_hand().with(|setup| setup.engine_limits.vocab_size = 300).start();
    let response = rig.send(post(CHAT, &chat(json!({"stream": true})))).await;
    let id = rig.submitted(1).id;
    // The model's output layer is larger than the tokeniser's vocabulary.
    rig.engine.emit(id, &[299]);
    let chunks = Answer::of(response).await.chunks();
    assert_eq!(chunks.last().unwrap()["error"]["code"], "generation_error");
    assert_eq!(rig.engine.aborts(), [(id, AbortCause::ServerError)]);
    assert_eq!(ending(&rig.journey()), "generation_error: generation_error");
    rig.assert_nothing_left();
}
