//! What tracing costs a request: nothing when it is off, one decision when the request is sampled out, and the
//! making of its journey when it is recorded. Prints the best of several rounds, which is the figure that
//! other work on the machine has disturbed least.
#![allow(clippy::print_stdout, reason = "a bench reports to whoever runs it")]
#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use wayfare_journey::{
    Clock as _, CoreEvent, CoreEventKind, FinishStatus, FinishedJourney, FlightRecorder, HeadSampler,
    IncomingHeaders, JourneyHandle, JourneySink, KeepRules, LiveTracing, MonoNs, Phase, Progress,
    RequestLabel, SamplingPolicy, ScheduleKind, SystemClock, TraceSampler, Tracer, WallAnchor,
};

const ROUNDS: u32 = 30;
const PER_ROUND: u32 = 20_000;

#[derive(Debug)]
struct Forget;

impl JourneySink for Forget {
    fn accept(&self, journey: FinishedJourney) {
        drop(black_box(journey));
    }
}

fn tracer(policy: impl Into<SamplingPolicy>) -> Tracer {
    Tracer::new(Arc::new(SystemClock), policy, Arc::new(Forget))
}

/// With a live view, and with a flight recorder over plain memory when it is to have one.
fn live_tracer(sample_rate: f64, has_recorder: bool) -> Tracer {
    let recorder = has_recorder.then(|| {
        let memory = (0..FlightRecorder::bytes(64) / 8).map(|_| AtomicU64::new(0)).collect();
        FlightRecorder::begin(Box::leak(memory), 1, MonoNs(1), WallAnchor::new(MonoNs(1), 1)).unwrap()
    });
    let live = LiveTracing { ends: Some(Arc::new(Forget)), recorder };
    Tracer::with_live_view(Arc::new(SystemClock), rate(sample_rate), Arc::new(Forget), live)
}

fn rate(rate: f64) -> HeadSampler {
    HeadSampler::new(rate).unwrap()
}

/// Nanoseconds per call.
fn measure(mut work: impl FnMut()) -> f64 {
    let round = |work: &mut dyn FnMut()| {
        let start = SystemClock.now();
        (0..PER_ROUND).for_each(|_| work());
        SystemClock.now().since(start) as f64 / f64::from(PER_ROUND)
    };
    (0..ROUNDS).map(|_| round(&mut work)).fold(f64::INFINITY, f64::min)
}

fn report(what: &str, ns: f64, target_ns: f64) {
    let verdict = if ns <= target_ns { "" } else { "   above the target" };
    println!("{what:<58} {ns:>8.1} ns   target {target_ns:>6.0} ns{verdict}");
}

fn event(kind: CoreEventKind, at: u64) -> CoreEvent {
    CoreEvent {
        kind,
        at: MonoNs(at),
        step: 7,
        phase: Phase::Prefill,
        progress: Progress { prefill_done: 100, decode_done: 1 },
        num_preemptions: 1,
    }
}

/// Six core events, every report of the API side, both guards.
fn whole_request(tracer: &Tracer, label: &RequestLabel, traceparent: &str) {
    let incoming = IncomingHeaders { traceparent: Some(traceparent), tracestate: &[] };
    let Some(mut span) = tracer.admit(incoming, "/v1/completions", MonoNs(1)).span else { return };
    let journey = span.handle();
    journey.identified(label);
    journey.body_complete(MonoNs(2));
    let mut core = journey.open_cores(&[(100, 10)], MonoNs(3)).pop().unwrap();
    journey.handed_to_core(MonoNs(4));
    let scheduled =
        |kind| CoreEventKind::Scheduled { kind, cached_tokens: 0, scheduled_tokens: 100, wait: None };
    core.record(event(CoreEventKind::Queued, 5));
    core.record(event(scheduled(ScheduleKind::First), 6));
    core.record(event(CoreEventKind::FirstToken, 7));
    core.record(event(CoreEventKind::Preempted { by: None, tokens_lost: 9, blocks_freed: 1 }, 8));
    core.record(event(scheduled(ScheduleKind::Resume), 9));
    journey.received_from_core(MonoNs(10));
    core.finish(event(CoreEventKind::Finished { status: FinishStatus::Stopped }, 11));
    journey.departed(MonoNs(12));
    span.respond(200);
    span.complete(MonoNs(13));
}

fn main() {
    let label = RequestLabel::new("cmpl-0123456789abcdef0123456789abcdef");
    let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    let off: Option<Tracer> = None;
    let off = measure(|| {
        let journey = match black_box(&off) {
            Some(tracer) => {
                let span = tracer.admit(IncomingHeaders::default(), "/", MonoNs(1)).span;
                span.map_or_else(JourneyHandle::off, |span| span.handle())
            }
            None => JourneyHandle::off(),
        };
        journey.body_complete(MonoNs(2));
        journey.handed_to_core(MonoNs(3));
        journey.received_from_core(MonoNs(4));
        journey.departed(MonoNs(5));
        black_box(&journey);
    });
    report("off: the branches of a whole request", off, 10.0);

    let none = tracer(rate(0.0));
    let sampled_out = measure(|| {
        let incoming = IncomingHeaders { traceparent: Some(black_box(traceparent)), tracestate: &[] };
        black_box(none.admit(incoming, "/v1/completions", MonoNs(1)));
    });
    report("sampled out: a caller's context", sampled_out, 50.0);
    let sampled_out = measure(|| {
        black_box(none.admit(black_box(IncomingHeaders::default()), "/v1/completions", MonoNs(1)));
    });
    report("sampled out: a new trace", sampled_out, 50.0);

    let all = tracer(rate(1.0));
    report("recorded: six events", measure(|| whole_request(&all, &label, traceparent)), 1000.0);

    let keep: KeepRules = "slow>2s,ttft>500ms,error,preempted".parse().unwrap();
    let by_rule = tracer(SamplingPolicy::new(0.0, TraceSampler::default(), keep).unwrap());
    report("recorded, kept by a tail rule", measure(|| whole_request(&by_rule, &label, traceparent)), 1000.0);
    let keep: KeepRules = "slow>2s,ttft>500ms,error,aborted".parse().unwrap();
    let discarded = tracer(SamplingPolicy::new(0.0, TraceSampler::default(), keep).unwrap());
    report("recorded, discarded", measure(|| whole_request(&discarded, &label, traceparent)), 1000.0);

    let only_shown = live_tracer(0.0, false);
    report(
        "sampled out, shown while it runs",
        measure(|| whole_request(&only_shown, &label, traceparent)),
        1000.0,
    );
    let shown = live_tracer(1.0, false);
    report("recorded, shown while it runs", measure(|| whole_request(&shown, &label, traceparent)), 1000.0);
    let in_recorder = live_tracer(1.0, true);
    report(
        "recorded, in the flight recorder",
        measure(|| whole_request(&in_recorder, &label, traceparent)),
        2000.0,
    );
}
