use super::{
    BLOCK, EIGHT_BIT, FOUR_BIT, Instructions, Kernel, LANES, Lanes, MOST_MIDDLE, MOST_SCALE, PanelBlock,
    quantise::{ActivationBlock, Outlier, QuantisedRows, quantise_row},
    tile::{OutlierWeights, Panel, TileOutput, multiply_tile},
    vector::{exp, gated_silu, softmax},
};
use half::f16;

/// Runs a generic expression of `lanes` with a set of instructions.
macro_rules! compute {
    ($instructions:expr, [$($name:ident: $kind:ty = $value:expr),*] -> $output:ty, |$lanes:ident| $body:expr) => {{
        struct Expression<'a> {
            $($name: $kind,)*
            lifetime: std::marker::PhantomData<&'a ()>,
        }
        impl<'a> Kernel for Expression<'a> {
            type Output = $output;

            #[inline(always)]
            fn run<L: Lanes>(self, $lanes: L) -> $output {
                let Self { $($name,)* .. } = self;
                $body
            }
        }
        $instructions.run(Expression { $($name: $value,)* lifetime: std::marker::PhantomData })
    }};
}

/// The set that is there for all processors, and the others that this one has.
fn sets() -> (Instructions, Vec<Instructions>) {
    let mut sets: Vec<Instructions> = Instructions::available().collect();
    (sets.pop().expect("one is for all processors"), sets)
}

fn tile<const BYTES: usize, const ROWS: usize, const PANELS: usize>(
    instructions: Instructions,
    panels: [Panel<'_, BYTES>; PANELS],
    rows: [&Row; ROWS],
    ahead: usize,
) -> [[[f32; LANES]; PANELS]; ROWS] {
    struct OneTile<'a, const BYTES: usize, const ROWS: usize, const PANELS: usize> {
        panels: [Panel<'a, BYTES>; PANELS],
        rows: QuantisedRows<'a>,
        ahead: usize,
    }
    impl<const BYTES: usize, const ROWS: usize, const PANELS: usize> Kernel for OneTile<'_, BYTES, ROWS, PANELS> {
        type Output = [[[f32; LANES]; PANELS]; ROWS];

        #[inline(always)]
        #[allow(unsafe_code, reason = "the output is a local array")]
        fn run<L: Lanes>(self, lanes: L) -> Self::Output {
            let mut out = [[[1.0; LANES]; PANELS]; ROWS];
            let start = out.as_mut_ptr().cast();
            let first = TileOutput { start, stride: PANELS * LANES, accumulate: false };
            let again = TileOutput { accumulate: true, ..first };
            let Self { panels, rows, ahead } = self;
            let mut weights = OutlierWeights::default();
            weights.start_panels(rows.num_blocks * BLOCK);
            // SAFETY: the output has room for the tile.
            unsafe {
                multiply_tile::<L, BYTES, ROWS, PANELS>(lanes, panels, rows, 0, &mut weights, ahead, first);
            }
            let once = out;
            // SAFETY: as above.
            unsafe {
                multiply_tile::<L, BYTES, ROWS, PANELS>(lanes, panels, rows, 0, &mut weights, 0, again);
            }
            let pairs = out.as_flattened().as_flattened().iter().zip(once.as_flattened().as_flattened());
            assert!(pairs.into_iter().all(|(twice, once)| *twice == once + once), "added to itself");
            once
        }
    }
    let num_blocks = panels[0].blocks.len();
    let most_outliers = Outlier::most(num_blocks * BLOCK);
    let blocks: Vec<ActivationBlock> = rows.iter().flat_map(|row| row.blocks.clone()).collect();
    let mut outliers = vec![Outlier::default(); ROWS * most_outliers];
    for (row, room) in rows.iter().zip(outliers.chunks_mut(most_outliers)) {
        room[..row.outliers.len()].copy_from_slice(&row.outliers);
    }
    let num_outliers = rows.map(|row| row.outliers.len());
    let (blocks, outliers, num_outliers) = (&blocks, &outliers, &num_outliers);
    let rows = QuantisedRows { num_blocks, blocks, most_outliers, outliers, num_outliers };
    instructions.run(OneTile { panels, rows, ahead })
}

