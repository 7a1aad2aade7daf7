//! The fields of a line of comma-separated values (RFC 4180, without line breaks in fields).

use std::borrow::Cow;

/// A field, and the column of its first character, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field<'a> {
    pub(super) column: usize,
    pub(super) text: Cow<'a, str>,
}

/// Why a line has no fields, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadLine {
    pub(super) column: usize,
    pub(super) problem: &'static str,
}

/// Splits a line. Blanks around fields are not part of them, but for those in quotes.
pub(super) fn fields(line: &str) -> Result<Vec<Field<'_>>, BadLine> {
    let mut fields = Vec::new();
    let mut start = 0;
    loop {
        let rest = &line[start..];
        let blanks = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        let content = start + blanks;
        let column = line[..content].chars().count() + 1;
        let end = if line[content..].starts_with('"') {
            let (text, end) =
                quoted(line, content).ok_or(BadLine { column, problem: "the quote is not closed" })?;
            fields.push(Field { column, text });
            let behind = &line[end..];
            let next = end + behind.len() - behind.trim_start_matches([' ', '\t']).len();
            if !line[next..].is_empty() && !line[next..].starts_with(',') {
                let column = line[..next].chars().count() + 1;
                return Err(BadLine { column, problem: "expected a comma after the quoted field" });
            }
            next
        } else {
            let end = line[content..].find(',').map_or(line.len(), |comma| content + comma);
            fields.push(Field { column, text: Cow::Borrowed(line[content..end].trim_end()) });
            end
        };
        if end == line.len() {
            return Ok(fields);
        }
        start = end + 1;
    }
}

/// The text of the quoted field that begins at `start`, and where the closing quote ends.
fn quoted(line: &str, start: usize) -> Option<(Cow<'_, str>, usize)> {
    let inner = start + 1;
    let mut from = inner;
    loop {
        let quote = from + line[from..].find('"')?;
        if line[quote + 1..].starts_with('"') {
            from = quote + 2;
            continue;
        }
        let raw = &line[inner..quote];
        let text = if raw.contains('"') { Cow::Owned(raw.replace("\"\"", "\"")) } else { Cow::Borrowed(raw) };
        return Some((text, quote + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(line: &str) -> Vec<(usize, String)> {
        fields(line).unwrap().into_iter().map(|field| (field.column, field.text.into_owned())).collect()
    }

    fn field(column: usize, text: &str) -> (usize, String) {
        (column, text.to_owned())
    }

    #[test]
    fn fields_and_their_columns() {
        assert_eq!(split("1, 22 ,3"), [field(1, "1"), field(4, "22"), field(8, "3")]);
        assert_eq!(split(",a,"), [field(1, ""), field(2, "a"), field(4, "")]);
        assert_eq!(split("\"a,b\" ,\"say \"\"hi\"\"\""), [field(1, "a,b"), field(8, "say \"hi\"")]);
        assert_eq!(split("äö,x"), [field(1, "äö"), field(4, "x")]);
        assert_eq!(split("\"\""), [field(1, "")]);
    }

    #[test]
    fn quotes_that_do_not_fit() {
        let open = BadLine { column: 3, problem: "the quote is not closed" };
        assert_eq!(fields("1,\"a"), Err(open));
        assert_eq!(fields("\"a\"b,1").unwrap_err().column, 4);
    }
}
