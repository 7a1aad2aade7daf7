//! Grammars that somebody made to cost time, memory or stack.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

/// Ways to make a compiler recurse, multiply or search.
fn hostile() -> Vec<(&'static str, OutputGrammar)> {
    let nested =
        |depth: usize, inner: &str| (0..depth).fold(inner.to_owned(), |inside, _| format!("({inside})*"));
    let chain = |count: usize| {
        let mut definitions = serde_json::Map::new();
        for place in 0..count {
            definitions.insert(format!("a{place}"), json!({"$ref": format!("#/$defs/a{}", place + 1)}));
        }
        definitions.insert(format!("a{count}"), json!({"type": "integer"}));
        json!({"$ref": "#/$defs/a0", "$defs": definitions})
    };
    let product = |count: usize| {
        let either = |place: usize| {
            json!({"anyOf": [
                {"type": "object", "properties": {format!("a{place}"): {"type": "string"}}},
                {"type": "object", "properties": {format!("b{place}"): {"type": "integer"}}},
            ]})
        };
        json!({"allOf": (0..count).map(either).collect::<Vec<_>>()})
    };
    let many = |count: usize| {
        let properties: serde_json::Map<_, _> =
            (0..count).map(|place| (format!("p{place}"), json!({"type": "string"}))).collect();
        json!({"type": "object", "properties": properties})
    };
    let deep =
        (0..100).fold(json!({"type": "integer"}), |inside, _| json!({"type": "array", "items": inside}));
    let rules: String = (0..4_000).map(|place| format!("r{place}: r{}\n", place + 1)).collect();
    vec![
        ("the most properties", schema(&many(500))),
        (
            "alternatives",
            schema(&json!({"anyOf": (0..5_000).map(|place| json!({"const": [place]})).collect::<Vec<_>>()})),
        ),
        (
            "patterns for names",
            schema(
                &json!({"patternProperties": (0..30).map(|place| (format!("^{place}x[a-z]*$"), json!({}))).collect::<serde_json::Map<_, _>>()}),
            ),
        ),
        (
            "references in a circle",
            schema(
                &json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
            ),
        ),
        ("itself", schema(&json!({"$ref": "#"}))),
        ("all of itself", schema(&json!({"allOf": [{"$ref": "#"}, {"$ref": "#"}]}))),
        ("any of itself twice", schema(&json!({"anyOf": [{"$ref": "#"}, {"$ref": "#"}]}))),
        ("a long chain of references", schema(&chain(8_000))),
        ("a product of alternatives", schema(&product(20))),
        ("many properties", schema(&many(10_000))),
        ("deep nesting", schema(&deep)),
        (
            "long strings",
            schema(&json!({"type": "string", "minLength": 1_000_000, "maxLength": 100_000_000})),
        ),
        ("many items", schema(&json!({"type": "array", "items": {"type": "string"}, "minItems": 1_000_000}))),
        (
            "huge numbers",
            schema(&json!({"type": "number", "minimum": -1e300, "maximum": 1e308, "multipleOf": 1e-300})),
        ),
        ("a huge divisor", schema(&json!({"type": "integer", "multipleOf": 1_000_000_007}))),
        ("a heavy pattern", schema(&json!({"type": "string", "pattern": "(a|b)*a(a|b){200}$"}))),
        ("a name that is not cut at a character", schema(&json!({"type": "é".repeat(200)}))),
        ("nested repetitions", regex(&nested(100, "a"))),
        ("counted repetitions", regex("(((a{1000}){1000}){1000}){1000}")),
        ("a heavy expression", regex("(a|b)*a(a|b){1000}")),
        ("many heavy expressions", regex(&"(.*a.{30})&".repeat(100))),
        ("deep brackets", regex(&format!("{}a{}", "(".repeat(5_000), ")".repeat(5_000)))),
        ("many alternatives", regex(&(0..3_000).map(|place| format!("{place}x|")).collect::<String>())),
        ("a long expression", regex(&"a?".repeat(8_000))),
        ("many choices", OutputGrammar::Choice((0..20_000).map(|place| format!("choice {place}")).collect())),
        ("a chain of rules", grammar(&format!("start: r0\n{rules}r4000: \"a\""))),
        ("a circle of rules", grammar("start: start")),
        ("ambiguity", grammar("start: a\na: a a a | \"x\" | \"\"")),
        ("left and right", grammar("start: start start | \"a\" start | start \"a\" | \"\"")),
        ("many rule repetitions", grammar("start: (a{1000}){1000}\na: \"x\" | \"y\" a")),
        (
            "nested terminals",
            grammar("start: A\nA: (B B B){100}\nB: (C C C){100}\nC: (/.*x/ | /[^a]*y.{100}/){100}"),
        ),
        (
            "gbnf doubling",
            grammar(&format!(
                "root ::= a0\n{}a40 ::= \"x\"",
                (0..40)
                    .map(|place| format!("a{place} ::= a{} a{}\n", place + 1, place + 1))
                    .collect::<String>(),
            )),
        ),
    ]
}

