//! One engine core, as the engine thread sees it.

use bytes::Bytes;

use crate::clock_map::ClockMap;
use crate::sockets::identity;
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
}

impl Rank {
    pub(crate) fn new(index: u16, ready: &ReadyRank) -> Self {
        Self {
            identity: identity(index),
            layout: ready.layout,
            clock: ClockMap::new(ready.same_host),
            history: StepHistory::default(),
            num_kv_blocks: ready.ready.num_gpu_blocks.unwrap_or(1).saturating_sub(1).into(),
            max_num_batched_tokens: ready.ready.max_num_batched_tokens.unwrap_or(u32::MAX),
            stats: None,
            standings: Standings::default(),
            is_dead: false,
        }
    }
}
