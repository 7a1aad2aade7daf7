//! W3C trace context: ids, the `traceparent` and `tracestate` headers, `traceresponse`.
//!
//! Source: <https://www.w3.org/TR/trace-context-2/>.

use std::fmt;
use std::ops::Deref;

use rand::RngExt as _;

/// Longest `tracestate` we carry on, in bytes. W3C asks vendors to propagate at least 512.
const MAX_TRACESTATE_BYTES: usize = 1024;
const FLAG_SAMPLED: u8 = 0x01;
const FLAG_RANDOM: u8 = 0x02;

/// A 16-byte trace id that is never all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TraceId([u8; 16]);

/// An 8-byte span id that is never all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpanId([u8; 8]);

macro_rules! id {
    ($id:ident, $length:literal) => {
        impl $id {
            /// A random id. Reads a thread-local generator: no system call, no lock.
            #[must_use]
            pub fn random() -> Self {
                let mut bytes = [0; $length];
                loop {
                    // Drawing an array would draw each of its bytes.
                    rand::rng().fill(&mut bytes);
                    if let Some(id) = Self::from_bytes(bytes) {
                        return id;
                    }
                }
            }

            /// The id of these bytes; `None` for the all-zero id, which W3C declares invalid.
            #[must_use]
            pub fn from_bytes(bytes: [u8; $length]) -> Option<Self> {
                (bytes != [0; $length]).then_some(Self(bytes))
            }

            /// The bytes, most significant first.
            #[must_use]
            pub fn to_bytes(self) -> [u8; $length] {
                self.0
            }

            fn write_hex(self, digits: &mut [u8]) {
                for (pair, byte) in digits.chunks_exact_mut(2).zip(self.0) {
                    pair.copy_from_slice(&hex_digits(byte));
                }
            }

            /// Reads exactly the lower-case hexadecimal form; `None` for anything else.
            #[must_use]
            pub fn from_hex(text: &str) -> Option<Self> {
                let digits: &[u8; 2 * $length] = text.as_bytes().try_into().ok()?;
                Self::from_digits(digits)
            }

            fn from_digits(digits: &[u8; 2 * $length]) -> Option<Self> {
                let mut bytes = [0; $length];
                let mut values = 0;
                // Without a way out of the loop, so that many digits are read at once.
                for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
                    let (high, low) = (hex_value(pair[0]), hex_value(pair[1]));
                    values |= high | low;
                    *byte = high << 4 | low;
                }
                if values > 0xf { None } else { Self::from_bytes(bytes) }
            }
        }

        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }
    };
}

id!(TraceId, 16);
id!(SpanId, 8);

impl TraceId {
    /// The 56 random bits on which consistent sampling decides (W3C trace context level 2, the right-most
    /// seven bytes).
    #[must_use]
    pub fn randomness(self) -> u64 {
        self.0[9..].iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }
}

/// What a request carries from its caller, or a new root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace the request belongs to.
    pub trace_id: TraceId,
    /// The caller's span; `None` when the trace starts here.
    pub parent: Option<SpanId>,
    /// The caller's sampled flag; a new root says `true` and leaves the decision to the sampler.
    pub caller_sampled: bool,
    /// Whether the trace id is known to be random (level 2 flag); always so for a new root.
    pub random: bool,
    /// The caller's vendor list, carried on unread.
    pub state: Option<Box<str>>,
}

impl TraceContext {
    /// A new trace.
    #[must_use]
    pub fn root() -> Self {
        Self { trace_id: TraceId::random(), parent: None, caller_sampled: true, random: true, state: None }
    }

