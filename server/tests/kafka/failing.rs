//! What clients are told while something is broken or gone: in time, and by a code on which they try again.

use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dlog_proto::record::ProducerStamp;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::*;
use rustix::process::Signal;

use crate::client::{Kafka, PATIENCE, produce_request, text, topic};
use crate::support::Cluster;
use crate::{batch, eventually};

fn create(kafka: &mut Kafka, name: &str, timeout_ms: i32) -> i16 {
    let mut create = create_topics_request::CreatableTopic::default();
    (create.name, create.num_partitions, create.replication_factor) = (topic(name), 1, 1);
    let mut request = CreateTopicsRequest::default();
    (request.topics, request.timeout_ms) = (vec![create.clone(), create], timeout_ms);
    request.topics[1].name = topic(&format!("{name}-too"));
    kafka.ask(7, &request).topics[1].error_code
}

fn delete(kafka: &mut Kafka, name: &str, timeout_ms: i32) -> i16 {
    let mut request = DeleteTopicsRequest::default();
    (request.topic_names, request.timeout_ms) = (vec![topic(name)], timeout_ms);
    kafka.ask(5, &request).responses[0].error_code
}

fn described(kafka: &mut Kafka, name: &str, may_create: bool) -> metadata_response::MetadataResponseTopic {
    let mut wanted = metadata_request::MetadataRequestTopic::default();
    wanted.name = Some(topic(name));
    let mut request = MetadataRequest::default();
    (request.topics, request.allow_auto_topic_creation) = (Some(vec![wanted]), may_create);
    kafka.ask(12, &request).topics.remove(0)
}

fn coordinator(kafka: &mut Kafka, group: &str) -> Result<i32, i16> {
    let mut find = FindCoordinatorRequest::default();
    find.coordinator_keys = vec![text(group)];
    let found = kafka.ask(6, &find).coordinators.remove(0);
    if found.error_code == 0 { Ok(found.node_id.0) } else { Err(found.error_code) }
}

fn init() -> InitProducerIdRequest {
    let mut init = InitProducerIdRequest::default();
    init.transactional_id = None;
    init
}

fn in_time<T>(limit: Duration, ask: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let answer = ask();
    assert!(begun.elapsed() < limit, "{:?}", begun.elapsed());
    answer
}

/// Without a majority of the metadata tier nothing changes. Whoever asks hears so when its time is over, and what was asked
/// for is done when the majority is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_the_metadata_tier_waits_for_it_no_longer_than_the_client_does() {
    let cluster = Cluster::start(3).await;
    let mut kafka = Kafka::connect(cluster.address(1));
    kafka.create("before", 1, 1);
    (2..=3).for_each(|node| cluster.signal(node, Signal::STOP));
    let ask = |ask: fn(&mut Kafka) -> i16| {
        let mut kafka = Kafka::connect(cluster.address(1));
        thread::spawn(move || in_time(PATIENCE / 2, || ask(&mut kafka)))
    };
    let asked = [
        // Java's idempotent producers would look for a coordinator of transactions, were they told that one lacks.
        (ask(|kafka| kafka.ask(4, &init()).error_code), ResponseError::CoordinatorLoadInProgress),
        (ask(|kafka| coordinator(kafka, "g").unwrap_err()), ResponseError::CoordinatorNotAvailable),
        (ask(|kafka| described(kafka, "wanted", true).error_code), ResponseError::UnknownTopicOrPartition),
    ];
    for (answer, error) in asked {
        assert_eq!(ResponseError::try_from_code(answer.join().unwrap()), Some(error));
    }
    let late = Some(ResponseError::RequestTimedOut);
    for timeout_ms in [0, 300] {
        let told = in_time(Duration::from_secs(5), || create(&mut kafka, &format!("late-{timeout_ms}"), timeout_ms));
        assert_eq!(ResponseError::try_from_code(told), late);
    }
    let told = in_time(Duration::from_secs(5), || delete(&mut kafka, "before", 300));
    assert_eq!(ResponseError::try_from_code(told), late);
    (2..=3).for_each(|node| cluster.signal(node, Signal::CONT));
    for name in ["late-0", "late-0-too", "late-300", "late-300-too"] {
        eventually(|| (described(&mut kafka, name, false).error_code == 0).then_some(()));
    }
    let gone = ResponseError::UnknownTopicOrPartition.code();
    eventually(|| (described(&mut kafka, "before", false).error_code == gone).then_some(()));
}

