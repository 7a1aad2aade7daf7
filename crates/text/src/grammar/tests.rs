use serde_json::{Value as Json, json};
use wayfare_engine::{OutputGrammar, TokenSet};

use super::*;
use crate::{ReasoningFormat, TextFiles};

mod hostile;

/// The byte model, and its compiler.
fn bytes() -> (TextFiles, GrammarCompiler) {
    let text = TextFiles::of_bytes().unwrap();
    let compiler = GrammarCompiler::new(&text.tokenizer, &text.end_of_text).unwrap();
    (text, compiler)
}

fn schema(schema: &Json) -> OutputGrammar {
    OutputGrammar::JsonSchema(schema.to_string().into())
}

fn regex(expression: &str) -> OutputGrammar {
    OutputGrammar::Regex(expression.into())
}

fn grammar(text: &str) -> OutputGrammar {
    OutputGrammar::Grammar(text.into())
}

fn choice(choices: &[&str]) -> OutputGrammar {
    OutputGrammar::Choice(choices.iter().map(|choice| (*choice).to_owned()).collect())
}

/// How far the output goes along with a text.
#[derive(Debug, PartialEq, Eq)]
enum Fit {
    /// It may be the whole output.
    Whole,
    /// It is the beginning of an output.
    Beginning,
    /// It cannot be, from this byte on.
    Not(usize),
}

/// Follows the grammar along `text`, byte by byte. What is allowed must be taken, and the other way round.
fn fit(compiler: &GrammarCompiler, grammar: &OutputGrammar, text: &str) -> Fit {
    follow(compiler.compile(grammar).unwrap().constraint(), text)
}

fn follow(constraint: OutputConstraint, text: &str) -> Fit {
    const END: u32 = 257;
    let OutputConstraint { grammar, matcher: mut constraint } = constraint;
    let tokens = TextFiles::of_bytes().unwrap().tokenizer.encode(text, false).unwrap();
    let mut allowed = TokenSet::empty(300);
    for (place, token) in tokens.into_iter().enumerate() {
        constraint.allow(&mut allowed).unwrap();
        if !allowed.contains(token) {
            assert!(
                constraint.accept(token).is_err(),
                "{grammar:?} takes what it does not allow at {place} of {text}"
            );
            return Fit::Not(place);
        }
        constraint.accept(token).unwrap();
    }
    constraint.allow(&mut allowed).unwrap();
    if !allowed.contains(END) {
        assert!(constraint.accept(END).is_err());
        return Fit::Beginning;
    }
    for _ in 0..2 {
        constraint.accept(END).unwrap();
        constraint.allow(&mut allowed).unwrap();
        assert_eq!((0..300).filter(|token| allowed.contains(*token)).collect::<Vec<_>>(), [END]);
    }
    assert!(constraint.accept(40).is_err());
    Fit::Whole
}

fn check(grammar: &OutputGrammar, whole: &[&str], beginnings: &[&str], not: &[(&str, usize)]) {
    let (_, compiler) = bytes();
    for text in whole {
        assert_eq!(fit(&compiler, grammar, text), Fit::Whole, "{text}");
    }
    for text in beginnings {
        assert_eq!(fit(&compiler, grammar, text), Fit::Beginning, "{text}");
    }
    for (text, place) in not {
        assert_eq!(fit(&compiler, grammar, text), Fit::Not(*place), "{text}");
    }
}

fn error(grammar: &OutputGrammar) -> GrammarError {
    bytes().1.compile(grammar).unwrap_err()
}

