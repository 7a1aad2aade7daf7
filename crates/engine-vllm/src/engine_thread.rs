//! The thread that owns the requests in flight: sends them, reads what engine cores answer, delivers.
//!
//! HOT PATH: one message of an engine core is one step, read into memory that is used again, and delivered as one batch.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use smallvec::SmallVec;
use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};
use wayfare_engine::{
    EngineCommand, EngineFault, EngineReply, EngineStats, FinishReason, OutputSink, PauseMode, RequestId,
    SequenceOutput, StepOutputs,
};
use wayfare_journey::{Clock, EngineBoard, MonoNs};
use zeromq::{RouterSendHalf, SocketSend as _};

use crate::engine::{Done, Message, Outlets, Promised, Shared, Submission};
use crate::incoming::{Incoming, read_all};
use crate::rank::Rank;
use crate::sequence::{MappedEvent, Sequence};
use crate::sockets::{Ranks, message};
use crate::startup::{Connected, ReadyRank};
use crate::table::Table;
use crate::wire::{
    ENGINE_CORE_DEAD, EngineMessage, MESSAGE_ABORT, MESSAGE_ADD, MESSAGE_UTILITY, RequestOutput,
    UtilityArgument, UtilityResult, WireId, encode_abort, encode_utility,
};

/// What has been sent last gets so long to leave.
const FLUSH_TIME: Duration = Duration::from_millis(100);
/// A connection that takes nothing for so long belongs to an engine core that is stuck.
const SEND_TIME: Duration = Duration::from_secs(5);
/// How an engine core is paused that has come while all were.
const PAUSE_AND_KEEP: [UtilityArgument; 2] = [UtilityArgument::Text("keep"), UtilityArgument::Flag(false)];
/// The place of a request's name in its message: behind the array's header and that of the text.
const NAME_PLACE: std::ops::Range<usize> = 2..2 + WireId::TEXT_BYTES;

/// A command that engine cores are carrying out.
struct PendingCommand {
    calls: Vec<(u16, u64)>,
    reply: EngineReply,
    failed: bool,
    done: Done,
}

pub(crate) struct EngineThread {
    inbox: mpsc::UnboundedReceiver<Message>,
    incoming: mpsc::Receiver<Incoming>,
    sender: RouterSendHalf,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    names: Ranks,
    ranks: Vec<Rank>,
    promised: Promised,
    /// Waits for others when all are lost. Otherwise that is the end.
    takes_back: bool,
    table: Table,
    pending: Vec<PendingCommand>,
    calls: u64,
    /// Where the state is shown, when journeys are traced.
    board: Option<EngineBoard>,
    /// Read into again and again.
    message: EngineMessage,
    outputs: Vec<SequenceOutput>,
}

impl EngineThread {
    pub(crate) fn new(
        connected: Connected,
        inbox: mpsc::UnboundedReceiver<Message>,
        shared: Arc<Shared>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let Connected { names, ranks, input, outputs, reception, watch, takes_back } = connected;
        Self {
            inbox,
            // On the thread's own runtime, and gone with it.
            incoming: read_all(names, outputs, reception, watch, takes_back, &clock),
            sender: input,
            shared,
            clock,
            names,
            promised: Promised::of(&ranks),
            ranks: (0_u16..)
                .zip(&ranks)
                .map(|(rank, ready)| Rank::new(names.identity(rank), ready))
                .collect(),
            takes_back,
            table: Table::default(),
            pending: Vec::new(),
            calls: 0,
            board: None,
            message: EngineMessage::default(),
            outputs: Vec::new(),
        }
    }

    pub(crate) fn total_kv_blocks(&self) -> u64 {
        self.ranks.iter().map(|rank| rank.num_kv_blocks).sum()
    }

    /// Runs until it is told to stop, or until no engine core is left. A panic on the way is the end of all engine cores:
    /// every request in flight ends with an error, later ones are refused.
    pub(crate) async fn run(mut self, outlets: Outlets) {
        let Outlets { mut sink, board } = outlets;
        self.board = board;
        if AssertUnwindSafe(self.serve(&mut *sink)).catch_unwind().await.is_ok() {
            return;
        }
        let problem = "what it said was too much for the server, which is a bug";
        self.takes_back = false;
        if catch_unwind(AssertUnwindSafe(|| self.all_died(problem, &mut *sink))).is_err() {
            let fault = Arc::new(EngineFault { message: problem.to_owned() });
            self.shared.fault.store(Some(Arc::clone(&fault)));
            sink.engine_died(fault);
        }
        self.refuse_inbox(&mut *sink).await;
    }

