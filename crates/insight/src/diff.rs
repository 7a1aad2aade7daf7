//! What changed between two runs.

mod bootstrap;
mod condition;
mod text;

use serde::Serialize;

use crate::bucket::Bucket;
use crate::explain::LatencyKind;
use crate::survey::{Ending, Integrity, Survey};
use bootstrap::{Random, Sample, Statistic, difference};
pub use condition::{BadCondition, Condition, UnknownFigure};
pub use text::diff_text;

/// The form of the JSON; it changes when a field changes its meaning or goes.
pub const DIFF_SCHEMA: &str = "wayfare.diff/1";

/// Any seed will do; a fixed one gives the same files the same answer.
const SEED: u64 = 0x7761_7966_6172_6521;

/// Figures of every latency.
const STATISTICS: [(&str, Statistic); 5] = [
    ("mean", Statistic::Mean),
    ("p50", Statistic::Percentile(50)),
    ("p90", Statistic::Percentile(90)),
    ("p95", Statistic::Percentile(95)),
    ("p99", Statistic::Percentile(99)),
];

/// ITL is not among them: it is TPOT with other weights.
const KINDS: [LatencyKind; 6] = [
    LatencyKind::Ttft,
    LatencyKind::Tpot,
    LatencyKind::Queue,
    LatencyKind::Prefill,
    LatencyKind::Decode,
    LatencyKind::E2e,
];

/// What decides the verdict.
const DECISIVE: [&str; 4] = ["p50.ttft", "p99.ttft", "p50.e2e", "p99.e2e"];
/// A change of less is none.
const NOTABLE: f64 = 0.02;

/// Two runs beside each other.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Diff {
    /// [`DIFF_SCHEMA`].
    pub schema: &'static str,
    /// What is whole of the first, and what is not.
    pub before: Integrity,
    /// As above, of the second.
    pub after: Integrity,
    /// In a word.
    pub verdict: Verdict,
    /// Every figure that both have.
    pub figures: Vec<Comparison>,
}

/// What a diff comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Time to first token or the whole takes notably and certainly longer, and nothing of it shorter.
    Slower,
    /// The other way round.
    Faster,
    /// One is longer, another shorter.
    Mixed,
    /// Nothing certain.
    Alike,
}

/// One figure of both runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Its name, such as `p99.ttft`, or `ledger.queue.kv_blocks` for the mean of a bucket.
    pub figure: String,
    /// In the first run: seconds; of `failed` a share, of `throughput` requests per second.
    pub before: f64,
    /// In the second.
    pub after: f64,
    /// The change, relative to before; `None` when that was nothing.
    pub change: Option<f64>,
    /// The lower end of the interval in which the difference (after − before) lies with 95 %.
    pub low: f64,
    /// The upper end.
    pub high: f64,
    /// Whether the interval leaves out zero.
    pub is_certain: bool,
}

impl Diff {
    /// Compares two surveys.
    #[must_use]
    pub fn of(before: &Survey, after: &Survey) -> Self {
        let mut random = Random::new(SEED);
        let mut figures = Vec::new();
        for kind in KINDS {
            let (one, other) = (latencies(before, kind), latencies(after, kind));
            for (name, statistic) in STATISTICS {
                let name = format!("{name}.{}", kind.key());
                figures.extend(compare(name, &one, &other, statistic, &mut random));
            }
        }
        for bucket in Bucket::ALL {
            let (one, other) = (in_bucket(before, bucket), in_bucket(after, bucket));
            let is_empty =
                [&one, &other].iter().all(|sample| sample.figure(Statistic::Mean).unwrap_or(0.0) == 0.0);
            if !is_empty {
                let name = format!("ledger.{}", bucket.name());
                figures.extend(compare(name, &one, &other, Statistic::Mean, &mut random));
            }
        }
        figures.extend(failed(before, after));
        figures.extend(throughput(before, after));
        let verdict = verdict(&figures);
        Self { schema: DIFF_SCHEMA, before: before.integrity(), after: after.integrity(), verdict, figures }
    }

    /// The figure of that name.
    #[must_use]
    pub fn figure(&self, name: &str) -> Option<&Comparison> {
        self.figures.iter().find(|one| one.figure == name)
    }
}

