//! What engine cores send: the outputs of a step, answers to utility calls.
//!
//! HOT PATH: an [`EngineMessage`] is read into again and again; what a plain decode step brings is stored inline.

use smallvec::SmallVec;
use wayfare_engine::{TokenId, TokenLogprobs};

use super::reader::{Reader, Scalar};
use super::{Layout, SchedulerStats, WireError, WireId, logprobs};

/// One message of an engine core, as far as it is used. Read into the same one again to reuse its memory.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct EngineMessage {
    /// Which of several engine cores sent it.
    pub engine_index: u32,
    /// What the step did for the requests that have something new.
    pub outputs: Vec<RequestOutput>,
    /// The state after the step; absent when the engine core was started with `--disable-log-stats`.
    pub scheduler_stats: Option<SchedulerStats>,
    /// When the step's outputs were put together, in seconds of the engine core's monotonic clock. All outputs with the
    /// same time were computed in one step.
    pub timestamp: f64,
    /// The answer to a utility call.
    pub utility: Option<UtilityResult>,
}

/// What one step did for one request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RequestOutput {
    /// The request; `None` when it is not one of ours.
    pub id: Option<WireId>,
    /// New tokens.
    pub tokens: SmallVec<[TokenId; 2]>,
    /// One for each new token, when they were asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// Of tokens of the prompt, when they were asked for.
    pub prompt_logprobs: Vec<TokenLogprobs>,
    /// Why the request ended, when it did.
    pub finish: Option<WireFinish>,
    /// What ended it, when that was a stop token.
    pub stop: Option<StopReason>,
    /// What happened to it since its last output.
    pub events: SmallVec<[EngineEvent; 3]>,
    /// How its prompt was computed; with its first output.
    pub prefill: Option<PrefillStats>,
    /// What went wrong, since 0.33.
    pub error: Option<Box<OutputError>>,
}

/// Why an engine core ended a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireFinish {
    /// End of text or a stop token.
    Stop,
    /// A length limit.
    Length,
    /// It was aborted.
    Abort,
    /// It failed.
    Error,
    /// It began to repeat itself, and was asked to stop then.
    Repetition,
}

/// What ended a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// A token at which it was to stop.
    Token(TokenId),
    /// Something that has a name.
    Named(Box<str>),
}

/// Something that happened to a request, with the engine core's monotonic time in seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EngineEvent {
    /// What happened.
    pub kind: EngineEventKind,
    /// When.
    pub timestamp: f64,
}

/// The kinds of [`EngineEvent`]; the same in all versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineEventKind {
    /// It is in the waiting queue.
    Queued,
    /// It takes part in steps, for the first time or again.
    Scheduled,
    /// Its KV blocks were taken away.
    Preempted,
}

/// How a prompt was computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefillStats {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Those that were found in a cache.
    pub cached_tokens: u32,
}

/// What went wrong with a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutputError {
    /// A word for it.
    pub code: String,
    /// In words.
    pub message: String,
}

/// What came of a utility call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UtilityResult {
    /// The number that the call was given.
    pub call_id: i64,
    /// Why it failed, if it did.
    pub failure: Option<String>,
}

impl EngineMessage {
    /// Reads a message from its frames, of which the first is MessagePack and the others hold large arrays.
    ///
    /// # Errors
    /// When it is malformed. What it holds is then of no use.
    pub fn read<F: AsRef<[u8]>>(&mut self, frames: &[F], layout: Layout) -> Result<(), WireError> {
        self.outputs.clear();
        self.scheduler_stats = None;
        self.utility = None;
        self.engine_index = 0;
        self.timestamp = 0.0;
        let mut reader = Reader::new(frames.first().ok_or(WireError::Truncated)?.as_ref());
        let fields = reader.array("a message")?;
        for position in 0..fields {
            match position {
                0 => self.engine_index = reader.u32("engine_index")?,
                1 => self.read_outputs(&mut reader, frames, layout)?,
                2 if !reader.take_nil() => self.scheduler_stats = Some(SchedulerStats::read(&mut reader)?),
                2 => {}
                3 => self.timestamp = reader.f64("timestamp")?,
                4 if !reader.take_nil() => self.utility = Some(UtilityResult::read(&mut reader)?),
                4 => {}
                _ => reader.skip()?,
            }
        }
        if !self.timestamp.is_finite() {
            return Err(WireError::OutOfRange { place: "timestamp" });
        }
        reader.end()
    }

    /// Which of several engine cores sent a message, of which this is the first frame.
    ///
    /// # Errors
    /// When it does not say it.
    pub fn sender(frame: &[u8]) -> Result<u32, WireError> {
        let mut reader = Reader::new(frame);
        match reader.array("a message")? {
            0 => Err(WireError::Truncated),
            _ => reader.u32("engine_index"),
        }
    }

    fn read_outputs<'a, F: AsRef<[u8]>>(
        &mut self,
        reader: &mut Reader<'a>,
        frames: &'a [F],
        layout: Layout,
    ) -> Result<(), WireError> {
        let count = reader.array("outputs")?;
        // A length that lies costs no memory: an output takes at least three bytes.
        self.outputs.reserve((count as usize).min(reader.remaining() / 3));
        for _ in 0..count {
            self.outputs.push(RequestOutput::read(reader, frames, layout)?);
        }
        Ok(())
    }
}

