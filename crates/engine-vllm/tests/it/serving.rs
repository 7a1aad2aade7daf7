//! Requests and their outputs, with an engine core that does what the test says.

use std::sync::Arc;

use serde_json::{Value, json};
use wayfare_engine::{
    AbortCause, Engine as _, EngineRequest, FinishReason, RequestId, SamplingParams, SubmitError, Terminator,
    TokenLogprobs,
};

use crate::rig::{END_OF_TEXT, Rig};

fn tokens(name: &str, tokens: &[u32]) -> Value {
    json!({ "request_id": name, "new_token_ids": tokens })
}

fn ending(name: &str, tokens: &[u32], finish: u32, stop: Option<u32>) -> Value {
    json!({ "request_id": name, "new_token_ids": tokens, "finish_reason": finish, "stop_reason": stop })
}

#[test]
fn tokens_come_in_steps_up_to_the_end() {
    let mut rig = Rig::new();
    rig.submit(1, &[10, 11, 12]).unwrap();
    rig.submit(2, &[20]).unwrap();
    let (first, second) = (rig.peers[0].added(), rig.peers[0].added());
    assert_ne!(first, second);
    rig.peers[0].step(&json!([tokens(&first, &[5]), tokens(&second, &[6])]));
    let step = rig.next_step();
    let shown: Vec<_> = step.outputs.iter().map(|output| (output.id.0, output.tokens.to_vec())).collect();
    assert_eq!(shown, [(1, vec![5]), (2, vec![6])]);
    assert!(step.outputs.iter().all(|output| output.first.is_some() && output.finish.is_none()));
    rig.peers[0].step(&json!([tokens(&first, &[7, 8]), ending(&second, &[9], 1, None)]));
    let (more, finish) = rig.finish_of(2);
    assert_eq!((more, finish.reason, finish.terminator), (vec![9], FinishReason::Length, None));
    rig.peers[0].step(&json!([ending(&first, &[END_OF_TEXT], 0, None)]));
    let (_, finish) = rig.finish_of(1);
    assert_eq!((finish.reason, finish.terminator), (FinishReason::Stop, Some(Terminator::EndOfText)));
    assert_eq!(rig.engine.stats().generation_tokens, 6);
}

#[test]
fn a_request_arrives_as_it_was_meant() {
    let rig = Rig::new();
    let plain = rig.request(1, &[10, 999]);
    let request = EngineRequest {
        priority: -7,
        cache_salt: Some(Arc::from("mine")),
        sampling: SamplingParams { temperature: 0.7, stop_token_ids: Arc::from([77]), ..plain.sampling },
        ..plain
    };
    rig.engine.submit(request).unwrap();
    let added = rig.peers[0].expect("add");
    assert_eq!(added["prompt_token_ids"], json!([10, 999]));
    assert_eq!(added["priority"], -7);
    assert_eq!(added["cache_salt"], "mine");
    // There is only one, so it needs not be named.
    assert_eq!(added["data_parallel_rank"], Value::Null);
    let sampling = &added["sampling_params"];
    assert_eq!((&sampling["temperature"], &sampling["max_tokens"]), (&json!(0.7), &json!(8)));
    assert_eq!((&sampling["_eos_token_id"], &sampling["stop_token_ids"]), (&json!(2), &json!([77])));
    let arrived = added["arrival_time"].as_f64().unwrap();
    // Some time after this was written.
    assert!(arrived > 1.7e9, "{arrived}");
}

#[test]
fn a_stop_token_is_told_from_the_end_of_text() {
    let mut rig = Rig::new();
    rig.submit(1, &[10]).unwrap();
    let name = rig.peers[0].added();
    rig.peers[0].step(&json!([ending(&name, &[77], 0, Some(77))]));
    let (_, finish) = rig.finish_of(1);
    assert_eq!(finish.terminator, Some(Terminator::StopToken(77)));
}

