//! Encrypted connections.

use std::error::Error;
use std::io;

use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;

use crate::TlsClient;

/// What is spoken above TLS.
#[derive(Clone, Copy, Debug)]
pub(super) enum HttpVersion {
    One,
    Two,
}

/// How rustls says that the other side broke the connection off.
const ALERT: &str = "received fatal alert: ";

/// Makes plain connections, without delays for small writes.
pub(super) fn plain_connector() -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector
}

/// Makes encrypted connections, and no others.
pub(super) fn connector(tls: &TlsClient, version: HttpVersion) -> HttpsConnector<HttpConnector> {
    let mut tcp = plain_connector();
    tcp.enforce_http(false);
    let builder = HttpsConnectorBuilder::new().with_tls_config(tls.config()).https_only();
    match version {
        HttpVersion::One => builder.enable_http1().wrap_connector(tcp),
        HttpVersion::Two => builder.enable_http2().wrap_connector(tcp),
    }
}

/// Whether TLS is among the causes of an error.
pub(super) fn has_failed(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<rustls::Error>() {
            return true;
        }
        // HTTP/2 keeps only the text of what ended a connection.
        if error.is::<io::Error>() && error.to_string().contains(ALERT) {
            return true;
        }
        // An I/O error names the causes of what it wraps, but not that itself.
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tls_error_is_found_under_others() {
        let tls = || io::Error::new(io::ErrorKind::InvalidData, rustls::Error::DecryptError);
        assert!(has_failed(&tls()));
        assert!(has_failed(&io::Error::other(io::Error::other(tls()))));
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired);
        assert!(has_failed(&io::Error::other(alert.to_string())));
        assert!(!has_failed(&io::Error::other("no TLS")));
        assert!(!has_failed(&io::Error::from(io::ErrorKind::ConnectionRefused)));
    }
}
