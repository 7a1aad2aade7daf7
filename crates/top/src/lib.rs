//! `wayfare top`: the requests in flight of a running server, in a terminal.
//!
//! It knows of the server only what `GET /journeys/live` says, so it watches servers of other machines and other
//! versions as well. One thread asks; the one that draws never waits for it.
#![forbid(unsafe_code)]

mod app;
mod client;
mod draw;
mod model;

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;
use std::time::Duration;

use ratatui::crossterm::event::{self, Event, KeyEventKind};

use self::app::{App, Flow};
use self::client::Client;
pub use self::client::FetchError;
use self::model::Live;

/// How often keys are looked for, and what has come is drawn.
const FRAME_TIME: Duration = Duration::from_millis(100);

/// What to watch, and how.
#[derive(Clone, Debug)]
pub struct TopOptions {
    /// Address of the server, such as `http://localhost:8000`.
    pub url: String,
    /// The API key, when the server wants one.
    pub api_key: Option<String>,
    /// How often to ask.
    pub interval: Duration,
}

/// Why there is nothing to watch.
#[derive(Debug, thiserror::Error)]
pub enum TopError {
    /// The first answer did not come, or was none.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// There is no terminal, or it failed.
    #[error("the terminal failed")]
    Terminal(#[source] io::Error),
}

/// Watches a server until the user has seen enough.
///
/// # Errors
/// When the server does not answer at the start, or the terminal fails. Later silence is shown and waited out.
pub fn run(options: &TopOptions) -> Result<(), TopError> {
    let client = Client::new(options);
    // Before the terminal changes, so that what is wrong with the address can be read.
    let first = client.fetch()?;
    let (sender, answers) = sync_channel(1);
    let interval = options.interval;
    // Ends with the receiver, or with the process.
    thread::spawn(move || ask(&client, interval, &sender));
    let mut app = App::new(options.url.clone());
    app.take(Ok(first));
    let mut terminal = ratatui::try_init().map_err(TopError::Terminal)?;
    let outcome = show(&mut app, &answers, &mut terminal);
    ratatui::restore();
    outcome.map_err(TopError::Terminal)
}

fn ask(client: &Client, interval: Duration, answers: &SyncSender<Result<Live, FetchError>>) {
    loop {
        thread::sleep(interval);
        if let Err(TrySendError::Disconnected(_)) = answers.try_send(client.fetch()) {
            return;
        }
    }
}

fn show(
    app: &mut App,
    answers: &Receiver<Result<Live, FetchError>>,
    terminal: &mut ratatui::DefaultTerminal,
) -> io::Result<()> {
    loop {
        while let Ok(answer) = answers.try_recv() {
            app.take(answer);
        }
        terminal.draw(|frame| draw::draw(app, frame))?;
        if !event::poll(FRAME_TIME)? {
            continue;
        }
        if let Event::Key(key) = event::read()?
            && key.kind != KeyEventKind::Release
            && app.press(key) == Flow::Quit
        {
            return Ok(());
        }
    }
}
