//! Setting up journey tracing.

use std::env;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use tracing::{info, warn};
use wayfare_console::{RecentJourneys, StoreLimits, journey_routes};
use wayfare_journey::{Clock, FanOut, SamplingPolicy, TraceSampler, Tracer, WallAnchor};
use wayfare_journey_otlp::{
    ConfigError, EngineDescription, Exporter, ExporterConfig, ExporterOptions, FileRotation, Resource,
    is_disabled,
};

use crate::cli::JourneyOptions;

/// Checks what can be checked before a model is loaded.
///
/// # Errors
/// When an option or a variable is wrong.
pub(crate) fn check(options: &JourneyOptions) -> Result<SamplingPolicy> {
    let sampler = if is_on(options)? {
        let (name, argument) = (variable("OTEL_TRACES_SAMPLER"), variable("OTEL_TRACES_SAMPLER_ARG"));
        exporter_config(options, EngineDescription::default())?;
        TraceSampler::from_variables(name.as_deref(), argument.as_deref())?
    } else {
        TraceSampler::default()
    };
    SamplingPolicy::new(options.journey_tracing_sample_rate, sampler, options.journey_keep.clone())
        .context("--journey-tracing-sample-rate")
}

/// Whether journeys are recorded.
fn is_on(options: &JourneyOptions) -> Result<bool> {
    Ok(options.enable_journey_tracing && !is_disabled(variable)?)
}

/// An environment variable. What is not text is made text with replacement characters, so that it is refused
/// where it matters and not taken as absent.
fn variable(name: &str) -> Option<String> {
    env::var_os(name).map(|value| value.to_string_lossy().into_owned())
}

fn store_limits(options: &JourneyOptions) -> Option<StoreLimits> {
    let limits =
        StoreLimits { max_journeys: options.journey_store_max, max_bytes: options.journey_store_bytes };
    Some(limits).filter(|limits| limits.max_journeys > 0 && limits.max_bytes > 0)
}

/// Where journeys are sent; `None` when they are only kept in memory.
fn exporter_config(options: &JourneyOptions, engine: EngineDescription) -> Result<Option<ExporterConfig>> {
    let resource = Resource::of_this_process(env!("CARGO_PKG_VERSION"), engine);
    let exporter_options = ExporterOptions {
        traces_endpoint: options.otlp_traces_endpoint.as_deref(),
        journey_file: options.journey_file.as_deref(),
        journey_file_rotation: FileRotation {
            max_bytes: options.journey_file_max_bytes,
            max_files: options.journey_file_max_files,
        },
    };
    match ExporterConfig::resolve(&exporter_options, resource, variable) {
        Err(ConfigError::NoDestination) if store_limits(options).is_some() => Ok(None),
        config => Ok(Some(config?)),
    }
}

/// Everything behind the requests' spans. Exists only when tracing is on.
#[derive(Debug)]
pub(crate) struct JourneyTracing {
    pub(crate) tracer: Tracer,
    exporter: Option<Exporter>,
    store: Option<RecentJourneys>,
}

/// Starts tracing; `None` when it is off.
///
/// # Errors
/// When an option is wrong or a destination cannot be opened.
pub(crate) fn start(
    options: &JourneyOptions,
    policy: SamplingPolicy,
    clock: Arc<dyn Clock>,
    anchor: WallAnchor,
    engine: EngineDescription,
) -> Result<Option<JourneyTracing>> {
    if !options.enable_journey_tracing {
        let named = [
            options.otlp_traces_endpoint.as_ref().map(|_| "--otlp-traces-endpoint"),
            options.journey_file.as_ref().map(|_| "--journey-file"),
            (!options.journey_keep.is_empty()).then_some("--journey-keep"),
        ];
        for option in named.into_iter().flatten() {
            warn!("{option} is given, but journeys are not recorded: add --enable-journey-tracing");
        }
        return Ok(None);
    }
    if !is_on(options)? {
        info!("OTEL_SDK_DISABLED is true: journeys are not recorded");
        return Ok(None);
    }
    let config = exporter_config(options, engine)?;
    for destination in config.iter().flat_map(|config| &config.destinations) {
        info!("journeys go to {destination}");
    }
    let limits = store_limits(options);
    if let Some(limits) = &limits {
        info!(
            "the last {} journeys, at most {} MiB of them, are at /journeys/recent",
            limits.max_journeys,
            limits.max_bytes >> 20
        );
    }
    let exporter = config.map(|config| Exporter::start(config, anchor)).transpose()?;
    let store = limits.map(RecentJourneys::start).transpose();
    let store = store.context("cannot start the thread that keeps journeys")?;
    let sinks = exporter.iter().map(Exporter::sink).chain(store.iter().map(RecentJourneys::sink));
    let tracer = Tracer::new(clock, policy, Arc::new(FanOut::new(sinks)));
    Ok(Some(JourneyTracing { tracer, exporter, store }))
}

impl JourneyTracing {
    /// The routes on which clients see finished journeys.
    pub(crate) fn routes(&self, clock: Arc<dyn Clock>, anchor: WallAnchor) -> Router {
        let routes = self.store.as_ref().map(|store| journey_routes(store.reader(), clock, anchor));
        routes.unwrap_or_default()
    }

    /// Sends what is left and says what became of it. When all requests have ended.
    pub(crate) fn stop(self, flush_time: Duration) {
        let Some(exporter) = self.exporter else { return };
        let report = exporter.shutdown(flush_time);
        if report.is_complete() {
            info!("journeys: {report}");
        } else {
            warn!("journeys: {report}");
        }
    }
}
