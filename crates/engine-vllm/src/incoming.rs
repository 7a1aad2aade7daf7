//! What comes from engine cores, from all sockets into one channel.
//!
//! HOT PATH: a message of an engine core is handed on as it is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use smallvec::SmallVec;
use tokio::sync::mpsc;
use tracing::{debug, warn};
use wayfare_journey::{Clock, MonoNs};
use zeromq::{PullSocket, SocketRecv as _};

use crate::reception::{Noticed, Reception};
use crate::sockets::{Outputs, Ranks};
use crate::startup::{Phase, ReadyRank, Watch, watch_interval};
use crate::wire::{ENGINE_CORE_DEAD, EngineMessage};

/// Messages of engine cores that wait to be read; beyond, they wait in the sockets.
const FRAMES_AHEAD: usize = 256;
/// Last words of an engine core may be under way on its other connection when one is closed.
const LAST_WORDS: Duration = Duration::from_millis(250);
/// A socket that fails is not asked again at once.
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// The frames of one message.
pub(crate) type Frames = SmallVec<[Bytes; 2]>;

/// What comes from engine cores. Ranks are places.
pub(crate) enum Incoming {
    Frames {
        rank: u16,
        frames: Frames,
        at: MonoNs,
    },
    Disconnected {
        rank: u16,
        connection: u64,
    },
    /// An engine core has taken the place of one that was lost, or is about to be.
    Returned {
        rank: u16,
        ready: Box<ReadyRank>,
    },
    /// All of them are gone, or may as well be.
    AllLost {
        problem: String,
    },
}

/// Begins to read, on the current runtime, and ends with it.
pub(crate) fn read_all(
    names: Ranks,
    outputs: Outputs,
    mut reception: Reception,
    watch: Option<Watch>,
    takes_back: bool,
    clock: &Arc<dyn Clock>,
) -> mpsc::Receiver<Incoming> {
    let (tx, incoming) = mpsc::channel(FRAMES_AHEAD);
    match outputs {
        Outputs::OfEach(sockets) => {
            for (rank, socket) in (0_u16..).zip(sockets) {
                tokio::spawn(hear_one(rank, socket, tx.clone(), Arc::clone(clock)));
            }
        }
        Outputs::OfAll(socket) if names.count == 1 => {
            tokio::spawn(hear_one(0, socket, tx.clone(), Arc::clone(clock)));
        }
        Outputs::OfAll(socket) => {
            tokio::spawn(hear_all(names, socket, tx.clone(), Arc::clone(clock)));
        }
    }
    if !takes_back {
        reception.close_door();
    }
    tokio::spawn(receive(names, reception, watch, takes_back, tx));
    incoming
}

/// Reads the outputs of an engine core, for ever.
async fn hear_one(rank: u16, mut socket: PullSocket, tx: mpsc::Sender<Incoming>, clock: Arc<dyn Clock>) {
    loop {
        let Some((frames, at)) = next_message(&mut socket, &*clock).await else { continue };
        if tx.send(Incoming::Frames { rank, frames, at }).await.is_err() {
            return;
        }
    }
}

/// Reads the outputs of all engine cores, for ever. Whoever says that it is dead does not say who it is, and whoever says
/// what cannot be read cannot be told from the others; so that is the end of all.
async fn hear_all(names: Ranks, mut socket: PullSocket, tx: mpsc::Sender<Incoming>, clock: Arc<dyn Clock>) {
    loop {
        let Some((frames, at)) = next_message(&mut socket, &*clock).await else { continue };
        let incoming = match sender(names, &frames) {
            Ok(rank) => Incoming::Frames { rank, frames, at },
            Err(problem) => Incoming::AllLost { problem },
        };
        if tx.send(incoming).await.is_err() {
            return;
        }
    }
}

async fn next_message(socket: &mut PullSocket, clock: &dyn Clock) -> Option<(Frames, MonoNs)> {
    match socket.recv().await {
        Ok(message) => Some((message.into_vecdeque().into_iter().collect(), clock.now())),
        Err(error) => {
            debug!(%error, "a connection for outputs has ended");
            tokio::time::sleep(AFTER_FAILURE).await;
            None
        }
    }
}

/// Whose words these are.
fn sender(names: Ranks, frames: &[Bytes]) -> Result<u16, String> {
    let first = frames.first().map_or(&[][..], |frame| frame);
    if first == ENGINE_CORE_DEAD {
        return Err("one of them says that it has failed; its log says why".to_owned());
    }
    let number = EngineMessage::sender(first)
        .map_err(|problem| format!("a message of one of them cannot be read: {problem}"))?;
    names.place(number).ok_or_else(|| format!("a message is of engine {number}, and there is none"))
}

/// Notices when the connection of an engine core for requests ends, and takes in those that come. One that connects again
/// without saying that it is ready goes on with requests that have ended here, so it stays lost.
async fn receive(
    names: Ranks,
    mut reception: Reception,
    mut watch: Option<Watch>,
    takes_back: bool,
    tx: mpsc::Sender<Incoming>,
) {
    let mut look = watch_interval();
    loop {
        let heard = tokio::select! {
            heard = reception.hear() => heard,
            _ = look.tick(), if watch.is_some() => {
                let problem = watch.as_mut().and_then(|watch| watch(Phase::Serving));
                if let Some(problem) = problem
                    && tx.send(Incoming::AllLost { problem }).await.is_err()
                {
                    return;
                }
                continue;
            }
        };
        match reception.handle(heard).await {
            Ok(Noticed::Nothing) => {}
            Ok(Noticed::Gone { rank, connection }) => {
                let tx = tx.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(LAST_WORDS).await;
                    let _ = tx.send(Incoming::Disconnected { rank, connection }).await;
                });
            }
            Ok(Noticed::Ready(rank)) => {
                let Some(ready) = reception.take(rank) else { continue };
                let number = names.number(rank);
                if !takes_back {
                    warn!(
                        "vLLM engine {number} says that it is ready, and was not waited for; it gets no requests"
                    );
                } else if tx.send(Incoming::Returned { rank, ready: Box::new(ready) }).await.is_err() {
                    return;
                }
            }
            Err(problem) => {
                warn!("an engine wants to come back and cannot: {problem}");
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
}
