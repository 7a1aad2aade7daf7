//! Putting a server together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::{Router, middleware};
use wayfare_engine::{Engine, RequestId};
use wayfare_journey::{Clock, MonoNs, WallAnchor};
use wayfare_text::Tokenizer;

use crate::auth::{ApiKeys, require_api_key};
use crate::config::{ServerConfig, ServerConfigError, ServerLimits};
use crate::error::ApiError;
use crate::hub::{HubHandle, OutputHub};
use crate::journey_layer::JourneyLayer;
use crate::limits::require_small_head;
use crate::metrics::Metrics;
use crate::prepare::{Grammars, Preparer, Workshop};
use crate::routes;
use crate::shutdown::ShutdownHandle;

/// Gives every sequence of this process its own number, whichever server it belongs to. Never made of
/// anything a client sends.
static NEXT_REQUEST_ID: AtomicU64 = AtomicU64::new(1);

/// What handlers share.
#[derive(Debug)]
pub(crate) struct AppState {
    pub(crate) api_keys: ApiKeys,
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) hub: HubHandle,
    pub(crate) workshop: Workshop,
    pub(crate) metrics: Metrics,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) shutdown: ShutdownHandle,
    pub(crate) limits: ServerLimits,
    pub(crate) version: String,
    pub(crate) started_unix_seconds: u64,
    wall: WallAnchor,
    default_seed: Option<u64>,
    seeds_given: AtomicU64,
}

pub(crate) type SharedState = Arc<AppState>;

impl AppState {
    pub(crate) fn tokenizer(&self) -> &Tokenizer {
        &self.workshop.preparer().tokenizer
    }

    pub(crate) fn model_names(&self) -> &[String] {
        &self.workshop.preparer().served_model_names
    }

    pub(crate) fn next_request_id(&self) -> RequestId {
        RequestId(NEXT_REQUEST_ID.fetch_add(1, Ordering::Relaxed))
    }

    /// The wall-clock time of a reading, in seconds since the Unix epoch.
    pub(crate) fn unix_seconds(&self, at: MonoNs) -> u64 {
        self.wall.unix_ns(at) / 1_000_000_000
    }

    /// Whether a request would be served now.
    pub(crate) fn check_serving(&self) -> Result<(), ApiError> {
        if self.shutdown.is_draining() {
            return Err(ApiError::ShuttingDown);
        }
        if self.hub.engine_is_gone() || self.engine.fault().is_some() {
            return Err(ApiError::EngineDead);
        }
        Ok(())
    }

    /// A seed for a request that has none: the next of a series that the configured seed fixes, or a random
    /// one.
    pub(crate) fn own_seed(&self) -> u64 {
        match self.default_seed {
            None => rand::random(),
            Some(seed) => split_mix(seed, self.seeds_given.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

/// The `index`-th output of the SplitMix64 generator started at `seed`. Source: Steele, Lea and Flood, "Fast
/// splittable pseudorandom number generators", 2014.
fn split_mix(seed: u64, index: u64) -> u64 {
    let mut mixed = seed.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// An OpenAI-compatible server over one engine.
#[derive(Clone, Debug)]
pub struct Server {
    state: SharedState,
    layer: JourneyLayer,
}

impl Server {
    /// Makes a server and starts its output dispatcher on the current Tokio runtime. `hub` is the other end
    /// of the sink that `config.engine` was built with.
    ///
    /// # Errors
    /// When the configuration contradicts itself.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn start(config: ServerConfig, hub: OutputHub) -> Result<Self, ServerConfigError> {
        let Some(model_name) = config.served_model_names.first() else {
            return Err(ServerConfigError::NoModelName);
        };
        if config.api_keys.iter().any(String::is_empty) {
            return Err(ServerConfigError::EmptyApiKey);
        }
        let (metrics, recorders) =
            Metrics::new(model_name, Arc::clone(&config.engine), config.wall, config.metric_sources);
        let hub = hub.start(recorders);
        let shutdown = ShutdownHandle::new(hub.clone());
        let preparer = Preparer {
            served_model_names: config.served_model_names,
            tokenizer: config.tokenizer,
            chat: config.chat,
            end_of_text: config.end_of_text.into(),
            limits: config.engine.limits(),
            grammars: Grammars::default(),
            per_request_metrics: config.per_request_metrics,
            max_messages: config.limits.max_messages,
        };
        let started_unix_seconds = config.wall.unix_ns(config.clock.now()) / 1_000_000_000;
        let layer = JourneyLayer::new(config.tracer, Arc::clone(&config.clock), shutdown.clone());
        let state = AppState {
            api_keys: ApiKeys::new(config.api_keys),
            engine: config.engine,
            hub,
            workshop: Workshop::new(preparer, config.limits.max_concurrent_preparations),
            metrics,
            clock: config.clock,
            shutdown,
            limits: config.limits,
            version: config.version,
            started_unix_seconds,
            wall: config.wall,
            default_seed: config.default_seed,
            seeds_given: AtomicU64::new(0),
        };
        Ok(Self { state: Arc::new(state), layer })
    }

    /// The service of all routes.
    pub fn router(&self) -> Router {
        self.router_with(Router::new())
    }

    /// The same with further routes, which are traced and protected like the others.
    pub fn router_with(&self, more: Router) -> Router {
        self.router_with_open(more, Router::new())
    }

    /// The same with further routes that need no key, in `open`.
    pub fn router_with_open(&self, more: Router, open: Router) -> Router {
        let authenticated = middleware::from_fn_with_state(Arc::clone(&self.state), require_api_key);
        routes::router()
            .with_state(Arc::clone(&self.state))
            .merge(more)
            .fallback(routes::not_found)
            .method_not_allowed_fallback(routes::method_not_allowed)
            .layer(authenticated)
            .merge(open.method_not_allowed_fallback(routes::method_not_allowed))
            .layer(middleware::from_fn_with_state(Arc::clone(&self.state), require_small_head))
            // Outermost, so that every request is in it, whatever the others do with it.
            .layer(self.layer.clone())
    }

    /// By which the server is taken out of service.
    #[must_use]
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.state.shutdown.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_a_fixed_series_without_repetition() {
        // First outputs of SplitMix64 for seed 0, as published with the reference implementation.
        assert_eq!(split_mix(0, 0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(split_mix(0, 1), 0x6e78_9e6a_a1b9_65f4);
        assert_ne!(split_mix(1, 0), split_mix(0, 0));
    }
}
