//! An engine that computes nothing and does what the test says, so that each failure can be made to happen
//! on purpose.
//!
//! It keeps the border's promises: core spans get their events, every accepted request gets a final output
//! unless the engine dies, aborts and stop strings end a sequence from another thread than the caller's.

mod sequence;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;
use wayfare_engine::{
    AbortCause, Engine, EngineFault, EngineLimits, EngineRequest, EngineStats, FinishReason, OutputSink,
    RequestId, SamplingParams, SchedulingPolicy, SequenceOutput, StepOutputs, SubmitError, Terminator,
    TokenId,
};
use wayfare_journey::{Clock, FinishStatus, MonoNs, RequestLabel};

use sequence::{Sequence, StepTime};

/// Roomy limits for tests that are not about limits: 4096 tokens, a vocabulary of 65 536.
#[must_use]
pub fn scripted_limits() -> EngineLimits {
    EngineLimits {
        max_model_len: 4096,
        max_num_seqs: 256,
        max_num_batched_tokens: 2048,
        block_size: 16,
        num_kv_blocks: 4096,
        vocab_size: 65_536,
        policy: SchedulingPolicy::Fcfs,
        prefix_caching: false,
        follows_blocks: false,
    }
}

/// What was submitted.
#[derive(Clone, Debug)]
pub struct SubmittedRequest {
    /// Its name in the engine.
    pub id: RequestId,
    /// Its name for people.
    pub label: RequestLabel,
    /// The prompt's tokens.
    pub prompt: Arc<[TokenId]>,
    /// How it is to be generated.
    pub sampling: SamplingParams,
    /// When the HTTP request arrived.
    pub arrived: MonoNs,
    /// Whether a core span came with it.
    pub is_traced: bool,
}

/// What the engine does with a request by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Nothing: the test pushes the outputs.
    ByHand,
    /// One token per step, then the end.
    Tokens {
        /// The tokens, a terminating one included. Cut at the request's limit, which then ends as `Length`.
        tokens: Vec<TokenId>,
        /// Why it ends after the last token.
        finish: FinishReason,
        /// The token that ends it, when it is one.
        terminator: Option<Terminator>,
    },
}

impl Reply {
    /// These tokens, then an end by stop without a terminating token.
    #[must_use]
    pub fn tokens(tokens: impl Into<Vec<TokenId>>) -> Self {
        Reply::Tokens { tokens: tokens.into(), finish: FinishReason::Stop, terminator: None }
    }

    /// These tokens and then `end_of_text`, which ends the sequence.
    #[must_use]
    pub fn until_end_of_text(tokens: impl Into<Vec<TokenId>>, end_of_text: TokenId) -> Self {
        let mut tokens = tokens.into();
        tokens.push(end_of_text);
        Reply::Tokens { tokens, finish: FinishReason::Stop, terminator: Some(Terminator::EndOfText) }
    }
}

type Script = Box<dyn Fn(&SubmittedRequest) -> Reply + Send + Sync>;

enum Command {
    Wake,
    Abort(RequestId),
    Finish(RequestId),
    Stop,
}

#[derive(Default)]
struct State {
    live: BTreeMap<RequestId, Sequence>,
    submitted: Vec<SubmittedRequest>,
    aborts: Vec<(RequestId, AbortCause)>,
    finishes: Vec<RequestId>,
    refusals: VecDeque<SubmitError>,
    step: u64,
    step_delay: Duration,
    fault: Option<Arc<EngineFault>>,
    totals: EngineStats,
}

struct Shared {
    limits: EngineLimits,
    clock: Arc<dyn Clock>,
    script: Script,
    /// Taken before `state` and held while outputs are delivered, so that they arrive in order.
    sink: Mutex<Box<dyn OutputSink>>,
    /// Never held while the sink is called.
    state: Mutex<State>,
}

/// An engine of which the test is the executor.
pub struct ScriptedEngine {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for ScriptedEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.state.lock();
        f.debug_struct("ScriptedEngine").field("live", &state.live).field("step", &state.step).finish()
    }
}

