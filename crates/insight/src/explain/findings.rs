//! Why requests were slow or failed.
//!
//! Slow are the quarter of the requests that lost most time to waiting. Waiting in the queue, being preempted, and a client that does not read are losses in full. What others' prompts take
//! of one's own steps is ordinary in batches, so it counts as far as the slow quarter has more of it than the fast
//! one. A wait behind the head of the queue counts for what the head waits for; waiting for others' prompts counts for
//! preemption as far as those are computed again.

use serde::Serialize;

use super::blame::Blame;
use super::evidence::Evidence;
use super::lost::{Circumstances, Lost};
use super::timeline::Saturation;
use super::waits::PreemptionTax;
use super::{Requests, evidence};
use crate::bucket::{Bucket, Buckets};
use crate::survey::{Record, Survey};

/// A cause has to have so much of the slow requests' time to be named.
const MIN_SHARE: f64 = 0.05;
/// So many of the requests have to fail in one way for it to be named.
const MIN_FAILED: f64 = 0.01;
/// From here on the KV cache counts as full.
const FULL_CACHE: f64 = 0.85;

/// What makes requests slow or fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Requests were refused because the queue was full.
    QueueLimit,
    /// The engine failed or was gone.
    EngineFailure,
    /// Requests ran into their time limit.
    Timeout,
    /// A few long prompts took the steps of the others.
    LongPrompts,
    /// The steps were full of prompts, none of which stands out.
    PromptLoad,
    /// Too few KV blocks for what ran: waiting for blocks, preemption, computing again.
    KvPool,
    /// As many sequences ran as may.
    MaxNumSeqs,
    /// The engine was paused.
    Paused,
    /// Clients that did not read their answer.
    SlowClient,
    /// Clients that sent their request slowly.
    SlowUpload,
    /// The HTTP side: parsing, tokenising, writing.
    Frontend,
    /// Requests arrived while the engine was in a long step.
    LongSteps,
    /// Waiting in the queue, and nothing tells for what.
    UnknownQueue,
    /// Nothing stands in the way: the time is the requests' own computing.
    OwnWork,
}

impl Cause {
    /// Its name, as in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Cause::QueueLimit => "queue_limit",
            Cause::EngineFailure => "engine_failure",
            Cause::Timeout => "timeout",
            Cause::LongPrompts => "long_prompts",
            Cause::PromptLoad => "prompt_load",
            Cause::KvPool => "kv_pool",
            Cause::MaxNumSeqs => "max_num_seqs",
            Cause::Paused => "paused",
            Cause::SlowClient => "slow_client",
            Cause::SlowUpload => "slow_upload",
            Cause::Frontend => "frontend",
            Cause::LongSteps => "long_steps",
            Cause::UnknownQueue => "unknown_queue",
            Cause::OwnWork => "own_work",
        }
    }

    /// Whether requests failed by it, rather than were slow.
    #[must_use]
    pub fn is_failure(self) -> bool {
        matches!(self, Cause::QueueLimit | Cause::EngineFailure | Cause::Timeout)
    }
}

/// One cause with what speaks for it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// Which.
    pub cause: Cause,
    /// Of a failure, the share of the requests that failed so; otherwise the share of the slow requests' time.
    pub share: f64,
    /// It in a sentence.
    pub sentence: String,
    /// What speaks for it, in sentences with figures.
    pub evidence: Vec<String>,
    /// What helps.
    pub advice: String,
}

/// What the slow requests lost.
pub(super) struct Losses<'a> {
    pub(super) slow: Vec<(&'a Record, Buckets, Lost)>,
    pub(super) slow_ns: f64,
    pub(super) by_cause: Lost,
}

pub(super) fn find(
    survey: &Survey,
    blame: &Blame<'_>,
    requests: &Requests,
    preemption: &PreemptionTax,
    saturation: &Saturation,
) -> Vec<Finding> {
    let circumstances = Circumstances {
        blame,
        recomputed_share: preemption.recomputed_share,
        cache_was_full: preemption.preemptions > 0 && cache_was_full(survey),
    };
    let losses = losses(survey, &circumstances);
    let evidence = Evidence { survey, blame, requests, preemption, saturation, losses: &losses };
    let mut findings = failures(requests, &evidence);
    let mut slowness: Vec<(Cause, f64)> = losses
        .by_cause
        .iter()
        .filter(|_| losses.slow_ns > 0.0)
        .map(|(cause, ns)| (cause, ns / losses.slow_ns))
        .filter(|(_, share)| *share >= MIN_SHARE)
        .collect();
    slowness.sort_by(|one, other| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0)));
    for (cause, share) in slowness {
        let cause = if cause == Cause::PromptLoad && evidence.a_few_prompts_take_the_steps() {
            Cause::LongPrompts
        } else {
            cause
        };
        findings.push(evidence.finding(cause, share));
    }
    if findings.is_empty() && requests.total > 0 {
        findings.push(evidence.finding(Cause::OwnWork, 1.0));
    }
    findings
}

