//! Reading a trace of arrivals, line by line.

use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use wayfare_engine_local::{Arrival, SharedPrefix};

use super::csv::{self, Field};

/// The longest line that is read.
const MOST_LINE_BYTES: u64 = 1 << 16;
/// The latest arrival: some thirty years.
const MOST_SECONDS: f64 = 1e9;
const COLUMNS: [&str; 6] =
    ["arrival_time", "prompt_tokens", "output_tokens", "prefix_group", "prefix_tokens", "priority"];
/// How many of them must be there.
const REQUIRED: usize = 3;

/// Why a trace cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(super) enum TraceError {
    /// The file cannot be read.
    #[error("--trace: cannot read {path:?}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The name does not say what it is.
    #[error("--trace {path:?}: name it .csv or .jsonl, so that its form is known")]
    UnknownForm { path: PathBuf },
    /// A line is not right.
    #[error("{path}: line {line}, column {column}: {problem}", path = path.display())]
    Line { path: PathBuf, line: u64, column: usize, problem: String },
}

/// What is wrong in a line, and the column, from 1.
struct Problem {
    column: usize,
    problem: String,
}

impl Problem {
    fn new(column: usize, problem: impl Into<String>) -> Self {
        Self { column, problem: problem.into() }
    }
}

/// The arrivals of a trace, in order. Holds one line at a time.
pub(super) struct TraceReader {
    path: PathBuf,
    file: BufReader<File>,
    form: Form,
    rate_scale: f64,
    buffer: Vec<u8>,
    line: u64,
    /// The arrival time of the line before, in seconds of the trace.
    last_arrival: f64,
    has_failed: bool,
}

enum Form {
    /// Of each column that is known, its place in a line.
    Csv {
        places: [Option<usize>; COLUMNS.len()],
        columns: usize,
    },
    JsonLines,
}

/// A line as it says it.
struct Entry {
    arrival_time: f64,
    prompt_tokens: u32,
    output_tokens: u32,
    prefix_group: Option<String>,
    prefix_tokens: Option<u32>,
    priority: i32,
    /// Where each column is.
    at: [usize; COLUMNS.len()],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonEntry {
    arrival_time: f64,
    prompt_tokens: u32,
    output_tokens: u32,
    prefix_group: Option<serde_json::Value>,
    prefix_tokens: Option<u32>,
    priority: Option<i32>,
}

impl TraceReader {
    /// Opens a trace whose requests arrive `rate_scale` times as fast as it says.
    ///
    /// # Errors
    /// When it cannot be read, or begins wrong.
    pub(super) fn open(path: &Path, rate_scale: f64) -> Result<Self, TraceError> {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        let is_csv = match extension {
            "csv" => true,
            "jsonl" | "ndjson" => false,
            _ => return Err(TraceError::UnknownForm { path: path.to_owned() }),
        };
        let file = File::open(path).map_err(|source| TraceError::Read { path: path.to_owned(), source })?;
        let mut reader = Self {
            path: path.to_owned(),
            file: BufReader::new(file),
            form: Form::JsonLines,
            rate_scale,
            buffer: Vec::new(),
            line: 0,
            last_arrival: 0.0,
            has_failed: false,
        };
        if is_csv {
            reader.form = reader.header()?;
        }
        Ok(reader)
    }

    fn header(&mut self) -> Result<Form, TraceError> {
        if !self.read_line()? {
            self.line = 1;
            return Err(self.error(Problem::new(1, "expected a header line of column names")));
        }
        let header = self.text().and_then(columns_of);
        header.map_err(|problem| self.error(problem))
    }

    /// Reads the next line that is not blank. False at the end.
    fn read_line(&mut self) -> Result<bool, TraceError> {
        loop {
            self.buffer.clear();
            self.line += 1;
            let read = (&mut self.file).take(MOST_LINE_BYTES).read_until(b'\n', &mut self.buffer);
            let bytes = read.map_err(|source| TraceError::Read { path: self.path.clone(), source })? as u64;
            if bytes == 0 {
                return Ok(false);
            }
            if bytes == MOST_LINE_BYTES && !self.buffer.ends_with(b"\n") {
                let problem = format!("the line is longer than {MOST_LINE_BYTES} bytes");
                return Err(self.error(Problem::new(1, problem)));
            }
            if self.line == 1 && self.buffer.starts_with(b"\xef\xbb\xbf") {
                self.buffer.drain(..3);
            }
            while self.buffer.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                self.buffer.pop();
            }
            if !self.buffer.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }

    fn text(&self) -> Result<&str, Problem> {
        std::str::from_utf8(&self.buffer).map_err(|error| {
            let before = String::from_utf8_lossy(&self.buffer[..error.valid_up_to()]);
            Problem::new(before.chars().count() + 1, "it is not UTF-8")
        })
    }

