//! `strftime_now`: the current date and time in UTC, formatted as C's `strftime` does in the C locale.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use minijinja::{Error, ErrorKind};

const SECONDS_PER_DAY: i64 = 86_400;
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// The time `at`, formatted.
pub(super) fn strftime(at: SystemTime, format: &str) -> Result<String, Error> {
    let date_time = DateTime::of(at);
    let mut text = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        let next = characters.next();
        let padded = next != Some('-');
        let directive = if padded { next } else { characters.next() };
        if !directive.is_some_and(|directive| date_time.write(directive, padded, &mut text)) {
            let message = format!("strftime_now: format {format:?} has a directive that is not supported");
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
    }
    Ok(text)
}

struct DateTime {
    year: i64,
    /// From 1.
    month: i64,
    /// From 1.
    day: i64,
    /// From 1.
    day_of_year: i64,
    /// From 0, Sunday.
    weekday: i64,
    second_of_day: i64,
    microsecond: u32,
}

impl DateTime {
    fn of(at: SystemTime) -> Self {
        // Times before 1970 count as 1970: no clock that is right shows them.
        let since_epoch = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let seconds = i64::try_from(since_epoch.as_secs()).unwrap_or(0);
        let days = seconds / SECONDS_PER_DAY;
        // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days: years start in March,
        // so that the leap day is the last of the year, and 400 years have 146097 days.
        let shifted = days + 719_468;
        let day_of_era = shifted % 146_097;
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let march_day = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * march_day + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = year_of_era + shifted / 146_097 * 400 + i64::from(month <= 2);
        let leap_day = i64::from(year % 4 == 0 && (year % 100 != 0 || year % 400 == 0));
        let day_of_year = if month <= 2 { march_day - 305 } else { march_day + 60 + leap_day };
        Self {
            year,
            month,
            day: march_day - (153 * march_month + 2) / 5 + 1,
            day_of_year,
            weekday: (days + 4) % 7,
            second_of_day: seconds % SECONDS_PER_DAY,
            microsecond: since_epoch.subsec_micros(),
        }
    }

    /// Appends what the directive stands for; says whether there is such a directive.
    fn write(&self, directive: char, padded: bool, text: &mut String) -> bool {
        let (hour, minute, second) =
            (self.second_of_day / 3_600, self.second_of_day / 60 % 60, self.second_of_day % 60);
        let (weekday, month) = (name(&WEEKDAYS, self.weekday), name(&MONTHS, self.month - 1));
        let number = |value: i64, width: usize| {
            if padded { format!("{value:0width$}") } else { value.to_string() }
        };
        let written = match directive {
            'Y' => self.year.to_string(),
            'y' => number(self.year % 100, 2),
            'm' => number(self.month, 2),
            'd' => number(self.day, 2),
            'e' => format!("{:>2}", self.day),
            'j' => number(self.day_of_year, 3),
            'H' => number(hour, 2),
            'I' => number((hour + 11) % 12 + 1, 2),
            'M' => number(minute, 2),
            'S' => number(second, 2),
            'f' => format!("{:06}", self.microsecond),
            'p' => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            'A' => weekday.to_owned(),
            'a' => weekday.chars().take(3).collect(),
            'B' => month.to_owned(),
            'b' | 'h' => month.chars().take(3).collect(),
            'w' => self.weekday.to_string(),
            'Z' => "UTC".to_owned(),
            'z' => "+0000".to_owned(),
            'F' => format!("{}-{:02}-{:02}", self.year, self.month, self.day),
            'T' => format!("{hour:02}:{minute:02}:{second:02}"),
            '%' => "%".to_owned(),
            _ => return false,
        };
        text.write_str(&written).is_ok()
    }
}

fn name(names: &[&'static str], place: i64) -> &'static str {
    usize::try_from(place).ok().and_then(|place| names.get(place)).copied().unwrap_or_default()
}
