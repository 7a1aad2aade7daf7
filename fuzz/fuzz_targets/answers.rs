//! Answers with reasoning and tool calls: how the text is cut changes nothing. The first byte says which formats there
//! are, and how the text is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wayfare_text::{AnswerEvent, AnswerParser, ReasoningFormat, ToolFormat, ToolParser};

/// All events of an answer that comes in these pieces, those that belong together put together.
fn events(mut parser: AnswerParser, pieces: &[&str]) -> Vec<AnswerEvent> {
    let mut all: Vec<AnswerEvent> = Vec::new();
    let mut events = Vec::new();
    for piece in pieces {
        parser.push(piece, &mut events);
    }
    parser.finish(&mut events);
    for event in events {
        match (all.last_mut(), event) {
            (Some(AnswerEvent::Content(text)), AnswerEvent::Content(more))
            | (Some(AnswerEvent::Reasoning(text)), AnswerEvent::Reasoning(more)) => text.push_str(&more),
            (Some(AnswerEvent::Arguments { index, text }), AnswerEvent::Arguments { index: same, text: more })
                if *index == same =>
            {
                text.push_str(&more);
            }
            (_, event) => all.push(event),
        }
    }
    all
}

/// Pieces of so many characters.
fn cut(text: &str, characters: usize) -> Vec<&str> {
    let starts = text.char_indices().map(|(start, _)| start).step_by(characters);
    let ends = text.char_indices().map(|(start, _)| start).step_by(characters).skip(1).chain([text.len()]);
    starts.zip(ends).map(|(start, end)| &text[start..end]).collect()
}

fuzz_target!(|input: &str| {
    let Some(control) = input.chars().next() else { return };
    let (control, text) = (control as u32, &input[control.len_utf8()..]);
    let reasoning = [None, Some("deepseek_r1"), Some("qwen3"), Some("mistral")][control as usize % 4];
    let tools = [None, Some("hermes"), Some("llama3_json"), Some("mistral")][control as usize / 4 % 4];
    let parser = || {
        let reasoning = reasoning.and_then(ReasoningFormat::by_name).map(|format| format.start(""));
        let tools = tools.and_then(ToolFormat::by_name).map(ToolParser::new);
        AnswerParser::new(reasoning, tools)
    };
    let whole = events(parser(), &[text]);
    assert_eq!(events(parser(), &cut(text, 1)), whole);
    assert_eq!(events(parser(), &cut(text, control as usize / 16 % 7 + 2)), whole);
    if tools.is_none() && reasoning.is_none() {
        let expected = if text.is_empty() { vec![] } else { vec![AnswerEvent::Content(text.to_owned())] };
        assert_eq!(whole, expected);
    }
});
