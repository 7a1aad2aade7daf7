//! Requests that never reach the engine: the right status, one span that says why, and nothing else.

use axum::Router;
use axum::routing::get;
use serde_json::json;
use wayfare_scheduler::SchedulerConfig;
use wayfare_testkit::SpanView;

use crate::arrived::Journey;
use crate::raw_client::Client;
use crate::rig::{CHAT, COMPLETIONS, Setup, request};

fn check_refused(journey: &Journey, status: i64, ending: &str) {
    assert_eq!((journey.status(), journey.ending().as_str()), (Some(status), ending));
    assert!(journey.cores.is_empty(), "no sequence was handed over");
    assert_eq!(journey.request.event_names(), ["api.ARRIVED", "api.ABORTED"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_has_one_span_with_its_reason() {
    let rig = Setup::with(|setup| setup.scheduler.max_model_len = 128).start();
    let long = "x".repeat(200);
    let cases = [
        ("{\"prompt\": ".to_owned(), 400, "invalid_json"),
        (json!([]).to_string(), 400, "invalid_json"),
        (json!({"model": "other"}).to_string(), 404, "model_not_found"),
        (json!({"prompt": long, "messages": [{"role": "user", "content": long}]}).to_string(), 400, ""),
        (json!({"temperature": 9}).to_string(), 400, "invalid_value"),
        (json!({"best_of": 2}).to_string(), 400, "unsupported_parameter"),
    ];
    let mut expected = Vec::new();
    for path in [CHAT, COMPLETIONS] {
        for (body, status, code) in &cases {
            let mut fields = serde_json::from_str(body).unwrap_or(json!(null));
            let mut code = *code;
            if code.is_empty() {
                // Each route knows only its own prompt.
                let other = if path == CHAT { "prompt" } else { "messages" };
                fields.as_object_mut().unwrap().remove(other);
                code = "context_length_exceeded";
            }
            let body = if fields.is_object() { request(path, fields).to_string() } else { body.clone() };
            let mut client = rig.connect().await;
            client.send(path, &body).await.unwrap();
            let answer = client.answer().await.unwrap();
            assert_eq!((answer.status, answer.error_code().as_str()), (*status, code), "{path} {body}");
            assert!(answer.header("x-request-id").is_some() && answer.header("traceresponse").is_some());
            expected.push((i64::from(*status), format!("validation_error: {code}")));
        }
    }
    let journeys = rig.journeys(expected.len());
    for (journey, (status, ending)) in journeys.iter().zip(expected) {
        check_refused(journey, status, &ending);
    }
}

/// A1: 63 usable blocks of 16 tokens hold 1008.
#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_fit_is_refused_at_once_and_the_next_is_served() {
    let rig = Setup::with(|setup| {
        setup.scheduler = SchedulerConfig { max_model_len: 4096, num_kv_blocks: 64, ..setup.scheduler };
    })
    .start();
    let never = rig.post(COMPLETIONS, &json!({"prompt": "x".repeat(1100)})).await;
    assert_eq!((never.status, never.error_code().as_str()), (400, "context_length_exceeded"));
    let fits = rig.post(COMPLETIONS, &json!({"prompt": "0123456789", "max_tokens": 4})).await;
    assert_eq!(fits.choice()["finish_reason"], "length");
    let journeys = rig.journeys(2);
    check_refused(&journeys[0], 400, "validation_error: context_length_exceeded");
    assert_eq!(journeys[1].ending(), "departed");
    assert_eq!(journeys[1].cores[0].events[0].int("prefill.total_tokens"), Some(10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_panics_is_a_500_and_the_server_lives() {
    async fn buggy() -> &'static str {
        panic!("a bug")
    }
    let rig = Setup::with(|setup| setup.more = Router::new().route("/bug", get(buggy).post(buggy))).start();
    // The connection lives, too.
    let mut client = rig.connect().await;
    client.send("/bug", "").await.unwrap();
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.status, answer.error_code().as_str()), (500, "internal_error"));
    client.send(CHAT, &request(CHAT, json!({"max_tokens": 2})).to_string()).await.unwrap();
    assert_eq!(client.answer().await.unwrap().status, 200);
    let journeys = rig.journeys(2);
    check_refused(&journeys[0], 500, "exception: internal_error");
    assert_eq!(journeys[0].request.text("http.route"), Some("/bug"));
    assert_eq!(journeys[1].ending(), "departed");
}

/// A18: every choice of every prompt has a span of its own.
#[tokio::test(flavor = "multi_thread")]
async fn each_choice_of_each_prompt_has_a_span() {
    let rig = Setup::default().start();
    for body in [
        json!({"prompt": "a", "n": 2}),
        json!({"prompt": ["a", "bcd"]}),
        json!({"prompt": ["a", "bcd"], "n": 2}),
        json!({"prompt": ["a"]}),
    ] {
        let mut body = body;
        body["max_tokens"] = json!(3);
        assert_eq!(rig.post(COMPLETIONS, &body).await.status, 200, "{body}");
    }
    let prompts = |journey: &Journey| -> Vec<_> {
        let of_core = |core: &SpanView| core.events[0].int("prefill.total_tokens").unwrap();
        journey.cores.iter().map(of_core).collect()
    };
    let journeys = rig.journeys(4);
    assert!(journeys.iter().all(|journey| journey.ending() == "departed"));
    assert_eq!(
        journeys.iter().map(prompts).collect::<Vec<_>>(),
        [vec![1, 1], vec![1, 3], vec![1, 1, 3, 3], vec![1]]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_routes_have_a_span_and_housekeeping_has_none() {
    let rig = Setup::default().start();
    let mut client = Client::connect(rig.address).await.unwrap();
    client.send("/v1/nothing", "").await.unwrap();
    assert_eq!(client.answer().await.unwrap().status, 404);
    client.send("/v1/models", "").await.unwrap();
    assert_eq!(client.answer().await.unwrap().status, 405);
    client.send_bytes(b"GET /v1/chat/completions HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(client.answer().await.unwrap().status, 405);
    client.send_bytes(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    client.answer().await.unwrap();
    let journeys = rig.journeys(2);
    check_refused(&journeys[0], 404, "validation_error: not_found");
    check_refused(&journeys[1], 405, "validation_error: method_not_allowed");
}
