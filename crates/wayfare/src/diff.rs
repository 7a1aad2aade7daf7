//! `wayfare diff`: what changed between two runs.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::json;
use wayfare_insight::{Diff, Survey, diff_text};

use crate::cli::DiffOptions;
use crate::explain::{print, text_style};
use crate::traces::Traces;

/// What a shell sees when a condition of `--fail-if` holds.
const CONDITION_HOLDS: u8 = 1;

/// Compares and prints. The code says whether a condition holds.
pub(crate) fn run(options: &DiffOptions) -> Result<ExitCode> {
    let before = survey(&options.before, options)?;
    let after = survey(&options.after, options)?;
    let diff = Diff::of(&before, &after);
    let mut holding = Vec::new();
    for condition in &options.fail_if {
        if condition.holds(&diff)? {
            holding.push(condition.to_string());
        }
    }
    if options.json {
        let mut answer = serde_json::to_value(&diff)?;
        answer["failed_conditions"] = json!(holding);
        print(&serde_json::to_string_pretty(&answer)?)?;
    } else {
        let mut text = diff_text(&diff, text_style());
        for condition in &holding {
            text += &format!("\nfailed: {condition}");
        }
        print(text.trim_end())?;
    }
    Ok(if holding.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(CONDITION_HOLDS) })
}

fn survey(path: &PathBuf, options: &DiffOptions) -> Result<Survey> {
    let survey = Traces::find(std::slice::from_ref(path), false)?.survey(options.traces.max_journeys)?;
    if survey.records().next().is_none() {
        let errors = survey.integrity().spans.errors;
        let why = errors.first().map_or(String::new(), |error| format!(": {error}"));
        bail!("there are no journeys in {}{why}", path.display());
    }
    Ok(survey)
}
