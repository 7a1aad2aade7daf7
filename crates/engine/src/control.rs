//! Steering a running engine.

use std::fmt::Debug;

/// What becomes of the requests in flight when the engine is paused. New ones are accepted in every mode and wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseMode {
    /// They stay where they are and go on later.
    Keep,
    /// Those that are running go on to their end; those that wait stay in the queue.
    Wait,
    /// They are aborted.
    Abort,
}

/// What an operator may ask of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EngineCommand {
    /// Stop computing. With [`PauseMode::Wait`] it is done when nothing is running any more.
    Pause(PauseMode),
    /// Go on. Nothing happens when the engine is not paused.
    Resume,
    /// Forget all cached prefixes, so that no later request finds what was computed before.
    ResetPrefixCache {
        /// Preempt what is running, so that it is computed anew as well; otherwise running requests keep their
        /// KV blocks, which nobody else will find.
        preempt_running: bool,
    },
}

/// What came of an [`EngineCommand`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineReply {
    /// Requests that were preempted.
    pub preempted: u64,
    /// Requests that were aborted.
    pub aborted: u64,
    /// KV blocks that were forgotten.
    pub forgotten_blocks: u64,
}

/// An engine that can be steered.
pub trait EngineControl: Send + Sync + Debug {
    /// Hands a command to the engine, which carries it out between two steps and then calls `done` on its own
    /// thread; `done` must not wait. It is dropped without a call when the engine is gone.
    fn command(&self, command: EngineCommand, done: Box<dyn FnOnce(EngineReply) + Send>);

    /// Whether the engine is paused.
    fn is_paused(&self) -> bool;
}
