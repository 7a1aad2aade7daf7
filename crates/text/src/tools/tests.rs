use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::*;
use crate::reasoning::tests::{cut, text_of};
use crate::{AnswerEvent, AnswerParser, GrammarCompiler, ReasoningFormat, TextFiles};

/// An answer taken apart: its reasoning, its content, and name and arguments of its calls.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    reasoning: String,
    content: String,
    calls: Vec<(String, String)>,
    ids: Vec<String>,
}

fn answer(mut parser: AnswerParser, pieces: &[&str]) -> Answer {
    let mut events = Vec::new();
    pieces.iter().for_each(|piece| parser.push(piece, &mut events));
    parser.finish(&mut events);
    let mut answer = Answer::default();
    for event in events {
        match event {
            AnswerEvent::Reasoning(text) => answer.reasoning.push_str(&text),
            AnswerEvent::Content(text) => answer.content.push_str(&text),
            AnswerEvent::CallStart { index, name, id } => {
                assert_eq!(index as usize, answer.calls.len());
                answer.calls.push((name, String::new()));
                answer.ids.extend(id);
            }
            AnswerEvent::Arguments { index, text } => {
                assert_eq!(index as usize + 1, answer.calls.len());
                answer.calls[index as usize].1.push_str(&text);
            }
        }
    }
    assert_eq!(parser.calls() as usize, answer.calls.len());
    answer
}

fn parse(format: ToolFormat, text: &str) -> Answer {
    let parser = || AnswerParser::new(None, Some(ToolParser::new(format)));
    let whole = answer(parser(), &[text]);
    let characters: Vec<String> = text.chars().map(String::from).collect();
    let characters: Vec<&str> = characters.iter().map(String::as_str).collect();
    assert_eq!(answer(parser(), &characters), whole, "{text}");
    whole
}

#[track_caller]
fn check(format: ToolFormat, text: &str, content: &str, calls: &[(&str, &str)]) {
    let found = parse(format, text);
    let calls: Vec<(String, String)> =
        calls.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    assert_eq!((found.content.as_str(), found.calls), (content, calls), "{text}");
}

