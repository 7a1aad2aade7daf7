//! The rules that every journey keeps, looked up in the spans that were written.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::checks::Asked;

/// Checks all spans against each other and against what was asked; returns how often a sequence was preempted.
pub(super) fn check(spans: &[Value], asked: &Asked) -> Result<usize> {
    let mut requests: HashMap<&str, (&Value, Vec<&Value>)> = HashMap::new();
    for span in spans.iter().filter(|span| span["name"] == "llm_request") {
        let trace = span["traceId"].as_str().context("a span without a trace")?;
        if requests.insert(trace, (span, Vec::new())).is_some() {
            bail!("two requests in one trace");
        }
    }
    for span in spans.iter().filter(|span| span["name"] == "llm_core") {
        let trace = span["traceId"].as_str().context("a span without a trace")?;
        let (request, sequences) = requests.get_mut(trace).context("a sequence without its request")?;
        if span["parentSpanId"] != request["spanId"] {
            bail!("a sequence is not a child of its request");
        }
        sequences.push(span);
    }
    if requests.len() != asked.all() {
        bail!("{} requests have left {} journeys", asked.all(), requests.len());
    }
    let mut endings: HashMap<String, usize> = HashMap::new();
    let mut preemptions = 0;
    for (request, sequences) in requests.values() {
        let id = text(request, "gen_ai.request.id").unwrap_or_default();
        let ending = check_request(request).with_context(|| format!("the journey of {id}"))?;
        *endings.entry(ending).or_default() += 1;
        if sequences.is_empty() {
            bail!("{id} has left no sequence");
        }
        for sequence in sequences {
            preemptions += check_sequence(sequence).with_context(|| format!("a sequence of {id}"))?;
        }
    }
    if endings != asked.endings() {
        bail!("requests ended as {endings:?} and not as {:?}", asked.endings());
    }
    Ok(preemptions)
}

/// One start and one end, and an account of every nanosecond; returns how it ended.
fn check_request(request: &Value) -> Result<String> {
    let events = events(request);
    let names: Vec<&str> = events.iter().filter_map(|event| event["name"].as_str()).collect();
    let count = |name: &str| names.iter().filter(|one| **one == name).count();
    if names.first() != Some(&"api.ARRIVED") || count("api.DEPARTED") + count("api.ABORTED") != 1 {
        bail!("its events are {names:?}");
    }
    let nanoseconds = |key: &str| request[key].as_str().and_then(|text| text.parse::<i64>().ok());
    let whole = nanoseconds("endTimeUnixNano").zip(nanoseconds("startTimeUnixNano"));
    let whole = whole.map(|(end, start)| end - start).context("it has no times")?;
    let booked: i64 = attributes(request)
        .filter_map(|(key, value)| {
            let bucket = key.strip_prefix("journey.ledger.")?;
            // Others are shares of a bucket.
            (!bucket.contains('.')).then(|| int_of(value)).flatten()
        })
        .sum();
    if booked != whole {
        bail!("{booked} of its {whole} ns are accounted for");
    }
    if names.contains(&"api.DEPARTED") {
        return Ok("departed".to_owned());
    }
    let aborted = events.iter().find(|event| event["name"] == "api.ABORTED");
    let reason = aborted.and_then(|event| text(event, "reason"));
    Ok(reason.context("ABORTED without a reason")?.to_owned())
}

/// The rules of a sequence; returns how often it was preempted.
fn check_sequence(sequence: &Value) -> Result<usize> {
    let events = events(sequence);
    let names: Vec<&str> = events.iter().filter_map(|event| event["name"].as_str()).collect();
    let count = |name: &str| names.iter().filter(|one| **one == name).count();
    let kind = |event: &Value| text(event, "schedule.kind").map(str::to_owned);
    if names.first() != Some(&"journey.QUEUED")
        || names.last() != Some(&"journey.FINISHED")
        || count("journey.QUEUED") != 1
        || count("journey.FINISHED") != 1
        || count("journey.FIRST_TOKEN") > 1
        || events.iter().filter(|event| kind(event).as_deref() == Some("FIRST")).count() > 1
    {
        bail!("its events are {names:?}");
    }
    let mut preemptions = 0;
    for (index, event) in events.iter().enumerate() {
        let next = events.get(index + 1);
        if event["name"] == "journey.PREEMPTED" {
            preemptions += 1;
            let goes_on = next.is_some_and(|next| {
                next["name"] == "journey.FINISHED" || kind(next).as_deref() == Some("RESUME")
            });
            if !goes_on {
                bail!("PREEMPTED is followed by neither RESUME nor the end: {names:?}");
            }
        }
        if int(event, "num_preemptions") != i64::try_from(preemptions).ok() {
            bail!("num_preemptions is {:?} after {preemptions}", int(event, "num_preemptions"));
        }
        for key in ["ts.monotonic_ns", "scheduler.step", "prefill.done_tokens", "decode.done_tokens"] {
            let (now, then) = (int(event, key), next.and_then(|next| int(next, key)));
            if now.is_none() || then.is_some() && then < now {
                bail!("{key} is {now:?} and then {then:?}: {names:?}");
            }
        }
    }
    Ok(preemptions)
}

fn events(span: &Value) -> &[Value] {
    span["events"].as_array().map_or(&[], Vec::as_slice)
}

fn attributes(of: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let list = of["attributes"].as_array().map_or(&[][..], Vec::as_slice);
    list.iter().filter_map(|attribute| Some((attribute["key"].as_str()?, &attribute["value"])))
}

fn text<'a>(of: &'a Value, key: &str) -> Option<&'a str> {
    attributes(of).find(|(name, _)| *name == key)?.1["stringValue"].as_str()
}

fn int(of: &Value, key: &str) -> Option<i64> {
    int_of(attributes(of).find(|(name, _)| *name == key)?.1)
}

/// Integers are texts in OTLP's JSON.
fn int_of(value: &Value) -> Option<i64> {
    value["intValue"].as_str()?.parse().ok()
}
