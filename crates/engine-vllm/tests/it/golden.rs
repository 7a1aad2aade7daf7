//! Frames of every release, as the library that vLLM uses writes them (`tests/golden/make_frames.py`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use expect_test::{Expect, expect};
use wayfare_engine_vllm::wire::{
    EngineMessage, Greeting, GreetingStatus, Layout, ReadyMessage, RequestOutput,
};

/// Releases by which something changed.
pub(crate) const RELEASES: [&str; 8] = ["0.23", "0.25", "0.26", "0.28", "0.30", "0.31", "0.32", "0.33"];

/// The messages of a release: by name, the frames of each.
pub(crate) fn messages(release: &str) -> BTreeMap<String, Vec<Vec<u8>>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/frames-{release}.json"));
    let text = std::fs::read_to_string(&path).unwrap();
    let named: BTreeMap<String, Vec<String>> = serde_json::from_str(&text).unwrap();
    named.into_iter().map(|(name, frames)| (name, frames_of(&frames))).collect()
}

/// Frames that are written in hexadecimal.
pub(crate) fn frames_of(hex: &[String]) -> Vec<Vec<u8>> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    hex.iter().map(|frame| frame.as_bytes().chunks(2).map(byte).collect()).collect()
}

fn read(release: &str, name: &str) -> EngineMessage {
    let layout = Layout::of_version(Some(release), false).unwrap();
    let mut message = EngineMessage::default();
    message
        .read(&messages(release)[name], layout)
        .unwrap_or_else(|error| panic!("{release} {name}: {error}"));
    message
}

/// The message says the same in every release, as far as each can say it.
fn check(name: &str, expected: &Expect) {
    let shown: Vec<String> = RELEASES.iter().map(|release| show(&read(release, name))).collect();
    let newest = shown.last().unwrap();
    expected.assert_eq(newest);
    for (release, shown) in RELEASES.iter().zip(&shown) {
        // What came with a later release.
        let without_news = |text: &str| {
            let lines =
                text.lines().filter(|line| !line.contains(" iteration ") && !line.contains(" error "));
            lines.collect::<Vec<_>>().join("\n")
        };
        assert_eq!(without_news(shown), without_news(newest), "{release}");
    }
}

fn show(message: &EngineMessage) -> String {
    let mut text = format!("engine {} at {}\n", message.engine_index, message.timestamp);
    if let Some(stats) = &message.scheduler_stats {
        let (running, waiting, usage) = (stats.running, stats.waiting, stats.kv_cache_usage);
        let (queries, hits) = (stats.prefix_queries, stats.prefix_hits);
        writeln!(text, "  running {running} waiting {waiting} kv {usage} prefix {hits}/{queries}").unwrap();
        if let Some(iteration) = stats.iteration {
            let (prefill, decode) = (iteration.prefill_tokens, iteration.decode_tokens);
            writeln!(text, "  iteration prefill {prefill} decode {decode}").unwrap();
        }
    }
    message.outputs.iter().for_each(|output| show_output(&mut text, output));
    if let Some(utility) = &message.utility {
        writeln!(text, "  utility {} {:?}", utility.call_id, utility.failure).unwrap();
    }
    text
}

fn show_output(text: &mut String, output: &RequestOutput) {
    let id = output.id.map_or("-".to_owned(), |id| format!("{}/{}", id.slot, id.generation));
    write!(text, "  {id}: {:?}", output.tokens.as_slice()).unwrap();
    for event in &output.events {
        write!(text, " {:?}@{}", event.kind, event.timestamp).unwrap();
    }
    if let Some(prefill) = output.prefill {
        write!(text, " cached {}/{}", prefill.cached_tokens, prefill.prompt_tokens).unwrap();
    }
    if let Some(finish) = output.finish {
        write!(text, " {finish:?} by {:?}", output.stop).unwrap();
    }
    text.push('\n');
    if let Some(error) = &output.error {
        writeln!(text, "    error {}: {}", error.code, error.message).unwrap();
    }
    for token in &output.logprobs {
        writeln!(text, "    token {} {} rank {} top {:?}", token.token, token.logprob, token.rank, token.top)
            .unwrap();
    }
    let prompt = &output.prompt_logprobs;
    if let (Some(first), Some(last)) = (prompt.first(), prompt.last()) {
        let edge =
            |one: &wayfare_engine::TokenLogprobs| format!("{} {} #{}", one.token, one.logprob, one.rank);
        writeln!(text, "    prompt {} tokens, {} … {}", prompt.len(), edge(first), edge(last)).unwrap();
    }
}

