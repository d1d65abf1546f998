//! Histories that are broken in one way each, and whether that is seen.

use std::sync::Arc;

use dlog_client::GapReason;
use dlog_proto::wire::AppendError;
use dlog_proto::{
    End, Epoch, EpochEntry, EpochTable, Esn, Incarnation, Location, LogOffset, Lsn, Member, NodeId, Nodeset,
    PartitionUid, ProcessId, QuorumConfig, Replication, ShardId,
};

use super::given_up::{self, GivenUp};
use super::{Findings, Promise, check};
use crate::history::{Append, At, History, Outcome, Reading, RecordId, Seen, Tail};

fn lsn(epoch: u32, esn: u32) -> Lsn {
    Lsn::new(Epoch(epoch), Esn(esn))
}

fn record(number: u32) -> RecordId {
    RecordId { partition: 0, writer: 1, number }
}

fn acknowledged(number: u32, invoked: u64, at: u64, lsn: Lsn) -> Append {
    let outcome = Outcome::Acknowledged { at: At(at), lsn, offset: None };
    Append { record: record(number), invoked: At(invoked), outcome }
}

fn seen(at: u64, offset: u64, lsn: Lsn, number: u32) -> Seen {
    Seen { at: At(at), lsn, offset, record: Some(record(number)) }
}

fn reading(seen: Vec<Seen>) -> Reading {
    Reading { reader: 1, partition: 0, from: Lsn::FIRST, until: None, seen, complaints: Vec::new() }
}

/// Four records over two epochs, of which the third got no answer; read twice; the tail asked for in between.
fn sound() -> History {
    let unknown = Outcome::Unknown { at: At(39), why: "not acknowledged in time".to_owned() };
    let all = vec![
        seen(15, 0, lsn(1, 1), 0),
        seen(25, 1, lsn(1, 2), 1),
        seen(45, 2, lsn(2, 1), 2),
        seen(45, 3, lsn(2, 2), 3),
    ];
    History {
        appends: vec![
            acknowledged(0, 10, 14, lsn(1, 1)),
            acknowledged(1, 20, 24, lsn(1, 2)),
            Append { record: record(2), invoked: At(30), outcome: unknown },
            acknowledged(3, 40, 44, lsn(2, 2)),
        ],
        readings: vec![reading(all[..3].to_vec())],
        whole: vec![reading(all)],
        tails: vec![
            Tail { partition: 0, asked: At(26), answered: At(27), end: lsn(1, 3) },
            Tail { partition: 0, asked: At(50), answered: At(51), end: lsn(2, 3) },
        ],
        ..History::default()
    }
}

fn broken(how: impl FnOnce(&mut History)) -> Findings {
    let mut history = sound();
    how(&mut history);
    check(&history)
}

#[track_caller]
fn breaks(promise: Promise, how: impl FnOnce(&mut History)) {
    let findings = broken(how);
    assert_eq!(findings.count(promise), 1, "{promise}: {:?}", findings.violations);
    assert_eq!(findings.counts.len(), 1, "nothing else is wrong: {:?}", findings.violations);
}

#[test]
fn a_sound_history_is_sound() {
    assert!(check(&sound()).is_clean(), "{:?}", check(&sound()).violations);
}

#[test]
fn an_unanswered_record_may_be_missing() {
    let findings = broken(|history| {
        history.readings.clear();
        history.whole[0].seen.remove(2);
        history.whole[0].seen[2].offset = 2;
    });
    assert!(findings.is_clean(), "{:?}", findings.violations);
}

#[test]
fn a_lost_record() {
    breaks(Promise::NoLoss, |history| {
        history.readings[0].seen.clear();
        history.whole[0].seen.truncate(3);
    });
}

#[test]
fn a_record_twice() {
    breaks(Promise::NoDuplicate, |history| history.whole[0].seen.push(seen(60, 4, lsn(2, 3), 2)));
}

#[test]
fn a_record_elsewhere_than_acknowledged() {
    breaks(Promise::WhereAcknowledged, |history| {
        history.appends[3].outcome = Outcome::Acknowledged { at: At(44), lsn: lsn(2, 2), offset: Some(4) };
    });
    breaks(Promise::WhereAcknowledged, |history| {
        history.appends[3].outcome = Outcome::Acknowledged { at: At(44), lsn: lsn(2, 1), offset: None };
    });
}

