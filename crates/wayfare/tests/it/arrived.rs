//! What has arrived at the collector: put together to journeys, and held against the rules of the contract.

use std::collections::{BTreeMap, HashMap};

use wayfare_testkit::{AttributeValue, EventView, SpanView};

const SERVER: i32 = 2;
const INTERNAL: i32 = 1;
const UNSET: i32 = 0;
const ERROR: i32 = 2;

/// One request: its span, and those of its sequences.
#[derive(Clone, Debug)]
pub(crate) struct Journey {
    pub(crate) request: SpanView,
    pub(crate) cores: Vec<SpanView>,
}

impl Journey {
    /// How the API part ended: `departed`, or `reason: error type`.
    pub(crate) fn ending(&self) -> String {
        let last = self.request.events.last().unwrap();
        match last.text("reason") {
            None => "departed".to_owned(),
            Some(reason) => format!("{reason}: {}", self.request.text("error.type").unwrap_or_default()),
        }
    }

    /// How the first sequence ended; nothing when there was none.
    pub(crate) fn finish_status(&self) -> Option<&str> {
        self.cores.first()?.events.last()?.text("finish.status")
    }

    /// Names of the events of the first sequence, without their prefix.
    pub(crate) fn core_events(&self) -> Vec<&str> {
        let core = self.cores.first().into_iter();
        core.flat_map(|core| core.event_names()).map(|name| name.trim_start_matches("journey.")).collect()
    }

    /// Why the first choice ended, as the client was told.
    pub(crate) fn finish_reason(&self) -> Option<&str> {
        self.finish_reasons().into_iter().next()
    }

    fn finish_reasons(&self) -> Vec<&str> {
        let Some(AttributeValue::List(reasons)) =
            self.request.attributes.get("gen_ai.response.finish_reasons")
        else {
            return Vec::new();
        };
        let texts = reasons.iter().map(|reason| match reason {
            AttributeValue::Text(text) => text.as_str(),
            _ => "no text",
        });
        texts.collect()
    }

    pub(crate) fn status(&self) -> Option<i64> {
        self.request.int("http.response.status_code")
    }
}

/// Puts spans together to journeys, in the order in which the requests arrived, and checks each.
pub(crate) fn journeys(spans: Vec<SpanView>) -> Result<Vec<Journey>, String> {
    let (requests, others): (Vec<_>, Vec<_>) = spans.into_iter().partition(|span| span.name == "llm_request");
    let mut cores: BTreeMap<(String, String), Vec<SpanView>> = BTreeMap::new();
    for core in others {
        let parent = core.parent_span_id.clone().unwrap_or_default();
        cores.entry((core.trace_id.clone(), parent)).or_default().push(core);
    }
    let mut journeys: Vec<Journey> = requests
        .into_iter()
        .map(|request| {
            let key = (request.trace_id.clone(), request.span_id.clone());
            let mut own = cores.remove(&key).unwrap_or_default();
            own.sort_by_key(|core| core.int("wayfare.sequence_index"));
            Journey { request, cores: own }
        })
        .collect();
    if let Some(orphan) = cores.into_values().flatten().next() {
        return Err(format!("a span without its request: {orphan:#?}"));
    }
    let mut span_ids = HashMap::new();
    for journey in &journeys {
        for span in std::iter::once(&journey.request).chain(&journey.cores) {
            if span_ids.insert(span.span_id.clone(), ()).is_some() {
                return Err(format!("two spans have the id {}", span.span_id));
            }
        }
        check(journey).map_err(|problem| format!("{problem}: {journey:#?}"))?;
    }
    journeys.sort_by_key(|journey| ns(&journey.request.events[0]));
    Ok(journeys)
}

fn ns(event: &EventView) -> i64 {
    event.int("ts.monotonic_ns").unwrap_or(-1)
}

fn ensure(holds: bool, rule: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(rule.to_owned()) }
}

/// What the buckets of a span's ledger add up to; buckets that are absent hold nothing.
pub(crate) fn ledger_ns(span: &SpanView) -> u64 {
    const BUCKETS: [&str; 11] = [
        "receive",
        "prepare",
        "admit",
        "queue",
        "prefill",
        "prefill_wait",
        "decode",
        "interference",
        "preempted",
        "recompute",
        "deliver",
    ];
    BUCKETS.iter().map(|bucket| bucket_ns(span, bucket)).sum()
}

