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
use smallvec::SmallVec;
use wayfare_engine::TokenId;
use wayfare_journey::{Clock, MonoNs, RequestLabel};

use crate::bodies::{AnswerShape, ChatChunkChoice, CompletionChoice, Delta, Envelope, PromptDetails, Usage};
use crate::endpoint::Endpoint;
use crate::error::ApiError;
use crate::generation::{ChoiceDelta, Generation, TokenUsage};

/// Room for one chunk with a short text; more is allocated where needed.
const CHUNK_BYTES: usize = 512;

/// The response that streams a generation.
pub(crate) fn stream_response(
    generation: Generation,
    writer: Box<dyn StreamWriter>,
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

/// Writes one streamed answer.
pub(crate) trait StreamWriter: Send + std::fmt::Debug {
    /// What has been written since the last call, if anything.
    fn take(&mut self) -> Option<Bytes>;

    /// Writes what a choice has gained; nothing when that is nothing. `usage` is that of all choices so far.
    fn delta(&mut self, choice: usize, delta: &ChoiceDelta, usage: TokenUsage);

    /// Writes what comes when all choices have ended.
    fn last(&mut self, generation: &Generation, now: MonoNs);

    /// Writes that the answer ends with an error.
    fn error(&mut self, error: &ApiError);

    /// Writes that nothing follows.
    fn done(&mut self);
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
    writer: Box<dyn StreamWriter>,
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
                let usage = generation.usage();
                generation.visit_deltas(|index, delta| self.writer.delta(index, delta, usage));
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
            if let Some(bytes) = self.writer.take() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            match self.next {
                Next::Chunk => ready!(self.poll_chunk(cx)),
                Next::Done => {
                    self.writer.done();
                    self.next = Next::Nothing;
                }
                Next::Nothing => return Poll::Ready(None),
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
    shape: AnswerShape,
    /// What has been written of each choice.
    written: SmallVec<[Written; 1]>,
    buffer: BytesMut,
}

/// What the chunks of a choice depend on.
#[derive(Clone, Copy, Debug, Default)]
struct Written {
    /// Whether its first chunk has been written.
    has_begun: bool,
    /// Characters of the tokens so far, when their log-probabilities are shown.
    text_offset: usize,
}

impl ChunkWriter {
    pub(crate) fn new(
        endpoint: Endpoint,
        id: &RequestLabel,
        created: u64,
        model: &str,
        shape: AnswerShape,
        num_choices: usize,
    ) -> Self {
        let object = match endpoint {
            Endpoint::Completion => "text_completion",
            Endpoint::Chat | Endpoint::Responses => "chat.completion.chunk",
        };
        let empty: Envelope<'_, ()> = Envelope {
            id: id.as_str(),
            object,
            created,
            model,
            choices: &[],
            usage: None,
            metrics: None,
            prompt: PromptDetails::default(),
        };
        let mut head = b"data: ".to_vec();
        write_json(&mut head, &empty);
        head.truncate(head.len() - NO_CHOICES.len());
        let written = SmallVec::from_elem(Written::default(), num_choices);
        Self { endpoint, head: head.into(), shape, written, buffer: BytesMut::new() }
    }

    fn completion_delta(&mut self, index: usize, delta: &ChoiceDelta, before: Written, usage: TokenUsage) {
        let Self { shape, buffer, head, .. } = self;
        let end = delta.end.as_ref();
        let logprobs = shape.completion_logprobs(index, delta, before.text_offset);
        if let Some(logprobs) = &logprobs {
            self.written[index].text_offset = logprobs.end_offset();
        }
        let choice = CompletionChoice {
            index,
            text: &delta.text,
            logprobs,
            finish_reason: end.map(|end| end.finish_reason),
            stop_reason: end.and_then(|end| end.stop_reason.as_ref()),
            token_ids: shape.token_ids(delta),
            prompt: PromptDetails {
                prompt_logprobs: None,
                prompt_token_ids: shape.prompt_token_ids(index).filter(|_| !before.has_begun),
            },
        };
        begin_chunk(buffer, head, &[choice], usage_of_chunk(shape, usage));
        buffer.put_slice(END_OF_CHUNK);
    }

    fn chat_delta(&mut self, index: usize, delta: &ChoiceDelta, before: Written, usage: TokenUsage) {
        let Self { shape, buffer, head, .. } = self;
        let usage = usage_of_chunk(shape, usage);
        let mut chunk = |choice: ChatChunkChoice<'_>, prompt: Option<&[TokenId]>| {
            begin_chunk(buffer, head, &[choice], usage);
            if let Some(prompt) = prompt {
                buffer.put_slice(b",\"prompt_token_ids\":");
                write_json(buffer.writer(), prompt);
            }
            buffer.put_slice(END_OF_CHUNK);
        };
        if !before.has_begun {
            let role = Delta { role: Some("assistant"), content: Some(""), ..Delta::default() };
            let prompt = shape.prompt_token_ids(index).filter(|_| index == 0);
            chunk(ChatChunkChoice { index, delta: role, ..ChatChunkChoice::default() }, prompt);
        }
        let content = Some(delta.text.as_str()).filter(|text| !text.is_empty());
        let mut last = Delta { content, ..Delta::default() };
        // One part to a chunk. What belongs to all of them goes with the last.
        if let Some((last_event, events)) = delta.events.split_last() {
            for event in events {
                chunk(ChatChunkChoice { index, delta: event.into(), ..ChatChunkChoice::default() }, None);
            }
            last = last_event.into();
        }
        let end = delta.end.as_ref();
        let choice = ChatChunkChoice {
            index,
            delta: last,
            logprobs: shape.chat_logprobs(delta),
            finish_reason: end.map(|end| end.finish_reason),
            stop_reason: end.and_then(|end| end.stop_reason.as_ref()),
            token_ids: shape.token_ids(delta),
        };
        chunk(choice, None);
    }
}