fn fetch(kafka: &mut Kafka, name: &str, offset: i64, wait_ms: i32) -> fetch_response::PartitionData {
    let mut wanted = fetch_request::FetchPartition::default();
    (wanted.fetch_offset, wanted.partition_max_bytes) = (offset, 1 << 20);
    let mut of_topic = fetch_request::FetchTopic::default();
    (of_topic.topic, of_topic.partitions) = (topic(name), vec![wanted]);
    let mut request = FetchRequest::default();
    (request.max_wait_ms, request.min_bytes, request.max_bytes) = (wait_ms, 1, 1 << 20);
    request.topics = vec![of_topic];
    // Before replicas served consumers.
    kafka.ask(10, &request).responses.remove(0).partitions.remove(0)
}

fn join(kafka: &mut Kafka, group: &str, member: &str) -> JoinGroupResponse {
    let mut protocol = join_group_request::JoinGroupRequestProtocol::default();
    protocol.name = text("range");
    let mut request = JoinGroupRequest::default();
    (request.group_id, request.member_id) = (GroupId(text(group)), text(member));
    (request.session_timeout_ms, request.rebalance_timeout_ms) = (30_000, 30_000);
    (request.protocol_type, request.protocols) = (text("consumer"), vec![protocol]);
    kafka.ask(3, &request)
}

fn sync(kafka: &mut Kafka, group: &str, joined: &JoinGroupResponse) -> i16 {
    let mut assignment = sync_group_request::SyncGroupRequestAssignment::default();
    (assignment.member_id, assignment.assignment) = (joined.member_id.clone(), Bytes::from_static(b"all"));
    let mut request = SyncGroupRequest::default();
    (request.group_id, request.generation_id) = (GroupId(text(group)), joined.generation_id);
    (request.member_id, request.assignments) = (joined.member_id.clone(), vec![assignment]);
    kafka.ask(3, &request).error_code
}

/// Who waits at a node that is told to stop is answered before the connection closes, and goes on at another node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_sends_everybody_elsewhere() {
    let mut cluster = Cluster::start(3).await;
    let mut kafka = Kafka::connect(cluster.address(1));
    kafka.create("moves", 1, 3);
    let leader = kafka.leaders("moves").remove(&0).unwrap();
    let leads = (1..=3).find(|node| cluster.address(*node) == leader).unwrap();
    let group = eventually(|| {
        let mut groups = (0..50).map(|i| format!("g{i}"));
        groups.find(|group| coordinator(&mut kafka, group) == Ok(leads as i32))
    });
    let mut at_leader = Kafka::connect(&leader);
    assert_eq!(at_leader.produce_patiently("moves", 0, &batch(&["first".to_owned()], None)), 0);
    let joined = eventually(|| Some(join(&mut at_leader, &group, "")).filter(|joined| joined.error_code == 0));
    assert_eq!(sync(&mut at_leader, &group, &joined), 0);
    let epoch = described(&mut kafka, "moves", false).partitions[0].leader_epoch;

    let (mut waits, mut joins) = (Kafka::connect(&leader), Kafka::connect(&leader));
    let fetching = thread::spawn(move || fetch(&mut waits, "moves", 1, 60_000).error_code);
    let other = group.clone();
    let joining = thread::spawn(move || join(&mut joins, &other, "").error_code);
    thread::sleep(Duration::from_millis(300));
    assert!(!fetching.is_finished() && !joining.is_finished(), "the other member has not joined again");
    cluster.signal(leads, Signal::TERM);
    let told = [fetching.join(), joining.join()].map(|told| ResponseError::try_from_code(told.expect("an answer")));
    assert_eq!(told, [ResponseError::NotLeaderOrFollower, ResponseError::NotCoordinator].map(Some));
    assert!(cluster.wait(leads));

    let mut kafka = Kafka::connect(cluster.address(leads % 3 + 1));
    let now = eventually(|| {
        let now = described(&mut kafka, "moves", false).partitions.remove(0);
        // Clients take a step back for a partition that begins anew.
        assert!(now.leader_epoch >= epoch, "{} after {epoch}", now.leader_epoch);
        (now.leader_id.0 != -1).then_some(now)
    });
    assert!(now.leader_epoch > epoch && now.leader_id.0 != leads as i32);
    let at = eventually(|| coordinator(&mut kafka, &group).ok().filter(|node| *node != leads as i32));
    let mut kafka = Kafka::connect(cluster.address(at as usize));
    let mut beat = HeartbeatRequest::default();
    (beat.group_id, beat.generation_id) = (GroupId(text(&group)), joined.generation_id);
    beat.member_id = joined.member_id;
    let loading = [ResponseError::CoordinatorLoadInProgress, ResponseError::NotCoordinator].map(|error| error.code());
    let told = eventually(|| Some(kafka.ask(3, &beat).error_code).filter(|code| !loading.contains(code)));
    assert_eq!(told, 0, "the group is as it was stored: stable");
}

