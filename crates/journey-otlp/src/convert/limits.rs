//! Cutting spans down to the limits that the user has set, and saying so.
//!
//! Source: <https://opentelemetry.io/docs/specs/otel/common/#attribute-limits> and
//! <https://opentelemetry.io/docs/specs/otel/trace/sdk/#span-limits>.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::trace::v1::{Span, span};
use wayfare_journey::schema::core_event;

/// What is cut off spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanLimits {
    /// Most attributes of a span.
    pub span_attributes: usize,
    /// Most events of a span. The last one ends it and stays, whatever the limit.
    pub span_events: usize,
    /// Most attributes of an event.
    pub event_attributes: usize,
    /// Most characters of a text in an attribute; `None` for no limit.
    pub value_characters: Option<usize>,
}

impl Default for SpanLimits {
    fn default() -> Self {
        Self { span_attributes: 128, span_events: 1024, event_attributes: 128, value_characters: None }
    }
}

impl SpanLimits {
    /// Cuts the span down, and adds what is gone to its counts.
    pub(crate) fn apply(self, span: &mut Span) {
        span.dropped_events_count = span
            .dropped_events_count
            .saturating_add(drop_from_the_middle(&mut span.events, self.span_events));
        let dropped = self.cut(&mut span.attributes, self.span_attributes);
        span.dropped_attributes_count = span.dropped_attributes_count.saturating_add(dropped);
        for event in &mut span.events {
            let dropped = self.cut(&mut event.attributes, self.event_attributes);
            event.dropped_attributes_count = event.dropped_attributes_count.saturating_add(dropped);
        }
    }

    /// Keeps the first attributes, with their texts cut. Returns how many are gone.
    fn cut(self, attributes: &mut Vec<KeyValue>, at_most: usize) -> u32 {
        let dropped = attributes.len().saturating_sub(at_most);
        attributes.truncate(at_most);
        if let Some(characters) = self.value_characters {
            attributes
                .iter_mut()
                .filter_map(|one| one.value.as_mut())
                .for_each(|value| cut_value(value, characters));
        }
        saturated(dropped)
    }
}

fn cut_value(value: &mut AnyValue, characters: usize) {
    match &mut value.value {
        Some(Value::StringValue(text)) => {
            if let Some((end, _)) = text.char_indices().nth(characters) {
                text.truncate(end);
            }
        }
        Some(Value::ArrayValue(list)) => list.values.iter_mut().for_each(|one| cut_value(one, characters)),
        _ => {}
    }
}

/// Keeps the beginning and the end of a life, and returns how many events between them are gone.
fn drop_from_the_middle(events: &mut Vec<span::Event>, at_most: usize) -> u32 {
    let all = events.len();
    if all <= at_most.max(1) {
        return 0;
    }
    let tail = (at_most / 2).max(1);
    let (mut head_end, tail_start) = (at_most.saturating_sub(tail), all - tail);
    // A preemption is followed by what ended it, or is gone as well.
    let name_at = |index: usize| events.get(index).map(|event| event.name.as_str());
    let is_preempted = |index| name_at(index) == Some(core_event::PREEMPTED.name);
    let ends_preemption = matches!(
        name_at(tail_start),
        Some(name) if name == core_event::SCHEDULED.name || name == core_event::FINISHED.name
    );
    if head_end > 0 && is_preempted(head_end - 1) && !ends_preemption {
        head_end -= 1;
    }
    events.drain(head_end..tail_start);
    saturated(tail_start - head_end)
}

