//! A candidate's draw: `−log2(u) / weight` for a uniform hash u, the smallest wins; then the chance to win is
//! proportional to the weight. Fixed-point, because the floating-point logarithm is not the same on every platform.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Sequencers and nodesets draw independently.
pub(super) const SEED_SEQUENCER: u64 = 0x5e90_e4ce_0000_0001;
pub(super) const SEED_NODESET: u64 = 0x0de5_e750_0000_0001;

const FRACTION_BITS: u32 = 32;

/// What it costs to place `key` on `candidate`, from a weight of 1 up. The smallest cost wins.
pub(super) fn cost(seed: u64, key: u64, candidate: u32, weight: u16) -> u64 {
    assert!(weight > 0, "candidates of weight 0 do not draw");
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&key.to_le_bytes());
    bytes[8..].copy_from_slice(&candidate.to_le_bytes());
    // At most 64 << 32 << 20: 59 bits.
    (negative_log2(xxh3_64_with_seed(&bytes, seed)) << 20) / u64::from(weight)
}

/// `−log2(hash / 2⁶⁴)` with 32 fractional bits.
fn negative_log2(hash: u64) -> u64 {
    let zeros = hash.leading_zeros().min(63);
    // hash = mantissa / 2^zeros, with the mantissa in [2⁶³, 2⁶⁴).
    let mut mantissa = u128::from(hash.max(1) << zeros);
    let mut fraction: u64 = 0;
    for _ in 0..FRACTION_BITS {
        // Squaring doubles the logarithm; its whole part is the next bit.
        mantissa = (mantissa * mantissa) >> 63;
        fraction <<= 1;
        if mantissa >> 64 != 0 {
            mantissa >>= 1;
            fraction |= 1;
        }
    }
    ((u64::from(zeros) + 1) << FRACTION_BITS) - fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_one() {
        for hash in [1, 2, 3, 1 << 31, (1 << 32) + 12_345, u64::MAX / 3, 1 << 63, u64::MAX - (1 << 40), u64::MAX] {
            let exact = 64.0 - (hash as f64).log2();
            let got = negative_log2(hash) as f64 / (1u64 << FRACTION_BITS) as f64;
            assert!((exact - got).abs() < 1e-8, "{hash}: {got}, not {exact}");
        }
        assert!(negative_log2(0) >> FRACTION_BITS == 64 && negative_log2(u64::MAX) > 0);
        assert_eq!(negative_log2(1 << 63), 1 << FRACTION_BITS);
    }
}
