//! Where journeys go and how, from the command line and the environment.
//!
//! Source of the variables: <https://opentelemetry.io/docs/specs/otel/protocol/exporter/>.

mod endpoint;
mod environment;
mod pairs;
#[cfg(test)]
mod tests;
mod tls;
mod variables;

use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderName, HeaderValue};

pub use endpoint::Endpoint;
use environment::Environment;
pub use tls::TlsClient;
pub use variables::Variable;

use crate::{Resource, RetryPolicy, SpanLimits};

/// How long one attempt may take, unless a variable says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// How a collector is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// OTLP/gRPC, `grpc`.
    Grpc,
    /// OTLP over HTTP with protobuf bodies, `http/protobuf`.
    HttpProtobuf,
    /// OTLP over HTTP with JSON bodies, `http/json`.
    HttpJson,
}

impl Protocol {
    const ALL: [Protocol; 3] = [Protocol::Grpc, Protocol::HttpProtobuf, Protocol::HttpJson];

    /// The value of `OTEL_EXPORTER_OTLP_PROTOCOL`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Grpc => "grpc",
            Protocol::HttpProtobuf => "http/protobuf",
            Protocol::HttpJson => "http/json",
        }
    }
}

/// How requests are packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// As they are, `none`.
    #[default]
    None,
    /// By gzip, `gzip`.
    Gzip,
}

/// A collector, or anything that speaks OTLP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// How it is spoken to.
    pub protocol: Protocol,
    /// Headers, or gRPC metadata, of every request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// How long to wait for an answer.
    pub timeout: Duration,
    /// How requests are packed.
    pub compression: Compression,
    /// Whom to trust, when the endpoint is `https`.
    pub tls: Option<TlsClient>,
}

/// When a file is set aside for a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileRotation {
    /// Most bytes of a file, but for one whose first line alone is longer.
    pub max_bytes: NonZeroU64,
    /// Most files that are kept, the one being written included: `path`, `path.1`, `path.2`, from new to old.
    pub max_files: NonZeroU32,
}

impl FileRotation {
    /// The usual size, 256 MiB.
    pub const DEFAULT_MAX_BYTES: NonZeroU64 = NonZeroU64::new(256 << 20).expect("it is not 0");
    /// The usual number of files.
    pub const DEFAULT_MAX_FILES: NonZeroU32 = NonZeroU32::new(4).expect("it is not 0");
}

impl Default for FileRotation {
    fn default() -> Self {
        Self { max_bytes: Self::DEFAULT_MAX_BYTES, max_files: Self::DEFAULT_MAX_FILES }
    }
}

/// One place to which every journey goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A collector.
    Collector(Collector),
    /// A file of OTLP/JSON lines, appended to.
    File {
        /// Its path.
        path: PathBuf,
        /// When it is set aside.
        rotation: FileRotation,
        /// The option that named it, for messages.
        option: &'static str,
    },
}

/// The destination's address, without anything secret in it.
impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Collector(Collector { endpoint, protocol, .. }) => {
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
    /// Most spans that wait for one destination, those on their way included.
    pub max_pending_spans: usize,
    /// When to try again.
    pub retry: RetryPolicy,
    /// What is cut off spans.
    pub limits: SpanLimits,
}

impl ExporterConfig {
    /// A configuration with the usual sizes and times.
    #[must_use]
    pub fn new(destinations: Vec<Destination>, resource: Resource) -> Self {
        Self {
            destinations,
            resource,
            queue_capacity: 16_384,
            schedule_delay: Duration::from_millis(200),
            max_batch_spans: 512,
            max_pending_spans: 16_384,
            retry: RetryPolicy::default(),
            limits: SpanLimits::default(),
        }
    }

    /// Puts the command line and the environment together. `variable` looks up an environment variable; an
    /// empty one counts as not set, as OpenTelemetry wants it.
    ///
    /// The collector is `options.traces_endpoint`, or the one that the environment names. [`Variable::ALL`] says
    /// which variables are honoured.
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
        let collector = environment.collector(options.traces_endpoint)?.map(Destination::Collector);
        let file = options.journey_file.map(|path| Destination::File {
            path: path.to_path_buf(),
            rotation: options.journey_file_rotation,
            option: FILE_OPTION,
        });
        let destinations: Vec<_> = collector.into_iter().chain(file).collect();
        if destinations.is_empty() {
            return Err(ConfigError::NoDestination);
        }
        let mut config = Self::new(destinations, environment.resource(resource)?);
        environment.batching(&mut config)?;
        config.limits = environment.limits()?;
        Ok(config)
    }
}

/// Whether `OTEL_SDK_DISABLED` turns telemetry off, whatever the options say.
///
/// # Errors
/// When its value is neither true nor false.
pub fn is_disabled(variable: impl Fn(&str) -> Option<String>) -> Result<bool, ConfigError> {
    Environment::new(&variable).is_disabled()
}

/// The options of the command line.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExporterOptions<'a> {
    /// `--otlp-traces-endpoint`.
    pub traces_endpoint: Option<&'a str>,
    /// `--journey-file`.
    pub journey_file: Option<&'a Path>,
    /// `--journey-file-max-bytes` and `--journey-file-max-files`.
    pub journey_file_rotation: FileRotation,
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
    /// The protocol is unknown or not supported.
    #[error("{option}: protocol {value:?} is not supported; use grpc, http/protobuf or http/json")]
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
