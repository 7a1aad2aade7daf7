//! One answer of a model that may call tools, character by character.

use super::ToolFormat;
use super::call_object::{CallObject, Step};
use super::json_value::{JsonValue, Scan};
use crate::answer::{AnswerEvent, Kind, append};

const CLOSING_MARK: &str = "</tool_call>";
const ARGUMENTS_MARK: &str = "[ARGS]";
const ID_MARK: &str = "[CALL_ID]";

#[derive(Clone, Debug)]
enum Place {
    /// Content; so many bytes of a mark have come.
    Text { matched: usize },
    /// Behind the mark of a call.
    Opened,
    /// In the object of a call; in a list of them or not.
    Object { call: Box<CallObject>, in_list: bool },
    /// Behind the object of a Hermes call: its closing mark, of which so many bytes have come.
    Closing { matched: usize },
    /// In a list of calls, before an object.
    Item,
    /// In a list of calls, behind an object.
    BehindItem,
    /// In the name of a call that has its arguments behind it.
    Name,
    /// In a mark behind the name, which begins at this byte of what is held.
    Mark { begin: usize },
    /// In the id behind the name.
    Id,
    /// Before arguments that stand alone.
    BeforeArguments,
    /// In them.
    Arguments(JsonValue),
}

/// Finds the tool calls of one answer as its text comes.
///
/// A call is given out from the first character of its arguments on; from there on it is a call, whatever comes. What
/// the arguments are is not checked: they are JSON if the model wrote JSON. Text that begins like a call and turns out
/// not to be one is content. The pieces do not depend on where the text is cut.
#[derive(Clone, Debug)]
pub struct ToolParser {
    format: ToolFormat,
    place: Place,
    /// Text that is part of a call or, if none comes of it, content.
    held: String,
    /// Nothing but white space has come since the start of the answer or the end of the last call. White space around
    /// calls is dropped; it waits in `blank` until it is clear what follows.
    fresh: bool,
    blank: String,
    /// The name and the id of a call that has its arguments behind it.
    name: String,
    id: Option<String>,
    calls: u32,
}

impl ToolParser {
    /// At the start of an answer.
    #[must_use]
    pub fn new(format: ToolFormat) -> Self {
        Self {
            format,
            place: Place::Text { matched: 0 },
            held: String::new(),
            fresh: true,
            blank: String::new(),
            name: String::new(),
            id: None,
            calls: 0,
        }
    }

    /// At the start of an answer that follows [`forced_grammar`](super::forced_grammar).
    #[must_use]
    pub fn forced(format: ToolFormat) -> Self {
        let mut parser = Self::new(format);
        if format == ToolFormat::Mistral {
            // The mark is a special token, which a grammar cannot ask for.
            parser.place = Place::Opened;
        }
        parser
    }

    /// How many calls have begun.
    #[must_use]
    pub fn calls(&self) -> u32 {
        self.calls
    }

    /// Takes more text; appends what is clear by now to `events`.
    pub fn push(&mut self, text: &str, events: &mut Vec<AnswerEvent>) {
        text.chars().for_each(|character| self.take(character, events));
    }

    /// Ends the answer; appends what was held back, which is content now.
    pub fn finish(&mut self, events: &mut Vec<AnswerEvent>) {
        // What is missing of a call's end is not worth content.
        let between_calls = match self.place {
            Place::Closing { .. } | Place::BehindItem => true,
            Place::Text { matched } => matched == 0 && self.calls > 0 && self.blank.trim().is_empty(),
            _ => false,
        };
        if !between_calls {
            self.give_up(events);
        }
        self.held.clear();
        self.blank.clear();
        self.place = Place::Text { matched: 0 };
    }

