//! A step in steady state takes no memory from the allocator.

use crate::{
    driver::{Sequence, push},
    tiny::{CONTEXT, Shape, TinyModel, safetensors_directory},
};
use wayfare_engine_local::{Model, StepInput};
use wayfare_model_cpu::{Architecture, KvCacheType, LoadOptions, ModelSource, WeightPrecision};
use wayfare_testkit::CountingAllocator;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[test]
fn steps_in_steady_state_do_not_allocate() {
    let directory = safetensors_directory(&mut TinyModel::random(&Shape::plain(Architecture::Qwen3), 1));
    let source = ModelSource::open(directory.path()).unwrap();
    let options = LoadOptions {
        block_size: 16,
        num_kv_blocks: 32,
        max_model_len: CONTEXT,
        threads: 1,
        precision: WeightPrecision::Quantised,
        kv_cache_type: KvCacheType::Float16,
        instructions: None,
    };
    let mut model = source.load(&options, &mut |_, _| {}).unwrap();
    // A prefill chunk and two decodes, at their largest first.
    let tokens: Vec<u32> = (0..100).map(|index| index % 50).collect();
    let mut sequences: Vec<Sequence> =
        (0..3).map(|index| Sequence::new(&tokens, (1 + 8 * index..9 + 8 * index).collect())).collect();
    let step_at = |sequences: &mut [Sequence], position: usize| {
        let mut step = StepInput::default();
        for (sequence, num_tokens) in sequences.iter_mut().zip([20, 1, 1]) {
            sequence.num_computed = position;
            push(&mut step, sequence, num_tokens, true);
        }
        step
    };
    let mut logits = Vec::new();
    model.forward(&step_at(&mut sequences, 80), &mut logits).unwrap();
    let steps: Vec<StepInput> = (0..60).map(|position| step_at(&mut sequences, position)).collect();
    let allocations = ALLOCATOR.allocations_of(|| {
        for step in &steps {
            model.forward(step, &mut logits).unwrap();
        }
    });
    assert_eq!(allocations.count, 0);
}
