//! The tables of `docs/journey-schema.md` are made of the schema.

use expect_test::expect_file;
use wayfare_journey::schema::{
    Attribute, Event, SCOPE_API, SCOPE_SCHEDULER, SPAN_CORE, SPAN_REQUEST, ValueType, api_event,
    api_event_attribute, core_event, core_event_attribute, resource_attribute, span_attribute,
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

#[test]
fn the_page_lists_what_the_schema_defines() {
    let head = format!(
        "# Spans, events and attributes\n\n\
         Made from `crates/journey/src/schema.rs` by a test; `UPDATE_EXPECT=1 cargo test -p wayfare-journey` \
         rewrites it.\n\n\
         Every request leaves a span `{SPAN_REQUEST}` (kind SERVER, scope `{SCOPE_API}`) and, for each sequence \
         that the engine took, its child `{SPAN_CORE}` (kind INTERNAL, scope `{SCOPE_SCHEDULER}`). Prompts and \
         answers are never recorded. An attribute without a value is absent.\n"
    );
    let page = [
        head,
        events("Events of `llm_request`", api_event::ALL),
        attributes("Their attributes", api_event_attribute::ALL),
        events("Events of `llm_core`", core_event::ALL),
        attributes("Their attributes", core_event_attribute::ALL),
        "\n## Spans and resource\n".to_owned(),
        attributes("Attributes of the spans", span_attribute::ALL),
        attributes("Attributes of the resource", resource_attribute::ALL),
    ];
    expect_file!["../../../../docs/journey-schema.md"].assert_eq(&page.concat());
}
