//! What is on the screen after which keys.
#![allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::{Value, json};

use super::*;
use crate::FetchError;
use crate::app::Flow;

fn request(key: u64, state: &str, age_ns: u64) -> Value {
    let is_queued = state == "queued";
    json!({
        "key": key.to_string(), "request_id": format!("cmpl-{key}"), "client_request_id": key.to_string(),
        "trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331",
        "route": "/v1/completions", "model": "sim", "state": state, "head_sampled": true,
        "arrived_unix_ns": "1", "changed_unix_ns": "1", "age_ns": age_ns, "in_state_ns": 1_500_000_000_u64,
        "wait": if is_queued { json!({"reason": "kv_blocks", "blocker": "cmpl-2"}) } else { Value::Null },
        "prefill": {"done": 12, "total": 12, "cached": 8}, "decode": {"done": key * 10, "max": 64},
        "num_preemptions": 0, "tokens_per_second": if is_queued { Value::Null } else { json!(21.25) },
        "sequences": [{"index": 0, "state": state, "in_state_ns": 1_500_000_000_u64, "wait": null,
            "prefill": {"done": 12, "total": 12, "cached": 8}, "decode": {"done": 20, "max": 64},
            "num_preemptions": 0}],
    })
}

fn answer(requests: &[Value]) -> crate::model::Live {
    let live = json!({
        "now_unix_ns": "5", "instance": "5f3a", "last_event_id": "5f3a-1", "in_flight": requests.len(),
        "engine": {"unix_ns": "5", "running": 2, "waiting": 1, "preempted": 0, "in_flight": 3,
            "kv_blocks_used": 30, "kv_blocks_total": 60, "prompt_tokens_per_second": 0.0,
            "output_tokens_per_second": 42.5, "preemptions_total": 7, "paused": false},
        "requests": requests,
    });
    serde_json::from_value(live).unwrap()
}

fn app() -> App {
    let mut app = App::new("http://x".to_owned());
    let requests =
        [request(3, "queued", 250_000_000), request(2, "decode", 65_000_000_000), request(1, "decode", 9)];
    app.take(Ok(answer(&requests)));
    app
}

fn press(app: &mut App, code: KeyCode) -> Flow {
    app.press(KeyEvent::new(code, KeyModifiers::NONE))
}

fn screen(app: &App, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(app, frame)).unwrap();
    terminal.backend().to_string()
}

/// The ids in the table, from top to bottom.
fn ids(app: &App) -> Vec<String> {
    let screen = screen(app, 120, 20);
    let rows = screen.lines().filter(|line| line.contains("12/12"));
    rows.map(|line| line.split_whitespace().rev().find(|word| word.starts_with("cmpl-")).unwrap().to_owned())
        .collect()
}

#[test]
fn the_table_shows_each_request_and_the_engine() {
    let shown = screen(&app(), 120, 20);
    for text in
        ["3 in flight", "2 running  1 waiting", "42.5 output tok/s", "7 preemptions", "KV blocks 30/60"]
    {
        assert!(shown.contains(text), "{text} in\n{shown}");
    }
    let line = shown.lines().find(|line| line.contains("queued")).unwrap();
    let words: Vec<_> = line.trim_matches('"').trim_matches('│').split_whitespace().collect();
    let expected =
        ["queued", "1.5s", "250ms", "12/12", "c8", "30/64", "-", "0", "kv_blocks", "by", "cmpl-2", "cmpl-3"];
    assert_eq!(words, expected);
}

#[test]
fn keys_sort_choose_open_and_freeze() {
    let mut app = app();
    assert_eq!(ids(&app), ["cmpl-3", "cmpl-2", "cmpl-1"]);
    press(&mut app, KeyCode::Char('s'));
    assert_eq!(ids(&app), ["cmpl-2", "cmpl-3", "cmpl-1"], "by age");
    press(&mut app, KeyCode::Char('r'));
    assert_eq!(ids(&app), ["cmpl-1", "cmpl-3", "cmpl-2"]);
    press(&mut app, KeyCode::Down);
    press(&mut app, KeyCode::Enter);
    let opened = screen(&app, 120, 20);
    assert!(opened.contains(" cmpl-3 ") && opened.contains("0af7651916cd43dd8448eb211c80319c"), "{opened}");
    assert!(opened.contains("kv_blocks by cmpl-2") && opened.contains("sequence 0  queued"), "{opened}");
    app.take(Ok(answer(&[request(3, "decode", 9)])));
    assert!(screen(&app, 120, 20).contains("decode for 1.5s"));
    app.take(Ok(answer(&[])));
    assert!(screen(&app, 120, 20).contains("ended for"), "it is still shown");
    assert_eq!(press(&mut app, KeyCode::Esc), Flow::Continue);
    app.take(Ok(answer(&[request(4, "decode", 9)])));
    press(&mut app, KeyCode::Char(' '));
    app.take(Ok(answer(&[])));
    assert_eq!(ids(&app), ["cmpl-4"], "frozen");
    assert_eq!(press(&mut app, KeyCode::Esc), Flow::Quit);
    assert_eq!(app.press(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)), Flow::Quit);
}

#[test]
fn the_cursor_stays_on_its_request() {
    let mut app = app();
    press(&mut app, KeyCode::End);
    assert_eq!(app.cursor(), Some(2));
    app.take(Ok(answer(&[request(1, "decode", 9), request(2, "decode", 8)])));
    assert_eq!(app.cursor(), Some(0));
    app.take(Ok(answer(&[])));
    assert_eq!(app.cursor(), None);
    press(&mut app, KeyCode::Down);
    press(&mut app, KeyCode::Enter);
    assert!(app.opened.is_none());
}

#[test]
fn hostile_text_is_shown_as_text_and_no_size_breaks_it() {
    let mut app = app();
    let mut hostile = request(9, "decode", u64::MAX);
    hostile["request_id"] = json!("\u{1b}[2Jcmpl\u{7}\n<b>ü漢字</b>");
    app.take(Ok(answer(&[hostile])));
    for _ in 0..2 {
        let shown = screen(&app, 160, 20);
        assert!(!shown.contains('\u{1b}') && shown.contains("�[2Jcmpl��<b>ü"), "{shown}");
        for (width, height) in [(1, 1), (3, 2), (20, 5), (40, 10), (300, 3)] {
            screen(&app, width, height);
        }
        press(&mut app, KeyCode::Enter);
    }
    app.take(Err(FetchError::NotLive {
        url: "http://x".to_owned(),
        reason: "it is\u{1b} a page".to_owned(),
    }));
    assert!(screen(&app, 120, 20).contains("is not the live view of a wayfare server: it is� a page"));
}

#[test]
fn a_state_that_is_only_concluded_has_a_question_mark() {
    let mut one = request(1, "prefill", 9);
    one["inferred"] = json!(true);
    one["sequences"][0]["inferred"] = json!(true);
    let mut app = App::new("http://x".to_owned());
    // Servers before did not have the field.
    app.take(Ok(answer(&[one, request(2, "decode", 7)])));
    let shown = screen(&app, 120, 20);
    assert!(shown.contains("prefill? ") && shown.contains("decode "), "{shown}");
    press(&mut app, KeyCode::Enter);
    assert!(screen(&app, 120, 20).contains("sequence 0  prefill? for"), "{}", screen(&app, 120, 20));
}
