//! Tiny random models, and files of them.

use candle_core::{
    Device, Tensor,
    quantized::{
        GgmlDType, QTensor,
        gguf_file::{self, Value},
    },
};
use half::{bf16, f16};
use serde_json::json;
use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
};
use wayfare_model_cpu::Architecture;

/// Scaling of rotary frequencies.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scaling {
    None,
    Linear { factor: f64 },
    Llama3 { factor: f64, low: f64, high: f64, original: usize },
    Yarn { factor: f64, original: usize },
}

/// What a tiny model is to be like.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) architecture: Architecture,
    pub(crate) hidden: usize,
    pub(crate) inner: usize,
    pub(crate) layers: usize,
    pub(crate) kv_heads: usize,
    pub(crate) heads_per_kv_head: usize,
    pub(crate) head_dim: usize,
    pub(crate) vocab: usize,
    pub(crate) tied: bool,
    pub(crate) window: Option<usize>,
    pub(crate) scaling: Scaling,
}

pub(crate) const CONTEXT: usize = 128;
pub(crate) const THETA: f64 = 500.0;
pub(crate) const EPSILON: f64 = 1e-5;

impl Shape {
    pub(crate) fn plain(architecture: Architecture) -> Self {
        Self {
            architecture,
            hidden: 32,
            inner: 64,
            layers: 2,
            kv_heads: 2,
            heads_per_kv_head: 2,
            head_dim: 16,
            vocab: 50,
            tied: false,
            window: None,
            scaling: Scaling::None,
        }
    }

    pub(crate) fn heads(&self) -> usize {
        self.kv_heads * self.heads_per_kv_head
    }
}

