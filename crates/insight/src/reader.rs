//! Reading a file span by span. One line is in memory at a time.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read as _};

use crate::span::TraceSpan;
use crate::wire;

/// The longest line that is read. A request of 512 spans takes about 2 MB; collectors take at most 20 MB or
/// so over the network.
pub(crate) const MAX_LINE_BYTES: u64 = 64 << 20;

/// The longest JSON document that is read as a whole.
pub(crate) const MAX_DOCUMENT_BYTES: u64 = 256 << 20;

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is none of the forms that are known.
    #[error("this is no trace file: {reason}")]
    UnknownForm {
        /// What was found instead.
        reason: &'static str,
    },
    /// A JSON document that is not that of a trace store.
    #[error("the JSON document cannot be read")]
    Document {
        /// What is wrong, with line and column.
        #[source]
        source: serde_json::Error,
    },
    /// A JSON document of spans that are none.
    #[error("the JSON document: {reason}")]
    DocumentSpans {
        /// What is wrong.
        reason: String,
    },
    /// A JSON document that does not fit into memory.
    #[error(
        "the JSON document is longer than {MAX_DOCUMENT_BYTES} bytes; write one request per line instead"
    )]
    DocumentTooLong,
    /// A message of a file of protobuf messages.
    #[error("message {number}: {reason}")]
    Message {
        /// Which one, from 1.
        number: u64,
        /// What is wrong.
        reason: String,
    },
    /// The file system failed.
    #[error("line {line} cannot be read")]
    Io {
        /// The line, from 1.
        line: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line is not the JSON of an OTLP request.
    #[error("line {line} is not an OTLP/JSON trace request")]
    Json {
        /// The line, from 1.
        line: u64,
        /// What is wrong, with the column.
        #[source]
        source: serde_json::Error,
    },
    /// The line is JSON, but not that of spans.
    #[error("line {line}: {reason}")]
    Malformed {
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        reason: String,
    },
    /// A line is longer than anything that writes such files makes it.
    #[error("line {line} is longer than {MAX_LINE_BYTES} bytes; is this a file of OTLP/JSON lines?")]
    LineTooLong {
        /// The line, from 1.
        line: u64,
    },
}

/// The spans of OTLP/JSON lines, of every scope, in the order of the file; what Tempo and Jaeger answer is read as
/// well, when it is on one line. Empty lines are skipped. After an error in a line the next lines can still be read.
#[derive(Debug)]
pub struct SpanReader<R> {
    input: R,
    buffer: Vec<u8>,
    line: u64,
    spans: VecDeque<TraceSpan>,
    is_over: bool,
}

impl<R: BufRead> SpanReader<R> {
    /// A reader that begins where `input` is.
    pub fn new(input: R) -> Self {
        Self { input, buffer: Vec::new(), line: 0, spans: VecDeque::new(), is_over: false }
    }

    /// The line, from 1, that the last span or error came from.
    #[must_use]
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Reads the next line; `false` at the end.
    fn read_line(&mut self) -> Result<bool, ReadError> {
        self.buffer.clear();
        self.line += 1;
        let line = self.line;
        let mut limited = self.input.by_ref().take(MAX_LINE_BYTES);
        let read = limited.read_until(b'\n', &mut self.buffer);
        match read {
            Ok(0) => Ok(false),
            Ok(bytes) if bytes as u64 == MAX_LINE_BYTES && !self.buffer.ends_with(b"\n") => {
                self.is_over = true;
                Err(ReadError::LineTooLong { line })
            }
            Ok(_) => {
                let parsed = parse_line(&self.buffer, line)?;
                self.spans.extend(parsed);
                Ok(true)
            }
            Err(source) => {
                self.is_over = true;
                Err(ReadError::Io { line, source })
            }
        }
    }
}

impl<R: BufRead> Iterator for SpanReader<R> {
    type Item = Result<TraceSpan, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(span) = self.spans.pop_front() {
                return Some(Ok(span));
            }
            if self.is_over {
                return None;
            }
            match self.read_line() {
                Ok(true) => {}
                Ok(false) => self.is_over = true,
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

fn parse_line(text: &[u8], line: u64) -> Result<Vec<TraceSpan>, ReadError> {
    match text.trim_ascii_start().first() {
        None => return Ok(Vec::new()),
        Some(b'[') => return Err(ReadError::Malformed { line, reason: "it is not a JSON object".into() }),
        Some(_) => {}
    }
    let document: wire::Document<'_> =
        serde_json::from_slice(text).map_err(|source| ReadError::Json { line, source })?;
    let mut spans = Vec::new();
    document.into_spans(&mut spans).map_err(|reason| ReadError::Malformed { line, reason })?;
    Ok(spans)
}
