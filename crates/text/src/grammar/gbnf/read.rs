//! Reading GBNF.

use std::collections::HashMap;
use std::iter::Peekable;
use std::str::Chars;

use super::{Expression, MAX_NESTING, Rule};

/// Largest number in a repetition.
const MAX_REPETITIONS: u32 = 10_000;

/// Why a grammar is not GBNF.
#[derive(Debug, thiserror::Error)]
#[error("line {line}: {problem}")]
pub(in crate::grammar) struct GbnfError {
    line: usize,
    problem: String,
}

/// The rules, and which of them is the root.
pub(super) fn read(grammar: &str) -> Result<(Vec<Rule>, usize), GbnfError> {
    let mut reader = Reader {
        rest: grammar.chars().peekable(),
        line: 1,
        nesting: 0,
        places: HashMap::new(),
        named: Vec::new(),
    };
    let mut bodies: HashMap<usize, Expression> = HashMap::new();
    reader.skip_space(true);
    while reader.rest.peek().is_some() {
        let name = reader.name()?;
        reader.skip_space(true);
        for expected in "::=".chars() {
            reader.expect(expected)?;
        }
        reader.skip_space(true);
        let body = reader.alternatives()?;
        let place = reader.place(&name);
        if bodies.insert(place, body).is_some() {
            return Err(reader.error(format!("rule {name:?} is there twice")));
        }
        if !matches!(reader.rest.peek(), None | Some('\n' | '\r')) {
            return Err(reader.unexpected("the end of the rule"));
        }
        reader.skip_space(true);
    }
    let Some(&root) = reader.places.get("root").filter(|place| bodies.contains_key(place)) else {
        return Err(GbnfError { line: 1, problem: "there is no rule \"root\" to start from".to_owned() });
    };
    let mut rules = Vec::with_capacity(reader.named.len());
    for (place, (name, line)) in reader.named.into_iter().enumerate() {
        let Some(body) = bodies.remove(&place) else {
            return Err(GbnfError { line, problem: format!("rule {name:?} is used but not defined") });
        };
        rules.push(Rule { name, body });
    }
    Ok((rules, root))
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    line: usize,
    nesting: usize,
    places: HashMap<String, usize>,
    /// Rules in the order of their first mention, with its line.
    named: Vec<(String, usize)>,
}

