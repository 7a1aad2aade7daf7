//! One request in plain words.

use wayfare_journey::WaitReason;

use super::blame::Blame;
use super::{LatencyKind, Percentiles};
use crate::bucket::{Bucket, Buckets};
use crate::quantity::{count, nanoseconds, percent, seconds, tokens};
use crate::survey::{Ending, Moment, Name, Record, Survey, Writer};

/// Buckets with less than this share of the time are not told.
const MIN_SHARE: f64 = 0.01;

/// Tells requests of a survey.
#[derive(Debug)]
pub struct Stories<'a> {
    survey: &'a Survey,
    blame: Blame<'a>,
    /// End-to-end times of those that were served, sorted.
    served_ns: Vec<u64>,
    tpot: Option<Percentiles>,
}

impl<'a> Stories<'a> {
    /// Of this survey.
    #[must_use]
    pub fn of(survey: &'a Survey) -> Self {
        let served = |record: &Record| (record.ending == Ending::Departed).then(|| record.e2e_ns())?;
        let mut served_ns: Vec<_> = survey.records().filter_map(served).collect();
        served_ns.sort_unstable();
        let mut tpots: Vec<_> = survey.records().filter_map(|record| LatencyKind::Tpot.of(record)).collect();
        let tpot = Percentiles::of_weighted(&mut tpots);
        Self { survey, blame: Blame::of(survey), served_ns, tpot }
    }

    /// A paragraph about one request.
    #[must_use]
    pub fn tell(&self, record: &Record) -> String {
        let mut sentences = vec![self.beginning(record)];
        if record.clock_is_off {
            sentences.push("Its times contradict each other, so none of them is told.".to_owned());
            return sentences.join(" ");
        }
        let account = record.account().unwrap_or_default();
        let life = account.total().max(1);
        self.queue(record, &account, life, &mut sentences);
        self.first_token(record, &account, life, &mut sentences);
        self.decoding(record, &account, life, &mut sentences);
        self.preemptions(record, &account, &mut sentences);
        self.ending(record, &account, life, &mut sentences);
        self.comparison(record, &mut sentences);
        sentences.join(" ")
    }

    fn name(&self, name: Name) -> &str {
        self.survey.names().text(name)
    }

    fn beginning(&self, record: &Record) -> String {
        let id = match self.name(record.request_id) {
            "" => "A request without an id",
            id => id,
        };
        let size = format!(
            "{} of prompt and {} of output",
            tokens(record.prompt_tokens.into()),
            tokens(record.output_tokens.into())
        );
        let Some(e2e) = record.e2e_ns() else {
            return format!("{id} has no usable API span, so it is not known how long it took ({size}).");
        };
        let end = match record.ending {
            Ending::Departed => "until its answer was handed over".to_owned(),
            Ending::Aborted => format!("and then ended `{}`", self.name(record.abort_reason)),
            Ending::Unknown => "as far as the file goes; how it ended is missing".to_owned(),
        };
        format!("{id} took {} {end} ({size}).", nanoseconds(e2e))
    }

    fn queue(&self, record: &Record, account: &Buckets, life: u64, sentences: &mut Vec<String>) {
        for (bucket, what) in [
            (Bucket::Receive, "to receive its body"),
            (Bucket::Prepare, "to parse, render and tokenise it"),
            (Bucket::Admit, "until the engine, busy with a step, took it in"),
        ] {
            let ns = account.get(bucket);
            if share(ns, life) >= 5.0 * MIN_SHARE {
                sentences.push(format!("It took {} {what}.", nanoseconds(ns)));
            }
        }
        let queue = account.queue();
        if queue == 0 || share(queue, life) < MIN_SHARE {
            return;
        }
        let mut sentence =
            format!("It spent {} of its {} in the queue", nanoseconds(queue), nanoseconds(life));
        let mut reasons: Vec<(WaitReason, u64)> = WaitReason::ALL
            .into_iter()
            .map(|reason| (reason, account.get(Bucket::Queue(reason))))
            .filter(|(_, ns)| share(*ns, queue) >= 0.05)
            .collect();
        reasons.sort_by_key(|(_, ns)| std::cmp::Reverse(*ns));
        for (place, (reason, ns)) in reasons.iter().enumerate() {
            let blocker =
                if record.last.wait_reason == Some(*reason) { record.last.wait_blocker } else { Name::NONE };
            let time =
                if reasons.len() > 1 { format!("{} because ", nanoseconds(*ns)) } else { String::new() };
            sentence += if place == 0 { ": " } else { ", and " };
            sentence += &format!("{time}{}", self.obstacle(*reason, blocker));
        }
        sentences.push(sentence + ".");
        if record.last.wait_reason == Some(WaitReason::HeadOfLine)
            && let Some(reason) =
                self.blame.root_reason(record).filter(|reason| *reason != WaitReason::HeadOfLine)
        {
            sentences.push(format!("In the end that was a wait for `{}`.", reason.as_str()));
        }
    }