    /// Whatever is in the inbox was accepted before the fault was known.
    async fn refuse_inbox(&mut self, sink: &mut dyn OutputSink) {
        self.inbox.close();
        while let Some(told) = self.inbox.recv().await {
            self.told(told, sink).await;
        }
    }

    async fn serve(&mut self, sink: &mut dyn OutputSink) {
        self.publish();
        loop {
            tokio::select! {
                biased;
                incoming = self.incoming.recv() => match incoming {
                    Some(Incoming::Frames { rank, frames, at }) => self.hear(rank, &frames, at, sink),
                    Some(Incoming::Disconnected { rank, connection }) => {
                        if self.ranks[usize::from(rank)].connection == connection {
                            self.rank_died(rank, "its connection was closed", sink);
                        }
                    }
                    Some(Incoming::Returned { rank, ready }) => self.returned(rank, &ready, sink).await,
                    Some(Incoming::AllLost { problem }) => self.all_died(&problem, sink),
                    None => {
                        self.takes_back = false;
                        self.all_died("the sockets have failed", sink);
                    }
                },
                told = self.inbox.recv() => match told {
                    None | Some(Message::Stop) => break,
                    Some(told) => self.told(told, sink).await,
                },
            }
            if !self.takes_back && self.shared.fault.load().is_some() {
                return self.refuse_inbox(sink).await;
            }
        }
        self.stop(sink).await;
    }

    async fn told(&mut self, told: Message, sink: &mut dyn OutputSink) {
        match told {
            Message::Submit(submission) => self.submit(*submission, sink).await,
            Message::Abort(id, cause) => {
                debug!(%id, ?cause, "abort");
                self.give_up(id, FinishReason::Abort, sink).await;
            }
            Message::Finish(id) => self.give_up(id, FinishReason::Stop, sink).await,
            Message::Command(command, done) => self.command(command, done).await,
            Message::Stop => {}
        }
    }

    async fn submit(&mut self, submission: Submission, sink: &mut dyn OutputSink) {
        let Submission { request, rank, mut frame } = submission;
        let now = self.clock.now();
        let sequence = Sequence::new(request, rank, self.ranks[usize::from(rank)].clock.source(), now);
        if self.ranks[usize::from(rank)].is_dead {
            self.end_one(sequence, FinishReason::Error, now);
            self.deliver(rank, None, sink);
            return;
        }
        let id = self.table.insert(sequence);
        frame[NAME_PLACE].copy_from_slice(&id.text());
        self.send(rank, MESSAGE_ADD, frame, sink).await;
    }

    /// The API layer wants no more of a request. The engine core answers nothing to that, so its end is made here.
    async fn give_up(&mut self, id: RequestId, reason: FinishReason, sink: &mut dyn OutputSink) {
        let Some(name) = self.table.find(id) else { return };
        let Some(sequence) = self.table.remove(name) else { return };
        let rank = sequence.rank;
        let now = self.clock.now();
        self.end_one(*sequence, reason, now);
        self.deliver(rank, None, sink);
        self.send(rank, MESSAGE_ABORT, encode_abort(&[name]), sink).await;
    }

    fn end_one(&mut self, mut sequence: Sequence, reason: FinishReason, now: MonoNs) {
        let rank = usize::from(sequence.rank);
        self.outputs.push(sequence.give_up(reason, now, &self.ranks[rank].history));
        self.shared.loads[rank].in_flight.fetch_sub(1, Ordering::AcqRel);
    }

    async fn send(&mut self, rank: u16, kind: &'static [u8], payload: Vec<u8>, sink: &mut dyn OutputSink) {
        if self.ranks[usize::from(rank)].is_dead {
            return;
        }
        let identity = self.ranks[usize::from(rank)].identity.clone();
        let message = message([identity, Bytes::from_static(kind), payload.into()]);
        let problem = match tokio::time::timeout(SEND_TIME, self.sender.send(message)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => format!("it cannot be reached: {error}"),
            Err(_) => "it takes no more messages".to_owned(),
        };
        self.rank_died(rank, &problem, sink);
    }

