//! The flight recorder: the live state of requests in memory that outlives the process.
//!
//! HOT PATH: what the engine shows of a sequence goes into the recorder's words instead of words on the heap, so
//! it costs nothing more. A request takes one record on the API side, and one for each sequence.
//!
//! A record is one from the moment its key is written, the last of its words, to the moment its key is set to 0.
//! What is written once is covered by a check; what changes are single words, each valid by itself.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::board::{BOARD_WORDS, EngineBoard};
use crate::free_stack::FreeStack;
use crate::live::{ApiState, CHECK, KEY, KIND, RequestKey, SEQUENCE_WORDS};
use crate::words::{Words, check, pair, write_text};
use crate::{MonoNs, SpanId, TraceId, WallAnchor};

/// The version of the layout of the words. Another one is another layout.
pub const FLIGHT_VERSION: u32 = 2;
/// "WAYFLGHT".
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"WAYFLGHT");
/// Words before the first record: a page.
pub(crate) const HEADER_WORDS: usize = 512;
pub(crate) const RECORD_WORDS: usize = 40;

// The header. The first words are written once.
pub(crate) const H_MAGIC: usize = 0;
pub(crate) const H_VERSION: usize = 1;
pub(crate) const H_RECORDS: usize = 2;
pub(crate) const H_PROCESS: usize = 3;
pub(crate) const H_STARTED: usize = 4;
pub(crate) const H_STARTED_UNIX: usize = 5;
pub(crate) const H_CHECK: usize = 6;
pub(crate) const H_ALIVE: usize = 8;
pub(crate) const H_ENDED: usize = 9;
pub(crate) const H_WITHOUT_ROOM: usize = 10;
pub(crate) const H_BOARD: usize = 64;

// The record of a request.
pub(crate) const REQUEST_KIND: u64 = 1;
pub(crate) const R_TRACE_HIGH: usize = 3;
pub(crate) const R_TRACE_LOW: usize = 4;
pub(crate) const R_SPAN: usize = 5;
pub(crate) const R_ARRIVED: usize = 6;
pub(crate) const R_API: usize = 7;
pub(crate) const R_ROUTE: std::ops::Range<usize> = 8..13;
pub(crate) const R_LABEL: std::ops::Range<usize> = 13..32;
pub(crate) const R_MODEL: std::ops::Range<usize> = 32..40;

/// The state word of a request: its state, a part of its key, and the time since its arrival, together, so
/// that a late report about a request that has ended cannot change the record of another.
const KEY_BITS: u32 = 20;
const MICROSECOND_BITS: u32 = 40;

fn api_word(key: u64, state: ApiState, since_arrival_ns: u64) -> u64 {
    let most = (1 << MICROSECOND_BITS) - 1;
    let key = key & ((1 << KEY_BITS) - 1);
    state as u64 | key << 4 | (since_arrival_ns / 1000).min(most) << (4 + KEY_BITS)
}

/// State and nanoseconds since the arrival; `None` when the word is that of another key.
pub(crate) fn read_api_word(word: u64, key: u64) -> Option<(ApiState, u64)> {
    let is_ours = (word >> 4 ^ key) & ((1 << KEY_BITS) - 1) == 0;
    let state = ApiState::ALL.get((word & 0xf) as usize).copied()?;
    is_ours.then_some((state, (word >> (4 + KEY_BITS)) * 1000))
}

/// Why memory cannot hold a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{words} words of memory are too few for a recording")]
pub struct TooLittleMemory {
    words: usize,
}

/// Memory that outlives the process, such as a mapped file. All words must be zero.
#[derive(Debug)]
pub struct FlightRecorder {
    header: &'static [AtomicU64],
    records: Box<[&'static [AtomicU64; RECORD_WORDS]]>,
    /// Records that were ever used.
    used: AtomicU32,
    free: FreeStack,
    below: Box<[AtomicU32]>,
}

/// A record that is taken.
#[derive(Debug)]
pub(crate) struct Claim {
    number: u32,
    words: &'static [AtomicU64; RECORD_WORDS],
}

/// The record of a request.
#[derive(Debug)]
pub(crate) struct RequestRecord {
    claim: Claim,
    key: u64,
    arrived: MonoNs,
}

impl FlightRecorder {
    /// Bytes of memory for so many records.
    #[must_use]
    pub const fn bytes(records: u32) -> usize {
        (HEADER_WORDS + records as usize * RECORD_WORDS) * size_of::<u64>()
    }

