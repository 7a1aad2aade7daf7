//! What the two file formats call the tensors of a model, and which of them a model must and may have.

use crate::{
    config::{Architecture, ModelConfig, Naming},
    error::LoadError,
    tensors::TensorDirectory,
};

/// The tensors of one layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LayerTensor {
    AttentionNorm,
    Query,
    Key,
    Value,
    QueryBias,
    KeyBias,
    ValueBias,
    QueryNorm,
    KeyNorm,
    Output,
    OutputBias,
    FeedForwardNorm,
    Gate,
    Up,
    Down,
}

impl LayerTensor {
    const ALL: [Self; 15] = [
        Self::AttentionNorm,
        Self::Query,
        Self::Key,
        Self::Value,
        Self::QueryBias,
        Self::KeyBias,
        Self::ValueBias,
        Self::QueryNorm,
        Self::KeyNorm,
        Self::Output,
        Self::OutputBias,
        Self::FeedForwardNorm,
        Self::Gate,
        Self::Up,
        Self::Down,
    ];

    /// The shape that follows from the configuration, outermost dimension first.
    pub(super) fn shape(self, config: &ModelConfig) -> Vec<usize> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        match self {
            Self::AttentionNorm | Self::FeedForwardNorm | Self::OutputBias => vec![hidden],
            Self::Query => vec![config.query_width(), hidden],
            Self::Key | Self::Value => vec![config.kv_width(), hidden],
            Self::QueryBias => vec![config.query_width()],
            Self::KeyBias | Self::ValueBias => vec![config.kv_width()],
            Self::QueryNorm | Self::KeyNorm => vec![config.head_dim],
            Self::Output => vec![hidden, config.query_width()],
            Self::Gate | Self::Up => vec![inner, hidden],
            Self::Down => vec![hidden, inner],
        }
    }

    /// Whether a model of the architecture may lack it, must have it (`Some(true)`), or must not have it.
    fn presence(self, architecture: Architecture) -> Presence {
        match (self, architecture) {
            (Self::QueryBias | Self::KeyBias | Self::ValueBias, Architecture::Qwen2)
            | (Self::QueryNorm | Self::KeyNorm, Architecture::Qwen3) => Presence::Required,
            (Self::QueryBias | Self::KeyBias | Self::ValueBias | Self::OutputBias, _) => Presence::Optional,
            (Self::QueryNorm | Self::KeyNorm, _) => Presence::Unknown,
            _ => Presence::Required,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Presence {
    Required,
    Optional,
    Unknown,
}

/// Names in one of the formats.
#[derive(Clone, Copy, Debug)]
pub(super) struct TensorNames {
    is_gguf: bool,
}

impl TensorNames {
    pub(super) fn new(naming: Naming) -> Self {
        Self { is_gguf: naming != Naming::HuggingFace }
    }

    pub(super) fn embedding(self) -> &'static str {
        if self.is_gguf { "token_embd.weight" } else { "model.embed_tokens.weight" }
    }

    pub(super) fn final_norm(self) -> &'static str {
        if self.is_gguf { "output_norm.weight" } else { "model.norm.weight" }
    }

    pub(super) fn head(self) -> &'static str {
        if self.is_gguf { "output.weight" } else { "lm_head.weight" }
    }

    pub(super) fn layer(self, layer: usize, tensor: LayerTensor) -> String {
        if self.is_gguf {
            let name = match tensor {
                LayerTensor::AttentionNorm => "attn_norm.weight",
                LayerTensor::Query => "attn_q.weight",
                LayerTensor::Key => "attn_k.weight",
                LayerTensor::Value => "attn_v.weight",
                LayerTensor::QueryBias => "attn_q.bias",
                LayerTensor::KeyBias => "attn_k.bias",
                LayerTensor::ValueBias => "attn_v.bias",
                LayerTensor::QueryNorm => "attn_q_norm.weight",
                LayerTensor::KeyNorm => "attn_k_norm.weight",
                LayerTensor::Output => "attn_output.weight",
                LayerTensor::OutputBias => "attn_output.bias",
                LayerTensor::FeedForwardNorm => "ffn_norm.weight",
                LayerTensor::Gate => "ffn_gate.weight",
                LayerTensor::Up => "ffn_up.weight",
                LayerTensor::Down => "ffn_down.weight",
            };
            format!("blk.{layer}.{name}")
        } else {
            let name = match tensor {
                LayerTensor::AttentionNorm => "input_layernorm.weight",
                LayerTensor::Query => "self_attn.q_proj.weight",
                LayerTensor::Key => "self_attn.k_proj.weight",
                LayerTensor::Value => "self_attn.v_proj.weight",
                LayerTensor::QueryBias => "self_attn.q_proj.bias",
                LayerTensor::KeyBias => "self_attn.k_proj.bias",
                LayerTensor::ValueBias => "self_attn.v_proj.bias",
                LayerTensor::QueryNorm => "self_attn.q_norm.weight",
                LayerTensor::KeyNorm => "self_attn.k_norm.weight",
                LayerTensor::Output => "self_attn.o_proj.weight",
                LayerTensor::OutputBias => "self_attn.o_proj.bias",
                LayerTensor::FeedForwardNorm => "post_attention_layernorm.weight",
                LayerTensor::Gate => "mlp.gate_proj.weight",
                LayerTensor::Up => "mlp.up_proj.weight",
                LayerTensor::Down => "mlp.down_proj.weight",
            };
            format!("model.layers.{layer}.{name}")
        }
    }
}

