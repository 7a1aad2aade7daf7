//! The built program over every transport: TCP, a Unix socket and TLS, each with HTTP/1.1 and HTTP/2.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use wayfare_testkit::TestAuthority;

use crate::rig::{COMPLETIONS, blocking};
use crate::server::{ServerProcess, failed_start, simulated};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Version {
    One,
    Two,
}

/// One connection of a client.
enum Client {
    One(http1::SendRequest<Body>),
    Two(http2::SendRequest<Body>),
}

impl Client {
    async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        version: Version,
    ) -> hyper::Result<Self> {
        let stream = TokioIo::new(stream);
        match version {
            Version::One => {
                let (client, connection) = http1::handshake(stream).await?;
                tokio::spawn(connection);
                Ok(Self::One(client))
            }
            Version::Two => {
                let (client, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
                tokio::spawn(connection);
                Ok(Self::Two(client))
            }
        }
    }

    async fn send(&mut self, request: Request<Body>) -> hyper::Result<Response<Incoming>> {
        match self {
            Self::One(client) => {
                client.ready().await?;
                client.send_request(request).await
            }
            Self::Two(client) => client.send_request(request).await,
        }
    }

    async fn post(&mut self, body: &Value) -> hyper::Result<Response<Incoming>> {
        let uri = match self {
            Self::One(_) => COMPLETIONS.to_owned(),
            Self::Two(_) => format!("http://x{COMPLETIONS}"),
        };
        let request = Request::post(uri).header("host", "x").header("content-type", "application/json");
        self.send(request.body(Body::from(body.to_string())).unwrap()).await
    }
}

async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Files of an authority, of the server's certificate, and of one for a client.
struct Certificates {
    authority: TestAuthority,
    folder: TempDir,
}

impl Certificates {
    fn generate() -> Self {
        let (authority, folder) = (TestAuthority::generate(), tempfile::tempdir().unwrap());
        for (name, pem) in [
            ("authority", authority.certificate_pem()),
            ("certificate", authority.server_certificate_pem()),
            ("key", authority.server_key_pem()),
            ("both", authority.server_key_pem() + &authority.server_certificate_pem()),
        ] {
            fs::write(folder.path().join(name), pem).unwrap();
        }
        Self { authority, folder }
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    async fn connect(
        &self,
        server: &ServerProcess,
        version: Version,
        has_certificate: bool,
    ) -> std::io::Result<impl AsyncRead + AsyncWrite + Unpin + Send + use<>> {
        let certificate = |pem: String| CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate(self.authority.certificate_pem())).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = if has_certificate {
            let key = PrivateKeyDer::from_pem_slice(self.authority.client_key_pem().as_bytes()).unwrap();
            let chain = vec![certificate(self.authority.client_certificate_pem())];
            config.with_client_auth_cert(chain, key).unwrap()
        } else {
            config.with_no_client_auth()
        };
        let protocol: &[u8] = if version == Version::One { b"http/1.1" } else { b"h2" };
        config.alpn_protocols = vec![protocol.to_vec()];
        let stream = TcpStream::connect(server.socket_address()).await?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(protocol));
        Ok(stream)
    }
}

