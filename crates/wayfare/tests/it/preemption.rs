//! The real model under too little KV cache, and with prompts that it knows.

use std::thread;
use std::time::Duration;

use wayfare_testkit::{OtlpSink, SpanView};

use crate::client::{get, post};
use crate::server::ServerProcess;

const QUESTIONS: [&str; 4] =
    ["Tell me about the sea.", "What is bread made of?", "Describe a lighthouse.", "Why is the sky blue?"];
const ANSWER_TOKENS: u32 = 80;
const PATIENCE: Duration = Duration::from_secs(20);

fn body(question: &str) -> String {
    serde_json::json!({
        "messages": [{"role": "user", "content": question}],
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "ignore_eos": true,
    })
    .to_string()
}

fn ask(address: &str, question: &str) -> String {
    let response = post(address, "/v1/chat/completions", &[], &body(question));
    assert_eq!(response.status, 200, "{}", response.body);
    response.text()
}

#[test]
fn a_preempted_request_says_so_and_answers_as_if_nothing_had_happened() {
    let calm = ServerProcess::start(&["--max-model-len", "256"]);
    let undisturbed = QUESTIONS.map(|question| ask(&calm.address, question));
    drop(calm);

    // Four sequences of some 40 + 80 tokens need 32 blocks; 20 can be used.
    let sink = OtlpSink::start();
    let server = ServerProcess::start(&[
        "--max-model-len",
        "256",
        "--num-gpu-blocks-override",
        "21",
        "--enable-journey-tracing",
        "--otlp-traces-endpoint",
        &sink.grpc_endpoint(),
    ]);
    let answers: Vec<String> = thread::scope(|scope| {
        let address = &server.address;
        let asked = QUESTIONS.map(|question| scope.spawn(move || ask(address, question)));
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    // The result of a row does not depend on the other rows of its step, so not even close calls may differ.
    assert_eq!(answers, undisturbed);

    sink.wait_for_spans("llm_request", QUESTIONS.len(), PATIENCE);
    let spans = sink.wait_for_spans("llm_core", QUESTIONS.len(), PATIENCE);
    let preempted: Vec<&SpanView> = spans.iter().filter(|s| s.event("journey.PREEMPTED").is_some()).collect();
    assert!(!preempted.is_empty(), "nobody was preempted");
    let ids: Vec<_> = spans.iter().filter_map(|span| span.text("gen_ai.request.id")).collect();
    let mut preemptions = 0;
    for span in preempted {
        let names = span.event_names();
        assert_eq!(names.iter().filter(|name| **name == "journey.FIRST_TOKEN").count(), 1);
        for pair in span.events.windows(2).filter(|pair| pair[0].name == "journey.PREEMPTED") {
            preemptions += 1;
            let [lost, resumed] = [&pair[0], &pair[1]];
            assert_eq!(resumed.name, "journey.SCHEDULED");
            assert_eq!(resumed.text("schedule.kind"), Some("RESUME"));
            assert_eq!(resumed.text("phase"), Some("PREFILL"));
            assert!(lost.int("tokens_lost") > Some(0));
            assert!(lost.int("kv.blocks_freed") > Some(0));
            assert!(lost.text("preempted.by").is_none_or(|by| ids.contains(&by)));
        }
        let finished = span.event("journey.FINISHED").unwrap();
        assert_eq!(finished.int("decode.done_tokens"), Some(i64::from(ANSWER_TOKENS)));
        assert!(finished.int("num_preemptions") > Some(0));
    }
    let metrics = get(&server.address, "/metrics").body;
    let counter = format!(
        "vllm:num_preemptions_total{{model_name=\"SmolLM2-135M-Instruct\",engine=\"0\"}} {preemptions}"
    );
    assert!(metrics.contains(&counter), "{counter} is not in\n{metrics}");
}

#[test]
fn a_cached_prefix_changes_no_answer() {
    let server = ServerProcess::start(&["--max-model-len", "256"]);
    let ask = |salt: &str| {
        let mut body: serde_json::Value = serde_json::from_str(&body(QUESTIONS[0])).unwrap();
        body["cache_salt"] = salt.into();
        let response = post(&server.address, "/v1/chat/completions", &[], &body.to_string());
        assert_eq!(response.status, 200, "{}", response.body);
        let usage = &response.json()["usage"]["prompt_tokens_details"];
        (response.text(), usage["cached_tokens"].as_u64().unwrap())
    };
    let (computed, none) = ask("one");
    let (cached, some) = ask("one");
    let (anew, other) = ask("two");
    assert_eq!((none, other), (0, 0));
    assert!(some >= 16, "{some} tokens were found");
    assert_eq!((&cached, &anew), (&computed, &computed));
}
