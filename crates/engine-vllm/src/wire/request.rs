//! What an engine core is sent.

use std::convert::Infallible;

use rmp::encode::{
    ByteBuf, ValueWriteError, write_array_len, write_bool, write_f64, write_map_len, write_nil, write_sint,
    write_str, write_uint,
};
use wayfare_engine::{EngineRequest, OutputGrammar, SamplingParams, TokenId, TokenRules};

use super::WireId;

/// The frame before an added request.
pub const MESSAGE_ADD: &[u8] = &[0];
/// The frame before aborted requests.
pub const MESSAGE_ABORT: &[u8] = &[1];
/// The frame before a utility call.
pub const MESSAGE_UTILITY: &[u8] = &[3];

/// Positions 0 to 8 of a request are the same in all versions, and the decoder takes shorter arrays than its own.
const LEAST_FIELDS: u32 = 9;
/// Up to the priority: `prompt_embeds`, `prompt_is_token_ids`, `client_index`, `current_wave`, `priority`, as of 0.22.
const FIELDS_WITH_PRIORITY: u32 = 14;
/// vLLM decodes a request on a thread that does not survive an error, so what it would refuse must not be sent.
const MAX_TEMPERATURE: f32 = 2.0;
const MAX_PENALTY: f32 = 2.0;

type Written = Result<(), ValueWriteError<Infallible>>;

/// A request and what the engine core must know besides.
#[derive(Debug)]
pub struct AddRequest<'a> {
    /// Its name.
    pub id: WireId,
    /// The request.
    pub request: &'a EngineRequest,
    /// When it arrived, in seconds since the Unix epoch.
    pub arrival_seconds: f64,
    /// The rank that is to have it, where there are several.
    pub data_parallel_rank: Option<u32>,
    /// Sends the seed also where the client has not chosen it. With a seed, vLLM makes a generator for the request, and
    /// draws for each of these alone.
    pub sends_own_seeds: bool,
}

/// An engine core would not survive this request, or not understand it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("vLLM does not take {0}")]
pub struct UnfitRequest(pub String);

/// Writes a request.
///
/// # Errors
/// When vLLM would not take it.
pub fn encode_add(add: &AddRequest<'_>) -> Result<Vec<u8>, UnfitRequest> {
    check(&add.request.sampling)?;
    // Most tokens take three bytes at most, and the rest is small.
    let mut frame = ByteBuf::with_capacity(3 * add.request.prompt.len() + 256);
    write_add(&mut frame, add).expect("a buffer takes whatever is written to it");
    Ok(frame.into_vec())
}

/// Writes the names of requests to be aborted.
#[must_use]
pub fn encode_abort(ids: &[WireId]) -> Vec<u8> {
    let mut frame = ByteBuf::with_capacity(5 + ids.len() * (WireId::TEXT_BYTES + 1));
    let mut write = || -> Written {
        write_array_len(&mut frame, ids.len() as u32)?;
        ids.iter().try_for_each(|id| write_id(&mut frame, *id))
    };
    write().expect("a buffer takes whatever is written to it");
    frame.into_vec()
}

/// An argument of a utility call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UtilityArgument {
    /// Text.
    Text(&'static str),
    /// True or false.
    Flag(bool),
}

/// Writes a utility call: `[client_index, call_id, method, arguments]`.
#[must_use]
pub fn encode_utility(call_id: u64, method: &str, arguments: &[UtilityArgument]) -> Vec<u8> {
    let mut frame = ByteBuf::new();
    let mut write = || -> Written {
        write_array_len(&mut frame, 4)?;
        write_uint(&mut frame, 0)?;
        write_uint(&mut frame, call_id)?;
        write_str(&mut frame, method)?;
        write_array_len(&mut frame, arguments.len() as u32)?;
        for argument in arguments {
            match argument {
                UtilityArgument::Text(text) => write_str(&mut frame, text)?,
                UtilityArgument::Flag(flag) => {
                    write_bool(&mut frame, *flag).map_err(ValueWriteError::InvalidMarkerWrite)?;
                }
            }
        }
        Ok(())
    };
    write().expect("a buffer takes whatever is written to it");
    frame.into_vec()
}

