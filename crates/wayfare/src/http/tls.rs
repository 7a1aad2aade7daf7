//! TLS of the server's own listener.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use crate::cli::{ClientCertificates, TlsOptions};

/// What encrypts connections; `None` when that was not asked for.
///
/// # Errors
/// When the options contradict each other, or a file is not what it should be.
pub(crate) fn tls_acceptor(options: &TlsOptions) -> Result<Option<TlsAcceptor>> {
    let Some(certificates) = &options.ssl_certfile else {
        for (option, is_given) in [
            ("--ssl-keyfile", options.ssl_keyfile.is_some()),
            ("--ssl-ca-certs", options.ssl_ca_certs.is_some()),
            ("--ssl-cert-reqs", options.ssl_cert_reqs != ClientCertificates::Ignored),
        ] {
            if is_given {
                bail!("{option} needs --ssl-certfile: without a certificate there is no TLS");
            }
        }
        return Ok(None);
    };
    let chain = read_certificates(certificates, "--ssl-certfile")?;
    // A key may stand in the same file, as in Python's ssl.
    let (key_file, key_option) = match &options.ssl_keyfile {
        Some(file) => (file, "--ssl-keyfile"),
        None => (certificates, "--ssl-certfile"),
    };
    let key = read_key(key_file, key_option)?;

    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .context("the cryptography has no TLS version that is safe")?;
    let builder = match (&options.ssl_ca_certs, options.ssl_cert_reqs) {
        (None, ClientCertificates::Ignored) => builder.with_no_client_auth(),
        (Some(_), ClientCertificates::Ignored) => {
            bail!(
                "--ssl-ca-certs has no effect while clients are not asked for certificates; add --ssl-cert-reqs 2"
            )
        }
        (None, _) => bail!("--ssl-cert-reqs needs --ssl-ca-certs: the authorities that clients are to have"),
        (Some(authorities), wanted) => {
            let mut roots = RootCertStore::empty();
            for certificate in read_certificates(authorities, "--ssl-ca-certs")? {
                roots
                    .add(certificate)
                    .with_context(|| format!("--ssl-ca-certs: {}", authorities.display()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match wanted {
                ClientCertificates::Required => verifier,
                _ => verifier.allow_unauthenticated(),
            };
            let verifier =
                verifier.build().with_context(|| format!("--ssl-ca-certs: {}", authorities.display()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => anyhow::anyhow!(
            "the key of {} ({key_option}) does not go with the certificate of {} (--ssl-certfile)",
            key_file.display(),
            certificates.display()
        ),
        error => anyhow::Error::new(error)
            .context(format!("--ssl-certfile: {} cannot be used", certificates.display())),
    })?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

fn read_certificates(file: &Path, option: &str) -> Result<Vec<CertificateDer<'static>>> {
    let what = || format!("{option}: {}", file.display());
    let certificates: Vec<_> = CertificateDer::pem_file_iter(file)
        .map_err(readable)
        .with_context(what)?
        .collect::<Result<_, _>>()
        .map_err(readable)
        .with_context(what)?;
    if certificates.is_empty() {
        bail!("{option}: {} holds no certificate in PEM", file.display());
    }
    Ok(certificates)
}

fn read_key(file: &Path, option: &str) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_file(file).map_err(|error| match error {
        pem::Error::NoItemsFound => anyhow::anyhow!(
            "{option}: {} holds no private key in PEM that is not encrypted; if it is, decrypt it with openssl pkey",
            file.display()
        ),
        error => readable(error).context(format!("{option}: {}", file.display())),
    })
}

/// The library's own messages are fragments of its types.
fn readable(error: pem::Error) -> anyhow::Error {
    match error {
        pem::Error::Io(error) => anyhow::Error::new(error).context("cannot read it"),
        error => anyhow::Error::new(error).context("it is not PEM"),
    }
}
