//! The program in the place of vLLM's own front. `peer.py` plays `vllm serve`: it binds the sockets, starts the program as
//! vLLM does, and is the engine cores.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use wayfare_testkit::{OtlpSink, default_model_path, wait_until};

use crate::arrived::journeys;
use crate::client;
use crate::rig::{COMPLETIONS, PATIENCE};
use crate::server::{ServerProcess, failed_start};

/// `vllm serve` with these options, as vLLM writes them for its front, over the default model.
fn vllm(arguments: &Value, peer_options: &[&str]) -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let python = root.join("target/vllm-peer/bin/python");
    assert!(python.exists(), "{} is missing: run `cargo xtask test --only vllm-peer`", python.display());
    let mut given = json!({ "model_tag": default_model_path(), "engine_ready_timeout_secs": 60 });
    given.as_object_mut().unwrap().extend(arguments.as_object().unwrap().clone());
    let mut command = Command::new(python);
    let changes_it =
        |name: &str| name.starts_with("OTEL_") || name.starts_with("WAYFARE_") || name.ends_with("_API_KEY");
    for (name, _) in std::env::vars().filter(|(name, _)| changes_it(name) && name != "WAYFARE_HOME") {
        command.env_remove(name);
    }
    command
        .arg(root.join("crates/engine-vllm/tests/peer/peer.py"))
        .args(["--front", env!("CARGO_BIN_EXE_wayfare"), "--front-arguments", &given.to_string()])
        .args(["--max-model-len", "2048", "--num-gpu-blocks", "200"])
        .args(peer_options)
        .env("RUST_LOG", "info")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// The process that `vllm serve` has started.
fn front_of(vllm: &ServerProcess) -> Pid {
    let log = vllm.log();
    let number = log.lines().find_map(|line| line.strip_prefix("front ")).expect("it says which");
    Pid::from_raw(number.parse().unwrap()).unwrap()
}

fn ask(address: &str, key: Option<&str>) -> client::Response {
    let bearer = key.map(|key| format!("Bearer {key}"));
    let headers: Vec<_> = bearer.iter().map(|bearer| ("authorization", bearer.as_str())).collect();
    client::post(address, COMPLETIONS, &headers, &client::completion("One two three", 3, false))
}

#[test]
fn vllm_s_own_command_serves_through_us_with_its_options() {
    let sink = OtlpSink::start();
    let vllm = ServerProcess::spawn(&mut vllm(
        &json!({
            "api_key": ["-secret"], "served_model_name": ["mine"], "otlp_traces_endpoint": sink.grpc_endpoint(),
            "sse_keep_alive_interval": 5, "gpu_memory_utilization": 0.5,
        }),
        &[],
    ));
    assert_eq!(ask(&vllm.address, None).status, 401);
    let answer = ask(&vllm.address, Some("-secret"));
    assert_eq!((answer.status, &answer.json()["model"]), (200, &json!("mine")), "{}", answer.text());
    assert_eq!(answer.json()["choices"][0]["text"], " three twoOne");
    let spans = sink.wait_for_spans("llm_core", 1, PATIENCE);
    let core = spans.iter().find(|span| span.name == "llm_core").unwrap();
    assert_eq!(core.text("clock.source"), Some("engine_same_host"));
    // The request without a key has a journey, too.
    let journeys = journeys(spans).unwrap();
    let served: Vec<_> = journeys.iter().filter(|journey| !journey.core_events().is_empty()).collect();
    assert_eq!(served[0].core_events(), ["QUEUED", "SCHEDULED", "FIRST_TOKEN", "FINISHED"]);
    let front = front_of(&vllm);
    let ended = vllm.stop();
    assert!(ended.status.success(), "{}", ended.log);
    assert!(ended.log.contains("--sse-keep-alive-interval was given to vLLM and has no effect here"));
    assert!(ended.log.contains("left to the engines: --gpu-memory-utilization"), "{}", ended.log);
    assert!(!ended.log.contains("-secret"), "keys are not for logs: {}", ended.log);
    assert!(test_kill_process(front).is_err(), "it has ended");
}

#[test]
fn options_that_vllm_does_not_have_come_in_a_variable() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("my journeys.jsonl");
    let options = format!("--enable-journey-tracing --journey-file '{}'", file.display());
    let mut command = vllm(&json!({}), &[]);
    let vllm = ServerProcess::spawn(command.env("WAYFARE_OPTIONS", options));
    assert_eq!(ask(&vllm.address, None).status, 200);
    assert!(vllm.stop().status.success());
    let written = std::fs::read_to_string(file).unwrap();
    assert!(written.contains("journey.FINISHED"), "{written}");
}

