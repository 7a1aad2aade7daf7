//! TLS in front of a plain-text receiver, and the certificates for it.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

/// A certificate and its key.
struct Identity {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

/// A certificate authority of the test's own, with a server on 127.0.0.1 and a client that it vouches for.
pub struct TestAuthority {
    authority: rcgen::Certificate,
    server: Identity,
    client: Identity,
}

impl TestAuthority {
    /// Makes fresh keys.
    ///
    /// # Panics
    /// When the system gives no random numbers.
    #[must_use]
    pub fn generate() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are valid names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("keys can be made");
        let authority = params.self_signed(&key).expect("the key fits");
        let issuer = Issuer::new(params, key);
        let identity = |name: &str| {
            let key = KeyPair::generate().expect("keys can be made");
            let params = CertificateParams::new([name.to_owned()]).expect("the name is valid");
            let certificate = params.signed_by(&key, &issuer).expect("the key fits");
            Identity { certificate, key }
        };
        let (server, client) = (identity("127.0.0.1"), identity("client.test"));
        Self { authority, server, client }
    }

    /// The authority's certificate, in PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        self.authority.pem()
    }

    /// The server's certificate, in PEM.
    #[must_use]
    pub fn server_certificate_pem(&self) -> String {
        self.server.certificate.pem()
    }

    /// The server's private key, in PEM.
    #[must_use]
    pub fn server_key_pem(&self) -> String {
        self.server.key.serialize_pem()
    }

    /// The client's certificate, in PEM.
    #[must_use]
    pub fn client_certificate_pem(&self) -> String {
        self.client.certificate.pem()
    }

    /// The client's private key, in PEM.
    #[must_use]
    pub fn client_key_pem(&self) -> String {
        self.client.key.serialize_pem()
    }

    fn server_config(&self, client_must_present_a_certificate: bool) -> ServerConfig {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the provider has them");
        let builder = if client_must_present_a_certificate {
            let mut roots = RootCertStore::empty();
            roots.add(self.authority.der().clone()).expect("it is a certificate");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("there is a root"))
        } else {
            builder.with_no_client_auth()
        };
        let chain: Vec<CertificateDer<'static>> = vec![self.server.certificate.der().clone()];
        let key = PrivateKeyDer::Pkcs8(self.server.key.serialize_der().into());
        let mut config = builder.with_single_cert(chain, key).expect("the key fits");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }
}

/// Takes TLS connections on the loopback interface and passes what is in them on. Stops when it is dropped.
#[derive(Debug)]
pub struct TlsFront {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl TlsFront {
    /// Stands before the plain-text receiver at `target`.
    ///
    /// # Panics
    /// When no port can be had or no thread be started.
    #[must_use]
    pub fn start(
        target: SocketAddr,
        authority: &TestAuthority,
        client_must_present_a_certificate: bool,
    ) -> Self {
        let acceptor =
            TlsAcceptor::from(Arc::new(authority.server_config(client_must_present_a_certificate)));
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("the loopback interface has free ports");
        listener.set_nonblocking(true).expect("a socket can be made non-blocking");
        let address = listener.local_addr().expect("it is bound");
        let (stop, stopped) = oneshot::channel::<()>();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("there are resources");
        let thread = thread::Builder::new().name("tls-front".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener, target, acceptor) => {}
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        });
        Self { address, stop: Some(stop), thread: Some(thread.expect("a thread can be had")) }
    }

    /// Its URL.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("https://{}", self.address)
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, target: SocketAddr, acceptor: TlsAcceptor) {
    let listener = tokio::net::TcpListener::from_std(listener).expect("runs in a runtime");
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // A handshake that fails is the client's affair.
            let Ok(mut client) = acceptor.accept(client).await else { return };
            let Ok(mut server) = TcpStream::connect(target).await else { return };
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        });
    }
}
