//! The same traces in every form that is read.

use std::fs;
use std::io::{Cursor, Write as _};
use std::path::Path;

use flate2::Compression as GzipLevel;
use flate2::write::GzEncoder;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use proptest::prelude::*;
use prost::Message as _;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};
use serde_json::{Value, json};
use wayfare_insight::{
    Compression, JourneyCollector, ReadError, TraceForm, TraceInput, TraceSpan, TracedJourney, read_journeys,
    trace_files,
};

use crate::rig::EXCERPT;

fn spans_of(bytes: &[u8]) -> (TraceForm, Compression, Vec<TraceSpan>) {
    let input = TraceInput::new(Cursor::new(bytes.to_vec())).unwrap();
    (input.form(), input.compression(), input.collect::<Result<_, _>>().unwrap())
}

fn journeys_of(spans: Vec<TraceSpan>) -> Vec<TracedJourney> {
    let mut collector = JourneyCollector::default();
    for span in spans {
        collector.add(span);
    }
    collector.finish()
}

/// All that is the same whatever the form; Jaeger has no nanoseconds.
#[track_caller]
fn assert_same_journeys(bytes: &[u8], form: TraceForm, compression: Compression) {
    let (found_form, found_compression, spans) = spans_of(bytes);
    assert_eq!((found_form, found_compression), (form, compression));
    let (found, expected) = (journeys_of(spans), read_journeys(EXCERPT.as_bytes()).unwrap());
    assert_eq!(found, expected);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), GzipLevel::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    for message in messages {
        file.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        file.extend(message);
    }
    file
}

fn protobuf_messages() -> Vec<Vec<u8>> {
    EXCERPT
        .lines()
        .map(|line| serde_json::from_str::<ExportTraceServiceRequest>(line).unwrap().encode_to_vec())
        .collect()
}

#[test]
fn lines_plain_and_compressed() {
    let text = EXCERPT.as_bytes();
    assert_same_journeys(text, TraceForm::JsonLines, Compression::None);
    assert_same_journeys(&gzip(text), TraceForm::JsonLines, Compression::Gzip);
    assert_same_journeys(&zstd(text), TraceForm::JsonLines, Compression::Zstd);
    // Rotated and joined: a file of several members.
    let (first, second) = EXCERPT.split_once('\n').unwrap();
    let first = format!("{first}\n");
    let members = [gzip(first.as_bytes()), gzip(second.as_bytes())].concat();
    assert_same_journeys(&members, TraceForm::JsonLines, Compression::Gzip);
    let frames = [zstd(first.as_bytes()), zstd(second.as_bytes())].concat();
    assert_same_journeys(&frames, TraceForm::JsonLines, Compression::Zstd);
}

#[test]
fn protobuf_in_frames_and_alone() {
    let messages = protobuf_messages();
    assert_same_journeys(&framed(&messages), TraceForm::Messages, Compression::None);
    assert_same_journeys(&gzip(&framed(&messages)), TraceForm::Messages, Compression::Gzip);
    // Messages of the same kind joined are one message.
    assert_same_journeys(&messages.concat(), TraceForm::Protobuf, Compression::None);
    let packed: Vec<_> = messages.iter().map(|message| zstd(message)).collect();
    assert_same_journeys(&framed(&packed), TraceForm::Messages, Compression::None);
}

#[test]
fn json_in_compressed_frames_as_the_collector_writes_it() {
    let packed: Vec<_> = EXCERPT.lines().map(|line| zstd(line.as_bytes())).collect();
    assert_same_journeys(&framed(&packed), TraceForm::Messages, Compression::None);
}

/// All resource spans of the excerpt in one list.
fn resource_spans() -> Vec<Value> {
    let lines = EXCERPT.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.flat_map(|line| line["resourceSpans"].as_array().unwrap().clone()).collect()
}

