//! Answers as they go out: pieces of bytes, so that records are not copied into them.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::{Encodable, HeaderVersion};

use crate::fetch::FetchMemory;

/// Bytes in several pieces, written with as few system calls as the socket takes.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    pieces: VecDeque<Bytes>,
    len: usize,
    /// What they take, until they are written.
    memory: Option<FetchMemory>,
}

impl Pieces {
    pub(crate) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.len += piece.len();
            self.pieces.push_back(piece);
        }
    }

    pub(crate) fn hold(&mut self, memory: Option<FetchMemory>) {
        self.memory = memory;
    }

    pub(crate) fn append(&mut self, mut other: Self) {
        self.len += other.len;
        self.pieces.append(&mut other.pieces);
    }
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        self.len
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let filled = slices.iter_mut().zip(&self.pieces).map(|(slice, piece)| *slice = IoSlice::new(piece));
        filled.count()
    }

    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.len, "not more is written than there is");
        self.len -= count;
        while let Some(front) = self.pieces.front_mut().filter(|_| count > 0) {
            let step = count.min(front.len());
            front.advance(step);
            count -= step;
            if front.is_empty() {
                self.pieces.pop_front();
            }
        }
    }
}

/// What comes of a request.
#[derive(Debug)]
pub(crate) enum Answer {
    Send(Pieces),
    /// It asked for none: Produce with acks=0.
    Silence,
    /// Nothing sensible can be said: the connection is closed, and this logged.
    Close(String),
}

/// Encodes an answer with its length and header.
pub(crate) fn answer<R: Encodable + HeaderVersion>(correlation: i32, version: i16, response: &R) -> Answer {
    let mut out = BytesMut::with_capacity(256);
    out.put_i32(0);
    out.put_i32(correlation);
    if R::header_version(version) > 0 {
        out.put_u8(0);
    }
    if let Err(error) = response.encode(&mut out, version) {
        return Answer::Close(format!("its answer cannot be encoded in version {version}: {error}"));
    }
    let mut pieces = Pieces::default();
    pieces.push(with_len(out));
    Answer::Send(pieces)
}

fn with_len(mut out: BytesMut) -> Bytes {
    let len = i32::try_from(out.len() - 4).expect("answers are bounded far below two gigabytes");
    out[..4].copy_from_slice(&len.to_be_bytes());
    out.freeze()
}
