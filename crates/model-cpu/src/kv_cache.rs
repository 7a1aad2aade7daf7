//! Keys and values of all blocks.

use crate::{
    kernels::{LANES, Lanes},
    memory::{Arena, Array},
    parallel::DisjointMut,
};
use half::{bf16, f16};
use std::{fmt, io, ops::Range};

/// What keys and values are stored as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvCacheType {
    /// Half precision. Attention over long contexts is bound by reading the cache, so half the bytes is nearly half
    /// the time, and its 11 significant bits are below what the rest of the arithmetic adds as error.
    #[default]
    Float16,
    /// As many bits with a wider range and 8 of them significant, as models in bfloat16 have had in training.
    BFloat16,
    /// The numbers as they were computed.
    Float32,
}

impl KvCacheType {
    /// Bytes of a stored component.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Self::Float16 | Self::BFloat16 => 2,
            Self::Float32 => 4,
        }
    }
}

impl fmt::Display for KvCacheType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Float16 => "float16",
            Self::BFloat16 => "bfloat16",
            Self::Float32 => "float32",
        })
    }
}

/// A stored component of a key or value.
pub(crate) trait Component: bytemuck::Pod + Send + Sync {
    fn widen<L: Lanes>(lanes: L, stored: &[Self; LANES]) -> L::Floats;
    fn narrow<L: Lanes>(lanes: L, floats: &[f32; LANES]) -> [Self; LANES];
}

impl Component for f16 {
    #[inline(always)]
    fn widen<L: Lanes>(lanes: L, stored: &[Self; LANES]) -> L::Floats {
        lanes.widen_f16(bytemuck::cast_ref(stored))
    }

    /// What is too large becomes the largest number, as infinity would spoil the row.
    #[inline(always)]
    fn narrow<L: Lanes>(lanes: L, floats: &[f32; LANES]) -> [Self; LANES] {
        let mut bounded = *floats;
        for float in &mut bounded {
            *float = float.clamp(-65504.0, 65504.0);
        }
        bytemuck::cast(lanes.narrow_f16(lanes.load(&bounded)))
    }
}

impl Component for bf16 {
    #[inline(always)]
    fn widen<L: Lanes>(lanes: L, stored: &[Self; LANES]) -> L::Floats {
        let mut floats = [0.0; LANES];
        for (float, component) in floats.iter_mut().zip(stored) {
            *float = f32::from_bits(u32::from(component.to_bits()) << 16);
        }
        lanes.load(&floats)
    }

    #[inline(always)]
    fn narrow<L: Lanes>(_: L, floats: &[f32; LANES]) -> [Self; LANES] {
        // Numbers that would round up to infinity become the largest one.
        const LARGEST: f32 = f32::from_bits(0x7f7f_0000);
        floats.map(|float| bf16::from_f32(float.clamp(-LARGEST, LARGEST)))
    }
}

impl Component for f32 {
    #[inline(always)]
    fn widen<L: Lanes>(lanes: L, stored: &[Self; LANES]) -> L::Floats {
        lanes.load(stored)
    }

    #[inline(always)]
    fn narrow<L: Lanes>(_: L, floats: &[f32; LANES]) -> [Self; LANES] {
        *floats
    }
}

/// How keys and values are laid out: block after block, and in a block layer after layer, of each first the keys.
/// Blocks are cut by head, so that one head's part of a block is contiguous: keys dimension by dimension (all positions
/// of one dimension side by side, for scores of many positions at once), values position by position.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KvLayout {
    pub(crate) num_blocks: usize,
    pub(crate) block_size: usize,
    pub(crate) num_layers: usize,
    pub(crate) num_kv_heads: usize,
    pub(crate) head_dim: usize,
}

impl KvLayout {
    /// Number of components of one head's keys, or values, in one block.
    pub(crate) fn head_block(&self) -> usize {
        self.block_size * self.head_dim
    }

    /// Where the keys of `head` in a block are.
    pub(crate) fn keys(&self, layer: usize, block: usize, head: usize) -> Range<usize> {
        let start = ((block * self.num_layers + layer) * 2 * self.num_kv_heads + head) * self.head_block();
        start..start + self.head_block()
    }

    /// Where the values of `head` in a block are.
    pub(crate) fn values(&self, layer: usize, block: usize, head: usize) -> Range<usize> {
        self.keys(layer, block, self.num_kv_heads + head)
    }