impl Reader<'_> {
    fn error(&self, problem: impl Into<String>) -> GbnfError {
        GbnfError { line: self.line, problem: problem.into() }
    }

    fn unexpected(&mut self, wanted: &str) -> GbnfError {
        let found =
            self.rest.peek().map_or("the end of the grammar".to_owned(), |found| format!("{found:?}"));
        self.error(format!("expected {wanted}, found {found}"))
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest.next();
        self.line += usize::from(next == Some('\n'));
        next
    }

    fn take(&mut self, wanted: char) -> bool {
        self.rest.next_if_eq(&wanted).is_some()
    }

    fn expect(&mut self, wanted: char) -> Result<(), GbnfError> {
        if self.take(wanted) { Ok(()) } else { Err(self.unexpected(&format!("{wanted:?}"))) }
    }

    /// Skips white space and comments; line ends only if they mean nothing here.
    fn skip_space(&mut self, line_ends: bool) {
        while let Some(&next) = self.rest.peek() {
            match next {
                ' ' | '\t' => {}
                '\n' | '\r' if line_ends => {}
                '#' => {
                    while self.rest.next_if(|next| *next != '\n').is_some() {}
                    continue;
                }
                _ => return,
            }
            self.next();
        }
    }

    fn name(&mut self) -> Result<String, GbnfError> {
        let mut name = String::new();
        while let Some(next) =
            self.rest.next_if(|next| next.is_ascii_alphanumeric() || matches!(next, '-' | '_'))
        {
            name.push(next);
        }
        if name.is_empty() { Err(self.unexpected("the name of a rule")) } else { Ok(name) }
    }

    fn place(&mut self, name: &str) -> usize {
        if let Some(&place) = self.places.get(name) {
            return place;
        }
        let place = self.named.len();
        self.places.insert(name.to_owned(), place);
        self.named.push((name.to_owned(), self.line));
        place
    }

    fn alternatives(&mut self) -> Result<Expression, GbnfError> {
        let mut alternatives = vec![self.sequence()?];
        loop {
            self.skip_space(self.nesting > 0);
            if self.nesting == 0 && !self.rule_goes_on() {
                break;
            }
            if !self.take('|') {
                break;
            }
            self.skip_space(true);
            alternatives.push(self.sequence()?);
        }
        if alternatives.len() == 1 {
            return Ok(alternatives.pop().unwrap_or(Expression::Any));
        }
        Ok(Expression::Alternatives(alternatives))
    }

    /// Skips line ends if an alternative of the same rule stands behind them.
    fn rule_goes_on(&mut self) -> bool {
        let mut ahead = self.rest.clone();
        let mut in_comment = false;
        loop {
            match ahead.peek() {
                Some('\n') => in_comment = false,
                Some('#') => in_comment = true,
                Some(' ' | '\t' | '\r') => {}
                Some(_) if in_comment => {}
                Some('|') => {
                    self.skip_space(true);
                    return true;
                }
                _ => return false,
            }
            ahead.next();
        }
    }

    fn sequence(&mut self) -> Result<Expression, GbnfError> {
        let mut parts = Vec::new();
        loop {
            self.skip_space(self.nesting > 0);
            let part = match self.rest.peek() {
                Some('"') => self.literal()?,
                Some('[') => self.class()?,
                Some('(') => self.group()?,
                Some('.') => {
                    self.next();
                    Expression::Any
                }
                Some(next) if next.is_ascii_alphanumeric() || matches!(next, '-' | '_') => {
                    let name = self.name()?;
                    Expression::Rule(self.place(&name))
                }
                _ => break,
            };
            self.skip_space(self.nesting > 0);
            parts.push(self.repeated(part)?);
        }
        if parts.len() == 1 {
            return Ok(parts.pop().unwrap_or(Expression::Any));
        }
        Ok(Expression::Sequence(parts))
    }

    fn group(&mut self) -> Result<Expression, GbnfError> {
        self.expect('(')?;
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return Err(self.error(format!("brackets are nested more than {MAX_NESTING} deep")));
        }
        self.skip_space(true);
        let inside = self.alternatives()?;
        self.expect(')')?;
        self.nesting -= 1;
        Ok(inside)
    }

    fn repeated(&mut self, part: Expression) -> Result<Expression, GbnfError> {
        let (least, most) = match self.rest.peek() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            Some('{') => {
                self.next();
                let (least, most) = self.bounds()?;
                return Ok(Expression::Repeat { of: Box::new(part), least, most });
            }
            _ => return Ok(part),
        };
        self.next();
        Ok(Expression::Repeat { of: Box::new(part), least, most })
    }

    fn bounds(&mut self) -> Result<(u32, Option<u32>), GbnfError> {
        self.skip_space(true);
        let least = self.number()?;
        self.skip_space(true);
        let most = if self.take(',') {
            self.skip_space(true);
            if self.rest.peek() == Some(&'}') { None } else { Some(self.number()?) }
        } else {
            Some(least)
        };
        self.skip_space(true);
        self.expect('}')?;
        if most.is_some_and(|most| most < least) {
            return Err(self.error("a repetition's most is less than its least"));
        }
        Ok((least, most))
    }

    fn number(&mut self) -> Result<u32, GbnfError> {
        let mut number = String::new();
        while let Some(digit) = self.rest.next_if(char::is_ascii_digit) {
            number.push(digit);
        }
        if number.is_empty() {
            return Err(self.unexpected("a number"));
        }
        number.parse().ok().filter(|number| *number <= MAX_REPETITIONS).ok_or_else(|| {
            self.error(format!("{number} repetitions are more than the {MAX_REPETITIONS} that are allowed"))
        })
    }

    fn literal(&mut self) -> Result<Expression, GbnfError> {
        self.expect('"')?;
        let mut text = String::new();
        loop {
            match self.rest.peek() {
                Some('"') => {
                    self.next();
                    return Ok(Expression::Literal(text));
                }
                None | Some('\n') => return Err(self.error("a text is not closed by '\"'")),
                Some(_) => text.push(self.character()?),
            }
        }
    }

    fn class(&mut self) -> Result<Expression, GbnfError> {
        self.expect('[')?;
        let negated = self.take('^');
        let mut ranges = Vec::new();
        loop {
            match self.rest.peek() {
                Some(']') => {
                    self.next();
                    return Ok(Expression::Class { ranges, negated });
                }
                None | Some('\n') => return Err(self.error("a set of characters is not closed by ']'")),
                Some(_) => {}
            }
            let first = self.character()?;
            let mut ahead = self.rest.clone();
            let is_range = ahead.next() == Some('-') && !matches!(ahead.peek(), None | Some(']'));
            let last = if is_range {
                self.next();
                self.character()?
            } else {
                first
            };
            if last < first {
                return Err(self.error(format!("the range from {first:?} to {last:?} is empty")));
            }
            ranges.push((first, last));
        }
    }

    /// One character, perhaps written as an escape.
    fn character(&mut self) -> Result<char, GbnfError> {
        let Some(character) = self.next() else { return Err(self.unexpected("a character")) };
        if character != '\\' {
            return Ok(character);
        }
        let digits = match self.next() {
            Some('n') => return Ok('\n'),
            Some('r') => return Ok('\r'),
            Some('t') => return Ok('\t'),
            Some(same @ ('"' | '\\' | '[' | ']' | '-' | '^' | '/')) => return Ok(same),
            Some('x') => 2,
            Some('u') => 4,
            Some('U') => 8,
            other => return Err(self.error(format!("\\{} is not an escape", other.unwrap_or(' ')))),
        };
        let code: String = (0..digits).map_while(|_| self.rest.next_if(char::is_ascii_hexdigit)).collect();
        let value = u32::from_str_radix(&code, 16).ok().filter(|_| code.len() == digits);
        value.and_then(char::from_u32).ok_or_else(|| self.error(format!("\\…{code} is not a character")))
    }
}
