//! Many measurements in a few numbers.

use serde::{Deserialize, Serialize};

/// Where the measurements lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Quantiles {
    /// Half of them are at most this.
    pub p50: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

impl Quantiles {
    /// Of these measurements; zeros when there are none.
    #[must_use]
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        Self {
            p50: nearest_rank(&values, 50),
            p99: nearest_rank(&values, 99),
            max: nearest_rank(&values, 100),
        }
    }
}

/// Where many measurements lie, and their mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Distribution {
    /// Their sum by their number.
    pub mean: f64,
    /// Half of them are at most this.
    pub p50: f64,
    /// 99 of 100 are at most this.
    pub p99: f64,
}

impl Distribution {
    /// Of these measurements; zeros when there are none.
    #[must_use]
    pub fn of(values: Vec<f64>) -> Self {
        let mean = values.iter().sum::<f64>() / values.len().max(1) as f64;
        let Quantiles { p50, p99, .. } = Quantiles::of(values);
        Self { mean, p50, p99 }
    }
}

/// The smallest of the sorted values that `percent` of a hundred do not exceed.
fn nearest_rank(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_measurements() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(Quantiles::of(values), Quantiles { p50: 100.0, p99: 198.0, max: 200.0 });
        assert_eq!(Quantiles::of(vec![3.0]), Quantiles { p50: 3.0, p99: 3.0, max: 3.0 });
        assert_eq!(Quantiles::of(vec![2.0, 1.0]), Quantiles { p50: 1.0, p99: 2.0, max: 2.0 });
        assert_eq!(Quantiles::of(Vec::new()), Quantiles::default());
    }

    #[test]
    fn a_distribution_has_a_mean() {
        assert_eq!(Distribution::of(vec![6.0, 1.0, 2.0]), Distribution { mean: 3.0, p50: 2.0, p99: 6.0 });
        assert_eq!(Distribution::of(Vec::new()), Distribution::default());
    }
}
