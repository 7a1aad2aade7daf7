//! What a client may give as a grammar, brought into the form that the library compiles.

use llguidance::api::TopLevelGrammar;
use llguidance::regex_to_lark;
use serde_json::{Map, Value as Json, json};
use wayfare_engine::OutputGrammar;

use super::{GrammarError, gbnf, invalid};

const MAX_SCHEMA_BYTES: usize = 512 << 10;
const MAX_REGEX_BYTES: usize = 16 << 10;
const MAX_CHOICE_BYTES: usize = 256 << 10;
const MAX_GRAMMAR_BYTES: usize = 64 << 10;
/// Deepest nesting of brackets in a grammar; a parser recurses along it.
pub(super) const MAX_NESTING: usize = 200;

/// Most properties of a schema, and of one of its objects: the work grows with the square of the latter.
const MAX_PROPERTIES: usize = 5_000;
const MAX_PROPERTIES_OF_OBJECT: usize = 500;
/// Most patterns for the names of properties: each is held against each other.
const MAX_PATTERN_PROPERTIES: usize = 32;

/// White space between the tokens of JSON. All of it is optional, and no more than this much: a small model that
/// prefers white space to an answer would go on with it until its length limit.
const JSON_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,32}";

/// What the grammar is called in messages.
pub(super) fn kind(grammar: &OutputGrammar) -> &'static str {
    match grammar {
        OutputGrammar::JsonObject | OutputGrammar::JsonSchema(_) => "JSON schema",
        OutputGrammar::Regex(_) => "regular expression",
        OutputGrammar::Choice(_) => "choice",
        OutputGrammar::Grammar(_) => "grammar",
    }
}

/// How much text the grammar is.
pub(super) fn text_bytes(grammar: &OutputGrammar) -> usize {
    match grammar {
        OutputGrammar::JsonObject => 0,
        OutputGrammar::JsonSchema(text) | OutputGrammar::Regex(text) | OutputGrammar::Grammar(text) => {
            text.len()
        }
        OutputGrammar::Choice(choices) => choices.iter().map(String::len).sum(),
    }
}

/// The grammar for the library.
pub(super) fn top_level(grammar: &OutputGrammar) -> Result<TopLevelGrammar, GrammarError> {
    let kind = kind(grammar);
    let limit = match grammar {
        OutputGrammar::JsonObject | OutputGrammar::JsonSchema(_) => MAX_SCHEMA_BYTES,
        OutputGrammar::Regex(_) => MAX_REGEX_BYTES,
        OutputGrammar::Choice(_) => MAX_CHOICE_BYTES,
        // What of it is not schemas has a lower limit.
        OutputGrammar::Grammar(_) => MAX_GRAMMAR_BYTES + MAX_SCHEMA_BYTES,
    };
    let bytes = text_bytes(grammar);
    if bytes > limit {
        return Err(GrammarError::TooLong { kind, bytes, limit });
    }
    match grammar {
        OutputGrammar::JsonObject => schema(json!({"type": "object"})),
        OutputGrammar::JsonSchema(text) => schema(
            serde_json::from_str(text).map_err(|error| invalid(kind, &format!("it is not JSON: {error}")))?,
        ),
        OutputGrammar::Regex(text) => regex(text),
        OutputGrammar::Choice(choices) => choice(choices),
        OutputGrammar::Grammar(text) => lark(text),
    }
}

fn schema(schema: Json) -> Result<TopLevelGrammar, GrammarError> {
    Size::default().add(&schema)?;
    let mut schema = match schema {
        Json::Object(schema) => schema,
        Json::Bool(true) => Map::new(),
        _ => return Err(invalid("JSON schema", "a schema is a JSON object")),
    };
    set_options(&mut schema);
    Ok(TopLevelGrammar::from_json_schema(Json::Object(schema)))
}

/// Sets the library's own options for a schema; a client's would change what it means.
pub(crate) fn set_options(schema: &mut Map<String, Json>) {
    let options = json!({"whitespace_pattern": JSON_SPACE, "json_allow_general_unicode_escapes": true});
    schema.insert("x-guidance".to_owned(), options);
}

/// What takes the library more time than its own limits let see.
#[derive(Default)]
struct Size {
    properties: usize,
    patterns: usize,
}

