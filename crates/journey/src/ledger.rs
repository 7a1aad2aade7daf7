//! Where the time of a request goes: buckets in whole nanoseconds that add up to its life.
//!
//! HOT PATH: a [`LedgerMeter`] travels with each sequence in the engine, traced or not, and is advanced once per
//! step: a few additions.

use crate::MonoNs;
use crate::core_record::CoreRecord;
use crate::event::CoreEventKind;

/// Why a sequence in the waiting queue was not scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WaitReason {
    /// Nothing stood in its way: no step has begun since it came.
    NextStep,
    /// Others had taken all tokens of the step.
    TokenBudget,
    /// As many sequences were running as may.
    MaxNumSeqs,
    /// Too few KV blocks were free for it, and it was first in the queue.
    KvBlocks,
    /// The first in the queue could not be scheduled, and nobody overtakes.
    HeadOfLine,
    /// The engine was paused. A sequence that was running when the engine was paused waited for this reason, too.
    Paused,
    /// The engine does not say.
    Unknown,
}

impl WaitReason {
    /// How many there are.
    pub const COUNT: usize = 7;

    /// All of them, in the order of their numbers.
    pub const ALL: [WaitReason; Self::COUNT] = [
        WaitReason::NextStep,
        WaitReason::TokenBudget,
        WaitReason::MaxNumSeqs,
        WaitReason::KvBlocks,
        WaitReason::HeadOfLine,
        WaitReason::Paused,
        WaitReason::Unknown,
    ];

    /// The value of the `wait.reason` attribute and of the `reason` metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            WaitReason::NextStep => "next_step",
            WaitReason::TokenBudget => "token_budget",
            WaitReason::MaxNumSeqs => "max_num_seqs",
            WaitReason::KvBlocks => "kv_blocks",
            WaitReason::HeadOfLine => "head_of_line",
            WaitReason::Paused => "paused",
            WaitReason::Unknown => "unknown",
        }
    }
}

/// Nanoseconds by [`WaitReason`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitTimes([u64; WaitReason::COUNT]);

impl WaitTimes {
    /// The time waited for this reason, in nanoseconds.
    #[must_use]
    pub fn get(&self, reason: WaitReason) -> u64 {
        self.0[reason as usize]
    }

    /// Adds `ns` to the time waited for this reason.
    pub fn add(&mut self, reason: WaitReason, ns: u64) {
        self.0[reason as usize] += ns;
    }

    /// All reasons together, in nanoseconds.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The reasons for which there was any wait, with the time in nanoseconds.
    pub fn iter(&self) -> impl Iterator<Item = (WaitReason, u64)> + '_ {
        WaitReason::ALL.into_iter().map(|reason| (reason, self.get(reason))).filter(|(_, ns)| *ns > 0)
    }

    /// The reason for most of the wait, waiting for the next step aside; `None` when there was none.
    #[must_use]
    pub fn main_reason(&self) -> Option<WaitReason> {
        let named = self.iter().filter(|(reason, _)| *reason != WaitReason::NextStep);
        named.max_by_key(|(_, ns)| *ns).map(|(reason, _)| reason)
    }
}

/// The account of one sequence in the engine, from QUEUED to FINISHED. The buckets add up to that time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreLedger {
    /// QUEUED to the first SCHEDULED, by reason; and, as [`WaitReason::Paused`], the time for which the engine
    /// was paused while the sequence was running.
    pub queue: WaitTimes,
    /// Steps that computed prompt tokens for the first time.
    pub prefill_ns: u64,
    /// Between those, while other sequences' work ran.
    pub prefill_wait_ns: u64,
    /// Steps that produced tokens, without interference.
    pub decode_ns: u64,
    /// The share of such steps that was other sequences' prefill.
    pub interference_ns: u64,
    /// PREEMPTED to SCHEDULED(RESUME).
    pub preempted_ns: u64,
    /// Steps that computed again what had been computed before a preemption.
    pub recompute_ns: u64,
    /// Prompt tokens found in the prefix cache when the sequence was first scheduled.
    pub cached_tokens: u32,
    /// Tokens computed again after a preemption.
    pub recomputed_tokens: u32,
    /// Where the last nanosecond went.
    last: CoreBucket,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum CoreBucket {
    #[default]
    Queue,
    Prefill,
    PrefillWait,
    Decode,
    Preempted,
    Recompute,
}

