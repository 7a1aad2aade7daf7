//! What an engine core says of its state with each step.

use super::WireError;
use super::reader::Reader;

/// The state of one engine core after a step. Zero where it says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SchedulerStats {
    /// Requests that take part in steps.
    pub running: u64,
    /// Requests in the waiting queue, those that wait for something else than their turn included.
    pub waiting: u64,
    /// Share of the KV blocks in use, from 0 to 1.
    pub kv_cache_usage: f64,
    /// Since the last message: prompt tokens that were looked for in the prefix cache.
    pub prefix_queries: u64,
    /// Since the last message: those of them that were found.
    pub prefix_hits: u64,
    /// Only with `--enable-logging-iteration-details`, since 0.28.
    pub iteration: Option<IterationDetails>,
}

/// What one step computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IterationDetails {
    /// Prompt tokens, and tokens computed again.
    pub prefill_tokens: u64,
    /// Output tokens.
    pub decode_tokens: u64,
}

impl SchedulerStats {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut stats = Self::default();
        for _ in 0..reader.map("scheduler_stats")? {
            match reader.str("a key of scheduler_stats")? {
                "num_running_reqs" => stats.running = reader.u64("num_running_reqs")?,
                "num_waiting_reqs" => {
                    stats.waiting = stats.waiting.saturating_add(reader.u64("num_waiting_reqs")?);
                }
                "num_skipped_waiting_reqs" => {
                    stats.waiting = stats.waiting.saturating_add(reader.u64("num_skipped_waiting_reqs")?);
                }
                "kv_cache_usage" => stats.kv_cache_usage = reader.f64("kv_cache_usage")?,
                "prefix_cache_stats" if !reader.take_nil() => stats.read_prefix_cache(reader)?,
                "iteration_details" if !reader.take_nil() => {
                    stats.iteration = Some(IterationDetails::read(reader)?);
                }
                // Nil was taken above.
                "prefix_cache_stats" | "iteration_details" => {}
                _ => reader.skip()?,
            }
        }
        if !(0.0..=1.0).contains(&stats.kv_cache_usage) {
            return Err(WireError::OutOfRange { place: "kv_cache_usage" });
        }
        Ok(stats)
    }

    fn read_prefix_cache(&mut self, reader: &mut Reader<'_>) -> Result<(), WireError> {
        for _ in 0..reader.map("prefix_cache_stats")? {
            match reader.str("a key of prefix_cache_stats")? {
                "queries" => self.prefix_queries = reader.u64("queries")?,
                "hits" => self.prefix_hits = reader.u64("hits")?,
                _ => reader.skip()?,
            }
        }
        Ok(())
    }
}

impl IterationDetails {
    fn read(reader: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut details = Self::default();
        for _ in 0..reader.map("iteration_details")? {
            match reader.str("a key of iteration_details")? {
                "num_ctx_tokens" => details.prefill_tokens = reader.u64("num_ctx_tokens")?,
                "num_generation_tokens" => details.decode_tokens = reader.u64("num_generation_tokens")?,
                _ => reader.skip()?,
            }
        }
        Ok(details)
    }
}
