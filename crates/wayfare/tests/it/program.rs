//! The built program, `wayfare serve sim`, with collectors that are absent, slow or restarted.

use std::net::TcpListener;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;
use wayfare_journey::{Clock as _, SystemClock};
use wayfare_testkit::{AttributeValue, OtlpSink};

use crate::arrived::journeys;
use crate::raw_client::Client;
use crate::rig::{COMPLETIONS, PATIENCE};
use crate::server::{Ended, ServerProcess, failed_start, simulated};

/// Asks for a few tokens, one request after the other, and gives the longest time that one took.
async fn slowest_of(program: &ServerProcess, requests: usize) -> Duration {
    let mut slowest = Duration::ZERO;
    let body = json!({"prompt": "Hi", "max_tokens": 5}).to_string();
    let mut client = Client::connect(program.socket_address()).await.unwrap();
    for _ in 0..requests {
        let started = SystemClock.now();
        client.send(COMPLETIONS, &body).await.unwrap();
        assert_eq!(client.answer().await.unwrap().status, 200);
        slowest = slowest.max(Duration::from_nanos(SystemClock.now().since(started)));
    }
    slowest
}

/// Begins a stream that would take long, and reads its beginning.
async fn begin_stream(program: &ServerProcess) -> Client {
    let mut client = Client::connect(program.socket_address()).await.unwrap();
    let body = json!({"prompt": "Hi", "max_tokens": 8000, "stream": true}).to_string();
    client.send(COMPLETIONS, &body).await.unwrap();
    client.read_until("\"text\":").await;
    client
}

/// A16: the address as people write it, and nothing else set.
#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_without_a_scheme_works_and_the_service_is_wayfare() {
    for protocol in ["grpc", "http/protobuf"] {
        let sink = OtlpSink::start();
        let endpoint = if protocol == "grpc" { sink.grpc_endpoint() } else { sink.http_endpoint() };
        let port = endpoint.rsplit(':').next().unwrap();
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &*format!("localhost:{port}")),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
        ];
        let program = ServerProcess::simulated(&["--enable-journey-tracing"], &variables);
        slowest_of(&program, 1).await;
        let spans = sink.wait_for_spans("llm_core", 1, PATIENCE);
        let service = &spans[0].resource["service.name"];
        assert_eq!(*service, AttributeValue::from("wayfare"));
        assert_eq!(journeys(spans).unwrap()[0].ending(), "departed");
        let ended = program.stop();
        assert!(ended.status.success(), "{}", ended.log);
    }
}

