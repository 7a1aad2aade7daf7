//! Engine cores that come: at the start, and again when one has taken the place of one that was lost.

use std::net::IpAddr;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tracing::{debug, info, warn};
use zeromq::{Endpoint, Host, RouterRecvHalf, SocketEvent, SocketRecv as _, SocketSend as _, ZmqMessage};

use crate::sockets::{Door, Ranks, is_this_host, message};
use crate::startup::{AttachError, ReadyRank};
use crate::wire::{Greeting, GreetingStatus, Layout, ReadyMessage, encode_init};

/// The places of the ranks, and who is on the way to them.
pub(crate) struct Reception {
    ranks: Ranks,
    allow_untested: bool,
    door: Option<Door>,
    input: RouterRecvHalf,
    events: BoxStream<'static, SocketEvent>,
    progress: Vec<Progress>,
    connections: u64,
}

/// How far a rank is.
#[derive(Debug, Default)]
struct Progress {
    said_hello: bool,
    ready: Option<ReadyRank>,
    said_ready: bool,
    config_hash: Option<String>,
    /// The number of its connection for requests, and whether that is from this host.
    connection: Option<(u64, bool)>,
}

impl Progress {
    /// As far as one is that says hello again on the connection it has.
    fn anew(&self) -> Self {
        Self { connection: self.connection, ..Self::default() }
    }
}

/// What was heard. Nothing is lost when waiting for it is given up.
pub(crate) enum Heard {
    Event(SocketEvent),
    Greeting(ZmqMessage),
    Registration(ZmqMessage),
    /// A connection with a problem.
    Noise,
}

/// What follows from what was heard.
#[derive(Debug)]
pub(crate) enum Noticed {
    Nothing,
    /// A rank is ready.
    Ready(u16),
    /// A connection for requests has ended.
    Gone {
        rank: u16,
        connection: u64,
    },
}

impl Reception {
    pub(crate) fn new(
        ranks: Ranks,
        allow_untested: bool,
        door: Option<Door>,
        input: RouterRecvHalf,
        events: BoxStream<'static, SocketEvent>,
    ) -> Self {
        let progress = (0..ranks.count).map(|_| Progress::default()).collect();
        Self { ranks, allow_untested, door, input, events, progress, connections: 0 }
    }

    /// From now on nobody is answered who says hello.
    pub(crate) fn close_door(&mut self) {
        self.door = None;
    }

    /// Waits for the next thing that is said or happens.
    pub(crate) async fn hear(&mut self) -> Heard {
        let greeting = async {
            match &mut self.door {
                Some(door) => door.handshake.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // First, because it says who somebody is that is heard right after.
            biased;
            Some(event) = self.events.next() => Heard::Event(event),
            greeting = greeting => greeting.map_or(Heard::Noise, Heard::Greeting),
            registration = self.input.recv() => registration.map_or(Heard::Noise, Heard::Registration),
        }
    }

    /// Answers it, and remembers how far the rank is.
    ///
    /// # Errors
    /// When an engine core is not one that can be served from.
    pub(crate) async fn handle(&mut self, heard: Heard) -> Result<Noticed, AttachError> {
        match heard {
            Heard::Event(event) => Ok(self.happened(event)),
            Heard::Greeting(greeting) => self.greeted(&greeting).await,
            Heard::Registration(registration) => self.registered(&registration),
            Heard::Noise => Ok(Noticed::Nothing),
        }
    }

    /// Whether all are ready.
    pub(crate) fn is_complete(&self) -> bool {
        (0..self.ranks.count).all(|rank| self.is_ready(rank))
    }

    /// Takes what a rank that is ready has said of itself. It may come again.
    pub(crate) fn take(&mut self, rank: u16) -> Option<ReadyRank> {
        let progress = &mut self.progress[usize::from(rank)];
        let anew = progress.anew();
        std::mem::replace(progress, anew).ready
    }

    /// Whom is waited for, in words.
    pub(crate) fn missing(&self) -> String {
        let state = |rank: u16| {
            let state = match &self.progress[usize::from(rank)] {
                _ if self.is_ready(rank) => return None,
                Progress { ready: Some(_), .. } => "has not said that it is ready",
                Progress { said_hello: true, .. } => "loads its model",
                _ if self.door.is_none() => "loads its model",
                _ => "has not said hello",
            };
            Some(format!("engine {} {state}", self.ranks.number(rank)))
        };
        (0..self.ranks.count).filter_map(state).collect::<Vec<_>>().join(", ")
    }

    /// All ranks must have been started alike.
    ///
    /// # Errors
    /// When they were not.
    pub(crate) fn compare(&self) -> Result<(), AttachError> {
        let hashes = (0..self.ranks.count).zip(&self.progress);
        let mut hashes = hashes.filter_map(|(rank, progress)| Some((rank, progress.config_hash.as_ref()?)));
        let Some((first, expected)) = hashes.next() else { return Ok(()) };
        match hashes.find(|(_, hash)| *hash != expected) {
            Some((other, _)) => Err(AttachError::Different {
                first: self.ranks.number(first),
                other: self.ranks.number(other),
            }),
            None => Ok(()),
        }
    }

    fn is_ready(&self, rank: u16) -> bool {
        let progress = &self.progress[usize::from(rank)];
        progress.ready.is_some() && (progress.said_ready || self.door.is_none())
    }

    fn noticed(&self, rank: u16) -> Noticed {
        if self.is_ready(rank) { Noticed::Ready(rank) } else { Noticed::Nothing }
    }

    /// The rank of a message and its payload.
    fn parts<'m>(&self, message: &'m ZmqMessage) -> Option<(u16, &'m [u8])> {
        let (identity, payload) = (message.get(0)?, message.get(1)?);
        let rank = self.ranks.place_of(identity);
        if rank.is_none() {
            let Ranks { first, count } = self.ranks;
            warn!(
                "an engine with the name {identity:?} wants to connect, and {count} are expected, from {first} on; it \
                 is left alone"
            );
        }
        Some((rank?, payload))
    }

