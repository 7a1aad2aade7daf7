//! Tail rules: which finished journeys are kept whatever the head said.

use std::fmt;
use std::str::FromStr;

use crate::cell::FinishedJourney;
use crate::duration::{format_duration_ns, parse_duration_ns};
use crate::{AbortReason, ApiEnding, FinishStatus, HeadSampler};

/// More rules than these in one list are a mistake.
const MAX_RULES: usize = 64;
const KNOWN: &str = "slow>DURATION, ttft>DURATION, queue>DURATION, error, aborted, preempted and rate=RATE";

/// The kinds of [`KeepRule`], as counters tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeepRuleKind {
    /// `slow>DURATION`
    Slow,
    /// `ttft>DURATION`
    TimeToFirstToken,
    /// `queue>DURATION`
    Queue,
    /// `error`
    Error,
    /// `aborted`
    Aborted,
    /// `preempted`
    Preempted,
    /// `rate=RATE`
    Rate,
}

impl KeepRuleKind {
    /// Every kind.
    pub const ALL: [KeepRuleKind; 7] = [
        KeepRuleKind::Slow,
        KeepRuleKind::TimeToFirstToken,
        KeepRuleKind::Queue,
        KeepRuleKind::Error,
        KeepRuleKind::Aborted,
        KeepRuleKind::Preempted,
        KeepRuleKind::Rate,
    ];

    /// The rule's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            KeepRuleKind::Slow => "slow",
            KeepRuleKind::TimeToFirstToken => "ttft",
            KeepRuleKind::Queue => "queue",
            KeepRuleKind::Error => "error",
            KeepRuleKind::Aborted => "aborted",
            KeepRuleKind::Preempted => "preempted",
            KeepRuleKind::Rate => "rate",
        }
    }
}

/// One reason to keep a journey.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum KeepRule {
    /// The request took longer than so many nanoseconds, from arrival to end.
    Slow(u64),
    /// Its first token came later than so many nanoseconds after the arrival, or it waited that long in the
    /// engine without ever getting one.
    TimeToFirstToken(u64),
    /// One of its sequences waited longer than so many nanoseconds to be scheduled for the first time.
    Queue(u64),
    /// It failed: an error status, ABORTED for any reason but the client's leaving, or an engine failure.
    Error,
    /// It ended with ABORTED for whatever reason, or one of its sequences was aborted.
    Aborted,
    /// One of its sequences was preempted.
    Preempted,
    /// It belongs to this share of all traces, by trace id.
    Rate(HeadSampler),
}

impl KeepRule {
    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> KeepRuleKind {
        match self {
            KeepRule::Slow(_) => KeepRuleKind::Slow,
            KeepRule::TimeToFirstToken(_) => KeepRuleKind::TimeToFirstToken,
            KeepRule::Queue(_) => KeepRuleKind::Queue,
            KeepRule::Error => KeepRuleKind::Error,
            KeepRule::Aborted => KeepRuleKind::Aborted,
            KeepRule::Preempted => KeepRuleKind::Preempted,
            KeepRule::Rate(_) => KeepRuleKind::Rate,
        }
    }

    /// Whether this journey is one to keep. Reads what was recorded; allocates nothing.
    #[must_use]
    pub fn matches(&self, journey: &FinishedJourney) -> bool {
        match *self {
            KeepRule::Slow(limit_ns) => journey.duration_ns() > limit_ns,
            KeepRule::TimeToFirstToken(limit_ns) => {
                let arrived = journey.cell().arrived();
                let waited = match journey.first_token() {
                    Some(first_token) => Some(first_token.since(arrived)),
                    None => journey.cell().handoff().map(|_| journey.duration_ns()),
                };
                waited.is_some_and(|waited_ns| waited_ns > limit_ns)
            }
            KeepRule::Queue(limit_ns) => journey.cores().any(|(_, core)| core.queue_ns() > limit_ns),
            KeepRule::Error => is_error(journey),
            KeepRule::Aborted => {
                matches!(journey.api().ending, ApiEnding::Aborted { .. })
                    || has_finish_status(journey, FinishStatus::Aborted)
            }
            KeepRule::Preempted => journey.cores().any(|(_, core)| core.num_preemptions() > 0),
            KeepRule::Rate(share) => share.keeps(journey.cell().context().trace_id),
        }
    }
}

