//! From a model to a running engine.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use tracing::{info, warn};
use wayfare_engine::{Engine, EngineControl, OutputSink, SchedulingPolicy};
use wayfare_engine_local::{
    EngineOptions as LocalEngineOptions, Executor, FailurePlan, LocalEngine, QueueLimits, RefusingEngine,
    SamplingExecutor, SimulatedExecutor, StepTracing,
};
use wayfare_journey::{Clock, EngineBoard};
use wayfare_journey_otlp::EngineDescription;
use wayfare_model_cpu::{Instructions, KvCacheType, LoadOptions, ModelInfo, ModelSource, WeightPrecision};
use wayfare_scheduler::SchedulerConfig;
use wayfare_text::{GgufVocabulary, TextFiles};

use crate::cli::{EngineOptions, KvCacheDtype, PolicyOption, SimulationOptions};
use crate::memory::{KvDemand, available_bytes, gibibytes, num_kv_blocks};
use crate::model::ModelArgument;
use crate::progress::byte_bar;
use crate::simulation::{Simulated, refuse_for_real_model};
use crate::vllm::{RunningVllm, VllmBackend};

const CPU_MAX_NUM_SEQS: u32 = 32;
const MAX_NUM_BATCHED_TOKENS: u32 = 2048;
const BLOCK_SIZE: u32 = 16;

/// An engine that is ready to be started, and the text side of its model.
pub(crate) enum Backend {
    Local(LocalBackend),
    Vllm(VllmBackend),
}

impl Backend {
    /// What the resource of the traces says of it.
    pub(crate) fn description(&self, model: String) -> EngineDescription {
        match self {
            Backend::Local(LocalBackend { config, engine_name, .. }) => EngineDescription {
                model,
                engine: (*engine_name).to_owned(),
                max_num_seqs: config.max_num_seqs,
                max_num_batched_tokens: config.max_num_batched_tokens,
                block_size: config.block_size,
                num_kv_blocks: config.num_kv_blocks,
            },
            Backend::Vllm(backend) => {
                let engines = backend.engines();
                let limits = engines.limits();
                EngineDescription {
                    model,
                    engine: format!("vllm {}", engines.version().unwrap_or("of an unknown version")),
                    max_num_seqs: limits.max_num_seqs,
                    max_num_batched_tokens: limits.max_num_batched_tokens,
                    block_size: limits.block_size,
                    num_kv_blocks: u32::try_from(engines.total_kv_blocks()).unwrap_or(u32::MAX),
                }
            }
        }
    }

    /// Starts the engine: its outputs go to `sink`.
    ///
    /// # Errors
    /// When no thread can be had, or steps are to be traced that cannot be.
    pub(crate) fn start(
        self,
        sink: Box<dyn OutputSink>,
        clock: Arc<dyn Clock>,
        steps: Option<StepTracing>,
        board: Option<EngineBoard>,
    ) -> Result<(RunningEngine, TextFiles)> {
        match self {
            Backend::Local(backend) => {
                let failures = backend.failures.clone();
                let (engine, text) = backend.start(sink, clock, steps, board)?;
                Ok((RunningEngine::Local { engine: Arc::new(engine), failures }, text))
            }
            Backend::Vllm(backend) => {
                if steps.is_some() {
                    bail!(
                        "--step-tracing-enabled needs the local engine: vLLM's engine cores do not tell their steps"
                    );
                }
                let (running, text) = backend.start(sink, board);
                Ok((RunningEngine::Vllm(running), text))
            }
        }
    }
}

/// The engine of a running server.
pub(crate) enum RunningEngine {
    Local { engine: Arc<LocalEngine>, failures: Option<FailurePlan> },
    Vllm(RunningVllm),
}

impl RunningEngine {
    /// For the API.
    pub(crate) fn engine(&self) -> Arc<dyn Engine> {
        match self {
            RunningEngine::Local { engine, failures: None } => Arc::clone(engine) as _,
            RunningEngine::Local { engine, failures: Some(plan) } => {
                Arc::new(RefusingEngine::new(Arc::clone(engine) as _, plan))
            }
            RunningEngine::Vllm(running) => Arc::clone(&running.engine) as _,
        }
    }

    /// For operators.
    pub(crate) fn control(&self) -> Arc<dyn EngineControl> {
        match self {
            RunningEngine::Local { engine, .. } => Arc::clone(engine) as _,
            RunningEngine::Vllm(running) => Arc::clone(&running.engine) as _,
        }
    }

    /// Takes no more requests, aborts those in flight, and waits until everything has ended.
    pub(crate) fn stop(&self) {
        match self {
            RunningEngine::Local { engine, .. } => engine.stop(),
            RunningEngine::Vllm(running) => running.stop(),
        }
    }
}

