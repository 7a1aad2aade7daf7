//! What is told of real traces of the reference, against counts of the raw files.

use std::collections::HashMap;
use std::io::{Cursor, Read as _};

use flate2::read::GzDecoder;
use proptest::prelude::*;
use serde_json::{Value, json};
use wayfare_insight::{
    Bucket, Cause, Explanation, JourneyPicker, Stories, Survey, TextStyle, TraceInput, explanation_text,
    record_json, records_of_id, slowest,
};

use crate::rig::{core, line, request, text};

const SMALL_KV_POOL: &[u8] = include_bytes!("../data/small-kv-pool.jsonl.gz");
const ENGINE_DEATH: &[u8] = include_bytes!("../data/engine-death.jsonl.gz");
const STYLE: TextStyle = TextStyle { width: 100, color: false };

fn unpacked(bytes: &[u8]) -> String {
    let mut text = String::new();
    GzDecoder::new(bytes).read_to_string(&mut text).unwrap();
    text
}

fn survey_with(bytes: &[u8], max_journeys: usize) -> Survey {
    let mut survey = Survey::new(max_journeys);
    match TraceInput::new(Cursor::new(bytes.to_vec())) {
        Ok(spans) => {
            for span in spans {
                match span {
                    Ok(span) => survey.add(&span),
                    Err(error) => survey.note_unreadable("the file", &error),
                }
            }
        }
        Err(error) => survey.note_unreadable("the file", &error),
    }
    survey
}

fn survey(bytes: &[u8]) -> Survey {
    survey_with(bytes, 1000)
}

/// How often each text occurs as the name of an event, or as an attribute's value, in the raw file: no reader of ours.
fn occurrences(text: &str, needle: &str) -> u64 {
    text.matches(needle).count() as u64
}