/// A row of activations of its own.
#[derive(Debug, PartialEq)]
struct Row {
    blocks: Vec<ActivationBlock>,
    outliers: Vec<Outlier>,
}

impl Row {
    fn new(instructions: Instructions, values: &[f32]) -> Self {
        let mut blocks = vec![ActivationBlock::default(); values.len().div_ceil(BLOCK)];
        let mut outliers = vec![Outlier::default(); Outlier::most(values.len())];
        let num_outliers = compute!(instructions, [values: &'a [f32] = values, blocks: &'a mut [ActivationBlock] = &mut blocks, outliers: &'a mut [Outlier] = &mut outliers] -> usize, |lanes| {
            quantise_row(lanes, values, blocks, outliers)
        });
        outliers.truncate(num_outliers);
        Self { blocks, outliers }
    }

    /// What stands for the value of a channel.
    fn value(&self, channel: usize) -> f64 {
        let block = &self.blocks[channel / BLOCK];
        let quantised = f64::from(block.scale) * f64::from(block.quants[channel % BLOCK]);
        let is_of = |outlier: &&Outlier| outlier.channel as usize == channel;
        quantised + self.outliers.iter().find(is_of).map_or(0.0, |outlier| f64::from(outlier.value))
    }
}

/// A panel of its own.
struct Weights<const BYTES: usize> {
    blocks: Vec<PanelBlock<BYTES>>,
    units: [f32; LANES],
}

impl<const BYTES: usize> Weights<BYTES> {
    fn view(&self) -> Panel<'_, BYTES> {
        Panel { blocks: &self.blocks, units: &self.units }
    }
}

/// Numbers without a pattern, the same in every run.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn unit(&mut self) -> f32 {
        (self.next() % 20_001) as f32 / 10_000.0 - 1.0
    }

    /// The largest scales and minimums are the largest that there can be.
    fn panel<const BYTES: usize>(&mut self, num_blocks: usize) -> Weights<BYTES> {
        let mut number = |most: i16| (f32::from(most) * (1.5 * self.unit()).clamp(-1.0, 1.0)) as i16;
        let grids = (0..num_blocks)
            .map(|_| std::array::from_fn(|_| [number(MOST_SCALE), number(MOST_MIDDLE)]))
            .collect::<Vec<_>>();
        let blocks = grids
            .into_iter()
            .map(|grids| PanelBlock { grids, quants: std::array::from_fn(|_| self.next() as u8) });
        Weights { blocks: blocks.collect(), units: std::array::from_fn(|_| self.unit() / 1e5) }
    }

    fn row(&mut self, num_blocks: usize) -> Row {
        // Now and then a value far above the others.
        let values: Vec<f32> = (0..num_blocks * BLOCK)
            .map(|_| self.unit() * if self.next().is_multiple_of(50) { 100.0 } else { 1.0 })
            .collect();
        Row::new(Instructions::detect(), &values)
    }
}

fn check_tile<const BYTES: usize, const ROWS: usize, const PANELS: usize>() {
    let mut noise = Noise(BYTES as u64 + 100 * ROWS as u64 + PANELS as u64);
    let (portable, others) = sets();
    for num_blocks in [1, 2, 7] {
        let panels: [Weights<BYTES>; PANELS] = std::array::from_fn(|_| noise.panel(num_blocks));
        let rows: [Row; ROWS] = std::array::from_fn(|_| noise.row(num_blocks));
        let panels = std::array::from_fn(|panel| panels[panel].view());
        let rows = rows.each_ref();
        let plain = tile::<BYTES, ROWS, PANELS>(portable, panels, rows, 0);
        let fast = others.iter().map(|&set| tile(set, panels, rows, PANELS * num_blocks));
        let fast: Vec<[[[f32; LANES]; PANELS]; ROWS]> = fast.collect();
        // Those with fused products do the same to the last bit.
        assert!(fast.windows(2).all(|pair| pair[0] == pair[1]), "{ROWS}x{PANELS}");
        for fast in fast {
            let pairs = fast.as_flattened().as_flattened().iter().zip(plain.as_flattened().as_flattened());
            for (index, (fast, plain)) in pairs.enumerate() {
                let allowed = 1e-5 * (1.0 + plain.abs()) * num_blocks as f32 * 100.0;
                assert!((fast - plain).abs() <= allowed, "{ROWS}x{PANELS} value {index}: {fast} and {plain}");
            }
        }
    }
}

