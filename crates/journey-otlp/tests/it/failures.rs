//! Collectors that are absent, slow, full or unwilling.

use std::net::TcpListener;
use std::time::Duration;

use wayfare_journey_otlp::{Destination, DropCause, FileRotation};
use wayfare_testkit::{OtlpSink, Refusal, wait_until};

use crate::rig::{LONG, Rig, collector, config, with_timeout};

fn collectors(sink: &OtlpSink) -> Vec<Destination> {
    vec![
        collector(&sink.grpc_endpoint(), "grpc"),
        collector(&sink.http_endpoint(), "http/protobuf"),
        collector(&sink.http_endpoint(), "http/json"),
    ]
}

/// An address at which nobody listens.
fn nowhere() -> String {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().to_string()
}

#[test]
fn a_refusal_for_now_is_retried_until_the_spans_are_taken() {
    for index in 0..3 {
        let sink = OtlpSink::start();
        sink.refuse_next(3, Refusal::unavailable());
        let rig = Rig::start(config(vec![collectors(&sink).remove(index)]));
        rig.request("cmpl-1");
        wait_until(LONG, || rig.exported(0) == 2);
        assert_eq!(sink.attempts().len(), 4);
        assert_eq!(rig.exporter.counters().destinations()[0].retries(), 3);
        assert_eq!(sink.spans().len(), 2, "what was refused is not stored twice");
    }
}

#[test]
fn the_wait_that_a_collector_asks_for_is_kept() {
    for index in 0..3 {
        let sink = OtlpSink::start();
        sink.refuse_next(1, Refusal::exhausted(Some(Duration::from_secs(1))));
        let rig = Rig::start(config(vec![collectors(&sink).remove(index)]));
        rig.request("cmpl-1");
        wait_until(LONG, || rig.exported(0) == 2);
        let attempts = sink.attempts();
        assert_eq!(attempts.len(), 2);
        // The usual first wait is 5 ms.
        let waited = attempts[1].at.seconds_since(attempts[0].at);
        assert!(waited > 0.99, "{waited} s");
    }
}

#[test]
fn a_wait_beyond_the_limit_is_not_waited_for() {
    for index in 0..3 {
        let sink = OtlpSink::start();
        sink.set_refusal(Some(Refusal::exhausted(Some(Duration::from_secs(u64::MAX / 2)))));
        let rig = Rig::start(config(vec![collectors(&sink).remove(index)]));
        rig.request("cmpl-1");
        wait_until(LONG, || rig.dropped(0, DropCause::GaveUp) == 2);
        assert_eq!(sink.attempts().len(), 1);
    }
}

#[test]
fn a_refusal_for_ever_is_counted_and_not_retried() {
    // RESOURCE_EXHAUSTED without a time to come back is one, 429 is not: hence gRPC alone for the second.
    let (invalid, exhausted) = (Refusal::invalid(), Refusal::exhausted(None));
    for (index, refusal) in [(0, invalid), (1, invalid), (2, invalid), (0, exhausted)] {
        let sink = OtlpSink::start();
        sink.set_refusal(Some(refusal));
        let rig = Rig::start(config(vec![collectors(&sink).remove(index)]));
        rig.request("cmpl-1");
        wait_until(LONG, || rig.dropped(0, DropCause::Refused) == 2);
        sink.set_refusal(None);
        rig.request("cmpl-2");
        wait_until(LONG, || rig.exported(0) == 2);
        assert_eq!(sink.attempts().len(), 2);
    }
}

#[test]
fn rejected_spans_of_an_accepted_request_are_counted() {
    for index in 0..3 {
        let sink = OtlpSink::start();
        sink.set_partial_success(Some((1, "one is too old")));
        let rig = Rig::start(config(vec![collectors(&sink).remove(index)]));
        rig.request("cmpl-1");
        wait_until(LONG, || rig.dropped(0, DropCause::PartialSuccess) == 1);
        assert_eq!(rig.exported(0), 1);
        // More than were sent, or fewer than none, cannot be.
        for (rejected, counted) in [(1000, 3), (-5, 3)] {
            let before = rig.exported(0) + rig.dropped(0, DropCause::PartialSuccess);
            sink.set_partial_success(Some((rejected, "")));
            rig.request("cmpl-2");
            wait_until(LONG, || rig.exported(0) + rig.dropped(0, DropCause::PartialSuccess) == before + 2);
            assert_eq!(rig.dropped(0, DropCause::PartialSuccess), counted);
        }
    }
}

#[test]
fn an_absent_collector_is_given_up() {
    for protocol in ["grpc", "http/protobuf", "http/json"] {
        let mut config = config(vec![collector(&nowhere(), protocol)]);
        config.retry.give_up_after = Duration::from_millis(50);
        let rig = Rig::start(config);
        rig.request("cmpl-1");
        wait_until(LONG, || rig.dropped(0, DropCause::GaveUp) == 2);
        assert!(rig.exporter.counters().destinations()[0].retries() > 0);
        assert_eq!(rig.exporter.counters().destinations()[0].pending(), 0);
    }
}

