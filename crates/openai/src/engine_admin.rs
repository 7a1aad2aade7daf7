//! Pausing the engine and resetting its prefix cache, under vLLM's names for it.
//!
//! These routes belong on a listener that clients cannot reach; they are not part of [`crate::Server`].

use std::sync::Arc;

use axum::extract::{RawQuery, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::sync::oneshot;
use wayfare_engine::{EngineCommand, EngineControl, EngineReply, PauseMode};

use crate::error::ApiError;

type Engine = Arc<dyn EngineControl>;

/// `POST /pause`, `POST /resume`, `GET /is_paused` and `POST /reset_prefix_cache` over this engine. There is no
/// protection: serve them where only operators come.
pub fn engine_admin_routes(engine: Arc<dyn EngineControl>) -> Router {
    Router::new()
        .route("/pause", post(pause))
        .route("/resume", post(resume))
        .route("/is_paused", get(is_paused))
        .route("/reset_prefix_cache", post(reset_prefix_cache))
        .with_state(engine)
}

async fn pause(State(engine): State<Engine>, RawQuery(query): RawQuery) -> Result<Json<Value>, ApiError> {
    let [mode, clear_cache] = parameters(query.as_deref(), ["mode", "clear_cache"])?;
    let mode = match mode.as_deref() {
        None | Some("keep") => PauseMode::Keep,
        Some("wait") => PauseMode::Wait,
        Some("abort") => PauseMode::Abort,
        Some(_) => return Err(ApiError::invalid("mode", "it is none of keep, wait and abort")),
    };
    let clear_cache = boolean("clear_cache", clear_cache.as_deref())?;
    let mut reply = carry_out(&engine, EngineCommand::Pause(mode)).await?;
    if clear_cache {
        let reset = EngineCommand::ResetPrefixCache { preempt_running: true };
        let EngineReply { preempted, forgotten_blocks, .. } = carry_out(&engine, reset).await?;
        reply = EngineReply { preempted, forgotten_blocks, ..reply };
    }
    Ok(answer("paused", reply))
}

async fn resume(State(engine): State<Engine>, RawQuery(query): RawQuery) -> Result<Json<Value>, ApiError> {
    let [] = parameters(query.as_deref(), [])?;
    carry_out(&engine, EngineCommand::Resume).await.map(|reply| answer("resumed", reply))
}

async fn is_paused(State(engine): State<Engine>) -> Json<Value> {
    Json(json!({ "is_paused": engine.is_paused() }))
}

async fn reset_prefix_cache(
    State(engine): State<Engine>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, ApiError> {
    let [preempt_running] = parameters(query.as_deref(), ["reset_running_requests"])?;
    let preempt_running = boolean("reset_running_requests", preempt_running.as_deref())?;
    let reply = carry_out(&engine, EngineCommand::ResetPrefixCache { preempt_running }).await?;
    Ok(answer("reset", reply))
}

/// Waits until the engine has carried out the command.
async fn carry_out(engine: &Engine, command: EngineCommand) -> Result<EngineReply, ApiError> {
    let (tx, rx) = oneshot::channel();
    let done = move |reply| {
        // Nobody listens any more when the operator has gone away.
        let _ = tx.send(reply);
    };
    engine.command(command, Box::new(done));
    rx.await.map_err(|_| ApiError::EngineDead)
}

fn answer(status: &str, reply: EngineReply) -> Json<Value> {
    Json(json!({
        "status": status,
        "preempted_requests": reply.preempted,
        "aborted_requests": reply.aborted,
        "forgotten_blocks": reply.forgotten_blocks,
    }))
}

/// The values of these query parameters; there may be no others, and none twice.
fn parameters<const N: usize>(
    query: Option<&str>,
    names: [&'static str; N],
) -> Result<[Option<String>; N], ApiError> {
    let mut values = [const { None }; N];
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        let Some(index) = names.iter().position(|known| *known == name) else {
            return Err(ApiError::UnknownParameter { param: name.chars().take(64).collect() });
        };
        if values[index].replace(value.into_owned()).is_some() {
            return Err(ApiError::invalid(names[index], "it is given twice"));
        }
    }
    Ok(values)
}

fn boolean(name: &'static str, value: Option<&str>) -> Result<bool, ApiError> {
    match value {
        None | Some("false" | "False" | "0") => Ok(false),
        Some("true" | "True" | "1") => Ok(true),
        Some(_) => Err(ApiError::invalid(name, "it is neither true nor false")),
    }
}
