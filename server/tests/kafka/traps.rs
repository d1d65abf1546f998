//! What others got wrong, and clients noticed.

use dlog_proto::record::ProducerStamp;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::*;
use rustix::process::Signal;

use crate::client::{Kafka, produce_request, text, topic};
use crate::support::Cluster;
use crate::{batch, eventually};

/// What was not acknowledged in time may have been stored: whoever sends it again finds it there once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_timed_out_is_stored_once_however_often_it_is_sent() {
    const NAME: &str = "late";
    let cluster = Cluster::start(3).await;
    let mut kafka = Kafka::connect(cluster.address(1));
    kafka.create_with(NAME, 1, 3, &[("min.insync.replicas", "3")]);
    let stamped = |base_sequence| Some(ProducerStamp { id: 77, epoch: 0, base_sequence });
    let first = batch(&["first".to_owned()], stamped(0));
    assert_eq!(kafka.produce_patiently(NAME, 0, &first), 0);
    let leader = kafka.leaders(NAME).remove(&0).unwrap();
    let paused = (1..=3).find(|node| cluster.address(*node) != leader).unwrap();
    kafka = Kafka::connect(&leader);

    // Two copies of three are stored, and the third does not come.
    cluster.signal(paused, Signal::STOP);
    let late = batch(&["late".to_owned()], stamped(1));
    let mut request = produce_request(NAME, 0, -1, late.clone());
    request.timeout_ms = 300;
    let told = kafka.ask(9, &request).responses[0].partition_responses[0].clone();
    assert_eq!(ResponseError::try_from_code(told.error_code), Some(ResponseError::RequestTimedOut));
    cluster.signal(paused, Signal::CONT);
    assert_eq!(kafka.produce_patiently(NAME, 0, &late), 1);
    assert_eq!(kafka.produce_patiently(NAME, 0, &late), 1, "and again");
    assert_eq!(kafka.produce_patiently(NAME, 0, &batch(&["next".to_owned()], stamped(2))), 2);
    let all: Vec<String> = kafka.read(NAME, 0, 0, 3, 1 << 20).into_iter().map(|(_, value)| value).collect();
    assert_eq!(all, ["first", "late", "next"]);
}

fn commit(kafka: &mut Kafka, name: &str, offset: i64) -> i16 {
    let mut partition = offset_commit_request::OffsetCommitRequestPartition::default();
    (partition.committed_offset, partition.committed_leader_epoch) = (offset, 3);
    partition.committed_metadata = Some(text("said with it"));
    let mut of_topic = offset_commit_request::OffsetCommitRequestTopic::default();
    (of_topic.name, of_topic.partitions) = (topic(name), vec![partition]);
    let mut request = OffsetCommitRequest::default();
    (request.group_id, request.generation_id_or_member_epoch) = (GroupId(text("g")), -1);
    request.topics = vec![of_topic];
    kafka.ask(9, &request).topics[0].partitions[0].error_code
}

/// Of all topics of the group, or of one.
fn committed(kafka: &mut Kafka, name: Option<&str>) -> Vec<(String, i64)> {
    let of = |name: &str| {
        let mut of_topic = offset_fetch_request::OffsetFetchRequestTopics::default();
        (of_topic.name, of_topic.partition_indexes) = (topic(name), vec![0]);
        of_topic
    };
    let mut group = offset_fetch_request::OffsetFetchRequestGroup::default();
    (group.group_id, group.topics) = (GroupId(text("g")), name.map(|name| vec![of(name)]));
    let mut request = OffsetFetchRequest::default();
    request.groups = vec![group];
    let found = kafka.ask(9, &request).groups.remove(0);
    assert_eq!(found.error_code, 0);
    let offset = |topic: &offset_fetch_response::OffsetFetchResponseTopics| {
        let partition = &topic.partitions[0];
        // What was said with it comes back with it.
        let said = if partition.committed_offset < 0 { (-1, Some("")) } else { (3, Some("said with it")) };
        assert_eq!((partition.committed_leader_epoch, partition.metadata.as_deref()), said);
        (topic.name.to_string(), partition.committed_offset)
    };
    found.topics.iter().map(offset).collect()
}

