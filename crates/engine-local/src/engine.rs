//! The handle by which the API layer talks to the engine thread.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::{fmt, io};

use parking_lot::Mutex;
use wayfare_engine::{
    AbortCause, Engine, EngineCommand, EngineControl, EngineFault, EngineLimits, EngineReply, EngineRequest,
    EngineStats, OutputSink, RequestId, StatsCell, SubmitError,
};
use wayfare_journey::{Clock, EngineBoard};
use wayfare_scheduler::{Scheduler, SchedulerConfig, SchedulerConfigError};

use crate::Executor;
use crate::engine_thread::EngineThread;
use crate::step_recorder::StepTracing;

/// What the engine thread is told between steps.
#[derive(Debug)]
pub(crate) enum Message {
    Submit(Box<EngineRequest>),
    Abort(RequestId, AbortCause),
    Finish(RequestId),
    Command(EngineCommand, Done),
    Stop,
}

/// Called when a command has been carried out.
pub(crate) struct Done(pub(crate) Box<dyn FnOnce(EngineReply) + Send>);

impl fmt::Debug for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Done")
    }
}

/// What may wait to be computed, in the inbox and in the queue together. A limit of `None` lets any number wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueLimits {
    /// Most requests. Preempted ones count while they are back in the queue.
    pub requests: Option<NonZeroU32>,
    /// Most prompt tokens of all of them. A request is refused that would exceed it, unless it is the only one.
    pub tokens: Option<NonZeroU64>,
}

impl QueueLimits {
    /// Whether a request of so many prompt tokens may wait where `requests` with `tokens` wait already. An empty
    /// queue takes any request, or a long one could never be served.
    pub(crate) fn admit(&self, requests: u64, tokens: u64, prompt_tokens: u64) -> bool {
        self.admits_request(requests) && self.admits_tokens(tokens, prompt_tokens)
    }

    fn admits_request(&self, requests: u64) -> bool {
        self.requests.is_none_or(|limit| requests < limit.get().into())
    }

    fn admits_tokens(&self, tokens: u64, prompt_tokens: u64) -> bool {
        let sum = tokens.saturating_add(prompt_tokens);
        tokens == 0 || self.tokens.is_none_or(|limit| sum <= limit.get())
    }
}

/// What an engine of these sizes can take.
pub(crate) fn limits_of(config: &SchedulerConfig, vocab_size: u32) -> EngineLimits {
    EngineLimits {
        max_model_len: config.max_model_len,
        max_num_seqs: config.max_num_seqs,
        max_num_batched_tokens: config.max_num_batched_tokens,
        block_size: config.block_size,
        num_kv_blocks: config.usable_kv_blocks(),
        vocab_size,
        policy: config.policy,
        prefix_caching: config.prefix_caching.is_some(),
        follows_blocks: config.follow_blocks.is_some(),
    }
}

/// What an engine has besides its model.
#[derive(Debug, Default)]
pub struct EngineOptions {
    /// Requests beyond these limits are refused.
    pub queue_limits: QueueLimits,
    /// Records what the engine does in its steps.
    pub steps: Option<StepTracing>,
    /// Where it shows what it does and why requests wait.
    pub board: Option<EngineBoard>,
}

/// What both sides of the inbox share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) stats: StatsCell,
    pub(crate) fault: OnceLock<Arc<EngineFault>>,
    /// Requests in the inbox and in the scheduler's waiting queue. Counted up where a request is submitted,
    /// counted down by the engine thread when it leaves the queue, so that no burst gets past the limit.
    pub(crate) queued: AtomicU64,
    /// Prompt tokens of these requests.
    pub(crate) queued_tokens: AtomicU64,
    stopping: AtomicBool,
}

