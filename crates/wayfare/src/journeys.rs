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
use crate::journey_metrics::JourneyMetrics;

/// What the options and the environment ask for, checked; nothing is opened yet.
#[derive(Debug)]
pub(crate) struct JourneySettings {
    policy: SamplingPolicy,
    /// Where journeys are sent; `None` when they are only kept in memory.
    exporter: Option<ExporterConfig>,
    /// How many are kept in memory; `None` when none are.
    store: Option<StoreLimits>,
}

/// Checks what can be checked before a model is loaded; `None` when tracing is off.
///
/// # Errors
/// When an option or a variable is wrong.
pub(crate) fn settle(options: &JourneyOptions) -> Result<Option<JourneySettings>> {
    let policy = |sampler| {
        SamplingPolicy::new(options.journey_tracing_sample_rate, sampler, options.journey_keep.clone())
            .context("--journey-tracing-sample-rate")
    };
    if !options.enable_journey_tracing {
        warn_of_what_is_missing(options);
        // A bad rate is one, whether it is used or not.
        return policy(TraceSampler::default()).map(|_| None);
    }
    if is_disabled(variable)? {
        info!("OTEL_SDK_DISABLED is true: journeys are not recorded");
        return policy(TraceSampler::default()).map(|_| None);
    }
    let store = store_limits(options);
    let exporter = exporter_config(options, store.is_some())?;
    let (name, argument) = (variable("OTEL_TRACES_SAMPLER"), variable("OTEL_TRACES_SAMPLER_ARG"));
    let policy = policy(TraceSampler::from_variables(name.as_deref(), argument.as_deref())?)?;
    Ok(Some(JourneySettings { policy, exporter, store }))
}

fn warn_of_what_is_missing(options: &JourneyOptions) {
    let named = [
        options.otlp_traces_endpoint.as_ref().map(|_| "--otlp-traces-endpoint"),
        options.journey_file.as_ref().map(|_| "--journey-file"),
        (!options.journey_keep.is_empty()).then_some("--journey-keep"),
    ];
    for option in named.into_iter().flatten() {
        warn!("{option} is given, but journeys are not recorded: add --enable-journey-tracing");
    }
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

/// Where journeys are sent; `None` when there is nowhere and they `are_kept` in memory.
fn exporter_config(options: &JourneyOptions, are_kept: bool) -> Result<Option<ExporterConfig>> {
    // The engine is not known before its model is loaded.
    let resource = Resource::of_this_process(env!("CARGO_PKG_VERSION"), EngineDescription::default());
    let exporter_options = ExporterOptions {
        traces_endpoint: options.otlp_traces_endpoint.as_deref(),
        journey_file: options.journey_file.as_deref(),
        journey_file_rotation: FileRotation {
            max_bytes: options.journey_file_max_bytes,
            max_files: options.journey_file_max_files,
        },
    };
    match ExporterConfig::resolve(&exporter_options, resource, variable) {
        Err(ConfigError::NoDestination) if are_kept => Ok(None),
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

impl JourneySettings {
    /// Opens the destinations and starts tracing.
    ///
    /// # Errors
    /// When a destination cannot be opened or no thread be had.
    pub(crate) fn start(
        self,
        clock: Arc<dyn Clock>,
        anchor: WallAnchor,
        engine: EngineDescription,
    ) -> Result<JourneyTracing> {
        let Self { policy, mut exporter, store } = self;
        if let Some(config) = &mut exporter {
            config.resource.engine = engine;
            for destination in &config.destinations {
                info!("journeys go to {destination}");
            }
        }
        if let Some(limits) = &store {
            info!(
                "the last {} journeys, at most {} MiB of them, are at /journeys/recent",
                limits.max_journeys,
                limits.max_bytes >> 20
            );
        }
        let exporter = exporter.map(|config| Exporter::start(config, anchor)).transpose()?;
        let store = store.map(RecentJourneys::start).transpose();
        let store = store.context("cannot start the thread that keeps journeys")?;
        let sinks = exporter.iter().map(Exporter::sink).chain(store.iter().map(RecentJourneys::sink));
        let tracer = Tracer::new(clock, policy, Arc::new(FanOut::new(sinks)));
        Ok(JourneyTracing { tracer, exporter, store })
    }
}

impl JourneyTracing {
    /// The routes on which clients see finished journeys.
    pub(crate) fn routes(&self, clock: Arc<dyn Clock>, anchor: WallAnchor) -> Router {
        let routes = self.store.as_ref().map(|store| journey_routes(store.reader(), clock, anchor));
        routes.unwrap_or_default()
    }

    /// What tracing says about itself at `/metrics`.
    pub(crate) fn metrics(&self) -> JourneyMetrics {
        JourneyMetrics::new(self.tracer.clone(), self.exporter.as_ref().map(Exporter::counters))
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
