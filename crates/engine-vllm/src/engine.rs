//! The handle by which the API layer talks to the thread that talks to the engine cores.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use wayfare_engine::{
    AbortCause, Engine, EngineCommand, EngineControl, EngineFault, EngineLimits, EngineReply, EngineRequest,
    EngineStats, OutputSink, RequestId, SchedulingPolicy, SubmitError,
};
use wayfare_journey::{Clock, EngineBoard, WallAnchor};

use crate::balance::{RankLoad, choose};
use crate::engine_thread::EngineThread;
use crate::startup::{AttachError, AttachOptions, Launch, ReadyRank, connect};
use crate::wire::{AddRequest, WireId, encode_add};

/// What the engine thread is told.
pub(crate) enum Message {
    Submit(Box<Submission>),
    Abort(RequestId, AbortCause),
    Finish(RequestId),
    Command(EngineCommand, Done),
    Stop,
}

/// A request on its way to an engine core.
pub(crate) struct Submission {
    pub(crate) request: EngineRequest,
    pub(crate) rank: u16,
    /// The message, with a name that is still to be replaced.
    pub(crate) frame: Vec<u8>,
}

/// Where what engine cores produce goes.
pub(crate) struct Outlets {
    pub(crate) sink: Box<dyn OutputSink>,
    pub(crate) board: Option<EngineBoard>,
}

pub(crate) type Done = Box<dyn FnOnce(EngineReply) + Send>;

/// What both sides of the inbox share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// Why there is no engine core, while that is so.
    pub(crate) fault: ArcSwapOption<EngineFault>,
    pub(crate) loads: Vec<RankLoad>,
    /// How vLLM calls the first of them.
    first_rank: u16,
    pub(crate) is_paused: AtomicBool,
    is_stopping: AtomicBool,
}

/// What is known of the model besides what engine cores say.
#[derive(Clone, Copy, Debug)]
pub struct ModelFacts {
    /// Size of the vocabulary.
    pub vocab_size: u32,
    /// As the engine cores were started.
    pub policy: SchedulingPolicy,
    /// Makes the random numbers of requests without a seed those of the server, and not the engine core's own.
    pub sends_own_seeds: bool,
}

/// Engine cores that are ready and not served from yet. Dropping it lets them go.
pub struct AttachedEngines {
    limits: EngineLimits,
    /// KV blocks of all of them.
    total_kv_blocks: u64,
    version: Option<String>,
    inbox: mpsc::UnboundedSender<Message>,
    shared: Arc<Shared>,
    wall: WallAnchor,
    sends_own_seeds: bool,
    go: oneshot::Sender<Outlets>,
    thread: JoinHandle<()>,
}

