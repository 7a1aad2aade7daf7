//! The requests in flight: as a list, as a stream of changes, and the engine's gauges of the last minutes.
//!
//! A thread of the live view's own looks at the registry: every second for the gauges, and every 50 ms for changes
//! as long as anybody is interested in them. It gives the flight recorder, when there is one, its signs of life. The shapes of the answers are described in `docs/live-view.md`.

mod changes;
mod events;
mod gauges;
mod query;
mod request;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use axum::extract::{RawQuery, Request, State};
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use crossbeam_queue::ArrayQueue;
use parking_lot::{Mutex, RwLock};
use serde_json::{Value, json};
use wayfare_journey::{Clock, FinishedJourney, JourneySink, MonoNs, SpanId, Tracer, WallAnchor};

use crate::error::ConsoleError;

use self::changes::ChangeFinder;
use self::events::EventLog;
use self::gauges::Gauges;
use self::query::{LiveQuery, resume_point};
use self::request::InFlight;

/// How often the registry is looked at while anybody is interested in changes.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How often the gauges are sampled.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);
/// How often a flight recorder is given a sign of life.
const ALIVE_INTERVAL: Duration = Duration::from_millis(250);
/// For how long changes are followed after the last sign of interest.
const LINGER_NS: u64 = 30_000_000_000;
/// Requests that may end between two looks: 80 000 in a second.
const ENDS_CAPACITY: usize = 4096;

/// The live view before it has a tracer to look at.
#[derive(Debug)]
pub struct LiveView {
    ends: Arc<Ends>,
}

impl Default for LiveView {
    fn default() -> Self {
        let queue = ArrayQueue::new(ENDS_CAPACITY);
        Self { ends: Arc::new(Ends { is_wanted: AtomicBool::new(false), queue }) }
    }
}

impl LiveView {
    /// Where the tracer sends the requests that have ended, for [`LiveTracing::ends`](wayfare_journey::LiveTracing).
    /// It never waits, allocates or wakes a thread.
    #[must_use]
    pub fn sink(&self) -> Arc<dyn JourneySink> {
        Arc::clone(&self.ends) as _
    }

    /// Starts looking at the requests of this tracer, which was made with [`LiveView::sink`]. `clock` and `anchor` are
    /// those of the tracer.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(self, tracer: Tracer, clock: Arc<dyn Clock>, anchor: WallAnchor) -> io::Result<LiveServer> {
        let now = clock.now();
        let shared = Arc::new(Shared {
            gauges: Mutex::new(Gauges::new(tracer.board().totals(), now)),
            tracer,
            clock,
            anchor,
            ends: self.ends,
            events: EventLog::new(SpanId::random().to_string()),
            interested_at: AtomicU64::new(0),
            is_closed: AtomicBool::new(false),
            thread: RwLock::new(None),
        });
        let looked_after = Arc::clone(&shared);
        let thread =
            thread::Builder::new().name("live-view".into()).spawn(move || looked_after.look_after())?;
        *shared.thread.write() = Some(thread.thread().clone());
        Ok(LiveServer { shared, thread: Some(thread) })
    }
}

/// The live view at work. Dropping it ends its thread; its routes go on with what they have.
#[derive(Debug)]
pub struct LiveServer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl LiveServer {
    /// `GET /journeys/live`, `/journeys/gauges` and `/journeys/events`.
    pub fn routes(&self) -> Router {
        Router::new()
            .route("/journeys/live", get(live))
            .route("/journeys/gauges", get(gauges))
            .route("/journeys/events", get(events))
            .with_state(Arc::clone(&self.shared))
    }

    /// Ends the streams of all readers of the events; nobody can read them any more.
    pub fn end_events(&self) {
        self.shared.events.close();
    }
}

impl Drop for LiveServer {
    fn drop(&mut self) {
        self.shared.is_closed.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
        self.shared.events.close();
    }
}

/// Requests that have ended since the last look.
#[derive(Debug)]
struct Ends {
    is_wanted: AtomicBool,
    /// What does not fit is noticed by its absence from the registry.
    queue: ArrayQueue<FinishedJourney>,
}

impl JourneySink for Ends {
    fn accept(&self, journey: FinishedJourney) {
        if self.is_wanted.load(Ordering::Acquire) {
            let _ = self.queue.push(journey);
        }
    }
}