#[test]
fn an_aborted_request_ends_at_once_and_its_late_outputs_go_nowhere() {
    let mut rig = Rig::new();
    rig.submit(1, &[10]).unwrap();
    let name = rig.peers[0].added();
    rig.engine.abort(RequestId(1), AbortCause::ClientGone);
    let output = rig.next_output();
    assert_eq!(output.finish.unwrap().reason, FinishReason::Abort);
    assert_eq!(rig.peers[0].expect("abort")["ids"], json!([name]));
    // Twice, and of nobody: nothing happens.
    rig.engine.abort(RequestId(1), AbortCause::ClientGone);
    rig.engine.finish(RequestId(99));
    // The place is used again, and the late output is not taken for the new request's.
    rig.submit(2, &[20]).unwrap();
    let other = rig.peers[0].added();
    rig.peers[0].step(&json!([tokens(&name, &[5]), tokens(&other, &[6])]));
    let output = rig.next_output();
    assert_eq!((output.id.0, output.tokens.to_vec()), (2, vec![6]));
}

#[test]
fn a_stop_string_ends_a_request_as_stopped() {
    let rig = Rig::new();
    rig.submit(1, &[10]).unwrap();
    let name = rig.peers[0].added();
    rig.engine.finish(RequestId(1));
    assert_eq!(rig.next_output().finish.unwrap().reason, FinishReason::Stop);
    assert_eq!(rig.peers[0].expect("abort")["ids"], json!([name]));
}

#[test]
fn what_the_engine_cannot_take_is_refused_before_it_gets_it() {
    let rig = Rig::new();
    let long = vec![1; 300];
    assert!(matches!(rig.submit(1, &long), Err(SubmitError::PromptTooLong { limit: 256, .. })));
    assert!(matches!(rig.submit(2, &[5000]), Err(SubmitError::InvalidPrompt(_))));
    let plain = rig.request(3, &[10]);
    let hot = EngineRequest { sampling: SamplingParams { temperature: 9.0, ..plain.sampling }, ..plain };
    let refusal = rig.engine.submit(hot).unwrap_err().to_string();
    assert!(refusal.contains("temperature of 9"), "{refusal}");
    // It was sent none of them.
    rig.submit(4, &[11]).unwrap();
    assert_eq!(rig.peers[0].expect("add")["prompt_token_ids"], json!([11]));
}

#[test]
fn log_probabilities_are_those_of_the_tokens() {
    let mut rig = Rig::new();
    let plain = rig.request(1, &[10]);
    let request = EngineRequest { sampling: SamplingParams { logprobs: Some(1), ..plain.sampling }, ..plain };
    rig.engine.submit(request).unwrap();
    let name = rig.peers[0].added();
    // The message of the golden frames, under this request's name.
    let mut frame = crate::golden::messages("0.32")["first token"][0].clone();
    let place = frame.windows(16).position(|window| window == b"0000000200000003").unwrap();
    frame[place..place + 16].copy_from_slice(name.as_bytes());
    rig.peers[0].raw(&frame);
    let output = rig.next_output();
    let expected = TokenLogprobs { token: 11, logprob: -0.25, rank: 1, top: vec![(11, -0.25), (12, -1.5)] };
    assert_eq!(output.details.unwrap().logprobs, [expected]);
    assert_eq!(output.first.unwrap().cached_tokens, 1, "of a prompt of one token no more can be cached");
}

#[test]
fn the_state_of_the_engine_is_what_it_says() {
    let mut rig = Rig::new();
    let stats = json!({
        "num_running_reqs": 3, "num_waiting_reqs": 2, "num_skipped_waiting_reqs": 1, "kv_cache_usage": 0.25,
        "prefix_cache_stats": { "queries": 40, "hits": 16 },
    });
    rig.peers[0].tell(&json!({ "do": "outputs", "outputs": [], "stats": stats }));
    rig.next();
    let stats = rig.engine.stats();
    assert_eq!((stats.running, stats.waiting), (3, 3));
    assert_eq!((stats.kv_blocks_used, stats.kv_blocks_total), (16, 64));
    assert_eq!((stats.prefix_cache_queries, stats.prefix_cache_hits), (40, 16));
    assert_eq!(stats.steps, 1);
}

#[test]
fn limits_are_those_of_the_ready_message() {
    let rig = Rig::new();
    let limits = rig.engine.limits();
    assert_eq!((limits.max_model_len, limits.max_num_seqs, limits.max_num_batched_tokens), (256, 8, 512));
    assert_eq!((limits.block_size, limits.num_kv_blocks, limits.vocab_size), (16, 64, 1000));
}
