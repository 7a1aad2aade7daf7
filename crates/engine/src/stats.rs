//! The engine's gauges and totals, readable from any thread at any time.

use std::sync::atomic::{AtomicU64, Ordering};

use wayfare_journey::EngineTotals;

macro_rules! stats {
    ($($(#[$doc:meta])* $field:ident,)*) => {
        /// The engine's state and totals at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct EngineStats {
            $($(#[$doc])* pub $field: u64,)*
        }

        impl std::ops::AddAssign for EngineStats {
            fn add_assign(&mut self, other: Self) {
                $(self.$field = self.$field.saturating_add(other.$field);)*
            }
        }

        /// The same, shared: one writer (the engine), any number of readers, no lock. Fields are read one
        /// by one, so two of them may be one step apart.
        #[derive(Debug, Default)]
        pub struct StatsCell {
            $($field: AtomicU64,)*
        }

        impl StatsCell {
            /// Publishes a new state.
            pub fn store(&self, stats: &EngineStats) {
                $(self.$field.store(stats.$field, Ordering::Relaxed);)*
            }

            /// Reads the latest state.
            #[must_use]
            pub fn load(&self) -> EngineStats {
                EngineStats { $($field: self.$field.load(Ordering::Relaxed),)* }
            }
        }
    };
}

stats! {
    /// Sequences that hold KV blocks and take part in steps.
    running,
    /// Sequences in the waiting queue, preempted ones included.
    waiting,
    /// KV blocks in use.
    kv_blocks_used,
    /// KV blocks that sequences can use at all.
    kv_blocks_total,
    /// Steps started.
    steps,
    /// Preemptions.
    preemptions,
    /// Prompt tokens computed for the first time or found in the cache.
    prompt_tokens,
    /// Tokens generated.
    generation_tokens,
    /// Tokens computed again after a preemption.
    recomputed_tokens,
    /// Prompt tokens of sequences that were scheduled for the first time while the prefix cache was on.
    prefix_cache_queries,
    /// Those of them that were found in it. What a preempted sequence finds again does not count.
    prefix_cache_hits,
    /// 1 while the engine is paused; of several engines, how many are.
    paused,
}

impl EngineStats {
    /// What of it a live view shows.
    #[must_use]
    pub fn totals(&self) -> EngineTotals {
        EngineTotals {
            running: self.running,
            waiting: self.waiting,
            kv_blocks_used: self.kv_blocks_used,
            kv_blocks_total: self.kv_blocks_total,
            preemptions: self.preemptions,
            prompt_tokens: self.prompt_tokens,
            generation_tokens: self.generation_tokens,
            is_paused: self.paused > 0,
        }
    }
}
