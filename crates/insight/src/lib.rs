//! Reading trace files and showing journeys.
//!
//! [`SpanReader`] reads OTLP/JSON lines, as this server and a collector's file exporter write them, span by
//! span; [`JourneyCollector`] puts the spans of journeys together, in whatever order they come and however
//! many are missing; [`waterfall()`] shows one journey as text.
#![forbid(unsafe_code)]

mod bucket;
mod collector;
mod diff;
mod event;
mod explain;
mod export;
mod figures;
mod ids;
mod input;
mod jaeger;
mod journey;
mod page;
mod phases;
mod pick;
mod proto;
pub mod quantity;
mod reader;
mod span;
mod survey;
mod waterfall;
mod wire;

pub use bucket::{Bucket, Buckets};
pub use collector::{JourneyCollector, read_journeys};
pub use diff::{BadCondition, Comparison, Condition, DIFF_SCHEMA, Diff, UnknownFigure, Verdict, diff_text};
pub use event::{ApiEvent, ApiEventKind, CoreEvent, CoreEventKind};
pub use explain::{
    Band, Blocker, BucketShare, Cause, EXPLANATION_SCHEMA, Explanation, Finding, Latencies, LatencyKind,
    Percentiles, PreemptionTax, Requests, Saturation, ServerDescription, Slice, Stories, TextStyle, Timeline,
    Wait, explanation_text, integrity_text, story_text,
};
#[cfg(feature = "parquet")]
pub use export::{ParquetError, write_parquet};
pub use export::{
    TraceV2Counts, journey_json, write_csv, write_perfetto, write_tracev2_header, write_tracev2_rows,
};
pub use figures::{RequestFigures, record_json};
pub use input::{Compression, TraceFileError, TraceForm, TraceInput, trace_files};
pub use journey::{CoreSpan, RequestSpan, TracedJourney};
pub use phases::{Phase, Segment};
pub use pick::{JourneyPicker, SpanPicker, records_of_id, slowest};
pub use reader::{ReadError, SpanReader};
pub use span::{AttributeValue, Attributes, SpanEvent, TraceSpan};
pub use survey::{
    DEFAULT_MAX_JOURNEYS, Ending, Integrity, JourneyCounts, Moment, Name, Names, Record, SequencePart,
    Server, Servers, SpanCounts, StepSample, Steps, Survey, Writer,
};
pub use waterfall::waterfall;
