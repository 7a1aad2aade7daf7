//! Several runs in a few numbers.

use serde::Serialize;

/// The middle of several measurements of the same thing, and how far they lie apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of these; zeros when there are none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_unstable_by(f64::total_cmp);
        let (Some(&min), Some(&max)) = (values.first(), values.last()) else { return Self::default() };
        let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Self { median: f64::midpoint(low, high), min, max }
    }

    /// Half of the distance between the largest and the smallest, as a share of the median.
    pub(crate) fn relative(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.max - self.min) / (2.0 * self.median) }
    }
}

/// A straight line.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Line {
    /// At zero.
    pub(crate) intercept: f64,
    pub(crate) slope: f64,
}

impl Line {
    /// The line that fits the points best by least squares; `None` when they do not tell its slope.
    pub(crate) fn through(points: &[(f64, f64)]) -> Option<Self> {
        let count = points.len() as f64;
        let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
        let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
        let square: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
        let product: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
        // Also false for NaN, which is what no points give.
        (square > 0.0).then(|| {
            let slope = product / square;
            Self { intercept: mean_y - slope * mean_x, slope }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { median: 2.0, min: 1.0, max: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]), Spread { median: 2.5, min: 1.0, max: 4.0 });
        assert_eq!(Spread::of([]), Spread::default());
        assert_eq!(Spread::of([90.0, 100.0, 110.0]).relative(), 0.1);
        assert_eq!(Spread::of([]).relative(), 0.0);
    }

    #[test]
    fn a_line_through_two_points_meets_both() {
        let line = Line::through(&[(16.0, 180.0), (256.0, 1620.0)]).unwrap();
        assert_eq!(line, Line { intercept: 84.0, slope: 6.0 });
    }

    #[test]
    fn a_line_through_many_points_is_the_best_one() {
        // By hand: means 2 and 4; squares 2; products 3.
        let line = Line::through(&[(1.0, 2.0), (2.0, 5.0), (3.0, 5.0)]).unwrap();
        assert_eq!(line, Line { intercept: 1.0, slope: 1.5 });
        assert_eq!(Line::through(&[(1.0, 2.0)]), None);
        assert_eq!(Line::through(&[(1.0, 2.0), (1.0, 3.0)]), None);
        assert_eq!(Line::through(&[]), None);
    }
}
