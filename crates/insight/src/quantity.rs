//! Quantities for people: a few digits, with their unit.

/// A time in seconds: `1.23 s`, `45.6 ms`, `7.89 µs`, or minutes from two on.
#[must_use]
pub fn seconds(seconds: f64) -> String {
    let size = seconds.abs();
    if size >= 120.0 {
        format!("{:.1} min", seconds / 60.0)
    } else if size >= 9.995 {
        format!("{seconds:.1} s")
    } else if size >= 0.9995 {
        format!("{seconds:.2} s")
    } else if size >= 0.009_995 {
        format!("{:.1} ms", seconds * 1e3)
    } else if size >= 0.000_999_5 {
        format!("{:.2} ms", seconds * 1e3)
    } else if size > 0.0 {
        format!("{:.1} µs", seconds * 1e6)
    } else {
        "0 s".to_owned()
    }
}

/// As [`seconds`], of nanoseconds.
#[must_use]
pub fn nanoseconds(ns: u64) -> String {
    seconds(ns as f64 / 1e9)
}

/// A number with a space between thousands: `1 234 567`.
#[must_use]
pub fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

/// `1 token`, `4 000 tokens`.
#[must_use]
pub fn tokens(tokens: u64) -> String {
    format!("{} {}", count(tokens), if tokens == 1 { "token" } else { "tokens" })
}

/// A share of 0 to 1: `12.3 %`.
#[must_use]
pub fn percent(share: f64) -> String {
    if share >= 0.9995 { format!("{:.0} %", share * 100.0) } else { format!("{:.1} %", share * 100.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_have_few_digits() {
        let times = [0.0, 4.2e-7, 0.0012, 0.045, 1.234, 12.34, 599.0].map(seconds);
        assert_eq!(times, ["0 s", "0.4 µs", "1.20 ms", "45.0 ms", "1.23 s", "12.3 s", "10.0 min"]);
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1 000", "1 234 567"]);
        assert_eq!([tokens(1), percent(0.1234), percent(1.0)], ["1 token", "12.3 %", "100 %"]);
    }
}
