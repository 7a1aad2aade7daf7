//! Damaged and unsupported files, and steps that make no sense, are refused.

use crate::{
    driver::{GREEDY, Sequence, push, run_step},
    tiny::{CONTEXT, Shape, TinyModel, gguf, safetensors_directory},
};
use candle_core::quantized::GgmlDType;
use serde_json::{Value, json};
use std::path::Path;
use wayfare_engine_local::{Model, StepInput};
use wayfare_model_cpu::{
    Architecture, CpuModel, KvCacheType, LoadError, LoadOptions, ModelSource, WeightPrecision,
};

const OPTIONS: LoadOptions = LoadOptions {
    block_size: 8,
    num_kv_blocks: 8,
    max_model_len: 32,
    threads: 1,
    precision: WeightPrecision::Quantised,
    kv_cache_type: KvCacheType::Float16,
    instructions: None,
};

/// Opens and loads; the text of the error and of its causes.
fn refusal(path: &Path) -> Option<String> {
    let outcome = ModelSource::open(path).and_then(|source| source.load(&OPTIONS, &mut |_, _| {}));
    outcome.err().map(|error| {
        let mut text = error.to_string();
        let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
        while let Some(error) = cause {
            text += &format!(": {error}");
            cause = error.source();
        }
        text
    })
}

fn check_refused(path: &Path, words: &[&str]) {
    let text = refusal(path).expect("it is refused");
    for word in words {
        assert!(text.contains(word), "{text:?} does not mention {word:?}");
    }
}

fn plain(architecture: Architecture) -> TinyModel {
    TinyModel::random(&Shape::plain(architecture), 1)
}

#[test]
fn a_gguf_file_cut_anywhere_is_refused() {
    let (directory, path) = gguf(&mut plain(Architecture::Llama), GgmlDType::Q4_0);
    let bytes = std::fs::read(&path).unwrap();
    let cut = directory.path().join("cut.gguf");
    // The last tensor is followed by padding.
    let lengths = (0..4000).step_by(13).chain((4000..bytes.len() - 32).step_by(997));
    for length in lengths {
        std::fs::write(&cut, &bytes[..length]).unwrap();
        assert!(refusal(&cut).is_some(), "cut to {length} of {} bytes", bytes.len());
    }
    assert_eq!(refusal(&path), None);
}

#[test]
fn a_gguf_file_with_any_bytes_replaced_does_no_harm() {
    let (directory, path) = gguf(&mut plain(Architecture::Qwen3), GgmlDType::Q8_0);
    let bytes = std::fs::read(&path).unwrap();
    let damaged_path = directory.path().join("damaged.gguf");
    let mut num_refused = 0;
    for start in (0..6000).step_by(11) {
        for byte in [0x00, 0x7f, 0xff] {
            let mut damaged = bytes.clone();
            let end = (start + 4).min(damaged.len());
            damaged[start..end].fill(byte);
            std::fs::write(&damaged_path, damaged).unwrap();
            // Some of it is text or weights that may be anything; what matters is that this returns.
            num_refused += usize::from(refusal(&damaged_path).is_some());
        }
    }
    assert!(num_refused > 300, "{num_refused}");
}

#[test]
fn huge_counts_in_a_gguf_header_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("huge.gguf");
    let header = |version: u32, tensors: u64, pairs: u64, rest: &[u8]| {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(version.to_le_bytes());
        bytes.extend(tensors.to_le_bytes());
        bytes.extend(pairs.to_le_bytes());
        bytes.extend(rest);
        std::fs::write(&path, bytes).unwrap();
    };
    header(3, u64::MAX, 0, &[]);
    check_refused(&path, &["huge.gguf", "length"]);
    header(3, 0, u64::MAX, &[]);
    check_refused(&path, &["length"]);
    header(7, 0, 0, &[]);
    check_refused(&path, &["version 7"]);
    header(3, 0, 0, &[]);
    check_refused(&path, &["general.architecture"]);
    // One pair "a", an array of 2^40 bytes; then arrays within arrays.
    let key = [&1u64.to_le_bytes()[..], b"a"].concat();
    let array = |kind: u32, length: u64| [&kind.to_le_bytes()[..], &length.to_le_bytes()].concat();
    header(3, 0, 1, &[&key[..], &9u32.to_le_bytes(), &array(0, 1 << 40)].concat());
    check_refused(&path, &["\"a\"", "length"]);
    let nested: Vec<u8> = std::iter::repeat_n(array(9, 1), 1000).flatten().collect();
    header(3, 0, 1, &[&key[..], &9u32.to_le_bytes(), &nested].concat());
    check_refused(&path, &["nested"]);
    let alignment = [&17u64.to_le_bytes()[..], b"general.alignment", &4u32.to_le_bytes(), &[0; 4]].concat();
    header(3, 0, 1, &alignment);
    check_refused(&path, &["alignment"]);
}

