//! The program over vLLM, which a script plays: started, served from, lost, ended.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::json;
use tempfile::TempDir;
use wayfare_testkit::{OtlpSink, default_model_path, wait_until};

use crate::arrived::journeys;
use crate::client;
use crate::raw_client::Client;
use crate::rig::{COMPLETIONS, PATIENCE};
use crate::server::{ServerProcess, command, failed_start};

/// A folder with a `vllm` that is the engine core of the tests: it says hello where `vllm serve --headless` is told to,
/// and answers every request with its prompt backwards.
struct Vllm {
    folder: TempDir,
}

impl Vllm {
    fn new() -> Self {
        Self::with("")
    }

    /// One that is told more.
    fn with(arguments: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let python = root.join("target/vllm-peer/bin/python");
        assert!(python.exists(), "{} is missing: run `cargo xtask test --only vllm-peer`", python.display());
        let peer = root.join("crates/engine-vllm/tests/peer/peer.py");
        let folder = TempDir::new().unwrap();
        let script = format!(
            "#!/bin/sh\n\
             echo \"$@\" > \"$(dirname \"$0\")/arguments\"\n\
             echo $$ > \"$(dirname \"$0\")/pid\"\n\
             echo 'loading the model' >&2\n\
             while [ $# -gt 0 ]; do [ \"$1\" = --data-parallel-rpc-port ] && port=$2; shift; done\n\
             exec '{}' '{}' --auto --max-model-len 2048 --num-gpu-blocks 200 --handshake tcp://127.0.0.1:$port {arguments}\n",
            python.display(),
            peer.display(),
        );
        let vllm = Self { folder };
        fs::write(vllm.program(), script).unwrap();
        fs::set_permissions(vllm.program(), fs::Permissions::from_mode(0o755)).unwrap();
        vllm
    }

    fn program(&self) -> PathBuf {
        self.folder.path().join("vllm")
    }

    fn arguments(&self) -> String {
        fs::read_to_string(self.folder.path().join("arguments")).unwrap()
    }

    fn pid(&self) -> Pid {
        let pid = fs::read_to_string(self.folder.path().join("pid")).unwrap();
        Pid::from_raw(pid.trim().parse().unwrap()).unwrap()
    }

    /// The server over it.
    fn serve(&self, variables: &[(&str, &str)]) -> ServerProcess {
        self.serve_with(&[], variables)
    }

    fn serve_with(&self, options: &[&str], variables: &[(&str, &str)]) -> ServerProcess {
        let (model, program) = (default_model_path(), self.program());
        let own = [
            model.to_str().unwrap(),
            "--engine=vllm",
            "--vllm-command",
            program.to_str().unwrap(),
            "--enable-journey-tracing",
            "--max-model-len=2048",
        ];
        let mut command = command(&[&own, options, &["--", "--tensor-parallel-size", "2"]].concat());
        ServerProcess::spawn(command.envs(variables.iter().copied()))
    }
}