/// One bucket of a span's ledger.
pub(crate) fn bucket_ns(span: &SpanView, bucket: &str) -> u64 {
    span.int(&format!("journey.ledger.{bucket}_ns")).unwrap_or(0).cast_unsigned()
}

fn check_ledger(span: &SpanView) -> Result<(), String> {
    ensure(ledger_ns(span) == span.end_unix_ns - span.start_unix_ns, "the ledger adds up to the span")?;
    let is_reason = |key: &&String| key.starts_with("journey.ledger.queue.");
    let by_reason: i64 = span.attributes.keys().filter(is_reason).filter_map(|key| span.int(key)).sum();
    ensure(by_reason.cast_unsigned() == bucket_ns(span, "queue"), "the reasons add up to the queue")
}

fn check(journey: &Journey) -> Result<(), String> {
    check_request(&journey.request)?;
    check_ledger(&journey.request)?;
    journey.cores.iter().try_for_each(check_ledger)?;
    let request = &journey.request;
    let handed_over = request.event("api.HANDOFF_TO_CORE").is_some();
    let (sequences, choices) = (journey.cores.len() as i64, request.int("gen_ai.request.n").unwrap_or(1));
    if handed_over {
        ensure(sequences > 0 && sequences % choices == 0, "a sequence for each choice of each prompt")?;
    } else {
        // The engine may have taken some before it refused the next.
        ensure(sequences == 0 || sequences < choices, "all sequences were handed over but for one at least")?;
    }
    let has_response = request.event("api.FIRST_RESPONSE_FROM_CORE").is_some();
    let has_token = |core: &SpanView| core.event("journey.FIRST_TOKEN").is_some();
    ensure(journey.cores.iter().any(has_token) || !has_response, "a response needs a token")?;
    let finish_reasons = journey.finish_reasons();
    for (index, core) in journey.cores.iter().enumerate() {
        ensure(core.is_child_of(request), "the sequence's span is a child of the request's")?;
        ensure(core.trace_state == request.trace_state, "one trace state")?;
        ensure(core.text("gen_ai.request.id") == request.text("gen_ai.request.id"), "one request id")?;
        ensure(core.int("wayfare.sequence_index") == Some(index as i64), "each sequence has its index")?;
        check_core(core)?;
        ensure(ns(&core.events[0]) >= ns(&request.events[0]), "queued after it arrived")?;
        if journey.ending() == "departed" {
            ensure(has_token(core) && has_response, "an answer has a token")?;
            let status = core.events.last().and_then(|event| event.text("finish.status"));
            let agrees = match finish_reasons.get(index) {
                Some(&"length") => status == Some("length"),
                // A stop string is found outside of the engine, which may end the sequence at the same time.
                Some(&("stop" | "tool_calls")) => true,
                _ => false,
            };
            ensure(agrees, "both parts agree on how it ended")?;
        }
    }
    Ok(())
}

fn check_request(span: &SpanView) -> Result<(), String> {
    ensure(span.scope == "vllm.api" && span.kind == SERVER, "scope and kind of the request")?;
    ensure(span.duplicate_keys.is_empty(), "each attribute once")?;
    ensure(span.dropped_events_count == 0, "no event dropped")?;
    let order =
        ["api.ARRIVED", "api.HANDOFF_TO_CORE", "api.FIRST_RESPONSE_FROM_CORE", "api.DEPARTED", "api.ABORTED"];
    let ranks: Vec<_> =
        span.events.iter().map(|event| order.iter().position(|name| *name == event.name)).collect();
    ensure(ranks.iter().all(Option::is_some), "known events only")?;
    ensure(ranks.windows(2).all(|pair| pair[0] < pair[1]), "events in order, each once")?;
    ensure(ranks.first() == Some(&Some(0)), "ARRIVED first")?;
    let (departed, aborted) = (span.event("api.DEPARTED"), span.event("api.ABORTED"));
    ensure(departed.is_some() != aborted.is_some(), "exactly one of DEPARTED and ABORTED")?;
    ensure(span.events.windows(2).all(|pair| ns(&pair[0]) <= ns(&pair[1])), "no negative interval")?;
    ensure(span.events.windows(2).all(|pair| pair[0].unix_ns <= pair[1].unix_ns), "no negative wall time")?;
    ensure(span.start_unix_ns == span.events[0].unix_ns, "the span starts with ARRIVED")?;
    ensure(span.events.iter().all(|event| event.unix_ns <= span.end_unix_ns), "the span ends last")?;
    if let Some(aborted) = aborted {
        ensure(aborted.text("reason").is_some() && aborted.text("error").is_some(), "a reason in words")?;
        ensure(span.status_code == ERROR && !span.status_message.is_empty(), "ABORTED is an error")?;
        ensure(span.text("error.type").is_some(), "an error has a type")?;
    } else {
        ensure(span.status_code == UNSET, "DEPARTED is no error")?;
        ensure(span.int("http.response.status_code").is_some_and(|status| status < 400), "a good status")?;
    }
    for interval in ["time_to_first_token", "e2e", "time_in_queue", "time_in_model_prefill"] {
        let seconds = span.double(&format!("gen_ai.latency.{interval}"));
        ensure(seconds.is_none_or(|seconds| seconds >= 0.0), "no negative latency")?;
    }
    Ok(())
}

