//! TraceV2, the recorded workloads that the simulator BLIS replays: a header in YAML and a table in CSV.
//!
//! Source: `sim/workload/tracev2.go` of inference-sim/inference-sim. The header may have no key that it does not know;
//! the columns are read by their place.

use std::io::{self, Write};

use super::csv::quoted;
use crate::survey::{Ending, Record, Survey};

/// Its columns, in their order.
const COLUMNS: [&str; 27] = [
    "request_id",
    "client_id",
    "tenant_id",
    "slo_class",
    "session_id",
    "round_index",
    "prefix_group",
    "prefix_length",
    "streaming",
    "input_tokens",
    "output_tokens",
    "text_tokens",
    "image_tokens",
    "audio_tokens",
    "video_tokens",
    "reason_ratio",
    "model",
    "deadline_us",
    "server_input_tokens",
    "arrival_time_us",
    "send_time_us",
    "first_chunk_time_us",
    "last_chunk_time_us",
    "num_chunks",
    "status",
    "error_message",
    "finish_reason",
];

/// What became of the requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceV2Counts {
    /// Written.
    pub written: u64,
    /// Left out, because the files do not say when they arrived or how many tokens they had.
    pub left_out: u64,
}

/// Writes the header.
///
/// # Errors
/// When `out` does.
pub fn write_tracev2_header(survey: &Survey, out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "trace_version: 2\ntime_unit: microseconds\nmode: real\nwarm_up_requests: 0")?;
    let Some(server) = survey.servers().all().first() else { return Ok(()) };
    let text = |name| survey.names().text(name);
    let model = match text(server.model) {
        "" => survey
            .records()
            .map(|record| text(record.model))
            .find(|model| !model.is_empty())
            .unwrap_or_default(),
        model => model,
    };
    writeln!(out, "server:\n  type: vllm")?;
    if !model.is_empty() {
        // A text of JSON is one of YAML, too.
        writeln!(out, "  model: {}", serde_json::Value::from(model))?;
    }
    for (key, value) in [("max_num_seqs", server.max_num_seqs), ("block_size", server.block_size)] {
        if let Some(value) = value {
            writeln!(out, "  {key}: {value}")?;
        }
    }
    Ok(())
}

/// Writes the table, in the order of arrival; times count from the first.
///
/// # Errors
/// When `out` does.
pub fn write_tracev2_rows(survey: &Survey, out: &mut impl Write) -> io::Result<TraceV2Counts> {
    writeln!(out, "{}", COLUMNS.join(","))?;
    let is_usable = |record: &&Record| record.is_timed() && record.prompt_tokens > 0;
    let mut records: Vec<_> = survey.records().filter(is_usable).collect();
    records.sort_by_key(|record| (record.start_ns, record.span_id));
    let start = records.first().map_or(0, |record| record.start_ns);
    let left_out = survey.records().filter(|record| !is_usable(record)).count() as u64;
    for (number, record) in records.iter().enumerate() {
        let microseconds = |unix_ns: u64| unix_ns.saturating_sub(start) / 1000;
        let arrival = microseconds(record.start_ns);
        let first = record.ttft_ns().map_or(0, |ttft| microseconds(record.start_ns.saturating_add(ttft)));
        let last = if record.ending == Ending::Departed { microseconds(record.end_ns) } else { 0 };
        let reason = survey.names().text(record.abort_reason);
        let (status, error) = match record.ending {
            Ending::Departed => ("ok", ""),
            Ending::Aborted if reason == "timeout" => ("timeout", reason),
            Ending::Aborted => ("error", reason),
            Ending::Unknown => ("incomplete", ""),
        };
        writeln!(
            out,
            "{number},,,,,0,,0,{},{},{},0,0,0,0,0,{},0,{},{arrival},{arrival},{first},{last},0,{status},{},",
            record.is_streamed.unwrap_or(true),
            record.prompt_tokens,
            record.output_tokens,
            quoted(survey.names().text(record.model)),
            record.prompt_tokens,
            quoted(error),
        )?;
    }
    Ok(TraceV2Counts { written: records.len() as u64, left_out })
}
