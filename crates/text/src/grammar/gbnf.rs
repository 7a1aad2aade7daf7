//! GBNF, the grammar form of llama.cpp (`grammars/README.md` there), as Lark.
//!
//! Rules that name no recursive rule become terminals, which a lexer matches as a whole (the longest text that fits).
//! The others become rules of the parser. Both accept only what the grammar says.

use std::collections::HashMap;
use std::fmt::Write;

use super::source::{MAX_NESTING, literal};

mod read;

pub(super) use read::GbnfError;

/// A part of a rule.
#[derive(Debug)]
enum Expression {
    Literal(String),
    /// Characters from the first to the second, each range inclusive; or all others.
    Class {
        ranges: Vec<(char, char)>,
        negated: bool,
    },
    /// Any character.
    Any,
    /// A rule, by its place in the list.
    Rule(usize),
    Sequence(Vec<Expression>),
    Alternatives(Vec<Expression>),
    Repeat {
        of: Box<Expression>,
        least: u32,
        most: Option<u32>,
    },
}

#[derive(Debug)]
struct Rule {
    name: String,
    body: Expression,
}

/// Whether a grammar is in GBNF: a line begins with a name and `::=`.
pub(super) fn is_gbnf(grammar: &str) -> bool {
    let of_name = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_');
    grammar.lines().any(|line| line.trim_start().trim_start_matches(of_name).trim_start().starts_with("::="))
}

/// The same grammar in Lark form.
pub(super) fn to_lark(grammar: &str) -> Result<String, GbnfError> {
    let (rules, root) = read::read(grammar)?;
    let terminal = terminals(&rules, root);
    let names: Vec<String> = rules
        .iter()
        .enumerate()
        .map(
            |(place, rule)| {
                if place == root { "start".to_owned() } else { name(&rule.name, place, terminal[place]) }
            },
        )
        .collect();
    let mut lark = String::new();
    for (rule, name) in rules.iter().zip(&names) {
        let _ = write!(lark, "{name}: ");
        write_expression(&rule.body, &names, &mut lark);
        lark.push('\n');
    }
    Ok(lark)
}

/// For each rule, whether it can be a terminal: it refers to terminals only, directly or not. The root is a rule.
fn terminals(rules: &[Rule], root: usize) -> Vec<bool> {
    let mut references: Vec<Vec<usize>> = Vec::with_capacity(rules.len());
    let mut referring: HashMap<usize, Vec<usize>> = HashMap::new();
    for (place, rule) in rules.iter().enumerate() {
        let mut named = Vec::new();
        collect_references(&rule.body, &mut named);
        named.sort_unstable();
        named.dedup();
        named.iter().for_each(|target| referring.entry(*target).or_default().push(place));
        references.push(named);
    }
    let mut open: Vec<usize> = references.iter().map(Vec::len).collect();
    let mut terminal = vec![false; rules.len()];
    let mut ready: Vec<usize> =
        (0..rules.len()).filter(|place| open[*place] == 0 && *place != root).collect();
    while let Some(place) = ready.pop() {
        terminal[place] = true;
        for &user in referring.get(&place).into_iter().flatten() {
            open[user] -= 1;
            if open[user] == 0 && user != root {
                ready.push(user);
            }
        }
    }
    terminal
}

fn collect_references(expression: &Expression, into: &mut Vec<usize>) {
    match expression {
        Expression::Rule(place) => into.push(*place),
        Expression::Sequence(parts) | Expression::Alternatives(parts) => {
            parts.iter().for_each(|part| collect_references(part, into));
        }
        Expression::Repeat { of, .. } => collect_references(of, into),
        Expression::Literal(_) | Expression::Class { .. } | Expression::Any => {}
    }
}

/// A name that Lark takes, and that is nobody else's.
fn name(name: &str, place: usize, terminal: bool) -> String {
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let name = format!("r{name}_{place}");
    if terminal { name.to_ascii_uppercase() } else { name.to_ascii_lowercase() }
}

fn write_expression(expression: &Expression, names: &[String], lark: &mut String) {
    match expression {
        Expression::Literal(text) => lark.push_str(&literal(text)),
        Expression::Class { ranges, negated } => write_class(ranges, *negated, lark),
        Expression::Any => write_class(&[], true, lark),
        Expression::Rule(place) => lark.push_str(names.get(*place).map_or("", String::as_str)),
        Expression::Sequence(parts) if parts.is_empty() => lark.push_str("\"\""),
        Expression::Sequence(parts) => {
            for (place, part) in parts.iter().enumerate() {
                lark.push_str(if place == 0 { "" } else { " " });
                write_expression(part, names, lark);
            }
        }
        Expression::Alternatives(parts) => {
            lark.push('(');
            for (place, part) in parts.iter().enumerate() {
                lark.push_str(if place == 0 { "" } else { " | " });
                write_expression(part, names, lark);
            }
            lark.push(')');
        }
        Expression::Repeat { of, least, most } => {
            lark.push('(');
            write_expression(of, names, lark);
            lark.push(')');
            let _ = match (least, most) {
                (0, None) => write!(lark, "*"),
                (1, None) => write!(lark, "+"),
                (0, Some(1)) => write!(lark, "?"),
                (least, None) => write!(lark, "{{{least},}}"),
                (least, Some(most)) => write!(lark, "{{{least},{most}}}"),
            };
        }
    }
}

fn write_class(ranges: &[(char, char)], negated: bool, lark: &mut String) {
    if ranges.is_empty() {
        // Everything, or nothing.
        lark.push_str(if negated { r"/[\x{0}-\x{10FFFF}]/" } else { r"/[a&&b]/" });
        return;
    }
    lark.push_str(if negated { "/[^" } else { "/[" });
    for (first, last) in ranges {
        let _ = write!(lark, r"\x{{{:X}}}-\x{{{:X}}}", u32::from(*first), u32::from(*last));
    }
    lark.push_str("]/");
}
