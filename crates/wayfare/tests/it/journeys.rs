//! Journeys without a collector, what is kept of them, and changing that while the server runs.

use std::time::Duration;

use serde_json::{Value, json};
use wayfare_testkit::wait_until;

use crate::server::{ServerProcess, failed_start, simulated};

const PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &str = "the-text-of-the-prompt";

/// A simulated server that is asked for journeys.
struct Server(ServerProcess);

impl Server {
    fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        Self(ServerProcess::simulated(arguments, variables))
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.0.address)
    }

    /// The address of the administration, as the log says it.
    fn admin(&self) -> String {
        let is_address = |word: &&str| word.ends_with("/admin/journey");
        let mut found = None;
        wait_until(PATIENCE, || {
            found = self.0.log().split_whitespace().find(is_address).map(str::to_owned);
            found.is_some()
        });
        found.unwrap()
    }

    fn get(&self, path: &str) -> (u16, Value) {
        get(&self.url(path), None)
    }

    /// Asks for a completion and gives the status.
    #[expect(clippy::needless_pass_by_value, reason = "callers write literals")]
    fn complete(&self, request_id: &str, more: Value) -> u16 {
        let mut body = json!({"model": "sim", "prompt": SECRET, "max_tokens": 3});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let request = agent().post(self.url("/v1/completions"));
        let response = request
            .header("content-type", "application/json")
            .header("x-request-id", request_id)
            .header("x-vllm-journey-sampled", "1")
            .send(body.to_string());
        let mut response = response.unwrap();
        response.body_mut().read_to_string().unwrap();
        response.status().as_u16()
    }

    /// Response ids of the journeys that are kept, once there are `count`.
    fn kept(&self, count: usize) -> Vec<String> {
        let ids = || -> Vec<String> {
            let (status, body) = self.get("/journeys/recent");
            assert_eq!(status, 200, "{body}");
            let journeys = body["journeys"].as_array().unwrap();
            journeys.iter().map(|one| one["request_id"].as_str().unwrap_or("none").to_owned()).collect()
        };
        // A client may have its answer a moment before its journey is complete.
        wait_until(PATIENCE, || ids().len() >= count);
        ids()
    }
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE));
    config.build().into()
}

fn get(url: &str, key: Option<&str>) -> (u16, Value) {
    let mut request = agent().get(url);
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let mut response = request.call().unwrap();
    let body = response.body_mut().read_to_string().unwrap();
    (response.status().as_u16(), serde_json::from_str(&body).unwrap())
}

fn put(url: &str, body: &str) -> (u16, Value) {
    let mut response = agent().put(url).send(body).unwrap();
    let body = response.body_mut().read_to_string().unwrap();
    (response.status().as_u16(), serde_json::from_str(&body).unwrap())
}

#[test]
fn the_flag_alone_keeps_journeys_in_memory() {
    let server = Server::start(&["--enable-journey-tracing"], &[]);
    assert_eq!(server.complete("one", json!({})), 200);
    assert_eq!(server.complete("two", json!({"stream": true})), 200);
    assert_eq!(server.complete("bad", json!({"temperature": -1})), 400);
    assert_eq!(server.kept(3).len(), 3);
    // Looking leaves no journeys of its own.
    assert_eq!(server.kept(3).len(), 3);
    let (status, body) = server.get("/journeys/one");
    assert_eq!(status, 200);
    let journey = &body["journeys"][0];
    assert_eq!((&journey["request_id"], &journey["status"]), (&json!("cmpl-one"), &json!("departed")));
    assert_eq!(journey["sequences"][0]["finish_status"], "length");
    let trace_id = journey["trace_id"].as_str().unwrap();
    assert_eq!(server.get(&format!("/journeys/{trace_id}")).1, body);
    assert_eq!(
        server.get("/journeys/recent?status=validation_error").1["journeys"].as_array().unwrap().len(),
        1
    );
    assert_eq!(server.get("/journeys/recent?sort=up").0, 400);
    assert_eq!(server.get("/journeys/none").0, 404);
    assert!(!server.get("/journeys/recent").1.to_string().contains(SECRET), "no text of a prompt");
}

