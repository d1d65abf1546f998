//! Putting together a snapshot that comes in pieces. One at a time: the newest sender's.

use bytes::Bytes;

use super::rpc::SnapshotPiece;
use super::types::{SnapshotMeta, Vote};

/// No snapshot is longer.
const LEN_MAX: u64 = 4 << 30;

#[derive(Debug, Default)]
pub(crate) struct SnapshotInbox {
    incoming: Option<Incoming>,
}

#[derive(Debug)]
struct Incoming {
    vote: Vote,
    meta: SnapshotMeta,
    len: u64,
    crc: u32,
    /// Grows with what comes; a length that somebody claims allocates nothing.
    bytes: Vec<u8>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// So much is there: go on from here.
    Have(u64),
    Whole(SnapshotMeta, Bytes),
    /// What came is no snapshot.
    Invalid(&'static str),
}

impl SnapshotInbox {
    pub(crate) fn take(&mut self, piece: SnapshotPiece) -> Taken {
        let SnapshotPiece { vote, meta, len, crc, offset, bytes } = piece;
        if len > LEN_MAX {
            return Taken::Invalid("it is too long");
        }
        let is_same = |i: &Incoming| (i.vote, &i.meta, i.len, i.crc) == (vote, &meta, len, crc);
        if offset == 0 && !self.incoming.as_ref().is_some_and(is_same) {
            self.incoming = Some(Incoming { vote, meta: meta.clone(), len, crc, bytes: Vec::new() });
        }
        let Some(incoming) = self.incoming.as_mut().filter(|incoming| is_same(incoming)) else {
            return Taken::Have(0);
        };
        // A piece that was sent twice is there already.
        if offset == incoming.bytes.len() as u64 && offset + bytes.len() as u64 <= len {
            incoming.bytes.extend_from_slice(&bytes);
        }
        if (incoming.bytes.len() as u64) < len {
            return Taken::Have(incoming.bytes.len() as u64);
        }
        let Some(Incoming { meta, bytes, .. }) = self.incoming.take() else { return Taken::Have(0) };
        if crc32fast::hash(&bytes) == crc {
            Taken::Whole(meta, bytes.into())
        } else {
            Taken::Invalid("its bytes do not hold together")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(whole: &[u8], offset: usize, len: usize) -> SnapshotPiece {
        let bytes = Bytes::copy_from_slice(&whole[offset..(offset + len).min(whole.len())]);
        let (vote, meta) = (Vote::new(1, 1), SnapshotMeta::default());
        SnapshotPiece { vote, meta, len: whole.len() as u64, crc: crc32fast::hash(whole), offset: offset as u64, bytes }
    }

    #[test]
    fn pieces_make_the_whole_even_if_some_come_twice() {
        let whole: Vec<u8> = (0..100).collect();
        let mut inbox = SnapshotInbox::default();
        assert_eq!(inbox.take(piece(&whole, 40, 40)), Taken::Have(0), "the first piece is missing");
        for (offset, have) in [(0, 40), (0, 40), (40, 80), (40, 80)] {
            assert_eq!(inbox.take(piece(&whole, offset, 40)), Taken::Have(have));
        }
        let Taken::Whole(_, bytes) = inbox.take(piece(&whole, 80, 40)) else { panic!() };
        assert_eq!(bytes, whole);
        assert_eq!(inbox.take(piece(&[], 0, 0)), Taken::Whole(SnapshotMeta::default(), Bytes::new()));
    }

    #[test]
    fn another_sender_starts_over_and_nonsense_is_refused() {
        let whole: Vec<u8> = (0..100).collect();
        let mut inbox = SnapshotInbox::default();
        inbox.take(piece(&whole, 0, 40));
        let newer = SnapshotPiece { vote: Vote::new(2, 2), ..piece(&whole, 0, 10) };
        assert_eq!(inbox.take(newer), Taken::Have(10));
        assert_eq!(inbox.take(piece(&whole, 40, 40)), Taken::Have(0), "the earlier sender is told to start over");
        let wrong = SnapshotPiece { crc: 1, ..piece(&whole, 0, 100) };
        assert!(matches!(inbox.take(wrong), Taken::Invalid(_)));
        let endless = SnapshotPiece { len: u64::MAX, ..piece(&whole, 0, 100) };
        assert!(matches!(inbox.take(endless), Taken::Invalid(_)));
        let over = SnapshotPiece { len: 5, ..piece(&whole, 0, 100) };
        assert_eq!(inbox.take(over), Taken::Have(0));
    }
}
