//! Where connections come from: a TCP port or a Unix socket.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use socket2::Socket as Socket2;
use tokio::net::{TcpListener, TcpSocket, UnixListener};

use super::connection::Socket;
use super::unix_socket::{self, SocketFile};

/// Connections that the system holds while the server is busy accepting.
const LISTEN_BACKLOG: u32 = 1024;

/// A place to listen at, where nobody can connect yet.
#[derive(Debug)]
pub(crate) enum Address {
    Tcp {
        socket: TcpSocket,
        option: &'static str,
    },
    Unix(PathBuf),
    /// Bound by whoever started the program.
    Given(Socket2),
}

impl Address {
    /// Takes a port. `option` is what it was chosen with, for messages.
    ///
    /// # Errors
    /// When it cannot be had.
    pub(crate) fn tcp(address: SocketAddr, option: &'static str) -> Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.context("cannot make a socket")?;
        // A port whose last connections still linger is free to us; one that somebody listens on is not.
        socket.set_reuseaddr(true)?;
        socket.bind(address).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => anyhow!(in_use(address.port(), option)),
            _ => anyhow!(error).context(format!("cannot listen on {address}")),
        })?;
        Ok(Self::Tcp { socket, option })
    }

    /// Looks whether a path can become a socket. It is made when listening begins: one that exists before is taken
    /// for one that somebody listens on, or left over.
    ///
    /// # Errors
    /// When it cannot.
    pub(crate) fn unix(path: PathBuf) -> Result<Self> {
        unix_socket::check(&path)?;
        Ok(Self::Unix(path))
    }

    /// Takes a socket that somebody else has bound.
    ///
    /// # Errors
    /// When it is not one of those that clients can connect to.
    pub(crate) fn given(socket: Socket2) -> Result<Self> {
        let address = socket.local_addr().context("the socket for clients has no address")?;
        if !(address.is_ipv4() || address.is_ipv6() || address.is_unix()) {
            bail!("the socket for clients is of an unknown kind, {:?}", address.domain());
        }
        Ok(Self::Given(socket))
    }

    /// From now on clients can connect.
    ///
    /// # Errors
    /// When somebody else was faster.
    pub(crate) fn listen(self) -> Result<Listener> {
        match self {
            Self::Tcp { socket, option } => {
                let port = socket.local_addr()?.port();
                let listener = socket.listen(LISTEN_BACKLOG).with_context(|| in_use(port, option))?;
                Ok(Listener::Tcp(listener))
            }
            Self::Unix(path) => {
                let (listener, file) = unix_socket::listen(&path, LISTEN_BACKLOG)?;
                Ok(Listener::Unix { listener, _file: Some(file) })
            }
            Self::Given(socket) => {
                let cannot = "cannot listen on the socket that was handed over";
                socket.listen(LISTEN_BACKLOG as i32).context(cannot)?;
                socket.set_nonblocking(true).context(cannot)?;
                if socket.local_addr()?.is_unix() {
                    // Its file is its maker's to remove.
                    return Ok(Listener::Unix {
                        listener: UnixListener::from_std(socket.into())?,
                        _file: None,
                    });
                }
                Ok(Listener::Tcp(TcpListener::from_std(socket.into())?))
            }
        }
    }
}

fn in_use(port: u16, option: &str) -> String {
    format!("port {port} is in use; stop what listens there, or choose another with {option}")
}

/// Takes connections. A Unix socket is gone from the file system once this is dropped.
#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    /// Dropped in this order, so that the file is that of a socket nobody listens on.
    Unix {
        listener: UnixListener,
        _file: Option<SocketFile>,
    },
}

impl Listener {
    /// The next connection. Says and waits when there is no file descriptor left.
    pub(super) async fn accept(&mut self) -> Socket {
        match self {
            Self::Tcp(listener) => {
                let (connection, _) = axum::serve::Listener::accept(listener).await;
                // Small chunks leave at once: a token that waits for the next one is latency.
                if let Err(error) = connection.set_nodelay(true) {
                    tracing::debug!(%error, "cannot turn off Nagle's algorithm");
                }
                Socket::Left(connection)
            }
            Self::Unix { listener, .. } => Socket::Right(axum::serve::Listener::accept(listener).await.0),
        }
    }

    /// Whether only programs of this machine reach it.
    pub(crate) fn is_local(&self) -> bool {
        match self {
            Self::Tcp(listener) => listener.local_addr().is_ok_and(|address| address.ip().is_loopback()),
            Self::Unix { .. } => true,
        }
    }

    /// Where clients find it: a URL, or `unix:PATH`.
    ///
    /// # Errors
    /// When the system does not say.
    pub(crate) fn url(&self, is_encrypted: bool) -> Result<String> {
        let scheme = if is_encrypted { "https" } else { "http" };
        match self {
            Self::Tcp(listener) => {
                let mut address = listener.local_addr()?;
                if address.ip().is_unspecified() {
                    let loopback = if address.is_ipv4() { [127, 0, 0, 1].into() } else { "::1".parse()? };
                    address.set_ip(loopback);
                }
                Ok(format!("{scheme}://{address}"))
            }
            Self::Unix { listener, .. } => {
                let address = listener.local_addr()?;
                let path = address.as_pathname().map_or_else(|| "(unnamed)".into(), Path::to_string_lossy);
                Ok(format!("unix:{path}"))
            }
        }
    }
}