    /// Reads the two headers. An absent or invalid `traceparent` starts a new trace; it never fails.
    ///
    /// `tracestate` values are joined in order when the header occurs several times; a list that is too
    /// long or holds anything but visible ASCII is dropped whole, as W3C allows.
    pub fn extract<'a>(traceparent: Option<&str>, tracestate: impl IntoIterator<Item = &'a str>) -> Self {
        let Some(mut context) = traceparent.and_then(parse_traceparent) else {
            return Self::root();
        };
        context.state = join_tracestate(tracestate);
        context
    }

    /// The `traceresponse` header (level 2 draft): our own span as the child id, and whether we recorded.
    /// Allocates nothing.
    #[must_use]
    pub fn traceresponse(&self, span: SpanId, recorded: bool) -> TraceResponse {
        let flags = if recorded { FLAG_SAMPLED } else { 0 } | if self.random { FLAG_RANDOM } else { 0 };
        let mut text = [b'-'; TraceResponse::LENGTH];
        text[..2].copy_from_slice(b"00");
        self.trace_id.write_hex(&mut text[3..35]);
        span.write_hex(&mut text[36..52]);
        text[53..].copy_from_slice(&hex_digits(flags));
        TraceResponse(text)
    }
}

/// The value of a `traceresponse` header.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TraceResponse([u8; Self::LENGTH]);

impl TraceResponse {
    /// version "-" trace id "-" span id "-" flags
    const LENGTH: usize = 2 + 1 + 32 + 1 + 16 + 1 + 2;

    /// The value as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl Deref for TraceResponse {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for TraceResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for TraceResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl PartialEq<String> for TraceResponse {
    fn eq(&self, other: &String) -> bool {
        self.as_str() == other
    }
}

/// `version "-" trace-id "-" parent-id "-" trace-flags`, each of a fixed length; a version above 00 may append
/// more fields behind another "-", and version ff is invalid.
fn parse_traceparent(header: &str) -> Option<TraceContext> {
    let (fields, rest) = trim(header).as_bytes().split_first_chunk::<55>()?;
    let (version, fields) = fields.split_first_chunk::<2>()?;
    let (trace_id, fields) = fields.strip_prefix(b"-")?.split_first_chunk::<32>()?;
    let (parent, fields) = fields.strip_prefix(b"-")?.split_first_chunk::<16>()?;
    let flags: &[u8; 2] = fields.strip_prefix(b"-")?.try_into().ok()?;

    let (version, flags) = (hex_byte(*version)?, hex_byte(*flags)?);
    let is_valid_version = match rest.first() {
        None => version != 0xff,
        Some(next) => *next == b'-' && version != 0 && version != 0xff,
    };
    if !is_valid_version {
        return None;
    }
    Some(TraceContext {
        trace_id: TraceId::from_digits(trace_id)?,
        parent: Some(SpanId::from_digits(parent)?),
        caller_sampled: flags & FLAG_SAMPLED != 0,
        random: flags & FLAG_RANDOM != 0,
        state: None,
    })
}

/// Without the spaces and tabs that may stand around a header's value.
fn trim(value: &str) -> &str {
    value.trim_matches([' ', '\t'])
}

fn join_tracestate<'a>(values: impl IntoIterator<Item = &'a str>) -> Option<Box<str>> {
    let mut joined = String::new();
    for value in values {
        let value = trim(value);
        let is_printable = value.bytes().all(|byte| (0x20..0x7f).contains(&byte) || byte == b'\t');
        if !is_printable || joined.len() + value.len() + 1 > MAX_TRACESTATE_BYTES {
            return None;
        }
        if value.is_empty() {
            continue;
        }
        if !joined.is_empty() {
            joined.push(',');
        }
        joined.push_str(value);
    }
    (!joined.is_empty()).then(|| joined.into_boxed_str())
}

/// The two lower-case hexadecimal digits of a byte.
fn hex_digits(byte: u8) -> [u8; 2] {
    const PAIRS: [[u8; 2]; 256] = {
        let digits = b"0123456789abcdef";
        let mut pairs = [[0; 2]; 256];
        let mut byte = 0;
        while byte < 256 {
            pairs[byte] = [digits[byte >> 4], digits[byte & 15]];
            byte += 1;
        }
        pairs
    };
    PAIRS[usize::from(byte)]
}

