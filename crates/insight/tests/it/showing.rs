use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::json;
use wayfare_insight::{TracedJourney, read_journeys, waterfall};

use crate::rig::{core, journey, reference_journey, request, text};

#[expect(clippy::needless_pass_by_value, reason = "`expect!` makes a value")]
fn check(journey: &TracedJourney, width: usize, expected: Expect) {
    expected.assert_eq(&shown(journey, width, false));
}

fn shown(journey: &TracedJourney, width: usize, color: bool) -> String {
    let picture = waterfall(journey, width, color);
    if !color {
        let widest = picture.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        assert!(widest <= width.clamp(40, 400), "{widest} of {width}:\n{picture}");
    }
    picture
}

#[test]
fn a_preempted_request() {
    check(
        &reference_journey("chatcmpl-ab05b8a21977c252"),
        100,
        expect![[r#"
            chatcmpl-ab05b8a21977c252  /v1/chat/completions  departed
            187 prompt tokens  150 output tokens  ttft 6.11 s  e2e 11.64 s  2 preemptions

                          0 ms                                       5.82 s                              11.64 s
                          ├──────────────────────────────────────────┼─────────────────────────────────────────┤
            llm_request   ╌━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━»
            llm_core      ···································▒╳╳╳╳╳╳╳╳╳████████╳╳╳╳╳╳╳╳╳╳███████████████████████
                          ╌ prepare  ━ in the engine  » deliver  · queue  ▒ prefill  █ decode  ╳ preempted

                +0.043 ms  api   ARRIVED
                +0.184 ms  api   HANDOFF_TO_CORE
              +113.069 ms  core  QUEUED              step 153  prefill 0/187  decode 0/150
             +4817.524 ms  core  SCHEDULED first     step 290  prefill 0/187  decode 0/150
             +4939.504 ms  core  PREEMPTED           step 291  prefill 98/187  decode 0/150  preemption 1
             +6024.302 ms  core  SCHEDULED resume    step 327  prefill 98/187  decode 0/150
             +6112.881 ms  core  FIRST_TOKEN         step 327  prefill 187/187  decode 1/150
             +6114.245 ms  api   FIRST_RESPONSE
             +7272.079 ms  core  PREEMPTED           step 365  prefill 187/187  decode 38/150  preemption 2
             +8470.730 ms  core  SCHEDULED resume    step 407  prefill 187/187  decode 38/150
            +11640.092 ms  core  FINISHED length     step 518  prefill 187/187  decode 150/150
            +11641.591 ms  api   DEPARTED
        "#]],
    );
}

#[test]
fn preemptions_that_were_folded() {
    let number = |key: &str, value: u64| json!({"key": key, "value": {"intValue": value.to_string()}});
    let kind = |value| text("schedule.kind", value);
    let folded = [
        number("num_preemptions", 41),
        number("journey.folded", 40),
        number("journey.folded_preempted_ns", 900_000),
        number("tokens_lost", 4_000),
    ];
    let shown_journey = journey(&[core(
        0,
        10_000_000,
        &[
            ("journey.QUEUED", 0, json!([])),
            ("journey.SCHEDULED", 1_000_000, json!([kind("FIRST")])),
            ("journey.PREEMPTED", 2_000_000, json!([number("num_preemptions", 1)])),
            ("journey.SCHEDULED", 3_000_000, json!([kind("RESUME")])),
            ("journey.PREEMPTED", 4_000_000, json!(folded)),
            ("journey.SCHEDULED", 7_000_000, json!([kind("RESUME")])),
            ("journey.FINISHED", 10_000_000, json!([text("finish.status", "length")])),
        ],
    )]);
    assert_eq!(shown_journey.preemptions(), 41);
    check(
        &shown_journey,
        90,
        expect![[r#"
        trace 11111111111111111111111111111111  no llm_request span
        41 preemptions

                      0 ms                                  5.00 ms                        10.0 ms
                      ├─────────────────────────────────────┼────────────────────────────────────┤
        llm_core      ········▒▒▒▒▒▒▒╳╳╳╳╳╳╳╳▒▒▒▒▒▒▒╬╬╬╬╬╬╬╬╬╬╬╬╬╬╬╬╬╬╬╬╬╬╬▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒
                      · queue  ▒ prefill  ╳ preempted  ╬ preempted and resumed repeatedly

            +0.000 ms  core  QUEUED
            +1.000 ms  core  SCHEDULED first
            +2.000 ms  core  PREEMPTED           preemption 1
            +3.000 ms  core  SCHEDULED resume
            +4.000 ms  core  PREEMPTED           preemption 41  stands for 40  4000 tokens lost
            +7.000 ms  core  SCHEDULED resume
           +10.000 ms  core  FINISHED length
    "#]],
    );
}

#[test]
fn two_sequences() {
    check(
        &reference_journey("chatcmpl-bd0bff420f087f31"),
        100,
        expect![[r#"
            chatcmpl-bd0bff420f087f31  /v1/chat/completions  departed
            53 prompt tokens  24 output tokens  ttft 42.4 ms  e2e 487.4 ms  2 sequences

                          0 ms                                       243.7 ms                           487.4 ms
                          ├──────────────────────────────────────────┼─────────────────────────────────────────┤
            llm_request   ╌━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━»
            llm_core 0    ·▒▒▒▒▒▒███████████████████████████████████████████████████████████████████████████
            llm_core 1           ·▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒████████████████████████████████████████████████████
                          ╌ prepare  ━ in the engine  » deliver  · queue  ▒ prefill  █ decode

                +0.051 ms  api     ARRIVED
                +0.310 ms  api     HANDOFF_TO_CORE
                +1.306 ms  core 0  QUEUED              step 102  prefill 0/53  decode 0/12
                +1.486 ms  core 0  SCHEDULED first     step 103  prefill 0/53  decode 0/12
               +42.438 ms  core 0  FIRST_TOKEN         step 103  prefill 53/53  decode 1/12
               +42.774 ms  core 1  QUEUED              step 103  prefill 0/53  decode 0/12
               +42.902 ms  core 1  SCHEDULED first     step 104  prefill 0/53  decode 0/12
              +193.348 ms  core 1  FIRST_TOKEN         step 104  prefill 53/53  decode 1/12
              +460.864 ms  core 0  FINISHED length     step 114  prefill 53/53  decode 12/12
              +486.104 ms  core 1  FINISHED length     step 115  prefill 53/53  decode 12/12
              +487.140 ms  api     FIRST_RESPONSE
              +487.394 ms  api     DEPARTED
        "#]],
    );
}

#[test]
fn a_client_that_left_while_the_answer_was_generated() {
    check(
        &reference_journey("chatcmpl-9fec25882b2e5738"),
        100,
        expect![[r#"
        chatcmpl-9fec25882b2e5738  /v1/chat/completions  aborted: client_disconnect (Client disconnected)
        72 prompt tokens  4 output tokens  ttft 52.5 ms  e2e 137.3 ms

                      0 ms                                       94.9 ms                            189.7 ms
                      ├──────────────────────────────────────────┼─────────────────────────────────────────┤
        llm_request   ╌━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━
        llm_core      ?·▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒██████████████████████████████████████████████████████████████
                      ╌ prepare  ━ in the engine  · queue  ▒ prefill  █ decode  ? not known

            +0.067 ms  api   ARRIVED
            +0.309 ms  api   HANDOFF_TO_CORE
            +2.301 ms  core  QUEUED              step 147  prefill 0/72  decode 0/300
            +2.467 ms  core  SCHEDULED first     step 148  prefill 0/72  decode 0/300
           +52.489 ms  core  FIRST_TOKEN         step 148  prefill 72/72  decode 1/300
           +53.543 ms  api   FIRST_RESPONSE
          +137.231 ms  api   ABORTED             client_disconnect  Client disconnected
          +189.660 ms  core  FINISHED aborted    step 152  prefill 72/72  decode 4/300
    "#]],
    );
}

#[test]
fn a_client_that_left_the_queue() {
    check(
        &reference_journey("chatcmpl-8cebbc19c2a421cf"),
        80,
        expect![[r#"
            chatcmpl-8cebbc19c2a421cf  /v1/chat/completions
            aborted: client_disconnect (Client disconnected)
            222 prompt tokens  0 output tokens  e2e 3.97 s

                          0 ms                             1.99 s                     3.97 s
                          ├────────────────────────────────┼───────────────────────────────┤
            llm_request   ╌━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━
            llm_core       ·································································
                          ╌ prepare  ━ in the engine  · queue

                +0.025 ms  api   ARRIVED
                +0.099 ms  api   HANDOFF_TO_CORE
              +102.904 ms  core  QUEUED              step 520  prefill 0/222  decode 0/150
             +3966.935 ms  api   ABORTED             client_disconnect  Client disconnected
             +3973.809 ms  core  FINISHED aborted    step 630  prefill 0/222  decode 0/150
        "#]],
    );
}

#[test]
fn an_engine_that_died() {
    check(
        &reference_journey("chatcmpl-9808337b2aab5749"),
        80,
        expect![[r#"
            chatcmpl-9808337b2aab5749  /v1/chat/completions
            aborted: exception (EngineCore encountered an issue. See stack trace (above) fo…
            192 prompt tokens  e2e 250.9 ms
            no llm_core span, although the engine had the request

                          0 ms                             125.5 ms                 250.9 ms
                          ├────────────────────────────────┼───────────────────────────────┤
            llm_request   ╌━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━
                          ╌ prepare  ━ in the engine

                +0.020 ms  api  ARRIVED
                +0.081 ms  api  HANDOFF_TO_CORE
              +250.889 ms  api  ABORTED             exception  EngineCore encountered an is…
        "#]],
    );
}

#[test]
fn a_narrow_terminal() {
    check(
        &reference_journey("chatcmpl-ab05b8a21977c252"),
        10,
        expect![[r#"
            chatcmpl-ab05b8a21977c252
            /v1/chat/completions  departed
            187 prompt tokens  150 output tokens
            ttft 6.11 s  e2e 11.64 s  2 preemptions

                          0 ms               11.64 s
                          ├────────────┼───────────┤
            llm_request   ╌━━━━━━━━━━━━━━━━━━━━━━━━»
            llm_core      ··········▒╳╳╳██╳╳╳███████
                          ╌ prepare  ━ in the engine
                          » deliver  · queue
                          ▒ prefill  █ decode
                          ╳ preempted

                +0.043 ms  api   ARRIVED
                +0.184 ms  api   HANDOFF_TO_CORE
              +113.069 ms  core  QUEUED            …
             +4817.524 ms  core  SCHEDULED first   …
             +4939.504 ms  core  PREEMPTED         …
             +6024.302 ms  core  SCHEDULED resume  …
             +6112.881 ms  core  FIRST_TOKEN       …
             +6114.245 ms  api   FIRST_RESPONSE
             +7272.079 ms  core  PREEMPTED         …
             +8470.730 ms  core  SCHEDULED resume  …
            +11640.092 ms  core  FINISHED length   …
            +11641.591 ms  api   DEPARTED
        "#]],
    );
}

#[test]
fn what_our_own_files_say_more() {
    let journeys = read_journeys(include_str!("../data/own.jsonl").as_bytes()).unwrap();
    assert_eq!(journeys.len(), 2);
    for journey in &journeys {
        match journey.request_id() {
            Some(_) => check(
                journey,
                130,
                expect![[r#"
                    chatcmpl-1  /v1/chat/completions  200 departed
                    10 prompt tokens  5 output tokens  ttft 50.0 ms  e2e 100.0 ms  1 preemption

                                  0 ms                                                      50.0 ms                                           100.0 ms
                                  ├─────────────────────────────────────────────────────────┼────────────────────────────────────────────────────────┤
                    llm_request   ╌╌╌╌╌╌╌╌╌━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━»»»»»»»»»»»»
                    llm_core                 ············▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒███████████╳╳╳╳╳╳╳╳╳╳╳╳╳███████████████████████
                                  ╌ prepare  ━ in the engine  » deliver  · queue  ▒ prefill  █ decode  ╳ preempted

                    ledger        100.0 ms in all
                                  receive 1.00 ms 1.0 %  prepare 4.00 ms 4.0 %  admit 5.00 ms 5.0 %
                                  queue 10.0 ms (token_budget 6.00 ms, head_of_line 3.00 ms) 10.0 %  prefill 30.0 ms 30.0 %  decode 17.0 ms 17.0 %
                                  interference 4.00 ms 4.0 %  preempted 10.0 ms 10.0 %  recompute 9.00 ms 9.0 %  deliver 10.0 ms 10.0 %

                        +0.000 ms  api   ARRIVED
                        +8.000 ms  api   HANDOFF_TO_CORE     10 prompt tokens
                       +10.000 ms  core  QUEUED              step 6  prefill 0/10  decode 0/5
                       +20.000 ms  core  SCHEDULED first     step 7  prefill 4/10  decode 0/5  computes 6  cached 4  waited for token_budget by chatc…
                       +50.000 ms  core  FIRST_TOKEN         step 7  prefill 10/10  decode 1/5
                       +51.000 ms  api   FIRST_RESPONSE
                       +60.000 ms  core  PREEMPTED           step 9  prefill 10/10  decode 3/5  preemption 1  for chatcmpl-other  12 tokens lost  1 b…
                       +70.000 ms  core  SCHEDULED resume    step 12  prefill 10/10  decode 3/5  computes 13  cached 4
                       +90.000 ms  core  FINISHED length     step 14  prefill 10/10  decode 5/5
                       +95.000 ms  api   DEPARTED            status 200
                "#]],
            ),
            None => check(
                journey,
                80,
                expect![[r#"
                trace c03128ea884768e6b9c0db4de07910e7  /v1/chat/completions
                400 aborted: validation_error (the body is not JSON)
                e2e 3.00 ms

                              0 ms                             1.50 ms                   3.00 ms
                              ├────────────────────────────────┼───────────────────────────────┤
                llm_request   ╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌╌
                              ╌ prepare

                    +0.000 ms  api  ARRIVED
                    +3.000 ms  api  ABORTED             validation_error  the body is not JSON
            "#]],
            ),
        }
    }
}

#[test]
fn a_long_list_of_preemptions_is_shortened() {
    let mut events = vec![("journey.QUEUED", 0, json!([]))];
    for number in 0..500 {
        events.push(("journey.SCHEDULED", 10 * number, json!([])));
        events.push(("journey.PREEMPTED", 10 * number + 5, json!([])));
    }
    let picture = shown(&journey(&[request(5000, &[]), core(0, 5000, &events)]), 80, false);
    assert!(picture.contains("…  959 more events, 480 of them PREEMPTED"), "{picture}");
    assert!(picture.contains("500 preemptions"), "{picture}");
    assert!(picture.lines().count() < 60);
}

#[test]
fn many_sequences_are_shortened() {
    let mut spans = vec![request(5000, &[])];
    spans.extend((0..100).map(|index| core(index, 4000, &[("journey.QUEUED", 0, json!([]))])));
    let picture = shown(&journey(&spans), 80, false);
    assert!(picture.contains("… and 84 more llm_core spans"), "{picture}");
    assert!(picture.contains("100 sequences"), "{picture}");
}

#[test]
fn a_text_of_the_file_cannot_command_the_terminal() {
    let reason = json!([text("reason", "\u{1b}[2Jgone\u{202e}"), text("error", "日本語 \r\n x")]);
    let journey = journey(&[request(10, &[("api.ABORTED", 5, reason), ("api.\u{7}", 6, json!([]))])]);
    let picture = shown(&journey, 80, false);
    assert!(!picture.contains(['\u{1b}', '\u{202e}', '\r', '\u{7}']), "{picture:?}");
    assert!(picture.contains("日本語"), "{picture}");
}

#[test]
fn color_changes_nothing_but_the_color() {
    for id in ["chatcmpl-ab05b8a21977c252", "chatcmpl-bd0bff420f087f31", "chatcmpl-9808337b2aab5749"] {
        let journey = reference_journey(id);
        let (plain, colored) = (shown(&journey, 100, false), shown(&journey, 100, true));
        assert!(colored.contains("\u{1b}[31m") || journey.preemptions() == 0);
        let mut without = String::new();
        let mut rest = colored.as_str();
        while let Some((before, escape)) = rest.split_once('\u{1b}') {
            without.push_str(before);
            rest = escape.split_once('m').unwrap().1;
        }
        without.push_str(rest);
        let trimmed = |text: &str| text.lines().map(|line| line.trim_end().to_string()).collect::<Vec<_>>();
        assert_eq!(trimmed(&without), trimmed(&plain));
    }
}

const NAMES: [&str; 11] = [
    "api.ARRIVED",
    "api.HANDOFF_TO_CORE",
    "api.FIRST_RESPONSE_FROM_CORE",
    "api.DEPARTED",
    "api.ABORTED",
    "journey.QUEUED",
    "journey.SCHEDULED",
    "journey.FIRST_TOKEN",
    "journey.PREEMPTED",
    "journey.FINISHED",
    "journey.UNHEARD_OF",
];

proptest! {
    #[test]
    fn every_journey_can_be_shown(
        has_request in any::<bool>(),
        lengths in proptest::collection::vec(0..50_u64, 1..4),
        events in proptest::collection::vec((0..NAMES.len(), 0..80_u64), 0..20),
        width in 0..130_usize,
        scale in prop_oneof![Just(1), Just(1_000_000_000_u64), Just(100_000_000_000_000_000)],
        color in any::<bool>(),
    ) {
        let events: Vec<_> = events.iter().map(|(name, at)| (NAMES[*name], at * scale, json!([]))).collect();
        let mut spans: Vec<_> =
            (0..).zip(&lengths).map(|(index, length)| core(index, length * scale, &events)).collect();
        if has_request {
            spans.push(request(lengths[0] * scale, &events));
        }
        let picture = shown(&journey(&spans), width, color);
        prop_assert!(picture.contains("llm_core"));
    }
}