    fn obstacle(&self, reason: WaitReason, blocker: Name) -> String {
        let id = self.name(blocker);
        let other = self.blame.get(blocker);
        match reason {
            WaitReason::TokenBudget => match (id, other) {
                ("", _) => "others had taken the token budget of the steps".to_owned(),
                (id, Some(other)) => {
                    format!(
                        "the token budget was taken by {id}'s {}-token prompt",
                        count(other.prompt_tokens.into())
                    )
                }
                (id, None) => format!("the token budget was taken by {id}"),
            },
            WaitReason::MaxNumSeqs => match id {
                "" => "as many sequences were running as may".to_owned(),
                id => format!("{id} was running, and no other one may beside it"),
            },
            WaitReason::KvBlocks => match (id, other) {
                ("", _) => "too few KV blocks were free".to_owned(),
                (id, Some(other)) => format!(
                    "too few KV blocks were free, most of them held by {id} ({} prompt and {} output tokens)",
                    count(other.prompt_tokens.into()),
                    count(other.output_tokens.into())
                ),
                (id, None) => format!("too few KV blocks were free, most of them held by {id}"),
            },
            WaitReason::HeadOfLine => match id {
                "" => "the first in the queue could not be scheduled, and nobody overtakes".to_owned(),
                id => format!("{id}, first in the queue, could not be scheduled, and nobody overtakes"),
            },
            WaitReason::Paused => "the engine was paused".to_owned(),
            WaitReason::NextStep => "the next step had not begun".to_owned(),
            WaitReason::Unknown => "the trace does not say for what".to_owned(),
        }
    }

    fn first_token(&self, record: &Record, account: &Buckets, life: u64, sentences: &mut Vec<String>) {
        let cached = match record.cached_tokens {
            0 => String::new(),
            found => format!(" ({} of them were cached)", count(found.into())),
        };
        let prompt = tokens(record.prompt_tokens.into());
        let prefill = account.get(Bucket::Prefill);
        if prefill > 0 {
            let mut sentence =
                format!("Computing its {prompt} of prompt{cached} took {}", nanoseconds(prefill));
            let wait = account.get(Bucket::PrefillWait);
            if share(wait, life) >= MIN_SHARE {
                sentence += &format!(
                    ", and {} passed between its chunks while others were computed",
                    nanoseconds(wait)
                );
            }
            sentences.push(sentence + ".");
        }
        match record.ttft_ns() {
            Some(ttft) => sentences.push(format!("The first token came after {}.", nanoseconds(ttft))),
            None if record.has_request => sentences.push("There was no first token.".to_owned()),
            None => {}
        }
    }

    fn decoding(&self, record: &Record, account: &Buckets, life: u64, sentences: &mut Vec<String>) {
        let Some(tpot) = record.tpot_ns() else { return };
        let mut sentence = format!("From then on a token took {} on average", nanoseconds(tpot));
        if let Some(all) = &self.tpot {
            sentence += &format!(" (the middle of all requests is {})", seconds(all.p50));
        }
        let interference = account.get(Bucket::Interference);
        if share(interference, life) >= MIN_SHARE {
            sentence += &format!(
                "; {} of its decoding, {}, were others' prompts in its steps",
                nanoseconds(interference),
                percent(share(interference, interference + account.get(Bucket::Decode)))
            );
        }
        sentences.push(sentence + ".");
    }

    fn preemptions(&self, record: &Record, account: &Buckets, sentences: &mut Vec<String>) {
        if record.preemptions == 0 {
            return;
        }
        let times = match record.preemptions {
            1 => "once".to_owned(),
            2 => "twice".to_owned(),
            more => format!("{} times", count(more.into())),
        };
        let by = match self.name(record.last.preempted_by) {
            "" => String::new(),
            id => format!(", the last time for {id}"),
        };
        let mut sentence = format!(
            "It was preempted {times}{by}, for {} together",
            nanoseconds(account.get(Bucket::Preempted))
        );
        if record.recomputed_tokens > 0 {
            sentence += &format!(
                ", and {} were computed again in {}",
                tokens(record.recomputed_tokens.into()),
                nanoseconds(account.get(Bucket::Recompute))
            );
        } else if record.writer != Writer::Own {
            sentence += "; what was computed again is not known";
        }
        sentences.push(sentence + ".");
    }

    fn ending(&self, record: &Record, account: &Buckets, life: u64, sentences: &mut Vec<String>) {
        let deliver = account.get(Bucket::Deliver);
        if share(deliver, life) >= 5.0 * MIN_SHARE {
            sentences.push(format!(
                "{} passed from the engine's end to that of the answer.",
                nanoseconds(deliver)
            ));
        }
        if share(record.blocked_ns, life) >= 5.0 * MIN_SHARE {
            sentences.push(format!(
                "For {} output lay ready and the client took nothing.",
                nanoseconds(record.blocked_ns)
            ));
        }
        if record.ending == Ending::Aborted && record.wasted_tokens > 0 {
            sentences.push(format!("{} had been computed in vain.", tokens(record.wasted_tokens.into())));
        }
        if record.lacks_sequences() {
            sentences.push("The engine's span, or one of several, is missing from the file.".to_owned());
        }
        let goes_on = record.last.finished.get().filter(|at| *at > record.end_ns);
        if let (true, Some(at)) = (record.has_request, goes_on) {
            let after = Moment::at(record.end_ns).until(Moment::at(at)).unwrap_or(0);
            if share(after, life) >= MIN_SHARE {
                sentences.push(format!("The engine went on for {} after that.", nanoseconds(after)));
            }
        }
    }

    fn comparison(&self, record: &Record, sentences: &mut Vec<String>) {
        let Some(e2e) = record.e2e_ns().filter(|_| self.served_ns.len() >= 10) else { return };
        let faster = self.served_ns.partition_point(|other| *other < e2e);
        let of_all = share(faster as u64, self.served_ns.len() as u64);
        sentences.push(format!("{} of the served requests took less time.", percent(of_all)));
    }
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
