//! `deploy/grafana/wayfare.json` asks only for what there is: metrics of `docs/metrics.md`, and attributes of
//! `docs/journey-schema.md`. Other tests compare these pages with the server and the schema.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use crate::metrics_page::{Described, of_the_page, quoted, repository};

/// Words of TraceQL and of the dashboard's own variables that look like attributes.
const SCOPES: [&str; 3] = ["span.", "event.", "resource."];
/// Labels that Prometheus adds or that every series has.
const USUAL_LABELS: [&str; 4] = ["le", "instance", "model_name", "engine"];

fn dashboard() -> Value {
    serde_json::from_str(&fs::read_to_string(repository("deploy/grafana/wayfare.json")).unwrap()).unwrap()
}

fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    dashboard["panels"].as_array().unwrap().iter()
}

/// The queries under `key` of panels whose data source is of this type.
fn queries(dashboard: &Value, data_source: &str, key: &str) -> Vec<String> {
    let targets = panels(dashboard).filter_map(|panel| panel["targets"].as_array()).flatten();
    let of_source = targets.filter(|target| target["datasource"]["type"] == data_source);
    of_source.map(|target| target[key].as_str().unwrap().to_owned()).collect()
}

/// Words of a query, without what is between double quotes.
fn words(query: &str) -> Vec<String> {
    let unquoted: Vec<&str> = query.split('"').step_by(2).collect();
    let is_in_word = |letter: char| letter.is_ascii_alphanumeric() || "_.:$".contains(letter);
    let words = unquoted.join(" ");
    words.split(|letter| !is_in_word(letter)).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// The metric of a series' name, if there is one and its type has such series.
fn metric_of<'a>(metrics: &'a BTreeMap<String, Described>, series: &str) -> Option<&'a Described> {
    let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| {
        metrics.get(series.strip_suffix(suffix)?).filter(|described| described.kind == "histogram")
    });
    histogram.or_else(|| metrics.get(series).filter(|described| described.kind != "histogram"))
}

#[test]
fn it_has_what_grafana_needs() {
    let dashboard = dashboard();
    let mut ids = BTreeSet::new();
    let mut cells = BTreeSet::new();
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels with the id of {title}");
        let [x, y, width, height] =
            ["x", "y", "w", "h"].map(|field| panel["gridPos"][field].as_u64().unwrap());
        assert!(x + width <= 24, "{title}");
        for cell in (x..x + width).flat_map(|x| (y..y + height).map(move |y| (x, y))) {
            assert!(cells.insert(cell), "{title} lies on another panel");
        }
        if panel["type"] != "row" {
            let source = &panel["datasource"];
            let (kind, id) = (source["type"].as_str().unwrap(), source["uid"].as_str().unwrap());
            assert_eq!(id, format!("${{{kind}}}"), "the data source of {title} is no variable");
            assert!(
                panel["targets"].as_array().unwrap().iter().all(|target| target["datasource"] == *source)
            );
        }
    }
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    for source in ["prometheus", "tempo"] {
        assert!(variables.iter().any(|one| one["name"] == source && one["query"] == source), "{source}");
    }
}

#[test]
fn its_metrics_and_labels_exist() {
    let dashboard = dashboard();
    let metrics = of_the_page();
    let mut expressions = queries(&dashboard, "prometheus", "expr");
    assert!(expressions.len() > 50, "{}", expressions.len());
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    expressions.extend(variables.filter_map(|one| one["query"]["query"].as_str()).map(str::to_owned));
    let mut used = BTreeSet::new();
    for expression in expressions {
        let series: Vec<String> = words(&expression)
            .into_iter()
            .filter(|word| word.contains(':') || word.starts_with("gen_ai_") || word.ends_with("_total"))
            .collect();
        assert!(!series.is_empty(), "{expression}");
        let mut labels: BTreeSet<&str> = USUAL_LABELS.into();
        for name in &series {
            let metric = metric_of(&metrics, name).unwrap_or_else(|| panic!("{name} in {expression}"));
            labels.extend(metric.labels.iter().map(String::as_str));
            used.insert(name.clone());
        }
        for by in expression.split("by (").skip(1) {
            for label in by.split(')').next().unwrap().split(',').map(str::trim) {
                assert!(labels.contains(label), "{label} in {expression}");
            }
        }
    }
    assert!(used.len() > 35, "{used:?}");
}

/// Attributes and names of events by the scope that TraceQL has for them, from the page of the schema.
fn schema() -> (BTreeMap<&'static str, BTreeSet<String>>, BTreeSet<String>) {
    let page = fs::read_to_string(repository("docs/journey-schema.md")).unwrap();
    let mut attributes = BTreeMap::from(SCOPES.map(|scope| (scope, BTreeSet::new())));
    let mut events = BTreeSet::new();
    let mut scope = None;
    for line in page.lines() {
        if line.starts_with('#') {
            scope = match line.trim_start_matches('#').trim() {
                "Their attributes" => Some("event."),
                "Attributes of the resource" => Some("resource."),
                heading if heading.starts_with("Attributes of") => Some("span."),
                _ => None,
            };
        } else if let Some(name) = line.strip_prefix("| `").and_then(|rest| rest.split('`').next()) {
            match scope {
                Some(scope) => attributes.get_mut(scope).unwrap().insert(name.to_owned()),
                None => events.insert(name.to_owned()),
            };
        }
    }
    assert!(attributes.values().all(|names| names.len() > 8), "{attributes:?}");
    assert!(events.contains("journey.PREEMPTED"), "{events:?}");
    (attributes, events)
}

#[track_caller]
fn check_trace_query(query: &str) -> usize {
    let (attributes, events) = schema();
    let mut checked = 0;
    for word in words(query) {
        let is_name = |text: &str| query.contains(&format!("\"{text}\""));
        match SCOPES.iter().find_map(|scope| Some((scope, word.strip_prefix(scope)?))) {
            Some((scope, name)) => {
                assert!(attributes[scope].contains(name), "{word} in {query}");
                checked += 1;
            }
            None if word == "event:name" => assert!(events.iter().any(|event| is_name(event)), "{query}"),
            None if word == "name" => {
                assert!(["llm_request", "llm_core"].into_iter().any(is_name), "{query}")
            }
            None => assert!(!word.contains('.'), "{word} in {query} has no scope"),
        }
    }
    checked
}

#[test]
fn its_trace_queries_ask_for_attributes_of_the_schema() {
    let queries = queries(&dashboard(), "tempo", "query");
    assert!(queries.len() >= 6, "{queries:?}");
    for query in queries {
        assert!(check_trace_query(&query) > 2, "{query}");
    }
}

#[test]
fn the_trace_queries_of_the_guide_do_as_well() {
    let guide = fs::read_to_string(repository("docs/journey-tracing.md")).unwrap();
    let mut checked = 0;
    for query in quoted(&guide).filter(|code| code.starts_with('{') && code.contains("span.")) {
        checked += check_trace_query(query);
    }
    assert!(checked > 4, "{checked}");
}
