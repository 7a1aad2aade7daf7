//! `wayfare serve sim`: profiles, latencies, answers and failures, through HTTP.

use std::time::Duration;

use serde_json::{Value, json};
use wayfare_journey::{Clock as _, SystemClock};

use wayfare_testkit::OtlpSink;

use crate::arrived::journeys;
use crate::raw_client::{Answer, Client};
use crate::rig::{CHAT, COMPLETIONS, PATIENCE, request};
use crate::server::{ServerProcess, command, failed_start};

/// With a small cache: a debug build checks every block of it in every step.
fn start(arguments: &[&str]) -> ServerProcess {
    ServerProcess::simulated(
        &[&["--num-kv-blocks", "101", "--max-model-len", "300"], arguments].concat(),
        &[],
    )
}

async fn post(server: &ServerProcess, path: &str, body: Value) -> Answer {
    let mut client = Client::connect(server.socket_address()).await.unwrap();
    client.send(path, &body.to_string()).await.unwrap();
    client.answer().await.expect("a whole answer")
}

async fn text_of(server: &ServerProcess, body: Value) -> (String, String, u64) {
    let answer = post(server, COMPLETIONS, body).await;
    assert_eq!(answer.status, 200);
    let body = answer.json();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let choice = &body["choices"][0];
    let tokens = body["usage"]["completion_tokens"].as_u64().unwrap();
    (text(&choice["text"]), text(&choice["finish_reason"]), tokens)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_echo_says_the_prompt_and_stops() {
    let server = start(&["--sim-profile", "instant", "--sim-output", "echo"]);
    let said = text_of(&server, json!({"prompt": "Grüße, 世界", "max_tokens": 100})).await;
    assert_eq!(said, ("Grüße, 世界".into(), "stop".into(), "Grüße, 世界".len() as u64 + 1));
    let said = text_of(&server, json!({"prompt": "Grüße, 世界", "max_tokens": 2})).await;
    assert_eq!(said, ("Gr".into(), "length".into(), 2));
    let chat = post(&server, CHAT, json!({"messages": [{"role": "user", "content": "hi there"}]})).await;
    let content = chat.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert!(content.contains("hi there"), "{content:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn random_words_are_those_of_the_seed_and_end_as_asked() {
    let arguments = [
        "--sim-profile",
        "instant",
        "--sim-output",
        "random",
        "--sim-output-tokens",
        "20..40",
        "--seed",
        "5",
    ];
    let server = start(&arguments);
    let ask = |seed: u64| json!({"prompt": "Hi", "max_tokens": 100, "seed": seed});
    let first = text_of(&server, ask(1)).await;
    assert_eq!((&*first.1, (21..=41).contains(&first.2)), ("stop", true), "{first:?}");
    assert!(first.0.split_whitespace().count() > 3, "{first:?}");
    assert_ne!(text_of(&server, ask(2)).await, first);
    // The same seeds say the same, also of another process.
    assert_eq!(text_of(&start(&arguments), ask(1)).await, first);
    let cut = text_of(&server, json!({"prompt": "Hi", "max_tokens": 7, "seed": 1})).await;
    assert_eq!((cut.0.as_str(), cut.1.as_str(), cut.2), (&first.0[..7], "length", 7));
    let endless = json!({"prompt": "Hi", "max_tokens": 90, "seed": 1, "ignore_eos": true});
    assert_eq!(text_of(&server, endless).await.2, 90);
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_take_the_times_that_were_asked_for() {
    let took = |arguments: &'static [&'static str], max_tokens: u64| async move {
        let server = start(arguments);
        let began = SystemClock.now();
        text_of(&server, json!({"prompt": "Hi", "max_tokens": max_tokens})).await;
        Duration::from_nanos(SystemClock.now().since(began))
    };
    let latencies = took(&["--time-to-first-token", "200ms", "--inter-token-latency", "30"], 6).await;
    assert!(latencies >= Duration::from_millis(200 + 5 * 30), "{latencies:?}");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("slow.json");
    let profile = json!({
        "name": "slow",
        "origin": ["made up"],
        "step_time": {"base_us": 50_000, "per_prefill_token_us": 0, "per_decode_token_us": 0, "per_kv_token_us": 0},
        "engine": {"max_num_seqs": 3, "max_num_batched_tokens": 64, "block_size": 8, "num_kv_blocks": 30,
            "max_model_len": 200},
    });
    std::fs::write(&path, profile.to_string()).unwrap();
    let server = ServerProcess::simulated(&["--sim-profile", path.to_str().unwrap()], &[]);
    let began = SystemClock.now();
    text_of(&server, json!({"prompt": "Hi", "max_tokens": 4})).await;
    assert!(SystemClock.now().since(began) >= 200_000_000);
    let too_long = post(&server, COMPLETIONS, json!({"prompt": "Hi", "max_tokens": 199})).await;
    assert_eq!(too_long.status, 400);
}

/// What comes of a hundred requests, one after the other.
async fn codes(server: &ServerProcess, path: &str) -> Vec<(u16, String)> {
    let mut codes = Vec::new();
    for _ in 0..100 {
        let answer = post(server, path, request(path, json!({"max_tokens": 2}))).await;
        let code = if answer.status == 200 { String::new() } else { answer.error_code() };
        codes.push((answer.status, code));
    }
    codes
}

#[tokio::test(flavor = "multi_thread")]
async fn injected_refusals_look_like_those_of_llm_d_and_come_at_their_rate() {
    let arguments = ["--sim-profile", "instant", "--failure-injection-rate", "40", "--seed", "3"];
    let server = start(&arguments);
    let first = codes(&server, COMPLETIONS).await;
    let count = |status| first.iter().filter(|(one, _)| *one == status).count();
    assert_eq!(count(200) + count(429) + count(503), 100);
    assert!((40..80).contains(&count(200)) && count(429) > 5 && count(503) > 5, "{first:?}");
    for (status, code) in &first {
        let expected = match status {
            429 => "overloaded",
            503 => "engine_dead",
            _ => "",
        };
        assert_eq!(code, expected);
    }
    // Another process fails the same requests, whatever they are.
    assert_eq!(codes(&start(&arguments), CHAT).await, first);
    let ended = server.stop();
    assert!(ended.status.success() && ended.log.contains("40% of the requests"), "{}", ended.log);
}

/// Every kind at once, but for the panic: journeys say of each request what its client was told.
#[tokio::test(flavor = "multi_thread")]
async fn an_injected_failure_fails_its_request_and_its_journey_says_so() {
    let sink = OtlpSink::start();
    let endpoint = sink.grpc_endpoint();
    let server = start(&[
        "--sim-profile=instant",
        "--failure-injection-rate=60",
        "--failure-types=rate_limit,server_error,executor_error,slow_step",
        "--failure-slow-step=2ms",
        "--enable-journey-tracing",
        "--otlp-traces-endpoint",
        &endpoint,
    ]);
    let codes = codes(&server, COMPLETIONS).await;
    assert!(server.stop().status.success());
    let spans = sink.wait_for_spans("llm_request", codes.len(), PATIENCE);
    let journeys = journeys(spans).unwrap_or_else(|problem| panic!("{problem}"));
    for ((status, code), journey) in codes.iter().zip(&journeys) {
        let expected = match status {
            200 => ("departed", Some("length")),
            429 => ("overloaded: overloaded", None),
            500 => ("generation_error: generation_error", Some("error")),
            503 => ("engine_dead: engine_dead", None),
            other => panic!("{other} {code}"),
        };
        assert_eq!((journey.ending().as_str(), journey.finish_status()), expected);
        assert_eq!(journey.status(), Some(i64::from(*status)));
    }
    for status in [200, 429, 500, 503] {
        let count = codes.iter().filter(|(one, _)| *one == status).count();
        assert!(count >= 5, "{count} times {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_injected_slow_step_is_slow_and_no_more() {
    let server = start(&[
        "--sim-profile=instant",
        "--failure-injection-rate=100",
        "--failure-types=slow_step",
        "--failure-slow-step=150ms",
    ]);
    let began = SystemClock.now();
    let said = text_of(&server, json!({"prompt": "Hi", "max_tokens": 5})).await;
    let took = SystemClock.now().since(began);
    assert_eq!((said.1.as_str(), said.2), ("length", 5));
    assert!(took >= 150_000_000, "{took} ns");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_injected_panic_ends_the_engine_and_everybody_is_told() {
    let server =
        start(&["--sim-profile=instant", "--failure-injection-rate=100", "--failure-types", "engine_panic"]);
    for _ in 0..2 {
        let answer = post(&server, COMPLETIONS, json!({"prompt": "Hi", "max_tokens": 5})).await;
        assert_eq!((answer.status, answer.error_code().as_str()), (503, "engine_dead"));
    }
    let ended = server.stop();
    assert!(ended.log.contains("an engine panic was injected"), "{}", ended.log);
}

#[test]
fn options_of_the_simulated_engine_need_it() {
    for option in [
        &["--sim-profile", "instant"][..],
        &["--time-to-first-token", "5ms"],
        &["--sim-output", "echo"],
        &["--failure-injection-rate", "5"],
    ] {
        // No model is looked for before that is said.
        let ended = failed_start(&mut command(&[&[env!("CARGO_MANIFEST_DIR")], option].concat()));
        assert_eq!(ended.status.code(), Some(2));
        assert!(ended.log.contains(option[0]) && ended.log.contains("`sim`"), "{}", ended.log);
    }
    for (arguments, words) in [
        (&["--sim-profile", "h200"][..], "a100-llama-3.1-8b"),
        (&["--sim-profile", "instant", "--inter-token-latency", "5"], "--sim-profile"),
        (&["--failure-injection-rate", "5", "--failure-types", "context_length"], "engine_panic"),
        (&["--time-to-first-token", "9", "--prefill-overhead", "9"], "--prefill-overhead"),
    ] {
        let ended = failed_start(&mut command(&[&["sim"], arguments].concat()));
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}");
        assert!(ended.log.contains(words), "{arguments:?}: {}", ended.log);
    }
}
