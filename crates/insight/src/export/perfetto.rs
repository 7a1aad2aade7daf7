//! The Trace Event Format, which Perfetto and Chrome's tracing page read.
//!
//! Source: "Trace Event Format", Google, sections on complete, counter, flow, instant and metadata events. Times are
//! microseconds, as numbers with a fraction. A process is a server's engine; its requests are threads, and so is the engine
//! itself, with its steps.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};

use serde_json::{Value, json};

use crate::event::{ApiEventKind, CoreEventKind};
use crate::journey::TracedJourney;
use crate::phases::{Phase, Segment};
use crate::survey::{Moment, Name, Record, Survey};

/// The thread of the engine itself; requests come after it.
const ENGINE_TRACK: u64 = 1;
const FIRST_REQUEST_TRACK: u64 = 10;
/// A slice that a flow begins or ends in has to have a length.
const MIN_SLICE_US: f64 = 0.001;

/// Writes some journeys: a track per request, one per engine with counters, and an arrow from whoever was to blame to whoever
/// waited. `journeys` are those of `records`.
///
/// # Errors
/// When `out` does.
pub fn write_perfetto(
    survey: &Survey,
    records: &[&Record],
    journeys: &[TracedJourney],
    out: &mut impl Write,
) -> io::Result<()> {
    let mut writer = Writer { out, start_ns: first_moment(survey, journeys), is_first: true };
    writer.out.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n")?;
    let engines = Engines::of(survey, records);
    engines.write_names(survey, &mut writer)?;
    let mut by_span = HashMap::new();
    for journey in journeys {
        for (trace_id, span_id) in keys(journey) {
            by_span.insert((trace_id, span_id), journey);
        }
    }
    let mut tracks: HashMap<Name, (u64, u64, &Record)> = HashMap::new();
    for (number, record) in records.iter().enumerate() {
        let track = FIRST_REQUEST_TRACK + number as u64;
        let process = engines.process(record.instance, record.last.engine);
        tracks.entry(record.request_id).or_insert((process, track, record));
        let id = survey.names().text(record.request_id);
        writer.metadata("thread_name", process, track, &json!({"name": id}))?;
        writer.metadata("thread_sort_index", process, track, &json!({"sort_index": track}))?;
        if let Some(journey) = by_span.get(&(record.trace_id, record.span_id)) {
            write_journey(journey, record, (process, track), id, &mut writer)?;
        }
    }
    write_flows(survey, records, &tracks, &engines, &mut writer)?;
    engines.write_steps(survey, &mut writer)?;
    if survey.steps().samples().is_empty() {
        engines.write_depths(records, &mut writer)?;
    }
    writer.out.write_all(b"\n]}\n")
}

fn keys(journey: &TracedJourney) -> Vec<(wayfare_journey::TraceId, wayfare_journey::SpanId)> {
    match &journey.request {
        Some(request) => vec![(journey.trace_id, request.span_id)],
        None => {
            journey.cores.iter().map(|core| (journey.trace_id, core.parent.unwrap_or(core.span_id))).collect()
        }
    }
}

fn first_moment(survey: &Survey, journeys: &[TracedJourney]) -> u64 {
    let of_journeys = journeys.iter().map(|journey| journey.bounds_unix_ns().0);
    let of_steps = survey.steps().samples().iter().map(step_start);
    of_journeys.chain(of_steps).filter(|at| *at > 0).min().unwrap_or(0)
}

fn step_start(sample: &crate::StepSample) -> u64 {
    sample.unix_ns.saturating_sub(u64::from(sample.duration_us) * 1000)
}

struct Writer<'a, W> {
    out: &'a mut W,
    start_ns: u64,
    is_first: bool,
}

impl<W: Write> Writer<'_, W> {
    fn event(&mut self, event: &Value) -> io::Result<()> {
        if !std::mem::replace(&mut self.is_first, false) {
            self.out.write_all(b",\n")?;
        }
        serde_json::to_writer(&mut *self.out, event).map_err(io::Error::from)
    }

    fn metadata(&mut self, name: &str, process: u64, track: u64, args: &Value) -> io::Result<()> {
        self.event(&json!({"ph": "M", "name": name, "pid": process, "tid": track, "args": args}))
    }

    /// Microseconds since the first moment.
    fn at(&self, unix_ns: u64) -> f64 {
        unix_ns.saturating_sub(self.start_ns) as f64 / 1e3
    }

    fn slice(&mut self, name: &str, place: (u64, u64), from: u64, to: u64, args: &Value) -> io::Result<()> {
        let duration = (to.saturating_sub(from) as f64 / 1e3).max(MIN_SLICE_US);
        self.event(&json!({
            "ph": "X", "cat": "request", "name": name, "pid": place.0, "tid": place.1,
            "ts": self.at(from), "dur": duration, "args": args,
        }))
    }

    fn instant(&mut self, name: &str, place: (u64, u64), unix_ns: u64) -> io::Result<()> {
        self.event(&json!({
            "ph": "i", "s": "t", "cat": "event", "name": name, "pid": place.0, "tid": place.1, "ts": self.at(unix_ns),
        }))
    }

    fn counter(&mut self, name: &str, process: u64, unix_ns: u64, value: f64) -> io::Result<()> {
        self.event(&json!({
            "ph": "C", "name": name, "pid": process, "tid": 0, "ts": self.at(unix_ns), "args": {"value": value},
        }))
    }
}

