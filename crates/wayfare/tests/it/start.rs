//! Starts that fail: exit code 2, and a message that says what is wrong and what to do.

use std::net::TcpListener;

use crate::server::{command, failed_start};

fn assert_refused(arguments: &[&str], words: &[&str]) {
    let ended = failed_start(&mut command(arguments));
    assert_eq!(ended.status.code(), Some(2), "{arguments:?}: {}", ended.log);
    for word in words {
        assert!(ended.log.contains(word), "{arguments:?}: {word:?} is not in {}", ended.log);
    }
}

#[test]
fn a_port_in_use() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_wayfare"));
    command.args(["serve", "sim", "--host", "127.0.0.1", "--port", &port]);
    let ended = failed_start(&mut command);
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.log.contains(&format!("port {port} is in use")), "{}", ended.log);
    assert!(ended.log.contains("--port"), "{}", ended.log);
}

#[test]
fn a_cache_too_large_for_memory() {
    assert_refused(&["--num-gpu-blocks-override", "400000000"], &["GiB", "--num-gpu-blocks-override"]);
}

#[test]
fn a_bad_flag() {
    assert_refused(&["sim", "--max-num-seqs", "0"], &["--max-num-seqs"]);
    assert_refused(&["sim", "--no-such-flag"], &["--no-such-flag"]);
    assert_refused(
        &["sim", "--max-num-seqs", "300", "--max-num-batched-tokens", "200"],
        &["max_num_batched_tokens"],
    );
    assert_refused(&["sim", "--scheduling-policy", "lifo"], &["--scheduling-policy", "fcfs, priority"]);
    assert_refused(&["sim", "--no-enable-chunked-prefill"], &["max_num_batched_tokens", "max_model_len"]);
    assert_refused(&["sim", "--shutdown-timeout", "soon"], &["--shutdown-timeout"]);
    assert_refused(&["--max-model-len", "9000"], &["--max-model-len", "8192"]);
}

#[test]
fn a_model_that_is_not_there_or_not_one() {
    assert_refused(&["no-such-model.gguf"], &["no-such-model.gguf", "Hugging Face"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("broken.gguf");
    std::fs::write(&file, b"GGUF but not really").unwrap();
    assert_refused(&[&file.to_string_lossy()], &["broken.gguf"]);
    assert_refused(&[&folder.path().to_string_lossy()], &["config.json"]);
    let home = folder.path().to_string_lossy().into_owned();
    let ended = failed_start(command(&[]).env("WAYFARE_HOME", home));
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.log.contains("cargo xtask model"), "{}", ended.log);
}

#[test]
fn journeys_that_cannot_go_where_they_should() {
    let on = "--enable-journey-tracing";
    assert_refused(
        &["sim", on, "--journey-tracing-sample-rate", "1.5", "--journey-file", "x"],
        &["--journey-tracing-sample-rate", "1.5"],
    );
    assert_refused(&["sim", on, "--otlp-traces-endpoint", "::not a url"], &["--otlp-traces-endpoint"]);
    assert_refused(
        &["sim", on, "--journey-file", "/no/such/folder/x.jsonl"],
        &["--journey-file", "/no/such/folder"],
    );
    let ended = failed_start(
        command(&["sim", on, "--otlp-traces-endpoint", "localhost:4317"])
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon"),
    );
    assert_eq!(ended.status.code(), Some(2));
    assert!(
        ended.log.contains("OTEL_EXPORTER_OTLP_PROTOCOL") && ended.log.contains("carrier-pigeon"),
        "{}",
        ended.log
    );
}
