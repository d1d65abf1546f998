//! Looking at a directory without a process: what is whole is called so, every damage is found, nothing is changed.

use std::sync::Arc;

use dlog_proto::{ClusterId, Epoch, PartitionUid};
use dlog_storage_node::Identity;
use dlog_storage_node::disk::Disk;
use dlog_storage_node::entry::{Entry, PartitionMeta};
use dlog_storage_node::index::kv::{Batch, Key, Kv, KvError, KvStore};
use dlog_storage_node::index::memory::MemoryKv;
use dlog_storage_node::offline::{Content, FaultKind, Item, Left, SegmentState, ShardFiles, Verdict};
use fastrand::Rng;

use crate::faults::{BLOCKS, compare, entry, stopped, truth};
use crate::machine::{Machine, identity};
use crate::workload::{Action, Workload};

fn look(machine: &Machine) -> ShardFiles {
    ShardFiles::open(Arc::new(machine.disk.clone())).unwrap()
}

fn verify(machine: &Machine) -> Verdict {
    let index: Result<Option<Arc<dyn Kv>>, KvError> = machine.kv.open().map(Some);
    let before = contents(machine);
    let verdict = look(machine).verify(index, &MemoryKv::new()).unwrap();
    assert_eq!(contents(machine), before, "nothing is changed");
    verdict
}

fn contents(machine: &Machine) -> Vec<(String, Option<Vec<u8>>)> {
    machine.disk.list().unwrap().into_iter().map(|(name, _)| (name.clone(), machine.disk.bytes(&name))).collect()
}

fn kinds(verdict: &Verdict) -> Vec<FaultKind> {
    verdict.faults.iter().map(|fault| fault.kind).collect()
}

#[test]
fn what_was_stopped_cleanly_or_killed_is_well() {
    let machine = stopped();
    let verdict = verify(&machine);
    assert!(verdict.is_well(), "{:?}", verdict.faults);
    assert_eq!((verdict.blocks, verdict.torn_bytes), (3 * u64::from(BLOCKS), 0));
    let (mut engine, _) = machine.open();
    engine.append(&[entry(1, BLOCKS + 1, 2000)]).unwrap();
    drop(engine);
    machine.kill();
    assert!(matches!(look(&machine).left(), Left::Uncleanly));
    let verdict = verify(&machine);
    assert!(verdict.is_well(), "{:?}", verdict.faults);
    assert_eq!(verdict.blocks, 3 * u64::from(BLOCKS) + 1);
}

#[test]
fn any_lawful_life_is_well() {
    for seed in 0..20 {
        let machine = Machine::new();
        let mut workload = Workload::new(seed, 3, 3000, true);
        let mut engine = Some(machine.open().0);
        for _ in 0..150 {
            match workload.next() {
                Action::Append(entries) => engine.as_mut().unwrap().append(&entries).unwrap(),
                Action::Sync => engine.as_mut().unwrap().sync().unwrap(),
                Action::Upkeep => engine.as_mut().unwrap().upkeep(0).unwrap(),
                Action::Checkpoint => engine.as_mut().unwrap().checkpoint().unwrap(),
                Action::Mark => engine.as_mut().unwrap().mark().unwrap(),
                Action::Reclaim => drop(engine.as_mut().unwrap().reclaim().unwrap()),
                Action::Rewrite => drop(engine.as_mut().unwrap().rewrite().unwrap()),
                Action::Restart => {
                    engine.take().unwrap().close().unwrap();
                    engine = Some(machine.open().0);
                }
            }
        }
        drop(engine);
        machine.kill();
        let verdict = verify(&machine);
        assert!(verdict.is_well(), "seed {seed}: {:#?}", verdict.faults);
        let mut crashed = machine.fork();
        crashed.crash(&mut Rng::with_seed(seed));
        let verdict = verify(&crashed);
        assert!(verdict.is_well(), "seed {seed}, crashed: {:#?}", verdict.faults);
    }
}

#[test]
fn every_flipped_bit_of_a_frame_or_a_header_is_found() {
    let (whole, truth) = (stopped(), truth());
    let files = look(&whole);
    for seed in 0..400 {
        let mut rng = Rng::with_seed(seed);
        let file = rng.choice(&files.segments).unwrap();
        if file.state == SegmentState::Ready {
            continue;
        }
        let frames: Vec<_> = files.frames(file).unwrap().collect();
        let machine = whole.fork();
        let bit = if seed % 8 == 0 {
            rng.choice([0, 2048]).unwrap() * 8 + rng.u64(0..64 * 8)
        } else {
            let Item::Frame(frame) = rng.choice(&frames).unwrap() else { panic!("there is no gap") };
            // The last bytes may be padding.
            u64::from(frame.at.offset) * 8 + rng.u64(0..u64::from(frame.len - 7) * 8)
        };
        machine.disk.flip_bit(&file.name, bit);
        let verdict = verify(&machine);
        assert!(!verdict.is_well(), "seed {seed}: bit {bit} of {}", file.name);
        let located = verdict.faults.iter().find(|fault| fault.file.as_ref() == Some(&file.name));
        let located = located.unwrap_or_else(|| panic!("seed {seed}: {:?}", verdict.faults));
        if let Some((begin, end)) = located.bytes {
            assert!((u64::from(begin)..=u64::from(end)).contains(&(bit / 8)), "seed {seed}: {bit} {located:?}");
        }
        // Whatever a reader misses is among the records that are named.
        let (engine, _) = machine.open();
        let (silent, damaged) = compare(&engine.reader(), &truth);
        let named = verdict.faults.iter().any(|fault| !fault.records.is_empty());
        assert!((silent, damaged) == (0, 0) || named, "seed {seed}: {:?}", verdict.faults);
    }
}

