//! Reading what a flight recorder has left.
//!
//! The words may come from anywhere and may have been cut off in the middle of any change: what does not fit
//! together is left out and counted, and nothing of it panics.

use std::collections::HashMap;

use crate::board::{BOARD_WORDS, EngineTotals, QueueWaits, StepView};
use crate::live::{
    CHECK, JourneyState, KEY, KIND, RequestKey, SEQUENCE_KIND, SEQUENCE_WORDS, SequenceKey, SequenceView,
};
use crate::recorder::{
    FLIGHT_VERSION, H_ALIVE, H_BOARD, H_CHECK, H_ENDED, H_MAGIC, H_PROCESS, H_RECORDS, H_STARTED,
    H_STARTED_UNIX, H_VERSION, H_WITHOUT_ROOM, HEADER_WORDS, MAGIC, R_API, R_ARRIVED, R_LABEL, R_MODEL,
    R_ROUTE, R_SPAN, R_TRACE_HIGH, R_TRACE_LOW, RECORD_WORDS, REQUEST_KIND, read_api_word,
};
use crate::words::{ReadText, check, read_text, unpair};
use crate::{MonoNs, SpanId, TraceId, WaitReason, WallAnchor};

/// A time in a record that is so much later than the last sign of life is none.
const MOST_AFTER_SIGN_OF_LIFE_NS: u64 = 60_000_000_000;

/// Why there is no recording to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecording {
    /// The file is something else, or empty.
    #[error("this is no recording of a flight recorder")]
    Foreign,
    /// It was made by another version of the program.
    #[error(
        "the recording has layout {found}, and this program reads layout {FLIGHT_VERSION}: read it with the \
         program that made it"
    )]
    OtherVersion {
        /// Its layout.
        found: u32,
    },
    /// A part is missing at its end.
    #[error("the recording is cut off: it has {found} of {expected} bytes")]
    CutOff {
        /// Bytes that it should have.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// Its first words contradict each other.
    #[error("the head of the recording is damaged")]
    Damaged,
}

/// What was in flight at the last moment of a process.
#[derive(Clone, Debug, PartialEq)]
pub struct Recording {
    /// The process.
    pub process_id: u32,
    /// Turns the recording's times into wall-clock time.
    pub anchor: WallAnchor,
    /// When the recording was begun.
    pub started: MonoNs,
    /// The last sign of life.
    pub last_alive: MonoNs,
    /// Whether the process ended in order.
    pub has_ended_in_order: bool,
    /// How often a request or a sequence found no room.
    pub without_room: u64,
    /// Records that do not fit together: of what was just being written, or damaged.
    pub damaged_records: u32,
    /// The engine's gauges and totals.
    pub engine: EngineTotals,
    /// The step that was started last.
    pub step: StepView,
    /// The requests in flight, in order of arrival.
    pub requests: Vec<RecordedRequest>,
}

/// A request that was in flight.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedRequest {
    /// Named it in its process.
    pub key: RequestKey,
    /// The response's id, when it had one.
    pub request_id: Option<String>,
    /// Whether only the beginning of the id had room.
    pub is_request_id_cut: bool,
    /// Its trace.
    pub trace_id: TraceId,
    /// The id of the `llm_request` span.
    pub span_id: SpanId,
    /// The matched route, as far as it had room.
    pub route: Option<String>,
    /// The model that was asked for, once known.
    pub model: Option<String>,
    /// Where it was.
    pub state: JourneyState,
    /// Since when.
    pub since: MonoNs,
    /// Whether the state comes from a sequence whose own was inferred.
    pub is_inferred: bool,
    /// When it arrived.
    pub arrived: MonoNs,
    /// Its sequences, in order.
    pub sequences: Vec<RecordedSequence>,
}

/// A sequence that was in flight.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedSequence {
    /// Its number among the sequences of its request.
    pub index: u32,
    /// How it was.
    pub view: SequenceView,
    /// What it waited for, when it did.
    pub wait: Option<RecordedWait>,
}

/// What a sequence waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedWait {
    /// Why it was not scheduled.
    pub reason: WaitReason,
    /// The id of the request that was to blame.
    pub blocker: Option<String>,
}

impl Recording {
    /// Reads a recording as it lies in the file.
    ///
    /// # Errors
    /// When it is none, of another version, or not whole.
    pub fn read(bytes: &[u8]) -> Result<Self, BadRecording> {
        let (chunks, _) = bytes.as_chunks::<8>();
        let words: Vec<u64> = chunks.iter().map(|chunk| u64::from_ne_bytes(*chunk)).collect();
        let first = |index: usize| words.get(index).copied();
        if first(H_MAGIC) != Some(MAGIC) {
            return Err(BadRecording::Foreign);
        }
        let cut_off =
            |expected: usize| BadRecording::CutOff { expected: expected as u64, found: bytes.len() as u64 };
        let (found, record_words) = unpair(first(H_VERSION).unwrap_or_default());
        if found != FLIGHT_VERSION && words.len() > H_VERSION {
            return Err(BadRecording::OtherVersion { found });
        }
        let Some((header, records)) = words.split_at_checked(HEADER_WORDS) else {
            return Err(cut_off(HEADER_WORDS * 8));
        };
        let is_whole = header[H_CHECK] == check(header[..H_CHECK].iter().copied());
        if !is_whole || record_words as usize != RECORD_WORDS {
            return Err(BadRecording::Damaged);
        }
        let expected = usize::try_from(header[H_RECORDS]).ok();
        let expected = expected.and_then(|records| records.checked_mul(RECORD_WORDS));
        let expected = expected.filter(|words| *words <= usize::MAX / 16).ok_or(BadRecording::Damaged)?;
        let records = records.get(..expected).ok_or_else(|| cut_off((HEADER_WORDS + expected) * 8))?;
        let board: &[u64; BOARD_WORDS] =
            header[H_BOARD..].first_chunk().ok_or_else(|| cut_off(HEADER_WORDS * 8))?;
        Ok(Self::of_words(header, board, records))
    }

