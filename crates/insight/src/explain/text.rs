//! An explanation for a terminal.

use super::percentiles::Percentiles;
use super::{Explanation, LatencyKind};
use crate::bucket::Bucket;
use crate::page::{Page, Piece, Style, harmless};
use crate::quantity::{count, percent, seconds, tokens};
use crate::survey::Integrity;

const MIN_WIDTH: usize = 60;
const MAX_WIDTH: usize = 120;
const INDENT: &str = "  ";
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// How a text is to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextStyle {
    /// Characters per line; 60 at least, 120 at most.
    pub width: usize,
    /// Whether ANSI escapes may be used.
    pub color: bool,
}

/// Writes an explanation for people: what is whole first, then why, then the figures.
#[must_use]
pub fn explanation_text(explanation: &Explanation, style: TextStyle) -> String {
    let mut page = Page::new(style.width.clamp(MIN_WIDTH, MAX_WIDTH), style.color);
    integrity(&mut page, &explanation.integrity);
    if explanation.integrity.journeys.found > 0 {
        findings(&mut page, explanation);
        requests(&mut page, explanation);
        latencies(&mut page, explanation);
        bands(&mut page, explanation);
        waits(&mut page, explanation);
        preemption(&mut page, explanation);
        over_time(&mut page, explanation);
    }
    cannot_tell(&mut page, explanation);
    page.into_text()
}

/// Writes what is whole, and what is not.
#[must_use]
pub fn integrity_text(of: &Integrity, style: TextStyle) -> String {
    let mut page = Page::new(style.width.clamp(MIN_WIDTH, MAX_WIDTH), style.color);
    integrity(&mut page, of);
    page.into_text()
}

/// Breaks a story into lines.
#[must_use]
pub fn story_text(story: &str, style: TextStyle) -> String {
    let mut page = Page::new(style.width.clamp(MIN_WIDTH, MAX_WIDTH), style.color);
    paragraph(&mut page, Style::Plain, 0, story);
    page.into_text()
}

fn heading(page: &mut Page, text: &str) {
    page.line(&[(Style::Bold, text.to_owned())]);
}

/// A paragraph of words, broken where the line ends.
fn paragraph(page: &mut Page, style: Style, indent: usize, text: &str) {
    let width = page.width().saturating_sub(indent).max(20);
    let mut line = String::new();
    let mut write = |line: &mut String| {
        page.line(&[(Style::Plain, " ".repeat(indent)), (style, std::mem::take(line))]);
    };
    for word in harmless(text).split(' ') {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            write(&mut line);
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        write(&mut line);
    }
}

fn integrity(page: &mut Page, integrity: &Integrity) {
    heading(page, "integrity");
    let (spans, journeys) = (&integrity.spans, &integrity.journeys);
    let writers =
        [(journeys.own, "wayfare"), (journeys.reference, "the reference fork"), (journeys.stock, "vLLM")];
    let writers: Vec<_> = writers.into_iter().filter(|(number, _)| *number > 0).collect();
    let by = match writers.as_slice() {
        [(_, one)] => format!(", written by {one}"),
        several => several.iter().map(|(number, name)| format!(", {} by {name}", count(*number))).collect(),
    };
    paragraph(
        page,
        Style::Plain,
        2,
        &format!(
            "{} journeys, {} of them complete{by}. {} spans read: {} of journeys, {} of engine steps, {} of others.",
            count(journeys.found),
            count(journeys.complete),
            count(spans.read),
            count(spans.of_journeys),
            count(spans.of_steps),
            count(spans.foreign_spans())
        ),
    );
    let problems = [
        (journeys.without_request, "have no API span (llm_request)"),
        (
            journeys.without_sequence,
            "lack the engine's span (llm_core), or one of several, although the engine had them",
        ),
        (journeys.without_ending, "have an API span without DEPARTED or ABORTED"),
        (journeys.unfinished, "have an engine span without FINISHED"),
        (journeys.clock_off, "contradict themselves in time, and count in no latency"),
        (journeys.ledger_off, "have a ledger that is not the length of the request"),
    ];
    for (number, what) in problems {
        if number > 0 {
            paragraph(page, Style::Yellow, 2, &format!("{} journeys {what}.", count(number)));
        }
    }
    let losses = [
        (spans.doubles, "spans were in the files twice; the first one counts"),
        (spans.dropped_events, "events were left out by the writers"),
        (spans.unreadable, "lines or messages could not be read"),
    ];
    for (number, what) in losses {
        if number > 0 {
            paragraph(page, Style::Yellow, 2, &format!("{} {what}.", count(number)));
        }
    }
    for error in &spans.errors {
        paragraph(page, Style::Red, 4, error);
    }
    if spans.unreadable > spans.errors.len() as u64 && !spans.errors.is_empty() {
        paragraph(page, Style::Red, 4, "…");
    }
    if integrity.kept_share < 1.0 {
        let text = format!(
            "Too many journeys to keep: a sample of {} of them is left.",
            percent(integrity.kept_share)
        );
        paragraph(page, Style::Yellow, 2, &text);
    }
    if journeys.found == 0 {
        let text = "No journey was found: no span llm_request of scope vllm.api, none llm_core of scope vllm.scheduler, \
                    and none of vLLM's own.";
        paragraph(page, Style::Red, 2, text);
        for (scope, number) in &spans.foreign {
            paragraph(page, Style::Plain, 4, &format!("{scope}: {} spans", count(*number)));
        }
    } else if integrity.is_whole() {
        paragraph(page, Style::Green, 2, "Nothing is missing, nothing contradicts itself.");
    }
    page.blank();
}

