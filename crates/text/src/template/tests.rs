//! The parts of rendering that need no model.

use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use crate::tools::ToolFormat;

use super::{ChatTemplate, NamedTemplate, RenderError, RenderOptions, SpecialTokens, TemplateError};

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source.to_owned(), SpecialTokens::default()).unwrap()
}

fn render(source: &str) -> Result<String, RenderError> {
    let messages = json!([{"role": "user", "content": "hi"}]);
    template(source).render(&messages, &RenderOptions::default())
}

fn check(source: &str, expected: &str) {
    assert_eq!(render(source).unwrap(), expected, "{source}");
}

fn failure(source: &str) -> String {
    match render(source) {
        Err(RenderError::Failed { message }) => message,
        other => panic!("expected a failure, got {other:?}"),
    }
}

#[test]
fn blocks_leave_no_lines_behind() {
    check("{% for m in messages %}\n  {% if m %}\n{{ m.role }}\n  {% endif %}\n{% endfor %}\n", "user\n");
}

#[test]
fn python_methods_and_loop_controls_work() {
    check("{{ ' a-b '.strip().split('-')[-1].upper() }}", "B");
    check("{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}", "role=user;content=hi;");
    check("{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012");
    check("{{ messages[0].get('name', 'nobody') }}", "nobody");
    check(
        "{% set ns = namespace(n=0) %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
        "6",
    );
    check("{{ none }} {{ true }} {{ [1, 'a'] }} {{ 1.0 }}", "None True [1, 'a'] 1.0");
}

