//! Records by journey.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};

use wayfare_journey::{SpanId, TraceId};

use super::record::Record;

/// Records are kept in pieces of so many, so that they never have to be moved.
const PIECE: usize = 1 << 12;

#[derive(Debug, Default)]
pub(super) struct Store {
    pieces: Vec<Vec<Record>>,
    places: HashMap<(TraceId, SpanId), u32>,
    hasher: RandomState,
    halvings: u32,
}

impl Store {
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Record> + Clone {
        self.pieces.iter().flatten()
    }

    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut Record> {
        self.pieces.get_mut(at / PIECE)?.get_mut(at % PIECE)
    }

    pub(super) fn kept_share(&self) -> f64 {
        0.5_f64.powi(i32::try_from(self.halvings).unwrap_or(i32::MAX))
    }

    /// Whether journeys of this trace are among those that are kept. Traces, not journeys, so that what belongs
    /// together stays together.
    pub(super) fn keeps(&self, trace_id: TraceId) -> bool {
        let hash = self.hasher.hash_one(trace_id);
        hash.leading_zeros() >= self.halvings
    }

    /// `None` for a journey that is not kept.
    pub(super) fn place_of(&mut self, trace_id: TraceId, span_id: SpanId) -> Option<usize> {
        if !self.keeps(trace_id) {
            return None;
        }
        if let Some(at) = self.places.get(&(trace_id, span_id)) {
            return Some(*at as usize);
        }
        let at = self.places.len();
        self.places.insert((trace_id, span_id), u32::try_from(at).ok()?);
        self.push(Record::new(trace_id, span_id));
        Some(at)
    }

    fn push(&mut self, record: Record) {
        match self.pieces.last_mut() {
            Some(piece) if piece.len() < PIECE => piece.push(record),
            _ => {
                let mut piece = Vec::with_capacity(PIECE);
                piece.push(record);
                self.pieces.push(piece);
            }
        }
    }

    /// Lets go of half of the traces.
    pub(super) fn halve(&mut self) {
        self.halvings += 1;
        let pieces = std::mem::take(&mut self.pieces);
        let old = std::mem::take(&mut self.places);
        let mut ids = vec![None; old.len()];
        for (id, at) in old {
            if let Some(place) = ids.get_mut(at as usize) {
                *place = Some(id);
            }
        }
        for (record, id) in pieces.into_iter().flatten().zip(ids) {
            let Some((trace_id, span_id)) = id else { continue };
            if let (true, Ok(at)) = (self.keeps(trace_id), u32::try_from(self.places.len())) {
                self.places.insert((trace_id, span_id), at);
                self.push(record);
            }
        }
    }
}
