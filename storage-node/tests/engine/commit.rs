//! A shard on its threads, on a real disk with a real index.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use dlog_proto::{Epoch, Esn, Lsn, PartitionUid};
use dlog_storage_node::commit::{CommitConfig, CommitSink, Committer, ReserveRefused, ShardFailed};
use dlog_storage_node::disk::simulated::{Fault, Operation};
use dlog_storage_node::disk::{Disk, RealDisk, SimulatedDisk};
use dlog_storage_node::entry::{Entry, EntrySeq, PartitionMeta};
use dlog_storage_node::index::kv::KvStore;
use dlog_storage_node::index::memory::MemoryKv;
use dlog_storage_node::index::rocks::{RocksConfig, RocksStore};
use dlog_storage_node::read::{Found, ReadItem};
use dlog_storage_node::{Engine, EngineConfig, Recovered, Start, SyncReason};

use crate::machine::identity;
use crate::workload;

/// Remembers how far the shard is, and lets a test wait for it.
#[derive(Clone, Default)]
struct Progress(Arc<(Mutex<Told>, Condvar)>);

#[derive(Default, Debug)]
struct Told {
    written: EntrySeq,
    durable: EntrySeq,
    failed: Option<String>,
}

impl Progress {
    fn tell(&self, change: impl FnOnce(&mut Told)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    fn wait(&self, until: impl Fn(&Told) -> bool) {
        let told = self.0.0.lock().unwrap();
        let (told, timeout) = self.0.1.wait_timeout_while(told, Duration::from_secs(10), |told| !until(told)).unwrap();
        assert!(!timeout.timed_out(), "{told:?}");
    }
}

impl CommitSink for Progress {
    fn written(&mut self, upto: EntrySeq) {
        self.tell(|told| {
            assert!(upto > told.written, "in order");
            told.written = upto;
        });
    }

    fn durable(&mut self, upto: EntrySeq) {
        self.tell(|told| {
            assert!(upto > told.durable && upto <= told.written, "in order");
            told.durable = upto;
        });
    }

    fn failed(&mut self, error: &ShardFailed) {
        self.tell(|told| told.failed = Some(error.to_string()));
    }
}

fn open(config: EngineConfig, disk: Arc<dyn Disk>, index: &dyn KvStore) -> (Engine, Recovered) {
    Engine::open(config, disk, index, identity(), Start { boot_id: 1, now_ms: 0, random: 5 }).unwrap()
}

fn block(partition: u64, esn: u32, len: usize) -> Entry {
    let block = workload::block(partition, 1, esn, 1, len, esn as u8);
    Entry::Block { placement: workload::placement(1, 1, esn), block }
}

fn submit(committer: &Committer, entry: Entry, sync: bool) -> EntrySeq {
    while let Err(refused) = committer.reserve(&entry) {
        let wait = matches!(refused, ReserveRefused::Overloaded { .. } | ReserveRefused::NotReady);
        assert!(wait, "{refused}");
        std::thread::sleep(Duration::from_millis(1));
    }
    committer.submit(entry, sync).unwrap()
}

/// ESNs of a partition's blocks, all of it.
fn esns(committer: &Committer, partition: u64) -> Vec<u32> {
    let (mut esns, mut next) = (Vec::new(), Some(Lsn::ZERO));
    while let Some(from) = next {
        let chunk = committer.reader().read(PartitionUid(partition), from, Lsn::MAX, 64 << 10).unwrap();
        esns.extend(chunk.items.iter().map(|item| match item {
            ReadItem::Block(stored) => stored.block.header().first_esn.0,
            ReadItem::Damaged { .. } => panic!("{item:?}"),
        }));
        next = chunk.next;
    }
    esns
}

#[test]
fn what_several_threads_store_is_there_in_order_now_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::open(dir.path().join("shard")).unwrap());
    let index = RocksStore::new(&dir.path().join("shard"), RocksConfig::default());
    let config = EngineConfig { zero_ahead_bytes: 8 << 10, ..EngineConfig::small() };
    let (engine, recovered) = open(config, Arc::clone(&disk), &index);
    assert!(recovered.formatted && !recovered.lost_write_cache);
    let progress = Progress::default();
    let (committer, running) = engine.start(Box::new(progress.clone()), CommitConfig::default());
    let count = 300;
    std::thread::scope(|scope| {
        for partition in 1..=3 {
            let committer = committer.clone();
            scope.spawn(move || {
                for esn in 1..=count {
                    submit(&committer, block(partition, esn, 500), partition == 1 && esn % 50 == 0);
                }
            });
        }
    });
    progress.wait(|told| told.durable == EntrySeq(3 * u64::from(count)));
    let expected: Vec<u32> = (1..=count).collect();
    (1..=3).for_each(|partition| assert_eq!(esns(&committer, partition), expected));
    let counters = committer.counters();
    assert_eq!(counters.entries, 3 * u64::from(count));
    assert!(counters.syncs[SyncReason::Sealed as usize] > 5 && counters.syncs[SyncReason::Asked as usize] > 0);
    drop(committer);
    running.close().unwrap();

    let (engine, recovered) = open(config, disk, &index);
    assert!(recovered.clean && recovered.replayed_bytes == 0 && recovered.losses.is_empty(), "{recovered:?}");
    let (committer, running) = engine.start(Box::new(Progress::default()), CommitConfig::default());
    (1..=3).for_each(|partition| assert_eq!(esns(&committer, partition), expected));
    drop(committer);
    running.close().unwrap();
}

