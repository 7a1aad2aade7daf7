//! A client of the OpenAI API.

use std::io::{BufRead as _, BufReader};

use serde_json::{Value, json};
use ureq::http::HeaderMap;

pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no header {name}")).to_str().unwrap()
    }

    /// The data of each server-sent event.
    pub(crate) fn events(&self) -> Vec<&str> {
        self.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect()
    }

    /// The text of the answer, streamed or not, of either route.
    pub(crate) fn text(&self) -> String {
        let of = |choice: &Value| -> Option<String> {
            let content = choice.get("text").or_else(|| choice["delta"].get("content"));
            content.or_else(|| choice["message"].get("content"))?.as_str().map(str::to_owned)
        };
        if !self.body.starts_with("data:") {
            return of(&self.json()["choices"][0]).unwrap();
        }
        let chunks = self.events().into_iter().filter(|data| *data != "[DONE]");
        chunks.filter_map(|data| of(&serde_json::from_str::<Value>(data).unwrap()["choices"][0])).collect()
    }
}

/// Posts anything; whatever the status, the response is returned.
pub(crate) fn post(address: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut request = agent.post(format!("{address}{path}")).header("content-type", "application/json");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut response = request.send(body).unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Response { status, headers, body: response.body_mut().read_to_string().unwrap() }
}

pub(crate) fn get(address: &str, path: &str) -> Response {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut response = agent.get(format!("{address}{path}")).call().unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Response { status, headers, body: response.body_mut().read_to_string().unwrap() }
}

/// A greedy chat request.
pub(crate) fn chat(question: &str, max_tokens: u32, stream: bool) -> String {
    json!({
        "messages": [{"role": "user", "content": question}],
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": stream,
    })
    .to_string()
}

/// A greedy completion request.
pub(crate) fn completion(prompt: &str, max_tokens: u32, stream: bool) -> String {
    json!({"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "stream": stream}).to_string()
}

/// Starts a streamed answer, and calls `first` when its first event has come; returns all data.
pub(crate) fn stream(address: &str, path: &str, body: &str, first: impl FnOnce()) -> Vec<String> {
    let agent = ureq::Agent::new_with_defaults();
    let mut response =
        agent.post(format!("{address}{path}")).header("content-type", "application/json").send(body).unwrap();
    let reader = BufReader::new(response.body_mut().as_reader());
    let mut data = reader.lines().filter_map(|line| line.unwrap().strip_prefix("data: ").map(str::to_owned));
    let mut all: Vec<String> = data.by_ref().take(1).collect();
    first();
    all.extend(data);
    all
}
