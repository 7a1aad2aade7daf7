//! From a path to a loaded model.

mod load;
mod names;

use crate::{
    config::{Architecture, ModelConfig, Naming},
    error::LoadError,
    gguf::{GgufFile, GgufVocabulary},
    kernels::Instructions,
    kv_cache::{self, KvCacheType},
    matrix::FormKind,
    model::CpuModel,
    safetensors,
    tensors::{TensorDirectory, TensorType},
};
use names::TensorNames;
use std::path::Path;

/// A model whose headers have been read and checked, and whose weights have not been read.
#[derive(Debug)]
pub struct ModelSource {
    config: ModelConfig,
    info: ModelInfo,
    vocabulary: Option<GgufVocabulary>,
    tensors: TensorDirectory,
}

/// What the headers tell about a model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelInfo {
    /// The family it belongs to.
    pub architecture: Architecture,
    /// The name that the file or the directory gives.
    pub name: Option<String>,
    /// Most positions that it was made for.
    pub context_length: usize,
    /// Number of logits; token ids are below it.
    pub vocab_size: usize,
    /// The tokens after which a text is over.
    pub eos_token_ids: Vec<u32>,
    /// Number of transformer layers.
    pub num_layers: usize,
    /// Heads of keys and values per layer.
    pub num_kv_heads: usize,
    /// Components of a key or value.
    pub head_dim: usize,
    /// Bytes of all tensors in the files.
    pub stored_bytes: u64,
}

impl ModelInfo {
    /// Bytes of KV cache per token: keys and values of all layers.
    #[must_use]
    pub fn kv_bytes_per_token(&self, kind: KvCacheType) -> u64 {
        kv_cache::bytes_per_token(self.num_layers, self.num_kv_heads, self.head_dim, kind)
    }
}

/// How exactly weights and activations are multiplied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WeightPrecision {
    /// Weights of 4 bits where the file has them so and of 8 bits otherwise, activations of 8 bits, in blocks of 32
    /// values; activations far larger than the rest of their row are multiplied as floats. Of formats with a scale for
    /// each 32 the quants are kept, their scales and middles rounded to 14 and 15 bits; Q6_K and floats are put on 256
    /// levels per block. The result of a row does not depend on the other rows of its step, bit for bit.
    #[default]
    Quantised,
    /// 32-bit floats throughout: some 4 to 7 times the memory, and as much slower at decoding.
    Full,
}

/// What a model is loaded for.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Token positions per KV block.
    pub block_size: usize,
    /// Number of KV blocks, block 0 included, which is never used.
    pub num_kv_blocks: usize,
    /// Most positions of a sequence.
    pub max_model_len: usize,
    /// Threads that compute, the calling one included.
    pub threads: usize,
    /// How exactly to compute.
    pub precision: WeightPrecision,
    /// What keys and values are stored as.
    pub kv_cache_type: KvCacheType,
    /// What the processor computes with; `None`: the fastest that it has.
    pub instructions: Option<Instructions>,
}

impl ModelSource {
    /// Reads the headers of a `.gguf` file, or of a directory with `config.json` and `*.safetensors`.
    ///
    /// # Errors
    /// When the path holds no model, a damaged one, or one that is not supported.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let metadata =
            std::fs::metadata(path).map_err(|source| LoadError::Read { path: path.to_owned(), source })?;
        let (config, vocabulary, tensors) = if metadata.is_dir() {
            if !path.join("config.json").exists() {
                return Err(LoadError::NotAModel(path.to_owned()));
            }
            let config = ModelConfig::from_directory(path)?;
            (config, None, safetensors::read_directory(path)?)
        } else if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gguf")) {
            let file = GgufFile::read(path)?;
            let vocabulary = GgufVocabulary::from_metadata(&file.metadata);
            (ModelConfig::from_gguf(&file, vocabulary.as_ref())?, vocabulary, file.tensors)
        } else {
            return Err(LoadError::NotAModel(path.to_owned()));
        };
        names::check_tensors(&config, &tensors)?;
        let info = ModelInfo {
            architecture: config.architecture,
            name: config.name.clone(),
            context_length: config.context_length,
            vocab_size: config.vocab_size,
            eos_token_ids: config.eos_token_ids.clone(),
            num_layers: config.num_layers,
            num_kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            stored_bytes: tensors.total_bytes(),
        };
        Ok(Self { config, info, vocabulary, tensors })
    }

    /// What the headers tell.
    #[must_use]
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The tokeniser inside a GGUF file; `None` for a directory, and for a file without tokens.
    #[must_use]
    pub fn vocabulary(&self) -> Option<&GgufVocabulary> {
        self.vocabulary.as_ref()
    }

    /// Bytes of memory that the weights take once loaded. While loading, the largest tensor takes its stored size
    /// on top.
    #[must_use]
    pub fn weight_bytes(&self, precision: WeightPrecision) -> u64 {
        names::matrices(&self.config, &self.tensors)
            .filter_map(|(name, [out_features, in_features])| {
                let entry = self.tensors.get(&name)?;
                Some(precision.form_of(entry.kind).matrix_bytes(out_features, in_features))
            })
            .sum()
    }

    /// Reads the weights and gets everything ready to compute. `progress` is called with the bytes read so far
    /// and all bytes to read.
    ///
    /// # Errors
    /// When a file cannot be read, a weight is not finite, or the options do not go with the model.
    pub fn load(
        &self,
        options: &LoadOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<CpuModel, LoadError> {
        load::load(self, options, progress)
    }

    fn names(&self) -> TensorNames {
        TensorNames::new(self.config.naming)
    }

    fn interleaved_rope(&self) -> bool {
        self.config.naming == Naming::Gguf { interleaved_rope: true }
    }
}

impl WeightPrecision {
    fn form_of(self, kind: TensorType) -> FormKind {
        match self {
            Self::Quantised => kind.packed_form(),
            Self::Full => FormKind::Full,
        }
    }
}
