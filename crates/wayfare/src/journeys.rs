//! Setting up journey tracing.

use std::env;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tracing::{info, warn};
use wayfare_journey::{Clock, HeadSampler, Tracer, WallAnchor};
use wayfare_journey_otlp::{EngineDescription, Exporter, ExporterConfig, ExporterOptions, Resource};

use crate::cli::JourneyOptions;

/// Checks what can be checked before a model is loaded.
///
/// # Errors
/// When an option is wrong.
pub(crate) fn check(options: &JourneyOptions) -> Result<HeadSampler> {
    HeadSampler::new(options.journey_tracing_sample_rate).context("--journey-tracing-sample-rate")
}

/// A tracer and the exporter behind it; `None` when tracing is off.
///
/// # Errors
/// When an option is wrong or a destination cannot be opened.
pub(crate) fn start(
    options: &JourneyOptions,
    sampler: HeadSampler,
    clock: Arc<dyn Clock>,
    anchor: WallAnchor,
    engine: EngineDescription,
) -> Result<Option<(Tracer, Exporter)>> {
    if !options.enable_journey_tracing {
        let named = [
            options.otlp_traces_endpoint.as_ref().map(|_| "--otlp-traces-endpoint"),
            options.journey_file.as_ref().map(|_| "--journey-file"),
        ];
        for option in named.into_iter().flatten() {
            warn!("{option} is given, but journeys are not recorded: add --enable-journey-tracing");
        }
        return Ok(None);
    }
    let resource = Resource::of_this_process(env!("CARGO_PKG_VERSION"), engine);
    let exporter_options = ExporterOptions {
        traces_endpoint: options.otlp_traces_endpoint.as_deref(),
        journey_file: options.journey_file.as_deref(),
    };
    let config = ExporterConfig::resolve(&exporter_options, resource, |name| env::var(name).ok())?;
    for destination in &config.destinations {
        info!("journeys go to {destination}");
    }
    let exporter = Exporter::start(config, anchor)?;
    let tracer = Tracer::new(clock, sampler, exporter.sink());
    Ok(Some((tracer, exporter)))
}