#[test]
fn the_write_cache_is_flushed_when_it_is_old_or_full() {
    let (disk, index) = (SimulatedDisk::new(), MemoryKv::new());
    let (engine, _) = open(EngineConfig::small(), Arc::new(disk), &index);
    let progress = Progress::default();
    let config = CommitConfig {
        cache_age_max: Duration::from_millis(30),
        cache_rest_min: Duration::from_secs(3600),
        cache_bytes_max: 8 << 10,
        ..CommitConfig::default()
    };
    let (committer, running) = engine.start(Box::new(progress.clone()), config);
    let begun = Instant::now();
    let seq = submit(&committer, block(1, 1, 100), false);
    progress.wait(|told| told.written == seq);
    assert_eq!(progress.0.0.lock().unwrap().durable, EntrySeq(0));
    progress.wait(|told| told.durable == seq);
    assert!(begun.elapsed() >= Duration::from_millis(30));
    let last = (2..=10).map(|esn| submit(&committer, block(1, esn, 1000), false)).max().unwrap();
    progress.wait(|told| told.durable == last);
    let syncs = committer.counters().syncs;
    assert!(syncs[SyncReason::Age as usize] >= 1 && syncs[SyncReason::Bytes as usize] >= 1, "{syncs:?}");
    running.close().unwrap();
}

/// Readers wait for it, so an idle shard does not wait; and a busy one rests between two flushes.
#[test]
fn an_idle_shard_flushes_its_write_cache_at_once_and_a_busy_one_rests() {
    const REST: Duration = Duration::from_millis(20);
    let (disk, index) = (SimulatedDisk::new(), MemoryKv::new());
    let (engine, _) = open(EngineConfig::small(), Arc::new(disk), &index);
    let progress = Progress::default();
    let (age, rest) = (Duration::from_secs(3600), REST);
    let config = CommitConfig { cache_age_max: age, cache_rest_min: rest, ..CommitConfig::default() };
    let (committer, running) = engine.start(Box::new(progress.clone()), config);
    std::thread::sleep(REST);
    let seq = submit(&committer, block(1, 1, 100), false);
    progress.wait(|told| told.durable == seq);
    let (begun, before) = (Instant::now(), committer.counters().syncs[SyncReason::Age as usize]);
    let mut esn = 2;
    while begun.elapsed() < 5 * REST {
        submit(&committer, block(1, esn, 10), false);
        esn += 1;
        std::thread::sleep(REST / 20);
    }
    let syncs = committer.counters().syncs[SyncReason::Age as usize] - before;
    let most = begun.elapsed().as_millis() / REST.as_millis() + 1;
    assert!(before == 1 && (1..=most).contains(&u128::from(syncs)), "{syncs} flushes of at most {most}");
    running.close().unwrap();
}

