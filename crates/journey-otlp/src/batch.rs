//! Cutting journeys and steps into batches.
//!
//! A batch holds the journeys themselves and not their messages: a backlog of them is small, shared by all
//! destinations, and each attempt to send makes its message afresh.

use std::ops::Range;
use std::sync::Arc;

use wayfare_journey::schema::api_event;
use wayfare_journey::{CoreRecord, FinishedJourney, StepSpan};

/// Journeys of this route make a batcher panic, in tests.
#[cfg(test)]
pub(crate) const ROUTE_THAT_PANICS: &str = "/panic/batcher";

/// A journey, or a part of one that is too large for a batch.
#[derive(Clone, Debug)]
pub(crate) struct JourneyPart {
    pub(crate) journey: FinishedJourney,
    /// Whether the `llm_request` span is in this part.
    pub(crate) has_request: bool,
    /// Which of the `llm_core` spans are, counted as [`FinishedJourney::cores`] yields them.
    pub(crate) cores: Range<usize>,
}

impl JourneyPart {
    fn spans(&self) -> usize {
        usize::from(self.has_request) + self.cores.len()
    }

    fn size(&self) -> Size {
        let request = if self.has_request { Size::of_request() } else { Size::default() };
        let cores = self.journey.cores().skip(self.cores.start).take(self.cores.len());
        cores.map(|(_, core)| Size::of_core(core)).fold(request, Size::plus)
    }
}

/// Most events of a message. A collector refuses messages above its limit, 4 MiB by gRPC unless it is told
/// otherwise; an event with its attributes takes some 400 bytes, a span without its events about 1 000.
const MAX_EVENTS: usize = 5_000;

/// How much there is to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Size {
    spans: usize,
    events: usize,
}

impl Size {
    fn of_request() -> Self {
        Self { spans: 1, events: api_event::ALL.len() }
    }

    fn of_core(core: &CoreRecord) -> Self {
        Self { spans: 1, events: core.events.len() }
    }

    fn of_steps(span: &StepSpan) -> Self {
        Self { spans: 1, events: span.num_events() }
    }

    fn plus(self, other: Size) -> Size {
        Size { spans: self.spans + other.spans, events: self.events + other.events }
    }

    fn is_within(self, limit: Size) -> bool {
        self.spans <= limit.spans && self.events <= limit.events
    }
}

/// Spans that are sent together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    pub(crate) parts: Vec<JourneyPart>,
    /// Spans of the engine's steps, which belong to no journey.
    pub(crate) steps: Vec<Arc<StepSpan>>,
    size: Size,
}

impl Batch {
    pub(crate) fn spans(&self) -> u64 {
        self.size.spans as u64
    }

    /// Whether both batches together are one of at most so many spans.
    pub(crate) fn fits_with(&self, other: &Batch, max_spans: usize) -> bool {
        self.size.plus(other.size).is_within(Size { spans: max_spans, events: MAX_EVENTS })
    }

    /// Takes the other batch's spans too.
    pub(crate) fn append(&mut self, other: &Batch) {
        self.parts.extend_from_slice(&other.parts);
        self.steps.extend_from_slice(&other.steps);
        self.size = self.size.plus(other.size);
    }
}

/// Fills batches up to a number of spans and of events.
#[derive(Debug)]
pub(crate) struct Batcher {
    limit: Size,
    batch: Batch,
}

impl Batcher {
    pub(crate) fn new(max_spans: usize) -> Self {
        Self { limit: Size { spans: max_spans.max(1), events: MAX_EVENTS }, batch: Batch::default() }
    }

