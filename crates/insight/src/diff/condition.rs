//! Conditions of `--fail-if`.

use std::fmt;
use std::str::FromStr;

use super::{Comparison, Diff};

/// A condition on a difference, such as `p99.ttft>+10%`.
///
/// `FIGURE>+10%` and `FIGURE<-10%` are about the change, relative to before; with a unit (`+20ms`) about the change
/// itself. Both hold only when the interval of the change leaves out zero. Without a sign, `FIGURE>500ms`, it is about the
/// value afterwards. `failed` and `throughput` are figures too: the share of requests that were aborted (`failed>1%`), and
/// requests served per second.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    text: String,
    figure: String,
    is_above: bool,
    limit: Limit,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Limit {
    /// Share of the value before.
    Relative(f64),
    /// Seconds, requests per second, or a share.
    Change(f64),
    Value(f64),
}

/// A text that is no condition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no condition; write p99.ttft>+10%, mean.e2e<-5ms, p50.queue>100ms, failed>1% or throughput<-5%"
)]
pub struct BadCondition(String);

/// A condition about something that the traces do not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{condition}: there is no figure {figure}; there are {known}")]
pub struct UnknownFigure {
    condition: String,
    figure: String,
    known: String,
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Condition {
    type Err = BadCondition;

    fn from_str(text: &str) -> Result<Self, BadCondition> {
        let bad = || BadCondition(text.to_owned());
        let compact: String = text.chars().filter(|character| !character.is_whitespace()).collect();
        let at = compact.find(['<', '>']).ok_or_else(bad)?;
        let (figure, rest) = compact.split_at(at);
        let is_above = rest.starts_with('>');
        let rest = rest.get(1..).ok_or_else(bad)?;
        let is_change = rest.starts_with(['+', '-']);
        let number_end = rest
            .find(|one: char| one.is_ascii_alphabetic() || one == '%' || one == 'µ')
            .unwrap_or(rest.len());
        let (number, unit) = rest.split_at(number_end);
        let number: f64 = number.parse().ok().filter(|number: &f64| number.is_finite()).ok_or_else(bad)?;
        let limit = match (unit, is_change) {
            ("%", true) => Limit::Relative(number / 100.0),
            ("%", false) => Limit::Value(number / 100.0),
            (unit, is_change) => {
                let value = number * factor(unit).ok_or_else(bad)?;
                if is_change { Limit::Change(value) } else { Limit::Value(value) }
            }
        };
        if figure.is_empty() {
            return Err(bad());
        }
        Ok(Self { text: text.to_owned(), figure: figure.to_owned(), is_above, limit })
    }
}

fn factor(unit: &str) -> Option<f64> {
    match unit {
        "" | "s" | "/s" => Some(1.0),
        "ms" => Some(1e-3),
        "us" | "µs" => Some(1e-6),
        _ => None,
    }
}

impl Condition {
    /// Whether it holds.
    ///
    /// # Errors
    /// When the traces do not have the figure.
    pub fn holds(&self, diff: &Diff) -> Result<bool, UnknownFigure> {
        let comparison =
            diff.figures.iter().find(|one| one.figure == self.figure).ok_or_else(|| UnknownFigure {
                condition: self.text.clone(),
                figure: self.figure.clone(),
                known: diff.figures.iter().map(|one| one.figure.as_str()).collect::<Vec<_>>().join(", "),
            })?;
        Ok(self.holds_for(comparison))
    }

    fn holds_for(&self, comparison: &Comparison) -> bool {
        let exceeds = |value: f64, limit: f64| if self.is_above { value > limit } else { value < limit };
        let change = comparison.after - comparison.before;
        match self.limit {
            Limit::Value(limit) => exceeds(comparison.after, limit),
            Limit::Change(limit) => comparison.is_certain && exceeds(change, limit),
            Limit::Relative(limit) => comparison.is_certain && exceeds(change, limit * comparison.before),
        }
    }
}
