//! An executor that computes nothing, and fails, panics, waits or stands still when the test says so.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use wayfare_engine::TokenId;
use wayfare_engine_local::{Executor, ExecutorError, RuleBook, SampleSpec, StepInput};

/// What a step does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StepBehaviour {
    /// Gives its tokens at once.
    #[default]
    Compute,
    /// Gives them after a while.
    Slow(Duration),
    /// Is not computed: the engine fails the sequences of the step.
    Fail,
    /// Panics: the engine dies.
    Panic,
}

#[derive(Debug, Default)]
struct State {
    next: VecDeque<StepBehaviour>,
    otherwise: StepBehaviour,
    is_held: bool,
    is_waiting: bool,
}

/// By which a test tells a running [`FaultyExecutor`] what to do. Clones act on the same one.
#[derive(Clone, Debug, Default)]
pub struct ExecutorControl(Arc<(Mutex<State>, Condvar)>);

impl ExecutorControl {
    /// The next step that has no behaviour yet has this one.
    pub fn next_step(&self, behaviour: StepBehaviour) {
        self.0.0.lock().next.push_back(behaviour);
    }

    /// Every step without a behaviour of its own has this one from now on.
    pub fn every_step(&self, behaviour: StepBehaviour) {
        self.0.0.lock().otherwise = behaviour;
    }

    /// Steps that begin from now on stand still until [`ExecutorControl::release`].
    pub fn hold(&self) {
        self.0.0.lock().is_held = true;
    }

    /// Lets steps go on.
    pub fn release(&self) {
        self.0.0.lock().is_held = false;
        self.0.1.notify_all();
    }

    /// Whether a step stands still now.
    #[must_use]
    pub fn is_standing_still(&self) -> bool {
        self.0.0.lock().is_waiting
    }

    /// Waits while it is held; gives the behaviour of the step.
    fn begin(&self) -> StepBehaviour {
        let (state, released) = &*self.0;
        let mut state = state.lock();
        while state.is_held {
            state.is_waiting = true;
            released.wait(&mut state);
        }
        state.is_waiting = false;
        state.next.pop_front().unwrap_or_else(|| state.otherwise.clone())
    }
}

type Tokens = Box<dyn FnMut(&SampleSpec) -> TokenId + Send>;
type Faults = Box<dyn FnMut(&StepInput) -> StepBehaviour + Send>;

/// An executor whose tokens and failures are the test's.
pub struct FaultyExecutor {
    control: ExecutorControl,
    tokens: Tokens,
    faults: Faults,
}

impl FaultyExecutor {
    /// An executor that takes each token from `tokens`, which knows the sequence's seed and which of its
    /// output tokens it is; and what it obeys.
    pub fn new(tokens: impl FnMut(&SampleSpec) -> TokenId + Send + 'static) -> (Self, ExecutorControl) {
        let control = ExecutorControl::default();
        let faults = Box::new(|_: &StepInput| StepBehaviour::Compute);
        (Self { control: control.clone(), tokens: Box::new(tokens), faults }, control)
    }

    /// The same, with a behaviour of every step for which the control has none. Called on the engine's thread.
    #[must_use]
    pub fn with_faults(self, faults: impl FnMut(&StepInput) -> StepBehaviour + Send + 'static) -> Self {
        Self { faults: Box::new(faults), ..self }
    }
}

impl Executor for FaultyExecutor {
    fn execute(
        &mut self,
        input: &StepInput,
        _: &mut RuleBook,
        tokens: &mut Vec<TokenId>,
    ) -> Result<(), ExecutorError> {
        let behaviour = match self.control.begin() {
            StepBehaviour::Compute => (self.faults)(input),
            ordered => ordered,
        };
        match behaviour {
            StepBehaviour::Compute => {}
            StepBehaviour::Slow(time) => thread::sleep(time),
            StepBehaviour::Fail => return Err(ExecutorError("the test wants this step to fail".into())),
            StepBehaviour::Panic => panic!("the test wants this step to panic"),
        }
        let samples = input.sequences.iter().filter_map(|sequence| sequence.sample.as_ref());
        tokens.extend(samples.map(&mut self.tokens));
        Ok(())
    }
}

impl fmt::Debug for FaultyExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyExecutor").field("control", &self.control).finish_non_exhaustive()
    }
}