    fn error(&self, Problem { column, problem }: Problem) -> TraceError {
        TraceError::Line { path: self.path.clone(), line: self.line, column, problem }
    }

    fn arrival(&self) -> Result<(Arrival, f64), Problem> {
        let text = self.text()?;
        let entry = match &self.form {
            Form::Csv { places, columns } => csv_entry(text, places, *columns)?,
            Form::JsonLines => json_entry(text)?,
        };
        if entry.arrival_time < self.last_arrival {
            let (this, last) = (entry.arrival_time, self.last_arrival);
            let problem = format!(
                "arrival_time {this} is before {last}, that of the line before; sort the trace by arrival_time"
            );
            return Err(Problem::new(entry.at[0], problem));
        }
        Ok((entry.arrival(self.rate_scale)?, entry.arrival_time))
    }
}

impl Iterator for TraceReader {
    type Item = Result<Arrival, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.has_failed {
            return None;
        }
        let result = match self.read_line() {
            Ok(false) => return None,
            Ok(true) => self.arrival().map_err(|problem| self.error(problem)),
            Err(error) => Err(error),
        };
        self.has_failed = result.is_err();
        Some(result.map(|(arrival, arrival_time)| {
            self.last_arrival = arrival_time;
            arrival
        }))
    }
}

impl Entry {
    fn arrival(&self, rate_scale: f64) -> Result<Arrival, Problem> {
        let Self { arrival_time, prompt_tokens, output_tokens, priority, .. } = *self;
        if !(0.0..=MOST_SECONDS).contains(&arrival_time) {
            let problem = format!("arrival_time must be from 0 to {MOST_SECONDS} seconds");
            return Err(Problem::new(self.at[0], problem));
        }
        for (place, tokens) in [(1, prompt_tokens), (2, output_tokens)] {
            if tokens == 0 {
                return Err(Problem::new(self.at[place], format!("{} must be at least 1", COLUMNS[place])));
            }
        }
        let prefix = match (&self.prefix_group, self.prefix_tokens) {
            (None, None) => None,
            (Some(group), Some(tokens)) if tokens <= prompt_tokens => {
                let mut hasher = DefaultHasher::new();
                group.hash(&mut hasher);
                Some(SharedPrefix { group: hasher.finish(), tokens })
            }
            (Some(_), Some(tokens)) => {
                let problem = format!("prefix_tokens {tokens} is more than the prompt has, {prompt_tokens}");
                return Err(Problem::new(self.at[4], problem));
            }
            (Some(_), None) => {
                return Err(Problem::new(self.at[3], "a prefix_group needs prefix_tokens"));
            }
            (None, Some(_)) => {
                return Err(Problem::new(self.at[4], "prefix_tokens need a prefix_group"));
            }
        };
        let at = Duration::try_from_secs_f64(arrival_time / rate_scale)
            .map_err(|error| Problem::new(self.at[0], error.to_string()))?;
        Ok(Arrival { at, prompt_tokens, output_tokens, prefix, priority })
    }
}

fn columns_of(header: &str) -> Result<Form, Problem> {
    let bad = |bad: csv::BadLine| Problem::new(bad.column, bad.problem);
    let fields = csv::fields(header).map_err(bad)?;
    let mut places = [None; COLUMNS.len()];
    for (place, field) in fields.iter().enumerate() {
        let Some(known) = COLUMNS.iter().position(|name| *name == field.text) else {
            let problem = format!("there is no column {:?}; there are {}", field.text, COLUMNS.join(", "));
            return Err(Problem::new(field.column, problem));
        };
        if places[known].replace(place).is_some() {
            return Err(Problem::new(field.column, format!("the column {:?} is there twice", field.text)));
        }
    }
    for (name, place) in COLUMNS.iter().zip(places).take(REQUIRED) {
        if place.is_none() {
            let column = header.chars().count() + 1;
            return Err(Problem::new(column, format!("the column {name:?} is missing")));
        }
    }
    Ok(Form::Csv { places, columns: fields.len() })
}

fn csv_entry(line: &str, places: &[Option<usize>; COLUMNS.len()], columns: usize) -> Result<Entry, Problem> {
    let fields = csv::fields(line).map_err(|bad| Problem::new(bad.column, bad.problem))?;
    if fields.len() != columns {
        let column = fields.get(columns).map_or(line.chars().count() + 1, |extra| extra.column);
        let problem = format!("expected {columns} fields as in the header, found {}", fields.len());
        return Err(Problem::new(column, problem));
    }
    let given = |known: usize| {
        let field = places[known].and_then(|place| fields.get(place))?;
        Some(field).filter(|field| !field.text.is_empty())
    };
    let at = std::array::from_fn(|known| {
        places[known].and_then(|place| fields.get(place)).map_or(1, |field| field.column)
    });
    let required = |known: usize| {
        given(known).ok_or_else(|| Problem::new(at[known], format!("{} is missing", COLUMNS[known])))
    };
    Ok(Entry {
        arrival_time: number(0, required(0)?, "a number of seconds")?,
        prompt_tokens: number(1, required(1)?, "a number of tokens")?,
        output_tokens: number(2, required(2)?, "a number of tokens")?,
        prefix_group: given(3).map(|field| field.text.clone().into_owned()),
        prefix_tokens: given(4).map(|field| number(4, field, "a number of tokens")).transpose()?,
        priority: given(5).map(|field| number(5, field, "a whole number")).transpose()?.unwrap_or(0),
        at,
    })
}

