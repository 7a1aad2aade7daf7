//! Finished journeys out as OTLP: gRPC, HTTP with protobuf or JSON, and files of JSON lines.
//!
//! [`Exporter::start`] opens the destinations and starts one thread, `journey-export`. The [`JourneySink`] it
//! gives puts finished journeys into a bounded lock-free queue and does nothing else: it never waits, never
//! allocates and never wakes a thread. The exporter's thread looks into the queue at an interval, cuts what
//! it finds into batches, and hands each batch to every destination. Each destination has its own bounded
//! backlog, its own retries and its own [counters](ExportCounters), so that a slow or dead one harms no other.
//!
//! [`JourneySink`]: wayfare_journey::JourneySink
#![forbid(unsafe_code)]

mod batch;
mod caught;
mod config;
mod convert;
mod counters;
mod exporter;
mod failure_log;
mod json;
mod queue;
mod report;
mod resource;
mod retry;
mod transport;
mod worker;

pub use config::{
    Collector, Compression, ConfigError, Destination, Endpoint, ExporterConfig, ExporterOptions,
    FileRotation, Protocol, TlsClient, Variable, is_disabled,
};
pub use convert::SpanLimits;
pub use counters::{DestinationCounters, DropCause, ExportCounters};
pub use exporter::{Exporter, StartError};
pub use report::{DestinationReport, ShutdownReport};
pub use resource::{EngineDescription, Resource};
pub use retry::RetryPolicy;
