use std::collections::{BTreeMap, BTreeSet};

use expect_test::{Expect, expect};
use smallvec::smallvec;
use wayfare_journey::schema::{
    Attribute, SPAN_CORE, ValueType, api_event, api_event_attribute, core_event, core_event_attribute,
    resource_attribute, span_attribute, step_event_attribute, step_span_attribute,
};
use wayfare_journey::{
    AbortReason, ApiSpan, ClockSource, CoreEvent, CoreEventKind, CoreLedger, CoreSpan, FinishStatus,
    IncomingHeaders, LedgerMeter, MAX_CORE_EVENTS, MonoNs, Phase, Progress, RequestAttributes, RequestLabel,
    RequestSnapshot, ScheduleKind, SpanId, StepSpan, StepSummary, StepTimes, StepWork, TraceId, Tracer,
    Usage, Wait, WaitReason, WaitTimes, WallAnchor,
};
use wayfare_testkit::{AttributeValue, JourneyStore, SpanView, VirtualClock, flatten_spans};

use super::{Converter, SpanLimits};
use crate::batch::Batcher;
use crate::{EngineDescription, Resource};

const MS: u64 = 1_000_000;
/// The wall clock reads this many nanoseconds more than the monotonic one.
const WALL_OFFSET_NS: u64 = 1_700_000_000_000_000_000;

struct Rig {
    store: JourneyStore,
    tracer: Tracer,
}

impl Rig {
    fn new() -> Self {
        let store = JourneyStore::default();
        let tracer = store.tracer(VirtualClock::at(ms(1000)));
        Self { store, tracer }
    }

    fn arrive(&self, incoming: IncomingHeaders<'_>) -> ApiSpan {
        self.tracer.admit(incoming, "/v1/chat/completions", ms(100)).span.unwrap()
    }

    /// The spans of all journeys so far, as they would be sent.
    fn spans(&self) -> Vec<SpanView> {
        let converter =
            Converter::new(&resource(), WallAnchor::new(MonoNs(0), WALL_OFFSET_NS), SpanLimits::default());
        let mut batcher = Batcher::new(512);
        for journey in self.store.take() {
            batcher.add(&journey, |_| panic!("the batch is large enough"));
        }
        flatten_spans(&converter.message(&batcher.finish().unwrap()))
    }
}

fn ms(milliseconds: u64) -> MonoNs {
    MonoNs(milliseconds * MS)
}

fn resource() -> Resource {
    Resource {
        service_name: "wayfare".into(),
        service_version: "1.2.3".into(),
        service_instance_id: "an-instance".into(),
        host_name: "a-host".into(),
        process_pid: 42,
        engine: EngineDescription {
            model: "a-model".into(),
            engine: "cpu".into(),
            max_num_seqs: 8,
            max_num_batched_tokens: 256,
            block_size: 16,
            num_kv_blocks: 66,
        },
        extra: Vec::new(),
    }
}

fn event(
    kind: CoreEventKind,
    at: u64,
    step: u64,
    phase: Phase,
    done: (u32, u32),
    preempted: u32,
) -> CoreEvent {
    CoreEvent {
        kind,
        at: ms(at),
        step,
        phase,
        progress: Progress { prefill_done: done.0, decode_done: done.1 },
        num_preemptions: preempted,
    }
}

fn scheduled(kind: ScheduleKind, scheduled_tokens: u32) -> CoreEventKind {
    CoreEventKind::Scheduled { kind, cached_tokens: 4, scheduled_tokens, wait: None }
}

/// Scheduled for the first time, after a wait for another request.
fn scheduled_late(scheduled_tokens: u32) -> CoreEventKind {
    let wait = Wait { reason: WaitReason::TokenBudget, blocker: Some(RequestLabel::new("chatcmpl-long")) };
    CoreEventKind::Scheduled {
        kind: ScheduleKind::First,
        cached_tokens: 4,
        scheduled_tokens,
        wait: Some(wait),
    }
}