impl AttachedEngines {
    /// Binds the sockets and waits until all engine cores are ready; may take as long as they load their model.
    ///
    /// # Errors
    /// When they do not come, or are not what is expected.
    pub fn attach(
        options: AttachOptions,
        facts: ModelFacts,
        clock: Arc<dyn Clock>,
        wall: WallAnchor,
        launch: Option<Launch>,
    ) -> Result<Self, AttachError> {
        let (inbox, messages) = mpsc::unbounded_channel();
        let (result_tx, result_rx) = std::sync::mpsc::sync_channel(1);
        let (go, go_rx) = oneshot::channel();
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => {
                    let _ = result_tx.send(Err(AttachError::Thread(error)));
                    return;
                }
            };
            runtime.block_on(async {
                let connected = match connect(options, launch).await {
                    Ok(connected) => connected,
                    Err(error) => {
                        let _ = result_tx.send(Err(error));
                        return;
                    }
                };
                let shared = Arc::new(Shared {
                    fault: ArcSwapOption::empty(),
                    loads: connected.ranks.iter().map(|_| RankLoad::default()).collect(),
                    first_rank: connected.names.first,
                    is_paused: AtomicBool::new(false),
                    is_stopping: AtomicBool::new(false),
                });
                let limits = limits_of(&connected.ranks, facts);
                let version = connected.ranks[0].ready.vllm_version.clone();
                let thread = EngineThread::new(connected, messages, Arc::clone(&shared), clock);
                if result_tx.send(Ok((limits, thread.total_kv_blocks(), version, shared))).is_err() {
                    return;
                }
                // Dropped when nobody wants to serve after all.
                if let Ok(outlets) = go_rx.await {
                    thread.run(outlets).await;
                }
            });
        };
        let thread = std::thread::Builder::new().name("vllm-engine".into()).spawn(run);
        let thread = thread.map_err(AttachError::Thread)?;
        match result_rx.recv() {
            Ok(Ok((limits, total_kv_blocks, version, shared))) => {
                let sends_own_seeds = facts.sends_own_seeds;
                Ok(Self {
                    limits,
                    total_kv_blocks,
                    version,
                    inbox,
                    shared,
                    wall,
                    sends_own_seeds,
                    go,
                    thread,
                })
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(AttachError::Gone("the thread that waits for the engines has failed".into())),
        }
    }

    /// What they can take.
    #[must_use]
    pub fn limits(&self) -> &EngineLimits {
        &self.limits
    }

    /// KV blocks of all of them together.
    #[must_use]
    pub fn total_kv_blocks(&self) -> u64 {
        self.total_kv_blocks
    }

    /// Which vLLM they are, as the first one says.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Begins to serve: outputs go to `sink`, the state of the whole to `board`.
    #[must_use]
    pub fn serve(self, sink: Box<dyn OutputSink>, board: Option<EngineBoard>) -> VllmEngine {
        let Self { limits, inbox, shared, wall, sends_own_seeds, go, thread, .. } = self;
        // A thread that is gone has its place dropped with it, and every request is refused.
        let _ = go.send(Outlets { sink, board });
        VllmEngine { inbox, shared, limits, wall, sends_own_seeds, thread: Mutex::new(Some(thread)) }
    }
}

impl fmt::Debug for AttachedEngines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AttachedEngines").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// What engine cores can take, those of the smallest where they differ; they run their sequences side by side.
fn limits_of(ranks: &[ReadyRank], facts: ModelFacts) -> EngineLimits {
    let least = |value: fn(&ReadyRank) -> Option<u32>| ranks.iter().filter_map(value).min();
    let max_model_len = least(|rank| rank.ready.max_model_len).unwrap_or(0);
    let block_size = least(|rank| rank.ready.block_size).unwrap_or(1);
    let blocks = least(|rank| rank.ready.num_gpu_blocks).unwrap_or(1).saturating_sub(1);
    let seqs = ranks.iter().map(|rank| rank.ready.max_num_seqs.unwrap_or(0));
    EngineLimits {
        max_model_len,
        max_num_seqs: seqs.fold(0, u32::saturating_add),
        max_num_batched_tokens: least(|rank| rank.ready.max_num_batched_tokens).unwrap_or(max_model_len),
        block_size,
        // vLLM does not start when one sequence of full length does not fit; where layers differ, its blocks hold more
        // tokens than this counts.
        num_kv_blocks: blocks.max(max_model_len.div_ceil(block_size)),
        vocab_size: facts.vocab_size,
        policy: facts.policy,
        prefix_caching: true,
        follows_blocks: false,
    }
}

/// What an engine core must be able to take that comes after the limits have been told.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Promised {
    max_model_len: u32,
    block_size: u32,
}

impl Promised {
    pub(crate) fn of(ranks: &[ReadyRank]) -> Self {
        let least = |value: fn(&ReadyRank) -> Option<u32>| ranks.iter().filter_map(value).min().unwrap_or(0);
        Self {
            max_model_len: least(|rank| rank.ready.max_model_len),
            block_size: least(|rank| rank.ready.block_size),
        }
    }

    /// Why an engine core cannot be served from, if it cannot.
    pub(crate) fn broken_by(self, rank: &ReadyRank) -> Option<String> {
        let (length, block_size) = (rank.ready.max_model_len?, rank.ready.block_size?);
        if length < self.max_model_len {
            return Some(format!("its max_model_len is {length} and has been {}", self.max_model_len));
        }
        (block_size != self.block_size)
            .then(|| format!("its block_size is {block_size} and has been {}", self.block_size))
    }
}

