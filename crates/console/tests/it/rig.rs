//! A tracer over a store, requests to fill it, and ways to ask.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;
use wayfare_console::{RecentJourneys, StoreLimits, journey_routes};
use wayfare_journey::{
    AbortReason, CoreEvent, CoreEventKind, FinishStatus, HeadSampler, IncomingHeaders, MonoNs, Phase,
    Progress, RequestAttributes, RequestLabel, ScheduleKind, Tracer, WallAnchor,
};
use wayfare_testkit::VirtualClock;

pub(crate) const MS: u64 = 1_000_000;
/// The wall clock reads this many nanoseconds more than the monotonic one.
pub(crate) const WALL_OFFSET_NS: u64 = 1_700_000_000_000_000_000;
pub(crate) const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

pub(crate) struct Rig {
    pub(crate) store: RecentJourneys,
    pub(crate) tracer: Tracer,
    pub(crate) clock: VirtualClock,
}

/// One request to be recorded.
#[derive(Clone, Copy)]
pub(crate) struct Made {
    pub(crate) label: &'static str,
    pub(crate) arrived_ms: u64,
    pub(crate) duration_ms: u64,
    pub(crate) failure: Option<AbortReason>,
    pub(crate) preemptions: u32,
    pub(crate) traceparent: Option<&'static str>,
}

impl Default for Made {
    fn default() -> Self {
        Self {
            label: "chatcmpl-1",
            arrived_ms: 100,
            duration_ms: 50,
            failure: None,
            preemptions: 0,
            traceparent: None,
        }
    }
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with_limits(StoreLimits::default())
    }

    pub(crate) fn with_limits(limits: StoreLimits) -> Self {
        let store = RecentJourneys::start(limits).unwrap();
        let clock = VirtualClock::at(MonoNs(0));
        let all = HeadSampler::new(1.0).unwrap();
        let tracer = Tracer::new(Arc::new(clock.clone()), all, store.sink());
        Self { store, tracer, clock }
    }

    pub(crate) fn routes(&self) -> Router {
        let anchor = WallAnchor::new(MonoNs(0), WALL_OFFSET_NS);
        journey_routes(self.store.reader(), Arc::new(self.clock.clone()), anchor)
    }

    pub(crate) async fn get(&self, path: &str) -> (StatusCode, Value) {
        ask(self.routes(), Request::get(path).body(Body::empty()).unwrap()).await
    }

    /// The response ids of the journeys that are shown, in their order.
    pub(crate) async fn ids(&self, path: &str) -> Vec<String> {
        let (status, body) = self.get(path).await;
        assert_eq!(status, 200, "{path}: {body}");
        let journeys = body["journeys"].as_array().unwrap();
        journeys.iter().map(|one| one["request_id"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn make(&self, made: Made) {
        let start = made.arrived_ms * MS;
        let at = |ms: u64| MonoNs(start + ms * MS);
        let incoming = IncomingHeaders { traceparent: made.traceparent, tracestate: &[] };
        let mut span = self.tracer.admit(incoming, "/v1/chat/completions", at(0)).span.unwrap();
        let journey = span.handle();
        journey.identified(&RequestLabel::new(made.label));
        journey.described(|| RequestAttributes {
            operation: "chat",
            request_model: "tiny".into(),
            temperature: 0.7,
            max_tokens: 5,
            n: 1,
            ..RequestAttributes::default()
        });
        let mut core = journey.open_cores(&[(10, 5)], at(1)).pop().unwrap();
        journey.handed_to_core(at(1));
        let event = |kind, ms, num_preemptions| CoreEvent {
            kind,
            at: at(ms),
            step: ms,
            phase: Phase::Prefill,
            progress: Progress { prefill_done: 10, decode_done: 0 },
            num_preemptions,
        };
        let scheduled =
            |kind| CoreEventKind::Scheduled { kind, cached_tokens: 0, scheduled_tokens: 10, wait: None };
        core.record(event(CoreEventKind::Queued, 2, 0));
        core.record(event(scheduled(ScheduleKind::First), 3, 0));
        for number in 1..=made.preemptions {
            let preempted = CoreEventKind::Preempted { by: None, tokens_lost: 10, blocks_freed: 1 };
            core.record(event(preempted, 4, number));
            core.record(event(scheduled(ScheduleKind::Resume), 5, number));
        }
        core.record(event(CoreEventKind::FirstToken, 6, made.preemptions));
        let finished = CoreEventKind::Finished { status: FinishStatus::Stopped };
        core.finish(event(finished, 7, made.preemptions));
        journey.received_from_core(at(6));
        if let Some(reason) = made.failure {
            journey.failed(reason, "a_type", "what happened");
        }
        span.respond(200);
        span.complete(at(made.duration_ms));
    }
}

pub(crate) async fn ask(router: Router, request: Request<Body>) -> (StatusCode, Value) {
    let response = router.oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    (head.status, serde_json::from_slice(&bytes).unwrap())
}
