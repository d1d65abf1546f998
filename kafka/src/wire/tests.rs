//! Every request in every version that is served, against the codec; and what is not one.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use dlog_proto::NodeId;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use proptest::prelude::*;
use uuid::Uuid;

use super::shape::ELEMENTS_MAX;
use super::versions::SERVED;
use super::*;

fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

fn frame(key: ApiKey, version: i16, body: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(key as i16);
    out.put_i16(version);
    out.put_i32(77);
    out.put_i16(2);
    out.put_slice(b"me");
    if key.request_header_version(version) >= 2 {
        out.put_u8(0);
    }
    out.put_slice(body);
    out.freeze()
}

/// Encodes a request with something in every array, as far as the version has it.
fn sample(key: ApiKey, version: i16) -> BytesMut {
    let mut out = BytesMut::new();
    let id = Uuid::from_u128(7);
    macro_rules! request {
        ($type:ident, |$request:ident| $fill:block) => {{
            #[allow(unused_mut)]
            let mut $request = $type::default();
            $fill
            $request.encode(&mut out, version).unwrap_or_else(|error| panic!("{key:?} {version}: {error}"));
        }};
    }
    match key {
        ApiKey::Produce => request!(ProduceRequest, |r| {
            let mut partition = produce_request::PartitionProduceData::default();
            partition.records = Some(Bytes::from_static(b"records"));
            let mut topic = produce_request::TopicProduceData::default();
            if version >= 13 {
                topic.topic_id = id
            } else {
                topic.name = text("t").into()
            }
            topic.partition_data = vec![partition.clone(), partition];
            r.topic_data = vec![topic];
        }),
        ApiKey::Fetch => request!(FetchRequest, |r| {
            let mut topic = fetch_request::FetchTopic::default();
            if version >= 13 {
                topic.topic_id = id
            } else {
                topic.topic = text("t").into()
            }
            topic.partitions = vec![Default::default(), Default::default()];
            r.topics = vec![topic];
            if version >= 7 {
                let mut forgotten = fetch_request::ForgottenTopic::default();
                if version >= 13 {
                    forgotten.topic_id = id
                } else {
                    forgotten.topic = text("t").into()
                }
                forgotten.partitions = vec![1, 2];
                r.forgotten_topics_data = vec![forgotten];
            }
        }),
        ApiKey::ListOffsets => request!(ListOffsetsRequest, |r| {
            let mut topic = list_offsets_request::ListOffsetsTopic::default();
            topic.partitions = vec![Default::default(); 2];
            r.topics = vec![topic];
        }),
        ApiKey::Metadata => request!(MetadataRequest, |r| {
            let mut topic = metadata_request::MetadataRequestTopic::default();
            topic.name = Some(text("t").into());
            r.topics = Some(vec![topic]);
            r.allow_auto_topic_creation = true;
        }),
        ApiKey::OffsetCommit => request!(OffsetCommitRequest, |r| {
            let mut topic = offset_commit_request::OffsetCommitRequestTopic::default();
            topic.partitions = vec![Default::default(); 2];
            if version >= 10 {
                topic.topic_id = id
            }
            r.topics = vec![topic];
        }),
        ApiKey::OffsetFetch => request!(OffsetFetchRequest, |r| {
            if version >= 8 {
                let mut topic = offset_fetch_request::OffsetFetchRequestTopics::default();
                topic.partition_indexes = vec![1, 2];
                let mut group = offset_fetch_request::OffsetFetchRequestGroup::default();
                group.topics = Some(vec![topic]);
                r.groups = vec![group];
            } else {
                let mut topic = offset_fetch_request::OffsetFetchRequestTopic::default();
                topic.partition_indexes = vec![1, 2];
                r.topics = Some(vec![topic]);
            }
        }),
        ApiKey::FindCoordinator => request!(FindCoordinatorRequest, |r| {
            if version >= 4 { r.coordinator_keys = vec![text("a"), text("b")] } else { r.key = text("a") }
        }),
        ApiKey::JoinGroup => request!(JoinGroupRequest, |r| {
            r.protocols = vec![Default::default(); 2];
        }),
        ApiKey::Heartbeat => request!(HeartbeatRequest, |r| {}),
        ApiKey::LeaveGroup => request!(LeaveGroupRequest, |r| {
            if version >= 3 {
                r.members = vec![Default::default(); 2]
            }
        }),
        ApiKey::SyncGroup => request!(SyncGroupRequest, |r| {
            r.assignments = vec![Default::default(); 2];
        }),
        ApiKey::DescribeGroups => request!(DescribeGroupsRequest, |r| {
            r.groups = vec![text("g").into()];
        }),
        ApiKey::ListGroups => request!(ListGroupsRequest, |r| {
            if version >= 4 {
                r.states_filter = vec![text("Stable")]
            }
            if version >= 5 {
                r.types_filter = vec![text("classic")]
            }
        }),
        ApiKey::SaslHandshake => request!(SaslHandshakeRequest, |r| {
            r.mechanism = text("PLAIN");
        }),
        ApiKey::SaslAuthenticate => request!(SaslAuthenticateRequest, |r| {
            r.auth_bytes = Bytes::from_static(b"x");
        }),
        ApiKey::ApiVersions => request!(ApiVersionsRequest, |r| {
            if version >= 3 {
                (r.client_software_name, r.client_software_version) = (text("a"), text("1"))
            }
        }),
        ApiKey::CreateTopics => request!(CreateTopicsRequest, |r| {
            let mut assignment = create_topics_request::CreatableReplicaAssignment::default();
            assignment.broker_ids = vec![BrokerId(1), BrokerId(2)];
            let mut topic = create_topics_request::CreatableTopic::default();
            topic.assignments = vec![assignment];
            topic.configs = vec![Default::default(); 2];
            r.topics = vec![topic];
        }),
        ApiKey::DeleteTopics => request!(DeleteTopicsRequest, |r| {
            if version >= 6 { r.topics = vec![Default::default()] } else { r.topic_names = vec![text("t").into()] }
        }),
        ApiKey::DeleteRecords => request!(DeleteRecordsRequest, |r| {
            let mut topic = delete_records_request::DeleteRecordsTopic::default();
            topic.partitions = vec![Default::default(); 2];
            r.topics = vec![topic];
        }),
        ApiKey::InitProducerId => request!(InitProducerIdRequest, |r| {}),
        ApiKey::OffsetForLeaderEpoch => request!(OffsetForLeaderEpochRequest, |r| {
            let mut topic = offset_for_leader_epoch_request::OffsetForLeaderTopic::default();
            topic.partitions = vec![Default::default(); 2];
            r.topics = vec![topic];
        }),
        ApiKey::DescribeConfigs => request!(DescribeConfigsRequest, |r| {
            let mut resource = describe_configs_request::DescribeConfigsResource::default();
            resource.configuration_keys = Some(vec![text("a")]);
            r.resources = vec![resource, Default::default()];
        }),
        ApiKey::AlterConfigs => request!(AlterConfigsRequest, |r| {
            let mut resource = alter_configs_request::AlterConfigsResource::default();
            resource.configs = vec![Default::default(); 2];
            r.resources = vec![resource];
        }),
        ApiKey::IncrementalAlterConfigs => request!(IncrementalAlterConfigsRequest, |r| {
            let mut resource = incremental_alter_configs_request::AlterConfigsResource::default();
            resource.configs = vec![Default::default(); 2];
            r.resources = vec![resource];
        }),
        ApiKey::CreatePartitions => request!(CreatePartitionsRequest, |r| {
            let mut assignment = create_partitions_request::CreatePartitionsAssignment::default();
            assignment.broker_ids = vec![BrokerId(1)];
            let mut topic = create_partitions_request::CreatePartitionsTopic::default();
            topic.assignments = Some(vec![assignment]);
            r.topics = vec![topic, Default::default()];
        }),
        ApiKey::DeleteGroups => request!(DeleteGroupsRequest, |r| {
            r.groups_names = vec![text("g").into()];
        }),
        ApiKey::ElectLeaders => request!(ElectLeadersRequest, |r| {
            let mut topic = elect_leaders_request::TopicPartitions::default();
            topic.partitions = vec![1, 2];
            r.topic_partitions = Some(vec![topic]);
        }),
        ApiKey::ListPartitionReassignments => request!(ListPartitionReassignmentsRequest, |r| {
            let mut topic = list_partition_reassignments_request::ListPartitionReassignmentsTopics::default();
            topic.partition_indexes = vec![1];
            r.topics = Some(vec![topic]);
        }),
        ApiKey::OffsetDelete => request!(OffsetDeleteRequest, |r| {
            let mut topic = offset_delete_request::OffsetDeleteRequestTopic::default();
            topic.partitions = vec![Default::default(); 2];
            r.topics = vec![topic];
        }),
        ApiKey::DescribeCluster => request!(DescribeClusterRequest, |r| {}),
        ApiKey::DescribeTopicPartitions => request!(DescribeTopicPartitionsRequest, |r| {
            r.topics = vec![Default::default()];
            r.cursor = Some(Default::default());
        }),
        ApiKey::DescribeLogDirs => request!(DescribeLogDirsRequest, |r| {
            let mut topic = describe_log_dirs_request::DescribableLogDirTopic::default();
            topic.partitions = vec![1, 2];
            r.topics = Some(vec![topic]);
        }),
        ApiKey::DescribeProducers => request!(DescribeProducersRequest, |r| {
            let mut topic = describe_producers_request::TopicRequest::default();
            topic.partition_indexes = vec![1, 2];
            r.topics = vec![topic];
        }),
        other => panic!("{other:?} is served and has no sample"),
    }
    out
}