#[test]
fn tojson_is_that_of_python() {
    let value =
        r#"{{ {"b": [1, 2.5, 1e16, 1e-7], "a": "é<'\"\n\u0001", "c": none, "d": {}, "e": []} | tojson"#;
    check(
        &format!("{value} }}}}"),
        r#"{"b": [1, 2.5, 1e+16, 1e-07], "a": "é<'\"\n\u0001", "c": null, "d": {}, "e": []}"#,
    );
    check(
        r#"{{ {"b": [1, {"x": true}], "a": {}} | tojson(indent=2, sort_keys=true) }}"#,
        "{\n  \"a\": {},\n  \"b\": [\n    1,\n    {\n      \"x\": true\n    }\n  ]\n}",
    );
    check(r#"{{ "é😀" | tojson(ensure_ascii=true) }}"#, r#""\u00e9\ud83d\ude00""#);
    check(r#"{{ [1, {"a": 2}] | tojson(separators=(",", ":")) }}"#, r#"[1,{"a":2}]"#);
    assert!(failure("{{ nothing | tojson }}").contains("undefined has no JSON form"));
    assert!(failure("{{ 1 | tojson(indent=1000000) }}").contains("indent must be"));
}

#[test]
fn generation_blocks_print_their_content() {
    check("a\n  {% generation %}\nb{%- endgeneration -%}\n c", "a\nbc");
    check("{%- generation -%} x {%- endgeneration %}{{ '{%' }} generation", "x{% generation");
    check("{% if add_generation_prompt %}never{% endif %}", "");
}

#[test]
fn what_the_template_refuses_is_the_clients_error() {
    match render("{{ raise_exception('roles must alternate: ' ~ messages[0].role) }}") {
        Err(RenderError::Rejected { message }) => assert_eq!(message, "roles must alternate: user"),
        other => panic!("expected a rejection, got {other:?}"),
    }
    let inside_macro = "{% macro m() %}{{ raise_exception('no') }}{% endmacro %}{{ m() }}";
    assert!(matches!(render(inside_macro), Err(RenderError::Rejected { message }) if message == "no"));
}

#[test]
fn failures_say_what_and_where() {
    let message = failure("\n{{ messages[0].content + none }}");
    assert!(message.contains("line 2") || message.contains(":2"), "{message}");
    assert!(failure("{{ messages.x.y }}").contains("undefined"));
    let error = ChatTemplate::new("{% if %}".to_owned(), SpecialTokens::default()).unwrap_err();
    assert_eq!(error.to_string(), "chat template \"default\" is not valid");
}

#[test]
fn work_is_bounded() {
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}";
    assert!(matches!(render(endless), Err(RenderError::TooExpensive)));
    let doubling = "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(64) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}";
    assert!(matches!(render(doubling), Err(RenderError::TooExpensive)));
    let output = "{% for i in range(1000) %}{{ 'x' * 1000000 }}{% endfor %}";
    assert!(matches!(render(output), Err(RenderError::TooExpensive)));
    assert!(failure("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}").contains("recursion"));
    let deep = "{% set ns = namespace(x=[]) %}{% for i in range(90000) %}{% set ns.x = [ns.x] %}{% endfor %}";
    assert!(failure(&format!("{deep}{{{{ ns.x | tojson }}}}")).contains("nested deeper"));
    for deeper in ["[ns.x]", "{'a': ns.x}", "(ns.x,)", "namespace(a=ns.x)"] {
        let source = format!(
            "{{% set ns = namespace(x=[]) %}}{{% for i in range(9999) %}}{{% for j in range(9999) %}}{{% set ns.x = {deeper} %}}{{% endfor %}}{{% endfor %}}"
        );
        assert!(matches!(render(&source), Err(RenderError::TooExpensive)), "{deeper}");
    }
    // Printing a deep value recurses too.
    for use_of_it in [
        "{{ ns.x }}",
        "{{ ns.x | string | length }}",
        "{{ ns.x == [ns.x] }}",
        "{{ ns.x | pprint }}",
        "{{ debug(ns.x) }}",
    ] {
        let outcome = render(&format!("{deep}{use_of_it}"));
        assert!(!matches!(outcome, Err(RenderError::NoThread(_))), "{use_of_it}: {outcome:?}");
    }
}

#[test]
fn variables_reach_the_template_but_those_of_the_server_stay() {
    let special = SpecialTokens { bos_token: Some("<s>".to_owned()), ..SpecialTokens::default() };
    let source = "{{ bos_token }}{{ eos_token is defined }}{{ tools is none }}{{ enable_thinking }}{{ add_generation_prompt }}";
    let template = ChatTemplate::new(source.to_owned(), special).unwrap();
    let mut options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
    options.kwargs.insert("enable_thinking".to_owned(), json!(false));
    assert_eq!(template.render(&json!([]), &options).unwrap(), "<s>FalseTrueFalseTrue");
    options.kwargs.insert("messages".to_owned(), json!([]));
    assert!(matches!(
        template.render(&json!([]), &options),
        Err(RenderError::ReservedVariable { name }) if name == "messages"
    ));
}

#[test]
fn tools_choose_the_template_that_is_made_for_them() {
    let named = |name: &str, source: &str| NamedTemplate { name: name.to_owned(), source: source.to_owned() };
    let templates =
        vec![named("default", "plain"), named("tool_use", "tools: {{ tools | tojson }}"), named("rag", "")];
    let template = ChatTemplate::of_several(templates, SpecialTokens::default()).unwrap();
    assert_eq!(template.render(&json!([]), &RenderOptions::default()).unwrap(), "plain");
    let options = RenderOptions { tools: Some(json!([{"type": "function"}])), ..RenderOptions::default() };
    assert_eq!(template.render(&json!([]), &options).unwrap(), "tools: [{\"type\": \"function\"}]");
    let missing = ChatTemplate::of_several(vec![named("rag", "")], SpecialTokens::default());
    assert!(matches!(missing, Err(TemplateError::NoDefault)));
}

fn at(unix_seconds: u64, format: &str) -> Result<String, RenderError> {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(unix_seconds);
    let template = template(&format!("{{{{ strftime_now('{format}') }}}}")).with_clock(move || now);
    template.render(&json!([]), &RenderOptions::default())
}

#[test]
fn the_date_is_that_of_the_clock() {
    // Checked with `date -u -d @N`.
    assert_eq!(at(0, "%A %d %B %Y %H:%M:%S %j").unwrap(), "Thursday 01 January 1970 00:00:00 001");
    assert_eq!(at(951_782_400, "%a %d %b %Y %j").unwrap(), "Tue 29 Feb 2000 060");
    assert_eq!(at(1_735_689_599, "%F %T %I %p %j %y").unwrap(), "2024-12-31 23:59:59 11 PM 366 24");
    assert_eq!(at(4_107_542_400, "%-d/%-m/%Y %e %w %%").unwrap(), "1/3/2100  1 1 %");
    assert!(matches!(at(0, "%Q"), Err(RenderError::Failed { .. })));
    assert!(matches!(at(0, "%"), Err(RenderError::Failed { .. })));
    let today = render("{{ strftime_now('%Y') | int >= 2025 }}").unwrap();
    assert_eq!(today, "True");
}

/// Renders messages, with what the request says besides.
fn rendered(source: &str, messages: &Json, options: &RenderOptions) -> Result<String, RenderError> {
    template(source).render(messages, options)
}

const CHATML: &str =
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}";
const TRIMMING: &str = "{% for m in messages %}[{{ m['content'] | trim }}]{% endfor %}";
const LOOPING: &str = "{% for m in messages %}{% for part in m['content'] %}({{ part.type }} {{ part.text }}){% endfor %}{% endfor %}";

