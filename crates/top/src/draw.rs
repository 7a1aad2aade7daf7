//! Drawing.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Gauge, Paragraph, Row, Table, TableState, Wrap};

use crate::app::App;
use crate::model::{Decode, Prefill, Request, Wait};

const DIM: Style = Style::new().add_modifier(Modifier::DIM);
const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

pub(crate) fn draw(app: &App, frame: &mut Frame<'_>) {
    let [head, pool, body, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(1),
        Constraint::Min(3),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    draw_head(app, frame, head);
    draw_pool(app, frame, pool);
    match &app.opened {
        Some(request) => draw_request(app, request, frame, body),
        None => draw_table(app, frame, body),
    }
    let keys = match &app.opened {
        Some(_) => "Esc back  space freeze  q quit",
        None => "↑↓ choose  Enter open  s sort  r reverse  space freeze  q quit",
    };
    frame.render_widget(Line::styled(keys, DIM), foot);
}

fn draw_head(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let engine = &app.live.engine;
    let mut first = vec![
        Span::styled(printable(&app.url), BOLD),
        Span::raw(format!("  {} in flight", app.live.in_flight)),
        Span::styled(format!("  instance {}", printable(&app.live.instance)), DIM),
    ];
    if engine.paused {
        first.push(Span::styled("  PAUSED", Style::new().fg(Color::Yellow)));
    }
    if app.is_frozen {
        first.push(Span::styled("  FROZEN", Style::new().fg(Color::Yellow)));
    }
    if let Some(problem) = &app.problem {
        first = vec![Span::styled(printable(problem), Style::new().fg(Color::Red))];
    }
    let second = format!(
        "{} running  {} waiting  {} preempted  {:.1} prompt tok/s  {:.1} output tok/s  {} preemptions",
        engine.running,
        engine.waiting,
        engine.preempted,
        engine.prompt_tokens_per_second,
        engine.output_tokens_per_second,
        engine.preemptions_total,
    );
    frame.render_widget(Paragraph::new(vec![Line::from(first), Line::raw(second)]), area);
}

fn draw_pool(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let (used, total) = (app.live.engine.kv_blocks_used, app.live.engine.kv_blocks_total);
    let share = if total > 0 { (used as f64 / total as f64).clamp(0.0, 1.0) } else { 0.0 };
    let gauge = Gauge::default()
        .ratio(share)
        .label(format!("KV blocks {used}/{total}"))
        .gauge_style(Style::new().fg(if share > 0.9 { Color::Red } else { Color::Green }));
    frame.render_widget(gauge, area);
}

fn draw_table(app: &App, frame: &mut Frame<'_>, area: Rect) {
    let rows = app.live.requests.iter().map(|request| {
        Row::new([
            Cell::from(state_word(&request.state, request.inferred)).style(color_of(&request.state)),
            Cell::from(duration(request.in_state_ns)),
            Cell::from(duration(request.age_ns)),
            Cell::from(prefill(request.prefill.as_ref())),
            Cell::from(decode(request.decode.as_ref())),
            Cell::from(rate(request)),
            Cell::from(request.num_preemptions.to_string()),
            Cell::from(wait(request.wait.as_ref())),
            Cell::from(printable(request.request_id.as_deref().unwrap_or("-"))),
        ])
    });
    let widths = [
        Constraint::Length(10),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(11),
        Constraint::Length(11),
        Constraint::Length(7),
        Constraint::Length(3),
        Constraint::Fill(2),
        Constraint::Fill(2),
    ];
    let head = ["STATE", "FOR", "AGE", "PREFILL", "DECODE", "TOK/S", "PRE", "WAITS FOR", "REQUEST"];
    let order = if app.is_reversed { ", reversed" } else { "" };
    let left_out = app.live.in_flight.saturating_sub(app.live.requests.len() as u64);
    let more = if left_out > 0 { format!(", {left_out} more") } else { String::new() };
    let table = Table::new(rows, widths)
        .header(Row::new(head).style(BOLD))
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED))
        .block(Block::bordered().title(format!(" requests by {}{order}{more} ", app.sort.name())));
    let mut state = TableState::default().with_selected(app.cursor());
    frame.render_stateful_widget(table, area, &mut state);
}