/// What the engine's account says about [`run_core`]: 10 ms of queue for all reasons that an engine names, and
/// so on.
fn account() -> CoreLedger {
    let mut waits = WaitTimes::default();
    let named = WaitReason::ALL.into_iter().filter(|reason| *reason != WaitReason::Unknown);
    named.enumerate().for_each(|(index, reason)| waits.add(reason, if index < 2 { MS } else { 2 * MS }));
    let mut meter = LedgerMeter::start(ms(110));
    meter.scheduled_first(&waits, 4, ms(120));
    let step = |previous, start, end, prefill| StepTimes::new(ms(previous), ms(start), ms(end), prefill, 10);
    meter.stepped(&step(120, 120, 150, 6), StepWork { tokens: 6, prompt_tokens: 6, recomputed_tokens: 0 });
    meter.stepped(&step(150, 150, 160, 4), StepWork { tokens: 1, prompt_tokens: 0, recomputed_tokens: 0 });
    meter.resumed(ms(170));
    meter.stepped(&step(160, 170, 180, 10), StepWork { tokens: 10, prompt_tokens: 0, recomputed_tokens: 9 });
    meter.recomputed(9);
    meter.stepped(&step(180, 180, 190, 0), StepWork { tokens: 1, prompt_tokens: 0, recomputed_tokens: 0 });
    *meter.ledger()
}

fn finished(status: FinishStatus) -> CoreEventKind {
    CoreEventKind::Finished { status }
}

/// A sequence of 10 prompt tokens that is preempted once.
fn run_core(mut core: CoreSpan) {
    core.record(event(CoreEventKind::Queued, 110, 6, Phase::Waiting, (0, 0), 0));
    core.record(event(scheduled_late(6), 120, 7, Phase::Prefill, (4, 0), 0));
    core.record(event(CoreEventKind::FirstToken, 150, 7, Phase::Decode, (10, 1), 0));
    let preempted = CoreEventKind::Preempted {
        by: Some(RequestLabel::new("chatcmpl-other")),
        tokens_lost: 12,
        blocks_freed: 1,
    };
    core.record(event(preempted, 160, 9, Phase::Waiting, (10, 3), 1));
    core.record(event(scheduled(ScheduleKind::Resume, 13), 170, 12, Phase::Prefill, (10, 3), 1));
    core.finish_with_account(
        event(finished(FinishStatus::Length), 190, 14, Phase::Decode, (10, 5), 1),
        account(),
    );
}

/// A journey in which everything happens that can be said about a success.
fn run_success(rig: &Rig, incoming: IncomingHeaders<'_>) {
    let mut span = rig.arrive(incoming);
    let journey = span.handle();
    journey.identified(&RequestLabel::new("chatcmpl-1"));
    journey.described(|| RequestAttributes {
        operation: "chat",
        request_model: "asked-for".into(),
        response_model: "served".into(),
        temperature: 0.7,
        top_p: 1.0,
        top_k: Some(40),
        max_tokens: 5,
        n: 1,
        seed: Some(7),
        stream: true,
    });
    journey.body_complete(ms(101));
    let cores = journey.open_cores(&[(10, 5)], ms(105));
    journey.handed_to_core(ms(108));
    span.respond(200);
    cores.into_iter().for_each(run_core);
    journey.received_from_core(ms(151));
    journey.used(|| Usage {
        prompt_tokens: 10,
        completion_tokens: 5,
        cached_tokens: 4,
        finish_reasons: smallvec!["length"],
    });
    journey.departed(ms(195));
    span.complete(ms(200));
}

const PREEMPTIONS: u32 = 1_000;

/// A journey whose sequence is preempted that often.
fn run_long(rig: &Rig) {
    let span = rig.arrive(IncomingHeaders::default());
    let mut core = span.handle().open_cores(&[(10, 5)], ms(105)).pop().unwrap();
    core.record(event(CoreEventKind::Queued, 110, 6, Phase::Waiting, (0, 0), 0));
    core.record(event(scheduled(ScheduleKind::First, 10), 120, 7, Phase::Prefill, (4, 0), 0));
    for number in 1..=PREEMPTIONS {
        let at = 120 + u64::from(number);
        let preempted = CoreEventKind::Preempted { by: None, tokens_lost: 2, blocks_freed: 1 };
        core.record(event(preempted, at, at, Phase::Waiting, (4, 0), number));
        core.record(event(scheduled(ScheduleKind::Resume, 10), at, at, Phase::Prefill, (4, 0), number));
    }
    core.finish(event(finished(FinishStatus::Length), 2_000, 2_000, Phase::Decode, (10, 5), PREEMPTIONS));
    span.complete(ms(2_001));
}