    /// Components of the whole cache; `None` when that overflows.
    pub(crate) fn components(&self) -> Option<usize> {
        self.num_blocks
            .checked_mul(self.num_layers)?
            .checked_mul(2 * self.num_kv_heads)?
            .checked_mul(self.block_size)?
            .checked_mul(self.head_dim)
    }
}

/// Bytes of KV cache per token position.
pub(crate) fn bytes_per_token(
    num_layers: usize,
    num_kv_heads: usize,
    head_dim: usize,
    kind: KvCacheType,
) -> u64 {
    (2 * num_layers * num_kv_heads * head_dim * kind.bytes()) as u64
}

/// What [`KvCache::provide`] takes of the system. The rest of the pool is taken as it is used.
const PROVIDED_BYTES: usize = 512 << 20;

/// Keys and values of all blocks and layers.
pub(crate) struct KvCache {
    pub(crate) layout: KvLayout,
    pub(crate) kind: KvCacheType,
    bytes: Array<u8>,
}

impl KvCache {
    /// An empty cache.
    ///
    /// # Errors
    /// When the system does not promise the memory.
    pub(crate) fn new(layout: KvLayout, kind: KvCacheType) -> io::Result<Self> {
        let bytes = layout.components().and_then(|components| components.checked_mul(kind.bytes()));
        // Of its own, because it is most of the machine's memory and seldom used whole.
        let bytes = Arena::default().array(bytes.ok_or(io::ErrorKind::OutOfMemory)?)?;
        Ok(Self { layout, kind, bytes })
    }

    /// Takes the memory of the blocks that are used first. Otherwise the first requests wait while the system clears
    /// it, and on a virtual machine also while the host does.
    pub(crate) fn provide(&mut self) {
        self.bytes.provide(PROVIDED_BYTES);
    }

    pub(crate) fn components<C: Component>(&self) -> &[C] {
        // An array is aligned for all kinds, and a whole number of components long.
        bytemuck::cast_slice(&self.bytes)
    }
}

/// Writes keys and values of single positions into one layer from several threads.
pub(crate) struct LayerWriter<'a, C> {
    layout: KvLayout,
    layer: usize,
    components: DisjointMut<'a, C>,
}

impl<'a, C: Component> LayerWriter<'a, C> {
    pub(crate) fn new(cache: &'a mut KvCache, layer: usize) -> Self {
        let components = DisjointMut::new(bytemuck::cast_slice_mut(&mut cache.bytes));
        Self { layout: cache.layout, layer, components }
    }

    /// Stores the key and value that `head` has at `offset` within `block`.
    ///
    /// # Safety
    /// No other thread may write the same head, block and offset.
    #[allow(unsafe_code, reason = "threads write different positions of one cache")]
    #[inline(always)]
    pub(crate) unsafe fn write<L: Lanes>(
        &self,
        lanes: L,
        block: usize,
        offset: usize,
        head: usize,
        key: &[f32],
        value: &[f32],
    ) {
        let start = self.layout.keys(self.layer, block, head).start;
        for (index, chunk) in key.chunks(LANES).enumerate() {
            for (dimension, component) in (index * LANES..).zip(&narrow::<C, L>(lanes, chunk)[..chunk.len()])
            {
                let at = start + dimension * self.layout.block_size + offset;
                // SAFETY: one component of this position only.
                unsafe { self.components.part(at..at + 1)[0] = *component };
            }
        }
        let at = self.layout.values(self.layer, block, head).start + offset * self.layout.head_dim;
        // SAFETY: this position only.
        let target = unsafe { self.components.part(at..at + self.layout.head_dim) };
        for (target, chunk) in target.chunks_mut(LANES).zip(value.chunks(LANES)) {
            target.copy_from_slice(&narrow::<C, L>(lanes, chunk)[..chunk.len()]);
        }
    }
}

/// Up to 16 components, filled up with zeros.
#[inline(always)]
fn narrow<C: Component, L: Lanes>(lanes: L, floats: &[f32]) -> [C; LANES] {
    if let Some(floats) = floats.first_chunk() {
        return C::narrow(lanes, floats);
    }
    let mut padded = [0.0; LANES];
    padded[..floats.len()].copy_from_slice(floats);
    C::narrow(lanes, &padded)
}
