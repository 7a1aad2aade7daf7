//! Answers that end well, by every cause there is, and requests that lose their KV blocks on the way.

use std::time::Duration;

use serde_json::{Value, json};
use wayfare_testkit::{StepBehaviour, wait_until};

use crate::arrived::Journey;
use crate::rig::{CHAT, COMPLETIONS, ENDLESS, PASSAGE, PATIENCE, Setup, request};

/// The prompt of [`request`] under the test's chat template.
const CHAT_PROMPT_TOKENS: u64 = 27;

#[tokio::test(flavor = "multi_thread")]
async fn every_cause_of_an_end_is_told_to_client_and_journey() {
    // So slow that the engine hears of a stop string before it comes to the end by itself.
    let step = || StepBehaviour::Slow(Duration::from_millis(1));
    let rig = Setup::with(|setup| setup.faults = Box::new(move |_| step())).start();
    let space = rig.post("/v1/completions", &json!({"prompt": " ", "max_tokens": 1})).await;
    assert_eq!(space.choice()["text"], "A");
    // The passage is "All work and no play. ".
    let cases: [(Value, Value, &str, Value, &str); 4] = [
        (json!({"seed": 5}), json!("All w"), "stop", json!(null), "stopped"),
        (
            json!({"stop": ["no such", "and"], "max_tokens": 1_000}),
            json!("All work "),
            "stop",
            json!("and"),
            "stopped",
        ),
        (json!({"max_tokens": 3}), json!("All"), "length", json!(null), "length"),
        (json!({"seed": 0}), json!(""), "stop", json!(null), "stopped"),
    ];
    let mut count = 1;
    for (fields, text, finish_reason, stop_reason, status) in &cases {
        for stream in [false, true] {
            let mut body = json!({"prompt": "Hi", "max_tokens": 30, "seed": ENDLESS, "stream": stream});
            body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            let answer = rig.post(COMPLETIONS, &body).await;
            count += 1;
            let choice = if stream {
                answer.chunks().last().unwrap()["choices"][0].clone()
            } else {
                let choice = answer.choice();
                assert_eq!(choice["text"], *text);
                choice
            };
            assert_eq!(choice["finish_reason"], *finish_reason, "{body}");
            assert_eq!(choice["stop_reason"], *stop_reason, "{body}");
            let journey = rig.journeys(count).pop().unwrap();
            assert_eq!(journey.ending(), "departed");
            assert_eq!(
                (journey.finish_reason(), journey.finish_status()),
                (Some(*finish_reason), Some(*status))
            );
            assert_eq!(journey.core_events(), ["QUEUED", "SCHEDULED", "FIRST_TOKEN", "FINISHED"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_token_and_the_models_length_end_an_answer() {
    let rig = Setup::with(|setup| setup.scheduler.max_model_len = 64).start();
    let text = wayfare_text::TextFiles::of_bytes().unwrap();
    let token = text.tokenizer.encode("w", false).unwrap()[0];
    let stopped = rig.post(COMPLETIONS, &json!({"prompt": "Hi", "stop_token_ids": [token]})).await.choice();
    assert_eq!((&stopped["text"], &stopped["stop_reason"]), (&json!("All "), &json!(token)));
    // A chat without a limit goes on until the model's length.
    let long = rig.post(CHAT, &request(CHAT, json!({"seed": ENDLESS}))).await;
    assert_eq!(long.choice()["finish_reason"], "length");
    let usage = &long.json()["usage"];
    assert_eq!(usage["total_tokens"], 64);
    // As many as there is room for, and no more.
    let all = json!({"prompt": "Hi", "max_tokens": 62, "seed": ENDLESS});
    assert_eq!(rig.post(COMPLETIONS, &all).await.choice()["finish_reason"], "length");
    let journeys = rig.journeys(3);
    assert_eq!((journeys[0].finish_reason(), journeys[0].finish_status()), (Some("stop"), Some("stopped")));
    assert_eq!((journeys[2].finish_reason(), journeys[2].finish_status()), (Some("length"), Some("length")));
    assert_eq!((journeys[1].finish_reason(), journeys[1].finish_status()), (Some("length"), Some("length")));
    assert_eq!(journeys[1].request.int("gen_ai.usage.input_tokens"), usage["prompt_tokens"].as_i64());
    assert!(usage["prompt_tokens"].as_u64().unwrap() >= CHAT_PROMPT_TOKENS - 20);
}

fn ns(journey: &Journey, wanted: impl Fn(&wayfare_testkit::EventView) -> bool) -> i64 {
    journey.cores[0].events.iter().find(|event| wanted(event)).unwrap().int("ts.monotonic_ns").unwrap()
}

/// A4: five sequences of up to 140 tokens in a pool for two.
#[tokio::test(flavor = "multi_thread")]
async fn a_preempted_request_finishes_and_its_queue_time_is_the_first_wait() {
    let rig = Setup::with(|setup| setup.scheduler.num_kv_blocks = 18).start();
    let body = json!({"prompt": "p".repeat(40), "max_tokens": 100, "seed": ENDLESS});
    // Steps take no time, so on a busy machine one request could be over before the next one comes.
    rig.control.hold();
    let answers: Vec<_> = (0..5).map(|_| rig.spawn(COMPLETIONS, body.clone())).collect();
    wait_until(PATIENCE, || rig.shutdown.sequences_in_flight() == 5);
    rig.control.release();
    for answer in answers {
        let choice = answer.await.unwrap().choice();
        assert_eq!(choice["text"].as_str(), Some(&PASSAGE.repeat(5)[..100]));
    }
    let journeys = rig.journeys(5);
    let mut preempted = 0;
    for journey in &journeys {
        assert_eq!((journey.ending().as_str(), journey.finish_status()), ("departed", Some("length")));
        let names = journey.core_events();
        preempted += names.iter().filter(|name| **name == "PREEMPTED").count() as u64;
        let queued = ns(journey, |event| event.name == "journey.QUEUED");
        let scheduled = ns(journey, |event| event.text("schedule.kind") == Some("FIRST"));
        assert!(scheduled >= queued);
        let queue_time = journey.request.double("gen_ai.latency.time_in_queue").unwrap();
        assert!((queue_time - (scheduled - queued) as f64 / 1e9).abs() < 1e-9, "{queue_time}");
        assert_eq!(journey.cores[0].events.last().unwrap().int("decode.done_tokens"), Some(100));
    }
    assert!(preempted > 0, "the pool is too small for all of them");
    assert_eq!(rig.post(COMPLETIONS, &json!({"prompt": "a", "max_tokens": 1})).await.status, 200);
    assert_eq!(wayfare_engine::Engine::stats(&*rig.engine).preemptions, preempted);
}
