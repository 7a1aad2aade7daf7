//! What a file is, by its first bytes.

use std::io::{self, Read};

use super::TraceForm;
use super::compression::Compression;
use super::frames::{LENGTH_BYTES, MAX_MESSAGE_BYTES, length_of};
use crate::reader::ReadError;

/// As many bytes as are looked at.
pub(super) const PREFIX_BYTES: usize = 4096;

/// The tag of the first field of an OTLP message: number 1, with a length.
const PROTOBUF_FIRST_BYTE: u8 = 0x0a;

/// Up to `length` bytes from the beginning; fewer only at the end.
pub(super) fn read_prefix<R: Read>(mut input: R, length: usize) -> io::Result<(Vec<u8>, R)> {
    let mut head = Vec::with_capacity(length);
    input.by_ref().take(length as u64).read_to_end(&mut head)?;
    Ok((head, input))
}

pub(super) fn form_of(head: &[u8]) -> Result<TraceForm, ReadError> {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    if is_framed(head) {
        return Ok(TraceForm::Messages);
    }
    match text.first() {
        None => Ok(TraceForm::Empty),
        Some(b'{' | b'[') => {
            Ok(if is_over_several_lines(text) { TraceForm::JsonDocument } else { TraceForm::JsonLines })
        }
        Some(_) if head.first() == Some(&PROTOBUF_FIRST_BYTE) && !is_text(head) => Ok(TraceForm::Protobuf),
        // The torn end of a line at the beginning: what comes after it may be whole.
        Some(_) if is_text(text) => Ok(TraceForm::JsonLines),
        Some(_) => Err(ReadError::UnknownForm {
            reason: "it is neither JSON, nor protobuf of OpenTelemetry, nor compressed with gzip or zstd",
        }),
    }
}

/// A length, and after it what a message may begin with.
fn is_framed(head: &[u8]) -> bool {
    let Some((length, message)) = length_of(head) else { return false };
    let begins = match message.first() {
        Some(&PROTOBUF_FIRST_BYTE | b'{') => true,
        Some(_) => Compression::of(message) != Compression::None,
        None => false,
    };
    begins && length <= MAX_MESSAGE_BYTES && head.len() > LENGTH_BYTES
}

/// Whether the first line ends within a JSON value. A line of OTLP is one even when it is torn.
fn is_over_several_lines(text: &[u8]) -> bool {
    let Some(end) = text.iter().position(|byte| *byte == b'\n') else { return false };
    let first_line = &text[..end];
    if first_line.starts_with(b"{\"resourceSpans\"") && first_line.len() > 64 {
        return false;
    }
    let (mut depth, mut in_text, mut is_escaped) = (0_i64, false, false);
    for byte in first_line {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_text => is_escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => depth += 1,
            b'}' | b']' if !in_text => depth -= 1,
            _ => {}
        }
    }
    depth > 0
}

fn is_text(head: &[u8]) -> bool {
    // The prefix may end within a character.
    let valid = match std::str::from_utf8(head) {
        Ok(_) => true,
        Err(error) => error.error_len().is_none(),
    };
    let is_control = |byte: &u8| *byte < b' ' && !byte.is_ascii_whitespace();
    valid && !head.iter().any(is_control)
}