#[test]
fn a_failed_sync_takes_the_shard_out_for_good_and_reads_go_on() {
    let (disk, index) = (SimulatedDisk::new(), MemoryKv::new());
    let (engine, _) = open(EngineConfig::small(), Arc::new(disk.clone()), &index);
    let progress = Progress::default();
    let (committer, running) = engine.start(Box::new(progress.clone()), CommitConfig::default());
    let seq = submit(&committer, block(1, 1, 100), true);
    progress.wait(|told| told.durable == seq);
    disk.inject(Fault { operation: Operation::Sync, after: 0, times: 1, error: Fault::EIO });
    submit(&committer, block(1, 2, 100), true);
    progress.wait(|told| told.failed.is_some());
    assert_eq!(progress.0.0.lock().unwrap().durable, seq, "what was not synced is never called durable");
    assert!(committer.submit(block(1, 3, 100), true).is_err());
    let found = committer.reader().fetch(PartitionUid(1), Epoch(1), Esn(1)).unwrap();
    assert!(matches!(found, Found::Block(_)));
    assert!(running.close().is_err());
}

#[test]
fn a_full_disk_is_an_answer_and_space_that_comes_back_is_used() {
    let (disk, index) = (SimulatedDisk::new(), MemoryKv::new());
    disk.set_capacity(Some(3 * (64 << 10) + 4096));
    // Everything that is trimmed is dropped before anything is freed.
    let (engine, _) = open(EngineConfig { trim_rows: 1000, ..EngineConfig::small() }, Arc::new(disk), &index);
    let config = CommitConfig { reclaim_every: Duration::from_millis(20), ..CommitConfig::default() };
    let progress = Progress::default();
    let (committer, running) = engine.start(Box::new(progress.clone()), config);
    let fill = |mut esn: u32| {
        let (begun, mut seq) = (Instant::now(), EntrySeq::default());
        loop {
            let entry = block(1, esn, 2000);
            match committer.reserve(&entry) {
                Ok(()) => {
                    seq = committer.submit(entry, true).unwrap();
                    esn += 1;
                }
                Err(ReserveRefused::NoSpace) => {
                    progress.wait(|told| told.durable == seq);
                    return esn - 1;
                }
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
            assert!(begun.elapsed() < Duration::from_secs(10), "the disk is never full");
        }
    };
    let last = fill(1);
    assert_eq!(esns(&committer, 1), (1..=last).collect::<Vec<_>>());
    // What frees space has a reserve of its own.
    let trim = Lsn::new(Epoch(1), Esn(last));
    submit(&committer, Entry::Partition(PartitionMeta { trim, ..PartitionMeta::new(PartitionUid(1)) }), true);
    let begun = Instant::now();
    while committer.reserve(&block(1, last + 1, 2000)).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "no segment is freed");
        std::thread::sleep(Duration::from_millis(5));
    }
    committer.unreserve(&block(1, last + 1, 2000));
    let more = fill(last + 1);
    assert!(more > last + 20, "a whole segment came back");
    assert_eq!(esns(&committer, 1), (last + 1..=more).collect::<Vec<_>>());
    running.close().unwrap();
}

#[test]
fn readers_see_no_difference_while_segments_are_rewritten() {
    let (disk, index) = (SimulatedDisk::new(), MemoryKv::new());
    let config = EngineConfig { recent_bytes_max: 0, ..EngineConfig::small() };
    let (engine, _) = open(config, Arc::new(disk), &index);
    let config = CommitConfig { background_bytes_per_second: u32::MAX, ..CommitConfig::default() };
    let (committer, running) = engine.start(Box::new(Progress::default()), config);
    const COUNT: u32 = 500;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writer = committer.clone();
        let done = &done;
        scope.spawn(move || {
            for esn in 1..=COUNT {
                for partition in 1..=3 {
                    submit(&writer, block(partition, esn, 400), esn % 20 == 0);
                }
            }
            done.store(true, Ordering::Release);
        });
        for partition in 1..=2 {
            let committer = committer.clone();
            scope.spawn(move || {
                let mut seen = 0;
                while !done.load(Ordering::Acquire) || committer.counters().rewritten_bytes < 200_000 {
                    let esns = esns(&committer, partition);
                    assert_eq!(esns, (1..=esns.len() as u32).collect::<Vec<_>>(), "a gap");
                    assert!(esns.len() >= seen);
                    seen = esns.len();
                }
            });
        }
    });
    (1..=3).for_each(|partition| assert_eq!(esns(&committer, partition), (1..=COUNT).collect::<Vec<_>>()));
    assert!(committer.counters().rewritten_bytes >= 200_000);
    running.close().unwrap();
}
