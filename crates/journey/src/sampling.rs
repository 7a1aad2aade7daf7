//! Head sampling: one decision per request, at the edge, the same for a trace id everywhere.

use std::fmt;

use crate::{KeepRules, TraceContext, TraceId};

/// Number of random bits in a trace id on which the decision is taken.
const RANDOM_BITS: u32 = 56;

/// Keeps a fixed share of all traces, chosen by trace id.
///
/// A trace is kept when its randomness is at or above a threshold, as OpenTelemetry's consistent
/// probability sampling defines it, so that every service with the same rate keeps the same traces and a
/// lower rate keeps a subset of a higher one.
/// Source: <https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/>.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadSampler {
    rate: f64,
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
        Ok(Self { rate, threshold: (dropped_share * (1_u64 << RANDOM_BITS) as f64) as u64 })
    }

    /// The share that is kept.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Whether this trace is kept. One comparison; allocates nothing.
    #[must_use]
    pub fn keeps(&self, trace_id: TraceId) -> bool {
        trace_id.randomness() >= self.threshold
    }
}

/// What OpenTelemetry's variables say about sampling, on top of the server's own rate.
///
/// A caller that says that it does not record is not recorded, whichever sampler is named.
/// Source: <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TraceSampler {
    name: &'static str,
    /// Share of the traces that begin here.
    new_traces: f64,
    /// Share of the traces that a caller has begun and records.
    continued_traces: f64,
}

impl Default for TraceSampler {
    /// `parentbased_always_on`, OpenTelemetry's default.
    fn default() -> Self {
        Self { name: "parentbased_always_on", new_traces: 1.0, continued_traces: 1.0 }
    }
}

/// A sampler that the environment names and we do not have, or its argument.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTraceSampler {
    /// The name.
    #[error(
        "OTEL_TRACES_SAMPLER: {0:?} is not supported; use always_on, always_off, traceidratio, \
         parentbased_always_on, parentbased_always_off or parentbased_traceidratio"
    )]
    UnknownName(String),
    /// The ratio.
    #[error("OTEL_TRACES_SAMPLER_ARG: {0:?} is not a number from 0 to 1")]
    BadRatio(String),
}

impl TraceSampler {
    /// Reads the values of `OTEL_TRACES_SAMPLER` and `OTEL_TRACES_SAMPLER_ARG`; blank ones count as not set.
    /// The argument is a ratio, 1 unless set, and read only where the sampler has one.
    ///
    /// # Errors
    /// When the sampler is unknown or its ratio is not one.
    pub fn from_variables(name: Option<&str>, argument: Option<&str>) -> Result<Self, BadTraceSampler> {
        let Some(name) = name.map(str::trim).filter(|name| !name.is_empty()) else {
            return Ok(Self::default());
        };
        let ratio = || match argument.map(str::trim).filter(|argument| !argument.is_empty()) {
            None => Ok(1.0),
            Some(text) => {
                let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
                ratio.ok_or_else(|| BadTraceSampler::BadRatio(text.to_owned()))
            }
        };
        let (name, new_traces, continued_traces) = match name {
            "always_on" => ("always_on", 1.0, 1.0),
            "always_off" => ("always_off", 0.0, 0.0),
            "traceidratio" => ("traceidratio", ratio()?, ratio()?),
            "parentbased_always_on" => ("parentbased_always_on", 1.0, 1.0),
            "parentbased_always_off" => ("parentbased_always_off", 0.0, 1.0),
            "parentbased_traceidratio" => ("parentbased_traceidratio", ratio()?, 1.0),
            unknown => return Err(BadTraceSampler::UnknownName(unknown.to_owned())),
        };
        Ok(Self { name, new_traces, continued_traces })
    }
}

impl fmt::Display for TraceSampler {
    /// The name, and the ratio of the samplers that have one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        if self.name.ends_with("traceidratio") { write!(f, " {}", self.new_traces) } else { Ok(()) }
    }
}

/// Which requests are recorded and which journeys kept: the rate, the environment's sampler on top of it, and
/// the tail rules. A tracer's policy is replaced as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingPolicy {
    sample_rate: f64,
    environment: TraceSampler,
    keep: KeepRules,
    new_traces: HeadSampler,
    continued_traces: HeadSampler,
}

impl SamplingPolicy {
    /// A policy; the rates multiply.
    ///
    /// # Errors
    /// When `sample_rate` is not a number in [0, 1].
    pub fn new(
        sample_rate: f64,
        environment: TraceSampler,
        keep: KeepRules,
    ) -> Result<Self, InvalidSampleRate> {
        HeadSampler::new(sample_rate)?;
        Ok(Self {
            sample_rate,
            environment,
            keep,
            new_traces: HeadSampler::new(sample_rate * environment.new_traces)?,
            continued_traces: HeadSampler::new(sample_rate * environment.continued_traces)?,
        })
    }

