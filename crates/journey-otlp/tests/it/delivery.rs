//! What arrives when all is well.

use wayfare_testkit::{OtlpSink, Transport, wait_until};

use wayfare_journey_otlp::SpanLimits;

use crate::rig::{LONG, Rig, collector, collector_with, config};

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

#[test]
fn long_lives_are_sent_in_messages_that_a_collector_takes() {
    // A collector takes 4 MiB by gRPC, unless it is told otherwise; these journeys are more together.
    let sink = OtlpSink::start();
    let rig = Rig::start(config(vec![collector(&sink.grpc_endpoint(), "grpc")]));
    (0..250).for_each(|number| rig.preempted_request(&format!("cmpl-{number}"), 31));
    wait_until(LONG, || rig.exported(0) == 500);
    assert_eq!(sink.spans().len(), 500);
    assert!(sink.attempts().iter().all(|attempt| attempt.accepted));
    assert!(rig.exporter.shutdown(LONG).is_complete());
}

#[test]
fn both_spans_arrive_as_json() {
    let sink = OtlpSink::start();
    let rig = Rig::start(config(vec![collector(&sink.http_endpoint(), "http/json")]));
    check_both_spans_arrive(&sink, &rig, Transport::Http);
    let attempt = &sink.attempts()[0];
    assert_eq!(attempt.path, "/v1/traces");
    assert!(attempt.headers.contains(&("content-type".into(), "application/json".into())), "{attempt:?}");
}

#[test]
fn every_protocol_carries_the_same() {
    let sink = OtlpSink::start();
    let destinations =
        ["http/protobuf", "http/json"].map(|protocol| collector(&sink.http_endpoint(), protocol));
    let rig =
        Rig::start(config([vec![collector(&sink.grpc_endpoint(), "grpc")], destinations.to_vec()].concat()));
    rig.request("cmpl-\u{1f}\"ü");
    wait_until(LONG, || (0..3).all(|index| rig.exported(index) == 2));
    let requests = sink.requests();
    assert!(requests[0] == requests[1] && requests[1] == requests[2], "{requests:#?}");
}

#[test]
fn requests_are_packed_where_the_user_says_so() {
    for (protocol, header) in
        [("grpc", "grpc-encoding"), ("http/protobuf", "content-encoding"), ("http/json", "content-encoding")]
    {
        let sink = OtlpSink::start();
        let endpoint = if protocol == "grpc" { sink.grpc_endpoint() } else { sink.http_endpoint() };
        let gzip = [("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")];
        let rig = Rig::start(config(vec![collector_with(&endpoint, protocol, &gzip)]));
        let transport = if protocol == "grpc" { Transport::Grpc } else { Transport::Http };
        check_both_spans_arrive(&sink, &rig, transport);
        let headers = &sink.attempts()[0].headers;
        assert!(headers.contains(&(header.into(), "gzip".into())), "{headers:?}");
    }
}

#[test]
fn spans_are_cut_to_the_limits() {
    let sink = OtlpSink::start();
    let mut config = config(vec![collector(&sink.grpc_endpoint(), "grpc")]);
    config.limits =
        SpanLimits { span_events: 1, span_attributes: 1, event_attributes: 2, value_characters: Some(6) };
    let rig = Rig::start(config);
    rig.request("cmpl-1234");
    let spans = sink.wait_for(|spans| spans.len() == 2, LONG);
    assert_eq!(
        (spans[0].event_names(), spans[1].event_names()),
        (vec!["api.DEPARTED"], vec!["journey.FINISHED"])
    );
    assert!(
        spans
            .iter()
            .all(|span| span.text("gen_ai.request.id") == Some("cmpl-1") && span.attributes.len() == 1)
    );
    let resource_spans = &sink.requests()[0].resource_spans[0];
    let core = &resource_spans.scope_spans[1].spans[0];
    assert_eq!((core.dropped_events_count, core.dropped_attributes_count > 1), (1, true));
    assert_eq!((core.events[0].attributes.len(), core.events[0].dropped_attributes_count), (2, 9));
    let resource = resource_spans.resource.as_ref().unwrap();
    assert!(resource.attributes.len() > 1, "the resource has no limits");
}
