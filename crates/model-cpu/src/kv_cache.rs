//! Keys and values of all blocks.

use crate::parallel::DisjointMut;
use half::f16;
use memmap2::MmapMut;
use std::io;

/// Bytes of a stored key or value component: half precision. Attention over long contexts is bound by reading
/// the cache, so half the bytes is nearly half the time, and its 11 significant bits are below what the rest of
/// the arithmetic adds as error; bfloat16's 8 would not be.
const COMPONENT_BYTES: usize = size_of::<u16>();

/// How a layer's keys and values are laid out. Blocks are cut by head, so that one head's part of a block is
/// contiguous: keys dimension by dimension (all positions of one dimension side by side, for scores of many
/// positions at once), values position by position.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KvLayout {
    pub(crate) num_blocks: usize,
    pub(crate) block_size: usize,
    pub(crate) num_kv_heads: usize,
    pub(crate) head_dim: usize,
}

impl KvLayout {
    /// Number of components of one head in one block.
    pub(crate) fn head_block(&self) -> usize {
        self.block_size * self.head_dim
    }

    /// Where the part of `head` in `block` starts.
    pub(crate) fn start(&self, block: usize, head: usize) -> usize {
        (block * self.num_kv_heads + head) * self.head_block()
    }

    /// Components of the keys, or of the values, of a layer; `None` when that overflows.
    pub(crate) fn components(&self) -> Option<usize> {
        self.num_blocks
            .checked_mul(self.num_kv_heads)?
            .checked_mul(self.block_size)?
            .checked_mul(self.head_dim)
    }
}

/// Bytes of KV cache per token position.
pub(crate) fn bytes_per_token(num_layers: usize, num_kv_heads: usize, head_dim: usize) -> u64 {
    (2 * num_layers * num_kv_heads * head_dim * COMPONENT_BYTES) as u64
}

/// One layer's cache, as half precision bits.
pub(crate) struct LayerCache {
    keys: Zeroed,
    values: Zeroed,
}

impl LayerCache {
    /// An empty cache.
    ///
    /// # Errors
    /// When the system does not promise the memory.
    pub(crate) fn new(components: usize) -> io::Result<Self> {
        Ok(Self { keys: Zeroed::new(components)?, values: Zeroed::new(components)? })
    }

    pub(crate) fn keys(&self) -> &[u16] {
        self.keys.components()
    }

    pub(crate) fn values(&self) -> &[u16] {
        self.values.components()
    }
}

/// Components that are 0 and take no memory until they are written. Mapped, because allocators may fill what they
/// promise to be zero, and a pool is most of the machine's memory and seldom used whole.
struct Zeroed(MmapMut);

impl Zeroed {
    fn new(components: usize) -> io::Result<Self> {
        MmapMut::map_anon(components * COMPONENT_BYTES).map(Self)
    }

    fn components(&self) -> &[u16] {
        // A mapping starts with a page and is a whole number of components long.
        bytemuck::cast_slice(&self.0)
    }

    fn components_mut(&mut self) -> &mut [u16] {
        bytemuck::cast_slice_mut(&mut self.0)
    }
}

/// Writes keys and values of single positions into a layer's cache from several threads.
pub(crate) struct LayerWriter<'a> {
    layout: KvLayout,
    keys: DisjointMut<'a, u16>,
    values: DisjointMut<'a, u16>,
}

impl<'a> LayerWriter<'a> {
    pub(crate) fn new(layout: KvLayout, cache: &'a mut LayerCache) -> Self {
        Self {
            layout,
            keys: DisjointMut::new(cache.keys.components_mut()),
            values: DisjointMut::new(cache.values.components_mut()),
        }
    }

    /// Stores the key and value that `head` has at `offset` within `block`.
    ///
    /// # Safety
    /// No other thread may write the same head, block and offset.
    #[allow(unsafe_code, reason = "threads write different positions of one cache")]
    pub(crate) unsafe fn write(&self, block: usize, offset: usize, head: usize, key: &[f32], value: &[f32]) {
        let start = self.layout.start(block, head);
        for (dimension, &component) in key.iter().enumerate() {
            let at = start + dimension * self.layout.block_size + offset;
            // SAFETY: one component of this position only.
            unsafe { self.keys.part(at..at + 1)[0] = to_bits(component) };
        }
        let at = start + offset * self.layout.head_dim;
        // SAFETY: this position only.
        let target = unsafe { self.values.part(at..at + self.layout.head_dim) };
        for (target, &component) in target.iter_mut().zip(value) {
            *target = to_bits(component);
        }
    }
}

/// Half precision bits; what is too large becomes the largest number, as infinity would spoil the row.
fn to_bits(component: f32) -> u16 {
    f16::from_f32(component.clamp(-65504.0, 65504.0)).to_bits()
}
