//! Texts that occur again and again, each kept once.

use std::hash::{BuildHasher as _, RandomState};

use hashbrown::HashTable;

/// A text of a [`Names`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(u32);

impl Name {
    /// The empty text.
    pub const NONE: Name = Name(0);

    /// Whether it is the empty text.
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::NONE
    }
}

/// Longer texts are cut: request ids come from clients.
const MAX_TEXT_BYTES: usize = 512;

/// Most bytes of all texts together; more become the empty text.
const MAX_ARENA_BYTES: usize = 256 << 20;

/// Texts by number, one after the other in one piece of memory.
#[derive(Debug)]
pub struct Names {
    arena: String,
    /// Where each text ends.
    ends: Vec<u32>,
    table: HashTable<u32>,
    hasher: RandomState,
}

impl Default for Names {
    fn default() -> Self {
        Self { arena: String::new(), ends: vec![0], table: HashTable::new(), hasher: RandomState::new() }
    }
}

impl Names {
    /// The number of a text, given now when it is new.
    pub fn intern(&mut self, text: &str) -> Name {
        let text = cut(text);
        if text.is_empty() {
            return Name::NONE;
        }
        let hash = self.hasher.hash_one(text);
        if let Some(number) = self.table.find(hash, |number| self.text_of(*number) == text) {
            return Name(*number);
        }
        let (Ok(number), true) = (u32::try_from(self.ends.len()), self.arena.len() < MAX_ARENA_BYTES) else {
            return Name::NONE;
        };
        self.arena.push_str(text);
        // Within u32 by MAX_ARENA_BYTES.
        self.ends.push(self.arena.len() as u32);
        let Self { arena, ends, table, hasher } = self;
        table.insert_unique(hash, number, |other| hasher.hash_one(text_at(arena, ends, *other)));
        Name(number)
    }

    /// The number of a text that is there.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<Name> {
        let text = cut(text);
        let hash = self.hasher.hash_one(text);
        self.table.find(hash, |number| self.text_of(*number) == text).map(|number| Name(*number))
    }

    /// The text.
    #[must_use]
    pub fn text(&self, name: Name) -> &str {
        self.text_of(name.0)
    }

    /// All texts but the empty one.
    pub fn iter(&self) -> impl Iterator<Item = (Name, &str)> {
        (1..self.ends.len()).filter_map(|number| {
            let number = u32::try_from(number).ok()?;
            Some((Name(number), self.text_of(number)))
        })
    }

    fn text_of(&self, number: u32) -> &str {
        text_at(&self.arena, &self.ends, number)
    }
}

fn text_at<'a>(arena: &'a str, ends: &[u32], number: u32) -> &'a str {
    let Some(before) = number.checked_sub(1) else { return "" };
    let end = |number: u32| ends.get(number as usize).map_or(0, |end| *end as usize);
    arena.get(end(before)..end(number)).unwrap_or_default()
}

fn cut(text: &str) -> &str {
    if text.len() <= MAX_TEXT_BYTES {
        return text;
    }
    let end = (0..=MAX_TEXT_BYTES).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_have_one_number() {
        let mut names = Names::default();
        let texts: Vec<_> = (0..1000).map(|number| format!("req-{number}")).collect();
        let first: Vec<_> = texts.iter().map(|text| names.intern(text)).collect();
        let second: Vec<_> = texts.iter().map(|text| names.intern(text)).collect();
        assert_eq!(first, second);
        for (name, text) in first.iter().zip(&texts) {
            assert_eq!(names.text(*name), text);
            assert_eq!(names.find(text), Some(*name));
        }
        assert_eq!((names.intern(""), names.text(Name::NONE)), (Name::NONE, ""));
        assert_eq!((names.find("other"), names.iter().count()), (None, 1000));
    }

    #[test]
    fn a_text_that_is_too_long_is_cut_between_characters() {
        let mut names = Names::default();
        let name = names.intern(&"é".repeat(300));
        assert_eq!(names.text(name), "é".repeat(256));
    }
}
