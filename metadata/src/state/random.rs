//! Random commands, in random order, sent again at random: the invariants hold after each, ends stay for ever, a
//! replica that starts from a snapshot is the same as one that saw everything.

use std::collections::BTreeMap;

use dlog_proto::{Epoch, Esn, Incarnation, Lsn, NodeId, PartitionUid, ProcessId, RequestId, ShardId};
use proptest::prelude::*;

use super::tests::{Machine, activate, create_log, decision, log_id, registration};
use super::*;

const NAMES: [&str; 5] = ["a/x", "a/y", "default/b.z", "b/z", "default/plain"];

fn commands() -> impl Strategy<Value = Command> {
    let partition = 1u64..8;
    let shard = (1u16..5).prop_map(|node| ShardId::new(node, 0));
    let register = (1u16..5, 1u128..3, any::<bool>(), any::<bool>()).prop_map(|(node, process, fresh, unclean)| {
        // Incarnations are guessed: those of the first disks are right.
        let mut command = registration(node, u128::from(node) * 10 + process, &[(!fresh).then_some(node.into())]);
        command.shards[0].unclean = unclean;
        Command::RegisterNode(command)
    });
    let create =
        (0usize..5, 1u32..4, 1u8..5).prop_map(|(name, n, r)| Command::CreateLog(create_log(NAMES[name], n, r)));
    let delete = (0usize..5).prop_map(|name| Command::DeleteLog(DeleteLog { log: log_id(NAMES[name]), deleted_ms: 1 }));
    let more = (0usize..5, 1u32..5).prop_map(|(name, partitions)| {
        Command::CreatePartitions(CreatePartitions { log: log_id(NAMES[name]), partitions })
    });
    let set = (0usize..5, 1u8..4).prop_map(|(name, r)| {
        let changes = BTreeMap::from([("replication_factor".to_owned(), Some(r.to_string()))]);
        Command::SetAttributes(SetAttributes { log: log_id(NAMES[name]), changes })
    });
    let activate = (1u16..5, 1u128..3, prop::collection::vec(partition.clone(), 1..4))
        .prop_map(|(node, process, uids)| activate(node, u128::from(node) * 10 + process, &uids));
    let missing = (shard.clone(), 1u32..4, 1u32..20, 1u32..20).prop_map(|(shard, incarnation, from, to)| {
        MissingCopies { shard, incarnation: Incarnation(incarnation), from: Esn(from), to: Esn(to) }
    });
    let decide = (partition.clone(), 1u32..6, 0u32..20, 1u32..6, prop::collection::vec(missing, 0..2)).prop_map(
        |(uid, epoch, last, recoverer, under_replicated)| {
            let decision = Decision { under_replicated, ..decision(uid, epoch, last, recoverer) };
            Command::Decide(Decide { decisions: vec![decision] })
        },
    );
    let change = (0u8..3, 1u32..20, 1u32..20).prop_map(|(kind, from, to)| match kind {
        0 => UnderReplicatedChange::Open { from: Esn(from) },
        1 => UnderReplicatedChange::Close { to: Esn(to) },
        _ => UnderReplicatedChange::Repaired { from: Esn(from), to: Esn(to) },
    });
    let record =
        (partition.clone(), 1u32..6, shard, 1u32..5, change).prop_map(|(uid, epoch, shard, incarnation, change)| {
            let (partition, epoch, incarnation) = (PartitionUid(uid), Epoch(epoch), Incarnation(incarnation));
            let items = vec![UnderReplicatedItem { partition, epoch, shard, incarnation, change }];
            Command::UnderReplicated(RecordUnderReplicated { items })
        });
    let cover = (partition.clone(), 1u32..6).prop_map(|(uid, epoch)| {
        Command::Cover(Cover { items: vec![CoverItem { partition: PartitionUid(uid), epoch: Epoch(epoch) }] })
    });
    let trim = (partition, 0u32..6, 0u32..20).prop_map(|(uid, epoch, esn)| {
        let upto = Lsn::new(Epoch(epoch), Esn(esn));
        Command::Trim(Trim { items: vec![TrimItem { partition: PartitionUid(uid), upto }] })
    });
    prop_oneof![
        2 => register, 3 => create, 1 => delete, 1 => more, 1 => set,
        8 => activate, 8 => decide, 3 => record, 3 => trim, 3 => cover
    ]
}

/// A cluster in which something can happen.
fn started() -> Machine {
    let mut machine = Machine::cluster(0);
    for node in 1..5 {
        machine.register(node, u128::from(node) * 10 + 1, &[None]).unwrap();
    }
    machine.create("a/x", 2, 3).unwrap();
    machine
}

/// Ends and owners that were ever seen.
#[derive(Default)]
struct History {
    ends: BTreeMap<(PartitionUid, Epoch), Esn>,
    owners: BTreeMap<(PartitionUid, Epoch), (NodeId, ProcessId)>,
}

impl History {
    fn check(&mut self, state: &State) {
        for (uid, partition) in state.partitions() {
            for row in &partition.epochs {
                let owner = (row.sequencer, row.process);
                assert_eq!(*self.owners.entry((uid, row.epoch)).or_insert(owner), owner, "an epoch has one sequencer");
                if let Some(end) = row.end {
                    let first = *self.ends.entry((uid, row.epoch)).or_insert(end.last_esn);
                    assert_eq!(first, end.last_esn, "INV-ONE-END");
                } else {
                    assert!(!self.ends.contains_key(&(uid, row.epoch)), "INV-ONE-END");
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn invariants_hold_whatever_is_asked(
        commands in prop::collection::vec((commands(), any::<prop::sample::Index>(), 0u8..5), 1..120)
    ) {
        let mut machine = started();
        let mut replica: Option<State> = None;
        let mut history = History::default();
        let mut sent: Vec<(RequestId, Command, Response)> = Vec::new();
        for (i, (command, again, dice)) in commands.into_iter().enumerate() {
            let request = RequestId { process: ProcessId(1), counter: i as u64 };
            let response = machine.apply_as(Some(request), command.clone());
            history.check(&machine.state);
            sent.push((request, command, response));
            if dice == 0 {
                let (request, command, answer) = again.get(&sent).clone();
                let before = machine.state.to_snapshot();
                let repeated = machine.state.apply(machine.state.revision(), Some(request), command);
                prop_assert_eq!(machine.state.to_snapshot(), before, "INV-REQUESTS");
                if !matches!(answer, Response::Activate(_)) {
                    prop_assert_eq!(repeated, answer);
                }
            }
            if let Some(replica) = &mut replica {
                let (request, command, response) = sent.last().unwrap().clone();
                prop_assert_eq!(replica.apply(machine.state.revision(), Some(request), command), response);
            } else if dice == 1 {
                replica = Some(State::from_snapshot(&machine.state.to_snapshot()).unwrap());
            }
        }
        if let Some(replica) = replica {
            prop_assert_eq!(replica.to_snapshot(), machine.state.to_snapshot());
        }
    }

    #[test]
    fn what_is_not_a_snapshot_is_refused(
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..=255), 1..4)
    ) {
        let mut machine = started();
        machine.activate(1, 11, &[1, 2]);
        let mut bytes = machine.state.to_snapshot();
        for (at, flip) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
        }
        // Either it is refused or it is a state that holds together; a checksum is the file's business.
        if let Ok(state) = State::from_snapshot(&bytes) {
            state.check_invariants().unwrap();
        }
    }
}
