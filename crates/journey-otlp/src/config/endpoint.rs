//! Where a collector listens.

use std::fmt;

use http::Uri;
use http::uri::{PathAndQuery, Scheme};

use super::{ConfigError, Protocol};

const TRACES_PATH: &str = "v1/traces";

/// How an endpoint's path is to be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathRule {
    /// The path of traces is appended, as for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    Base,
    /// The URL is used as it is, as for `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`.
    AsIs,
    /// As it is when there is a path, else the path of traces is appended: what people mean on a command
    /// line.
    AsIsWithPath,
}

/// Whether a connection is encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Security {
    PlainText,
    Tls,
}

/// The URL of a collector: `http` or `https`, a host, and for HTTP the full path. Holds no password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint(Uri);

impl Endpoint {
    /// Reads what the user gave under `option`. `without_scheme` is what one without a scheme means.
    pub(super) fn parse(
        text: &str,
        protocol: Protocol,
        rule: PathRule,
        without_scheme: Security,
        option: &'static str,
    ) -> Result<Self, ConfigError> {
        let text = text.trim();
        let value = without_secrets(text);
        let bad = |reason: String| ConfigError::BadEndpoint { option, value: value.clone(), reason };

        let url = match without_scheme {
            _ if text.contains("://") => text.into(),
            Security::PlainText => format!("http://{text}"),
            Security::Tls => format!("https://{text}"),
        };
        let uri: Uri = url.parse().map_err(|error| bad(format!("{error}")))?;
        let scheme = uri.scheme().map_or("", Scheme::as_str);
        if !matches!(scheme, "http" | "https") {
            return Err(bad(format!(
                "scheme {scheme:?} is unknown; use http://host:port or https://host:port"
            )));
        }
        let authority = uri.authority().ok_or_else(|| bad("it names no host".into()))?;
        if authority.as_str().contains('@') {
            return Err(bad(
                "it holds a user name or password; give credentials by OTEL_EXPORTER_OTLP_HEADERS".into(),
            ));
        }
        if uri.host().is_none_or(str::is_empty) {
            return Err(bad("it names no host".into()));
        }
        // `host:` and `host:99999` pass the parser.
        let has_colon =
            authority.as_str().rsplit_once(']').map_or(authority.as_str(), |(_, rest)| rest).contains(':');
        if has_colon && authority.port_u16().is_none() {
            return Err(bad("the port is not a number up to 65535".into()));
        }
        if authority.port_u16() == Some(0) {
            return Err(bad("port 0 cannot be connected to".into()));
        }

        let has_path = !matches!(uri.path(), "" | "/");
        match (protocol, rule) {
            (Protocol::Grpc, _) if has_path || uri.query().is_some() => Err(bad(format!(
                "a gRPC endpoint has no path; use {scheme}://{authority}, or OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
            ))),
            (Protocol::HttpProtobuf | Protocol::HttpJson, PathRule::Base) => {
                Self::with_traces_path(&uri).map_err(bad)
            }
            (Protocol::HttpProtobuf | Protocol::HttpJson, PathRule::AsIsWithPath) if !has_path => {
                Self::with_traces_path(&uri).map_err(bad)
            }
            (Protocol::Grpc | Protocol::HttpProtobuf | Protocol::HttpJson, _) => Ok(Self(uri)),
        }
    }

    fn with_traces_path(uri: &Uri) -> Result<Self, String> {
        let base = uri.path().trim_end_matches('/');
        let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
        let path = PathAndQuery::try_from(format!("{base}/{TRACES_PATH}{query}"))
            .map_err(|error| error.to_string())?;
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(path);
        Uri::from_parts(parts).map(Self).map_err(|error| error.to_string())
    }

    /// Whether the connection is encrypted.
    pub(super) fn is_tls(&self) -> bool {
        self.0.scheme() == Some(&Scheme::HTTPS)
    }

    /// The URL that is connected to.
    pub(crate) fn uri(&self) -> &Uri {
        &self.0
    }
}

/// The URL without its query, in which some services want a key.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.0.path().trim_end_matches('/');
        write!(
            f,
            "{}://{}{path}",
            self.0.scheme_str().unwrap_or("http"),
            self.0.authority().map_or("", |authority| authority.as_str())
        )
    }
}

/// The text with user name and password, and the query, blotted out.
fn without_secrets(text: &str) -> String {
    let (address, query) = text.split_once('?').map_or((text, ""), |(address, _)| (address, "?…"));
    let (scheme, rest) = address.split_once("://").map_or(("", address), |(scheme, rest)| (scheme, rest));
    let separator = if address.contains("://") { "://" } else { "" };
    match rest.rsplit_once('@') {
        Some((_, host)) => format!("{scheme}{separator}…@{host}{query}"),
        None => format!("{scheme}{separator}{rest}{query}"),
    }
}
