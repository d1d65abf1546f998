"""confluent-kafka (librdkafka) against a server: `confluent.py host:port [check]`."""

import sys
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TIMESTAMP_LOG_APPEND_TIME, TopicPartition, libversion
from confluent_kafka import ConsumerGroupTopicPartitions, IsolationLevel
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from checks import check, eventually, run, unique

SERVER = sys.argv[1]


def producer(**options):
    return Producer({"bootstrap.servers": SERVER, **{k.replace("_", "."): v for k, v in options.items()}})


def consumer(group, **options):
    settings = {"bootstrap.servers": SERVER, "group.id": group, "auto.offset.reset": "earliest"}
    return Consumer({**settings, **{k.replace("_", "."): v for k, v in options.items()}})


ADMIN = AdminClient({"bootstrap.servers": SERVER})


def admin():
    return ADMIN


def make_topic(partitions=1, **configs):
    name = unique("ck")
    config = {key.replace("_", "."): value for key, value in configs.items()}
    admin().create_topics([NewTopic(name, partitions, config=config)])[name].result(20)
    return name


def take(reader, count, seconds=30):
    records, deadline = [], time.monotonic() + seconds
    while len(records) < count and time.monotonic() < deadline:
        record = reader.poll(0.5)
        if record is None:
            continue
        if record.error():
            raise KafkaException(record.error())
        records.append(record)
    assert len(records) == count, f"{len(records)} of {count} records"
    return records


def send(sender, topic, values, **options):
    errors = []
    for value in values:
        sender.produce(topic, value, on_delivery=lambda error, _: errors.append(error), **options)
        sender.poll(0)
    assert sender.flush(30) == 0, "not all is acknowledged"
    wrong = [error for error in errors if error]
    assert len(errors) == len(values) and not wrong, wrong[:1]


@check
def produce_and_consume_with_all_codecs():
    for codec in ["none", "gzip", "snappy", "lz4", "zstd"]:
        topic = make_topic()
        send(producer(compression_type=codec), topic, [b"%d" % i for i in range(500)])
        reader = consumer(unique("g"))
        reader.subscribe([topic])
        records = take(reader, 500)
        assert [r.offset() for r in records] == list(range(500))
        assert [r.value() for r in records] == [b"%d" % i for i in range(500)]
        assert records[0].leader_epoch() is not None
        reader.close()


@check
def idempotent_producer():
    topic = make_topic(3)
    send(producer(enable_idempotence=True), topic, [b"%d" % i for i in range(3000)])
    reader = consumer(unique("g"))
    reader.subscribe([topic])
    values = sorted(int(r.value()) for r in take(reader, 3000))
    assert values == list(range(3000)), "each once"
    reader.close()


@check
def partition_eof_and_watermarks():
    topic = make_topic()
    send(producer(), topic, [b"x"] * 10)
    reader = consumer(unique("g"), enable_partition_eof=True)
    assert reader.get_watermark_offsets(TopicPartition(topic, 0), 10) == (0, 10)
    reader.assign([TopicPartition(topic, 0, 7)])
    assert [r.offset() for r in take(reader, 3)] == [7, 8, 9]
    record = eventually("end of partition", lambda: reader.poll(1))
    assert record.error() and record.error().code() == KafkaError._PARTITION_EOF
    reader.close()


@check
def read_committed_reads_all():
    topic = make_topic()
    send(producer(), topic, [b"x"] * 10)
    reader = consumer(unique("g"), isolation_level="read_committed")
    reader.subscribe([topic])
    take(reader, 10)
    reader.close()


@check
def out_of_range_goes_to_the_beginning():
    topic = make_topic()
    send(producer(), topic, [b"x"] * 10)
    reader = consumer(unique("g"))
    reader.assign([TopicPartition(topic, 0, 5000)])
    assert take(reader, 1)[0].offset() == 0
    reader.close()


@check
def offsets_for_times():
    topic = make_topic()
    sender = producer()
    for i in range(100):
        sender.produce(topic, b"x", timestamp=1_600_000_000_000 + 1000 * i)
    sender.flush(20)
    reader = consumer(unique("g"))
    ask = lambda at: reader.offsets_for_times([TopicPartition(topic, 0, at)], 10)[0].offset
    assert ask(1_600_000_010_500) == 11
    assert ask(0) == 0
    assert ask(1_700_000_000_000) == -1
    reader.close()


@check
def log_append_time():
    topic = make_topic(message_timestamp_type="LogAppendTime")
    before, told = int(time.time() * 1000), []
    sender = producer(compression_type="lz4")
    sender.produce(topic, b"x", timestamp=1000, on_delivery=lambda _, record: told.append(record.timestamp()))
    sender.flush(20)
    reader = consumer(unique("g"))
    reader.subscribe([topic])
    kind, at = take(reader, 1)[0].timestamp()
    assert kind == TIMESTAMP_LOG_APPEND_TIME and before <= at <= time.time() * 1000, (kind, at)
    assert told == [(TIMESTAMP_LOG_APPEND_TIME, at)], told
    ask = lambda at: reader.offsets_for_times([TopicPartition(topic, 0, at)], 10)[0].offset
    assert (ask(at), ask(at + 1)) == (0, -1)
    reader.close()