fn draw_request(app: &App, request: &Request, frame: &mut Frame<'_>, area: Rect) {
    let id = request.request_id.as_deref().unwrap_or("a request without an id yet");
    let state = if app.has_opened_ended {
        Span::styled("ended", BOLD)
    } else {
        Span::styled(state_word(&request.state, request.inferred), color_of(&request.state))
    };
    let field = |name: &'static str, value: String| {
        Line::from(vec![Span::styled(format!("{name:<12}"), DIM), Span::raw(value)])
    };
    let mut lines = vec![
        Line::from(vec![
            Span::styled("state       ", DIM),
            state,
            Span::raw(format!(" for {}, {} old", duration(request.in_state_ns), duration(request.age_ns))),
        ]),
        field("waits for", wait(request.wait.as_ref())),
        field("prefill", prefill(request.prefill.as_ref())),
        field("decode", format!("{}  {} tok/s", decode(request.decode.as_ref()), rate(request))),
        field("preemptions", request.num_preemptions.to_string()),
        field("model", printable(request.model.as_deref().unwrap_or("-"))),
        field("route", printable(&request.route)),
        field("trace id", printable(&request.trace_id)),
        field("span id", printable(&request.span_id)),
        Line::raw(""),
    ];
    for sequence in &request.sequences {
        let text = format!(
            "sequence {}  {} for {}  prefill {}  decode {}  {} preemptions  {}",
            sequence.index,
            state_word(&sequence.state, sequence.inferred),
            duration(sequence.in_state_ns),
            prefill(Some(&sequence.prefill)),
            decode(Some(&sequence.decode)),
            sequence.num_preemptions,
            wait(sequence.wait.as_ref()),
        );
        lines.push(Line::raw(text));
    }
    let block = Block::bordered().title(format!(" {} ", printable(id)));
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }).block(block), area);
}

/// A state; with a question mark when the engine has not said it.
fn state_word(state: &str, is_inferred: bool) -> String {
    format!("{}{}", printable(state), if is_inferred { "?" } else { "" })
}

fn color_of(state: &str) -> Style {
    Style::new().fg(match state {
        "decode" => Color::Green,
        "prefill" => Color::Cyan,
        "queued" => Color::Yellow,
        "preempted" | "abandoned" => Color::Red,
        _ => Color::Reset,
    })
}

fn prefill(prefill: Option<&Prefill>) -> String {
    let Some(Prefill { done, total, cached }) = prefill else { return "-".to_owned() };
    if *cached > 0 { format!("{done}/{total} c{cached}") } else { format!("{done}/{total}") }
}

fn decode(decode: Option<&Decode>) -> String {
    decode.map_or_else(|| "-".to_owned(), |Decode { done, max }| format!("{done}/{max}"))
}

fn rate(request: &Request) -> String {
    request.tokens_per_second.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.1}"))
}

fn wait(wait: Option<&Wait>) -> String {
    let Some(Wait { reason, blocker }) = wait else { return String::new() };
    let by = blocker.as_deref().map(|id| format!(" by {}", printable(id))).unwrap_or_default();
    format!("{}{by}", printable(reason))
}

fn duration(ns: u64) -> String {
    let seconds = ns / 1_000_000_000;
    match seconds {
        0 => format!("{}ms", ns / 1_000_000),
        1..100 => format!("{:.1}s", ns as f64 / 1e9),
        100..6_000 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h{:02}m", seconds / 3_600, seconds / 60 % 60),
    }
}

/// Text that came from a client, so that it cannot steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|char| if char.is_control() { char::REPLACEMENT_CHARACTER } else { char }).collect()
}

#[cfg(test)]
mod tests;