/// What vLLM checks when it reads sampling parameters, and this server may allow.
fn check(sampling: &SamplingParams) -> Result<(), UnfitRequest> {
    let unfit = |what: String| Err(UnfitRequest(what));
    if !(0.0..=MAX_TEMPERATURE).contains(&sampling.temperature) {
        return unfit(format!("a temperature of {}; at most {MAX_TEMPERATURE}", sampling.temperature));
    }
    if !(sampling.top_p > 0.0 && sampling.top_p <= 1.0) {
        return unfit(format!("a top_p of {}; above 0 and at most 1", sampling.top_p));
    }
    if !(0.0..=1.0).contains(&sampling.min_p) {
        return unfit(format!("a min_p of {}; from 0 to 1", sampling.min_p));
    }
    if sampling.max_tokens == 0 {
        return unfit("a request for no tokens".to_owned());
    }
    let Some(rules) = sampling.rules.as_deref() else { return Ok(()) };
    for (name, penalty) in
        [("presence_penalty", rules.presence_penalty), ("frequency_penalty", rules.frequency_penalty)]
    {
        if !(-MAX_PENALTY..=MAX_PENALTY).contains(&penalty) {
            return unfit(format!("a {name} of {penalty}; from -2 to 2"));
        }
    }
    if !(rules.repetition_penalty > 0.0 && rules.repetition_penalty.is_finite()) {
        return unfit(format!("a repetition_penalty of {}; above 0", rules.repetition_penalty));
    }
    if rules.min_tokens > sampling.max_tokens {
        return unfit(format!("a min_tokens of {} with a max_tokens below", rules.min_tokens));
    }
    Ok(())
}

fn write_add(frame: &mut ByteBuf, add: &AddRequest<'_>) -> Written {
    let request = add.request;
    let has_priority = request.priority != 0;
    write_array_len(frame, if has_priority { FIELDS_WITH_PRIORITY } else { LEAST_FIELDS })?;
    write_id(frame, add.id)?;
    write_tokens(frame, &request.prompt)?;
    // mm_features
    nil(frame)?;
    write_sampling(frame, request, add.sends_own_seeds)?;
    // pooling_params
    nil(frame)?;
    write_f64(frame, add.arrival_seconds)?;
    // lora_request
    nil(frame)?;
    match &request.cache_salt {
        Some(salt) => write_str(frame, salt)?,
        None => nil(frame)?,
    }
    match add.data_parallel_rank {
        Some(rank) => write_unsigned(frame, rank.into())?,
        None => nil(frame)?,
    }
    if has_priority {
        // prompt_embeds, prompt_is_token_ids
        nil(frame)?;
        nil(frame)?;
        // client_index, current_wave
        write_unsigned(frame, 0)?;
        write_unsigned(frame, 0)?;
        write_sint(frame, request.priority.into())?;
    }
    Ok(())
}

/// A map whose entries are counted while they are written.
struct Map<'a> {
    frame: &'a mut ByteBuf,
    start: usize,
    entries: u16,
}

impl<'a> Map<'a> {
    fn begin(frame: &'a mut ByteBuf) -> Self {
        let start = frame.as_slice().len();
        // A map of 16 bits of length, which is filled in at the end.
        frame.as_mut_vec().extend([rmp::Marker::Map16.to_u8(), 0, 0]);
        Self { frame, start, entries: 0 }
    }

    fn key(&mut self, key: &str) -> Result<&mut ByteBuf, ValueWriteError<Infallible>> {
        self.entries += 1;
        write_str(self.frame, key)?;
        Ok(self.frame)
    }

    fn end(self) {
        let length = self.entries.to_be_bytes();
        self.frame.as_mut_vec()[self.start + 1..self.start + 3].copy_from_slice(&length);
    }
}

/// Sampling parameters, of which those that have vLLM's default value are left out.
fn write_sampling(frame: &mut ByteBuf, request: &EngineRequest, sends_own_seeds: bool) -> Written {
    let sampling = &request.sampling;
    let mut map = Map::begin(frame);
    let is_greedy = sampling.temperature == 0.0;
    write_f64(map.key("temperature")?, decimal(sampling.temperature))?;
    if sampling.top_p < 1.0 {
        write_f64(map.key("top_p")?, decimal(sampling.top_p))?;
    }
    if sampling.top_k > 0 {
        write_unsigned(map.key("top_k")?, sampling.top_k.into())?;
    }
    if sampling.min_p > 0.0 {
        write_f64(map.key("min_p")?, decimal(sampling.min_p))?;
    }
    if !is_greedy && (sampling.seed_is_chosen || sends_own_seeds) {
        write_seed(map.key("seed")?, sampling.seed)?;
    }
    write_unsigned(map.key("max_tokens")?, sampling.max_tokens.into())?;
    write_ends(&mut map, sampling)?;
    if let Some(count) = sampling.logprobs {
        write_unsigned(map.key("logprobs")?, count.into())?;
    }
    if let Some(count) = sampling.prompt_logprobs {
        write_unsigned(map.key("prompt_logprobs")?, count.into())?;
    }
    if let Some(rules) = &sampling.rules {
        write_rules(&mut map, rules)?;
    }
    if let Some(constraint) = &request.constraint {
        write_grammar(map.key("structured_outputs")?, &constraint.grammar)?;
    }
    map.end();
    Ok(())
}