fn base64(hex: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bytes: Vec<u8> =
        (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect();
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let index = (bits >> (18 - 6 * place) & 63) as usize;
            text.push(if place <= chunk.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    text
}

fn with_base64_ids(mut spans: Vec<Value>) -> Vec<Value> {
    for scope in spans.iter_mut().flat_map(|one| one["scopeSpans"].as_array_mut().unwrap()) {
        for span in scope["spans"].as_array_mut().unwrap() {
            for key in ["traceId", "spanId", "parentSpanId"] {
                if let Some(hex) = span.get(key).and_then(Value::as_str).map(base64) {
                    span[key] = json!(hex);
                }
            }
        }
    }
    spans
}

#[test]
fn what_tempo_answers() {
    for spans in [resource_spans(), with_base64_ids(resource_spans())] {
        let first = json!({"batches": spans});
        let second = json!({"trace": {"resourceSpans": spans}});
        for answer in [first, second] {
            assert_same_journeys(answer.to_string().as_bytes(), TraceForm::JsonLines, Compression::None);
            let pretty = serde_json::to_string_pretty(&answer).unwrap();
            assert_same_journeys(pretty.as_bytes(), TraceForm::JsonDocument, Compression::None);
        }
    }
}

fn jaeger_tags(attributes: &Value) -> Vec<Value> {
    let pairs = attributes.as_array().into_iter().flatten();
    pairs
        .map(|pair| {
            let (kind, value) = pair["value"].as_object().unwrap().iter().next().unwrap();
            let (kind, value) = match kind.as_str() {
                "intValue" => ("int64", json!(value.as_str().unwrap().parse::<i64>().unwrap())),
                "doubleValue" => ("float64", value.clone()),
                "boolValue" => ("bool", value.clone()),
                "arrayValue" => {
                    let list: Vec<_> = value["values"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|one| one["stringValue"].clone())
                        .collect();
                    ("string", json!(json!(list).to_string()))
                }
                _ => ("string", value.clone()),
            };
            json!({"key": pair["key"], "type": kind, "value": value})
        })
        .collect()
}

fn jaeger_answer() -> Value {
    let microseconds = |value: &Value| value.as_str().unwrap().parse::<u64>().unwrap() / 1000;
    let (mut spans, mut processes) = (Vec::new(), serde_json::Map::new());
    for (number, one) in resource_spans().iter().enumerate() {
        let process = format!("p{number}");
        let mut tags = jaeger_tags(&one["resource"]["attributes"]);
        tags.retain(|tag| tag["key"] != "service.name");
        processes.insert(process.clone(), json!({"serviceName": "unknown_service:python3", "tags": tags}));
        for scope in one["scopeSpans"].as_array().unwrap() {
            for span in scope["spans"].as_array().unwrap() {
                let mut tags = jaeger_tags(&span["attributes"]);
                tags.push(
                    json!({"key": "otel.scope.name", "type": "string", "value": scope["scope"]["name"]}),
                );
                let start = microseconds(&span["startTimeUnixNano"]);
                let logs: Vec<_> = span["events"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .map(|event| {
                        let mut fields = jaeger_tags(&event["attributes"]);
                        fields.push(json!({"key": "event", "type": "string", "value": event["name"]}));
                        json!({"timestamp": microseconds(&event["timeUnixNano"]), "fields": fields})
                    })
                    .collect();
                let parent = span["parentSpanId"].as_str().filter(|text| !text.is_empty());
                let references: Vec<_> = parent
                    .map(|id| json!({"refType": "CHILD_OF", "traceID": span["traceId"], "spanID": id}))
                    .into_iter()
                    .collect();
                spans.push(json!({
                    "traceID": span["traceId"], "spanID": span["spanId"], "operationName": span["name"],
                    "references": references, "startTime": start,
                    "duration": microseconds(&span["endTimeUnixNano"]) - start,
                    "tags": tags, "logs": logs, "processID": process,
                }));
            }
        }
    }
    json!({"data": [{"traceID": "all", "spans": spans, "processes": processes}], "errors": null})
}

#[test]
fn what_jaeger_answers_in_microseconds() {
    let answer = jaeger_answer();
    for text in [answer.to_string(), serde_json::to_string_pretty(&answer).unwrap()] {
        let (_, _, spans) = spans_of(text.as_bytes());
        let (found, expected) = (journeys_of(spans), read_journeys(EXCERPT.as_bytes()).unwrap());
        assert_eq!(found.len(), expected.len());
        for expected in &expected {
            let is_it = |one: &&TracedJourney| one.request_id() == expected.request_id();
            let found = found.iter().find(is_it).unwrap();
            assert_eq!((found.trace_id, found.preemptions()), (expected.trace_id, expected.preemptions()));
            let starts = |journey: &TracedJourney| journey.bounds_unix_ns().0 / 1000;
            assert_eq!(starts(found), starts(expected));
            let (found, expected) = (found.request.as_ref().unwrap(), expected.request.as_ref().unwrap());
            assert_eq!(found.parent, expected.parent);
            let kinds = |events: &[wayfare_insight::ApiEvent]| {
                events.iter().map(|event| event.kind.clone()).collect::<Vec<_>>()
            };
            assert_eq!(kinds(&found.events), kinds(&expected.events));
        }
        let core_events: Vec<_> =
            expected.iter().flat_map(|journey| &journey.cores).flat_map(|core| &core.events).collect();
        let found: Vec<_> =
            found.iter().flat_map(|journey| &journey.cores).flat_map(|core| &core.events).collect();
        assert_eq!(found.len(), core_events.len());
    }
}

#[test]
fn a_file_that_ends_early_gives_what_is_before_and_says_so() {
    let read = |bytes: &[u8]| -> (usize, Vec<String>) {
        let input = TraceInput::new(Cursor::new(bytes.to_vec())).unwrap();
        let (good, bad): (Vec<_>, Vec<_>) = input.partition(Result::is_ok);
        (good.len(), bad.into_iter().map(|error| error.unwrap_err().to_string()).collect())
    };
    let whole = read(EXCERPT.as_bytes()).0;
    let cut = |bytes: &[u8]| bytes[..bytes.len() - 20].to_vec();
    for (bytes, words) in [
        (cut(EXCERPT.as_bytes()), "is not an OTLP/JSON trace request"),
        (cut(&framed(&protobuf_messages())), "the file ends within it"),
        (cut(&gzip(EXCERPT.as_bytes())), ""),
    ] {
        let (good, errors) = read(&bytes);
        assert!(good < whole, "{good} of {whole}");
        assert_eq!(errors.len(), 1, "{errors:?}");
        assert!(errors[0].contains(words), "{errors:?}");
    }
}

#[test]
fn other_files_are_told_apart() {
    let of = |bytes: &[u8]| TraceInput::new(Cursor::new(bytes.to_vec()));
    assert!(matches!(of(b"\x7fELF\x02\x01\x01\x00\x00"), Err(ReadError::UnknownForm { .. })));
    assert!(matches!(of(b"PK\x03\x04\x14\x00\x00\x00"), Err(ReadError::UnknownForm { .. })));
    assert_eq!(of(b"").unwrap().form(), TraceForm::Empty);
    assert_eq!(of(b" \n\n").unwrap().form(), TraceForm::Empty);
    let errors: Vec<_> = of(b"hello\nworld\n").unwrap().map(Result::unwrap_err).collect();
    assert_eq!(errors.len(), 2);
}

#[test]
fn files_that_were_rotated_are_found_from_old_to_new() {
    let folder = tempfile::tempdir().unwrap();
    for name in [
        "j.jsonl",
        "j.jsonl.1",
        "j.jsonl.2.gz",
        "j.jsonl.10",
        "j-2026-11-28T10-15-00.000.jsonl",
        "other.jsonl",
        "j.jsonl.bak",
        "jj.jsonl.1",
    ] {
        fs::write(folder.path().join(name), "").unwrap();
    }
    let names = |path: &Path| -> Vec<String> {
        let files = trace_files(path).unwrap();
        files.iter().map(|file| file.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    };
    let set = ["j-2026-11-28T10-15-00.000.jsonl", "j.jsonl.10", "j.jsonl.2.gz", "j.jsonl.1", "j.jsonl"];
    assert_eq!(names(&folder.path().join("j.jsonl")), set);
    assert_eq!(names(&folder.path().join("j.jsonl.1")), ["j.jsonl.1"]);
    fs::remove_file(folder.path().join("j.jsonl")).unwrap();
    assert_eq!(names(&folder.path().join("j.jsonl")), &set[..4]);
    assert_eq!(names(folder.path()).len(), 7);
    let missing = trace_files(&folder.path().join("nothing")).unwrap_err();
    assert!(missing.to_string().contains("nothing"), "{missing}");
    let empty = tempfile::tempdir().unwrap();
    assert!(trace_files(empty.path()).unwrap_err().to_string().contains("has no files"));
}

/// Files in every form, for damage.
fn every_form() -> Vec<Vec<u8>> {
    let text = EXCERPT.as_bytes().to_vec();
    let messages = protobuf_messages();
    vec![
        gzip(&text),
        zstd(&text),
        framed(&messages),
        framed(&messages.iter().map(|one| zstd(one)).collect::<Vec<_>>()),
        messages.concat(),
        serde_json::to_string_pretty(&jaeger_answer()).unwrap().into_bytes(),
        json!({"batches": with_base64_ids(resource_spans())}).to_string().into_bytes(),
        text,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn damage_is_no_panic(
        form in 0..8_usize,
        cut in 0.0..1.0_f64,
        damage in proptest::collection::vec((0.0..1.0_f64, any::<u8>()), 0..4),
    ) {
        let mut bytes = every_form().swap_remove(form);
        for (place, value) in damage {
            let at = (place * bytes.len() as f64) as usize;
            bytes[at] = value;
        }
        bytes.truncate((cut.sqrt() * bytes.len() as f64) as usize);
        if let Ok(input) = TraceInput::new(Cursor::new(bytes)) {
            for span in input {
                let _ = span;
            }
        }
    }

    #[test]
    fn no_bytes_panic_in_any_form(
        head in proptest::sample::select(vec![
            &b""[..], b"\n", b"\x00\x00\x00\x20\n", b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08", b"{", b"{\"data\":[{",
        ]),
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let all = [head, &bytes[..]].concat();
        if let Ok(input) = TraceInput::new(Cursor::new(all)) {
            for span in input {
                let _ = span;
            }
        }
    }
}
