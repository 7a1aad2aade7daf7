//! Transformer inference on the CPU: weights from GGUF or safetensors files, one batched forward over the tokens
//! of all sequences of a step, attention over paged keys and values.
//!
//! [`ModelSource::open`] reads headers only; its [`ModelInfo`] is enough to size the KV cache. Then
//! [`ModelSource::load`] reads the weights and returns a [`CpuModel`], which is a
//! [`Model`](wayfare_engine_local::Model).

mod attention;
mod config;
mod error;
mod gguf;
mod kernels;
mod kv_cache;
mod matrix;
mod memory;
mod model;
mod parallel;
mod safetensors;
mod source;
mod tensors;

pub use config::Architecture;
pub use error::LoadError;
pub use gguf::GgufVocabulary;
pub use kernels::Instructions;
pub use kv_cache::KvCacheType;
pub use model::CpuModel;
pub use source::{LoadOptions, ModelInfo, ModelSource, WeightPrecision};
