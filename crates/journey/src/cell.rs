//! The shared state of one request's journey, in which its parts are deposited.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crate::api_span::{ApiEnding, ApiRecord, RequestAttributes, Usage};
use crate::core_record::CoreRecord;
use crate::core_span::CoreSpan;
use crate::event::{AbortReason, RequestLabel};
use crate::ledger::{Ledger, RequestMoments};
use crate::live::{ApiState, JourneyState, LiveSequence, RequestKey, RequestView, SequenceKey, SequenceView};
use crate::recorder::{Claim, RequestRecord};
use crate::registry::Place;
use crate::tracer::TracerShared;
use crate::{MonoNs, SpanId, TraceContext, TraceId};

/// Why a request failed. The first report counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) reason: AbortReason,
    pub(crate) error_type: &'static str,
    pub(crate) message: Box<str>,
}

/// A moment that is reported at most once; the first report counts. Zero stands for "not yet", which is
/// safe because the monotonic clock reads zero only at boot.
#[derive(Debug, Default)]
struct Mark(AtomicU64);

impl Mark {
    fn set(&self, at: MonoNs) {
        let _ = self.0.compare_exchange(0, at.0, Ordering::Release, Ordering::Relaxed);
    }

    fn get(&self) -> Option<MonoNs> {
        Some(self.0.load(Ordering::Acquire)).filter(|ns| *ns != 0).map(MonoNs)
    }
}

/// One request's journey while it is made: identity, trace context, and a place for each part.
///
/// No lock: every field is written once or is an atomic. The part that ends last hands the cell to the sink.
/// A cell is data only: it knows neither its tracer nor a sink, so keeping one keeps nothing else.
#[derive(Debug)]
pub struct JourneyCell {
    key: RequestKey,
    /// Whether it is recorded; otherwise it is only shown while it lives.
    is_recorded: bool,
    /// Whether the head decided to record it; otherwise a tail rule must match.
    head_sampled: bool,
    place: Option<Place>,
    context: TraceContext,
    span_id: SpanId,
    arrived: MonoNs,
    route: Box<str>,
    label: OnceLock<RequestLabel>,
    attributes: OnceLock<RequestAttributes>,
    usage: OnceLock<Usage>,
    failure: OnceLock<Failure>,
    body_complete: Mark,
    handoff: Mark,
    first_response: Mark,
    departed: Mark,
    /// Time for which generated output lay ready while the client took nothing, in nanoseconds.
    blocked_ns: AtomicU64,
    /// Prompt tokens handed to the engine, all sequences together.
    prefill_total: AtomicU64,
    api: OnceLock<ApiRecord>,
    /// What the flight recorder shows of it.
    flight: Option<RequestRecord>,
    cores: OnceLock<Box<[CoreSlot]>>,
    /// Guards that have not ended: the API span and every open core span.
    open_parts: AtomicU32,
}

/// What is settled about a request when it is admitted.
#[derive(Debug)]
pub(crate) struct Admitted {
    pub(crate) key: RequestKey,
    pub(crate) is_recorded: bool,
    pub(crate) head_sampled: bool,
    pub(crate) place: Option<Place>,
    pub(crate) span_id: SpanId,
    pub(crate) flight: Option<RequestRecord>,
}

/// The place of one sequence's part.
#[derive(Debug)]
struct CoreSlot {
    live: LiveSequence,
    /// The record of the flight recorder that it is in.
    flight: Option<Claim>,
    record: OnceLock<Box<CoreRecord>>,
}

