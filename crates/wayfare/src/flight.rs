//! `wayfare flight`: what was in flight when a server died.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use wayfare_flight::FlightLog;
use wayfare_journey::{JourneyState, RecordedRequest, RecordedSequence, RecordedWait, Recording};

use crate::cli::FlightOptions;

/// Reads the file and says what it tells.
///
/// # Errors
/// When the file cannot be read, or holds no whole recording of this version.
pub(crate) fn run(options: &FlightOptions) -> Result<()> {
    let log = wayfare_flight::read(&options.file)?;
    let text = if options.json { format!("{:#}\n", as_json(&log)) } else { as_text(&log) };
    match io::stdout().lock().write_all(text.as_bytes()) {
        // Whoever reads it has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

/// Sums over the sequences: prompt tokens done and in all, output tokens done and at most.
fn progress(request: &RecordedRequest) -> [u64; 4] {
    let sum = |part: fn(&RecordedSequence) -> u32| -> u64 {
        request.sequences.iter().map(|sequence| u64::from(part(sequence))).sum()
    };
    [
        sum(|one| one.view.progress.prefill_done),
        sum(|one| one.view.prefill_total),
        sum(|one| one.view.progress.decode_done),
        sum(|one| one.view.decode_max),
    ]
}

fn wait(request: &RecordedRequest) -> Option<&RecordedWait> {
    let waits = matches!(request.state, JourneyState::Queued | JourneyState::Preempted);
    request.sequences.iter().filter(|_| waits).find_map(|sequence| sequence.wait.as_ref())
}

fn as_text(FlightLog { recording, is_running }: &FlightLog) -> String {
    let mut text = String::new();
    let Recording { engine, step, last_alive, .. } = recording;
    let end = match (is_running, recording.has_ended_in_order) {
        (true, _) => "is running",
        (false, true) => "ended in order",
        (false, false) => "died",
    };
    let alive_ns = last_alive.since(recording.started);
    let _ = writeln!(
        text,
        "process {} {end} after {}; last sign of life at {} s since the Unix epoch",
        recording.process_id,
        short(alive_ns),
        seconds(recording.anchor.unix_ns(*last_alive)),
    );
    let doing = match step.ended {
        _ if step.number == 0 => "had computed no step".to_owned(),
        None => format!("was computing step {} for {}", step.number, short(last_alive.since(step.started))),
        Some(at) => {
            format!("had computed step {} {} before", step.number, short(last_alive.since(at)))
        }
    };
    let paused = if engine.is_paused { ", paused" } else { "" };
    let _ = writeln!(
        text,
        "engine: {doing}; {} running, {} waiting, {} of {} KV blocks in use, {} preemptions{paused}",
        engine.running, engine.waiting, engine.kv_blocks_used, engine.kv_blocks_total, engine.preemptions,
    );
    let _ = writeln!(text, "{} requests in flight", recording.requests.len());
    if recording.without_room > 0 {
        let _ = writeln!(
            text,
            "{} times the file had no room for a request or a sequence: the list is not complete",
            recording.without_room
        );
    }
    if recording.damaged_records > 0 {
        let _ =
            writeln!(text, "{} records were just being written, or are damaged", recording.damaged_records);
    }
    if recording.requests.is_empty() {
        return text;
    }
    let head = ["STATE", "FOR", "AGE", "PREFILL", "DECODE", "PREEMPTED", "WAITS FOR", "REQUEST", "TRACE"];
    let mut rows = vec![head.map(str::to_owned)];
    for request in &recording.requests {
        let [prefill_done, prefill_total, decode_done, decode_max] = progress(request);
        let preemptions: u64 = request.sequences.iter().map(|one| u64::from(one.view.num_preemptions)).sum();
        let wait = wait(request).map_or_else(String::new, |wait| {
            let by = wait.blocker.as_deref().map(|id| format!(" by {}", printable(id))).unwrap_or_default();
            format!("{}{by}", wait.reason.as_str())
        });
        rows.push([
            format!("{}{}", request.state.as_str(), if request.is_inferred { "?" } else { "" }),
            short(last_alive.since(request.since)),
            short(last_alive.since(request.arrived)),
            format!("{prefill_done}/{prefill_total}"),
            format!("{decode_done}/{decode_max}"),
            preemptions.to_string(),
            wait,
            request.request_id.as_deref().map_or_else(|| "-".to_owned(), printable),
            request.trace_id.to_string(),
        ]);
    }
    text.push('\n');
    for row in &rows {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            format!("{cell:width$}")
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}

/// Text that came from a client, as one word that cannot steer a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { char::REPLACEMENT_CHARACTER } else { char }).collect()
}

fn short(ns: u64) -> String {
    if ns >= 1_000_000_000 { format!("{}s", seconds(ns)) } else { format!("{:.1}ms", ns as f64 / 1e6) }
}

fn seconds(ns: u64) -> String {
    format!("{}.{:03}", ns / 1_000_000_000, ns / 1_000_000 % 1_000)
}

fn as_json(FlightLog { recording, is_running }: &FlightLog) -> Value {
    let Recording { engine, step, last_alive, anchor, .. } = recording;
    let requests: Vec<Value> = recording.requests.iter().map(|one| request_json(one, recording)).collect();
    json!({
        "process_id": recording.process_id,
        "is_running": is_running,
        "ended_in_order": recording.has_ended_in_order,
        "started_unix_ns": anchor.unix_ns(recording.started).to_string(),
        "last_alive_unix_ns": anchor.unix_ns(*last_alive).to_string(),
        "without_room": recording.without_room,
        "damaged_records": recording.damaged_records,
        "engine": {
            "running": engine.running,
            "waiting": engine.waiting,
            "kv_blocks_used": engine.kv_blocks_used,
            "kv_blocks_total": engine.kv_blocks_total,
            "preemptions_total": engine.preemptions,
            "paused": engine.is_paused,
            "step": step.number,
            "step_started_unix_ns": (step.number > 0).then(|| anchor.unix_ns(step.started).to_string()),
            "step_ended_unix_ns": step.ended.map(|at| anchor.unix_ns(at).to_string()),
        },
        "requests": requests,
    })
}

fn request_json(request: &RecordedRequest, recording: &Recording) -> Value {
    let Recording { last_alive, anchor, .. } = recording;
    let [prefill_done, prefill_total, decode_done, decode_max] = progress(request);
    let wait_json = |wait: Option<&RecordedWait>| {
        wait.map(|wait| json!({"reason": wait.reason.as_str(), "blocker": wait.blocker}))
    };
    let sequences: Vec<Value> = request
        .sequences
        .iter()
        .map(|RecordedSequence { index, view, wait }| {
            json!({
                "index": index,
                "state": view.state.as_str(),
                "inferred": view.is_inferred,
                "in_state_ns": last_alive.since(view.changed),
                "wait": wait_json(wait.as_ref()),
                "prefill": {
                    "done": view.progress.prefill_done,
                    "total": view.prefill_total,
                    "cached": view.cached_tokens,
                },
                "decode": {"done": view.progress.decode_done, "max": view.decode_max},
                "num_preemptions": view.num_preemptions,
            })
        })
        .collect();
    json!({
        "key": request.key.0.to_string(),
        "request_id": request.request_id,
        "request_id_is_cut": request.is_request_id_cut,
        "trace_id": request.trace_id.to_string(),
        "span_id": request.span_id.to_string(),
        "route": request.route,
        "model": request.model,
        "state": request.state.as_str(),
        "inferred": request.is_inferred,
        "arrived_unix_ns": anchor.unix_ns(request.arrived).to_string(),
        "age_ns": last_alive.since(request.arrived),
        "in_state_ns": last_alive.since(request.since),
        "wait": wait_json(wait(request)),
        "prefill": {"done": prefill_done, "total": prefill_total},
        "decode": {"done": decode_done, "max": decode_max},
        "sequences": sequences,
    })
}