impl ScriptedEngine {
    /// An engine that asks `script` what to do with each request. The script must not call the engine.
    ///
    /// # Panics
    /// When no thread can be started.
    #[must_use]
    pub fn scripted(
        limits: EngineLimits,
        clock: impl Clock + 'static,
        sink: impl OutputSink + 'static,
        script: impl Fn(&SubmittedRequest) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            limits,
            clock: Arc::new(clock),
            script: Box::new(script),
            sink: Mutex::new(Box::new(sink)),
            state: Mutex::default(),
        });
        // Bounded by what the test does: one command per submit, abort and finish.
        let (commands, inbox) = mpsc::channel();
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("scripted-engine".into())
            .spawn(move || run(&of_thread, &inbox))
            .expect("a thread can be started");
        Self { shared, commands, thread: Some(thread) }
    }

    /// An engine that answers every request with the same tokens, one per step, and then stops.
    #[must_use]
    pub fn echo(
        limits: EngineLimits,
        clock: impl Clock + 'static,
        sink: impl OutputSink + 'static,
        tokens: impl Into<Vec<TokenId>>,
    ) -> Self {
        let reply = Reply::tokens(tokens);
        Self::scripted(limits, clock, sink, move |_| reply.clone())
    }

    /// An engine that does nothing until the test pushes outputs. Aborts and stop strings are obeyed.
    #[must_use]
    pub fn by_hand(
        limits: EngineLimits,
        clock: impl Clock + 'static,
        sink: impl OutputSink + 'static,
    ) -> Self {
        Self::scripted(limits, clock, sink, |_| Reply::ByHand)
    }

    /// Waits so long before each step that it makes by itself.
    pub fn set_step_delay(&self, delay: Duration) {
        self.shared.state.lock().step_delay = delay;
    }

    /// Refuses the next request with `error`; several calls refuse several requests.
    pub fn refuse_next(&self, error: SubmitError) {
        self.shared.state.lock().refusals.push_back(error);
    }

    /// Every accepted request, in order.
    #[must_use]
    pub fn submitted(&self) -> Vec<SubmittedRequest> {
        self.shared.state.lock().submitted.clone()
    }

    /// Every abort that was asked for, in order.
    #[must_use]
    pub fn aborts(&self) -> Vec<(RequestId, AbortCause)> {
        self.shared.state.lock().aborts.clone()
    }

    /// Every end by a stop string that was asked for, in order.
    #[must_use]
    pub fn finishes(&self) -> Vec<RequestId> {
        self.shared.state.lock().finishes.clone()
    }

    /// The requests that have not ended, in the order of their ids.
    #[must_use]
    pub fn live(&self) -> Vec<RequestId> {
        self.shared.state.lock().live.keys().copied().collect()
    }

    /// In a new step, makes the request running, without a token. Says whether it is alive.
    pub fn schedule(&self, id: RequestId) -> bool {
        self.shared.step(|state, time| {
            state.live.get_mut(&id)?.schedule(time);
            Some(Vec::new())
        })
    }

    /// In a new step, generates these tokens for the request. Says whether it is alive.
    pub fn emit(&self, id: RequestId, tokens: &[TokenId]) -> bool {
        self.shared.step(|state, time| {
            let output = state.live.get_mut(&id)?.emit(tokens, time);
            state.totals.generation_tokens += tokens.len() as u64;
            Some(vec![output])
        })
    }

    /// In a new step, takes the request's blocks away; the next token makes it running again. Says whether
    /// it was running.
    pub fn preempt(&self, id: RequestId, by: Option<&RequestLabel>) -> bool {
        self.shared.step(|state, time| {
            let was_running = state.live.get_mut(&id)?.preempt(by.cloned(), time);
            state.totals.preemptions += u64::from(was_running);
            was_running.then(Vec::new)
        })
    }

    /// In a new step, ends the request without a further token. Says whether it was alive.
    pub fn end(&self, id: RequestId, reason: FinishReason) -> bool {
        self.shared.end(id, reason)
    }

    /// In a new step, generates these tokens, the last of which ends the request. Says whether it was alive.
    pub fn emit_last(
        &self,
        id: RequestId,
        tokens: &[TokenId],
        reason: FinishReason,
        terminator: Option<Terminator>,
    ) -> bool {
        self.shared.step(|state, time| {
            let mut sequence = state.live.remove(&id)?;
            let mut output = sequence.emit(tokens, time);
            state.totals.generation_tokens += tokens.len() as u64;
            output.finish = Some(Box::new(sequence.finish(reason, terminator, time)));
            Some(vec![output])
        })
    }

    /// The engine dies: requests in flight get no further output, later ones are refused.
    pub fn die(&self, message: &str) {
        let fault = Arc::new(EngineFault { message: message.into() });
        let mut sink = self.shared.sink.lock();
        let lost = {
            let mut state = self.shared.state.lock();
            state.fault = Some(Arc::clone(&fault));
            std::mem::take(&mut state.live)
        };
        let time = StepTime { step: self.shared.state.lock().step, at: self.shared.clock.now() };
        for mut sequence in lost.into_values() {
            sequence.end_span(FinishStatus::Error, time);
        }
        sink.engine_died(fault);
    }
}

