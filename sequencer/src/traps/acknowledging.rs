//! What a sequencer acknowledges, and when.

use std::time::Duration;

use dlog_proto::record::{BatchBuilder, BatchOptions, NewRecord, ProducerStamp};
use dlog_proto::wire::{Acks, AppendError, StoreRefusal};
use dlog_proto::{Epoch, QuorumConfig};

use crate::output::{Proposal, Token};
use crate::partition::AppendRequest;
use crate::settings::Settings;
use crate::testing::rig::{MS, Rig, nothing_held};
use crate::testing::table;

#[test]
fn an_append_may_ask_for_fewer_or_more_copies_than_its_log() {
    let mut rig = Rig::new(QuorumConfig::majority(3), Settings::default());
    [(1, Acks::One), (2, Acks::Quorum), (3, Acks::All)].into_iter().for_each(|(t, acks)| rig.append(t, acks));
    rig.answer(&[1]);
    assert_eq!(rig.replied(), [1]);
    rig.answer(&[2]);
    assert_eq!(rig.replied(), [2]);
    rig.answer(&[3]);
    assert_eq!(rig.replied(), [3]);
}

#[test]
fn acknowledgements_come_in_order() {
    let mut rig = Rig::new(QuorumConfig::majority(3), Settings::default());
    rig.append(1, Acks::Quorum);
    let first = std::mem::take(&mut rig.stores);
    rig.append(2, Acks::Quorum);
    rig.answer(&[1, 2, 3]);
    assert_eq!(rig.replied(), [0; 0], "the first is on no disk yet");
    rig.stores = first;
    rig.answer(&[1, 2]);
    assert_eq!(rig.replied(), [1, 2]);
}

#[test]
fn c13_where_recovery_needs_few_answers_a_sequencer_acknowledges_only_under_a_lease() {
    let lease = 300 * MS;
    let settings = || Settings { lease: Some(lease), ..Settings::default() };
    let mut rig = Rig::new(QuorumConfig::available(3), settings());
    rig.append(1, Acks::Quorum);
    rig.answer(&[1]);
    assert_eq!(rig.replied(), [0; 0], "somebody may have decided the end already");
    rig.sequencer.handle_lease(rig.now + lease);
    rig.pump();
    assert_eq!(rig.replied(), [1]);
    rig.wait(lease + MS);
    rig.append(2, Acks::Quorum);
    rig.answer(&[1, 2, 3]);
    assert_eq!(rig.replied(), [0; 0]);
    rig.sequencer.handle_superseded(rig.now, Epoch(2));
    rig.pump();
    assert!(matches!(rig.replies[..], [(2, Err(AppendError::Preempted { .. }))]), "{:?}", rig.replies);

    let mut successor = Rig::of(table(QuorumConfig::available(3), 2, &[]), settings());
    successor.sealed(1, 2, Ok(nothing_held(1)));
    assert!(successor.sequencer.next_timeout().is_some_and(|at| at > successor.now), "it waits, and does not spin");
    successor.wait(lease - MS);
    assert_eq!(successor.proposals, [], "the old one may still acknowledge what only others have");
    successor.wait(MS);
    successor.wait(Settings::default().recovery_grace);
    assert!(matches!(successor.proposals[..], [Proposal::Decide(_)]), "{:?}", successor.proposals);
}

#[test]
fn a_strict_log_needs_no_lease() {
    let mut rig =
        Rig::new(QuorumConfig::majority(3), Settings { lease: Some(Duration::from_secs(1)), ..Settings::default() });
    rig.append(1, Acks::Quorum);
    rig.answer(&[1, 2]);
    assert_eq!(rig.replied(), [1]);
}

#[test]
fn a_full_window_says_so() {
    let by_bytes = Settings { window_bytes_max: 100, ..Settings::default() };
    let by_records = Settings { window_records_max: 2, ..Settings::default() };
    for settings in [by_bytes, by_records] {
        let mut rig = Rig::new(QuorumConfig::majority(3), settings);
        (1..=3).for_each(|token| rig.append(token, Acks::Quorum));
        assert!(matches!(rig.replies.last(), Some((3, Err(AppendError::Overloaded { .. })))), "{:?}", rig.replies);
        assert!(rig.sequencer.window_bytes() < 1000);
        rig.answer(&[1, 2, 3]);
        rig.answer(&[1, 2, 3]);
        rig.replies.clear();
        rig.append(4, Acks::Quorum);
        rig.answer(&[1, 2, 3]);
        assert_eq!(rig.replied(), [4], "it is settled and has left the window");
    }
}

