//! The program over several engine cores of vLLM, which others have started.

use std::net::TcpListener;

use wayfare_testkit::default_model_path;
use wayfare_testkit::mock_vllm::{MockVllmOptions, Pace, serve};

use crate::client;
use crate::rig::COMPLETIONS;
use crate::server::ServerProcess;

const RANKS: u16 = 2;

/// The first of enough ports for a handshake, requests, and the outputs of each rank, which were free a moment ago.
fn free_ports() -> u16 {
    let first = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let is_first = |port: &u16| port.checked_add(RANKS + 2).is_some_and(|end| (*port..end).all(is_free));
    std::iter::repeat_with(first).find(is_first).unwrap()
}

/// An engine core that computes nothing, for as long as the test runs.
fn start_engine(port: u16, rank: u16) {
    let options = MockVllmOptions {
        handshake: format!("tcp://127.0.0.1:{port}"),
        rank,
        ranks: RANKS,
        max_model_len: 2048,
        max_num_seqs: 8,
    };
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _ = runtime.block_on(serve(options, Pace::default()));
    });
}

#[test]
fn metrics_are_of_each_engine() {
    let port = free_ports();
    (0..RANKS).for_each(|rank| start_engine(port, rank));
    let (model, address) = (default_model_path(), format!("tcp://127.0.0.1:{port}"));
    let engines = ["--engine", "vllm", "--engine-address", &address, "--engine-count", "2"];
    let server = ServerProcess::start(&[&[model.to_str().unwrap()], &engines[..]].concat());
    // So many that no chance gives all of them to one.
    for number in 0..24 {
        let body = client::completion(&format!("Why {number}?"), 5, false);
        let answer = client::post(&server.address, COMPLETIONS, &[], &body);
        assert_eq!(answer.status, 200, "{}", answer.body);
    }
    let text = client::get(&server.address, "/metrics").body;
    let of = |name: &str, engine: u16, labels: &str| -> f64 {
        let label = format!("engine=\"{engine}\"");
        let is_it = |line: &&str| line.starts_with(name) && line.contains(&label) && line.contains(labels);
        let line = text.lines().find(is_it).unwrap_or_else(|| panic!("no {name} of {engine}:\n{text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    for (name, labels, sum) in [
        ("vllm:generation_tokens_total", "", 120.0),
        ("vllm:request_success_total", "finished_reason=\"length\"", 24.0),
        ("vllm:time_to_first_token_seconds_count", "", 24.0),
        ("vllm:request_generation_tokens_sum", "", 120.0),
        ("vllm:iteration_tokens_total_count", "", 120.0),
        ("vllm:num_requests_waiting", "", 0.0),
        ("vllm:cache_config_info", "block_size=\"16\"", 2.0),
    ] {
        let each = [0, 1].map(|engine| of(name, engine, labels));
        assert_eq!(each[0] + each[1], sum, "{name} {each:?}");
        assert_eq!(each[0] > 0.0 && each[1] > 0.0, sum > 0.0, "both have served: {name} {each:?}");
    }
    let described = |line: &&str| line.starts_with("# TYPE vllm:generation_tokens");
    assert_eq!(text.lines().filter(described).count(), 1, "one family for both");
}
