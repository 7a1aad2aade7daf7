//! What is recorded about a request, under which names, and when.
//!
//! Every request that is traced owns one [`JourneyCell`]. Two kinds of guard deposit a record in it: the
//! [`ApiSpan`] of the HTTP layer and one [`CoreSpan`] per sequence, which travels with the request through
//! the engine. The last guard to end hands the whole journey to a [`JourneySink`]. Events are small plain
//! values; names, strings and protobuf exist only behind the sink.
//!
//! This crate knows no runtime, no HTTP library, no exporter and no engine.
#![forbid(unsafe_code)]

mod api_span;
mod cell;
mod clock;
mod context;
mod core_span;
mod event;
mod sampling;
pub mod schema;
mod tracer;

pub use api_span::{ApiEnding, ApiRecord, ApiSpan, RequestAttributes, Usage};
pub use cell::{FinishedJourney, JourneyCell, JourneyHandle};
pub use clock::{Clock, MonoNs, SystemClock, WallAnchor};
pub use context::{SpanId, TraceContext, TraceId};
pub use core_span::{CoreRecord, CoreSpan};
pub use event::{
    AbortReason, CoreEvent, CoreEventKind, FinishStatus, Phase, Progress, RequestLabel, ScheduleKind,
};
pub use sampling::{HeadSampler, InvalidSampleRate};
pub use tracer::{Admission, IncomingHeaders, JourneySink, Tracer, TracerCounters};
