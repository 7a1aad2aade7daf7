//! What a request did when, as far as its events tell.

use crate::event::{ApiEventKind, CoreEventKind};
use crate::journey::{CoreSpan, TracedJourney};

/// What a request or a sequence does for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// The API layer reads, parses, tokenises.
    Prepare,
    /// The engine has the request.
    InEngine,
    /// The engine is through, the answer is on its way.
    Deliver,
    /// In the waiting queue for the first time.
    Queue,
    /// Computing the prompt.
    Prefill,
    /// Generating. After a preemption this includes what is computed again: the events do not part them.
    Decode,
    /// Back in the waiting queue.
    Preempted,
    /// Preempted and resumed time and again, too often to record each time.
    Thrashing,
    /// Nothing tells.
    Unknown,
}

impl Phase {
    /// The phase in words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Phase::Prepare => "prepare",
            Phase::InEngine => "in the engine",
            Phase::Deliver => "deliver",
            Phase::Queue => "queue",
            Phase::Prefill => "prefill",
            Phase::Decode => "decode",
            Phase::Preempted => "preempted",
            Phase::Thrashing => "preempted and resumed repeatedly",
            Phase::Unknown => "not known",
        }
    }
}

/// A phase with its bounds, in nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// What happens.
    pub phase: Phase,
    /// Its start.
    pub start_unix_ns: u64,
    /// Its end; never before its start.
    pub end_unix_ns: u64,
}

impl CoreSpan {
    /// The phases of the sequence, in order and without gaps, from the span's start to its end.
    #[must_use]
    pub fn phases(&self) -> Vec<Segment> {
        let mut phases = Phases::new(self.start_unix_ns, self.end_unix_ns);
        let (mut phase, mut has_token) = (Phase::Unknown, false);
        for event in &self.events {
            phases.until(event.unix_ns, phase);
            phase = match &event.kind {
                CoreEventKind::Queued => Phase::Queue,
                CoreEventKind::Scheduled { .. } if has_token => Phase::Decode,
                CoreEventKind::Scheduled { .. } => Phase::Prefill,
                CoreEventKind::FirstToken => {
                    has_token = true;
                    Phase::Decode
                }
                CoreEventKind::Preempted { folded: Some(2..), .. } => Phase::Thrashing,
                CoreEventKind::Preempted { .. } => Phase::Preempted,
                CoreEventKind::Finished { .. } => Phase::Unknown,
                CoreEventKind::Other(_) => phase,
            };
        }
        phases.until(self.end_unix_ns, phase);
        phases.segments
    }
}

impl TracedJourney {
    /// The phases of the request as the API saw it, in order and without gaps; none when `llm_request` is
    /// missing.
    #[must_use]
    pub fn request_phases(&self) -> Vec<Segment> {
        let Some(request) = &self.request else { return Vec::new() };
        let mut phases = Phases::new(request.start_unix_ns, request.end_unix_ns);
        let handoff = request.event(|kind| matches!(kind, ApiEventKind::HandoffToCore { .. }));
        let core_start = self.cores.iter().map(|core| core.start_unix_ns).min();
        let core_end = self.cores.iter().map(|core| core.end_unix_ns).max();
        let Some(in_engine) = handoff.map(|event| event.unix_ns).or(core_start) else {
            phases.until(request.end_unix_ns, Phase::Prepare);
            return phases.segments;
        };
        phases.until(in_engine, Phase::Prepare);
        // Without a core span nothing tells when the engine was through.
        phases.until(core_end.unwrap_or(request.end_unix_ns), Phase::InEngine);
        phases.until(request.end_unix_ns, Phase::Deliver);
        phases.segments
    }
}

/// Segments that are joined end to start, whatever the times in the file.
struct Phases {
    now: u64,
    end: u64,
    segments: Vec<Segment>,
}

impl Phases {
    fn new(start: u64, end: u64) -> Self {
        Self { now: start, end, segments: Vec::new() }
    }

    /// Until `unix_ns` it was `phase`. A moment in the past or after the end is moved to the nearest there
    /// is; a segment of no length is left out.
    fn until(&mut self, unix_ns: u64, phase: Phase) {
        let to = unix_ns.min(self.end);
        if to <= self.now {
            return;
        }
        match self.segments.last_mut() {
            Some(last) if last.phase == phase => last.end_unix_ns = to,
            _ => self.segments.push(Segment { phase, start_unix_ns: self.now, end_unix_ns: to }),
        }
        self.now = to;
    }
}
