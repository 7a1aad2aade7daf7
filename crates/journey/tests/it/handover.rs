//! When a journey is complete, and what it holds then.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use parking_lot::Mutex;
use proptest::prelude::*;
use wayfare_journey::{
    CoreEventKind, FanOut, FinishStatus, FinishedJourney, HeadSampler, IncomingHeaders, JourneySink, MonoNs,
    RequestLabel, ScheduleKind, TraceContext, Tracer,
};

use crate::rig::{Rig, TestClock, event, finished, kinds};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[test]
fn the_last_part_out_hands_the_journey_over_in_whatever_order() {
    for api_first in [true, false] {
        let rig = Rig::new(1.0);
        let span = rig.admit();
        let core = span.handle().open_cores(&[(7, 9)], MonoNs(20)).pop().unwrap();
        if api_first {
            span.complete(MonoNs(30));
            assert!(rig.journeys().is_empty());
            assert_eq!(rig.tracer.counters().in_flight(), 1);
            core.finish(finished(40));
        } else {
            core.finish(finished(25));
            assert!(rig.journeys().is_empty());
            span.complete(MonoNs(30));
        }
        assert_eq!(rig.journey().cores().count(), 1);
        assert_eq!(rig.tracer.counters().in_flight(), 0);
    }
}

#[test]
fn reports_are_kept_once_and_in_place() {
    let rig = Rig::new(1.0);
    let span = rig.admit();
    let handle = span.handle();
    handle.identified(&RequestLabel::new("chatcmpl-1"));
    handle.identified(&RequestLabel::new("chatcmpl-2"));
    handle.body_complete(MonoNs(11));
    let cores = handle.open_cores(&[(7, 9), (5, 9)], MonoNs(12));
    handle.handed_to_core(MonoNs(13));
    handle.received_from_core(MonoNs(14));
    handle.received_from_core(MonoNs(15));
    assert!(handle.open_cores(&[(1, 1)], MonoNs(16)).is_empty(), "core spans are opened once");
    drop(cores);
    span.complete(MonoNs(20));
    let journey = rig.journey();
    let cell = journey.cell();
    assert_eq!(cell.label().unwrap().as_str(), "chatcmpl-1");
    assert_eq!(cell.body_complete(), Some(MonoNs(11)));
    assert_eq!(cell.handoff(), Some((MonoNs(13), 12)));
    assert_eq!(cell.first_response(), Some(MonoNs(14)));
    let totals: Vec<_> = journey.cores().map(|(index, core)| (index, core.prefill_total)).collect();
    assert_eq!(totals, [(0, 7), (1, 5)]);
}

#[test]
fn a_withdrawn_core_span_is_no_part_of_the_journey() {
    let rig = Rig::new(1.0);
    let span = rig.admit();
    span.handle().open_cores(&[(7, 9)], MonoNs(20)).pop().unwrap().withdraw();
    span.complete(MonoNs(30));
    assert_eq!(rig.journey().cores().count(), 0);
}

#[test]
fn a_core_span_that_is_lost_ends_aborted_and_keeps_the_rules() {
    let rig = Rig::new(1.0);
    let span = rig.admit();
    let mut cores = span.handle().open_cores(&[(7, 9), (7, 9)], MonoNs(20));
    let scheduled = CoreEventKind::Scheduled {
        kind: ScheduleKind::First,
        cached_tokens: 0,
        scheduled_tokens: 7,
        wait: None,
    };
    cores[1].record(event(CoreEventKind::Queued, 21));
    cores[1].record(event(scheduled.clone(), 22));
    rig.clock.set(15); // behind the last event: the end may not lie before it
    drop(cores);
    span.complete(MonoNs(30));
    let aborted = CoreEventKind::Finished { status: FinishStatus::Aborted };
    assert_eq!(
        kinds(&rig.journey()),
        [vec![CoreEventKind::Queued, aborted.clone()], vec![CoreEventKind::Queued, scheduled, aborted]]
    );
    let journey = rig.journey();
    let (_, second) = journey.cores().nth(1).unwrap();
    assert_eq!((second.started(), second.ended()), (MonoNs(21), MonoNs(22)));
}

#[test]
fn a_caller_that_does_not_sample_is_not_recorded_and_is_told_so() {
    let rig = Rig::new(1.0);
    let header = format!("00-{TRACE}-00f067aa0ba902b7-00");
    let incoming = IncomingHeaders { traceparent: Some(&header), tracestate: &["a=1"] };
    let admission = rig.tracer.admit(incoming, "/", MonoNs(1));
    assert!(admission.span.is_none());
    assert!(admission.traceresponse.starts_with(&format!("00-{TRACE}-")));
    assert!(admission.traceresponse.ends_with("-00"));
    assert_eq!(rig.tracer.counters().sampled_out(), 1);
    assert_eq!(rig.tracer.counters().recorded(), 0);
}

