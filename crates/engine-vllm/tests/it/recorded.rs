//! What a real engine core of vLLM 0.32.0 said (`tests/golden/record_frames.py`): read, and said again by one that is played.

use std::collections::BTreeMap;
use std::path::Path;

use expect_test::expect;
use wayfare_engine::{Engine as _, EngineRequest, FinishReason, SamplingParams};
use wayfare_engine_vllm::wire::{
    EngineEventKind, EngineMessage, Greeting, GreetingStatus, Layout, ReadyMessage, RequestOutput,
};

use crate::golden::frames_of;
use crate::journeys::{check_rules, core, kinds};
use crate::rig::Rig;

const PROMPT: [u32; 56] = [10; 56];

/// By the name of a situation, its messages, each of one or several frames.
fn recorded() -> BTreeMap<String, Vec<Vec<Vec<u8>>>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/recorded-0.32.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let named: BTreeMap<String, Vec<Vec<String>>> = serde_json::from_str(&text).unwrap();
    let messages = |messages: Vec<Vec<String>>| messages.iter().map(|frames| frames_of(frames)).collect();
    named.into_iter().map(|(name, of_name)| (name, messages(of_name))).collect()
}

fn read(frames: &[Vec<u8>]) -> EngineMessage {
    let mut message = EngineMessage::default();
    message.read(frames, Layout::of_version(Some("0.32.0"), false).unwrap()).unwrap();
    let mut by_length = EngineMessage::default();
    by_length.read(frames, Layout::ByLength).unwrap();
    assert_eq!(message, by_length, "its length tells its layout, too");
    message
}

/// The messages of a situation, a line for each that tells more than a token of each request.
fn shown(name: &str) -> String {
    let mut text = String::new();
    for message in recorded()[name].iter().map(|frames| read(frames)) {
        let outputs = message.outputs.iter();
        let is_news = |output: &&RequestOutput| {
            !output.events.is_empty() || output.finish.is_some() || !output.logprobs.is_empty()
        };
        for output in outputs.filter(is_news) {
            let events: Vec<EngineEventKind> = output.events.iter().map(|event| event.kind).collect();
            let cached = output.prefill.map(|prefill| (prefill.cached_tokens, prefill.prompt_tokens));
            let id = output.id.unwrap();
            let (logprobs, prompt) = (output.logprobs.len(), output.prompt_logprobs.len());
            text += &format!(
                "{}: {:?} {events:?} {:?} cached {cached:?} logprobs {logprobs} of the prompt {prompt}\n",
                id.slot, &*output.tokens, output.finish
            );
        }
    }
    text
}

#[test]
fn greetings_and_the_ready_message_are_read() {
    let recorded = recorded();
    let greeting = |name: &str| Greeting::read(&recorded[name][0][0]).unwrap();
    assert_eq!(greeting("hello").status, Some(GreetingStatus::Hello));
    assert_eq!(greeting("ready greeting").status, Some(GreetingStatus::Ready));
    let ready = ReadyMessage::read(&recorded["ready message"][0][0]).unwrap();
    let expected = ReadyMessage {
        vllm_version: Some("0.32.0".to_owned()),
        max_model_len: Some(96),
        num_gpu_blocks: Some(6),
        block_size: Some(32),
        max_num_seqs: Some(4),
        max_num_batched_tokens: Some(384),
        data_parallel_size: Some(1),
    };
    assert_eq!(ready, expected);
}

