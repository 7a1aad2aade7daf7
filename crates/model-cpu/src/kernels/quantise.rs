//! Activations in 8 bits, and the few values for which these are too coarse.

use super::{BLOCK, LANES, Lanes, SUM_FACTOR};

/// Quants go from minus to plus this.
const LEVELS: f32 = 127.0;

/// A value is an outlier when its magnitude is more than this times the mean magnitude of its row.
///
/// Single channels of a hidden state are so much larger than the rest of their block that a scale made for them leaves
/// the rest no bits: log-probabilities of a 135M model are then off by 0.035 on average, and by 0.016 with the outliers
/// apart. Below 8 there are soon so many of them that their products take longer than they are worth.
const MOST_OVER_MEAN: usize = 8;

/// 32 values of one row of activations: `value = scale * quant`. Outliers are left out, as zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C)]
pub(crate) struct ActivationBlock {
    pub(crate) scale: f32,
    /// Eight times the sum of the 32 quants in the upper half, which goes with the weights' middles, minus the same in
    /// the lower half: where sums of products with weights of 4 bits start, to be about the weights' centre.
    pub(crate) start: i32,
    pub(crate) quants: [i8; BLOCK],
}

impl ActivationBlock {
    /// The sum of the quants, times [`SUM_FACTOR`].
    #[inline(always)]
    pub(crate) fn sum(&self) -> i16 {
        (self.start as i16).wrapping_neg()
    }
}

/// A value that is multiplied as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Outlier {
    /// Its place in the row.
    pub(crate) channel: u32,
    pub(crate) value: f32,
}

impl Outlier {
    /// No row of `width` values has more of them: together they would exceed the sum of all magnitudes.
    pub(crate) const fn most(width: usize) -> usize {
        width / MOST_OVER_MEAN
    }
}

/// Rows in this form, all of one width.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QuantisedRows<'a> {
    /// Of a row.
    pub(crate) num_blocks: usize,
    /// Row after row.
    pub(crate) blocks: &'a [ActivationBlock],
    /// Room for this many for each row.
    pub(crate) most_outliers: usize,
    /// Row after row, in the order of their channels.
    pub(crate) outliers: &'a [Outlier],
    /// How many each row has.
    pub(crate) num_outliers: &'a [usize],
}

impl<'a> QuantisedRows<'a> {
    #[inline(always)]
    pub(crate) fn outliers_of(&self, row: usize) -> &'a [Outlier] {
        &self.outliers[row * self.most_outliers..][..self.num_outliers[row]]
    }
}

/// Quantises a row, and says how many outliers it has; a short last block is filled up with zeros.
#[inline(always)]
pub(crate) fn quantise_row<L: Lanes>(
    lanes: L,
    values: &[f32],
    blocks: &mut [ActivationBlock],
    outliers: &mut [Outlier],
) -> usize {
    let limit = MOST_OVER_MEAN as f32 * mean_magnitude(values);
    let mut num_outliers = 0;
    let (chunks, rest) = values.as_chunks::<BLOCK>();
    for (index, (chunk, block)) in chunks.iter().zip(blocks.iter_mut()).enumerate() {
        let outliers = &mut outliers[num_outliers..];
        num_outliers += quantise_block(lanes, chunk, index * BLOCK, limit, block, outliers);
    }
    if !rest.is_empty()
        && let Some(block) = blocks.get_mut(chunks.len())
    {
        let mut padded = [0.0; BLOCK];
        padded[..rest.len()].copy_from_slice(rest);
        let outliers = &mut outliers[num_outliers..];
        num_outliers += quantise_block(lanes, &padded, chunks.len() * BLOCK, limit, block, outliers);
    }
    num_outliers
}

#[inline(always)]
fn mean_magnitude(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut sums = [0.0; LANES];
    for chunk in chunks {
        for (sum, value) in sums.iter_mut().zip(chunk) {
            *sum += value.abs();
        }
    }
    let sum = sums.iter().sum::<f32>() + rest.iter().map(|value| value.abs()).sum::<f32>();
    sum / values.len() as f32
}

#[inline(always)]
fn quantise_block<L: Lanes>(
    lanes: L,
    values: &[f32; BLOCK],
    first_channel: usize,
    limit: f32,
    block: &mut ActivationBlock,
    outliers: &mut [Outlier],
) -> usize {
    let (first, second) = halves(lanes, values);
    let largest = lanes.largest_magnitude(first, second);
    if largest <= limit {
        quantise_halves(lanes, first, second, largest, block);
        return 0;
    }
    let above = lanes.above(first, limit) | lanes.above(second, limit) << LANES;
    let mut num_outliers = 0;
    let mut taken = 0;
    for (outlier, channel) in outliers.iter_mut().zip(ones(above)) {
        *outlier = Outlier { channel: (first_channel + channel) as u32, value: values[channel % BLOCK] };
        taken |= 1 << channel;
        num_outliers += 1;
    }
    let (first, second) = (lanes.without(first, taken), lanes.without(second, taken >> LANES));
    let largest = lanes.largest_magnitude(first, second);
    quantise_halves(lanes, first, second, largest, block);
    num_outliers
}

/// The places of the bits that are set.
#[inline(always)]
fn ones(bits: u32) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(bits), |bits| Some(bits & bits.wrapping_sub(1)))
        .take_while(|bits| *bits != 0)
        .map(|bits| bits.trailing_zeros() as usize)
}

#[inline(always)]
fn halves<L: Lanes>(lanes: L, values: &[f32; BLOCK]) -> (L::Floats, L::Floats) {
    let halves = values.as_chunks::<LANES>().0;
    (lanes.load(&halves[0]), lanes.load(&halves[1]))
}

#[inline(always)]
fn quantise_halves<L: Lanes>(
    lanes: L,
    first: L::Floats,
    second: L::Floats,
    largest: f32,
    block: &mut ActivationBlock,
) {
    // Below the smallest normal number the inverse would be infinite; such a block is as good as zero.
    let inverse = if largest >= f32::MIN_POSITIVE { LEVELS / largest } else { 0.0 };
    let sum = lanes.round_to_bytes(first, second, inverse, &mut block.quants);
    block.scale = largest * (1.0 / LEVELS);
    block.start = sum.wrapping_mul((SUM_FACTOR << 16) - SUM_FACTOR);
}
