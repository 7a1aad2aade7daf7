//! The built program, `wayfare simulate`.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use wayfare_journey::{Clock as _, SystemClock};
use wayfare_testkit::OtlpSink;

use crate::arrived::journeys;
use crate::rig::PATIENCE;

fn simulate(arguments: &[&str]) -> Output {
    command(arguments).output().unwrap()
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wayfare"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OTEL_")) {
        command.env_remove(name);
    }
    command.arg("simulate").args(arguments).env("RUST_LOG", "info");
    command
}

fn summary(arguments: &[&str]) -> Value {
    let output = simulate(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// `requests` that arrive 50 ms after each other.
fn trace(folder: &Path, requests: u32) -> String {
    let mut text =
        "arrival_time,prompt_tokens,output_tokens,prefix_group,prefix_tokens,priority\n".to_owned();
    for n in 0..requests {
        let (prompt, output) = (100 + n * 37 % 300, 1 + n * 13 % 60);
        writeln!(text, "{},{prompt},{output},g{},50,{}", f64::from(n) / 20.0, n % 4, n % 3).unwrap();
    }
    let path = folder.join("trace.csv");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A profile with noise, so that the seed matters.
fn noisy_profile(folder: &Path) -> String {
    let profile = serde_json::json!({
        "name": "noisy",
        "origin": ["made up"],
        "step_time": {"base_us": 8_000, "per_prefill_token_us": 20, "per_decode_token_us": 50,
            "per_kv_token_us": 0.05, "noise_fraction": 0.2},
        "engine": {"max_num_seqs": 16, "max_num_batched_tokens": 256, "block_size": 16, "num_kv_blocks": 65,
            "max_model_len": 1000},
    });
    let path = folder.join("noisy.json");
    std::fs::write(&path, profile.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn the_same_seed_prints_the_same_summary_byte_for_byte() {
    let folder = tempfile::tempdir().unwrap();
    let (trace, profile) = (trace(folder.path(), 300), noisy_profile(folder.path()));
    let printed = |more: &[&str]| {
        let output = simulate(&[&["--trace", &trace, "--sim-profile", &profile], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let log = simulate(&["--trace", &trace, "--sim-profile", &profile]).stderr;
    assert_eq!(String::from_utf8_lossy(&log).matches("priorities").count(), 1);
    let first = printed(&["--seed", "7"]);
    assert!(first.contains("300 arrived, 300 served"), "{first}");
    assert_eq!(printed(&["--seed", "7"]), first);
    assert_ne!(printed(&["--seed", "8"]), first);
    assert_eq!(printed(&["--json"]), printed(&["--json", "--seed", "0"]));
}

#[test]
fn tracing_changes_nothing_of_what_is_scheduled() {
    let folder = tempfile::tempdir().unwrap();
    // Twice as fast as it arrives, so that requests wait and are preempted.
    let (trace, profile) = (trace(folder.path(), 300), noisy_profile(folder.path()));
    let replay = ["--trace", &trace, "--sim-profile", &profile, "--rate-scale", "2"];
    let untraced = summary(&replay);
    assert!(untraced["engine"]["preemptions"].as_u64().unwrap() > 0, "{untraced}");
    let file = folder.path().join("journeys.jsonl");
    let traced =
        |more: &[&str]| summary(&[&replay, &["--journey-file", file.to_str().unwrap()][..], more].concat());
    assert_eq!(traced(&[]), untraced);
    assert_eq!(traced(&["--journey-tracing-sample-rate", "0.1", "--journey-keep", "preempted"]), untraced);
    assert!(std::fs::metadata(&file).unwrap().len() > 0, "journeys were recorded");
}

#[test]
fn more_load_is_slower_and_sizes_of_the_options_count() {
    let folder = tempfile::tempdir().unwrap();
    let (trace, profile) = (trace(folder.path(), 300), noisy_profile(folder.path()));
    let base = ["--trace", &trace, "--sim-profile", &profile];
    let with = |more: &[&str]| summary(&[&base, more].concat());
    let p99 = |summary: &Value| summary["latency_s"]["time_to_first_token"]["p99"].as_f64().unwrap();
    let (normal, fast) = (with(&[]), with(&["--rate-scale", "8"]));
    assert!(p99(&fast) > 2.0 * p99(&normal), "{normal} {fast}");
    assert!(fast["engine"]["preemptions"].as_u64().unwrap() > 0, "{fast}");
    let one = with(&["--max-num-seqs", "1", "--max-num-queued-reqs", "2"]);
    assert_eq!((&one["setting"]["max_num_seqs"], &one["load"]["running_max"]), (&1.into(), &1.into()));
    assert!(one["requests"]["refused_queue_full"].as_u64().unwrap() > 0, "{one}");
    let latencies = [
        "--time-to-first-token",
        "70ms",
        "--inter-token-latency",
        "2ms",
        "--num-kv-blocks",
        "501",
        "--rate-scale",
        "0.2",
    ];
    let latencies = summary(&[&["--trace", &trace], &latencies[..]].concat());
    let first_token = latencies["latency_s"]["time_to_first_token"]["p50"].as_f64().unwrap();
    assert!((0.07..0.15).contains(&first_token), "{latencies}");
}

#[test]
fn journeys_of_every_request_arrive_whole() {
    const REQUESTS: usize = 600;
    let folder = tempfile::tempdir().unwrap();
    let (trace, profile) = (trace(folder.path(), REQUESTS as u32), noisy_profile(folder.path()));
    let sink = OtlpSink::start();
    let file = folder.path().join("journeys.jsonl");
    let arguments = [
        "--trace",
        &trace,
        "--sim-profile",
        &profile,
        "--rate-scale",
        "4",
        "--otlp-traces-endpoint",
        &sink.grpc_endpoint(),
        "--journey-file",
        file.to_str().unwrap(),
    ];
    let preemptions = summary(&arguments)["engine"]["preemptions"].as_u64().unwrap();
    let spans = sink.wait_for_spans("llm_request", REQUESTS, PATIENCE);
    let journeys = journeys(spans).unwrap_or_else(|problem| panic!("{problem}"));
    assert_eq!(journeys.len(), REQUESTS);
    assert!(journeys.iter().all(|journey| journey.ending() == "departed"));
    assert!(preemptions > 0);
    let in_file = std::fs::read_to_string(&file).unwrap();
    assert_eq!(in_file.matches("\"llm_request\"").count(), REQUESTS);
    assert_eq!(in_file.matches("\"llm_core\"").count(), REQUESTS);
    assert_eq!(in_file.matches("journey.PREEMPTED").count() as u64, preemptions);
}

#[test]
fn what_cannot_be_replayed_is_refused_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.csv");
    std::fs::write(&path, "arrival_time,prompt_tokens,output_tokens\n0,5,5\n1,many,5\n").unwrap();
    let path = path.to_str().unwrap();
    for (arguments, words) in [
        (&["--trace", path][..], "x.csv: line 3, column 3: prompt_tokens is \"many\""),
        (&["--trace", "/no/such/trace.csv"], "/no/such/trace.csv"),
        (&["--trace", path, "--sim-profile", "h200"], "h200"),
        (&["--trace", path, "--threads", "3"], "--threads"),
        (&["--trace", path, "--journey-file", "/no/such/folder/x"], "/no/such/folder"),
        (&[], "--trace"),
    ] {
        let output = simulate(arguments);
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {log}");
        assert!(log.contains(words) && output.stdout.is_empty(), "{arguments:?}: {log}");
    }
}

/// The summary does not wait for a collector for ever, and the loss is said.
#[test]
fn a_collector_that_is_not_there_does_not_hold_a_replay_up() {
    let folder = tempfile::tempdir().unwrap();
    let (trace, profile) = (trace(folder.path(), 300), noisy_profile(folder.path()));
    let absent = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let arguments =
        ["--trace", &trace, "--sim-profile", &profile, "--otlp-traces-endpoint", &absent, "--json"];
    let mut command = command(&arguments);
    command.env("OTEL_BSP_MAX_QUEUE_SIZE", "64").env("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "16");
    let started = SystemClock.now();
    let output = command.output().unwrap();
    assert!(SystemClock.now().seconds_since(started) < 20.0);
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{log}");
    assert!(log.contains("do not get through") && log.contains("not all journeys have arrived"), "{log}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["requests"]["served"], 300);
}
