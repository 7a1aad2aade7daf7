//! One engine core, as the engine thread sees it.

use bytes::Bytes;

use crate::clock_map::ClockMap;
use crate::standing::Standings;
use crate::startup::ReadyRank;
use crate::steps::StepHistory;
use crate::wire::{Layout, SchedulerStats};

#[derive(Debug)]
pub(crate) struct Rank {
    pub(crate) identity: Bytes,
    pub(crate) layout: Layout,
    pub(crate) clock: ClockMap,
    pub(crate) history: StepHistory,
    /// KV blocks that requests can use.
    pub(crate) num_kv_blocks: u64,
    pub(crate) max_num_batched_tokens: u32,
    /// What it said last of its state; `None` when it never does.
    pub(crate) stats: Option<SchedulerStats>,
    pub(crate) standings: Standings,
    pub(crate) is_dead: bool,
    /// Which of its connections it is on: the end of an earlier one is not its end.
    pub(crate) connection: u64,
}

impl Rank {
    pub(crate) fn new(identity: Bytes, ready: &ReadyRank) -> Self {
        Self {
            identity,
            layout: ready.layout,
            clock: ClockMap::new(ready.same_host),
            history: StepHistory::default(),
            num_kv_blocks: ready.ready.num_gpu_blocks.unwrap_or(1).saturating_sub(1).into(),
            max_num_batched_tokens: ready.ready.max_num_batched_tokens.unwrap_or(u32::MAX),
            stats: None,
            standings: Standings::default(),
            is_dead: false,
            connection: ready.connection,
        }
    }

    /// Another engine core has taken the place. Its steps are counted on from those of the one before.
    pub(crate) fn replace(&mut self, ready: &ReadyRank) {
        let history = std::mem::take(&mut self.history);
        *self = Self { history, ..Self::new(self.identity.clone(), ready) };
    }
}