fn is_error(journey: &FinishedJourney) -> bool {
    let api = journey.api();
    let has_failed = match &api.ending {
        ApiEnding::Departed { .. } => false,
        ApiEnding::Aborted { reason, .. } => *reason != AbortReason::ClientDisconnect,
    };
    has_failed
        || api.status.is_some_and(|status| status >= 400)
        || has_finish_status(journey, FinishStatus::Error)
}

fn has_finish_status(journey: &FinishedJourney, wanted: FinishStatus) -> bool {
    journey.cores().any(|(_, core)| core.finish_status() == Some(wanted))
}

impl fmt::Display for KeepRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.kind().as_str();
        match self {
            KeepRule::Slow(ns) | KeepRule::TimeToFirstToken(ns) | KeepRule::Queue(ns) => {
                write!(f, "{word}>{}", format_duration_ns(*ns))
            }
            KeepRule::Rate(share) => write!(f, "{word}={}", share.rate()),
            KeepRule::Error | KeepRule::Aborted | KeepRule::Preempted => f.write_str(word),
        }
    }
}

/// A list of rules, as `--journey-keep` has it: a journey that any of them matches is kept. An empty list
/// leaves the decision to the head.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeepRules(Box<[KeepRule]>);

impl KeepRules {
    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The rules, in the order they were written.
    pub fn iter(&self) -> impl Iterator<Item = &KeepRule> {
        self.0.iter()
    }

    /// The first rule that matches.
    #[must_use]
    pub fn first_match(&self, journey: &FinishedJourney) -> Option<KeepRuleKind> {
        self.0.iter().find(|rule| rule.matches(journey)).map(KeepRule::kind)
    }
}

impl fmt::Display for KeepRules {
    /// The rules in their shortest spelling, separated by commas.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, rule) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            rule.fmt(f)?;
        }
        Ok(())
    }
}

/// A list of rules that cannot be read. Its message ends with the text and a mark under the character.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}\n  {text}\n  {:>width$}", "^", width = *position + 1)]
pub struct BadKeepRules {
    /// What is wrong and what would be right.
    pub problem: String,
    /// The list, with characters that are not printable replaced.
    pub text: String,
    /// The place of the character that is wrong, in characters from 0.
    pub position: usize,
}

impl FromStr for KeepRules {
    type Err = BadKeepRules;

    /// Reads rules separated by commas; blanks around the parts of a rule do not matter. A text of blanks is
    /// the empty list.
    fn from_str(text: &str) -> Result<Self, BadKeepRules> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let mut rules = Vec::new();
        let mut start = 0;
        for item in text.split(',') {
            let at_item = |(offset, problem): (usize, String)| bad(text, start + offset, problem);
            if rules.len() == MAX_RULES {
                return Err(at_item((0, format!("there are more than {MAX_RULES} rules"))));
            }
            rules.push(parse_rule(item).map_err(at_item)?);
            start += item.len() + 1;
        }
        Ok(Self(rules.into()))
    }
}

fn bad(text: &str, offset: usize, problem: String) -> BadKeepRules {
    let position = text.char_indices().take_while(|(at, _)| *at < offset).count();
    let text = text.chars().map(|one| if one.is_control() { '\u{fffd}' } else { one }).collect();
    BadKeepRules { problem, text, position }
}

/// Reads one rule; an error has its offset in `item`.
fn parse_rule(item: &str) -> Result<KeepRule, (usize, String)> {
    let start = skip_blanks(item, 0);
    let word_end = start + item[start..].bytes().take_while(u8::is_ascii_alphabetic).count();
    let word = &item[start..word_end];
    let next = skip_blanks(item, word_end);
    let plain = |rule| match item[next..].is_empty() {
        true => Ok(rule),
        false => Err((next, format!("expected a comma or the end after {word:?}"))),
    };
    let longer_than = |rule: fn(u64) -> KeepRule| {
        let value_start = operand(item, next, '>', "a duration such as 2s")?;
        let value = item[value_start..].trim_end();
        parse_duration_ns(value).map(rule).map_err(|bad| (value_start + bad.offset, bad.problem.to_owned()))
    };
    match word {
        "slow" => longer_than(KeepRule::Slow),
        "ttft" => longer_than(KeepRule::TimeToFirstToken),
        "queue" => longer_than(KeepRule::Queue),
        "error" => plain(KeepRule::Error),
        "aborted" => plain(KeepRule::Aborted),
        "preempted" => plain(KeepRule::Preempted),
        "rate" => {
            let value_start = operand(item, next, '=', "a number from 0 to 1")?;
            let rate = item[value_start..].trim_end().parse().ok();
            let share = rate.and_then(|rate: f64| HeadSampler::new(rate).ok());
            let problem = || (value_start, "expected a number from 0 to 1".to_owned());
            share.map(KeepRule::Rate).ok_or_else(problem)
        }
        "" if item[start..].is_empty() => Err((start, format!("a rule is missing; the rules are {KNOWN}"))),
        _ => Err((start, format!("unknown rule; the rules are {KNOWN}"))),
    }
}

