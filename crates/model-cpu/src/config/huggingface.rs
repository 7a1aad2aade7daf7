use super::{Architecture, MAX_LAYERS, ModelConfig, Naming, Rope, RopeScaling, SlidingWindow, YarnScaling};
use crate::error::LoadError;
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use std::path::Path;

const SUPPORTED: &str = "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM";

/// The keys of `config.json` that change what is computed, with Hugging Face's names.
#[derive(Deserialize)]
struct HuggingFaceConfig {
    #[serde(default)]
    architectures: Vec<String>,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeParameters>,
    /// Transformers 5 writes theta and scaling in one object.
    rope_parameters: Option<RopeParameters>,
    partial_rotary_factor: Option<f64>,
    hidden_act: Option<String>,
    tie_word_embeddings: Option<bool>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    quantization_config: Option<Value>,
    eos_token_id: Option<TokenIds>,
}

#[derive(Clone, Deserialize)]
struct RopeParameters {
    /// `type` is its older name.
    rope_type: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    attention_factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    truncate: Option<bool>,
}

#[derive(Deserialize)]
struct GenerationConfig {
    eos_token_id: Option<TokenIds>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TokenIds {
    One(u32),
    Many(Vec<u32>),
}

impl ModelConfig {
    /// The configuration in `config.json`, with the end tokens of `generation_config.json`.
    pub(crate) fn from_directory(directory: &Path) -> Result<Self, LoadError> {
        let config: HuggingFaceConfig = read_json(&directory.join("config.json"))?;
        let architecture = match config.architectures.first().map(String::as_str) {
            Some("LlamaForCausalLM") => Architecture::Llama,
            Some("MistralForCausalLM") => Architecture::Mistral,
            Some("Qwen2ForCausalLM") => Architecture::Qwen2,
            Some("Qwen3ForCausalLM") => Architecture::Qwen3,
            other => {
                return Err(LoadError::UnsupportedArchitecture {
                    architecture: other.unwrap_or_default().to_owned(),
                    supported: SUPPORTED.to_owned(),
                });
            }
        };
        if let Some(activation) =
            config.hidden_act.as_deref().filter(|&name| name != "silu" && name != "swish")
        {
            return Err(LoadError::UnsupportedFeature(format!("the activation {activation:?}")));
        }
        if config.quantization_config.as_ref().is_some_and(|value| !value.is_null()) {
            return Err(LoadError::UnsupportedFeature(
                "quantised safetensors (quantization_config)".to_owned(),
            ));
        }
        if config.partial_rotary_factor.is_some_and(|factor| factor != 1.0) {
            return Err(LoadError::UnsupportedFeature("rotation of only a part of each head".to_owned()));
        }
        let head_dim = match config.head_dim {
            Some(head_dim) => head_dim,
            None if config.num_attention_heads > 0
                && config.hidden_size.is_multiple_of(config.num_attention_heads) =>
            {
                config.hidden_size / config.num_attention_heads
            }
            None => {
                return Err(LoadError::configuration(format!(
                    "the hidden size {} does not divide among {} heads",
                    config.hidden_size, config.num_attention_heads
                )));
            }
        };
        let generation_path = directory.join("generation_config.json");
        let generation: Option<GenerationConfig> =
            if generation_path.exists() { Some(read_json(&generation_path)?) } else { None };
        let mut eos_token_ids = Vec::new();
        for ids in [
            generation.and_then(|generation| generation.eos_token_id),
            config.eos_token_id.as_ref().map(TokenIds::copy),
        ]
        .into_iter()
        .flatten()
        {
            for id in ids.into_vec() {
                if !eos_token_ids.contains(&id) {
                    eos_token_ids.push(id);
                }
            }
        }
        Self {
            architecture,
            naming: Naming::HuggingFace,
            name: directory.file_name().map(|name| name.to_string_lossy().into_owned()),
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            num_layers: config.num_hidden_layers,
            num_heads: config.num_attention_heads,
            num_kv_heads: config.num_key_value_heads.unwrap_or(config.num_attention_heads),
            head_dim,
            vocab_size: config.vocab_size,
            context_length: config.max_position_embeddings,
            rms_norm_eps: config.rms_norm_eps.unwrap_or(1e-6) as f32,
            rope: rope(&config)?,
            window: window(&config, architecture)?,
            tied_embeddings: config.tie_word_embeddings,
            eos_token_ids,
        }
        .validated()
    }
}

impl TokenIds {
    fn copy(&self) -> Self {
        match self {
            Self::One(id) => Self::One(*id),
            Self::Many(ids) => Self::Many(ids.clone()),
        }
    }

