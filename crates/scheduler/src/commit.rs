//! What a computed step changes.
//!
//! HOT PATH.

use smallvec::SmallVec;
use wayfare_engine::{FinishReason, FirstOutput, SequenceOutput, TokenId};
use wayfare_journey::{MonoNs, StepTimes};

use crate::scheduler::Scheduler;

impl Scheduler {
    /// Takes the tokens sampled in the planned step, one for each planned sequence with a `sample`, in
    /// order, and appends what is new to `outputs`. A sequence that ended since the plan is passed over.
    ///
    /// # Panics
    /// When there are fewer tokens than the plan asks for: the executor broke its contract.
    pub fn commit(&mut self, tokens: &[TokenId], now: MonoNs, outputs: &mut Vec<SequenceOutput>) {
        let now = self.observe(now);
        let times = self.end_step(now);
        let step = self.step;
        let mut sampled = tokens.iter();
        let mut has_ended = false;
        for index in 0..self.plan.sequences.len() {
            let planned = self.plan.sequences[index];
            let Some(sequence) = self.sequences.get_mut(planned.slot).filter(|s| s.id == planned.id) else {
                // Its token, if it was to get one, must not go to the next sequence.
                if planned.samples {
                    sampled.next();
                }
                continue;
            };
            let work = sequence.work(planned.num_tokens);
            sequence.advance(work, &times);
            self.totals.prompt_tokens += u64::from(work.prompt_tokens);
            self.totals.recomputed_tokens += u64::from(work.recomputed_tokens);
            if !planned.samples {
                continue;
            }
            let token = *sampled.next().expect("the executor gives one token per sampling sequence");
            let is_first = sequence.num_output() == 0;
            let ending = sequence.append(token, self.config.max_model_len, step, now);
            self.totals.generation_tokens += 1;
            let output = SequenceOutput {
                id: planned.id,
                tokens: SmallVec::from_slice(&[token]),
                first: is_first.then_some(FirstOutput { cached_tokens: sequence.cached }),
                details: None,
                finish: None,
            };
            match ending {
                None => outputs.push(output),
                Some((reason, terminator)) => {
                    has_ended = true;
                    outputs.push(self.end(planned.slot, reason, terminator, now, output));
                }
            }
        }
        if has_ended {
            let sequences = &self.sequences;
            self.running.retain(|slot| sequences.contains(*slot));
        }
        if self.board.is_some() {
            self.show_progress(now);
        }
        self.plan.clear();
    }

    /// Shows how far the sequences of the step have come. Out of line, so that a step that nobody looks at is the
    /// same code whether it could be shown or not.
    #[inline(never)]
    fn show_progress(&self, now: MonoNs) {
        for planned in &self.plan.sequences {
            let sequence = self.sequences.get(planned.slot).filter(|sequence| sequence.id == planned.id);
            if let Some(sequence) = sequence {
                sequence.show_progress(planned.samples, now);
            }
        }
    }

    /// Ends every sequence of the step that was planned last, because it could not be computed.
    pub fn fail_step(&mut self, now: MonoNs, outputs: &mut Vec<SequenceOutput>) {
        let now = self.observe(now);
        let times = self.end_step(now);
        let failed = std::mem::take(&mut self.plan.sequences);
        for planned in &failed {
            let is_alive = |sequence: &&mut crate::sequence::Sequence| sequence.id == planned.id;
            if let Some(sequence) = self.sequences.get_mut(planned.slot).filter(is_alive) {
                // The time went into this work, though nothing came of it.
                let work = sequence.work(planned.num_tokens);
                sequence.meter.stepped(&times, work);
                self.unregister_uncomputed(planned.slot);
            }
        }
        for planned in &failed {
            self.finish(planned.id, FinishReason::Error, now, outputs);
        }
        self.plan.clear();
    }

    fn end_step(&mut self, now: MonoNs) -> StepTimes {
        let plan = &self.plan;
        let previous_end = self.previous_end;
        if !plan.is_empty() {
            self.previous_end = now;
        }
        if let Some(board) = &self.board {
            board.end_step(now);
        }
        StepTimes::new(previous_end, plan.started, now, plan.prefill_tokens, plan.total_tokens)
    }
}
