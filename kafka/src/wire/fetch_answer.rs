//! Fetch's answer, encoded by hand: the only one that carries records, and they are not to be copied.

use bytes::{BufMut, Bytes, BytesMut};
use dlog_proto::NodeId;
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::answer::{Answer, Pieces};
use crate::fetch::FetchMemory;

/// The answer to a Fetch.
#[derive(Debug, Default)]
pub(crate) struct FetchAnswer {
    pub(crate) error: i16,
    pub(crate) session: i32,
    pub(crate) read_committed: bool,
    pub(crate) topics: Vec<FetchedTopic>,
    /// Where the leaders that are named are: node, host, port, rack (version 16 on).
    pub(crate) endpoints: Vec<(NodeId, StrBytes, u16, Option<StrBytes>)>,
    /// What its records take.
    pub(crate) memory: Option<FetchMemory>,
}

#[derive(Debug, Default)]
pub(crate) struct FetchedTopic {
    pub(crate) name: StrBytes,
    pub(crate) id: Uuid,
    pub(crate) partitions: Vec<FetchedPartition>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct FetchedPartition {
    pub(crate) index: i32,
    pub(crate) error: i16,
    pub(crate) high_watermark: i64,
    pub(crate) log_start: i64,
    /// Who leads instead, and since which epoch (version 12 on).
    pub(crate) leader: Option<(NodeId, i32)>,
    /// Who should be read from instead (version 11 on).
    pub(crate) preferred: Option<NodeId>,
    /// Whole record batches.
    pub(crate) records: Vec<Bytes>,
    pub(crate) records_len: usize,
}

/// First version with compact lengths and tagged fields.
const FLEXIBLE: i16 = 12;
/// Ids instead of names.
const TOPIC_IDS: i16 = 13;

struct Out {
    pieces: Pieces,
    open: BytesMut,
    version: i16,
    read_committed: bool,
    /// Of the pieces so far.
    len: usize,
}

impl Out {
    fn is_flexible(&self) -> bool {
        self.version >= FLEXIBLE
    }

    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.open.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.open.put_u8(value as u8);
    }

    fn array_len(&mut self, len: usize) {
        match self.is_flexible() {
            true => self.varint(len as u32 + 1),
            false => self.open.put_i32(len as i32),
        }
    }

    fn text(&mut self, text: &StrBytes) {
        match self.is_flexible() {
            true => self.varint(text.len() as u32 + 1),
            false => self.open.put_i16(text.len() as i16),
        }
        self.open.put_slice(text.as_bytes());
    }

    fn no_tags(&mut self) {
        if self.is_flexible() {
            self.open.put_u8(0);
        }
    }

    /// Goes out as it is.
    fn records(&mut self, partition: FetchedPartition) {
        match self.is_flexible() {
            true => self.varint(partition.records_len as u32 + 1),
            false => self.open.put_i32(partition.records_len as i32),
        }
        for piece in partition.records {
            self.flush();
            self.len += piece.len();
            self.pieces.push(piece);
        }
    }

    fn flush(&mut self) {
        self.len += self.open.len();
        self.pieces.push(self.open.split().freeze());
    }
}

/// Encodes the answer with its length and header.
pub(crate) fn encode(correlation: i32, version: i16, answer: FetchAnswer) -> Answer {
    let mut out = Out {
        pieces: Pieces::default(),
        open: BytesMut::with_capacity(512),
        version,
        read_committed: answer.read_committed,
        len: 0,
    };
    out.open.put_i32(correlation);
    out.no_tags();
    out.open.put_i32(0);
    if version >= 7 {
        out.open.put_i16(answer.error);
        out.open.put_i32(answer.session);
    }
    out.array_len(answer.topics.len());
    for topic in answer.topics {
        put_topic(&mut out, topic);
    }
    put_endpoints(&mut out, &answer.endpoints);
    out.flush();
    let mut length = BytesMut::with_capacity(4);
    match i32::try_from(out.len) {
        Ok(len) => length.put_i32(len),
        Err(_) => return Answer::Close(format!("its answer would have {} bytes", out.len)),
    }
    let mut pieces = Pieces::default();
    pieces.push(length.freeze());
    pieces.append(out.pieces);
    pieces.hold(answer.memory);
    Answer::Send(pieces)
}

fn put_topic(out: &mut Out, topic: FetchedTopic) {
    match out.version >= TOPIC_IDS {
        true => out.open.put_slice(topic.id.as_bytes()),
        false => out.text(&topic.name),
    }
    out.array_len(topic.partitions.len());
    for partition in topic.partitions {
        put_partition(out, partition);
    }
    out.no_tags();
}

fn put_partition(out: &mut Out, partition: FetchedPartition) {
    let leader = partition.leader;
    out.open.put_i32(partition.index);
    out.open.put_i16(partition.error);
    out.open.put_i64(partition.high_watermark);
    // Nothing is transactional, so all that is released is stable.
    out.open.put_i64(partition.high_watermark);
    if out.version >= 5 {
        out.open.put_i64(partition.log_start);
    }
    // Aborted transactions: none for those who ask for committed records, no list for the others.
    match (out.read_committed, out.is_flexible()) {
        (true, _) => out.array_len(0),
        (false, true) => out.open.put_u8(0),
        (false, false) => out.open.put_i32(-1),
    }
    if out.version >= 11 {
        out.open.put_i32(partition.preferred.map_or(-1, |node| node.0.into()));
    }
    out.records(partition);
    match leader.filter(|_| out.is_flexible()) {
        None => out.no_tags(),
        Some((node, epoch)) => {
            // One tagged field: number 1, nine bytes: node, epoch, no tags of its own.
            out.open.put_slice(&[1, 1, 9]);
            out.open.put_i32(node.0.into());
            out.open.put_i32(epoch);
            out.open.put_u8(0);
        }
    }
}

fn put_endpoints(out: &mut Out, endpoints: &[(NodeId, StrBytes, u16, Option<StrBytes>)]) {
    if out.version < 16 || endpoints.is_empty() {
        return out.no_tags();
    }
    let before = out.open.split();
    out.array_len(endpoints.len());
    for (node, host, port, rack) in endpoints {
        out.open.put_i32(node.0.into());
        out.text(host);
        out.open.put_i32((*port).into());
        match rack {
            Some(rack) => out.text(rack),
            None => out.open.put_u8(0),
        }
        out.no_tags();
    }
    let field = std::mem::replace(&mut out.open, before);
    out.open.put_slice(&[1, 0]);
    out.varint(field.len() as u32);
    out.open.put_slice(&field);
}
