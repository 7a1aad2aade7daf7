//! The events of journeys, typed.

use wayfare_journey::schema::{
    api_event, api_event_attribute as api_key, core_event, core_event_attribute as core_key,
};

use crate::span::SpanEvent;

/// An event of `llm_request`.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiEvent {
    /// What happened.
    pub kind: ApiEventKind,
    /// When, in nanoseconds since the Unix epoch.
    pub unix_ns: u64,
    /// When, in nanoseconds of the server's monotonic clock; not in files of the reference.
    pub monotonic_ns: Option<u64>,
}

/// The kinds of [`ApiEvent`].
#[derive(Clone, Debug, PartialEq)]
pub enum ApiEventKind {
    /// The request head has been read.
    Arrived,
    /// The engine has accepted the request.
    HandoffToCore {
        /// Prompt tokens handed over.
        prefill_total_tokens: Option<u64>,
    },
    /// The API layer has taken the first token.
    FirstResponseFromCore,
    /// The last generated chunk is out.
    Departed {
        /// Status of the response.
        status_code: Option<u64>,
    },
    /// The request failed or was abandoned.
    Aborted {
        /// Why; empty when it is not said.
        reason: Box<str>,
        /// What happened; empty when it is not said.
        error: Box<str>,
    },
    /// An event that the schema does not know, by its name.
    Other(Box<str>),
}

impl ApiEvent {
    pub(crate) fn from_span_event(event: &SpanEvent) -> Self {
        let attributes = &event.attributes;
        let text = |key| attributes.text(key).unwrap_or_default().into();
        let kind = match &*event.name {
            name if name == api_event::ARRIVED.name => ApiEventKind::Arrived,
            name if name == api_event::HANDOFF_TO_CORE.name => ApiEventKind::HandoffToCore {
                prefill_total_tokens: attributes.count(api_key::PREFILL_TOTAL_TOKENS),
            },
            name if name == api_event::FIRST_RESPONSE_FROM_CORE.name => ApiEventKind::FirstResponseFromCore,
            name if name == api_event::DEPARTED.name => {
                ApiEventKind::Departed { status_code: attributes.count(api_key::STATUS_CODE) }
            }
            name if name == api_event::ABORTED.name => {
                ApiEventKind::Aborted { reason: text(api_key::REASON), error: text(api_key::ERROR) }
            }
            name => ApiEventKind::Other(name.into()),
        };
        Self { kind, unix_ns: event.unix_ns, monotonic_ns: attributes.count(api_key::TS_MONOTONIC_NS) }
    }
}

/// An event of `llm_core`. A number that the file does not have is `None`.
#[derive(Clone, Debug, PartialEq)]
pub struct CoreEvent {
    /// What happened.
    pub kind: CoreEventKind,
    /// When, in nanoseconds since the Unix epoch.
    pub unix_ns: u64,
    /// When, in nanoseconds of the server's monotonic clock.
    pub monotonic_ns: Option<u64>,
    /// The engine's step.
    pub step: Option<u64>,
    /// WAITING, PREFILL or DECODE.
    pub phase: Option<Box<str>>,
    /// Prompt tokens computed.
    pub prefill_done: Option<u64>,
    /// Prompt tokens of the sequence.
    pub prefill_total: Option<u64>,
    /// Output tokens generated.
    pub decode_done: Option<u64>,
    /// Most output tokens.
    pub decode_max: Option<u64>,
    /// Preemptions so far.
    pub num_preemptions: Option<u64>,
}

/// The kinds of [`CoreEvent`].
#[derive(Clone, Debug, PartialEq)]
pub enum CoreEventKind {
    /// Put in the waiting queue.
    Queued,
    /// Running.
    Scheduled {
        /// Whether it is again, after a preemption.
        is_resume: bool,
        /// Prompt tokens found in the prefix cache.
        cached_tokens: Option<u64>,
        /// Tokens that the step computes for the sequence.
        scheduled_tokens: Option<u64>,
        /// Why it had waited.
        wait_reason: Option<Box<str>>,
        /// The request that was to blame.
        wait_blocker: Option<Box<str>>,
    },
    /// The first output token exists.
    FirstToken,
    /// The blocks were taken away.
    Preempted {
        /// The request that needed them.
        by: Option<Box<str>>,
        /// Tokens to compute again.
        tokens_lost: Option<u64>,
        /// Blocks that went back to the pool.
        blocks_freed: Option<u64>,
        /// How many pairs of preemption and resumption this event and the next one stand for, when they are
        /// more than one.
        folded: Option<u64>,
    },
    /// Out of the scheduler.
    Finished {
        /// How; empty when it is not said.
        status: Box<str>,
    },
    /// An event that the schema does not know, by its name.
    Other(Box<str>),
}

impl CoreEvent {
    pub(crate) fn from_span_event(event: &SpanEvent) -> Self {
        let attributes = &event.attributes;
        let kind = match &*event.name {
            name if name == core_event::QUEUED.name => CoreEventKind::Queued,
            name if name == core_event::SCHEDULED.name => CoreEventKind::Scheduled {
                is_resume: attributes.text(core_key::SCHEDULE_KIND) == Some("RESUME"),
                cached_tokens: attributes.count(core_key::CACHED_TOKENS),
                scheduled_tokens: attributes.count(core_key::SCHEDULED_TOKENS),
                wait_reason: attributes.text(core_key::WAIT_REASON).map(Into::into),
                wait_blocker: attributes.text(core_key::WAIT_BLOCKER).map(Into::into),
            },
            name if name == core_event::FIRST_TOKEN.name => CoreEventKind::FirstToken,
            name if name == core_event::PREEMPTED.name => CoreEventKind::Preempted {
                by: attributes.text(core_key::PREEMPTED_BY).map(Into::into),
                tokens_lost: attributes.count(core_key::TOKENS_LOST),
                blocks_freed: attributes.count(core_key::KV_BLOCKS_FREED),
                folded: attributes.count(core_key::FOLDED),
            },
            name if name == core_event::FINISHED.name => CoreEventKind::Finished {
                status: attributes.text(core_key::FINISH_STATUS).unwrap_or_default().into(),
            },
            name => CoreEventKind::Other(name.into()),
        };
        Self {
            kind,
            unix_ns: event.unix_ns,
            monotonic_ns: attributes.count(core_key::TS_MONOTONIC_NS),
            step: attributes.count(core_key::SCHEDULER_STEP),
            phase: attributes.text(core_key::PHASE).map(Into::into),
            prefill_done: attributes.count(core_key::PREFILL_DONE_TOKENS),
            prefill_total: attributes.count(core_key::PREFILL_TOTAL_TOKENS),
            decode_done: attributes.count(core_key::DECODE_DONE_TOKENS),
            decode_max: attributes.count(core_key::DECODE_MAX_TOKENS),
            num_preemptions: attributes.count(core_key::NUM_PREEMPTIONS),
        }
    }
}
