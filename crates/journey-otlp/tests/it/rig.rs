//! A tracer whose journeys go to an exporter under test.

use std::sync::Arc;
use std::time::Duration;

use wayfare_journey::{
    CoreEvent, CoreEventKind, FinishStatus, HeadSampler, IncomingHeaders, MonoNs, Phase, Progress,
    RequestLabel, ScheduleKind, Tracer, WallAnchor,
};
use wayfare_journey_otlp::{
    Collector, Destination, DropCause, EngineDescription, Exporter, ExporterConfig, ExporterOptions,
    Resource, RetryPolicy,
};
use wayfare_testkit::VirtualClock;

/// Longer than anything takes, so that a hang is a failure.
pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) struct Rig {
    pub(crate) tracer: Tracer,
    pub(crate) exporter: Exporter,
}

impl Rig {
    pub(crate) fn start(config: ExporterConfig) -> Self {
        let exporter =
            Exporter::start(config, WallAnchor::new(MonoNs(0), 1_700_000_000_000_000_000)).unwrap();
        let everything = HeadSampler::new(1.0).unwrap();
        let tracer = Tracer::new(Arc::new(VirtualClock::at(MonoNs(50))), everything, exporter.sink());
        Self { tracer, exporter }
    }

    /// A finished request with that id and one sequence: two spans.
    pub(crate) fn request(&self, id: &str) {
        self.preempted_request(id, 0);
    }

    /// The same, preempted so many times on the way.
    pub(crate) fn preempted_request(&self, id: &str, preemptions: u32) {
        let mut span =
            self.tracer.admit(IncomingHeaders::default(), "/v1/completions", MonoNs(10)).span.unwrap();
        span.handle().identified(&RequestLabel::new(id));
        for mut core in span.handle().open_cores(&[(3, 4)], MonoNs(11)) {
            let event = |kind, at| CoreEvent {
                kind,
                at: MonoNs(at),
                step: 1,
                phase: Phase::Waiting,
                progress: Progress::default(),
                num_preemptions: 0,
            };
            core.record(event(CoreEventKind::Queued, 12));
            for count in 1..=preemptions {
                let by = Some(RequestLabel::new("cmpl-somebody-who-needed-the-blocks"));
                let preempted = CoreEventKind::Preempted { by, tokens_lost: 1000, blocks_freed: 63 };
                let resumed = CoreEventKind::Scheduled {
                    kind: ScheduleKind::Resume,
                    cached_tokens: 0,
                    scheduled_tokens: 1000,
                    wait: None,
                };
                core.record(CoreEvent { num_preemptions: count, ..event(preempted, 13) });
                core.record(CoreEvent { num_preemptions: count, ..event(resumed, 14) });
            }
            core.finish(event(CoreEventKind::Finished { status: FinishStatus::Stopped }, 20));
        }
        span.respond(200);
        span.complete(MonoNs(30));
    }

    pub(crate) fn exported(&self, destination: usize) -> u64 {
        self.exporter.counters().destinations()[destination].exported()
    }

    pub(crate) fn dropped(&self, destination: usize, cause: DropCause) -> u64 {
        self.exporter.counters().destinations()[destination].dropped(cause)
    }
}

/// A configuration whose waits suit a test.
pub(crate) fn config(destinations: Vec<Destination>) -> ExporterConfig {
    let resource = Resource::of_this_process("0.0", EngineDescription::default());
    let mut config = ExporterConfig::new(destinations, resource);
    config.schedule_delay = Duration::from_millis(5);
    config.retry = RetryPolicy {
        first_backoff: Duration::from_millis(5),
        max_backoff: Duration::from_millis(1500),
        give_up_after: LONG,
    };
    config
}

/// The destination that a user names by flag and environment.
pub(crate) fn collector(endpoint: &str, protocol: &str) -> Destination {
    collector_with(endpoint, protocol, &[])
}

/// The same with further variables.
pub(crate) fn collector_with(endpoint: &str, protocol: &str, variables: &[(&str, &str)]) -> Destination {
    let headers = "x-tenant=a%20b";
    let usual = [("OTEL_EXPORTER_OTLP_PROTOCOL", protocol), ("OTEL_EXPORTER_OTLP_HEADERS", headers)];
    let variables = [&usual, variables].concat();
    let options = ExporterOptions { traces_endpoint: Some(endpoint), ..Default::default() };
    let resource = Resource::of_this_process("0.0", EngineDescription::default());
    let lookup =
        |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_string());
    ExporterConfig::resolve(&options, resource, lookup).unwrap().destinations.remove(0)
}

/// The same collector with another time limit.
pub(crate) fn with_timeout(destination: Destination, limit: Duration) -> Destination {
    match destination {
        Destination::Collector(collector) => {
            Destination::Collector(Collector { timeout: limit, ..collector })
        }
        file @ Destination::File { .. } => file,
    }
}
