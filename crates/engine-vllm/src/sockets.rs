//! The sockets of the front: engine cores connect, the front binds.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs as _, UdpSocket};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use bytes::Bytes;
use socket2::{SockRef, TcpKeepalive};
use zeromq::{Listener, PullSocket, RouterSocket, Socket as _, ZmqMessage};

/// After a minute of silence of a connection the other host is asked whether it is still there, and after half a minute
/// without an answer it is not.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(60);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(10);
const KEEPALIVE_TRIES: u32 = 3;

/// Where engine cores say hello: `tcp://HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineAddress {
    /// A name or an address of this host, or an address that stands for all of them.
    pub host: String,
    /// 0 takes a free one.
    pub port: u16,
}

impl EngineAddress {
    /// Reads `tcp://HOST:PORT`.
    ///
    /// # Errors
    /// With what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not of the form tcp://HOST:PORT");
        let (host, port) =
            text.strip_prefix("tcp://").and_then(|rest| rest.rsplit_once(':')).ok_or_else(wrong)?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let host = if host == "*" { "0.0.0.0" } else { host };
        let port = port.parse().map_err(|_| wrong())?;
        if host.is_empty() { Err(wrong()) } else { Ok(Self { host: host.to_owned(), port }) }
    }

    fn is_unspecified(&self) -> bool {
        self.host.parse().is_ok_and(|address: IpAddr| address.is_unspecified())
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
    pub(crate) port: u16,
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
        let reachable = match advertise_host {
            Some(host) => host,
            None if address.is_unspecified() => {
                return Err(BindError::NothingToAdvertise { host: address.host.clone() });
            }
            None => &address.host,
        };
        let advertised = |port: u16| {
            if reachable.contains(':') {
                format!("tcp://[{reachable}]:{port}")
            } else {
                format!("tcp://{reachable}:{port}")
            }
        };
        let (listener, handshake_port) = listen(address, 0, "the handshake")?;
        let mut handshake = RouterSocket::new();
        handshake.bind_listener(listener).await?;
        let (listener, port) = listen(address, 1, "requests")?;
        let mut input = RouterSocket::new();
        input.bind_listener(listener).await?;
        let input_address = advertised(port);
        let (mut outputs, mut output_addresses) = (Vec::new(), Vec::new());
        for rank in 0..ranks {
            let (listener, port) = listen(address, 2 + u32::from(rank), "outputs")?;
            let mut socket = PullSocket::new();
            socket.bind_listener(listener).await?;
            outputs.push(socket);
            output_addresses.push(advertised(port));
        }
        let door = Some(Door { handshake, port: handshake_port, input_address, output_addresses });
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

/// Listens on the port `offset` behind that of the address, or on a free one where that is 0.
fn listen(
    address: &EngineAddress,
    offset: u32,
    purpose: &'static str,
) -> Result<(TcpListener, u16), BindError> {
    let EngineAddress { host, port } = address;
    let port = if *port == 0 { 0 } else { u32::from(*port) + offset };
    let refused = |cause: io::Error| match cause.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { host: host.clone(), port, purpose },
        _ => BindError::Refused { host: host.clone(), port, purpose, cause },
    };
    let short_port = u16::try_from(port).map_err(|_| refused(io::Error::other("there is no such port")))?;
    let addresses = (host.as_str(), short_port).to_socket_addrs();
    let addresses = addresses.map_err(|cause| BindError::Unknown { host: host.clone(), cause })?;
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
        let parsed = |text| EngineAddress::parse(text).map(|address| (address.host, address.port));
        assert_eq!(parsed("tcp://127.0.0.1:29550"), Ok(("127.0.0.1".into(), 29550)));
        assert_eq!(parsed("tcp://[::1]:5"), Ok(("::1".into(), 5)));
        assert_eq!(parsed("tcp://*:5"), Ok(("0.0.0.0".into(), 5)));
        for wrong in
            ["", "127.0.0.1:5", "tcp://host", "tcp://:5", "tcp://host:port", "tcp://host:70000", "ipc:///a"]
        {
            let error = parsed(wrong).unwrap_err();
            assert!(error.contains("tcp://HOST:PORT"), "{error}");
        }
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
