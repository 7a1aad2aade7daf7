//! The last events, and the readers that follow them.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use futures_util::stream;
use http::header;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::changes::LiveEvent;

/// Events that are kept.
const CAPACITY: usize = 4096;
/// Most readers at once.
const MAX_READERS: usize = 64;
/// Most bytes that are handed to a connection at once.
const CHUNK_BYTES: usize = 64 << 10;
/// A connection on which nothing was sent for so long is sent a comment.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// The last events, numbered.
#[derive(Debug)]
pub(crate) struct EventLog {
    instance: Arc<str>,
    kept: Arc<Mutex<Kept>>,
    /// Tells the readers that there is something new; closed when there never will be again.
    news: Mutex<Option<watch::Sender<()>>>,
    readers: Arc<()>,
}

#[derive(Debug, Default)]
struct Kept {
    /// As they are sent, the oldest first.
    frames: VecDeque<Arc<str>>,
    /// The number of the last event.
    last: u64,
    /// What came before this number was not followed by the events behind it without a gap.
    unbroken_from: u64,
    /// The last sample of the gauges, as it is sent, and how many there were.
    gauges: (u64, Arc<str>),
}

impl Kept {
    fn first(&self) -> u64 {
        self.last + 1 - self.frames.len() as u64
    }
}

impl EventLog {
    pub(crate) fn new(instance: String) -> Self {
        Self {
            instance: instance.into(),
            kept: Arc::default(),
            news: Mutex::new(Some(watch::Sender::new(()))),
            readers: Arc::new(()),
        }
    }

    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    pub(crate) fn last_id(&self) -> String {
        format!("{}-{}", self.instance, self.kept.lock().last)
    }

    pub(crate) fn has_readers(&self) -> bool {
        Arc::strong_count(&self.readers) > 1
    }

    pub(crate) fn append(&self, events: Vec<LiveEvent>) {
        if events.is_empty() {
            return;
        }
        let mut kept = self.kept.lock();
        for LiveEvent { name, data } in events {
            kept.last += 1;
            let id = format!("{}-{}", self.instance, kept.last);
            if kept.frames.len() >= CAPACITY {
                kept.frames.pop_front();
            }
            kept.frames.push_back(frame(name, Some(&id), &data).into());
        }
        drop(kept);
        self.tell();
    }

    pub(crate) fn show_gauges(&self, sample: &Value) {
        let mut kept = self.kept.lock();
        kept.gauges = (kept.gauges.0 + 1, frame("gauges", None, sample).into());
        drop(kept);
        self.tell();
    }

    /// From here on, events are missing that nobody has counted.
    pub(crate) fn interrupt(&self) {
        let mut kept = self.kept.lock();
        kept.frames.clear();
        kept.last += 1;
        kept.unbroken_from = kept.last;
    }

    /// There will be no more events.
    pub(crate) fn close(&self) {
        *self.news.lock() = None;
    }

    fn tell(&self) {
        if let Some(news) = &*self.news.lock() {
            news.send_replace(());
        }
    }

    /// A reader from now on, or from the event behind `resume`; `None` when there are too many.
    pub(crate) fn reader(&self, resume: Option<&str>) -> Option<Reader> {
        if Arc::strong_count(&self.readers) > MAX_READERS {
            return None;
        }
        let news = self.news.lock().as_ref().map(watch::Sender::subscribe)?;
        let kept = self.kept.lock();
        let number = resume.map(|id| {
            let (instance, number) = id.rsplit_once('-')?;
            let number: u64 = number.parse().ok()?;
            (instance == &*self.instance && (kept.unbroken_from..=kept.last).contains(&number))
                .then_some(number)
        });
        Some(Reader {
            instance: Arc::clone(&self.instance),
            cursor: number.flatten().unwrap_or(kept.last),
            misses_uncounted: number == Some(None),
            gauges_seen: kept.gauges.0,
            kept: Arc::clone(&self.kept),
            news,
            _counted: Arc::clone(&self.readers),
        })
    }
}

/// One connection's place in the events.
#[derive(Debug)]
pub(crate) struct Reader {
    instance: Arc<str>,
    kept: Arc<Mutex<Kept>>,
    news: watch::Receiver<()>,
    /// The number of the last event that was sent.
    cursor: u64,
    misses_uncounted: bool,
    gauges_seen: u64,
    _counted: Arc<()>,
}

impl Reader {
    pub(crate) fn into_response(mut self, now_unix_ns: u64) -> Response {
        let hello = json!({
            "instance": &*self.instance,
            "last_event_id": format!("{}-{}", self.instance, self.cursor),
            "now_unix_ns": now_unix_ns.to_string(),
        });
        let mut first = frame("hello", None, &hello);
        if self.misses_uncounted {
            first += &frame("missed", None, &json!({ "missed": null }));
        }
        self.take_into(&mut first);
        let chunks = stream::unfold((self, Some(first)), async |(mut reader, first)| {
            let chunk = match first {
                Some(first) => first,
                None => reader.next().await?,
            };
            Some((Ok::<_, Infallible>(Bytes::from(chunk)), (reader, None)))
        });
        let head = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
        (head, Body::from_stream(chunks)).into_response()
    }

