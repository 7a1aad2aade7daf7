//! An executor without weights: the same scheduler, steps that take a modelled time, answers that are made up,
//! and failures when they are asked for.

mod failures;
mod logits;
mod step_time;
mod text;

use std::fmt;
use std::time::Duration;

use wayfare_engine::TokenId;

pub use failures::{FailureKind, FailurePlan, RefusingEngine};
pub use step_time::{LinearStepTime, RequestLatencies, StepTimeModel, StepTimer, StepWork};
pub use text::{AnswerLength, AnswerText, Answers};

use crate::{Executor, ExecutorError, RuleBook, Sampler, StepInput};
use failures::Lottery;
use logits::MadeUpLogits;
use text::Speaker;

/// Gives made-up tokens at the modelled pace.
pub struct SimulatedExecutor {
    timer: StepTimer,
    speaker: Speaker,
    /// For sequences with rules.
    logits: MadeUpLogits,
    sampler: Sampler,
    failures: Option<Lottery>,
    pace: Box<dyn FnMut(Duration) + Send>,
}

impl SimulatedExecutor {
    /// An executor whose steps take the times of `timer`. `pace` lets a step's time pass: it sleeps, or moves a
    /// virtual clock.
    pub fn new(timer: StepTimer, answers: Answers, pace: impl FnMut(Duration) + Send + 'static) -> Self {
        Self {
            timer,
            logits: MadeUpLogits::new(&answers),
            speaker: Speaker::new(answers),
            sampler: Sampler::default(),
            failures: None,
            pace: Box::new(pace),
        }
    }

    /// An executor whose steps take real time.
    #[must_use]
    pub fn in_real_time(timer: StepTimer, answers: Answers) -> Self {
        Self::new(timer, answers, |time| {
            if !time.is_zero() {
                std::thread::sleep(time);
            }
        })
    }

    /// The same, with the failures of the plan that strike in steps.
    #[must_use]
    pub fn with_failures(self, plan: &FailurePlan) -> Self {
        Self { failures: plan.in_steps(), ..self }
    }

    /// What befalls this step: the first failure among the sequences that get their first token.
    fn failure(&self, input: &StepInput) -> Option<FailureKind> {
        let lottery = self.failures.as_ref()?;
        let first_tokens = input.sequences.iter().filter_map(|sequence| sequence.sample);
        // Every one of them draws, so that the share does not depend on who is computed together.
        let drawn = first_tokens.filter(|sample| sample.output_index == 0).filter_map(|_| lottery.draw());
        drawn.fold(None, |first, kind| first.or(Some(kind)))
    }
}

impl Executor for SimulatedExecutor {
    fn execute(
        &mut self,
        input: &StepInput,
        rules: &mut RuleBook,
        tokens: &mut Vec<TokenId>,
    ) -> Result<(), ExecutorError> {
        let mut time = self.timer.next(&StepWork::of(input));
        match self.failure(input) {
            None => {}
            Some(FailureKind::SlowStep(more)) => time = time.saturating_add(more),
            Some(FailureKind::EnginePanic) => panic!("an engine panic was injected"),
            Some(_) => return Err(ExecutorError("a failure was injected into this step".into())),
        }
        (self.pace)(time);
        self.speaker.listen(input);
        for sequence in &input.sequences {
            let said =
                sequence.sample.as_ref().map(|sample| self.speaker.next_token(input, sequence, sample));
            tokens.extend(if sequence.has_rules {
                self.logits.choose(sequence, said, rules, &mut self.sampler)
            } else {
                said
            });
        }
        Ok(())
    }
}

impl fmt::Debug for SimulatedExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedExecutor").field("timer", &self.timer).finish_non_exhaustive()
    }
}
