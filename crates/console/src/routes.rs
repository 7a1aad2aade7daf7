//! The routes that show finished journeys.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use wayfare_journey::{Clock, TraceId, WallAnchor};

use crate::error::ConsoleError;
use crate::filter::{Detail, Filter};
use crate::store::StoreReader;
use crate::stored::StoredJourney;
use crate::summary::summary;

/// Most journeys of one id that are shown: a client may give all its requests the same one.
const MAX_OF_ONE_ID: usize = 100;
/// Longest id that is repeated to the client.
const MAX_ID_CHARS: usize = 300;

#[derive(Clone, Debug)]
struct Shown {
    store: StoreReader,
    clock: Arc<dyn Clock>,
    anchor: WallAnchor,
}

/// `GET /journeys/recent` and `GET /journeys/{id}`. `clock` and `anchor` are those of the tracer, so that all
/// times agree.
pub fn journey_routes(store: StoreReader, clock: Arc<dyn Clock>, anchor: WallAnchor) -> Router {
    Router::new()
        .route("/journeys/recent", get(recent))
        .route("/journeys/{id}", get(of_id))
        .with_state(Shown { store, clock, anchor })
}

async fn recent(State(shown): State<Shown>, RawQuery(query): RawQuery) -> Result<Json<Value>, ConsoleError> {
    let Shown { store, clock, anchor } = shown;
    let filter = Filter::parse(&query.unwrap_or_default(), clock.now(), anchor)?;
    in_background(move || {
        let journeys = store.newest_of(filter.serials, filter.limit, |one| filter.matches(one, anchor));
        let in_use = store.usage();
        let journeys: Vec<_> = journeys
            .iter()
            .map(|(serial, journey)| {
                let mut described = match filter.detail {
                    Detail::All => journey.json(anchor),
                    Detail::Summary => summary(&journey.json(anchor)),
                };
                described["serial"] = (*serial).into();
                described
            })
            .collect();
        json!({
            "journeys": journeys,
            "store": {
                "journeys": in_use.journeys, "bytes": in_use.bytes, "lost": in_use.lost,
                "newest_serial": in_use.newest_serial,
            },
        })
    })
    .await
}

async fn of_id(
    State(Shown { store, anchor, .. }): State<Shown>,
    id: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, ConsoleError> {
    if let Some((name, _)) =
        query.and_then(|query| form_urlencoded::parse(query.as_bytes()).into_owned().next())
    {
        return Err(ConsoleError::BadParameter {
            param: "id",
            problem: format!("{name:.64?} cannot be given with it"),
        });
    }
    let Ok(Path(id)) = id else {
        return Err(ConsoleError::BadParameter { param: "id", problem: "it is not UTF-8".to_owned() });
    };
    let journeys = store.newest(MAX_OF_ONE_ID, is_of(&id));
    if journeys.is_empty() {
        return Err(ConsoleError::NoSuchJourney(id.chars().take(MAX_ID_CHARS).collect()));
    }
    in_background(move || json!({ "journeys": described(&journeys, anchor) })).await
}

/// Whether a journey has this trace id, this response id, or was asked for with this `x-request-id`.
fn is_of(id: &str) -> impl Fn(&StoredJourney) -> bool {
    let trace_id = TraceId::from_hex(id);
    move |journey| {
        let is_label = |label: &str| {
            label == id || label.split_once('-').is_some_and(|(_, request_id)| request_id == id)
        };
        trace_id == Some(journey.trace_id()) || journey.request_id().is_some_and(is_label)
    }
}

fn described(journeys: &[StoredJourney], anchor: WallAnchor) -> Vec<Value> {
    journeys.iter().map(|one| one.json(anchor)).collect()
}

/// Long answers are not made on a thread that serves tokens.
pub(crate) async fn in_background(
    work: impl FnOnce() -> Value + Send + 'static,
) -> Result<Json<Value>, ConsoleError> {
    tokio::task::spawn_blocking(work).await.map(Json).map_err(|_| ConsoleError::Internal)
}
