//! Setting up the tracing of journeys and of steps.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use axum::Router;
use tracing::{info, warn};
use wayfare_console::{
    AboutServer, LiveServer, LiveView, ReadBack, RecentJourneys, StoreLimits, about_routes, journey_routes,
    page_routes,
};
use wayfare_engine_local::StepTracing;
use wayfare_flight::FlightFile;
use wayfare_journey::{
    Clock, FanOut, LiveTracing, SamplingPolicy, StepSampling, StepTracer, TraceSampler, Tracer, WallAnchor,
};
use wayfare_journey_otlp::{
    ConfigError, EngineDescription, Exporter, ExporterConfig, ExporterOptions, FileRotation, Resource,
    is_disabled,
};

use crate::cli::{JourneyOptions, LiveOptions, StepOptions};
use crate::telemetry_metrics::TelemetryMetrics;

/// The number of the one engine there is.
const ENGINE_ID: u32 = 0;

/// What the options and the environment ask for, checked; nothing is opened yet.
#[derive(Debug)]
pub(crate) struct TelemetrySettings {
    /// `None` when journeys are not recorded.
    journeys: Option<JourneySettings>,
    /// `None` when steps are not.
    steps: Option<StepSampling>,
    /// Where both are sent; `None` when nothing is.
    exporter: Option<ExporterConfig>,
}

#[derive(Debug)]
struct JourneySettings {
    policy: SamplingPolicy,
    /// How many are kept in memory; `None` when none are.
    store: Option<StoreLimits>,
    /// The file that they are written to, from which those of an earlier process are read back, and how many there are
    /// of it.
    file: Option<(PathBuf, u32)>,
    /// Whether all requests are shown while they run.
    is_live: bool,
    /// The file of the flight recorder.
    flight_recorder: Option<PathBuf>,
}

/// What only a server has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerOptions<'a> {
    pub(crate) steps: &'a StepOptions,
    pub(crate) live: &'a LiveOptions,
}

/// Checks what can be checked before a model is loaded.
///
/// # Errors
/// When an option or a variable is wrong.
pub(crate) fn settle(
    options: &JourneyOptions,
    of_server: Option<ServerOptions<'_>>,
) -> Result<TelemetrySettings> {
    // A bad rate is one, whether it is used or not.
    let policy = |sampler| {
        SamplingPolicy::new(options.journey_tracing_sample_rate, sampler, options.journey_keep.clone())
            .context("--journey-tracing-sample-rate")
    };
    policy(TraceSampler::default())?;
    let step_options = of_server.map(|server| server.steps);
    let step_sampling = step_options.map(step_sampling).transpose()?;

    let has_journeys = options.enable_journey_tracing;
    let has_steps = step_options.is_some_and(|steps| steps.step_tracing_enabled);
    if !has_journeys {
        warn_of_what_is_missing(options, has_steps);
        if of_server.is_some_and(|server| server.live.flight_recorder.is_some()) {
            warn!("--flight-recorder is given, but journeys are not recorded: add --enable-journey-tracing");
        }
    }
    let off = TelemetrySettings { journeys: None, steps: None, exporter: None };
    if !has_journeys && !has_steps {
        return Ok(off);
    }
    if is_disabled(variable)? {
        info!("OTEL_SDK_DISABLED is true: nothing is recorded");
        return Ok(off);
    }
    let journeys = if has_journeys {
        let (name, argument) = (variable("OTEL_TRACES_SAMPLER"), variable("OTEL_TRACES_SAMPLER_ARG"));
        let sampler = TraceSampler::from_variables(name.as_deref(), argument.as_deref())?;
        let is_live = of_server.is_some_and(|server| !server.live.disable_live_view);
        let flight_recorder = of_server.and_then(|server| server.live.flight_recorder.clone());
        let (policy, store) = (policy(sampler)?, store_limits(options));
        let file = options.journey_file.clone().map(|path| (path, options.journey_file_max_files.get()));
        Some(JourneySettings { policy, store, file, is_live, flight_recorder })
    } else {
        None
    };
    let are_kept = journeys.as_ref().is_some_and(|journeys| journeys.store.is_some());
    let exporter = exporter_config(options, are_kept || !has_journeys)?;
    let mut steps = step_sampling.filter(|_| has_steps);
    if steps.is_some() && exporter.is_none() {
        warn!(
            "--step-tracing-enabled is given, but nothing would see the steps: add --otlp-traces-endpoint or \
             --journey-file"
        );
        steps = None;
    }
    Ok(TelemetrySettings { journeys, steps, exporter })
}