/// Two lower-case hexadecimal digits.
fn hex_byte([high, low]: [u8; 2]) -> Option<u8> {
    let (high, low) = (hex_value(high), hex_value(low));
    (high | low <= 0xf).then_some(high << 4 | low)
}

/// The value of a lower-case hexadecimal digit, and more than 15 for anything else: W3C forbids upper case in
/// `traceparent`.
fn hex_value(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => 0xff,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    fn extract(traceparent: &str) -> TraceContext {
        TraceContext::extract(Some(traceparent), [])
    }

    #[test]
    fn valid_header_continues_the_trace() {
        let context = extract(&format!("00-{TRACE}-{SPAN}-01"));
        assert_eq!(context.trace_id.to_string(), TRACE);
        assert_eq!(context.parent.map(|span| span.to_string()).as_deref(), Some(SPAN));
        assert!(context.caller_sampled);
        assert!(!extract(&format!("00-{TRACE}-{SPAN}-00")).caller_sampled);
    }

    #[test]
    fn a_future_version_may_append_fields_and_version_zero_may_not() {
        assert_eq!(extract(&format!("cc-{TRACE}-{SPAN}-01-what-ever")).trace_id.to_string(), TRACE);
        for header in [
            format!("00-{TRACE}-{SPAN}-01-more"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("00-{}-{SPAN}-01", "0".repeat(32)),
            format!("00-{TRACE}-{}-01", "0".repeat(16)),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{SPAN}"),
            format!("0-{TRACE}-{SPAN}-01"),
            format!("00-{TRACE}-{SPAN}-1"),
            String::new(),
        ] {
            let context = extract(&header);
            assert_eq!(context.parent, None, "{header} must start a new trace");
            assert_ne!(context.trace_id.to_string(), TRACE);
        }
    }

    #[test]
    fn every_character_of_the_header_counts() {
        let valid = format!("00-{TRACE}-{SPAN}-01");
        assert_eq!(extract(&format!(" {valid}\t")), extract(&valid));
        for at in 0..valid.len() {
            for wrong in ["g", "A", "/", ":", "`", " ", "é"] {
                let header = format!("{}{wrong}{}", &valid[..at], &valid[at + 1..]);
                assert_eq!(extract(&header).parent, None, "{header} must start a new trace");
            }
            let shorter = format!("{}{}", &valid[..at], &valid[at + 1..]);
            assert_eq!(extract(&shorter).parent, None, "{shorter} must start a new trace");
        }
    }

    #[test]
    fn tracestate_is_joined_and_bounded() {
        let parent = format!("00-{TRACE}-{SPAN}-01");
        let state = |values: &[&str]| TraceContext::extract(Some(&parent), values.iter().copied()).state;
        assert_eq!(state(&["a=1", " b=2 "]).as_deref(), Some("a=1,b=2"));
        assert_eq!(state(&[""]), None);
        assert_eq!(state(&[&"x".repeat(2000)]), None);
        assert_eq!(state(&["a=\u{1}"]), None);
    }

    #[test]
    fn traceresponse_names_our_span_and_the_decision() {
        let context = extract(&format!("00-{TRACE}-{SPAN}-03"));
        let ours = SpanId::from_hex("0102030405060708").unwrap();
        assert_eq!(context.traceresponse(ours, true), format!("00-{TRACE}-0102030405060708-03"));
        assert_eq!(context.traceresponse(ours, false), format!("00-{TRACE}-0102030405060708-02"));
    }

    proptest! {
        #[test]
        fn no_header_panics(header in ".{0,80}", state in ".{0,80}") {
            let _ = TraceContext::extract(Some(&header), [state.as_str()]);
        }

        #[test]
        fn ids_round_trip(bytes in any::<[u8; 16]>()) {
            if let Some(id) = TraceId::from_bytes(bytes) {
                prop_assert_eq!(TraceId::from_hex(&id.to_string()), Some(id));
            }
        }
    }
}
