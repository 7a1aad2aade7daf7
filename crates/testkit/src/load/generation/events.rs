//! Server-sent events, cut into pieces anywhere.

use serde::Deserialize;

/// What an event says.
#[derive(Debug)]
pub(super) enum Event {
    Chunk(Chunk),
    /// `[DONE]`.
    Done,
}

/// The fields of a completion chunk that are looked at. Servers write more.
#[derive(Debug, Deserialize)]
pub(super) struct Chunk {
    pub(super) choices: Vec<Choice>,
    pub(super) usage: Option<Usage>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Choice {
    pub(super) finish_reason: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Usage {
    pub(super) prompt_tokens: u64,
    pub(super) completion_tokens: u64,
    pub(super) prompt_tokens_details: Option<PromptTokensDetails>,
}

#[derive(Debug, Deserialize)]
pub(super) struct PromptTokensDetails {
    #[serde(default)]
    pub(super) cached_tokens: u64,
}

/// Puts pieces together and takes events out.
#[derive(Debug, Default)]
pub(super) struct EventReader {
    bytes: Vec<u8>,
    /// What has been taken out of `bytes`.
    read: usize,
}

impl EventReader {
    pub(super) fn take(&mut self, piece: &[u8]) {
        self.bytes.drain(..self.read);
        self.read = 0;
        self.bytes.extend_from_slice(piece);
    }

    /// The next event that is there in full, or the line that is none that a completion has.
    pub(super) fn next_event(&mut self) -> Option<Result<Event, String>> {
        loop {
            let rest = &self.bytes[self.read..];
            let length = rest.iter().position(|byte| *byte == b'\n')?;
            self.read += length + 1;
            let line = rest[..length].strip_suffix(b"\r").unwrap_or(&rest[..length]);
            // Lines without are empty or comments, which keep a connection alive.
            if let Some(data) = line.strip_prefix(b"data:") {
                return Some(event(data));
            }
        }
    }
}

fn event(data: &[u8]) -> Result<Event, String> {
    let data = data.trim_ascii();
    if data == b"[DONE]" {
        return Ok(Event::Done);
    }
    serde_json::from_slice(data).map(Event::Chunk).map_err(|_| String::from_utf8_lossy(data).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "data: {\"choices\":[{\"text\":\"a\",\"finish_reason\":null}],\"usage\":null}\n\n: still there\n\n\
        data: {\"choices\":[{\"text\":\"é\",\"finish_reason\":\"length\"}]}\r\n\r\n\
        data: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":2,\
        \"prompt_tokens_details\":{\"cached_tokens\":4}}}\n\ndata: [DONE]\n\n";

    fn read(stream: &[u8], size: usize) -> Vec<String> {
        let mut reader = EventReader::default();
        let mut read = Vec::new();
        for piece in stream.chunks(size) {
            reader.take(piece);
            while let Some(event) = reader.next_event() {
                read.push(match event {
                    Ok(Event::Done) => "done".into(),
                    Ok(Event::Chunk(Chunk { choices, usage })) => {
                        let reasons: Vec<_> =
                            choices.into_iter().map(|choice| choice.finish_reason).collect();
                        let usage = usage.map(|usage| {
                            let cached = usage.prompt_tokens_details.map(|details| details.cached_tokens);
                            (usage.prompt_tokens, usage.completion_tokens, cached)
                        });
                        format!("{reasons:?} {usage:?}")
                    }
                    Err(line) => format!("? {line}"),
                });
            }
        }
        read
    }

    #[test]
    fn events_are_the_same_however_they_are_cut() {
        let expected = ["[None] None", "[Some(\"length\")] None", "[] Some((5, 2, Some(4)))", "done"];
        for size in 1..=STREAM.len() {
            assert_eq!(read(STREAM.as_bytes(), size), expected, "in pieces of {size}");
        }
    }

    #[test]
    fn an_error_in_the_stream_is_shown() {
        let error = r#"data: {"error":{"message":"no room"}}"#;
        assert_eq!(read(format!("{error}\n\n").as_bytes(), 7), [r#"? {"error":{"message":"no room"}}"#]);
    }
}
