//! Clients that leave, at each moment at which they can.

use std::io;
use std::time::Duration;

use axum::serve::Listener;
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use wayfare_engine::Engine as _;
use wayfare_testkit::{StepBehaviour, wait_until};

use crate::arrived::Journey;
use crate::raw_client::Client;
use crate::rig::{CHAT, COMPLETIONS, ENDLESS, PATIENCE, Rig, Setup, request};

const MANY_TOKENS: i64 = 4_000;
const PACE: Duration = Duration::from_millis(1);

/// Steps take a millisecond, so that a request of [`endless`] would take seconds.
fn paced() -> Rig {
    let rig = Setup::default().start();
    rig.control.every_step(StepBehaviour::Slow(PACE));
    rig
}

fn endless(stream: bool) -> Value {
    json!({"prompt": "Hi", "max_tokens": MANY_TOKENS, "seed": ENDLESS, "stream": stream})
}

fn check_abandoned(journey: &Journey) {
    assert_eq!(journey.ending(), "client_disconnect: client_disconnect");
    assert_eq!(journey.finish_status(), Some("aborted"));
    let done = journey.cores[0].events.last().unwrap().int("decode.done_tokens").unwrap();
    assert!(done < MANY_TOKENS, "the engine did not go on to the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn gone_before_the_body() {
    let rig = paced();
    for begun in ["", "{\"prompt\""] {
        let mut client = rig.connect().await;
        client.send_head(COMPLETIONS, &[], 100).await.unwrap();
        client.send_bytes(begun.as_bytes()).await.unwrap();
        rig.wait_for_arrivals(if begun.is_empty() { 1 } else { 2 });
        drop(client);
        wait_until(PATIENCE, || rig.tracer.counters().in_flight() == 0);
    }
    for journey in rig.journeys(2) {
        assert!(journey.ending().starts_with("client_disconnect: "), "{}", journey.ending());
        assert!(journey.cores.is_empty());
    }
    assert_eq!(rig.engine.stats().steps, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn gone_before_the_first_token() {
    for stream in [false, true] {
        let rig = paced();
        rig.control.hold();
        let mut client = rig.connect().await;
        client.send(COMPLETIONS, &endless(stream).to_string()).await.unwrap();
        wait_until(PATIENCE, || rig.control.is_standing_still());
        drop(client);
        // The journey of the API part is over before the engine can be.
        wait_until(PATIENCE, || rig.shutdown.sequences_in_flight() == 0);
        rig.control.release();
        let journey = rig.journey();
        check_abandoned(&journey);
        assert!(journey.request.event("api.FIRST_RESPONSE_FROM_CORE").is_none());
        assert!(rig.engine.stats().steps <= 2, "freed within a step");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gone_while_queued() {
    let rig = Setup::with(|setup| setup.scheduler.max_num_seqs = 1).start();
    rig.control.every_step(StepBehaviour::Slow(PACE));
    let mut running = rig.connect().await;
    running.send(COMPLETIONS, &endless(false).to_string()).await.unwrap();
    rig.wait_for_engine(1, 0);
    let mut queued = rig.connect().await;
    queued.send(COMPLETIONS, &endless(true).to_string()).await.unwrap();
    rig.wait_for_engine(1, 1);
    drop(queued);
    rig.wait_for_engine(1, 0);
    drop(running);
    let journeys = rig.journeys(2);
    journeys.iter().for_each(check_abandoned);
    assert_eq!(journeys[1].core_events(), ["QUEUED", "FINISHED"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn gone_midway() {
    for stream in [false, true] {
        let rig = paced();
        let mut client = rig.connect().await;
        client.send(COMPLETIONS, &endless(stream).to_string()).await.unwrap();
        if stream {
            client.read_until("\"text\":\"").await;
        } else {
            wait_until(PATIENCE, || rig.engine.stats().generation_tokens > 10);
        }
        drop(client);
        let journey = rig.journey();
        check_abandoned(&journey);
        assert_eq!(journey.core_events(), ["QUEUED", "SCHEDULED", "FIRST_TOKEN", "FINISHED"]);
        assert_eq!(journey.status(), stream.then_some(200));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gone_while_the_write_is_blocked() {
    let rig = paced();
    rig.control.every_step(StepBehaviour::Slow(Duration::from_micros(300)));
    let mut client = rig.connect().await;
    let body = json!({"prompt": "Hi", "max_tokens": MANY_TOKENS, "seed": ENDLESS, "stream": true});
    client.send(COMPLETIONS, &body.to_string()).await.unwrap();
    // It reads nothing; the engine goes on all the same, and does not wait for it.
    wait_until(PATIENCE, || rig.engine.stats().generation_tokens > 2_000);
    // Nobody else is held up.
    let other = rig.post(COMPLETIONS, &json!({"prompt": "a", "max_tokens": 2})).await;
    assert_eq!(other.status, 200);
    drop(client);
    let journeys = rig.journeys(2);
    check_abandoned(&journeys[0]);
    assert_eq!(journeys[1].ending(), "departed");
}

#[tokio::test(flavor = "multi_thread")]
async fn gone_after_the_last_chunk_has_departed() {
    let rig = paced();
    for (count, path) in (1..).zip([CHAT, COMPLETIONS]) {
        let mut client = rig.connect().await;
        let body = request(path, json!({"max_tokens": 3, "stream": true})).to_string();
        client.send(path, &body).await.unwrap();
        client.read_until("\"finish_reason\":\"length\"").await;
        drop(client);
        let journey = rig.journeys(count).pop().unwrap();
        assert_eq!((journey.ending().as_str(), journey.finish_status()), ("departed", Some("length")));
    }
}

/// Connections with room for a few bytes, so that every write waits for the client.
struct TightListener(mpsc::UnboundedReceiver<DuplexStream>);

impl Listener for TightListener {
    type Io = DuplexStream;
    type Addr = ();

    async fn accept(&mut self) -> (DuplexStream, ()) {
        match self.0.recv().await {
            Some(connection) => (connection, ()),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// The writes of `[DONE]`, and of most of the last chunk, fail.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_while_writing_done_loses_nothing() {
    let rig = Setup::default().start();
    let (connect, connections) = mpsc::unbounded_channel();
    let router = rig.router.clone();
    tokio::spawn(axum::serve(TightListener(connections), router).into_future());
    let (ours, theirs) = tokio::io::duplex(16);
    connect.send(theirs).unwrap();
    let mut client = Client::over(ours);
    let body = json!({"prompt": "Hi", "max_tokens": 2, "stream": true}).to_string();
    client.send(COMPLETIONS, &body).await.unwrap();
    client.read_until("\"finish_reason\":\"length\"").await;
    drop(client);
    let journey = rig.journey();
    assert_eq!((journey.ending().as_str(), journey.finish_status()), ("departed", Some("length")));
    assert_eq!(journey.finish_reason(), Some("length"));
}