    /// Begins a recording. `started` and `anchor` say when.
    ///
    /// # Errors
    /// When the memory holds not even one record.
    pub fn begin(
        memory: &'static [AtomicU64],
        process: u32,
        started: MonoNs,
        anchor: WallAnchor,
    ) -> Result<Self, TooLittleMemory> {
        let too_little = TooLittleMemory { words: memory.len() };
        let (header, rest) = memory.split_at_checked(HEADER_WORDS).ok_or(too_little)?;
        let (records, _) = rest.as_chunks::<RECORD_WORDS>();
        let records: Box<[_]> = records.iter().take(u32::MAX as usize / 2).collect();
        if records.is_empty() {
            return Err(too_little);
        }
        let identity = [
            MAGIC,
            pair(FLIGHT_VERSION, RECORD_WORDS as u32),
            records.len() as u64,
            u64::from(process),
            started.0,
            anchor.unix_ns(started),
        ];
        header[H_ALIVE].store(started.0, Ordering::Relaxed);
        for (word, value) in header.iter().zip(identity).skip(1) {
            word.store(value, Ordering::Relaxed);
        }
        header[H_CHECK].store(check(identity), Ordering::Relaxed);
        header[H_MAGIC].store(MAGIC, Ordering::Release);
        let below = records.iter().map(|_| AtomicU32::new(0)).collect();
        Ok(Self { header, records, used: AtomicU32::new(0), free: FreeStack::default(), below })
    }

    /// The process is alive at this time. What is older than the last such time was so when the process died.
    pub fn alive(&self, at: MonoNs) {
        self.header[H_ALIVE].store(at.0, Ordering::Relaxed);
    }

    /// The process ends in order.
    pub fn end(&self, at: MonoNs) {
        self.alive(at);
        self.header[H_ENDED].store(1, Ordering::Release);
    }

    pub(crate) fn board(&self) -> EngineBoard {
        let words: Option<&'static [AtomicU64; BOARD_WORDS]> = self.header[H_BOARD..].first_chunk();
        words.map_or_else(EngineBoard::default, EngineBoard::mapped)
    }

    fn claim(&self) -> Option<Claim> {
        let taken = self.free.pop(|number| self.below.get(number as usize)).or_else(|| {
            let more = |used: u32| ((used as usize) < self.records.len()).then_some(used + 1);
            self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).ok()
        });
        let claim = taken
            .and_then(|number| Some(Claim { number, words: self.records.get(number as usize).copied()? }));
        if claim.is_none() {
            self.header[H_WITHOUT_ROOM].fetch_add(1, Ordering::Relaxed);
        }
        claim
    }

    /// Frees a record. Only once per claim.
    pub(crate) fn release(&self, claim: &Claim) {
        claim.words[KEY].store(0, Ordering::Release);
        if let Some(below) = self.below.get(claim.number as usize) {
            self.free.push(claim.number, below);
        }
    }

    pub(crate) fn begin_request(
        &self,
        RequestKey(key): RequestKey,
        trace_id: TraceId,
        span_id: SpanId,
        route: &str,
        arrived: MonoNs,
    ) -> Option<RequestRecord> {
        let claim = self.claim()?;
        let words = claim.words;
        let trace = u128::from_be_bytes(trace_id.to_bytes());
        let identity = [
            (KIND, REQUEST_KIND),
            (R_TRACE_HIGH, (trace >> 64) as u64),
            (R_TRACE_LOW, trace as u64),
            (R_SPAN, u64::from_be_bytes(span_id.to_bytes())),
            (R_ARRIVED, arrived.0),
        ];
        for (index, value) in identity {
            words[index].store(value, Ordering::Relaxed);
        }
        let sum = check(std::iter::once(key).chain(identity.map(|(_, value)| value)));
        words[CHECK].store(sum, Ordering::Relaxed);
        words[R_API].store(api_word(key, ApiState::Receiving, 0), Ordering::Relaxed);
        words[R_LABEL.start].store(0, Ordering::Relaxed);
        words[R_MODEL.start].store(0, Ordering::Relaxed);
        write_text(&words[R_ROUTE], key, route);
        words[KEY].store(key, Ordering::Release);
        Some(RequestRecord { claim, key, arrived })
    }

    /// Words for a sequence, and the record they are in.
    pub(crate) fn sequence_words(&self) -> Option<(Words<SEQUENCE_WORDS>, Claim)> {
        let claim = self.claim()?;
        let words: &'static [AtomicU64; SEQUENCE_WORDS] = claim.words.first_chunk()?;
        Some((Words::Mapped(words), claim))
    }
}

impl RequestRecord {
    pub(crate) fn claim(&self) -> &Claim {
        &self.claim
    }

    fn is_ours(&self) -> bool {
        self.claim.words[KEY].load(Ordering::Acquire) == self.key
    }

    pub(crate) fn show_label(&self, label: &str) {
        if self.is_ours() {
            write_text(&self.claim.words[R_LABEL], self.key, label);
        }
    }

    pub(crate) fn show_model(&self, model: &str) {
        if self.is_ours() {
            write_text(&self.claim.words[R_MODEL], self.key, model);
        }
    }

    /// The request has come so far. A report that comes late changes nothing.
    pub(crate) fn show_state(&self, state: ApiState, at: MonoNs) {
        let word = &self.claim.words[R_API];
        let new = api_word(self.key, state, at.since(self.arrived));
        let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |current| {
            let (before, _) = read_api_word(current, self.key)?;
            ((before as u8) < state as u8).then_some(new)
        });
    }
}
