//! Where a JSON value ends, character by character.

/// What a character is to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    /// Part of it.
    Inside,
    /// Its last character.
    Last,
    /// It stands behind the value.
    Behind,
    /// It cannot stand here.
    Broken,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Kind {
    #[default]
    NotBegun,
    /// A number, `true`, `false`, `null`.
    Bare,
    Text,
    /// An object or an array.
    Nested,
}

/// The extent of one value: brackets and strings are followed, what is between them is not looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct JsonValue {
    kind: Kind,
    /// The brackets that have to close.
    closing: Vec<char>,
    in_string: bool,
    escaped: bool,
}

impl JsonValue {
    pub(super) fn push(&mut self, character: char) -> Scan {
        if self.in_string {
            return self.push_to_string(character);
        }
        match (self.kind, character) {
            (Kind::NotBegun, '{' | '[') => self.kind = Kind::Nested,
            (Kind::NotBegun, '"') => self.kind = Kind::Text,
            (Kind::NotBegun | Kind::Bare, '-' | '0'..='9' | 'a'..='z') => self.kind = Kind::Bare,
            (Kind::Bare, '+' | '.' | 'E') | (Kind::Nested, _) => {}
            (Kind::Bare, ',' | '}' | ']') => return Scan::Behind,
            (Kind::Bare, character) if character.is_whitespace() => return Scan::Behind,
            _ => return Scan::Broken,
        }
        match character {
            '{' => self.closing.push('}'),
            '[' => self.closing.push(']'),
            '"' => self.in_string = true,
            '}' | ']' if self.closing.pop() != Some(character) => return Scan::Broken,
            '}' | ']' if self.closing.is_empty() => return Scan::Last,
            _ => {}
        }
        Scan::Inside
    }

    fn push_to_string(&mut self, character: char) -> Scan {
        if std::mem::take(&mut self.escaped) {
            return Scan::Inside;
        }
        self.escaped = character == '\\';
        self.in_string = character != '"';
        if !self.in_string && self.kind == Kind::Text { Scan::Last } else { Scan::Inside }
    }
}
