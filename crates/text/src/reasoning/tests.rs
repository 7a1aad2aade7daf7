use proptest::prelude::*;

use super::*;

/// Reasoning and content of an answer that comes in the given pieces.
fn split(format: ReasoningFormat, prompt: &str, pieces: &[&str]) -> (String, String) {
    let mut parser = format.start(prompt);
    let (mut reasoning, mut content) = (String::new(), String::new());
    for piece in pieces {
        parser.push(piece, &mut |text| reasoning.push_str(text), &mut |text| content.push_str(text));
    }
    parser.finish(&mut |text| reasoning.push_str(text), &mut |text| content.push_str(text));
    (reasoning, content)
}

#[track_caller]
fn check(format: ReasoningFormat, prompt: &str, answer: &str, reasoning: &str, content: &str) {
    assert_eq!(split(format, prompt, &[answer]), (reasoning.to_owned(), content.to_owned()), "{answer:?}");
    let characters: Vec<String> = answer.chars().map(String::from).collect();
    let characters: Vec<&str> = characters.iter().map(String::as_str).collect();
    assert_eq!(split(format, prompt, &characters), (reasoning.to_owned(), content.to_owned()), "{answer:?}");
}

#[test]
fn deepseek_begins_with_reasoning_whether_or_not_it_says_so() {
    let format = ReasoningFormat::by_name("deepseek_r1").unwrap();
    check(format, "", "a b</think>c", "a b", "c");
    check(format, "", "<think>\na</think>\n\nc</think>", "\na", "\n\nc</think>");
    check(format, "", "\n<think>a</think>", "a", "");
    check(format, "", "never ends </thin", "never ends </thin", "");
    check(format, "", "</think>c", "", "c");
    check(format, "", " <</think><think>", " <", "<think>");
    check(format, "…<think>\n\n</think>\n\n", "c <think>", "", "c <think>");
    check(format, "", "", "", "");
}

#[test]
fn qwen_reasons_where_the_tag_is() {
    for name in ["qwen3", "glm45", "mimo"] {
        let format = ReasoningFormat::by_name(name).unwrap();
        check(format, "", "<think>\na\n</think>\n\nc", "\na\n", "\n\nc");
        check(format, "", "\n <think>a</think>c", "a", "c");
        check(format, "", "plain", "", "plain");
        check(format, "", " \n<thin air", "", " \n<thin air");
        check(format, "", "c <think>x</think>", "", "c <think>x</think>");
        check(format, "", "<think>cut <", "cut <", "");
        check(format, "assistant\n<think>\n", "a</think>c", "a", "c");
        check(format, "assistant\n<think>\n\n</think>\n\n", "<think>c", "", "<think>c");
    }
    let mistral = ReasoningFormat::by_name("mistral").unwrap();
    check(mistral, "", "[THINK]a[[/THINK]c", "a[", "c");
    assert!(mistral.needs_special_tokens());
}

#[test]
fn names_are_known() {
    assert!(ReasoningFormat::NAMES.iter().all(|name| ReasoningFormat::by_name(name).is_some()));
    assert_eq!(ReasoningFormat::by_name("none"), None);
}

#[test]
fn it_is_known_where_the_answer_is() {
    let mut parser = ReasoningFormat::Qwen3.start("");
    assert!(parser.may_be_reasoning() && !parser.is_reasoning());
    parser.push("<think>", &mut |_| {}, &mut |_| {});
    assert!(parser.is_reasoning());
    parser.push("</think>", &mut |_| {}, &mut |_| {});
    assert!(!parser.may_be_reasoning() && !parser.is_reasoning());
    assert!(ReasoningFormat::DeepSeekR1.start("").is_reasoning());
}

/// Text of tags and parts of them.
pub(crate) fn text_of(parts: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(parts), 0..14).prop_map(|parts| parts.concat())
}

/// The text, cut at places given as fractions.
pub(crate) fn cut<'a>(text: &'a str, cuts: &[prop::sample::Index]) -> Vec<&'a str> {
    let places: Vec<usize> = text.char_indices().map(|(place, _)| place).chain([text.len()]).collect();
    let mut chosen: Vec<usize> = cuts.iter().map(|cut| places[cut.index(places.len())]).collect();
    chosen.extend([0, text.len()]);
    chosen.sort_unstable();
    chosen.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

proptest! {
    #[test]
    fn cuts_change_nothing_and_nothing_is_lost(
        answer in text_of(&["<think>", "</think>", "<", "</", "think>", " ", "\n", "a", "é🙂", "<th", "[THINK]", "[/THINK]", "["]),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        prompt in prop::sample::select(vec!["", "<think>\n", "<think>\n\n</think>\n\n"]),
        format in prop::sample::select(vec![ReasoningFormat::DeepSeekR1, ReasoningFormat::Qwen3, ReasoningFormat::Mistral]),
    ) {
        let whole = split(format, prompt, &[&answer]);
        prop_assert_eq!(&split(format, prompt, &cut(&answer, &cuts)), &whole);
        let (reasoning, content) = whole;
        prop_assert!(answer.ends_with(&content));
        let rest = &answer[..answer.len() - content.len()];
        let (start_tag, end_tag) = format.tags();
        let rest = rest.strip_suffix(end_tag).unwrap_or(rest);
        let inside = rest.trim_start().strip_prefix(start_tag).unwrap_or(rest);
        prop_assert!(reasoning == inside || reasoning == rest, "{:?} of {:?}", reasoning, answer);
    }
}
