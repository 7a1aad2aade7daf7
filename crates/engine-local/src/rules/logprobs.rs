//! Log-probabilities of tokens, before anything has changed the logits.

use wayfare_engine::{TokenId, TokenLogprobs};

/// What a row of logits says, apart from the token that is chosen later.
#[derive(Debug)]
pub(super) struct Raw {
    /// Natural logarithm of the sum of the exponentials.
    log_sum: f64,
    top: Vec<(TokenId, f32)>,
    logits: Vec<f32>,
}

impl Raw {
    /// Keeps the logits, because they are changed before the token is chosen.
    pub(super) fn of(logits: &[f32], top: u32) -> Self {
        Self { log_sum: log_sum(logits), top: most_likely(logits, top as usize), logits: logits.to_vec() }
    }

    pub(super) fn finish(self, token: TokenId, top: u32) -> TokenLogprobs {
        let Self { log_sum, top: likely, logits } = self;
        debug_assert!(likely.len() <= top as usize);
        about(&logits, token, log_sum, likely)
    }
}

/// The log-probability of `token` and of the `top` most likely ones.
pub(super) fn of(logits: &[f32], token: TokenId, top: u32) -> TokenLogprobs {
    about(logits, token, log_sum(logits), most_likely(logits, top as usize))
}

fn about(logits: &[f32], token: TokenId, log_sum: f64, mut top: Vec<(TokenId, f32)>) -> TokenLogprobs {
    let logit = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    let at_least_as_likely = logits.iter().filter(|other| **other >= logit).count();
    for (_, value) in &mut top {
        *value = (f64::from(*value) - log_sum) as f32;
    }
    TokenLogprobs {
        token,
        logprob: (f64::from(logit) - log_sum) as f32,
        rank: u32::try_from(at_least_as_likely).unwrap_or(u32::MAX).max(1),
        top,
    }
}

fn log_sum(logits: &[f32]) -> f64 {
    let largest = logits.iter().copied().filter(|logit| logit.is_finite()).fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 =
        logits.iter().filter(|logit| logit.is_finite()).map(|logit| f64::from((logit - largest).exp())).sum();
    f64::from(largest) + sum.ln()
}

/// The `count` largest finite logits, largest first; equal ones by token.
fn most_likely(logits: &[f32], count: usize) -> Vec<(TokenId, f32)> {
    let mut top: Vec<(TokenId, f32)> = Vec::with_capacity(count + 1);
    if count == 0 {
        return top;
    }
    for (token, &logit) in (0..).zip(logits) {
        let is_full = top.len() == count;
        if !logit.is_finite() || is_full && top.last().is_some_and(|(_, least)| logit <= *least) {
            continue;
        }
        let place = top.partition_point(|(_, other)| *other >= logit);
        top.insert(place, (token, logit));
        top.truncate(count);
    }
    top
}