#[test]
fn recent_journeys_need_the_api_key() {
    let server = Server::start(&["--enable-journey-tracing", "--api-key", "k3y"], &[]);
    for path in ["/journeys/recent", "/journeys/one", "/journeys/about"] {
        let url = server.url(path);
        assert_eq!(get(&url, None).0, 401);
        assert_eq!(get(&url, Some("wrong")).0, 401);
    }
    let url = server.url("/journeys/recent");
    assert_eq!(get(&url, Some("k3y")).0, 200);
}

#[test]
fn the_page_needs_no_key_and_leaves_no_journeys() {
    let arguments =
        ["--enable-journey-tracing", "--api-key", "k3y", "--trace-url-template", "https://traces/{trace_id}"];
    let server = Server::start(&arguments, &[]);
    for path in ["/journeys", "/journeys/assets/app.js"] {
        let mut response = agent().get(server.url(path)).call().unwrap();
        assert_eq!(response.status().as_u16(), 200, "{path}");
        assert!(response.headers().contains_key("content-security-policy"), "{path}");
        assert!(!response.body_mut().read_to_string().unwrap().is_empty());
        assert_eq!(agent().post(server.url(path)).send_empty().unwrap().status().as_u16(), 405);
    }
    let (status, about) = get(&server.url("/journeys/about"), Some("k3y"));
    assert_eq!((status, &about["trace_url_template"]), (200, &json!("https://traces/{trace_id}")));
    assert_eq!(get(&server.url("/journeys/recent"), Some("k3y")).1["journeys"], json!([]));
    // Without tracing there is nothing to look at.
    let server = Server::start(&[], &[]);
    assert_eq!(server.get("/journeys").0, 404);
}

#[test]
fn the_environment_samples_and_rules_keep() {
    let arguments = ["--enable-journey-tracing", "--journey-keep", "error"];
    let server = Server::start(&arguments, &[("OTEL_TRACES_SAMPLER", "always_off")]);
    assert_eq!(server.complete("fine", json!({})), 200);
    assert_eq!(server.complete("bad", json!({"temperature": -1})), 400);
    assert_eq!(server.kept(1).len(), 1);
    let (_, body) = server.get("/journeys/recent");
    assert_eq!(body["journeys"][0]["abort"]["reason"], "validation_error");
    assert_eq!(body["journeys"][0]["head_sampled"], false);
}

