//! What an engine core is sent.

use std::fmt::Write as _;
use std::sync::Arc;

use expect_test::{Expect, expect};
use wayfare_engine::{
    EngineRequest, OutputConstraint, OutputGrammar, RequestId, SamplingParams, TokenConstraint, TokenRules,
    TokenSet,
};
use wayfare_engine_vllm::wire::{
    AddRequest, UtilityArgument, WireId, encode_abort, encode_add, encode_init, encode_utility,
};
use wayfare_journey::{MonoNs, RequestLabel};

fn request() -> EngineRequest {
    EngineRequest {
        id: RequestId(1),
        label: RequestLabel::new("cmpl-1"),
        prompt: Arc::from([1, 200, 70_000]),
        sampling: SamplingParams {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            seed: 5,
            seed_is_chosen: true,
            max_tokens: 16,
            end_of_text: Arc::from([]),
            stop_token_ids: Arc::from([]),
            rules: None,
            logprobs: None,
            prompt_logprobs: None,
        },
        constraint: None,
        priority: 0,
        cache_salt: None,
        arrived: MonoNs(0),
        core_span: None,
    }
}

fn encode(request: &EngineRequest) -> Vec<u8> {
    let id = WireId { slot: 2, generation: 3 };
    let rank = (request.priority != 0).then_some(1);
    let add =
        AddRequest { id, request, arrival_seconds: 1700.5, data_parallel_rank: rank, sends_own_seeds: false };
    encode_add(&add).unwrap()
}

/// The message as text, one line for each field.
fn show(frame: &[u8]) -> String {
    let mut rest = frame;
    let rmpv::Value::Array(fields) = rmpv::decode::read_value(&mut rest).unwrap() else { panic!("no array") };
    assert_eq!(rest, [0; 0], "bytes behind the message");
    let mut text = String::new();
    for (position, field) in fields.iter().enumerate() {
        match field {
            rmpv::Value::Map(entries) => {
                writeln!(text, "{position}:").unwrap();
                entries.iter().for_each(|(key, value)| writeln!(text, "    {key} {value}").unwrap());
            }
            other => writeln!(text, "{position}: {other}").unwrap(),
        }
    }
    text
}

fn check(request: &EngineRequest, expected: &Expect) {
    expected.assert_eq(&show(&encode(request)));
}

#[derive(Debug)]
struct Anything;

impl TokenConstraint for Anything {
    fn allow(&mut self, _: &mut TokenSet) -> Result<(), wayfare_engine::ConstraintError> {
        Ok(())
    }

    fn accept(&mut self, _: u32) -> Result<(), wayfare_engine::ConstraintError> {
        Ok(())
    }
}

