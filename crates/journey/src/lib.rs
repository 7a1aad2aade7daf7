//! What is recorded about a request, under which names, and when.
//!
//! Every request that is traced owns one [`JourneyCell`]. Two kinds of guard deposit a record in it: the
//! [`ApiSpan`] of the HTTP layer and one [`CoreSpan`] per sequence, which travels with the request through
//! the engine. The last guard to end hands the whole journey to a [`JourneySink`], if the head or a tail rule
//! keeps it. Events are small plain values; names, strings and protobuf exist only behind the sink, where
//! [`describe_request`] and its siblings say a journey in the words of the [`schema`].
//!
//! This crate knows no runtime, no HTTP library, no exporter and no engine.
#![forbid(unsafe_code)]

mod api_span;
mod board;
mod cell;
mod clock;
mod context;
mod core_record;
#[cfg_attr(wayfare_no_journey, path = "core_span/absent.rs")]
mod core_span;
mod describe;
mod describe_steps;
mod duration;
mod event;
mod free_stack;
mod keep_rules;
mod ledger;
mod live;
mod recorder;
mod recording;
mod registry;
mod sampling;
pub mod schema;
mod steps;
mod tracer;
mod words;

pub use api_span::{ApiEnding, ApiRecord, ApiSpan, RequestAttributes, Usage};
pub use board::{EngineBoard, EngineTotals, QueueWaits, StepView, WaitNow};
pub use cell::{FinishedJourney, JourneyCell, JourneyHandle, TokenAccount};
pub use clock::{Clock, MonoNs, SystemClock, WallAnchor};
pub use context::{SpanId, TraceContext, TraceId, TraceResponse};
pub use core_record::{ClockSource, CoreRecord, FoldedPairs, InferredEvents, MAX_CORE_EVENTS};
pub use core_span::CoreSpan;
pub use describe::{
    AttributeVisitor, describe_core, describe_core_events, describe_request, describe_request_events,
};
pub use describe_steps::{describe_step_events, describe_steps, step_span_name};
pub use duration::{BadDuration, format_duration_ns, parse_duration_ns};
pub use event::{
    AbortReason, CoreEvent, CoreEventKind, FinishStatus, Phase, Progress, RequestLabel, ScheduleKind, Wait,
};
pub use keep_rules::{BadKeepRules, KeepRule, KeepRuleKind, KeepRules};
pub use ledger::{
    CoreLedger, Ledger, LedgerMeter, RequestMoments, StepTimes, StepWork, WaitReason, WaitTimes,
};
pub use live::{JourneyState, RequestKey, RequestView, SequenceKey, SequenceState, SequenceView};
pub use recorder::{FLIGHT_VERSION, FlightRecorder, TooLittleMemory};
pub use recording::{BadRecording, RecordedRequest, RecordedSequence, RecordedWait, Recording};
pub use sampling::{BadTraceSampler, HeadSampler, InvalidSampleRate, SamplingPolicy, TraceSampler};
pub use steps::{
    MAX_STEP_EVENTS, RequestSnapshot, StepDetail, StepSampling, StepSink, StepSpan, StepSummary, StepTracer,
};
pub use tracer::{Admission, FanOut, IncomingHeaders, JourneySink, LiveTracing, Tracer, TracerCounters};
