//! Pausing the engine, resetting its prefix cache, priorities and salts, as an operator and a client see them.

use std::time::Duration;

use serde_json::{Value, json};
use wayfare_testkit::wait_until;

use crate::server::ServerProcess;

const PATIENCE: Duration = Duration::from_secs(30);

struct Server {
    process: ServerProcess,
    /// Where the administration listens, without a path.
    admin: String,
}

impl Server {
    fn start(more: &[&str]) -> Self {
        let arguments = ["--admin-port", "0", "--enable-journey-tracing"];
        let process = ServerProcess::simulated(&[&arguments, more].concat(), &[]);
        let mut admin = None;
        wait_until(PATIENCE, || {
            let log = process.log();
            let mut words = log.split_whitespace();
            admin = words.find_map(|word| word.strip_suffix("/admin/journey").map(str::to_owned));
            admin.is_some()
        });
        Self { process, admin: admin.unwrap() }
    }

    fn post(&self, path: &str) -> (u16, Value) {
        answer(agent().post(format!("{}{path}", self.admin)).send_empty())
    }

    fn is_paused(&self) -> bool {
        let (_, body) = answer(agent().get(format!("{}/is_paused", self.admin)).call());
        body["is_paused"].as_bool().unwrap()
    }

    fn complete(&self, body: &Value) -> (u16, Value) {
        let request = agent().post(format!("{}/v1/completions", self.process.address));
        answer(request.header("content-type", "application/json").send(body.to_string()))
    }

    fn cached(&self, body: &Value) -> u64 {
        let (status, answer) = self.complete(body);
        assert_eq!(status, 200, "{answer}");
        answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    }

    fn metric(&self, name: &str) -> f64 {
        let mut response = agent().get(format!("{}/metrics", self.process.address)).call().unwrap();
        let text = response.body_mut().read_to_string().unwrap();
        let line = text.lines().find(|line| line.starts_with(name)).expect("the metric is there");
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE));
    config.build().into()
}