    /// The server's own rate.
    #[must_use]
    pub fn sample_rate(&self) -> f64 {
        self.sample_rate
    }

    /// What the environment says.
    #[must_use]
    pub fn environment(&self) -> TraceSampler {
        self.environment
    }

    /// The tail rules.
    #[must_use]
    pub fn keep(&self) -> &KeepRules {
        &self.keep
    }

    /// The head's share of the traces that begin here.
    #[must_use]
    pub fn new_traces(&self) -> HeadSampler {
        self.new_traces
    }

    /// The head's share of the traces that a caller has begun and records.
    #[must_use]
    pub fn continued_traces(&self) -> HeadSampler {
        self.continued_traces
    }

    /// The head's decision. The same for every request of a trace; allocates nothing.
    #[must_use]
    pub fn head_keeps(&self, context: &TraceContext) -> bool {
        let sampler = if context.parent.is_some() { &self.continued_traces } else { &self.new_traces };
        context.caller_sampled && sampler.keeps(context.trace_id)
    }
}

impl From<HeadSampler> for SamplingPolicy {
    /// The sampler's rate, and nothing else.
    fn from(sampler: HeadSampler) -> Self {
        Self {
            sample_rate: sampler.rate,
            environment: TraceSampler::default(),
            keep: KeepRules::default(),
            new_traces: sampler,
            continued_traces: sampler,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_rates_are_refused() {
        for rate in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert!(HeadSampler::new(rate).is_err(), "{rate}");
            assert!(SamplingPolicy::new(rate, TraceSampler::default(), KeepRules::default()).is_err());
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

    /// Shares of new traces, of traces whose caller records, and of those whose caller does not.
    fn shares(name: Option<&str>, argument: Option<&str>, rate: f64) -> [f64; 3] {
        let environment = TraceSampler::from_variables(name, argument).unwrap();
        let policy = SamplingPolicy::new(rate, environment, KeepRules::default()).unwrap();
        let share = |parent: bool, caller_sampled| {
            let kept = (0..4_000).filter(|_| {
                let parent = parent.then(crate::SpanId::random);
                policy.head_keeps(&TraceContext { parent, caller_sampled, ..TraceContext::root() })
            });
            kept.count() as f64 / 4_000.0
        };
        [share(false, true), share(true, true), share(true, false)]
    }

    #[test]
    fn the_samplers_of_the_environment_multiply_with_the_rate() {
        for (name, argument, rate, expected) in [
            (None, Some("0.1"), 1.0, [1.0, 1.0]),
            (Some(" "), None, 1.0, [1.0, 1.0]),
            (Some("always_on"), None, 0.5, [0.5, 0.5]),
            (Some("always_off"), None, 1.0, [0.0, 0.0]),
            (Some("traceidratio"), Some("0.5"), 0.5, [0.25, 0.25]),
            (Some("traceidratio"), None, 1.0, [1.0, 1.0]),
            (Some("parentbased_always_on"), None, 0.5, [0.5, 0.5]),
            (Some("parentbased_always_off"), None, 1.0, [0.0, 1.0]),
            (Some("parentbased_traceidratio"), Some(" 0.2 "), 0.5, [0.1, 0.5]),
        ] {
            let [new, continued, unsampled] = shares(name, argument, rate);
            // Four standard deviations of a share of 4 000 are at most 0.032.
            assert!((new - expected[0]).abs() < 0.035, "{name:?}: {new}");
            assert!((continued - expected[1]).abs() < 0.035, "{name:?}: {continued}");
            assert!(unsampled == 0.0, "{name:?}: an inbound 00 is never recorded by the head");
        }
    }

    #[test]
    fn what_the_environment_may_not_say() {
        let bad =
            |name, argument| TraceSampler::from_variables(Some(name), argument).unwrap_err().to_string();
        assert!(bad("jaeger_remote", None).contains("\"jaeger_remote\" is not supported"));
        for argument in ["2", "-1", "NaN", "x"] {
            assert!(bad("traceidratio", Some(argument)).starts_with("OTEL_TRACES_SAMPLER_ARG"), "{argument}");
        }
        assert!(TraceSampler::from_variables(Some("always_on"), Some("x")).is_ok(), "it has no argument");
        let ratio = TraceSampler::from_variables(Some("traceidratio"), Some("0.5")).unwrap();
        assert_eq!(ratio.to_string(), "traceidratio 0.5");
        assert_eq!(TraceSampler::default().to_string(), "parentbased_always_on");
    }
}
