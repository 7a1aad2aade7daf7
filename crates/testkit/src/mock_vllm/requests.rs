//! What a front sends.

use rmpv::ValueRef;
use rmpv::decode::read_value_ref;

use super::MockVllmError;

/// Defaults are left out of sampling parameters.
const DEFAULT_MAX_TOKENS: u64 = 16;

/// A message of the front.
#[derive(Debug, PartialEq)]
pub(super) enum Told {
    Add { id: String, prompt_tokens: u32, max_tokens: u32 },
    Abort(Vec<String>),
    Utility { call_id: CallId, method: String },
    Other,
}

/// The number of a call, of which fronts use all 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallId {
    Signed(i64),
    Unsigned(u64),
}

/// Reads a message of the request socket.
pub(super) fn read(kind: &[u8], payload: &[u8]) -> Result<Told, MockVllmError> {
    let is_known = matches!(kind, [0 | 1 | 3]);
    if !is_known {
        return Ok(Told::Other);
    }
    let value = value(payload)?;
    let fields = array(&value)?;
    match kind {
        [0] => {
            let id = text(fields.first(), "a request without a name")?;
            let prompt = fields.get(1).and_then(as_array).map_or(0, <[ValueRef<'_>]>::len);
            let sampling =
                fields.get(3).ok_or(MockVllmError::NotUnderstood("a request without parameters"))?;
            let max_tokens = entry(sampling, "max_tokens").and_then(as_u64).unwrap_or(DEFAULT_MAX_TOKENS);
            let number = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
            Ok(Told::Add { id, prompt_tokens: number(prompt as u64), max_tokens: number(max_tokens) })
        }
        [1] => {
            let ids = fields.iter().map(|id| text(Some(id), "an abort without a name"));
            Ok(Told::Abort(ids.collect::<Result<_, _>>()?))
        }
        _ => {
            let call_id = match fields.get(1) {
                Some(ValueRef::Integer(id)) => {
                    id.as_u64().map(CallId::Unsigned).or(id.as_i64().map(CallId::Signed))
                }
                _ => None,
            };
            let call_id = call_id.ok_or(MockVllmError::NotUnderstood("a call without a number"))?;
            Ok(Told::Utility { call_id, method: text(fields.get(2), "a call without a method")? })
        }
    }
}

/// Where requests come from and outputs go to, in the front's answer to the first greeting.
pub(super) fn output_addresses(init: &[u8]) -> Result<(String, String), MockVllmError> {
    let value = value(init)?;
    let addresses = entry(&value, "addresses").ok_or(MockVllmError::NotUnderstood("no addresses"))?;
    let first = |key| text(entry(addresses, key).and_then(as_array).and_then(<[_]>::first), "no address");
    Ok((first("inputs")?, first("outputs")?))
}

fn value(frame: &[u8]) -> Result<ValueRef<'_>, MockVllmError> {
    read_value_ref(&mut &*frame).map_err(|_| MockVllmError::NotUnderstood("a frame is not MessagePack"))
}

fn array<'v, 'a>(value: &'v ValueRef<'a>) -> Result<&'v [ValueRef<'a>], MockVllmError> {
    as_array(value).ok_or(MockVllmError::NotUnderstood("a message is not an array"))
}

fn as_array<'v, 'a>(value: &'v ValueRef<'a>) -> Option<&'v [ValueRef<'a>]> {
    if let ValueRef::Array(values) = value { Some(values) } else { None }
}

fn as_u64(value: &ValueRef<'_>) -> Option<u64> {
    if let ValueRef::Integer(number) = value { number.as_u64() } else { None }
}

fn as_text<'a>(value: &'a ValueRef<'_>) -> Option<&'a str> {
    if let ValueRef::String(text) = value { text.as_str() } else { None }
}

fn text(value: Option<&ValueRef<'_>>, problem: &'static str) -> Result<String, MockVllmError> {
    value.and_then(as_text).map(str::to_owned).ok_or(MockVllmError::NotUnderstood(problem))
}

fn entry<'v, 'a>(map: &'v ValueRef<'a>, key: &str) -> Option<&'v ValueRef<'a>> {
    let ValueRef::Map(entries) = map else { return None };
    entries.iter().find(|(name, _)| as_text(name) == Some(key)).map(|(_, value)| value)
}