    fn of_words(header: &[u64], board: &[u64; BOARD_WORDS], records: &[u64]) -> Self {
        let mut damaged_records = 0;
        let mut requests = Vec::new();
        let mut sequences: HashMap<u64, Vec<(u32, SequenceView)>> = HashMap::new();
        for record in records.as_chunks::<RECORD_WORDS>().0.iter().filter(|record| record[KEY] != 0) {
            if let Some((index, view)) = read_sequence(record) {
                sequences.entry(record[KEY]).or_default().push((index, view));
            } else if record[KIND] == REQUEST_KIND && is_whole_request(record) {
                requests.push(record);
            } else {
                damaged_records += 1;
            }
        }
        let label = |record: &[u64; RECORD_WORDS]| read_text(&record[R_LABEL], record[KEY]);
        let labels: HashMap<u64, String> =
            requests.iter().filter_map(|record| Some((record[KEY], label(record)?.text))).collect();

        let waits = QueueWaits::of_words(board);
        let last_alive = header[H_ALIVE];
        let of_record = |record: &[u64; RECORD_WORDS]| {
            let mut sequences = sequences.remove(&record[KEY]).unwrap_or_default();
            sequences.sort_by_key(|(index, _)| *index);
            read_request(record, label(record), &sequences, &waits, &labels)
        };
        let found = requests.len();
        let mut requests: Vec<RecordedRequest> = requests.into_iter().filter_map(of_record).collect();
        damaged_records += (found - requests.len()) as u32;
        requests.sort_by_key(|request| (request.arrived, request.key));

        let step = StepView::of_words(board);
        // The sign of life comes now and then; whatever happened after it was a later one.
        let times = requests.iter().flat_map(|request| {
            let changes = request.sequences.iter().map(|sequence| sequence.view.changed);
            changes.chain([request.arrived, request.since])
        });
        let latest = times
            .chain([step.started])
            .chain(step.ended)
            .filter(|at| at.0.saturating_sub(last_alive) <= MOST_AFTER_SIGN_OF_LIFE_NS);
        let started = MonoNs(header[H_STARTED]);
        Self {
            process_id: header[H_PROCESS] as u32,
            anchor: WallAnchor::new(started, header[H_STARTED_UNIX]),
            started,
            last_alive: latest.chain([MonoNs(last_alive)]).max().unwrap_or_default(),
            has_ended_in_order: header[H_ENDED] != 0,
            without_room: header[H_WITHOUT_ROOM],
            damaged_records,
            engine: EngineTotals::of_words(board),
            step,
            requests,
        }
    }
}

fn read_sequence(record: &[u64; RECORD_WORDS]) -> Option<(u32, SequenceView)> {
    if record[KIND] & 0xff != SEQUENCE_KIND {
        return None;
    }
    let words: &[u64; SEQUENCE_WORDS] = record.first_chunk()?;
    Some((SequenceView::index_of_record(words)?, SequenceView::of_words(words)?))
}

fn is_whole_request(record: &[u64; RECORD_WORDS]) -> bool {
    let covered = [KEY, KIND, R_TRACE_HIGH, R_TRACE_LOW, R_SPAN, R_ARRIVED];
    record[CHECK] == check(covered.map(|index| record[index]))
}

fn read_request(
    record: &[u64; RECORD_WORDS],
    label: Option<ReadText>,
    sequences: &[(u32, SequenceView)],
    waits: &QueueWaits,
    labels: &HashMap<u64, String>,
) -> Option<RecordedRequest> {
    let key = RequestKey(record[KEY]);
    let trace = u128::from(record[R_TRACE_HIGH]) << 64 | u128::from(record[R_TRACE_LOW]);
    let arrived = MonoNs(record[R_ARRIVED]);
    let (api, since_arrival) = read_api_word(record[R_API], key.0)?;
    let since = MonoNs(arrived.0.saturating_add(since_arrival));
    let (state, since, is_inferred) = JourneyState::of(api, since, &sequences.iter().map(|(_, view)| view));
    let sequences = sequences.iter().map(|&(index, view)| {
        let wait = waits.of(SequenceKey { request: key, index }, &view);
        let wait = wait.map(|wait| RecordedWait {
            reason: wait.reason,
            blocker: wait.blocker.and_then(|blocker| labels.get(&blocker.0).cloned()),
        });
        RecordedSequence { index, view, wait }
    });
    Some(RecordedRequest {
        key,
        is_request_id_cut: label.as_ref().is_some_and(|label| label.is_cut),
        request_id: label.map(|label| label.text),
        trace_id: TraceId::from_bytes(trace.to_be_bytes())?,
        span_id: SpanId::from_bytes(record[R_SPAN].to_be_bytes())?,
        route: read_text(&record[R_ROUTE], key.0).map(|route| route.text),
        model: read_text(&record[R_MODEL], key.0).map(|model| model.text),
        state,
        since,
        is_inferred,
        arrived,
        sequences: sequences.collect(),
    })
}
