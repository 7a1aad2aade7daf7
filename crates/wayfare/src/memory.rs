//! How much memory there is, and how large the KV cache becomes.

use anyhow::{Context as _, Result, bail};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// The share of the memory left by the weights that the KV cache takes when nothing else is said.
const KV_SHARE: f64 = 0.5;

/// Memory that can be had without swapping, in bytes; that of the container, if it is limited.
///
/// # Errors
/// When the system does not say.
pub(crate) fn available_bytes() -> Result<u64> {
    let refresh = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system =
        System::new_with_specifics(refresh).context("the system does not say how much memory is free")?;
    let of_container = system.cgroup_limits().map(|limits| limits.free_memory);
    Ok(of_container.unwrap_or(u64::MAX).min(system.available_memory()))
}

/// What a KV cache is sized from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KvDemand {
    pub(crate) available_bytes: u64,
    pub(crate) weight_bytes: u64,
    pub(crate) kv_bytes_per_token: u64,
    pub(crate) block_size: u32,
    pub(crate) max_num_seqs: u32,
    pub(crate) max_model_len: u32,
    /// The number of blocks that was asked for.
    pub(crate) num_blocks: Option<u32>,
}

/// KV blocks of the pool, the reserved one included.
///
/// # Errors
/// When the weights, or the blocks that were asked for, do not fit.
pub(crate) fn num_kv_blocks(demand: &KvDemand) -> Result<u32> {
    let KvDemand { available_bytes, weight_bytes, block_size, .. } = *demand;
    if weight_bytes > available_bytes {
        bail!(
            "the model's weights take {}, but only {} of memory are free; serve a smaller or more quantised \
             model, or free some memory",
            gibibytes(weight_bytes),
            gibibytes(available_bytes)
        );
    }
    let block_bytes = (demand.kv_bytes_per_token * u64::from(block_size)).max(1);
    let free_bytes = available_bytes - weight_bytes;
    if let Some(asked) = demand.num_blocks {
        let bytes = block_bytes.saturating_mul(u64::from(asked));
        if bytes > free_bytes {
            bail!(
                "{asked} KV blocks take {}, but only {} of memory are left beside the weights; lower \
                 --num-gpu-blocks-override",
                gibibytes(bytes),
                gibibytes(free_bytes)
            );
        }
        return Ok(asked);
    }
    // More than every running sequence at its longest is never used.
    let blocks_per_sequence = u64::from(demand.max_model_len.div_ceil(block_size));
    let useful = blocks_per_sequence.saturating_mul(u64::from(demand.max_num_seqs)) + 1;
    let affordable = (free_bytes as f64 * KV_SHARE) as u64 / block_bytes;
    let blocks = useful.min(affordable);
    if blocks < 2 {
        bail!(
            "only {} of memory are left beside the weights, too little for a KV cache; free some memory or \
             serve a smaller model",
            gibibytes(free_bytes)
        );
    }
    Ok(u32::try_from(blocks).unwrap_or(u32::MAX))
}

/// A number of bytes for people.
pub(crate) fn gibibytes(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMAND: KvDemand = KvDemand {
        available_bytes: 10_000,
        weight_bytes: 2_000,
        kv_bytes_per_token: 10,
        block_size: 4,
        max_num_seqs: 2,
        max_model_len: 1000,
        num_blocks: None,
    };

    #[test]
    fn half_of_what_the_weights_leave_goes_to_the_cache() {
        assert_eq!(num_kv_blocks(&DEMAND).unwrap(), 100);
    }

    #[test]
    fn no_more_blocks_than_sequences_can_use() {
        let small = KvDemand { max_model_len: 10, ..DEMAND };
        assert_eq!(num_kv_blocks(&small).unwrap(), 2 * 3 + 1);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_sizes() {
        let refused = |demand: KvDemand| num_kv_blocks(&demand).unwrap_err().to_string();
        assert!(refused(KvDemand { weight_bytes: 20_000, ..DEMAND }).contains("weights"));
        assert!(refused(KvDemand { num_blocks: Some(300), ..DEMAND }).contains("--num-gpu-blocks-override"));
        assert!(refused(KvDemand { weight_bytes: 9_999, ..DEMAND }).contains("too little"));
        assert_eq!(num_kv_blocks(&KvDemand { num_blocks: Some(150), ..DEMAND }).unwrap(), 150);
    }

    #[test]
    fn this_machine_has_memory() {
        assert!(available_bytes().unwrap() > 1 << 20);
    }
}
