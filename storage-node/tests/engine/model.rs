//! What a shard must hold, told by a list of entries and nothing else.

use std::collections::BTreeMap;

use dlog_proto::block::{BlockKind, PlacementVersion};
use dlog_proto::{Lsn, PartitionUid};
use dlog_storage_node::entry::{Entry, Fate, PartitionMeta};
use dlog_storage_node::read::{Found, ReadItem, Reader};

/// Everything about one partition that can be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PartitionState {
    pub(crate) meta: PartitionMeta,
    /// By first LSN: checksum and version of the newest placement.
    pub(crate) blocks: BTreeMap<Lsn, (u32, PlacementVersion)>,
    pub(crate) snapshot: Option<(Lsn, u32)>,
}

pub(crate) type State = BTreeMap<PartitionUid, PartitionState>;

impl PartitionState {
    fn new(partition: PartitionUid) -> Self {
        Self { meta: PartitionMeta::new(partition), blocks: BTreeMap::new(), snapshot: None }
    }
}

/// What these entries come to, one after the other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fold {
    state: State,
    /// Last LSNs of blocks.
    lasts: BTreeMap<(PartitionUid, Lsn), Lsn>,
}

impl Fold {
    pub(crate) fn add(&mut self, entry: &Entry) {
        let Some(partition) = entry.partition() else { return };
        let state = self.state.entry(partition).or_insert_with(|| PartitionState::new(partition));
        match entry {
            Entry::Block { placement, block } => {
                let header = block.header();
                if header.kind == BlockKind::ProducerSnapshot {
                    let is_newest = state.snapshot.is_none_or(|(lsn, _)| lsn <= header.first_lsn());
                    if is_newest && !is_beyond_end(&state.meta, header.first_lsn()) {
                        state.snapshot = Some((header.first_lsn(), header.crc));
                    }
                } else if state.meta.fate(header.first_lsn(), header.last_lsn()) == Fate::Data {
                    self.lasts.insert((partition, header.first_lsn()), header.last_lsn());
                    state.blocks.insert(header.first_lsn(), (header.crc, placement.version));
                }
            }
            Entry::Amend { epoch, first_esn, placement, .. } => {
                if let Some((_, version)) = state.blocks.get_mut(&Lsn::new(*epoch, *first_esn)) {
                    *version = placement.version.max(*version);
                }
            }
            Entry::Partition(meta) => {
                state.meta = meta.clone();
                let last = |first| self.lasts[&(partition, first)];
                state.blocks.retain(|first, _| meta.fate(*first, last(*first)) == Fate::Data);
                state.snapshot.take_if(|(lsn, _)| meta.deleted || is_beyond_end(meta, *lsn));
            }
            Entry::Shard(_) => {}
        }
    }

    pub(crate) fn state(&self) -> &State {
        &self.state
    }
}

/// Whether a snapshot that covers what is below `next` covers records beyond an end.
fn is_beyond_end(meta: &PartitionMeta, next: Lsn) -> bool {
    meta.end_of(next.epoch()).is_some_and(|end| next.esn() > end.last_esn.next())
}

/// What a reader says of these partitions, read in small pieces, every block verified and looked up on its own too.
pub(crate) fn observe(reader: &Reader, partitions: impl IntoIterator<Item = PartitionUid>) -> State {
    let mut state = State::new();
    for partition in partitions {
        let Some(image) = reader.load(partition).expect("the index is good") else { continue };
        let mut blocks = BTreeMap::new();
        let mut next = Some(Lsn::ZERO);
        while let Some(from) = next {
            let chunk = reader.read(partition, from, Lsn::MAX, 3000).expect("the index is good");
            for item in chunk.items {
                let ReadItem::Block(stored) = item else { panic!("{partition} has {item:?}") };
                let header = *stored.block.header();
                let version = stored.placement.version;
                let before = blocks.insert(header.first_lsn(), (header.crc, version));
                assert_eq!(before, None, "{partition} gives {} twice", header.first_lsn());
                let described = reader.describe(partition, header.last_lsn()).expect("the index is good");
                let Found::Block(held) = described else { panic!("{partition} {}: {described:?}", header.last_lsn()) };
                assert_eq!((held.header, held.placement.version), (header, version));
            }
            assert!(chunk.next.is_none_or(|next| next > from), "reading goes on");
            next = chunk.next;
        }
        let held = reader.blocks_above(partition, Lsn::ZERO).expect("the index is good");
        let summaries: BTreeMap<_, _> =
            held.iter().map(|held| (held.header.first_lsn(), (held.header.crc, held.placement.version))).collect();
        assert_eq!(summaries, blocks, "{partition}: what is listed is what is read");
        let snapshot = match reader.producer_snapshot(partition).expect("the index is good") {
            Found::Block(stored) => Some((stored.block.header().first_lsn(), stored.block.header().crc)),
            Found::Nothing => None,
            Found::Damaged => panic!("{partition}: the snapshot is damaged"),
        };
        assert_eq!(image.snapshot, snapshot.map(|(lsn, _)| lsn));
        state.insert(partition, PartitionState { meta: image.meta, blocks, snapshot });
    }
    state
}
