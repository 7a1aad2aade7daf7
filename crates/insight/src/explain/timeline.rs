//! How it went over time, and whether it went too far.

use serde::Serialize;

use crate::survey::{Ending, Record, Survey};

/// Most slices that the time is cut into.
const MAX_SLICES: usize = 60;
/// Slices of the time in which requests arrived, for the signs of saturation.
const ARRIVAL_SLICES: usize = 20;
/// Fewer requests say nothing about saturation.
const MIN_REQUESTS: usize = 30;
/// Slices of fewer requests say nothing.
const REQUESTS_PER_SLICE: usize = 20;

/// The time from the first arrival to the last end, in slices of equal length.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Timeline {
    /// The first arrival, nanoseconds since the Unix epoch.
    pub start_unix_ns: u64,
    /// The last end, nanoseconds since the Unix epoch.
    pub end_unix_ns: u64,
    /// The last arrival, nanoseconds since the Unix epoch.
    pub last_arrival_unix_ns: u64,
    /// Seconds per slice.
    pub slice: f64,
    /// The slices.
    pub slices: Vec<Slice>,
}

/// A slice of time. Depths are of the requests in the files, on average over the slice.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Slice {
    /// Requests that arrived.
    pub arrived: u64,
    /// Requests that were served.
    pub served: u64,
    /// Requests that failed or were abandoned.
    pub aborted: u64,
    /// Output tokens of those served in it.
    pub output_tokens: u64,
    /// Requests in the queue.
    pub waiting: f64,
    /// Requests in the engine, scheduled at least once.
    pub running: f64,
    /// The middle time to first token of those that arrived, seconds.
    pub ttft_p50: Option<f64>,
    /// Share of the KV blocks in use, of the steps that were recorded in it.
    pub kv_usage: Option<f64>,
}

/// Signs that the server had more to do than it could.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Saturation {
    /// By how many requests the queue grew per second, while requests arrived.
    pub queue_growth_per_second: f64,
    /// The queue's depth in the last tenth of the arrivals, on average.
    pub queue_depth_at_the_end: f64,
    /// Preemptions per second.
    pub preemptions_per_second: f64,
    /// The middle time to first token of the last third of the arrivals, divided by that of the first third.
    pub ttft_drift: Option<f64>,
    /// Whether these say that it was saturated.
    pub is_saturated: bool,
}

impl Timeline {
    /// The whole of it, seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        self.end_unix_ns.saturating_sub(self.start_unix_ns) as f64 / 1e9
    }

    pub(super) fn of(survey: &Survey) -> Self {
        let mut timeline = Self { start_unix_ns: u64::MAX, ..Self::default() };
        let mut count = 0_usize;
        for record in survey.records().filter(|record| is_placed(record)) {
            count += 1;
            timeline.start_unix_ns = timeline.start_unix_ns.min(record.start_ns);
            timeline.end_unix_ns = timeline.end_unix_ns.max(record.end_ns);
            timeline.last_arrival_unix_ns = timeline.last_arrival_unix_ns.max(record.start_ns);
        }
        if count == 0 {
            return Self::default();
        }
        let slices = (count / REQUESTS_PER_SLICE).clamp(1, MAX_SLICES);
        timeline.cut(survey, slices);
        timeline
    }

    /// Only while requests arrived.
    fn of_arrivals(&self, survey: &Survey) -> Self {
        let mut timeline =
            Self { end_unix_ns: self.last_arrival_unix_ns, slices: Vec::new(), ..self.clone() };
        timeline.cut(survey, ARRIVAL_SLICES);
        timeline
    }

    fn cut(&mut self, survey: &Survey, slices: usize) {
        self.slice = self.seconds() / slices as f64;
        self.slices = vec![Slice::default(); slices];
        let mut ttfts = vec![Vec::new(); slices];
        for record in survey.records().filter(|record| is_placed(record)) {
            self.take(record, &mut ttfts);
        }
        for (slice, values) in self.slices.iter_mut().zip(&mut ttfts) {
            slice.ttft_p50 = middle(values);
        }
        self.take_steps(survey);
    }

    fn place(&self, unix_ns: u64) -> usize {
        let last = self.slices.len().saturating_sub(1);
        let seconds = unix_ns.saturating_sub(self.start_unix_ns) as f64 / 1e9;
        if self.slice > 0.0 { ((seconds / self.slice) as usize).min(last) } else { 0 }
    }

    fn take(&mut self, record: &Record, ttfts: &mut [Vec<u64>]) {
        let arrived = self.place(record.start_ns);
        let ended = self.place(record.end_ns);
        if let Some(slice) = self.slices.get_mut(arrived) {
            slice.arrived += 1;
        }
        if let (Some(ttft), Some(values)) = (record.ttft_ns(), ttfts.get_mut(arrived)) {
            values.push(ttft);
        }
        if let Some(slice) = self.slices.get_mut(ended) {
            match record.ending {
                Ending::Departed => {
                    slice.served += 1;
                    slice.output_tokens += u64::from(record.output_tokens);
                }
                Ending::Aborted => slice.aborted += 1,
                Ending::Unknown => {}
            }
        }
        let last = &record.last;
        if let Some(queued) = last.queued.get() {
            let end = last.finished.get().unwrap_or(record.end_ns);
            let scheduled = last.scheduled.get().unwrap_or(end);
            self.spread(queued, scheduled, |slice| &mut slice.waiting);
            self.spread(scheduled, end, |slice| &mut slice.running);
        }
    }

    /// Adds one for the time between two moments, as a share of each slice.
    fn spread(&mut self, from: u64, to: u64, place: fn(&mut Slice) -> &mut f64) {
        if to <= from || self.slice <= 0.0 {
            return;
        }
        let (first, last) = (self.place(from), self.place(to));
        let slice_ns = self.slice * 1e9;
        let start = self.start_unix_ns;
        for (number, slice) in self.slices.iter_mut().enumerate().take(last + 1).skip(first) {
            let slice_start = number as f64 * slice_ns;
            let within = |at: u64| (at.saturating_sub(start) as f64 - slice_start).clamp(0.0, slice_ns);
            *place(slice) += (within(to) - within(from)) / slice_ns;
        }
    }

    fn take_steps(&mut self, survey: &Survey) {
        let mut sums = vec![(0.0, 0_u32); self.slices.len()];
        for sample in survey.steps().samples() {
            let is_within = (self.start_unix_ns..=self.end_unix_ns).contains(&sample.unix_ns);
            if let (true, Some((sum, count))) = (is_within, sums.get_mut(self.place(sample.unix_ns))) {
                *sum += f64::from(sample.kv_usage);
                *count += 1;
            }
        }
        for (slice, (sum, count)) in self.slices.iter_mut().zip(sums) {
            slice.kv_usage = (count > 0).then(|| sum / f64::from(count));
        }
    }
}

