//! One engine core, as the engine thread sees it.

use bytes::Bytes;
use wayfare_engine::EngineStats;

use crate::clock_map::ClockMap;
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
    pub(crate) said: Option<SchedulerStats>,
    /// What has been counted; its state is not in it.
    pub(crate) totals: EngineStats,
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
            said: None,
            totals: EngineStats::default(),
            is_dead: false,
            connection: ready.connection,
        }
    }

    /// Its state and totals. `in_flight` are the requests that it has been given.
    pub(crate) fn stats(&self, in_flight: u64, is_paused: bool) -> EngineStats {
        let totals = EngineStats { steps: self.history.count(), ..self.totals };
        if self.is_dead {
            return totals;
        }
        // Where it says nothing, nobody knows which of them wait.
        let (running, waiting, usage) =
            self.said.map_or((in_flight, 0, 0.0), |said| (said.running, said.waiting, said.kv_cache_usage));
        EngineStats {
            running,
            waiting,
            kv_blocks_used: (usage * self.num_kv_blocks as f64).round() as u64,
            kv_blocks_total: self.num_kv_blocks,
            paused: is_paused.into(),
            ..totals
        }
    }

    /// Another engine core has taken the place. What is counted goes on from what the one before had.
    pub(crate) fn replace(&mut self, ready: &ReadyRank) {
        let history = std::mem::take(&mut self.history);
        *self = Self { history, totals: self.totals, ..Self::new(self.identity.clone(), ready) };
    }
}