#[test]
fn outputs_and_events_are_read() {
    expect![[r#"
        0: [111] [Queued, Scheduled] None cached Some((0, 56)) logprobs 0 of the prompt 0
        0: [124] [] Some(Length) cached None logprobs 0 of the prompt 0
    "#]]
    .assert_eq(&shown("plain"));
    expect![[r#"
        1: [82] [Queued, Scheduled] None cached Some((0, 56)) logprobs 1 of the prompt 55
        1: [676] [] Some(Length) cached None logprobs 1 of the prompt 0
    "#]]
    .assert_eq(&shown("logprobs"));
    expect![[r#"
        2: [111] [Queued, Scheduled] Some(Length) cached Some((32, 56)) logprobs 0 of the prompt 0
    "#]]
    .assert_eq(&shown("cached"));
    expect![[r#"
        3: [216] [Queued, Scheduled] None cached Some((0, 56)) logprobs 0 of the prompt 0
        4: [446] [Queued, Scheduled] None cached Some((0, 56)) logprobs 0 of the prompt 0
        3: [33] [] Some(Length) cached None logprobs 0 of the prompt 0
        4: [447] [Preempted, Scheduled] None cached None logprobs 0 of the prompt 0
        4: [447] [] Some(Length) cached None logprobs 0 of the prompt 0
    "#]]
    .assert_eq(&shown("preempted"));
}

#[test]
fn states_are_read() {
    let states =
        recorded()["preempted"].iter().filter_map(|frames| read(frames).scheduler_stats).collect::<Vec<_>>();
    let first = states[1];
    assert_eq!((first.running, first.kv_cache_usage, first.prefix_queries), (2, 0.8, 112));
    let iteration = first.iteration.unwrap();
    assert_eq!((iteration.prefill_tokens, iteration.decode_tokens), (112, 0));
    assert!(states.iter().any(|state| state.running == 1 && state.waiting == 1), "one was preempted");
    assert_eq!(states.last().unwrap().running, 0);
}

#[test]
fn answers_to_calls_are_read() {
    let recorded = recorded();
    let answer = |name: &str| read(&recorded[name][0]).utility.unwrap();
    let (done, failed) = (answer("utility"), answer("failed utility"));
    assert_eq!((done.call_id, done.failure), (9, None));
    assert_eq!(failed.call_id, 10);
    assert!(failed.failure.unwrap().contains("no_such_method"));
}

#[test]
fn journeys_are_told_as_they_were() {
    let mut rig = Rig::new();
    // The names are those of the recording: places 0 to 4, each for the first time.
    for id in 0..5 {
        let request = rig.request(id, &PROMPT);
        let logprobs = |wanted: u32| (id == 1).then_some(wanted);
        let sampling = SamplingParams {
            logprobs: logprobs(2),
            prompt_logprobs: logprobs(1),
            max_tokens: 24,
            ..request.sampling
        };
        rig.engine.submit(EngineRequest { sampling, ..request }).unwrap();
        rig.peers[0].added();
    }
    let recorded = recorded();
    for frames in ["plain", "logprobs", "cached", "preempted"].into_iter().flat_map(|name| &recorded[name]) {
        rig.peers[0].frames(frames);
    }
    let mut ends = BTreeMap::new();
    let mut details = None;
    while ends.len() < 5 {
        for output in rig.next_step().outputs {
            details = details.or_else(|| output.details.filter(|details| details.prompt_logprobs.is_some()));
            ends.extend(output.finish.map(|finish| (output.id.0, finish)));
        }
    }
    assert!(ends.values().all(|finish| finish.reason == FinishReason::Length));
    let preemptions: Vec<u64> = ends.values().map(|finish| finish.num_preemptions.into()).collect();
    assert_eq!(preemptions, [0, 0, 0, 0, 1]);
    let details = details.expect("they were asked for");
    assert_eq!((details.logprobs.len(), details.prompt_logprobs.unwrap().len()), (1, 55));
    let stats = rig.engine.stats();
    assert_eq!((stats.preemptions, stats.prefix_cache_hits, stats.running), (1, 32, 0));
    let mut told = BTreeMap::new();
    for _ in 0..5 {
        let journey = rig.journey();
        check_rules(core(&journey));
        *told.entry(kinds(core(&journey)).join(" ")).or_insert(0) += 1;
    }
    let expected =
        [("QUEUED FIRST FIRST_TOKEN PREEMPTED RESUME length", 1), ("QUEUED FIRST FIRST_TOKEN length", 4)];
    assert_eq!(told, expected.map(|(kinds, count)| (kinds.to_owned(), count)).into());
}