#[test]
fn hermes_calls_are_found() {
    let hermes = ToolFormat::Hermes;
    check(
        hermes,
        "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": [1, \"}\\\"\"]}}\n</tool_call>",
        "",
        &[("f", "{\"a\": [1, \"}\\\"\"]}")],
    );
    check(
        hermes,
        "Let me see.\n<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>\n<tool_call>{\"arguments\":{\"b\":2},\"name\":\"g\"}</tool_call>\n",
        "Let me see.\n",
        &[("f", "{}"), ("g", "{\"b\":2}")],
    );
    check(
        hermes,
        "\n\n<tool_call>{\"name\":\"f\",\"parameters\":{}, \"id\": [3]} </tool_call>  done",
        "  done",
        &[("f", "{}")],
    );
    // No arguments, none to speak of, arguments in a string.
    check(hermes, "<tool_call>{\"name\":\"f\"}</tool_call>", "", &[("f", "{}")]);
    check(hermes, "<tool_call>{\"name\":\"f\", \"arguments\": null}</tool_call>", "", &[("f", "{}")]);
    check(
        hermes,
        "<tool_call>{\"name\":\"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call>",
        "",
        &[("f", "{\"a\": 1}")],
    );
    check(hermes, "<tool_call>{\"name\":\"f\\u00e9\", \"arguments\": [1]}</tool_call>", "", &[("fé", "[1]")]);
    // Cut short, and without the end.
    check(hermes, "<tool_call>{\"name\":\"f\",\"arguments\":{\"a\":", "", &[("f", "{\"a\":")]);
    check(hermes, "<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool", "", &[("f", "{}")]);
    check(
        hermes,
        "<tool_call>{\"name\":\"f\",\"arguments\":{}}<tool_call>{\"name\":\"g\",\"arguments\":{}}",
        "",
        &[("f", "{}"), ("g", "{}")],
    );
}

#[test]
fn what_is_no_call_is_content() {
    let hermes = ToolFormat::Hermes;
    for text in [
        "plain",
        "  ",
        "a < b, <tool> <tool_call",
        "<tool_call>hello</tool_call>",
        "<tool_call>{\"name\": 3}</tool_call>",
        "<tool_call>{\"name\": \"\", \"arguments\": {}}",
        "<tool_call>{\"arguments\": {}}</tool_call>",
        "<tool_call>{}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"name\": \"g\"}",
        "<tool_call>\n{\"name\": \"f",
        "<tool_call>{'name': 'f'}",
        "<tool_call>{\"na\\qme\": 1}",
    ] {
        check(hermes, text, text, &[]);
    }
    check(
        hermes,
        "<tool_call><tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>",
        "<tool_call>",
        &[("f", "{}")],
    );
    check(hermes, "<<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call><", "<<", &[("f", "{}")]);
    check(hermes, "<tool_call>{\"name\":\"f\",\"arguments\":{}}} x", "} x", &[("f", "{}")]);
    check(hermes, "<tool_call>{\"name\":\"f\",\"arguments\":{]} x", "]} x", &[("f", "{")]);
    for text in [
        "{\"name\": \"Ada\"}",
        "{\"a\": {\"name\": \"f\"}}",
        "{\"name\": \"f\", \"parameters\": 3}",
        "x {\"name\": \"f\", \"parameters\": {}}",
        "; {",
        "<|python_tag|>f.call(x=1)",
    ] {
        check(ToolFormat::Llama3Json, text, text, &[]);
    }
    for text in [
        "[TOOL_CALLS]",
        "[TOOL_CALLS] [",
        "[TOOL_CALLS][]",
        "[TOOL_CALLS]f(x)",
        "[TOOL_CALLS]f[CALL_ID]1",
        "[TOOL_CALLS]f[ARGS]x",
        "[TOOL_CALLS]f[ARG]{}",
        "[TOOL_CALLS][3]",
    ] {
        check(ToolFormat::Mistral, text, text, &[]);
    }
}

#[test]
fn llama_calls_are_found() {
    let llama = ToolFormat::Llama3Json;
    check(llama, "{\"name\": \"f\", \"parameters\": {\"a\": \"{\"}}", "", &[("f", "{\"a\": \"{\"}")]);
    check(
        llama,
        "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"arguments\": {\"b\": 1}}\n{\"parameters\": {}, \"name\": \"h\"}",
        "",
        &[("f", "{}"), ("g", "{\"b\": 1}"), ("h", "{}")],
    );
    check(
        llama,
        "{\"type\": \"function\", \"name\": \"f\", \"parameters\": {}} and more",
        " and more",
        &[("f", "{}")],
    );
    check(llama, "Well: <|python_tag|>{\"name\": \"f\", \"parameters\": {}};", "Well: ;", &[("f", "{}")]);
    check(llama, "{\"name\": \"f\", \"parameters\": {}}; {\"name\": 1}", "; {\"name\": 1}", &[("f", "{}")]);
}

#[test]
fn mistral_calls_are_found() {
    let mistral = ToolFormat::Mistral;
    check(
        mistral,
        "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": \"]\"}}, {\"name\": \"g\", \"arguments\": {}}]",
        "",
        &[("f", "{\"a\": \"]\"}"), ("g", "{}")],
    );
    check(
        mistral,
        "Hm.[TOOL_CALLS]f_1{\"a\": 1}[TOOL_CALLS]g.h-i[ARGS]{} ",
        "Hm.",
        &[("f_1", "{\"a\": 1}"), ("g.h-i", "{}")],
    );
    check(mistral, "[TOOL_CALLS]{\"name\": \"f\", \"arguments\": {}}", "", &[("f", "{}")]);
    check(mistral, "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {}}, x", ", x", &[("f", "{}")]);
    check(mistral, "[[TOOL_CALLS]f{}", "[", &[("f", "{}")]);
    let found = parse(mistral, "[TOOL_CALLS]f[CALL_ID]a1B2c3D4e[ARGS] {\"a\": 1}");
    assert_eq!(
        (found.ids, found.calls),
        (vec!["a1B2c3D4e".to_owned()], vec![("f".to_owned(), "{\"a\": 1}".to_owned())])
    );
}

#[test]
fn reasoning_comes_before_calls() {
    let parser = || {
        AnswerParser::new(Some(ReasoningFormat::Qwen3.start("")), Some(ToolParser::new(ToolFormat::Hermes)))
    };
    let text = "<think>a <tool_call>{\"name\":\"n\"}</think>\n\n<tool_call>{\"name\":\"f\",\"arguments\":{}}</tool_call>";
    let whole = answer(parser(), &[text]);
    assert_eq!(whole.reasoning, "a <tool_call>{\"name\":\"n\"}");
    assert_eq!((whole.content.as_str(), whole.calls.len()), ("", 1));
    let plain =
        answer(AnswerParser::new(Some(ReasoningFormat::DeepSeekR1.start("")), None), &["a</thi", "nk>b"]);
    assert_eq!((plain.reasoning.as_str(), plain.content.as_str()), ("a", "b"));
    assert_eq!(answer(AnswerParser::default(), &["a", "b"]).content, "ab");
}

#[test]
fn a_call_streams() {
    let mut parser = ToolParser::new(ToolFormat::Hermes);
    let mut events = Vec::new();
    let mut pushed = |text: &str| {
        events.clear();
        parser.push(text, &mut events);
        events.clone()
    };
    assert_eq!(pushed("I"), [AnswerEvent::Content("I".into())]);
    assert_eq!(pushed(" do <to"), [AnswerEvent::Content(" do ".into())]);
    assert_eq!(pushed("ol_call>{\"name\": \"f\""), []);
    let start = AnswerEvent::CallStart { index: 0, name: "f".into(), id: None };
    assert_eq!(pushed(", \"arguments\": {"), [start, AnswerEvent::Arguments { index: 0, text: "{".into() }]);
    assert_eq!(pushed("\"a\": 1"), [AnswerEvent::Arguments { index: 0, text: "\"a\": 1".into() }]);
    assert_eq!(pushed("}}</tool"), [AnswerEvent::Arguments { index: 0, text: "}".into() }]);
    assert_eq!(pushed("_call>\n"), []);
}

#[test]
fn formats_are_chosen_by_name_or_by_template() {
    assert!(ToolFormat::NAMES.iter().all(|name| ToolFormat::by_name(name).is_some()));
    assert_eq!(ToolFormat::by_name("pythonic"), None);
    for format in [ToolFormat::Hermes, ToolFormat::Llama3Json, ToolFormat::Mistral] {
        assert_eq!(ToolFormat::by_name(&format.to_string()), Some(format));
    }
    for (template, expected) in [
        ("{{- '<tool_call>\\n{\"name\": \"' }}", Some(ToolFormat::Hermes)),
        ("{{ '<tool_call>\\n<function=' }}", None),
        ("{{ '[TOOL_CALLS] [' }}", Some(ToolFormat::Mistral)),
        (
            "<|start_header_id|> {\"name\": function name, \"parameters\": dictionary}",
            Some(ToolFormat::Llama3Json),
        ),
        ("{{ '<|python_tag|>' }}", Some(ToolFormat::Llama3Json)),
        ("<|im_start|>{{ message.role }}", None),
    ] {
        assert_eq!(ToolFormat::guess(template), expected, "{template}");
    }
}

#[test]
fn ids_have_the_form_that_templates_take() {
    assert_eq!(ToolFormat::Hermes.call_id(255), "chatcmpl-tool-000000000000000000000000000000ff");
    let id = ToolFormat::Mistral.call_id(u128::MAX);
    assert!(id.len() == 9 && id.chars().all(|character| character.is_ascii_alphanumeric()), "{id}");
    assert_ne!(id, ToolFormat::Mistral.call_id(u128::MAX - 1));
}

fn tools() -> Vec<Tool> {
    let place = json!({
        "properties": {"city": {"$ref": "#/$defs/city"}}, "required": ["city"], "additionalProperties": false,
        "$defs": {"city": {"enum": ["Rome", "Oslo \"N\""]}},
    });
    vec![
        Tool { name: "get_weather".to_owned(), parameters: Some(place) },
        Tool { name: "stop \"all\"".to_owned(), parameters: None },
    ]
}

/// What comes out when the model always prefers the allowed byte of the highest, or the lowest, value.
fn forced_text(format: ToolFormat, choice: ForcedChoice<'_>, highest: bool) -> String {
    let text = TextFiles::of_bytes().unwrap();
    let compiler = GrammarCompiler::new(&text.tokenizer, &text.end_of_text).unwrap();
    let grammar = forced_grammar(format, &tools(), choice).unwrap();
    let mut constraint = compiler.compile(&grammar).unwrap().constraint().matcher;
    let (mut allowed, mut tokens) = (wayfare_engine::TokenSet::empty(258), Vec::new());
    loop {
        constraint.allow(&mut allowed).unwrap();
        let mut possible = (0..258_u32).filter(|token| allowed.contains(*token));
        let token = if highest { possible.next_back() } else { possible.next() }.unwrap();
        constraint.accept(token).unwrap();
        if token == 257 {
            return text.tokenizer.decode(&tokens, false).unwrap();
        }
        tokens.push(token);
        assert!(tokens.len() < 20_000);
    }
}

#[test]
fn forced_calls_are_calls_that_fit() {
    for format in [ToolFormat::Hermes, ToolFormat::Llama3Json, ToolFormat::Mistral] {
        for (choice, most) in [
            (ForcedChoice::Required { parallel: false }, 1),
            (ForcedChoice::Required { parallel: true }, 32),
            (ForcedChoice::Named("get_weather"), 1),
            (ForcedChoice::Named("stop \"all\""), 1),
        ] {
            for highest in [true, false] {
                let text = forced_text(format, choice, highest);
                let found = answer(AnswerParser::new(None, Some(ToolParser::forced(format))), &[&text]);
                assert_eq!(found.content, "", "{text}");
                assert!((1..=most).contains(&found.calls.len()), "{text}");
                for (name, arguments) in found.calls {
                    let arguments: Json = serde_json::from_str(&arguments).unwrap();
                    match name.as_str() {
                        "get_weather" => {
                            assert!(["Rome", "Oslo \"N\""].contains(&arguments["city"].as_str().unwrap()))
                        }
                        "stop \"all\"" => assert_eq!(arguments, json!({})),
                        other => panic!("{other} is no tool"),
                    }
                    if let ForcedChoice::Named(wanted) = choice {
                        assert_eq!(name, wanted);
                    }
                }
            }
        }
    }
}

#[test]
fn several_calls_can_be_forced() {
    let text = forced_text(ToolFormat::Hermes, ForcedChoice::Required { parallel: true }, false);
    let found = answer(AnswerParser::new(None, Some(ToolParser::forced(ToolFormat::Hermes))), &[&text]);
    assert_eq!(found.calls.len(), 32, "the lowest byte goes on as long as it may: {text}");
}

#[test]
fn as_many_tools_as_clients_send_can_be_forced() {
    let text = TextFiles::of_bytes().unwrap();
    let compiler = GrammarCompiler::new(&text.tokenizer, &text.end_of_text).unwrap();
    let parameters = |place: usize| {
        let one = json!({"type": "string", "description": "one of the things that this tool takes", "enum": ["a", "b"]});
        let members: serde_json::Map<_, _> =
            (0..12).map(|member| (format!("p{place}_{member}"), one.clone())).collect();
        json!({"type": "object", "properties": members, "required": [format!("p{place}_1")]})
    };
    let tool = |place: usize| Tool { name: format!("tool_{place}"), parameters: Some(parameters(place)) };
    let tools: Vec<Tool> = (0..128).map(tool).collect();
    for format in [ToolFormat::Hermes, ToolFormat::Llama3Json, ToolFormat::Mistral] {
        let grammar = forced_grammar(format, &tools, ForcedChoice::Required { parallel: true }).unwrap();
        compiler.compile(&grammar).unwrap();
    }
}

#[test]
fn calls_that_cannot_be_forced_are_refused() {
    let named = ForcedChoice::Named("none");
    let message = forced_grammar(ToolFormat::Hermes, &tools(), named).unwrap_err().to_string();
    assert_eq!(message, "tool \"none\" is to be called, but is not among the tools");
    let required = ForcedChoice::Required { parallel: true };
    assert_eq!(forced_grammar(ToolFormat::Hermes, &[], required), Err(ForcedCallError::NoTools));
    let odd = [Tool { name: "f".to_owned(), parameters: Some(json!([])) }];
    assert!(matches!(
        forced_grammar(ToolFormat::Mistral, &odd, required),
        Err(ForcedCallError::Parameters { .. })
    ));
}

const PARTS: &[&str] = &[
    "<tool_call>",
    "</tool_call>",
    "<|python_tag|>",
    "[TOOL_CALLS]",
    "[ARGS]",
    "[CALL_ID]",
    "<",
    "[",
    "]",
    "{",
    "}",
    ";",
    ",",
    ":",
    "\"name\": \"f\"",
    "\"arguments\": ",
    "\"parameters\": ",
    "{\"a\": \"\\\"}\"}",
    "\"",
    "\\",
    "f",
    " ",
    "\n",
    "é🙂",
    "null",
    "12",
    "{\"name\": \"f\", \"arguments\": {\"a\": 1}}",
    "<think>",
    "</think>",
];

/// The text without what is not given out: white space, and all that calls are made of.
fn essence(text: &str) -> Vec<char> {
    text.chars().filter(|character| !character.is_whitespace()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn cuts_change_nothing_and_content_is_the_answers(
        text in text_of(PARTS),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        format in prop::sample::select(vec![ToolFormat::Hermes, ToolFormat::Llama3Json, ToolFormat::Mistral]),
        reasoning in prop::option::of(prop::sample::select(vec![ReasoningFormat::DeepSeekR1, ReasoningFormat::Qwen3])),
        forced in any::<bool>(),
    ) {
        let parser = || {
            let tools = if forced { ToolParser::forced(format) } else { ToolParser::new(format) };
            AnswerParser::new(reasoning.map(|reasoning| reasoning.start("")), Some(tools))
        };
        let whole = answer(parser(), &[&text]);
        prop_assert_eq!(&answer(parser(), &cut(&text, &cuts)), &whole);
        if whole.calls.is_empty() && reasoning.is_none() {
            prop_assert_eq!(&whole.content, &text);
        }
        // Everything given out is the answer's, in its order, and what is missing is what calls are made of.
        let mut rest = text.as_str();
        for character in essence(&whole.content) {
            match rest.find(character) {
                Some(place) => rest = &rest[place + character.len_utf8()..],
                None => prop_assert!(false, "{:?} is not in {:?}", whole.content, text),
            }
        }
    }

    #[test]
    fn calls_and_content_add_up_to_the_text(
        parts in prop::collection::vec(("[a-z .]{0,6}", "[a-z_]{1,8}", "[a-zé{}\"\\\\\\[\\], ]{0,10}"), 0..5),
        format in prop::sample::select(vec![ToolFormat::Hermes, ToolFormat::Llama3Json, ToolFormat::Mistral]),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let (mut text, mut content, mut calls) = (String::new(), String::new(), Vec::new());
        for (between, name, value) in parts {
            let arguments = json!({"value": value, "list": [1, {"deep": value}]}).to_string();
            text.push_str(&between);
            content.push_str(&between);
            text.push_str(&match format {
                ToolFormat::Hermes => format!("<tool_call>{{\"name\": \"{name}\", \"arguments\": {arguments}}}</tool_call>"),
                ToolFormat::Llama3Json => format!("<|python_tag|>{{\"name\": \"{name}\", \"parameters\": {arguments}}}"),
                ToolFormat::Mistral => format!("[TOOL_CALLS]{name}{arguments}"),
            });
            calls.push((name, arguments));
        }
        let parser = AnswerParser::new(None, Some(ToolParser::new(format)));
        let found = answer(parser, &cut(&text, &cuts));
        prop_assert_eq!(found.calls, calls);
        prop_assert_eq!(essence(&found.content), essence(&content));
    }
}
