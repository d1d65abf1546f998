//! Every request in every version that is served, against the codec; and what is not one.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use dlog_proto::NodeId;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::Decodable;
use proptest::prelude::*;
use uuid::Uuid;

use super::samples::{CORRELATION, every_sample, frame, sample, text};
use super::shape::ELEMENTS_MAX;
use super::versions::SERVED;
use super::*;

#[test]
fn every_version_of_every_request_is_understood() {
    for (key, version, body) in every_sample() {
        match parse(frame(key, version, &body)) {
            Ok(Request::Known { header, .. }) => {
                assert_eq!((header.key, header.version, header.correlation), (key, version, CORRELATION));
                assert_eq!(header.client_id.as_deref(), Some("me"));
            }
            other => panic!("{key:?} {version}: {other:?}"),
        }
    }
}

#[test]
fn a_request_cut_short_is_refused_and_a_tail_is_ignored() {
    for (key, version, body) in every_sample() {
        for len in 0..body.len() {
            let refused = parse(frame(key, version, &body[..len]));
            assert!(matches!(refused, Err(Refusal::Malformed { .. })), "{key:?} {version} at {len}: {refused:?}");
        }
        let mut longer = body.clone();
        longer.put_u8(0);
        assert!(parse(frame(key, version, &longer)).is_ok(), "{key:?} {version} with a tail");
    }
}

/// The codec would allocate as many elements as the length says.
#[test]
fn lengths_that_cannot_be_are_refused_before_anything_is_allocated() {
    let mut body = BytesMut::new();
    body.put_i32(i32::MAX);
    let refused = parse(frame(ApiKey::Metadata, 1, &body)).unwrap_err();
    assert!(refused.to_string().contains("elements"), "{refused}");
    let compact = [0xff, 0xff, 0xff, 0xff, 0x0f];
    assert!(parse(frame(ApiKey::Metadata, 12, &compact)).is_err());
    let mut body = BytesMut::new();
    body.put_i32(ELEMENTS_MAX as i32 + 1);
    body.put_slice(&vec![0; 2 * ELEMENTS_MAX + 2]);
    let refused = parse(frame(ApiKey::Metadata, 1, &body)).unwrap_err();
    assert!(refused.to_string().contains("more than"), "{refused}");
}

#[test]
fn records_are_not_copied() {
    let body = sample(ApiKey::Produce, 9);
    let whole = frame(ApiKey::Produce, 9, &body);
    let range = whole.as_ptr_range();
    let Ok(Request::Known { body, .. }) = parse(whole) else { panic!("a request") };
    let RequestKind::Produce(request) = *body else { panic!("a Produce") };
    let records = request.topic_data[0].partition_data[0].records.as_ref().unwrap();
    assert!(range.contains(&records.as_ptr()));
}

#[test]
fn what_is_not_served_closes_the_connection_but_apiversions_answers() {
    assert!(matches!(
        parse(frame(ApiKey::ApiVersions, 99, b"whatever")),
        Ok(Request::UnknownApiVersions { correlation: CORRELATION })
    ));
    assert!(matches!(parse(frame(ApiKey::Metadata, 99, b"")), Err(Refusal::Version { version: 99, .. })));
    assert!(matches!(parse(frame(ApiKey::Produce, 2, b"")), Err(Refusal::Version { .. })));
    assert!(matches!(parse(frame(ApiKey::Vote, 0, b"")), Err(Refusal::UnknownKey(52))));
    assert!(matches!(parse(Bytes::from_static(b"\x7f\xff\0\0\0\0\0\0")), Err(Refusal::UnknownKey(0x7fff))));
    assert!(matches!(parse(Bytes::from_static(b"\0\0\0")), Err(Refusal::ShortHeader)));
}

fn bytes_of(answer: Answer) -> Bytes {
    let Answer::Send(mut pieces) = answer else { panic!("{answer:?}") };
    pieces.copy_to_bytes(pieces.remaining())
}

/// Whoever does not ask for committed records only gets no list of aborted transactions, not an empty one.
#[test]
fn a_fetch_answer_lists_aborted_transactions_for_those_who_ask() {
    for (version, read_committed) in (4..=18).flat_map(|version| [(version, true), (version, false)]) {
        let partition = FetchedPartition { high_watermark: 10, ..FetchedPartition::default() };
        let topic = FetchedTopic { name: text("t"), id: Uuid::from_u128(8), partitions: vec![partition] };
        let answer = FetchAnswer { read_committed, topics: vec![topic], ..FetchAnswer::default() };
        let mut bytes = bytes_of(encode_fetch(77, version, answer));
        bytes.advance(if version >= 12 { 9 } else { 8 });
        let read = FetchResponse::decode(&mut bytes, version).unwrap();
        let partition = &read.responses[0].partitions[0];
        assert_eq!(partition.aborted_transactions.as_ref().map(Vec::len), read_committed.then_some(0), "{version}");
        assert_eq!(partition.last_stable_offset, 10);
    }
}

