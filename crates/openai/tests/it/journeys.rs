//! What is recorded of requests that are served, and trace context in and out.

use std::collections::HashSet;
use std::time::Duration;

use axum::body::Body;
use http::Request;
use serde_json::json;
use wayfare_engine::FinishReason;
use wayfare_journey::{ApiEnding, MonoNs};
use wayfare_testkit::VirtualClock;

use crate::rig::{
    CHAT, COMPLETIONS, PATIENCE, Setup, Tracing, chat, completion, core_events, ending, post, request_for,
    tokens,
};

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "b7ad6b7169203331";

#[tokio::test(flavor = "multi_thread")]
async fn events_come_in_order_on_every_generating_route() {
    let rig = Setup::answering("Hello.").start();
    for path in [CHAT, COMPLETIONS] {
        for stream in [false, true] {
            rig.post(path, &request_for(path, json!({"stream": stream, "seed": 3, "max_tokens": 9}))).await;
            let journey = rig.journey();
            let cell = journey.cell();
            let ApiEnding::Departed { at: departed } = journey.api().ending else {
                panic!("{:?}", journey.api());
            };
            let (handoff, prompt_tokens) = cell.handoff().unwrap();
            let times = [
                cell.arrived(),
                cell.body_complete().unwrap(),
                handoff,
                cell.first_response().unwrap(),
                departed,
            ];
            assert!(times.is_sorted() && times[0] < times[4], "{path} {stream}: {times:?}");
            assert!(journey.api().ended >= departed);
            assert_eq!(journey.api().status, Some(200));
            assert_eq!(cell.route(), path);
            let (prefix, operation, prompt) =
                if path == CHAT { ("chatcmpl", "chat", 19) } else { ("cmpl", "text_completion", 2) };
            assert_eq!(cell.label().unwrap().as_str(), format!("{prefix}-req"));
            assert_eq!(prompt_tokens, prompt);

            let attributes = cell.attributes().unwrap();
            assert_eq!(attributes.operation, operation);
            assert_eq!((&*attributes.request_model, &*attributes.response_model), ("tiny", "tiny"));
            assert_eq!((attributes.seed, attributes.max_tokens, attributes.n), (Some(3), 9, 1));
            assert_eq!((attributes.top_k, attributes.stream), (None, stream));
            let usage = cell.usage().unwrap();
            assert_eq!((u64::from(usage.prompt_tokens), usage.completion_tokens), (prompt, 7));
            assert_eq!(usage.finish_reasons[..], ["stop"]);
            assert_eq!(core_events(&journey), ["Queued", "Scheduled", "FirstToken", "Finished"]);
            let (index, core) = journey.cores().next().unwrap();
            assert_eq!((index, u64::from(core.prefill_total), core.decode_max), (0, prompt, 9));
        }
    }
    rig.assert_nothing_left();
}