impl CoreLedger {
    /// QUEUED to FINISHED, in nanoseconds.
    #[must_use]
    pub fn total_ns(&self) -> u64 {
        self.queue.total()
            + self.prefill_ns
            + self.prefill_wait_ns
            + self.decode_ns
            + self.interference_ns
            + self.preempted_ns
            + self.recompute_ns
    }

    /// The account that the events alone allow, for an engine that keeps none: no reasons, no interference, no
    /// recomputation.
    pub(crate) fn of_events(record: &CoreRecord) -> Self {
        let mut ledger = Self::default();
        let mut has_first_token = false;
        for (index, pair) in record.events.windows(2).enumerate() {
            let (event, ns) = (&pair[0], pair[1].at.since(pair[0].at));
            let running = |ledger: &mut Self, ns, decodes| {
                ledger.add(if decodes { CoreBucket::Decode } else { CoreBucket::Prefill }, ns);
            };
            match &event.kind {
                CoreEventKind::Queued => {
                    ledger.queue.add(WaitReason::Unknown, ns);
                    ledger.last = CoreBucket::Queue;
                }
                CoreEventKind::Preempted { .. } => {
                    let preempted = record.folded(index).map_or(ns, |folded| folded.preempted_ns.min(ns));
                    running(&mut ledger, ns - preempted, has_first_token);
                    ledger.add(CoreBucket::Preempted, preempted);
                }
                CoreEventKind::Scheduled { cached_tokens, .. } => {
                    ledger.cached_tokens = ledger.cached_tokens.max(*cached_tokens);
                    running(&mut ledger, ns, has_first_token);
                }
                CoreEventKind::FirstToken => {
                    has_first_token = true;
                    running(&mut ledger, ns, true);
                }
                CoreEventKind::Finished { .. } => {}
            }
        }
        ledger
    }

    fn add(&mut self, bucket: CoreBucket, ns: u64) {
        *self.bucket_mut(bucket) += ns;
        self.last = bucket;
    }

    fn bucket_mut(&mut self, bucket: CoreBucket) -> &mut u64 {
        match bucket {
            CoreBucket::Queue => &mut self.queue.0[WaitReason::Unknown as usize],
            CoreBucket::Prefill => &mut self.prefill_ns,
            CoreBucket::PrefillWait => &mut self.prefill_wait_ns,
            CoreBucket::Decode => &mut self.decode_ns,
            CoreBucket::Preempted => &mut self.preempted_ns,
            CoreBucket::Recompute => &mut self.recompute_ns,
        }
    }

    /// The account without its last `ns`: what the engine did after nobody waited for it any more. The ledger
    /// has totals and no timeline, so the time is taken from what the sequence was doing at its end (from
    /// decode and interference in proportion), and only when that is not enough from what came before.
    #[must_use]
    pub fn without_last(mut self, ns: u64) -> Self {
        let mut left = ns;
        self.take(self.last, &mut left);
        for bucket in [
            CoreBucket::Decode,
            CoreBucket::Recompute,
            CoreBucket::Preempted,
            CoreBucket::Prefill,
            CoreBucket::PrefillWait,
            CoreBucket::Queue,
        ] {
            self.take(bucket, &mut left);
        }
        self
    }