impl JourneyCell {
    pub(crate) fn new(admitted: Admitted, context: TraceContext, route: &str, arrived: MonoNs) -> Self {
        let Admitted { key, is_recorded, head_sampled, place, span_id, flight } = admitted;
        Self {
            key,
            is_recorded,
            head_sampled,
            place,
            context,
            span_id,
            arrived,
            route: route.into(),
            label: OnceLock::new(),
            attributes: OnceLock::new(),
            usage: OnceLock::new(),
            failure: OnceLock::new(),
            body_complete: Mark::default(),
            handoff: Mark::default(),
            first_response: Mark::default(),
            departed: Mark::default(),
            blocked_ns: AtomicU64::new(0),
            prefill_total: AtomicU64::new(0),
            api: OnceLock::new(),
            flight,
            cores: OnceLock::new(),
            open_parts: AtomicU32::new(1),
        }
    }

    /// Names the request in this process.
    #[must_use]
    pub fn key(&self) -> RequestKey {
        self.key
    }

    /// The trace this request belongs to.
    #[must_use]
    pub fn context(&self) -> &TraceContext {
        &self.context
    }

    /// The id of the `llm_request` span.
    #[must_use]
    pub fn span_id(&self) -> SpanId {
        self.span_id
    }

    /// When the request head had been read.
    #[must_use]
    pub fn arrived(&self) -> MonoNs {
        self.arrived
    }

    /// The matched route, or the path when no route matched.
    #[must_use]
    pub fn route(&self) -> &str {
        &self.route
    }

    /// The response id, once known.
    #[must_use]
    pub fn label(&self) -> Option<&RequestLabel> {
        self.label.get()
    }

    /// What the client asked for, once parsed.
    #[must_use]
    pub fn attributes(&self) -> Option<&RequestAttributes> {
        self.attributes.get()
    }

    /// Token counts and finish reasons, once the generation is over.
    #[must_use]
    pub fn usage(&self) -> Option<&Usage> {
        self.usage.get()
    }

    /// When the whole body had been read.
    #[must_use]
    pub fn body_complete(&self) -> Option<MonoNs> {
        self.body_complete.get()
    }

    /// When the engine had accepted the request, and with how many prompt tokens.
    #[must_use]
    pub fn handoff(&self) -> Option<(MonoNs, u64)> {
        self.handoff.get().map(|at| (at, self.prefill_total.load(Ordering::Relaxed)))
    }

    /// When the API layer took the first generated token.
    #[must_use]
    pub fn first_response(&self) -> Option<MonoNs> {
        self.first_response.get()
    }

    /// For how long generated output lay ready while the client took nothing, in nanoseconds. Overlaps with
    /// what the engine did at the same time.
    #[must_use]
    pub fn blocked_ns(&self) -> u64 {
        self.blocked_ns.load(Ordering::Relaxed)
    }

    pub(crate) fn departed(&self) -> Option<MonoNs> {
        self.departed.get()
    }

    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.failure.get()
    }

    /// Whether the head decided to record the request; otherwise the journey is kept only by a tail rule.
    #[must_use]
    pub fn head_sampled(&self) -> bool {
        self.head_sampled
    }

    /// The API part, once it has ended.
    #[must_use]
    pub fn response(&self) -> Option<&ApiRecord> {
        self.api.get()
    }

    /// Where the request is, while it lives.
    #[must_use]
    pub fn view(&self) -> RequestView {
        let (api, since) = self.api_state();
        let sequences: Vec<_> = self.sequences().collect();
        let (state, since, is_inferred) = JourneyState::of(api, since, &sequences.iter());
        RequestView { state, since, is_inferred, sequences }
    }

    fn api_state(&self) -> (ApiState, MonoNs) {
        if let Some(record) = self.api.get() {
            return (ApiState::Abandoned, record.ended);
        }
        if let Some(at) = self.handoff.get() {
            return (ApiState::Submitted, at);
        }
        match self.body_complete.get() {
            Some(at) => (ApiState::Preparing, at),
            None => (ApiState::Receiving, self.arrived),
        }
    }

    /// Its sequences as they are, in order; none before the engine is to have them.
    pub fn sequences(&self) -> impl Iterator<Item = SequenceView> {
        self.core_slots().iter().filter_map(|slot| slot.live.view())
    }

    pub(crate) fn place(&self) -> Option<Place> {
        self.place
    }

    pub(crate) fn is_recorded(&self) -> bool {
        self.is_recorded
    }

    /// The records of the flight recorder that the request takes.
    pub(crate) fn claims(&self) -> impl Iterator<Item = &Claim> {
        let of_sequences = self.core_slots().iter().filter_map(|slot| slot.flight.as_ref());
        self.flight.iter().map(RequestRecord::claim).chain(of_sequences)
    }

    fn show_state(&self, state: ApiState, at: MonoNs) {
        if let Some(flight) = &self.flight {
            flight.show_state(state, at);
        }
    }

    fn core_slots(&self) -> &[CoreSlot] {
        self.cores.get().map_or(&[], |slots| slots)
    }
}