/// Tensors under Hugging Face's names, row after row.
#[derive(Clone, Debug)]
pub(crate) struct TinyModel {
    pub(crate) shape: Shape,
    pub(crate) tensors: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl TinyModel {
    pub(crate) fn random(shape: &Shape, seed: u64) -> Self {
        let mut state = seed;
        let mut model = Self { shape: shape.clone(), tensors: BTreeMap::new() };
        let mut add = |name: String, dimensions: &[usize], around: f32, spread: f32| {
            let values = (0..dimensions.iter().product())
                .map(|_| {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    around + spread * ((state >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
                })
                .collect();
            model.tensors.insert(name, (dimensions.to_vec(), values));
        };
        let (query, key) = (shape.heads() * shape.head_dim, shape.kv_heads * shape.head_dim);
        let spread = |inputs: usize| 1.7 / (inputs as f32).sqrt();
        add("model.embed_tokens.weight".into(), &[shape.vocab, shape.hidden], 0.0, 1.0);
        add("model.norm.weight".into(), &[shape.hidden], 1.0, 0.3);
        if !shape.tied {
            add("lm_head.weight".into(), &[shape.vocab, shape.hidden], 0.0, spread(shape.hidden));
        }
        for layer in 0..shape.layers {
            let mut add = |name: &str, dimensions: &[usize], around: f32, spread: f32| {
                add(format!("model.layers.{layer}.{name}"), dimensions, around, spread);
            };
            add("input_layernorm.weight", &[shape.hidden], 1.0, 0.3);
            add("post_attention_layernorm.weight", &[shape.hidden], 1.0, 0.3);
            add("self_attn.q_proj.weight", &[query, shape.hidden], 0.0, spread(shape.hidden));
            add("self_attn.k_proj.weight", &[key, shape.hidden], 0.0, spread(shape.hidden));
            add("self_attn.v_proj.weight", &[key, shape.hidden], 0.0, spread(shape.hidden));
            add("self_attn.o_proj.weight", &[shape.hidden, query], 0.0, spread(query));
            add("mlp.gate_proj.weight", &[shape.inner, shape.hidden], 0.0, spread(shape.hidden));
            add("mlp.up_proj.weight", &[shape.inner, shape.hidden], 0.0, spread(shape.hidden));
            add("mlp.down_proj.weight", &[shape.hidden, shape.inner], 0.0, spread(shape.inner));
            if shape.architecture == Architecture::Qwen2 {
                add("self_attn.q_proj.bias", &[query], 0.0, 0.5);
                add("self_attn.k_proj.bias", &[key], 0.0, 0.5);
                add("self_attn.v_proj.bias", &[key], 0.0, 0.5);
            }
            if shape.architecture == Architecture::Qwen3 {
                add("self_attn.q_norm.weight", &[shape.head_dim], 1.0, 0.3);
                add("self_attn.k_norm.weight", &[shape.head_dim], 1.0, 0.3);
            }
        }
        model
    }

    pub(crate) fn config_json(&self) -> serde_json::Value {
        let shape = &self.shape;
        let class = match shape.architecture {
            Architecture::Llama => "LlamaForCausalLM",
            Architecture::Mistral => "MistralForCausalLM",
            Architecture::Qwen2 => "Qwen2ForCausalLM",
            Architecture::Qwen3 => "Qwen3ForCausalLM",
        };
        let scaling = match shape.scaling {
            Scaling::None => json!(null),
            Scaling::Linear { factor } => json!({"type": "linear", "factor": factor}),
            Scaling::Llama3 { factor, low, high, original } => json!({
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }),
            Scaling::Yarn { factor, original } => json!({
                "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original,
            }),
        };
        json!({
            "architectures": [class], "hidden_size": shape.hidden, "intermediate_size": shape.inner,
            "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads(),
            "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim, "vocab_size": shape.vocab,
            "max_position_embeddings": CONTEXT, "rms_norm_eps": EPSILON, "rope_theta": THETA,
            "rope_scaling": scaling, "hidden_act": "silu", "tie_word_embeddings": shape.tied,
            "sliding_window": shape.window, "use_sliding_window": shape.window.is_some(),
            "max_window_layers": 1, "eos_token_id": 2,
        })
    }

    /// Writes a directory as Hugging Face lays it out; with several files, an index too. The model's own values
    /// become what the files can hold.
    pub(crate) fn write_safetensors(&mut self, directory: &Path, kind: &str, num_files: usize) {
        let mut weight_map = serde_json::Map::new();
        let mut files: Vec<(serde_json::Map<String, serde_json::Value>, Vec<u8>)> =
            vec![Default::default(); num_files];
        for (index, (name, (dimensions, values))) in self.tensors.iter_mut().enumerate() {
            let file = index % num_files;
            let (header, data) = &mut files[file];
            let start = data.len();
            for value in values {
                match kind {
                    "F32" => data.extend(value.to_le_bytes()),
                    "F16" => {
                        let narrow = f16::from_f32(*value);
                        *value = narrow.to_f32();
                        data.extend(narrow.to_le_bytes());
                    }
                    "BF16" => {
                        let narrow = bf16::from_f32(*value);
                        *value = narrow.to_f32();
                        data.extend(narrow.to_le_bytes());
                    }
                    other => panic!("no type {other}"),
                }
            }
            let entry = json!({"dtype": kind, "shape": dimensions, "data_offsets": [start, data.len()]});
            header.insert(name.clone(), entry);
            weight_map.insert(name.clone(), json!(file_name(file, num_files)));
        }
        for (file, (header, data)) in files.into_iter().enumerate() {
            let header = serde_json::to_vec(&header).unwrap();
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend(header);
            bytes.extend(data);
            std::fs::write(directory.join(file_name(file, num_files)), bytes).unwrap();
        }
        if num_files > 1 {
            let index = json!({"metadata": {}, "weight_map": weight_map});
            std::fs::write(directory.join("model.safetensors.index.json"), index.to_string()).unwrap();
        }
        std::fs::write(directory.join("config.json"), self.config_json().to_string()).unwrap();
    }

    /// Writes a GGUF file with matrices of `kind`. The model's own values become what the file can hold.
    pub(crate) fn write_gguf(&mut self, path: &Path, kind: GgmlDType) {
        let shape = self.shape.clone();
        let prefix = match shape.architecture {
            Architecture::Llama | Architecture::Mistral => "llama",
            other => other.name(),
        };
        let mut tensors: Vec<(String, QTensor)> = Vec::new();
        for (name, (dimensions, values)) in &mut self.tensors {
            // llama.cpp's converter stores the rows of each rotated head so that pairs are neighbours.
            let is_permuted = prefix == "llama" && (name.contains("q_proj") || name.contains("k_proj"));
            let width = values.len() / dimensions[0];
            let stored_row = |row: usize| {
                let (head, within) = (row / shape.head_dim, row % shape.head_dim);
                let (half, pair) = (within / (shape.head_dim / 2), within % (shape.head_dim / 2));
                if is_permuted { head * shape.head_dim + 2 * pair + half } else { row }
            };
            let mut stored = values.clone();
            for row in 0..dimensions[0] {
                let target = stored_row(row) * width;
                stored[target..target + width].copy_from_slice(&values[row * width..(row + 1) * width]);
            }
            let kind = if dimensions.len() == 1 { GgmlDType::F32 } else { kind };
            let tensor = Tensor::from_vec(stored, dimensions.clone(), &Device::Cpu).unwrap();
            let quantised = QTensor::quantize(&tensor, kind).unwrap();
            let kept: Vec<f32> =
                quantised.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            for row in 0..dimensions[0] {
                let source = stored_row(row) * width;
                values[row * width..(row + 1) * width].copy_from_slice(&kept[source..source + width]);
            }
            tensors.push((gguf_name(name), quantised));
        }
        let key = |name: &str| format!("{prefix}.{name}");
        let count = |value: usize| Value::U32(value as u32);
        let mut metadata = vec![
            ("general.architecture".to_owned(), Value::String(prefix.to_owned())),
            ("general.name".to_owned(), Value::String("Tiny".to_owned())),
            (key("embedding_length"), count(shape.hidden)),
            (key("feed_forward_length"), count(shape.inner)),
            (key("block_count"), count(shape.layers)),
            (key("attention.head_count"), count(shape.heads())),
            (key("attention.head_count_kv"), count(shape.kv_heads)),
            (key("attention.key_length"), count(shape.head_dim)),
            (key("attention.layer_norm_rms_epsilon"), Value::F32(EPSILON as f32)),
            (key("rope.freq_base"), Value::F32(THETA as f32)),
            (key("context_length"), count(CONTEXT)),
            ("tokenizer.ggml.model".to_owned(), Value::String("gpt2".to_owned())),
            (
                "tokenizer.ggml.tokens".to_owned(),
                Value::Array((0..shape.vocab).map(|id| Value::String(format!("t{id}"))).collect()),
            ),
            (
                "tokenizer.ggml.token_type".to_owned(),
                Value::Array((0..shape.vocab).map(|_| Value::I32(1)).collect()),
            ),
            ("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(2)),
            ("tokenizer.ggml.eot_token_id".to_owned(), Value::U32(3)),
            ("tokenizer.ggml.add_bos_token".to_owned(), Value::Bool(true)),
        ];
        if let Some(window) = shape.window {
            metadata.push((key("attention.sliding_window"), count(window)));
        }
        match shape.scaling {
            Scaling::None => {}
            Scaling::Linear { factor } => {
                metadata.push((key("rope.scaling.type"), Value::String("linear".to_owned())));
                metadata.push((key("rope.scaling.factor"), Value::F32(factor as f32)));
            }
            Scaling::Yarn { factor, original } => {
                metadata.push((key("rope.scaling.type"), Value::String("yarn".to_owned())));
                metadata.push((key("rope.scaling.factor"), Value::F32(factor as f32)));
                metadata.push((key("rope.scaling.original_context_length"), count(original)));
            }
            Scaling::Llama3 { .. } => {
                let plain = Shape { scaling: Scaling::None, ..shape.clone() };
                let scaled = crate::naive::frequencies(&shape).0;
                let divisors: Vec<f32> = crate::naive::frequencies(&plain)
                    .0
                    .iter()
                    .zip(scaled)
                    .map(|(plain, scaled)| (plain / scaled) as f32)
                    .collect();
                let divisors = Tensor::from_vec(divisors, shape.head_dim / 2, &Device::Cpu).unwrap();
                let divisors = QTensor::quantize(&divisors, GgmlDType::F32).unwrap();
                tensors.push(("rope_freqs.weight".to_owned(), divisors));
            }
        }
        let metadata: Vec<(&str, &Value)> =
            metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
        let tensors: Vec<(&str, &QTensor)> =
            tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        gguf_file::write(&mut File::create(path).unwrap(), &metadata, &tensors).unwrap();
    }
}

fn file_name(file: usize, num_files: usize) -> String {
    match num_files {
        1 => "model.safetensors".to_owned(),
        _ => format!("model-{:05}-of-{num_files:05}.safetensors", file + 1),
    }
}

fn gguf_name(name: &str) -> String {
    let replacements = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    replacements.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// A scratch directory with the model as safetensors in 32-bit floats.
pub(crate) fn safetensors_directory(model: &mut TinyModel) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    model.write_safetensors(directory.path(), "F32", 1);
    directory
}

/// A scratch directory with the model as a GGUF file, and the file's path.
pub(crate) fn gguf(model: &mut TinyModel, kind: GgmlDType) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tiny.gguf");
    model.write_gguf(&path, kind);
    (directory, path)
}
