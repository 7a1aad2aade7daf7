//! Long journeys stay small, keep FINISHED, and do not lie.

use proptest::prelude::*;
use wayfare_journey::{
    CoreEvent, CoreEventKind, CoreRecord, FinishStatus, MAX_CORE_EVENTS, MonoNs, Phase, Progress,
    RequestLabel, ScheduleKind,
};

use crate::rig::{Rig, event};

/// One life in the engine: what happens, one after the other, with growing times and steps.
struct Life {
    rig: Rig,
    api: Option<wayfare_journey::ApiSpan>,
    core: Option<wayfare_journey::CoreSpan>,
    now: u64,
    progress: Progress,
    preemptions: u32,
    tokens_lost: u64,
    blocks_freed: u64,
    preempted_ns: u64,
}

impl Life {
    fn new() -> Self {
        let rig = Rig::new(1.0);
        let api = rig.admit();
        let core = api.handle().open_cores(&[(100, 1_000)], MonoNs(10)).pop();
        let mut life = Self {
            rig,
            api: Some(api),
            core,
            now: 10,
            progress: Progress::default(),
            preemptions: 0,
            tokens_lost: 0,
            blocks_freed: 0,
            preempted_ns: 0,
        };
        life.record(CoreEventKind::Queued);
        life.schedule(ScheduleKind::First);
        life
    }

    fn event(&mut self, kind: CoreEventKind) -> CoreEvent {
        self.now += 7;
        CoreEvent {
            step: self.now / 3,
            progress: self.progress,
            num_preemptions: self.preemptions,
            phase: Phase::Prefill,
            ..event(kind, self.now)
        }
    }

    fn record(&mut self, kind: CoreEventKind) {
        let event = self.event(kind);
        self.core.as_mut().unwrap().record(event);
    }

    fn schedule(&mut self, kind: ScheduleKind) {
        self.record(CoreEventKind::Scheduled { kind, cached_tokens: 0, scheduled_tokens: 3, wait: None });
        self.progress.prefill_done = (self.progress.prefill_done + 1).min(100);
    }

    fn first_token(&mut self) {
        self.progress.decode_done = 1;
        self.record(CoreEventKind::FirstToken);
    }

    fn preempt(&mut self, by: Option<&str>, pause: u64) {
        self.preemptions += 1;
        let (tokens_lost, blocks_freed) = (self.preemptions % 5 + 1, self.preemptions % 3 + 1);
        self.tokens_lost += u64::from(tokens_lost);
        self.blocks_freed += u64::from(blocks_freed);
        self.record(CoreEventKind::Preempted { by: by.map(RequestLabel::new), tokens_lost, blocks_freed });
        self.now += pause;
        self.preempted_ns += pause + 7;
    }

    fn finish(mut self) -> Rig {
        let event = self.event(CoreEventKind::Finished { status: FinishStatus::Length });
        self.core.take().unwrap().finish(event);
        self.api.take().unwrap().complete(MonoNs(self.now + 1));
        self.rig
    }
}

/// The rules of a core span, folded pairs counted as what they stand for.
fn check_rules(record: &CoreRecord) -> Result<(), TestCaseError> {
    let events = &record.events;
    prop_assert!(events.len() <= MAX_CORE_EVENTS, "{} events", events.len());
    prop_assert_eq!(record.dropped_events, 0);
    let count = |wanted: fn(&CoreEventKind) -> bool| events.iter().filter(|one| wanted(&one.kind)).count();
    prop_assert_eq!(&events[0].kind, &CoreEventKind::Queued);
    let is_finished = matches!(events.last().unwrap().kind, CoreEventKind::Finished { .. });
    prop_assert!(is_finished);
    prop_assert_eq!(count(|kind| matches!(kind, CoreEventKind::Queued)), 1);
    prop_assert_eq!(count(|kind| matches!(kind, CoreEventKind::Finished { .. })), 1);
    prop_assert!(count(|kind| matches!(kind, CoreEventKind::FirstToken)) <= 1);
    let is_first =
        |kind: &CoreEventKind| matches!(kind, CoreEventKind::Scheduled { kind: ScheduleKind::First, .. });
    prop_assert!(count(is_first) <= 1);
    let mut preempted = 0;
    for (index, pair) in events.windows(2).enumerate() {
        let [one, next] = pair else { unreachable!() };
        if matches!(one.kind, CoreEventKind::Preempted { .. }) {
            preempted += record.folded(index).map_or(1, |folded| folded.pairs);
            let follows = matches!(
                next.kind,
                CoreEventKind::Scheduled { kind: ScheduleKind::Resume, .. } | CoreEventKind::Finished { .. }
            );
            prop_assert!(follows, "{:?} follows PREEMPTED", next.kind);
        } else {
            prop_assert_eq!(record.folded(index), None);
        }
        prop_assert_eq!(one.num_preemptions, preempted, "at event {}", index);
        prop_assert!(one.at <= next.at && one.step <= next.step);
        prop_assert!(one.progress.prefill_done <= next.progress.prefill_done);
    }
    Ok(())
}

