//! `wayfare explain`: what files of traces say, and why.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::{Context as _, Result, bail};
use serde_json::json;
use wayfare_insight::{
    Explanation, JourneyPicker, Record, Stories, Survey, TextStyle, TracedJourney, explanation_text,
    integrity_text, record_json, records_of_id, slowest, waterfall,
};

use crate::cli::ExplainOptions;
use crate::traces::Traces;

/// The form of the JSON about single requests.
const STORIES_SCHEMA: &str = "wayfare.explain.requests/1";

/// Characters per line where there is no terminal.
const DEFAULT_WIDTH: usize = 100;

/// Reads, and prints what was asked for.
pub(crate) fn run(options: &ExplainOptions) -> Result<()> {
    let is_about_some = options.request.is_some() || options.slowest.is_some();
    let mut traces = Traces::find(&options.files, is_about_some)?;
    let survey = traces.survey(options.traces.max_journeys)?;
    if is_about_some {
        return tell_some(options, &mut traces, &survey);
    }
    let explanation = Explanation::of(&survey);
    if options.json {
        return print(&serde_json::to_string_pretty(&explanation)?);
    }
    print(explanation_text(&explanation, text_style()).trim_end())
}

fn tell_some(options: &ExplainOptions, traces: &mut Traces, survey: &Survey) -> Result<()> {
    let records = match (&options.request, options.slowest) {
        (Some(id), _) => records_of_id(survey, id),
        (None, count) => slowest(survey, count.map_or(1, std::num::NonZeroUsize::get)),
    };
    if records.is_empty() {
        let found = survey.integrity().journeys.found;
        match &options.request {
            Some(id) => bail!(
                "none of the {found} journeys in {} has the id {id}; it is that of the response, such as chatcmpl-…, that \
                 which the client gave, or a trace id",
                traces.names().join(", ")
            ),
            None => bail!("there is no journey with a beginning and an end in {}", traces.names().join(", ")),
        }
    }
    let mut picker = JourneyPicker::new(&records);
    traces.read("Reading again", |_, span| {
        if let Ok(span) = span {
            picker.add(span);
        }
    })?;
    let journeys = picker.finish();
    let stories = Stories::of(survey);
    if options.json {
        let all: Vec<_> = records
            .iter()
            .map(|record| json!({"story": stories.tell(record), "request": record_json(record, survey)}))
            .collect();
        let answer = json!({"schema": STORIES_SCHEMA, "integrity": survey.integrity(), "requests": all});
        return print(&serde_json::to_string_pretty(&answer)?);
    }
    let style = text_style();
    let mut text = integrity_text(&survey.integrity(), style);
    for record in records {
        text += &wayfare_insight::story_text(&stories.tell(record), style);
        text.push('\n');
        if let Some(journey) = journeys.iter().find(|journey| is_of(journey, record)) {
            text += &waterfall(journey, style.width, style.color);
        }
        text.push('\n');
    }
    print(text.trim_end())
}

fn is_of(journey: &TracedJourney, record: &Record) -> bool {
    let request = journey.request.as_ref().map(|request| request.span_id);
    let by_sequence =
        || journey.cores.iter().any(|core| core.parent.unwrap_or(core.span_id) == record.span_id);
    journey.trace_id == record.trace_id
        && (request == Some(record.span_id) || request.is_none() && by_sequence())
}

/// Colours only on a terminal, and as wide as it is.
pub(crate) fn text_style() -> TextStyle {
    let width = terminal_size::terminal_size().map_or(DEFAULT_WIDTH, |(width, _)| usize::from(width.0));
    let color = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    TextStyle { width, color }
}

pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let written = writeln!(out, "{text}").and_then(|()| out.flush());
    match written {
        // Whoever reads has enough, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot print"),
    }
}