/// A11, scaled down: a collector that takes 30 seconds, and one that is not there.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_or_absent_collector_changes_no_latency_and_the_loss_is_said_at_the_end() {
    const REQUESTS: usize = 20;
    let slow = OtlpSink::start();
    slow.set_delay(Duration::from_secs(30));
    let absent = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    // Debug builds look at every block after every step.
    let few_blocks = ["--num-kv-blocks", "1024"];
    let baseline = slowest_of(&ServerProcess::simulated(&few_blocks, &[]), REQUESTS).await;
    for endpoint in [&slow.grpc_endpoint(), &absent] {
        let options =
            ["--enable-journey-tracing", "--otlp-traces-endpoint", endpoint, "--shutdown-timeout", "1"];
        let program = ServerProcess::simulated(&[&few_blocks, &options[..]].concat(), &[]);
        let slowest = slowest_of(&program, REQUESTS).await;
        // Five steps of six milliseconds; anything that waited for a collector would wait for seconds.
        assert!(slowest < baseline + Duration::from_secs(1), "{slowest:?}, {baseline:?} without tracing");
        // With requests in flight: a second for them, a second for the collector, a second to close connections.
        let streams = [begin_stream(&program).await, begin_stream(&program).await];
        let Ended { status, took, log } = program.stop();
        assert!(status.success(), "{log}");
        assert!(took < Duration::from_secs(6), "{took:?}: {log}");
        let unsent = format!("0 spans sent, {} not sent before the end", 2 * (REQUESTS + streams.len()));
        assert!(log.contains(&unsent), "{log}");
        for mut stream in streams {
            let text = stream.read_until("[DONE]").await;
            assert!(text.contains("\"code\":\"shutdown\""), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_collector_gets_the_journeys_and_those_that_the_end_cut_short() {
    let sink = OtlpSink::start();
    let endpoint = sink.grpc_endpoint();
    let options =
        ["--enable-journey-tracing", "--otlp-traces-endpoint", &endpoint, "--shutdown-timeout", "2"];
    let mut program = ServerProcess::simulated(&options, &[]);
    slowest_of(&program, 3).await;
    sink.wait_for_spans("llm_core", 3, PATIENCE);
    let mut running = None;
    let sink = tokio::task::block_in_place(|| {
        sink.restart(|| {
            let requests = tokio::runtime::Handle::current();
            requests.block_on(slowest_of(&program, 2));
            running = Some(requests.block_on(begin_stream(&program)));
        })
    });
    sink.wait_for_spans("llm_core", 2, PATIENCE);
    program.signal(Signal::TERM);
    // A second signal: those in flight are ended now.
    program.signal(Signal::TERM);
    let Ended { status, took, log } = program.wait();
    assert!(status.success() && took < Duration::from_secs(6), "{status} {took:?} {log}");
    let arrived = journeys(sink.spans()).unwrap();
    let endings: Vec<_> = arrived.iter().map(|journey| journey.ending()).collect();
    assert_eq!(endings, ["departed", "departed", "shutdown: shutdown"]);
    assert_eq!(arrived[2].finish_status(), Some("aborted"));
    assert!(log.contains(": 12 spans sent"), "{log}");
    drop(running);
}

/// One runs, one waits, two are refused.
#[tokio::test(flavor = "multi_thread")]
async fn limits_of_queue_and_time_are_options() {
    let sink = OtlpSink::start();
    let endpoint = sink.grpc_endpoint();
    let options = [
        "--enable-journey-tracing",
        "--otlp-traces-endpoint",
        &endpoint,
        "--max-num-seqs",
        "1",
        "--max-num-queued-reqs",
        "1",
        "--request-timeout",
        "2",
    ];
    let program = ServerProcess::simulated(&options, &[]);
    let running = begin_stream(&program).await;
    let body = json!({"prompt": "Hi", "max_tokens": 8000}).to_string();
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(program.socket_address()).await.unwrap();
        client.send(COMPLETIONS, &body).await.unwrap();
        clients.push(client);
    }
    let mut codes = Vec::new();
    for mut client in clients {
        codes.push(client.answer().await.unwrap().error_code());
    }
    codes.sort();
    assert_eq!(codes, ["overloaded", "overloaded", "timeout"]);
    drop(running);
    assert!(program.stop().status.success());
    let endings: Vec<_> = journeys(sink.spans()).unwrap().iter().map(|journey| journey.ending()).collect();
    assert!(endings.contains(&"overloaded: overloaded".to_owned()), "{endings:?}");
    assert!(endings.contains(&"timeout: timeout".to_owned()), "{endings:?}");
}

#[test]
fn a_start_that_cannot_be_says_which_option_is_wrong_and_ends_with_2() {
    let endpoint = ["--enable-journey-tracing", "--otlp-traces-endpoint"];
    type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str);
    let cases: [Case<'_>; 7] = [
        (
            &["--enable-journey-tracing", "--journey-tracing-sample-rate", "1.5"],
            &[],
            "--journey-tracing-sample-rate",
        ),
        (&[endpoint[0], endpoint[1], "http://[bad"], &[], "--otlp-traces-endpoint"),
        (
            &[endpoint[0], endpoint[1], "localhost:1"],
            &[("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon")],
            "OTEL_EXPORTER_OTLP_PROTOCOL",
        ),
        (&["--enable-journey-tracing", "--journey-file", "/no/such/folder/file"], &[], "--journey-file"),
        (&["--request-timeout", "0"], &[], "--request-timeout"),
        (&["--request-timeout", "soon"], &[], "--request-timeout"),
        (&["--max-num-queued-reqs", "0"], &[], "--max-num-queued-reqs"),
    ];
    for (options, environment, named) in cases {
        let Ended { status, log, .. } = failed_start(&mut simulated(options, environment));
        assert_eq!(status.code(), Some(2), "{options:?}: {log}");
        assert!(log.contains(named), "{options:?}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_without_the_flag_is_said_and_nothing_is_sent() {
    let sink = OtlpSink::start();
    let endpoint = sink.grpc_endpoint();
    let program = ServerProcess::simulated(&["--otlp-traces-endpoint", &endpoint], &[]);
    slowest_of(&program, 2).await;
    let Ended { status, log, .. } = program.stop();
    assert!(status.success());
    assert!(log.contains("--otlp-traces-endpoint") && log.contains("--enable-journey-tracing"), "{log}");
    assert!(sink.attempts().is_empty());
}