proptest! {
    #[test]
    fn folding_keeps_the_rules_and_the_totals(
        preemptions in 0_usize..400,
        first_token_after in 0_usize..400,
        pause in 0_u64..1_000,
        ends_preempted: bool,
    ) {
        let mut life = Life::new();
        for number in 0..preemptions {
            if number == first_token_after {
                life.first_token();
            }
            life.preempt((number % 2 == 0).then_some("cmpl-other"), pause);
            if number + 1 < preemptions || !ends_preempted {
                life.schedule(ScheduleKind::Resume);
            }
        }
        let (lost, freed, preempted_ns, end) =
            (life.tokens_lost, life.blocks_freed, life.preempted_ns, life.now + 7);
        let rig = life.finish();
        let journey = rig.journey();
        let (_, record) = journey.cores().next().unwrap();
        check_rules(record)?;

        prop_assert_eq!(record.num_preemptions() as usize, preemptions);
        prop_assert_eq!(record.ended(), MonoNs(end));
        prop_assert_eq!(record.first_token().is_some(), first_token_after < preemptions);
        let (mut seen_lost, mut seen_freed, mut seen_ns) = (0, 0, 0);
        for (index, one) in record.events.iter().enumerate() {
            if let CoreEventKind::Preempted { tokens_lost, blocks_freed, .. } = one.kind {
                seen_lost += u64::from(tokens_lost);
                seen_freed += u64::from(blocks_freed);
                let own_pause = record.events[index + 1].at.since(one.at);
                seen_ns += record.folded(index).map_or(own_pause, |folded| folded.preempted_ns);
            }
        }
        prop_assert_eq!((seen_lost, seen_freed, seen_ns), (lost, freed, preempted_ns));
        let first: Vec<_> = record.events.iter().take(32.min(record.events.len())).collect();
        prop_assert!(first.len() < 32 || first.iter().enumerate().all(|(index, _)| record.folded(index).is_none()));
    }
}

#[test]
fn the_blame_is_kept_only_where_it_is_the_same_for_all() {
    for (others, expected) in [(["cmpl-a", "cmpl-a"], Some("cmpl-a")), (["cmpl-a", "cmpl-b"], None)] {
        let mut life = Life::new();
        for number in 0..100 {
            life.preempt(Some(others[number % 2]), 1);
            life.schedule(ScheduleKind::Resume);
        }
        let journey = life.finish().journey();
        let (_, record) = journey.cores().next().unwrap();
        let folded: Vec<_> =
            record.events.iter().enumerate().filter(|(index, _)| record.folded(*index).is_some()).collect();
        let [(_, CoreEvent { kind: CoreEventKind::Preempted { by, .. }, .. })] = folded.as_slice() else {
            panic!("{folded:?}");
        };
        assert_eq!(by.as_ref().map(RequestLabel::as_str), expected);
    }
}

#[test]
fn an_engine_that_breaks_the_rules_is_counted_and_still_ends() {
    let rig = Rig::new(1.0);
    let api = rig.admit();
    let mut core = api.handle().open_cores(&[(1, 1)], MonoNs(10)).pop().unwrap();
    for at in 0..1_000 {
        core.record(event(CoreEventKind::FirstToken, 10 + at));
    }
    drop(core);
    api.complete(MonoNs(2_000));
    let journey = rig.journey();
    let (_, record) = journey.cores().next().unwrap();
    assert_eq!(record.events.len(), MAX_CORE_EVENTS);
    assert_eq!(record.dropped_events as usize, 1_000 - (MAX_CORE_EVENTS - 1));
    assert_eq!(record.finish_status(), Some(FinishStatus::Aborted));
}

#[test]
fn nothing_follows_finished() {
    let rig = Rig::new(1.0);
    let api = rig.admit();
    let mut core = api.handle().open_cores(&[(1, 1)], MonoNs(10)).pop().unwrap();
    core.record(event(CoreEventKind::Queued, 11));
    core.record(event(CoreEventKind::Finished { status: FinishStatus::Stopped }, 12));
    core.record(event(CoreEventKind::FirstToken, 13));
    drop(core);
    api.complete(MonoNs(20));
    let journey = rig.journey();
    let (_, record) = journey.cores().next().unwrap();
    assert_eq!((record.events.len(), record.dropped_events), (2, 1));
    assert_eq!(record.finish_status(), Some(FinishStatus::Stopped));
}
