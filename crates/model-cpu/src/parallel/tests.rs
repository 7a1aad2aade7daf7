use super::*;

#[test]
fn every_task_runs_once_and_results_are_visible() {
    let team = Team::new(3).expect("three threads");
    let mut seen = vec![0u32; 1000];
    for round in 1..=2_000 {
        // Every loop length around the number of threads, and now and then helpers that have gone to sleep.
        let num_tasks = round % 7 + usize::from(round % 50 == 0) * 900;
        if round % 500 == 0 {
            thread::sleep(std::time::Duration::from_millis(1));
        }
        seen.fill(0);
        let parts = DisjointMut::new(&mut seen);
        team.for_each(num_tasks, |worker, task| {
            assert!(worker < 3);
            // SAFETY: each task has its own element.
            unsafe { parts.part(task..task + 1)[0] += 1 };
        });
        assert!(seen[..num_tasks].iter().all(|&count| count == 1), "round {round}");
        assert!(seen[num_tasks..].iter().all(|&count| count == 0), "round {round}");
    }
}

#[test]
fn a_panic_in_any_task_reaches_the_caller_and_the_team_goes_on() {
    let team = Team::new(2).expect("two threads");
    for panicking in 0..64 {
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            team.for_each(64, |_, task| assert_ne!(task, panicking, "as wanted by the test"));
        }));
        assert!(outcome.is_err(), "task {panicking}");
    }
    let sum = AtomicUsize::new(0);
    team.for_each(100, |_, task| {
        sum.fetch_add(task, Ordering::Relaxed);
    });
    assert_eq!(sum.into_inner(), 4950);
}

#[test]
fn a_part_outside_the_buffer_is_refused() {
    let mut buffer = [0u8; 4];
    let parts = DisjointMut::new(&mut buffer);
    // SAFETY: no other part lives.
    let outcome = catch_unwind(AssertUnwindSafe(|| unsafe { parts.part(2..5) }.len()));
    assert!(outcome.is_err());
}