#[test]
fn where_missing_copies_cannot_be_put_on_record_appends_stop_and_say_why() {
    let settings = Settings { window_records_max: 2, ..Settings::default() };
    let straggler = settings.straggler_timeout;
    let mut rig = Rig::new(QuorumConfig::majority(3), settings);
    rig.link(3, false);
    for token in [1, 2] {
        rig.append(token, Acks::Quorum);
        rig.answer(&[1, 2]);
    }
    assert_eq!(rig.replied(), [1, 2]);
    rig.wait(straggler);
    rig.answer(&[1, 2]);
    let Some(Proposal::OpenMissing { shard, .. }) = rig.proposals.pop() else { panic!("not put on record") };
    rig.append(3, Acks::Quorum);
    let [(3, Err(error @ AppendError::Overloaded { .. }))] = &rig.replies[..] else { panic!("{:?}", rig.replies) };
    let text = error.to_string();
    assert!(text.contains("lacks copies") && text.contains("a majority of the metadata tier's voters"), "{text}");
    rig.replies.clear();
    rig.sequencer.handle_missing_recorded(rig.now, shard);
    rig.pump();
    rig.answer(&[1, 2]);
    rig.append(4, Acks::Quorum);
    rig.answer(&[1, 2]);
    assert_eq!(rig.replied(), [4], "with a majority again, it goes on");
}

#[test]
fn a_sealed_sequencer_stops() {
    let mut rig = Rig::new(QuorumConfig::majority(3), Settings::default());
    rig.append(1, Acks::Quorum);
    let (_, mut answer) = rig.stores.pop().unwrap();
    answer.result = Err(StoreRefusal::Sealed(Epoch(4)));
    rig.sequencer.handle_stored(rig.now, &answer);
    rig.pump();
    assert_eq!(rig.sequencer.preempted_by(), Some(Epoch(4)));
    assert!(matches!(rig.replies[..], [(1, Err(AppendError::Preempted { .. }))]));
}

#[test]
fn records_get_the_time_at_which_an_epoch_takes_them_and_retries_are_told_the_first_time() {
    let mut rig = Rig::new(QuorumConfig::majority(3), Settings::default());
    let stamped = |token, base_sequence| {
        let mut batch = BatchBuilder::new(256);
        batch.append(&NewRecord::of_value(5, b"record"));
        let producer = Some(ProducerStamp { id: 7, epoch: 0, base_sequence });
        let batch = batch.finish(BatchOptions { producer, ..BatchOptions::default() }).freeze();
        AppendRequest { token: Token(token), acks: Acks::Quorum, with_offset: false, append_time: true, batch }
    };
    rig.sequencer.handle_append(rig.now, 1000, stamped(1, 0));
    rig.sequencer.handle_append(rig.now, 2000, stamped(2, 0));
    rig.pump();
    rig.answer(&[1, 2, 3]);
    rig.sequencer.handle_append(rig.now, 3000, stamped(3, 0));
    rig.pump();
    let times: Vec<_> = rig.replies.iter().map(|(token, ok)| (*token, ok.as_ref().unwrap().append_time)).collect();
    assert_eq!(times, [(1, 1000), (2, 1000), (3, 1000)]);
    rig.sequencer.begin_planned_succession();
    rig.sequencer.handle_append(rig.now, 4000, stamped(4, 1));
    rig.pump();
    // What waited is checked by the next epoch as if it had just come.
    let waiting = rig.sequencer.take_waiting_appends();
    let mut next = Rig::new(QuorumConfig::majority(3), Settings::default());
    waiting.into_iter().for_each(|request| next.sequencer.handle_append(next.now, 5000, request));
    next.pump();
    assert!(
        matches!(next.replies[..], [(4, Err(AppendError::UnknownProducer { .. }))]),
        "it is new here, and nothing else is wrong with it: {:?}",
        next.replies
    );
}