impl Size {
    /// Adds a schema, and refuses what is too much.
    fn add(&mut self, schema: &Json) -> Result<(), GrammarError> {
        let mut open = vec![schema];
        while let Some(value) = open.pop() {
            match value {
                Json::Array(values) => open.extend(values),
                Json::Object(members) => {
                    self.add_object(members)
                        .map_err(|message| GrammarError::TooComplex { kind: "JSON schema", message })?;
                    open.extend(members.values());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn add_object(&mut self, members: &Map<String, Json>) -> Result<(), String> {
        let size = |name: &str| members.get(name).and_then(Json::as_object).map_or(0, Map::len);
        let here = size("properties");
        self.properties += here;
        self.patterns += size("patternProperties");
        if here > MAX_PROPERTIES_OF_OBJECT {
            return Err(format!("an object has {here} properties, more than {MAX_PROPERTIES_OF_OBJECT}"));
        }
        if self.properties > MAX_PROPERTIES {
            return Err(format!("it has more than {MAX_PROPERTIES} properties"));
        }
        if self.patterns > MAX_PATTERN_PROPERTIES {
            return Err(format!("it has more than {MAX_PATTERN_PROPERTIES} patternProperties"));
        }
        Ok(())
    }
}

/// Checks the schemas in a grammar in Lark form; returns how many bytes they are.
fn embedded_schemas(grammar: &str) -> Result<usize, GrammarError> {
    const MARK: &str = "%json";
    let (mut size, mut bytes) = (Size::default(), 0);
    let mut rest = grammar;
    while let Some(place) = rest.find(MARK) {
        rest = &rest[place + MARK.len()..];
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Json>();
        // What is no JSON the library refuses, or it stands in a text or a comment.
        if let Some(Ok(schema)) = values.next() {
            size.add(&schema)?;
            let end = values.byte_offset();
            bytes += end;
            rest = rest.get(end..).unwrap_or_default();
        }
    }
    Ok(bytes)
}

fn regex(expression: &str) -> Result<TopLevelGrammar, GrammarError> {
    let expression = without_anchors(expression);
    if expression.is_empty() {
        return choice(&[String::new()]);
    }
    Ok(TopLevelGrammar::from_lark(format!(
        "start: EXPRESSION\nEXPRESSION: /{}/",
        regex_to_lark(&expression, "")
    )))
}

fn choice(choices: &[String]) -> Result<TopLevelGrammar, GrammarError> {
    if choices.is_empty() {
        return Err(invalid("choice", "there must be at least one"));
    }
    // One terminal, so that a choice may be the beginning of another.
    let literals: Vec<String> = choices.iter().map(|choice| literal(choice)).collect();
    Ok(TopLevelGrammar::from_lark(format!("start: CHOICE\nCHOICE: {}", literals.join("\n | "))))
}

/// Lark, or GBNF.
fn lark(grammar: &str) -> Result<TopLevelGrammar, GrammarError> {
    let is_gbnf = gbnf::is_gbnf(grammar);
    let bytes = grammar.len() - if is_gbnf { 0 } else { embedded_schemas(grammar)? };
    if bytes > MAX_GRAMMAR_BYTES {
        return Err(GrammarError::TooLong { kind: "grammar", bytes, limit: MAX_GRAMMAR_BYTES });
    }
    if is_gbnf {
        let lark = gbnf::to_lark(grammar).map_err(|error| invalid("grammar", &error.to_string()))?;
        return Ok(TopLevelGrammar::from_lark(lark));
    }
    let nesting = lark_nesting(grammar);
    if nesting > MAX_NESTING {
        let message = format!("brackets are nested {nesting} deep, more than {MAX_NESTING}");
        return Err(GrammarError::TooComplex { kind: "grammar", message });
    }
    if grammar.trim().is_empty() {
        return Err(invalid("grammar", "it is empty"));
    }
    Ok(TopLevelGrammar::from_lark(grammar.to_owned()))
}

/// A string of the Lark form, which is JSON's.
pub(crate) fn literal(text: &str) -> String {
    // Lark takes no control characters in a string; JSON allows this one.
    Json::from(text).to_string().replace('\x7F', "\\u007f")
}

/// The expression without anchors at the ends of its alternatives: it is matched as a whole anyway, and the library
/// knows no anchors.
fn without_anchors(expression: &str) -> String {
    let mut text = String::with_capacity(expression.len());
    let mut characters = expression.chars().peekable();
    let (mut depth, mut in_class, mut at_start) = (0_usize, false, true);
    while let Some(character) = characters.next() {
        let top = depth == 0 && !in_class;
        let starts = std::mem::replace(&mut at_start, false);
        match character {
            '\\' => {
                text.push('\\');
                text.extend(characters.next());
                continue;
            }
            '[' if !in_class => in_class = true,
            ']' => in_class = false,
            '(' if !in_class => depth += 1,
            ')' if !in_class => depth = depth.saturating_sub(1),
            '|' if top => at_start = true,
            '^' if top && starts => continue,
            '$' if top && matches!(characters.peek(), None | Some('|')) => continue,
            _ => {}
        }
        text.push(character);
    }
    text
}

/// How deep brackets are nested in a grammar in Lark form, those in strings, expressions and comments left out.
fn lark_nesting(grammar: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut characters = grammar.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' => skip_quoted(&mut characters, '"'),
            '#' => while characters.next_if(|next| *next != '\n').is_some() {},
            '/' if characters.peek() == Some(&'/') => {
                while characters.next_if(|next| *next != '\n').is_some() {}
            }
            '/' => skip_quoted(&mut characters, '/'),
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

fn skip_quoted(characters: &mut impl Iterator<Item = char>, end: char) {
    while let Some(character) = characters.next() {
        if character == end || character == '\n' {
            return;
        }
        if character == '\\' {
            characters.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_at_the_ends_of_alternatives_go() {
        for (given, expected) in [
            ("^a$", "a"),
            ("^a|b$", "a|b"),
            ("^a$|^b$", "a|b"),
            (r"^\^a\$$", r"\^a\$"),
            ("[|^$]$", "[|^$]"),
            ("(^a|b$)", "(^a|b$)"),
            ("[^a]", "[^a]"),
            (r"\\$", r"\\"),
            ("", ""),
            ("\\", "\\"),
        ] {
            assert_eq!(without_anchors(given), expected, "{given}");
        }
    }

    #[test]
    fn nesting_counts_brackets_that_are_syntax() {
        for (grammar, expected) in [
            ("start: a", 0),
            ("start: ((a) [b])", 2),
            ("start: \"((((\" /\\/(((/ // ((((\n # ((((\n (a)", 1),
            ("start: )))(", 1),
        ] {
            assert_eq!(lark_nesting(grammar), expected, "{grammar}");
        }
    }
}
