//! How far a figure may be from what it would be in the long run, by resampling.
//!
//! A percentile of a resample of n values is an order statistic of n uniform numbers, looked up in the sorted values:
//! so a resample costs one number of a beta distribution, not n draws, and is exact. Of a mean, n values are drawn as long
//! as they are few; of many, its distribution is normal.

/// Resamples per figure.
const RESAMPLES: usize = 2000;
/// Up to so many values are drawn one by one.
const DRAWN: usize = 1000;
/// Both ends together leave so much outside.
const OUTSIDE: f64 = 0.05;

/// Numbers that look random: SplitMix64, so that the same files give the same answer.
#[derive(Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Above 0 and below 1.
    fn uniform(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    fn below(&mut self, end: usize) -> usize {
        ((self.uniform() * end as f64) as usize).min(end.saturating_sub(1))
    }

    /// Of mean 0 and variance 1, by Box and Muller.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.uniform().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Of the gamma distribution with this shape, 1 or more, by Marsaglia and Tsang.
    fn gamma(&mut self, shape: f64) -> f64 {
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let normal = self.normal();
            let cube = (1.0 + c * normal).powi(3);
            if cube <= 0.0 {
                continue;
            }
            let limit = 0.5 * normal * normal + d - d * cube + d * cube.ln();
            if self.uniform().ln() < limit {
                return d * cube;
            }
        }
    }
}

/// What a figure is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Statistic {
    Mean,
    Percentile(u8),
}

/// Values, sorted, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    sorted: Vec<u64>,
    mean: f64,
    /// Of the mean.
    deviation: f64,
}

impl Sample {
    pub(super) fn new(mut values: Vec<u64>) -> Self {
        values.sort_unstable();
        let count = values.len() as f64;
        let mean = values.iter().map(|value| *value as f64).sum::<f64>() / count.max(1.0);
        let squares: f64 = values.iter().map(|value| (*value as f64 - mean).powi(2)).sum();
        let deviation = (squares / (count - 1.0).max(1.0) / count.max(1.0)).sqrt();
        Self { sorted: values, mean, deviation }
    }

    pub(super) fn len(&self) -> usize {
        self.sorted.len()
    }

    /// The figure itself, in nanoseconds; `None` of nothing.
    pub(super) fn figure(&self, statistic: Statistic) -> Option<f64> {
        let last = self.sorted.len().checked_sub(1)?;
        match statistic {
            Statistic::Mean => Some(self.mean),
            Statistic::Percentile(percent) => {
                let rank = (self.sorted.len() * usize::from(percent)).div_ceil(100);
                self.sorted.get(rank.saturating_sub(1).min(last)).map(|value| *value as f64)
            }
        }
    }

    /// The figure of one resample.
    fn resampled(&self, statistic: Statistic, random: &mut Random) -> f64 {
        let count = self.sorted.len();
        match statistic {
            Statistic::Mean if count <= DRAWN => {
                let sum: f64 = (0..count)
                    .filter_map(|_| self.sorted.get(random.below(count)))
                    .map(|value| *value as f64)
                    .sum();
                sum / count as f64
            }
            Statistic::Mean => self.mean + self.deviation * random.normal(),
            Statistic::Percentile(percent) => {
                let rank = (count * usize::from(percent)).div_ceil(100).max(1);
                let below = random.gamma(rank as f64);
                let above = random.gamma((count - rank + 1) as f64);
                let place = (below / (below + above) * count as f64) as usize;
                self.sorted.get(place.min(count - 1)).map_or(0.0, |value| *value as f64)
            }
        }
    }
}

/// The difference of a figure between two samples, with the interval in which 95 of 100 resamples lie, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Difference {
    pub(super) before: f64,
    pub(super) after: f64,
    pub(super) low: f64,
    pub(super) high: f64,
}

/// `None` when one of them has no values.
pub(super) fn difference(
    before: &Sample,
    after: &Sample,
    statistic: Statistic,
    random: &mut Random,
) -> Option<Difference> {
    let (figure_before, figure_after) = (before.figure(statistic)?, after.figure(statistic)?);
    let mut differences: Vec<f64> = (0..RESAMPLES)
        .map(|_| after.resampled(statistic, random) - before.resampled(statistic, random))
        .collect();
    differences.sort_by(f64::total_cmp);
    let outside = (RESAMPLES as f64 * OUTSIDE / 2.0) as usize;
    let (low, high) = (differences[outside], differences[RESAMPLES - 1 - outside]);
    Some(Difference { before: figure_before, after: figure_after, low, high })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(random: &mut Random, count: usize, scale: f64) -> Sample {
        Sample::new((0..count).map(|_| (-random.uniform().ln() * scale) as u64).collect())
    }

    /// Of many pairs from the same source, the interval leaves out zero for about one in twenty.
    #[test]
    fn the_interval_is_right_about_nineteen_times_of_twenty() {
        for (statistic, count) in [
            (Statistic::Mean, 200),
            (Statistic::Mean, 2000),
            (Statistic::Percentile(50), 300),
            (Statistic::Percentile(90), 500),
        ] {
            let mut random = Random::new(42);
            let wrong = (0..200)
                .filter(|_| {
                    let (one, other) = (sample(&mut random, count, 1e6), sample(&mut random, count, 1e6));
                    let found = difference(&one, &other, statistic, &mut random).unwrap();
                    found.low > 0.0 || found.high < 0.0
                })
                .count();
            assert!((1..=24).contains(&wrong), "{statistic:?} of {count}: {wrong} of 200");
        }
    }

    /// The shortcut by order statistics is the resampling that it stands for.
    #[test]
    fn percentiles_are_resampled_as_by_drawing() {
        let mut random = Random::new(7);
        let values = sample(&mut random, 101, 1e6);
        let by_drawing = |random: &mut Random| {
            let mut drawn: Vec<u64> = (0..101).map(|_| values.sorted[random.below(101)]).collect();
            drawn.sort_unstable();
            drawn[90] as f64
        };
        let statistic = Statistic::Percentile(90);
        let moments = |draws: &[f64]| {
            let mean = draws.iter().sum::<f64>() / draws.len() as f64;
            let variance = draws.iter().map(|one| (one - mean).powi(2)).sum::<f64>() / draws.len() as f64;
            (mean, variance.sqrt())
        };
        let slow: Vec<f64> = (0..4000).map(|_| by_drawing(&mut random)).collect();
        let fast: Vec<f64> = (0..4000).map(|_| values.resampled(statistic, &mut random)).collect();
        let ((slow_mean, slow_deviation), (mean, deviation)) = (moments(&slow), moments(&fast));
        assert!((mean / slow_mean - 1.0).abs() < 0.03, "{mean} {slow_mean}");
        assert!((deviation / slow_deviation - 1.0).abs() < 0.1, "{deviation} {slow_deviation}");
    }
}