fn saturated(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::ArrayValue;
    use proptest::prelude::*;
    use wayfare_journey::schema::{Event, api_event};

    use super::*;

    fn text(text: &str) -> AnyValue {
        AnyValue { value: Some(Value::StringValue(text.into())) }
    }

    fn attribute(key: usize, value: AnyValue) -> KeyValue {
        KeyValue { key: key.to_string(), value: Some(value), ..KeyValue::default() }
    }

    fn events(kinds: &[Event]) -> Vec<span::Event> {
        let event = |kind: &Event| span::Event {
            name: kind.name.into(),
            attributes: (0..3).map(|key| attribute(key, text("äöü"))).collect(),
            ..span::Event::default()
        };
        kinds.iter().map(event).collect()
    }

    fn names(span: &Span) -> Vec<&str> {
        span.events.iter().map(|event| event.name.as_str()).collect()
    }

    #[test]
    fn the_usual_limits_cut_nothing_of_a_usual_span() {
        let whole = Span { events: events(api_event::ALL), ..Span::default() };
        let mut cut = whole.clone();
        SpanLimits::default().apply(&mut cut);
        assert_eq!(cut, whole);
    }

    #[test]
    fn attributes_beyond_the_limit_are_counted() {
        let mut span = Span {
            attributes: (0..10).map(|key| attribute(key, text("x"))).collect(),
            events: events(&[core_event::QUEUED, core_event::FINISHED]),
            dropped_attributes_count: 1,
            ..Span::default()
        };
        SpanLimits { span_attributes: 4, event_attributes: 1, ..SpanLimits::default() }.apply(&mut span);
        assert_eq!(
            span.attributes.iter().map(|one| one.key.as_str()).collect::<Vec<_>>(),
            ["0", "1", "2", "3"]
        );
        assert_eq!((span.dropped_attributes_count, span.dropped_events_count), (7, 0));
        assert!(span.events.iter().all(|one| one.attributes.len() == 1 && one.dropped_attributes_count == 2));
    }

    #[test]
    fn texts_are_cut_between_characters_also_in_lists() {
        let list = AnyValue {
            value: Some(Value::ArrayValue(ArrayValue { values: vec![text("length"), text("st")] })),
        };
        let number = AnyValue { value: Some(Value::IntValue(123_456)) };
        let mut span = Span {
            attributes: vec![attribute(0, text("äöüß")), attribute(1, list), attribute(2, number.clone())],
            events: events(&[core_event::FINISHED]),
            ..Span::default()
        };
        SpanLimits { value_characters: Some(2), ..SpanLimits::default() }.apply(&mut span);
        let cut_list =
            AnyValue { value: Some(Value::ArrayValue(ArrayValue { values: vec![text("le"), text("st")] })) };
        let expected = [text("äö"), cut_list, number].map(Some);
        assert_eq!(span.attributes.into_iter().map(|one| one.value).collect::<Vec<_>>(), expected);
        assert_eq!(span.events[0].attributes[0].value, Some(text("äö")));
        assert_eq!(span.dropped_attributes_count, 0, "a cut text is not a dropped attribute");
    }

    #[test]
    fn the_beginning_and_the_end_stay() {
        use core_event::{FINISHED, FIRST_TOKEN, PREEMPTED, QUEUED, SCHEDULED};
        let life = [QUEUED, SCHEDULED, FIRST_TOKEN, PREEMPTED, SCHEDULED, PREEMPTED, SCHEDULED, FINISHED];
        let cut = |span_events| {
            let mut span = Span { events: events(&life), dropped_events_count: 100, ..Span::default() };
            SpanLimits { span_events, ..SpanLimits::default() }.apply(&mut span);
            assert_eq!(span.events.len() + span.dropped_events_count as usize, life.len() + 100);
            names(&span).join(" ").replace("journey.", "")
        };
        assert_eq!(cut(8), "QUEUED SCHEDULED FIRST_TOKEN PREEMPTED SCHEDULED PREEMPTED SCHEDULED FINISHED");
        assert_eq!(
            cut(7),
            "QUEUED SCHEDULED FIRST_TOKEN PREEMPTED SCHEDULED FINISHED",
            "{}",
            "no open preemption"
        );
        assert_eq!(cut(4), "QUEUED SCHEDULED SCHEDULED FINISHED");
        assert_eq!(cut(2), "QUEUED FINISHED");
        assert_eq!(cut(1), "FINISHED");
        assert_eq!(cut(0), "FINISHED");
    }

    proptest! {
        #[test]
        fn what_is_dropped_is_counted_and_the_end_stays(preemptions in 0_usize..40, limit in 0_usize..90) {
            let mut life = vec![core_event::QUEUED, core_event::SCHEDULED];
            for _ in 0..preemptions {
                life.extend([core_event::PREEMPTED, core_event::SCHEDULED]);
            }
            life.push(core_event::FINISHED);
            let mut span = Span { events: events(&life), ..Span::default() };
            SpanLimits { span_events: limit, ..SpanLimits::default() }.apply(&mut span);
            prop_assert!(span.events.len() <= limit.max(1));
            prop_assert_eq!(span.events.len() + span.dropped_events_count as usize, life.len());
            let kept = names(&span);
            prop_assert_eq!(kept.last().copied(), Some(core_event::FINISHED.name));
            prop_assert!(limit < 2 || kept[0] == core_event::QUEUED.name);
            prop_assert!(!kept.windows(2).any(|pair| pair == [core_event::PREEMPTED.name; 2]));
        }
    }
}