    /// What is to be sent next; `None` when that is nothing any more.
    async fn next(&mut self) -> Option<String> {
        let mut chunk = String::new();
        loop {
            self.take_into(&mut chunk);
            if !chunk.is_empty() {
                return Some(chunk);
            }
            match tokio::time::timeout(KEEP_ALIVE, self.news.changed()).await {
                Err(_) => return Some(": still here\n\n".to_owned()),
                Ok(Err(_)) => return None,
                Ok(Ok(())) => {}
            }
        }
    }

    fn take_into(&mut self, chunk: &mut String) {
        let kept = self.kept.lock();
        let missed = kept.first().saturating_sub(self.cursor + 1);
        if missed > 0 {
            let count = (self.cursor >= kept.unbroken_from).then_some(missed);
            *chunk += &frame("missed", None, &json!({ "missed": count }));
            self.cursor += missed;
        }
        let skipped = (self.cursor + 1 - kept.first()) as usize;
        for event in kept.frames.iter().skip(skipped) {
            if chunk.len() >= CHUNK_BYTES {
                return;
            }
            *chunk += event;
            self.cursor += 1;
        }
        let (number, gauges) = &kept.gauges;
        if *number != self.gauges_seen {
            self.gauges_seen = *number;
            *chunk += gauges;
        }
    }
}

/// An event as it is sent. JSON has no line breaks outside of texts, and in texts they are escaped.
fn frame(name: &str, id: Option<&str>, data: &Value) -> String {
    let mut frame = format!("event: {name}\n");
    if let Some(id) = id {
        let _ = writeln!(frame, "id: {id}");
    }
    let _ = write!(frame, "data: {data}\n\n");
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: u64) -> LiveEvent {
        LiveEvent { name: "change", data: json!({ "n": number }) }
    }

    fn taken(reader: &mut Reader) -> String {
        let mut chunk = String::new();
        reader.take_into(&mut chunk);
        chunk
    }

    #[test]
    fn a_reader_gets_each_event_once_and_what_came_behind_its_last_one() {
        let log = EventLog::new("ab".to_owned());
        let mut reader = log.reader(None).unwrap();
        log.append((1..=3).map(event).collect());
        assert!(taken(&mut reader).starts_with("event: change\nid: ab-1\ndata: {\"n\":1}\n\n"));
        assert_eq!(taken(&mut reader), "");
        let mut later = log.reader(Some("ab-2")).unwrap();
        assert_eq!(taken(&mut later), "event: change\nid: ab-3\ndata: {\"n\":3}\n\n");
        assert_eq!(taken(&mut log.reader(Some(&log.last_id())).unwrap()), "");
        for foreign in ["cd-2", "ab-4", "ab", "", "ab--1"] {
            let reader = log.reader(Some(foreign)).unwrap();
            assert!(reader.misses_uncounted && reader.cursor == 3, "{foreign}");
        }
    }

    #[test]
    fn a_reader_that_lags_is_told_how_much_it_has_missed() {
        let log = EventLog::new("ab".to_owned());
        let mut reader = log.reader(None).unwrap();
        log.append((0..CAPACITY as u64 + 5).map(event).collect());
        assert!(
            taken(&mut reader)
                .starts_with("event: missed\ndata: {\"missed\":5}\n\nevent: change\nid: ab-6\n")
        );
        let mut events = 0;
        let mut chunk = String::from("x");
        while !chunk.is_empty() {
            chunk = taken(&mut reader);
            events += chunk.matches("event: change").count();
        }
        assert!(events > 1000 && log.kept.lock().frames.len() == CAPACITY);
        assert_eq!(reader.cursor, CAPACITY as u64 + 5);
    }

    #[test]
    fn what_was_not_followed_is_missed_uncounted() {
        let log = EventLog::new("ab".to_owned());
        log.append(vec![event(1), event(2)]);
        log.interrupt();
        assert!(log.reader(Some("ab-2")).unwrap().misses_uncounted);
        let id = log.last_id();
        log.append(vec![event(4)]);
        let mut reader = log.reader(Some(&id)).unwrap();
        assert!(!reader.misses_uncounted && taken(&mut reader).contains("id: ab-4"));
    }

    #[test]
    fn there_is_a_most_of_readers() {
        let log = EventLog::new("ab".to_owned());
        let readers: Vec<_> = (0..MAX_READERS).map(|_| log.reader(None).unwrap()).collect();
        assert!(log.reader(None).is_none() && log.has_readers());
        drop(readers);
        assert!(log.reader(None).is_some() && !log.has_readers());
    }
}
