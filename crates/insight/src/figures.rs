//! One request with its figures, for JSON and tables.

use serde::Serialize;

use crate::bucket::Bucket;
use crate::survey::{Ending, Record, Survey};

/// The figures of one request; times in nanoseconds, `null` where they are not known.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RequestFigures<'a> {
    /// The response's id.
    pub request_id: &'a str,
    /// Its trace.
    pub trace_id: String,
    /// Who wrote the spans: `wayfare`, `reference fork` or `vllm`.
    pub writer: &'static str,
    /// The server's instance.
    pub instance: &'a str,
    /// Which engine of it.
    pub engine: u32,
    /// The model.
    pub model: &'a str,
    /// Whether nothing of it is missing.
    pub is_complete: bool,
    /// `departed`, `aborted` or `unknown`.
    pub ending: &'static str,
    /// Why it was aborted.
    pub abort_reason: &'a str,
    /// Status of the response; `null` when the file does not say.
    pub status_code: Option<u16>,
    /// Arrival, nanoseconds since the Unix epoch.
    pub start_unix_ns: u64,
    /// End, nanoseconds since the Unix epoch.
    pub end_unix_ns: u64,
    /// Arrival to end.
    pub e2e_ns: Option<u64>,
    /// Arrival to first token.
    pub ttft_ns: Option<u64>,
    /// Time per output token after the first.
    pub tpot_ns: Option<u64>,
    /// In the queue before the first step.
    pub queue_ns: Option<u64>,
    /// First step to first token.
    pub prefill_ns: Option<u64>,
    /// First token to last token.
    pub decode_ns: Option<u64>,
    /// Output lay ready and the client took nothing.
    pub blocked_ns: u64,
    /// Prompt tokens.
    pub prompt_tokens: u32,
    /// Output tokens.
    pub output_tokens: u32,
    /// Prompt tokens found in the prefix cache.
    pub cached_tokens: u32,
    /// Tokens computed again.
    pub recomputed_tokens: u32,
    /// Preemptions.
    pub preemptions: u32,
    /// Why it waited in the queue.
    pub wait_reason: &'static str,
    /// Whom it waited for.
    pub wait_blocker: &'a str,
    /// Who took its KV blocks.
    pub preempted_by: &'a str,
    /// Whether the account is the server's own, or made of the events.
    pub has_ledger: bool,
    /// Where its time went, by bucket; empty when that is not known.
    pub account_ns: std::collections::BTreeMap<&'static str, u64>,
}

/// The figures of a record.
#[must_use]
pub fn record_json<'a>(record: &Record, survey: &'a Survey) -> RequestFigures<'a> {
    let text = |name| survey.names().text(name);
    let account = record.account();
    let account_ns = Bucket::ALL
        .into_iter()
        .filter_map(|bucket| account.map(|account| (bucket.name(), account.get(bucket))))
        .collect();
    RequestFigures {
        request_id: text(record.request_id),
        trace_id: record.trace_id.to_string(),
        writer: record.writer.name(),
        instance: text(record.instance),
        engine: record.last.engine,
        model: text(record.model),
        is_complete: record.is_complete(),
        ending: match record.ending {
            Ending::Departed => "departed",
            Ending::Aborted => "aborted",
            Ending::Unknown => "unknown",
        },
        abort_reason: text(record.abort_reason),
        status_code: (record.status_code > 0).then_some(record.status_code),
        start_unix_ns: record.start_ns,
        end_unix_ns: record.end_ns,
        e2e_ns: record.e2e_ns(),
        ttft_ns: record.ttft_ns(),
        tpot_ns: record.tpot_ns(),
        queue_ns: record.queue_ns(),
        prefill_ns: record.prefill_ns(),
        decode_ns: record.decode_ns(),
        blocked_ns: record.blocked_ns,
        prompt_tokens: record.prompt_tokens,
        output_tokens: record.output_tokens,
        cached_tokens: record.cached_tokens,
        recomputed_tokens: record.recomputed_tokens,
        preemptions: record.preemptions,
        wait_reason: record.last.wait_reason.map_or("", wayfare_journey::WaitReason::as_str),
        wait_blocker: text(record.last.wait_blocker),
        preempted_by: text(record.last.preempted_by),
        has_ledger: record.has_ledger,
        account_ns,
    }
}
