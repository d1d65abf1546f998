//! Zig-zag varints: 7 bits a byte, low ones first, the sign in the lowest bit, so that small numbers of either sign are
//! short. Kafka's `varint` and `varlong` differ only in how long they may be.

use bytes::BufMut;

/// Longest encoding of an `i64`.
pub(super) const LEN_MAX: usize = 10;
/// Longest encoding of an `i32`.
const LEN_MAX_I32: usize = 5;

const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

const fn unzigzag(raw: u64) -> i64 {
    (raw >> 1) as i64 ^ -((raw & 1) as i64)
}

/// How many bytes [`put`] writes for `value`. A length, count or `i32` encodes the same as either type.
pub(super) const fn encoded_len(value: i64) -> usize {
    let bits = u64::BITS - (zigzag(value) | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

/// Writes `value`. A length, count or `i32` encodes the same as either type.
#[inline]
pub(super) fn put(out: &mut impl BufMut, value: i64) {
    let mut raw = zigzag(value);
    while raw >= 0x80 {
        out.put_u8(raw as u8 | 0x80);
        raw >>= 7;
    }
    out.put_u8(raw as u8);
}

/// Takes a `varlong` off the front of `bytes`; `None` if they end before it does or it is longer than one can be.
#[inline]
pub(super) fn take_i64(bytes: &mut &[u8]) -> Option<i64> {
    take_raw::<LEN_MAX>(bytes).map(unzigzag)
}

/// Takes a `varint` off the front of `bytes`; `None` also if it does not fit an `i32`.
#[inline]
pub(super) fn take_i32(bytes: &mut &[u8]) -> Option<i32> {
    take_raw::<LEN_MAX_I32>(bytes).and_then(|raw| i32::try_from(unzigzag(raw)).ok())
}

#[inline]
fn take_raw<const MAX: usize>(bytes: &mut &[u8]) -> Option<u64> {
    let mut raw = 0;
    for (i, &byte) in bytes.iter().take(MAX).enumerate() {
        raw |= u64::from(byte & 0x7f) << (7 * i);
        if byte < 0x80 {
            // Nine bytes hold 63 bits: of a tenth only the lowest bit is left.
            let fits = i + 1 < LEN_MAX || byte <= 1;
            *bytes = &bytes[i + 1..];
            return fits.then_some(raw);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(value: i64) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, value);
        out
    }

    #[test]
    fn golden_bytes() {
        let cases: [(i64, &[u8]); 9] = [
            (0, &[0x00]),
            (-1, &[0x01]),
            (1, &[0x02]),
            (-64, &[0x7f]),
            (64, &[0x80, 0x01]),
            (i64::from(i32::MAX), &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i64::from(i32::MIN), &[0xff, 0xff, 0xff, 0xff, 0x0f]),
            (i64::MAX, &[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
            (i64::MIN, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        ];
        for (value, bytes) in cases {
            assert_eq!(encoded(value), bytes, "{value}");
        }
    }

    #[test]
    fn what_is_too_long_too_large_or_cut_off_is_refused() {
        let refused_as_i32: [&[u8]; 5] =
            [&[], &[0x80], &[0xff; 4], &[0xff, 0xff, 0xff, 0xff, 0x1f], &[0x80, 0x80, 0x80, 0x80, 0x80, 0x00]];
        for bytes in refused_as_i32 {
            assert_eq!(take_i32(&mut &*bytes), None, "{bytes:x?}");
        }
        let refused_as_i64: [&[u8]; 4] =
            [&[], &[0xff; 9], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], &[0x80; 11]];
        for bytes in refused_as_i64 {
            assert_eq!(take_i64(&mut &*bytes), None, "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn numbers_survive(value: i64, shift in 0u32..64, rest: Vec<u8>) {
            let value = value >> shift;
            let mut bytes = encoded(value);
            prop_assert_eq!(bytes.len(), encoded_len(value));
            bytes.extend_from_slice(&rest);
            let mut as_i64 = &*bytes;
            prop_assert_eq!(take_i64(&mut as_i64), Some(value));
            prop_assert_eq!(as_i64, &*rest);
            prop_assert_eq!(take_i32(&mut &*bytes), i32::try_from(value).ok());
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            take_i32(&mut &*bytes);
            take_i64(&mut &*bytes);
        }
    }
}
