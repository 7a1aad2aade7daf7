//! How HTTP reaches the router: sockets, TLS, the accept loop, and what browsers may do.

mod connection;
mod cors;
mod listener;
mod server;
mod tls;
mod unix_socket;

pub(crate) use self::cors::cors_layer;
pub(crate) use self::listener::{Address, Listener};
pub(crate) use self::server::{ConnectionLimits, HttpServer};
pub(crate) use self::tls::tls_acceptor;