/// Far above what any of it takes (half a second in a test build), far below what a client would call a hang.
const MAX_COMPILE: Duration = Duration::from_secs(20);
const MAX_STEP: Duration = Duration::from_secs(2);

#[test]
#[expect(clippy::disallowed_methods, reason = "the subject is how long it takes")]
fn hostile_grammars_are_refused_or_followed_in_time() {
    const END: u32 = 257;
    let (_, compiler) = bytes();
    let mut followed = 0;
    for (name, grammar) in hostile() {
        let started = Instant::now();
        let outcome = compiler.compile(&grammar);
        assert!(started.elapsed() < MAX_COMPILE, "{name}: compiling took {:?}", started.elapsed());
        let Ok(compiled) = outcome else { continue };
        followed += 1;
        let mut constraint = compiled.constraint().matcher;
        let mut allowed = TokenSet::empty(258);
        for _ in 0..100 {
            let started = Instant::now();
            let step = constraint.allow(&mut allowed);
            let token = (0..258).find(|token| allowed.contains(*token)).filter(|_| step.is_ok());
            let Some(token) = token.filter(|token| *token != END) else { break };
            let taken = constraint.accept(token);
            assert!(started.elapsed() < MAX_STEP, "{name}: a step took {:?}", started.elapsed());
            if taken.is_err() {
                break;
            }
        }
    }
    compiler.compile(&hostile()[0].1).expect("as many properties as are allowed");
    assert!(followed > 10, "only {followed} were tried to the end");
}

#[test]
fn schemas_with_too_many_properties_are_refused() {
    let properties = |count: usize| {
        (0..count).map(|place| (place.to_string(), json!({}))).collect::<serde_json::Map<_, _>>()
    };
    let object = |count: usize| json!({"properties": properties(count)});
    for (refused, expected) in [
        (object(501), "501 properties"),
        (json!({"allOf": (0..11).map(|_| object(480)).collect::<Vec<_>>()}), "more than 5000 properties"),
        (json!({"patternProperties": properties(33)}), "more than 32 patternProperties"),
    ] {
        let error = error(&schema(&refused));
        assert!(matches!(error, GrammarError::TooComplex { .. }));
        assert!(error.to_string().contains(expected), "{error}");
    }
}

/// Schemas of keywords and values that may or may not go together.
fn any_schema() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(json!(true)),
        Just(json!(null)),
        (-5_i64..5).prop_map(|number| json!(number)),
        any::<f64>().prop_map(|number| json!(number)),
        "[a-z$#/(){}|*\\[\\]é]{0,6}".prop_map(|text| json!(text)),
        prop::sample::select(vec![
            "string",
            "integer",
            "number",
            "object",
            "array",
            "null",
            "boolean",
            "#",
            "#/$defs/a",
            "date-time"
        ])
        .prop_map(|text| json!(text)),
    ];
    let keyword = prop::sample::select(vec![
        "type",
        "properties",
        "required",
        "items",
        "prefixItems",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
        "$defs",
        "a",
        "const",
        "enum",
        "minLength",
        "maxLength",
        "pattern",
        "format",
        "minimum",
        "exclusiveMaximum",
        "multipleOf",
        "minItems",
        "maxItems",
        "additionalProperties",
        "patternProperties",
        "minProperties",
        "x-guidance",
        "not",
    ]);
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::Array),
            prop::collection::vec((keyword.clone(), inner), 0..5).prop_map(|members| Json::Object(
                members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
            )),
        ]
    })
}

