//! What is shown, and what the keys change about it.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::client::FetchError;
use crate::model::{Live, Request};

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Continue,
    Quit,
}

/// By what the table is sorted, the largest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SortKey {
    /// As the server sorts: the newest change first.
    Changed,
    Age,
    InState,
    Output,
    Rate,
    Preemptions,
}

impl SortKey {
    const ALL: [SortKey; 6] = [
        SortKey::Changed,
        SortKey::Age,
        SortKey::InState,
        SortKey::Output,
        SortKey::Rate,
        SortKey::Preemptions,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            SortKey::Changed => "newest change",
            SortKey::Age => "age",
            SortKey::InState => "time in state",
            SortKey::Output => "output tokens",
            SortKey::Rate => "tokens per second",
            SortKey::Preemptions => "preemptions",
        }
    }

    fn next(self) -> Self {
        let here = Self::ALL.iter().position(|key| *key == self).unwrap_or(0);
        Self::ALL[(here + 1) % Self::ALL.len()]
    }

    fn value(self, request: &Request) -> f64 {
        match self {
            SortKey::Changed => 0.0,
            SortKey::Age => request.age_ns as f64,
            SortKey::InState => request.in_state_ns as f64,
            SortKey::Output => request.decode.as_ref().map_or(0.0, |decode| decode.done as f64),
            SortKey::Rate => request.tokens_per_second.unwrap_or(0.0),
            SortKey::Preemptions => request.num_preemptions as f64,
        }
    }
}

/// The state of the view.
#[derive(Debug)]
pub(crate) struct App {
    pub(crate) url: String,
    pub(crate) live: Live,
    /// Why the last question had no answer.
    pub(crate) problem: Option<String>,
    pub(crate) sort: SortKey,
    pub(crate) is_reversed: bool,
    /// What has come stays as it is.
    pub(crate) is_frozen: bool,
    /// The request on which the cursor is, by its key.
    selected: Option<String>,
    /// The request that is open.
    pub(crate) opened: Option<Request>,
    /// Whether it had left when the last answer came.
    pub(crate) has_opened_ended: bool,
}

impl App {
    pub(crate) fn new(url: String) -> Self {
        Self {
            url,
            live: Live::default(),
            problem: None,
            sort: SortKey::Changed,
            is_reversed: false,
            is_frozen: false,
            selected: None,
            opened: None,
            has_opened_ended: false,
        }
    }

    pub(crate) fn take(&mut self, answer: Result<Live, FetchError>) {
        match answer {
            Err(error) => self.problem = Some(error.to_string()),
            Ok(_) if self.is_frozen => self.problem = None,
            Ok(live) => {
                self.problem = None;
                self.live = live;
                self.arrange();
            }
        }
    }

    /// Sorts, and follows the selected and the opened request.
    fn arrange(&mut self) {
        let sort = self.sort;
        // Stable, so that the server's order decides between equals.
        self.live.requests.sort_by(|one, other| sort.value(other).total_cmp(&sort.value(one)));
        if self.is_reversed {
            self.live.requests.reverse();
        }
        if let Some(opened) = &mut self.opened {
            let now = self.live.requests.iter().find(|request| request.key == opened.key);
            self.has_opened_ended = now.is_none();
            if let Some(now) = now {
                opened.clone_from(now);
            }
        }
    }

    /// The row of the cursor; the first when its request is gone.
    pub(crate) fn cursor(&self) -> Option<usize> {
        let selected =
            self.live.requests.iter().position(|request| Some(&request.key) == self.selected.as_ref());
        selected.or_else(|| (!self.live.requests.is_empty()).then_some(0))
    }

    fn move_cursor(&mut self, to: impl FnOnce(usize) -> usize) {
        let Some(cursor) = self.cursor() else { return };
        let last = self.live.requests.len() - 1;
        self.selected = Some(self.live.requests[to(cursor).min(last)].key.clone());
    }

    pub(crate) fn press(&mut self, key: KeyEvent) -> Flow {
        let has_control = key.modifiers.contains(KeyModifiers::CONTROL);
        match key.code {
            KeyCode::Char('c') if has_control => return Flow::Quit,
            KeyCode::Char('q') => return Flow::Quit,
            KeyCode::Esc | KeyCode::Backspace | KeyCode::Left if self.opened.is_some() => self.opened = None,
            KeyCode::Esc => return Flow::Quit,
            KeyCode::Up | KeyCode::Char('k') => self.move_cursor(|row| row.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.move_cursor(|row| row + 1),
            KeyCode::PageUp => self.move_cursor(|row| row.saturating_sub(10)),
            KeyCode::PageDown => self.move_cursor(|row| row + 10),
            KeyCode::Home | KeyCode::Char('g') => self.move_cursor(|_| 0),
            KeyCode::End | KeyCode::Char('G') => self.move_cursor(|_| usize::MAX),
            KeyCode::Enter | KeyCode::Right => {
                self.opened = self.cursor().map(|row| self.live.requests[row].clone());
                self.has_opened_ended = false;
            }
            KeyCode::Char('s') => {
                self.sort = self.sort.next();
                self.arrange();
            }
            KeyCode::Char('r') => {
                self.is_reversed = !self.is_reversed;
                self.arrange();
            }
            KeyCode::Char(' ') => self.is_frozen = !self.is_frozen,
            _ => {}
        }
        Flow::Continue
    }
}