fn number<T: FromStr>(known: usize, field: &Field<'_>, expected: &str) -> Result<T, Problem> {
    let problem = || format!("{} is {:?}, which is not {expected}", COLUMNS[known], field.text);
    field.text.parse().map_err(|_| Problem::new(field.column, problem()))
}

fn json_entry(line: &str) -> Result<Entry, Problem> {
    let entry: JsonEntry = serde_json::from_str(line).map_err(|error| {
        let text = error.to_string();
        // The line number within the line says nothing.
        let problem = text.split(" at line ").next().unwrap_or(&text).to_owned();
        Problem::new(error.column().max(1), problem)
    })?;
    let at = std::array::from_fn(|known| {
        let found = line.find(&format!("\"{}\"", COLUMNS[known]));
        found.map_or(1, |offset| line[..offset].chars().count() + 1)
    });
    let prefix_group = match entry.prefix_group {
        None | Some(serde_json::Value::Null) => None,
        Some(serde_json::Value::String(group)) => Some(group),
        Some(serde_json::Value::Number(group)) => Some(group.to_string()),
        Some(_) => return Err(Problem::new(at[3], "prefix_group must be a text or a number")),
    };
    Ok(Entry {
        arrival_time: entry.arrival_time,
        prompt_tokens: entry.prompt_tokens,
        output_tokens: entry.output_tokens,
        prefix_group,
        prefix_tokens: entry.prefix_tokens,
        priority: entry.priority.unwrap_or(0),
        at,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(name: &str, content: impl AsRef<[u8]>) -> Result<Vec<Arrival>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        let arrivals = TraceReader::open(&path, 1.0).and_then(Iterator::collect);
        arrivals.map_err(|error: TraceError| {
            error.to_string().replace(&format!("{}/", folder.path().display()), "")
        })
    }

    fn arrival(at_ms: u64, prompt_tokens: u32, output_tokens: u32) -> Arrival {
        let at = Duration::from_millis(at_ms);
        Arrival { at, prompt_tokens, output_tokens, prefix: None, priority: 0 }
    }

    #[test]
    fn both_forms_say_the_same() {
        let csv = "\u{feff}prompt_tokens,arrival_time,output_tokens,priority,prefix_tokens,prefix_group\r\n\
                   10,0,5,,,\r\n\r\n20,1.5, 6 ,-2,8,\"a, b\"\r\n20,1.5,6,0,4,\"a, b\"";
        let jsonl = r#"{"arrival_time": 0, "prompt_tokens": 10, "output_tokens": 5}
{"arrival_time": 1.5, "prompt_tokens": 20, "output_tokens": 6, "priority": -2, "prefix_tokens": 8, "prefix_group": "a, b"}

{"arrival_time": 1.5e0, "prompt_tokens": 20, "output_tokens": 6, "prefix_tokens": 4, "prefix_group": "a, b"}
"#;
        let read_csv = read("x.csv", csv).unwrap();
        assert_eq!(read_csv, read("x.jsonl", jsonl).unwrap());
        assert_eq!(read_csv[0], arrival(0, 10, 5));
        let [_, second, third] = read_csv[..] else { panic!("{} arrivals", read_csv.len()) };
        assert_eq!((second.at, second.priority), (Duration::from_millis(1500), -2));
        let (second, third) = (second.prefix.unwrap(), third.prefix.unwrap());
        assert_eq!((second.tokens, third.tokens), (8, 4));
        assert_eq!(second.group, third.group);
    }

    #[test]
    fn a_scaled_trace_arrives_faster() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.csv");
        fs::write(&path, "arrival_time,prompt_tokens,output_tokens\n1,1,1\n3,1,1\n").unwrap();
        let times: Vec<_> =
            TraceReader::open(&path, 4.0).unwrap().map(|arrival| arrival.unwrap().at).collect();
        assert_eq!(times, [Duration::from_millis(250), Duration::from_millis(750)]);
    }

    #[test]
    fn what_is_wrong_is_said_with_line_and_column() {
        const HEADER: &str = "arrival_time,prompt_tokens,output_tokens,prefix_group,prefix_tokens\n";
        for (lines, expected) in [
            ("0,x,5,,\n", "x.csv: line 2, column 3: prompt_tokens is \"x\", which is not a number of tokens"),
            ("0,1,5,,\n\n1,-1,5,,\n", "x.csv: line 4, column 3: prompt_tokens is \"-1\""),
            ("0,1,,,\n", "x.csv: line 2, column 5: output_tokens is missing"),
            ("0,1,0,,\n", "x.csv: line 2, column 5: output_tokens must be at least 1"),
            ("-1,1,1,,\n", "x.csv: line 2, column 1: arrival_time"),
            ("NaN,1,1,,\n", "x.csv: line 2, column 1: arrival_time must be from 0"),
            ("1e99,1,1,,\n", "x.csv: line 2, column 1: arrival_time must be from 0"),
            ("0,1,1\n", "x.csv: line 2, column 6: expected 5 fields as in the header, found 3"),
            ("0,1,1,,,9\n", "x.csv: line 2, column 9: expected 5 fields"),
            ("5,1,1,,\n4.5,1,1,,\n", "x.csv: line 3, column 1: arrival_time 4.5 is before 5"),
            ("0,4,1,g,5\n", "x.csv: line 2, column 9: prefix_tokens 5 is more than the prompt has, 4"),
            ("0,4,1,g,\n", "x.csv: line 2, column 7: a prefix_group needs prefix_tokens"),
            ("0,4,1,,2\n", "x.csv: line 2, column 8: prefix_tokens need a prefix_group"),
            ("0,4,1,\"g,2\n", "x.csv: line 2, column 7: the quote is not closed"),
        ] {
            let refusal = read("x.csv", format!("{HEADER}{lines}")).unwrap_err();
            assert!(refusal.starts_with(expected), "{refusal:?}, expected {expected:?}");
        }
        for (header, expected) in [
            ("", "x.csv: line 1, column 1: expected a header"),
            (
                "arrival_time,prompt_tokens\n",
                "x.csv: line 1, column 27: the column \"output_tokens\" is missing",
            ),
            ("arrival_time,prompts\n", "x.csv: line 1, column 14: there is no column \"prompts\"; there are"),
            ("priority,priority\n", "x.csv: line 1, column 10: the column \"priority\" is there twice"),
        ] {
            let refusal = read("x.csv", header).unwrap_err();
            assert!(refusal.starts_with(expected), "{refusal:?}, expected {expected:?}");
        }
    }

    #[test]
    fn what_is_wrong_in_json_is_said_with_line_and_column() {
        const GOOD: &str = r#"{"arrival_time": 3, "prompt_tokens": 1, "output_tokens": 1}"#;
        for (line, expected) in [
            ("{", "x.jsonl: line 2, column 1: EOF"),
            ("7", "x.jsonl: line 2, column 1: invalid type"),
            (
                r#"{"arrival_time": 4, "prompt_tokens": 1}"#,
                "x.jsonl: line 2, column 39: missing field `output_tokens`",
            ),
            (r#"{"arrival_time": 4, "tokens": 1}"#, "x.jsonl: line 2, column 28: unknown field `tokens`"),
            (
                r#"{"arrival_time": 4, "prompt_tokens": 0, "output_tokens": 1}"#,
                "x.jsonl: line 2, column 21: prompt_tokens must be at least 1",
            ),
            (
                r#"{"arrival_time": 2, "prompt_tokens": 1, "output_tokens": 1}"#,
                "x.jsonl: line 2, column 2: arrival_time 2 is before 3",
            ),
            (
                r#"{"arrival_time": 4, "prompt_tokens": 1, "output_tokens": 1, "prefix_group": [], "prefix_tokens": 1}"#,
                "x.jsonl: line 2, column 61: prefix_group must be",
            ),
        ] {
            let refusal = read("x.jsonl", format!("{GOOD}\n{line}\n{GOOD}")).unwrap_err();
            assert!(refusal.starts_with(expected), "{refusal:?}, expected {expected:?}");
        }
    }

    #[test]
    fn hostile_files_are_refused() {
        assert!(read("x.txt", "").unwrap_err().contains(".csv or .jsonl"));
        assert!(read("x.jsonl", b"{\"a\xff").unwrap_err().contains("line 1, column 4: it is not UTF-8"));
        let endless = "9".repeat(MOST_LINE_BYTES as usize + 10);
        assert!(read("x.jsonl", endless).unwrap_err().contains("line 1, column 1: the line is longer"));
        let nowhere = TraceReader::open(Path::new("/no/such/x.csv"), 1.0).err().unwrap();
        assert!(nowhere.to_string().contains("/no/such/x.csv"), "{nowhere}");
        // The first error is the last thing that is read.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.jsonl");
        fs::write(&path, "1\n2\n").unwrap();
        assert_eq!(TraceReader::open(&path, 1.0).unwrap().count(), 1);
    }
}
