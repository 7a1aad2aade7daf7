//! Percentiles of times.

use serde::Serialize;

/// The figures of some values, in seconds. A percentile is that of the nearest rank: the smallest value that at least
/// so many of a hundred do not exceed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Percentiles {
    /// How many values there are.
    pub count: u64,
    /// Their mean.
    pub mean: f64,
    /// 50 of 100.
    pub p50: f64,
    /// 90 of 100.
    pub p90: f64,
    /// 95 of 100.
    pub p95: f64,
    /// 99 of 100.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Percentiles {
    /// Of values in nanoseconds, which are sorted here; `None` when there are none.
    pub fn of(values: &mut [u64]) -> Option<Self> {
        values.sort_unstable();
        let weighted: Vec<_> = values.iter().map(|value| (*value, 1)).collect();
        Self::of_sorted(&weighted)
    }

    /// Of values in nanoseconds that each stand for so many.
    pub fn of_weighted(values: &mut [(u64, u32)]) -> Option<Self> {
        values.sort_unstable();
        Self::of_sorted(values)
    }

    fn of_sorted(values: &[(u64, u32)]) -> Option<Self> {
        let count: u64 = values.iter().map(|(_, weight)| u64::from(*weight)).sum();
        let max = values.iter().rev().find(|(_, weight)| *weight > 0)?.0;
        let sum: f64 = values.iter().map(|(value, weight)| *value as f64 * f64::from(*weight)).sum();
        let ranks = [50_u64, 90, 95, 99].map(|percent| (count * percent).div_ceil(100).max(1));
        let mut found = [max; 4];
        let (mut seen, mut next) = (0, 0);
        for (value, weight) in values {
            seen += u64::from(*weight);
            while next < ranks.len() && seen >= ranks[next] {
                found[next] = *value;
                next += 1;
            }
        }
        let seconds = |ns: u64| ns as f64 / 1e9;
        Some(Self {
            count,
            mean: sum / count as f64 / 1e9,
            p50: seconds(found[0]),
            p90: seconds(found[1]),
            p95: seconds(found[2]),
            p99: seconds(found[3]),
            max: seconds(max),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let mut values: Vec<u64> = (1..=200).rev().map(|value| value * 1_000_000_000).collect();
        let found = Percentiles::of(&mut values).unwrap();
        assert_eq!((found.count, found.mean, found.p50, found.p90), (200, 100.5, 100.0, 180.0));
        assert_eq!((found.p95, found.p99, found.max), (190.0, 198.0, 200.0));
        assert_eq!(Percentiles::of(&mut []), None);
    }

    #[test]
    fn a_weight_is_as_good_as_so_many_values() {
        let mut weighted = [(5_000_000_000, 3), (1_000_000_000, 90), (9_000_000_000, 7), (99_000_000_000, 0)];
        let mut plain: Vec<u64> =
            weighted.iter().flat_map(|(value, weight)| vec![*value; *weight as usize]).collect();
        assert_eq!(Percentiles::of_weighted(&mut weighted), Percentiles::of(&mut plain));
        assert_eq!(Percentiles::of_weighted(&mut [(1, 0)]), None);
    }
}
