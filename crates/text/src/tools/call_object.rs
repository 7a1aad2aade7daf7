//! The object that a call is in most formats: `{"name": …, "arguments": …}`.

use serde_json::Value as Json;

use super::json_value::{JsonValue, Scan};

/// What a character of the object does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing yet.
    On,
    /// The call begins; the character is the first of its arguments.
    Begin(String),
    /// The character belongs to the arguments.
    Argument,
    /// The object is complete. If the call has not begun, here it is as a whole.
    Done(Option<(String, String)>),
    /// The object is complete and is no call.
    NoCall,
    /// The character cannot stand here; it is not taken.
    Broken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// The next is a key, or the end of an object without any.
    FirstKey,
    Key,
    InKey,
    Colon,
    BeforeValue,
    InValue,
    BehindValue,
}

/// What a value is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Name,
    /// Given out as they come.
    Arguments,
    /// Kept until they are complete and the name is known.
    HeldArguments,
    /// Of no use here.
    Other,
}

/// A call on its way. Built when the opening bracket has come.
#[derive(Clone, Debug)]
pub(super) struct CallObject {
    /// Without arguments it is no call.
    needs_arguments: bool,
    place: Place,
    role: Role,
    value: JsonValue,
    /// The key, the name or held arguments, as far as they have come.
    text: String,
    name: Option<String>,
    held: Option<String>,
    begun: bool,
}

impl CallObject {
    pub(super) fn new(needs_arguments: bool) -> Self {
        Self {
            needs_arguments,
            place: Place::FirstKey,
            role: Role::Other,
            value: JsonValue::default(),
            text: String::new(),
            name: None,
            held: None,
            begun: false,
        }
    }

    pub(super) fn push(&mut self, character: char) -> Step {
        let blank = character.is_whitespace();
        match self.place {
            Place::FirstKey | Place::Key | Place::Colon | Place::BeforeValue | Place::BehindValue
                if blank =>
            {
                Step::On
            }
            Place::FirstKey | Place::Key if character == '"' => {
                self.value = JsonValue::default();
                self.value.push(character);
                self.text = String::from(character);
                self.to(Place::InKey)
            }
            Place::InKey => {
                self.text.push(character);
                if self.value.push(character) == Scan::Last { self.end_of_key() } else { Step::On }
            }
            Place::Colon if character == ':' => self.to(Place::BeforeValue),
            Place::BeforeValue => self.first_of_value(character),
            Place::InValue => self.next_of_value(character),
            Place::FirstKey | Place::BehindValue if character == '}' => self.end(),
            Place::BehindValue if character == ',' => self.to(Place::Key),
            _ => Step::Broken,
        }
    }

    fn to(&mut self, place: Place) -> Step {
        self.place = place;
        Step::On
    }

    fn end_of_key(&mut self) -> Step {
        let Some(key) = text_of(&self.text) else { return Step::Broken };
        let has_arguments = self.begun || self.held.is_some();
        self.role = match key.as_str() {
            "name" if self.name.is_none() => Role::Name,
            "arguments" | "parameters" if !has_arguments => Role::HeldArguments,
            "name" | "arguments" | "parameters" => return Step::NoCall,
            _ => Role::Other,
        };
        self.text.clear();
        self.to(Place::Colon)
    }

    fn first_of_value(&mut self, character: char) -> Step {
        self.value = JsonValue::default();
        if self.role == Role::Name && character != '"' {
            return Step::Broken;
        }
        if self.value.push(character) == Scan::Broken {
            return Step::Broken;
        }
        self.place = Place::InValue;
        match &self.name {
            Some(name) if self.role == Role::HeldArguments && character == '{' => {
                self.role = Role::Arguments;
                self.begun = true;
                Step::Begin(name.clone())
            }
            _ => self.keep(character),
        }
    }

    fn next_of_value(&mut self, character: char) -> Step {
        match self.value.push(character) {
            Scan::Inside => self.keep(character),
            Scan::Last => {
                let step = self.keep(character);
                if self.end_of_value() { step } else { Step::NoCall }
            }
            Scan::Behind => {
                if !self.end_of_value() {
                    return Step::Broken;
                }
                self.push(character)
            }
            Scan::Broken => Step::Broken,
        }
    }

    fn keep(&mut self, character: char) -> Step {
        match self.role {
            Role::Arguments => return Step::Argument,
            Role::Name | Role::HeldArguments => self.text.push(character),
            Role::Other => {}
        }
        Step::On
    }

    /// Whether the value is one that can stand for what it is for.
    fn end_of_value(&mut self) -> bool {
        self.place = Place::BehindValue;
        let text = std::mem::take(&mut self.text);
        match self.role {
            Role::Name => {
                self.name = text_of(&text).filter(|name| !name.is_empty());
                self.name.is_some()
            }
            Role::HeldArguments => {
                self.held = arguments(text, self.needs_arguments);
                self.held.is_some()
            }
            Role::Arguments | Role::Other => true,
        }
    }

    fn end(&mut self) -> Step {
        if self.begun {
            return Step::Done(None);
        }
        let held = self.held.take();
        match (self.name.take(), held) {
            (Some(name), Some(arguments)) => Step::Done(Some((name, arguments))),
            (Some(name), None) if !self.needs_arguments => Step::Done(Some((name, "{}".to_owned()))),
            _ => Step::NoCall,
        }
    }
}

/// Arguments that are not an object given out as it comes: an object that came before the name, JSON as a string, or
/// none. With `object_only`, other JSON is not taken for arguments.
fn arguments(text: String, object_only: bool) -> Option<String> {
    if text == "null" {
        return Some("{}".to_owned());
    }
    let text = match text_of(&text) {
        Some(inner) if inner.trim_start().starts_with('{') => inner,
        _ => text,
    };
    Some(text).filter(|text| !object_only || text.trim_start().starts_with('{'))
}

fn text_of(json: &str) -> Option<String> {
    match serde_json::from_str(json) {
        Ok(Json::String(text)) => Some(text),
        _ => None,
    }
}