/// Whether the output projection is the embedding matrix.
pub(super) fn has_tied_embeddings(config: &ModelConfig, tensors: &TensorDirectory) -> bool {
    let head_is_absent = tensors.get(TensorNames::new(config.naming).head()).is_none();
    config.tied_embeddings.unwrap_or(head_is_absent)
}

/// All weight matrices with their shapes.
pub(super) fn matrices<'a>(
    config: &'a ModelConfig,
    tensors: &TensorDirectory,
) -> impl Iterator<Item = (String, [usize; 2])> + 'a {
    let names = TensorNames::new(config.naming);
    let head = (!has_tied_embeddings(config, tensors)).then(|| names.head());
    let vocabulary_shape = [config.vocab_size, config.hidden_size];
    let layers = (0..config.num_layers).flat_map(move |layer| {
        LayerTensor::ALL.into_iter().filter_map(move |tensor| {
            let shape = <[usize; 2]>::try_from(tensor.shape(config)).ok()?;
            Some((names.layer(layer, tensor), shape))
        })
    });
    std::iter::once(names.embedding())
        .chain(head)
        .map(move |name| (name.to_owned(), vocabulary_shape))
        .chain(layers)
}

/// Every tensor that the architecture needs must be there in its shape, and none that it does not know.
pub(super) fn check_tensors(config: &ModelConfig, tensors: &TensorDirectory) -> Result<(), LoadError> {
    let names = TensorNames::new(config.naming);
    let vocabulary_shape = [config.vocab_size, config.hidden_size];
    let mut num_known = 0;
    tensors.expect(names.embedding(), &vocabulary_shape)?;
    tensors.expect(names.final_norm(), &[config.hidden_size])?;
    num_known += 2;
    if tensors.get(names.head()).is_some() {
        num_known += 1;
    }
    if !has_tied_embeddings(config, tensors) {
        tensors.expect(names.head(), &vocabulary_shape)?;
    }
    let mut expected_layers = Vec::new();
    for layer in 0..config.num_layers {
        for tensor in LayerTensor::ALL {
            let name = names.layer(layer, tensor);
            let is_present = tensors.get(&name).is_some();
            match tensor.presence(config.architecture) {
                Presence::Unknown => continue,
                Presence::Optional if !is_present => continue,
                Presence::Required | Presence::Optional => {}
            }
            tensors.expect(&name, &tensor.shape(config))?;
            expected_layers.push(name);
        }
    }
    let has_ignored_name =
        |name: &str| name == "rope_freqs.weight" || name.ends_with(".self_attn.rotary_emb.inv_freq");
    num_known += expected_layers.len();
    num_known += tensors.entries.keys().filter(|name| has_ignored_name(name)).count();
    if num_known == tensors.entries.len() {
        return Ok(());
    }
    expected_layers.sort_unstable();
    let top = [names.embedding(), names.final_norm(), names.head()];
    let stranger = tensors.entries.keys().find(|name| {
        !top.contains(&name.as_str())
            && !has_ignored_name(name)
            && expected_layers.binary_search(name).is_err()
    });
    Err(LoadError::UnsupportedFeature(format!(
        "the tensor {:?} in a {} model",
        stranger.map_or("", String::as_str),
        config.architecture.name()
    )))
}
