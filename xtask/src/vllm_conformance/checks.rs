//! What is asked of a server, and what must come back.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::site::Site;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
/// Longest time for an answer, and for the traces of a request to be gone.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);
/// By how much log-probabilities may differ: the last bits of bf16 depend on what else is in a step.
const LOGPROB_TOLERANCE: f64 = 0.05;
/// Requests of [`answers`].
pub(super) const ANSWERS: usize = 6;
/// Requests of [`a_crowd_is_answered`].
const CROWD: usize = 6;

/// How many requests have ended how.
#[derive(Debug, Default)]
pub(super) struct Asked(HashMap<String, usize>);

impl Asked {
    pub(super) fn add(&mut self, departed: usize) {
        *self.0.entry("departed".to_owned()).or_default() += departed;
    }

    pub(super) fn add_aborted(&mut self, requests: usize) {
        *self.0.entry("client_disconnect".to_owned()).or_default() += requests;
    }

    /// Requests that are ended by the server itself, as `ending`.
    pub(super) fn failed(requests: usize, ending: &str) -> Self {
        Self(HashMap::from([(ending.to_owned(), requests)]))
    }

    pub(super) fn all(&self) -> usize {
        self.0.values().sum()
    }

    pub(super) fn endings(&self) -> HashMap<String, usize> {
        self.0.clone()
    }
}

