//! What may lie on the disk after a crash or a fault, and what the log makes of it: all that was durable, or a refusal.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use openraft::{CommittedLeaderId, EntryPayload};
use tempfile::TempDir;

use super::durable::Durable;
use super::replay::{Log, read};
use super::*;
use crate::raft::types::{Entry, LogId, Proposal, Proposals, Vote};

const NODE: NodeId = NodeId(3);

fn log_id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(1, 3), index)
}

fn entry(index: u64) -> Entry {
    let command = Bytes::from(vec![index as u8; 20]);
    let payload = EntryPayload::Normal(Proposals(vec![Proposal { request: None, command }]));
    Entry { log_id: log_id(index), payload }
}

fn entries(indexes: std::ops::Range<u64>) -> Op {
    Op::Append(indexes.map(entry).collect())
}

/// What a log says, for comparison.
#[derive(Debug, Clone, PartialEq)]
struct Content {
    vote: Option<Vote>,
    purged: Option<u64>,
    indexes: Vec<u64>,
}

fn content(replayed: &Replayed) -> Content {
    let sound = |e: &Entry| format!("{:?}", e.payload) == format!("{:?}", entry(e.log_id.index).payload);
    assert!(replayed.entries.iter().all(sound));
    Content {
        vote: replayed.marks.vote,
        purged: replayed.marks.purged.map(|purged| purged.index),
        indexes: replayed.entries.iter().map(|entry| entry.log_id.index).collect(),
    }
}

fn written(dir: &Path, batches: &[Vec<Op>]) -> Content {
    let (_, mut writer) = open(dir, NODE).unwrap();
    batches.iter().for_each(|batch| writer.write(batch).unwrap());
    drop(writer);
    content(&open(dir, NODE).unwrap().0)
}

fn batches() -> Vec<Vec<Op>> {
    vec![
        vec![Op::Vote(Vote::new(1, 3)), entries(0..3)],
        vec![entries(3..6), Op::Committed(Some(log_id(4)))],
        vec![Op::Truncate(log_id(5)), entries(5..8), Op::Vote(Vote::new_committed(2, 3))],
    ]
}

fn segment(dir: &Path) -> PathBuf {
    segment::path(dir, 1)
}

/// Lengths of the only segment after each batch, and what the log said then.
fn steps(dir: &Path) -> Vec<(usize, Content)> {
    let batches = batches();
    let step = |count: usize| {
        let part = TempDir::new().unwrap();
        let content = written(part.path(), &batches[..count]);
        (fs::metadata(segment(part.path())).unwrap().len() as usize, content)
    };
    written(dir, &batches);
    (0..=batches.len()).map(step).collect()
}

#[test]
fn what_was_written_is_read() {
    let dir = TempDir::new().unwrap();
    let content = written(dir.path(), &batches());
    assert_eq!(content.indexes, (0..8).collect::<Vec<_>>());
    assert_eq!((content.vote, content.purged), (Some(Vote::new_committed(2, 3)), None));
    assert!(matches!(open(dir.path(), NodeId(4)), Err(WalError::OtherNode { found: NODE, .. })));
    let _open = open(dir.path(), NODE).unwrap();
    assert!(matches!(open(dir.path(), NODE), Err(WalError::Locked { .. })));
}

/// Power is lost while the last batch is being written: any part of it may be there.
#[test]
fn a_torn_batch_is_cut_off_and_nothing_before_it() {
    let dir = TempDir::new().unwrap();
    let steps = steps(dir.path());
    let whole = fs::read(segment(dir.path())).unwrap();
    let (before, content_before) = &steps[2];
    let noted = Durable { segment: 1, len: *before as u64 };
    for len in *before..whole.len() {
        for zeroed in [false, true] {
            // Either the file is shorter, or its length is there and the pages are not.
            let mut bytes = whole[..len].to_vec();
            if zeroed {
                bytes.resize(whole.len(), 0);
            }
            fs::write(segment(dir.path()), &bytes).unwrap();
            let Log { replayed, torn, .. } = read(dir.path(), NODE, noted).unwrap();
            let content = content(&replayed);
            let prefix = &content.indexes[..content.indexes.len().min(5)];
            assert!(content_before.indexes.starts_with(prefix) && prefix.len() == 5, "at {len}: {content:?}");
            assert_eq!(torn.is_some(), zeroed || !is_boundary(&whole, len), "at {len}");
        }
    }
    // Written on after the cut, nothing of the torn batch comes back.
    fs::write(segment(dir.path()), &whole[..whole.len() - 1]).unwrap();
    fs::remove_file(dir.path().join("durable")).unwrap();
    let content = written(dir.path(), &[vec![Op::Vote(Vote::new(9, 1))]]);
    assert_eq!((content.vote, content.indexes.len()), (Some(Vote::new(9, 1)), 8));
}

fn is_boundary(whole: &[u8], len: usize) -> bool {
    let mut at = segment::HEADER_LEN;
    while let record::Scanned::Record { next, .. } = record::scan(whole, 1, at) {
        if at == len {
            return true;
        }
        at = next;
    }
    at == len
}

