//! Where the time went, as the server has written it down.

use wayfare_journey::WaitReason;
use wayfare_journey::schema::{Attribute, span_attribute as key};

use crate::journey::TracedJourney;
use crate::page::{Page, Style, duration};
use crate::span::Attributes;

const NAME: &str = "ledger";
const INDENT: usize = 14;

/// In the order in which they usually come.
const BUCKETS: [(&str, Attribute, Style); 11] = [
    ("receive", key::LEDGER_RECEIVE, Style::Dim),
    ("prepare", key::LEDGER_PREPARE, Style::Dim),
    ("admit", key::LEDGER_ADMIT, Style::Dim),
    ("queue", key::LEDGER_QUEUE, Style::Yellow),
    ("prefill", key::LEDGER_PREFILL, Style::Cyan),
    ("prefill wait", key::LEDGER_PREFILL_WAIT, Style::Yellow),
    ("decode", key::LEDGER_DECODE, Style::Green),
    ("interference", key::LEDGER_INTERFERENCE, Style::Yellow),
    ("preempted", key::LEDGER_PREEMPTED, Style::Red),
    ("recompute", key::LEDGER_RECOMPUTE, Style::Red),
    ("deliver", key::LEDGER_DELIVER, Style::Blue),
];

/// Writes the ledger of `llm_request`, or of the only `llm_core` where that is missing; nothing where there is none,
/// as in files of the reference. Returns whether anything was written.
pub(super) fn write(journey: &TracedJourney, page: &mut Page) -> bool {
    let attributes = match (&journey.request, &*journey.cores) {
        (Some(request), _) => &request.attributes,
        (None, [core]) => &core.attributes,
        (None, _) => return false,
    };
    let buckets: Vec<(&str, Style, u64, String)> = BUCKETS
        .into_iter()
        .filter_map(|(name, attribute, style)| {
            let ns = attributes.count(attribute).filter(|ns| *ns > 0)?;
            let detail = if attribute == key::LEDGER_QUEUE { reasons(attributes) } else { String::new() };
            Some((name, style, ns, detail))
        })
        .collect();
    let total: u64 = buckets.iter().map(|(_, _, ns, _)| ns).sum();
    if total == 0 {
        return false;
    }
    page.line(&[
        (Style::Plain, format!("{NAME:<INDENT$}")),
        (Style::Dim, format!("{} in all", duration(total))),
    ]);
    let items = buckets.into_iter().map(|(name, style, ns, detail)| {
        let percent = 100.0 * ns as f64 / total as f64;
        vec![
            (style, name.to_owned()),
            (Style::Plain, format!(" {}{detail}", duration(ns))),
            (Style::Dim, format!(" {percent:.1} %")),
        ]
    });
    page.wrapped(INDENT, items.collect());
    true
}

/// The reasons of the wait, where there is one to name.
fn reasons(attributes: &Attributes) -> String {
    let named = WaitReason::ALL.into_iter().filter(|reason| *reason != WaitReason::NextStep);
    let parts: Vec<String> = named
        .filter_map(|reason| {
            let ns = attributes.count(key::ledger_queue(reason)).filter(|ns| *ns > 0)?;
            Some(format!("{} {}", reason.as_str(), duration(ns)))
        })
        .collect();
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}