#[test]
fn the_policy_is_changed_while_the_server_runs() {
    let arguments = ["--enable-journey-tracing", "--journey-tracing-sample-rate", "0", "--admin-port", "0"];
    let server = Server::start(&arguments, &[]);
    let admin = server.admin();
    assert!(admin.starts_with("http://127.0.0.1:"), "{admin}");
    assert_eq!(server.complete("before", json!({})), 200);
    assert_eq!(get(&admin, None).1["requests"]["sampled_out"], 1);

    let (status, body) = put(&admin, r#"{"keep":"slow>1us"}"#);
    assert_eq!(
        (status, &body["keep"], &body["sample_rate"]),
        (200, &json!("slow>1us"), &json!(0.0)),
        "{body}"
    );
    assert_eq!(server.complete("after", json!({})), 200);
    assert_eq!(server.kept(1), ["cmpl-after"]);
    let (status, body) = put(&admin, r#"{"sample_rate":7}"#);
    assert_eq!((status, &body["error"]["param"]), (400, &json!("sample_rate")));
    let (_, body) = get(&admin, None);
    assert_eq!((&body["keep"], &body["requests"]["kept_by_rule"]["slow"]), (&json!("slow>1us"), &json!(1)));
    // Not where clients are.
    assert_eq!(server.get("/admin/journey").0, 404);
}

#[test]
fn a_server_that_cannot_do_what_is_asked_does_not_start() {
    let on = "--enable-journey-tracing";
    let bad_rule = [on, "--journey-keep", "error,slow>2x"];
    for (arguments, variables, expected) in [
        (
            &bad_rule[..],
            &[][..],
            "'--journey-keep <RULES>': expected a unit: ns, us, ms, s, m or h\n  error,slow>2x\n              ^\n",
        ),
        (&[on, "--journey-tracing-sample-rate", "1.5"], &[], "--journey-tracing-sample-rate"),
        (&[on, "--journey-store-max", "0"], &[], "no destination"),
        (&[on, "--admin-port", "70000"], &[], "--admin-port"),
        (&[on], &[("OTEL_TRACES_SAMPLER", "xray")], "OTEL_TRACES_SAMPLER"),
        (
            &[on],
            &[("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "2")],
            "OTEL_TRACES_SAMPLER_ARG",
        ),
    ] {
        let ended = failed_start(&mut simulated(arguments, variables));
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}: {}", ended.log);
        assert!(ended.log.contains(expected), "{arguments:?}: {}", ended.log);
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let ended = failed_start(&mut simulated(&[on, "--admin-port", &port], &[]));
    assert_eq!(ended.status.code(), Some(2));
    assert!(ended.log.contains("is in use") && ended.log.contains("--admin-port"), "{}", ended.log);
}

#[test]
fn without_the_flag_it_is_said_what_is_missing() {
    let arguments = ["--otlp-traces-endpoint", "localhost:4317", "--journey-keep", "error"];
    let server = Server::start(&arguments, &[("OTEL_TRACES_SAMPLER", "xray")]);
    for option in ["--otlp-traces-endpoint", "--journey-keep"] {
        let line = format!("{option} is given, but journeys are not recorded: add --enable-journey-tracing");
        wait_until(PATIENCE, || server.0.log().contains(&line));
    }
    assert_eq!(server.complete("one", json!({})), 200);
    assert_eq!(server.get("/journeys/recent").0, 404);
}

#[test]
fn a_server_that_keeps_journeys_ends_when_it_is_told_to() {
    let server = Server::start(&["--enable-journey-tracing", "--admin-port", "0"], &[]);
    assert_eq!(server.complete("one", json!({})), 200);
    let ended = server.0.stop();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
}

#[test]
fn recent_journeys_survive_a_restart_when_they_are_in_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journeys.jsonl");
    let file = path.to_str().unwrap();
    // Small files, so that most of the journeys are in those that were set aside.
    let arguments = [
        "--enable-journey-tracing",
        "--journey-file",
        file,
        "--journey-file-max-bytes",
        "15000",
        "--journey-file-max-files",
        "20",
        "--num-kv-blocks",
        "101",
        "--max-model-len",
        "400",
    ];
    let at_once = [("OTEL_BSP_SCHEDULE_DELAY", "1")];
    let server = Server::start(&arguments, &at_once);
    for number in 0..8 {
        assert_eq!(server.complete(&format!("old-{number}"), json!({"n": 1 + number % 2})), 200);
    }
    assert_eq!(server.complete("bad", json!({"temperature": -1})), 400);
    server.kept(9);
    let shown = |server: &Server| server.get("/journeys/recent").1["journeys"].as_array().unwrap().clone();
    let mut before = shown(&server);
    assert!(server.0.stop().status.success());
    assert!(folder.path().join("journeys.jsonl.1").exists());
    // As after a crash: a line that was being written.
    let mut torn = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    std::io::Write::write_all(&mut torn, b"{\"resourceSpans\":[{\"scopeSp").unwrap();

    let server = Server::start(&arguments, &at_once);
    before.iter_mut().for_each(|journey| journey["head_sampled"] = Value::Null);
    assert_eq!(shown(&server), before);
    let ids = |path: &str| -> Vec<Value> {
        let (status, found) = server.get(path);
        assert_eq!(status, 200, "{found}");
        found["journeys"].as_array().unwrap().iter().map(|one| one["request_id"].clone()).collect()
    };
    assert_eq!(ids("/journeys/old-3"), [json!("cmpl-old-3")]);
    assert_eq!(ids("/journeys/recent?status=validation_error"), [json!("cmpl-bad")]);
    assert_eq!(ids("/journeys/recent?status=departed&limit=2"), [json!("cmpl-old-7"), json!("cmpl-old-6")]);
    // New ones come in front of them.
    assert_eq!(server.complete("new", json!({})), 200);
    assert_eq!(server.kept(10)[..2], ["cmpl-new", "cmpl-bad"]);
    assert!(server.0.stop().status.success());

    let few = Server::start(&[&arguments[..], &["--journey-store-max", "3"]].concat(), &at_once);
    assert_eq!(few.kept(3), ["cmpl-new", "cmpl-bad", "cmpl-old-7"]);
}