#[test]
fn a_decode_step_is_read_in_every_layout() {
    check(
        "decode step of two requests",
        &expect![[r"
            engine 0 at 1000.5
              running 2 waiting 4 kv 0.25 prefix 16/40
              iteration prefill 24 decode 1
              0/0: [5]
              1/1: [70000]
        "]],
    );
}

#[test]
fn the_first_token_brings_events_cached_tokens_and_logprobs() {
    check(
        "first token",
        &expect![[r#"
        engine 0 at 1000.5
          3/2: [11] Queued@1000 Scheduled@1000.25 cached 16/40
            token 11 -0.25 rank 1 top [(11, -0.25), (12, -1.5)]
    "#]],
    );
}

#[test]
fn large_arrays_are_found_in_their_own_frames() {
    check(
        "prompt logprobs in frames of their own",
        &expect![[r#"
        engine 0 at 1001
          4/0: [1]
            prompt 40 tokens, 100 0 #1 … 139 -4.875 #40
    "#]],
    );
}

#[test]
fn a_preemption_and_its_resumption_arrive_together() {
    check(
        "resumed after a preemption",
        &expect![[r#"
        engine 1 at 1002
          5/0: [9, 8, 7] Preempted@1001 Scheduled@1001.5
    "#]],
    );
}

#[test]
fn every_end_is_told_from_the_others() {
    check(
        "ends",
        &expect![[r#"
        engine 0 at 1003
          0/0: [2] Stop by None
          1/0: [7] Stop by Some(Token(7))
          2/0: [1] Length by None
          3/0: [] Abort by None
          4/0: [] Error by None
            error validation_error: no such grammar
          5/0: [1] Repetition by Some(Named("repetition_detected"))
          -: [1]
    "#]],
    );
}

#[test]
fn fields_without_use_do_not_move_the_others() {
    check(
        "optional fields that are not used",
        &expect![[r#"
        engine 0 at 1004
          6/0: [4]
    "#]],
    );
}

#[test]
fn answers_to_utility_calls_are_read() {
    check(
        "answer to a utility call",
        &expect![[r#"
        engine 0 at 1005
          utility 12 None
    "#]],
    );
    check(
        "failed utility call",
        &expect![[r#"
        engine 0 at 1005
          utility 13 Some("no such method")
    "#]],
    );
}

#[test]
fn a_message_without_outputs_is_a_state() {
    check(
        "state only",
        &expect![[r#"
        engine 0 at 1006
          running 2 waiting 4 kv 0.25 prefix 16/40
          iteration prefill 24 decode 1
    "#]],
    );
}

#[test]
fn greetings_and_ready_messages_are_read() {
    for release in RELEASES {
        let messages = messages(release);
        let hello = Greeting::read(&messages["hello"][0]).unwrap();
        let ready = Greeting::read(&messages["ready greeting"][0]).unwrap();
        assert_eq!((hello.status, hello.config_hash), (Some(GreetingStatus::Hello), None));
        assert_eq!(
            (ready.status, ready.config_hash.as_deref()),
            (Some(GreetingStatus::Ready), Some("c0ffee"))
        );
        let ready = ReadyMessage::read(&messages["ready message"][0]).unwrap();
        assert_eq!(ready.vllm_version, Some(format!("{release}.0")));
        assert_eq!((ready.max_model_len, ready.block_size), (Some(2048), Some(16)));
        assert_eq!((ready.num_gpu_blocks, ready.max_num_seqs), (Some(512), Some(64)));
        assert_eq!(ready.max_num_batched_tokens, Some(4096));
        let has_ranks = !["0.23"].contains(&release);
        assert_eq!(ready.data_parallel_size, has_ranks.then_some(2), "{release}");
    }
}

#[test]
fn only_known_versions_are_taken_unless_told_otherwise() {
    for known in ["0.23.0", "0.25.1", "0.26.0rc1", "0.32.0+cpu", "0.33.1.dev5+gabc"] {
        assert!(Layout::of_version(Some(known), false).is_ok(), "{known}");
    }
    for unknown in [Some("0.22.9"), Some("0.34.0"), Some("1.0"), Some("dev"), Some(""), None] {
        let refusal = Layout::of_version(unknown, false).unwrap_err().to_string();
        assert!(refusal.contains("0.23 to 0.33") && refusal.contains("--allow-untested-vllm"), "{refusal}");
        assert!(Layout::of_version(unknown, true).is_ok(), "{unknown:?}");
    }
    assert_eq!(Layout::of_version(Some("0.25.1"), false), Ok(Layout::BeforeEcTransfer));
    assert_eq!(Layout::of_version(Some("0.26.0"), false), Ok(Layout::WithEcTransfer));
    assert_eq!(Layout::of_version(Some("0.40.0"), true), Ok(Layout::WithEcTransfer));
}

#[test]
fn without_a_version_the_length_of_an_output_tells_its_layout() {
    let name = "first token";
    for release in RELEASES {
        let mut message = EngineMessage::default();
        message.read(&messages(release)[name], Layout::ByLength).unwrap();
        assert_eq!(message, read(release, name), "{release}");
    }
}

#[test]
fn a_layout_that_contradicts_the_version_is_an_error() {
    let mut message = EngineMessage::default();
    let error = message.read(&messages("0.26")["first token"], Layout::BeforeEcTransfer).unwrap_err();
    expect!["an output has 14 fields, which the engine's version (before 0.26) does not send: the order of its fields is not known"]
        .assert_eq(&error.to_string());
}
