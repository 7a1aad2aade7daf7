//! What traces say about a server: the figures, and why they are as they are.

mod bands;
mod blame;
mod evidence;
mod findings;
mod latencies;
mod lost;
mod percentiles;
mod story;
mod text;
mod timeline;
mod waits;

use std::collections::BTreeMap;

use serde::Serialize;

use self::blame::Blame;
use crate::survey::{Ending, Integrity, Survey, Writer};

pub use bands::{Band, BucketShare};
pub use findings::{Cause, Finding};
pub use latencies::{Latencies, LatencyKind};
pub use percentiles::Percentiles;
pub use story::Stories;
pub use text::{TextStyle, explanation_text, integrity_text, story_text};
pub use timeline::{Saturation, Slice, Timeline};
pub use waits::{Blocker, PreemptionTax, Wait};

/// The form of the JSON; it changes when a field changes its meaning or goes.
pub const EXPLANATION_SCHEMA: &str = "wayfare.explain/1";

/// Everything that is told of some files of traces. Times are in seconds, shares from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explanation {
    /// [`EXPLANATION_SCHEMA`].
    pub schema: &'static str,
    /// What is whole, and what is not.
    pub integrity: Integrity,
    /// The servers that the spans are from.
    pub servers: Vec<ServerDescription>,
    /// How requests ended.
    pub requests: Requests,
    /// How long requests took; each figure of those of which it is known.
    pub latencies: Latencies,
    /// Where the time went, by how long the request took.
    pub bands: Vec<Band>,
    /// Why requests waited in the queue.
    pub waits: Vec<Wait>,
    /// What preemption cost.
    pub preemption: PreemptionTax,
    /// How it went over time.
    pub timeline: Timeline,
    /// Signs that the server had more to do than it could.
    pub saturation: Saturation,
    /// What made requests slow or fail, the most important first.
    pub findings: Vec<Finding>,
    /// What these traces do not tell.
    pub cannot_tell: Vec<String>,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServerDescription {
    /// Its `service.name`.
    pub service: String,
    /// Its `service.instance.id`.
    pub instance: String,
    /// Its version; empty when the file does not say.
    pub version: String,
    /// The model it serves; empty when the file does not say.
    pub model: String,
    /// Most sequences at once.
    pub max_num_seqs: Option<u64>,
    /// Most tokens per step.
    pub max_num_batched_tokens: Option<u64>,
    /// Tokens per KV block.
    pub block_size: Option<u64>,
    /// KV blocks.
    pub num_kv_blocks: Option<u64>,
}

/// How requests ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Requests {
    /// All of which the API's span is there.
    pub total: u64,
    /// Their answer was handed over.
    pub served: u64,
    /// They failed or were abandoned.
    pub aborted: u64,
    /// Of them, by reason.
    pub aborted_by_reason: BTreeMap<String, u64>,
    /// Events FIRST of `journey.SCHEDULED`, one per sequence that was ever scheduled.
    pub sequences_scheduled: u64,
    /// Prompt tokens of all.
    pub prompt_tokens: u64,
    /// Prompt tokens that were in the prefix cache.
    pub cached_tokens: u64,
    /// Output tokens of all.
    pub output_tokens: u64,
    /// First arrival to last end, seconds.
    pub window: f64,
    /// Requests served per second.
    pub served_per_second: f64,
    /// Output tokens per second.
    pub output_tokens_per_second: f64,
}

impl Explanation {
    /// Looks at everything that a survey has.
    #[must_use]
    pub fn of(survey: &Survey) -> Self {
        let integrity = survey.integrity();
        let timeline = Timeline::of(survey);
        let blame = Blame::of(survey);
        let requests = Requests::of(survey, &timeline);
        let preemption = PreemptionTax::of(survey);
        let saturation = Saturation::of(survey, &timeline);
        let findings = findings::find(survey, &blame, &requests, &preemption, &saturation);
        Self {
            schema: EXPLANATION_SCHEMA,
            servers: describe_servers(survey),
            latencies: Latencies::of(survey),
            bands: bands::of(survey),
            waits: waits::of(survey, &blame),
            preemption,
            saturation,
            findings,
            cannot_tell: cannot_tell(survey, &integrity),
            integrity,
            requests,
            timeline,
        }
    }
}