fn step_sampling(options: &StepOptions) -> Result<StepSampling> {
    let StepOptions { step_tracing_sample_rate: rate, step_tracing_rich_subsample_rate: rich, .. } = *options;
    for (name, value) in [("sample", rate), ("rich-subsample", rich)] {
        if !(0.0..=1.0).contains(&value) {
            anyhow::bail!("--step-tracing-{name}-rate: {value} is not between 0 and 1");
        }
    }
    Ok(StepSampling::new(rate, rich, options.step_tracing_closure_interval)?)
}

fn warn_of_what_is_missing(options: &JourneyOptions, has_steps: bool) {
    // Steps use the destinations as well.
    let destinations = [
        options.otlp_traces_endpoint.as_ref().map(|_| "--otlp-traces-endpoint"),
        options.journey_file.as_ref().map(|_| "--journey-file"),
    ];
    let destinations = destinations.into_iter().flatten().filter(|_| !has_steps);
    for option in destinations.chain((!options.journey_keep.is_empty()).then_some("--journey-keep")) {
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

/// Where spans are sent; `None` when there is nowhere and that `is_no_error`.
fn exporter_config(options: &JourneyOptions, is_no_error: bool) -> Result<Option<ExporterConfig>> {
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
        Err(ConfigError::NoDestination) if is_no_error => Ok(None),
        config => Ok(Some(config?)),
    }
}

/// Everything behind the spans of requests and of steps.
#[derive(Debug)]
pub(crate) struct Telemetry {
    /// `None` when journeys are not recorded.
    pub(crate) tracer: Option<Tracer>,
    steps: Option<StepSampling>,
    exporter: Option<Exporter>,
    store: Option<RecentJourneys>,
    /// Looks at the requests in flight, and gives the flight recorder its signs of life.
    live: Option<LiveServer>,
    /// Whether clients may see them.
    is_live: bool,
    /// Kept locked.
    _flight_file: Option<FlightFile>,
}

impl TelemetrySettings {
    /// Which journeys are recorded, and where they are sent; `None` when they are not recorded or sent nowhere.
    pub(crate) fn into_export(self) -> Option<(SamplingPolicy, ExporterConfig)> {
        Some((self.journeys?.policy, self.exporter?))
    }

    /// Opens the destinations and starts tracing what is to be traced.
    ///
    /// # Errors
    /// When a destination cannot be opened or no thread be had.
    pub(crate) fn start(
        self,
        clock: Arc<dyn Clock>,
        anchor: WallAnchor,
        engine: EngineDescription,
    ) -> Result<Telemetry> {
        let Self { journeys, steps, mut exporter } = self;
        if let Some(config) = &mut exporter {
            config.resource.engine = engine;
            for destination in &config.destinations {
                info!("{} go to {destination}", what_goes(journeys.is_some(), steps.is_some()));
            }
        }
        let exporter = exporter.map(|config| Exporter::start(config, anchor)).transpose()?;
        let is_live = journeys.as_ref().is_some_and(|journeys| journeys.is_live);
        let (tracer, store, live, flight_file) = match journeys {
            None => (None, None, None, None),
            Some(JourneySettings { policy, store, file, flight_recorder, .. }) => {
                let store = store.map(start_store).transpose()?;
                if let (Some(store), Some((path, max_files))) = (&store, &file) {
                    read_back(store, path, *max_files);
                }
                let sinks = exporter.iter().map(Exporter::sink).chain(store.iter().map(RecentJourneys::sink));
                let flight_file = flight_recorder.as_deref().map(open_flight_file).transpose()?;
                let recorder = flight_file.as_ref().and_then(|file| file.recorder(clock.now(), anchor));
                let view = (is_live || recorder.is_some()).then(LiveView::default);
                let ends = view.as_ref().map(LiveView::sink);
                let tracer = Tracer::with_live_view(
                    Arc::clone(&clock),
                    policy,
                    Arc::new(FanOut::new(sinks)),
                    LiveTracing { ends, recorder },
                );
                let live = view.map(|view| view.start(tracer.clone(), clock, anchor)).transpose();
                let live = live.context("cannot start the thread of the live view")?;
                (Some(tracer), store, live, flight_file)
            }
        };
        Ok(Telemetry { tracer, steps, exporter, store, live, is_live, _flight_file: flight_file })
    }
}

fn what_goes(journeys: bool, steps: bool) -> &'static str {
    match (journeys, steps) {
        (true, true) => "journeys and steps",
        (false, true) => "steps",
        _ => "journeys",
    }
}

