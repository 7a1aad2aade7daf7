//! Where the time went, by how long the request took.

use serde::Serialize;

use crate::bucket::{Bucket, Buckets};
use crate::survey::{Ending, Record, Survey};

/// From which to which of a hundred.
const BOUNDS: [(u32, u32); 4] = [(0, 50), (50, 90), (90, 99), (99, 100)];

/// The served requests between two percentiles of the end-to-end time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Band {
    /// Its lower percentile.
    pub from: u32,
    /// Its upper percentile.
    pub to: u32,
    /// Requests in it.
    pub requests: u64,
    /// Their mean end-to-end time, seconds.
    pub mean: f64,
    /// Where that went, without the buckets that are empty.
    pub buckets: Vec<BucketShare>,
}

/// What one bucket had.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct BucketShare {
    /// Its name, as in `journey.ledger.NAME_ns`.
    pub bucket: &'static str,
    /// Seconds per request, on average.
    pub mean: f64,
    /// Its share of the time.
    pub share: f64,
}

pub(super) fn of(survey: &Survey) -> Vec<Band> {
    let mut requests: Vec<(u64, Buckets)> = survey.records().filter_map(served_account).collect();
    requests.sort_unstable_by_key(|(e2e, _)| *e2e);
    let place = |percent: u32| requests.len() * percent as usize / 100;
    BOUNDS
        .iter()
        .filter_map(|(from, to)| {
            let within = requests.get(place(*from)..place(*to))?;
            (!within.is_empty()).then(|| band(*from, *to, within))
        })
        .collect()
}

fn served_account(record: &Record) -> Option<(u64, Buckets)> {
    let is_served = record.ending == Ending::Departed;
    is_served.then(|| Some((record.e2e_ns()?, record.account()?)))?
}

fn band(from: u32, to: u32, requests: &[(u64, Buckets)]) -> Band {
    let count = requests.len() as f64;
    let total: f64 = requests.iter().map(|(e2e, _)| *e2e as f64).sum();
    let shares = Bucket::ALL.into_iter().filter_map(|bucket| {
        let sum: f64 = requests.iter().map(|(_, buckets)| buckets.get(bucket) as f64).sum();
        let share = if total > 0.0 { sum / total } else { 0.0 };
        (sum > 0.0).then(|| BucketShare { bucket: bucket.name(), mean: sum / count / 1e9, share })
    });
    Band { from, to, requests: requests.len() as u64, mean: total / count / 1e9, buckets: shares.collect() }
}
