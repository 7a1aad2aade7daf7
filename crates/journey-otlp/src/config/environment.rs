//! The variables of OpenTelemetry that we honour.

use std::fmt;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::endpoint::{Endpoint, PathRule};
use super::{ConfigError, Destination, ENDPOINT_OPTION, Protocol};
use crate::Resource;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";
const RESOURCE_ATTRIBUTES: &str = "OTEL_RESOURCE_ATTRIBUTES";

/// Variables that exist for traces and for all signals; the first that is set counts.
const ENDPOINT: [(&str, PathRule); 2] =
    [("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", PathRule::AsIs), ("OTEL_EXPORTER_OTLP_ENDPOINT", PathRule::Base)];
const PROTOCOL: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
const HEADERS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS"];
const TIMEOUT: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"];

/// Looks variables up.
pub(super) struct Environment<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Environment<'a> {
    pub(super) fn new(variable: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { variable }
    }

    fn get(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.trim().is_empty())
    }

    fn first(&self, names: [&'static str; 2]) -> Option<(&'static str, String)> {
        names.into_iter().find_map(|name| Some((name, self.get(name)?)))
    }

    /// The collector, when there is one.
    pub(super) fn collector(&self, flag: Option<&str>) -> Result<Option<Destination>, ConfigError> {
        let from_flag = flag.map(|text| (ENDPOINT_OPTION, text.to_string(), PathRule::AsIsWithPath));
        let from_variables =
            || ENDPOINT.into_iter().find_map(|(name, rule)| Some((name, self.get(name)?, rule)));
        let Some((option, text, rule)) = from_flag.or_else(from_variables) else { return Ok(None) };
        let protocol = self.protocol()?;
        Ok(Some(Destination::Collector {
            endpoint: Endpoint::parse(&text, protocol, rule, option)?,
            protocol,
            headers: self.headers()?,
            timeout: self.timeout()?,
        }))
    }

    fn protocol(&self) -> Result<Protocol, ConfigError> {
        let Some((option, value)) = self.first(PROTOCOL) else { return Ok(Protocol::Grpc) };
        [Protocol::Grpc, Protocol::HttpProtobuf]
            .into_iter()
            .find(|protocol| protocol.as_str() == value.trim())
            .ok_or(ConfigError::UnsupportedProtocol { option, value })
    }

    fn headers(&self) -> Result<Vec<(HeaderName, HeaderValue)>, ConfigError> {
        let Some((option, value)) = self.first(HEADERS) else { return Ok(Vec::new()) };
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

    fn timeout(&self) -> Result<Duration, ConfigError> {
        let Some((option, value)) = self.first(TIMEOUT) else { return Ok(DEFAULT_TIMEOUT) };
        match value.trim().parse::<u64>() {
            Ok(milliseconds) if milliseconds > 0 => Ok(Duration::from_millis(milliseconds)),
            _ => {
                let reason = format!("{value:?} is not a number of milliseconds above 0");
                Err(ConfigError::BadVariable { option, reason })
            }
        }
    }

    /// The resource, as the variables change it.
    pub(super) fn resource(&self, mut resource: Resource) -> Result<Resource, ConfigError> {
        if let Some(value) = self.get(RESOURCE_ATTRIBUTES) {
            let pairs = parse_pairs(&value).map_err(|error| ConfigError::BadVariable {
                option: RESOURCE_ATTRIBUTES,
                reason: error.to_string(),
            })?;
            resource.extra.extend(pairs);
        }
        // It wins over a `service.name` among the attributes.
        if let Some(name) = self.get(SERVICE_NAME) {
            let name = name.trim().to_string();
            resource.extra.push((wayfare_journey::schema::resource_attribute::SERVICE_NAME.key.into(), name));
        }
        Ok(resource)
    }
}

/// Why a list of pairs is malformed. Holds no value, because a value may be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BadPairs {
    /// The n-th member, from 1, is not `key=value`.
    NotAPair(usize),
    /// The value of this key is not percent-encoded UTF-8.
    BadEncoding(String),
}

impl fmt::Display for BadPairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadPairs::NotAPair(place) => write!(f, "member {place} of the list is not key=value"),
            BadPairs::BadEncoding(key) => {
                write!(f, "the value of {key:?} is not percent-encoded text; write % as %25")
            }
        }
    }
}

/// Reads `key=value,key=value` with percent-encoded values, the form of W3C Baggage without properties that
/// OpenTelemetry's variables use. Empty members are skipped.
pub(super) fn parse_pairs(text: &str) -> Result<Vec<(String, String)>, BadPairs> {
    let members = text.split(',').map(str::trim).enumerate().filter(|(_, member)| !member.is_empty());
    members
        .map(|(index, member)| {
            let (key, value) = member.split_once('=').ok_or(BadPairs::NotAPair(index + 1))?;
            let key = key.trim();
            if key.is_empty() {
                return Err(BadPairs::NotAPair(index + 1));
            }
            let value = percent_decode(value.trim()).ok_or_else(|| BadPairs::BadEncoding(key.into()))?;
            Ok((key.into(), value))
        })
        .collect()
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high << 4 | low).ok()?);
    }
    String::from_utf8(bytes).ok()
}