/// Why the engine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The sizes do not fit together.
    #[error(transparent)]
    Config(#[from] SchedulerConfigError),
    /// The operating system gave no thread.
    #[error("the engine thread could not be started")]
    Thread(#[source] io::Error),
}

/// An engine in this process. Dropping it stops the engine thread and aborts what is in flight.
pub struct LocalEngine {
    /// The inbox has no bound of its own: each entry belongs to an open HTTP request, whose number the
    /// server limits, and each request sends at most three; each command to an operator's request.
    inbox: Sender<Message>,
    shared: Arc<Shared>,
    limits: EngineLimits,
    queue_limits: QueueLimits,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl LocalEngine {
    /// Starts the engine thread.
    ///
    /// # Errors
    /// When the configuration makes no sense or no thread can be had.
    pub fn start(
        config: SchedulerConfig,
        vocab_size: u32,
        executor: Box<dyn Executor>,
        sink: Box<dyn OutputSink>,
        clock: Arc<dyn Clock>,
        options: EngineOptions,
    ) -> Result<Self, StartError> {
        let EngineOptions { queue_limits, steps, board } = options;
        let mut scheduler = Scheduler::new(config)?;
        if let Some(board) = &board {
            scheduler.show_on(board.clone());
            board.show_totals(&scheduler.stats().totals());
        }
        let limits = limits_of(&config, vocab_size);
        let shared = Arc::new(Shared::default());
        shared.stats.store(&scheduler.stats());
        let (inbox, messages): (_, Receiver<Message>) = channel();
        let thread = EngineThread::new(
            messages,
            scheduler,
            executor,
            sink,
            clock,
            Arc::clone(&shared),
            limits.vocab_size,
            steps,
            board,
        );
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || thread.run())
            .map_err(StartError::Thread)?;
        Ok(Self { inbox, shared, limits, queue_limits, thread: Mutex::new(Some(thread)) })
    }

    /// Takes no more requests, aborts those in flight, and waits until the engine thread has ended.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
        // A thread that is gone already needs no message.
        let _ = self.inbox.send(Message::Stop);
        if let Some(thread) = self.thread.lock().take() {
            let _ = thread.join();
        }
    }

    /// Takes a place in the queue, and room for the prompt.
    fn enqueue(&self, prompt_tokens: u64) -> Result<(), SubmitError> {
        let Shared { queued, queued_tokens, .. } = &*self.shared;
        let take = |queued: u64| self.queue_limits.admits_request(queued).then(|| queued + 1);
        if let Err(waiting) = queued.fetch_update(Ordering::AcqRel, Ordering::Acquire, take) {
            return Err(SubmitError::Overloaded { waiting });
        }
        let take = |queued: u64| {
            let is_taken = self.queue_limits.admits_tokens(queued, prompt_tokens);
            is_taken.then(|| queued.saturating_add(prompt_tokens))
        };
        if let Err(waiting) = queued_tokens.fetch_update(Ordering::AcqRel, Ordering::Acquire, take) {
            queued.fetch_sub(1, Ordering::AcqRel);
            let limit = self.queue_limits.tokens.map_or(u64::MAX, NonZeroU64::get);
            return Err(SubmitError::TokensOverloaded { waiting, limit });
        }
        Ok(())
    }

    fn tell(&self, message: Message) {
        // An engine that is gone has ended all its requests.
        let _ = self.inbox.send(message);
    }
}

impl Engine for LocalEngine {
    fn submit(&self, request: EngineRequest) -> Result<(), SubmitError> {
        let refusal = if let Some(fault) = self.fault() {
            Err(SubmitError::EngineDead(fault))
        } else if self.shared.stopping.load(Ordering::Acquire) {
            Err(SubmitError::ShuttingDown)
        } else {
            // The place last: whoever has one will be sent.
            self.limits.check(&request).and_then(|()| self.enqueue(request.prompt.len() as u64))
        };
        if let Err(error) = refusal {
            request.refuse();
            return Err(error);
        }
        self.inbox.send(Message::Submit(Box::new(request))).map_err(|unsent| {
            if let Message::Submit(request) = unsent.0 {
                request.refuse();
            }
            self.fault().map_or(SubmitError::ShuttingDown, SubmitError::EngineDead)
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
        self.shared.stats.load()
    }

    fn stats_by_engine(&self) -> Vec<(u32, EngineStats)> {
        vec![(0, self.stats())]
    }

    fn fault(&self) -> Option<Arc<EngineFault>> {
        self.shared.fault.get().cloned()
    }
}

impl EngineControl for LocalEngine {
    fn command(&self, command: EngineCommand, done: Box<dyn FnOnce(EngineReply) + Send>) {
        self.tell(Message::Command(command, Done(done)));
    }

    fn is_paused(&self) -> bool {
        self.shared.stats.load().paused > 0
    }
}

impl Drop for LocalEngine {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for LocalEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalEngine").field("limits", &self.limits).finish_non_exhaustive()
    }
}