#[test]
fn a_plain_request_has_the_fields_that_all_versions_have() {
    check(
        &request(),
        &expect![[r#"
        0: "0000000300000002"
        1: [1, 200, 70000]
        2: nil
        3:
            "temperature" 0
            "max_tokens" 16
        4: nil
        5: 1700.5
        6: nil
        7: nil
        8: nil
    "#]],
    );
}

#[test]
fn everything_a_request_can_ask_for_is_passed_on() {
    let plain = request();
    let rules = TokenRules {
        allowed: Some(vec![1, 2, 3]),
        bad_words: vec![vec![4], vec![5, 6]],
        min_tokens: 2,
        logit_bias: vec![(7, -1.5)],
        repetition_penalty: 1.1,
        frequency_penalty: 0.2,
        presence_penalty: -0.3,
    };
    let full = EngineRequest {
        sampling: SamplingParams {
            temperature: 0.7,
            top_p: 0.9,
            top_k: 40,
            min_p: 0.05,
            end_of_text: Arc::from([2, 3]),
            stop_token_ids: Arc::from([9]),
            rules: Some(Arc::new(rules)),
            logprobs: Some(0),
            prompt_logprobs: Some(4),
            ..plain.sampling
        },
        constraint: Some(OutputConstraint {
            grammar: OutputGrammar::Choice(Arc::from(["a".to_owned(), "b".to_owned()])),
            matcher: Box::new(Anything),
        }),
        priority: -4,
        cache_salt: Some(Arc::from("salt")),
        ..plain
    };
    check(
        &full,
        &expect![[r#"
        0: "0000000300000002"
        1: [1, 200, 70000]
        2: nil
        3:
            "temperature" 0.7
            "top_p" 0.9
            "top_k" 40
            "min_p" 0.05
            "seed" 5
            "max_tokens" 16
            "_eos_token_id" 2
            "stop_token_ids" [3, 9]
            "_all_stop_token_ids" [2, 3, 9]
            "logprobs" 0
            "prompt_logprobs" 4
            "presence_penalty" -0.3
            "frequency_penalty" 0.2
            "repetition_penalty" 1.1
            "min_tokens" 2
            "logit_bias" {7: -1.5}
            "allowed_token_ids" [1, 2, 3]
            "_bad_words_token_ids" [[4], [5, 6]]
            "structured_outputs" {"choice": ["a", "b"], "_backend": "guidance"}
        4: nil
        5: 1700.5
        6: nil
        7: "salt"
        8: 1
        9: nil
        10: nil
        11: 0
        12: 0
        13: -4
    "#]],
    );
}

/// A generator for each request is slow on a GPU, so only those get one that need it.
#[test]
fn only_a_chosen_seed_is_sent() {
    let request = |temperature, seed_is_chosen| {
        let plain = request();
        EngineRequest { sampling: SamplingParams { temperature, seed_is_chosen, ..plain.sampling }, ..plain }
    };
    let has_seed = |request: &EngineRequest| show(&encode(request)).contains("\"seed\" 5");
    assert!(has_seed(&request(1.0, true)));
    assert!(!has_seed(&request(1.0, false)));
    assert!(!has_seed(&request(0.0, true)), "the most likely token needs no random numbers");
}

#[test]
fn each_grammar_goes_under_its_name_and_with_a_backend() {
    let grammars = [
        OutputGrammar::JsonObject,
        OutputGrammar::JsonSchema(Arc::from(r#"{"type":"object"}"#)),
        OutputGrammar::Regex(Arc::from("[0-9]+")),
        OutputGrammar::Grammar(Arc::from("root ::= \"a\"")),
    ];
    let shown = grammars.map(|grammar| {
        let constraint = Some(OutputConstraint { grammar, matcher: Box::new(Anything) });
        let text = show(&encode(&EngineRequest { constraint, ..request() }));
        text.lines().find(|line| line.contains("structured_outputs")).unwrap().trim().to_owned()
    });
    expect![[r#"
        "structured_outputs" {"json_object": true, "_backend": "guidance"}
        "structured_outputs" {"json": "{\"type\":\"object\"}", "_backend": "guidance"}
        "structured_outputs" {"regex": "[0-9]+", "_backend": "guidance"}
        "structured_outputs" {"grammar": "root ::= \"a\"", "_backend": "guidance"}"#]]
    .assert_eq(&shown.join("\n"));
}

#[test]
fn what_would_kill_the_engine_is_refused() {
    type Change = fn(&mut SamplingParams);
    let changes: [Change; 6] = [
        |sampling| sampling.temperature = 2.5,
        |sampling| sampling.temperature = f32::NAN,
        |sampling| sampling.top_p = 0.0,
        |sampling| sampling.max_tokens = 0,
        |sampling| {
            sampling.rules = Some(Arc::new(TokenRules { presence_penalty: 3.0, ..TokenRules::default() }))
        },
        |sampling| sampling.rules = Some(Arc::new(TokenRules { min_tokens: 17, ..TokenRules::default() })),
    ];
    let refusals = changes.map(|change| {
        let mut request = request();
        change(&mut request.sampling);
        let id = WireId { slot: 0, generation: 0 };
        let add = AddRequest {
            id,
            request: &request,
            arrival_seconds: 0.0,
            data_parallel_rank: None,
            sends_own_seeds: false,
        };
        encode_add(&add).unwrap_err().to_string()
    });
    expect![[r#"
        vLLM does not take a temperature of 2.5; at most 2
        vLLM does not take a temperature of NaN; at most 2
        vLLM does not take a top_p of 0; above 0 and at most 1
        vLLM does not take a request for no tokens
        vLLM does not take a presence_penalty of 3; from -2 to 2
        vLLM does not take a min_tokens of 17 with a max_tokens below"#]]
    .assert_eq(&refusals.join("\n"));
}

#[test]
fn the_smaller_messages_are_as_documented() {
    let ids = [WireId { slot: 1, generation: 0 }, WireId { slot: 0x10, generation: 0xab }];
    let arguments = [UtilityArgument::Text("keep"), UtilityArgument::Flag(true)];
    let value = |frame: Vec<u8>| rmpv::decode::read_value(&mut &*frame).unwrap().to_string();
    let shown = [
        value(encode_abort(&ids)),
        value(encode_utility(7, "pause_scheduler", &arguments)),
        value(encode_init("tcp://10.0.0.1:5000", "tcp://10.0.0.1:5001")),
    ];
    expect![[r#"
        ["0000000000000001", "000000ab00000010"]
        [0, 7, "pause_scheduler", ["keep", true]]
        {"addresses": {"inputs": ["tcp://10.0.0.1:5000"], "outputs": ["tcp://10.0.0.1:5001"], "coordinator_input": nil, "coordinator_output": nil, "frontend_stats_publish_address": nil}, "parallel_config": {}}"#]].assert_eq(&shown.join("\n"));
}
