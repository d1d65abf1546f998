//! The bytes of one file: what is durable, and what was written since.

use std::collections::BTreeMap;
use std::ops::Range;

const PAGE_LEN: usize = 4096;
const SECTOR_LEN: usize = 512;
/// Versions of one unsynced page that are remembered: the newest and some before.
const VERSIONS_MAX: usize = 4;

type Page = Box<[u8; PAGE_LEN]>;

#[derive(Clone)]
pub(super) struct Image {
    len: u64,
    /// Whole pages.
    durable: Vec<u8>,
    /// Per page written since the last sync: what it was after each write, oldest first. The kernel may have written any
    /// of them back.
    unsynced: BTreeMap<usize, Vec<Page>>,
    /// What a failed sync left: the kernel shows these pages and believes that they are on the medium.
    phantom: BTreeMap<usize, Page>,
}

impl Image {
    pub(super) fn zeros(len: u64) -> Self {
        Self {
            len,
            durable: vec![0; (len as usize).next_multiple_of(PAGE_LEN)],
            unsynced: BTreeMap::new(),
            phantom: BTreeMap::new(),
        }
    }

    pub(super) fn with(bytes: &[u8]) -> Self {
        let mut image = Self::zeros(bytes.len() as u64);
        image.durable[..bytes.len()].copy_from_slice(bytes);
        image
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    fn page(&self, number: usize) -> &[u8] {
        let newest = self.unsynced.get(&number).and_then(|versions| versions.last());
        match newest.or_else(|| self.phantom.get(&number)) {
            Some(page) => &page[..],
            None => &self.durable[number * PAGE_LEN..][..PAGE_LEN],
        }
    }

    pub(super) fn read(&self, range: Range<u64>) -> Vec<u8> {
        let (mut at, end) = (range.start as usize, range.end as usize);
        let mut bytes = Vec::with_capacity(end - at);
        while at < end {
            let (page, offset) = (at / PAGE_LEN, at % PAGE_LEN);
            let part = (PAGE_LEN - offset).min(end - at);
            bytes.extend_from_slice(&self.page(page)[offset..offset + part]);
            at += part;
        }
        bytes
    }

    pub(super) fn write(&mut self, at: u64, mut bytes: &[u8]) {
        let mut at = at as usize;
        while !bytes.is_empty() {
            let (number, offset) = (at / PAGE_LEN, at % PAGE_LEN);
            let (part, rest) = bytes.split_at((PAGE_LEN - offset).min(bytes.len()));
            let mut page: Page = self.page(number).to_vec().try_into().expect("a page is a page long");
            page[offset..offset + part.len()].copy_from_slice(part);
            let versions = self.unsynced.entry(number).or_default();
            if versions.len() == VERSIONS_MAX {
                versions.remove(0);
            }
            versions.push(page);
            (bytes, at) = (rest, at + part.len());
        }
    }

    pub(super) fn sync(&mut self) {
        for (number, versions) in std::mem::take(&mut self.unsynced) {
            let newest = versions.last().expect("a version per write");
            self.durable[number * PAGE_LEN..][..PAGE_LEN].copy_from_slice(&newest[..]);
            self.phantom.remove(&number);
        }
    }

    /// The medium refuses: no later sync tries these pages again, unless they are written again.
    pub(super) fn fail_sync(&mut self) {
        for (number, mut versions) in std::mem::take(&mut self.unsynced) {
            self.phantom.insert(number, versions.pop().expect("a version per write"));
        }
    }

    /// Each unsynced page is lost, kept as of one of its writes, or torn between its durable and its newest bytes.
    pub(super) fn crash(&mut self, rng: &mut fastrand::Rng) {
        self.phantom.clear();
        for (number, versions) in std::mem::take(&mut self.unsynced) {
            let durable = &mut self.durable[number * PAGE_LEN..][..PAGE_LEN];
            match rng.u8(0..6) {
                0 | 1 => {}
                2 | 3 => durable.copy_from_slice(&versions[versions.len() - 1][..]),
                4 => durable.copy_from_slice(&versions[rng.usize(..versions.len())][..]),
                _ => {
                    let newest = &versions[versions.len() - 1];
                    for (to, from) in durable.chunks_mut(SECTOR_LEN).zip(newest.chunks(SECTOR_LEN)) {
                        if rng.bool() {
                            to.copy_from_slice(from);
                        }
                    }
                }
            }
        }
    }

    pub(super) fn flip_bit(&mut self, bit: u64) {
        let (at, mask) = ((bit / 8) as usize, 1 << (bit % 8));
        self.durable[at] ^= mask;
        let number = at / PAGE_LEN;
        for version in self.unsynced.get_mut(&number).into_iter().flatten().chain(self.phantom.get_mut(&number)) {
            version[at % PAGE_LEN] ^= mask;
        }
    }
}
