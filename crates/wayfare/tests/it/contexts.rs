//! Trace context from callers, and request ids that are not unique.

use std::collections::HashSet;

use serde_json::json;

use crate::raw_client::Client;
use crate::rig::{CHAT, COMPLETIONS, Setup, request};

#[tokio::test(flavor = "multi_thread")]
async fn two_concurrent_requests_with_one_request_id_have_two_whole_journeys() {
    let rig = Setup::default().start();
    rig.control.hold();
    let body = request(CHAT, json!({"max_tokens": 4})).to_string();
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = rig.connect().await;
        client.send_with(CHAT, &[("x-request-id", "same")], &body).await.unwrap();
        clients.push(client);
    }
    rig.wait_for_arrivals(2);
    rig.control.release();
    for mut client in clients {
        let answer = client.answer().await.unwrap();
        assert_eq!((answer.status, answer.header("x-request-id")), (200, Some("same")));
        assert_eq!(answer.json()["id"], "chatcmpl-same");
    }
    let journeys = rig.journeys(2);
    assert_ne!(journeys[0].request.trace_id, journeys[1].request.trace_id);
    for journey in &journeys {
        assert_eq!((journey.ending().as_str(), journey.cores.len()), ("departed", 1));
        assert_eq!(journey.request.text("gen_ai.request.id"), Some("chatcmpl-same"));
    }
}

/// A10: every parent right, whichever thread served it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_hundred_distinct_contexts_keep_their_parents() {
    const REQUESTS: u64 = 200;
    let rig = Setup::default().start();
    let address = rig.address;
    let asked: Vec<_> = (1..=REQUESTS)
        .map(|number| {
            tokio::spawn(async move {
                let path = if number % 2 == 0 { CHAT } else { COMPLETIONS };
                let stream = number % 3 == 0;
                let body = request(path, json!({"seed": number, "max_tokens": 3, "stream": stream}));
                let mut client = Client::connect(address).await.unwrap();
                let traceparent = format!("00-{number:032x}-{:016x}-01", number + 7_000);
                let state = format!("caller={number}");
                let headers = [("TraceParent", &*traceparent), ("tracestate", &*state)];
                client.send_with(path, &headers, &body.to_string()).await.unwrap();
                let answer = client.answer().await.unwrap();
                assert_eq!(answer.status, 200);
                (number, answer.header("traceresponse").unwrap().to_owned())
            })
        })
        .collect();
    let mut responses = std::collections::HashMap::new();
    for one in asked {
        let (number, traceresponse) = one.await.unwrap();
        responses.insert(number, traceresponse);
    }
    let journeys = rig.journeys(REQUESTS as usize);
    let mut seen = HashSet::new();
    for journey in &journeys {
        let span = &journey.request;
        let number = u64::from_str_radix(&span.trace_id, 16).unwrap();
        assert_eq!(span.parent_span_id, Some(format!("{:016x}", number + 7_000)));
        assert_eq!(span.int("gen_ai.request.seed"), Some(number as i64));
        assert_eq!(span.trace_state, format!("caller={number}"));
        assert_eq!(responses[&number], format!("00-{}-{}-01", span.trace_id, span.span_id));
        seen.insert(number);
    }
    assert_eq!(seen.len() as u64, REQUESTS);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_context_or_an_invalid_one_begins_a_trace_and_one_not_sampled_leaves_none() {
    let rig = Setup::default().start();
    let body = request(COMPLETIONS, json!({"max_tokens": 1})).to_string();
    let ask = async |headers: &[(&str, &str)]| {
        let mut client = rig.connect().await;
        client.send_with(COMPLETIONS, headers, &body).await.unwrap();
        let answer = client.answer().await.unwrap();
        assert_eq!(answer.status, 200);
        answer.header("traceresponse").unwrap().to_owned()
    };
    ask(&[]).await;
    ask(&[("traceparent", "00-zz-yy-01")]).await;
    let trace_id = "0af7651916cd43dd8448eb211c80319c";
    let unsampled = format!("00-{trace_id}-b7ad6b7169203331-00");
    // Behaviour 33: a client cannot ask for it.
    let back = ask(&[("traceparent", &unsampled), ("x-vllm-journey-sampled", "1")]).await;
    assert!(back.starts_with(&format!("00-{trace_id}-")) && back.ends_with("-00"), "{back}");
    let journeys = rig.journeys(2);
    assert!(journeys.iter().all(|journey| journey.request.parent_span_id.is_none()));
    assert_ne!(journeys[0].request.trace_id, journeys[1].request.trace_id);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_servers_in_one_process_have_journeys_of_their_own() {
    let (first, second) = (Setup::default().start(), Setup::default().start());
    for (rig, count) in [(&first, 1), (&second, 3)] {
        for _ in 0..count {
            rig.post(COMPLETIONS, &request(COMPLETIONS, json!({"max_tokens": count}))).await;
        }
    }
    for (rig, count) in [(first, 1), (second, 3)] {
        let journeys = rig.journeys(count);
        let limit = Some(count as i64);
        assert!(journeys.iter().all(|journey| journey.request.int("gen_ai.request.max_tokens") == limit));
    }
}