#[tokio::test]
async fn first_response_is_the_time_of_the_first_token_also_when_not_streaming() {
    // One thread: after enough turns everybody has done what there was to do.
    async fn let_others_run() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
    let clock = VirtualClock::at(MonoNs(1_000));
    let rig = Setup::by_hand().clock(clock.clone()).start();
    let answer = rig.spawn(post(CHAT, &chat(json!({}))));
    let_others_run().await;
    let id = rig.engine.submitted()[0].id;
    let first = clock.advance(Duration::from_secs(1));
    rig.engine.emit(id, &tokens("a"));
    let_others_run().await;
    let last = clock.advance(Duration::from_secs(1));
    rig.engine.emit_last(id, &tokens("b"), FinishReason::Length, None);
    answer.await.unwrap();
    let journey = rig.journey();
    assert_eq!(journey.cell().first_response(), Some(first));
    assert_eq!(journey.api().ending, ApiEnding::Departed { at: last });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callers_context_is_taken_over_whatever_the_case_of_its_headers() {
    let rig = Setup::answering("x").start();
    let request = Request::post(CHAT)
        .header("Content-Type", "application/json")
        .header("TraceParent", format!("00-{TRACE_ID}-{PARENT}-01"))
        .header("TRACESTATE", "a=1")
        .header("tracestate", "b=2")
        .body(Body::from(chat(json!({})).to_string()))
        .unwrap();
    let answer = rig.ask(request).await;
    let journey = rig.journey();
    let cell = journey.cell();
    let context = cell.context();
    assert_eq!(context.trace_id.to_string(), TRACE_ID);
    assert_eq!(context.parent.unwrap().to_string(), PARENT);
    assert_eq!(context.state.as_deref(), Some("a=1,b=2"));
    let expected = format!("00-{TRACE_ID}-{}-01", cell.span_id());
    assert_eq!(answer.header("traceresponse"), Some(expected.as_str()));
    assert_eq!(journey.cores().count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_valid_context_a_new_trace_begins() {
    let rig = Setup::answering("x").start();
    let mut traces = HashSet::new();
    for traceparent in
        [None, Some("nonsense"), Some("00-00000000000000000000000000000000-0000000000000000-01")]
    {
        let mut request = post(CHAT, &chat(json!({})));
        if let Some(traceparent) = traceparent {
            request.headers_mut().insert("traceparent", traceparent.parse().unwrap());
        }
        let answer = rig.ask(request).await;
        assert_eq!(answer.status, 200);
        let journey = rig.journey();
        let context = journey.cell().context();
        assert_eq!(context.parent, None);
        assert!(answer.header("traceresponse").unwrap().starts_with(&format!("00-{}-", context.trace_id)));
        traces.insert(context.trace_id);
    }
    assert_eq!(traces.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_caller_does_not_sample_is_not_recorded_and_the_flag_goes_back() {
    let rig = Setup::answering("x").start();
    for path in [CHAT, COMPLETIONS] {
        let mut request = post(path, &request_for(path, json!({})));
        let traceparent = format!("00-{TRACE_ID}-{PARENT}-00");
        request.headers_mut().insert("traceparent", traceparent.parse().unwrap());
        // Only a caller inside the process boundary could ask for this.
        request.headers_mut().insert("x-vllm-journey-sampled", "1".parse().unwrap());
        let answer = rig.ask(request).await;
        let traceresponse = answer.header("traceresponse").unwrap();
        assert!(traceresponse.starts_with(&format!("00-{TRACE_ID}-")) && traceresponse.ends_with("-00"));
    }
    assert!(rig.engine.submitted().iter().all(|request| !request.is_traced));
    assert!(rig.journeys.is_empty());
    let tracer = rig.tracer.unwrap();
    assert_eq!((tracer.counters().recorded(), tracer.counters().sampled_out()), (0, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn head_sampling_takes_both_spans_or_neither() {
    let rig = Setup::answering("x").with(|setup| setup.tracing = Tracing::Rate(0.0)).start();
    let answer = rig.post(CHAT, &chat(json!({}))).await;
    assert!(answer.header("traceresponse").unwrap().ends_with("-02"), "random, not sampled");
    let mut asked_for = post(COMPLETIONS, &completion(json!({})));
    asked_for.headers_mut().insert("x-vllm-journey-sampled", "1".parse().unwrap());
    rig.ask(asked_for).await;
    assert!(rig.engine.submitted().iter().all(|request| !request.is_traced));
    assert!(rig.journeys.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tracing_off_requests_are_served_without_a_trace() {
    let rig = Setup::answering("x").with(|setup| setup.tracing = Tracing::Off).start();
    for path in [CHAT, COMPLETIONS] {
        for stream in [false, true] {
            let mut request = post(path, &request_for(path, json!({"stream": stream})));
            let traceparent = format!("00-{TRACE_ID}-{PARENT}-01");
            request.headers_mut().insert("traceparent", traceparent.parse().unwrap());
            let answer = rig.ask(request).await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.header("x-request-id"), Some("req"));
            assert_eq!(answer.header("traceresponse"), None);
        }
    }
    assert!(rig.engine.submitted().iter().all(|request| !request.is_traced));
}

#[tokio::test(flavor = "multi_thread")]
async fn housekeeping_has_a_request_id_but_no_span() {
    let rig = Setup::answering("x").start();
    for path in ["/health", "/ping", "/version", "/metrics", "/v1/models", "/v1/models/tiny", "/v1/models/no"]
    {
        let answer = rig.get(path).await;
        assert_eq!(answer.header("x-request-id").unwrap().len(), 32, "{path}");
        assert_eq!(answer.header("traceresponse"), None, "{path}");
    }
    assert_eq!(rig.tracer.unwrap().counters().recorded(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_request_ids_are_separate_journeys() {
    let rig = Setup::by_hand().start();
    let first = rig.spawn(post(CHAT, &chat(json!({}))));
    let first_id = rig.submitted(1).id;
    let second = rig.spawn(post(CHAT, &chat(json!({}))));
    let second_id = rig.submitted(2).id;
    assert_ne!(first_id, second_id);
    rig.engine.emit_last(second_id, &tokens("second"), FinishReason::Stop, None);
    rig.engine.emit_last(first_id, &tokens("first"), FinishReason::Stop, None);
    let (first, second) = (first.await.unwrap().json(), second.await.unwrap().json());
    assert_eq!(first["id"], second["id"]);
    assert_eq!(first["choices"][0]["message"]["content"], "first");
    assert_eq!(second["choices"][0]["message"]["content"], "second");
    let journeys = rig.journeys.wait_for(2, PATIENCE);
    let traces: HashSet<_> = journeys.iter().map(|journey| journey.cell().context().trace_id).collect();
    assert_eq!(traces.len(), 2);
    for journey in &journeys {
        assert_eq!((ending(journey).as_str(), journey.cores().count()), ("departed", 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_contexts_do_not_cross() {
    let rig = Setup::answering("x").start();
    let requests: Vec<_> = (1..=200_u64)
        .map(|number| {
            let mut request = post(COMPLETIONS, &completion(json!({"seed": number})));
            let headers = request.headers_mut();
            let traceparent = format!("00-{number:032x}-{number:016x}-01");
            headers.insert("traceparent", traceparent.parse().unwrap());
            headers.insert("x-request-id", format!("r{number}").parse().unwrap());
            rig.spawn(request)
        })
        .collect();
    for request in requests {
        assert_eq!(request.await.unwrap().status, 200);
    }
    let journeys = rig.journeys.wait_for(200, PATIENCE);
    for journey in &journeys {
        let cell = journey.cell();
        let number = cell.attributes().unwrap().seed.unwrap();
        assert_eq!(cell.context().trace_id.to_string(), format!("{number:032x}"));
        assert_eq!(cell.context().parent.unwrap().to_string(), format!("{number:016x}"));
        assert_eq!(cell.label().unwrap().as_str(), format!("cmpl-r{number}"));
        assert_eq!(journey.cores().count(), 1);
    }
    rig.assert_nothing_left();
}
