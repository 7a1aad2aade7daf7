//! Cutting journeys into batches.
//!
//! A batch holds the journeys themselves and not their messages: a backlog of them is small, shared by all
//! destinations, and each attempt to send makes its message afresh.

use std::ops::Range;

use wayfare_journey::FinishedJourney;

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
}

/// Spans that are sent together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    pub(crate) parts: Vec<JourneyPart>,
    spans: usize,
}

impl Batch {
    pub(crate) fn spans(&self) -> u64 {
        self.spans as u64
    }

    /// Takes the other batch's spans too.
    pub(crate) fn append(&mut self, other: &Batch) {
        self.parts.extend_from_slice(&other.parts);
        self.spans += other.spans;
    }
}

/// Fills batches up to a number of spans.
#[derive(Debug)]
pub(crate) struct Batcher {
    max_spans: usize,
    batch: Batch,
}

impl Batcher {
    pub(crate) fn new(max_spans: usize) -> Self {
        Self { max_spans: max_spans.max(1), batch: Batch::default() }
    }

    /// Adds a journey, and hands each batch that is full to `full`.
    pub(crate) fn add(&mut self, journey: &FinishedJourney, mut full: impl FnMut(Batch)) {
        let cores = journey.cores().count();
        let (mut has_request, mut next_core) = (true, 0);
        while has_request || next_core < cores {
            // A journey is cut only when it does not fit into an empty batch.
            let wanted = usize::from(has_request) + cores - next_core;
            let is_too_large = wanted > self.max_spans;
            let room = self.max_spans - self.batch.spans;
            if room == 0 || (wanted > room && !is_too_large) {
                full(std::mem::take(&mut self.batch));
                continue;
            }
            let taken = room.min(wanted) - usize::from(has_request);
            let part =
                JourneyPart { journey: journey.clone(), has_request, cores: next_core..next_core + taken };
            self.batch.spans += part.spans();
            self.batch.parts.push(part);
            has_request = false;
            next_core += taken;
        }
    }

    /// What is left, if anything.
    pub(crate) fn finish(&mut self) -> Option<Batch> {
        (self.batch.spans > 0).then(|| std::mem::take(&mut self.batch))
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