#[test]
fn tiles_of_all_instructions_agree() {
    check_tile::<FOUR_BIT, 1, 2>();
    check_tile::<FOUR_BIT, 3, 2>();
    check_tile::<FOUR_BIT, 6, 2>();
    check_tile::<FOUR_BIT, 5, 1>();
    check_tile::<EIGHT_BIT, 1, 2>();
    check_tile::<EIGHT_BIT, 2, 2>();
    check_tile::<EIGHT_BIT, 4, 2>();
    check_tile::<EIGHT_BIT, 6, 2>();
    check_tile::<EIGHT_BIT, 6, 1>();
}

#[test]
fn a_tile_is_the_product_of_what_was_quantised() {
    let mut noise = Noise(3);
    let panel: Weights<EIGHT_BIT> = noise.panel(3);
    let row = noise.row(3);
    for set in Instructions::available() {
        let sums = tile(set, [panel.view()], [&row], 0)[0][0];
        for (lane, sum) in sums.iter().enumerate() {
            let exact: f64 = (0..3 * BLOCK)
                .map(|place| {
                    let (block, channel) = (&panel.blocks[place / BLOCK], place % BLOCK);
                    let quant = block.quants[(channel / 4 * LANES + lane) * 4 + channel % 4];
                    let [scale, middle] = block.grids[lane].map(f64::from);
                    let weight = scale * (f64::from(quant) - 128.0) / 16.0 + 8.0 * middle;
                    weight * f64::from(panel.units[lane]) * row.value(place)
                })
                .sum();
            assert!(
                (f64::from(*sum) - exact).abs() < 1e-5 * (100.0 + exact.abs()),
                "{set}: {sum} and {exact}"
            );
        }
    }
}

#[test]
fn a_rows_result_does_not_depend_on_the_tile_it_is_in() {
    let mut noise = Noise(5);
    let panels: [Weights<FOUR_BIT>; 2] = std::array::from_fn(|_| noise.panel(9));
    let rows: [Row; 6] = std::array::from_fn(|_| noise.row(9));
    let counts = rows.iter().map(|row| row.outliers.len());
    assert!(counts.clone().max() != counts.min(), "rows with outliers stand beside rows with fewer");
    for set in Instructions::available() {
        let all = tile(set, panels.each_ref().map(Weights::view), rows.each_ref(), 0);
        for (row, sums) in rows.iter().zip(&all) {
            let alone = panels.each_ref().map(|panel| tile(set, [panel.view()], [row], 0)[0][0]);
            assert_eq!(alone, *sums, "{set}");
        }
    }
}

#[test]
fn half_precision_is_widened_and_narrowed_exactly() {
    let halves: Vec<u16> = (0..=u16::MAX).filter(|&bits| f16::from_bits(bits).is_finite()).collect();
    for set in Instructions::available() {
        for sixteen in halves.as_chunks::<LANES>().0 {
            let (floats, back) = compute!(set, [sixteen: &'a [u16; LANES] = sixteen] -> ([f32; LANES], [u16; LANES]), |lanes| {
                let wide = lanes.widen_f16(sixteen);
                let mut floats = [0.0; LANES];
                lanes.store(wide, &mut floats);
                (floats, lanes.narrow_f16(wide))
            });
            assert!(
                sixteen.iter().zip(floats).all(|(&bits, value)| f16::from_bits(bits).to_f32() == value),
                "{set}"
            );
            assert_eq!(&back, sixteen, "{set}");
        }
    }
}

