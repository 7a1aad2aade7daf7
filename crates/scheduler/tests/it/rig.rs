//! Drives a scheduler without an engine: time is a counter, every sampled token is chosen by the test.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use wayfare_engine::{
    EngineRequest, Finish, FinishReason, RequestId, SamplingParams, SequenceOutput, TokenId,
};
use wayfare_journey::{
    ApiSpan, Clock, CoreEventKind, EngineBoard, FinishedJourney, HeadSampler, IncomingHeaders, JourneyCell,
    JourneySink, MonoNs, RequestLabel, SequenceKey, SequenceView, Tracer, Wait,
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
    config: SchedulerConfig,
    tracer: Tracer,
    captured: Arc<Captured>,
    /// By what the live view names the sequences.
    shown: HashMap<RequestId, (SequenceKey, Arc<JourneyCell>)>,
}

pub(crate) fn config(seqs: u32, budget: u32, blocks: u32) -> SchedulerConfig {
    SchedulerConfig::with_sizes(seqs, budget, 4096, 16, blocks)
}

/// What a request asks for.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) prompt: Vec<TokenId>,
    pub(crate) max_tokens: u32,
    pub(crate) priority: i32,
    pub(crate) salt: Option<&'static str>,
}

impl Asked {
    /// One token after this prompt.
    pub(crate) fn of(prompt: Vec<TokenId>) -> Self {
        Self { prompt, max_tokens: 1, priority: 0, salt: None }
    }
}

fn label(id: u64) -> RequestLabel {
    RequestLabel::new(&format!("r{id}"))
}

impl Rig {
    pub(crate) fn new(config: SchedulerConfig) -> Self {
        let captured = Arc::new(Captured::default());
        let all = HeadSampler::new(1.0).unwrap();
        let tracer = Tracer::new(Arc::new(NoClock), all, captured.clone());
        let mut scheduler = Scheduler::new(config).unwrap();
        scheduler.show_on(tracer.board().clone());
        Self {
            scheduler,
            now: MonoNs(1000),
            outputs: Vec::new(),
            next_tokens: Vec::new(),
            config,
            tracer,
            captured,
            shown: HashMap::new(),
        }
    }

    pub(crate) fn add(&mut self, id: u64, prompt_tokens: u32, max_tokens: u32) {
        self.add_asked(id, Asked { max_tokens, ..Asked::of(vec![5; prompt_tokens as usize]) });
    }

    /// Adds a request of one sequence whose response is over at once.
    pub(crate) fn add_asked(&mut self, id: u64, asked: Asked) {
        let span = self.open(id);
        self.submit(&span, &[id], asked);
        span.complete(self.now);
    }

    /// Opens the API part of a request.
    pub(crate) fn open(&self, id: u64) -> ApiSpan {
        let span = self.tracer.admit(IncomingHeaders::default(), "/test", self.now).span.unwrap();
        span.handle().identified(&label(id));
        span
    }

    /// Adds the sequences of a request.
    pub(crate) fn submit(&mut self, span: &ApiSpan, ids: &[u64], asked: Asked) {
        let sizes: Vec<_> = ids.iter().map(|_| (asked.prompt.len() as u32, asked.max_tokens)).collect();
        let core_spans = span.handle().open_cores(&sizes, self.now);
        let prompt: Arc<[TokenId]> = asked.prompt.into();
        for (id, span) in ids.iter().zip(&core_spans) {
            let cell = self.tracer.in_flight().find(|cell| cell.key() == span.key().request).unwrap();
            self.shown.insert(RequestId(*id), (span.key(), cell));
        }
        for (id, core_span) in ids.iter().zip(core_spans) {
            let request = EngineRequest {
                id: RequestId(*id),
                label: label(*id),
                prompt: Arc::clone(&prompt),
                sampling: SamplingParams {
                    stop_token_ids: [3].into(),
                    ..greedy(asked.max_tokens, &[END_OF_TEXT])
                },
                constraint: None,
                priority: asked.priority,
                cache_salt: asked.salt.map(Into::into),
                arrived: self.now,
                core_span: Some(core_span),
            };
            self.scheduler.add(request, self.now).unwrap();
        }
    }

    /// One step; every time reading is 1 ms after the one before. Returns it as text:
    /// `step: id[first..end] …`, with `*` where a token is sampled.
    pub(crate) fn step(&mut self) -> String {
        self.plan();
        let planned = self.scheduler.planned().map(|sequence| {
            let end = sequence.first_position as usize + sequence.tokens.len();
            let mark = if sequence.sample.is_some() { "*" } else { "" };
            format!(" {}[{}..{end}]{mark}", sequence.id, sequence.first_position)
        });
        let text = planned.fold(format!("{}:", self.scheduler.step()), |line, part| line + &part);
        self.compute();
        text
    }

