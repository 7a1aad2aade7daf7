//! What is published about metrics and attributes, held against a running server and the schema.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use wayfare_journey::schema;

use crate::client::get;
use crate::server::ServerProcess;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The metrics of a server with everything on, as `name type`, counters without their `_total`.
fn scraped() -> BTreeSet<(String, String)> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("journeys.jsonl");
    let server = ServerProcess::simulated(
        &["--enable-journey-tracing", "--journey-file", file.to_str().unwrap(), "--kv-cache-metrics"],
        &[],
    );
    let text = get(&server.address, "/metrics").body;
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    types
        .map(|line| {
            let (name, kind) = line.split_once(' ').unwrap();
            // A histogram may well be called total.
            let name = if kind == "counter" { name.trim_end_matches("_total") } else { name };
            (name.to_owned(), kind.to_owned())
        })
        .collect()
}

#[test]
fn the_page_of_metrics_lists_what_a_server_shows() {
    let page = fs::read_to_string(root().join("docs/metrics.md")).unwrap();
    let listed: BTreeSet<(String, String)> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|line| {
            let (name, rest) = line.split_once("` | ").unwrap();
            (name.to_owned(), rest.split(" |").next().unwrap().to_owned())
        })
        .collect();
    assert_eq!(listed, scraped());
}

fn dashboard() -> Value {
    let text = fs::read_to_string(root().join("deploy/grafana/wayfare.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The texts of all fields with this name, anywhere in the dashboard.
fn fields<'a>(value: &'a Value, name: &str, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(object) => {
            for (key, value) in object {
                found.extend(value.as_str().filter(|_| key == name));
                fields(value, name, found);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| fields(value, name, found)),
        _ => {}
    }
}

fn is_of_a_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '_' | ':')
}

#[test]
fn every_metric_of_the_dashboard_exists() {
    let known = scraped();
    let shown = |name: &str| {
        known.iter().any(|(metric, kind)| match kind.as_str() {
            "counter" => name.strip_suffix("_total") == Some(metric),
            "histogram" => {
                ["_bucket", "_sum", "_count"].iter().any(|end| name.strip_suffix(end) == Some(metric))
            }
            _ => name == metric,
        })
    };
    let dashboard = dashboard();
    let mut expressions = Vec::new();
    fields(&dashboard, "expr", &mut expressions);
    fields(&dashboard, "query", &mut expressions);
    let words = expressions.iter().flat_map(|text| text.split(|character| !is_of_a_name(character)));
    let metrics: BTreeSet<&str> = words
        .filter(|word| ["vllm:", "wayfare:", "gen_ai_server_"].iter().any(|start| word.starts_with(start)))
        .collect();
    assert!(metrics.len() > 20, "the dashboard has been read: {metrics:?}");
    let unknown: Vec<_> = metrics.into_iter().filter(|name| !shown(name)).collect();
    assert_eq!(unknown, [""; 0]);
}

#[test]
fn every_attribute_of_the_dashboard_exists() {
    let known: BTreeSet<&str> = schema::span_attribute::ALL.iter().map(|attribute| attribute.key).collect();
    let dashboard = dashboard();
    let mut queries = Vec::new();
    fields(&dashboard, "query", &mut queries);
    let asked: BTreeSet<&str> = queries
        .iter()
        .flat_map(|query| query.split("span.\"").skip(1))
        .map(|rest| rest.split('"').next().unwrap())
        .collect();
    assert!(asked.len() > 8, "the dashboard has been read: {asked:?}");
    let unknown: Vec<_> = asked.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
