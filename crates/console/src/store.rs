//! The last finished journeys, in memory.
//!
//! HOT PATH: [`Arrivals::accept`] runs on the engine thread and on request tasks. It pushes a pointer into a
//! bounded lock-free queue. A thread of the store's own, and every reader before it looks, moves what is there
//! to where it is kept, and lets go of what is too old.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_queue::ArrayQueue;
use parking_lot::Mutex;
use wayfare_journey::{FinishedJourney, JourneySink};

use crate::restored;
use crate::stored::StoredJourney;

/// Journeys that may end between two looks of the store's thread: 40 000 in a second.
const QUEUE_CAPACITY: usize = 4096;
/// How often the store's thread looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// How much is kept; whichever is reached first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLimits {
    /// Most journeys.
    pub max_journeys: usize,
    /// Most bytes of all journeys together.
    pub max_bytes: usize,
}

impl Default for StoreLimits {
    /// 10 000 journeys in 64 MiB.
    fn default() -> Self {
        Self { max_journeys: 10_000, max_bytes: 64 << 20 }
    }
}

/// How much is kept now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreUse {
    /// Journeys.
    pub journeys: usize,
    /// Bytes of all of them together, about.
    pub bytes: usize,
    /// Journeys that never were kept, because more ended at once than the store takes in, or by a bug of the store.
    pub lost: u64,
    /// The serial of the journey that was taken in last; 0 before the first one.
    pub newest_serial: u64,
}

/// Journeys by their serial, which is how many the store had taken in with them: from 1, without gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialRange {
    /// Those with a larger serial.
    pub after: u64,
    /// Those with a smaller one.
    pub before: u64,
}

impl SerialRange {
    /// All that are kept.
    pub const ALL: Self = Self { after: 0, before: u64::MAX };
}

/// Keeps the last finished journeys as long as it lives. Dropping it frees them, whoever still has its sink or
/// a reader.
#[derive(Debug)]
pub struct RecentJourneys {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl RecentJourneys {
    /// Starts the store's thread.
    ///
    /// # Errors
    /// When the operating system gives no thread.
    pub fn start(limits: StoreLimits) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            arrivals: ArrayQueue::new(QUEUE_CAPACITY),
            is_closed: AtomicBool::new(false),
            lost: AtomicU64::new(0),
            limits,
            kept: Mutex::default(),
        });
        let looked_after = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("journey-store".into())
            .spawn(move || looked_after.look_after(LOOK_INTERVAL))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Puts in the last journeys of an earlier process: of the file that they were written to, and of at most
    /// `max_files` together with those that were set aside for it. To be called before requests are served.
    ///
    /// # Errors
    /// When a file that is there cannot be read.
    pub fn read_back(&self, path: &Path, max_files: u32) -> io::Result<ReadBack> {
        let restored = restored::read(path, max_files, self.shared.limits)?;
        let mut kept = self.shared.kept.lock();
        for journey in restored.journeys {
            self.shared.keep(&mut kept, journey.into());
        }
        Ok(ReadBack { journeys: kept.journeys.len(), bad_lines: restored.bad_lines })
    }

    /// Where finished journeys go. It never waits, allocates or wakes a thread; what it has no room for it
    /// drops and counts.
    #[must_use]
    pub fn sink(&self) -> Arc<dyn JourneySink> {
        Arc::new(Arrivals(Arc::clone(&self.shared)))
    }

    /// By which the journeys are read.
    #[must_use]
    pub fn reader(&self) -> StoreReader {
        StoreReader(Arc::clone(&self.shared))
    }
}

/// What [`RecentJourneys::read_back`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadBack {
    /// Journeys that the store has now.
    pub journeys: usize,
    /// Lines that could not be read.
    pub bad_lines: u64,
}

impl Drop for RecentJourneys {
    fn drop(&mut self) {
        self.shared.is_closed.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
        self.shared.discard();
    }
}

/// Reads a store. Clones read the same one.
#[derive(Clone, Debug)]
pub struct StoreReader(Arc<Shared>);

impl StoreReader {
    /// The last `limit` journeys for which `wanted` holds, the one that ended last first.
    #[must_use]
    pub fn newest(&self, limit: usize, wanted: impl Fn(&StoredJourney) -> bool) -> Vec<StoredJourney> {
        let newest = self.newest_of(SerialRange::ALL, limit, wanted);
        newest.into_iter().map(|(_, journey)| journey).collect()
    }

    /// The last `limit` journeys in this range for which `wanted` holds, each with its serial; the one that
    /// ended last first. Costs nothing for journeys outside of the range.
    #[must_use]
    pub fn newest_of(
        &self,
        range: SerialRange,
        limit: usize,
        wanted: impl Fn(&StoredJourney) -> bool,
    ) -> Vec<(u64, StoredJourney)> {
        self.0.take_in();
        let kept = self.0.kept.lock();
        // Serials have no gaps, so the oldest one gives the place of every other.
        let oldest = kept.next_serial - kept.journeys.len() as u64;
        let place = |serial: u64| {
            usize::try_from(serial.saturating_sub(oldest)).unwrap_or(usize::MAX).min(kept.journeys.len())
        };
        let (start, end) = (place(range.after.saturating_add(1)), place(range.before));
        (start..end)
            .rev()
            .map(|index| (oldest + index as u64, &kept.journeys[index].journey))
            .filter(|(_, one)| wanted(one))
            .take(limit)
            .map(|(serial, one)| (serial, one.clone()))
            .collect()
    }