/// A topic that goes while it is used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_uses_a_topic_that_is_deleted_hears_that_it_is_gone() {
    let cluster = Cluster::start(1).await;
    let mut kafka = Kafka::with_topic(cluster.address(1), "gone", 1);
    let id = described(&mut kafka, "gone", false).topic_id;
    assert_eq!(kafka.produce_patiently("gone", 0, &batch(&["first".to_owned()], None)), 0);
    let mut waits = Kafka::connect(cluster.address(1));
    let fetching = thread::spawn(move || in_time(PATIENCE / 2, || fetch(&mut waits, "gone", 1, 60_000).error_code));
    thread::sleep(Duration::from_millis(200));
    assert_eq!(delete(&mut kafka, "gone", 10_000), 0);
    let told = ResponseError::try_from_code(fetching.join().unwrap()).unwrap();
    assert!(told.is_retriable(), "it looks where the topic is: {told}");
    let next = || batch(&["next".to_owned()], None);
    assert_eq!(kafka.produce("gone", 0, next()), Err(ResponseError::UnknownTopicOrPartition));
    let mut by_id = |id| {
        let mut request = produce_request("", 0, -1, next());
        request.topic_data[0].topic_id = id;
        kafka.ask(13, &request).responses[0].partition_responses[0].error_code
    };
    assert_eq!(by_id(id), ResponseError::UnknownTopicId.code());
    assert_eq!(by_id(Default::default()), ResponseError::UnknownTopicId.code());
}

/// A producer whose leader goes away and comes back meets no sequencer that has forgotten it, or remembers too much.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idempotent_producer_follows_a_leader_that_goes_and_comes_back() {
    const NAME: &str = "shuffled";
    let mut cluster = Cluster::start(3).await;
    Kafka::connect(cluster.address(1)).create(NAME, 1, 3);
    let stamped = |sequence: i64| {
        let producer = ProducerStamp { id: 4711, epoch: 0, base_sequence: sequence as i32 };
        batch(&[format!("0-{sequence}")], Some(producer))
    };
    let (mut leaders, mut sent): (Vec<usize>, i64) = (Vec::new(), 0);
    let came_back =
        |leaders: &[usize]| leaders.iter().enumerate().any(|(i, at)| i >= 2 && leaders[..i - 1].contains(at));
    while !came_back(&leaders) {
        assert!(leaders.len() < 8, "{leaders:?}");
        let ask = leaders.last().map_or(1, |last| last % 3 + 1);
        let leader = Kafka::connect(cluster.address(ask)).leaders(NAME).remove(&0).unwrap();
        let mut kafka = Kafka::connect(&leader);
        if sent > 0 {
            assert_eq!(kafka.produce_patiently(NAME, 0, &stamped(sent - 1)), sent - 1, "its answer was lost");
        }
        for _ in 0..3 {
            assert_eq!(kafka.produce_patiently(NAME, 0, &stamped(sent)), sent);
            sent += 1;
        }
        assert_eq!(kafka.produce(NAME, 0, stamped(sent + 5)), Err(ResponseError::OutOfOrderSequenceNumber));
        let leader = kafka.leaders(NAME).remove(&0).unwrap();
        let leads = (1..=3).find(|node| cluster.address(*node) == leader).unwrap();
        leaders.push(leads);
        cluster.signal(leads, Signal::TERM);
        assert!(cluster.wait(leads));
        cluster.start_node(leads);
        cluster.serves().await;
    }
    let mut kafka = Kafka::connect(cluster.address(1));
    kafka.follow(NAME, 0);
    let read = kafka.read(NAME, 0, 0, sent as usize, 1 << 20);
    assert_eq!(read, crate::values(0, 0, sent), "everything once, in order");
}
