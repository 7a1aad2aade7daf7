//! The requests in flight.
//!
//! HOT PATH: [`Registry::remove`] runs on the thread that ends a journey, the engine's included. It exchanges
//! a pointer and puts a number on a stack: no lock, no wait, no allocation but once per thread by `arc-swap`.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;

use crate::cell::JourneyCell;
use crate::free_stack::FreeStack;

/// Places of the first segment; each further one has twice as many.
const FIRST_SEGMENT: u32 = 256;
/// So many segments hold over sixteen million requests, far more than sockets.
const SEGMENTS: usize = 16;
const CAPACITY: u32 = FIRST_SEGMENT * ((1 << SEGMENTS) - 1);

/// The place of a request in the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u32);

#[derive(Debug, Default)]
struct Slot {
    cell: ArcSwapOption<JourneyCell>,
    /// While the slot is free: what lies below it on the stack of free ones.
    below: AtomicU32,
}

/// Every recorded request whose journey is not complete. Slots are used again and never given back, so the
/// memory follows the most requests that ever were in flight at once.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    segments: [OnceLock<Box<[Slot]>>; SEGMENTS],
    /// Slots that were ever used.
    used: AtomicU32,
    free: FreeStack,
}

impl Registry {
    /// Reserves a place; `None` when there are absurdly many.
    pub(crate) fn reserve(&self) -> Option<Place> {
        if let Some(number) = self.free.pop(|number| self.slot(number).map(|slot| &slot.below)) {
            return Some(Place(number));
        }
        let more = |used: u32| (used < CAPACITY).then_some(used + 1);
        let number = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()?;
        let (segment, _) = position(number);
        self.segments[segment].get_or_init(|| {
            let length = (FIRST_SEGMENT as usize) << segment;
            std::iter::repeat_with(Slot::default).take(length).collect()
        });
        Some(Place(number))
    }

    /// Shows a request in its place.
    pub(crate) fn insert(&self, place: Place, cell: &Arc<JourneyCell>) {
        if let Some(slot) = self.slot(place.0) {
            slot.cell.store(Some(Arc::clone(cell)));
        }
    }

    /// Frees a place. Only once per reservation.
    pub(crate) fn remove(&self, place: Place) {
        let Some(slot) = self.slot(place.0) else { return };
        slot.cell.store(None);
        self.free.push(place.0, &slot.below);
    }

    /// The requests in flight, in no particular order. One that arrives or ends meanwhile may be among them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Arc<JourneyCell>> {
        let used = self.used.load(Ordering::Acquire);
        (0..used).filter_map(|number| self.slot(number)?.cell.load_full())
    }

    fn slot(&self, number: u32) -> Option<&Slot> {
        let (segment, offset) = position(number);
        self.segments.get(segment)?.get()?.get(offset)
    }
}

/// Segment and offset of a slot. Segment k begins at FIRST_SEGMENT · (2^k − 1).
fn position(number: u32) -> (usize, usize) {
    let segment = (number / FIRST_SEGMENT + 1).ilog2();
    let start = FIRST_SEGMENT * ((1 << segment) - 1);
    (segment as usize, (number - start) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_numbered_without_gaps() {
        let mut expected = (0, 0);
        for number in 0..FIRST_SEGMENT * 15 {
            assert_eq!(position(number), expected);
            expected.1 += 1;
            if expected.1 == (FIRST_SEGMENT as usize) << expected.0 {
                expected = (expected.0 + 1, 0);
            }
        }
        assert_eq!(position(CAPACITY - 1).0, SEGMENTS - 1);
    }

    #[test]
    fn freed_places_are_used_again() {
        let registry = Registry::default();
        let places: Vec<_> = (0..600).map(|_| registry.reserve().unwrap()).collect();
        assert_eq!(registry.used.load(Ordering::Relaxed), 600);
        places.iter().for_each(|place| registry.remove(*place));
        let mut again: Vec<_> = (0..600).map(|_| registry.reserve().unwrap().0).collect();
        again.sort_unstable();
        assert_eq!(again, (0..600).collect::<Vec<_>>());
    }

    #[test]
    fn no_place_is_given_to_two_at_once() {
        let registry = Registry::default();
        let owners: Vec<AtomicU32> = (0..64).map(|_| AtomicU32::new(0)).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..20_000 {
                        let places: Vec<_> =
                            (0..round % 4 + 1).map(|_| registry.reserve().unwrap()).collect();
                        for place in &places {
                            assert_eq!(owners[place.0 as usize].fetch_add(1, Ordering::SeqCst), 0);
                        }
                        for place in places {
                            owners[place.0 as usize].fetch_sub(1, Ordering::SeqCst);
                            registry.remove(place);
                        }
                    }
                });
            }
        });
        assert!(registry.used.load(Ordering::Relaxed) <= 16);
        assert_eq!(registry.iter().count(), 0);
    }
}
