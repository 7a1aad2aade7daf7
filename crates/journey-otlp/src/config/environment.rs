//! Reading the variables of OpenTelemetry.

use std::ops::RangeInclusive;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use wayfare_journey::schema::resource_attribute;

use super::endpoint::{Endpoint, PathRule, Security};
use super::pairs::parse_pairs;
use super::tls::{NamedFile, TlsClient};
use super::variables::{self, Variable};
use super::{
    Collector, Compression, ConfigError, DEFAULT_TIMEOUT, ENDPOINT_OPTION, ExporterConfig, Protocol,
    SpanLimits,
};
use crate::Resource;

/// A day in milliseconds: longer waits are mistakes, and no sum of shorter ones overflows.
const MILLISECONDS: RangeInclusive<u64> = 1..=86_400_000;
/// Sizes whose memory is bounded: a queue is allocated when the exporter starts.
const QUEUE_SIZES: RangeInclusive<u64> = 1..=1 << 20;
/// OTLP counts what was dropped in 32 bits.
const COUNTS: RangeInclusive<u64> = 0..=u32::MAX as u64;

/// Looks variables up.
pub(super) struct Environment<'a> {
    lookup: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Environment<'a> {
    pub(super) fn new(lookup: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { lookup }
    }

    /// The first name that is set, and its value. An empty value counts as not set, as OpenTelemetry wants it.
    fn get(&self, variable: Variable) -> Option<(&'static str, String)> {
        variable.names.iter().find_map(|name| {
            let value = (self.lookup)(name)?;
            let value = value.trim();
            (!value.is_empty()).then(|| (*name, value.to_owned()))
        })
    }

    fn number(
        &self,
        variable: Variable,
        unit: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<u64>, ConfigError> {
        let Some((option, value)) = self.get(variable) else { return Ok(None) };
        match value.parse() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => {
                let (least, most) = range.into_inner();
                let reason = format!("{value:?} is not a number of {unit} from {least} to {most}");
                Err(ConfigError::BadVariable { option, reason })
            }
        }
    }

    fn milliseconds(&self, variable: Variable) -> Result<Option<Duration>, ConfigError> {
        Ok(self.number(variable, "milliseconds", MILLISECONDS)?.map(Duration::from_millis))
    }

    fn count(
        &self,
        variable: Variable,
        unit: &str,
        range: RangeInclusive<u64>,
    ) -> Result<Option<usize>, ConfigError> {
        Ok(self.number(variable, unit, range)?.map(|number| usize::try_from(number).unwrap_or(usize::MAX)))
    }

    fn boolean(&self, variable: Variable) -> Result<Option<bool>, ConfigError> {
        let Some((option, value)) = self.get(variable) else { return Ok(None) };
        match value.to_ascii_lowercase().as_str() {
            "true" => Ok(Some(true)),
            "false" => Ok(Some(false)),
            _ => {
                let reason = format!("{value:?} is neither true nor false");
                Err(ConfigError::BadVariable { option, reason })
            }
        }
    }

    /// Whether telemetry is turned off.
    pub(super) fn is_disabled(&self) -> Result<bool, ConfigError> {
        Ok(self.boolean(variables::SDK_DISABLED)?.unwrap_or(false))
    }

    /// The collector, when there is one.
    pub(super) fn collector(&self, flag: Option<&str>) -> Result<Option<Collector>, ConfigError> {
        let from_flag = flag.map(|text| (ENDPOINT_OPTION, text.to_owned(), PathRule::AsIsWithPath));
        let from_variables = || {
            let (name, text) = self.get(variables::ENDPOINT)?;
            let is_for_traces = variables::ENDPOINT.names.first() == Some(&name);
            Some((name, text, if is_for_traces { PathRule::AsIs } else { PathRule::Base }))
        };
        let Some((option, text, rule)) = from_flag.or_else(from_variables) else { return Ok(None) };
        let protocol = self.protocol()?;
        let is_insecure = self.boolean(variables::INSECURE)?.unwrap_or(true);
        let without_scheme =
            if protocol == Protocol::Grpc && !is_insecure { Security::Tls } else { Security::PlainText };
        let endpoint = Endpoint::parse(&text, protocol, rule, without_scheme, option)?;
        let tls = if endpoint.is_tls() { Some(self.tls(option)?) } else { None };
        let timeout = self.milliseconds(variables::TIMEOUT)?.unwrap_or(DEFAULT_TIMEOUT);
        Ok(Some(Collector {
            endpoint,
            protocol,
            headers: self.headers()?,
            timeout,
            compression: self.compression()?,
            tls,
        }))
    }

    fn protocol(&self) -> Result<Protocol, ConfigError> {
        let Some((option, value)) = self.get(variables::PROTOCOL) else { return Ok(Protocol::Grpc) };
        Protocol::ALL
            .into_iter()
            .find(|protocol| protocol.as_str() == value)
            .ok_or(ConfigError::UnsupportedProtocol { option, value })
    }

    fn compression(&self) -> Result<Compression, ConfigError> {
        let Some((option, value)) = self.get(variables::COMPRESSION) else { return Ok(Compression::None) };
        match value.as_str() {
            "none" => Ok(Compression::None),
            "gzip" => Ok(Compression::Gzip),
            _ => {
                let reason = format!("compression {value:?} is not supported; use gzip or none");
                Err(ConfigError::BadVariable { option, reason })
            }
        }
    }

    fn tls(&self, endpoint_option: &'static str) -> Result<TlsClient, ConfigError> {
        let authorities = self.get(variables::CERTIFICATE);
        let (certificate, key) = (self.get(variables::CLIENT_CERTIFICATE), self.get(variables::CLIENT_KEY));
        let alone = |(option, _): &NamedFile, other: Variable| {
            let other = other.names.last().copied().unwrap_or_default();
            let reason = format!("a client certificate and its key belong together; set {other} too");
            ConfigError::BadVariable { option, reason }
        };
        let identity = match (&certificate, &key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(certificate), None) => return Err(alone(certificate, variables::CLIENT_KEY)),
            (None, Some(key)) => return Err(alone(key, variables::CLIENT_CERTIFICATE)),
        };
        TlsClient::new(endpoint_option, authorities.as_ref(), identity)
    }

    fn headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, ConfigError> {
        let Some((option, value)) = self.get(variables::HEADERS) else { return Ok(Vec::new()) };
        let bad = |reason: String| ConfigError::BadVariable { option, reason };
        let pairs = parse_pairs(&value).map_err(|error| bad(error.to_string()))?;
        pairs
            .into_iter()
            .map(|(key, value)| {
                let name = HeaderName::from_bytes(key.as_bytes())
                    .map_err(|_| bad(format!("{key:?} is not the name of a header")))?;
                let mut value = HeaderValue::from_str(&value)
                    .map_err(|_| bad(format!("the value of {key:?} cannot be sent in a header")))?;
                value.set_sensitive(true);
                Ok((name, value))
            })
            .collect()
    }

    /// The resource, as the variables change it.
    pub(super) fn resource(&self, mut resource: Resource) -> Result<Resource, ConfigError> {
        if let Some((option, value)) = self.get(variables::RESOURCE_ATTRIBUTES) {
            let pairs = parse_pairs(&value)
                .map_err(|error| ConfigError::BadVariable { option, reason: error.to_string() })?;
            resource.extra.extend(pairs);
        }
        // It wins over a `service.name` among the attributes.
        if let Some((_, name)) = self.get(variables::SERVICE_NAME) {
            resource.extra.push((resource_attribute::SERVICE_NAME.key.into(), name));
        }
        Ok(resource)
    }

    /// The sizes and times, as the variables change them.
    pub(super) fn batching(&self, config: &mut ExporterConfig) -> Result<(), ConfigError> {
        if let Some(delay) = self.milliseconds(variables::SCHEDULE_DELAY)? {
            config.schedule_delay = delay;
        }
        if let Some(limit) = self.milliseconds(variables::EXPORT_TIMEOUT)? {
            config.retry.give_up_after = limit;
        }
        if let Some(size) = self.count(variables::MAX_QUEUE_SIZE, "spans", QUEUE_SIZES)? {
            (config.queue_capacity, config.max_pending_spans) = (size, size);
        }
        match self.count(variables::MAX_EXPORT_BATCH_SIZE, "spans", QUEUE_SIZES)? {
            None => config.max_batch_spans = config.max_batch_spans.min(config.max_pending_spans),
            Some(size) if size <= config.max_pending_spans => config.max_batch_spans = size,
            Some(size) => {
                let most = config.max_pending_spans;
                let reason = format!("{size} is more than the queue holds ({most}, OTEL_BSP_MAX_QUEUE_SIZE)");
                let option = variables::MAX_EXPORT_BATCH_SIZE.names.first().copied().unwrap_or_default();
                return Err(ConfigError::BadVariable { option, reason });
            }
        }
        Ok(())
    }

    /// The limits of spans.
    pub(super) fn limits(&self) -> Result<SpanLimits, ConfigError> {
        let usual = SpanLimits::default();
        let count = |variable, what, usual| Ok(self.count(variable, what, COUNTS)?.unwrap_or(usual));
        Ok(SpanLimits {
            span_attributes: count(
                variables::SPAN_ATTRIBUTE_COUNT_LIMIT,
                "attributes",
                usual.span_attributes,
            )?,
            span_events: count(variables::SPAN_EVENT_COUNT_LIMIT, "events", usual.span_events)?,
            event_attributes: count(
                variables::EVENT_ATTRIBUTE_COUNT_LIMIT,
                "attributes",
                usual.event_attributes,
            )?,
            value_characters: self.count(variables::ATTRIBUTE_VALUE_LENGTH_LIMIT, "characters", COUNTS)?,
        })
    }
}
