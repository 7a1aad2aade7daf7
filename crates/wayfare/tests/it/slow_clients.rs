//! Clients that do not read: what they cost, and whom.

use std::time::Duration;

use serde_json::{Value, json};
use wayfare_engine::Engine as _;
use wayfare_scheduler::SchedulerConfig;
use wayfare_testkit::wait_until;

use crate::heap::live_bytes;
use crate::raw_client::Client;
use crate::rig::{COMPLETIONS, ENDLESS, PATIENCE, Rig, Setup};

const STREAMS: usize = 3;
const TOKENS: usize = 4_000;
/// What a stream may hold that nobody reads: buffers of the connection on both sides, in bytes …
const BUFFER_BYTES: usize = 600 << 10;
/// … and for each token that the engine has made of it.
const BYTES_PER_TOKEN: usize = 600;

fn body() -> String {
    json!({"prompt": "Hi", "max_tokens": TOKENS, "seed": ENDLESS, "stream": true}).to_string()
}

fn rig() -> Rig {
    Setup::with(|setup| setup.scheduler = SchedulerConfig::with_sizes(8, 256, 4_096, 16, 4_096)).start()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_hold_bounded_memory_and_nobody_else_up() {
    let rig = rig();
    let made = || rig.engine.stats().generation_tokens;
    // Everything has been used once.
    let warm = rig.post(COMPLETIONS, &json!({"prompt": "Hi", "max_tokens": 50})).await;
    assert_eq!(warm.status, 200);
    rig.wait_until_nothing_is_left();
    let (bytes_before, made_before) = (live_bytes(), made());

    let mut deaf = Vec::new();
    for _ in 0..STREAMS {
        let mut client = rig.connect().await;
        client.send(COMPLETIONS, &body()).await.unwrap();
        deaf.push(client);
    }
    // One that reads gets its answer meanwhile.
    let heard = rig.post(COMPLETIONS, &json!({"prompt": "a", "max_tokens": 500, "seed": ENDLESS})).await;
    assert_eq!(heard.choice()["finish_reason"], "length");
    // The engine comes to the end of every answer, though nobody has read one.
    let expected = (STREAMS * TOKENS + 500) as u64;
    wait_until(PATIENCE, || made() - made_before == expected);
    wait_until(PATIENCE, || rig.engine.stats().running == 0);
    let held = live_bytes().saturating_sub(bytes_before);
    let bound = STREAMS * (BUFFER_BYTES + TOKENS * BYTES_PER_TOKEN);
    assert!(
        held < bound,
        "{held} bytes are held for {STREAMS} streams that nobody reads, {bound} are allowed"
    );

    // Nothing is lost: who reads late reads all.
    for mut client in deaf {
        let answer = client.answer().await.unwrap();
        let chunks = answer.chunks();
        let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
        assert_eq!(text.len(), TOKENS);
        assert!(chunks.len() < TOKENS, "what came while nobody read comes together: {} chunks", chunks.len());
    }
    rig.wait_until_nothing_is_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_a_client_that_does_not_read_is_that_of_delivery() {
    const DEAF_FOR: Duration = Duration::from_millis(400);
    let rig = rig();
    let mut client: Client = rig.connect().await;
    let mut body: Value = serde_json::from_str(&body()).unwrap();
    body["include_metrics"] = true.into();
    client.send(COMPLETIONS, &body.to_string()).await.unwrap();
    wait_until(PATIENCE, || rig.engine.stats().generation_tokens >= TOKENS as u64);
    tokio::time::sleep(DEAF_FOR).await;
    let chunks = client.answer().await.unwrap().chunks();
    let ledger = &chunks.last().unwrap()["metrics"]["ledger_ns"];
    let deaf_ns = u64::try_from(DEAF_FOR.as_nanos()).unwrap();
    assert!(ledger["deliver"].as_u64().unwrap() >= deaf_ns, "{ledger}");
    let journey = rig.journey();
    assert_eq!(journey.ending(), "departed");
    let delivered = journey.request.int("journey.ledger.deliver_ns").unwrap();
    assert!(delivered >= i64::try_from(deaf_ns).unwrap(), "{delivered}");
}
