//! Risks of `docs/audit.md` that no other test excludes.

use serde_json::{Value, json};

use crate::client::{Response, get, post};
use crate::rig::{CHAT, COMPLETIONS};
use crate::server::ServerProcess;

const OPENMETRICS: &str = "application/openmetrics-text;version=1.0.0";

/// What a client gets to see, without what differs from request to request.
fn visible(response: &Response) -> (u16, Vec<String>, Vec<Value>) {
    let mut headers: Vec<String> = response
        .headers
        .iter()
        .filter(|(name, _)| !["traceresponse", "x-request-id", "date"].contains(&name.as_str()))
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    headers.sort();
    let mut bodies: Vec<Value> = match response.events().as_slice() {
        [] => vec![response.json()],
        events => events.iter().map(|data| serde_json::from_str(data).unwrap_or_default()).collect(),
    };
    for body in bodies.iter_mut().filter_map(Value::as_object_mut) {
        body.remove("id");
        body.remove("created");
    }
    (response.status, headers, bodies)
}

#[test]
fn clients_get_the_same_with_tracing_off_on_and_sampled() {
    let answers = |options: &[&str]| {
        let server = ServerProcess::simulated(options, &[]);
        let message = json!([{"role": "user", "content": "Hi"}]);
        let bodies = [
            (COMPLETIONS, json!({"prompt": "Hi", "max_tokens": 7, "seed": 1})),
            (CHAT, json!({"messages": message, "max_tokens": 7, "seed": 1})),
            (COMPLETIONS, json!({"prompt": "Hi", "max_tokens": 0, "n": "many"})),
            (COMPLETIONS, json!({"model": "unknown", "prompt": "Hi"})),
        ];
        let mut seen: Vec<_> = bodies
            .iter()
            .map(|(path, body)| visible(&post(&server.address, path, &[], &body.to_string())))
            .collect();
        let stream = json!({"messages": message, "max_tokens": 7, "seed": 1, "stream": true}).to_string();
        let (status, headers, chunks) = visible(&post(&server.address, CHAT, &[], &stream));
        // How many tokens are in a chunk depends on how fast the client reads.
        let text: String =
            chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
        seen.push((status, headers, vec![json!(text)]));
        seen
    };
    let off = answers(&[]);
    assert_eq!(off.iter().map(|(status, ..)| *status).collect::<Vec<_>>(), [200, 200, 400, 404, 200]);
    let sampled_out = ["--enable-journey-tracing", "--journey-tracing-sample-rate", "0"];
    for options in [&["--enable-journey-tracing"][..], &sampled_out] {
        assert_eq!(answers(options), off, "{options:?}");
    }
}

/// The names in the metrics of a request, and what of them does not differ from run to run.
fn account(server: &ServerProcess, stream: bool) -> (Vec<String>, Vec<String>, [Value; 3]) {
    let body = json!({"prompt": "Hi", "max_tokens": 7, "include_metrics": true, "stream": stream});
    let (status, _, answers) = visible(&post(&server.address, COMPLETIONS, &[], &body.to_string()));
    assert_eq!(status, 200);
    // Of a stream, the last is `[DONE]`.
    let metrics =
        answers.iter().map(|answer| &answer["metrics"]).find(|metrics| metrics.is_object()).unwrap();
    let mut ledger = metrics["ledger_ns"].as_object().unwrap().clone();
    ledger.remove("queue_by_reason");
    let bucket = |name: &str| ledger[name].as_u64().unwrap();
    assert!(["prepare", "prefill", "decode"].into_iter().all(|name| bucket(name) > 0), "{metrics}");
    let total: u64 = ledger.keys().map(|name| bucket(name)).sum();
    assert!((total as f64 / 1e6 - metrics["e2e_time_ms"].as_f64().unwrap()).abs() < 1e-6, "{metrics}");
    let names = metrics.as_object().unwrap().keys().cloned().collect();
    let counts = ["cached_tokens", "recomputed_tokens", "preemptions"].map(|name| metrics[name].clone());
    (names, ledger.keys().cloned().collect(), counts)
}

#[test]
fn a_client_is_told_the_account_of_its_request_whatever_is_traced() {
    let accounts = |options: &[&str]| {
        let options = [options, &["--enable-per-request-metrics"]].concat();
        let server = ServerProcess::simulated(&options, &[]);
        [account(&server, false), account(&server, true)]
    };
    let off = accounts(&[]);
    let sampled_out = ["--enable-journey-tracing", "--journey-tracing-sample-rate", "0"];
    for options in [&["--enable-journey-tracing"][..], &sampled_out] {
        assert_eq!(accounts(options), off, "{options:?}");
    }
}

fn scrape(server: &ServerProcess, accept: &str) -> String {
    let mut response =
        ureq::get(format!("{}/metrics", server.address)).header("accept", accept).call().unwrap();
    response.body_mut().read_to_string().unwrap()
}

#[test]
fn exemplars_name_traces_that_the_head_has_sampled_and_only_in_openmetrics() {
    let body = json!({"prompt": "Hi", "max_tokens": 2}).to_string();
    let server = ServerProcess::simulated(&["--enable-journey-tracing"], &[]);
    let response = post(&server.address, COMPLETIONS, &[], &body);
    let trace_id = response.header("traceresponse").split('-').nth(1).unwrap().to_owned();
    let text = scrape(&server, OPENMETRICS);
    for metric in ["vllm:time_to_first_token", "vllm:e2e_request_latency", "vllm:request_queue_time"]
        .map(|name| format!("{name}_seconds_bucket{{"))
    {
        let exemplar = format!("# {{trace_id=\"{trace_id}\"}}");
        let named = text.lines().filter(|line| line.starts_with(&metric) && line.contains(&exemplar)).count();
        assert_eq!(named, 1, "{metric}\n{text}");
    }
    assert!(!get(&server.address, "/metrics").body.contains(&trace_id));

    // A journey that only a rule keeps was not promised to anybody.
    let options =
        ["--enable-journey-tracing", "--journey-tracing-sample-rate", "0", "--journey-keep", "slow>1ns"];
    for options in [&[][..], &options] {
        let server = ServerProcess::simulated(options, &[]);
        assert_eq!(post(&server.address, COMPLETIONS, &[], &body).status, 200);
        assert!(!scrape(&server, OPENMETRICS).contains("trace_id"), "{options:?}");
    }
}
