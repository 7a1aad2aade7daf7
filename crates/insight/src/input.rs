//! Reading traces whatever their form: what it is shows in the first bytes.

mod compression;
mod detect;
mod files;
mod frames;

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read};

use crate::reader::{MAX_DOCUMENT_BYTES, ReadError, SpanReader};
use crate::span::TraceSpan;
use crate::wire;

pub use compression::Compression;
use detect::{PREFIX_BYTES, read_prefix};
pub use files::{TraceFileError, trace_files};
use frames::FrameReader;

/// What a file of traces is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceForm {
    /// One JSON value a line: OTLP, or what a trace store answers.
    JsonLines,
    /// JSON over several lines: what a trace store answers.
    JsonDocument,
    /// Messages with their length before them, as the collector's file exporter writes them: protobuf or JSON, each
    /// compressed or not.
    Messages,
    /// One OTLP message in protobuf.
    Protobuf,
    /// Nothing at all.
    Empty,
}

/// The spans of one file, of every scope, in the order of the file. After an error about a line or a message the next
/// ones can still be read; any other error ends it.
pub struct TraceInput {
    form: TraceForm,
    compression: Compression,
    spans: Spans,
}

impl std::fmt::Debug for TraceInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TraceInput")
            .field("form", &self.form)
            .field("compression", &self.compression)
            .finish()
    }
}

type Plain = Box<dyn BufRead + Send>;

enum Spans {
    Lines(SpanReader<Plain>),
    Frames(FrameReader<Plain>),
    Ready(VecDeque<Result<TraceSpan, ReadError>>),
}

impl TraceInput {
    /// Looks what it is and begins. Compressed with gzip or zstd, it is unpacked.
    ///
    /// # Errors
    /// When it cannot be read, or is no form that is known.
    pub fn new(input: impl Read + Send + 'static) -> Result<Self, ReadError> {
        let failed = |source| ReadError::Io { line: 1, source };
        let (head, packed) = read_prefix(input, compression::MAGIC_BYTES).map_err(failed)?;
        let compression = Compression::of(&head);
        let plain = compression.unpack(io::Cursor::new(head).chain(packed));
        let (head, rest) = read_prefix(plain, PREFIX_BYTES).map_err(failed)?;
        let form = detect::form_of(&head)?;
        let mut plain: Plain = Box::new(BufReader::with_capacity(1 << 18, io::Cursor::new(head).chain(rest)));
        let spans = match form {
            TraceForm::JsonLines => Spans::Lines(SpanReader::new(plain)),
            TraceForm::Messages => Spans::Frames(FrameReader::new(plain)),
            TraceForm::JsonDocument => Spans::Ready(read_documents(&mut plain)),
            TraceForm::Protobuf => Spans::Ready(frames::read_message(&mut plain)),
            TraceForm::Empty => Spans::Ready(VecDeque::new()),
        };
        Ok(Self { form, compression, spans })
    }

    /// What the file is made of.
    #[must_use]
    pub fn form(&self) -> TraceForm {
        self.form
    }

    /// How it is compressed.
    #[must_use]
    pub fn compression(&self) -> Compression {
        self.compression
    }
}

impl Iterator for TraceInput {
    type Item = Result<TraceSpan, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.spans {
            Spans::Lines(reader) => reader.next(),
            Spans::Frames(reader) => reader.next(),
            Spans::Ready(spans) => spans.pop_front(),
        }
    }
}

/// All values of a JSON text.
fn read_documents(input: &mut impl Read) -> VecDeque<Result<TraceSpan, ReadError>> {
    let mut text = Vec::new();
    let read = input.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut text);
    if let Err(source) = read {
        return VecDeque::from([Err(ReadError::Io { line: 1, source })]);
    }
    if text.len() as u64 > MAX_DOCUMENT_BYTES {
        return VecDeque::from([Err(ReadError::DocumentTooLong)]);
    }
    let mut found = VecDeque::new();
    for document in serde_json::Deserializer::from_slice(&text).into_iter::<wire::Document<'_>>() {
        let document = match document {
            Ok(document) => document,
            Err(source) => {
                found.push_back(Err(ReadError::Document { source }));
                break;
            }
        };
        let mut spans = Vec::new();
        let outcome = document.into_spans(&mut spans);
        found.extend(spans.into_iter().map(Ok));
        if let Err(reason) = outcome {
            found.push_back(Err(ReadError::DocumentSpans { reason }));
        }
    }
    found
}
