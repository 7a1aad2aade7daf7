//! Journeys of an earlier process, read back from the file that they were written to.
//!
//! Only the end of the files is read: as much as may hold what the store would keep. The file may end in the middle
//! of a line, and hold lines that are none of ours; what cannot be read is passed over.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use wayfare_insight::{AttributeValue, Attributes, ReadError, SpanEvent, SpanReader, TraceSpan};
use wayfare_journey::schema::{
    SCOPE_API, SCOPE_SCHEDULER, SPAN_CORE, SPAN_REQUEST, api_event, api_event_attribute as api_key,
    core_event_attribute as core_key, span_attribute as key,
};
use wayfare_journey::{SpanId, TraceId};

use crate::store::StoreLimits;

/// Most bytes of files that are read, however much the store may keep.
const MAX_FILE_BYTES: u64 = 256 << 20;
/// A journey takes about so much more in the file than the store reckons for it.
const FILE_BYTES_PER_STORE_BYTE: u64 = 4;

/// A journey as it was in the file.
#[derive(Debug)]
pub(crate) struct RestoredJourney {
    pub(crate) request_id: Option<Box<str>>,
    pub(crate) trace_id: TraceId,
    pub(crate) start_unix_ns: u64,
    pub(crate) end_unix_ns: u64,
    pub(crate) abort_reason: Option<Box<str>>,
    pub(crate) is_preempted: bool,
    /// What is shown of it, as text: it takes a tenth of the memory of the value.
    shown: Box<str>,
}

impl RestoredJourney {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.shown).unwrap_or_default()
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        let text = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
        size_of::<Self>() + self.shown.len() + text(&self.request_id) + text(&self.abort_reason)
    }
}

/// What was read back.
#[derive(Debug, Default)]
pub(crate) struct Restored {
    /// In the order in which they ended.
    pub(crate) journeys: Vec<RestoredJourney>,
    /// Lines that could not be read.
    pub(crate) bad_lines: u64,
}

/// The last journeys of a file and of those that were set aside for it, as many as the limits allow.
///
/// # Errors
/// When a file that is there cannot be read.
pub(crate) fn read(path: &Path, max_files: u32, limits: StoreLimits) -> io::Result<Restored> {
    let most = (limits.max_bytes as u64).saturating_mul(FILE_BYTES_PER_STORE_BYTE).min(MAX_FILE_BYTES);
    let mut requests: Vec<TraceSpan> = Vec::new();
    // An exporter that tries again may write a span twice.
    let mut seen = HashSet::new();
    let mut cores: HashMap<(TraceId, SpanId), Vec<TraceSpan>> = HashMap::new();
    let mut bad_lines = 0;
    for (file, from) in tails(path, max_files, most)? {
        let mut input = BufReader::new(file);
        if from > 0 {
            input.seek(SeekFrom::Start(from - 1))?;
            // The rest of a line, or its end.
            input.skip_until(b'\n')?;
        }
        for span in SpanReader::new(input) {
            match span {
                Ok(span) => match (&*span.scope, &*span.name, span.parent) {
                    (SCOPE_API, SPAN_REQUEST, _) if seen.insert((span.trace_id, span.span_id)) => {
                        requests.push(span);
                    }
                    (SCOPE_SCHEDULER, SPAN_CORE, Some(parent)) => {
                        cores.entry((span.trace_id, parent)).or_default().push(span);
                    }
                    _ => {}
                },
                Err(ReadError::Io { source, .. }) => return Err(source),
                Err(_) => bad_lines += 1,
            }
        }
    }
    requests.sort_by_key(|request| request.end_unix_ns);
    let too_many = requests.len().saturating_sub(limits.max_journeys);
    let journeys = requests.drain(too_many..).map(|request| {
        let cores = cores.remove(&(request.trace_id, request.span_id)).unwrap_or_default();
        restored(&request, cores)
    });
    Ok(Restored { journeys: journeys.collect(), bad_lines })
}

