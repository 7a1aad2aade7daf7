//! `wayfare simulate`: a trace of arrivals through the scheduler, on a virtual clock.

mod csv;
mod distribution;
mod export;
mod report;
mod summary;
mod trace;

use std::io::{self, Write as _};

use anyhow::{Context as _, Result, bail};
use tracing::{info, warn};
use wayfare_engine::SchedulingPolicy;
use wayfare_engine_local::{
    Arrival, Refusal, Replay, ReplayObserver, ReplayOptions, Served, StepReport, VirtualClock,
};
use wayfare_journey::{Clock as _, SystemClock};
use wayfare_journey_otlp::EngineDescription;

use crate::backend::queue_limits;
use crate::cli::{KvCacheDtype, SimulateOptions};
use crate::simulation::Simulated;
use crate::telemetry;
use export::PacedExport;
use report::Setting;
use summary::Summary;
use trace::{TraceError, TraceReader};

/// Replays the trace and prints what became of it.
///
/// # Errors
/// When an option is wrong, the trace cannot be read, or the journeys cannot be written.
pub(crate) fn run(options: &SimulateOptions) -> Result<()> {
    if options.engine.threads.is_some() {
        bail!("--threads is for a model that is computed; a replay has one thread");
    }
    if options.engine.kv_cache_dtype != KvCacheDtype::Auto {
        bail!("--kv-cache-dtype is for a model that is computed; a replay stores nothing");
    }
    let Simulated { name, config, timer } = Simulated::resolve(&options.step_time, &options.engine)?;
    let telemetry = telemetry::settle(&options.journey.as_of_a_server(), None)?;
    let arrivals =
        with_priorities_noticed(TraceReader::open(&options.trace, options.rate_scale)?, config.policy);
    let clock = VirtualClock::new();
    let description = EngineDescription {
        model: name.clone(),
        engine: "simulated".to_owned(),
        max_num_seqs: config.max_num_seqs,
        max_num_batched_tokens: config.max_num_batched_tokens,
        block_size: config.block_size,
        num_kv_blocks: config.num_kv_blocks,
    };
    let export = telemetry
        .into_export()
        .map(|(policy, destinations)| PacedExport::start(policy, destinations, &clock, description))
        .transpose()?;
    let setting = Setting::new(&name, &options.trace, options.rate_scale, &config);
    let replay = Replay::new(ReplayOptions {
        config,
        queue_limits: queue_limits(&options.engine),
        timer,
        clock,
        tracer: export.as_ref().map(PacedExport::tracer),
        model_name: name,
    })?;

    let started = SystemClock.now();
    let mut observer = Observer { summary: Summary::default(), export: export.as_ref() };
    let totals = replay.run(arrivals, &mut observer)?;
    let report = observer.summary.report(setting, &totals);
    info!("replayed in {:.2} s", SystemClock.now().seconds_since(started));
    let text = if options.json { serde_json::to_string_pretty(&report)? } else { report.to_string() };
    {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).context("cannot print the summary")?;
    }
    if let Some(export) = export {
        export.finish()?;
        info!("journeys done after {:.2} s", SystemClock.now().seconds_since(started));
    }
    Ok(())
}

/// Says once when the trace has priorities and the policy does not know them.
fn with_priorities_noticed(
    arrivals: impl Iterator<Item = Result<Arrival, TraceError>>,
    policy: SchedulingPolicy,
) -> impl Iterator<Item = Result<Arrival, TraceError>> {
    let mut is_said = policy == SchedulingPolicy::Priority;
    arrivals.inspect(move |arrival| {
        if !is_said && arrival.as_ref().is_ok_and(|arrival| arrival.priority != 0) {
            warn!("the trace has priorities, which need --scheduling-policy priority; they change nothing");
            is_said = true;
        }
    })
}

/// Takes the measure of everything, and does not get ahead of the exporter.
struct Observer<'a> {
    summary: Summary,
    export: Option<&'a PacedExport>,
}

impl ReplayObserver for Observer<'_> {
    fn refused(&mut self, refusal: Refusal) {
        self.summary.refused(refusal);
    }

    fn token_gap(&mut self, gap_ns: u64) {
        self.summary.token_gap(gap_ns);
    }

    fn served(&mut self, served: &Served<'_>) {
        self.summary.served(served);
    }

    fn step(&mut self, report: &StepReport) {
        self.summary.step(report);
        if let Some(export) = self.export {
            export.wait_for_room();
        }
    }
}
