//! Numbers that look random and are a function of their place.

/// One number from two: the finaliser of SplitMix64 (Steele, Lea, Flood 2014) over a sum that tells the places
/// of different series apart.
pub(crate) fn mix(series: u64, place: u64) -> u64 {
    let mut z = series.wrapping_add(place.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Whether something of this probability, from 0 to 1, happens at this place.
pub(crate) fn happens(probability: f64, series: u64, place: u64) -> bool {
    // 53 bits, as many as a fraction has.
    let drawn = (mix(series, place) >> 11) as f64 / (1_u64 << 53) as f64;
    drawn < probability
}
