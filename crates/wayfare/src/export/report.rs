//! `wayfare export --to html`: one file with everything in it, drawn with the modules of the page at `/journeys`.

use anyhow::{Context as _, Result};
use serde_json::{Map, Value, json};
use wayfare_insight::{
    Explanation, Record, SpanPicker, Stories, Survey, TextStyle, integrity_text, journey_json, slowest,
};

use crate::traces::Traces;

/// Requests that are shown whole.
const SHOWN: usize = 50;
/// Requests that are points: of more, every n-th in the order of arrival.
const MAX_POINTS: usize = 4_000;

const PAGE: &str = include_str!("report.html");
const STYLE: &str = include_str!("report.css");
const SCRIPT: &str = include_str!("report.js");

/// The whole file.
pub(super) fn report(survey: &Survey, traces: &mut Traces) -> Result<String> {
    let shown = slowest(survey, SHOWN);
    let mut picker = SpanPicker::new(&shown);
    traces.read("Reading again", |_, span| {
        if let Ok(span) = span {
            picker.add(span);
        }
    })?;
    let stories = Stories::of(survey);
    let journeys: Vec<Value> =
        shown.iter().map(|record| journey_json(record, picker.spans_of(record), survey)).collect();
    let told: Map<String, Value> =
        shown.iter().map(|record| (record.span_id.to_string(), stories.tell(record).into())).collect();
    let points: Vec<Value> = points(survey).iter().map(|record| journey_json(record, &[], survey)).collect();
    let explanation = Explanation::of(survey);
    let data = json!({
        "title": format!("Why: {}", traces.names().join(", ")),
        "integrity_sentences": sentences(&explanation),
        "explanation": explanation,
        "journeys": journeys,
        "stories": told,
        "points": points,
    });
    let script =
        wayfare_console::bundle("report.js", SCRIPT).context("the report's script cannot be put together")?;
    // In a script element the end of it must not occur, whatever the traces have.
    let data = data.to_string().replace('<', "\\u003c");
    let style = format!("{}{STYLE}", wayfare_console::style_sheet());
    let parts = [("{{style}}", style), ("{{data}}", data), ("{{script}}", script)];
    Ok(filled(parts))
}

/// The page with its parts. One after the other, from the left, so that no part is looked into.
fn filled(parts: [(&str, String); 3]) -> String {
    let (mut page, mut rest) = (String::new(), PAGE);
    for (place, part) in parts {
        if let Some((before, after)) = rest.split_once(place) {
            page += before;
            page += &part;
            rest = after;
        }
    }
    page + rest
}

fn points(survey: &Survey) -> Vec<&Record> {
    let mut records: Vec<&Record> = survey.records().filter(|record| record.e2e_ns().is_some()).collect();
    records.sort_by_key(|record| (record.start_ns, record.span_id));
    let step = records.len().div_ceil(MAX_POINTS).max(1);
    records.into_iter().step_by(step).collect()
}

/// What is whole, as `wayfare explain` says it, a sentence a paragraph.
fn sentences(explanation: &Explanation) -> Vec<String> {
    let text = integrity_text(&explanation.integrity, TextStyle { width: 120, color: false });
    let lines: Vec<&str> = text.lines().skip(1).map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join(" ").split_inclusive(". ").map(|sentence| sentence.trim().to_owned()).collect()
}