/// A cell whose journey is being made, and the tracer it goes to when it is complete. What guards and handles
/// hold.
#[derive(Clone, Debug)]
pub(crate) struct OpenJourney {
    cell: Arc<JourneyCell>,
    tracer: Arc<TracerShared>,
}

impl OpenJourney {
    pub(crate) fn new(cell: Arc<JourneyCell>, tracer: Arc<TracerShared>) -> Self {
        Self { cell, tracer }
    }

    pub(crate) fn cell(&self) -> &JourneyCell {
        &self.cell
    }

    pub(crate) fn now(&self) -> MonoNs {
        self.tracer.clock.now()
    }

    pub(crate) fn deposit_api(&self, record: ApiRecord) {
        self.cell.show_state(ApiState::Abandoned, record.ended);
        let _ = self.cell.api.set(record);
        self.part_ended();
    }

    pub(crate) fn deposit_core(&self, index: u32, record: Box<CoreRecord>) {
        if let Some(slot) = self.cell.core_slots().get(index as usize) {
            let _ = slot.record.set(record);
        }
        self.part_ended();
    }

    /// One guard is gone; the last one out hands the journey over.
    pub(crate) fn part_ended(&self) {
        if self.cell.open_parts.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.tracer.hand_over(FinishedJourney(Arc::clone(&self.cell)));
        }
    }

    /// Opens the core spans of this request, once.
    fn open_cores(&self, sequences: &[(u32, u32)], opened: MonoNs) -> Vec<CoreSpan> {
        let cell = &self.cell;
        let count = u32::try_from(sequences.len()).unwrap_or(u32::MAX);
        // A journey whose API part has ended and has no core part is already on its way out.
        let reserve = |open: u32| if open == 0 { None } else { open.checked_add(count) };
        if cell.cores.get().is_some()
            || cell.open_parts.fetch_update(Ordering::AcqRel, Ordering::Acquire, reserve).is_err()
        {
            return Vec::new();
        }
        // From here on the cell is not complete, so what it takes of the flight recorder is given back.
        let slots = (0..count).zip(sequences).map(|(index, &(prefill_total, decode_max))| {
            let (words, flight) = self.tracer.sequence_words();
            let key = SequenceKey { request: cell.key, index };
            let live = LiveSequence::begin(words, key, prefill_total, decode_max, opened);
            CoreSlot { live, flight, record: OnceLock::new() }
        });
        if let Err(slots) = cell.cores.set(slots.collect()) {
            slots.iter().filter_map(|slot| slot.flight.as_ref()).for_each(|claim| self.tracer.release(claim));
            (0..count).for_each(|_| self.part_ended());
            return Vec::new();
        }
        let prefill_total = sequences.iter().map(|(prefill, _)| u64::from(*prefill)).sum();
        cell.prefill_total.store(prefill_total, Ordering::Relaxed);
        let slots = (0..count).zip(cell.core_slots()).zip(sequences);
        slots
            .map(|((index, slot), &(prefill_total, decode_max))| {
                let record = CoreRecord::new(prefill_total, decode_max, opened);
                let record = cell.is_recorded.then(|| Box::new(record));
                CoreSpan::open(self.clone(), slot.live.clone(), index, record)
            })
            .collect()
    }
}