#[test]
fn exp_is_accurate_and_saturates() {
    for set in Instructions::available() {
        let exp = |x: f32| compute!(set, [x: f32 = x] -> f32, |lanes| exp(lanes, x));
        for step in -8_600..=8_700 {
            let x = step as f32 / 100.0;
            let exact = f64::from(x).exp();
            assert!(
                (f64::from(exp(x)) / exact - 1.0).abs() < 3e-7,
                "{set}: exp({x}) is {}, not {exact}",
                exp(x)
            );
        }
        assert_eq!(exp(-200.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert!(exp(1e9).is_finite());
        let mut out = [0.0; 5];
        let gate = [-1e4, -1.0, 0.0, 1.0, 1e4];
        compute!(set, [gate: &'a [f32] = &gate, out: &'a mut [f32] = &mut out] -> (), |lanes| {
            gated_silu(lanes, gate, &[1.0; 5], out);
        });
        let expected = [0.0, -0.268_941_43, 0.0, 0.731_058_6, 1e4];
        assert!(
            out.iter().zip(expected).all(|(out, expected)| (out - expected).abs() < 1e-6),
            "{set}: {out:?}"
        );
    }
}

#[test]
fn softmax_of_any_length_adds_up_to_one() {
    let mut noise = Noise(7);
    for length in [1, 2, 15, 16, 17, 100] {
        let scores: Vec<f32> = (0..length).map(|_| noise.unit() * 30.0).collect();
        let sum: f64 = scores.iter().map(|&score| f64::from(score).exp()).sum();
        for set in Instructions::available() {
            let mut weights = scores.clone();
            compute!(set, [weights: &'a mut [f32] = &mut weights] -> (), |lanes| softmax(lanes, weights));
            for (score, weight) in scores.iter().zip(&weights) {
                assert!((f64::from(score.exp()) / sum - f64::from(*weight)).abs() < 1e-6, "{set}");
            }
        }
    }
}

#[test]
fn quantised_rows_are_close_and_odd_ones_survive() {
    let mut noise = Noise(11);
    let values: Vec<f32> =
        (0..77).map(|index| noise.unit() * if index == 40 { 1000.0 } else { 1.0 }).collect();
    for set in Instructions::available() {
        let row = Row::new(set, &values);
        assert_eq!(row.outliers, [Outlier { channel: 40, value: values[40] }], "{set}");
        for (index, value) in values.iter().enumerate() {
            let off = (row.value(index) - f64::from(*value)).abs();
            assert!(off <= f64::from(row.blocks[index / BLOCK].scale) * 0.51, "{set}: value {index}");
        }
        assert!(row.blocks[2].quants[77 % BLOCK..].iter().all(|&quant| quant == 0));
        for odd in [0.0, 1e-42, f32::MIN_POSITIVE, f32::MAX, f32::INFINITY, f32::NAN] {
            Row::new(set, &[odd; BLOCK]);
            Row::new(set, &[0.0, odd, 1.0, -odd, 0.5]);
        }
        let zeros = Row::new(set, &[0.0; BLOCK]);
        assert_eq!(zeros, Row { blocks: vec![ActivationBlock::default()], outliers: Vec::new() }, "{set}");
    }
}

#[test]
fn as_many_outliers_as_a_row_can_have_find_room() {
    for set in Instructions::available() {
        for width in [9, 17, 576, 1_536] {
            let most = (width - 1) / 8;
            let values: Vec<f32> =
                (0..width).map(|channel| if channel < most { 1e3 } else { 1e-3 }).collect();
            let row = Row::new(set, &values);
            assert_eq!(row.outliers.len(), most, "{set}: of {width}");
            assert!((0..width).all(|channel| (row.value(channel) - f64::from(values[channel])).abs() < 1e-5));
        }
    }
}
