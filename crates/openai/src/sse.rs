//! A streamed answer as server-sent events.
//!
//! HOT PATH: a chunk is written for each token. The body is pulled by the connection, so a client that reads
//! slowly holds up nothing but its own stream.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::response::Response;
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderValue, header};
use http_body::{Body as HttpBody, Frame};
use serde::Serialize;
use wayfare_journey::{Clock, MonoNs, RequestLabel};

use crate::endpoint::Endpoint;
use crate::error::ApiError;
use crate::generation::{ChoiceDelta, Generation};
use crate::responses::{ChatChunkChoice, CompletionChoice, Delta, Envelope, Usage};

/// Room for one chunk with a short text; more is allocated where needed.
const CHUNK_BYTES: usize = 512;

/// The response that streams a generation.
pub(crate) fn stream_response(
    generation: Generation,
    writer: ChunkWriter,
    clock: Arc<dyn Clock>,
) -> Response {
    let events = EventBody { generation: Some(generation), writer, clock, next: Next::Chunk };
    let mut response = Response::new(Body::new(events));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Asks nginx not to collect the chunks.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// What the body gives out next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Chunk,
    Done,
    Nothing,
}

#[derive(Debug)]
struct EventBody {
    /// `None` once it is over or has failed.
    generation: Option<Generation>,
    writer: ChunkWriter,
    clock: Arc<dyn Clock>,
    next: Next,
}

impl EventBody {
    /// The next chunk of the answer, or the error that ends it.
    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(generation) = &mut self.generation else {
            self.next = Next::Done;
            return Poll::Ready(());
        };
        match ready!(generation.poll_progress(cx)) {
            Ok(()) => {
                generation.visit_deltas(|index, delta| self.writer.delta(index, delta));
                if generation.is_over() {
                    self.writer.last(generation, self.clock.now());
                    // The last generated chunk leaves with this frame; `[DONE]` comes in the next.
                    generation.journey().departed(self.clock.now());
                    self.generation = None;
                }
            }
            Err(error) => {
                let report = error.report();
                generation.journey().failed(report.reason, report.error_type, report.message);
                self.writer.error(&error);
                self.generation = None;
            }
        }
        Poll::Ready(())
    }
}

impl HttpBody for EventBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        loop {
            match self.next {
                Next::Chunk => ready!(self.poll_chunk(cx)),
                Next::Done => {
                    self.writer.done();
                    self.next = Next::Nothing;
                }
                Next::Nothing => return Poll::Ready(None),
            }
            if let Some(bytes) = self.writer.take() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.next == Next::Nothing
    }
}

/// Writes the events of one answer.
#[derive(Debug)]
pub(crate) struct ChunkWriter {
    endpoint: Endpoint,
    /// `data: ` and the beginning of a chunk's object, up to its choices: the same in all chunks of an answer.
    head: Box<[u8]>,
    include_usage: bool,
    /// Choices whose first chunk, which carries the role, has been written.
    introduced: usize,
    buffer: BytesMut,
}

impl ChunkWriter {
    pub(crate) fn new(
        endpoint: Endpoint,
        id: &RequestLabel,
        created: u64,
        model: &str,
        include_usage: bool,
    ) -> Self {
        let object = match endpoint {
            Endpoint::Chat => "chat.completion.chunk",
            Endpoint::Completion => "text_completion",
        };
        let empty: Envelope<'_, ()> =
            Envelope { id: id.as_str(), object, created, model, choices: &[], usage: None, metrics: None };
        let mut head = b"data: ".to_vec();
        write_json(&mut head, &empty);
        head.truncate(head.len() - NO_CHOICES.len());
        Self { endpoint, head: head.into(), include_usage, introduced: 0, buffer: BytesMut::new() }
    }

    /// What has been written since the last call, if anything.
    fn take(&mut self) -> Option<Bytes> {
        (!self.buffer.is_empty()).then(|| self.buffer.split().freeze())
    }

    /// Writes what a choice has gained; nothing when that is nothing.
    fn delta(&mut self, index: usize, delta: &ChoiceDelta) {
        let end = delta.end.as_ref();
        if delta.text.is_empty() && end.is_none() {
            return;
        }
        let finish_reason = end.map(|end| end.finish_reason);
        let stop_reason = end.and_then(|end| end.stop_reason.as_ref());
        match self.endpoint {
            Endpoint::Completion => self.chunk(
                &[CompletionChoice { index, text: &delta.text, logprobs: None, finish_reason, stop_reason }],
                self.usage_to_come(),
            ),
            Endpoint::Chat => {
                if index >= self.introduced {
                    self.introduced = index + 1;
                    let role = Delta { role: Some("assistant"), content: Some("") };
                    self.chat_chunk(ChatChunkChoice {
                        index,
                        delta: role,
                        logprobs: None,
                        finish_reason: None,
                        stop_reason: None,
                    });
                }
                let content = Some(delta.text.as_str()).filter(|text| !text.is_empty());
                let delta = Delta { role: None, content };
                self.chat_chunk(ChatChunkChoice { index, delta, logprobs: None, finish_reason, stop_reason });
            }
        }
    }

    fn chat_chunk(&mut self, choice: ChatChunkChoice<'_>) {
        self.chunk(&[choice], self.usage_to_come());
    }

    /// Writes the chunk with the token counts and the request's metrics, if either was asked for.
    fn last(&mut self, generation: &Generation, now: MonoNs) {
        let metrics = generation.metrics(now);
        if !self.include_usage && metrics.is_none() {
            return;
        }
        let usage = self.include_usage.then(|| Some(Usage::from(generation.usage())));
        let no_choices: &[CompletionChoice<'_>] = &[];
        self.begin_chunk(no_choices, usage);
        if let Some(metrics) = metrics {
            self.buffer.put_slice(b",\"metrics\":");
            write_json((&mut self.buffer).writer(), &metrics);
        }
        self.buffer.put_slice(END_OF_CHUNK);
    }

    fn error(&mut self, error: &ApiError) {
        self.buffer.put_slice(b"data: ");
        self.buffer.put_slice(error.body().as_bytes());
        self.buffer.put_slice(b"\n\n");
    }

    fn done(&mut self) {
        self.buffer.put_slice(b"data: [DONE]\n\n");
    }

    /// Chunks before the last say `"usage": null` when the last one will have it.
    fn usage_to_come(&self) -> Option<Option<Usage>> {
        self.include_usage.then_some(None)
    }

    fn chunk<C: Serialize>(&mut self, choices: &[C], usage: Option<Option<Usage>>) {
        self.begin_chunk(choices, usage);
        self.buffer.put_slice(END_OF_CHUNK);
    }

    fn begin_chunk<C: Serialize>(&mut self, choices: &[C], usage: Option<Option<Usage>>) {
        self.buffer.reserve(CHUNK_BYTES);
        self.buffer.put_slice(&self.head);
        write_json((&mut self.buffer).writer(), choices);
        if let Some(usage) = usage {
            self.buffer.put_slice(b",\"usage\":");
            write_json((&mut self.buffer).writer(), &usage);
        }
    }
}

/// The end of a chunk's object and of its event.
const END_OF_CHUNK: &[u8] = b"}\n\n";

/// The end of an object whose last field is a list of choices without any.
const NO_CHOICES: &str = "[]}";

/// Writes what holds text and numbers only, to what takes all: that cannot fail.
fn write_json(to: impl std::io::Write, value: &(impl Serialize + ?Sized)) {
    let written = serde_json::to_writer(to, value);
    debug_assert!(written.is_ok(), "{written:?}");
}
