//! The thread that owns the scheduler: read the inbox, plan, compute, commit, deliver.
//!
//! HOT PATH: one clock reading before and one after the computation of a step; buffers are reused.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};

use tracing::{debug, error};
use wayfare_engine::{
    EngineCommand, EngineFault, EngineReply, FinishReason, OutputSink, PauseMode, SequenceOutput,
    StepOutputs, TokenId,
};
use wayfare_journey::{Clock, EngineBoard, MonoNs};
use wayfare_scheduler::Scheduler;

use crate::engine::{Done, Message, Shared};
use crate::executor::{Executor, SampleSpec, StepInput, StepSequence};
use crate::rules::RuleBook;
use crate::step_recorder::{StepRecorder, StepTracing};

/// Whether the engine goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Continue,
    Stop,
}

/// Requests in the waiting queue, and their prompt tokens.
#[derive(Clone, Copy, Default)]
struct Waiting {
    requests: u64,
    tokens: u64,
}

pub(crate) struct EngineThread {
    inbox: Receiver<Message>,
    scheduler: Scheduler,
    executor: Box<dyn Executor>,
    sink: Box<dyn OutputSink>,
    clock: Arc<dyn Clock>,
    shared: Arc<Shared>,
    /// What of `Shared::queued` and `Shared::queued_tokens` is in the scheduler's waiting queue; the rest is in
    /// the inbox.
    counted: Waiting,
    /// Called when nothing is running any more.
    draining: Vec<Done>,
    /// `None` when steps are not traced.
    steps: Option<StepRecorder>,
    /// `None` when nobody looks.
    board: Option<EngineBoard>,
    input: StepInput,
    rules: RuleBook,
    tokens: Vec<TokenId>,
    outputs: Vec<SequenceOutput>,
}

impl EngineThread {
    #[expect(clippy::too_many_arguments, reason = "the parts of an engine, each of which it is given once")]
    pub(crate) fn new(
        inbox: Receiver<Message>,
        scheduler: Scheduler,
        executor: Box<dyn Executor>,
        sink: Box<dyn OutputSink>,
        clock: Arc<dyn Clock>,
        shared: Arc<Shared>,
        vocab_size: u32,
        steps: Option<StepTracing>,
        board: Option<EngineBoard>,
    ) -> Self {
        Self {
            inbox,
            scheduler,
            executor,
            sink,
            clock,
            shared,
            counted: Waiting::default(),
            draining: Vec::new(),
            steps: steps.map(StepRecorder::new),
            board,
            input: StepInput::default(),
            rules: RuleBook::new(vocab_size),
            tokens: Vec::new(),
            outputs: Vec::new(),
        }
    }

    /// Runs until it is told to stop. A panic on the way becomes an engine fault: every request in flight
    /// ends with an error, later ones are refused.
    pub(crate) fn run(mut self) {
        let outcome = catch_unwind(AssertUnwindSafe(|| self.serve()));
        let Err(panic) = outcome else {
            self.end_all(FinishReason::Abort);
            return;
        };
        let message = panic_message(&*panic);
        error!(%message, "the engine failed; all requests in flight end with an error");
        let fault = Arc::new(EngineFault { message });
        // From here on submissions are refused; what is in the inbox already ends with the rest.
        let _ = self.shared.fault.set(Arc::clone(&fault));
        if catch_unwind(AssertUnwindSafe(|| self.end_all(FinishReason::Error))).is_err() {
            error!("the scheduler's state could not be wound up after the failure");
        }
        self.sink.engine_died(fault);
    }

    fn serve(&mut self) {
        while self.receive() == Flow::Continue {
            if self.scheduler.can_step() {
                self.step();
            }
        }
    }

    /// Reads the inbox; waits for a message only when there is nothing to compute.
    fn receive(&mut self) -> Flow {
        if !self.scheduler.can_step() {
            self.deliver(None);
            self.report_drained();
            let Some(message) = self.wait() else { return Flow::Stop };
            if self.take(message) == Flow::Stop {
                return Flow::Stop;
            }
        }
        self.receive_waiting()
    }

