//! What the journey was: id, route, how it ended, tokens, latencies.

use wayfare_journey::schema::{Attribute, span_attribute as key};

use crate::event::ApiEventKind;
use crate::journey::{RequestSpan, TracedJourney};
use crate::page::{Page, Piece, Style, counted, duration, harmless};

pub(super) fn write(journey: &TracedJourney, page: &mut Page) {
    let id = journey.request_id().map_or_else(|| format!("trace {}", journey.trace_id), harmless);
    let mut title = vec![vec![(Style::Bold, id)]];
    match &journey.request {
        Some(request) => {
            let route = request.attributes.text(key::HTTP_ROUTE).map(harmless);
            title.extend(route.map(|route| vec![(Style::Plain, route)]));
            title.push(vec![ending(request)]);
        }
        None => title.push(vec![(Style::Red, "no llm_request span".into())]),
    }
    page.wrapped(0, title);
    page.wrapped(0, facts(journey).into_iter().map(|fact| vec![(Style::Plain, fact)]).collect());

    let was_handed_over = |request: &RequestSpan| {
        request.event(|kind| matches!(kind, ApiEventKind::HandoffToCore { .. })).is_some()
    };
    if journey.cores.is_empty() && journey.request.as_ref().is_some_and(was_handed_over) {
        page.line(&[(Style::Red, "no llm_core span, although the engine had the request".into())]);
    }
}

fn ending(request: &RequestSpan) -> Piece {
    let status = request.attributes.int(key::STATUS_CODE).map_or_else(String::new, |code| format!("{code} "));
    match request.ending().map(|event| &event.kind) {
        Some(ApiEventKind::Aborted { reason, error }) => {
            let error = if error.is_empty() { String::new() } else { format!(" ({})", harmless(error)) };
            (Style::Red, format!("{status}aborted: {}{error}", harmless(reason)))
        }
        Some(_) => (Style::Green, format!("{status}departed")),
        None => (Style::Red, format!("{status}no ending")),
    }
}

fn facts(journey: &TracedJourney) -> Vec<String> {
    let of_request = |names: [Attribute; 2]| {
        let attributes = &journey.request.as_ref()?.attributes;
        names.into_iter().find_map(|name| attributes.count(name))
    };
    let progress = || journey.cores.iter().filter_map(|core| core.events.last());
    let of_cores = |count: fn(&crate::event::CoreEvent) -> Option<u64>| {
        progress().filter_map(count).reduce(u64::saturating_add)
    };
    let prompt =
        of_request([key::INPUT_TOKENS, key::PROMPT_TOKENS]).or_else(|| of_cores(|event| event.prefill_total));
    let output = of_request([key::OUTPUT_TOKENS, key::COMPLETION_TOKENS])
        .or_else(|| of_cores(|event| event.decode_done));

    let mut facts = Vec::new();
    facts.extend(prompt.map(|tokens| counted(tokens, "prompt token")));
    facts.extend(output.map(|tokens| counted(tokens, "output token")));
    facts.extend(journey.time_to_first_token_ns().map(|ns| format!("ttft {}", duration(ns))));
    facts.extend(journey.request.as_ref().map(|request| format!("e2e {}", duration(request.duration_ns()))));
    if journey.cores.len() > 1 {
        facts.push(counted(journey.cores.len() as u64, "sequence"));
    }
    let preemptions = journey.preemptions();
    if preemptions > 0 {
        facts.push(counted(preemptions, "preemption"));
    }
    facts
}
