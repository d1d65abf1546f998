//! What tools rely on: every topic that is asked about is answered for, and what was shown can be set again.

use std::collections::BTreeMap;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::*;

use crate::client::{Kafka, text, topic};
use crate::support::Cluster;

const SET: i8 = 0;
const APPEND: i8 = 2;
const TOPIC: i8 = 2;

fn described(kafka: &mut Kafka, name: &str) -> BTreeMap<String, String> {
    let mut resource = describe_configs_request::DescribeConfigsResource::default();
    (resource.resource_type, resource.resource_name) = (TOPIC, text(name));
    resource.configuration_keys = None;
    let mut request = DescribeConfigsRequest::default();
    request.resources = vec![resource];
    let result = kafka.ask(4, &request).results.remove(0);
    assert_eq!(result.error_code, 0, "{:?}", result.error_message);
    let value = |config: &describe_configs_response::DescribeConfigsResourceResult| {
        (config.name.to_string(), config.value.as_ref().map(ToString::to_string).unwrap_or_default())
    };
    result.configs.iter().map(value).collect()
}

fn alter(kafka: &mut Kafka, name: &str, configs: &BTreeMap<String, String>) -> i16 {
    let mut resource = alter_configs_request::AlterConfigsResource::default();
    (resource.resource_type, resource.resource_name) = (TOPIC, text(name));
    for (key, value) in configs {
        let mut config = alter_configs_request::AlterableConfig::default();
        (config.name, config.value) = (text(key), Some(text(value)));
        resource.configs.push(config);
    }
    let mut request = AlterConfigsRequest::default();
    request.resources = vec![resource];
    kafka.ask(2, &request).responses[0].error_code
}