#[test]
fn records_of_a_key_in_another_order() {
    breaks(Promise::OrderPerKey, |history| {
        // Appended at the same time, so that only the key's order is broken.
        history.appends[0] = acknowledged(0, 10, 24, lsn(1, 2));
        history.appends[1] = acknowledged(1, 10, 24, lsn(1, 1));
        history.readings.clear();
        history.whole[0].seen[0].record = Some(record(1));
        history.whole[0].seen[1].record = Some(record(0));
    });
}

#[test]
fn an_acknowledgement_before_the_one_before() {
    breaks(Promise::OrderPerKey, |history| history.early_acks.push((record(1), record(0))));
}

#[test]
fn an_append_before_what_was_acknowledged_before_it() {
    breaks(Promise::AppendsLinearizable, |history| {
        // Another writer, so that no key's order is broken.
        let other = RecordId { writer: 2, ..record(0) };
        history.appends[0] = Append { record: other, invoked: At(25), ..acknowledged(0, 0, 26, lsn(1, 1)) };
        history.readings.clear();
        history.tails.clear();
        history.whole[0].seen[0] = Seen { record: Some(other), ..seen(60, 0, lsn(1, 1), 0) };
    });
}

#[test]
fn a_tail_that_is_behind() {
    breaks(Promise::TailLinearizable, |history| history.tails[0].end = lsn(1, 2));
    breaks(Promise::TailLinearizable, |history| history.tails[1].end = lsn(1, 9));
}

#[test]
fn a_tail_that_goes_back() {
    breaks(Promise::TailLinearizable, |history| {
        history.tails[0].end = lsn(1, 9);
        history.tails.push(Tail { partition: 0, asked: At(28), answered: At(29), end: lsn(1, 8) });
    });
}

#[test]
fn an_unanswered_question_is_bound_by_nothing() {
    let findings = broken(|history| {
        history.tails = vec![Tail { partition: 0, asked: At(1), answered: At(90), end: Lsn::FIRST }];
    });
    assert!(findings.is_clean(), "it may have been answered before the first append");
}

#[test]
fn offsets_with_a_hole() {
    breaks(Promise::DenseAndAscending, |history| {
        history.readings.clear();
        history.whole[0].seen[3].offset = 4;
    });
}

#[test]
fn offsets_that_do_not_begin_at_zero() {
    breaks(Promise::DenseAndAscending, |history| {
        history.readings.clear();
        history.whole[0].seen.iter_mut().for_each(|seen| seen.offset += 1);
    });
}

#[test]
fn lsns_that_do_not_ascend() {
    breaks(Promise::DenseAndAscending, |history| {
        history.readings.clear();
        history.whole[0].seen[2].lsn = lsn(1, 2);
    });
}

#[test]
fn a_record_that_was_seen_and_is_gone() {
    breaks(Promise::OneSequence, |history| {
        history.readings[0].seen[2].record = Some(record(3));
        history.appends[3].invoked = At(31);
    });
}

#[test]
fn a_reader_that_was_given_the_second_record_first() {
    breaks(Promise::OneSequence, |history| {
        history.readings[0].seen.remove(0);
    });
}

#[test]
fn a_reader_that_ended_before_its_end() {
    breaks(Promise::OneSequence, |history| history.readings[0].until = Some(lsn(2, 3)));
    breaks(Promise::OneSequence, |history| {
        history.readings[0].until = Some(lsn(1, 2));
        history.readings[0].seen.clear();
    });
    let findings = broken(|history| history.readings[0].until = Some(lsn(2, 2)));
    assert!(findings.is_clean(), "{:?}", findings.violations);
}

#[test]
fn records_that_nobody_wrote() {
    breaks(Promise::NothingInvented, |history| {
        history.whole[0].seen.push(Seen { record: None, ..seen(60, 4, lsn(2, 3), 0) });
    });
    breaks(Promise::NothingInvented, |history| history.whole[0].seen.push(seen(60, 4, lsn(2, 3), 4)));
    breaks(Promise::NothingInvented, |history| history.readings[0].seen[0].at = At(9));
    breaks(Promise::NothingInvented, |history| {
        history.appends[2].outcome = Outcome::NotSent { at: At(39), why: "no connection".to_owned() };
    });
}