#[test]
fn files_that_are_gone_cut_short_renamed_or_strange_are_found() {
    let whole = stopped();
    let name = |machine: &Machine, at: usize| look(machine).segments[at].name.clone();
    let second = name(&whole, 1);

    let machine = whole.fork();
    machine.disk.remove(&second).unwrap();
    let verdict = verify(&machine);
    assert!(kinds(&verdict).contains(&FaultKind::Loss) && !verdict.faults[0].records.is_empty(), "{verdict:?}");

    let machine = whole.fork();
    let bytes = machine.disk.bytes(&second).unwrap();
    machine.disk.put(&second, &bytes[..20_000]);
    let verdict = verify(&machine);
    assert!(verdict.faults[0].to_string().contains("cut short: 20000 of 65536"), "{}", verdict.faults[0]);

    let machine = whole.fork();
    machine.disk.rename(&second, "00000000000000000777.seg").unwrap();
    let verdict = verify(&machine);
    assert_eq!(kinds(&verdict), [FaultKind::File], "a start puts it right: {:?}", verdict.faults);

    let machine = whole.fork();
    let stranger = Machine::new();
    let other = Identity { cluster: ClusterId(99), ..identity() };
    stranger.open_as(other).unwrap().0.close().unwrap();
    machine.disk.put("00000000000000000555.seg", &stranger.disk.bytes("00000000000000000001.seg").unwrap());
    let verdict = verify(&machine);
    assert!(verdict.faults[0].what.contains("belongs to shard n1s0 of cluster"), "{:?}", verdict.faults);

    let machine = whole.fork();
    machine.disk.remove("marker").unwrap();
    assert_eq!(kinds(&verify(&machine)), [FaultKind::Marker]);
    machine.disk.put("marker", &[7; 72]);
    assert_eq!(kinds(&verify(&machine)), [FaultKind::Marker]);
}

#[test]
fn an_index_that_does_not_fit_is_found() {
    let whole = stopped();
    let machine = whole.fork();
    machine.kv.damage();
    assert_eq!(kinds(&verify(&machine)), [FaultKind::Index]);
    let missing = look(&whole).verify(Ok(None), &MemoryKv::new()).unwrap();
    assert_eq!((kinds(&missing), missing.blocks), (vec![FaultKind::Index], 3 * u64::from(BLOCKS)));

    // Rows that are gone, and rows too many.
    let mut found = 0;
    for seed in 0..60 {
        let machine = whole.fork();
        let mut rows = machine.kv.dump();
        rows.retain(|(key, _)| b"rlap".contains(&key[0]));
        let (key, value) = Rng::with_seed(seed).choice(rows).unwrap();
        let mut changed = Batch::default();
        let mut other = key.clone();
        *other.last_mut().unwrap() ^= 1;
        let key_of = |key: &[u8]| Key::new(key).expect("keys are short");
        changed.changes.push((key_of(&key), None));
        if key[0] == b'r' && seed % 2 == 0 {
            changed.changes.push((key_of(&other), Some(value)));
        }
        machine.kv.open().unwrap().apply(&changed).unwrap();
        found += usize::from(!verify(&machine).is_well());
    }
    assert_eq!(found, 60);
}

#[test]
fn what_stands_in_a_segment_is_listed() {
    let machine = Machine::new();
    let (mut engine, _) = machine.open();
    let meta = PartitionMeta { seal: Epoch(3), ..PartitionMeta::new(PartitionUid(1)) };
    engine.append(&[entry(1, 1, 100), Entry::Partition(meta.clone()), entry(2, 1, 5000)]).unwrap();
    engine.close().unwrap();
    let files = look(&machine);
    assert_eq!(files.identity(), Some(identity()));
    assert!(matches!(files.left(), Left::Cleanly(end) if end.segment.0 == 1));
    assert_eq!(files.segments[0].state, SegmentState::Active);
    let mut frames = files.frames(&files.segments[0]).unwrap();
    let mut shown = Vec::new();
    while let Some(item) = frames.next() {
        let Item::Frame(frame) = item else { panic!("{item:?}") };
        shown.push(match &frame.content {
            Content::Block { header, .. } => {
                assert!(frames.block(&frame).is_ok());
                format!("{} {}", header.partition.0, header.first_lsn())
            }
            Content::Partition(found) => format!("{}", *found == meta),
            Content::Commit { number, .. } => format!("commit {number}"),
            other => format!("{other:?}"),
        });
    }
    let expected = ["commit 1", "Segments([SegmentId(1)])", "commit 2", "1 e1n1", "true", "2 e1n1"];
    assert_eq!(shown, expected);
}
