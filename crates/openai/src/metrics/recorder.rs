//! What is measured per request and per step.
//!
//! HOT PATH: called by the output dispatcher for each step and each sequence in it; takes no lock and
//! allocates nothing, but for the exemplars of a sampled request, at its first token and its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;
use wayfare_engine::{EngineLimits, Finish, FinishReason, SequenceOutput, StepOutputs};
use wayfare_journey::{MonoNs, TraceId, WaitReason, WallAnchor};

use super::by_engine::{ByEngine, EngineMetric};
use super::exemplars::{Exemplar, ExemplarHistogram};
use super::histogram::AtomicHistogram;

const STEP_TOKENS: &[f64] =
    &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];
const CHOICES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0];
const FIRST_TOKEN_SECONDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];
const TOKEN_SECONDS: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
/// The edges of OpenTelemetry's conventions for `gen_ai.server.*`.
/// Source: <https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-metrics/>.
const GEN_AI_REQUEST_SECONDS: &[f64] =
    &[0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92];
const GEN_AI_FIRST_TOKEN_SECONDS: &[f64] =
    &[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];
const GEN_AI_TOKEN_SECONDS: &[f64] =
    &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];
const REQUEST_SECONDS: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
];

const BLOCK_SECONDS: &[f64] = &[
    0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0,
    300.0, 600.0, 1200.0, 1800.0,
];
const PREEMPTIONS: &[f64] = &[0.0, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0];

/// What the recorder must remember of a sequence until it ends.
#[derive(Clone, Debug)]
pub(crate) struct RequestMeter {
    arrived: MonoNs,
    prompt_tokens: u32,
    max_tokens: u32,
    choices: u32,
    cached_tokens: u32,
    generated_tokens: u32,
    last_output: Option<MonoNs>,
    /// The trace of the request, when the head has sampled it.
    trace_id: Option<TraceId>,
    /// The request's other sequences, when it has any.
    siblings: Option<Siblings>,
}

/// What the sequences of one request know together, so that what is measured per request is observed once.
#[derive(Clone, Debug)]
pub(crate) struct Siblings(Arc<SiblingCounts>);

#[derive(Debug)]
struct SiblingCounts {
    unfinished: AtomicUsize,
    longest: AtomicU32,
}

impl Siblings {
    /// Those of a request with `sequences` sequences; none when there is only one.
    pub(crate) fn of(sequences: usize) -> Option<Self> {
        let counts = SiblingCounts { unfinished: AtomicUsize::new(sequences), longest: AtomicU32::new(0) };
        (sequences > 1).then(|| Self(Arc::new(counts)))
    }

    /// One has ended with so many tokens; the last one learns how many the longest has.
    fn finish(&self, generated_tokens: u32) -> Option<u32> {
        // All are finished by the dispatcher, one after the other.
        let longest = self.0.longest.fetch_max(generated_tokens, Ordering::Relaxed).max(generated_tokens);
        (self.0.unfinished.fetch_sub(1, Ordering::Relaxed) == 1).then_some(longest)
    }
}

impl RequestMeter {
    /// The meter of a sequence that is about to be handed to the engine.
    pub(crate) fn new(arrived: MonoNs, prompt_tokens: u32, max_tokens: u32, choices: u32) -> Self {
        Self {
            arrived,
            prompt_tokens,
            max_tokens,
            choices,
            cached_tokens: 0,
            generated_tokens: 0,
            last_output: None,
            trace_id: None,
            siblings: None,
        }
    }

    /// The same, of a request whose trace an exemplar may name.
    pub(crate) fn with_trace(self, trace_id: Option<TraceId>) -> Self {
        Self { trace_id, ..self }
    }

    /// The same, of one of several sequences of a request.
    pub(crate) fn with_siblings(self, siblings: Option<Siblings>) -> Self {
        Self { siblings, ..self }
    }
}

/// Feeds the histograms of one engine, and its counter of ended requests.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    step_tokens: AtomicHistogram,
    time_to_first_token: ExemplarHistogram,
    inter_token_latency: AtomicHistogram,
    time_per_output_token: AtomicHistogram,
    end_to_end: ExemplarHistogram,
    queue_time: ExemplarHistogram,
    prefill_time: AtomicHistogram,
    decode_time: AtomicHistogram,
    inference_time: AtomicHistogram,
    prompt_tokens: AtomicHistogram,
    generation_tokens: AtomicHistogram,
    max_generation_tokens: AtomicHistogram,
    params_max_tokens: AtomicHistogram,
    params_n: AtomicHistogram,
    prefill_kv_computed: AtomicHistogram,
    recomputed_tokens: AtomicHistogram,
    preemptions: AtomicHistogram,
    queue_wait: QueueWaits,
    gen_ai_duration: AtomicHistogram,
    gen_ai_first_token: AtomicHistogram,
    gen_ai_per_token: AtomicHistogram,
    /// Present when the engine follows blocks.
    blocks: Option<BlockHistograms>,
    ended: EndedRequests,
    wall: WallAnchor,
}