fn alter_one(kafka: &mut Kafka, name: &str, (key, operation, value): (&str, i8, &str)) -> i16 {
    let mut config = incremental_alter_configs_request::AlterableConfig::default();
    (config.name, config.config_operation, config.value) = (text(key), operation, Some(text(value)));
    let mut resource = incremental_alter_configs_request::AlterConfigsResource::default();
    (resource.resource_type, resource.resource_name, resource.configs) = (TOPIC, text(name), vec![config]);
    let mut request = IncrementalAlterConfigsRequest::default();
    request.resources = vec![resource];
    kafka.ask(1, &request).responses[0].error_code
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_good_and_bad_are_each_answered_for() {
    let cluster = Cluster::start(1).await;
    let mut kafka = Kafka::connect(cluster.address(1));
    let creatable = |name: &str, partitions: i32| {
        let mut create = create_topics_request::CreatableTopic::default();
        (create.name, create.num_partitions, create.replication_factor) = (topic(name), partitions, 1);
        create
    };
    let mut request = CreateTopicsRequest::default();
    request.timeout_ms = 10_000;
    request.topics = vec![creatable("good", 5), creatable("bad", 0), creatable("b a d", 1), creatable("other", 5)];
    let created = kafka.ask(7, &request).topics;
    let codes: Vec<_> = created.iter().map(|topic| (topic.name.as_str(), topic.error_code)).collect();
    let (partitions, name) = (ResponseError::InvalidPartitions.code(), ResponseError::InvalidTopicException.code());
    assert_eq!(codes, [("good", 0), ("bad", partitions), ("b a d", name), ("other", 0)]);
    assert!(created[1].error_message.is_some() && created[0].configs.as_ref().is_some_and(|all| all.len() > 20));

    let mut more = create_partitions_request::CreatePartitionsTopic::default();
    (more.name, more.count, more.assignments) = (topic("good"), 7, None);
    let mut unknown = more.clone();
    unknown.name = topic("unknown");
    let mut request = CreatePartitionsRequest::default();
    (request.topics, request.timeout_ms) = (vec![more, unknown], 10_000);
    let codes: Vec<_> = kafka.ask(3, &request).results.iter().map(|result| result.error_code).collect();
    assert_eq!(codes, [0, ResponseError::UnknownTopicOrPartition.code()]);

    // Page by page, and pages end inside topics.
    let mut pages = Vec::new();
    let mut request = DescribeTopicPartitionsRequest::default();
    request.response_partition_limit = 3;
    loop {
        let page = kafka.ask(0, &request);
        let of = |t: &describe_topic_partitions_response::DescribeTopicPartitionsResponseTopic| {
            let name = t.name.as_ref().unwrap().to_string();
            t.partitions.iter().map(|p| (name.clone(), p.partition_index)).collect::<Vec<_>>()
        };
        let partitions: Vec<_> = page.topics.iter().flat_map(of).collect();
        assert!((1..=3).contains(&partitions.len()), "{partitions:?}");
        pages.extend(partitions);
        let Some(next) = page.next_cursor else { break };
        let mut cursor = describe_topic_partitions_request::Cursor::default();
        (cursor.topic_name, cursor.partition_index) = (next.topic_name, next.partition_index);
        request.cursor = Some(cursor);
    }
    let all: Vec<_> = (0..7).map(|i| ("good".to_owned(), i)).chain((0..5).map(|i| ("other".to_owned(), i))).collect();
    assert_eq!(pages, all);

    let mut request = DeleteTopicsRequest::default();
    request.timeout_ms = 10_000;
    request.topic_names = vec![topic("good"), topic("unknown")];
    let deleted = kafka.ask(5, &request).responses;
    let codes: Vec<_> = deleted.iter().map(|d| (d.name.as_ref().unwrap().to_string(), d.error_code)).collect();
    let unknown = ResponseError::UnknownTopicOrPartition.code();
    assert_eq!(codes, [("good".to_owned(), 0), ("unknown".to_owned(), unknown)]);

    // Its topic has gone since: the next one is told from its beginning, and those that are named are answered for.
    let mut cursor = describe_topic_partitions_request::Cursor::default();
    (cursor.topic_name, cursor.partition_index) = (topic("good"), 3);
    let mut request = DescribeTopicPartitionsRequest::default();
    (request.response_partition_limit, request.cursor) = (5, Some(cursor));
    let page = kafka.ask(0, &request);
    let told: Vec<_> =
        page.topics.iter().map(|t| (t.name.as_ref().unwrap().as_str(), t.partitions.len(), t.error_code)).collect();
    assert_eq!((told, page.next_cursor), (vec![("other", 5, 0)], None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configs_are_replaced_changed_and_shown_as_they_were_set() {
    let cluster = Cluster::start(1).await;
    let mut kafka = Kafka::connect(cluster.address(1));
    kafka.create("configured", 1, 1);
    let fresh = described(&mut kafka, "configured");
    assert_eq!(alter_one(&mut kafka, "configured", ("retention.ms", SET, "1000")), 0);
    assert_eq!(alter_one(&mut kafka, "configured", ("x.owner", SET, "me")), 0);
    let set = described(&mut kafka, "configured");
    assert_eq!((set["retention.ms"].as_str(), set["x.owner"].as_str()), ("1000", "me"));
    // What was shown is taken back as it is.
    assert_eq!(alter(&mut kafka, "configured", &set), 0);
    assert_eq!(described(&mut kafka, "configured"), set);
    // What is not named goes back to its default.
    let only = BTreeMap::from([("max.message.bytes".to_owned(), "2000".to_owned())]);
    assert_eq!(alter(&mut kafka, "configured", &only), 0);
    let left = described(&mut kafka, "configured");
    assert_eq!((&left["retention.ms"], left["max.message.bytes"].as_str()), (&fresh["retention.ms"], "2000"));
    assert!(!left.contains_key("x.owner"));
    // Lists are added to, other things are not, and the node lives on.
    let invalid = ResponseError::InvalidConfig.code();
    assert_eq!(alter_one(&mut kafka, "configured", ("retention.ms", APPEND, "1")), invalid);
    assert_eq!(alter_one(&mut kafka, "configured", ("cleanup.policy", APPEND, "delete")), 0);
    assert_eq!(alter_one(&mut kafka, "configured", ("cleanup.policy", APPEND, "compact")), invalid);
    assert_eq!(described(&mut kafka, "configured")["cleanup.policy"], "delete");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_that_are_not_there_have_no_offsets_and_no_members() {
    let cluster = Cluster::start(1).await;
    let mut kafka = Kafka::connect(cluster.address(1));
    kafka.create("read", 1, 1);
    let mut find = FindCoordinatorRequest::default();
    find.coordinator_keys = vec![text("a"), text("b")];
    let found = crate::eventually(|| {
        let found = kafka.ask(6, &find).coordinators;
        found.iter().all(|one| one.error_code == 0).then_some(found)
    });
    assert_eq!(found.len(), 2);
    let mut of_topic = offset_fetch_request::OffsetFetchRequestTopics::default();
    (of_topic.name, of_topic.partition_indexes) = (topic("read"), vec![0]);
    let mut group = offset_fetch_request::OffsetFetchRequestGroup::default();
    (group.group_id, group.topics) = (GroupId(text("nobody")), Some(vec![of_topic]));
    let mut request = OffsetFetchRequest::default();
    request.groups = vec![group];
    let group = crate::eventually(|| {
        let group = kafka.ask(9, &request).groups.remove(0);
        (group.error_code == 0).then_some(group)
    });
    let partition = &group.topics[0].partitions[0];
    assert_eq!((partition.error_code, partition.committed_offset), (0, -1));
    // What is wrong with the group is told once, and of each partition in the version that has no other place for it.
    let mut of_topic = offset_fetch_request::OffsetFetchRequestTopic::default();
    (of_topic.name, of_topic.partition_indexes) = (topic("read"), vec![0]);
    let mut request = OffsetFetchRequest::default();
    request.topics = Some(vec![of_topic]);
    let invalid = ResponseError::InvalidGroupId.code();
    let told = kafka.ask(1, &request).topics.remove(0).partitions.remove(0);
    assert_eq!((told.error_code, told.committed_offset), (invalid, -1));
    for version in 2..=7 {
        assert_eq!(kafka.ask(version, &request).error_code, invalid, "{version}");
    }
    let mut request = DescribeGroupsRequest::default();
    request.groups = vec![GroupId(text("nobody"))];
    let old = &kafka.ask(5, &request).groups[0];
    assert_eq!((old.error_code, old.group_state.as_str()), (0, "Dead"));
    let new = &kafka.ask(6, &request).groups[0];
    assert_eq!(new.error_code, ResponseError::GroupIdNotFound.code());
}
