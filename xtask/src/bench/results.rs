//! Results on disk and on the screen.

use std::fs;

use anyhow::Result;
use serde::Serialize;

use crate::process::root;

/// Prints `page`, and writes `bench/results/NAME-DATE.json` with `data` and its Markdown twin with `page`.
///
/// # Errors
/// When a file cannot be written.
pub(crate) fn publish(
    name: &str,
    date: &str,
    data: &impl Serialize,
    page: &str,
    no_file: bool,
) -> Result<()> {
    println!("{page}");
    if no_file {
        return Ok(());
    }
    let folder = root().join("bench").join("results");
    fs::create_dir_all(&folder)?;
    let place = folder.join(format!("{name}-{date}"));
    fs::write(place.with_extension("json"), serde_json::to_string_pretty(data)? + "\n")?;
    fs::write(place.with_extension("md"), page)?;
    eprintln!("written: {}.json and .md", place.display());
    Ok(())
}

/// A row of a Markdown table.
pub(crate) fn row(cells: impl IntoIterator<Item = String>) -> String {
    let cells: Vec<String> = cells.into_iter().collect();
    format!("| {} |\n", cells.join(" | "))
}

/// The head of a Markdown table whose columns are numbers but for the first.
pub(crate) fn head(names: &[&str]) -> String {
    let rule = names.iter().enumerate().map(|(index, _)| if index == 0 { "---" } else { "---:" });
    let rule: Vec<&str> = rule.collect();
    format!("| {} |\n|{}|\n", names.join(" | "), rule.join("|"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_markdown() {
        assert_eq!(head(&["a", "b"]) + &row(["x".into(), "1".into()]), "| a | b |\n|---|---:|\n| x | 1 |\n");
    }
}