impl Requests {
    fn of(survey: &Survey, timeline: &Timeline) -> Self {
        let mut requests = Self { window: timeline.seconds(), ..Self::default() };
        for record in survey.records() {
            requests.sequences_scheduled += u64::from(record.scheduled_sequences);
            requests.prompt_tokens += u64::from(record.prompt_tokens);
            requests.cached_tokens += u64::from(record.cached_tokens);
            requests.output_tokens += u64::from(record.output_tokens);
            if !record.has_request {
                continue;
            }
            requests.total += 1;
            match record.ending {
                Ending::Departed => requests.served += 1,
                Ending::Aborted => {
                    requests.aborted += 1;
                    let reason = survey.names().text(record.abort_reason);
                    let reason = if reason.is_empty() { "(not said)" } else { reason };
                    *requests.aborted_by_reason.entry(reason.to_owned()).or_default() += 1;
                }
                Ending::Unknown => {}
            }
        }
        if requests.window > 0.0 {
            let all = requests.window * survey.kept_share();
            requests.served_per_second = requests.served as f64 / all;
            requests.output_tokens_per_second = requests.output_tokens as f64 / all;
        }
        requests
    }
}

fn describe_servers(survey: &Survey) -> Vec<ServerDescription> {
    let text = |name| survey.names().text(name).to_owned();
    let all = survey.servers().all().iter();
    all.map(|server| ServerDescription {
        service: text(server.service),
        instance: text(server.instance),
        version: text(server.version),
        model: text(server.model),
        max_num_seqs: server.max_num_seqs,
        max_num_batched_tokens: server.max_num_batched_tokens,
        block_size: server.block_size,
        num_kv_blocks: server.num_kv_blocks,
    })
    .collect()
}

/// What the writers of these spans do not write, in sentences.
fn cannot_tell(survey: &Survey, integrity: &Integrity) -> Vec<String> {
    let mut sentences = Vec::new();
    let mut say = |text: &str| sentences.push(text.to_owned());
    let journeys = &integrity.journeys;
    if journeys.reference > 0 {
        say(
            "The reference fork's spans have no ledger: why a request waited in the queue, whom it waited for, how much of \
             its decoding was others' prompts, and what was computed again after a preemption cannot be told.",
        );
        say(
            "The fork notes ARRIVED after the prompt has been tokenised, so receiving and preparing are missing from its \
             times; requests that it refused before leave no trace.",
        );
        let has_blind_response = survey.records().any(|record| {
            record.writer == Writer::Reference && record.first_response.get() > record.last.finished.get()
        });
        if has_blind_response {
            say(
                "Some of the fork's answers were not streamed: their FIRST_RESPONSE is at the end, so time to first token is \
                 taken from the scheduler's event.",
            );
        }
    }
    if journeys.stock > 0 {
        say(
            "vLLM's own spans are totals per request: preemptions, wait reasons and failed requests cannot be told, and \
             the queue depth only as far as it follows from their times in the queue.",
        );
    }
    say("No trace has the time of every token: ITL is each request's mean, counted once per gap.");
    if integrity.steps == 0 && journeys.stock < journeys.found {
        say(
            "There are no engine steps in the files, so KV use is not known; record them with --step-tracing-enabled.",
        );
    }
    if integrity.kept_share < 1.0 {
        say(&format!(
            "There were too many journeys to keep: all figures are of a sample of {:.3} % of them, chosen by trace id; \
             counts are those of the sample, rates are scaled up.",
            integrity.kept_share * 100.0
        ));
    }
    sentences
}
