//! Rules that no compiler checks: the dependency table of the architecture, and the shape of the sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand};

use crate::process::root;

const PACKAGE_PREFIX: &str = "wayfare-";
const BINARY: &str = "wayfare";
/// In the table, a crate that may depend on every other.
const EVERYTHING: &str = "all";
/// Automation and test support stand outside of the layers, but nothing that ships may depend on them.
const NOT_SHIPPED: [&str; 2] = ["testkit", "xtask"];
/// Third-party crates that only the crates naming them in the table may use.
const RESERVED: [&str; 1] = ["candle"];
/// Longest source file, tests not counted.
const MAX_LINES: usize = 600;

/// Checks everything.
///
/// # Errors
/// With all that was found.
pub(crate) fn run() -> Result<()> {
    let root = root();
    let page = fs::read_to_string(root.join("ARCHITECTURE.md")).context("cannot read ARCHITECTURE.md")?;
    let metadata = MetadataCommand::new().current_dir(&root).exec()?;
    let mut complaints = check_dependencies(&Table::parse(&page), &Graph::of(&metadata));
    complaints.extend(check_sources(&root.join("crates"))?);
    complaints.extend(check_sources(&root.join("xtask"))?);
    if !complaints.is_empty() {
        bail!("{} things are not tidy:\n  {}", complaints.len(), complaints.join("\n  "));
    }
    Ok(())
}

/// What each crate may depend on, by its short name.
struct Table(BTreeMap<String, BTreeSet<String>>);

impl Table {
    /// Reads the rows `| crate | owns | may depend on | … |`.
    fn parse(page: &str) -> Self {
        let rows = page.lines().filter_map(|line| {
            let cells: Vec<&str> = line.strip_prefix('|')?.split('|').map(str::trim).collect();
            let name = cells.first()?.strip_prefix('`')?.split('`').next()?;
            let allowed = cells.get(2)?.split(',').map(|cell| cell.trim().trim_matches('`').to_owned());
            Some((name.to_owned(), allowed.filter(|cell| cell != "–").collect()))
        });
        Self(rows.collect())
    }
}

/// What each crate does depend on, by short name; only what ships with it.
struct Graph(BTreeMap<String, BTreeSet<String>>);

impl Graph {
    fn of(metadata: &Metadata) -> Self {
        let crates = metadata.workspace_packages().into_iter().map(|package| {
            let normal = package.dependencies.iter().filter(|one| one.kind != DependencyKind::Development);
            let names = normal.filter_map(|dependency| {
                let short = dependency.name.strip_prefix(PACKAGE_PREFIX).map(str::to_owned);
                let reserved = || RESERVED.iter().find(|name| dependency.name.starts_with(**name));
                short.or_else(|| reserved().map(|name| (*name).to_owned()))
            });
            (short_name(&package.name).to_owned(), names.collect())
        });
        Self(crates.collect())
    }
}

fn short_name(package: &str) -> &str {
    package.strip_prefix(PACKAGE_PREFIX).unwrap_or(package)
}

fn check_dependencies(table: &Table, graph: &Graph) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, used) in &graph.0 {
        let is_shipped = !NOT_SHIPPED.contains(&name.as_str());
        for support in used.iter().filter(|one| is_shipped && NOT_SHIPPED.contains(&one.as_str())) {
            complaints.push(format!("{name} depends on {support}, which is not shipped"));
        }
        if name == "xtask" {
            continue;
        }
        let Some(allowed) = table.0.get(name) else {
            complaints.push(format!("{name} has no row in the table of ARCHITECTURE.md"));
            continue;
        };
        if allowed.contains(EVERYTHING) {
            continue;
        }
        for edge in used.difference(allowed) {
            complaints
                .push(format!("{name} depends on {edge}, which its row in ARCHITECTURE.md does not allow"));
        }
    }
    for name in table.0.keys().filter(|name| !graph.0.contains_key(*name)) {
        complaints.push(format!("ARCHITECTURE.md has a row for {name}, but there is no such crate"));
    }
    if !graph.0.contains_key(BINARY) {
        complaints.push(format!("there is no package {BINARY}"));
    }
    complaints
}

/// Walks a folder of sources.
fn check_sources(folder: &Path) -> Result<Vec<String>> {
    let mut complaints = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            complaints.extend(check_sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path)?;
            complaints.extend(check_source(&path, &text));
        }
    }
    Ok(complaints)
}

fn check_source(path: &Path, text: &str) -> Vec<String> {
    let place = path.strip_prefix(root()).unwrap_or(path).display();
    let mut complaints = Vec::new();
    let is_test =
        path.components().any(|part| matches!(part.as_os_str().to_str(), Some("tests" | "benches")))
            || path.file_name().is_some_and(|name| name == "tests.rs");
    let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count();
    if !is_test && lines > MAX_LINES {
        complaints
            .push(format!("{place} has {lines} lines without its tests, more than {MAX_LINES}: split it"));
    }
    // Spelt in two halves, so that this file does not find itself.
    for (forbidden, instead) in [
        (concat!("#[igno", "re"), "a test that is not run proves nothing"),
        (concat!("#[should_", "panic"), "assert on the error instead"),
    ] {
        if text.contains(forbidden) {
            complaints.push(format!("{place} holds {forbidden}: {instead}"));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
| crate | owns | may depend on | must never know |
|---|---|---|---|
| `journey` | events | – | tokio |
| `model-cpu` | weights | engine, candle | HTTP |
| `wayfare` (bin) | wiring | all | – |
";

    fn graph(edges: &[(&str, &[&str])]) -> Graph {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Graph(edges.iter().map(|(name, used)| ((*name).to_owned(), set(used))).collect())
    }

    #[test]
    fn the_table_allows_its_edges_and_no_others() {
        let table = Table::parse(PAGE);
        let good = [
            ("journey", &[][..]),
            ("model-cpu", &["engine", "candle"]),
            ("wayfare", &["journey", "model-cpu"]),
        ];
        assert_eq!(check_dependencies(&table, &graph(&good)), [""; 0]);
        let bad = [("journey", &["engine"][..]), ("engine", &[]), ("wayfare", &["testkit"])];
        assert_eq!(
            check_dependencies(&table, &graph(&bad)),
            [
                "engine has no row in the table of ARCHITECTURE.md",
                "journey depends on engine, which its row in ARCHITECTURE.md does not allow",
                "wayfare depends on testkit, which is not shipped",
                "ARCHITECTURE.md has a row for model-cpu, but there is no such crate",
            ]
        );
    }

    #[test]
    fn long_files_and_tests_that_do_not_run_are_found() {
        let long = "fn a() {}\n".repeat(MAX_LINES + 1);
        assert_eq!(check_source(Path::new("crates/a/src/b.rs"), &long).len(), 1);
        assert_eq!(check_source(Path::new("crates/a/tests/b.rs"), &long).len(), 0);
        let tested = format!("fn a() {{}}\n#[cfg(test)]\n{long}");
        assert_eq!(check_source(Path::new("crates/a/src/b.rs"), &tested).len(), 0);
        let ignored = concat!("#[igno", "re]\n");
        assert_eq!(check_source(Path::new("crates/a/tests/b.rs"), ignored).len(), 1);
    }
}
