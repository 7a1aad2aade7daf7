//! Cases from the field: what public bug reports about servers of this kind say goes wrong.

use std::time::Duration;

use serde_json::json;
use wayfare_scheduler::SchedulerConfig;
use wayfare_testkit::{SpanView, StepBehaviour, wait_until};

use crate::arrived::{bucket_ns, ledger_ns};
use crate::rig::{COMPLETIONS, PATIENCE, Rig, Setup};

fn prompt(tokens: usize, which: usize) -> String {
    // A byte is a token.
    let letters = (0..tokens).map(|index| char::from(b'a' + ((index * (which + 3) + which) % 23) as u8));
    letters.collect()
}

fn body(tokens: usize, which: usize, max_tokens: u32) -> serde_json::Value {
    json!({"prompt": prompt(tokens, which), "max_tokens": max_tokens, "ignore_eos": true})
}

fn metric(text: &str, name: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with(name)).expect("the metric is there");
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

async fn metrics(rig: &Rig) -> String {
    let mut client = rig.connect().await;
    client.send_bytes(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    client.answer().await.unwrap().text
}

/// A2: a short request behind a long prompt.
#[tokio::test(flavor = "multi_thread")]
async fn behind_a_long_prompt_the_short_request_names_it() {
    let rig = Setup::with(|setup| setup.scheduler.max_num_batched_tokens = 64).start();
    rig.control.hold();
    let long = rig.spawn(COMPLETIONS, body(4000, 0, 2));
    wait_until(PATIENCE, || rig.control.is_standing_still());
    let short = rig.spawn(COMPLETIONS, body(10, 1, 2));
    rig.wait_for_arrivals(2);
    std::thread::sleep(Duration::from_millis(50));
    rig.control.every_step(StepBehaviour::Slow(Duration::from_millis(1)));
    rig.control.release();
    assert_eq!((long.await.unwrap().status, short.await.unwrap().status), (200, 200));
    let journeys = rig.journeys(2);
    let [long, short] = &*journeys else { panic!("two journeys") };
    let scheduled = short.cores[0].event("journey.SCHEDULED").unwrap();
    assert_eq!(scheduled.text("wait.reason"), Some("token_budget"));
    assert_eq!(scheduled.text("wait.blocker"), long.request.text("gen_ai.request.id"));
    // The long one needs 63 steps, of which the short one saw all but the first.
    assert!(bucket_ns(&short.request, "queue.token_budget") > 61_000_000, "{:#?}", short.request);
}

/// A3: five requests that grow in a pool that holds four of them.
#[tokio::test(flavor = "multi_thread")]
async fn lost_recomputed_and_found_tokens_agree() {
    const REQUESTS: usize = 5;
    let rig = Setup::with(|setup| {
        setup.scheduler = SchedulerConfig {
            max_num_batched_tokens: 8192,
            // 1000 and 200 tokens take 75 blocks in the end, and 63 at the start.
            num_kv_blocks: 4 * 75 + 21,
            prefix_caching: Some([5, 6]),
            ..setup.scheduler
        };
    })
    .start();
    rig.control.hold();
    // The first one keeps the engine busy until all are there.
    let first = rig.spawn(COMPLETIONS, body(1000, 0, 200));
    wait_until(PATIENCE, || rig.control.is_standing_still());
    let others: Vec<_> = (1..REQUESTS).map(|which| rig.spawn(COMPLETIONS, body(1000, which, 200))).collect();
    rig.wait_for_arrivals(REQUESTS as u64);
    std::thread::sleep(Duration::from_millis(50));
    rig.control.release();
    assert_eq!(first.await.unwrap().status, 200);
    for other in others {
        let answer = other.await.unwrap();
        let usage = &answer.json()["usage"];
        assert_eq!(
            (&usage["completion_tokens"], &usage["prompt_tokens_details"]["cached_tokens"]),
            (&json!(200), &json!(0))
        );
    }
    let journeys = rig.journeys(REQUESTS);
    let cores: Vec<&SpanView> = journeys.iter().flat_map(|journey| &journey.cores).collect();
    let events = |name: &'static str| {
        cores.iter().flat_map(|core| &core.events).filter(move |event| event.name == name)
    };
    let lost: i64 = events("journey.PREEMPTED").filter_map(|event| event.int("tokens_lost")).sum();
    let found: i64 = events("journey.SCHEDULED").filter_map(|event| event.int("cached_tokens")).sum();
    let recomputed: i64 = cores.iter().filter_map(|core| core.int("journey.tokens.recomputed")).sum();
    assert!(lost > 0, "nobody was preempted");
    assert_eq!(lost, recomputed + found, "what was lost was computed again or found again");
    let text = metrics(&rig).await;
    assert_eq!(metric(&text, "vllm:request_recomputed_tokens_sum"), recomputed as f64);
    assert_eq!(metric(&text, "vllm:prefix_cache_hits_total"), 0.0);
    assert_eq!(metric(&text, "vllm:prompt_tokens_total"), 5000.0);
    for core in &cores {
        assert_eq!(core.int("journey.tokens.cached"), Some(0));
        let has_recomputed = core.int("journey.tokens.recomputed") > Some(0);
        assert_eq!(bucket_ns(core, "recompute") > 0, has_recomputed);
        assert_eq!(ledger_ns(core), core.end_unix_ns - core.start_unix_ns);
    }
}