/// A topic's offsets go with it, those of others stay, and one of the same name begins anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn committed_offsets_live_as_long_as_their_topic() {
    let cluster = Cluster::start(1).await;
    let mut kafka = Kafka::with_topic(cluster.address(1), "goes", 1);
    kafka.create("stays", 1, 1);
    let mut find = FindCoordinatorRequest::default();
    find.coordinator_keys = vec![text("g")];
    eventually(|| {
        kafka.ask(4, &find);
        (commit(&mut kafka, "goes", 5) == 0).then_some(())
    });
    assert_eq!(commit(&mut kafka, "stays", 7), 0);
    let at = |name: &str, offset| (name.to_owned(), offset);
    assert_eq!(committed(&mut kafka, None), [at("goes", 5), at("stays", 7)]);

    let mut delete = DeleteTopicsRequest::default();
    (delete.topic_names, delete.timeout_ms) = (vec![topic("goes")], 10_000);
    assert_eq!(kafka.ask(5, &delete).responses[0].error_code, 0);
    assert_eq!(committed(&mut kafka, None), [at("stays", 7)]);
    kafka.create("goes", 1, 1);
    assert_eq!(committed(&mut kafka, Some("goes")), [at("goes", -1)], "it is another topic");
    assert_eq!(commit(&mut kafka, "goes", 1), 0);

    let mut of_topic = offset_delete_request::OffsetDeleteRequestTopic::default();
    of_topic.name = topic("stays");
    of_topic.partitions = vec![offset_delete_request::OffsetDeleteRequestPartition::default()];
    let mut forget = OffsetDeleteRequest::default();
    (forget.group_id, forget.topics) = (GroupId(text("g")), vec![of_topic]);
    let forgotten = kafka.ask(0, &forget);
    assert_eq!((forgotten.error_code, forgotten.topics[0].partitions[0].error_code), (0, 0));
    assert_eq!(committed(&mut kafka, None), [at("goes", 1)]);
}

/// A topic has one id on every node, and it stands for the name wherever ids are taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topic_ids_are_the_same_everywhere() {
    let cluster = Cluster::start(2).await;
    let mut create = create_topics_request::CreatableTopic::default();
    (create.name, create.num_partitions, create.replication_factor) = (topic("ids"), 1, 2);
    let mut request = CreateTopicsRequest::default();
    (request.topics, request.timeout_ms) = (vec![create], 30_000);
    let mut kafka = Kafka::connect(cluster.address(1));
    let id = kafka.ask(7, &request).topics[0].topic_id;
    assert!(!id.is_nil());
    let leader = kafka.leaders("ids").remove(&0).unwrap();
    for node in 1..=2 {
        let mut wanted = metadata_request::MetadataRequestTopic::default();
        wanted.name = Some(topic("ids"));
        let mut request = MetadataRequest::default();
        request.topics = Some(vec![wanted]);
        let mut kafka = Kafka::connect(cluster.address(node));
        let told = eventually(|| {
            let told = kafka.ask(10, &request).topics.remove(0);
            (told.error_code == 0).then_some(told.topic_id)
        });
        assert_eq!(told, id);
    }
    let mut kafka = Kafka::connect(&leader);
    assert_eq!(kafka.produce_patiently("ids", 0, &batch(&["by name".to_owned()], None)), 0);
    let mut request = produce_request("", 0, -1, batch(&["by id".to_owned()], None));
    request.topic_data[0].topic_id = id;
    let produced = kafka.ask(13, &request).responses.remove(0);
    let done = &produced.partition_responses[0];
    assert_eq!((produced.topic_id, done.error_code, done.base_offset), (id, 0, 1));
    let mut wanted = fetch_request::FetchPartition::default();
    wanted.partition_max_bytes = 1 << 20;
    let mut of_topic = fetch_request::FetchTopic::default();
    (of_topic.topic_id, of_topic.partitions) = (id, vec![wanted]);
    let mut request = FetchRequest::default();
    (request.max_wait_ms, request.min_bytes, request.max_bytes) = (500, 1, 1 << 20);
    request.topics = vec![of_topic];
    let fetched = kafka.ask(13, &request).responses.remove(0);
    assert_eq!((fetched.topic_id, fetched.partitions[0].error_code), (id, 0));
}