/// An engine in this process that is ready to be started, and the text side of its model.
pub(crate) struct LocalBackend {
    config: SchedulerConfig,
    text: TextFiles,
    /// Which engine it is, for the resource of the traces.
    engine_name: &'static str,
    vocab_size: u32,
    executor: Box<dyn Executor>,
    queue_limits: QueueLimits,
    /// What is made to fail, if anything is.
    failures: Option<FailurePlan>,
}

impl LocalBackend {
    /// Reads the model into memory.
    ///
    /// # Errors
    /// When the model cannot be read, is not supported or does not fit.
    pub(crate) fn load(
        model: &ModelArgument,
        options: &EngineOptions,
        simulation: &SimulationOptions,
    ) -> Result<Self> {
        if *model != ModelArgument::Simulated {
            refuse_for_real_model(simulation)?;
        }
        match model {
            ModelArgument::Simulated => Self::simulated(options, simulation),
            ModelArgument::Local(path) => Self::cpu(path, options),
            #[cfg(feature = "hub")]
            ModelArgument::Hub { owner, repository, file } => {
                Self::cpu(&crate::hub::fetch(owner, repository, file.as_deref())?, options)
            }
            #[cfg(not(feature = "hub"))]
            ModelArgument::Hub { owner, repository, .. } => {
                bail!(
                    "{owner}/{repository} cannot be fetched: this wayfare was built without the feature `hub`"
                )
            }
        }
    }

    fn start(
        self,
        sink: Box<dyn OutputSink>,
        clock: Arc<dyn Clock>,
        steps: Option<StepTracing>,
        board: Option<EngineBoard>,
    ) -> Result<(LocalEngine, TextFiles)> {
        let options = LocalEngineOptions { queue_limits: self.queue_limits, steps, board };
        let engine = LocalEngine::start(self.config, self.vocab_size, self.executor, sink, clock, options)?;
        Ok((engine, self.text))
    }

    fn cpu(path: &Path, options: &EngineOptions) -> Result<Self> {
        let source = ModelSource::open(path)?;
        let mut text = match source.vocabulary() {
            Some(vocabulary) => TextFiles::from_gguf(&text_vocabulary(vocabulary)),
            None if path.is_dir() => TextFiles::read(path),
            None => bail!("{} holds no tokeniser", path.display()),
        }
        .with_context(|| format!("the text side of {}", path.display()))?;
        let info = source.info();
        // The output layer may be padded beyond the tokens that have a text.
        text.tokenizer = text.tokenizer.with_model_vocab_size(info.vocab_size);
        // The weights' own files may name more end-of-text tokens than the tokeniser's.
        text.end_of_text.extend(&info.eos_token_ids);
        text.end_of_text.sort_unstable();
        text.end_of_text.dedup();
        let config = cpu_config(info, &source, options)?;
        let instructions = Instructions::detect();
        let load_options = LoadOptions {
            block_size: config.block_size as usize,
            num_kv_blocks: config.num_kv_blocks as usize,
            max_model_len: config.max_model_len as usize,
            threads: threads(options),
            precision: WeightPrecision::default(),
            kv_cache_type: kv_cache_type(options),
            instructions: Some(instructions),
        };
        let bar = byte_bar("loading weights");
        let model = source.load(&load_options, &mut |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        })?;
        bar.finish_and_clear();
        info!(
            "{:?} model of {} layers in memory: weights {}, {} threads, {instructions}",
            info.architecture,
            info.num_layers,
            gibibytes(source.weight_bytes(load_options.precision)),
            load_options.threads
        );
        Ok(Self {
            config,
            text,
            engine_name: "cpu",
            vocab_size: u32::try_from(info.vocab_size).context("the vocabulary is too large")?,
            executor: Box::new(SamplingExecutor::new(model)),
            queue_limits: queue_limits(options),
            failures: None,
        })
    }

    fn simulated(options: &EngineOptions, simulation: &SimulationOptions) -> Result<Self> {
        let text = TextFiles::of_bytes()?;
        let Simulated { name, config, timer } = Simulated::resolve(&simulation.step_time, options)?;
        info!("step times: {name}");
        let seed = options.seed.unwrap_or(0);
        let answers = simulation.answers.answers(&text, &config, seed)?;
        let failures = simulation.answers.failures(seed);
        let mut executor = SimulatedExecutor::in_real_time(timer, answers);
        if let Some(plan) = &failures {
            warn!("{}% of the requests are made to fail", plan.probability * 100.0);
            executor = executor.with_failures(plan);
        }
        Ok(Self {
            config,
            engine_name: "simulated",
            vocab_size: u32::try_from(text.tokenizer.vocab_size()).context("the vocabulary is too large")?,
            text,
            executor: Box::new(executor),
            queue_limits: queue_limits(options),
            failures,
        })
    }
}