fn findings(page: &mut Page, explanation: &Explanation) {
    for (place, finding) in explanation.findings.iter().enumerate() {
        let title = if place == 0 { "why" } else { "besides" };
        let color = if place == 0 { Style::Red } else { Style::Yellow };
        page.line(&[
            (Style::Bold, title.to_owned()),
            (Style::Plain, ": ".into()),
            (color, finding.cause.name().into()),
        ]);
        paragraph(page, Style::Plain, 2, &finding.sentence);
        for sentence in &finding.evidence {
            paragraph(page, Style::Dim, 4, sentence);
        }
        paragraph(page, Style::Green, 2, &format!("What helps: {}", finding.advice));
        page.blank();
    }
}

fn requests(page: &mut Page, explanation: &Explanation) {
    let requests = &explanation.requests;
    heading(page, "requests");
    let reasons: Vec<_> = requests
        .aborted_by_reason
        .iter()
        .map(|(reason, number)| format!("{} {reason}", count(*number)))
        .collect();
    let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    let text = format!(
        "{} requests in {}: {} served, {} aborted{reasons}. {} sequences were scheduled.",
        count(requests.total),
        seconds(requests.window),
        count(requests.served),
        count(requests.aborted),
        count(requests.sequences_scheduled)
    );
    paragraph(page, Style::Plain, 2, &text);
    let text = format!(
        "{} of prompts, {} of them found in the prefix cache, and {} of output; {:.2} requests and {:.0} output tokens a second.",
        tokens(requests.prompt_tokens),
        count(requests.cached_tokens),
        tokens(requests.output_tokens),
        requests.served_per_second,
        requests.output_tokens_per_second
    );
    paragraph(page, Style::Plain, 2, &text);
    page.blank();
}

fn latencies(page: &mut Page, explanation: &Explanation) {
    let titles = ["mean", "p50", "p90", "p95", "p99", "max", "count"];
    let mut line = format!("{:<14}", "latency");
    for title in titles {
        line += &format!("{title:>11}");
    }
    page.line(&[(Style::Bold, line)]);
    for kind in LatencyKind::ALL {
        let mut line = format!("{INDENT}{:<12}", kind.title());
        match explanation.latencies.get(kind) {
            Some(figures) => {
                let Percentiles { mean, p50, p90, p95, p99, max, count: number } = *figures;
                for value in [mean, p50, p90, p95, p99, max] {
                    line += &format!("{:>11}", seconds(value));
                }
                line += &format!("{:>11}", count(number));
            }
            None => line += "  not told by these traces",
        }
        page.line(&[(Style::Plain, line)]);
    }
    page.blank();
}

fn bands(page: &mut Page, explanation: &Explanation) {
    let bands = &explanation.bands;
    if bands.is_empty() {
        return;
    }
    let mut line = format!("{:<22}", "where the time went");
    for band in bands {
        line += &format!("{:>14}", format!("p{}–p{}", band.from, band.to));
    }
    page.line(&[(Style::Bold, line)]);
    let mut row = |title: &str, cell: &dyn Fn(&super::Band) -> String| {
        let mut line = format!("{INDENT}{title:<20}");
        for band in bands {
            line += &format!("{:>14}", cell(band));
        }
        page.line(&[(Style::Plain, line)]);
    };
    row("requests", &|band| count(band.requests));
    row("end to end, mean", &|band| seconds(band.mean));
    for bucket in Bucket::ALL {
        let share_in = |band: &super::Band| {
            band.buckets.iter().find(|share| share.bucket == bucket.name()).map_or(0.0, |share| share.share)
        };
        if bands.iter().any(|band| share_in(band) >= 0.001) {
            row(bucket.name(), &|band| match share_in(band) {
                share if share >= 0.0005 => percent(share),
                _ => "–".to_owned(),
            });
        }
    }
    page.blank();
}