/// The files from old to new, and where to begin in each, so that no more than `most` bytes are read.
fn tails(path: &Path, max_files: u32, most: u64) -> io::Result<Vec<(File, u64)>> {
    let mut tails = Vec::new();
    let mut left = most;
    for number in 0..max_files {
        let path = numbered(path, number);
        let metadata = match path.metadata() {
            // Opening a pipe would wait until somebody writes to it.
            Ok(metadata) if !metadata.is_file() => continue,
            Ok(metadata) => metadata,
            // A number may be missing when a rotation was interrupted.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let file = File::open(path)?;
        let from = metadata.len().saturating_sub(left);
        left = left.saturating_sub(metadata.len());
        tails.push((file, from));
        if left == 0 {
            break;
        }
    }
    tails.reverse();
    Ok(tails)
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = OsString::from(path);
    name.push(format!(".{number}"));
    name.into()
}

fn restored(request: &TraceSpan, mut cores: Vec<TraceSpan>) -> RestoredJourney {
    cores.sort_by_key(|core| (core.attributes.count(key::SEQUENCE_INDEX), core.span_id));
    cores.dedup_by_key(|core| core.span_id);
    let attributes = &request.attributes;
    let aborted = request.events.iter().find(|event| *event.name == *api_event::ABORTED.name);
    let of_abort = |attribute| aborted.and_then(|event| event.attributes.text(attribute));
    let abort_reason = aborted.map(|_| of_abort(api_key::REASON).unwrap_or_default());
    let start = request.start_unix_ns;
    let end = request.end_unix_ns.max(start);
    let request_id = attributes.text(key::REQUEST_ID);
    let shown = json!({
        "request_id": request_id,
        "trace_id": request.trace_id.to_string(),
        "span_id": request.span_id.to_string(),
        "parent_span_id": request.parent.map(|parent| parent.to_string()),
        "route": attributes.text(key::HTTP_ROUTE).unwrap_or_default(),
        "status": if aborted.is_some() { "aborted" } else { "departed" },
        "http_status": attributes.count(key::STATUS_CODE),
        "abort": abort_reason.map(|reason| json!({
            "reason": reason,
            "error_type": attributes.text(key::ERROR_TYPE),
            "message": of_abort(api_key::ERROR),
        })),
        // The file does not say.
        "head_sampled": null,
        "start_unix_ns": start.to_string(),
        "end_unix_ns": end.to_string(),
        "duration_ns": end - start,
        "attributes": attributes_json(attributes),
        "events": events_json(&request.events, start),
        "sequences": cores.iter().map(|core| sequence_json(core, start)).collect::<Vec<_>>(),
    });
    RestoredJourney {
        request_id: request_id.map(Into::into),
        trace_id: request.trace_id,
        start_unix_ns: start,
        end_unix_ns: end,
        abort_reason: abort_reason.map(Into::into),
        is_preempted: cores.iter().any(|core| num_preemptions(core) > 0),
        shown: shown.to_string().into(),
    }
}

fn num_preemptions(core: &TraceSpan) -> u64 {
    let counts = core.events.iter().filter_map(|event| event.attributes.count(core_key::NUM_PREEMPTIONS));
    counts.max().unwrap_or(0)
}

fn sequence_json(core: &TraceSpan, start: u64) -> Value {
    let status = core.events.iter().rev().find_map(|event| event.attributes.text(core_key::FINISH_STATUS));
    json!({
        "index": core.attributes.count(key::SEQUENCE_INDEX).unwrap_or(0),
        "span_id": core.span_id.to_string(),
        "start_offset_ns": core.start_unix_ns.saturating_sub(start),
        "duration_ns": core.end_unix_ns.saturating_sub(core.start_unix_ns),
        "finish_status": status,
        "num_preemptions": num_preemptions(core),
        "dropped_events": core.dropped_events,
        "attributes": attributes_json(&core.attributes),
        "events": events_json(&core.events, start),
    })
}

fn events_json(events: &[SpanEvent], start: u64) -> Vec<Value> {
    let event = |event: &SpanEvent| {
        json!({
            "name": event.name,
            "offset_ns": event.unix_ns.saturating_sub(start),
            "unix_ns": event.unix_ns.to_string(),
            "attributes": attributes_json(&event.attributes),
        })
    };
    events.iter().map(event).collect()
}

fn attributes_json(attributes: &Attributes) -> Map<String, Value> {
    attributes.iter().map(|(key, value)| (key.to_owned(), value_json(value))).collect()
}

fn value_json(value: &AttributeValue) -> Value {
    match value {
        AttributeValue::Text(text) => (**text).into(),
        AttributeValue::Int(number) => (*number).into(),
        AttributeValue::Double(number) => (*number).into(),
        AttributeValue::Bool(truth) => (*truth).into(),
        AttributeValue::List(values) => values.iter().map(value_json).collect(),
        AttributeValue::Other => Value::Null,
    }
}