/// One or several vLLM engine cores as one engine. Dropping it aborts what is in flight; engine cores that others started
/// go on.
pub struct VllmEngine {
    /// Without a bound of its own: each entry belongs to an open HTTP request, whose number the server limits, and each
    /// request sends at most three; each command to an operator's request.
    inbox: mpsc::UnboundedSender<Message>,
    shared: Arc<Shared>,
    limits: EngineLimits,
    wall: WallAnchor,
    sends_own_seeds: bool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl VllmEngine {
    /// Takes no more requests, aborts those in flight, and waits until the thread has ended.
    pub fn stop(&self) {
        self.shared.is_stopping.store(true, Ordering::Release);
        self.tell(Message::Stop);
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }

    fn tell(&self, message: Message) {
        // A thread that is gone has ended all its requests.
        let _ = self.inbox.send(message);
    }

    /// Chooses an engine core and writes the message, on the caller's thread.
    fn prepare(&self, request: &EngineRequest) -> Result<(u16, Vec<u8>), SubmitError> {
        if let Some(fault) = self.fault() {
            return Err(SubmitError::EngineDead(fault));
        }
        if self.shared.is_stopping.load(Ordering::Acquire) {
            return Err(SubmitError::ShuttingDown);
        }
        self.limits.check(request)?;
        let loads = &self.shared.loads;
        let rank = choose(loads, request).ok_or_else(|| self.gone())?;
        let number = u32::from(self.shared.first_rank) + u32::from(rank);
        let add = AddRequest {
            id: WireId { slot: 0, generation: 0 },
            request,
            arrival_seconds: self.wall.unix_ns(request.arrived) as f64 / 1e9,
            data_parallel_rank: (loads.len() > 1).then_some(number),
            sends_own_seeds: self.sends_own_seeds,
        };
        let frame = encode_add(&add).map_err(|unfit| SubmitError::NotTaken(unfit.to_string()))?;
        Ok((rank, frame))
    }

    fn gone(&self) -> SubmitError {
        self.fault().map_or(SubmitError::ShuttingDown, SubmitError::EngineDead)
    }
}

impl Engine for VllmEngine {
    fn submit(&self, request: EngineRequest) -> Result<(), SubmitError> {
        let (rank, frame) = match self.prepare(&request) {
            Ok(prepared) => prepared,
            Err(error) => {
                request.refuse();
                return Err(error);
            }
        };
        self.shared.loads[usize::from(rank)].in_flight.fetch_add(1, Ordering::AcqRel);
        let submission = Box::new(Submission { request, rank, frame });
        self.inbox.send(Message::Submit(submission)).map_err(|unsent| {
            if let Message::Submit(submission) = unsent.0 {
                submission.request.refuse();
            }
            self.gone()
        })
    }

    fn abort(&self, id: RequestId, cause: AbortCause) {
        self.tell(Message::Abort(id, cause));
    }

    fn finish(&self, id: RequestId) {
        self.tell(Message::Finish(id));
    }

    fn limits(&self) -> EngineLimits {
        self.limits.clone()
    }

    fn stats(&self) -> EngineStats {
        let mut sum = EngineStats::default();
        self.shared.loads.iter().for_each(|load| sum += load.stats.load());
        sum
    }

    fn stats_by_engine(&self) -> Vec<(u32, EngineStats)> {
        (self.shared.first_rank.into()..)
            .zip(&self.shared.loads)
            .map(|(rank, load)| (rank, load.stats.load()))
            .collect()
    }

    fn fault(&self) -> Option<Arc<EngineFault>> {
        self.shared.fault.load_full()
    }
}

impl EngineControl for VllmEngine {
    fn command(&self, command: EngineCommand, done: Box<dyn FnOnce(EngineReply) + Send>) {
        self.tell(Message::Command(command, done));
    }

    fn is_paused(&self) -> bool {
        self.shared.is_paused.load(Ordering::Acquire)
    }
}

impl Drop for VllmEngine {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for VllmEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VllmEngine").field("limits", &self.limits).finish_non_exhaustive()
    }
}
