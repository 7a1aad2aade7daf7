//! Failures on purpose, in a share of the requests.
//!
//! A request that is to fail is chosen once: some kinds strike when it is submitted, the others in the step that
//! would give its first token.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use wayfare_engine::{
    AbortCause, Engine, EngineFault, EngineLimits, EngineRequest, EngineStats, RequestId, SubmitError,
};

use crate::random::{happens, mix};

/// Tells the choices at submission from those in a step.
const SUBMISSIONS: u64 = 0x5b;
const STEPS: u64 = 0x57;

/// What can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The request is refused as if the queue were full.
    RateLimit,
    /// The request is refused as if the engine were not running; others are served.
    ServerError,
    /// The step fails, and with it every sequence in it.
    ExecutorError,
    /// The step takes so much longer.
    SlowStep(Duration),
    /// The executor panics: the engine is gone for good.
    EnginePanic,
}

impl FailureKind {
    fn is_at_submission(self) -> bool {
        matches!(self, FailureKind::RateLimit | FailureKind::ServerError)
    }
}

/// Which share of the requests fails, and how.
#[derive(Clone, Debug, PartialEq)]
pub struct FailurePlan {
    /// Probability that a request fails, from 0 to 1.
    pub probability: f64,
    /// Each failing request fails in one of these ways, all equally likely. Without any, nothing fails.
    pub kinds: Vec<FailureKind>,
    /// Seed of the choices.
    pub seed: u64,
}

impl FailurePlan {
    /// The failures in steps; `None` when there are none.
    pub(crate) fn in_steps(&self) -> Option<Lottery> {
        let (submission, in_steps): (Vec<_>, Vec<_>) =
            self.kinds.iter().partition(|kind| kind.is_at_submission());
        let share = |kinds: &[FailureKind]| kinds.len() as f64 / self.kinds.len() as f64;
        // Of those that were not refused, so many more must fail that the whole probability is as asked for.
        let left = 1.0 - self.probability * share(&submission);
        let probability = (self.probability * share(&in_steps) / left).min(1.0);
        Lottery::new(probability, in_steps, mix(self.seed, STEPS))
    }

    fn at_submission(&self) -> Option<Lottery> {
        let kinds: Vec<_> = self.kinds.iter().copied().filter(|kind| kind.is_at_submission()).collect();
        let probability = self.probability * kinds.len() as f64 / self.kinds.len() as f64;
        Lottery::new(probability, kinds, mix(self.seed, SUBMISSIONS))
    }
}

/// Draws, request after request.
#[derive(Debug)]
pub(crate) struct Lottery {
    probability: f64,
    kinds: Vec<FailureKind>,
    seed: u64,
    drawn: AtomicU64,
}

impl Lottery {
    fn new(probability: f64, kinds: Vec<FailureKind>, seed: u64) -> Option<Self> {
        let can_happen = probability > 0.0 && !kinds.is_empty();
        can_happen.then(|| Self { probability, kinds, seed, drawn: AtomicU64::new(0) })
    }

    /// What befalls the next request.
    pub(crate) fn draw(&self) -> Option<FailureKind> {
        let place = self.drawn.fetch_add(1, Ordering::Relaxed);
        if !happens(self.probability, self.seed, place) {
            return None;
        }
        let kind = mix(self.seed.rotate_left(32), place) % self.kinds.len() as u64;
        self.kinds.get(kind as usize).copied()
    }
}

/// An engine in front of another that refuses some requests on purpose.
pub struct RefusingEngine {
    inner: Arc<dyn Engine>,
    lottery: Option<Lottery>,
}

impl RefusingEngine {
    /// Refuses what the plan says, and hands the rest on.
    #[must_use]
    pub fn new(inner: Arc<dyn Engine>, plan: &FailurePlan) -> Self {
        Self { inner, lottery: plan.at_submission() }
    }
}

impl Engine for RefusingEngine {
    fn submit(&self, request: EngineRequest) -> Result<(), SubmitError> {
        let error = match self.lottery.as_ref().and_then(Lottery::draw) {
            Some(FailureKind::RateLimit) => SubmitError::Overloaded { waiting: self.stats().waiting },
            Some(FailureKind::ServerError) => {
                let message = "a failure was injected into this request".to_owned();
                SubmitError::EngineDead(Arc::new(EngineFault { message }))
            }
            _ => return self.inner.submit(request),
        };
        request.refuse();
        Err(error)
    }

    fn abort(&self, id: RequestId, cause: AbortCause) {
        self.inner.abort(id, cause);
    }

    fn finish(&self, id: RequestId) {
        self.inner.finish(id);
    }

    fn limits(&self) -> EngineLimits {
        self.inner.limits()
    }

    fn stats(&self) -> EngineStats {
        self.inner.stats()
    }

    fn stats_by_engine(&self) -> Vec<(u32, EngineStats)> {
        self.inner.stats_by_engine()
    }

    fn fault(&self) -> Option<Arc<EngineFault>> {
        self.inner.fault()
    }
}

impl fmt::Debug for RefusingEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefusingEngine").field("lottery", &self.lottery).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: FailureKind = FailureKind::SlowStep(Duration::from_secs(1));

    fn plan(probability: f64, kinds: &[FailureKind]) -> FailurePlan {
        FailurePlan { probability, kinds: kinds.to_vec(), seed: 7 }
    }

    /// How many of ten thousand requests are refused, and how many of the others fail in a step.
    fn failures(plan: &FailurePlan) -> (usize, usize) {
        let draw = |lottery: &Option<Lottery>| lottery.as_ref().and_then(Lottery::draw).is_some();
        let (submission, steps) = (plan.at_submission(), plan.in_steps());
        let refused = (0..10_000).filter(|_| draw(&submission)).count();
        (refused, (refused..10_000).filter(|_| draw(&steps)).count())
    }

    #[test]
    fn the_share_is_that_of_all_kinds_together() {
        assert_eq!(failures(&plan(0.0, &[FailureKind::RateLimit, SLOW])), (0, 0));
        assert_eq!(failures(&plan(1.0, &[])), (0, 0));
        assert_eq!(failures(&plan(1.0, &[SLOW])), (0, 10_000));
        assert_eq!(failures(&plan(1.0, &[FailureKind::ServerError])), (10_000, 0));
        let (refused, failed) = failures(&plan(1.0, &[FailureKind::RateLimit, SLOW]));
        assert!((4_800..5_200).contains(&refused), "{refused}");
        assert_eq!(refused + failed, 10_000);
        let kinds = [FailureKind::RateLimit, SLOW, FailureKind::ExecutorError, FailureKind::EnginePanic];
        let (refused, failed) = failures(&plan(0.2, &kinds));
        assert!((400..600).contains(&refused) && (1_350..1_650).contains(&failed), "{refused} {failed}");
    }

    #[test]
    fn the_same_seed_draws_the_same() {
        let drawn = |seed| {
            let plan = FailurePlan { seed, ..plan(0.5, &[SLOW, FailureKind::ExecutorError]) };
            let lottery = plan.in_steps().unwrap();
            (0..100).map(|_| lottery.draw()).collect::<Vec<_>>()
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        for kind in [None, Some(SLOW), Some(FailureKind::ExecutorError)] {
            assert!(drawn(1).contains(&kind), "{kind:?}");
        }
    }
}