impl StreamWriter for ChunkWriter {
    fn take(&mut self) -> Option<Bytes> {
        (!self.buffer.is_empty()).then(|| self.buffer.split().freeze())
    }

    fn delta(&mut self, index: usize, delta: &ChoiceDelta, usage: TokenUsage) {
        let Some(before) = self.written.get(index).copied().filter(|_| !delta.is_empty()) else { return };
        match self.endpoint {
            Endpoint::Completion => self.completion_delta(index, delta, before, usage),
            Endpoint::Chat | Endpoint::Responses => self.chat_delta(index, delta, before, usage),
        }
        self.written[index].has_begun = true;
    }

    /// Writes the chunk with the token counts and the request's metrics, if either was asked for.
    fn last(&mut self, generation: &Generation, now: MonoNs) {
        let metrics = generation.metrics(now);
        let include_usage = self.shape.form.stream_options.include_usage;
        if !include_usage && metrics.is_none() {
            return;
        }
        let usage = include_usage.then(|| Some(Usage::from(generation.usage())));
        let no_choices: &[CompletionChoice<'_>] = &[];
        begin_chunk(&mut self.buffer, &self.head, no_choices, usage);
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
}

/// What a chunk before the last says of usage: nothing, the counts so far, or null when the last one will have them.
fn usage_of_chunk(shape: &AnswerShape, so_far: TokenUsage) -> Option<Option<Usage>> {
    let options = shape.form.stream_options;
    options.include_usage.then(|| options.continuous_usage.then(|| Usage::from(so_far)))
}

fn begin_chunk<C: Serialize>(
    buffer: &mut BytesMut,
    head: &[u8],
    choices: &[C],
    usage: Option<Option<Usage>>,
) {
    buffer.reserve(CHUNK_BYTES);
    buffer.put_slice(head);
    write_json(buffer.writer(), choices);
    if let Some(usage) = usage {
        buffer.put_slice(b",\"usage\":");
        write_json(buffer.writer(), &usage);
    }
}

/// The end of a chunk's object and of its event.
const END_OF_CHUNK: &[u8] = b"}\n\n";

/// The end of an object whose last field is a list of choices without any.
const NO_CHOICES: &str = "[]}";

/// Writes what holds text and numbers only, to what takes all: that cannot fail.
pub(crate) fn write_json(to: impl std::io::Write, value: &(impl Serialize + ?Sized)) {
    let written = serde_json::to_writer(to, value);
    debug_assert!(written.is_ok(), "{written:?}");
}
