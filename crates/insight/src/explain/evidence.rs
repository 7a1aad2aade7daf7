//! What speaks for a cause, in figures and sentences.

use std::collections::HashMap;

use wayfare_journey::WaitReason;

use super::Requests;
use super::blame::Blame;
use super::findings::{Cause, Finding, Losses, to_others_prompts};
use super::timeline::Saturation;
use super::waits::PreemptionTax;
use crate::bucket::Bucket;
use crate::quantity::{count, percent, seconds, tokens};
use crate::survey::{Name, Record, Survey};

pub(super) const REFUSED: &[&str] = &["overloaded"];
pub(super) const ENGINE_FAILED: &[&str] = &["engine_dead", "generation_error", "exception"];
pub(super) const TIMED_OUT: &[&str] = &["timeout"];

/// A prompt is long when it has so many times the tokens of the middle one.
const LONG_FACTOR: u32 = 4;

pub(super) struct Evidence<'a> {
    pub(super) survey: &'a Survey,
    pub(super) blame: &'a Blame<'a>,
    pub(super) requests: &'a Requests,
    pub(super) preemption: &'a PreemptionTax,
    pub(super) saturation: &'a Saturation,
    pub(super) losses: &'a Losses<'a>,
}

/// The prompts of all requests, long and short.
struct Prompts {
    middle: u32,
    long: u64,
    all: u64,
    /// Share of the prompt tokens that the long ones have.
    token_share: f64,
}

impl Prompts {
    /// Whether the long ones have far more of the tokens than their number would let one expect.
    fn stand_out(&self) -> bool {
        let expected = self.long as f64 / self.all.max(1) as f64;
        self.token_share >= 0.25 && self.token_share >= 8.0 * expected
    }
}