/// The processes: an engine of a server each.
struct Engines(BTreeMap<(Name, u32), u64>);

impl Engines {
    fn of(survey: &Survey, records: &[&Record]) -> Self {
        let of_records = records.iter().map(|record| (record.instance, record.last.engine));
        let of_steps = survey.steps().samples().iter().map(|sample| (sample.instance, sample.engine));
        let mut engines = BTreeMap::new();
        for key in of_records.chain(of_steps) {
            let next = engines.len() as u64 + 1;
            engines.entry(key).or_insert(next);
        }
        Self(engines)
    }

    fn process(&self, instance: Name, engine: u32) -> u64 {
        self.0.get(&(instance, engine)).copied().unwrap_or(0)
    }

    fn write_names(&self, survey: &Survey, writer: &mut Writer<'_, impl Write>) -> io::Result<()> {
        for ((instance, engine), process) in &self.0 {
            let server = survey.servers().get(*instance);
            let service = server.map_or("", |server| survey.names().text(server.service));
            let name = format!("{service} {} engine {engine}", survey.names().text(*instance));
            writer.metadata("process_name", *process, 0, &json!({"name": name.trim()}))?;
            writer.metadata("thread_name", *process, ENGINE_TRACK, &json!({"name": "engine steps"}))?;
            writer.metadata(
                "thread_sort_index",
                *process,
                ENGINE_TRACK,
                &json!({"sort_index": ENGINE_TRACK}),
            )?;
        }
        Ok(())
    }

    fn write_steps(&self, survey: &Survey, writer: &mut Writer<'_, impl Write>) -> io::Result<()> {
        let mut samples = survey.steps().samples().to_vec();
        samples.sort_by_key(|sample| sample.unix_ns);
        for sample in &samples {
            let process = self.process(sample.instance, sample.engine);
            let args = json!({
                "prefill tokens": sample.prefill_tokens, "decode tokens": sample.decode_tokens,
                "running": sample.running, "waiting": sample.waiting, "preempted": sample.preempted,
            });
            writer.slice("step", (process, ENGINE_TRACK), step_start(sample), sample.unix_ns, &args)?;
            writer.counter("waiting requests", process, sample.unix_ns, sample.waiting.into())?;
            writer.counter("running requests", process, sample.unix_ns, sample.running.into())?;
            let percent = (f64::from(sample.kv_usage) * 1e4).round() / 1e2;
            writer.counter("KV cache in use, %", process, sample.unix_ns, percent)?;
        }
        Ok(())
    }

    /// Without steps: how many of the requests waited and ran.
    fn write_depths(&self, records: &[&Record], writer: &mut Writer<'_, impl Write>) -> io::Result<()> {
        let mut changes: Vec<(u64, u64, i64, i64)> = Vec::new();
        for record in records {
            let process = self.process(record.instance, record.last.engine);
            let Some(queued) = record.last.queued.get() else { continue };
            let end = record.last.finished.get().unwrap_or(record.end_ns).max(queued);
            let scheduled = record.last.scheduled.get().unwrap_or(end).clamp(queued, end);
            changes.extend([(queued, process, 1, 0), (scheduled, process, -1, 1), (end, process, 0, -1)]);
        }
        changes.sort_unstable();
        let mut depths: HashMap<u64, (i64, i64)> = HashMap::new();
        for (at, process, waiting, running) in changes {
            let depth = depths.entry(process).or_default();
            depth.0 += waiting;
            depth.1 += running;
            let (now_waiting, now_running) = *depth;
            if waiting != 0 {
                writer.counter("waiting requests", process, at, now_waiting as f64)?;
            }
            if running != 0 {
                writer.counter("running requests", process, at, now_running as f64)?;
            }
        }
        Ok(())
    }
}