#[test]
fn a_fetch_answer_is_what_the_codec_reads() {
    for version in 4..=18 {
        let partition = FetchedPartition {
            index: 3,
            error: 6,
            high_watermark: 10,
            log_start: 2,
            leader: Some((NodeId(5), 9)),
            preferred: Some(NodeId(6)),
            records: vec![Bytes::from_static(b"head"), Bytes::from_static(b"er and records")],
            records_len: 18,
        };
        let topic = FetchedTopic { name: text("t"), id: Uuid::from_u128(8), partitions: vec![partition; 2] };
        let endpoints = vec![(NodeId(5), text("host"), 9092, Some(text("rack"))), (NodeId(6), text("b"), 1, None)];
        let answer =
            FetchAnswer { session: 12, read_committed: true, topics: vec![topic], endpoints, ..FetchAnswer::default() };
        let mut bytes = bytes_of(encode_fetch(77, version, answer));
        assert_eq!(bytes.get_i32() as usize, bytes.remaining(), "{version}");
        assert_eq!(bytes.get_i32(), 77);
        if version >= 12 {
            assert_eq!(bytes.get_u8(), 0);
        }
        let read = FetchResponse::decode(&mut bytes, version).unwrap();
        assert!(bytes.is_empty(), "{version}");
        let topic = &read.responses[0];
        match version >= 13 {
            true => assert_eq!(topic.topic_id, Uuid::from_u128(8)),
            false => assert_eq!(topic.topic.as_str(), "t"),
        }
        let partition = &topic.partitions[1];
        assert_eq!((partition.partition_index, partition.error_code, partition.high_watermark), (3, 6, 10));
        assert_eq!(partition.last_stable_offset, 10);
        assert_eq!(partition.records.as_deref(), Some(b"header and records".as_slice()));
        assert_eq!(partition.aborted_transactions.as_ref().map(Vec::len), Some(0));
        assert_eq!(partition.preferred_read_replica.0, if version >= 11 { 6 } else { -1 }, "{version}");
        if version >= 12 {
            assert_eq!((partition.current_leader.leader_id.0, partition.current_leader.leader_epoch), (5, 9));
        }
        if version >= 16 {
            let ends: Vec<_> =
                read.node_endpoints.iter().map(|end| (end.node_id.0, end.port, end.rack.is_some())).collect();
            assert_eq!(ends, [(5, 9092, true), (6, 1, false)]);
        }
    }
}

#[test]
fn pieces_are_written_as_one() {
    let mut pieces = Pieces::default();
    [&b"ab"[..], b"", b"cde", b"f"].into_iter().for_each(|piece| pieces.push(Bytes::from_static(piece)));
    assert_eq!(pieces.remaining(), 6);
    let mut slices = [std::io::IoSlice::new(&[]); 8];
    assert_eq!(pieces.chunks_vectored(&mut slices), 3);
    pieces.advance(4);
    assert_eq!((pieces.chunk(), pieces.remaining()), (&b"e"[..], 2));
    pieces.advance(2);
    assert!(!pieces.has_remaining() && pieces.chunk().is_empty());
}

proptest! {
    #[test]
    fn garbage_is_refused_without_a_panic(
        key in 0i16..80,
        version in 0i16..19,
        body in proptest::collection::vec(any::<u8>(), 0..120),
    ) {
        if let Ok(key) = ApiKey::try_from(key) {
            let _ = parse(frame(key, version, &body));
        }
    }

    /// Whatever passes the walk, the codec reads without a panic.
    #[test]
    fn damaged_requests_do_not_panic(which in 0usize..200, at in 0usize..100, value in any::<u8>()) {
        let all: Vec<_> = SERVED.iter().flat_map(|&(key, min, max)| (min..=max).map(move |v| (key, v))).collect();
        let (key, version) = all[which % all.len()];
        let mut body = sample(key, version);
        if !body.is_empty() {
            let at = at % body.len();
            body[at] = value;
        }
        let _ = parse(frame(key, version, &body));
    }
}
