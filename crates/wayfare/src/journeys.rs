//! Setting up journey tracing.

use std::env;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tracing::{info, warn};
use wayfare_journey::{Clock, HeadSampler, Tracer, WallAnchor};
use wayfare_journey_otlp::{
    EngineDescription, Exporter, ExporterConfig, ExporterOptions, FileRotation, Resource, is_disabled,
};

use crate::cli::JourneyOptions;

/// Checks what can be checked before a model is loaded.
///
/// # Errors
/// When an option is wrong.
pub(crate) fn check(options: &JourneyOptions) -> Result<HeadSampler> {
    let sampler =
        HeadSampler::new(options.journey_tracing_sample_rate).context("--journey-tracing-sample-rate")?;
    if options.enable_journey_tracing && !is_disabled(variable)? {
        let engine = EngineDescription::default();
        let resource = Resource::of_this_process(env!("CARGO_PKG_VERSION"), engine);
        ExporterConfig::resolve(&exporter_options(options), resource, variable)?;
    }
    Ok(sampler)
}

/// An environment variable. What is not text is made text with replacement characters, so that it is refused
/// where it matters and not taken as absent.
fn variable(name: &str) -> Option<String> {
    env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

fn exporter_options(options: &JourneyOptions) -> ExporterOptions<'_> {
    ExporterOptions {
        traces_endpoint: options.otlp_traces_endpoint.as_deref(),
        journey_file: options.journey_file.as_deref(),
        journey_file_rotation: FileRotation {
            max_bytes: options.journey_file_max_bytes,
            max_files: options.journey_file_max_files,
        },
    }
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
    if is_disabled(variable)? {
        info!("OTEL_SDK_DISABLED is true: journeys are not recorded");
        return Ok(None);
    }
    let resource = Resource::of_this_process(env!("CARGO_PKG_VERSION"), engine);
    let config = ExporterConfig::resolve(&exporter_options(options), resource, variable)?;
    for destination in &config.destinations {
        info!("journeys go to {destination}");
    }
    let exporter = Exporter::start(config, anchor)?;
    let tracer = Tracer::new(clock, sampler, exporter.sink());
    Ok(Some((tracer, exporter)))
}