/// The offset of what follows `operator`, which must come next.
fn operand(item: &str, at: usize, operator: char, what: &str) -> Result<usize, (usize, String)> {
    if item[at..].starts_with(operator) {
        Ok(skip_blanks(item, at + operator.len_utf8()))
    } else {
        Err((at, format!("expected {operator} and {what}")))
    }
}

fn skip_blanks(text: &str, from: usize) -> usize {
    text.len() - text[from..].trim_start().len()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use proptest::prelude::*;

    use super::*;

    fn rules(text: &str) -> KeepRules {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn every_rule_is_read_and_written() {
        let text = "slow>2s,ttft>500ms,queue>1.5s,error,aborted,preempted,rate=0.25,slow>100us";
        assert_eq!(rules(text).to_string(), text.replace("1.5s", "1500ms"));
        assert_eq!(rules(" slow > 2s , error ,rate = 1"), rules("slow>2s,error,rate=1"));
        assert!(rules("").is_empty() && rules("  ").is_empty());
        let kinds: Vec<_> = rules(text).iter().map(KeepRule::kind).take(7).collect();
        assert_eq!(kinds, KeepRuleKind::ALL);
    }

    #[test]
    fn a_bad_rule_is_pointed_at() {
        let all: String = [
            "slow>2x,error",
            "error,fast",
            "error,,slow>1s",
            "error,",
            "slow>1s;error",
            "slow=1s",
            "error>1s",
            "rate=1.5",
            "rate=often",
            "rate",
            "é\u{1b}[31m",
            "Slow>1s",
        ]
        .iter()
        .map(|text| format!("{}\n", text.parse::<KeepRules>().unwrap_err()))
        .collect();
        expect![[r#"
            expected a unit: ns, us, ms, s, m or h
              slow>2x,error
                    ^
            unknown rule; the rules are slow>DURATION, ttft>DURATION, queue>DURATION, error, aborted, preempted and rate=RATE
              error,fast
                    ^
            a rule is missing; the rules are slow>DURATION, ttft>DURATION, queue>DURATION, error, aborted, preempted and rate=RATE
              error,,slow>1s
                    ^
            a rule is missing; the rules are slow>DURATION, ttft>DURATION, queue>DURATION, error, aborted, preempted and rate=RATE
              error,
                    ^
            expected a unit: ns, us, ms, s, m or h
              slow>1s;error
                    ^
            expected > and a duration such as 2s
              slow=1s
                  ^
            expected a comma or the end after "error"
              error>1s
                   ^
            expected a number from 0 to 1
              rate=1.5
                   ^
            expected a number from 0 to 1
              rate=often
                   ^
            expected = and a number from 0 to 1
              rate
                  ^
            unknown rule; the rules are slow>DURATION, ttft>DURATION, queue>DURATION, error, aborted, preempted and rate=RATE
              é�[31m
              ^
            unknown rule; the rules are slow>DURATION, ttft>DURATION, queue>DURATION, error, aborted, preempted and rate=RATE
              Slow>1s
              ^
        "#]]
        .assert_eq(&all);
        assert!("error,".repeat(100).parse::<KeepRules>().is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics_and_the_mark_is_in_or_behind_the_text(text in "\\PC{0,40}") {
            if let Err(bad) = text.parse::<KeepRules>() {
                prop_assert!(bad.position <= text.chars().count());
            }
        }

        #[test]
        fn texts_that_are_nearly_rules_do_not_panic_and_good_ones_read_back(
            text in "(slow|ttft|queue|error|rate|,| |>|=|[0-9.]{1,3}|s|ms|é){0,12}"
        ) {
            if let Ok(read) = text.parse::<KeepRules>() {
                prop_assert_eq!(rules(&read.to_string()), read);
            }
        }
    }
}