impl Evidence<'_> {
    pub(super) fn finding(&self, cause: Cause, share: f64) -> Finding {
        Finding {
            cause,
            share,
            sentence: self.sentence(cause, share),
            evidence: self.evidence(cause),
            advice: advice(cause).to_owned(),
        }
    }

    /// Whether those who waited for others' prompts did so for a few long ones: by whom they blame, and without
    /// blame, by who has the prompt tokens.
    pub(super) fn a_few_prompts_take_the_steps(&self) -> bool {
        let prompts = self.prompts();
        let few = prompts.long > 0 && prompts.long * 5 <= prompts.all;
        let (mut blamed, mut on_long) = (0_u64, 0_u64);
        for (record, account, _) in &self.losses.slow {
            let ns = account.get(Bucket::Queue(WaitReason::TokenBudget));
            if let Some(blocker) = self.blocker(record, WaitReason::TokenBudget) {
                blamed += ns;
                on_long += if self.is_long(blocker, &prompts) { ns } else { 0 };
            }
        }
        let all: u64 = self.losses.slow.iter().map(|(_, account, _)| to_others_prompts(account)).sum();
        if blamed * 4 >= all.max(1) {
            return few && on_long * 2 >= blamed;
        }
        few && prompts.stand_out()
    }

    fn blocker(&self, record: &Record, reason: WaitReason) -> Option<&Record> {
        (record.last.wait_reason == Some(reason)).then(|| self.blame.get(record.last.wait_blocker))?
    }

    fn is_long(&self, record: &Record, prompts: &Prompts) -> bool {
        record.prompt_tokens >= prompts.middle.saturating_mul(LONG_FACTOR).max(1)
    }

    fn prompts(&self) -> Prompts {
        let mut all: Vec<u32> =
            self.survey.records().map(|record| record.prompt_tokens).filter(|count| *count > 0).collect();
        all.sort_unstable();
        let middle = all.get(all.len().saturating_sub(1) / 2).copied().unwrap_or(0);
        let limit = middle.saturating_mul(LONG_FACTOR).max(1);
        let at = all.partition_point(|tokens| *tokens < limit);
        let sum = |part: &[u32]| part.iter().map(|tokens| u64::from(*tokens)).sum::<u64>();
        let total = sum(&all);
        Prompts {
            middle,
            long: (all.len() - at) as u64,
            all: all.len() as u64,
            token_share: if total > 0 { sum(&all[at..]) as f64 / total as f64 } else { 0.0 },
        }
    }

    fn sentence(&self, cause: Cause, share: f64) -> String {
        let share = percent(share);
        match cause {
            Cause::QueueLimit => {
                format!("{share} of the requests were refused because as many waited as may.")
            }
            Cause::EngineFailure => format!("{share} of the requests failed in the engine."),
            Cause::Timeout => format!("{share} of the requests ran into their time limit."),
            Cause::LongPrompts => format!(
                "A few long prompts take the steps of the others: {share} of the slow requests' time."
            ),
            Cause::PromptLoad => format!(
                "The steps are full of prompts, none of which stands out: {share} of the slow requests' time."
            ),
            Cause::KvPool => format!(
                "The KV cache is too small for what runs: {share} of the slow requests' time went to waiting for blocks, \
                 being preempted and computing again."
            ),
            Cause::MaxNumSeqs => format!(
                "As many sequences run as may, and the rest waits: {share} of the slow requests' time."
            ),
            Cause::Paused => format!("The engine was paused: {share} of the slow requests' time."),
            Cause::SlowClient => format!(
                "Clients do not read their answers: {share} of the slow requests' time was spent on delivering."
            ),
            Cause::SlowUpload => {
                format!("Clients send their requests slowly: {share} of the slow requests' time.")
            }
            Cause::Frontend => format!(
                "The HTTP side is slow, in preparing or delivering: {share} of the slow requests' time."
            ),
            Cause::LongSteps => format!(
                "Requests arrive while the engine is in a long step: {share} of the slow requests' time."
            ),
            Cause::UnknownQueue => format!(
                "Requests wait in the queue, and these traces do not say for what: {share} of the slow requests' time."
            ),
            Cause::OwnWork => {
                "Nothing stands in the way: requests take as long as their own computing does.".to_owned()
            }
        }
    }

    fn evidence(&self, cause: Cause) -> Vec<String> {
        let mut sentences = Vec::new();
        match cause {
            Cause::QueueLimit => self.of_refusals(&mut sentences),
            Cause::EngineFailure => self.of_failures(ENGINE_FAILED, &mut sentences),
            Cause::Timeout => self.of_failures(TIMED_OUT, &mut sentences),
            Cause::LongPrompts | Cause::PromptLoad => self.of_prompts(&mut sentences),
            Cause::KvPool => self.of_kv_pool(&mut sentences),
            Cause::MaxNumSeqs => self.of_max_num_seqs(&mut sentences),
            Cause::SlowClient => self.of_clients(&mut sentences),
            Cause::Paused => self.of_bucket(Bucket::Queue(WaitReason::Paused), &mut sentences),
            Cause::SlowUpload => self.of_bucket(Bucket::Receive, &mut sentences),
            Cause::Frontend => {
                self.of_bucket(Bucket::Prepare, &mut sentences);
                self.of_bucket(Bucket::Deliver, &mut sentences);
            }
            Cause::LongSteps => self.of_bucket(Bucket::Admit, &mut sentences),
            Cause::UnknownQueue => self.of_bucket(Bucket::Queue(WaitReason::Unknown), &mut sentences),
            Cause::OwnWork => {}
        }
        let waits = matches!(
            cause,
            Cause::LongPrompts | Cause::PromptLoad | Cause::KvPool | Cause::MaxNumSeqs | Cause::UnknownQueue
        );
        if self.saturation.is_saturated && waits {
            sentences.push(format!(
                "The queue grew by {:.2} requests a second while requests arrived: more came than were served.",
                self.saturation.queue_growth_per_second
            ));
        }
        sentences
    }

    fn of_refusals(&self, sentences: &mut Vec<String>) {
        let refused = REFUSED.iter().filter_map(|reason| self.requests.aborted_by_reason.get(*reason)).sum();
        let of_name = self.survey.names().find(REFUSED[0]);
        let records = self.survey.records();
        let with_429 = records
            .filter(|record| Some(record.abort_reason) == of_name && record.status_code == 429)
            .count() as u64;
        sentences.push(format!(
            "{} of {} requests ended `overloaded`, {} of them with status 429.",
            count(refused),
            count(self.requests.total),
            count(with_429)
        ));
        let deepest = self.deepest_queue();
        if deepest > 0.0 {
            sentences.push(format!(
                "At most {deepest:.1} requests waited at a time, on average over a slice of the time."
            ));
        }
    }

    fn deepest_queue(&self) -> f64 {
        let timeline = super::Timeline::of(self.survey);
        timeline.slices.iter().map(|slice| slice.waiting).fold(0.0, f64::max)
    }

    fn of_failures(&self, reasons: &[&str], sentences: &mut Vec<String>) {
        for reason in reasons {
            if let Some(failed) = self.requests.aborted_by_reason.get(*reason) {
                sentences.push(format!(
                    "{} of {} requests ended `{reason}`.",
                    count(*failed),
                    count(self.requests.total)
                ));
            }
        }
    }

    fn of_prompts(&self, sentences: &mut Vec<String>) {
        let prompts = self.prompts();
        if prompts.long > 0 {
            sentences.push(format!(
                "{} of {} prompts have {LONG_FACTOR} times the tokens of the middle one ({}) or more, and {} of all prompt \
                 tokens.",
                count(prompts.long),
                count(prompts.all),
                tokens(prompts.middle.into()),
                percent(prompts.token_share)
            ));
        }
        let budget =
            self.survey.servers().all().iter().filter_map(|server| server.max_num_batched_tokens).max();
        let longest = self.survey.records().max_by_key(|record| record.prompt_tokens);
        if let (Some(budget), Some(longest)) = (budget, longest)
            && u64::from(longest.prompt_tokens) > budget
        {
            sentences.push(format!(
                "The longest prompt, {}, has {}: {} steps of {budget} tokens.",
                self.id(longest),
                tokens(longest.prompt_tokens.into()),
                count(u64::from(longest.prompt_tokens).div_ceil(budget)),
            ));
        }
        let budget_waits = WaitReason::TokenBudget;
        self.of_bucket(Bucket::Queue(budget_waits), sentences);
        self.of_bucket(Bucket::PrefillWait, sentences);
        self.of_bucket(Bucket::Interference, sentences);
        self.of_blockers(budget_waits, sentences);
    }

    fn of_kv_pool(&self, sentences: &mut Vec<String>) {
        let tax = self.preemption;
        if tax.preemptions > 0 {
            let mut sentence = format!(
                "{} preemptions of {} requests, which were preempted for {}",
                count(tax.preemptions),
                count(tax.requests),
                seconds(tax.preempted)
            );
            if tax.recomputed_tokens > 0 {
                sentence += &format!(
                    "; {} were computed again, {} of all prompt tokens that were computed, in {}",
                    tokens(tax.recomputed_tokens),
                    percent(tax.recomputed_share),
                    seconds(tax.recompute)
                );
            }
            sentences.push(sentence + ".");
        }
        for reason in [WaitReason::KvBlocks, WaitReason::HeadOfLine, WaitReason::Unknown] {
            self.of_bucket(Bucket::Queue(reason), sentences);
        }
        let waiting: Vec<f64> = self
            .survey
            .steps()
            .samples()
            .iter()
            .filter(|sample| sample.waiting > 0)
            .map(|sample| f64::from(sample.kv_usage))
            .collect();
        if !waiting.is_empty() {
            let mean = waiting.iter().sum::<f64>() / waiting.len() as f64;
            sentences.push(format!(
                "In the {} recorded steps in which requests waited, {} of the KV blocks were in use on average.",
                count(waiting.len() as u64),
                percent(mean)
            ));
        }
        if let Some((server, pool)) = self.pool() {
            let needs: u64 = self.survey.records().map(|record| self.need(record)).max().unwrap_or(0);
            sentences.push(format!(
                "The pool has room for {}; the largest request needed {}{}.",
                tokens(pool),
                tokens(needs),
                match server {
                    Some(seqs) => format!(", and up to {seqs} may run at once"),
                    None => String::new(),
                }
            ));
        }
        self.of_blockers(WaitReason::KvBlocks, sentences);
    }

    fn pool(&self) -> Option<(Option<u64>, u64)> {
        let server = self.survey.servers().all().iter().find(|server| server.num_kv_blocks.is_some())?;
        // One block is reserved.
        let blocks = server.num_kv_blocks?.saturating_sub(1);
        Some((server.max_num_seqs, blocks.saturating_mul(server.block_size?)))
    }

    fn need(&self, record: &Record) -> u64 {
        u64::from(record.prompt_tokens) + u64::from(record.last.output_tokens)
    }

    fn of_max_num_seqs(&self, sentences: &mut Vec<String>) {
        let limit = self.survey.servers().all().iter().filter_map(|server| server.max_num_seqs).max();
        if let Some(limit) = limit {
            sentences.push(format!("The server runs at most {limit} sequences at once."));
        }
        self.of_bucket(Bucket::Queue(WaitReason::MaxNumSeqs), sentences);
        let samples = self.survey.steps().samples();
        if !samples.is_empty() {
            let usage = samples.iter().map(|sample| sample.kv_usage).fold(0.0, f32::max);
            sentences.push(format!("At most {} of the KV blocks were in use.", percent(usage.into())));
        }
        self.of_blockers(WaitReason::MaxNumSeqs, sentences);
    }

    fn of_clients(&self, sentences: &mut Vec<String>) {
        let (mut clients, mut blocked, mut longest) = (0_u64, 0.0, (0, Name::NONE));
        for record in self.survey.records().filter(|record| record.blocked_ns > 0) {
            clients += 1;
            blocked += record.blocked_ns as f64 / 1e9;
            longest = longest.max((record.blocked_ns, record.request_id));
        }
        if clients > 0 {
            sentences.push(format!(
                "For {} requests output lay ready while the client took nothing, for {} in all; the longest was {} with {}.",
                count(clients),
                seconds(blocked),
                self.survey.names().text(longest.1),
                seconds(longest.0 as f64 / 1e9)
            ));
        }
        self.of_bucket(Bucket::Deliver, sentences);
    }

    /// What the slow requests have in a bucket.
    fn of_bucket(&self, bucket: Bucket, sentences: &mut Vec<String>) {
        let in_bucket = |account: &crate::Buckets| account.get(bucket);
        let with: Vec<u64> =
            self.losses.slow.iter().map(|(_, account, _)| in_bucket(account)).filter(|ns| *ns > 0).collect();
        let sum = with.iter().fold(0.0, |sum, ns| sum + *ns as f64);
        if sum <= 0.0 || sum < 0.01 * self.losses.slow_ns {
            return;
        }
        sentences.push(format!(
            "`{}` has {} of the slow requests' time: {} of them, {} each on average.",
            bucket.name(),
            percent(sum / self.losses.slow_ns),
            count(with.len() as u64),
            seconds(sum / 1e9 / with.len() as f64)
        ));
    }

    /// Who is blamed most for a reason.
    fn of_blockers(&self, reason: WaitReason, sentences: &mut Vec<String>) {
        let mut by_blocker: HashMap<Name, (u64, u64)> = HashMap::new();
        for (record, account, _) in &self.losses.slow {
            let blocker = record.last.wait_blocker;
            if record.last.wait_reason == Some(reason) && !blocker.is_none() {
                let (ns, blocked) = by_blocker.entry(blocker).or_default();
                *ns += account.get(Bucket::Queue(reason));
                *blocked += 1;
            }
        }
        let worst = by_blocker.iter().max_by_key(|(name, sums)| (**sums, std::cmp::Reverse(**name)));
        let Some((name, (ns, blocked))) = worst else { return };
        let text = self.survey.names().text(*name);
        let what = match self.blame.get(*name) {
            Some(record) => format!(
                " ({} prompt, {} output tokens)",
                count(record.prompt_tokens.into()),
                count(record.output_tokens.into())
            ),
            None => String::new(),
        };
        sentences.push(format!(
            "Most of it is blamed on {text}{what}: {} slow requests waited for it, {} together.",
            count(*blocked),
            seconds(*ns as f64 / 1e9)
        ));
    }

    fn id(&self, record: &Record) -> &str {
        self.survey.names().text(record.request_id)
    }
}