#[test]
fn unknown_architectures_and_types_are_named() {
    let (_directory, path) = gguf(&mut plain(Architecture::Llama), GgmlDType::F32);
    let bytes = std::fs::read(&path).unwrap();
    let place = bytes.windows(5).position(|window| window == b"llama").unwrap();
    let mut other = bytes.clone();
    other[place..place + 5].copy_from_slice(b"gemma");
    std::fs::write(&path, &other).unwrap();
    check_refused(&path, &["gemma", "llama", "qwen2", "qwen3"]);

    let (_directory, path) = gguf(
        &mut TinyModel::random(
            &Shape { hidden: 256, inner: 256, head_dim: 64, ..Shape::plain(Architecture::Llama) },
            1,
        ),
        GgmlDType::Q2K,
    );
    check_refused(&path, &["Q2_K", "Q4_K", "output.weight"]);

    let mut tiny = plain(Architecture::Llama);
    let directory = safetensors_directory(&mut tiny);
    let mut config = tiny.config_json();
    config["architectures"] = json!(["GPT2LMHeadModel"]);
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    check_refused(directory.path(), &["GPT2LMHeadModel", "MistralForCausalLM"]);
    check_refused(Path::new("/nonexistent/model.gguf"), &["/nonexistent/model.gguf"]);
    let empty = tempfile::tempdir().unwrap();
    check_refused(empty.path(), &["not a model", "config.json"]);
    std::fs::write(empty.path().join("weights.bin"), "?").unwrap();
    check_refused(&empty.path().join("weights.bin"), &["not a model"]);
}

/// Changes keys of `config.json` one at a time; each change must be refused with these words.
#[test]
fn configurations_that_cannot_be_are_refused() {
    let changes: [(&str, Value, &[&str]); 19] = [
        ("num_attention_heads", json!(0), &["number of heads"]),
        ("num_key_value_heads", json!(0), &["key-value heads"]),
        ("num_key_value_heads", json!(3), &["do not divide"]),
        ("hidden_size", json!(48), &["shape"]),
        ("hidden_size", json!(0), &["hidden size"]),
        ("hidden_size", json!(-1), &["config.json"]),
        ("hidden_size", json!(1u64 << 60), &["hidden size"]),
        ("num_hidden_layers", json!(3), &["model.layers.2", "missing"]),
        ("num_hidden_layers", json!(1), &["model.layers.1"]),
        ("num_hidden_layers", json!(1u64 << 40), &["number of layers"]),
        ("head_dim", json!(15), &["odd"]),
        ("vocab_size", json!(51), &["embed_tokens", "51"]),
        ("rope_theta", json!(0.0), &["theta"]),
        ("rope_scaling", json!({"rope_type": "longrope"}), &["longrope", "yarn"]),
        ("rope_scaling", json!({"rope_type": "linear"}), &["factor"]),
        ("hidden_act", json!("gelu"), &["gelu"]),
        ("quantization_config", json!({"quant_method": "gptq"}), &["quantization_config"]),
        ("partial_rotary_factor", json!(0.5), &["part of each head"]),
        ("rms_norm_eps", json!(-1.0), &["epsilon"]),
    ];
    let mut tiny = plain(Architecture::Llama);
    let directory = safetensors_directory(&mut tiny);
    assert_eq!(refusal(directory.path()), None);
    for (key, value, words) in changes {
        let mut config = tiny.config_json();
        config[key] = value;
        std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
        check_refused(directory.path(), words);
    }
    std::fs::write(directory.path().join("config.json"), "{").unwrap();
    check_refused(directory.path(), &["config.json"]);
}

