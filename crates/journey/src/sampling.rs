//! Head sampling: one decision per request, at the edge, the same for a trace id everywhere.

use crate::TraceId;

/// Number of random bits in a trace id on which the decision is taken.
const RANDOM_BITS: u32 = 56;

/// Keeps a fixed share of all traces, chosen by trace id.
///
/// A trace is kept when its randomness is at or above a threshold, as OpenTelemetry's consistent
/// probability sampling defines it, so that every service with the same rate keeps the same traces and a
/// lower rate keeps a subset of a higher one.
/// Source: <https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadSampler {
    threshold: u64,
}

/// A sample rate that is not a number from 0 to 1.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("sample rate {0} is not between 0 and 1")]
pub struct InvalidSampleRate(pub f64);

impl HeadSampler {
    /// A sampler that keeps `rate` of all traces.
    ///
    /// # Errors
    /// When `rate` is not a number in [0, 1].
    pub fn new(rate: f64) -> Result<Self, InvalidSampleRate> {
        if !(0.0..=1.0).contains(&rate) {
            return Err(InvalidSampleRate(rate));
        }
        let dropped_share = 1.0 - rate;
        Ok(Self { threshold: (dropped_share * (1_u64 << RANDOM_BITS) as f64) as u64 })
    }

    /// Whether this trace is kept. One comparison; allocates nothing.
    #[must_use]
    pub fn keeps(&self, trace_id: TraceId) -> bool {
        trace_id.randomness() >= self.threshold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_rates_are_refused() {
        for rate in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(HeadSampler::new(rate).is_err(), "{rate}");
        }
    }

    #[test]
    fn ends_of_the_range_are_exact() {
        let lowest = TraceId::from_bytes([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        let highest = TraceId::from_bytes([0xff; 16]).unwrap();
        let (all, none) = (HeadSampler::new(1.0).unwrap(), HeadSampler::new(0.0).unwrap());
        assert!(all.keeps(lowest) && all.keeps(highest));
        assert!(!none.keeps(lowest) && !none.keeps(highest));
    }

    #[test]
    fn a_tenth_of_ten_thousand_is_kept_and_a_higher_rate_keeps_a_superset() {
        let (tenth, half) = (HeadSampler::new(0.1).unwrap(), HeadSampler::new(0.5).unwrap());
        let ids: Vec<_> = (0..10_000).map(|_| TraceId::random()).collect();
        let kept = ids.iter().filter(|id| tenth.keeps(**id)).count();
        // Binomial(10 000, 0.1): mean 1 000, standard deviation 30.
        assert!((820..1180).contains(&kept), "{kept} of 10000 kept");
        assert!(ids.iter().filter(|id| tenth.keeps(**id)).all(|id| half.keeps(*id)));
    }
}
