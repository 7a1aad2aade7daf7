//! The sockets of the front: engine cores connect, the front binds.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs as _, UdpSocket};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use bytes::Bytes;
use socket2::{SockRef, TcpKeepalive};
use zeromq::{Listener, PullSocket, RouterSocket, Socket as _, ZmqMessage};

/// After a minute of silence of a connection the other host is asked whether it is still there, and after half a minute
/// without an answer it is not.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_TRIES: u32 = 3;

/// Where engine cores say hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineAddress {
    /// `tcp://HOST:PORT`.
    Tcp {
        /// A name or an address of this host, or an address that stands for all of them.
        host: String,
        /// 0 takes a free one.
        port: u16,
    },
    /// `ipc://PATH`: Unix sockets. Requests are taken at `PATH.requests`, outputs of rank R at `PATH.outputs-R`.
    Ipc {
        /// That of the handshake, absolute.
        path: String,
    },
}

impl EngineAddress {
    /// Reads `tcp://HOST:PORT` or `ipc://PATH`.
    ///
    /// # Errors
    /// With what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not of the form tcp://HOST:PORT or ipc:///PATH");
        if let Some(path) = text.strip_prefix("ipc://") {
            // An engine need not have our working directory.
            let is_path = path.starts_with('/') && !path.ends_with('/');
            return if is_path { Ok(Self::Ipc { path: path.to_owned() }) } else { Err(wrong()) };
        }
        let (host, port) =
            text.strip_prefix("tcp://").and_then(|rest| rest.rsplit_once(':')).ok_or_else(wrong)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host = if host == "*" { "0.0.0.0" } else { host };
        let port = port.parse().map_err(|_| wrong())?;
        if host.is_empty() { Err(wrong()) } else { Ok(Self::Tcp { host: host.to_owned(), port }) }
    }
}

/// A socket that somebody else has bound for engine cores to connect to.
#[derive(Debug)]
pub enum EngineListener {
    /// On any host.
    Tcp(TcpListener),
    /// On this host.
    Unix(UnixListener),
}

impl From<EngineListener> for Listener {
    fn from(listener: EngineListener) -> Self {
        match listener {
            EngineListener::Tcp(listener) => listener.into(),
            EngineListener::Unix(listener) => listener.into(),
        }
    }
}

/// The listeners of a front whose engine cores have been told by somebody else where to connect to.
#[derive(Debug)]
pub struct GivenListeners {
    /// Where they take requests from.
    pub requests: EngineListener,
    /// Where they bring outputs to, all of them.
    pub outputs: EngineListener,
}

/// Why a socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The name has no address.
    #[error("the host of the engine address {host:?} cannot be resolved")]
    Unknown {
        /// The name.
        host: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// Somebody has it.
    #[error("port {port} of {host} is in use; engines need this one and those behind it: {purpose}")]
    InUse {
        /// The host.
        host: String,
        /// The port.
        port: u32,
        /// What for.
        purpose: &'static str,
    },
    /// The operating system refuses.
    #[error("port {port} of {host} cannot be listened on ({purpose})")]
    Refused {
        /// The host.
        host: String,
        /// The port.
        port: u32,
        /// What for.
        purpose: &'static str,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// Somebody has the file.
    #[error("{path} is in use; engines need it and those that begin with its name: {purpose}")]
    FileInUse {
        /// Which.
        path: String,
        /// What for.
        purpose: &'static str,
    },
    /// The operating system refuses.
    #[error("a Unix socket cannot be made at {path} ({purpose})")]
    FileRefused {
        /// Where.
        path: String,
        /// What for.
        purpose: &'static str,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// It listens on all addresses and does not know which of them engines can reach.
    #[error(
        "engines cannot be told to connect to {host}; name an address of this host in --engine-address, or the one \
         that engines reach it by in --engine-advertise-host"
    )]
    NothingToAdvertise {
        /// The host.
        host: String,
    },
    /// The socket library refuses.
    #[error("the sockets cannot be set up")]
    Library(#[from] zeromq::ZmqError),
}

/// The ranks that engine cores have: so many, from one on. Wherever a rank is a place in a list, it is counted from 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ranks {
    pub(crate) first: u16,
    pub(crate) count: u16,
}

impl Ranks {
    /// The name on the wire of the one at this place.
    pub(crate) fn identity(self, place: u16) -> Bytes {
        Bytes::copy_from_slice(&self.number(place).to_le_bytes())
    }

    /// What vLLM calls the one at this place.
    pub(crate) fn number(self, place: u16) -> u16 {
        self.first.saturating_add(place)
    }

    /// The place of the one that has this name.
    pub(crate) fn place_of(self, identity: &[u8]) -> Option<u16> {
        self.place(u16::from_le_bytes(identity.try_into().ok()?).into())
    }

    /// The place of the one that vLLM calls so.
    pub(crate) fn place(self, number: u32) -> Option<u16> {
        let place = u16::try_from(number.checked_sub(self.first.into())?).ok()?;
        (place < self.count).then_some(place)
    }
}

