//! Lists of pairs, as variables hold them.

use std::fmt;

/// Why a list of pairs is malformed. Holds no value, because a value may be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum BadPairs {
    /// The n-th member, from 1, is not `key=value`.
    NotAPair(usize),
    /// The value of this key is not percent-encoded UTF-8.
    BadEncoding(String),
}

impl fmt::Display for BadPairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadPairs::NotAPair(place) => write!(f, "member {place} of the list is not key=value"),
            BadPairs::BadEncoding(key) => {
                write!(f, "the value of {key:?} is not percent-encoded text; write % as %25")
            }
        }
    }
}

/// Reads `key=value,key=value` with percent-encoded values, the form of W3C Baggage without properties that
/// OpenTelemetry's variables use. Empty members are skipped.
pub(super) fn parse_pairs(text: &str) -> Result<Vec<(String, String)>, BadPairs> {
    let members = text.split(',').map(str::trim).enumerate().filter(|(_, member)| !member.is_empty());
    members
        .map(|(index, member)| {
            let (key, value) = member.split_once('=').ok_or(BadPairs::NotAPair(index + 1))?;
            let key = key.trim();
            if key.is_empty() {
                return Err(BadPairs::NotAPair(index + 1));
            }
            let value = percent_decode(value.trim()).ok_or_else(|| BadPairs::BadEncoding(key.into()))?;
            Ok((key.into(), value))
        })
        .collect()
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let (high, low) = (digit()?, digit()?);
        bytes.push(u8::try_from(high << 4 | low).ok()?);
    }
    String::from_utf8(bytes).ok()
}
