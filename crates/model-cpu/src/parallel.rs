//! A team of threads that shares out the many small loops of a forward pass.
//!
//! HOT PATH. A forward of 30 layers is some 300 such loops of a few microseconds to a few milliseconds each, so
//! starting one must cost well under a microsecond: idle helpers spin for a moment before they sleep. A helper
//! that is late (asleep, or its processor busy with something else) is not waited for: the others take its
//! tasks, and it joins the next loop.
//!
//! Each thread starts with its own share of the tasks, which are neighbours: what one task has fetched ahead into the
//! cache of its processor is what the next one needs.
#![allow(
    unsafe_code,
    reason = "loops lend stack data to other threads, and tasks write disjoint parts of a buffer"
)]

use parking_lot::{Condvar, Mutex};
use std::{
    cell::{Cell, UnsafeCell},
    hint::spin_loop,
    marker::PhantomData,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
};

/// Spins of an idle helper before it sleeps: some 50 microseconds, more than the single-threaded parts of a
/// forward pass and less than anyone would notice as load between steps.
const SPINS_BEFORE_SLEEP: u32 = 2_000;
/// Spins of the caller that waits for a helper's last task before it offers its processor to others.
const SPINS_BEFORE_YIELD: u32 = 10_000;

/// [`Shared::state`]: the loop's number above, whether it may still be joined, how many helpers are in it.
const OPEN: u64 = 1 << 31;
const JOINED: u64 = OPEN - 1;

/// The loop body as a plain pointer; valid while the loop is open or a helper is in it.
#[derive(Clone, Copy)]
struct Body {
    call: unsafe fn(*const (), usize, usize),
    data: *const (),
    num_tasks: usize,
}

/// The next task of a thread's share. In lines of its own, as its thread writes it all the time.
#[derive(Default)]
#[repr(align(128))]
struct Share(AtomicUsize);

struct Shared {
    state: AtomicU64,
    body: UnsafeCell<Body>,
    /// One for each thread.
    shares: Box<[Share]>,
    panicked: AtomicBool,
    ended: AtomicBool,
    num_asleep: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `body` is written only by the team's owner while no loop is open and no helper is joined, and read only
// by joined helpers; joining and leaving are acquire and release operations on `state`.
unsafe impl Sync for Shared {}
// SAFETY: the pointers in `body` are to data that is `Sync` (see `Team::for_each`).
unsafe impl Send for Shared {}

/// Threads that run loops together with the thread that owns the team.
pub(crate) struct Team {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    /// Loops of one team never overlap, so a team is used by one thread at a time.
    not_sync: PhantomData<Cell<()>>,
}

impl Team {
    /// Starts `num_threads - 1` helpers.
    pub(crate) fn new(num_threads: usize) -> std::io::Result<Self> {
        unsafe fn nothing(_: *const (), _: usize, _: usize) {}
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            body: UnsafeCell::new(Body { call: nothing, data: std::ptr::null(), num_tasks: 0 }),
            shares: (0..num_threads.max(1)).map(|_| Share::default()).collect(),
            panicked: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            num_asleep: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        });
        let mut team = Self { shared, helpers: Vec::new(), not_sync: PhantomData };
        for worker in 1..num_threads {
            let shared = Arc::clone(&team.shared);
            let helper = thread::Builder::new()
                .name(format!("model-cpu-{worker}"))
                .spawn(move || shared.help(worker))?;
            team.helpers.push(helper);
        }
        Ok(team)
    }

    /// Number of threads, the owner's included; worker numbers are below it.
    pub(crate) fn num_workers(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Calls `body(worker, task)` once for each task below `num_tasks`, on any threads, and returns when all
    /// calls have. Calls with the same worker number do not overlap.
    ///
    /// # Panics
    /// When a call panics.
    pub(crate) fn for_each<F: Fn(usize, usize) + Sync>(&self, num_tasks: usize, body: F) {
        unsafe fn call<F: Fn(usize, usize)>(data: *const (), worker: usize, task: usize) {
            // SAFETY: `data` is the `&F` of the `for_each` call that is still waiting.
            let body = unsafe { &*data.cast::<F>() };
            body(worker, task);
        }
        if num_tasks <= 1 || self.helpers.is_empty() {
            (0..num_tasks).for_each(|task| body(0, task));
            return;
        }
        let shared = &*self.shared;
        // SAFETY: the last loop was closed and left by all helpers, so nobody reads `body`.
        unsafe {
            *shared.body.get() = Body { call: call::<F>, data: std::ptr::from_ref(&body).cast(), num_tasks };
        }
        for (worker, share) in shared.shares.iter().enumerate() {
            share.0.store(shared.share(worker, num_tasks).start, Ordering::Relaxed);
        }
        shared.panicked.store(false, Ordering::Relaxed);
        let loop_number = (shared.state.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        shared.state.store((loop_number << 32) | OPEN, Ordering::SeqCst);
        let closing = CloseOnDrop(shared);
        if shared.num_asleep.load(Ordering::SeqCst) > 0 {
            drop(shared.sleep.lock());
            shared.wake.notify_all();
        }
        shared.for_each_left(0, num_tasks, |task| body(0, task));
        drop(closing);
        assert!(!shared.panicked.load(Ordering::Relaxed), "a task panicked on another thread");
    }

    /// [`Team::for_each`] with several items per task: calls `body(worker, item)` once for each item below `num_items`.
    ///
    /// # Panics
    /// When a call panics.
    pub(crate) fn for_each_item(&self, num_items: usize, body: impl Fn(usize, usize) + Sync) {
        /// Tasks per thread: some, so that a thread that is held up leaves its share to others.
        const TASKS_PER_WORKER: usize = 4;
        let per_task = num_items.div_ceil(self.num_workers() * TASKS_PER_WORKER).max(1);
        self.for_each(num_items.div_ceil(per_task), |worker, task| {
            (task * per_task..num_items.min((task + 1) * per_task)).for_each(|item| body(worker, item));
        });
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        drop(self.shared.sleep.lock());
        self.shared.wake.notify_all();
        for helper in self.helpers.drain(..) {
            // A helper catches the panics of its tasks, so there is nothing to learn from its end.
            let _ = helper.join();
        }
    }
}

/// Closes a loop and waits for the helpers in it, also when the owner's own task panics.
struct CloseOnDrop<'a>(&'a Shared);