/// Compiles, and follows the grammar wherever it leads for a few steps.
fn survives(compiler: &GrammarCompiler, grammar: &OutputGrammar, choices: &[u8]) {
    let Ok(compiled) = compiler.compile(grammar) else { return };
    let mut constraint = compiled.constraint().matcher;
    let mut allowed = TokenSet::empty(258);
    for choice in choices {
        if constraint.allow(&mut allowed).is_err() {
            return;
        }
        let tokens: Vec<u32> = (0..258).filter(|token| allowed.contains(*token)).collect();
        assert!(!tokens.is_empty(), "{grammar:?} leads nowhere");
        let token = tokens[usize::from(*choice) % tokens.len()];
        constraint
            .accept(token)
            .unwrap_or_else(|error| panic!("{grammar:?} allows {token} and refuses it: {error}"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_schema_is_refused_or_followed(given in any_schema(), choices in prop::collection::vec(any::<u8>(), 30)) {
        survives(&bytes().1, &schema(&given), &choices);
    }

    #[test]
    fn any_expression_is_refused_or_followed(
        expression in "[a-c.|*+?(){}\\[\\]^$0-9,\\\\/\"é\n-]{0,24}", choices in prop::collection::vec(any::<u8>(), 20),
    ) {
        survives(&bytes().1, &regex(&expression), &choices);
    }

    #[test]
    fn any_grammar_is_refused_or_followed(
        parts in prop::collection::vec(prop::sample::select(vec![
            "root", "start", " ::= ", ": ", "a", "A", "\"x\"", "[a-z]", "/y+/", "(", ")", "|", "*", "+", "?", "{2}", "{1,3}",
            "\n", " ", "%ignore", "%json {}", "~", "\"", "[", "\\", "<[1]>", "#", "é", "&", "..", "@a", "->",
        ]), 0..24),
        prefix in prop::sample::select(vec!["", "root ::= a \"x\"\na ::= ", "start: a \"x\"\na: ", "start: A\nA: "]),
        choices in prop::collection::vec(any::<u8>(), 20),
    ) {
        survives(&bytes().1, &grammar(&format!("{prefix}{}", parts.concat())), &choices);
    }

    #[test]
    fn what_an_expression_lets_through_it_matches(choices in prop::collection::vec(any::<u8>(), 40)) {
        // What comes out when the choice is another's is checked by another implementation.
        let expression = r"(ab|a)*c{2,4}(x|yz?)+";
        let (text, compiler) = bytes();
        let mut constraint = compiler.compile(&regex(expression)).unwrap().constraint().matcher;
        let (mut allowed, mut tokens) = (TokenSet::empty(258), Vec::new());
        for choice in choices {
            constraint.allow(&mut allowed).unwrap();
            let possible: Vec<u32> = (0..258).filter(|token| allowed.contains(*token)).collect();
            let token = possible[usize::from(choice) % possible.len()];
            constraint.accept(token).unwrap();
            if token == 257 {
                let output = text.tokenizer.decode(&tokens, false).unwrap();
                prop_assert!(matches_expression(&output), "{output}");
                return Ok(());
            }
            tokens.push(token);
        }
    }
}

/// `(ab|a)*c{2,4}(x|yz?)+`, by hand.
fn matches_expression(text: &str) -> bool {
    let mut rest = text;
    while let Some(next) = rest.strip_prefix("ab").or_else(|| rest.strip_prefix('a')) {
        rest = next;
    }
    let after = rest.trim_start_matches('c');
    let count = rest.len() - after.len();
    let mut rest = after;
    while let Some(next) =
        rest.strip_prefix('x').or_else(|| rest.strip_prefix("yz")).or_else(|| rest.strip_prefix('y'))
    {
        rest = next;
    }
    (2..=4).contains(&count) && rest.is_empty() && !after.is_empty()
}
