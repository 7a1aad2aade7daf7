//! Why requests waited, and what preemption cost.

use std::collections::HashMap;

use serde::Serialize;
use wayfare_journey::WaitReason;

use super::blame::Blame;
use crate::bucket::Bucket;
use crate::survey::{Name, Survey};

/// Blockers that are named per reason.
const MAX_BLOCKERS: usize = 3;

/// The waits for one reason.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Wait {
    /// The reason, as `wait.reason` has it.
    pub reason: &'static str,
    /// Requests that waited for it.
    pub requests: u64,
    /// Their waits together, seconds.
    pub total: f64,
    /// The longest, seconds.
    pub max: f64,
    /// Its share of the time of all requests.
    pub share: f64,
    /// Those to blame for most of it.
    pub blockers: Vec<Blocker>,
}

/// A request that others waited for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Blocker {
    /// Its id.
    pub request_id: String,
    /// Requests that waited for it.
    pub blocked: u64,
    /// Their waits together, seconds.
    pub total: f64,
    /// Its prompt tokens; 0 when it is not in the files.
    pub prompt_tokens: u32,
    /// Its output tokens; 0 when it is not in the files.
    pub output_tokens: u32,
}

/// What preemption cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PreemptionTax {
    /// Preemptions.
    pub preemptions: u64,
    /// Requests that were preempted.
    pub requests: u64,
    /// Tokens whose KV was thrown away, as PREEMPTED says.
    pub tokens_lost: u64,
    /// Tokens computed again.
    pub recomputed_tokens: u64,
    /// Their share of all prompt tokens that were computed.
    pub recomputed_share: f64,
    /// Time preempted, seconds.
    pub preempted: f64,
    /// Time computing again, seconds; only where there is a ledger.
    pub recompute: f64,
    /// Share of both in the time of all requests.
    pub share: f64,
}

pub(super) fn of(survey: &Survey, blame: &Blame<'_>) -> Vec<Wait> {
    let mut all_ns = 0_u128;
    let mut waits: Vec<_> = WaitReason::ALL
        .iter()
        .map(|reason| Wait {
            reason: reason.as_str(),
            requests: 0,
            total: 0.0,
            max: 0.0,
            share: 0.0,
            blockers: Vec::new(),
        })
        .collect();
    let mut blockers: HashMap<(usize, Name), (u64, u64)> = HashMap::new();
    for record in survey.records() {
        let Some(account) = record.account() else { continue };
        all_ns += u128::from(account.total());
        for (place, (reason, wait)) in WaitReason::ALL.iter().zip(&mut waits).enumerate() {
            let ns = account.get(Bucket::Queue(*reason));
            if ns == 0 {
                continue;
            }
            let seconds = ns as f64 / 1e9;
            wait.requests += 1;
            wait.total += seconds;
            wait.max = wait.max.max(seconds);
            if record.last.wait_reason == Some(*reason) && !record.last.wait_blocker.is_none() {
                let (count, sum) = blockers.entry((place, record.last.wait_blocker)).or_default();
                *count += 1;
                *sum += ns;
            }
        }
    }
    for (place, wait) in waits.iter_mut().enumerate() {
        wait.share = if all_ns > 0 { wait.total * 1e9 / all_ns as f64 } else { 0.0 };
        let mut of_this: Vec<_> = blockers.iter().filter(|((reason, _), _)| *reason == place).collect();
        of_this.sort_by_key(|((_, name), (count, sum))| (std::cmp::Reverse((*sum, *count)), *name));
        wait.blockers = of_this
            .into_iter()
            .take(MAX_BLOCKERS)
            .map(|((_, name), (count, sum))| Blocker {
                request_id: survey.names().text(*name).to_owned(),
                blocked: *count,
                total: *sum as f64 / 1e9,
                prompt_tokens: blame.get(*name).map_or(0, |record| record.prompt_tokens),
                output_tokens: blame.get(*name).map_or(0, |record| record.output_tokens),
            })
            .collect();
    }
    waits.retain(|wait| wait.requests > 0);
    waits.sort_by(|one, other| other.total.total_cmp(&one.total));
    waits
}

impl PreemptionTax {
    pub(super) fn of(survey: &Survey) -> Self {
        let mut tax = Self::default();
        let (mut all_ns, mut computed) = (0.0, 0_u64);
        for record in survey.records() {
            tax.preemptions += u64::from(record.preemptions);
            tax.requests += u64::from(record.preemptions > 0);
            tax.tokens_lost += u64::from(record.tokens_lost);
            tax.recomputed_tokens += u64::from(record.recomputed_tokens);
            computed += u64::from(record.prompt_tokens.saturating_sub(record.cached_tokens));
            if let Some(account) = record.account() {
                all_ns += account.total() as f64;
                tax.preempted += account.get(Bucket::Preempted) as f64 / 1e9;
                tax.recompute += account.get(Bucket::Recompute) as f64 / 1e9;
            }
        }
        let all_computed = computed + tax.recomputed_tokens;
        if all_computed > 0 {
            tax.recomputed_share = tax.recomputed_tokens as f64 / all_computed as f64;
        }
        if all_ns > 0.0 {
            tax.share = (tax.preempted + tax.recompute) * 1e9 / all_ns;
        }
        tax
    }
}
