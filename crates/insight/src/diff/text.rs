//! A difference for a terminal.

use super::{Comparison, Diff, Verdict};
use crate::explain::{TextStyle, integrity_text};
use crate::page::{Page, Style};
use crate::quantity::{percent, seconds};

/// Writes a difference for people: what is whole of both, the verdict, then every figure.
#[must_use]
pub fn diff_text(diff: &Diff, style: TextStyle) -> String {
    let mut text = format!("before: {}", integrity_text(&diff.before, style));
    text += &format!("after: {}", integrity_text(&diff.after, style));
    let mut page = Page::new(style.width.clamp(80, 120), style.color);
    let (word, color) = match diff.verdict {
        Verdict::Slower => ("slower", Style::Red),
        Verdict::Faster => ("faster", Style::Green),
        Verdict::Mixed => ("mixed: slower in one way, faster in another", Style::Yellow),
        Verdict::Alike => ("alike: no change that is certain", Style::Plain),
    };
    page.line(&[(Style::Bold, "verdict".into()), (Style::Plain, ": ".into()), (color, word.into())]);
    page.blank();
    let head = format!(
        "{:<26}{:>11}{:>11}{:>10}   {}",
        "figure", "before", "after", "change", "95 % of the difference"
    );
    page.line(&[(Style::Bold, head)]);
    for one in &diff.figures {
        let line = format!(
            "{:<26}{:>11}{:>11}{:>10}   {}",
            one.figure,
            value(one, one.before),
            value(one, one.after),
            one.change.map_or("–".to_owned(), |change| format!("{:+.1} %", change * 100.0)),
            interval(one)
        );
        let color = match (one.is_certain, is_better(one)) {
            (false, _) => Style::Dim,
            (true, true) => Style::Green,
            (true, false) => Style::Red,
        };
        page.line(&[(color, line)]);
    }
    text + &page.into_text()
}

fn is_better(one: &Comparison) -> bool {
    let is_more = one.after > one.before;
    if one.figure == "throughput" { is_more } else { !is_more }
}

fn value(one: &Comparison, value: f64) -> String {
    match one.figure.as_str() {
        "failed" => percent(value),
        "throughput" => format!("{value:.2}/s"),
        _ => seconds(value),
    }
}

fn interval(one: &Comparison) -> String {
    if one.low <= f64::MIN / 1e10 {
        return "too few requests to tell".to_owned();
    }
    let sign = |number: f64| if number >= 0.0 { "+" } else { "−" };
    let shown = |number: f64| format!("{}{}", sign(number), value(one, number.abs()));
    let is_it = if one.is_certain { "" } else { "  (may be nothing)" };
    format!("{} … {}{is_it}", shown(one.low), shown(one.high))
}
