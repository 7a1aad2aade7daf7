//! Which of the recent journeys are asked for.

use wayfare_journey::{AbortReason, MonoNs, WallAnchor, parse_duration_ns};

use crate::error::ConsoleError;
use crate::store::SerialRange;
use crate::stored::StoredJourney;

const PARAMETERS: &str = "min_duration, status, preempted, since, after, before, fields and limit";
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1000;
const REASONS: [AbortReason; 8] = [
    AbortReason::ClientDisconnect,
    AbortReason::ValidationError,
    AbortReason::GenerationError,
    AbortReason::Overloaded,
    AbortReason::Timeout,
    AbortReason::EngineDead,
    AbortReason::Shutdown,
    AbortReason::Exception,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Departed,
    Aborted,
    AbortedFor(AbortReason),
}

/// The parameters of `GET /journeys/recent`. All that are given must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    min_duration_ns: u64,
    status: Option<Status>,
    preempted: Option<bool>,
    /// The earliest end, in nanoseconds since the Unix epoch.
    since_unix_ns: u64,
    /// Only journeys that the store took in after the one of `after`, and before the one of `before`.
    pub(crate) serials: SerialRange,
    pub(crate) detail: Detail,
    pub(crate) limit: usize,
}

/// How much is told of each journey.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Everything that was recorded.
    #[default]
    All,
    /// What lists and statistics need.
    Summary,
}

impl Filter {
    /// Reads a query string. `now` and `anchor` turn "so long ago" into a time.
    ///
    /// # Errors
    /// When a parameter is unknown, given twice, or not valid.
    pub(crate) fn parse(query: &str, now: MonoNs, anchor: WallAnchor) -> Result<Self, ConsoleError> {
        let (mut min_duration, mut status, mut preempted, mut since, mut limit) =
            (None, None, None, None, None);
        let (mut after, mut before, mut fields) = (None, None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let place = match &*name {
                "min_duration" => &mut min_duration,
                "status" => &mut status,
                "preempted" => &mut preempted,
                "since" => &mut since,
                "after" => &mut after,
                "before" => &mut before,
                "fields" => &mut fields,
                "limit" => &mut limit,
                _ => {
                    return Err(ConsoleError::UnknownParameter { name: shortened(&name), known: PARAMETERS });
                }
            };
            if place.replace(value).is_some() {
                return Err(ConsoleError::RepeatedParameter(name.into_owned()));
            }
        }
        let duration = |text: &str| parse_duration_ns(text).map_err(|bad| bad.to_string());
        Ok(Self {
            min_duration_ns: read("min_duration", min_duration.as_deref(), duration)?.unwrap_or(0),
            status: read("status", status.as_deref(), parse_status)?,
            preempted: read("preempted", preempted.as_deref(), |text| {
                text.parse().map_err(|_| "expected true or false".to_owned())
            })?,
            since_unix_ns: read("since", since.as_deref(), |text| parse_since(text, anchor.unix_ns(now)))?
                .unwrap_or(0),
            serials: SerialRange {
                after: read("after", after.as_deref(), parse_serial)?.unwrap_or(0),
                before: read("before", before.as_deref(), parse_serial)?.unwrap_or(u64::MAX),
            },
            detail: read("fields", fields.as_deref(), |text| match text {
                "all" => Ok(Detail::All),
                "summary" => Ok(Detail::Summary),
                _ => Err("expected all or summary".to_owned()),
            })?
            .unwrap_or_default(),
            limit: read("limit", limit.as_deref(), |text| {
                let number = text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
                number.ok_or_else(|| format!("expected a number from 1 to {MAX_LIMIT}"))
            })?
            .unwrap_or(DEFAULT_LIMIT),
        })
    }

    pub(crate) fn matches(&self, journey: &StoredJourney, anchor: WallAnchor) -> bool {
        let reason = journey.abort_reason();
        let has_status = match self.status {
            None => true,
            Some(Status::Departed) => reason.is_none(),
            Some(Status::Aborted) => reason.is_some(),
            Some(Status::AbortedFor(wanted)) => reason == Some(wanted.as_str()),
        };
        has_status
            && journey.duration_ns() >= self.min_duration_ns
            && journey.end_unix_ns(anchor) >= self.since_unix_ns
            && self.preempted.is_none_or(|wanted| journey.is_preempted() == wanted)
    }
}

fn read<T>(
    param: &'static str,
    value: Option<&str>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, ConsoleError> {
    value
        .map(|text| parse(text.trim()))
        .transpose()
        .map_err(|problem| ConsoleError::BadParameter { param, problem })
}

fn parse_status(text: &str) -> Result<Status, String> {
    let reason = || REASONS.into_iter().find(|reason| reason.as_str() == text).map(Status::AbortedFor);
    match text {
        "departed" => Ok(Status::Departed),
        "aborted" => Ok(Status::Aborted),
        _ => reason().ok_or_else(|| {
            let reasons = REASONS.map(AbortReason::as_str).join(", ");
            format!("expected departed, aborted, or a reason of aborting: {reasons}")
        }),
    }
}

fn parse_serial(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| "expected the 'serial' of a journey".to_owned())
}

/// Seconds since the Unix epoch, or a duration before now.
fn parse_since(text: &str, now_unix_ns: u64) -> Result<u64, String> {
    let is_ago = text.ends_with(|last: char| last.is_ascii_alphabetic());
    let ns = if is_ago {
        parse_duration_ns(text).map(|ago| now_unix_ns.saturating_sub(ago))
    } else {
        parse_duration_ns(&format!("{text}s"))
    };
    ns.map_err(|_| "expected seconds since the Unix epoch, or how long ago, such as 5m".to_owned())
}

fn shortened(name: &str) -> String {
    name.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(query: &str) -> Result<Filter, ConsoleError> {
        Filter::parse(query, MonoNs(0), WallAnchor::new(MonoNs(0), 1_000_000_000_000))
    }

    #[test]
    fn all_parameters_are_read() {
        let query = "min_duration=1.5s&status=timeout&preempted=true&since=900.25&limit=7&after=3&before=9\
                     &fields=summary";
        let expected = Filter {
            min_duration_ns: 1_500_000_000,
            status: Some(Status::AbortedFor(AbortReason::Timeout)),
            preempted: Some(true),
            since_unix_ns: 900_250_000_000,
            serials: SerialRange { after: 3, before: 9 },
            detail: Detail::Summary,
            limit: 7,
        };
        assert_eq!(parse(query).unwrap(), expected);
        assert_eq!(parse("").unwrap().limit, DEFAULT_LIMIT);
        assert_eq!(parse("").unwrap().serials, SerialRange { after: 0, before: u64::MAX });
        assert_eq!(parse("fields=all").unwrap().detail, Detail::All);
        assert_eq!(parse("since=1m").unwrap().since_unix_ns, 940_000_000_000);
        assert_eq!(parse("status=departed").unwrap().status, Some(Status::Departed));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for query in [
            "min_duration=2",
            "min_duration=",
            "status=ok",
            "preempted=yes",
            "since=yesterday",
            "since=-1",
            "limit=0",
            "limit=1001",
            "limit=x",
            "limits=1",
            "after=-1",
            "before=last",
            "fields=some",
            "limit=1&limit=2",
            "recent",
            "=1",
        ] {
            assert!(parse(query).is_err(), "{query}");
        }
    }

    proptest! {
        #[test]
        fn no_query_panics(query in "(since|limit|status|min_duration|before|fields|=|&|%|\\PC{0,5}|[0-9]{1,25}){0,8}") {
            let _ = parse(&query);
        }
    }
}
