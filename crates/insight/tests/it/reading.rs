use std::io::{self, BufReader, Read};

use proptest::prelude::*;
use serde_json::{Value, json};
use wayfare_insight::{
    ApiEventKind, CoreEventKind, JourneyCollector, Phase, ReadError, SpanReader, read_journeys,
};

use crate::rig::{EXCERPT, core, journey, line, reference_journey, request};

#[test]
fn journeys_of_the_reference_are_found_among_foreign_spans() {
    let spans: Vec<_> = SpanReader::new(EXCERPT.as_bytes()).collect::<Result<_, _>>().unwrap();
    let journeys = read_journeys(EXCERPT.as_bytes()).unwrap();
    let ours = journeys.iter().map(|journey| journey.cores.len() + 1).sum::<usize>();
    assert!(spans.len() > ours, "foreign spans are in the file");
    let summary: Vec<_> = journeys
        .iter()
        .map(|journey| (journey.request_id().unwrap(), journey.cores.len(), journey.preemptions()))
        .collect();
    assert_eq!(
        summary,
        [
            ("chatcmpl-9808337b2aab5749", 0, 0),
            ("chatcmpl-with-parent", 1, 0),
            ("chatcmpl-bd0bff420f087f31", 2, 0),
            ("chatcmpl-9fec25882b2e5738", 1, 0),
            ("chatcmpl-ab05b8a21977c252", 1, 2),
            ("chatcmpl-8cebbc19c2a421cf", 1, 0),
        ]
    );
}

#[test]
fn events_are_typed() {
    let journey = reference_journey("chatcmpl-ab05b8a21977c252");
    let kinds: Vec<_> = journey.cores[0].events.iter().map(|event| event.kind.clone()).collect();
    let scheduled = |is_resume| CoreEventKind::Scheduled {
        is_resume,
        cached_tokens: None,
        scheduled_tokens: None,
        wait_reason: None,
        wait_blocker: None,
    };
    let preempted =
        CoreEventKind::Preempted { by: None, tokens_lost: None, blocks_freed: None, folded: None };
    assert_eq!(
        kinds,
        [
            CoreEventKind::Queued,
            scheduled(false),
            preempted.clone(),
            scheduled(true),
            CoreEventKind::FirstToken,
            preempted,
            scheduled(true),
            CoreEventKind::Finished { status: "length".into() },
        ]
    );
    let last = journey.cores[0].events.last().unwrap();
    assert_eq!((last.num_preemptions, last.prefill_done == last.prefill_total), (Some(2), true));

    let aborted = reference_journey("chatcmpl-8cebbc19c2a421cf");
    let ending = &aborted.request.as_ref().unwrap().ending().unwrap().kind;
    let expected =
        ApiEventKind::Aborted { reason: "client_disconnect".into(), error: "Client disconnected".into() };
    assert_eq!(*ending, expected);
}

#[test]
fn the_order_of_lines_does_not_matter_and_a_line_twice_counts_once() {
    let forwards = read_journeys(EXCERPT.as_bytes()).unwrap();
    let mut lines: Vec<_> = EXCERPT.lines().collect();
    lines.reverse();
    lines.extend(EXCERPT.lines());
    assert_eq!(read_journeys(lines.join("\n").as_bytes()).unwrap(), forwards);
}

#[test]
fn a_core_span_without_its_request_is_a_journey_of_its_own() {
    let journey = journey(&[core(0, 10, &[]), core(1, 20, &[])]);
    assert_eq!((journey.request, journey.cores.len()), (None, 2));
}

#[test]
fn phases_have_no_gaps_and_follow_the_events() {
    let journey = reference_journey("chatcmpl-ab05b8a21977c252");
    let core = &journey.cores[0];
    let names: Vec<_> = core.phases().iter().map(|segment| segment.phase).collect();
    use Phase::{Decode, Preempted, Prefill, Queue, Unknown};
    assert_eq!(names, [Unknown, Queue, Prefill, Preempted, Prefill, Decode, Preempted, Decode, Unknown]);
    for (segments, start, end) in [
        (core.phases(), core.start_unix_ns, core.end_unix_ns),
        (
            journey.request_phases(),
            journey.request.as_ref().unwrap().start_unix_ns,
            journey.request.as_ref().unwrap().end_unix_ns,
        ),
    ] {
        assert_eq!((segments[0].start_unix_ns, segments.last().unwrap().end_unix_ns), (start, end));
        assert!(segments.windows(2).all(|pair| pair[0].end_unix_ns == pair[1].start_unix_ns));
    }
}