impl RequestOutput {
    fn read<'a, F: AsRef<[u8]>>(
        reader: &mut Reader<'a>,
        frames: &'a [F],
        layout: Layout,
    ) -> Result<Self, WireError> {
        let fields = reader.array("an output")?;
        if fields < 2 {
            return Err(WireError::TooShort { place: "an output", fields });
        }
        let has_ec_transfer = layout.has_ec_transfer(fields).ok_or(WireError::UnknownLayout { fields })?;
        let mut output = Self { id: WireId::parse(reader.str("request_id")?), ..Self::default() };
        for _ in 0..reader.array("new_token_ids")? {
            output.tokens.push(reader.u32("new_token_ids")?);
        }
        for position in 2..fields {
            // Positions as of 0.26; before, those behind 8 were one less.
            let position = if has_ec_transfer || position < 9 { position } else { position + 1 };
            if reader.take_nil() {
                continue;
            }
            match position {
                2 => output.logprobs = logprobs::read(reader, frames, "new_logprobs")?,
                3 => output.prompt_logprobs = logprobs::read(reader, frames, "new_prompt_logprobs_tensors")?,
                5 => output.finish = Some(WireFinish::read(reader)?),
                6 => output.stop = StopReason::read(reader)?,
                7 => output.read_events(reader)?,
                11 => output.prefill = Some(PrefillStats::read(reader)?),
                18 => output.error = Some(Box::new(OutputError::read(reader)?)),
                _ => reader.skip()?,
            }
        }
        Ok(output)
    }

    fn read_events(&mut self, reader: &mut Reader<'_>) -> Result<(), WireError> {
        for _ in 0..reader.array("events")? {
            let (mut kind, mut timestamp) = (None, None);
            for _ in 0..reader.map("an event")? {
                match reader.str("a key of an event")? {
                    "type" => kind = Some(reader.int("type of an event")?),
                    "timestamp" => timestamp = Some(reader.f64("timestamp of an event")?),
                    _ => reader.skip()?,
                }
            }
            let kind = match kind {
                Some(1) => EngineEventKind::Queued,
                Some(2) => EngineEventKind::Scheduled,
                Some(3) => EngineEventKind::Preempted,
                // Another kind of event is news that nobody here asked for.
                Some(_) => continue,
                None => return Err(WireError::OutOfRange { place: "type of an event" }),
            };
            let timestamp = timestamp.filter(|at: &f64| at.is_finite());
            let timestamp = timestamp.ok_or(WireError::OutOfRange { place: "timestamp of an event" })?;
            self.events.push(EngineEvent { kind, timestamp });
        }
        Ok(())
    }
}

impl WireFinish {
    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        match reader.int("finish_reason")? {
            0 => Ok(WireFinish::Stop),
            1 => Ok(WireFinish::Length),
            2 => Ok(WireFinish::Abort),
            3 => Ok(WireFinish::Error),
            4 => Ok(WireFinish::Repetition),
            _ => Err(WireError::OutOfRange { place: "finish_reason" }),
        }
    }
}

impl StopReason {
    fn read(reader: &mut Reader<'_>) -> Result<Option<Self>, WireError> {
        let place = "stop_reason";
        Ok(match reader.scalar(place)? {
            Scalar::Nil => None,
            Scalar::Int(token) => {
                let token = u32::try_from(token).map_err(|_| WireError::OutOfRange { place })?;
                Some(StopReason::Token(token))
            }
            Scalar::Text(text) => Some(StopReason::Named(text.into())),
        })
    }
}

impl PrefillStats {
    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut stats = Self::default();
        for _ in 0..reader.map("prefill_stats")? {
            match reader.str("a key of prefill_stats")? {
                "num_prompt_tokens" => stats.prompt_tokens = reader.u32("num_prompt_tokens")?,
                "num_cached_tokens" => stats.cached_tokens = reader.u32("num_cached_tokens")?,
                _ => reader.skip()?,
            }
        }
        Ok(stats)
    }
}

impl OutputError {
    /// `{code, message, retryable}`, as a map or in this order.
    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut error = Self::default();
        if reader.is_array() {
            for position in 0..reader.array("error")? {
                match position {
                    0 if !reader.take_nil() => reader.str("error code")?.clone_into(&mut error.code),
                    1 if !reader.take_nil() => reader.str("error message")?.clone_into(&mut error.message),
                    0 | 1 => {}
                    _ => reader.skip()?,
                }
            }
            return Ok(error);
        }
        for _ in 0..reader.map("error")? {
            match reader.str("a key of error")? {
                "code" if !reader.take_nil() => reader.str("error code")?.clone_into(&mut error.code),
                "message" if !reader.take_nil() => {
                    reader.str("error message")?.clone_into(&mut error.message)
                }
                "code" | "message" => {}
                _ => reader.skip()?,
            }
        }
        Ok(error)
    }
}

impl UtilityResult {
    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let place = "utility_output";
        let fields = reader.array(place)?;
        if fields < 1 {
            return Err(WireError::TooShort { place, fields });
        }
        let call_id = i64::try_from(reader.int(place)?).map_err(|_| WireError::OutOfRange { place })?;
        let mut failure = None;
        for position in 1..fields {
            match position {
                1 if !reader.take_nil() => failure = Some(reader.str("failure_message")?.to_owned()),
                1 => {}
                _ => reader.skip()?,
            }
        }
        Ok(Self { call_id, failure })
    }
}