fn answer(response: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> (u16, Value) {
    let mut response = response.unwrap();
    let body = response.body_mut().read_to_string().unwrap();
    (response.status().as_u16(), serde_json::from_str(&body).unwrap())
}

fn prompt(tokens: usize) -> Value {
    json!({"model": "sim", "prompt": "x".repeat(tokens), "max_tokens": 2})
}

#[test]
fn a_paused_server_takes_requests_and_serves_them_later() {
    let server = Server::start(&[]);
    assert!(!server.is_paused());
    let (status, body) = server.post("/pause");
    assert_eq!((status, &body["status"]), (200, &json!("paused")));
    assert!(server.is_paused());
    std::thread::scope(|scope| {
        let request = scope.spawn(|| server.complete(&prompt(20)));
        wait_until(PATIENCE, || server.metric("vllm:num_requests_waiting") == 1.0);
        let held = Duration::from_millis(120);
        std::thread::sleep(held);
        assert!(!request.is_finished());
        assert_eq!(server.post("/resume").0, 200);
        assert_eq!(request.join().unwrap().0, 200);
        // It waited because of the pause, and both the metric and the journey say so.
        let waited =
            server.metric(r#"vllm:queue_wait_seconds_sum{model_name="sim",engine="0",reason="paused"}"#);
        assert!(waited >= held.as_secs_f64(), "{waited} s");
    });
    let mut journeys = Value::Null;
    wait_until(PATIENCE, || {
        journeys = answer(agent().get(format!("{}/journeys/recent", server.process.address)).call()).1;
        journeys["journeys"].as_array().is_some_and(|list| !list.is_empty())
    });
    let id = journeys["journeys"][0]["request_id"].as_str().unwrap().to_owned();
    let (_, journey) = answer(agent().get(format!("{}/journeys/{id}", server.process.address)).call());
    let scheduled = &journey["journeys"][0]["sequences"][0]["events"][1]["attributes"];
    assert_eq!(scheduled["wait.reason"], "paused");
}

#[test]
fn requests_that_begin_alike_share_what_is_computed_until_it_is_reset() {
    let server = Server::start(&[]);
    let salted = |salt: &str| {
        let mut body = prompt(100);
        body["cache_salt"] = json!(salt);
        body
    };
    assert_eq!(server.cached(&prompt(100)), 0);
    // A byte is a token, and the last block is always computed.
    assert_eq!(server.cached(&prompt(100)), 96);
    assert_eq!((server.cached(&salted("a")), server.cached(&salted("b"))), (0, 0));
    assert_eq!(server.cached(&salted("a")), 96);
    assert_eq!(server.metric("vllm:prefix_cache_hits_total"), 192.0);
    let (status, body) = server.post("/reset_prefix_cache");
    assert_eq!(status, 200);
    assert!(body["forgotten_blocks"].as_u64().unwrap() >= 18, "{body}");
    assert_eq!(server.cached(&prompt(100)), 0);
}

#[test]
fn without_prefix_caching_everything_is_computed_anew() {
    let server = Server::start(&["--no-enable-prefix-caching"]);
    assert_eq!((server.cached(&prompt(100)), server.cached(&prompt(100))), (0, 0));
    assert_eq!(server.metric("vllm:prefix_cache_queries_total"), 0.0);
}

#[test]
fn priorities_need_the_policy() {
    let urgent = json!({"model": "sim", "prompt": "x", "max_tokens": 1, "priority": -5});
    let (status, body) = Server::start(&[]).complete(&urgent);
    assert_eq!((status, &body["error"]["param"]), (400, &json!("priority")));
    assert_eq!(Server::start(&["--scheduling-policy", "priority"]).complete(&urgent).0, 200);
}

#[test]
fn metrics_of_a_request_need_the_option() {
    let mut asked = prompt(4);
    asked["include_metrics"] = json!(true);
    let (status, body) = Server::start(&[]).complete(&asked);
    assert_eq!((status, &body["error"]["param"]), (400, &json!("include_metrics")));
    let (status, body) = Server::start(&["--enable-per-request-metrics"]).complete(&asked);
    assert_eq!(status, 200);
    assert!(body["metrics"]["e2e_time_ms"].as_f64().unwrap() > 0.0, "{body}");
}

#[test]
fn a_command_that_is_not_understood_changes_nothing() {
    let server = Server::start(&[]);
    for (path, param) in [
        ("/pause?mode=soon", "mode"),
        ("/pause?mode=keep&mode=keep", "mode"),
        ("/pause?clear_cache=perhaps", "clear_cache"),
        ("/resume?now=1", "now"),
        ("/reset_prefix_cache?reset_running_requests=", "reset_running_requests"),
    ] {
        let (status, body) = server.post(path);
        assert_eq!((status, &body["error"]["param"]), (400, &json!(param)), "{path}");
    }
    assert!(!server.is_paused());
}

#[test]
fn lives_of_cached_prefixes_are_shown_when_they_are_asked_for() {
    let lifetimes = "vllm:kv_block_lifetime_seconds_count";
    let shown = |server: &Server| {
        let mut response = agent().get(format!("{}/metrics", server.process.address)).call().unwrap();
        response.body_mut().read_to_string().unwrap().contains(lifetimes)
    };
    assert!(!shown(&Server::start(&[])));
    // Eight blocks can be used, and each prompt takes seven.
    let pool = ["--max-model-len", "128", "--num-gpu-blocks-override", "9"];
    let options = [&pool[..], &["--kv-cache-metrics", "--kv-cache-metrics-sample", "1"]].concat();
    let server = Server::start(&options);
    assert!(shown(&server));
    server.cached(&prompt(100));
    let mut other = prompt(100);
    other["cache_salt"] = json!("other");
    server.cached(&other);
    assert!(server.metric(lifetimes) >= 5.0);
    assert!(server.metric("vllm:kv_block_idle_before_evict_seconds_count") >= 5.0);
}
