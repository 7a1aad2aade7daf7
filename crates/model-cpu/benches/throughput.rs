//! Tokens per second of the default model: prefill of whole prompts, and decoding of several sequences at once.
//!
//! `cargo bench -p wayfare-model-cpu -- [threads=N] [full] [slower|slowest] [part of a row's name]`
#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::time::Instant;
use wayfare_engine::RequestId;
use wayfare_engine_local::{Model, SampleSpec, StepInput, StepSequence};
use wayfare_model_cpu::{CpuModel, Instructions, KvCacheType, LoadOptions, ModelSource, WeightPrecision};
use wayfare_testkit::default_model_path;

const BLOCK_SIZE: usize = 16;
const CONTEXT: usize = 200;
const MOST_SEQUENCES: usize = 64;
const MAX_MODEL_LEN: usize = 1024;
const SAMPLE: SampleSpec =
    SampleSpec { temperature: 0.0, top_p: 1.0, top_k: 0, min_p: 0.0, seed: 0, output_index: 0 };

fn main() {
    let mut threads = 2;
    let mut precision = WeightPrecision::Quantised;
    let mut instructions = Instructions::detect();
    let mut wanted = String::new();
    for argument in std::env::args().skip(1).filter(|argument| !argument.starts_with("--")) {
        match argument.strip_prefix("threads=") {
            Some(number) => threads = number.parse().expect("threads=N"),
            None if argument == "full" => precision = WeightPrecision::Full,
            None if argument == "slower" => {
                instructions = Instructions::available().nth(1).unwrap_or(instructions)
            }
            None if argument == "slowest" => {
                instructions = Instructions::available().last().unwrap_or(instructions)
            }
            None => wanted = argument,
        }
    }
    let source = ModelSource::open(&default_model_path()).expect("the default model can be read");
    let options = LoadOptions {
        block_size: BLOCK_SIZE,
        num_kv_blocks: MOST_SEQUENCES * MAX_MODEL_LEN / BLOCK_SIZE + 1,
        max_model_len: MAX_MODEL_LEN,
        threads,
        precision,
        kv_cache_type: KvCacheType::default(),
        instructions: Some(instructions),
    };
    let start = now();
    let model = source.load(&options, &mut |_, _| {}).expect("the model loads");
    let mut rig = Rig { model, input: StepInput::default(), logits: Vec::new() };
    println!(
        "{precision:?}, {instructions}, {threads} threads, {} MB of weights, loaded in {:.2} s",
        source.weight_bytes(precision) / 1_000_000,
        seconds_since(start)
    );
    println!("{:<28} {:>10} {:>10}", "", "best tok/s", "median");
    for rows in [32, 128, 512] {
        report(&wanted, &format!("prefill of {rows}"), rows, 12, || rig.step(1, rows, 0));
    }
    report(&wanted, "prefill of 16 of 128", 16 * 128, 3, || rig.step(16, 128, 0));
    for sequences in [1, 4, 16, 64] {
        let name = format!("{sequences} decoding at {CONTEXT}");
        if !name.contains(&wanted) {
            continue;
        }
        rig.step(sequences, CONTEXT, 0);
        report(&wanted, &name, sequences, 60, || rig.step(sequences, 1, CONTEXT));
    }
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn now() -> Instant {
    Instant::now()
}

fn seconds_since(start: Instant) -> f64 {
    (now() - start).as_secs_f64()
}

fn report(wanted: &str, what: &str, tokens: usize, repeats: usize, mut run: impl FnMut()) {
    if !what.contains(wanted) {
        return;
    }
    run();
    let mut seconds: Vec<f64> = (0..repeats)
        .map(|_| {
            let start = now();
            run();
            seconds_since(start)
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    let rate = |seconds: f64| tokens as f64 / seconds;
    println!("{what:<28} {:>10.0} {:>10.0}", rate(seconds[0]), rate(seconds[repeats / 2]));
}

/// A model and the buffers that an engine would reuse from step to step.
struct Rig {
    model: CpuModel,
    input: StepInput,
    logits: Vec<f32>,
}

impl Rig {
    /// One step of `num_sequences` sequences with `num_tokens` tokens each after `first_position` others.
    fn step(&mut self, num_sequences: usize, num_tokens: usize, first_position: usize) {
        let input = &mut self.input;
        input.clear();
        let num_blocks = MAX_MODEL_LEN / BLOCK_SIZE;
        for sequence in 0..num_sequences {
            input.sequences.push(StepSequence {
                id: RequestId(sequence as u64),
                slot: sequence as u32,
                token_start: input.token_ids.len() as u32,
                num_tokens: num_tokens as u32,
                first_position: first_position as u32,
                block_start: input.block_tables.len() as u32,
                num_blocks: num_blocks as u32,
                sample: Some(SAMPLE),
                num_logits: 1,
                has_rules: false,
            });
            input.token_ids.extend((0..num_tokens).map(|index| (100 + 7 * index + 31 * sequence) as u32));
            input
                .block_tables
                .extend((0..num_blocks).map(|block| (1 + sequence * num_blocks + block) as u32));
        }
        self.model.forward(input, &mut self.logits).expect("the step is valid");
    }
}