    /// Takes a message of an engine core.
    fn hear(&mut self, rank: u16, frames: &[Bytes], at: MonoNs, sink: &mut dyn OutputSink) {
        let index = usize::from(rank);
        if self.ranks[index].is_dead {
            return;
        }
        if let [only] = frames
            && &**only == ENGINE_CORE_DEAD
        {
            self.rank_died(rank, "it says that it has failed; its log says why", sink);
            return;
        }
        let mut message = std::mem::take(&mut self.message);
        let problem = message.read(frames, self.ranks[index].layout).err();
        if let Some(problem) = problem {
            self.rank_died(rank, &format!("a message of it cannot be read: {problem}"), sink);
            self.message = message;
            return;
        }
        self.ranks[index].clock.observe(message.timestamp, at);
        if let Some(utility) = message.utility.take() {
            self.answered(rank, &utility);
        }
        if !message.outputs.is_empty() || message.scheduler_stats.is_some() {
            self.step(rank, &mut message, at, sink);
        }
        self.message = message;
    }

    /// A step of an engine core.
    fn step(&mut self, rank: u16, message: &mut EngineMessage, at: MonoNs, sink: &mut dyn OutputSink) {
        let index = usize::from(rank);
        let end = self.ranks[index].clock.ours(message.timestamp, at);
        let mut step = self.ranks[index].history.add(end);
        let (prefill, decode) = match message.scheduler_stats.and_then(|stats| stats.iteration) {
            Some(iteration) => (iteration.prefill_tokens, iteration.decode_tokens),
            None => self.estimate(index, &message.outputs),
        };
        let tokens = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        (step.prefill_tokens, step.total_tokens) = (tokens(prefill), tokens(prefill.saturating_add(decode)));
        for output in &mut message.outputs {
            let Some(id) = output.id else { continue };
            // Not found are those that were aborted while it was under way.
            let Some(sequence) = self.table.get_mut(id).filter(|sequence| sequence.rank == rank) else {
                continue;
            };
            let Rank { clock, history, .. } = &self.ranks[index];
            let map = |event: &crate::wire::EngineEvent| MappedEvent {
                kind: event.kind,
                at: clock.ours(event.timestamp, at),
            };
            let events: SmallVec<[MappedEvent; 3]> = output.events.iter().map(map).collect();
            if let Some(error) = &output.error {
                warn!(id = %sequence.id, code = error.code, message = error.message, "the engine failed a request");
            }
            let had_begun = sequence.has_begun();
            let delivered = sequence.take(output, &events, &step, history);
            let preemptions = events.iter().filter(|event| event.is_preemption()).count();
            let totals = &mut self.ranks[index].totals;
            totals.preemptions += preemptions as u64;
            totals.generation_tokens += delivered.tokens.len() as u64;
            if !had_begun && sequence.has_begun() {
                totals.prompt_tokens += sequence.prompt_tokens();
            }
            if delivered.finish.is_some() {
                self.table.remove(id);
                self.shared.loads[index].in_flight.fetch_sub(1, Ordering::AcqRel);
            }
            self.outputs.push(delivered);
        }
        if let Some(stats) = message.scheduler_stats {
            self.shared.loads[index].waiting.store(stats.waiting, Ordering::Relaxed);
            let rank = &mut self.ranks[index];
            rank.totals.prefix_cache_queries += stats.prefix_queries;
            rank.totals.prefix_cache_hits += stats.prefix_hits;
            rank.said = Some(stats);
        }
        if let Some(board) = &self.board {
            board.begin_step(step.number, step.previous_end);
            board.end_step(step.end);
        }
        self.deliver(rank, Some((step.number, step.end, step.total_tokens)), sink);
    }

