//! Files of every supported kind.

use crate::{
    driver::{Sequence, run_step},
    naive,
    tiny::{CONTEXT, Scaling, Shape, TinyModel, gguf},
};
use candle_core::quantized::GgmlDType;
use std::path::Path;
use wayfare_model_cpu::{Architecture, KvCacheType, LoadOptions, ModelSource, WeightPrecision};

/// Loads `path` and compares the logits after each of a few tokens with the naive ones.
fn check(tiny: &TinyModel, path: &Path, precision: WeightPrecision, allowed: f64) {
    let source = ModelSource::open(path).unwrap();
    let options = LoadOptions {
        block_size: 16,
        num_kv_blocks: 4,
        max_model_len: CONTEXT,
        threads: 2,
        precision,
        kv_cache_type: KvCacheType::Float16,
        instructions: None,
    };
    let mut reported = Vec::new();
    let mut model = source.load(&options, &mut |done, total| reported.push((done, total))).unwrap();
    let stored = source.info().stored_bytes;
    assert_eq!(reported.last(), Some(&(stored, stored)));
    assert!(reported.is_sorted());

    let tokens: Vec<u32> = (0..20).map(|index| (index * 13 + 5) % tiny.shape.vocab as u32).collect();
    let expected = naive::logits(tiny, &tokens);
    let mut sequences = [Sequence::new(&[], vec![3, 1])];
    for (token, expected) in tokens.iter().zip(expected) {
        sequences[0].tokens.push(*token);
        let logits = run_step(&mut model, &mut sequences, &[1]).remove(0).1;
        let norm = expected.iter().map(|value| value * value).sum::<f64>().sqrt();
        let errors = logits.iter().zip(&expected).map(|(logit, expected)| f64::from(*logit) - expected);
        let error = errors.map(|error| error * error).sum::<f64>().sqrt() / norm;
        assert!(error < allowed, "{} {precision:?}: off by {error}", path.display());
    }
}

#[test]
fn safetensors_of_each_type_single_and_sharded() {
    for (kind, num_files) in [("F32", 1), ("F16", 2), ("BF16", 3)] {
        for architecture in [Architecture::Llama, Architecture::Qwen3] {
            let directory = tempfile::tempdir().unwrap();
            let mut tiny = TinyModel::random(&Shape::plain(architecture), 7);
            tiny.write_safetensors(directory.path(), kind, num_files);
            check(&tiny, directory.path(), WeightPrecision::Full, 5e-3);
            check(&tiny, directory.path(), WeightPrecision::Quantised, 0.06);
        }
    }
}

#[test]
fn gguf_of_each_type() {
    let kinds = [
        (GgmlDType::F32, 0.06),
        (GgmlDType::F16, 0.06),
        (GgmlDType::BF16, 0.06),
        (GgmlDType::Q6K, 0.06),
        // What these types hold is kept as it is; activations are rounded to 8 bits.
        (GgmlDType::Q4_0, 3e-2),
        (GgmlDType::Q4_1, 3e-2),
        (GgmlDType::Q5_0, 3e-2),
        (GgmlDType::Q5_1, 3e-2),
        (GgmlDType::Q8_0, 3e-2),
        (GgmlDType::Q4K, 3e-2),
        (GgmlDType::Q5K, 3e-2),
    ];
    for (kind, allowed) in kinds {
        // Blocks of the K types have 256 values.
        let shape = Shape { hidden: 256, inner: 256, head_dim: 64, ..Shape::plain(Architecture::Llama) };
        let mut tiny = TinyModel::random(&shape, 9);
        let (_directory, path) = gguf(&mut tiny, kind);
        check(&tiny, &path, WeightPrecision::Full, 5e-3);
        check(&tiny, &path, WeightPrecision::Quantised, allowed);
    }
}

#[test]
fn gguf_of_each_architecture_and_rope() {
    let scalings = [
        Scaling::None,
        Scaling::Linear { factor: 2.0 },
        Scaling::Llama3 { factor: 8.0, low: 1.0, high: 4.0, original: 32 },
        Scaling::Yarn { factor: 4.0, original: 32 },
    ];
    for architecture in [Architecture::Llama, Architecture::Mistral, Architecture::Qwen2, Architecture::Qwen3]
    {
        for scaling in scalings {
            for tied in [false, true] {
                let window = (architecture == Architecture::Mistral).then_some(6);
                let shape = Shape { scaling, tied, window, ..Shape::plain(architecture) };
                let mut tiny = TinyModel::random(&shape, 11);
                let (_directory, path) = gguf(&mut tiny, GgmlDType::F32);
                check(&tiny, &path, WeightPrecision::Full, 5e-3);
            }
        }
    }
}

#[test]
fn the_names_and_ends_of_both_formats_are_read() {
    let mut tiny = TinyModel::random(&Shape::plain(Architecture::Qwen2), 1);
    let (_directory, path) = gguf(&mut tiny, GgmlDType::Q8_0);
    let source = ModelSource::open(&path).unwrap();
    assert_eq!(source.info().name.as_deref(), Some("Tiny"));
    assert_eq!(source.info().architecture, Architecture::Qwen2);
    assert_eq!(source.info().eos_token_ids, [2, 3]);
    let vocabulary = source.vocabulary().unwrap();
    assert_eq!(vocabulary.tokens.len(), 50);
    assert_eq!(vocabulary.add_bos_token, Some(true));
    assert_eq!(vocabulary.chat_template, None);

    let directory = tempfile::tempdir().unwrap();
    tiny.write_safetensors(directory.path(), "F32", 1);
    std::fs::write(directory.path().join("generation_config.json"), r#"{"eos_token_id": [9, 2]}"#).unwrap();
    let source = ModelSource::open(directory.path()).unwrap();
    assert_eq!(source.info().eos_token_ids, [9, 2]);
    assert_eq!(source.info().context_length, CONTEXT);
    assert!(source.vocabulary().is_none());
}

#[test]
fn transformers_5_rope_parameters_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let scaling = Scaling::Linear { factor: 4.0 };
    let mut tiny = TinyModel::random(&Shape { scaling, ..Shape::plain(Architecture::Llama) }, 3);
    tiny.write_safetensors(directory.path(), "F32", 1);
    let mut config = tiny.config_json();
    let keys = config.as_object_mut().unwrap();
    let theta = keys.remove("rope_theta").unwrap();
    keys.remove("rope_scaling");
    keys.insert(
        "rope_parameters".to_owned(),
        serde_json::json!({"rope_type": "linear", "factor": 4.0, "rope_theta": theta}),
    );
    std::fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    check(&tiny, directory.path(), WeightPrecision::Full, 5e-3);
}