fn failures(requests: &Requests, evidence: &Evidence<'_>) -> Vec<Finding> {
    let count = |reasons: &[&str]| -> u64 {
        reasons.iter().filter_map(|reason| requests.aborted_by_reason.get(*reason)).sum()
    };
    let mut failures: Vec<_> = [
        (Cause::QueueLimit, count(evidence::REFUSED)),
        (Cause::EngineFailure, count(evidence::ENGINE_FAILED)),
        (Cause::Timeout, count(evidence::TIMED_OUT)),
    ]
    .into_iter()
    .map(|(cause, failed)| (cause, failed as f64 / requests.total.max(1) as f64))
    .filter(|(_, share)| *share >= MIN_FAILED)
    .collect();
    failures.sort_by(|one, other| other.1.total_cmp(&one.1));
    failures.into_iter().map(|(cause, share)| evidence.finding(cause, share)).collect()
}

/// Whether most blocks were in use while requests waited, of the steps that were recorded.
fn cache_was_full(survey: &Survey) -> bool {
    let waiting = survey.steps().samples().iter().filter(|sample| sample.waiting > 0);
    let (mut sum, mut count) = (0.0, 0_u64);
    for sample in waiting {
        sum += f64::from(sample.kv_usage);
        count += 1;
    }
    count > 0 && sum / count as f64 >= FULL_CACHE
}

fn losses<'a>(survey: &'a Survey, circumstances: &Circumstances<'_>) -> Losses<'a> {
    let accounted = |record: &'a Record| {
        let account = record.is_timed().then(|| record.account()).flatten()?;
        let lost = Lost::of(record, &account, circumstances);
        Some((lost.total(), record))
    };
    let mut ranked: Vec<(f64, &Record)> = survey.records().filter_map(accounted).collect();
    ranked.sort_by(|one, other| other.0.total_cmp(&one.0));
    let quarter = ranked.len().div_ceil(4);
    let detail = |record: &'a Record| {
        let account = record.account().unwrap_or_default();
        let lost = Lost::of(record, &account, circumstances);
        (record, account, lost)
    };
    let slow: Vec<_> = ranked[..quarter].iter().map(|(_, record)| detail(record)).collect();
    let fast = &ranked[ranked.len() - quarter..];
    let mut ordinary = Lost::default();
    for (_, record) in fast {
        for (cause, ns) in detail(record).2.iter().filter(|(cause, _)| is_ordinary(*cause)) {
            ordinary.add(cause, ns / fast.len() as f64);
        }
    }
    let mut by_cause = Lost::default();
    let slow_count = slow.len() as f64;
    let mut sums = Lost::default();
    for (_, _, lost) in &slow {
        for (cause, ns) in lost.iter() {
            sums.add(cause, ns);
        }
    }
    for (cause, ns) in sums.iter() {
        let expected = if is_ordinary(cause) { ordinary.get(cause) * slow_count } else { 0.0 };
        by_cause.add(cause, ns - expected);
    }
    let slow_ns = slow.iter().map(|(_, account, _)| account.total() as f64).sum();
    Losses { slow, slow_ns, by_cause }
}

/// Whether there is some of it wherever requests are computed together.
fn is_ordinary(cause: Cause) -> bool {
    matches!(cause, Cause::PromptLoad | Cause::LongSteps | Cause::Frontend | Cause::SlowUpload)
}

/// What a request lost to others' prompts, nanoseconds.
pub(super) fn to_others_prompts(account: &Buckets) -> u64 {
    use wayfare_journey::WaitReason::TokenBudget;
    account.get(Bucket::Queue(TokenBudget))
        + account.get(Bucket::PrefillWait)
        + account.get(Bucket::Interference)
}
