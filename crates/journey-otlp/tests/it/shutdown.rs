//! The end of the exporter.

use std::time::Duration;

use wayfare_journey::{Clock, SystemClock};
use wayfare_journey_otlp::DropCause;
use wayfare_testkit::{OtlpSink, Refusal, wait_until};

use crate::rig::{LONG, Rig, collector, config};

#[test]
fn what_is_queued_is_sent() {
    let sink = OtlpSink::start();
    let mut config = config(vec![collector(&sink.grpc_endpoint(), "grpc")]);
    config.schedule_delay = Duration::from_secs(3600);
    let rig = Rig::start(config);
    (0..40).for_each(|_| rig.request("cmpl-1"));
    let report = rig.exporter.shutdown(LONG);
    assert!(report.in_time && report.is_complete(), "{report}");
    assert_eq!(report.destinations[0].exported_spans, 80);
    assert_eq!(sink.spans().len(), 80);
}

#[test]
fn a_collector_that_does_not_answer_costs_the_time_limit_and_the_loss_is_said() {
    let sink = OtlpSink::start();
    sink.set_delay(Duration::from_secs(60));
    let rig = Rig::start(config(vec![collector(&sink.http_endpoint(), "http/protobuf")]));
    (0..5).for_each(|_| rig.request("cmpl-1"));
    let counters = rig.exporter.counters();
    let started = SystemClock.now();
    let report = rig.exporter.shutdown(Duration::from_millis(300));
    let took = Duration::from_nanos(SystemClock.now().since(started));
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(10), "{took:?}");
    assert!(!report.in_time);
    assert_eq!(report.destinations[0].unsent_spans, 10);
    assert_eq!(counters.destinations()[0].dropped(DropCause::Shutdown), 10);
    assert!(report.to_string().ends_with(": 0 spans sent, 10 not sent before the end"), "{report}");
}

#[test]
fn a_collector_that_refuses_costs_a_few_attempts_and_not_the_time_limit() {
    let sink = OtlpSink::start();
    sink.set_refusal(Some(Refusal::unavailable()));
    let mut config = config(vec![collector(&sink.grpc_endpoint(), "grpc")]);
    config.max_batch_spans = 2;
    let rig = Rig::start(config);
    (0..20).for_each(|_| rig.request("cmpl-1"));
    let report = rig.exporter.shutdown(Duration::from_secs(3600));
    assert!(report.in_time);
    assert_eq!(report.destinations[0].unsent_spans, 40);
}

/// The wait between two attempts, here an hour, is cut short by the end of the server.
#[test]
fn the_end_is_a_last_chance_for_what_waits() {
    let sink = OtlpSink::start();
    sink.refuse_next(1, Refusal::unavailable());
    let mut config = config(vec![collector(&sink.grpc_endpoint(), "grpc")]);
    config.retry.first_backoff = Duration::from_secs(3600);
    config.retry.max_backoff = Duration::from_secs(3600);
    config.retry.give_up_after = Duration::from_secs(86_400);
    let rig = Rig::start(config);
    rig.request("cmpl-1");
    wait_until(LONG, || sink.attempts().len() == 1);
    let report = rig.exporter.shutdown(LONG);
    assert!(report.in_time && report.is_complete(), "{report}");
}

#[test]
fn journeys_that_end_after_the_exporter_are_counted_and_let_go() {
    let sink = OtlpSink::start();
    let Rig { tracer, exporter } = Rig::start(config(vec![collector(&sink.grpc_endpoint(), "grpc")]));
    let counters = exporter.counters();
    let late = tracer.admit(Default::default(), "/", SystemClock.now()).span.unwrap();
    assert!(exporter.shutdown(Duration::MAX).is_complete());
    late.complete(SystemClock.now());
    assert_eq!(counters.journeys_dropped_shutdown(), 1);
    assert_eq!(counters.journeys_accepted(), 0);
}

#[test]
fn an_exporter_that_is_only_dropped_does_not_hang_and_sends_what_it_can() {
    let sink = OtlpSink::start();
    let rig = Rig::start(config(vec![collector(&sink.grpc_endpoint(), "grpc")]));
    rig.request("cmpl-1");
    drop(rig);
    sink.wait_for(|spans| spans.len() == 2, LONG);
}