/// The six rules of a core span, as far as one span shows them.
fn check_core(span: &SpanView) -> Result<(), String> {
    ensure(span.name == "llm_core" && span.scope == "vllm.scheduler", "name and scope of the sequence")?;
    ensure(span.kind == INTERNAL && span.duplicate_keys.is_empty(), "kind and attributes of the sequence")?;
    let names = span.event_names();
    let count = |wanted: &str| names.iter().filter(|name| **name == wanted).count();
    ensure(names.first() == Some(&"journey.QUEUED") && count("journey.QUEUED") == 1, "QUEUED first, once")?;
    ensure(
        names.last() == Some(&"journey.FINISHED") && count("journey.FINISHED") == 1,
        "FINISHED last, once",
    )?;
    ensure(count("journey.FIRST_TOKEN") <= 1, "FIRST_TOKEN at most once")?;
    let kinds: Vec<_> = span.events.iter().filter_map(|event| event.text("schedule.kind")).collect();
    ensure(kinds.len() == count("journey.SCHEDULED"), "SCHEDULED has a kind")?;
    ensure(kinds.iter().enumerate().all(|(at, kind)| (*kind == "FIRST") == (at == 0)), "FIRST, then RESUME")?;

    let mut preemptions = 0;
    for (event, next) in span.events.iter().zip(span.events.iter().skip(1).map(Some).chain([None])) {
        check_core_attributes(event)?;
        if event.name == "journey.PREEMPTED" {
            preemptions += 1;
            let resumes = next
                .is_some_and(|n| n.name == "journey.FINISHED" || n.text("schedule.kind") == Some("RESUME"));
            ensure(resumes, "after PREEMPTED comes RESUME or the end")?;
        }
        ensure(event.int("num_preemptions") == Some(preemptions), "num_preemptions counts PREEMPTED")?;
        let Some(next) = next else { continue };
        for never_decreases in
            ["ts.monotonic_ns", "scheduler.step", "prefill.done_tokens", "decode.done_tokens"]
        {
            ensure(event.int(never_decreases) <= next.int(never_decreases), never_decreases)?;
        }
        for constant in ["prefill.total_tokens", "decode.max_tokens"] {
            ensure(event.int(constant) == next.int(constant), constant)?;
        }
        ensure(event.unix_ns <= next.unix_ns, "no negative wall time")?;
    }
    let (first, last) = (&span.events[0], &span.events[span.events.len() - 1]);
    ensure((span.start_unix_ns, span.end_unix_ns) == (first.unix_ns, last.unix_ns), "from QUEUED to FINISHED")
}

fn check_core_attributes(event: &EventView) -> Result<(), String> {
    for key in [
        "ts.monotonic_ns",
        "scheduler.step",
        "prefill.done_tokens",
        "prefill.total_tokens",
        "decode.done_tokens",
        "decode.max_tokens",
        "num_preemptions",
    ] {
        ensure(event.int(key).is_some_and(|value| value >= 0), key)?;
    }
    ensure(event.text("event.type") == event.name.strip_prefix("journey."), "event.type")?;
    ensure(matches!(event.attributes.get("ts.monotonic"), Some(AttributeValue::Double(_))), "ts.monotonic")?;
    let phase = event.text("phase");
    ensure(matches!(phase, Some("WAITING" | "PREFILL" | "DECODE")), "phase")?;
    ensure(event.int("prefill.done_tokens") <= event.int("prefill.total_tokens"), "no more than the prompt")?;
    ensure(event.int("decode.done_tokens") <= event.int("decode.max_tokens"), "no more than the limit")
}
