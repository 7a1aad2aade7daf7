//! The forward pass as a textbook has it: one sequence, all positions, double precision, nothing shared with the
//! crate.

use crate::tiny::{EPSILON, Scaling, Shape, THETA, TinyModel};
use std::f64::consts::PI;
use wayfare_model_cpu::Architecture;

/// The logits after each token.
pub(crate) fn logits(model: &TinyModel, tokens: &[u32]) -> Vec<Vec<f64>> {
    let shape = &model.shape;
    let (frequencies, amplitude) = frequencies(shape);
    let vector = |name: &str| -> Option<Vec<f64>> {
        Some(model.tensors.get(name)?.1.iter().map(|&value| f64::from(value)).collect())
    };
    let apply = |name: &str, input: &[f64]| -> Vec<f64> {
        let weights = &model.tensors[&format!("{name}.weight")].1;
        let mut output: Vec<f64> = weights
            .chunks(input.len())
            .map(|row| row.iter().zip(input).map(|(&weight, value)| f64::from(weight) * value).sum())
            .collect();
        if let Some(bias) = vector(&format!("{name}.bias")) {
            output.iter_mut().zip(bias).for_each(|(output, bias)| *output += bias);
        }
        output
    };
    let embedding = &model.tensors["model.embed_tokens.weight"].1;
    let mut hidden: Vec<Vec<f64>> = tokens
        .iter()
        .map(|&token| {
            let start = token as usize * shape.hidden;
            embedding[start..start + shape.hidden].iter().map(|&value| f64::from(value)).collect()
        })
        .collect();
    for layer in 0..shape.layers {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let mut keys = Vec::new();
        let mut values = Vec::new();
        for position in 0..tokens.len() {
            let input = normalised(&hidden[position], &vector(&name("input_layernorm.weight")).unwrap());
            let turned = |part: &str| {
                let norm = vector(&name(&format!("self_attn.{part}_norm.weight")));
                apply(&name(&format!("self_attn.{part}_proj")), &input)
                    .chunks(shape.head_dim)
                    .map(|head| {
                        let head = norm.as_ref().map_or(head.to_vec(), |norm| normalised(head, norm));
                        rotated(&head, position, &frequencies, amplitude)
                    })
                    .collect::<Vec<_>>()
            };
            let queries = turned("q");
            keys.push(turned("k"));
            values.push(apply(&name("self_attn.v_proj"), &input));
            let oldest = match window(shape, layer) {
                Some(window) => (position + 1).saturating_sub(window),
                None => 0,
            };
            let mut attended = Vec::new();
            for (head, query) in queries.iter().enumerate() {
                let kv_head = head / shape.heads_per_kv_head;
                let weights: Vec<f64> = (oldest..=position)
                    .map(|other| {
                        let score: f64 = query.iter().zip(&keys[other][kv_head]).map(|(a, b)| a * b).sum();
                        (score / (shape.head_dim as f64).sqrt()).exp()
                    })
                    .collect();
                let sum: f64 = weights.iter().sum();
                attended.extend((0..shape.head_dim).map(|dimension| {
                    weights
                        .iter()
                        .zip(oldest..)
                        .map(|(weight, other)| {
                            weight / sum * values[other][kv_head * shape.head_dim + dimension]
                        })
                        .sum::<f64>()
                }));
            }
            let output = apply(&name("self_attn.o_proj"), &attended);
            hidden[position].iter_mut().zip(output).for_each(|(hidden, output)| *hidden += output);
            let input =
                normalised(&hidden[position], &vector(&name("post_attention_layernorm.weight")).unwrap());
            let gate = apply(&name("mlp.gate_proj"), &input);
            let up = apply(&name("mlp.up_proj"), &input);
            let inner: Vec<f64> =
                gate.iter().zip(up).map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up).collect();
            let output = apply(&name("mlp.down_proj"), &inner);
            hidden[position].iter_mut().zip(output).for_each(|(hidden, output)| *hidden += output);
        }
    }
    let head = if shape.tied { "model.embed_tokens" } else { "lm_head" };
    let norm = vector("model.norm.weight").unwrap();
    hidden.iter().map(|hidden| apply(head, &normalised(hidden, &norm))).collect()
}

fn window(shape: &Shape, layer: usize) -> Option<usize> {
    // Qwen's first `max_window_layers` layers, here 1, see everything.
    let is_bound = shape.architecture == Architecture::Mistral
        || (matches!(shape.architecture, Architecture::Qwen2 | Architecture::Qwen3) && layer >= 1);
    shape.window.filter(|_| is_bound)
}

fn normalised(values: &[f64], weights: &[f64]) -> Vec<f64> {
    let mean = values.iter().map(|value| value * value).sum::<f64>() / values.len() as f64;
    values.iter().zip(weights).map(|(value, weight)| value / (mean + EPSILON).sqrt() * weight).collect()
}

fn rotated(head: &[f64], position: usize, frequencies: &[f64], amplitude: f64) -> Vec<f64> {
    let half = head.len() / 2;
    (0..head.len())
        .map(|dimension| {
            let angle = position as f64 * frequencies[dimension % half];
            let partner = if dimension < half { -head[dimension + half] } else { head[dimension - half] };
            amplitude * (head[dimension] * angle.cos() + partner * angle.sin())
        })
        .collect()
}

/// Angle per position of each pair of dimensions, and the factor on rotated values.
pub(crate) fn frequencies(shape: &Shape) -> (Vec<f64>, f64) {
    let size = shape.head_dim as f64;
    let plain: Vec<f64> =
        (0..shape.head_dim / 2).map(|pair| 1.0 / THETA.powf(2.0 * pair as f64 / size)).collect();
    match shape.scaling {
        Scaling::None => (plain, 1.0),
        Scaling::Linear { factor } => (plain.iter().map(|frequency| frequency / factor).collect(), 1.0),
        Scaling::Llama3 { factor, low, high, original } => {
            let scale = |frequency: f64| {
                let wavelength = 2.0 * PI / frequency;
                let original = original as f64;
                if wavelength < original / high {
                    frequency
                } else if wavelength > original / low {
                    frequency / factor
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    (1.0 - smooth) * frequency / factor + smooth * frequency
                }
            };
            (plain.into_iter().map(scale).collect(), 1.0)
        }
        Scaling::Yarn { factor, original } => {
            let dimension =
                |turns: f64| size * (original as f64 / (turns * 2.0 * PI)).ln() / (2.0 * THETA.ln());
            let first = dimension(32.0).floor().max(0.0);
            let mut last = dimension(1.0).ceil().min(size - 1.0);
            if first == last {
                last += 0.001;
            }
            let scaled = plain.iter().enumerate().map(|(pair, frequency)| {
                let ramp = ((pair as f64 - first) / (last - first)).clamp(0.0, 1.0);
                frequency / factor * ramp + frequency * (1.0 - ramp)
            });
            (scaled.collect(), 0.1 * factor.ln() + 1.0)
        }
    }
}