    fn take(&mut self, character: char, events: &mut Vec<AnswerEvent>) {
        let blank = character.is_whitespace();
        match &mut self.place {
            Place::Text { matched } => {
                let matched = *matched;
                self.take_text(matched, character, events);
            }
            Place::Opened | Place::Item | Place::BehindItem | Place::BeforeArguments if blank => {
                self.held.push(character);
            }
            Place::Opened => self.take_opened(character, events),
            Place::Item if character == '{' => self.open_object(true),
            Place::BehindItem if character == ',' => {
                self.held.push(character);
                self.place = Place::Item;
            }
            Place::BehindItem if character == ']' => self.end_call(),
            Place::Object { call, .. } => {
                let step = call.push(character);
                self.take_step(step, character, events);
            }
            Place::Closing { matched } => {
                let matched = *matched;
                self.take_closing(matched, character, events);
            }
            Place::Name => self.take_name(character, events),
            Place::Mark { begin } => {
                let begin = *begin;
                self.take_mark(begin, character, events);
            }
            Place::Id if character == '[' => self.open_mark(character),
            Place::Id if !blank => {
                self.held.push(character);
                self.id.get_or_insert_default().push(character);
            }
            Place::BeforeArguments if character == '{' => self.begin_arguments(character, events),
            Place::Arguments(value) => {
                let scan = value.push(character);
                self.take_argument(scan, character, events);
            }
            Place::Item | Place::BehindItem | Place::Id | Place::BeforeArguments => {
                self.refuse(character, events)
            }
        }
    }

    fn take_text(&mut self, matched: usize, character: char, events: &mut Vec<AnswerEvent>) {
        let mark = self.format.mark();
        if mark[matched..].starts_with(character) {
            self.held.push(character);
            let matched = matched + character.len_utf8();
            self.place = if matched == mark.len() { Place::Opened } else { Place::Text { matched } };
        } else if matched > 0 {
            // No mark's first character comes again in it, so a mark that breaks off can only begin anew.
            self.refuse(character, events);
        } else if self.fresh && self.format == ToolFormat::Llama3Json && character == '{' {
            self.open_object(false);
        } else if self.fresh && (character.is_whitespace() || self.separates(character)) {
            self.blank.push(character);
        } else {
            self.held.push(character);
            self.give_up(events);
        }
    }

    /// Whether the character separates Llama's calls.
    fn separates(&self, character: char) -> bool {
        let between = self.format == ToolFormat::Llama3Json && self.calls > 0 && !self.blank.contains(';');
        between && character == ';'
    }

    fn take_opened(&mut self, character: char, events: &mut Vec<AnswerEvent>) {
        match (self.format, character) {
            (_, '{') => self.open_object(false),
            (ToolFormat::Mistral, '[') => {
                self.held.push(character);
                self.place = Place::Item;
            }
            (ToolFormat::Mistral, character) if is_of_name(character) => {
                self.name.clear();
                self.id = None;
                self.place = Place::Name;
                self.take_name(character, events);
            }
            _ => self.refuse(character, events),
        }
    }

    fn open_object(&mut self, in_list: bool) {
        self.held.push('{');
        let needs_arguments = self.format == ToolFormat::Llama3Json;
        self.place = Place::Object { call: Box::new(CallObject::new(needs_arguments)), in_list };
    }

    fn take_step(&mut self, step: Step, character: char, events: &mut Vec<AnswerEvent>) {
        match step {
            Step::On => {
                // Once the call has begun, what else its object says is of no use.
                if !self.held.is_empty() {
                    self.held.push(character);
                }
            }
            Step::Begin(name) => {
                self.begin(name, None, events);
                self.argument(character, events);
            }
            Step::Argument => self.argument(character, events),
            Step::Done(whole) => {
                if let Some((name, arguments)) = whole {
                    self.begin(name, None, events);
                    append(events, Kind::Arguments(self.calls - 1), &arguments);
                }
                self.end_object();
            }
            Step::NoCall => {
                self.held.push(character);
                self.give_up(events);
            }
            Step::Broken => self.refuse(character, events),
        }
    }

    fn end_object(&mut self) {
        let in_list = matches!(self.place, Place::Object { in_list: true, .. });
        self.end_call();
        if in_list {
            self.place = Place::BehindItem;
        } else if self.format == ToolFormat::Hermes {
            self.place = Place::Closing { matched: 0 };
        }
    }