/// With an engine in another process, which did not say everything.
fn run_elsewhere(rig: &Rig) {
    let span = rig.arrive(IncomingHeaders::default());
    let mut core = span.handle().open_cores(&[(10, 5)], ms(105)).pop().unwrap();
    core.of_engine(3, ClockSource::Estimated);
    core.infer_queued();
    core.record(event(CoreEventKind::Queued, 110, 6, Phase::Waiting, (0, 0), 0));
    core.infer_finished();
    core.finish(event(finished(FinishStatus::Aborted), 120, 6, Phase::Waiting, (0, 0), 0));
    span.complete(ms(121));
}

fn run_failure(rig: &Rig) {
    let mut span = rig.arrive(IncomingHeaders::default());
    span.handle().failed(AbortReason::ValidationError, "invalid_request_error", "the body is not JSON");
    span.respond(400);
    span.complete(ms(103));
}

/// Ids are random, except those the caller gave.
fn render(span: &SpanView) -> String {
    let parent = if span.parent_span_id.is_some() { "child" } else { "root" };
    let mut text = format!(
        "{} {} kind={} flags={:#x} {parent} state={:?} {}..{} status={} {:?}\n",
        span.scope,
        span.name,
        span.kind,
        span.flags,
        span.trace_state,
        span.start_unix_ns - WALL_OFFSET_NS,
        span.end_unix_ns - WALL_OFFSET_NS,
        span.status_code,
        span.status_message,
    );
    for (key, value) in &span.attributes {
        text.push_str(&format!("  {key} = {value:?}\n"));
    }
    for event in &span.events {
        text.push_str(&format!("  @{} {}\n", event.unix_ns - WALL_OFFSET_NS, event.name));
        for (key, value) in &event.attributes {
            text.push_str(&format!("    {key} = {value:?}\n"));
        }
    }
    text
}

