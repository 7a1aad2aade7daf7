//! The OpenAI-compatible HTTP API over any [`wayfare_engine::Engine`].
//!
//! * [`output_channel`] makes the sink to build an engine with, and the hub for its server.
//! * [`Server::start`] makes a server of a [`ServerConfig`]; [`Server::router`] is its service.
//! * [`ShutdownHandle`] takes it out of service.
//! * [`engine_admin_routes`] pause the engine and reset its prefix cache, for another listener.
//!
//! | route | |
//! |---|---|
//! | `POST /v1/chat/completions`, `POST /v1/completions` | generate, streamed or whole |
//! | `GET /v1/models`, `GET /v1/models/{name}` | the served names |
//! | `GET /health`, `GET` or `POST /ping` | 200 when a request would be served now, else 503 |
//! | `GET /version` | the server's version |
//! | `GET /metrics` | Prometheus text, or OpenMetrics where it is asked for |
//!
//! A request's field is understood, or accepted because its value changes nothing, or refused by name with a
//! 400. The fields `user`, `metadata`, `safety_identifier`, `prompt_cache_key`, `parallel_tool_calls` and
//! `include_reasoning` are accepted with any value of their type and have no effect.
//!
//! One layer around all routes opens and ends the `llm_request` span of every request, so a route needs no
//! line about tracing. One table says what each error means to the client and to the journey. Metrics are fed
//! by the engine's outputs alone.
#![forbid(unsafe_code)]

mod auth;
mod bodies;
mod body;
mod config;
mod deadline;
mod endpoint;
mod engine_admin;
mod error;
mod generation;
mod hub;
mod journey_layer;
mod logprobs;
mod metrics;
mod params;
mod prepare;
mod request_metrics;
mod responses_api;
mod routes;
mod server;
mod shutdown;
mod sse;

pub use config::{ChatConfig, ServerConfig, ServerConfigError, ServerLimits};
pub use engine_admin::engine_admin_routes;
pub use hub::{HubSink, OutputHub, output_channel};
pub use metrics::{MetricFamily, MetricKind, MetricSource};
pub use server::Server;
pub use shutdown::ShutdownHandle;
