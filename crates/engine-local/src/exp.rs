//! e to the `x`, in a form that compilers turn into vector instructions.

/// e to the `x`, to about 1e-7 relative; 0 below -87, and at most e^88. `multiply_add(a, b, c)` is `a * b + c`, rounded
/// once or twice.
#[inline(always)]
pub fn exp(x: f32, multiply_add: impl Fn(f32, f32, f32) -> f32) -> f32 {
    // x = n ln 2 + r with r in ±ln 2 / 2. Adding 1.5 * 2^23 rounds to an integer, which is then in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let bounded = x.clamp(-87.0, 88.0);
    let shifted = multiply_add(bounded, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    // ln 2 in two parts, the first short enough that its product with n is exact.
    let r = multiply_add(n, -0.693_359_4, bounded);
    let r = multiply_add(n, 2.121_944_4e-4, r);
    let mut polynomial = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        polynomial = multiply_add(polynomial, r, coefficient);
    }
    let power = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    if x < -87.0 { 0.0 } else { polynomial * power }
}