#[expect(clippy::needless_pass_by_value, reason = "`expect!` makes a value")]
fn check(span: &SpanView, expected: Expect) {
    expected.assert_eq(&render(span));
}

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn a_request_span_says_everything_about_a_success() {
    let rig = Rig::new();
    run_success(&rig, IncomingHeaders { traceparent: Some(PARENT), tracestate: &["vendor=1"] });
    let spans = rig.spans();
    assert_eq!(spans[0].trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!(spans[0].parent_span_id.as_deref(), Some("00f067aa0ba902b7"));
    check(
        &spans[0],
        expect![[r#"
            vllm.api llm_request kind=2 flags=0x301 child state="vendor=1" 100000000..200000000 status=0 ""
              gen_ai.latency.e2e = Double(0.1)
              gen_ai.latency.time_in_model_decode = Double(0.04)
              gen_ai.latency.time_in_model_inference = Double(0.07)
              gen_ai.latency.time_in_model_prefill = Double(0.03)
              gen_ai.latency.time_in_queue = Double(0.01)
              gen_ai.latency.time_to_first_token = Double(0.05)
              gen_ai.operation.name = Text("chat")
              gen_ai.provider.name = Text("wayfare")
              gen_ai.request.id = Text("chatcmpl-1")
              gen_ai.request.max_tokens = Int(5)
              gen_ai.request.model = Text("asked-for")
              gen_ai.request.n = Int(1)
              gen_ai.request.seed = Int(7)
              gen_ai.request.stream = Bool(true)
              gen_ai.request.temperature = Double(0.7)
              gen_ai.request.top_k = Int(40)
              gen_ai.request.top_p = Double(1.0)
              gen_ai.response.finish_reasons = List([Text("length")])
              gen_ai.response.model = Text("served")
              gen_ai.usage.cache_read.input_tokens = Int(4)
              gen_ai.usage.completion_tokens = Int(5)
              gen_ai.usage.input_tokens = Int(10)
              gen_ai.usage.output_tokens = Int(5)
              gen_ai.usage.prompt_tokens = Int(10)
              http.response.status_code = Int(200)
              http.route = Text("/v1/chat/completions")
              journey.deliver.blocked_ns = Int(0)
              journey.ledger.admit_ns = Int(5000000)
              journey.ledger.decode_ns = Int(17000000)
              journey.ledger.deliver_ns = Int(10000000)
              journey.ledger.interference_ns = Int(4000000)
              journey.ledger.preempted_ns = Int(10000000)
              journey.ledger.prefill_ns = Int(30000000)
              journey.ledger.prefill_wait_ns = Int(0)
              journey.ledger.prepare_ns = Int(4000000)
              journey.ledger.queue.head_of_line_ns = Int(2000000)
              journey.ledger.queue.kv_blocks_ns = Int(2000000)
              journey.ledger.queue.max_num_seqs_ns = Int(2000000)
              journey.ledger.queue.next_step_ns = Int(1000000)
              journey.ledger.queue.paused_ns = Int(2000000)
              journey.ledger.queue.token_budget_ns = Int(1000000)
              journey.ledger.queue_ns = Int(10000000)
              journey.ledger.receive_ns = Int(1000000)
              journey.ledger.recompute_ns = Int(9000000)
              journey.tokens.cached = Int(4)
              journey.tokens.recomputed = Int(9)
              journey.tokens.wasted = Int(0)
              @100000000 api.ARRIVED
                event.ts.monotonic = Double(0.1)
                ts.monotonic_ns = Int(100000000)
              @108000000 api.HANDOFF_TO_CORE
                event.ts.monotonic = Double(0.108)
                prefill.total_tokens = Int(10)
                ts.monotonic_ns = Int(108000000)
              @151000000 api.FIRST_RESPONSE_FROM_CORE
                event.ts.monotonic = Double(0.151)
                ts.monotonic_ns = Int(151000000)
              @195000000 api.DEPARTED
                event.ts.monotonic = Double(0.195)
                http.response.status_code = Int(200)
                ts.monotonic_ns = Int(195000000)
        "#]],
    );
}

#[test]
fn a_core_span_is_a_child_of_its_request_and_says_what_happened() {
    let rig = Rig::new();
    run_success(&rig, IncomingHeaders { traceparent: Some(PARENT), tracestate: &["vendor=1"] });
    let spans = rig.spans();
    assert!(spans[1].is_child_of(&spans[0]));
    assert_eq!(spans[1].text("gen_ai.request.id"), spans[0].text("gen_ai.request.id"));
    check(
        &spans[1],
        expect![[r#"
            vllm.scheduler llm_core kind=1 flags=0x101 child state="vendor=1" 110000000..190000000 status=0 ""
              gen_ai.request.id = Text("chatcmpl-1")
              journey.ledger.decode_ns = Int(17000000)
              journey.ledger.interference_ns = Int(4000000)
              journey.ledger.preempted_ns = Int(10000000)
              journey.ledger.prefill_ns = Int(30000000)
              journey.ledger.prefill_wait_ns = Int(0)
              journey.ledger.queue.head_of_line_ns = Int(2000000)
              journey.ledger.queue.kv_blocks_ns = Int(2000000)
              journey.ledger.queue.max_num_seqs_ns = Int(2000000)
              journey.ledger.queue.next_step_ns = Int(1000000)
              journey.ledger.queue.paused_ns = Int(2000000)
              journey.ledger.queue.token_budget_ns = Int(1000000)
              journey.ledger.queue_ns = Int(10000000)
              journey.ledger.recompute_ns = Int(9000000)
              journey.tokens.cached = Int(4)
              journey.tokens.recomputed = Int(9)
              wayfare.engine_id = Int(0)
              wayfare.sequence_index = Int(0)
              @110000000 journey.QUEUED
                decode.done_tokens = Int(0)
                decode.max_tokens = Int(5)
                event.type = Text("QUEUED")
                num_preemptions = Int(0)
                phase = Text("WAITING")
                prefill.done_tokens = Int(0)
                prefill.total_tokens = Int(10)
                scheduler.step = Int(6)
                ts.monotonic = Double(0.11)
                ts.monotonic_ns = Int(110000000)
              @120000000 journey.SCHEDULED
                cached_tokens = Int(4)
                decode.done_tokens = Int(0)
                decode.max_tokens = Int(5)
                event.type = Text("SCHEDULED")
                num_preemptions = Int(0)
                phase = Text("PREFILL")
                prefill.done_tokens = Int(4)
                prefill.total_tokens = Int(10)
                schedule.kind = Text("FIRST")
                scheduled_tokens = Int(6)
                scheduler.step = Int(7)
                ts.monotonic = Double(0.12)
                ts.monotonic_ns = Int(120000000)
                wait.blocker = Text("chatcmpl-long")
                wait.reason = Text("token_budget")
              @150000000 journey.FIRST_TOKEN
                decode.done_tokens = Int(1)
                decode.max_tokens = Int(5)
                event.type = Text("FIRST_TOKEN")
                num_preemptions = Int(0)
                phase = Text("DECODE")
                prefill.done_tokens = Int(10)
                prefill.total_tokens = Int(10)
                scheduler.step = Int(7)
                ts.monotonic = Double(0.15)
                ts.monotonic_ns = Int(150000000)
              @160000000 journey.PREEMPTED
                decode.done_tokens = Int(3)
                decode.max_tokens = Int(5)
                event.type = Text("PREEMPTED")
                kv.blocks_freed = Int(1)
                num_preemptions = Int(1)
                phase = Text("WAITING")
                preempted.by = Text("chatcmpl-other")
                prefill.done_tokens = Int(10)
                prefill.total_tokens = Int(10)
                scheduler.step = Int(9)
                tokens_lost = Int(12)
                ts.monotonic = Double(0.16)
                ts.monotonic_ns = Int(160000000)
              @170000000 journey.SCHEDULED
                cached_tokens = Int(4)
                decode.done_tokens = Int(3)
                decode.max_tokens = Int(5)
                event.type = Text("SCHEDULED")
                num_preemptions = Int(1)
                phase = Text("PREFILL")
                prefill.done_tokens = Int(10)
                prefill.total_tokens = Int(10)
                schedule.kind = Text("RESUME")
                scheduled_tokens = Int(13)
                scheduler.step = Int(12)
                ts.monotonic = Double(0.17)
                ts.monotonic_ns = Int(170000000)
              @190000000 journey.FINISHED
                decode.done_tokens = Int(5)
                decode.max_tokens = Int(5)
                event.type = Text("FINISHED")
                finish.status = Text("length")
                num_preemptions = Int(1)
                phase = Text("DECODE")
                prefill.done_tokens = Int(10)
                prefill.total_tokens = Int(10)
                scheduler.step = Int(14)
                ts.monotonic = Double(0.19)
                ts.monotonic_ns = Int(190000000)
        "#]],
    );
}

#[test]
fn a_request_that_was_never_understood_says_only_what_is_known() {
    let rig = Rig::new();
    run_failure(&rig);
    let spans = rig.spans();
    assert_eq!(spans.len(), 1);
    check(
        &spans[0],
        expect![[r#"
            vllm.api llm_request kind=2 flags=0x103 root state="" 100000000..103000000 status=2 "the body is not JSON"
              error.type = Text("invalid_request_error")
              gen_ai.latency.e2e = Double(0.003)
              gen_ai.provider.name = Text("wayfare")
              http.response.status_code = Int(400)
              http.route = Text("/v1/chat/completions")
              journey.ledger.prepare_ns = Int(0)
              journey.ledger.receive_ns = Int(3000000)
              @100000000 api.ARRIVED
                event.ts.monotonic = Double(0.1)
                ts.monotonic_ns = Int(100000000)
              @103000000 api.ABORTED
                error = Text("the body is not JSON")
                event.ts.monotonic = Double(0.103)
                reason = Text("validation_error")
                ts.monotonic_ns = Int(103000000)
        "#]],
    );
}

#[test]
fn latencies_are_those_of_the_sequence_that_ended_last_and_the_first_token_is_the_earliest() {
    let rig = Rig::new();
    let span = rig.arrive(IncomingHeaders::default());
    let mut cores = span.handle().open_cores(&[(10, 5), (10, 5)], ms(105)).into_iter();
    let mut early = cores.next().unwrap();
    early.record(event(CoreEventKind::Queued, 110, 0, Phase::Waiting, (0, 0), 0));
    early.record(event(scheduled(ScheduleKind::First, 10), 111, 1, Phase::Prefill, (0, 0), 0));
    early.record(event(CoreEventKind::FirstToken, 130, 1, Phase::Decode, (10, 1), 0));
    early.finish(event(finished(FinishStatus::Stopped), 131, 1, Phase::Decode, (10, 1), 0));
    run_core(cores.next().unwrap());
    span.handle().received_from_core(ms(500));
    span.complete(ms(600));

    let spans = rig.spans();
    let seconds = |key: wayfare_journey::schema::Attribute| spans[0].double(key.key).unwrap();
    assert_eq!(seconds(span_attribute::TIME_TO_FIRST_TOKEN), 0.030);
    assert_eq!(seconds(span_attribute::E2E), 0.500);
    assert_eq!(seconds(span_attribute::TIME_IN_QUEUE), 0.010);
    assert_eq!(seconds(span_attribute::TIME_IN_MODEL_PREFILL), 0.030);
    assert_eq!(seconds(span_attribute::TIME_IN_MODEL_DECODE), 0.040);
    assert_eq!(seconds(span_attribute::TIME_IN_MODEL_INFERENCE), 0.070);
    let indices: Vec<_> = spans[1..].iter().map(|core| core.int("wayfare.sequence_index").unwrap()).collect();
    assert_eq!(indices, [0, 1]);
}

#[test]
fn without_a_core_span_the_first_token_is_the_first_response() {
    let rig = Rig::new();
    let span = rig.arrive(IncomingHeaders::default());
    span.handle().received_from_core(ms(150));
    span.complete(ms(200));
    let spans = rig.spans();
    assert_eq!(spans[0].double("gen_ai.latency.time_to_first_token"), Some(0.05));
    assert_eq!(spans[0].double("gen_ai.latency.time_in_queue"), None);
}

#[test]
fn a_lost_sequence_has_a_whole_span_all_the_same() {
    let rig = Rig::new();
    let span = rig.arrive(IncomingHeaders::default());
    drop(span.handle().open_cores(&[(10, 5)], ms(105)));
    drop(span);
    let spans = rig.spans();
    assert_eq!(spans[0].event_names(), ["api.ARRIVED", "api.ABORTED"]);
    assert_eq!(spans[0].events[1].text("reason"), Some("client_disconnect"));
    assert_eq!(spans[0].status_code, 2);
    assert_eq!(spans[1].event_names(), ["journey.QUEUED", "journey.FINISHED"]);
    assert_eq!(spans[1].events[1].text("finish.status"), Some("aborted"));
}

#[test]
fn numbers_that_do_not_fit_are_written_as_near_as_they_can_be() {
    let rig = Rig::new();
    let span = rig.arrive(IncomingHeaders::default());
    span.handle().described(|| RequestAttributes { seed: Some(u64::MAX), ..RequestAttributes::default() });
    let mut core = span.handle().open_cores(&[(1, 1)], ms(105)).pop().unwrap();
    core.record(CoreEvent {
        step: u64::MAX,
        ..event(CoreEventKind::Queued, 110, 0, Phase::Waiting, (0, 0), 0)
    });
    drop(core);
    span.complete(ms(200));
    let spans = rig.spans();
    assert_eq!(spans[0].int("gen_ai.request.seed"), Some(-1));
    assert_eq!(spans[1].events[0].int("scheduler.step"), Some(i64::MAX));
}

/// Every attribute and event of the schema is sent by some journey, with the type of the schema, and no
/// attribute is sent that the schema does not know, or twice.
#[test]
fn the_schema_is_what_is_sent() {
    let rig = Rig::new();
    run_success(&rig, IncomingHeaders::default());
    run_failure(&rig);
    run_long(&rig);
    run_elsewhere(&rig);
    let spans = rig.spans();

    let schema = |lists: &[&[wayfare_journey::schema::Attribute]]| -> BTreeMap<String, ValueType> {
        lists.iter().flat_map(|list| list.iter()).map(|one| (one.key.to_string(), one.value)).collect()
    };
    let sent = |maps: Vec<&BTreeMap<String, AttributeValue>>| -> BTreeMap<String, ValueType> {
        maps.into_iter().flatten().map(|(key, value)| (key.clone(), value_type(value))).collect()
    };
    let events_of = |name: &str| {
        spans.iter().filter(|span| span.name == name).flat_map(|span| &span.events).collect::<Vec<_>>()
    };
    let (api_events, core_events) = (events_of("llm_request"), events_of("llm_core"));

    assert_eq!(sent(spans.iter().map(|span| &span.attributes).collect()), schema(&[span_attribute::ALL]));
    assert_eq!(sent(spans.iter().map(|span| &span.resource).collect()), schema(&[resource_attribute::ALL]));
    assert_eq!(
        sent(api_events.iter().map(|event| &event.attributes).collect()),
        schema(&[api_event_attribute::ALL])
    );
    assert_eq!(
        sent(core_events.iter().map(|event| &event.attributes).collect()),
        schema(&[core_event_attribute::ALL])
    );

    let names: BTreeSet<_> = api_events.iter().chain(&core_events).map(|event| event.name.as_str()).collect();
    let known: BTreeSet<_> = api_event::ALL.iter().chain(core_event::ALL).map(|event| event.name).collect();
    assert_eq!(names, known);
    assert!(spans.iter().all(|span| span.duplicate_keys.is_empty()));
}

fn value_type(value: &AttributeValue) -> ValueType {
    match value {
        AttributeValue::Text(_) => ValueType::Text,
        AttributeValue::Int(_) => ValueType::Int,
        AttributeValue::Double(_) => ValueType::Double,
        AttributeValue::Bool(_) => ValueType::Bool,
        AttributeValue::List(_) => ValueType::TextList,
        AttributeValue::Other(what) => panic!("{what} is of no type of the schema"),
    }
}

#[test]
fn a_resource_attribute_of_the_user_replaces_ours() {
    let mut resource = resource();
    let extra = [("host.name", "renamed"), ("team", "a"), ("team", "b")];
    resource.extra = extra.map(|(key, value)| (key.into(), value.into())).to_vec();
    let message = resource.to_message();
    let values_of = |key: &str| message.attributes.iter().filter(|one| one.key == key).count();
    assert_eq!((values_of("host.name"), values_of("team")), (1, 1));
    let text = format!("{:?}", message.attributes);
    assert!(text.contains("renamed") && text.contains("\"b\"") && !text.contains("a-host"), "{text}");
}

#[test]
fn this_process_is_described_by_itself() {
    let (one, other) = (
        Resource::of_this_process("1", EngineDescription::default()),
        Resource::of_this_process("1", EngineDescription::default()),
    );
    assert_eq!(one.process_pid, std::process::id());
    assert!(!one.host_name.is_empty());
    assert_ne!(one.service_instance_id, other.service_instance_id);
    assert_eq!(one.service_instance_id.len(), 36);
    assert_eq!(one.service_instance_id.as_bytes()[14], b'4', "{}", one.service_instance_id);
}

#[test]
fn a_long_journey_is_folded_and_says_so() {
    let rig = Rig::new();
    run_long(&rig);
    let spans = rig.spans();
    let core = spans.iter().find(|span| span.name == SPAN_CORE).unwrap();
    let names: Vec<_> = core.events.iter().map(|event| event.name.as_str()).collect();
    assert!((MAX_CORE_EVENTS - 2..=MAX_CORE_EVENTS).contains(&names.len()), "{}", names.len());
    assert_eq!((names[0], *names.last().unwrap()), ("journey.QUEUED", "journey.FINISHED"));
    let (mut preemptions, mut lost, mut folded) = (0, 0, 0);
    for event in &core.events {
        let number = |attribute: Attribute| event.int(attribute.key);
        if event.name == core_event::PREEMPTED.name {
            folded += i64::from(number(core_event_attribute::FOLDED).is_some());
            preemptions += number(core_event_attribute::FOLDED).unwrap_or(1);
            lost += number(core_event_attribute::TOKENS_LOST).unwrap();
        }
        assert_eq!(number(core_event_attribute::NUM_PREEMPTIONS), Some(preemptions));
    }
    assert_eq!((preemptions, lost, folded), (i64::from(PREEMPTIONS), 2 * i64::from(PREEMPTIONS), 1));
}

fn steps() -> StepSpan {
    let summary = |step, started| StepSummary {
        step,
        started: ms(started),
        ended: ms(started + 10),
        schedule_ns: MS,
        execute_ns: 8 * MS,
        commit_ns: MS,
        running: 2,
        waiting: 1,
        prefill_requests: 1,
        decode_requests: 1,
        prefill_tokens: 30,
        decode_tokens: 1,
        finished: 1,
        preempted: 0,
        kv_blocks_total: 10,
        kv_blocks_free: 4,
    };
    let snapshot = RequestSnapshot {
        step: 3,
        at: ms(301),
        label: RequestLabel::new("chatcmpl-1"),
        phase: Phase::Prefill,
        prompt_tokens: 40,
        computed_tokens: 10,
        output_tokens: 0,
        num_preemptions: 0,
        scheduled_tokens: 30,
        kv_blocks: 3,
        kv_blocks_cached: 2,
        cached_tokens: 16,
    };
    StepSpan {
        trace_id: TraceId::random(),
        span_id: SpanId::random(),
        engine_id: 0,
        sequence: 1,
        closure_interval: 10,
        first_step: 1,
        last_step: 10,
        started: ms(100),
        ended: ms(1100),
        // A step without anything to do between.
        summaries: vec![summary(3, 300), StepSummary { step: 4, ..StepSummary::default() }],
        snapshots: vec![snapshot],
        dropped_events: 7,
    }
}

#[test]
fn a_span_of_steps_has_all_that_the_schema_says() {
    let converter =
        Converter::new(&resource(), WallAnchor::new(MonoNs(0), WALL_OFFSET_NS), SpanLimits::default());
    let mut batcher = Batcher::new(512);
    batcher.add_steps(steps(), |_| panic!("the batch is large enough"));
    let message = converter.message(&batcher.finish().unwrap());
    let spans = flatten_spans(&message);
    let [span] = &*spans else { panic!("one span: {spans:?}") };
    assert_eq!((span.name.as_str(), span.scope.as_str()), ("scheduler_steps_1", "vllm.scheduler.step"));
    assert_eq!(span.parent_span_id, None);
    let events: Vec<_> = span.events.iter().map(|one| (one.name.as_str(), one.int("step.id"))).collect();
    assert_eq!(
        events,
        [
            ("step.BATCH_SUMMARY", Some(3)),
            ("step.REQUEST_SNAPSHOT", Some(3)),
            ("step.BATCH_SUMMARY", Some(4))
        ]
    );
    let types = |attributes: &BTreeMap<String, AttributeValue>| -> BTreeMap<String, ValueType> {
        attributes.iter().map(|(key, value)| (key.clone(), value_type(value))).collect()
    };
    let schema = |list: &[Attribute]| -> BTreeMap<String, ValueType> {
        list.iter().map(|one| (one.key.to_owned(), one.value)).collect()
    };
    assert_eq!(types(&span.attributes), schema(step_span_attribute::ALL));
    let mut sent = types(&span.events[0].attributes);
    assert_eq!(sent, types(&span.events[2].attributes), "an empty step has them all");
    sent.extend(types(&span.events[1].attributes));
    assert_eq!(sent, schema(step_event_attribute::ALL));
    let [summary, snapshot, _] = &*span.events else { panic!("three events") };
    for (key, value) in [
        ("step.duration_us", 10_000),
        ("step.execute_us", 8_000),
        ("step.ts_start_ns", 300_000_000),
        ("batch.scheduled_tokens", 31),
        ("kv.blocks_free_gpu", 4),
    ] {
        assert_eq!(summary.int(key), Some(value), "{key}");
    }
    assert_eq!(summary.attributes["kv.usage_gpu_ratio"], AttributeValue::Double(0.6));
    assert_eq!(snapshot.int("request.effective_prompt_len"), Some(24));
    let sent = &message.resource_spans[0].scope_spans[0].spans[0];
    assert_eq!(sent.dropped_events_count, 7);
}
