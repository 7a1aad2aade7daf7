//! Where journeys go and how, from the command line and the environment.
//!
//! Source of the variables: <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>.

mod endpoint;
mod environment;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderName, HeaderValue};

pub use endpoint::Endpoint;
use environment::Environment;

use crate::{Resource, RetryPolicy};

/// How a collector is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP/gRPC, `grpc`.
    Grpc,
    /// OTLP over HTTP with protobuf bodies, `http/protobuf`.
    HttpProtobuf,
}

impl Protocol {
    /// The value of `OTEL_EXPORTER_OTLP_PROTOCOL`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Grpc => "grpc",
            Protocol::HttpProtobuf => "http/protobuf",
        }
    }
}

/// One place to which every journey goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A collector, or anything that speaks OTLP.
    Collector {
        /// Where it listens.
        endpoint: Endpoint,
        /// How it is spoken to.
        protocol: Protocol,
        /// Headers, or gRPC metadata, of every request.
        headers: Vec<(HeaderName, HeaderValue)>,
        /// How long to wait for an answer.
        timeout: Duration,
    },
    /// A file of OTLP/JSON lines, appended to.
    File {
        /// Its path.
        path: PathBuf,
        /// The option that named it, for messages.
        option: &'static str,
    },
}

/// The destination's address, without anything secret in it.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Collector { endpoint, protocol, .. } => {
                write!(f, "{endpoint} ({})", protocol.as_str())
            }
            Destination::File { path, .. } => path.display().fmt(f),
        }
    }
}

/// Everything the exporter is started with.
#[derive(Clone, Debug, PartialEq)]
pub struct ExporterConfig {
    /// Where the journeys go; every one to each.
    pub destinations: Vec<Destination>,
    /// Which server they come from.
    pub resource: Resource,
    /// Most finished journeys that wait for the exporter to look.
    pub queue_capacity: usize,
    /// How often the exporter looks.
    pub schedule_delay: Duration,
    /// Most spans that are sent together.
    pub max_batch_spans: usize,
    /// Most batches that wait for one destination.
    pub max_pending_batches: usize,
    /// When to try again.
    pub retry: RetryPolicy,
}

impl ExporterConfig {
    /// A configuration with the usual sizes and times.
    #[must_use]
    pub fn new(destinations: Vec<Destination>, resource: Resource) -> Self {
        Self {
            destinations,
            resource,
            queue_capacity: 4096,
            schedule_delay: Duration::from_millis(200),
            max_batch_spans: 512,
            max_pending_batches: 32,
            retry: RetryPolicy::default(),
        }
    }

    /// Puts the command line and the environment together. `variable` looks up an environment variable; an
    /// empty one counts as not set, as OpenTelemetry wants it.
    ///
    /// The collector is `options.traces_endpoint`, or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`, or
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`. Its protocol, headers and time limit are those of
    /// `OTEL_EXPORTER_OTLP_TRACES_*` or `OTEL_EXPORTER_OTLP_*` with `PROTOCOL`, `HEADERS` and `TIMEOUT`.
    /// `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` change the resource.
    ///
    /// # Errors
    /// When an option or variable is wrong or asks for what is not supported, and when there is no
    /// destination at all.
    pub fn resolve(
        options: &ExporterOptions<'_>,
        resource: Resource,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let environment = Environment::new(&variable);
        let collector = environment.collector(options.traces_endpoint)?;
        let file = options
            .journey_file
            .map(|path| Destination::File { path: path.to_path_buf(), option: FILE_OPTION });
        let destinations: Vec<_> = collector.into_iter().chain(file).collect();
        if destinations.is_empty() {
            return Err(ConfigError::NoDestination);
        }
        Ok(Self::new(destinations, environment.resource(resource)?))
    }
}

/// The options of the command line.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExporterOptions<'a> {
    /// `--otlp-traces-endpoint`.
    pub traces_endpoint: Option<&'a str>,
    /// `--journey-file`.
    pub journey_file: Option<&'a Path>,
}

const ENDPOINT_OPTION: &str = "--otlp-traces-endpoint";
const FILE_OPTION: &str = "--journey-file";

/// Why a configuration cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is nowhere to send journeys to.
    #[error(
        "journey tracing has no destination: give {ENDPOINT_OPTION} URL, {FILE_OPTION} PATH, or set OTEL_EXPORTER_OTLP_ENDPOINT"
    )]
    NoDestination,
    /// An endpoint is not one.
    #[error("{option}: {value:?} is not a usable endpoint: {reason}")]
    BadEndpoint {
        /// The option or variable.
        option: &'static str,
        /// Its value, without a password.
        value: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// TLS is asked for.
    #[error(
        "{option}: TLS is not supported yet, so {value:?} cannot be reached; use an http:// endpoint, for example of a collector on this host"
    )]
    TlsUnsupported {
        /// The option or variable.
        option: &'static str,
        /// Its value, without a password.
        value: String,
    },
    /// The protocol is unknown or not supported.
    #[error("{option}: protocol {value:?} is not supported; use grpc or http/protobuf")]
    UnsupportedProtocol {
        /// The variable.
        option: &'static str,
        /// Its value.
        value: String,
    },
    /// A variable's value is malformed. The value is not repeated, because it may hold a secret.
    #[error("{option}: {reason}")]
    BadVariable {
        /// The variable.
        option: &'static str,
        /// What is wrong with it, and what to do.
        reason: String,
    },
}
