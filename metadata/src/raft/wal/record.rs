//! Records: how one is written, and what stands at a position.

use serde::{Deserialize, Serialize};

use crate::raft::types::{Entry, LogId, Vote};

pub(super) const RECORD_HEADER_LEN: usize = 9;
/// No record is longer; a length that says so is damage.
const PAYLOAD_LEN_MAX: usize = 256 << 20;

/// Numbers of the kinds on disk. Fixed for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Start = 1,
    Mark = 2,
    Entry = 3,
    Vote = 4,
    Committed = 5,
    Truncate = 6,
    Purge = 7,
}

#[derive(Debug, Clone)]
pub(crate) enum Record {
    Start(Start),
    Mark,
    Entry(Entry),
    Vote(Vote),
    Committed(Option<LogId>),
    /// Entries from this one on are gone.
    Truncate(LogId),
    /// Entries up to this one are in a snapshot.
    Purge(LogId),
}

/// How things stood when a segment was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) vote: Option<Vote>,
    pub(crate) committed: Option<LogId>,
    pub(crate) purged: Option<LogId>,
}

/// What stands at a position.
#[derive(Debug)]
pub(super) enum Scanned {
    Record {
        record: Record,
        next: usize,
    },
    /// The file ends here.
    End,
    /// Something that is no record.
    Broken,
    /// A whole record of a kind or content that this version does not know.
    Unknown {
        kind: u8,
    },
}

