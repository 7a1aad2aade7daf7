//! A span of steps in the words of the schema, for whoever writes it down.

use crate::MonoNs;
use crate::describe::{AttributeVisitor, saturated};
use crate::schema::{
    Event, SPAN_STEPS_PREFIX, step_event, step_event_attribute as event_key, step_span_attribute as key,
};
use crate::steps::{RequestSnapshot, StepSpan, StepSummary};

type Visitor<'a> = &'a mut dyn AttributeVisitor;

/// The name of the span.
#[must_use]
pub fn step_span_name(span: &StepSpan) -> String {
    format!("{SPAN_STEPS_PREFIX}{}", span.sequence)
}

/// Reports the attributes of the span.
pub fn describe_steps(span: &StepSpan, to: Visitor<'_>) {
    to.int(key::SPAN_SEQUENCE, saturated(span.sequence));
    to.int(key::STEP_RANGE_START, saturated(span.first_step));
    to.int(key::STEP_RANGE_END, saturated(span.last_step));
    to.int(key::CLOSURE_INTERVAL, span.closure_interval.into());
    to.int(key::ENGINE_ID, span.engine_id.into());
}

/// Calls `event` for each event of the span, the summary of a step before the requests in it, with its time and a
/// function that reports its attributes.
pub fn describe_step_events(span: &StepSpan, mut event: impl FnMut(Event, MonoNs, &dyn Fn(Visitor<'_>))) {
    let mut snapshots = span.snapshots.as_slice();
    // No step comes after the last pass, which shows what is left.
    let passes = span.summaries.iter().map(Some).chain([None]);
    for summary in passes {
        if let Some(summary) = summary {
            event(step_event::BATCH_SUMMARY, summary.ended, &|to| describe_summary(summary, to));
        }
        let until = summary.map_or(u64::MAX, |summary| summary.step);
        let (of_step, later) = snapshots.split_at(snapshots.partition_point(|one| one.step <= until));
        snapshots = later;
        for snapshot in of_step {
            event(step_event::REQUEST_SNAPSHOT, snapshot.at, &|to| describe_snapshot(snapshot, to));
        }
    }
}

fn describe_summary(summary: &StepSummary, to: Visitor<'_>) {
    let microseconds = |ns: u64| saturated(ns / 1000);
    to.int(event_key::STEP_ID, saturated(summary.step));
    to.int(event_key::TS_START_NS, saturated(summary.started.0));
    to.int(event_key::TS_END_NS, saturated(summary.ended.0));
    to.int(event_key::DURATION_US, microseconds(summary.ended.since(summary.started)));
    to.int(event_key::SCHEDULE_US, microseconds(summary.schedule_ns));
    to.int(event_key::EXECUTE_US, microseconds(summary.execute_ns));
    to.int(event_key::COMMIT_US, microseconds(summary.commit_ns));
    to.int(event_key::RUNNING_DEPTH, summary.running.into());
    to.int(event_key::WAITING_DEPTH, summary.waiting.into());
    to.int(event_key::NUM_PREFILL_REQS, summary.prefill_requests.into());
    to.int(event_key::NUM_DECODE_REQS, summary.decode_requests.into());
    to.int(event_key::SCHEDULED_TOKENS, i64::from(summary.prefill_tokens) + i64::from(summary.decode_tokens));
    to.int(event_key::PREFILL_TOKENS, summary.prefill_tokens.into());
    to.int(event_key::DECODE_TOKENS, summary.decode_tokens.into());
    to.int(event_key::NUM_FINISHED, summary.finished.into());
    to.int(event_key::NUM_PREEMPTED, summary.preempted.into());
    let (total, free) = (summary.kv_blocks_total, summary.kv_blocks_free);
    let used = f64::from(total.saturating_sub(free)) / f64::from(total.max(1));
    to.double(event_key::KV_USAGE_RATIO, used);
    to.int(event_key::KV_BLOCKS_TOTAL, total.into());
    to.int(event_key::KV_BLOCKS_FREE, free.into());
}

fn describe_snapshot(snapshot: &RequestSnapshot, to: Visitor<'_>) {
    to.int(event_key::STEP_ID, saturated(snapshot.step));
    to.text(event_key::REQUEST_ID, snapshot.label.as_str());
    to.text(event_key::REQUEST_PHASE, snapshot.phase.as_str());
    to.int(event_key::REQUEST_PROMPT_TOKENS, snapshot.prompt_tokens.into());
    to.int(event_key::REQUEST_COMPUTED_TOKENS, snapshot.computed_tokens.into());
    to.int(event_key::REQUEST_OUTPUT_TOKENS, snapshot.output_tokens.into());
    to.int(event_key::REQUEST_PREEMPTIONS, snapshot.num_preemptions.into());
    to.int(event_key::REQUEST_SCHEDULED_TOKENS, snapshot.scheduled_tokens.into());
    if snapshot.cached_tokens > 0 {
        let effective = snapshot.prompt_tokens.saturating_sub(snapshot.cached_tokens);
        to.int(event_key::REQUEST_EFFECTIVE_PROMPT, effective.into());
    }
    to.int(event_key::REQUEST_KV_BLOCKS, snapshot.kv_blocks.into());
    to.int(event_key::REQUEST_KV_BLOCKS_CACHED, snapshot.kv_blocks_cached.into());
}
