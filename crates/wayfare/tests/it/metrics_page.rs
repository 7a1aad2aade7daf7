//! `docs/metrics.md` and `/metrics` of the built program.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use wayfare_testkit::wait_until;

use crate::client::{get, post};
use crate::rig::{COMPLETIONS, PATIENCE};
use crate::server::ServerProcess;

/// Labels that most series have; the page says so once.
const USUAL_LABELS: [&str; 3] = ["model_name", "engine", "le"];
/// Labels whose values are listed in the page.
const LISTED_VALUES: [&str; 4] = ["reason", "finished_reason", "by", "cause"];

/// What is said of a metric, by its name at `/metrics` without `_bucket`, `_sum` and `_count`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Described {
    /// `counter`, `gauge` or `histogram`.
    pub(crate) kind: String,
    /// Names of labels, and the values of those that have a fixed set.
    pub(crate) labels: BTreeSet<String>,
}

/// A file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}

/// What stands between back quotes.
pub(crate) fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The metrics of the page.
pub(crate) fn of_the_page() -> BTreeMap<String, Described> {
    let page = fs::read_to_string(repository("docs/metrics.md")).unwrap();
    let rows = page.lines().filter(|line| {
        ["| `vllm:", "| `wayfare:", "| `gen_ai_"].iter().any(|beginning| line.starts_with(beginning))
    });
    let mut metrics = BTreeMap::new();
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 5, "{row}");
        assert!(cells[3..].iter().all(|cell| !cell.is_empty()), "{row}");
        let name = cells[0].trim_matches('`').to_owned();
        let labels = quoted(cells[2]).map(str::to_owned).collect();
        let twice = metrics.insert(name, Described { kind: cells[1].to_owned(), labels });
        assert!(twice.is_none(), "{row}");
    }
    metrics
}

/// Names and values of the labels of a sample; values here have no quotes in them.
fn labels_of(sample: &str) -> Vec<(&str, &str)> {
    let Some((_, rest)) = sample.split_once('{') else { return Vec::new() };
    let labels = rest.rsplit_once('}').unwrap().0;
    labels.split("\",").map(|label| label.trim_end_matches('"').split_once("=\"").unwrap()).collect()
}

fn of_the_text(text: &str) -> BTreeMap<String, Described> {
    let mut metrics = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            let described = Described { kind: kind.to_owned(), labels: BTreeSet::new() };
            metrics.insert(name.to_owned(), described);
        } else if !line.starts_with('#') {
            let sample = line.split(['{', ' ']).next().unwrap();
            let names = ["", "_bucket", "_sum", "_count"].map(|suffix| sample.strip_suffix(suffix));
            let name = names.into_iter().flatten().find(|name| metrics.contains_key(*name));
            let metric = name.and_then(|name| metrics.get_mut(name)).unwrap_or_else(|| panic!("{line}"));
            for (label, value) in labels_of(line).into_iter().filter(|(name, _)| !USUAL_LABELS.contains(name))
            {
                metric.labels.insert(label.to_owned());
                if LISTED_VALUES.contains(&label) {
                    metric.labels.insert(value.to_owned());
                }
            }
        }
    }
    metrics
}

#[test]
fn the_page_lists_what_a_server_shows() {
    let folder = tempfile::tempdir().unwrap();
    let journey_file = folder.path().join("journeys.jsonl");
    let options = [
        "--kv-cache-metrics",
        "--enable-journey-tracing",
        "--journey-file",
        journey_file.to_str().unwrap(),
        // Nobody listens there, so that a failure has its labels.
        "--otlp-traces-endpoint",
        "http://127.0.0.1:1",
    ];
    let server = ServerProcess::simulated(&options, &[]);
    let body = json!({"prompt": "Hi", "max_tokens": 1}).to_string();
    assert_eq!(post(&server.address, COMPLETIONS, &[], &body).status, 200);
    let mut text = String::new();
    wait_until(PATIENCE, || {
        text = get(&server.address, "/metrics").body;
        text.contains("wayfare:journey_export_failures_total{")
    });
    assert_eq!(of_the_page(), of_the_text(&text));
}

#[test]
fn a_refused_request_moves_no_metric_of_requests() {
    let server = ServerProcess::simulated(&[], &[]);
    let of_requests = || -> Vec<String> {
        let text = get(&server.address, "/metrics").body;
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    };
    let before = of_requests();
    let too_long = json!({"prompt": "Hi", "max_tokens": 1_000_000}).to_string();
    assert_eq!(post(&server.address, COMPLETIONS, &[], &too_long).status, 400);
    assert_eq!(post(&server.address, "/v1/nowhere", &[], "{}").status, 404);
    assert_eq!(of_requests(), before);
    let fits = json!({"prompt": "Hi", "max_tokens": 1}).to_string();
    assert_eq!(post(&server.address, COMPLETIONS, &[], &fits).status, 200);
    assert_ne!(of_requests(), before);
}
