//! Which journeys are kept, by head and by tail, and how that changes while the tracer runs.

use std::collections::HashSet;

use wayfare_journey::{
    AbortReason, ApiSpan, CoreEventKind, FinishStatus, HeadSampler, IncomingHeaders, KeepRuleKind, MonoNs,
    SamplingPolicy, ScheduleKind, TraceSampler,
};

use crate::rig::{Rig, event, finished, preempted};

const MS: u64 = 1_000_000;

fn policy(rate: f64, keep: &str) -> SamplingPolicy {
    SamplingPolicy::new(rate, TraceSampler::default(), keep.parse().unwrap()).unwrap()
}

/// Runs one request and says whether its journey was kept, which must be with all of its parts or not at all.
fn is_kept(keep: &str, request: impl FnOnce(ApiSpan)) -> bool {
    let rig = Rig::with_policy(policy(0.0, keep));
    request(rig.admit());
    let counters = rig.tracer.counters();
    assert_eq!((counters.recorded(), counters.in_flight(), counters.sampled_out()), (1, 0, 0));
    let by_rule: u64 = KeepRuleKind::ALL.iter().map(|kind| counters.kept_by_rule(*kind)).sum();
    let kept = rig.journeys().len() as u64;
    assert_eq!((by_rule, counters.discarded(), counters.kept_by_head()), (kept, 1 - kept, 0));
    kept == 1
}

/// A request whose sequence is queued for 100 ms, gives its first token 200 ms after the arrival and ends
/// after a second.
fn plain(span: ApiSpan) {
    let mut core = span.handle().open_cores(&[(1, 1)], MonoNs(10)).pop().unwrap();
    span.handle().handed_to_core(MonoNs(10));
    let scheduled = CoreEventKind::Scheduled {
        kind: ScheduleKind::First,
        cached_tokens: 0,
        scheduled_tokens: 1,
        wait: None,
    };
    core.record(event(CoreEventKind::Queued, 10));
    core.record(event(scheduled, 10 + 100 * MS));
    core.record(event(CoreEventKind::FirstToken, 10 + 200 * MS));
    core.finish(finished(10 + 900 * MS));
    span.complete(MonoNs(10 + 1000 * MS));
}

#[test]
fn limits_of_time_are_exceeded_or_not() {
    for (keep, expected) in [
        ("slow>999ms", true),
        ("slow>1s", false),
        ("ttft>199ms", true),
        ("ttft>200ms", false),
        ("queue>99ms", true),
        ("queue>100ms", false),
        ("error,aborted,preempted", false),
        ("slow>1h,queue>50ms", true),
        ("rate=0", false),
        ("rate=1", true),
    ] {
        assert_eq!(is_kept(keep, plain), expected, "{keep}");
    }
}

#[test]
fn a_request_that_never_got_a_token_waited_to_its_end() {
    let never_scheduled = |span: ApiSpan| {
        let mut core = span.handle().open_cores(&[(1, 1)], MonoNs(10)).pop().unwrap();
        span.handle().handed_to_core(MonoNs(10));
        core.record(event(CoreEventKind::Queued, 10));
        core.finish(finished(10 + 300 * MS));
        span.complete(MonoNs(10 + 500 * MS));
    };
    assert!(is_kept("ttft>499ms", never_scheduled));
    assert!(!is_kept("ttft>500ms", never_scheduled));
    assert!(is_kept("queue>299ms", never_scheduled));
    assert!(!is_kept("queue>300ms", never_scheduled));
    // One that never was in the engine did not wait for a token.
    assert!(!is_kept("ttft>1ms", |span| span.complete(MonoNs(10 + 500 * MS))));
}

#[test]
fn errors_aborts_and_preemptions_are_told_apart() {
    let failed = |reason| {
        move |mut span: ApiSpan| {
            span.respond(200);
            span.handle().failed(reason, "x", "x");
            span.complete(MonoNs(20));
        }
    };
    let ended = |status| {
        move |span: ApiSpan| {
            let core = span.handle().open_cores(&[(1, 1)], MonoNs(11)).pop().unwrap();
            core.finish(event(CoreEventKind::Finished { status }, 12));
            span.complete(MonoNs(20));
        }
    };
    let status = |status| {
        move |mut span: ApiSpan| {
            span.respond(status);
            span.complete(MonoNs(20));
        }
    };
    let matching =
        |request: &dyn Fn(ApiSpan)| ["error", "aborted", "preempted"].map(|keep| is_kept(keep, request));
    assert_eq!(matching(&failed(AbortReason::ClientDisconnect)), [false, true, false]);
    for reason in [AbortReason::Timeout, AbortReason::EngineDead, AbortReason::Shutdown] {
        assert_eq!(matching(&failed(reason)), [true, true, false]);
    }
    assert_eq!(matching(&status(404)), [true, true, false]);
    assert_eq!(matching(&status(200)), [false, false, false]);
    assert_eq!(matching(&ended(FinishStatus::Error)), [true, false, false]);
    assert_eq!(matching(&ended(FinishStatus::Aborted)), [false, true, false]);
    let preempted_once = |span: ApiSpan| {
        let mut core = span.handle().open_cores(&[(1, 1)], MonoNs(11)).pop().unwrap();
        core.record(event(CoreEventKind::Queued, 11));
        core.record(preempted(12, 1));
        drop(core);
        span.complete(MonoNs(20));
    };
    assert_eq!(matching(&preempted_once), [false, true, true]);
}