#[test]
fn vllm_is_started_served_from_and_ended() {
    let (vllm, sink) = (Vllm::new(), OtlpSink::start());
    let server = vllm.serve(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &sink.grpc_endpoint())]);
    let arguments = vllm.arguments();
    assert!(arguments.contains("--headless --max-model-len=2048 --tensor-parallel-size 2"), "{arguments}");
    assert!(server.log().contains("[vllm] loading the model"), "{}", server.log());

    let answer =
        client::post(&server.address, COMPLETIONS, &[], &client::completion("One two three", 3, false));
    assert_eq!(answer.json()["choices"][0]["text"], " three twoOne");
    assert_eq!(answer.json()["usage"]["completion_tokens"], 3);

    let spans = sink.wait_for_spans("llm_core", 1, PATIENCE);
    let core = spans.iter().find(|span| span.name == "llm_core").unwrap();
    assert_eq!(core.text("clock.source"), Some("engine_same_host"));
    let engine = &spans[0].resource["wayfare.engine"];
    assert_eq!(*engine, "vllm 0.32.0".into());
    let journeys = journeys(spans).unwrap();
    assert_eq!(journeys[0].core_events(), ["QUEUED", "SCHEDULED", "FIRST_TOKEN", "FINISHED"]);
    assert_eq!(journeys[0].ending(), "departed");

    let pid = vllm.pid();
    let ended = server.stop();
    assert!(ended.status.success(), "{}", ended.log);
    kill_process(pid, Signal::TERM).expect_err("vLLM ends with the server");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_live_view_marks_what_vllm_has_not_said_of_a_request() {
    let vllm = Vllm::with("--step-seconds 0.7");
    let server = vllm.serve(&[]);
    let mut client = Client::connect(server.socket_address()).await.unwrap();
    let body = json!({"prompt": "Hi", "max_tokens": 3, "stream": true, "ignore_eos": true}).to_string();
    client.send(COMPLETIONS, &body).await.unwrap();
    let address = server.address.clone();
    let when = move |state: &'static str, is_inferred: bool| {
        let address = address.clone();
        let look = move || loop {
            let live = client::get(&address, "/journeys/live").json();
            if let Some(request) = live["requests"].as_array().unwrap().first()
                && (&request["state"], &request["inferred"]) == (&json!(state), &json!(is_inferred))
                && !request["sequences"].as_array().unwrap().is_empty()
            {
                return request.clone();
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(look))
    };
    let request = when("queued", true).await.unwrap().unwrap();
    assert_eq!(request["wait"]["reason"], "unknown");
    let sequence = &request["sequences"][0];
    assert_eq!((&sequence["state"], &sequence["inferred"]), (&json!("submitted"), &json!(true)));
    let request = when("decode", false).await.unwrap().unwrap();
    assert_eq!(request["sequences"][0]["inferred"], false);
    assert!(client.answer().await.unwrap().text.ends_with("[DONE]\n\n"));
    assert!(server.stop().status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_vllm_is_killed_ends_with_an_error_and_the_server_is_unhealthy() {
    let (vllm, sink) = (Vllm::new(), OtlpSink::start());
    let server = vllm.serve(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &sink.grpc_endpoint())]);
    let mut client = Client::connect(server.socket_address()).await.unwrap();
    let body = json!({"prompt": "Hi", "max_tokens": 2000, "stream": true, "ignore_eos": true}).to_string();
    client.send(COMPLETIONS, &body).await.unwrap();
    client.read_until("\"text\":").await;
    kill_process(vllm.pid(), Signal::KILL).unwrap();
    let rest = client.answer().await.unwrap().text;
    assert!(rest.contains("\"error\""), "{rest}");
    let address = server.address.clone();
    let health = tokio::task::spawn_blocking(move || client::get(&address, "/health").status).await.unwrap();
    assert_eq!(health, 503);
    let journeys = journeys(sink.wait_for_spans("llm_core", 1, PATIENCE)).unwrap();
    assert_eq!(journeys[0].finish_status(), Some("error"));
    assert!(server.stop().status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vllm_that_is_killed_is_started_again_where_that_is_wanted() {
    let (vllm, sink) = (Vllm::new(), OtlpSink::start());
    let endpoint = sink.grpc_endpoint();
    let server =
        vllm.serve_with(&["--vllm-restart=on-failure"], &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]);
    let mut client = Client::connect(server.socket_address()).await.unwrap();
    let body = json!({"prompt": "Hi", "max_tokens": 2000, "stream": true, "ignore_eos": true}).to_string();
    client.send(COMPLETIONS, &body).await.unwrap();
    client.read_until("\"text\":").await;
    let first = vllm.pid();
    kill_process(first, Signal::KILL).unwrap();
    let rest = client.answer().await.unwrap().text;
    assert!(rest.contains("\"error\""), "{rest}");
    let server = tokio::task::spawn_blocking(move || {
        let health = || client::get(&server.address, "/health").status;
        // It is a second before anything is started.
        assert_eq!(health(), 503);
        let question = client::completion("One two three", 3, false);
        assert_eq!(client::post(&server.address, COMPLETIONS, &[], &question).status, 503);
        wait_until(PATIENCE, || health() == 200);
        let answer = client::post(&server.address, COMPLETIONS, &[], &question);
        assert_eq!(answer.json()["choices"][0]["text"], " three twoOne");
        server
    })
    .await
    .unwrap();
    let second = vllm.pid();
    assert_ne!(first, second);
    let journeys = journeys(sink.wait_for_spans("llm_core", 2, PATIENCE)).unwrap();
    let endings: Vec<_> = journeys.iter().filter_map(|journey| journey.finish_status()).collect();
    assert_eq!(endings, ["error", "length"]);
    let ended = server.stop();
    assert!(ended.status.success() && ended.log.contains("it is started again in 1s"), "{}", ended.log);
    assert!(test_kill_process(second).is_err(), "it has ended with the server");
}

#[test]
fn vllm_does_not_outlive_a_server_that_is_killed() {
    let vllm = Vllm::new();
    let server = vllm.serve(&[]);
    let pid = vllm.pid();
    test_kill_process(pid).unwrap();
    server.signal(Signal::KILL);
    wait_until(PATIENCE, || test_kill_process(pid).is_err());
}

#[test]
fn ranks_of_a_mixture_of_experts_are_refused_before_anything_waits_for_them() {
    let model = TempDir::new().unwrap();
    let vocabulary = json!({"</s>": 0, "a": 1, "b": 2});
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [{"id": 0, "content": "</s>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true}],
        "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
    });
    fs::write(model.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    fs::write(model.path().join("tokenizer_config.json"), r#"{"eos_token": "</s>"}"#).unwrap();
    let directory = model.path().to_str().unwrap();
    let started = |config: &str, count: &str| {
        fs::write(model.path().join("config.json"), config).unwrap();
        let listens = "--engine-address=tcp://127.0.0.1:0";
        let patience = "--engine-ready-timeout=1";
        failed_start(&mut command(&[directory, "--engine=vllm", listens, patience, "--engine-count", count]))
    };
    let experts = r#"{"vocab_size": 3, "text_config": {"num_local_experts": 8}}"#;
    let ended = started(experts, "2");
    assert_eq!(ended.status.code(), Some(2), "{}", ended.log);
    assert!(
        ended.log.contains("need a coordinator") && ended.log.contains("--engine-count 1"),
        "{}",
        ended.log
    );
    // One rank of it, and two of a dense model, are waited for.
    for (config, count) in [(experts, "1"), (r#"{"vocab_size": 3}"#, "2")] {
        let ended = started(config, count);
        assert!(ended.log.contains("has not said hello"), "{}", ended.log);
    }
}

#[test]
fn what_cannot_be_started_says_what_to_do() {
    let model = default_model_path();
    let model = model.to_str().unwrap();
    for (arguments, problem) in [
        (&["sim", "--engine=vllm"][..], "`sim` is served by the local engine"),
        (&[model, "--engine-address=tcp://127.0.0.1:1"], "--engine-address: that is for --engine vllm"),
        (&[model, "--engine=vllm", "--vllm-command=/no/such/vllm"], "pip install vllm"),
        (&[model, "--engine=vllm", "--vllm-command=/bin/false"], "before it was ready"),
        (&[model, "--engine=vllm", "--threads=2"], "--threads is an option of the local engine"),
        (
            &[model, "--engine=vllm", "--engine-address=tcp://127.0.0.1:0", "--block-size=16"],
            "--block-size=16 is set where",
        ),
        (
            &[model, "--engine=vllm", "--engine-address=tcp://127.0.0.1:0", "--vllm-restart=on-failure"],
            "--vllm-restart is for engines that are started here",
        ),
        (&[model, "--engine=vllm", "--vllm-command=/dev/null"], "before it was ready"),
        (&["sim", "--engine-address=127.0.0.1:1"], "tcp://HOST:PORT"),
        (
            &[model, "--engine=vllm", "--engine-address=ipc:///tmp/engines", "--engine-advertise-host=here"],
            "--engine-advertise-host: a Unix socket has no host",
        ),
    ] {
        let ended = failed_start(&mut command(arguments));
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}: {}", ended.log);
        assert!(ended.log.contains(problem), "{arguments:?}: {}", ended.log);
    }
}
