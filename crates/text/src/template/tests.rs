//! The parts of rendering that need no model.

use std::time::{Duration, SystemTime};

use serde_json::json;

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