#[test]
fn a_caller_that_does_not_sample_is_told_so_even_when_a_rule_keeps_the_journey() {
    let rig = Rig::with_policy(policy(1.0, "slow>1ns"));
    let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    let incoming = IncomingHeaders { traceparent: Some(header), tracestate: &[] };
    let admission = rig.tracer.admit(incoming, "/", MonoNs(10));
    assert!(admission.traceresponse.ends_with("-00"));
    admission.span.unwrap().complete(MonoNs(20));
    assert!(!rig.journey().cell().head_sampled());
    assert_eq!(rig.tracer.counters().kept_by_rule(KeepRuleKind::Slow), 1);
    assert_eq!(rig.tracer.counters().kept_by_head(), 0);
}

#[test]
fn the_first_rule_that_matches_is_counted_and_the_head_goes_first() {
    let rig = Rig::with_policy(policy(0.0, "preempted,slow>1ns,rate=1"));
    rig.admit().complete(MonoNs(20));
    assert_eq!(rig.tracer.counters().kept_by_rule(KeepRuleKind::Slow), 1);
    assert_eq!(rig.tracer.counters().kept_by_rule(KeepRuleKind::Rate), 0);
    rig.tracer.set_policy(policy(1.0, "slow>1ns"));
    rig.admit().complete(MonoNs(20));
    assert_eq!(rig.tracer.counters().kept_by_head(), 1);
    assert_eq!(rig.tracer.counters().kept_by_rule(KeepRuleKind::Slow), 1);
}

#[test]
fn the_policy_changes_while_requests_are_in_flight() {
    let rig = Rig::with_policy(policy(0.0, "slow>1ns"));
    let (early, late) = (rig.admit(), rig.admit());
    early.complete(MonoNs(20));
    assert_eq!(rig.journeys().len(), 1);
    rig.tracer.set_policy(policy(0.0, ""));
    late.complete(MonoNs(20));
    assert_eq!(rig.journeys().len(), 1, "without rules a journey that only they wanted is not kept");
    assert!(rig.tracer.admit(IncomingHeaders::default(), "/", MonoNs(1)).span.is_none());
    rig.tracer.set_policy(policy(1.0, ""));
    let head = rig.admit();
    rig.tracer.set_policy(policy(0.0, ""));
    head.complete(MonoNs(20));
    assert_eq!(rig.journeys().len(), 2, "what the head has promised is kept");
    assert_eq!(*rig.tracer.policy(), policy(0.0, ""));
}

#[test]
fn the_policy_changes_while_other_threads_decide() {
    let rig = Rig::with_policy(policy(0.0, ""));
    let requests = 4_000;
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                for _ in 0..requests {
                    if let Some(span) = rig.tracer.admit(IncomingHeaders::default(), "/", MonoNs(1)).span {
                        drop(span.handle().open_cores(&[(1, 1)], MonoNs(2)));
                        span.complete(MonoNs(3));
                    }
                }
            });
        }
        for round in 0..400 {
            let keep = if round % 3 == 0 { "" } else { "slow>1ns" };
            rig.tracer.set_policy(policy(f64::from(round % 2), keep));
        }
    });
    let counters = rig.tracer.counters();
    assert_eq!(counters.recorded() + counters.sampled_out(), 3 * requests);
    let kept = counters.kept_by_head() + counters.kept_by_rule(KeepRuleKind::Slow);
    assert_eq!((kept, kept + counters.discarded()), (rig.journeys().len() as u64, counters.recorded()));
    assert!(rig.journeys().iter().all(|journey| journey.cores().count() == 1));
    assert_eq!(rig.tracer.in_flight().count(), 0);
}

#[test]
fn the_same_trace_ids_are_kept_every_time() {
    let ids: Vec<String> = (0..10_000_u128)
        .map(|n| format!("{:032x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835) | 1))
        .collect();
    let kept = |rate| {
        let rig = Rig::new(rate);
        for id in &ids {
            let header = format!("00-{id}-00f067aa0ba902b7-01");
            let incoming = IncomingHeaders { traceparent: Some(&header), tracestate: &[] };
            if let Some(span) = rig.tracer.admit(incoming, "/", MonoNs(1)).span {
                drop(span.handle().open_cores(&[(1, 1)], MonoNs(2)));
                drop(span);
            }
        }
        rig.journeys().iter().map(|one| one.cell().context().trace_id).collect::<HashSet<_>>()
    };
    let tenth = kept(0.1);
    assert_eq!(tenth, kept(0.1));
    assert!((820..1180).contains(&tenth.len()), "{} of 10000", tenth.len());
    assert!(tenth.is_subset(&kept(0.5)));
    // `rate=R` as a tail rule keeps what a head of that rate would.
    let rate = HeadSampler::new(0.1).unwrap();
    assert!(tenth.iter().all(|id| rate.keeps(*id)));
}