impl Comparison {
    fn new(figure: String, before: f64, after: f64, low: f64, high: f64) -> Self {
        let change = (before > 0.0).then(|| after / before - 1.0);
        Self { figure, before, after, change, low, high, is_certain: low > 0.0 || high < 0.0 }
    }
}

fn latencies(survey: &Survey, kind: LatencyKind) -> Sample {
    Sample::new(survey.records().filter_map(|record| kind.of(record)).map(|(ns, _)| ns).collect())
}

fn in_bucket(survey: &Survey, bucket: Bucket) -> Sample {
    let served = survey.records().filter(|record| record.ending == Ending::Departed);
    Sample::new(served.filter_map(|record| Some(record.account()?.get(bucket))).collect())
}

fn compare(
    name: String,
    before: &Sample,
    after: &Sample,
    statistic: Statistic,
    random: &mut Random,
) -> Option<Comparison> {
    let found = difference(before, after, statistic, random)?;
    let seconds = |ns: f64| ns / 1e9;
    // Of one value nothing can be said about others.
    let is_enough = before.len() > 1 && after.len() > 1;
    let (low, high) = if is_enough { (found.low, found.high) } else { (f64::MIN, f64::MAX) };
    Some(Comparison::new(name, seconds(found.before), seconds(found.after), seconds(low), seconds(high)))
}

/// Requests, and of them those that were aborted.
fn ends(survey: &Survey) -> (f64, f64) {
    let requests = survey.records().filter(|record| record.has_request);
    requests.fold((0.0, 0.0), |(all, failed), record| {
        (all + 1.0, failed + f64::from(u8::from(record.ending == Ending::Aborted)))
    })
}

/// The share of aborted requests, with the normal interval of a difference of shares.
fn failed(before: &Survey, after: &Survey) -> Option<Comparison> {
    let ((all_before, failed_before), (all_after, failed_after)) = (ends(before), ends(after));
    if all_before == 0.0 || all_after == 0.0 {
        return None;
    }
    let (one, other) = (failed_before / all_before, failed_after / all_after);
    // Agresti and Caffo's, which is right for few and for none as well.
    let adjusted = |failed: f64, all: f64| ((failed + 1.0) / (all + 2.0), all + 2.0);
    let ((p, n), (q, m)) = (adjusted(failed_before, all_before), adjusted(failed_after, all_after));
    let margin = 1.96 * (p * (1.0 - p) / n + q * (1.0 - q) / m).sqrt();
    Some(Comparison::new("failed".to_owned(), one, other, q - p - margin, q - p + margin))
}

/// Requests served per second, as if they came one independently of the other.
fn throughput(before: &Survey, after: &Survey) -> Option<Comparison> {
    let rate = |survey: &Survey| {
        let served = survey.records().filter(|record| record.ending == Ending::Departed && record.is_timed());
        let (mut count, mut start, mut end) = (0.0, u64::MAX, 0);
        for record in served {
            count += 1.0;
            start = start.min(record.start_ns);
            end = end.max(record.end_ns);
        }
        let seconds = end.saturating_sub(start) as f64 / 1e9 * survey.kept_share();
        (count > 0.0 && seconds > 0.0).then(|| (count / seconds, count.sqrt() / seconds))
    };
    let ((one, deviation), (other, other_deviation)) = (rate(before)?, rate(after)?);
    let margin = 1.96 * deviation.hypot(other_deviation);
    let change = other - one;
    Some(Comparison::new("throughput".to_owned(), one, other, change - margin, change + margin))
}

fn verdict(figures: &[Comparison]) -> Verdict {
    let decisive = figures.iter().filter(|one| DECISIVE.contains(&one.figure.as_str()) && one.is_certain);
    let (mut is_slower, mut is_faster) = (false, false);
    for change in decisive.filter_map(|one| one.change) {
        is_slower |= change >= NOTABLE;
        is_faster |= change <= -NOTABLE;
    }
    match (is_slower, is_faster) {
        (true, false) => Verdict::Slower,
        (false, true) => Verdict::Faster,
        (true, true) => Verdict::Mixed,
        (false, false) => Verdict::Alike,
    }
}