#[test]
fn defaults_nulls_numbers_and_unknown_fields_are_read() {
    let (_, mut span) = request(5, &[]);
    span["startTimeUnixNano"] = json!(1000);
    span["unknown"] = json!({"deep": [1, 2]});
    span["events"] = Value::Null;
    span["traceId"] = json!("ABABABABABABABABABABABABABABABAB");
    span["parentSpanId"] = json!("0000000000000000");
    span["attributes"] = json!([
        {"key": "http.route"}, {"key": "x", "value": {}}, {"key": "y", "value": {"doubleValue": "NaN"}},
        {"key": "z", "value": {"kvlistValue": {"values": []}}},
        {"key": "http.response.status_code", "value": {"intValue": 200}},
    ]);
    let journeys = read_journeys(line(&[("vllm.api", span)]).as_bytes()).unwrap();
    let request = journeys[0].request.as_ref().unwrap();
    assert_eq!((request.start_unix_ns, request.duration_ns(), request.parent), (1000, 5, None));
    let code = wayfare_journey::schema::span_attribute::STATUS_CODE;
    assert_eq!(request.attributes.int(code), Some(200));
    assert_eq!(request.attributes.iter().count(), 5);
}

#[test]
fn an_error_names_the_line_and_later_lines_can_be_read() {
    let good = line(&[request(5, &[])]);
    let mut bad_id = request(5, &[]);
    bad_id.1["spanId"] = json!("12");
    for (bad, reason) in [
        ("{\"resourceSpans\":[{]}".to_string(), "line 3 is not an OTLP/JSON trace request"),
        ("[]".into(), "line 3: it is not a JSON object"),
        ("{\"resourceSpans\":[{\"scopeSpans\":[{\"spans\":[{\"kind\":1,\"startTimeUnixNano\":\"soon\"}]}]}]}".into(), "line 3 is not"),
        (line(&[bad_id.clone()]).trim().into(), "line 3: id \"12\" of span \"llm_request\""),
    ] {
        let text = format!("{good}\n{bad}\n{good}");
        let error = read_journeys(text.as_bytes()).unwrap_err();
        assert!(error.to_string().starts_with(reason), "{error}");
        let read: Vec<_> = SpanReader::new(text.as_bytes()).collect();
        assert_eq!(read.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    }
}

#[test]
fn a_line_that_never_ends_is_given_up() {
    let endless = BufReader::new(io::repeat(b' ').take(1 << 40));
    let mut reader = SpanReader::new(endless);
    assert!(matches!(reader.next(), Some(Err(ReadError::LineTooLong { line: 1 }))));
    assert!(reader.next().is_none());
}

#[test]
fn a_file_system_that_fails_is_reported_once() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("gone"))
        }
    }
    let mut reader = SpanReader::new(BufReader::new(Broken));
    assert!(matches!(reader.next(), Some(Err(ReadError::Io { line: 1, .. }))));
    assert!(reader.next().is_none());
}

#[test]
fn spans_of_other_scopes_are_let_go() {
    let mut collector = JourneyCollector::default();
    let foreign = line(&[("somebody.else", request(5, &[]).1)]);
    for span in SpanReader::new(foreign.as_bytes()) {
        assert!(!collector.add(span.unwrap()));
    }
    assert!(collector.finish().is_empty());
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for span in SpanReader::new(bytes.as_slice()) {
            let _ = span;
        }
    }

    #[test]
    fn no_torn_line_panics(cut in 0..EXCERPT.len()) {
        let _ = read_journeys(&EXCERPT.as_bytes()[..cut]);
    }
}