    fn take(&mut self, bucket: CoreBucket, left: &mut u64) {
        match bucket {
            CoreBucket::Decode => {
                let both = self.decode_ns + self.interference_ns;
                let taken = both.min(*left);
                let interference = share(taken, self.interference_ns, both);
                self.interference_ns -= interference;
                self.decode_ns -= taken - interference;
                *left -= taken;
            }
            CoreBucket::Queue => {
                for waited in self.queue.0.iter_mut().rev() {
                    let taken = (*waited).min(*left);
                    *waited -= taken;
                    *left -= taken;
                }
            }
            other => {
                let bucket = self.bucket_mut(other);
                let taken = (*bucket).min(*left);
                *bucket -= taken;
                *left -= taken;
            }
        }
    }
}

/// `part / whole` of `ns`; nothing of nothing.
fn share(ns: u64, part: u64, whole: u64) -> u64 {
    if whole == 0 {
        return 0;
    }
    // At most `ns`, because a part is not larger than its whole.
    (u128::from(ns) * u128::from(part.min(whole)) / u128::from(whole)) as u64
}

/// When a step took place, and what of it was prefill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepTimes {
    previous_end: MonoNs,
    end: MonoNs,
    interference_ns: u64,
}

impl StepTimes {
    /// The step from `start` to `end` that follows one that ended at `previous_end`. It computed
    /// `total_tokens`, among them `prefill_tokens` of prompts or computed again after preemptions.
    #[must_use]
    pub fn new(
        previous_end: MonoNs,
        start: MonoNs,
        end: MonoNs,
        prefill_tokens: u32,
        total_tokens: u32,
    ) -> Self {
        let interference_ns = share(end.since(start), prefill_tokens.into(), total_tokens.into());
        Self { previous_end, end, interference_ns }
    }
}

/// What a step did for one sequence, in tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepWork {
    /// All that it computed; at least 1.
    pub tokens: u32,
    /// Prompt tokens computed for the first time.
    pub prompt_tokens: u32,
    /// Tokens that had been computed before a preemption.
    pub recomputed_tokens: u32,
}

impl StepWork {
    /// Whether it computed nothing but the sequence's last output token.
    fn is_decode(self) -> bool {
        self.prompt_tokens == 0 && self.recomputed_tokens == 0
    }
}

/// Accounts for a sequence's time while it lives in the engine.
#[derive(Clone, Debug)]
pub struct LedgerMeter {
    ledger: CoreLedger,
    /// Up to here the time is in the ledger.
    until: MonoNs,
}

impl LedgerMeter {
    /// Starts when the sequence enters the waiting queue.
    #[must_use]
    pub fn start(queued: MonoNs) -> Self {
        Self { ledger: CoreLedger::default(), until: queued }
    }

    /// The sequence is scheduled for the first time, with so many prompt tokens from the prefix cache. `waits`
    /// add up to the time since it was queued.
    pub fn scheduled_first(&mut self, waits: &WaitTimes, cached_tokens: u32, at: MonoNs) {
        self.waited(waits, at);
        self.ledger.cached_tokens = cached_tokens;
    }

    /// The sequence ends in the queue and was never scheduled. `waits` add up to the time since it was queued.
    pub fn waited(&mut self, waits: &WaitTimes, at: MonoNs) {
        debug_assert_eq!(waits.total(), at.since(self.until), "waits and time differ");
        self.ledger.queue = *waits;
        self.ledger.last = CoreBucket::Queue;
        self.until = at;
    }

    /// The sequence is out of the queue again, into which a preemption had put it back.
    pub fn resumed(&mut self, at: MonoNs) {
        self.add(CoreBucket::Preempted, at);
    }

    /// A running sequence was held for `ns` because the engine was paused.
    pub fn held(&mut self, ns: u64) {
        self.ledger.queue.add(WaitReason::Paused, ns);
        self.until.0 += ns;
    }

