//! An engine core of vLLM that computes nothing: it speaks the protocol of release 0.32 and answers at once, so that
//! what is measured is whoever is in front of it, be that this server or one of vLLM's own.
//!
//! It runs in a process of its own, `wayfare-mock-vllm`, or on a thread of a test. Every request runs from the step after
//! its arrival, gets a token per step, and ends at its length. Steps take no time, or as long as the [`Pace`] says.

mod messages;
mod requests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use wayfare_journey::{Clock as _, MonoNs, SystemClock};
use zeromq::util::PeerIdentity;
use zeromq::{
    DealerSocket, PushSocket, Socket as _, SocketOptions, SocketRecv as _, SocketSend as _, ZmqError,
    ZmqMessage,
};

use self::messages::{StepWriter, hello, ready_greeting, ready_message, utility_answer};
use self::requests::{Told, output_addresses, read};

/// What a front must know and be reached by.
#[derive(Clone, Debug)]
pub struct MockVllmOptions {
    /// Where the front waits for engine cores, `tcp://HOST:PORT`.
    pub handshake: String,
    /// Which of several data-parallel ranks it is.
    pub rank: u16,
    /// How many there are.
    pub ranks: u16,
    /// Most tokens of a sequence.
    pub max_model_len: u32,
    /// What it gives as its `max_num_seqs`; it runs whatever it is sent.
    pub max_num_seqs: u32,
}

/// How long a step takes; can be changed at any time.
#[derive(Clone, Debug, Default)]
pub struct Pace(Arc<AtomicU64>);

impl Pace {
    /// Sets the least time between the ends of two steps, in µs; 0 for none.
    pub fn set_us(&self, step_us: u64) {
        self.0.store(step_us, Ordering::Relaxed);
    }

    fn us(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why a mock engine core has ended.
#[derive(Debug, thiserror::Error)]
pub enum MockVllmError {
    /// A socket failed.
    #[error("a socket of the mock engine core failed")]
    Socket(#[from] ZmqError),
    /// The front said something that is not the protocol.
    #[error("the front said what is not understood: {0}")]
    NotUnderstood(&'static str),
}

/// A request that runs.
#[derive(Debug)]
struct Running {
    /// Its name, as the front wrote it.
    id: String,
    prompt_tokens: u32,
    max_tokens: u32,
    produced: u32,
    queued: MonoNs,
    scheduled: Option<MonoNs>,
}

/// Connects to the front, waiting for it if need be, and serves it until a socket fails.
///
/// # Errors
/// When that happens, or the front does not speak the protocol.
pub async fn serve(options: MockVllmOptions, pace: Pace) -> Result<(), MockVllmError> {
    let mut handshake = dealer(options.rank);
    handshake.connect(&options.handshake).await?;
    handshake.send(ZmqMessage::from(hello())).await?;
    let init = handshake.recv().await?;
    let (input_address, output_address) = output_addresses(init.get(0).map_or(&[], |frame| &**frame))?;
    let (mut input, mut output) = (dealer(options.rank), PushSocket::new());
    input.connect(&input_address).await?;
    output.connect(&output_address).await?;
    input.send(ZmqMessage::from(ready_message(&options))).await?;
    handshake.send(ZmqMessage::from(ready_greeting(options.ranks))).await?;
    Core { input, output, rank: options.rank, running: Vec::new(), steps: StepWriter::default() }
        .run(&pace)
        .await
}

/// A socket with the name of a rank, which tries to connect for as long as it takes.
fn dealer(rank: u16) -> DealerSocket {
    let mut options = SocketOptions::default();
    let name = Bytes::copy_from_slice(&rank.to_le_bytes());
    options.peer_identity(PeerIdentity::try_from(name).expect("two bytes are a name")).no_connect_timeout();
    DealerSocket::with_options(options)
}

struct Core {
    input: DealerSocket,
    output: PushSocket,
    rank: u16,
    running: Vec<Running>,
    steps: StepWriter,
}

impl Core {
    async fn run(mut self, pace: &Pace) -> Result<(), MockVllmError> {
        let mut last_end = SystemClock.now();
        loop {
            if self.running.is_empty() {
                let told = self.input.recv().await?;
                self.take(&told).await?;
            }
            // As an engine core does it: whatever has come since the last step takes part in the next.
            while let Some(told) = self.input.recv().now_or_never() {
                self.take(&told?).await?;
            }
            if self.running.is_empty() {
                continue;
            }
            let started = SystemClock.now();
            let rest = Duration::from_micros(pace.us())
                .saturating_sub(Duration::from_nanos(started.since(last_end)));
            if !rest.is_zero() {
                // Not the runtime's timer, which counts in ms. Nothing else runs on this thread.
                std::thread::sleep(rest);
            }
            let now = SystemClock.now();
            let frame = self.steps.write(self.rank, &mut self.running, started, now);
            last_end = now;
            self.output.send(ZmqMessage::from(frame)).await?;
            // Lets the sockets be read and written.
            tokio::task::yield_now().await;
        }
    }

    async fn take(&mut self, message: &ZmqMessage) -> Result<(), MockVllmError> {
        let frame = |index| message.get(index).map_or(&[][..], |frame| &**frame);
        match read(frame(0), frame(1))? {
            Told::Add { id, prompt_tokens, max_tokens } => self.running.push(Running {
                id,
                prompt_tokens,
                max_tokens,
                produced: 0,
                queued: SystemClock.now(),
                scheduled: None,
            }),
            Told::Abort(ids) => self.running.retain(|running| !ids.contains(&running.id)),
            Told::Utility { call_id, method } => {
                let answer = utility_answer(self.rank, &call_id, &method, SystemClock.now());
                self.output.send(ZmqMessage::from(answer)).await?;
            }
            Told::Other => {}
        }
        Ok(())
    }
}
