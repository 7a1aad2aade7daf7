//! The requests in flight at one moment, and one of them as JSON.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use serde_json::{Value, json};
use wayfare_journey::{
    JourneyCell, JourneyState, MonoNs, QueueWaits, RequestKey, RequestLabel, RequestView, SequenceKey,
    SequenceState, SequenceView, Tracer, WaitNow, WallAnchor,
};

/// The requests in flight as they were at one moment.
#[derive(Debug)]
pub(crate) struct InFlight {
    pub(crate) now: MonoNs,
    anchor: WallAnchor,
    waits: QueueWaits,
    requests: Vec<(Arc<JourneyCell>, RequestView)>,
    labels: HashMap<RequestKey, RequestLabel>,
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LiveRequest<'a> {
    all: &'a InFlight,
    pub(crate) cell: &'a Arc<JourneyCell>,
    pub(crate) view: &'a RequestView,
}

impl InFlight {
    pub(crate) fn look(tracer: &Tracer, now: MonoNs, anchor: WallAnchor) -> Self {
        let requests: Vec<_> = tracer
            .in_flight()
            .map(|cell| {
                let view = cell.view();
                (cell, view)
            })
            .collect();
        let label = |(cell, _): &(Arc<JourneyCell>, _)| Some((cell.key(), cell.label()?.clone()));
        let labels = requests.iter().filter_map(label).collect();
        Self { now, anchor, waits: tracer.board().waits(), requests, labels }
    }

    pub(crate) fn len(&self) -> usize {
        self.requests.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = LiveRequest<'_>> {
        self.requests.iter().map(|(cell, view)| LiveRequest { all: self, cell, view })
    }

    /// Sequences whose KV blocks were taken away.
    pub(crate) fn num_preempted(&self) -> usize {
        let sequences = self.requests.iter().flat_map(|(_, view)| &view.sequences);
        sequences.filter(|sequence| sequence.state == SequenceState::Preempted).count()
    }
}

impl LiveRequest<'_> {
    /// When the request or one of its sequences last changed its state.
    pub(crate) fn changed(&self) -> MonoNs {
        let of_sequences = self.view.sequences.iter().map(|sequence| sequence.changed);
        of_sequences.max().unwrap_or_default().max(self.view.since)
    }

    fn waits(&self) -> impl Iterator<Item = Option<WaitNow>> {
        let request = self.cell.key();
        (0_u32..)
            .zip(&self.view.sequences)
            .map(move |(index, sequence)| self.all.waits.of(SequenceKey { request, index }, sequence))
    }

    /// A number that changes with everything but the progress.
    pub(crate) fn signature(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.view.state, self.view.is_inferred).hash(&mut hasher);
        (self.cell.label().is_some(), self.cell.attributes().is_some()).hash(&mut hasher);
        for (wait, sequence) in self.waits().zip(&self.view.sequences) {
            wait.map(|wait| (wait.reason.as_str(), wait.blocker)).hash(&mut hasher);
            (sequence.state as u8, sequence.is_inferred, sequence.num_preemptions).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// A number that grows with the progress.
    pub(crate) fn progress(&self) -> u64 {
        let done = |sequence: &SequenceView| {
            u64::from(sequence.progress.prefill_done) + u64::from(sequence.progress.decode_done)
        };
        self.view.sequences.iter().map(done).sum()
    }

    pub(crate) fn json(&self) -> Value {
        let Self { all, cell, view } = self;
        let (now, anchor) = (all.now, all.anchor);
        let label = cell.label().map(RequestLabel::as_str);
        let waits: Vec<Value> = self.waits().map(|wait| self.wait_json(wait)).collect();
        let waits_in_queue = matches!(view.state, JourneyState::Queued | JourneyState::Preempted);
        let wait = waits.iter().find(|wait| waits_in_queue && !wait.is_null()).cloned();
        let sum = |part: fn(&SequenceView) -> u32| -> u64 {
            view.sequences.iter().map(|sequence| u64::from(part(sequence))).sum()
        };
        let has_sequences = !view.sequences.is_empty();
        let rates: Vec<f64> =
            view.sequences.iter().filter_map(|sequence| sequence.tokens_per_second(now)).collect();
        let sequences: Vec<Value> = view
            .sequences
            .iter()
            .zip(waits)
            .enumerate()
            .map(|(index, (sequence, wait))| {
                json!({
                    "index": index,
                    "state": sequence.state.as_str(),
                    "inferred": sequence.is_inferred,
                    "in_state_ns": now.since(sequence.changed),
                    "wait": wait,
                    "prefill": {
                        "done": sequence.progress.prefill_done,
                        "total": sequence.prefill_total,
                        "cached": sequence.cached_tokens,
                    },
                    "decode": {"done": sequence.progress.decode_done, "max": sequence.decode_max},
                    "num_preemptions": sequence.num_preemptions,
                })
            })
            .collect();
        json!({
            "key": cell.key().0.to_string(),
            "request_id": label,
            "client_request_id": label.and_then(|label| Some(label.split_once('-')?.1)),
            "trace_id": cell.context().trace_id.to_string(),
            "span_id": cell.span_id().to_string(),
            "route": cell.route(),
            "model": cell.attributes().map(|asked| &*asked.request_model),
            "head_sampled": cell.head_sampled(),
            "state": view.state.as_str(),
            "inferred": view.is_inferred,
            "arrived_unix_ns": anchor.unix_ns(cell.arrived()).to_string(),
            "changed_unix_ns": anchor.unix_ns(self.changed()).to_string(),
            "age_ns": now.since(cell.arrived()),
            "in_state_ns": now.since(view.since),
            "wait": wait,
            "prefill": has_sequences.then(|| json!({
                "done": sum(|one| one.progress.prefill_done),
                "total": sum(|one| one.prefill_total),
                "cached": sum(|one| one.cached_tokens),
            })),
            "decode": has_sequences.then(|| json!({
                "done": sum(|one| one.progress.decode_done),
                "max": sum(|one| one.decode_max),
            })),
            "num_preemptions": sum(|one| one.num_preemptions),
            "tokens_per_second": (!rates.is_empty()).then(|| rates.iter().sum::<f64>()),
            "sequences": sequences,
        })
    }

    fn wait_json(&self, wait: Option<WaitNow>) -> Value {
        let Some(wait) = wait else { return Value::Null };
        let blocker = wait.blocker.and_then(|blocker| self.all.labels.get(&blocker));
        json!({"reason": wait.reason.as_str(), "blocker": blocker.map(RequestLabel::as_str)})
    }
}