fn every_sample() -> impl Iterator<Item = (ApiKey, i16, BytesMut)> {
    let all = SERVED.iter().flat_map(|&(key, min, max)| (min..=max).map(move |version| (key, version)));
    all.map(|(key, version)| (key, version, sample(key, version)))
}

#[test]
fn every_version_of_every_request_is_understood() {
    for (key, version, body) in every_sample() {
        match parse(frame(key, version, &body)) {
            Ok(Request::Known { header, .. }) => {
                assert_eq!((header.key, header.version, header.correlation), (key, version, 77));
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
        Ok(Request::UnknownApiVersions { correlation: 77 })
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

#[test]
fn a_fetch_answer_is_what_the_codec_reads() {
    for version in 4..=18 {
        let partition = FetchedPartition {
            index: 3,
            error: 6,
            high_watermark: 10,
            log_start: 2,
            leader: Some((NodeId(5), 9)),
            records: vec![Bytes::from_static(b"head"), Bytes::from_static(b"er and records")],
            records_len: 18,
        };
        let topic = FetchedTopic { name: text("t"), id: Uuid::from_u128(8), partitions: vec![partition; 2] };
        let endpoints = vec![(NodeId(5), text("host"), 9092, Some(text("rack"))), (NodeId(6), text("b"), 1, None)];
        let answer = FetchAnswer { error: 0, session: 12, read_committed: true, topics: vec![topic], endpoints };
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

/// The samples name what is not there, so every answer is an error's: none may be one that its version cannot express.
#[test]
#[ignore = "needs a node: KAFKA_SERVER=host:port cargo test -p dlog-kafka -- --ignored"]
fn a_node_answers_every_version_of_every_request() {
    use std::io::{Read, Write};
    use std::time::Duration;

    let server = std::env::var("KAFKA_SERVER").expect("KAFKA_SERVER says where the node is");
    let mut unanswered = Vec::new();
    for (key, version, body) in every_sample() {
        let mut socket = std::net::TcpStream::connect(&server).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        // The sample of a Produce asks for no answer, so another request follows it.
        for request in [frame(key, version, &body), frame(ApiKey::ApiVersions, 0, b"")] {
            let len = (request.len() as i32).to_be_bytes();
            // What was closed meanwhile answers nothing.
            let _ = socket.write_all(&[&len[..], &request[..]].concat());
        }
        let mut head = [0; 8];
        let answered = socket.read_exact(&mut head);
        // acks=0, and the topic is not there: the connection is closed.
        if answered.is_err() != (key == ApiKey::Produce) || answered.is_ok() && head[4..] != 77i32.to_be_bytes() {
            unanswered.push((key, version, answered));
        }
    }
    assert!(unanswered.is_empty(), "{unanswered:?}");
}