#[test]
fn content_has_the_form_that_the_template_expects() {
    let parts = json!([{"type": "text", "text": "a"}, "b", {"type": "input_text", "text": "c"}]);
    let messages =
        json!([{"role": "user", "content": parts}, {"role": "assistant", "content": "d"}, {"role": "tool"}]);
    let options = RenderOptions::default();
    assert_eq!(rendered(TRIMMING, &messages, &options).unwrap(), "[a\nb\nc][d][]");
    assert_eq!(rendered(LOOPING, &messages, &options).unwrap(), "(text a)(text b)(text c)(text d)");
    for (looping, source) in [
        (true, "{%- for part in message.content -%}"),
        (true, "{% for part in content %}"),
        (true, "{% for part in message[\"content\"] | list %}"),
        (false, "{% for message in messages %}{{ message.content }}"),
        (false, "{% for part in content.split('a') %}"),
        (false, "{% if 'a' in message.content %}"),
    ] {
        assert_eq!(super::messages::loops_over_content(source), looping, "{source}");
    }
}

#[test]
fn what_is_wrong_with_a_message_is_named() {
    let content =
        |content: Json| json!([{"role": "system", "content": "s"}, {"role": "user", "content": content}]);
    let call = |arguments: &str| json!([{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}]);
    for (messages, expected) in [
        (json!({}), "messages: must be a list"),
        (json!(["a"]), "messages[0]: must be an object"),
        (content(json!(1)), "messages[1].content: must be a string or a list of parts"),
        (
            content(json!([{"type": "image_url"}])),
            "messages[1].content[0]: type \"image_url\" is not supported here: only text is",
        ),
        (content(json!([{"type": "text"}])), "messages[1].content[0].text: must be a string"),
        (content(json!([[]])), "messages[1].content[0]: must be an object with a type"),
        (
            call("{"),
            "messages[0].tool_calls[0].function.arguments: must be JSON: EOF while parsing an object at line 1 column 1",
        ),
    ] {
        let error = rendered(CHATML, &messages, &RenderOptions::default()).unwrap_err();
        assert!(matches!(error, RenderError::Message { .. }));
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn tool_calls_have_arguments_as_values() {
    let source = "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.id }} {{ c.function.name }} {{ c.function.arguments | tojson }} {{ c.function.arguments is mapping }};{% endfor %}{% if m.tool_calls is defined %}calls{% endif %}{{ m.reasoning_content }}{% endfor %}";
    let call = |id: u32, arguments: Json| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": arguments}});
    let messages = json!([
        {"role": "assistant", "content": null, "reasoning": "r", "tool_calls": [
            call(1, json!("{\"b\": [1], \"a\": 2}")), call(2, json!("")), call(3, json!(null)), call(4, json!({"c": 3})),
        ]},
        {"role": "assistant", "content": "x", "tool_calls": []},
    ]);
    let text = rendered(source, &messages, &RenderOptions::default()).unwrap();
    let thinking = json!([{"role": "assistant", "content": "", "thinking": "t"}, {"role": "assistant", "content": "", "reasoning_content": "c"}]);
    assert_eq!(rendered(source, &thinking, &RenderOptions::default()).unwrap(), "tc");
    assert_eq!(text, "1 f {\"b\": [1], \"a\": 2} True;2 f {} True;3 f {} True;4 f {\"c\": 3} True;callsr");
}

#[test]
fn the_last_message_can_be_gone_on_with() {
    let options = RenderOptions { continue_final_message: true, ..RenderOptions::default() };
    let messages =
        json!([{"role": "user", "content": "Once"}, {"role": "assistant", "content": "Once upon "}]);
    let ends = |source: &str| rendered(source, &messages, &options);
    assert_eq!(ends(CHATML).unwrap(), "<|im_start|>user\nOnce<|im_end|>\n<|im_start|>assistant\nOnce upon ");
    assert_eq!(ends(TRIMMING).unwrap(), "[Once][Once upon");
    assert_eq!(ends(LOOPING).unwrap(), "(text Once)(text Once upon ");
    let parts = json!([{"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]);
    assert!(rendered(CHATML, &parts, &options).unwrap().ends_with("a\nb"));
    // No text, no place for it, two ways to end.
    for messages in [json!([]), json!([{"role": "user", "content": []}])] {
        let error = rendered(LOOPING, &messages, &options).unwrap_err().to_string();
        assert_eq!(error, "continue_final_message: there is no text in a last message to continue");
    }
    let error = ends("nothing").unwrap_err().to_string();
    assert_eq!(error, "continue_final_message: the chat template does not print the last message as it is");
    let cuts = "{% for m in messages %}{{ m.content.split('up')[-1] }}{% endfor %}";
    assert!(ends(cuts).unwrap_err().to_string().ends_with("does not print the last message as it is"));
    let both = RenderOptions { add_generation_prompt: true, ..options };
    let error = rendered(CHATML, &messages, &both).unwrap_err().to_string();
    assert!(error.starts_with("continue_final_message: cannot be together"), "{error}");
}

#[test]
fn documents_reach_the_template() {
    let source =
        "{% for d in documents or [] %}{{ d.title }}: {{ d.text }};{% endfor %}{{ documents is none }}";
    let documents = Some(json!([{"title": "A", "text": "a"}, {"title": "B", "text": "b"}]));
    let options = RenderOptions { documents, ..RenderOptions::default() };
    assert_eq!(rendered(source, &json!([]), &options).unwrap(), "A: a;B: b;False");
    assert_eq!(rendered(source, &json!([]), &RenderOptions::default()).unwrap(), "True");
}

#[test]
fn a_request_may_bring_its_own_template() {
    let special = SpecialTokens { bos_token: Some("<s>".to_owned()), ..SpecialTokens::default() };
    let model = ChatTemplate::new("model".to_owned(), special).unwrap();
    let model = model.with_clock(|| SystemTime::UNIX_EPOCH);
    let own = model
        .replaced_by("{{ bos_token }}{{ messages[0].content }} {{ strftime_now('%Y') }}".to_owned())
        .unwrap();
    let messages = json!([{"role": "user", "content": "hi"}]);
    assert_eq!(own.render(&messages, &RenderOptions::default()).unwrap(), "<s>hi 1970");
    assert_eq!(model.render(&messages, &RenderOptions::default()).unwrap(), "model");
    assert!(matches!(model.replaced_by("{% if %}".to_owned()), Err(TemplateError::Syntax { .. })));
    assert!(matches!(model.replaced_by(" ".repeat(1 << 20)), Err(TemplateError::TooLong { .. })));
    let endless = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
    let outcome = model.replaced_by(endless.to_owned()).unwrap().render(&messages, &RenderOptions::default());
    assert!(matches!(outcome, Err(RenderError::TooExpensive)));
}

#[test]
fn a_template_shows_the_form_of_its_tool_calls() {
    let named = |name: &str, source: &str| NamedTemplate { name: name.to_owned(), source: source.to_owned() };
    let templates = vec![named("default", "[TOOL_CALLS]"), named("tool_use", "<tool_call>")];
    let template = ChatTemplate::of_several(templates, SpecialTokens::default()).unwrap();
    assert_eq!(template.tool_format(), Some(ToolFormat::Hermes));
    assert_eq!(super::tests::template("[TOOL_CALLS]").tool_format(), Some(ToolFormat::Mistral));
    assert_eq!(super::tests::template(CHATML).tool_format(), None);
}

fn any_json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<i32>().prop_map(Json::from),
        "[a-z{}% \"\\\\\u{e000}é]{0,8}".prop_map(Json::from),
        prop::sample::select(vec!["text", "user", "assistant", "tool", "{\"a\": 1}", "{", "image_url"])
            .prop_map(Json::from),
    ];
    let name = prop::sample::select(vec![
        "role",
        "content",
        "type",
        "text",
        "tool_calls",
        "function",
        "arguments",
        "name",
        "reasoning",
    ]);
    leaf.prop_recursive(5, 32, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Json::Array),
            prop::collection::vec((name.clone(), inner), 0..5).prop_map(|members| Json::Object(
                members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
            )),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_messages_break_a_template(
        messages in prop_oneof![any_json(), prop::collection::vec(any_json(), 0..4).prop_map(Json::Array)],
        tools in prop::option::of(any_json()),
        documents in prop::option::of(any_json()),
        extra in any_json(),
        continue_final_message in any::<bool>(),
        source in prop::sample::select(vec![CHATML, TRIMMING, LOOPING, "{{ messages | tojson }}{{ tools | tojson }}{{ documents }}{{ extra }}"]),
    ) {
        let mut options = RenderOptions { tools, documents, continue_final_message, ..RenderOptions::default() };
        options.kwargs.insert("extra".to_owned(), extra);
        if let Ok(prompt) = rendered(source, &messages, &options) {
            prop_assert!(!prompt.contains("END_OF_FINAL_MESSAGE"));
        }
    }

    #[test]
    fn plain_messages_can_always_be_continued(
        texts in prop::collection::vec("[ -~é\\n]{0,12}", 1..4),
    ) {
        let messages: Json = texts.iter().map(|text| json!({"role": "user", "content": text})).collect();
        let options = RenderOptions { continue_final_message: true, ..RenderOptions::default() };
        let last = texts.last().unwrap();
        prop_assert!(rendered(CHATML, &messages, &options).unwrap().ends_with(last.as_str()));
        let trimmed = rendered(TRIMMING, &messages, &options).unwrap();
        let (open, inside) = trimmed.rsplit_once('[').unwrap_or(("", ""));
        prop_assert!(last.contains('[') || open.len() + 1 + inside.len() == trimmed.len() && inside == last.trim());
    }

    #[test]
    fn no_template_of_a_request_breaks_the_server(
        parts in prop::collection::vec(prop::sample::select(vec![
            "{{", "}}", "{%", "%}", " for a in messages ", " endfor ", " if a ", " endif ", " set x = ", " messages", "[0]", ".content",
            " | tojson", " | join", " | string", " * 99999", " + ", "'a'", " namespace(x=[])", " range(9999)", " macro m() ", " endmacro ",
            " m()", "{#", "#}", "(", ")", "[", "]", "{", "}", " ~ ", " is ", " not ", " loop.index", " raise_exception('no')",
            " strftime_now('%Y%Q')", " generation ", " endgeneration ", " break ", " 1 ", " -", "é", " | items", " | sort", " | length",
        ]), 0..24),
    ) {
        let model = template("");
        if let Ok(own) = model.replaced_by(parts.concat()) {
            let _ = own.render(&json!([{"role": "user", "content": "hi"}]), &RenderOptions::default());
        }
    }
}