    fn happened(&mut self, event: SocketEvent) -> Noticed {
        match event {
            SocketEvent::Accepted(endpoint, peer) => {
                let Some(rank) = self.ranks.place_of(&peer) else { return Noticed::Nothing };
                self.connections += 1;
                let connection = (self.connections, is_of_this_host(&endpoint));
                self.progress[usize::from(rank)].connection = Some(connection);
                Noticed::Nothing
            }
            SocketEvent::Disconnected(peer) => {
                let Some(rank) = self.ranks.place_of(&peer) else { return Noticed::Nothing };
                let gone = std::mem::take(&mut self.progress[usize::from(rank)]);
                match gone.connection {
                    Some((connection, _)) => Noticed::Gone { rank, connection },
                    None => Noticed::Nothing,
                }
            }
            SocketEvent::AcceptFailed(error) => {
                debug!(%error, "a connection was not one of an engine");
                Noticed::Nothing
            }
            _ => Noticed::Nothing,
        }
    }

    async fn greeted(&mut self, greeting: &ZmqMessage) -> Result<Noticed, AttachError> {
        let Some((rank, payload)) = self.parts(greeting) else { return Ok(Noticed::Nothing) };
        let number = self.ranks.number(rank);
        let greeting =
            Greeting::read(payload).map_err(|cause| AttachError::Malformed { rank: number, cause })?;
        let progress = &mut self.progress[usize::from(rank)];
        match greeting.status {
            Some(GreetingStatus::Hello) => {
                info!("vLLM engine {number} is there and loads its model");
                *progress = Progress { said_hello: true, ..progress.anew() };
                if let Some(door) = &mut self.door {
                    let init = encode_init(&door.input_address, &door.output_addresses[usize::from(rank)]);
                    let answer = message([self.ranks.identity(rank), init.into()]);
                    // One that is gone already says hello again.
                    if let Err(error) = door.handshake.send(answer).await {
                        debug!(%error, rank = number, "the engine did not wait for an answer");
                    }
                }
            }
            Some(GreetingStatus::Ready) => {
                // The ready message is sent before, but on another connection.
                progress.config_hash = greeting.config_hash;
                progress.said_ready = true;
            }
            None => debug!(rank = number, "a greeting that says nothing"),
        }
        Ok(self.noticed(rank))
    }

    fn registered(&mut self, registration: &ZmqMessage) -> Result<Noticed, AttachError> {
        let Some((rank, payload)) = self.parts(registration) else { return Ok(Noticed::Nothing) };
        let number = self.ranks.number(rank);
        let ready =
            ReadyMessage::read(payload).map_err(|cause| AttachError::Malformed { rank: number, cause })?;
        let layout = Layout::of_version(ready.vllm_version.as_deref(), self.allow_untested)
            .map_err(|cause| AttachError::Version { rank: number, cause })?;
        for (field, value) in [
            ("max_model_len", ready.max_model_len),
            ("num_gpu_blocks", ready.num_gpu_blocks),
            ("block_size", ready.block_size),
        ] {
            if value.is_none_or(|value| value == 0) {
                return Err(AttachError::Silent { rank: number, field });
            }
        }
        let version = ready.vllm_version.as_deref().unwrap_or("of an unknown version");
        let progress = &mut self.progress[usize::from(rank)];
        let (connection, same_host) = progress.connection.unwrap_or_default();
        let place = if same_host { "on this host" } else { "on another host" };
        info!("vLLM engine {number} is ready: vLLM {version}, {place}");
        progress.ready = Some(ReadyRank { ready, layout, same_host, connection });
        Ok(self.noticed(rank))
    }
}

/// Whether whoever is at the other end runs on this host.
fn is_of_this_host(endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::Tcp(Host::Ipv4(address), _) => is_this_host(IpAddr::V4(*address)),
        Endpoint::Tcp(Host::Ipv6(address), _) => is_this_host(IpAddr::V6(*address).to_canonical()),
        Endpoint::Ipc(_) => true,
        _ => false,
    }
}