    /// One step, as [`Rig::step`], with the blocks of each sequence and without the number.
    pub(crate) fn step_with_blocks(&mut self) -> String {
        self.plan();
        let planned = self.scheduler.planned().map(|sequence| {
            let end = sequence.first_position as usize + sequence.tokens.len();
            let mark = if sequence.sample.is_some() { "*" } else { "" };
            format!(" {}[{}..{end}]{mark}{:?}", sequence.id, sequence.first_position, sequence.blocks)
        });
        let text = planned.collect();
        self.compute();
        text
    }

    fn plan(&mut self) {
        self.now.0 += 1_000_000;
        self.scheduler.schedule(self.now);
        self.check_shown();
    }

    pub(crate) fn board(&self) -> EngineBoard {
        self.tracer.board().clone()
    }

    /// How the live view sees a sequence.
    pub(crate) fn view(&self, id: u64) -> SequenceView {
        let (key, cell) = &self.shown[&RequestId(id)];
        cell.sequences().nth(key.index as usize).unwrap()
    }

    /// What the live view says about those that wait is what the scheduler says.
    pub(crate) fn check_shown(&self) {
        let waits = self.tracer.board().waits();
        for waiting in self.scheduler.waiting() {
            let shown = waits.of(self.shown[&waiting.id].0, &self.view(waiting.id.0)).unwrap();
            let blocker = waiting.blocker.map(|label| {
                let id = label.as_str().strip_prefix('r').unwrap().parse().unwrap();
                self.shown[&RequestId(id)].0.request
            });
            assert_eq!((shown.reason, shown.blocker), (waiting.reason, blocker), "{}", waiting.id);
        }
    }

    fn compute(&mut self) {
        let sampling = self.scheduler.planned().filter(|sequence| sequence.sample.is_some()).count();
        let tokens: Vec<TokenId> = (0..sampling)
            .map(|index| self.next_tokens.get(index).copied().unwrap_or(ORDINARY_TOKEN))
            .collect();
        self.now.0 += 1_000_000;
        self.scheduler.commit(&tokens, self.now, &mut self.outputs);
        self.scheduler.check_invariants().unwrap();
        self.check_shown();
    }

    pub(crate) fn steps(&mut self, count: usize) -> String {
        (0..count).map(|_| self.step() + "\n").collect()
    }

    pub(crate) fn finish(&mut self, id: u64, reason: FinishReason) {
        self.scheduler.finish(RequestId(id), reason, self.now, &mut self.outputs);
        self.scheduler.check_invariants().unwrap();
        self.check_shown();
    }

    pub(crate) fn finish_of(&self, id: u64) -> Option<&Finish> {
        self.outputs.iter().filter(|output| output.id == RequestId(id)).find_map(|o| o.finish.as_deref())
    }

    pub(crate) fn budget(&self) -> u32 {
        self.config.max_num_batched_tokens
    }

    pub(crate) fn max_num_seqs(&self) -> u32 {
        self.config.max_num_seqs
    }

    /// The journeys that are complete.
    pub(crate) fn journeys(&self) -> Vec<FinishedJourney> {
        self.captured.0.lock().clone()
    }

    /// The waiting queue: `id reason`, with `by blocker` where one is to blame.
    pub(crate) fn waiting(&self) -> String {
        let entries = self.scheduler.waiting().map(|waiting| {
            let by = waiting.blocker.map(|label| format!(" by {label}")).unwrap_or_default();
            format!("{} {}{by}", waiting.id, waiting.reason.as_str())
        });
        entries.collect::<Vec<_>>().join(", ")
    }

    /// The journey of a finished request, an event a line.
    pub(crate) fn journey(&self, id: u64) -> String {
        let journeys = self.captured.0.lock();
        let journey = journeys
            .iter()
            .find(|journey| journey.cell().label() == Some(&label(id)))
            .expect("the request has ended");
        let (_, core) = journey.cores().next().expect("it had a core span");
        core.events
            .iter()
            .map(|event| {
                let kind = match &event.kind {
                    CoreEventKind::Queued => "QUEUED".into(),
                    CoreEventKind::Scheduled { kind, cached_tokens, scheduled_tokens, wait } => {
                        let kind = kind.as_str();
                        format!(
                            "SCHEDULED {kind} {scheduled_tokens}{}",
                            extras(*cached_tokens, wait.as_ref())
                        )
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

fn extras(cached_tokens: u32, wait: Option<&Wait>) -> String {
    let cached = if cached_tokens > 0 { format!(" cached {cached_tokens}") } else { String::new() };
    let Some(Wait { reason, blocker }) = wait else { return cached };
    let by = blocker.as_ref().map(|blocker| format!(" by {blocker}")).unwrap_or_default();
    format!("{cached} waited for {}{by}", reason.as_str())
}
