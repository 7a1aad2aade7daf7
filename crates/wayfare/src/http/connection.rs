//! One connection as a server of short events wants it, whatever it runs over.
//!
//! HOT PATH: written to for each token.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

/// What was accepted.
pub(super) type Socket = Either<TcpStream, UnixStream>;

/// The same, or TLS over it.
type Transport = Either<Socket, Box<TlsStream<Socket>>>;

/// What a client says first that speaks HTTP/2. Source: RFC 9113, section 3.4.
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// A connection that asks for each write in one piece. hyper would give an event, its length and its end to the
/// system as three; a copy of two hundred bytes costs less than what the system does with a list.
pub(super) struct Connection {
    transport: Transport,
    /// What was read to learn the protocol.
    first: [u8; HTTP2_PREFACE.len()],
    /// Which part of that has not been read again.
    unread: std::ops::Range<usize>,
}

impl Connection {
    /// Agrees on TLS where there is any, and waits for the first bytes to learn what the client speaks.
    ///
    /// # Errors
    /// When the handshake fails or the connection breaks; the end of the connection is not an error.
    pub(super) async fn open(socket: Socket, tls: Option<&TlsAcceptor>) -> io::Result<(Self, Protocol)> {
        let transport = match tls {
            None => Transport::Left(socket),
            Some(acceptor) => Transport::Right(Box::new(acceptor.accept(socket).await?)),
        };
        let mut connection = Self { transport, first: [0; HTTP2_PREFACE.len()], unread: 0..0 };
        let protocol = connection.read_protocol().await?;
        Ok((connection, protocol))
    }

    /// Reads as long as it might be HTTP/2's preface.
    async fn read_protocol(&mut self) -> io::Result<Protocol> {
        while self.unread.end < HTTP2_PREFACE.len() {
            let read = self.transport.read(&mut self.first[self.unread.end..]).await?;
            self.unread.end += read;
            let so_far = &self.first[..self.unread.end];
            if read == 0 || !HTTP2_PREFACE.starts_with(so_far) {
                return Ok(Protocol::Http1);
            }
        }
        Ok(Protocol::Http2)
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unread.is_empty() {
            return Pin::new(&mut self.transport).poll_read(cx, buffer);
        }
        let count = self.unread.len().min(buffer.remaining());
        let start = self.unread.start;
        buffer.put_slice(&self.first[start..start + count]);
        self.unread.start += count;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.transport).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// What is learnt from these bytes, and what can be read afterwards.
    async fn opened(bytes: &[u8]) -> (Protocol, Vec<u8>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(bytes).await.unwrap();
        drop(theirs);
        let (mut connection, protocol) = Connection::open(Socket::Right(ours), None).await.unwrap();
        let mut read = Vec::new();
        connection.read_to_end(&mut read).await.unwrap();
        (protocol, read)
    }

    #[tokio::test]
    async fn the_first_bytes_tell_the_protocol_and_are_read_again() {
        let two = [HTTP2_PREFACE, &b"frames"[..]].concat();
        assert_eq!(opened(&two).await, (Protocol::Http2, two));
        for one in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PRI * HTTP/1.1\r\n\r\n", b"PRI *", b"P", b""] {
            assert_eq!(opened(one).await, (Protocol::Http1, one.to_vec()));
        }
    }
}
