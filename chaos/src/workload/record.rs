//! Records that say who they are, and whose every byte can be checked.

use crate::history::RecordId;

/// Longest filler, in bytes.
const FILLER_MAX: usize = 1500;

fn filler(seed: u64, record: RecordId) -> Vec<u8> {
    let RecordId { partition, writer, number } = record;
    let of_record = u64::from(partition) << 48 | u64::from(writer) << 32 | u64::from(number);
    let mut rng = fastrand::Rng::with_seed(seed ^ of_record.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    // Most are short.
    let len = rng.usize(0..=FILLER_MAX) >> rng.u32(0..6);
    std::iter::repeat_with(|| rng.alphanumeric() as u8).take(len).collect()
}

/// `seed partition writer number filler`
pub(crate) fn value(seed: u64, record: RecordId) -> Vec<u8> {
    let RecordId { partition, writer, number } = record;
    let mut value = format!("{seed} {partition} {writer} {number} ").into_bytes();
    value.extend(filler(seed, record));
    value
}

/// Which record this is; `None` if it is none of this run, or not as it was written.
pub(crate) fn parse(seed: u64, value: &[u8]) -> Option<RecordId> {
    let mut fields = value.splitn(5, |byte| *byte == b' ').map(|field| std::str::from_utf8(field).ok());
    let of_run: u64 = fields.next()??.parse().ok()?;
    let partition = fields.next()??.parse().ok()?;
    let writer = fields.next()??.parse().ok()?;
    let number = fields.next()??.parse().ok()?;
    let record = RecordId { partition, writer, number };
    (of_run == seed && self::value(seed, record) == value).then_some(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_known_by_its_value_and_no_other() {
        let record = RecordId { partition: 3, writer: 2, number: 70_000 };
        let mut bytes = value(9, record);
        assert_eq!(parse(9, &bytes), Some(record));
        assert_eq!(parse(8, &bytes), None, "of another run");
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert_eq!(parse(9, &bytes), None, "changed");
        assert_eq!(parse(9, &bytes[..last]), None, "cut off");
        assert_eq!(parse(9, b"9 3"), None);
        assert_eq!(parse(9, b"\xff"), None);
        let lens: Vec<_> = (0..1000).map(|number| value(9, RecordId { number, ..record }).len()).collect();
        assert!(lens.iter().any(|len| *len > 1000) && lens.iter().any(|len| *len < 20), "short and long ones");
    }
}
