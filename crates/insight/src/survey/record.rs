//! A journey in so many bytes, however many events it had.

use wayfare_journey::{SpanId, TraceId, WaitReason};

use super::names::Name;
use crate::bucket::{Bucket, Buckets};

/// Who wrote the spans, as far as it shows in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Writer {
    /// This server: a ledger, wait reasons, blockers.
    #[default]
    Own,
    /// The reference fork of vLLM: the same events, and no account of the time.
    Reference,
    /// vLLM itself: one span per request with `gen_ai.latency.*`.
    Stock,
}

impl Writer {
    /// How it is called in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Writer::Own => "wayfare",
            Writer::Reference => "reference fork",
            Writer::Stock => "vllm",
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ending {
    /// The file does not say: its API span is missing or has no last event.
    #[default]
    Unknown,
    /// The answer was handed over.
    Departed,
    /// It failed or was abandoned; the record's `abort_reason` says why.
    Aborted,
}

/// A time that may be missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment(u64);

impl Moment {
    /// At so many nanoseconds since the Unix epoch; 0 is none.
    #[must_use]
    pub fn at(unix_ns: u64) -> Self {
        Self(unix_ns)
    }

    /// When, if it is known.
    #[must_use]
    pub fn get(self) -> Option<u64> {
        (self.0 != 0).then_some(self.0)
    }

    /// The earlier one of those that are known.
    pub(super) fn earliest(self, other: Self) -> Self {
        match (self.0, other.0) {
            (0, at) | (at, 0) => Self(at),
            (one, other) => Self(one.min(other)),
        }
    }

    /// From here to a later moment, when both are known and in order.
    #[must_use]
    pub fn until(self, later: Moment) -> Option<u64> {
        later.get()?.checked_sub(self.get()?)
    }
}

/// What is kept of the sequence that ended last; its fellows count in the sums of the record.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SequencePart {
    /// Put in the queue.
    pub queued: Moment,
    /// Running for the first time.
    pub scheduled: Moment,
    /// Its first token.
    pub first_token: Moment,
    /// Out of the scheduler.
    pub finished: Moment,
    /// The span's own bounds, nanoseconds since the Unix epoch.
    pub span_start_ns: u64,
    /// As above.
    pub span_end_ns: u64,
    /// PREEMPTED to SCHEDULED(RESUME) before its first token, nanoseconds.
    pub preempted_before_token_ns: u64,
    /// As above, since its first token.
    pub preempted_since_token_ns: u64,
    /// Why it had waited for its first step.
    pub wait_reason: Option<WaitReason>,
    /// Who was to blame for that.
    pub wait_blocker: Name,
    /// Who took its blocks, the last time.
    pub preempted_by: Name,
    /// Which engine of the server.
    pub engine: u32,
    /// Output tokens of the sequence.
    pub output_tokens: u32,
}