#[test]
fn the_reference_s_numbers_are_those_of_the_raw_file() {
    let raw = unpacked(SMALL_KV_POOL);
    let preempted = occurrences(&raw, r#""name":"journey.PREEMPTED""#);
    let first = occurrences(&raw, r#"{"key":"schedule.kind","value":{"stringValue":"FIRST"}}"#);
    let aborted = occurrences(&raw, r#""name":"api.ABORTED""#);
    let departed = occurrences(&raw, r#""name":"api.DEPARTED""#);
    assert_eq!((preempted, first, aborted), (12, 27, 3));

    let survey = survey(SMALL_KV_POOL);
    let explanation = Explanation::of(&survey);
    assert_eq!(explanation.preemption.preemptions, preempted);
    assert_eq!(explanation.requests.sequences_scheduled, first);
    assert_eq!(explanation.requests.aborted, aborted);
    assert_eq!(explanation.requests.served, departed);
    assert_eq!(explanation.requests.total, occurrences(&raw, r#""name":"llm_request""#));
    assert_eq!(explanation.integrity.steps, occurrences(&raw, r#""name":"step.BATCH_SUMMARY""#));
    let spans = &explanation.integrity.spans;
    assert_eq!(spans.read, occurrences(&raw, r#""spanId":"#));
    assert_eq!(spans.foreign_spans(), spans.read - spans.of_journeys - spans.of_steps);
    assert_eq!(explanation.integrity.journeys.reference, explanation.requests.total);
}

#[test]
fn the_reference_s_times_are_those_of_its_events() {
    // Time to first token by the raw events, without any type of the reader.
    let raw = unpacked(SMALL_KV_POOL);
    let nanoseconds = |value: &Value| value.as_str().unwrap().parse::<u64>().unwrap();
    let (mut starts, mut ends, mut firsts) = (HashMap::new(), HashMap::new(), HashMap::new());
    for line in raw.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let lists = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
        for scope in lists(&line, "resourceSpans").iter().flat_map(|one| lists(one, "scopeSpans")) {
            for span in lists(&scope, "spans") {
                let events = lists(&span, "events");
                if span["name"] == "llm_request" {
                    let id = span["spanId"].as_str().unwrap().to_owned();
                    starts.insert(id.clone(), nanoseconds(&span["startTimeUnixNano"]));
                    if events.iter().any(|event| event["name"] == "api.DEPARTED") {
                        ends.insert(id, nanoseconds(&span["endTimeUnixNano"]));
                    }
                } else if span["name"] == "llm_core" {
                    let id = span["parentSpanId"].as_str().unwrap().to_owned();
                    for event in events.iter().filter(|event| event["name"] == "journey.FIRST_TOKEN") {
                        let at = nanoseconds(&event["timeUnixNano"]);
                        let first = firsts.entry(id.clone()).or_insert(at);
                        *first = at.min(*first);
                    }
                }
            }
        }
    }
    let mut ttfts: Vec<u64> = ends.keys().map(|id| firsts[id] - starts[id]).collect();
    let mut e2es: Vec<u64> = ends.iter().map(|(id, end)| end - starts[id]).collect();
    ttfts.sort_unstable();
    e2es.sort_unstable();
    let rank =
        |values: &[u64], percent: usize| values[(values.len() * percent).div_ceil(100) - 1] as f64 / 1e9;

    let explanation = Explanation::of(&survey(SMALL_KV_POOL));
    let (ttft, e2e) = (explanation.latencies.ttft.unwrap(), explanation.latencies.e2e.unwrap());
    for (found, values) in [(ttft, &ttfts), (e2e, &e2es)] {
        assert_eq!(found.count, values.len() as u64);
        let expected = [rank(values, 50), rank(values, 90), rank(values, 99), rank(values, 100)];
        assert_eq!([found.p50, found.p90, found.p99, found.max], expected);
    }
    // What the events do not tell is not told.
    assert!(explanation.waits.iter().all(|wait| wait.reason == "unknown" && wait.blockers.is_empty()));
    assert_eq!(explanation.preemption.recomputed_tokens, 0);
    assert!(explanation.cannot_tell.iter().any(|text| text.contains("reference fork")));
}

#[test]
fn a_pool_that_is_too_small_is_found_in_the_reference_s_traces() {
    let explanation = Explanation::of(&survey(SMALL_KV_POOL));
    assert_eq!(explanation.findings[0].cause, Cause::KvPool, "{:#?}", explanation.findings);
    let evidence = explanation.findings[0].evidence.join(" ");
    assert!(evidence.contains("12 preemptions"), "{evidence}");
}

#[test]
fn an_engine_that_died_is_found_and_its_missing_halves_are_counted() {
    let raw = unpacked(ENGINE_DEATH);
    let explanation = Explanation::of(&survey(ENGINE_DEATH));
    assert_eq!(explanation.requests.aborted, occurrences(&raw, r#""name":"api.ABORTED""#));
    assert_eq!(explanation.findings[0].cause, Cause::EngineFailure, "{:#?}", explanation.findings);
    let journeys = &explanation.integrity.journeys;
    assert!(journeys.without_sequence >= 6, "{journeys:?}");
    assert_eq!(journeys.complete + journeys.without_sequence, journeys.found, "{journeys:?}");
    let shown = explanation_text(&explanation, STYLE);
    assert!(shown.contains("lack the engine's span"), "{shown}");
}

#[test]
fn shuffled_and_doubled_files_tell_the_same() {
    let raw = unpacked(SMALL_KV_POOL);
    let expected = Explanation::of(&survey(raw.as_bytes()));
    let mut lines: Vec<_> = raw.lines().collect();
    lines.reverse();
    lines.swap(1, 7);
    let shuffled = Explanation::of(&survey(lines.join("\n").as_bytes()));
    // Sums of fractions differ in their last digit with the order.
    assert_eq!(explanation_text(&shuffled, STYLE), explanation_text(&expected, STYLE));
    assert_eq!((&shuffled.integrity, &shuffled.requests), (&expected.integrity, &expected.requests));
    assert_eq!((&shuffled.latencies, &shuffled.waits.len()), (&expected.latencies, &expected.waits.len()));
    let doubled = Explanation::of(&survey([raw.as_bytes(), raw.as_bytes()].concat().as_slice()));
    assert_eq!(doubled.integrity.spans.doubles, expected.integrity.spans.of_journeys);
    assert_eq!((doubled.requests, doubled.latencies), (expected.requests, expected.latencies));
    let shown = explanation_text(
        &Explanation::of(&survey([raw.as_bytes(), raw.as_bytes()].concat().as_slice())),
        STYLE,
    );
    assert!(shown.contains("were in the files twice"), "{shown}");
}

#[test]
fn a_torn_and_a_corrupted_file_are_told_of() {
    let raw = unpacked(SMALL_KV_POOL);
    let torn = &raw.as_bytes()[..raw.len() * 2 / 3];
    let explanation = Explanation::of(&survey(torn));
    assert_eq!(explanation.integrity.spans.unreadable, 1);
    let shown = explanation_text(&explanation, STYLE);
    assert!(shown.contains("could not be read") && shown.contains("the file: line"), "{shown}");
    let corrupted = raw.replace("\"traceId\":\"a", "\"traceId\":\"xx");
    let explanation = Explanation::of(&survey(corrupted.as_bytes()));
    assert!(explanation.integrity.spans.unreadable > 0);
    assert!(!explanation.integrity.is_whole());
    let nothing = Explanation::of(&survey(b"\x7fELF\x01\x02\x03"));
    assert!(explanation_text(&nothing, STYLE).contains("no trace file"));
}

#[test]
fn clocks_that_go_backwards_are_counted_and_not_used() {
    let backwards = request(10, &[("api.ARRIVED", 3_000_000, json!([])), ("api.DEPARTED", 10, json!([]))]);
    let explanation = Explanation::of(&survey(line(&[backwards]).as_bytes()));
    assert_eq!(explanation.integrity.journeys.clock_off, 1);
    assert_eq!((explanation.requests.served, explanation.latencies.e2e), (1, None));
    let (_, mut ends_early) = request(0, &[("api.DEPARTED", 0, json!([]))]);
    ends_early["endTimeUnixNano"] = json!("5");
    let explanation = Explanation::of(&survey(line(&[("vllm.api", ends_early)]).as_bytes()));
    assert_eq!(explanation.integrity.journeys.clock_off, 1);
}

fn number(key: &str, value: f64) -> Value {
    json!({"key": key, "value": {"doubleValue": value}})
}

fn int(key: &str, value: u64) -> Value {
    json!({"key": key, "value": {"intValue": value.to_string()}})
}

#[test]
fn what_vllm_itself_writes_is_read() {
    let mut lines = String::new();
    for index in 0..40_u64 {
        let (_, mut span) = request(2_000_000_000, &[]);
        span["traceId"] = json!(format!("{:032x}", index + 1));
        span["spanId"] = json!(format!("{:016x}", index + 1));
        span["attributes"] = json!([
            text("gen_ai.request.id", &format!("cmpl-{index}")),
            text("gen_ai.response.model", "m"),
            int("gen_ai.usage.prompt_tokens", 100),
            int("gen_ai.usage.completion_tokens", 11),
            number("gen_ai.latency.time_in_queue", 1.0),
            number("gen_ai.latency.time_to_first_token", 1.5),
            number("gen_ai.latency.e2e", 2.0),
            number("gen_ai.latency.time_in_model_prefill", 0.5),
            number("gen_ai.latency.time_in_model_decode", 0.5),
            number("gen_ai.latency.time_in_model_inference", 1.0),
        ]);
        lines += &line(&[("vllm.llm_engine", span)]);
    }
    let survey = survey(lines.as_bytes());
    let explanation = Explanation::of(&survey);
    let journeys = &explanation.integrity.journeys;
    assert_eq!((journeys.stock, journeys.complete, explanation.requests.served), (40, 40, 40));
    let latencies = &explanation.latencies;
    let p50 = |figures: &Option<wayfare_insight::Percentiles>| figures.unwrap().p50;
    assert_eq!([p50(&latencies.ttft), p50(&latencies.queue), p50(&latencies.e2e)], [1.5, 1.0, 2.0]);
    assert_eq!([p50(&latencies.tpot), p50(&latencies.prefill), p50(&latencies.decode)], [0.05, 0.5, 0.5]);
    assert_eq!(explanation.findings[0].cause, Cause::UnknownQueue);
    assert!(explanation.cannot_tell.iter().any(|text| text.contains("vLLM's own spans")));
}

#[test]
fn too_many_journeys_leave_a_fair_sample() {
    let mut lines = String::new();
    for index in 0..4000_u64 {
        let (_, mut one) = request(1000 + index, &[("api.DEPARTED", 900, json!([]))]);
        let (_, mut core) =
            core(0, 800, &[("journey.QUEUED", 1, json!([])), ("journey.FINISHED", 800, json!([]))]);
        for span in [&mut one, &mut core] {
            span["traceId"] = json!(format!("{:032x}", index + 1));
        }
        // The halves far apart.
        lines.insert_str(0, &line(&[("vllm.scheduler", core)]));
        lines += &line(&[("vllm.api", one)]);
    }
    let explanation = Explanation::of(&survey_with(lines.as_bytes(), 500));
    let integrity = &explanation.integrity;
    assert!(integrity.kept_share < 0.2, "{}", integrity.kept_share);
    assert!(integrity.journeys.found <= 500 && integrity.journeys.found > 100);
    assert_eq!(integrity.journeys.complete, integrity.journeys.found, "halves stay together");
    let middle = explanation.latencies.e2e.unwrap().p50 * 1e9;
    assert!((2500.0..3500.0).contains(&middle), "{middle}");
    assert!(!integrity.is_whole() && explanation_text(&explanation, STYLE).contains("a sample"));
}

#[test]
fn single_requests_are_told_in_words() {
    let survey = survey(SMALL_KV_POOL);
    let stories = Stories::of(&survey);
    let records = records_of_id(&survey, "chatcmpl-ab05b8a21977c252");
    assert_eq!(records.len(), 1);
    let story = stories.tell(records[0]);
    for words in
        ["took 11.6 s until its answer", "4.70 s of its 11.6 s in the queue", "preempted twice", "150 tokens"]
    {
        assert!(story.contains(words), "{words}: {story}");
    }
    assert_eq!(records_of_id(&survey, "ab05b8a21977c252"), records, "without its prefix");
    assert_eq!(records_of_id(&survey, &records[0].trace_id.to_string()).len(), 1);
    assert!(records_of_id(&survey, "nobody").is_empty());
    let three = slowest(&survey, 3);
    let times: Vec<_> = three.iter().map(|record| record.e2e_ns().unwrap()).collect();
    let all = survey.records().filter_map(|record| record.e2e_ns());
    assert!(times.is_sorted_by(|one, other| one >= other) && all.max() == Some(times[0]));
    let mut picker = JourneyPicker::new(&three);
    for span in TraceInput::new(Cursor::new(SMALL_KV_POOL)).unwrap() {
        picker.add(span.unwrap());
    }
    assert_eq!(picker.finish().len(), 3);
    let figures = serde_json::to_value(record_json(records[0], &survey)).unwrap();
    assert_eq!(figures["preemptions"], 2);
}

#[test]
fn an_account_made_of_events_is_as_long_as_the_request() {
    let survey = survey(SMALL_KV_POOL);
    for record in survey.records().filter(|record| record.is_complete()) {
        let account = record.account().unwrap();
        assert_eq!(account.total(), record.e2e_ns().unwrap());
    }
    let of = |record: &&wayfare_insight::Record| record.account().unwrap().get(Bucket::Preempted) > 0;
    assert_eq!(
        survey.records().filter(of).count(),
        survey.records().filter(|one| one.preemptions > 0).count()
    );
}

#[test]
fn every_figure_of_our_own_ledger_is_taken_over() {
    let survey = survey(include_bytes!("../data/own.jsonl"));
    let record = survey.records().find(|record| record.preemptions > 0).unwrap();
    let account = record.account().unwrap();
    assert_eq!((account.total(), record.e2e_ns()), (100_000_000, Some(100_000_000)));
    assert_eq!(account.get(Bucket::Recompute), 9_000_000);
    assert_eq!(account.queue(), 10_000_000);
    assert!(record.has_ledger && record.is_complete());
    assert_eq!(survey.names().text(record.last.preempted_by), "chatcmpl-other");
    let integrity = survey.integrity();
    assert_eq!((integrity.journeys.found, integrity.journeys.ledger_off), (2, 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn no_order_and_no_damage_panics(
        seed in any::<u64>(),
        cut in 0.2..1.0_f64,
        damage in proptest::collection::vec((0.0..1.0_f64, any::<u8>()), 0..6),
    ) {
        let raw = unpacked(ENGINE_DEATH);
        let mut lines: Vec<_> = raw.lines().collect();
        let turn = (seed % lines.len() as u64) as usize;
        lines.rotate_left(turn);
        let mut bytes = lines.join("\n").into_bytes();
        for (place, value) in damage {
            let at = (place * bytes.len() as f64) as usize;
            bytes[at] = value;
        }
        bytes.truncate((cut * bytes.len() as f64) as usize);
        let survey = survey_with(&bytes, 8);
        let explanation = Explanation::of(&survey);
        let _ = explanation_text(&explanation, STYLE);
        let _ = serde_json::to_string(&explanation).unwrap();
        let stories = Stories::of(&survey);
        for record in survey.records() {
            let _ = stories.tell(record);
        }
    }
}
