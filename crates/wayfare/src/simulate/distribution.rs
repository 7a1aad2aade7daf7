//! Percentiles of many times, in nanoseconds.
//!
//! A percentile is that of the nearest rank: the smallest value that at least so many of a hundred do not exceed.

use serde::Serialize;

/// Values below this have a count of their own; above, every power of two is cut into half as many parts.
const EXACT: u64 = 1 << 12;

/// The figures of a distribution, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Percentiles {
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p95: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

/// Keeps every value: for what there is one of per request.
#[derive(Clone, Debug, Default)]
pub(super) struct Values(Vec<u64>);

impl Values {
    pub(super) fn add(&mut self, ns: u64) {
        self.0.push(ns);
    }

    /// `None` when there are no values.
    pub(super) fn percentiles(mut self) -> Option<Percentiles> {
        self.0.sort_unstable();
        let count = self.0.len() as u64;
        let sum = self.0.iter().map(|value| u128::from(*value)).sum();
        let max = *self.0.last()?;
        Some(Percentiles::of(count, sum, max, |rank| {
            let index = usize::try_from(rank.saturating_sub(1)).unwrap_or(usize::MAX);
            self.0.get(index).copied().unwrap_or(max)
        }))
    }
}

/// Keeps counts of values that are alike, to within a part in two thousand: for what there is one of per token.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    counts: Vec<u64>,
    count: u64,
    sum: u128,
    max: u64,
}

impl Counts {
    pub(super) fn add(&mut self, ns: u64) {
        let bucket = bucket_of(ns);
        if bucket >= self.counts.len() {
            // At most 54 · 2048.
            self.counts.resize(bucket + 1, 0);
        }
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.count += 1;
        self.sum += u128::from(ns);
        self.max = self.max.max(ns);
    }

    /// `None` when there are no values.
    pub(super) fn percentiles(&self) -> Option<Percentiles> {
        let value_at = |rank: u64| {
            let mut seen = 0;
            for (bucket, count) in self.counts.iter().enumerate() {
                seen += count;
                if seen >= rank {
                    return largest_of(bucket).min(self.max);
                }
            }
            self.max
        };
        (self.count > 0).then(|| Percentiles::of(self.count, self.sum, self.max, value_at))
    }
}

impl Percentiles {
    /// `value_at` gives the value of a rank, from 1.
    fn of(count: u64, sum: u128, max: u64, value_at: impl Fn(u64) -> u64) -> Self {
        let seconds = |ns: u64| ns as f64 / 1e9;
        let percentile = |percent: u64| {
            let rank = (u128::from(count) * u128::from(percent)).div_ceil(100);
            seconds(value_at(u64::try_from(rank).unwrap_or(u64::MAX)))
        };
        Self {
            mean: sum as f64 / count as f64 / 1e9,
            p50: percentile(50),
            p90: percentile(90),
            p95: percentile(95),
            p99: percentile(99),
            max: seconds(max),
        }
    }
}

/// How many low bits of a value are not looked at.
fn shift_of(value: u64) -> u32 {
    (u64::BITS - value.leading_zeros()).saturating_sub(EXACT.trailing_zeros())
}

fn bucket_of(value: u64) -> usize {
    let shift = shift_of(value);
    (value >> shift) as usize + shift as usize * (EXACT as usize / 2)
}

/// The largest value of a bucket.
fn largest_of(bucket: usize) -> u64 {
    let half = EXACT as usize / 2;
    let shift = (bucket / half).saturating_sub(1);
    let high = (bucket - shift * half) as u128;
    u64::try_from(((high + 1) << shift) - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let mut values = Values::default();
        assert_eq!(values.clone().percentiles(), None);
        for value in (1..=200).rev() {
            values.add(value * 1_000_000_000);
        }
        let expected =
            Percentiles { mean: 100.5, p50: 100.0, p90: 180.0, p95: 190.0, p99: 198.0, max: 200.0 };
        assert_eq!(values.percentiles(), Some(expected));
        let mut one = Values::default();
        one.add(7_000_000_000);
        let expected = Percentiles { mean: 7.0, p50: 7.0, p90: 7.0, p95: 7.0, p99: 7.0, max: 7.0 };
        assert_eq!(one.percentiles(), Some(expected));
    }

    #[test]
    fn counts_agree_with_values() {
        let (mut values, mut counts) = (Values::default(), Counts::default());
        assert_eq!(counts.percentiles(), None);
        let mut value = 1_u64;
        for _ in 0..10_000 {
            value = value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let ns = value >> (20 + value % 40);
            values.add(ns);
            counts.add(ns);
        }
        let (exact, rough) = (values.percentiles().unwrap(), counts.percentiles().unwrap());
        assert_eq!((exact.mean, exact.max), (rough.mean, rough.max));
        for (exact, rough) in [(exact.p50, rough.p50), (exact.p95, rough.p95), (exact.p99, rough.p99)] {
            assert!(rough >= exact && rough <= exact * (1.0 + 1.0 / 2000.0), "{rough} for {exact}");
        }
    }

    #[test]
    fn every_value_is_in_the_bucket_that_ends_at_or_above_it() {
        for value in (0..64).flat_map(|bits| [(1_u64 << bits) - 1, 1 << bits, (1 << bits) + 1, u64::MAX]) {
            let largest = largest_of(bucket_of(value));
            assert!(largest >= value && largest - value <= value / 2048, "{value}: {largest}");
        }
    }
}
