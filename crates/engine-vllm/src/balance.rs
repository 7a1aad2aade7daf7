//! Which engine core gets a request.

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use wayfare_engine::{EngineRequest, StatsCell};

/// Prompts that begin with the same so many tokens go to the same engine core, whose prefix cache knows them.
const AFFINITY_TOKENS: usize = 256;
/// Shorter beginnings are computed sooner than the queue of a busy engine core is through.
const MIN_AFFINITY_TOKENS: usize = 32;
/// A request that waits is worth so many that run: it says that there is no room.
const WAITING_WEIGHT: u64 = 4;
/// Affinity may cost a queue this much longer than the shortest: a quarter, and a few requests.
const SLACK_SHARE: u64 = 4;
const SLACK_REQUESTS: u64 = 4;

/// What is known of an engine core wherever requests are submitted.
#[derive(Debug, Default)]
pub(crate) struct RankLoad {
    /// Requests that were given to it and have not ended.
    pub(crate) in_flight: AtomicU64,
    /// Requests that it says are waiting.
    pub(crate) waiting: AtomicU64,
    pub(crate) is_dead: AtomicBool,
    /// For whoever watches.
    pub(crate) stats: StatsCell,
}

impl RankLoad {
    fn weight(&self) -> u64 {
        let waiting = self.waiting.load(Ordering::Relaxed);
        self.in_flight.load(Ordering::Relaxed).saturating_add((WAITING_WEIGHT - 1) * waiting)
    }

    fn is_alive(&self) -> bool {
        !self.is_dead.load(Ordering::Acquire)
    }
}

/// Chooses an engine core for a request: the one that has seen such a prompt, unless its queue is much longer than the
/// shortest; for short prompts the one with the shortest queue. `None` when none is alive.
pub(crate) fn choose(loads: &[RankLoad], request: &EngineRequest) -> Option<u16> {
    if let [only] = loads {
        return only.is_alive().then_some(0);
    }
    let key = affinity_key(request);
    // Every rank is as likely as any other to be the first choice of a prompt, and when one dies, only its prompts go
    // elsewhere (rendezvous hashing).
    let alive = || (0_u16..).zip(loads).filter(|(_, load)| load.is_alive());
    let least = alive().map(|(_, load)| load.weight()).min()?;
    let limit = least + least / SLACK_SHARE + SLACK_REQUESTS;
    let candidates = alive().filter(|(_, load)| load.weight() <= if key.is_some() { limit } else { least });
    let preferred = candidates.max_by_key(|(rank, _)| spread(key.unwrap_or(request.id.0), *rank));
    preferred.map(|(rank, _)| rank)
}

fn affinity_key(request: &EngineRequest) -> Option<u64> {
    let beginning = request.prompt.get(..AFFINITY_TOKENS.min(request.prompt.len()))?;
    if beginning.len() < MIN_AFFINITY_TOKENS {
        return None;
    }
    let mut hasher = DefaultHasher::new();
    request.cache_salt.hash(&mut hasher);
    beginning.hash(&mut hasher);
    Some(hasher.finish())
}

fn spread(key: u64, rank: u16) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key, rank).hash(&mut hasher);
    hasher.finish()
}