/// Answers that are determined, by what they are about.
pub(super) struct Answers(Vec<(&'static str, Value)>);

impl Answers {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Those of another server are the same.
    pub(super) fn compare(&self, other: &Self) -> Result<()> {
        for ((name, expected), (_, actual)) in self.0.iter().zip(&other.0) {
            let (expected_shown, actual_shown) = (shown(expected), shown(actual));
            if expected_shown != actual_shown {
                bail!("{name}: vLLM answers {expected_shown} and wayfare {actual_shown}");
            }
            for (of_vllm, ours) in logprobs(expected).iter().zip(logprobs(actual)) {
                if (of_vllm - ours).abs() > LOGPROB_TOLERANCE {
                    bail!("{name}: a log-probability is {of_vllm} with vLLM and {ours} with wayfare");
                }
            }
        }
        Ok(())
    }
}

/// What must be equal in an answer.
fn shown(answer: &Value) -> Value {
    let choices = answer["choices"].as_array().cloned().unwrap_or_default();
    let choices = choices.iter().map(|choice| {
        let tokens = choice["logprobs"]["content"]
            .as_array()
            .map(|tokens| tokens.iter().map(|token| token["token"].clone()).collect::<Vec<_>>());
        json!([
            choice["index"],
            choice["text"],
            choice["message"]["content"],
            choice["finish_reason"],
            choice["stop_reason"],
            tokens,
        ])
    });
    let usage = &answer["usage"];
    json!([choices.collect::<Vec<_>>(), usage["prompt_tokens"], usage["completion_tokens"]])
}

fn logprobs(answer: &Value) -> Vec<f64> {
    let tokens = answer["choices"][0]["logprobs"]["content"].as_array().cloned().unwrap_or_default();
    tokens.iter().filter_map(|token| token["logprob"].as_f64()).collect()
}

/// Asks what has only one right answer.
pub(super) fn answers(site: &Site) -> Result<Answers> {
    let question = |text: &str| json!([{ "role": "user", "content": text }]);
    let bodies: [(&'static str, &str, Value); ANSWERS] = [
        ("chat", CHAT, json!({ "messages": question("What is the capital of France?"), "max_tokens": 40 })),
        ("completion", COMPLETIONS, json!({ "prompt": "Once upon a time", "max_tokens": 48 })),
        // vLLM does not make several where nothing is random. With a seed, each has numbers of its own, the same as here.
        (
            "two choices",
            COMPLETIONS,
            json!({ "prompt": "The sea is", "max_tokens": 16, "n": 2, "temperature": 0.8, "seed": 7 }),
        ),
        (
            "a stop string",
            COMPLETIONS,
            json!({ "prompt": "1, 2, 3, 4, 5,", "max_tokens": 40, "stop": [" 9"] }),
        ),
        (
            "log-probabilities",
            CHAT,
            json!({ "messages": question("Name a colour."), "max_tokens": 12, "logprobs": true, "top_logprobs": 3 }),
        ),
        (
            "penalties and banned tokens",
            COMPLETIONS,
            json!({ "prompt": "One two three", "max_tokens": 24, "repetition_penalty": 1.3, "presence_penalty": 0.5,
                    "logit_bias": { "28": -100 }, "ignore_eos": true }),
        ),
    ];
    let mut answers = Vec::new();
    for (name, path, body) in bodies {
        answers.push((name, post(site, path, body).context(name)?));
    }
    Ok(Answers(answers))
}

/// A stream is the whole answer in pieces. Returns how many requests that took.
pub(super) fn streams_say_what_whole_answers_say(site: &Site) -> Result<usize> {
    let body =
        json!({ "messages": [{ "role": "user", "content": "What is a lighthouse?" }], "max_tokens": 40 });
    let whole = post(site, CHAT, body.clone())?;
    let mut streamed = String::new();
    let mut events = 0;
    for event in open_stream(site, CHAT, body)?.events() {
        let event = event?;
        streamed += event["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
        events += 1;
    }
    if whole["choices"][0]["message"]["content"] != streamed || events < 10 {
        bail!("{events} events say {streamed:?}, and the whole answer is {whole}");
    }
    Ok(2)
}

/// Structured output has the form that was asked for. Returns how many requests that took.
pub(super) fn outputs_follow_a_schema(site: &Site) -> Result<usize> {
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["city", "population"],
        "properties": { "city": { "type": "string", "maxLength": 20 }, "population": { "type": "integer" } },
    });
    let answer = post(
        site,
        CHAT,
        json!({
            "messages": [{ "role": "user", "content": "Name a city and say how many people live there, as JSON." }],
            "max_tokens": 120,
            "response_format": { "type": "json_schema", "json_schema": { "name": "city", "schema": schema } },
        }),
    )?;
    let text = answer["choices"][0]["message"]["content"].as_str().context("no answer")?;
    let parsed: Value = serde_json::from_str(text).with_context(|| format!("{text:?} is not JSON"))?;
    if !(parsed["city"].is_string() && parsed["population"].is_i64()) {
        bail!("{text} does not follow the schema");
    }
    Ok(1)
}

/// The engine does not go on for a client that has left. Returns how many requests that took.
pub(super) fn a_client_that_leaves_frees_its_place(site: &Site) -> Result<usize> {
    let body = json!({ "prompt": "Count: 1, 2, 3", "max_tokens": 900, "ignore_eos": true });
    let mut stream = open_stream(site, COMPLETIONS, body)?;
    stream.events().next().context("the stream is empty")??;
    drop(stream);
    nothing_is_left(site)?;
    Ok(1)
}

/// More at once than the KV cache holds. Returns how many requests that took.
pub(super) fn a_crowd_is_answered(site: &Site) -> Result<usize> {
    thread::scope(|scope| {
        let asked: Vec<_> = (0..CROWD)
            .map(|index| {
                let prompt = format!("Story number {index}: once upon a time");
                let body = json!({ "prompt": prompt, "max_tokens": 200, "ignore_eos": true });
                scope.spawn(move || post(site, COMPLETIONS, body))
            })
            .collect();
        for answer in asked {
            let answer = answer.join().map_err(|_| anyhow::anyhow!("a request's thread panicked"))??;
            if answer["usage"]["completion_tokens"] != 200 {
                bail!("asked for 200 tokens, got {answer}");
            }
        }
        Ok(CROWD)
    })
}

/// Whoever waits for an engine that is killed is told, and the server says that it cannot serve, or has ended. Returns how
/// many requests that took.
pub(super) fn a_lost_engine_is_an_error(site: &Site) -> Result<usize> {
    let body = json!({ "prompt": "Count: 1, 2, 3", "max_tokens": 900, "ignore_eos": true });
    let mut stream = open_stream(site, COMPLETIONS, body)?;
    let mut events = stream.events();
    events.next().context("the stream is empty")??;
    site.kill_engine()?;
    let mut told = false;
    for event in events {
        told |= event?.get("error").is_some();
    }
    if !told {
        bail!("the stream ended as if nothing had happened");
    }
    wait_for("the server goes on without an engine", || {
        Ok(site.health().is_none_or(|status| status == 503))
    })?;
    Ok(1)
}

/// No request is left in the engine or in the view of those in flight.
pub(super) fn nothing_is_left(site: &Site) -> Result<()> {
    wait_for("requests are left that nobody waits for", || {
        let metrics = get(site, "/metrics")?;
        let in_flight = metrics
            .lines()
            .filter(|line| {
                line.starts_with("vllm:num_requests_running")
                    || line.starts_with("vllm:num_requests_waiting{")
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        let live: Value = serde_json::from_str(&get(site, "/journeys/live")?)?;
        let listed = live["requests"].as_array().context("the live view has no list")?.len();
        Ok(in_flight.sum::<f64>() == 0.0 && listed == 0)
    })
}

#[expect(clippy::disallowed_methods, reason = "waits for another process in real time")]
fn wait_for(problem: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_so()? {
        if Instant::now() > deadline {
            bail!("{problem}");
        }
        thread::sleep(POLL);
    }
    Ok(())
}

fn agent() -> ureq::Agent {
    let config =
        ureq::Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build();
    config.into()
}

fn get(site: &Site, path: &str) -> Result<String> {
    Ok(agent().get(format!("{}{path}", site.address)).call()?.body_mut().read_to_string()?)
}

/// A greedy request of the one model.
fn greedy(mut body: Value) -> Value {
    body["model"] = "model".into();
    if body["temperature"].is_null() {
        body["temperature"] = 0.into();
    }
    body
}

fn post(site: &Site, path: &str, body: Value) -> Result<Value> {
    let mut response = agent().post(format!("{}{path}", site.address)).send_json(greedy(body))?;
    let text = response.body_mut().read_to_string()?;
    if response.status() != 200 {
        bail!("{}: {text}", response.status());
    }
    Ok(serde_json::from_str(&text)?)
}

/// A stream of events; its connection is closed when it is dropped.
struct Stream(BufReader<ureq::BodyReader<'static>>);

impl Stream {
    /// What it says, up to its end.
    fn events(&mut self) -> impl Iterator<Item = Result<Value>> {
        let lines = (&mut self.0).lines();
        let data = lines.filter_map(|line| match line {
            Ok(line) => line.strip_prefix("data: ").map(|data| Ok(data.to_owned())),
            Err(error) => Some(Err(error)),
        });
        data.take_while(|data| data.as_ref().map_or(true, |data| data != "[DONE]"))
            .map(|data| Ok(serde_json::from_str(&data?)?))
    }
}

fn open_stream(site: &Site, path: &str, body: Value) -> Result<Stream> {
    let mut body = greedy(body);
    body["stream"] = true.into();
    let response = agent().post(format!("{}{path}", site.address)).send_json(body)?;
    if response.status() != 200 {
        bail!("{}", response.status());
    }
    Ok(Stream(BufReader::new(response.into_body().into_reader())))
}