#[test]
fn a_traced_request_continues_the_callers_trace() {
    let rig = Rig::new(1.0);
    let header = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let incoming = IncomingHeaders { traceparent: Some(&header), tracestate: &["a=1", "b=2"] };
    let admission = rig.tracer.admit(incoming, "/", MonoNs(1));
    let span = admission.span.unwrap();
    let TraceContext { trace_id, parent, state, .. } = span.context();
    assert_eq!(trace_id.to_string(), TRACE);
    assert_eq!(parent.unwrap().to_string(), "00f067aa0ba902b7");
    assert_eq!(state.as_deref(), Some("a=1,b=2"));
    assert_eq!(admission.traceresponse, format!("00-{TRACE}-{}-01", span.span_id()));
}

#[test]
fn parts_that_end_on_many_threads_make_one_journey() {
    for _ in 0..200 {
        let rig = Rig::new(1.0);
        let span = rig.admit();
        let cores = span.handle().open_cores(&[(1, 1); 8], MonoNs(20));
        std::thread::scope(|scope| {
            for core in cores {
                scope.spawn(move || core.finish(finished(30)));
            }
            scope.spawn(move || span.complete(MonoNs(30)));
        });
        assert_eq!(rig.journey().cores().count(), 8);
    }
}

proptest! {
    /// Both halves or none, once, for any mix of ends.
    #[test]
    fn every_recorded_request_is_handed_over_exactly_once(
        ends in prop::collection::vec((0_u8..3, prop::collection::vec(0_u8..3, 0..4)), 1..40),
        rate in 0.0_f64..=1.0,
    ) {
        let rig = Rig::new(rate);
        for (api_end, core_ends) in &ends {
            let admission = rig.tracer.admit(IncomingHeaders::default(), "/", MonoNs(1));
            let Some(span) = admission.span else { continue };
            let totals = vec![(1, 1); core_ends.len()];
            for (core, end) in span.handle().open_cores(&totals, MonoNs(2)).into_iter().zip(core_ends) {
                match end {
                    0 => core.finish(finished(3)),
                    1 => drop(core),
                    _ => core.withdraw(),
                }
            }
            match api_end {
                0 => span.complete(MonoNs(4)),
                1 => drop(span),
                _ => span.handle().departed(MonoNs(4)),
            }
        }
        let counters = rig.tracer.counters();
        prop_assert_eq!(counters.recorded() + counters.sampled_out(), ends.len() as u64);
        prop_assert_eq!(rig.journeys().len() as u64, counters.recorded());
        prop_assert_eq!(counters.in_flight(), 0);
    }
}

/// Takes journeys, and panics over those of the route `/panic` once it has noted them.
#[derive(Debug, Default)]
struct Fragile(Mutex<Vec<String>>);

impl JourneySink for Fragile {
    fn accept(&self, journey: FinishedJourney) {
        let route = journey.cell().route().to_owned();
        let is_fatal = route == "/panic";
        self.0.lock().push(route);
        assert!(!is_fatal, "no such journey");
    }
}

#[test]
fn a_sink_that_panics_harms_neither_the_thread_nor_the_other_sinks() {
    let (first, second) = (Arc::new(Fragile::default()), Arc::new(Fragile::default()));
    let sinks: [Arc<dyn JourneySink>; 2] = [first.clone(), second.clone()];
    let everything = HeadSampler::new(1.0).unwrap();
    let tracer = Tracer::new(Arc::new(TestClock::default()), everything, Arc::new(FanOut::new(sinks)));
    let admit = |route| tracer.admit(IncomingHeaders::default(), route, MonoNs(10)).span.unwrap();

    admit("/panic").complete(MonoNs(20));
    // The engine's thread ends it.
    let span = admit("/panic");
    let core = span.handle().open_cores(&[(7, 9)], MonoNs(20)).pop().unwrap();
    span.complete(MonoNs(30));
    core.finish(finished(40));
    // It ends because its thread unwinds.
    let span = admit("/panic");
    let unwound = catch_unwind(AssertUnwindSafe(move || {
        let _span = span;
        panic!("the handler's own");
    }));
    assert_eq!(unwound.unwrap_err().downcast_ref::<&str>(), Some(&"the handler's own"));
    admit("/fine").complete(MonoNs(50));

    for sink in [first, second] {
        assert_eq!(*sink.0.lock(), ["/panic", "/panic", "/panic", "/fine"]);
    }
    let counters = tracer.counters();
    assert_eq!((counters.sink_panics(), counters.in_flight(), counters.kept_by_head()), (3, 0, 4));
    assert_eq!(tracer.in_flight().count(), 0);
}