/// What is known of the cached prefixes that were evicted.
#[derive(Clone, Debug)]
struct BlockHistograms {
    lifetime: AtomicHistogram,
    idle: AtomicHistogram,
    reuse_gap: AtomicHistogram,
}

/// Time in the waiting queue before the first step, by reason. Requests that did not wait for a reason are not in
/// its histogram.
#[derive(Clone, Debug)]
struct QueueWaits([AtomicHistogram; WaitReason::COUNT]);

impl QueueWaits {
    fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicHistogram::new(FIRST_TOKEN_SECONDS)))
    }
}

impl TypedMetric for QueueWaits {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EngineMetric for QueueWaits {
    fn encode_for(&self, engine: &str, encoder: &mut MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        WaitReason::ALL.into_iter().zip(&self.0).try_for_each(|(reason, histogram)| {
            let labels = [("engine", engine), ("reason", reason.as_str())];
            histogram.encode(encoder.encode_family(&labels)?)
        })
    }
}

/// Ended requests by reason. All reasons are there from the start, so that a rate over them has no gap.
#[derive(Clone, Debug, Default)]
struct EndedRequests {
    stopped: Counter,
    length: Counter,
    aborted: Counter,
    failed: Counter,
}

impl EndedRequests {
    fn of(&self, reason: FinishReason) -> &Counter {
        match reason {
            FinishReason::Stop => &self.stopped,
            FinishReason::Length => &self.length,
            FinishReason::Abort => &self.aborted,
            FinishReason::Error => &self.failed,
        }
    }
}

impl TypedMetric for EndedRequests {
    const TYPE: MetricType = MetricType::Counter;
}

impl EngineMetric for EndedRequests {
    fn encode_for(&self, engine: &str, encoder: &mut MetricEncoder<'_>) -> Result<(), std::fmt::Error> {
        [FinishReason::Stop, FinishReason::Length, FinishReason::Abort, FinishReason::Error]
            .into_iter()
            .try_for_each(|reason| {
                let labels = [("engine", engine), ("finished_reason", reason.as_str())];
                self.of(reason).encode(encoder.encode_family(&labels)?)
            })
    }
}

impl Recorder {
    /// Registers all of it for so many engines, and returns a recorder for each. Token counts are bucketed up to the
    /// model's length; `wall` gives exemplars their time.
    pub(super) fn register(
        registry: &mut Registry,
        limits: &EngineLimits,
        wall: WallAnchor,
        engines: &[u32],
    ) -> Vec<Self> {
        let counts = one_two_five(limits.max_model_len);
        let mut histogram = |name: &str, help: &str, edges: &[f64]| {
            let by_engine = ByEngine::new(engines, || AtomicHistogram::new(edges));
            registry.register(name, help, by_engine.clone());
            by_engine.each()
        };
        let step_tokens =
            histogram("vllm:iteration_tokens_total", "Tokens computed per engine step", STEP_TOKENS);
        let inter_token_latency =
            histogram("vllm:inter_token_latency_seconds", "Time between two outputs", TOKEN_SECONDS);
        let time_per_output_token = histogram(
            "vllm:request_time_per_output_token_seconds",
            "Mean time per token after the first, by request",
            TOKEN_SECONDS,
        );
        let inference_time = histogram(
            "vllm:request_inference_time_seconds",
            "First scheduled to last token",
            REQUEST_SECONDS,
        );
        let prefill_time =
            histogram("vllm:request_prefill_time_seconds", "First scheduled to first token", REQUEST_SECONDS);
        let decode_time =
            histogram("vllm:request_decode_time_seconds", "First token to last token", REQUEST_SECONDS);
        let prompt_tokens = histogram("vllm:request_prompt_tokens", "Prompt tokens by request", &counts);
        let generation_tokens =
            histogram("vllm:request_generation_tokens", "Generated tokens by request", &counts);
        let max_generation_tokens = histogram(
            "vllm:request_max_num_generation_tokens",
            "Generated tokens of the longest choice of a request",
            &counts,
        );
        let params_max_tokens =
            histogram("vllm:request_params_max_tokens", "Limit on generated tokens by request", &counts);
        let prefill_kv_computed = histogram(
            "vllm:request_prefill_kv_computed_tokens",
            "Prompt tokens computed, cached ones left out",
            &counts,
        );
        let recomputed_tokens = histogram(
            "vllm:request_recomputed_tokens",
            "Tokens computed again after preemptions by request",
            &counts,
        );
        let preemptions = histogram("vllm:request_preemptions", "Preemptions by request", PREEMPTIONS);
        let params_n = histogram("vllm:request_params_n", "Choices asked for by request", CHOICES);

        let gen_ai_duration = histogram(
            "gen_ai_server_request_duration_seconds",
            "Arrival to end of the generation, in the buckets of OpenTelemetry's conventions",
            GEN_AI_REQUEST_SECONDS,
        );
        let gen_ai_first_token = histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Arrival to first token, in the buckets of OpenTelemetry's conventions",
            GEN_AI_FIRST_TOKEN_SECONDS,
        );
        let gen_ai_per_token = histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Mean time per token after the first, in the buckets of OpenTelemetry's conventions",
            GEN_AI_TOKEN_SECONDS,
        );
        let blocks = limits.follows_blocks.then(|| {
            let lifetimes = histogram(
                "vllm:kv_block_lifetime_seconds",
                "How long a cached prefix stayed in its KV block",
                BLOCK_SECONDS,
            );
            let idles = histogram(
                "vllm:kv_block_idle_before_evict_seconds",
                "How long a cached prefix had not been used when it was evicted",
                BLOCK_SECONDS,
            );
            let reuse_gaps = histogram(
                "vllm:kv_block_reuse_gap_seconds",
                "Time between two uses of a cached prefix",
                BLOCK_SECONDS,
            );
            let of_engines = lifetimes.into_iter().zip(idles).zip(reuse_gaps);
            let of_engine = |((lifetime, idle), reuse_gap)| BlockHistograms { lifetime, idle, reuse_gap };
            of_engines.map(of_engine).collect::<Vec<_>>()
        });
        let mut with_exemplars = |name: &str, help: &str, edges: &[f64]| {
            let by_engine = ByEngine::new(engines, || ExemplarHistogram::new(edges));
            registry.register(name, help, by_engine.clone());
            by_engine.each()
        };
        let time_to_first_token =
            with_exemplars("vllm:time_to_first_token_seconds", "Arrival to first token", FIRST_TOKEN_SECONDS);
        let end_to_end = with_exemplars(
            "vllm:e2e_request_latency_seconds",
            "Arrival to end of the generation",
            REQUEST_SECONDS,
        );
        let queue_time =
            with_exemplars("vllm:request_queue_time_seconds", "Queued to first scheduled", REQUEST_SECONDS);
        let queue_waits = ByEngine::new(engines, QueueWaits::new);
        registry.register(
            "vllm:queue_wait_seconds",
            "Time in the queue before the first step, by what the request waited for",
            queue_waits.clone(),
        );
        let ended_requests = ByEngine::new(engines, EndedRequests::default);
        registry.register("vllm:request_success", "Requests that ended, by reason", ended_requests.clone());
        let (queue_wait, ended) = (queue_waits.each(), ended_requests.each());
        // Each of the columns has as many entries as there are engines.
        let of_engine = |engine: usize| Self {
            step_tokens: step_tokens[engine].clone(),
            time_to_first_token: time_to_first_token[engine].clone(),
            inter_token_latency: inter_token_latency[engine].clone(),
            time_per_output_token: time_per_output_token[engine].clone(),
            end_to_end: end_to_end[engine].clone(),
            queue_time: queue_time[engine].clone(),
            prefill_time: prefill_time[engine].clone(),
            decode_time: decode_time[engine].clone(),
            inference_time: inference_time[engine].clone(),
            prompt_tokens: prompt_tokens[engine].clone(),
            generation_tokens: generation_tokens[engine].clone(),
            max_generation_tokens: max_generation_tokens[engine].clone(),
            params_max_tokens: params_max_tokens[engine].clone(),
            params_n: params_n[engine].clone(),
            prefill_kv_computed: prefill_kv_computed[engine].clone(),
            recomputed_tokens: recomputed_tokens[engine].clone(),
            preemptions: preemptions[engine].clone(),
            queue_wait: queue_wait[engine].clone(),
            gen_ai_duration: gen_ai_duration[engine].clone(),
            gen_ai_first_token: gen_ai_first_token[engine].clone(),
            gen_ai_per_token: gen_ai_per_token[engine].clone(),
            blocks: blocks.as_ref().map(|blocks| blocks[engine].clone()),
            ended: ended[engine].clone(),
            wall,
        };
        (0..engines.len()).map(of_engine).collect()
    }

    /// A step was done.
    pub(crate) fn step(&self, outputs: &StepOutputs) {
        // Step 0 is no step: outputs of requests that ended between steps.
        if outputs.step != 0 && outputs.scheduled_tokens > 0 {
            self.step_tokens.observe(f64::from(outputs.scheduled_tokens));
        }
        if let Some(blocks) = &self.blocks {
            let seconds = |ns: u64| ns as f64 / 1e9;
            for life in &outputs.block_lives {
                blocks.lifetime.observe(seconds(life.lifetime_ns));
                blocks.idle.observe(seconds(life.idle_ns));
                life.reuse_gaps_ns.iter().for_each(|gap| blocks.reuse_gap.observe(seconds(*gap)));
            }
        }
    }

    /// A sequence has got something new at `at`.
    pub(crate) fn output(&self, meter: &mut RequestMeter, output: &SequenceOutput, at: MonoNs) {
        if let Some(first) = &output.first {
            meter.cached_tokens = first.cached_tokens;
        }
        if !output.tokens.is_empty() {
            match meter.last_output.replace(at) {
                None => {
                    let seconds = at.seconds_since(meter.arrived);
                    self.time_to_first_token.observe(seconds, self.exemplar(meter, at));
                    self.gen_ai_first_token.observe(seconds);
                }
                Some(last) => self.inter_token_latency.observe(at.seconds_since(last)),
            }
            let new_tokens = u32::try_from(output.tokens.len()).unwrap_or(u32::MAX);
            meter.generated_tokens = meter.generated_tokens.saturating_add(new_tokens);
        }
        if let Some(finish) = &output.finish {
            self.finish(meter, finish, at);
        }
    }

    fn exemplar(&self, meter: &RequestMeter, at: MonoNs) -> Option<Exemplar> {
        let unix_ns = self.wall.unix_ns(at);
        meter.trace_id.map(|trace_id| Exemplar { trace_id, unix_ns })
    }

    fn finish(&self, meter: &RequestMeter, finish: &Finish, at: MonoNs) {
        let times = &finish.times;
        if let Some(scheduled) = times.first_scheduled {
            self.queue_time.observe(scheduled.seconds_since(times.queued), self.exemplar(meter, at));
            self.prefill_kv_computed
                .observe(f64::from(meter.prompt_tokens.saturating_sub(meter.cached_tokens)));
            if let Some(first) = times.first_token {
                self.prefill_time.observe(first.seconds_since(scheduled));
            }
            if let Some(last) = times.last_token {
                self.inference_time.observe(last.seconds_since(scheduled));
            }
        }
        if let (Some(first), Some(last)) = (times.first_token, times.last_token) {
            let decode = last.seconds_since(first);
            self.decode_time.observe(decode);
            if meter.generated_tokens > 1 {
                let per_token = decode / f64::from(meter.generated_tokens - 1);
                self.time_per_output_token.observe(per_token);
                self.gen_ai_per_token.observe(per_token);
            }
        }
        for (reason, ns) in finish.ledger.queue.iter() {
            self.queue_wait.0[reason as usize].observe(ns as f64 / 1e9);
        }
        self.recomputed_tokens.observe(f64::from(finish.ledger.recomputed_tokens));
        self.preemptions.observe(f64::from(finish.num_preemptions));
        let end_to_end = at.seconds_since(meter.arrived);
        self.end_to_end.observe(end_to_end, self.exemplar(meter, at));
        self.gen_ai_duration.observe(end_to_end);
        self.prompt_tokens.observe(f64::from(meter.prompt_tokens));
        self.generation_tokens.observe(f64::from(meter.generated_tokens));
        self.params_max_tokens.observe(f64::from(meter.max_tokens));
        let longest = match &meter.siblings {
            None => Some(meter.generated_tokens),
            Some(siblings) => siblings.finish(meter.generated_tokens),
        };
        if let Some(longest) = longest {
            self.max_generation_tokens.observe(f64::from(longest));
            self.params_n.observe(f64::from(meter.choices));
        }
        self.ended.of(finish.reason).inc();
    }
}

/// 1, 2, 5, 10, 20, 50, … as far as they are not above `max`.
fn one_two_five(max: u32) -> Vec<f64> {
    let powers = std::iter::successors(Some(1_u64), |power| Some(power * 10));
    powers
        .flat_map(|power| [power, 2 * power, 5 * power])
        .take_while(|edge| *edge <= u64::from(max))
        .map(|edge| edge as f64)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn count_edges_end_at_the_context() {
        assert_eq!(one_two_five(100), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        assert_eq!(one_two_five(4), [1.0, 2.0]);
        assert_eq!(one_two_five(u32::MAX).last(), Some(&2e9));
    }
}