fn advice(cause: Cause) -> &'static str {
    match cause {
        Cause::QueueLimit => {
            "The queue limit does its work; more servers, or a larger --max-num-queued-reqs if waiting is better than a 429."
        }
        Cause::EngineFailure => "The server's log says what failed.",
        Cause::Timeout => "A longer --request-timeout, or less load.",
        Cause::LongPrompts => {
            "--long-prefill-token-threshold keeps a long prompt from taking whole steps; or a server of their own for long prompts."
        }
        Cause::PromptLoad => {
            "More servers, or prefix caching where prompts begin alike; a smaller --max-num-batched-tokens for steadier decoding."
        }
        Cause::KvPool => {
            "A larger KV cache (--num-gpu-blocks-override, or more memory), a smaller --max-num-seqs, or a smaller max_tokens."
        }
        Cause::MaxNumSeqs => "A larger --max-num-seqs, if the KV cache has room; otherwise more servers.",
        Cause::Paused => "Whoever paused the engine (/pause) knows why; /resume goes on.",
        Cause::SlowClient => "Look at the clients, or at a proxy before them that buffers.",
        Cause::SlowUpload => "Look at the network, or at the clients.",
        Cause::Frontend => "More CPU for the HTTP side; shorter prompts or a cheaper chat template.",
        Cause::LongSteps => "A smaller --max-num-batched-tokens makes steps shorter.",
        Cause::UnknownQueue => "Step tracing shows what was running and how full the KV cache was.",
        Cause::OwnWork => "A faster machine or model, shorter prompts or answers.",
    }
}
