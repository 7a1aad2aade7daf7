//! A small client of the OpenAI API.

use std::io::{BufRead, BufReader};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// Longest time for one answer.
const PATIENCE: Duration = Duration::from_secs(300);

/// Asks one server.
pub(crate) struct Client {
    agent: ureq::Agent,
    url: String,
}

/// What came back.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) completion_tokens: Option<u32>,
    /// Chunks with text, when streamed.
    pub(crate) chunks: u32,
    first_chunk: Duration,
}

impl Answer {
    /// Milliseconds to the first chunk with text.
    pub(crate) fn first_ms(&self) -> f64 {
        self.first_chunk.as_secs_f64() * 1e3
    }
}

impl Client {
    pub(crate) fn new(address: &str) -> Self {
        let config = ureq::Agent::config_builder().timeout_global(Some(PATIENCE)).build();
        Self { agent: config.into(), url: format!("{address}/v1/chat/completions") }
    }

    /// A greedy answer.
    ///
    /// # Errors
    /// When the server does not give one.
    pub(crate) fn ask(&self, question: &str, max_tokens: u32, stream: bool) -> Result<Answer> {
        self.send(&json!({"max_tokens": max_tokens}), question, stream)
    }

    /// An answer of exactly `tokens` tokens.
    ///
    /// # Errors
    /// When the server does not give one.
    pub(crate) fn fill(&self, question: &str, tokens: u32, stream: bool) -> Result<Answer> {
        self.send(&json!({"max_tokens": tokens, "ignore_eos": true}), question, stream)
    }

    #[expect(clippy::disallowed_methods, reason = "a client measures real time")]
    fn send(&self, parameters: &Value, question: &str, stream: bool) -> Result<Answer> {
        let mut body = json!({
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "stream": stream,
        });
        if stream {
            body["stream_options"] = json!({"include_usage": true});
        }
        for (name, value) in parameters.as_object().into_iter().flatten() {
            body[name.as_str()] = value.clone();
        }
        let started = Instant::now();
        let mut response =
            self.agent.post(&self.url).send_json(&body).context("the server did not answer")?;
        if stream {
            return read_stream(BufReader::new(response.body_mut().as_reader()), started);
        }
        let whole: Value = response.body_mut().read_json()?;
        let text = whole["choices"][0]["message"]["content"].as_str().context("the answer has no content")?;
        Ok(Answer {
            text: text.to_owned(),
            completion_tokens: completion_tokens(&whole),
            ..Answer::default()
        })
    }
}

/// Reads server-sent events up to `[DONE]`.
fn read_stream(stream: impl BufRead, started: Instant) -> Result<Answer> {
    let mut answer = Answer::default();
    for line in stream.lines() {
        let line = line?;
        let Some(data) = line.strip_prefix("data: ") else { continue };
        if data == "[DONE]" {
            return Ok(answer);
        }
        let chunk: Value = serde_json::from_str(data)?;
        if !chunk["error"].is_null() {
            bail!("the stream failed: {}", chunk["error"]);
        }
        if let Some(text) = chunk["choices"][0]["delta"]["content"].as_str().filter(|text| !text.is_empty()) {
            if answer.chunks == 0 {
                answer.first_chunk = started.elapsed();
            }
            answer.chunks += 1;
            answer.text.push_str(text);
        }
        answer.completion_tokens = completion_tokens(&chunk).or(answer.completion_tokens);
    }
    bail!("the stream ended without [DONE]")
}

fn completion_tokens(response: &Value) -> Option<u32> {
    response["usage"]["completion_tokens"].as_u64().and_then(|tokens| u32::try_from(tokens).ok())
}