/// What is known of one journey.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record {
    /// Its trace.
    pub trace_id: TraceId,
    /// Its API span, or the first sequence's when that is all there is.
    pub span_id: SpanId,
    /// The response's id.
    pub request_id: Name,
    /// The model that answered.
    pub model: Name,
    /// Which server: its `service.instance.id`.
    pub instance: Name,
    /// Why it was aborted.
    pub abort_reason: Name,
    /// Who wrote it.
    pub writer: Writer,
    /// How it ended.
    pub ending: Ending,
    /// Whether its API span is there.
    pub has_request: bool,
    /// Whether the engine had taken it, by the API's events.
    pub was_handed_off: bool,
    /// Whether `buckets` are the server's own account.
    pub has_ledger: bool,
    /// Whether a span's times contradict each other.
    pub clock_is_off: bool,
    /// Status of the response; 0 is none.
    pub status_code: u16,
    /// Spans of sequences that are there.
    pub sequences: u16,
    /// Of them, those with a FINISHED event.
    pub finished_sequences: u16,
    /// Of them, those that were ever scheduled.
    pub scheduled_sequences: u16,
    /// Sequences that there should be, by what the API span says; 0 when it does not.
    pub expected_sequences: u16,
    /// Whether the answer was streamed, when the file says it.
    pub is_streamed: Option<bool>,
    /// Start of the API span, or else of the first sequence, nanoseconds since the Unix epoch.
    pub start_ns: u64,
    /// Its end.
    pub end_ns: u64,
    /// The engine had accepted it.
    pub handed_off: Moment,
    /// The API had its first token.
    pub first_response: Moment,
    /// The first token of any sequence.
    pub first_token: Moment,
    /// The sequence that ended last.
    pub last: SequencePart,
    /// The server's account, when `has_ledger`. Of vLLM's spans, their latencies.
    pub buckets: Buckets,
    /// Time to the first token as the span has it, nanoseconds.
    pub written_ttft_ns: Option<u64>,
    /// Output lay ready and the client took nothing, nanoseconds.
    pub blocked_ns: u64,
    /// Prompt tokens.
    pub prompt_tokens: u32,
    /// Output tokens of all sequences.
    pub output_tokens: u32,
    /// The most output tokens that were asked for; 0 when the file does not say.
    pub max_tokens: u32,
    /// Prompt tokens found in the prefix cache.
    pub cached_tokens: u32,
    /// Tokens computed again.
    pub recomputed_tokens: u32,
    /// Tokens computed in vain.
    pub wasted_tokens: u32,
    /// Tokens whose KV preemptions threw away.
    pub tokens_lost: u32,
    /// Preemptions of all sequences.
    pub preemptions: u32,
}

impl Record {
    pub(super) fn new(trace_id: TraceId, span_id: SpanId) -> Self {
        Self {
            trace_id,
            span_id,
            request_id: Name::NONE,
            model: Name::NONE,
            instance: Name::NONE,
            abort_reason: Name::NONE,
            writer: Writer::Own,
            ending: Ending::Unknown,
            has_request: false,
            was_handed_off: false,
            has_ledger: false,
            clock_is_off: false,
            status_code: 0,
            sequences: 0,
            finished_sequences: 0,
            scheduled_sequences: 0,
            expected_sequences: 0,
            is_streamed: None,
            start_ns: 0,
            end_ns: 0,
            handed_off: Moment::default(),
            first_response: Moment::default(),
            first_token: Moment::default(),
            last: SequencePart::default(),
            buckets: Buckets::default(),
            written_ttft_ns: None,
            blocked_ns: 0,
            prompt_tokens: 0,
            output_tokens: 0,
            max_tokens: 0,
            cached_tokens: 0,
            recomputed_tokens: 0,
            wasted_tokens: 0,
            tokens_lost: 0,
            preemptions: 0,
        }
    }