    fn into_vec(self) -> Vec<u32> {
        match self {
            Self::One(id) => vec![id],
            Self::Many(ids) => ids,
        }
    }
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, LoadError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
    serde_json::from_str(&text)
        .map_err(|error| LoadError::Malformed { path: path.to_owned(), what: error.to_string() })
}

fn rope(config: &HuggingFaceConfig) -> Result<Rope, LoadError> {
    let parameters = config.rope_parameters.as_ref().or(config.rope_scaling.as_ref());
    let theta =
        parameters.and_then(|parameters| parameters.rope_theta).or(config.rope_theta).unwrap_or(10_000.0);
    let Some(parameters) = parameters else {
        return Ok(Rope { theta, scaling: RopeScaling::None });
    };
    let required = |name: &str, value: Option<f64>| {
        value.ok_or_else(|| LoadError::configuration(format!("the rope scaling lacks {name}")))
    };
    let kind = parameters.rope_type.as_deref().or(parameters.kind.as_deref()).unwrap_or("default");
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: required("factor", parameters.factor)? },
        "llama3" => RopeScaling::Llama3 {
            factor: required("factor", parameters.factor)?,
            low_frequency_factor: required("low_freq_factor", parameters.low_freq_factor)?,
            high_frequency_factor: required("high_freq_factor", parameters.high_freq_factor)?,
            original_context: required(
                "original_max_position_embeddings",
                parameters.original_max_position_embeddings,
            )?,
        },
        "yarn" => {
            let factor = required("factor", parameters.factor)?;
            let scaled = |scale: f64| {
                if factor <= 1.0 { 1.0 } else { (0.1 * scale).mul_add(factor.ln(), 1.0) }
            };
            let attention_factor =
                match (parameters.attention_factor, parameters.mscale, parameters.mscale_all_dim) {
                    (Some(attention_factor), _, _) => attention_factor,
                    (None, Some(numerator), Some(denominator)) if numerator != 0.0 && denominator != 0.0 => {
                        scaled(numerator) / scaled(denominator)
                    }
                    _ => YarnScaling::default_attention_factor(factor),
                };
            RopeScaling::Yarn(YarnScaling {
                factor,
                original_context: parameters
                    .original_max_position_embeddings
                    .unwrap_or(config.max_position_embeddings as f64),
                beta_fast: parameters.beta_fast.unwrap_or(32.0),
                beta_slow: parameters.beta_slow.unwrap_or(1.0),
                attention_factor,
                truncate: parameters.truncate.unwrap_or(true),
            })
        }
        other => {
            return Err(LoadError::UnsupportedFeature(format!(
                "rope scaling {other:?}; supported are default, linear, llama3 and yarn"
            )));
        }
    };
    Ok(Rope { theta, scaling })
}

fn window(config: &HuggingFaceConfig, architecture: Architecture) -> Result<SlidingWindow, LoadError> {
    let num_layers = config.num_hidden_layers.min(MAX_LAYERS);
    let is_used = match architecture {
        Architecture::Llama => false,
        Architecture::Mistral => true,
        Architecture::Qwen2 | Architecture::Qwen3 => config.use_sliding_window == Some(true),
    };
    let Some(positions) = config.sliding_window.filter(|_| is_used) else {
        return Ok(SlidingWindow::None);
    };
    let bound = match &config.layer_types {
        Some(kinds) => {
            if kinds.len() != config.num_hidden_layers {
                return Err(LoadError::configuration(format!(
                    "{} layer_types for {} layers",
                    kinds.len(),
                    config.num_hidden_layers
                )));
            }
            kinds
                .iter()
                .map(|kind| match kind.as_str() {
                    "full_attention" => Ok(false),
                    "sliding_attention" => Ok(true),
                    other => Err(LoadError::UnsupportedFeature(format!("layers of type {other:?}"))),
                })
                .collect::<Result<_, _>>()?
        }
        // Qwen: the first layers see everything.
        None if architecture != Architecture::Mistral => {
            (0..num_layers).map(|layer| layer >= config.max_window_layers.unwrap_or(0)).collect()
        }
        None => vec![true; num_layers],
    };
    Ok(SlidingWindow::Layers { positions, bound })
}