/// The same cuts, but the whole batch is known to have been durable: something was lost that others rely on.
#[test]
fn a_log_that_is_shorter_than_what_was_durable_is_refused() {
    let dir = TempDir::new().unwrap();
    written(dir.path(), &batches());
    let whole = fs::read(segment(dir.path())).unwrap();
    let noted = Durable { segment: 1, len: whole.len() as u64 };
    for len in 0..whole.len() {
        fs::write(segment(dir.path()), &whole[..len]).unwrap();
        let Err(error) = read(dir.path(), NODE, noted) else { panic!("opened, cut at {len}") };
        assert!(matches!(error, WalError::Damaged { .. }), "{error}");
    }
    fs::remove_file(segment(dir.path())).unwrap();
    let Err(error) = read(dir.path(), NODE, noted) else { panic!("opened without its segment") };
    assert!(error.to_string().contains("segment-0000000000000001.wal is damaged at byte 0: the file is missing"));
}

/// A bit rots. In what a later batch shows to have been durable: refused. In the last batch, if nothing is known of it:
/// cut off.
#[test]
fn no_flipped_bit_goes_unnoticed() {
    let dir = TempDir::new().unwrap();
    let steps = steps(dir.path());
    let whole = fs::read(segment(dir.path())).unwrap();
    let (last_batch, all) = (steps[2].0, &steps[3].1);
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(segment(dir.path()), &bytes).unwrap();
        let known = Durable { segment: 1, len: whole.len() as u64 };
        let Err(error) = read(dir.path(), NODE, known) else { panic!("opened, flipped at {at}") };
        assert!(error.to_string().contains("segment-0000000000000001.wal is damaged"), "{error}");
        match read(dir.path(), NODE, Durable::default()) {
            // Reading ends at the flipped record; what lies before is as it was.
            Ok(Log { replayed, torn: Some(_), .. }) => {
                assert!(at >= last_batch, "opened, flipped at {at}");
                assert_ne!(&content(&replayed), all);
            }
            Ok(_) => panic!("unnoticed at {at}"),
            Err(_) => assert!(at < last_batch, "refused, flipped at {at}"),
        }
    }
}

/// Segments that are full, that are purged, and what follows when one is missing or cut.
#[test]
fn segments_come_and_go() {
    let dir = TempDir::new().unwrap();
    let mut writer = open(dir.path(), NODE).unwrap().1.with_segment_len(500);
    writer.write(&[Op::Vote(Vote::new(1, 3))]).unwrap();
    for index in 0..40 {
        writer.write(&[entries(index..index + 1)]).unwrap();
    }
    let numbers = || segment::list(dir.path()).unwrap();
    assert!(numbers().len() > 4 && numbers()[0] == 1);
    writer.write(&[Op::Purge(log_id(30))]).unwrap();
    assert!(numbers()[0] > 2, "{:?}", numbers());
    drop(writer);
    let (replayed, writer) = open(dir.path(), NODE).unwrap();
    let (before, expected) = (content(&replayed), (31..40).collect::<Vec<_>>());
    assert_eq!((before.vote, before.purged, before.indexes), (Some(Vote::new(1, 3)), Some(30), expected));
    // A snapshot from elsewhere, far ahead: all entries go, the next one follows it.
    let mut writer = writer.with_segment_len(500);
    writer.write(&[Op::Purge(log_id(100)), entries(101..103)]).unwrap();
    writer.write(&[entries(103..120)]).unwrap();
    writer.write(&[entries(120..121)]).unwrap();
    drop(writer);
    let after = content(&open(dir.path(), NODE).unwrap().0);
    assert_eq!((after.purged, after.indexes), (Some(100), (101..121).collect()));

    let first = segment::path(dir.path(), numbers()[0]);
    let bytes = fs::read(&first).unwrap();
    fs::write(&first, &bytes[..bytes.len() - 1]).unwrap();
    assert!(
        matches!(open(dir.path(), NODE), Err(WalError::Damaged { what: Damage::Record, .. })),
        "a full segment is cut"
    );
    let boundary = (0..bytes.len()).rev().find(|len| is_boundary_of(&bytes, numbers()[0], *len)).unwrap();
    fs::write(&first, &bytes[..boundary]).unwrap();
    assert!(matches!(open(dir.path(), NODE), Err(WalError::Damaged { .. })), "a full segment ends early");
    fs::write(&first, &bytes).unwrap();
    open(dir.path(), NODE).unwrap();
    fs::remove_file(segment::path(dir.path(), *numbers().last().unwrap())).unwrap();
    assert!(matches!(open(dir.path(), NODE), Err(WalError::Damaged { what: Damage::Missing, .. })));
}

fn is_boundary_of(whole: &[u8], number: u64, len: usize) -> bool {
    let mut at = segment::HEADER_LEN;
    while at < len {
        match record::scan(whole, number, at) {
            record::Scanned::Record { next, .. } => at = next,
            _ => return false,
        }
    }
    at == len
}
