//! A request of every kind in every version that is served, for tests. What they name does not exist.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::protocol::{Encodable, StrBytes};
use uuid::Uuid;

use super::versions::SERVED;

/// What all of them are numbered.
pub const CORRELATION: i32 = 77;

/// All of them: frames without the length before them.
pub fn every_request() -> impl Iterator<Item = (ApiKey, i16, Bytes)> {
    every_sample().map(|(key, version, body)| (key, version, frame(key, version, &body)))
}

pub(crate) fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

pub(crate) fn frame(key: ApiKey, version: i16, body: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_i16(key as i16);
    out.put_i16(version);
    out.put_i32(CORRELATION);
    out.put_i16(2);
    out.put_slice(b"me");
    if key.request_header_version(version) >= 2 {
        out.put_u8(0);
    }
    out.put_slice(body);
    out.freeze()
}

/// Encodes a request with something in every array, as far as the version has it.
pub(crate) fn sample(key: ApiKey, version: i16) -> BytesMut {
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

pub(crate) fn every_sample() -> impl Iterator<Item = (ApiKey, i16, BytesMut)> {
    let all = SERVED.iter().flat_map(|&(key, min, max)| (min..=max).map(move |version| (key, version)));
    all.map(|(key, version)| (key, version, sample(key, version)))
}