/// Two requests on one connection; then a stream that a signal meets, and that ends well all the same.
async fn check(mut server: ServerProcess, mut client: Client) {
    for _ in 0..2 {
        let response = client.post(&json!({"prompt": "Hi", "max_tokens": 3})).await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(text(response).await.contains(r#""finish_reason":"length""#));
    }
    let long = client.post(&json!({"prompt": "Hi", "max_tokens": 40, "stream": true})).await.unwrap();
    server.signal(Signal::TERM);
    let text = text(long).await;
    assert!(text.contains(r#""finish_reason":"length""#) && text.ends_with("data: [DONE]\n\n"), "{text}");
    let ended = blocking(move || server.wait()).await;
    assert!(ended.status.success(), "{}", ended.log);
    assert!(ended.took.as_secs() < 5, "a connection that is kept open does not hold it up: {:?}", ended.took);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_http_over_tcp_drain_well() {
    for version in [Version::One, Version::Two] {
        let server = ServerProcess::simulated(&[], &[]);
        assert!(server.address.starts_with("http://127.0.0.1:"));
        let stream = TcpStream::connect(server.socket_address()).await.unwrap();
        check(server, Client::over(stream, version).await.unwrap()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_http_over_tls_drain_well() {
    let certificates = Certificates::generate();
    for version in [Version::One, Version::Two] {
        let (certificate, key) = (certificates.file("certificate"), certificates.file("key"));
        let server = ServerProcess::simulated(&["--ssl-certfile", &certificate, "--ssl-keyfile", &key], &[]);
        assert!(server.address.starts_with("https://127.0.0.1:"));
        let stream = certificates.connect(&server, version, false).await.unwrap();
        check(server, Client::over(stream, version).await.unwrap()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_serves_and_is_gone_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket");
    for version in [Version::One, Version::Two] {
        let server = ServerProcess::simulated(&["--uds", &path.to_string_lossy()], &[]);
        assert_eq!(server.address, format!("unix:{}", path.display()));
        let stream = UnixStream::connect(&path).await.unwrap();
        check(server, Client::over(stream, version).await.unwrap()).await;
        assert!(!path.exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_in_use_is_left_alone_and_one_left_over_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("socket").to_string_lossy().into_owned();
    let options = ["--uds", &path];
    let server = ServerProcess::simulated(&options, &[]);
    let refused = failed_start(&mut simulated(&options, &[]));
    assert_eq!(refused.status.code(), Some(2));
    assert!(refused.log.contains("in use") && refused.log.contains("--uds"), "{}", refused.log);
    UnixStream::connect(&path).await.expect("it still serves");
    server.signal(Signal::KILL);
    drop(server);
    assert!(Path::new(&path).exists(), "who is killed leaves it behind");
    let server = ServerProcess::simulated(&options, &[]);
    let mut client = Client::over(UnixStream::connect(&path).await.unwrap(), Version::One).await.unwrap();
    assert_eq!(client.post(&json!({"prompt": "Hi", "max_tokens": 1})).await.unwrap().status(), 200);
    assert!(server.stop().status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_asked_for_certificates_as_the_option_says() {
    let certificates = Certificates::generate();
    let (both, authority) = (certificates.file("both"), certificates.file("authority"));
    for (level, serves_without) in [("1", true), ("2", false)] {
        let options = ["--ssl-certfile", &both, "--ssl-ca-certs", &authority, "--ssl-cert-reqs", level];
        let server = ServerProcess::simulated(&options, &[]);
        for (has_certificate, is_served) in [(true, true), (false, serves_without)] {
            // With TLS 1.3, a client learns only after its handshake that its certificate is missed.
            let served = async {
                let stream = certificates.connect(&server, Version::One, has_certificate).await?;
                let mut client = Client::over(stream, Version::One).await.map_err(std::io::Error::other)?;
                let answer = client.post(&json!({"prompt": "Hi", "max_tokens": 1})).await;
                answer.map(|answer| answer.status().as_u16()).map_err(std::io::Error::other)
            };
            assert_eq!(served.await.ok(), is_served.then_some(200), "{level} {has_certificate}");
        }
    }
}

/// Plain text sent to a TLS port, and the other way round, is an error of that client and nobody else's.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_speaks_something_else_harms_nobody() {
    let certificates = Certificates::generate();
    let both = certificates.file("both");
    let encrypted = ServerProcess::simulated(&["--ssl-certfile", &both], &[]);
    let stream = TcpStream::connect(encrypted.socket_address()).await.unwrap();
    let mut client = Client::over(stream, Version::One).await.unwrap();
    assert!(client.post(&json!({})).await.is_err());
    let stream = certificates.connect(&encrypted, Version::Two, false).await.unwrap();
    let mut client = Client::over(stream, Version::Two).await.unwrap();
    assert_eq!(client.post(&json!({"prompt": "Hi", "max_tokens": 1})).await.unwrap().status(), 200);

    let plain = ServerProcess::simulated(&[], &[]);
    let error = certificates.connect(&plain, Version::One, false).await.err().unwrap();
    assert!([ErrorKind::InvalidData, ErrorKind::UnexpectedEof].contains(&error.kind()), "{error:?}");
    let stream = TcpStream::connect(plain.socket_address()).await.unwrap();
    let mut client = Client::over(stream, Version::One).await.unwrap();
    assert_eq!(client.post(&json!({"prompt": "Hi", "max_tokens": 1})).await.unwrap().status(), 200);
}

#[test]
fn what_is_wrong_with_certificates_is_said_with_option_and_file() {
    let certificates = Certificates::generate();
    let other_key = TestAuthority::generate().server_key_pem();
    fs::write(certificates.file("other-key"), other_key).unwrap();
    fs::write(certificates.file("empty"), "").unwrap();
    fs::write(certificates.file("broken"), "-----BEGIN CERTIFICATE-----\nno\n-----END CERTIFICATE-----\n")
        .unwrap();
    let (certificate, key) = ("--ssl-certfile", "--ssl-keyfile");
    let (authorities, wanted) = ("--ssl-ca-certs", "--ssl-cert-reqs");
    for (options, words) in [
        (&[(certificate, "certificate"), (key, "missing")][..], &[key, "missing", "No such file"][..]),
        (&[(certificate, "missing"), (key, "key")], &[certificate, "missing"]),
        (&[(certificate, "empty"), (key, "key")], &[certificate, "no certificate"]),
        (&[(certificate, "broken"), (key, "key")], &[certificate, "broken"]),
        (&[(certificate, "certificate"), (key, "empty")], &[key, "no private key"]),
        (&[(certificate, "certificate")], &[certificate, "no private key"]),
        (&[(certificate, "certificate"), (key, "other-key")], &["other-key", "does not go with"]),
        (&[(key, "key")], &[key, certificate]),
        (&[(certificate, "both"), (authorities, "authority")], &[authorities, wanted]),
        (&[(certificate, "both"), (authorities, "empty"), (wanted, "2")], &[authorities, "no certificate"]),
        (&[(certificate, "both"), (wanted, "2")], &[wanted, authorities]),
        (&[(wanted, "1")], &[wanted, certificate]),
    ] {
        let options: Vec<String> = options
            .iter()
            .flat_map(|(option, value)| {
                let is_file = *option != wanted;
                let value = if is_file { certificates.file(value) } else { (*value).to_owned() };
                [(*option).to_owned(), value]
            })
            .collect();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let ended = failed_start(&mut simulated(&options, &[]));
        assert_eq!(ended.status.code(), Some(2), "{options:?}: {}", ended.log);
        for word in words {
            assert!(ended.log.contains(word), "{options:?}: {word:?} is not in {}", ended.log);
        }
    }
}