    /// Prompt tokens and output tokens of a step that does not say them: the prompts that were completed, as far as they
    /// fit into a step.
    fn estimate(&mut self, rank: usize, outputs: &[RequestOutput]) -> (u64, u64) {
        let (mut prefill, mut decode) = (0_u64, 0_u64);
        for output in outputs {
            let Some(sequence) = output.id.and_then(|id| self.table.get_mut(id)) else { continue };
            if sequence.has_begun() {
                decode += output.tokens.len() as u64;
            } else if !output.tokens.is_empty() {
                prefill += u64::from(sequence.prefilled_by(output));
            }
        }
        let room = u64::from(self.ranks[rank].max_num_batched_tokens).saturating_sub(decode);
        (prefill.min(room), decode)
    }

    /// Publishes the state, and hands on what is new of a rank, if anything is.
    fn deliver(&mut self, rank: u16, step: Option<(u64, MonoNs, u32)>, sink: &mut dyn OutputSink) {
        let stats = self.publish();
        if self.outputs.is_empty() && step.is_none() {
            return;
        }
        let (step, at, scheduled_tokens) = step.unwrap_or_else(|| (0, self.clock.now(), 0));
        let capacity = self.outputs.len();
        let outputs = std::mem::replace(&mut self.outputs, Vec::with_capacity(capacity));
        sink.deliver(StepOutputs {
            engine: rank,
            step,
            at,
            scheduled_tokens,
            stats,
            block_lives: Vec::new(),
            outputs,
        });
    }

    fn publish(&mut self) -> EngineStats {
        let is_paused = self.shared.is_paused.load(Ordering::Relaxed);
        let mut stats = EngineStats::default();
        for (rank, load) in self.ranks.iter().zip(&self.shared.loads) {
            let of_rank = rank.stats(load.in_flight.load(Ordering::Relaxed), is_paused);
            load.stats.store(&of_rank);
            stats += of_rank;
        }
        if let Some(board) = &self.board {
            board.show_totals(&stats.totals());
        }
        stats
    }

    /// An engine core will say nothing more: its requests end with an error, those of the others go on.
    fn rank_died(&mut self, rank: u16, problem: &str, sink: &mut dyn OutputSink) {
        let index = usize::from(rank);
        let Some(lost) = self.ranks.get_mut(index).filter(|rank| !rank.is_dead) else { return };
        lost.is_dead = true;
        let load = &self.shared.loads[index];
        load.is_dead.store(true, Ordering::Release);
        load.waiting.store(0, Ordering::Relaxed);
        let names = self.table.select(|sequence| sequence.rank == rank);
        let alive = self.ranks.iter().filter(|rank| !rank.is_dead).count();
        let number = self.names.number(rank);
        error!(requests = names.len(), "vLLM engine {number} is lost: {problem}; {alive} engines are left");
        let fault = (alive == 0)
            .then(|| Arc::new(EngineFault { message: format!("vLLM engine {number} is lost: {problem}") }));
        if let Some(fault) = &fault {
            // From here on submissions are refused.
            self.shared.fault.store(Some(Arc::clone(fault)));
        }
        let now = self.clock.now();
        for name in names {
            if let Some(sequence) = self.table.remove(name) {
                self.end_one(*sequence, FinishReason::Error, now);
            }
        }
        self.deliver(rank, None, sink);
        self.pending.iter_mut().for_each(|pending| pending.calls.retain(|(of, _)| *of != rank));
        self.finish_commands();
        if let Some(fault) = fault.filter(|_| !self.takes_back) {
            sink.engine_died(fault);
        }
    }

    /// An engine core has been started in the place of one that is lost, or of one whose loss has not been noticed.
    async fn returned(&mut self, rank: u16, ready: &ReadyRank, sink: &mut dyn OutputSink) {
        let number = self.names.number(rank);
        self.rank_died(rank, "another one has taken its place", sink);
        if let Some(problem) = self.promised.broken_by(ready) {
            error!(
                "vLLM engine {number} was started again with other options and gets no requests: {problem}"
            );
            return;
        }
        let index = usize::from(rank);
        self.ranks[index].replace(ready);
        if self.shared.is_paused.load(Ordering::Relaxed) {
            self.call(rank, "pause_scheduler", &PAUSE_AND_KEEP).await;
        }
        self.shared.loads[index].is_dead.store(false, Ordering::Release);
        self.shared.fault.store(None);
        let alive = self.ranks.iter().filter(|rank| !rank.is_dead).count();
        info!("vLLM engine {number} is back; {alive} of {} serve", self.ranks.len());
        self.publish();
    }

