//! Durations as people write them: `2s`, `500ms`, `1.5s`, `100us`.

/// Units, the longest name first where one begins with another.
const UNITS: [(&str, u64); 6] = [
    ("ns", 1),
    ("us", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];
/// The most digits before and behind the point: as many as a number of nanoseconds has, and few enough for the
/// arithmetic.
const MAX_DIGITS: usize = 20;

/// Where a text stops being a duration, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct BadDuration {
    /// The offset of the first byte that does not belong there.
    pub offset: usize,
    /// What is wrong and what would be right.
    pub problem: &'static str,
}

/// Reads a number, with or without a fraction, and its unit: ns, us, ms, s, m or h. Gives nanoseconds;
/// fractions of one are cut off.
///
/// # Errors
/// When the text is anything else, or more than about 584 years.
pub fn parse_duration_ns(text: &str) -> Result<u64, BadDuration> {
    let bad = |offset, problem| BadDuration { offset, problem };
    let digits =
        |from: usize| text.as_bytes()[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let whole_end = digits(0);
    if whole_end == 0 {
        return Err(bad(0, "expected a duration such as 2s, 1.5s or 500ms"));
    }
    let fraction_start = if text[whole_end..].starts_with('.') { whole_end + 1 } else { whole_end };
    let fraction_end =
        if fraction_start > whole_end { fraction_start + digits(fraction_start) } else { whole_end };
    if fraction_start > whole_end && fraction_end == fraction_start {
        return Err(bad(fraction_start, "expected digits after the point"));
    }
    let (whole, fraction) = (&text[..whole_end], &text[fraction_start..fraction_end]);
    if whole.len() > MAX_DIGITS || fraction.len() > MAX_DIGITS {
        return Err(bad(0, "the number has too many digits"));
    }
    let unit = &text[fraction_end..];
    let Some((_, unit_ns)) = UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(bad(fraction_end, "expected a unit: ns, us, ms, s, m or h"));
    };
    let number = |digits: &str| digits.bytes().fold(0_u128, |sum, digit| sum * 10 + u128::from(digit - b'0'));
    let unit_ns = u128::from(*unit_ns);
    let ns = number(whole) * unit_ns + number(fraction) * unit_ns / 10_u128.pow(fraction.len() as u32);
    u64::try_from(ns).map_err(|_| bad(0, "the duration is too long"))
}

/// Writes nanoseconds so that [`parse_duration_ns`] reads them back: in the largest of s, ms, us and ns that
/// needs no fraction.
#[must_use]
pub fn format_duration_ns(ns: u64) -> String {
    let fitting = UNITS[..4].iter().rev().find(|(_, unit_ns)| ns.is_multiple_of(*unit_ns));
    fitting.map_or_else(|| format!("{ns}ns"), |(unit, unit_ns)| format!("{}{unit}", ns / unit_ns))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_exactly() {
        for (text, ns) in [
            ("2s", 2_000_000_000),
            ("500ms", 500_000_000),
            ("1.5s", 1_500_000_000),
            ("100us", 100_000),
            ("7ns", 7),
            ("0s", 0),
            ("1.5m", 90_000_000_000),
            ("2h", 7_200_000_000_000),
            ("0.000000001s", 1),
        ] {
            assert_eq!(parse_duration_ns(text), Ok(ns), "{text}");
        }
    }

    #[test]
    fn the_first_wrong_character_is_pointed_at() {
        for (text, offset) in [
            ("", 0),
            ("s", 0),
            ("-1s", 0),
            ("2", 1),
            ("2x", 1),
            ("2 s", 1),
            ("2.s", 2),
            ("2.5", 3),
            ("2ss", 1),
        ] {
            assert_eq!(parse_duration_ns(text).unwrap_err().offset, offset, "{text:?}");
        }
        assert!(parse_duration_ns("999999999999h").is_err());
        assert!(parse_duration_ns(&format!("{}s", "9".repeat(40))).is_err());
        let nines = "9".repeat(MAX_DIGITS);
        assert!(parse_duration_ns(&format!("{nines}.{nines}h")).is_err());
        assert_eq!(parse_duration_ns(&format!("0.{nines}h")), Ok(3_599_999_999_999));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(ns in any::<u64>()) {
            prop_assert_eq!(parse_duration_ns(&format_duration_ns(ns)), Ok(ns));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,30}") {
            let _ = parse_duration_ns(&text);
        }
    }
}
