//! What a client is told about the time of its own request.

use serde_json::{Value, json};
use wayfare_testkit::StepBehaviour;

use crate::raw_client::Answer;
use crate::rig::{CHAT, COMPLETIONS, Rig, Setup, request};

const BUCKETS: [&str; 11] = [
    "receive",
    "prepare",
    "admit",
    "queue",
    "prefill",
    "prefill_wait",
    "decode",
    "interference",
    "preempted",
    "recompute",
    "deliver",
];

fn rig() -> Rig {
    let rig = Setup::with(|_| {}).start();
    rig.control.every_step(StepBehaviour::Slow(std::time::Duration::from_millis(2)));
    rig
}

fn check_metrics(metrics: &Value, tokens: u32) {
    let ms = |name: &str| metrics[name].as_f64().unwrap_or_else(|| panic!("{name} in {metrics}"));
    let ledger = &metrics["ledger_ns"];
    let total: u64 = BUCKETS.iter().map(|bucket| ledger[*bucket].as_u64().unwrap()).sum();
    assert!((total as f64 / 1e6 - ms("e2e_time_ms")).abs() < 1e-6, "the ledger adds up: {metrics}");
    let waited: u64 =
        ledger["queue_by_reason"].as_object().unwrap().values().map(|ns| ns.as_u64().unwrap()).sum();
    assert_eq!(json!(waited), ledger["queue"]);
    let (first, queue, prefill) = (ms("time_to_first_token_ms"), ms("queue_time_ms"), ms("prefill_time_ms"));
    assert!(prefill >= 2.0 && first >= queue + prefill, "{metrics}");
    assert!(first + ms("generation_time_ms") <= ms("e2e_time_ms"), "{metrics}");
    let steps = f64::from(tokens - 1);
    assert!((ms("mean_itl_ms") * steps - ms("generation_time_ms")).abs() < 1e-6, "{metrics}");
    assert!(ms("mean_itl_ms") >= 2.0);
    assert_eq!((&metrics["preemptions"], &metrics["cached_tokens"]), (&json!(0), &json!(0)));
}

fn server_timing(answer: &Answer) -> Vec<(String, f64)> {
    let value = answer.header("server-timing").expect("the header is there");
    let entry = |entry: &str| {
        let (name, duration) = entry.split_once(";dur=").unwrap();
        (name.to_owned(), duration.parse().unwrap())
    };
    value.split(", ").map(entry).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_has_the_metrics_and_the_header() {
    let rig = rig();
    for path in [CHAT, COMPLETIONS] {
        let answer = rig.post(path, &request(path, json!({"max_tokens": 5, "include_metrics": true}))).await;
        let body = answer.json();
        check_metrics(&body["metrics"], 5);
        let timing = server_timing(&answer);
        let (total, parts) = timing.split_last().unwrap();
        assert_eq!(total.0, "total");
        let sum: f64 = parts.iter().map(|(_, duration)| duration).sum();
        // Each is rounded to a microsecond.
        assert!((sum - total.1).abs() < 0.01, "{timing:?}");
        assert!(parts.iter().any(|(name, duration)| name == "decode" && *duration >= 8.0), "{timing:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_wish_there_is_only_the_header() {
    let rig = rig();
    let answer = rig.post(CHAT, &request(CHAT, json!({"max_tokens": 2}))).await;
    assert_eq!(answer.json().get("metrics"), None);
    assert!(!server_timing(&answer).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_has_them_in_its_last_chunk() {
    let rig = rig();
    for (include_usage, path) in [(true, CHAT), (false, CHAT), (true, COMPLETIONS), (false, COMPLETIONS)] {
        let options = json!({
            "max_tokens": 5,
            "include_metrics": true,
            "stream": true,
            "stream_options": {"include_usage": include_usage},
        });
        let answer = rig.post(path, &request(path, options)).await;
        let chunks = answer.chunks();
        let (last, others) = chunks.split_last().unwrap();
        check_metrics(&last["metrics"], 5);
        assert_eq!(last["choices"], json!([]));
        assert_eq!(last.get("usage").is_some(), include_usage);
        assert!(others.iter().all(|chunk| chunk.get("metrics").is_none()));
        assert_eq!(answer.header("server-timing"), None);
        let plain = json!({"max_tokens": 2, "stream": true});
        let chunks = rig.post(path, &request(path, plain)).await.chunks();
        assert!(chunks.iter().all(|chunk| chunk.get("metrics").is_none()));
    }
}

/// The engine ends the request only when it is told to, and its account comes later than the answer's text.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_string_has_a_whole_account_too() {
    let rig = rig();
    let text = |answer: &Answer| answer.choice()["text"].as_str().unwrap().to_owned();
    let whole = text(&rig.post(COMPLETIONS, &request(COMPLETIONS, json!({"max_tokens": 12}))).await);
    let stop: String = whole.chars().skip(5).take(2).collect();
    for stream in [false, true] {
        let asked = json!({"max_tokens": 12, "stop": stop, "include_metrics": true, "stream": stream});
        let answer = rig.post(COMPLETIONS, &request(COMPLETIONS, asked)).await;
        let (metrics, finish_reason) = if stream {
            let chunks = answer.chunks();
            let ended = chunks
                .iter()
                .find_map(|chunk| chunk["choices"][0]["finish_reason"].as_str().map(str::to_owned));
            (chunks.last().unwrap()["metrics"].clone(), ended.unwrap())
        } else {
            let body = answer.json();
            let reason = body["choices"][0]["finish_reason"].as_str().unwrap().to_owned();
            (body["metrics"].clone(), reason)
        };
        assert_eq!(finish_reason, "stop");
        let total: u64 = BUCKETS.iter().map(|bucket| metrics["ledger_ns"][*bucket].as_u64().unwrap()).sum();
        assert!((total as f64 / 1e6 - metrics["e2e_time_ms"].as_f64().unwrap()).abs() < 1e-6);
        assert!(metrics["ledger_ns"]["decode"].as_u64().unwrap() > 0, "{metrics}");
    }
    let journeys = rig.journeys(3);
    assert!(journeys.iter().all(|journey| journey.ending() == "departed"));
}