    fn take_closing(&mut self, matched: usize, character: char, events: &mut Vec<AnswerEvent>) {
        if matched == 0 && character.is_whitespace() {
            self.held.push(character);
        } else if CLOSING_MARK[matched..].starts_with(character) {
            self.held.push(character);
            let matched = matched + character.len_utf8();
            self.place = Place::Closing { matched };
            if matched == CLOSING_MARK.len() {
                self.end_call();
            }
        } else {
            self.read_again(character, events);
        }
    }

    fn take_name(&mut self, character: char, events: &mut Vec<AnswerEvent>) {
        match character {
            '{' => self.begin_arguments(character, events),
            '[' => self.open_mark(character),
            character if is_of_name(character) => {
                self.held.push(character);
                self.name.push(character);
            }
            _ => self.refuse(character, events),
        }
    }

    fn open_mark(&mut self, character: char) {
        self.place = Place::Mark { begin: self.held.len() };
        self.held.push(character);
    }

    fn take_mark(&mut self, begin: usize, character: char, events: &mut Vec<AnswerEvent>) {
        self.held.push(character);
        let mark = self.held.get(begin..).unwrap_or_default();
        if mark == ARGUMENTS_MARK {
            self.place = Place::BeforeArguments;
        } else if mark == ID_MARK && self.id.is_none() {
            self.place = Place::Id;
        } else if !ARGUMENTS_MARK.starts_with(mark) && !ID_MARK.starts_with(mark) {
            self.held.pop();
            self.refuse(character, events);
        }
    }

    fn begin_arguments(&mut self, character: char, events: &mut Vec<AnswerEvent>) {
        let (name, id) = (std::mem::take(&mut self.name), self.id.take());
        self.begin(name, id, events);
        let mut value = JsonValue::default();
        value.push(character);
        self.place = Place::Arguments(value);
        self.argument(character, events);
    }

    fn take_argument(&mut self, scan: Scan, character: char, events: &mut Vec<AnswerEvent>) {
        match scan {
            Scan::Inside => self.argument(character, events),
            Scan::Last => {
                self.argument(character, events);
                self.end_call();
            }
            Scan::Behind | Scan::Broken => self.refuse(character, events),
        }
    }

    fn begin(&mut self, name: String, id: Option<String>, events: &mut Vec<AnswerEvent>) {
        self.held.clear();
        self.blank.clear();
        events.push(AnswerEvent::CallStart { index: self.calls, name, id });
        self.calls += 1;
    }

    fn argument(&self, character: char, events: &mut Vec<AnswerEvent>) {
        let mut buffer = [0; 4];
        append(events, Kind::Arguments(self.calls.saturating_sub(1)), character.encode_utf8(&mut buffer));
    }

    /// The call is over; what follows may be another.
    fn end_call(&mut self) {
        self.held.clear();
        self.fresh = true;
        self.place = Place::Text { matched: 0 };
    }

    /// What is held is content.
    fn give_up(&mut self, events: &mut Vec<AnswerEvent>) {
        append(events, Kind::Content, &self.blank);
        append(events, Kind::Content, &self.held);
        self.blank.clear();
        self.held.clear();
        self.fresh = false;
        self.place = Place::Text { matched: 0 };
    }

    /// What is held is content, and the character is looked at as text.
    fn refuse(&mut self, character: char, events: &mut Vec<AnswerEvent>) {
        self.give_up(events);
        self.take_text(0, character, events);
    }

    /// What is held behind a call is text, perhaps with the beginning of the next call in it.
    fn read_again(&mut self, character: char, events: &mut Vec<AnswerEvent>) {
        let held = std::mem::take(&mut self.held);
        self.end_call();
        // What is held cannot lead here again: that takes a whole call.
        held.chars().chain([character]).for_each(|character| self.take(character, events));
    }
}

fn is_of_name(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '_' | '-' | '.')
}