    /// Adds a journey, and hands each batch that is full to `full`.
    pub(crate) fn add(&mut self, journey: &FinishedJourney, mut full: impl FnMut(Batch)) {
        let cores = || journey.cores().map(|(_, core)| Size::of_core(core));
        let request = Size::of_request();
        let whole = cores().fold(request, Size::plus);
        // A journey is cut only when it does not fit into an empty batch.
        if whole.is_within(self.limit) && !self.has_room_for(whole) {
            full(std::mem::take(&mut self.batch));
        }
        let empty_part = |has_request, cores| JourneyPart { journey: journey.clone(), has_request, cores };
        if !self.has_room_for(request) {
            full(std::mem::take(&mut self.batch));
        }
        let mut part = empty_part(true, 0..0);
        self.batch.size = self.batch.size.plus(request);
        #[cfg(test)]
        assert_ne!(journey.cell().route(), ROUTE_THAT_PANICS);
        for (index, core) in cores().enumerate() {
            if !self.has_room_for(core) {
                self.batch.parts.extend(Some(part).filter(|part| part.spans() > 0));
                full(std::mem::take(&mut self.batch));
                part = empty_part(false, index..index);
            }
            part.cores.end = index + 1;
            self.batch.size = self.batch.size.plus(core);
        }
        self.batch.parts.push(part);
    }

    /// Adds a span of steps, and hands the batch to `full` when that has no room for it.
    pub(crate) fn add_steps(&mut self, span: StepSpan, mut full: impl FnMut(Batch)) {
        let size = Size::of_steps(&span);
        if !self.has_room_for(size) {
            full(std::mem::take(&mut self.batch));
        }
        self.batch.steps.push(Arc::new(span));
        self.batch.size = self.batch.size.plus(size);
    }

    /// After a panic in the middle of [`Batcher::add`]: what is not in the batch as a whole is not in it.
    pub(crate) fn mend(&mut self) {
        let parts = self.batch.parts.iter().map(JourneyPart::size);
        let steps = self.batch.steps.iter().map(|span| Size::of_steps(span));
        self.batch.size = parts.chain(steps).fold(Size::default(), Size::plus);
    }

    /// What is left, if anything.
    pub(crate) fn finish(&mut self) -> Option<Batch> {
        (self.batch.size.spans > 0).then(|| std::mem::take(&mut self.batch))
    }

    /// A span that is too large for any batch goes alone.
    fn has_room_for(&self, size: Size) -> bool {
        self.batch.size.spans == 0 || self.batch.size.plus(size).is_within(self.limit)
    }
}

#[cfg(test)]
mod tests {
    use wayfare_journey::{IncomingHeaders, MonoNs};
    use wayfare_testkit::{JourneyStore, VirtualClock};

    use super::*;

    /// Sizes of the batches of journeys with so many sequences.
    fn sizes(max_spans: usize, sequences: &[usize]) -> Vec<u64> {
        let (store, clock) = (JourneyStore::default(), VirtualClock::at(MonoNs(1)));
        let tracer = store.tracer(clock);
        for count in sequences {
            let span = tracer.admit(IncomingHeaders::default(), "/", MonoNs(1)).span.unwrap();
            drop(span.handle().open_cores(&vec![(1, 1); *count], MonoNs(1)));
            span.complete(MonoNs(2));
        }
        let (mut batcher, mut batches) = (Batcher::new(max_spans), Vec::new());
        for journey in store.take() {
            batcher.add(&journey, |batch| batches.push(batch));
        }
        batches.extend(batcher.finish());
        let spans = batches.iter().flat_map(|batch| &batch.parts).map(JourneyPart::spans).sum::<usize>();
        assert_eq!(spans, sequences.iter().map(|count| count + 1).sum::<usize>(), "no span is lost");
        batches.iter().map(Batch::spans).collect()
    }

    #[test]
    fn a_journey_stays_whole_while_it_fits() {
        assert_eq!(sizes(4, &[1, 1, 1]), [4, 2]);
        assert_eq!(sizes(4, &[2, 2]), [3, 3]);
        assert_eq!(sizes(4, &[0, 0]), [2]);
        assert_eq!(sizes(4, &[]), [0; 0]);
    }

    #[test]
    fn a_journey_larger_than_a_batch_is_cut() {
        assert_eq!(sizes(4, &[10]), [4, 4, 3]);
        assert_eq!(sizes(1, &[1]), [1, 1]);
        assert_eq!(sizes(4, &[1, 6]), [4, 4, 1]);
    }
}
