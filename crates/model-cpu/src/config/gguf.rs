use super::{Architecture, ModelConfig, Naming, Rope, RopeScaling, SlidingWindow, YarnScaling};
use crate::{
    error::LoadError,
    gguf::{GgufFile, GgufVocabulary},
};

const SUPPORTED: &str = "llama (also Mistral models), qwen2, qwen3";

impl ModelConfig {
    /// The configuration in the metadata of a GGUF file. A tensor `rope_freqs.weight` is filled in at loading.
    pub(crate) fn from_gguf(file: &GgufFile, vocabulary: Option<&GgufVocabulary>) -> Result<Self, LoadError> {
        let metadata = &file.metadata;
        let Some(prefix) = metadata.text("general.architecture") else {
            return Err(LoadError::configuration("general.architecture is missing"));
        };
        let (architecture, interleaved_rope) = match prefix {
            "llama" => (Architecture::Llama, true),
            "qwen2" => (Architecture::Qwen2, false),
            "qwen3" => (Architecture::Qwen3, false),
            other => {
                return Err(LoadError::UnsupportedArchitecture {
                    architecture: other.to_owned(),
                    supported: SUPPORTED.to_owned(),
                });
            }
        };
        let key = |name: &str| format!("{prefix}.{name}");
        let count = |name: &str| metadata.count(&key(name));
        let required = |name: &str| {
            count(name)?.ok_or_else(|| LoadError::configuration(format!("{} is missing", key(name))))
        };
        let float = |name: &str| metadata.float(&key(name));

        if count("expert_count")?.unwrap_or(0) > 0 {
            return Err(LoadError::UnsupportedFeature("a mixture of experts".to_owned()));
        }
        let hidden_size = required("embedding_length")?;
        let num_layers = required("block_count")?;
        let num_heads = required("attention.head_count")?;
        let num_kv_heads = count("attention.head_count_kv")?.unwrap_or(num_heads);
        let head_dim = match count("attention.key_length")? {
            Some(length) => length,
            None if num_heads > 0 && hidden_size.is_multiple_of(num_heads) => hidden_size / num_heads,
            None => {
                return Err(LoadError::configuration(format!(
                    "the hidden size {hidden_size} does not divide among {num_heads} heads"
                )));
            }
        };
        if count("attention.value_length")?.is_some_and(|length| length != head_dim) {
            return Err(LoadError::UnsupportedFeature("values of another size than keys".to_owned()));
        }
        if count("rope.dimension_count")?.is_some_and(|rotated| rotated != head_dim) {
            return Err(LoadError::UnsupportedFeature("rotation of only a part of each head".to_owned()));
        }
        let context_length = required("context_length")?;
        let window = match count("attention.sliding_window")? {
            None | Some(0) => SlidingWindow::None,
            Some(positions) if architecture == Architecture::Llama => {
                SlidingWindow::Layers { positions, bound: vec![true; num_layers.min(super::MAX_LAYERS)] }
            }
            Some(_) => {
                return Err(LoadError::UnsupportedFeature(format!(
                    "a sliding window in a {prefix} GGUF file"
                )));
            }
        };
        let scaling = rope_scaling(file, prefix, context_length)?;
        let vocab_size = match file.tensors.get("token_embd.weight") {
            Some(entry) => entry.shape.first().copied().unwrap_or(0),
            None => return Err(LoadError::MissingTensor("token_embd.weight".to_owned())),
        };
        Self {
            architecture,
            naming: Naming::Gguf { interleaved_rope },
            name: metadata.text("general.name").map(str::to_owned),
            hidden_size,
            intermediate_size: required("feed_forward_length")?,
            num_layers,
            num_heads,
            num_kv_heads,
            head_dim,
            vocab_size,
            context_length,
            rms_norm_eps: float("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5) as f32,
            rope: Rope { theta: float("rope.freq_base")?.unwrap_or(10_000.0), scaling },
            window,
            tied_embeddings: None,
            eos_token_ids: vocabulary.map(GgufVocabulary::end_token_ids).unwrap_or_default(),
        }
        .validated()
    }
}

fn rope_scaling(file: &GgufFile, prefix: &str, context_length: usize) -> Result<RopeScaling, LoadError> {
    let metadata = &file.metadata;
    let float = |name: &str| metadata.float(&format!("{prefix}.rope.scaling.{name}"));
    let has_divisors = file.tensors.get("rope_freqs.weight").is_some();
    let kind = metadata.text(&format!("{prefix}.rope.scaling.type")).unwrap_or("none");
    match (kind, has_divisors) {
        // Filled in at loading; the header alone cannot say them.
        ("none", true) => Ok(RopeScaling::Divisors(Vec::new())),
        ("none", false) => match metadata.float(&format!("{prefix}.rope.scale_linear"))? {
            // The older key of the same thing.
            Some(factor) if factor != 1.0 => Ok(RopeScaling::Linear { factor }),
            _ => Ok(RopeScaling::None),
        },
        ("linear", false) => Ok(RopeScaling::Linear { factor: float("factor")?.unwrap_or(1.0) }),
        ("yarn", false) => {
            let factor = float("factor")?.unwrap_or(1.0);
            // llama.cpp multiplies the paper's factor by this one.
            let extra = float("attn_factor")?.unwrap_or(1.0);
            Ok(RopeScaling::Yarn(YarnScaling {
                factor,
                original_context: float("original_context_length")?.unwrap_or(context_length as f64),
                beta_fast: float("yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: float("yarn_beta_slow")?.unwrap_or(1.0),
                attention_factor: extra * YarnScaling::default_attention_factor(factor),
                truncate: true,
            }))
        }
        (other, _) => Err(LoadError::UnsupportedFeature(format!(
            "rope scaling {other:?}{}; supported are none, linear, yarn and Llama 3's rope_freqs tensor",
            if has_divisors { " together with rope_freqs" } else { "" }
        ))),
    }
}