#[test]
fn a_sound_append_that_is_refused() {
    let findings = broken(|history| {
        history.appends[2].outcome = Outcome::Refused { at: At(39), why: "out of order".to_owned() };
    });
    assert_eq!(
        (findings.count(Promise::NoRefusal), findings.count(Promise::NothingInvented)),
        (1, 1),
        "it is there, too"
    );
}

#[test]
fn a_gap() {
    breaks(Promise::NoGap, |history| history.readings[0].complaints.push("e1n1 to e1n2 are lost".to_owned()));
}

#[test]
fn the_file_has_a_line_for_everything() {
    let mut file = Vec::new();
    sound().write(&mut file).unwrap();
    let lines: Vec<serde_json::Value> = file
        .split(|byte| *byte == b'\n')
        .filter(|l| !l.is_empty())
        .map(|l| serde_json::from_slice(l).unwrap())
        .collect();
    let of = |event: &str| lines.iter().filter(|line| line["event"] == event).count();
    assert_eq!((of("append"), of("reading"), of("seen"), of("tail")), (4, 2, 7, 2));
    assert_eq!(lines[0]["outcome"]["acknowledged"]["lsn"], "e1n1");
}

/// The first epoch ended behind its first record; the second is open.
fn table(authoritative: bool) -> EpochTable {
    let member =
        Member { shard: ShardId::new(1, 0), incarnation: Incarnation(1), location: Location::default(), weight: 1 };
    let nodeset = Arc::new(Nodeset::new(vec![member]).expect("a shard"));
    let replication = Arc::new(Replication::new(QuorumConfig::available(3)));
    let entry = |epoch, base, end: Option<u32>| EpochEntry {
        epoch: Epoch(epoch),
        sequencer: NodeId(1),
        process: ProcessId(1),
        nodeset: nodeset.clone(),
        replication: replication.clone(),
        base_offset: Some(LogOffset(base)),
        end: end.map(|last| End { last_esn: Esn(last), authoritative }),
        activated_at: 0,
    };
    let epochs = vec![entry(1, 0, Some(1)), entry(2, 1, None)];
    EpochTable { partition: PartitionUid(1), revision: 1, trim: Lsn::ZERO, covered: Epoch(0), epochs }
}

/// The second record was acknowledged, read, and lost with its shard.
fn lost(history: &mut History) {
    let all = vec![seen(15, 0, lsn(1, 1), 0), seen(45, 1, lsn(2, 1), 2), seen(45, 2, lsn(2, 2), 3)];
    history.readings = vec![reading(vec![seen(15, 0, lsn(1, 1), 0), seen(25, 1, lsn(1, 2), 1), all[1]])];
    history.whole = vec![reading(all)];
    let why = AppendError::OutOfOrder { producer: 1, expected: 1, found: 4 }.to_string();
    let refused = Outcome::Refused { at: At(45), why };
    history.appends.push(Append { record: record(4), invoked: At(30), outcome: refused });
    let gap = format!("{} to {}: {:?}", lsn(1, 1), lsn(1, 1), GapReason::DataLoss);
    history.readings.push(Reading { complaints: vec![gap], ..reading(Vec::new()) });
}

#[test]
fn what_is_given_up_is_lost_only_where_nothing_stands_behind_the_decision() {
    let found = broken(lost);
    assert!(found.count(Promise::NoLoss) == 1 && found.count(Promise::OneSequence) > 0, "{found:?}");
    let found = broken(|history| {
        lost(history);
        let found = given_up::set_aside(history, &[table(true)]);
        assert_eq!(found, GivenUp { lost: 0, refused: 1, passed_over: 1 });
    });
    assert_eq!(found.count(Promise::NoLoss), 1, "an end with authority gives nothing up");
    let found = broken(|history| {
        lost(history);
        assert_eq!(given_up::set_aside(history, &[table(false)]), GivenUp { lost: 1, refused: 1, passed_over: 1 });
    });
    assert!(found.is_clean(), "{found:?}");
    let found = broken(|history| {
        lost(history);
        history.whole[0].seen.truncate(2);
        given_up::set_aside(history, &[table(false)]);
    });
    assert_eq!(found.count(Promise::NoLoss), 1, "what is in the newest epoch is not given up");
}
