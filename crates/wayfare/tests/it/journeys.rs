//! Journeys without a collector, what is kept of them, and changing that while the server runs.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);
const SECRET: &str = "the-text-of-the-prompt";

fn command(arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wayfare"));
    command.args(["serve", "sim", "--host", "127.0.0.1", "--port", "0"]).args(arguments);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OTEL_") || name == "VLLM_API_KEY")
    {
        command.env_remove(name);
    }
    command.envs(variables.iter().copied()).env("RUST_LOG", "info");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

struct Server {
    child: Child,
    address: String,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Server {
    fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut child = command(arguments, variables).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let (kept, stderr) = (Arc::clone(&log), child.stderr.take().unwrap());
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                kept.lock().push_str(&format!("{line}\n"));
            }
        });
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim_end().strip_prefix("wayfare is ready: ");
        let address = address.unwrap_or_else(|| panic!("{line:?}\n{}", log.lock())).to_owned();
        Self { child, address, log, reader: Some(reader) }
    }

    /// The address of the administration, as the log says it. Waits for it: what is written to one pipe before
    /// a line on the other may be read after it.
    fn admin(&self) -> String {
        let mut found = None;
        wayfare_testkit::wait_until(PATIENCE, || {
            found = self
                .log
                .lock()
                .split_whitespace()
                .find(|word| word.ends_with("/admin/journey"))
                .map(str::to_owned);
            found.is_some()
        });
        found.unwrap()
    }

    fn get(&self, path: &str) -> (u16, Value) {
        get(&format!("{}{path}", self.address), None)
    }

    /// Asks for a completion and gives the status.
    #[expect(clippy::needless_pass_by_value, reason = "callers write literals")]
    fn complete(&self, request_id: &str, more: Value) -> u16 {
        let mut body = json!({"model": "sim", "prompt": SECRET, "max_tokens": 3});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let request = agent().post(format!("{}/v1/completions", self.address));
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
        wayfare_testkit::wait_until(PATIENCE, || ids().len() >= count);
        ids()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
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

/// What a server that does not start says on standard error.
fn refusal(arguments: &[&str], variables: &[(&str, &str)]) -> (ExitStatus, String) {
    let output = command(arguments, variables).output().unwrap();
    (output.status, String::from_utf8(output.stderr).unwrap())
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
    for path in ["/journeys/recent", "/journeys/one"] {
        let url = format!("{}{path}", server.address);
        assert_eq!(get(&url, None).0, 401);
        assert_eq!(get(&url, Some("wrong")).0, 401);
    }
    let url = format!("{}/journeys/recent", server.address);
    assert_eq!(get(&url, Some("k3y")).0, 200);
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
        let (status, log) = refusal(arguments, variables);
        assert_eq!(status.code(), Some(2), "{arguments:?}: {log}");
        assert!(log.contains(expected), "{arguments:?}: {log}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let (status, log) = refusal(&[on, "--admin-port", &port], &[]);
    assert_eq!(status.code(), Some(2));
    assert!(log.contains("is in use") && log.contains("--admin-port"), "{log}");
}

#[test]
fn without_the_flag_it_is_said_what_is_missing() {
    let arguments = ["--otlp-traces-endpoint", "localhost:4317", "--journey-keep", "error"];
    let server = Server::start(&arguments, &[("OTEL_TRACES_SAMPLER", "xray")]);
    for option in ["--otlp-traces-endpoint", "--journey-keep"] {
        let line = format!("{option} is given, but journeys are not recorded: add --enable-journey-tracing");
        wayfare_testkit::wait_until(PATIENCE, || server.log.lock().contains(&line));
    }
    assert_eq!(server.complete("one", json!({})), 200);
    assert_eq!(server.get("/journeys/recent").0, 404);
}

#[test]
#[cfg(unix)]
fn a_server_that_keeps_journeys_ends_when_it_is_told_to() {
    let mut server = Server::start(&["--enable-journey-tracing", "--admin-port", "0"], &[]);
    assert_eq!(server.complete("one", json!({})), 200);
    let pid = server.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let mut ended = None;
    wayfare_testkit::wait_until(PATIENCE, || {
        ended = server.child.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.and_then(|status| status.code()), Some(0), "{}", server.log.lock());
}