#[test]
fn any_json_object_is_an_object() {
    check(
        &OutputGrammar::JsonObject,
        &["{}", r#"{"a": [1, -2.5e3, null, true, "é\n\u00e9", {"b": {}}]}"#, "{\n  \"a\": 1\n}"],
        &["", "{", r#"{"a": [1"#, r#"{"a": "é"#],
        &[("[", 0), ("1", 0), ("{}}", 2), ("{} ", 2), (r#"{"a" 1"#, 5), (r"{'", 1)],
    );
}

#[test]
fn a_schema_is_kept_to() {
    let person = json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 5},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "next": {"$ref": "#"},
        },
        "required": ["name"],
        "additionalProperties": false,
    });
    check(
        &schema(&person),
        &[r#"{"name": "Ada"}"#, r#"{"name":"Ada","age":36,"next":{"name":"Bob"}}"#],
        &[r#"{"name": "Ada", "#],
        &[(r#"{"age""#, 2), (r#"{"name": "Barbara"#, 15), (r#"{"name":"Ada","age":151"#, 22)],
    );
    check(&schema(&json!(true)), &["1", "[]", "\"a\""], &["[1"], &[("]", 0)]);
    let either = json!({"oneOf": [
        {"type": "object", "properties": {"kind": {"const": "a"}}, "required": ["kind"], "additionalProperties": false},
        {"type": "object", "properties": {"kind": {"const": "b"}}, "required": ["kind"], "additionalProperties": false},
    ]});
    check(&schema(&either), &[r#"{"kind":"a"}"#, r#"{"kind":"b"}"#], &[], &[(r#"{"kind":"c"#, 9)]);
}

#[test]
fn white_space_in_json_has_an_end() {
    let (_, compiler) = bytes();
    let spaces = |count: usize| format!("{{\"a\":{}1}}", " ".repeat(count));
    assert_eq!(fit(&compiler, &OutputGrammar::JsonObject, &spaces(32)), Fit::Whole);
    assert_eq!(fit(&compiler, &OutputGrammar::JsonObject, &spaces(33)), Fit::Not(5 + 32));
}

#[test]
fn an_expression_matches_the_whole_output() {
    check(&regex(r"^\d{2}/[a-c]+$"), &["12/a", "12/abc"], &["", "1", "12/"], &[("123", 2), ("12/d", 3)]);
    check(&regex("(ab|a)(c|bcd)"), &["abc", "ac", "abcd", "abbcd"], &["a", "ab"], &[("b", 0)]);
    check(&regex("[äöü]+\n?"), &["ä", "äö\n"], &[""], &[("a", 0), ("ä\nä", 3)]);
    check(&regex(""), &[""], &[], &[("a", 0)]);
}

#[test]
fn a_choice_may_begin_another() {
    let choices = choice(&["yes", "yes, but", "no\u{7f}\"\\/\n", "日本"]);
    check(
        &choices,
        &["yes", "yes, but", "no\u{7f}\"\\/\n", "日本"],
        &["", "ye", "yes,"],
        &[("yess", 3), ("maybe", 0)],
    );
    check(&choice(&["", "a"]), &["", "a"], &[], &[("b", 0)]);
}

#[test]
fn lark_grammars_are_followed() {
    let sum = grammar("start: NUMBER (\"+\" NUMBER)*\nNUMBER: /[0-9]+/\n%ignore / /");
    check(&sum, &["1", "1+2", "1 + 23"], &["", "1+"], &[("+", 0), ("1++", 2)]);
}

#[test]
fn gbnf_grammars_are_followed() {
    let json_like = grammar(
        "# values\nroot ::= value\n\
         value ::= object | array | num | \"\\\"\" [^\"\\\\\\n]* \"\\\"\"\n\
         object ::= \"{\" ws ( pair (\",\" ws pair)* )? \"}\"\n\
         pair ::= [a-zA-Z_-]{1,3} \":\" ws value   # a name and a value\n\
         array ::= \"[\" ws (value\n  (\",\" ws value)*)? \"]\"\n\
         num ::= \"-\"? [0-9]+ \n  | \"\\x41\\u00e9\" .\n\
         ws ::= [ \\t\\n]*\n",
    );
    check(
        &json_like,
        &["-12", "[]", "{a-b: [1, {}]}", "[1,2, {\n_:\"x y\"}]", "Aéx", "Aéé"],
        &["", "{", "[1", "-", "Aé"],
        &[("{abcd", 4), ("[,", 1), ("B", 0), ("\"\n", 1)],
    );
    let recursive = grammar("root ::= \"(\" root \")\" | \"\" | other-Rule\nother-Rule ::= \"x\"{2}");
    check(&recursive, &["", "()", "((xx))", "xx"], &["(", "((xx)", "x"], &[("xxx", 2), ("())", 2)]);
}

#[test]
fn what_is_wrong_is_said() {
    for (grammar, expected) in [
        (OutputGrammar::JsonSchema("{".into()), "it is not JSON"),
        (schema(&json!([])), "a schema is a JSON object"),
        (schema(&json!({"type": "text"})), "text"),
        (schema(&json!({"$ref": "#/$defs/none"})), "none"),
        (schema(&json!({"$ref": "https://example.com/schema.json"})), "https://example.com/schema.json"),
        (schema(&json!({"type": "array", "uniqueItems": true})), "uniqueItems"),
        (schema(&json!({"not": {"type": "string"}})), "not"),
        (schema(&json!({"if": {}, "then": {}})), "if"),
        (schema(&json!({"type": "string", "format": "password"})), "password"),
        (schema(&json!({"type": "string", "pattern": "("})), "unclosed group"),
        (schema(&json!({"type": "integer", "minimum": 2, "maximum": 1})), "minimum"),
        (schema(&json!({"oneOf": [{"type": "integer"}, {"type": "number"}]})), "anyOf"),
        (schema(&json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}})), "no text fits it"),
        (regex("a("), "unclosed group"),
        (regex("(?=a)b"), "look"),
        (choice(&[]), "at least one"),
        (grammar(""), "it is empty"),
        (grammar("start: unknown"), "unknown"),
        (grammar("begin: \"a\""), "start"),
        (grammar("root ::= other"), "line 1: rule \"other\" is used but not defined"),
        (grammar("rot ::= \"a\""), "no rule \"root\""),
        (grammar("root ::= \"a\"\nroot ::= \"b\""), "line 2: rule \"root\" is there twice"),
        (grammar("root ::= [b-a]"), "range"),
        (grammar("root ::= \"a"), "not closed"),
        (grammar("root ::= ) x"), "expected the end of the rule, found ')'"),
        (grammar("root ::= \"a\"{99999}"), "99999 repetitions"),
        (grammar("root ::= \"\\q\""), "\\q is not an escape"),
    ] {
        let error = error(&grammar);
        assert!(matches!(error, GrammarError::Invalid { .. }), "{grammar:?}: {error:?}");
        let message = error.to_string();
        assert!(message.contains(expected), "{grammar:?}: {message}");
        assert!(!message.contains("verbose") && !message.contains("panic"), "{message}");
    }
}

#[test]
fn what_is_too_large_is_refused() {
    let long = "a".repeat(1 << 20);
    for grammar in
        [regex(&long), grammar(&long), choice(&[&long]), OutputGrammar::JsonSchema(long.as_str().into())]
    {
        assert!(matches!(error(&grammar), GrammarError::TooLong { .. }));
    }
    let deep = format!("start: {}\"a\"{}", "(".repeat(1000), ")".repeat(1000));
    assert!(error(&grammar(&deep)).to_string().contains("nested 1000 deep"));
    let deep = format!("root ::= {}\"a\"{}", "(".repeat(1000), ")".repeat(1000));
    assert!(error(&grammar(&deep)).to_string().contains("nested more than 200 deep"));
}

#[test]
fn grammars_are_compiled_once_and_forgotten_at_last() {
    let (_, compiler) = bytes();
    let first = regex("a");
    assert!(compiler.cached(&first).is_none());
    compiler.compile(&first).unwrap();
    assert!(compiler.cached(&first).is_some());
    for count in 0..80 {
        compiler.compile(&regex(&format!("b{{{count}}}c"))).unwrap();
        assert!(compiler.cached(&first).is_some());
    }
    assert_eq!(compiler.cache.lock().len(), 64);
    assert!(compiler.cached(&first).is_some(), "what is used stays");
    assert!(compiler.cached(&regex("b{3}c")).is_none());
    for length in [400 << 10, 300 << 10, 401 << 10] {
        let text = json!({"type": "integer", "description": "x".repeat(length)});
        compiler.compile(&schema(&text)).unwrap();
    }
    assert!(compiler.cache.lock().len() < 4, "texts have a bound too");
}

#[test]
fn sequences_do_not_disturb_each_other() {
    let (text, compiler) = bytes();
    let compiled = compiler.compile(&choice(&["ab", "cd"])).unwrap();
    let (mut one, mut other) = (compiled.constraint().matcher, compiled.constraint().matcher);
    let tokens = text.tokenizer.encode("ac", false).unwrap();
    one.accept(tokens[0]).unwrap();
    assert!(one.accept(tokens[1]).is_err());
    assert!(one.accept(tokens[1]).is_err(), "an error stays");
    other.accept(tokens[1]).unwrap();
    assert_eq!(compiled.constraint().grammar, choice(&["ab", "cd"]));
}

#[test]
fn a_vocabulary_without_an_end_is_refused() {
    let text = TextFiles::of_bytes().unwrap();
    for end_of_text in [&[][..], &[100_000]] {
        let refusal = GrammarCompiler::new(&text.tokenizer, end_of_text).unwrap_err();
        assert!(matches!(refusal, GrammarCompilerError::NoEndOfText));
    }
}

#[test]
fn the_grammar_begins_behind_the_reasoning() {
    let (_, compiler) = bytes();
    let compiled = compiler.compile(&choice(&["yes", "<no>"])).unwrap();
    let check = |format: ReasoningFormat, prompt: &str, text: &str, expected: Fit| {
        assert_eq!(
            follow(compiled.constraint_behind(&format.start(prompt)), text),
            expected,
            "{prompt:?} {text:?}"
        );
    };
    let (deepseek, qwen) = (ReasoningFormat::DeepSeekR1, ReasoningFormat::Qwen3);
    check(deepseek, "", "<think>no <</think>yes", Fit::Whole);
    check(deepseek, "", "\nany </thin thing</think><no>", Fit::Whole);
    check(deepseek, "", "yes", Fit::Beginning);
    check(deepseek, "", "a</think>\nyes", Fit::Not(9));
    check(deepseek, "<think></think>", "a", Fit::Not(0));
    check(qwen, "", "yes", Fit::Whole);
    check(qwen, "", "<no>", Fit::Whole);
    check(qwen, "", "<think>é</think><no>", Fit::Whole);
    check(qwen, "", "<thank", Fit::Not(3));
    check(qwen, "", "<nothing", Fit::Not(3));
    check(qwen, "<think>\n", "yes", Fit::Beginning);
    check(qwen, "<think>\n", "a</think>yes", Fit::Whole);
    check(qwen, "<think>\n\n</think>\n\n", "<think>", Fit::Not(1));
}

/// What pydantic makes of models with options, defaults, dates, enumerations and tagged unions.
#[test]
fn schemas_of_classes_are_taken() {
    let shop = json!({
        "$defs": {
            "Cat": {
                "properties": {"kind": {"const": "cat", "title": "Kind", "type": "string"}, "lives": {"default": 9, "title": "Lives", "type": "integer"}},
                "required": ["kind"], "title": "Cat", "type": "object",
            },
            "Dog": {
                "properties": {"kind": {"const": "dog", "title": "Kind", "type": "string"}, "friends": {"items": {"$ref": "#/$defs/Dog"}, "title": "Friends", "type": "array"}},
                "required": ["kind", "friends"], "title": "Dog", "type": "object",
            },
            "Size": {"enum": ["small", "large"], "title": "Size", "type": "string"},
        },
        "properties": {
            "pet": {
                "discriminator": {"mapping": {"cat": "#/$defs/Cat", "dog": "#/$defs/Dog"}, "propertyName": "kind"},
                "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
                "title": "Pet",
            },
            "size": {"allOf": [{"$ref": "#/$defs/Size"}], "default": "small"},
            "born": {"anyOf": [{"format": "date", "type": "string"}, {"type": "null"}], "default": null, "title": "Born"},
            "price": {"exclusiveMinimum": 0, "title": "Price", "type": "number", "multipleOf": 0.01},
        },
        "required": ["pet", "price"], "title": "Shop", "type": "object",
    });
    check(
        &schema(&shop),
        &[
            r#"{"pet": {"kind": "cat"}, "price": 1.25}"#,
            r#"{"pet": {"kind": "dog", "friends": [{"kind": "dog", "friends": []}]}, "size": "large", "born": "2024-02-29", "price": 3}"#,
        ],
        &[r#"{"pet": {"kind": "cat", "lives": 3}, "born": null, "#],
        &[(r#"{"pet": {"kind": "cow"#, 19), (r#"{"pet": {"kind": "dog"}"#, 22)],
    );
}