impl Drop for CloseOnDrop<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0;
        while state & JOINED != 0 {
            spins += 1;
            if spins < SPINS_BEFORE_YIELD {
                spin_loop();
            } else {
                thread::yield_now();
            }
            state = self.0.state.load(Ordering::Acquire);
        }
    }
}

impl Shared {
    /// The tasks that `worker` starts with.
    fn share(&self, worker: usize, num_tasks: usize) -> Range<usize> {
        let start = |worker: usize| worker * num_tasks / self.shares.len();
        start(worker)..start(worker + 1)
    }

    /// Takes tasks that nobody has taken yet: those of the worker's own share, then those of the others'.
    fn for_each_left(&self, worker: usize, num_tasks: usize, mut run: impl FnMut(usize)) {
        let num_shares = self.shares.len();
        for owner in (worker..num_shares).chain(0..worker) {
            let (next, end) = (&self.shares[owner].0, self.share(owner, num_tasks).end);
            while next.load(Ordering::Relaxed) < end {
                let task = next.fetch_add(1, Ordering::Relaxed);
                if task < end {
                    run(task);
                }
            }
        }
    }

    fn help(&self, worker: usize) {
        let mut last_loop = 0;
        while let Some(state) = self.wait_for_loop(last_loop) {
            if self.state.compare_exchange(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            last_loop = state >> 32;
            // SAFETY: this helper has joined, so the owner waits for it before it touches `body` again.
            let body = unsafe { *self.body.get() };
            self.for_each_left(worker, body.num_tasks, |task| {
                // SAFETY: as above, `data` outlives this loop; `call` was made for its type.
                if catch_unwind(AssertUnwindSafe(|| unsafe { (body.call)(body.data, worker, task) })).is_err()
                {
                    self.panicked.store(true, Ordering::Relaxed);
                }
            });
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// The state of an open loop other than `last_loop`; `None` when the team ends.
    fn wait_for_loop(&self, last_loop: u64) -> Option<u64> {
        let open_loop = || {
            let state = self.state.load(Ordering::SeqCst);
            (state & OPEN != 0 && state >> 32 != last_loop).then_some(state)
        };
        for _ in 0..SPINS_BEFORE_SLEEP {
            if let Some(state) = open_loop() {
                return Some(state);
            }
            spin_loop();
        }
        self.num_asleep.fetch_add(1, Ordering::SeqCst);
        let mut guard = self.sleep.lock();
        let state = loop {
            if self.ended.load(Ordering::SeqCst) {
                break None;
            }
            if let Some(state) = open_loop() {
                break Some(state);
            }
            self.wake.wait(&mut guard);
        };
        drop(guard);
        self.num_asleep.fetch_sub(1, Ordering::SeqCst);
        state
    }
}

/// A buffer of which the tasks of a loop write different parts.
pub(crate) struct DisjointMut<'a, T> {
    start: *mut T,
    length: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: hands out parts of a `&mut [T]` under the contract of `part`.
unsafe impl<T: Send> Sync for DisjointMut<'_, T> {}

impl<'a, T> DisjointMut<'a, T> {
    pub(crate) fn new(buffer: &'a mut [T]) -> Self {
        Self { start: buffer.as_mut_ptr(), length: buffer.len(), lifetime: PhantomData }
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// While the result lives, no other part that overlaps it may live.
    ///
    /// # Panics
    /// When `range` is not within the buffer.
    #[inline]
    #[allow(clippy::mut_from_ref, reason = "the caller promises disjoint parts")]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.length, "part {range:?} of {}", self.length);
        // SAFETY: in bounds as just checked; exclusive by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.end - range.start) }
    }

    /// The address of the first element of `range`, for code that writes within it by pointer. The rules of
    /// [`DisjointMut::part`] hold for what is written.
    ///
    /// # Panics
    /// When `range` is not within the buffer.
    pub(crate) fn pointer(&self, range: Range<usize>) -> *mut T {
        assert!(range.start <= range.end && range.end <= self.length, "part {range:?} of {}", self.length);
        self.start.wrapping_add(range.start)
    }
}

#[cfg(test)]
mod tests;
