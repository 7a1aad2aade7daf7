//! Rotary position embedding: which angle each pair of dimensions turns per position.

use crate::error::LoadError;
use std::f64::consts::TAU;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rope {
    pub(crate) theta: f64,
    pub(crate) scaling: RopeScaling,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum RopeScaling {
    None,
    /// Positions are divided by the factor.
    Linear {
        factor: f64,
    },
    /// Llama 3.1's: long wavelengths are divided by the factor, short ones kept, those between interpolated.
    Llama3 {
        factor: f64,
        low_frequency_factor: f64,
        high_frequency_factor: f64,
        original_context: f64,
    },
    /// <https://arxiv.org/abs/2309.00071>.
    Yarn(YarnScaling),
    /// Divisors of the frequencies as a tensor (`rope_freqs.weight`, how GGUF stores Llama 3's scaling).
    Divisors(Vec<f32>),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct YarnScaling {
    pub(crate) factor: f64,
    pub(crate) original_context: f64,
    pub(crate) beta_fast: f64,
    pub(crate) beta_slow: f64,
    /// Factor on the rotated values.
    pub(crate) attention_factor: f64,
    /// Whether the borders of the interpolated dimensions are rounded outwards.
    pub(crate) truncate: bool,
}

impl YarnScaling {
    /// The paper's recommended factor on rotated values.
    pub(crate) fn default_attention_factor(factor: f64) -> f64 {
        if factor <= 1.0 { 1.0 } else { 0.1f64.mul_add(factor.ln(), 1.0) }
    }
}

/// Per pair of dimensions the angle per position, and a factor on the rotated values.
#[derive(Clone, Debug)]
pub(crate) struct RopeFrequencies {
    pub(crate) frequencies: Vec<f64>,
    pub(crate) amplitude: f32,
}

impl Rope {
    pub(crate) fn check(&self) -> Result<(), LoadError> {
        let positive = |what: &str, value: f64| {
            if value.is_finite() && value > 0.0 {
                Ok(())
            } else {
                Err(LoadError::configuration(format!("the rope {what} is {value}, not above 0")))
            }
        };
        positive("theta", self.theta)?;
        match &self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => positive("factor", *factor),
            RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_context } => {
                positive("factor", *factor)?;
                positive("low_freq_factor", *low_frequency_factor)?;
                positive("original context", *original_context)?;
                positive(
                    "distance of high_freq_factor and low_freq_factor",
                    high_frequency_factor - low_frequency_factor,
                )
            }
            RopeScaling::Yarn(yarn) => {
                positive("factor", yarn.factor)?;
                positive("original context", yarn.original_context)?;
                positive("beta_fast", yarn.beta_fast)?;
                positive("beta_slow", yarn.beta_slow)?;
                positive("attention factor", yarn.attention_factor)
            }
            RopeScaling::Divisors(divisors) => {
                divisors.iter().try_for_each(|&divisor| positive("divisor", divisor.into()))
            }
        }
    }

    /// The angles for heads of `head_dim` values.
    pub(crate) fn frequencies(&self, head_dim: usize) -> RopeFrequencies {
        let plain = (0..head_dim / 2).map(|pair| self.theta.powf(-((2 * pair) as f64) / head_dim as f64));
        let mut amplitude = 1.0;
        let frequencies = match &self.scaling {
            RopeScaling::None => plain.collect(),
            RopeScaling::Linear { factor } => plain.map(|frequency| frequency / factor).collect(),
            RopeScaling::Llama3 { factor, low_frequency_factor, high_frequency_factor, original_context } => {
                plain
                    .map(|frequency| {
                        let turns = original_context * frequency / TAU;
                        let kept = ((turns - low_frequency_factor)
                            / (high_frequency_factor - low_frequency_factor))
                            .clamp(0.0, 1.0);
                        frequency * kept + frequency / factor * (1.0 - kept)
                    })
                    .collect()
            }
            RopeScaling::Yarn(yarn) => {
                amplitude = yarn.attention_factor as f32;
                let dimension_of = |turns: f64| {
                    head_dim as f64 * (yarn.original_context / (turns * TAU)).ln() / (2.0 * self.theta.ln())
                };
                let (mut first, mut last) = (dimension_of(yarn.beta_fast), dimension_of(yarn.beta_slow));
                if yarn.truncate {
                    (first, last) = (first.floor(), last.ceil());
                }
                first = first.max(0.0);
                last = last.min(head_dim as f64 - 1.0);
                let length = if last == first { 0.001 } else { last - first };
                plain
                    .enumerate()
                    .map(|(pair, frequency)| {
                        let interpolated = ((pair as f64 - first) / length).clamp(0.0, 1.0);
                        frequency * (1.0 - interpolated) + frequency / yarn.factor * interpolated
                    })
                    .collect()
            }
            RopeScaling::Divisors(divisors) => {
                plain.zip(divisors).map(|(frequency, &divisor)| frequency / f64::from(divisor)).collect()
            }
        };
        RopeFrequencies { frequencies, amplitude }
    }
}
