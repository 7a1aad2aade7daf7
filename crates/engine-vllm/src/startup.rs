//! From bound sockets to engine cores that are ready.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tracing::{info, warn};
use zeromq::{RouterSendHalf, Socket as _};

use crate::reception::{Noticed, Reception};
use crate::sockets::{BindError, EngineAddress, GivenListeners, Outputs, Ranks, Sockets};
use crate::wire::{Layout, ReadyMessage, UnsupportedVersion, WireError};

/// How often it is said whom is still waited for.
const PROGRESS_EVERY: Duration = Duration::from_secs(15);
/// How often it is asked whether engines can still come.
const WATCH_EVERY: Duration = Duration::from_millis(200);

/// How engine cores are found and what is expected of them.
#[derive(Debug)]
pub struct AttachOptions {
    /// Where they are met.
    pub meeting: Meeting,
    /// How many there are; at least one.
    pub engine_count: u16,
    /// How long all of them together may take.
    pub ready_timeout: Duration,
    /// Takes versions of vLLM that nobody has tried.
    pub allow_untested: bool,
    /// Takes back those that were lost and have been started again. Otherwise the end of the last one is the end.
    pub takes_back: bool,
}

/// How engine cores and their front find each other.
#[derive(Debug)]
pub enum Meeting {
    /// They say hello here, and are told where to connect to.
    Handshake {
        /// Where they say hello.
        address: EngineAddress,
        /// The host by which they reach this one, where that is not the host of the address.
        advertise_host: Option<String>,
    },
    /// Somebody else tells them where to connect to.
    Given {
        /// What they connect to.
        listeners: GivenListeners,
        /// The first of their ranks.
        first_rank: u16,
    },
}

/// Looks after whoever starts the engines. Called several times a second, in the thread of [`Launch`]; says why no engine
/// will come any more or why all are gone, once that is so.
pub type Watch = Box<dyn FnMut(Phase) -> Option<String> + Send>;

/// How far the front is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not all engines have been ready yet.
    Starting,
    /// All have been.
    Serving,
}

/// Starts the engines, given the port at which they are to say hello, or 0 if there is none; fails with what to tell the
/// operator. Called in a thread that lasts as long as the front.
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
    /// The same, where somebody else had told them where to connect to.
    #[error("after {seconds} s not all engines are ready: {missing}; what vLLM writes says why")]
    NotRegistered {
        /// How long that was.
        seconds: u64,
        /// Who is missing.
        missing: String,
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
    /// The number of its connection for requests.
    pub(crate) connection: u64,
}

/// Engine cores that are ready, and the sockets by which they are reached.
pub(crate) struct Connected {
    pub(crate) names: Ranks,
    pub(crate) ranks: Vec<ReadyRank>,
    pub(crate) input: RouterSendHalf,
    pub(crate) outputs: Outputs,
    pub(crate) reception: Reception,
    pub(crate) watch: Option<Watch>,
    pub(crate) takes_back: bool,
}

/// Binds the sockets and waits until all engine cores are ready.
pub(crate) async fn connect(
    options: AttachOptions,
    launch: Option<Launch>,
) -> Result<Connected, AttachError> {
    let AttachOptions { meeting, engine_count, ready_timeout, allow_untested, takes_back } = options;
    let count = engine_count.max(1);
    let (mut sockets, first, place) = match meeting {
        Meeting::Handshake { address, advertise_host } => {
            let sockets = Sockets::bind(&address, advertise_host.as_deref(), count).await?;
            let port = sockets.door.as_ref().map_or(address.port, |door| door.port);
            (sockets, 0, format!("tcp://{}:{port}", address.host))
        }
        Meeting::Given { listeners, first_rank } => {
            (Sockets::adopt(listeners).await?, first_rank, "the sockets that were handed over".to_owned())
        }
    };
    let names = Ranks { first, count };
    info!("waiting for {count} vLLM engine{} at {place}", if count == 1 { "" } else { "s" });
    let events = sockets.input.monitor().boxed();
    let port = sockets.door.as_ref().map_or(0, |door| door.port);
    let mut watch = match launch {
        Some(launch) => Some(launch(port).map_err(AttachError::Gone)?),
        None => None,
    };
    let (input, receiver) = sockets.input.split();
    let says_hello = sockets.door.is_some();
    let mut reception = Reception::new(names, allow_untested, sockets.door, receiver, events);
    let deadline = Instant::now() + ready_timeout;
    let mut say = tokio::time::interval_at(Instant::now() + PROGRESS_EVERY, PROGRESS_EVERY);
    let mut look = watch_interval();
    while !reception.is_complete() {
        let heard = tokio::select! {
            heard = reception.hear() => heard,
            _ = say.tick() => {
                info!("still waiting for vLLM: {}", reception.missing());
                continue;
            }
            _ = look.tick() => match watch.as_mut().and_then(|watch| watch(Phase::Starting)) {
                Some(reason) => return Err(AttachError::Gone(reason)),
                None => continue,
            },
            () = tokio::time::sleep_until(deadline) => {
                let (seconds, missing) = (ready_timeout.as_secs(), reception.missing());
                return Err(if says_hello {
                    AttachError::Timeout { seconds, missing, address: place }
                } else {
                    AttachError::NotRegistered { seconds, missing }
                });
            }
        };
        if let Noticed::Gone { rank, .. } = reception.handle(heard).await? {
            warn!(
                "engine {}, which was starting, is gone; another one may take its place",
                names.number(rank)
            );
        }
    }
    reception.compare()?;
    let ranks = (0..count).map(|rank| reception.take(rank).expect("all are ready")).collect();
    Ok(Connected { names, ranks, input, outputs: sockets.outputs, reception, watch, takes_back })
}

/// When to ask a [`Watch`].
pub(crate) fn watch_interval() -> Interval {
    let mut look = tokio::time::interval(WATCH_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    look
}