/// By which the request's handler reports what happens to it. Does nothing when the request is not traced.
#[derive(Clone, Debug, Default)]
pub struct JourneyHandle(Option<OpenJourney>);

impl JourneyHandle {
    /// The handle of a request that is not traced.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    pub(crate) fn on(journey: OpenJourney) -> Self {
        Self(Some(journey))
    }

    fn cell(&self) -> Option<&JourneyCell> {
        self.0.as_ref().map(OpenJourney::cell)
    }

    /// Whether anything is recorded; guards the work of preparing a report.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The trace of a request that the head has decided to record; what an exemplar may name.
    #[must_use]
    pub fn sampled_trace_id(&self) -> Option<TraceId> {
        self.cell().filter(|cell| cell.head_sampled()).map(|cell| cell.context().trace_id)
    }

    /// The response id is known.
    pub fn identified(&self, label: &RequestLabel) {
        if let Some(cell) = self.cell()
            && cell.label.set(label.clone()).is_ok()
            && let Some(flight) = &cell.flight
        {
            flight.show_label(label.as_str());
        }
    }

    /// The request has been parsed.
    pub fn described(&self, attributes: impl FnOnce() -> RequestAttributes) {
        if let Some(cell) = self.cell() {
            let asked = cell.attributes.get_or_init(attributes);
            if let Some(flight) = &cell.flight {
                flight.show_model(&asked.request_model);
            }
        }
    }

    /// The whole body has been read.
    pub fn body_complete(&self, at: MonoNs) {
        if let Some(cell) = self.cell() {
            cell.body_complete.set(at);
            cell.show_state(ApiState::Preparing, at);
        }
    }

    /// Opens one core span per sequence, given as (prompt tokens, most output tokens). Once per request;
    /// a second call gives none. Empty when the request is not traced.
    #[must_use]
    pub fn open_cores(&self, sequences: &[(u32, u32)], at: MonoNs) -> Vec<CoreSpan> {
        let Some(journey) = &self.0 else { return Vec::new() };
        journey.open_cores(sequences, at)
    }

    /// The engine has accepted the request into its inbox.
    pub fn handed_to_core(&self, at: MonoNs) {
        if let Some(cell) = self.cell() {
            cell.handoff.set(at);
            cell.show_state(ApiState::Submitted, at);
        }
    }

    /// A generated token has been taken from the engine; only the first report counts.
    pub fn received_from_core(&self, at: MonoNs) {
        if let Some(cell) = self.cell() {
            cell.first_response.set(at);
        }
    }

    /// Generated output lay ready for `ns` while the client took nothing.
    pub fn blocked(&self, ns: u64) {
        if let Some(cell) = self.cell() {
            cell.blocked_ns.fetch_add(ns, Ordering::Relaxed);
        }
    }

    /// The generation is over.
    pub fn used(&self, usage: impl FnOnce() -> Usage) {
        if let Some(cell) = self.cell() {
            let _ = cell.usage.set(usage());
        }
    }

    /// The last generated chunk has been handed to the HTTP stack. Whatever happens later, the request
    /// has departed.
    pub fn departed(&self, at: MonoNs) {
        if let Some(cell) = self.cell() {
            cell.departed.set(at);
        }
    }

    /// The request failed. `message` must hold nothing of the prompt; only the first report counts.
    pub fn failed(&self, reason: AbortReason, error_type: &'static str, message: &str) {
        if let Some(cell) = self.cell() {
            let _ = cell.failure.set(Failure { reason, error_type, message: message.into() });
        }
    }
}

/// Tokens of a request by what became of them, all sequences together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TokenAccount {
    /// Prompt tokens found in the prefix cache.
    pub cached: u64,
    /// Computed again after a preemption.
    pub recomputed: u64,
    /// Computed and never delivered: what was generated beyond the answer; everything, of a request that failed
    /// or was abandoned.
    pub wasted: u64,
}