    /// Waits for a message; `None` when there will not be another one. An open span of steps is closed when that
    /// takes long.
    fn wait(&mut self) -> Option<Message> {
        if let Some((steps, patience)) = self.steps.as_mut().and_then(|steps| {
            let patience = steps.patience()?;
            Some((steps, patience))
        }) {
            match self.inbox.recv_timeout(patience) {
                Ok(message) => return Some(message),
                Err(RecvTimeoutError::Timeout) => steps.close(),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
        self.inbox.recv().ok()
    }

    /// Reads what is in the inbox now.
    fn receive_waiting(&mut self) -> Flow {
        loop {
            match self.inbox.try_recv() {
                Ok(message) => {
                    if self.take(message) == Flow::Stop {
                        return Flow::Stop;
                    }
                }
                Err(TryRecvError::Empty) => return Flow::Continue,
                Err(TryRecvError::Disconnected) => return Flow::Stop,
            }
        }
    }

    fn take(&mut self, message: Message) -> Flow {
        let now = self.clock.now();
        match message {
            Message::Submit(mut request) => {
                // From here on it is counted with the waiting queue.
                self.counted.requests += 1;
                self.counted.tokens += request.prompt.len() as u64;
                let (id, rules) = (request.id, self.rules.read(&mut request));
                match self.scheduler.add(*request, now) {
                    Ok(()) => self.rules.open(id, rules),
                    // The API layer numbers its requests, so this is a bug; the second one gets nothing.
                    Err(duplicate) => error!(%duplicate, "request not taken"),
                }
            }
            Message::Abort(id, cause) => {
                debug!(%id, ?cause, "abort");
                self.scheduler.finish(id, FinishReason::Abort, now, &mut self.outputs);
            }
            Message::Finish(id) => {
                self.scheduler.finish(id, FinishReason::Stop, now, &mut self.outputs);
            }
            Message::Command(command, done) => self.command(command, done, now),
            Message::Stop => return Flow::Stop,
        }
        self.recount_waiting();
        Flow::Continue
    }

    fn command(&mut self, command: EngineCommand, done: Done, now: MonoNs) {
        debug!(?command, "command");
        let mut reply = EngineReply::default();
        match command {
            EngineCommand::Pause(PauseMode::Wait) => {
                self.scheduler.pause(false, now);
                self.draining.push(done);
                return;
            }
            EngineCommand::Pause(PauseMode::Keep) => self.scheduler.pause(true, now),
            EngineCommand::Pause(PauseMode::Abort) => {
                self.scheduler.pause(true, now);
                reply.aborted = self.scheduler.finish_all(FinishReason::Abort, now, &mut self.outputs);
            }
            EngineCommand::Resume => {
                self.scheduler.resume(now);
                // Who paused it waits for nothing any more.
                self.report_drained();
            }
            EngineCommand::ResetPrefixCache { preempt_running } => {
                let outcome = self.scheduler.reset_prefix_cache(preempt_running, now);
                reply.preempted = outcome.preempted;
                reply.forgotten_blocks = outcome.forgotten_blocks;
            }
        }
        // Before the answer, so that whoever gets it sees the new state.
        self.deliver(None);
        (done.0)(reply);
    }

    /// Answers those who wait until nothing is running any more.
    fn report_drained(&mut self) {
        self.draining.drain(..).for_each(|done| (done.0)(EngineReply::default()));
    }

    fn step(&mut self) {
        let started = self.clock.now();
        if let Some(steps) = &mut self.steps {
            steps.begin(self.scheduler.step() + 1, started);
        }
        let scheduled_tokens = self.scheduler.schedule(started).total_tokens;
        self.recount_waiting();
        if let Some(steps) = &mut self.steps {
            steps.planned(&self.scheduler, &*self.clock);
        }
        fill(&mut self.input, &self.scheduler, &mut self.rules);
        self.tokens.clear();
        let result = self.executor.execute(&self.input, &mut self.rules, &mut self.tokens);
        let computed = self.clock.now();
        let outputs_before = self.outputs.len();
        match result {
            Ok(()) => {
                for (id, failure) in self.rules.take_failures() {
                    error!(%id, %failure, "no token can be chosen; the request ends with an error");
                    self.scheduler.finish(id, FinishReason::Error, computed, &mut self.outputs);
                }
                self.scheduler.commit(&self.tokens, computed, &mut self.outputs);
            }
            Err(failure) => {
                error!(step = self.input.step, %failure, "a step failed; its requests end with an error");
                self.scheduler.fail_step(computed, &mut self.outputs);
            }
        }
        if let Some(steps) = &mut self.steps {
            steps.end(&self.scheduler, &self.outputs[outputs_before..], computed, &*self.clock);
        }
        debug_assert_eq!(self.scheduler.check_invariants(), Ok(()));
        self.deliver(Some((computed, scheduled_tokens)));
    }

    /// Publishes the state, and hands on what is new, if anything is.
    fn deliver(&mut self, step: Option<(MonoNs, u32)>) {
        let stats = self.scheduler.stats();
        self.shared.stats.store(&stats);
        if let Some(board) = &self.board {
            board.show_totals(&stats.totals());
        }
        if self.outputs.is_empty() && step.is_none() {
            return;
        }
        if !self.rules.is_empty() {
            self.follow_rules();
        }
        let (at, scheduled_tokens) = step.unwrap_or_else(|| (self.clock.now(), 0));
        let capacity = self.outputs.len();
        let outputs = std::mem::replace(&mut self.outputs, Vec::with_capacity(capacity));
        let step = if scheduled_tokens > 0 { self.scheduler.step() } else { 0 };
        let block_lives = self.scheduler.take_block_lives();
        self.sink.deliver(StepOutputs { engine: 0, step, at, scheduled_tokens, stats, block_lives, outputs });
    }

    /// Adds to the outputs what their requests asked for besides tokens, and forgets those that ended.
    fn follow_rules(&mut self) {
        for output in &mut self.outputs {
            if let Some(rules) = self.rules.of(output.id) {
                output.details = rules.take_details(output.first.is_some());
            }
            if output.finish.is_some() {
                self.rules.close(output.id);
            }
        }
    }

    /// Gives the places of those that have left the waiting queue free; takes one for each that came back.
    fn recount_waiting(&mut self) {
        let waiting =
            Waiting { requests: self.scheduler.num_waiting(), tokens: self.scheduler.waiting_tokens() };
        shift(&self.shared.queued, self.counted.requests, waiting.requests);
        shift(&self.shared.queued_tokens, self.counted.tokens, waiting.tokens);
        self.counted = waiting;
    }

    /// Ends what is in the scheduler and in the inbox.
    fn end_all(&mut self, reason: FinishReason) {
        while let Ok(message) = self.inbox.try_recv() {
            self.take(message);
        }
        let now = self.clock.now();
        self.scheduler.finish_all(reason, now, &mut self.outputs);
        self.recount_waiting();
        self.deliver(None);
        if let Some(steps) = &mut self.steps {
            steps.close();
        }
    }
}

/// Changes a count that others change as well by what one part of it has changed.
fn shift(count: &AtomicU64, before: u64, after: u64) {
    if after > before {
        count.fetch_add(after - before, Ordering::AcqRel);
    } else if after < before {
        count.fetch_sub(before - after, Ordering::AcqRel);
    }
}

/// Copies the plan into the flat form that executors take.
fn fill(input: &mut StepInput, scheduler: &Scheduler, rules: &mut RuleBook) {
    input.clear();
    input.step = scheduler.step();
    for planned in scheduler.planned() {
        // All of these are bounded by the token budget and the number of KV blocks, both `u32`.
        let token_start = input.token_ids.len() as u32;
        let block_start = input.block_tables.len() as u32;
        input.token_ids.extend_from_slice(planned.tokens);
        input.block_tables.extend_from_slice(planned.blocks);
        let num_tokens = planned.tokens.len() as u32;
        let rules = if rules.is_empty() { None } else { rules.of(planned.id) };
        let samples = u32::from(planned.sample.is_some());
        let prompt_rows =
            rules.as_ref().map(|rules| rules.num_prompt_rows(planned.first_position, num_tokens));
        input.sequences.push(StepSequence {
            id: planned.id,
            slot: planned.slot as u32,
            token_start,
            num_tokens,
            first_position: planned.first_position,
            block_start,
            num_blocks: planned.blocks.len() as u32,
            sample: planned.sample.map(|(sampling, output_index)| SampleSpec {
                temperature: sampling.temperature,
                top_p: sampling.top_p,
                top_k: sampling.top_k,
                min_p: sampling.min_p,
                seed: sampling.seed,
                output_index,
            }),
            num_logits: samples.max(prompt_rows.unwrap_or(0)),
            has_rules: rules.is_some(),
        });
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    text.or(owned).unwrap_or("a panic without a message").to_owned()
}