    /// Whether all of it is there, as far as the file lets one know: the API's span with its last event, and the
    /// sequences that the engine had.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.has_request
            && self.ending != Ending::Unknown
            && !self.lacks_sequences()
            && self.unfinished() == 0
    }

    /// Whether the engine had it and no sequence, or not all, is in the file.
    #[must_use]
    pub fn lacks_sequences(&self) -> bool {
        if self.writer == Writer::Stock {
            return false;
        }
        let had_engine = self.was_handed_off || self.ending == Ending::Departed;
        let expected = if had_engine { self.expected_sequences.max(1) } else { 0 };
        self.has_request && self.sequences < expected
    }

    /// Sequences without FINISHED.
    #[must_use]
    pub fn unfinished(&self) -> u16 {
        self.sequences - self.finished_sequences.min(self.sequences)
    }

    /// Whether latencies can be told from it.
    #[must_use]
    pub fn is_timed(&self) -> bool {
        self.has_request && !self.clock_is_off
    }

    /// Arrival to the end of the answer, nanoseconds; `None` without the API's span or with a clock that is off.
    #[must_use]
    pub fn e2e_ns(&self) -> Option<u64> {
        self.is_timed().then(|| self.end_ns.saturating_sub(self.start_ns))
    }

    /// Arrival to the first token, nanoseconds.
    #[must_use]
    pub fn ttft_ns(&self) -> Option<u64> {
        if !self.is_timed() {
            return None;
        }
        let by_event = self.first_token.get().and_then(|at| at.checked_sub(self.start_ns));
        by_event.or(self.written_ttft_ns)
    }

    /// Time in the queue before the first step, nanoseconds.
    #[must_use]
    pub fn queue_ns(&self) -> Option<u64> {
        if self.clock_is_off {
            return None;
        }
        match self.writer {
            Writer::Stock => Some(self.buckets.queue()),
            _ => self.last.queued.until(self.last.scheduled),
        }
    }

    /// From being scheduled to the first token, nanoseconds; with preemptions in between.
    #[must_use]
    pub fn prefill_ns(&self) -> Option<u64> {
        if self.clock_is_off {
            return None;
        }
        match self.writer {
            Writer::Stock => Some(self.buckets.get(Bucket::Prefill)),
            _ => self.last.scheduled.until(self.last.first_token),
        }
    }

    /// From the first token to the last one, nanoseconds; with preemptions in between.
    #[must_use]
    pub fn decode_ns(&self) -> Option<u64> {
        if self.clock_is_off {
            return None;
        }
        match self.writer {
            Writer::Stock => Some(self.buckets.get(Bucket::Decode)),
            _ => self.last.first_token.until(self.last.finished),
        }
    }

    /// The mean time between two tokens of the sequence that ended last, nanoseconds; `None` for fewer than two
    /// tokens.
    #[must_use]
    pub fn tpot_ns(&self) -> Option<u64> {
        let gaps = self.token_gaps()?;
        Some(self.decode_ns()? / u64::from(gaps.get()))
    }

    /// Gaps between tokens of that sequence.
    #[must_use]
    pub fn token_gaps(&self) -> Option<std::num::NonZeroU32> {
        let tokens = match self.writer {
            Writer::Stock => self.output_tokens,
            _ => self.last.output_tokens,
        };
        std::num::NonZeroU32::new(tokens.saturating_sub(1))
    }

    /// Where its time went: the server's account, or what the events alone allow: no reasons, no interference, no
    /// recomputation, no chunks. `None` when not even that is there.
    #[must_use]
    pub fn account(&self) -> Option<Buckets> {
        if self.clock_is_off {
            return None;
        }
        if self.has_ledger || self.writer == Writer::Stock {
            return Some(self.buckets);
        }
        if self.sequences == 0 && !self.has_request {
            return None;
        }
        let mut buckets = Buckets::default();
        let mut now = self.start_ns;
        let mut until = |moment: Option<u64>, bucket: Bucket, without: u64| {
            let Some(at) = moment.filter(|at| *at > now) else { return };
            let ns = at.min(self.end_ns).saturating_sub(now);
            let without = without.min(ns);
            buckets.add(bucket, ns - without);
            buckets.add(Bucket::Preempted, without);
            now = at.min(self.end_ns).max(now);
        };
        let last = &self.last;
        let queued = last.queued.get();
        if self.has_request {
            until(
                self.handed_off.get().filter(|at| queued.is_none_or(|queued| *at <= queued)),
                Bucket::Prepare,
                0,
            );
            until(queued, Bucket::Admit, 0);
        }
        until(last.scheduled.get(), Bucket::Queue(WaitReason::Unknown), 0);
        until(last.first_token.get(), Bucket::Prefill, last.preempted_before_token_ns);
        let running = match (last.first_token.get(), last.scheduled.get()) {
            (Some(_), _) => Bucket::Decode,
            (None, Some(_)) => Bucket::Prefill,
            (None, None) => Bucket::Queue(WaitReason::Unknown),
        };
        let preempted = match running {
            Bucket::Decode => last.preempted_since_token_ns,
            Bucket::Prefill => last.preempted_before_token_ns,
            _ => 0,
        };
        until(last.finished.get(), running, preempted);
        if self.has_request {
            let rest = if last.finished.get().is_some() { Bucket::Deliver } else { Bucket::Prepare };
            until(Some(self.end_ns), rest, 0);
        }
        Some(buckets)
    }
}
