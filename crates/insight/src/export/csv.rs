//! CSV, RFC 4180: one row per request.

use std::io::{self, Write};

use super::columns::{self, Cell};
use crate::survey::Survey;

/// Writes a head and a row per request.
///
/// # Errors
/// When `out` does.
pub fn write_csv(survey: &Survey, out: &mut impl Write) -> io::Result<()> {
    let columns = columns::all();
    let head: Vec<_> = columns.iter().map(|column| column.name.as_str()).collect();
    writeln!(out, "{}", head.join(","))?;
    for record in survey.records() {
        for (place, column) in columns.iter().enumerate() {
            if place > 0 {
                out.write_all(b",")?;
            }
            match column.of(record, survey) {
                Cell::Text(text) => out.write_all(quoted(text).as_bytes())?,
                Cell::Owned(text) => out.write_all(quoted(&text).as_bytes())?,
                Cell::Count(Some(count)) => write!(out, "{count}")?,
                Cell::Flag(Some(flag)) => write!(out, "{flag}")?,
                Cell::Count(None) | Cell::Flag(None) => {}
            }
        }
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Quoted when it has to be. A text that a spreadsheet would take for a formula gets an apostrophe before it.
pub(super) fn quoted(text: &str) -> std::borrow::Cow<'_, str> {
    let is_formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let needs_quotes = text.contains(['"', ',', '\n', '\r']);
    if !is_formula && !needs_quotes {
        return text.into();
    }
    let mark = if is_formula { "'" } else { "" };
    format!("\"{mark}{}\"", text.replace('"', "\"\"")).into()
}