#[test]
fn damaged_safetensors_are_refused() {
    let mut tiny = plain(Architecture::Llama);
    let directory = safetensors_directory(&mut tiny);
    let path = directory.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    for length in (0..bytes.len()).step_by(613) {
        std::fs::write(&path, &bytes[..length]).unwrap();
        assert!(refusal(directory.path()).is_some(), "cut to {length}");
    }
    let mut huge = bytes.clone();
    huge[..8].fill(0xff);
    std::fs::write(&path, huge).unwrap();
    check_refused(directory.path(), &["model.safetensors", "header"]);

    let header_of = |entry: Value| {
        let header = serde_json::to_vec(&json!({"model.norm.weight": entry})).unwrap();
        let bytes = [&(header.len() as u64).to_le_bytes()[..], &header, &[0; 128]].concat();
        std::fs::write(&path, bytes).unwrap();
    };
    header_of(json!({"dtype": "I8", "shape": [128], "data_offsets": [0, 128]}));
    check_refused(directory.path(), &["I8", "model.norm.weight", "BF16"]);
    header_of(json!({"dtype": "F32", "shape": [u64::MAX, 4], "data_offsets": [0, 128]}));
    check_refused(directory.path(), &["model.norm.weight"]);
    header_of(json!({"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}));
    check_refused(directory.path(), &["empty"]);
    header_of(json!({"dtype": "F32", "shape": [32], "data_offsets": [128, 0]}));
    check_refused(directory.path(), &["model.norm.weight"]);
    header_of(json!({"dtype": "F32", "shape": [32], "data_offsets": [4, 132]}));
    check_refused(directory.path(), &["beyond"]);

    let index = directory.path().join("model.safetensors.index.json");
    std::fs::write(&index, json!({"weight_map": {"a": "../../secret.safetensors"}}).to_string()).unwrap();
    check_refused(directory.path(), &["index.json", "secret"]);
}

#[test]
fn unknown_tensors_and_wild_values_are_refused() {
    let mut tiny = plain(Architecture::Llama);
    tiny.tensors.insert("model.layers.0.mlp.gate_proj.bias".to_owned(), (vec![64], vec![0.0; 64]));
    check_refused(safetensors_directory(&mut tiny).path(), &["gate_proj.bias", "llama"]);

    let mut tiny = plain(Architecture::Qwen2);
    tiny.tensors.remove("model.layers.1.self_attn.k_proj.bias");
    check_refused(
        safetensors_directory(&mut tiny).path(),
        &["model.layers.1.self_attn.k_proj.bias", "missing"],
    );

    let mut tiny = plain(Architecture::Llama);
    tiny.tensors.get_mut("model.layers.1.mlp.up_proj.weight").unwrap().1[5] = f32::NAN;
    check_refused(safetensors_directory(&mut tiny).path(), &["model.layers.1.mlp.up_proj.weight", "finite"]);
}

#[test]
fn options_that_do_not_go_with_the_model_are_refused() {
    let directory = safetensors_directory(&mut plain(Architecture::Llama));
    let source = ModelSource::open(directory.path()).unwrap();
    let wrong = [
        LoadOptions { block_size: 0, ..OPTIONS },
        LoadOptions { num_kv_blocks: 1, ..OPTIONS },
        LoadOptions { num_kv_blocks: usize::MAX, ..OPTIONS },
        LoadOptions { num_kv_blocks: 1 << 28, block_size: 8, ..OPTIONS },
        LoadOptions { block_size: usize::MAX, ..OPTIONS },
        LoadOptions { max_model_len: 0, ..OPTIONS },
        LoadOptions { max_model_len: CONTEXT + 1, ..OPTIONS },
        LoadOptions { threads: 0, ..OPTIONS },
        LoadOptions { threads: 100_000, ..OPTIONS },
    ];
    for options in wrong {
        let outcome = source.load(&options, &mut |_, _| {});
        assert!(matches!(outcome, Err(LoadError::Options(_))), "{options:?}");
    }
}

fn tiny_model() -> CpuModel {
    let directory = safetensors_directory(&mut plain(Architecture::Llama));
    ModelSource::open(directory.path()).unwrap().load(&OPTIONS, &mut |_, _| {}).unwrap()
}

#[test]
fn steps_that_make_no_sense_are_refused_and_the_model_goes_on() {
    let mut model = tiny_model();
    let valid = || {
        let mut step = StepInput::default();
        push(&mut step, &Sequence::new(&[1, 2, 3], vec![1]), 3, true);
        push(&mut step, &Sequence::new(&[4, 5], vec![2]), 2, true);
        step
    };
    type Change = (&'static str, fn(&mut StepInput));
    let changes: [Change; 12] = [
        ("token", |step| step.token_ids[1] = 50),
        ("tokens", |step| step.sequences[0].num_tokens = 0),
        ("tokens", |step| step.sequences[1].num_tokens = 3),
        ("tokens", |step| step.sequences[1].num_tokens = u32::MAX),
        ("start", |step| step.sequences[1].token_start = 1),
        ("start", |step| step.sequences[0].token_start = u32::MAX),
        ("block 0", |step| step.block_tables[0] = 0),
        ("block 8", |step| step.block_tables[0] = 8),
        ("block table", |step| step.sequences[1].num_blocks = 2),
        ("blocks", |step| step.sequences[0].first_position = 6),
        ("positions", |step| step.sequences[0].first_position = u32::MAX),
        ("another token", |step| step.block_tables[1] = 1),
    ];
    let mut expected = Vec::new();
    model.forward(&valid(), &mut expected).unwrap();
    assert_eq!(expected.len(), 2 * model.vocab_size());
    for (index, (word, change)) in changes.into_iter().enumerate() {
        let mut step = valid();
        change(&mut step);
        let mut logits = vec![1.0];
        let error = model.forward(&step, &mut logits).expect_err(word);
        assert!(error.0.contains(word), "change {index}: {error}");
        assert!(logits.is_empty());
        model.forward(&valid(), &mut logits).unwrap();
        assert_eq!(logits, expected, "after change {index}");
    }
}

#[test]
fn empty_steps_and_steps_without_samples_have_no_logits() {
    let mut model = tiny_model();
    let mut logits = vec![1.0];
    model.forward(&StepInput::default(), &mut logits).unwrap();
    assert!(logits.is_empty());
    let mut sequences = [Sequence::new(&[1, 2, 3], vec![1])];
    assert!(run_step(&mut model, &mut sequences, &[2]).is_empty());
    assert_eq!(run_step(&mut model, &mut sequences, &[1]).len(), 1);
    assert_eq!(GREEDY.output_index, 0);
}