#[derive(Debug)]
struct Shared {
    tracer: Tracer,
    clock: Arc<dyn Clock>,
    anchor: WallAnchor,
    ends: Arc<Ends>,
    events: EventLog,
    gauges: Mutex<Gauges>,
    /// The last sign of interest in changes.
    interested_at: AtomicU64,
    is_closed: AtomicBool,
    thread: RwLock<Option<Thread>>,
}

impl Shared {
    /// The life of the thread.
    fn look_after(&self) {
        let mut finder = ChangeFinder::default();
        while !self.is_closed.load(Ordering::SeqCst) {
            let now = self.clock.now();
            let is_followed = self.is_followed(now);
            if is_followed {
                self.follow(&mut finder, now);
            } else if self.ends.is_wanted.swap(false, Ordering::AcqRel) {
                finder = ChangeFinder::default();
                while self.ends.queue.pop().is_some() {}
                self.events.interrupt();
            }
            self.sample(now, is_followed);
            let mut interval = if is_followed { LOOK_INTERVAL } else { SAMPLE_INTERVAL };
            if let Some(recorder) = self.tracer.recorder() {
                recorder.alive(now);
                interval = interval.min(ALIVE_INTERVAL);
            }
            thread::park_timeout(interval);
        }
    }

    fn is_followed(&self, now: MonoNs) -> bool {
        let is_wanted = self.ends.is_wanted.load(Ordering::Acquire);
        let interested_at = MonoNs(self.interested_at.load(Ordering::Acquire));
        is_wanted && (self.events.has_readers() || now.since(interested_at) < LINGER_NS)
    }

    /// Somebody wants to know of the changes from now on.
    fn take_interest(&self) {
        self.interested_at.fetch_max(self.clock.now().0, Ordering::AcqRel);
        if !self.ends.is_wanted.swap(true, Ordering::AcqRel)
            && let Some(thread) = &*self.thread.read()
        {
            thread.unpark();
        }
    }

    fn follow(&self, finder: &mut ChangeFinder, now: MonoNs) {
        let in_flight = InFlight::look(&self.tracer, now, self.anchor);
        let ended = std::iter::from_fn(|| self.ends.queue.pop()).take(ENDS_CAPACITY).collect();
        self.events.append(finder.find(&in_flight, ended));
    }

    fn sample(&self, now: MonoNs, is_followed: bool) {
        let mut gauges = self.gauges.lock();
        if !gauges.is_due(now) {
            return;
        }
        let sample =
            gauges.sample(self.tracer.board().totals(), &InFlight::look(&self.tracer, now, self.anchor));
        if is_followed {
            self.events.show_gauges(&sample.json(self.anchor));
        }
    }
}

async fn live(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, ConsoleError> {
    let query = LiveQuery::parse(&query.unwrap_or_default())?;
    // First the place in the events, then the requests: what changes in between is told twice, not never.
    shared.take_interest();
    let last_event_id = shared.events.last_id();
    crate::routes::in_background(move || {
        let now = shared.clock.now();
        let in_flight = InFlight::look(&shared.tracer, now, shared.anchor);
        let engine = shared.gauges.lock().at(shared.tracer.board().totals(), &in_flight);
        json!({
            "now_unix_ns": shared.anchor.unix_ns(now).to_string(),
            "instance": shared.events.instance(),
            "last_event_id": last_event_id,
            "in_flight": in_flight.len(),
            "engine": engine.json(shared.anchor),
            "requests": query.choose(&in_flight),
        })
    })
    .await
}

async fn gauges(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, ConsoleError> {
    query::refuse_parameters(&query.unwrap_or_default())?;
    let samples: Vec<Value> = shared.gauges.lock().samples().map(|one| one.json(shared.anchor)).collect();
    Ok(Json(json!({
        "now_unix_ns": shared.anchor.unix_ns(shared.clock.now()).to_string(),
        "interval_ns": SAMPLE_INTERVAL.as_nanos() as u64,
        "samples": samples,
    })))
}

async fn events(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, ConsoleError> {
    let resume = resume_point(request.uri().query().unwrap_or_default(), request.headers())?;
    let reader = shared.events.reader(resume.as_deref()).ok_or(ConsoleError::TooManyReaders)?;
    shared.take_interest();
    let now_unix_ns = shared.anchor.unix_ns(shared.clock.now());
    Ok(reader.into_response(now_unix_ns))
}