fn is_placed(record: &Record) -> bool {
    record.start_ns > 0 && !record.clock_is_off
}

/// The middle value, in seconds.
fn middle(values: &mut [u64]) -> Option<f64> {
    let half = values.len().checked_sub(1)? / 2;
    let (_, value, _) = values.select_nth_unstable(half);
    Some(*value as f64 / 1e9)
}

impl Saturation {
    pub(super) fn of(survey: &Survey, timeline: &Timeline) -> Self {
        let arrivals = timeline.of_arrivals(survey);
        let while_arriving = arrivals.slices.as_slice();
        let preemptions: u64 = survey.records().map(|record| u64::from(record.preemptions)).sum();
        let tail = while_arriving.len().div_ceil(10);
        let last_tenth = &while_arriving[while_arriving.len() - tail..];
        let depth: f64 = last_tenth.iter().map(|slice| slice.waiting).sum::<f64>() / tail.max(1) as f64;
        let drift = ttft_drift(survey);
        let seconds = timeline.seconds();
        let mut saturation = Self {
            queue_growth_per_second: slope(while_arriving, arrivals.slice),
            queue_depth_at_the_end: depth,
            preemptions_per_second: if seconds > 0.0 { preemptions as f64 / seconds } else { 0.0 },
            ttft_drift: drift,
            is_saturated: false,
        };
        let grown = saturation.queue_growth_per_second * arrivals.seconds();
        let is_growing = grown >= 2.0 && grown >= 0.5 * depth;
        saturation.is_saturated = is_growing && drift.is_some_and(|drift| drift >= 1.5);
        saturation
    }
}

/// The straight line through the queue's depths, in requests per second.
fn slope(slices: &[Slice], seconds: f64) -> f64 {
    let count = slices.len() as f64;
    if slices.len() < 3 || seconds <= 0.0 {
        return 0.0;
    }
    let middle = (count - 1.0) / 2.0;
    let mean = slices.iter().map(|slice| slice.waiting).sum::<f64>() / count;
    let (mut covariance, mut variance) = (0.0, 0.0);
    for (number, slice) in slices.iter().enumerate() {
        let distance = number as f64 - middle;
        covariance += distance * (slice.waiting - mean);
        variance += distance * distance;
    }
    covariance / variance / seconds
}

fn ttft_drift(survey: &Survey) -> Option<f64> {
    let mut by_arrival: Vec<(u64, u64)> =
        survey.records().filter_map(|record| Some((record.start_ns, record.ttft_ns()?))).collect();
    if by_arrival.len() < MIN_REQUESTS {
        return None;
    }
    by_arrival.sort_unstable();
    let third = by_arrival.len() / 3;
    let of = |part: &[(u64, u64)]| middle(&mut part.iter().map(|(_, ttft)| *ttft).collect::<Vec<_>>());
    let (first, last) = (of(&by_arrival[..third])?, of(&by_arrival[by_arrival.len() - third..])?);
    (first > 0.0).then(|| last / first)
}
