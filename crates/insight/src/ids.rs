//! Ids as the different writers spell them.

use wayfare_journey::{SpanId, TraceId};

/// Hexadecimal in either case, short when leading zeros were left out, or base64.
pub(crate) fn trace_id(text: &str) -> Option<TraceId> {
    if let Some(id) = TraceId::from_hex(text) {
        return Some(id);
    }
    TraceId::from_bytes(bytes(text)?)
}

/// As [`trace_id`]. Zeros alone are no id: some writers fill an absent parent with them.
pub(crate) fn span_id(text: &str) -> Option<SpanId> {
    if let Some(id) = SpanId::from_hex(text) {
        return Some(id);
    }
    SpanId::from_bytes(bytes(text)?)
}

fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    // OTLP/JSON is hexadecimal; protobuf's own JSON, which Tempo answers, is base64. Of N bytes the two never have the
    // same length: 2N digits against 4N/3 characters, padded or not.
    let may_be_base64 = [N.div_ceil(3) * 4, (4 * N).div_ceil(3)].contains(&text.len());
    may_be_base64.then(|| from_base64(text)).flatten().or_else(|| from_hex(text))
}

/// Short texts are filled up with zeros from the left, as Jaeger's are; shorter than 8 digits is no id.
fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() < 8 || text.len() > 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (position, digit) in text.bytes().rev().enumerate() {
        let value = u8::try_from(char::from(digit).to_digit(16)?).ok()?;
        *bytes.get_mut(N - 1 - position / 2)? |= value << (4 * (position % 2));
    }
    Some(bytes)
}

/// The standard alphabet or that for addresses, padded or not.
fn from_base64<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let (mut length, mut bits, mut buffer) = (0, 0_u32, 0_u32);
    for character in text.trim_end_matches('=').bytes() {
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        buffer = buffer << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            *bytes.get_mut(length)? = (buffer >> bits & 0xff) as u8;
            buffer &= (1 << bits) - 1;
            length += 1;
        }
    }
    (length == N && buffer == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_the_same_id() {
        let id = trace_id("4bf92f3577b34da6a3ce929d0e0e4736").unwrap();
        for text in [
            "4BF92F3577B34DA6A3CE929D0E0E4736",
            "S/kvNXezTaajzpKdDg5HNg==",
            "S/kvNXezTaajzpKdDg5HNg",
            "S_kvNXezTaajzpKdDg5HNg==",
        ] {
            assert_eq!(trace_id(text), Some(id), "{text}");
        }
        let span = span_id("00f067aa0ba902b7").unwrap();
        for text in ["f067aa0ba902b7", "APBnqgupArc=", "APBnqgupArc"] {
            assert_eq!(span_id(text), Some(span), "{text}");
        }
        assert_eq!(trace_id("a3ce929d0e0e4736"), trace_id("0000000000000000a3ce929d0e0e4736"));
    }

    #[test]
    fn what_is_no_id_is_none() {
        for text in
            ["", "12", "0000000000000000", "zzzzzzzzzzzzzzzz", "AAAAAAAAAAA=", "ééééé", "00f067aa0ba902b700"]
        {
            assert_eq!(span_id(text), None, "{text}");
        }
    }
}