fn write_journey(
    journey: &TracedJourney,
    record: &Record,
    place: (u64, u64),
    id: &str,
    writer: &mut Writer<'_, impl Write>,
) -> io::Result<()> {
    let (start, end) = journey.bounds_unix_ns();
    let args = json!({
        "request": id, "trace id": record.trace_id.to_string(), "prompt tokens": record.prompt_tokens,
        "output tokens": record.output_tokens, "preemptions": record.preemptions,
    });
    writer.slice(if id.is_empty() { "request" } else { id }, place, start, end, &args)?;
    for segment in merged(journey) {
        writer.slice(
            segment.phase.as_str(),
            place,
            segment.start_unix_ns,
            segment.end_unix_ns,
            &json!({}),
        )?;
    }
    for event in journey.request.iter().flat_map(|request| &request.events) {
        let name = match &event.kind {
            ApiEventKind::Arrived => "ARRIVED",
            ApiEventKind::HandoffToCore { .. } => "HANDOFF_TO_CORE",
            ApiEventKind::FirstResponseFromCore => "FIRST_RESPONSE",
            ApiEventKind::Departed { .. } => "DEPARTED",
            ApiEventKind::Aborted { .. } => "ABORTED",
            ApiEventKind::Other(name) => name,
        };
        writer.instant(name, place, event.unix_ns)?;
    }
    for event in journey.cores.iter().flat_map(|core| &core.events) {
        let name = match &event.kind {
            CoreEventKind::Queued => "QUEUED",
            CoreEventKind::Scheduled { is_resume: false, .. } => "SCHEDULED",
            CoreEventKind::Scheduled { .. } => "RESUMED",
            CoreEventKind::FirstToken => "FIRST_TOKEN",
            CoreEventKind::Preempted { .. } => "PREEMPTED",
            CoreEventKind::Finished { .. } => "FINISHED",
            CoreEventKind::Other(name) => name,
        };
        writer.instant(name, place, event.unix_ns)?;
    }
    Ok(())
}

/// What the API did, and in the middle of it what the first sequence did in the engine.
fn merged(journey: &TracedJourney) -> Vec<Segment> {
    let of_engine = journey.cores.first().map(|core| core.phases()).unwrap_or_default();
    let mut segments = Vec::new();
    let around = journey.request_phases();
    if around.is_empty() {
        return of_engine;
    }
    for segment in around {
        if segment.phase != Phase::InEngine || of_engine.is_empty() {
            segments.push(segment);
            continue;
        }
        for inner in &of_engine {
            let start = inner.start_unix_ns.clamp(segment.start_unix_ns, segment.end_unix_ns);
            let end = inner.end_unix_ns.clamp(segment.start_unix_ns, segment.end_unix_ns);
            if end > start && inner.phase != Phase::Unknown {
                segments.push(Segment { phase: inner.phase, start_unix_ns: start, end_unix_ns: end });
            }
        }
    }
    segments
}

/// Arrows from whoever was to blame, while it was there, to the end of the wait.
fn write_flows(
    survey: &Survey,
    records: &[&Record],
    tracks: &HashMap<Name, (u64, u64, &Record)>,
    engines: &Engines,
    writer: &mut Writer<'_, impl Write>,
) -> io::Result<()> {
    for (number, record) in records.iter().enumerate() {
        let Some((process, track, blocker)) = tracks.get(&record.last.wait_blocker) else { continue };
        let (Some(queued), Some(scheduled)) = (record.last.queued.get(), record.last.scheduled.get()) else {
            continue;
        };
        if Moment::at(queued).until(Moment::at(scheduled)).is_none_or(|wait| wait == 0) {
            continue;
        }
        let from = queued.clamp(blocker.start_ns, blocker.end_ns.saturating_sub(1).max(blocker.start_ns));
        let to = scheduled.saturating_sub(1).max(queued);
        let reason = record.last.wait_reason.map_or("wait", wayfare_journey::WaitReason::as_str);
        let own = engines.process(record.instance, record.last.engine);
        let name = format!("{reason}: {} waits", survey.names().text(record.request_id));
        let (start, end) = (writer.at(from.min(to)), writer.at(to));
        writer.event(&json!({
            "ph": "s", "cat": "blame", "name": name, "id": number, "pid": process, "tid": track, "ts": start,
        }))?;
        writer.event(&json!({
            "ph": "f", "bp": "e", "cat": "blame", "name": name, "id": number, "pid": own,
            "tid": FIRST_REQUEST_TRACK + number as u64, "ts": end,
        }))?;
    }
    Ok(())
}
