//! The handle by which the API layer talks to the engine thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::{fmt, io};

use parking_lot::Mutex;
use wayfare_engine::{
    AbortCause, Engine, EngineFault, EngineLimits, EngineRequest, EngineStats, OutputSink, RequestId,
    StatsCell, SubmitError,
};
use wayfare_journey::Clock;
use wayfare_scheduler::{Scheduler, SchedulerConfig, SchedulerConfigError};

use crate::Executor;
use crate::engine_thread::EngineThread;

/// What the engine thread is told between steps.
#[derive(Debug)]
pub(crate) enum Message {
    Submit(Box<EngineRequest>),
    Abort(RequestId, AbortCause),
    Finish(RequestId),
    Stop,
}

/// What both sides of the inbox share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) stats: StatsCell,
    pub(crate) fault: OnceLock<Arc<EngineFault>>,
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
    /// server limits, and each request sends at most three.
    inbox: Sender<Message>,
    shared: Arc<Shared>,
    limits: EngineLimits,
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
    ) -> Result<Self, StartError> {
        let scheduler = Scheduler::new(config)?;
        let limits = EngineLimits {
            max_model_len: config.max_model_len,
            max_num_seqs: config.max_num_seqs,
            max_num_batched_tokens: config.max_num_batched_tokens,
            block_size: config.block_size,
            num_kv_blocks: config.usable_kv_blocks(),
            vocab_size,
        };
        let shared = Arc::new(Shared::default());
        shared.stats.store(&scheduler.stats());
        let (inbox, messages): (_, Receiver<Message>) = channel();
        let thread = EngineThread::new(messages, scheduler, executor, sink, clock, Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || thread.run())
            .map_err(StartError::Thread)?;
        Ok(Self { inbox, shared, limits, thread: Mutex::new(Some(thread)) })
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
            self.limits.check(&request)
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

    fn fault(&self) -> Option<Arc<EngineFault>> {
        self.shared.fault.get().cloned()
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