/// All sockets of the front.
pub(crate) struct Sockets {
    /// Absent where somebody else answers to engine cores that say hello.
    pub(crate) door: Option<Door>,
    pub(crate) input: RouterSocket,
    pub(crate) outputs: Outputs,
}

/// Where engine cores say hello, and what they are told then.
pub(crate) struct Door {
    pub(crate) handshake: RouterSocket,
    /// Its port, or 0 of a Unix socket.
    pub(crate) port: u16,
    /// Where that is, for people.
    pub(crate) place: String,
    /// Where they take requests from.
    pub(crate) input_address: String,
    /// Where each rank brings its outputs to.
    pub(crate) output_addresses: Vec<String>,
}

/// Where outputs come in.
pub(crate) enum Outputs {
    /// A socket for each rank, so that it is known whose words are heard: messages do not say it when they are malformed,
    /// nor when they announce a death.
    OfEach(Vec<PullSocket>),
    OfAll(PullSocket),
}

impl Sockets {
    /// Binds the handshake at `address`, requests at the port behind it, and the outputs of each rank at those behind.
    /// Port 0 takes free ones for all.
    pub(crate) async fn bind(
        address: &EngineAddress,
        advertise_host: Option<&str>,
        ranks: u16,
    ) -> Result<Self, BindError> {
        let bound = Binder::new(address, advertise_host)?;
        let (listener, place, port) = bound.listen(Purpose::Handshake)?;
        let mut handshake = RouterSocket::new();
        handshake.bind_listener(listener).await?;
        let (listener, input_address, _) = bound.listen(Purpose::Requests)?;
        let mut input = RouterSocket::new();
        input.bind_listener(listener).await?;
        let (mut outputs, mut output_addresses) = (Vec::new(), Vec::new());
        for rank in 0..ranks {
            let (listener, output_address, _) = bound.listen(Purpose::Outputs(rank))?;
            let mut socket = PullSocket::new();
            socket.bind_listener(listener).await?;
            outputs.push(socket);
            output_addresses.push(output_address);
        }
        let door = Some(Door { handshake, port, place, input_address, output_addresses });
        Ok(Self { door, input, outputs: Outputs::OfEach(outputs) })
    }

    /// Takes over listeners that are bound.
    pub(crate) async fn adopt(listeners: GivenListeners) -> Result<Self, BindError> {
        let mut input = RouterSocket::new();
        input.bind_listener(listeners.requests).await?;
        let mut outputs = PullSocket::new();
        outputs.bind_listener(listeners.outputs).await?;
        Ok(Self { door: None, input, outputs: Outputs::OfAll(outputs) })
    }
}

/// What engine cores connect to a socket for.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    Handshake,
    Requests,
    Outputs(u16),
}

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Purpose::Handshake => "the handshake",
            Purpose::Requests => "requests",
            Purpose::Outputs(_) => "outputs",
        }
    }

    /// How far its port is behind that of the handshake.
    fn offset(self) -> u32 {
        match self {
            Purpose::Handshake => 0,
            Purpose::Requests => 1,
            Purpose::Outputs(rank) => 2 + u32::from(rank),
        }
    }

    fn path(self, handshake: &str) -> String {
        match self {
            Purpose::Handshake => handshake.to_owned(),
            Purpose::Requests => format!("{handshake}.requests"),
            Purpose::Outputs(rank) => format!("{handshake}.outputs-{rank}"),
        }
    }
}

/// Where sockets are bound, and by what engine cores reach them.
enum Binder<'a> {
    Ports { host: &'a str, port: u16, reachable: &'a str },
    Files { path: &'a str },
}

impl<'a> Binder<'a> {
    fn new(address: &'a EngineAddress, advertise_host: Option<&'a str>) -> Result<Self, BindError> {
        let (host, port) = match address {
            EngineAddress::Tcp { host, port } => (host, *port),
            EngineAddress::Ipc { path } => return Ok(Self::Files { path }),
        };
        let is_unspecified = host.parse().is_ok_and(|address: IpAddr| address.is_unspecified());
        let reachable = match advertise_host {
            Some(host) => host,
            None if is_unspecified => return Err(BindError::NothingToAdvertise { host: host.clone() }),
            None => host,
        };
        Ok(Self::Ports { host, port, reachable })
    }

    /// A listener, its address for engine cores, and its port, if it has one.
    fn listen(&self, purpose: Purpose) -> Result<(EngineListener, String, u16), BindError> {
        match *self {
            Self::Ports { host, port, reachable } => {
                let port = if port == 0 { 0 } else { u32::from(port) + purpose.offset() };
                let (listener, port) = listen_at_port(host, port, purpose.name())?;
                let host =
                    if reachable.contains(':') { format!("[{reachable}]") } else { reachable.to_owned() };
                Ok((EngineListener::Tcp(listener), format!("tcp://{host}:{port}"), port))
            }
            Self::Files { path } => {
                let path = purpose.path(path);
                let listener = listen_at_file(&path, purpose.name())?;
                Ok((EngineListener::Unix(listener), format!("ipc://{path}"), 0))
            }
        }
    }
}