/// A journey whose parts are all in.
#[derive(Clone, Debug)]
pub struct FinishedJourney(Arc<JourneyCell>);

impl FinishedJourney {
    /// Identity, context and reports of the request.
    #[must_use]
    pub fn cell(&self) -> &JourneyCell {
        &self.0
    }

    /// The API part.
    ///
    /// # Panics
    /// Never: a journey is handed over only after its API part was deposited.
    #[must_use]
    pub fn api(&self) -> &ApiRecord {
        self.0.api.get().expect("the API span holds one of the parts that must end first")
    }

    /// The core parts with their sequence index, in the order of the sequences.
    pub fn cores(&self) -> impl Iterator<Item = (u32, &CoreRecord)> {
        let slots = self.0.core_slots();
        (0_u32..).zip(slots).filter_map(|(index, slot)| Some((index, &**slot.record.get()?)))
    }

    /// Where the time from the arrival to the end of the response went.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        let cell = &self.0;
        let last = self.cores().map(|(_, core)| core).max_by_key(|core| core.ended());
        let moments = RequestMoments {
            arrived: cell.arrived(),
            body_complete: cell.body_complete(),
            // A request that the engine refused has no core part, but a mark of the attempt in the ledger would
            // say that it waited for the engine: what it waited for was its answer.
            submitted: last.map(|core| core.opened),
            ended: self.api().ended,
        };
        let account = last.map(CoreRecord::ledger);
        let core = last.zip(account.as_ref()).map(|(core, account)| (core.started(), core.ended(), account));
        Ledger::new(&moments, core)
    }

    /// What became of the tokens that were computed.
    #[must_use]
    pub fn token_account(&self) -> TokenAccount {
        let mut account = TokenAccount::default();
        let (mut prompt_computed, mut generated) = (0, 0);
        for (_, core) in self.cores() {
            let ledger = core.ledger();
            let progress = core.events.last().map(|event| event.progress).unwrap_or_default();
            account.cached += u64::from(ledger.cached_tokens);
            account.recomputed += u64::from(ledger.recomputed_tokens);
            prompt_computed += u64::from(progress.prefill_done.saturating_sub(ledger.cached_tokens));
            generated += u64::from(progress.decode_done);
        }
        let delivered = self.0.usage().map_or(0, |usage| u64::from(usage.completion_tokens));
        account.wasted = match self.api().ending {
            ApiEnding::Departed { .. } => generated.saturating_sub(delivered),
            ApiEnding::Aborted { .. } => prompt_computed + generated,
        };
        account
    }

    /// About how much memory the journey takes, in bytes, with everything that only it holds.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let cell = &self.0;
        let text = |text: Option<&str>| text.map_or(0, str::len);
        let asked = cell.attributes.get();
        let message = |failure: &Failure| failure.message.len();
        let texts = cell.route.len()
            + text(cell.context.state.as_deref())
            + text(cell.label().map(RequestLabel::as_str))
            + text(asked.map(|asked| &*asked.request_model))
            + text(asked.map(|asked| &*asked.response_model))
            // Once as it was reported, once in the ending.
            + 2 * cell.failure.get().map_or(0, message);
        let cores: usize = self.cores().map(|(_, core)| core.memory_bytes()).sum();
        let live: usize = cell.core_slots().iter().map(|slot| slot.live.heap_bytes()).sum();
        size_of::<JourneyCell>() + texts + size_of_val(cell.core_slots()) + live + cores
    }

    /// From arrival to the end of the response, in nanoseconds.
    #[must_use]
    pub fn duration_ns(&self) -> u64 {
        self.api().ended.since(self.0.arrived())
    }

    /// When the first output token of any sequence existed; or, where no engine tells, when it was taken.
    #[must_use]
    pub fn first_token(&self) -> Option<MonoNs> {
        let of_cores = self.cores().filter_map(|(_, core)| core.first_token()).min();
        of_cores.or_else(|| self.0.first_response())
    }
}