/// vLLM knows one end of text; the others are stop tokens there. All of them are kept from coming before `min_tokens`.
fn write_ends(map: &mut Map<'_>, sampling: &SamplingParams) -> Written {
    let end_of_text = &sampling.end_of_text;
    if let Some(first) = end_of_text.first() {
        write_unsigned(map.key("_eos_token_id")?, (*first).into())?;
    }
    let others = end_of_text.get(1..).unwrap_or_default();
    let asked = &sampling.stop_token_ids;
    if !others.is_empty() || !asked.is_empty() {
        write_token_list(map.key("stop_token_ids")?, &[others, asked])?;
    }
    if !end_of_text.is_empty() || !asked.is_empty() {
        write_token_list(map.key("_all_stop_token_ids")?, &[end_of_text, asked])?;
    }
    Ok(())
}

fn write_rules(map: &mut Map<'_>, rules: &TokenRules) -> Written {
    let unchanged = TokenRules::default();
    for (key, value, default) in [
        ("presence_penalty", rules.presence_penalty, unchanged.presence_penalty),
        ("frequency_penalty", rules.frequency_penalty, unchanged.frequency_penalty),
        ("repetition_penalty", rules.repetition_penalty, unchanged.repetition_penalty),
    ] {
        if value != default {
            write_f64(map.key(key)?, decimal(value))?;
        }
    }
    if rules.min_tokens > 0 {
        write_unsigned(map.key("min_tokens")?, rules.min_tokens.into())?;
    }
    if !rules.logit_bias.is_empty() {
        let frame = map.key("logit_bias")?;
        write_map_len(frame, rules.logit_bias.len() as u32)?;
        for (token, bias) in &rules.logit_bias {
            write_unsigned(frame, (*token).into())?;
            write_f64(frame, decimal(*bias))?;
        }
    }
    if let Some(allowed) = &rules.allowed {
        write_tokens(map.key("allowed_token_ids")?, allowed)?;
    }
    if !rules.bad_words.is_empty() {
        let frame = map.key("_bad_words_token_ids")?;
        write_array_len(frame, rules.bad_words.len() as u32)?;
        rules.bad_words.iter().try_for_each(|word| write_tokens(frame, word))?;
    }
    Ok(())
}

/// What the output must be. The backend has to be named, because the Python front usually does that; this one is built
/// on the library with which the server has checked the grammar.
fn write_grammar(frame: &mut ByteBuf, grammar: &OutputGrammar) -> Written {
    write_map_len(frame, 2)?;
    match grammar {
        OutputGrammar::JsonObject => {
            write_str(frame, "json_object")?;
            write_bool(frame, true).map_err(ValueWriteError::InvalidMarkerWrite)?;
        }
        OutputGrammar::JsonSchema(schema) => {
            write_str(frame, "json")?;
            write_str(frame, schema)?;
        }
        OutputGrammar::Regex(expression) => {
            write_str(frame, "regex")?;
            write_str(frame, expression)?;
        }
        OutputGrammar::Choice(texts) => {
            write_str(frame, "choice")?;
            write_array_len(frame, texts.len() as u32)?;
            texts.iter().try_for_each(|text| write_str(frame, text))?;
        }
        OutputGrammar::Grammar(grammar) => {
            write_str(frame, "grammar")?;
            write_str(frame, grammar)?;
        }
    }
    write_str(frame, "_backend")?;
    write_str(frame, "guidance")
}

/// A seed as PyTorch takes it: without the highest bit, because -1 means none to vLLM and negative ones are few.
fn write_seed(frame: &mut ByteBuf, seed: u64) -> Written {
    write_unsigned(frame, seed & (u64::MAX >> 1))
}

fn write_id(frame: &mut ByteBuf, id: WireId) -> Written {
    let text = id.text();
    write_str(frame, std::str::from_utf8(&text).expect("hexadecimal digits are ASCII"))
}

fn write_tokens(frame: &mut ByteBuf, tokens: &[TokenId]) -> Written {
    write_token_list(frame, &[tokens])
}

fn write_token_list(frame: &mut ByteBuf, lists: &[&[TokenId]]) -> Written {
    let count: usize = lists.iter().map(|list| list.len()).sum();
    write_array_len(frame, u32::try_from(count).unwrap_or(u32::MAX))?;
    lists.iter().copied().flatten().try_for_each(|token| write_unsigned(frame, (*token).into()))
}

fn write_unsigned(frame: &mut ByteBuf, value: u64) -> Written {
    write_uint(frame, value).map(|_| ())
}

fn nil(frame: &mut ByteBuf) -> Written {
    write_nil(frame).map_err(ValueWriteError::InvalidMarkerWrite)
}

/// The number that the client wrote: 0.7 and not the nearest fraction of 24 bits, so that vLLM computes with the same
/// number as behind its own server.
fn decimal(value: f32) -> f64 {
    if value.fract() == 0.0 {
        return value.into();
    }
    value.to_string().parse().unwrap_or(value.into())
}
