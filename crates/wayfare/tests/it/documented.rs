//! The pages that say which test proves what.

use std::fs;
use std::path::Path;

use crate::metrics_page::{quoted, repository};

fn read_sources(folder: &Path, sources: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_sources(&path, sources);
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "py") {
            sources.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

fn sources() -> String {
    let mut sources = String::new();
    read_sources(&repository("crates"), &mut sources);
    // Those of the page run in a browser and are written in Python.
    read_sources(&repository("tests"), &mut sources);
    sources
}

/// The tests that the last column of a page's tables names.
fn named_in(page: &str) -> Vec<String> {
    let page = fs::read_to_string(repository(page)).unwrap();
    page.lines()
        .filter(|line| line.starts_with('|'))
        .filter_map(|line| line.trim_end_matches('|').rsplit('|').next())
        .flat_map(|tests| quoted(tests).map(str::to_owned))
        .collect()
}

#[track_caller]
fn check(page: &str, least: usize) {
    let (named, sources) = (named_in(page), sources());
    assert!(named.len() > least, "{page} has been read: {named:?}");
    let is_there = |name: &str| ["fn", "def"].iter().any(|word| sources.contains(&format!("{word} {name}(")));
    let missing: Vec<_> = named.iter().filter(|name| !is_there(name)).collect();
    assert!(missing.is_empty(), "{page} names tests that do not exist: {missing:#?}");
}

#[test]
fn every_test_that_the_page_names_exists() {
    check("docs/behaviours.md", 60);
}

#[test]
fn every_test_that_the_audit_names_exists() {
    check("docs/audit.md", 60);
}

#[test]
fn every_risk_of_the_audit_is_excluded_or_said_not_to_be() {
    let page = fs::read_to_string(repository("docs/audit.md")).unwrap();
    let risks = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| risk |"));
    for risk in risks {
        let excluded_by = risk.trim_end_matches('|').rsplit('|').next().unwrap().trim();
        let is_answered =
            ["`", "[measured]", "**not excluded**"].iter().any(|answer| excluded_by.starts_with(answer));
        assert!(is_answered, "{risk}");
    }
}