    /// A step computed tokens of the sequence, or tried to. Steps that did not, though it was running, are part of the time
    /// since its last one.
    pub fn stepped(&mut self, step: &StepTimes, work: StepWork) {
        let ledger = &mut self.ledger;
        let passed_over = step.previous_end.since(self.until);
        let own = step.end.since(self.until) - passed_over;
        if work.is_decode() {
            let interference = step.interference_ns.min(own);
            ledger.interference_ns += passed_over + interference;
            ledger.decode_ns += own - interference;
            ledger.last = CoreBucket::Decode;
        } else {
            let again = share(own, work.recomputed_tokens.into(), work.tokens.into());
            ledger.prefill_wait_ns += passed_over;
            ledger.recompute_ns += again;
            ledger.last = if work.prompt_tokens > 0 { CoreBucket::Prefill } else { CoreBucket::Recompute };
            if work.prompt_tokens > 0 {
                ledger.prefill_ns += own - again;
            } else {
                ledger.decode_ns += own - again;
            }
        }
        self.until = self.until.max(step.end);
    }

    /// Tokens have been computed again.
    pub fn recomputed(&mut self, tokens: u32) {
        self.ledger.recomputed_tokens += tokens;
    }

    /// The sequence was running but nothing was computed for it any more until `at`.
    pub fn idled(&mut self, at: MonoNs, decodes: bool) {
        self.add(if decodes { CoreBucket::Decode } else { CoreBucket::PrefillWait }, at);
    }

    /// The account. Complete when the end of the sequence has been told.
    #[must_use]
    pub fn ledger(&self) -> &CoreLedger {
        &self.ledger
    }

    fn add(&mut self, bucket: CoreBucket, at: MonoNs) {
        let ns = at.since(self.until);
        if ns > 0 {
            self.ledger.add(bucket, ns);
            self.until = at;
        }
    }
}

/// The moments of a request outside of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestMoments {
    /// The head had been read.
    pub arrived: MonoNs,
    /// The body had been read; `None` when it never was.
    pub body_complete: Option<MonoNs>,
    /// The request was handed to the engine; `None` when it never was.
    pub submitted: Option<MonoNs>,
    /// The end of the response.
    pub ended: MonoNs,
}

/// The whole account of a request. The buckets add up to the time from its arrival to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Head read to body complete.
    pub receive_ns: u64,
    /// Parse, validate, template, tokenise; for a request that the engine never got, up to its end.
    pub prepare_ns: u64,
    /// Handed to the engine to QUEUED.
    pub admit_ns: u64,
    /// In the engine: of several sequences, the one that ended last.
    pub core: CoreLedger,
    /// FINISHED in the engine to the end.
    pub deliver_ns: u64,
}

impl Ledger {
    /// Cuts a request's life at its moments. `core` is the sequence that ended last, with the times at which it
    /// was queued and finished. A moment after the end counts as the end, one before its predecessor as that.
    #[must_use]
    pub fn new(moments: &RequestMoments, core: Option<(MonoNs, MonoNs, &CoreLedger)>) -> Self {
        let ended = moments.ended.max(moments.arrived);
        let mut until = moments.arrived;
        let mut reach = |moment: Option<MonoNs>| {
            let next = moment.unwrap_or(ended).clamp(until, ended);
            next.since(std::mem::replace(&mut until, next))
        };
        let receive_ns = reach(moments.body_complete);
        let prepare_ns = reach(moments.submitted);
        let Some((queued, finished, account)) = core else {
            // Handed over, but the engine never had it.
            return Self { receive_ns, prepare_ns, admit_ns: reach(None), ..Self::default() };
        };
        let admit_ns = reach(Some(queued));
        let in_engine_ns = reach(Some(finished));
        let core = account.without_last(account.total_ns().saturating_sub(in_engine_ns));
        // What the engine's account does not explain: its clock readings differ from those of the moments.
        let unexplained_ns = in_engine_ns - core.total_ns();
        Self { receive_ns, prepare_ns, admit_ns: admit_ns + unexplained_ns, core, deliver_ns: reach(None) }
    }

    /// Arrival to end, in nanoseconds.
    #[must_use]
    pub fn total_ns(&self) -> u64 {
        self.receive_ns + self.prepare_ns + self.admit_ns + self.core.total_ns() + self.deliver_ns
    }
}

#[cfg(test)]
mod tests;
