//! What arrives when all is well.

use wayfare_testkit::{OtlpSink, Transport, wait_until};

use crate::rig::{LONG, Rig, collector, config};

fn check_both_spans_arrive(sink: &OtlpSink, rig: &Rig, transport: Transport) {
    rig.request("cmpl-1");
    let spans = sink.wait_for(|spans| spans.len() == 2, LONG);
    assert_eq!((spans[0].name.as_str(), spans[0].scope.as_str()), ("llm_request", "vllm.api"));
    assert_eq!((spans[1].name.as_str(), spans[1].scope.as_str()), ("llm_core", "vllm.scheduler"));
    assert!(spans[1].is_child_of(&spans[0]));
    assert!(spans.iter().all(|span| span.text("gen_ai.request.id") == Some("cmpl-1")));
    assert!(spans.iter().all(|span| span.resource["service.name"] == "wayfare".into()));
    let attempt = &sink.attempts()[0];
    assert_eq!(attempt.transport, transport);
    assert!(attempt.headers.contains(&("x-tenant".into(), "a b".into())), "{:?}", attempt.headers);
    wait_until(LONG, || rig.exported(0) == 2);
}

#[test]
fn both_spans_arrive_over_grpc() {
    let sink = OtlpSink::start();
    let rig = Rig::start(config(vec![collector(&sink.grpc_endpoint(), "grpc")]));
    check_both_spans_arrive(&sink, &rig, Transport::Grpc);
}

#[test]
fn both_spans_arrive_over_http() {
    let sink = OtlpSink::start();
    let rig = Rig::start(config(vec![collector(&sink.http_endpoint(), "http/protobuf")]));
    check_both_spans_arrive(&sink, &rig, Transport::Http);
    assert_eq!(sink.attempts()[0].path, "/v1/traces");
}

#[test]
fn an_endpoint_with_a_path_is_used_as_it_is() {
    let sink = OtlpSink::start();
    let endpoint = format!("{}/custom/traces", sink.http_endpoint());
    let rig = Rig::start(config(vec![collector(&endpoint, "http/protobuf")]));
    check_both_spans_arrive(&sink, &rig, Transport::Http);
    assert_eq!(sink.attempts()[0].path, "/custom/traces");
}

#[test]
fn every_destination_gets_every_journey_in_batches_of_bounded_size() {
    let sink = OtlpSink::start();
    let mut config = config(vec![
        collector(&sink.grpc_endpoint(), "grpc"),
        collector(&sink.http_endpoint(), "http/protobuf"),
    ]);
    config.max_batch_spans = 16;
    let rig = Rig::start(config);
    (0..100).for_each(|number| rig.request(&format!("cmpl-{number}")));
    wait_until(LONG, || rig.exported(0) == 200 && rig.exported(1) == 200);
    assert!(sink.attempts().iter().all(|attempt| attempt.spans <= 16));
    assert_eq!(sink.spans().len(), 400);
    assert!(rig.exporter.shutdown(LONG).is_complete());
}
