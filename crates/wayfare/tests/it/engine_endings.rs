//! The engine fails, and the server stops, with requests in every state.

use serde_json::{Value, json};
use std::time::Duration;
use wayfare_engine::Engine as _;
use wayfare_testkit::{StepBehaviour, wait_until};

use crate::raw_client::Client;
use crate::rig::{CHAT, COMPLETIONS, ENDLESS, PATIENCE, Rig, Setup, blocking, request};

const PACE: Duration = Duration::from_millis(2);

fn endless(path: &str, stream: bool) -> Value {
    request(path, json!({"max_tokens": 1_000, "seed": ENDLESS, "stream": stream}))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_step_fails_its_requests_and_the_next_are_served() {
    let rig = Setup::default().start();
    rig.control.next_step(StepBehaviour::Fail);
    let whole = rig.post(CHAT, &request(CHAT, json!({}))).await;
    assert_eq!((whole.status, whole.error_code().as_str()), (500, "generation_error"));
    // The first step gives a token, the second fails.
    rig.control.next_step(StepBehaviour::Slow(PACE));
    rig.control.next_step(StepBehaviour::Fail);
    let stream = rig.post(COMPLETIONS, &endless(COMPLETIONS, true)).await;
    assert_eq!((stream.status, stream.last_error_code().as_str()), (200, "generation_error"));
    let served = rig.post(COMPLETIONS, &json!({"prompt": "a", "max_tokens": 2})).await;
    assert_eq!(served.status, 200);
    let journeys = rig.journeys(3);
    for (journey, status) in journeys.iter().zip([500, 200]) {
        assert_eq!(journey.ending(), "generation_error: generation_error");
        assert_eq!((journey.status(), journey.finish_status()), (Some(status), Some("error")));
    }
    assert_eq!(journeys[1].request.int("gen_ai.usage.output_tokens"), Some(1));
    assert_eq!(journeys[2].ending(), "departed");
}

/// A server whose engine has one request that streams, one that is to be answered whole, and two that wait.
async fn busy() -> (Rig, Vec<tokio::task::JoinHandle<crate::raw_client::Answer>>) {
    let rig = Setup::with(|setup| setup.scheduler.max_num_seqs = 2).start();
    rig.control.every_step(StepBehaviour::Slow(PACE));
    let mut answers = Vec::new();
    let mut client = rig.connect().await;
    client.send(CHAT, &endless(CHAT, true).to_string()).await.unwrap();
    client.read_until("\"content\":\"A").await;
    answers.push(tokio::spawn(async move { client.answer().await.expect("a whole answer") }));
    answers.push(rig.spawn(COMPLETIONS, endless(COMPLETIONS, false)));
    rig.wait_for_engine(2, 0);
    answers.push(rig.spawn(COMPLETIONS, endless(COMPLETIONS, true)));
    answers.push(rig.spawn(CHAT, endless(CHAT, false)));
    rig.wait_for_engine(2, 2);
    (rig, answers)
}

/// Everybody gets the error: those that stream in a frame, the others as their status.
async fn check_told(answers: Vec<tokio::task::JoinHandle<crate::raw_client::Answer>>, code: &str) {
    for answer in answers {
        let answer = answer.await.unwrap();
        if answer.header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")) {
            assert_eq!((answer.status, answer.last_error_code().as_str()), (200, code));
        } else {
            assert_eq!((answer.status, answer.error_code().as_str()), (503, code));
        }
    }
}

/// A28.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_panic_ends_everything_in_flight_and_refuses_what_comes() {
    let (rig, answers) = busy().await;
    rig.control.next_step(StepBehaviour::Panic);
    check_told(answers, "engine_dead").await;
    for path in [CHAT, COMPLETIONS] {
        let later = rig.post(path, &request(path, json!({}))).await;
        assert_eq!((later.status, later.error_code().as_str()), (503, "engine_dead"));
    }
    let mut client = rig.connect().await;
    client.send_bytes(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(client.answer().await.unwrap().error_code(), "engine_dead");
    let journeys = rig.journeys(6);
    for journey in &journeys {
        assert_eq!(journey.ending(), "engine_dead: engine_dead");
    }
    let statuses: Vec<_> = journeys.iter().map(|journey| journey.finish_status()).collect();
    assert_eq!(statuses, [Some("error"), Some("error"), Some("error"), Some("error"), None, None]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_what_is_queued_running_and_streaming() {
    let (rig, answers) = busy().await;
    // One whose body has not come, and one that does not read.
    let mut uploading = rig.connect().await;
    uploading.send_head(CHAT, &[], 1_000).await.unwrap();
    rig.wait_for_arrivals(5);
    rig.shutdown.close();
    check_told(answers, "shutdown").await;
    assert_eq!(uploading.answer().await.unwrap().error_code(), "shutdown");
    let late = rig.post(CHAT, &request(CHAT, json!({}))).await;
    assert_eq!((late.status, late.error_code().as_str()), (503, "shutdown"));
    let engine = std::sync::Arc::clone(&rig.engine);
    blocking(move || engine.stop()).await;
    rig.flush();
    let journeys = rig.journeys(6);
    for journey in &journeys {
        assert_eq!(journey.ending(), "shutdown: shutdown");
    }
    let statuses: Vec<_> = journeys.iter().map(|journey| journey.finish_status()).collect();
    let aborted = Some("aborted");
    assert_eq!(statuses, [aborted, aborted, aborted, aborted, None, None]);
}

/// The engine is stopped under the server's feet: nobody is left waiting.
#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_stops_first_leaves_nobody_waiting() {
    let (rig, answers) = busy().await;
    rig.shutdown.drain();
    let engine = std::sync::Arc::clone(&rig.engine);
    blocking(move || engine.stop()).await;
    check_told(answers, "shutdown").await;
    for journey in rig.journeys(4) {
        assert_eq!(
            (journey.ending().as_str(), journey.finish_status()),
            ("shutdown: shutdown", Some("aborted"))
        );
    }
    assert!(rig.engine.fault().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_lets_what_runs_end_well() {
    let rig = Setup::default().start();
    rig.control.hold();
    let running = rig.spawn(COMPLETIONS, json!({"prompt": "a", "max_tokens": 5, "stream": true}));
    wait_until(PATIENCE, || rig.control.is_standing_still());
    rig.shutdown.drain();
    let mut client = Client::connect(rig.address).await.unwrap();
    client.send(CHAT, &request(CHAT, json!({})).to_string()).await.unwrap();
    assert_eq!(client.answer().await.unwrap().error_code(), "shutdown");
    rig.control.release();
    assert_eq!(running.await.unwrap().chunks().last().unwrap()["choices"][0]["finish_reason"], "length");
    let journeys = rig.journeys(2);
    assert_eq!(
        (journeys[0].ending().as_str(), journeys[1].ending().as_str()),
        ("departed", "shutdown: shutdown")
    );
}