@check
def group_rebalances_eager_and_cooperative():
    for strategy in ["range", "cooperative-sticky"]:
        topic, group = make_topic(4), unique("g")
        readers = [consumer(group, partition_assignment_strategy=strategy) for _ in range(2)]
        [reader.subscribe([topic]) for reader in readers]

        def balanced():
            [reader.poll(0.1) for reader in readers]
            return [len(reader.assignment()) for reader in readers] == [2, 2]

        eventually(f"{strategy}: each has two partitions", balanced, 60)
        readers[1].close()
        eventually("one has all", lambda: readers[0].poll(0.1) is None and len(readers[0].assignment()) == 4, 60)
        readers[0].close()


@check
def commit_with_metadata():
    topic, group = make_topic(), unique("g")
    send(producer(), topic, [b"x"] * 10)
    reader = consumer(group, enable_auto_commit=False)
    reader.subscribe([topic])
    take(reader, 10)
    reader.commit(offsets=[TopicPartition(topic, 0, 5, "mine")], asynchronous=False)
    committed = reader.committed([TopicPartition(topic, 0)], 10)[0]
    assert (committed.offset, committed.metadata) == (5, "mine"), committed
    reader.close()
    again = consumer(group)
    again.subscribe([topic])
    assert take(again, 1)[0].offset() == 5
    again.close()


@check
def admin_topics_and_configs():
    topic = make_topic(2, retention_ms="1000000")
    a = admin()
    resource = ConfigResource(ResourceType.TOPIC, topic)
    configs = a.describe_configs([resource])[resource].result(10)
    assert configs["retention.ms"].value == "1000000" and configs["cleanup.policy"].value == "delete"
    entry = ConfigEntry("retention.ms", "2000000", incremental_operation=AlterConfigOpType.SET)
    changed = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    a.incremental_alter_configs([changed])[changed].result(10)
    assert a.describe_configs([resource])[resource].result(10)["retention.ms"].value == "2000000"
    a.create_partitions([NewPartitions(topic, 4)])[topic].result(10)
    eventually("4 partitions", lambda: len(a.list_topics(topic, 10).topics[topic].partitions) == 4)
    cluster = a.describe_cluster().result(10)
    assert cluster.cluster_id and cluster.nodes
    broker = ConfigResource(ResourceType.BROKER, str(cluster.nodes[0].id))
    assert a.describe_configs([broker])[broker].result(10)["num.partitions"].value
    a.delete_topics([topic])[topic].result(10)
    eventually("it is gone", lambda: topic not in a.list_topics(timeout=10).topics)


@check
def compaction_is_refused_by_name():
    try:
        make_topic(cleanup_policy="compact")
        raise AssertionError("it was made")
    except KafkaException as error:
        assert error.args[0].code() == KafkaError.INVALID_CONFIG and "compact" in error.args[0].str(), error


@check
def admin_groups():
    topic, group = make_topic(), unique("g")
    send(producer(), topic, [b"x"] * 10)
    reader = consumer(group, enable_auto_commit=False)
    reader.subscribe([topic])
    take(reader, 10)
    reader.commit(asynchronous=False)
    a = admin()
    listed = a.list_consumer_groups().result(10)
    assert group in [g.group_id for g in listed.valid], listed.errors
    described = a.describe_consumer_groups([group])[group].result(10)
    assert described.state.name == "STABLE" and len(described.members) == 1
    assert described.members[0].assignment.topic_partitions[0].topic == topic
    offsets = a.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(10)
    assert offsets.topic_partitions[0].offset == 10
    reader.close()
    moved = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, 0, 3)])
    eventually("empty", lambda: a.describe_consumer_groups([group])[group].result(10).state.name == "EMPTY")
    a.alter_consumer_group_offsets([moved])[group].result(10)
    offsets = a.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group].result(10)
    assert offsets.topic_partitions[0].offset == 3
    a.delete_consumer_groups([group])[group].result(10)
    eventually("gone", lambda: group not in [g.group_id for g in a.list_consumer_groups().result(10).valid])


@check
def delete_records_and_list_offsets():
    topic = make_topic()
    send(producer(), topic, [b"%d" % i for i in range(10)])
    a, tp = admin(), TopicPartition(topic, 0)
    deleted = a.delete_records([TopicPartition(topic, 0, 4)])
    assert list(deleted.values())[0].result(10).low_watermark == 4
    ask = lambda spec: list(a.list_offsets({tp: spec}, isolation_level=IsolationLevel.READ_COMMITTED).values())[0].result(10).offset
    assert ask(OffsetSpec.earliest()) == 4
    assert ask(OffsetSpec.latest()) == 10
    assert ask(OffsetSpec.max_timestamp()) in range(4, 10)
    reader = consumer(unique("g"))
    reader.assign([TopicPartition(topic, 0, 0)])
    assert take(reader, 1)[0].offset() == 4
    reader.close()


@check
def transactions_are_refused_at_once():
    started = time.monotonic()
    try:
        producer(transactional_id=unique("t")).init_transactions(20)
        raise AssertionError("they were accepted")
    except KafkaException as error:
        assert error.args[0].code() == KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED, error
    assert time.monotonic() - started < 15


@check
def many_partitions_keep_up():
    topic = make_topic(50)
    sender = producer(linger_ms=5)
    send(sender, topic, [b"x" * 100] * 20000)
    reader = consumer(unique("g"))
    reader.subscribe([topic])
    take(reader, 20000, 60)
    reader.close()


run("librdkafka", libversion()[0], sys.argv[2] if len(sys.argv) > 2 else None)
