//! The requests in flight, found by the name they have on the wire.

use std::collections::HashMap;

use wayfare_engine::RequestId;

use crate::sequence::Sequence;
use crate::wire::WireId;

/// Places for requests. A place is used again, under another generation, so that a late output of whoever had it before
/// finds nobody.
#[derive(Debug, Default)]
pub(crate) struct Table {
    places: Vec<Place>,
    free: Vec<u32>,
    /// Only for what the API layer asks, not for outputs.
    by_request: HashMap<RequestId, WireId>,
}

#[derive(Debug, Default)]
struct Place {
    generation: u32,
    sequence: Option<Box<Sequence>>,
}

impl Table {
    /// Requests in flight.
    pub(crate) fn len(&self) -> usize {
        self.by_request.len()
    }

    pub(crate) fn insert(&mut self, sequence: Sequence) -> WireId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            // Each place is held by an open HTTP request.
            (self.places.len() - 1) as u32
        });
        let place = &mut self.places[slot as usize];
        place.generation = place.generation.wrapping_add(1);
        let id = WireId { slot, generation: place.generation };
        self.by_request.insert(sequence.id, id);
        place.sequence = Some(Box::new(sequence));
        id
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: WireId) -> Option<&mut Sequence> {
        let place =
            self.places.get_mut(id.slot as usize).filter(|place| place.generation == id.generation)?;
        place.sequence.as_deref_mut()
    }

    pub(crate) fn find(&self, id: RequestId) -> Option<WireId> {
        self.by_request.get(&id).copied()
    }

    pub(crate) fn remove(&mut self, id: WireId) -> Option<Box<Sequence>> {
        let place =
            self.places.get_mut(id.slot as usize).filter(|place| place.generation == id.generation)?;
        let sequence = place.sequence.take()?;
        self.by_request.remove(&sequence.id);
        self.free.push(id.slot);
        Some(sequence)
    }

    /// The names of those for which `wanted` holds.
    pub(crate) fn select(&self, wanted: impl Fn(&Sequence) -> bool) -> Vec<WireId> {
        let names = (0_u32..).zip(&self.places).filter_map(|(slot, place)| {
            let sequence = place.sequence.as_ref()?;
            wanted(sequence).then_some(WireId { slot, generation: place.generation })
        });
        names.collect()
    }
}
