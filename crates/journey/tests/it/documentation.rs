//! The tables of `docs/journey-schema.md` are made of the schema.

use expect_test::expect_file;
use wayfare_journey::MAX_CORE_EVENTS;
use wayfare_journey::schema::{
    Attribute, Event, SCOPE_API, SCOPE_SCHEDULER, SCOPE_STEPS, SPAN_CORE, SPAN_REQUEST, SPAN_STEPS_PREFIX,
    ValueType, api_event, api_event_attribute, core_event, core_event_attribute, resource_attribute,
    span_attribute, step_event, step_event_attribute, step_span_attribute,
};

fn events(title: &str, events: &[Event]) -> String {
    let rows = events.iter().map(|event| format!("| `{}` | {} |\n", event.name, event.doc));
    format!("\n## {title}\n\n| event | when |\n|---|---|\n") + &rows.collect::<String>()
}

fn attributes(title: &str, attributes: &[Attribute]) -> String {
    let rows = attributes.iter().map(|attribute| {
        let value = match attribute.value {
            ValueType::Text => "string",
            ValueType::Int => "int",
            ValueType::Double => "double",
            ValueType::Bool => "bool",
            ValueType::TextList => "string list",
        };
        format!("| `{}` | {value} | {} |\n", attribute.key, attribute.doc)
    });
    format!("\n### {title}\n\n| attribute | type | meaning |\n|---|---|---|\n") + &rows.collect::<String>()
}

fn long_lives() -> String {
    format!(
        "\n### Long lives\n\n\
         At most {MAX_CORE_EVENTS} events are kept of one sequence. When a sequence is preempted so often that \
         there would be more, its first events stay as they were and later pairs of `{preempted}` and \
         `{scheduled}` (RESUME) are folded into one pair. Its `{preempted}` has the time, the step and the \
         progress of the first of them, `{folded}` says how many they are, `{num_preemptions}` is the count after \
         the last, and `{lost}` and `{freed}` are those of all together; `{by}` is there only if it is the same \
         for all. Its `{scheduled}` is the last one. Between the two the sequence was preempted for \
         `{folded_ns}` and running for the rest.\n\n\
         So the `{preempted}` events so far, each counted `{folded}` times, or once without, always are \
         `{num_preemptions}`. Should an engine break the order of events so that nothing can be folded, \
         `dropped_events_count` of the span says how many events are missing; `{finished}` never is.\n",
        preempted = core_event::PREEMPTED.name,
        scheduled = core_event::SCHEDULED.name,
        finished = core_event::FINISHED.name,
        folded = core_event_attribute::FOLDED.key,
        folded_ns = core_event_attribute::FOLDED_PREEMPTED_NS.key,
        num_preemptions = core_event_attribute::NUM_PREEMPTIONS.key,
        lost = core_event_attribute::TOKENS_LOST.key,
        freed = core_event_attribute::KV_BLOCKS_FREED.key,
        by = core_event_attribute::PREEMPTED_BY.key,
    )
}

#[test]
fn the_page_lists_what_the_schema_defines() {
    let head = format!(
        "# Spans, events and attributes\n\n\
         Made from `crates/journey/src/schema.rs` by a test; `UPDATE_EXPECT=1 cargo test -p wayfare-journey` \
         rewrites it.\n\n\
         Every request leaves a span `{SPAN_REQUEST}` (kind SERVER, scope `{SCOPE_API}`) and, for each sequence \
         that the engine took, its child `{SPAN_CORE}` (kind INTERNAL, scope `{SCOPE_SCHEDULER}`). Prompts and \
         answers are never recorded. An attribute without a value is absent.\n\n\
         The engine's steps leave spans `{SPAN_STEPS_PREFIX}N` (kind INTERNAL, scope `{SCOPE_STEPS}`) when they are \
         traced: [steps.md](steps.md).\n"
    );
    let page = [
        head,
        events("Events of `llm_request`", api_event::ALL),
        attributes("Their attributes", api_event_attribute::ALL),
        events("Events of `llm_core`", core_event::ALL),
        attributes("Their attributes", core_event_attribute::ALL),
        long_lives(),
        events("Events of `scheduler_steps_N`", step_event::ALL),
        attributes("Their attributes", step_event_attribute::ALL),
        attributes("Attributes of `scheduler_steps_N`", step_span_attribute::ALL),
        "\n## Spans and resource\n".to_owned(),
        attributes("Attributes of the spans", span_attribute::ALL),
        attributes("Attributes of the resource", resource_attribute::ALL),
    ];
    expect_file!["../../../../docs/journey-schema.md"].assert_eq(&page.concat());
}