    /// How much is kept.
    #[must_use]
    pub fn usage(&self) -> StoreUse {
        self.0.take_in();
        let kept = self.0.kept.lock();
        StoreUse {
            journeys: kept.journeys.len(),
            bytes: kept.bytes,
            lost: self.0.lost.load(Ordering::Relaxed),
            newest_serial: kept.next_serial - 1,
        }
    }
}

#[derive(Debug)]
struct Shared {
    arrivals: ArrayQueue<FinishedJourney>,
    is_closed: AtomicBool,
    lost: AtomicU64,
    limits: StoreLimits,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    /// The oldest first. Bounded by the store's limits.
    journeys: VecDeque<KeptJourney>,
    bytes: usize,
    /// That of the next journey to be taken in. The others have those just before it, in order.
    next_serial: u64,
}

impl Default for Kept {
    fn default() -> Self {
        Self { journeys: VecDeque::new(), bytes: 0, next_serial: 1 }
    }
}

#[derive(Debug)]
struct KeptJourney {
    journey: StoredJourney,
    bytes: usize,
}

impl Shared {
    /// The life of the store's thread.
    fn look_after(&self, interval: Duration) {
        while !self.is_closed.load(Ordering::SeqCst) {
            self.take_in();
            thread::park_timeout(interval);
        }
    }

    /// Moves what has arrived to where it is kept, and lets go of what is too old or too much.
    fn take_in(&self) {
        let mut kept = self.kept.lock();
        if self.is_closed.load(Ordering::SeqCst) {
            return;
        }
        // No more than one queue at a time, however fast journeys come.
        for _ in 0..QUEUE_CAPACITY {
            let Some(journey) = self.arrivals.pop() else { break };
            self.keep(&mut kept, journey.into());
        }
    }

    /// Keeps one more, and lets go of what is too old or too much.
    fn keep(&self, kept: &mut Kept, journey: StoredJourney) {
        // A panic costs the journey; neither the store's thread nor a reader's request.
        let Ok(bytes) = catch_unwind(AssertUnwindSafe(|| memory_bytes(&journey))) else {
            self.lost.fetch_add(1, Ordering::Relaxed);
            return;
        };
        kept.bytes += bytes;
        kept.journeys.push_back(KeptJourney { journey, bytes });
        kept.next_serial += 1;
        while kept.journeys.len() > self.limits.max_journeys || kept.bytes > self.limits.max_bytes {
            let Some(oldest) = kept.journeys.pop_front() else { break };
            kept.bytes -= oldest.bytes;
        }
    }

    /// Frees everything. Only when closed.
    fn discard(&self) {
        while self.arrivals.pop().is_some() {}
        *self.kept.lock() = Kept::default();
    }
}

fn memory_bytes(journey: &StoredJourney) -> usize {
    #[cfg(test)]
    assert!(journey.made().is_none_or(|made| made.cell().route() != tests::ROUTE_THAT_PANICS));
    journey.memory_bytes() + size_of::<KeptJourney>()
}

/// The store's end of the way from the threads that end journeys.
#[derive(Debug)]
struct Arrivals(Arc<Shared>);

impl JourneySink for Arrivals {
    fn accept(&self, journey: FinishedJourney) {
        let shared = &self.0;
        if shared.is_closed.load(Ordering::SeqCst) {
            return;
        }
        if shared.arrivals.push(journey).is_err() {
            shared.lost.fetch_add(1, Ordering::Relaxed);
        }
        // Closed between the two looks: the store may have been emptied before the push.
        if shared.is_closed.load(Ordering::SeqCst) {
            while shared.arrivals.pop().is_some() {}
        }
    }
}

#[cfg(test)]
mod tests {
    use wayfare_journey::{HeadSampler, IncomingHeaders, MonoNs, Tracer};
    use wayfare_testkit::{VirtualClock, wait_until};

    use super::*;

    /// Journeys of this route cannot be taken in.
    pub(super) const ROUTE_THAT_PANICS: &str = "/panic";
    const PATIENCE: Duration = Duration::from_secs(20);

    #[test]
    fn a_panic_over_a_journey_is_counted_and_the_store_goes_on() {
        let store = RecentJourneys::start(StoreLimits::default()).unwrap();
        let everything = HeadSampler::new(1.0).unwrap();
        let tracer = Tracer::new(Arc::new(VirtualClock::at(MonoNs(1))), everything, store.sink());
        let request = |route| {
            tracer.admit(IncomingHeaders::default(), route, MonoNs(1)).span.unwrap().complete(MonoNs(2));
        };
        // Looked at from outside without taking anything in: the store's thread does.
        let is_taken_in = |kept, lost| {
            let shared = &store.shared;
            shared.kept.lock().journeys.len() == kept && shared.lost.load(Ordering::Relaxed) == lost
        };
        ["/fine", ROUTE_THAT_PANICS, "/fine"].into_iter().for_each(request);
        wait_until(PATIENCE, || is_taken_in(2, 1));
        [ROUTE_THAT_PANICS, "/fine"].into_iter().for_each(request);
        wait_until(PATIENCE, || is_taken_in(3, 2));
        // A reader takes in what has come since.
        [ROUTE_THAT_PANICS, "/fine"].into_iter().for_each(request);
        let usage = store.reader().usage();
        assert_eq!((usage.journeys, usage.lost), (4, 3));
        assert_eq!(store.reader().newest(10, |_| true).len(), 4);
    }
}