impl Drop for ScriptedEngine {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Engine for ScriptedEngine {
    fn submit(&self, request: EngineRequest) -> Result<(), SubmitError> {
        let mut state = self.shared.state.lock();
        let death = state.fault.clone().map(SubmitError::EngineDead);
        let refusal = death.or_else(|| state.refusals.pop_front());
        if let Some(refusal) = refusal.or_else(|| self.shared.limits.check(&request).err()) {
            request.refuse();
            return Err(refusal);
        }
        let submitted = SubmittedRequest {
            id: request.id,
            label: request.label,
            prompt: request.prompt,
            sampling: request.sampling,
            arrived: request.arrived,
            is_traced: request.core_span.is_some(),
        };
        let reply = (self.shared.script)(&submitted);
        let time = StepTime { step: state.step, at: self.shared.clock.now() };
        state.totals.prompt_tokens += submitted.prompt.len() as u64;
        state.live.insert(submitted.id, Sequence::queue(&submitted, request.core_span, reply, time));
        state.submitted.push(submitted);
        drop(state);
        let _ = self.commands.send(Command::Wake);
        Ok(())
    }

    fn abort(&self, id: RequestId, cause: AbortCause) {
        self.shared.state.lock().aborts.push((id, cause));
        let _ = self.commands.send(Command::Abort(id));
    }

    fn finish(&self, id: RequestId) {
        self.shared.state.lock().finishes.push(id);
        let _ = self.commands.send(Command::Finish(id));
    }

    fn limits(&self) -> EngineLimits {
        self.shared.limits.clone()
    }

    fn stats(&self) -> EngineStats {
        self.shared.stats(&self.shared.state.lock())
    }

    fn stats_by_engine(&self) -> Vec<(u32, EngineStats)> {
        vec![(0, self.stats())]
    }

    fn fault(&self) -> Option<Arc<EngineFault>> {
        self.shared.state.lock().fault.clone()
    }
}

impl Shared {
    /// Runs one step: `work` changes the state and gives the outputs, which are then delivered. `None` means
    /// that there was nothing to do and no step is made.
    fn step(&self, work: impl FnOnce(&mut State, StepTime) -> Option<Vec<SequenceOutput>>) -> bool {
        let mut sink = self.sink.lock();
        let mut state = self.state.lock();
        let time = StepTime { step: state.step + 1, at: self.clock.now() };
        let Some(outputs) = work(&mut state, time) else { return false };
        state.step = time.step;
        let step_outputs = StepOutputs {
            engine: 0,
            block_lives: Vec::new(),
            step: time.step,
            at: time.at,
            scheduled_tokens: outputs.iter().map(|output| output.tokens.len() as u32).sum(),
            stats: self.stats(&state),
            outputs,
        };
        drop(state);
        sink.deliver(step_outputs);
        true
    }

    fn end(&self, id: RequestId, reason: FinishReason) -> bool {
        self.step(|state, time| {
            let sequence = state.live.remove(&id)?;
            Some(vec![sequence.finish_alone(reason, time)])
        })
    }

    /// One token for every sequence that the engine answers by itself. Says whether there was any.
    fn automatic_step(&self) -> bool {
        self.step(|state, time| {
            let mut outputs = Vec::new();
            let ids: Vec<_> =
                state.live.iter().filter(|(_, live)| live.is_automatic()).map(|(id, _)| *id).collect();
            for id in ids {
                let Some(mut sequence) = state.live.remove(&id) else { continue };
                let (output, goes_on) = sequence.automatic_output(time);
                state.totals.generation_tokens += output.tokens.len() as u64;
                outputs.push(output);
                if goes_on {
                    state.live.insert(id, sequence);
                }
            }
            (!outputs.is_empty()).then_some(outputs)
        })
    }

    fn stats(&self, state: &State) -> EngineStats {
        let running = state.live.values().filter(|sequence| sequence.is_running()).count() as u64;
        EngineStats {
            running,
            waiting: state.live.len() as u64 - running,
            kv_blocks_total: u64::from(self.limits.num_kv_blocks),
            kv_blocks_used: running,
            steps: state.step,
            ..state.totals
        }
    }
}

/// The engine's own thread: obeys commands, and makes steps while it has something to say by itself.
fn run(shared: &Shared, inbox: &mpsc::Receiver<Command>) {
    let mut is_busy = false;
    loop {
        let wait = if is_busy { shared.state.lock().step_delay } else { Duration::from_secs(3600) };
        match inbox.recv_timeout(wait) {
            Ok(Command::Wake) => is_busy = true,
            Ok(Command::Abort(id)) => {
                shared.end(id, FinishReason::Abort);
            }
            Ok(Command::Finish(id)) => {
                shared.end(id, FinishReason::Stop);
            }
            Err(RecvTimeoutError::Timeout) => is_busy = shared.automatic_step(),
            Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
