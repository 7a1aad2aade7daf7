//! The parameters of the live routes.

use http::HeaderMap;
use serde_json::Value;
use wayfare_journey::JourneyState;

use crate::error::ConsoleError;

use super::request::{InFlight, LiveRequest};

const DEFAULT_LIMIT: usize = 1_000;
const MAX_LIMIT: usize = 10_000;
const PARAMETERS: &str = "limit, state and sort";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// The newest change first.
    Changed,
    /// The oldest request first.
    Age,
}

/// The parameters of `GET /journeys/live`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LiveQuery {
    limit: usize,
    /// Empty for all.
    states: Vec<JourneyState>,
    order: Order,
}

impl LiveQuery {
    pub(crate) fn parse(query: &str) -> Result<Self, ConsoleError> {
        let (mut limit, mut states, mut order) = (None, None, None);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let is_new = match &*name {
                "limit" => limit.replace(parse_limit(&value)?).is_none(),
                "state" => states.replace(parse_states(&value)?).is_none(),
                "sort" => order.replace(parse_order(&value)?).is_none(),
                _ => return Err(unknown(&name, PARAMETERS)),
            };
            if !is_new {
                return Err(ConsoleError::RepeatedParameter(name.into_owned()));
            }
        }
        Ok(Self {
            limit: limit.unwrap_or(DEFAULT_LIMIT),
            states: states.unwrap_or_default(),
            order: order.unwrap_or(Order::Changed),
        })
    }

    /// The requests that are asked for, in order.
    pub(crate) fn choose(&self, in_flight: &InFlight) -> Vec<Value> {
        let is_wanted =
            |request: &LiveRequest<'_>| self.states.is_empty() || self.states.contains(&request.view.state);
        let mut requests: Vec<_> = in_flight.iter().filter(is_wanted).collect();
        match self.order {
            Order::Changed => {
                requests.sort_by_key(|request| std::cmp::Reverse((request.changed(), request.cell.key())));
            }
            Order::Age => requests.sort_by_key(|request| (request.cell.arrived(), request.cell.key())),
        }
        requests.iter().take(self.limit).map(LiveRequest::json).collect()
    }
}

fn unknown(name: &str, known: &'static str) -> ConsoleError {
    ConsoleError::UnknownParameter { name: name.chars().take(64).collect(), known }
}

fn parse_limit(text: &str) -> Result<usize, ConsoleError> {
    text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit)).ok_or_else(|| {
        ConsoleError::BadParameter {
            param: "limit",
            problem: format!("expected a number from 1 to {MAX_LIMIT}"),
        }
    })
}

fn parse_states(text: &str) -> Result<Vec<JourneyState>, ConsoleError> {
    let of_name = |name: &str| JourneyState::ALL.into_iter().find(|state| state.as_str() == name.trim());
    let states: Option<Vec<_>> = text.split(',').map(of_name).collect();
    states.ok_or_else(|| {
        let names = JourneyState::ALL.map(JourneyState::as_str).join(", ");
        ConsoleError::BadParameter { param: "state", problem: format!("expected one or more of {names}") }
    })
}

fn parse_order(text: &str) -> Result<Order, ConsoleError> {
    match text {
        "changed" => Ok(Order::Changed),
        "age" => Ok(Order::Age),
        _ => Err(ConsoleError::BadParameter { param: "sort", problem: "expected changed or age".to_owned() }),
    }
}

/// For a route that has none.
pub(crate) fn refuse_parameters(query: &str) -> Result<(), ConsoleError> {
    let first = form_urlencoded::parse(query.as_bytes()).next();
    first.map_or(Ok(()), |(name, _)| Err(unknown(&name, "none")))
}

/// The event after which a reader wants to go on. The header, which browsers send when they connect again, counts
/// more than the parameter, which stays in the address.
pub(crate) fn resume_point(query: &str, headers: &HeaderMap) -> Result<Option<String>, ConsoleError> {
    let mut given = None;
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if name != "last_event_id" {
            return Err(unknown(&name, "last_event_id"));
        }
        if given.replace(value.into_owned()).is_some() {
            return Err(ConsoleError::RepeatedParameter(name.into_owned()));
        }
    }
    let header = headers.get("last-event-id").map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned());
    Ok(header.filter(|id| !id.is_empty()).or(given))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_or_refused() {
        let query = LiveQuery::parse("limit=5&state=queued,preempted&sort=age").unwrap();
        let states = vec![JourneyState::Queued, JourneyState::Preempted];
        assert_eq!(query, LiveQuery { limit: 5, states, order: Order::Age });
        for bad in ["limit=0", "limit=10001", "state=", "state=queue", "sort=id", "x=1", "limit=1&limit=1"] {
            assert!(LiveQuery::parse(bad).is_err(), "{bad}");
        }
        assert!(refuse_parameters("a=1").is_err() && refuse_parameters("").is_ok());
    }

    #[test]
    fn the_header_counts_more_than_the_parameter() {
        let mut headers = HeaderMap::new();
        assert_eq!(resume_point("", &headers).unwrap(), None);
        assert_eq!(resume_point("last_event_id=a-1", &headers).unwrap().as_deref(), Some("a-1"));
        headers.insert("last-event-id", "a-2".parse().unwrap());
        assert_eq!(resume_point("last_event_id=a-1", &headers).unwrap().as_deref(), Some("a-2"));
        assert!(resume_point("since=1", &headers).is_err());
    }
}