/// Listens on a port, or on a free one where that is 0. Says which.
fn listen_at_port(host: &str, port: u32, purpose: &'static str) -> Result<(TcpListener, u16), BindError> {
    let refused = |cause: io::Error| match cause.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { host: host.to_owned(), port, purpose },
        _ => BindError::Refused { host: host.to_owned(), port, purpose, cause },
    };
    let short_port = u16::try_from(port).map_err(|_| refused(io::Error::other("there is no such port")))?;
    let addresses = (host, short_port).to_socket_addrs();
    let addresses = addresses.map_err(|cause| BindError::Unknown { host: host.to_owned(), cause })?;
    let listener = TcpListener::bind(&*addresses.collect::<Vec<SocketAddr>>()).map_err(refused)?;
    // Connections inherit it. A system that does not have it notices dead hosts later.
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_TRIES);
    let _ = SockRef::from(&listener).set_tcp_keepalive(&keepalive);
    let bound = listener.local_addr().map_err(refused)?.port();
    Ok((listener, bound))
}

/// Makes a Unix socket, in place of one that a front before has left.
fn listen_at_file(path: &str, purpose: &'static str) -> Result<UnixListener, BindError> {
    let refused = |cause| BindError::FileRefused { path: path.to_owned(), purpose, cause };
    match UnixListener::bind(path) {
        Err(cause) if cause.kind() == io::ErrorKind::AddrInUse => {}
        other => return other.map_err(refused),
    }
    // Nobody answers at one that was left; a file that is no socket is not ours to remove.
    let is_left = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
        && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if !is_left {
        return Err(BindError::FileInUse { path: path.to_owned(), purpose });
    }
    fs::remove_file(path).and_then(|()| UnixListener::bind(path)).map_err(refused)
}

/// Whether whoever has this address runs on this host, and with its clock.
pub(crate) fn is_this_host(address: IpAddr) -> bool {
    // Only an address of this host can be bound; nothing is sent.
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

/// A message of these frames.
pub(crate) fn message<const N: usize>(frames: [Bytes; N]) -> ZmqMessage {
    ZmqMessage::try_from(Vec::from(frames)).expect("it has frames")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let tcp = |host: &str, port| Ok(EngineAddress::Tcp { host: host.to_owned(), port });
        assert_eq!(EngineAddress::parse("tcp://127.0.0.1:29550"), tcp("127.0.0.1", 29550));
        assert_eq!(EngineAddress::parse("tcp://[::1]:5"), tcp("::1", 5));
        assert_eq!(EngineAddress::parse("tcp://*:5"), tcp("0.0.0.0", 5));
        let path = "/run/wayfare/engines".to_owned();
        assert_eq!(EngineAddress::parse("ipc:///run/wayfare/engines"), Ok(EngineAddress::Ipc { path }));
        for wrong in [
            "",
            "127.0.0.1:5",
            "tcp://host",
            "tcp://:5",
            "tcp://host:port",
            "tcp://host:70000",
            "ipc://",
            "ipc://engines",
            "ipc:///run/",
        ] {
            let error = EngineAddress::parse(wrong).unwrap_err();
            assert!(error.contains("tcp://HOST:PORT") && error.contains("ipc:///PATH"), "{error}");
        }
    }

    #[test]
    fn a_socket_that_was_left_is_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("engines");
        let path = path.to_str().unwrap();
        drop(listen_at_file(path, "requests").unwrap());
        let listener = listen_at_file(path, "requests").unwrap();
        assert!(matches!(listen_at_file(path, "requests"), Err(BindError::FileInUse { .. })));
        drop(listener);
        fs::remove_file(path).unwrap();
        fs::write(path, "letters").unwrap();
        assert!(matches!(listen_at_file(path, "requests"), Err(BindError::FileInUse { .. })));
        assert_eq!(fs::read_to_string(path).unwrap(), "letters");
        let nowhere = folder.path().join("missing/engines");
        let refused = listen_at_file(nowhere.to_str().unwrap(), "requests");
        assert!(matches!(refused, Err(BindError::FileRefused { .. })));
        let too_long = format!("{path}{}", "x".repeat(200));
        assert!(matches!(listen_at_file(&too_long, "requests"), Err(BindError::FileRefused { .. })));
    }

    #[test]
    fn a_loopback_address_is_this_host_and_a_foreign_one_is_not() {
        assert!(is_this_host("127.0.0.1".parse().unwrap()));
        // Reserved for documentation.
        assert!(!is_this_host("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn ranks_are_named_by_two_bytes_with_the_low_one_first() {
        let ranks = Ranks { first: 0x0102, count: 2 };
        assert_eq!((&*ranks.identity(0), &*ranks.identity(1)), (&[2, 1][..], &[3, 1][..]));
        assert_eq!((ranks.place_of(&[2, 1]), ranks.place_of(&[3, 1])), (Some(0), Some(1)));
        for stranger in [&[1, 1][..], &[4, 1], &[1], &[]] {
            assert_eq!(ranks.place_of(stranger), None, "{stranger:?}");
        }
    }
}