fn waits(page: &mut Page, explanation: &Explanation) {
    if explanation.waits.is_empty() {
        return;
    }
    heading(page, "waits in the queue, by reason");
    for wait in &explanation.waits {
        let text = format!(
            "{:<14}{:>9} requests {:>11} in all {:>11} at most {:>8} of all time",
            wait.reason,
            count(wait.requests),
            seconds(wait.total),
            seconds(wait.max),
            percent(wait.share)
        );
        page.line(&[(Style::Plain, INDENT.into()), (Style::Plain, text)]);
        for blocker in &wait.blockers {
            let text = format!(
                "{} blocked {} for {} ({} prompt, {} output tokens)",
                harmless(&blocker.request_id),
                count(blocker.blocked),
                seconds(blocker.total),
                count(blocker.prompt_tokens.into()),
                count(blocker.output_tokens.into())
            );
            page.line(&[(Style::Plain, INDENT.repeat(3)), (Style::Dim, text)]);
        }
    }
    page.blank();
}

fn preemption(page: &mut Page, explanation: &Explanation) {
    let tax = &explanation.preemption;
    heading(page, "preemption");
    if tax.preemptions == 0 {
        paragraph(page, Style::Plain, 2, "None.");
    } else {
        let again = if explanation.integrity.journeys.own > 0 {
            format!(
                ", {} computed again ({} of all prompt tokens that were computed), {} doing so",
                tokens(tax.recomputed_tokens),
                percent(tax.recomputed_share),
                seconds(tax.recompute)
            )
        } else {
            ", what was computed again is not known".to_owned()
        };
        let text = format!(
            "{} preemptions of {} requests: {} preempted{again}. Together {} of all time.",
            count(tax.preemptions),
            count(tax.requests),
            seconds(tax.preempted),
            percent(tax.share)
        );
        paragraph(page, Style::Plain, 2, &text);
    }
    page.blank();
}

fn over_time(page: &mut Page, explanation: &Explanation) {
    let timeline = &explanation.timeline;
    if timeline.slices.len() < 3 {
        return;
    }
    page.line(&[
        (Style::Bold, "over time".into()),
        (Style::Plain, format!(", {} slices of {}", timeline.slices.len(), seconds(timeline.slice))),
    ]);
    let per_second = |value: f64| if timeline.slice > 0.0 { value / timeline.slice } else { 0.0 };
    let slices = &timeline.slices;
    let mut row = |title: &str, unit: &str, values: Vec<Option<f64>>| {
        let Some(most) = values.iter().flatten().copied().reduce(f64::max) else { return };
        let shown = if unit == "s" { seconds(most) } else { format!("{most:.1}{unit}") };
        let pieces: [Piece; 3] = [
            (Style::Plain, format!("{INDENT}{title:<18}")),
            (Style::Cyan, sparkline(&values, most)),
            (Style::Plain, format!("  at most {shown}")),
        ];
        page.line(&pieces);
    };
    row("arrived", "/s", slices.iter().map(|slice| Some(per_second(slice.arrived as f64))).collect());
    row("served", "/s", slices.iter().map(|slice| Some(per_second(slice.served as f64))).collect());
    if slices.iter().any(|slice| slice.aborted > 0) {
        row("aborted", "/s", slices.iter().map(|slice| Some(per_second(slice.aborted as f64))).collect());
    }
    row(
        "output tokens",
        "/s",
        slices.iter().map(|slice| Some(per_second(slice.output_tokens as f64))).collect(),
    );
    row("waiting", "", slices.iter().map(|slice| Some(slice.waiting)).collect());
    row("running", "", slices.iter().map(|slice| Some(slice.running)).collect());
    row("TTFT, p50", "s", slices.iter().map(|slice| slice.ttft_p50).collect());
    let usage = |slice: &super::Slice| slice.kv_usage.map(|usage| usage * 100.0);
    row("KV cache", " %", slices.iter().map(usage).collect());
    let saturation = &explanation.saturation;
    let drift = saturation.ttft_drift.map_or("not known".to_owned(), |drift| format!("{drift:.2} times"));
    let text = format!(
        "{}: the queue grew by {:.3} requests a second while requests arrived, TTFT from the first third to the last {drift}, \
         {:.3} preemptions a second.",
        if saturation.is_saturated { "Saturated" } else { "Not saturated" },
        saturation.queue_growth_per_second,
        saturation.preemptions_per_second
    );
    let style = if saturation.is_saturated { Style::Red } else { Style::Plain };
    paragraph(page, style, 2, &text);
    page.blank();
}

fn sparkline(values: &[Option<f64>], most: f64) -> String {
    let bar = |value: &Option<f64>| match value {
        Some(value) if most > 0.0 => {
            let height = (value / most * (BARS.len() - 1) as f64).round() as usize;
            BARS[height.min(BARS.len() - 1)]
        }
        Some(_) => BARS[0],
        None => ' ',
    };
    values.iter().map(bar).collect()
}

fn cannot_tell(page: &mut Page, explanation: &Explanation) {
    if explanation.cannot_tell.is_empty() {
        return;
    }
    heading(page, "what these traces do not tell");
    for sentence in &explanation.cannot_tell {
        paragraph(page, Style::Dim, 2, sentence);
    }
}
