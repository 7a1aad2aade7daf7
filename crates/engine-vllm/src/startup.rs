//! From bound sockets to engine cores that are ready.

use std::net::IpAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::BoxStream;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, info, warn};
use zeromq::{Endpoint, Host, Socket as _, SocketEvent, SocketRecv as _, SocketSend as _, ZmqMessage};

use crate::sockets::{
    BindError, EngineAddress, RankOutput, Sockets, identity, is_this_host, message, rank_of,
};
use crate::wire::{
    Greeting, GreetingStatus, Layout, ReadyMessage, UnsupportedVersion, WireError, encode_init,
};

/// How often it is said whom is still waited for.
const PROGRESS_EVERY: Duration = Duration::from_secs(15);
/// How often it is asked whether engines can still come.
const WATCH_EVERY: Duration = Duration::from_millis(200);

/// How engine cores are found and what is expected of them.
#[derive(Debug)]
pub struct AttachOptions {
    /// Where they say hello.
    pub address: EngineAddress,
    /// The host by which they reach this one, where that is not the host of the address.
    pub advertise_host: Option<String>,
    /// How many there are; at least one.
    pub engine_count: u16,
    /// How long all of them together may take.
    pub ready_timeout: Duration,
    /// Takes versions of vLLM that nobody has tried.
    pub allow_untested: bool,
}

/// Says why no engine will come any more, once that is so.
pub type Watch = Box<dyn FnMut() -> Option<String> + Send>;

/// Starts the engines, given the port at which they are to say hello; fails with what to tell the operator.
pub type Launch = Box<dyn FnOnce(u16) -> Result<Watch, String> + Send>;

/// Why there is no engine.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The sockets could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// It took too long.
    #[error(
        "after {seconds} s not all engines are ready: {missing}; engines connect to {address} when they are started \
         with --headless --data-parallel-address HOST --data-parallel-rpc-port PORT"
    )]
    Timeout {
        /// How long that was.
        seconds: u64,
        /// Who is missing.
        missing: String,
        /// The handshake's address.
        address: String,
    },
    /// Whoever should have come could not be started or has ended.
    #[error("{0}")]
    Gone(String),
    /// Its messages are not known.
    #[error("engine {rank}: {cause}")]
    Version {
        /// The rank.
        rank: u16,
        /// Which it is.
        cause: UnsupportedVersion,
    },
    /// It does not speak the protocol.
    #[error("what engine {rank} says at its start cannot be read; is it a vLLM of a known version?")]
    Malformed {
        /// The rank.
        rank: u16,
        /// What is wrong.
        #[source]
        cause: WireError,
    },
    /// It says nothing of something that has to be known.
    #[error("engine {rank} does not say its {field}")]
    Silent {
        /// The rank.
        rank: u16,
        /// What.
        field: &'static str,
    },
    /// Ranks differ where they must not.
    #[error(
        "engines {first} and {other} do not have the same settings; start all of them with the same options"
    )]
    Different {
        /// A rank.
        first: u16,
        /// Another one.
        other: u16,
    },
    /// The operating system gave no thread.
    #[error("the thread of the vLLM engine could not be started")]
    Thread(#[source] std::io::Error),
}

/// An engine core that is ready.
#[derive(Debug)]
pub(crate) struct ReadyRank {
    pub(crate) ready: ReadyMessage,
    pub(crate) layout: Layout,
    pub(crate) same_host: bool,
}

/// Engine cores that are ready, and the sockets by which they are reached.
pub(crate) struct Connected {
    pub(crate) ranks: Vec<ReadyRank>,
    pub(crate) input: zeromq::RouterSocket,
    pub(crate) input_events: BoxStream<'static, SocketEvent>,
    pub(crate) outputs: Vec<RankOutput>,
}

/// How far a rank is.
#[derive(Debug, Default)]
struct Progress {
    said_hello: bool,
    ready: Option<ReadyRank>,
    said_ready: bool,
    config_hash: Option<String>,
    peer: Option<IpAddr>,
}

