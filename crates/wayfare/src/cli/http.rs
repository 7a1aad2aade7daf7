//! Options of connections: their limits, encryption, and what browsers may do. Names are vLLM's wherever it has the
//! option.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::time_limit;

/// What clients may use up.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "HTTP limits")]
pub(crate) struct HttpLimitOptions {
    /// Most connections at the same time; further ones wait. Otherwise as many as there are file descriptors.
    #[arg(long, value_name = "COUNT")]
    pub(crate) max_connections: Option<NonZeroUsize>,

    /// How long the head of a request may take to arrive, and how long a connection may be without a request, in
    /// seconds.
    #[arg(long, default_value = "75", value_name = "SECONDS", value_parser = time_limit)]
    pub(crate) header_timeout: Duration,

    /// Most bytes of a request's head; more is refused with 431.
    #[arg(long, alias = "h11-max-incomplete-event-size", default_value_t = 64 << 10, value_name = "BYTES",
          value_parser = clap::value_parser!(u32).range(1024..=16 << 20))]
    pub(crate) max_header_bytes: u32,

    /// Most headers of a request; more are refused with 431.
    #[arg(long, alias = "h11-max-header-count", default_value_t = 100, value_name = "COUNT",
          value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) max_header_count: u16,

    /// Most bytes of a request's body; more is refused with 413.
    #[arg(long, default_value_t = 16 << 20, value_name = "BYTES")]
    pub(crate) max_body_bytes: usize,

    /// Most messages of a chat request; more are refused with 400.
    #[arg(long, default_value_t = 4096, value_name = "COUNT")]
    pub(crate) max_messages: usize,
}

/// Encryption.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "TLS")]
pub(crate) struct TlsOptions {
    /// File with the server's certificate, and those between it and its authority, in PEM. Turns TLS on.
    #[arg(long, value_name = "FILE")]
    pub(crate) ssl_certfile: Option<PathBuf>,

    /// File with the key of that certificate, in PEM. Otherwise it is in the same file.
    #[arg(long, value_name = "FILE")]
    pub(crate) ssl_keyfile: Option<PathBuf>,

    /// File with the authorities of clients' certificates, in PEM.
    #[arg(long, value_name = "FILE")]
    pub(crate) ssl_ca_certs: Option<PathBuf>,

    /// Whether clients must present a certificate: 0, they are not asked for one; 1, one that they present must be
    /// good; 2, they must.
    #[arg(long, value_enum, default_value_t, value_name = "LEVEL")]
    pub(crate) ssl_cert_reqs: ClientCertificates,
}

/// What is asked of clients. The numbers are those of Python's `ssl`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ClientCertificates {
    #[default]
    #[value(name = "0")]
    Ignored,
    #[value(name = "1")]
    Optional,
    #[value(name = "2")]
    Required,
}

/// What pages of other origins may do.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Browsers (CORS)")]
pub(crate) struct CorsOptions {
    /// Origins whose pages may use the server, as a JSON list or separated by commas; "*" is all, [] none.
    #[arg(long, default_value = "*", value_name = "LIST")]
    pub(crate) allowed_origins: Names,

    /// Methods that they may use.
    #[arg(long, default_value = "*", value_name = "LIST")]
    pub(crate) allowed_methods: Names,

    /// Headers that they may send.
    #[arg(long, default_value = "*", value_name = "LIST")]
    pub(crate) allowed_headers: Names,

    /// Lets them send cookies and a browser's own credentials.
    #[arg(long)]
    pub(crate) allow_credentials: bool,
}

/// A list of names: JSON, as vLLM takes it, or separated by commas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Names(pub(crate) Vec<String>);

impl FromStr for Names {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.trim_start().starts_with('[') {
            return serde_json::from_str(text)
                .map(Self)
                .map_err(|error| format!("not a JSON list of strings: {error}"));
        }
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        Ok(Self(names.map(str::to_owned).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_json_or_has_commas() {
        let names = |text: &str| text.parse::<Names>().map(|names| names.0);
        assert_eq!(names(r#"["*"]"#).unwrap(), ["*"]);
        assert_eq!(names("https://a.test, https://b.test").unwrap(), ["https://a.test", "https://b.test"]);
        assert_eq!(names("[]").unwrap(), [""; 0]);
        assert!(names(r#"["a", 1]"#).is_err());
    }
}