/// Appends `record` to `buffer`, which will stand at `base` of segment `number`.
pub(super) fn write(buffer: &mut Vec<u8>, number: u64, base: u64, record: &Record) {
    let at = buffer.len();
    buffer.extend([0; RECORD_HEADER_LEN]);
    let kind = match record {
        Record::Start(start) => payload(buffer, start, Kind::Start),
        Record::Mark => Kind::Mark,
        Record::Entry(entry) => payload(buffer, entry, Kind::Entry),
        Record::Vote(vote) => payload(buffer, vote, Kind::Vote),
        Record::Committed(log_id) => payload(buffer, log_id, Kind::Committed),
        Record::Truncate(log_id) => payload(buffer, log_id, Kind::Truncate),
        Record::Purge(log_id) => payload(buffer, log_id, Kind::Purge),
    };
    let len = buffer.len() - at - RECORD_HEADER_LEN;
    assert!(len <= PAYLOAD_LEN_MAX, "proposals are bounded far below this");
    let crc = crc(number, base + at as u64, kind as u8, &buffer[at + RECORD_HEADER_LEN..]);
    buffer[at..at + 4].copy_from_slice(&(len as u32).to_le_bytes());
    buffer[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
    buffer[at + 8] = kind as u8;
}

fn payload<T: Serialize>(buffer: &mut Vec<u8>, value: &T, kind: Kind) -> Kind {
    let whole = postcard::to_extend(value, std::mem::take(buffer)).expect("plain values are written to memory");
    *buffer = whole;
    kind
}

fn crc(number: u64, position: u64, kind: u8, payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(&position.to_le_bytes());
    hasher.update(&(payload.len() as u32).to_le_bytes());
    hasher.update(&[kind]);
    hasher.update(payload);
    hasher.finalize()
}

/// The kind and payload of a whole record at `at`.
fn whole(file: &[u8], number: u64, at: usize) -> Option<(u8, &[u8])> {
    let (header, rest) = file.get(at..)?.split_first_chunk::<RECORD_HEADER_LEN>()?;
    let [l0, l1, l2, l3, c0, c1, c2, c3, kind] = *header;
    let payload = rest.get(..u32::from_le_bytes([l0, l1, l2, l3]) as usize)?;
    (crc(number, at as u64, kind, payload) == u32::from_le_bytes([c0, c1, c2, c3])).then_some((kind, payload))
}

/// What stands at `at` of a whole file.
pub(super) fn scan(file: &[u8], number: u64, at: usize) -> Scanned {
    if at == file.len() {
        return Scanned::End;
    }
    let Some((kind, payload)) = whole(file, number, at) else {
        return Scanned::Broken;
    };
    match decode(kind, payload) {
        Some(record) => Scanned::Record { record, next: at + RECORD_HEADER_LEN + payload.len() },
        None => Scanned::Unknown { kind },
    }
}

fn decode(kind: u8, payload: &[u8]) -> Option<Record> {
    fn value<'a, T: Deserialize<'a>>(payload: &'a [u8]) -> Option<T> {
        postcard::take_from_bytes(payload).ok().and_then(|(value, rest)| rest.is_empty().then_some(value))
    }
    Some(match kind {
        k if k == Kind::Start as u8 => Record::Start(value(payload)?),
        k if k == Kind::Mark as u8 && payload.is_empty() => Record::Mark,
        k if k == Kind::Entry as u8 => Record::Entry(value(payload)?),
        k if k == Kind::Vote as u8 => Record::Vote(value(payload)?),
        k if k == Kind::Committed as u8 => Record::Committed(value(payload)?),
        k if k == Kind::Truncate as u8 => Record::Truncate(value(payload)?),
        k if k == Kind::Purge as u8 => Record::Purge(value(payload)?),
        _ => return None,
    })
}

/// Whether a mark stands anywhere from `from` on: then everything before it was durable.
pub(super) fn has_mark(file: &[u8], number: u64, from: usize) -> bool {
    let is_mark = |at: usize| {
        let header = &file[at..at + RECORD_HEADER_LEN];
        header[..4] == [0; 4] && header[8] == Kind::Mark as u8 && whole(file, number, at).is_some()
    };
    (from..(file.len() + 1).saturating_sub(RECORD_HEADER_LEN)).any(is_mark)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use dlog_proto::{ProcessId, RequestId};
    use openraft::{BasicNode, CommittedLeaderId, EntryPayload};

    use super::*;
    use crate::raft::types::{Proposal, Proposals};

    fn log_id(term: u64, node: u64, index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(term, node), index)
    }

    /// The bytes of every kind, pinned: openraft's types are in them, and its layout must not change under our feet.
    #[test]
    fn golden() {
        let check = |record: Record, expected: &str| {
            let mut bytes = vec![];
            write(&mut bytes, 7, 100, &record);
            let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(hex, expected, "{record:?}");
            let at = vec![0; 100].into_iter().chain(bytes.iter().copied()).collect::<Vec<u8>>();
            let Scanned::Record { record: read, next } = scan(&at, 7, 100) else { panic!("{record:?}") };
            assert_eq!((format!("{read:?}"), next), (format!("{record:?}"), at.len()));
            assert!(matches!(scan(&at, 8, 100), Scanned::Broken), "another segment's");
            for len in 101..at.len() {
                assert!(matches!(scan(&at[..len], 7, 100), Scanned::Broken));
            }
        };
        let vote = Vote::new_committed(3, 2);
        let start = Start { vote: Some(vote), committed: Some(log_id(3, 2, 300)), purged: None };
        check(Record::Start(start), GOLDEN[0]);
        check(Record::Mark, GOLDEN[1]);
        let request = RequestId { process: ProcessId(5), counter: 6 };
        let proposal = Proposal { request: Some(request), command: Bytes::from_static(b"abc") };
        let payloads = [
            EntryPayload::Blank,
            EntryPayload::Normal(Proposals(vec![proposal])),
            EntryPayload::Membership(openraft::Membership::new(
                vec![[1, 2].into()],
                BTreeMap::from([(1, BasicNode::new("a:1")), (2, BasicNode::new("b:2")), (3, BasicNode::new("c:3"))]),
            )),
        ];
        for (i, payload) in payloads.into_iter().enumerate() {
            check(Record::Entry(Entry { log_id: log_id(3, 2, 300), payload }), GOLDEN[2 + i]);
        }
        check(Record::Vote(vote), GOLDEN[5]);
        check(Record::Committed(Some(log_id(3, 2, 300))), GOLDEN[6]);
        check(Record::Truncate(log_id(3, 2, 300)), GOLDEN[7]);
        check(Record::Purge(log_id(3, 2, 300)), GOLDEN[8]);
    }

    const GOLDEN: [&str; 9] = [
        "0a00000020dcf0160101030201010302ac0200",
        "000000003792a70802",
        "0500000075170cf4030302ac0200",
        "0d00000073363784030302ac02010101050603616263",
        "1900000075446f33030302ac020201020102030103613a310203623a320303633a33",
        "03000000ae40333904030201",
        "050000004c4045ed05010302ac02",
        "0400000003cf5308060302ac02",
        "04000000b3e63335070302ac02",
    ];

    #[test]
    fn a_whole_record_of_an_unknown_kind_is_told_from_damage() {
        let mut bytes = vec![];
        write(&mut bytes, 1, 0, &Record::Mark);
        bytes[8] = 99;
        let crc = crc(1, 0, 99, &[]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        assert!(matches!(scan(&bytes, 1, 0), Scanned::Unknown { kind: 99 }));
    }
}