#[test]
fn a_collector_that_comes_back_gets_what_waited_for_it() {
    for index in 0..3 {
        let sink = OtlpSink::start();
        let rig = Rig::start(config(vec![collectors(&sink).remove(index)]));
        rig.request("cmpl-1");
        wait_until(LONG, || rig.exported(0) == 2);
        let sink = sink.restart(|| {
            rig.request("cmpl-2");
            wait_until(LONG, || rig.exporter.counters().destinations()[0].retries() > 1);
        });
        let spans = sink.wait_for(|spans| spans.len() == 2, LONG);
        assert_eq!(spans[0].text("gen_ai.request.id"), Some("cmpl-2"));
        wait_until(LONG, || rig.exported(0) == 4);
    }
}

#[test]
fn an_answer_that_does_not_come_is_a_failure_that_may_pass() {
    for index in 0..3 {
        let sink = OtlpSink::start();
        sink.set_delay(Duration::from_secs(60));
        let limit = Duration::from_millis(100);
        let rig = Rig::start(config(vec![with_timeout(collectors(&sink).remove(index), limit)]));
        rig.request("cmpl-1");
        wait_until(LONG, || rig.exporter.counters().destinations()[0].retries() > 0);
        sink.set_delay(Duration::ZERO);
        wait_until(LONG, || rig.exported(0) == 2);
    }
}

#[test]
fn a_dead_collector_stops_no_other_destination_and_its_backlog_is_bounded() {
    let sink = OtlpSink::start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journeys.jsonl");
    let mut config = config(vec![
        collector(&nowhere(), "grpc"),
        Destination::File { path: path.clone(), rotation: FileRotation::default(), option: "--journey-file" },
        collector(&sink.http_endpoint(), "http/protobuf"),
    ]);
    config.max_batch_spans = 2;
    config.max_pending_spans = 10;
    let rig = Rig::start(config);
    for number in 1..=50 {
        rig.request("cmpl-1");
        wait_until(LONG, || rig.exported(1) == 2 * number && rig.exported(2) == 2 * number);
    }
    assert_eq!(rig.exporter.counters().destinations()[0].pending(), 10);
    assert_eq!(rig.dropped(0, DropCause::QueueFull), 90);
    assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 50);
}

#[test]
fn a_flood_is_dropped_and_counted_and_never_waits() {
    let sink = OtlpSink::start();
    let mut config = config(vec![collector(&sink.grpc_endpoint(), "grpc")]);
    config.queue_capacity = 10;
    config.schedule_delay = Duration::from_secs(3600);
    let rig = Rig::start(config);
    (0..25).for_each(|_| rig.request("cmpl-1"));
    let counters = rig.exporter.counters();
    assert_eq!((counters.journeys_accepted(), counters.journeys_dropped_queue_full()), (10, 15));
    let report = rig.exporter.shutdown(LONG);
    assert!(report.in_time && !report.is_complete());
    assert_eq!((report.lost_journeys, report.destinations[0].exported_spans), (15, 20));
}

/// Slower than journeys end, but within the time limit: nothing is lost, and what waits is sent together.
#[test]
fn a_slow_collector_gets_everything_and_holds_nobody_up() {
    let (slow, quick) = (OtlpSink::start(), OtlpSink::start());
    slow.set_delay(Duration::from_millis(200));
    for index in 0..3 {
        slow.clear();
        quick.clear();
        let rig = Rig::start(config(vec![collectors(&slow).remove(index), collectors(&quick).remove(index)]));
        for number in 1..=30 {
            rig.request("cmpl-1");
            wait_until(LONG, || rig.exported(1) == 2 * number);
        }
        assert!(rig.exported(0) < 60, "the slow one is slower");
        wait_until(LONG, || rig.exported(0) == 60);
        let (asked_slow, asked_quick) = (slow.attempts().len(), quick.attempts().len());
        assert_eq!(asked_quick, 30);
        assert!(asked_slow < asked_quick / 2, "{asked_slow} requests");
        assert!(rig.exporter.shutdown(LONG).is_complete());
    }
}

/// Longer than the backlog lasts: the oldest spans wait, the others are counted, and the accounts agree.
#[test]
fn after_an_outage_the_accounts_agree() {
    for index in 0..3 {
        let sink = OtlpSink::start();
        let mut config = config(vec![collectors(&sink).remove(index)]);
        config.max_pending_spans = 20;
        let rig = Rig::start(config);
        rig.request("cmpl-before");
        wait_until(LONG, || rig.exported(0) == 2);
        let sink = sink.restart(|| {
            for number in 0..50 {
                rig.request("cmpl-during");
                let settled = || {
                    let counters = rig.exporter.counters();
                    counters.destinations()[0].pending() + counters.destinations()[0].dropped_total()
                };
                wait_until(LONG, || settled() == 2 * (number + 1));
            }
        });
        sink.wait_for_spans("llm_core", 10, LONG);
        rig.request("cmpl-after");
        let report = rig.exporter.shutdown(LONG);
        assert_eq!(report.destinations[0].exported_spans, 2 + 20 + 2);
        assert_eq!((report.destinations[0].lost_spans, report.destinations[0].unsent_spans), (80, 0));
        assert_eq!(sink.spans().len(), 22);
    }
}
