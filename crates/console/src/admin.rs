//! Showing and changing what is recorded while the server runs.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use parking_lot::Mutex;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use wayfare_journey::{KeepRuleKind, SamplingPolicy, Tracer};

use crate::error::ConsoleError;

/// Most bytes of a request's body.
const MAX_BODY_BYTES: usize = 16 << 10;

#[derive(Debug)]
struct Steered {
    tracer: Option<Tracer>,
    /// Held from reading a policy to replacing it, so that no change is lost between two at once.
    changing: Mutex<()>,
}

type SharedSteered = Arc<Steered>;

/// `GET` and `PUT /admin/journey` over this tracer; without one they say that tracing is off. There is no
/// protection: serve them where only operators come.
pub fn admin_routes(tracer: Option<Tracer>) -> Router {
    Router::new()
        .route("/admin/journey", get(show).put(change))
        .fallback(no_route)
        .method_not_allowed_fallback(bad_method)
        .with_state(Arc::new(Steered { tracer, changing: Mutex::new(()) }))
}

/// What `PUT` takes. A field that is absent stays as it is.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    #[serde(default, deserialize_with = "given")]
    sample_rate: Option<f64>,
    #[serde(default, deserialize_with = "given")]
    keep: Option<String>,
}

/// A field that is there has a value: null is none.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

async fn show(State(steered): State<SharedSteered>) -> Result<Json<Value>, ConsoleError> {
    steered.tracer.as_ref().map(description).map(Json).ok_or(ConsoleError::TracingIsOff)
}

async fn change(State(steered): State<SharedSteered>, request: Request) -> Result<Json<Value>, ConsoleError> {
    let tracer = steered.tracer.as_ref().ok_or(ConsoleError::TracingIsOff)?;
    let body = read(request.into_body()).await?;
    // serde would take a list of the fields' values, too.
    if body.trim_ascii_start().first() != Some(&b'{') {
        return Err(ConsoleError::BadBody("expected an object".to_owned()));
    }
    let change: Change =
        serde_json::from_slice(&body).map_err(|error| ConsoleError::BadBody(error.to_string()))?;
    if change.sample_rate.is_none() && change.keep.is_none() {
        return Err(ConsoleError::NothingToChange);
    }
    let keep = change.keep.map(|rules| rules.parse()).transpose().map_err(ConsoleError::BadRules)?;

    let _alone = steered.changing.lock();
    let current = tracer.policy();
    let rate = change.sample_rate.unwrap_or(current.sample_rate());
    let keep = keep.unwrap_or_else(|| current.keep().clone());
    let policy =
        SamplingPolicy::new(rate, current.environment(), keep).map_err(|bad| ConsoleError::BadRate(bad.0))?;
    tracing::info!("journeys from now on: sample rate {rate}, kept besides: {:?}", policy.keep().to_string());
    tracer.set_policy(policy);
    Ok(Json(description(tracer)))
}

async fn read(body: Body) -> Result<Bytes, ConsoleError> {
    match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(whole) => Ok(whole.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ConsoleError::BodyTooLarge(MAX_BODY_BYTES)),
        Err(_) => Err(ConsoleError::BodyIncomplete),
    }
}

fn description(tracer: &Tracer) -> Value {
    let (policy, counters) = (tracer.policy(), tracer.counters());
    let by_rule: Map<String, Value> = KeepRuleKind::ALL
        .iter()
        .map(|kind| (kind.as_str().to_owned(), counters.kept_by_rule(*kind).into()))
        .collect();
    json!({
        "sample_rate": policy.sample_rate(),
        "keep": policy.keep().to_string(),
        "environment_sampler": policy.environment().to_string(),
        "effective_rate": {
            "new_traces": policy.new_traces().rate(),
            "continued_traces": policy.continued_traces().rate(),
        },
        "requests": {
            "recorded": counters.recorded(),
            "sampled_out": counters.sampled_out(),
            "in_flight": counters.in_flight(),
            "kept_by_head": counters.kept_by_head(),
            "kept_by_rule": by_rule,
            "discarded": counters.discarded(),
        },
    })
}

async fn no_route(request: Request) -> ConsoleError {
    ConsoleError::NoRoute(request.uri().path().chars().take(256).collect())
}

async fn bad_method() -> ConsoleError {
    ConsoleError::BadMethod
}