/// These sizes, under the rules that the options ask for.
pub(crate) fn with_rules(sizes: SchedulerConfig, options: &EngineOptions) -> SchedulerConfig {
    SchedulerConfig {
        policy: match options.scheduling_policy {
            PolicyOption::Fcfs => SchedulingPolicy::Fcfs,
            PolicyOption::Priority => SchedulingPolicy::Priority,
        },
        chunked_prefill: !options.no_enable_chunked_prefill,
        long_prefill_token_threshold: options.long_prefill_token_threshold,
        // The share of 1 in 100 is every hundredth. The cast of a number that is too large gives the largest.
        follow_blocks: options
            .kv_cache_metrics
            .then(|| NonZeroU32::new((1.0 / options.kv_cache_metrics_sample).round() as u32))
            .flatten(),
        // Nobody outside of the process knows the key, so nobody can make two prefixes that look the same.
        prefix_caching: (!options.no_enable_prefix_caching).then(rand::random),
        ..sizes
    }
}

pub(crate) fn queue_limits(options: &EngineOptions) -> QueueLimits {
    QueueLimits { requests: options.max_num_queued_reqs, tokens: options.max_num_queued_tokens }
}

fn threads(options: &EngineOptions) -> usize {
    let all = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    options.threads.map_or_else(all, |threads| threads.get() as usize)
}

fn kv_cache_type(options: &EngineOptions) -> KvCacheType {
    match options.kv_cache_dtype {
        KvCacheDtype::Auto | KvCacheDtype::Float16 => KvCacheType::Float16,
        KvCacheDtype::BFloat16 => KvCacheType::BFloat16,
        KvCacheDtype::Float32 => KvCacheType::Float32,
    }
}

fn cpu_config(info: &ModelInfo, source: &ModelSource, options: &EngineOptions) -> Result<SchedulerConfig> {
    let context = u32::try_from(info.context_length).unwrap_or(u32::MAX);
    let max_model_len = options.max_model_len.map_or(context, NonZeroU32::get);
    if max_model_len > context {
        bail!("--max-model-len {max_model_len} is more than the {context} positions the model was made for");
    }
    let max_num_seqs = options.max_num_seqs.map_or(CPU_MAX_NUM_SEQS, NonZeroU32::get);
    let block_size = options.block_size.map_or(BLOCK_SIZE, NonZeroU32::get);
    let kind = kv_cache_type(options);
    let kv_bytes_per_token = info.kv_bytes_per_token(kind);
    let available_bytes = available_bytes()?;
    let demand = KvDemand {
        available_bytes,
        weight_bytes: source.weight_bytes(WeightPrecision::default()),
        kv_bytes_per_token,
        block_size,
        max_num_seqs,
        max_model_len,
        num_blocks: options.num_gpu_blocks_override.map(NonZeroU32::get),
    };
    let max_num_batched_tokens =
        options.max_num_batched_tokens.map_or(MAX_NUM_BATCHED_TOKENS, NonZeroU32::get);
    let sizes = SchedulerConfig::with_sizes(
        max_num_seqs,
        max_num_batched_tokens,
        max_model_len,
        block_size,
        num_kv_blocks(&demand)?,
    );
    let config = with_rules(sizes, options);
    config.validate()?;
    let cache_bytes = kv_bytes_per_token * u64::from(block_size) * u64::from(config.num_kv_blocks);
    info!(
        "KV cache: {} blocks of {block_size} tokens as {kind}, {} of the {} of memory that are free",
        config.num_kv_blocks,
        gibibytes(cache_bytes),
        gibibytes(available_bytes)
    );
    Ok(config)
}

/// The same vocabulary for the crate that tokenises, which knows nothing of weight files.
pub(crate) fn text_vocabulary(vocabulary: &wayfare_model_cpu::GgufVocabulary) -> GgufVocabulary {
    let from = vocabulary.clone();
    GgufVocabulary {
        model: from.model,
        pre: from.pre,
        tokens: from.tokens,
        token_types: from.token_types,
        scores: from.scores,
        merges: from.merges,
        bos_token_id: from.bos_token_id,
        eos_token_id: from.eos_token_id,
        eot_token_id: from.eot_token_id,
        unknown_token_id: from.unknown_token_id,
        padding_token_id: from.padding_token_id,
        add_bos_token: from.add_bos_token,
        add_eos_token: from.add_eos_token,
        add_space_prefix: from.add_space_prefix,
        chat_template: from.chat_template,
    }
}