    fn all_died(&mut self, problem: &str, sink: &mut dyn OutputSink) {
        for rank in 0..self.ranks.len() {
            self.rank_died(rank as u16, problem, sink);
        }
    }

    async fn command(&mut self, command: EngineCommand, done: Done) {
        debug!(?command, "command");
        let mut reply = EngineReply::default();
        let (method, arguments) = match command {
            EngineCommand::Pause(mode) => {
                let word = match mode {
                    PauseMode::Keep => "keep",
                    PauseMode::Wait => "wait",
                    PauseMode::Abort => "abort",
                };
                if mode == PauseMode::Abort {
                    reply.aborted = self.table.len() as u64;
                }
                self.shared.is_paused.store(true, Ordering::Release);
                ("pause_scheduler", vec![UtilityArgument::Text(word), UtilityArgument::Flag(false)])
            }
            EngineCommand::Resume => {
                self.shared.is_paused.store(false, Ordering::Release);
                ("resume_scheduler", Vec::new())
            }
            EngineCommand::ResetPrefixCache { preempt_running } => (
                "reset_prefix_cache",
                vec![UtilityArgument::Flag(preempt_running), UtilityArgument::Flag(false)],
            ),
        };
        self.publish();
        let mut calls = Vec::new();
        for rank in 0..self.names.count {
            if self.ranks[usize::from(rank)].is_dead {
                continue;
            }
            calls.extend(self.call(rank, method, &arguments).await.map(|call| (rank, call)));
        }
        // Nobody is there to carry it out.
        let failed = calls.is_empty();
        self.pending.push(PendingCommand { calls, reply, failed, done });
        self.finish_commands();
    }

    /// Calls a method of an engine core; returns the number of the call. One that cannot be reached is noticed by its
    /// connection.
    async fn call(&mut self, rank: u16, method: &str, arguments: &[UtilityArgument]) -> Option<u64> {
        self.calls += 1;
        let frame = encode_utility(self.calls, method, arguments);
        let identity = self.ranks[usize::from(rank)].identity.clone();
        let call = message([identity, Bytes::from_static(MESSAGE_UTILITY), frame.into()]);
        let sent = tokio::time::timeout(SEND_TIME, self.sender.send(call)).await;
        matches!(sent, Ok(Ok(()))).then_some(self.calls)
    }

    fn answered(&mut self, rank: u16, answer: &UtilityResult) {
        let Ok(call_id) = u64::try_from(answer.call_id) else { return };
        let Some(pending) = self.pending.iter_mut().find(|one| one.calls.contains(&(rank, call_id))) else {
            return;
        };
        pending.calls.retain(|call| *call != (rank, call_id));
        if let Some(failure) = &answer.failure {
            warn!(failure, "vLLM engine {rank} has not carried out a command");
            pending.failed = true;
        }
        self.finish_commands();
    }

    /// Answers those whose commands are carried out. One that failed is not answered, which its asker notices.
    fn finish_commands(&mut self) {
        let is_over = |pending: &mut PendingCommand| pending.calls.is_empty();
        for over in self.pending.extract_if(.., is_over) {
            if !over.failed {
                (over.done)(over.reply);
            }
        }
    }

    /// Ends what is in flight, and lets the engine cores know.
    async fn stop(&mut self, sink: &mut dyn OutputSink) {
        self.refuse_inbox(sink).await;
        let now = self.clock.now();
        let mut aborted: BTreeMap<u16, Vec<WireId>> = BTreeMap::new();
        for name in self.table.select(|_| true) {
            if let Some(sequence) = self.table.get_mut(name) {
                aborted.entry(sequence.rank).or_default().push(name);
            }
        }
        if aborted.is_empty() {
            return;
        }
        for (rank, names) in &aborted {
            for name in names {
                if let Some(sequence) = self.table.remove(*name) {
                    self.end_one(*sequence, FinishReason::Abort, now);
                }
            }
            self.deliver(*rank, None, sink);
        }
        for (rank, names) in aborted {
            self.send(rank, MESSAGE_ABORT, encode_abort(&names), sink).await;
        }
        tokio::time::sleep(FLUSH_TIME).await;
    }
}
