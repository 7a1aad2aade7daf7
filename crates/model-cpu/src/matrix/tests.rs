use super::{Activations, FormKind, Matrix, MatrixPacker, Projection, RowSource};
use crate::{
    kernels::{Instructions, Lanes},
    memory::Arena,
    parallel::Team,
    tensors::TensorType,
};
use candle_core::{Device, Tensor, quantized::QTensor};

const KINDS: [TensorType; 11] = [
    TensorType::F32,
    TensorType::F16,
    TensorType::BF16,
    TensorType::Q4_0,
    TensorType::Q4_1,
    TensorType::Q5_0,
    TensorType::Q5_1,
    TensorType::Q8_0,
    TensorType::Q4K,
    TensorType::Q5K,
    TensorType::Q6K,
];

fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// Stored bytes of random weights, and the values that they stand for.
fn stored(kind: TensorType, rows: usize, columns: usize) -> (Vec<u8>, Vec<f32>) {
    let values = noise(rows * columns, 3 + rows as u64);
    let tensor = Tensor::from_vec(values, (rows, columns), &Device::Cpu).expect("a tensor");
    let quantised = QTensor::quantize(&tensor, kind.ggml()).expect("a quantised tensor");
    let values = quantised.dequantize(&Device::Cpu).and_then(|tensor| tensor.flatten_all()?.to_vec1());
    (quantised.data().expect("its bytes").into_owned(), values.expect("its values"))
}

fn pack(kind: TensorType, raw: &[u8], shape: [usize; 2], form: FormKind) -> Matrix {
    let packer =
        MatrixPacker { kind, raw, out_features: shape[0], in_features: shape[1], stored_row: &|row| row };
    packer.pack(form, &mut Arena::default()).ok().expect("finite values")
}

#[test]
fn packed_rows_are_the_stored_values() {
    for kind in KINDS {
        let shape = [37, 512];
        let (raw, values) = stored(kind, shape[0], shape[1]);
        for form in [kind.packed_form(), FormKind::Full] {
            let matrix = pack(kind, &raw, shape, form);
            // Formats with a scale and minimum of their own lose only the rounding of these two, to a 64th of a
            // level at most where there could be 256; the others are put on 256 levels anew.
            let allowed = match (form, kind) {
                (FormKind::Full, _) => 0.0,
                (_, TensorType::F32 | TensorType::F16 | TensorType::BF16 | TensorType::Q6K) => 0.005,
                (_, TensorType::Q5_0 | TensorType::Q5_1 | TensorType::Q5K) => 0.002,
                _ => 2e-4,
            };
            let mut row = vec![0.0; shape[1]];
            for (index, expected) in values.chunks(shape[1]).enumerate() {
                matrix.row(index, &mut row);
                for (value, expected) in row.iter().zip(expected) {
                    assert!(
                        (value - expected).abs() <= allowed,
                        "{kind:?} as {form:?}: {value}, not {expected}"
                    );
                }
            }
        }
    }
}

struct Rows<'a>(&'a [f32]);

impl RowSource for Rows<'_> {
    #[inline(always)]
    fn write<L: Lanes>(&self, _: L, row: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.0[row * out.len()..(row + 1) * out.len()]);
    }

    #[inline(always)]
    fn prefetch<L: Lanes>(&self, _: L, _: usize, _: usize) {}
}

#[test]
fn products_are_those_of_the_packed_values() {
    Instructions::available().for_each(check_products);
}

fn check_products(set: Instructions) {
    let team = Team::new(3).expect("threads");
    // Neither sizes of whole panels nor of whole blocks.
    let in_features = 70;
    let shapes = [[33, in_features], [16, in_features], [100, in_features]];
    for form in [FormKind::EightBit, FormKind::Full] {
        let build = |shape: [usize; 2]| {
            pack(TensorType::F32, &stored(TensorType::F32, shape[0], shape[1]).0, shape, form)
        };
        let biases = [None, Some(noise(16, 1)), Some(noise(100, 2))];
        let projection = Projection::new(shapes.into_iter().map(build).zip(biases.clone()).collect());
        let out_features = projection.out_features();
        assert_eq!(out_features, 149);
        let weights: Vec<(Matrix, Option<Vec<f32>>)> = shapes.into_iter().map(build).zip(biases).collect();
        for num_rows in [1, 2, 3, 5, 6, 7, 13, 40] {
            let mut values = noise(num_rows * in_features, 17);
            // An outlier in every row, in the same channel as that of a row further on.
            for (row, values) in values.chunks_exact_mut(in_features).enumerate() {
                values[row % 5 * 17] = 20.0;
            }
            let mut inputs = Activations::default();
            inputs.fill(set, &team, num_rows, in_features, form, &Rows(&values));
            let mut outputs = vec![f32::NAN; num_rows * out_features];
            projection.apply(set, &team, &mut inputs, &mut outputs, false);
            let mut twice = outputs.clone();
            projection.apply(set, &team, &mut inputs, &mut twice, true);
            for (row, (outputs, twice)) in
                outputs.chunks(out_features).zip(twice.chunks(out_features)).enumerate()
            {
                let input = &values[row * in_features..(row + 1) * in_features];
                let mut column = 0;
                for (matrix, bias) in &weights {
                    let mut weights = vec![0.0; in_features];
                    for channel in 0..matrix.out_features {
                        matrix.row(channel, &mut weights);
                        let product: f64 =
                            weights.iter().zip(input).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum();
                        let expected = product + bias.as_ref().map_or(0.0, |bias| f64::from(bias[channel]));
                        let found = f64::from(outputs[column]);
                        // Half a step of 1/127 for each of 70 values, at random, times weights up to 1.
                        let allowed = if form == FormKind::Full { 1e-4 } else { 0.08 };
                        assert!(
                            (found - expected).abs() < allowed,
                            "{set}, {form:?} row {row} column {column}: {found}, not {expected}"
                        );
                        assert!((f64::from(twice[column]) - 2.0 * found).abs() < 1e-5);
                        column += 1;
                    }
                }
            }
        }
    }
}

#[test]
fn values_that_are_not_finite_are_refused() {
    for odd in [f32::NAN, f32::INFINITY, 1e30] {
        let mut values = noise(64, 9);
        values[40] = odd;
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let packer = MatrixPacker {
            kind: TensorType::F32,
            raw: &raw,
            out_features: 2,
            in_features: 32,
            stored_row: &|row| row,
        };
        assert!(packer.pack(FormKind::EightBit, &mut Arena::default()).is_err(), "{odd}");
    }
}

#[test]
fn the_stated_size_is_the_size() {
    for kind in [TensorType::F32, TensorType::Q4_0] {
        let shape = [37, 96];
        let (raw, _) = stored(kind, shape[0], shape[1]);
        for form in [kind.packed_form(), FormKind::Full] {
            let bytes = match pack(kind, &raw, shape, form).form {
                super::Form::FourBit(panels) => {
                    size_of_val(&panels.blocks[..]) + size_of_val(&panels.units[..])
                }
                super::Form::EightBit(panels) => {
                    size_of_val(&panels.blocks[..]) + size_of_val(&panels.units[..])
                }
                super::Form::Full(values) => size_of_val(&values[..]),
            };
            assert_eq!(form.matrix_bytes(shape[0], shape[1]), bytes as u64);
        }
    }
}