impl Progress {
    fn is_through(&self) -> bool {
        self.said_ready && self.ready.is_some()
    }
}

struct Startup<'a> {
    options: &'a AttachOptions,
    sockets: Sockets,
    address: String,
    progress: Vec<Progress>,
}

/// Binds the sockets and waits until all engine cores are ready.
pub(crate) async fn connect(
    options: &AttachOptions,
    launch: Option<Launch>,
) -> Result<Connected, AttachError> {
    let ranks = options.engine_count.max(1);
    let mut sockets = Sockets::bind(&options.address, options.advertise_host.as_deref(), ranks).await?;
    let address = format!("tcp://{}:{}", options.address.host, sockets.handshake_port);
    info!("waiting for {ranks} vLLM engine{} at {address}", if ranks == 1 { "" } else { "s" });
    let mut input_events = sockets.input.monitor().boxed();
    let mut watch = match launch {
        Some(launch) => Some(launch(sockets.handshake_port).map_err(AttachError::Gone)?),
        None => None,
    };
    let progress = (0..ranks).map(|_| Progress::default()).collect();
    let mut startup = Startup { options, sockets, address, progress };
    let deadline = Instant::now() + options.ready_timeout;
    let mut say = tokio::time::interval_at(Instant::now() + PROGRESS_EVERY, PROGRESS_EVERY);
    let mut look = tokio::time::interval(WATCH_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !startup.progress.iter().all(Progress::is_through) {
        tokio::select! {
            // First, because it says who somebody is that is heard right after.
            biased;
            Some(event) = input_events.next() => startup.input_event(event),
            greeting = startup.sockets.handshake.recv() => {
                if let Ok(greeting) = greeting {
                    startup.greeted(&greeting).await?;
                }
            }
            ready = startup.sockets.input.recv() => {
                if let Ok(ready) = ready {
                    startup.registered(&ready)?;
                }
            }
            _ = say.tick() => info!("still waiting for vLLM: {}", startup.missing()),
            _ = look.tick() => {
                if let Some(reason) = watch.as_mut().and_then(|watch| watch()) {
                    return Err(AttachError::Gone(reason));
                }
            }
            () = tokio::time::sleep_until(deadline) => {
                let (missing, address) = (startup.missing(), startup.address);
                return Err(AttachError::Timeout { seconds: options.ready_timeout.as_secs(), missing, address });
            }
        }
    }
    startup.compare()?;
    let ready = |rank: Progress| rank.ready.expect("a rank is through only after it was ready");
    let ranks = startup.progress.into_iter().map(ready).collect();
    Ok(Connected { ranks, input: startup.sockets.input, input_events, outputs: startup.sockets.outputs })
}

impl Startup<'_> {
    /// The rank of a message and its payload.
    fn parts<'m>(&self, message: &'m ZmqMessage) -> Option<(u16, &'m [u8])> {
        let (identity, payload) = (message.get(0)?, message.get(1)?);
        let rank = rank_of(identity).filter(|rank| usize::from(*rank) < self.progress.len());
        if rank.is_none() {
            warn!(
                "an engine with the name {identity:?} wants to connect, and {} are expected, from 0 on; it is left \
                 alone",
                self.progress.len()
            );
        }
        Some((rank?, payload))
    }

    fn input_event(&mut self, event: SocketEvent) {
        match event {
            SocketEvent::Accepted(Endpoint::Tcp(host, _), peer) => {
                let rank = rank_of(&peer).and_then(|rank| self.progress.get_mut(usize::from(rank)));
                let address = match host {
                    Host::Ipv4(address) => Some(IpAddr::V4(address)),
                    Host::Ipv6(address) => Some(IpAddr::V6(address).to_canonical()),
                    Host::Domain(_) => None,
                };
                if let Some(rank) = rank {
                    rank.peer = address;
                }
            }
            SocketEvent::Disconnected(peer) => {
                let rank = rank_of(&peer).and_then(|rank| self.progress.get_mut(usize::from(rank)));
                if let Some(rank) = rank {
                    warn!("an engine that was starting is gone; another one may take its place");
                    *rank = Progress::default();
                }
            }
            SocketEvent::AcceptFailed(error) => debug!(%error, "a connection was not one of an engine"),
            _ => {}
        }
    }

    async fn greeted(&mut self, message_of_engine: &ZmqMessage) -> Result<(), AttachError> {
        let Some((rank, payload)) = self.parts(message_of_engine) else { return Ok(()) };
        let greeting = Greeting::read(payload).map_err(|cause| AttachError::Malformed { rank, cause })?;
        let index = usize::from(rank);
        match greeting.status {
            Some(GreetingStatus::Hello) => {
                info!("vLLM engine {rank} is there and loads its model");
                let init = encode_init(&self.sockets.input_address, &self.sockets.outputs[index].address);
                // One that is gone already says hello again.
                let answer = message([identity(rank), init.into()]);
                if let Err(error) = self.sockets.handshake.send(answer).await {
                    debug!(%error, rank, "the engine did not wait for an answer");
                }
                self.progress[index] = Progress { said_hello: true, ..Progress::default() };
            }
            Some(GreetingStatus::Ready) => {
                let progress = &mut self.progress[index];
                // The ready message is sent before, but on another connection.
                progress.config_hash = greeting.config_hash;
                progress.said_ready = true;
            }
            None => debug!(rank, "a greeting that says nothing"),
        }
        Ok(())
    }

    fn registered(&mut self, message: &ZmqMessage) -> Result<(), AttachError> {
        let Some((rank, payload)) = self.parts(message) else { return Ok(()) };
        let ready = ReadyMessage::read(payload).map_err(|cause| AttachError::Malformed { rank, cause })?;
        let layout = Layout::of_version(ready.vllm_version.as_deref(), self.options.allow_untested)
            .map_err(|cause| AttachError::Version { rank, cause })?;
        for (field, value) in [
            ("max_model_len", ready.max_model_len),
            ("num_gpu_blocks", ready.num_gpu_blocks),
            ("block_size", ready.block_size),
        ] {
            if value.is_none_or(|value| value == 0) {
                return Err(AttachError::Silent { rank, field });
            }
        }
        let version = ready.vllm_version.as_deref().unwrap_or("of an unknown version");
        let progress = &mut self.progress[usize::from(rank)];
        let same_host = progress.peer.is_some_and(is_this_host);
        let place = if same_host { "on this host" } else { "on another host" };
        info!("vLLM engine {rank} is ready: vLLM {version}, {place}");
        progress.ready = Some(ReadyRank { ready, layout, same_host });
        Ok(())
    }

    /// Whom is waited for, in words.
    fn missing(&self) -> String {
        let state = |(index, rank): (usize, &Progress)| {
            let state = match rank {
                rank if rank.is_through() => return None,
                Progress { ready: Some(_), .. } => "has not said that it is ready",
                Progress { said_hello: true, .. } => "loads its model",
                _ => "has not said hello",
            };
            Some(format!("engine {index} {state}"))
        };
        self.progress.iter().enumerate().filter_map(state).collect::<Vec<_>>().join(", ")
    }

    /// All ranks must have been started alike.
    fn compare(&self) -> Result<(), AttachError> {
        let hashes = self.progress.iter().enumerate();
        let mut hashes =
            hashes.filter_map(|(rank, progress)| Some((rank as u16, progress.config_hash.as_ref()?)));
        let Some((first, expected)) = hashes.next() else { return Ok(()) };
        match hashes.find(|(_, hash)| *hash != expected) {
            Some((other, _)) => Err(AttachError::Different { first, other }),
            None => Ok(()),
        }
    }
}
