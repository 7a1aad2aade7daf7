use super::{
    ActivationBlock, BLOCK, EIGHT_BIT, FOUR_BIT, LANES, PanelBlock, multiply_tile, portable,
    vector::{exp, gated_silu, quantise_row, softmax},
    widen_f16,
};
use half::f16;

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

    fn panel<const BYTES: usize>(&mut self, num_blocks: usize) -> Vec<PanelBlock<BYTES>> {
        (0..num_blocks)
            .map(|_| PanelBlock {
                scales: std::array::from_fn(|_| f16::from_f32(self.unit() / 50.0).to_bits()),
                minimums: std::array::from_fn(|_| f16::from_f32(self.unit()).to_bits()),
                quants: std::array::from_fn(|_| self.next() as u8),
            })
            .collect()
    }

    fn row(&mut self, num_blocks: usize) -> Vec<ActivationBlock> {
        // Now and then a value far above the others.
        let values: Vec<f32> = (0..num_blocks * BLOCK)
            .map(|_| self.unit() * if self.next().is_multiple_of(50) { 100.0 } else { 1.0 })
            .collect();
        let mut blocks = vec![ActivationBlock::ZERO; num_blocks];
        quantise_row(&values, &mut blocks);
        blocks
    }
}

fn check_tile<const BYTES: usize, const ROWS: usize, const PANELS: usize>() {
    let mut noise = Noise(BYTES as u64 + 100 * ROWS as u64 + PANELS as u64);
    for num_blocks in [1, 2, 7] {
        let panels: [Vec<PanelBlock<BYTES>>; PANELS] = std::array::from_fn(|_| noise.panel(num_blocks));
        let rows: [Vec<ActivationBlock>; ROWS] = std::array::from_fn(|_| noise.row(num_blocks));
        let panels = std::array::from_fn(|panel| &panels[panel][..]);
        let rows = std::array::from_fn(|row| &rows[row][..]);
        let fast = multiply_tile::<BYTES, ROWS, PANELS>(panels, rows, PANELS * num_blocks);
        let plain = portable::multiply_tile(panels, rows, 0);
        let pairs = fast.as_flattened().as_flattened().iter().zip(plain.as_flattened().as_flattened());
        for (index, (fast, plain)) in pairs.enumerate() {
            let allowed = 1e-5 * (1.0 + plain.abs()) * num_blocks as f32 * 100.0;
            assert!((fast - plain).abs() <= allowed, "{ROWS}x{PANELS} value {index}: {fast} and {plain}");
        }
    }
}

#[test]
fn vector_and_portable_tiles_agree() {
    check_tile::<FOUR_BIT, 1, 4>();
    check_tile::<FOUR_BIT, 3, 2>();
    check_tile::<FOUR_BIT, 6, 2>();
    check_tile::<FOUR_BIT, 5, 1>();
    check_tile::<EIGHT_BIT, 1, 4>();
    check_tile::<EIGHT_BIT, 2, 2>();
    check_tile::<EIGHT_BIT, 4, 2>();
    check_tile::<EIGHT_BIT, 6, 2>();
    check_tile::<EIGHT_BIT, 6, 1>();
}

#[test]
fn a_rows_result_does_not_depend_on_the_tile_it_is_in() {
    let mut noise = Noise(5);
    let panels: [Vec<PanelBlock<FOUR_BIT>>; 4] = std::array::from_fn(|_| noise.panel(9));
    let rows: [Vec<ActivationBlock>; 6] = std::array::from_fn(|_| noise.row(9));
    let all = multiply_tile([&panels[0][..], &panels[1]], rows.each_ref().map(|row| &row[..]), 0);
    for (row, sums) in rows.iter().zip(&all) {
        let alone = multiply_tile(panels.each_ref().map(|panel| &panel[..]), [&row[..]], 0);
        assert_eq!(alone[0][..2], sums[..]);
    }
}

#[test]
fn half_precision_is_widened_exactly() {
    let halves: Vec<u16> = (0..=u16::MAX).filter(|&bits| f16::from_bits(bits).is_finite()).collect();
    let mut fast = vec![0.0; halves.len()];
    let mut plain = vec![0.0; halves.len()];
    widen_f16(&halves, &mut fast);
    portable::widen_f16(&halves, &mut plain);
    assert_eq!(fast, plain);
    assert!(halves.iter().zip(&fast).all(|(&bits, &value)| f16::from_bits(bits).to_f32() == value));
    let mut short = [9.0; LANES + 3];
    widen_f16(&halves[..LANES + 2], &mut short);
    assert_eq!(short[..LANES + 2], plain[..LANES + 2]);
    assert_eq!(short[LANES + 2], 9.0);
}

#[test]
fn exp_is_accurate_and_saturates() {
    for step in -8_600..=8_700 {
        let x = step as f32 / 100.0;
        let exact = f64::from(x).exp();
        assert!((f64::from(exp(x)) / exact - 1.0).abs() < 3e-7, "exp({x}) is {}, not {exact}", exp(x));
    }
    assert_eq!(exp(-200.0), 0.0);
    assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    assert!(exp(1e9).is_finite());
    let (gate, up, mut out) = ([-1e4, -1.0, 0.0, 1.0, 1e4], [1.0; 5], [0.0; 5]);
    gated_silu(&gate, &up, &mut out);
    let expected = [0.0, -0.268_941_43, 0.0, 0.731_058_6, 1e4];
    assert!(out.iter().zip(expected).all(|(out, expected)| (out - expected).abs() < 1e-6), "{out:?}");
}

#[test]
fn softmax_of_any_length_adds_up_to_one() {
    let mut noise = Noise(7);
    for length in [1, 2, 15, 16, 17, 100] {
        let scores: Vec<f32> = (0..length).map(|_| noise.unit() * 30.0).collect();
        let mut weights = scores.clone();
        softmax(&mut weights);
        let sum: f64 = scores.iter().map(|&score| f64::from(score).exp()).sum();
        for (score, weight) in scores.iter().zip(&weights) {
            assert!((f64::from(score.exp()) / sum - f64::from(*weight)).abs() < 1e-6);
        }
    }
}

#[test]
fn quantised_rows_are_close_and_odd_ones_survive() {
    let mut noise = Noise(11);
    let values: Vec<f32> =
        (0..77).map(|index| noise.unit() * if index == 40 { 1000.0 } else { 1.0 }).collect();
    let mut blocks = vec![ActivationBlock::ZERO; 3];
    quantise_row(&values, &mut blocks);
    for (index, value) in values.iter().enumerate() {
        let block = &blocks[index / BLOCK];
        let quant = 128 * i32::from(block.high[index % BLOCK]) + i32::from(block.low[index % BLOCK]);
        assert!((block.scale * quant as f32 - value).abs() <= block.scale * 0.51, "value {index}");
    }
    assert!(blocks[2].high[77 % BLOCK..].iter().chain(&blocks[2].low[77 % BLOCK..]).all(|&quant| quant == 0));
    for odd in [0.0, 1e-42, f32::MIN_POSITIVE, f32::MAX, f32::INFINITY, f32::NAN] {
        quantise_row(&[odd; BLOCK], &mut blocks);
    }
    quantise_row(&[0.0; BLOCK], &mut blocks);
    assert_eq!(blocks[0], ActivationBlock::ZERO);
}
