//! The variables that are honoured: the one list, of which the docs are made.

/// Environment variables that set one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its names; the first one that is set counts.
    pub names: &'static [&'static str],
    /// What holds when none is set, written as its value; `None` when there is nothing then.
    pub default: Option<&'static str>,
    /// What it sets, in Markdown.
    pub meaning: &'static str,
}

impl Variable {
    /// Every variable that is honoured, in the order of the docs.
    pub const ALL: &'static [Variable] = &[
        SDK_DISABLED,
        ENDPOINT,
        PROTOCOL,
        HEADERS,
        TIMEOUT,
        COMPRESSION,
        INSECURE,
        CERTIFICATE,
        CLIENT_CERTIFICATE,
        CLIENT_KEY,
        SERVICE_NAME,
        RESOURCE_ATTRIBUTES,
        SCHEDULE_DELAY,
        EXPORT_TIMEOUT,
        MAX_QUEUE_SIZE,
        MAX_EXPORT_BATCH_SIZE,
        SPAN_ATTRIBUTE_COUNT_LIMIT,
        SPAN_EVENT_COUNT_LIMIT,
        EVENT_ATTRIBUTE_COUNT_LIMIT,
        ATTRIBUTE_VALUE_LENGTH_LIMIT,
    ];
}

pub(super) const SDK_DISABLED: Variable = Variable {
    names: &["OTEL_SDK_DISABLED"],
    default: Some("false"),
    meaning: "`true` turns journeys off, whatever the options say; the log says so",
};

pub(super) const ENDPOINT: Variable = Variable {
    names: &["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"],
    default: None,
    meaning: "collector to send to, when `--otlp-traces-endpoint` is not given; over HTTP the path `/v1/traces` is \
        appended to the second, and the first is used as it is",
};

pub(super) const PROTOCOL: Variable = Variable {
    names: &["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"],
    default: Some("grpc"),
    meaning: "`grpc`, `http/protobuf` or `http/json`",
};

pub(super) const HEADERS: Variable = Variable {
    names: &["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"],
    default: None,
    meaning: "headers (gRPC: metadata) of every request, `key=value,key=value` with percent-encoded values; never \
        logged",
};

pub(super) const TIMEOUT: Variable = Variable {
    names: &["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"],
    default: Some("10000"),
    meaning: "how long one attempt may take, in ms",
};

pub(super) const COMPRESSION: Variable = Variable {
    names: &["OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"],
    default: Some("none"),
    meaning: "`gzip` or `none`",
};

pub(super) const INSECURE: Variable = Variable {
    names: &["OTEL_EXPORTER_OTLP_TRACES_INSECURE", "OTEL_EXPORTER_OTLP_INSECURE"],
    default: Some("true"),
    meaning: "whether a gRPC endpoint without a scheme is plain text (`true`) or TLS (`false`). OpenTelemetry's \
        default is `false`; ours is what people expect of `localhost:4317`",
};

pub(super) const CERTIFICATE: Variable = Variable {
    names: &["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"],
    default: None,
    meaning: "PEM file of the authorities to trust instead of the system's, for `https` endpoints",
};

pub(super) const CLIENT_CERTIFICATE: Variable = Variable {
    names: &["OTEL_EXPORTER_OTLP_TRACES_CLIENT_CERTIFICATE", "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"],
    default: None,
    meaning: "PEM file of the certificate chain to present to the collector; needs the key too",
};

pub(super) const CLIENT_KEY: Variable = Variable {
    names: &["OTEL_EXPORTER_OTLP_TRACES_CLIENT_KEY", "OTEL_EXPORTER_OTLP_CLIENT_KEY"],
    default: None,
    meaning: "PEM file of that certificate's private key",
};

pub(super) const SERVICE_NAME: Variable = Variable {
    names: &["OTEL_SERVICE_NAME"],
    default: Some("wayfare"),
    meaning: "`service.name`; wins over one in `OTEL_RESOURCE_ATTRIBUTES`",
};

pub(super) const RESOURCE_ATTRIBUTES: Variable = Variable {
    names: &["OTEL_RESOURCE_ATTRIBUTES"],
    default: None,
    meaning: "further attributes of the resource, `key=value,key=value` with percent-encoded values",
};

pub(super) const SCHEDULE_DELAY: Variable = Variable {
    names: &["OTEL_BSP_SCHEDULE_DELAY"],
    default: Some("200"),
    meaning: "how often finished journeys are collected into batches, in ms",
};

pub(super) const EXPORT_TIMEOUT: Variable = Variable {
    names: &["OTEL_BSP_EXPORT_TIMEOUT"],
    default: Some("60000"),
    meaning: "how long a batch is tried, retries included, in ms",
};

pub(super) const MAX_QUEUE_SIZE: Variable = Variable {
    names: &["OTEL_BSP_MAX_QUEUE_SIZE"],
    default: Some("16384"),
    meaning: "most spans that wait for one destination, and most journeys that can end between two collections",
};

pub(super) const MAX_EXPORT_BATCH_SIZE: Variable = Variable {
    names: &["OTEL_BSP_MAX_EXPORT_BATCH_SIZE"],
    default: Some("512"),
    meaning: "most spans of a batch; no more than the queue's size",
};

pub(super) const SPAN_ATTRIBUTE_COUNT_LIMIT: Variable = Variable {
    names: &["OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT"],
    default: Some("128"),
    meaning: "most attributes of a span; the first ones stay, the others are counted in \
        `dropped_attributes_count`",
};

pub(super) const SPAN_EVENT_COUNT_LIMIT: Variable = Variable {
    names: &["OTEL_SPAN_EVENT_COUNT_LIMIT"],
    default: Some("1024"),
    meaning: "most events of a span; events are dropped from the middle and counted in `dropped_events_count`, and \
        the one that ends the span always stays",
};

pub(super) const EVENT_ATTRIBUTE_COUNT_LIMIT: Variable = Variable {
    names: &["OTEL_EVENT_ATTRIBUTE_COUNT_LIMIT", "OTEL_ATTRIBUTE_COUNT_LIMIT"],
    default: Some("128"),
    meaning: "most attributes of an event, as for spans",
};

pub(super) const ATTRIBUTE_VALUE_LENGTH_LIMIT: Variable = Variable {
    names: &["OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT", "OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT"],
    default: None,
    meaning: "most characters of a text in an attribute of a span or event; longer ones are cut",
};
