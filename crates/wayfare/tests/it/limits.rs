//! A full queue, and requests that take too long.

use std::num::NonZeroU32;
use std::time::Duration;

use serde_json::json;
use wayfare_testkit::{StepBehaviour, wait_until};

use crate::rig::{CHAT, COMPLETIONS, ENDLESS, PATIENCE, Rig, Setup, request};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_with_429_and_serves_what_waits() {
    const LIMIT: usize = 2;
    const MORE: usize = 5;
    let rig = Setup::with(|setup| {
        setup.scheduler.max_num_seqs = 1;
        setup.max_queued = NonZeroU32::new(LIMIT as u32);
    })
    .start();
    rig.control.hold();
    let running = rig.spawn(COMPLETIONS, request(COMPLETIONS, json!({})));
    wait_until(PATIENCE, || rig.control.is_standing_still());
    let others: Vec<_> = (0..LIMIT + MORE)
        .map(|number| rig.spawn(CHAT, request(CHAT, json!({"stream": number % 2 == 0, "max_tokens": 3}))))
        .collect();
    rig.wait_for_arrivals(others.len() as u64 + 1);
    // Those that wait have no answer yet, so the first answers are the refusals.
    wait_until(PATIENCE, || rig.tracer.counters().in_flight() as usize == LIMIT + 1);
    rig.control.release();
    assert_eq!(running.await.unwrap().status, 200);
    let mut refused = 0;
    for answer in others {
        let answer = answer.await.unwrap();
        if answer.status == 429 {
            assert_eq!(answer.error_code(), "overloaded");
            assert!(answer.header("retry-after").unwrap().parse::<u32>().unwrap() > 0);
            refused += 1;
        } else {
            assert_eq!(answer.status, 200, "{}", answer.text);
        }
    }
    assert_eq!(refused, MORE);
    let journeys = rig.journeys(LIMIT + MORE + 1);
    let overloaded: Vec<_> =
        journeys.iter().filter(|journey| journey.ending() == "overloaded: overloaded").collect();
    assert_eq!(overloaded.len(), MORE);
    assert!(overloaded.iter().all(|journey| journey.cores.is_empty() && journey.status() == Some(429)));
    assert_eq!(journeys.iter().filter(|journey| journey.ending() == "departed").count(), LIMIT + 1);
    // The places are free again.
    assert_eq!(rig.post(CHAT, &request(CHAT, json!({"max_tokens": 1}))).await.status, 200);
}

fn with_time_limit(limit: Duration) -> Rig {
    let rig = Setup::with(|setup| setup.limits.request_timeout = Some(limit)).start();
    rig.control.every_step(StepBehaviour::Slow(Duration::from_millis(2)));
    rig
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_time_is_up_gets_504_and_leaves_the_engine() {
    let rig = with_time_limit(Duration::from_millis(150));
    let answer = rig.post(CHAT, &request(CHAT, json!({"seed": ENDLESS}))).await;
    assert_eq!((answer.status, answer.error_code().as_str()), (504, "timeout"));
    assert!(answer.text.contains("0.15 seconds"), "{}", answer.text);
    let journey = rig.journey();
    assert_eq!((journey.ending().as_str(), journey.status()), ("timeout: timeout", Some(504)));
    assert_eq!(journey.finish_status(), Some("aborted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_time_is_up_ends_with_an_error_frame() {
    let rig = with_time_limit(Duration::from_millis(150));
    let answer = rig.post(COMPLETIONS, &json!({"prompt": "Hi", "max_tokens": 4000, "stream": true})).await;
    assert_eq!((answer.status, answer.last_error_code().as_str()), (200, "timeout"));
    assert!(answer.chunks().len() > 1, "it had begun");
    let journey = rig.journey();
    assert_eq!((journey.ending().as_str(), journey.status()), ("timeout: timeout", Some(200)));
    assert_eq!(journey.core_events(), ["QUEUED", "SCHEDULED", "FIRST_TOKEN", "FINISHED"]);
    assert_eq!(journey.finish_status(), Some("aborted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waits_in_the_queue_times_out_there() {
    let rig = Setup::with(|setup| {
        setup.limits.request_timeout = Some(Duration::from_millis(300));
        setup.scheduler.max_num_seqs = 1;
    })
    .start();
    rig.control.every_step(StepBehaviour::Slow(Duration::from_millis(5)));
    let first = rig.spawn(CHAT, request(CHAT, json!({"seed": ENDLESS})));
    rig.wait_for_engine(1, 0);
    let second = rig.spawn(CHAT, request(CHAT, json!({"seed": ENDLESS})));
    for answer in [first, second] {
        assert_eq!(answer.await.unwrap().error_code(), "timeout");
    }
    let journeys = rig.journeys(2);
    assert!(journeys.iter().all(|journey| journey.ending() == "timeout: timeout"));
}

/// The engine is told although nobody polls the response.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_does_not_keep_the_engine_busy_beyond_the_time() {
    let rig = Setup::with(|setup| setup.limits.request_timeout = Some(Duration::from_secs(1))).start();
    rig.control.every_step(StepBehaviour::Slow(Duration::from_micros(500)));
    let mut client = rig.connect().await;
    client
        .send(COMPLETIONS, &json!({"prompt": "Hi", "max_tokens": 4000, "stream": true}).to_string())
        .await
        .unwrap();
    rig.wait_for_engine(1, 0);
    rig.wait_for_engine(0, 0);
    assert_eq!(rig.tracer.counters().in_flight(), 1, "the client has not been served yet");
    drop(client);
    let journey = rig.journey();
    assert_eq!((journey.ending().as_str(), journey.finish_status()), ("timeout: timeout", Some("aborted")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_in_time_is_a_408() {
    let rig = with_time_limit(Duration::from_millis(100));
    let mut client = rig.connect().await;
    client.send_head(CHAT, &[], 1000).await.unwrap();
    client.send_bytes(b"{").await.unwrap();
    let answer = client.answer().await.unwrap();
    assert_eq!((answer.status, answer.error_code().as_str()), (408, "request_timeout"));
    let journey = rig.journey();
    assert_eq!((journey.ending().as_str(), journey.status()), ("timeout: request_timeout", Some(408)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_within_its_time_is_served() {
    let rig = Setup::with(|setup| setup.limits.request_timeout = Some(PATIENCE)).start();
    for stream in [false, true] {
        let answer = rig.post(CHAT, &request(CHAT, json!({"max_tokens": 5, "stream": stream}))).await;
        assert_eq!(answer.status, 200);
    }
    assert!(rig.journeys(2).iter().all(|journey| journey.ending() == "departed"));
}
