//! Reading trace files and showing journeys.
//!
//! [`SpanReader`] reads OTLP/JSON lines, as this server and a collector's file exporter write them, span by
//! span; [`JourneyCollector`] puts the spans of journeys together, in whatever order they come and however
//! many are missing; [`waterfall()`] shows one journey as text.
#![forbid(unsafe_code)]

mod collector;
mod event;
mod ids;
mod input;
mod jaeger;
mod journey;
mod phases;
mod proto;
mod reader;
mod span;
mod waterfall;
mod wire;

pub use collector::{JourneyCollector, read_journeys};
pub use event::{ApiEvent, ApiEventKind, CoreEvent, CoreEventKind};
pub use input::{Compression, TraceFileError, TraceForm, TraceInput, trace_files};
pub use journey::{CoreSpan, RequestSpan, TracedJourney};
pub use phases::{Phase, Segment};
pub use reader::{ReadError, SpanReader};
pub use span::{AttributeValue, Attributes, SpanEvent, TraceSpan};
pub use waterfall::waterfall;
