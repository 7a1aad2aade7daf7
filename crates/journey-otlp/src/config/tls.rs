//! TLS for collectors: whom to trust, and who we are.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::ConfigError;

/// A file, and the variable that named it.
pub(super) type NamedFile = (&'static str, String);

/// Everything that a TLS connection to a collector needs, checked when it is made.
#[derive(Clone)]
pub struct TlsClient(Arc<ClientConfig>);

impl TlsClient {
    /// Trusts the authorities of a file, or else those of the system, and presents a certificate when there is
    /// one. `option` is the one that asked for TLS.
    pub(super) fn new(
        option: &'static str,
        authorities: Option<&NamedFile>,
        identity: Option<(&NamedFile, &NamedFile)>,
    ) -> Result<Self, ConfigError> {
        let roots = match authorities {
            Some(file) => roots_of_file(file)?,
            None => roots_of_system(option)?,
        };
        let bad =
            |option, error: rustls::Error| ConfigError::BadVariable { option, reason: error.to_string() };
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| bad(option, error))?
            .with_root_certificates(roots);
        let config = match identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
                .map_err(|error| bad(key.0, error))?,
        };
        Ok(Self(Arc::new(config)))
    }

    /// The settings, without a choice of protocols above TLS.
    pub(crate) fn config(&self) -> ClientConfig {
        ClientConfig::clone(&self.0)
    }
}

impl PartialEq for TlsClient {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for TlsClient {}

/// Says nothing about the key.
impl fmt::Debug for TlsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsClient").finish_non_exhaustive()
    }
}

fn roots_of_file(file: &NamedFile) -> Result<RootCertStore, ConfigError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(file)? {
        roots.add(certificate).map_err(|error| unusable(file, &error.to_string()))?;
    }
    Ok(roots)
}

fn roots_of_system(option: &'static str) -> Result<RootCertStore, ConfigError> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!("a certificate authority of the system cannot be read: {error}");
    }
    let mut roots = RootCertStore::empty();
    // Systems keep old certificates that rustls does not take; the others serve.
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let reason =
            "TLS is asked for, but this system has no certificate authorities to trust; install them, or \
            name a PEM file by OTEL_EXPORTER_OTLP_CERTIFICATE"
                .into();
        return Err(ConfigError::BadVariable { option, reason });
    }
    Ok(roots)
}

fn certificates(file: &NamedFile) -> Result<Vec<CertificateDer<'static>>, ConfigError> {
    let found = CertificateDer::pem_slice_iter(&read(file)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| unusable(file, &error.to_string()))?;
    if found.is_empty() {
        return Err(unusable(file, "it holds no certificate in PEM form"));
    }
    Ok(found)
}

fn private_key(file: &NamedFile) -> Result<PrivateKeyDer<'static>, ConfigError> {
    PrivateKeyDer::from_pem_slice(&read(file)?)
        .map_err(|error| unusable(file, &format!("it holds no private key in PEM form ({error})")))
}

fn read(file: &NamedFile) -> Result<Vec<u8>, ConfigError> {
    std::fs::read(Path::new(&file.1)).map_err(|error| unusable(file, &error.to_string()))
}

fn unusable((option, path): &NamedFile, reason: &str) -> ConfigError {
    ConfigError::BadVariable { option, reason: format!("cannot use {path:?}: {reason}") }
}
