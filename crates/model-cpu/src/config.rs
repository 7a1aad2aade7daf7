//! What the forward needs to know about a model, from either file format, checked once.

mod gguf;
mod huggingface;
mod rope;

use crate::error::LoadError;
pub(crate) use rope::{Rope, RopeFrequencies, RopeScaling, YarnScaling};

/// Bounds that no real model comes near; they keep products of configuration values from overflowing.
const MAX_DIMENSION: usize = 1 << 24;
const MAX_LAYERS: usize = 1 << 12;
const MAX_CONTEXT: usize = 1 << 28;

/// The families of models that are computed here. They differ in a few optional parts of one forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 1 to 3 and models built alike.
    Llama,
    /// Llama with an optional sliding window.
    Mistral,
    /// Llama with biases on queries, keys and values.
    Qwen2,
    /// Llama with normalised queries and keys.
    Qwen3,
}

impl Architecture {
    /// The lower-case name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
        }
    }
}

/// Where the names of tensors and the order of rotary dimensions come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    /// `blk.0.attn_q.weight`; with `interleaved_rope`, rows of queries and keys are stored for rotating
    /// neighbours instead of halves, as llama.cpp's converter leaves them for the `llama` architecture.
    Gguf { interleaved_rope: bool },
    /// `model.layers.0.self_attn.q_proj.weight`.
    HuggingFace,
}

/// A validated model configuration.
#[derive(Clone, Debug)]
pub(crate) struct ModelConfig {
    pub(crate) architecture: Architecture,
    pub(crate) naming: Naming,
    pub(crate) name: Option<String>,
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) num_layers: usize,
    pub(crate) num_heads: usize,
    pub(crate) num_kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) vocab_size: usize,
    pub(crate) context_length: usize,
    pub(crate) rms_norm_eps: f32,
    pub(crate) rope: Rope,
    pub(crate) window: SlidingWindow,
    /// Whether the output projection is the embedding; `None`: when there is no tensor for it.
    pub(crate) tied_embeddings: Option<bool>,
    pub(crate) eos_token_ids: Vec<u32>,
}

/// Which layers attend to the last positions only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SlidingWindow {
    None,
    /// The number of positions, the token's own included, and for each layer whether it is bound by it.
    Layers {
        positions: usize,
        bound: Vec<bool>,
    },
}

impl SlidingWindow {
    pub(crate) fn of_layer(&self, layer: usize) -> Option<usize> {
        match self {
            Self::Layers { positions, bound } if bound.get(layer) == Some(&true) => Some(*positions),
            _ => None,
        }
    }
}

impl ModelConfig {
    /// Number of query values per token.
    pub(crate) fn query_width(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Number of key values, and of value values, per token.
    pub(crate) fn kv_width(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    /// Refuses what the forward cannot compute; everything after relies on this.
    fn validated(self) -> Result<Self, LoadError> {
        let bounded = [
            ("hidden size", self.hidden_size, MAX_DIMENSION),
            ("feed-forward size", self.intermediate_size, MAX_DIMENSION),
            ("number of layers", self.num_layers, MAX_LAYERS),
            ("number of heads", self.num_heads, MAX_DIMENSION),
            ("number of key-value heads", self.num_kv_heads, MAX_DIMENSION),
            ("head size", self.head_dim, MAX_DIMENSION),
            ("vocabulary size", self.vocab_size, MAX_DIMENSION),
            ("context length", self.context_length, MAX_CONTEXT),
        ];
        for (what, value, most) in bounded {
            if value == 0 || value > most {
                return Err(LoadError::configuration(format!("the {what} is {value}, not 1 to {most}")));
            }
        }
        if !self.num_heads.is_multiple_of(self.num_kv_heads) {
            return Err(LoadError::configuration(format!(
                "{} heads do not divide among {} key-value heads",
                self.num_heads, self.num_kv_heads
            )));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(LoadError::configuration(format!("the head size {} is odd", self.head_dim)));
        }
        if self.query_width() > MAX_DIMENSION {
            return Err(LoadError::configuration("heads times head size is too large"));
        }
        if !(self.rms_norm_eps.is_finite() && self.rms_norm_eps >= 0.0) {
            return Err(LoadError::configuration(format!("the norm epsilon is {}", self.rms_norm_eps)));
        }
        if let SlidingWindow::Layers { positions: 0, .. } = self.window {
            return Err(LoadError::configuration("the sliding window is empty"));
        }
        self.rope.check()?;
        Ok(self)
    }
}
