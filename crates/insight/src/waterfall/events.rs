//! The events of all spans in the order of time.

use crate::event::{ApiEvent, ApiEventKind, CoreEvent, CoreEventKind};
use crate::journey::TracedJourney;
use crate::page::{Page, Piece, Style, counted, harmless};

/// Of more events than these, the middle is left out.
const MAX_EVENTS: usize = 48;
const FIRST_EVENTS: usize = 30;
const LAST_EVENTS: usize = 12;
const OFFSET_WIDTH: usize = 13;

#[derive(Clone, Copy)]
enum Source<'a> {
    Api(&'a ApiEvent),
    Core(&'a CoreEvent),
}

struct Entry<'a> {
    unix_ns: u64,
    stream: String,
    source: Source<'a>,
}

pub(super) fn write(journey: &TracedJourney, page: &mut Page) {
    let start = journey.bounds_unix_ns().0;
    let entries = entries(journey);
    let stream_width = entries.iter().map(|entry| entry.stream.len()).max().unwrap_or(0);
    let left_out = if entries.len() > MAX_EVENTS { entries.len() - FIRST_EVENTS - LAST_EVENTS } else { 0 };
    for (index, entry) in entries.iter().enumerate() {
        if left_out > 0 && index == FIRST_EVENTS {
            write_gap(&entries[index..index + left_out], page);
        }
        if left_out == 0 || index < FIRST_EVENTS || index >= FIRST_EVENTS + left_out {
            write_entry(entry, start, stream_width, page);
        }
    }
}

/// All events; those of one moment in the order of the spans.
fn entries(journey: &TracedJourney) -> Vec<Entry<'_>> {
    let mut entries = Vec::new();
    for event in journey.request.iter().flat_map(|request| &request.events) {
        entries.push(Entry { unix_ns: event.unix_ns, stream: "api".into(), source: Source::Api(event) });
    }
    for (index, core) in journey.cores.iter().enumerate() {
        let stream = match core.sequence_index() {
            _ if journey.cores.len() == 1 => "core".into(),
            Some(sequence) => format!("core {sequence}"),
            None => format!("core {index}"),
        };
        for event in &core.events {
            let source = Source::Core(event);
            entries.push(Entry { unix_ns: event.unix_ns, stream: stream.clone(), source });
        }
    }
    entries.sort_by_key(|entry| entry.unix_ns);
    entries
}

fn write_gap(entries: &[Entry<'_>], page: &mut Page) {
    let is_preemption = |entry: &&Entry<'_>| {
        matches!(entry.source, Source::Core(CoreEvent { kind: CoreEventKind::Preempted { .. }, .. }))
    };
    let preemptions = entries.iter().filter(is_preemption).count() as u64;
    let among = if preemptions > 0 { format!(", {preemptions} of them PREEMPTED") } else { String::new() };
    let text = format!("{:>OFFSET_WIDTH$}  {}{among}", "…", counted(entries.len() as u64, "more event"));
    page.line(&[(Style::Dim, text)]);
}

fn write_entry(entry: &Entry<'_>, start: u64, stream_width: usize, page: &mut Page) {
    let offset_ms = entry.unix_ns as f64 - start as f64;
    let offset_ms = if entry.unix_ns >= start {
        format!("{:+.3} ms", (entry.unix_ns - start) as f64 / 1e6)
    } else {
        // Before the first span: only a broken file has that.
        format!("{:.3} ms", offset_ms / 1e6)
    };
    let (name, style, details) = match entry.source {
        Source::Api(event) => describe_api(event),
        Source::Core(event) => describe_core(event),
    };
    let mut line: Vec<Piece> = vec![
        (Style::Dim, format!("{offset_ms:>OFFSET_WIDTH$}")),
        (Style::Plain, format!("  {:<stream_width$}  ", entry.stream)),
        (style, format!("{name:<18}")),
    ];
    if !details.is_empty() {
        line.push((Style::Plain, format!("  {}", details.join("  "))));
    }
    page.line(&line);
}

fn describe_api(event: &ApiEvent) -> (String, Style, Vec<String>) {
    let plain = |name: &str, details| (name.to_string(), Style::Bold, details);
    match &event.kind {
        ApiEventKind::Arrived => plain("ARRIVED", vec![]),
        ApiEventKind::HandoffToCore { prefill_total_tokens } => {
            let tokens = prefill_total_tokens.map(|tokens| counted(tokens, "prompt token"));
            plain("HANDOFF_TO_CORE", tokens.into_iter().collect())
        }
        ApiEventKind::FirstResponseFromCore => plain("FIRST_RESPONSE", vec![]),
        ApiEventKind::Departed { status_code } => {
            let status = status_code.map(|code| format!("status {code}"));
            ("DEPARTED".into(), Style::Green, status.into_iter().collect())
        }
        ApiEventKind::Aborted { reason, error } => {
            let details = [harmless(reason), harmless(error)];
            ("ABORTED".into(), Style::Red, details.into_iter().filter(|text| !text.is_empty()).collect())
        }
        ApiEventKind::Other(name) => (harmless(name), Style::Dim, vec![]),
    }
}

fn describe_core(event: &CoreEvent) -> (String, Style, Vec<String>) {
    let mut details = Vec::new();
    details.extend(event.step.map(|step| format!("step {step}")));
    let progress = |name: &str, done: Option<u64>, total: Option<u64>| match (done, total) {
        (Some(done), Some(total)) => Some(format!("{name} {done}/{total}")),
        (Some(done), None) => Some(format!("{name} {done}")),
        (None, _) => None,
    };
    details.extend(progress("prefill", event.prefill_done, event.prefill_total));
    details.extend(progress("decode", event.decode_done, event.decode_max));

    let (name, style) = match &event.kind {
        CoreEventKind::Queued => ("QUEUED".to_string(), Style::Yellow),
        CoreEventKind::Scheduled {
            is_resume,
            cached_tokens,
            scheduled_tokens,
            wait_reason,
            wait_blocker,
        } => {
            details.extend(scheduled_tokens.map(|tokens| format!("computes {tokens}")));
            details
                .extend(cached_tokens.filter(|tokens| *tokens > 0).map(|tokens| format!("cached {tokens}")));
            let by = wait_blocker.as_deref().map(|by| format!(" by {}", harmless(by))).unwrap_or_default();
            details
                .extend(wait_reason.as_deref().map(|reason| format!("waited for {}{by}", harmless(reason))));
            (format!("SCHEDULED {}", if *is_resume { "resume" } else { "first" }), Style::Cyan)
        }
        CoreEventKind::FirstToken => ("FIRST_TOKEN".into(), Style::Green),
        CoreEventKind::Preempted { by, tokens_lost, blocks_freed, folded } => {
            details.extend(event.num_preemptions.map(|number| format!("preemption {number}")));
            let folded = folded.filter(|pairs| *pairs > 1);
            details.extend(folded.map(|pairs| format!("stands for {pairs}")));
            details.extend(by.as_deref().map(|by| format!("for {}", harmless(by))));
            details.extend(tokens_lost.map(|tokens| counted(tokens, "token") + " lost"));
            details.extend(blocks_freed.map(|blocks| counted(blocks, "block") + " freed"));
            ("PREEMPTED".into(), Style::Red)
        }
        CoreEventKind::Finished { status } => {
            let is_failure = matches!(&**status, "aborted" | "error" | "ignored");
            (format!("FINISHED {}", harmless(status)), if is_failure { Style::Red } else { Style::Green })
        }
        CoreEventKind::Other(name) => (harmless(name), Style::Dim),
    };
    (name, style, details)
}