fn start_store(limits: StoreLimits) -> Result<RecentJourneys> {
    info!(
        "the last {} journeys, at most {} MiB of them, are at /journeys",
        limits.max_journeys,
        limits.max_bytes >> 20
    );
    RecentJourneys::start(limits).context("cannot start the thread that keeps journeys")
}

/// Puts the journeys of an earlier process into the store. Without them the server serves all the same.
fn read_back(store: &RecentJourneys, path: &Path, max_files: u32) {
    match store.read_back(path, max_files) {
        Ok(ReadBack { journeys: 0, bad_lines: 0 }) => {}
        Ok(ReadBack { journeys, bad_lines: 0 }) => {
            info!("{journeys} journeys are back from {}", path.display())
        }
        Ok(ReadBack { journeys, bad_lines }) => {
            warn!(
                "{journeys} journeys are back from {}; {bad_lines} lines could not be read",
                path.display()
            );
        }
        Err(error) => warn!("journeys cannot be read back from {}: {error}", path.display()),
    }
}

fn open_flight_file(path: &Path) -> Result<FlightFile> {
    let file = FlightFile::create(path).context("--flight-recorder")?;
    if let Some(aside) = &file.set_aside {
        warn!(
            "the server before this one did not end in order; what was in flight then is told by: wayfare flight {}",
            aside.display()
        );
    }
    Ok(file)
}

impl Telemetry {
    /// The step stream of the engine; `None` when steps are not recorded.
    pub(crate) fn steps(&self) -> Option<StepTracing> {
        let (sampling, exporter) = (self.steps?, self.exporter.as_ref()?);
        Some(StepTracing::new(StepTracer::new(sampling, ENGINE_ID, exporter.step_sink())))
    }

    /// The routes on which clients see journeys, finished ones and those that are being made.
    pub(crate) fn routes(&self, clock: Arc<dyn Clock>, anchor: WallAnchor, about: AboutServer) -> Router {
        let finished = self.store.as_ref().map(|store| journey_routes(store.reader(), clock, anchor));
        let live = self.live.as_ref().filter(|_| self.is_live).map(LiveServer::routes);
        let about = self.has_something_to_show().then(|| about_routes(about));
        [finished, live, about].into_iter().flatten().fold(Router::default(), Router::merge)
    }

    /// The page that shows them, for those without a key as well.
    pub(crate) fn page_routes(&self) -> Router {
        if self.has_something_to_show() { page_routes() } else { Router::default() }
    }

    fn has_something_to_show(&self) -> bool {
        self.store.is_some() || self.is_live
    }

    /// Ends the streams of events, whose readers would stay for ever.
    pub(crate) fn end_events(&self) {
        if let Some(live) = &self.live {
            live.end_events();
        }
    }

    /// What tracing says about itself at `/metrics`.
    pub(crate) fn metrics(&self) -> TelemetryMetrics {
        TelemetryMetrics::new(self.tracer.clone(), self.exporter.as_ref().map(Exporter::counters))
    }

    /// Sends what is left and says what became of it. When all requests have ended and the engine has.
    pub(crate) fn stop(self, clock: &dyn Clock, flush_time: Duration) {
        if let Some(recorder) = self.tracer.as_ref().and_then(Tracer::recorder) {
            recorder.end(clock.now());
        }
        let Some(exporter) = self.exporter else { return };
        let report = exporter.shutdown(flush_time);
        if report.is_complete() {
            info!("journeys: {report}");
        } else {
            warn!("journeys: {report}");
        }
    }
}
