//! Drives a scheduler without an engine: time is a counter, every sampled token is chosen by the test.

use std::sync::Arc;

use parking_lot::Mutex;
use wayfare_engine::{
    EngineRequest, Finish, FinishReason, RequestId, SamplingParams, SequenceOutput, TokenId,
};
use wayfare_journey::{
    Clock, CoreEventKind, FinishedJourney, HeadSampler, IncomingHeaders, JourneySink, MonoNs, RequestLabel,
    Tracer,
};
use wayfare_scheduler::{Scheduler, SchedulerConfig};
use wayfare_testkit::greedy;

pub(crate) const END_OF_TEXT: TokenId = 2;
const ORDINARY_TOKEN: TokenId = 7;

#[derive(Debug)]
struct NoClock;

impl Clock for NoClock {
    fn now(&self) -> MonoNs {
        MonoNs(1)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Captured(Mutex<Vec<FinishedJourney>>);

impl JourneySink for Captured {
    fn accept(&self, journey: FinishedJourney) {
        self.0.lock().push(journey);
    }
}

pub(crate) struct Rig {
    pub(crate) scheduler: Scheduler,
    pub(crate) now: MonoNs,
    pub(crate) outputs: Vec<SequenceOutput>,
    /// The token that the n-th sampling sequence of a step gets; an ordinary one beyond.
    pub(crate) next_tokens: Vec<TokenId>,
    tracer: Tracer,
    captured: Arc<Captured>,
}

pub(crate) fn config(seqs: u32, budget: u32, blocks: u32) -> SchedulerConfig {
    SchedulerConfig {
        max_num_seqs: seqs,
        max_num_batched_tokens: budget,
        max_model_len: 4096,
        block_size: 16,
        num_kv_blocks: blocks,
    }
}

impl Rig {
    pub(crate) fn new(config: SchedulerConfig) -> Self {
        let captured = Arc::new(Captured::default());
        let all = HeadSampler::new(1.0).unwrap();
        Self {
            scheduler: Scheduler::new(config).unwrap(),
            now: MonoNs(1000),
            outputs: Vec::new(),
            next_tokens: Vec::new(),
            tracer: Tracer::new(Arc::new(NoClock), all, captured.clone()),
            captured,
        }
    }

    pub(crate) fn add(&mut self, id: u64, prompt_tokens: u32, max_tokens: u32) {
        let label = RequestLabel::new(&format!("r{id}"));
        let span = self.tracer.admit(IncomingHeaders::default(), "/test", self.now).span.unwrap();
        span.handle().identified(&label);
        let core_span = span.handle().open_cores(&[(prompt_tokens, max_tokens)], self.now).pop();
        span.complete(self.now);
        let request = EngineRequest {
            id: RequestId(id),
            label,
            prompt: vec![5; prompt_tokens as usize].into(),
            sampling: SamplingParams { stop_token_ids: [3].into(), ..greedy(max_tokens, &[END_OF_TEXT]) },
            arrived: self.now,
            core_span,
        };
        self.scheduler.add(request, self.now).unwrap();
    }

    /// One step; every time reading is 1 ms after the one before. Returns it as text:
    /// `step: id[first..end] …`, with `*` where a token is sampled.
    pub(crate) fn step(&mut self) -> String {
        self.now.0 += 1_000_000;
        self.scheduler.schedule(self.now);
        let planned = self.scheduler.planned().map(|sequence| {
            let end = sequence.first_position as usize + sequence.tokens.len();
            let mark = if sequence.sample.is_some() { "*" } else { "" };
            format!(" {}[{}..{end}]{mark}", sequence.id, sequence.first_position)
        });
        let text = planned.fold(format!("{}:", self.scheduler.step()), |line, part| line + &part);
        let sampling = self.scheduler.planned().filter(|sequence| sequence.sample.is_some()).count();
        let tokens: Vec<TokenId> = (0..sampling)
            .map(|index| self.next_tokens.get(index).copied().unwrap_or(ORDINARY_TOKEN))
            .collect();
        self.now.0 += 1_000_000;
        self.scheduler.commit(&tokens, self.now, &mut self.outputs);
        self.scheduler.check_invariants().unwrap();
        text
    }

    pub(crate) fn steps(&mut self, count: usize) -> String {
        (0..count).map(|_| self.step() + "\n").collect()
    }

    pub(crate) fn finish(&mut self, id: u64, reason: FinishReason) {
        self.scheduler.finish(RequestId(id), reason, self.now, &mut self.outputs);
        self.scheduler.check_invariants().unwrap();
    }

    pub(crate) fn finish_of(&self, id: u64) -> Option<&Finish> {
        self.outputs.iter().filter(|output| output.id == RequestId(id)).find_map(|o| o.finish.as_deref())
    }

    /// The journey of a finished request, an event a line.
    pub(crate) fn journey(&self, id: u64) -> String {
        let journeys = self.captured.0.lock();
        let label = format!("r{id}");
        let journey = journeys
            .iter()
            .find(|journey| journey.cell().label().is_some_and(|l| l.as_str() == label))
            .expect("the request has ended");
        let (_, core) = journey.cores().next().expect("it had a core span");
        core.events
            .iter()
            .map(|event| {
                let kind = match &event.kind {
                    CoreEventKind::Queued => "QUEUED".into(),
                    CoreEventKind::Scheduled { kind, scheduled_tokens, .. } => {
                        format!("SCHEDULED {} {scheduled_tokens}", kind.as_str())
                    }
                    CoreEventKind::FirstToken => "FIRST_TOKEN".into(),
                    CoreEventKind::Preempted { by, tokens_lost, blocks_freed } => {
                        let by = by.as_ref().map_or("itself", RequestLabel::as_str);
                        format!("PREEMPTED by {by} lost {tokens_lost} freed {blocks_freed}")
                    }
                    CoreEventKind::Finished { status } => format!("FINISHED {}", status.as_str()),
                };
                format!(
                    "step {} {} prefill {}/{} decode {}/{} preemptions {} {kind}\n",
                    event.step,
                    event.phase.as_str(),
                    event.progress.prefill_done,
                    core.prefill_total,
                    event.progress.decode_done,
                    core.decode_max,
                    event.num_preemptions,
                )
            })
            .collect()
    }
}
