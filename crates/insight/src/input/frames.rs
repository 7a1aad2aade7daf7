//! Messages with their length before them.
//!
//! The collector's file exporter writes them so with `format: proto`, and with `compression: zstd` also in JSON: four
//! bytes of length, big end first, then the message, which is compressed by itself. Source: `fileexporter/README.md`
//! of opentelemetry-collector-contrib.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};

use super::compression::Compression;
use crate::reader::ReadError;
use crate::span::TraceSpan;
use crate::{proto, wire};

/// The longest message that is read, and the most that a compressed one may become.
pub(super) const MAX_MESSAGE_BYTES: u64 = 64 << 20;

pub(super) const LENGTH_BYTES: usize = 4;

/// The length at the beginning of `head`, and what follows.
pub(super) fn length_of(head: &[u8]) -> Option<(u64, &[u8])> {
    let (length, rest) = head.split_first_chunk::<LENGTH_BYTES>()?;
    let length = u64::from(u32::from_be_bytes(*length));
    (length > 0).then_some((length, rest))
}

/// The spans of messages, in the order of the file. After a message that cannot be read the next one is.
pub(super) struct FrameReader<R> {
    input: R,
    number: u64,
    spans: VecDeque<TraceSpan>,
    is_over: bool,
}

impl<R: BufRead> FrameReader<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, number: 0, spans: VecDeque::new(), is_over: false }
    }

    /// Reads the next message; `false` at the end.
    fn read_message(&mut self) -> Result<bool, ReadError> {
        self.number += 1;
        let number = self.number;
        let failed = |source| ReadError::Io { line: number, source };
        let broken = |reason: &str| ReadError::Message { number, reason: reason.to_owned() };
        let mut head = Vec::new();
        self.input.by_ref().take(LENGTH_BYTES as u64).read_to_end(&mut head).map_err(|source| {
            self.is_over = true;
            failed(source)
        })?;
        if head.is_empty() {
            return Ok(false);
        }
        let length = match length_of(&head) {
            Some((length, _)) if length <= MAX_MESSAGE_BYTES => length,
            Some(_) => {
                self.is_over = true;
                return Err(broken(
                    "its length is more than any writer makes it; the rest of the file is lost",
                ));
            }
            None if head.len() == LENGTH_BYTES => return Ok(true),
            None => {
                self.is_over = true;
                return Err(broken("the file ends within its length"));
            }
        };
        let mut message = Vec::new();
        let read = self.input.by_ref().take(length).read_to_end(&mut message);
        if let Err(source) = read {
            self.is_over = true;
            return Err(failed(source));
        }
        if (message.len() as u64) < length {
            self.is_over = true;
            return Err(broken("the file ends within it"));
        }
        let mut spans = Vec::new();
        let outcome = spans_of(message, &mut spans);
        self.spans.extend(spans);
        outcome.map(|()| true).map_err(|reason| ReadError::Message { number, reason })
    }
}

impl<R: BufRead> Iterator for FrameReader<R> {
    type Item = Result<TraceSpan, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(span) = self.spans.pop_front() {
                return Some(Ok(span));
            }
            if self.is_over {
                return None;
            }
            match self.read_message() {
                Ok(true) => {}
                Ok(false) => self.is_over = true,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// A file that is one message.
pub(super) fn read_message(input: &mut impl Read) -> VecDeque<Result<TraceSpan, ReadError>> {
    let mut message = Vec::new();
    if let Err(source) = input.take(MAX_MESSAGE_BYTES + 1).read_to_end(&mut message) {
        return VecDeque::from([Err(ReadError::Io { line: 1, source })]);
    }
    let mut spans = Vec::new();
    let outcome = if message.len() as u64 > MAX_MESSAGE_BYTES {
        Err("it is longer than any writer makes it".to_owned())
    } else {
        proto::spans_of(&message, &mut spans)
    };
    let mut found: VecDeque<_> = spans.into_iter().map(Ok).collect();
    found.extend(outcome.err().map(|reason| Err(ReadError::Message { number: 1, reason })));
    found
}

fn spans_of(message: Vec<u8>, spans: &mut Vec<TraceSpan>) -> Result<(), String> {
    let plain = match Compression::of(&message) {
        Compression::None => message,
        packed => {
            let mut plain = Vec::new();
            let unpacked = packed.unpack(io::Cursor::new(message)).take(MAX_MESSAGE_BYTES + 1);
            let read = { unpacked }.read_to_end(&mut plain);
            read.map_err(|error| format!("it cannot be unpacked: {error}"))?;
            if plain.len() as u64 > MAX_MESSAGE_BYTES {
                return Err("unpacked, it is longer than any writer makes it".to_owned());
            }
            plain
        }
    };
    if plain.first() == Some(&b'{') {
        let document: wire::Document<'_> =
            serde_json::from_slice(&plain).map_err(|error| format!("it is not OTLP/JSON: {error}"))?;
        document.into_spans(spans)
    } else {
        proto::spans_of(&plain, spans)
    }
}