#[test]
fn the_end_of_vllm_is_the_end_of_its_front() {
    let mut vllm = ServerProcess::spawn(&mut vllm(&json!({}), &[]));
    let front = front_of(&vllm);
    test_kill_process(front).unwrap();
    vllm.signal(Signal::KILL);
    wait_until(PATIENCE, || test_kill_process(front).is_err());
    let ended = vllm.wait();
    assert!(ended.log.contains("SIGTERM"), "it ends as it is asked to: {}", ended.log);
}

#[test]
fn several_ranks_and_a_unix_socket_are_taken_over() {
    let folder = TempDir::new().unwrap();
    let path: PathBuf = folder.path().join("clients");
    let options = ["--front-uds", path.to_str().unwrap(), "--rank", "2", "--ranks", "2"];
    let vllm = ServerProcess::spawn(&mut vllm(&json!({}), &options));
    assert_eq!(vllm.address, format!("unix:{}", path.display()));
    let body = client::completion("One two three", 3, false);
    for _ in 0..8 {
        let mut stream = UnixStream::connect(&path).unwrap();
        write!(
            stream,
            "POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(" three twoOne"), "{answer}");
    }
    let log = vllm.log();
    assert!(log.contains("vLLM engine 2 is ready") && log.contains("vLLM engine 3 is ready"), "{log}");
    assert!(vllm.stop().status.success());
    assert!(path.exists(), "the file is its maker's to remove");
}

#[test]
fn what_must_not_be_ignored_ends_the_start() {
    for (arguments, front_options, variable, problem) in [
        (json!({ "middleware": ["my.Auth"] }), json!([]), "", "--middleware was given to vLLM"),
        (json!({ "ssl_certfile": "/no/such" }), json!([]), "", "--ssl-certfile: /no/such"),
        (json!({ "ssl_keyfile": "/no/such" }), json!([]), "", "--ssl-keyfile needs --ssl-certfile"),
        (json!({ "tool_call_parser": "made-up" }), json!([]), "", "--tool-call-parser"),
        (json!({ "chat_template": "/no/such" }), json!([]), "", "--chat-template: /no/such cannot be read"),
        (json!({}), json!(["--grpc-listen-fd", "3"]), "", "there is no gRPC here"),
        (json!({}), json!([]), "--port 1", "WAYFARE_OPTIONS has --port, which is for `vllm serve`"),
        (json!({}), json!([]), "'", "WAYFARE_OPTIONS is not a command line"),
    ] {
        let front_options = front_options.to_string();
        let mut command = vllm(&arguments, &["--front-options", &front_options]);
        if !variable.is_empty() {
            command.env("WAYFARE_OPTIONS", variable);
        }
        let ended = failed_start(&mut command);
        assert_eq!(ended.status.code(), Some(2), "{}", ended.log);
        assert!(ended.log.contains(problem), "{problem}: {}", ended.log);
    }
}

#[test]
fn what_was_not_handed_over_is_not_taken() {
    let front = |numbers: [&str; 3]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_wayfare"));
        let [clients, requests, outputs] = numbers;
        command.args(["frontend", "--listen-fd", clients, "--input-listener-fd", requests]);
        command.args(["--output-listener-fd", outputs, "--args-json", "{}"]).env("RUST_LOG", "info");
        failed_start(&mut command)
    };
    for numbers in [["1", "2", "3"], ["900", "901", "902"]] {
        let ended = front(numbers);
        assert_eq!(ended.status.code(), Some(2), "{numbers:?}: {}", ended.log);
        let problem = format!("--listen-fd {} is not an open socket", numbers[0]);
        assert!(ended.log.contains(&problem), "{}", ended.log);
    }
}

#[test]
fn a_template_that_vllm_was_given_is_used() {
    let template = "{% for message in messages %}{{ message.content | upper }}{% endfor %}";
    let vllm = ServerProcess::spawn(&mut vllm(&json!({ "chat_template": template }), &[]));
    let body = json!({ "messages": [{ "role": "user", "content": "one two" }], "max_tokens": 3 }).to_string();
    let answer = client::post(&vllm.address, "/v1/chat/completions", &[], &body);
    // The prompt, backwards, and over again.
    let text = answer.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert!(text.contains("TWO"), "{text}");
    let killed = front_of(&vllm);
    kill_process(killed, Signal::KILL).unwrap();
}
